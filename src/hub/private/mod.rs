//! A child of its own for each session (`sharing: PerSession`): a kind of server.
//!
//! Everything passes unchanged, in both directions. Here a server's requests to "the client" (sampling, elicitation,
//! roots) have an owner, and so have its log messages. It must not know the other kinds: what it shares with other
//! sessions (the modern era, what the server says of itself) is a backend that it is given.

pub(super) mod backend;
pub(super) mod child;
pub(super) mod observer;
pub(super) mod spares;
