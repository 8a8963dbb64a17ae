//! The beginning of a session where the server has forgotten it, and the stream for what belongs to no request.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::FutureExt;
use hyper::{Method, StatusCode, header};
use log::debug;

use super::client::{Answer, Message, Trouble};
use super::hear::{Ended, PAUSES};
use super::state::{BOTH, EVENTS, Session, TELLING, WORDS};
use crate::model::envelope::{decode, member, scan};
use crate::model::modern::{ParamHeaders, param_headers};
use crate::model::upstream::headers;
use crate::model::{jsonrpc, method, modern};
use crate::rt::blocking::busy;
use crate::rt::task;
use crate::rt::wait::{Flag, sleep, timeout};

/// The pause before a server that is waited for is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// So often in a row the stream may fail to be opened again.
const FAILURES: u32 = 3;
/// So often in a row it may end at once and be opened again without a longer pause.
const QUICK: u32 = 3;
/// The most pages of tools that are asked for.
const PAGES: usize = 100;

impl Session {
    /// Sends a request, and waits for the server where it is not reached, if it is to be waited for.
    pub(super) async fn request(&self, message: &Message) -> Result<Answer, Trouble> {
        let (begin, mut pause) = (Instant::now(), AGAIN.0);
        loop {
            match self.client.unless_silent(self.client.send(message)).await.map_err(Trouble::Broken)? {
                Err(Trouble::Unreachable(_)) if begin.elapsed() < self.client.patience() => {
                    sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                }
                outcome => return outcome,
            }
        }
    }

    /// The request for a stream.
    pub(super) fn stream_request(&self, last_event: Option<&str>) -> Message {
        let mut fields = self.fields();
        fields.extend(last_event.map(|last| ("last-event-id".to_owned(), last.to_owned())));
        Message { method: Method::GET, accept: EVENTS, fields, body: Bytes::new(), may_repeat: true }
    }

    /// Notes the revision that the server has agreed to, as its answer to `initialize` has it.
    pub(super) fn note_version(&self, result: &str) {
        let version = member(result, "protocolVersion").map(|v| decode(v).into_owned());
        let fine = |v: &String| v.len() < 100 && v.bytes().all(|b| b.is_ascii_graphic());
        self.state().version = version.filter(fine);
    }

    /// Begins the session anew, unless that was done since the `seen` turn.
    pub(super) async fn renew(self: &Arc<Self>, seen: u64) -> Result<(), String> {
        let _one = self.renewing.lock().await;
        let (turn, said, had) = {
            let state = self.state();
            (state.turn, state.said.clone(), state.id.is_some())
        };
        if turn != seen {
            return Ok(());
        }
        if self.is_parting.load(SeqCst) || self.over.is_set() {
            return Err("it is over here too".to_owned());
        }
        let greeting = said.greeting().filter(|_| had).ok_or("there is none to begin anew")?;
        debug!("{}: the server has forgotten the session; it is begun anew", self.client.name());
        let (result, id) =
            self.ask(&greeting, Vec::new()).await.map_err(|why| format!("a new one was not begun: {why}"))?;
        self.note_version(&result);
        {
            let mut state = self.state();
            state.id = id;
            state.last_event = None;
            state.turn += 1;
        }
        if said.is_complete() {
            let message = Message {
                method: Method::POST,
                accept: BOTH,
                fields: self.fields(),
                body: jsonrpc::notification(method::INITIALIZED, None).into(),
                may_repeat: true,
            };
            if let Some(Ok(mut answer)) = timeout(TELLING, self.client.send(&message)).await {
                let _ = timeout(TELLING, answer.whole(WORDS)).await;
            }
            for text in said.settings() {
                if let Err(why) = self.ask(&text, self.fields()).await {
                    debug!("{}: a setting of the session is lost: {why}", self.client.name());
                }
            }
            self.listen();
        }
        Ok(())
    }

