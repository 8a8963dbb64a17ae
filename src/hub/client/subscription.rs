//! A subscription of the modern era (2026-07-28 patterns/subscriptions), and the changes that it carries.
//!
//! Knows the client's side alone: where its messages go, and not who sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::outbox::{Outbox, Places};
use crate::model::ids::Id;
use crate::model::modern::Filter;
use crate::model::out::Out;
use crate::model::{handover, jsonrpc, modern};

/// The lists whose changes are told.
pub(crate) const LISTS: [&str; 3] = ["tools", "prompts", "resources"];

/// Something that a server tells of itself.
pub(crate) enum Change<'c> {
    /// A list (`tools`, `prompts`, `resources`) has changed.
    List { list: &'c str, text: &'c str },
    /// A resource has changed.
    Resource { uri: &'c str, text: &'c str },
}

/// What a client asks for with `subscriptions/listen`.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// The id of the request, as the client wrote it.
    pub id: Id,
    pub filter: Filter,
    /// The whole request.
    pub text: Box<str>,
    pub reply: Arc<Outbox>,
}

/// A subscription that is open.
pub(crate) struct Subscription {
    /// The id of its request, as the client wrote it.
    pub id: Id,
    /// The number of the session that it is of.
    pub session: u64,
    pub reply: Arc<Outbox>,
    /// What of it is honoured.
    pub filter: Filter,
    /// The whole request, for a child of the modern era, which keeps it; a legacy child knows nothing of it.
    pub request: Option<Box<str>>,
    acknowledged: AtomicBool,
    ended: AtomicBool,
}

impl Subscription {
    /// One that a child of the modern era keeps, or is asked for when it is there.
    pub(crate) fn forwarded(session: u64, wanted: &Wanted) -> Arc<Subscription> {
        Arc::new(Subscription::new(session, wanted, wanted.filter.clone(), Some(wanted.text.clone())))
    }

    /// One that is kept here, as far as it is `honoured`.
    pub(crate) fn kept(session: u64, wanted: &Wanted, honoured: Filter) -> Arc<Subscription> {
        Arc::new(Subscription::new(session, wanted, honoured, None))
    }

    fn new(session: u64, wanted: &Wanted, filter: Filter, request: Option<Box<str>>) -> Subscription {
        Subscription {
            id: wanted.id.clone(),
            session,
            reply: wanted.reply.clone(),
            filter,
            request,
            acknowledged: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Everything of it, for the next program.
    pub(crate) fn save(&self, places: &mut Places) -> handover::Subscription {
        handover::Subscription {
            id: self.id.to_string(),
            reply: places.of(&self.reply),
            filter: self.filter.clone(),
            request: self.request.as_ref().map(ToString::to_string),
            acknowledged: self.is_acknowledged(),
        }
    }

    /// The subscription of the program before.
    pub(crate) fn restore(session: u64, saved: handover::Subscription, reply: Arc<Outbox>) -> Arc<Subscription> {
        let mut filter = saved.filter;
        // Another version may have kept them as they came.
        filter.uris.sort_unstable();
        Arc::new(Subscription {
            id: saved.id.as_str().into(),
            session,
            reply,
            filter,
            request: saved.request.map(Into::into),
            acknowledged: AtomicBool::new(saved.acknowledged),
            ended: AtomicBool::new(false),
        })
    }

    /// How much of what its client has sent is kept, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |text| text.len());
        request.max(self.filter.uris.iter().map(String::len).sum())
    }

    /// What is asked for, where a child of the modern era is to keep it.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        let text = self.request.clone()?;
        Some(Wanted { id: self.id.clone(), filter: self.filter.clone(), text, reply: self.reply.clone() })
    }

    /// Notes that it was acknowledged; true the first time, because that of a new child is not for the client.
    pub(crate) fn acknowledge(&self) -> bool {
        !self.acknowledged.swap(true, SeqCst)
    }

    /// Tells the client what of it is honoured. It is the first message of a subscription that is kept here.
    pub(crate) fn confirm(&self) {
        self.acknowledge();
        self.push(self.filter.acknowledged(&self.id));
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged.load(SeqCst)
    }

    /// It has had its last message.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    pub(crate) fn push(&self, text: String) {
        self.reply.push(Out::notice(text));
    }

    /// Ends it in order.
    pub(crate) fn finish(&self) {
        self.end(modern::listen_result(&self.id), false);
    }

    /// Ends it with an error.
    pub(crate) fn fail(&self, code: i32, why: &str) {
        self.end(jsonrpc::error(Some(&self.id), code, why), true);
    }

    /// Ends it with this answer to its request.
    pub(crate) fn end(&self, text: String, failed: bool) {
        self.ended.store(true, SeqCst);
        self.reply.push(Out::reply(text, failed));
    }
}
