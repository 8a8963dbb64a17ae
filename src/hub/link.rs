//! A living child and the line to it: requests go down with an id of ours, replies find their owner by it.
//!
//! The reader, the writer and the drain of standard error are tasks of their own, so that none can stall another. What
//! a child does wrong (banners, huge lines, replies nobody asked for, silence) is survived, logged within bounds and
//! counted here. Starting again is not decided here; see [`super::supervisor`].

mod end;
mod hear;
mod modern;
mod rest;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use async_io::Async;
use event_listener::Event;
use futures_lite::AsyncWriteExt;
use log::{debug, warn};
use nix::unistd::Pid;

use super::Hub;
use super::call::Call;
use super::counters::Dropped;
use super::handover::unless_frozen;
use super::listen::Listen;
use super::outbox::{ByteQueue, NotQueued, Outbox};
use super::server::Server;
use super::session::Session;
use super::stderr::Tail;
use crate::model::config::server::Stdio;
use crate::model::envelope::{self, Envelope};
use crate::model::ids::{self, Table};
use crate::model::mcp::Learnt;
use crate::model::modern::legacy_meta;
use crate::model::restart::Ended;
use crate::model::text::duration;
use crate::model::{jsonrpc, mcp};
use crate::rt::lines::Lines;
use crate::rt::wait::{Flag, millis, sleep};
use crate::sys::lock::{Guard, Lock};
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::Started;

/// What of one line of standard error is looked at.
const STDERR_LINE: usize = 64 << 10;
/// What a child may be behind with reading before callers are told so.
const STDIN_LIMIT: usize = 32 << 20;
/// After a child's end, how long its pipes may be held open by others before they are given up.
const PIPE_GRACE: Duration = Duration::from_millis(300);
/// How long a child may take to list its tools before a call is passed on unchecked.
const HEADERS: Duration = Duration::from_secs(10);
/// How long a child may still log for a request that was given up.
const GHOST: Duration = Duration::from_secs(5);
/// The code that MCP SDKs use for a request that was not answered in time.
const TIMED_OUT: i32 = -32001;

/// A child that was started.
pub struct Link {
    pub pid: Pid,
    /// The value of the environment variable that marks it and all it starts.
    mark: String,
    server: Weak<Server>,
    name: String,
    config: Lock<Arc<Stdio>>,
    stdin: ByteQueue,
    pending: Lock<Pending>,
    learnt: OnceLock<Learnt>,
    /// The session that it serves alone.
    owner: OnceLock<Weak<Session>>,
    /// See [`Link::param_headers`].
    headers: Lock<modern::Headers>,
    asking: async_std::sync::Mutex<()>,
    stderr: Lock<Tail>,
    /// What its tasks hand in when everything comes to rest.
    parked: Lock<Parked>,
    handed_in: Event,
    /// The reader saw the end of standard output.
    silent: Flag,
    /// Its standard input is closed on its side.
    deaf: Flag,
    /// The end of standard error was seen.
    heard: Flag,
    /// The process itself has ended; what it leaves behind may still be swept up.
    exited: Flag,
    /// Nothing of the child is left, and nobody waits for it.
    gone: Flag,
    ended: OnceLock<Ended>,
    /// We asked it to end.
    stopping: AtomicBool,
    ticking: AtomicBool,
    /// When it last said anything, and when a client last had anything to do with it ([`millis`]).
    heard_at: AtomicU64,
    used_at: AtomicU64,
}

/// Our ends of a child's pipes, each with what is left to be written or was read and not used. Here while nobody works on
/// them.
#[derive(Default)]
struct Parked {
    stdin: Option<(Async<File>, Vec<u8>)>,
    stdout: Option<(Async<File>, Lines)>,
    stderr: Option<(Async<File>, Lines)>,
    handle: Option<Async<PidFd>>,
}

