//! Signal masks and dispositions.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// All dispositions to their defaults, nothing blocked: nohup(1), cron and test runners leave signals ignored or
/// blocked, and both survive exec(2). SIGPIPE stays as Rust has it (ignored), unless `pipe`.
///
/// Async-signal-safe: sigaction(2) and sigprocmask(2) only.
pub fn reset(pipe: bool) -> io::Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGPIPE && !pipe {
            continue;
        }
        // SAFETY: an all-zero sigaction is SIG_DFL with no flags; SIGKILL, SIGSTOP and the two signals that libc keeps
        // for itself are refused with EINVAL, which is right.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Ignores a signal.
pub fn ignore(signal: nix::sys::signal::Signal) {
    // SAFETY: SIG_IGN runs no handler.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
}
