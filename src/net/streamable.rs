//! Streamable HTTP in both eras (basic/transports of revisions 2025-03-26 to 2026-07-28).

use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::Net;
use super::body::{Body, Events, Reply};
use super::http::{Answer, accepts, body_of, empty, error, not_allowed, plain, text, unavailable, wants_events};
use super::seat::Seat;
use crate::hub::Outbox;
use crate::hub::Server;
use crate::hub::Session;
use crate::hub::{Client, Headers, route};
use crate::model::asked::Accepts;
use crate::model::envelope::{Envelope, Fault, Kind, scan};
use crate::model::out::Out;
use crate::model::transport::{SessionKind, Transport};
use crate::model::{jsonrpc, mcp, method, modern};
use crate::rt::wait::sleep;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// An answer that takes longer than this is announced by the head of an event stream, so that no proxy gives up on a
/// silent connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves a request of the endpoint `.../mcp`.
pub async fn serve(net: &Arc<Net>, server: &Arc<Server>, seat: &Arc<Seat>, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST && server.core.is_modern_only() {
        // There are no sessions to open a stream of, or to delete (2026-07-28 basic/transports/streamable-http).
        return not_allowed("POST, OPTIONS", "POST");
    }
    match *request.method() {
        Method::POST => post(net, server, seat, request).await,
        Method::GET => get(net, server, seat, request.headers()),
        Method::DELETE => delete(net, server, seat, request.headers()),
        _ => not_allowed("POST, GET, DELETE, OPTIONS", "POST, GET or DELETE"),
    }
}

/// The revision named in the header must be one that exists; without it there is nothing to check.
pub fn check_version(headers: &HeaderMap) -> Result<(), String> {
    let Some(version) = headers.get(VERSION) else { return Ok(()) };
    match version.to_str() {
        Ok(v) if mcp::REVISIONS.contains(&v) => Ok(()),
        _ => Err(format!(
            "unsupported MCP-Protocol-Version '{}'; supported: {}",
            crate::model::text::printable(&String::from_utf8_lossy(version.as_bytes()), 40),
            mcp::REVISIONS.join(", ")
        )),
    }
}

/// The session that a request names.
fn session(
    net: &Net,
    server: &Arc<Server>,
    seat: &Seat,
    headers: &HeaderMap,
    id: Option<&str>,
) -> Result<Client, Box<Answer>> {
    let refuse = |status, why: &str| Box::new(error(status, id, jsonrpc::INVALID_REQUEST, why));
    let Some(name) = headers.get(SESSION) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "no Mcp-Session-Id: begin with 'initialize'"));
    };
    let found = name
        .to_str()
        .ok()
        .and_then(|n| net.hub.session(n))
        .filter(|c| Arc::ptr_eq(&c.session.server, &server.core.name));
    // Somebody else's is not there, however he came by its id.
    let own = |s: &Session| s.kind == SessionKind::Lasting(Transport::Http) && s.owner == seat.who();
    let Some(client) = found.filter(|c| own(&c.session)) else {
        return Err(refuse(StatusCode::NOT_FOUND, "this session has ended: begin again with 'initialize'"));
    };
    if let Err(why) = check_version(headers) {
        return Err(refuse(StatusCode::BAD_REQUEST, &why));
    }
    Ok(client)
}

