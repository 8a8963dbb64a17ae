//! The client's side, as the program before has written it down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::audited::Audited;
use super::call::{Call, Translation};
use super::endpoint::Client;
use super::outbox::Outbox;
use super::replay::ResumableStreams;
use super::session::{Beginning, Session};
use super::subscription::Subscription;
use super::watchers::Watchers;
use crate::hub::context::Context;
use crate::hub::load::Load;
use crate::model::budget::Holder;
use crate::model::config::known_principal;
use crate::model::handover;
use crate::model::method::Method;
use crate::model::modern::Era;
use crate::sys::accounts::name_of;

/// What was named by several things, for those who go on with it.
#[derive(Default)]
pub(crate) struct Restored {
    outboxes: Vec<Arc<Outbox>>,
    clients: HashMap<u64, Client>,
}

impl Restored {
    pub(crate) fn new(ctx: &Context, outboxes: Vec<handover::Outbox>) -> Restored {
        // Whose they are is not known yet: each counts for itself.
        let kept = |at| ctx.memory.begin(Holder::Outbox(at));
        let restored = outboxes.into_iter().zip(0..).map(|(saved, at)| Outbox::restore(saved).counted(kept(at)));
        let outboxes = restored.map(Arc::new).collect();
        Restored { outboxes, clients: HashMap::new() }
    }

    /// An outbox by its place; one that is never read if there is none.
    pub(crate) fn outbox(&self, at: usize) -> Arc<Outbox> {
        self.outboxes.get(at).cloned().unwrap_or_else(|| Arc::new(Outbox::new(0)))
    }

    /// Notes a session with who answers it, in place of what is known of it.
    pub(crate) fn note(&mut self, client: Client) {
        self.clients.insert(client.session.number, client);
    }

    pub(crate) fn client(&self, number: u64) -> Option<Client> {
        self.clients.get(&number).cloned()
    }

    pub(crate) fn session(&self, number: u64) -> Option<Arc<Session>> {
        self.clients.get(&number).map(|c| c.session.clone())
    }

    /// A request that is open, counted as such.
    pub(crate) fn call(&self, saved: handover::Call) -> Option<Call> {
        let Client { session, endpoint } = self.client(saved.session)?;
        let reply = self.outbox(saved.reply);
        let mut call = Call::new(&session, saved.method, &saved.id, saved.token.as_deref(), &reply);
        call.opened = Instant::now().checked_sub(Duration::from_millis(saved.age)).unwrap_or(call.opened);
        call.subscribes = saved.subscribes.map(|uri| Box::new(uri.into()));
        call.translated = saved.translated.map(|method| Box::new(Translation { method: method.into(), server: None }));
        (call.opening, call.logs, call.starts_task) = (saved.opening, saved.logs, saved.starts_task);
        call.audited = saved.audited.map(Audited::restore);
        if call.method == Method::ToolsList {
            call.shown = endpoint.shown();
        }
        Some(call)
    }

    /// A session of the program before, with what its client has here: who answers it is added by the caller. Its requests
    /// count for what is `above` as well.
    pub(crate) fn open(
        &self,
        ctx: &Arc<Context>,
        saved: handover::Session,
        server: Arc<str>,
        above: Vec<Arc<Load>>,
        watchers: &Arc<Watchers>,
    ) -> Session {
        let beginning = Beginning {
            kind: saved.kind,
            id: saved.id,
            holder: match (saved.owner, saved.address) {
                (Some(principal), _) => Holder::Principal(known_principal(&principal, name_of).into()),
                (None, Some(address)) => Holder::Address(address),
                (None, None) => Holder::Session(saved.number),
            },
            server,
            place: saved.slot,
            above,
            watchers: watchers.clone(),
        };
        let session = Session::new(ctx, saved.number, beginning);
        session.note_address(saved.address);
        if let Some(revision) = saved.revision {
            session.agree(revision);
        }
        if let Some(name) = saved.client {
            session.restore_client(name);
        }
        *session.names().later() = saved.later_ids.into_iter().map(Into::into).collect();
        session.names().look_at(0);
        session.note_era(if saved.modern { Era::Modern } else { Era::Legacy });
        session.restore_use(saved.idle, saved.used, saved.lived);
        saved.watched.iter().for_each(|uri| session.watch(uri));
        let outbox = |at| self.outbox(at);
        *session.replay() = ResumableStreams::restore(
            saved.streams_so_far,
            saved.streams,
            &outbox,
            &session.bounds(),
            Some(session.keep()),
        );
        session.restore_push(saved.push.map(outbox));
        let limit = ctx.config().limits.reply.bytes();
        for one in saved.batches {
            session.batches.restore(one, &outbox, limit);
        }
        for one in saved.subscriptions {
            let reply = self.outbox(one.reply);
            session.add_subscription(Subscription::restore(session.number, one, reply));
        }
        session
    }
}
