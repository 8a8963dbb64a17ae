//! What a server tells without being asked: changes, and the subscriptions of the modern era that carry them.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use super::handover::Saver;
use super::outbox::Outbox;
use super::session::Session;
use crate::model::modern::Filter;
use crate::model::out::Out;
use crate::model::{handover, jsonrpc, modern};

/// Something that a server tells of itself.
pub enum Change<'c> {
    /// A list (`tools`, `prompts`, `resources`) is another.
    List { list: &'c str, text: &'c str },
    /// A resource is another.
    Resource { uri: &'c str, text: &'c str },
}

/// A subscription of the modern era (2026-07-28 patterns/subscriptions).
pub struct Listen {
    /// The id of its request, as the client wrote it.
    pub id: Box<str>,
    pub reply: Arc<Outbox>,
    /// What of it is honoured.
    pub filter: Filter,
    /// The whole request, for a child of the modern era, which keeps it; a legacy child knows nothing of it.
    pub request: Option<Box<str>>,
    session: Weak<Session>,
    acknowledged: AtomicBool,
}

impl Listen {
    pub fn new(
        session: &Arc<Session>,
        id: &str,
        reply: &Arc<Outbox>,
        filter: Filter,
        request: Option<&str>,
    ) -> Arc<Listen> {
        Arc::new(Listen {
            session: Arc::downgrade(session),
            id: id.into(),
            reply: reply.clone(),
            filter,
            request: request.map(Into::into),
            acknowledged: AtomicBool::new(false),
        })
    }

    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.upgrade()
    }

    /// Everything of it, for the next program.
    pub fn save(&self, saver: &mut Saver) -> handover::Listen {
        handover::Listen {
            id: self.id.to_string(),
            reply: saver.outbox(&self.reply),
            filter: self.filter.clone(),
            request: self.request.as_ref().map(ToString::to_string),
            acknowledged: self.is_acknowledged(),
        }
    }

    /// The first acknowledgement is the one that counts; a new child's is not for the client.
    pub fn acknowledge(&self) -> bool {
        !self.acknowledged.swap(true, SeqCst)
    }

    pub fn push(&self, text: String) {
        self.reply.push(Out::notice(text));
    }

    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged.load(SeqCst)
    }

    /// Its last message.
    pub fn finish(&self) {
        self.end(modern::listen_result(&self.id), false);
    }

    /// The same where it went wrong.
    pub fn fail(&self, code: i32, why: &str) {
        self.end(jsonrpc::error(Some(&self.id), code, why), true);
    }

    /// Ends it with this answer; its session knows it no more.
    pub fn end(&self, text: String, failed: bool) {
        if let Some(session) = self.session.upgrade() {
            session.take_listen(&self.id);
        }
        self.reply.push(Out::reply(text, failed));
    }
}
