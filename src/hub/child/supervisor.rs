//! Keeps the child of one slot alive: start, watch, back off, start again, stop.
//!
//! What an event leads to is decided by [`crate::model::life`]; how a child is started, and who hears of it, is the slot's
//! owner's affair.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_lite::FutureExt;
use log::info;

use super::child::Child;
use super::health::{Pong, ping, unused};
use super::slot::{Condition, Owner, Slot};
use crate::model::config::server::Mcp;
use crate::model::jsonrpc;
use crate::model::life::{Event, Life, Rules, Step};
use crate::model::restart::Ended;
use crate::model::status::ServerState;
use crate::model::text::duration;
use crate::rt::random::jitter;
use crate::rt::task;
use crate::rt::wait::{Clock, timeout};

/// Runs a slot, from its first child or from none. `again` says that this child takes the place of another.
pub(crate) fn run(slot: &Arc<Slot>, first: Option<Arc<Child>>, again: bool, clock: &Arc<dyn Clock>) {
    let Some(owner) = slot.owner.upgrade() else { return };
    let (slot, clock) = (slot.clone(), clock.clone());
    let supervisor = Supervisor { slot, owner, clock, child: first, replaces: again, trouble: None };
    task::spawn(supervisor.run());
}

/// Carries out the steps of a [`Life`].
struct Supervisor {
    slot: Arc<Slot>,
    owner: Arc<dyn Owner>,
    clock: Arc<dyn Clock>,
    /// The child there is.
    child: Option<Arc<Child>>,
    /// A child was ready before.
    replaces: bool,
    /// What was wrong with the last child.
    trouble: Option<String>,
}

impl Supervisor {
    async fn run(mut self) {
        let slot = self.slot.clone();
        let (mut life, mut step) = match self.child {
            Some(_) => Life::adopt(self.clock.now()),
            None => Life::begin(rules(&slot.config.get())),
        };
        if step == Step::Serve {
            self.put_in_place();
        }
        self.show(&life, step);
        while step != Step::Over {
            let Some(event) = self.carry_out(step, life.missed()).await else { continue };
            step = life.on(event, rules(&slot.config.get()), self.clock.now(), jitter());
            match event {
                Event::Opened => self.put_in_place(),
                Event::Ended(how) if matches!(life.state(), ServerState::Backoff | ServerState::Failed) => {
                    self.owner.ended(&slot, how);
                }
                _ => {}
            }
            self.show(&life, step);
        }
        if let Some(child) = self.child.take() {
            self.finish(&child, Step::Kill).await;
        }
        slot.enter_state(ServerState::Stopped, None);
        slot.done.set();
    }

