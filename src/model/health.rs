//! How well an instance and its servers are, and when an administrator is to be told.
//!
//! [`readings`] turns a status document into what is measured, each with its limits; a [`Book`] remembers what is
//! raised and gives the changes. Both are pure: the time is given. They must not know who reads or tells.
//!
//! Health is worse at once; it is better again only once a value has stayed well below its limit, so that an administrator is not told
//! of the same thing again and again. States of servers are as they are, at once in both directions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::config::Alerts;
use crate::model::status::{Health, InstanceState, Level, Server, ServerState, Status};
use crate::model::text::{count, duration};

/// What is raised stays so for this long at least, in seconds.
const HOLD: u64 = 60;
/// It is over below this share of its limit.
const WELL_BELOW: f64 = 0.8;
/// What the readings of a meter's recent minutes are about.
const RECENTLY: &str = "in the last 5 minutes";

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The state of the instance or of a server.
    State,
    Children,
    Restarts,
    ErrorRate,
    Latency,
    Connections,
    Sessions,
}

impl Check {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Check::State => "state",
            Check::Children => "children",
            Check::Restarts => "restarts",
            Check::ErrorRate => "error-rate",
            Check::Latency => "latency",
            Check::Connections => "connections",
            Check::Sessions => "sessions",
        }
    }

    /// Values that move all the time; states do not.
    fn is_held(self) -> bool {
        !matches!(self, Check::State | Check::Children)
    }
}

/// The limits of the instance that a reading is compared with.
pub struct Limits<'a> {
    pub alerts: &'a Alerts,
    pub connections: u32,
    pub sessions: u32,
    /// The limit of sessions of a server that has one of its own.
    pub sessions_of: &'a dyn Fn(&str) -> Option<u32>,
}

/// Something that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// None for the instance itself.
    pub server: Option<String>,
    pub check: Check,
    pub value: f64,
    /// From where on it is degraded, and unhealthy.
    pub limits: (f64, f64),
    /// An administrator is not told: this passes, or is wanted.
    pub quiet: bool,
    /// For a person, where it is not well.
    pub text: String,
}

impl Reading {
    fn level(&self, share: f64) -> Level {
        match self.value {
            v if v >= self.limits.1 * share => Level::Unhealthy,
            v if v >= self.limits.0 * share => Level::Degraded,
            _ => Level::Healthy,
        }
    }
}

const NEVER: f64 = f64::INFINITY;

/// What a status document says, as readings.
pub fn readings(status: &Status, limits: &Limits<'_>) -> Vec<Reading> {
    let mut all = Vec::new();
    let (level, text) = match status.state {
        InstanceState::Starting => (1.0, "it is starting"),
        InstanceState::Draining => (1.0, "it is shutting down"),
        InstanceState::Stopped => (2.0, "it has stopped"),
        InstanceState::Ready | InstanceState::Degraded | InstanceState::Reloading => (0.0, ""),
    };
    let text = text.to_owned();
    all.push(Reading { server: None, check: Check::State, value: level, limits: (1.0, 2.0), quiet: true, text });
    let share = |check, open: u64, most: u32, share: f64, what: &str, key: &str, server: Option<&str>| Reading {
        server: server.map(str::to_owned),
        check,
        value: open as f64 / f64::from(most.max(1)),
        limits: (share, NEVER),
        quiet: false,
        text: format!("{} open, and {most} is the limit ({key}): more are refused", count(open as usize, what)),
    };
    let (open, most) = (status.connections, limits.connections);
    let near = limits.alerts.connections;
    all.push(share(Check::Connections, open, most, near, "connection", "limits.connections", None));
    let near = limits.alerts.sessions;
    all.push(share(Check::Sessions, status.sessions, limits.sessions, near, "session", "limits.sessions", None));
    for server in &status.servers {
        of_server(server, limits, &mut all);
        if let Some(most) = (limits.sessions_of)(&server.name) {
            let name = Some(server.name.as_str());
            all.push(share(Check::Sessions, server.sessions, most, near, "session", "its own", name));
        }
    }
    all
}

