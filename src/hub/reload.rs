//! Carrying out a plan: new children are started first, then everything is switched at once, then the old drains.

use std::sync::{Arc, PoisonError};

use log::warn;

use super::Hub;
use super::exec::Executor;
use super::link::Link;
use super::server::{Engine, Server};
use super::supervisor::{self, Supervisor};
use crate::model::config::{self, Config, Kind};
use crate::model::plan::Plan;
use crate::model::status::ServerState;

/// Children that were started for a new configuration and serve nobody yet.
#[derive(Default)]
pub struct Prepared {
    ready: Vec<(Arc<Server>, config::Server, Option<Arc<Link>>)>,
}

/// Starts what the plan adds and replaces. If a required server cannot start, nothing has changed and the error says
/// why.
pub async fn prepare(hub: &Arc<Hub>, plan: &Plan, new: &Config) -> Result<Prepared, String> {
    let mut starts = Vec::new();
    for name in plan.add.iter().chain(&plan.replace) {
        let Some(config) = new.servers.get(name).cloned() else { continue };
        let umask = new.umask;
        let server = hub.server(name).unwrap_or_else(|| Server::new(name, config.clone(), hub.clone()));
        starts.push(async_std::task::spawn(async move {
            let outcome = match &config.kind {
                Kind::Stdio(stdio) => {
                    supervisor::start(&server, Arc::new((**stdio).clone()), umask, None).await.map(Some)
                }
                Kind::Exec(_) => Ok(None),
            };
            (server, config, outcome)
        }));
    }
    let mut prepared = Prepared::default();
    let mut refused = Vec::new();
    for start in starts {
        let (server, config, outcome) = start.await;
        match outcome {
            Ok(link) => prepared.ready.push((server, config, link)),
            Err(failure) if config.required => {
                refused.push(format!("required server '{}' cannot start: {}", server.name, failure.text));
            }
            Err(failure) => {
                warn!("server '{}' cannot start yet: {}", server.name, failure.text);
                prepared.ready.push((server, config, None));
            }
        }
    }
    if refused.is_empty() {
        return Ok(prepared);
    }
    prepared.discard().await;
    Err(refused.join("\n"))
}

impl Prepared {
    /// Stops what was started in vain.
    pub async fn discard(self) {
        for (_, config, link) in self.ready {
            if let (Kind::Stdio(stdio), Some(link)) = (&config.kind, link) {
                link.stop(&stdio.stop).await;
            }
        }
    }

    /// Switches to the new configuration. Nothing here can fail.
    pub fn apply(self, hub: &Arc<Hub>, plan: &Plan, new: Arc<Config>) {
        *hub.config.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
        for (server, config, link) in self.ready {
            hub.servers.lock().unwrap_or_else(PoisonError::into_inner).insert(server.name.clone(), server.clone());
            install(&server, config, link);
        }
        for name in &plan.adjust {
            if let (Some(server), Some(config)) = (hub.server(name), new.servers.get(name)) {
                adjust(&server, config.clone());
            }
        }
        for name in plan.keep.iter().chain(&plan.adjust) {
            if let Some(Engine::Child { supervisor, link: None }) = hub.server(name).map(|s| s.engine()) {
                supervisor.retry();
            }
        }
        for name in &plan.remove {
            let removed = hub.servers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
            if let Some(server) = removed {
                async_std::task::spawn(retire(server));
            }
        }
        hub.changed();
    }
}

/// Gives a server its engine under a new configuration; the one before drains.
pub fn install(server: &Arc<Server>, config: config::Server, link: Option<Arc<Link>>) {
    let before = match &config.kind {
        Kind::Stdio(stdio) => {
            let supervisor = Supervisor::new((**stdio).clone());
            let engine = Engine::Child { supervisor: supervisor.clone(), link: link.clone() };
            let before = server.set_engine(engine, config);
            supervisor.run(server, link);
            before
        }
        Kind::Exec(exec) => {
            let executor = Executor::new(&server.name, (**exec).clone());
            let before = server.set_engine(Engine::Exec(executor), config);
            server.enter(ServerState::Ready, None);
            before
        }
    };
    match before {
        Engine::Child { supervisor, link } => server.hub.retire(supervisor, link),
        Engine::Exec(exec) => server.hub.retire_executor(exec),
        Engine::None => {}
    }
}

/// Settings that leave the process as it is.
fn adjust(server: &Arc<Server>, config: config::Server) {
    match (server.engine(), &config.kind) {
        (Engine::Child { supervisor, link }, Kind::Stdio(stdio)) => {
            supervisor.adjust((**stdio).clone());
            if let Some(link) = &link {
                link.adjust((**stdio).clone());
            }
            server.set_engine(Engine::Child { supervisor, link }, config);
        }
        (Engine::Exec(exec), Kind::Exec(new)) => {
            exec.adjust((**new).clone());
            server.set_engine(Engine::Exec(exec), config);
            server.lists_changed();
        }
        _ => {}
    }
}

async fn retire(server: Arc<Server>) {
    match server.engine() {
        Engine::Child { supervisor, link } => {
            server.hub.retire(supervisor.clone(), link);
            supervisor.done().await;
        }
        Engine::Exec(exec) => {
            server.hub.retire_executor(exec.clone());
            exec.idle().await;
        }
        Engine::None => {}
    }
    server.enter(ServerState::Stopped, None);
    server.end_sessions();
}
