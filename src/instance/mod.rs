//! A running instance: becomes ready, follows signals, reloads, writes its status, drains.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use log::{error, info, warn};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::hints;
use crate::hub::run_event_commands;
use crate::model::config::Listen;
use crate::model::exit::{Exit, Failure, plain};
use crate::model::handover::Handover;
use crate::model::status::InstanceState;
use crate::model::text::{count, duration};
use crate::net::Net;
use crate::rt::blocking::blocking;
use crate::rt::task;
use crate::rt::wait::{sleep, timeout};
use crate::sys::become_daemon::Readiness;
use crate::sys::listen::Socket;
use crate::sys::notify::{self};
use crate::sys::pidfd::PidFd;
use crate::sys::{fds, process, reap};

/// How often it is looked whether who started it is still there.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is said what a start waits for.
const WORD: Duration = Duration::from_secs(3);
/// A start that says what it waits for may go on for so long (sd_notify(3), EXTEND_TIMEOUT_USEC).
const EXTEND: Duration = Duration::from_secs(60);

mod idle;
mod monitor;
mod observe;
mod reload;
mod state;
mod status;
mod upgrade;

use state::Followed;
pub(crate) use state::{Instance, Start, signals};

impl Instance {
    /// The whole life. An error means that the instance never became ready; the caller is not told of it here, but once
    /// nothing is left.
    pub(crate) async fn live(
        self: &Arc<Self>,
        sockets: Vec<(Listen, Socket)>,
        signals: Followed,
        readiness: &mut Readiness,
        before: Option<Handover>,
    ) -> Result<(), Failure> {
        let net = Net::new(self.hub.clone(), self.admin());
        let _ = self.net.set(Arc::downgrade(&net));
        let writer = task::spawn(self.clone().write_status());
        task::spawn(run_event_commands(self.hub.ctx.clone()));
        task::spawn(self.clone().observe());
        self.hub.ctx.changed();
        let mut signals = signals;
        let _ = self.come.set(signals.come.clone());
        let outcome = self.serve(&net, sockets, &mut signals, readiness, before).await;
        net.close_listeners();
        self.hub.begin_drain();
        self.hub.ctx.end_drain();
        // Who asks again while children go down does not want to wait for their grace times.
        let impatient = async {
            while let Some(signal) = signals.next().await {
                match signal {
                    SIGTERM | SIGINT | SIGQUIT => drop(self.hub.ctx.kill_now.set()),
                    SIGUSR1 => self.want_status(),
                    SIGCHLD => drop(reap::sweep()),
                    _ => {}
                }
            }
            std::future::pending().await
        };
        self.hub.stop().or(impatient).await;
        self.end_strangers();
        self.enter(InstanceState::Stopped);
        writer.cancel().await;
        outcome
    }

    async fn serve(
        self: &Arc<Self>,
        net: &Arc<Net>,
        sockets: Vec<(Listen, Socket)>,
        signals: &mut Followed,
        readiness: &mut Readiness,
        before: Option<Handover>,
    ) -> Result<(), Failure> {
        let listen = || {
            sockets.into_iter().try_for_each(|(at, socket)| {
                let failed = |e| Failure::new(Exit::Os, format!("cannot listen on {at}: {}", plain(&e)));
                net.listen(at.clone(), socket).map_err(failed)
            })
        };
        let config = self.hub.ctx.config();
        if let Some(before) = before {
            listen()?;
            self.take_over(net, before);
            self.begin_to_follow(net, signals);
            self.follow(net, signals).await;
            return Ok(());
        }
        if self.after_kill {
            self.hub.run_stop_commands().await;
        }
        for (name, server) in &config.servers {
            self.hub.add(name, server.clone());
        }
        // Not before: to who comes earlier there would be no such server.
        listen()?;
        let ready = async { Some(self.required_ready().await) };
        let abandoned = async {
            self.tell_while_starting(readiness).await;
            Some(Err(Failure::new(Exit::Software, "whoever started it is gone, so the start is abandoned")))
        };
        let told = async {
            while let Some(signal) = signals.next().await {
                match signal {
                    SIGTERM | SIGINT | SIGQUIT => return None,
                    // A reload that comes too early is not lost.
                    SIGHUP => self.wanted.store(true, SeqCst),
                    SIGUSR2 => self.wanted_upgrade.store(true, SeqCst),
                    SIGCHLD => drop(reap::sweep()),
                    SIGUSR1 => self.want_status(),
                    _ => {}
                }
            }
            None
        };
        match ready.or(told).or(abandoned).await {
            Some(Ok(())) => {}
            Some(Err(failure)) => {
                error!("the start failed: {failure}");
                return Err(failure);
            }
            None => {
                return Err(Failure::new(Exit::Software, "the start was interrupted by a signal"));
            }
        }
        self.announce(net, readiness).await?;
        self.begin_to_follow(net, signals);
        self.follow(net, signals).await;
        Ok(())
    }

