//! One command of the executor: its output as it comes, its end, and the result that tells of both.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_io::Async;
use futures_lite::FutureExt;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::hub::call::Call;
use crate::hub::outbox::{Out, Outbox};
use crate::hub::wait::{Flag, sleep, within};
use crate::model::config::server::Exec;
use crate::model::envelope::quote;
use crate::model::handover::{self, Bytes};
use crate::model::jsonrpc;
use crate::model::restart::Ended;
use crate::model::text::{duration, head};
use crate::sys::passed;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::{Started, signal_group};

/// The most of the output that one progress notification carries, in bytes.
const PROGRESS_CHUNK: usize = 64 << 10;
/// The most of a stream that is repeated as text beside the structured result, in bytes.
const SHOWN: usize = 1 << 20;
/// After the command's end, how long its pipes may be held open by others before they are given up.
const PIPE_GRACE: Duration = Duration::from_millis(300);

/// How a command came to its end.
pub(super) enum Outcome {
    Ended(Ended),
    TimedOut(Duration),
    /// Nobody wants the answer.
    Cancelled,
}

/// Waits for a command's end, its time limit, of which so much is `left`, or somebody who no longer wants it (`end`); then
/// ends it, without grace once `cut` is set. It is not reaped: that is for whoever sees to its family.
pub(super) async fn attend(
    config: &Exec,
    pid: Pid,
    handle: &Async<PidFd>,
    (out, err): (&Stream, &Stream),
    (left, limit): (Duration, Duration),
    (end, cut): (&Flag, &Flag),
) -> Outcome {
    let finished = async {
        let reading = async {
            futures_lite::future::zip(out.read(), err.read()).await;
        };
        let exit = async {
            let _ = handle.readable().await;
            // A grandchild that holds a pipe open does not hold us.
            sleep(PIPE_GRACE).await;
        };
        reading.or(exit).await;
        let _ = handle.readable().await;
        let ended = handle.get_ref().peek().ok().flatten();
        Outcome::Ended(ended.unwrap_or(Ended::NotReady))
    };
    let late = async {
        sleep(left).await;
        Outcome::TimedOut(limit)
    };
    let unwanted = async {
        end.wait().await;
        Outcome::Cancelled
    };
    let outcome = finished.or(unwanted).or(late).await;
    if !matches!(outcome, Outcome::Ended(_)) {
        signal_group(pid, Signal::SIGTERM);
        let down = async {
            let _ = handle.readable().await;
            Some(())
        };
        let late = async {
            sleep(config.stop_after).or(cut.wait()).await;
            None
        };
        if down.or(late).await.is_none() {
            signal_group(pid, Signal::SIGKILL);
            let _ = handle.readable().await;
        }
        within(PIPE_GRACE, async {
            out.read().await;
            err.read().await;
        })
        .await;
    }
    outcome
}

/// Where output is reported while the command runs.
#[derive(Clone)]
pub(super) struct Progress {
    pub(super) token: Box<str>,
    pub(super) reply: Arc<Outbox>,
    /// Of both streams: progress must increase with each notification (2025-11-25 basic/utilities/progress).
    pub(super) bytes: Arc<AtomicU64>,
}

impl Progress {
    /// The way for a request that asked for it; so many bytes were reported already.
    pub(super) fn of(call: &Call, bytes: u64) -> Option<Progress> {
        let bytes = Arc::new(AtomicU64::new(bytes));
        call.token.clone().map(|token| Progress { token, reply: call.reply.clone(), bytes })
    }
}

/// A command that runs.
pub(super) struct Work {
    pub(super) pid: Pid,
    pub(super) mark: String,
    pub(super) handle: Async<PidFd>,
    pub(super) out: Stream,
    pub(super) err: Stream,
    pub(super) started: Instant,
    pub(super) until: Instant,
    pub(super) limit: Duration,
}

impl Work {
    /// Begins to read what a process writes, of which so much is `kept` of each stream.
    pub(super) fn new(
        process: Started,
        mark: String,
        kept: usize,
        progress: Option<Progress>,
        limit: Duration,
    ) -> std::io::Result<Work> {
        let started = Instant::now();
        Ok(Work {
            pid: process.pid,
            mark,
            handle: Async::new(process.handle)?,
            out: Stream::new(process.stdout, kept, progress.clone())?,
            err: Stream::new(process.stderr, kept, progress)?,
            started,
            until: started + limit,
            limit,
        })
    }
}

/// One output stream of a command.
pub(super) struct Stream {
    pipe: Async<File>,
    limit: usize,
    progress: Option<Progress>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    cut: u64,
    /// Up to here it was sent as progress.
    sent: usize,
    at_end: bool,
}

