//! Clients: listening, HTTP, WebSocket, and the pages about the instance.
//!
//! Knows sessions and outboxes of the hub. It must not know children.

mod admin;
mod admit;
mod answer;
mod auth;
mod body;
mod conn;
mod connection;
mod door;
pub mod frames;
mod front;
pub mod head;
mod http;
mod late;
pub(crate) mod listener;
pub(crate) mod metrics;
#[expect(clippy::module_inception, reason = "what faces clients as a whole, above the parts in this folder")]
mod net;
pub mod origin;
pub(crate) mod page;
mod pages;
mod parked;
pub mod paths;
pub mod plain;
mod proxied;
pub mod request;
mod respond;
mod serve;
mod sse;
mod streamable;
mod upgrade;
mod wishes;
mod writer;
mod ws;

pub(crate) use net::Net;
pub(crate) use pages::Admin;
pub(crate) use upgrade::socket;
