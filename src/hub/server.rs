//! One named server: its configuration in force, its state, and who uses it.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use event_listener::Event;
use log::{info, warn};

use super::Hub;
use super::exec::Executor;
use super::link::Link;
use super::session::Session;
use super::supervisor::Supervisor;
use super::wait::{until, within};
use crate::model::config::{self, Kind};
use crate::model::mcp::Learnt;
use crate::model::status::{self, ServerState};
use crate::sys::process;

/// A server of the instance. It lives as long as its name is in the configuration, whatever its children do.
pub struct Server {
    pub name: String,
    pub hub: Arc<Hub>,
    pub meter: crate::model::meter::Meter,
    pub in_flight: AtomicU64,
    /// Bytes of requests that wait for a child.
    pub(super) held: AtomicUsize,
    state: Mutex<State>,
    changed: Event,
    sessions: Mutex<Vec<Weak<Session>>>,
}

struct State {
    config: config::Server,
    phase: ServerState,
    reason: Option<String>,
    engine: Engine,
    restarts: u64,
    last_exit: Option<String>,
    /// What the last child said of itself: clients can be greeted while it is being replaced.
    learnt: Option<Learnt>,
}

/// What does the work.
#[derive(Clone)]
pub enum Engine {
    /// Nothing yet, or nothing any more.
    None,
    Child {
        supervisor: Arc<Supervisor>,
        link: Option<Arc<Link>>,
    },
    Exec(Arc<Executor>),
}

