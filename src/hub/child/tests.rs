//! A child without a process: its pipes are in memory, and what it says is written by the test.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use event_listener::Event;
use nix::unistd::Pid;

use super::child::{Child, Identity, Observer, Parked};
use super::far::Far;
use super::slot::{Condition, Owner, Slot, Starting, Task};
use super::start::{StartFailure, work};
use super::supervisor;
use crate::hub::client::call::Call;
use crate::hub::client::outbox::Outbox;
use crate::hub::client::session::{Beginning, Session};
use crate::hub::context::{Boot, Context};
use crate::hub::counters::Dropped;
use crate::model::budget::Holder;
use crate::model::config::server::Mcp;
use crate::model::config::{Kind, sample};
use crate::model::envelope::{Envelope, scan};
use crate::model::last_words::LastWords;
use crate::model::method::Method;
use crate::model::out::Out;
use crate::model::restart::Ended;
use crate::model::status::ServerState;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::lines::Lines;
use crate::rt::live::Live;
use crate::rt::main_thread::Spawner;
use crate::rt::pipe::{Input, Output};
use crate::rt::wait::{Clock, timeout, until};
use crate::sys::lock::Lock;

/// A pipe in memory.
#[derive(Clone, Default)]
struct Pipe(Arc<Lock<Held>>);

#[derive(Default)]
struct Held {
    bytes: VecDeque<u8>,
    closed: bool,
    /// Nothing more can be written.
    full: bool,
    wakers: Vec<Waker>,
}

impl Pipe {
    fn put(&self, bytes: &[u8]) {
        let mut held = self.0.lock();
        held.bytes.extend(bytes);
        held.wakers.drain(..).for_each(Waker::wake);
    }

    fn close(&self) {
        let mut held = self.0.lock();
        held.closed = true;
        held.wakers.drain(..).for_each(Waker::wake);
    }

    /// Waits until what was written ends with this.
    async fn ends_with(&self, end: &str) -> String {
        let text = || String::from_utf8_lossy(self.0.lock().bytes.make_contiguous()).into_owned();
        let written = async {
            while !text().ends_with(end) {
                futures_lite::future::yield_now().await;
            }
        };
        assert!(timeout(Duration::from_secs(10), written).await.is_some(), "waited in vain for {end:?}: {}", text());
        text()
    }
}

