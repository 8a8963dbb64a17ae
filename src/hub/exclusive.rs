//! A child of its own for one session (`sharing: PerSession`): everything passes unchanged, in both directions.
//!
//! Here a server's requests to "the client" (sampling, elicitation, roots) have an owner, and so have its log messages.
//! A child that dies is replaced, and brought to the state that its session expects: the client's own handshake, log
//! level and subscriptions are repeated.

mod rest;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use event_listener::Event;
use futures_lite::FutureExt;
use log::{debug, info, warn};

use super::link::Link;
use super::pulse::hung;
use super::server::Server;
use super::session::Session;
use super::starting::{self, StartFailure};
use super::supervisor::round;
use crate::model::config::Mode;
use crate::model::config::server::{Stdio, Stop};
use crate::model::envelope::Envelope;
use crate::model::restart::{Ended, History, Next};
use crate::model::text::duration;
use crate::model::{ids, jsonrpc, mcp};
use crate::rt::process::exit_text;
use crate::rt::random::jitter;
use crate::rt::wait::{Flag, sleep, until, within};
use crate::sys::lock::{Guard, Lock};

/// A session's own child, through all its lives.
pub struct Exclusive {
    config: Lock<Arc<Stdio>>,
    umask: Mode,
    /// The command is another: the child is replaced once nothing is open.
    renew: AtomicBool,
    renewal: Event,
    state: Lock<State>,
    changed: Event,
    /// The session is over.
    end: Flag,
    /// Nothing of the last child is left.
    done: Flag,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    /// Why there is none, and will be none.
    failed: Option<String>,
    /// The params of the client's `initialize`.
    hello: Option<String>,
    /// Its client has had no child here before.
    begins: bool,
    initialized: bool,
    /// The params of its last `logging/setLevel`.
    level: Option<String>,
    /// Requests of the child that its client has not answered, by canonical id.
    asked: HashSet<String>,
}

impl Exclusive {
    /// Begins to run a child for a session.
    pub fn start(session: &Arc<Session>, nest: &Arc<Nest>) -> Arc<Exclusive> {
        Exclusive::begin(session, nest, State::default(), false)
    }

    /// The same for a part of a session of the bridge: the handshake of its client is repeated.
    pub fn start_after(session: &Arc<Session>, nest: &Arc<Nest>, hello: Option<&str>) -> Arc<Exclusive> {
        let hello = hello.map_or_else(|| mcp::initialize_params(env!("CARGO_PKG_VERSION")), str::to_owned);
        let state = State { hello: Some(hello), begins: true, initialized: true, ..State::default() };
        Exclusive::begin(session, nest, state, true)
    }

    /// The same from a state, which may have a child already. `again` says that the client has shaken hands before.
    fn begin(session: &Arc<Session>, nest: &Arc<Nest>, state: State, again: bool) -> Arc<Exclusive> {
        let exclusive = Arc::new(Exclusive {
            config: Lock::new(nest.config()),
            umask: session.hub.config().umask,
            renew: AtomicBool::new(false),
            renewal: Event::new(),
            state: Lock::new(state),
            changed: Event::new(),
            end: Flag::default(),
            done: Flag::default(),
        });
        let (me, nest, server, session) =
            (exclusive.clone(), nest.clone(), session.server.clone(), Arc::downgrade(session));
        nest.living.fetch_add(1, SeqCst);
        async_std::task::spawn(async move {
            me.keep(&server, &nest, &session, again).await;
            nest.living.fetch_sub(1, SeqCst);
            me.done.set();
        });
        exclusive
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    fn config(&self) -> Arc<Stdio> {
        self.config.lock().clone()
    }

    /// Takes over settings that need no new child.
    pub fn adjust(&self, config: &Arc<Stdio>) {
        self.config.lock().clone_from(config);
        if let Some(link) = self.any_link() {
            link.adjust((**config).clone());
        }
    }

    /// Goes over to another command, once nothing is open.
    pub fn replace(&self, config: &Arc<Stdio>) {
        self.config.lock().clone_from(config);
        self.renew.store(true, SeqCst);
        self.renewal.notify(usize::MAX);
    }

    /// The living child.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.state().link.clone().filter(|l| !l.is_dead())
    }

    /// The child, also one that is about to end.
    pub fn any_link(&self) -> Option<Arc<Link>> {
        self.state().link.clone()
    }

    /// The child once it is there, or why it will not be.
    pub async fn ready(&self) -> Result<Arc<Link>, String> {
        let check = || self.link().map(Ok).or_else(|| self.state().failed.clone().map(Err));
        let found = within(self.config().start_timeout, until(&self.changed, check)).await;
        found.unwrap_or_else(|| Err("the session's child is not there yet".to_owned()))
    }

    /// The session is over: the child goes down.
    pub fn end(&self) {
        self.end.set();
    }

    pub fn is_done(&self) -> bool {
        self.done.is_set()
    }

    pub async fn done(&self) {
        self.done.wait().await;
    }

