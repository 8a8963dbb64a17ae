//! Commands on their way from one program to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::command::Work;
use super::executor::Executor;
use super::output::{Output, Progress, Sink};
use super::owner::{Direct, Owner, Running};
use crate::hub::client::call::Call;
use crate::hub::client::restored::Restored;
use crate::hub::client::saved::Saver;
use crate::hub::context::Quiesce;
use crate::hub::leaving::Pending;
use crate::model::{handover, jsonrpc};
use crate::rt::async_fd::AsyncFd;
use crate::rt::task;
use crate::rt::wait::{Flag, until};
use crate::sys::pidfd::PidFd;
use crate::sys::reap;
use crate::sys::spawn::signal_group;

impl Quiesce for Executor {
    fn quiesced(&self) -> Pending<'_> {
        Box::pin(until(&self.finished, || self.running().values().all(|r| r.quiesced.is_some()).then_some(())))
    }

    fn give_up_if_busy(&self) {
        let why = format!("server '{}': the command was lost in an upgrade", self.name);
        let lost: Vec<_> = self.running().extract_if(|_, r| r.quiesced.is_none()).map(|(_, r)| r).collect();
        for mut running in lost {
            running.pid.map(Pid::from_raw).into_iter().for_each(|pid| signal_group(pid, Signal::SIGKILL));
            if let Some(call) = running.owner.take_call(|_| true) {
                call.error(jsonrpc::INTERNAL_ERROR, &why);
            }
            if let Some((direct, pid)) = running.take_direct() {
                direct.fail(pid, &why);
            }
        }
    }

    fn resume(self: Arc<Self>) {
        let quiesced: Vec<_> =
            self.running().iter_mut().filter_map(|(n, r)| Some((*n, r.quiesced.take()?, r.end.clone()))).collect();
        for (number, work, end) in quiesced {
            task::spawn(self.clone().see_to(number, work, end));
        }
    }
}

impl Executor {
    /// The commands that are at rest.
    pub(crate) fn save_commands(&self, saver: &mut Saver) -> Vec<handover::Command> {
        let now = Instant::now();
        let mut commands = Vec::new();
        for running in self.running().values() {
            let cancelled = matches!(&running.owner, Owner::Direct(direct) if direct.cancelled);
            let lives = !running.end.is_set() || cancelled;
            let Some(work) = running.quiesced.as_ref().filter(|_| lives) else { continue };
            commands.push(handover::Command {
                pid: work.pid.as_raw(),
                mark: work.mark.clone(),
                stdout: work.out.save(),
                stderr: work.err.save(),
                progress: work.out.reported(),
                call: match &running.owner {
                    Owner::Call(call) => Some(saver.call(call)),
                    _ => None,
                },
                direct: match &running.owner {
                    Owner::Direct(direct) => Some((saver.session(&direct.session), saver.outbox(&direct.reply))),
                    _ => None,
                },
                cancelled,
                age: work.started.elapsed().as_millis() as u64,
                left: work.until.saturating_duration_since(now).as_millis() as u64,
            });
        }
        commands
    }

    /// Goes on with the commands of the program before, once [`Quiesce::resume`] is called.
    pub(crate) fn restore_commands(&self, saved: Vec<handover::Command>, restored: &Restored) {
        for one in saved {
            let pid = Pid::from_raw(one.pid);
            reap::know(pid);
            let direct = one
                .direct
                .and_then(|(session, outbox)| Some(Direct::new(&restored.session(session)?, &restored.outbox(outbox))));
            let (owner, sink) =
                match (one.call.and_then(|call| restored.call(call)).map(|call| self.named(call)), direct) {
                    (Some(call), _) => {
                        let progress = Progress::of(&call, one.progress);
                        (Owner::Call(call), Sink::Kept(progress))
                    }
                    (None, Some(mut direct)) => {
                        direct.cancelled = one.cancelled;
                        direct.since =
                            Instant::now().checked_sub(Duration::from_millis(one.age)).unwrap_or(direct.since);
                        let reply = direct.reply.clone();
                        (Owner::Direct(direct), Sink::Lines(reply))
                    }
                    (None, None) => (Owner::Nobody, Sink::Kept(None)),
                };
            let (age, left) = (Duration::from_millis(one.age), Duration::from_millis(one.left));
            let now = Instant::now();
            let keep = self.keep(owner.holder(), &sink);
            let work = (|| {
                Some(Work {
                    pid,
                    mark: one.mark,
                    handle: PidFd::open(pid).and_then(AsyncFd::new).ok()?,
                    out: Output::restore("stdout", one.stdout, &keep, sink.clone())?,
                    err: Output::restore("stderr", one.stderr, &keep, sink)?,
                    started: now.checked_sub(age).unwrap_or(now),
                    until: now + left,
                    limit: age + left,
                })
            })();
            let number = self.next_number();
            let running = Running { pid: Some(one.pid), owner, end: Arc::new(Flag::default()), quiesced: work };
            if one.cancelled {
                running.end.set();
            }
            let lost = running.quiesced.is_none();
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
    /// An answer in the modern era says who has answered.
    fn named(&self, mut call: Call) -> Call {
        if let Some(translation) = &mut call.translated {
            translation.server = Some(self.server_info().server_info.into());
        }
        call
    }
}
