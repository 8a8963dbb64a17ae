//! Runs allowed commands (`Exec`): a kind of server.
//!
//! It must not know the other kinds, nor what a child is.

pub mod allowed;
pub mod backend;
pub mod command;
pub mod direct;
pub mod executor;
pub mod output;
pub mod owner;
pub mod upgrade;
