//! What changed between two looks at an instance, as lines for a reader.
//!
//! Counters, times and resources change all the time and are no change; states, children that ended, reloads and
//! addresses are.

use crate::model::status::{Server, Status};
use crate::model::text::count;

/// An instance as one look at its files shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    NotRunning,
    /// Its PID file is left, and the lock is free.
    Dead,
    /// The lock is held, and there is no PID yet.
    Starting,
    /// It runs, and what it says of itself cannot be read.
    Silent(i32),
    /// It runs, and does not answer.
    Hangs(i32),
    Running(Box<Status>),
    /// It cannot be looked at.
    Unknown(String),
}

/// What is new since the last look, a line each; `old` is None at the first one.
pub fn changes(old: Option<&Seen>, new: &Seen) -> Vec<String> {
    match (old, new) {
        (Some(Seen::Running(old)), Seen::Running(new)) if old.pid == new.pid && old.start_time == new.start_time => {
            timeout(old, new)
        }
        (Some(old), new) if old == new => Vec::new(),
        (_, Seen::NotRunning) => vec!["not running".to_owned()],
        (_, Seen::Dead) => vec!["dead, killed without a chance to clean up".to_owned()],
        (_, Seen::Starting) => vec!["starting".to_owned()],
        (_, Seen::Silent(pid)) => vec![format!("running (pid {pid}), but its status file cannot be read")],
        (_, Seen::Hangs(pid)) => vec![format!("does not answer (pid {pid})")],
        (_, Seen::Unknown(why)) => vec![why.clone()],
        (_, Seen::Running(status)) => {
            let first = format!("{} (pid {}, {})", status.state, status.pid, count(status.servers.len(), "server"));
            std::iter::once(first).chain(status.servers.iter().map(is)).collect()
        }
    }
}

/// Changes of one process.
fn timeout(old: &Status, new: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(reload) = new.last_reload.as_ref().filter(|_| new.reloads != old.reloads) {
        let word = if reload.ok { "reloaded" } else { "reload refused" };
        lines.push(format!("{word}: {}", reload.text.replace('\n', "; ")));
    }
    if let Some(upgrade) = new.last_upgrade.as_ref().filter(|_| new.upgrades != old.upgrades) {
        let word = if upgrade.ok { "upgraded in place" } else { "upgrade refused" };
        lines.push(format!("{word}: {}", upgrade.text.replace('\n', "; ")));
    }
    if old.state != new.state {
        lines.push(new.state.to_string());
    }
    // What is said of states is said above and below.
    let news = new.alerts.iter().filter(|a| a.check != "state" && !old.alerts.contains(a));
    lines.extend(news.map(|alert| alert.to_string()));
    if old.listen != new.listen {
        lines.push(format!("listens on {}", new.listen.join(", ")));
    }
    if old.waiting_for != new.waiting_for && !new.waiting_for.is_empty() {
        lines.push(format!("waits for {}", new.waiting_for.join(", ")));
    }
    let named = |all: &'_ [Server], name: &str| all.iter().position(|s| s.name == name);
    for server in &new.servers {
        let Some(was) = named(&old.servers, &server.name).map(|at| &old.servers[at]) else {
            lines.push(is(server));
            continue;
        };
        if (was.state, &was.reason) != (server.state, &server.reason) {
            lines.push(is(server));
        } else if was.restarts != server.restarts {
            let last = server.last_exit.as_ref().map_or(String::new(), |exit| format!(": {exit}"));
            let times = count(server.restarts as usize, "restart");
            lines.push(format!("server '{}' has a new child ({times}){last}", server.name));
        }
    }
    let gone = old.servers.iter().filter(|s| named(&new.servers, &s.name).is_none());
    lines.extend(gone.map(|s| format!("server '{}' is gone", s.name)));
    lines
}

