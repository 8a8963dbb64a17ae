//! The log: one line per event, to a file that can be moved away under us, or to standard error.
//!
//! simplelog writes the format `Text`; `Json`, which it does not know, is put together in [`logline`]. What is added
//! to both is that a record can never be more than one line, that a line is one write(2), that the file is opened anew
//! on request and moved away when it is long enough, and that a disk that is full or stuck, or a terminal that was
//! stopped, neither stops nor kills anybody: once there are threads, one of them writes, and what it cannot keep up
//! with is counted as lost.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record, error};
use simplelog::{ConfigBuilder, WriteLogger};
use time::macros::format_description;

use crate::model::config::{self, Format, Rotate};
use crate::model::exit::plain;
use crate::model::logline;
use crate::model::text::printable;
use crate::sys::clock;
use crate::sys::lock::{Guard, Lock};
use crate::sys::logfile::Opened;

/// The longest line, in bytes.
const LINE: usize = 8 << 10;
/// The most that waits to be written, in bytes.
const WAITING: usize = 4 << 20;
/// So many lines are remembered, of what is worth a look, each up to this length.
const REMEMBERED: usize = 100;
const SHORT: usize = 500;
/// A log that could not be rotated goes on, and is tried again after this.
const AGAIN: Duration = Duration::from_secs(60);

/// The way to the log's file.
#[derive(Clone)]
pub(crate) struct LogFile {
    shared: Arc<Shared>,
}

struct Shared {
    way: Lock<Way>,
    /// Standard error is a stream of the journal, which notes the time of a line by itself, and takes its priority.
    journal: bool,
    /// The way to the thread that writes; until there is one, lines are written where they arise.
    writer: OnceLock<Sender<Job>>,
    /// How much waits for that thread, in bytes.
    waiting: AtomicUsize,
    lost: AtomicU64,
    /// The last lines, the newest last.
    last: Lock<VecDeque<logline::Line>>,
}

/// Where lines go and how they look; what a reload can change.
#[derive(Clone)]
struct Way {
    /// None for standard error.
    file: Option<Arc<Opened>>,
    format: Format,
    rotate: Option<Rotate>,
}

enum Job {
    Line(Vec<u8>),
    /// Says when everything before it is written.
    Flush(SyncSender<()>),
}

