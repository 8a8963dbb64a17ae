//! Commands of the configuration that are run once something has happened: with a limit of time, and with what they say in
//! the log.
//!
//! It must not know what has happened.

use std::fs::File;
use std::time::Duration;

use futures_lite::FutureExt;
use log::{debug, info, warn};
use nix::sys::signal::Signal;

use super::context::Context;
use crate::model::config::{Command, Confine, Environment};
use crate::model::exit::plain;
use crate::model::restart::Ended;
use crate::model::text::printable;
use crate::rt::async_fd::AsyncFd;
use crate::rt::lines::{Line, Lines};
use crate::rt::pipe::write_all;
use crate::rt::process::{environment, exit_text, sweep_and_reap, wait_for_end};
use crate::rt::wait::timeout;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::{Spec, Started, end_unwatched, signal_group};

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A command that is to be run.
pub(crate) struct Run<'r> {
    /// What it is called in the log.
    pub label: &'r str,
    /// What it is run for.
    pub reason: &'r str,
    pub command: &'r Command,
    pub environment: &'r Environment,
    /// Variables of ours beside those.
    pub more: Vec<(&'static str, String)>,
    pub confine: &'r Confine,
    /// What it can read from its standard input.
    pub input: String,
}

/// Runs a command and waits for its end.
pub(crate) async fn run(ctx: &Context, what: Run<'_>) {
    let Run { label, reason, command, .. } = what;
    let mark = ctx.next_mark();
    let mut env = environment(what.environment, what.confine.account.as_ref(), &mark).await;
    env.extend(what.more.into_iter().map(|(name, value)| (name.into(), value.into())));
    let spec = Spec {
        program: command.program.clone(),
        args: command.args.clone(),
        env,
        cwd: None,
        stdin: true,
        umask: ctx.config().umask.0,
        nofile: ctx.boot.nofile,
        confine: what.confine.clone(),
    };
    let name = command.program.display();
    let started = match ctx.boot.spawner.spawn(spec).await {
        Ok(started) => started,
        Err(e) => return warn!("{label}: cannot start {name}: {}", plain(&e)),
    };
    debug!("{label}: {name} is run for '{reason}'");
    let pid = started.pid;
    let mut pipes = match Pipes::of(started) {
        Ok(pipes) => pipes,
        Err(e) => {
            end_unwatched(pid);
            return warn!("{label}: {name}: cannot talk with its pipes: {}", plain(&e));
        }
    };
    match timeout(LIMIT, pipes.talk(what.input, label)).await {
        Some(Ended::Exited(0)) => {}
        Some(Ended::Exited(code)) => warn!("{label}: {name} ended with status {code} for '{reason}'"),
        Some(Ended::NotReady) => warn!("{label}: {name}: its end could not be seen"),
        Some(how) => warn!("{label}: {name}: {}", exit_text(how)),
        None => {
            warn!("{label}: {name} took longer than {} s for '{reason}' and is ended", LIMIT.as_secs());
            signal_group(pid, Signal::SIGKILL);
        }
    }
    sweep_and_reap(pid, &pipes.handle, &mark).await;
}

/// Our ends of the command's pipes, and its process.
struct Pipes {
    stdin: Option<AsyncFd<File>>,
    stdout: AsyncFd<File>,
    stderr: AsyncFd<File>,
    handle: AsyncFd<PidFd>,
}

impl Pipes {
    fn of(started: Started) -> std::io::Result<Pipes> {
        let open = |fd| AsyncFd::new(File::from(fd));
        Ok(Pipes {
            handle: AsyncFd::new(started.handle)?,
            stdin: started.stdin.map(open).transpose()?,
            stdout: open(started.stdout)?,
            stderr: open(started.stderr)?,
        })
    }

    /// Hands its input over, logs what the command says, and waits for its end.
    async fn talk(&mut self, text: String, label: &str) -> Ended {
        let stdin = self.stdin.take();
        let hand_over = async {
            if let Some(stdin) = stdin {
                // It need not care.
                let _ = write_all(&stdin, text.as_bytes()).await;
            }
            std::future::pending::<()>().await;
        };
        let ended = async {
            self.handle.readable().await;
        };
        ended.or(hand_over).or(repeat(&self.stdout, label)).or(repeat(&self.stderr, label)).await;
        wait_for_end(&self.handle).await
    }
}

/// Repeats what the command says in the log.
async fn repeat(pipe: &AsyncFd<File>, label: &str) {
    let mut input = Lines::new(4 << 10);
    while matches!(input.fill(pipe).await, Ok(n) if n > 0) {
        while let Some(line) = input.take() {
            if let Line::Whole(bytes) = line {
                info!("[{label}] {}", printable(&String::from_utf8_lossy(bytes), 1000));
            }
        }
    }
    std::future::pending::<()>().await;
}
