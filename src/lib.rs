//! mcpdaemon: runs MCP servers as shared, supervised services.
//!
//! Layers, each using only what stands below it: [`daemon`] and [`ctl`] (the two programs), [`net`] (listeners and
//! protocols on sockets), [`hub`] (servers, children, sessions), [`sys`] (POSIX), [`model`] (pure data and decisions).
#![deny(unsafe_code)]

pub mod hub;
pub mod model;
pub mod net;
#[allow(unsafe_code)]
pub mod sys;
