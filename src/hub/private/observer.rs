//! What a session's own child says, and how it is: all of it is for this session.

use std::sync::Arc;

use log::{info, warn};

use super::child::PrivateChild;
use crate::hub::child::child::{Child, Observer};
use crate::hub::child::slot::{Condition, Owner, Slot, Starting, Task};
use crate::hub::child::stderr::log_words;
use crate::hub::child::supervisor::round;
use crate::hub::child::wire::one_line;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::Change;
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::model::bridge::client_id;
use crate::model::envelope::{Envelope, LONGEST_ID, decode, spliced};
use crate::model::last_words::LastWords;
use crate::model::modern::Era;
use crate::model::out::Out;
use crate::model::restart::Ended;
use crate::model::status::ServerState;
use crate::model::text::duration;
use crate::model::transport::{SessionKind, Transport};
use crate::model::{jsonrpc, method};
use crate::rt::process::exit_text;

impl PrivateChild {
    fn client(&self) -> Option<Arc<Session>> {
        self.session.upgrade().filter(|s| !s.is_ended())
    }

    /// The text of a message that names a request of the child, as the client gets it. Children of several servers may ask
    /// the same client, each with ids of its own.
    fn for_client(&self, session: &Session, e: &Envelope<'_>, asked: &Option<std::ops::Range<usize>>) -> String {
        let id = e.get(asked).filter(|_| session.is_part()).map(|id| client_id(&session.server, id));
        let text = match (asked, &id) {
            (Some(span), Some(id)) => spliced(e.text(), &[(span.clone(), id)]),
            _ => e.text().to_owned(),
        };
        one_line(e, text)
    }

    /// Sends what the child says. Over HTTP that goes on the stream of the newest open request if it is `related` to one,
    /// as far as that can be known, and else on the one that was opened for such messages; on the other where there is
    /// none. Never on two (2025-11-25 basic/transports). False where there is no stream at all.
    fn deliver(&self, session: &Session, child: &Child, text: &str, related: bool) -> bool {
        let newest = || child.newest_reply().is_some_and(|reply| reply.push(Out::notice(text.to_owned())));
        let kind = session.whole().map_or(session.kind, |w| w.kind);
        match related && kind == SessionKind::Lasting(Transport::Http) {
            true => newest() || session.notify(text),
            false => session.notify(text) || newest(),
        }
    }
}

impl Observer for PrivateChild {
    fn request(&self, child: &Child, e: &Envelope<'_>) {
        let (Some(session), Some(id)) = (self.client(), e.get(&e.id)) else { return };
        let text = self.for_client(&session, e, &e.id);
        if !self.note_asked(id) {
            session.ctx.counters.count(Dropped::RefusedServerRequests);
            let why = "too many requests to the client are open, or this id is longer than 1 KiB";
            let id = Some(id).filter(|id| id.len() <= LONGEST_ID);
            child.send_line(&jsonrpc::error(id, jsonrpc::INTERNAL_ERROR, why));
            return;
        }
        if !self.deliver(&session, child, &text, true) {
            self.take_asked(id);
            session.ctx.counters.count(Dropped::RefusedServerRequests);
            let why = "the client has no stream open that could carry a request to it";
            child.send_line(&jsonrpc::error(Some(id), jsonrpc::INTERNAL_ERROR, why));
        }
    }

    fn notification(&self, child: &Child, e: &Envelope<'_>) {
        let Some(session) = self.client() else { return };
        let asked = if e.method == method::CANCELLED { &e.request_id } else { &None };
        let text = self.for_client(&session, e, asked);
        let related = match e.method.as_ref() {
            method::RESOURCE_UPDATED => {
                if let (true, Some(uri)) = (session.is_part(), e.get(&e.uri)) {
                    // The client may know it by another name.
                    return session.notify_client(&Change::Resource { uri: &decode(uri), text: &text });
                }
                false
            }
            method::CANCELLED => {
                if let Some(id) = e.get(&e.request_id) {
                    self.take_asked(id);
                }
                true
            }
            method::PROGRESS => {
                if let Some(reply) = e.get(&e.progress_token).and_then(|token| child.progress_owner(token)) {
                    reply.push(Out::notice(text));
                    return;
                }
                true
            }
            method => !method.ends_with("list_changed"),
        };
        if !self.deliver(&session, child, &text, related) {
            session.ctx.counters.count(Dropped::UnownedNotifications);
        }
    }
}

impl Owner for PrivateChild {
    fn start<'a>(&'a self, _slot: &'a Arc<Slot>) -> Starting<'a> {
        Box::pin(self.raise())
    }

    fn ready(&self, _slot: &Arc<Slot>, _child: &Arc<Child>, again: bool, _rested: bool) -> Option<Task> {
        let begins = {
            let mut state = self.state();
            state.failed = None;
            state.again = true;
            std::mem::take(&mut state.begins)
        };
        if again && !begins {
            let me = self.me.clone();
            return Some(Box::pin(async move {
                if let Some(me) = me.upgrade()
                    && let Some(session) = me.session.upgrade()
                {
                    session.lists_changed(Era::Legacy, &|list| me.spares.core.has_list(list));
                }
            }));
        }
        None
    }

    fn placed(&self, _slot: &Slot, child: Option<&Arc<Child>>) {
        if child.is_none() {
            self.state().asked.clear();
        }
        self.changed.notify(usize::MAX);
    }

    fn entered(&self, _slot: &Slot, how: &Condition<'_>) {
        let name = &self.spares.core.name;
        let trouble = how.trouble.unwrap_or("it ended");
        match (how.state, how.next_start, how.verdict) {
            (ServerState::Failed, None, Some(why)) => {
                warn!("server '{name}': a session's child is not started again: {trouble} ({why})");
                let (server, trouble) = (name.clone(), trouble.to_owned());
                self.state().failed = Some(Error::PrivateChildFailed { server, trouble, verdict: why });
                self.changed.notify(usize::MAX);
            }
            (_, Some(delay), _) => {
                info!("server '{name}': a session's child is down: {trouble}; next start in {}", duration(round(delay)))
            }
            (ServerState::Starting, ..) => self.state().failed = None,
            (ServerState::Stopped, ..) => drop(self.living.take()),
            _ => {}
        }
    }

    fn said(&self, _slot: &Slot, words: &LastWords) {
        log_words(&self.spares.core.name, words);
    }

    fn ended(&self, _slot: &Slot, how: Ended) {
        self.spares.core.count_restart(exit_text(how));
    }

    fn needs(&self, _child: &Child) -> bool {
        true
    }
}
