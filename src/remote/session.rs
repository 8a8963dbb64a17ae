//! A session of the protocol with a server elsewhere: messages go down as requests, and what comes of them goes up as lines.
//!
//! Both eras pass (2025-11-25 and 2026-07-28 basic/transports/streamable-http). A server that has forgotten its session gets a
//! new one, and nobody notices. What a request fails of is its answer; where the server is not reached, the session is over.
//! What the requests are for, and whose, is not known here.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_listener::Event as Bell;
use futures_lite::FutureExt;
use hyper::{Method, StatusCode, header};
use log::debug;
use serde::{Deserialize, Serialize};

use super::client::{Answer, Client, Message, Settings, Trouble};
use super::inbox::Inbox;
use crate::model::envelope::{Envelope, Fault, Kind, batch, decode, member, members, scan, scan_client, spliced};
use crate::model::event_stream::Decoder;
use crate::model::modern::{HEADER_MISMATCH, ParamHeaders, param_headers};
use crate::model::text::printable;
use crate::model::upstream::{Said, headers};
use crate::model::{jsonrpc, method, modern};
use crate::rt::blocking::{LONG, busy};
use crate::rt::task;
use crate::rt::wait::{Flag, sleep, timeout, until};
use crate::sys::lock::{Guard, Lock};

/// The id of a request whose answer is for nobody.
const OWN: &str = "mcpdaemon-0";
/// So many bytes wait on their way down before no more is taken.
const FULL: usize = 4 << 20;
/// How long a notification may take to be accepted.
const TELLING: Duration = Duration::from_secs(30);
/// How long a setting may take, before what follows is sent all the same.
const IN_ORDER: Duration = Duration::from_secs(2);
/// How long the end of the session may take.
const PARTING: Duration = Duration::from_secs(2);
/// How long the server may ask to be left alone, so that the request waits for it; and how often in a row.
const PATIENCE: (Duration, u32) = (Duration::from_secs(10), 3);
/// The pause before a stream is opened again, where the server names none; it doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The pause before a server that is waited for is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// So often in a row a stream may fail to be opened again.
const FAILURES: u32 = 3;
/// How much of an answer that is no message is read, in bytes.
const WORDS: usize = 64 << 10;
/// The most pages of tools that are asked for.
const PAGES: usize = 100;
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const BOTH: &str = "application/json, text/event-stream";

/// A session.
pub(crate) struct Session {
    me: Weak<Session>,
    client: Arc<Client>,
    pub(crate) inbox: Arc<Inbox>,
    down: async_channel::Sender<String>,
    /// How many bytes are on their way down.
    waiting: AtomicUsize,
    /// Some of them have gone, or a request is answered.
    moved: Bell,
    /// Who waits until more may be sent.
    writer: Lock<Option<Waker>>,
    state: Lock<State>,
    /// One at a time begins the session anew.
    renewing: async_std::sync::Mutex<()>,
    /// One at a time asks for the tools.
    learning: async_std::sync::Mutex<()>,
    is_parting: AtomicBool,
    lost: OnceLock<String>,
    over: Flag,
}

#[derive(Default)]
struct State {
    /// The id that the server has given.
    id: Option<String>,
    /// The revision that was agreed on.
    version: Option<String>,
    said: Said,
    /// How often the session was begun.
    turn: u64,
    /// Requests that are not answered, by their ids as they are written.
    open: HashMap<String, Arc<Open>>,
    /// Ends the stream for what belongs to no request.
    listening: Option<Arc<Flag>>,
    /// The last event of that stream.
    last_event: Option<String>,
    /// Which arguments of which tools are repeated in headers.
    params: Option<Arc<ParamHeaders>>,
}

/// A request that is not answered.
struct Open {
    text: String,
    /// Its client does not wait for it any more.
    given_up: Flag,
    /// The last event of its stream.
    last_event: Lock<Option<String>>,
}

/// What another process needs to go on with a session.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    id: Option<String>,
    version: Option<String>,
    said: Said,
    last_event: Option<String>,
    is_listening: bool,
    /// Requests that are not answered, each with the last event of its stream.
    open: Vec<(String, Option<String>)>,
    /// What was said and not read.
    rest: String,
}

/// Why a server cannot be used.
pub(crate) enum Unreached {
    /// There is no connection to it.
    Connection(String),
    /// It does not answer as a server does.
    Answer(String),
    /// It does not let its client in.
    Barred(String),
    /// It is not at this URL.
    Absent(String),
}

/// Why a request has no answer.
struct Failure {
    text: String,
    /// The server is not reached: the session is over.
    is_lost: bool,
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, is_lost: false }
    }
}

/// How a stream has ended.
enum Ended {
    Answered(Option<String>),
    /// Before the answer: the last event, and when to ask again.
    Early(Option<String>, Duration),
}