    /// Goes on where the program before has stopped.
    fn take_over(self: &Arc<Self>, net: &Arc<Net>, mut before: Handover) {
        let config = self.hub.ctx.config();
        let (mut marks, last, prefix) = (before.marks_of_commands(), before.marks_so_far, before.mark.clone());
        let connections = std::mem::take(&mut before.connections);
        let sessions = before.sessions.len();
        let restored = self.hub.restore(&config, &mut before);
        marks.extend(self.hub.marks());
        let kept = (marks.len(), sessions, connections.len());
        net.restore(connections, &restored);
        drop(restored);
        self.hub.end_strangers();
        self.hub.go_on();
        reap::sweep();
        let text = format!(
            "{} -> {}: kept {}, {} and {}",
            before.version,
            env!("CARGO_PKG_VERSION"),
            count(kept.0, "process"),
            count(kept.1, "session"),
            count(kept.2, "connection"),
        );
        info!("{}: upgraded in place, {text}", config.name);
        self.note_upgrade(true, text);
        self.enter(InstanceState::Ready);
        self.hub.ctx.started();
        if let Err(e) = self.write_file() {
            warn!("{}: cannot write the status: {}", self.status_path.display(), plain(&e));
        }
        if let Some(notifier) = &self.notifier {
            notifier.ready(&self.in_a_line());
        }
        // What came in its last moments is ours.
        if before.reload_wanted {
            self.want_reload();
        }
        for signal in before.signals {
            // To the process: this thread leaves signals to another.
            let _ = nix::sys::signal::Signal::try_from(signal).map(|s| nix::sys::signal::kill(Pid::this(), s));
        }
        // The files may have been edited since; and what could not be kept must not be left behind.
        if self.source.texts().is_ok_and(|(now, _)| {
            let before = self.texts.lock();
            now.iter().map(|t| (&t.path, &t.text)).ne(before.iter().map(|t| (&t.path, &t.text)))
        }) {
            self.want_reload();
        }
        task::spawn(blocking(move || {
            let lost = |mark: &str| {
                let serial = mark.strip_prefix(&prefix).and_then(|s| s.parse::<u64>().ok());
                serial.is_some_and(|n| n <= last) && !marks.iter().any(|m| m == mark)
            };
            let (found, _) = crate::sys::process::end_marked(lost, Duration::from_secs(1), Duration::from_secs(5));
            if found > 0 {
                info!("ended {} that could not be kept over the upgrade", count(found, "process"));
            }
        }));
    }

    /// Waits until every required server is ready, or one cannot be.
    async fn required_ready(&self) -> Result<(), Failure> {
        for server in self.hub.servers.all().iter().filter(|s| s.required()) {
            if let Err(why) = server.settled().await {
                let log = match self.log.path() {
                    Some(path) if why.contains('\n') => format!("\nAll that it said is in {}", path.display()),
                    _ => String::new(),
                };
                return Err(Failure::new(Exit::Software, format!("server '{}': {why}{log}", server.name())));
            }
        }
        Ok(())
    }

    /// Says now and then what the start waits for, to who has started it and to the service manager. Returns once who has
    /// started it is gone.
    async fn tell_while_starting(&self, readiness: &mut Readiness) {
        let begin = Instant::now();
        let mut told = begin;
        while readiness.is_heard() {
            sleep(LOOK).await;
            if told.elapsed() < WORD {
                continue;
            }
            told = Instant::now();
            let after = duration(Duration::from_secs(begin.elapsed().as_secs()));
            let text = |missing: &[String]| format!("still starting after {after}: {}", missing.join("; "));
            readiness.waits(&text(&self.hub.waits_for()));
            if let Some(notifier) = &self.notifier {
                // Everybody reads what a service manager shows.
                notifier.starting(&text(&self.hub.not_ready()), EXTEND);
            }
        }
    }

