//! The rest of an answer that the HTTP library has begun, here or in the program before an upgrade.
//!
//! It is written here, because no library takes a connection in the middle of an answer. It is HTTP/1.1 as RFC 9112 has it: a
//! head, then one piece or chunks. After it the connection is one like others.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures_lite::{AsyncWriteExt, FutureExt};
use hyper::body::Body as _;
use hyper::header::{self, HeaderValue};

use super::answer::{Answer, share};
use super::body::{Body, Events, Reply};
use super::conn::Conn;
use super::connection::Connection;
use super::parked::Left;
use super::respond::{answer, name_session};
use crate::model::asked::Asked;

/// What is not longer is copied, so that it takes one write, in bytes.
const COPIED: usize = 16 << 10;

/// Gives the rest of an answer, of which something was given before if `begun`. True if the connection is good for another
/// request.
pub(super) async fn finish(
    conn: &mut Conn,
    connection: &Arc<Connection>,
    asked: &Asked,
    left: Left,
    begun: bool,
) -> io::Result<bool> {
    let Some(parts) = left.reply else { return Ok(false) };
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
    if begun {
        let stream = left.stream.map(|(stream, _)| stream);
        let events = Events::adopted(reply, left.queue, left.head, stream);
        connection.streams();
        give_rest(conn, Body::Events(Box::new(events)), asked.chunks).await?;
    } else {
        let Some(response) = or_gone(conn, late_answer(reply, asked)).await else { return Ok(false) };
        give(conn, connection, response, asked).await?;
    }
    connection.idles();
    Ok(asked.chunks && asked.keeps)
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
            give_rest(conn, events, chunks).await
        }
    }
}

/// Writes what is left of a body without a length.
async fn give_rest(conn: &mut Conn, mut body: Body, chunks: bool) -> io::Result<()> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = or_gone(conn, frame).await else { return Ok(()) };
        let Some(Ok(frame)) = frame else { break };
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        let (head, tail) = if chunks { (format!("{:x}\r\n", data.len()), "\r\n") } else { Default::default() };
        if data.len() > COPIED {
            conn.write_all(head.as_bytes()).await?;
            conn.write_all(&data).await?;
            conn.write_all(tail.as_bytes()).await?;
        } else {
            conn.write_all(&[head.as_bytes(), &data, tail.as_bytes()].concat()).await?;
        }
    }
    if chunks { conn.write_all(b"0\r\n\r\n").await } else { Ok(()) }
}
