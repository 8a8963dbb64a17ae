//! Between clients and servers: servers and their children, sessions, routing.
//!
//! The hub knows children and messages. It must not know HTTP or WebSocket: a client is an outbox to it.
//!
//! Its floors, from the ground up: what all share ([`context`], [`load`], [`leaving`], [`counters`]), a client's side
//! ([`client`]), a child ([`child`]), one named server ([`server`]), the kinds of server ([`shared`], [`private`],
//! [`http`], [`exec`], [`bridge`]), the way of a message ([`route`]), and the assembly ([`hub`] and the files beside it).

mod audit;
mod bridge;
mod child;
mod client;
mod command;
mod context;
mod counters;
mod deleted;
mod error;
mod exec;
mod http;
#[expect(clippy::module_inception, reason = "the assembly itself, above the floors of this folder")]
mod hub;
mod kinds;
mod leaving;
mod load;
mod memory;
mod on_event;
mod private;
mod reload;
mod renew;
pub(crate) mod route;
mod server;
mod sessions;
mod shared;
mod starts;
mod stop;
mod upgrade;

#[cfg(test)]
mod tests;

pub(crate) use audit::Audit;
pub(crate) use client::endpoint::{Client, Endpoint, Headers, Later};
pub use client::outbox::Outbox;
pub use client::replay::ResumableStreams;
pub(crate) use client::replay::Stream;
pub(crate) use client::restored::Restored;
pub(crate) use client::saved::Saver;
pub(crate) use client::session::{Session, StreamGuard};
pub(crate) use context::Boot;
pub(crate) use counters::Dropped;
pub(crate) use hub::Hub;
pub(crate) use memory::Kept;
pub(crate) use on_event::run as run_event_commands;
pub(crate) use reload::{prepare, restart};
pub(crate) use server::admit::SHUTTING_DOWN;
pub(crate) use server::server::Server;
