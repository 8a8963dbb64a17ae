//! A client of Streamable HTTP: how this program reaches MCP servers elsewhere.
//!
//! Its floors, from the ground up: a connection ([`stream`], [`tls`], [`dial`]), requests over connections that are kept
//! ([`client`]), what is known of a session ([`state`]), what the server says ([`hear`]), its beginning and its stream
//! ([`listen`]), requests ([`exchange`]), messages in their order ([`down`]), and the assembly ([`session`]). It stands on the
//! runtime and knows neither the hub nor who its messages are from.

pub(crate) mod client;
mod dial;
mod down;
mod exchange;
mod hear;
pub(crate) mod inbox;
mod listen;
pub(crate) mod session;
pub(crate) mod state;
mod stream;
#[cfg(feature = "remote")]
mod tls;
#[cfg(not(feature = "remote"))]
#[path = "no_tls.rs"]
mod tls;
