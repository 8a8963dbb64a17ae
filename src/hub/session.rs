//! Sessions: one client's relation to a server, and the requests that it has open.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::Hub;
use super::outbox::{Out, Outbox};
use super::server::Server;
use super::wait::Flag;
use crate::model::jsonrpc;

/// How a session's client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Http,
    WebSocket,
}

/// One client's relation to one server.
pub struct Session {
    /// Unique for the life of the daemon; never leaves it.
    pub number: u64,
    /// The `Mcp-Session-Id`: 128 random bits. Empty for a WebSocket, whose connection is the session.
    pub id: String,
    pub transport: Transport,
    pub server: Arc<Server>,
    pub hub: Arc<Hub>,
    /// The revision agreed on in the handshake.
    revision: OnceLock<String>,
    /// Where messages go that answer no request: the WebSocket, or the newest GET stream.
    push: Mutex<Option<Arc<Outbox>>>,
    pub(super) subscriptions: Mutex<HashSet<String>>,
    /// Requests that wait for a child to send them to.
    held: Mutex<Vec<Arc<Held>>>,
    in_flight: AtomicUsize,
    /// Open response streams and GET streams.
    streams: AtomicUsize,
    /// Seconds of the hub's clock.
    last_used: AtomicU64,
    /// Something came after the handshake.
    used: AtomicBool,
    ended: AtomicBool,
}

impl Session {
    pub(super) fn new(number: u64, id: String, transport: Transport, server: Arc<Server>, hub: Arc<Hub>) -> Session {
        let now = hub.seconds();
        Session {
            number,
            id,
            transport,
            server,
            hub,
            revision: OnceLock::new(),
            push: Mutex::new(None),
            subscriptions: Mutex::default(),
            held: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            last_used: AtomicU64::new(now),
            used: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    pub fn revision(&self) -> Option<&str> {
        self.revision.get().map(String::as_str)
    }

    pub(super) fn agree(&self, revision: String) {
        let _ = self.revision.set(revision);
    }

    /// Makes `outbox` the place for messages that answer no request; the one before is ended, so that each message
    /// goes to exactly one stream (2025-11-25 basic/transports).
    pub fn attach(&self, outbox: Arc<Outbox>) {
        let before = self.push.lock().unwrap_or_else(PoisonError::into_inner).replace(outbox);
        if let Some(before) = before {
            before.end();
        }
    }

    /// Sends what answers no request. False where there is no stream for it.
    pub fn notify(&self, text: &str) -> bool {
        let push = self.push.lock().unwrap_or_else(PoisonError::into_inner).clone();
        push.is_some_and(|p| p.push(Out { text: text.to_owned(), answer: false, failed: false }))
    }

    pub fn touch(&self) {
        self.last_used.store(self.hub.seconds(), SeqCst);
    }

    /// A client that has only opened it so far, as scanners and broken probes do.
    pub fn is_unused(&self) -> bool {
        !self.used.load(SeqCst)
    }

    pub(super) fn note_use(&self) {
        self.used.store(true, SeqCst);
    }

    /// Seconds since the last sign of life; 0 while a stream or a request is open.
    pub fn idle(&self) -> u64 {
        if self.streams.load(SeqCst) > 0 || self.in_flight.load(SeqCst) > 0 {
            return 0;
        }
        self.hub.seconds().saturating_sub(self.last_used.load(SeqCst))
    }

    /// Counts a stream for as long as the guard lives.
    pub fn stream(self: &Arc<Self>) -> StreamGuard {
        self.streams.fetch_add(1, SeqCst);
        StreamGuard(self.clone())
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
    }

    pub fn is_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// Marks the end; true the first time. The hub does the rest.
    pub(super) fn end(&self) -> bool {
        let first = !self.ended.swap(true, SeqCst);
        if let Some(push) = self.push.lock().unwrap_or_else(PoisonError::into_inner).take() {
            push.end();
        }
        first
    }

    /// A request of this session, counted until it is answered; None when the session has too many open.
    pub(super) fn open(self: &Arc<Self>, id: &str, token: Option<&str>, reply: &Arc<Outbox>) -> Result<Call, String> {
        let limit = self.hub.config().limits.in_flight as usize;
        if self.in_flight.fetch_add(1, SeqCst) >= limit {
            self.in_flight.fetch_sub(1, SeqCst);
            return Err(format!("this session has {limit} unanswered requests already (limits.in_flight)"));
        }
        self.hub.in_flight.fetch_add(1, SeqCst);
        self.server.in_flight.fetch_add(1, SeqCst);
        Ok(Call {
            session: self.clone(),
            reply: reply.clone(),
            id: id.into(),
            token: token.map(Into::into),
            opened: Instant::now(),
            failed: true,
            subscribes: None,
        })
    }

    /// Keeps a request of so many bytes that waits, in reach of a cancellation. Given back if too much waits already.
    pub(super) fn hold(&self, call: Call, size: usize) -> Result<Arc<Held>, Call> {
        let server = self.server.clone();
        if server.held.fetch_add(size, SeqCst) > super::route::HELD {
            server.held.fetch_sub(size, SeqCst);
            return Err(call);
        }
        let held = Arc::new(Held { call: Mutex::new(Some(call)), withdrawn: Flag::default(), server, size });
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held.clone());
        Ok(held)
    }

    /// The request goes on; None if it was cancelled meanwhile.
    pub(super) fn release(&self, held: &Arc<Held>) -> Option<Call> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|h| !Arc::ptr_eq(h, held));
        held.take()
    }

    /// Takes the waiting requests that fit.
    pub(super) fn withdraw_held(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |h: &Held| h.call.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(&wanted);
        held.iter().filter(|h| fits(h)).filter_map(|h| h.take()).collect()
    }
}

