//! All servers and sessions of the instance: which there are.
//!
//! What becomes of them is in the files beside this one: sessions open and end ([`super::sessions`]), a reload replaces
//! servers ([`super::reload`]), all of it stops ([`super::stop`]) or goes on in another program ([`super::upgrade`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use super::bridge::backend::BridgeBackend;
use super::child::end::run_stop_command;
use super::client::endpoint::Client;
use super::context::{Boot, Context};
use super::deleted::Deleted;
use super::kinds::{self, MakeBackend};
use super::server::core::{Core, HeardOf};
use super::server::server::Server;
use super::server::servers::Servers;
use crate::model::config::{self, Config, Kind};
use crate::model::status::ServerState;
use crate::rt::seldom::Seldom;
use crate::rt::task;
use crate::sys::lock::Lock;

/// All servers and sessions of the instance.
pub(crate) struct Hub {
    pub ctx: Arc<Context>,
    pub servers: Arc<Servers>,
    /// What stands for all servers; made at the start.
    pub(super) bridge: OnceLock<(Arc<Server>, Arc<BridgeBackend>)>,
    make: MakeBackend,
    /// Sessions that are named by an id.
    pub(super) clients: Lock<HashMap<String, Client>>,
    /// Sessions that their clients have deleted.
    pub(super) deleted: Lock<Deleted>,
    pub(super) session_count: AtomicU64,
    /// When it was last said that a session has made room for another.
    pub(super) room_told: Seldom,
    /// Clients that wait for a place.
    pub(super) waiting_for_place: AtomicU64,
    pub(super) expiring: AtomicBool,
}

impl Hub {
    pub(crate) fn new(boot: Boot, config: Arc<Config>) -> Arc<Hub> {
        Hub::with(boot, config, kinds::backend)
    }

    /// A hub whose servers are made in another way than by [`kinds::backend`].
    pub(crate) fn with(boot: Boot, config: Arc<Config>, make: MakeBackend) -> Arc<Hub> {
        let hub = Arc::new(Hub {
            ctx: Context::new(boot, config),
            servers: Arc::default(),
            bridge: OnceLock::new(),
            make,
            clients: Lock::default(),
            deleted: Lock::default(),
            session_count: AtomicU64::new(0),
            room_told: Seldom::default(),
            waiting_for_place: AtomicU64::new(0),
            expiring: AtomicBool::new(false),
        });
        let _ = hub.bridge.set(hub.make_bridge());
        hub
    }

    /// Makes the server that stands for all.
    fn make_bridge(&self) -> (Arc<Server>, Arc<BridgeBackend>) {
        let naming = self.ctx.config().bridge.clone().unwrap_or_default();
        let config = config::Server { kind: Kind::Bridge(naming.clone()), required: false, alias: None };
        let core = Core::new(&self.ctx, "bridge", Arc::new(|_: &str| {}));
        let whole = BridgeBackend::new(&core, &self.servers, &naming);
        let server = Server::new(core, config.clone());
        server.install(config, whole.clone());
        (server, whole)
    }

    /// A server that has nothing to serve with yet.
    pub(super) fn make_server(self: &Arc<Self>, name: &str, config: &config::Server) -> Arc<Server> {
        let hub = Arc::downgrade(self);
        let heard_of: HeardOf = Arc::new(move |name| {
            if let Some(hub) = hub.upgrade()
                && let Some((_, whole)) = hub.bridge.get()
            {
                whole.hear_of(name);
            }
        });
        Server::new(Core::new(&self.ctx, name, heard_of), config.clone())
    }

    /// What a server of this configuration is made of.
    pub(super) fn make_backend(
        &self,
        core: &Arc<Core>,
        kind: &Kind,
    ) -> Option<Arc<dyn super::server::backend::Backend>> {
        (self.make)(core, kind)
    }

    /// Adds a server and begins to run it.
    pub(crate) fn add(self: &Arc<Self>, name: &str, config: config::Server) -> Arc<Server> {
        let server = self.make_server(name, &config);
        self.servers.insert(server.clone());
        self.renew_bridge();
        if let Some(backend) = self.make_backend(&server.core, &config.kind) {
            server.install(config, backend);
        }
        server
    }

