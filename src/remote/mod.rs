//! A client of Streamable HTTP: how this program reaches MCP servers elsewhere.
//!
//! Its floors, from the ground up: a connection ([`stream`], [`tls`], [`dial`]), requests over connections that are kept
//! ([`client`]), and a session of the protocol over requests ([`session`]). It stands on the runtime and knows neither the hub
//! nor who its messages are from.

pub(crate) mod client;
mod dial;
pub(crate) mod inbox;
pub(crate) mod session;
mod stream;
#[cfg(feature = "remote")]
mod tls;
#[cfg(not(feature = "remote"))]
#[path = "no_tls.rs"]
mod tls;
