//! Between clients and servers: servers and their children, sessions, routing.
//!
//! The hub knows children and messages. It must not know HTTP or WebSocket: a client is an [`outbox::Outbox`] to it.

pub mod batch;
pub mod bridge;
pub mod call;
pub mod counters;
pub mod events;
pub mod exclusive;
pub mod exec;
pub mod handover;
pub mod link;
pub mod listen;
pub mod modern;
pub mod outbox;
pub mod pulse;
pub mod reload;
pub mod replay;
mod retire;
pub mod route;
pub mod server;
pub mod session;
pub mod slot;
pub mod starting;
pub mod stderr;
pub mod supervisor;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use event_listener::Event;
use log::debug;

use counters::{Counters, Dropped};
use link::Link;
use outbox::Outbox;
use server::Server;
use session::Session;

use crate::model::config::{self, Config, Kind};
use crate::model::meter::Meters;
use crate::model::status::ServerState;
use crate::model::text::count;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::main_thread::Spawner;
use crate::rt::random;
use crate::rt::wait::{self, Flag, Switch, sleep};
use crate::sys::lock::Lock;

/// What is fixed at the start of the process.
pub struct Boot {
    pub spawner: Spawner,
    /// The soft limit of open files that children get.
    pub nofile: u64,
    /// The beginning of every child's mark: instance, pid and start time.
    pub mark: String,
    pub at: Instant,
}

/// A session that is opened and not used gets this many seconds before it has to make room.
const UNUSED: u64 = 10;

/// All servers and sessions of the instance.
pub struct Hub {
    pub boot: Boot,
    config: Lock<Arc<Config>>,
    servers: Lock<BTreeMap<String, Arc<Server>>>,
    /// What stands for all of them; made at the start.
    bridge: OnceLock<Arc<Server>>,
    /// HTTP sessions by id.
    sessions: Lock<HashMap<String, Arc<Session>>>,
    session_count: AtomicU64,
    numbers: AtomicU64,
    serials: AtomicU64,
    expiring: AtomicBool,
    pub counters: Counters,
    pub meters: Meters,
    pub in_flight: AtomicU64,
    pub connections: AtomicU64,
    /// No new requests.
    pub draining: Flag,
    /// Everything comes to rest, to go on in another process.
    pub freeze: Switch,
    /// What did not come to rest in time says good-bye.
    pub give_up: Switch,
    /// The drain is cut short.
    pub hurry: Flag,
    /// So is the ladder on which children go down: SIGKILL at once.
    pub cut: Flag,
    /// Open GET streams, which end when a drain begins.
    streams: Lock<Vec<std::sync::Weak<Outbox>>>,
    /// Children that were replaced or removed by a reload, and still have requests to finish.
    retiring: Lock<Vec<retire::Retiring>>,
    events: events::Events,
    /// Every child, wherever it is on its way.
    links: Lock<Vec<std::sync::Weak<Link>>>,
    change: Event,
    change_count: AtomicU64,
}

impl Hub {
    pub fn new(boot: Boot, config: Arc<Config>) -> Arc<Hub> {
        let naming = config.bridge.clone().unwrap_or_default();
        let hub = Arc::new(Hub {
            boot,
            config: Lock::new(config),
            servers: Lock::default(),
            bridge: OnceLock::new(),
            sessions: Lock::default(),
            session_count: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            serials: AtomicU64::new(0),
            expiring: AtomicBool::new(false),
            counters: Counters::default(),
            meters: Meters::default(),
            in_flight: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            draining: Flag::default(),
            freeze: Switch::default(),
            give_up: Switch::default(),
            hurry: Flag::default(),
            cut: Flag::default(),
            streams: Lock::default(),
            retiring: Lock::default(),
            events: events::Events::default(),
            links: Lock::default(),
            change: Event::new(),
            change_count: AtomicU64::new(0),
        });
        let _ = hub.bridge.set(hub.make_bridge(&naming));
        hub
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.lock().clone()
    }

    /// Whole seconds since the start.
    pub fn seconds(&self) -> u64 {
        self.boot.at.elapsed().as_secs()
    }

    /// A mark for one child and all that it starts.
    pub fn next_mark(&self) -> String {
        format!("{}{}", self.boot.mark, self.serials.fetch_add(1, SeqCst) + 1)
    }

    /// Something that the status document tells has changed.
    pub fn changed(&self) {
        self.change_count.fetch_add(1, SeqCst);
        self.change.notify(usize::MAX);
    }

    /// Waits for a change after the `seen`th; gives the count now.
    pub async fn change_after(&self, seen: u64) -> u64 {
        let newer = || Some(self.change_count.load(SeqCst)).filter(|n| *n > seen);
        wait::until(&self.change, newer).await
    }

