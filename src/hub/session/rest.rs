//! A session on its way from one program to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::Session;
use crate::hub::Hub;
use crate::hub::batch::Collected;
use crate::hub::call::Call;
use crate::hub::exclusive::Exclusive;
use crate::hub::handover::{Restored, Saver};
use crate::hub::listen::Listen;
use crate::hub::outbox::Outbox;
use crate::hub::replay::Streams;
use crate::hub::server::Server;
use crate::model::handover;
use crate::model::method::Method;

impl Session {
    /// Everything of it.
    pub fn save(self: &Arc<Self>, saver: &mut Saver) -> handover::Session {
        let held: Vec<_> = self.held.lock().clone();
        let (streams_so_far, streams) = self.replay().save(&mut |outbox| saver.outbox(outbox));
        handover::Session {
            number: self.number,
            id: self.id.clone(),
            kind: self.kind,
            owner: self.owner.as_ref().map(ToString::to_string),
            server: self.server.name.clone(),
            slot: self.slot,
            revision: self.revision().map(str::to_owned),
            push: self.push.lock().as_ref().map(|outbox| saver.outbox(outbox)),
            subscriptions: self.all_subscriptions(),
            listens: self.listens().iter().map(|l| l.save(saver)).collect(),
            modern: self.modern.load(SeqCst),
            own: self.exclusive().map(|own| own.save(saver)),
            held: held.iter().filter_map(|h| h.save(saver)).collect(),
            batches: self.batches().clone().iter().map(|b| b.save(saver)).collect(),
            idle: self.hub.seconds().saturating_sub(self.last_used.load(SeqCst)),
            used: !self.is_unused(),
            streams_so_far,
            streams,
            bridge: self.bridge().is_some(),
            hello: self.known_whole().and_then(|w| w.hello()).map(str::to_owned),
            aliases: self.known_whole().map(|w| w.aliases()).unwrap_or_default(),
            whole: self.whole().map(|w| saver.session(&w)),
        }
    }

    /// The same session in the next program, still without a child of its own and without open requests.
    pub fn restore(saved: handover::Session, server: Arc<Server>, hub: Arc<Hub>, restored: &Restored) -> Arc<Session> {
        let mut session = Session::new(saved.number, saved.id, saved.kind, saved.owner.map(Into::into), server, hub);
        session.slot = saved.slot;
        if let Some(revision) = saved.revision {
            session.agree(revision);
        }
        session.note_era(saved.modern);
        if let Some(hello) = &saved.hello {
            session.bridged().restore_hello(hello);
        }
        for (server, own, public) in &saved.aliases {
            session.bridged().note_alias(server, own, public);
        }
        let whole = saved.whole.and_then(|number| restored.session(number));
        if let Some(whole) = &whole {
            session.belong_to(whole);
        }
        session.last_used.store(session.hub.seconds().saturating_sub(saved.idle), SeqCst);
        session.used.store(saved.used, SeqCst);
        saved.subscriptions.iter().for_each(|uri| session.subscribe(uri));
        *session.replay() = Streams::restore(saved.streams_so_far, saved.streams, &|at| restored.outbox(at));
        let push = saved.push.map(|at| restored.outbox(at));
        *session.push.lock() = push;
        let session = Arc::new(session);
        if let Some(whole) = whole {
            whole.bridged().adopt(&session);
        }
        for one in saved.batches {
            Collected::restore(&session, one, restored);
        }
        for one in saved.listens {
            let reply = restored.outbox(one.reply);
            let listen = Listen::new(&session, &one.id, &reply, one.filter, one.request.as_deref());
            if one.acknowledged {
                listen.acknowledge();
            }
            session.add_listen(listen);
        }
        session
    }

    /// A request that the program before has counted, counted here.
    pub fn reopen(self: &Arc<Self>, method: Method, id: &str, token: Option<&str>, reply: &Arc<Outbox>) -> Call {
        self.in_flight.fetch_add(1, SeqCst);
        if let Some(whole) = self.whole() {
            whole.in_flight.fetch_add(1, SeqCst);
        }
        self.hub.in_flight.fetch_add(1, SeqCst);
        self.server.in_flight.fetch_add(1, SeqCst);
        Call::new(self, method, id, token, reply)
    }

    /// Gives the session the child of its own that it had.
    pub fn restore_own(self: &Arc<Self>, saved: handover::Own, restored: &Restored) {
        let Some(nest) = self.server.children().and_then(|c| c.nest.clone()) else { return };
        let own = Exclusive::restore(self, &nest, saved, restored);
        self.hub.note_exclusive(&own);
        let _ = self.exclusive.set((own, nest.idle));
    }
}
