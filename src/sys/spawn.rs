//! Starting a child: its own process group, clean signals, no descriptor but 0 to 2, and an end when we end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::pidfd::PidFd;
use super::{reap, signals};

/// What to start. The environment is exactly `env`.
#[derive(Clone, Debug)]
pub struct Spec {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: Option<PathBuf>,
    /// A pipe on standard input; /dev/null otherwise.
    pub stdin: bool,
    pub umask: u32,
    /// The soft limit of open files; programs that use select(2) break with more than they expect.
    pub nofile: u64,
}

/// A started child with our ends of its pipes.
#[derive(Debug)]
pub struct Started {
    pub pid: Pid,
    pub handle: PidFd,
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Starts a child.
///
/// Call it on the main thread: PR_SET_PDEATHSIG fires when the *thread* that forked ends (prctl(2)), and the main
/// thread is the one that lives as long as the process, over an upgrade too.
pub fn spawn(spec: &Spec) -> io::Result<Started> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).env_clear().envs(spec.env.iter().map(|(k, v)| (k, v)));
    command.stdin(if spec.stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.current_dir(spec.cwd.as_deref().unwrap_or(Path::new("/")));
    let (daemon, umask, nofile) = (Pid::this(), spec.umask, spec.nofile);
    let prepare = move || prepare(daemon, umask, nofile);
    // SAFETY: `prepare` makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let (pid, mut child) = reap::knowing(|| {
        let child = command.spawn()?;
        Ok::<_, io::Error>((Pid::from_raw(child.id() as i32), child))
    })?;
    let handle = match PidFd::open(pid) {
        Ok(handle) => handle,
        Err(e) => {
            end_unwatched(pid);
            return Err(e);
        }
    };
    let stdin = child.stdin.take().map(OwnedFd::from);
    let gone = || io::Error::other("the child has no pipe");
    let stdout = child.stdout.take().map(OwnedFd::from).ok_or_else(gone)?;
    let stderr = child.stderr.take().map(OwnedFd::from).ok_or_else(gone)?;
    Ok(Started { pid, handle, stdin, stdout, stderr })
}

/// Ends a child that nobody can watch, for lack of descriptors: it has done nothing yet.
pub fn end_unwatched(pid: Pid) {
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
    reap::forget(pid);
}

/// Runs in the child between fork and exec.
fn prepare(daemon: Pid, umask: u32, nofile: u64) -> io::Result<()> {
    // Rust hands on masks and SIG_IGN (measured): a child with SIGTERM blocked could only be killed.
    signals::reset(true)?;
    let limit = libc::rlimit { rlim_cur: nofile, rlim_max: 0 };
    // SAFETY: umask, getrlimit, setrlimit and prctl with valid pointers; all async-signal-safe in practice (plain
    // system calls).
    unsafe {
        libc::umask(umask);
        let mut now: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut now) == 0 {
            now.rlim_cur = limit.rlim_cur.min(now.rlim_max);
            libc::setrlimit(libc::RLIMIT_NOFILE, &now);
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
    }
    // The daemon may have died before PDEATHSIG was set.
    if nix::unistd::getppid() != daemon {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Signals a child's whole process group, and wakes its stopped members so that they can receive it.
pub fn signal_group(leader: Pid, signal: Signal) {
    if killpg(leader, signal).is_ok() && signal != Signal::SIGKILL {
        let _ = killpg(leader, Signal::SIGCONT);
    }
}

/// Finds a program as execvp(3) does: by its path, or in PATH. Only an executable regular file counts.
pub fn find_program(name: &str, path: Option<&str>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runnable = |p: &Path| {
        let Ok(meta) = std::fs::metadata(p) else { return false };
        meta.is_file() && meta.permissions().mode() & 0o111 != 0
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|p| runnable(p));
    }
    let own = std::env::var("PATH").unwrap_or_else(|_| super::paths::DEFAULT_PATH.to_owned());
    let dirs = std::env::split_paths(path.unwrap_or(&own)).filter(|d| d.is_absolute()).collect::<Vec<_>>();
    dirs.into_iter().map(|dir| dir.join(name)).find(|p| runnable(p))
}
