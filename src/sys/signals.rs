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

/// Ignores a signal.
pub fn ignore(signal: nix::sys::signal::Signal) {
    // SAFETY: SIG_IGN runs no handler.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
}
