//! Keeps one child of a server alive: start, watch, back off, start again, stop.
//!
//! When to start again is decided by [`crate::model::restart`]; how a child is spoken to is in [`super::link`].

use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;
use futures_lite::FutureExt;
use log::{debug, info};

use super::link::{Link, exit_text};
use super::server::Server;
use super::slot::{Slot, Wish};
use super::wait::{Flag, sleep, within};
use crate::model::config::Mode;
use crate::model::config::server::Stdio;
use crate::model::mcp;
use crate::model::restart::{Ended, History, Next};
use crate::model::status::ServerState;
use crate::model::text::duration;
use crate::sys::process::MARK;
use crate::sys::spawn::{Spec, end_unwatched};

/// What a child's environment may hold of ours without being named (design.md section 3).
const PASSED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// How long a server may take to answer `server/discover` before it counts as one of the legacy era.
const PROBE: Duration = Duration::from_secs(10);

/// The most time that bringing a new child to the state of its sessions may take.
const RESTORE: Duration = Duration::from_secs(10);

/// The care for one server under one configuration. A reload that changes the command makes a new one.
pub struct Supervisor {
    config: Mutex<Arc<Stdio>>,
    /// No more starts: the server is removed, replaced, or the daemon ends.
    retired: Flag,
    /// The last child is gone.
    done: Flag,
    /// A reload: what failed may be tried again.
    nudge: Event,
}

/// A child that did not become ready.
#[derive(Debug)]
pub struct StartFailure {
    pub how: Ended,
    pub text: String,
    /// It answered the handshake, with an error.
    pub refused: bool,
}

impl Supervisor {
    pub fn new(config: Stdio) -> Arc<Supervisor> {
        Arc::new(Supervisor {
            config: Mutex::new(Arc::new(config)),
            retired: Flag::default(),
            done: Flag::default(),
            nudge: Event::new(),
        })
    }

    fn config(&self) -> Arc<Stdio> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over settings that need no new child. Times of requests count from the next start on.
    pub fn adjust(&self, config: Stdio) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Tries again at once what waits for its next start, as if nothing had failed before.
    pub fn retry(&self) {
        self.nudge.notify(usize::MAX);
    }

    /// No more starts; the child is drained and stopped. Returns at once.
    pub fn retire(&self) {
        self.retired.set();
    }

    pub fn is_done(&self) -> bool {
        self.done.is_set()
    }

    pub async fn done(&self) {
        self.done.wait().await;
    }

    /// Runs the supervisor for its slot of `server`, from its first child or from none. `again` says that this child takes
    /// the place of another.
    pub fn run(self: &Arc<Self>, server: &Arc<Server>, slot: &Arc<Slot>, first: Option<Arc<Link>>, again: bool) {
        let (me, server, slot) = (self.clone(), server.clone(), slot.clone());
        async_std::task::spawn(async move {
            me.keep(&server, &slot, first, again).await;
            me.done.set();
        });
    }

