//! Streamable HTTP in both eras (basic/transports of revisions 2025-03-26 to 2026-07-28).

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Request, StatusCode};

use super::answer::{Answer, empty, error, not_allowed, plain, unavailable};
use super::body::{Events, Reply};
use super::connection::Connection;
use super::front::Front;
use super::request::{VERSION, accepts, body_of, check_version, text, wants_events};
use super::respond::{SESSION, answer, events_of, name_session, stream};
use crate::hub::{Client, Dropped, Headers, Outbox, Server, Session, route};
use crate::model::asked::Accepts;
use crate::model::envelope::{Envelope, Fault, Kind, scan_client, spliced};
use crate::model::transport::{SessionKind, Transport};
use crate::model::{jsonrpc, method, modern, trace};
use crate::rt::blocking::{LONG, steps_aside};
use crate::rt::task;

const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Serves a request of the endpoint `.../mcp`.
pub(super) async fn serve(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Answer {
    if request.method() != Method::POST && server.core.is_modern_only() {
        // There are no sessions to open a stream of, or to delete (2026-07-28 basic/transports/streamable-http).
        return not_allowed("POST, OPTIONS", "POST");
    }
    match *request.method() {
        Method::POST => post(front, server, connection, request).await,
        Method::GET => get(front, server, connection, request.headers()),
        Method::DELETE => delete(front, server, connection, request.headers()),
        _ => not_allowed("POST, GET, DELETE, OPTIONS", "POST, GET or DELETE"),
    }
}

/// Whether a request is of a session of this transport, as it says itself.
pub(super) fn names_session(headers: &HeaderMap) -> bool {
    headers.contains_key(SESSION)
}

/// The session that a request names, if it is there and its sender's.
fn named(front: &Front, server: &Arc<Server>, connection: &Connection, headers: &HeaderMap) -> Option<Client> {
    let found = headers.get(SESSION)?.to_str().ok().and_then(|n| front.hub.session(n));
    let found = found.filter(|c| Arc::ptr_eq(&c.session.server, &server.core.name));
    // A session of another principal is not there, however its id became known.
    let own = |s: &Session| s.kind == SessionKind::Lasting(Transport::Http) && s.owner == connection.who();
    found.filter(|c| own(&c.session))
}

/// The session that a request has to name.
fn session(
    front: &Front,
    server: &Arc<Server>,
    connection: &Connection,
    headers: &HeaderMap,
    id: Option<&str>,
) -> Result<Client, Box<Answer>> {
    let refuse = |status, why: &str| Box::new(error(status, id, jsonrpc::INVALID_REQUEST, why));
    if !names_session(headers) {
        return Err(refuse(StatusCode::BAD_REQUEST, "no Mcp-Session-Id: begin with 'initialize'"));
    }
    let Some(client) = named(front, server, connection, headers) else {
        return Err(refuse(StatusCode::NOT_FOUND, "this session has ended: begin again with 'initialize'"));
    };
    if let Err(why) = check_version(headers) {
        return Err(refuse(StatusCode::BAD_REQUEST, &why));
    }
    Ok(client)
}

async fn post(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Answer {
    let accepts = accepts(request.headers());
    if accepts == Accepts::default() {
        let why = "the client must accept application/json and text/event-stream";
        return error(StatusCode::NOT_ACCEPTABLE, None, jsonrpc::INVALID_REQUEST, why);
    }
    let (head, body, kept) = match body_of(front, connection, request).await {
        Ok(whole) => whole,
        Err(response) => return *response,
    };
    let long = body.len() > LONG;
    let taken = take(front.clone(), server.clone(), connection.clone(), head.headers, body, accepts);
    let answer = if long { steps_aside(taken).await } else { taken.await };
    drop(kept);
    answer
}

/// Takes the body of such a request.
async fn take(
    front: Arc<Front>,
    server: Arc<Server>,
    connection: Arc<Connection>,
    headers: HeaderMap,
    body: String,
    accepts: Accepts,
) -> Answer {
    let (front, server, connection) = (&front, &server, &connection);
    let e = match scan_client(&body) {
        Ok(e) => e,
        Err(Fault::Inexact(changes)) => {
            let exact = spliced(&body, &changes);
            return Box::pin(take(front.clone(), server.clone(), connection.clone(), headers, exact, accepts)).await;
        }
        Err(Fault::Batch) => return batch(front, server, connection, &headers, &body, accepts).await,
        Err(fault) => return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault)),
    };
    let traced = trace::from_headers(&e, &|name| headers.get(name).and_then(|v| v.to_str().ok()));
    let e = match &traced {
        None => e,
        Some(traced) => match scan_client(traced) {
            Ok(e) => e,
            Err(fault) => return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault)),
        },
    };
    let modern_header = text(&headers, &VERSION).is_some_and(|v| modern::is_modern(v.trim()));
    // A handshake is of the legacy era, whatever its header says.
    let begins = e.kind == Kind::Request && e.method == method::INITIALIZE;
    if modern::claimed(&e) || (modern_header && !begins) {
        return stateless(server, connection, &headers, &e, accepts).await;
    }
    // Some clients keep the id of a session that has ended, and begin anew with it.
    if begins && named(front, server, connection, &headers).is_none() {
        return initialize(front, server, connection, &e, accepts).await;
    }
    if e.kind == Kind::Notification && !headers.contains_key(SESSION) {
        // Some clients leave out the id behind their handshake; nothing of theirs depends on what cannot be attributed.
        front.hub.ctx.counters.count(Dropped::UnownedNotifications);
        return empty(StatusCode::ACCEPTED);
    }
    match session(front, server, connection, &headers, e.get(&e.id)) {
        Ok(client) => message(client, connection, &e, accepts).await,
        Err(response) => *response,
    }
}

