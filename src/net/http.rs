//! One HTTP request: who may ask, where it goes, and what all answers have in common.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use log::warn;

use super::answer::{Answer, Answering, error, not_allowed, share};
use super::body::Body;
use super::connection::Connection;
use super::front::Front;
use super::head::Head;
use super::origin::Stranger;
use super::request::{Asking, RequestBody, is_preflight, named, preflight};
use super::{admin, auth, origin, paths, proxied, sse, streamable, ws};
use crate::hub::{Audit, Dropped, Server};
use crate::model::config::Admitted;
use crate::model::jsonrpc;
use crate::model::text::printable;
use crate::rt::wait::{recent, timeout};
use crate::sys::listen::Peer;

/// A refusal is logged so often at most.
const REFUSAL: Duration = Duration::from_secs(60);

/// Serves one request of a connection whose own address is `local`.
pub(super) fn serve(
    front: &Arc<Front>,
    connection: &Arc<Connection>,
    (local, peer): &(Option<IpAddr>, Option<Arc<Peer>>),
    request: Asking,
) -> Serving {
    let config = front.hub.ctx.config();
    let head = &request.head;
    let is_health = || is_health(&config.base_path, head);
    let serving = |work, origin| Serving { connection: connection.clone(), origin, work: Some(work) };
    let origin = match check_names(front, *local, head, &is_health) {
        Ok(origin) => origin,
        // Whether it lives and serves is for everybody to know, whatever name a balancer gives it.
        Err(_) if is_health() => return serving(health(front, request), None),
        Err(refused) => {
            front.hub.ctx.counters.count(Dropped::ForeignOrigin);
            return serving((*refused).into(), None);
        }
    };
    let origin = origin.map(str::to_owned);
    let closes = |v: &str| v.to_ascii_lowercase().contains("close");
    connection.is_for(proxied::client(&config, connection.address, &head.fields));
    let keeps = !head.fields.texts("connection").any(closes);
    connection.busy(head.is_11, keeps, origin.clone());
    let work = match auth::principal(config.auth.as_ref(), &head.fields, peer.as_deref()) {
        Ok(who) => {
            if let Some(name) = auth::hashed_with_line_feed(who.as_deref(), &head.fields)
                && front.odd_tokens.lock().is_new(name)
            {
                warn!(
                    "the token of '{name}' was hashed with a line feed behind it; it is understood. 'mcpdaemon --new-token \
                     NAME' prints lines as they should be"
                );
            }
            dispatch(front, connection, who, request)
        }
        Err(_) if is_preflight(head) => preflight(&head.fields).into(),
        // Whether it lives and serves is for everybody to know, and nothing beyond that.
        Err(_) if is_health() => health(front, request),
        // Clients look in many places for how to get a token, and take a 401 there for an answer.
        Err(_) if !paths::exists(proxied::without(&config.base_path, &paths::meant(&head.path))) => {
            admin::nothing().into()
        }
        Err(why) => {
            front.hub.ctx.counters.count(Dropped::Unauthorized);
            log_refusal(front, connection);
            record_refusal(front, connection, head, why);
            unauthorized(front, connection, head, why)
        }
    };
    serving(work, origin)
}

/// A request that is being served. Small, because it is there for each request.
pub(super) struct Serving {
    connection: Arc<Connection>,
    origin: Option<String>,
    /// None once it is answered.
    work: Option<Answering>,
}

impl Future for Serving {
    type Output = Result<Answer, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = match self.work.take() {
            Some(Answering::Now(answer)) => answer,
            Some(Answering::Later(mut work)) => match work.as_mut().poll(cx) {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    self.work = Some(Answering::Later(work));
                    return Poll::Pending;
                }
            },
            None => return Poll::Pending,
        };
        match response.body() {
            Body::Whole(_) => self.connection.idles(),
            Body::Events(_) => self.connection.streams(),
        }
        share(&mut response, self.origin.as_deref());
        if self.connection.front.hub.ctx.leaving_soon() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}

/// How the instance is, without detail.
fn health(front: &Arc<Front>, request: Asking) -> Answering {
    let front = front.clone();
    Answering::later(async move { admin::without_detail(admin::serve(&front, &request.head).await) })
}

/// Whether a request is one of a health check.
fn is_health(base: &str, head: &Head) -> bool {
    let path = paths::meant(&head.path);
    matches!(proxied::without(base, &path), paths::HEALTHZ | paths::READYZ | paths::HEALTH)
}

/// The origin that a request names, if it and the host may be named; else the answer to it.
fn check_names<'r>(
    front: &Front,
    local: Option<IpAddr>,
    head: &'r Head,
    is_health: &dyn Fn() -> bool,
) -> Result<Option<&'r str>, Box<Answer>> {
    let config = front.hub.ctx.config();
    let refuse = |status, why: &str| Box::new(error(status, None, jsonrpc::INVALID_REQUEST, why));
    let (host, origin) = named(head).map_err(|why| refuse(StatusCode::BAD_REQUEST, why))?;
    match origin::refuse(host, origin, local, &config.allow_hosts, &config.allow_origins) {
        None => Ok(origin),
        Some(Stranger::NoHost) => Err(refuse(StatusCode::BAD_REQUEST, "there is no Host header")),
        Some(Stranger::Named { what, name, key }) => {
            let name = printable(name, 100);
            if !is_health() && front.strangers.lock().is_new(&name) {
                warn!(
                    "a request with the {what} '{name}' was refused (403): if clients are to reach this instance by it, add it \
                     to {key}; dropped.foreign_origin counts all, this is logged once"
                );
            }
            let why = format!("the {what} '{name}' is not served: add it to {key} in the instance file if it is to be");
            Err(refuse(StatusCode::FORBIDDEN, &why))
        }
    }
}

