//! What has to be there before the runtime, in the order in which privileges are given up: log, sockets, user, guard.

use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{error, info, warn};
use nix::unistd::{AccessFlags, Pid};

use super::folders::in_folder;
use super::own_key;
use crate::logging::LogFile;
use crate::model::config::{Account, Auth, Config, Listen};
use crate::model::exit::{Exit, Failure, plain};
use crate::model::sealed::Keys;
use crate::model::text::count;
use crate::net::listener;
use crate::rt::random::uuid;
use crate::source::Source;
use crate::sys::become_daemon;
use crate::sys::guard::Guard;
use crate::sys::listen::Socket;
use crate::sys::logfile::Opened;
use crate::sys::passed::{self, Passed};
use crate::sys::pidfile::PidFile;
use crate::sys::{accounts, fds, files, process};

/// What a start has from its caller.
pub(super) struct Start {
    pub(super) source: Source,
    pub(super) run_dir: PathBuf,
    pub(super) foreground: bool,
    pub(super) passed: Passed,
    /// Where a newline says that we serve.
    pub(super) newline: Option<OwnedFd>,
    /// Descriptors of the process that started the program, which are not ours.
    pub(super) inherited: Vec<RawFd>,
    /// A daemon of this name has left its PID file: it was killed.
    pub(super) after_kill: bool,
}

/// What there is before the runtime.
pub(super) struct Prepared {
    pub log: LogFile,
    pub sockets: Vec<(Listen, Socket)>,
    pub guard: Guard,
    /// The soft limit of open files that children get.
    pub nofile: u64,
    /// The beginning of every child's mark.
    pub mark: String,
    /// What session ids are sealed with where the configuration names no key.
    pub session_key: Option<Keys>,
}

pub(super) fn prepare(config: &Config, from: &mut Start, lock: &PidFile) -> Result<Prepared, Failure> {
    let os =
        |doing: &'static str| move |e: std::io::Error| Failure::new(Exit::Os, format!("cannot {doing}: {}", plain(&e)));
    become_daemon::settle(config.umask.0, from.foreground).map_err(os("change to /"))?;
    fds::null_stdin().map_err(os("open /dev/null"))?;
    let logs = config.log.file.parent().unwrap_or(Path::new("/"));
    let log = in_folder(config, logs, || open_log(config, from.foreground))??;
    info!("{}: mcpdaemon {} starts (pid {})", config.name, env!("CARGO_PKG_VERSION"), Pid::this());
    let sockets = open_sockets(config, &mut from.passed)?;
    let nofile = fds::raise_nofile().unwrap_or_else(|e| {
        warn!("cannot raise the limit of open files: {}", plain(&e));
        1024
    });
    let session_key = own_key::of(config);
    if let Some(account) = &config.account {
        drop_privileges(config, account, &from.run_dir, from.foreground, lock)?;
    }
    become_daemon::adopt_orphans().map_err(os("become the parent of orphans"))?;
    let key = key(&from.run_dir, &config.name);
    no_living_owner(&key, config)?;
    let (found, left) = end_predecessor(&key);
    if found > 0 {
        warn!("ended {} that a killed predecessor had left behind", count(found, "process"));
    }
    if !left.is_empty() {
        error!("these processes of a predecessor cannot be ended: {left:?}");
    }
    let this = Pid::this();
    // The nonce makes it a secret of the instance and its children: no other process bears it by chance or by guessing.
    let mark = format!("{key}{this}:{}:{}:", process::start_time(this).unwrap_or(0), uuid());
    let guard = Guard::start(&mark).map_err(os("fork the guard process"))?;
    Ok(Prepared { log, sockets, guard, nofile, mark, session_key })
}

pub(super) fn open_log(config: &Config, foreground: bool) -> Result<LogFile, Failure> {
    let path = &config.log.file;
    let open = || Opened::open(path).map_err(|e| Failure::io(Exit::CannotCreate, "open the log", path, &e));
    let file = if foreground { None } else { Some(open()?) };
    Ok(LogFile::start(file, &config.log))
}

