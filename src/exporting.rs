//! `mcpdaemon --export`: prints what a client's configuration needs for a running instance, or one server of it.

use std::io::Write as _;
use std::path::Path;

use crate::cli;
use crate::connect;
use crate::model::exit::{Exit, Failure, plain};
use crate::model::export::{Client, Reach, VARIABLE};
use crate::model::text::suggest;

/// Prints the entry of `wanted`, NAME or NAME/SERVER, for a client.
pub(crate) fn run(client: &str, wanted: &str, args: &cli::Daemon, cwd: &Path) -> Result<Exit, Failure> {
    let Some(of) = Client::named(client) else {
        let names: Vec<&str> = Client::ALL.iter().map(|(name, _)| *name).collect();
        let near = suggest(client, names.iter().copied()).map(|near| format!(", did you mean '{near}'?"));
        let near = near.unwrap_or_else(|| format!(": one of {}", names.join(", ")));
        return Err(Failure::new(Exit::Usage, format!("mcpdaemon: --export: there is no client '{client}'{near}")));
    };
    let found = connect::reach(wanted, args, cwd)?;
    let name = wanted.rsplit('/').next().unwrap_or(wanted);
    let (reach, token) = match &found.url {
        Some(url) if of.knows_urls() && !args.start => (Reach::Url { url, token: found.token }, found.token),
        _ => (Reach::Command(&found.command), false),
    };
    let text = of.entry(name, reach) + "\n";
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            let why = format!("mcpdaemon: cannot write to standard output: {}", plain(&e));
            return Err(Failure::new(Exit::CannotCreate, why));
        }
        _ => {}
    }
    let mut note = format!("this goes into {}", of.place());
    if token {
        note.push_str(&format!(
            "; the token, which 'mcpdaemon --new-token NAME' makes, goes into the variable {VARIABLE} where the entry names it"
        ));
    } else if found.token && args.token_file.is_none() {
        note.push_str("; TOKEN-FILE stands for the file with the token, which 'mcpdaemon --new-token NAME' makes");
    }
    let _ = writeln!(std::io::stderr(), "{note}");
    Ok(Exit::Ok)
}
