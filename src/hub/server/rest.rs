//! A server on its way from one program to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Engine, Server, Verdict};
use crate::hub::handover::{Restored, Saver};
use crate::hub::link::Link;
use crate::hub::modern;
use crate::hub::reload::{self, Adopted};
use crate::model::config::{self, Kind};
use crate::model::handover;
use crate::model::status::ServerState;

impl Server {
    /// Everything of it but its sessions.
    pub fn save(&self, saver: &mut Saver) -> handover::Server {
        let (restarts, restarted, last_exit, learnt) = {
            let state = self.state();
            (state.restarts, state.restarted.clone(), state.last_exit.clone(), state.learnt.clone())
        };
        let mut saved = handover::Server {
            name: self.name.clone(),
            restarts,
            restarted,
            last_exit,
            learnt,
            meter: self.meters.save_all(self.hub.seconds()),
            methods: self.meters.save(),
            slots: Vec::new(),
            modern: handover::Era::Unknown,
            spares: Vec::new(),
            commands: Vec::new(),
        };
        match self.engine() {
            Engine::Children(children) => {
                let child = |link: Option<Arc<Link>>, saver: &mut Saver| link.and_then(|l| l.save(saver));
                saved.slots = children.slots.iter().map(|s| child(s.any_link(), saver)).collect();
                saved.modern = match &*children.modern.lock() {
                    Verdict::Unknown => handover::Era::Unknown,
                    Verdict::Modern(slot) => handover::Era::Modern(child(slot.any_link(), saver).map(Box::new)),
                    Verdict::Legacy(at, info) => handover::Era::Legacy(at.elapsed().as_millis() as u64, info.clone()),
                };
                let spares = children.nest.iter().flat_map(|n| n.links());
                saved.spares = spares.filter_map(|link| child(Some(link), saver)).collect();
            }
            Engine::Exec(exec) => saved.commands = exec.save(saver),
            Engine::Bridge(_) | Engine::None => {}
        }
        saved
    }

    /// Goes on with it in the next program; a child that is not there any more is replaced.
    pub fn restore(self: &Arc<Self>, config: config::Server, saved: handover::Server, restored: &Restored) {
        self.meters.load(&saved.methods, &saved.meter);
        {
            let mut state = self.state();
            (state.restarts, state.restarted) = (saved.restarts, saved.restarted);
            (state.last_exit, state.learnt) = (saved.last_exit, saved.learnt);
        }
        let Kind::Stdio(stdio) = &config.kind else {
            reload::install_with(self, config, reload::Adopted::default());
            if let Engine::Exec(exec) = self.engine() {
                exec.restore(saved.commands, restored);
            }
            return;
        };
        let stdio = Arc::new((**stdio).clone());
        let link = |child| Link::restore(self, stdio.clone(), child, restored, None);
        let adopted = Adopted {
            slots: saved.slots.into_iter().map(|child| child.and_then(link)).collect(),
            spares: saved.spares.into_iter().filter_map(link).collect(),
        };
        let modern = match saved.modern {
            handover::Era::Modern(child) => child.and_then(|child| link(*child)).map(Ok),
            handover::Era::Legacy(age, info) => Some(Err((age, info))),
            handover::Era::Unknown => None,
        };
        let links = adopted.slots.clone();
        reload::install_with(self, config, adopted);
        let Some(children) = self.children() else { return };
        for (slot, link) in children.slots.iter().zip(links) {
            // Now, and not when its supervisor first runs: it is set to work with all the others.
            if link.is_some() {
                slot.set_link(link);
                slot.enter(ServerState::Ready, None);
            }
        }
        let verdict = match modern {
            Some(Ok(link)) => Verdict::Modern(modern::slot(self, &stdio, &link)),
            Some(Err((age, info))) => {
                let at = Instant::now().checked_sub(Duration::from_millis(age));
                at.map_or(Verdict::Unknown, |at| Verdict::Legacy(at, info))
            }
            None => Verdict::Unknown,
        };
        *children.modern.lock() = verdict;
    }
}
