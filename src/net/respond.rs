//! The answer to a request once it is there: one JSON object, or an event stream where there is more to say.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::answer::{Answer, empty, plain, unavailable};
use super::body::{Body, Events, Reply, counted};
use crate::hub::{Client, Hub};
use crate::model::asked::Accepts;
use crate::model::modern;
use crate::model::out::Out;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::wait::sleep;

/// The header with the id of a session.
pub(super) const SESSION: &str = "mcp-session-id";
/// An answer that takes longer than this is announced by the head of an event stream and a first comment, so that no proxy
/// and no client gives up on a silent connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// Puts the id of a new session in the answer to `initialize`, if it is one that opens it. `params` are those of the request,
/// where they are known still.
pub(super) fn name_session(response: &mut Answer, hub: &Arc<Hub>, client: &Client, params: Option<&str>) -> bool {
    let born = client.session.revision().is_some() || matches!(response.body(), Body::Events(_));
    if !born {
        return false;
    }
    match HeaderValue::from_str(hub.name_session(client, params)) {
        Ok(id) if !id.is_empty() => {
            response.headers_mut().insert(HeaderName::from_static(SESSION), id);
            true
        }
        _ => false,
    }
}

/// Waits for what comes first: the head of the response depends on it.
pub(super) async fn answer(mut reply: Reply, accepts: Accepts) -> Answer {
    let Accepts { json, events } = accepts;
    reply.connection.waits(accepts);
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
            let Some(bytes) = counted(out.text, &reply.outbox, &reply.connection) else {
                return unavailable(
                    None,
                    "there is no memory for the answer: as much is kept as may be (limits.memory)",
                );
            };
            plain(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), "application/json", bytes)
        }
        // Cancelled: there will be nothing, and a client that takes no event stream gets none.
        Ok(None) if !events => empty(StatusCode::ACCEPTED),
        Ok(None) => stream(Events::new(reply, None)),
        Ok(first) => stream(events_of(reply, first)),
        Err(()) => stream(events_of(reply, None).at_once()),
    }
}

/// The event stream of a request. In the legacy era it can be taken up again, except for a command of the executor, which
/// ends with its client.
pub(super) fn events_of(reply: Reply, first: Option<Out>) -> Events {
    let Client { session, endpoint } = &reply.client;
    let lasting = session.kind == SessionKind::Lasting(Transport::Http) && !endpoint.answers_to(&reply.outbox);
    match lasting && session.revision().is_some() {
        true => Events::resumable(reply, first),
        false => Events::new(reply, first),
    }
}

/// A response that is an event stream.
pub(super) fn stream(events: Events) -> Answer {
    let mut response = Response::new(Body::Events(Box::new(events)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
