//! `mcpctl reload` and `mcpctl restart`: ask a daemon for something and report what came of it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::logs;
use super::place::{Age, Found, Place, each, queue, running, say, server_of, signal};
use crate::cli;
use crate::model::exit::{Exit, Failure};
use crate::model::last_words::first_of;
use crate::model::logline;
use crate::model::status::{InstanceState, Status};
use crate::model::text::duration;

/// What is asked for.
struct Wish {
    verb: &'static str,
    signal: Signal,
    /// Of one server alone.
    server: Option<String>,
    /// How often it was asked for so far.
    count: fn(&Status) -> u64,
    /// What came of it: whether it was done, and the daemon's word.
    outcome: fn(Status) -> Option<(bool, String)>,
    done: &'static str,
    refused: &'static str,
}

pub(super) fn reload(place: &Place, args: &cli::Reload) -> Result<Exit, Failure> {
    let wish = Wish {
        verb: "reload",
        signal: Signal::SIGHUP,
        server: None,
        count: |s| s.reloads,
        outcome: |s| s.last_reload.map(|r| (r.ok, r.text)),
        done: "reloaded",
        refused: "reload refused, still running the old configuration",
    };
    run(place, &wish, &args.names, args.all, args.timeout)
}

pub(super) fn restart(place: &Place, args: &cli::Restart) -> Result<Exit, Failure> {
    if let Some(server) = &args.server {
        if args.all || args.names.len() != 1 {
            let text = "mcpctl restart: --server needs the name of the one instance that has it";
            return Err(Failure::new(Exit::CtlUsage, text));
        }
        let wish = Wish {
            verb: "restart",
            signal: Signal::SIGUSR2,
            server: Some(server.clone()),
            count: |s| s.restarts,
            outcome: |s| s.last_restart.map(|r| (r.ok, r.text)),
            done: "restarted",
            refused: "not restarted, it is left as it was",
        };
        return run(place, &wish, &args.names, false, args.timeout);
    }
    let wish = Wish {
        verb: "restart",
        signal: Signal::SIGUSR2,
        server: None,
        count: |s| s.upgrades,
        outcome: |s| s.last_upgrade.map(|u| (u.ok, u.text)),
        done: "restarted in place",
        refused: "not restarted, the old program goes on",
    };
    run(place, &wish, &args.names, args.all, args.timeout)
}

fn run(place: &Place, wish: &Wish, names: &[String], all: bool, timeout: Duration) -> Result<Exit, Failure> {
    let names = place.chosen(wish.verb, names, all)?;
    Ok(each(&names, |name| match ask(place, wish, name, timeout) {
        // With --all, what does not run has nothing to do.
        Err(failure) if all && failure.exit == Exit::CtlNotRunning => Ok(()),
        outcome => outcome,
    }))
}

/// A reason of a refusal, with what the child of the server that it names said last, where the log may be read.
fn with_words(found: &Found, why: &str) -> String {
    let words = logline::server(why).0.and_then(|server| {
        let log = logs::recent(found)?;
        logline::last_words(log.lines(), server)
    });
    words.map_or_else(|| why.to_owned(), |words| format!("{why}; {}{}", logline::LAST_WORDS, first_of(&words)))
}

/// The serial of a server. A daemon that knows none would be ended by the signal.
fn serial(name: &str, server: &str, status: &Status) -> Result<u32, Failure> {
    match server_of(name, server, status)?.serial {
        0 => {
            let text = format!("{name}: this daemon is of a version that cannot restart one server");
            Err(Failure::new(Exit::Failed, text))
        }
        serial => Ok(serial),
    }
}

fn ask(place: &Place, wish: &Wish, name: &str, timeout: Duration) -> Result<(), Failure> {
    let verb = wish.verb;
    let mut found = place.find(name)?;
    running(&found)?;
    found.refresh();
    let unreadable =
        || Failure::new(Exit::Failed, format!("{name}: its status file cannot be read, so the outcome cannot be seen"));
    let before = found.status.as_ref().ok_or_else(unreadable)?;
    // A reload that is under way began before the file was edited: ours is the one after it.
    let busy = wish.signal == Signal::SIGHUP && before.state == InstanceState::Reloading;
    let (process, wanted) = (before.pid, (wish.count)(before) + if busy { 2 } else { 1 });
    let (pid, handle) = running(&found)?;
    match &wish.server {
        None => signal(name, pid, handle, wish.signal)?,
        Some(server) => queue(name, pid, handle, serial(name, server, before)?)?,
    }
    let start = Instant::now();
    loop {
        if handle.wait_end(Duration::from_millis(5)).unwrap_or(false) {
            let text = format!("{name}: it ended during the {verb}; see 'mcpctl logs {name}'");
            return Err(Failure::new(Exit::Failed, text));
        }
        let status = found.place.status(name).filter(|s| s.pid == process && (wish.count)(s) >= wanted);
        match status.and_then(wish.outcome) {
            Some((true, text)) => {
                say(&format!("{name}: {} ({text})", wish.done));
                return Ok(());
            }
            Some((false, text)) => {
                let why: Vec<String> = text.lines().map(|line| with_words(&found, line)).collect();
                let text = format!("{name}: {}: {}", wish.refused, why.join("\n    "));
                return Err(Failure::new(Exit::Failed, text));
            }
            None if start.elapsed() > timeout => {
                let time = duration(timeout);
                found.refresh();
                let why = match found.age {
                    Age::Silent => format!("it does not answer: {}", found.silence()),
                    _ => format!("see 'mcpctl status {name}'"),
                };
                let text = format!("{name}: no outcome of the {verb} after {time}; {why}");
                return Err(Failure::new(Exit::Failed, text));
            }
            // Not as fast as possible: it may take a minute.
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
