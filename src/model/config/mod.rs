//! The configuration of one instance: what an instance file may say, with its defaults and its rules.
//!
//! `mcpdaemon.ron(5)` is the reference for users; a test compares it with the keys here. Reading a file yields either
//! a whole [`Config`] or every problem in it, never half of each.

mod account;
mod alerts;
mod audit;
mod auth;
mod bridge;
mod command;
pub mod environment;
pub mod http;
mod listen;
mod logging;
mod name;
mod proxies;
pub mod read;
#[cfg(test)]
pub mod sample;
pub mod server;
mod session_ids;
pub mod setting;
mod syntax;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use account::Account;
pub use alerts::Alerts;
pub use audit::Audit;
pub use auth::{
    Admitted, Auth, Credential, Method, Token, bound_principal, check_token_name, known_principal, line as token_line,
    peer_principal,
};
pub use bridge::Tools;
pub use command::Command;
pub use environment::Environment;
pub use http::Http;
pub use listen::{Listen, Unix};
pub use logging::{Format, Log, Rotate};
pub use name::check_name;
pub use proxies::{Network, is_base};
pub use read::{Origin, Problem, Shown, Surroundings};
pub use server::{Confine, Exec, Kind, Line, Mcp, Server, Stdio};
pub use session_ids::SessionKey;
pub use setting::{Mode, Size};

use crate::model::bridge::Naming;
use read::{Node, Reader, Section, Setting};

/// The default address: loopback in both families, because clients take a name for either, and the port where clients of
/// cc_executor look (tests/requirements.md, S1.4).
pub const DEFAULT_LISTEN: &str = "localhost:8003";

/// One instance, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub name: String,
    /// The file it came from; None for a command line.
    pub file: Option<PathBuf>,
    pub listen: Vec<Listen>,
    pub servers: BTreeMap<String, Server>,
    /// None lets everybody in who can connect.
    pub auth: Option<Auth>,
    pub allow_origins: Vec<String>,
    pub allow_hosts: Vec<String>,
    pub limits: Limits,
    pub websocket: WebSocket,
    pub drain_timeout: Duration,
    /// Before a drain, how long clients are still taken while health checks are told that it ends.
    pub lame_duck: Duration,
    /// The instance ends when nobody has been connected for so long; zero for never.
    pub idle_exit: Duration,
    /// Proxies whose word on clients and paths is believed.
    pub trusted_proxies: Vec<Network>,
    /// Each session id begins with it and a dot, so that a balancer knows the instance; empty for none.
    pub session_prefix: String,
    /// What session ids are sealed with.
    pub session_key: SessionKey,
    /// What a proxy has before our paths; empty, or without a slash at its end.
    pub base_path: String,
    pub log: Log,
    /// None: nothing is recorded.
    pub audit: Option<Audit>,
    pub umask: Mode,
    /// Print commands to try after a background start.
    pub hints: bool,
    /// What the daemon itself becomes once everything is open that needs more.
    pub account: Option<Account>,
    /// Where an address is taken, so many of the next ports are tried.
    pub next_ports: u16,
    /// Addresses that others can reach are wanted.
    pub insecure: bool,
    pub on_event: Option<Command>,
    pub alerts: Alerts,
    /// How the endpoint that shows all servers as one names what they have; None for no such endpoint.
    pub bridge: Option<Naming>,
}

/// What a peer may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest message from a client.
    pub message: Size,
    /// Longest line from a child.
    pub reply: Size,
    pub sessions: u32,
    pub connections: u32,
    /// Longest HTTP request head.
    pub header: Size,
    /// A request head must be complete this long after its first byte.
    pub header_timeout: Duration,
    pub idle_session: Duration,
    /// A connection of HTTP without a request is closed after this time.
    pub idle_connection: Duration,
    /// Requests of one session that may be unanswered at a time.
    pub in_flight: u32,
    /// What is kept in memory for clients, all in all.
    pub memory: Size,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WebSocket {
    pub ping_interval: Duration,
    /// Without a pong or anything else for this long, the connection is dropped.
    pub ping_timeout: Duration,
    pub max_size: Size,
}

/// What is given beside the file: flags and environment, each with its origin.
#[derive(Default)]
pub struct Given {
    pub name: Option<(String, Origin)>,
    pub listen: Option<(Vec<String>, Origin)>,
    /// How many ports to try after one that is in use.
    pub port_conflict: Option<(u16, Origin)>,
    pub log_level: Option<(String, Origin)>,
    pub allow_root: Option<(bool, Origin)>,
    pub ws_ping_interval: Option<String>,
    pub ws_ping_timeout: Option<String>,
    pub ws_max_size: Option<String>,
}

