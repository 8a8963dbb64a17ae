//! One named server: its configuration in force, its state, and who uses it.

mod rest;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Instant;

use event_listener::Event;
use log::info;

use super::Hub;
use super::bridge::Bridge;
use super::exclusive::Nest;
use super::exec::Executor;
use super::link::Link;
use super::listen::Change;
use super::session::Session;
use super::slot::{Slot, Wish};
use crate::model::config::{self, Kind, Tools};
use crate::model::mcp::Learnt;
use crate::model::meter::{Meters, RECENT};
use crate::model::modern;
use crate::model::status::{self, ServerState};
use crate::model::transport::SessionKind;
use crate::rt::wait::{Flag, until, within};
use crate::sys::lock::{Guard, Lock};
use crate::sys::process;

/// The times of so many restarts are kept.
const RESTARTS: usize = 100;

/// A server of the instance. It lives as long as its name is in the configuration, whatever its children do.
pub struct Server {
    pub name: String,
    pub hub: Arc<Hub>,
    pub meters: Meters,
    pub in_flight: AtomicU64,
    /// Bytes of requests that wait for a child.
    pub(super) held: AtomicUsize,
    state: Lock<State>,
    changed: Event,
    sessions: Lock<Vec<Weak<Session>>>,
}

struct State {
    config: config::Server,
    engine: Engine,
    restarts: u64,
    /// When the last ones were, in seconds since the start.
    restarted: VecDeque<u64>,
    last_exit: Option<String>,
    /// What the last child said of itself: clients can be greeted while it is being replaced.
    learnt: Option<Learnt>,
    /// The state of a server without children.
    phase: ServerState,
}

/// What does the work.
#[derive(Clone)]
pub enum Engine {
    /// Nothing yet, or nothing any more.
    None,
    Children(Arc<Children>),
    Exec(Arc<Executor>),
    /// All others.
    Bridge(Arc<Bridge>),
}

/// The shared children of a server under one configuration.
pub struct Children {
    /// One; several in a pool.
    pub slots: Vec<Arc<Slot>>,
    /// The child for the modern era, once a client of it has come and the server was found to speak it.
    pub modern: Lock<Verdict>,
    /// Where each session has a child of its own.
    pub nest: Option<Arc<Nest>>,
    /// The question to the server that is under way; set once it is answered.
    pub probing: Lock<Option<Arc<Flag>>>,
}

/// Whether a server speaks the modern era besides the legacy one.
#[derive(Default)]
pub enum Verdict {
    #[default]
    Unknown,
    Modern(Arc<Slot>),
    /// Found at this time, when the child said this of itself.
    Legacy(Instant, Option<String>),
}

impl Children {
    pub fn modern_slot(&self) -> Option<Arc<Slot>> {
        match &*self.modern.lock() {
            Verdict::Modern(slot) => Some(slot.clone()),
            _ => None,
        }
    }

    /// All slots there are.
    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.iter().cloned().chain(self.modern_slot()).collect()
    }

    /// All children there are.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.all().iter().filter_map(|s| s.any_link()).collect()
    }

    /// The slot that a session with this number belongs to.
    pub fn slot(&self, number: usize) -> &Arc<Slot> {
        &self.slots[number % self.slots.len()]
    }

    /// The slot with the least to do.
    fn least(&self, sessions: &[Arc<Session>]) -> usize {
        let load = |n: usize| {
            let link = self.slots[n].link();
            let waiting = link.as_ref().map_or(0, |l| l.waiting());
            // One without a child has the least to do, and that is not what is looked for.
            (link.is_none(), sessions.iter().filter(|s| s.slot % self.slots.len() == n).count(), waiting)
        };
        (0..self.slots.len()).min_by_key(|n| load(*n)).unwrap_or(0)
    }
}

