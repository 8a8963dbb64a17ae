//! What shared children say that answers no request, and how they are: told to the sessions that share them.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use super::children::Shared;
use crate::hub::child::child::{Child, Observer};
use crate::hub::child::slot::{Condition, Owner, Slot, Starting, Task};
use crate::hub::child::start::Opening;
use crate::hub::child::stderr::log_words;
use crate::hub::child::wire::one_line;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::Change;
use crate::hub::counters::Dropped;
use crate::hub::server::core::Core;
use crate::hub::server::members::notify_clients;
use crate::model::envelope::{Envelope, decode};
use crate::model::last_words::LastWords;
use crate::model::modern::Era;
use crate::model::restart::Ended;
use crate::model::status::ServerState;
use crate::model::text::printable;
use crate::model::{jsonrpc, mcp, method};
use crate::rt::process::exit_text;
use crate::rt::task;
use crate::rt::wait::{sleep, timeout};

/// The most time that bringing a new child to the state of its sessions may take.
const RESTORE: Duration = Duration::from_secs(10);
/// Changes of a list within it are told as one.
const MOMENT: Duration = Duration::from_millis(50);

impl Shared {
    /// The sessions that a child serves.
    pub(crate) fn sessions_of(&self, child: &Child) -> Vec<Arc<Session>> {
        // Those with a child of their own hear of that one.
        let mut sessions = self.core.members.sharing();
        let is = |c: &Arc<Child>| std::ptr::eq(&raw const **c, child);
        let serves_all = self.slots.len() < 2 || self.modern_slot().and_then(|s| s.any_child()).is_some_and(|c| is(&c));
        if !serves_all {
            sessions.retain(|s| self.slot(s.place).any_child().is_some_and(|c| is(&c)));
        }
        sessions
    }

    /// Tells what is said of a list's changes from now on, as one message in each moment.
    fn tell_the_rest(&self, child: u64, list: &'static str) {
        let me = self.me.clone();
        task::spawn(async move {
            loop {
                sleep(MOMENT).await;
                let Some(me) = me.upgrade() else { return };
                let Some(text) = me.changes.rest(child, list) else { return };
                if let Some(child) = Shared::children(&me).into_iter().find(|c| c.number == child) {
                    notify_clients(&me.sessions_of(&child), &Change::List { list, text: &text });
                }
            }
        });
    }
}

impl Observer for Shared {
    /// A shared child cannot say which client it means, so only the daemon may answer.
    fn request(&self, child: &Child, e: &Envelope<'_>) {
        self.core.ctx.counters.count(Dropped::RefusedServerRequests);
        let name = &self.core.name;
        debug!("[{name}] its request '{}' is refused: the child is shared", printable(&e.method, 100));
        let text = format!("'{}' is not possible here: this child is shared by several clients", e.method);
        child.send_line(&jsonrpc::error(e.get(&e.id), jsonrpc::METHOD_NOT_FOUND, &text));
    }

    fn task_begun(&self, task: &str, owner: Option<Arc<str>>) {
        self.core.tasks.note(task, owner);
    }

    fn notification(&self, child: &Child, e: &Envelope<'_>) {
        let drop = || self.core.ctx.counters.count(Dropped::UnownedNotifications);
        if child.is_modern() {
            // Its subscribers hear of it from the child; those of the bridge hear of it here alone.
            let list = e.method.split('/').nth(1).unwrap_or_default();
            let parts = self.sessions_of(child).into_iter().filter(|s| s.is_part());
            parts.for_each(|part| part.notify_client(&Change::List { list, text: e.text() }));
            return;
        }
        if let Some(list) = method::changed_list(&e.method) {
            let text = one_line(e, e.text().to_owned());
            if self.changes.note(child.number, list, &text) {
                notify_clients(&self.sessions_of(child), &Change::List { list, text: &text });
                self.tell_the_rest(child.number, list);
            }
            return;
        }
        match (e.method.as_ref(), e.get(&e.uri)) {
            (method::RESOURCE_UPDATED, Some(uri)) => {
                let (uri, text) = (decode(uri), one_line(e, e.text().to_owned()));
                notify_clients(&self.sessions_of(child), &Change::Resource { uri: &uri, text: &text });
            }
            (method::RESOURCE_UPDATED, None) => drop(),
            (method, _) => {
                drop();
                debug!("[{}] '{}' has no owner on a shared child", self.core.name, printable(method, 100));
            }
        }
    }
}

