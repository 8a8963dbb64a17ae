//! A connection from its first byte to its last, to its upgrade, or until it is at rest.
//!
//! A plain request is answered here ([`plain`]). The HTTP library has a connection for every other one, to its answer and a
//! moment longer. A connection that is idle, and a stream that goes on, need none of the library's buffers either.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use log::debug;

use super::conn::Conn;
use super::connection::{Connection, Doing};
use super::front::Front;
use super::parked::ParkedHttp;
use super::request::Asking;
use super::wishes::Wishes;
use super::writer::give;
use super::{http, late, plain};
use crate::rt::task;
use crate::rt::timer::Timer;
use crate::rt::wait::recent;
use crate::sys::listen::Peer;

/// The HTTP library has a quiet connection for so long, and less than twice as long.
const QUIET: Duration = Duration::from_millis(100);

/// Serves a connection that is counted.
pub(super) fn take(front: &Arc<Front>, conn: Conn) {
    let connection = Connection::new(front, conn.fd(), conn.remote_ip(), conn.heard(), conn.blocked());
    take_again(conn, connection, ParkedHttp::Idle);
}

/// Serves a connection that has its place already, and goes on with what is left to do on it.
pub(super) fn take_again(conn: Conn, connection: Arc<Connection>, left: ParkedHttp) {
    task::spawn(serve(conn, connection, left));
}

/// What comes next.
enum Next {
    /// It waits for a request.
    Idle,
    /// A plain request has come.
    Plain(Box<Asking>),
    /// There is a request of another kind, or the beginning of one.
    Request,
    /// Something is left to do on it.
    Left(Box<ParkedHttp>),
    /// It goes on in another process.
    Park,
    End,
}

impl From<ParkedHttp> for Next {
    fn from(left: ParkedHttp) -> Next {
        match left {
            ParkedHttp::Idle => Next::Idle,
            left => Next::Left(Box::new(left)),
        }
    }
}

/// The addresses and names of both ends: our address, and who the kernel says is at the other one.
type Ends = (Option<IpAddr>, Option<Arc<Peer>>);

async fn serve(conn: Conn, place: Arc<Connection>, left: ParkedHttp) {
    let ends: Ends = (conn.local_ip(), conn.peer().map(Arc::new));
    let (mut conn, mut next) = (conn, Next::from(left));
    let (mut wishes, mut idle) = (Wishes::of(&place), Idle::new(&place));
    loop {
        // What is done is in a box, which is gone while the connection is idle.
        next = match next {
            Next::Idle => wait(&mut conn, &place, &mut wishes, &mut idle).await,
            Next::Plain(request) => {
                attend(&place, &mut wishes, Box::pin(answer_plain(&mut conn, &place, &ends, request))).await
            }
            Next::Left(left) => attend(&place, &mut wishes, Box::pin(go_on(&mut conn, &place, left))).await,
            Next::Request => match Box::pin(answer(conn, &place, &ends, &mut wishes)).await {
                Some((back, next)) => {
                    conn = back;
                    next
                }
                None => return,
            },
            Next::Park => return place.park(conn),
            Next::End => return place.is_over(),
        };
    }
}

/// How long a connection has waited for a request. Its timer runs on over requests, and is looked at when it is over.
struct Idle {
    since: Instant,
    timer: Timer,
}

impl Idle {
    fn new(place: &Connection) -> Idle {
        Idle { since: recent(), timer: Timer::after(Idle::longest(place)) }
    }

    fn longest(place: &Connection) -> Duration {
        place.front.hub.ctx.config().limits.idle_connection
    }

    fn begin(&mut self) {
        self.since = recent();
    }

    fn poll(&mut self, cx: &mut Context<'_>, place: &Connection) -> Poll<()> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let end = self.since + Idle::longest(place);
            if recent() >= end {
                return Poll::Ready(());
            }
            self.timer.set_at(end);
        }
        Poll::Pending
    }
}

/// Waits for a request.
async fn wait(conn: &mut Conn, place: &Connection, wishes: &mut Wishes<'_>, idle: &mut Idle) -> Next {
    idle.begin();
    poll_fn(|cx| {
        let wish = wishes.poll(cx);
        if wish.revoked || wish.over {
            return Poll::Ready(Next::End);
        }
        if wish.rest {
            return Poll::Ready(Next::Park);
        }
        let most = || place.front.hub.ctx.config().limits.header.bytes();
        let look = |bytes: &[u8]| match plain::request(bytes, most()) {
            Some((request, length)) => (length, Next::Plain(Box::new(request))),
            None => (0, Next::Request),
        };
        match conn.poll_look(cx, look) {
            Poll::Ready(found) => return Poll::Ready(found.unwrap_or(Next::End)),
            Poll::Pending if !wish.drain => {}
            // A request may have come that the reactor has not told of yet.
            Poll::Pending => return Poll::Ready(if conn.has_something() { Next::Request } else { Next::End }),
        }
        idle.poll(cx, place).map(|()| Next::End)
    })
    .await
}

