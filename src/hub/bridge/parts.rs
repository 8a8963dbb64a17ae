//! The parts of a session of the bridge: one ordinary session at each server that it uses, which leads to its client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::TOLD;
use super::lists::{Bridge, Known};
use crate::hub::Hub;
use crate::hub::counters::Dropped;
use crate::hub::listen::Change;
use crate::hub::server::{Engine, Server};
use crate::hub::session::Session;
use crate::model::bridge;
use crate::model::config::Kind;
use crate::model::envelope::{self, member, quote, spliced};
use crate::model::text::count;
use crate::model::transport::SessionKind;
use crate::model::{jsonrpc, modern};
use crate::rt::wait::sleep;
use crate::sys::lock::{Guard, Lock};

/// Changes of lists that come within this time are told as one: a reload concerns many servers at once.
const TOGETHER: Duration = Duration::from_millis(50);
/// The most that is kept of what a client says of itself in its handshake, in bytes.
const HELLO: usize = 64 << 10;

/// What only a session of the bridge has.
#[derive(Default)]
pub struct Whole {
    /// What it has at each server, by name.
    parts: Lock<BTreeMap<String, Arc<Session>>>,
    /// Lists that have changed, and its client is about to be told.
    changes: Lock<BTreeSet<&'static str>>,
    /// The params of its client's handshake, as far as servers want to know them.
    hello: OnceLock<Box<str>>,
    /// What children of its own have said that they have.
    lists: Lock<Known>,
    /// Resources that it subscribes to under another URI than their server has: server and URI there, and the other.
    aliases: Lock<BTreeMap<(String, String), String>>,
}

fn lock<T>(of: &Lock<T>) -> Guard<'_, T> {
    of.lock()
}

impl Whole {
    pub fn note_hello(&self, params: &str) {
        let keep = |key: &&str| member(params, key).map(|value| format!("\"{key}\":{value}"));
        let kept: Vec<String> = ["protocolVersion", "capabilities", "clientInfo"].iter().filter_map(keep).collect();
        let kept = format!("{{{}}}", kept.join(","));
        if kept.len() <= HELLO {
            self.restore_hello(&kept);
        }
    }

    pub fn restore_hello(&self, params: &str) {
        let _ = self.hello.set(params.into());
    }

    pub fn hello(&self) -> Option<&str> {
        self.hello.get().map(|h| &**h)
    }

    pub(super) fn lists(&self) -> Guard<'_, Known> {
        lock(&self.lists)
    }

    pub fn note_alias(&self, server: &str, own: &str, public: &str) {
        let mut aliases = lock(&self.aliases);
        if own != public && aliases.len() < 1000 {
            aliases.insert((server.to_owned(), own.to_owned()), public.to_owned());
        }
    }

    pub fn aliases(&self) -> Vec<(String, String, String)> {
        lock(&self.aliases)
            .iter()
            .map(|((server, own), public)| (server.clone(), own.clone(), public.clone()))
            .collect()
    }

    /// What its client calls a resource that it subscribes to.
    pub fn public_uri(&self, server: &str, own: &str) -> String {
        let key = (server.to_owned(), own.to_owned());
        lock(&self.aliases).get(&key).cloned().unwrap_or(key.1)
    }

    /// Notes a part of the program before.
    pub fn adopt(&self, part: &Arc<Session>) {
        lock(&self.parts).insert(part.server.name.clone(), part.clone());
    }
}

impl Session {
    /// The bridge, if it is a session of that.
    pub(in crate::hub) fn bridge(&self) -> Option<Arc<Bridge>> {
        // Each message of each session asks this: what is no bridge is known without a lock.
        self.hub.bridge.get().filter(|server| Arc::ptr_eq(server, &self.server))?;
        match self.server.engine() {
            Engine::Bridge(bridge) => Some(bridge),
            _ => None,
        }
    }

    /// Its parts so far.
    pub(in crate::hub) fn parts(&self) -> Vec<Arc<Session>> {
        self.known_whole().map(|w| lock(&w.parts).values().cloned().collect()).unwrap_or_default()
    }

    /// Its parts, which it has no more.
    pub(in crate::hub) fn take_parts(&self) -> Vec<Arc<Session>> {
        self.known_whole().map(|w| std::mem::take(&mut *lock(&w.parts)).into_values().collect()).unwrap_or_default()
    }

    /// It lasts, and is of the era in which servers may have a child for each session.
    pub(in crate::hub) fn has_children_of_its_own(&self) -> bool {
        self.kind != SessionKind::Request && !self.is_modern()
    }

