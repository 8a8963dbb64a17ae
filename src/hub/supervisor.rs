//! Keeps one child of a server alive: start, watch, back off, start again, stop.
//!
//! What an event leads to is decided by [`crate::model::life`]; how a child is spoken to is in [`super::link`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use event_listener::Event as Bell;
use futures_lite::FutureExt;
use log::{debug, info};

use super::link::Link;
use super::pulse::{Beat, beat, unused};
use super::server::Server;
use super::slot::{Slot, Wish};
use super::starting;
use crate::model::config::server::Stdio;
use crate::model::jsonrpc;
use crate::model::life::{Event, Life, Rules, Step};
use crate::model::mcp;
use crate::model::restart::Ended;
use crate::model::status::ServerState;
use crate::model::text::duration;
use crate::rt::process::exit_text;
use crate::rt::random::jitter;
use crate::rt::wait::{Flag, sleep, until, within};
use crate::sys::lock::Lock;

/// The most time that bringing a new child to the state of its sessions may take.
const RESTORE: Duration = Duration::from_secs(10);

/// The care for one server under one configuration. A reload that changes the command makes a new one.
pub struct Supervisor {
    config: Lock<Arc<Stdio>>,
    /// No more starts: the server is removed, replaced, or the daemon ends.
    retired: Flag,
    /// The last child is gone.
    done: Flag,
    /// A reload: what failed may be tried again.
    retry: AtomicBool,
    /// Somebody needs the child.
    wanted: AtomicBool,
    nudge: Bell,
    /// Settings that need no new child are others.
    adjusted: Bell,
    /// The last child was stopped because nobody used it.
    rested: AtomicBool,
}

impl Supervisor {
    pub fn new(config: Stdio) -> Arc<Supervisor> {
        Arc::new(Supervisor {
            config: Lock::new(Arc::new(config)),
            retired: Flag::default(),
            done: Flag::default(),
            retry: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            nudge: Bell::new(),
            adjusted: Bell::new(),
            rested: AtomicBool::new(false),
        })
    }

    /// Waits until it shall be tried again, or, `by_want`, until somebody needs the child.
    async fn nudged(&self, by_want: bool) -> Option<Event> {
        let check = || match self.retry.swap(false, SeqCst) {
            true => Some(Event::Retry),
            false => (by_want && self.wanted.swap(false, SeqCst)).then_some(Event::Wanted),
        };
        Some(until(&self.nudge, check).await)
    }

    fn config(&self) -> Arc<Stdio> {
        self.config.lock().clone()
    }

    /// Takes over settings that need no new child. Times of requests count from the next start on.
    pub fn adjust(&self, config: Stdio) {
        *self.config.lock() = Arc::new(config);
        self.adjusted.notify(usize::MAX);
    }

    /// Tries again at once what waits for its next start, as if nothing had failed before.
    pub fn retry(&self) {
        self.retry.store(true, SeqCst);
        self.nudge.notify(usize::MAX);
    }

    /// Somebody needs the child.
    pub fn want(&self) {
        self.wanted.store(true, SeqCst);
        self.nudge.notify(usize::MAX);
    }

    /// No more starts; the child is drained and stopped. Returns at once.
    pub fn retire(&self) {
        self.retired.set();
    }

    pub fn is_retired(&self) -> bool {
        self.retired.is_set()
    }

    pub fn is_done(&self) -> bool {
        self.done.is_set()
    }

    pub async fn done(&self) {
        self.done.wait().await;
    }

    /// Runs the supervisor for its slot of `server`, from its first child or from none. `again` says that this child takes
    /// the place of another.
    pub fn run(self: &Arc<Self>, server: &Arc<Server>, slot: &Arc<Slot>, first: Option<Arc<Link>>, again: bool) {
        let keeper = Keeper {
            supervisor: self.clone(),
            server: server.clone(),
            slot: slot.clone(),
            link: first,
            replaces: again,
            trouble: None,
        };
        let me = self.clone();
        async_std::task::spawn(async move {
            keeper.keep().await;
            me.done.set();
        });
    }
}

/// Carries out the steps of a [`Life`].
struct Keeper {
    supervisor: Arc<Supervisor>,
    server: Arc<Server>,
    slot: Arc<Slot>,
    /// The child there is.
    link: Option<Arc<Link>>,
    /// A child was ready before.
    replaces: bool,
    /// What was wrong with the last one.
    trouble: Option<String>,
}

