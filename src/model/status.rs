//! The status document: what `RUNDIR/NAME.status` and `/status` say, as JSON.
//!
//! The format is stable and documented in `mcpctl(8)`: members may be added, none is renamed or removed. It holds no
//! secret: no environment, no arguments, no message of a client.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The life of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    Starting,
    Ready,
    /// Serving, but a required server is not ready.
    Degraded,
    Reloading,
    Draining,
    Stopped,
}

/// The life of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    Starting,
    Ready,
    /// It does not answer pings; see `reason`.
    Unhealthy,
    /// Not started, or stopped, because it is not needed; the next request starts it.
    Idle,
    /// Ended, and waiting to be started again.
    Backoff,
    /// Ended too often, or for good; see `reason`.
    Failed,
    Stopping,
    Stopped,
}

/// How well something is, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    Healthy,
    /// It serves, and an administrator should have a look.
    Degraded,
    /// It does not serve as it should.
    Unhealthy,
}

/// How well something is, and why it is not better.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub level: Level,
    pub reasons: Vec<String>,
}

/// Health became another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// RFC 3339, UTC.
    pub at: String,
    /// Healthy: it is over.
    pub level: Level,
    /// What was looked at, such as `error-rate`.
    pub check: String,
    /// None for the instance itself.
    pub server: Option<String>,
    /// For a person.
    pub what: String,
}

/// Something that happened, for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct News {
    /// RFC 3339, UTC.
    pub at: String,
    pub text: String,
}

impl std::fmt::Display for Alert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(server) = &self.server {
            write!(f, "server '{server}' ")?;
        }
        match self.level {
            Level::Healthy => write!(f, "is well again as to {}", self.check),
            level => write!(f, "is {level}: {}", self.what),
        }
    }
}

/// Writes an enum as its JSON word.
macro_rules! word {
    ($($type:ty),*) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&format!("{self:?}").to_lowercase())
            }
        }
    )*};
}
word!(InstanceState, ServerState, Level);

/// One instance at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub pid: i32,
    /// The kernel's start time of the process, in clock ticks since boot: with the PID it names one process for ever.
    /// 0 where it is not known.
    pub start_time: u64,
    pub state: InstanceState,
    #[serde(default)]
    pub health: Health,
    /// Counts the configurations in force: 1 after the start, one more with each reload that was applied.
    pub generation: u64,
    /// Counts reloads asked for, applied or refused.
    pub reloads: u64,
    pub last_reload: Option<Reload>,
    /// Counts upgrades in place asked for, carried out or not.
    #[serde(default)]
    pub upgrades: u64,
    #[serde(default)]
    pub last_upgrade: Option<Upgrade>,
    /// Counts restarts of single servers asked for, carried out or not.
    #[serde(default)]
    pub restarts: u64,
    #[serde(default)]
    pub last_restart: Option<Restart>,
    pub version: String,
    pub config: Option<String>,
    /// None in the foreground, where the log goes to standard error.
    pub log: Option<String>,
    /// The audit record; None without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
    pub listen: Vec<String>,
    /// How clients are known: `Bearer`, `Peer`; empty where everybody is let in who can connect.
    #[serde(default)]
    pub auth: Vec<String>,
    /// RFC 3339, UTC.
    pub started: String,
    /// Milliseconds from the start until it served; None before.
    #[serde(default)]
    pub startup_ms: Option<u64>,
    pub written: String,
    pub uptime_seconds: u64,
    pub connections: u64,
    pub sessions: u64,
    /// Who is connected, those with most sessions first, [`CLIENTS`] at most; without the requests of revision 2026-07-28
    /// over HTTP, which have no session.
    #[serde(default)]
    pub clients: Vec<Client>,
    /// Where clients reach all servers as one, over Streamable HTTP. None without a bridge or a TCP address.
    #[serde(default)]
    pub url: Option<String>,
    /// How long a drain may take, in seconds: `drain_timeout`.
    #[serde(default)]
    pub drain_seconds: f64,
    /// What a drain still waits for; empty in other states.
    pub waiting_for: Vec<String>,
    pub requests: Requests,
    #[serde(default)]
    pub methods: Methods,
    /// Things refused, cut or dropped, by name.
    pub dropped: BTreeMap<String, u64>,
    pub process: Process,
    pub servers: Vec<Server>,
    /// The last ones, the newest last.
    #[serde(default)]
    pub alerts: Vec<Alert>,
}