/// One request of the modern era: it is served by itself, and cancelled when its client leaves.
async fn stateless(
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    headers: &HeaderMap,
    e: &Envelope<'_>,
    accepts: Accepts,
) -> Answer {
    if e.kind != Kind::Request {
        return empty(StatusCode::ACCEPTED);
    }
    let fields = Fields(headers);
    let refuse = |status: u16, refusal: &modern::Refusal| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        plain(status, "application/json", refusal.text(e.get(&e.id)))
    };
    if let Err(refusal) = modern::check_meta(e) {
        return refuse(400, &refusal);
    }
    let checked = modern::check_headers(e, &|name| fields.values(name)).and_then(|()| modern::check_version(e));
    if let Err(refusal) = checked.and_then(|()| modern::check_method(e)) {
        return refuse(modern::http_status(refusal.code), &refusal);
    }
    if e.method == method::LISTEN && !accepts.events {
        let why = "a subscription is an event stream: the client must accept text/event-stream";
        return error(StatusCode::NOT_ACCEPTABLE, e.get(&e.id), jsonrpc::INVALID_REQUEST, why);
    }
    let client = server.open_request(connection.holder());
    let outbox = connection.outbox(Outbox::single);
    let mut reply = Reply {
        client: client.clone(),
        outbox: outbox.clone(),
        answered: false,
        resumable: false,
        connection: connection.clone(),
    };
    if e.method == method::TOOLS_CALL
        && let Err(refusal) = route::check_headers(&client, e, &fields).await
    {
        reply.answered = true;
        return refuse(400, &refusal);
    }
    if let Some(later) = route::modern_message(&client, e, &outbox) {
        task::spawn(later);
    }
    answer(reply, accepts).await
}

/// The header fields of a request, without white space around them.
struct Fields<'h>(&'h HeaderMap);

impl Headers for Fields<'_> {
    fn values(&self, name: &str) -> Vec<&[u8]> {
        self.0.get_all(name).iter().map(|v| v.as_bytes().trim_ascii()).collect()
    }
}

/// `initialize` opens a session, whose id comes with the answer.
async fn initialize(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    e: &Envelope<'_>,
    accepts: Accepts,
) -> Answer {
    let client = match front.hub.open_session_soon(server, Transport::Http, connection.holder()).await {
        Ok(client) => client,
        Err(why) => return unavailable(e.get(&e.id), &why.to_string()),
    };
    connection.opens_session();
    let mut unconfirmed = UnconfirmedSession(Some(client.clone()), connection.clone());
    let mut response = message(client.clone(), connection, e, accepts).await;
    if name_session(&mut response, &client.session) {
        unconfirmed.0 = None;
    }
    response
}

