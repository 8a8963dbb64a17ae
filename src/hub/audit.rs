//! The record of who has asked for what: lines that a thread of its own writes. Where the disk is stuck or full, lines are
//! lost and counted, and no request waits.
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
/// Lines are written so long after the first of them, many at once: each by itself would cost more than the call.
const GATHER: Duration = Duration::from_millis(10);
/// So much is written at once, in bytes, and a line more.
const AT_ONCE: usize = 64 << 10;
/// A record that could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// A file that could not be rotated goes on, and is tried again after this.
const LATER: Duration = Duration::from_secs(60);

/// The record of an instance, which may have none.
pub(crate) struct Audit {
    /// The way to the thread that writes; None without a record.
    jobs: Lock<Option<Sender<Job>>>,
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
            jobs: Lock::default(),
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
            self.jobs.take();
            return Ok(());
        };
        let mut known = self.jobs.lock();
        let jobs = match &*known {
            Some(jobs) => jobs.clone(),
            None => {
                let (jobs, received) = mpsc::channel();
                let shared = self.shared.clone();
                let thread = std::thread::Builder::new().name("audit".to_owned());
                thread.spawn(move || serve(&received, &shared)).inspect_err(|_| {
                    // Nothing can be recorded, as if the disk were full.
                    self.shared.fails.store(true, SeqCst);
                    self.is_required.store(config.required, SeqCst);
                })?;
                *known = Some(jobs.clone());
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
        let sent = fits && self.jobs.lock().as_ref().is_some_and(|jobs| jobs.send(Job::Line(line)).is_ok());
        if !sent {
            self.shared.waiting.fetch_sub(length, SeqCst);
            self.shared.lost(1);
        }
    }

    /// Waits until what was said is written, but not for long.
    pub(crate) fn flush(&self, limit: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        let asked = self.jobs.lock().as_ref().is_some_and(|jobs| jobs.send(Job::Flush(done)).is_ok());
        if asked {
            let _ = wait.recv_timeout(limit);
        }
    }
}

impl Shared {
    fn lost(&self, lines: usize) {
        (0..lines).for_each(|_| self.counters.count(Dropped::AuditLines));
    }
}

/// Writes what comes through the channel, until its other end is dropped.
fn serve(jobs: &Receiver<Job>, shared: &Shared) {
    let mut writer = Writer { way: None, rotated: None, failed: None, shared };
    let mut lines = Vec::new();
    loop {
        // The line that failed is tried again, also where no other one comes: calls may be refused until it is written.
        let first = match writer.failed.is_some() {
            true => jobs.recv_timeout(AGAIN),
            false => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        writer.try_again();
        let first = match first {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                shared.lost(writer.failed.iter().count());
                return;
            }
        };
        if matches!(first, Job::Line(_)) {
            std::thread::sleep(GATHER);
        }
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            if let Job::Line(line) = &job {
                lines.extend_from_slice(line);
            }
            if !matches!(job, Job::Line(_)) || lines.len() >= AT_ONCE {
                writer.write(&mut lines);
            }
            match job {
                Job::Line(_) => {}
                Job::Open(opened, rotate) => {
                    writer.way = Some((opened, rotate));
                    writer.try_again();
                }
                Job::Flush(done) => drop(done.send(())),
            }
        }
        writer.write(&mut lines);
        lines.shrink_to(AT_ONCE);
    }
}

/// What the thread has in its hands.
struct Writer<'s> {
    way: Option<(Opened, Option<config::Rotate>)>,
    /// When the file could not be rotated.
    rotated: Option<Instant>,
    /// The line that could not be written; those behind it are lost until it can.
    failed: Option<Vec<u8>>,
    shared: &'s Shared,
}

