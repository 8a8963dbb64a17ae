//! Response bodies: one piece, or server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Timer;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::hub::counters::Dropped;
use crate::hub::outbox::{Out, Outbox};
use crate::hub::route;
use crate::hub::session::{Session, StreamGuard};

/// A quiet stream says something this often: proxies cut connections that are silent for 60 to 125 s.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// The body of a response.
pub enum Body {
    Whole(Option<Bytes>),
    Events(Box<Events>),
}

impl Body {
    pub fn empty() -> Body {
        Body::Whole(None)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::Whole(Some(Bytes::from(text)))
    }
}

/// The messages of an outbox as server-sent events. A stream that answers a POST ends with the answer.
pub struct Events {
    pub reply: Reply,
    queue: VecDeque<Out>,
    answers: bool,
    done: bool,
    heartbeat: Timer,
    _stream: StreamGuard,
}

/// The way back for one request or one GET stream; dropping it tells the hub that nobody reads there any more.
pub struct Reply {
    pub session: Arc<Session>,
    pub outbox: Arc<Outbox>,
    /// The answer has been taken from it, or none is due.
    pub answered: bool,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.outbox.close();
        if !self.answered {
            route::abandoned(&self.session, &self.outbox);
        }
    }
}

impl Events {
    /// A stream that begins with what was taken from the outbox already.
    pub fn new(reply: Reply, first: Option<Out>, answers: bool) -> Events {
        let stream = reply.session.stream();
        Events {
            reply,
            queue: first.into_iter().collect(),
            answers,
            done: false,
            heartbeat: Timer::after(HEARTBEAT),
            _stream: stream,
        }
    }

    fn write(&mut self) -> Bytes {
        let mut out = String::with_capacity(self.queue.iter().map(|o| o.text.len() + 32).sum());
        for one in self.queue.drain(..) {
            out.push_str("event: message\ndata: ");
            out.push_str(&one.text);
            out.push_str("\n\n");
            if one.answer && self.answers {
                self.done = true;
                self.reply.answered = true;
            }
        }
        self.heartbeat.set_after(HEARTBEAT);
        Bytes::from(out)
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
        if events.done {
            return Poll::Ready(None);
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
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": still here\n\n")))));
            }
        };
        if !more && events.queue.is_empty() {
            if outbox.overflowed() {
                events.reply.session.hub.counters.count(Dropped::SlowClients);
            }
            events.reply.answered = true;
            events.done = true;
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
