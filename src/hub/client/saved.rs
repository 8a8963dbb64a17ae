//! The client's side, written down for the next program.
//!
//! Sessions and outboxes are named by several things; the tables here keep together what belongs together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::call::Call;
use super::outbox::{Outbox, Places};
use super::session::Session;
use crate::model::handover;

/// What a session has from its endpoint, in the document.
#[derive(Default)]
struct Added {
    own: Option<handover::Own>,
    held: Vec<(handover::Call, String)>,
    bridge: bool,
    initialize_params: Option<String>,
    aliases: Vec<(String, String, String)>,
}

/// Collects what is named by several things.
#[derive(Default)]
pub(crate) struct Saver {
    pub places: Places,
    sessions: HashSet<u64>,
    /// Those that are noted and not written down yet.
    pending: Vec<Arc<Session>>,
    added: HashMap<u64, Added>,
}

impl Saver {
    /// The place of an outbox in the document.
    pub(crate) fn outbox(&mut self, outbox: &Arc<Outbox>) -> usize {
        self.places.of(outbox)
    }

    /// The number of a session, which will be in the document.
    pub(crate) fn session(&mut self, session: &Arc<Session>) -> u64 {
        if self.sessions.insert(session.number) {
            self.pending.push(session.clone());
        }
        session.number
    }

    pub(crate) fn call(&mut self, call: &Call) -> handover::Call {
        handover::Call {
            session: self.session(&call.session),
            reply: self.outbox(&call.reply),
            id: call.id.to_string(),
            token: call.token.as_ref().map(ToString::to_string),
            method: call.method,
            age: call.opened.elapsed().as_millis() as u64,
            subscribes: call.subscribes.as_ref().map(ToString::to_string),
            translated: call.translated.as_ref().map(|t| t.method.to_string()),
            opening: call.opening,
            logs: call.logs,
            starts_task: call.starts_task,
            audited: call.audited.as_ref().map(|audited| audited.request().clone()),
        }
    }

    /// A request that waits, with its text.
    pub(crate) fn waiting(&mut self, call: &Call, text: &str) {
        let saved = self.call(call);
        self.added.entry(saved.session).or_default().held.push((saved, text.to_owned()));
    }

    /// The child of a session's own.
    pub(crate) fn own(&mut self, session: u64, own: handover::Own) {
        self.added.entry(session).or_default().own = Some(own);
    }

    /// A session is one of the bridge, whose client has shaken hands with these params, and knows resources by these
    /// aliases.
    pub(crate) fn bridged(&mut self, session: u64, params: Option<String>, aliases: Vec<(String, String, String)>) {
        let added = self.added.entry(session).or_default();
        (added.bridge, added.initialize_params, added.aliases) = (true, params, aliases);
    }

    /// Everything that was named, and what that names in turn.
    pub(crate) fn finish(mut self) -> (Vec<handover::Session>, Vec<handover::Outbox>) {
        let mut saved = Vec::new();
        while let Some(session) = self.pending.pop() {
            saved.push(self.save(&session));
        }
        // A part comes behind its whole, which was there first.
        saved.sort_unstable_by_key(|s| s.number);
        (saved, self.places.save())
    }

    fn save(&mut self, session: &Arc<Session>) -> handover::Session {
        let (streams_so_far, streams) = session.replay().save(&mut |outbox| self.places.of(outbox));
        let added = self.added.remove(&session.number).unwrap_or_default();
        handover::Session {
            number: session.number,
            id: session.id().to_owned(),
            later_ids: session.names().later().iter().map(ToString::to_string).collect(),
            kind: session.kind,
            owner: session.owner.as_ref().map(ToString::to_string),
            address: session.holder.address().or_else(|| session.address()),
            server: session.server.to_string(),
            slot: session.place,
            revision: session.revision().map(str::to_owned),
            client: session.client().map(str::to_owned),
            push: session.own_push().map(|outbox| self.places.of(&outbox)),
            watched: session.watched(),
            subscriptions: session.subscriptions().iter().map(|s| s.save(&mut self.places)).collect(),
            modern: session.has_spoken_modern(),
            own: added.own,
            held: added.held,
            batches: session.batches.save(&mut self.places),
            idle: session.unused_for(),
            lived: session.lived(),
            used: !session.is_unused(),
            streams_so_far,
            streams,
            bridge: added.bridge,
            initialize_params: added.initialize_params,
            aliases: added.aliases,
            whole: session.whole().map(|whole| self.session(&whole)),
        }
    }
}
