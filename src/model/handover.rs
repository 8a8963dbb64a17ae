//! What one program tells the next when it re-executes in place: the whole state of an instance, as a document.
//!
//! Both programs may be of different versions, so the format has a number, and the next one is asked whether it knows it
//! before anything is given up. Descriptors are named by their numbers, which exec(2) keeps; pieces of the outside world
//! (pipes, sockets, processes) are thus the same before and after. Times are given as what is left or has passed, in
//! milliseconds, because clocks that count from the start of a program begin anew.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::audit;
use super::config::{Admitted, Text};
use super::health;
use super::history::History;
use super::logline;
use super::mcp::ServerInfo;
use super::meter;
use super::method::Method;
use super::modern::Filter;
use super::out::Out;
use super::status::{Alert, News, Reload, Restart, Status, Upgrade};
use super::transport::SessionKind;

/// The number of the format below.
pub const FORMAT: u32 = 1;

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    pub format: u32,
    /// Which version wrote it.
    pub version: String,
    pub name: String,
    /// Where the program was started; relative paths of its arguments begin there.
    pub cwd: PathBuf,
    pub run_dir: PathBuf,
    pub foreground: bool,
    /// Descriptors of the process that started the program: not ours, and to be left open.
    pub inherited: Vec<i32>,
    /// Where logs go, as it was settled at the start, and the log itself, in case it cannot be opened anew.
    pub log_dir: PathBuf,
    pub log_fd: Option<i32>,
    /// The configuration in force, as it was read: it may have been edited since.
    pub texts: Vec<Text>,
    /// The PID file.
    pub lock: i32,
    /// The lock beside it; a version of before had none.
    #[serde(default)]
    pub lock_file: Option<i32>,
    pub guard: i32,
    pub guard_pipe: i32,
    pub mark: String,
    /// The key of session ids, where the configuration names none.
    #[serde(default)]
    pub session_key: Option<String>,
    /// The soft limit of open files that the program was started with.
    pub nofile: u64,
    pub notify: Option<Notify>,
    /// Milliseconds since 1970, and since the start.
    pub started: u64,
    /// Milliseconds from there until it served.
    #[serde(default)]
    pub startup: Option<u64>,
    pub uptime: u64,
    pub generation: u64,
    pub reloads: u64,
    pub last_reload: Option<Reload>,
    pub upgrades: u64,
    pub last_upgrade: Option<Upgrade>,
    /// A reload was asked for and not begun.
    pub reload_wanted: bool,
    /// Signals that have come and were not followed.
    pub signals: Vec<i32>,
    /// The last number of a session, and of a mark.
    pub sessions_so_far: u64,
    pub marks_so_far: u64,
    /// The last serial of a server, how many children were replaced on request, what came of the last one, and which are
    /// wanted.
    #[serde(default)]
    pub serials_so_far: u32,
    #[serde(default)]
    pub restarts: u64,
    #[serde(default)]
    pub last_restart: Option<Restart>,
    #[serde(default)]
    pub restarts_wanted: Vec<u32>,
    /// All methods together, for a program that does not tell them apart.
    pub meter: meter::Saved,
    #[serde(default)]
    pub methods: Vec<(Method, meter::Saved)>,
    pub dropped: BTreeMap<String, u64>,
    #[serde(default)]
    pub observed: Observed,
    pub listeners: Vec<Listener>,
    pub servers: Vec<Server>,
    pub sessions: Vec<Session>,
    pub outboxes: Vec<Outbox>,
    pub connections: Vec<Connection>,
}

