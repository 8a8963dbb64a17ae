//! The hub's part of an upgrade in place: everything comes to rest, is written down, and goes on in the next program.
//!
//! What each thing has to say of itself is beside it (`rest.rs` of its module); here is the order, and the two tables
//! that keep together what belongs together: outboxes and sessions are named by several.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use futures_lite::FutureExt;

use super::Hub;
use super::call::Call;
use super::link::Link;
use super::outbox::Outbox;
use super::route;
use super::server::{Engine, Server};
use super::session::Session;
use crate::model::config::Config;
use crate::model::handover;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::wait::within;

/// The outcome, or None once everything is to come to rest.
pub async fn unless_frozen<T>(hub: &Hub, work: impl Future<Output = T>) -> Option<T> {
    let frozen = async {
        hub.freeze.wait().await;
        None
    };
    // In this order: what is there already is not put off.
    async { Some(work.await) }.or(frozen).await
}

/// Collects what is named by several.
#[derive(Default)]
pub struct Saver {
    outboxes: Vec<Arc<Outbox>>,
    /// Where each stands there, by its address.
    places: HashMap<*const Outbox, usize>,
    sessions: HashSet<u64>,
    /// Those that are noted and not written down yet.
    pending: Vec<Arc<Session>>,
}

impl Saver {
    /// The place of an outbox in the document.
    pub fn outbox(&mut self, outbox: &Arc<Outbox>) -> usize {
        *self.places.entry(Arc::as_ptr(outbox)).or_insert_with(|| {
            self.outboxes.push(outbox.clone());
            self.outboxes.len() - 1
        })
    }

    /// The number of a session, which will be in the document.
    pub fn session(&mut self, session: &Arc<Session>) -> u64 {
        if self.sessions.insert(session.number) {
            self.pending.push(session.clone());
        }
        session.number
    }

    pub fn call(&mut self, call: &Call) -> handover::Call {
        handover::Call {
            session: self.session(&call.session),
            reply: self.outbox(&call.reply),
            id: call.id.to_string(),
            token: call.token.as_ref().map(ToString::to_string),
            method: call.method,
            age: call.opened.elapsed().as_millis() as u64,
            subscribes: call.subscribes.as_ref().map(ToString::to_string),
            translated: call.translated.as_ref().map(ToString::to_string),
            opening: call.opening,
            logs: call.logs,
        }
    }

    /// Everything that was named, and what that names in turn.
    pub fn finish(mut self) -> (Vec<handover::Session>, Vec<handover::Outbox>) {
        let mut saved = Vec::new();
        while let Some(session) = self.pending.pop() {
            saved.push(session.save(&mut self));
        }
        // A part comes behind its whole, which was there first.
        saved.sort_unstable_by_key(|s| s.number);
        let outboxes = self.outboxes.iter().map(|o| o.save()).collect();
        (saved, outboxes)
    }
}

/// The other way.
#[derive(Default)]
pub struct Restored {
    outboxes: Vec<Arc<Outbox>>,
    sessions: HashMap<u64, Arc<Session>>,
}

impl Restored {
    /// An outbox by its place; one that nobody reads if there is none.
    pub fn outbox(&self, at: usize) -> Arc<Outbox> {
        self.outboxes.get(at).cloned().unwrap_or_else(|| Arc::new(Outbox::new(0)))
    }

    pub fn session(&self, number: u64) -> Option<Arc<Session>> {
        self.sessions.get(&number).cloned()
    }

    /// A request that is open, counted as such.
    pub fn call(&self, saved: handover::Call) -> Option<Call> {
        let session = self.session(saved.session)?;
        let mut call = session.reopen(saved.method, &saved.id, saved.token.as_deref(), &self.outbox(saved.reply));
        call.opened = Instant::now().checked_sub(Duration::from_millis(saved.age)).unwrap_or(call.opened);
        call.subscribes = saved.subscribes.map(Into::into);
        call.translated = saved.translated.map(Into::into);
        (call.opening, call.logs) = (saved.opening, saved.logs);
        Some(call)
    }
}

impl Hub {
    /// Every child there is.
    fn all_links(&self) -> Vec<Arc<Link>> {
        let links = self.links.lock();
        links.iter().filter_map(std::sync::Weak::upgrade).collect()
    }

    /// The marks of all children.
    pub fn marks(&self) -> Vec<String> {
        self.all_links().iter().map(|l| l.mark().to_owned()).collect()
    }

