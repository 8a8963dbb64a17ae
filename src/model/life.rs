//! The life of a child's place as a table: in which state which event leads where, and what has to be done for it.
//!
//! Pure: time and chance come in as arguments, and nothing is done here. When a start follows an end is decided by
//! [`super::restart`]; who carries the steps out is the supervisor.
//!
//! | state | what leads on |
//! | --- | --- |
//! | idle | the child is wanted: start |
//! | starting | its handshake is answered: ready; it ends: back off |
//! | ready | a ping is missed: unhealthy; it is not used (`OnDemand`): stop, then idle; it ends: back off |
//! | unhealthy | a sign of life: ready; too many pings missed: stop, then back off |
//! | backoff, failed | the time is over, or a reload: start |
//! | ready, unhealthy | its settings have changed: replace |
//! | any | retired: stop, then over |

use std::time::{Duration, Instant};

use super::restart::{Ended, History, Next, Policy};
use super::status::ServerState;

/// What the configuration says of it.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'c> {
    pub restart: &'c Policy,
    /// Started when it is wanted, stopped when it is not used.
    pub on_demand: bool,
    /// So many missed pings in a row are too many.
    pub failures: u32,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The child is needed.
    Wanted,
    /// It answered its handshake.
    Opened,
    /// It ended, or did not become ready.
    Ended(Ended),
    /// The time of a [`Step::Wait`] is over.
    Due,
    /// It said something.
    Heard,
    /// It left a ping unanswered.
    Missed,
    /// It was not used for its idle time.
    Unused,
    /// A reload: what failed may be tried again.
    Retry,
    /// The child is to be replaced by one under other settings.
    Renew,
    /// The server is removed or replaced, or the daemon ends.
    Retire,
}

/// What is to be done next; whatever happens meanwhile comes back as an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start a child.
    Start,
    /// Let it work.
    Serve,
    /// Stop it once its requests are answered, within the drain time.
    Drain,
    /// Stop it once its requests are answered, within the drain time; it goes on serving until then.
    Replace,
    /// Stop it now.
    Kill,
    /// Wait for this long, or until something happens.
    Wait(Duration),
    /// Wait until something happens.
    Stay,
    /// It is over.
    Over,
}

/// Why a child is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Unused,
    Renewed,
    Hung,
    Retired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Starting,
    Ready,
    /// So many pings were missed.
    Unhealthy(u32),
    Stopping(Stop),
    Backoff(Step),
    Failed(Step),
    Stopped,
}

/// The life of a child's place: where it stands in the table.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    history: History,
    /// It was wanted while it was being stopped.
    wanted: bool,
    /// Why it is not started again before something changes.
    verdict: Option<&'static str>,
}

impl Life {
    /// A place without a child, and what to do first.
    pub fn begin(rules: Rules<'_>) -> (Life, Step) {
        let (state, step) = match rules.on_demand {
            true => (State::Idle, Step::Stay),
            false => (State::Starting, Step::Start),
        };
        (Life { state, history: History::default(), wanted: false, verdict: None }, step)
    }

    /// A place whose child is there already.
    pub fn adopt(now: Instant) -> (Life, Step) {
        let mut history = History::default();
        history.ready(now);
        (Life { state: State::Ready, history, wanted: false, verdict: None }, Step::Serve)
    }