/// See [`Session::hold`].
pub(super) struct Held {
    call: Mutex<Option<Call>>,
    /// The call was taken: whoever waits has nothing to wait for.
    pub withdrawn: Flag,
    server: Arc<Server>,
    size: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.server.held.fetch_sub(self.size, SeqCst);
    }
}

impl Held {
    fn take(&self) -> Option<Call> {
        self.withdrawn.set();
        self.call.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// See [`Session::stream`].
pub struct StreamGuard(Arc<Session>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.touch();
        self.0.streams.fetch_sub(1, SeqCst);
    }
}

/// One request of a client that waits for its answer: the way back, and the client's own id and token as it wrote
/// them. Dropped unanswered, it only counts as failed (the client cancelled it, or its session ended).
pub struct Call {
    pub session: Arc<Session>,
    pub reply: Arc<Outbox>,
    pub id: Box<str>,
    pub token: Option<Box<str>>,
    pub opened: Instant,
    failed: bool,
    /// The session subscribes to this resource if the server agrees.
    pub(super) subscribes: Option<Box<str>>,
}

impl Call {
    /// Answers with a whole message that carries the client's id.
    pub fn answer(mut self, text: String, failed: bool) {
        self.failed = failed;
        if let Some(uri) = self.subscribes.take().filter(|_| !failed) {
            self.session.subscribe(&uri);
        }
        self.reply.push(Out { text, answer: true, failed });
    }

    pub fn result(self, result: &str) {
        let text = jsonrpc::result(&self.id, result);
        self.answer(text, false);
    }

    /// Nobody wants the answer any more: what was made to carry it ends without one.
    pub fn withdraw(self) {
        if self.reply.is_single() {
            self.reply.end();
        }
    }

    pub fn error(self, code: i32, message: &str) {
        let text = jsonrpc::error(Some(&self.id), code, message);
        self.answer(text, true);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (session, hub) = (&self.session, &self.session.hub);
        session.in_flight.fetch_sub(1, SeqCst);
        session.server.in_flight.fetch_sub(1, SeqCst);
        let (took, second) = (self.opened.elapsed(), hub.seconds());
        session.server.meter.record(took, self.failed, second);
        hub.meter.record(took, self.failed, second);
        hub.in_flight.fetch_sub(1, SeqCst);
    }
}
