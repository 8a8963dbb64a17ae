//! What the instance says of itself: the status document, as a file and live.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use log::warn;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;

use super::state::Instance;
use crate::hub::Server;
use crate::model::config::Kind;
use crate::model::config::server::Sharing;
use crate::model::exit::plain;
use crate::model::health::Limits;
use crate::model::status::{InstanceState, ServerState, Status, clients, reachable};
use crate::model::text::{count, printable};
use crate::net::Admin;
use crate::net::metrics::Measured;
use crate::net::page::Shown;
use crate::rt::blocking::blocking;
use crate::rt::wait::{sleep, timeout};
use crate::sys::clock;
use crate::sys::{files, process};

/// Changes of state within this time become one write of the status file.
const SETTLE: Duration = Duration::from_millis(10);

impl Instance {
    pub(super) fn admin(self: &Arc<Self>) -> Admin {
        let (me, hub) = (Arc::downgrade(self), self.hub.clone());
        let (from, seen) = (me.clone(), me.clone());
        Admin {
            page: Arc::new(move || seen.upgrade().map(|me| me.shown())),
            metrics: Arc::new(move || from.upgrade().map(|me| me.measured())),
            status: Arc::new(move || {
                let status = me.upgrade().map(|me| me.status());
                status.and_then(|s| serde_json::to_string_pretty(&s).ok()).unwrap_or_default()
            }),
            not_ready: Arc::new(move || match hub.ctx.leaving_soon() {
                true => vec!["the daemon is shutting down".to_owned()],
                false => hub.not_ready(),
            }),
        }
    }

    /// How it is, with the health that follows from it; an administrator is told of changes.
    pub(super) fn status(&self) -> Status {
        let config = self.hub.ctx.config();
        let sessions_of = |name: &str| match config.servers.get(name).map(|s| &s.kind)? {
            Kind::Bridge(_) => None,
            Kind::Exec(exec) => Some(exec.sessions),
            Kind::Mcp(mcp) => match mcp.sharing {
                Sharing::PerSession { max, .. } => Some(max),
                _ => None,
            },
        };
        let limits = Limits {
            alerts: &config.alerts,
            connections: config.limits.connections,
            sessions: config.limits.sessions,
            sessions_of: &sessions_of,
        };
        let (status, alerts) = self.monitor.look(|| self.facts(), &limits);
        self.announce_alerts(&alerts);
        status
    }

    /// Everything that the page shows.
    fn shown(&self) -> Shown {
        let status = self.status();
        let running = self.minute(&status, self.hub.ctx.seconds() / 60);
        let (history, news) = self.monitor.told();
        let named = |s: Arc<Server>| Some((s.name().to_owned(), s.tool_names()?));
        let tools = self.hub.servers.all().into_iter().filter_map(named).collect();
        Shown { running, history, news, log: self.log.last(), tools, status }
    }

    /// Everything that a program needs which draws graphs.
    fn measured(&self) -> Measured {
        let second = self.hub.ctx.seconds();
        let of = |s: Arc<Server>| {
            let name = s.name().to_owned();
            s.core.meters.by_method(second).into_iter().map(move |(method, sum)| (name.clone(), method, sum))
        };
        Measured {
            status: self.status(),
            started: self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
            requests: self.hub.servers.all().into_iter().flat_map(of).collect(),
        }
    }

    fn facts(&self) -> Status {
        // Before everything else: mcpctl takes what was written at a time for what was true at it.
        let written = clock::exactly_now();
        let urls = self.net.get().and_then(Weak::upgrade).map(|net| net.urls()).unwrap_or_default();
        let (hub, config) = (&self.hub, self.hub.ctx.config());
        let second = hub.ctx.seconds();
        let in_flight = hub.ctx.load.in_flight();
        let connections = hub.ctx.connections.load(SeqCst);
        let (state, generation, reloads, last_reload, upgrades, last_upgrade, restarts, last_restart) = {
            let life = self.life();
            let (reload, upgrade) = (life.last_reload.clone(), life.last_upgrade.clone());
            let (restarts, restart) = (life.restarts, life.last_restart.clone());
            (life.state, life.generation, life.reloads, reload, life.upgrades, upgrade, restarts, restart)
        };
        let degraded = state == InstanceState::Ready && !hub.not_ready().is_empty();
        let url = reachable(&urls, &config.base_path);
        let mut servers: Vec<_> = hub.servers.all().iter().map(|s| s.status(second)).collect();
        for server in &mut servers {
            server.url = url.as_ref().map(|url| format!("{url}/servers/{}/mcp", server.name));
        }
        let mut waiting_for = Vec::new();
        if state == InstanceState::Draining {
            let busy = servers.iter().filter(|s| s.requests.in_flight > 0);
            waiting_for.extend(
                busy.map(|s| format!("{} of server '{}'", count(s.requests.in_flight as usize, "request"), s.name)),
            );
            if connections > 0 {
                waiting_for.push(count(connections as usize, "connection"));
            }
        }
        let mut dropped = hub.ctx.counters.read();
        dropped.insert("log_lines".to_owned(), self.log.lost());
        let this = Pid::this();
        Status {
            name: config.name.clone(),
            pid: this.as_raw(),
            start_time: self.start_time,
            state: if degraded { InstanceState::Degraded } else { state },
            health: Default::default(),
            generation,
            reloads,
            last_reload,
            upgrades,
            last_upgrade,
            restarts,
            last_restart,
            drain_seconds: (config.lame_duck + config.drain_timeout).as_secs_f64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.source.file.as_ref().map(|p| p.display().to_string()),
            log: self.log.path().map(|p| p.display().to_string()),
            audit: config.audit.as_ref().map(|audit| audit.file.display().to_string()),
            listen: urls,
            auth: config.auth.as_ref().map(|auth| auth.methods()).unwrap_or_default(),
            started: clock::rfc3339(self.started),
            startup_ms: self.life().startup,
            written,
            uptime_seconds: second,
            connections,
            sessions: hub.session_count(),
            clients: clients(hub.who()),
            url: url.filter(|_| config.bridge.is_some()).map(|url| format!("{url}/mcp")),
            waiting_for,
            requests: hub.ctx.meters.sum(second).requests(in_flight),
            methods: hub.ctx.meters.methods(second),
            dropped,
            process: process::usage(&[this.as_raw()], false),
            servers,
            alerts: Vec::new(),
        }
    }

