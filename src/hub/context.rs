//! What all parts of the hub share: the configuration in force, clocks, counts, and the flags of an instance's phases.
//!
//! The ground that everything stands on. It must not know servers, children, sessions or messages.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use event_listener::Event as Bell;
use futures_lite::FutureExt;

use super::audit::Audit;
use super::counters::{Counters, Dropped};
use super::leaving::{Leavers, Pending};
use super::load::Load;
use super::memory::Memory;
use super::starts::Starts;
use crate::model::config::{Config, SessionKey};
use crate::model::event::Event;
use crate::model::meter::Meters;
use crate::model::sealed::Keys;
use crate::model::status::{Alert, Level};
use crate::model::text::printable;
use crate::rt::blocking::blocking;
use crate::rt::main_thread::Spawner;
use crate::rt::task;
use crate::rt::wait::{self, Clock, Flag, Switch, SystemClock, sleep};
use crate::sys::clock;
use crate::sys::lock::Lock;
use crate::sys::memory;

/// Events that wait for the command of `on_event`; more are dropped and counted.
const EVENTS: usize = 64;
/// Freed memory goes back to the system after this.
const SETTLE: Duration = Duration::from_secs(4);

/// What is fixed at the start of the process.
pub(crate) struct Boot {
    pub spawner: Spawner,
    /// The soft limit of open files that children get.
    pub nofile: u64,
    /// The beginning of every child's mark: instance, pid and start time.
    pub mark: String,
    /// What session ids are sealed with where the configuration names no key; None where there can be none.
    pub session_key: Option<Keys>,
    pub at: Instant,
}

/// Something that comes to rest before an upgrade in place, and goes on afterwards.
pub(crate) trait Quiesce: Send + Sync {
    /// Waits, once [`Context::quiesce`] is on, until it is at rest, or is of no use any more.
    fn quiesced(&self) -> Pending<'_>;

    /// Goes on in this process.
    fn resume(self: Arc<Self>);

    /// It is in the middle of something that would be lost, and that may be over in a moment.
    fn is_in_the_middle(&self) -> bool {
        false
    }

    /// The document is about to be written: what is not at rest cannot be kept, and those who wait for it are told.
    fn give_up_if_busy(&self) {}

    /// The mark of its process, where it has one.
    fn mark(&self) -> Option<&str> {
        None
    }
}

/// What all parts of the hub share.
pub(crate) struct Context {
    pub boot: Boot,
    config: Lock<Arc<Config>>,
    /// The time that the care for children goes by.
    pub clock: Arc<dyn Clock>,
    pub counters: Arc<Counters>,
    /// The record of who has asked for what.
    pub audit: Audit,
    /// What is kept for clients.
    pub memory: Arc<Memory>,
    pub meters: Arc<Meters>,
    /// All open requests.
    pub load: Arc<Load>,
    pub connections: AtomicU64,
    /// The end is near: health checks are told so, and everything is served still.
    pub lame: Flag,
    /// No new requests.
    pub draining: Flag,
    /// Everything comes to rest, to go on in another process.
    pub quiesce: Switch,
    /// Connections that did not come to rest in time are closed.
    pub stragglers: AtomicBool,
    /// The drain is over, or cut short.
    pub end_drain: Flag,
    /// Children are killed at once when they are stopped.
    pub kill_now: Flag,
    pub leaving: Leavers,
    /// The starts of children.
    pub starts: Starts,
    /// The last number of a session.
    sessions: AtomicU64,
    /// When the last client has left, in seconds of the hub's clock.
    pub left_at: AtomicU64,
    /// Connections so far.
    connection_numbers: AtomicU64,
    /// The last number of a child's mark.
    marks: AtomicU64,
    /// The last serial of a server.
    serials: AtomicU32,
    /// Counts the configurations.
    revision: AtomicU64,
    /// Freed memory is about to be given back.
    settling: AtomicBool,
    quiescing: Lock<Vec<Weak<dyn Quiesce>>>,
    events: (async_channel::Sender<Event>, async_channel::Receiver<Event>),
    change: Bell,
    changes: AtomicU64,
}

