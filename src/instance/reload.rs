//! Reloading: single-flight, never lost, and all or nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use log::{error, info, warn};

use super::state::{Instance, now};
use crate::hub::prepare;
use crate::model::exit::plain;
use crate::model::plan::diff;
use crate::model::status::{InstanceState, Reload};
use crate::net::Net;
use crate::rt::blocking::blocking;
use crate::rt::wait::until;
use crate::source::lines;
use crate::sys::become_daemon;

impl Instance {
    pub(super) fn want_reload(&self) {
        self.wanted.store(true, SeqCst);
        self.wake.notify(usize::MAX);
    }

    /// Carries out reloads and upgrades, one at a time; one that is asked for meanwhile follows.
    pub(super) async fn reloads(self: Arc<Self>, net: Arc<Net>) {
        loop {
            let upgrade = until(&self.wake, || {
                let upgrade = self.wanted_upgrade.swap(false, SeqCst);
                (upgrade || self.wanted.swap(false, SeqCst)).then_some(upgrade)
            })
            .await;
            if self.hub.ctx.draining.is_set() {
                return;
            }
            self.enter(InstanceState::Reloading);
            if let Some(notifier) = &self.notifier {
                notifier.reloading();
            }
            if upgrade {
                let why = self.upgrade(&net).await;
                error!("not upgraded, the old program goes on: {why}");
                self.hub.ctx.send_event("upgrade-refused", None, Some(&why));
                self.note_upgrade(false, why);
                let mut life = self.life();
                if life.state == InstanceState::Reloading {
                    life.state = InstanceState::Ready;
                }
                drop(life);
                self.hub.ctx.changed();
                if let Some(notifier) = &self.notifier {
                    notifier.ready(&self.in_a_line());
                }
                continue;
            }
            let outcome = self.reload(&net).await;
            {
                let mut life = self.life();
                let (ok, text) = match outcome {
                    Ok(text) => {
                        info!("reloaded: {text}");
                        life.generation += 1;
                        (true, text)
                    }
                    Err(text) => {
                        error!("reload refused, still running the old configuration: {text}");
                        self.hub.ctx.send_event("reload-refused", None, Some(&text));
                        (false, text)
                    }
                };
                life.reloads += 1;
                life.last_reload = Some(Reload { at: now(), ok, text });
                if life.state == InstanceState::Reloading {
                    life.state = InstanceState::Ready;
                }
            }
            self.hub.ctx.changed();
            if let Some(notifier) = &self.notifier {
                // Also after a refusal: it serves, and the status says with what.
                notifier.ready(&self.in_a_line());
            }
        }
    }

    /// Reads and checks everything, opens what is new, starts what is new; only then changes anything.
    pub(super) async fn reload(&self, net: &Arc<Net>) -> Result<String, String> {
        if let Some(path) = self.log.path()
            && let Err(e) = self.log.reopen()
        {
            error!("{}: cannot reopen the log, going on with the old one: {}", path.display(), plain(&e));
        }
        let source = self.source.clone();
        let old = self.hub.ctx.config();
        let name = old.name.clone();
        let loaded = blocking(move || {
            let loaded = source.load()?;
            match loaded.config.name == name {
                true => Ok((loaded, false)),
                // A running instance keeps its name, and all that follows from it, such as the path of its log.
                false => source.named(&name).load().map(|loaded| (loaded, true)),
            }
        });
        let (loaded, renamed) = loaded.await.map_err(|problems| lines(&problems))?;
        loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
        let (new, texts) = (loaded.config, loaded.texts);
        let mut plan = diff(&old, &new);
        if renamed {
            plan.restart_needed.push("name");
        }
        let opened = net.open(&plan.open, new.next_ports, &plan.close).await.map_err(|failure| failure.text)?;
        let log = self.log.prepare(&new.log);
        let log = log.map_err(|e| format!("{}: cannot open the log: {}", new.log.file.display(), plain(&e)))?;
        let prepared = prepare(&self.hub, &plan, &new).await.map_err(|e| e.to_string())?;
        if self.hub.ctx.draining.is_set() {
            prepared.discard().await;
            return Err("the daemon is shutting down".to_owned());
        }
        self.log.apply(log);
        become_daemon::set_umask(new.umask.0);
        prepared.apply(&self.hub, &plan, Arc::new(new));
        self.hub.end_strangers();
        for (at, socket) in opened {
            if let Err(e) = net.listen(at.clone(), socket) {
                error!("cannot listen on {at}: {}", plain(&e));
            }
        }
        for at in &plan.close {
            net.unlisten(at);
        }
        for (old, new) in &plan.touch {
            if let Err(why) = net.touch(old, new) {
                error!("{why}");
            }
        }
        *self.texts.lock() = texts;
        Ok(plan.summary())
    }
}
