//! One named server: its configuration in force, its state, who uses it, and which requests wait for it.
//!
//! Knows clients, and children as far as it is told of them. It must not know of what kind the server is: that is a
//! [`backend::Backend`].

pub(super) mod admit;
pub(super) mod backend;
pub(super) mod core;
mod endpoint;
pub(super) mod members;
#[expect(clippy::module_inception, reason = "the server itself, beside what it is made of")]
pub(super) mod server;
pub(super) mod servers;
mod shown;
pub(super) mod tasks;
pub(super) mod waiting;
