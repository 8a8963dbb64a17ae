//! What an instance is: its parts, where it stands, and the signals that it follows.

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Context;
use std::time::{Duration, SystemTime};

use event_listener::Event;
use log::{error, info};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::monitor::Monitor;
use crate::hub::Hub;
use crate::logging::LogFile;
use crate::model::config::Text;
use crate::model::handover::Handover;
use crate::model::status::{InstanceState, Reload, Restart, Upgrade};
use crate::net::Net;
use crate::rt::async_fd::AsyncFd;
use crate::rt::blocking::blocking;
use crate::rt::random::uuid;
use crate::rt::task;
use crate::source::Source;
use crate::sys::clock;
use crate::sys::lock::{Guard, Lock};
use crate::sys::notify::Notifier;
use crate::sys::pidfile::PidFile;
use crate::sys::process;
use crate::sys::reexec::Program;
use crate::sys::signals;

/// The signals that the daemon follows, and which of them have come and were not followed yet.
pub(crate) struct Followed {
    /// A byte comes here with each.
    bell: AsyncFd<UnixStream>,
    /// Where the signals come that ask for another child of a server.
    pub(super) restarts: Option<File>,
    pub(super) come: Come,
    /// Which of them was followed last: each has its turn.
    last: usize,
}

/// A mark for each signal, set as it comes.
pub(super) type Come = Arc<Vec<(i32, Arc<AtomicBool>)>>;

/// Begins to receive signals.
pub(crate) fn signals() -> io::Result<Followed> {
    let all = [SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD];
    let mut come = Vec::new();
    let (bell, ring) = UnixStream::pair()?;
    for signal in all {
        let mark = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal, mark.clone())?;
        // Behind the mark: it is set once the byte is there.
        signal_hook::low_level::pipe::register(signal, ring.try_clone()?)?;
        come.push((signal, mark));
    }
    let restarts = Some(File::from(signals::restarts()?));
    Ok(Followed { bell: AsyncFd::new(bell)?, restarts, come: Arc::new(come), last: 0 })
}

impl Followed {
    pub(super) async fn next(&mut self) -> Option<i32> {
        loop {
            let turns = (1..=self.come.len()).map(|n| (self.last + n) % self.come.len());
            for at in turns {
                let (signal, mark) = &self.come[at];
                if mark.swap(false, SeqCst) {
                    self.last = at;
                    return Some(*signal);
                }
            }
            let mut bytes = [0; 64];
            let rung = |cx: &mut Context<'_>| self.bell.poll_read(cx, bytes.len(), |mut bell| bell.read(&mut bytes));
            poll_fn(rung).await.ok().filter(|n| *n > 0)?;
        }
    }
}

/// One instance, from its first server to its last.
pub(crate) struct Instance {
    pub(super) hub: Arc<Hub>,
    pub(super) net: OnceLock<Weak<Net>>,
    pub(super) source: Source,
    pub(super) log: LogFile,
    pub(super) run_dir: PathBuf,
    pub(super) status_path: PathBuf,
    pub(super) pid_path: PathBuf,
    pub(super) lock: Lock<Option<PidFile>>,
    pub(super) started: SystemTime,
    /// As the status file says it. It is read once: when descriptors run out, it could not be.
    pub(super) start_time: u64,
    pub(super) life: Lock<Life>,
    pub(super) monitor: Monitor,
    /// A reload is wanted.
    pub(super) wanted: AtomicBool,
    pub(super) wake: Event,
    /// A reload was carried out, or refused.
    pub(super) reloaded: Event,
    /// The status file shall be written although nothing changed.
    pub(super) write_now: AtomicBool,
    /// What the status file has at the end of its name while it is written.
    pub(super) tag: String,
    /// The instance is over: no status file is written any more.
    pub(super) files_closed: Lock<bool>,
    pub(super) notifier: Option<Notifier>,
    pub(super) newline: Lock<Option<OwnedFd>>,
    pub(super) foreground: bool,
    pub(super) program: Program,
    /// The files that the configuration in force was read from.
    pub(super) texts: Lock<Vec<Text>>,
    /// The guard's number and our end of its pipe.
    pub(super) guard: (i32, i32),
    pub(super) inherited: Vec<i32>,
    pub(super) after_kill: bool,
    /// An upgrade is wanted.
    pub(super) wanted_upgrade: AtomicBool,
    /// Servers that are to have another child, by their serials.
    pub(super) wanted_restarts: Lock<VecDeque<u32>>,
    /// Signals that were not followed yet.
    pub(super) come: OnceLock<Come>,
}