impl Stream {
    pub(super) fn new(fd: std::os::fd::OwnedFd, limit: usize, progress: Option<Progress>) -> std::io::Result<Stream> {
        Ok(Stream { pipe: Async::new(File::from(fd))?, limit, progress, kept: Mutex::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything of it, for the next program.
    pub(super) fn save(&self) -> handover::Output {
        let kept = self.kept();
        handover::Output {
            fd: self.pipe.as_fd().as_raw_fd(),
            kept: Bytes(kept.bytes.clone()),
            cut: kept.cut,
            sent: kept.sent,
            at_end: kept.at_end,
        }
    }

    /// Goes on with it; None if its descriptor is not there.
    pub(super) fn restore(saved: handover::Output, limit: usize, progress: Option<Progress>) -> Option<Stream> {
        let pipe = Async::new(File::from(passed::own_fd(saved.fd)?)).ok()?;
        let kept = Kept { bytes: saved.kept.0, cut: saved.cut, sent: saved.sent, at_end: saved.at_end };
        Some(Stream { pipe, limit, progress, kept: Mutex::new(kept) })
    }

    /// How much of it and of others was reported as progress.
    pub(super) fn reported(&self) -> u64 {
        self.progress.as_ref().map_or(0, |p| p.bytes.load(SeqCst))
    }

    /// Reads to the end.
    async fn read(&self) {
        let mut buffer = vec![0; 64 << 10];
        let mut slice = Instant::now();
        while !self.kept().at_end {
            match self.pipe.get_ref().read(&mut buffer) {
                Ok(n) => {
                    self.keep(&buffer[..n]);
                    if slice.elapsed() > Duration::from_micros(500) {
                        let _ = within(Duration::from_millis(1), self.pipe.readable()).await;
                        slice = Instant::now();
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if self.pipe.readable().await.is_err() {
                        return;
                    }
                    slice = Instant::now();
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.kept();
        kept.at_end = bytes.is_empty();
        let room = self.limit.saturating_sub(kept.bytes.len()).min(bytes.len());
        kept.bytes.extend_from_slice(&bytes[..room]);
        kept.cut += (bytes.len() - room) as u64;
        let Some(progress) = &self.progress else { return };
        // Whole lines, unless one is longer than a chunk or the stream has ended.
        let unsent = &kept.bytes[kept.sent..];
        let ready = match memchr::memrchr(b'\n', unsent) {
            Some(at) => at + 1,
            None if kept.at_end => unsent.len(),
            None if unsent.len() >= PROGRESS_CHUNK => {
                whole_characters(&kept.bytes, kept.sent, kept.bytes.len()) - kept.sent
            }
            None => 0,
        };
        let mut from = kept.sent;
        let to = kept.sent + ready;
        while from < to {
            let until = match from + PROGRESS_CHUNK < to {
                true => whole_characters(&kept.bytes, from, from + PROGRESS_CHUNK),
                false => to,
            };
            let text = quote(&String::from_utf8_lossy(&kept.bytes[from..until]));
            let total = progress.bytes.fetch_add((until - from) as u64, SeqCst) + (until - from) as u64;
            let token = &progress.token;
            let params = format!(r#"{{"progressToken":{token},"progress":{total},"message":{text}}}"#);
            let text = jsonrpc::notification("notifications/progress", Some(&params));
            progress.reply.push(Out { text, answer: false, failed: false });
            from = until;
        }
        kept.sent = to;
    }

    /// What was kept, as a JSON string of at most `limit` bytes: control characters can make it six times as long.
    fn quoted(&self, limit: usize) -> (String, String) {
        let kept = self.kept();
        let mut text = String::from_utf8_lossy(&kept.bytes).into_owned();
        let mut quoted = quote(&text);
        let mut cut = kept.cut;
        while quoted.len() > limit && !text.is_empty() {
            let share = (text.len() as u128 * limit as u128 / quoted.len() as u128) as usize;
            let keep = head(&text, share.min(text.len() - 1)).len();
            cut += (text.len() - keep) as u64;
            text.truncate(keep);
            quoted = quote(&text);
        }
        if cut > 0 {
            text.push_str(&format!("\n[{cut} more bytes were cut: max_line or limits.reply is reached]"));
            quoted = quote(&text);
        }
        (text, quoted)
    }
}

/// Where a piece of UTF-8 that begins at `from` and may reach up to `until` ends, so that no character is cut. Bytes
/// that are no UTF-8 are cut anywhere.
fn whole_characters(bytes: &[u8], from: usize, until: usize) -> usize {
    let lead = (from + 1..until).rev().take(4).find(|at| bytes[*at] & 0xc0 != 0x80);
    let Some(at) = lead else { return until };
    let length = match bytes[at] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    if at + length > until { at } else { until }
}

/// The result of a tool call that ran, of about `limit` bytes at most.
pub(super) fn report(outcome: Outcome, out: &Stream, err: &Stream, took: Duration, limit: usize) -> String {
    // Each stream stands in the result whole, and its beginning a second time.
    let ((stdout, stdout_json), (stderr, stderr_json)) = (out.quoted(limit / 2), err.quoted(limit / 2));
    let (code, signal) = match outcome {
        Outcome::Ended(Ended::Exited(code)) => (Some(code), None),
        Outcome::Ended(Ended::Signaled(signal)) => (None, Some(signal)),
        _ => (None, None),
    };
    let mut content: Vec<String> = Vec::new();
    let mut say = |text: &str| {
        if !text.is_empty() {
            content.push(format!(r#"{{"type":"text","text":{}}}"#, shown(text)));
        }
    };
    say(&stdout);
    say(&stderr);
    match outcome {
        Outcome::Ended(Ended::Exited(0)) => {}
        Outcome::Ended(ended) => say(&crate::hub::link::exit_text(ended)),
        Outcome::TimedOut(limit) => say(&format!("ended after {}: the time limit", duration(limit))),
        Outcome::Cancelled => say("cancelled"),
    }
    let number = |n: Option<i32>| n.map_or("null".to_owned(), |n| n.to_string());
    format!(
        r#"{{"content":[{}],"structuredContent":{{"stdout":{stdout_json},"stderr":{stderr_json},"exit_code":{},"signal":{},"timed_out":{},"duration_ms":{}}},"isError":{}}}"#,
        content.join(","),
        number(code),
        number(signal),
        matches!(outcome, Outcome::TimedOut(_)),
        took.as_millis(),
        code != Some(0),
    )
}

/// The text of a stream for those who read `content` alone; what is too long to be read twice stands whole in
/// `structuredContent`.
fn shown(text: &str) -> String {
    match text.len() > SHOWN {
        true => {
            let shown = head(text, SHOWN);
            quote(&format!("{shown}\n[{} more bytes in structuredContent]", text.len() - shown.len()))
        }
        false => quote(text),
    }
}
