//! `mcpctl list`: one line per instance.

use serde::Serialize;

use super::place::{Place, complain, say};
use crate::cli::List;
use crate::model::exit::{Exit, Failure};
use crate::model::status::InstanceState;
use crate::sys::pidfile::Probe;

#[derive(Serialize)]
struct Row {
    name: String,
    /// None where that cannot be found out.
    running: Option<bool>,
    pid: Option<i32>,
    /// `dead` where a PID file is left from a killed daemon, `unknown` where something cannot be read.
    state: String,
    servers: usize,
    listen: Vec<String>,
    config: Option<String>,
}

pub(super) fn run(place: &Place, args: &List) -> Result<Exit, Failure> {
    let (mut rows, mut worst) = (Vec::new(), Exit::Ok);
    for name in place.names()? {
        let found = match place.find(&name) {
            Ok(found) => found,
            Err(failure) => {
                complain(&failure.text);
                worst = if failure.exit.code() > worst.code() { failure.exit } else { worst };
                let (state, listen) = ("unknown".to_owned(), Vec::new());
                rows.push(Row { name, running: None, pid: None, state, servers: 0, listen, config: None });
                continue;
            }
        };
        let pid = match &found.probe {
            Probe::Running(pid, _) | Probe::Elsewhere(pid) => Some(pid.as_raw()),
            _ => None,
        };
        let state = match (&found.probe, &found.status) {
            (Probe::Absent, _) => continue,
            (Probe::Stale, _) => "dead".to_owned(),
            (Probe::Starting, _) => InstanceState::Starting.to_string(),
            (_, Some(status)) => status.state.to_string(),
            (_, None) => "unknown".to_owned(),
        };
        let status = found.status.filter(|_| !matches!(found.probe, Probe::Stale));
        rows.push(Row {
            name,
            running: Some(!matches!(found.probe, Probe::Stale)),
            pid,
            state,
            servers: status.as_ref().map_or(0, |s| s.servers.len()),
            listen: status.as_ref().map(|s| s.listen.clone()).unwrap_or_default(),
            config: status.and_then(|s| s.config),
        });
    }
    if args.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "instances": rows }));
        say(&text.unwrap_or_default());
        return Ok(worst);
    }
    if rows.is_empty() {
        say(&format!("no instances in {}", place.dir.display()));
        return Ok(worst);
    }
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(4);
    say(&format!("{:width$}  {:>8}  {:9}  {:>7}  {}", "NAME", "PID", "STATE", "SERVERS", "LISTENS ON"));
    for row in rows {
        let pid = row.pid.map_or("-".to_owned(), |p| p.to_string());
        let listen = if row.listen.is_empty() { "-".to_owned() } else { row.listen.join(", ") };
        say(&format!("{:width$}  {pid:>8}  {:9}  {:>7}  {listen}", row.name, row.state, row.servers));
    }
    Ok(worst)
}