/// Everything to listen on: opened here, or passed by the service manager.
fn open_sockets(config: &Config, passed: &mut Passed) -> Result<Vec<(Listen, Socket)>, Failure> {
    let mut sockets = Vec::new();
    for at in &config.listen {
        let Listen::Passed(wanted) = at else {
            let opened = listener::open(at, config.next_ports, false)?;
            sockets.extend(opened.into_iter().map(|socket| (at.clone(), socket)));
            continue;
        };
        let fits = |(name, _): &mut (String, OwnedFd)| wanted.as_ref().is_none_or(|w| w == name);
        let (ours, others): (Vec<_>, Vec<_>) = std::mem::take(&mut passed.sockets)
            .into_iter()
            .map(|mut one| (fits(&mut one), one))
            .partition(|(ours, _)| *ours);
        passed.sockets = others.into_iter().map(|(_, one)| one).collect();
        if ours.is_empty() {
            let text = format!("cannot listen on {at}: the service manager has passed no such socket (LISTEN_FDS)");
            return Err(Failure::new(Exit::Unavailable, text));
        }
        for (_, (name, fd)) in ours {
            let refused = |why: String| Failure::new(Exit::Unavailable, format!("the passed socket '{name}': {why}"));
            let socket = passed::listener(fd).map_err(refused)?;
            if !socket.is_local() && !config.insecure && config.auth.is_none() {
                let why = "it can be reached from other machines, and nothing asks who connects: \
                           set 'auth' or say insecure: true in an instance file";
                return Err(Failure::new(Exit::Config, refused(why.to_owned()).text));
            }
            sockets.push((at.clone(), socket));
        }
    }
    for (name, _) in passed.sockets.drain(..) {
        warn!("the service manager has passed a socket '{name}' that no listen: \"systemd:...\" asks for");
    }
    Ok(sockets)
}

/// Becomes the user of the configuration, for good. What was made so far is handed over: the files that the daemon has to
/// replace and remove.
fn drop_privileges(
    config: &Config,
    account: &Account,
    run_dir: &Path,
    foreground: bool,
    lock: &PidFile,
) -> Result<(), Failure> {
    // By no link, symbolic or hard: the folders may be of the one who is to get the files.
    let give = |path: &Path| {
        if let Err(e) = files::give(path, account.uid.into(), account.gid.into()) {
            warn!("{}: cannot be given to '{}': {}", path.display(), account.name, plain(&e));
        }
    };
    let status = run_dir.join(format!("{}.status", config.name));
    // Where it cannot be replaced, it is rewritten.
    let _ = files::open_or_make(&status, 0o644);
    give(&status);
    if let Err(e) = lock.give(account.uid.into(), account.gid.into()) {
        warn!("the PID file cannot be given to '{}': {}", account.name, plain(&e));
    }
    if !foreground {
        give(&config.log.file);
    }
    for at in &config.listen {
        if let Listen::Unix(unix) = at
            && unix.user.is_none()
        {
            give(&unix.path);
        }
    }
    accounts::become_user(account).map_err(|e| {
        Failure::new(Exit::NoPermission, format!("cannot become the user '{}': {}", account.name, plain(&e)))
    })?;
    info!("{}: now runs as '{}' (uid {}, gid {})", config.name, account.name, account.uid, account.gid);
    let (read, write) = (AccessFlags::R_OK, AccessFlags::W_OK | AccessFlags::X_OK);
    let mut needs = vec![(run_dir, write, "its files there are rewritten in place and stay behind, empty")];
    needs.extend(config.file.as_deref().map(|path| (path, read, "no reload will be possible")));
    let logs = config.log.file.parent().filter(|_| !foreground);
    needs.extend(logs.map(|path| (path, write, "the log cannot be rotated or opened anew")));
    if let Some(file) = config.auth.as_ref().and_then(Auth::token_file) {
        needs.push((file, read, "no reload will be possible"));
    }
    for (path, mode, what) in needs {
        if nix::unistd::access(path, mode).is_err() {
            warn!("{}: '{}' has no access to it: {what}", path.display(), account.name);
        }
    }
    become_daemon::set_home(account);
    Ok(())
}

/// What the marks of an instance's children begin with, whichever process started them.
pub(super) fn key(run_dir: &Path, name: &str) -> String {
    format!("{}:", run_dir.join(name).display())
}

pub(super) fn no_living_owner(key: &str, config: &Config) -> Result<(), Failure> {
    let owners: Vec<u32> = config.account.iter().map(|a| a.uid).chain([nix::unistd::geteuid().as_raw()]).collect();
    let accounts = config.servers.values().filter_map(|s| s.kind.confine().account.as_ref());
    let users: Vec<u32> = accounts.map(|a| a.uid).chain(owners.iter().copied()).collect();
    match process::living_owner(key, &users, &owners) {
        Some(pid) => {
            let text = format!("already running (pid {pid}); somebody removed its PID file: 'kill {pid}' ends it");
            Err(Failure::new(Exit::AlreadyRunning, text))
        }
        None => Ok(()),
    }
}

/// We hold the lock, so whatever bears the instance's mark was left by a daemon that is dead. Gives how many there were,
/// and those that could not be ended.
pub(super) fn end_predecessor(key: &str) -> (usize, Vec<Pid>) {
    let second = Duration::from_secs(1);
    process::end_marked(|mark| mark.starts_with(key), second, 5 * second)
}