#[derive(Default)]
struct Pending {
    waiting: Table<Waiting>,
    /// Requests that asked for log messages and are given up: the child may still speak of them for a moment.
    ghosts: Vec<(u64, Instant)>,
    /// Why no request is taken any more.
    closed: Option<(i32, String)>,
}

impl Pending {
    fn note_ghosts(&mut self, taken: &[(u64, Waiting)]) {
        let now = Instant::now();
        let asked = |w: &Waiting| matches!(w, Waiting::Client { call, .. } if call.logs);
        self.ghosts.extend(taken.iter().filter(|(_, w)| asked(w)).map(|(n, _)| (*n, now)));
    }

    /// Whether a log message may be of a request that is given up.
    fn is_haunted(&mut self) -> bool {
        self.ghosts.retain(|(_, since)| since.elapsed() < GHOST);
        !self.ghosts.is_empty()
    }
}

/// Removes a request of the daemon when nobody waits for it any more.
struct Forget<'l>(&'l Link, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending().waiting.take(self.1);
    }
}

enum Waiting {
    Client {
        call: Call,
        deadline: Instant,
        latest: Instant,
    },
    Daemon(async_channel::Sender<Result<String, String>>),
    /// Asked by the daemon, which does not care for the answer.
    Nobody,
    /// A subscription of the modern era, open until somebody ends it.
    Listen(Arc<Listen>),
    /// The daemon's own subscription to changes of the tools.
    Watch,
}

impl Link {
    /// Takes over a started child and begins to talk with it. On an error the child lives, and is the caller's.
    pub fn new(server: &Arc<Server>, config: Arc<Stdio>, started: Started, mark: String) -> io::Result<Arc<Link>> {
        // All that can fail comes first.
        let pipe = |fd: OwnedFd| Async::new(File::from(fd));
        let (stdout, stderr) = (pipe(started.stdout)?, pipe(started.stderr)?);
        let stdin = started.stdin.map(pipe).transpose()?;
        let handle = Async::new(started.handle)?;
        let link = Arc::new(Link::blank(started.pid, server, config, mark));
        server.hub.note_link(&link);
        let pipes = Parked {
            stdin: stdin.map(|pipe| (pipe, Vec::new())),
            stdout: Some((stdout, Lines::new(server.hub.config().limits.reply.bytes()))),
            stderr: Some((stderr, Lines::new(STDERR_LINE))),
            handle: Some(handle),
        };
        link.work(pipes, server.hub.clone());
        Ok(link)
    }

    /// A line without anything on it.
    fn blank(pid: Pid, server: &Arc<Server>, config: Arc<Stdio>, mark: String) -> Link {
        Link {
            pid,
            mark,
            server: Arc::downgrade(server),
            name: server.name.clone(),
            config: Lock::new(config),
            stdin: ByteQueue::new(STDIN_LIMIT),
            pending: Lock::default(),
            learnt: OnceLock::new(),
            owner: OnceLock::new(),
            headers: Lock::default(),
            asking: Default::default(),
            stderr: Lock::default(),
            parked: Lock::default(),
            handed_in: Event::new(),
            silent: Flag::default(),
            deaf: Flag::default(),
            heard: Flag::default(),
            exited: Flag::default(),
            gone: Flag::default(),
            ended: OnceLock::new(),
            stopping: AtomicBool::new(false),
            ticking: AtomicBool::new(false),
            heard_at: AtomicU64::new(millis()),
            used_at: AtomicU64::new(millis()),
        }
    }

    /// Begins to talk with the child, or goes on with it.
    fn work(self: &Arc<Self>, pipes: Parked, hub: Arc<Hub>) {
        let mut tasks = Vec::new();
        if let Some((pipe, rest)) = pipes.stdin {
            tasks.push(async_std::task::spawn(self.clone().write(pipe, rest, hub.clone())));
        }
        if let Some((pipe, input)) = pipes.stdout {
            tasks.push(async_std::task::spawn(self.clone().read(pipe, input, hub.clone())));
        }
        if let Some((pipe, input)) = pipes.stderr {
            tasks.push(async_std::task::spawn(self.clone().overhear(pipe, input, hub.clone())));
        }
        // Where it is not here, somebody is seeing to the child's end already.
        if let Some(handle) = pipes.handle {
            async_std::task::spawn(self.clone().attend(handle, tasks, hub));
        }
    }

