//! What is not the hot path, routed by tide: the page, health, the status document, and metrics ([`paths`]).

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use tide::http;

use super::answer::{Answer, error, not_allowed, plain};
use super::front::Front;
use super::head::Head;
use super::metrics::{self, Format};
use super::page;
use super::pages::{Admin, App};
use super::paths;
use super::proxied;
use crate::model::jsonrpc;
use crate::rt::blocking::blocking;

pub(super) fn app(admin: Admin) -> App {
    let mut app = tide::with_state(admin);
    app.at(paths::HEALTHZ).get(|_| async { Ok(text(200, "ok\n")) });
    for path in [paths::READYZ, paths::HEALTH] {
        app.at(path).get(|request: tide::Request<Admin>| async move {
            let missing = (request.state().not_ready)();
            Ok(match missing.as_slice() {
                [] => text(200, "ready\n"),
                all => text(503, &format!("{}\n", all.join("\n"))),
            })
        });
    }
    app.at(paths::STATUS).get(|request: tide::Request<Admin>| async move {
        let status = request.state().status.clone();
        let mut response = text(200, &blocking(move || status()).await);
        response.insert_header("content-type", "application/json");
        response.insert_header("cache-control", "no-store");
        Ok(response)
    });
    app.at("/").get(|request: tide::Request<Admin>| async move {
        let shown = request.state().page.clone();
        let html = blocking(move || shown().map(|shown| page::page(&shown))).await.unwrap_or_default();
        let mut response = text(200, &html);
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("content-security-policy", page::policy()),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            response.insert_header(name, value);
        }
        Ok(response)
    });
    app.at(paths::METRICS).get(|request: tide::Request<Admin>| async move {
        let accept = request.header("accept").map(|v| v.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(","));
        let format = Format::accepted(&accept.unwrap_or_default());
        let metrics = request.state().metrics.clone();
        let mut response =
            text(200, &blocking(move || metrics().map(|m| metrics::text(m, format))).await.unwrap_or_default());
        response.insert_header("content-type", format.content_type());
        response.insert_header("cache-control", "no-store");
        Ok(response)
    });
    app
}

fn text(status: u16, body: &str) -> tide::Response {
    tide::Response::builder(status).content_type("text/plain; charset=utf-8").body(body).build()
}

/// An answer without its details, for a client that is not known: only whether it is so.
pub(super) fn without_detail(answer: Answer) -> Answer {
    let status = answer.status();
    let text = match status {
        StatusCode::SERVICE_UNAVAILABLE => "not ready\n",
        status if status.is_success() => "ok\n",
        _ => "GET or HEAD\n",
    };
    plain(status, "text/plain; charset=utf-8", text.to_owned())
}

/// The answer where there is nothing.
pub(super) fn nothing() -> Answer {
    let why = "nothing is here; a server is at /servers/NAME/mcp (HTTP) and /servers/NAME/ws (WebSocket)";
    error(StatusCode::NOT_FOUND, None, jsonrpc::INVALID_REQUEST, why)
}

/// Hands a request to the router and its answer back.
pub(super) async fn serve(front: &Front, head: &Head) -> Answer {
    let (config, meant) = (front.hub.ctx.config(), paths::meant(&head.path));
    let path = proxied::without(&config.base_path, &meant);
    let method = match head.method {
        Method::GET => http::Method::Get,
        Method::HEAD => http::Method::Head,
        // HAProxy's health check asks so where it is told no method.
        Method::OPTIONS if [paths::HEALTHZ, paths::READYZ, paths::HEALTH].contains(&path) => http::Method::Get,
        _ if !paths::exists(path) => return nothing(),
        _ => return not_allowed("GET, HEAD", "GET or HEAD"),
    };
    let Ok(url) = http::Url::parse(&format!("http://localhost{path}")) else { return nothing() };
    let mut asked = http::Request::new(method, url);
    for value in head.fields.texts("accept") {
        asked.append_header("accept", value);
    }
    let answer: Result<http::Response, _> = front.app.respond(asked).await;
    let Ok(mut answer) = answer else { return nothing() };
    if answer.status() == http::StatusCode::NotFound {
        return nothing();
    }
    let status = StatusCode::from_u16(answer.status() as u16).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = answer.take_body().into_string().await.unwrap_or_default();
    let mut response = plain(status, "text/plain; charset=utf-8", body);
    let kept =
        ["content-type", "cache-control", "content-security-policy", "x-content-type-options", "referrer-policy"];
    for name in kept {
        let value = answer.header(name).and_then(|v| HeaderValue::from_str(v.last().as_str()).ok());
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