/// A session whose client has not got its id: it ends with the attempt, also when the client leaves meanwhile.
struct UnconfirmedSession(Option<Client>, Arc<Connection>);

impl Drop for UnconfirmedSession {
    fn drop(&mut self) {
        if let Some(client) = self.0.as_ref().filter(|_| !self.1.is_parking()) {
            self.1.front.hub.end_session(client, "its handshake failed");
        }
    }
}

/// A message of a session: 202 for what needs no answer, else one JSON object, or events if there is more to say.
async fn message(client: Client, connection: &Arc<Connection>, e: &Envelope<'_>, accepts: Accepts) -> Answer {
    let outbox = connection.outbox(if accepts.events { Outbox::single } else { Outbox::plain });
    if e.kind != Kind::Request {
        route::message(&client, e, &outbox);
        return empty(StatusCode::ACCEPTED);
    }
    let reply = Reply {
        client: client.clone(),
        outbox: outbox.clone(),
        answered: false,
        resumable: false,
        connection: connection.clone(),
    };
    if let Some(later) = route::message(&client, e, &outbox) {
        task::spawn(later);
    }
    answer(reply, accepts).await
}

/// The stream for messages that answer no request.
fn get(front: &Arc<Front>, server: &Arc<Server>, connection: &Arc<Connection>, headers: &HeaderMap) -> Answer {
    if let Err(response) = wants_events(front, headers) {
        return *response;
    }
    let client = match session(front, server, connection, headers, None) {
        Ok(client) => client,
        Err(response) => return *response,
    };
    if let Some(id) = text(headers, &LAST_EVENT) {
        // An id that is not known any more is answered as if there was none: nothing can be replayed.
        let found = client.session.replay().find(id);
        if let Some((lost, event)) = found {
            if lost.outbox.is_finished() && lost.after(event).is_empty() {
                // An empty stream would be taken for one that broke again, for ever.
                let why = "this stream has ended, and nothing that came after this event is kept";
                return error(StatusCode::GONE, None, jsonrpc::INVALID_REQUEST, why);
            }
            return stream(Events::resumed(&client, lost, event, connection));
        }
    }
    let outbox = Arc::new(Outbox::new(front.hub.ctx.config().limits.message.bytes()).counted(connection.keep()));
    client.session.attach(outbox.clone());
    let reply = Reply { client, outbox, answered: true, resumable: true, connection: connection.clone() };
    stream(Events::resumable(reply, None).at_once())
}

/// Several messages at once, which revision 2025-03-26 had.
async fn batch(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    headers: &HeaderMap,
    body: &str,
    accepts: Accepts,
) -> Answer {
    let client = match session(front, server, connection, headers, None) {
        Ok(client) => client,
        Err(response) => return *response,
    };
    if client.session.revision() != Some(route::BATCHES) {
        return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&Fault::Batch));
    }
    let outbox = match route::batch(&client, body) {
        Ok(Some(outbox)) => outbox,
        Ok(None) => return empty(StatusCode::ACCEPTED),
        Err(text) => return plain(StatusCode::BAD_REQUEST, "application/json", text),
    };
    let reply =
        |client, outbox| Reply { client, outbox, answered: false, resumable: false, connection: connection.clone() };
    if accepts.events {
        return stream(events_of(reply(client, outbox), None));
    }
    let whole = connection.outbox(Outbox::single);
    route::collect(&client, outbox, &whole, false);
    answer(reply(client, whole), accepts).await
}

fn delete(front: &Front, server: &Arc<Server>, connection: &Connection, headers: &HeaderMap) -> Answer {
    match session(front, server, connection, headers, None) {
        Ok(client) => {
            front.hub.end_session(&client, "its client deleted it");
            empty(StatusCode::NO_CONTENT)
        }
        Err(response) => *response,
    }
}
