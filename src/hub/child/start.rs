//! Starting a child: its process, its surroundings, the tasks of its pipes, and the opening of an era with it.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_lite::FutureExt;
use log::debug;
use nix::unistd::Pid;

use super::child::{Child, Identity, Observer, Parked, STDERR_LINE};
use super::end::{wait_and_reap, wait_for_far};
use super::far::{Dial, Far, Wires};
use super::reader::{read, read_stderr};
use super::writer::write;
use crate::hub::context::{Context, Quiesce};
use crate::hub::error::Error;
use crate::hub::starts::{HOLD, MOST, Says};
use crate::model::config::Mode;
use crate::model::config::server::{Line, Mcp};
use crate::model::exit::plain;
use crate::model::last_words::LastWords;
use crate::model::restart::Ended;
use crate::model::text::{duration, printable};
use crate::model::{mcp, method};
use crate::rt::async_fd::AsyncFd;
use crate::rt::blocking::blocking;
use crate::rt::lines::Lines;
use crate::rt::live::Live;
use crate::rt::pipe::{Input, Output};
use crate::rt::process::environment;
use crate::rt::task;
use crate::rt::wait::{Flag, sleep, timeout, timeout_awake};
use crate::sys::process;
use crate::sys::spawn::{Spec, Started, end_unwatched};

/// How long a server may take to answer `server/discover` before it counts as one of the legacy era.
const PROBE: Duration = Duration::from_secs(10);
/// How long the status of a child may take to be known after its end has shown in the error of an open request.
const STATUS: Duration = Duration::from_millis(500);

/// Which era a child is opened in (2026-07-28 basic/versioning).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The handshake of the legacy era; the modern one where the server refuses that.
    Initialize,
    /// `server/discover` and nothing else.
    Discover,
}

/// A child that did not become ready.
#[derive(Debug)]
pub(crate) struct StartFailure {
    pub how: Ended,
    /// For everybody.
    pub text: String,
    /// What it said, for the log and who starts it.
    pub words: LastWords,
    /// It answered the handshake, with an error.
    pub refused: bool,
}

impl From<StartFailure> for Error {
    fn from(failure: StartFailure) -> Error {
        Error::Start { trouble: failure.text, words: failure.words }
    }
}

impl StartFailure {
    /// A child that did not even begin to serve.
    pub(crate) fn not_ready(text: String) -> StartFailure {
        StartFailure { how: Ended::NotReady, text, words: LastWords::default(), refused: false }
    }
}

/// What children of one server are started with.
#[derive(Clone)]
pub(crate) struct Starter {
    pub ctx: Arc<Context>,
    /// The name of the server.
    pub server: Arc<str>,
    pub config: Arc<Live<Mcp>>,
    /// Makes the line to what is no process of ours.
    pub dial: Option<Arc<dyn Dial>>,
    /// Hears what they say.
    pub observer: Weak<dyn Observer>,
}

impl Starter {
    /// Starts a child and says nothing to it. What fails leaves nothing behind.
    pub(crate) async fn spawn(&self, umask: Mode) -> Result<Arc<Child>, StartFailure> {
        let (ctx, all) = (&self.ctx, self.config.get());
        let config = match (&all.line, &self.dial) {
            (Line::Stdio(config), _) => config,
            (Line::Http(_), dial) => {
                let wires = dial.as_ref().and_then(|dial| dial.dial(&all, None));
                let connected = wires.map(|wires| self.connect(wires));
                return connected.ok_or_else(|| StartFailure::not_ready("there is no way to reach it".to_owned()));
            }
        };
        let mark = ctx.next_mark();
        let env = environment(&config.environment, config.confine.account.as_ref(), &mark).await;
        let spec = Spec {
            program: config.program.clone(),
            args: config.args.clone(),
            env,
            cwd: config.cwd.clone(),
            stdin: true,
            umask: umask.0,
            nofile: ctx.boot.nofile,
            confine: config.confine.clone(),
        };
        let started = match ctx.boot.spawner.spawn(spec).await {
            Ok(started) => started,
            Err(e) => {
                let why = match &config.cwd {
                    Some(cwd) if !cwd.is_dir() => format!("there is no folder {}", cwd.display()),
                    _ => interpreter(&config.program).filter(|_| is_absent(&e)).unwrap_or_else(|| plain(&e)),
                };
                return Err(StartFailure::not_ready(format!("cannot start {}: {why}", config.program.display())));
            }
        };
        debug!("server '{}': started pid {}", self.server, started.pid);
        let pid = started.pid;
        self.take(started, mark).map_err(|e| {
            end_unwatched(pid);
            StartFailure::not_ready(format!("cannot talk with its pipes: {}", plain(&e)))
        })
    }

