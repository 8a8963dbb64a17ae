//! Signal masks and dispositions.

use std::io;

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
}

/// Ignores a signal.
pub(crate) fn ignore(signal: nix::sys::signal::Signal) {
    // SAFETY: SIG_IGN runs no handler.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
}
