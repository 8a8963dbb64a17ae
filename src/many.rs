//! `-c DIRECTORY`: every instance file in it, each by a program of its own.
//!
//! All are started side by side and reported in order, a line each. Nothing here knows what an instance is.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli;
use crate::model::exit::{Exit, Failure, plain};
use crate::source::ron_files;
use crate::sys::reexec::Program;

/// Does for each file what was asked for. The status is the worst there was; that an instance runs already is the least of
/// what can be wrong.
pub(crate) fn run(dir: &Path, args: &cli::Daemon) -> Result<Exit, Failure> {
    let usage = |what: &str| Failure::new(Exit::Usage, format!("mcpdaemon: {what} is for one instance: give -c FILE"));
    let single = [
        (args.foreground, "-f"),
        (args.name.is_some(), "--name"),
        (!args.listen.is_empty(), "--listen"),
        (args.notify_fd.is_some(), "--notify-fd"),
    ];
    if let Some((_, flag)) = single.into_iter().find(|(given, _)| *given) {
        return Err(usage(flag));
    }
    let files = ron_files(dir).map_err(|e| Failure::io(Exit::Config, "read the folder", dir, &e))?;
    if files.is_empty() {
        let text = format!("{}: there is no instance file (*.ron) in this folder", dir.display());
        return Err(Failure::new(Exit::Config, text));
    }
    // By its name, so that an upgrade finds what is installed then.
    let program = Program::this()
        .map(|program| program.path)
        .map_err(|e| Failure::new(Exit::Os, format!("cannot find the program itself: {}", plain(&e))))?;
    let started: Vec<_> = files.iter().map(|file| command(&program, file, args).spawn()).collect();
    let mut worst = Exit::Ok;
    for (file, child) in files.iter().zip(started) {
        let exit = match child.and_then(std::process::Child::wait_with_output) {
            Ok(out) => {
                let _ = std::io::stdout().write_all(&out.stdout);
                let _ = std::io::stderr().write_all(&out.stderr);
                let code = out.status.code().and_then(|c| u8::try_from(c).ok());
                code.and_then(Exit::from_code).unwrap_or(Exit::Software)
            }
            Err(e) => {
                let _ = writeln!(std::io::stderr(), "{}: cannot be started: {}", file.display(), plain(&e));
                Exit::Os
            }
        };
        let rank = |exit: Exit| (exit != Exit::Ok, exit != Exit::AlreadyRunning, exit.code());
        worst = if rank(exit) > rank(worst) { exit } else { worst };
    }
    Ok(worst)
}

fn command(program: &Path, file: &PathBuf, args: &cli::Daemon) -> Command {
    let mut command = Command::new(program);
    command.arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !(args.test || args.dump || args.cleanup) {
        // What a start waits for is to be read while it waits.
        command.stderr(Stdio::inherit());
    }
    let switches =
        [(args.test, "--test"), (args.dump, "--dump"), (args.allow_root, "--allow-root"), (args.cleanup, "--cleanup")];
    command.args(switches.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag));
    if let Some(dir) = &args.run_dir {
        command.arg("--run-dir").arg(dir);
    }
    if let Some(level) = &args.log_level {
        command.arg("--log-level").arg(level);
    }
    command
}
