//! Response bodies: one piece, or server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::connection::Connection;
use super::parked::Parts;
use crate::hub::Dropped;
use crate::hub::Kept;
use crate::hub::Outbox;
use crate::hub::Stream;
use crate::hub::{Client, StreamGuard};
use crate::model::out::Out;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::timer::Timer;

/// A quiet stream says something this often: proxies cut connections that are silent for 60 to 125 s.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What it says then: a comment (HTML Living Standard section 9.2.6).
const WAITING: &str = ": still here\n\n";

/// What is not longer does not count, in bytes.
const FREE: usize = 16 << 10;
/// What is sent once more goes in pieces of about so many bytes.
const PIECE: usize = 64 << 10;

/// How long a client should wait before it takes up a stream again, in milliseconds.
const RETRY: u32 = 1000;

/// The body of a response.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Events(Box<Events>),
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body::Whole(None)
    }
}

/// What is sent and its place in the memory, until it is sent.
struct Sent(String, #[expect(dead_code, reason = "held for its end")] Kept);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A text that counts until its client has taken it; None if there is no memory for it.
/// It came out of this outbox, which counts it no longer.
pub(super) fn counted(text: String, outbox: &Outbox, connection: &Connection) -> Option<Bytes> {
    if text.len() <= FREE {
        return Some(Bytes::from(text));
    }
    outbox.hand_over();
    let mut kept = connection.keep();
    kept.reach(text.len()).then(|| Bytes::from_owner(Sent(text, kept)))
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole(Some(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::Whole(Some(Bytes::from(text)))
    }
}

/// The messages of an outbox as server-sent events, until no more will come.
pub(crate) struct Events {
    pub reply: Reply,
    queue: VecDeque<Out>,
    /// Written before anything else.
    head: String,
    /// Events that are sent once more, behind that, each with its id.
    again: VecDeque<(String, Arc<str>)>,
    /// It can be taken up again, and this connection has it under that number.
    stream: Option<(Arc<Stream>, u64)>,
    done: bool,
    heartbeat: Timer,
    _guard: StreamGuard,
}

/// The way back for a request or a GET stream; dropping it tells the hub that it is not read any more.
pub(crate) struct Reply {
    pub client: Client,
    pub outbox: Arc<Outbox>,
    /// The answer has been taken from it, or none is due.
    pub answered: bool,
    /// The client may come back for the rest.
    pub resumable: bool,
    /// The connection that it is for.
    pub connection: Arc<Connection>,
}

impl Reply {
    /// The way back for an answer that is due.
    pub(crate) fn to(client: Client, outbox: Arc<Outbox>, connection: &Arc<Connection>) -> Reply {
        client.session.note_address(connection.from());
        Reply { client, outbox, answered: false, resumable: false, connection: connection.clone() }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.connection.is_parking() {
            let (client, outbox) = (self.client.clone(), self.outbox.clone());
            let (answered, resumable) = (self.answered, self.resumable);
            return self.connection.keep_reply(Parts { client, outbox, answered, resumable });
        }
        match self.resumable && !self.client.session.is_ended() {
            true => self.outbox.detach(),
            false => self.outbox.close(),
        }
        match self.client.session.kind {
            // The stream was the session.
            SessionKind::Lasting(Transport::Sse) => {
                self.connection.front.hub.end_session(&self.client, "its client has left");
            }
            SessionKind::Request if self.answered => self.client.session.answered(),
            _ if !self.answered => self.client.abandoned(&self.outbox),
            _ => {}
        }
    }
}

impl Events {
    /// A stream that begins with what was taken from the outbox already.
    pub(crate) fn new(reply: Reply, first: Option<Out>) -> Events {
        let guard = reply.client.session.stream();
        Events {
            reply,
            queue: first.into_iter().collect(),
            head: String::new(),
            again: VecDeque::new(),
            stream: None,
            done: false,
            heartbeat: Timer::after(HEARTBEAT),
            _guard: guard,
        }
    }

    /// A stream of the 2024-11-05 transport, which begins with the place to post to.
    pub(crate) fn with_endpoint(reply: Reply, endpoint: &str) -> Events {
        let mut events = Events::new(reply, None);
        events.head = format!("event: endpoint\ndata: {endpoint}\n\n");
        events
    }

    /// A stream with ids. A client of 2025-11-25 gets an id before the first message, and is told how soon to come back.
    pub(crate) fn resumable(mut reply: Reply, first: Option<Out>) -> Events {
        let stream = reply.client.session.open_stream(&reply.outbox);
        reply.resumable = true;
        let primed = reply.client.session.revision().is_some_and(|r| r >= "2025-11-25");
        let mut events = Events::new(reply, first);
        if primed {
            events.head = format!("id: {}\nretry: {RETRY}\ndata:\n\n", stream.id(0));
        }
        let connection = stream.take();
        events.stream = Some((stream, connection));
        events
    }

    /// A stream that a client has lost, from behind the event that it names.
    pub(crate) fn resumed(client: &Client, stream: Arc<Stream>, event: u64, connection: &Arc<Connection>) -> Events {
        let number = stream.take();
        let outbox = stream.outbox.clone();
        outbox.reattach();
        let reply =
            Reply { client: client.clone(), outbox, answered: true, resumable: true, connection: connection.clone() };
        let mut events = Events::new(reply, None);
        events.again.extend(stream.after(event));
        if events.again.is_empty() {
            events.head.push_str(": here again\n\n");
        }
        events.stream = Some((stream, number));
        events
    }

    /// Says something at once, whatever it waits for.
    pub(crate) fn at_once(mut self) -> Events {
        if self.head.is_empty() {
            self.head.push_str(WAITING);
        }
        self
    }

    /// A stream that goes on where another process has left it.
    pub(crate) fn adopted(reply: Reply, queue: VecDeque<Out>, head: String, stream: Option<Arc<Stream>>) -> Events {
        let mut events = Events::new(reply, None);
        (events.queue, events.head) = (queue, head);
        events.stream = stream.map(|stream| {
            let connection = stream.take();
            (stream, connection)
        });
        events
    }

    /// Another connection has taken the stream.
    fn is_taken(&self) -> bool {
        self.stream.as_ref().is_some_and(|(stream, connection)| stream.is_taken_from(*connection))
    }

    /// The next event of those that are sent once more.
    fn once_more(&mut self) -> Option<String> {
        self.again.pop_front().map(|(id, text)| format!("id: {id}\nevent: message\ndata: {text}\n\n"))
    }

    fn write(&mut self) -> Bytes {
        let mut out = std::mem::take(&mut self.head);
        if self.again.is_empty() {
            self.write_queue(&mut out);
        }
        while out.len() < PIECE
            && let Some(event) = self.once_more()
        {
            // One may be long: it is not copied once more.
            match out.is_empty() {
                true => out = event,
                false => out.push_str(&event),
            }
        }
        self.heartbeat.set_after(HEARTBEAT);
        counted(out, &self.reply.outbox, &self.reply.connection).unwrap_or_else(|| {
            // A client that comes back for it gets it then.
            self.done = true;
            Bytes::from_static(b": there is no memory for it (limits.memory)\n\n")
        })
    }

    fn write_queue(&mut self, out: &mut String) {
        out.reserve(self.queue.iter().map(|o| o.text.len() + 48).sum());
        for one in self.queue.drain(..) {
            if let Some((stream, _)) = &self.stream {
                out.push_str("id: ");
                out.push_str(&stream.note(&one.text));
                out.push('\n');
            }
            out.push_str("event: message\ndata: ");
            out.push_str(&one.text);
            out.push_str("\n\n");
        }
        if self.reply.outbox.is_finished() {
            self.done = true;
            self.reply.answered = true;
            self.reply.connection.idles();
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.is_taken() {
            // What happens to the outbox is the other connection's affair.
            self.reply.outbox = Arc::new(Outbox::new(0));
            self.reply.outbox.end();
            self.reply.answered = true;
        } else if self.reply.connection.is_parking() {
            let (queue, mut head) = (std::mem::take(&mut self.queue), std::mem::take(&mut self.head));
            while let Some(event) = self.once_more() {
                head.push_str(&event);
            }
            self.reply.connection.keep_events(queue, head, self.stream.take());
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let events = match &mut *self {
            Body::Whole(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Events(events) => events,
        };
        if events.done || events.is_taken() {
            events.reply.connection.idles();
            return Poll::Ready(None);
        }
        if !events.head.is_empty() || !events.again.is_empty() {
            // At once: it says where to post, or where to go on.
            return Poll::Ready(Some(Ok(Frame::data(events.write()))));
        }
        let outbox = events.reply.outbox.clone();
        let more = match outbox.poll_take(cx, &mut events.queue) {
            Poll::Ready(more) => more,
            Poll::Pending if !events.queue.is_empty() => true,
            Poll::Pending => {
                if Pin::new(&mut events.heartbeat).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                events.heartbeat.set_after(HEARTBEAT);
                // The timer must be polled again to be armed.
                let _ = Pin::new(&mut events.heartbeat).poll(cx);
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(WAITING.as_bytes())))));
            }
        };
        if !more && events.queue.is_empty() {
            if outbox.overflowed() {
                events.reply.client.session.ctx.counters.count(Dropped::SlowClients);
            }
            // A client that does not read is as good as gone.
            events.reply.answered = !outbox.overflowed();
            events.done = true;
            events.reply.connection.idles();
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(events.write()))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_none(),
            Body::Events(events) => events.done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Events(_) => SizeHint::default(),
        }
    }
}
