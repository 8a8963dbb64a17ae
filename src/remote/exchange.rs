//! Requests: each is sent, and what comes of it is passed on, up to its answer. What it fails of is its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::FutureExt;
use hyper::{Method, StatusCode, header};
use log::debug;

use super::client::{Answer, Message, Trouble};
use super::hear::{Answering, Ended, PAUSES, line};
use super::listen::asks_to_wait;
use super::state::{BOTH, EVENTS, Failure, JSON, Open, Session, TELLING, WORDS, key};
use crate::model::envelope::{Envelope, Kind, member, scan};
use crate::model::modern::HEADER_MISMATCH;
use crate::model::text::printable;
use crate::model::upstream::headers;
use crate::model::{jsonrpc, method, modern};
use crate::rt::task;
use crate::rt::wait::{Flag, sleep, timeout};
use crate::sys::lock::Lock;

/// How long the server may ask to be left alone, so that the request waits for it; and how often in a row.
const PATIENCE: (Duration, u32) = (Duration::from_secs(10), 3);
/// So often in a row the stream of an answer may end without anything new.
const CUTS: u32 = 3;
/// How long the end of a stream is waited for once its answer is there, so that its connection can be kept.
const TAIL: Duration = Duration::from_millis(50);

impl Session {
    /// Gives up a request. Whether it is of the modern era, in which the server hears of it by the end of the exchange.
    pub(super) fn give_up(&self, id: &str) -> bool {
        let open = self.state().open.remove(&key(id));
        let Some(open) = open else { return false };
        open.given_up.set();
        self.stir();
        scan(&open.text).is_ok_and(|e| modern::claimed(&e))
    }

    /// Begins a request, or goes on with one at what followed an event.
    pub(super) fn begin(
        self: &Arc<Self>,
        id: String,
        text: String,
        last_event: Option<String>,
    ) -> task::JoinHandle<()> {
        let (given_up, answered) = (Flag::default(), Flag::default());
        let open = Arc::new(Open { text, given_up, answered, last_event: Lock::new(last_event) });
        self.state().open.insert(key(&id), open.clone());
        let me = self.clone();
        task::spawn(async move {
            let elsewhere = async {
                open.given_up.wait().or(open.answered.wait()).await;
                None
            };
            let exchange = Box::pin(me.exchange(&id, &open));
            let exchange = async { Some(exchange.await) };
            // One that is given up leaves its connection, which is closed by that.
            let outcome = me.unless_over(elsewhere.or(exchange)).await.flatten();
            if let Some(Err(failure)) = outcome {
                me.fail(&id, &open, &failure);
            }
            me.stir();
        })
    }

