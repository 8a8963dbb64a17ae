//! The page at `/`: what an administrator wants to see at a glance.
//!
//! It is whole without a script: tables and plots are made here, and a browser without scripts asks for it anew by itself.
//! The script refreshes what has changed, filters and pauses. Everything comes with the page, and its policy forbids
//! everything else. Whatever servers and logs say is text here; [`maud`] escapes it. The page must not know where it comes
//! from.

mod plot;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use data_encoding::BASE64;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::model::history::{History, Minute};
use crate::model::logline::Line;
use crate::model::status::{
    InstanceState, Level, Methods, News, Process, Recent, Requests, Server, ServerState, Status,
};
use crate::model::text::{count, printable};
use words::{bytes, clock, millis, number, uptime};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// Without colours, so that it is seen on light and dark.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
                    d='M1 13V8l3-3 3 5 3-7 5 8v2z' fill='%234a7d5f'/%3E%3C/svg%3E";

/// What is shown, at one moment.
pub(crate) struct Shown {
    pub status: Status,
    pub history: History,
    /// The minute that is not over yet.
    pub running: Minute,
    pub news: Vec<News>,
    pub log: Vec<Line>,
    /// The tools of each server, as far as they are known.
    pub tools: HashMap<String, Arc<Vec<String>>>,
}

/// What the page may do: what is in it, and to ask for itself again.
pub(crate) fn policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let hash = |text: &str| BASE64.encode(&Sha256::digest(text.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        )
    })
}

/// The whole document.
pub(crate) fn page(shown: &Shown) -> String {
    let s = &shown.status;
    let hour = shown.history.hour(&shown.running, |minute| Some(minute.all));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (s.name) " is " (s.health.level) " – mcpdaemon" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
                noscript { meta http-equiv="refresh" content="10"; }
            }
            body {
                header #head { (head(s)) }
                nav #tools aria-label="View" hidden {
                    label { "Server " input #filter type="search" placeholder="all" autocomplete="off"; }
                    button #span type="button" aria-pressed="false" { "Last 15 minutes" }
                    button #pause type="button" aria-pressed="false" { "Pause" }
                    span #live role="status" {}
                }
                main {
                    (reasons(s))
                    section #glance aria-label="At a glance" { (glance(s)) }
                    section #hour aria-labelledby="hour-h" {
                        h2 #hour-h { "The last hour" }
                        (plot::plots(&s.name, &hour, true))
                    }
                    section #servers aria-labelledby="servers-h" {
                        h2 #servers-h { "Servers" }
                        (servers(&s.servers, shown))
                    }
                    section #clients aria-labelledby="clients-h" { h2 #clients-h { "Clients" } (clients(s)) }
                    section #events aria-labelledby="events-h" { h2 #events-h { "Events" } (events(&shown.news)) }
                    section #log aria-labelledby="log-h" { h2 #log-h { "Log" } (log(&shown.log)) }
                    section #instance aria-labelledby="instance-h" { h2 #instance-h { "Instance" } (instance(s)) }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// A level in colour, in words, and as a sign.
fn badge(level: Level) -> Markup {
    let (class, sign) = match level {
        Level::Healthy => ("badge good", "✓"),
        Level::Degraded => ("badge fair", "!"),
        Level::Unhealthy => ("badge bad", "✕"),
    };
    html! { span class=(class) { span aria-hidden="true" { (sign) } " " (level) } }
}

fn head(s: &Status) -> Markup {
    html! {
        h1 { (s.name) }
        " " (badge(s.health.level))
        p {
            span.state { (state(s.state)) } ", up " (uptime(s.uptime_seconds)) ", mcpdaemon " (s.version) ", pid " (s.pid)
            ". " span.as-of { "As of " time datetime=(s.written) { (clock(&s.written)) } " UTC" span.local {} "." }
        }
    }
}

