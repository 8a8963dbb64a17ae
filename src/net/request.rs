//! What a request says of itself and of the answer that it takes, and its body.

use std::time::Duration;

use futures_lite::FutureExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::answer::{Answer, empty, error, unavailable};
use super::connection::Connection;
use super::front::Front;
use super::head::{Fields, Head, text};
use crate::hub::{Dropped, Kept, SHUTTING_DOWN};
use crate::model::asked::Accepts;
use crate::model::text::printable;
use crate::model::{jsonrpc, mcp};
use crate::rt::wait::{recent, sleep};

/// The header that names the revision agreed on (2025-11-25 basic/transports).
pub(super) const VERSION: &str = "mcp-protocol-version";
/// A request.
pub struct Asking {
    pub head: Head,
    pub body: RequestBody,
}

/// The body of a request.
pub enum RequestBody {
    /// The HTTP library has it, with all of the request.
    Coming(Box<Request<Incoming>>),
    /// It has come.
    Whole(Vec<u8>),
}

impl From<Request<Incoming>> for Asking {
    fn from(request: Request<Incoming>) -> Asking {
        Asking { head: Head::from(&request), body: RequestBody::Coming(Box::new(request)) }
    }
}

/// How much of a body that is too long is read and thrown away, so that its sender gets to read the answer.
const SWALLOW: u64 = 64 << 20;
/// A body has so much time, and a second more for each [`SLOWEST`] bytes that have come.
const BODY: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 16 << 10;

/// The host and the origin that a request names. A target with an authority comes before `Host` (RFC 9112 section 3.2.2);
/// what is named twice, or not in ASCII, cannot be checked.
pub fn named(head: &Head) -> Result<(Option<&str>, Option<&str>), &'static str> {
    let one = |name, why| {
        let mut all = head.fields.all(name);
        match (all.next(), all.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => text(value).map(Some).ok_or(why),
            (Some(_), Some(_)) => Err(why),
        }
    };
    let host = one("host", "there must be one Host header, in ASCII")?;
    let origin = one("origin", "there must be one Origin header at most, in ASCII")?;
    Ok((head.authority.as_deref().or(host), origin))
}

/// The revision named in the header must be one that exists; without it there is nothing to check.
pub fn check_version(fields: &Fields) -> Result<(), String> {
    let Some(version) = fields.get(VERSION) else { return Ok(()) };
    if mcp::REVISIONS.iter().any(|revision| version == revision.as_bytes()) {
        return Ok(());
    }
    // A proxy may join what was sent twice (RFC 9110 section 5.3).
    let all = |text: &str| text.split(',').map(str::trim).all(|one| one.is_empty() || mcp::REVISIONS.contains(&one));
    let one = |text: &str| text.split(',').map(str::trim).collect::<std::collections::BTreeSet<_>>().len() == 1;
    match text(version) {
        Some(v) if all(v) && one(v) => Ok(()),
        _ => Err(format!(
            "unsupported MCP-Protocol-Version '{}'; supported: {}",
            printable(&String::from_utf8_lossy(version), 40),
            mcp::REVISIONS.join(", ")
        )),
    }
}

/// A browser asks whether it may ask (Fetch standard, CORS protocol); it never says for which user.
pub(super) fn is_preflight(head: &Head) -> bool {
    head.method == Method::OPTIONS && head.fields.has("access-control-request-method")
}