    /// A request has no answer: this is it.
    fn fail(&self, id: &str, open: &Arc<Open>, failure: &Failure) {
        if failure.is_lost && self.answering.load(SeqCst) == 0 {
            return self.lose(&failure.text);
        }
        let id_key = key(id);
        let waits = self.state().open.get(&id_key).is_some_and(|o| Arc::ptr_eq(o, open));
        if waits {
            self.state().open.remove(&id_key);
            let reach = if failure.is_lost { "cannot be reached: " } else { "" };
            let text = format!("{} {reach}{}", self.client.name(), failure.text);
            self.inbox.push(line(jsonrpc::error(Some(id), jsonrpc::INTERNAL_ERROR, &text).into_bytes()));
        }
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
            false => Some(self.client.requests.place().await),
        };
        let is_modern = modern::claimed(&e);
        let (mut is_renewed, mut is_learnt, mut patience, mut cuts) = (false, false, 0, 0);
        loop {
            let resume = open.last_event.lock().clone();
            let turn = self.state().turn;
            let message = match &resume {
                Some(last) => self.stream_request(Some(last)),
                None => self.post(&e).await,
            };
            let has_id = message.fields.iter().any(|(name, _)| name == "mcp-session-id");
            let mut answer = match self.request(&message).await {
                Ok(answer) => answer,
                Err(Trouble::Unreachable(text)) if self.client.patience().is_zero() => {
                    return Err(Failure { text, is_lost: true });
                }
                Err(Trouble::Unreachable(why)) => return Err(format!("cannot be reached: {why}").into()),
                Err(Trouble::Unsendable(why)) => return Err(format!("cannot be sent this request: {why}").into()),
                Err(Trouble::Broken(why)) => return Err(broken(&why).into()),
            };
            let _answering = Answering::new(self);
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
            let begins = e.method == method::INITIALIZE;
            if begins {
                self.state().id = answer.field("mcp-session-id").map(str::to_owned);
            }
            let ended = match answer.content_type().as_str() {
                JSON => {
                    let mut held = self.client.hold();
                    let whole = answer.whole_held(self.client.longest(), Some(&mut *held));
                    let whole = self.client.unless_silent(whole).await.map_err(|why| broken(&why))?;
                    let (body, is_whole) = whole.map_err(|why| broken(&why))?;
                    if !is_whole {
                        return Err(self.too_long().into());
                    }
                    match self.deliver(body, Some(id), begins).await {
                        (true, text) => Ended::Answered(text),
                        (false, _) => return Err("answered with something else than the response".to_owned().into()),
                    }
                }
                EVENTS => {
                    let note = |last: Option<&str>| *open.last_event.lock() = last.map(str::to_owned);
                    let ended = self.read(&mut answer, resume.clone(), Some(id), begins, &note).await?;
                    if matches!(ended, Ended::Answered(_)) {
                        self.leave_to_its_end(answer);
                    }
                    ended
                }
                // Some servers answer on the stream for what belongs to no request.
                _ if answer.status == StatusCode::ACCEPTED && self.state().listening.is_some() => {
                    let never = std::future::pending::<()>();
                    return self.client.unless_silent(never).await.map_err(|why| broken(&why).into());
                }
                _ if answer.status == StatusCode::ACCEPTED => {
                    let why = "accepted the request as if it were a notification: there will be no response";
                    return Err(why.to_owned().into());
                }
                other => {
                    let what = if other.is_empty() { "no content".to_owned() } else { printable(other, 100) };
                    let why = format!(
                        "answered with {what} in place of {JSON} or {EVENTS}: is this the URL of an MCP server?"
                    );
                    return Err(why.into());
                }
            };
            match ended {
                Ended::Answered(text) => {
                    if let Some(result) = text.as_deref().and_then(|text| member(text, "result")) {
                        self.note_version(result);
                    }
                    return Ok(());
                }
                Ended::Early { last_event, pause, .. } if !is_modern && last_event.is_some() && cuts < CUTS => {
                    // What it has sent since the last time shows life.
                    cuts = if last_event == resume { cuts + 1 } else { 0 };
                    *open.last_event.lock() = last_event;
                    sleep(pause.unwrap_or(PAUSES.0)).await;
                }
                Ended::Early { .. } => return Err(broken("the stream ended").into()),
            }
        }
    }

    /// Reads an answered stream to its end, if that is near, so that its connection can be kept.
    fn leave_to_its_end(&self, mut answer: Answer) {
        task::spawn(async move {
            let rest = async { while answer.chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
            timeout(TAIL, rest).await;
        });
    }

    /// The HTTP request for a message.
    pub(super) async fn post(&self, e: &Envelope<'_>) -> Message {
        let fields = if modern::claimed(e) {
            let known = match e.method == method::TOOLS_CALL {
                true => Some(self.params().await),
                false => None,
            };
            headers(e, known.as_deref())
        } else if e.method == method::INITIALIZE {
            Vec::new()
        } else {
            self.fields()
        };
        let body = Bytes::copy_from_slice(e.text().as_bytes());
        Message { method: Method::POST, accept: BOTH, fields, body, may_repeat: may_repeat(e) }
    }

    /// The server refuses a request.
    async fn refused(&self, mut answer: Answer, id: &str) -> Result<(), Failure> {
        let (body, _) = timeout(TELLING, answer.whole(WORDS)).await.and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        self.refused_with(&answer, text, id).await
    }

    /// The server refuses a request, and says this.
    async fn refused_with(&self, answer: &Answer, text: String, id: &str) -> Result<(), Failure> {
        let is_json = text.trim_start().starts_with('{') && member(text.trim(), "error").is_some();
        if is_json && self.deliver(text.clone().into_bytes(), Some(id), false).await.0 {
            return Ok(());
        }
        let (status, mine) = (answer.status, self.client.credentials());
        let why = match status.as_u16() {
            401 if answer.field(header::WWW_AUTHENTICATE).is_some_and(|v| v.contains("resource_metadata")) => {
                format!("; it wants OAuth, which a child such as mcp-remote can do for it, or a token in {mine}")
            }
            401 | 403 => format!(": it does not accept what {mine} has"),
            404 | 405 => ": is this the URL of an MCP server over Streamable HTTP?".to_owned(),
            429 | 503 => {
                asks_to_wait(answer).map_or(String::new(), |time| format!("; it asks to wait {} s", time.as_secs()))
            }
            _ => String::new(),
        };
        let words = printable(text.trim(), 200);
        let is_page = words.is_empty() || text.trim_start().starts_with('<');
        let words = if is_page { String::new() } else { format!(" ({words})") };
        Err(format!("answered {status}{why}{words}").into())
    }

    /// Sends what has no answer. It is lost where the server does not take it.
    pub(super) async fn tell(self: &Arc<Self>, text: &str) {
        let Ok(e) = scan(text) else { return };
        for _ in 0..2 {
            let turn = self.state().turn;
            let message = self.post(&e).await;
            let sent = self.unless_over(timeout(TELLING, self.request(&message))).await;
            match sent.flatten() {
                Some(Ok(mut answer)) => {
                    let is_gone = answer.status == StatusCode::NOT_FOUND && self.state().id.is_some();
                    if is_gone && e.kind != Kind::Response && self.renew(turn).await.is_ok() {
                        continue;
                    }
                    if !answer.status.is_success() {
                        debug!("{}: '{}' is not taken: {}", self.client.name(), e.method, answer.status);
                    }
                    let _ = timeout(TELLING, answer.whole(WORDS)).await;
                }
                Some(Err(Trouble::Unreachable(why)))
                    if self.client.patience().is_zero() && self.answering.load(SeqCst) == 0 =>
                {
                    self.lose(&why);
                }
                Some(Err(Trouble::Unreachable(why) | Trouble::Broken(why) | Trouble::Unsendable(why))) => {
                    debug!("{}: '{}' may be lost: {why}", self.client.name(), e.method);
                }
                None => debug!("{}: '{}' may be lost: no answer", self.client.name(), e.method),
            }
            return;
        }
    }
}

/// What is said of an answer that did not come to its end.
fn broken(why: &str) -> String {
    format!("has not answered: {why}; this request may have run")
}

/// Whether a message does no harm twice.
pub(super) fn may_repeat(e: &Envelope<'_>) -> bool {
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
