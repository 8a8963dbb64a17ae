//! The command of `on_event`, which tells an administrator what has happened.
//!
//! The command is run for one event after the other, with a limit of time and of what waits; nothing ever waits for it.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use async_io::Async;
use futures_lite::{AsyncWriteExt, FutureExt};
use log::{debug, info, warn};
use nix::sys::signal::Signal;

use super::context::Context;
use crate::model::config::{Confine, EventCommand};
use crate::model::event::Event;
use crate::model::exit::plain;
use crate::model::restart::Ended;
use crate::model::text::printable;
use crate::rt::lines::{Line, Lines};
use crate::rt::process::{environment, exit_text, sweep_and_reap, wait_for_end};
use crate::rt::wait::timeout;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::{Spec, Started, end_unwatched, signal_group};

/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs the command for each event, for as long as the daemon lives.
pub(crate) async fn run(ctx: Arc<Context>) {
    while let Some(event) = ctx.next_event().await {
        if let Some(command) = ctx.config().on_event.clone() {
            run_command(&ctx, &command, &event).await;
        }
    }
}

async fn run_command(ctx: &Context, command: &EventCommand, event: &Event) {
    let mark = ctx.next_mark();
    let none = std::collections::BTreeMap::new();
    let mut env = environment(&[], none.iter(), None, &mark);
    for (name, value) in [
        ("MCP_EVENT", Some(event.event)),
        ("MCP_INSTANCE", Some(&event.instance)),
        ("MCP_SERVER", event.server.as_deref()),
    ] {
        env.extend(value.map(|v| (name.into(), v.into())));
    }
    let spec = Spec {
        program: command.program.clone(),
        args: command.args.clone(),
        env,
        cwd: None,
        stdin: true,
        umask: ctx.config().umask.0,
        nofile: ctx.boot.nofile,
        confine: Confine::default(),
    };
    let name = command.program.display();
    let started = match ctx.boot.spawner.spawn(spec).await {
        Ok(started) => started,
        Err(e) => return warn!("on_event: cannot start {name}: {}", plain(&e)),
    };
    debug!("on_event: {name} is run for '{}'", event.event);
    let pid = started.pid;
    let mut pipes = match Pipes::of(started) {
        Ok(pipes) => pipes,
        Err(e) => {
            end_unwatched(pid);
            return warn!("on_event: {name}: cannot talk with its pipes: {}", plain(&e));
        }
    };
    let text = serde_json::to_string(event).unwrap_or_default() + "\n";
    match timeout(LIMIT, pipes.talk(text)).await {
        Some(Ended::Exited(0)) => {}
        Some(Ended::Exited(code)) => warn!("on_event: {name} ended with status {code} for '{}'", event.event),
        Some(Ended::NotReady) => warn!("on_event: {name}: its end could not be seen"),
        Some(how) => warn!("on_event: {name}: {}", exit_text(how)),
        None => {
            warn!("on_event: {name} took longer than {} s for '{}' and is ended", LIMIT.as_secs(), event.event);
            signal_group(pid, Signal::SIGKILL);
        }
    }
    sweep_and_reap(pid, &pipes.handle, &mark).await;
}

/// Our ends of the command's pipes, and its process.
struct Pipes {
    stdin: Option<Async<File>>,
    stdout: Async<File>,
    stderr: Async<File>,
    handle: Async<PidFd>,
}

impl Pipes {
    fn of(started: Started) -> std::io::Result<Pipes> {
        let open = |fd| Async::new(File::from(fd));
        Ok(Pipes {
            handle: Async::new(started.handle)?,
            stdin: started.stdin.map(open).transpose()?,
            stdout: open(started.stdout)?,
            stderr: open(started.stderr)?,
        })
    }

    /// Hands the event over, logs what the command says, and waits for its end.
    async fn talk(&mut self, text: String) -> Ended {
        let stdin = self.stdin.take();
        let hand_over = async {
            if let Some(mut stdin) = stdin {
                // It need not care.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
            std::future::pending::<()>().await;
        };
        let ended = async {
            let _ = self.handle.readable().await;
        };
        ended.or(hand_over).or(repeat(&self.stdout)).or(repeat(&self.stderr)).await;
        wait_for_end(&self.handle).await
    }
}

/// Repeats what the command says in the log.
async fn repeat(pipe: &Async<File>) {
    let mut input = Lines::new(4 << 10);
    while matches!(input.fill(pipe).await, Ok(n) if n > 0) {
        while let Some(line) = input.take() {
            if let Line::Whole(bytes) = line {
                info!("[on_event] {}", printable(&String::from_utf8_lossy(bytes), 1000));
            }
        }
    }
    std::future::pending::<()>().await;
}
