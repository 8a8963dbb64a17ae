//! `mcpctl list`: one line per instance.

use serde::Serialize;

use super::place::{Age, Found, Place, complain, refresh_all, say};
use super::report::whole;
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
    /// `dead` where a PID file is left from a killed daemon, `unknown` where something cannot be read, or the daemon does
    /// not answer.
    state: String,
    servers: usize,
    listen: Vec<String>,
    config: Option<String>,
}

pub(super) fn run(place: &Place, args: &List) -> Result<Exit, Failure> {
    let (mut rows, mut worst) = (Vec::new(), Exit::Ok);
    let names = place.names()?;
    let mut all: Vec<Result<Found, Failure>> = names.iter().map(|name| place.find(name)).collect();
    refresh_all(&mut all);
    for (name, found) in names.into_iter().zip(all) {
        let found = match found {
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
            (_, Some(status)) if found.age != Age::Silent => status.state.to_string(),
            (Probe::Running(..), _) => {
                worst = Exit::Unknown;
                "unknown".to_owned()
            }
            (_, _) => "unknown".to_owned(),
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
        let text = serde_json::to_string_pretty(&whole(&rows));
        say(&text.unwrap_or_default());
        return Ok(worst);
    }
    if rows.is_empty() {
        say(&format!("no instances in {}", place.dir.display()));
        return Ok(worst);
    }
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(4);
    let listen = |row: &Row| if row.listen.is_empty() { "-".to_owned() } else { row.listen.join(", ") };
    let wide = rows.iter().map(|row| listen(row).chars().count()).max().unwrap_or(0).max(10);
    say(&format!(
        "{:width$}  {:>8}  {:9}  {:>7}  {:wide$}  {}",
        "NAME", "PID", "STATE", "SERVERS", "LISTENS ON", "CONFIG"
    ));
    for row in rows {
        let pid = row.pid.map_or("-".to_owned(), |p| p.to_string());
        let (listen, config) = (listen(&row), row.config.as_deref().unwrap_or("-"));
        let line =
            format!("{:width$}  {pid:>8}  {:9}  {:>7}  {listen:wide$}  {config}", row.name, row.state, row.servers);
        say(&line);
    }
    Ok(worst)
}
