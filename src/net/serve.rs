//! A connection from its first byte to its last, to its upgrade, or until it is at rest.
//!
//! The HTTP library has it from a request to its answer, and a moment longer. A connection that is idle, and a stream that
//! goes on, need none of the library's buffers: they are waited for here.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use log::debug;

use super::conn::Conn;
use super::connection::{Connection, Doing};
use super::front::Front;
use super::parked::ParkedHttp;
use super::wishes::Wishes;
use super::{http, late};
use crate::rt::task;
use crate::rt::timer::Timer;
use crate::sys::listen::Peer;

/// An idle connection is kept this long for its next request.
const IDLE: Duration = Duration::from_secs(75);

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
    /// There is a request, or the beginning of one.
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
    loop {
        // What is done is in a box, which is gone while the connection is idle.
        next = match next {
            Next::Idle => wait(&conn, &place).await,
            Next::Left(left) => Box::pin(go_on(&mut conn, &place, *left)).await,
            Next::Request => match Box::pin(answer(conn, &place, &ends)).await {
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

/// Waits for a request.
async fn wait(conn: &Conn, place: &Connection) -> Next {
    let (mut wishes, mut over) = (Wishes::of(place), Timer::after(IDLE));
    poll_fn(|cx| {
        let wish = wishes.poll(cx);
        if wish.revoked || wish.over {
            return Poll::Ready(Next::End);
        }
        if wish.rest {
            return Poll::Ready(Next::Park);
        }
        if conn.poll_readable(cx).is_ready() {
            return Poll::Ready(Next::Request);
        }
        // A request may have come that the reactor has not told of yet.
        if wish.drain {
            return Poll::Ready(if conn.has_something() { Next::Request } else { Next::End });
        }
        Pin::new(&mut over).poll(cx).map(|()| Next::End)
    })
    .await
}

/// Finishes what was left to do.
async fn go_on(conn: &mut Conn, place: &Arc<Connection>, left: ParkedHttp) -> Next {
    let (asked, left, begun) = match left {
        ParkedHttp::Idle => return Next::Idle,
        ParkedHttp::Waiting(asked, left) => (asked, left, false),
        ParkedHttp::Streaming(asked, left) => (asked, left, true),
    };
    let mut wishes = Wishes::of(place);
    let mut work = std::pin::pin!(late::finish(conn, place, &asked, left, begun));
    let next = poll_fn(|cx| {
        let wish = wishes.poll(cx);
        if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
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
    });
    next.await
}

/// Lets the HTTP library answer requests until the connection is quiet. Gives it back then, or None at its end.
async fn answer(conn: Conn, place: &Arc<Connection>, ends: &Ends) -> Option<(Conn, Next)> {
    let front = &place.front;
    let limits = front.hub.ctx.config().limits.clone();
    let (shared, asked, (local, peer)) = (front.clone(), place.clone(), ends.clone());
    let service = service_fn(move |request| http::serve(shared.clone(), asked.clone(), (local, peer.clone()), request));
    let machine = http1::Builder::new()
        // The time of a head is looked after below.
        .header_read_timeout(None)
        .max_header_size(limits.header.bytes())
        // A body is not copied, or what is kept of it would not be known.
        .writev(true)
        .serve_connection(conn, service)
        .with_upgrades();
    let (mut machine, mut wishes) = (machine, Wishes::of(place));
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
