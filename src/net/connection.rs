//! Where a connection stands, and bringing it to rest so that it can go on in another process.
//!
//! A connection is at rest between two requests, while an answer is waited for, and between two events of a stream: then
//! nothing of it is in the buffers of a library, and what is left to do can be said in a few words.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Instant;

use log::debug;

use super::conn::Conn;
use super::door::Occupant;
use super::front::Front;
use super::parked::{How, Left, ParkedConnection, ParkedHttp, Parts};
use crate::hub::{Kept, Outbox, Stream};
use crate::model::asked::{Accepts, Asked};
use crate::model::budget::Holder;
use crate::model::config::Admitted;
use crate::model::out::Out;
use crate::sys::lock::{Guard, Lock};

/// A connection as long as it lives, also as a WebSocket.
pub(crate) struct Connection {
    pub(super) front: Arc<Front>,
    pub fd: RawFd,
    /// Unique for the life of the process.
    number: u64,
    /// Where it comes from; None for this host, where many share an address.
    pub(super) address: Option<IpAddr>,
    /// It has one of the places of `limits.connections`.
    counted: bool,
    /// Counts reads that brought something.
    heard: Arc<AtomicU64>,
    /// Something could not be written yet.
    blocked: Arc<AtomicBool>,
    state: Lock<State>,
}

struct State {
    at: At,
    /// That it waits for a request since then, if it was looked for that.
    seen_idle: Option<(u64, Instant)>,
    request: Asked,
    /// The principal who asks; None where there is no `auth`.
    who: Option<Arc<Admitted>>,
    /// The address of the client that a proxy speaks for.
    client: Option<IpAddr>,
    /// It is being brought to rest: what is dropped now is put here.
    parking: bool,
    left: Left,
}

/// How far a connection is; the number is what had been heard then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Between two requests.
    Idle(u64),
    /// A request is being read or looked at.
    Busy,
    /// An answer is waited for, and nothing of it was sent.
    Waiting(u64),
    /// An event stream.
    Streaming(u64),
    /// It is a WebSocket, or about to be closed: nothing of HTTP will come of it.
    Over,
}

/// What a connection does, as far as the task that polls it has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// It waits for a request, or its stream for an event. The number changes with whatever comes.
    Nothing(u64),
    /// The head of a request is coming.
    Head,
    Something,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        self.front.door.leave(self.number, self.address);
        let ctx = &self.front.hub.ctx;
        ctx.left_at.store(ctx.seconds() + 1, SeqCst);
        ctx.connections.fetch_sub(1, SeqCst);
        self.front.closed.notify(usize::MAX);
        self.front.hub.ctx.settle();
    }
}

impl Occupant for Connection {
    fn comes_from(&self) -> Holder {
        self.address.map_or(Holder::Connection(self.number), Holder::Address)
    }

    fn idle(&self, now: Instant) -> u64 {
        let heard = self.heard();
        let mut state = self.state();
        if state.at != At::Idle(heard) {
            state.seen_idle = None;
            return 0;
        }
        match state.seen_idle {
            Some((at, since)) if at == heard => now.duration_since(since).as_secs(),
            _ => {
                state.seen_idle = Some((heard, now));
                0
            }
        }
    }

    fn shut(&self) {
        let mut state = self.state();
        if matches!(state.at, At::Idle(_)) {
            state.at = At::Over;
            // The descriptor is its own until it is over.
            let _ = nix::sys::socket::shutdown(self.fd, nix::sys::socket::Shutdown::Both);
        }
    }
}

impl Connection {
    /// A place for a connection that is counted already.
    pub(crate) fn new(
        front: &Arc<Front>,
        fd: RawFd,
        address: Option<IpAddr>,
        heard: Arc<AtomicU64>,
        blocked: Arc<AtomicBool>,
    ) -> Arc<Connection> {
        let connection = Connection::make(front, fd, address, (heard, blocked), true);
        let occupant: Arc<dyn Occupant> = connection.clone();
        front.door.enter(connection.number, address, Arc::downgrade(&occupant));
        connection
    }

    /// One that has no place, and is only told so.
    pub(crate) fn extra(front: &Arc<Front>, conn: &Conn) -> Arc<Connection> {
        Connection::make(front, conn.fd(), conn.remote_ip(), (conn.heard(), conn.blocked()), false)
    }

    fn make(
        front: &Arc<Front>,
        fd: RawFd,
        address: Option<IpAddr>,
        (heard, blocked): (Arc<AtomicU64>, Arc<AtomicBool>),
        counted: bool,
    ) -> Arc<Connection> {
        let state = State {
            at: At::Idle(0),
            seen_idle: None,
            request: Asked::default(),
            who: None,
            client: None,
            parking: false,
            left: Left::default(),
        };
        let number = front.hub.ctx.next_connection();
        let state = Lock::new(state);
        Arc::new(Connection { front: front.clone(), fd, number, address, counted, heard, blocked, state })
    }

