//! Clients: listening, HTTP, WebSocket, and the pages about the instance.
//!
//! Knows sessions and outboxes of the hub. It must not know children.

pub mod admin;
pub mod auth;
pub mod body;
pub mod door;
pub mod frames;
pub mod handover;
pub mod http;
pub mod metrics;
pub mod origin;
pub mod page;
pub mod park;
pub mod seat;
pub mod sse;
pub mod stream;
pub mod streamable;
pub mod ws;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use std::time::{Duration, Instant};

use event_listener::Event;
use futures_lite::FutureExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use log::{debug, info, warn};
use smol_hyper::rt::FuturesIo;

use crate::hub::Dropped;
use crate::hub::Hub;
use crate::model::config::Listen;
use crate::model::exit::{Failure, plain};
use crate::rt::blocking::blocking;
use crate::rt::wait::{Flag, sleep, timeout, until};
use crate::sys::listen::Socket;
use crate::sys::lock::Lock;
use door::Door;
use park::Lot;
use seat::Seat;
use stream::{Conn, HeadTimer};

/// An idle connection is kept this long for its next request.
const IDLE: Duration = Duration::from_secs(75);

/// Why a connection is no longer polled.
enum End {
    Closed(Result<(), hyper::Error>),
    /// It is at rest, to go on in another process.
    AtRest,
}

/// Everything that faces clients.
pub struct Net {
    pub hub: Arc<Hub>,
    pub app: admin::App,
    listeners: Lock<Vec<Listener>>,
    closed: Event,
    /// Connections at rest.
    lot: Lot,
}

struct Listener {
    at: Listen,
    url: String,
    door: Arc<Door>,
    stop: Arc<Flag>,
}

impl Listener {
    /// Whoever is connected by now is still heard.
    fn close(&self) {
        self.stop.set();
        self.door.close();
    }
}

impl Net {
    pub fn new(hub: Arc<Hub>, admin: admin::Admin) -> Arc<Net> {
        Arc::new(Net {
            hub,
            app: admin::app(admin),
            listeners: Lock::default(),
            closed: Event::new(),
            lot: Lot::default(),
        })
    }

    /// Begins to accept on a socket.
    pub fn listen(self: &Arc<Self>, at: Listen, socket: Socket) -> io::Result<()> {
        let (url, stop) = (socket.url(), Arc::new(Flag::default()));
        info!("listening on {url}");
        let door = Arc::new(Door::new(socket)?);
        async_std::task::spawn(self.clone().accept(door.clone(), stop.clone()));
        self.listeners.lock().push(Listener { at, url, door, stop });
        Ok(())
    }

