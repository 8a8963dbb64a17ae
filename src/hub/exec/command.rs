//! One command of the executor: its output as it comes, its end, and the result that tells of both.

use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::output::{Keep, Output, Sink};
use crate::model::envelope::quote;
use crate::model::restart::Ended;
use crate::model::text::{duration, head};
use crate::rt::async_fd::AsyncFd;
use crate::rt::wait::{Flag, sleep};
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::{Started, signal_group};

/// The most of a stream that is repeated as text beside the structured result, in bytes.
const SHOWN: usize = 1 << 20;
/// After the command's end, how long its pipes may be held open by others before they are given up.
const PIPE_GRACE: Duration = Duration::from_millis(300);

/// How a command came to its end.
pub(crate) enum Outcome {
    Ended(Ended),
    TimedOut(Duration),
    /// The answer is not wanted any more.
    Cancelled,
}

/// A command that runs.
pub(crate) struct Work {
    pub pid: Pid,
    pub mark: String,
    pub handle: AsyncFd<PidFd>,
    pub out: Output,
    pub err: Output,
    pub started: Instant,
    pub until: Instant,
    pub limit: Duration,
}

impl Work {
    /// Begins to read what a process writes, and keeps of each stream what it may.
    pub(crate) fn new(
        process: Started,
        mark: String,
        keep: &Keep<'_>,
        sink: Sink,
        limit: Duration,
    ) -> std::io::Result<Work> {
        let started = Instant::now();
        Ok(Work {
            pid: process.pid,
            mark,
            handle: AsyncFd::new(process.handle)?,
            out: Output::new("stdout", process.stdout, keep, sink.clone())?,
            err: Output::new("stderr", process.stderr, keep, sink)?,
            started,
            until: started + limit,
            limit,
        })
    }

    /// Waits for the command's end, for its time limit, or until it is not wanted any more (`end`); then ends it, without
    /// grace once `cut` is set, else within `grace`. It is not reaped by that.
    pub(crate) async fn run(&self, grace: Duration, end: &Flag, cut: &Flag) -> Outcome {
        let (handle, out, err) = (&self.handle, &self.out, &self.err);
        let (left, limit) = (self.until.saturating_duration_since(Instant::now()), self.limit);
        let finished = async {
            let reading = async {
                futures_lite::future::zip(out.read(), err.read()).await;
            };
            let exit = async {
                handle.readable().await;
                self.held_is_read(true).await;
            };
            reading.or(exit).await;
            handle.readable().await;
            let ended = handle.get_ref().peek().ok().flatten();
            Outcome::Ended(ended.unwrap_or(Ended::NotReady))
        };
        let late = async {
            sleep(left).await;
            // It may have ended, and its client reads what it has said.
            match handle.get_ref().peek() {
                Ok(Some(ended)) => Outcome::Ended(ended),
                _ => Outcome::TimedOut(limit),
            }
        };
        let unwanted = async {
            end.wait().await;
            Outcome::Cancelled
        };
        let outcome = finished.or(unwanted).or(late).await;
        if !matches!(outcome, Outcome::Ended(_)) {
            // Also one that was stopped hears of it.
            signal_group(self.pid, Signal::SIGTERM);
            let down = async {
                handle.readable().await;
                Some(())
            };
            let late = async {
                sleep(grace).or(cut.wait()).await;
                None
            };
            if down.or(late).await.is_none() {
                signal_group(self.pid, Signal::SIGKILL);
                handle.readable().await;
            }
            let reading = async {
                futures_lite::future::zip(out.read(), err.read()).await;
            };
            reading.or(self.held_is_read(false)).await;
        }
        outcome
    }

    /// Waits, from the command's end on, until all was read that its pipes hold now, however slowly this machine reads. A
    /// grandchild that keeps a pipe open is given no more than the grace. A client that is behind with reading is waited
    /// for if it is `patient` to do so.
    async fn held_is_read(&self, patient: bool) {
        let (out, err) = (&self.out, &self.err);
        let written = (out.written(), err.written());
        loop {
            sleep(PIPE_GRACE).await;
            let all = out.is_read_to(written.0) && err.is_read_to(written.1);
            if all || (!patient && (out.waits() || err.waits())) {
                return;
            }
        }
    }
}

/// The result of a tool call that ran, of about `limit` bytes at most.
pub(crate) fn report(outcome: Outcome, out: &Output, err: &Output, took: Duration, limit: usize) -> String {
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
        Outcome::Ended(ended) => say(&crate::rt::process::exit_text(ended)),
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