    /// Nothing of HTTP will come of it any more.
    pub(super) fn is_over(&self) {
        self.state().at = At::Over;
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// A request has come.
    pub(crate) fn busy(&self, chunks: bool, keeps: bool, origin: Option<String>) {
        let mut state = self.state();
        state.at = At::Busy;
        state.request = Asked { chunks, keeps, origin, ..Asked::default() };
    }

    /// Who asks.
    pub(crate) fn knows(&self, who: Option<Arc<Admitted>>) {
        self.state().who = who;
    }

    /// From where its client comes, where a proxy says so that is believed.
    pub(crate) fn is_for(&self, client: Option<IpAddr>) {
        self.state().client = client;
    }

    /// From where its client comes, as far as that tells him from others.
    pub(crate) fn from(&self) -> Option<IpAddr> {
        self.state().client.or(self.address)
    }

    /// The principal who asks.
    pub(crate) fn who(&self) -> Option<Arc<str>> {
        self.state().who.as_ref().map(|who| who.name.clone())
    }

    pub(crate) fn admitted(&self) -> Option<Arc<Admitted>> {
        self.state().who.clone()
    }

    /// For whom it has places and memory: its principal, or its address, or itself where its address says nothing of who is
    /// there.
    pub(crate) fn holder(&self) -> Holder {
        let who = self.state().who.as_ref().map(|who| Holder::Principal(who.name.clone()));
        let holder = who.or_else(|| self.from().map(Holder::Address));
        holder.unwrap_or(Holder::Connection(self.number))
    }

    /// Counts something that is kept for it.
    pub(crate) fn keep(&self) -> Kept {
        self.front.hub.ctx.memory.begin(self.holder())
    }

    /// An outbox for what a child says to it, which counts: a client may be behind by two answers of the longest.
    pub(crate) fn outbox(&self, make: fn(usize) -> Outbox) -> Arc<Outbox> {
        let most = self.front.hub.ctx.config().limits.reply.bytes().saturating_mul(2);
        Arc::new(make(most).counted(self.keep()))
    }

    /// Whether who asked last would still be admitted.
    pub(crate) fn is_admitted(&self) -> bool {
        let config = self.front.hub.ctx.config();
        match (&config.auth, &self.state().who) {
            (Some(auth), Some(who)) => auth.still_admits(who),
            // A client from before there was `auth` has no principal: its session ends, and its streams with it.
            _ => true,
        }
    }

    /// It opens a session.
    pub(crate) fn opens_session(&self) {
        self.state().request.opens_session = true;
    }

    /// Its answer is waited for.
    pub(crate) fn waits(&self, accepts: Accepts) {
        let mut state = self.state();
        state.at = At::Waiting(self.heard());
        state.request.accepts = accepts;
    }

    /// Its answer is on its way as a stream.
    pub(crate) fn streams(&self) {
        self.state().at = At::Streaming(self.heard());
    }

    /// Its answer was given.
    pub(crate) fn idles(&self) {
        let mut state = self.state();
        if state.at != At::Over {
            state.at = At::Idle(self.heard());
        }
    }

    /// Nothing of it is anywhere but in our own hands. True only between two polls of the connection.
    pub(crate) fn is_quiescent(&self) -> bool {
        let at = self.state().at;
        let calm = match at {
            At::Idle(heard) | At::Waiting(heard) | At::Streaming(heard) => heard == self.heard(),
            At::Busy | At::Over => false,
        };
        calm && !self.blocked.load(Relaxed)
    }

    /// What it is doing. True only between two polls of the connection.
    pub(super) fn doing(&self) -> Doing {
        let at = self.state().at;
        match at {
            At::Idle(heard) if heard != self.heard() => Doing::Head,
            At::Idle(heard) | At::Streaming(heard) if self.is_quiescent() => Doing::Nothing(heard),
            _ => Doing::Something,
        }
    }

    /// From now on, what is dropped is kept here.
    pub(crate) fn begin_parking(&self) {
        self.state().parking = true;
    }

    pub(crate) fn is_parking(&self) -> bool {
        self.state().parking
    }

    /// Keeps a connection for the next program.
    pub(super) fn park(&self, conn: Conn) {
        let Some(left) = self.parked() else { return };
        let (is_unix, who) = (conn.is_unix(), self.admitted());
        match conn.release() {
            Ok((fd, early)) => {
                self.front.parked.put(ParkedConnection { fd, is_unix, who, early, how: How::Http(left) })
            }
            Err(e) => debug!("a connection cannot be kept: {e}"),
        }
    }

    /// What is left to do on a connection that goes on in this process, after what had it was dropped.
    pub(super) fn unparked(&self) -> Option<ParkedHttp> {
        self.state().parking = false;
        self.parked()
    }

    /// Keeps the way back for an answer.
    pub(crate) fn keep_reply(&self, parts: Parts) {
        self.state().left.reply = Some(parts);
    }

    /// Keeps what a stream had still to send.
    pub(crate) fn keep_events(&self, queue: VecDeque<Out>, head: String, stream: Option<(Arc<Stream>, u64)>) {
        let mut state = self.state();
        (state.left.queue, state.left.head, state.left.stream) = (queue, head, stream);
    }

    /// What was left to do, once the connection is dropped; None if it is nothing that could be done.
    fn parked(&self) -> Option<ParkedHttp> {
        let mut state = self.state();
        let (asked, left) = (std::mem::take(&mut state.request), std::mem::take(&mut state.left));
        match state.at {
            At::Idle(_) => Some(ParkedHttp::Idle),
            At::Waiting(_) if left.reply.is_some() => Some(ParkedHttp::Waiting(asked, left)),
            At::Streaming(_) if left.reply.is_some() => Some(ParkedHttp::Streaming(asked, left)),
            _ => None,
        }
    }
}
