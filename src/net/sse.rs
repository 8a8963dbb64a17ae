//! HTTP+SSE, the transport of revision 2024-11-05: one event stream down, POSTs up.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, ORIGIN};
use hyper::{Request, StatusCode};

use super::answer::{Answer, error, plain, unavailable};
use super::body::{Events, Reply};
use super::connection::Connection;
use super::front::Front;
use super::request::{body_of, wants_events};
use super::respond::stream;
use crate::hub::Dropped;
use crate::hub::Outbox;
use crate::hub::route;
use crate::hub::{Later, Server, Session};
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
    headers: &HeaderMap,
) -> Answer {
    if let Err(response) = wants_events(front, headers) {
        return *response;
    }
    if is_from_elsewhere(headers) {
        front.hub.ctx.counters.count(Dropped::ForeignOrigin);
        let why = "a page of another site may not open a session";
        return error(StatusCode::FORBIDDEN, None, jsonrpc::INVALID_REQUEST, why);
    }
    let client = match front.hub.open_session(server, Transport::Sse, connection.holder()) {
        Ok(client) => client,
        Err(why) => return unavailable(None, &why.to_string()),
    };
    let outbox = connection.outbox(Outbox::new);
    client.session.attach(outbox.clone());
    // Relative to this host, as clients demand.
    let endpoint = format!("{base}/message?sessionId={}", client.session.id);
    stream(Events::with_endpoint(
        Reply { client, outbox, answered: true, resumable: false, connection: connection.clone() },
        &endpoint,
    ))
}

/// Whether a browser asks for a page of another site, without the `Origin` that scripts have to send: a picture or a frame,
/// say, whose address is ours (Fetch Metadata, `Sec-Fetch-Site`).
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|v| v.as_bytes());
    !headers.contains_key(ORIGIN) && matches!(site, Some(b"cross-site" | b"same-site"))
}

/// A message of such a session; what it asks for comes on the stream.
pub(super) async fn post(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Answer {
    let query = request.uri().query().unwrap_or("");
    let id = query.split('&').find_map(|pair| pair.strip_prefix("sessionId="));
    let own = |s: &Session| {
        let here = Arc::ptr_eq(&s.server, &server.core.name) && s.kind == SessionKind::Lasting(Transport::Sse);
        here && s.owner == connection.who()
    };
    let client = id.and_then(|id| front.hub.session(id)).filter(|c| own(&c.session));
    let Some((client, outbox)) = client.and_then(|c| c.session.push_outbox().map(|o| (c, o))) else {
        let why = "there is no such session: GET the path /sse of the server first";
        return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, why);
    };
    let (_, body, _kept) = match body_of(front, connection, request).await {
        Ok(whole) => whole,
        Err(response) => return *response,
    };
    let length = body.len();
    let take = move || -> Result<Option<Later>, String> {
        if let Err(fault @ Fault::Json(..)) = scan(unmarked(&body)) {
            return Err(route::fault_text(&fault));
        }
        Ok(route::receive(&client, &body, &outbox))
    };
    match if length > LONG { busy(take).await } else { take() } {
        Ok(later) => drop(later.map(task::spawn)),
        Err(fault) => return plain(StatusCode::BAD_REQUEST, "application/json", fault),
    }
    plain(StatusCode::ACCEPTED, "text/plain", "Accepted".to_owned())
}