impl Session {
    /// A session in which nothing was said, or one of another process.
    pub(crate) fn new(settings: Settings, saved: Option<Saved>) -> Arc<Session> {
        let (down, messages) = async_channel::unbounded();
        let saved = saved.unwrap_or_default();
        let session = Arc::new_cyclic(|me: &Weak<Session>| Session {
            me: me.clone(),
            client: Client::new(settings),
            inbox: Arc::default(),
            down,
            waiting: AtomicUsize::new(0),
            moved: Bell::new(),
            writer: Lock::default(),
            state: Lock::new(State {
                id: saved.id,
                version: saved.version,
                said: saved.said,
                last_event: saved.last_event,
                ..State::default()
            }),
            renewing: async_std::sync::Mutex::default(),
            learning: async_std::sync::Mutex::default(),
            is_parting: AtomicBool::new(false),
            lost: OnceLock::new(),
            over: Flag::default(),
        });
        if !saved.rest.is_empty() {
            session.inbox.push(saved.rest.into_bytes());
        }
        if saved.is_listening {
            session.listen();
        }
        for (text, last_event) in saved.open {
            session.go_on(text, last_event);
        }
        task::spawn(session.clone().work(messages));
        session
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// Sends a message of the client, one line.
    fn send(&self, text: String) {
        self.waiting.fetch_add(text.len(), SeqCst);
        if self.down.try_send(text).is_err() {
            debug!("{}: the session is over, and a message is dropped", self.client.name());
        }
    }

    /// Sends what of this is whole lines; the rest is kept in `begun` until it is.
    pub(crate) fn send_lines(&self, begun: &mut Vec<u8>, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            begun.extend_from_slice(&rest[..end]);
            let line = String::from_utf8_lossy(&std::mem::take(begun)).into_owned();
            if !line.trim().is_empty() {
                self.send(line);
            }
            rest = &rest[end + 1..];
        }
        begun.extend_from_slice(rest);
    }

    /// Whether so much is on its way down that no more should be sent.
    pub(crate) fn is_full(&self) -> bool {
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
    fn stir(&self) {
        self.moved.notify(usize::MAX);
        if let Some(writer) = self.writer.lock().take() {
            writer.wake();
        }
    }

    /// Whether the server can be reached, and lets its client in; it is asked for nothing that matters.
    pub(crate) async fn reach(&self) -> Result<(), Unreached> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":"{OWN}","method":"{}"}}"#, method::PING);
        let message =
            Message { method: Method::POST, accept: BOTH, fields: Vec::new(), body: text.into(), may_repeat: true };
        let mut answer = self.client.send(&message).await.map_err(|trouble| match trouble {
            Trouble::Unreachable(why) => Unreached::Connection(why),
            Trouble::Broken(why) => Unreached::Answer(why),
        })?;
        let status = answer.status;
        if matches!(status.as_u16(), 401 | 403 | 404 | 405) {
            let (body, _) =
                timeout(TELLING, answer.whole(WORDS)).await.unwrap_or(Ok((Vec::new(), true))).unwrap_or_default();
            let text = String::from_utf8_lossy(&body);
            let said = member(text.trim(), "error").and_then(|e| member(e, "message")).map(decode);
            let said = said.map_or_else(|| status.to_string(), |said| printable(&said, 300));
            return Err(if matches!(status.as_u16(), 401 | 403) {
                Unreached::Barred(said)
            } else {
                Unreached::Absent(said)
            });
        }
        Ok(())
    }

    /// The client says nothing more: the server hears of it, and the session is over.
    pub(crate) fn hang_up(&self) {
        if !self.is_parting.swap(true, SeqCst) {
            self.down.close();
        }
    }

    /// Ends the session at once.
    pub(crate) fn cut(&self) {
        self.down.close();
        self.end();
    }

    /// Waits for the end of the session: why the server is not reached, or None where it was ended from here.
    pub(crate) async fn over(&self) -> Option<String> {
        self.over.wait().await;
        self.lost.get().cloned()
    }

    /// How many requests are not answered.
    pub(crate) fn under_way(&self) -> usize {
        self.state().open.len()
    }

    /// Waits until none is.
    pub(crate) async fn rested(&self) {
        until(&self.moved, || (self.under_way() == 0 || self.over.is_set()).then_some(())).await;
    }

    /// What another process needs to go on with it.
    pub(crate) fn save(&self) -> Saved {
        let rest = String::from_utf8_lossy(&self.inbox.rest()).into_owned();
        let state = self.state();
        let open = |open: &Arc<Open>| (open.text.clone(), open.last_event.lock().clone());
        Saved {
            id: state.id.clone(),
            version: state.version.clone(),
            said: state.said.clone(),
            last_event: state.last_event.clone(),
            is_listening: state.listening.is_some(),
            open: state.open.values().map(open).collect(),
            rest,
        }
    }