    /// Sends a request of our own: the result, and the id of the session that begins by it.
    async fn ask(&self, text: &str, fields: Vec<(String, String)>) -> Result<(String, Option<String>), String> {
        let asking = async {
            let body = Bytes::copy_from_slice(text.as_bytes());
            let message = Message { method: Method::POST, accept: BOTH, fields, body, may_repeat: true };
            let mut answer = self.request(&message).await.map_err(|trouble| match trouble {
                Trouble::Unreachable(why) | Trouble::Broken(why) | Trouble::Unsendable(why) => why,
            })?;
            if !answer.status.is_success() {
                return Err(format!("it answered {}", answer.status));
            }
            let session = answer.field("mcp-session-id").map(str::to_owned);
            let id = scan(text).ok().and_then(|e| e.get(&e.id).map(str::to_owned)).unwrap_or_default();
            Ok((self.own_result(&mut answer, &id).await?, session))
        };
        timeout(TELLING, asking).await.unwrap_or_else(|| Err("it did not answer".to_owned()))
    }

    /// Which arguments of which tools are repeated in headers; asked of the server once, and again after its tools changed.
    pub(super) async fn params(&self) -> Arc<ParamHeaders> {
        let _one = self.learning.lock().await;
        if let Some(known) = self.state().params.clone() {
            return known;
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
            // What cannot be asked now is asked again by the next call.
            let Ok((result, _)) = self.ask(&text, fields).await else { return Arc::new(all) };
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
        all
    }

    /// Opens the stream for what belongs to no request, in place of the one that there is.
    pub(super) fn listen(&self) {
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
        let (mut pause, mut failures, mut quick, mut was_open) = (PAUSES.0, 0, 0, false);
        loop {
            let (turn, last) = {
                let state = self.state();
                (state.turn, state.last_event.clone())
            };
            let mut wait = pause;
            match self.client.send(&self.stream_request(last.as_deref())).await {
                Ok(mut answer) if answer.status.is_success() && answer.content_type() == EVENTS => {
                    let begin = Instant::now();
                    (failures, was_open) = (0, true);
                    let note = |last: Option<&str>| self.state().last_event = last.map(str::to_owned);
                    let ended = self.read(&mut answer, last, None, false, &note).await;
                    let (was_heard, asked) = match ended {
                        Ok(Ended::Early { was_heard, pause, .. }) => (was_heard, pause),
                        // Too much at once: what comes next may be less.
                        _ => (false, None),
                    };
                    // One that ends at once each time is not asked for as often as it could be.
                    quick = if was_heard || begin.elapsed() > PAUSES.1 { 0 } else { quick + 1 };
                    if quick <= QUICK {
                        pause = PAUSES.0;
                        wait = asked.unwrap_or(pause);
                    }
                }
                // A server that has sessions and no stream may say so in this way. Where there was a stream, the session is gone,
                // and a new one has a stream of its own.
                Ok(answer) if answer.status == StatusCode::NOT_FOUND && was_open && self.state().id.is_some() => {
                    drop(answer);
                    sleep(pause).await;
                    if self.renew(turn).await.is_ok() {
                        return;
                    }
                    failures += 1;
                }
                Ok(answer) if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    wait = asks_to_wait(&answer).unwrap_or(pause).clamp(pause, PAUSES.1);
                }
                Ok(answer) => {
                    debug!("{}: it has no stream for its own messages: {}", self.client.name(), answer.status);
                    return;
                }
                Err(Trouble::Broken(_) | Trouble::Unsendable(_)) => failures += 1,
                Err(Trouble::Unreachable(why)) if self.client.patience().is_zero() => {
                    failures += 1;
                    if failures >= FAILURES && self.answering.load(SeqCst) == 0 {
                        return self.lose(&why);
                    }
                }
                // Requests wait for the server, and so does this.
                Err(Trouble::Unreachable(_)) => {}
            }
            if failures >= FAILURES {
                return debug!("{}: its stream cannot be opened", self.client.name());
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// How long the server asks to be left alone (RFC 9110, section 10.2.3).
pub(super) fn asks_to_wait(answer: &Answer) -> Option<Duration> {
    let said = answer.field(header::RETRY_AFTER)?.trim();
    match said.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let at = httpdate::parse_http_date(said).ok()?;
            Some(at.duration_since(std::time::SystemTime::now()).unwrap_or_default())
        }
    }
}