/// A file to be read.
pub struct Input<'a> {
    /// The file's path; None for a command line.
    pub file: Option<PathBuf>,
    /// The instance's name where none is given.
    pub stem: String,
    /// The folder that relative paths start from.
    pub dir: PathBuf,
    pub text: &'a str,
    /// Files that add a server each.
    pub parts: Vec<Part>,
    /// Where `NAME.log` goes by default.
    pub log_dir: PathBuf,
    /// In a folder there for each user whom a daemon becomes.
    pub divides: bool,
}

/// A file beside the instance file with one more server (`NAME.d/*.ron`).
#[derive(Clone, Debug)]
pub struct Part {
    pub path: PathBuf,
    /// Where relative paths in it start from.
    pub dir: PathBuf,
    /// The server's name.
    pub name: String,
    pub text: String,
}

/// A file of the configuration, as it was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Text {
    pub path: PathBuf,
    pub text: String,
}

/// A configuration with the values that led to it, for `-T`.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub shown: Vec<Shown>,
    /// The files that it was read from.
    pub texts: Vec<Text>,
    /// Those of them that hold a secret, and other files that do.
    pub secret: Vec<PathBuf>,
    /// What is not wrong, and still should not be.
    pub warnings: Vec<String>,
}

/// Reads an instance file; all its problems at once.
pub fn load(input: &Input<'_>, given: &Given, around: &Surroundings<'_>) -> Result<Loaded, Vec<Problem>> {
    let file = match &input.file {
        Some(path) => path.display().to_string(),
        None => "command line".to_owned(),
    };
    let reader = Reader::new(file, input.dir.clone(), input.text, around, input.file.is_some());
    let parts: Vec<_> = input
        .parts
        .iter()
        .map(|p| (p, Reader::new(p.path.display().to_string(), p.dir.clone(), &p.text, around, true)))
        .collect();
    let config = reader.root().and_then(|root| instance(&reader, root, input, given, &parts));
    let mut secret = Vec::new();
    secret.extend(input.file.clone().filter(|_| reader.has_secret()));
    secret.extend(reader.secret_files());
    let (mut problems, mut shown) = reader.finish();
    for (from, part) in parts {
        secret.extend(Some(from.path.clone()).filter(|_| part.has_secret()));
        secret.extend(part.secret_files());
        let (more, values) = part.finish();
        problems.extend(more);
        shown.extend(values);
    }
    for (what, over) in overrides(given) {
        if let Err(why) = over {
            problems.push(Problem { file: what.to_owned(), place: None, what: why });
        }
    }
    match config {
        Some(config) if problems.is_empty() => {
            Ok(Loaded { config, shown, texts: Vec::new(), secret, warnings: Vec::new() })
        }
        _ => Err(problems),
    }
}

/// The name of a flag or a variable.
fn given_as(origin: &Origin) -> &str {
    match origin {
        Origin::Flag(name) | Origin::Environment(name) => name,
        _ => "override",
    }
}

/// The sequence of overrides that are checked by their own parsers, with the name that the user knows them by.
fn overrides(given: &Given) -> Vec<(&str, Result<(), String>)> {
    let mut out = Vec::new();
    if let Some((name, origin)) = &given.name {
        out.push((given_as(origin), check_name(name)));
    }
    if let Some((list, origin)) = &given.listen {
        out.extend(list.iter().map(|l| (given_as(origin), l.parse::<Listen>().map(drop))));
    }
    if let Some((level, origin)) = &given.log_level {
        out.push((given_as(origin), level.parse::<log::LevelFilter>().map(drop).map_err(|_| bad_level(level))));
    }
    for (name, value) in [("WS_PING_INTERVAL", &given.ws_ping_interval), ("WS_PING_TIMEOUT", &given.ws_ping_timeout)] {
        out.extend(value.as_ref().map(|v| (name, seconds(v).map(drop))));
    }
    out.extend(given.ws_max_size.as_ref().map(|v| ("WS_MAX_SIZE", bytes(v).map(drop))));
    out
}

fn bad_level(level: &str) -> String {
    format!("unknown log level '{level}' (known: off, error, warn, info, debug, trace)")
}

