//! Tools of the runtime: waiting, work that blocks, the main thread, lines of a pipe, the end of a process.
//!
//! Stands between POSIX ([`crate::sys`]) and what the daemon is about. It must not know messages, servers or sessions.

pub mod blocking;
pub mod lines;
pub mod live;
pub mod main_thread;
pub mod pipe;
pub mod process;
pub mod random;
pub mod wait;
