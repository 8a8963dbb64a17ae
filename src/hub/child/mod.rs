//! A child: a running process of a server, the line to it, and the care for it.
//!
//! Knows open requests and subscriptions, which it answers. It must not know servers, nor lists of sessions.

pub(super) mod byte_queue;
#[expect(clippy::module_inception, reason = "the child itself, beside what is said to it")]
pub(super) mod child;
pub(super) mod end;
pub(super) mod far;
pub(super) mod health;
pub(super) mod kept_lists;
mod lists;
pub(super) mod modern;
pub(super) mod pending;
pub(super) mod reader;
pub(super) mod requests;
pub(super) mod slot;
pub(super) mod start;
pub(super) mod stderr;
pub(super) mod supervisor;
pub(super) mod upgrade;
pub(super) mod wire;
pub(super) mod writer;

#[cfg(test)]
mod tests;
