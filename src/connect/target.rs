//! What `--connect` is for: an instance on this host, found by its status file, or a URL.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::ctl::place::{Found, Place as RunDir, server_of};
use crate::model::config::check_name;
use crate::model::exit::{Exit, Failure, plain};
use crate::model::status::{InstanceState, reachable};
use crate::model::url::Url;
use crate::sys::pidfile::Probe;
use crate::sys::{files, paths};

/// No file with a token is longer, in bytes.
const TOKEN: u64 = 64 << 10;
/// Where root's instances are, for everybody to see.
const OF_ROOT: &str = "/run/mcp";

/// What `--connect` is for.
pub(super) struct Target {
    pub place: Place,
    token_file: Option<PathBuf>,
}

/// Where it is.
pub(super) enum Place {
    Instance {
        name: String,
        /// None for the bridge.
        server: Option<String>,
        run_dir: Option<PathBuf>,
    },
    Url(Url),
}

/// Where it is reached: by a WebSocket, or at its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub at: At,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    Unix(PathBuf),
    /// Host and port, as they stand in a URL.
    Tcp(String),
    /// A session over Streamable HTTP.
    Url(Box<Url>),
}

/// Why an instance cannot be reached.
pub(super) enum Missing {
    /// It may be reached in a moment.
    Later(String),
    /// It does not run.
    Absent(String),
    /// Something has to be changed first.
    Never(Failure),
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Failure {
        match missing {
            Missing::Later(why) | Missing::Absent(why) => Failure::new(Exit::Unavailable, format!("mcpdaemon: {why}")),
            Missing::Never(failure) => failure,
        }
    }
}

impl Target {
    /// Reads what is wanted: NAME, NAME/SERVER or a URL.
    pub(super) fn new(wanted: &str, run_dir: Option<&Path>, token_file: Option<PathBuf>) -> Result<Target, Failure> {
        let usage = |why: String| Failure::new(Exit::Usage, format!("mcpdaemon: --connect {wanted}: {why}"));
        let place = if wanted.contains("://") {
            Place::Url(url(wanted).map_err(usage)?)
        } else {
            let (name, server) = wanted.split_once('/').map_or((wanted, None), |(name, server)| (name, Some(server)));
            check_name(name).map_err(usage)?;
            if let Some(server) = server {
                check_name(server).map_err(usage)?;
            }
            let server = server.map(str::to_owned);
            Place::Instance { name: name.to_owned(), server, run_dir: run_dir.map(Path::to_owned) }
        };
        let target = Target { place, token_file };
        target.token()?;
        Ok(target)
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        match &self.place {
            Place::Instance { name, .. } => format!("instance '{name}'"),
            Place::Url(url) => url.to_string(),
        }
    }

    /// The token, which may be another one each time.
    pub(super) fn token(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let fail =
            |why: String| Failure::new(Exit::Config, format!("mcpdaemon: --token-file {}: {why}", file.display()));
        let bytes = files::read(file, TOKEN).map_err(|e| fail(format!("cannot read it: {}", plain(&e))))?;
        let text = String::from_utf8(bytes).map_err(|_| fail("it is not text".to_owned()))?;
        let token = text.trim();
        let is_token = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        // What it holds instead may be a secret all the same.
        let why = "a token is one line without spaces; 'mcpdaemon --new-token NAME' makes one".to_owned();
        if is_token { Ok(Some(token.to_owned())) } else { Err(fail(why)) }
    }

    /// Its URL for Streamable HTTP, if it has one, and whether it asks for a token.
    pub(super) fn url(&self) -> Result<(Option<String>, bool), Missing> {
        let Place::Instance { name, server, run_dir } = &self.place else { return Ok((None, false)) };
        // It says why there is none.
        self.addresses()?;
        let found = find(name, run_dir.as_deref()).map_err(Missing::Never)?;
        let unread = || Missing::Later(format!("{name}: its status file cannot be read"));
        let status = found.status.ok_or_else(unread)?;
        let token = status.auth.iter().any(|method| method == "Bearer");
        let url = match server {
            Some(server) => server_of(name, server, &status).map_err(Missing::Never)?.url.clone(),
            None => status.url.clone(),
        };
        Ok((url, token))
    }

