//! Bringing the line to a child to rest, and going on with it: in this process, or in the next one.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use async_io::Async;
use futures_lite::FutureExt;
use nix::unistd::Pid;

use super::{Link, PIPE_GRACE, Parked, Pending, STDERR_LINE, Waiting};
use crate::hub::Hub;
use crate::hub::handover::{Restored, Saver};
use crate::hub::outbox::ByteQueue;
use crate::hub::server::Server;
use crate::hub::session::Session;
use crate::model::config::server::Stdio;
use crate::model::handover::{self, Bytes, Child};
use crate::model::ids::Table;
use crate::model::jsonrpc;
use crate::model::mcp::Learnt;
use crate::rt::lines::Lines;
use crate::rt::wait::{millis, sleep, until};
use crate::sys::pidfd::PidFd;
use crate::sys::{passed, reap};

impl Link {
    /// A task of this line comes to rest.
    pub(super) fn hand_in(&self, put: impl FnOnce(&mut Parked)) {
        put(&mut self.parked.lock());
        self.handed_in.notify(usize::MAX);
    }

    /// Waits until everything of it is at rest, or whoever waits for it knows that it has ended. A child that is being
    /// stopped is not waited for: nobody needs it any more.
    pub async fn rests(&self) {
        let whole = || {
            let parked = self.parked.lock();
            (self.is_whole(&parked) || self.stopping.load(SeqCst)).then_some(())
        };
        let over = async {
            self.exited.wait().await;
            sleep(2 * PIPE_GRACE).await;
        };
        until(&self.handed_in, whole).or(over).await;
    }

    /// Goes on in this process.
    pub fn resume(self: &Arc<Self>, hub: &Arc<Hub>) {
        let parked = std::mem::take(&mut *self.parked.lock());
        self.work(parked, hub.clone());
        if self.waiting() > 0 {
            self.tick();
        }
    }

    /// Everything of it for the next program; None if it is not at rest, or of no use any more.
    pub fn save(&self, saver: &mut Saver) -> Option<Child> {
        if self.is_dead() || self.stopping.load(SeqCst) {
            return None;
        }
        let mut parked = self.parked.lock();
        if !self.is_whole(&parked) {
            return None;
        }
        let Parked { stdin: Some(stdin), stdout: Some(stdout), stderr, .. } = &mut *parked else {
            return None;
        };
        let read = |(pipe, input): &mut (Async<File>, Lines)| {
            let (bytes, cut) = input.rest_so_far();
            let cut = cut.map(|(head, tail, length)| (Bytes(head), Bytes(tail), length));
            handover::Pipe { fd: pipe.as_fd().as_raw_fd(), bytes: Bytes(bytes), cut }
        };
        let (now, unused) = (Instant::now(), self.unused_for());
        let pending = self.pending();
        let left = |until: &Instant| until.saturating_duration_since(now).as_millis() as u64;
        let mut waiting = Vec::new();
        for (number, one) in pending.waiting.iter() {
            let saved = match one {
                Waiting::Client { call, deadline, latest } => {
                    let call = saver.call(call);
                    handover::Waiting::Client { call, left: left(deadline), at_most: left(latest) }
                }
                Waiting::Listen(listen) => match listen.session() {
                    Some(session) => {
                        let session = saver.session(&session);
                        handover::Waiting::Listen { session, id: listen.id.to_string() }
                    }
                    None => handover::Waiting::Nobody,
                },
                Waiting::Watch => handover::Waiting::Watch,
                // Whoever of the daemon waits will ask again.
                Waiting::Daemon(_) | Waiting::Nobody => handover::Waiting::Nobody,
            };
            waiting.push((*number, saved));
        }
        Some(Child {
            pid: self.pid.as_raw(),
            mark: self.mark.clone(),
            learnt: self.learnt.get().cloned(),
            stdin: handover::Pipe { fd: stdin.0.as_fd().as_raw_fd(), bytes: Bytes(stdin.1.clone()), cut: None },
            stdout: read(stdout),
            stderr: stderr.as_mut().map(read),
            queue: Bytes(self.stdin.queued()),
            tail: self.tail(),
            requests_so_far: pending.waiting.last(),
            waiting,
            unused: unused.as_millis() as u64,
        })
    }

