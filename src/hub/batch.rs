//! Several messages in one, which revision 2025-03-26 had and no other.

use std::sync::Arc;

use super::handover::{Restored, Saver};
use super::outbox::Outbox;
use super::route::{fault_text, message};
use super::session::Session;
use crate::model::envelope::{self, Kind};
use crate::model::out::Out;
use crate::model::{handover, jsonrpc, modern};
use crate::sys::lock::{Guard, Lock};

/// The one revision that has batches.
pub const BATCHES: &str = "2025-03-26";

/// Takes the messages of a batch. The outbox is for their answers; None if there will be none. An error is the answer to
/// the batch as a whole.
pub fn batch(session: &Arc<Session>, text: &str) -> Result<Option<Arc<Outbox>>, String> {
    let invalid = |why: &str| Err(jsonrpc::error(None, jsonrpc::INVALID_REQUEST, why));
    let Some(messages) = envelope::batch(text) else { return invalid("a batch is an array of messages") };
    let most = session.hub.config().limits.in_flight as usize;
    if messages.is_empty() || messages.len() > most {
        return invalid(&format!("a batch holds 1 to {most} messages (limits.in_flight)"));
    }
    let scanned: Vec<_> = messages.iter().map(|text| envelope::scan(text)).collect();
    let due = scanned.iter().filter(|s| s.as_ref().map_or(true, |e| e.kind == Kind::Request)).count();
    let limit = session.hub.config().limits.reply.bytes();
    let outbox = Arc::new(Outbox::batch(limit.saturating_mul(2), due));
    for one in scanned {
        let later = match one {
            Ok(e) if e.method == "initialize" && e.kind == Kind::Request => {
                let text =
                    jsonrpc::error(e.get(&e.id), jsonrpc::INVALID_REQUEST, "'initialize' must not be in a batch");
                outbox.push(Out::error(text));
                None
            }
            Ok(e) if modern::claimed(&e) && e.kind == Kind::Request => {
                let why = format!("revision {} has no batches", modern::VERSION);
                let text = jsonrpc::error(e.get(&e.id), jsonrpc::INVALID_REQUEST, &why);
                outbox.push(Out::error(text));
                None
            }
            Ok(e) => message(session, &e, &outbox),
            Err(fault) => {
                outbox.push(Out::error(fault_text(&fault)));
                None
            }
        };
        if let Some(later) = later {
            async_std::task::spawn(later);
        }
    }
    Ok((due > 0).then_some(outbox))
}

/// A batch whose answers are collected.
pub struct Collected {
    answers: Arc<Outbox>,
    /// What has come.
    so_far: Lock<String>,
    /// Where the array goes.
    reply: Arc<Outbox>,
    /// The reply carries everything else as well, and goes on after the array.
    shared: bool,
}

impl Collected {
    /// Collects the answers of a batch as one array for `reply`, which ends without one if there are none; what is no
    /// answer passes as it comes where the reply is `shared`, and is dropped elsewhere. Answers beyond `limits.reply` in
    /// all become errors.
    pub fn begin(session: &Arc<Session>, answers: Arc<Outbox>, reply: &Arc<Outbox>, shared: bool) {
        Collected::go_on(session, answers, String::new(), reply, shared);
    }

    fn go_on(session: &Arc<Session>, answers: Arc<Outbox>, so_far: String, reply: &Arc<Outbox>, shared: bool) {
        let (so_far, reply) = (Lock::new(so_far), reply.clone());
        let batch = Arc::new(Collected { answers, so_far, reply, shared });
        session.batches().push(batch.clone());
        async_std::task::spawn(batch.collect(session.clone()));
    }

    async fn collect(self: Arc<Self>, session: Arc<Session>) {
        let limit = session.hub.config().limits.reply.bytes();
        while let Some(out) = self.answers.next().await {
            if !out.answer {
                if self.shared {
                    self.reply.push(out);
                }
                continue;
            }
            let mut all = self.so_far();
            let before = if all.is_empty() { '[' } else { ',' };
            all.push(before);
            if all.len() + out.text.len() <= limit {
                all.push_str(&out.text);
            } else {
                let id = envelope::member(&out.text, "id");
                let why = "the answers of this batch are longer than limits.reply";
                all.push_str(&jsonrpc::error(id, jsonrpc::REFUSED, why));
            }
        }
        session.batches().retain(|b| !Arc::ptr_eq(b, &self));
        let all = std::mem::take(&mut *self.so_far());
        if !all.is_empty() {
            self.reply.push(Out::answer(all + "]"));
        } else if !self.shared {
            self.reply.end();
        }
    }

    fn so_far(&self) -> Guard<'_, String> {
        self.so_far.lock()
    }

    /// Everything of it, for the next program.
    pub fn save(&self, saver: &mut Saver) -> handover::Batch {
        handover::Batch {
            answers: saver.outbox(&self.answers),
            so_far: self.so_far().clone(),
            reply: saver.outbox(&self.reply),
            shared: self.shared,
        }
    }

    /// Goes on with it.
    pub fn restore(session: &Arc<Session>, saved: handover::Batch, restored: &Restored) {
        let (answers, reply) = (restored.outbox(saved.answers), restored.outbox(saved.reply));
        Collected::go_on(session, answers, saved.so_far, &reply, saved.shared);
    }
}

/// A batch on a connection that carries everything: its answers are one message, the rest passes as it comes.
pub(super) fn batch_on(session: &Arc<Session>, text: &str, reply: &Arc<Outbox>) {
    match batch(session, text) {
        Ok(Some(answers)) => Collected::begin(session, answers, reply, true),
        Ok(None) => {}
        Err(text) => drop(reply.push(Out::error(text))),
    }
}
