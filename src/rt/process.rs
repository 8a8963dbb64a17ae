//! A process that was started: its surroundings, and its end, after which nothing of it is left.
//!
//! Knows no message and no server: what the process is for is the caller's affair.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use log::warn;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::async_fd::AsyncFd;
use super::blocking::blocking;
use crate::model::config::{Account, Environment};
use crate::model::exit::plain;
use crate::model::restart::Ended;
use crate::sys::files;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{MARK, end_family};
use crate::sys::reap;

/// No file with a value for a child is longer, in bytes: the kernel takes no longer one (execve(2)).
const LONGEST_VALUE: u64 = 128 << 10;
/// What outlives its parent gets this long between SIGTERM and SIGKILL.
const STRAY_GRACE: Duration = Duration::from_secs(1);
/// How long the search for what a process has left behind may take.
const STRAY_LIMIT: Duration = Duration::from_secs(5);

/// A child's whole environment: what is passed on of ours, what the configuration sets, and the mark. Files with values of
/// it are read now.
pub(crate) async fn environment(
    config: &Environment,
    account: Option<&Account>,
    mark: &str,
) -> Vec<(OsString, OsString)> {
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::default();
    env.insert("PATH".into(), crate::sys::paths::DEFAULT_PATH.into());
    env.insert("HOME".into(), crate::sys::paths::home().into());
    // Its output goes into a pipe, where Python would keep it until there is much of it.
    env.insert("PYTHONUNBUFFERED".into(), "1".into());
    env.extend(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| config.passes(name))));
    if let Some(account) = account {
        env.insert("HOME".into(), account.home.clone().into());
        env.extend(["USER", "LOGNAME"].map(|name| (name.into(), account.name.clone().into())));
        env.remove(OsStr::new("SHELL"));
    }
    env.extend(values(config, "env").await.into_iter().map(|(k, v)| (k.into(), v.into())));
    env.insert(MARK.into(), mark.into());
    env.into_iter().collect()
}

/// Values that are set; those from files are read now. `key` is where the configuration has them.
pub(crate) async fn values(config: &Environment, key: &str) -> BTreeMap<String, String> {
    if config.files.is_empty() {
        return config.set.clone();
    }
    let config = config.clone();
    let (set, wrong) = blocking(move || config.again(&secret)).await;
    for why in wrong {
        warn!("{key} {why}; its last value is used");
    }
    set
}

/// The content of a file with a value for a child. Root obeys none that others could have written.
fn secret(path: &Path) -> Result<String, String> {
    let own = nix::unistd::geteuid();
    let (bytes, untrusted) = files::read_judged(path, LONGEST_VALUE, &[own.as_raw()]).map_err(|e| plain(&e))?;
    match untrusted {
        Some(why) if own.is_root() => Err(format!("others may have written it: {why}")),
        _ => String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned()),
    }
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
        Ended::Lost => "was lost".to_owned(),
        Ended::Closed => "was closed".to_owned(),
    }
}

/// Waits for the end of a process, which is not reaped by that: its number stays its own until [`sweep_and_reap`].
pub(crate) async fn wait_for_end(handle: &AsyncFd<PidFd>) -> Ended {
    handle.readable().await;
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
pub(crate) async fn sweep_and_reap(pid: Pid, handle: &AsyncFd<PidFd>, mark: &str) -> Strays {
    let mark = mark.to_owned();
    let (ended, left) = blocking(move || end_family(pid, &mark, STRAY_GRACE, STRAY_LIMIT)).await;
    let _ = handle.get_ref().reap();
    reap::forget(pid);
    reap::sweep();
    Strays { ended, left }
}
