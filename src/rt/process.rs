//! A process that was started: its surroundings, and its end, after which nothing of it is left.
//!
//! Knows no message and no server: what the process is for is the caller's affair.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use async_io::Async;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::blocking::blocking;
use crate::model::config::Account;
use crate::model::restart::Ended;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{MARK, end_family};
use crate::sys::reap;

/// What a child's environment may hold of ours without being named (mcpdaemon(8), ENVIRONMENT).
const PASSED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// What outlives its parent gets this long between SIGTERM and SIGKILL.
const STRAY_GRACE: Duration = Duration::from_secs(1);
/// How long the search for what a process has left behind may take.
const STRAY_LIMIT: Duration = Duration::from_secs(5);

/// A child's whole environment: a few names of ours, what the configuration passes and sets, and the mark.
pub(crate) fn environment<'e>(
    pass: &[String],
    set: impl Iterator<Item = (&'e String, &'e String)>,
    account: Option<&Account>,
    mark: &str,
) -> Vec<(OsString, OsString)> {
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::default();
    env.insert("PATH".into(), crate::sys::paths::DEFAULT_PATH.into());
    env.insert("HOME".into(), crate::sys::paths::home().into());
    for name in PASSED.iter().copied().chain(pass.iter().map(String::as_str)) {
        if let Some(value) = std::env::var_os(name) {
            env.insert(name.into(), value);
        }
    }
    if let Some(account) = account {
        env.insert("HOME".into(), account.home.clone().into());
        env.extend(["USER", "LOGNAME"].map(|name| (name.into(), account.name.clone().into())));
    }
    env.extend(set.map(|(k, v)| (k.into(), v.into())));
    env.insert(MARK.into(), mark.into());
    env.into_iter().collect()
}

/// How a process ended, in words: `exited with status 1`, `was ended by SIGKILL`.
pub(crate) fn exit_text(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("exited with status {code}"),
        Ended::Signaled(n) => match Signal::try_from(n) {
            Ok(signal) => format!("was ended by {signal}"),
            Err(_) => format!("was ended by signal {n}"),
        },
        Ended::NotReady => "did not start".to_owned(),
    }
}

/// Waits for the end of a process, which is not reaped by that: its number stays its own until [`sweep_and_reap`].
pub(crate) async fn wait_for_end(handle: &Async<PidFd>) -> Ended {
    let _ = handle.readable().await;
    handle.get_ref().peek().ok().flatten().unwrap_or(Ended::NotReady)
}

/// What a process had left behind.
pub(crate) struct Strays {
    /// So many were ended.
    pub ended: usize,
    /// These could not be ended.
    pub left: Vec<Pid>,
}

/// Waits for the end of a process, ends all that it has started and left behind (by its `mark`), and reaps it.
pub(crate) async fn sweep_and_reap(pid: Pid, handle: &Async<PidFd>, mark: &str) -> Strays {
    let mark = mark.to_owned();
    let (ended, left) = blocking(move || end_family(pid, &mark, STRAY_GRACE, STRAY_LIMIT)).await;
    let _ = handle.get_ref().reap();
    reap::forget(pid);
    reap::sweep();
    Strays { ended, left }
}
