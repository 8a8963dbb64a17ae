//! A session of the bridge: its parts at the servers, and what its client is told of their changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::known::{Catalogue, Known};
use crate::hub::client::endpoint::Client;
use crate::hub::client::session::{PartObserver, Session};
use crate::hub::client::subscription::{Change, LISTS};
use crate::hub::error::Error;
use crate::hub::server::core::Core;
use crate::hub::server::server::Server;
use crate::hub::server::servers::Servers;
use crate::model::envelope::{self, member, quote, spliced};
use crate::model::transport::SessionKind;
use crate::model::{jsonrpc, method, modern};
use crate::rt::task;
use crate::rt::wait::sleep;
use crate::sys::lock::Lock;

/// Changes of lists that come within this time are told as one: a reload concerns many servers at once.
const TOGETHER: Duration = Duration::from_millis(50);
/// The most that is kept of what a client says of itself in its handshake, in bytes.
const PARAMS: usize = 64 << 10;
/// The most resources that a session knows under another URI than their server.
const ALIASES: usize = 1000;

/// What all sessions of the bridge share.
pub(crate) struct Bridge {
    pub core: Arc<Core>,
    pub servers: Arc<Servers>,
    pub catalogue: Catalogue,
    /// What it is, as JSON.
    pub server_info: Arc<str>,
    /// Its sessions, by number.
    pub sessions: Lock<HashMap<u64, Weak<BridgeSession>>>,
}

impl Bridge {
    /// The sessions that last, or wait to be told of something.
    pub(crate) fn members(&self) -> Vec<Arc<BridgeSession>> {
        let members = self.core.members.sessions();
        let sessions = self.sessions.lock();
        members.iter().filter_map(|s| sessions.get(&s.number)?.upgrade()).collect()
    }

    /// What some server has is not what was told.
    pub(crate) fn all_changed(&self) {
        for session in self.members() {
            LISTS.into_iter().for_each(|list| session.note_change(list));
        }
    }
}

/// A session of the bridge.
pub(crate) struct BridgeSession {
    pub me: Weak<BridgeSession>,
    pub bridge: Arc<Bridge>,
    pub session: Weak<Session>,
    number: u64,
    /// What it has at each server, by name.
    parts: Lock<BTreeMap<String, Client>>,
    /// Lists that have changed, and its client is about to be told.
    changes: Lock<BTreeSet<&'static str>>,
    /// The params of its client's handshake, as far as servers want to know them.
    initialize_params: OnceLock<Box<str>>,
    /// What children of its own have said that they have.
    pub lists: Lock<Known>,
    /// Resources that it subscribes to under another URI than their server has: server and URI there, and the other.
    aliases: Lock<BTreeMap<(String, String), String>>,
}

impl BridgeSession {
    pub(crate) fn new(bridge: &Arc<Bridge>, session: &Arc<Session>) -> Arc<BridgeSession> {
        let one = Arc::new_cyclic(|me| BridgeSession {
            me: me.clone(),
            bridge: bridge.clone(),
            session: Arc::downgrade(session),
            number: session.number,
            parts: Lock::default(),
            changes: Lock::default(),
            initialize_params: OnceLock::new(),
            lists: Lock::default(),
            aliases: Lock::default(),
        });
        bridge.sessions.lock().insert(session.number, Arc::downgrade(&one));
        one
    }

    /// Notes what its client says of itself, for servers that start a child for it.
    pub(crate) fn note_params(&self, params: &str) {
        let keep = |key: &&str| member(params, key).map(|value| format!("\"{key}\":{value}"));
        let kept: Vec<String> = ["protocolVersion", "capabilities", "clientInfo"].iter().filter_map(keep).collect();
        let kept = format!("{{{}}}", kept.join(","));
        if kept.len() <= PARAMS {
            self.restore_params(&kept);
        }
    }

    pub(crate) fn restore_params(&self, params: &str) {
        let _ = self.initialize_params.set(params.into());
    }

    pub(crate) fn params(&self) -> Option<String> {
        self.initialize_params.get().map(ToString::to_string)
    }

    /// Its client knows a resource of a server under another URI.
    pub(crate) fn note_alias(&self, server: &str, own: &str, public: &str) {
        let mut aliases = self.aliases.lock();
        if own != public && aliases.len() < ALIASES {
            aliases.insert((server.to_owned(), own.to_owned()), public.to_owned());
        }
    }

    pub(crate) fn aliases(&self) -> Vec<(String, String, String)> {
        let aliases = self.aliases.lock();
        aliases.iter().map(|((server, own), public)| (server.clone(), own.clone(), public.clone())).collect()
    }

