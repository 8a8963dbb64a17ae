//! Folders of the user whom a daemon of root becomes: made for him, and used as him, because he could have put links there.

use std::path::Path;

use crate::model::config::Config;
use crate::model::exit::{Exit, Failure, plain};
use crate::sys::{accounts, paths};

/// The folders of the user whom the daemon becomes, in root's usual ones: there he can rotate his log, and remove his files.
pub(super) fn make_folders(config: &Config, run_dir: &Path, foreground: bool) -> Result<(), Failure> {
    let Some(account) = config.account.as_ref().filter(|account| account.uid != 0) else { return Ok(()) };
    let logs = config.log.file.parent().filter(|_| !foreground && paths::is_usual("MCP_LOG_DIR"));
    let of_logs = logs.filter(|dir| **dir == paths::log_dir().join(&account.name));
    let of_run =
        Some(run_dir).filter(|dir| paths::is_usual("MCP_RUN_DIR") && **dir == paths::run_dir().join(&account.name));
    for (dir, mode) in of_run.map(|dir| (dir, 0o755)).into_iter().chain(of_logs.map(|dir| (dir, 0o750))) {
        paths::make_dir_of(dir, account, mode)
            .map_err(|e| Failure::io(Exit::CannotCreate, &format!("make the folder of '{}'", account.name), dir, &e))?;
    }
    Ok(())
}

/// Does something in a folder: as the user whom the daemon becomes, if it is his.
pub(super) fn in_folder<T>(config: &Config, dir: &Path, work: impl FnOnce() -> T) -> Result<T, Failure> {
    let root = nix::unistd::geteuid().is_root();
    match config.account.as_ref().filter(|account| root && account.uid != 0 && paths::belongs_to(dir, account)) {
        None => Ok(work()),
        Some(account) => accounts::as_user(account, work)
            .map_err(|e| Failure::new(Exit::NoPermission, format!("cannot act as '{}': {}", account.name, plain(&e)))),
    }
}