/// Seconds with a fraction, as the WS_PING_* variables have them (mcpdaemon(8), ENVIRONMENT).
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .filter(|d| !d.is_zero() && *d <= setting::LONGEST && *d >= setting::SHORTEST)
        .ok_or_else(|| format!("expected a number of seconds, found '{text}'"))
}

fn bytes(text: &str) -> Result<Size, String> {
    text.parse().map(Size).map_err(|_| format!("expected a number of bytes, found '{text}'"))
}

fn instance<'a>(
    reader: &Reader<'a>,
    root: Node<'a>,
    input: &Input<'a>,
    given: &Given,
    parts: &[(&'a Part, Reader<'a>)],
) -> Option<Config> {
    let mut s = reader.section(root)?;
    let over_name = given.name.clone();
    let name = s.get_or("name", over_name, input.stem.clone());
    if given.name.is_none()
        && let Err(what) = check_name(&name)
    {
        reader.problem(s.node("name").unwrap_or(root), what);
    }
    let over_listen = given.listen.as_ref().and_then(|(list, origin)| {
        let list: Result<Vec<Listen>, _> = list.iter().map(|l| l.parse()).collect();
        list.ok().map(|l| (l, origin.clone()))
    });
    let default: Vec<Listen> = DEFAULT_LISTEN.parse().into_iter().collect();
    let listen = s.get_or("listen", over_listen, default);
    let insecure = s.get("insecure", false);
    let auth = auth::read(&mut s, &listen);
    check_listen(&mut s, root, &listen, insecure || auth.is_some(), given.listen.as_ref().map(|(_, origin)| origin));
    let loopback = || ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec();
    let allow_origins = s.get("allow_origins", loopback());
    let allow_hosts = s.get("allow_hosts", loopback());
    let limits = s.nested("limits", limits);
    let websocket = s.nested("websocket", |s| websocket(s, &limits, given));
    let drain_timeout = s.get("drain_timeout", Duration::from_secs(10));
    let lame_duck = s.get("lame_duck", Duration::ZERO);
    let idle_exit = s.get("idle_exit", Duration::ZERO);
    let trusted_proxies = s.get("trusted_proxies", Vec::new());
    let session_prefix = session_ids::session_prefix(&mut s);
    let session_key = session_ids::session_key(&mut s);
    let base_path = proxies::base_path(&mut s);
    let account = server::account(&mut s);
    let log_dir = match &account {
        Some(account) if input.divides && account.uid != 0 => input.log_dir.join(&account.name),
        _ => input.log_dir.clone(),
    };
    let log = s.nested("log", |s| {
        let level = given.log_level.as_ref().and_then(|(l, o)| l.parse().ok().map(|l| (l, o.clone())));
        logging::log(s, log_dir.join(format!("{name}.log")), level)
    });
    let audit = audit::audit(&mut s, &log.file);
    let umask = s.get("umask", Mode(0o027));
    let hints = s.get("hints", false);
    let allow_root = s.get_or("allow_root", given.allow_root.clone(), false);
    let next_ports = port_conflict(&mut s, given.port_conflict.clone());
    let on_event = server::command(&mut s, "on_event");
    let alerts = s.nested("alerts", alerts::alerts);
    let environment = environment::environment(&mut s, &Environment::default());
    let node = s.node("servers");
    let mut servers = match node {
        Some(node) => server::servers(reader, node, &environment, !parts.is_empty()),
        None if !parts.is_empty() => BTreeMap::new(),
        // Said where it stands.
        None if s.is_respelled("servers") => BTreeMap::new(),
        None => {
            reader.problem(root, "'servers' is missing: an instance needs at least one server");
            BTreeMap::new()
        }
    };
    let there = |name: &str| servers.contains_key(name) || parts.iter().any(|(part, _)| part.name == name);
    let bridge = bridge::bridge(&mut s, &there);
    s.finish_beside("a server, as in servers: {\"NAME\": Stdio(command: [...], KEY: ...)}", &server::OF_A_SERVER);
    for (part, reader) in parts {
        let Some(root) = reader.root() else { continue };
        if let Err(what) = check_name(&part.name) {
            reader.problem(root, what);
        }
        if servers.contains_key(&part.name) {
            reader.problem(root, format!("there is a server '{}' already, in the instance file", part.name));
        }
        servers.extend(server::one(reader, &part.name, root, &environment).map(|s| (part.name.clone(), s)));
    }
    check_aliases(reader, node.unwrap_or(root), &servers);
    check_accounts(reader, node.unwrap_or(root), &servers, account.as_ref(), allow_root);
    Some(Config {
        name,
        file: input.file.clone(),
        listen,
        servers,
        auth,
        allow_origins,
        allow_hosts,
        limits,
        websocket,
        drain_timeout,
        lame_duck,
        idle_exit,
        trusted_proxies,
        session_prefix,
        session_key,
        base_path,
        log,
        audit,
        umask,
        hints,
        account,
        next_ports,
        insecure,
        on_event,
        alerts,
        bridge,
    })
}

