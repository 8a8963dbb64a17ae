//! Several messages in one, which revision 2025-03-26 had and no other.

use std::sync::Arc;

use super::outbox::{Out, Outbox};
use super::route::{Later, fault_text, message};
use super::session::Session;
use crate::model::envelope::{self, Kind};
use crate::model::{jsonrpc, modern};

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
                outbox.push(Out { text, answer: true, failed: true });
                None
            }
            Ok(e) if modern::claimed(&e) && e.kind == Kind::Request => {
                let why = format!("revision {} has no batches", modern::VERSION);
                let text = jsonrpc::error(e.get(&e.id), jsonrpc::INVALID_REQUEST, &why);
                outbox.push(Out { text, answer: true, failed: true });
                None
            }
            Ok(e) => message(session, &e, &outbox),
            Err(fault) => {
                outbox.push(Out { text: fault_text(&fault), answer: true, failed: true });
                None
            }
        };
        if let Some(later) = later {
            async_std::task::spawn(later);
        }
    }
    Ok((due > 0).then_some(outbox))
}

/// The answers of a batch as one array, None if there are none; what is no answer goes to `aside`. Answers beyond
/// `limits.reply` in all become errors.
pub async fn collect(session: &Session, answers: &Outbox, aside: impl Fn(Out)) -> Option<String> {
    let limit = session.hub.config().limits.reply.bytes();
    let mut all = String::new();
    while let Some(out) = answers.next().await {
        if !out.answer {
            aside(out);
            continue;
        }
        all.push(if all.is_empty() { '[' } else { ',' });
        if all.len() + out.text.len() <= limit {
            all.push_str(&out.text);
        } else {
            let id = envelope::member(&out.text, "id");
            let why = "the answers of this batch are longer than limits.reply";
            all.push_str(&jsonrpc::error(id, jsonrpc::REFUSED, why));
        }
    }
    (!all.is_empty()).then(|| all + "]")
}

/// A batch on a connection that carries everything: its answers are one message, the rest passes as it comes.
pub(super) fn batch_on(session: &Arc<Session>, text: &str, reply: &Arc<Outbox>) -> Option<Later> {
    let answers = match batch(session, text) {
        Ok(answers) => answers?,
        Err(text) => {
            reply.push(Out { text, answer: true, failed: true });
            return None;
        }
    };
    let (reply, session) = (reply.clone(), session.clone());
    Some(Box::pin(async move {
        let aside = |out| {
            reply.push(out);
        };
        if let Some(text) = collect(&session, &answers, aside).await {
            reply.push(Out { text, answer: true, failed: false });
        }
    }))
}
