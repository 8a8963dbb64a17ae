//! Health, as tables: what is read from a status document, and what a book makes of it in time.

use super::*;
use crate::model::config::Alerts;
use crate::model::status::sample;

fn limits(alerts: &Alerts) -> Limits<'_> {
    Limits { alerts, connections: 100, sessions: 1000, sessions_of: &|name| (name == "b").then_some(10) }
}

/// The health of the instance and of its first server, at once.
fn health(change: impl FnOnce(&mut Status)) -> (Health, Health) {
    let mut status = sample::status();
    change(&mut status);
    let mut book = Book::default();
    book.step(0, &readings(&status, &limits(&Alerts::default())));
    book.report(&mut status);
    (status.health, status.servers[0].health.clone())
}

#[test]
fn each_trouble_has_a_level_and_a_reason() {
    use Level::{Degraded, Healthy, Unhealthy};
    type Change = fn(&mut Status);
    let requests = |total: u64, errors: u64| crate::model::status::Recent {
        total,
        errors,
        error_rate: errors as f64 / total as f64,
        ..Default::default()
    };
    let table: Vec<(Change, Level, Level, &str)> = vec![
        (|_| {}, Healthy, Healthy, ""),
        (|s| s.state = InstanceState::Draining, Degraded, Healthy, "it is shutting down"),
        (|s| s.servers[0].state = ServerState::Idle, Healthy, Healthy, ""),
        (|s| s.servers[0].state = ServerState::Starting, Degraded, Degraded, "server 'a': it is being started"),
        (
            |s| {
                s.servers[0].state = ServerState::Backoff;
                s.servers[0].reason = Some("exited with status 3".to_owned());
            },
            Unhealthy,
            Unhealthy,
            "server 'a': its child ended, and waits to be started again: exited with status 3",
        ),
        (|s| s.servers[0].state = ServerState::Failed, Unhealthy, Unhealthy, "server 'a': it has failed"),
        // It says that it is ready, and the kernel knows of no child.
        (|s| s.servers[0].process.processes = 0, Unhealthy, Unhealthy, "server 'a': none of its children is alive"),
        // One that the instance can do without.
        (
            |s| (s.servers[0].state, s.servers[0].required) = (ServerState::Failed, false),
            Degraded,
            Unhealthy,
            "server 'a': it has failed",
        ),
        (
            |s| s.servers[0].children = crate::model::status::Children { wanted: 4, ready: 3 },
            Degraded,
            Degraded,
            "server 'a': 3 of 4 children are ready",
        ),
        (
            |s| s.servers[0].recent_restarts = 3,
            Degraded,
            Degraded,
            "server 'a': its child ended 3 times in the last 5 minutes",
        ),
        (|s| s.servers[0].recent_restarts = 2, Healthy, Healthy, ""),
        (
            |s| s.connections = 95,
            Degraded,
            Healthy,
            "95 connections open, and 100 is the limit (limits.connections): more are refused",
        ),
        (|s| s.connections = 94, Healthy, Healthy, ""),
        (
            |s| s.sessions = 950,
            Degraded,
            Healthy,
            "950 sessions open, and 1000 is the limit (limits.sessions): more are refused",
        ),
        (
            |s| s.servers[1].sessions = 10,
            Degraded,
            Healthy,
            "server 'b': 10 sessions open, and 10 is the limit (its own): more are refused",
        ),
    ];
    for (change, instance, server, reason) in table {
        let (all, one) = health(change);
        let reasons = all.reasons.join("; ");
        assert_eq!((all.level, one.level, reasons.as_str()), (instance, server, reason));
    }
    // Too few say nothing; then a share of them does.
    for (total, errors, wanted) in
        [(9, 9, Healthy), (10, 0, Healthy), (100, 4, Healthy), (100, 5, Degraded), (10, 5, Unhealthy)]
    {
        let (all, one) = health(|s| s.servers[0].requests.recent = requests(total, errors));
        assert_eq!((all.level, one.level), (wanted, wanted), "{errors} of {total}");
    }
    let (_, one) = health(|s| s.servers[0].requests.recent = requests(100, 12));
    assert_eq!(one.reasons, ["12 of 100 requests failed in the last 5 minutes (12 %; 5 % is the limit)"]);
    let slow = |s: &mut Status| {
        s.servers[0].requests.recent = requests(100, 0);
        s.servers[0].requests.recent.p95_ms = 6000.0;
    };
    // Of few requests, two that take long make a p95.
    for (total, p50, level) in [(99, 10.0, Healthy), (100, 10.0, Degraded), (20, 5500.0, Degraded)] {
        let (_, one) = health(|s| {
            slow(s);
            (s.servers[0].requests.recent.total, s.servers[0].requests.recent.p50_ms) = (total, p50);
        });
        assert_eq!(one.level, level, "{total} {p50}");
    }
    let (_, one) = health(slow);
    assert_eq!(one.reasons, ["5 of 100 requests took longer than 6s in the last 5 minutes (5s is the limit)"]);
    let (_, one) = health(|s| {
        slow(s);
        s.servers[0].kind = "Exec".to_owned();
        s.servers[0].process.processes = 0;
    });
    assert_eq!(one, Health::default(), "commands take as long as they take, and there may be none");
}