/// Refuses with 401. A token that is not known is answered later and later, one that is not shown at once: that is how
/// clients learn that one is wanted. Nothing waits for it that comes to an end or goes on in another process.
fn unauthorized(front: &Arc<Front>, connection: &Connection, head: &Head, why: &'static str) -> Answering {
    let delay = match head.fields.get("authorization") {
        Some(_) => front.refusals.lock().delay(connection.from(), recent()),
        None => Duration::ZERO,
    };
    if delay.is_zero() {
        return auth::unauthorized(why).into();
    }
    let front = front.clone();
    Answering::later(async move {
        let ctx = &front.hub.ctx;
        timeout(delay, ctx.quiesce.wait().or(ctx.draining.wait())).await;
        auth::unauthorized(why)
    })
}

/// A refusal with 401 stands in the audit record, each.
fn record_refusal(front: &Front, connection: &Connection, head: &Head, why: &str) {
    let audit = &front.hub.ctx.audit;
    if audit.is_on() {
        let address = connection.from().map(|ip| ip.to_string());
        let line = Audit::line("refused").text("address", address.as_deref()).text("path", Some(&head.path));
        audit.write(line.text("outcome", Some("refused")).text("reason", Some(why)));
    }
}

/// Logs a refusal with 401. Once a minute: a client that tries tokens tries many.
fn log_refusal(front: &Front, connection: &Connection) {
    if !front.refused.is_due(REFUSAL) {
        return;
    }
    let from = connection.from().map_or("this host".to_owned(), |ip| ip.to_string());
    warn!("a request from {from} was not let in (401); dropped.unauthorized counts all, this is logged once a minute");
}

/// The part of the program that a request is for has it.
fn dispatch(
    front: &Arc<Front>,
    connection: &Arc<Connection>,
    who: Option<Arc<Admitted>>,
    request: Asking,
) -> Answering {
    connection.knows(who);
    if is_preflight(&request.head) {
        return preflight(&request.head.fields).into();
    }
    let config = front.hub.ctx.config();
    let meant = paths::meant(&request.head.path);
    let path = proxied::without(&config.base_path, &meant);
    let all = match path {
        "/mcp" => Some("mcp"),
        "/ws/mcp" => Some("ws"),
        "/sse" => Some("sse"),
        "/message" => Some("message"),
        _ => None,
    };
    if let Some(endpoint) = all {
        let Some(bridge) = front.hub.bridge() else {
            let why = "this instance has no bridge (bridge: None): a server is at /servers/NAME/mcp";
            return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, why).into();
        };
        return mcp(front, connection, &bridge, "", endpoint, request);
    }
    let Some((name, endpoint)) = path.strip_prefix(paths::SERVERS).and_then(|rest| rest.split_once('/')) else {
        let front = front.clone();
        let head = request.head;
        return Answering::later(async move { admin::serve(&front, &head).await });
    };
    let Some(endpoint) = paths::ENDPOINTS.into_iter().find(|known| *known == endpoint) else {
        let why = format!("there is no such path: a server has /servers/{name}/mcp, .../ws and .../sse");
        return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, &why).into();
    };
    let Some(server) = front.hub.server(name) else {
        let why = format!("there is no server '{}' in this instance", printable(name, 64));
        return error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, &why).into();
    };
    let base = format!("/servers/{name}");
    drop(meant);
    mcp(front, connection, &server, &base, endpoint, request)
}

/// One of the endpoints of a server, or of the bridge, whose paths begin with `base`.
fn mcp(
    front: &Arc<Front>,
    connection: &Arc<Connection>,
    server: &Arc<Server>,
    base: &str,
    endpoint: &str,
    request: Asking,
) -> Answering {
    if endpoint == "ws" {
        return match request.body {
            RequestBody::Coming(request) => ws::upgrade(front, connection, server, *request),
            // A plain request asks for no upgrade.
            RequestBody::Whole(_) => ws::not_asked_for("Unsupported HTTP method used, only GET is allowed"),
        }
        .into();
    }
    let fields = &request.head.fields;
    match (endpoint, &request.head.method) {
        ("sse", &Method::GET) if !streamable::names_session(fields) => {
            let before = proxied::before(&front.hub.ctx.config(), connection.address, fields);
            return sse::open(front, server, &(before + base), connection, fields).into();
        }
        ("message", &Method::POST) => return sse::post(front, server, connection, request),
        ("message", _) => {
            return not_allowed("POST", "POST takes the messages of a session that /sse has opened").into();
        }
        // What else comes to /sse is of a client that was told this path and speaks Streamable HTTP.
        _ => {}
    }
    streamable::serve(front, server, connection, request)
}
