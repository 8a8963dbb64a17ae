//! Writes answers on a connection that is not in the hands of the HTTP library: HTTP/1.1 as RFC 9112 has it, a head, then one
//! piece or chunks.
//!
//! It must not know what is answered, nor what comes before and after the answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use futures_lite::AsyncWriteExt;
use httpdate::fmt_http_date;
use hyper::StatusCode;
use hyper::body::Body as _;
use hyper::header::{self, HeaderName, HeaderValue};

use super::answer::Answer;
use super::body::Body;
use super::conn::Conn;
use super::connection::Connection;
use crate::rt::wait::recent;

/// What is not longer is copied, so that it takes one write, in bytes.
const COPIED: usize = 16 << 10;
/// The room that a head takes, in bytes.
const HEAD: usize = 300;

/// Writes a whole response. `chunks` says whether the client reads them, and `keeps` whether it keeps the connection. True if
/// the connection is good for another request.
pub(super) async fn give(
    conn: &mut Conn,
    connection: &Connection,
    response: Answer,
    chunks: bool,
    keeps: bool,
) -> io::Result<bool> {
    let (parts, body) = response.into_parts();
    let length = body.size_hint().exact();
    let ends = parts.headers.get(header::CONNECTION).is_some_and(|v| v == "close");
    let goes_on = chunks && keeps && !ends;
    let mut head = Vec::with_capacity(HEAD + length.map_or(0, |n| n.min(COPIED as u64) as usize));
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(parts.status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in &parts.headers {
        field(&mut head, name, value.as_bytes());
    }
    match length {
        // RFC 9110 section 8.6.
        Some(_) if parts.status == StatusCode::NO_CONTENT => {}
        Some(length) => field(&mut head, &header::CONTENT_LENGTH, HeaderValue::from(length).as_bytes()),
        None if chunks => field(&mut head, &header::TRANSFER_ENCODING, b"chunked"),
        None => {}
    }
    if !goes_on && !ends {
        field(&mut head, &header::CONNECTION, b"close");
    }
    if !parts.headers.contains_key(header::DATE) {
        with_date(|date| field(&mut head, &header::DATE, date.as_bytes()));
    }
    head.extend_from_slice(b"\r\n");
    match body {
        Body::Whole(Some(bytes)) if bytes.len() > COPIED => {
            conn.write_all(&head).await?;
            conn.write_all(&bytes).await?;
        }
        Body::Whole(bytes) => {
            head.extend_from_slice(&bytes.unwrap_or_default());
            conn.write_all(&head).await?;
        }
        events => {
            conn.write_all(&head).await?;
            connection.streams();
            give_rest(conn, events, chunks).await?;
        }
    }
    Ok(goes_on)
}

fn field(head: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    head.extend_from_slice(name.as_str().as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// Writes what is left of a body without a length.
pub(super) async fn give_rest(conn: &mut Conn, mut body: Body, chunks: bool) -> io::Result<()> {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = conn.unless_gone(frame).await else { return Ok(()) };
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

thread_local! {
    /// The date as a field has it, and until when it is right.
    static DATE: RefCell<Option<(String, Instant)>> = const { RefCell::new(None) };
}

/// Shows the date of now, to the second (RFC 9110 section 6.6.1).
fn with_date(show: impl FnOnce(&str)) {
    DATE.with_borrow_mut(|kept| {
        let now = recent();
        if kept.as_ref().is_none_or(|(_, until)| now >= *until) {
            let time = SystemTime::now();
            let into = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
            let left = Duration::from_secs(1) - Duration::from_nanos(into.into());
            *kept = Some((fmt_http_date(time), now + left));
        }
        if let Some((date, _)) = kept {
            show(date);
        }
    });
}