    /// Tells everybody that the instance serves: status file first, then the caller.
    async fn announce(&self, net: &Net, readiness: &mut Readiness) -> Result<(), Failure> {
        self.life().startup = self.started.elapsed().ok().map(|took| took.as_millis() as u64);
        self.enter(InstanceState::Ready);
        self.hub.ctx.started();
        let config = self.hub.ctx.config();
        let urls = net.urls();
        let listens = |port: &u16| urls.iter().any(|url| url.ends_with(&format!(":{port}")));
        let taken = config.listen.iter().filter_map(Listen::port).filter(|port| *port != 0 && !listens(port));
        let taken = taken.map(|port| match process::port_holder(port) {
            Some(holder) => format!("; port {port} is in use by {holder}"),
            None => format!("; port {port} was in use"),
        });
        let text = format!(
            "{}: ready on {} (pid {}, {}){}",
            config.name,
            urls.join(", "),
            Pid::this(),
            count(config.servers.len(), "server"),
            taken.collect::<String>()
        );
        info!("{text}");
        if self.foreground && std::io::stderr().is_terminal() {
            // A supervisor knows how to end the daemon; a person at a terminal may not.
            info!("{}: in front of this terminal; ^C ends it in order", config.name);
        }
        if let Err(e) = self.write_file() {
            warn!("{}: cannot write the status: {}", self.status_path.display(), plain(&e));
        }
        self.log_written().await;
        if let Some(notifier) = &self.notifier {
            notifier.ready(&self.in_a_line());
        }
        if let Some(fd) = self.newline.lock().take() {
            notify::newline(fd);
        }
        let text = if config.hints { format!("{text}\n{}", hints::hints(&config, &urls, &self.run_dir)) } else { text };
        if readiness.is_background() {
            let _ = fds::null_standard_streams();
            if !readiness.ready(&text) {
                return Err(Failure::new(Exit::Software, "whoever started it is gone, so the start is abandoned"));
            }
        }
        Ok(())
    }

    /// Begins to do what it is asked for beside serving.
    fn begin_to_follow(self: &Arc<Self>, net: &Arc<Net>, signals: &mut Followed) {
        task::spawn(self.clone().reloads(net.clone()));
        task::spawn(self.clone().feed_watchdog());
        task::spawn(self.clone().end_when_idle());
        if let Some(restarts) = signals.restarts.take() {
            task::spawn(self.clone().follow_restarts(restarts));
        }
    }

    /// Follows signals until the drain is over.
    async fn follow(self: &Arc<Self>, net: &Arc<Net>, signals: &mut Followed) {
        let mut drain: Option<task::JoinHandle<()>> = None;
        loop {
            let signal = async { signals.next().await };
            let over = async {
                match &mut drain {
                    Some(drain) => drain.await,
                    None => std::future::pending().await,
                }
                None
            };
            match signal.or(over).await {
                None => return,
                Some(SIGHUP) => self.want_reload(),
                Some(signal @ (SIGTERM | SIGINT | SIGQUIT)) => {
                    if drain.is_some() || signal == SIGQUIT {
                        info!("asked again to stop: the drain is cut short");
                        self.hub.ctx.end_drain();
                    }
                    if signal == SIGQUIT {
                        self.hub.ctx.kill_now.set();
                    }
                    if drain.is_none() {
                        drain = Some(task::spawn(self.clone().drain(net.clone())));
                    }
                }
                Some(SIGUSR1) => {
                    self.want_status();
                    self.clone().watch_pid_file();
                }
                Some(SIGUSR2) => {
                    self.want_upgrade();
                }
                Some(SIGCHLD) => drop(reap::sweep()),
                Some(_) => {}
            }
        }
    }

    /// Stops accepting, lets what is in flight finish, and ends the rest with errors once the time is over.
    async fn drain(self: Arc<Self>, net: Arc<Net>) {
        let config = self.hub.ctx.config();
        let left = count(self.hub.ctx.load.in_flight() as usize, "request");
        info!("stopping: {left} in flight");
        self.record("stop", true, &format!("{left} in flight"));
        self.enter(InstanceState::Draining);
        if let Some(notifier) = &self.notifier {
            let grace = config.servers.values().map(|s| s.kind.grace()).max().unwrap_or_default();
            notifier.stopping("stopping", config.lame_duck + config.drain_timeout + grace + Duration::from_secs(10));
        }
        self.hub.ctx.lame.set();
        if !config.lame_duck.is_zero() {
            info!("health checks are told for {} that it stops, then it does", duration(config.lame_duck));
            self.hub.ctx.changed();
            timeout(config.lame_duck, self.hub.ctx.end_drain.wait()).await;
        }
        net.close_listeners();
        self.hub.begin_drain();
        let hurry = async {
            self.hub.ctx.end_drain.wait().await;
            false
        };
        if !net.drained(config.drain_timeout).or(hurry).await {
            let left = self.hub.ctx.load.in_flight();
            warn!("the drain time is over, {} still open", count(left as usize, "request"));
            self.hub.ctx.end_drain();
            self.hub.fail_open("the daemon is shutting down");
            net.drained(Duration::from_secs(3)).await;
        }
    }

    /// Orphans without a mark that we inherited: no child of ours lives any more, so they belong to none. Their own
    /// children become ours in turn, hence the loop; its bound is for what the kernel cannot end.
    fn end_strangers(&self) {
        for _ in 0..100 {
            let strangers = reap::sweep();
            if strangers.is_empty() {
                return;
            }
            for handle in strangers.into_iter().filter_map(|pid| PidFd::open(pid).ok()) {
                let _ = handle.send(nix::sys::signal::Signal::SIGKILL);
                let _ = handle.wait_end(Duration::from_millis(100));
            }
        }
    }
}
