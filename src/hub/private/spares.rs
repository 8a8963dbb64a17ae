//! Children that are started ahead for sessions to come: their start-up time is hidden.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event;
use log::debug;

use crate::hub::child::child::{Child, Observer};
use crate::hub::child::far::Dial;
use crate::hub::child::start::{StartFailure, Starter};
use crate::hub::leaving::{Leaving, Pending};
use crate::hub::server::core::Core;
use crate::model::config::server::Mcp;
use crate::model::envelope::Envelope;
use crate::rt::live::Live;
use crate::rt::task;
use crate::rt::wait::{Flag, sleep, timeout, until};
use crate::sys::lock::Lock;

/// The limits of `sharing: PerSession`.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Sessions at a time.
    pub max: u32,
    /// How long a session may be idle.
    pub idle: Duration,
    /// How many children wait for sessions to come.
    pub spare: usize,
}

/// Children that wait for a session.
pub(crate) struct Spares {
    pub core: Arc<Core>,
    me: Weak<Spares>,
    pub config: Arc<Live<Mcp>>,
    /// Makes lines to a server that is no process of ours.
    dial: Option<Arc<dyn Dial>>,
    pub limits: Limits,
    state: Lock<State>,
    arrived: Event,
    closed: Flag,
    /// Children of sessions, those included that are going down.
    living: AtomicUsize,
}

#[derive(Default)]
struct State {
    children: Vec<Arc<Child>>,
    coming: usize,
    closed: bool,
}

/// A spare is asked nothing, so what it says is for no client.
impl Observer for Spares {
    fn request(&self, _child: &Child, _e: &Envelope<'_>) {}

    fn notification(&self, _child: &Child, _e: &Envelope<'_>) {}
}

/// A child of a session that lives, for as long as this does.
pub(crate) struct Living(Arc<Spares>);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.living.fetch_sub(1, SeqCst);
    }
}

impl Spares {
    pub(crate) fn new(core: &Arc<Core>, mcp: Mcp, limits: Limits, dial: Option<Arc<dyn Dial>>) -> Arc<Spares> {
        Arc::new_cyclic(|me| Spares {
            core: core.clone(),
            me: me.clone(),
            config: Live::new(Arc::new(mcp)),
            dial,
            limits,
            state: Lock::default(),
            arrived: Event::new(),
            closed: Flag::default(),
            living: AtomicUsize::new(0),
        })
    }

    /// What a child is started with under these settings.
    pub(crate) fn starter(&self, config: Arc<Live<Mcp>>) -> Starter {
        let observer: Weak<dyn Observer> = self.me.clone();
        let (ctx, server) = (self.core.ctx.clone(), self.core.name.clone());
        Starter { ctx, server, config, dial: self.dial.clone(), observer }
    }

    /// Counts a child of a session.
    pub(crate) fn live(self: &Arc<Self>) -> Living {
        self.living.fetch_add(1, SeqCst);
        Living(self.clone())
    }

    /// Whether a session more is too many: those that are going down still cost what they cost, so there is an end to
    /// opening and closing.
    pub(crate) fn is_full(&self, sessions: usize) -> bool {
        let max = self.limits.max as usize;
        sessions >= max || self.living.load(SeqCst) >= 2 * max
    }

    /// The children that wait for a session.
    pub(crate) fn children(&self) -> Vec<Arc<Child>> {
        self.state.lock().children.clone()
    }

    /// Takes over children that are there already.
    pub(crate) fn adopt(&self, children: Vec<Arc<Child>>) {
        self.state.lock().children.extend(children);
    }

    /// A child for a session under these settings, if one waits that was started under them.
    pub(crate) fn take(&self, config: &Arc<Mcp>) -> Option<Arc<Child>> {
        if !Arc::ptr_eq(config, &self.config.get()) {
            return None;
        }
        let taken = {
            let mut state = self.state.lock();
            state.children.retain(|c| !c.is_dead());
            state.children.pop()
        };
        self.fill();
        taken
    }

    /// Begins to keep spares: those that are there are looked after, and more are started whenever a child of the server
    /// shows that it can be started.
    pub(crate) fn run(&self) {
        let Some(me) = self.me.upgrade() else { return };
        for spare in me.children() {
            task::spawn(me.clone().replace(spare));
        }
        task::spawn(async move {
            let mut seen = 0;
            loop {
                seen = me.core.child_after(seen, || me.closed.is_set()).await;
                if me.closed.is_set() {
                    return;
                }
                me.fill();
            }
        });
    }

    /// Starts what is missing, in the background.
    fn fill(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let missing = {
            let mut state = self.state.lock();
            state.children.retain(|c| !c.is_dead());
            let missing = self.limits.spare.saturating_sub(state.children.len() + state.coming);
            let missing = if state.closed { 0 } else { missing };
            state.coming += missing;
            missing
        };
        for _ in 0..missing {
            task::spawn(me.clone().start());
        }
    }

    async fn start(self: Arc<Self>) {
        let umask = self.core.ctx.config().umask;
        let started = self.starter(self.config.clone()).spawn(umask).await;
        if let Some(unwanted) = self.arrive(started) {
            unwanted.stop(self.config.get().stop()).await;
        }
        self.state.lock().coming -= 1;
        self.arrived.notify(usize::MAX);
    }

    /// Keeps a child that was started; given back if none is wanted any more.
    fn arrive(self: &Arc<Self>, started: Result<Arc<Child>, StartFailure>) -> Option<Arc<Child>> {
        let mut state = self.state.lock();
        match started {
            Ok(child) if state.closed => Some(child),
            Ok(child) => {
                state.children.push(child.clone());
                task::spawn(self.clone().replace(child));
                None
            }
            Err(failure) => {
                debug!("server '{}': no spare child: {}", self.core.name, failure.text);
                None
            }
        }
    }

    /// Starts another where one ends before a session takes it, but not at once: it may do so again.
    async fn replace(self: Arc<Self>, spare: Arc<Child>) {
        spare.exited().await;
        let waits = self.children().iter().any(|c| Arc::ptr_eq(c, &spare));
        if waits {
            sleep(self.config.get().restart.delay.max(Duration::from_secs(1))).await;
            self.fill();
        }
    }

    /// No more spares; those that there are go down.
    async fn close(&self) {
        let children = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.children)
        };
        for child in &children {
            // They were never asked anything.
            child.stop_soon();
        }
        for child in children {
            child.stop(self.config.get().stop()).await;
        }
        // One that is being started sees that no more are wanted.
        let none = || (self.state.lock().coming == 0).then_some(());
        let _ = timeout(self.config.get().start_timeout, until(&self.arrived, none)).await;
    }
}

impl Leaving for Spares {
    fn is_done(&self) -> bool {
        self.closed.is_set()
    }

    fn end(&self) {
        let first = !std::mem::replace(&mut self.state.lock().closed, true);
        if let Some(me) = self.me.upgrade().filter(|_| first) {
            task::spawn(async move {
                me.close().await;
                me.closed.set();
                me.core.wake();
            });
        }
    }

    fn done(&self) -> Pending<'_> {
        Box::pin(self.closed.wait())
    }
}
