//! Sessions: one client's relation to a server, and the requests that it has open.

mod rest;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::Hub;
use super::batch::Collected;
use super::bridge::{TOLD, Whole};
use super::call::{Call, Held};
use super::exclusive::{Exclusive, Nest};
use super::listen::{Change, Listen};
use super::outbox::Outbox;
use super::replay::Streams;
use super::server::{Engine, Server};
use crate::model::method::Method;
use crate::model::out::Out;
use crate::model::transport::{SessionKind, Transport};
use crate::model::{ids, jsonrpc, modern};
use crate::sys::lock::{Guard, Lock};

/// One client's relation to one server.
pub struct Session {
    /// Unique for the life of the daemon; never leaves it.
    pub number: u64,
    /// The `Mcp-Session-Id`: 128 random bits. Empty for a WebSocket, whose connection is the session.
    pub id: String,
    pub kind: SessionKind,
    /// Whose it is; None where nobody is asked.
    pub owner: Option<Arc<str>>,
    pub server: Arc<Server>,
    pub hub: Arc<Hub>,
    /// Which of several children it is for.
    pub slot: usize,
    /// The revision agreed on in the handshake.
    revision: OnceLock<String>,
    /// Where messages go that answer no request: the WebSocket, or the newest GET stream.
    push: Lock<Option<Arc<Outbox>>>,
    pub(super) subscriptions: Lock<HashSet<String>>,
    listens: Lock<Vec<Arc<Listen>>>,
    /// Its client has spoken the modern era here.
    modern: AtomicBool,
    /// The child that serves it alone, where each session has one.
    exclusive: OnceLock<(Arc<Exclusive>, Duration)>,
    /// The session of the bridge that it is a part of.
    whole: OnceLock<Weak<Session>>,
    /// What only a session of the bridge has.
    bridged: OnceLock<Box<Whole>>,
    /// Requests that wait for a child to send them to.
    held: Lock<Vec<Arc<Held>>>,
    pub(super) in_flight: AtomicUsize,
    /// Open response streams and GET streams.
    streams: AtomicUsize,
    replay: Lock<Streams>,
    /// Batches whose answers are collected.
    batches: Lock<Vec<Arc<Collected>>>,
    /// Seconds of the hub's clock.
    last_used: AtomicU64,
    /// Something came after the handshake.
    used: AtomicBool,
    ended: AtomicBool,
}

