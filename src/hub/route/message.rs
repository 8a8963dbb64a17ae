//! One message of a client.

use std::sync::Arc;

use crate::hub::client::endpoint::{Client, Headers, Later, ToolCall};
use crate::hub::client::outbox::Outbox;
use crate::hub::client::subscription::Wanted;
use crate::hub::counters::Dropped;
use crate::hub::server::admit::{SHUTTING_DOWN, admit, refuse};
use crate::model::envelope::{Envelope, Fault, Kind, decode, member};
use crate::model::modern::{self, Era, Filter, Refusal};
use crate::model::out::Out;
use crate::model::{jsonrpc, method};
use crate::rt::task;

/// The one revision that has batches.
pub(crate) const BATCHES: &str = "2025-03-26";

/// What is kept of a message for as long as its session lasts is no longer, in bytes.
const LASTING: usize = 64 << 10;

/// The error that answers a text that is no message.
pub(crate) fn fault_text(fault: &Fault<'_>) -> String {
    match fault {
        Fault::Json(at, what) => jsonrpc::error(None, jsonrpc::PARSE_ERROR, &format!("not JSON at byte {at}: {what}")),
        Fault::Batch => {
            let why = format!("batches are for sessions of revision {BATCHES} alone: send one message at a time");
            jsonrpc::error(None, jsonrpc::INVALID_REQUEST, &why)
        }
        Fault::Message(id, what) => jsonrpc::error(*id, jsonrpc::INVALID_REQUEST, what),
        // Mended before anybody is answered.
        Fault::Inexact(_) => jsonrpc::error(None, jsonrpc::INVALID_REQUEST, "the message is inexact"),
        Fault::Respelled(id, key) => {
            let why = format!("the member '{key}' is spelled in another way: write it so, and once");
            jsonrpc::error(*id, jsonrpc::INVALID_REQUEST, &why)
        }
    }
}

/// Takes a message of the legacy era from a client. Its answer, if it is a request, goes to `reply`.
pub(crate) fn message(client: &Client, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    let Client { session, endpoint } = client;
    session.touch();
    if e.method != method::INITIALIZE {
        session.note_use();
    } else if e.kind == Kind::Request {
        session.note_client(e.get(&e.params).and_then(|params| member(params, "clientInfo")));
    }
    if matches!(e.method.as_ref(), method::INITIALIZE | method::SET_LEVEL)
        && e.kind == Kind::Request
        && e.text().len() > LASTING
    {
        session.ctx.counters.count(Dropped::LongMessages);
        let why = format!("'{}' is longer than {} KiB", e.method, LASTING >> 10);
        refuse(e, reply, jsonrpc::INVALID_REQUEST, &why);
        return None;
    }
    match e.kind {
        Kind::Request => return admit(&**endpoint, session, e, reply).and_then(|call| endpoint.request(call, e)),
        Kind::Response => endpoint.response(session, e),
        Kind::Notification => match e.method.as_ref() {
            method::CANCELLED => {
                if let Some(id) = e.get(&e.request_id) {
                    client.cancelled(id);
                }
            }
            method if method::is_notification(method) => endpoint.notification(session, e),
            // A request without an id cannot be answered, limited or counted.
            _ => session.ctx.counters.count(Dropped::UnownedNotifications),
        },
    }
    None
}

/// Whether a request of the modern era may pass, apart from its headers.
pub(crate) fn check_modern(e: &Envelope<'_>) -> Result<(), Refusal> {
    modern::check_meta(e)?;
    modern::check_version(e)?;
    modern::check_method(e)
}

/// Takes a message of the modern era whose envelope has been checked. Its answer goes to `reply`.
///
/// There are no sessions in this era. Over HTTP each request brings one of its own that ends with it, so that what it
/// holds is given up when its client leaves; over a WebSocket it is the connection's.
pub(crate) fn modern_message(client: &Client, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    let session = &client.session;
    session.touch();
    match (e.kind, e.method.as_ref()) {
        (Kind::Request, method) => {
            session.note_era(Era::Modern);
            if session.kind.is_lasting() && session.client().is_none() {
                session.note_client(e.get(&e.meta).and_then(|meta| member(meta, modern::CLIENT_INFO)));
            }
            if method == method::LISTEN {
                return subscribe(client, e, reply);
            }
            let mut call = admit(&*client.endpoint, session, e, reply)?;
            call.logs = e.modern.log_level.is_some();
            return client.endpoint.modern_request(call, e);
        }
        (Kind::Notification, method::CANCELLED) => {
            if let Some(id) = e.get(&e.request_id) {
                client.cancelled(id);
            }
        }
        // Nothing else goes from a client to a server in this era.
        (Kind::Notification, _) => session.ctx.counters.count(Dropped::UnownedNotifications),
        (Kind::Response, _) => session.ctx.counters.count(Dropped::UnownedReplies),
    }
    None
}

fn subscribe(client: &Client, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    if client.session.ctx.draining.is_set() {
        reply.push(Out::error(jsonrpc::error(e.get(&e.id), jsonrpc::REFUSED, SHUTTING_DOWN)));
        return None;
    }
    let id = e.get(&e.id).unwrap_or("null");
    match Filter::read(e.get(&e.params).unwrap_or("{}")) {
        Ok(filter) => {
            let wanted = Wanted { id: id.into(), filter, text: e.text().into(), reply: reply.clone() };
            client.endpoint.subscribe(&client.session, wanted)
        }
        Err(refusal) => {
            reply.push(Out::error(refusal.text(Some(id))));
            None
        }
    }
}

/// Whether the headers of a call repeat the arguments of its tool as they are.
pub(crate) async fn check_headers(client: &Client, e: &Envelope<'_>, headers: &dyn Headers) -> Result<(), Refusal> {
    let tool = e.get(&e.name).map(decode).unwrap_or_default();
    client.endpoint.check_headers(ToolCall { session: &client.session, e, tool: &tool, headers }).await
}

/// Takes up what waited for a child in the program before: subscriptions of the modern era.
pub(crate) fn resume_subscriptions(client: &Client) {
    let Client { session, endpoint } = client;
    for subscription in session.subscriptions().iter().filter(|s| !s.is_acknowledged()) {
        if endpoint.keeps(subscription) {
            continue;
        }
        let Some(wanted) = subscription.wanted() else { continue };
        session.take_subscription(&subscription.id);
        endpoint.subscribe(session, wanted).map(task::spawn);
    }
}
