//! What a child says, on both of its outputs: replies find their request by its number, the rest goes to the observer.
//!
//! What a child does wrong (banners, huge lines, replies that were not asked for, silence) is survived, logged within bounds and
//! counted here.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_lite::future::yield_now;
use log::{debug, info, warn};

use super::child::Child;
use super::pending::Waiting;
use super::stderr;
use super::wire::one_line;
use crate::hub::client::outbox::Outbox;
use crate::hub::client::subscription::LISTS;
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::model::envelope::{self, Envelope, Fault, Kind, scan, spliced};
use crate::model::logline;
use crate::model::lost_reply::id_in_pieces;
use crate::model::noise;
use crate::model::out::Out;
use crate::model::text::printable;
use crate::model::torn::Part;
use crate::model::{ids, jsonrpc, method, modern};
use crate::rt::blocking::{LONG, busy};
use crate::rt::lines::{self, Line, Lines};
use crate::rt::pipe::Input;
use crate::rt::wait::{millis, recent};

/// After so long, the others have their turn.
const SLICE: Duration = Duration::from_millis(2);

/// Reads standard output to its end, or until everything comes to rest.
pub(crate) async fn read(child: Arc<Child>, pipe: Box<dyn Input>, mut input: Lines) {
    let mut last = false;
    let mut kept = child.ctx.memory.begin(child.holder());
    let mut quiesce = child.ctx.quiesce.watch();
    loop {
        if !kept.set(input.held()) {
            input.give_up();
        }
        if input.held() > LONG && (last || input.has_line()) {
            let child = child.clone();
            input = busy(move || {
                while child.take_next(&mut input, last) {}
                input
            })
            .await;
        } else {
            let mut slice = recent();
            while child.take_next(&mut input, last) {
                // What a line is the cause of may be for many sessions.
                if slice.elapsed() > SLICE {
                    yield_now().await;
                    slice = Instant::now();
                }
            }
        }
        if last {
            break;
        }
        let Some(read) = quiesce.unless_on(input.fill(&*pipe)).await else {
            return child.hand_in(|parked| parked.stdout = Some((pipe, input)));
        };
        last = !matches!(read, Ok(n) if n > 0);
        child.heard_at.store(millis(), Relaxed);
        child.spoke.fetch_or(!last, Relaxed);
    }
    child.stdout_eof.set();
}

/// Reads standard error to its end, or until everything comes to rest. It is always read, or the child would block on it;
/// what is logged of it is bounded.
pub(crate) async fn read_stderr(child: Arc<Child>, pipe: Box<dyn Input>, mut input: Lines) {
    let mut budget = stderr::Budget::default();
    let mut quiesce = child.ctx.quiesce.watch();
    let mut last = false;
    loop {
        while let Some(line) = if last { input.last() } else { input.take() } {
            let text = match line {
                Line::Whole(bytes) => printable(&String::from_utf8_lossy(bytes), lines::LOGGED),
                Line::Cut { head, length, .. } => {
                    format!("{} [a line of {length} bytes]", printable(&String::from_utf8_lossy(&head), lines::LOGGED))
                }
            };
            child.stderr.lock().push(&text);
            match budget.take(Instant::now()) {
                stderr::Take::Log { skipped } => {
                    if skipped > 0 {
                        warn!(target: logline::SAID, "[{}] ... {skipped} lines of standard error were not logged", child.server);
                    }
                    info!(target: logline::SAID, "[{}] {text}", child.server);
                }
                stderr::Take::Skip => child.ctx.counters.count(Dropped::StderrLines),
            }
        }
        if last {
            child.stderr_eof.set();
            return;
        }
        let Some(read) = quiesce.unless_on(input.fill(&*pipe)).await else {
            return child.hand_in(|parked| parked.stderr = Some((pipe, input)));
        };
        last = !matches!(read, Ok(n) if n > 0);
    }
}

impl Child {
    /// Takes the next line of its standard output; false if there is none.
    fn take_next(&self, input: &mut Lines, last: bool) -> bool {
        match if last { input.last() } else { input.take() } {
            Some(Line::Whole(bytes)) => self.take_line(bytes),
            Some(Line::Cut { head, tail, length }) => self.take_long_line(&head, &tail, length),
            None => return false,
        }
        true
    }

    fn take_line(&self, bytes: &[u8]) {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let text = std::str::from_utf8(bytes);
        let e = match text.map(scan) {
            Ok(Ok(e)) => e,
            Ok(Err(Fault::Inexact(changes))) => {
                return self.take_line(spliced(text.unwrap_or_default(), &changes).as_bytes());
            }
            Ok(Err(_)) | Err(_) => return self.take_garbage(bytes),
        };
        if e.kind == Kind::Notification && LISTS.iter().any(|list| e.method == method::list_changed(list)) {
            self.forget_lists();
        }
        match e.kind {
            Kind::Response => self.take_reply(&e),
            Kind::Request => self.take_request(&e),
            Kind::Notification if self.is_private() => self.observe_notification(&e),
            Kind::Notification if self.is_modern() => self.take_modern_notification(&e),
            Kind::Notification if e.method == method::PROGRESS => self.take_progress(&e),
            Kind::Notification => self.observe_notification(&e),
        }
    }

