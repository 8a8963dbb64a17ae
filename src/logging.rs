//! The log: one line per event, to a file that can be moved away under us, or to standard error.
//!
//! simplelog formats; what is added here is that a record can never be more than one line, that a line is one
//! write(2), that the file is reopened on request, and that a disk that is full or stuck, or a terminal that was
//! stopped, neither stops nor kills anybody: once there are threads, one of them writes, and what it cannot keep up
//! with is counted as lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, WriteLogger};
use time::macros::format_description;

use crate::model::text::printable;

/// The longest line, in bytes.
const LINE: usize = 8 << 10;
/// The most lines that wait to be written.
const WAITING: usize = 4096;

/// The way to the log's file.
#[derive(Clone)]
pub struct LogFile {
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<Target>,
    /// The way to the thread that writes; until there is one, lines are written where they arise.
    writer: OnceLock<SyncSender<Job>>,
    lost: AtomicU64,
}

#[derive(Clone)]
enum Target {
    Stderr,
    File(PathBuf, Arc<File>),
}

enum Job {
    Line(Vec<u8>),
    /// Says when everything before it is written.
    Flush(SyncSender<()>),
}

impl Shared {
    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &[u8]) {
        // Not under the lock: a write that is stuck must not hold up whoever opens another file.
        let target = self.target().clone();
        let written = match &target {
            Target::Stderr => io::stderr().write_all(line),
            Target::File(_, file) => (&**file).write_all(line),
        };
        if written.is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// Opens a log for appending; an existing one is never truncated. Its folder is made if need be.
pub fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl LogFile {
    /// Starts logging; with a file and its path, or to standard error.
    pub fn start(file: Option<(PathBuf, File)>, level: LevelFilter) -> LogFile {
        let target = file.map_or(Target::Stderr, |(path, file)| Target::File(path, Arc::new(file)));
        let shared = Shared { target: Mutex::new(target), writer: OnceLock::new(), lost: AtomicU64::new(0) };
        let log = LogFile { shared: Arc::new(shared) };
        let config = ConfigBuilder::new()
            .set_time_format_custom(format_description!(
                "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
            ))
            .set_target_level(LevelFilter::Off)
            .set_thread_level(LevelFilter::Off)
            .set_location_level(LevelFilter::Off)
            .set_level_padding(simplelog::LevelPadding::Off)
            .build();
        let line = Line { shared: log.shared.clone(), buffer: Vec::new() };
        // The level is log's own, so that a reload can change it.
        let inner = WriteLogger::new(LevelFilter::Trace, config, line);
        if log::set_boxed_logger(Box::new(OneLine(inner))).is_ok() {
            log::set_max_level(level);
        }
        log
    }

    /// Lets a thread do the writing from now on. To be called once the process needs no further fork(2) of itself.
    pub fn detach(&self) -> io::Result<()> {
        let (sender, jobs) = mpsc::sync_channel(WAITING);
        let shared = self.shared.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            for job in jobs {
                match job {
                    Job::Line(line) => shared.write(&line),
                    Job::Flush(done) => drop(done.try_send(())),
                }
            }
        })?;
        let _ = self.shared.writer.set(sender);
        Ok(())
    }

    /// Waits until everything that was said is written, or `limit` is over.
    pub fn flush(&self, limit: Duration) {
        let Some(writer) = self.shared.writer.get() else { return };
        let (done, written) = mpsc::sync_channel(1);
        let (start, mut job) = (Instant::now(), Job::Flush(done));
        loop {
            match writer.try_send(job) {
                Err(TrySendError::Full(back)) if start.elapsed() < limit => job = back,
                _ => break,
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(limit.saturating_sub(start.elapsed()));
    }

    /// Opens the file anew, by another path or by the same one from which it may have been moved away. The old one is
    /// kept if that fails.
    pub fn reopen(&self, path: &Path) -> io::Result<()> {
        if self.path().is_some() {
            let file = open(path)?;
            *self.shared.target() = Target::File(path.to_owned(), Arc::new(file));
        }
        Ok(())
    }

    /// The file's path; None for standard error.
    pub fn path(&self) -> Option<PathBuf> {
        match &*self.shared.target() {
            Target::Stderr => None,
            Target::File(path, _) => Some(path.clone()),
        }
    }

    /// Lines that could not be written.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }
}

/// Makes each record one bounded line before it is formatted.
struct OneLine(Box<WriteLogger<Line>>);

impl Log for OneLine {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Only what this project says: libraries speak of their inside.
        metadata.target().starts_with("mcpdaemon")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = printable(&record.args().to_string(), LINE);
            let args = format_args!("{text}");
            self.0.log(&Record::builder().metadata(record.metadata().clone()).args(args).build());
        }
    }

    fn flush(&self) {}
}

/// Collects the pieces of a record and writes them at once.
struct Line {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.last() == Some(&b'\n') {
            match self.shared.writer.get() {
                None => {
                    self.shared.write(&self.buffer);
                    self.buffer.clear();
                }
                Some(writer) => {
                    if writer.try_send(Job::Line(std::mem::take(&mut self.buffer))).is_err() {
                        self.shared.lost.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