/// What the instance has observed of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Observed {
    pub raised: Vec<health::Saved>,
    pub alerts: VecDeque<Alert>,
    pub history: History,
    pub news: VecDeque<News>,
    /// The last lines of the log.
    pub log: Vec<logline::Line>,
    /// As it was when it was last looked at.
    pub seen: Option<Box<Status>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Notify {
    pub name: String,
    pub watchdog: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Listener {
    /// As the configuration has it.
    pub at: String,
    pub fd: i32,
    /// The file of a Unix socket that is ours, with device and inode.
    pub file: Option<(PathBuf, u64, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Server {
    pub name: String,
    #[serde(default)]
    pub serial: u32,
    /// The tasks that its clients have started, each with its principal.
    #[serde(default)]
    pub tasks: Vec<(String, Option<Arc<str>>)>,
    pub restarts: u64,
    /// When the last ones were, in seconds since the start.
    #[serde(default)]
    pub restarted: VecDeque<u64>,
    pub last_exit: Option<String>,
    #[serde(rename = "learnt")]
    pub server_info: Option<ServerInfo>,
    pub meter: meter::Saved,
    #[serde(default)]
    pub methods: Vec<(Method, meter::Saved)>,
    /// The child of each slot, if there is one.
    pub slots: Vec<Option<Child>>,
    pub modern: Era,
    /// Children that wait for a session.
    pub spares: Vec<Child>,
    pub commands: Vec<Command>,
}

/// Whether a server speaks the modern era.
#[derive(Debug, Serialize, Deserialize)]
pub enum Era {
    Unknown,
    Modern(Option<Box<Child>>),
    /// Found so long ago, when the child said this of itself.
    Legacy(u64, Option<String>),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Child {
    /// 0 where it is no process.
    pub pid: i32,
    pub mark: String,
    /// What is to be known of the line to what is elsewhere, which has no descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
    #[serde(rename = "learnt")]
    pub server_info: Option<ServerInfo>,
    pub stdin: Pipe,
    pub stdout: Pipe,
    /// None if the child has closed it.
    pub stderr: Option<Pipe>,
    /// What is queued for it behind what [`Child::stdin`] has.
    pub queue: Bytes,
    /// The last lines of its standard error.
    pub tail: Vec<String>,
    /// The last number of a request.
    pub requests_so_far: u64,
    pub waiting: Vec<(u64, Waiting)>,
    pub unused: u64,
}

/// A descriptor with what was read from it and not used, or is still to be written to it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pipe {
    /// -1 where it has none.
    pub fd: i32,
    pub bytes: Bytes,
    /// The line that is being thrown away: both its ends, and its length so far.
    pub cut: Option<(Bytes, Bytes, usize)>,
}

/// Who waits for an answer of a child.
#[derive(Debug, Serialize, Deserialize)]
pub enum Waiting {
    Client { call: Call, left: u64, at_most: u64 },
    Listen { session: u64, id: String },
    Nobody,
    Watch,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    pub session: u64,
    pub reply: usize,
    pub id: String,
    pub token: Option<String>,
    #[serde(default)]
    pub method: Method,
    pub age: u64,
    pub subscribes: Option<String>,
    pub translated: Option<String>,
    pub opening: bool,
    pub logs: bool,
    /// A version of before does not say.
    #[serde(default)]
    pub starts_task: bool,
    /// What of it will stand in the audit record. A version of before has none.
    #[serde(default)]
    pub audited: Option<audit::Request>,
}

/// A command of the executor.
#[derive(Debug, Serialize, Deserialize)]
pub struct Command {
    pub pid: i32,
    pub mark: String,
    pub stdout: Output,
    pub stderr: Output,
    /// What was reported as progress, of both.
    pub progress: u64,
    /// None where it was cancelled meanwhile.
    pub call: Option<Call>,
    /// The session and the outbox of one that a session has for itself.
    #[serde(default)]
    pub direct: Option<(u64, usize)>,
    /// That session has cancelled it.
    #[serde(default)]
    pub cancelled: bool,
    pub age: u64,
    pub left: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Output {
    pub fd: i32,
    pub kept: Bytes,
    pub cut: u64,
    pub sent: usize,
    pub at_end: bool,
    /// Where lines are passed on: where the last one begins, and which of how many pieces of the first is next.
    #[serde(default)]
    pub last: usize,
    #[serde(default)]
    pub piece: usize,
    #[serde(default)]
    pub pieces: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    pub number: u64,
    pub id: String,
    /// Those by which it was renewed.
    #[serde(default)]
    pub later_ids: Vec<String>,
    #[serde(rename = "transport")]
    pub kind: SessionKind,
    pub owner: Option<String>,
    /// Where it was opened from, unless many share that.
    #[serde(default)]
    pub address: Option<std::net::IpAddr>,
    pub server: String,
    pub slot: usize,
    pub revision: Option<String>,
    /// What its client says it is.
    #[serde(default)]
    pub client: Option<String>,
    pub push: Option<usize>,
    #[serde(rename = "subscriptions")]
    pub watched: Vec<String>,
    #[serde(rename = "listens")]
    pub subscriptions: Vec<Subscription>,
    pub modern: bool,
    pub own: Option<Own>,
    /// Requests that wait for a child, as they came.
    pub held: Vec<(Call, String)>,
    pub batches: Vec<Batch>,
    /// Seconds.
    pub idle: u64,
    pub used: bool,
    /// Seconds from its beginning to its last use; a version of before does not say.
    #[serde(default)]
    pub lived: u64,
    pub streams_so_far: u64,
    pub streams: Vec<Stream>,
    /// It is one of the bridge, with the params of its handshake; or it is a part of one, with that one's number.
    #[serde(default)]
    pub bridge: bool,
    #[serde(default, rename = "hello")]
    pub initialize_params: Option<String>,
    #[serde(default)]
    pub whole: Option<u64>,
    /// Resources that it subscribes to under another URI: the server, the URI there, and the other.
    #[serde(default)]
    pub aliases: Vec<(String, String, String)>,
}

/// A batch whose answers are collected.
#[derive(Debug, Serialize, Deserialize)]
pub struct Batch {
    pub answers: usize,
    pub so_far: String,
    pub reply: usize,
    pub shared: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Subscription {
    pub id: String,
    pub reply: usize,
    pub filter: Filter,
    pub request: Option<String>,
    pub acknowledged: bool,
}

/// The child of one session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Own {
    pub child: Option<Child>,
    #[serde(rename = "hello")]
    pub initialize_params: Option<String>,
    pub initialized: bool,
    pub level: Option<String>,
    pub asked: Vec<String>,
}

/// An event stream that can be taken up again.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stream {
    pub number: u64,
    pub outbox: usize,
    pub next: u64,
    pub events: Vec<(u64, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Outbox {
    pub full: usize,
    pub detached: bool,
    pub answers_only: bool,
    pub resumable: bool,
    pub due: Option<usize>,
    pub ended: bool,
    pub closed: bool,
    pub overflowed: bool,
    pub queue: Vec<Out>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Connection {
    pub fd: i32,
    pub is_unix: bool,
    /// Who asked last; a version of before does not say.
    #[serde(default)]
    pub who: Option<Admitted>,
    /// Read already, and of the next request.
    pub early: Bytes,
    pub how: How,
}

/// What is left of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub enum How {
    Idle,
    /// The answer to a request; `begun` if its head was sent.
    Answer {
        begun: bool,
        asked: Asked,
        session: u64,
        outbox: usize,
        answered: bool,
        resumable: bool,
        queue: Vec<Out>,
        head: String,
        /// The number of the stream that it is.
        stream: Option<u64>,
    },
    WebSocket {
        session: u64,
        outbox: usize,
        queue: Vec<Out>,
    },
}

/// Bytes, in base64: they may be no text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        data_encoding::BASE64.decode(text.as_bytes()).map(Bytes).map_err(serde::de::Error::custom)
    }
}

impl Handover {
    /// Every child that lives on.
    fn children(&self) -> impl Iterator<Item = &Child> {
        fn of_server(server: &Server) -> Vec<&Child> {
            let modern = match &server.modern {
                Era::Modern(child) => child.as_deref(),
                _ => None,
            };
            server.slots.iter().flatten().chain(modern).chain(&server.spares).collect()
        }
        let own = self.sessions.iter().filter_map(|s| s.own.as_ref()?.child.as_ref());
        self.servers.iter().flat_map(of_server).chain(own)
    }

    fn commands(&self) -> impl Iterator<Item = &Command> {
        self.servers.iter().flat_map(|s| &s.commands)
    }

    /// Every descriptor that is named in it.
    pub fn fds(&self) -> Vec<i32> {
        let mut fds = vec![self.lock, self.guard_pipe];
        fds.extend(self.listeners.iter().map(|l| l.fd));
        fds.extend(self.connections.iter().map(|c| c.fd));
        // Those of a line to what is elsewhere are none.
        fds.extend(self.children().flat_map(|c| [c.stdin.fd, c.stdout.fd]).filter(|fd| *fd >= 0));
        fds.extend(self.children().filter_map(|c| c.stderr.as_ref()).map(|p| p.fd));
        fds.extend(self.log_fd);
        fds.extend(self.lock_file);
        fds.extend(&self.inherited);
        fds.extend(self.commands().flat_map(|c| [c.stdout.fd, c.stderr.fd]));
        fds
    }

    /// The marks of the commands that live on.
    pub fn marks_of_commands(&self) -> Vec<String> {
        self.commands().map(|c| c.mark.clone()).collect()
    }
}