    /// Does what the step says, until something happens. None where that changes nothing but the configuration.
    async fn carry_out(&mut self, step: Step, missed: u32) -> Option<Event> {
        let slot = self.slot.clone();
        let retired = async {
            slot.retired.wait().await;
            Event::Retire
        };
        match step {
            Step::Start => Some(self.start().await),
            Step::Serve => self.serve(missed).await,
            Step::Drain | Step::Replace | Step::Kill => Some(match self.child.take() {
                Some(child) => {
                    let how = self.finish(&child, step).await;
                    if slot.is_retired() {
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
                    self.clock.sleep(time).await;
                    Event::Due
                };
                // A request that wants it has to wait as well.
                Some(retired.or(slot.nudged(false)).or(due).await)
            }
            Step::Stay => Some(retired.or(slot.nudged(true)).await),
            Step::Over => None,
        }
    }

    async fn start(&mut self) -> Event {
        match self.owner.start(&self.slot).await {
            Ok(child) => {
                self.child = Some(child);
                Event::Opened
            }
            Err(_) if self.slot.is_retired() => Event::Retire,
            Err(failure) => {
                self.slot.note_words(failure.words);
                self.trouble = Some(failure.text);
                Event::Ended(failure.how)
            }
        }
    }

    /// The child is ready: everybody gets to know it.
    fn put_in_place(&mut self) {
        let Some(child) = self.child.clone() else { return };
        self.slot.forget_want();
        let again = std::mem::replace(&mut self.replaces, true);
        let was_idle = self.slot.was_idle.swap(false, SeqCst);
        let then = self.owner.ready(&self.slot, &child, again, was_idle);
        self.slot.place(Some(&child));
        self.slot.enter_state(ServerState::Ready, None);
        if let Some(then) = then {
            task::spawn(then);
        }
    }

    /// Watches over the child while it works.
    async fn serve(&mut self, missed: u32) -> Option<Event> {
        let (slot, owner) = (self.slot.clone(), self.owner.clone());
        let Some(child) = self.child.clone() else { return Some(Event::Ended(Ended::NotReady)) };
        let config = slot.config.get();
        let ended = async {
            child.exited().await;
            None
        };
        let retired = async {
            slot.retired.wait().await;
            Some(Some(Event::Retire))
        };
        let renewed = async { Some(Some(slot.renewed().await)) };
        let health = async {
            Some(Some(match ping(&child, config.health.as_ref(), missed > 0).await {
                Pong::Heard => Event::Heard,
                Pong::Missed => Event::Missed,
            }))
        };
        let idle = async {
            unused(&child, config.on_demand, || owner.needs(&child)).await;
            Some(Some(Event::Unused))
        };
        let adjusted = async {
            slot.config.changed().await;
            Some(None)
        };
        match ended.or(retired).or(renewed).or(health).or(idle).or(adjusted).await {
            Some(event) => event,
            None => {
                // Known at once; its last words and the next start wait until nothing of the child is left.
                slot.place(None);
                if !(config.on_demand.is_some() && child.ended_in_order()) {
                    slot.enter_state(ServerState::Backoff, Some(child.exit_text()));
                }
                let how = child.reaped().await;
                self.child = None;
                self.slot.note_words(child.words());
                self.trouble = Some(child.exit_text());
                Some(Event::Ended(how))
            }
        }
    }

    /// Stops a child: at once, or when its requests are answered, for which they have the drain time.
    async fn finish(&mut self, child: &Arc<Child>, step: Step) -> Ended {
        let slot = self.slot.clone();
        if !slot.is_retired() && step == Step::Drain {
            // Requests that come now wait for the next one.
            child.stop_soon();
            slot.was_idle.store(true, SeqCst);
        }
        if step != Step::Kill {
            let over = child.load.quiet().or(child.ctx.end_drain.wait());
            let over = async {
                match step {
                    Step::Replace => over.or(slot.retired.wait()).await,
                    _ => over.await,
                }
            };
            let _ = timeout(child.ctx.config().drain_timeout, over).await;
        }
        if step == Step::Replace {
            slot.place(None);
        }
        if slot.is_retired() {
            slot.enter_state(ServerState::Stopping, None);
        }
        let mut ladder = slot.config.get().stop().clone();
        if step == Step::Kill {
            // It reads nothing, so the end of its input would tell it nothing.
            ladder.stdin = Duration::ZERO;
            child.fail_all(jsonrpc::INTERNAL_ERROR, &format!("{} did not answer pings and is replaced", slot.label()));
            slot.note_words(child.words());
            self.trouble = Some("it did not answer pings".to_owned());
        }
        child.stop(&ladder).await;
        slot.place(None);
        match child.pid() {
            Some(pid) => info!("server '{}': its child (pid {pid}) {}", child.server, child.exit_text()),
            None => info!("server '{}': the session with it {}", child.server, child.exit_text()),
        }
        child.reaped().await
    }

    /// Tells everybody in which state it is now, and why.
    fn show(&mut self, life: &Life, step: Step) {
        let trouble = || self.trouble.clone().unwrap_or_else(|| "it ended".to_owned());
        let next_start = match step {
            Step::Wait(delay) => Some(delay),
            _ => None,
        };
        let reason = match (life.state(), step) {
            (ServerState::Backoff, Step::Wait(_)) => Some(trouble()),
            (ServerState::Failed, Step::Wait(delay)) => {
                Some(format!("{}; ended too often, next start in {}", trouble(), duration(round(delay))))
            }
            (ServerState::Failed, _) => {
                let why = life.verdict().unwrap_or("it is of no use");
                Some(format!("{}; not started again before the next reload ({why})", trouble()))
            }
            (ServerState::Unhealthy, _) => {
                let failures = self.slot.config.get().health.as_ref().map_or(0, |h| h.failures);
                Some(format!("it left {} of {failures} pings unanswered", life.missed()))
            }
            (ServerState::Stopping, Step::Kill) if !self.slot.is_retired() => {
                Some("it does not answer pings and is replaced".to_owned())
            }
            _ => None,
        };
        self.slot.enter(&Condition {
            state: life.state(),
            reason,
            trouble: self.trouble.as_deref(),
            next_start,
            verdict: life.verdict(),
        });
    }
}

/// What the configuration says of a child's life.
fn rules(config: &Mcp) -> Rules<'_> {
    Rules {
        restart: &config.restart,
        on_demand: config.on_demand.is_some(),
        failures: config.health.as_ref().map_or(u32::MAX, |h| h.failures),
    }
}

/// To what a person reads: milliseconds below ten seconds, else seconds.
pub(crate) fn round(d: Duration) -> Duration {
    match d.as_secs() {
        0..10 => Duration::from_millis(d.as_millis() as u64),
        seconds => Duration::from_secs(seconds),
    }
}
