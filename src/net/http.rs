//! One HTTP request: who may ask, where it goes, and what all answers have in common.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::body::Body;
use super::seat::Seat;
use super::{Net, admin, auth, origin, sse, streamable, ws};
use crate::hub::Dropped;
use crate::hub::SHUTTING_DOWN;
use crate::hub::Server;
use crate::model::asked::Accepts;
use crate::model::jsonrpc;
use crate::rt::wait::sleep;
use crate::sys::listen::Peer;

/// How much of a body that is too long is read and thrown away, so that its sender gets to read the answer.
const SWALLOW: u64 = 64 << 20;

pub type Answer = Response<Body>;

/// Serves one request of a connection whose own address is `local`.
pub async fn serve(
    net: Arc<Net>,
    seat: Arc<Seat>,
    (local, peer): (Option<IpAddr>, Option<Arc<Peer>>),
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let config = net.hub.ctx.config();
    let (host, origin) = match named(&request) {
        Ok(both) => both,
        Err(why) => {
            net.hub.ctx.counters.count(Dropped::ForeignOrigin);
            seat.idles();
            return Ok(error(StatusCode::BAD_REQUEST, None, jsonrpc::INVALID_REQUEST, why));
        }
    };
    if let Some(why) = origin::refuse(host, origin, local, &config.allow_hosts, &config.allow_origins) {
        net.hub.ctx.counters.count(Dropped::ForeignOrigin);
        let status = if host.is_none() && local.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
        seat.idles();
        return Ok(error(status, None, jsonrpc::INVALID_REQUEST, why));
    }
    let allowed_origin = origin.map(str::to_owned);
    let closes = |v: &HeaderValue| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("close"));
    let keeps = !request.headers().get_all(header::CONNECTION).iter().any(closes);
    seat.busy(request.version() >= Version::HTTP_11, keeps, allowed_origin.clone());
    let mut response = match auth::principal(config.auth.as_ref(), request.headers(), peer.as_deref()) {
        Ok(who) => dispatch(&net, &seat, who, request).await,
        Err(_) if is_preflight(&request) => preflight(request.headers()),
        // Whether it lives and serves is for everybody to know, and nothing beyond that.
        Err(_) if matches!(request.uri().path(), "/healthz" | "/readyz") => {
            admin::without_detail(admin::serve(&net, &request).await)
        }
        Err(why) => {
            net.hub.ctx.counters.count(Dropped::Unauthorized);
            auth::unauthorized(why)
        }
    };
    match response.body() {
        Body::Whole(_) => seat.idles(),
        Body::Events(_) => seat.streams(),
    }
    share(&mut response, allowed_origin.as_deref());
    if net.hub.ctx.draining.is_set() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A page that may talk to us may also read what we say (Fetch standard, CORS protocol).
pub fn share(response: &mut Answer, origin: Option<&str>) {
    let Some(origin) = origin.and_then(|o| HeaderValue::from_str(o).ok()) else { return };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("mcp-session-id"));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
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

/// A browser asks whether it may ask (Fetch standard, CORS protocol); it never says for whom.
fn is_preflight(request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

async fn dispatch(net: &Arc<Net>, seat: &Arc<Seat>, who: Option<Arc<str>>, request: Request<Incoming>) -> Answer {
    seat.knows(who);
    if is_preflight(&request) {
        return preflight(request.headers());
    }
    let path = request.uri().path();
    let all = match path {
        "/mcp" => Some("mcp"),
        "/ws/mcp" => Some("ws"),
        "/sse" => Some("sse"),
        "/message" => Some("message"),
        _ => None,
    };
    if let Some(endpoint) = all {
        let Some(bridge) = net.hub.bridge() else {
            let why = "this instance has no bridge (bridge: None): a server is at /servers/NAME/mcp";
            return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, why);
        };
        return mcp(net, seat, &bridge, "", endpoint, request).await;
    }
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
    let (base, endpoint) = (format!("/servers/{name}"), endpoint.to_owned());
    mcp(net, seat, &server, &base, &endpoint, request).await
}

