//! The parts of a session of the bridge: one ordinary session at each server that it uses, which leads to its client.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Bridge, bridge};
use crate::hub::Hub;
use crate::hub::listen::Change;
use crate::hub::server::{Engine, Server};
use crate::hub::session::{Session, Transport};
use crate::hub::wait::sleep;
use crate::model::envelope::{self, quote, spliced};
use crate::model::text::count;
use crate::model::{jsonrpc, modern};

/// Changes of lists that come within this time are told as one: a reload concerns many servers at once.
const TOGETHER: Duration = Duration::from_millis(50);

impl Session {
    /// The bridge, if it is a session of that.
    pub(in crate::hub) fn bridge(&self) -> Option<Arc<Bridge>> {
        match self.server.engine() {
            Engine::Bridge(bridge) => Some(bridge),
            _ => None,
        }
    }

    /// Its parts so far.
    pub(in crate::hub) fn parts(&self) -> Vec<Arc<Session>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Its parts, which it has no more.
    pub(in crate::hub) fn take_parts(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }

    /// Its part at a server, opened where there is none. The error says which limit is reached.
    pub(in crate::hub) fn part(self: &Arc<Self>, server: &Arc<Server>) -> Result<Arc<Session>, String> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(&server.name).filter(|p| !p.is_ended() && Arc::ptr_eq(&p.server, server)) {
            return Ok(part.clone());
        }
        let part = self.hub.open_part(self, server)?;
        parts.insert(server.name.clone(), part.clone());
        Ok(part)
    }

    /// Opens parts wherever that costs nothing, so that it hears of changes there.
    pub(in crate::hub) fn attach_all(self: &Arc<Self>) {
        for server in self.hub.servers() {
            if self.is_modern() || server.children().is_none_or(|c| c.nest.is_none()) {
                let _ = self.part(&server);
            }
        }
    }

    /// A list of some server is another: the client hears of it soon, and of several as one.
    pub(in crate::hub) fn note_change(self: &Arc<Self>, list: &'static str) {
        let first = {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
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
            let changes = std::mem::take(&mut *session.changes.lock().unwrap_or_else(PoisonError::into_inner));
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
                let known = ["tools", "prompts", "resources"].into_iter().find(|l| l == list);
                known.into_iter().for_each(|list| self.note_change(list));
            }
            Change::Resource { uri, text } if part.subscribed(uri) => {
                let public = self.bridge().and_then(|b| b.public_uri(&part.server.name, uri));
                let renamed = public.filter(|p| p != uri).and_then(|public| {
                    let span = envelope::scan(text).ok()?.uri?;
                    Some((spliced(text, &[(span, &quote(&public))]), public))
                });
                let (text, uri) = match &renamed {
                    Some((text, public)) => (text.as_str(), public.as_str()),
                    None => (*text, *uri),
                };
                for listen in self.listens().iter().filter(|l| l.filter.uris.iter().any(|u| u == uri)) {
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
            self.counters.count(crate::hub::counters::Dropped::Sessions);
            let limit = count(limit as usize, "session");
            Err(format!("{limit} at a time is the limit of server '{}'; try again later", server.name))
        };
        let lasting = whole.transport != Transport::Stateless && !whole.is_modern();
        let nest = server.children().and_then(|c| c.nest.clone()).filter(|_| lasting);
        if let Some(nest) = &nest
            && nest.is_full(server.session_count())
        {
            return full(nest.max);
        }
        let transport = if whole.transport == Transport::Stateless { Transport::Stateless } else { Transport::Part };
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let owner = whole.owner.clone();
        let part = Session::new(number, String::new(), transport, owner, server.clone(), self.clone());
        let part = Arc::new(part);
        part.note_era(whole.is_modern());
        part.belong_to(whole);
        if let Some(revision) = whole.revision() {
            part.agree(revision.to_owned());
        }
        if let Some(nest) = &nest {
            part.own_after(nest, whole.hello());
        }
        server.join(&part);
        Ok(part)
    }
}

/// The id by which a client is asked what the child of a part asks.
pub(in crate::hub) fn outward_id(session: &Session, id: &str) -> Option<String> {
    session.whole().map(|_| bridge::outward_id(&session.server.name, id))
}
