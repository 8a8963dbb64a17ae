//! The life of the daemon, in order: arguments, configuration, lock, fork, sockets, guard, runtime, servers, ready,
//! signals, drain, end. What each step does is elsewhere; here is when.

mod folders;
mod own_key;
mod prepare;

use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::unistd::Pid;

use prepare::{Prepared, Start, end_predecessor, key, no_living_owner, open_log, prepare};

use crate::cli::{self, Parsed};
use crate::connect;
use crate::exporting;
use crate::hub::{Audit, Boot, Hub};
use crate::importing;
use crate::instance::{self, Instance};
use crate::logging::LogFile;
use crate::many;
use crate::model::config::{self, Config, Loaded};
use crate::model::exit::{Exit, Failure, plain};
use crate::model::handover::{self, Handover};
use crate::model::sealed::Keys;
use crate::model::text::{count, printable};
use crate::rt::async_fd::AsyncFd;
use crate::rt::blocking::blocking;
use crate::rt::executor;
use crate::rt::main_thread::{self, Spawner};
use crate::rt::random;
use crate::rt::task;
use crate::source::{Source, lines};
use crate::sys::become_daemon::{self, Readiness, Side};
use crate::sys::guard::Guard;
use crate::sys::lock::Lock;
use crate::sys::logfile::Opened;
use crate::sys::notify::Notifier;
use crate::sys::passed::{self, Passed};
use crate::sys::pidfd::PidFd;
use crate::sys::pidfile::{PidFile, Refused};
use crate::sys::reexec::{self, Program};
use crate::sys::{fds, files, memory, paths, process, signals};

/// How long the end waits for a log that cannot be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// `mcpdaemon`, with its arguments.
pub fn main(args: Vec<String>) -> ExitCode {
    match begin(args) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            complain(&failure.text);
            failure.exit.into()
        }
    }
}

/// In one piece: others may write there at the same time.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn say(text: &str) {
    // The reader may be gone, which is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// `--new-token`: a line for the file of tokens, and the token, which is nowhere else.
fn new_token(name: &str) -> Result<Exit, Failure> {
    config::check_token_name(name).map_err(|why| Failure::new(Exit::Usage, format!("mcpdaemon: {why}")))?;
    let bytes: [u8; 32] = random::bytes().map_err(|why| Failure::new(Exit::Os, why))?;
    let token = data_encoding::BASE64URL_NOPAD.encode(&bytes);
    say(&config::token_line(name, token.as_bytes()));
    let text = format!(
        "the token of {name}, which is shown this once; the line is for the file of auth: Bearer(\"FILE\"), \
                        which a reload reads again:"
    );
    let _ = writeln!(std::io::stderr(), "{text}\n{token}");
    Ok(Exit::Ok)
}