fn is(server: &Server) -> String {
    let why = server.reason.as_ref().map_or(String::new(), |why| format!(": {}", why.replace('\n', "; ")));
    format!("server '{}' is {}{why}", server.name, server.state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::status::sample::status;
    use crate::model::status::{Alert, InstanceState, Level, Reload, ServerState, Upgrade};

    fn seen(change: impl FnOnce(&mut Status)) -> Seen {
        let mut status = status();
        change(&mut status);
        Seen::Running(Box::new(status))
    }

    fn alert(check: &str, level: Level) -> Alert {
        let (at, what, server) = ("now".to_owned(), "why".to_owned(), Some("a".to_owned()));
        Alert { at, level, check: check.to_owned(), server, what }
    }

    #[test]
    fn every_change_is_a_line_and_nothing_else_is() {
        let same = seen(|_| {});
        type Change = fn(&mut Status);
        let table: [(Change, &[&str]); 14] = [
            (|_| {}, &[]),
            (
                |s| {
                    (s.uptime_seconds, s.connections, s.sessions, s.written) = (9, 8, 7, "now".to_owned());
                    (s.requests.total, s.process.threads, s.servers[0].requests.total) = (6, 5, 4);
                    s.servers[0].pids = vec![11, 12];
                },
                &[],
            ),
            (|s| s.state = InstanceState::Degraded, &["degraded"]),
            (
                |s| {
                    s.reloads = 1;
                    s.last_reload = Some(Reload { at: String::new(), ok: true, text: "2 unchanged".to_owned() });
                },
                &["reloaded: 2 unchanged"],
            ),
            (
                |s| {
                    s.reloads = 3;
                    s.last_reload = Some(Reload { at: String::new(), ok: false, text: "one\ntwo".to_owned() });
                },
                &["reload refused: one; two"],
            ),
            (
                |s| {
                    s.upgrades = 1;
                    s.last_upgrade = Some(Upgrade { at: String::new(), ok: true, text: "1 -> 2".to_owned() });
                },
                &["upgraded in place: 1 -> 2"],
            ),
            (|s| s.alerts.push(alert("error-rate", Level::Degraded)), &["server 'a' is degraded: why"]),
            // States are told of as such.
            (|s| s.alerts.push(alert("state", Level::Unhealthy)), &[]),
            (|s| s.listen.push("unix:/s".to_owned()), &["listens on http://127.0.0.1:1, unix:/s"]),
            (
                |s| (s.state, s.waiting_for) = (InstanceState::Draining, vec!["1 request".to_owned()]),
                &["draining", "waits for 1 request"],
            ),
            (
                |s| {
                    s.servers[1].state = ServerState::Backoff;
                    s.servers[1].restarts = 1;
                    s.servers[1].reason = Some("exited\nlast words".to_owned());
                },
                &["server 'b' is backoff: exited; last words"],
            ),
            (
                |s| (s.servers[0].restarts, s.servers[0].last_exit) = (2, Some("exited with status 1".to_owned())),
                &["server 'a' has a new child (2 restarts): exited with status 1"],
            ),
            (|s| s.servers[0].name = "c".to_owned(), &["server 'c' is ready", "server 'a' is gone"]),
            (|s| s.pid = 4, &["ready (pid 4, 2 servers)", "server 'a' is ready", "server 'b' is ready"]),
        ];
        for (change, lines) in table {
            assert_eq!(changes(Some(&same), &seen(change)), lines);
        }
    }

    #[test]
    fn coming_and_going_is_a_change() {
        let all = [
            (Seen::NotRunning, "not running"),
            (Seen::Dead, "dead, killed without a chance to clean up"),
            (Seen::Starting, "starting"),
            (Seen::Silent(3), "running (pid 3), but its status file cannot be read"),
            (Seen::Unknown("no".to_owned()), "no"),
            (seen(|s| s.servers.clear()), "ready (pid 1, 0 servers)"),
        ];
        for (new, line) in &all {
            assert_eq!(changes(None, new), [*line]);
            for (old, _) in &all {
                let wanted = if old == new { vec![] } else { vec![*line] };
                assert_eq!(changes(Some(old), new), wanted);
            }
        }
    }
}
