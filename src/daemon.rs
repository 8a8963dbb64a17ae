//! The life of the daemon, in order: arguments, configuration, lock, fork, sockets, guard, runtime, servers, ready,
//! signals, drain, end. What each step does is elsewhere; here is when.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use log::{error, info, warn};
use nix::unistd::Pid;

use crate::cli::{self, Parsed};
use crate::hub::spawner::{self, Spawner};
use crate::hub::{Boot, Hub};
use crate::instance::{self, Instance};
use crate::logging::{self, LogFile};
use crate::model::config::{self, Config, Listen, Loaded};
use crate::model::exit::{Exit, Failure, plain};
use crate::net::door;
use crate::source::{Source, lines};
use crate::sys::become_daemon::{self, Readiness, Side};
use crate::sys::guard::Guard;
use crate::sys::listen::Socket;
use crate::sys::pidfd::PidFd;
use crate::sys::pidfile::{PidFile, Refused};
use crate::sys::{fds, paths, process};

/// How long the end waits for a log that cannot be written.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// `mcpdaemon`, with its arguments.
pub fn main(args: Vec<String>) -> ExitCode {
    match begin(args) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.exit.into()
        }
    }
}

fn say(text: &str) {
    // Nobody may be listening any more, which is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// Steps that need nothing but the caller's terminal.
fn begin(args: Vec<String>) -> Result<Exit, Failure> {
    let args = match cli::daemon(args)? {
        Parsed::Say(help) => {
            say(&help);
            return Ok(Exit::Ok);
        }
        Parsed::Args(args) => args,
    };
    if args.version {
        say(concat!("mcpdaemon ", env!("CARGO_PKG_VERSION")));
        return Ok(Exit::Ok);
    }
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let source = Source::new(&args, &cwd);
    let loaded = source.load().map_err(|problems| Failure::new(Exit::Config, lines(&problems)))?;
    if args.dump {
        say(&config::dump(&loaded.shown));
        return Ok(Exit::Ok);
    }
    if args.test {
        say(&format!("{}: configuration OK", loaded.config.name));
        return Ok(Exit::Ok);
    }
    let run_dir = args.run_dir.as_ref().map_or_else(paths::run_dir, |dir| cwd.join(dir));
    let foreground = args.foreground || become_daemon::is_init();
    if !foreground && become_daemon::threads() != 1 {
        return Err(Failure::new(Exit::Software, "a second thread runs already: cannot fork"));
    }
    become_daemon::clean_slate(foreground)
        .map_err(|e| Failure::new(Exit::Os, format!("cannot put descriptors and signals in order: {}", plain(&e))))?;
    start(source, loaded, run_dir, foreground)
}

/// Lock and fork. From here on there is something to undo.
fn start(source: Source, loaded: Loaded, run_dir: PathBuf, foreground: bool) -> Result<Exit, Failure> {
    let name = loaded.config.name.clone();
    let (lock, run_dir) = lock(&name, &run_dir)?;
    let mut readiness = Readiness::foreground();
    if !foreground {
        match become_daemon::fork_away() {
            Ok(Side::Daemon(pipe)) => readiness = pipe,
            Ok(Side::Caller(code, text)) => {
                match code {
                    // The lock is the daemon's: dropping our copy would release it for both.
                    0 => std::mem::forget(lock),
                    // It is over, and may have had no chance to clean up.
                    _ => lock.remove(),
                }
                return hear(&name, code, &text);
            }
            Err(failure) => {
                lock.remove();
                return Err(failure);
            }
        }
    }
    let background = readiness.is_background();
    match settle(source, loaded, &run_dir, lock, readiness, foreground) {
        Ok(exit) => Ok(exit),
        // The caller has been told by the pipe; standard error may be the same terminal.
        Err(failure) if background => Ok(failure.exit),
        Err(failure) => Err(Failure::new(failure.exit, format!("{name}: {failure}"))),
    }
}

/// The caller's side: repeats what the daemon said.
fn hear(name: &str, code: u8, text: &str) -> Result<Exit, Failure> {
    if code == 0 {
        say(text);
        return Ok(Exit::Ok);
    }
    let exit = Exit::from_code(code).unwrap_or(Exit::Software);
    Err(Failure::new(exit, format!("{name}: {text}")))
}

/// Takes the lock; also gives the run directory by its one real name, which is part of the mark of all children.
fn lock(name: &str, run_dir: &Path) -> Result<(PidFile, PathBuf), Failure> {
    let io = |doing: &str, path: &Path, e: &std::io::Error| Failure::io(Exit::CannotCreate, doing, path, e);
    paths::make_dir(run_dir).map_err(|e| {
        let mut failure = io("make the run directory", run_dir, &e);
        failure.text.push_str(" (choose another by --run-dir or MCP_RUN_DIR)");
        failure
    })?;
    if paths::world_writable(run_dir).map_err(|e| io("look at the run directory", run_dir, &e))? {
        let text = format!(
            "{}: everybody may write here, so it is no place for a PID file; choose another --run-dir",
            run_dir.display()
        );
        return Err(Failure::new(Exit::NoPermission, text));
    }
    let real = run_dir.canonicalize().map_err(|e| io("look at the run directory", run_dir, &e))?;
    let path = real.join(format!("{name}.pid"));
    match PidFile::lock(&path) {
        Ok(lock) => Ok((lock, real)),
        Err(Refused::Running(Some(pid))) => {
            Err(Failure::new(Exit::AlreadyRunning, format!("{name}: already running (pid {pid})")))
        }
        Err(Refused::Locked(by)) => {
            let by = by.unwrap_or_else(|| "a process that cannot be seen from here".to_owned());
            let text = format!("{}: locked by {by}, which is no mcpdaemon: end it first", path.display());
            Err(Failure::new(Exit::AlreadyRunning, text))
        }
        Err(Refused::Running(None)) => {
            Err(Failure::new(Exit::AlreadyRunning, format!("{name}: already running (another start is under way)")))
        }
        Err(Refused::Io(e)) => Err(io("lock the PID file", &path, &e)),
    }
}

/// The daemon's own side, still with one thread: everything that has to be there before the runtime.
fn settle(
    source: Source,
    loaded: Loaded,
    run_dir: &Path,
    lock: PidFile,
    mut readiness: Readiness,
    foreground: bool,
) -> Result<Exit, Failure> {
    let name = loaded.config.name.clone();
    let prepared = prepare(&loaded.config, run_dir, foreground);
    let (log, sockets, guard, nofile, mark) = match prepared {
        Ok(all) => all,
        Err(failure) => {
            lock.remove();
            readiness.failed(&failure);
            return Err(failure);
        }
    };
    become_daemon::choose_threads();
    if let Err(e) = log.detach() {
        warn!("cannot start a thread for the log: {}", plain(&e));
    }
    // The number is published once its signals are ours to handle, and not before.
    let signals = instance::signals()
        .map_err(|e| Failure::new(Exit::Os, format!("cannot receive signals: {}", plain(&e))))
        .and_then(|signals| match lock.write(Pid::this()) {
            Ok(()) => Ok(signals),
            Err(e) => Err(Failure::new(Exit::CannotCreate, format!("cannot write the PID file: {}", plain(&e)))),
        });
    let signals = match signals {
        Ok(signals) => signals,
        Err(failure) => {
            lock.remove();
            readiness.failed(&failure);
            return Err(failure);
        }
    };
    let (spawner, jobs) = Spawner::new();
    let ended = log.clone();
    let boot = Boot { spawner: spawner.clone(), nofile, mark, at: Instant::now() };
    let config = Arc::new(loaded.config);
    let instance = Instance::new(Hub::new(boot, config), source, log, run_dir, lock);
    let outcome: Arc<std::sync::Mutex<Option<Failure>>> = Arc::default();
    let (told, ending) = (outcome.clone(), spawner);
    let watched = guard.handle();
    async_std::task::spawn(async move {
        let guarded = async_std::task::spawn(watch_guard(watched));
        let failure = instance.live(sockets, signals, &mut readiness).await.err();
        guarded.cancel().await;
        let exit = failure.as_ref().map_or(Exit::Ok, |f| f.exit);
        instance.remove_files();
        guard.release();
        instance.unlock();
        if let Some(failure) = &failure {
            // Last of all: whoever tries again at once finds nothing in the way.
            readiness.failed(failure);
        }
        *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = failure;
        ending.exit(exit);
    });
    let exit = spawner::serve(&jobs);
    let failure = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if failure.is_none() {
        info!("{name}: ended");
    }
    ended.flush(LAST_WORDS);
    failure.map_or(Ok(exit), Err)
}

type Prepared = (LogFile, Vec<(Listen, Socket)>, Guard, u64, String);

fn prepare(config: &Config, run_dir: &Path, foreground: bool) -> Result<Prepared, Failure> {
    let os =
        |doing: &'static str| move |e: std::io::Error| Failure::new(Exit::Os, format!("cannot {doing}: {}", plain(&e)));
    become_daemon::settle(config.umask.0, foreground).map_err(os("change to /"))?;
    fds::null_stdin().map_err(os("open /dev/null"))?;
    let file: Option<(PathBuf, File)> = match foreground {
        true => None,
        false => {
            let path = config.log.file.clone();
            let file = logging::open(&path).map_err(|e| Failure::io(Exit::CannotCreate, "open the log", &path, &e))?;
            Some((path, file))
        }
    };
    let log = LogFile::start(file, config.log.level);
    info!("{}: mcpdaemon {} starts (pid {})", config.name, env!("CARGO_PKG_VERSION"), Pid::this());
    let sockets =
        config.listen.iter().map(|at| Ok((at.clone(), door::open(at, false)?))).collect::<Result<Vec<_>, _>>()?;
    become_daemon::adopt_orphans().map_err(os("become the parent of orphans"))?;
    let nofile = fds::raise_nofile().unwrap_or_else(|e| {
        warn!("cannot raise the limit of open files: {}", plain(&e));
        1024
    });
    let key = format!("{}:", run_dir.join(&config.name).display());
    if let Some(pid) = process::living_owner(&key) {
        let text = format!("already running (pid {pid}); somebody removed its PID file: 'kill {pid}' ends it");
        return Err(Failure::new(Exit::AlreadyRunning, text));
    }
    end_predecessor(&key);
    let this = Pid::this();
    let mark = format!("{key}{this}:{}:", process::start_time(this).unwrap_or(0));
    let guard = Guard::start(&mark).map_err(os("fork the guard process"))?;
    Ok((log, sockets, guard, nofile, mark))
}

/// Without its guard, a daemon that is killed leaves processes behind: whoever killed the guard should know.
async fn watch_guard(handle: std::io::Result<PidFd>) {
    let Some(handle) = handle.and_then(async_io::Async::new).ok() else { return };
    if handle.readable().await.is_ok() {
        error!("the guard process has ended: if this daemon is killed now, nobody ends what it leaves behind");
    }
}

/// We hold the lock, so whatever bears the instance's mark was left by a daemon that is dead.
fn end_predecessor(key: &str) {
    let second = std::time::Duration::from_secs(1);
    let (found, left) = process::end_marked(|mark| mark.starts_with(key), second, 5 * second);
    if found > 0 {
        warn!("ended {found} processes that a killed predecessor had left behind");
    }
    if !left.is_empty() {
        error!("these processes of a predecessor cannot be ended: {left:?}");
    }
}