    /// Takes over a child that the program before has started; it is set to work by [`Link::resume`]. None if it has
    /// ended meanwhile, which is then seen to by a sweep.
    pub fn restore(
        server: &Arc<Server>,
        config: Arc<Stdio>,
        saved: Child,
        restored: &Restored,
        owner: Option<Weak<Session>>,
    ) -> Option<Arc<Link>> {
        let pid = Pid::from_raw(saved.pid);
        reap::know(pid);
        let pipe = |pipe: &handover::Pipe| -> Option<Async<File>> {
            let fd: OwnedFd = passed::own_fd(pipe.fd)?;
            Async::new(File::from(fd)).ok()
        };
        let (stdin, stdout, stderr) = (pipe(&saved.stdin), pipe(&saved.stdout), saved.stderr.as_ref().map(pipe));
        let handle = PidFd::open(pid).and_then(Async::new).ok();
        let (Some(stdin), Some(stdout), Some(handle)) = (stdin, stdout, handle) else {
            reap::forget(pid);
            return None;
        };
        let mut table = Table::behind(saved.requests_so_far);
        let now = Instant::now();
        for (number, waiting) in saved.waiting {
            let entry = match waiting {
                handover::Waiting::Client { call, left, at_most } => match restored.call(call) {
                    Some(call) => Waiting::Client {
                        call,
                        deadline: now + Duration::from_millis(left),
                        latest: now + Duration::from_millis(at_most),
                    },
                    None => Waiting::Nobody,
                },
                handover::Waiting::Listen { session, id } => {
                    let listen = restored.session(session).and_then(|s| s.listens().into_iter().find(|l| *l.id == id));
                    listen.map_or(Waiting::Nobody, Waiting::Listen)
                }
                handover::Waiting::Nobody => Waiting::Nobody,
                handover::Waiting::Watch => Waiting::Watch,
            };
            table.enter(number, entry);
        }
        let limit = server.hub.config().limits.reply.bytes();
        let input = |limit, pipe: handover::Pipe| {
            let cut = pipe.cut.map(|(head, tail, length)| (head.0, tail.0, length));
            Lines::with_rest(limit, (pipe.bytes.0, cut))
        };
        let link = Link {
            parked: Parked {
                stdin: Some((stdin, saved.stdin.bytes.0)),
                stdout: Some((stdout, input(limit, saved.stdout))),
                stderr: stderr.flatten().zip(saved.stderr.map(|pipe| input(STDERR_LINE, pipe))),
                handle: Some(handle),
            }
            .into(),
            pending: Pending { waiting: table, ..Pending::default() }.into(),
            stdin: ByteQueue::with(super::STDIN_LIMIT, saved.queue.0),
            learnt: saved.learnt.map_or_else(OnceLock::new, OnceLock::<Learnt>::from),
            owner: owner.map_or_else(OnceLock::new, OnceLock::from),
            used_at: millis().saturating_sub(saved.unused).into(),
            ..Link::blank(pid, server, config, saved.mark)
        };
        let mut tail = link.stderr.lock();
        saved.tail.iter().for_each(|line| tail.push(line));
        drop(tail);
        if link.parked.lock().stderr.is_none() {
            // It had closed it.
            link.heard.set();
        }
        let link = Arc::new(link);
        server.hub.note_link(&link);
        Some(link)
    }

    /// Whether all that is left of its pipes was handed in; one that the child has closed is not.
    fn is_whole(&self, parked: &Parked) -> bool {
        parked.handle.is_some()
            && (parked.stdin.is_some() || self.stdin.is_closed())
            && (parked.stdout.is_some() || self.silent.is_set())
            && (parked.stderr.is_some() || self.heard.is_set())
    }

    /// What is lost with a child that cannot be kept: whoever waits for it is told.
    pub fn give_up(&self) {
        let rests = self.is_whole(&self.parked.lock());
        if self.is_dead() || self.stopping.load(SeqCst) || !rests {
            let why = format!("the child of server '{}' could not be kept over an upgrade of the daemon", self.name);
            self.fail_all(jsonrpc::INTERNAL_ERROR, &why);
        }
    }

    /// The mark of its process and of all that it has started.
    pub fn mark(&self) -> &str {
        &self.mark
    }
}
