//! An instance in words and as JSON, for those who look once and those who watch.

use std::fmt::Write as _;
use std::time::Duration;

use super::logs;
use super::place::{Age, Found};
use crate::model::exit::{Exit, Failure};
use crate::model::last_words::first_of;
use crate::model::logline;
use crate::model::status::{Client, Status};
use crate::model::text::{count, duration, millis};
use crate::sys::clock;
use crate::sys::pidfile::Probe;

/// The whole of a JSON answer: when it was made, and the instances.
pub(super) fn whole(instances: &impl serde::Serialize) -> serde_json::Value {
    serde_json::json!({ "at": clock::now(), "instances": instances })
}

/// One element of `instances`.
pub(super) fn document(name: &str, found: &Result<Found, Failure>) -> serde_json::Value {
    let exit = exit(found);
    let runs = |found: &Found| matches!(found.probe, Probe::Running(..) | Probe::Elsewhere(_) | Probe::Starting);
    let running = found.as_ref().ok().map(runs);
    let status = found.as_ref().ok().filter(|found| runs(found)).and_then(|found| found.status.as_ref());
    let mut status = serde_json::json!(status);
    let known = |found: &Found| found.age == Age::Current && (!runs(found) || found.status.is_some());
    let fresh = found.as_ref().is_ok_and(known);
    if let Ok(found) = found
        && found.age == Age::Silent
        && let Some(status) = status.as_object_mut()
    {
        // What is not known is not called well.
        status.insert("health".to_owned(), serde_json::json!({"level": UNKNOWN, "reasons": [unanswered(found)]}));
    }
    serde_json::json!({
        "name": name,
        "running": running,
        "fresh": fresh,
        "exit_code": exit.code(),
        "status": status,
    })
}

/// The health of who does not say how he is.
const UNKNOWN: &str = "unknown";

fn unanswered(found: &Found) -> String {
    format!("it does not answer: {}", found.silence())
}

pub(super) fn exit(found: &Result<Found, Failure>) -> Exit {
    found.as_ref().map_or(Exit::Unknown, exit_of)
}

pub(super) fn exit_of(found: &Found) -> Exit {
    match found.probe {
        Probe::Running(..) if found.age == Age::Silent || found.status.is_none() => Exit::Unknown,
        Probe::Running(..) | Probe::Elsewhere(_) | Probe::Starting => Exit::Ok,
        Probe::Stale => Exit::DeadWithPidFile,
        Probe::Absent => Exit::NotRunning,
    }
}

/// How well an instance is, in a line.
pub(super) fn in_short(found: &Found) -> String {
    match (&found.probe, &found.status) {
        (Probe::Running(..), Some(_)) if found.age == Age::Silent => {
            format!("{}: {UNKNOWN}: {}", found.name, unanswered(found))
        }
        (Probe::Running(..) | Probe::Elsewhere(_), Some(status)) => {
            let why = status.health.reasons.join("; ");
            let why = if why.is_empty() { why } else { format!(": {why}") };
            format!("{}: {}{why}", found.name, status.health.level)
        }
        _ => describe(found),
    }
}

pub(super) fn describe(found: &Found) -> String {
    let name = &found.name;
    match (&found.probe, &found.status) {
        (Probe::Absent, _) => format!("{name}: not running{}", found.meant().unwrap_or_default()),
        (Probe::Stale, _) => {
            format!("{name}: dead, killed without a chance to clean up (start it again: that cleans up)")
        }
        (Probe::Starting, _) => format!("{name}: starting"),
        (Probe::Running(pid, _) | Probe::Elsewhere(pid), None) => {
            format!("{name}: running (pid {pid}), but its status file cannot be read")
        }
        (_, Some(status)) => {
            let troubled = status.servers.iter().any(|v| v.reason.is_some());
            let log = troubled.then(|| logs::recent(found)).flatten();
            text(found, status, log.as_deref().unwrap_or_default())
        }
    }
}

/// So many alerts, and so many clients, are shown.
const SHOWN: usize = 3;