    /// A line that is no message.
    fn take_garbage(&self, bytes: &[u8]) {
        if let Some(messages) = std::str::from_utf8(bytes).ok().and_then(noise::messages) {
            return messages.iter().for_each(|message| self.take_line(message.as_bytes()));
        }
        self.ctx.counters.count(Dropped::Garbage);
        let text = printable(&String::from_utf8_lossy(&bytes[..bytes.len().min(200)]), 200);
        debug!("[{}] not a message on its standard output: {text}", self.server);
        let begins = |part: &[u8]| part.starts_with(b"{\"jsonrpc\"");
        if !begins(bytes) && bytes.windows(10).any(begins) && !self.mixed.swap(true, Relaxed) {
            // It may be a log that speaks of one, so it is not taken.
            warn!(
                "server '{}': a message stands behind other text in a line of its standard output and is not taken: what is \
                 no message belongs to standard error, or ends with a line feed: {text}",
                self.server
            );
        }
        match id_in_pieces(bytes, bytes) {
            // A reply for all that: who waits for it is told now and not at the timeout.
            Some(number) => {
                let why = why_not(bytes).map_or(String::new(), |why| format!(" ({why})"));
                self.unusable(number, &format!("the reply of server '{}' is not valid{why}: {text}", self.server));
            }
            None => self.take_other(bytes, &text),
        }
    }

    /// A line that is neither a message nor what is left of one.
    fn take_other(&self, bytes: &[u8], text: &str) {
        let part = self.torn.lock().line(&String::from_utf8_lossy(bytes));
        match part {
            // Some say there what they die of.
            Part::None => self.stderr.lock().push(text),
            Part::Some => {}
            Part::Id(number) => {
                let why = format!(
                    "the output of server '{}' is not one message per line: it writes line breaks into its messages, \
                     which the stdio transport does not allow",
                    self.server
                );
                self.unusable(number, &why);
            }
        }
    }

    pub(super) fn observe_notification(&self, e: &Envelope<'_>) {
        if let Some(observer) = self.observer() {
            observer.notification(self, e);
        }
    }

    fn take_request(&self, e: &Envelope<'_>) {
        let Some(id) = e.get(&e.id) else { return };
        // It asks whether the daemon is there, and not a client.
        if e.method == method::PING {
            self.send_line(&jsonrpc::result(id, "{}"));
            return;
        }
        if let Some(observer) = self.observer() {
            observer.request(self, e);
        }
    }

    fn take_reply(&self, e: &Envelope<'_>) {
        let number = e.get(&e.id).and_then(ids::number).or_else(|| self.only_question(e));
        // In the handshake it may be of anything: the shared child has been asked nothing else yet.
        let knows_us = self.info().is_some() || self.is_private();
        if number.is_none()
            && knows_us
            && !self.is_of_notification(e)
            && let Some(number) = self.sole_question()
        {
            return self.take_answer_without_id(number, e);
        }
        let waiting = number.and_then(|n| self.pending().waiting.take(n));
        match waiting {
            Some(Waiting::Client { call, .. }) => {
                self.used_at.store(self.heard_at.load(Relaxed), Relaxed);
                if call.opening
                    && let Some(revision) = e.get(&e.result).and_then(|r| envelope::member(r, "protocolVersion"))
                {
                    call.session.agree(envelope::decode(revision).into_owned());
                }
                if call.starts_task
                    && let Some(task) = modern::task_begun(e.get(&e.result))
                    && let Some(observer) = self.observer()
                {
                    observer.task_begun(&task, call.session.owner.clone());
                }
                let text = one_line(e, call.phrase(e, self.info()));
                call.answer(text, e.error.is_some());
            }
            Some(Waiting::Daemon(sender)) => {
                let answer = match (e.get(&e.result), e.get(&e.error)) {
                    (Some(result), _) => Ok(one_line(e, result.to_owned())),
                    (None, error) => Err(Error::Answered(printable(error.unwrap_or(""), 500))),
                };
                let _ = sender.try_send(answer);
            }
            Some(Waiting::Nobody | Waiting::Watch) => {}
            Some(Waiting::Subscription(subscription)) => {
                if e.error.is_some() {
                    subscription.end(one_line(e, ids::restored(e, &subscription.id)), true);
                } else {
                    subscription.finish();
                }
            }
            None => {
                // A late one: the child is done with that request.
                self.pending().forget_abandoned(number);
                self.ctx.counters.count(Dropped::UnownedReplies);
                debug!("[{}] a reply that nobody waits for: {}", self.server, printable(e.text(), 200));
            }
        }
    }

