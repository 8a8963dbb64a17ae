//! The hub's part of an upgrade in place: everything comes to rest, is written down, and goes on in the next program.
//!
//! What each thing has to say of itself is beside it; here is the order.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::client::endpoint::Client;
use super::client::restored::Restored;
use super::client::saved::Saver;
use super::client::session::Session;
use super::hub::Hub;
use super::route::message::resume_subscriptions;
use super::server::server::Server;
use crate::model::config::{self, Config};
use crate::model::envelope::scan;
use crate::model::handover;
use crate::model::transport::SessionKind;
use crate::rt::blocking::all_back;
use crate::rt::task;
use crate::rt::wait::timeout;

impl Hub {
    /// The marks of all children.
    pub(crate) fn marks(&self) -> Vec<String> {
        self.ctx.quiescing().iter().filter_map(|one| one.mark().map(str::to_owned)).collect()
    }

    /// Waits, once [`super::context::Context::quiesce`] is on and no client is heard any more, until everything rests that
    /// the hub has. What does not come to rest in time is on its way to its end, and is left behind.
    pub(crate) async fn quiesced(&self, limit: Duration) {
        let rest = async {
            for one in self.ctx.quiescing() {
                one.quiesced().await;
            }
            // An answer may be in the hands of another thread alone: it is in no list that is written down.
            all_back().await;
        };
        let _ = timeout(limit, rest).await;
    }

    /// Whether something is under way that would be lost by an upgrade now.
    pub(crate) fn is_in_the_middle(&self) -> bool {
        self.ctx.quiescing().iter().any(|one| one.is_in_the_middle())
    }

    /// Goes on in this process.
    pub(crate) fn go_on(&self) {
        self.ctx.quiesce.turn(false);
        for one in self.ctx.quiescing() {
            one.resume();
        }
    }

    /// Everything of the servers; the sessions that they name are noted.
    pub(crate) fn save(&self, saver: &mut Saver) -> Vec<handover::Server> {
        self.ctx.quiescing().iter().for_each(|one| one.give_up_if_busy());
        for client in self.clients.lock().values() {
            saver.session(&client.session);
        }
        if let Some((bridge, _)) = self.bridge.get() {
            // Its sessions and what waits for answers of all servers; it has no entry of its own.
            let _ = bridge.save(saver);
        }
        self.servers.all().iter().map(|server| server.save(saver)).collect()
    }

    /// Goes on with what another program has written down, under the same configuration. Nothing of it moves before
    /// [`Hub::go_on`].
    pub(crate) fn restore(self: &Arc<Self>, config: &Config, saved: &mut handover::Handover) -> Restored {
        self.ctx.set_numbers(saved.sessions_so_far, saved.marks_so_far);
        self.ctx.skip_serials(saved.serials_so_far);
        self.ctx.meters.load(&saved.methods, &saved.meter);
        self.ctx.counters.load(&saved.dropped);
        for (name, server) in &config.servers {
            self.servers.insert(self.make_server(name, server));
        }
        self.name_bridge();
        let mut restored = Restored::new(&self.ctx, std::mem::take(&mut saved.outboxes));
        let mut own = Vec::new();
        let mut held = Vec::new();
        for mut one in std::mem::take(&mut saved.sessions) {
            own.push((one.number, one.own.take()));
            held.push((one.number, std::mem::take(&mut one.held)));
            self.restore_session(one, &mut restored);
        }
        for one in std::mem::take(&mut saved.servers) {
            if let (Some(server), Some(config)) = (self.server(&one.name), config.servers.get(&one.name)) {
                self.restore_server(&server, config, Some(one), &restored);
            }
        }
        for (name, config) in &config.servers {
            // One that the program before did not know.
            if let Some(server) = self.server(name).filter(|s| s.backend().is_none()) {
                self.restore_server(&server, config, None, &restored);
            }
        }
        for (number, own) in own {
            if let Some(own) = own {
                self.restore_own(number, own, &mut restored);
            }
        }
        for (number, held) in held {
            let Some(client) = restored.client(number) else { continue };
            for (call, text) in held {
                if let (Some(call), Ok(e)) = (restored.call(call), scan(&text)) {
                    client.endpoint.resume(call, &e).map(task::spawn);
                }
            }
            resume_subscriptions(&client);
        }
        self.expire_sessions();
        restored
    }

    /// A session, still without a child of its own and without open requests.
    fn restore_session(&self, saved: handover::Session, restored: &mut Restored) {
        let bridge = self.bridge.get().filter(|_| saved.bridge);
        let server = bridge.map(|(server, _)| server.clone()).or_else(|| self.server(&saved.server));
        let Some(server) = server.filter(|_| saved.bridge == bridge.is_some()) else { return };
        let whole = saved.whole.and_then(|number| restored.client(number));
        let above = server.loads(whole.as_ref().map(|w| w.session.load.clone()).as_slice());
        let (params, aliases) = (saved.initialize_params.clone(), saved.aliases.clone());
        let session = restored.open(&self.ctx, saved, server.core.name.clone(), above, &server.core.watchers);
        if let Some(whole) = &whole {
            whole.endpoint.belong(&session);
        }
        let session = Arc::new(session);
        let client = match bridge {
            Some((_, all)) => {
                Client { endpoint: all.reopen(&session, params.as_deref(), &aliases), session: session.clone() }
            }
            None => Client { endpoint: server.clone(), session: session.clone() },
        };
        if session.kind.is_lasting() {
            self.session_count.fetch_add(1, SeqCst);
        }
        self.note_restored(&server, client.clone(), whole.as_ref());
        restored.note(client);
    }

    /// Notes a session of the program before where sessions are found.
    fn note_restored(&self, server: &Server, client: Client, whole: Option<&Client>) {
        let session: &Session = &client.session;
        if session.kind.has_id() && !session.id().is_empty() {
            let all = session.names().all().into_iter().map(|id| (id, client.clone()));
            self.clients.lock().extend(all);
        }
        // A part hears of changes for its whole.
        if session.kind != SessionKind::Request || !session.subscriptions().is_empty() || whole.is_some() {
            server.core.members.join(&client);
        }
        if let Some(whole) = whole {
            whole.endpoint.adopt(client);
        }
    }

    fn restore_server(
        &self,
        server: &Arc<Server>,
        config: &config::Server,
        saved: Option<handover::Server>,
        restored: &Restored,
    ) {
        let Some(backend) = self.make_backend(&server.core, &config.kind) else { return };
        if let Some(mut saved) = saved {
            server.core.restore(&mut saved);
            backend.restore(saved, restored);
        }
        server.install(config.clone(), backend);
    }

    /// The child of a session's own.
    fn restore_own(&self, number: u64, own: handover::Own, restored: &mut Restored) {
        let Some(client) = restored.client(number) else { return };
        let Some(server) = self.server(&client.session.server) else { return };
        let Some(client) = server.reopen(&client.session, own, restored) else { return };
        server.core.members.replace(&client);
        for id in client.session.names().all() {
            if let Some(known) = self.clients.lock().get_mut(&id) {
                known.clone_from(&client);
            }
        }
        if let Some(whole) = client.session.whole().and_then(|w| restored.client(w.number)) {
            whole.endpoint.adopt(client.clone());
        }
        restored.note(client);
    }
}