/// `log` is the end of its log, as far as it may be read.
fn text(found: &Found, s: &Status, log: &str) -> String {
    let mut out = String::new();
    let up = duration(Duration::from_secs(s.uptime_seconds));
    let silent = found.age == Age::Silent;
    let _ = match found.age {
        Age::Current => writeln!(out, "{}: {} (pid {}, up {up})", s.name, s.state, s.pid),
        Age::AsOf => writeln!(out, "{}: {} (pid {}, up {up}), as of {}", s.name, s.state, s.pid, s.written),
        Age::Silent => {
            writeln!(out, "{}: does not answer (pid {}); what follows is as of {}", s.name, s.pid, s.written)
        }
    };
    let mut line = |label: &str, text: &str| {
        let _ = writeln!(out, "  {label:9} {text}");
    };
    let (level, reasons) = match silent {
        true => (UNKNOWN.to_owned(), vec![unanswered(found)]),
        false => (s.health.level.to_string(), s.health.reasons.clone()),
    };
    let mut why = reasons.iter();
    line("health", &why.next().map_or(level.clone(), |first| format!("{level}: {first}")));
    why.for_each(|more| line("", more));
    line("listens", &s.listen.join(", "));
    line("config", s.config.as_deref().unwrap_or("(command line)"));
    line("log", s.log.as_deref().unwrap_or("(standard error)"));
    line(
        "clients",
        &format!("{}, {}", count(s.connections as usize, "connection"), count(s.sessions as usize, "session")),
    );
    for c in s.clients.iter().take(SHOWN) {
        line("", &client(c));
    }
    if let Some(more) = s.clients.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        line("", &format!("and {more} more"));
    }
    let r = &s.requests;
    line(
        "requests",
        &format!(
            "{} in all, {} in the last minute, {} in flight, {} failed; average {}, p95 {} in the last 5 minutes",
            r.total,
            r.per_minute,
            r.in_flight,
            r.errors,
            millis(r.average_ms),
            millis(r.recent.p95_ms)
        ),
    );
    let p = &s.process;
    line(
        "daemon",
        &format!(
            "{}, {:.1} s CPU, {}, {}",
            mib(p.memory_bytes),
            p.cpu_seconds,
            count(p.threads as usize, "thread"),
            count(p.open_files as usize, "open file")
        ),
    );
    if let Some(upgrade) = &s.last_upgrade {
        let word = if upgrade.ok { "done" } else { "REFUSED" };
        line("upgrade", &format!("{word} at {}: {}", upgrade.at, upgrade.text.replace('\n', "; ")));
    }
    if let Some(restart) = &s.last_restart {
        let word = if restart.ok { "done" } else { "REFUSED" };
        line("restart", &format!("{word} at {}: {}", restart.at, restart.text.replace('\n', "; ")));
    }
    if let Some(reload) = &s.last_reload {
        let word = if reload.ok { "applied" } else { "REFUSED" };
        line("reload", &format!("{word} at {}: {}", reload.at, reload.text.replace('\n', "; ")));
    }
    for alert in s.alerts.iter().rev().take(SHOWN).rev() {
        line("alert", &format!("{} {alert}", alert.at));
    }
    for what in &s.waiting_for {
        line("waits for", what);
    }
    let dropped: Vec<String> = s.dropped.iter().filter(|(_, n)| **n > 0).map(|(k, n)| format!("{k} {n}")).collect();
    if !dropped.is_empty() {
        line("dropped", &dropped.join(", "));
    }
    let width = s.servers.iter().map(|v| v.name.len()).max().unwrap_or(0).max(6);
    let _ = writeln!(
        out,
        "\n  {:width$}  {:5}  {:9}  {:>8}  {:>8}  {:>8}  {:>8}",
        "SERVER", "KIND", "STATE", "PID", "RESTARTS", "REQUESTS", "MEMORY"
    );
    for v in &s.servers {
        let pid = v.pids.first().map_or("-".to_owned(), ToString::to_string);
        let _ = writeln!(
            out,
            "  {:width$}  {:5}  {:9}  {pid:>8}  {:>8}  {:>8}  {:>8}",
            v.name,
            v.kind,
            v.state,
            v.restarts,
            v.requests.total,
            if v.process.processes == 0 { "-".to_owned() } else { mib(v.process.memory_bytes) }
        );
        if let Some(reason) = &v.reason {
            let _ = writeln!(out, "  {:width$}  {}", "", reason.replace('\n', "\n      "));
            if let Some(words) = logline::last_words(log.lines(), &v.name) {
                let _ = writeln!(out, "  {:width$}  {}{}", "", logline::LAST_WORDS, first_of(&words));
            }
        }
        for what in &v.left_out {
            let _ = writeln!(out, "  {:width$}  not on the bridge: {what}", "");
        }
        if v.reason.is_some() {
            continue;
        }
        if let Some(last) = v.last_exit.as_ref().filter(|_| v.restarts > 0) {
            let _ = writeln!(out, "  {:width$}  its last child {last}", "");
        }
    }
    let urls: Vec<(&str, &str)> = s.servers.iter().filter_map(|v| Some((v.name.as_str(), v.url.as_deref()?))).collect();
    if !urls.is_empty() {
        let _ = writeln!(out, "\n  {:width$}  URL", "SERVER");
        for (name, url) in urls.into_iter().chain(s.url.as_deref().map(|url| ("(all)", url))) {
            let _ = writeln!(out, "  {name:width$}  {url}");
        }
    }
    out
}

/// Who is connected, in a line.
fn client(c: &Client) -> String {
    let name = if c.name.is_empty() { "(no name)" } else { &c.name };
    let principal = c.principal.as_ref().map_or(String::new(), |who| format!(" as {who}"));
    let server = c.server.as_ref().map_or("all servers as one".to_owned(), |server| format!("'{server}'"));
    let sessions = if c.sessions > 1 { format!(", {} sessions", c.sessions) } else { String::new() };
    format!("{name}{principal} at {server}{sessions}")
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