    /// Begins to talk on a line to what is elsewhere.
    fn connect(&self, wires: Wires) -> Arc<Child> {
        let limit = self.ctx.config().limits.reply.bytes();
        let pipes = Parked {
            stdin: Some((wires.to, Vec::new())),
            stdout: Some((wires.from, Lines::new(limit))),
            ..Parked::default()
        };
        let child = Arc::new(Child::blank(&self.ctx, self.identity(Far::Elsewhere(wires.far))));
        note(&child);
        work(&child, pipes);
        child
    }

    /// What a child of this server is.
    pub(super) fn identity(&self, far: Far) -> Identity {
        let (server, config, observer) = (self.server.clone(), self.config.clone(), self.observer.clone());
        Identity { far, server, config, observer }
    }

    /// Takes over a started process and begins to talk with it. On an error the process lives, and is the caller's.
    fn take(&self, started: Started, mark: String) -> io::Result<Arc<Child>> {
        // All that can fail comes first.
        let pipe = |fd: OwnedFd| AsyncFd::new(File::from(fd));
        let (stdout, stderr) = (pipe(started.stdout)?, pipe(started.stderr)?);
        let stdin = started.stdin.map(pipe).transpose()?;
        let handle = AsyncFd::new(started.handle)?;
        let limit = self.ctx.config().limits.reply.bytes();
        let pipes = Parked {
            stdin: stdin.map(|pipe| (Box::new(pipe) as Box<dyn Output>, Vec::new())),
            stdout: Some((Box::new(stdout) as Box<dyn Input>, Lines::new(limit))),
            stderr: Some((Box::new(stderr) as Box<dyn Input>, Lines::new(STDERR_LINE))),
            handle: Some(handle),
        };
        let identity = self.identity(Far::Process { pid: started.pid, mark });
        let child = Arc::new(Child::blank(&self.ctx, identity));
        note(&child);
        work(&child, pipes);
        Ok(child)
    }

    /// Starts a child and waits for its answer to the opening of an era; what fails leaves nothing behind. A start that is
    /// `unwanted` meanwhile fails as well, in the same order.
    pub(crate) async fn start(
        &self,
        umask: Mode,
        opening: Opening,
        unwanted: Option<&Flag>,
    ) -> Result<Arc<Child>, StartFailure> {
        // A client waits for a server that is started on demand: the start does not queue behind others that hang.
        let asked = self.config.get().on_demand.is_some();
        let place = async {
            match asked {
                true => Ok(None),
                false => Ok(Some(self.ctx.starts.place().await)),
            }
        };
        let given_up = async {
            until_set(unwanted).await;
            Err(StartFailure::not_ready(Error::Unwanted.to_string()))
        };
        let place = place.or(given_up).await?;
        let makes_room = async {
            sleep(HOLD).await;
            drop(place);
            std::future::pending().await
        };
        self.start_now(umask, opening, unwanted).or(makes_room).await
    }

    async fn start_now(
        &self,
        umask: Mode,
        opening: Opening,
        unwanted: Option<&Flag>,
    ) -> Result<Arc<Child>, StartFailure> {
        let child = self.spawn(umask).await?;
        match self.open(child, opening, unwanted).await {
            Err(failure) if failure.refused && opening == Opening::Initialize => {
                // It answered, and would not: perhaps it speaks the modern era alone. In a process of its own, because the
                // refused handshake may have left a mark.
                debug!("server '{}': {}; it is asked for the modern era", self.server, failure.text);
                let child = self.spawn(umask).await?;
                self.open(child, Opening::Discover, unwanted).await.map_err(|_| failure)
            }
            outcome => outcome,
        }
    }

