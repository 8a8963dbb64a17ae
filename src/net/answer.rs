//! Answers of one piece, and what all answers have in common.

use std::future::Future;
use std::pin::Pin;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::Body;
use crate::model::jsonrpc;

pub(super) type Answer = Response<Body>;

/// An answer, or what brings it.
pub(super) enum Answering {
    Now(Answer),
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Answering {
    pub(super) fn later(work: impl Future<Output = Answer> + Send + 'static) -> Answering {
        Answering::Later(Box::pin(work))
    }
}

impl From<Answer> for Answering {
    fn from(answer: Answer) -> Answering {
        Answering::Now(answer)
    }
}

/// A page that may talk to us may also read what we say (Fetch standard, CORS protocol).
pub(super) fn share(response: &mut Answer, origin: Option<&str>) {
    let Some(origin) = origin.and_then(|o| HeaderValue::from_str(o).ok()) else { return };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("mcp-session-id"));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

/// A response with a status and a body of one piece.
pub(super) fn plain(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A refusal, as a JSON-RPC error so that MCP clients can show it.
pub(super) fn error(status: StatusCode, id: Option<&str>, code: i32, why: &str) -> Answer {
    plain(status, "application/json", jsonrpc::error(id, code, why))
}

/// The path is there, the method is not.
pub(super) fn not_allowed(allowed: &'static str, why: &str) -> Answer {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, None, jsonrpc::INVALID_REQUEST, why);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Not now: a drain, or a limit.
pub(super) fn unavailable(id: Option<&str>, why: &str) -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, id, jsonrpc::REFUSED, why)
}
