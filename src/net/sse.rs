//! HTTP+SSE, the transport of revision 2024-11-05: one event stream down, POSTs up.

use std::sync::Arc;

use hyper::StatusCode;

use super::answer::{Answer, Answering, error, plain, unavailable};
use super::body::{Events, Reply};
use super::connection::Connection;
use super::front::Front;
use super::head::Fields;
use super::request::{Asking, RequestBody, body_of, wants_events, whole_body_of};
use super::respond::stream;
use crate::hub::Dropped;
use crate::hub::Outbox;
use crate::hub::route;
use crate::hub::{Client, Server, Session};
use crate::model::envelope::{Fault, scan, unmarked};
use crate::model::jsonrpc;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::blocking::{LONG, busy};
use crate::rt::task;

/// The transport of 2024-11-05: an event stream that says where to post, and carries every answer.
pub(super) fn open(
    front: &Arc<Front>,
    server: &Arc<Server>,
    base: &str,
    connection: &Arc<Connection>,
    fields: &Fields,
) -> Answer {
    if let Err(response) = wants_events(front, fields) {
        return *response;
    }
    if is_from_elsewhere(fields) {
        front.hub.ctx.counters.count(Dropped::ForeignOrigin);
        let why = "a page of another site may not open a session";
        return error(StatusCode::FORBIDDEN, None, jsonrpc::INVALID_REQUEST, why);
    }
    let client = match front.hub.open_session(server, Transport::Sse, connection.holder()) {
        Ok(client) => client,
        Err(why) => return unavailable(None, &why.to_string()),
    };
    client.session.note_address(connection.from());
    let outbox = connection.outbox(Outbox::new);
    client.session.attach(outbox.clone());
    // Relative to this host, as clients demand.
    let endpoint = format!("{base}/message?sessionId={}", client.session.id());
    stream(Events::with_endpoint(
        Reply { client, outbox, answered: true, resumable: false, connection: connection.clone() },
        &endpoint,
    ))
}

/// Whether a browser asks for a page of another site, without the `Origin` that scripts have to send: a picture or a frame,
/// say, whose address is ours (Fetch Metadata, `Sec-Fetch-Site`).
fn is_from_elsewhere(fields: &Fields) -> bool {
    !fields.has("origin") && matches!(fields.get("sec-fetch-site"), Some(b"cross-site" | b"same-site"))
}

/// A message of such a session; what it asks for comes on the stream.
pub(super) fn post(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    request: Asking,
) -> Answering {
    let Asking { head, body } = request;
    let query = head.query.as_deref().unwrap_or("");
    let id = query.split('&').find_map(|pair| pair.strip_prefix("sessionId="));
    let own = |s: &Session| {
        let here = Arc::ptr_eq(&s.server, &server.core.name) && s.kind == SessionKind::Lasting(Transport::Sse);
        here && s.owner == connection.who()
    };
    let client = id.and_then(|id| front.hub.session(id)).filter(|c| own(&c.session));
    let Some((client, outbox)) = client.and_then(|c| c.session.push_outbox().map(|o| (c, o))) else {
        let why = "there is no such session: GET the path /sse of the server first";
        return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, why).into();
    };
    match body {
        RequestBody::Whole(body) => match whole_body_of(front, connection, &head.fields, body) {
            Ok((text, _kept)) => take(&client, &text, &outbox).into(),
            Err(refused) => (*refused).into(),
        },
        RequestBody::Coming(request) => {
            let (connection, body) = (connection.clone(), request.into_body());
            Answering::later(async move {
                match body_of(&connection.front, &connection, &head.fields, body).await {
                    Ok((text, _kept)) if text.len() > LONG => busy(move || take(&client, &text, &outbox)).await,
                    Ok((text, _kept)) => take(&client, &text, &outbox),
                    Err(refused) => *refused,
                }
            })
        }
    }
}

/// Takes the body of such a request.
fn take(client: &Client, body: &str, outbox: &Arc<Outbox>) -> Answer {
    if let Err(fault @ Fault::Json(..)) = scan(unmarked(body)) {
        return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault));
    }
    drop(route::receive(client, body, outbox).map(task::spawn));
    plain(StatusCode::ACCEPTED, "text/plain", "Accepted".to_owned())
}
