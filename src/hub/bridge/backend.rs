//! All servers as what a server is made of.

use std::collections::HashMap;
use std::sync::Arc;

use super::known::Catalogue;
use super::session::{Bridge, BridgeSession};
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Answer, Endpoint, ListAnswer};
use crate::hub::client::session::Session;
use crate::hub::client::subscription::LISTS;
use crate::hub::error::Error;
use crate::hub::leaving::Leaving;
use crate::hub::server::backend::{Backend, Opened};
use crate::hub::server::core::Core;
use crate::hub::server::servers::Servers;
use crate::model::bridge::{List, Naming};
use crate::model::envelope::{Envelope, quote};
use crate::model::modern::Era;
use crate::model::status::ServerState;
use crate::sys::lock::Lock;

/// All servers as one. Each of its sessions is answered by a [`BridgeSession`].
pub(crate) struct BridgeBackend(pub Arc<Bridge>);

impl BridgeBackend {
    pub(crate) fn new(core: &Arc<Core>, servers: &Arc<Servers>, naming: &Naming) -> Arc<BridgeBackend> {
        let title = quote(&format!("All servers of {}", core.ctx.config().name));
        let version = env!("CARGO_PKG_VERSION");
        Arc::new(BridgeBackend(Arc::new(Bridge {
            core: core.clone(),
            servers: servers.clone(),
            catalogue: Catalogue::new(naming),
            server_info: format!(r#"{{"name":"mcpdaemon","title":{title},"version":"{version}"}}"#).into(),
            sessions: Lock::new(HashMap::new()),
        })))
    }

    /// The names of the servers, or the servers, have changed.
    pub(crate) fn name(&self, naming: &Naming) {
        let alias = |name: &String| Some((name.clone(), self.0.servers.get(name)?.config().alias?));
        let names = self.0.servers.names();
        let aliases = names.iter().filter_map(alias).collect();
        self.0.catalogue.renew(naming, names, aliases);
    }

    /// Tells its sessions that the servers have changed.
    pub(crate) fn notify_clients(&self) {
        for session in self.0.members() {
            session.attach_all();
            LISTS.into_iter().for_each(|list| session.note_change(list));
        }
    }

    /// A server can be asked: sessions that missed it hear of it.
    pub(crate) fn hear_of(&self, server: &str) {
        if self.0.catalogue.forgive(server) {
            self.0.all_changed();
        }
    }

    /// Who has answered a session in the program before.
    pub(crate) fn reopen(
        &self,
        session: &Arc<Session>,
        params: Option<&str>,
        aliases: &[(String, String, String)],
    ) -> Arc<BridgeSession> {
        let one = BridgeSession::new(&self.0, session);
        if let Some(params) = params {
            one.restore_params(params);
        }
        aliases.iter().for_each(|(server, own, public)| one.note_alias(server, own, public));
        one
    }
}

/// It lasts as long as the daemon, and has nothing that could go on.
impl Leaving for BridgeBackend {}

impl Backend for BridgeBackend {
    fn condition(&self) -> Option<(ServerState, Option<String>)> {
        Some((ServerState::Ready, None))
    }

    fn open(&self, opened: Opened<'_>) -> Option<Arc<dyn Endpoint>> {
        let session = BridgeSession::new(&self.0, opened.session);
        if let Some(params) = opened.shaken {
            params.into_iter().for_each(|params| session.restore_params(params));
            session.attach_all();
        }
        Some(session)
    }

    fn checks_headers(&self) -> bool {
        true
    }

    /// Requests are answered by their sessions.
    fn request(&self, call: Call, _e: &Envelope<'_>, _era: Era) -> Option<Call> {
        Some(call)
    }

    fn ready<'a>(&'a self, _session: &'a Arc<Session>, _era: Era) -> Answer<'a, Result<(), Error>> {
        Box::pin(async { Err(Error::SessionEnded) })
    }

    fn list<'a>(&'a self, _session: &'a Arc<Session>, _list: List, _patient: bool) -> ListAnswer<'a> {
        Box::pin(async { Ok(Arc::default()) })
    }
}