/// Of so many requests, 5 of 100 are more than a few.
const MANY: u64 = 100;

fn of_server(server: &Server, limits: &Limits<'_>, all: &mut Vec<Reading>) {
    let alerts = limits.alerts;
    let mut push = |check, value, limits, quiet, text: String| {
        all.push(Reading { server: Some(server.name.clone()), check, value, limits, quiet, text });
    };
    let (level, quiet, text) = state(server);
    push(Check::State, level, (1.0, 2.0), quiet, text);
    let (wanted, ready) = (server.children.wanted, server.children.ready);
    if wanted > 1 {
        let missing = if ready < wanted && server.state == ServerState::Ready { 1.0 } else { 0.0 };
        push(Check::Children, missing, (1.0, NEVER), false, format!("{ready} of {wanted} children are ready"));
    }
    let (restarts, most) = (server.recent_restarts, alerts.restarts);
    let last = server.last_exit.as_ref().map_or(String::new(), |how| format!("; the last one {how}"));
    let text = format!("its child ended {} {RECENTLY}{last}", times(restarts));
    push(Check::Restarts, restarts as f64, (f64::from(most), NEVER), false, text);
    let recent = &server.requests.recent;
    let enough = recent.total >= u64::from(alerts.min_requests);
    let rate = if enough { recent.error_rate } else { 0.0 };
    let text = format!(
        "{} of {} failed {RECENTLY} ({:.0} %; {:.0} % is the limit)",
        recent.errors,
        count(recent.total as usize, "request"),
        recent.error_rate * 100.0,
        alerts.error_rate * 100.0
    );
    push(Check::ErrorRate, rate, (alerts.error_rate, alerts.error_rate_unhealthy), false, text);
    // How long a command takes is the affair of the client that wants it to run.
    if let Some(p95) = alerts.p95.filter(|_| server.kind == "Stdio") {
        let limit = p95.as_secs_f64() * 1000.0;
        // A few slow ones are no trend, unless most are.
        let many = recent.total >= MANY || recent.p50_ms > limit;
        let value = if enough && many { recent.p95_ms } else { 0.0 };
        let took = duration(Duration::from_millis(recent.p95_ms as u64));
        let text = format!("5 of 100 requests took longer than {took} {RECENTLY} ({} is the limit)", duration(p95));
        push(Check::Latency, value, (limit, NEVER), false, text);
    }
}

/// How bad the state of a server is, whether it passes by itself, and why.
fn state(server: &Server) -> (f64, bool, String) {
    let why = |what: &str| match &server.reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what.to_owned(),
    };
    match server.state {
        // What a supervisor has not seen yet, the kernel knows.
        ServerState::Ready if server.kind == "Stdio" && server.process.processes == 0 => {
            (2.0, false, "none of its children is alive".to_owned())
        }
        ServerState::Ready | ServerState::Idle => (0.0, false, String::new()),
        ServerState::Starting => (1.0, true, why("it is being started")),
        ServerState::Unhealthy => (2.0, false, why("it does not answer")),
        ServerState::Backoff => (2.0, false, why("its child ended, and waits to be started again")),
        ServerState::Failed => (2.0, false, why("it has failed")),
        ServerState::Stopping => (1.0, true, why("it is being stopped")),
        ServerState::Stopped => (2.0, true, why("it has stopped")),
    }
}

fn times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    }
}

/// What is raised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Raised {
    level: Level,
    /// In seconds since the start.
    since: u64,
    /// An administrator was told.
    told: bool,
    text: String,
}

/// A level became another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub server: Option<String>,
    pub check: Check,
    /// Healthy: it is over.
    pub level: Level,
    pub text: String,
}

/// Everything that is raised at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Book(BTreeMap<(Option<String>, Check), Raised>);

