//! The run directory, the instances in it as their files show them, and the signals that they get.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid};

use crate::model::config::check_name;
use crate::model::exit::{Exit, Failure, plain};
use crate::model::status::{Server, Status};
use crate::model::text::{suggest, turns};
use crate::sys::pidfd::PidFd;
use crate::sys::pidfile::{Probe, probe};
use crate::sys::process::{self, STATUS};
use crate::sys::signals::restart_signal;
use crate::sys::{accounts, clock, files};

/// Standard output could not be written, for another reason than that it is not read.
static UNSAID: AtomicBool = AtomicBool::new(false);

/// Whether something could not be said.
pub(super) fn is_unsaid() -> bool {
    UNSAID.load(Relaxed)
}

/// Prints a text. False once there is no use in it: its reader has seen enough, which is no error, or it cannot be
/// written. What a verb does for its instances goes on all the same.
pub(super) fn say(text: &str) -> bool {
    match writeln!(std::io::stdout(), "{}", shown(text.trim_end())) {
        Ok(()) => true,
        Err(e) => {
            if e.kind() != std::io::ErrorKind::BrokenPipe && !UNSAID.swap(true, Relaxed) {
                complain(&format!("mcpctl: cannot write to standard output: {}", plain(&e)));
            }
            false
        }
    }
}

/// A text without what moves a terminal's cursor or has it do something, which an instance's files may hold. In JSON, where
/// such characters stand escaped already up to U+001F, the others get the same form.
fn shown(text: &str) -> String {
    let moves = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || turns(c);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match moves(c) {
            true => out.push_str(&format!("\\u{:04x}", c as u32)),
            false => out.push(c),
        }
    }
    out
}

pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", shown(text.trim_end()));
}

/// The run directory, and for root the folders in it: services of other users have theirs there.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    deep: bool,
}

/// An instance as its files show it.
pub(crate) struct Found {
    pub(super) name: String,
    /// Where its files are.
    pub(crate) place: Place,
    pub(crate) probe: Probe,
    /// What the status file says; of a dead instance it is the last thing that it said.
    pub(crate) status: Option<Status>,
    /// To whom the file belongs that says so.
    pub(crate) status_owner: Option<u32>,
    /// Of when that is.
    pub(super) age: Age,
}

/// Of when a status document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// The daemon has written it when it was asked to, or it was not asked.
    Current,
    /// Of when it says: the daemon cannot be asked.
    AsOf,
    /// The daemon was asked, and does not answer.
    Silent,
}

/// A question to a daemon: when it was asked.
pub(super) struct Asked(String);

impl Asked {
    /// Whether a document is the answer.
    pub(super) fn is_answered_by(&self, status: Option<&Status>) -> bool {
        status.is_some_and(|status| status.written >= self.0)
    }
}

/// How long a daemon may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// With fewer bytes left on the disk, a status may find no room: one of some hundred servers is as long.
const ROOM: u64 = 128 * 1024;

impl Place {
    pub(crate) fn new(dir: PathBuf) -> Place {
        Place { dir, deep: Uid::effective().is_root() }
    }

