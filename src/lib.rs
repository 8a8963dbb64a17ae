//! mcpdaemon: runs MCP servers as shared, supervised services.
//!
//! Layers, each using only what stands below it: [`daemon`] and [`ctl`] (the two programs), [`net`] (listeners and
//! protocols on sockets), [`hub`] (servers, children, sessions), [`rt`] (tools of the runtime), [`sys`] (POSIX), [`model`] (pure data and decisions).
#![deny(unsafe_code, unreachable_pub)]
// The documentation is that of the source, private items included.
#![allow(rustdoc::private_intra_doc_links)]
// Nothing that input, a peer, a child or the system does may end the daemon.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
mod connect;
pub mod ctl;
pub mod daemon;
mod exporting;
mod hints;
pub mod hub;
mod importing;
mod instance;
mod logging;
mod many;
pub mod model;
pub mod net;
mod remote;
pub mod rt;
mod source;
#[allow(unsafe_code)]
mod sys;
