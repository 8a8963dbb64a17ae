//! Between clients and servers: servers and their children, sessions, routing.
//!
//! The hub knows children and messages. It must not know HTTP or WebSocket: a client is an [`outbox::Outbox`] to it.

pub mod counters;
pub mod exec;
pub mod lines;
pub mod link;
pub mod outbox;
pub mod reload;
pub mod route;
pub mod server;
pub mod session;
pub mod spawner;
pub mod supervisor;
pub mod wait;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;
use log::debug;

use counters::{Counters, Dropped};
use exec::Executor;
use link::Link;
use outbox::Outbox;
use server::{Engine, Server};
use session::{Session, Transport};
use spawner::Spawner;
use supervisor::Supervisor;
use wait::{Flag, sleep, within};

use crate::model::config::{self, Config, Kind};
use crate::model::meter::Meter;
use crate::model::status::ServerState;
use crate::model::text::count;

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
/// Beyond its own grace time, how long an executor may take to end its commands.
const EXECUTOR_GRACE: Duration = Duration::from_secs(10);

/// What a reload replaced or removed, while it still has requests to finish.
enum Retiring {
    Child(Arc<Supervisor>, Option<Arc<Link>>),
    Executor(Arc<Executor>),
}

impl Retiring {
    fn is_done(&self) -> bool {
        match self {
            Retiring::Child(supervisor, _) => supervisor.is_done(),
            Retiring::Executor(exec) => exec.is_idle(),
        }
    }
}

/// All servers and sessions of the instance.
pub struct Hub {
    pub boot: Boot,
    config: Mutex<Arc<Config>>,
    servers: Mutex<BTreeMap<String, Arc<Server>>>,
    /// HTTP sessions by id.
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    session_count: AtomicU64,
    numbers: AtomicU64,
    serials: AtomicU64,
    expiring: AtomicBool,
    pub counters: Counters,
    pub meter: Meter,
    pub in_flight: AtomicU64,
    pub connections: AtomicU64,
    /// No new requests.
    pub draining: Flag,
    /// The drain is cut short.
    pub hurry: Flag,
    /// So is the ladder on which children go down: SIGKILL at once.
    pub cut: Flag,
    /// Open GET streams, which end when a drain begins.
    streams: Mutex<Vec<std::sync::Weak<Outbox>>>,
    /// Children that were replaced or removed by a reload, and still have requests to finish.
    retiring: Mutex<Vec<Retiring>>,
    change: Event,
    change_count: AtomicU64,
}