/// The outcome of a reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    pub at: String,
    pub ok: bool,
    /// What changed, or every problem, a line each.
    pub text: String,
}

/// The outcome of the restart of one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    pub at: String,
    pub server: String,
    /// The one that was asked for.
    pub serial: u32,
    pub ok: bool,
    /// What was done, or why the old child goes on.
    pub text: String,
}

/// The outcome of an upgrade in place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upgrade {
    pub at: String,
    pub ok: bool,
    /// What was kept, or why the old program goes on.
    pub text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    pub total: u64,
    /// In the last 60 seconds.
    pub per_minute: u64,
    pub errors: u64,
    pub in_flight: u64,
    pub average_ms: f64,
    /// Within which 50 of 100 were answered since the start, at most a quarter too high.
    #[serde(default)]
    pub p50_ms: f64,
    pub p95_ms: f64,
    #[serde(default)]
    pub p99_ms: f64,
    #[serde(default)]
    pub recent: Recent,
}

/// Requests of the minute that runs and the four before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    pub total: u64,
    pub errors: u64,
    /// From 0 to 1.
    pub error_rate: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
}

/// Requests of one method, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Method {
    pub total: u64,
    pub per_minute: u64,
    pub errors: u64,
    pub average_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
}

/// Requests by method, as far as one has occurred.
pub type Methods = BTreeMap<String, Method>;

/// What the kernel says of a process, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
    pub threads: u64,
    pub open_files: u64,
    /// How many of the open files are sockets: connections, and what waits for such.
    #[serde(default)]
    pub sockets: u64,
    /// How many there are.
    #[serde(default)]
    pub processes: u64,
    /// When the oldest was started, RFC 3339.
    #[serde(default)]
    pub started: Option<String>,
    /// Of several, that of the one which is farthest from work.
    #[serde(default)]
    pub state: Option<ProcessState>,
}

/// What a process does at this moment (proc(5), the third field of /proc/PID/stat); the one that is farthest from work
/// comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    Running,
    /// It waits for something to do.
    Sleeping,
    /// It waits for a device or the like, and hears no signal.
    Blocked,
    /// By a debugger.
    Traced,
    /// By a signal.
    Stopped,
}

impl ProcessState {
    /// By the kernel's letter.
    pub fn of(letter: &str) -> Option<ProcessState> {
        Some(match letter {
            "R" => ProcessState::Running,
            "S" | "I" => ProcessState::Sleeping,
            "D" => ProcessState::Blocked,
            "t" => ProcessState::Traced,
            "T" => ProcessState::Stopped,
            _ => return None,
        })
    }

    pub fn word(self) -> &'static str {
        match self {
            ProcessState::Running => "running",
            ProcessState::Sleeping => "sleeping",
            ProcessState::Blocked => "blocked",
            ProcessState::Traced => "traced",
            ProcessState::Stopped => "stopped",
        }
    }
}

/// So many clients are named.
pub const CLIENTS: usize = 100;

/// The sessions of one client at one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// What it says it is: name and version; empty where it does not say.
    pub name: String,
    /// Whose token or user it has; None without `auth`.
    pub principal: Option<String>,
    /// None: all servers as one.
    pub server: Option<String>,
    pub sessions: u64,
}