impl Server {
    pub fn new(name: &str, config: config::Server, hub: Arc<Hub>) -> Arc<Server> {
        Arc::new(Server {
            name: name.to_owned(),
            hub,
            meter: Default::default(),
            in_flight: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            state: Mutex::new(State {
                config,
                phase: ServerState::Starting,
                reason: None,
                engine: Engine::None,
                restarts: 0,
                last_exit: None,
                learnt: None,
            }),
            changed: Event::new(),
            sessions: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn config(&self) -> config::Server {
        self.state().config.clone()
    }

    pub fn phase(&self) -> ServerState {
        self.state().phase
    }

    pub fn reason(&self) -> Option<String> {
        self.state().reason.clone()
    }

    pub fn required(&self) -> bool {
        self.state().config.required
    }

    /// Moves to another state, for everybody to see.
    pub fn enter(&self, phase: ServerState, reason: Option<String>) {
        {
            let mut state = self.state();
            if state.phase == phase && state.reason == reason {
                return;
            }
            state.phase = phase;
            state.reason.clone_from(&reason);
        }
        match (phase, reason) {
            (ServerState::Failed | ServerState::Backoff, Some(why)) => {
                warn!("server '{}' is {phase}: {why}", self.name)
            }
            (_, Some(why)) => info!("server '{}' is {phase}: {why}", self.name),
            (_, None) => info!("server '{}' is {phase}", self.name),
        }
        self.changed.notify(usize::MAX);
        self.hub.changed();
    }

    /// The living child, if it is ready.
    pub fn link(&self) -> Option<Arc<Link>> {
        match &self.state().engine {
            Engine::Child { link, .. } => link.clone().filter(|l| !l.is_dead()),
            _ => None,
        }
    }

    pub fn engine(&self) -> Engine {
        self.state().engine.clone()
    }

    /// Puts another engine in place and gives the one before.
    pub fn set_engine(&self, engine: Engine, config: config::Server) -> Engine {
        let mut state = self.state();
        state.config = config;
        if let Engine::Exec(exec) = &engine {
            state.learnt = Some(exec.learnt());
        }
        let before = std::mem::replace(&mut state.engine, engine);
        drop(state);
        self.changed.notify(usize::MAX);
        before
    }

    /// The supervisor's child is ready, or gone. Ignored from a supervisor that was replaced meanwhile.
    pub fn set_link(&self, of: &Arc<Supervisor>, new: Option<Arc<Link>>) {
        let mut state = self.state();
        if let Engine::Child { supervisor, link } = &mut state.engine
            && Arc::ptr_eq(supervisor, of)
        {
            *link = new.clone();
            if let Some(learnt) = new.as_ref().and_then(|l| l.learnt()) {
                state.learnt = Some(learnt.clone());
            }
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    pub fn count_restart(&self, last_exit: String) {
        let mut state = self.state();
        state.restarts += 1;
        state.last_exit = Some(last_exit);
    }

    /// What the server said of itself, waiting for its first child if need be.
    pub async fn learnt(&self) -> Result<Learnt, String> {
        if let Some(learnt) = self.state().learnt.clone() {
            return Ok(learnt);
        }
        self.ready_link().await.and_then(|l| l.learnt().cloned().ok_or_else(|| "it has not said what it is".to_owned()))
    }

    /// What is known without waiting.
    pub fn learnt_now(&self) -> Option<Learnt> {
        self.state().learnt.clone()
    }

    /// The child once it is ready. Waits while one is being started, for as long as a start may take; the error says
    /// what the server's trouble is.
    pub async fn ready_link(&self) -> Result<Arc<Link>, String> {
        let limit = match &self.state().config.kind {
            Kind::Stdio(stdio) => stdio.start_timeout,
            Kind::Exec(_) => Duration::ZERO,
        };
        let check = || {
            if let Some(link) = self.link() {
                return Some(Ok(link));
            }
            let down = matches!(self.phase(), ServerState::Failed | ServerState::Stopping | ServerState::Stopped);
            down.then(|| Err(self.trouble()))
        };
        match within(limit, until(&self.changed, check)).await {
            Some(outcome) => outcome,
            None => Err(self.trouble()),
        }
    }

    fn trouble(&self) -> String {
        let state = self.state();
        let why = state.reason.as_ref().map_or(String::new(), |r| format!(": {r}"));
        format!("server '{}' is {}{why}", self.name, state.phase)
    }

    /// Waits until the server is ready, or is not going to be.
    pub async fn settled(&self) -> Result<(), String> {
        let check = || match self.phase() {
            ServerState::Ready => Some(Ok(())),
            ServerState::Failed | ServerState::Backoff | ServerState::Stopped => {
                Some(Err(self.reason().unwrap_or_default()))
            }
            _ => None,
        };
        until(&self.changed, check).await
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    fn all_sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|s| s.strong_count() > 0);
        sessions.iter().filter_map(Weak::upgrade).filter(|s| !s.is_ended()).collect()
    }

    pub(super) fn join(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|s| s.strong_count() > 0);
        sessions.push(Arc::downgrade(session));
    }

    pub fn session_count(&self) -> usize {
        self.all_sessions().len()
    }

    /// A message that concerns every client, such as `list_changed`.
    pub fn broadcast(&self, text: &str) {
        for session in self.all_sessions() {
            session.notify(text);
        }
    }

    /// An update of a resource, to those that subscribed to it.
    pub fn publish(&self, uri: &str, text: &str) {
        for session in self.all_sessions() {
            if session.subscribed(uri) {
                session.notify(text);
            }
        }
    }

    /// How many sessions subscribe to a resource.
    pub fn subscribers(&self, uri: &str) -> usize {
        self.all_sessions().iter().filter(|s| s.subscribed(uri)).count()
    }

    /// Everything that some session subscribes to.
    pub fn subscriptions(&self) -> Vec<String> {
        let mut all: Vec<String> = self.all_sessions().iter().flat_map(|s| s.all_subscriptions()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Tells every client that lists may differ: the child was replaced.
    pub fn lists_changed(&self) {
        let Some(learnt) = self.learnt_now() else { return };
        for list in ["tools", "prompts", "resources"] {
            if learnt.has(list) {
                let method = format!("notifications/{list}/list_changed");
                self.broadcast(&crate::model::jsonrpc::notification(&method, None));
            }
        }
    }

    /// Ends every session: the server was removed.
    pub fn end_sessions(&self) {
        for session in self.all_sessions() {
            self.hub.end_session(&session, "the server was removed");
        }
    }

    // --- status ------------------------------------------------------------------------------------------------------

    pub fn status(&self, second: u64) -> status::Server {
        let in_flight = self.in_flight.load(std::sync::atomic::Ordering::Relaxed);
        let (engine, mut out) = {
            let state = self.state();
            let out = status::Server {
                name: self.name.clone(),
                kind: match state.config.kind {
                    Kind::Stdio(_) => "Stdio".to_owned(),
                    Kind::Exec(_) => "Exec".to_owned(),
                },
                state: state.phase,
                reason: state.reason.clone(),
                required: state.config.required,
                pids: Vec::new(),
                restarts: state.restarts,
                last_exit: state.last_exit.clone(),
                server_info: state.learnt.as_ref().map(Learnt::name),
                protocol: state.learnt.as_ref().map(|l| l.revision.clone()),
                sessions: 0,
                requests: self.meter.read(second, in_flight),
                process: Default::default(),
            };
            (state.engine.clone(), out)
        };
        out.sessions = self.session_count() as u64;
        out.pids = match engine {
            Engine::Child { link, .. } => link.iter().map(|l| l.pid.as_raw()).collect(),
            Engine::Exec(exec) => exec.pids(),
            Engine::None => Vec::new(),
        };
        out.process = process::usage(&out.pids);
        out
    }
}