    /// Notes what a new child would have to hear again.
    pub fn note(&self, e: &Envelope<'_>) {
        let params = e.get(&e.params).map(str::to_owned);
        match e.method.as_ref() {
            "initialize" => self.state().hello = params,
            "notifications/initialized" => self.state().initialized = true,
            "logging/setLevel" => self.state().level = params,
            _ => {}
        }
    }

    /// The child asks its client something.
    pub fn ask(&self, id: &str) {
        self.state().asked.insert(ids::canonical(id));
    }

    /// Whether the child has asked this, and has had no answer.
    pub fn answered(&self, id: &str) -> bool {
        self.state().asked.remove(&ids::canonical(id))
    }

    async fn keep(&self, server: &Arc<Server>, nest: &Arc<Nest>, session: &Weak<Session>, mut again: bool) {
        let mut history = History::default();
        let mut there = self.any_link();
        while !self.end.is_set() {
            let before = there.take();
            let fresh = before.is_none();
            let raised = match before {
                Some(link) => Ok(link),
                None => self.raise(server, nest, session, again).await,
            };
            let ended = match raised {
                Ok(link) => {
                    history.ready(Instant::now());
                    let begins = {
                        let mut state = self.state();
                        state.link = Some(link.clone());
                        std::mem::take(&mut state.begins)
                    };
                    self.changed.notify(usize::MAX);
                    if again
                        && fresh
                        && !begins
                        && let Some(session) = session.upgrade()
                    {
                        session.lists_changed(false, &|list| server.has_list(list));
                    }
                    again = true;
                    let exited = async { Some(link.exited().await) };
                    let over = async {
                        self.end.wait().or(self.quiet_renewal(server, session)).await;
                        None
                    };
                    let config = self.config();
                    let hung = async {
                        hung(&link, config.health.as_ref()).await;
                        Some(Ended::NotReady)
                    };
                    match exited.or(over).or(hung).await {
                        Some(Ended::NotReady) if !link.is_dead() => {
                            let text = "it does not answer pings and is replaced".to_owned();
                            link.fail_all(jsonrpc::INTERNAL_ERROR, &format!("server '{}': {text}", server.name));
                            self.state().link = None;
                            link.stop(&Stop { stdin: Duration::ZERO, ..config.stop.clone() }).await;
                            StartFailure { how: Ended::NotReady, text, refused: false }
                        }
                        Some(how) => {
                            link.gone().await;
                            StartFailure { how, text: link.exit_text(), refused: false }
                        }
                        None => {
                            // Nobody sends to it any more; a new one takes its place, unless the session is over.
                            self.state().link = None;
                            link.stop(&self.config().stop).await;
                            continue;
                        }
                    }
                }
                Err(failure) => failure,
            };
            {
                let mut state = self.state();
                state.link = None;
                state.asked.clear();
            }
            if self.end.is_set() {
                break;
            }
            server.count_restart(exit_text(ended.how));
            let delay = match history.ended(&self.config().restart, ended.how, Instant::now(), jitter()) {
                Next::After(delay) | Next::Slow(delay) => delay,
                Next::Never(why) => {
                    warn!("server '{}': a session's child is not started again: {} ({why})", server.name, ended.text);
                    self.state().failed = Some(format!("server '{}': {} ({why})", server.name, ended.text));
                    self.changed.notify(usize::MAX);
                    self.end.wait().or(self.renewed()).await;
                    self.state().failed = None;
                    history = History::default();
                    continue;
                }
            };
            info!(
                "server '{}': a session's child is down: {}; next start in {}",
                server.name,
                ended.text,
                duration(round(delay))
            );
            // What a reload has changed may be what was wrong.
            sleep(delay).or(self.end.wait()).or(self.renewed()).await;
        }
        self.state().link = None;
    }

    async fn renewed(&self) {
        until(&self.renewal, || self.renew.swap(false, SeqCst).then_some(())).await;
    }

