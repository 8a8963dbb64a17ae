//! The runtime: tasks and what wakes them; and its tools: waiting, work that blocks, the main thread, lines of a pipe, the end of a process.
//!
//! Stands between POSIX ([`crate::sys`]) and what the daemon is about. It must not know messages, servers or sessions.

pub(crate) mod async_fd;
pub(crate) mod blocking;
pub(crate) mod executor;
pub mod lines;
pub(crate) mod live;
pub(crate) mod main_thread;
pub(crate) mod pipe;
pub(crate) mod process;
pub(crate) mod random;
mod reactor;
pub(crate) mod seldom;
pub(crate) mod task;
pub(crate) mod timer;
pub(crate) mod wait;
