//! Sessions: one client's relation to a server.
//!
//! Knows the client's side: what was agreed with it, where its messages go, and how long it has been silent. It must not
//! know what stands behind: no server, no child. Who answers it is its [`super::endpoint::Endpoint`].

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_lite::FutureExt;

use super::batch::Batches;
use super::names::Names;
use super::outbox::{Bounded, Outbox};
use super::replay::{ResumableStreams, Stream};
use super::subscription::{Change, LISTS, Subscription};
use super::watchers::Watchers;
use crate::hub::context::Context;
use crate::hub::load::Load;
use crate::hub::memory::Kept;
use crate::model::budget::Holder;
use crate::model::ids::Id;
use crate::model::mcp;
use crate::model::modern::Era;
use crate::model::out::Out;
use crate::model::transport::SessionKind;
use crate::model::{jsonrpc, method, modern};
use crate::sys::lock::{Guard, Lock};

/// The most subscriptions of each kind that a session may have.
const SUBSCRIPTIONS: usize = 100;
const WATCHED: usize = 1000;
/// The longest URI that may be subscribed to, in bytes.
const URI: usize = 8 << 10;
/// The most of all URIs that the subscriptions of a session are for, in bytes.
const URIS: usize = 1 << 20;

/// Hears of changes in place of the client of a part, and tells them in the words of the whole.
pub(crate) trait PartObserver: Send + Sync {
    /// A server has told a part that something has changed.
    fn changed(&self, part: &Session, change: &Change<'_>);
}

/// What a session begins with.
pub(crate) struct Beginning {
    pub kind: SessionKind,
    /// The `Mcp-Session-Id`. Empty where the connection is the session, or where the id says what comes of the handshake.
    pub id: String,
    /// Whose it is.
    pub holder: Holder,
    /// The name of the server that it is at.
    pub server: Arc<str>,
    /// Which of several children it is for.
    pub place: usize,
    /// What its requests count for beside itself.
    pub above: Vec<Arc<Load>>,
    /// Where the resources that it watches are counted with those of others.
    pub watchers: Arc<Watchers>,
}

/// One client's relation to one server.
pub(crate) struct Session {
    /// Unique for the life of the daemon; never leaves it.
    pub number: u64,
    names: Names,
    pub kind: SessionKind,
    /// The principal whose it is; None where there is no `auth`.
    pub owner: Option<Arc<str>>,
    /// For whom it has its place and its memory: the principal, or where it was opened from.
    pub holder: Holder,
    /// The name of the server that it is at.
    pub server: Arc<str>,
    pub ctx: Arc<Context>,
    /// Which of several children it is for.
    pub place: usize,
    /// Its open requests.
    pub load: Arc<Load>,
    /// The revision agreed on in the handshake.
    revision: OnceLock<String>,
    /// What its client says it is: name and version. Empty where it does not say.
    client: OnceLock<Box<str>>,
    /// Where its client is.
    address: OnceLock<IpAddr>,
    /// Where messages go that answer no request: the WebSocket, or the newest GET stream.
    push: Lock<Option<Arc<Outbox>>>,
    /// The resources that it has subscribed to with `resources/subscribe`.
    watched: Lock<HashSet<String>>,
    watchers: Arc<Watchers>,
    subscriptions: Lock<Vec<Arc<Subscription>>>,
    /// Its client has spoken the modern era here.
    modern: AtomicBool,
    /// The session of the bridge that it is a part of.
    whole: OnceLock<(Weak<Session>, Weak<dyn PartObserver>)>,
    /// Open response streams and GET streams.
    streams: AtomicUsize,
    replay: Arc<Lock<ResumableStreams>>,
    /// Its client has had a stream for what answers no request.
    listened: AtomicBool,
    /// Counts what it keeps of its client's wishes.
    wishes: Lock<Kept>,
    pub batches: Arc<Batches>,
    /// Seconds of the hub's clock.
    last_used: AtomicU64,
    /// The second in which it began.
    begun: AtomicU64,
    /// A message has come after the handshake.
    used: AtomicBool,
    /// It was opened by its id: what its client was told before may have changed, and it has not heard of that.
    reopened: AtomicBool,
    ended: AtomicBool,
    /// Hears its number once it is gone.
    gone: OnceLock<Box<dyn Fn(u64) + Send + Sync>>,
}

impl Session {
    pub(crate) fn new(ctx: &Arc<Context>, number: u64, from: Beginning) -> Session {
        let kept = || ctx.memory.begin(from.holder.clone());
        Session {
            replay: Arc::new(Lock::new(ResumableStreams::counted(kept()))),
            wishes: Lock::new(kept()),
            number,
            names: Names::new(from.id, ctx.seconds()),
            kind: from.kind,
            owner: from.holder.principal().cloned(),
            holder: from.holder,
            server: from.server,
            ctx: ctx.clone(),
            place: from.place,
            load: Load::below(from.above),
            revision: OnceLock::new(),
            client: OnceLock::new(),
            address: OnceLock::new(),
            push: Lock::new(None),
            watched: Lock::default(),
            watchers: from.watchers,
            subscriptions: Lock::default(),
            modern: AtomicBool::new(false),
            whole: OnceLock::new(),
            streams: AtomicUsize::new(0),
            listened: AtomicBool::new(false),
            batches: Arc::default(),
            last_used: AtomicU64::new(ctx.seconds()),
            begun: AtomicU64::new(ctx.seconds()),
            used: AtomicBool::new(false),
            reopened: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            gone: OnceLock::new(),
        }
    }