/// Sessions one by one, as (name, principal, server), told together.
pub fn clients(all: impl IntoIterator<Item = (String, Option<String>, Option<String>)>) -> Vec<Client> {
    let mut counted = BTreeMap::<_, u64>::new();
    for one in all {
        *counted.entry(one).or_default() += 1;
    }
    let told = counted.into_iter();
    let mut told: Vec<Client> =
        told.map(|((name, principal, server), sessions)| Client { name, principal, server, sessions }).collect();
    told.sort_by_key(|client| std::cmp::Reverse(client.sessions));
    told.truncate(CLIENTS);
    told
}

/// Where clients reach the paths of the daemon: the first TCP address, with `localhost` in place of all addresses of the
/// machine, and what stands before the paths. None where only Unix sockets are listened on.
pub fn reachable(listen: &[String], base_path: &str) -> Option<String> {
    let url = listen.iter().find(|url| url.starts_with("http://"))?;
    let near = url.replacen("//0.0.0.0:", "//localhost:", 1).replacen("//[::]:", "//localhost:", 1);
    Some(near + base_path)
}

/// The shared children of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Children {
    pub wanted: u64,
    pub ready: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub name: String,
    /// Tells it from all other servers of the instance, also from one of this name before it; 0 where that is not known.
    #[serde(default)]
    pub serial: u32,
    /// `Stdio` or `Exec`.
    pub kind: String,
    /// Where clients reach it, over Streamable HTTP. None without a TCP address.
    #[serde(default)]
    pub url: Option<String>,
    pub state: ServerState,
    /// Why it is in this state, where that is not plain.
    pub reason: Option<String>,
    #[serde(default)]
    pub health: Health,
    pub required: bool,
    pub pids: Vec<i32>,
    #[serde(default)]
    pub children: Children,
    pub restarts: u64,
    /// Those of the last five minutes.
    #[serde(default)]
    pub recent_restarts: u64,
    pub last_exit: Option<String>,
    /// What the server says it is: name and version.
    pub server_info: Option<String>,
    pub protocol: Option<String>,
    /// Tools and the like that are not on the bridge because they are not as they must be, with the reason.
    #[serde(default)]
    pub left_out: Vec<String>,
    pub sessions: u64,
    pub requests: Requests,
    #[serde(default)]
    pub methods: Methods,
    pub process: Process,
}

/// Documents for the tests of those that read them.
#[cfg(test)]
pub mod sample {
    use super::*;

    pub fn server(name: &str) -> Server {
        Server {
            name: name.to_owned(),
            serial: 1,
            kind: "Stdio".to_owned(),
            url: None,
            state: ServerState::Ready,
            reason: None,
            health: Default::default(),
            required: true,
            pids: vec![10],
            children: Default::default(),
            restarts: 0,
            recent_restarts: 0,
            last_exit: None,
            server_info: None,
            protocol: None,
            left_out: Vec::new(),
            sessions: 0,
            requests: Requests::default(),
            methods: Default::default(),
            process: Process { processes: 1, ..Process::default() },
        }
    }

    pub fn status() -> Status {
        Status {
            name: "t".to_owned(),
            pid: 1,
            start_time: 2,
            state: InstanceState::Ready,
            health: Default::default(),
            generation: 1,
            reloads: 0,
            last_reload: None,
            upgrades: 0,
            last_upgrade: None,
            restarts: 0,
            last_restart: None,
            drain_seconds: 10.0,
            version: "0".to_owned(),
            config: None,
            log: None,
            audit: None,
            listen: vec!["http://127.0.0.1:1".to_owned()],
            auth: vec![],
            started: "then".to_owned(),
            startup_ms: None,
            written: "then".to_owned(),
            uptime_seconds: 0,
            connections: 0,
            sessions: 0,
            clients: Vec::new(),
            url: None,
            waiting_for: Vec::new(),
            requests: Requests::default(),
            methods: Default::default(),
            dropped: Default::default(),
            process: Process::default(),
            servers: vec![server("a"), server("b")],
            alerts: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_json_and_in_text() {
        for state in [InstanceState::Degraded, InstanceState::Reloading] {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!(format!("{:>8}|", ServerState::Ready), "   ready|");
    }
}
