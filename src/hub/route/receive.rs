//! Any text of a client: a message of either era, a batch, one of the executor's own protocol, or none of these.

use std::sync::Arc;

use super::batch::batch_on;
use super::message::{BATCHES, check_modern, fault_text, message, modern_message};
use crate::hub::client::endpoint::{Client, Later};
use crate::hub::client::outbox::Outbox;
use crate::model::envelope::{self, Envelope, Fault, Kind, spliced};
use crate::model::out::Out;
use crate::model::transport::{SessionKind, Transport};
use crate::model::{method, modern};

/// Takes any text from a client. Answers go to `reply`.
pub(crate) fn receive(client: &Client, text: &str, reply: &Arc<Outbox>) -> Option<Later> {
    match envelope::scan_client(text) {
        Ok(e) if modern::claimed(&e) => {
            if e.kind == Kind::Request
                && let Err(refusal) = check_modern(&e)
            {
                reply.push(Out::error(refusal.text(e.get(&e.id))));
                return None;
            }
            modern_message(client, &e, reply)
        }
        Ok(e) if may_be_beside(client, &e) && client.endpoint.beside(&client.session, &e, reply) => None,
        Ok(e) => message(client, &e, reply),
        Err(Fault::Inexact(changes)) => receive(client, &spliced(text, &changes), reply),
        Err(Fault::Batch) if client.session.revision() == Some(BATCHES) => {
            batch_on(client, text, reply);
            None
        }
        Err(fault) => {
            reply.push(Out::error(fault_text(&fault)));
            None
        }
    }
}

/// Whether a message may be of the executor's own protocol, which is spoken on a WebSocket beside MCP.
fn may_be_beside(client: &Client, e: &Envelope<'_>) -> bool {
    e.kind == Kind::Request
        && matches!(e.method.as_ref(), method::EXECUTE | method::CONTROL)
        && client.session.kind == SessionKind::Lasting(Transport::WebSocket)
}