    /// The `Mcp-Session-Id`. Empty where the connection is the session, and until the session has a name.
    pub(crate) fn id(&self) -> &str {
        self.names.first()
    }

    /// Gives it its id. Only the first call of this counts.
    pub(crate) fn name(&self, id: String) {
        self.names.name(id);
    }

    /// All of its ids.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Begins to count something that is kept for it.
    pub(crate) fn keep(&self) -> Kept {
        self.ctx.memory.begin(self.holder.clone())
    }

    /// Calls `gone` with the number of this session when the session is dropped. Only the first call of this function counts.
    pub(crate) fn when_gone(&self, gone: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.gone.set(Box::new(gone));
    }

    /// Makes it a part of a session of the bridge.
    pub(crate) fn belong_to(&self, whole: &Arc<Session>, told: Weak<dyn PartObserver>) {
        let _ = self.whole.set((Arc::downgrade(whole), told));
    }

    /// The session of the bridge that it is a part of.
    pub(crate) fn whole(&self) -> Option<Arc<Session>> {
        self.whole.get().and_then(|(whole, _)| whole.upgrade())
    }

    pub(crate) fn is_part(&self) -> bool {
        self.whole.get().is_some()
    }

    // --- the handshake -----------------------------------------------------------------------------------------------

    /// The revision agreed on.
    pub(crate) fn revision(&self) -> Option<&str> {
        self.revision.get().map(String::as_str)
    }

    pub(crate) fn agree(&self, revision: String) {
        let _ = self.revision.set(revision);
    }

    /// What its client says it is, once it could say so; empty where it did not.
    pub(crate) fn client(&self) -> Option<&str> {
        self.client.get().map(|name| &**name)
    }

    /// Where its client is, as far as that is known.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address.get().copied()
    }