    /// Stops accepting at one address; connections live on.
    pub fn unlisten(&self, at: &Listen) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|l| {
            if l.at == *at {
                info!("no longer listening on {}", l.url);
                l.close();
            }
            l.at != *at
        });
    }

    /// Gives the file of a Unix socket another mode and owner; whoever is connected stays.
    pub fn touch(&self, old: &Listen, new: &Listen) -> Result<(), String> {
        let mut listeners = self.listeners.lock();
        let Listen::Unix(unix) = new else { return Ok(()) };
        for listener in listeners.iter_mut().filter(|l| l.at == *old) {
            listener.at = new.clone();
        }
        door::touch(unix).map_err(|why| format!("{new}: {why}"))
    }

    /// Opens the sockets of a new configuration while those of the old one are still open, and nothing if one of them
    /// cannot be. The addresses that are about to be closed are in nobody's way, also where they overlap.
    pub async fn open(&self, new: &[Listen], next: u16, closing: &[Listen]) -> Result<Vec<(Listen, Socket)>, Failure> {
        let leaving: Vec<_> = {
            let listeners = self.listeners.lock();
            listeners.iter().filter(|l| closing.contains(&l.at)).map(|l| l.door.clone()).collect()
        };
        let new = new.to_vec();
        // Names are looked up, and whoever holds a port is searched for: that takes its time.
        blocking(move || {
            let open = |at: &Listen| {
                let own: Vec<_> =
                    leaving.iter().filter(|door| door.port().is_some() && door.port() == at.port()).collect();
                own.iter().for_each(|door| door.share_port(true));
                let socket = door::open(at, next, !own.is_empty());
                own.iter().for_each(|door| door.share_port(false));
                Ok((at.clone(), socket?))
            };
            new.iter().map(open).collect()
        })
        .await
    }

    /// Where clients connect, as URLs.
    pub fn urls(&self) -> Vec<String> {
        self.listeners.lock().iter().map(|l| l.url.clone()).collect()
    }

    async fn accept(self: Arc<Self>, door: Arc<Door>, stop: Arc<Flag>) {
        let mut failing: Option<Instant> = None;
        loop {
            let stopped = async {
                stop.wait().await;
                None
            };
            let frozen = async {
                self.hub.ctx.quiesce.wait().await;
                None
            };
            let Some(accepted) = stopped.or(frozen).or(async { Some(door.accept().await) }).await else {
                if !stop.is_set() {
                    // Whoever comes waits in the queue of the kernel.
                    self.hub.ctx.quiesce.wait_off().await;
                    continue;
                }
                // Whoever is connected as the kernel sees it would get a reset: it is heard first.
                while let Some(conn) = door.waiting() {
                    self.admit(conn);
                }
                return;
            };
            match accepted {
                Ok(conn) => {
                    failing = None;
                    self.admit(conn);
                }
                // The peer gave up before we came to it, accept(2).
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected) => {}
                Err(e) => {
                    // EMFILE, ENFILE, ENOBUFS, ENOMEM: back off and go on; one line a minute.
                    self.hub.ctx.counters.count(Dropped::Accept);
                    if failing.is_none_or(|since| since.elapsed() > Duration::from_secs(60)) {
                        failing = Some(Instant::now());
                        warn!("cannot accept connections at the moment: {}", plain(&e));
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, conn: Conn) {
        let limit = u64::from(self.hub.ctx.config().limits.connections);
        if self.hub.ctx.connections.fetch_add(1, SeqCst) >= limit {
            self.hub.ctx.connections.fetch_sub(1, SeqCst);
            self.hub.ctx.counters.count(Dropped::Connections);
            conn.refuse(
                "HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 52\r\n\r\n\
                 too many connections (limits.connections), try later",
            );
            return;
        }
        self.take(conn);
    }

    /// Serves a connection that is counted.
    fn take(self: &Arc<Self>, conn: Conn) {
        let seat = Seat::new(self, conn.fd(), conn.heard(), conn.blocked());
        async_std::task::spawn(self.clone().serve(conn, seat));
    }

    /// One connection, from its first byte to its last or to its upgrade.
    async fn serve(self: Arc<Self>, conn: Conn, seat: Arc<Seat>) {
        let limits = self.hub.ctx.config().limits.clone();
        let (local, peer) = (conn.local_ip(), conn.peer().map(Arc::new));
        let timer = HeadTimer { heard: conn.heard(), head: limits.header_timeout };
        let (net, place, is_unix) = (self.clone(), seat.clone(), conn.is_unix());
        let service =
            service_fn(move |request| http::serve(net.clone(), place.clone(), (local, peer.clone()), request));
        let connection = http1::Builder::new()
            .timer(timer)
            .header_read_timeout(IDLE)
            .max_header_size(limits.header.bytes())
            .serve_connection(FuturesIo::new(conn), service)
            .with_upgrades();
        let mut connection = Box::pin(connection);
        let drain = async {
            self.hub.ctx.draining.wait().await;
        };
        let cut = async {
            self.hub.ctx.end_drain.wait().await;
            // Time for the errors that end what is still open.
            sleep(Duration::from_secs(1)).await;
        };
        let (mut drain, mut cut) = (std::pin::pin!(drain), std::pin::pin!(cut));
        let (mut draining, mut freeze) = (false, self.hub.ctx.quiesce.watch());
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
            if freeze.poll(cx) && seat.is_at_rest() {
                return Poll::Ready(End::AtRest);
            }
            Poll::Pending
        })
        .await;
        match end {
            End::Closed(Err(e)) => debug!("a connection ended: {e}"),
            End::Closed(Ok(())) => {}
            // What the library has read beyond the request is of the next one.
            End::AtRest => self.park(&seat, is_unix, move || {
                let parts = Pin::into_inner(connection).into_parts();
                parts.map(|p| p.read_buf.to_vec()).unwrap_or_default()
            }),
        }
    }

    /// Stops accepting everywhere.
    pub fn close_listeners(&self) {
        let mut listeners = self.listeners.lock();
        for listener in listeners.drain(..) {
            listener.close();
        }
    }

    /// Waits until the last connection is closed, or the time is over. True when none is left.
    pub async fn drained(&self, limit: Duration) -> bool {
        let none = || (self.hub.ctx.connections.load(SeqCst) == 0).then_some(());
        timeout(limit, until(&self.closed, none)).await.is_some()
    }
}