/// Answers a plain request.
async fn answer_plain(conn: &mut Conn, place: &Arc<Connection>, ends: &Ends, request: Box<Asking>) -> io::Result<bool> {
    let mut work = http::serve(&place.front, place, ends, *request);
    let Some(Ok(response)) = conn.unless_gone(&mut work).await else { return Ok(false) };
    let goes_on = give(conn, place, response, true, true).await?;
    place.idles();
    Ok(goes_on)
}

/// Finishes what was left to do.
async fn go_on(conn: &mut Conn, place: &Arc<Connection>, left: Box<ParkedHttp>) -> io::Result<bool> {
    match *left {
        ParkedHttp::Idle => Ok(true),
        ParkedHttp::Waiting(asked, left) => late::finish(conn, place, &asked, left, false).await,
        ParkedHttp::Streaming(asked, left) => late::finish(conn, place, &asked, left, true).await,
    }
}

/// Lets work on a connection come to its end, or to rest, as the instance wants it. The work says whether the connection is
/// good for another request.
async fn attend(
    place: &Arc<Connection>,
    wishes: &mut Wishes<'_>,
    mut work: impl Future<Output = io::Result<bool>> + Unpin,
) -> Next {
    poll_fn(|cx| {
        let wish = wishes.poll(cx);
        if let Poll::Ready(outcome) = Pin::new(&mut work).poll(cx) {
            let good = outcome.is_ok_and(|good| good);
            return Poll::Ready(if good { Next::Idle } else { Next::End });
        }
        if wish.over || wish.revoked {
            return Poll::Ready(Next::End);
        }
        if !wish.rest || !place.is_quiescent() {
            return Poll::Pending;
        }
        // What is dropped from now on is kept.
        place.begin_parking();
        Poll::Ready(Next::Park)
    })
    .await
}

/// Lets the HTTP library answer requests until the connection is quiet. Gives it back then, or None at its end.
async fn answer(conn: Conn, place: &Arc<Connection>, ends: &Ends, wishes: &mut Wishes<'_>) -> Option<(Conn, Next)> {
    let front = &place.front;
    let limits = front.hub.ctx.config().limits.clone();
    let (asked, ends) = (place.clone(), ends.clone());
    let service =
        service_fn(move |request: Request<Incoming>| http::serve(&asked.front, &asked, &ends, request.into()));
    let mut machine = http1::Builder::new()
        // The time of a head is looked after below.
        .header_read_timeout(None)
        .max_header_size(limits.header.bytes())
        // A body is not copied, or what is kept of it would not be known.
        .writev(true)
        .serve_connection(conn, service)
        .with_upgrades();
    let (mut draining, mut head, mut look, mut seen) = (false, None, Timer::after(QUIET), None);
    let ended = poll_fn(|cx| {
        let wish = wishes.poll(cx);
        let mut over = Pin::new(&mut machine).poll(cx);
        if wish.drain && !draining && over.is_pending() {
            // What is in flight is finished, then the connection closes; an idle one closes at once.
            draining = true;
            Pin::new(&mut machine).graceful_shutdown();
            over = Pin::new(&mut machine).poll(cx);
        }
        if let Poll::Ready(outcome) = over {
            return Poll::Ready(Some(outcome));
        }
        if wish.over || wish.revoked {
            return Poll::Ready(Some(Ok(())));
        }
        let doing = place.doing();
        if let Doing::Head = doing {
            let head = head.get_or_insert_with(|| Timer::after(limits.header_timeout));
            if Pin::new(head).poll(cx).is_ready() {
                return Poll::Ready(Some(Ok(())));
            }
        } else {
            head = None;
        }
        if wish.rest && place.is_quiescent() {
            return Poll::Ready(None);
        }
        while Pin::new(&mut look).poll(cx).is_ready() {
            match doing {
                Doing::Nothing(heard) if seen == Some(heard) && !draining => return Poll::Ready(None),
                Doing::Nothing(heard) => seen = Some(heard),
                Doing::Head | Doing::Something => seen = None,
            }
            look.set_after(QUIET);
        }
        Poll::Pending
    })
    .await;
    if let Some(outcome) = ended {
        place.is_over();
        outcome.unwrap_or_else(|e| debug!("a connection ended: {e}"));
        return None;
    }
    front.hub.ctx.settle();
    // What is dropped with the library is kept.
    place.begin_parking();
    let parts = machine.into_parts()?;
    let mut conn = parts.io;
    // What was read beyond the request is of the next one.
    conn.give_back(&parts.read_buf);
    if front.hub.ctx.quiesce.is_on() {
        return Some((conn, Next::Park));
    }
    Some((conn, place.unparked().map_or(Next::End, Next::from)))
}
