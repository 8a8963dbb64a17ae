//! The end of a child: noticed, brought about, and seen to, so that nothing of it is left.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use async_io::Async;
use futures_lite::FutureExt;
use log::{debug, info, warn};
use nix::sys::signal::Signal;

use super::{Link, PIPE_GRACE};
use crate::hub::Hub;
use crate::hub::handover::unless_frozen;
use crate::model::config::server::Stop;
use crate::model::jsonrpc;
use crate::model::restart::Ended;
use crate::rt::process::{exit_text, sweep_and_reap, wait_for_end};
use crate::rt::wait::{sleep, within};
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::signal_group;

impl Link {
    /// Waits for the child's end, then sees to it that nothing of it is left and nobody waits for it.
    pub(super) async fn attend(
        self: Arc<Self>,
        handle: Async<PidFd>,
        tasks: Vec<async_std::task::JoinHandle<()>>,
        hub: Arc<Hub>,
    ) {
        let quiet = async {
            // A server may end by closing its output (2026-07-28 basic/transports/stdio); one that only closes it, or
            // its input, is of no use any more. While it is being stopped, the ladder has its own times.
            self.silent.wait().or(self.deaf.wait()).await;
            sleep(Duration::from_secs(1)).await;
            if self.stopping.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            true
        };
        let ended = async {
            let _ = handle.readable().await;
            false
        };
        let Some(quiet) = unless_frozen(&hub, ended.or(quiet)).await else {
            return self.hand_in(|parked| parked.handle = Some(handle));
        };
        if quiet {
            warn!("server '{}' closed its input or output but did not end; it is ended", self.name);
            signal_group(self.pid, Signal::SIGTERM);
            if within(self.config().stop.term, handle.readable()).await.is_none() {
                signal_group(self.pid, Signal::SIGKILL);
                let _ = handle.readable().await;
            }
        }
        let how = wait_for_end(&handle).await;
        let _ = self.ended.set(how);
        self.exited.set();
        self.stdin.close();
        // Its last replies may still be in the pipe, which a grandchild may hold open.
        let drained = async {
            self.silent.wait().await;
            self.heard.wait().await;
        };
        within(PIPE_GRACE, drained).await;
        let why = format!("server '{}' {}{}", self.name, self.exit_text(), self.last_words());
        if !self.stopping.load(SeqCst) {
            warn!("{why}");
        }
        self.fail_all(jsonrpc::INTERNAL_ERROR, &why);
        let strays = sweep_and_reap(self.pid, &handle, &self.mark).await;
        if strays.ended > 0 {
            info!("server '{}': ended {} processes that it left behind", self.name, strays.ended);
        }
        if !strays.left.is_empty() {
            warn!("server '{}': these processes cannot be ended: {:?}", self.name, strays.left);
        }
        // Whoever holds its pipes now took them along where nobody can follow.
        for task in tasks {
            task.cancel().await;
        }
        self.gone.set();
    }

    /// Waits for the end of the process itself.
    pub async fn exited(&self) -> Ended {
        self.exited.wait().await;
        self.ended.get().copied().unwrap_or(Ended::NotReady)
    }

    /// It has ended with status 0.
    pub fn ended_in_order(&self) -> bool {
        self.ended.get() == Some(&Ended::Exited(0))
    }

    /// Waits until nothing of the child is left.
    pub async fn gone(&self) -> Ended {
        self.gone.wait().await;
        self.ended.get().copied().unwrap_or(Ended::NotReady)
    }

    /// The ladder: end of input, SIGTERM to the group, SIGKILL to the group (2025-11-25 basic/lifecycle). Its output
    /// is read all the while, because a full pipe would keep it from ending.
    pub async fn stop(&self, ladder: &Stop) {
        self.stopping.store(true, SeqCst);
        self.stdin.close();
        let hub = self.server.upgrade().map(|s| s.hub.clone());
        let hurried = || hub.as_ref().is_some_and(|h| h.cut.is_set());
        for (grace, next) in [(ladder.stdin, Signal::SIGTERM), (ladder.term, Signal::SIGKILL)] {
            let cut = async {
                match &hub {
                    Some(hub) => hub.cut.wait().await,
                    None => std::future::pending().await,
                }
                None
            };
            if within(grace, self.exited()).or(cut).await.is_some() {
                break;
            }
            let next = if hurried() { Signal::SIGKILL } else { next };
            debug!("server '{}': {next} to its process group", self.name);
            signal_group(self.pid, next);
        }
        self.gone.wait().await;
    }

    /// `exited with status 1`, `was ended by signal 9 (SIGKILL)`.
    pub fn exit_text(&self) -> String {
        match self.ended.get() {
            Some(ended) => exit_text(*ended),
            None => "is running".to_owned(),
        }
    }

    /// The last lines of standard error, for an error message; empty if there are none.
    pub fn last_words(&self) -> String {
        self.stderr.lock().last()
    }

    /// The last lines of standard error, a line each.
    pub fn tail(&self) -> Vec<String> {
        self.stderr.lock().all()
    }
}
