//! Where an instance keeps its files: run directory, logs, what outlives the process (file-hierarchy(7), XDG Base Directory Specification).

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, User, fchown};

use super::files;
use crate::model::config::Account;

/// PATH where there is none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// The user's home, also where HOME is not set (cron, init).
pub(crate) fn home() -> PathBuf {
    let from_passwd = || User::from_uid(Uid::effective()).ok().flatten().map(|u| u.dir);
    absolute("HOME").or_else(from_passwd).unwrap_or_else(|| "/".into())
}

/// The instance file, or the folder of them, where no flag says: MCP_CONFIG.
pub(crate) fn config() -> Option<PathBuf> {
    absolute("MCP_CONFIG")
}

/// The run directory: MCP_RUN_DIR, /run/mcp for root, $XDG_RUNTIME_DIR/mcp for others. Where a user has no
/// XDG_RUNTIME_DIR, it is a folder of his state directory: private, if not on tmpfs.
pub(crate) fn run_dir() -> PathBuf {
    let own = || match Uid::effective().is_root() {
        true => PathBuf::from("/run/mcp"),
        false => absolute("XDG_RUNTIME_DIR").map_or_else(|| own_log_dir().join("run"), |d| d.join("mcp")),
    };
    absolute("MCP_RUN_DIR").unwrap_or_else(own)
}

/// The folder of logs: MCP_LOG_DIR, /var/log/mcp for root, $XDG_STATE_HOME/mcp for others.
pub(crate) fn log_dir() -> PathBuf {
    absolute("MCP_LOG_DIR").unwrap_or_else(own_log_dir)
}

/// The folder of what outlives the process: MCP_STATE_DIR, /var/lib/mcpdaemon for root, $XDG_STATE_HOME/mcp for others.
pub(crate) fn state_dir() -> PathBuf {
    let own = || match Uid::effective().is_root() {
        true => PathBuf::from("/var/lib/mcpdaemon"),
        false => own_log_dir(),
    };
    absolute("MCP_STATE_DIR").unwrap_or_else(own)
}

/// The folder of instance files: /etc/mcp for root, $XDG_CONFIG_HOME/mcp for others.
pub(crate) fn config_dir() -> PathBuf {
    match Uid::effective().is_root() {
        true => PathBuf::from("/etc/mcp"),
        false => absolute("XDG_CONFIG_HOME").unwrap_or_else(|| home().join(".config")).join("mcp"),
    }
}

fn own_log_dir() -> PathBuf {
    match Uid::effective().is_root() {
        true => PathBuf::from("/var/log/mcp"),
        false => absolute("XDG_STATE_HOME").unwrap_or_else(|| home().join(".local/state")).join("mcp"),
    }
}

/// Whether root's run directory, or folder of logs, is the usual one: there each user whom a daemon becomes has a folder.
pub(crate) fn is_usual(variable: &str) -> bool {
    Uid::effective().is_root() && absolute(variable).is_none()
}

/// Makes a folder for another user in one of root's, with this mode; one that is there already is his, or becomes it if it
/// is root's.
pub(crate) fn make_dir_of(path: &Path, account: &Account, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        if !parent.exists() {
            make_dir(parent)?;
            // Whatever the umask is: he has to come through.
            std::fs::set_permissions(parent, Permissions::from_mode(0o755))?;
        }
        if let Some(why) = files::untrusted(parent, &[]) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why.to_string()));
        }
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let dir = File::from(open(path, flags, Mode::empty())?);
    let owner = dir.metadata()?.uid();
    if owner == 0 {
        fchown(&dir, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?;
    } else if owner != account.uid {
        let why = format!("it belongs to uid {owner}, and not to '{}'", account.name);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

/// Whether a folder belongs to this account.
pub(crate) fn belongs_to(path: &Path, account: &Account) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == account.uid)
}

/// Makes a folder with its parents, for its owner to write.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Makes a folder with its parents, for its owner alone.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether anybody may read a file.
pub(crate) fn readable_by_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.mode() & 0o004 != 0)
}
