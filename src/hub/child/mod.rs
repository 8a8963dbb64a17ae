//! A child: a running process of a server, the line to it, and the care for it.
//!
//! Knows open requests and subscriptions, which it answers. It must not know servers, nor lists of sessions.

pub mod byte_queue;
#[expect(clippy::module_inception, reason = "the child itself, beside what is said to it")]
pub mod child;
pub mod end;
pub mod health;
pub mod lists;
pub mod modern;
pub mod pending;
pub mod reader;
pub mod requests;
pub mod slot;
pub mod start;
pub mod stderr;
pub mod supervisor;
pub mod upgrade;
pub mod wire;
pub mod writer;

#[cfg(test)]
mod tests;
