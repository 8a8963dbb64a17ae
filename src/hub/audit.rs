//! The record of who has asked for what: lines that are written by a thread of their own, so that a disk that is stuck or full
//! costs lines and nobody's time.
//!
//! Knows lines and a file, and no session.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use log::{error, info};

use super::counters::{Counters, Dropped};
use crate::model::audit::Line;
use crate::model::config;
use crate::model::exit::plain;
use crate::sys::clock;
use crate::sys::lock::Lock;
use crate::sys::logfile::Opened;

/// The most that waits to be written, in bytes.
const WAITING: usize = 4 << 20;
/// A record that could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// A file that could not be rotated goes on, and is tried again after this.
const LATER: Duration = Duration::from_secs(60);

/// The record of an instance, which may have none.
pub(crate) struct Audit {
    way: Lock<Option<Way>>,
    /// It is on, with arguments, and it is required: so that each request sees it for nothing.
    is_on: AtomicBool,
    has_arguments: AtomicBool,
    is_required: AtomicBool,
    shared: Arc<Shared>,
}

struct Shared {
    waiting: AtomicUsize,
    /// The last line could not be written.
    fails: AtomicBool,
    counters: Arc<Counters>,
}

struct Way {
    jobs: Sender<Job>,
}

enum Job {
    Line(Vec<u8>),
    /// Another file, or the same one anew.
    Open(Opened, Option<config::Rotate>),
    /// Says when everything before it is written.
    Flush(SyncSender<()>),
}

impl Audit {
    pub(crate) fn new(counters: Arc<Counters>) -> Audit {
        Audit {
            way: Lock::default(),
            is_on: AtomicBool::new(false),
            has_arguments: AtomicBool::new(false),
            is_required: AtomicBool::new(false),
            shared: Arc::new(Shared { waiting: AtomicUsize::new(0), fails: AtomicBool::new(false), counters }),
        }
    }

    /// Opens the record that the configuration wants, for [`Audit::set`].
    pub(crate) fn open(config: Option<&config::Audit>) -> io::Result<Option<Opened>> {
        config.map(|config| Opened::open(&config.file)).transpose()
    }

    /// From now on the record is this one, or there is none.
    pub(crate) fn set(&self, config: Option<&config::Audit>, opened: Option<Opened>) -> io::Result<()> {
        let (Some(config), Some(opened)) = (config, opened) else {
            self.is_on.store(false, SeqCst);
            self.is_required.store(false, SeqCst);
            // Its thread ends once it has written what it has.
            self.way.lock().take();
            return Ok(());
        };
        let mut way = self.way.lock();
        let jobs = match &*way {
            Some(way) => way.jobs.clone(),
            None => {
                let (jobs, received) = mpsc::channel();
                let shared = self.shared.clone();
                let thread = std::thread::Builder::new().name("audit".to_owned());
                thread.spawn(move || serve(&received, &shared)).inspect_err(|_| {
                    // Nothing can be recorded, as if the disk were full.
                    self.shared.fails.store(true, SeqCst);
                    self.is_required.store(config.required, SeqCst);
                })?;
                *way = Some(Way { jobs: jobs.clone() });
                jobs
            }
        };
        let _ = jobs.send(Job::Open(opened, config.rotate));
        self.has_arguments.store(config.arguments, SeqCst);
        self.is_required.store(config.required, SeqCst);
        self.is_on.store(true, SeqCst);
        Ok(())
    }

    /// Whether there is a record.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(SeqCst)
    }

    /// Whether arguments stand in it.
    pub(crate) fn has_arguments(&self) -> bool {
        self.has_arguments.load(SeqCst)
    }

    /// Whether nothing may be asked of servers, because it could not stand there: a line could not be written, or a disk that
    /// is stuck lets too many wait. What is in flight then has the other half of that room.
    pub(crate) fn forbids(&self) -> bool {
        let shared = &self.shared;
        self.is_required.load(SeqCst) && (shared.fails.load(SeqCst) || shared.waiting.load(SeqCst) >= WAITING / 2)
    }

    /// Begins a line about an event of now.
    pub(crate) fn line(event: &str) -> Line {
        Line::new(&clock::now(), event)
    }

    /// Writes a line.
    pub(crate) fn write(&self, line: Line) {
        if !self.is_on() {
            return;
        }
        let line = line.end().into_bytes();
        let length = line.len();
        let fits = self.shared.waiting.fetch_add(length, SeqCst) + length <= WAITING;
        let sent = fits && self.way.lock().as_ref().is_some_and(|way| way.jobs.send(Job::Line(line)).is_ok());
        if !sent {
            self.shared.waiting.fetch_sub(length, SeqCst);
            self.shared.lost();
        }
    }

    /// Waits until what was said is written, but not for long.
    pub(crate) fn flush(&self, limit: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        let asked = self.way.lock().as_ref().is_some_and(|way| way.jobs.send(Job::Flush(done)).is_ok());
        if asked {
            let _ = wait.recv_timeout(limit);
        }
    }
}

impl Shared {
    fn lost(&self) {
        self.counters.count(Dropped::AuditLines);
    }
}

/// Writes until nobody can say anything any more.
fn serve(jobs: &Receiver<Job>, shared: &Shared) {
    let mut way: Option<(Opened, Option<config::Rotate>)> = None;
    let (mut failed, mut rotated) = (None::<Vec<u8>>, None::<Instant>);
    loop {
        // What could not be written is tried again, though nobody says anything: calls may wait for that.
        let job = match failed.is_some() {
            true => jobs.recv_timeout(AGAIN),
            false => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if let Some(line) = failed.take() {
            failed = Some(line).filter(|line| !written(&mut way, &mut rotated, line, shared));
        }
        match job {
            Ok(Job::Open(opened, rotate)) => way = Some((opened, rotate)),
            Ok(Job::Flush(done)) => drop(done.send(())),
            Ok(Job::Line(line)) => {
                shared.waiting.fetch_sub(line.len(), SeqCst);
                if failed.is_some() {
                    shared.lost();
                } else if !written(&mut way, &mut rotated, &line, shared) {
                    failed = Some(line);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                if failed.is_some() {
                    shared.lost();
                }
                return;
            }
        }
    }
}

/// Writes a line, into another file where this one is long enough.
fn written(
    way: &mut Option<(Opened, Option<config::Rotate>)>,
    rotated: &mut Option<Instant>,
    line: &[u8],
    shared: &Shared,
) -> bool {
    let Some((file, rotate)) = way else { return false };
    let may = rotated.is_none_or(|at| at.elapsed() >= LATER);
    if let Some(rotate) = rotate.filter(|rotate| may && file.is_full(rotate, line.len())) {
        match file.rotate(rotate.keep) {
            Ok(next) => (*file, *rotated) = (next, None),
            Err(e) => {
                *rotated = Some(Instant::now());
                error!("{}: cannot rotate the audit record: {}", file.path.display(), plain(&e));
            }
        }
    }
    match file.write(line) {
        Ok(()) => {
            if shared.fails.swap(false, SeqCst) {
                info!("{}: the audit record is written again", file.path.display());
            }
            true
        }
        Err(e) => {
            if !shared.fails.swap(true, SeqCst) {
                error!("{}: cannot write the audit record: {}", file.path.display(), plain(&e));
            }
            false
        }
    }
}