    /// Notes where its client is. The first word counts.
    pub(crate) fn note_address(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            self.address.get_or_init(|| address);
        }
    }

    /// Notes what its client says it is, from `clientInfo` as it stands in a message. The first word counts.
    pub(crate) fn note_client(&self, info: Option<&str>) {
        self.client.get_or_init(|| info.map(mcp::client_name).unwrap_or_default().into());
    }

    pub(crate) fn restore_client(&self, name: String) {
        let _ = self.client.set(name.into());
    }

    /// Its client speaks the modern era here, and has not shaken hands in the other one.
    pub(crate) fn is_modern(&self) -> bool {
        self.modern.load(SeqCst) && self.revision().is_none()
    }

    /// Its client has spoken the modern era here last, for the handover document.
    pub(crate) fn has_spoken_modern(&self) -> bool {
        self.modern.load(SeqCst)
    }

    /// Notes which era the client speaks here; on a connection that lasts it may begin with a question in the other one.
    pub(crate) fn note_era(&self, era: Era) {
        self.modern.store(era == Era::Modern, SeqCst);
    }

    // --- changes -----------------------------------------------------------------------------------------------------

    /// Tells the client of a change, in the way of its era.
    pub(crate) fn notify_client(&self, change: &Change<'_>) {
        if let Some((_, whole)) = self.whole.get() {
            if let Some(whole) = whole.upgrade() {
                whole.changed(self, change);
            }
            return;
        }
        for subscription in self.subscriptions() {
            match change {
                // A child of the modern era tells its subscribers itself.
                _ if subscription.request.is_some() => {}
                Change::List { list, text } if subscription.filter.wants_list(list) => {
                    subscription.push(modern::tagged(text, &subscription.id));
                }
                Change::Resource { uri, text } if subscription.filter.has(uri) => {
                    subscription.push(modern::tagged(text, &subscription.id));
                }
                _ => {}
            }
        }
        if self.is_modern() {
            return;
        }
        match change {
            Change::List { text, .. } => drop(self.notify(text)),
            Change::Resource { uri, text } if self.is_watching(uri) => drop(self.notify(text)),
            Change::Resource { .. } => {}
        }
    }

    /// Tells the client that the lists which the server `has` may differ: a child of this era was replaced.
    pub(crate) fn lists_changed(&self, era: Era, has: &dyn Fn(&str) -> bool) {
        for list in LISTS {
            let text = jsonrpc::notification(method::list_changed(list), None);
            if self.is_part() {
                if has(list) {
                    self.notify_client(&Change::List { list, text: &text });
                }
                continue;
            }
            // The first message of a subscription is its acknowledgement.
            let forwarded = era == Era::Modern;
            let of_era = |s: &&Arc<Subscription>| s.request.is_some() == forwarded && s.is_acknowledged();
            for subscription in self.subscriptions().iter().filter(of_era).filter(|s| s.filter.wants_list(list)) {
                subscription.push(modern::tagged(&text, &subscription.id));
            }
            if has(list) && era == Era::Legacy && !self.is_modern() {
                self.notify(&text);
            }
        }
    }

    /// Sends what answers no request. False where there is no stream for it.
    pub(crate) fn notify(&self, text: &str) -> bool {
        self.push_outbox().is_some_and(|p| p.push(Out::notice(text.to_owned())))
    }

    // --- where messages go -------------------------------------------------------------------------------------------

    /// Makes `outbox` the place for messages that answer no request; the one before is ended, so that each message
    /// goes to exactly one stream (2025-11-25 basic/transports).
    pub(crate) fn attach(&self, outbox: Arc<Outbox>) {
        self.listened.store(true, SeqCst);
        if let Some(before) = self.push.replace(Some(outbox)) {
            before.end();
        }
    }

    /// Where messages go that answer no request.
    pub(crate) fn push_outbox(&self) -> Option<Arc<Outbox>> {
        match self.whole.get() {
            Some((whole, _)) => whole.upgrade()?.push_outbox(),
            None => self.push.get(),
        }
    }

    /// Its own outbox of that kind, for the handover document.
    pub(crate) fn own_push(&self) -> Option<Arc<Outbox>> {
        self.push.get()
    }

    /// Goes on with the outbox that another program had for it.
    pub(crate) fn restore_push(&self, outbox: Option<Arc<Outbox>>) {
        self.push.replace(outbox);
    }

    /// The streams of it that can be taken up again.
    pub(crate) fn replay(&self) -> Guard<'_, ResumableStreams> {
        self.replay.lock()
    }

    /// What keeps those streams within their bounds.
    pub(crate) fn bounds(&self) -> Weak<dyn Bounded> {
        let replay: Arc<dyn Bounded> = self.replay.clone();
        Arc::downgrade(&replay)
    }

    /// A stream, for what comes out of an outbox, that can be taken up again.
    pub(crate) fn open_stream(&self, outbox: &Arc<Outbox>) -> Arc<Stream> {
        outbox.make_resumable(self.bounds());
        self.replay().open(outbox.clone())
    }

    /// Counts a stream for as long as the guard lives.
    pub(crate) fn stream(self: &Arc<Self>) -> StreamGuard {
        self.streams.fetch_add(1, SeqCst);
        StreamGuard(self.clone())
    }

    /// In a drain: its one stream carries the answers, so it ends after the last of them.
    pub(crate) async fn end_stream_when_quiet(self: Arc<Self>) {
        self.load.quiet().or(self.ctx.end_drain.wait()).await;
        if let Some(outbox) = self.push_outbox() {
            outbox.end();
        }
    }

    // --- subscriptions -----------------------------------------------------------------------------------------------

    /// Those of these resources that none of its subscriptions is for.
    pub(crate) fn given_up<'u>(&self, uris: &'u [String]) -> Vec<&'u str> {
        let all = self.subscriptions();
        uris.iter().map(String::as_str).filter(|uri| !all.iter().any(|s| s.filter.has(uri))).collect()
    }

    /// Its subscriptions of the modern era that have not ended.
    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        let mut all = self.subscriptions.lock();
        all.retain(|s| !s.is_ended());
        all.clone()
    }

    /// Adds a subscription; false beyond the bounds of their number and of what they are for, or if its id is taken.
    pub(crate) fn add_subscription(&self, one: Arc<Subscription>) -> bool {
        let mut all = self.subscriptions.lock();
        all.retain(|s| !s.is_ended());
        let (mut uris, mut bytes) = (0, 0);
        for s in all.iter().chain([&one]) {
            uris += s.filter.uris.len();
            bytes += s.bytes();
        }
        let room = all.len() < SUBSCRIPTIONS && uris <= WATCHED && bytes <= URIS && self.has_memory(bytes, &[]);
        let free = room && !all.iter().any(|s| s.id == one.id);
        if free {
            all.push(one);
        }
        free
    }

    /// Takes the subscription that was opened by the request with this id.
    pub(crate) fn take_subscription(&self, id: &Id) -> Option<Arc<Subscription>> {
        let mut all = self.subscriptions.lock();
        let at = all.iter().position(|s| s.id == *id)?;
        Some(all.remove(at)).filter(|s| !s.is_ended())
    }

    /// Each subscription gets its last message.
    pub(crate) fn end_subscriptions(&self) {
        self.subscriptions().iter().for_each(|s| s.finish());
    }

    /// Whether it has subscribed to a resource with `resources/subscribe`.
    pub(crate) fn is_watching(&self, uri: &str) -> bool {
        self.watched.lock().contains(uri)
    }

    /// Whether it may subscribe to one resource more: a thousand, of a length that URIs have.
    pub(crate) fn may_watch(&self, uri: &str) -> bool {
        let subscriptions = self.subscriptions().iter().map(|s| s.bytes()).sum();
        uri.len() <= URI && self.watched.lock().len() < WATCHED && self.has_memory(subscriptions, &[uri])
    }

    /// Whether there is memory for subscriptions of so many bytes, for all resources that it watches, and these.
    fn has_memory(&self, subscriptions: usize, more: &[&str]) -> bool {
        let watched = self.watched.lock();
        let all = watched.iter().map(String::as_str).chain(more.iter().copied());
        self.wishes.lock().set(subscriptions + all.map(str::len).sum::<usize>())
    }

    pub(crate) fn watch(&self, uri: &str) {
        if self.watched.lock().insert(uri.to_owned()) {
            self.watchers.add(uri, self.place);
        }
    }

    /// True if it was subscribed to it.
    pub(crate) fn unwatch(&self, uri: &str) -> bool {
        let known = self.watched.lock().remove(uri);
        if known {
            self.watchers.remove(uri, self.place);
        }
        known
    }

    /// Every resource that it has subscribed to.
    pub(crate) fn watched(&self) -> Vec<String> {
        self.watched.lock().iter().cloned().collect()
    }

    /// Every resource that it has subscribed to, which it is no more.
    pub(crate) fn take_watched(&self) -> Vec<String> {
        let all: Vec<String> = self.watched.take().into_iter().collect();
        all.iter().for_each(|uri| self.watchers.remove(uri, self.place));
        all
    }

    /// It waits to be told of something.
    pub(crate) fn waits_for_changes(&self, era: Era) -> bool {
        !self.subscriptions().is_empty() || (era == Era::Legacy && !self.watched.lock().is_empty())
    }

    // --- its life ----------------------------------------------------------------------------------------------------

    pub(crate) fn touch(&self) {
        self.last_used.store(self.ctx.seconds(), SeqCst);
    }

    /// So much time does not count as idle.
    pub(crate) fn forgive(&self, time: Duration) {
        let later = self.last_used.load(SeqCst).saturating_add(time.as_secs() + 1);
        self.last_used.store(later.min(self.ctx.seconds()), SeqCst);
    }

    /// Seconds since it was last used, for the handover document.
    pub(crate) fn unused_for(&self) -> u64 {
        self.ctx.seconds().saturating_sub(self.last_used.load(SeqCst))
    }

    /// Seconds from its beginning to its last use.
    pub(crate) fn lived(&self) -> u64 {
        self.last_used.load(SeqCst).saturating_sub(self.begun.load(SeqCst))
    }

    /// Goes on with what another program has seen of its use.
    pub(crate) fn restore_use(&self, unused_for: u64, used: bool, lived: u64) {
        let last_used = self.ctx.seconds().saturating_sub(unused_for);
        self.last_used.store(last_used, SeqCst);
        self.begun.store(last_used.saturating_sub(lived), SeqCst);
        self.used.store(used, SeqCst);
    }

    /// A client that has only opened it so far, as scanners and broken probes do.
    pub(crate) fn is_unused(&self) -> bool {
        !self.used.load(SeqCst)
    }

    /// It goes on after another process, or after it was forgotten.
    pub(crate) fn note_reopened(&self) {
        self.note_use();
        self.reopened.store(true, SeqCst);
        // Its id may be old.
        self.names.look_at(0);
    }

    /// Whether its client is to be told that lists may differ; once.
    pub(crate) fn take_reopened(&self) -> bool {
        self.reopened.swap(false, SeqCst)
    }

    pub(crate) fn note_use(&self) {
        self.used.store(true, SeqCst);
    }

    /// A stream or a request is open.
    pub(crate) fn is_in_use(&self) -> bool {
        // The whole has a client who may be told what its part hears.
        let streams = |session: &Session| session.streams.load(SeqCst) > 0;
        streams(self) || !self.load.is_quiet() || self.whole().is_some_and(|whole| streams(&whole))
    }

    /// Its client has listened, and listens no more: mostly it has gone away without a word.
    pub(crate) fn has_left(&self) -> bool {
        let listened = |session: &Session| session.listened.load(SeqCst);
        !self.is_in_use() && (listened(self) || self.whole().is_some_and(|whole| listened(&whole)))
    }

    /// Seconds since the last sign of life; 0 while it is in use.
    pub(crate) fn idle(&self) -> u64 {
        if self.is_in_use() { 0 } else { self.unused_for() }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// The one request that it stood for is answered: nothing is left to give up.
    pub(crate) fn answered(&self) {
        self.ended.store(true, SeqCst);
    }

    /// Marks the end; true the first time.
    pub(crate) fn end(&self, why: &str) -> bool {
        let first = !self.ended.swap(true, SeqCst);
        if let Some(push) = self.push.take() {
            push.end_because(why);
        }
        first
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.take_watched();
        if let Some(gone) = self.gone.get() {
            gone(self.number);
        }
    }
}

/// Counts a stream of a session for as long as it lives ([`Session::stream`]).
pub(crate) struct StreamGuard(Arc<Session>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.touch();
        self.0.streams.fetch_sub(1, SeqCst);
    }
}
