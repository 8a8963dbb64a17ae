//! Observes the instance: its health and who is told of it, the last hour, and what happened last.
//!
//! Each look at the instance makes an observation, so what is read is never old; a timer looks where no client does. What is
//! good or bad is decided by [`crate::model::health`].

use std::collections::VecDeque;

use crate::model::changes::{Seen, changes};
use crate::model::handover::Observed;
use crate::model::health::{Book, Check, Limits, readings};
use crate::model::history::{History, Minute};
use crate::model::status::{Alert, InstanceState, News, Status};
use crate::sys::lock::{Guard, Lock};

/// So many alerts, and so many events, are kept.
const KEPT: usize = 100;

/// What was observed so far.
pub(super) struct Monitor {
    state: Lock<State>,
    /// Who looks at the instance: it may take long, and others want the state meanwhile.
    looking: Lock<()>,
}

#[derive(Default)]
struct State {
    book: Book,
    alerts: VecDeque<Alert>,
    history: History,
    news: VecDeque<News>,
    /// As it was when it was last looked at.
    seen: Option<Seen>,
}

impl Monitor {
    /// Goes on from what another program has observed.
    pub(super) fn new(before: Observed) -> Monitor {
        let state = Lock::new(State {
            book: Book::load(before.raised),
            alerts: before.alerts,
            history: before.history,
            news: before.news,
            seen: before.seen.map(Seen::Running),
        });
        Monitor { state, looking: Lock::default() }
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// Everything, for the next program.
    pub(super) fn save(&self) -> Observed {
        let state = self.state();
        Observed {
            raised: state.book.save(),
            alerts: state.alerts.clone(),
            history: state.history.clone(),
            news: state.news.clone(),
            log: Vec::new(),
            seen: match &state.seen {
                Some(Seen::Running(status)) => Some(status.clone()),
                _ => None,
            },
        }
    }

    /// Looks at the instance and adds its health; gives what an administrator should be told. One look at a time, so that no
    /// older one comes after a newer one.
    pub(super) fn look(&self, facts: impl FnOnce() -> Status, limits: &Limits<'_>) -> (Status, Vec<Alert>) {
        let _looking = self.looking.lock();
        let mut status = facts();
        let mut state = self.state();
        let at = status.written.clone();
        let readings = readings(&status, limits);
        let mut alerts = Vec::new();
        if matches!(status.state, InstanceState::Draining | InstanceState::Stopped) {
            // The one who stops it knows.
            let mut book = state.book.clone();
            book.step(status.uptime_seconds, &readings);
            book.report(&mut status);
        } else {
            let alert = |change: crate::model::health::Change| Alert {
                at: at.clone(),
                level: change.level,
                check: change.check.name().to_owned(),
                server: change.server,
                what: change.text,
            };
            alerts.extend(state.book.step(status.uptime_seconds, &readings).into_iter().map(alert));
            state.book.report(&mut status);
            state.alerts.extend(alerts.iter().cloned());
            keep(&mut state.alerts);
        }
        status.alerts = state.alerts.iter().cloned().collect();
        let seen = Seen::Running(Box::new(status.clone()));
        let news = changes(state.seen.as_ref(), &seen);
        state.news.extend(news.into_iter().map(|text| News { at: at.clone(), text }));
        keep(&mut state.news);
        state.seen = Some(seen);
        // Those of states are known from the events of states.
        alerts.retain(|alert| alert.check != Check::State.name());
        (status, alerts)
    }

    /// The last hour, and what has happened, the newest last.
    pub(super) fn told(&self) -> (History, Vec<News>) {
        let state = self.state();
        (state.history.clone(), state.news.iter().cloned().collect())
    }

    /// Whether something is not as it should be.
    pub(super) fn is_troubled(&self) -> bool {
        !self.state().book.is_empty()
    }

    pub(super) fn last_minute(&self) -> Option<u64> {
        self.state().history.last()
    }

    pub(super) fn note(&self, minute: Minute) {
        self.state().history.push(minute);
    }
}

fn keep<T>(ring: &mut VecDeque<T>) {
    ring.drain(..ring.len().saturating_sub(KEPT));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Alerts;
    use crate::model::status::{Level, ServerState, sample};

    fn look(monitor: &Monitor, change: impl FnOnce(&mut Status)) -> (Status, Vec<Alert>) {
        let alerts = Alerts::default();
        let limits = Limits { alerts: &alerts, connections: 10, sessions: 10, sessions_of: &|_| None };
        let mut status = sample::status();
        change(&mut status);
        monitor.look(|| status, &limits)
    }

    #[test]
    fn who_stops_an_instance_is_not_told_of_what_stops() {
        let monitor = Monitor::new(Observed::default());
        let stopping = |s: &mut Status| {
            s.state = InstanceState::Draining;
            (s.servers[0].state, s.connections) = (ServerState::Stopped, 10);
        };
        let (status, alerts) = look(&monitor, stopping);
        assert_eq!((status.health.level, alerts.len(), status.alerts.len()), (Level::Unhealthy, 0, 0));
        // At any other time it is told of what has no event of its own.
        let (status, alerts) = look(&monitor, |s| {
            stopping(s);
            (s.state, s.servers[0].state) = (InstanceState::Ready, ServerState::Failed);
        });
        let checks = |alerts: &[Alert]| alerts.iter().map(|a| a.check.clone()).collect::<Vec<_>>();
        assert_eq!(
            (checks(&alerts), checks(&status.alerts)),
            (vec!["connections".into()], vec!["connections".to_owned(), "state".to_owned()])
        );
    }

    #[test]
    fn another_program_goes_on_with_everything() {
        let monitor = Monitor::new(Observed::default());
        look(&monitor, |s| s.connections = 10);
        monitor.note(Minute { number: 7, ..Minute::default() });
        let text = serde_json::to_string(&monitor.save()).unwrap();
        let next = Monitor::new(serde_json::from_str(&text).unwrap());
        assert_eq!((next.told(), next.last_minute()), (monitor.told(), Some(7)));
        let (status, alerts) = look(&next, |s| s.connections = 10);
        assert_eq!((alerts.len(), status.alerts.len()), (0, 1), "nobody is told twice");
        assert_eq!(next.told().1.len(), monitor.told().1.len(), "and nothing has happened");
        // A ring has an end.
        for n in 0..300 {
            look(&next, |s| s.servers[0].state = if n % 2 == 0 { ServerState::Failed } else { ServerState::Ready });
        }
        assert_eq!((next.told().1.len(), look(&next, |_| {}).0.alerts.len()), (KEPT, KEPT));
    }
}
