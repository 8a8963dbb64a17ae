//! WebSocket: one JSON-RPC message a text frame, one connection a session.
//!
//! Never part of a released MCP revision; compatible with the clients that exist: the subprotocol `mcp` is echoed when
//! it is offered, and not required.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::error::ProtocolError;
use async_tungstenite::tungstenite::handshake::server::create_response;
use async_tungstenite::tungstenite::protocol::frame::Frame;
use async_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use async_tungstenite::tungstenite::{Error, Message};
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_lite::{Stream, StreamExt, ready};
use futures_sink::Sink;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use log::debug;

use super::answer::{Answer, error, unavailable};
use super::body::Body;
use super::conn::Conn;
use super::connection::Connection;
use super::frames::Frames;
use super::front::Front;
use super::parked::{How, ParkedConnection};
use super::wishes::Wishes;
use crate::hub::Dropped;
use crate::hub::Outbox;
use crate::hub::Server;
use crate::hub::route;
use crate::hub::{Client, Endpoint, Kept, Later, SHUTTING_DOWN};
use crate::model::config::WebSocket;
use crate::model::jsonrpc;
use crate::model::out::Out;
use crate::model::text::head;
use crate::model::transport::Transport;
use crate::rt::blocking::{LONG, busy};
use crate::rt::task;
use crate::rt::timer::Timer;
use crate::rt::wait::{PAUSE, timeout};
use crate::sys::fds;

/// The library clears so many bytes before each read, and keeps as many for each connection.
const READ_BUFFER: usize = 2000;
/// Messages taken from one client before the others and the way back get their turn.
const IN_A_ROW: usize = 64;
/// After so long, the others have their turn as well.
const SLICE: Duration = Duration::from_millis(2);
/// The longest frame that is sent, in bytes.
const PIECE: usize = 1 << 20;
/// The longest reason in a close frame, in bytes.
const REASON: usize = 123;
const NO_MEMORY: &str = "as much is kept for clients as may be (limits.memory)";
/// How long a peer may take to answer a close frame.
const CLOSING: Duration = Duration::from_secs(1);

/// The answer to a request that is none for an upgrade.
pub(super) fn not_asked_for(why: &str) -> Answer {
    let why = format!("this path takes WebSocket connections: {why}");
    let mut response = error(StatusCode::UPGRADE_REQUIRED, None, jsonrpc::INVALID_REQUEST, &why);
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response
}

/// Answers the upgrade request; the connection becomes a WebSocket behind it.
pub(super) fn upgrade(
    front: &Arc<Front>,
    connection: &Arc<Connection>,
    server: &Arc<Server>,
    mut request: Request<Incoming>,
) -> Answer {
    if front.hub.ctx.draining.is_set() {
        return unavailable(None, SHUTTING_DOWN);
    }
    let shape = {
        let mut shape = Request::new(());
        (*shape.method_mut(), *shape.version_mut()) = (request.method().clone(), request.version());
        shape.headers_mut().clone_from(request.headers());
        shape
    };
    let response = match create_response(&shape) {
        Ok(response) => response,
        Err(e) => return not_asked_for(&e.to_string()),
    };
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mcp = offered.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|p| p.trim() == "mcp");
    let client = match front.hub.open_session(server, Transport::WebSocket, connection.holder()) {
        Ok(client) => {
            client.session.note_address(connection.from());
            Ok(client)
        }
        // A client of the executor's own protocol learns it there.
        Err(why) if !mcp && server.greeting().is_some() => Err(why),
        Err(why) => return unavailable(None, &why.to_string()),
    };
    // On the bridge it takes one of the executor's places from now on.
    let client = client.and_then(|client| match (mcp, client.endpoint.take_place(&client.session)) {
        (false, Err(why)) => {
            front.hub.end_session(&client, &why.to_string());
            Err(why)
        }
        _ => Ok(client),
    });
    let mut answer: Response<Body> = response.map(|()| Body::empty());
    if mcp {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mcp"));
    }
    connection.is_over();
    let coming = hyper::upgrade::on(&mut request);
    let (front, connection) = (front.clone(), connection.clone());
    task::spawn(async move {
        let upgraded = coming.await.ok().and_then(|u| u.downcast::<Conn>().ok());
        // What was read beyond the request is copied: it is a part of a buffer of the HTTP library.
        let upgraded = upgraded.map(|parts| (parts.io, parts.read_buf.to_vec()));
        match (client, upgraded) {
            (Ok(client), Some((conn, early))) => {
                let outbox = connection.outbox(Outbox::new);
                client.session.attach(outbox.clone());
                if let Some(greeting) = client.endpoint.greeting().filter(|_| !mcp) {
                    outbox.push(Out::notice(greeting));
                }
                serve(&connection, &client, conn, early, outbox, VecDeque::new()).await;
            }
            (Ok(client), None) => front.hub.end_session(&client, "its WebSocket did not open"),
            (Err(why), Some((conn, _))) => refuse(conn, &why.to_string()).await,
            (Err(_), None) => {}
        }
        drop(connection);
    });
    answer
}

