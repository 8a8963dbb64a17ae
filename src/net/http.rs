//! Streamable HTTP (revisions 2025-03-26 to 2025-11-25, basic/transports) and the way to everything else.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::body::{Body, Events, Reply};
use super::{Net, Tracked, admin, origin, ws};
use crate::hub::counters::Dropped;
use crate::hub::outbox::{Out, Outbox};
use crate::hub::server::Server;
use crate::hub::session::{Session, Transport};
use crate::hub::wait::sleep;
use crate::hub::{self, route};
use crate::model::envelope::{Envelope, Fault, Kind, scan};
use crate::model::{jsonrpc, mcp, modern};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// An answer that takes longer than this is announced by the head of an event stream, so that no proxy gives up on a
/// silent connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a body that is too long is read and thrown away, so that its sender gets to read the answer.
const SWALLOW: u64 = 64 << 20;

pub type Answer = Response<Body>;

/// Serves one request of a connection whose own address is `local`.
pub async fn serve(
    net: Arc<Net>,
    tracked: Arc<Tracked>,
    local: Option<IpAddr>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let config = net.hub.config();
    let (host, origin) = match named(&request) {
        Ok(both) => both,
        Err(why) => {
            net.hub.counters.count(Dropped::ForeignOrigin);
            return Ok(error(StatusCode::BAD_REQUEST, None, jsonrpc::INVALID_REQUEST, why));
        }
    };
    if let Some(why) = origin::refuse(host, origin, local, &config.allow_hosts, &config.allow_origins) {
        net.hub.counters.count(Dropped::ForeignOrigin);
        let status = if host.is_none() && local.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
        return Ok(error(status, None, jsonrpc::INVALID_REQUEST, why));
    }
    let allowed_origin = origin.and_then(|o| HeaderValue::from_str(o).ok());
    let mut response = dispatch(&net, tracked, request).await;
    if let Some(origin) = allowed_origin {
        // A page that may talk to us may also read what we say (Fetch standard, CORS protocol).
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("mcp-session-id"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if net.hub.draining.is_set() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// The host and the origin that a request names. A target with an authority comes before `Host` (RFC 9112 section 3.2.2);
/// what is named twice, or not in ASCII, cannot be checked.
pub fn named<B>(request: &Request<B>) -> Result<(Option<&str>, Option<&str>), &'static str> {
    let one = |name: &HeaderName, why| {
        let mut all = request.headers().get_all(name).iter();
        match (all.next(), all.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(|_| why),
            (Some(_), Some(_)) => Err(why),
        }
    };
    let host = one(&header::HOST, "there must be one Host header, in ASCII")?;
    let origin = one(&header::ORIGIN, "there must be one Origin header at most, in ASCII")?;
    Ok((request.uri().authority().map(|a| a.as_str()).or(host), origin))
}

async fn dispatch(net: &Arc<Net>, tracked: Arc<Tracked>, request: Request<Incoming>) -> Answer {
    if request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return preflight(request.headers());
    }
    let path = request.uri().path();
    let Some((name, endpoint)) = path.strip_prefix("/servers/").and_then(|rest| rest.split_once('/')) else {
        return admin::serve(net, &request).await;
    };
    if !matches!(endpoint, "mcp" | "ws" | "sse" | "message") {
        let why = format!("there is no such path: a server has /servers/{name}/mcp, .../ws and .../sse");
        return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, &why);
    }
    let Some(server) = net.hub.server(name) else {
        let why = format!("there is no server '{}' in this instance", crate::model::text::printable(name, 64));
        return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, &why);
    };
    if endpoint == "ws" {
        return ws::upgrade(net, tracked, &server, request);
    }
    match (endpoint, request.method()) {
        ("sse", &Method::GET) => return sse(net, &server, name, request.headers()),
        ("message", &Method::POST) => return sse_post(net, &server, request).await,
        ("sse" | "message", _) => {
            let (allowed, why) = if endpoint == "sse" {
                ("GET", "GET opens the event stream of HTTP+SSE (2024-11-05)")
            } else {
                ("POST", "POST takes the messages of a session that /sse has opened")
            };
            let mut response = error(StatusCode::METHOD_NOT_ALLOWED, None, jsonrpc::INVALID_REQUEST, why);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            return response;
        }
        _ => {}
    }
    if request.method() != Method::POST && modern_only(&server) {
        // There are no sessions to open a stream of, or to delete (2026-07-28 basic/transports/streamable-http).
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, None, jsonrpc::INVALID_REQUEST, "POST");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
        return response;
    }
    match *request.method() {
        Method::POST => post(net, &server, request).await,
        Method::GET => get(net, &server, request.headers()),
        Method::DELETE => delete(net, &server, request.headers()),
        _ => {
            let mut response =
                error(StatusCode::METHOD_NOT_ALLOWED, None, jsonrpc::INVALID_REQUEST, "POST, GET or DELETE");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, GET, DELETE, OPTIONS"));
            response
        }
    }
}

