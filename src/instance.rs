//! A running instance: becomes ready, follows signals, reloads, writes its status, drains.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use event_listener::Event;
use futures_lite::{FutureExt, StreamExt};
use log::{error, info, warn};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_async_std::Signals;

use crate::daemon::open_socket;
use crate::hub::wait::{sleep, until};
use crate::hub::{Hub, reload};
use crate::logging::{self, LogFile};
use crate::model::config::server::Allow;
use crate::model::config::{Config, Kind, Listen};
use crate::model::exit::{Exit, Failure, plain};
use crate::model::plan::diff;
use crate::model::status::{InstanceState, Reload, Status};
use crate::model::text::count;
use crate::net::Net;
use crate::net::admin::Admin;
use crate::source::{Source, lines};
use crate::sys::become_daemon::Readiness;
use crate::sys::listen::Socket;
use crate::sys::pidfd::PidFd;
use crate::sys::pidfile::PidFile;
use crate::sys::{fds, paths, process, reap};

/// How often the PID file is looked at: somebody may have deleted it.
const WATCH: Duration = Duration::from_secs(60);
/// Changes of state within this time become one write of the status file.
const SETTLE: Duration = Duration::from_millis(10);

/// The signals that the daemon follows.
pub fn signals() -> io::Result<Signals> {
    Signals::new([SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD])
}

/// One instance, from its first server to its last.
pub struct Instance {
    hub: Arc<Hub>,
    net: OnceLock<Weak<Net>>,
    source: Source,
    log: LogFile,
    run_dir: PathBuf,
    status_path: PathBuf,
    pid_path: PathBuf,
    lock: Mutex<Option<PidFile>>,
    started: SystemTime,
    life: Mutex<Life>,
    /// A reload is wanted.
    wanted: AtomicBool,
    wake: Event,
    /// The status file shall be written although nothing changed.
    write_now: AtomicBool,
    written: AtomicU64,
}

struct Life {
    state: InstanceState,
    generation: u64,
    reloads: u64,
    last_reload: Option<Reload>,
}

impl Instance {
    pub fn new(hub: Arc<Hub>, source: Source, log: LogFile, run_dir: &Path, lock: PidFile) -> Arc<Instance> {
        let name = hub.config().name.clone();
        Arc::new(Instance {
            hub,
            net: OnceLock::new(),
            source,
            log,
            run_dir: run_dir.to_owned(),
            status_path: run_dir.join(format!("{name}.status")),
            pid_path: run_dir.join(format!("{name}.pid")),
            lock: Mutex::new(Some(lock)),
            started: SystemTime::now(),
            life: Mutex::new(Life { state: InstanceState::Starting, generation: 1, reloads: 0, last_reload: None }),
            wanted: AtomicBool::new(false),
            wake: Event::new(),
            write_now: AtomicBool::new(false),
            written: AtomicU64::new(0),
        })
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, state: InstanceState) {
        self.life().state = state;
        self.hub.changed();
    }

    /// The whole life. An error means that the instance never became ready.
    pub async fn live(
        self: &Arc<Self>,
        sockets: Vec<(Listen, Socket)>,
        signals: Signals,
        readiness: Readiness,
    ) -> Result<(), Failure> {
        let net = Net::new(self.hub.clone(), self.admin());
        let _ = self.net.set(Arc::downgrade(&net));
        let writer = async_std::task::spawn(self.clone().write_status());
        let outcome = self.serve(&net, sockets, signals, readiness).await;
        net.close_listeners();
        self.hub.begin_drain();
        self.hub.hurry.set();
        self.hub.stop().await;
        self.end_strangers();
        self.enter(InstanceState::Stopped);
        writer.cancel().await;
        outcome
    }

    async fn serve(
        self: &Arc<Self>,
        net: &Arc<Net>,
        sockets: Vec<(Listen, Socket)>,
        mut signals: Signals,
        mut readiness: Readiness,
    ) -> Result<(), Failure> {
        for (at, socket) in sockets {
            if let Err(e) = net.listen(at.clone(), socket) {
                let failure = Failure::new(Exit::Os, format!("cannot listen on {at}: {}", plain(&e)));
                readiness.failed(&failure);
                return Err(failure);
            }
        }
        let config = self.hub.config();
        for (name, server) in &config.servers {
            self.hub.add(name, server.clone());
        }
        let ready = async { Some(self.required_ready().await) };
        let told = async {
            while let Some(signal) = signals.next().await {
                match signal {
                    SIGTERM | SIGINT | SIGQUIT => return None,
                    // A reload that comes too early is not lost.
                    SIGHUP => self.wanted.store(true, SeqCst),
                    SIGCHLD => drop(reap::sweep()),
                    _ => {}
                }
            }
            None
        };
        match ready.or(told).await {
            Some(Ok(())) => {}
            Some(Err(failure)) => {
                error!("the start failed: {failure}");
                readiness.failed(&failure);
                return Err(failure);
            }
            None => {
                let failure = Failure::new(Exit::Software, "the start was interrupted by a signal");
                readiness.failed(&failure);
                return Err(failure);
            }
        }
        self.announce(net, readiness)?;
        async_std::task::spawn(self.clone().reloads(net.clone()));
        self.follow(net, signals).await;
        Ok(())
    }

