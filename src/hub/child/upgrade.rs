//! Bringing the line to a child to rest, and going on with it: in this process, or in the next one.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use nix::unistd::Pid;

use super::byte_queue::ByteQueue;
use super::child::{Child, PIPE_GRACE, Parked, STDERR_LINE, stdin_limit};
use super::far::Far;
use super::pending::{Pending, Waiting};
use super::start::{Starter, note, work};
use crate::hub::client::restored::Restored;
use crate::hub::client::saved::Saver;
use crate::hub::context::Quiesce;
use crate::hub::leaving::Pending as Waited;
use crate::hub::load::Load;
use crate::model::handover::{self, Bytes};
use crate::model::ids::Table;
use crate::model::jsonrpc;
use crate::model::last_words::Tail;
use crate::rt::async_fd::AsyncFd;
use crate::rt::lines::Lines;
use crate::rt::pipe::{Input, Output};
use crate::rt::wait::{millis, sleep, timeout, until};
use crate::sys::pidfd::PidFd;
use crate::sys::{passed, reap};

/// How long what is under way to a server elsewhere may take to be answered before everything is at rest.
const REST: Duration = Duration::from_millis(250);
/// What stands for the descriptor of a line that has none.
const NO_FD: i32 = -1;

impl Quiesce for Child {
    /// A child that is being stopped is not waited for: it will not be needed any more.
    fn quiesced(&self) -> Waited<'_> {
        Box::pin(async {
            let whole = || (self.is_whole(&self.parked.lock()) || self.stopping.load(SeqCst)).then_some(());
            let over = async {
                self.exited.wait().await;
                sleep(2 * PIPE_GRACE).await;
            };
            until(&self.handed_in, whole).or(over).await;
            if let Some(far) = self.elsewhere().filter(|_| !self.stopping.load(SeqCst)) {
                timeout(REST, far.rested()).await;
            }
        })
    }

    fn resume(self: Arc<Self>) {
        work(&self, self.parked.take());
        if !self.load.is_quiet() {
            self.tick();
        }
    }

    fn give_up_if_busy(&self) {
        let quiesced = self.is_whole(&self.parked.lock());
        if self.is_dead() || self.stopping.load(SeqCst) || !quiesced {
            let why = format!("the child of server '{}' could not be kept over an upgrade of the daemon", self.server);
            self.fail_all(jsonrpc::INTERNAL_ERROR, &why);
        }
    }

    fn is_in_the_middle(&self) -> bool {
        self.elsewhere().is_some_and(|far| far.under_way() > 0)
    }

    fn mark(&self) -> Option<&str> {
        match &self.far {
            Far::Process { mark, .. } => Some(mark),
            Far::Elsewhere(_) => None,
        }
    }
}

impl Child {
    /// Everything of it for the next program; None if it is not at rest, or of no use any more.
    pub(crate) fn save(&self, saver: &mut Saver) -> Option<handover::Child> {
        if self.is_dead() || self.stopping.load(SeqCst) {
            return None;
        }
        let parked = self.parked.lock();
        if !self.is_whole(&parked) {
            return None;
        }
        let Parked { stdin: Some(stdin), stdout: Some(stdout), stderr, .. } = &*parked else {
            return None;
        };
        let has_fd = self.elsewhere().is_none();
        let read = |(pipe, input): &(Box<dyn Input>, Lines)| {
            let (bytes, cut) = input.unread();
            let cut = cut.map(|(head, tail, length)| (Bytes(head), Bytes(tail), length));
            let fd = if has_fd { pipe.fd()? } else { NO_FD };
            Some(handover::Pipe { fd, bytes: Bytes(bytes), cut })
        };
        let stdin_fd = if has_fd { stdin.0.fd()? } else { NO_FD };
        let (now, unused) = (Instant::now(), self.unused_for());
        let pending = self.pending();
        let left = |until: &Instant| until.saturating_duration_since(now).as_millis() as u64;
        let mut waiting = Vec::new();
        for (number, one) in pending.waiting.iter() {
            let saved = match one {
                Waiting::Client { call, deadline, latest, .. } => {
                    let call = saver.call(call);
                    handover::Waiting::Client { call, left: left(deadline), at_most: left(latest) }
                }
                Waiting::Subscription(subscription) => {
                    handover::Waiting::Listen { session: subscription.session, id: subscription.id.to_string() }
                }
                Waiting::Watch => handover::Waiting::Watch,
                // What the daemon asks itself it will ask again.
                Waiting::Daemon(_) | Waiting::Nobody => handover::Waiting::Nobody,
            };
            waiting.push((*number, saved));
        }
        Some(handover::Child {
            pid: self.pid().map_or(0, Pid::as_raw),
            mark: Quiesce::mark(self).unwrap_or_default().to_owned(),
            elsewhere: self.elsewhere().map(|far| far.save()),
            server_info: self.info.get().cloned(),
            stdin: handover::Pipe { fd: stdin_fd, bytes: Bytes(stdin.1.clone()), cut: None },
            stdout: read(stdout)?,
            stderr: stderr.as_ref().and_then(read),
            queue: Bytes(self.stdin.queued()),
            tail: self.words().lines().into_iter().map(str::to_owned).collect(),
            requests_so_far: pending.waiting.last(),
            waiting,
            unused: unused.as_millis() as u64,
        })
    }

