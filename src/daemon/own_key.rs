//! The key of session ids that an instance has of its own, for a configuration that names none: made once, in the folder of
//! what outlives the process, so that sessions go on after a stop and start (design: sessions outlive the process).
//!
//! It knows nothing of sessions.

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use log::{info, warn};

use super::folders::in_folder;
use crate::model::config::{Config, SessionKey};
use crate::model::exit::plain;
use crate::model::sealed::Keys;
use crate::rt::random::{self, uuid};
use crate::sys::{files, paths};

/// The name of the file; all instances of a user have the same, since an id holds the name of its instance as well.
const NAME: &str = "session.key";
/// The longest file that is read, in bytes.
const MOST: u64 = 4096;

/// The key for this process: from the file, which is made where there is none, else of this process alone, and the log says
/// so. None where no random numbers are to be had.
pub(super) fn of(config: &Config) -> Option<Keys> {
    let made = random::bytes().ok().map(Keys::new);
    if config.session_key != SessionKey::Own {
        // Another configuration may want it later.
        return made;
    }
    let account = config.account.as_ref().filter(|account| account.uid != 0 && paths::is_usual("MCP_STATE_DIR"));
    let dir = match account {
        Some(account) => paths::state_dir().join(&account.name),
        None => paths::state_dir(),
    };
    let path = dir.join(NAME);
    let folder = match account {
        Some(account) => paths::make_dir_of(&dir, account, 0o700),
        None => paths::make_private_dir(&dir),
    };
    let fresh = made.as_ref()?;
    let used = folder.map_err(|e| (dir.clone(), plain(&e))).and_then(|()| {
        let outcome = in_folder(config, &dir, || read_or_make(&path, fresh)).unwrap_or_else(|f| Err(f.text));
        outcome.map_err(|why| (path.clone(), why))
    });
    match used {
        Ok(keys) => Some(keys),
        Err((path, why)) => {
            tell(&path, &why);
            made
        }
    }
}

/// Says in the log that the key is not kept. A file that is there and cannot be used wants to be mended; a place where nothing can be kept may be meant so.
fn tell(path: &Path, why: &str) {
    let what = "sessions end with this process, for their key cannot be kept";
    let next = "see 'session_key' in mcpdaemon.ron(5)";
    match path.is_file() {
        true => warn!("{what}: {}: {why}; {next}", path.display()),
        false => info!("{what}: {}: {why}; {next}", path.display()),
    }
}

/// The key of the file, or the fresh one, which the file holds from now on. The error says why it can be neither.
fn read_or_make(path: &Path, fresh: &Keys) -> Result<Keys, String> {
    match read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(plain(&e)),
        Ok(text) => return parse(&text),
    }
    match make(path, fresh) {
        Ok(()) => Ok(fresh.clone()),
        // Another instance was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            read(path).map_err(|e| plain(&e)).and_then(|text| parse(&text))
        }
        Err(e) => Err(plain(&e)),
    }
}

fn parse(text: &str) -> Result<Keys, String> {
    Keys::parse(text).map_err(|(line, what)| match line {
        Some(line) => format!("line {line}: {what}"),
        None => what.to_owned(),
    })
}

/// Reads the key file. A file that others can read is refused: whoever has the key can make ids, and with them go on with the
/// sessions of other clients.
fn read(path: &Path) -> io::Result<String> {
    let file = files::open(path)?;
    let meta = file.metadata()?;
    let own = nix::unistd::geteuid().as_raw();
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if meta.uid() != own {
        return denied(format!("it belongs to uid {}, and not to uid {own}", meta.uid()));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return denied("it is not for its owner alone: remove it, and the next start makes another".to_owned());
    }
    String::from_utf8(files::content(file, MOST)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}

/// Makes the file with this key, as a whole or not at all; an error if there is one already.
fn make(path: &Path, key: &Keys) -> io::Result<()> {
    let temporary = PathBuf::from(format!("{}.{}", path.display(), uuid()));
    let written = files::create(&temporary, 0o600).and_then(|mut file| {
        let note = "# The key of session ids of mcpdaemon, mcpdaemon.ron(5), session_key.\n";
        file.write_all(format!("{note}{}", key.write()).as_bytes())?;
        // An empty file after a power failure would be one that cannot be used.
        file.sync_all()
    });
    // Unlike rename(2), it replaces nothing.
    let made = written.and_then(|()| std::fs::hard_link(&temporary, path));
    let _ = std::fs::remove_file(&temporary);
    made
}