async fn post(net: &Arc<Net>, server: &Arc<Server>, seat: &Arc<Seat>, request: Request<Incoming>) -> Answer {
    let accepts = accepts(request.headers());
    if accepts == Accepts::default() {
        let why = "the client must accept application/json and text/event-stream";
        return error(StatusCode::NOT_ACCEPTABLE, None, jsonrpc::INVALID_REQUEST, why);
    }
    let (head, body) = match body_of(net, request).await {
        Ok(whole) => whole,
        Err(response) => return *response,
    };
    let body = body.as_str();
    let e = match scan(body) {
        Ok(e) => e,
        Err(Fault::Batch) => return batch(net, server, seat, &head.headers, body, accepts).await,
        Err(fault) => return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault)),
    };
    let modern_header = text(&head.headers, &VERSION).is_some_and(|v| modern::is_modern(v.trim()));
    if modern::claimed(&e) || modern_header {
        return stateless(net, server, seat, &head.headers, &e, accepts).await;
    }
    if e.kind == Kind::Request && e.method == method::INITIALIZE && !head.headers.contains_key(SESSION) {
        return initialize(net, server, seat, &e, accepts).await;
    }
    match session(net, server, seat, &head.headers, e.get(&e.id)) {
        Ok(client) => message(net, client, seat, &e, accepts).await,
        Err(response) => *response,
    }
}

/// One request of the modern era: it is served by itself, and cancelled when its client leaves.
async fn stateless(
    net: &Arc<Net>,
    server: &Arc<Server>,
    seat: &Arc<Seat>,
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
    let client = server.open_request(seat.who());
    let outbox = Arc::new(Outbox::single(net.hub.ctx.config().limits.reply.bytes().saturating_mul(2)));
    let mut reply =
        Reply { client: client.clone(), outbox: outbox.clone(), answered: false, resumable: false, seat: seat.clone() };
    if e.method == method::TOOLS_CALL
        && let Err(refusal) = route::check_headers(&client, e, &fields).await
    {
        reply.answered = true;
        return refuse(400, &refusal);
    }
    if let Some(later) = route::modern_message(&client, e, &outbox) {
        async_std::task::spawn(later);
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
    net: &Arc<Net>,
    server: &Arc<Server>,
    seat: &Arc<Seat>,
    e: &Envelope<'_>,
    accepts: Accepts,
) -> Answer {
    let client = match net.hub.open_session(server, Transport::Http, seat.who()) {
        Ok(client) => client,
        Err(why) => return unavailable(e.get(&e.id), &why),
    };
    seat.opens_session();
    let mut unconfirmed = UnconfirmedSession(Some(client.clone()), seat.clone());
    let mut response = message(net, client.clone(), seat, e, accepts).await;
    if name_session(&mut response, &client.session) {
        unconfirmed.0 = None;
    }
    response
}

/// Puts the id of a new session in the answer to `initialize`, if it is one that opens it.
pub fn name_session(response: &mut Answer, session: &Session) -> bool {
    let born = session.revision().is_some() || matches!(response.body(), Body::Events(_));
    match HeaderValue::from_str(&session.id) {
        Ok(id) if born => {
            response.headers_mut().insert(SESSION, id);
            true
        }
        _ => false,
    }
}

/// A session whose client has not got its id: it ends with the attempt, also when the client leaves meanwhile.
struct UnconfirmedSession(Option<Client>, Arc<Seat>);

impl Drop for UnconfirmedSession {
    fn drop(&mut self) {
        if let Some(client) = self.0.as_ref().filter(|_| !self.1.is_parking()) {
            self.1.net.hub.end_session(client, "its handshake failed");
        }
    }
}

/// A message of a session: 202 for what needs no answer, else one JSON object, or events if there is more to say.
async fn message(net: &Arc<Net>, client: Client, seat: &Arc<Seat>, e: &Envelope<'_>, accepts: Accepts) -> Answer {
    let limit = net.hub.ctx.config().limits.reply.bytes();
    let most = limit.saturating_mul(2);
    let outbox = Arc::new(if accepts.events { Outbox::single(most) } else { Outbox::plain(most) });
    if e.kind != Kind::Request {
        route::message(&client, e, &outbox);
        return empty(StatusCode::ACCEPTED);
    }
    let reply =
        Reply { client: client.clone(), outbox: outbox.clone(), answered: false, resumable: false, seat: seat.clone() };
    if let Some(later) = route::message(&client, e, &outbox) {
        async_std::task::spawn(later);
    }
    answer(reply, accepts).await
}

/// Waits for what comes first: the head of the response depends on it.
pub async fn answer(mut reply: Reply, accepts: Accepts) -> Answer {
    let Accepts { json, events } = accepts;
    reply.seat.waits(accepts);
    let outbox = reply.outbox.clone();
    let first = if events {
        let slow = async {
            sleep(PATIENCE).await;
            Err(())
        };
        async { Ok(outbox.next().await) }.or(slow).await
    } else {
        loop {
            // Without an event stream there is no place for anything but the answer.
            match outbox.next().await {
                Some(out) if !out.answer => {}
                other => break Ok(other),
            }
        }
    };
    match first {
        Ok(Some(out)) if out.answer && json => {
            reply.answered = true;
            // In the legacy era errors are an affair of the application, but for the one that says there is no such era.
            let code = if out.failed { modern::error_code(&out.text) } else { None };
            let code = code.filter(|c| reply.client.session.is_modern() || *c == modern::UNSUPPORTED_VERSION);
            let status = code.map_or(200, modern::http_status);
            plain(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), "application/json", out.text)
        }
        // Cancelled: there will be nothing, and a client that takes no event stream gets none.
        Ok(None) if !events => empty(StatusCode::ACCEPTED),
        Ok(None) => stream(Events::new(reply, None)),
        Ok(first) => stream(events_of(reply, first)),
        Err(()) => stream(events_of(reply, None)),
    }
}

