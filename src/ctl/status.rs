//! `mcpctl status`: what an instance says of itself, with the exit codes of LSB.

use super::place::{Found, Place, complain, refresh_all, say};
use super::report::{describe, document, exit, exit_of, in_short, whole};
use super::watch;
use crate::cli;
use crate::model::exit::{Exit, Failure};
use crate::model::status::Level;

pub(super) fn run(place: &Place, args: &cli::Status) -> Result<Exit, Failure> {
    let names = if args.names.is_empty() { place.names()? } else { args.names.clone() };
    if names.is_empty() && !args.json {
        say(&format!("no instances in {}", place.dir.display()));
    }
    if args.watch && !names.is_empty() {
        return watch::run(place, args);
    }
    let mut worst = if names.is_empty() { Exit::NotRunning } else { Exit::Ok };
    let mut all: Vec<Result<Found, Failure>> = names.iter().map(|name| place.find(name)).collect();
    refresh_all(&mut all);
    let mut documents = Vec::new();
    for (i, (name, found)) in names.iter().zip(&all).enumerate() {
        match found {
            Ok(_) => {}
            Err(failure) if failure.exit == Exit::CtlUsage => return Err(failure.clone()),
            Err(failure) => complain(&failure.text),
        }
        let exit = if args.check { well(found) } else { exit(found) };
        if exit.code() > worst.code() {
            worst = exit;
        }
        match found {
            _ if args.json => documents.push(document(name, found)),
            Ok(found) if args.check => drop(say(&in_short(found))),
            Ok(found) => {
                if i > 0 {
                    say("");
                }
                say(&describe(found));
            }
            Err(_) => {}
        }
    }
    if args.json {
        let text = serde_json::to_string_pretty(&whole(&documents));
        say(&text.unwrap_or_default());
    }
    // There is one way not to be well.
    Ok(if args.check && worst != Exit::Ok { Exit::Failed } else { worst })
}

/// Whether an instance serves as it should, or at least so that an administrator has time.
fn well(found: &Result<Found, Failure>) -> Exit {
    let level = |found: &Found| found.status.as_ref().map(|status| status.health.level);
    match found {
        Ok(found) if exit_of(found) == Exit::Ok && level(found).is_some_and(|level| level < Level::Unhealthy) => {
            Exit::Ok
        }
        _ => Exit::Failed,
    }
}
