//! The guard: a process that ends everything an instance started when the daemon is gone without having done so.
//!
//! It is forked before the runtime starts and sleeps on a pipe whose other end only the daemon holds (close-on-exec,
//! or kept over an upgrade). The kernel closes that end however the daemon dies, `kill -9` included. PDEATHSIG alone
//! does not do: it reaches direct children only.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use super::fds::{self, Inherited};
use super::pidfd::PidFd;
use super::{process, reap, signals};

/// What is left gets SIGKILL this long after SIGTERM: the whole takes less than the three seconds that are promised.
const GRACE: Duration = Duration::from_millis(1000);
const LIMIT: Duration = Duration::from_secs(10);

/// The daemon's side.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: Pid,
    handle: PidFd,
    pipe: OwnedFd,
}

impl Guard {
    /// Forks the guard for processes whose mark begins with `prefix`. Call while the process has one thread.
    pub(crate) fn start(prefix: &str) -> io::Result<Guard> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the process has a single thread here, so the child may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                reap::know(child);
                Ok(Guard { pid: child, handle: PidFd::open(child)?, pipe: write })
            }
            ForkResult::Child => {
                drop(write);
                watch(read, prefix);
                // SAFETY: ends the process without running anything that belongs to the daemon.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// The guard of the program before, which sleeps on the same pipe.
    pub(crate) fn adopt(pid: Pid, pipe: OwnedFd) -> io::Result<Guard> {
        let handle = PidFd::open(pid)?;
        if handle.reap()?.is_some() {
            return Err(io::Error::other("it has ended"));
        }
        reap::know(pid);
        Ok(Guard { pid, handle, pipe })
    }

    /// Its number, and our end of its pipe.
    pub(crate) fn parts(&self) -> (i32, RawFd) {
        (self.pid.as_raw(), self.pipe.as_raw_fd())
    }

    /// A handle that becomes readable when the guard has ended.
    pub(crate) fn handle(&self) -> io::Result<PidFd> {
        PidFd::open(self.pid)
    }

    /// Lets the guard go, after the daemon itself has ended everything, and waits for its end.
    pub(crate) fn release(self) {
        drop(self.pipe);
        let _ = self.handle.wait_end(LIMIT);
        let _ = self.handle.reap();
        reap::forget(self.pid);
    }
}

fn watch(pipe: OwnedFd, prefix: &str) {
    // Not a member of any terminal's foreground group, and deaf to what is meant for the daemon.
    let _ = nix::unistd::setsid();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2] {
        signals::ignore(signal);
    }
    let _ = nix::sys::prctl::set_name(c"mcpguard");
    // Not the lock (it would outlive the daemon), not the caller's pipes, nothing but our own end.
    let _ = fds::inherited(Inherited::Close, &[pipe.as_raw_fd()]);
    let _ = fds::null_standard_streams();
    let _ = nix::unistd::chdir("/");
    let mut pipe = std::fs::File::from(pipe);
    let mut byte = [0];
    loop {
        match pipe.read(&mut byte) {
            Ok(0) => break,
            Err(e) if e.kind() != io::ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    process::end_marked(|mark| mark.starts_with(prefix), GRACE, LIMIT);
}