    /// Its part at a server, opened where there is none. The error says which limit is reached.
    pub(in crate::hub) fn part(self: &Arc<Self>, server: &Arc<Server>) -> Result<Arc<Session>, String> {
        let mut parts = lock(&self.bridged().parts);
        // Whatever was asked for it may end later than itself.
        if self.is_ended() {
            return Err("the session has ended".to_owned());
        }
        let fits =
            |p: &&Arc<Session>| !p.is_ended() && Arc::ptr_eq(&p.server, server) && p.is_modern() == self.is_modern();
        if let Some(part) = parts.get(&server.name).filter(fits) {
            return Ok(part.clone());
        }
        let part = self.hub.open_part(self, server)?;
        let before = parts.insert(server.name.clone(), part.clone());
        drop(parts);
        if let Some(before) = before {
            self.hub.end_session(&before, "its client goes on in another way");
        }
        Ok(part)
    }

    /// Opens parts wherever that costs nothing, so that it hears of changes there.
    pub(in crate::hub) fn attach_all(self: &Arc<Self>) {
        let costs = |server: &Server| match server.engine() {
            Engine::Children(children) => children.nest.is_some() && self.has_children_of_its_own(),
            _ => true,
        };
        for server in self.hub.servers().iter().filter(|s| !costs(s)) {
            let _ = self.part(server);
        }
    }

    /// A list of some server is another: the client hears of it soon, and of several as one.
    pub(in crate::hub) fn note_change(self: &Arc<Self>, list: &'static str) {
        let first = {
            let mut changes = lock(&self.bridged().changes);
            let first = changes.is_empty();
            changes.insert(list);
            first
        };
        if !first {
            return;
        }
        let session = Arc::downgrade(self);
        async_std::task::spawn(async move {
            sleep(TOGETHER).await;
            let Some(session) = session.upgrade().filter(|s| !s.is_ended()) else { return };
            let changes = std::mem::take(&mut *lock(&session.bridged().changes));
            for list in changes {
                let text = jsonrpc::notification(&format!("notifications/{list}/list_changed"), None);
                session.tell(&Change::List { list, text: &text });
            }
        });
    }

    /// A server has told a part of this session that something is another.
    pub(in crate::hub) fn told(self: &Arc<Self>, part: &Session, change: &Change<'_>) {
        match change {
            Change::List { list, .. } => {
                TOLD.into_iter().filter(|l| l == list).for_each(|list| self.note_change(list));
            }
            Change::Resource { uri, text } if part.subscribed(uri) => {
                let public = self.bridged().public_uri(&part.server.name, uri);
                let renamed = envelope::scan(text).ok().and_then(|e| e.uri).filter(|_| public != *uri);
                let renamed = renamed.map(|span| spliced(text, &[(span, &quote(&public))]));
                let text = renamed.as_deref().unwrap_or(text);
                for listen in self.listens().iter().filter(|l| l.filter.uris.contains(&public)) {
                    listen.push(modern::tagged(text, &listen.id));
                }
                if !self.is_modern() {
                    self.notify(text);
                }
            }
            Change::Resource { .. } => {}
        }
    }
}

impl Hub {
    /// Opens the part of a session of the bridge at a server.
    fn open_part(self: &Arc<Self>, whole: &Arc<Session>, server: &Arc<Server>) -> Result<Arc<Session>, String> {
        let full = |limit: u32| {
            self.counters.count(Dropped::Sessions);
            let limit = count(limit as usize, "session");
            Err(format!("{limit} at a time is the limit of server '{}'; try again later", server.name))
        };
        let nest = server.children().and_then(|c| c.nest.clone()).filter(|_| whole.has_children_of_its_own());
        if let Some(nest) = &nest
            && nest.is_full(server.session_count())
        {
            return full(nest.max);
        }
        if let Kind::Exec(exec) = server.config().kind
            && whole.kind != SessionKind::Request
            && server.session_count() >= exec.sessions as usize
        {
            return full(exec.sessions);
        }
        let kind = if whole.kind == SessionKind::Request { whole.kind } else { SessionKind::Part };
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let owner = whole.owner.clone();
        let part = Session::new(number, String::new(), kind, owner, server.clone(), self.clone());
        let part = Arc::new(part);
        part.note_era(whole.is_modern());
        part.belong_to(whole);
        if let Some(revision) = whole.revision() {
            part.agree(revision.to_owned());
        }
        if let Some(nest) = &nest {
            part.own_after(nest, whole.bridged().hello());
        }
        server.join(&part);
        Ok(part)
    }
}

/// The id by which a client is asked what the child of a part asks.
pub(in crate::hub) fn outward_id(session: &Session, id: &str) -> Option<String> {
    session.whole().map(|_| bridge::outward_id(&session.server.name, id))
}
