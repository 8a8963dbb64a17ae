//! Clients: listening, HTTP, WebSocket, and the pages about the instance.
//!
//! Knows sessions and outboxes of the hub. It must not know children.

pub mod admin;
pub mod body;
pub mod http;
pub mod origin;
pub mod stream;
pub mod ws;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_io::Async;
use event_listener::Event;
use futures_lite::FutureExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use log::{debug, info, warn};
use smol_hyper::rt::FuturesIo;

use crate::hub::Hub;
use crate::hub::counters::Dropped;
use crate::hub::wait::{Flag, sleep, until, within};
use crate::model::config::Listen;
use crate::model::exit::plain;
use crate::sys::listen::Socket;
use stream::{Conn, HeadTimer};

/// An idle connection is kept this long for its next request.
const IDLE: Duration = Duration::from_secs(75);

/// Everything that faces clients.
pub struct Net {
    pub hub: Arc<Hub>,
    pub app: admin::App,
    listeners: Mutex<Vec<Listener>>,
    closed: Event,
}

struct Listener {
    at: Listen,
    url: String,
    stop: Arc<Flag>,
}

/// A listening socket on the reactor.
enum Door {
    Tcp(Async<TcpListener>),
    Unix(Async<UnixListener>),
}

impl Door {
    /// A connection that waits already.
    fn waiting(&self) -> Option<Conn> {
        match self {
            Door::Tcp(listener) => {
                let (stream, _) = listener.get_ref().accept().ok()?;
                Conn::tcp(Async::new(stream).ok()?).ok()
            }
            Door::Unix(listener) => {
                let (stream, _) = listener.get_ref().accept().ok()?;
                Some(Conn::unix(Async::new(stream).ok()?))
            }
        }
    }

    async fn accept(&self) -> io::Result<Conn> {
        match self {
            Door::Tcp(listener) => Conn::tcp(listener.accept().await?.0),
            Door::Unix(listener) => Ok(Conn::unix(listener.accept().await?.0)),
        }
    }
}

/// A connection as long as it lives, also as a WebSocket.
pub struct Tracked(Arc<Net>);

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.hub.connections.fetch_sub(1, SeqCst);
        self.0.closed.notify(usize::MAX);
    }
}

impl Net {
    pub fn new(hub: Arc<Hub>, admin: admin::Admin) -> Arc<Net> {
        Arc::new(Net { hub, app: admin::app(admin), listeners: Mutex::default(), closed: Event::new() })
    }

    /// Begins to accept on a socket.
    pub fn listen(self: &Arc<Self>, at: Listen, socket: Socket) -> io::Result<()> {
        let (url, stop) = (socket.url(), Arc::new(Flag::default()));
        info!("listening on {url}");
        let door = match socket {
            Socket::Tcp(listener) => Door::Tcp(Async::new(listener)?),
            Socket::Unix(listener) => Door::Unix(Async::new(listener)?),
        };
        async_std::task::spawn(self.clone().accept(door, stop.clone()));
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Listener { at, url, stop });
        Ok(())
    }

    /// Stops accepting at one address; connections live on.
    pub fn unlisten(&self, at: &Listen) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|l| {
            if l.at == *at {
                info!("no longer listening on {}", l.url);
                l.stop.set();
                remove_socket(&l.at);
            }
            l.at != *at
        });
    }

    /// Where clients connect, as URLs.
    pub fn urls(&self) -> Vec<String> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|l| l.url.clone()).collect()
    }

    async fn accept(self: Arc<Self>, door: Door, stop: Arc<Flag>) {
        let mut failing: Option<Instant> = None;
        loop {
            let stopped = async {
                stop.wait().await;
                None
            };
            let Some(accepted) = stopped.or(async { Some(door.accept().await) }).await else {
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
                    self.hub.counters.count(Dropped::Accept);
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
        let limit = u64::from(self.hub.config().limits.connections);
        if self.hub.connections.fetch_add(1, SeqCst) >= limit {
            self.hub.connections.fetch_sub(1, SeqCst);
            self.hub.counters.count(Dropped::Connections);
            conn.refuse(
                "HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 52\r\n\r\n\
                 too many connections (limits.connections), try later",
            );
            return;
        }
        let tracked = Arc::new(Tracked(self.clone()));
        async_std::task::spawn(self.clone().serve(conn, tracked));
    }

    /// One connection, from its first byte to its last or to its upgrade.
    async fn serve(self: Arc<Self>, conn: Conn, tracked: Arc<Tracked>) {
        let limits = self.hub.config().limits.clone();
        let local = conn.local_ip();
        let timer = HeadTimer { heard: conn.heard(), head: limits.header_timeout };
        let (net, track) = (self.clone(), tracked.clone());
        let service = service_fn(move |request| http::serve(net.clone(), track.clone(), local, request));
        let connection = http1::Builder::new()
            .timer(timer)
            .header_read_timeout(IDLE)
            .max_header_size(limits.header.bytes())
            .serve_connection(FuturesIo::new(conn), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let drain = async {
            self.hub.draining.wait().await;
            None
        };
        let outcome = async { Some(connection.as_mut().await) }.or(drain).await;
        let outcome = match outcome {
            Some(outcome) => Some(outcome),
            None => {
                // What is in flight is finished, then the connection closes; an idle one closes at once.
                connection.as_mut().graceful_shutdown();
                let cut = async {
                    self.hub.hurry.wait().await;
                    // Time for the errors that end what is still open.
                    sleep(Duration::from_secs(1)).await;
                    None
                };
                async { Some(connection.as_mut().await) }.or(cut).await
            }
        };
        if let Some(Err(e)) = outcome {
            debug!("a connection ended: {e}");
        }
        drop(tracked);
    }

    /// Stops accepting everywhere.
    pub fn close_listeners(&self) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.drain(..) {
            listener.stop.set();
            remove_socket(&listener.at);
        }
    }

    /// Waits until the last connection is closed, or the time is over. True when none is left.
    pub async fn drained(&self, limit: Duration) -> bool {
        let none = || (self.hub.connections.load(SeqCst) == 0).then_some(());
        within(limit, until(&self.closed, none)).await.is_some()
    }
}

/// The file of a Unix socket goes with its listener.
fn remove_socket(at: &Listen) {
    if let Listen::Unix(path) = at {
        let _ = std::fs::remove_file(path);
    }
}
