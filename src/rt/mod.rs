//! Tools of the runtime: waiting, work that blocks, the main thread, lines of a pipe, the end of a process.
//!
//! Stands between POSIX ([`crate::sys`]) and what the daemon is about. It must not know messages, servers or sessions.

pub(crate) mod blocking;
pub mod lines;
pub(crate) mod live;
pub(crate) mod main_thread;
pub(crate) mod pipe;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod seldom;
pub(crate) mod task;
pub(crate) mod wait;
