//! Carrying out a plan: new children are started first, then everything is switched at once, then the old drains.

use std::sync::Arc;
use std::time::Duration;

use log::warn;

use super::Hub;
use super::exclusive::Nest;
use super::exec::Executor;
use super::link::Link;
use super::server::{Children, Engine, Server};
use super::slot::{Slot, Wish};
use super::starting;
use super::supervisor::Supervisor;
use crate::model::config::server::Sharing;
use crate::model::config::{self, Config, Kind};
use crate::model::plan::Plan;
use crate::model::status::ServerState;
use crate::rt::wait::{sleep, within};
use crate::sys::lock::Lock;

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
                    starting::start(&server, Arc::new((**stdio).clone()), umask, Wish::Any, None).await.map(Some)
                }
                Kind::Exec(_) | Kind::Bridge(_) => Ok(None),
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
        *hub.config.lock() = new.clone();
        for (server, config, link) in self.ready {
            hub.servers.lock().insert(server.name.clone(), server.clone());
            install(&server, config, link);
        }
        for name in &plan.adjust {
            if let (Some(server), Some(config)) = (hub.server(name), new.servers.get(name)) {
                adjust(&server, config.clone());
            }
        }
        for name in plan.keep.iter().chain(&plan.adjust) {
            let slots = hub.server(name).and_then(|s| s.children()).map(|c| c.all()).unwrap_or_default();
            for slot in slots.iter().filter(|s| s.any_link().is_none()) {
                slot.supervisor.retry();
            }
        }
        for name in &plan.remove {
            let removed = hub.servers.lock().remove(name);
            if let Some(server) = removed {
                async_std::task::spawn(retire(server));
            }
        }
        hub.renew_bridge();
        hub.changed();
    }
}

/// Gives a server its engine under a new configuration; the one before drains.
pub fn install(server: &Arc<Server>, config: config::Server, link: Option<Arc<Link>>) {
    install_with(server, config, Adopted { slots: vec![link], spares: Vec::new() });
    if let Some(exec) = server.executor() {
        exec.warn();
    }
}

/// Children that are there already: one for each slot, as far as there are any, and those that wait for a session.
#[derive(Default)]
pub struct Adopted {
    pub slots: Vec<Option<Arc<Link>>>,
    pub spares: Vec<Arc<Link>>,
}

/// The same with children that are there already.
pub fn install_with(server: &Arc<Server>, config: config::Server, adopted: Adopted) {
    let before = match &config.kind {
        Kind::Stdio(stdio) => {
            let size = match stdio.sharing {
                Sharing::Pool(n) => n,
                _ => 1,
            };
            let place = |n: u32| if size > 1 { format!(" ({n} of {size})") } else { String::new() };
            let slot = |n| Slot::new(server, Supervisor::new((**stdio).clone()), Wish::Any, &place(n));
            let slots: Vec<_> = (1..=size).map(slot).collect();
            let nest = match stdio.sharing {
                Sharing::PerSession { max, idle, spare } => {
                    Some(Nest::new(Arc::new((**stdio).clone()), max, idle, spare, adopted.spares))
                }
                _ => None,
            };
            let (modern, probing) = (Lock::default(), Lock::default());
            let children = Arc::new(Children { slots, modern, nest, probing });
            let before = server.set_engine(Engine::Children(children.clone()), config);
            if let Some(nest) = &children.nest {
                nest.watch(server);
            }
            let again = matches!(before, Engine::Children(_));
            let mut first = adopted.slots.into_iter();
            for slot in &children.slots {
                slot.supervisor.run(server, slot, first.next().flatten(), again);
            }
            before
        }
        Kind::Exec(exec) => {
            let executor = Executor::new(&server.name, (**exec).clone());
            let before = server.set_engine(Engine::Exec(executor), config);
            server.enter(ServerState::Ready);
            before
        }
        // It is made with the hub, and no entry of `servers`.
        Kind::Bridge(_) => Engine::None,
    };
    if let Kind::Stdio(stdio) = &server.config().kind {
        let config = server.children().and_then(|c| c.nest.as_ref().map(|n| n.config()));
        let config = config.unwrap_or_else(|| Arc::new((**stdio).clone()));
        server.sessions().iter().filter_map(|s| s.exclusive()).for_each(|own| own.replace(&config));
    }
    match before {
        Engine::Children(children) => {
            server.hub.retire(&children);
            if children.modern_slot().is_some() {
                // The new children are asked anew which era they speak, once somebody wants to know.
                server.end_forwarded_listens();
            }
        }
        Engine::Exec(exec) => server.hub.retire_executor(exec),
        Engine::Bridge(_) | Engine::None => {}
    }
}

/// Settings that leave the process as it is.
fn adjust(server: &Arc<Server>, config: config::Server) {
    match (server.engine(), &config.kind) {
        (Engine::Children(children), Kind::Stdio(stdio)) => {
            for slot in children.all() {
                slot.supervisor.adjust((**stdio).clone());
                if let Some(link) = slot.any_link() {
                    link.adjust((**stdio).clone());
                }
            }
            if let Some(nest) = &children.nest {
                let config = Arc::new((**stdio).clone());
                nest.adjust(&config);
                server.sessions().iter().filter_map(|s| s.exclusive()).for_each(|own| own.adjust(&config));
            }
            let shown = server.tools();
            server.set_engine(Engine::Children(children), config);
            if server.tools() != shown {
                server.lists_changed();
            }
        }
        (Engine::Exec(exec), Kind::Exec(new)) => {
            exec.adjust((**new).clone());
            exec.warn();
            server.set_engine(Engine::Exec(exec), config);
            server.lists_changed();
        }
        _ => {}
    }
}

async fn retire(server: Arc<Server>) {
    server.sessions().iter().for_each(|s| s.end_listens());
    match server.engine() {
        Engine::Children(children) => {
            server.hub.retire(&children);
            // Children of sessions finish what they have, as the shared ones do.
            let busy = || server.sessions().iter().any(|s| s.exclusive().is_some() && s.in_flight() > 0);
            let quiet = async {
                while busy() && !server.hub.hurry.is_set() {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            let _ = within(server.hub.config().drain_timeout, quiet).await;
            for slot in children.all() {
                slot.supervisor.done().await;
            }
        }
        Engine::Exec(exec) => {
            server.hub.retire_executor(exec.clone());
            exec.idle().await;
        }
        Engine::Bridge(_) | Engine::None => {}
    }
    server.end_sessions();
    server.enter(ServerState::Stopped);
}