    /// Whether a reply may be to a notification: some servers answer each message, where there is nothing to answer.
    fn is_of_notification(&self, e: &Envelope<'_>) -> bool {
        let less = |n: u64| n.checked_sub(1);
        e.id.is_none() && self.unasked.fetch_update(Relaxed, Relaxed, less).is_ok()
    }

    /// The one request that waits for an answer.
    fn sole_question(&self) -> Option<u64> {
        let pending = self.pending();
        let waits = |w: &Waiting| matches!(w, Waiting::Client { .. } | Waiting::Daemon(_));
        let mut all = pending.waiting.iter().filter(|(_, w)| waits(w)).map(|(n, _)| *n);
        all.next().filter(|_| all.next().is_none())
    }

    /// A reply that names no request, while one is open. The reply may be to a request that was given up before, so no
    /// client gets its result; the client of the open request gets an error now, and not at its timeout.
    fn take_answer_without_id(&self, number: u64, e: &Envelope<'_>) {
        self.ctx.counters.count(Dropped::UnownedReplies);
        let id = printable(e.get(&e.id).unwrap_or("null"), 60);
        let said = e.get(&e.error).map_or(String::new(), |error| format!(": {}", printable(error, 300)));
        let why = format!("server '{}' answered with the id {id}, which nobody asked by{said}", self.server);
        debug!("[{}] {why}", self.server);
        self.unusable(number, &why);
    }

    /// The number of the handshake, if that is all that the child has been sent: an error that says that it was not
    /// understood, and has no id therefore, is for it (JSON-RPC 2.0 section 5).
    fn only_question(&self, e: &Envelope<'_>) -> Option<u64> {
        const NOT_UNDERSTOOD: [&str; 2] = ["-32700", "-32600"];
        let code = e.get(&e.error).and_then(|error| envelope::member(error, "code"));
        let first = e.id.is_none() && code.is_some_and(|code| NOT_UNDERSTOOD.contains(&code));
        let first = first && self.info().is_none() && !self.is_private();
        let number = self.pending().waiting.last();
        (first && number == 1).then_some(number)
    }

    /// Where the request with this token of its client waits, whose time begins anew.
    pub(crate) fn progress_owner(&self, token: &str) -> Option<Arc<Outbox>> {
        let (token, limit) = (ids::Id::from(token), self.config().request_timeout);
        let mut pending = self.pending();
        pending.waiting.values_mut().find_map(|w| match w {
            Waiting::Client { call, deadline, .. } if call.token.as_deref() == Some(&token) => {
                *deadline = Instant::now() + limit;
                Some(call.reply.clone())
            }
            _ => None,
        })
    }

    /// Progress on a request whose token is its number.
    pub(super) fn take_progress(&self, e: &Envelope<'_>) {
        let (Some(span), Some(token)) = (e.progress_token.clone(), e.get(&e.progress_token)) else { return };
        let mut pending = self.pending();
        let waiting = ids::number(token).and_then(|n| pending.waiting.get_mut(n));
        if let Some(Waiting::Client { call, deadline, .. }) = waiting
            && let Some(own) = &call.token
        {
            *deadline = Instant::now() + self.config().request_timeout;
            let text = one_line(e, spliced(e.text(), &[(span, own)]));
            let reply = call.reply.clone();
            drop(pending);
            reply.push(Out::notice(text));
        }
    }

    /// A line beyond the limit was thrown away. If its beginning or its end shows which request it answered, that
    /// request fails now and not at its timeout.
    fn take_long_line(&self, head: &[u8], tail: &[u8], length: usize) {
        let server = &self.server;
        self.ctx.counters.count(Dropped::LongLines);
        warn!(
            "[{server}] a line of {length} bytes on its standard output is over limits.reply or limits.memory and was dropped"
        );
        let Some(number) = id_in_pieces(head, tail) else { return };
        self.unusable(
            number,
            &format!(
                "the reply of server '{server}' has {length} bytes, more than limits.reply or limits.memory allows"
            ),
        );
    }

    /// A request whose answer cannot be passed on.
    fn unusable(&self, number: u64, text: &str) {
        let waiting = self.pending().waiting.take(number);
        match waiting {
            Some(Waiting::Client { call, .. }) => call.error(jsonrpc::INTERNAL_ERROR, text),
            Some(Waiting::Daemon(sender)) => drop(sender.try_send(Err(Error::Closed(text.to_owned())))),
            _ => {}
        }
    }
}

/// Where a line stops being JSON.
fn why_not(bytes: &[u8]) -> Option<String> {
    let error = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).err()?;
    let at = error.column().saturating_sub(1);
    let there = printable(&String::from_utf8_lossy(&bytes[at.min(bytes.len())..(at + 12).min(bytes.len())]), 20);
    Some(format!("it is no JSON from byte {at} on, at '{there}'"))
}