/// Whether each alias tells its server from all others.
fn check_aliases<'a>(reader: &Reader<'a>, at: Node<'a>, servers: &BTreeMap<String, Server>) {
    for (name, server) in servers {
        let Some(alias) = &server.alias else { continue };
        let other =
            servers.iter().find(|(other, s)| *other != name && (*other == alias || s.alias.as_ref() == Some(alias)));
        if let Some((other, _)) = other {
            reader.problem(
                at,
                format!("the alias '{alias}' of server '{name}' is the name or alias of server '{other}' too"),
            );
        }
    }
}

/// Whether each server can run as the user that it shall, and whether that is wise.
fn check_accounts<'a>(
    reader: &Reader<'a>,
    at: Node<'a>,
    servers: &BTreeMap<String, Server>,
    own: Option<&Account>,
    allow_root: bool,
) {
    let around = reader.around();
    let (started, with) = (around.uid, around.gid);
    let (uid, gid) = own.map_or((started, with), |a| (a.uid, a.gid));
    if started != 0 && uid != started {
        reader.problem(at, "'user' of the instance: becoming another user needs root");
        return;
    }
    if started != 0 && gid != with {
        let what = format!("'group' of the instance: changing the group, from {with} to {gid}, needs root");
        reader.problem(at, what);
        return;
    }
    for (name, server) in servers {
        let wanted = server.kind.confine().account.as_ref();
        match wanted {
            Some(account) if uid != 0 && (account.uid, account.gid) != (uid, gid) => {
                let why = match own {
                    Some(own) => format!("the daemon itself becomes '{}' and cannot start it", own.name),
                    None => "only root can start it".to_owned(),
                };
                let other = match account.uid == uid {
                    false => format!("as '{}'", account.name),
                    true => format!("with the group {}", account.gid),
                };
                reader.problem(at, format!("server '{name}': {why} {other}"));
            }
            _ if wanted.map_or(uid, |a| a.uid) == 0 && !allow_root => {
                let way = match reader.is_command_line() {
                    true => "say --allow-root, or write an instance file with 'user' (-c)",
                    false => "set 'user', of the instance or of the server, or say allow_root: true",
                };
                reader.problem(at, format!("server '{name}' would run as root: {way}"));
            }
            _ => {}
        }
    }
}

/// `Error`, or `Next(n)`: how many ports to try after the one that is taken.
fn port_conflict(s: &mut Section<'_, '_>, given: Option<(u16, Origin)>) -> u16 {
    let node = s.node("port_conflict");
    let text = |n: u16| if n == 0 { "Error".to_owned() } else { format!("Next({n})") };
    if let Some((n, origin)) = given {
        s.show("port_conflict", text(n), origin);
        return n;
    }
    let Some(node) = node else {
        s.show("port_conflict", text(0), Origin::Default);
        return 0;
    };
    let read = |s: &Section<'_, '_>| match s.reader.variant(node) {
        Some(("Error", None)) => Some(0),
        Some(("Next", Some(body))) => {
            let at = s.reader.only(body, "Next(number of ports)")?;
            let n: u32 = s.reader.plain(at, "a number of ports")?;
            if !(1..=1000).contains(&n) {
                s.reader.problem(at, "Next tries 1 to 1000 ports");
            }
            u16::try_from(n).ok()
        }
        _ => {
            s.reader.problem(node, "expected Error or Next(number of ports)");
            None
        }
    };
    let n = read(s).unwrap_or(0);
    s.show_given("port_conflict", node, text(n));
    n
}

