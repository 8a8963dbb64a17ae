//! Clients: listening, HTTP, WebSocket, and the pages about the instance.
//!
//! Knows sessions and outboxes of the hub. It must not know children.

mod admin;
mod answer;
mod auth;
mod body;
mod conn;
mod connection;
pub mod frames;
mod front;
mod http;
mod late;
pub mod listener;
pub mod metrics;
#[expect(clippy::module_inception, reason = "what faces clients as a whole, above the parts in this folder")]
mod net;
pub mod origin;
pub mod page;
mod pages;
mod parked;
pub mod request;
mod respond;
mod serve;
mod sse;
mod streamable;
mod upgrade;
mod ws;

pub use net::Net;
pub use pages::Admin;
pub use upgrade::socket;