    pub fn server(&self, name: &str) -> Option<Arc<Server>> {
        self.servers.lock().get(name).cloned()
    }

    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.lock().values().cloned().collect()
    }

    /// All of them, and the bridge: whatever has sessions.
    pub fn servers_and_bridge(&self) -> Vec<Arc<Server>> {
        self.servers().into_iter().chain(self.bridge.get().cloned()).collect()
    }

    /// Adds a server and begins to run it.
    pub fn add(self: &Arc<Self>, name: &str, config: config::Server) -> Arc<Server> {
        let server = Server::new(name, config.clone(), self.clone());
        self.servers.lock().insert(name.to_owned(), server.clone());
        self.renew_bridge();
        reload::install(&server, config, None);
        server
    }

    /// Required servers that are not ready, each with the reason.
    pub fn not_ready(&self) -> Vec<String> {
        let servers = self.servers();
        let missing =
            servers.iter().filter(|s| s.required() && !matches!(s.phase(), ServerState::Ready | ServerState::Idle));
        let say = |s: &Arc<Server>| match s.condition() {
            (phase, Some(why)) => format!("server '{}' is {phase}: {why}", s.name),
            (phase, None) => format!("server '{}' is {phase}", s.name),
        };
        missing.map(say).collect()
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    /// Opens a session; the error says which limit is reached.
    pub fn open_session(
        self: &Arc<Self>,
        server: &Arc<Server>,
        transport: Transport,
        owner: Option<Arc<str>>,
    ) -> Result<Arc<Session>, String> {
        let refused = |limit: u32, of: &str| {
            self.counters.count(Dropped::Sessions);
            Err(format!("{} at a time is the limit{of}; try again later", count(limit as usize, "session")))
        };
        let limit = self.config().limits.sessions;
        if self.session_count.load(SeqCst) >= u64::from(limit) && !self.make_room(None) {
            return refused(limit, " (limits.sessions)");
        }
        let of_server = format!(" of server '{}'", server.name);
        if let Kind::Exec(exec) = server.config().kind
            && server.session_count() >= exec.sessions as usize
        {
            return refused(exec.sessions, &of_server);
        }
        let nest = server.children().and_then(|c| c.nest.clone());
        if let Some(nest) = &nest
            && nest.is_full(server.session_count())
            && !self.make_room(Some(server))
        {
            return refused(nest.max, &of_server);
        }
        let kind = SessionKind::Lasting(transport);
        let id = if kind.has_id() { random::id()? } else { String::new() };
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let session = Arc::new(Session::new(number, id.clone(), kind, owner, server.clone(), self.clone()));
        if let Some(nest) = &nest {
            session.own(nest);
        }
        server.join(&session);
        self.session_count.fetch_add(1, SeqCst);
        if kind.has_id() {
            self.sessions.lock().insert(id, session.clone());
            self.expire_sessions();
        }
        Ok(session)
    }

    /// Ends the session (of a server, or of any) that was opened longest ago and never used. False if there is none:
    /// whoever uses a session keeps it.
    fn make_room(&self, of: Option<&Arc<Server>>) -> bool {
        let oldest = {
            let sessions = self.sessions.lock();
            let fits = |s: &&Arc<Session>| of.is_none_or(|server| Arc::ptr_eq(server, &s.server));
            let unused = sessions.values().filter(fits).filter(|s| s.is_unused() && s.idle() >= UNUSED);
            unused.min_by_key(|s| s.number).cloned()
        };
        oldest.inspect(|session| self.end_session(session, "it was never used, and another needs its place")).is_some()
    }

    pub fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions.lock().get(id).cloned()
    }

    pub fn session_count(&self) -> u64 {
        self.session_count.load(SeqCst)
    }

    /// Ends the sessions of those who are not known any more.
    pub fn end_strangers(&self) {
        let Some(auth) = self.config().auth.clone() else { return };
        for session in self.servers_and_bridge().iter().flat_map(|s| s.sessions()) {
            if session.owner.as_ref().is_none_or(|who| !auth.knows(who)) {
                self.end_session(&session, "whose it is may not connect any more");
            }
        }
    }

    /// Ends a session: its open requests are cancelled, its subscriptions given up.
    pub fn end_session(&self, session: &Arc<Session>, why: &str) {
        if !session.end() {
            return;
        }
        debug!("a session of server '{}' ended: {why}", session.server.name);
        if session.kind.is_lasting() {
            self.session_count.fetch_sub(1, SeqCst);
        }
        if session.kind.has_id() {
            self.sessions.lock().remove(&session.id);
        }
        route::session_ended(session, why);
        session.end_listens();
    }

    /// Ends idle sessions, as long as there are any. Most clients never send DELETE.
    fn expire_sessions(self: &Arc<Self>) {
        if self.expiring.swap(true, SeqCst) {
            return;
        }
        let hub = self.clone();
        async_std::task::spawn(async move {
            loop {
                let limit = hub.config().limits.idle_session;
                let nests = hub.servers().into_iter().filter_map(|s| s.children()?.nest.as_ref().map(|n| n.idle)).min();
                sleep(
                    (nests.map_or(limit, |n| n.min(limit)) / 10)
                        .clamp(Duration::from_millis(100), Duration::from_secs(60)),
                )
                .await;
                let all: Vec<_> = hub.sessions.lock().values().cloned().collect();
                let parts = all.iter().flat_map(|s| s.parts()).filter(|p| p.exclusive().is_some());
                for session in all.iter().cloned().chain(parts).filter(|s| s.idle() > s.idle_limit(limit).as_secs()) {
                    hub.end_session(&session, "idle for longer than limits.idle_session, or than its server allows");
                }
                if hub.sessions.lock().is_empty() {
                    hub.expiring.store(false, SeqCst);
                    return;
                }
            }
        });
    }

    /// Notes a stream that has no end of its own.
    pub fn add_stream(&self, outbox: &Arc<Outbox>) {
        let mut streams = self.streams.lock();
        streams.retain(|s| s.upgrade().is_some_and(|o| !o.is_closed()));
        streams.push(Arc::downgrade(outbox));
    }

    /// No new requests from now on, and no streams that wait for nothing.
    pub fn begin_drain(&self) {
        self.draining.set();
        for server in self.servers_and_bridge() {
            server.end_listens();
            for session in server.sessions().into_iter().filter(|s| s.kind == SessionKind::Lasting(Transport::Sse)) {
                async_std::task::spawn(session.end_stream_when_quiet());
            }
        }
        for stream in self.streams.lock().drain(..) {
            if let Some(outbox) = stream.upgrade() {
                outbox.end();
            }
        }
    }
}