    fn config(&self) -> Arc<Stdio> {
        self.config.lock().clone()
    }

    /// Takes over times that need no new child.
    pub fn adjust(&self, config: Stdio) {
        *self.config.lock() = Arc::new(config);
    }

    /// Nobody reads what it says at the moment.
    pub fn is_frozen(&self) -> bool {
        self.server.upgrade().is_some_and(|s| s.hub.freeze.is_on())
    }

    pub fn request_timeout(&self) -> Duration {
        self.config().request_timeout
    }

    fn pending(&self) -> Guard<'_, Pending> {
        self.pending.lock()
    }

    /// What the child said of itself; None before the handshake.
    pub fn learnt(&self) -> Option<&Learnt> {
        self.learnt.get()
    }

    /// Requests of clients that are unanswered.
    pub fn waiting(&self) -> usize {
        self.pending().waiting.iter().filter(|(_, w)| matches!(w, Waiting::Client { .. })).count()
    }

    /// How long it has said nothing at all.
    pub fn silent_for(&self) -> Duration {
        Duration::from_millis(millis().saturating_sub(self.heard_at.load(Relaxed)))
    }

    /// How long no client has had anything to do with it.
    pub fn unused_for(&self) -> Duration {
        match self.waiting() {
            0 => Duration::from_millis(millis().saturating_sub(self.used_at.load(Relaxed))),
            _ => Duration::ZERO,
        }
    }

    /// The process has ended, or has closed its input and is about to: whoever has a request should ask for the next
    /// child.
    pub fn is_dead(&self) -> bool {
        self.exited.is_set() || self.stdin.is_closed()
    }

    /// Forwards a client's request. Given back if the child is dead: it can wait for the next one, because it was never
    /// sent.
    pub fn request(self: &Arc<Self>, call: Call, e: &Envelope<'_>) -> Option<Call> {
        let now = Instant::now();
        let mut pending = self.pending();
        if self.is_dead() {
            return Some(call);
        }
        if let Some((code, why)) = pending.closed.clone() {
            drop(pending);
            call.error(code, &why);
            return None;
        }
        let number = pending.waiting.number();
        let digits = number.to_string();
        let meta = call
            .translated
            .as_ref()
            .and_then(|_| e.get(&e.meta))
            .map(|meta| legacy_meta(meta, call.token.as_ref().map(|_| digits.as_str())));
        // A token is its client's own where there is no other client.
        let token = meta.is_none() && self.owner.get().is_none();
        let mut changes = ids::outgoing(e, &digits, token);
        if let (Some(meta), Some(span)) = (&meta, e.meta.clone()) {
            changes.push((span, meta));
            changes.sort_by_key(|(s, _)| s.start);
        }
        let queued = self.stdin.push(|buffer| append(buffer, e, &changes));
        if let Err(why) = queued {
            drop(pending);
            self.not_queued(call, why);
            return None;
        }
        self.used_at.store(millis(), Relaxed);
        let config = self.config();
        let deadline = now + config.request_timeout;
        let latest = now + config.request_max.max(config.request_timeout);
        pending.waiting.enter(number, Waiting::Client { call, deadline, latest });
        drop(pending);
        self.tick();
        None
    }

    fn not_queued(&self, call: Call, why: NotQueued) {
        match why {
            NotQueued::Full => {
                call.session.hub.counters.count(Dropped::ChildBusy);
                let name = &self.name;
                call.error(
                    jsonrpc::REFUSED,
                    &format!("server '{name}' does not read its input: {} MiB wait for it already", STDIN_LIMIT >> 20),
                );
            }
            NotQueued::Closed => call.error(jsonrpc::INTERNAL_ERROR, &format!("server '{}' is stopping", self.name)),
        }
    }

    /// Forwards a client's notification, unchanged.
    pub fn notify(&self, e: &Envelope<'_>) {
        let _ = self.stdin.push(|buffer| append(buffer, e, &[]));
    }

    /// Sends a line of our own. False if the child is too far behind, or gone.
    pub(super) fn say(&self, text: &str) -> bool {
        let queued = self.stdin.push(|buffer| {
            buffer.extend_from_slice(text.as_bytes());
            buffer.push(b'\n');
        });
        queued.is_ok()
    }

    /// A request of the daemon itself whose answer does not matter. It is queued at once, in order with others.
    pub fn tell(&self, method: &str, params: &str) {
        let mut pending = self.pending();
        if pending.closed.is_none() {
            let number = pending.waiting.number();
            if self.say(&jsonrpc::request(number, method, Some(params))) {
                pending.waiting.enter(number, Waiting::Nobody);
            }
        }
    }

    /// A request of the daemon itself: the `result`, or why there is none.
    pub async fn ask(&self, method: &str, params: Option<&str>) -> Result<String, String> {
        let (sender, receiver) = async_channel::bounded(1);
        let number = {
            let mut pending = self.pending();
            if let Some((_, why)) = &pending.closed {
                return Err(why.clone());
            }
            let number = pending.waiting.number();
            pending.waiting.enter(number, Waiting::Daemon(sender));
            self.say(&jsonrpc::request(number, method, params));
            number
        };
        // Given up by its caller, it must not stay behind.
        let _forget = Forget(self, number);
        receiver.recv().await.unwrap_or_else(|_| Err("it ended".to_owned()))
    }

    /// Takes the requests that fit out of the child's hands and tells it so; what their clients hear is the caller's
    /// affair.
    ///
    /// The entries go at once. Our ids are never used twice, so a late reply finds nothing and is swallowed.
    pub fn cancel(&self, wanted: impl Fn(&Call) -> bool, reason: &str) -> Vec<Call> {
        let mut pending = self.pending();
        let taken = pending.waiting.take_where(|w| matches!(w, Waiting::Client { call, .. } if wanted(call)));
        pending.note_ghosts(&taken);
        drop(pending);
        let mut calls = Vec::with_capacity(taken.len());
        for (number, waiting) in taken {
            self.say_cancelled(number, reason);
            if let Waiting::Client { call, .. } = waiting {
                calls.push(call);
            }
        }
        calls
    }

    /// From now on it serves this session and no other.
    pub fn give_to(&self, session: Weak<Session>) {
        let _ = self.owner.set(session);
    }

    /// Where the newest open request waits for its answer.
    pub fn newest_reply(&self) -> Option<Arc<Outbox>> {
        let pending = self.pending();
        let newest = pending.waiting.iter().filter_map(|(n, w)| match w {
            Waiting::Client { call, .. } => Some((n, call.reply.clone())),
            _ => None,
        });
        newest.max_by_key(|(n, _)| **n).map(|(_, reply)| reply)
    }

    /// The first step of [`Link::stop`], without waiting.
    pub fn stop_soon(&self) {
        self.stopping.store(true, SeqCst);
        self.stdin.close();
    }

    fn say_cancelled(&self, number: u64, reason: &str) {
        let reason = envelope::quote(reason);
        let params = format!(r#"{{"requestId":{number},"reason":{reason}}}"#);
        self.say(&jsonrpc::notification("notifications/cancelled", Some(&params)));
    }

    /// The handshake (2025-11-25 basic/lifecycle), then the child counts as ready.
    pub async fn handshake(&self) -> Result<(), String> {
        let params = mcp::initialize_params(env!("CARGO_PKG_VERSION"));
        let result = self.ask("initialize", Some(&params)).await?;
        let learnt = mcp::learn(&result)?;
        debug!("server '{}': speaks {}, is {}", self.name, learnt.revision, learnt.name());
        let _ = self.learnt.set(learnt);
        self.say(&jsonrpc::notification("notifications/initialized", None));
        Ok(())
    }

    // --- tasks ---------------------------------------------------------------------------------------------------

    async fn write(self: Arc<Self>, mut pipe: Async<File>, mut buffer: Vec<u8>, hub: Arc<Hub>) {
        loop {
            let mut at = 0;
            while at < buffer.len() {
                match unless_frozen(&hub, pipe.write(&buffer[at..])).await {
                    Some(Ok(n)) if n > 0 => at += n,
                    Some(outcome) => {
                        debug!("server '{}': its input is closed: {outcome:?}", self.name);
                        self.stdin.close();
                        self.deaf.set();
                        return;
                    }
                    None => return self.hand_in(|parked| parked.stdin = Some((pipe, buffer.split_off(at)))),
                }
            }
            match unless_frozen(&hub, self.stdin.take(&mut buffer)).await {
                Some(true) => {}
                Some(false) => return,
                None => return self.hand_in(|parked| parked.stdin = Some((pipe, Vec::new()))),
            }
        }
    }

    /// Answers every open request with an error; none is taken any more.
    pub fn fail_all(&self, code: i32, why: &str) {
        let waiting = {
            let mut pending = self.pending();
            pending.closed = Some((code, why.to_owned()));
            pending.waiting.take_all()
        };
        for one in waiting {
            match one {
                Waiting::Client { call, .. } => call.error(code, why),
                Waiting::Daemon(sender) => drop(sender.try_send(Err(why.to_owned()))),
                // Subscriptions go on with the next child.
                Waiting::Nobody | Waiting::Listen(_) | Waiting::Watch => {}
            }
        }
    }

    /// Looks after deadlines while there are any: one timer for all requests, none when there are none.
    fn tick(self: &Arc<Self>) {
        if self.ticking.swap(true, SeqCst) {
            return;
        }
        let link = self.clone();
        let pace = (self.config().request_timeout / 10).clamp(Duration::from_millis(20), Duration::from_secs(5));
        async_std::task::spawn(async move {
            while !link.gone.is_set() {
                sleep(pace).await;
                link.expire(Instant::now());
                if link.waiting() == 0 {
                    break;
                }
            }
            link.ticking.store(false, SeqCst);
            if link.waiting() > 0 && !link.gone.is_set() {
                link.tick();
            }
        });
    }

    fn expire(&self, now: Instant) {
        let late: Vec<(u64, Call)> = {
            let mut pending = self.pending();
            let over =
                |w: &Waiting| matches!(w, Waiting::Client { deadline, latest, .. } if now >= *deadline.min(latest));
            let client = |(n, w)| match w {
                Waiting::Client { call, .. } => Some((n, call)),
                _ => None,
            };
            let taken = pending.waiting.take_where(over);
            pending.note_ghosts(&taken);
            taken.into_iter().filter_map(client).collect()
        };
        for (number, call) in late {
            call.session.hub.counters.count(Dropped::Timeouts);
            self.say_cancelled(number, "the request timed out");
            let config = self.config();
            // Progress can hold a request open up to its hard limit.
            let waited =
                if call.opened.elapsed() >= config.request_max { config.request_max } else { config.request_timeout };
            let text = format!("server '{}' did not answer within {}", self.name, duration(waited));
            warn!("{text}");
            call.error(TIMED_OUT, &text);
        }
    }
}

/// One message as one line.
fn append(buffer: &mut Vec<u8>, e: &Envelope<'_>, changes: &[(envelope::Span, &str)]) {
    let start = buffer.len();
    envelope::splice(buffer, e.text(), changes);
    if e.multiline {
        envelope::on_one_line(&mut buffer[start..]);
    }
    buffer.push(b'\n');
}