/// Says why there is no place for a session, and closes.
async fn refuse(conn: Conn, why: &str) {
    let mut ws = WebSocketStream::from_raw_socket(conn, Role::Server, None).await;
    let text = jsonrpc::error(None, jsonrpc::TOO_MANY_SESSIONS, &format!("Session limit exceeded: {why}"));
    let frame = CloseFrame { code: CloseCode::Policy, reason: "Session limit exceeded".into() };
    let goodbye = async {
        ws.send(Message::Text(text.into())).await?;
        ws.close(Some(frame)).await?;
        // The end comes with the peer's close frame.
        while let Some(Ok(_)) = ws.next().await {}
        Ok::<(), Error>(())
    };
    let _ = timeout(CLOSING, goodbye).await;
}

/// Goes on with a WebSocket between two messages; it is counted already.
pub(super) fn resume(
    connection: Arc<Connection>,
    conn: Conn,
    client: Client,
    outbox: Arc<Outbox>,
    queue: VecDeque<Out>,
) {
    task::spawn(async move {
        serve(&connection, &client, conn, Vec::new(), outbox, queue).await;
        drop(connection);
    });
}

/// One WebSocket, to its end or until it is at rest.
async fn serve(
    connection: &Arc<Connection>,
    client: &Client,
    conn: Conn,
    early: Vec<u8>,
    outbox: Arc<Outbox>,
    queue: VecDeque<Out>,
) {
    let front = &connection.front;
    let config = front.hub.ctx.config();
    let (fd, is_unix) = (conn.fd(), conn.is_unix());
    let limit = config.websocket.max_size.bytes();
    let tuning = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    let mut frames = Frames::default();
    frames.feed(&early);
    let watched = Watched::new(conn, frames, connection);
    let ws = WebSocketStream::from_partially_read(watched, early, Role::Server, Some(tuning)).await;
    let now = Instant::now();
    let mut driver = Driver {
        ws,
        client: client.clone(),
        outbox: outbox.clone(),
        queue,
        sent: 0,
        flushing: false,
        times: config.websocket.clone(),
        waits_since: None,
        next_ping: now + config.websocket.ping_interval,
        timer: Timer::after(config.websocket.ping_interval),
        draining: false,
        closing: None,
        taking: None,
    };
    let mut wishes = Wishes::of(connection);
    let why = loop {
        let end = std::future::poll_fn(|cx| {
            let wish = wishes.poll(cx);
            driver.draining = wish.drain;
            if wish.straggles {
                // Only what it sends is in our hands: a message of its client may be half here.
                driver.close(CloseCode::Restart, "the daemon is being upgraded: connect again");
            }
            if wish.revoked {
                driver.close(CloseCode::Policy, "who opened it may not connect any more");
            }
            driver.poll(cx, wish.rest)
        })
        .await;
        match end {
            End::Closed(why) => break why,
            End::AtRest => match fds::duplicate(fd) {
                Ok(fd) => {
                    let (client, queue) = (client.clone(), std::mem::take(&mut driver.queue));
                    let how = How::WebSocket { client, outbox, queue };
                    let who = connection.admitted();
                    return front.parked.put(ParkedConnection { fd, is_unix, who, early: Vec::new(), how });
                }
                Err(_) => break "there is no descriptor to keep it",
            },
            // The library's read buffer never shrinks: a connection that brought one huge message would hold its
            // memory for ever.
            End::Bloated => {
                let conn = driver.ws.into_inner().conn;
                let watched = Watched::new(conn, Frames::default(), connection);
                driver.ws = WebSocketStream::from_raw_socket(watched, Role::Server, Some(tuning)).await;
            }
        }
    };
    outbox.close();
    front.hub.end_session(client, "its WebSocket closed");
    debug!("a WebSocket of server '{}' closed: {why}", client.session.server);
}