impl Hub {
    pub fn new(boot: Boot, config: Arc<Config>) -> Arc<Hub> {
        Arc::new(Hub {
            boot,
            config: Mutex::new(config),
            servers: Mutex::default(),
            sessions: Mutex::default(),
            session_count: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            serials: AtomicU64::new(0),
            expiring: AtomicBool::new(false),
            counters: Counters::default(),
            meter: Meter::default(),
            in_flight: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            draining: Flag::default(),
            hurry: Flag::default(),
            cut: Flag::default(),
            streams: Mutex::default(),
            retiring: Mutex::default(),
            change: Event::new(),
            change_count: AtomicU64::new(0),
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds a server and begins to run it.
    pub fn add(self: &Arc<Self>, name: &str, config: config::Server) -> Arc<Server> {
        let server = Server::new(name, config.clone(), self.clone());
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), server.clone());
        reload::install(&server, config, None);
        server
    }

    /// Required servers that are not ready, each with the reason.
    pub fn not_ready(&self) -> Vec<String> {
        let servers = self.servers();
        let missing = servers.iter().filter(|s| s.required() && s.phase() != ServerState::Ready);
        let say = |s: &Arc<Server>| match s.reason() {
            Some(why) => format!("server '{}' is {}: {why}", s.name, s.phase()),
            None => format!("server '{}' is {}", s.name, s.phase()),
        };
        missing.map(say).collect()
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    /// Opens a session; the error says which limit is reached.
    pub fn open_session(self: &Arc<Self>, server: &Arc<Server>, transport: Transport) -> Result<Arc<Session>, String> {
        let config = self.config();
        let limit = u64::from(config.limits.sessions);
        if self.session_count.load(SeqCst) >= limit && !self.make_room() {
            self.counters.count(Dropped::Sessions);
            let many = count(limit as usize, "session");
            return Err(format!("{many} at a time is the limit (limits.sessions); try again later"));
        }
        if let Kind::Exec(exec) = server.config().kind
            && server.session_count() >= exec.sessions as usize
        {
            self.counters.count(Dropped::Sessions);
            let many = count(exec.sessions as usize, "session");
            return Err(format!("{many} at a time is the limit of server '{}'; try again later", server.name));
        }
        let id = match transport {
            Transport::Http => random_id()?,
            Transport::WebSocket => String::new(),
        };
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let session = Arc::new(Session::new(number, id.clone(), transport, server.clone(), self.clone()));
        server.join(&session);
        self.session_count.fetch_add(1, SeqCst);
        if transport == Transport::Http {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, session.clone());
            self.expire_sessions();
        }
        Ok(session)
    }

    /// Ends the session that was opened longest ago and never used. False if there is none: whoever uses a session keeps
    /// it.
    fn make_room(&self) -> bool {
        let oldest = {
            let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.values().filter(|s| s.is_unused() && s.idle() >= UNUSED).min_by_key(|s| s.number).cloned()
        };
        oldest.inspect(|session| self.end_session(session, "it was never used, and another needs its place")).is_some()
    }

    pub fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub fn session_count(&self) -> u64 {
        self.session_count.load(SeqCst)
    }

    /// Ends a session: its open requests are cancelled, its subscriptions given up.
    pub fn end_session(&self, session: &Arc<Session>, why: &str) {
        if !session.end() {
            return;
        }
        debug!("a session of server '{}' ended: {why}", session.server.name);
        self.session_count.fetch_sub(1, SeqCst);
        if session.transport == Transport::Http {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&session.id);
        }
        route::session_ended(session, why);
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
                sleep((limit / 10).clamp(Duration::from_millis(100), Duration::from_secs(60))).await;
                let all: Vec<_> =
                    hub.sessions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
                for session in all.iter().filter(|s| s.idle() > limit.as_secs()) {
                    hub.end_session(session, "idle for longer than limits.idle_session");
                }
                if hub.sessions.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                    hub.expiring.store(false, SeqCst);
                    return;
                }
            }
        });
    }

    /// Notes a stream that has no end of its own.
    pub fn add_stream(&self, outbox: &Arc<Outbox>) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|s| s.upgrade().is_some_and(|o| !o.is_closed()));
        streams.push(Arc::downgrade(outbox));
    }

    /// No new requests from now on, and no streams that wait for nothing.
    pub fn begin_drain(&self) {
        self.draining.set();
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(outbox) = stream.upgrade() {
                outbox.end();
            }
        }
    }

    // --- the end -----------------------------------------------------------------------------------------------------

    /// Retires a supervisor whose child may have requests to finish; they stay in reach until it is done.
    pub(super) fn retire(&self, supervisor: Arc<Supervisor>, link: Option<Arc<Link>>) {
        supervisor.retire();
        self.note_retiring(Retiring::Child(supervisor, link));
    }

    /// Lets an executor finish its commands within the drain time, then ends them.
    pub(super) fn retire_executor(&self, exec: Arc<Executor>) {
        let limit = self.config().drain_timeout;
        self.note_retiring(Retiring::Executor(exec.clone()));
        async_std::task::spawn(async move {
            if within(limit, exec.idle()).await.is_none() {
                exec.stop_all();
            }
        });
    }

    fn note_retiring(&self, one: Retiring) {
        let mut retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        retiring.retain(|one| !one.is_done());
        retiring.push(one);
    }

    /// The children that are being retired.
    pub fn retiring_links(&self) -> Vec<Arc<Link>> {
        let retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        let link = |one: &Retiring| match one {
            Retiring::Child(_, link) => link.clone(),
            Retiring::Executor(_) => None,
        };
        retiring.iter().filter_map(link).collect()
    }

    /// The executors that are being retired.
    pub fn retiring_executors(&self) -> Vec<Arc<Executor>> {
        let retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        let executor = |one: &Retiring| match one {
            Retiring::Executor(exec) => Some(exec.clone()),
            Retiring::Child(..) => None,
        };
        retiring.iter().filter_map(executor).collect()
    }

    /// Fails whatever is still open, with an error that says why.
    pub fn fail_open(&self, why: &str) {
        for link in self.retiring_links() {
            link.fail_all(crate::model::jsonrpc::REFUSED, why);
        }
        for exec in self.retiring_executors() {
            exec.stop_all();
        }
        for server in self.servers() {
            match server.engine() {
                Engine::Child { link: Some(link), .. } => link.fail_all(crate::model::jsonrpc::REFUSED, why),
                Engine::Exec(exec) => exec.stop_all(),
                _ => {}
            }
        }
    }

    /// Stops every server and waits until no child is left.
    pub async fn stop(&self) {
        let mut all = std::mem::take(&mut *self.retiring.lock().unwrap_or_else(PoisonError::into_inner));
        for server in self.servers() {
            match server.engine() {
                Engine::Child { supervisor, link } => all.push(Retiring::Child(supervisor, link)),
                Engine::Exec(exec) => {
                    all.push(Retiring::Executor(exec));
                    server.enter(ServerState::Stopped, None);
                }
                Engine::None => {}
            }
        }
        // All are told first, so that they go down side by side.
        for one in &all {
            match one {
                Retiring::Child(supervisor, _) => supervisor.retire(),
                Retiring::Executor(exec) => exec.stop_all(),
            }
        }
        for one in all {
            match one {
                Retiring::Child(supervisor, _) => supervisor.done().await,
                Retiring::Executor(exec) => drop(within(exec.grace() + EXECUTOR_GRACE, exec.idle()).await),
            }
        }
    }
}

/// 128 random bits as visible ASCII (2025-11-25 basic/transports: secure and non-deterministic).
fn random_id() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers to be had: {e}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