    /// The table. `chance` is uniform in 0..1.
    pub fn on(&mut self, event: Event, rules: Rules<'_>, now: Instant, chance: f64) -> Step {
        let (state, step) = match (self.state, event) {
            (State::Stopped, _) => (State::Stopped, Step::Over),

            (State::Idle | State::Backoff(_) | State::Failed(_), Event::Retire) => (State::Stopped, Step::Over),
            (State::Starting, Event::Retire) => (State::Stopping(Stop::Retired), Step::Kill),
            (State::Ready | State::Unhealthy(_), Event::Retire) => (State::Stopping(Stop::Retired), Step::Drain),
            (State::Stopping(_), Event::Retire) => (State::Stopping(Stop::Retired), Step::Kill),

            (State::Idle, Event::Wanted) => (State::Starting, Step::Start),
            (State::Idle, Event::Retry) if !rules.on_demand => (State::Starting, Step::Start),
            (State::Idle, _) => (State::Idle, Step::Stay),

            (State::Backoff(_) | State::Failed(_), Event::Due) => (State::Starting, Step::Start),
            (State::Backoff(_) | State::Failed(_), Event::Retry | Event::Renew) => {
                // The configuration may have been what was wrong.
                self.history = History::default();
                (State::Starting, Step::Start)
            }
            (same @ (State::Backoff(step) | State::Failed(step)), _) => (same, step),

            (State::Starting, Event::Opened) => {
                self.history.ready(now);
                (State::Ready, Step::Serve)
            }
            (State::Stopping(Stop::Retired), Event::Ended(_)) => (State::Stopped, Step::Over),
            (State::Stopping(Stop::Renewed), Event::Ended(_)) => (State::Starting, Step::Start),
            (State::Stopping(Stop::Unused), Event::Ended(_)) if self.wanted => (State::Starting, Step::Start),
            (State::Stopping(Stop::Unused), Event::Ended(_)) => (State::Idle, Step::Stay),
            (State::Stopping(Stop::Hung), Event::Ended(_)) => self.fall(Ended::NotReady, rules, now, chance),
            (same @ State::Stopping(why), event) => {
                self.wanted |= event == Event::Wanted;
                let step = match why {
                    Stop::Hung => Step::Kill,
                    Stop::Renewed => Step::Replace,
                    Stop::Unused | Stop::Retired => Step::Drain,
                };
                (same, step)
            }

            // It ended of itself, in order, and is not needed before the next request.
            (State::Ready, Event::Ended(Ended::Exited(0))) if rules.on_demand => (State::Idle, Step::Stay),
            (State::Starting | State::Ready | State::Unhealthy(_), Event::Ended(how)) => {
                self.fall(how, rules, now, chance)
            }
            (State::Starting, _) => (State::Starting, Step::Start),

            (State::Ready | State::Unhealthy(_), Event::Missed) => {
                let missed = 1 + if let State::Unhealthy(before) = self.state { before } else { 0 };
                match missed >= rules.failures {
                    true => (State::Stopping(Stop::Hung), Step::Kill),
                    false => (State::Unhealthy(missed), Step::Serve),
                }
            }
            (State::Unhealthy(_), Event::Heard) => (State::Ready, Step::Serve),
            (State::Ready | State::Unhealthy(_), Event::Unused) if rules.on_demand => {
                (State::Stopping(Stop::Unused), Step::Drain)
            }
            (State::Ready | State::Unhealthy(_), Event::Renew) => (State::Stopping(Stop::Renewed), Step::Replace),
            (same @ (State::Ready | State::Unhealthy(_)), _) => (same, Step::Serve),
        };
        if state == State::Starting {
            self.wanted = false;
            self.verdict = None;
        }
        self.state = state;
        step
    }

    /// The child is down, and not because it was asked to be.
    fn fall(&mut self, how: Ended, rules: Rules<'_>, now: Instant, chance: f64) -> (State, Step) {
        match self.history.ended(rules.restart, how, now, chance) {
            Next::After(delay) => (State::Backoff(Step::Wait(delay)), Step::Wait(delay)),
            Next::Slow(delay) => (State::Failed(Step::Wait(delay)), Step::Wait(delay)),
            Next::Never(why) => {
                self.verdict = Some(why);
                (State::Failed(Step::Stay), Step::Stay)
            }
        }
    }

    /// The state as the status document has it.
    pub fn state(&self) -> ServerState {
        match self.state {
            State::Idle => ServerState::Idle,
            State::Starting => ServerState::Starting,
            State::Ready => ServerState::Ready,
            State::Unhealthy(_) => ServerState::Unhealthy,
            State::Stopping(_) => ServerState::Stopping,
            State::Backoff(_) => ServerState::Backoff,
            State::Failed(_) => ServerState::Failed,
            State::Stopped => ServerState::Stopped,
        }
    }

    /// How many pings in a row were missed.
    pub fn missed(&self) -> u32 {
        if let State::Unhealthy(missed) = self.state { missed } else { 0 }
    }

    /// Why there will be no start before something changes.
    pub fn verdict(&self) -> Option<&'static str> {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::restart::{Mode, SLOW, STABLE};

    const EVENTS: [Event; 13] = [
        Event::Wanted,
        Event::Opened,
        Event::Ended(Ended::Exited(0)),
        Event::Ended(Ended::Exited(78)),
        Event::Ended(Ended::Signaled(9)),
        Event::Ended(Ended::NotReady),
        Event::Due,
        Event::Heard,
        Event::Missed,
        Event::Unused,
        Event::Retry,
        Event::Renew,
        Event::Retire,
    ];

    fn policy(mode: Mode) -> Policy {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        Policy { mode, delay: second, max_delay: minute, burst: 2, window: minute }
    }

    /// Plays events one second apart and gives the states and steps.
    fn play(mode: Mode, on_demand: bool, events: &[Event]) -> Vec<(ServerState, Step)> {
        let policy = policy(mode);
        let rules = Rules { restart: &policy, on_demand, failures: 3 };
        let (mut life, first) = Life::begin(rules);
        let mut now = Instant::now();
        let mut out = vec![(life.state(), first)];
        for event in events {
            now += Duration::from_secs(1);
            let step = life.on(*event, rules, now, 1.0);
            out.push((life.state(), step));
        }
        out
    }