    /// Waits, once `freeze` is on, until everything rests that the hub has. What does not come to rest in time is on its
    /// way to its end, and is left behind.
    pub async fn come_to_rest(&self, limit: Duration) {
        let rest = async {
            for link in self.all_links() {
                link.rests().await;
            }
            for server in self.servers() {
                if let Engine::Exec(exec) = server.engine() {
                    exec.rests().await;
                }
            }
        };
        let _ = within(limit, rest).await;
    }

    /// Goes on in this process.
    pub fn go_on(self: &Arc<Self>) {
        self.freeze.turn(false);
        for link in self.all_links() {
            link.resume(self);
        }
        for server in self.servers() {
            if let Engine::Exec(exec) = server.engine() {
                exec.resume(self);
            }
        }
    }

    /// Everything of the servers; the sessions that they name are noted.
    pub fn save(&self, saver: &mut Saver) -> Vec<handover::Server> {
        self.all_links().iter().for_each(|link| link.give_up());
        for session in self.sessions.lock().values() {
            saver.session(session);
        }
        let servers = self.servers();
        for session in self.servers_and_bridge().iter().flat_map(|s| s.sessions()) {
            saver.session(&session);
        }
        servers.iter().map(|server| server.save(saver)).collect()
    }

    /// Numbers that must not be given twice: the last of a session, and of a mark.
    pub fn numbers(&self) -> (u64, u64) {
        (self.numbers.load(SeqCst), self.serials.load(SeqCst))
    }

    /// Goes on with what another program has written down, under the same configuration. Nothing of it moves before
    /// [`Hub::go_on`].
    pub fn restore(self: &Arc<Self>, config: &Config, saved: &mut handover::Handover) -> Restored {
        self.numbers.store(saved.sessions_so_far, SeqCst);
        self.serials.store(saved.marks_so_far, SeqCst);
        self.meters.load(&saved.methods, &saved.meter);
        self.counters.load(&saved.dropped);
        let outboxes = std::mem::take(&mut saved.outboxes).into_iter().map(|o| Arc::new(Outbox::restore(o)));
        let mut restored = Restored { outboxes: outboxes.collect(), ..Restored::default() };
        for (name, server) in &config.servers {
            let one = Server::new(name, server.clone(), self.clone());
            self.servers.lock().insert(name.clone(), one);
        }
        self.name_bridge();
        let mut own = Vec::new();
        let mut held = Vec::new();
        for mut one in std::mem::take(&mut saved.sessions) {
            let server = if one.bridge { self.bridge.get().cloned() } else { self.server(&one.server) };
            let Some(server) = server else { continue };
            own.push((one.number, one.own.take()));
            held.push((one.number, std::mem::take(&mut one.held)));
            let session = Session::restore(one, server.clone(), self.clone(), &restored);
            if session.kind.is_lasting() {
                self.session_count.fetch_add(1, SeqCst);
            }
            if session.kind.has_id() {
                let mut sessions = self.sessions.lock();
                sessions.insert(session.id.clone(), session.clone());
            }
            // A part hears of changes for its whole.
            if session.kind != SessionKind::Request || !session.listens().is_empty() || session.whole().is_some() {
                server.join(&session);
            }
            if let Some(push) = session.push_outbox().filter(|_| session.kind == SessionKind::Lasting(Transport::Http))
            {
                self.add_stream(&push);
            }
            restored.sessions.insert(session.number, session);
        }
        for one in std::mem::take(&mut saved.servers) {
            if let (Some(server), Some(config)) = (self.server(&one.name), config.servers.get(&one.name)) {
                server.restore(config.clone(), one, &restored);
            }
        }
        for (name, config) in &config.servers {
            // One that the program before did not know.
            if let Some(server) = self.server(name).filter(|s| matches!(s.engine(), Engine::None)) {
                super::reload::install(&server, config.clone(), None);
            }
        }
        for (number, own) in own {
            if let (Some(session), Some(own)) = (restored.session(number), own) {
                session.restore_own(own, &restored);
            }
        }
        for (number, held) in held {
            let Some(session) = restored.session(number) else { continue };
            for (call, text) in held {
                let later = restored.call(call).and_then(|call| route::again(call, &text));
                later.map(async_std::task::spawn);
            }
            route::listen_again(&session);
        }
        self.expire_sessions();
        restored
    }
}
