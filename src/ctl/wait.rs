//! `mcpctl wait`: waits until an instance, or one server of it, is ready.

use std::time::{Duration, Instant};

use super::place::{Age, Found, Place, complain, each, say, server_of};
use crate::cli;
use crate::model::exit::{Exit, Failure};
use crate::model::status::{InstanceState, ServerState, Status};
use crate::model::text::duration;
use crate::sys::pidfile::Probe;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is said what for.
const WORD: Duration = Duration::from_secs(5);

pub(super) fn run(place: &Place, args: &cli::Wait) -> Result<Exit, Failure> {
    if args.names.is_empty() {
        let text = "mcpctl wait: for which instance? Give its name, or NAME/SERVER ('mcpctl list' shows them)";
        return Err(Failure::new(Exit::CtlUsage, text));
    }
    let until = Instant::now() + args.timeout;
    Ok(each(&args.names, |name| wait(place, name, until, args.timeout)))
}

fn wait(place: &Place, wanted: &str, until: Instant, limit: Duration) -> Result<(), Failure> {
    let (name, server) = match wanted.split_once('/') {
        Some((name, server)) => (name, Some(server)),
        None => (wanted, None),
    };
    let mut told = Instant::now();
    loop {
        let mut found = place.find(name)?;
        let mut missing = missing(&found, server)?;
        if missing.is_none() {
            // What the file says may be of a daemon that hangs.
            found.refresh();
            missing = self::missing(&found, server)?;
        }
        match missing {
            None => {
                say(&format!("{wanted}: ready"));
                return Ok(());
            }
            Some(why) if Instant::now() >= until => {
                let text = format!("{wanted}: not ready after {}: {why}", duration(limit));
                return Err(Failure::new(Exit::Failed, text));
            }
            Some(why) => {
                if told.elapsed() >= WORD {
                    told = Instant::now();
                    complain(&format!("{wanted}: still waiting: {why}"));
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// What is missing for it to be ready. An error says that it will never be.
fn missing(found: &Found, server: Option<&str>) -> Result<Option<String>, Failure> {
    let status = match (&found.probe, &found.status) {
        (Probe::Absent, _) => return Ok(Some(format!("it does not run{}", found.meant().unwrap_or_default()))),
        (Probe::Stale, _) => return Ok(Some("it does not run".to_owned())),
        (Probe::Starting, _) => return Ok(Some("it is starting".to_owned())),
        (_, None) => return Ok(Some("its status file cannot be read".to_owned())),
        (_, Some(_)) if found.age == Age::Silent => {
            return Ok(Some(format!("it does not answer: {}", found.silence())));
        }
        (_, Some(status)) => status,
    };
    match server {
        None if status.state == InstanceState::Ready => Ok(None),
        None => Ok(Some(why_not(status))),
        Some(wanted) => match server_of(&status.name, wanted, status)? {
            s if matches!(s.state, ServerState::Ready | ServerState::Idle) => Ok(None),
            s => Ok(Some(in_words(s.state, s.reason.as_deref()))),
        },
    }
}

fn why_not(status: &Status) -> String {
    let troubled =
        |s: &&crate::model::status::Server| s.required && !matches!(s.state, ServerState::Ready | ServerState::Idle);
    let servers: Vec<String> = status
        .servers
        .iter()
        .filter(troubled)
        .map(|s| format!("server '{}' is {}", s.name, in_words(s.state, s.reason.as_deref())))
        .collect();
    match servers.is_empty() {
        true => format!("it is {}", status.state),
        false => servers.join("; "),
    }
}

fn in_words(state: ServerState, reason: Option<&str>) -> String {
    reason.map_or(state.to_string(), |why| format!("{state}: {why}"))
}