    #[test]
    fn the_stories_of_a_child() {
        use Event::*;
        use ServerState as S;
        let wait = |s| Step::Wait(Duration::from_secs(s));
        let died = Ended(self::Ended::Signaled(9));
        type Story<'s> = (&'s str, Mode, bool, &'s [Event], &'s [(ServerState, Step)]);
        let stories: &[Story<'_>] = &[
            (
                "starts, dies, is started again, is retired",
                Mode::Always,
                false,
                &[Opened, died, Due, Opened, Retire, died],
                &[
                    (S::Starting, Step::Start),
                    (S::Ready, Step::Serve),
                    (S::Backoff, wait(1)),
                    (S::Starting, Step::Start),
                    (S::Ready, Step::Serve),
                    (S::Stopping, Step::Drain),
                    (S::Stopped, Step::Over),
                ],
            ),
            (
                "ends too often, is tried slowly, a reload tries at once",
                Mode::Always,
                false,
                &[died, Due, died, Due, died, Wanted, Retry],
                &[
                    (S::Starting, Step::Start),
                    (S::Backoff, wait(1)),
                    (S::Starting, Step::Start),
                    (S::Backoff, wait(2)),
                    (S::Starting, Step::Start),
                    (S::Failed, Step::Wait(SLOW)),
                    (S::Failed, Step::Wait(SLOW)),
                    (S::Starting, Step::Start),
                ],
            ),
            (
                "misses pings, says something, misses too many",
                Mode::OnFailure,
                false,
                &[Opened, Missed, Heard, Missed, Missed, Missed, Wanted, died],
                &[
                    (S::Starting, Step::Start),
                    (S::Ready, Step::Serve),
                    (S::Unhealthy, Step::Serve),
                    (S::Ready, Step::Serve),
                    (S::Unhealthy, Step::Serve),
                    (S::Unhealthy, Step::Serve),
                    (S::Stopping, Step::Kill),
                    (S::Stopping, Step::Kill),
                    (S::Backoff, wait(1)),
                ],
            ),
            (
                "on demand: started when wanted, stopped when not used, wanted while it goes down",
                Mode::Always,
                true,
                &[Retry, Wanted, Opened, Unused, Wanted, died, Opened, Unused, died, Retire],
                &[
                    (S::Idle, Step::Stay),
                    (S::Idle, Step::Stay),
                    (S::Starting, Step::Start),
                    (S::Ready, Step::Serve),
                    (S::Stopping, Step::Drain),
                    (S::Stopping, Step::Drain),
                    (S::Starting, Step::Start),
                    (S::Ready, Step::Serve),
                    (S::Stopping, Step::Drain),
                    (S::Idle, Step::Stay),
                    (S::Stopped, Step::Over),
                ],
            ),
            (
                "on demand, it ends of itself: in order it waits to be wanted, else it is started again",
                Mode::Always,
                true,
                &[Wanted, Opened, Ended(self::Ended::Exited(0)), Wanted, Opened, died],
                &[
                    (S::Idle, Step::Stay),
                    (S::Starting, Step::Start),
                    (S::Ready, Step::Serve),
                    (S::Idle, Step::Stay),
                    (S::Starting, Step::Start),
                    (S::Ready, Step::Serve),
                    (S::Backoff, wait(1)),
                ],
            ),
            (
                "a wrong configuration is final until a reload",
                Mode::Always,
                false,
                &[Ended(self::Ended::Exited(78)), Due, Retry, Retire],
                &[
                    (S::Starting, Step::Start),
                    (S::Failed, Step::Stay),
                    (S::Starting, Step::Start),
                    (S::Starting, Step::Start),
                    (S::Stopping, Step::Kill),
                ],
            ),
        ];
        for (story, mode, on_demand, events, expected) in stories {
            assert_eq!(play(*mode, *on_demand, events), *expected, "{story}");
        }
    }

    #[test]
    fn whatever_happens_it_goes_on_until_it_is_retired_and_ends_then() {
        for on_demand in [false, true] {
            let policy = policy(Mode::Always);
            let rules = Rules { restart: &policy, on_demand, failures: 2 };
            // Every sequence of four events, and then the way out.
            let n = EVENTS.len();
            for code in 0..n.pow(4) {
                let (mut life, _) = Life::begin(rules);
                let mut now = Instant::now();
                let mut retired = false;
                for digit in 0..4 {
                    let event = EVENTS[code / n.pow(digit) % n];
                    retired |= event == Event::Retire;
                    now += STABLE;
                    let step = life.on(event, rules, now, 0.5);
                    assert!(retired || step != Step::Over, "{code}: given up at {event:?}");
                    assert_eq!(step == Step::Over, life.state() == ServerState::Stopped);
                    assert!(!matches!(step, Step::Wait(d) if d.is_zero()), "{code}: it would spin");
                }
                life.on(Event::Retire, rules, now, 0.5);
                let step = life.on(Event::Ended(Ended::Signaled(15)), rules, now, 0.5);
                assert_eq!((step, life.state()), (Step::Over, ServerState::Stopped), "{code}");
            }
        }
    }
}