fn rate(value: f64) -> Vec<Reading> {
    let text = format!("{value}");
    vec![Reading { server: None, check: Check::ErrorRate, value, limits: (10.0, 50.0), quiet: false, text }]
}

#[test]
fn what_is_raised_is_told_once_and_cleared_when_it_is_well_below_its_limit() {
    use Level::{Degraded, Healthy, Unhealthy};
    let mut book = Book::default();
    let table = [
        // (time, value, what is told)
        (0, 9.0, None),
        (1, 10.0, Some(Degraded)),
        (2, 12.0, None),
        // Below the limit, but not by much, for however long.
        (500, 9.0, None),
        (600, 8.0, None),
        (601, 7.9, Some(Healthy)),
        (602, 20.0, Some(Degraded)),
        // Well below, but too soon.
        (603, 0.0, None),
        (661, 0.0, None),
        (662, 0.0, Some(Healthy)),
        // Worse at once, better in steps.
        (700, 60.0, Some(Unhealthy)),
        (750, 20.0, None),
        (760, 45.0, None),
        (761, 30.0, Some(Degraded)),
        (762, 60.0, Some(Unhealthy)),
        (822, 0.0, Some(Healthy)),
    ];
    for (now, value, told) in table {
        let changes = book.step(now, &rate(value));
        assert_eq!(changes.first().map(|c| c.level), told, "at {now}: {value}");
        assert!(changes.len() <= 1);
    }
    assert!(book.is_empty());
    book.step(900, &rate(10.0));
    let mut saved = Book::load(serde_json::from_str(&serde_json::to_string(&book.save()).unwrap()).unwrap());
    assert_eq!(saved, book);
    // What is not measured any more is over at once.
    let changes = saved.step(901, &[]);
    assert_eq!((changes.len(), changes[0].level, saved.is_empty()), (1, Healthy, true));
}

#[test]
fn a_state_is_as_it_is_and_what_passes_is_told_to_nobody() {
    use Level::{Degraded, Healthy, Unhealthy};
    let state = |value, quiet| {
        let text = String::new();
        [Reading { server: Some("a".to_owned()), check: Check::State, value, limits: (1.0, 2.0), quiet, text }]
    };
    let mut book = Book::default();
    let table = [
        (1.0, true, None, Degraded),
        (0.0, false, None, Healthy),
        (1.0, true, None, Degraded),
        (2.0, false, Some(Unhealthy), Unhealthy),
        // Being started again is not the end of it.
        (1.0, true, None, Degraded),
        (0.0, false, Some(Healthy), Healthy),
        (2.0, true, None, Unhealthy),
        (2.0, false, Some(Unhealthy), Unhealthy),
        (0.0, false, Some(Healthy), Healthy),
    ];
    for (n, (value, quiet, told, level)) in table.into_iter().enumerate() {
        let changes = book.step(n as u64, &state(value, quiet));
        assert_eq!(changes.first().map(|c| c.level), told, "{n}");
        assert_eq!(book.of(Some("a")).level, level, "{n}");
    }
}
