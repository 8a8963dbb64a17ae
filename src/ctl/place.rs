//! The run directory, the instances in it as their files show them, and the signals that they get.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid, User};

use crate::model::config::check_name;
use crate::model::exit::{Exit, Failure, plain};
use crate::model::status::Status;
use crate::sys::pidfd::PidFd;
use crate::sys::pidfile::{Probe, probe};

/// Standard output could not be written, for another reason than that it is not read.
static UNSAID: AtomicBool = AtomicBool::new(false);

/// Whether something could not be said.
pub(super) fn is_unsaid() -> bool {
    UNSAID.load(Relaxed)
}

/// Prints a text. False once there is no use in it: its reader has seen enough, which is no error, or it cannot be
/// written. What a verb does for its instances goes on all the same.
pub(super) fn say(text: &str) -> bool {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Ok(()) => true,
        Err(e) => {
            if e.kind() != std::io::ErrorKind::BrokenPipe && !UNSAID.swap(true, Relaxed) {
                complain(&format!("mcpctl: cannot write to standard output: {}", plain(&e)));
            }
            false
        }
    }
}

pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

/// The run directory.
pub(super) struct Place(pub(super) PathBuf);

/// An instance as its files show it.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) probe: Probe,
    /// What the status file says; of a dead instance it is the last thing that it said.
    pub(super) status: Option<Status>,
}

impl Place {
    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.pid"))
    }

    pub(super) fn status_file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.status"))
    }

    /// The names of all instances that have a PID file.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.unreadable(&self.0, &e)),
        };
        let name = |e: std::fs::DirEntry| e.file_name().to_str()?.strip_suffix(".pid").map(str::to_owned);
        // What cannot be a name is another program's file.
        let ours = |name: &String| check_name(name).is_ok();
        let mut names: Vec<String> = entries.flatten().filter_map(name).filter(ours).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The instances that a verb is for: those named, or all.
    pub(super) fn chosen(&self, verb: &str, names: &[String], all: bool) -> Result<Vec<String>, Failure> {
        match (names.is_empty(), all) {
            (false, true) => {
                Err(Failure::new(Exit::CtlUsage, format!("mcpctl {verb}: either names or --all, not both")))
            }
            (true, false) => Err(Failure::new(
                Exit::CtlUsage,
                format!("mcpctl {verb}: which instance? Give its name, or --all ('mcpctl list' shows them)"),
            )),
            (false, false) => Ok(names.to_vec()),
            (true, true) => self.names(),
        }
    }

    pub(super) fn unreadable(&self, path: &Path, e: &std::io::Error) -> Failure {
        Place::cannot("read", path, e)
    }

    pub(super) fn cannot(doing: &str, path: &Path, e: &std::io::Error) -> Failure {
        let exit = match e.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::CtlPermission,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{}: cannot {doing} it: {}", path.display(), plain(e)))
    }

    pub(super) fn find(&self, name: &str) -> Result<Found, Failure> {
        check_name(name).map_err(|why| Failure::new(Exit::CtlUsage, format!("mcpctl: {why}")))?;
        let path = self.pid_file(name);
        let probe = probe(&path).map_err(|e| self.unreadable(&path, &e))?;
        // What a predecessor wrote is not the status of this one.
        let status = self.status(name).filter(|s| match &probe {
            Probe::Running(pid, _) | Probe::Elsewhere(pid) => s.pid == pid.as_raw(),
            Probe::Starting => false,
            Probe::Absent | Probe::Stale => true,
        });
        Ok(Found { name: name.to_owned(), probe, status })
    }

    /// The status file, if it can be read and understood.
    pub(super) fn status(&self, name: &str) -> Option<Status> {
        // Where it cannot be replaced as a whole, it may be read while it is written.
        for _ in 0..5 {
            let text = std::fs::read_to_string(self.status_file(name)).ok()?;
            if let Ok(status) = serde_json::from_str(&text) {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Asks the daemon to write its status and waits for it, up to a second.
    pub(super) fn refresh(&self, found: &mut Found) {
        let Probe::Running(_, handle) = &found.probe else { return };
        let path = self.status_file(&found.name);
        // Inode numbers are used again, so the time counts as well.
        let stamp = || std::fs::metadata(&path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()));
        let before = stamp();
        if handle.send(Signal::SIGUSR1).is_err() {
            return;
        }
        let until = Instant::now() + Duration::from_secs(1);
        while stamp() == before && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        found.status = self.status(&found.name);
    }
}

/// The running process of an instance, or why there is none to signal.
pub(super) fn running(found: &Found) -> Result<(Pid, &PidFd), Failure> {
    let name = &found.name;
    match &found.probe {
        Probe::Running(pid, handle) => Ok((*pid, handle)),
        Probe::Absent => {
            Err(Failure::new(Exit::CtlNotRunning, format!("{name}: not running ('mcpctl list' shows what does)")))
        }
        Probe::Stale => Err(Failure::new(
            Exit::CtlNotRunning,
            format!("{name}: not running (its PID file is left from a daemon that was killed)"),
        )),
        Probe::Starting => Err(Failure::new(Exit::Failed, format!("{name}: it is just starting; try again"))),
        Probe::Elsewhere(pid) => Err(Failure::new(
            Exit::Failed,
            format!(
                "{name}: it runs in another PID namespace (as pid {pid} there), where this mcpctl cannot signal it"
            ),
        )),
    }
}

/// Sends a signal; the error of a foreign daemon says whose it is.
pub(super) fn signal(name: &str, pid: Pid, handle: &PidFd, signal: Signal) -> Result<(), Failure> {
    match handle.send(signal) {
        Ok(()) => Ok(()),
        // It ended a moment ago, which the caller will see.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let uid = std::fs::metadata(format!("/proc/{pid}")).map(|m| Uid::from_raw(m.uid())).ok();
            let owner =
                uid.and_then(|u| User::from_uid(u).ok().flatten()).map_or("another user".to_owned(), |u| u.name);
            Err(Failure::new(
                Exit::CtlPermission,
                format!("{name}: it belongs to {owner}, whom you may not signal for"),
            ))
        }
        Err(e) => Err(Failure::new(Exit::Failed, format!("{name}: cannot signal it: {}", plain(&e)))),
    }
}

/// Does what a verb does for several instances, all of them even if one fails; the worst outcome counts.
pub(super) fn each(names: &[String], mut verb: impl FnMut(&str) -> Result<(), Failure>) -> Exit {
    let mut worst = Exit::Ok;
    for name in names {
        if let Err(failure) = verb(name) {
            complain(&failure.text);
            if failure.exit.code() > worst.code() {
                worst = failure.exit;
            }
        }
    }
    worst
}