    /// How it goes, in a line, for a service manager.
    pub(super) fn in_a_line(&self) -> String {
        let servers = self.hub.servers.all();
        let (state, refused) = {
            let life = self.life();
            (life.state, life.last_reload.clone().filter(|r| !r.ok))
        };
        let ready = servers.iter().filter(|s| matches!(s.phase(), ServerState::Ready | ServerState::Idle)).count();
        let mut text = match state {
            InstanceState::Ready => format!("serving: {ready} of {} ready", count(servers.len(), "server")),
            other => other.to_string(),
        };
        for why in self.hub.not_ready() {
            text.push_str("; ");
            text.push_str(&why);
        }
        if let Some(refused) = refused {
            text.push_str("; the last reload was refused: ");
            text.push_str(&refused.text);
        }
        printable(&text, 500)
    }

    /// Tells the service manager's watchdog that all threads are well: the tasks by running this, the main thread by
    /// answering.
    pub(super) async fn feed_watchdog(self: Arc<Self>) {
        let Some((notifier, limit)) = self.notifier.as_ref().and_then(|n| Some((n, n.watchdog()?))) else { return };
        loop {
            sleep(limit / 3).await;
            if timeout(limit / 3, self.hub.ctx.boot.spawner.echo()).await.is_some() {
                notifier.alive();
            }
        }
    }

    pub(super) async fn write_status(self: Arc<Self>) {
        let mut seen = 0;
        let mut failed = false;
        let mut told = String::new();
        let mut degraded = false;
        loop {
            seen = self.hub.ctx.change_after(seen).await;
            let missing = if self.life().state == InstanceState::Ready { self.hub.not_ready() } else { Vec::new() };
            if missing.is_empty() == degraded && self.life().state == InstanceState::Ready {
                degraded = !degraded;
                let event = if degraded { "instance-degraded" } else { "instance-recovered" };
                self.hub.ctx.send_event(
                    event,
                    None,
                    Some(&missing.join("; ")).filter(|_| degraded).map(String::as_str),
                );
            }
            if let Some(notifier) = &self.notifier {
                let line = self.in_a_line();
                if line != told {
                    notifier.status(&line);
                    told = line;
                }
            }
            if !self.write_now.swap(false, SeqCst) {
                // A question ends the wait at once.
                let asked = async {
                    let mut heard = seen;
                    while !self.write_now.swap(false, SeqCst) {
                        heard = self.hub.ctx.change_after(heard).await;
                    }
                };
                timeout(SETTLE, asked).await;
            }
            let me = self.clone();
            match blocking(move || me.write_file()).await {
                Ok(()) => failed = false,
                // Once, until it works again: a full disk must not fill the log as well.
                Err(e) if !failed => {
                    failed = true;
                    warn!("{}: cannot write the status: {}", self.status_path.display(), plain(&e));
                }
                Err(_) => {}
            }
        }
    }

    /// Replaces the status file as a whole: a reader sees the old one or the new one.
    pub(super) fn write_file(&self) -> io::Result<()> {
        // One write at a time, and none once the files are removed.
        let closed = self.files_closed.lock();
        if *closed {
            return Ok(());
        }
        let status = self.status();
        let text = serde_json::to_string_pretty(&status).map_err(io::Error::other)? + "\n";
        match files::replace(&self.status_path, &self.tag, 0o644, text.as_bytes()) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => self.rewrite(&text),
            // A full disk has room for no second file, and perhaps in the first one.
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                let room = self.status_path.metadata().is_ok_and(|meta| meta.blocks() * 512 >= text.len() as u64);
                if room { self.rewrite(&text) } else { Err(e) }
            }
            written => written,
        }
    }

    /// Where privileges were dropped, the folder may be another's, and only the file is ours: then it is written in place,
    /// in one piece. Readers try again if they come in between.
    fn rewrite(&self, text: &str) -> io::Result<()> {
        let file = files::open_to_write(&self.status_path)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    }

    /// Removes the status file; the PID file goes with the lock.
    pub(crate) fn remove_files(&self) {
        *self.files_closed.lock() = true;
        if std::fs::remove_file(&self.status_path).is_err() {
            let _ = files::open_to_write(&self.status_path).and_then(|file| file.set_len(0));
        }
    }

    /// Gives up the lock and removes the PID file: from now on the instance is not running.
    pub(crate) fn unlock(&self) {
        if let Some(lock) = self.lock.lock().take() {
            lock.remove();
        }
    }
}
