//! Sessions of the instance: opened within limits, found by id, ended when they are idle or not allowed any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime};

use log::{debug, warn};

use super::client::endpoint::Client;
use super::client::session::Session;
use super::counters::Dropped;
use super::error::Error;
use super::hub::Hub;
use super::server::server::Server;
use crate::model::budget::Holder;
use crate::model::config::{Config, bound_principal};
use crate::model::mcp;
use crate::model::modern::Era;
use crate::model::places::{self, Place};
use crate::model::sealed::{Bound, Sealed, Shaken};
use crate::model::text::{duration, printable};
use crate::model::transport::{SessionKind, Transport};
use crate::rt::random;
use crate::rt::task;
use crate::rt::wait::{paused, sleep, timeout};
use crate::sys::accounts;

/// The least time between two looks at all sessions, however often memory is refused meanwhile.
const SHORT: Duration = Duration::from_millis(100);

/// So long a client waits for a place at most, and so many clients at a time.
const WAIT: Duration = Duration::from_secs(3);
const WAITING: u64 = 64;
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// Counts one that waits, for as long as it does.
struct Waits<'h>(&'h AtomicU64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// An id without its `session_prefix`, which may be that of another instance.
pub(super) fn without_prefix(id: &str) -> &str {
    id.rsplit_once('.').map_or(id, |(_, own)| own)
}