    fn end(&self) {
        self.over.set();
        self.inbox.close();
        self.stir();
    }

    /// The server is not reached any more.
    fn lose(&self, why: &str) {
        let _ = self.lost.set(format!("cannot be reached at {}: {why}", self.client.name()));
        self.down.close();
        self.end();
    }

    /// The outcome, or None once the session is over.
    async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let over = async {
            self.over.wait().await;
            None
        };
        async { Some(work.await) }.or(over).await
    }

    /// Takes what is sent down, in its order.
    async fn work(self: Arc<Self>, messages: async_channel::Receiver<String>) {
        while let Some(Ok(text)) = self.unless_over(messages.recv()).await {
            let length = text.len();
            self.unless_over(self.take(text)).await;
            self.waiting.fetch_sub(length, SeqCst);
            self.stir();
        }
        if !self.over.is_set() {
            timeout(PARTING, self.part()).await;
            self.end();
        }
    }

    /// Takes what is one message, or a batch, or none.
    async fn take(self: &Arc<Self>, text: String) {
        let changed = match scan_client(&text) {
            Ok(_) => None,
            Err(Fault::Inexact(changes)) => Some(vec![spliced(&text, &changes)]),
            Err(Fault::Batch) => Some(batch(&text).unwrap_or_default().into_iter().map(str::to_owned).collect()),
            Err(_) => Some(Vec::new()),
        };
        match changed {
            None => self.take_one(text).await,
            Some(all) if all.is_empty() => {
                let why = "this line is no JSON-RPC message";
                self.inbox.push(line(jsonrpc::error(None, jsonrpc::PARSE_ERROR, why).into_bytes()));
            }
            Some(all) => {
                for one in all {
                    Box::pin(self.take(one)).await;
                }
            }
        }
    }

    /// Takes one message.
    async fn take_one(self: &Arc<Self>, text: String) {
        let Ok(e) = scan_client(&text) else { return };
        self.state().said.note(&e);
        let begins = matches!(e.method.as_ref(), method::INITIALIZE | method::INITIALIZED);
        match (e.kind, e.get(&e.id)) {
            (Kind::Request, Some(id)) => {
                let id = id.to_owned();
                let limit = match e.method.as_ref() {
                    // What follows needs what the server says now.
                    method::INITIALIZE => Duration::MAX,
                    // On a line, what follows comes after it. Two requests over HTTP may come in any order.
                    method::SET_LEVEL | method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE => IN_ORDER,
                    _ => Duration::ZERO,
                };
                let running = self.begin(id, text, None);
                if limit == Duration::MAX {
                    running.await;
                } else if !limit.is_zero() {
                    timeout(limit, running).await;
                }
            }
            (Kind::Notification, _) if e.method == method::CANCELLED => {
                let is_modern = self.give_up(e.get(&e.request_id).unwrap_or_default());
                if !is_modern {
                    let me = self.clone();
                    task::spawn(async move { me.tell(text).await });
                }
            }
            (Kind::Notification, _) if begins => {
                self.tell(text).await;
                self.listen();
            }
            _ => {
                let me = self.clone();
                task::spawn(async move { me.tell(text).await });
            }
        }
    }

    /// Gives up a request. Whether it is of the modern era, in which the server hears of it by the end of the exchange.
    fn give_up(&self, id: &str) -> bool {
        let open = self.state().open.get(id).cloned();
        let Some(open) = open else { return false };
        open.given_up.set();
        scan(&open.text).is_ok_and(|e| modern::claimed(&e))
    }

    /// Begins a request, or goes on with one at what followed an event.
    fn begin(self: &Arc<Self>, id: String, text: String, last_event: Option<String>) -> task::JoinHandle<()> {
        let open = Arc::new(Open { text, given_up: Flag::default(), last_event: Lock::new(last_event) });
        self.state().open.insert(id.clone(), open.clone());
        let me = self.clone();
        task::spawn(async move {
            let given_up = async {
                open.given_up.wait().await;
                None
            };
            let exchange = async { Some(me.exchange(&id, &open).await) };
            // One that is given up leaves its connection, which is closed by that.
            let outcome = me.unless_over(given_up.or(exchange)).await.flatten();
            me.state().open.remove(&id);
            if let Some(Err(failure)) = outcome {
                let text = format!("{} {}", me.client.name(), failure.text);
                if failure.is_lost {
                    me.lose(&failure.text);
                } else {
                    me.inbox.push(line(jsonrpc::error(Some(&id), jsonrpc::INTERNAL_ERROR, &text).into_bytes()));
                }
            }
            me.stir();
        })
    }

    /// Goes on with a request that another process has sent.
    fn go_on(self: &Arc<Self>, text: String, last_event: Option<String>) {
        let Ok(e) = scan(&text) else { return };
        let Some(id) = e.get(&e.id).map(str::to_owned) else { return };
        if last_event.is_some() || may_repeat(&e) {
            self.begin(id, text, last_event);
            return;
        }
        let why = format!(
            "{}: the connection ended when the daemon was upgraded, before the answer; this request may have run",
            self.client.name()
        );
        self.inbox.push(line(jsonrpc::error(Some(&id), jsonrpc::INTERNAL_ERROR, &why).into_bytes()));
    }

    /// Sends a request and passes on what comes of it, up to its answer.
    async fn exchange(self: &Arc<Self>, id: &str, open: &Open) -> Result<(), Failure> {
        let e = scan(&open.text).map_err(|_| "was sent no message".to_owned())?;
        let mut kept = self.client.hold();
        if !kept.set(open.text.len()) {
            return Err("is not asked: there is no memory for it now (limits.memory)".to_owned().into());
        }
        // A subscription takes no place from others for as long as it lasts.
        let _place = match e.method == method::LISTEN {
            true => None,
            false => Some(self.client.place().await),
        };
        let is_modern = modern::claimed(&e);
        let (mut is_renewed, mut is_learnt, mut patience, mut cuts) = (false, false, 0, 0);
        loop {
            let resume = open.last_event.lock().clone();
            let turn = self.state().turn;
            let message = match &resume {
                Some(last) => self.stream_request(Some(last)),
                None => self.post(&e).await?,
            };
            let has_id = message.fields.iter().any(|(name, _)| name == "mcp-session-id");
            let mut answer = match self.request(&message).await {
                Ok(answer) => answer,
                Err(Trouble::Unreachable(why)) if self.client.patience().is_zero() => {
                    return Err(Failure { text: why, is_lost: true });
                }
                Err(Trouble::Unreachable(why)) => return Err(format!("cannot be reached: {why}").into()),
                Err(Trouble::Broken(why)) => return Err(broken(&why).into()),
            };
            match answer.status.as_u16() {
                200..=299 => {}
                404 if has_id && resume.is_none() && !is_renewed && e.method != method::INITIALIZE => {
                    drop(answer);
                    self.renew(turn).await.map_err(|why| format!("has forgotten the session, and {why}"))?;
                    is_renewed = true;
                    continue;
                }
                404 if resume.is_some() => return Err(broken("the server has forgotten the session").into()),
                429 | 503 if patience < PATIENCE.1 => match asks_to_wait(&answer) {
                    Some(time) if time <= PATIENCE.0 => {
                        drop(answer);
                        sleep(time).await;
                        patience += 1;
                        continue;
                    }
                    _ => return self.refused(answer, id).await,
                },
                400 if is_modern && e.method == method::TOOLS_CALL && !is_learnt => {
                    let (body, _) = answer.whole(WORDS).await.map_err(|why| broken(&why))?;
                    let text = String::from_utf8_lossy(&body).into_owned();
                    if modern::error_code(&text) == Some(HEADER_MISMATCH) {
                        // Its tools have changed meanwhile. The call did not run.
                        self.state().params = None;
                        is_learnt = true;
                        continue;
                    }
                    return self.refused_with(&answer, text, id).await;
                }
                _ => return self.refused(answer, id).await,
            }
            if e.method == method::INITIALIZE {
                self.state().id = answer.field("mcp-session-id").map(str::to_owned);
            }
            let learns = e.method == method::INITIALIZE;
            let ended = match answer.content_type().as_str() {
                JSON => {
                    let mut held = self.client.hold();
                    let whole = answer.whole_held(self.client.longest(), Some(&mut *held)).await;
                    let (body, is_whole) = whole.map_err(|why| broken(&why))?;
                    if !is_whole {
                        return Err(self.too_long().into());
                    }
                    match self.deliver(body, Some(id), learns).await {
                        (true, text) => Ended::Answered(text),
                        (false, _) => return Err("answered with something else than the response".to_owned().into()),
                    }
                }
                EVENTS => {
                    let note = |last: Option<&str>| *open.last_event.lock() = last.map(str::to_owned);
                    self.read(&mut answer, resume, Some(id), learns, &note).await?
                }
                _ if answer.status == StatusCode::ACCEPTED => {
                    return Err("accepted the request as if it were a notification: there will be no response"
                        .to_owned()
                        .into());
                }
                other => {
                    let what = if other.is_empty() { "no content".to_owned() } else { printable(other, 100) };
                    return Err(format!(
                        "answered with {what} in place of {JSON} or {EVENTS}: is this the URL of an MCP server?"
                    )
                    .into());
                }
            };
            match ended {
                Ended::Answered(text) => {
                    self.learn(&e, text);
                    return Ok(());
                }
                Ended::Early(last, pause) if !is_modern && last.is_some() && cuts < FAILURES => {
                    // What it has sent so far shows life.
                    cuts = if last.as_deref() == open.last_event.lock().as_deref() { cuts + 1 } else { 0 };
                    *open.last_event.lock() = last;
                    sleep(pause).await;
                }
                Ended::Early(..) => return Err(broken("the stream ended").into()),
            }
        }
    }

    /// Sends a request, and waits for the server where it is not reached, if it is to be waited for.
    async fn request(&self, message: &Message) -> Result<Answer, Trouble> {
        let (begin, mut pause) = (Instant::now(), AGAIN.0);
        loop {
            match self.client.send(message).await {
                Err(Trouble::Unreachable(_)) if begin.elapsed() < self.client.patience() => {
                    sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                }
                outcome => return outcome,
            }
        }
    }

    /// The HTTP request for a message.
    async fn post(self: &Arc<Self>, e: &Envelope<'_>) -> Result<Message, Failure> {
        let fields = if modern::claimed(e) {
            let known = match e.method == method::TOOLS_CALL {
                true => self.params().await,
                false => None,
            };
            headers(e, known.as_deref())
        } else if e.method == method::INITIALIZE {
            Vec::new()
        } else {
            self.session_fields()
        };
        Ok(Message {
            method: Method::POST,
            accept: BOTH,
            fields,
            body: Bytes::copy_from_slice(e.text().as_bytes()),
            may_repeat: may_repeat(e),
        })
    }

    /// What each request of a session says.
    fn session_fields(&self) -> Vec<(String, String)> {
        let state = self.state();
        let id = state.id.clone().map(|id| ("mcp-session-id".to_owned(), id));
        let version = state.version.clone().map(|version| ("mcp-protocol-version".to_owned(), version));
        id.into_iter().chain(version).collect()
    }

    /// The request for a stream.
    fn stream_request(&self, last_event: Option<&str>) -> Message {
        let mut fields = self.session_fields();
        fields.extend(last_event.map(|last| ("last-event-id".to_owned(), last.to_owned())));
        Message { method: Method::GET, accept: EVENTS, fields, body: Bytes::new(), may_repeat: true }
    }

    /// Reads a stream, up to the response to the request `id` or to its end. `note` gets the id of each event.
    async fn read(
        &self,
        answer: &mut Answer,
        last_event: Option<String>,
        id: Option<&str>,
        keeps: bool,
        note: &(dyn Fn(Option<&str>) + Sync),
    ) -> Result<Ended, Failure> {
        let mut decoder = Decoder::new(self.client.longest(), last_event);
        let mut held = self.client.hold();
        let pause = |decoder: &Decoder| {
            let asked = decoder.retry().map(Duration::from_millis);
            asked.map_or(PAUSES.0, |time| time.clamp(AGAIN.0, PAUSES.1))
        };
        loop {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // A connection that is cut is the end of the stream.
                Err(why) => {
                    debug!("{}: a stream is cut: {why}", self.client.name());
                    break;
                }
            };
            for event in decoder.push(&chunk) {
                if event.name != "message" {
                    continue;
                }
                let Some(data) = event.data else {
                    return Err(self.too_long().into());
                };
                if let (true, text) = self.deliver(data, id, keeps).await {
                    return Ok(Ended::Answered(text));
                }
            }
            note(decoder.last_id());
            if !held.set(decoder.held()) {
                return Err(self.too_long().into());
            }
        }
        Ok(Ended::Early(decoder.last_id().map(str::to_owned), pause(&decoder)))
    }

    /// Passes on what the server says. Whether it is the response to the request `id`, and its text, if that is wanted.
    async fn deliver(&self, bytes: Vec<u8>, id: Option<&str>, keeps: bool) -> (bool, Option<String>) {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        };
        let (id, is_long) = (id.map(str::to_owned), text.len() > LONG);
        let sort = move || sort(&text, id.as_deref());
        // To read a long message takes its time, which is not taken from others.
        let sorted = if is_long { busy(sort).await } else { sort() };
        let (mut is_answered, mut kept) = (false, None);
        for (text, answers) in sorted {
            self.inbox.has_room().await;
            is_answered |= answers;
            if text.contains(method::TOOLS_CHANGED) && text.len() < WORDS {
                self.state().params = None;
            }
            if answers && keeps {
                kept = Some(text.clone());
            }
            self.inbox.push(line(text.into_bytes()));
        }
        (is_answered, kept)
    }

    /// Notes what the answer to a request says of the session.
    fn learn(&self, e: &Envelope<'_>, answer: Option<String>) {
        let Some(result) = answer.as_deref().and_then(|text| member(text, "result")) else { return };
        if e.method == method::INITIALIZE {
            let version = member(result, "protocolVersion").map(|v| decode(v).into_owned());
            let fine = |v: &String| v.len() < 100 && v.bytes().all(|b| b.is_ascii_graphic());
            self.state().version = version.filter(fine);
        }
    }

    fn too_long(&self) -> String {
        format!("answered with more than limits.reply ({} bytes) or limits.memory allows", self.client.longest())
    }

    /// The server refuses a request.
    async fn refused(&self, mut answer: Answer, id: &str) -> Result<(), Failure> {
        let (body, _) = answer.whole(WORDS).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        self.refused_with(&answer, text, id).await
    }

    /// The server refuses a request, and says this.
    async fn refused_with(&self, answer: &Answer, text: String, id: &str) -> Result<(), Failure> {
        let is_json = text.trim_start().starts_with('{') && member(text.trim(), "error").is_some();
        if is_json && self.deliver(text.clone().into_bytes(), Some(id), false).await.0 {
            return Ok(());
        }
        let status = answer.status;
        let why = match status.as_u16() {
            401 if answer.field(header::WWW_AUTHENTICATE).is_some_and(|v| v.contains("resource_metadata")) => {
                let mine = self.client.credentials();
                format!("; it wants OAuth, which a child such as mcp-remote can do for it, or a token in {mine}")
            }
            401 | 403 => format!(": it does not accept what {} has", self.client.credentials()),
            404 | 405 => ": is this the URL of an MCP server over Streamable HTTP?".to_owned(),
            429 | 503 => {
                asks_to_wait(answer).map_or(String::new(), |time| format!("; it asks to wait {} s", time.as_secs()))
            }
            _ => String::new(),
        };
        let words = printable(text.trim(), 200);
        let words =
            if words.is_empty() || text.trim_start().starts_with('<') { String::new() } else { format!(" ({words})") };
        Err(Failure { text: format!("answered {status}{why}{words}"), is_lost: false })
    }

    /// Sends what has no answer. It is lost where the server does not take it.
    async fn tell(self: &Arc<Self>, text: String) {
        let Ok(e) = scan(&text) else { return };
        for _ in 0..2 {
            let turn = self.state().turn;
            let Ok(message) = self.post(&e).await else { return };
            let sent = self.unless_over(timeout(TELLING, self.request(&message))).await;
            match sent.flatten() {
                Some(Ok(mut answer)) => {
                    if answer.status == StatusCode::NOT_FOUND
                        && e.kind != Kind::Response
                        && self.renew(turn).await.is_ok()
                    {
                        continue;
                    }
                    if !answer.status.is_success() {
                        debug!("{}: '{}' is not taken: {}", self.client.name(), e.method, answer.status);
                    }
                    let _ = timeout(TELLING, answer.whole(WORDS)).await;
                }
                Some(Err(Trouble::Unreachable(why))) if self.client.patience().is_zero() => self.lose(&why),
                Some(Err(Trouble::Unreachable(why))) => debug!("{}: '{}' is lost: {why}", self.client.name(), e.method),
                Some(Err(Trouble::Broken(why))) => debug!("{}: '{}' may be lost: {why}", self.client.name(), e.method),
                None => debug!("{}: '{}' may be lost: no answer", self.client.name(), e.method),
            }
            return;
        }
    }

    /// Begins the session anew, unless that was done since the `seen` turn.
    async fn renew(self: &Arc<Self>, seen: u64) -> Result<(), String> {
        let _one = self.renewing.lock().await;
        let (turn, said, had) = {
            let state = self.state();
            (state.turn, state.said.clone(), state.id.is_some())
        };
        if turn != seen {
            return Ok(());
        }
        let greeting = said.greeting().filter(|_| had).ok_or("there is none to begin anew")?;
        debug!("{}: the server has forgotten the session; it is begun anew", self.client.name());
        let (result, id) = self.ask(&greeting, None).await.map_err(|why| format!("a new one was not begun: {why}"))?;
        {
            let mut state = self.state();
            state.id = id;
            state.version = member(&result, "protocolVersion").map(|v| decode(v).into_owned());
            state.last_event = None;
            state.turn += 1;
        }
        if said.is_complete() {
            let message = Message {
                method: Method::POST,
                accept: BOTH,
                fields: self.session_fields(),
                body: jsonrpc::notification(method::INITIALIZED, None).into(),
                may_repeat: true,
            };
            if let Some(Ok(mut answer)) = timeout(TELLING, self.client.send(&message)).await {
                let _ = timeout(TELLING, answer.whole(WORDS)).await;
            }
            for text in said.settings() {
                if let Err(why) = self.ask(&text, Some(self.session_fields())).await {
                    debug!("{}: a setting of the session is lost: {why}", self.client.name());
                }
            }
            self.listen();
        }
        Ok(())
    }

    /// Sends a request of our own: the result, and the id of the session that begins by it.
    async fn ask(
        self: &Arc<Self>,
        text: &str,
        fields: Option<Vec<(String, String)>>,
    ) -> Result<(String, Option<String>), String> {
        let asking = async {
            let body = Bytes::copy_from_slice(text.as_bytes());
            let message = Message {
                method: Method::POST,
                accept: BOTH,
                fields: fields.unwrap_or_default(),
                body,
                may_repeat: true,
            };
            let mut answer = self.request(&message).await.map_err(|trouble| match trouble {
                Trouble::Unreachable(why) | Trouble::Broken(why) => why,
            })?;
            if !answer.status.is_success() {
                return Err(format!("it answered {}", answer.status));
            }
            let id = answer.field("mcp-session-id").map(str::to_owned);
            let wanted = scan(text).ok().and_then(|e| e.get(&e.id).map(str::to_owned)).unwrap_or_default();
            let response = match answer.content_type().as_str() {
                EVENTS => self.find(&mut answer, &wanted).await?,
                _ => {
                    let (body, _) = answer.whole(self.client.longest()).await?;
                    String::from_utf8_lossy(&body).into_owned()
                }
            };
            let result = member(response.trim(), "result").ok_or_else(|| {
                format!("it answered {}", printable(member(response.trim(), "error").unwrap_or(&response), 200))
            })?;
            Ok((result.to_owned(), id))
        };
        timeout(TELLING, asking).await.unwrap_or_else(|| Err("it did not answer".to_owned()))
    }

    /// The response to a request of our own in a stream. The rest of it is passed on.
    async fn find(&self, answer: &mut Answer, wanted: &str) -> Result<String, String> {
        let mut decoder = Decoder::new(self.client.longest(), None);
        while let Some(chunk) = answer.chunk().await? {
            for data in decoder.push(&chunk).into_iter().filter_map(|event| event.data) {
                let text = String::from_utf8_lossy(&data).into_owned();
                let is_response = scan(&text).is_ok_and(|e| e.kind == Kind::Response && e.get(&e.id) == Some(wanted));
                if is_response {
                    return Ok(text);
                }
                self.deliver(data, None, false).await;
            }
        }
        Err("its stream ended before the answer".to_owned())
    }

    /// Which arguments of which tools are repeated in headers; asked of the server once, and again after its tools changed.
    async fn params(self: &Arc<Self>) -> Option<Arc<ParamHeaders>> {
        let _one = self.learning.lock().await;
        if let Some(known) = self.state().params.clone() {
            return Some(known);
        }
        let (mut all, mut cursor) = (ParamHeaders::new(), None::<String>);
        let meta = modern::own_meta(env!("CARGO_PKG_VERSION"));
        for _ in 0..PAGES {
            let params = match &cursor {
                Some(cursor) => format!("{{\"cursor\":{cursor},{}", meta.trim_start_matches('{')),
                None => meta.clone(),
            };
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":"mcpdaemon-tools","method":"{}","params":{params}}}"#,
                method::TOOLS_LIST
            );
            let fields = scan(&text).map(|e| headers(&e, None)).unwrap_or_default();
            let Ok((result, _)) = self.ask(&text, Some(fields)).await else { break };
            let read = move || {
                param_headers(&result, &mut all);
                let cursor = member(&result, "nextCursor").filter(|c| *c != "null").map(str::to_owned);
                (all, cursor)
            };
            (all, cursor) = busy(read).await;
            if cursor.is_none() {
                break;
            }
        }
        let all = Arc::new(all);
        self.state().params = Some(all.clone());
        Some(all)
    }

    /// Opens the stream for what belongs to no request, in place of the one that there is.
    fn listen(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let stop = Arc::new(Flag::default());
        if let Some(before) = self.state().listening.replace(stop.clone()) {
            before.set();
        }
        task::spawn(async move {
            let stopped = async {
                stop.wait().await;
                true
            };
            let listening = async {
                me.keep_listening().await;
                false
            };
            let ended = me.unless_over(stopped.or(listening)).await;
            if ended == Some(false) {
                me.state().listening = None;
            }
        });
    }

    /// Reads that stream, and opens it again, until the server has none.
    async fn keep_listening(self: &Arc<Self>) {
        let (mut pause, mut failures) = (PAUSES.0, 0);
        loop {
            let (turn, last) = {
                let state = self.state();
                (state.turn, state.last_event.clone())
            };
            let mut wait = pause;
            match self.client.send(&self.stream_request(last.as_deref())).await {
                Ok(mut answer) if answer.status.is_success() && answer.content_type() == EVENTS => {
                    failures = 0;
                    let before = Instant::now();
                    let note = |last: Option<&str>| self.state().last_event = last.map(str::to_owned);
                    if let Ok(Ended::Early(_, asked)) = self.read(&mut answer, last, None, false, &note).await {
                        wait = asked;
                    }
                    if before.elapsed() > PAUSES.1 {
                        pause = PAUSES.0;
                    }
                }
                Ok(answer) if answer.status == StatusCode::NOT_FOUND && self.state().id.is_some() => {
                    // A new session has a stream of its own.
                    if self.renew(turn).await.is_ok() {
                        return;
                    }
                    failures += 1;
                }
                Ok(answer) if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    wait = asks_to_wait(&answer).unwrap_or(pause).min(PAUSES.1);
                }
                Ok(answer) => {
                    debug!("{}: it has no stream for its own messages: {}", self.client.name(), answer.status);
                    return;
                }
                Err(Trouble::Broken(_)) => failures += 1,
                Err(Trouble::Unreachable(why)) if self.client.patience().is_zero() => {
                    failures += 1;
                    if failures >= FAILURES {
                        return self.lose(&why);
                    }
                }
                // Requests wait for the server, and so does this.
                Err(Trouble::Unreachable(_)) => {}
            }
            if failures >= FAILURES {
                return debug!("{}: its stream cannot be opened", self.client.name());
            }
            sleep(wait.max(AGAIN.0)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Tells the server that the session is over.
    async fn part(&self) {
        let fields = self.session_fields();
        if self.state().id.is_none() {
            return;
        }
        let message = Message { method: Method::DELETE, accept: BOTH, fields, body: Bytes::new(), may_repeat: true };
        if let Ok(mut answer) = self.client.send(&message).await {
            let _ = answer.whole(WORDS).await;
        }
    }
}

/// A message as a line: line breaks between its tokens would end it.
fn line(mut bytes: Vec<u8>) -> Vec<u8> {
    for byte in &mut bytes {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    bytes.push(b'\n');
    bytes
}

/// The messages in a text, each with whether it is the response to the request `id`. An error that names no request is the
/// answer to the one that it stands in the place of an answer to.
fn sort(text: &str, id: Option<&str>) -> Vec<(String, bool)> {
    let text = text.trim();
    let all = match text.starts_with('[') {
        true => batch(text).unwrap_or_default(),
        false => vec![text],
    };
    let one = |text: &str| {
        let answers = match (scan(text), id) {
            (Ok(e), Some(id)) if e.kind == Kind::Response => match e.get(&e.id) {
                Some(own) if own == id => true,
                None if e.error.is_some() => {
                    let null = members(text).into_iter().find(|(key, _)| key == "id");
                    let named = match null {
                        Some((_, place)) => spliced(text, &[(place, id)]),
                        None => text.replacen('{', &format!("{{\"id\":{id},"), 1),
                    };
                    return (named, true);
                }
                _ => false,
            },
            _ => false,
        };
        (text.to_owned(), answers)
    };
    all.into_iter().filter(|text| !text.is_empty()).map(one).collect()
}

/// What is said of an answer that did not come to its end.
fn broken(why: &str) -> String {
    format!("has not answered: {why}; this request may have run")
}

/// Whether a message does no harm twice.
fn may_repeat(e: &Envelope<'_>) -> bool {
    let asks = e.method.ends_with("/list") || e.method.ends_with("/read") || e.method.ends_with("/get");
    let known = [
        method::INITIALIZE,
        method::PING,
        method::DISCOVER,
        method::SET_LEVEL,
        method::RESOURCES_SUBSCRIBE,
        method::RESOURCES_UNSUBSCRIBE,
        method::LISTEN,
    ];
    e.kind != Kind::Request || asks || known.contains(&e.method.as_ref()) || e.method == "completion/complete"
}

/// How long the server asks to be left alone (RFC 9110, section 10.2.3).
fn asks_to_wait(answer: &Answer) -> Option<Duration> {
    let said = answer.field(header::RETRY_AFTER)?.trim();
    match said.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let at = httpdate::parse_http_date(said).ok()?;
            Some(at.duration_since(std::time::SystemTime::now()).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_found_by_its_id_and_an_error_without_one_is_named() {
        for (text, wanted) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, &[(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, true)][..]),
            (r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, &[(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, false)]),
            (
                r#" {"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}} "#,
                &[(r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}"#, true)],
            ),
            (
                r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#,
                &[(r#"{"id":7,"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#, true)],
            ),
            (
                r#"[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","id":7,"result":{}}]"#,
                &[(r#"{"jsonrpc":"2.0","method":"a"}"#, false), (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, true)],
            ),
            ("no message", &[("no message", false)]),
        ] {
            let found = sort(text, Some("7"));
            let found: Vec<_> = found.iter().map(|(text, answers)| (text.as_str(), *answers)).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