    /// Waits for another command, and then until nothing is open or the drain time is over.
    async fn quiet_renewal(&self, server: &Server, session: &Weak<Session>) {
        self.renewed().await;
        let open = || session.upgrade().is_some_and(|s| s.in_flight() > 0);
        let quiet = async {
            while open() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = within(server.hub.config().drain_timeout, quiet).await;
    }

    /// A child, brought to where the session's last one was.
    async fn raise(
        &self,
        server: &Arc<Server>,
        nest: &Arc<Nest>,
        session: &Weak<Session>,
        again: bool,
    ) -> Result<Arc<Link>, StartFailure> {
        // A spare was started for the command that the nest has.
        let spare = if Arc::ptr_eq(&self.config(), &nest.config()) { nest.take(server) } else { None };
        let link = match spare {
            Some(spare) => spare,
            None => starting::spawn(server, &self.config(), self.umask).await?,
        };
        link.give_to(session.clone());
        let (hello, initialized, level) = {
            let state = self.state();
            (state.hello.clone(), state.initialized, state.level.clone())
        };
        let Some(hello) = hello.filter(|_| again) else { return Ok(link) };
        debug!("server '{}': the handshake of a session is repeated", server.name);
        let uris = session.upgrade().map(|s| s.all_subscriptions()).unwrap_or_default();
        let repeat = async {
            link.ask("initialize", Some(&hello)).await?;
            if initialized {
                link.say(&jsonrpc::notification("notifications/initialized", None));
            }
            if let Some(level) = level {
                link.tell("logging/setLevel", &level);
            }
            for uri in uris {
                link.tell("resources/subscribe", &mcp::uri_params(&uri));
            }
            Ok::<(), String>(())
        };
        let over = async {
            self.end.wait().await;
            Err("its session is over".to_owned())
        };
        match within(self.config().start_timeout, repeat.or(over)).await {
            Some(Ok(())) => Ok(link),
            outcome => {
                let why = outcome.map_or("it did not answer".to_owned(), |o| o.err().unwrap_or_default());
                link.stop(&self.config().stop).await;
                let text = format!("its handshake failed: {why}");
                Err(StartFailure { how: Ended::NotReady, text, refused: true })
            }
        }
    }
}

/// Children that are started ahead for sessions to come: their start-up time is hidden.
pub struct Nest {
    config: Lock<Arc<Stdio>>,
    /// Sessions at a time.
    pub max: u32,
    pub idle: Duration,
    spare: usize,
    spares: Lock<Spares>,
    /// Children of sessions, those included that are going down.
    living: AtomicUsize,
}

#[derive(Default)]
struct Spares {
    links: Vec<Arc<Link>>,
    coming: usize,
    closed: bool,
}

impl Nest {
    pub fn new(config: Arc<Stdio>, max: u32, idle: Duration, spare: u32, links: Vec<Arc<Link>>) -> Arc<Nest> {
        let living = AtomicUsize::new(0);
        let config = Lock::new(config);
        let spares = Lock::new(Spares { links, ..Spares::default() });
        Arc::new(Nest { config, max, idle, spare: spare as usize, spares, living })
    }

    fn spares(&self) -> Guard<'_, Spares> {
        self.spares.lock()
    }

    pub fn config(&self) -> Arc<Stdio> {
        self.config.lock().clone()
    }

    /// Takes over settings that need no new child.
    pub fn adjust(&self, config: &Arc<Stdio>) {
        self.config.lock().clone_from(config);
        for link in self.links() {
            link.adjust((**config).clone());
        }
    }

    /// Whether a session more is too many: those that are going down still cost what they cost, so there is an end to
    /// opening and closing.
    pub fn is_full(&self, sessions: usize) -> bool {
        sessions >= self.max as usize || self.living.load(SeqCst) >= 2 * self.max as usize
    }

    /// The children that wait for a session.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.spares().links.clone()
    }

    fn take(self: &Arc<Self>, server: &Arc<Server>) -> Option<Arc<Link>> {
        let taken = {
            let mut spares = self.spares();
            spares.links.retain(|l| !l.is_dead());
            spares.links.pop()
        };
        self.fill(server);
        taken
    }

    /// Starts what is missing, in the background.
    pub fn fill(self: &Arc<Self>, server: &Arc<Server>) {
        let missing = {
            let mut spares = self.spares();
            spares.links.retain(|l| !l.is_dead());
            let missing = self.spare.saturating_sub(spares.links.len() + spares.coming);
            let missing = if spares.closed { 0 } else { missing };
            spares.coming += missing;
            missing
        };
        for _ in 0..missing {
            let (nest, server) = (self.clone(), server.clone());
            async_std::task::spawn(async move {
                let umask = server.hub.config().umask;
                let started = starting::spawn(&server, &nest.config(), umask).await;
                let unwanted = {
                    let mut spares = nest.spares();
                    match started {
                        Ok(link) if spares.closed => Some(link),
                        Ok(link) => {
                            spares.links.push(link.clone());
                            async_std::task::spawn(nest.clone().replace(server.clone(), link));
                            None
                        }
                        Err(failure) => {
                            debug!("server '{}': no spare child: {}", server.name, failure.text);
                            None
                        }
                    }
                };
                if let Some(link) = unwanted {
                    link.stop(&nest.config().stop).await;
                }
                nest.spares().coming -= 1;
            });
        }
    }

    /// Looks after the spares that were there from the beginning.
    pub fn watch(self: &Arc<Self>, server: &Arc<Server>) {
        for spare in self.links() {
            async_std::task::spawn(self.clone().replace(server.clone(), spare));
        }
    }

    /// Starts another where one ends before a session takes it, but not at once: it may do so again.
    async fn replace(self: Arc<Self>, server: Arc<Server>, spare: Arc<Link>) {
        spare.exited().await;
        let waits = self.spares().links.iter().any(|l| Arc::ptr_eq(l, &spare));
        if waits {
            sleep(self.config().restart.delay.max(Duration::from_secs(1))).await;
            self.fill(&server);
        }
    }

    /// No more spares; those that there are go down.
    pub async fn close(&self) {
        let links = {
            let mut spares = self.spares();
            spares.closed = true;
            std::mem::take(&mut spares.links)
        };
        for link in &links {
            // Nothing was ever asked of them.
            link.stop_soon();
        }
        for link in links {
            link.stop(&self.config().stop).await;
        }
        // One that is being started sees that the nest is closed.
        let _ = within(self.config().start_timeout, async {
            while self.spares().coming > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}