impl Input for Pipe {
    fn poll_read(&self, cx: &mut TaskContext<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut held = self.0.lock();
        if held.bytes.is_empty() && !held.closed {
            held.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let n = buffer.len().min(held.bytes.len());
        held.bytes.drain(..n).zip(buffer).for_each(|(from, to)| *to = from);
        Poll::Ready(Ok(n))
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

impl Output for Pipe {
    fn poll_write(&self, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut held = self.0.lock();
        if held.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if held.full {
            held.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        held.bytes.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

/// Notes what a child says that answers no request.
#[derive(Default)]
struct Heard(Lock<Vec<String>>);

impl Observer for Heard {
    fn request(&self, _child: &Child, e: &Envelope<'_>) {
        self.0.lock().push(e.method.to_string());
    }

    fn notification(&self, _child: &Child, e: &Envelope<'_>) {
        self.0.lock().push(e.method.to_string());
    }
}

/// A child with its pipes, and a client that asks it.
struct Line {
    child: Arc<Child>,
    stdin: Pipe,
    stdout: Pipe,
    stderr: Pipe,
    heard: Arc<Heard>,
    session: Arc<Session>,
}

fn boot() -> Boot {
    Boot { spawner: Spawner::new().0, nofile: 1024, mark: "test-".to_owned(), session_key: None, at: Instant::now() }
}

fn stdio(text: &str) -> Arc<Mcp> {
    let config = sample::config(&format!("(servers: {{\"s\": Stdio(command: \"echo\", {text})}})"));
    match &config.servers["s"].kind {
        Kind::Mcp(mcp) => Arc::new((**mcp).clone()),
        _ => panic!("the text names a Mcp server"),
    }
}

impl Line {
    fn new() -> Line {
        let config = sample::config(r#"(limits: (reply: "64KiB"), servers: {"s": Stdio(command: "echo")})"#);
        let ctx = Context::new(boot(), config);
        let heard = Arc::new(Heard::default());
        let observer: Arc<dyn Observer> = heard.clone();
        let identity = Identity {
            far: Far::Process { pid: Pid::from_raw(i32::MAX), mark: "test-1".to_owned() },
            server: "s".into(),
            config: Live::new(stdio("")),
            observer: Arc::downgrade(&observer),
        };
        let child = Arc::new(Child::blank(&ctx, identity));
        let (stdin, stdout, stderr) = (Pipe::default(), Pipe::default(), Pipe::default());
        let limit = ctx.config().limits.reply.bytes();
        let pipes = Parked {
            stdin: Some((Box::new(stdin.clone()), Vec::new())),
            stdout: Some((Box::new(stdout.clone()), Lines::new(limit))),
            stderr: Some((Box::new(stderr.clone()), Lines::new(1000))),
            handle: None,
        };
        work(&child, pipes);
        let beginning = Beginning {
            kind: SessionKind::Lasting(Transport::Http),
            id: String::new(),
            holder: Holder::Session(1),
            server: "s".into(),
            place: 0,
            watchers: Arc::default(),
            above: vec![ctx.load.clone()],
        };
        let session = Arc::new(Session::new(&ctx, 1, beginning));
        Line { child, stdin, stdout, stderr, heard, session }
    }

    /// Sends a request of the client; the place of its answer.
    fn ask(&self, text: &str) -> Arc<Outbox> {
        let reply = Arc::new(Outbox::single(1 << 20));
        let e = scan(text).unwrap();
        let id = e.get(&e.id).unwrap();
        let call = Call::open(&self.session, Method::of(&e.method), id, e.get(&e.progress_token), &reply).unwrap();
        assert!(self.child.request(call, &e).is_none(), "given back");
        reply
    }

    fn count(&self, what: Dropped) -> u64 {
        self.child.ctx.counters.get(what)
    }
}

/// Runs a test, with an end.
fn run(test: impl Future<Output = ()>) {
    let whole = async { assert!(timeout(Duration::from_secs(20), test).await.is_some(), "it does not end") };
    futures_lite::future::block_on(whole);
}

async fn answer(reply: &Outbox) -> Out {
    reply.next().await.expect("an answer")
}

#[test]
fn replies_out_of_order_find_their_requests() {
    run(async {
        let line = Line::new();
        let first = line.ask(r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x"}}"#);
        let second = line.ask(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"y"}}"#);
        let sent = line.stdin.ends_with("{\"name\":\"y\"}}\n").await;
        assert_eq!(
            sent,
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\"}}\n\
             {\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"y\"}}\n"
        );
        assert_eq!((line.child.load.in_flight(), line.session.load.in_flight()), (2, 2));
        line.stdout.put(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"n\": 1.0}}\n{\"jsonrpc\":\"2.0\",");
        assert_eq!(answer(&second).await.text, r#"{"jsonrpc":"2.0","id":7,"result":{"n": 1.0}}"#);
        // The second half of a line may come at any time.
        line.stdout.put(b"\"id\":1,\"result\":{}}\n");
        assert_eq!(answer(&first).await.text, r#"{"jsonrpc":"2.0","id":"a","result":{}}"#);
        wait(|| line.child.load.in_flight() == 0 && line.session.load.in_flight() == 0).await;
    });
}

#[test]
fn late_double_and_unasked_replies_are_dropped_and_counted() {
    run(async {
        let line = Line::new();
        let reply = line.ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#);
        let cancelled = line.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"y"}}"#);
        let taken = line.child.cancel(|call| &*call.id == "2", "not wanted");
        assert_eq!(taken.len(), 1);
        drop(taken);
        line.stdin.ends_with("\"params\":{\"requestId\":2,\"reason\":\"not wanted\"}}\n").await;
        let double = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n";
        line.stdout
            .put(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}\n");
        line.stdout.put(double);
        line.stdout.put(double);
        assert_eq!(answer(&reply).await.text, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        line.stdout.close();
        line.child.stdout_eof.wait().await;
        assert_eq!(line.count(Dropped::UnownedReplies), 3);
        assert!(!cancelled.has_more());
    });
}

#[test]
fn an_endless_line_and_garbage_fail_the_request_that_they_answer() {
    run(async {
        let line = Line::new();
        let long = line.ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#);
        let broken = line.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"y"}}"#);
        line.stdout.put(b"a banner\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"");
        for _ in 0..100 {
            line.stdout.put(&[b'x'; 1000]);
            futures_lite::future::yield_now().await;
        }
        line.stdout.put(b"\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{]}\n");
        let out = answer(&long).await;
        assert!(out.failed && out.text.contains("more than limits.reply or limits.memory allows"), "{out:?}");
        let out = answer(&broken).await;
        assert!(out.failed && out.text.contains("is not valid"), "{out:?}");
        assert_eq!((line.count(Dropped::LongLines), line.count(Dropped::Garbage)), (1, 2));
    });
}

#[test]
fn a_child_that_dies_in_the_middle_fails_what_waits_and_repeats_its_words_to_their_owner_alone() {
    for private in [false, true] {
        dies_in_the_middle(private);
    }
}

fn dies_in_the_middle(private: bool) {
    run(async {
        let line = Line::new();
        if private {
            line.child.give_to(line.child.observer().map(|o| Arc::downgrade(&o)).unwrap());
        }
        let answered = line.ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#);
        let half = line.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"y"}}"#);
        let open = line.ask(r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"z"}}"#);
        line.stderr.put(b"no memory left\n");
        line.stdout.put(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n{\"jsonrpc\":\"2.0\",\"id\":2,");
        line.stdout.close();
        line.stderr.close();
        line.child.note_end(Ended::Exited(3)).await;
        assert_eq!(answer(&answered).await.text, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        let out = answer(&half).await;
        assert!(out.failed && out.text.contains("is not valid"), "{out:?}");
        let out = answer(&open).await;
        assert!(out.failed && out.text.contains("server 's' exited with status 3"), "{out:?}");
        // A shared child may have said it of another client's request.
        assert_eq!(out.text.contains(": no memory left"), private, "{out:?}");
        // It takes no more: the request can wait for the next child.
        let e = scan(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).unwrap();
        let call = Call::open(&line.session, Method::ToolsList, "4", None, &open).unwrap();
        assert!(line.child.request(call, &e).is_some());
    });
}

#[test]
fn a_child_that_does_not_read_refuses_requests_beyond_its_queue() {
    run(async {
        let line = Line::new();
        line.stdin.0.lock().full = true;
        let padding = "x".repeat(8 << 20);
        let mut replies = Vec::new();
        for n in 0..8 {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{n},"method":"tools/call","params":{{"name":"{padding}"}}}}"#);
            replies.push(line.ask(&text));
        }
        let out = answer(replies.last().unwrap()).await;
        assert!(
            out.failed
                && out.text.contains("does not read its input, and as much waits for it already as may (32768 KiB"),
            "{out:?}"
        );
        assert!(line.count(Dropped::ChildBusy) > 0);
        assert!(!replies[0].has_more(), "what was queued waits");
    });
}

#[test]
fn what_belongs_to_no_request_is_for_the_observer_and_a_ping_is_answered() {
    run(async {
        let line = Line::new();
        line.stdout.put(b"{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"ping\"}\n");
        line.stdin.ends_with("{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"result\":{}}\n").await;
        line.stdout.put(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"roots/list\"}\n");
        line.stdout.put(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n");
        line.stdout.close();
        line.child.stdout_eof.wait().await;
        assert_eq!(*line.heard.0.lock(), ["roots/list", "notifications/tools/list_changed"]);
    });
}

#[test]
fn progress_finds_its_request_and_puts_its_timeout_off() {
    run(async {
        let line = Line::new();
        let text =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":"t"},"name":"x"}}"#;
        let reply = line.ask(text);
        let silent = line.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"y"}}"#);
        line.stdin.ends_with("\"name\":\"y\"}}\n").await;
        let due = Instant::now() + line.child.config().request_timeout;
        let progress = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":1}}\n";
        line.stdout.put(progress.as_bytes());
        let out = answer(&reply).await;
        assert!(!out.answer && out.text.contains(r#""progressToken":"t""#), "{out:?}");
        // Of the two only the silent one is late at the time when both were due.
        line.child.expire(due);
        let out = answer(&silent).await;
        assert!(out.failed && out.text.contains("did not answer within"), "{out:?}");
        assert_eq!(line.child.load.in_flight(), 1);
        line.child.expire(due + line.child.config().request_max);
        assert!(answer(&reply).await.failed);
        assert_eq!(line.count(Dropped::Timeouts), 2);
    });
}

// --- the supervisor --------------------------------------------------------------------------------------------------

/// A clock that moves when it is told to.
struct TestClock {
    now: Lock<Instant>,
    moved: Arc<Event>,
    /// How many waits have begun.
    waits: AtomicUsize,
}

impl TestClock {
    fn advance(&self, time: Duration) {
        *self.now.lock() += time;
        self.moved.notify(usize::MAX);
    }
}

/// The clock as it is handed to those who go by it.
struct Shared(Arc<TestClock>);

impl Clock for Shared {
    fn now(&self) -> Instant {
        *self.0.now.lock()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (clock, due) = (self.0.clone(), self.now() + time);
        clock.waits.fetch_add(1, SeqCst);
        Box::pin(async move {
            let moved = clock.moved.clone();
            until(&moved, || (*clock.now.lock() >= due).then_some(())).await;
        })
    }
}

/// What a slot is for: starts that fail until they are to succeed, and the states that were entered.
struct Place {
    me: Weak<Place>,
    good: Lock<bool>,
    states: Lock<Vec<ServerState>>,
    next_start: Lock<Option<Duration>>,
    starts: Lock<usize>,
    ended: Lock<Vec<Ended>>,
    words: Lock<Vec<String>>,
    changed: Event,
    lines: Lock<Vec<Line>>,
}

impl Place {
    async fn state(&self, state: ServerState) {
        let last = || (self.states.lock().last() == Some(&state)).then_some(());
        let waited = timeout(Duration::from_secs(10), until(&self.changed, last)).await;
        assert!(waited.is_some(), "waited in vain for {state}: {:?}", self.states.lock());
    }
}

impl Owner for Place {
    fn start<'a>(&'a self, _slot: &'a Arc<Slot>) -> Starting<'a> {
        Box::pin(async {
            *self.starts.lock() += 1;
            if !*self.good.lock() {
                return Err(StartFailure::not_ready("it cannot".to_owned()));
            }
            let line = Line::new();
            let child = line.child.clone();
            self.lines.lock().push(line);
            Ok(child)
        })
    }

    fn ready(&self, _slot: &Arc<Slot>, _child: &Arc<Child>, _again: bool, _rested: bool) -> Option<Task> {
        assert!(self.me.upgrade().is_some());
        None
    }

    fn placed(&self, _slot: &Slot, _child: Option<&Arc<Child>>) {}

    fn entered(&self, _slot: &Slot, how: &Condition<'_>) {
        *self.next_start.lock() = how.next_start;
        self.states.lock().push(how.state);
        self.changed.notify(usize::MAX);
    }

    fn ended(&self, _slot: &Slot, how: Ended) {
        self.ended.lock().push(how);
    }

    fn said(&self, _slot: &Slot, words: &LastWords) {
        self.words.lock().push(words.in_a_line());
    }

    fn needs(&self, _child: &Child) -> bool {
        false
    }
}

#[test]
fn a_supervisor_backs_off_serves_starts_again_and_retires_by_the_clock_that_it_is_given() {
    run(async {
        let clock =
            Arc::new(TestClock { now: Lock::new(Instant::now()), moved: Arc::default(), waits: AtomicUsize::new(0) });
        let place = Arc::new_cyclic(|me| Place {
            me: me.clone(),
            good: Lock::new(false),
            states: Lock::default(),
            next_start: Lock::default(),
            starts: Lock::default(),
            ended: Lock::default(),
            words: Lock::default(),
            changed: Event::new(),
            lines: Lock::default(),
        });
        let owner: Weak<dyn Owner> = Arc::downgrade(&(place.clone() as Arc<dyn Owner>));
        let config =
            Live::new(stdio(r#"health: None, restart: (delay: "1h", max_delay: "2h", burst: 9, window: "9h")"#));
        let slot = Slot::new("server 's'".to_owned(), config, owner);
        let by: Arc<dyn Clock> = Arc::new(Shared(clock.clone()));
        supervisor::run(&slot, None, false, &by);

        place.state(ServerState::Backoff).await;
        let delay = place.next_start.lock().expect("a next start");
        assert!(delay <= Duration::from_secs(3600) && delay >= Duration::from_secs(1800), "{delay:?}");
        assert_eq!(*place.starts.lock(), 1);
        *place.good.lock() = true;
        wait(|| clock.waits.load(SeqCst) > 0).await;
        clock.advance(delay);
        place.state(ServerState::Ready).await;
        assert_eq!(*place.starts.lock(), 2);
        wait(|| place.ended.lock().len() == 1).await;
        let child = slot.child().expect("a child");

        // It dies, and the slot has none until the time is over.
        child.stderr.lock().push("no memory left");
        child.note_end(Ended::Signaled(9)).await;
        assert!(slot.child().is_none());
        child.reaped.set();
        place.state(ServerState::Backoff).await;
        wait(|| place.ended.lock().last() == Some(&Ended::Signaled(9))).await;
        assert_eq!(*place.words.lock(), ["no memory left"]);
        assert_eq!(slot.words().lines(), ["no memory left"]);
        // A reload tries at once.
        slot.retry();
        place.state(ServerState::Ready).await;
        assert_eq!(*place.starts.lock(), 3);
        assert!(slot.words().is_empty(), "there is another child");

        // Other settings: the child goes once nothing is open, and another comes.
        let old = slot.child().expect("a child");
        let open = place.lines.lock().last().unwrap().ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
        slot.renew();
        place.state(ServerState::Stopping).await;
        assert!(slot.child().is_some(), "it serves as long as something is open");
        place.lines.lock().last().unwrap().stdout.put(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n");
        assert!(!answer(&open).await.failed);
        wait(|| old.stopping.load(SeqCst)).await;
        old.note_end(Ended::Exited(0)).await;
        old.reaped.set();
        place.state(ServerState::Ready).await;
        assert_eq!(*place.starts.lock(), 4);

        let last = slot.child().expect("a child");
        slot.retire();
        wait(|| last.stopping.load(SeqCst)).await;
        last.note_end(Ended::Exited(0)).await;
        last.reaped.set();
        slot.done.wait().await;
        assert_eq!(place.states.lock().last(), Some(&ServerState::Stopped));
    });
}

/// Waits until something is so.
async fn wait(so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            futures_lite::future::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(10), waited).await.is_some(), "waited in vain");
}
