//! Starting a child: its own session, clean signals, no descriptor but 0 to 2, and an end when we end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::pidfd::PidFd;
use super::{reap, signals};
use crate::model::config::Confine;

/// What to start. The environment is exactly `env`.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: Option<PathBuf>,
    /// A pipe on standard input; /dev/null otherwise.
    pub stdin: bool,
    pub umask: u32,
    /// The soft limit of open files; programs that use select(2) break with more than they expect.
    pub nofile: u64,
    /// The user that it runs as and what it may take.
    pub confine: Confine,
}

/// A started child with our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Started {
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
pub(crate) fn spawn(spec: &Spec) -> io::Result<Started> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).env_clear().envs(spec.env.iter().map(|(k, v)| (k, v)));
    command.stdin(if spec.stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.current_dir(spec.cwd.as_deref().unwrap_or(Path::new("/")));
    let inside = Inside::new(spec);
    let prepare = move || inside.prepare();
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

/// Ends a child that cannot be watched, for lack of descriptors: it has done nothing yet.
pub(crate) fn end_unwatched(pid: Pid) {
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
    reap::forget(pid);
}

/// What is done in the child between fork and exec, computed ahead: nothing may be allocated there.
struct Inside {
    daemon: Pid,
    umask: u32,
    /// Soft and hard value of each limit; None for the hard one leaves it as it is.
    limits: Vec<(libc::__rlimit_resource_t, libc::rlim_t, Option<libc::rlim_t>)>,
    /// Groups, group and user.
    account: Option<(Vec<libc::gid_t>, libc::gid_t, libc::uid_t)>,
    no_new_privs: bool,
}

impl Inside {
    fn new(spec: &Spec) -> Inside {
        let wanted = &spec.confine.limits;
        let mut limits = vec![match wanted.nofile {
            Some(n) => (libc::RLIMIT_NOFILE, n.into(), Some(n.into())),
            None => (libc::RLIMIT_NOFILE, spec.nofile, None),
        }];
        limits.extend(wanted.memory.map(|size| (libc::RLIMIT_DATA, size.0, Some(size.0))));
        limits.extend(wanted.processes.map(|n| (libc::RLIMIT_NPROC, n.into(), Some(n.into()))));
        // At the soft limit comes SIGXCPU, at the hard one SIGKILL (setrlimit(2)).
        limits.extend(wanted.cpu.map(|d| (libc::RLIMIT_CPU, d.as_secs().max(1), Some(d.as_secs().max(1) + 1))));
        let account = spec.confine.account.as_ref().filter(|_| nix::unistd::Uid::effective().is_root());
        Inside {
            daemon: Pid::this(),
            umask: spec.confine.umask.map_or(spec.umask, |m| m.0),
            limits,
            account: account.map(|a| (a.groups.clone(), a.gid, a.uid)),
            no_new_privs: spec.confine.no_new_privs,
        }
    }

    /// Async-signal-safe: plain system calls only.
    fn prepare(&self) -> io::Result<()> {
        // Rust hands on masks and SIG_IGN (measured): a child with SIGTERM blocked could only be killed.
        signals::reset(true)?;
        // A session of its own: no terminal, and a group that it leads.
        nix::unistd::setsid()?;
        for (resource, soft, hard) in &self.limits {
            // SAFETY: getrlimit and setrlimit with valid pointers.
            let done = unsafe {
                let mut now: libc::rlimit = std::mem::zeroed();
                libc::getrlimit(*resource, &mut now);
                now.rlim_max = hard.map_or(now.rlim_max, |hard| hard.min(now.rlim_max));
                now.rlim_cur = (*soft).min(now.rlim_max);
                libc::setrlimit(*resource, &now)
            };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some((groups, gid, uid)) = &self.account {
            // The kernel's own calls, groups first: those of libc would tell threads that do not exist here.
            // SAFETY: the pointer is to as many groups as are said to be there.
            let done = unsafe {
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
                    && libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) == 0
                    && libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) == 0
            };
            if !done {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: umask and prctl with integers. PR_SET_PDEATHSIG comes after the user has changed, which resets it.
        unsafe {
            libc::umask(self.umask);
            if self.no_new_privs {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            }
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            // What the service manager gave the daemon is not for its children. Kernels before 4.3 have no such set.
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        }
        // The daemon may have died before PDEATHSIG was set.
        if nix::unistd::getppid() != self.daemon {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    }
}

/// Signals a child's whole process group, and wakes its stopped members so that they can receive it.
pub(crate) fn signal_group(leader: Pid, signal: Signal) {
    if killpg(leader, signal).is_ok() && signal != Signal::SIGKILL {
        let _ = killpg(leader, Signal::SIGCONT);
    }
}

/// Stops a child's whole process group, or lets it go on.
pub(crate) fn pause_group(leader: Pid, pause: bool) -> nix::Result<()> {
    killpg(leader, if pause { Signal::SIGSTOP } else { Signal::SIGCONT })
}

/// Finds a program as execvp(3) does: by its path, or in PATH. Only an executable regular file counts.
pub(crate) fn find_program(name: &str, path: Option<&str>) -> Option<PathBuf> {
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
