//! POSIX and Linux, synchronous: processes, files, locks, signals, sockets. The only unsafe code of the project.
//!
//! Nothing here knows a configuration, a server or a session; a caller hands in paths, marks and numbers.

pub mod accounts;
pub mod become_daemon;
pub mod fds;
pub mod guard;
pub mod listen;
pub mod lock;
pub mod notify;
pub mod passed;
pub mod paths;
pub mod pidfd;
pub mod pidfile;
pub mod process;
pub mod reap;
pub mod reexec;
pub mod signals;
pub mod spawn;
pub mod watch;