impl Shared {
    fn way(&self) -> Guard<'_, Way> {
        self.way.lock()
    }

    fn last(&self) -> Guard<'_, VecDeque<logline::Line>> {
        self.last.lock()
    }

    fn note(&self, level: Level, text: &str) {
        let line = logline::Line { at: clock::now(), level: level.to_string(), text: printable(text, SHORT) };
        let mut last = self.last();
        if last.len() >= REMEMBERED {
            last.pop_front();
        }
        last.push_back(line);
    }

    fn write(&self, line: &[u8]) {
        // Not under the lock: a write that is stuck must not hold up a task that opens another file.
        let file = self.way().file.clone();
        let written = match &file {
            None => io::stderr().write_all(line),
            Some(file) => file.write(line),
        };
        if written.is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Takes a line to where it is written.
    fn pass(&self, line: Vec<u8>) {
        match self.writer.get() {
            None => self.write(&line),
            Some(writer) => {
                let length = line.len();
                let fits = self.waiting.fetch_add(length, Relaxed) + length <= WAITING;
                if !fits || writer.send(Job::Line(line)).is_err() {
                    self.waiting.fetch_sub(length, Relaxed);
                    self.lost.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Rotates the log if it has no room for a line of this length.
    fn make_room(&self, length: usize) -> io::Result<()> {
        let (file, rotate) = match &*self.way() {
            Way { file: Some(file), rotate: Some(rotate), .. } => (file.clone(), *rotate),
            _ => return Ok(()),
        };
        if file.is_full(&rotate, length) {
            let next = file.rotate(rotate.keep)?;
            let mut way = self.way();
            // Unless another one was opened meanwhile.
            if way.file.as_ref().is_some_and(|now| Arc::ptr_eq(now, &file)) {
                way.file = Some(Arc::new(next));
            }
        }
        Ok(())
    }

    /// What the writing thread does.
    fn serve(&self, jobs: mpsc::Receiver<Job>) {
        let mut failed: Option<Instant> = None;
        for job in jobs {
            match job {
                Job::Line(line) => {
                    self.waiting.fetch_sub(line.len(), Relaxed);
                    if failed.is_none_or(|at| at.elapsed() > AGAIN) {
                        let known = failed.is_some();
                        failed = self.make_room(line.len()).err().map(|e| {
                            // Once, until it works again.
                            if !known {
                                let path = self.path().unwrap_or_default();
                                error!("{}: cannot rotate the log, going on with it: {}", path.display(), plain(&e));
                            }
                            Instant::now()
                        });
                    }
                    self.write(&line);
                }
                Job::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn path(&self) -> Option<PathBuf> {
        self.way().file.as_ref().map(|file| file.path.clone())
    }
}

/// What a reload is about to change.
pub(crate) struct Prepared {
    /// Where the path is another one.
    file: Option<Opened>,
    config: config::Log,
}

impl LogFile {
    /// Starts logging; to a file, or to standard error.
    pub(crate) fn start(file: Option<Opened>, config: &config::Log) -> LogFile {
        let journal = file.is_none() && is_journal();
        let way = Way { file: file.map(Arc::new), format: config.format, rotate: config.rotate };
        let shared = Shared {
            way: Lock::new(way),
            journal,
            writer: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            last: Lock::default(),
        };
        let log = LogFile { shared: Arc::new(shared) };
        let mut text = ConfigBuilder::new();
        text.set_time_format_custom(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .set_target_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_level_padding(simplelog::LevelPadding::Off);
        if journal {
            text.set_time_level(LevelFilter::Off).set_max_level(LevelFilter::Off);
        }
        let line = Line { shared: log.shared.clone(), buffer: Vec::new() };
        // The level is log's own, so that a reload can change it.
        let text = WriteLogger::new(LevelFilter::Trace, text.build(), line);
        if log::set_boxed_logger(Box::new(OneLine { text, shared: log.shared.clone() })).is_ok() {
            log::set_max_level(config.level);
        }
        log
    }

    /// Lets a thread do the writing from now on. To be called once the process needs no further fork(2) of itself.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let (sender, jobs) = mpsc::channel();
        let shared = self.shared.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.serve(jobs))?;
        let _ = self.shared.writer.set(sender);
        Ok(())
    }

    /// Waits until everything that was said is written, or `limit` is over.
    pub(crate) fn flush(&self, limit: Duration) {
        let Some(writer) = self.shared.writer.get() else { return };
        let (done, written) = mpsc::sync_channel(1);
        let _ = writer.send(Job::Flush(done));
        let _ = written.recv_timeout(limit);
    }

    /// Opens the file anew, from which it may have been moved away. The old one is kept if that fails.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        if let Some(path) = self.path() {
            let file = Opened::open(&path)?;
            self.shared.way().file = Some(Arc::new(file));
        }
        Ok(())
    }

    /// Opens the log of another configuration. Nothing changes until it is applied.
    pub(crate) fn prepare(&self, config: &config::Log) -> io::Result<Prepared> {
        let moves = self.path().is_some_and(|path| path != config.file);
        let file = if moves { Some(Opened::open(&config.file)?) } else { None };
        Ok(Prepared { file, config: config.clone() })
    }

    pub(crate) fn apply(&self, new: Prepared) {
        let mut way = self.shared.way();
        if let Some(file) = new.file {
            way.file = Some(Arc::new(file));
        }
        way.format = new.config.format;
        way.rotate = new.config.rotate;
        log::set_max_level(new.config.level);
    }

    /// The descriptor of the file; None for standard error.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        self.shared.way().file.as_ref().map(|f| f.fd())
    }

    /// The file's path; None for standard error.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.shared.path()
    }

    /// The last lines of level `Info` and above, the newest last, without what children have said.
    pub(crate) fn last(&self) -> Vec<logline::Line> {
        self.shared.last().iter().cloned().collect()
    }

    /// Goes on with what another program has remembered.
    pub(crate) fn remember(&self, before: Vec<logline::Line>) {
        let mut last = self.shared.last();
        for line in before.into_iter().rev() {
            last.push_front(line);
        }
        let over = last.len().saturating_sub(REMEMBERED);
        last.drain(..over);
    }

    /// Lines that could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }
}

/// Whether standard error goes to the journal of systemd: JOURNAL_STREAM says which file it is (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stat) = nix::sys::stat::fstat(io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Makes each record one bounded line, and that what the format says.
struct OneLine {
    text: Box<WriteLogger<Line>>,
    shared: Arc<Shared>,
}

impl OneLine {
    fn json(&self, record: &Record<'_>, text: &str) -> Vec<u8> {
        let now = (!self.shared.journal).then(clock::now);
        let line = logline::json(now.as_deref(), record.level(), record.target(), text);
        format!("{}{line}\n", self.mark(record)).into_bytes()
    }

    /// What the journal wants to see first.
    fn mark(&self, record: &Record<'_>) -> String {
        if self.shared.journal { format!("<{}>", logline::priority(record.level())) } else { String::new() }
    }
}

impl Log for OneLine {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Only what this project says: libraries speak of their inside.
        metadata.target().starts_with("mcpdaemon")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = printable(&record.args().to_string(), LINE);
        if record.level() <= Level::Info && record.target() != logline::SAID {
            self.shared.note(record.level(), &text);
        }
        let format = self.shared.way().format;
        match format {
            Format::Text => {
                let args = format_args!("{}{text}", self.mark(record));
                self.text.log(&Record::builder().metadata(record.metadata().clone()).args(args).build());
            }
            Format::Json => self.shared.pass(self.json(record, &text)),
        }
    }

    fn flush(&self) {}
}

/// Collects the pieces of a record and passes them on at once.
struct Line {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.last() == Some(&b'\n') {
            self.shared.pass(std::mem::take(&mut self.buffer));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
