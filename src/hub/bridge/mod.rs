//! The bridge: all servers of the instance as one; a kind of server.
//!
//! A session of the bridge has a part at each server that it uses, an ordinary session there that leads to the same
//! client. So what belongs to one request (ids, progress, cancellation, subscriptions, a child of its own) works as it does
//! at the server's own endpoint, and the answer goes straight to the client. Here is only what is peculiar to many: which
//! server has a thing ([`crate::model::bridge`]), and what is gathered from all ([`lists`]).
//!
//! It must not know of what kind the servers are.

pub(super) mod backend;
pub(super) mod endpoint;
pub(super) mod known;
pub(super) mod lists;
pub(super) mod request;
pub(super) mod session;
