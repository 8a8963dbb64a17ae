//! The place of one child: the child that it has at the moment, and how that one is.
//!
//! A server has one slot, a pool several, a server of both eras one more, because one child speaks one era; and a session
//! with a child of its own has one. It must not know which of these it is: that is for its [`Owner`].

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event as Bell;

use super::child::Child;
use super::start::StartFailure;
use crate::model::config::server::Mcp;
use crate::model::last_words::LastWords;
use crate::model::life::Event;
use crate::model::outage::Outage;
use crate::model::restart::Ended;
use crate::model::status::ServerState;
use crate::rt::live::Live;
use crate::rt::wait::{Flag, until};
use crate::sys::lock::{Guard, Lock};

/// A start whose outcome has to be waited for.
pub(crate) type Starting<'a> = Pin<Box<dyn Future<Output = Result<Arc<Child>, StartFailure>> + Send + 'a>>;

/// How a place is, for those who are told.
pub(crate) struct Condition<'c> {
    pub state: ServerState,
    /// In words for the status document.
    pub reason: Option<String>,
    /// What was wrong with the last child.
    pub trouble: Option<&'c str>,
    /// When the next start is.
    pub next_start: Option<Duration>,
    /// Why there is no next start.
    pub verdict: Option<&'static str>,
}

/// What a slot is for: starts its children, and hears how they are.
pub(crate) trait Owner: Send + Sync {
    /// Starts a child that is ready to serve.
    fn start<'a>(&'a self, slot: &'a Arc<Slot>) -> Starting<'a>;

    /// A child is ready, and about to be put in place. `again` says that it takes the place of another, `was_idle` that the
    /// other was stopped because it was not used.
    fn ready(&self, slot: &Arc<Slot>, child: &Arc<Child>, again: bool, was_idle: bool) -> Option<Task>;

    /// A child is in place, or gone.
    fn placed(&self, slot: &Slot, child: Option<&Arc<Child>>);

    /// The slot has entered a state.
    fn entered(&self, slot: &Slot, how: &Condition<'_>);

    /// What a child has said before it ended, or became of no use.
    fn said(&self, slot: &Slot, words: &LastWords);

    /// A child ended that was not asked to.
    fn ended(&self, slot: &Slot, how: Ended);

    /// Whether a child keeps something for a client that waits to be told: then it is in use without a request.
    fn needs(&self, child: &Child) -> bool;
}

/// Work that follows once a child is in place.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The place of one child.
pub(crate) struct Slot {
    /// For messages: the server's name, and what else tells it from others.
    label: String,
    pub config: Arc<Live<Mcp>>,
    pub owner: Weak<dyn Owner>,
    state: Lock<State>,
    /// What was told of its troubles.
    pub outage: Lock<Outage>,
    /// No more starts: the server is removed or replaced, the session is over, or the daemon ends.
    pub retired: Flag,
    /// Its last child is gone.
    pub done: Flag,
    /// A reload: what failed may be tried again.
    retry: AtomicBool,
    /// The child is needed.
    wanted: AtomicBool,
    /// The child is to be replaced once nothing is open.
    renew: AtomicBool,
    nudge: Bell,
    /// The last child was stopped because it was not used.
    pub was_idle: AtomicBool,
}

struct State {
    child: Option<Arc<Child>>,
    phase: ServerState,
    reason: Option<String>,
    /// What its last child said before its end.
    words: LastWords,
}

impl Slot {
    pub(crate) fn new(label: String, config: Arc<Live<Mcp>>, owner: Weak<dyn Owner>) -> Arc<Slot> {
        Arc::new(Slot {
            label,
            config,
            owner,
            state: Lock::new(State {
                child: None,
                phase: ServerState::Starting,
                reason: None,
                words: LastWords::default(),
            }),
            outage: Lock::default(),
            retired: Flag::default(),
            done: Flag::default(),
            retry: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            renew: AtomicBool::new(false),
            nudge: Bell::new(),
            was_idle: AtomicBool::new(false),
        })
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The living child, if it is ready.
    pub(crate) fn child(&self) -> Option<Arc<Child>> {
        self.any_child().filter(|c| !c.is_dead())
    }

    /// The child, also one that is about to end.
    pub(crate) fn any_child(&self) -> Option<Arc<Child>> {
        self.state().child.clone()
    }

    pub(crate) fn phase(&self) -> (ServerState, Option<String>) {
        let state = self.state();
        (state.phase, state.reason.clone())
    }

    /// Its child has ended, or is of no use, and this is what it said last.
    pub(crate) fn note_words(&self, words: LastWords) {
        if let Some(owner) = self.owner.upgrade().filter(|_| !words.is_empty()) {
            owner.said(self, &words);
        }
        self.state().words = words;
    }

    /// What its last child said before its end; nothing while there is one.
    pub(crate) fn words(&self) -> LastWords {
        self.state().words.clone()
    }

    /// What is wrong with it, for an error message.
    pub(crate) fn trouble(&self) -> String {
        let (phase, reason) = self.phase();
        format!("{} is {phase}{}", self.label, reason.map_or(String::new(), |r| format!(": {r}")))
    }

    /// Puts a child in place that is ready, or takes one away that is gone.
    pub(crate) fn place(&self, child: Option<&Arc<Child>>) {
        self.state().child = child.cloned();
        if let Some(owner) = self.owner.upgrade() {
            owner.placed(self, child);
        }
    }

    /// Moves to another state, for everybody to see.
    pub(crate) fn enter(&self, how: &Condition<'_>) {
        {
            let mut state = self.state();
            if state.phase == how.state && state.reason == how.reason {
                return;
            }
            state.phase = how.state;
            state.reason.clone_from(&how.reason);
            if how.state == ServerState::Ready {
                state.words = LastWords::default();
            }
        }
        if let Some(owner) = self.owner.upgrade() {
            owner.entered(self, how);
        }
    }

    /// Moves to a state that speaks for itself.
    pub(crate) fn enter_state(&self, state: ServerState, reason: Option<String>) {
        self.enter(&Condition { state, reason, trouble: None, next_start: None, verdict: None });
    }

    /// Tries again at once what waits for its next start, as if nothing had failed before.
    pub(crate) fn retry(&self) {
        self.retry.store(true, SeqCst);
        self.nudge.notify(usize::MAX);
    }

    /// The child is needed.
    pub(crate) fn want(&self) {
        self.wanted.store(true, SeqCst);
        self.nudge.notify(usize::MAX);
    }

    /// The child is there, which is what was wanted.
    pub(crate) fn forget_want(&self) {
        self.wanted.store(false, SeqCst);
    }

    /// Replaces the child once nothing is open, or the drain time is over.
    pub(crate) fn renew(&self) {
        self.renew.store(true, SeqCst);
        self.nudge.notify(usize::MAX);
    }

    /// No more starts; the child is drained and stopped. Returns at once.
    pub(crate) fn retire(&self) {
        self.retired.set();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.is_set()
    }

    /// Waits until the child is to be replaced.
    pub(crate) async fn renewed(&self) -> Event {
        until(&self.nudge, || self.renew.swap(false, SeqCst).then_some(Event::Renew)).await
    }

    /// Waits until a start is to be tried again, or, `by_want`, until the child is needed.
    pub(crate) async fn nudged(&self, by_want: bool) -> Event {
        let check = || {
            let again = self.retry.swap(false, SeqCst) | self.renew.swap(false, SeqCst);
            match again {
                true => Some(Event::Retry),
                false => (by_want && self.wanted.swap(false, SeqCst)).then_some(Event::Wanted),
            }
        };
        until(&self.nudge, check).await
    }
}
