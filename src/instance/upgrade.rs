//! The upgrade in place (SIGUSR2): the program is exchanged, and everything that it serves goes on.
//!
//! The new program is asked first whether it understands the configuration and the document. Then everything comes to
//! rest, is written down, and the process goes on as the new program, with the same number, lock, listeners, children and
//! connections. Until that moment nothing is given up: whatever fails, the old program goes on where it was.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use futures_lite::FutureExt;
use futures_lite::future::zip;
use log::{debug, info, warn};

use super::state::Instance;
use crate::hub::Saver;
use crate::model::config::Confine;
use crate::model::exit::plain;
use crate::model::handover::{FORMAT, Handover, Notify, Observed};
use crate::model::restart::Ended;
use crate::model::text::{count, printable};
use crate::net::Net;
use crate::rt::async_fd::AsyncFd;
use crate::rt::pipe::read_to_end;
use crate::rt::wait::{sleep, timeout};
use crate::sys::passed::{CHECK, HANDOVER};
use crate::sys::spawn::{Spec, end_unwatched, signal_group};
use crate::sys::{reap, reexec};

/// How long the new program may take to check the configuration.
const CHECKING: Duration = Duration::from_secs(30);
/// How long the clients may take to come to rest, and then the hub. Most of it takes milliseconds; meanwhile no client is served.
const REST: Duration = Duration::from_secs(2);
/// How long that is tried at first.
const TRY: Duration = Duration::from_millis(250);
/// Where a client is in the middle of something then, or a request is under way to a server elsewhere, all are served again for so many milliseconds before the next attempt:
/// whoever sends or reads much comes to an end meanwhile.
const SERVED_AGAIN: [u64; 5] = [200, 400, 800, 1600, 3200];

impl Instance {
    /// A SIGUSR2 came.
    pub(super) fn want_upgrade(&self) {
        self.wanted_upgrade.store(true, SeqCst);
        self.wake.notify(usize::MAX);
    }

    /// Exchanges the program. Returns only if that failed: the reason.
    pub(super) async fn upgrade(&self, net: &Arc<Net>) -> String {
        info!("upgrading in place: {} is checked", self.program.path.display());
        if let Err(why) = self.check_program().await {
            return why;
        }
        // Children of an earlier reload would have to be left behind.
        let patience = self.hub.ctx.config().drain_timeout + Duration::from_secs(10);
        if timeout(patience, self.hub.ctx.leaving.settled()).await.is_none() {
            return "children of the last reload are still going down; try again".to_owned();
        }
        self.quiesce(net).await;
        let why = match self.hub.ctx.draining.is_set() {
            true => "the daemon is shutting down".to_owned(),
            false => self.replace(net),
        };
        self.hub.go_on();
        net.go_on();
        why
    }

    /// Brings everything to rest. What cannot be is lost.
    async fn quiesce(&self, net: &Arc<Net>) {
        for pause in SERVED_AGAIN.map(Duration::from_millis) {
            self.hub.ctx.quiesce.turn(true);
            // Clients first: what one says now still has to come to rest in the hub.
            let all = net.quiesced(TRY).await;
            self.hub.quiesced(REST).await;
            if (all && !self.hub.is_in_the_middle()) || self.hub.ctx.draining.is_set() {
                return;
            }
            debug!("upgrading in place: something is under way; all are served again for {pause:?}");
            self.hub.go_on();
            net.go_on();
            self.hub.ctx.draining.wait().or(sleep(pause)).await;
        }
        self.hub.ctx.quiesce.turn(true);
        let left = net.quiesced_or_closed(REST).await;
        self.hub.quiesced(REST).await;
        if left > 0 {
            warn!("{} could not be brought to rest and cannot be kept", count(left as usize, "connection"));
        }
    }

    /// From here on there is no pause: what is written down is what is.
    fn replace(&self, net: &Arc<Net>) -> String {
        // The status file is not left half written.
        let files = self.files_closed.lock();
        // From now on signals wait for the next program; what came before is written down with the rest.
        self.hub.ctx.boot.spawner.hold_signals();
        let written = self.save(net).and_then(|handover| {
            let bytes = serde_json::to_vec(&handover).map_err(|e| e.to_string())?;
            Ok((reexec::document(&bytes).map_err(|e| plain(&e))?, handover.fds()))
        });
        let (document, fds) = match written {
            Ok(both) => both,
            Err(why) => {
                self.hub.ctx.boot.spawner.release_signals();
                return format!("the state cannot be written down: {why}");
            }
        };
        info!("upgrading in place: going on as {}", self.program.path.display());
        self.log.flush(Duration::from_secs(1));
        self.hub.ctx.audit.flush(Duration::from_secs(1));
        let failure = self.hub.ctx.boot.spawner.replace(self.program.clone(), document, fds);
        drop(files);
        format!("cannot go on as {}: {}", self.program.path.display(), plain(&failure))
    }

