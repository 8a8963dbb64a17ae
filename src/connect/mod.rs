//! `mcpdaemon --connect`: an MCP server on standard input and output that is a running instance, for clients that know no other
//! way. A small program of its own: no runtime, one thread that waits in poll(2). What a URL names is reached by the client of
//! [`crate::remote`], which has its threads.
//!
//! [`target`] finds the instance, [`start`] starts it where that is wanted, [`link`] is the WebSocket to it, [`output`]
//! the client's side, and [`pass`] lets messages through. What has to be remembered for a connection that is made anew is
//! in [`crate::model::relay`].

mod lines;
mod link;
mod output;
mod pass;
mod start;
mod target;

use std::path::Path;

use crate::cli;
use crate::model::exit::{Exit, Failure};
use crate::source::Source;
use crate::sys::paths;
use start::Starter;
use target::{Missing, Target};

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
    if let target::Place::Url(_) = &target.place {
        let why = "mcpdaemon: --export is for an instance on this host: name it in place of a URL";
        return Err(Failure::new(Exit::Usage, why));
    }
    let starter = starter(&target, args, cwd)?;
    let (url, token) = match (target.url(), &starter) {
        (Ok(found), _) => found,
        // It would be started.
        (Err(Missing::Absent(_)), Some(starter)) => (None, asks_for_token(&starter.file, cwd)),
        (Err(missing), _) => return Err(missing.into()),
    };
    let program = start::program()?;
    let mut command = vec![program.display().to_string(), "--connect".to_owned(), wanted.to_owned()];
    let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_owned()));
    // The client has other variables.
    let dir = args.run_dir.clone().or_else(|| std::env::var_os("MCP_RUN_DIR").map(|_| paths::run_dir()));
    if let Some(dir) = dir {
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

/// Whether an instance from this file will ask for a token; false where the file cannot be read, which its start will say.
fn asks_for_token(file: &Path, cwd: &Path) -> bool {
    let args = cli::Daemon { config: Some(file.to_owned()), ..cli::Daemon::default() };
    let loaded = Source::new(&args, cwd).load();
    loaded.is_ok_and(|loaded| loaded.config.auth.is_some_and(|auth| auth.takes_tokens()))
}

/// Passes messages between standard input and output and what `--connect` names, until the end of input.
///
/// # Errors
/// The instance is not there, or does not let the client in, before anything was passed.
pub(crate) fn run(wanted: &str, args: &cli::Daemon, cwd: &Path) -> Result<Exit, Failure> {
    let target = Target::new(wanted, args.run_dir.as_deref(), args.token_file.as_deref().map(|file| cwd.join(file)))?;
    let starter = starter(&target, args, cwd)?;
    pass::run(&target, starter.as_ref())
}

/// What starts the instance where it does not run, if that is wanted.
fn starter(target: &Target, args: &cli::Daemon, cwd: &Path) -> Result<Option<Starter>, Failure> {
    match &target.place {
        _ if !args.start => Ok(None),
        target::Place::Instance { name, .. } => Starter::new(name, args, cwd).map(Some),
        target::Place::Url(_) => {
            let why = "mcpdaemon: --start starts an instance on this host: name it in place of a URL";
            Err(Failure::new(Exit::Usage, why))
        }
    }
}
