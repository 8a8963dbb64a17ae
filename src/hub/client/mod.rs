//! The client's side: sessions, their open requests and subscriptions, and what waits to be sent.
//!
//! Knows clients. It must not know what stands behind them: no server, no child. That is an [`endpoint::Endpoint`].

pub mod batch;
pub mod call;
pub mod endpoint;
pub mod outbox;
pub mod replay;
pub mod restored;
pub mod saved;
pub mod session;
pub mod subscription;

#[cfg(test)]
mod tests;