/// Seconds since 1970, which all hosts count alike.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Hub {
    /// Opens a session, for which it may wait a moment; the error says which limit is reached.
    pub(crate) async fn open_session_soon(
        self: &Arc<Self>,
        server: &Arc<Server>,
        transport: Transport,
        holder: Holder,
    ) -> Result<Client, Error> {
        let first = self.try_session(server, transport, holder.clone(), None);
        let many = self.waiting_for_place.fetch_add(1, SeqCst) >= WAITING;
        let _waits = Waits(&self.waiting_for_place);
        if many || !matches!(first, Err(Error::Full { .. })) {
            return self.counted(first);
        }
        let begin = Instant::now();
        loop {
            sleep(LOOK).await;
            let next = self.try_session(server, transport, holder.clone(), None);
            if !matches!(next, Err(Error::Full { .. })) || begin.elapsed() > WAIT || self.ctx.draining.is_set() {
                return self.counted(next);
            }
        }
    }

    /// Opens a session; the error says which limit is reached.
    pub(crate) fn open_session(
        self: &Arc<Self>,
        server: &Arc<Server>,
        transport: Transport,
        holder: Holder,
    ) -> Result<Client, Error> {
        self.counted(self.try_session(server, transport, holder, None))
    }

    fn counted(&self, opened: Result<Client, Error>) -> Result<Client, Error> {
        if matches!(opened, Err(Error::Full { .. })) {
            self.ctx.counters.count(Dropped::Sessions);
        }
        opened
    }

    fn try_session(
        self: &Arc<Self>,
        server: &Arc<Server>,
        transport: Transport,
        holder: Holder,
        again: Option<(&str, Shaken)>,
    ) -> Result<Client, Error> {
        let refused = |limit: u32, of: String| Err(Error::Full { limit, of });
        let limit = self.ctx.config().limits.sessions;
        if !self.has_place(limit, self.session_count.load(SeqCst), None, &holder) {
            return refused(limit, " (limits.sessions)".to_owned());
        }
        if let Some((limit, free)) = server.places() {
            let taken = if free { server.session_count() as u64 } else { limit.into() };
            if !self.has_place(limit, taken, Some(server), &holder) {
                return refused(limit, format!(" of server '{}'", server.name()));
            }
        }
        let (kind, config) = (SessionKind::Lasting(transport), self.ctx.config());
        // An id that is sealed says what comes of the handshake.
        let later = transport == Transport::Http && self.ctx.session_keys(&config).is_some();
        let id = match &again {
            Some((id, _)) => (*id).to_owned(),
            None if later || !kind.has_id() => String::new(),
            None => random::id(&config.session_prefix).map_err(Error::NoId)?,
        };
        let beginning = server.beginning(kind, id, holder, &[]);
        let session = Arc::new(Session::new(&self.ctx, self.ctx.next_session(), beginning));
        let client = match again {
            None => server.open(session),
            Some((_, shaken)) => {
                session.agree(shaken.revision.clone());
                session.restore_client(shaken.client_name());
                session.note_era(Era::Legacy);
                session.note_reopened();
                server.open_again(session, &shaken.params())
            }
        };
        self.session_count.fetch_add(1, SeqCst);
        self.note_named(&client);
        Ok(client)
    }

    /// From now on a session is found by its id, if it has one.
    fn note_named(self: &Arc<Self>, client: &Client) {
        let id = client.session.id();
        if !id.is_empty() {
            self.clients.lock().insert(id.to_owned(), client.clone());
            self.expire_sessions();
        }
    }

    /// Gives a session its id after the handshake, where it has none yet; `params` are those of its client's `initialize`, where
    /// they are known. Empty if there can be none.
    pub(crate) fn name_session<'c>(self: &Arc<Self>, client: &'c Client, params: Option<&str>) -> &'c str {
        let session = &client.session;
        if session.id().is_empty() && session.kind.has_id() && !session.is_ended() {
            let config = self.ctx.config();
            let sealed = self.ctx.session_keys(&config).and_then(|keys| {
                // An answer that takes long begins before it is known what is agreed on: mostly it is what was asked for.
                let asked = || params.and_then(mcp::asked_revision);
                let shaken = Shaken::of(session.revision().or_else(asked)?, params);
                let bound = self.bound(&config, &session.server, session.owner.as_deref());
                keys.seal(&bound, &shaken, unix_seconds(), random::bytes().ok()?)
            });
            let sealed = sealed.map(|id| random::behind(&config.session_prefix, id));
            // Where it cannot be sealed it is one of this process.
            if let Some(id) = sealed.or_else(|| random::id(&config.session_prefix).ok()) {
                session.name(id);
                self.note_named(client);
            }
        }
        session.id()
    }

    /// What the id of a session is bound to.
    pub(super) fn bound<'b>(&self, config: &'b Config, server: &'b Arc<str>, principal: Option<&'b str>) -> Bound<'b> {
        let is_bridge = self.bridge.get().is_some_and(|(bridge, _)| Arc::ptr_eq(&bridge.core.name, server));
        Bound {
            instance: &config.name,
            server: (!is_bridge).then_some(server),
            principal: principal.map(bound_principal),
        }
    }

    /// What a sealed id says, if its session is one of this server and of this principal, and was not deleted.
    fn sealed(&self, id: &str, server: &Server, holder: &Holder) -> Option<Sealed> {
        let config = self.ctx.config();
        let keys = self.ctx.session_keys(&config)?;
        let principal = holder.principal().map(|name| &**name);
        let sealed = keys.open(without_prefix(id), &self.bound(&config, &server.core.name, principal))?;
        (sealed.is_good(unix_seconds()) && !self.deleted.lock().has(&sealed.session)).then_some(sealed)
    }

    /// Goes on with a session that this process does not know, or not any more, and whose id says what has to be known of it.
    /// None if it is no such id; the error says which limit is reached.
    pub(crate) fn reopen_session(
        self: &Arc<Self>,
        id: &str,
        server: &Arc<Server>,
        holder: Holder,
    ) -> Option<Result<Client, Error>> {
        let shaken = self.sealed(id, server, &holder)?.shaken;
        debug!("server '{}': a session goes on that was opened by another process, or forgotten", server.name());
        Some(self.counted(self.try_session(server, Transport::Http, holder, Some((id, shaken)))))
    }

    /// Its client has deleted a session: its ids open nothing any more, as long as this process lives. False if there is none.
    pub(crate) fn delete_session(&self, id: &str, server: &Server, holder: &Holder) -> bool {
        let found = self.sealed(id, server, holder);
        if let Some(sealed) = &found {
            self.deleted.lock().note(&sealed.session);
        }
        found.is_some()
    }

    /// Whether there is a place for one session more (of a server, or of any); for a newcomer with little, a session that is
    /// not used any more may have to make room.
    fn has_place(&self, limit: u32, taken: u64, of: Option<&Arc<Server>>, newcomer: &Holder) -> bool {
        let limit = u64::from(limit);
        if taken < limit - places::reserve(limit) {
            return true;
        }
        let all = match of {
            Some(server) => server.core.members.clients(),
            None => self.all_clients(),
        };
        let mut lasting: Vec<Client> = all.into_iter().filter(|c| c.session.kind.is_lasting()).collect();
        lasting.sort_by_key(|c| c.session.number);
        let held = places::count(lasting.iter().map(|c| &c.session.holder));
        let own = held.get(newcomer).copied().unwrap_or(0);
        if places::is_left(limit, taken, own, held.len() as u64 - u64::from(own > 0)) {
            return true;
        }
        let place = |c: &Client| Place {
            holder: c.session.holder.clone(),
            unused: c.session.is_unused(),
            // Where the connection is the session, it is used as long as that is there.
            in_use: !c.session.kind.has_id() || c.session.is_in_use(),
            idle: c.session.idle(),
            lived: c.session.lived(),
        };
        let taken: Vec<Place> = lasting.iter().map(place).collect();
        let Some(one) = places::given_up(&taken, newcomer).and_then(|n| lasting.get(n)) else { return false };
        if !one.session.is_unused() {
            self.tell_of_room(&one.session);
        }
        self.end_session(one, "it is not used, and another needs its place");
        true
    }

    /// Says in the log that a session which was used has made room. Once a minute: where places are few, it is many.
    fn tell_of_room(&self, session: &Session) {
        if !self.room_told.is_due(Duration::from_secs(60)) {
            return;
        }
        let name = session.client().map_or_else(|| "a client".to_owned(), |name| format!("'{}'", printable(name, 64)));
        warn!(
            "server '{}': all places for sessions are taken, so the one of {name}, idle for {}, was ended for another; its \
             client {} (limits.sessions and the server's own limit; logged once a minute)",
            session.server,
            duration(Duration::from_secs(session.idle())),
            match self.ctx.session_keys(&self.ctx.config()) {
                Some(_) => "opens it again by its id (session_key)",
                None => "gets 404 and begins anew",
            }
        );
    }

    /// The session that has this id.
    pub(crate) fn session(&self, id: &str) -> Option<Client> {
        self.clients.lock().get(id).cloned()
    }

    pub(crate) fn session_count(&self) -> u64 {
        self.session_count.load(SeqCst)
    }

    /// Ends the sessions of principals that are not known any more.
    pub(crate) fn end_strangers(&self) {
        let Some(auth) = self.ctx.config().auth.clone() else { return };
        for client in self.all_clients() {
            if client.session.owner.as_ref().is_none_or(|owner| !auth.knows(owner, accounts::name_of)) {
                self.end_session(&client, "whose it is may not connect any more");
            }
        }
    }

    /// Ends a session: its open requests are cancelled, its subscriptions given up.
    pub(crate) fn end_session(&self, client: &Client, why: &str) {
        if !client.end(why) {
            return;
        }
        let session = &client.session;
        if session.kind.is_lasting() {
            self.session_count.fetch_sub(1, SeqCst);
        }
        if session.kind.has_id() {
            let all = session.names().all();
            let mut clients = self.clients.lock();
            all.iter().for_each(|id| drop(clients.remove(id)));
        }
    }

    /// Ends idle sessions, as long as there are any. Most clients never send DELETE.
    pub(super) fn expire_sessions(self: &Arc<Self>) {
        if self.expiring.swap(true, SeqCst) {
            return;
        }
        let hub = self.clone();
        task::spawn(async move {
            loop {
                let limit = hub.ctx.config().limits.idle_session;
                let least = hub.servers.all().iter().filter_map(|s| s.idle_limit()).min();
                let pace = least.map_or(limit, |least| least.min(limit)) / 10;
                let pace = pace.clamp(SHORT, Duration::from_secs(60));
                let begin = Instant::now();
                let short = timeout(pace, hub.ctx.memory.is_short()).await.is_some();
                let all: Vec<Client> = hub.clients.lock().values().cloned().collect();
                if let Some(late) = paused(begin, pace) {
                    // Their clients could not use them meanwhile.
                    all.iter().for_each(|c| c.session.forgive(late));
                    all.iter().flat_map(|c| c.endpoint.parts()).for_each(|c| c.session.forgive(late));
                }
                if short {
                    // What others need comes before what may never be asked for.
                    all.iter().for_each(|c| c.session.replay().give_up());
                    sleep(SHORT).await;
                }
                let parts = all.iter().flat_map(|c| c.endpoint.parts()).filter(|p| p.endpoint.is_private());
                let own = |c: &Client| {
                    let own = c.endpoint.idle_limit()?;
                    Some(if c.session.has_left() { own / 2 } else { own })
                };
                let limit = |c: &Client| own(c).map_or(limit, |own| own.min(limit));
                for client in all.iter().cloned().chain(parts).filter(|c| c.session.idle() > limit(c).as_secs()) {
                    hub.end_session(&client, "idle for longer than limits.idle_session, or than its server allows");
                }
                if hub.clients.lock().is_empty() {
                    hub.expiring.store(false, SeqCst);
                    return;
                }
            }
        });
    }
}
