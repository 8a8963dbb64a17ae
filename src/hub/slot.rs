//! The place of one shared child: its supervisor, the child that it has at the moment, and how that one is.
//!
//! A server has one slot, a pool several, and a server of both eras one more, because one child speaks one era.

use std::sync::{Arc, Weak};

use log::{info, warn};

use super::link::Link;
use super::server::Server;
use super::supervisor::Supervisor;
use crate::model::status::ServerState;
use crate::sys::lock::{Guard, Lock};

/// Which era a child is started in (2026-07-28 basic/versioning).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The handshake of the legacy era; the modern one where the server refuses that.
    Any,
    /// `server/discover` and nothing else.
    Modern,
}

/// See the module.
pub struct Slot {
    pub supervisor: Arc<Supervisor>,
    pub wish: Wish,
    /// For messages: the server's name, and the number where there are several.
    label: String,
    server: Weak<Server>,
    state: Lock<State>,
}

struct State {
    link: Option<Arc<Link>>,
    phase: ServerState,
    reason: Option<String>,
    /// The trouble that somebody was told of, or would like to be told the end of.
    trouble: Option<ServerState>,
}

impl State {
    /// What is worth telling of the way to another state.
    fn news(&mut self, phase: ServerState) -> Option<&'static str> {
        match phase {
            ServerState::Failed | ServerState::Unhealthy => {
                let before = self.trouble.replace(phase);
                let event = if phase == ServerState::Failed { "server-failed" } else { "server-unhealthy" };
                (before != Some(phase)).then_some(event)
            }
            ServerState::Backoff => {
                self.trouble.get_or_insert(phase);
                None
            }
            ServerState::Ready => match self.trouble.take()? {
                ServerState::Backoff => Some("server-restarted"),
                _ => Some("server-recovered"),
            },
            _ => None,
        }
    }
}

impl Slot {
    pub fn new(server: &Arc<Server>, supervisor: Arc<Supervisor>, wish: Wish, place: &str) -> Arc<Slot> {
        Arc::new(Slot {
            supervisor,
            wish,
            label: format!("server '{}'{place}", server.name),
            server: Arc::downgrade(server),
            state: Lock::new(State { link: None, phase: ServerState::Starting, reason: None, trouble: None }),
        })
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// The living child, if it is ready.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.state().link.clone().filter(|l| !l.is_dead())
    }

    /// The child, also one that is about to end.
    pub fn any_link(&self) -> Option<Arc<Link>> {
        self.state().link.clone()
    }

    pub fn phase(&self) -> (ServerState, Option<String>) {
        let state = self.state();
        (state.phase, state.reason.clone())
    }

    /// What is wrong with it, for an error message.
    pub fn trouble(&self) -> String {
        let (phase, reason) = self.phase();
        format!("{} is {phase}{}", self.label, reason.map_or(String::new(), |r| format!(": {r}")))
    }

    /// Its child is ready, or gone.
    pub fn set_link(&self, new: Option<Arc<Link>>) {
        self.state().link.clone_from(&new);
        if let (Some(server), Some(link)) = (self.server.upgrade(), new) {
            server.note_child(self, &link);
        }
    }

    /// Moves to another state, for everybody to see.
    pub fn enter(&self, phase: ServerState, reason: Option<String>) {
        {
            let mut state = self.state();
            if state.phase == phase && state.reason == reason {
                return;
            }
            state.phase = phase;
            state.reason.clone_from(&reason);
        }
        // A slot that was replaced goes down in silence: the server is spoken for by another.
        let server = self.server.upgrade().filter(|s| s.has(self));
        let Some(server) = server else { return };
        let news = self.state().news(phase);
        if let Some(event) = news {
            server.hub.tell(event, Some(&server.name), reason.as_deref());
        }
        match (phase, reason) {
            (ServerState::Failed | ServerState::Backoff, Some(why)) => warn!("{} is {phase}: {why}", self.label),
            (_, Some(why)) => info!("{} is {phase}: {why}", self.label),
            (_, None) => info!("{} is {phase}", self.label),
        }
        server.announce();
    }
}