/// `given` is who has said it in place of the file.
fn check_listen<'a>(
    s: &mut Section<'_, 'a>,
    root: Node<'a>,
    listen: &[Listen],
    insecure: bool,
    given: Option<&Origin>,
) {
    let at = s.node("listen").unwrap_or(root);
    let problem = |what: String| match given {
        Some(origin) => s.reader.problem_of(given_as(origin), what),
        None => s.reader.problem(at, what),
    };
    if listen.is_empty() {
        problem("'listen' is empty: nobody could connect".to_owned());
    }
    for (i, one) in listen.iter().enumerate() {
        if listen[..i].contains(one) && one.port() != Some(0) {
            problem(format!("'{one}' is listed twice"));
        }
        if !insecure && !one.is_local() {
            let otherwise = match s.reader.is_command_line() {
                true => "; for other addresses write an instance file, with 'auth' or insecure: true (-c)",
                false => ", set 'auth', or write insecure: true",
            };
            problem(format!(
                "'{one}' can be reached from other machines, and nothing asks who connects: \
                 listen on 127.0.0.1 or a unix: socket{otherwise}"
            ));
        }
    }
}

fn limits(s: &mut Section<'_, '_>) -> Limits {
    // A quarter of what there is, and what is not set shrinks with it.
    let most = Size((s.reader.around().memory / 4).min(512 << 20));
    let memory = s.get("memory", most);
    let part = |of: u64, usual: Size| Size((memory.0 / of).min(usual.0));
    let reply = s.get("reply", part(4, Size::mib(64)));
    if reply.0 > memory.0 / 4
        && let Some(node) = s.node("reply").or_else(|| s.node("memory"))
    {
        let what = format!(
            "limits.reply ({reply}) is more than a quarter of limits.memory ({memory}): one answer must leave room for others"
        );
        s.reader.problem(node, what);
    }
    Limits {
        memory,
        message: s.get("message", part(16, Size::mib(10))),
        reply,
        sessions: s.get("sessions", 1000),
        connections: s.get("connections", 4096),
        header: s.get("header", Size(16 << 10)),
        header_timeout: s.time("header_timeout", Duration::from_secs(10)),
        idle_session: s.time("idle_session", Duration::from_secs(30 * 60)),
        idle_connection: s.time("idle_connection", Duration::from_secs(75)),
        in_flight: s.get("in_flight", 256),
    }
}

fn websocket(s: &mut Section<'_, '_>, limits: &Limits, given: &Given) -> WebSocket {
    let time = |text: &Option<String>, name: &'static str| {
        let value = text.as_deref().and_then(|t| seconds(t).ok());
        value.map(|d| (d, Origin::Environment(name)))
    };
    let size = given.ws_max_size.as_deref().and_then(|t| bytes(t).ok());
    WebSocket {
        ping_interval: s.time_or(
            "ping_interval",
            time(&given.ws_ping_interval, "WS_PING_INTERVAL"),
            Duration::from_secs(20),
        ),
        ping_timeout: s.time_or(
            "ping_timeout",
            time(&given.ws_ping_timeout, "WS_PING_TIMEOUT"),
            Duration::from_secs(30),
        ),
        max_size: s.get_or("max_size", size.map(|s| (s, Origin::Environment("WS_MAX_SIZE"))), limits.message),
    }
}

/// The effective configuration as RON, each value with its origin behind it. Secrets are masked.
pub fn dump(shown: &[Shown]) -> String {
    let mut out = String::from("(\n");
    let mut depth = 1;
    for item in shown {
        match item {
            Shown::Open(head) => {
                out.push_str(&format!("{}{head}\n", "    ".repeat(depth)));
                depth += 1;
            }
            Shown::Close(bracket) => {
                depth -= 1;
                out.push_str(&format!("{}{bracket},\n", "    ".repeat(depth)));
            }
            Shown::Value { key, text, origin } => {
                let from = match origin {
                    Origin::Default => "default".to_owned(),
                    Origin::Line(n) => format!("line {n}"),
                    Origin::Environment(name) => format!("environment {name}"),
                    Origin::Flag(name) => format!("flag {name}"),
                };
                out.push_str(&format!("{}{key}: {text}, // {from}\n", "    ".repeat(depth)));
            }
        }
    }
    out.push_str(")\n");
    out
}

impl Setting for Listen {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        let text = reader.string(node, "an address in quotes, such as \"127.0.0.1:8003\"")?;
        match text.parse::<Listen>() {
            Ok(Listen::Unix(unix)) => Some(Listen::Unix(Unix { path: reader.dir().join(unix.path), ..unix })),
            Ok(listen) => Some(listen),
            Err(what) => {
                reader.problem(node, what);
                None
            }
        }
    }
    fn show(&self) -> String {
        setting::quoted(&self.to_string())
    }
}

#[cfg(test)]
mod tests;