impl Owner for Shared {
    fn start<'a>(&'a self, slot: &'a Arc<Slot>) -> Starting<'a> {
        Box::pin(async move {
            let opening = if self.is_for_modern(slot) { Opening::Discover } else { Opening::Initialize };
            self.starter().start(self.core.ctx.config().umask, opening, Some(&slot.retired)).await
        })
    }

    fn ready(&self, _slot: &Arc<Slot>, child: &Arc<Child>, again: bool, was_idle: bool) -> Option<Task> {
        if !again {
            return None;
        }
        // One that only was_idle is as it was, if it says the same of itself.
        let was_idle = was_idle && self.core.info() == child.info().cloned();
        if child.is_modern() {
            // Before a request can be sent that they would hear of.
            for session in self.sessions_of(child) {
                session.subscriptions().iter().for_each(|s| child.subscribe(s));
            }
            let (me, child) = (self.me.clone(), child.clone());
            return Some(Box::pin(async move {
                for session in me.upgrade().into_iter().filter(|_| !was_idle).flat_map(|me| me.sessions_of(&child)) {
                    session.lists_changed(Era::Modern, &|list| child.info().is_some_and(|i| i.has(list)));
                }
            }));
        }
        let (me, child) = (self.me.clone(), child.clone());
        Some(Box::pin(async move {
            if let Some(me) = me.upgrade() {
                me.restore_watches(&child, !was_idle).await;
            }
        }))
    }

    fn placed(&self, slot: &Slot, child: Option<&Arc<Child>>) {
        let Some(child) = child else { return };
        // What it says in the modern era is for clients of that one, unless it speaks no other.
        if !self.is_for_modern(slot)
            && self.has(slot)
            && let Some(info) = child.info()
        {
            self.core.set_info(info.clone());
        }
        self.core.note_child();
    }

    fn entered(&self, slot: &Slot, how: &Condition<'_>) {
        let state = how.state;
        if state == ServerState::Failed && how.next_start.is_none() && self.is_for_modern(slot) {
            // They would not be told anything any more.
            self.core.members.end_forwarded_subscriptions();
        }
        // A slot that was replaced goes down in silence: another speaks for the server.
        if !self.has(slot) {
            return;
        }
        if let Some(event) = slot.outage.lock().enter(state) {
            self.core.ctx.send_event(event, Some(&self.core.name), how.reason.as_deref());
        }
        match (state, &how.reason) {
            (ServerState::Failed | ServerState::Backoff, Some(why)) => warn!("{} is {state}: {why}", slot.label()),
            (_, Some(why)) => info!("{} is {state}: {why}", slot.label()),
            (_, None) => info!("{} is {state}", slot.label()),
        }
        self.core.announce();
    }

    fn said(&self, slot: &Slot, words: &LastWords) {
        if self.has(slot) {
            log_words(&self.core.name, words);
        }
    }

    fn ended(&self, _slot: &Slot, how: Ended) {
        self.core.count_restart(exit_text(how));
    }

    fn needs(&self, child: &Child) -> bool {
        let era = if child.is_modern() { Era::Modern } else { Era::Legacy };
        self.sessions_of(child).iter().any(|s| s.waits_for_changes(era))
    }
}

impl Shared {
    /// Brings a new child of the legacy era to the state that its sessions expect.
    async fn restore_watches(&self, child: &Child, tell: bool) {
        let mut uris: Vec<String> = self.sessions_of(child).iter().flat_map(|s| s.watched()).collect();
        uris.sort_unstable();
        uris.dedup();
        let all = async {
            for uri in uris {
                if let Err(e) = child.ask(method::RESOURCES_SUBSCRIBE, Some(&mcp::uri_params(&uri))).await {
                    debug!("server '{}': cannot subscribe again to {uri}: {e}", self.core.name);
                }
            }
        };
        let _ = timeout(RESTORE, all).await;
        if tell {
            lists_changed(&self.core);
        }
    }
}

/// Tells every session of the legacy era that lists may differ.
pub(crate) fn lists_changed(core: &Core) {
    for session in core.members.sharing() {
        session.lists_changed(Era::Legacy, &|list| core.has_list(list));
    }
}