/// Why a connection is no longer polled.
enum End {
    Closed(&'static str),
    /// It is between two messages, with nothing to send, and holds the memory of a long one.
    Bloated,
    /// It is between two messages, with nothing half sent, to go on in another process.
    AtRest,
}

/// A connection whose incoming frames are followed.
struct Watched {
    conn: Conn,
    frames: Frames,
    /// What has come of a message that has not ended.
    kept: Kept,
    /// There is no memory for more of it: none of it is read any more.
    full: bool,
    /// The connection has failed: what still comes is thrown away. A socket that is closed with something unread is reset,
    /// and its peer would never see the close frame.
    failed: bool,
}

impl Watched {
    fn new(conn: Conn, frames: Frames, connection: &Connection) -> Watched {
        Watched { conn, frames, kept: connection.keep(), full: false, failed: false }
    }

    /// Throws away what has come; true if there may be more.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut buffer = [0; READ_BUFFER];
        for _ in 0..IN_A_ROW {
            match Pin::new(&mut self.conn).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(read) => drop(read?),
            }
        }
        Ok(true)
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.full {
            return Poll::Pending;
        }
        let n = ready!(Pin::new(&mut self.conn).poll_read(cx, buf))?;
        self.frames.feed(&buf[..n]);
        match self.frames.unfinished() {
            0 => self.kept.clear(),
            // The library has it twice: as frames, and as the message that they make.
            length => self.full = !self.kept.reach(2 * length as usize),
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_close(cx)
    }
}

struct Driver {
    ws: WebSocketStream<Watched>,
    client: Client,
    outbox: Arc<Outbox>,
    queue: VecDeque<Out>,
    /// How much of the first message in the queue was sent.
    sent: usize,
    flushing: bool,
    times: WebSocket,
    /// The first ping that nothing has come after.
    waits_since: Option<Instant>,
    next_ping: Instant,
    timer: Timer,
    draining: bool,
    /// A close frame was sent; the end comes with the peer's, or then.
    closing: Option<Instant>,
    /// A long message is being taken, on another thread; what comes behind it waits.
    taking: Option<Taking>,
}

type Taking = Pin<Box<dyn Future<Output = Option<Later>> + Send>>;

impl Driver {
    /// Ready once the connection is at its end.
    fn poll(&mut self, cx: &mut Context<'_>, quiescing: bool) -> Poll<End> {
        loop {
            let incoming = match self.poll_incoming(cx) {
                Ok(busy) => busy,
                Err(why) => return Poll::Ready(End::Closed(why)),
            };
            if self.ws.get_ref().full && self.closing.is_none() {
                self.fail(CloseCode::Again, NO_MEMORY);
                // Nothing has asked to be woken by what still comes.
                cx.waker().wake_by_ref();
            }
            let outgoing = match self.poll_outgoing(cx) {
                Ok(busy) => busy,
                Err(why) => return Poll::Ready(End::Closed(why)),
            };
            if let Err(why) = self.poll_time(cx) {
                return Poll::Ready(End::Closed(why));
            }
            if !incoming && quiescing && self.is_quiescent() {
                return Poll::Ready(End::AtRest);
            }
            if !incoming && !outgoing && self.is_bloated() {
                return Poll::Ready(End::Bloated);
            }
            if incoming {
                // There may be more; the others have their turn first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !outgoing {
                return Poll::Pending;
            }
        }
    }

    /// Everything that was read has been taken, or there would be more to take.
    fn is_bloated(&self) -> bool {
        let frames = &self.ws.get_ref().frames;
        let busy = self.flushing || self.closing.is_some() || self.taking.is_some();
        frames.longest() > PIECE as u64 && frames.between_messages() && !busy
    }

