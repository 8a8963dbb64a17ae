//! How connections at rest go on: in this process where an upgrade failed, else in the next one.
//!
//! The answer to a request that was taken before is written here, because no library takes a connection in the middle of
//! one. It is HTTP/1.1 as RFC 9112 has it: a head, then one piece or chunks. After it the connection is one like others.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use std::time::Duration;

use futures_lite::{AsyncWriteExt, FutureExt};
use hyper::body::Body as _;
use hyper::header::{self, HeaderValue};
use log::debug;

use super::answer::{Answer, share};
use super::body::{Body, Events, Reply};
use super::conn::Conn;
use super::connection::Connection;
use super::front::Front;
use super::parked::{How, Left, ParkedConnection, ParkedHttp};
use super::respond::{answer, name_session};
use super::serve::{take, take_again};
use super::ws;
use crate::model::asked::Asked;
use crate::rt::task;
use crate::rt::wait::sleep;

/// Lets a connection go on.
pub(super) fn resume(front: &Arc<Front>, parked: ParkedConnection) {
    let conn = match Conn::adopt(parked.fd, parked.is_unix, parked.early) {
        Ok(conn) => conn,
        Err(e) => return debug!("a connection cannot go on: {e}"),
    };
    front.hub.ctx.connections.fetch_add(1, SeqCst);
    let connection = Connection::new(front, conn.fd(), conn.remote_ip(), conn.heard(), conn.blocked());
    connection.knows(parked.who);
    match parked.how {
        How::Http(ParkedHttp::Idle) => take_again(front, conn, connection),
        How::Http(ParkedHttp::Waiting(asked, left)) => take_late(connection, conn, asked, left, false),
        How::Http(ParkedHttp::Streaming(asked, left)) => take_late(connection, conn, asked, left, true),
        How::WebSocket { client, outbox, queue } => ws::resume(connection, conn, client, outbox, queue),
    }
}

/// Serves a connection whose request was taken before.
fn take_late(connection: Arc<Connection>, conn: Conn, asked: Asked, left: Left, begun: bool) {
    let Some(parts) = left.reply else { return };
    let front = connection.front.clone();
    connection.busy(asked.chunks, asked.keeps, asked.origin.clone());
    if asked.opens_session {
        connection.opens_session();
    }
    let reply = Reply {
        client: parts.client,
        outbox: parts.outbox,
        answered: parts.answered,
        resumable: parts.resumable,
        connection: connection.clone(),
    };
    let (shared, is_unix, place) = (front.clone(), conn.is_unix(), connection.clone());
    let stream = left.stream.map(|(stream, _)| stream);
    let events = (left.queue, left.head, stream);
    let work: Pin<Box<dyn Future<Output = io::Result<()>> + Send>> = Box::pin(async move {
        let mut conn = conn;
        match begun {
            true => {
                let events = Events::adopted(reply, events.0, events.1, events.2);
                place.streams();
                finish(&mut conn, Body::Events(Box::new(events)), asked.chunks).await?;
            }
            false => {
                let Some(response) = or_gone(&conn, late_answer(reply, &asked)).await else { return Ok(()) };
                give(&mut conn, &place, response, &asked).await?;
            }
        }
        if asked.chunks && asked.keeps {
            drop(place);
            shared.hub.ctx.connections.fetch_add(1, SeqCst);
            take(&shared, conn);
        }
        Ok(())
    });
    task::spawn(see_through(front.clone(), work, connection, is_unix));
}

/// Polls such a connection to its end, or until it is at rest again.
async fn see_through(
    front: Arc<Front>,
    work: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    connection: Arc<Connection>,
    is_unix: bool,
) {
    let mut work = work;
    let mut quiesce = front.hub.ctx.quiesce.watch();
    let mut revision = front.hub.ctx.revision();
    let cut = async {
        front.hub.ctx.end_drain.wait().await;
        sleep(Duration::from_secs(1)).await;
    };
    let mut cut = pin!(cut);
    let ended = std::future::poll_fn(|cx| {
        if work.as_mut().poll(cx).is_ready() || cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        if quiesce.poll(cx) && connection.is_quiescent() {
            return Poll::Ready(false);
        }
        match std::mem::replace(&mut revision, front.hub.ctx.revision()) != revision && !connection.is_admitted() {
            true => Poll::Ready(true),
            false => Poll::Pending,
        }
    })
    .await;
    if !ended {
        // Whatever comes next was not read here.
        connection.park(is_unix, move || {
            drop(work);
            Vec::new()
        });
    }
}

async fn late_answer(reply: Reply, asked: &Asked) -> Answer {
    let (client, front) = (reply.client.clone(), reply.connection.front.clone());
    let mut response = answer(reply, asked.accepts).await;
    if asked.opens_session && !name_session(&mut response, &client.session) {
        front.hub.end_session(&client, "its handshake failed");
    }
    share(&mut response, asked.origin.as_deref());
    response
}

/// What the work brings, or None once the client has left.
async fn or_gone<T>(conn: &Conn, work: impl Future<Output = T>) -> Option<T> {
    let gone = async {
        conn.gone().await;
        None
    };
    async { Some(work.await) }.or(gone).await
}

/// Writes a whole response.
async fn give(conn: &mut Conn, connection: &Connection, response: Answer, asked: &Asked) -> io::Result<()> {
    let chunks = asked.chunks;
    let (mut parts, body) = response.into_parts();
    match (body.size_hint().exact(), chunks) {
        (Some(length), _) => drop(parts.headers.insert(header::CONTENT_LENGTH, length.into())),
        (None, true) => {
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        (None, false) => {}
    }
    if !chunks || !asked.keeps {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let mut head = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    match body {
        Body::Whole(bytes) => {
            head.extend_from_slice(&bytes.unwrap_or_default());
            conn.write_all(&head).await
        }
        events => {
            conn.write_all(&head).await?;
            connection.streams();
            finish(conn, events, chunks).await
        }
    }
}

/// Writes what is left of a body without a length.
async fn finish(conn: &mut Conn, mut body: Body, chunks: bool) -> io::Result<()> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = or_gone(conn, frame).await else { return Ok(()) };
        let Some(Ok(frame)) = frame else { break };
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        let mut piece = Vec::with_capacity(data.len() + 20);
        if chunks {
            piece.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        piece.extend_from_slice(&data);
        if chunks {
            piece.extend_from_slice(b"\r\n");
        }
        conn.write_all(&piece).await?;
    }
    if chunks { conn.write_all(b"0\r\n\r\n").await } else { Ok(()) }
}