    /// Waits until every required server is ready, or one cannot be.
    async fn required_ready(&self) -> Result<(), Failure> {
        for server in self.hub.servers().iter().filter(|s| s.required()) {
            if let Err(why) = server.settled().await {
                return Err(Failure::new(Exit::Software, format!("server '{}': {why}", server.name)));
            }
        }
        Ok(())
    }

    /// Tells everybody that the instance serves: status file first, then the caller.
    fn announce(&self, net: &Net, mut readiness: Readiness) -> Result<(), Failure> {
        self.enter(InstanceState::Ready);
        let config = self.hub.config();
        let text = format!(
            "{}: ready on {} (pid {}, {})",
            config.name,
            net.urls().join(", "),
            Pid::this(),
            count(config.servers.len(), "server")
        );
        info!("{text}");
        if let Err(e) = self.write_file() {
            warn!("{}: cannot write the status: {}", self.status_path.display(), plain(&e));
        }
        let text = if config.hints { format!("{text}\n{}", hints(&config, &net.urls(), &self.run_dir)) } else { text };
        if readiness.is_background() {
            let _ = fds::null_standard_streams();
            if !readiness.ready(&text) {
                return Err(Failure::new(Exit::Software, "whoever started it is gone, so the start is abandoned"));
            }
        }
        Ok(())
    }

    /// Follows signals until the drain is over.
    async fn follow(self: &Arc<Self>, net: &Arc<Net>, mut signals: Signals) {
        let mut drain: Option<async_std::task::JoinHandle<()>> = None;
        loop {
            let signal = async { signals.next().await };
            let watch = async {
                sleep(WATCH).await;
                Some(0)
            };
            let over = async {
                match &mut drain {
                    Some(drain) => drain.await,
                    None => std::future::pending().await,
                }
                None
            };
            match signal.or(watch).or(over).await {
                None => return,
                Some(SIGHUP) => self.want_reload(),
                Some(signal @ (SIGTERM | SIGINT | SIGQUIT)) => {
                    if drain.is_some() || signal == SIGQUIT {
                        info!("asked again to stop: the drain is cut short");
                        self.hub.hurry.set();
                    }
                    if drain.is_none() {
                        drain = Some(async_std::task::spawn(self.clone().drain(net.clone())));
                    }
                }
                Some(SIGUSR1) => {
                    self.write_now.store(true, SeqCst);
                    self.hub.changed();
                }
                Some(SIGUSR2) => {
                    warn!("this version cannot be upgraded in place (SIGUSR2): stop and start it");
                }
                Some(SIGCHLD) => drop(reap::sweep()),
                Some(_) => {}
            }
            self.watch_pid_file();
        }
    }

    /// Stops accepting, lets what is in flight finish, and ends the rest with errors once the time is over.
    async fn drain(self: Arc<Self>, net: Arc<Net>) {
        let config = self.hub.config();
        info!("stopping: {} in flight", count(self.hub.in_flight.load(SeqCst) as usize, "request"));
        self.enter(InstanceState::Draining);
        net.close_listeners();
        self.hub.begin_drain();
        let hurry = async {
            self.hub.hurry.wait().await;
            false
        };
        if !net.drained(config.drain_timeout).or(hurry).await {
            let left = self.hub.in_flight.load(SeqCst);
            warn!("the drain time is over, {} still open", count(left as usize, "request"));
            self.hub.hurry.set();
            self.hub.fail_open("the daemon is shutting down");
            net.drained(Duration::from_secs(3)).await;
        }
    }

    /// Orphans without a mark that we inherited: no child of ours lives any more, so they are nobody's.
    fn end_strangers(&self) {
        for pid in reap::sweep() {
            if let Ok(handle) = PidFd::open(pid) {
                let _ = handle.send(nix::sys::signal::Signal::SIGKILL);
                let _ = handle.wait_end(Duration::from_secs(1));
            }
        }
        reap::sweep();
    }

