//! Reaping: which children are waited for, and a sweep for the others.
//!
//! As a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) or as PID 1, the daemon inherits the orphans of its children. A
//! blind waitpid(-1) would steal the statuses that a supervisor waits for, so known children are left alone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::process;
use crate::sys::lock::{Guard, Lock};

static KNOWN: Lock<Option<HashSet<Pid>>> = Lock::new(None);

fn known() -> Guard<'static, Option<HashSet<Pid>>> {
    KNOWN.lock()
}

/// A sweep came while a process was being started.
static PUT_OFF: AtomicBool = AtomicBool::new(false);

/// Starts a process and notes it, as one step for [`sweep`].
pub(crate) fn knowing<T, E>(start: impl FnOnce() -> Result<(Pid, T), E>) -> Result<(Pid, T), E> {
    let started = {
        let mut known = known();
        let started = start();
        if let Ok((pid, _)) = &started {
            known.get_or_insert_default().insert(*pid);
        }
        started
    };
    if PUT_OFF.swap(false, SeqCst) {
        sweep();
    }
    started
}

/// Notes a child that is waited for.
pub(crate) fn know(pid: Pid) {
    known().get_or_insert_default().insert(pid);
}

/// The child was waited for.
pub(crate) fn forget(pid: Pid) {
    known().get_or_insert_default().remove(&pid);
}

/// Reaps ended children that are not waited for. Gives the adopted ones that still live.
///
/// While a process is being started, which takes its time where memory is short, the sweep is put off and no task waits.
pub(crate) fn sweep() -> Vec<Pid> {
    let Some(mut known) = KNOWN.try_lock() else {
        PUT_OFF.store(true, SeqCst);
        return Vec::new();
    };
    let known = known.get_or_insert_default();
    let strangers = process::children().into_iter().filter(|pid| !known.contains(pid));
    strangers.filter(|pid| matches!(waitpid(*pid, Some(WaitPidFlag::WNOHANG)), Ok(s) if s.pid().is_none())).collect()
}
