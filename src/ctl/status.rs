//! `mcpctl status`: what an instance says of itself, with the exit codes of LSB.

use super::place::{Place, complain, say};
use super::report::{describe, document, exit};
use super::watch;
use crate::cli;
use crate::model::exit::{Exit, Failure};

pub(super) fn run(place: &Place, args: &cli::Status) -> Result<Exit, Failure> {
    let names = if args.names.is_empty() { place.names()? } else { args.names.clone() };
    if names.is_empty() && !args.json {
        say(&format!("no instances in {}", place.dir.display()));
    }
    if args.watch && !names.is_empty() {
        return watch::run(place, args);
    }
    let mut worst = if names.is_empty() { Exit::NotRunning } else { Exit::Ok };
    let mut documents = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let mut found = place.find(name);
        match &mut found {
            Ok(found) => found.refresh(),
            Err(failure) if failure.exit == Exit::CtlUsage => return Err(failure.clone()),
            Err(failure) => complain(&failure.text),
        }
        let exit = exit(&found);
        if exit.code() > worst.code() {
            worst = exit;
        }
        match &found {
            _ if args.json => documents.push(document(name, &found)),
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
        let text = serde_json::to_string_pretty(&serde_json::json!({ "instances": documents }));
        say(&text.unwrap_or_default());
    }
    Ok(worst)
}