    fn watch_pid_file(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.as_ref().is_some_and(PidFile::intact) {
            return;
        }
        error!("{}: the PID file was removed or replaced by somebody else", self.pid_path.display());
        match PidFile::lock(&self.pid_path) {
            Ok(again) => {
                let _ = again.write(Pid::this());
                *lock = Some(again);
                info!("{}: the PID file is there again", self.pid_path.display());
            }
            Err(refused) => error!("{}: it cannot be made again: {refused:?}", self.pid_path.display()),
        }
    }

    // --- reload --------------------------------------------------------------------------------------------------------

    fn want_reload(&self) {
        self.wanted.store(true, SeqCst);
        self.wake.notify(usize::MAX);
    }

    /// Carries out reloads, one at a time; one that is asked for meanwhile follows.
    async fn reloads(self: Arc<Self>, net: Arc<Net>) {
        loop {
            until(&self.wake, || self.wanted.swap(false, SeqCst).then_some(())).await;
            if self.hub.draining.is_set() {
                return;
            }
            self.enter(InstanceState::Reloading);
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
                        (false, text)
                    }
                };
                life.reloads += 1;
                life.last_reload = Some(Reload { at: now(), ok, text });
                if life.state == InstanceState::Reloading {
                    life.state = InstanceState::Ready;
                }
            }
            self.hub.changed();
        }
    }

    /// Reads and checks everything, opens what is new, starts what is new; only then changes anything.
    async fn reload(&self, net: &Arc<Net>) -> Result<String, String> {
        if let Some(path) = self.log.path()
            && let Err(e) = self.log.reopen(&path)
        {
            error!("{}: cannot reopen the log, going on with the old one: {}", path.display(), plain(&e));
        }
        let source = self.source.clone();
        let loaded = async_std::task::spawn_blocking(move || source.load()).await;
        let mut new = loaded.map_err(|problems| lines(&problems))?.config;
        let old = self.hub.config();
        let plan = diff(&old, &new);
        new.name.clone_from(&old.name);
        let opened: Result<Vec<_>, Failure> = plan.open.iter().map(open_socket).collect();
        let opened = opened.map_err(|failure| failure.text)?;
        if self.log.path().is_some_and(|path| path != new.log.file) {
            logging::open(&new.log.file)
                .map_err(|e| format!("{}: cannot open the log: {}", new.log.file.display(), plain(&e)))?;
        }
        let prepared = match reload::prepare(&self.hub, &plan, &new).await {
            Ok(prepared) => prepared,
            Err(why) => {
                for (at, socket) in opened {
                    drop(socket);
                    if let Listen::Unix(path) = at {
                        let _ = std::fs::remove_file(path);
                    }
                }
                return Err(why);
            }
        };
        if self.log.path().is_some()
            && let Err(e) = self.log.reopen(&new.log.file)
        {
            error!("{}: cannot open the log: {}", new.log.file.display(), plain(&e));
        }
        log::set_max_level(new.log.level);
        prepared.apply(&self.hub, &plan, Arc::new(new));
        for (at, socket) in opened {
            if let Err(e) = net.listen(at.clone(), socket) {
                error!("cannot listen on {at}: {}", plain(&e));
            }
        }
        for at in &plan.close {
            net.unlisten(at);
        }
        Ok(plan.summary())
    }

    // --- status --------------------------------------------------------------------------------------------------------

    fn admin(self: &Arc<Self>) -> Admin {
        let (me, hub) = (Arc::downgrade(self), self.hub.clone());
        Admin {
            status: Arc::new(move || {
                let status = me.upgrade().map(|me| me.status());
                status.and_then(|s| serde_json::to_string_pretty(&s).ok()).unwrap_or_default()
            }),
            not_ready: Arc::new(move || match hub.draining.is_set() {
                true => vec!["the daemon is shutting down".to_owned()],
                false => hub.not_ready(),
            }),
        }
    }

    fn status(&self) -> Status {
        let urls = self.net.get().and_then(Weak::upgrade).map(|net| net.urls()).unwrap_or_default();
        let (hub, config) = (&self.hub, self.hub.config());
        let second = hub.seconds();
        let in_flight = hub.in_flight.load(SeqCst);
        let connections = hub.connections.load(SeqCst);
        let (state, generation, reloads, last_reload) = {
            let life = self.life();
            (life.state, life.generation, life.reloads, life.last_reload.clone())
        };
        let degraded = state == InstanceState::Ready && !hub.not_ready().is_empty();
        let servers: Vec<_> = hub.servers().iter().map(|s| s.status(second)).collect();
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
        let mut dropped = hub.counters.read();
        dropped.insert("log_lines".to_owned(), self.log.lost());
        let this = Pid::this();
        Status {
            name: config.name.clone(),
            pid: this.as_raw(),
            start_time: process::start_time(this).unwrap_or(0),
            state: if degraded { InstanceState::Degraded } else { state },
            generation,
            reloads,
            last_reload,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.source.file.as_ref().map(|p| p.display().to_string()),
            log: self.log.path().map(|p| p.display().to_string()),
            listen: urls,
            started: rfc3339(self.started),
            written: now(),
            uptime_seconds: second,
            connections,
            sessions: hub.session_count(),
            waiting_for,
            requests: hub.meter.read(second, in_flight),
            dropped,
            process: process::usage(&[this.as_raw()]),
            servers,
        }
    }

    async fn write_status(self: Arc<Self>) {
        let mut seen = 0;
        let mut failed = false;
        loop {
            seen = self.hub.change_after(seen).await;
            if !self.write_now.swap(false, SeqCst) {
                sleep(SETTLE).await;
            }
            let me = self.clone();
            match async_std::task::spawn_blocking(move || me.write_file()).await {
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
    fn write_file(&self) -> io::Result<()> {
        let status = self.status();
        let text = serde_json::to_string_pretty(&status).map_err(io::Error::other)?;
        let number = self.written.fetch_add(1, SeqCst);
        let temporary = self.status_path.with_extension(format!("status.{number}"));
        let written = std::fs::write(&temporary, text + "\n")
            .and_then(|()| std::fs::set_permissions(&temporary, Permissions::from_mode(0o644)))
            .and_then(|()| std::fs::rename(&temporary, &self.status_path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the status file; the PID file goes with the lock.
    pub fn remove_files(&self) {
        let _ = std::fs::remove_file(&self.status_path);
    }

    /// Gives up the lock and removes the PID file: from now on the instance is not running.
    pub fn unlock(&self) {
        if let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() {
            lock.remove();
        }
    }
}

fn now() -> String {
    rfc3339(SystemTime::now())
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Commands to paste after a start with `hints: true`.
fn hints(config: &Config, urls: &[String], run_dir: &Path) -> String {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("mcpctl")));
    let mut ctl = beside.filter(|p| p.exists()).map_or("mcpctl".to_owned(), |p| p.display().to_string());
    if paths::run_dir().canonicalize().ok().as_deref() != Some(run_dir) {
        ctl.push_str(&format!(" --run-dir {}", run_dir.display()));
    }
    let name = &config.name;
    let mut out = String::new();
    let url = urls.iter().find(|u| u.starts_with("http://"));
    if let Some(url) = url {
        out.push_str("\nThe servers, as MCP clients reach them:\n");
        for server in config.servers.keys() {
            out.push_str(&format!("  {url}/servers/{server}/mcp   (Streamable HTTP)\n"));
            out.push_str(&format!("  {}/servers/{server}/ws      (WebSocket)\n", url.replacen("http", "ws", 1)));
        }
    }
    out.push_str(&format!("\nTry:\n  {ctl} status {name}\n  {ctl} logs {name}\n"));
    if let Some(url) = url {
        out.push_str(&format!("  curl {url}/readyz\n"));
        out.push_str(&config.servers.iter().find_map(|(n, s)| run_hint(url, n, s)).unwrap_or_default());
    }
    out.push_str(&format!("\nEnd it:\n  {ctl} stop {name}\n"));
    out
}

/// How to run a command of an executor by curl(1).
fn run_hint(url: &str, server: &str, config: &crate::model::config::Server) -> Option<String> {
    let Kind::Exec(exec) = &config.kind else { return None };
    let command = match &exec.allow {
        Allow::These(all) if !all.contains_key("echo") => return None,
        _ => "echo",
    };
    let head = "-H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream'";
    let at = format!("{url}/servers/{server}/mcp");
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}"#;
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"execute","arguments":{{"command":"{command}","args":["hello"]}}}}}}"#
    );
    Some(format!(
        "\nRun a command through MCP, in two steps:\n  \
         SESSION=$(curl -s -D - -o /dev/null {head} {at} -d '{hello}' | sed -n 's/^mcp-session-id: //p' | tr -d '\\r')\n  \
         curl -s {head} -H \"Mcp-Session-Id: $SESSION\" {at} -d '{call}'\n"
    ))
}
