//! Everything that faces clients: where we listen, and the connections that come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use event_listener::Event;
use futures_lite::FutureExt;
use log::{info, warn};

use super::admin;
use super::admit::admit;
use super::door::Door;
use super::front::Front;
use super::listener::{self, Listener};
use super::pages::Admin;
use super::parked::Parked;
use crate::hub::{Dropped, Hub};
use crate::model::config::Listen;
use crate::model::exit::{Failure, plain};
use crate::rt::blocking::blocking;
use crate::rt::task;
use crate::rt::wait::{Flag, sleep, timeout, until};
use crate::sys::listen::Socket;
use crate::sys::lock::Lock;

/// Everything that faces clients.
pub(crate) struct Net {
    pub(super) front: Arc<Front>,
    pub(super) listeners: Lock<Vec<Listening>>,
}

/// An address that we listen at.
pub(super) struct Listening {
    pub(super) at: Listen,
    url: String,
    pub(super) listener: Arc<Listener>,
    stop: Arc<Flag>,
}

impl Listening {
    /// Clients that are connected by now are still heard.
    fn close(&self) {
        self.stop.set();
        self.listener.close();
    }
}

impl Net {
    pub(crate) fn new(hub: Arc<Hub>, admin: Admin) -> Arc<Net> {
        let front = Front {
            hub,
            app: admin::app(admin),
            closed: Event::new(),
            door: Door::default(),
            refusals: Lock::default(),
            refused: Default::default(),
            strangers: Lock::default(),
            odd_tokens: Lock::default(),
            parked: Parked::default(),
        };
        Arc::new(Net { front: Arc::new(front), listeners: Lock::default() })
    }

    /// Begins to accept on a socket.
    pub(crate) fn listen(self: &Arc<Self>, at: Listen, socket: Socket) -> io::Result<()> {
        let (url, stop) = (socket.url(), Arc::new(Flag::default()));
        info!("listening on {url}");
        let listener = Arc::new(Listener::new(socket)?);
        task::spawn(self.clone().accept(listener.clone(), stop.clone()));
        self.listeners.lock().push(Listening { at, url, listener, stop });
        Ok(())
    }

    /// Stops accepting at one address; connections live on.
    pub(crate) fn unlisten(&self, at: &Listen) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|l| {
            if l.at == *at {
                info!("no longer listening on {}", l.url);
                l.close();
            }
            l.at != *at
        });
    }

    /// Gives the file of a Unix socket another mode and owner; clients that are connected stay.
    pub(crate) fn touch(&self, old: &Listen, new: &Listen) -> Result<(), String> {
        let mut listeners = self.listeners.lock();
        let Listen::Unix(unix) = new else { return Ok(()) };
        for one in listeners.iter_mut().filter(|l| l.at == *old) {
            one.at = new.clone();
        }
        listener::touch(unix).map_err(|why| format!("{new}: {why}"))
    }

    /// Opens the sockets of a new configuration while those of the old one are still open, and nothing if one of them
    /// cannot be. The addresses that are about to be closed are in no address's way, also where they overlap.
    pub(crate) async fn open(
        &self,
        new: &[Listen],
        next: u16,
        closing: &[Listen],
    ) -> Result<Vec<(Listen, Socket)>, Failure> {
        let leaving: Vec<_> = {
            let listeners = self.listeners.lock();
            listeners.iter().filter(|l| closing.contains(&l.at)).map(|l| l.listener.clone()).collect()
        };
        let new = new.to_vec();
        // Names are looked up, and the process that holds a port is searched for: that takes its time.
        blocking(move || {
            let open = |at: &Listen| {
                let own: Vec<_> =
                    leaving.iter().filter(|one| one.port().is_some() && one.port() == at.port()).collect();
                own.iter().for_each(|one| one.share_port(true));
                let socket = listener::open(at, next, !own.is_empty());
                own.iter().for_each(|one| one.share_port(false));
                socket.map(|all| all.into_iter().map(|socket| (at.clone(), socket)).collect::<Vec<_>>())
            };
            new.iter().map(open).collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().flatten().collect())
        })
        .await
    }

    /// Where clients connect, as URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.listeners.lock().iter().map(|l| l.url.clone()).collect()
    }

    async fn accept(self: Arc<Self>, listener: Arc<Listener>, stop: Arc<Flag>) {
        let mut said: Option<Instant> = None;
        loop {
            let stopped = async {
                stop.wait().await;
                None
            };
            let frozen = async {
                self.front.hub.ctx.quiesce.wait().await;
                None
            };
            let Some(accepted) = stopped.or(frozen).or(async { Some(listener.accept().await) }).await else {
                if !stop.is_set() {
                    // Clients that come wait in the queue of the kernel.
                    self.front.hub.ctx.quiesce.wait_off().await;
                    continue;
                }
                // A client that is connected as the kernel sees it would get a reset: it is heard first.
                while let Some(conn) = listener.waiting() {
                    admit(&self.front, conn);
                }
                return;
            };
            match accepted {
                Ok(conn) => admit(&self.front, conn),
                // The peer gave up before we came to it, accept(2).
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected) => {}
                Err(e) => {
                    // EMFILE, ENFILE, ENOBUFS, ENOMEM: back off and go on; one line a minute.
                    self.front.hub.ctx.counters.count(Dropped::Accept);
                    if said.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
                        said = Some(Instant::now());
                        warn!("cannot accept connections at the moment: {}", plain(&e));
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Stops accepting everywhere.
    pub(crate) fn close_listeners(&self) {
        let mut listeners = self.listeners.lock();
        for one in listeners.drain(..) {
            one.close();
        }
    }

    /// Waits until the last connection is closed, or the time is over. True when none is left.
    pub(crate) async fn drained(&self, limit: Duration) -> bool {
        let none = || (self.front.hub.ctx.connections.load(SeqCst) == 0).then_some(());
        timeout(limit, until(&self.front.closed, none)).await.is_some()
    }
}
