//! `mcpctl`: reads PID and status files and sends signals, nothing else. No socket, no network, no async runtime.
//!
//! It uses [`crate::model`] and [`crate::sys`] alone; a test checks that no runtime is linked in.

mod ask;
mod list;
mod logs;
pub(crate) mod place;
mod report;
mod status;
mod stop;
mod wait;
mod watch;

use std::process::ExitCode;

use crate::cli::{self, Ctl, Parsed, Verb};
use crate::model::exit::{Exit, Failure};
use crate::sys::paths;
use place::{Place, complain, is_unsaid, say};

/// `mcpctl`, with its arguments.
pub fn main(args: Vec<String>) -> ExitCode {
    let exit = match run(args) {
        Ok(exit) => exit,
        Err(failure) => {
            complain(&failure.text);
            failure.exit
        }
    };
    match (exit, is_unsaid()) {
        (Exit::Ok, true) => Exit::Failed.into(),
        (exit, _) => exit.into(),
    }
}

fn run(args: Vec<String>) -> Result<Exit, Failure> {
    let args = match cli::parse::<Ctl>("mcpctl", args, Exit::CtlUsage)? {
        Parsed::Say(help) => {
            say(&help);
            return Ok(Exit::Ok);
        }
        Parsed::Args(args) => args,
    };
    if args.version {
        say(concat!("mcpctl ", env!("CARGO_PKG_VERSION")));
        return Ok(Exit::Ok);
    }
    let dir = args.run_dir.unwrap_or_else(paths::run_dir);
    // By its one real name, which is part of the mark of all children.
    let place = Place::new(dir.canonicalize().unwrap_or(dir));
    match args.verb {
        None => Err(Failure::new(
            Exit::CtlUsage,
            "mcpctl: what shall it do? One of: list, status, stop, reload, restart, wait, logs\nTry 'mcpctl --help', or man mcpctl.",
        )),
        Some(Verb::List(args)) => list::run(&place, &args),
        Some(Verb::Status(args)) => status::run(&place, &args),
        Some(Verb::Stop(args)) => stop::run(&place, &args),
        Some(Verb::Reload(args)) => ask::reload(&place, &args),
        Some(Verb::Restart(args)) => ask::restart(&place, &args),
        Some(Verb::Wait(args)) => wait::run(&place, &args),
        Some(Verb::Logs(args)) => logs::run(&place, &args),
    }
}