    /// Opens an era with a child that was started; what fails leaves nothing behind.
    pub(crate) async fn open(
        &self,
        child: Arc<Child>,
        opening: Opening,
        unwanted: Option<&Flag>,
    ) -> Result<Arc<Child>, StartFailure> {
        let config = self.config.get();
        let says: Arc<dyn Says> = child.clone();
        self.ctx.starts.note(&self.server, Arc::downgrade(&says));
        let spoke = child.clone();
        let said = move |mut text: String, words: LastWords| {
            if spoke.elsewhere().is_some() {
                // It has no other outputs.
            } else if words.is_empty() && spoke.spoke.load(Relaxed) {
                text.push_str(
                    "; what it wrote to standard output was no answer to that, and nothing came on standard error",
                );
            } else if words.is_empty() {
                text.push_str(
                    "; nothing came on its standard output or standard error (what it still had in a buffer is lost)",
                );
            }
            StartFailure { words, ..StartFailure::not_ready(text) }
        };
        let unwanted_now = || unwanted.is_some_and(Flag::is_set);
        let unwanted = async {
            until_set(unwanted).await;
            Some(Err(Error::Unwanted))
        };
        let opener = child.clone();
        let opened = async move {
            match opening {
                Opening::Initialize => opener.initialize().await,
                Opening::Discover => opener.discover().await,
            }
        };
        let starts = &self.ctx.starts;
        let given = starts.patience(&self.server);
        let (method, limit, longest) = match opening {
            Opening::Initialize => {
                let limit = config.start_timeout.saturating_mul(given);
                (method::INITIALIZE, limit, config.start_timeout.saturating_mul(MOST))
            }
            // Some servers say nothing at all to what they do not know.
            Opening::Discover => {
                let limit = config.start_timeout.min(PROBE);
                (method::DISCOVER, limit, limit)
            }
        };
        let opened = std::pin::pin!(opened);
        let in_time = within(&child, limit, longest, opened);
        let (outcome, waited) = in_time.or(async { (unwanted.await, Duration::ZERO) }).await;
        match &outcome {
            _ if opening == Opening::Discover => {}
            Some(outcome) => starts.has_ended(&self.server, outcome.is_ok()),
            None => starts.was_late(&self.server, given),
        }
        match outcome {
            Some(Ok(())) => Ok(child),
            Some(Err(why)) => {
                // Most servers do not know the question of the modern era, and say so: a client waits for that.
                let knows_not = opening == Opening::Discover && matches!(why, Error::Answered(_) | Error::NotModern);
                // An end shows in the error of the open request, a moment before the status is known to all.
                if !knows_not && timeout(STATUS, child.exited()).await.is_some() {
                    let how = child.reaped().await;
                    let ended = match child.speechless.load(SeqCst) {
                        true => "closed its input or output".to_owned(),
                        false => child.exit_text(),
                    };
                    let text = match child.elsewhere() {
                        Some(_) => ended,
                        None => format!("{ended} before it answered '{method}'"),
                    };
                    return Err(StartFailure { how, ..said(text, child.words()) });
                }
                let failure = match why {
                    Error::Answered(error) => {
                        let words = child.words().because(format!("its answer: {error}"));
                        said(format!("its handshake failed: it answered '{method}' with an error"), words)
                    }
                    why => said(format!("its handshake failed: {why}"), child.words()),
                };
                match knows_not {
                    true => self.stop_aside(&child),
                    false => child.stop(config.stop()).await,
                }
                let refused = !self.ctx.end_drain.is_set() && !unwanted_now();
                Err(StartFailure { refused, ..failure })
            }
            None => {
                let key = match opening {
                    Opening::Discover => String::new(),
                    Opening::Initialize if waited == config.start_timeout => " (start_timeout)".to_owned(),
                    Opening::Initialize if given > 1 => {
                        format!(
                            " (more than start_timeout, {}, which was too short before)",
                            duration(config.start_timeout)
                        )
                    }
                    Opening::Initialize => {
                        format!(" (more than start_timeout, {}, as it showed life)", duration(config.start_timeout))
                    }
                };
                let text = format!("it did not answer '{method}' within {}{key}", duration(waited));
                let failure = said(text, child.words());
                child.stop(config.stop()).await;
                Err(failure)
            }
        }
    }

    /// Stops a child in a task of its own: who has started the child does not wait for its end. The end of the instance and an
    /// upgrade wait for that task.
    fn stop_aside(&self, child: &Arc<Child>) {
        let over = Arc::new(Flag::default());
        self.ctx.leaving.note(over.clone());
        let (child, ladder) = (child.clone(), self.config.get().stop().clone());
        task::spawn(async move {
            child.stop(&ladder).await;
            over.set();
        });
    }
}