/// Steps that need nothing but the caller's terminal.
fn begin(args: Vec<String>) -> Result<Exit, Failure> {
    memory::one_heap();
    process::hide();
    // Before anything else is opened.
    let passed = Passed::take();
    let mut args = match cli::daemon(args)? {
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
    if let Some(wanted) = &args.connect {
        return connect::run(wanted, &args, &cwd());
    }
    if let (Some(client), Some(wanted)) = (&args.export, args.command.first()) {
        return exporting::run(client, wanted, &args, &cwd());
    }
    if args.config.is_none() && args.command.is_empty() {
        args.config = paths::config();
    }
    if let Some(document) = passed.handover {
        return go_on(&args, document).inspect_err(|failure| error!("{failure}"));
    }
    if let Some(file) = &args.import {
        return importing::run(file, args.output.as_deref());
    }
    if let Some(name) = &args.new_token {
        return new_token(name);
    }
    let cwd = cwd();
    if let Some(dir) = folder(&args, &cwd)? {
        return many::run(&dir, &args);
    }
    let source = Source::new(&args, &cwd);
    let loaded = source.load().map_err(|problems| Failure::new(Exit::Config, lines(&problems)))?;
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    if args.dump {
        say(&config::dump(&loaded.shown));
        return Ok(Exit::Ok);
    }
    if args.test {
        say(&format!("{}: configuration OK", loaded.config.name));
        if passed.check {
            say(&format!("handover {}", handover::FORMAT));
        }
        return Ok(Exit::Ok);
    }
    let account = loaded.config.account.as_ref().filter(|account| account.uid != 0);
    let run_dir = match (&args.run_dir, account) {
        (Some(dir), _) => cwd.join(dir),
        (None, Some(account)) if paths::is_usual("MCP_RUN_DIR") => paths::run_dir().join(&account.name),
        (None, _) => paths::run_dir(),
    };
    if args.cleanup {
        return clean_up(&loaded.config, &run_dir, source.file.as_deref());
    }
    let newline = args.notify_fd.map(|fd| {
        let missing = || Failure::new(Exit::Usage, format!("mcpdaemon: --notify-fd {fd}: this descriptor is not open"));
        passed::own_fd(fd).ok_or_else(missing)
    });
    let newline = newline.transpose()?;
    let foreground = args.foreground || become_daemon::is_init();
    if !foreground && become_daemon::threads() != 1 {
        return Err(Failure::new(Exit::Software, "a second thread runs already: cannot fork"));
    }
    let mut keep = passed.fds();
    keep.extend(newline.as_ref().map(AsRawFd::as_raw_fd));
    let inherited = if foreground { fds::open_beside(&keep) } else { Vec::new() };
    become_daemon::clean_slate(foreground, &keep)
        .map_err(|e| Failure::new(Exit::Os, format!("cannot put descriptors and signals in order: {}", plain(&e))))?;
    start(Start { source, run_dir, foreground, passed, newline, inherited, after_kill: false }, loaded)
}

fn cwd() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| "/".into())
}

/// The folder of instance files that is to be started, if that is what is wanted.
fn folder(args: &cli::Daemon, cwd: &Path) -> Result<Option<PathBuf>, Failure> {
    match &args.config {
        Some(path) => Ok(Some(cwd.join(path)).filter(|p| p.is_dir())),
        None if !args.command.is_empty() => Ok(None),
        None => {
            let dir = paths::config_dir();
            match dir.is_dir() {
                true => Ok(Some(dir)),
                false => {
                    let text = format!(
                        "mcpdaemon: what shall it run? There is no folder {}; give -c FILE, set MCP_CONFIG, or \
                         give a command behind --",
                        dir.display()
                    );
                    Err(Failure::new(Exit::Usage, text))
                }
            }
        }
    }
}

/// `--cleanup`: what a killed daemon left behind goes, processes and files.
fn clean_up(config: &Config, run_dir: &Path, file: Option<&Path>) -> Result<Exit, Failure> {
    let name = &config.name;
    let (lock, run_dir) = lock(name, run_dir, file)?;
    let key = key(&run_dir, name);
    no_living_owner(&key, config)?;
    let (found, left) = end_predecessor(&key);
    let _ = std::fs::remove_file(run_dir.join(format!("{name}.status")));
    lock.remove();
    if !left.is_empty() {
        return Err(Failure::new(Exit::Software, format!("{name}: these processes cannot be ended: {left:?}")));
    }
    say(&match found {
        0 => format!("{name}: nothing was left behind"),
        n => format!("{name}: ended {}", count(n, "process")),
    });
    Ok(Exit::Ok)
}

