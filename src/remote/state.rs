//! A session with a server elsewhere: what is known of it, and what is under way.
//!
//! What is said in it is in the files beside this one: messages down ([`super::down`]), requests ([`super::exchange`]), what the
//! server says ([`super::hear`]), its beginning and its stream ([`super::listen`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use event_listener::Event as Bell;
use futures_lite::FutureExt;

use super::client::{Client, Gate};
use super::inbox::Inbox;
use crate::model::modern::ParamHeaders;
use crate::model::upstream::Said;
use crate::rt::wait::Flag;
use crate::sys::lock::{Guard, Lock};

/// So many bytes wait on their way down before no more is taken.
const FULL: usize = 4 << 20;
/// So many messages without an answer are on their way at a time, beside those that have an order.
const TELLS: usize = 16;

/// How much of an answer that is no message is read, in bytes.
pub(super) const WORDS: usize = 64 << 10;
/// How long a notification may take to be accepted, and a request of our own to be answered.
pub(super) const TELLING: Duration = Duration::from_secs(20);
pub(super) const JSON: &str = "application/json";
pub(super) const EVENTS: &str = "text/event-stream";
pub(super) const BOTH: &str = "application/json, text/event-stream";

/// A session.
pub(crate) struct Session {
    pub(super) me: Weak<Session>,
    pub(super) client: Arc<Client>,
    pub(crate) inbox: Arc<Inbox>,
    pub(super) state: Lock<State>,
    /// A message has come that is to go down, or the last one has.
    pub(super) arrived: Bell,
    /// How many bytes are on their way down.
    pub(super) waiting: AtomicUsize,
    /// Something has gone, or is answered.
    pub(super) moved: Bell,
    /// Who waits until more may be sent.
    writer: Lock<Option<Waker>>,
    /// Requests whose answer has begun.
    pub(super) answering: AtomicUsize,
    /// Messages without an answer.
    pub(super) tells: Arc<Gate>,
    /// One at a time begins the session anew.
    pub(super) renewing: async_std::sync::Mutex<()>,
    /// One at a time asks for the tools.
    pub(super) learning: async_std::sync::Mutex<()>,
    pub(super) is_parting: AtomicBool,
    pub(super) lost: OnceLock<String>,
    pub(super) over: Flag,
}

#[derive(Default)]
pub(super) struct State {
    /// The id that the server has given.
    pub id: Option<String>,
    /// The revision that was agreed on.
    pub version: Option<String>,
    pub said: Said,
    /// How often the session was begun.
    pub turn: u64,
    /// What was written and is no whole line yet.
    pub begun: Vec<u8>,
    /// What is to go down, in its order.
    pub down: VecDeque<String>,
    /// Requests that are not answered, by their ids ([`key`]).
    pub open: HashMap<String, Arc<Open>>,
    /// Notifications that are to go down, in their order, and whether one of them is on its way.
    pub notes: VecDeque<String>,
    pub is_noting: bool,
    /// Messages without an answer that are on their way.
    pub telling: BTreeMap<u64, String>,
    pub tellings: u64,
    /// Ends the stream for what belongs to no request.
    pub listening: Option<Arc<Flag>>,
    /// The last event of that stream.
    pub last_event: Option<String>,
    /// Which arguments of which tools are repeated in headers.
    pub params: Option<Arc<ParamHeaders>>,
}

/// A request that is not answered.
pub(super) struct Open {
    pub text: String,
    /// Its client does not wait for it any more.
    pub given_up: Flag,
    /// Its answer came in another way than by its own exchange.
    pub answered: Flag,
    /// The last event of its stream.
    pub last_event: Lock<Option<String>>,
}

/// Why a request has no answer.
pub(super) struct Failure {
    pub text: String,
    /// The server is not reached: the session is over.
    pub is_lost: bool,
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, is_lost: false }
    }
}

/// An id in one way of writing it, whichever way it is written: strings without escapes, numbers by their value.
pub(super) fn key(id: &str) -> String {
    let number = || id.parse::<f64>().ok().filter(|n| n.fract() == 0.0 && n.abs() < 1e15);
    match number() {
        Some(number) if id.parse::<i64>().is_err() => format!("{number:.0}"),
        _ => crate::model::ids::canonical(id),
    }
}

impl Session {
    pub(super) fn with(client: Arc<Client>, state: State) -> Arc<Session> {
        Arc::new_cyclic(|me| Session {
            me: me.clone(),
            client,
            inbox: Arc::default(),
            state: Lock::new(state),
            arrived: Bell::new(),
            waiting: AtomicUsize::new(0),
            moved: Bell::new(),
            writer: Lock::default(),
            answering: AtomicUsize::new(0),
            tells: Gate::new(TELLS),
            renewing: async_std::sync::Mutex::default(),
            learning: async_std::sync::Mutex::default(),
            is_parting: AtomicBool::new(false),
            lost: OnceLock::new(),
            over: Flag::default(),
        })
    }

    pub(super) fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// Whether so much is on its way down that no more should be sent.
    fn is_full(&self) -> bool {
        self.waiting.load(SeqCst) > FULL && !self.over.is_set()
    }

    /// Ready once more may be sent.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_full() {
            *self.writer.lock() = Some(cx.waker().clone());
            // It may have changed before there was a waker.
            if self.is_full() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Something has moved: who waits for it looks again.
    pub(super) fn stir(&self) {
        self.moved.notify(usize::MAX);
        if let Some(writer) = self.writer.lock().take() {
            writer.wake();
        }
    }

    /// Waits for the end of the session: why the server is not reached, or None where it was ended from here.
    pub(crate) async fn over(&self) -> Option<String> {
        self.over.wait().await;
        self.lost.get().cloned()
    }

    /// Ends the session at once.
    pub(crate) fn cut(&self) {
        self.over.set();
        self.inbox.close();
        self.arrived.notify(usize::MAX);
        self.stir();
    }

    /// The server is not reached any more.
    pub(super) fn lose(&self, why: &str) {
        let _ = self.lost.set(format!("cannot be reached at {}: {why}", self.client.name()));
        self.cut();
    }

    /// The outcome, or None once the session is over.
    pub(super) async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let over = async {
            self.over.wait().await;
            None
        };
        async { Some(work.await) }.or(over).await
    }

    /// What each request of the session says.
    pub(super) fn fields(&self) -> Vec<(String, String)> {
        let state = self.state();
        let id = state.id.clone().map(|id| ("mcp-session-id".to_owned(), id));
        let version = state.version.clone().map(|version| ("mcp-protocol-version".to_owned(), version));
        id.into_iter().chain(version).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_in_whichever_way_it_is_written() {
        for (a, b) in [("1e2", "100"), ("100.0", "100"), (r#""\u00e9""#, "\"é\""), (r#""a\/b""#, r#""a/b""#)] {
            assert_eq!(key(a), key(b), "{a} {b}");
        }
        for (a, b) in [("1", "\"1\""), ("1.5", "1"), ("9007199254740993", "9007199254740992")] {
            assert_ne!(key(a), key(b), "{a} {b}");
        }
    }
}
