//! Runs allowed commands (`Exec`): a kind of server.
//!
//! It must not know the other kinds, nor what a child is.

pub(super) mod allowed;
pub(super) mod backend;
pub(super) mod command;
pub(super) mod direct;
pub(super) mod executor;
pub(super) mod output;
pub(super) mod owner;
pub(super) mod upgrade;
