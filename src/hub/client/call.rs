//! One request of a client that waits for its answer.
//!
//! Knows the way back to the client, in its words and its era. It must not know who is to answer.

use std::sync::Arc;
use std::time::Instant;

use super::audited::{Audited, record_session};
use super::outbox::Outbox;
use super::session::Session;
use crate::hub::error::Error;
use crate::hub::load::InFlight;
use crate::model::config::Tools;
use crate::model::envelope::{self, Envelope};
use crate::model::ids::Id;
use crate::model::mcp::ServerInfo;
use crate::model::method::Method;
use crate::model::modern::Fresh;
use crate::model::out::Out;
use crate::model::{bridge, ids, jsonrpc, modern};
use crate::rt::wait::recent;

/// A request of the modern era for one that speaks the legacy era alone.
pub(crate) struct Translation {
    /// Its method.
    pub method: Box<str>,
    /// What the server is, as JSON, where the answer is not a child's.
    pub server: Option<Arc<str>>,
}

/// One request of a client that waits for its answer: the way back, and the client's own id and token as it wrote
/// them. Dropped unanswered, it only counts as failed (the client cancelled it, or its session ended).
pub(crate) struct Call {
    pub session: Arc<Session>,
    pub reply: Arc<Outbox>,
    pub id: Id,
    pub token: Option<Box<Id>>,
    /// What it is counted as.
    pub method: Method,
    pub opened: Instant,
    failed: bool,
    /// The session subscribes to this resource if the server agrees.
    pub subscribes: Option<Box<Box<str>>>,
    /// It has to be answered in the modern era by one that does not speak it.
    pub translated: Option<Box<Translation>>,
    /// It is the handshake of a session with a child of its own.
    pub opening: bool,
    /// Its answer may be a task, which is its client's.
    pub starts_task: bool,
    /// A request of the modern era that asks for log messages.
    pub logs: bool,
    /// Its answer is a list of tools, of which these may be shown; None where all may.
    pub shown: Option<Arc<Tools>>,
    /// What of it stands in the audit record.
    pub audited: Option<Box<Audited>>,
    open: InFlight,
}

impl Call {
    pub(crate) fn new(
        session: &Arc<Session>,
        method: Method,
        id: &str,
        token: Option<&str>,
        reply: &Arc<Outbox>,
    ) -> Call {
        Call::with(session, method, id, token, reply, session.load.enter())
    }

    /// A request of this session, counted until it is answered. The error says that the session has too many open.
    pub(crate) fn open(
        session: &Arc<Session>,
        method: Method,
        id: &str,
        token: Option<&str>,
        reply: &Arc<Outbox>,
    ) -> Result<Call, Error> {
        let limit = session.ctx.config().limits.in_flight;
        match session.load.enter_below(u64::from(limit)) {
            Some(open) => Ok(Call::with(session, method, id, token, reply, open)),
            None => Err(Error::TooManyOpen { limit }),
        }
    }

    fn with(
        session: &Arc<Session>,
        method: Method,
        id: &str,
        token: Option<&str>,
        reply: &Arc<Outbox>,
        open: InFlight,
    ) -> Call {
        Call {
            session: session.clone(),
            reply: reply.clone(),
            id: id.into(),
            token: token.map(|token| Box::new(token.into())),
            method,
            opened: recent(),
            failed: true,
            subscribes: None,
            translated: None,
            opening: false,
            starts_task: false,
            logs: false,
            shown: None,
            audited: None,
            open,
        }
    }

    /// Hands it over to the part that its session has at a server; it is still the same request of the same client.
    pub(crate) fn move_to(mut self, part: &Arc<Session>) -> Call {
        part.note_use();
        self.open = part.load.enter();
        self.session = part.clone();
        self
    }

    /// Answers with a whole message that carries the client's id.
    pub(crate) fn answer(mut self, text: String, failed: bool) {
        self.failed = failed;
        if let Some(audited) = &mut self.audited {
            audited.answered(&text, failed);
        }
        if let Some(uri) = self.subscribes.take().filter(|_| !failed) {
            self.session.watch(&uri);
        }
        self.reply.push(Out::reply(text, failed));
        // Its client may have left, and what waits for it is bounded.
        self.reply.trim();
    }

    /// Answers with a result of our own, in the client's era.
    pub(crate) fn result(self, result: &str) {
        let text = jsonrpc::result(&self.id, result);
        let text = match &self.translated {
            None => text,
            Some(_) => match envelope::scan(&text) {
                Ok(e) => self.phrase(&e, None),
                Err(_) => text,
            },
        };
        self.answer(text, false);
    }

    /// A server's answer as the client gets it: with its own id, in its era, and without the tools that it may not see.
    /// `server` is the child that has answered.
    pub(crate) fn phrase(&self, e: &Envelope<'_>, server: Option<&ServerInfo>) -> String {
        if let Some(tools) = &self.shown
            && let Some(text) = bridge::filtered(e, &|name| tools.admits(Some(name)))
            && let Ok(e) = envelope::scan(&text)
        {
            return self.in_era(&e, server);
        }
        // Pages of apps are called alike by many servers.
        if self.session.is_part()
            && let Some(text) = bridge::with_pages_of(&self.session.server, e)
            && let Ok(e) = envelope::scan(&text)
        {
            return self.in_era(&e, server);
        }
        self.in_era(e, server)
    }

    fn in_era(&self, e: &Envelope<'_>, server: Option<&ServerInfo>) -> String {
        let Some(translation) = &self.translated else { return ids::restored(e, &self.id) };
        let known = server.map(|s| s.server_info.as_str()).or(translation.server.as_deref());
        let fresh = match server {
            Some(server) => Fresh::of(&translation.method, Some(server), self.session.owner.is_none()),
            None => Fresh::default(),
        };
        modern::answer(e, &self.id, &translation.method, known.unwrap_or(r#"{"name":"","version":""}"#), fresh)
    }

    /// The answer is not wanted any more: an outbox that was made to carry it ends without one.
    pub(crate) fn withdraw(self) {
        if self.reply.is_resumable() {
            // A stream that its client could take up again must have an end, or it asks for ever.
            return self.error(jsonrpc::CANCELLED, "cancelled by the client");
        }
        self.reply.withdraw();
    }

    pub(crate) fn error(self, code: i32, message: &str) {
        let text = jsonrpc::error(Some(&self.id), code, message);
        self.answer(text, true);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.session.is_part() {
            self.session.touch();
        }
        let took = recent().saturating_duration_since(self.opened);
        self.open.record(self.method, took, self.failed, self.session.ctx.seconds());
        if let Some(audited) = &self.audited {
            audited.write(&self.session, &self.id, took);
            if self.method == Method::Initialize && !self.failed {
                record_session(&self.session, "session_begin", None);
            }
        }
    }
}