/// The server speaks revision 2026-07-28 and no other.
fn modern_only(server: &Server) -> bool {
    server.learnt_now().is_some_and(|l| l.revision == modern::VERSION)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// A response with a status and a body of one piece.
pub fn plain(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A refusal, as a JSON-RPC error so that MCP clients can show it.
pub fn error(status: StatusCode, id: Option<&str>, code: i32, why: &str) -> Answer {
    plain(status, "application/json", jsonrpc::error(id, code, why))
}

fn preflight(asked: &HeaderMap) -> Answer {
    let mut allowed = "content-type, accept, authorization, mcp-session-id, mcp-protocol-version, last-event-id, \
                       mcp-method, mcp-name"
        .to_owned();
    // Which arguments of tools are repeated in headers is the tools' affair.
    let names = asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|v| v.to_str().ok());
    for name in names.flat_map(|v| v.split(',')).map(str::trim).filter(|n| n.len() < 100) {
        if name.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("mcp-param-")) {
            allowed.push_str(", ");
            allowed.push_str(name);
        }
    }
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Which kinds of answer a client takes; a missing header means any.
pub fn accepts(headers: &HeaderMap) -> (bool, bool) {
    let mut all = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).peekable();
    if all.peek().is_none() {
        return (true, true);
    }
    let (mut json, mut events) = (false, false);
    for range in all.flat_map(|v| v.split(',')).map(|r| r.split(';').next().unwrap_or("").trim()) {
        json |= ["application/json", "application/*", "*/*"].iter().any(|k| range.eq_ignore_ascii_case(k));
        events |= ["text/event-stream", "text/*", "*/*"].iter().any(|k| range.eq_ignore_ascii_case(k));
    }
    (json, events)
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
    headers: &HeaderMap,
    id: Option<&str>,
) -> Result<Arc<Session>, Box<Answer>> {
    let refuse = |status, why: &str| Box::new(error(status, id, jsonrpc::INVALID_REQUEST, why));
    let Some(name) = headers.get(SESSION) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "no Mcp-Session-Id: begin with 'initialize'"));
    };
    let found = name.to_str().ok().and_then(|n| net.hub.session(n)).filter(|s| Arc::ptr_eq(&s.server, server));
    let Some(session) = found.filter(|s| s.transport == Transport::Http) else {
        return Err(refuse(StatusCode::NOT_FOUND, "this session has ended: begin again with 'initialize'"));
    };
    if let Err(why) = check_version(headers) {
        return Err(refuse(StatusCode::BAD_REQUEST, &why));
    }
    Ok(session)
}

async fn post(net: &Arc<Net>, server: &Arc<Server>, request: Request<Incoming>) -> Answer {
    let (json, events) = accepts(request.headers());
    if !json && !events {
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
        Err(Fault::Batch) => return batch(net, server, &head.headers, body, (json, events)).await,
        Err(fault) => return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault)),
    };
    let modern_header = text(&head.headers, &VERSION).is_some_and(|v| modern::is_modern(v.trim()));
    if modern::claimed(&e) || modern_header {
        return stateless(net, server, &head.headers, &e, (json, events)).await;
    }
    if e.kind == Kind::Request && e.method == "initialize" && !head.headers.contains_key(SESSION) {
        return initialize(net, server, &e, (json, events)).await;
    }
    match session(net, server, &head.headers, e.get(&e.id)) {
        Ok(session) => message(net, session, &e, (json, events)).await,
        Err(response) => *response,
    }
}

