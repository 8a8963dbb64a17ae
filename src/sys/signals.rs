//! Signal masks and dispositions.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask, sigprocmask};

/// All dispositions to their defaults, nothing blocked: nohup(1), cron and test runners leave signals ignored or
/// blocked, and both survive exec(2). SIGPIPE stays as Rust has it (ignored), unless `pipe`.
///
/// Async-signal-safe: sigaction(2) and sigprocmask(2) only.
pub(crate) fn reset(pipe: bool) -> io::Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGPIPE && !pipe {
            continue;
        }
        // The kernel's own sigaction, because libc refuses to touch the signals that it keeps for itself (32, 33).
        // SAFETY: an all-zero struct is SIG_DFL without flags, and 32 bytes hold it (handler, flags, restorer, mask);
        // SIGKILL and SIGSTOP are refused with EINVAL, which is right.
        unsafe {
            let default = [0u64; 4];
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8);
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Lets the signals that the daemon follows wait, or no longer, for this thread and those that it starts from now on. With
/// one thread alone that takes them, they can be made to wait while the program is exchanged: exec(2) keeps the mask and
/// what waits, and drops the handlers.
pub(crate) fn hold(wait: bool) {
    let ours = [
        Signal::SIGHUP,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
    ];
    let set = SigSet::from_iter(ours);
    let how = if wait { SigmaskHow::SIG_BLOCK } else { SigmaskHow::SIG_UNBLOCK };
    let _ = pthread_sigmask(how, Some(&set), None);
    if wait {
        // It has no handler, and stays blocked: it is read from a descriptor.
        let _ = block_restarts();
    }
}

/// The signal that asks for another child of a server; it carries the server's serial.
pub(crate) fn restart_signal() -> i32 {
    libc::SIGRTMIN()
}

/// Blocks that signal in this thread and those that it starts from now on, also over exec(2): what comes meanwhile waits,
/// each with its number.
fn block_restarts() -> io::Result<libc::sigset_t> {
    // SAFETY: the set is made by sigemptyset(3) before it is used, and all pointers are to it.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, restart_signal());
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Where that signal is read, which every thread must have blocked ([`hold`]).
pub(crate) fn restarts() -> io::Result<OwnedFd> {
    let set = block_restarts()?;
    // SAFETY: the set is a whole one; the descriptor is ours alone.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The number that the next of these signals carries; an error of the kind `WouldBlock` if none has come.
pub(crate) fn next_restart(mut from: &File) -> io::Result<u32> {
    const VALUE: usize = std::mem::offset_of!(libc::signalfd_siginfo, ssi_int);
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    from.read_exact(&mut info)?;
    let mut value = [0; 4];
    value.copy_from_slice(&info[VALUE..VALUE + 4]);
    Ok(u32::from_ne_bytes(value))
}

/// Ignores a signal.
pub(crate) fn ignore(signal: nix::sys::signal::Signal) {
    // SAFETY: SIG_IGN runs no handler.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
}
