//! Requests and notifications on their way down to a child, each request with an id of ours.
//!
//! Ids are never used twice, so a reply that comes too late finds no request and is swallowed.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use log::warn;

use super::byte_queue::NotQueued;
use super::child::Child;
use super::pending::Waiting;
use super::wire::append;
use crate::hub::client::call::Call;
use crate::hub::client::session::Session;
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::model::envelope::{self, Envelope, Kind};
use crate::model::modern::legacy_meta;
use crate::model::text::duration;
use crate::model::{ids, jsonrpc, method};
use crate::rt::task;
use crate::rt::wait::{millis, paused, recent, sleep};

/// The code that MCP SDKs use for a request that was not answered in time.
const TIMED_OUT: i32 = -32001;

/// Removes a request of the daemon when its caller does not wait for it any more.
struct Forget<'c>(&'c Child, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending().waiting.take(self.1);
    }
}

impl Child {
    /// Forwards a client's request. Given back if the child is dead: it can wait for the next one, because it was never
    /// sent.
    pub(crate) fn request(self: &Arc<Self>, call: Call, e: &Envelope<'_>) -> Option<Call> {
        let now = recent();
        if self.is_dead() {
            return Some(call);
        }
        // What may take long is done before others are kept waiting.
        let number = self.pending().waiting.number();
        let digits = number.to_string();
        let meta = call
            .translated
            .as_ref()
            .and_then(|_| e.get(&e.meta))
            .map(|meta| legacy_meta(meta, call.token.as_ref().map(|_| digits.as_str())));
        // A token is its client's own where there is no other client.
        let token = meta.is_none() && !self.is_private();
        let mut changes = ids::outgoing(e, &digits, token);
        if let (Some(meta), Some(span)) = (&meta, e.meta.clone()) {
            changes.push((span, meta));
            changes.sort_by_key(|(s, _)| s.start);
        }
        let mut pending = self.pending();
        if self.is_dead() {
            return Some(call);
        }
        if let Some((code, why)) = pending.closed.clone() {
            drop(pending);
            call.error(code, &why);
            return None;
        }
        let (holder, size) = (&call.session.holder, e.text().len());
        if let Err(why) = self.stdin.push(holder, size, |buffer| append(buffer, e, &changes)) {
            drop(pending);
            self.not_queued(call, why);
            return None;
        }
        self.used_at.store(millis(), Relaxed);
        let config = self.config();
        let deadline = now + config.request_timeout;
        let latest = now + config.request_max.max(config.request_timeout);
        let open = self.load.enter();
        pending.waiting.enter(number, Waiting::Client { call, deadline, latest, _open: open });
        drop(pending);
        self.tick();
        None
    }

    fn not_queued(&self, call: Call, why: NotQueued) {
        let server = &self.server;
        match why {
            NotQueued::Full => {
                self.ctx.counters.count(Dropped::ChildBusy);
                call.error(
                    jsonrpc::REFUSED,
                    &format!(
                        "server '{server}' does not read its input, and as much waits for it already as may ({} KiB, \
                         shared by its clients); try again later",
                        self.stdin.limit() >> 10
                    ),
                );
            }
            NotQueued::Closed => call.error(jsonrpc::INTERNAL_ERROR, &format!("server '{server}' is stopping")),
        }
    }

    /// Forwards a client's notification, or its answer to what the child has asked, unchanged.
    pub(crate) fn pass_on(&self, session: &Session, e: &Envelope<'_>) {
        if e.kind == Kind::Notification {
            self.unasked.fetch_add(1, Relaxed);
        }
        let queued = self.stdin.push(&session.holder, e.text().len(), |buffer| append(buffer, e, &[]));
        if queued == Err(NotQueued::Full) {
            self.ctx.counters.count(Dropped::ChildBusy);
        }
    }

    /// Sends a line of our own. False if the child is too far behind, or gone.
    pub(crate) fn send_line(&self, text: &str) -> bool {
        let queued = self.stdin.push(&self.holder(), text.len() + 1, |buffer| {
            buffer.extend_from_slice(text.as_bytes());
            buffer.push(b'\n');
        });
        queued.is_ok()
    }

    /// Sends a notification of our own.
    pub(crate) fn notify(&self, method: &str, params: Option<&str>) {
        self.unasked.fetch_add(1, Relaxed);
        self.send_line(&jsonrpc::notification(method, params));
    }

