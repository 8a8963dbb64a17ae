//! The shared children of a server under one configuration: one, several in a pool, and one more for the modern era.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::changes::Changes;
use crate::hub::child::child::{Child, Observer};
use crate::hub::child::far::Dial;
use crate::hub::child::slot::{Owner, Slot};
use crate::hub::child::start::Starter;
use crate::hub::child::supervisor;
use crate::hub::error::Error;
use crate::hub::server::core::Core;
use crate::model::config::server::{Mcp, Sharing};
use crate::model::status::ServerState;
use crate::rt::live::Live;
use crate::rt::wait::{Flag, timeout};
use crate::sys::lock::Lock;

/// Whether a server speaks the modern era besides the legacy one.
#[derive(Default)]
pub(crate) enum Verdict {
    #[default]
    Unknown,
    /// It does: the slot of the child for it.
    Modern(Arc<Slot>),
    /// It does not: found at this time, when the child said this of itself.
    Legacy(Instant, Option<String>),
}

/// The shared children of a server under one configuration.
pub(crate) struct Shared {
    pub core: Arc<Core>,
    pub me: Weak<Shared>,
    pub config: Arc<Live<Mcp>>,
    /// Makes lines to a server that is no process of ours.
    dial: Option<Arc<dyn Dial>>,
    /// One; several in a pool.
    pub slots: Vec<Arc<Slot>>,
    /// The child for the modern era, once a client of it has come and the server was found to speak it.
    pub modern: Lock<Verdict>,
    /// The question to the server that is under way; set once it is answered.
    pub probing: Lock<Option<Arc<Flag>>>,
    /// Children that are there before it runs, one for each slot.
    pub first: Lock<Vec<Option<Arc<Child>>>>,
    /// Which changes of lists were told a moment ago.
    pub changes: Changes,
    /// Another has taken its place.
    pub replaced: Flag,
    /// It finishes what it has.
    pub retired: Flag,
}

impl Shared {
    pub(crate) fn new(core: &Arc<Core>, mcp: &Mcp, dial: Option<Arc<dyn Dial>>) -> Arc<Shared> {
        let config = Live::new(Arc::new(mcp.clone()));
        let size = match mcp.sharing {
            Sharing::Pool(n) => n,
            _ => 1,
        };
        Arc::new_cyclic(|me: &Weak<Shared>| {
            let place = |n: u32| if size > 1 { format!(" ({n} of {size})") } else { String::new() };
            let label = |n| format!("server '{}'{}", core.name, place(n));
            let slots = (1..=size).map(|n| Slot::new(label(n), config.clone(), me.clone())).collect();
            Shared {
                core: core.clone(),
                me: me.clone(),
                slots,
                config: config.clone(),
                dial,
                modern: Lock::default(),
                probing: Lock::default(),
                first: Lock::default(),
                changes: Changes::default(),
                replaced: Flag::default(),
                retired: Flag::default(),
            }
        })
    }

    /// What its children are started with.
    pub(crate) fn starter(&self) -> Starter {
        let observer: Weak<dyn Observer> = self.me.clone();
        let (ctx, server, config) = (self.core.ctx.clone(), self.core.name.clone(), self.config.clone());
        Starter { ctx, server, config, dial: self.dial.clone(), observer }
    }

    pub(crate) fn modern_slot(&self) -> Option<Arc<Slot>> {
        match &*self.modern.lock() {
            Verdict::Modern(slot) => Some(slot.clone()),
            _ => None,
        }
    }

    /// All slots there are.
    pub(crate) fn all_slots(&self) -> Vec<Arc<Slot>> {
        self.slots.iter().cloned().chain(self.modern_slot()).collect()
    }

    /// All children there are.
    pub(crate) fn children(&self) -> Vec<Arc<Child>> {
        self.all_slots().iter().filter_map(|s| s.any_child()).collect()
    }

    /// The slot that a session of this place belongs to.
    pub(crate) fn slot(&self, place: usize) -> &Arc<Slot> {
        &self.slots[place % self.slots.len()]
    }

    /// A slot speaks for the server: it is one of its own, and no other backend has taken this one's place.
    pub(crate) fn has(&self, slot: &Slot) -> bool {
        !self.replaced.is_set() && self.all_slots().iter().any(|s| std::ptr::eq(&raw const **s, slot))
    }

    /// Whether a slot is the one for the modern era.
    pub(crate) fn is_for_modern(&self, slot: &Slot) -> bool {
        !self.slots.iter().any(|s| std::ptr::eq(&raw const **s, slot))
    }

    /// The place of a child that speaks the modern era.
    pub(crate) fn run_modern(&self, child: &Arc<Child>) -> Arc<Slot> {
        let owner: Weak<dyn Owner> = self.me.clone();
        let slot = Slot::new(format!("server '{}' (modern era)", self.core.name), self.config.clone(), owner);
        slot.place(Some(child));
        supervisor::run(&slot, Some(child.clone()), false, &self.core.ctx.clock);
        slot
    }

    /// The place of a new session among several children: where the least is to do.
    pub(crate) fn least_loaded(&self) -> usize {
        if self.slots.len() < 2 {
            return 0;
        }
        let sessions = self.core.members.sessions();
        let load = |n: usize| {
            let child = self.slots[n].child();
            let waiting = child.as_ref().map_or(0, |c| c.load.in_flight());
            // One without a child has the least to do, and that is not what is looked for.
            (child.is_none(), sessions.iter().filter(|s| s.place % self.slots.len() == n).count(), waiting)
        };
        (0..self.slots.len()).min_by_key(|n| load(*n)).unwrap_or(0)
    }

    /// Waits until the child of a slot is ready, or another backend has taken this one's place. The error says what the
    /// trouble is. A child that rests is called.
    pub(crate) async fn ready_slot(&self, slot: &Slot) -> Result<(), Error> {
        let check = || if self.replaced.is_set() { Some(Ok(())) } else { ready(slot) };
        let limit = self.config.get().start_timeout;
        let outcome = timeout(limit, self.core.until(check)).await;
        outcome.unwrap_or_else(|| Err(Error::NotReady { place: slot.trouble() }))
    }
}

/// The child of a slot is ready, or why it will not be.
fn ready(slot: &Slot) -> Option<Result<(), Error>> {
    if slot.child().is_some() {
        return Some(Ok(()));
    }
    let down = match slot.phase().0 {
        ServerState::Failed | ServerState::Stopped => true,
        ServerState::Stopping => slot.is_retired(),
        _ => false,
    };
    if !down {
        slot.want();
    }
    down.then(|| Err(Error::NotReady { place: slot.trouble() }))
}