/// The state in words that are not those of the health.
fn state(state: InstanceState) -> String {
    match state {
        InstanceState::Degraded => "serving, but not all that is required".to_owned(),
        state => state.to_string(),
    }
}

/// What is not well, a line each, with a link to the server it is about.
fn reasons(s: &Status) -> Markup {
    let health = &s.health;
    let class = if health.level == Level::Unhealthy { "bad" } else { "fair" };
    let about = |why: &str| {
        let name = s.servers.iter().map(|v| &v.name).find(|name| why.starts_with(&format!("server '{name}': ")))?;
        Some((name.clone(), format!("server '{name}'")))
    };
    html! {
        section #reasons aria-label="Why it is not healthy" hidden[health.reasons.is_empty()] {
            ul class=(class) {
                @for why in &health.reasons {
                    @match about(why) {
                        Some((name, said)) => li { a href=(format!("#server-{name}")) { (said) } (why[said.len()..]) }
                        None => li { (why) }
                    }
                }
            }
        }
    }
}

/// Who is connected.
fn clients(s: &Status) -> Markup {
    html! {
        @if s.clients.is_empty() { p.note { "Nobody has a session." } }
        @else {
            div.wide tabindex="0" role="region" aria-label="Who is connected" {
                table {
                    thead { tr { @for name in ["Client", "Principal", "Server", "Sessions"] { th scope="col" { (name) } } } }
                    tbody {
                        @for c in &s.clients {
                            tr {
                                th scope="row" { (if c.name.is_empty() { "(no name)" } else { &c.name }) }
                                td { (c.principal.as_deref().unwrap_or("-")) }
                                td { (c.server.as_deref().unwrap_or("all as one")) }
                                td { (number(c.sessions)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn tile(what: &str, value: &str, more: &str) -> Markup {
    html! { div.tile { dt { (what) } dd { b { (value) } " " span { (more) } } } }
}

fn glance(s: &Status) -> Markup {
    let (r, recent) = (&s.requests, &s.requests.recent);
    let ready = s.servers.iter().filter(|v| matches!(v.state, ServerState::Ready | ServerState::Idle)).count();
    let children: u64 = s.servers.iter().map(|v| v.process.memory_bytes).sum();
    html! {
        dl.tiles {
            (tile("Servers ready", &format!("{ready} of {}", s.servers.len()), ""))
            (tile("Requests", &number(r.per_minute), &format!("in the last minute, {} in all", number(r.total))))
            (tile("Failed", &failed(recent), &format!("in 5 min, {} in all", number(r.errors))))
            (tile("p95", &millis(recent.p95_ms), &format!("in 5 min, p50 {}", millis(recent.p50_ms))))
            (tile("In flight", &number(r.in_flight), "requests"))
            (tile("Sessions", &number(s.sessions), &format!("on {}", count(s.connections as usize, "connection"))))
            (tile("Memory", &bytes(s.process.memory_bytes + children), &format!("the daemon {}", bytes(s.process.memory_bytes))))
            (tile("Open files", &number(s.process.open_files), &count(s.process.threads as usize, "thread")))
        }
    }
}

/// The share that failed; `-` where there was none to fail.
fn failed(recent: &Recent) -> String {
    if recent.total == 0 { "-".to_owned() } else { format!("{:.1} %", recent.error_rate * 100.0) }
}

/// A cell that says by itself what it is, for narrow screens.
fn cell(label: &str, inside: Markup) -> Markup {
    html! { td data-label=(label) { (inside) } }
}

/// How many tools of a server are named.
const TOOLS: usize = 100;

/// How many columns the table of servers has.
const COLUMNS: usize = 9;

fn servers(all: &[Server], shown: &Shown) -> Markup {
    html! {
        table.servers {
            caption.unseen { "The servers of the instance" }
            thead {
                tr {
                    @for name in ["Server", "Health", "State", "Sessions", "Requests", "Failed", "p95", "Restarts", "Memory"] {
                        th scope="col" { (name) }
                    }
                }
            }
            tbody {
                @for v in all {
                    @let recent = &v.requests.recent;
                    tr data-server=(v.name) {
                        th scope="row" { a href=(format!("#server-{}", v.name)) { (v.name) } }
                        (cell("Health", badge(v.health.level)))
                        (cell("State", html! {
                            (v.state)
                            @if let Some(why) = v.health.reasons.first().or(v.reason.as_ref()) { div.reason { (why) } }
                        }))
                        (cell("Sessions", html! { (number(v.sessions)) }))
                        (cell("Requests", html! { (number(v.requests.total)) }))
                        (cell("Failed", html! { (failed(recent)) }))
                        (cell("p95", html! { (millis(recent.p95_ms)) }))
                        (cell("Restarts", html! { (number(v.restarts)) }))
                        (cell("Memory", html! { @if v.process.processes > 0 { (bytes(v.process.memory_bytes)) } @else { "-" } }))
                    }
                    tr.more data-server=(v.name) { td colspan=(COLUMNS) { (details(v, shown)) } }
                }
            }
        }
        p.note { "Failed and p95 are of the last five minutes." }
    }
}

fn details(v: &Server, shown: &Shown) -> Markup {
    let hour = shown.history.hour(&shown.running, |minute| minute.servers.get(&v.name).copied());
    html! {
        details id=(format!("server-{}", v.name)) {
            summary {
                span.unseen { (v.name) ": " }
                span.note { (v.kind) @if let Some(info) = &v.server_info { ", " (info) } }
                @if let Some(url) = &v.url { " " code { (url) } }
            }
            @if v.health.reasons.len() > 1 {
                ul.why { @for why in &v.health.reasons[1..] { li { (why) } } }
            }
            @if !v.left_out.is_empty() {
                ul.why { @for what in &v.left_out { li { "Not on the bridge: " (what) } } }
            }
            (plot::plots(&v.name, &hour, false))
            (pairs(&server_facts(v, shown.tools.get(&v.name))))
            @if !v.methods.is_empty() { (methods(&v.methods)) }
        }
    }
}

fn server_facts(v: &Server, tools: Option<&Arc<Vec<String>>>) -> Vec<(&'static str, String)> {
    let pids: Vec<String> = v.pids.iter().map(ToString::to_string).collect();
    let mut facts = vec![
        ("Required", if v.required { "yes" } else { "no" }.to_owned()),
        ("Processes", with(pids.join(", "), &processes(&v.process))),
        ("Started", v.process.started.as_deref().map_or("-".to_owned(), |at| format!("{} UTC", clock(at)))),
        ("Processor time", format!("{:.1} s", v.process.cpu_seconds)),
        ("Requests", summary(&v.requests)),
        ("Tools", tools.map_or("-".to_owned(), |names| listed(names))),
    ];
    if v.children.wanted > 1 {
        facts.push(("Children", format!("{} of {} ready", v.children.ready, v.children.wanted)));
    }
    facts.extend(v.protocol.clone().map(|p| ("Protocol", p)));
    facts.extend(v.last_exit.clone().map(|how| ("Last child", how)));
    facts
}

/// How many tools there are, and the names of the first.
fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut first: Vec<String> = names.iter().take(TOOLS).map(|name| printable(name, 64)).collect();
    if names.len() > TOOLS {
        first.push(format!("and {} more", names.len() - TOOLS));
    }
    with(names.len().to_string(), &first.join(", "))
}

/// What there is, with more about it.
fn with(what: String, more: &str) -> String {
    if what.is_empty() { "none".to_owned() } else { format!("{what} ({more})") }
}

fn processes(p: &Process) -> String {
    let each = [(p.processes, "process"), (p.threads, "thread"), (p.open_files, "open file"), (p.sockets, "socket")];
    let state = p.state.map(|state| state.word().to_owned());
    each.map(|(n, what)| count(n as usize, what)).into_iter().chain(state).collect::<Vec<_>>().join(", ")
}

fn summary(r: &Requests) -> String {
    format!(
        "{} in all, {} failed; since the start average {}, p50 {}, p95 {}, p99 {}",
        number(r.total),
        number(r.errors),
        millis(r.average_ms),
        millis(r.p50_ms),
        millis(r.p95_ms),
        millis(r.p99_ms)
    )
}

fn methods(all: &Methods) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Requests by method" {
            table {
                thead {
                    tr {
                        @for name in ["Method", "Requests", "Last minute", "Failed", "Average", "p50", "p95", "p99"] {
                            th scope="col" { (name) }
                        }
                    }
                }
                tbody {
                    @for (name, m) in all {
                        tr {
                            th scope="row" { (name) }
                            td { (number(m.total)) }
                            td { (number(m.per_minute)) }
                            td { (number(m.errors)) }
                            @for ms in [m.average_ms, m.p50_ms, m.p95_ms, m.p99_ms] { td { (millis(ms)) } }
                        }
                    }
                }
            }
        }
    }
}

/// The newest first.
fn events(news: &[News]) -> Markup {
    html! {
        @if news.is_empty() { p.note { "Nothing has happened yet." } }
        ol.lines tabindex="0" {
            @for one in news.iter().rev() {
                li { time datetime=(one.at) { (clock(&one.at)) } " " span { (one.text) } }
            }
        }
    }
}

fn log(lines: &[Line]) -> Markup {
    html! {
        @if lines.is_empty() { p.note { "Nothing was said yet." } }
        ol.lines tabindex="0" {
            @for line in lines.iter().rev() {
                li class=(line.level.to_lowercase()) {
                    time datetime=(line.at) { (clock(&line.at)) } " " b { (line.level) } " " span { (line.text) }
                }
            }
        }
    }
}

fn instance(s: &Status) -> Markup {
    let mut facts = vec![
        ("Listens on", s.listen.join(", ")),
        ("All servers as one", s.url.clone().unwrap_or_else(|| "-".to_owned())),
        ("Configuration", s.config.clone().unwrap_or_else(|| "the command line".to_owned())),
        ("Log", s.log.clone().unwrap_or_else(|| "standard error".to_owned())),
        ("Started", format!("{} UTC", clock(&s.started))),
        ("Requests", summary(&s.requests)),
        ("Processor time", format!("{:.1} s", s.process.cpu_seconds)),
        ("Configurations so far", number(s.generation)),
    ];
    if let Some(reload) = &s.last_reload {
        let word = if reload.ok { "applied" } else { "refused" };
        facts.push(("Last reload", format!("{word} at {} UTC: {}", clock(&reload.at), reload.text)));
    }
    if let Some(upgrade) = &s.last_upgrade {
        let word = if upgrade.ok { "done" } else { "refused" };
        facts.push(("Last upgrade", format!("{word} at {} UTC: {}", clock(&upgrade.at), upgrade.text)));
    }
    if s.state == InstanceState::Draining {
        facts.push(("Waits for", s.waiting_for.join(", ")));
    }
    let dropped: Vec<_> = s.dropped.iter().filter(|(_, n)| **n > 0).map(|(what, n)| format!("{what} {n}")).collect();
    let dropped = if dropped.is_empty() { "nothing".to_owned() } else { dropped.join(", ") };
    facts.push(("Refused or dropped", dropped));
    html! {
        (pairs(&facts))
        p.note {
            "The same for programs: " a href="status" { "status" } " and " a href="metrics" { "metrics" } "."
        }
    }
}

fn pairs(all: &[(&str, String)]) -> Markup {
    html! { dl.pairs { @for (what, is) in all { div { dt { (what) } dd { (is) } } } } }
}

#[cfg(test)]
#[path = "page/tests.rs"]
mod tests;