/// The troubles in a [`Book`], for the next program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    server: Option<String>,
    check: Check,
    raised: Raised,
}

impl Book {
    /// Compares new readings with what is raised, `now` seconds after the start.
    pub fn step(&mut self, now: u64, readings: &[Reading]) -> Vec<Change> {
        let mut changes = Vec::new();
        for reading in readings {
            let key = (reading.server.clone(), reading.check);
            let change = |level, text: &str| Change {
                server: reading.server.clone(),
                check: reading.check,
                level,
                text: text.to_owned(),
            };
            let level = reading.level(1.0);
            let Some(raised) = self.0.get_mut(&key) else {
                if level > Level::Healthy {
                    let text = reading.text.clone();
                    self.0.insert(key, Raised { level, since: now, told: !reading.quiet, text });
                    changes.extend((!reading.quiet).then(|| change(level, &reading.text)));
                }
                continue;
            };
            if level >= raised.level {
                let news = !reading.quiet && (level > raised.level || !raised.told);
                if level > raised.level {
                    (raised.level, raised.since) = (level, now);
                }
                raised.told |= news;
                raised.text.clone_from(&reading.text);
                changes.extend(news.then(|| change(level, &reading.text)));
                continue;
            }
            let held = reading.check.is_held();
            let level = if held { reading.level(WELL_BELOW).min(raised.level) } else { level };
            if level == raised.level || (held && now.saturating_sub(raised.since) < HOLD) {
                continue;
            }
            let told = raised.told;
            if level == Level::Healthy {
                let text = self.0.remove(&key).map(|r| r.text).unwrap_or_default();
                changes.extend(told.then(|| change(level, &text)));
            } else {
                (raised.level, raised.since) = (level, now);
                raised.text.clone_from(&reading.text);
                changes.extend((told && !reading.quiet).then(|| change(level, &reading.text)));
            }
        }
        // What is not measured any more is no concern: the server was removed, or the check switched off.
        let gone = |key: &(Option<String>, Check)| !readings.iter().any(|r| (&r.server, r.check) == (&key.0, key.1));
        let gone: Vec<_> = self.0.keys().filter(|k| gone(k)).cloned().collect();
        for key in gone {
            if let Some(raised) = self.0.remove(&key).filter(|r| r.told) {
                changes.push(Change { server: key.0, check: key.1, level: Level::Healthy, text: raised.text });
            }
        }
        changes
    }

    fn about<'a>(&'a self, server: Option<&'a str>) -> impl Iterator<Item = &'a Raised> {
        self.0.iter().filter(move |(key, _)| key.0.as_deref() == server).map(|(_, raised)| raised)
    }

    fn of(&self, server: Option<&str>) -> Health {
        Health {
            level: self.about(server).map(|r| r.level).max().unwrap_or_default(),
            reasons: self.about(server).map(|r| r.text.clone()).collect(),
        }
    }

    /// Writes the levels and the reasons into a status document. A server that the instance can do without degrades it
    /// at most.
    pub fn report(&self, status: &mut Status) {
        let mut health = self.of(None);
        for server in &mut status.servers {
            server.health = self.of(Some(&server.name));
            let level = if server.required { server.health.level } else { server.health.level.min(Level::Degraded) };
            health.level = health.level.max(level);
            health.reasons.extend(server.health.reasons.iter().map(|why| format!("server '{}': {why}", server.name)));
        }
        status.health = health;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything, for another program.
    pub fn save(&self) -> Vec<Saved> {
        let one = |((server, check), raised): (&(Option<String>, Check), &Raised)| Saved {
            server: server.clone(),
            check: *check,
            raised: raised.clone(),
        };
        self.0.iter().map(one).collect()
    }

    pub fn load(saved: Vec<Saved>) -> Book {
        Book(saved.into_iter().map(|s| ((s.server, s.check), s.raised)).collect())
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