impl Writer<'_> {
    /// Writes lines that have waited.
    fn write(&mut self, lines: &mut Vec<u8>) {
        self.append(lines);
        self.shared.waiting.fetch_sub(lines.len(), SeqCst);
        lines.clear();
    }

    /// Writes what could not be written.
    fn try_again(&mut self) {
        if let Some(line) = self.failed.take() {
            self.append(&line);
        }
    }

    fn append(&mut self, lines: &[u8]) {
        let mut left = lines;
        while !left.is_empty() {
            if self.failed.is_some() {
                return self.shared.lost(left.iter().filter(|byte| **byte == b'\n').count());
            }
            let next = self.fitting(left);
            // The first job names the file.
            let Some((file, _)) = &self.way else { return };
            let (written, outcome) = file.append(&left[..next]);
            match outcome {
                Ok(()) => {
                    left = &left[next..];
                    if self.shared.fails.swap(false, SeqCst) {
                        info!("{}: the audit record is written again", file.path.display());
                    }
                }
                Err(e) => {
                    if !self.shared.fails.swap(true, SeqCst) {
                        error!("{}: cannot write the audit record: {}", file.path.display(), plain(&e));
                    }
                    left = &left[whole_lines(&left[..written])..];
                    let (line, rest) = left.split_at(first_line(left));
                    (self.failed, left) = (Some(line.to_vec()), rest);
                }
            }
        }
    }

    /// How much of the lines goes into the file, which is another one if this one is long enough: a line at least.
    fn fitting(&mut self, lines: &[u8]) -> usize {
        let first = first_line(lines);
        let Some((file, Some(rotate))) = &mut self.way else { return lines.len() };
        let may = self.rotated.is_none_or(|at| at.elapsed() >= LATER);
        if may && file.is_full(rotate, first) {
            match file.rotate(rotate.keep) {
                Ok(next) => (*file, self.rotated) = (next, None),
                Err(e) => {
                    self.rotated = Some(Instant::now());
                    error!("{}: cannot rotate the audit record: {}", file.path.display(), plain(&e));
                }
            }
        }
        let room = file.room(rotate).min(lines.len() as u64) as usize;
        whole_lines(&lines[..room]).max(first)
    }
}

/// The length of the first line, with its end.
fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1)
}

/// The length of all lines that have their end.
fn whole_lines(lines: &[u8]) -> usize {
    lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::path::Path;

    use super::*;
    use crate::model::config::{Rotate, Size};

    fn shared() -> Shared {
        Shared { waiting: AtomicUsize::new(0), fails: AtomicBool::new(false), counters: Arc::default() }
    }

    fn lines(range: std::ops::Range<u32>) -> String {
        range.map(|n| format!("{n:099}\n")).collect()
    }

    #[test]
    fn of_many_lines_those_that_fit_are_written_once_and_the_next_one_later() {
        let shared = shared();
        // A pipe that is not read is a disk with little room: 64 KiB (pipe(7)).
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let way = Some((Opened::adopt(Path::new("x"), write), None));
        let mut writer = Writer { way, rotated: None, failed: None, shared: &shared };
        writer.append(lines(0..2000).as_bytes());
        let fits = (64 << 10) / 100;
        assert!(shared.fails.load(SeqCst));
        assert_eq!(shared.counters.get(Dropped::AuditLines), 2000 - fits - 1);
        let (mut read, mut room) = (File::from(read), vec![0; 1 << 20]);
        let n = read.read(&mut room).unwrap();
        assert!(room[..n].starts_with(lines(0..fits as u32).as_bytes()));
        writer.try_again();
        writer.append(b"more\n");
        let n = read.read(&mut room).unwrap();
        let expected = format!("\n{}more\n", lines(fits as u32..fits as u32 + 1));
        assert_eq!(String::from_utf8_lossy(&room[..n]), expected);
        assert!(!shared.fails.load(SeqCst) && writer.failed.is_none());
        assert_eq!(shared.counters.get(Dropped::AuditLines), 2000 - fits - 1);
    }

    #[test]
    fn many_lines_at_once_go_to_files_none_of_which_is_too_long() {
        let (dir, shared) = (tempfile::tempdir().unwrap(), shared());
        let path = dir.path().join("x");
        let way = Some((Opened::open(&path).unwrap(), Some(Rotate { size: Size(4096), keep: 5 })));
        let mut writer = Writer { way, rotated: None, failed: None, shared: &shared };
        writer.append(lines(0..100).as_bytes());
        let file = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((file("x.2"), file("x.1"), file("x")), (lines(0..40), lines(40..80), lines(80..100)));
        // One that is longer than a file may be has one of its own.
        writer.append(format!("{:5000}\n", 1).as_bytes());
        assert_eq!((file("x.1"), file("x").len()), (lines(80..100), 5001));
    }
}