impl Session {
    pub(super) fn new(
        number: u64,
        id: String,
        kind: SessionKind,
        owner: Option<Arc<str>>,
        server: Arc<Server>,
        hub: Arc<Hub>,
    ) -> Session {
        let (now, slot) = (hub.seconds(), server.least_loaded());
        Session {
            slot,
            number,
            id,
            kind,
            owner,
            server,
            hub,
            revision: OnceLock::new(),
            push: Lock::new(None),
            subscriptions: Lock::default(),
            listens: Lock::default(),
            modern: AtomicBool::new(false),
            exclusive: OnceLock::new(),
            whole: OnceLock::new(),
            bridged: OnceLock::new(),
            held: Lock::default(),
            in_flight: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            replay: Lock::default(),
            batches: Lock::default(),
            last_used: AtomicU64::new(now),
            used: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Gives the session a child of its own.
    pub(super) fn own(self: &Arc<Self>, nest: &Arc<Nest>) {
        let own = Exclusive::start(self, nest);
        self.hub.note_exclusive(&own);
        let _ = self.exclusive.set((own, nest.idle));
    }

    /// The same for a part, whose client has shaken hands with the bridge.
    pub(super) fn own_after(self: &Arc<Self>, nest: &Arc<Nest>, hello: Option<&str>) {
        let own = Exclusive::start_after(self, nest, hello);
        self.hub.note_exclusive(&own);
        let _ = self.exclusive.set((own, nest.idle));
    }

    pub(super) fn belong_to(&self, whole: &Arc<Session>) {
        let _ = self.whole.set(Arc::downgrade(whole));
    }

    /// The session of the bridge that it is a part of.
    pub fn whole(&self) -> Option<Arc<Session>> {
        self.whole.get().and_then(Weak::upgrade)
    }

    /// What only a session of the bridge has.
    pub(super) fn bridged(&self) -> &Whole {
        self.bridged.get_or_init(Default::default)
    }

    /// The same where there is something.
    pub(super) fn known_whole(&self) -> Option<&Whole> {
        self.bridged.get().map(|w| &**w)
    }

    /// The server that runs its commands, where it is connected to an executor: of several the first, by name.
    pub fn executing(&self) -> Option<Arc<Server>> {
        match self.server.engine() {
            Engine::Bridge(_) => self.hub.servers().into_iter().find(|s| s.executor().is_some()),
            Engine::Exec(_) => Some(self.server.clone()),
            _ => None,
        }
    }

    /// The child that serves it alone.
    pub fn exclusive(&self) -> Option<&Arc<Exclusive>> {
        self.exclusive.get().map(|(own, _)| own)
    }

    /// How long it may be idle where the instance's limit is `general`.
    pub fn idle_limit(&self, general: Duration) -> Duration {
        self.exclusive.get().map_or(general, |(_, idle)| general.min(*idle))
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
        let before = self.push.lock().replace(outbox);
        if let Some(before) = before {
            before.end();
        }
    }

    /// Tells the client of a change, in the way of its era.
    pub fn tell(&self, change: &Change<'_>) {
        if let Some(whole) = self.whole() {
            return whole.told(self, change);
        }
        for listen in self.listens() {
            match change {
                // A child of the modern era tells its subscribers itself.
                _ if listen.request.is_some() => {}
                Change::List { list, text } if listen.filter.wants_list(list) => {
                    listen.push(modern::tagged(text, &listen.id));
                }
                Change::Resource { uri, text } if listen.filter.uris.iter().any(|u| u == uri) => {
                    listen.push(modern::tagged(text, &listen.id));
                }
                _ => {}
            }
        }
        if self.is_modern() {
            return;
        }
        match change {
            Change::List { text, .. } => drop(self.notify(text)),
            Change::Resource { uri, text } if self.subscribed(uri) => drop(self.notify(text)),
            Change::Resource { .. } => {}
        }
    }

    /// Tells the client that the lists which the server `has` may differ: a child of that era was replaced.
    pub fn lists_changed(&self, modern: bool, has: &dyn Fn(&str) -> bool) {
        if let Some(whole) = self.whole() {
            return TOLD.into_iter().filter(|l| has(l)).for_each(|l| whole.note_change(l));
        }
        for list in ["tools", "prompts", "resources"] {
            let text = jsonrpc::notification(&format!("notifications/{list}/list_changed"), None);
            // The first message of a subscription is its acknowledgement.
            let of_era = |l: &&Arc<Listen>| l.request.is_some() == modern && l.is_acknowledged();
            for listen in self.listens().iter().filter(of_era).filter(|l| l.filter.wants_list(list)) {
                listen.push(modern::tagged(&text, &listen.id));
            }
            if has(list) && !modern && !self.is_modern() {
                self.notify(&text);
            }
        }
    }

    /// Its client speaks the modern era here, and has not shaken hands in the other one.
    pub fn is_modern(&self) -> bool {
        self.modern.load(SeqCst) && self.revision().is_none()
    }

    /// The one request of a stateless session is answered: nothing is left to give up.
    pub fn answered(&self) {
        self.ended.store(true, SeqCst);
    }

    /// Which era the client speaks here; on a connection that lasts it may begin with a question in the other one.
    pub(super) fn note_era(&self, modern: bool) {
        self.modern.store(modern, SeqCst);
    }

    pub fn listens(&self) -> Vec<Arc<Listen>> {
        self.listens.lock().clone()
    }

    /// Adds a subscription, up to a bound; false beyond it, or if its id is taken.
    pub(super) fn add_listen(&self, listen: Arc<Listen>) -> bool {
        let mut listens = self.listens.lock();
        let room = listens.len() < 100 && !listens.iter().any(|l| ids::same(&l.id, &listen.id));
        if room {
            listens.push(listen);
        }
        room
    }

    /// Takes the subscription that was opened by the request with this id.
    pub(super) fn take_listen(&self, id: &str) -> Option<Arc<Listen>> {
        let mut listens = self.listens.lock();
        let at = listens.iter().position(|l| ids::same(&l.id, id))?;
        Some(listens.remove(at))
    }

    /// Each subscription gets its last message.
    pub fn end_listens(&self) {
        self.listens().iter().for_each(|l| l.finish());
    }

    /// Sends what its own child says to it. Over HTTP that goes on the stream of the newest open request if it is
    /// `related` to one, as far as that can be known, and else on the one that was opened for such messages; on the
    /// other where there is none. Never on two (2025-11-25 basic/transports). False where there is no stream at all.
    pub fn deliver(&self, text: &str, related: bool) -> bool {
        let newest = || {
            let reply = self.exclusive().and_then(|own| own.any_link()).and_then(|link| link.newest_reply());
            reply.is_some_and(|r| r.push(Out::notice(text.to_owned())))
        };
        let kind = self.whole().map_or(self.kind, |w| w.kind);
        match related && kind == SessionKind::Lasting(Transport::Http) {
            true => newest() || self.notify(text),
            false => self.notify(text) || newest(),
        }
    }

    /// Sends what answers no request. False where there is no stream for it.
    pub fn notify(&self, text: &str) -> bool {
        self.push_outbox().is_some_and(|p| p.push(Out::notice(text.to_owned())))
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
        // Somebody is there who may be told what its part hears.
        if self.whole().is_some_and(|w| w.streams.load(SeqCst) > 0) {
            return 0;
        }
        self.hub.seconds().saturating_sub(self.last_used.load(SeqCst))
    }

    /// The batches that it has open.
    pub(super) fn batches(&self) -> Guard<'_, Vec<Arc<Collected>>> {
        self.batches.lock()
    }

    /// The streams of it that can be taken up again.
    pub fn replay(&self) -> Guard<'_, Streams> {
        self.replay.lock()
    }

