//! Several messages in one, which revision 2025-03-26 had and no other.

use std::borrow::Cow;
use std::sync::Arc;

use super::message::{fault_text, message};
use crate::hub::client::endpoint::Client;
use crate::hub::client::outbox::Outbox;
use crate::model::envelope::{self, Fault, Kind};
use crate::model::out::Out;
use crate::model::{jsonrpc, method, modern};
use crate::rt::task;

/// Takes the messages of a batch. The outbox is for their answers; None if there will be none. An error is the answer to
/// the batch as a whole.
pub(crate) fn batch(client: &Client, text: &str) -> Result<Option<Arc<Outbox>>, String> {
    let invalid = |why: &str| Err(jsonrpc::error(None, jsonrpc::INVALID_REQUEST, why));
    let Some(messages) = envelope::batch(text) else { return invalid("a batch is an array of messages") };
    let most = client.session.ctx.config().limits.in_flight as usize;
    if messages.is_empty() || messages.len() > most {
        return invalid(&format!("a batch holds 1 to {most} messages (limits.in_flight)"));
    }
    let messages: Vec<Cow<'_, str>> = messages.into_iter().map(exact).collect();
    let scanned: Vec<_> = messages.iter().map(|text| envelope::scan_client(text)).collect();
    let due = scanned.iter().filter(|s| s.as_ref().map_or(true, |e| e.kind == Kind::Request)).count();
    let limit = client.session.ctx.config().limits.reply.bytes();
    let outbox = Arc::new(Outbox::batch(limit.saturating_mul(2), due).counted(client.session.keep()));
    for one in scanned {
        let later = match one {
            Ok(e) if e.method == method::INITIALIZE && e.kind == Kind::Request => {
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
            Ok(e) => message(client, &e, &outbox),
            Err(fault) => {
                outbox.push(Out::error(fault_text(&fault)));
                None
            }
        };
        if let Some(later) = later {
            task::spawn(later);
        }
    }
    Ok((due > 0).then_some(outbox))
}

/// A message with what is merely inexact in it mended.
fn exact(text: &str) -> Cow<'_, str> {
    match envelope::scan_client(text) {
        Err(Fault::Inexact(changes)) => Cow::Owned(envelope::spliced(text, &changes)),
        _ => Cow::Borrowed(text),
    }
}

/// A batch on a connection that carries everything: its answers are one message, the rest passes as it comes.
pub(super) fn batch_on(client: &Client, text: &str, reply: &Arc<Outbox>) {
    match batch(client, text) {
        Ok(Some(answers)) => collect(client, answers, reply, true),
        Ok(None) => {}
        Err(text) => drop(reply.push(Out::error(text))),
    }
}

/// Collects the answers of a batch as one array for `reply`. What is no answer passes as it comes where the reply is
/// `shared`, and is dropped elsewhere. Answers beyond `limits.reply` in all become errors.
pub(crate) fn collect(client: &Client, answers: Arc<Outbox>, reply: &Arc<Outbox>, shared: bool) {
    let limit = client.session.ctx.config().limits.reply.bytes();
    client.session.batches.collect(answers, reply, shared, limit);
}
