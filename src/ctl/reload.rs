//! `mcpctl reload`: asks for a reload and reports what came of it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Place, each, running, say, signal};
use crate::cli::Reload;
use crate::model::exit::{Exit, Failure};
use crate::model::status::InstanceState;
use crate::model::text::duration;

pub fn run(place: &Place, args: &Reload) -> Result<Exit, Failure> {
    let names = place.chosen("reload", &args.names, args.all)?;
    Ok(each(&names, |name| match reload(place, name, args.timeout) {
        // With --all, what does not run has nothing to reload.
        Err(failure) if args.all && failure.exit == Exit::CtlNotRunning => Ok(()),
        outcome => outcome,
    }))
}

fn reload(place: &Place, name: &str, timeout: Duration) -> Result<(), Failure> {
    let mut found = place.find(name)?;
    running(&found)?;
    place.refresh(&mut found);
    let unreadable =
        || Failure::new(Exit::Failed, format!("{name}: its status file cannot be read, so the outcome cannot be seen"));
    let before = found.status.as_ref().map(|s| (s.pid, s.reloads, s.state)).ok_or_else(unreadable)?;
    // One that is under way began before the file was edited: ours is the one after it.
    let wanted = before.1 + if before.2 == InstanceState::Reloading { 2 } else { 1 };
    let (pid, handle) = running(&found)?;
    signal(name, pid, handle, Signal::SIGHUP)?;
    let start = Instant::now();
    loop {
        if handle.wait_end(Duration::from_millis(5)).unwrap_or(false) {
            return Err(Failure::new(
                Exit::Failed,
                format!("{name}: it ended during the reload; see 'mcpctl logs {name}'"),
            ));
        }
        let status = place.status(name).filter(|s| s.pid == before.0 && s.reloads >= wanted);
        if let Some(outcome) = status.and_then(|s| s.last_reload) {
            if outcome.ok {
                say(&format!("{name}: reloaded ({})", outcome.text));
                return Ok(());
            }
            let text = outcome.text.replace('\n', "\n    ");
            let text = format!("{name}: reload refused, still running the old configuration: {text}");
            return Err(Failure::new(Exit::Failed, text));
        }
        if start.elapsed() > timeout {
            let text =
                format!("{name}: no outcome of the reload after {}; see 'mcpctl status {name}'", duration(timeout));
            return Err(Failure::new(Exit::Failed, text));
        }
    }
}
