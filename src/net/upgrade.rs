//! The part of the listeners and connections in an upgrade in place.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use log::debug;

use super::conn::Conn;
use super::connection::Connection;
use super::front::Front;
use super::net::Net;
use super::parked::{How, Left, ParkedConnection, ParkedHttp, Parts};
use super::{serve, ws};
use crate::hub::{Restored, Saver};
use crate::model::asked::Asked;
use crate::model::config::{Admitted, Listen, known_principal};
use crate::model::handover::{self, Bytes};
use crate::model::out::Out;
use crate::model::transport::Transport;
use crate::rt::wait::{timeout, until};
use crate::sys::accounts::name_of;
use crate::sys::listen::{Socket, SocketFile};
use crate::sys::passed;

/// How long a WebSocket that could not be brought to rest has for its good-bye.
const GOOD_BYE: Duration = Duration::from_millis(500);

/// Who was admitted, as this version writes it.
fn known(who: Admitted) -> Arc<Admitted> {
    Arc::new(Admitted { name: known_principal(&who.name, name_of).into(), by: who.by })
}

impl Net {
    /// Waits until no connection is in anybody's hands but ours. False if that takes longer than `limit`.
    pub(crate) async fn quiesced(&self, limit: Duration) -> bool {
        let none = || (self.front.hub.ctx.connections.load(SeqCst) == 0).then_some(());
        timeout(limit, until(&self.front.closed, none)).await.is_some()
    }

    /// Like [`Net::quiesced`], but WebSockets that are in the middle of something are closed then, with a code that tells
    /// their clients to come again; whatever else is left has to be left behind. Gives how many there are of those.
    pub(crate) async fn quiesced_or_closed(&self, limit: Duration) -> u64 {
        if !self.quiesced(limit).await {
            self.front.hub.ctx.close_stragglers(true);
            self.quiesced(GOOD_BYE).await;
        }
        self.front.hub.ctx.connections.load(SeqCst)
    }

    /// Goes on in this process.
    pub(crate) fn go_on(self: &Arc<Self>) {
        self.front.hub.ctx.close_stragglers(false);
        for one in self.front.parked.take() {
            resume(&self.front, one);
        }
    }

    /// Where we listen.
    pub(crate) fn save_listeners(&self) -> Vec<handover::Listener> {
        let listeners = self.listeners.lock();
        let save = |at: &Listen, (fd, file)| handover::Listener { at: at.to_string(), fd, file };
        listeners.iter().map(|l| save(&l.at, l.listener.parts())).collect()
    }

    /// The connections at rest; what they name is noted.
    pub(crate) fn save_connections(&self, saver: &mut Saver) -> Vec<handover::Connection> {
        self.front.parked.look(|all| all.iter().filter_map(|one| save(one, saver)).collect())
    }

    /// Lets the connections of the program before go on.
    ///
    /// Sessions that were a connection end if that could not be kept.
    pub(crate) fn restore(self: &Arc<Self>, saved: Vec<handover::Connection>, restored: &Restored) {
        let mut kept = std::collections::HashSet::new();
        for one in saved {
            if let handover::How::WebSocket { session, .. } | handover::How::Answer { session, .. } = &one.how {
                kept.insert(*session);
            }
            let Some(fd) = passed::own_fd(one.fd) else { continue };
            if let Some(how) = restore(one.how, restored) {
                resume(
                    &self.front,
                    ParkedConnection { fd, is_unix: one.is_unix, who: one.who.map(known), early: one.early.0, how },
                );
            }
        }
        for client in self.front.hub.all_clients() {
            let session = &client.session;
            let bound = matches!(session.kind.transport(), Some(Transport::WebSocket | Transport::Sse));
            if bound && !kept.contains(&session.number) {
                self.front.hub.end_session(&client, "its connection could not be kept over an upgrade");
            }
        }
    }
}

/// Lets a connection go on.
fn resume(front: &Arc<Front>, parked: ParkedConnection) {
    let conn = match Conn::adopt(parked.fd, parked.is_unix, parked.early) {
        Ok(conn) => conn,
        Err(e) => return debug!("a connection cannot go on: {e}"),
    };
    front.hub.ctx.connections.fetch_add(1, SeqCst);
    let connection = Connection::new(front, conn.fd(), conn.remote_ip(), conn.heard(), conn.blocked());
    connection.knows(parked.who);
    match parked.how {
        How::Http(left) => serve::take_again(conn, connection, left),
        How::WebSocket { client, outbox, queue } => ws::resume(connection, conn, client, outbox, queue),
    }
}

/// The listening socket of the program before.
pub(crate) fn socket(saved: handover::Listener) -> Result<(Listen, Socket), String> {
    let at: Listen = saved.at.parse()?;
    let fd: OwnedFd = passed::own_fd(saved.fd).ok_or("its descriptor is not open")?;
    let socket = match passed::listener(fd)? {
        Socket::Unix(listener, _) => {
            Socket::Unix(listener, saved.file.map(|(path, dev, ino)| SocketFile::adopt(path, dev, ino)))
        }
        tcp => tcp,
    };
    Ok((at, socket))
}

fn save(one: &ParkedConnection, saver: &mut Saver) -> Option<handover::Connection> {
    let outs = |queue: &VecDeque<Out>| queue.iter().cloned().collect();
    let mut answer = |begun, asked: &Asked, left: &Left| {
        let parts = left.reply.as_ref()?;
        Some(handover::How::Answer {
            begun,
            asked: asked.clone(),
            session: saver.session(&parts.client.session),
            outbox: saver.outbox(&parts.outbox),
            answered: parts.answered,
            resumable: parts.resumable,
            queue: outs(&left.queue),
            head: left.head.clone(),
            stream: left.stream.as_ref().map(|(stream, _)| stream.number),
        })
    };
    let how = match &one.how {
        How::Http(ParkedHttp::Idle) => handover::How::Idle,
        How::Http(ParkedHttp::Waiting(asked, left)) => answer(false, asked, left)?,
        How::Http(ParkedHttp::Streaming(asked, left)) => answer(true, asked, left)?,
        How::WebSocket { client, outbox, queue } => handover::How::WebSocket {
            session: saver.session(&client.session),
            outbox: saver.outbox(outbox),
            queue: outs(queue),
        },
    };
    let early = Bytes(one.early.clone());
    let who = one.who.as_deref().cloned();
    Some(handover::Connection { fd: one.fd.as_raw_fd(), is_unix: one.is_unix, who, early, how })
}

fn restore(how: handover::How, restored: &Restored) -> Option<How> {
    let outs = VecDeque::<Out>::from;
    Some(match how {
        handover::How::Idle => How::Http(ParkedHttp::Idle),
        handover::How::WebSocket { session, outbox, queue } => {
            How::WebSocket { client: restored.client(session)?, outbox: restored.outbox(outbox), queue: outs(queue) }
        }
        handover::How::Answer { begun, asked, session, outbox, answered, resumable, queue, head, stream } => {
            let client = restored.client(session)?;
            let stream = stream.and_then(|n| client.session.replay().stream(n)).map(|s| (s, 0));
            let parts = Parts { client, outbox: restored.outbox(outbox), answered, resumable };
            let left = Left { reply: Some(parts), queue: outs(queue), head, stream };
            How::Http(if begun { ParkedHttp::Streaming(asked, left) } else { ParkedHttp::Waiting(asked, left) })
        }
    })
}