/// The event stream of a request. In the legacy era it can be taken up again, except for a command of the executor, which
/// ends with its client.
fn events_of(reply: Reply, first: Option<Out>) -> Events {
    let Client { session, endpoint } = &reply.client;
    let lasting = session.kind == SessionKind::Lasting(Transport::Http) && !endpoint.answers_to(&reply.outbox);
    match lasting && session.revision().is_some() {
        true => Events::resumable(reply, first),
        false => Events::new(reply, first),
    }
}

/// A response that is an event stream.
pub fn stream(events: Events) -> Answer {
    let mut response = Response::new(Body::Events(Box::new(events)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The stream for messages that answer no request.
fn get(net: &Arc<Net>, server: &Arc<Server>, seat: &Arc<Seat>, headers: &HeaderMap) -> Answer {
    if let Err(response) = wants_events(net, headers) {
        return *response;
    }
    let client = match session(net, server, seat, headers, None) {
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
            return stream(Events::resumed(&client, lost, event, seat));
        }
    }
    let outbox = Arc::new(Outbox::new(net.hub.ctx.config().limits.message.bytes()));
    client.session.attach(outbox.clone());
    net.hub.add_stream(&outbox);
    stream(Events::resumable(Reply { client, outbox, answered: true, resumable: true, seat: seat.clone() }, None))
}

/// Several messages at once, which revision 2025-03-26 had.
async fn batch(
    net: &Arc<Net>,
    server: &Arc<Server>,
    seat: &Arc<Seat>,
    headers: &HeaderMap,
    body: &str,
    accepts: Accepts,
) -> Answer {
    let client = match session(net, server, seat, headers, None) {
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
    let reply = |client, outbox| Reply { client, outbox, answered: false, resumable: false, seat: seat.clone() };
    if accepts.events {
        return stream(events_of(reply(client, outbox), None));
    }
    let whole = Arc::new(Outbox::single(net.hub.ctx.config().limits.reply.bytes().saturating_mul(2)));
    route::collect(&client, outbox, &whole, false);
    answer(reply(client, whole), accepts).await
}

fn delete(net: &Net, server: &Arc<Server>, seat: &Seat, headers: &HeaderMap) -> Answer {
    match session(net, server, seat, headers, None) {
        Ok(client) => {
            net.hub.end_session(&client, "its client deleted it");
            empty(StatusCode::NO_CONTENT)
        }
        Err(response) => *response,
    }
}
