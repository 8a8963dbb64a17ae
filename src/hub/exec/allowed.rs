//! What may be run: which program with which arguments a request stands for, and for how long.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::model::config::server::{Allow, Exec};
use crate::model::text::printable;
use crate::sys::spawn::find_program;

/// Why a command is not run.
pub(crate) enum Refused {
    NotAllowed(String),
    Invalid(String),
}

/// The arguments of the tool `execute`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    pub command: String,
    #[serde(default, deserialize_with = "none_as_empty")]
    pub args: Vec<String>,
    /// Seconds.
    pub timeout: Option<f64>,
}

/// What is null is not there.
fn none_as_empty<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// No system takes a longer command, with all its arguments (execve(2), E2BIG), in bytes; written as JSON it may be twice
/// as long.
const LONGEST: usize = 4 << 20;

/// Why such parameters are not even read.
pub(crate) fn too_long(params: &str) -> Option<String> {
    let text = || format!("a command is no longer than {} MiB with its arguments", LONGEST >> 20);
    (params.len() > LONGEST).then(text)
}

/// How long a command may run, where a client asks for so many seconds.
pub(crate) fn time_limit(config: &Exec, asked: Option<f64>) -> Result<Duration, String> {
    match asked {
        None => Ok(config.timeout),
        Some(seconds) if seconds > 0.0 => {
            let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            Ok(limit.clamp(Duration::from_millis(1), config.timeout))
        }
        Some(_) => Err("'timeout' is a number of seconds above 0".to_owned()),
    }
}

/// The program and the arguments that a request stands for, if it is allowed.
pub(crate) fn resolve(config: &Exec, asked: &Arguments) -> Result<(PathBuf, Vec<String>), Refused> {
    let command = asked.command.as_str();
    if command.trim().is_empty() {
        return Err(Refused::NotAllowed("'command' is empty".to_owned()));
    }
    if command.contains('\0') || asked.args.iter().any(|a| a.contains('\0')) {
        return Err(Refused::NotAllowed("a NUL character cannot be part of a command".to_owned()));
    }
    if let Some(shell) = &config.shell {
        // The arguments become $1, $2, ... of the command line; $0 is the shell's own name for messages.
        let line = ["-c".to_owned(), command.to_owned(), "sh".to_owned()];
        return Ok((shell.clone(), line.into_iter().chain(asked.args.iter().cloned()).collect()));
    }
    let program = match &config.allow {
        Allow::These(all) => all.get(command).cloned().ok_or_else(|| {
            let names: Vec<&str> = all.keys().map(String::as_str).collect();
            let hint = match command.contains(char::is_whitespace) {
                true => " (arguments go into 'args')",
                false => "",
            };
            let command = printable(command, 100);
            Refused::NotAllowed(format!("Command '{command}' is not allowed{hint}; allowed: {}", names.join(", ")))
        })?,
        Allow::All => {
            let path = config.environment.set.get("PATH").map(String::as_str);
            find_program(command, path).filter(|p| p.is_absolute()).ok_or_else(|| {
                let command = printable(command, 100);
                Refused::Invalid(match command.contains('/') && !command.starts_with('/') {
                    true => format!("'{command}' is no absolute path"),
                    false => format!("'{command}' was not found"),
                })
            })?
        }
    };
    Ok((program, asked.args.clone()))
}
