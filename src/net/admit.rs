//! Who gets in: connections for which there is a place, and a few beside them that are answered one request: how the daemon
//! is, and else that there is no place.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};

use super::body::Body;
use super::conn::Conn;
use super::connection::Connection;
use super::front::Front;
use super::{http, serve};
use crate::hub::Dropped;
use crate::rt::task;
use crate::rt::wait::{Flag, sleep};

/// A connection without a place may say nothing for this long.
const SILENT: Duration = Duration::from_secs(1);
/// It has this long for its request and the answer.
const EXTRA_TIME: Duration = Duration::from_secs(5);
/// What it is told.
const NO_PLACE: &str = "too many connections (limits.connections), try later";
/// So many of them at a time; the next one takes the place of the one that has waited longest.
const EXTRA: usize = 64;

/// Serves a connection that has come, if there is a place for it.
pub(super) fn admit(front: &Arc<Front>, conn: Conn) {
    let limit = u64::from(front.hub.ctx.config().limits.connections);
    let taken = front.hub.ctx.connections.fetch_add(1, SeqCst);
    let from = conn.remote_ip();
    if front.door.is_left(limit, taken, from) || (taken <= limit && front.door.make_room(from)) {
        return serve::take(front, conn);
    }
    front.hub.ctx.connections.fetch_sub(1, SeqCst);
    task::spawn(serve_extra(front.clone(), conn));
}

/// Answers one request for which there is no place: how the daemon is, and else that there is none.
async fn serve_extra(front: Arc<Front>, conn: Conn) {
    let give_way = Arc::new(Flag::default());
    {
        let mut extra = front.door.extra.lock();
        if extra.len() == EXTRA
            && let Some(first) = extra.pop_front()
        {
            first.set();
        }
        extra.push_back(give_way.clone());
    }
    let spoken = async {
        conn.readable().await;
        true
    };
    let silent = async {
        give_way.wait().or(sleep(SILENT)).await;
        false
    };
    if spoken.or(silent).await {
        answer_extra(&front, conn, &give_way).await;
    } else {
        front.hub.ctx.counters.count(Dropped::Connections);
        conn.refuse(&format!(
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{NO_PLACE}",
            NO_PLACE.len()
        ));
    }
    front.door.extra.lock().retain(|one| !Arc::ptr_eq(one, &give_way));
}

/// Answers its request, once there is one.
async fn answer_extra(front: &Arc<Front>, conn: Conn, give_way: &Flag) {
    let connection = Connection::extra(front, &conn);
    let (local, peer) = (conn.local_ip(), conn.peer().map(Arc::new));
    let shared = front.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (front, connection, peer) = (shared.clone(), connection.clone(), peer.clone());
        async move {
            if matches!(request.uri().path(), "/healthz" | "/readyz") {
                return http::serve(&front, &connection, &(local, peer), request.into()).await;
            }
            front.hub.ctx.counters.count(Dropped::Connections);
            let mut response = Response::new(Body::from(NO_PLACE.to_owned()));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            Ok(response)
        }
    });
    let serving = async {
        let _ = http1::Builder::new().keep_alive(false).serve_connection(conn, service).await;
    };
    let over = async {
        give_way.wait().or(sleep(EXTRA_TIME)).await;
        front.hub.ctx.counters.count(Dropped::Connections);
    };
    serving.or(over).await;
}