    /// What its client calls a resource that it subscribes to.
    pub(crate) fn public_uri(&self, server: &str, own: &str) -> String {
        let key = (server.to_owned(), own.to_owned());
        self.aliases.lock().get(&key).cloned().unwrap_or(key.1)
    }

    // --- parts -------------------------------------------------------------------------------------------------------

    /// Its parts so far.
    pub(crate) fn all_parts(&self) -> Vec<Client> {
        self.parts.lock().values().cloned().collect()
    }

    /// Its parts, which it has no more.
    pub(crate) fn take_parts(&self) -> Vec<Client> {
        self.parts.take().into_values().collect()
    }

    /// Notes a part of the program before.
    pub(crate) fn note_part(&self, part: Client) {
        self.parts.lock().insert(part.session.server.to_string(), part);
    }

    /// Makes a session a part of this one.
    pub(crate) fn belong(&self, part: &Session) {
        if let Some(whole) = self.session.upgrade() {
            let me: Weak<dyn PartObserver> = self.me.clone();
            part.belong_to(&whole, me);
        }
    }

    /// A session lasts, and is of the era in which servers may have a child for each session.
    pub(crate) fn may_have_children(session: &Session) -> bool {
        session.kind != SessionKind::Request && !session.is_modern()
    }

    /// Its part at a server, opened where there is none. The error says which limit is reached.
    pub(crate) fn part(&self, server: &Arc<Server>) -> Result<Client, Error> {
        let whole = self.session.upgrade().filter(|s| !s.is_ended());
        let mut parts = self.parts.lock();
        // What was asked for it may end later than itself.
        let Some(whole) = whole.filter(|s| !s.is_ended()) else { return Err(Error::SessionEnded) };
        let fits = |p: &&Client| {
            let part = &p.session;
            !part.is_ended() && Arc::ptr_eq(&part.server, &server.core.name) && part.is_modern() == whole.is_modern()
        };
        if let Some(part) = parts.get(server.name()).filter(fits) {
            return Ok(part.clone());
        }
        let private = server.is_private() && BridgeSession::may_have_children(&whole);
        let params = self.initialize_params.get().map(|p| &**p);
        let part = server.open_part(&whole, |part| self.belong(part), private, params)?;
        let before = parts.insert(server.name().to_owned(), part.clone());
        drop(parts);
        if let Some(before) = before {
            before.end("its client goes on in another way");
        }
        Ok(part)
    }

    /// Opens parts wherever that costs nothing, so that it hears of changes there.
    pub(crate) fn attach_all(&self) {
        let Some(session) = self.session.upgrade() else { return };
        let own = BridgeSession::may_have_children(&session);
        let costs =
            |server: &&Arc<Server>| server.backend().is_none() || server.counts_parts() || (own && server.is_private());
        for server in self.bridge.servers.all().iter().filter(|s| !costs(s)) {
            let _ = self.part(server);
        }
    }

    // --- changes -----------------------------------------------------------------------------------------------------

    /// A list of some server has changed: the client hears of it soon, and of several as one.
    pub(crate) fn note_change(&self, list: &'static str) {
        let first = {
            let mut changes = self.changes.lock();
            let first = changes.is_empty();
            changes.insert(list);
            first
        };
        if !first {
            return;
        }
        let me = self.me.clone();
        task::spawn(async move {
            sleep(TOGETHER).await;
            let Some(me) = me.upgrade() else { return };
            let Some(session) = me.session.upgrade().filter(|s| !s.is_ended()) else { return };
            for list in me.changes.take() {
                let text = jsonrpc::notification(method::list_changed(list), None);
                session.notify_client(&Change::List { list, text: &text });
            }
        });
    }
}

impl Drop for BridgeSession {
    fn drop(&mut self) {
        self.bridge.sessions.lock().remove(&self.number);
    }
}

impl PartObserver for BridgeSession {
    fn changed(&self, part: &Session, change: &Change<'_>) {
        let Some(session) = self.session.upgrade() else { return };
        match change {
            Change::List { list, .. } => {
                LISTS.into_iter().filter(|l| l == list).for_each(|list| self.note_change(list));
            }
            Change::Resource { uri, text } if part.is_watching(uri) => {
                let public = self.public_uri(&part.server, uri);
                let renamed = envelope::scan(text).ok().and_then(|e| e.uri).filter(|_| public != *uri);
                let renamed = renamed.map(|span| spliced(text, &[(span, &quote(&public))]));
                let text = renamed.as_deref().unwrap_or(text);
                for subscription in session.subscriptions().iter().filter(|s| s.filter.has(&public)) {
                    subscription.push(modern::tagged(text, &subscription.id));
                }
                if !session.is_modern() {
                    session.notify(text);
                }
            }
            Change::Resource { .. } => {}
        }
    }
}