    /// Whether all that is left of its pipes was handed in; one that the child has closed is not.
    fn is_whole(&self, parked: &Parked) -> bool {
        (parked.handle.is_some() || self.elsewhere().is_some())
            && (parked.stdin.is_some() || self.stdin.is_closed())
            && (parked.stdout.is_some() || self.stdout_eof.is_set())
            && (parked.stderr.is_some() || self.stderr_eof.is_set())
    }
}

/// The ends of a child's line, as the program before has left them.
struct Found {
    far: Far,
    stdin: Box<dyn Output>,
    stdout: Box<dyn Input>,
    stderr: Option<Box<dyn Input>>,
    handle: Option<AsyncFd<PidFd>>,
}

/// The process of a child, and its pipes; None if it has ended meanwhile.
fn find_process(saved: &handover::Child) -> Option<Found> {
    let pid = Pid::from_raw(saved.pid);
    reap::know(pid);
    let pipe = |pipe: &handover::Pipe| -> Option<AsyncFd<File>> {
        let fd: OwnedFd = passed::own_fd(pipe.fd)?;
        AsyncFd::new(File::from(fd)).ok()
    };
    let (stdin, stdout, stderr) = (pipe(&saved.stdin), pipe(&saved.stdout), saved.stderr.as_ref().map(pipe));
    let handle = PidFd::open(pid).and_then(AsyncFd::new).ok();
    let (Some(stdin), Some(stdout), Some(handle)) = (stdin, stdout, handle) else {
        reap::forget(pid);
        return None;
    };
    Some(Found {
        far: Far::Process { pid, mark: saved.mark.clone() },
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: stderr.flatten().map(|pipe| Box::new(pipe) as Box<dyn Input>),
        handle: Some(handle),
    })
}

impl Starter {
    /// A line to what is elsewhere.
    fn find_line(&self, state: &str) -> Option<Found> {
        let wires = self.dial.as_ref()?.dial(&self.config.get(), Some(state))?;
        let far = Far::Elsewhere(wires.far);
        Some(Found { far, stdin: wires.to, stdout: wires.from, stderr: None, handle: None })
    }

    /// Takes over a child that the program before has started; it is set to work by [`Quiesce::resume`]. None if it has
    /// ended meanwhile, which is then seen to by a sweep.
    pub(crate) fn restore(&self, mut saved: handover::Child, restored: &Restored) -> Option<Arc<Child>> {
        let found = match saved.elsewhere.take() {
            Some(state) => self.find_line(&state)?,
            None => find_process(&saved)?,
        };
        let load = Load::below([]);
        let mut table = Table::behind(saved.requests_so_far);
        let now = Instant::now();
        for (number, waiting) in saved.waiting {
            let entry = match waiting {
                handover::Waiting::Client { call, left, at_most } => match restored.call(call) {
                    Some(call) => Waiting::Client {
                        call,
                        deadline: now + Duration::from_millis(left),
                        latest: now + Duration::from_millis(at_most),
                        _open: load.enter(),
                    },
                    None => Waiting::Nobody,
                },
                handover::Waiting::Listen { session, id } => {
                    let all = restored.session(session).map(|s| s.subscriptions()).unwrap_or_default();
                    let found = all.into_iter().find(|s| *s.id == id);
                    found.map_or(Waiting::Nobody, Waiting::Subscription)
                }
                handover::Waiting::Nobody => Waiting::Nobody,
                handover::Waiting::Watch => Waiting::Watch,
            };
            table.enter(number, entry);
        }
        let limit = self.ctx.config().limits.reply.bytes();
        let input = |limit, pipe: handover::Pipe| {
            let cut = pipe.cut.map(|(head, tail, length)| (head.0, tail.0, length));
            Lines::with_unread(limit, (pipe.bytes.0, cut))
        };
        let parked = Parked {
            stdin: Some((found.stdin, saved.stdin.bytes.0)),
            stdout: Some((found.stdout, input(limit, saved.stdout))),
            stderr: found.stderr.zip(saved.stderr).map(|(pipe, rest)| (pipe, input(STDERR_LINE, rest))),
            handle: found.handle,
        };
        let closed_stderr = parked.stderr.is_none();
        let identity = self.identity(found.far);
        let mut tail = Tail::default();
        saved.tail.iter().for_each(|line| tail.push(line));
        let child = Child {
            parked: parked.into(),
            pending: Pending::behind(table).into(),
            load,
            stdin: ByteQueue::with(stdin_limit(&self.ctx), saved.queue.0),
            info: saved.server_info.map_or_else(OnceLock::new, OnceLock::from),
            stderr: tail.into(),
            used_at: millis().saturating_sub(saved.unused).into(),
            ..Child::blank(&self.ctx, identity)
        };
        if closed_stderr {
            child.stderr_eof.set();
        }
        let child = Arc::new(child);
        note(&child);
        Some(child)
    }
}
