//! A living child: the line to it, what is at the other end, and who hears what it says.
//!
//! What is said on the line is in the files beside this one: requests down ([`super::requests`]), replies and the rest up
//! ([`super::reader`]). It must not know servers and their sessions; they hear of it as [`Observer`]s.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use event_listener::Event;
use nix::unistd::Pid;

use super::byte_queue::ByteQueue;
use super::far::{Elsewhere, Far};
use super::kept_lists::KeptLists;
use super::pending::{Pending, Waiting};
use crate::hub::client::outbox::Outbox;
use crate::hub::context::Context;
use crate::hub::load::Load;
use crate::model::budget::Holder;
use crate::model::config::server::Mcp;
use crate::model::envelope::Envelope;
use crate::model::last_words::{LastWords, Tail};
use crate::model::mcp::ServerInfo;
use crate::model::modern::{self, ParamHeaders};
use crate::model::restart::Ended;
use crate::model::torn::Torn;
use crate::rt::async_fd::AsyncFd;
use crate::rt::lines::Lines;
use crate::rt::live::Live;
use crate::rt::pipe::{Input, Output};
use crate::rt::process::exit_text;
use crate::rt::wait::{Flag, millis};
use crate::sys::lock::{Guard, Lock};
use crate::sys::pidfd::PidFd;

/// What a child may be behind with reading before callers are told so, in bytes; never more than a quarter of
/// `limits.memory`.
const STDIN_LIMIT: u64 = 32 << 20;
/// What of one line of standard error is looked at, in bytes.
pub(crate) const STDERR_LINE: usize = 64 << 10;
/// After a child's end, how long its pipes may be held open by others before they are given up.
pub(crate) const PIPE_GRACE: Duration = Duration::from_millis(300);

/// What the children of this instance may be behind with reading, each, in bytes.
pub(super) fn stdin_limit(ctx: &Context) -> usize {
    STDIN_LIMIT.min(ctx.config().limits.memory.0 / 4) as usize
}