    fn save(&self, net: &Arc<Net>) -> Result<Handover, String> {
        let mut saver = Saver::default();
        let connections = net.save_connections(&mut saver);
        let servers = self.hub.save(&mut saver);
        let (sessions, outboxes) = saver.finish();
        let (sessions_so_far, marks_so_far) = self.hub.ctx.numbers();
        let lock = self.lock.lock();
        let (lock, lock_file) = lock.as_ref().ok_or("the PID file is not locked")?.fds();
        let (guard, guard_pipe) = self.guard;
        // Before that of `life`, which each look at the instance wants as well.
        let observed = Observed { log: self.log.last(), ..self.monitor.save() };
        let life = self.life();
        let millis = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Ok(Handover {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.hub.ctx.config().name.clone(),
            cwd: self.source.cwd.clone(),
            run_dir: self.run_dir.clone(),
            foreground: self.foreground,
            inherited: self.inherited.clone(),
            log_dir: self.source.log_dir.clone(),
            log_fd: self.log.fd(),
            texts: self.texts.lock().clone(),
            lock,
            lock_file,
            guard,
            guard_pipe,
            mark: self.hub.ctx.boot.mark.clone(),
            session_key: self.hub.ctx.boot.session_key.as_ref().map(|keys| keys.write()),
            nofile: self.hub.ctx.boot.nofile,
            notify: self
                .notifier
                .as_ref()
                .map(|n| Notify { name: n.name().to_owned(), watchdog: n.watchdog().map(|w| w.as_micros() as u64) }),
            started: millis(self.started),
            startup: life.startup,
            uptime: self.hub.ctx.boot.at.elapsed().as_millis() as u64,
            generation: life.generation,
            reloads: life.reloads,
            last_reload: life.last_reload.clone(),
            upgrades: life.upgrades,
            last_upgrade: life.last_upgrade.clone(),
            restarts: life.restarts,
            last_restart: life.last_restart.clone(),
            restarts_wanted: self.wanted_restarts.lock().iter().copied().collect(),
            serials_so_far: self.hub.ctx.serials(),
            reload_wanted: self.wanted.load(SeqCst),
            signals: self
                .come
                .get()
                .into_iter()
                .flat_map(|c| c.iter())
                .filter(|(_, m)| m.load(SeqCst))
                .map(|(n, _)| *n)
                .collect(),
            sessions_so_far,
            marks_so_far,
            meter: self.hub.ctx.meters.save_all(self.hub.ctx.seconds()),
            methods: self.hub.ctx.meters.save(),
            dropped: self.hub.ctx.counters.read(),
            observed,
            listeners: net.save_listeners(),
            servers,
            sessions,
            outboxes,
            connections,
        })
    }

    /// Lets the new program check the configuration, and say that it understands the document.
    async fn check_program(&self) -> Result<(), String> {
        let program = &self.program;
        let mut env: Vec<_> = std::env::vars_os().collect();
        env.push((HANDOVER.into(), CHECK.into()));
        env.push((crate::sys::process::MARK.into(), self.hub.ctx.next_mark().into()));
        let args = program.args.iter().skip(1).map(|a| a.to_string_lossy().into_owned());
        let spec = Spec {
            program: program.path.clone(),
            // In front, because what stands behind "--" is a command.
            args: ["--test".to_owned()].into_iter().chain(args).collect(),
            env,
            // It may be gone, and where all paths are absolute it is not needed.
            cwd: Some(self.source.cwd.clone()).filter(|dir| dir.is_dir()),
            stdin: false,
            umask: self.hub.ctx.config().umask.0,
            nofile: self.hub.ctx.boot.nofile,
            confine: Confine::default(),
        };
        let path = program.path.display();
        let started =
            self.hub.ctx.boot.spawner.spawn(spec).await.map_err(|e| format!("cannot start {path}: {}", plain(&e)))?;
        let pid = started.pid;
        let pipes = || -> std::io::Result<_> {
            let open = |fd| AsyncFd::new(std::fs::File::from(fd));
            Ok((open(started.stdout)?, open(started.stderr)?, AsyncFd::new(started.handle)?))
        };
        let (stdout, stderr, handle) = match pipes() {
            Ok(all) => all,
            Err(e) => {
                end_unwatched(pid);
                return Err(format!("cannot talk with {path}: {}", plain(&e)));
            }
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let whole = async {
            let _ = zip(read_to_end(&stdout, &mut said), read_to_end(&stderr, &mut complained)).await;
            handle.readable().await;
        };
        let in_time = timeout(CHECKING, whole).await.is_some();
        if !in_time {
            signal_group(pid, nix::sys::signal::Signal::SIGKILL);
            handle.readable().await;
        }
        let how = handle.get_ref().reap();
        reap::forget(pid);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match how {
            _ if !in_time => Err(format!("{path} did not check the configuration within {} s", CHECKING.as_secs())),
            Ok(Some(Ended::Exited(0))) if text(&said).lines().any(|l| l == format!("handover {FORMAT}")) => Ok(()),
            Ok(Some(Ended::Exited(0))) => {
                Err(format!("{path} does not understand what this version hands over: stop the instance and start it"))
            }
            Ok(Some(how)) => {
                let how = crate::rt::process::exit_text(how);
                Err(format!("{path} refuses the configuration ({how}): {}", printable(&text(&complained), 2000)))
            }
            _ => Err(format!("the end of {path} could not be seen")),
        }
    }
}