impl Server {
    pub fn new(name: &str, config: config::Server, hub: Arc<Hub>) -> Arc<Server> {
        Arc::new(Server {
            name: name.to_owned(),
            hub,
            meters: Meters::default(),
            in_flight: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            state: Lock::new(State {
                config,
                engine: Engine::None,
                restarts: 0,
                restarted: VecDeque::new(),
                last_exit: None,
                learnt: None,
                phase: ServerState::Starting,
            }),
            changed: Event::new(),
            sessions: Lock::default(),
        })
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    pub fn config(&self) -> config::Server {
        self.state().config.clone()
    }

    /// Its state and the reason for it: of its best child, because that is what clients get.
    pub fn condition(&self) -> (ServerState, Option<String>) {
        let children = match self.engine() {
            Engine::Children(children) => children,
            Engine::Exec(_) | Engine::Bridge(_) | Engine::None => return (self.state().phase, None),
        };
        let all: Vec<_> = children.slots.iter().map(|s| s.phase()).collect();
        let ready = all.iter().find(|(phase, _)| *phase == ServerState::Ready);
        ready.or(all.first()).cloned().unwrap_or((ServerState::Starting, None))
    }

    pub fn phase(&self) -> ServerState {
        self.condition().0
    }

    pub fn is_on_demand(&self) -> bool {
        matches!(&self.state().config.kind, Kind::Stdio(stdio) if stdio.on_demand.is_some())
    }

    pub fn required(&self) -> bool {
        self.state().config.required
    }

    /// The state of a server without children.
    pub fn enter(&self, phase: ServerState) {
        let before = std::mem::replace(&mut self.state().phase, phase);
        if before != phase {
            info!("server '{}' is {phase}", self.name);
            self.announce();
        }
    }

    /// Wakes whoever waits for a state.
    pub(super) fn announce(&self) {
        self.changed.notify(usize::MAX);
        self.hub.changed();
    }

    /// The children in service.
    pub fn children(&self) -> Option<Arc<Children>> {
        match &self.state().engine {
            Engine::Children(children) => Some(children.clone()),
            _ => None,
        }
    }

    /// Which of its tools may be used.
    pub fn tools(&self) -> Tools {
        match &self.state().config.kind {
            Kind::Stdio(stdio) => stdio.tools.clone(),
            Kind::Exec(_) | Kind::Bridge(_) => Tools::default(),
        }
    }

    /// Whether a tool may be used.
    pub fn admits(&self, tool: &str) -> bool {
        match &self.state().config.kind {
            Kind::Stdio(stdio) => stdio.tools.admits(tool),
            Kind::Exec(_) | Kind::Bridge(_) => true,
        }
    }

    /// It speaks revision 2026-07-28 and no other.
    pub fn is_modern_only(&self) -> bool {
        self.state().learnt.as_ref().is_some_and(|l| l.revision == modern::VERSION)
    }

    /// The executor that it is.
    pub fn executor(&self) -> Option<Arc<Executor>> {
        match self.engine() {
            Engine::Exec(exec) => Some(exec),
            _ => None,
        }
    }

    pub(super) fn has(&self, slot: &Slot) -> bool {
        self.children().is_some_and(|c| c.all().iter().any(|s| std::ptr::eq(&raw const **s, slot)))
    }

    /// The living child for a session, if it is ready.
    pub fn link(&self, session: &Session) -> Option<Arc<Link>> {
        self.children()?.slot(session.slot).link()
    }

    pub fn engine(&self) -> Engine {
        self.state().engine.clone()
    }

    /// Puts another engine in place and gives the one before.
    pub fn set_engine(&self, engine: Engine, config: config::Server) -> Engine {
        let known = match &engine {
            Engine::Exec(exec) => Some(exec.learnt()),
            Engine::Bridge(_) => Some(super::bridge::learnt(&self.hub)),
            Engine::Children(_) | Engine::None => None,
        };
        let mut state = self.state();
        state.config = config;
        if known.is_some() {
            state.learnt = known;
        }
        let before = std::mem::replace(&mut state.engine, engine);
        drop(state);
        self.changed.notify(usize::MAX);
        before
    }

    /// A child of a slot is ready: what it says of itself holds for the server, unless the slot was replaced meanwhile.
    pub(super) fn note_child(self: &Arc<Self>, slot: &Slot, link: &Link) {
        // What it says in the modern era is for clients of that one, unless it speaks no other.
        if slot.wish == Wish::Any
            && self.has(slot)
            && let Some(learnt) = link.learnt()
        {
            self.state().learnt = Some(learnt.clone());
        }
        if let Some(nest) = self.children().and_then(|c| c.nest.clone()) {
            nest.fill(self);
        }
        self.hub.bridge_hears_of(&self.name);
        self.changed.notify(usize::MAX);
    }

    pub fn count_restart(&self, last_exit: String) {
        let second = self.hub.seconds();
        let mut state = self.state();
        state.restarts += 1;
        state.restarted.push_back(second);
        while state.restarted.len() > RESTARTS {
            state.restarted.pop_front();
        }
        state.last_exit = Some(last_exit);
    }

    /// What the server said of itself, waiting for its first child if need be.
    pub async fn learnt(&self, session: &Session) -> Result<Learnt, String> {
        if let Some(learnt) = self.state().learnt.clone() {
            return Ok(learnt);
        }
        let link = self.ready_link(session).await?;
        link.learnt().cloned().ok_or_else(|| "it has not said what it is".to_owned())
    }

    /// What is known without waiting.
    pub fn learnt_now(&self) -> Option<Learnt> {
        self.state().learnt.clone()
    }

    /// The child for a session once it is ready. Waits while one is being started, for as long as a start may take; the
    /// error says what the server's trouble is.
    pub async fn ready_link(&self, session: &Session) -> Result<Arc<Link>, String> {
        let none = || format!("server '{}' has no child", self.name);
        let limit = match &self.state().config.kind {
            Kind::Stdio(stdio) => stdio.start_timeout,
            Kind::Exec(_) | Kind::Bridge(_) => return Err(none()),
        };
        let slot = || self.children().map(|c| c.slot(session.slot).clone());
        let check = || ready(&*slot()?);
        match within(limit, until(&self.changed, check)).await {
            Some(outcome) => outcome,
            None => Err(slot().map_or_else(none, |s| s.trouble())),
        }
    }

    /// The same for the child of one slot.
    pub async fn ready_slot(&self, slot: &Slot) -> Result<Arc<Link>, String> {
        let Kind::Stdio(config) = self.config().kind else { return Err(slot.trouble()) };
        match within(config.start_timeout, until(&self.changed, || ready(slot))).await {
            Some(outcome) => outcome,
            None => Err(slot.trouble()),
        }
    }

    /// Waits until the server is ready, or is not going to be.
    pub async fn settled(&self) -> Result<(), String> {
        let check = || match self.condition() {
            (ServerState::Ready | ServerState::Unhealthy | ServerState::Idle, _) => Some(Ok(())),
            (ServerState::Failed | ServerState::Backoff | ServerState::Stopped, why) => {
                Some(Err(why.unwrap_or_default()))
            }
            _ => None,
        };
        until(&self.changed, check).await
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    /// Those who are served, a request of the modern era with a subscription included.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|s| s.strong_count() > 0);
        sessions.iter().filter_map(Weak::upgrade).filter(|s| !s.is_ended()).collect()
    }

    /// Subscriptions that a child of the modern era kept, and keeps no more: their clients may open them anew.
    pub fn end_forwarded_listens(&self) {
        for listen in self.sessions().iter().flat_map(|s| s.listens()).filter(|l| l.request.is_some()) {
            listen.finish();
        }
    }

    /// The daemon is draining: subscriptions of the modern era have their last message.
    pub fn end_listens(&self) {
        for session in self.sessions() {
            session.end_listens();
        }
    }

    pub(super) fn join(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock();
        sessions.retain(|s| s.strong_count() > 0);
        if !sessions.iter().any(|s| std::ptr::eq(s.as_ptr(), Arc::as_ptr(session))) {
            sessions.push(Arc::downgrade(session));
        }
    }

    /// Counts the bytes of a request that waits for a child, for as long as the guard lives. None if too many wait.
    pub(super) fn wait_with(self: &Arc<Self>, size: usize) -> Option<Waits> {
        let waits = Waits { server: self.clone(), size };
        (self.held.fetch_add(size, SeqCst) <= super::route::HELD).then_some(waits)
    }

    /// The place of a new session among several children: where the least is to do.
    pub(super) fn least_loaded(&self) -> usize {
        let children = self.children().filter(|c| c.slots.len() > 1);
        children.map_or(0, |c| c.least(&self.sessions()))
    }

    pub fn session_count(&self) -> usize {
        let counts = |s: &&Arc<Session>| match s.kind {
            SessionKind::Request => false,
            // One of the bridge that only hears of changes here takes nobody's place.
            SessionKind::Part => s.exclusive().is_some() || self.executor().is_some(),
            _ => true,
        };
        self.sessions().iter().filter(counts).count()
    }

    /// The sessions that a child serves.
    pub fn sessions_of(&self, link: &Link) -> Vec<Arc<Session>> {
        // Those with a child of their own hear of that one.
        let mut sessions: Vec<_> = self.sessions().into_iter().filter(|s| s.exclusive().is_none()).collect();
        let several = |c: &Arc<Children>| {
            let modern = c.modern_slot().and_then(|s| s.any_link());
            c.slots.len() > 1 && !modern.is_some_and(|l| std::ptr::eq(&raw const *l, link))
        };
        if let Some(children) = self.children().filter(several) {
            let own =
                |s: &Arc<Session>| children.slot(s.slot).any_link().is_some_and(|l| std::ptr::eq(&raw const *l, link));
            sessions.retain(own);
        }
        sessions
    }

    /// Whether a child keeps something for a client that waits to be told: then it is in use without a request.
    pub fn is_watched(&self, link: &Link) -> bool {
        let mut sessions = self.sessions_of(link).into_iter();
        sessions.any(|s| !s.listens().is_empty() || (!link.is_modern() && s.has_subscriptions()))
    }

    /// A message that concerns every client of a child, such as `list_changed`.
    pub fn broadcast(&self, from: &Link, change: &Change<'_>) {
        for session in self.sessions_of(from) {
            session.tell(change);
        }
    }

    /// How many sessions subscribe to a resource, among those that share a child with this one.
    pub fn subscribers(&self, uri: &str, with: &Session) -> usize {
        let places = self.children().map_or(1, |c| c.slots.len());
        let near = |s: &Arc<Session>| s.slot % places == with.slot % places && s.subscribed(uri);
        self.sessions().into_iter().filter(near).count()
    }

    /// Everything that some session of a child subscribes to.
    pub fn subscriptions(&self, link: &Link) -> Vec<String> {
        let mut all: Vec<String> = self.sessions_of(link).iter().flat_map(|s| s.all_subscriptions()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Tells every client that lists may differ: the child was replaced.
    pub fn lists_changed(&self) {
        for session in self.sessions().iter().filter(|s| s.exclusive().is_none()) {
            session.lists_changed(false, &|list| self.has_list(list));
        }
    }

    /// Whether the server has tools, prompts or resources, as far as it is known.
    pub fn has_list(&self, list: &str) -> bool {
        self.learnt_now().is_some_and(|l| l.has(list))
    }

    /// Ends every session: the server was removed.
    pub fn end_sessions(&self) {
        for session in self.sessions() {
            self.hub.end_session(&session, "the server was removed");
        }
    }

    // --- status ------------------------------------------------------------------------------------------------------

    pub fn status(&self, second: u64) -> status::Server {
        let in_flight = self.in_flight.load(std::sync::atomic::Ordering::Relaxed);
        let (phase, reason) = self.condition();
        let (engine, mut out) = {
            let state = self.state();
            let out = status::Server {
                name: self.name.clone(),
                kind: match state.config.kind {
                    Kind::Stdio(_) => "Stdio".to_owned(),
                    Kind::Exec(_) => "Exec".to_owned(),
                    Kind::Bridge(_) => "Bridge".to_owned(),
                },
                state: phase,
                reason,
                health: Default::default(),
                required: state.config.required,
                pids: Vec::new(),
                children: Default::default(),
                restarts: state.restarts,
                recent_restarts: state.restarted.iter().filter(|at| second.saturating_sub(**at) < RECENT * 60).count()
                    as u64,
                last_exit: state.last_exit.clone(),
                server_info: state.learnt.as_ref().map(Learnt::name),
                protocol: state.learnt.as_ref().map(|l| l.revision.clone()),
                sessions: 0,
                requests: self.meters.sum(second).requests(in_flight),
                methods: self.meters.methods(second),
                process: Default::default(),
            };
            (state.engine.clone(), out)
        };
        out.sessions = self.session_count() as u64;
        out.pids = match engine {
            Engine::Children(children) => {
                let phases: Vec<_> = children.slots.iter().map(|s| s.phase().0).collect();
                let are = |phase| phases.iter().filter(|p| **p == phase).count() as u64;
                out.children = status::Children {
                    wanted: phases.len() as u64 - are(ServerState::Idle),
                    ready: are(ServerState::Ready),
                };
                let own = self.sessions().into_iter().filter_map(|s| s.exclusive()?.any_link());
                let spares = children.nest.iter().flat_map(|n| n.links());
                children.links().into_iter().chain(own).chain(spares).map(|l| l.pid.as_raw()).collect()
            }
            Engine::Exec(exec) => exec.pids(),
            Engine::Bridge(_) | Engine::None => Vec::new(),
        };
        out.process = process::usage(&out.pids, true);
        out
    }
}

/// See [`Server::wait_with`].
pub(super) struct Waits {
    server: Arc<Server>,
    size: usize,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.server.held.fetch_sub(self.size, SeqCst);
    }
}

/// The child of a slot, or why there will be none. One that rests is called.
fn ready(slot: &Slot) -> Option<Result<Arc<Link>, String>> {
    if let Some(link) = slot.link() {
        return Some(Ok(link));
    }
    let down = match slot.phase().0 {
        ServerState::Failed | ServerState::Stopped => true,
        ServerState::Stopping => slot.supervisor.is_retired(),
        _ => false,
    };
    if !down {
        slot.supervisor.want();
    }
    down.then(|| Err(slot.trouble()))
}
