//! The end of a child: noticed, brought about, and seen to, so that nothing of it is left.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::rt::async_fd::AsyncFd;
use crate::rt::task::JoinHandle;
use futures_lite::FutureExt;
use log::{debug, info, warn};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::child::{Child, PIPE_GRACE};
use super::far::{Elsewhere, Far};
use crate::hub::command::{Run, run};
use crate::hub::context::Context;
use crate::model::config::server::{Stdio, Stop};
use crate::model::jsonrpc;
use crate::model::restart::Ended;
use crate::rt::process::{sweep_and_reap, wait_for_end};
use crate::rt::wait::{sleep, timeout};
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::signal_group;

/// How long a child that has closed its input or its output may go on without either.
const SPEECHLESS: Duration = Duration::from_secs(1);

/// Waits for the end of a child's process, then sees to it that nothing of it is left and no request waits for it.
pub(crate) async fn wait_and_reap(child: Arc<Child>, handle: AsyncFd<PidFd>, tasks: Vec<JoinHandle<()>>) {
    let Far::Process { pid, mark } = &child.far else { return };
    let pid = *pid;
    let speechless = async {
        // A server may end by closing its output (2026-07-28 basic/transports/stdio); one that only closes it, or
        // its input, is of no use any more. While it is being stopped, the ladder has its own times.
        child.stdout_eof.wait().or(child.stdin_closed.wait()).await;
        sleep(SPEECHLESS).await;
        if child.stopping.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        true
    };
    let ended = async {
        handle.readable().await;
        false
    };
    let Some(speechless) = child.ctx.unless_quiescing(ended.or(speechless)).await else {
        return child.hand_in(|parked| parked.handle = Some(handle));
    };
    if speechless {
        child.speechless.store(true, SeqCst);
        warn!("server '{}' closed its input or output but did not end; it is ended", child.server);
        signal_group(pid, Signal::SIGTERM);
        if timeout(child.config().stop().term, handle.readable()).await.is_none() {
            signal_group(pid, Signal::SIGKILL);
        }
    }
    child.note_end(wait_for_end(&handle).await).await;
    let strays = sweep_and_reap(pid, &handle, mark).await;
    if strays.ended > 0 {
        info!("server '{}': ended {} processes that it left behind", child.server, strays.ended);
    }
    if !strays.left.is_empty() {
        warn!("server '{}': these processes cannot be ended: {:?}", child.server, strays.left);
    }
    if let Some(stdio) = child.config().stdio() {
        run_stop_command(&child.ctx, &child.server, stdio, Some(pid)).await;
    }
    // Its pipes may be held by a process that has left its family.
    for task in tasks {
        task.cancel().await;
    }
    child.reaped.set();
}

/// Waits for the end of a line to what is elsewhere; no request waits for it then.
pub(super) async fn wait_for_far(child: Arc<Child>, far: Arc<dyn Elsewhere>) {
    let how = match far.over().await {
        Some(why) => {
            let _ = child.lost.set(why);
            Ended::Lost
        }
        None => Ended::Closed,
    };
    // Its reader comes to the end of what was said, and its writer to that of the closed queue.
    child.note_end(how).await;
    child.reaped.set();
}

/// Runs what the configuration has for the time after a child's end, for what signals do not reach: a container, say.
pub(crate) async fn run_stop_command(ctx: &Context, server: &str, config: &Stdio, pid: Option<Pid>) {
    let Some(command) = &config.stop.command else { return };
    let mut more = vec![("MCP_INSTANCE", ctx.config().name.clone()), ("MCP_SERVER", server.to_owned())];
    more.extend(pid.map(|pid| ("MCP_CHILD_PID", pid.to_string())));
    let what = Run {
        label: server,
        reason: "stop",
        command,
        environment: &config.environment,
        more,
        confine: &config.confine,
        input: String::new(),
    };
    run(ctx, what).await;
}

impl Child {
    /// The process has ended: those who wait for it are told, once its last words were read.
    pub(super) async fn note_end(&self, how: Ended) {
        let _ = self.ended.set(how);
        self.exited.set();
        self.stdin.close();
        // Its last replies may still be in the pipe, which a grandchild may hold open.
        let drained = async {
            self.stdout_eof.wait().await;
            self.stderr_eof.wait().await;
        };
        timeout(PIPE_GRACE, drained).await;
        let why = format!("server '{}' {}", self.server, self.exit_text());
        if !self.stopping.load(SeqCst) {
            warn!("{why}");
        }
        // What a child of his own says is a client's; what a shared one says may be another client's.
        let why = if self.is_private() { why + &self.last_words() } else { why };
        self.fail_all(jsonrpc::INTERNAL_ERROR, &why);
    }

    /// Ends the line to what is elsewhere, which hears of it if it takes the time that it has.
    async fn hang_up(&self, far: &Arc<dyn Elsewhere>, ladder: &Stop) {
        let cut = async {
            self.ctx.kill_now.wait().await;
            None
        };
        timeout(ladder.stdin, self.exited()).or(cut).await;
        far.cut();
        self.reaped.wait().await;
    }

    /// The first step of [`Child::stop`], without waiting.
    pub(crate) fn stop_soon(&self) {
        self.stopping.store(true, SeqCst);
        self.stdin.close();
    }

    /// The ladder: end of input, SIGTERM to the group, SIGKILL to the group (2025-11-25 basic/lifecycle). Its output
    /// is read all the while, because a full pipe would keep it from ending.
    pub(crate) async fn stop(&self, ladder: &Stop) {
        self.stop_soon();
        let pid = match &self.far {
            Far::Process { pid, .. } => *pid,
            Far::Elsewhere(far) => return self.hang_up(far, ladder).await,
        };
        for (grace, next) in [(ladder.stdin, Signal::SIGTERM), (ladder.term, Signal::SIGKILL)] {
            let cut = async {
                self.ctx.kill_now.wait().await;
                None
            };
            if timeout(grace, self.exited()).or(cut).await.is_some() {
                break;
            }
            let next = if self.ctx.kill_now.is_set() { Signal::SIGKILL } else { next };
            debug!("server '{}': {next} to its process group", self.server);
            signal_group(pid, next);
        }
        self.reaped.wait().await;
    }
}