/// The head and the body of a POST with a message.
async fn body_of(net: &Net, request: Request<Incoming>) -> Result<(hyper::http::request::Parts, String), Box<Answer>> {
    let refuse = |status, code, why: &str| Err(Box::new(error(status, None, code, why)));
    let kind = text(request.headers(), &header::CONTENT_TYPE).and_then(|k| k.split(';').next()).unwrap_or("");
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let why = "Content-Type must be application/json";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, jsonrpc::INVALID_REQUEST, why);
    }
    let limit = net.hub.config().limits.message;
    let (head, body) = request.into_parts();
    match read(body, limit.bytes(), head.headers.contains_key(header::EXPECT)).await.map(String::from_utf8) {
        Ok(Ok(body)) => Ok((head, body)),
        Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, jsonrpc::PARSE_ERROR, "the body is not UTF-8"),
        Err(Unread::TooLong) => {
            net.hub.counters.count(Dropped::LongMessages);
            let why = format!("the message is longer than {limit} (limits.message)");
            refuse(StatusCode::PAYLOAD_TOO_LARGE, jsonrpc::INVALID_REQUEST, &why)
        }
        Err(Unread::Broken) => refuse(StatusCode::BAD_REQUEST, jsonrpc::PARSE_ERROR, "the body ended too early"),
    }
}

/// One request of the modern era: it is served by itself, and cancelled when its client leaves.
async fn stateless(
    net: &Arc<Net>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    e: &Envelope<'_>,
    accept: (bool, bool),
) -> Answer {
    if e.kind != Kind::Request {
        return empty(StatusCode::ACCEPTED);
    }
    let fields =
        |name: &str| -> Vec<&[u8]> { headers.get_all(name).iter().map(|v| v.as_bytes().trim_ascii()).collect() };
    let refuse = |status: u16, refusal: &modern::Refusal| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        plain(status, "application/json", refusal.text(e.get(&e.id)))
    };
    if let Err(refusal) = modern::check_meta(e) {
        return refuse(400, &refusal);
    }
    let checked = modern::check_headers(e, &fields).and_then(|()| modern::check_version(e));
    if let Err(refusal) = checked.and_then(|()| modern::check_method(e)) {
        return refuse(modern::http_status(refusal.code), &refusal);
    }
    if e.method == "subscriptions/listen" && !accept.1 {
        let why = "a subscription is an event stream: the client must accept text/event-stream";
        return error(StatusCode::NOT_ACCEPTABLE, e.get(&e.id), jsonrpc::INVALID_REQUEST, why);
    }
    let session = net.hub.stateless(server);
    let outbox = Arc::new(Outbox::single(net.hub.config().limits.reply.bytes().saturating_mul(2)));
    let mut reply = Reply { session: session.clone(), outbox: outbox.clone(), answered: false, resumable: false };
    if e.method == "tools/call"
        && let Err(refusal) = hub::modern::check_params(&session, e, &fields).await
    {
        reply.answered = true;
        return refuse(400, &refusal);
    }
    if let Some(later) = hub::modern::message(&session, e, &outbox) {
        async_std::task::spawn(later);
    }
    answer(reply, accept).await
}

/// `initialize` opens a session, whose id comes with the answer.
async fn initialize(net: &Arc<Net>, server: &Arc<Server>, e: &Envelope<'_>, accept: (bool, bool)) -> Answer {
    let session = match net.hub.open_session(server, Transport::Http) {
        Ok(session) => session,
        Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, e.get(&e.id), jsonrpc::REFUSED, &why),
    };
    let mut unborn = Unborn(Some(session.clone()));
    let mut response = message(net, session.clone(), e, accept).await;
    let born = session.revision().is_some() || matches!(response.body(), Body::Events(_));
    if born && let Ok(id) = HeaderValue::from_str(&session.id) {
        response.headers_mut().insert(SESSION, id);
        unborn.0 = None;
    }
    response
}

/// A session whose client has not got its id: it ends with the attempt, also when the client leaves meanwhile.
struct Unborn(Option<Arc<Session>>);