/// Hears what a child says that answers no request.
pub(crate) trait Observer: Send + Sync {
    /// It asks "the client" something.
    fn request(&self, child: &Child, e: &Envelope<'_>);

    /// It tells of something that belongs to no request. From a private child also what belongs to one.
    fn notification(&self, child: &Child, e: &Envelope<'_>);

    /// It has begun a task for a request of this principal.
    fn task_begun(&self, _task: &str, _owner: Option<Arc<str>>) {}
}

/// What a child is, apart from its pipes.
pub(crate) struct Identity {
    pub far: Far,
    /// The name of its server.
    pub server: Arc<str>,
    pub config: Arc<Live<Mcp>>,
    pub observer: Weak<dyn Observer>,
}

/// A child that was started.
pub(crate) struct Child {
    /// By which it is told from all others.
    pub number: u64,
    pub(super) far: Far,
    /// The name of its server.
    pub server: Arc<str>,
    pub ctx: Arc<Context>,
    pub(super) config: Arc<Live<Mcp>>,
    pub(super) observer: Lock<Weak<dyn Observer>>,
    /// It serves one session, and hears from no other.
    pub(super) private: AtomicBool,
    pub(super) stdin: ByteQueue,
    /// How many bytes its standard input has taken.
    pub(super) written: AtomicU64,
    pub(super) pending: Lock<Pending>,
    /// Requests of clients that are unanswered.
    pub load: Arc<Load>,
    pub(super) info: OnceLock<ServerInfo>,
    pub(super) headers: Lock<Headers>,
    pub(super) asking: async_std::sync::Mutex<()>,
    pub(super) stderr: Lock<Tail>,
    /// A message of it that is spread over several lines.
    pub(super) torn: Lock<Torn>,
    pub(super) lists: Lock<KeptLists>,
    /// A list of it was found to have no end.
    pub(super) endless: AtomicBool,
    /// It was said that a message stands behind other text in a line.
    pub(super) mixed: AtomicBool,
    /// Something has come on its standard output.
    pub(super) spoke: AtomicBool,
    /// What its tasks hand in when everything comes to rest.
    pub(super) parked: Lock<Parked>,
    pub(super) handed_in: Event,
    pub(super) stdout_eof: Flag,
    /// It has closed its input or its output, and was ended for that.
    pub(super) speechless: AtomicBool,
    /// It has closed its standard input.
    pub(super) stdin_closed: Flag,
    pub(super) stderr_eof: Flag,
    /// The process itself has ended; what it leaves behind may still be swept up.
    pub(super) exited: Flag,
    /// Nothing of it is left, and no request waits for it.
    pub(super) reaped: Flag,
    pub(super) ended: OnceLock<Ended>,
    /// Why the line to what is elsewhere is lost.
    pub(super) lost: OnceLock<String>,
    /// Its end is waited for.
    pub(super) far_followed: AtomicBool,
    /// We asked it to end.
    pub(super) stopping: AtomicBool,
    pub(super) ticking: AtomicBool,
    /// When it last said anything, and when a client last had anything to do with it ([`millis`]).
    pub(super) heard_at: AtomicU64,
    /// Notifications of the daemon that the child may have answered all the same, without an id.
    pub(super) unasked: AtomicU64,
    pub(super) used_at: AtomicU64,
}

/// Our ends of a child's pipes, each with what is left to be written or was read and not used. Here while no task works
/// on them.
#[derive(Default)]
pub(crate) struct Parked {
    pub stdin: Option<(Box<dyn Output>, Vec<u8>)>,
    pub stdout: Option<(Box<dyn Input>, Lines)>,
    pub stderr: Option<(Box<dyn Input>, Lines)>,
    pub handle: Option<AsyncFd<PidFd>>,
}

/// What is known of its tools' headers, and how often they have changed.
#[derive(Default)]
pub(crate) struct Headers {
    pub known: Option<Arc<ParamHeaders>>,
    pub turn: u64,
}

impl Child {
    /// A child without pipes, and without anything on its way.
    pub(crate) fn blank(ctx: &Arc<Context>, identity: Identity) -> Child {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Child {
            number: NUMBERS.fetch_add(1, Relaxed),
            far: identity.far,
            server: identity.server,
            ctx: ctx.clone(),
            config: identity.config,
            observer: Lock::new(identity.observer),
            private: AtomicBool::new(false),
            stdin: ByteQueue::new(stdin_limit(ctx)),
            written: AtomicU64::new(0),
            pending: Lock::default(),
            load: Load::below([]),
            info: OnceLock::new(),
            headers: Lock::default(),
            asking: async_std::sync::Mutex::default(),
            stderr: Lock::default(),
            torn: Lock::default(),
            lists: Lock::default(),
            endless: AtomicBool::new(false),
            mixed: AtomicBool::new(false),
            spoke: AtomicBool::new(false),
            parked: Lock::default(),
            handed_in: Event::new(),
            stdout_eof: Flag::default(),
            speechless: AtomicBool::new(false),
            stdin_closed: Flag::default(),
            stderr_eof: Flag::default(),
            exited: Flag::default(),
            reaped: Flag::default(),
            ended: OnceLock::new(),
            lost: OnceLock::new(),
            far_followed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            ticking: AtomicBool::new(false),
            heard_at: AtomicU64::new(millis()),
            unasked: AtomicU64::new(0),
            used_at: AtomicU64::new(millis()),
        }
    }

    pub(crate) fn config(&self) -> Arc<Mcp> {
        self.config.get()
    }

    /// For whom is kept what it has not read, and what it says.
    pub(super) fn holder(&self) -> Holder {
        Holder::Server(self.server.clone())
    }

    /// What is at the other end, where that is no process.
    pub(super) fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        match &self.far {
            Far::Elsewhere(far) => Some(far),
            Far::Process { .. } => None,
        }
    }

    /// Its process, where it is one.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self.far {
            Far::Process { pid, .. } => Some(pid),
            Far::Elsewhere(_) => None,
        }
    }

    pub(crate) fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.observer.get().upgrade()
    }

    /// From now on it serves one session, and what it says is for this observer.
    pub(crate) fn give_to(&self, observer: Weak<dyn Observer>) {
        self.observer.replace(observer);
        self.private.store(true, SeqCst);
    }

    pub(crate) fn is_private(&self) -> bool {
        self.private.load(Relaxed)
    }

    pub(super) fn pending(&self) -> Guard<'_, Pending> {
        self.pending.lock()
    }

    /// What the child said of itself; None before the handshake.
    pub(crate) fn info(&self) -> Option<&ServerInfo> {
        self.info.get()
    }

    /// It speaks the modern era.
    pub(crate) fn is_modern(&self) -> bool {
        self.info.get().is_some_and(|l| l.revision == modern::VERSION)
    }

    /// How long it has said nothing at all.
    pub(crate) fn silent_for(&self) -> Duration {
        Duration::from_millis(millis().saturating_sub(self.heard_at.load(Relaxed)))
    }

    /// How long no client has had anything to do with it.
    pub(crate) fn unused_for(&self) -> Duration {
        match self.load.is_quiet() {
            true => Duration::from_millis(millis().saturating_sub(self.used_at.load(Relaxed))),
            false => Duration::ZERO,
        }
    }

    /// What it says is not read at the moment.
    pub(crate) fn is_frozen(&self) -> bool {
        self.ctx.quiesce.is_on()
    }

    /// The process has ended, or has closed its input and is about to: a request has to go to the next child.
    pub(crate) fn is_dead(&self) -> bool {
        self.exited.is_set() || self.stdin.is_closed()
    }

    /// Where the newest open request waits for its answer.
    pub(crate) fn newest_reply(&self) -> Option<Arc<Outbox>> {
        let pending = self.pending();
        let newest = pending.waiting.iter().filter_map(|(n, w)| match w {
            Waiting::Client { call, .. } => Some((n, call.reply.clone())),
            _ => None,
        });
        newest.max_by_key(|(n, _)| **n).map(|(_, reply)| reply)
    }

    /// A task of the line comes to rest.
    pub(super) fn hand_in(&self, put: impl FnOnce(&mut Parked)) {
        put(&mut self.parked.lock());
        self.handed_in.notify(usize::MAX);
    }

    /// Waits for the end of the process itself.
    pub(crate) async fn exited(&self) -> Ended {
        self.exited.wait().await;
        self.ended.get().copied().unwrap_or(Ended::NotReady)
    }

    /// Waits until nothing of the child is left.
    pub(crate) async fn reaped(&self) -> Ended {
        self.reaped.wait().await;
        self.ended.get().copied().unwrap_or(Ended::NotReady)
    }

    /// It has ended with status 0.
    pub(crate) fn ended_in_order(&self) -> bool {
        self.ended.get() == Some(&Ended::Exited(0))
    }

    /// `exited with status 1`, `was ended by SIGKILL`, `is running`.
    pub(crate) fn exit_text(&self) -> String {
        match (self.lost.get(), self.ended.get()) {
            (Some(why), Some(_)) => why.clone(),
            (None, Some(ended)) => exit_text(*ended),
            (_, None) => "is running".to_owned(),
        }
    }

    /// The line that says best what is wrong, for an error message: `: line`, or nothing.
    pub(crate) fn last_words(&self) -> String {
        self.words().headline().map_or(String::new(), |line| format!(": {line}"))
    }

    /// What it has said last beside its messages.
    pub(crate) fn words(&self) -> LastWords {
        self.stderr.lock().words()
    }
}