/// One of the endpoints of a server, or of the bridge, whose paths begin with `base`.
async fn mcp(
    net: &Arc<Net>,
    seat: &Arc<Seat>,
    server: &Arc<Server>,
    base: &str,
    endpoint: &str,
    request: Request<Incoming>,
) -> Answer {
    if endpoint == "ws" {
        return ws::upgrade(net, seat, server, request);
    }
    match (endpoint, request.method()) {
        ("sse", &Method::GET) => return sse::open(net, server, base, seat, request.headers()),
        ("message", &Method::POST) => return sse::post(net, server, seat, request).await,
        ("sse" | "message", _) => {
            let (allowed, why) = if endpoint == "sse" {
                ("GET", "GET opens the event stream of HTTP+SSE (2024-11-05)")
            } else {
                ("POST", "POST takes the messages of a session that /sse has opened")
            };
            return not_allowed(allowed, why);
        }
        _ => {}
    }
    streamable::serve(net, server, seat, request).await
}

/// A header that is text.
pub fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// A response with a status and a body of one piece.
pub fn plain(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A refusal, as a JSON-RPC error so that MCP clients can show it.
pub fn error(status: StatusCode, id: Option<&str>, code: i32, why: &str) -> Answer {
    plain(status, "application/json", jsonrpc::error(id, code, why))
}

/// The path is there, the method is not.
pub fn not_allowed(allowed: &'static str, why: &str) -> Answer {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, None, jsonrpc::INVALID_REQUEST, why);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Not now: a drain, or a limit.
pub fn unavailable(id: Option<&str>, why: &str) -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, id, jsonrpc::REFUSED, why)
}

/// What GET opens is an event stream, and the client has to want one.
pub fn wants_events(net: &Net, headers: &HeaderMap) -> Result<(), Box<Answer>> {
    if !accepts(headers).events {
        let why = "GET opens an event stream: the client must accept text/event-stream";
        return Err(Box::new(error(StatusCode::NOT_ACCEPTABLE, None, jsonrpc::INVALID_REQUEST, why)));
    }
    match net.hub.ctx.draining.is_set() {
        true => Err(Box::new(unavailable(None, SHUTTING_DOWN))),
        false => Ok(()),
    }
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
pub fn accepts(headers: &HeaderMap) -> Accepts {
    let mut all = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).peekable();
    if all.peek().is_none() {
        return Accepts { json: true, events: true };
    }
    let mut accepts = Accepts::default();
    for range in all.flat_map(|v| v.split(',')).map(|r| r.split(';').next().unwrap_or("").trim()) {
        accepts.json |= ["application/json", "application/*", "*/*"].iter().any(|k| range.eq_ignore_ascii_case(k));
        accepts.events |= ["text/event-stream", "text/*", "*/*"].iter().any(|k| range.eq_ignore_ascii_case(k));
    }
    accepts
}

/// The head and the body of a POST with a message.
pub async fn body_of(
    net: &Net,
    request: Request<Incoming>,
) -> Result<(hyper::http::request::Parts, String), Box<Answer>> {
    let refuse = |status, code, why: &str| Err(Box::new(error(status, None, code, why)));
    let kind = text(request.headers(), &header::CONTENT_TYPE).and_then(|k| k.split(';').next()).unwrap_or("");
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let why = "Content-Type must be application/json";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, jsonrpc::INVALID_REQUEST, why);
    }
    let limit = net.hub.ctx.config().limits.message;
    let (head, body) = request.into_parts();
    match read(body, limit.bytes(), head.headers.contains_key(header::EXPECT)).await.map(String::from_utf8) {
        Ok(Ok(body)) => Ok((head, body)),
        Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, jsonrpc::PARSE_ERROR, "the body is not UTF-8"),
        Err(Unread::TooLong) => {
            net.hub.ctx.counters.count(Dropped::LongMessages);
            let why = format!("the message is longer than {limit} (limits.message)");
            refuse(StatusCode::PAYLOAD_TOO_LARGE, jsonrpc::INVALID_REQUEST, &why)
        }
        Err(Unread::Broken) => refuse(StatusCode::BAD_REQUEST, jsonrpc::PARSE_ERROR, "the body ended too early"),
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