    async fn keep(&self, server: &Arc<Server>, slot: &Arc<Slot>, mut first: Option<Arc<Link>>, again: bool) {
        let mut history = History::default();
        let mut ready_before = again;
        while !self.retired.is_set() {
            let started = match first.take() {
                Some(link) => Ok(link),
                None => {
                    slot.enter(ServerState::Starting, None);
                    start(server, self.config(), server.hub.config().umask, slot.wish, Some(&self.retired)).await
                }
            };
            let failure = match started {
                Ok(link) => {
                    history.ready(Instant::now());
                    self.live(server, slot, &link, std::mem::replace(&mut ready_before, true)).await
                }
                Err(failure) => Some(failure),
            };
            let Some(failure) = failure else { break };
            if self.retired.is_set() {
                break;
            }
            server.count_restart(exit_text(failure.how));
            let policy = self.config().restart.clone();
            let next = history.ended(&policy, failure.how, Instant::now(), chance());
            let delay = match next {
                Next::After(delay) => {
                    slot.enter(ServerState::Backoff, Some(failure.text));
                    info!("{}: next start in {}", slot.label(), duration(round(delay)));
                    Some(delay)
                }
                Next::Slow(delay) => {
                    let why = format!("{}; ended too often, next start in {}", failure.text, duration(round(delay)));
                    slot.enter(ServerState::Failed, Some(why));
                    Some(delay)
                }
                Next::Never(why) => {
                    let why = format!("{}; not started again before a reload changes it ({why})", failure.text);
                    slot.enter(ServerState::Failed, Some(why));
                    if slot.wish == Wish::Modern {
                        // Nobody would tell them anything any more.
                        server.end_forwarded_listens();
                    }
                    None
                }
            };
            let pause = async {
                match delay {
                    Some(delay) => sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            let again = async {
                self.nudge.listen().await;
                // The configuration may have been what was wrong.
                true
            };
            let nudged = async {
                pause.or(self.retired.wait()).await;
                false
            };
            if again.or(nudged).await {
                history = History::default();
            }
        }
        // A child that was handed over and never lived under this supervisor.
        if let Some(link) = first {
            self.finish(server, slot, &link).await;
        }
    }

    /// One life of a child: None when it was stopped because the supervisor retired.
    async fn live(&self, server: &Arc<Server>, slot: &Slot, link: &Arc<Link>, again: bool) -> Option<StartFailure> {
        if again && link.is_modern() {
            // Before anybody can send a request that they would hear of.
            for session in server.sessions_of(link) {
                session.listens().iter().for_each(|listen| link.listen(listen));
            }
        }
        slot.set_link(Some(link.clone()));
        slot.enter(ServerState::Ready, None);
        if again && link.is_modern() {
            for session in server.sessions_of(link) {
                session.lists_changed(true, &|list| link.learnt().is_some_and(|l| l.has(list)));
            }
        } else if again {
            let (server, link) = (server.clone(), link.clone());
            async_std::task::spawn(async move { restore(&server, &link).await });
        }
        let ended = async { Some(link.exited().await) };
        let retired = async {
            self.retired.wait().await;
            None
        };
        match ended.or(retired).await {
            Some(how) => {
                // Known at once; its last words and the next start wait until nothing of the child is left.
                slot.set_link(None);
                slot.enter(ServerState::Backoff, Some(link.exit_text()));
                link.gone().await;
                Some(StartFailure { how, text: format!("{}{}", link.exit_text(), link.last_words()), refused: false })
            }
            None => {
                self.finish(server, slot, link).await;
                None
            }
        }
    }

    /// Lets open requests finish within the drain time, then stops the child.
    async fn finish(&self, server: &Arc<Server>, slot: &Slot, link: &Link) {
        let limit = server.hub.config().drain_timeout;
        let drained = async {
            while link.waiting() > 0 && !server.hub.hurry.is_set() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = within(limit, drained).await;
        slot.enter(ServerState::Stopping, None);
        link.stop(&self.config().stop).await;
        slot.set_link(None);
        slot.enter(ServerState::Stopped, None);
        info!("server '{}': its child (pid {}) {}", server.name, link.pid, link.exit_text());
    }
}

/// Brings a new child of the legacy era to the state that its sessions expect.
async fn restore(server: &Arc<Server>, link: &Link) {
    let all = async {
        for uri in server.subscriptions(link) {
            if let Err(e) = link.ask("resources/subscribe", Some(&mcp::uri_params(&uri))).await {
                debug!("server '{}': cannot subscribe again to {uri}: {e}", server.name);
            }
        }
    };
    let _ = within(RESTORE, all).await;
    server.lists_changed();
}

/// Starts a child and says nothing to it. What fails leaves nothing behind.
pub async fn spawn(server: &Arc<Server>, config: &Arc<Stdio>, umask: Mode) -> Result<Arc<Link>, StartFailure> {
    let fail = |text: String| Err(StartFailure { how: Ended::NotReady, text, refused: false });
    let mark = server.hub.next_mark();
    let spec = Spec {
        program: config.program.clone(),
        args: config.args.clone(),
        env: environment(&config.pass_env, config.env.iter(), &mark),
        cwd: config.cwd.clone(),
        stdin: true,
        umask: umask.0,
        nofile: server.hub.boot.nofile,
    };
    let started = match server.hub.boot.spawner.spawn(spec).await {
        Ok(started) => started,
        Err(e) => {
            let why = match &config.cwd {
                Some(cwd) if !cwd.is_dir() => format!("there is no folder {}", cwd.display()),
                _ => crate::model::exit::plain(&e),
            };
            return fail(format!("cannot start {}: {why}", config.program.display()));
        }
    };
    debug!("server '{}': started pid {}", server.name, started.pid);
    let pid = started.pid;
    match Link::new(server, config.clone(), started, mark) {
        Ok(link) => Ok(link),
        Err(e) => {
            end_unwatched(pid);
            fail(format!("cannot talk with its pipes: {}", crate::model::exit::plain(&e)))
        }
    }
}

/// Starts a child and waits for its answer to the opening of an era; what fails leaves nothing behind. A start that is
/// `unwanted` meanwhile fails as well, in the same order.
pub async fn start(
    server: &Arc<Server>,
    config: Arc<Stdio>,
    umask: Mode,
    wish: Wish,
    unwanted: Option<&Flag>,
) -> Result<Arc<Link>, StartFailure> {
    let link = spawn(server, &config, umask).await?;
    match open(server, link, &config, wish, unwanted).await {
        Err(failure) if failure.refused && wish == Wish::Any => {
            // It answered, and would not: perhaps it speaks the modern era alone. In a process of its own, because the
            // refused handshake may have left a mark.
            debug!("server '{}': {}; it is asked for the modern era", server.name, failure.text);
            let link = spawn(server, &config, umask).await?;
            open(server, link, &config, Wish::Modern, unwanted).await.map_err(|_| failure)
        }
        outcome => outcome,
    }
}

/// The opening of an era with a child that was started; what fails leaves nothing behind.
pub async fn open(
    server: &Arc<Server>,
    link: Arc<Link>,
    config: &Stdio,
    wish: Wish,
    unwanted: Option<&Flag>,
) -> Result<Arc<Link>, StartFailure> {
    let fail = |how, text: String| Err(StartFailure { how, text, refused: false });
    let tail = |link: &Link| match link.tail().as_slice() {
        [] => "; it wrote nothing to standard error".to_owned(),
        lines => format!("; its last words:\n    {}", lines.join("\n    ")),
    };
    let unwanted_now = || unwanted.is_some_and(Flag::is_set);
    let unwanted = async {
        match unwanted {
            Some(flag) => flag.wait().await,
            None => std::future::pending().await,
        }
        Some(Err("it is not wanted any more".to_owned()))
    };
    let opening = async {
        match wish {
            Wish::Any => link.handshake().await,
            Wish::Modern => match link.discover().await? {
                true => Ok(()),
                false => Err("it does not speak the modern era".to_owned()),
            },
        }
    };
    let (method, limit) = match wish {
        Wish::Any => ("initialize", config.start_timeout),
        // Some servers say nothing at all to what they do not know.
        Wish::Modern => ("server/discover", config.start_timeout.min(PROBE)),
    };
    let outcome = within(limit, opening).or(unwanted).await;
    match outcome {
        Some(Ok(())) => Ok(link),
        Some(Err(why)) => {
            // An end shows in the error of the open request, a moment before the status is known to all.
            if within(Duration::from_millis(500), link.exited()).await.is_some() {
                let how = link.gone().await;
                return fail(how, format!("{} before it answered '{method}'{}", link.exit_text(), tail(&link)));
            }
            let text = format!("its handshake failed: {why}{}", tail(&link));
            link.stop(&config.stop).await;
            let refused = !server.hub.hurry.is_set() && !unwanted_now();
            Err(StartFailure { how: Ended::NotReady, text, refused })
        }
        None => {
            let key = if limit == config.start_timeout { " (start_timeout)" } else { "" };
            let text = format!("it did not answer '{method}' within {}{key}{}", duration(limit), tail(&link));
            link.stop(&config.stop).await;
            fail(Ended::NotReady, text)
        }
    }
}

/// A child's whole environment: a few names of ours, what the configuration passes and sets, and the mark.
pub fn environment<'e>(
    pass: &[String],
    set: impl Iterator<Item = (&'e String, &'e String)>,
    mark: &str,
) -> Vec<(OsString, OsString)> {
    let mut env: std::collections::BTreeMap<OsString, OsString> = Default::default();
    env.insert("PATH".into(), crate::sys::paths::DEFAULT_PATH.into());
    env.insert("HOME".into(), crate::sys::paths::home().into());
    for name in PASSED.iter().copied().chain(pass.iter().map(String::as_str)) {
        if let Some(value) = std::env::var_os(name) {
            env.insert(name.into(), value);
        }
    }
    env.extend(set.map(|(k, v)| (k.into(), v.into())));
    env.insert(MARK.into(), mark.into());
    env.into_iter().collect()
}

/// To what a person reads: milliseconds below ten seconds, else seconds.
pub fn round(d: Duration) -> Duration {
    match d.as_secs() {
        0..10 => Duration::from_millis(d.as_millis() as u64),
        seconds => Duration::from_secs(seconds),
    }
}

/// Uniform in 0..1.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
