//! `mcpdaemon --connect`: an MCP server on standard input and output that is a running instance, for clients that know no other
//! way. A small program of its own: no runtime, one thread that waits in poll(2).
//!
//! [`target`] finds the instance, [`start`] starts it where that is wanted, [`link`] is the WebSocket to it, [`output`]
//! the client's side, and [`pass`] lets messages through. What has to be remembered for a connection that is made anew is
//! in [`crate::model::relay`].

mod link;
mod output;
mod pass;
mod start;
mod target;

use std::path::Path;

use crate::cli;
use crate::model::exit::{Exit, Failure, plain};
use start::Starter;
use target::Target;

/// How a client gets to an instance, or to a server of it.
pub(crate) struct Reachable {
    /// Over Streamable HTTP. None where it does not run, or listens on Unix sockets alone.
    pub url: Option<String>,
    /// By `--connect`.
    pub command: Vec<String>,
    /// It asks for a token.
    pub token: bool,
}

/// How a client gets to NAME or NAME/SERVER, which has to run, or to be one that `--start` can start.
pub(crate) fn reach(wanted: &str, args: &cli::Daemon, cwd: &Path) -> Result<Reachable, Failure> {
    let token_file = args.token_file.as_deref().map(|file| cwd.join(file));
    let target = Target::new(wanted, args.run_dir.as_deref(), token_file.clone())?;
    let starter = match &target.place {
        target::Place::Url(_) => {
            let why = "mcpdaemon: --export is for an instance on this host: name it in place of a URL";
            return Err(Failure::new(Exit::Usage, why));
        }
        target::Place::Instance { name, .. } if args.start => Some(Starter::new(name, args, cwd)?),
        target::Place::Instance { .. } => None,
    };
    let (url, token) = match target.url() {
        Ok(found) => found,
        Err(_) if starter.is_some() => (None, false),
        Err(failure) => return Err(failure),
    };
    let program =
        std::env::current_exe().map_err(|e| Failure::new(Exit::Os, format!("mcpdaemon: who am I? {}", plain(&e))))?;
    let mut command = vec![program.display().to_string(), "--connect".to_owned(), wanted.to_owned()];
    let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_owned()));
    if let Some(dir) = &args.run_dir {
        add(&["--run-dir", &cwd.join(dir).display().to_string()]);
    }
    if let Some(starter) = &starter {
        add(&["--start", "-c", &starter.file.display().to_string()]);
    }
    match &token_file {
        Some(file) => add(&["--token-file", &file.display().to_string()]),
        None if token => add(&["--token-file", "TOKEN-FILE"]),
        None => {}
    }
    Ok(Reachable { url, command, token })
}

/// Passes messages between standard input and output and what `--connect` names, until the end of input.
///
/// # Errors
/// The instance is not there, or lets nobody in, before anything was passed.
pub(crate) fn run(wanted: &str, args: &cli::Daemon, cwd: &Path) -> Result<Exit, Failure> {
    let target = Target::new(wanted, args.run_dir.as_deref(), args.token_file.as_deref().map(|file| cwd.join(file)))?;
    let starter = match (&target.place, args.start) {
        (_, false) => None,
        (target::Place::Instance { name, .. }, true) => Some(Starter::new(name, args, cwd)?),
        (target::Place::Url(_), true) => {
            let why = "mcpdaemon: --start starts an instance on this host: name it in place of a URL";
            return Err(Failure::new(Exit::Usage, why));
        }
    };
    pass::run(&target, starter.as_ref())
}