/// Lock and fork. From here on there is something to undo.
fn start(mut from: Start, loaded: Loaded) -> Result<Exit, Failure> {
    let name = loaded.config.name.clone();
    folders::make_folders(&loaded.config, &from.run_dir, from.foreground)?;
    from.source.settle(loaded.config.account.as_ref());
    from.after_kill = from.run_dir.join(format!("{name}.pid")).exists();
    let take = || lock(&name, &from.run_dir, from.source.file.as_deref());
    let (lock, run_dir) = folders::in_folder(&loaded.config, &from.run_dir, take)??;
    from.run_dir = run_dir;
    let mut readiness = Readiness::foreground();
    if !from.foreground {
        let progress = |text: &str| complain(&format!("{name}: {text}"));
        match become_daemon::fork_away(&progress) {
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
    match settle(from, loaded, lock, readiness) {
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

/// Takes the lock; also gives the run directory by its one real name, which is part of the mark of all children. `file` is
/// what the instance would run from.
fn lock(name: &str, run_dir: &Path, file: Option<&Path>) -> Result<(PidFile, PathBuf), Failure> {
    let io = |doing: &str, path: &Path, e: &std::io::Error| Failure::io(Exit::CannotCreate, doing, path, e);
    paths::make_dir(run_dir).map_err(|e| {
        let mut failure = io("make the run directory", run_dir, &e);
        failure.text.push_str(" (choose another by --run-dir or MCP_RUN_DIR)");
        failure
    })?;
    let looked = |e: std::io::Error| io("look at the run directory", run_dir, &e);
    let real = run_dir.canonicalize().map_err(looked)?;
    // Who may write here chooses whom the daemon signals and what it writes over. Root trusts no folder above either.
    let own = nix::unistd::geteuid();
    let unsafe_here = files::unsafe_folder(&real).map_err(looked)?.map(|why| format!("{} {why}", real.display()));
    let unsafe_above = || files::untrusted(&real, &[]).filter(|_| own.is_root()).map(|u| u.to_string());
    if let Some(what) = unsafe_here.or_else(unsafe_above) {
        let text = format!(
            "{}: no place for the files of an instance: {what}; it must be a folder where nobody but {} may write \
             (choose another by --run-dir or MCP_RUN_DIR)",
            run_dir.display(),
            if own.is_root() { "root" } else { "root and you" },
        );
        return Err(Failure::new(Exit::NoPermission, text));
    }
    let path = real.join(format!("{name}.pid"));
    match PidFile::lock(&path) {
        Ok(lock) => {
            files::remove_leftovers(&real.join(format!("{name}.status")));
            Ok((lock, real))
        }
        Err(Refused::Running(Some(pid))) => {
            let removed = match path.exists() {
                true => String::new(),
                false => format!("; somebody removed its PID file: 'kill {pid}' ends it"),
            };
            let other = other_file(&real.join(format!("{name}.status")), pid.as_raw(), file);
            let other = other.map_or(String::new(), |other| {
                format!("; it runs from {other}: give this one a name of its own by --name")
            });
            // Who starts it again wants what he has changed, or another one.
            let next = match (removed.is_empty(), other.is_empty()) {
                (true, true) => format!("; 'mcpctl reload {name}' takes over what has changed"),
                _ => String::new(),
            };
            Err(Failure::new(
                Exit::AlreadyRunning,
                format!("{name}: already running (pid {pid}){removed}{other}{next}"),
            ))
        }
        Err(Refused::Running(None)) => {
            Err(Failure::new(Exit::AlreadyRunning, format!("{name}: already running (another start is under way)")))
        }
        Err(Refused::Io(e)) => Err(io("lock the PID file", &path, &e)),
    }
}

/// The file that the daemon of this PID runs from, if that is another one.
fn other_file(status: &Path, pid: i32, file: Option<&Path>) -> Option<String> {
    let status = process::said(status)?;
    let same =
        |path: &Path| file.is_some_and(|file| file == path || file.canonicalize().ok() == path.canonicalize().ok());
    match status.config {
        _ if status.pid != pid => None,
        Some(config) if same(Path::new(&config)) => None,
        Some(config) => Some(printable(&config, 200)),
        None => file.is_some().then(|| "a command line".to_owned()),
    }
}

/// The daemon's own side, still with one thread: everything that has to be there before the runtime.
fn settle(mut from: Start, loaded: Loaded, lock: PidFile, mut readiness: Readiness) -> Result<Exit, Failure> {
    let program =
        Program::this().map_err(|e| Failure::new(Exit::Os, format!("cannot find the program itself: {}", plain(&e))));
    let prepared = program.and_then(|program| Ok((program, prepare(&loaded.config, &mut from, &lock)?)));
    match prepared {
        Ok((program, prepared)) => run(from, loaded, lock, readiness, program, prepared, None),
        Err(failure) => {
            lock.remove();
            if readiness.is_background() {
                // In front it is said where the log goes.
                error!("the start failed: {failure}");
            }
            readiness.failed(&failure);
            Err(failure)
        }
    }
}

/// The runtime, and the life of the instance in it.
fn run(
    mut from: Start,
    loaded: Loaded,
    lock: PidFile,
    mut readiness: Readiness,
    program: Program,
    prepared: Prepared,
    before: Option<Handover>,
) -> Result<Exit, Failure> {
    let name = loaded.config.name.clone();
    let Prepared { log, sockets, guard, nofile, mark, session_key } = prepared;
    // All threads but this one leave the signals alone, so that none is lost when the program is exchanged.
    signals::hold(true);
    if let Err(e) = log.detach() {
        warn!("cannot start a thread for the log: {}", plain(&e));
    }
    // The number is published once its signals are ours to handle, and not before.
    let cannot = |what: &str, e: &std::io::Error| Failure::new(Exit::Os, format!("cannot {what}: {}", plain(e)));
    let signals = executor::start()
        .map_err(|e| cannot("start the thread that runs all tasks", &e))
        .and_then(|()| instance::signals().map_err(|e| cannot("receive signals", &e)))
        .and_then(|signals| match lock.write(Pid::this()) {
            Ok(()) => Ok(signals),
            Err(e) => Err(Failure::new(Exit::CannotCreate, format!("cannot write the PID file: {}", plain(&e)))),
        });
    let record = Audit::open(loaded.config.audit.as_ref()).map_err(|e| {
        let path = loaded.config.audit.as_ref().map(|audit| audit.file.clone()).unwrap_or_default();
        Failure::io(Exit::CannotCreate, "open the audit record", &path, &e)
    });
    let (signals, record) = match signals.and_then(|signals| record.map(|record| (signals, record))) {
        Ok(both) => both,
        Err(failure) => {
            lock.remove();
            readiness.failed(&failure);
            return Err(failure);
        }
    };
    let (spawner, jobs) = Spawner::new();
    let ended = log.clone();
    let now = Instant::now();
    let uptime = Duration::from_millis(before.as_ref().map_or(0, |b| b.uptime));
    let boot = Boot { spawner: spawner.clone(), nofile, mark, session_key, at: now.checked_sub(uptime).unwrap_or(now) };
    let config = Arc::new(loaded.config);
    let start = instance::Start {
        source: from.source,
        texts: loaded.texts,
        log,
        run_dir: from.run_dir,
        lock,
        notifier: from.passed.notifier.take(),
        newline: from.newline.take(),
        foreground: from.foreground,
        program,
        guard: guard.parts(),
        inherited: from.inherited,
        after_kill: from.after_kill,
    };
    let hub = Hub::new(boot, config.clone());
    if let Err(e) = hub.ctx.audit.set(config.audit.as_ref(), record) {
        error!("cannot start a thread for the audit record: {}", plain(&e));
    }
    let record = hub.clone();
    let instance = Instance::new(hub, start, before.as_ref());
    let outcome: Arc<Lock<Option<Failure>>> = Arc::default();
    let (told, ending) = (outcome.clone(), spawner);
    let watched = guard.handle();
    task::spawn(async move {
        let guarded = task::spawn(watch_guard(watched));
        let failure = instance.live(sockets, signals, &mut readiness, before).await.err();
        guarded.cancel().await;
        blocking(move || record.ctx.audit.flush(Duration::from_secs(1))).await;
        let exit = failure.as_ref().map_or(Exit::Ok, |f| f.exit);
        instance.remove_files();
        guard.release();
        instance.unlock();
        if let Some(failure) = &failure {
            // Last of all: a start that follows at once finds nothing in the way.
            readiness.failed(failure);
        }
        *told.lock() = failure;
        ending.exit(exit);
    });
    signals::hold(false);
    let exit = main_thread::serve(&jobs);
    let failure = outcome.lock().take();
    if failure.is_none() {
        info!("{name}: ended");
    }
    ended.flush(LAST_WORDS);
    failure.map_or(Ok(exit), Err)
}

/// Goes on with what the program before has handed over in this very process. There is no way back: what is wrong here
/// ends the instance.
fn go_on(args: &cli::Daemon, document: OwnedFd) -> Result<Exit, Failure> {
    let lost = |what: &str| Failure::new(Exit::Software, format!("cannot take over from the program before: {what}"));
    let bytes = reexec::read(document).map_err(|e| lost(&plain(&e)))?;
    let mut before: Handover = serde_json::from_slice(&bytes).map_err(|e| lost(&e.to_string()))?;
    drop(bytes);
    if before.format != handover::FORMAT {
        return Err(lost(&format!("its document has the format {}, and not {}", before.format, handover::FORMAT)));
    }
    // What of them is not taken is no child's.
    before.fds().iter().for_each(|fd| fds::close_on_exec(*fd, true));
    before.inherited.iter().for_each(|fd| fds::close_on_exec(*fd, true));
    let mut source = Source::new(args, &before.cwd);
    source.log_dir.clone_from(&before.log_dir);
    // As it was in force. A newer version may see it with other eyes, and has approved of what the files say now.
    let named = source.named(&before.name);
    let loaded = named.load_from(before.texts.clone()).or_else(|_| named.load());
    let loaded = loaded.map_err(|problems| Failure::new(Exit::Config, lines(&problems)))?;
    let config = &loaded.config;
    become_daemon::settle(config.umask.0, before.foreground).map_err(|e| lost(&plain(&e)))?;
    let log = match open_log(config, before.foreground) {
        Ok(log) => log,
        // Moved to where this user may not write, for example: the old file goes on, as it would after a HUP.
        Err(failure) => match before.log_fd.and_then(passed::own_fd) {
            Some(fd) => {
                let log = LogFile::start(Some(Opened::adopt(&config.log.file, fd)), &config.log);
                error!("{failure}: going on with the old one");
                log
            }
            None => return Err(failure),
        },
    };
    become_daemon::adopt_orphans().map_err(|e| lost(&plain(&e)))?;
    let fd = |fd: i32, what: &str| passed::own_fd(fd).ok_or_else(|| lost(&format!("{what} is not open")));
    let path = before.run_dir.join(format!("{}.pid", before.name));
    let lock_file = before.lock_file.map(|n| fd(n, "the lock")).transpose()?;
    let lock = PidFile::adopt(&path, fd(before.lock, "the PID file")?, lock_file).map_err(|e| lost(&plain(&e)))?;
    let guard = match Guard::adopt(Pid::from_raw(before.guard), fd(before.guard_pipe, "the guard's pipe")?) {
        Ok(guard) => guard,
        Err(e) => {
            error!("the guard process is gone ({}): there is a new one", plain(&e));
            Guard::start(&before.mark).map_err(|e| lost(&plain(&e)))?
        }
    };
    let mut sockets = Vec::new();
    for one in std::mem::take(&mut before.listeners) {
        let at = one.at.clone();
        match crate::net::socket(one) {
            Ok(socket) => sockets.push(socket),
            Err(why) => error!("cannot listen on {at} any more: {why}"),
        }
    }
    if let Err(e) = fds::raise_nofile() {
        warn!("cannot raise the limit of open files: {}", plain(&e));
    }
    let notifier = before.notify.as_ref().and_then(|n| Notifier::new(&n.name, n.watchdog.map(Duration::from_micros)));
    let from = Start {
        source,
        run_dir: before.run_dir.clone(),
        foreground: before.foreground,
        passed: Passed { notifier, ..Passed::default() },
        newline: None,
        inherited: before.inherited.clone(),
        after_kill: false,
    };
    let (nofile, mark) = (before.nofile, before.mark.clone());
    let program = Program::this().map_err(|e| lost(&plain(&e)))?;
    let session_key = match &before.session_key {
        Some(text) => Some(Keys::parse(text).map_err(|(_, what)| lost(&format!("the key of session ids: {what}")))?),
        // The version before had none.
        None => own_key::of(&loaded.config),
    };
    let prepared = Prepared { log, sockets, guard, nofile, mark, session_key };
    run(from, loaded, lock, Readiness::foreground(), program, prepared, Some(before))
}

/// Without its guard, a daemon that is killed leaves processes behind: the one who killed the guard should know.
async fn watch_guard(handle: std::io::Result<PidFd>) {
    let Some(handle) = handle.and_then(AsyncFd::new).ok() else { return };
    handle.readable().await;
    error!("the guard process has ended: if this daemon is killed now, nobody ends what it leaves behind");
}
