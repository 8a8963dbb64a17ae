//! Messages on their way down: taken in their order, each sent in its own way.
//!
//! What has to come before what follows is waited for; notifications keep their order among each other; requests run side by
//! side.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use log::debug;

use super::client::Message;
use super::hear::line;
use super::state::{BOTH, Session, WORDS};
use crate::model::envelope::{Fault, Kind, batch, scan_client, spliced};
use crate::model::{jsonrpc, method};
use crate::rt::task;
use crate::rt::wait::{timeout, until};

/// How long a setting may take, before what follows is sent all the same.
const IN_ORDER: Duration = Duration::from_secs(2);
/// How long what is on its way may take at the end of the session, and then the end itself.
const PARTING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// So many messages without an answer wait at most; more are lost.
const MOST: usize = 1024;

impl Session {
    /// Sends what of this is whole lines; the rest is kept until it is.
    pub(crate) fn send_lines(&self, bytes: &[u8]) {
        let mut state = self.state();
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            state.begun.extend_from_slice(&rest[..end]);
            let text = String::from_utf8_lossy(&std::mem::take(&mut state.begun)).into_owned();
            if !text.trim().is_empty() {
                self.waiting.fetch_add(text.len(), SeqCst);
                state.down.push_back(text);
            }
            rest = &rest[end + 1..];
        }
        state.begun.extend_from_slice(rest);
        drop(state);
        self.arrived.notify(usize::MAX);
    }

    /// The client says nothing more: the server hears of it, and the session is over.
    pub(crate) fn hang_up(&self) {
        self.is_parting.store(true, SeqCst);
        self.arrived.notify(usize::MAX);
    }

    /// The next message; None after the last one.
    async fn next(&self) -> Option<String> {
        let next = || {
            let text = self.state().down.pop_front();
            match text {
                Some(text) => Some(Some(text)),
                None => (self.is_parting.load(SeqCst) || self.over.is_set()).then_some(None),
            }
        };
        until(&self.arrived, next).await
    }

    /// Takes what is sent down, in its order, until nothing more is.
    pub(super) async fn work(self: Arc<Self>) {
        while let Some(text) = self.next().await {
            let length = text.len();
            if self.unless_over(self.take(text)).await.is_none() {
                return;
            }
            let _ = self.waiting.fetch_update(SeqCst, SeqCst, |n| Some(n.saturating_sub(length)));
            self.stir();
        }
        if !self.over.is_set() {
            let quiet = || {
                let state = self.state();
                (state.telling.is_empty() && state.notes.is_empty()).then_some(())
            };
            timeout(PARTING.0, until(&self.moved, quiet)).await;
            timeout(PARTING.1, self.part()).await;
            self.cut();
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
            (Kind::Notification, _) if e.method == method::INITIALIZED => {
                self.tell_kept(&text).await;
                self.listen();
            }
            (Kind::Notification, _) if e.method == method::CANCELLED => {
                let is_modern = self.give_up(e.get(&e.request_id).unwrap_or_default());
                if !is_modern {
                    self.tell_soon(text);
                }
            }
            (Kind::Notification, _) => self.note(text),
            _ => self.tell_soon(text),
        }
    }

    /// Sends what has no answer; until it is sent, another process would send it in place of this one.
    async fn tell_kept(self: &Arc<Self>, text: &str) {
        let number = {
            let mut state = self.state();
            state.tellings += 1;
            let number = state.tellings;
            state.telling.insert(number, text.to_owned());
            number
        };
        self.tell(text).await;
        self.state().telling.remove(&number);
        self.stir();
    }

    /// Sends a message without an answer, beside others.
    fn tell_soon(self: &Arc<Self>, text: String) {
        if self.state().telling.len() >= MOST {
            return debug!("{}: a message is lost: too many wait already", self.client.name());
        }
        let me = self.clone();
        task::spawn(async move {
            let _place = me.tells.place().await;
            me.tell_kept(&text).await;
        });
    }

    /// Sends a notification, behind those of before.
    fn note(self: &Arc<Self>, text: String) {
        let mut state = self.state();
        if state.notes.len() >= MOST || state.notes.iter().map(String::len).sum::<usize>() > 1 << 20 {
            return debug!("{}: a notification is lost: too many wait already", self.client.name());
        }
        state.notes.push_back(text);
        if std::mem::replace(&mut state.is_noting, true) {
            return;
        }
        let me = self.clone();
        task::spawn(async move {
            loop {
                let next = {
                    let mut state = me.state();
                    let next = state.notes.pop_front();
                    state.is_noting = next.is_some();
                    next
                };
                match next.filter(|_| !me.over.is_set()) {
                    Some(text) => me.tell_kept(&text).await,
                    None => return me.stir(),
                }
            }
        });
    }

    /// Tells the server that the session is over.
    async fn part(&self) {
        let fields = self.fields();
        if self.state().id.is_none() {
            return;
        }
        let message = Message { method: Method::DELETE, accept: BOTH, fields, body: Bytes::new(), may_repeat: true };
        if let Ok(mut answer) = self.client.send(&message).await {
            let _ = answer.whole(WORDS).await;
        }
    }
}