    /// Nothing of it is in the library's buffers.
    fn is_quiescent(&self) -> bool {
        let busy = self.flushing || self.sent > 0 || self.closing.is_some() || self.taking.is_some();
        let watched = self.ws.get_ref();
        watched.frames.between_messages() && watched.conn.is_handed_out() && !busy
    }

    /// Takes what has come; true if there may be more.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Result<bool, &'static str> {
        if self.ws.get_ref().failed {
            return self.ws.get_mut().poll_discard(cx).map_err(|_| "the connection was failed");
        }
        let (mut taken, begin) = (0, Instant::now());
        for n in 1..=IN_A_ROW {
            if let Some(taking) = &mut self.taking {
                match taking.as_mut().poll(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(later) => drop(later.map(task::spawn)),
                }
                self.taking = None;
            }
            if taken > LONG || (n % 4 == 0 && begin.elapsed() > SLICE) {
                return Ok(true);
            }
            let message = match Pin::new(&mut self.ws).poll_next(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(None) => return Err("the connection ended"),
                Poll::Ready(Some(Err(e))) => return self.failed(e),
                Poll::Ready(Some(Ok(message))) => message,
            };
            self.waits_since = None;
            match message {
                Message::Text(text) if self.closing.is_none() && text.len() > LONG => {
                    let (client, outbox) = (self.client.clone(), self.outbox.clone());
                    let mut kept = client.session.keep();
                    if !kept.reach(text.len()) {
                        self.fail(CloseCode::Again, NO_MEMORY);
                        return Ok(true);
                    }
                    let take = move || {
                        if client.session.is_ended() {
                            // Its connection has ended meanwhile.
                            return None;
                        }
                        let later = route::receive(&client, text.as_str(), &outbox);
                        drop(kept);
                        later
                    };
                    self.taking = Some(Box::pin(busy(take)));
                }
                Message::Text(text) if self.closing.is_none() => {
                    taken += text.len();
                    if let Some(later) = route::receive(&self.client, text.as_str(), &self.outbox) {
                        task::spawn(later);
                    }
                }
                Message::Binary(_) => self.close(CloseCode::Unsupported, "text frames only"),
                Message::Close(_) => {
                    // tungstenite has queued the answer; the stream ends once it is written.
                    self.closing.get_or_insert_with(|| Instant::now() + CLOSING);
                    self.flushing = true;
                    self.timer.set_after(CLOSING);
                }
                _ => {}
            }
        }
        Ok(true)
    }

    fn failed(&mut self, error: Error) -> Result<bool, &'static str> {
        if self.closing.is_some() {
            return Err("the connection ended while it was being closed");
        }
        match error {
            Error::Capacity(_) => {
                self.client.session.ctx.counters.count(Dropped::LongMessages);
                self.fail(CloseCode::Size, "the message is longer than websocket.max_size");
            }
            Error::Utf8(_) => self.fail(CloseCode::Invalid, "text is UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return Err("the connection ended"),
            Error::Protocol(_) => self.fail(CloseCode::Protocol, "not the WebSocket protocol"),
            _ => return Err("the connection broke"),
        }
        // What comes behind it is looked at next.
        Ok(true)
    }

    /// Sends what is queued, in as few writes as possible; true if something was moved.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Result<bool, &'static str> {
        let mut moved = false;
        if !self.flushing && self.closing.is_none() && self.queue.is_empty() {
            match self.outbox.poll_take(cx, &mut self.queue) {
                Poll::Pending => {}
                Poll::Ready(true) => {}
                Poll::Ready(false) if self.outbox.overflowed() => return Err(self.too_slow()),
                Poll::Ready(false) => {
                    let why = self.outbox.why();
                    self.close(CloseCode::Away, why.as_deref().unwrap_or("the session has ended"));
                }
            }
        }
        if !self.flushing && self.closing.is_none() && !self.queue.is_empty() {
            self.feed().map_err(|_| "the connection broke while writing")?;
            self.flushing = true;
            moved = true;
        }
        if self.flushing {
            match Pin::new(&mut self.ws).poll_flush(cx) {
                Poll::Pending if self.outbox.poll_overflowed(cx).is_ready() => return Err(self.too_slow()),
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) => {
                    // What was queued meanwhile has not woken this task: ask the outbox again.
                    self.flushing = false;
                    moved = true;
                    if self.ws.get_ref().failed {
                        // Its peer need not wait for anything more than the close frame.
                        let _ = Pin::new(&mut self.ws.get_mut().conn).poll_close(cx);
                    }
                }
                Poll::Ready(Err(Error::ConnectionClosed)) => return Err("closed"),
                Poll::Ready(Err(_)) => return Err("the connection broke while writing"),
            }
        }
        Ok(moved)
    }

    /// Hands what is queued to the frame writer, up to about [`PIECE`] before the next flush.
    ///
    /// The writer's buffer never shrinks, so a long message goes in fragments (RFC 6455 section 5.4): a connection that
    /// carried a huge answer once would otherwise hold its memory for ever.
    fn feed(&mut self) -> Result<(), Error> {
        let mut fed = 0;
        while fed < PIECE
            && let Some(out) = self.queue.front()
        {
            let left = out.text.len() - self.sent;
            let message = if left <= PIECE && self.sent == 0 {
                let Some(out) = self.queue.pop_front() else { break };
                Message::Text(out.text.into())
            } else {
                let end = self.sent + left.min(PIECE);
                let piece = out.text.as_bytes()[self.sent..end].to_vec();
                let opcode = OpCode::Data(if self.sent == 0 { Data::Text } else { Data::Continue });
                let last = end == out.text.len();
                self.sent = if last { 0 } else { end };
                if last {
                    self.queue.pop_front();
                }
                Message::Frame(Frame::message(piece, opcode, last))
            };
            fed += left.min(PIECE);
            Pin::new(&mut self.ws).start_send(message)?;
        }
        Ok(())
    }

    fn too_slow(&self) -> &'static str {
        self.client.session.ctx.counters.count(Dropped::SlowClients);
        "the client did not read what was sent to it"
    }

    /// Closes it after something that cannot be read on from (RFC 6455 section 7.1.7).
    fn fail(&mut self, code: CloseCode, reason: &str) {
        self.close(code, reason);
        self.ws.get_mut().failed = true;
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        if self.closing.is_some() {
            return;
        }
        // A close frame holds no more (RFC 6455 section 5.5).
        let frame = CloseFrame { code, reason: head(reason, REASON).into() };
        let _ = Pin::new(&mut self.ws).start_send(Message::Close(Some(frame)));
        self.closing = Some(Instant::now() + CLOSING);
        self.flushing = true;
        self.timer.set_after(CLOSING);
    }

    /// Pings, gives up on the silent, and follows a drain.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Result<(), &'static str> {
        if self.draining && self.closing.is_none() {
            // Everything asked for is answered and sent first.
            let sent = !self.flushing && self.queue.is_empty() && !self.outbox.has_more();
            let quiet = self.client.session.load.is_quiet() && sent;
            if quiet || self.client.session.ctx.end_drain.is_set() {
                self.close(CloseCode::Away, "the daemon is shutting down");
                let _ = self.poll_outgoing(cx)?;
            } else {
                // Looked at again and again, in a drain alone: a request that ends without an answer wakes no connection.
                self.timer.set_after(Duration::from_millis(10));
            }
        }
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(until) = self.closing {
                if now >= until {
                    return Err("closed, and the peer did not answer");
                }
                self.timer.set_at(until);
                continue;
            }
            let due =
                self.waits_since.map_or(self.next_ping, |since| (since + self.times.ping_timeout).min(self.next_ping));
            if now.saturating_duration_since(due) > PAUSE {
                // It was this process that was silent: the peer is asked anew.
                (self.waits_since, self.next_ping) = (None, now);
            }
            if self.waits_since.is_some_and(|since| now.duration_since(since) >= self.times.ping_timeout) {
                return Err("silent for longer than websocket.ping_timeout");
            }
            if now >= self.next_ping {
                self.next_ping = now + self.times.ping_interval;
                self.waits_since.get_or_insert(now);
                let _ = Pin::new(&mut self.ws).start_send(Message::Ping(Default::default()));
                self.flushing = true;
                let _ = self.poll_outgoing(cx)?;
            }
            let silent = self.waits_since.map(|since| since + self.times.ping_timeout);
            self.timer.set_at(silent.map_or(self.next_ping, |at| at.min(self.next_ping)));
        }
        Ok(())
    }
}
