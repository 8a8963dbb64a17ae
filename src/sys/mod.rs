//! POSIX and Linux, synchronous: processes, files, locks, signals, sockets. The only unsafe code of the project.
//!
//! Nothing here knows a configuration, a server or a session; a caller hands in paths, marks and numbers.

pub(crate) mod accounts;
pub(crate) mod become_daemon;
pub(crate) mod clock;
pub(crate) mod fds;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod listen;
pub(crate) mod lock;
pub(crate) mod logfile;
pub(crate) mod memory;
pub(crate) mod notify;
pub(crate) mod passed;
pub(crate) mod paths;
pub(crate) mod pidfd;
pub(crate) mod pidfile;
pub(crate) mod poller;
pub(crate) mod process;
pub(crate) mod reap;
pub(crate) mod reexec;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod watch;