impl Drop for Unborn {
    fn drop(&mut self) {
        if let Some(session) = &self.0 {
            session.hub.end_session(session, "its handshake failed");
        }
    }
}

/// A message of a session: 202 for what needs no answer, else one JSON object, or events if there is more to say.
async fn message(net: &Arc<Net>, session: Arc<Session>, e: &Envelope<'_>, accept: (bool, bool)) -> Answer {
    let limit = net.hub.config().limits.reply.bytes();
    let most = limit.saturating_mul(2);
    let outbox = Arc::new(if accept.1 { Outbox::single(most) } else { Outbox::plain(most) });
    if e.kind != Kind::Request {
        route::message(&session, e, &outbox);
        return empty(StatusCode::ACCEPTED);
    }
    let reply = Reply { session: session.clone(), outbox: outbox.clone(), answered: false, resumable: false };
    if let Some(later) = route::message(&session, e, &outbox) {
        async_std::task::spawn(later);
    }
    answer(reply, accept).await
}

/// Waits for what comes first: the head of the response depends on it.
async fn answer(mut reply: Reply, (json, events): (bool, bool)) -> Answer {
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
            let code = code.filter(|c| reply.session.is_modern() || *c == modern::UNSUPPORTED_VERSION);
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
    let lasting = reply.session.transport == Transport::Http && reply.session.server.children().is_some();
    match lasting && reply.session.revision().is_some() {
        true => Events::resumable(reply, first),
        false => Events::new(reply, first),
    }
}

fn stream(events: Events) -> Answer {
    let mut response = Response::new(Body::Events(Box::new(events)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The stream for messages that answer no request.
fn get(net: &Arc<Net>, server: &Arc<Server>, headers: &HeaderMap) -> Answer {
    if !accepts(headers).1 {
        let why = "GET opens an event stream: the client must accept text/event-stream";
        return error(StatusCode::NOT_ACCEPTABLE, None, jsonrpc::INVALID_REQUEST, why);
    }
    let session = match session(net, server, headers, None) {
        Ok(session) => session,
        Err(response) => return *response,
    };
    if net.hub.draining.is_set() {
        return error(StatusCode::SERVICE_UNAVAILABLE, None, jsonrpc::REFUSED, "the daemon is shutting down");
    }
    if let Some(id) = text(headers, &LAST_EVENT) {
        // An id that is not known any more is answered as if there was none: nothing can be replayed.
        let found = session.replay().find(id);
        if let Some((lost, event)) = found {
            if lost.outbox.is_finished() && lost.after(event).is_empty() {
                // An empty stream would be taken for one that broke again, for ever.
                let why = "this stream has ended, and nothing that came after this event is kept";
                return error(StatusCode::GONE, None, jsonrpc::INVALID_REQUEST, why);
            }
            return stream(Events::resumed(&session, lost, event));
        }
    }
    let outbox = Arc::new(Outbox::new(net.hub.config().limits.message.bytes()));
    session.attach(outbox.clone());
    net.hub.add_stream(&outbox);
    stream(Events::resumable(Reply { session, outbox, answered: true, resumable: true }, None))
}

/// The transport of 2024-11-05: an event stream that says where to post, and carries every answer.
fn sse(net: &Arc<Net>, server: &Arc<Server>, name: &str, headers: &HeaderMap) -> Answer {
    if !accepts(headers).1 {
        let why = "GET opens an event stream: the client must accept text/event-stream";
        return error(StatusCode::NOT_ACCEPTABLE, None, jsonrpc::INVALID_REQUEST, why);
    }
    if net.hub.draining.is_set() {
        return error(StatusCode::SERVICE_UNAVAILABLE, None, jsonrpc::REFUSED, "the daemon is shutting down");
    }
    let session = match net.hub.open_session(server, Transport::Sse) {
        Ok(session) => session,
        Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, None, jsonrpc::REFUSED, &why),
    };
    let outbox = Arc::new(Outbox::new(net.hub.config().limits.reply.bytes().saturating_mul(2)));
    session.attach(outbox.clone());
    // Relative to this host, as clients demand.
    let endpoint = format!("/servers/{name}/message?sessionId={}", session.id);
    stream(Events::with_endpoint(Reply { session, outbox, answered: true, resumable: false }, &endpoint))
}

/// A message of such a session; what it asks for comes on the stream.
async fn sse_post(net: &Arc<Net>, server: &Arc<Server>, request: Request<Incoming>) -> Answer {
    let query = request.uri().query().unwrap_or("");
    let id = query.split('&').find_map(|pair| pair.strip_prefix("sessionId="));
    let session = id.and_then(|id| net.hub.session(id));
    let session = session.filter(|s| Arc::ptr_eq(&s.server, server) && s.transport == Transport::Sse);
    let Some((session, outbox)) = session.and_then(|s| s.push_outbox().map(|o| (s, o))) else {
        let why = "there is no such session: GET the path /sse of the server first";
        return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, why);
    };
    let (_, body) = match body_of(net, request).await {
        Ok(whole) => whole,
        Err(response) => return *response,
    };
    if let Err(fault @ Fault::Json(..)) = scan(&body) {
        return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault));
    }
    if let Some(later) = route::receive(&session, &body, &outbox) {
        async_std::task::spawn(later);
    }
    plain(StatusCode::ACCEPTED, "text/plain", "Accepted".to_owned())
}