    /// Where messages go that answer no request.
    pub fn push_outbox(&self) -> Option<Arc<Outbox>> {
        if let Some(whole) = self.whole() {
            return whole.push_outbox();
        }
        self.push.lock().clone()
    }

    /// In a drain: its one stream carries the answers, so it ends after the last of them.
    pub(super) async fn end_stream_when_quiet(self: Arc<Self>) {
        while self.in_flight() > 0 && !self.is_ended() && !self.hub.hurry.is_set() {
            crate::rt::wait::sleep(Duration::from_millis(10)).await;
        }
        if let Some(outbox) = self.push_outbox() {
            outbox.end();
        }
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
        if let Some(own) = self.exclusive() {
            own.end();
        }
        if let Some(push) = self.push.lock().take() {
            push.end();
        }
        first
    }

    /// A request of this session, counted until it is answered; None when the session has too many open.
    pub(super) fn open(
        self: &Arc<Self>,
        method: Method,
        id: &str,
        token: Option<&str>,
        reply: &Arc<Outbox>,
    ) -> Result<Call, String> {
        let limit = self.hub.config().limits.in_flight as usize;
        if self.in_flight.fetch_add(1, SeqCst) >= limit {
            self.in_flight.fetch_sub(1, SeqCst);
            return Err(format!("this session has {limit} unanswered requests already (limits.in_flight)"));
        }
        self.hub.in_flight.fetch_add(1, SeqCst);
        self.server.in_flight.fetch_add(1, SeqCst);
        Ok(Call::new(self, method, id, token, reply))
    }

    /// Keeps a request that waits, with its text, in reach of a cancellation. Given back if too much waits already.
    pub(super) fn hold(&self, call: Call, text: &Arc<str>) -> Result<Arc<Held>, Call> {
        let Some(waits) = self.server.wait_with(text.len()) else { return Err(call) };
        let held = Arc::new(Held::new(call, text.clone(), waits));
        self.held.lock().push(held.clone());
        Ok(held)
    }

    /// The request goes on; None if it was cancelled meanwhile.
    pub(super) fn release(&self, held: &Arc<Held>) -> Option<Call> {
        self.held.lock().retain(|h| !Arc::ptr_eq(h, held));
        held.take()
    }

    /// Takes the waiting requests that fit.
    pub(super) fn withdraw_held(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        let held = self.held.lock();
        held.iter().filter(|h| h.is(&wanted)).filter_map(|h| h.take()).collect()
    }

    pub fn subscribed(&self, uri: &str) -> bool {
        self.subscriptions.lock().contains(uri)
    }

    /// What a session may hold of us: a thousand subscriptions of a length that URIs have.
    pub(super) fn may_subscribe(&self, uri: &str) -> bool {
        let held = self.subscriptions.lock().len();
        uri.len() <= 8 << 10 && held < 1000
    }

    pub(super) fn subscribe(&self, uri: &str) {
        self.subscriptions.lock().insert(uri.to_owned());
    }

    /// True if it was subscribed.
    pub(super) fn unsubscribe(&self, uri: &str) -> bool {
        self.subscriptions.lock().remove(uri)
    }

    pub fn has_subscriptions(&self) -> bool {
        !self.subscriptions.lock().is_empty()
    }

    pub fn all_subscriptions(&self) -> Vec<String> {
        self.subscriptions.lock().iter().cloned().collect()
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