    /// Runs the `stop` command of each server, before any is started: a daemon that was killed could not do it.
    pub(crate) async fn run_stop_commands(&self) {
        let config = self.ctx.config();
        let run = |(name, server): (&String, &config::Server)| {
            let (ctx, name, kind) = (self.ctx.clone(), name.clone(), server.kind.clone());
            task::spawn(async move {
                if let Some(stdio) = kind.stdio() {
                    run_stop_command(&ctx, &name, stdio, None).await;
                }
            })
        };
        let all: Vec<_> = config.servers.iter().map(run).collect();
        for one in all {
            one.await;
        }
    }

    /// The server with this serial.
    pub(crate) fn server_of(&self, serial: u32) -> Option<Arc<Server>> {
        self.servers.all().into_iter().find(|server| server.core.serial() == serial)
    }

    pub(crate) fn server(&self, name: &str) -> Option<Arc<Server>> {
        self.servers.get(name)
    }

    /// The bridge, if the configuration wants one.
    pub(crate) fn bridge(&self) -> Option<Arc<Server>> {
        self.ctx.config().bridge.as_ref()?;
        self.bridge.get().map(|(server, _)| server.clone())
    }

    /// All servers, and the bridge: whatever has sessions.
    pub(crate) fn servers_and_bridge(&self) -> Vec<Arc<Server>> {
        self.servers.all().into_iter().chain(self.bridge.get().map(|(server, _)| server.clone())).collect()
    }

    /// Every session with who answers it.
    pub(crate) fn all_clients(&self) -> Vec<Client> {
        self.servers_and_bridge().iter().flat_map(|s| s.core.members.clients()).collect()
    }

    /// Who has sessions: what each client says it is, whose it is, and at which server, or at all as one.
    pub(crate) fn who(&self) -> Vec<(String, Option<String>, Option<String>)> {
        let bridge = self.bridge.get().map(|(server, _)| server.name().to_owned());
        let all = self.all_clients().into_iter().filter(|c| c.session.kind.is_lasting());
        let told = all.map(|c| {
            let s = &c.session;
            let server = Some(s.server.to_string()).filter(|name| bridge.as_ref() != Some(name));
            (s.client().unwrap_or_default().to_owned(), s.owner.as_ref().map(ToString::to_string), server)
        });
        told.collect()
    }

    /// Gives the bridge the names that the configuration has.
    pub(super) fn name_bridge(&self) {
        if let Some((_, whole)) = self.bridge.get()
            && let Some(naming) = &self.ctx.config().bridge
        {
            whole.name(naming);
        }
    }

    /// The servers, or the bridge, have changed: sessions of the bridge hear of it.
    pub(super) fn renew_bridge(&self) {
        self.name_bridge();
        let Some((server, whole)) = self.bridge.get() else { return };
        if self.ctx.config().bridge.is_some() {
            return whole.notify_clients();
        }
        for client in server.core.members.clients() {
            self.end_session(&client, "the bridge was taken out of the configuration");
        }
    }

    /// Required servers that are not ready, each with the reason.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        self.missing(|_| None)
    }

    /// Which required servers are not ready, and why, with the words that these have said so far. It is for who starts the
    /// instance: [`Hub::not_ready`] is for everybody.
    pub(crate) fn waits_for(&self) -> Vec<String> {
        self.missing(|server| self.ctx.starts.heard(server))
    }

    fn missing(&self, heard: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let servers = self.servers.all();
        let missing =
            servers.iter().filter(|s| s.required() && !matches!(s.phase(), ServerState::Ready | ServerState::Idle));
        let say = |s: &Arc<Server>| match s.condition() {
            (phase, Some(why)) => format!("server '{}' is {phase}: {why}", s.name()),
            (ServerState::Starting, None) if self.ctx.starts.patience(s.name()) > 1 => {
                format!("server '{}' is starting again, with more time (start_timeout was too short)", s.name())
            }
            (phase, None) => format!("server '{}' is {phase}", s.name()),
        };
        let with_words = |s: &Arc<Server>| match heard(s.name()) {
            Some(words) => format!("{}; it said: {words}", say(s)),
            None => say(s),
        };
        missing.map(with_words).collect()
    }
}