impl Keeper {
    async fn keep(mut self) {
        let config = self.supervisor.config();
        let (mut life, mut step) = match self.link {
            Some(_) => Life::adopt(Instant::now()),
            None => Life::begin(rules(&config)),
        };
        if step == Step::Serve {
            self.put_in_place();
        }
        self.show(&life, step);
        while step != Step::Over {
            let Some(event) = self.carry_out(step, life.missed()).await else { continue };
            let config = self.supervisor.config();
            step = life.on(event, rules(&config), Instant::now(), jitter());
            match event {
                Event::Opened => self.put_in_place(),
                Event::Ended(how) if matches!(life.state(), ServerState::Backoff | ServerState::Failed) => {
                    self.server.count_restart(exit_text(how));
                }
                _ => {}
            }
            self.show(&life, step);
        }
        if let Some(link) = self.link.take() {
            self.finish(&link, false).await;
        }
        self.slot.enter(ServerState::Stopped, None);
    }

    /// Does what the step says, until something happens. None where that changes nothing but the configuration.
    async fn carry_out(&mut self, step: Step, missed: u32) -> Option<Event> {
        let supervisor = self.supervisor.clone();
        let retired = async {
            supervisor.retired.wait().await;
            Some(Event::Retire)
        };
        match step {
            Step::Start => Some(self.start().await),
            Step::Serve => self.serve(missed).await,
            Step::Drain | Step::Kill => Some(match self.link.take() {
                Some(link) => {
                    let how = self.finish(&link, step == Step::Drain).await;
                    if supervisor.is_retired() {
                        // Whatever it was stopped for, it is not started again.
                        Event::Retire
                    } else {
                        Event::Ended(how)
                    }
                }
                None => Event::Ended(Ended::NotReady),
            }),
            Step::Wait(time) => {
                let due = async {
                    sleep(time).await;
                    Some(Event::Due)
                };
                // Whoever wants it has to wait as well.
                retired.or(supervisor.nudged(false)).or(due).await
            }
            Step::Rest => retired.or(supervisor.nudged(true)).await,
            Step::Over => None,
        }
    }

    async fn start(&mut self) -> Event {
        let (server, config) = (&self.server, self.supervisor.config());
        let umask = server.hub.config().umask;
        match starting::start(server, config, umask, self.slot.wish, Some(&self.supervisor.retired)).await {
            Ok(link) => {
                self.link = Some(link);
                Event::Opened
            }
            Err(_) if self.supervisor.is_retired() => Event::Retire,
            Err(failure) => {
                self.trouble = Some(failure.text);
                Event::Ended(failure.how)
            }
        }
    }

    /// The child is ready: everybody gets to know it.
    fn put_in_place(&mut self) {
        let (Some(link), server) = (self.link.clone(), &self.server) else { return };
        self.supervisor.wanted.store(false, SeqCst);
        let again = std::mem::replace(&mut self.replaces, true);
        if again && link.is_modern() {
            // Before anybody can send a request that they would hear of.
            for session in server.sessions_of(&link) {
                session.listens().iter().for_each(|listen| link.listen(listen));
            }
        }
        let same = server.learnt_now() == link.learnt().cloned();
        self.slot.set_link(Some(link.clone()));
        self.slot.enter(ServerState::Ready, None);
        let rested = self.supervisor.rested.swap(false, SeqCst) && same;
        if again && link.is_modern() {
            for session in server.sessions_of(&link).iter().filter(|_| !rested) {
                session.lists_changed(true, &|list| link.learnt().is_some_and(|l| l.has(list)));
            }
        } else if again {
            let server = server.clone();
            async_std::task::spawn(async move { restore(&server, &link, !rested).await });
        }
    }

    /// Watches over the child while it works.
    async fn serve(&mut self, missed: u32) -> Option<Event> {
        let (supervisor, server) = (self.supervisor.clone(), self.server.clone());
        let Some(link) = self.link.clone() else { return Some(Event::Ended(Ended::NotReady)) };
        let config = supervisor.config();
        let ended = async {
            link.exited().await;
            None
        };
        let retired = async {
            supervisor.retired.wait().await;
            Some(Some(Event::Retire))
        };
        let health = async {
            Some(Some(match beat(&link, config.health.as_ref(), missed > 0).await {
                Beat::Heard => Event::Heard,
                Beat::Missed => Event::Missed,
            }))
        };
        let idle = async {
            unused(&link, config.on_demand, || server.is_watched(&link)).await;
            Some(Some(Event::Unused))
        };
        let adjusted = async {
            supervisor.adjusted.listen().await;
            Some(None)
        };
        match ended.or(retired).or(health).or(idle).or(adjusted).await {
            Some(event) => event,
            None => {
                // Known at once; its last words and the next start wait until nothing of the child is left.
                self.slot.set_link(None);
                if !(config.on_demand.is_some() && link.ended_in_order()) {
                    self.slot.enter(ServerState::Backoff, Some(link.exit_text()));
                }
                let how = link.gone().await;
                self.link = None;
                self.trouble = Some(format!("{}{}", link.exit_text(), link.last_words()));
                Some(Event::Ended(how))
            }
        }
    }

