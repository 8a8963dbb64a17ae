//! Processes by descriptor (pidfd_open(2)): no signal ever reaches a process that merely has a reused number.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::model::restart::Ended;

/// A handle to a running or ended process; readable once it has ended.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this number now. ESRCH if there is none.
    pub(crate) fn open(pid: Pid) -> io::Result<PidFd> {
        // SAFETY: plain integer arguments; the result is a new descriptor (always close-on-exec) or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, no other value owns it.
        Ok(PidFd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Sends a signal to this very process.
    pub(crate) fn send(&self, signal: Signal) -> io::Result<()> {
        let (fd, signal) = (self.0.as_raw_fd(), signal as i32);
        // SAFETY: the descriptor is open, a null siginfo means "as kill(2)".
        let done =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Queues a real-time signal with a number for this very process (sigqueue(3)).
    pub(crate) fn queue(&self, signal: i32, value: u32) -> io::Result<()> {
        // As the kernel lays it out (siginfo_t of a queued signal): signo, errno, code, padding, pid, uid, value.
        #[repr(C)]
        struct Queued {
            head: [i32; 4],
            pid: i32,
            uid: u32,
            value: u64,
            rest: [u8; 96],
        }
        let uid = nix::unistd::getuid().as_raw();
        let pid = std::process::id() as i32;
        let info = Queued { head: [signal, 0, libc::SI_QUEUE, 0], pid, uid, value: value.into(), rest: [0; 96] };
        let fd = self.0.as_raw_fd();
        // SAFETY: the descriptor is open; the struct has the 128 bytes that the kernel reads, and is only read.
        let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, &raw const info, 0) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the end, also of a process that is not our child. False when the time is over first.
    pub(crate) fn wait_end(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match ppoll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], Some(left.into()), None) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The exit status of our own ended child, which stays a zombie and keeps its number; None while it runs.
    pub(crate) fn peek(&self) -> io::Result<Option<Ended>> {
        self.status(WaitPidFlag::WNOWAIT)
    }

    /// Takes the exit status of our own ended child; None while it runs.
    pub(crate) fn reap(&self) -> io::Result<Option<Ended>> {
        self.status(WaitPidFlag::empty())
    }

    fn status(&self, more: WaitPidFlag) -> io::Result<Option<Ended>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | more;
        match waitid(Id::PIDFd(self.0.as_fd()), flags)? {
            WaitStatus::Exited(_, code) => Ok(Some(Ended::Exited(code))),
            WaitStatus::Signaled(_, signal, _) => Ok(Some(Ended::Signaled(signal as i32))),
            _ => Ok(None),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
