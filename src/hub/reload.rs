//! Carrying out a plan: new children are started first, then everything is switched at once, then the old drains.

use std::sync::Arc;

use log::warn;

use super::error::Error;
use super::hub::Hub;
use super::server::backend::Backend;
use super::server::server::Server;
use crate::hub::child::stderr::log_words;
use crate::model::config::{self, Config};
use crate::model::plan::Plan;
use crate::rt::task;

/// What was started for a new configuration and serves no client yet.
#[derive(Default)]
pub(crate) struct Prepared {
    ready: Vec<One>,
}

struct One {
    server: Arc<Server>,
    config: config::Server,
    backend: Arc<dyn Backend>,
}

/// Starts what the plan adds and replaces. If a required server cannot start, nothing has changed and the error says
/// why.
pub(crate) async fn prepare(hub: &Arc<Hub>, plan: &Plan, new: &Config) -> Result<Prepared, Error> {
    let mut starts = Vec::new();
    for name in plan.add.iter().chain(&plan.replace) {
        let Some(config) = new.servers.get(name).cloned() else { continue };
        let umask = new.umask;
        let server = hub.server(name).unwrap_or_else(|| hub.make_server(name, &config));
        let Some(backend) = hub.make_backend(&server.core, &config.kind) else { continue };
        starts.push(task::spawn(async move {
            let outcome = backend.prepare(umask).await;
            (One { server, config, backend }, outcome)
        }));
    }
    let mut prepared = Prepared::default();
    let mut refused = Vec::new();
    for start in starts {
        let (one, outcome) = start.await;
        if let Err(Error::Start { words, .. }) = &outcome {
            log_words(one.server.name(), words);
        }
        match outcome {
            Ok(()) => {}
            Err(why) if one.config.required => {
                refused.push((one.server.name().to_owned(), why.to_string()));
                continue;
            }
            Err(why) => warn!("server '{}' cannot start yet: {why}", one.server.name()),
        }
        prepared.ready.push(one);
    }
    if refused.is_empty() {
        return Ok(prepared);
    }
    prepared.discard().await;
    Err(Error::Reload(refused))
}

/// Replaces the children of one server by new ones, as a reload does whose file has another command for it. The error says
/// why the old ones go on.
pub(crate) async fn restart(hub: &Arc<Hub>, server: &Arc<Server>) -> Result<(), Error> {
    let config = server.config();
    let Some(backend) = hub.make_backend(&server.core, &config.kind) else {
        return Err(Error::ServerRemoved);
    };
    let outcome = backend.prepare(hub.ctx.config().umask).await;
    if let Err(Error::Start { words, .. }) = &outcome {
        log_words(server.name(), words);
    }
    let gone = hub.server(server.name()).is_none_or(|now| !Arc::ptr_eq(&now, server)) || hub.ctx.draining.is_set();
    match outcome {
        Ok(()) if !gone => {
            server.install(config, backend);
            Ok(())
        }
        outcome => {
            backend.discard().await;
            outcome.and(Err(Error::ServerRemoved))
        }
    }
}

impl Prepared {
    /// Stops what was started in vain.
    pub(crate) async fn discard(self) {
        for one in self.ready {
            one.backend.discard().await;
        }
    }

    /// Switches to the new configuration. Nothing here can fail.
    pub(crate) fn apply(self, hub: &Arc<Hub>, plan: &Plan, new: Arc<Config>) {
        hub.ctx.set_config(new.clone());
        for One { server, config, backend } in self.ready {
            hub.servers.insert(server.clone());
            server.install(config, backend);
        }
        for name in &plan.adjust {
            if let (Some(server), Some(config)) = (hub.server(name), new.servers.get(name)) {
                server.adjust(config.clone());
            }
        }
        for name in plan.keep.iter().chain(&plan.adjust) {
            if let Some(backend) = hub.server(name).and_then(|s| s.backend()) {
                backend.retry();
            }
        }
        for name in &plan.remove {
            if let Some(server) = hub.servers.remove(name) {
                let hub = hub.clone();
                task::spawn(async move {
                    server.retire(|client, why| hub.end_session(client, why)).await;
                });
            }
        }
        hub.renew_bridge();
        hub.ctx.changed();
    }
}