    /// Stops a child, in order if it is to be `drained`: then open requests have the drain time to be answered.
    async fn finish(&mut self, link: &Arc<Link>, drained: bool) -> Ended {
        let (server, supervisor) = (&self.server, &self.supervisor);
        if !supervisor.is_retired() && drained {
            // Whoever comes now waits for the next one.
            link.stop_soon();
            supervisor.rested.store(true, SeqCst);
        }
        let limit = server.hub.config().drain_timeout;
        let quiet = async {
            while link.waiting() > 0 && !server.hub.hurry.is_set() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if drained {
            let _ = within(limit, quiet).await;
        }
        if supervisor.is_retired() {
            self.slot.enter(ServerState::Stopping, None);
        }
        let mut ladder = supervisor.config().stop.clone();
        if !drained {
            // It reads nothing, so the end of its input would tell it nothing.
            ladder.stdin = Duration::ZERO;
            link.fail_all(
                jsonrpc::INTERNAL_ERROR,
                &format!("{} did not answer pings and is replaced", self.slot.label()),
            );
            self.trouble = Some("it did not answer pings".to_owned());
        }
        link.stop(&ladder).await;
        self.slot.set_link(None);
        info!("server '{}': its child (pid {}) {}", server.name, link.pid, link.exit_text());
        link.gone().await
    }

    /// Tells everybody in which state it is now, and why.
    fn show(&mut self, life: &Life, step: Step) {
        let trouble = || self.trouble.clone().unwrap_or_else(|| "it ended".to_owned());
        let reason = match (life.state(), step) {
            (ServerState::Backoff, Step::Wait(delay)) => {
                info!("{}: next start in {}", self.slot.label(), duration(round(delay)));
                Some(trouble())
            }
            (ServerState::Failed, Step::Wait(delay)) => {
                Some(format!("{}; ended too often, next start in {}", trouble(), duration(round(delay))))
            }
            (ServerState::Failed, _) => {
                if self.slot.wish == Wish::Modern {
                    // Nobody would tell them anything any more.
                    self.server.end_forwarded_listens();
                }
                let why = life.verdict().unwrap_or("it is of no use");
                Some(format!("{}; not started again before the next reload ({why})", trouble()))
            }
            (ServerState::Unhealthy, _) => {
                let failures = self.supervisor.config().health.as_ref().map_or(0, |h| h.failures);
                Some(format!("it left {} of {failures} pings unanswered", life.missed()))
            }
            (ServerState::Stopping, Step::Kill) if !self.supervisor.is_retired() => {
                Some("it does not answer pings and is replaced".to_owned())
            }
            _ => None,
        };
        self.slot.enter(life.state(), reason);
    }
}

/// What the configuration says of a child's life.
fn rules(config: &Stdio) -> Rules<'_> {
    Rules {
        restart: &config.restart,
        on_demand: config.on_demand.is_some(),
        failures: config.health.as_ref().map_or(u32::MAX, |h| h.failures),
    }
}

/// Brings a new child of the legacy era to the state that its sessions expect.
async fn restore(server: &Arc<Server>, link: &Link, tell: bool) {
    let all = async {
        for uri in server.subscriptions(link) {
            if let Err(e) = link.ask("resources/subscribe", Some(&mcp::uri_params(&uri))).await {
                debug!("server '{}': cannot subscribe again to {uri}: {e}", server.name);
            }
        }
    };
    let _ = within(RESTORE, all).await;
    if tell {
        server.lists_changed();
    }
}

/// To what a person reads: milliseconds below ten seconds, else seconds.
pub fn round(d: Duration) -> Duration {
    match d.as_secs() {
        0..10 => Duration::from_millis(d.as_millis() as u64),
        seconds => Duration::from_secs(seconds),
    }
}