impl Context {
    pub(crate) fn new(boot: Boot, config: Arc<Config>) -> Arc<Context> {
        Context::with(boot, config, Arc::new(SystemClock))
    }

    /// A context whose children are cared for by another clock.
    pub(crate) fn with(boot: Boot, config: Arc<Config>, clock: Arc<dyn Clock>) -> Arc<Context> {
        let meters = Arc::<Meters>::default();
        let counters = Arc::<Counters>::default();
        Arc::new(Context {
            boot,
            clock,
            audit: Audit::new(counters.clone()),
            memory: Memory::new(config.limits.memory.0, counters.clone()),
            counters,
            load: Load::measured(meters.clone(), []),
            meters,
            connections: AtomicU64::new(0),
            lame: Flag::default(),
            draining: Flag::default(),
            quiesce: Switch::default(),
            stragglers: AtomicBool::new(false),
            end_drain: Flag::default(),
            kill_now: Flag::default(),
            leaving: Leavers::default(),
            starts: Starts::default(),
            sessions: AtomicU64::new(0),
            left_at: AtomicU64::new(0),
            connection_numbers: AtomicU64::new(0),
            marks: AtomicU64::new(0),
            serials: AtomicU32::new(0),
            revision: AtomicU64::new(0),
            settling: AtomicBool::new(false),
            quiescing: Lock::default(),
            events: async_channel::bounded(EVENTS),
            change: Bell::new(),
            changes: AtomicU64::new(0),
            config: Lock::new(config),
        })
    }

    /// What session ids are sealed with; None where sessions end with the process.
    pub(crate) fn session_keys<'c>(&'c self, config: &'c Config) -> Option<&'c Keys> {
        match &config.session_key {
            SessionKey::Own => self.boot.session_key.as_ref(),
            SessionKey::Off => None,
            SessionKey::File(keys) => Some(keys),
        }
    }

    /// The end is near, or the drain has begun.
    pub(crate) fn leaving_soon(&self) -> bool {
        self.lame.is_set() || self.draining.is_set()
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.get()
    }

    /// Puts another one in force. Connections hear of it, for some may not go on.
    pub(crate) fn set_config(&self, config: Arc<Config>) {
        self.memory.set_limit(config.limits.memory.0);
        self.config.replace(config);
        self.revision.fetch_add(1, SeqCst);
        self.quiesce.look_again();
    }

    /// No new requests from now on. Connections hear of it.
    pub(crate) fn drain(&self) {
        self.draining.set();
        self.quiesce.look_again();
    }

    /// The drain is over, or cut short. Connections hear of it.
    pub(crate) fn end_drain(&self) {
        self.end_drain.set();
        self.quiesce.look_again();
    }

    /// Closes the connections that did not come to rest in time, or no longer.
    pub(crate) fn close_stragglers(&self, on: bool) {
        self.stragglers.store(on, SeqCst);
        self.quiesce.look_again();
    }

    /// The instance is ready: what only its start has needed is given back a little later.
    pub(crate) fn started(&self) {
        memory::note_start();
        task::spawn(async {
            sleep(SETTLE).await;
            memory::unmap_code();
        });
    }

    /// Something that took memory is gone: what was freed goes back to the system a little later, once for all that goes
    /// meanwhile.
    pub(crate) fn settle(self: &Arc<Self>) {
        if self.settling.swap(true, SeqCst) {
            return;
        }
        let me = self.clone();
        task::spawn(async move {
            sleep(SETTLE).await;
            me.settling.store(false, SeqCst);
            blocking(memory::give_back).await;
        });
    }