    /// Sends a request of the daemon itself whose answer does not matter. It is queued at once, in order with others.
    pub(crate) fn send_request(&self, method: &str, params: &str) {
        let mut pending = self.pending();
        if pending.closed.is_none() {
            let number = pending.waiting.number();
            if self.send_line(&jsonrpc::request(number, method, Some(params))) {
                pending.waiting.enter(number, Waiting::Nobody);
            }
        }
    }

    /// Asks the child something for the daemon itself: the `result`, or why there is none.
    pub(crate) async fn ask(&self, method: &str, params: Option<&str>) -> Result<String, Error> {
        let (sender, receiver) = async_channel::bounded(1);
        let number = {
            let mut pending = self.pending();
            if let Some((_, why)) = &pending.closed {
                return Err(Error::Closed(why.clone()));
            }
            let number = pending.waiting.number();
            pending.waiting.enter(number, Waiting::Daemon(sender));
            self.send_line(&jsonrpc::request(number, method, params));
            number
        };
        // Given up by its caller, it must not stay behind.
        let _forget = Forget(self, number);
        receiver.recv().await.unwrap_or_else(|_| Err(Error::Closed("it ended".to_owned())))
    }

    /// Takes the requests that fit out of the child's hands and tells it so; what their clients hear is the caller's
    /// affair.
    pub(crate) fn cancel(&self, wanted: impl Fn(&Call) -> bool, reason: &str) -> Vec<Call> {
        let taken = self.pending().take_calls(|call, _| wanted(call), Instant::now());
        taken
            .into_iter()
            .map(|(number, call)| {
                self.send_cancelled(number, reason);
                call
            })
            .collect()
    }

    pub(super) fn send_cancelled(&self, number: u64, reason: &str) {
        let reason = envelope::quote(reason);
        let params = format!(r#"{{"requestId":{number},"reason":{reason}}}"#);
        self.notify(method::CANCELLED, Some(&params));
    }

    /// Answers every open request with an error; none is taken any more.
    pub(crate) fn fail_all(&self, code: i32, why: &str) {
        let waiting = {
            let mut pending = self.pending();
            pending.closed = Some((code, why.to_owned()));
            pending.waiting.take_all()
        };
        for one in waiting {
            match one {
                Waiting::Client { call, .. } => call.error(code, why),
                Waiting::Daemon(sender) => drop(sender.try_send(Err(Error::Closed(why.to_owned())))),
                // Subscriptions go on with the next child.
                Waiting::Nobody | Waiting::Subscription(_) | Waiting::Watch => {}
            }
        }
    }

    /// Looks after deadlines while there are any: one timer for all requests, none when there are none.
    pub(super) fn tick(self: &Arc<Self>) {
        if self.ticking.swap(true, SeqCst) {
            return;
        }
        let child = self.clone();
        let pace = (self.config().request_timeout / 10).clamp(Duration::from_millis(20), Duration::from_secs(5));
        task::spawn(async move {
            while !child.reaped.is_set() {
                let begin = Instant::now();
                sleep(pace).await;
                if let Some(late) = paused(begin, pace) {
                    child.put_off(late);
                }
                child.expire(Instant::now());
                if child.load.is_quiet() {
                    break;
                }
            }
            child.ticking.store(false, SeqCst);
            if !child.load.is_quiet() && !child.reaped.is_set() {
                child.tick();
            }
        });
    }

    /// Gives all open requests so much longer: for that time the daemon could hear no answer.
    fn put_off(&self, late: Duration) {
        for one in self.pending().waiting.values_mut() {
            if let Waiting::Client { deadline, latest, .. } = one {
                *deadline += late;
                *latest += late;
            }
        }
    }

    /// Ends the requests whose time is over.
    pub(super) fn expire(&self, now: Instant) {
        let late = self.pending().take_calls(|_, until| now >= until, now);
        for (number, call) in late {
            self.ctx.counters.count(Dropped::Timeouts);
            self.send_cancelled(number, "the request timed out");
            let config = self.config();
            // Progress can hold a request open up to its hard limit.
            let waited =
                if call.opened.elapsed() >= config.request_max { config.request_max } else { config.request_timeout };
            let text = format!("server '{}' did not answer within {}", self.server, duration(waited));
            warn!("{text}");
            call.error(TIMED_OUT, &text);
        }
    }
}