/// What an instance has from the steps before the runtime.
pub(crate) struct Start {
    pub source: Source,
    pub texts: Vec<Text>,
    pub log: LogFile,
    pub run_dir: PathBuf,
    pub lock: PidFile,
    pub notifier: Option<Notifier>,
    /// Where a newline says that we serve (s6).
    pub newline: Option<OwnedFd>,
    pub foreground: bool,
    pub program: Program,
    pub guard: (i32, i32),
    /// Descriptors of the process that started the program, which are not ours.
    pub inherited: Vec<i32>,
    /// A daemon of this name was killed, and has not cleaned up.
    pub after_kill: bool,
}

/// How it stands.
pub(super) struct Life {
    pub(super) state: InstanceState,
    /// Milliseconds from the start until it served.
    pub(super) startup: Option<u64>,
    pub(super) generation: u64,
    pub(super) reloads: u64,
    pub(super) last_reload: Option<Reload>,
    pub(super) upgrades: u64,
    pub(super) last_upgrade: Option<Upgrade>,
    /// Restarts of single servers.
    pub(super) restarts: u64,
    pub(super) last_restart: Option<Restart>,
}

impl Instance {
    pub(crate) fn new(hub: Arc<Hub>, from: Start, before: Option<&Handover>) -> Arc<Instance> {
        let name = hub.ctx.config().name.clone();
        let started = before.map(|b| SystemTime::UNIX_EPOCH + Duration::from_millis(b.started));
        from.log.remember(before.map(|b| b.observed.log.clone()).unwrap_or_default());
        let life = Life {
            state: InstanceState::Starting,
            startup: before.and_then(|b| b.startup),
            generation: before.map_or(1, |b| b.generation),
            reloads: before.map_or(0, |b| b.reloads),
            last_reload: before.and_then(|b| b.last_reload.clone()),
            upgrades: before.map_or(0, |b| b.upgrades),
            last_upgrade: before.and_then(|b| b.last_upgrade.clone()),
            restarts: before.map_or(0, |b| b.restarts),
            last_restart: before.and_then(|b| b.last_restart.clone()),
        };
        Arc::new(Instance {
            hub,
            net: OnceLock::new(),
            source: from.source,
            log: from.log,
            status_path: from.run_dir.join(format!("{name}.status")),
            pid_path: from.run_dir.join(format!("{name}.pid")),
            run_dir: from.run_dir,
            lock: Lock::new(Some(from.lock)),
            started: started.unwrap_or_else(SystemTime::now),
            start_time: process::start_time(Pid::this()).unwrap_or(0),
            life: Lock::new(life),
            monitor: Monitor::new(before.map(|b| b.observed.clone()).unwrap_or_default()),
            wanted: AtomicBool::new(false),
            wake: Event::new(),
            reloaded: Event::new(),
            write_now: AtomicBool::new(false),
            tag: uuid(),
            files_closed: Lock::new(false),
            notifier: from.notifier,
            newline: Lock::new(from.newline),
            foreground: from.foreground,
            program: from.program,
            texts: Lock::new(from.texts),
            guard: from.guard,
            inherited: from.inherited,
            after_kill: from.after_kill,
            wanted_upgrade: AtomicBool::new(false),
            wanted_restarts: Lock::new(before.map(|b| b.restarts_wanted.iter().copied().collect()).unwrap_or_default()),
            come: OnceLock::new(),
        })
    }

    pub(super) fn life(&self) -> Guard<'_, Life> {
        self.life.lock()
    }

    pub(super) fn enter(&self, state: InstanceState) {
        self.life().state = state;
        self.hub.ctx.changed();
    }

    /// Notes the outcome of an upgrade.
    pub(super) fn note_upgrade(&self, ok: bool, text: String) {
        let mut life = self.life();
        life.upgrades += 1;
        self.record("upgrade", ok, &text);
        life.last_upgrade = Some(Upgrade { at: clock::now(), ok, text });
    }

    /// The status file shall be written although nothing changed.
    pub(super) fn want_status(&self) {
        self.write_now.store(true, SeqCst);
        self.hub.ctx.changed();
    }

    /// Looks after the PID file, which may have been removed. In a thread: waiting for a lock would stop everything.
    pub(super) fn watch_pid_file(self: Arc<Self>) {
        task::spawn(blocking(move || self.mend_pid_file()));
    }

    fn mend_pid_file(&self) {
        let mut lock = self.lock.lock();
        let Some(lock) = lock.as_mut().filter(|lock| !lock.intact()) else { return };
        error!("{}: the PID file was removed or replaced by somebody else", self.pid_path.display());
        match lock.mend() {
            Ok(()) => {
                let _ = lock.write(Pid::this());
                info!("{}: the PID file is there again", self.pid_path.display());
            }
            Err(refused) => error!("{}: it cannot be made again: {refused:?}", self.pid_path.display()),
        }
    }
}
