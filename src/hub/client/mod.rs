//! The client's side: sessions, their open requests and subscriptions, and what waits to be sent.
//!
//! Knows clients. It must not know what stands behind them: no server, no child. That is an [`endpoint::Endpoint`].

pub(super) mod audited;
pub(super) mod batch;
pub(super) mod call;
pub(super) mod endpoint;
pub(super) mod names;
pub(super) mod outbox;
pub(super) mod replay;
pub(super) mod restored;
pub(super) mod saved;
pub(super) mod session;
pub(super) mod subscription;
pub(super) mod watchers;

#[cfg(test)]
mod tests;
