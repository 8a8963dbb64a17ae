//! Reloading: single-flight, never lost, and all or nothing.

use std::fs::File;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use log::{error, info, warn};

use super::state::Instance;
use crate::hub::{Audit, prepare, restart};
use crate::model::exit::plain;
use crate::model::plan::diff;
use crate::model::status::{InstanceState, Reload, Restart};
use crate::net::Net;
use crate::rt::async_fd::AsyncFd;
use crate::rt::blocking::blocking;
use crate::rt::wait::until;
use crate::source::lines;
use crate::sys::clock;
use crate::sys::{become_daemon, signals};

/// So many restarts of servers may be wanted at a time.
const RESTARTS: usize = 1000;

/// What is to be done next.
enum Wish {
    Upgrade,
    Reload,
    /// Another child for the server with this serial.
    Restart(u32),
}

impl Instance {
    fn next_wish(&self) -> Option<Wish> {
        if self.wanted_upgrade.swap(false, SeqCst) {
            return Some(Wish::Upgrade);
        }
        if self.wanted.swap(false, SeqCst) {
            return Some(Wish::Reload);
        }
        self.wanted_restarts.lock().pop_front().map(Wish::Restart)
    }

    /// Follows the signals that ask for another child of a server.
    pub(super) async fn follow_restarts(self: Arc<Self>, signals: File) {
        let Ok(signals) = AsyncFd::new(signals) else { return };
        while let Ok(serial) = poll_fn(|cx| signals.poll_take(cx, signals::next_restart)).await {
            {
                let mut all = self.wanted_restarts.lock();
                if all.len() < RESTARTS && !all.contains(&serial) {
                    all.push_back(serial);
                }
            }
            self.wake.notify(usize::MAX);
        }
    }

    /// Gives a server another child, the new one first.
    async fn restart(self: &Arc<Self>, serial: u32) {
        let server = self.hub.server_of(serial);
        let name = server.as_ref().map_or(String::new(), |server| server.name().to_owned());
        let outcome = match &server {
            Some(server) => {
                info!("server '{name}': a new child is wanted");
                restart(&self.hub, server).await.map_err(|why| why.to_string())
            }
            None => Err("there is no such server any more".to_owned()),
        };
        let (ok, text) = match outcome {
            Ok(()) => (true, format!("server '{name}' has a new child")),
            Err(why) => (false, format!("server '{name}': {why}")),
        };
        match ok {
            true => info!("{text}"),
            false => error!("{text}"),
        }
        self.record("restart", ok, &text);
        self.log_written().await;
        let mut life = self.life();
        life.restarts += 1;
        life.last_restart = Some(Restart { at: clock::now(), server: name, serial, ok, text });
        drop(life);
        self.hub.ctx.changed();
    }

    /// Something that was done to the instance stands in the audit record.
    pub(super) fn record(&self, event: &str, ok: bool, text: &str) {
        let audit = &self.hub.ctx.audit;
        if audit.is_on() {
            let outcome = if ok { "ok" } else { "error" };
            audit.write(Audit::line(event).text("outcome", Some(outcome)).text("reason", Some(text)));
        }
    }

    /// Waits until everything that was said is in the log: who asked looks there, once there is an outcome.
    pub(super) async fn log_written(&self) {
        let log = self.log.clone();
        blocking(move || log.flush(Duration::from_secs(1))).await;
    }

    pub(super) fn want_reload(&self) {
        self.wanted.store(true, SeqCst);
        self.wake.notify(usize::MAX);
    }

    /// Carries out reloads and upgrades, one at a time; one that is asked for meanwhile follows.
    pub(super) async fn reloads(self: Arc<Self>, net: Arc<Net>) {
        loop {
            let wish = until(&self.wake, || self.next_wish()).await;
            if self.hub.ctx.draining.is_set() {
                return;
            }
            if let Wish::Restart(serial) = wish {
                self.restart(serial).await;
                continue;
            }
            self.enter(InstanceState::Reloading);
            if let Some(notifier) = &self.notifier {
                notifier.reloading();
            }
            if let Wish::Upgrade = wish {
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
            let (ok, text) = match self.reload(&net).await {
                Ok(text) => {
                    info!("reloaded: {text}");
                    (true, text)
                }
                Err(text) => {
                    error!("reload refused, still running the old configuration: {text}");
                    self.hub.ctx.send_event("reload-refused", None, Some(&text));
                    (false, text)
                }
            };
            self.reloaded.notify(usize::MAX);
            self.record("reload", ok, &text);
            self.log_written().await;
            {
                let mut life = self.life();
                life.generation += u64::from(ok);
                life.reloads += 1;
                life.last_reload = Some(Reload { at: clock::now(), ok, text });
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
        let record = Audit::open(new.audit.as_ref()).map_err(|e| {
            let path = new.audit.as_ref().map(|audit| audit.file.display().to_string()).unwrap_or_default();
            format!("{path}: cannot open the audit record: {}", plain(&e))
        })?;
        let prepared = prepare(&self.hub, &plan, &new).await.map_err(|e| e.to_string())?;
        if self.hub.ctx.draining.is_set() {
            prepared.discard().await;
            return Err("the daemon is shutting down".to_owned());
        }
        self.log.apply(log);
        if let Err(e) = self.hub.ctx.audit.set(new.audit.as_ref(), record) {
            error!("cannot start a thread for the audit record: {}", plain(&e));
        }
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