    /// How many configurations were in force before this one.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(SeqCst)
    }

    /// Whole seconds since the start.
    pub(crate) fn seconds(&self) -> u64 {
        wait::recent().saturating_duration_since(self.boot.at).as_secs()
    }

    /// A number for one session.
    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, SeqCst) + 1
    }

    /// A number for one connection.
    pub(crate) fn next_connection(&self) -> u64 {
        self.connection_numbers.fetch_add(1, SeqCst) + 1
    }

    /// A mark for one child and all that it starts.
    pub(crate) fn next_mark(&self) -> String {
        format!("{}{}", self.boot.mark, self.marks.fetch_add(1, SeqCst) + 1)
    }

    /// A serial for one server, by which it is told from all others for as long as the instance lives.
    pub(crate) fn next_serial(&self) -> u32 {
        self.serials.fetch_add(1, SeqCst) + 1
    }

    /// No serial up to this one is given any more.
    pub(crate) fn skip_serials(&self, last: u32) {
        self.serials.fetch_max(last, SeqCst);
    }

    /// The last serial that was given.
    pub(crate) fn serials(&self) -> u32 {
        self.serials.load(SeqCst)
    }

    /// The last numbers that were given, of a session and of a mark: none must be given twice.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        (self.sessions.load(SeqCst), self.marks.load(SeqCst))
    }

    /// Goes on behind the numbers that another program has given.
    pub(crate) fn set_numbers(&self, sessions: u64, marks: u64) {
        self.sessions.store(sessions, SeqCst);
        self.marks.store(marks, SeqCst);
    }

    /// Something that the status document tells has changed.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, SeqCst);
        self.change.notify(usize::MAX);
    }

    /// Waits for a change after the `seen`th; gives the count now.
    pub(crate) async fn change_after(&self, seen: u64) -> u64 {
        let newer = || Some(self.changes.load(SeqCst)).filter(|n| *n > seen);
        wait::until(&self.change, newer).await
    }

    /// The outcome, or None once everything is to come to rest.
    pub(crate) async fn unless_quiescing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let quiescing = async {
            self.quiesce.wait().await;
            None
        };
        // In this order: what is there already is not put off.
        async { Some(work.await) }.or(quiescing).await
    }

    /// Notes something that has to come to rest before an upgrade.
    pub(crate) fn note_quiescing(&self, one: Weak<dyn Quiesce>) {
        let mut all = self.quiescing.lock();
        all.retain(|l| l.strong_count() > 0);
        all.push(one);
    }

    /// Everything that has to come to rest before an upgrade.
    pub(crate) fn quiescing(&self) -> Vec<Arc<dyn Quiesce>> {
        self.quiescing.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Lets the command of `on_event` know of something.
    pub(crate) fn send_event(&self, event: &'static str, server: Option<&str>, reason: Option<&str>) {
        self.queue_event(event, server, reason, None);
    }

    /// Lets the command of `on_event` know of an alert.
    pub(crate) fn send_alert(&self, alert: &Alert) {
        let event = if alert.level == Level::Healthy { "alert-cleared" } else { "alert-raised" };
        self.queue_event(event, alert.server.as_deref(), Some(&alert.what), Some(alert));
    }

    fn queue_event(&self, event: &'static str, server: Option<&str>, reason: Option<&str>, alert: Option<&Alert>) {
        let config = self.config();
        if config.on_event.is_none() {
            return;
        }
        let event = Event {
            event,
            instance: config.name.clone(),
            server: server.map(str::to_owned),
            reason: reason.map(|r| printable(r, 2000)),
            level: alert.map(|a| a.level),
            check: alert.map(|a| a.check.clone()),
            at: clock::now(),
            pid: std::process::id(),
        };
        if self.events.0.try_send(event).is_err() {
            self.counters.count(Dropped::Events);
        }
    }

    /// The next event for the command of `on_event`.
    pub(crate) async fn next_event(&self) -> Option<Event> {
        self.events.1.recv().await.ok()
    }
}
