//! What a server is, whatever it is made of: its name, its counts, its sessions, and what it last said of itself.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use event_listener::Event;
use log::warn;

use super::members::Members;
use super::tasks::TaskOwners;
use super::waiting::WaitingRoom;
use crate::hub::client::watchers::Watchers;
use crate::hub::context::Context;
use crate::hub::load::Load;
use crate::model::handover;
use crate::model::mcp::ServerInfo;
use crate::model::meter::Meters;
use crate::model::modern;
use crate::model::text::printable;
use crate::rt::wait::until;
use crate::sys::lock::Lock;

/// So much of what is left out is told of.
const LEFT_OUT: usize = 20;
/// The times of so many restarts are kept.
const RESTARTS: usize = 100;

/// Hears that a server, named, can be asked again.
pub(crate) type HeardOf = Arc<dyn Fn(&str) + Send + Sync>;

/// What a server is, whatever it is made of.
pub(crate) struct Core {
    pub name: Arc<str>,
    /// Tells it from all other servers, also from one of the same name before it.
    serial: AtomicU32,
    pub ctx: Arc<Context>,
    pub meters: Arc<Meters>,
    /// Its open requests.
    pub load: Arc<Load>,
    pub members: Members,
    /// Which resources they watch.
    pub watchers: Arc<Watchers>,
    pub waiting: Arc<WaitingRoom>,
    /// What its last child said of itself: clients can be greeted while it is being replaced.
    info: Lock<Option<ServerInfo>>,
    restarts: Lock<Restarts>,
    /// The tasks that its clients have started.
    pub tasks: TaskOwners,
    /// What of it is not on the bridge because it is not as it must be.
    left_out: Lock<BTreeSet<String>>,
    changed: Event,
    heard_of: HeardOf,
    /// How often a child was put in place.
    children: AtomicU64,
}

/// How often its children were started again.
#[derive(Clone, Default)]
pub(crate) struct Restarts {
    pub count: u64,
    /// When the last ones were, in seconds since the start.
    pub at: VecDeque<u64>,
    pub last_exit: Option<String>,
}

impl Core {
    pub(crate) fn new(ctx: &Arc<Context>, name: &str, heard_of: HeardOf) -> Arc<Core> {
        let (name, meters) = (Arc::<str>::from(name), Arc::<Meters>::default());
        Arc::new(Core {
            load: Load::measured(meters.clone(), []),
            waiting: WaitingRoom::new(name.clone()),
            name,
            serial: AtomicU32::new(ctx.next_serial()),
            ctx: ctx.clone(),
            meters,
            members: Members::default(),
            watchers: Arc::default(),
            info: Lock::default(),
            restarts: Lock::default(),
            tasks: TaskOwners::default(),
            left_out: Lock::default(),
            changed: Event::new(),
            heard_of,
            children: AtomicU64::new(0),
        })
    }

    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(SeqCst)
    }

    /// What is known of the server without waiting.
    pub(crate) fn info(&self) -> Option<ServerInfo> {
        self.info.get()
    }

    pub(crate) fn set_info(&self, info: ServerInfo) {
        self.info.replace(Some(info));
    }

    /// It speaks revision 2026-07-28 and no other.
    pub(crate) fn is_modern_only(&self) -> bool {
        self.info.lock().as_ref().is_some_and(|i| i.revision == modern::VERSION)
    }

    /// Whether the server has tools, prompts or resources, as far as it is known.
    pub(crate) fn has_list(&self, list: &str) -> bool {
        self.info.lock().as_ref().is_some_and(|i| i.has(list))
    }

    /// Something of it is not on the bridge, for this reason; said once.
    pub(crate) fn leave_out(&self, what: &str, name: &str, why: &str) {
        let text = format!("{what} '{}': {why}", printable(name, 100));
        let mut all = self.left_out.lock();
        if all.len() < LEFT_OUT && all.insert(text.clone()) {
            warn!("server '{}': left out of the bridge, or no client could read the list: {text}", self.name);
        }
    }

    /// What of it is not on the bridge.
    pub(crate) fn left_out(&self) -> Vec<String> {
        self.left_out.lock().iter().cloned().collect()
    }

    /// Tells those who wait for a state, and the status document.
    pub(crate) fn announce(&self) {
        self.wake();
        self.ctx.changed();
    }

    /// Lets those who wait for something of the server look again.
    pub(crate) fn wake(&self) {
        self.changed.notify(usize::MAX);
    }

    /// Waits until `check` gives something; asked again after each change of the server.
    pub(crate) async fn until<T>(&self, check: impl FnMut() -> Option<T>) -> T {
        until(&self.changed, check).await
    }

    /// A child is there, and can be asked.
    pub(crate) fn note_child(&self) {
        (self.heard_of)(&self.name);
        self.children.fetch_add(1, SeqCst);
        self.wake();
    }

    /// Waits until a child was put in place after the `seen`th, or it is `over`; gives the count now.
    pub(crate) async fn child_after(&self, seen: u64, over: impl Fn() -> bool) -> u64 {
        self.until(|| Some(self.children.load(SeqCst)).filter(|n| *n > seen || over())).await
    }

    pub(crate) fn count_restart(&self, last_exit: String) {
        let second = self.ctx.seconds();
        let mut restarts = self.restarts.lock();
        restarts.count += 1;
        restarts.at.push_back(second);
        while restarts.at.len() > RESTARTS {
            restarts.at.pop_front();
        }
        restarts.last_exit = Some(last_exit);
    }

    pub(crate) fn restarts(&self) -> Restarts {
        self.restarts.get()
    }

    /// What a server has apart from its children, for the next program.
    pub(crate) fn save(&self) -> handover::Server {
        let restarts = self.restarts();
        handover::Server {
            name: self.name.to_string(),
            serial: self.serial(),
            tasks: self.tasks.save(),
            restarts: restarts.count,
            restarted: restarts.at,
            last_exit: restarts.last_exit,
            server_info: self.info(),
            meter: self.meters.save_all(self.ctx.seconds()),
            methods: self.meters.save(),
            slots: Vec::new(),
            modern: handover::Era::Unknown,
            spares: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Goes on with what the program before had.
    pub(crate) fn restore(&self, saved: &mut handover::Server) {
        self.meters.load(&saved.methods, &saved.meter);
        self.tasks.restore(std::mem::take(&mut saved.tasks));
        if saved.serial > 0 {
            self.serial.store(saved.serial, SeqCst);
        }
        let restarts = Restarts {
            count: saved.restarts,
            at: std::mem::take(&mut saved.restarted),
            last_exit: saved.last_exit.take(),
        };
        self.restarts.replace(restarts);
        self.info.replace(saved.server_info.take());
    }
}
