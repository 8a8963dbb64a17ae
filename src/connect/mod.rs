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
use crate::model::exit::{Exit, Failure};
use start::Starter;
use target::Target;

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
