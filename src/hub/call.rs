//! One request of a client that waits for its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::handover::Saver;
use super::outbox::Outbox;
use super::server::Waits;
use super::session::Session;
use crate::model::envelope::{self, Envelope};
use crate::model::mcp::Learnt;
use crate::model::method::Method;
use crate::model::out::Out;
use crate::model::{bridge, handover, ids, jsonrpc, modern};
use crate::rt::wait::Flag;
use crate::sys::lock::Lock;

/// One request of a client that waits for its answer: the way back, and the client's own id and token as it wrote
/// them. Dropped unanswered, it only counts as failed (the client cancelled it, or its session ended).
pub struct Call {
    pub session: Arc<Session>,
    pub reply: Arc<Outbox>,
    pub id: Box<str>,
    pub token: Option<Box<str>>,
    /// What it is counted as.
    pub method: Method,
    pub opened: Instant,
    failed: bool,
    /// The session subscribes to this resource if the server agrees.
    pub(super) subscribes: Option<Box<str>>,
    /// A request of the modern era for a legacy child: its method.
    pub(super) translated: Option<Box<str>>,
    /// The handshake of a session with a child of its own.
    pub(super) opening: bool,
    /// A request of the modern era that asks for log messages.
    pub(super) logs: bool,
    /// Its answer is a list of tools, of which not all are shown.
    filtered: bool,
}

impl Call {
    pub(super) fn new(
        session: &Arc<Session>,
        method: Method,
        id: &str,
        token: Option<&str>,
        reply: &Arc<Outbox>,
    ) -> Call {
        Call {
            session: session.clone(),
            reply: reply.clone(),
            id: id.into(),
            token: token.map(Into::into),
            method,
            opened: Instant::now(),
            failed: true,
            subscribes: None,
            translated: None,
            opening: false,
            logs: false,
            filtered: method == Method::ToolsList && !session.server.tools().is_open(),
        }
    }

    /// Hands it over to the part that its session has at a server; it is still the same request of the same client.
    pub(super) fn move_to(mut self, part: &Arc<Session>) -> Call {
        part.note_use();
        part.in_flight.fetch_add(1, SeqCst);
        part.server.in_flight.fetch_add(1, SeqCst);
        let whole = std::mem::replace(&mut self.session, part.clone());
        // It goes on to count for the whole, whose client waits.
        whole.server.in_flight.fetch_sub(1, SeqCst);
        self
    }

    /// Answers with a whole message that carries the client's id.
    pub fn answer(mut self, text: String, failed: bool) {
        self.failed = failed;
        if let Some(uri) = self.subscribes.take().filter(|_| !failed) {
            self.session.subscribe(&uri);
        }
        self.reply.push(Out::reply(text, failed));
        if self.reply.is_resumable() {
            // Its client may have left, and what waits for it is bounded.
            self.session.whole().as_ref().unwrap_or(&self.session).replay().trim();
        }
    }

    /// Answers with a result of our own, in the client's era.
    pub fn result(self, result: &str) {
        let text = jsonrpc::result(&self.id, result);
        let text = self.in_era(text);
        self.answer(text, false);
    }

    /// An answer in legacy words, in those of the client.
    pub(super) fn in_era(&self, text: String) -> String {
        if self.translated.is_none() {
            return text;
        }
        let learnt = self.session.server.learnt_now();
        match envelope::scan(&text) {
            Ok(e) => self.phrase(&e, learnt.as_ref()),
            Err(_) => text,
        }
    }

    /// A server's answer as the client gets it: with its own id, and in its era.
    pub(super) fn phrase(&self, e: &Envelope<'_>, learnt: Option<&Learnt>) -> String {
        if self.filtered
            && let Some(text) = bridge::filtered(e, &|name| self.session.server.admits(name))
            && let Ok(e) = envelope::scan(&text)
        {
            return self.in_words(&e, learnt);
        }
        self.in_words(e, learnt)
    }

    fn in_words(&self, e: &Envelope<'_>, learnt: Option<&Learnt>) -> String {
        let Some(method) = &self.translated else { return ids::restored(e, &self.id) };
        let info = learnt.map_or(r#"{"name":"","version":""}"#, |l| l.server_info.as_str());
        modern::answer(e, &self.id, method, info)
    }

    /// Nobody wants the answer any more: what was made to carry it ends without one.
    pub fn withdraw(self) {
        if self.reply.is_resumable() {
            // A stream that its client could take up again must have an end, or it asks for ever.
            return self.error(jsonrpc::CANCELLED, "cancelled by the client");
        }
        self.reply.withdraw();
    }

    pub fn error(self, code: i32, message: &str) {
        let text = jsonrpc::error(Some(&self.id), code, message);
        self.answer(text, true);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (session, hub) = (&self.session, &self.session.hub);
        session.in_flight.fetch_sub(1, SeqCst);
        if let Some(whole) = session.whole() {
            session.touch();
            whole.in_flight.fetch_sub(1, SeqCst);
        }
        session.server.in_flight.fetch_sub(1, SeqCst);
        let (took, second) = (self.opened.elapsed(), hub.seconds());
        session.server.meters.record(self.method, took, self.failed, second);
        hub.meters.record(self.method, took, self.failed, second);
        hub.in_flight.fetch_sub(1, SeqCst);
    }
}

/// See [`Session::hold`].
pub(super) struct Held {
    call: Lock<Option<Call>>,
    /// The call was taken: whoever waits has nothing to wait for.
    pub withdrawn: Flag,
    /// The request as it came.
    text: Arc<str>,
    _waits: Waits,
}

impl Held {
    pub fn new(call: Call, text: Arc<str>, waits: Waits) -> Held {
        Held { call: Lock::new(Some(call)), withdrawn: Flag::default(), text, _waits: waits }
    }

    /// Everything of it, for the next program.
    pub fn save(&self, saver: &mut Saver) -> Option<(handover::Call, String)> {
        let call = self.call.lock();
        call.as_ref().map(|call| (saver.call(call), self.text.to_string()))
    }

    /// Whether its request, if it is still there, is of this kind.
    pub fn is(&self, wanted: impl Fn(&Call) -> bool) -> bool {
        self.call.lock().as_ref().is_some_and(wanted)
    }

    pub fn take(&self) -> Option<Call> {
        self.withdrawn.set();
        self.call.lock().take()
    }
}