/// What a browser may ask.
pub(super) fn preflight(asked: &Fields) -> Answer {
    let mut allowed = "content-type, accept, authorization, mcp-session-id, mcp-protocol-version, last-event-id, \
                       mcp-method, mcp-name, traceparent, tracestate, baggage"
        .to_owned();
    // Which arguments of tools are repeated in headers is the tools' affair.
    let names = asked.texts("access-control-request-headers");
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

/// What GET opens is an event stream, and the client has to want one.
pub(super) fn wants_events(front: &Front, fields: &Fields) -> Result<(), Box<Answer>> {
    if !accepts(fields).events {
        let why = "GET opens an event stream: the client must accept text/event-stream";
        return Err(Box::new(error(StatusCode::NOT_ACCEPTABLE, None, jsonrpc::INVALID_REQUEST, why)));
    }
    match front.hub.ctx.draining.is_set() {
        true => Err(Box::new(unavailable(None, SHUTTING_DOWN))),
        false => Ok(()),
    }
}

/// Which kinds of answer a client takes; a missing header means any.
pub fn accepts(fields: &Fields) -> Accepts {
    // As nearly all write it.
    if fields.get("accept") == Some(b"application/json, text/event-stream") {
        return Accepts { json: true, events: true };
    }
    let mut all = fields.texts("accept").peekable();
    if all.peek().is_none_or(|first| first.trim().is_empty()) {
        return Accepts { json: true, events: true };
    }
    let mut accepts = Accepts::default();
    for range in all.flat_map(|v| v.split(',')).map(|r| r.split(';').next().unwrap_or("").trim()) {
        accepts.json |= ["application/json", "application/*", "*/*"].iter().any(|k| range.eq_ignore_ascii_case(k));
        accepts.events |= ["text/event-stream", "text/*", "*/*"].iter().any(|k| range.eq_ignore_ascii_case(k));
    }
    accepts
}

/// The text of a POST with a message, and its place in the memory.
pub(super) async fn body_of(
    front: &Front,
    connection: &Connection,
    fields: &Fields,
    body: Incoming,
) -> Result<(String, Kept), Box<Answer>> {
    check_kind(fields)?;
    let limit = front.hub.ctx.config().limits.message.bytes();
    let mut kept = connection.keep();
    let expects = fields.has("expect");
    let text = text_of(front, read(body, limit, expects, &mut kept).await)?;
    Ok((text, kept))
}

/// The text of a POST whose body has come whole, and the place of that text in the memory.
pub(super) fn whole_body_of(
    front: &Front,
    connection: &Connection,
    fields: &Fields,
    body: Vec<u8>,
) -> Result<(String, Kept), Box<Answer>> {
    check_kind(fields)?;
    let limit = front.hub.ctx.config().limits.message.bytes();
    let mut kept = connection.keep();
    let read = match body.len() {
        length if length > limit => Err(Unread::TooLong),
        length if !kept.reach(length) => Err(Unread::NoMemory),
        _ => Ok(body),
    };
    Ok((text_of(front, read)?, kept))
}

/// A message is JSON, as it is.
fn check_kind(fields: &Fields) -> Result<(), Box<Answer>> {
    let is_as_usual = fields.get("content-type") == Some(b"application/json");
    if is_as_usual && !fields.has("content-encoding") {
        return Ok(());
    }
    let refuse = |why: &str| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Err(Box::new(error(status, None, jsonrpc::INVALID_REQUEST, why)))
    };
    let json = |kind: &str| kind.trim().eq_ignore_ascii_case("application/json");
    let kind = fields.text("content-type").unwrap_or("");
    if !json(kind) && !kind.split(';').next().is_some_and(json) {
        return refuse("Content-Type must be application/json");
    }
    let coded = fields.text("content-encoding").map(str::trim);
    match coded.filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")) {
        Some(coding) => refuse(&format!(
            "a body in Content-Encoding '{}' is not understood: send it as it is",
            printable(coding, 40)
        )),
        None => Ok(()),
    }
}

/// What was read as a text, or the answer that says why there is none.
fn text_of(front: &Front, read: Result<Vec<u8>, Unread>) -> Result<String, Box<Answer>> {
    let refuse = |status, code, why: &str| Err(Box::new(error(status, None, code, why)));
    match read.map(String::from_utf8) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, jsonrpc::PARSE_ERROR, "the body is not UTF-8"),
        Err(Unread::TooLong) => {
            front.hub.ctx.counters.count(Dropped::LongMessages);
            let limit = front.hub.ctx.config().limits.message;
            let why = format!("the message is longer than {limit} (limits.message)");
            refuse(StatusCode::PAYLOAD_TOO_LARGE, jsonrpc::INVALID_REQUEST, &why)
        }
        Err(Unread::NoMemory) => {
            Err(Box::new(unavailable(None, "as much is kept for clients as may be (limits.memory): try again later")))
        }
        Err(Unread::Slow) => refuse(StatusCode::REQUEST_TIMEOUT, jsonrpc::INVALID_REQUEST, "the body took too long"),
        Err(Unread::Broken) => refuse(StatusCode::BAD_REQUEST, jsonrpc::PARSE_ERROR, "the body ended too early"),
    }
}

enum Unread {
    TooLong,
    NoMemory,
    Slow,
    Broken,
}

/// Reads a body of at most `limit` bytes.
///
/// A longer one is refused at once if its sender waits for our word (RFC 9110 section 10.1.1); otherwise a bounded
/// amount is thrown away first, because closing a connection with unread data would destroy the answer on its way.
async fn read(mut body: Incoming, limit: usize, expects: bool, kept: &mut Kept) -> Result<Vec<u8>, Unread> {
    let announced = body.size_hint().lower();
    let mut too_long = announced > limit as u64;
    if too_long && (expects || announced > SWALLOW) {
        return Err(Unread::TooLong);
    }
    // What a sender announces costs it nothing, so it reserves little.
    let mut read = Vec::with_capacity(if too_long { 0 } else { announced.min(64 << 10) as usize });
    let mut swallowed = 0;
    let begin = recent();
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
                let so_far = read.len() as u64 + swallowed;
                if recent().saturating_duration_since(begin) > BODY + Duration::from_secs(so_far / SLOWEST) {
                    return Err(Unread::Slow);
                }
                too_long |= read.len() + data.len() > limit;
                if too_long {
                    read = Vec::new();
                    swallowed += data.len() as u64;
                    if swallowed > SWALLOW {
                        return Err(Unread::TooLong);
                    }
                } else if !kept.reach(read.len() + data.len()) {
                    return Err(Unread::NoMemory);
                } else {
                    read.extend_from_slice(&data);
                }
            }
        }
    }
    if too_long { Err(Unread::TooLong) } else { Ok(read) }
}