    /// Where it can be reached at the moment, the best address first.
    pub(super) fn addresses(&self) -> Result<Vec<Address>, Missing> {
        let (name, server, run_dir) = match &self.place {
            Place::Url(url) => return Ok(vec![Address { at: At::Url(Box::new(url.clone())), path: String::new() }]),
            Place::Instance { name, server, run_dir } => (name, server, run_dir),
        };
        let found = find(name, run_dir.as_deref()).map_err(Missing::Never)?;
        let status = match (&found.probe, &found.status) {
            (Probe::Absent | Probe::Stale, _) => {
                let hint = found.meant().unwrap_or_else(|| {
                    ": start it with 'mcpdaemon -c FILE', or give --start ('mcpctl list' shows what runs)".to_owned()
                });
                return Err(Missing::Absent(format!("{name}: not running{hint}")));
            }
            (Probe::Starting, _) | (_, None) => return Err(Missing::Later(format!("{name}: it is just starting"))),
            (_, Some(status)) => status,
        };
        if status.state == InstanceState::Starting {
            return Err(Missing::Later(format!("{name}: it is just starting")));
        }
        if matches!(status.state, InstanceState::Draining | InstanceState::Stopped) {
            return Err(Missing::Later(format!("{name}: it is shutting down")));
        }
        let path = match server {
            Some(server) => {
                server_of(name, server, status).map_err(|f| Missing::Never(Failure::new(Exit::Unavailable, f.text)))?;
                format!("/servers/{server}/ws")
            }
            None => "/ws/mcp".to_owned(),
        };
        let unix = status.listen.iter().filter_map(|at| at.strip_prefix("unix:")).map(|path| At::Unix(path.into()));
        let tcp = reachable(&status.listen, "").map(|url| At::Tcp(url.replacen("http://", "", 1)));
        let all: Vec<Address> = unix.chain(tcp).map(|at| Address { at, path: path.clone() }).collect();
        if all.is_empty() {
            let why = format!("{name}: its status file names no address that it listens at");
            return Err(Missing::Never(Failure::new(Exit::Unavailable, why)));
        }
        Ok(all)
    }
}

/// The instance by its files: in the run directory, and in root's, where an ordinary user has none of this name.
fn find(name: &str, run_dir: Option<&Path>) -> Result<Found, Failure> {
    let look = |dir: PathBuf| {
        let found = RunDir::new(dir.canonicalize().unwrap_or(dir)).find(name)?;
        // Who has written it chooses whom the client's messages and its token go to.
        let own = nix::unistd::geteuid().as_raw();
        let of_dir = std::fs::metadata(&found.place.dir).map(|m| m.uid()).ok();
        match found.status_owner {
            Some(uid) if uid != 0 && uid != own && Some(uid) != of_dir => {
                let file = found.place.status_file(name);
                let why = format!("{}: it belongs to uid {uid}, whom this program does not trust", file.display());
                Err(Failure::new(Exit::NoPermission, why))
            }
            _ => Ok(found),
        }
    };
    let found = look(run_dir.map_or_else(paths::run_dir, Path::to_owned));
    let is_there = |found: &Found| !matches!(found.probe, Probe::Absent | Probe::Stale);
    if run_dir.is_some() || found.as_ref().is_ok_and(is_there) {
        return found;
    }
    look(OF_ROOT.into()).ok().filter(is_there).map_or(found, Ok)
}

/// What a URL names: a server over Streamable HTTP. The other paths of an instance stand for that one.
fn url(text: &str) -> Result<Url, String> {
    let text = match text.split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => text.to_owned(),
    };
    let mut url = Url::parse(&text)?;
    if url.is_tls && cfg!(not(feature = "remote")) {
        return Err("this mcpdaemon was built without TLS (cargo feature 'remote')".to_owned());
    }
    let path = url.path.trim_end_matches('/');
    let is_server =
        |path: &str| path.rsplit_once("/servers/").is_some_and(|(_, rest)| !rest.is_empty() && !rest.contains('/'));
    if path.is_empty() || is_server(path) {
        url.path = format!("{path}/mcp");
    } else if let Some(base) = path.strip_suffix("/ws/mcp") {
        url.path = format!("{base}/mcp");
    } else if let Some(server) = path.strip_suffix("/ws").filter(|path| is_server(path)) {
        url.path = format!("{server}/mcp");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_that_of_streamable_http_whichever_path_of_an_instance_it_names() {
        for (text, whole) in [
            ("http://localhost:8003", "http://localhost:8003/mcp"),
            ("http://localhost:8003/mcp", "http://localhost:8003/mcp"),
            ("ws://h:1/ws/mcp", "http://h:1/mcp"),
            ("http://h/servers/time/mcp/", "http://h/servers/time/mcp/"),
            ("http://h/servers/time", "http://h/servers/time/mcp"),
            ("http://[::1]:9/gw/servers/ws/ws", "http://[::1]:9/gw/servers/ws/mcp"),
            ("http://[::1]/gw/mcp", "http://[::1]/gw/mcp"),
            ("http://h/anything?key=1", "http://h/anything?key=1"),
        ] {
            assert_eq!(url(text).unwrap().whole(), whole, "{text}");
        }
        assert_eq!(url("wss://h/ws/mcp").is_ok(), cfg!(feature = "remote"));
        for text in ["ftp://h/", "http://", "http://u@h/", "http://h /"] {
            assert!(url(text).is_err(), "{text}");
        }
    }
}
