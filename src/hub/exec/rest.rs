//! Commands on their way from one program to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use async_io::Async;
use nix::unistd::Pid;

use super::command::{Progress, Stream, Work};
use super::{Executor, Running};
use crate::hub::Hub;
use crate::hub::handover::{Restored, Saver};
use crate::hub::wait::{Flag, until};
use crate::model::handover;
use crate::sys::pidfd::PidFd;
use crate::sys::reap;

impl Executor {
    /// Waits until all commands are at rest.
    pub async fn rests(&self) {
        until(&self.finished, || self.running().values().all(|r| r.resting.is_some()).then_some(())).await;
    }

    /// Goes on in this process.
    pub fn resume(self: &Arc<Self>, hub: &Arc<Hub>) {
        let resting: Vec<_> =
            self.running().iter_mut().filter_map(|(n, r)| Some((*n, r.resting.take()?, r.end.clone()))).collect();
        for (number, work, end) in resting {
            async_std::task::spawn(self.clone().see_to(number, work, end, hub.clone()));
        }
    }

    /// The commands that are at rest.
    pub fn save(&self, saver: &mut Saver) -> Vec<handover::Command> {
        let now = Instant::now();
        let mut commands = Vec::new();
        for running in self.running().values() {
            let Some(work) = running.resting.as_ref().filter(|_| !running.end.is_set()) else { continue };
            commands.push(handover::Command {
                pid: work.pid.as_raw(),
                mark: work.mark.clone(),
                stdout: work.out.save(),
                stderr: work.err.save(),
                progress: work.out.reported(),
                call: running.call.as_ref().map(|call| saver.call(call)),
                age: work.started.elapsed().as_millis() as u64,
                left: work.until.saturating_duration_since(now).as_millis() as u64,
            });
        }
        commands
    }

    /// Goes on with the commands of the program before, once [`Executor::resume`] is called.
    pub fn restore(&self, saved: Vec<handover::Command>, restored: &Restored) {
        let kept = self.config().max_line.bytes();
        for one in saved {
            let pid = Pid::from_raw(one.pid);
            reap::know(pid);
            let call = one.call.and_then(|call| restored.call(call));
            let progress = call.as_ref().and_then(|call| Progress::of(call, one.progress));
            let (age, left) = (Duration::from_millis(one.age), Duration::from_millis(one.left));
            let now = Instant::now();
            let work = (|| {
                Some(Work {
                    pid,
                    mark: one.mark,
                    handle: PidFd::open(pid).and_then(Async::new).ok()?,
                    out: Stream::restore(one.stdout, kept, progress.clone())?,
                    err: Stream::restore(one.stderr, kept, progress)?,
                    started: now.checked_sub(age).unwrap_or(now),
                    until: now + left,
                    limit: age + left,
                })
            })();
            let number = self.numbers.fetch_add(1, SeqCst) + 1;
            let running = Running { pid: Some(one.pid), call, end: Arc::new(Flag::default()), resting: work };
            let lost = running.resting.is_none();
            self.running().insert(number, running);
            if lost {
                reap::forget(pid);
                self.over(
                    number,
                    Err(format!("the command was lost on the way to mcpdaemon {}", env!("CARGO_PKG_VERSION"))),
                );
            }
        }
    }
}