/// Several messages at once, which revision 2025-03-26 had.
async fn batch(
    net: &Arc<Net>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    body: &str,
    (_, events): (bool, bool),
) -> Answer {
    let session = match session(net, server, headers, None) {
        Ok(session) => session,
        Err(response) => return *response,
    };
    if session.revision() != Some(route::BATCHES) {
        return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&Fault::Batch));
    }
    let limit = net.hub.config().limits.reply.bytes().saturating_mul(2);
    let outbox = match route::batch(&session, body, limit) {
        Ok(Some(outbox)) => outbox,
        Ok(None) => return empty(StatusCode::ACCEPTED),
        Err(text) => return plain(StatusCode::BAD_REQUEST, "application/json", text),
    };
    let mut reply = Reply { session, outbox: outbox.clone(), answered: false, resumable: false };
    if events {
        return stream(events_of(reply, None));
    }
    let answers = route::collect(&outbox, limit, drop).await;
    reply.answered = true;
    match answers {
        Some(text) => plain(StatusCode::OK, "application/json", text),
        None => empty(StatusCode::ACCEPTED),
    }
}

fn delete(net: &Net, server: &Arc<Server>, headers: &HeaderMap) -> Answer {
    match session(net, server, headers, None) {
        Ok(session) => {
            net.hub.end_session(&session, "its client deleted it");
            empty(StatusCode::NO_CONTENT)
        }
        Err(response) => *response,
    }
}

enum Unread {
    TooLong,
    Broken,
}

/// Reads a body of at most `limit` bytes.
///
/// A longer one is refused at once if its sender waits for our word (RFC 9110 section 10.1.1); otherwise a bounded
/// amount is thrown away first, because closing a connection with unread data would destroy the answer on its way.
async fn read(mut body: Incoming, limit: usize, expects: bool) -> Result<Vec<u8>, Unread> {
    let announced = body.size_hint().lower();
    let mut too_long = announced > limit as u64;
    if too_long && (expects || announced > SWALLOW) {
        return Err(Unread::TooLong);
    }
    // What a sender announces costs it nothing, so it reserves little.
    let mut read = Vec::with_capacity(if too_long { 0 } else { announced.min(64 << 10) as usize });
    let mut swallowed = 0;
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx));
        let timeout = async {
            // A body may be long; it may not stand still.
            sleep(Duration::from_secs(30)).await;
            None
        };
        let Some(frame) = async { Some(frame.await) }.or(timeout).await else { return Err(Unread::Broken) };
        match frame {
            None => break,
            Some(Err(_)) => return Err(Unread::Broken),
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                too_long |= read.len() + data.len() > limit;
                if too_long {
                    read = Vec::new();
                    swallowed += data.len() as u64;
                    if swallowed > SWALLOW {
                        return Err(Unread::TooLong);
                    }
                } else {
                    read.extend_from_slice(&data);
                }
            }
        }
    }
    if too_long { Err(Unread::TooLong) } else { Ok(read) }
}
