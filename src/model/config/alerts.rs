//! From where on something is worth an alert (`alerts`).

use std::time::Duration;

use super::read::{Node, Origin, Reader, Section, Setting};

/// When the health of the instance or of a server is worse than "healthy". What is recent are the last five minutes.
#[derive(Clone, Debug, PartialEq)]
pub struct Alerts {
    /// The share of recent requests that may fail.
    pub error_rate: f64,
    /// The share from which on a server is of no use.
    pub error_rate_unhealthy: f64,
    /// Fewer recent requests say nothing about a rate or a time.
    pub min_requests: u32,
    /// Within which 95 of 100 recent requests of a `Stdio` server are answered.
    pub p95: Option<Duration>,
    /// The share of `limits.connections` that may be open.
    pub connections: f64,
    /// The share of `limits.sessions`, and of a server's own limit, that may be open.
    pub sessions: f64,
    /// So many recent restarts of a server are too many.
    pub restarts: u32,
}

impl Default for Alerts {
    fn default() -> Self {
        Alerts {
            error_rate: 0.05,
            error_rate_unhealthy: 0.5,
            min_requests: 10,
            p95: Some(Duration::from_secs(5)),
            connections: 0.95,
            sessions: 0.95,
            restarts: 3,
        }
    }
}

/// More than nothing, and at most all.
#[derive(Clone, Copy)]
struct Share(f64);

impl Setting for Share {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        const EXPECTED: &str = "a share above 0 and up to 1, such as 0.05 for 5 %";
        let share: f64 = reader.plain(node, EXPECTED)?;
        if share > 0.0 && share <= 1.0 {
            return Some(Share(share));
        }
        reader.problem(node, format!("expected {EXPECTED}, found {}", node.0));
        None
    }

    fn show(&self) -> String {
        format!("{:?}", self.0)
    }
}

pub(super) fn alerts(s: &mut Section<'_, '_>) -> Alerts {
    let default = Alerts::default();
    let mut share = |key, default| s.get(key, Share(default)).0;
    let (error_rate, error_rate_unhealthy) =
        (share("error_rate", default.error_rate), share("error_rate_unhealthy", default.error_rate_unhealthy));
    let (connections, sessions) = (share("connections", default.connections), share("sessions", default.sessions));
    if error_rate_unhealthy < error_rate
        && let Some(node) = s.node("error_rate_unhealthy").or(s.node("error_rate"))
    {
        let why = format!("error_rate_unhealthy ({error_rate_unhealthy}) is below error_rate ({error_rate})");
        s.reader.problem(node, why);
    }
    Alerts {
        error_rate,
        error_rate_unhealthy,
        min_requests: count(s, "min_requests", default.min_requests),
        p95: p95(s, default.p95),
        connections,
        sessions,
        restarts: count(s, "restarts", default.restarts),
    }
}

/// At least one.
fn count(s: &mut Section<'_, '_>, key: &'static str, default: u32) -> u32 {
    let value = s.get(key, default);
    if value == 0
        && let Some(node) = s.node(key)
    {
        s.reader.problem(node, format!("'{key}' must be more than 0"));
    }
    value
}

/// A time, or None where there is no limit.
fn p95(s: &mut Section<'_, '_>, default: Option<Duration>) -> Option<Duration> {
    let Some(node) = s.node("p95") else {
        let text = default.as_ref().map_or("None".to_owned(), Setting::show);
        s.show("p95", text, Origin::Default);
        return default;
    };
    let value: Option<Duration> = s.opt("p95");
    if value.is_some_and(|d| d.is_zero()) {
        s.reader.problem(node, "'p95' must be more than 0");
    }
    value
}