    /// The folders where instances may have their files.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let mut all = vec![self.dir.clone()];
        if self.deep {
            let inner = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
            // No link: it may lead anywhere.
            let folders = inner.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            all.extend(folders.map(|e| e.path()));
            all[1..].sort_unstable();
        }
        all
    }

    /// The one folder where an instance has its files.
    fn folder_of(&self, name: &str) -> Result<Place, Failure> {
        let here = |dir: &PathBuf| dir.join(format!("{name}.pid")).symlink_metadata().is_ok();
        let mut found: Vec<PathBuf> = self.folders().into_iter().filter(here).collect();
        if found.len() > 1 {
            // A daemon that may not remove its PID file leaves it empty.
            found.retain(|dir| !matches!(probe(&dir.join(format!("{name}.pid"))), Ok(Probe::Absent)));
        }
        if let [first, second, ..] = found.as_slice() {
            let text = format!(
                "{name}: there are two of this name, in {} and in {}: say which by --run-dir",
                first.display(),
                second.display()
            );
            return Err(Failure::new(Exit::CtlUsage, text));
        }
        Ok(Place { dir: found.pop().unwrap_or_else(|| self.dir.clone()), deep: false })
    }

    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pid"))
    }

    pub(crate) fn status_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.status"))
    }

    /// The names of all instances that have a PID file.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let mut entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries.flatten().collect::<Vec<_>>(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.unreadable(&self.dir, &e)),
        };
        for folder in self.folders().iter().skip(1) {
            entries.extend(std::fs::read_dir(folder).into_iter().flatten().flatten());
        }
        let name = |e: std::fs::DirEntry| e.file_name().to_str()?.strip_suffix(".pid").map(str::to_owned);
        // What cannot be a name is another program's file.
        let ours = |name: &String| check_name(name).is_ok();
        let mut names: Vec<String> = entries.into_iter().filter_map(name).filter(ours).collect();
        names.sort_unstable();
        names.dedup();
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

    pub(crate) fn find(&self, name: &str) -> Result<Found, Failure> {
        check_name(name).map_err(|why| {
            let slash = match name.contains('/') {
                true => "; a server is named as NAME/SERVER by 'mcpctl wait', and by --server elsewhere",
                false => "",
            };
            Failure::new(Exit::CtlUsage, format!("mcpctl: {why}{slash}"))
        })?;
        let place = self.folder_of(name)?;
        let path = place.pid_file(name);
        let probe = probe(&path).map_err(|e| place.unreadable(&path, &e))?;
        // What a predecessor wrote is not the status of this one.
        let read = place.read_status(name).filter(|(s, _)| match &probe {
            Probe::Running(pid, _) | Probe::Elsewhere(pid) => s.pid == pid.as_raw(),
            Probe::Starting => false,
            Probe::Absent | Probe::Stale => true,
        });
        let (status, status_owner) = read.unzip();
        Ok(Found { name: name.to_owned(), place, probe, status, status_owner, age: Age::Current })
    }

    /// The status file, if it can be read and understood.
    pub(super) fn status(&self, name: &str) -> Option<Status> {
        self.read_status(name).map(|(status, _)| status)
    }

    /// What the status file of an instance says, if it can be read and understood, and the uid of the owner of the very
    /// file that was read.
    fn read_status(&self, name: &str) -> Option<(Status, u32)> {
        // Where it cannot be replaced as a whole, it may be read while it is written.
        for _ in 0..5 {
            let file = files::open(&self.status_file(name)).ok()?;
            let owner = file.metadata().ok()?.uid();
            let text = files::content(file, STATUS).ok()?;
            if let Ok(status) = serde_json::from_slice(&text) {
                return Some((status, owner));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Found {
    /// Which instance may have been meant by a name that none has, as the end of a message.
    pub(crate) fn meant(&self) -> Option<String> {
        let names = self.place.names().unwrap_or_default();
        let others = || names.iter().map(String::as_str).filter(|name| *name != self.name);
        let stem = self.name.strip_suffix(".ron");
        let near = stem.filter(|stem| others().any(|name| name == *stem)).or_else(|| suggest(&self.name, others()));
        match (near, stem) {
            (Some(near), _) => Some(format!(", did you mean '{near}'?")),
            (None, Some(stem)) => Some(format!(": the instance of that file is called '{stem}'")),
            (None, None) => None,
        }
    }

    /// Asks the daemon to write its status; None if it cannot be asked.
    pub(super) fn ask(&mut self) -> Option<Asked> {
        let handle = match &self.probe {
            Probe::Running(_, handle) => handle,
            Probe::Elsewhere(_) => {
                self.age = Age::AsOf;
                return None;
            }
            Probe::Absent | Probe::Stale | Probe::Starting => return None,
        };
        // Another status may be on its way, of a moment before.
        let asked = clock::exactly_now();
        match handle.send(Signal::SIGUSR1) {
            Ok(()) => Some(Asked(asked)),
            Err(_) => {
                self.age = Age::AsOf;
                None
            }
        }
    }

    /// Waits for the answer to a question, until then.
    pub(super) fn hear(&mut self, asked: &Asked, until: Instant) {
        let path = self.place.status_file(&self.name);
        // Inode numbers are used again, so the time counts as well.
        let stamp = || std::fs::metadata(&path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()));
        let (mut read, mut pause) = (None, Duration::from_micros(100));
        loop {
            let now = stamp();
            if read.is_none() || now != read {
                read = now;
                (self.status, self.status_owner) = self.place.read_status(&self.name).unzip();
            }
            self.age = if asked.is_answered_by(self.status.as_ref()) { Age::Current } else { Age::Silent };
            if self.age == Age::Current || Instant::now() >= until {
                return;
            }
            if let Probe::Running(_, handle) = &self.probe
                && handle.wait_end(Duration::ZERO).unwrap_or(false)
            {
                // It has ended meanwhile, and will not answer.
                return;
            }
            // Mostly it answers within a millisecond.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    /// Asks the daemon to write its status and waits for it, up to a second.
    pub(super) fn refresh(&mut self) {
        if let Some(asked) = self.ask() {
            self.hear(&asked, Instant::now() + ANSWER);
        }
    }

    /// Why the daemon does not answer, as far as that shows.
    pub(super) fn silence(&self) -> String {
        let Probe::Running(pid, _) = &self.probe else { return "it cannot be asked".to_owned() };
        if process::is_stopped(*pid) {
            return format!("it is stopped by a signal: 'kill -CONT {pid}' lets it go on");
        }
        let dir = self.place.dir.display();
        match files::room(&self.place.dir) {
            Some(0) => format!("the disk of {dir} is full, so it cannot write its status"),
            Some(left) if left < ROOM => {
                format!("the disk of {dir} has only {} KiB left, which may be too little for its status", left / 1024)
            }
            _ => "it hangs, or the machine is very busy".to_owned(),
        }
    }
}

/// Asks several instances at once, and waits up to a second for all of them.
pub(super) fn refresh_all(all: &mut [Result<Found, Failure>]) {
    let asked: Vec<Option<Asked>> = all.iter_mut().map(|one| one.as_mut().ok().and_then(Found::ask)).collect();
    let until = Instant::now() + ANSWER;
    for (found, asked) in all.iter_mut().zip(asked) {
        if let (Ok(found), Some(asked)) = (found, asked) {
            found.hear(&asked, until);
        }
    }
}

/// A server of an instance by its name.
pub(crate) fn server_of<'s>(name: &str, server: &str, status: &'s Status) -> Result<&'s Server, Failure> {
    status.servers.iter().find(|s| s.name == server).ok_or_else(|| {
        let known: Vec<&str> = status.servers.iter().map(|s| s.name.as_str()).collect();
        let near = suggest(server, known.iter().copied()).map(|near| format!(", did you mean '{near}'?"));
        let near = near.unwrap_or_else(|| format!(" (it has: {})", known.join(", ")));
        Failure::new(Exit::Failed, format!("{name}: there is no server '{server}'{near}"))
    })
}

/// The running process of an instance, or why there is none to signal.
pub(super) fn running(found: &Found) -> Result<(Pid, &PidFd), Failure> {
    let name = &found.name;
    match &found.probe {
        Probe::Running(pid, handle) => Ok((*pid, handle)),
        Probe::Absent => {
            let hint = found.meant().unwrap_or_else(|| " ('mcpctl list' shows what does)".to_owned());
            Err(Failure::new(Exit::CtlNotRunning, format!("{name}: not running{hint}")))
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
    sent(name, pid, handle.send(signal))
}

/// Asks for another child of the server with this serial.
pub(super) fn queue(name: &str, pid: Pid, handle: &PidFd, serial: u32) -> Result<(), Failure> {
    sent(name, pid, handle.queue(restart_signal(), serial))
}

fn sent(name: &str, pid: Pid, outcome: std::io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Ok(()) => Ok(()),
        // It ended a moment ago, which the caller will see.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let owner = process::user_of(pid).map_or("another user".to_owned(), accounts::name_of);
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