fn is_absent(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}

/// What the system means by a program that is there and is said not to be (execve(2), ENOENT): the program in its first line.
fn interpreter(program: &Path) -> Option<String> {
    let mut first = [0; 256];
    let read = File::open(program).and_then(|mut file| file.read(&mut first)).ok()?;
    let line = first[..read].strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line).trim_start().to_owned();
    let name = line.split(' ').next().unwrap_or_default();
    let ends = if line.ends_with('\r') { ": the file has the line ends of Windows" } else { "" };
    Some(format!("its first line asks for '{}', which is not there{ends}", printable(name.trim_end(), 100)))
}

/// Waits for the outcome of an opening for so long; and again as long as the child shows that it works on it, by what it
/// says or by the processor time that it takes, but not longer than `longest`. Gives how long that was.
async fn within<T>(
    child: &Child,
    limit: Duration,
    longest: Duration,
    mut opened: Pin<&mut (impl Future<Output = T> + Send)>,
) -> (Option<T>, Duration) {
    let (mut waited, mut seen) = (Duration::ZERO, child.life().await);
    loop {
        let outcome = timeout_awake(limit, opened.as_mut()).await;
        waited += limit;
        if outcome.is_some() || waited + limit > longest {
            return (outcome, waited);
        }
        let now = child.life().await;
        // A hundredth of the time is more than waiting takes.
        if now.lines == seen.lines && now.cpu < seen.cpu + limit.as_secs_f64() / 100.0 {
            return (None, waited);
        }
        seen = now;
    }
}

async fn until_set(flag: Option<&Flag>) {
    match flag {
        Some(flag) => flag.wait().await,
        None => std::future::pending().await,
    }
}

impl Says for Child {
    fn headline(&self) -> Option<String> {
        self.words().headline().map(str::to_owned)
    }
}

/// What a child has done so far.
struct Life {
    /// Lines that were no messages.
    lines: u64,
    /// Seconds of processor time, with all that it has started and that lives.
    cpu: f64,
}

impl Child {
    async fn life(&self) -> Life {
        let cpu = match self.pid().map(Pid::as_raw) {
            Some(pid) => blocking(move || process::usage(&[pid], true).cpu_seconds).await,
            None => 0.0,
        };
        Life { lines: self.stderr.lock().count(), cpu }
    }

    /// The handshake (2025-11-25 basic/lifecycle), then the child counts as ready.
    async fn initialize(&self) -> Result<(), Error> {
        let params = mcp::initialize_params(env!("CARGO_PKG_VERSION"));
        let result = self.ask(method::INITIALIZE, Some(&params)).await?;
        let info = mcp::server_info(&result).map_err(Error::NoHandshake)?;
        debug!("server '{}': speaks {}, is {}", self.server, info.revision, info.name());
        let _ = self.info.set(info);
        self.notify(method::INITIALIZED, None);
        Ok(())
    }
}

/// Notes a child among what has to come to rest before an upgrade.
pub(crate) fn note(child: &Arc<Child>) {
    let one: Arc<dyn Quiesce> = child.clone();
    child.ctx.note_quiescing(Arc::downgrade(&one));
}

/// Begins to talk with a child, or goes on with it: the reader, the writer and the drain of standard error are tasks of
/// their own, so that none can stall another.
pub(crate) fn work(child: &Arc<Child>, pipes: Parked) {
    child.stdin.count(child.ctx.memory.begin(child.holder()));
    let mut tasks = Vec::new();
    if let Some((pipe, rest)) = pipes.stdin {
        tasks.push(task::spawn(write(child.clone(), pipe, rest)));
    }
    if let Some((pipe, input)) = pipes.stdout {
        tasks.push(task::spawn(read(child.clone(), pipe, input)));
    }
    if let Some(far) = child.elsewhere() {
        child.stderr_eof.set();
        if !child.far_followed.swap(true, SeqCst) {
            task::spawn(wait_for_far(child.clone(), far.clone()));
        }
    }
    if let Some((pipe, input)) = pipes.stderr {
        tasks.push(task::spawn(read_stderr(child.clone(), pipe, input)));
    }
    // Where it is not here, the child's end is being seen to already.
    if let Some(handle) = pipes.handle {
        task::spawn(wait_and_reap(child.clone(), handle, tasks));
    }
}
