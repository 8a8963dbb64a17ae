//! A connection in the hands of the HTTP library, from its first byte to its last, to its upgrade, or until it is at rest.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use log::debug;

use super::conn::{Conn, HeadTimer};
use super::connection::Connection;
use super::front::Front;
use super::http;
use crate::rt::task;
use crate::rt::wait::sleep;

/// An idle connection is kept this long for its next request.
const IDLE: Duration = Duration::from_secs(75);

/// Why a connection is no longer polled.
enum End {
    Closed(Result<(), hyper::Error>),
    /// It is at rest, to go on in another process.
    AtRest,
}

/// Serves a connection that is counted.
pub(super) fn take(front: &Arc<Front>, conn: Conn) {
    let connection = Connection::new(front, conn.fd(), conn.remote_ip(), conn.heard(), conn.blocked());
    take_again(front, conn, connection);
}

/// Serves a connection that has its place already.
pub(super) fn take_again(front: &Arc<Front>, conn: Conn, connection: Arc<Connection>) {
    task::spawn(serve(front.clone(), conn, connection));
}

/// One connection, from its first byte to its last or to its upgrade.
async fn serve(front: Arc<Front>, conn: Conn, place: Arc<Connection>) {
    let limits = front.hub.ctx.config().limits.clone();
    let (local, peer) = (conn.local_ip(), conn.peer().map(Arc::new));
    let timer = HeadTimer { heard: conn.heard(), head: limits.header_timeout };
    let (shared, asked, is_unix) = (front.clone(), place.clone(), conn.is_unix());
    let service = service_fn(move |request| http::serve(shared.clone(), asked.clone(), (local, peer.clone()), request));
    let connection = http1::Builder::new()
        .timer(timer)
        .header_read_timeout(IDLE)
        .max_header_size(limits.header.bytes())
        // A body is not copied, or what is kept of it would not be known.
        .writev(true)
        .serve_connection(conn, service)
        .with_upgrades();
    let mut connection = Box::pin(connection);
    let drain = async {
        front.hub.ctx.draining.wait().await;
    };
    let cut = async {
        front.hub.ctx.end_drain.wait().await;
        // Time for the errors that end what is still open.
        sleep(Duration::from_secs(1)).await;
    };
    let (mut drain, mut cut) = (std::pin::pin!(drain), std::pin::pin!(cut));
    let (mut draining, mut quiesce) = (false, front.hub.ctx.quiesce.watch());
    let mut revision = front.hub.ctx.revision();
    let end = std::future::poll_fn(|cx| {
        if !draining && drain.as_mut().poll(cx).is_ready() {
            // What is in flight is finished, then the connection closes; an idle one closes at once.
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            return Poll::Ready(End::Closed(outcome));
        }
        if draining && cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Closed(Ok(())));
        }
        if quiesce.poll(cx) && place.is_quiescent() {
            return Poll::Ready(End::AtRest);
        }
        if std::mem::replace(&mut revision, front.hub.ctx.revision()) != revision && !place.is_admitted() {
            return Poll::Ready(End::Closed(Ok(())));
        }
        Poll::Pending
    })
    .await;
    if matches!(end, End::Closed(_)) {
        place.is_over();
    }
    match end {
        End::Closed(Err(e)) => debug!("a connection ended: {e}"),
        End::Closed(Ok(())) => {}
        // What the library has read beyond the request is of the next one.
        End::AtRest => place.park(is_unix, move || {
            let parts = Pin::into_inner(connection).into_parts();
            parts.map(|p| p.read_buf.to_vec()).unwrap_or_default()
        }),
    }
}
