//! The `servers` of an instance: `Stdio(...)`, `Http(...)` and `Exec(...)`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Command;
use super::account::Account;
use super::bridge::{self, Tools};
use super::environment::{Environment, environment};
use super::http::{Http, http};
use super::name::check_name;
use super::read::Origin;
use super::read::{Node, Reader, Section, Setting, Shown};
use super::setting::{Mode, Size, quoted};
use crate::model::bridge::Naming;
use crate::model::restart::{Mode as RestartMode, Policy};

/// One named server.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub kind: Kind,
    /// The instance counts as ready only with it.
    pub required: bool,
    /// What stands before its names on the bridge, in place of its own.
    pub alias: Option<String>,
}

impl Kind {
    /// The longest that a process of it is given to end.
    pub fn grace(&self) -> Duration {
        match self {
            Kind::Mcp(mcp) => mcp.stop().stdin + mcp.stop().term,
            Kind::Exec(exec) => exec.stop_after,
            Kind::Bridge(_) => Duration::ZERO,
        }
    }

    /// The name in the configuration and in the status document.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Mcp(mcp) => match mcp.line {
                Line::Stdio(_) => "Stdio",
                Line::Http(_) => "Http",
            },
            Kind::Exec(_) => "Exec",
            Kind::Bridge(_) => "Bridge",
        }
    }

    /// Which of its tools may be used; None where that is not for the configuration to say.
    pub fn tools(&self) -> Option<&Tools> {
        match self {
            Kind::Mcp(mcp) => Some(&mcp.tools),
            Kind::Exec(_) | Kind::Bridge(_) => None,
        }
    }

    /// The command that it is, if it is one.
    pub fn stdio(&self) -> Option<&Stdio> {
        match self {
            Kind::Mcp(mcp) => mcp.stdio(),
            Kind::Exec(_) | Kind::Bridge(_) => None,
        }
    }

    /// The server elsewhere that it is, if it is one.
    pub fn http(&self) -> Option<&Http> {
        match self {
            Kind::Mcp(mcp) => match &mcp.line {
                Line::Http(http) => Some(http),
                Line::Stdio(_) => None,
            },
            Kind::Exec(_) | Kind::Bridge(_) => None,
        }
    }

    /// The programs that it is made of or may run, by their paths.
    pub fn programs(&self) -> Vec<&Path> {
        match self {
            Kind::Mcp(mcp) => mcp.stdio().map(|stdio| stdio.program.as_path()).into_iter().collect(),
            Kind::Exec(exec) => match &exec.allow {
                Allow::These(programs) => programs.values().map(PathBuf::as_path).collect(),
                Allow::All => exec.shell.as_deref().into_iter().collect(),
            },
            Kind::Bridge(_) => Vec::new(),
        }
    }

    /// The user that its processes run as, and what they may take.
    pub fn confine(&self) -> &Confine {
        match self {
            Kind::Mcp(mcp) => mcp.stdio().map_or(&NOTHING, |stdio| &stdio.confine),
            Kind::Exec(exec) => &exec.confine,
            Kind::Bridge(_) => &NOTHING,
        }
    }
}

/// What has no process needs no limits.
static NOTHING: Confine = Confine {
    account: None,
    umask: None,
    limits: Rlimits { nofile: None, memory: None, processes: None, cpu: None },
    no_new_privs: true,
};

/// The user that the processes of a server run as, and what they may take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Confine {
    /// None for the daemon's own.
    pub account: Option<Account>,
    /// None for the instance's.
    pub umask: Option<Mode>,
    pub limits: Rlimits,
    /// No set-user-ID program gives them more than they have (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
}

/// Limits of resources (setrlimit(2)) for each process of a server; None is what the daemon was started with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rlimits {
    /// Open files.
    pub nofile: Option<u32>,
    /// Private memory that can be written, RLIMIT_DATA: address space that is only reserved does not count.
    pub memory: Option<Size>,
    /// Processes of the same user.
    pub processes: Option<u32>,
    /// Processor time.
    pub cpu: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// What speaks MCP: messages are passed on to it.
    Mcp(Box<Mcp>),
    /// Built in: runs allowed commands.
    Exec(Box<Exec>),
    /// All others as one. It is no entry of `servers`, and has no process.
    Bridge(Naming),
}

/// A server that messages are passed on to.
#[derive(Clone, Debug, PartialEq)]
pub struct Mcp {
    pub line: Line,
    pub start_timeout: Duration,
    /// A request without an answer or progress for this long fails.
    pub request_timeout: Duration,
    /// A request fails after this long, progress or not.
    pub request_max: Duration,
    pub restart: Policy,
    pub sharing: Sharing,
    /// Started when the first request needs it, and stopped when nothing has for this long. None: started with the
    /// instance.
    pub on_demand: Option<Duration>,
    pub health: Option<Health>,
    pub tools: Tools,
}

impl Mcp {
    /// The command that it is, if it is one.
    pub fn stdio(&self) -> Option<&Stdio> {
        match &self.line {
            Line::Stdio(stdio) => Some(stdio),
            Line::Http(_) => None,
        }
    }

    /// The ladder on which what is at the other end of its line goes down.
    pub fn stop(&self) -> &Stop {
        self.stdio().map_or(&HANG_UP, |stdio| &stdio.stop)
    }
}

/// A server elsewhere is told that its session is over, and is not waited for any longer than this.
static HANG_UP: Stop = Stop { stdin: Duration::from_secs(3), term: Duration::ZERO, command: None };

/// How a server that messages are passed on to is reached.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each server, and it is mostly the large one")]
pub enum Line {
    /// Standard input and output of a command.
    Stdio(Stdio),
    /// Streamable HTTP.
    Http(Http),
}

/// A server that is a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Stdio {
    /// Absolute, found at load.
    pub program: PathBuf,
    pub args: Vec<String>,
    pub environment: Environment,
    pub cwd: Option<PathBuf>,
    pub stop: Stop,
    pub confine: Confine,
}

/// How a child is asked whether it still answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Between two questions, and since the last sign of life.
    pub interval: Duration,
    /// For the answer.
    pub timeout: Duration,
    /// So many answers in a row may be missing, and no more, before the child is replaced.
    pub failures: u32,
}

/// Who shares a child of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One child for all clients.
    Shared,
    /// A child for each session of the legacy era.
    PerSession {
        /// Sessions at a time.
        max: u32,
        /// A session that is idle for this long ends, and its child with it.
        idle: Duration,
        /// Children that are started ahead.
        spare: u32,
    },
    /// So many shared children; a session goes to the one with the fewest.
    Pool(u32),
}

/// The ladder on which a child goes down.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// Time to end by itself once its standard input is closed.
    pub stdin: Duration,
    /// Time to end after SIGTERM, before SIGKILL.
    pub term: Duration,
    /// Run after the end of each child, for what signals do not reach.
    pub command: Option<Command>,
}

/// The built-in executor.
#[derive(Clone, Debug, PartialEq)]
pub struct Exec {
    /// What may be run: `*`, or name as a client says it → program.
    pub allow: Allow,
    pub shell: Option<PathBuf>,
    pub cwd: Option<PathBuf>,
    pub environment: Environment,
    pub timeout: Duration,
    /// Longest line, and most output of one stream, that is kept.
    pub max_line: Size,
    /// Sessions at a time.
    pub sessions: u32,
    /// Commands at a time, of all sessions and of one.
    pub commands: u32,
    pub session_commands: u32,
    /// Time for a command to end after SIGTERM, before SIGKILL.
    pub stop_after: Duration,
    pub confine: Confine,
}

/// The programs of an executor.
#[derive(Clone, Debug, PartialEq)]
pub enum Allow {
    All,
    These(BTreeMap<String, PathBuf>),
}

/// Reads `servers: {"name": Kind(...)}`, which may be empty if there are `more` elsewhere. `above` is the environment that all
/// of them have.
pub fn servers<'a>(reader: &Reader<'a>, node: Node<'a>, above: &Environment, more: bool) -> BTreeMap<String, Server> {
    let mut servers = BTreeMap::new();
    let Some(pairs) = reader.map(node, "{\"name\": Stdio(...), ...}") else { return servers };
    if pairs.is_empty() && !more {
        reader.problem(node, "no server: an instance needs at least one");
    }
    reader.show(Shown::Open("servers: {".to_owned()));
    for (key, value) in pairs {
        let Some(name) = reader.plain::<String>(key, "a name in quotes") else { continue };
        if let Err(what) = check_name(&name) {
            reader.problem(key, what);
        }
        let server = one(reader, &name, value, above);
        if servers.contains_key(&name) {
            reader.problem(key, format!("there are two servers named '{name}'"));
        }
        servers.extend(server.map(|s| (name, s)));
    }
    reader.show(Shown::Close('}'));
    servers
}

/// Reads one server: `Kind(...)`.
pub fn one<'a>(reader: &Reader<'a>, name: &str, node: Node<'a>, above: &Environment) -> Option<Server> {
    const KINDS: [&str; 3] = ["Stdio", "Http", "Exec"];
    let Some((kind, body)) = reader.variant(node) else {
        reader.problem(node, "expected Stdio(...), Http(...) or Exec(...)");
        return None;
    };
    if !KINDS.contains(&kind) {
        reader.unknown(node, "kind of server", kind, &KINDS);
        return None;
    }
    let Some(body) = body else {
        reader.problem(node, format!("{kind} needs its settings: {kind}(...)"));
        return None;
    };
    let mut s = reader.section(body)?;
    reader.show(Shown::Open(format!("{}: {kind}(", quoted(name))));
    let required = s.get("required", true);
    let alias: Option<String> = s.opt("alias");
    if let Some(alias) = &alias
        && let Some(at) = s.node("alias")
        && !is_alias(alias)
    {
        s.reader.problem(at, "an alias has 1 to 32 letters, digits, '-' and '_'");
    }
    let kind = match kind {
        "Stdio" => stdio(&mut s, node, above).map(|k| Kind::Mcp(Box::new(k))),
        "Http" => {
            let line = http(&mut s, node).map(Line::Http);
            mcp(&mut s, |_| line).map(|k| Kind::Mcp(Box::new(k)))
        }
        _ => exec(&mut s, node, above).map(|k| Kind::Exec(Box::new(k))),
    };
    s.finish();
    reader.show(Shown::Close(')'));
    Some(Server { kind: kind?, required, alias })
}

fn stdio<'a>(s: &mut Section<'_, 'a>, whole: Node<'a>, above: &Environment) -> Option<Mcp> {
    let command = s.node("command");
    let words: Option<Words> = command.and_then(|n| Words::read(s.reader, n));
    if let (Some(node), Some(words)) = (command, &words) {
        s.show_given("command", node, words.show());
    }
    let more: Vec<String> = s.get("args", Vec::new());
    let environment = environment(s, above);
    let cwd = folder(s);
    mcp(s, |s| {
        let (stop, confine) = (s.nested("stop", stop), confine(s));
        if command.is_none() {
            s.reader.problem(whole, "'command' is missing: which program is the server?");
        }
        let Words(mut words) = words?;
        let path = environment.set.get("PATH").map(String::as_str);
        let program = program(s.reader, command?, &words.remove(0), path)?;
        let args = words.into_iter().chain(more).collect();
        Some(Line::Stdio(Stdio { program, args, environment, cwd, stop, confine }))
    })
}

/// Reads what servers have in common that messages are passed on to, whichever way.
fn mcp<'r, 'a>(s: &mut Section<'r, 'a>, line: impl FnOnce(&mut Section<'r, 'a>) -> Option<Line>) -> Option<Mcp> {
    let start_timeout = s.time("start_timeout", Duration::from_secs(30));
    let request_timeout = s.time("request_timeout", Duration::from_secs(5 * 60));
    let request_max = s.time("request_max", Duration::from_secs(60 * 60));
    let restart = s.nested("restart", restart);
    let (sharing, on_demand, health, tools) = (sharing(s), start(s), health(s), bridge::tools(s));
    let line = line(s)?;
    Some(Mcp { line, start_timeout, request_timeout, request_max, restart, sharing, on_demand, health, tools })
}

/// Keys that only a server has, some of which are looked for at the top.
pub const OF_A_SERVER: [&str; 18] = [
    "command",
    "args",
    "url",
    "headers",
    "ca",
    "cwd",
    "start_timeout",
    "request_timeout",
    "request_max",
    "restart",
    "stop",
    "sharing",
    "start",
    "health",
    "tools",
    "required",
    "alias",
    "no_new_privs",
];

fn confine(s: &mut Section<'_, '_>) -> Confine {
    Confine {
        account: account(s),
        umask: s.opt("umask"),
        limits: s.nested("limits", |s| Rlimits {
            nofile: s.opt("nofile"),
            memory: s.opt("memory"),
            processes: s.opt("processes"),
            cpu: s.opt("cpu"),
        }),
        no_new_privs: s.get("no_new_privs", true),
    }
}

/// Reads `user` and `group`.
pub fn account(s: &mut Section<'_, '_>) -> Option<Account> {
    let (user_at, group_at) = (s.optional("user"), s.optional("group"));
    let (user, group): (Option<String>, Option<String>) = (s.opt("user"), s.opt("group"));
    if user.is_none() && group.is_none() {
        return None;
    }
    match (s.reader.around().account)(user.as_deref(), group.as_deref()) {
        Ok(account) => Some(account),
        Err(why) => {
            let at = if user.is_some() { user_at } else { group_at };
            s.reader.problem(at?, why);
            None
        }
    }
}

/// `Eager`, or `OnDemand` with the time without use after which it is stopped.
fn start(s: &mut Section<'_, '_>) -> Option<Duration> {
    const KINDS: [&str; 2] = ["Eager", "OnDemand"];
    const IDLE: Duration = Duration::from_secs(10 * 60);
    let Some(node) = s.node("start") else {
        s.show("start", "Eager".to_owned(), Origin::Default);
        return None;
    };
    let read = |s: &Section<'_, '_>| match s.reader.variant(node) {
        Some(("Eager", None)) => None,
        Some(("OnDemand", body)) => {
            let mut inner = match body {
                Some(body) => s.reader.section(body)?,
                None => s.reader.empty(),
            };
            let idle = inner.quiet("idle", IDLE);
            inner.finish();
            if idle.is_zero() {
                s.reader.problem(node, "'idle' must be more than 0");
            }
            Some(idle)
        }
        Some((kind, _)) if !KINDS.contains(&kind) => {
            s.reader.unknown(node, "way of starting", kind, &KINDS);
            None
        }
        _ => {
            s.reader.problem(node, "expected Eager or OnDemand(idle: \"10m\")");
            None
        }
    };
    let start = read(s);
    let shown = start.map_or("Eager".to_owned(), |idle| format!("OnDemand(idle: {})", idle.show()));
    s.show_given("start", node, shown);
    start
}

/// `(interval, timeout, failures)`, or `None` for no questions.
fn health(s: &mut Section<'_, '_>) -> Option<Health> {
    if s.node("health").is_some() && s.optional("health").is_none() {
        s.show("health", "None".to_owned(), Origin::Default);
        return None;
    }
    Some(s.nested("health", |s| {
        let health = Health {
            interval: s.time("interval", Duration::from_secs(30)),
            timeout: s.time("timeout", Duration::from_secs(5)),
            failures: s.get("failures", 3),
        };
        // None missing at all would be a restart for nothing.
        Health { failures: health.failures.max(1), ..health }
    }))
}

fn sharing(s: &mut Section<'_, '_>) -> Sharing {
    const KINDS: [&str; 3] = ["Shared", "PerSession", "Pool"];
    let Some(node) = s.node("sharing") else {
        s.show("sharing", "Shared".to_owned(), Origin::Default);
        return Sharing::Shared;
    };
    let read = |s: &Section<'_, '_>| match s.reader.variant(node) {
        Some(("Shared", None)) => Some(Sharing::Shared),
        Some(("Pool", Some(body))) => {
            let at = s.reader.only(body, "Pool(number of children)")?;
            let n: u32 = s.reader.plain(at, "a number of children")?;
            if !(1..=1000).contains(&n) {
                s.reader.problem(at, "a pool has 1 to 1000 children");
                return None;
            }
            Some(Sharing::Pool(n))
        }
        Some(("PerSession", body)) => {
            let mut inner = match body {
                Some(body) => s.reader.section(body)?,
                None => s.reader.empty(),
            };
            let sharing = Sharing::PerSession {
                max: inner.quiet("max", 100),
                idle: inner.quiet("idle", Duration::from_secs(10 * 60)),
                spare: inner.quiet("spare", 1),
            };
            inner.finish();
            Some(sharing)
        }
        Some((kind, _)) if KINDS.contains(&kind) => {
            s.reader.problem(node, "expected Shared, PerSession(max: 100, idle: \"10m\", spare: 1) or Pool(n)");
            None
        }
        Some((kind, _)) => {
            s.reader.unknown(node, "way of sharing", kind, &KINDS);
            None
        }
        None => {
            s.reader.problem(node, "expected Shared, PerSession(...) or Pool(n)");
            None
        }
    };
    let sharing = read(s).unwrap_or(Sharing::Shared);
    s.show_given("sharing", node, sharing.to_string());
    sharing
}

impl std::fmt::Display for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sharing::Shared => f.write_str("Shared"),
            Sharing::Pool(n) => write!(f, "Pool({n})"),
            Sharing::PerSession { max, idle, spare } => {
                write!(f, "PerSession(max: {max}, idle: {}, spare: {spare})", idle.show())
            }
        }
    }
}

fn exec<'a>(s: &mut Section<'_, 'a>, whole: Node<'a>, above: &Environment) -> Option<Exec> {
    let allow = s.node("allow");
    let names: Option<Vec<String>> = allow.and_then(|n| Vec::read(s.reader, n));
    if let (Some(node), Some(names)) = (allow, &names) {
        s.show_given("allow", node, names.show());
    }
    let shell = s.optional("shell");
    let shell_program = shell.and_then(|n| program(s.reader, n, &String::read(s.reader, n)?, None));
    match shell {
        Some(node) => s.show_given("shell", node, shell_program.as_ref().map_or(String::new(), Setting::show)),
        None => s.show("shell", "None".to_owned(), Origin::Default),
    }
    let environment = environment(s, above);
    let cwd = folder(s);
    let timeout = s.time("timeout", Duration::from_secs(10 * 60));
    let max_line = s.get("max_line", Size::mib(64));
    let sessions = s.get("sessions", 100);
    let commands = s.get("commands", 64);
    let session_commands = s.get("session_commands", 16);
    let stop_after = s.nested("stop", |s| s.get("term", Duration::from_secs(5)));
    let confine = confine(s);
    let Some(at) = allow else {
        s.reader.problem(whole, "'allow' is missing: which programs may clients run? (allow: [\"*\"] allows all)");
        return None;
    };
    let names = names?;
    let all = names.iter().any(|n| n == "*");
    if names.is_empty() {
        s.reader.problem(at, "'allow' is empty: nothing could be run");
    }
    if all && names.len() > 1 {
        s.reader.problem(at, "\"*\" allows everything and stands alone");
    }
    if !all && let Some(shell) = shell {
        s.reader.problem(shell, "a shell can run anything, so 'shell' needs allow: [\"*\"]");
    }
    let allow = if all {
        Allow::All
    } else {
        let path = environment.set.get("PATH").map(String::as_str);
        let found = names.iter().map(|name| Some((name.clone(), program(s.reader, at, name, path)?)));
        let found: Vec<_> = found.collect();
        Allow::These(found.into_iter().collect::<Option<_>>()?)
    };
    Some(Exec {
        allow,
        shell: shell_program,
        cwd,
        environment,
        timeout,
        max_line,
        sessions,
        commands,
        session_commands,
        stop_after,
        confine,
    })
}

fn folder(s: &mut Section<'_, '_>) -> Option<PathBuf> {
    let folder: Option<PathBuf> = s.opt("cwd");
    if let Some(path) = &folder
        && !(s.reader.around().is_dir)(path)
        && let Some(node) = s.optional("cwd")
    {
        s.reader.problem(node, format!("there is no folder '{}'", path.display()));
    }
    folder
}

/// The absolute path of a program: as it stands if it has a slash (relative to the file's folder), else from PATH.
pub fn program<'a>(reader: &Reader<'a>, at: Node<'a>, name: &str, path: Option<&str>) -> Option<PathBuf> {
    let find = reader.around().find_program;
    if name.contains('/') {
        let absolute = reader.dir().join(name);
        if find(&absolute.to_string_lossy(), None).is_none() {
            let hint = as_list(reader, name).map_or(String::new(), |hint| format!(": {hint}"));
            reader.problem(at, format!("'{}' is not there or not executable{hint}", absolute.display()));
            return None;
        }
        return Some(normal(&absolute));
    }
    let found = find(name, path);
    if found.is_none() {
        let what = match as_list(reader, name) {
            Some(hint) => format!("there is no program '{name}': {hint}"),
            None => {
                format!("'{name}' was not found in PATH: install it, or write its full path (PATH is the daemon's own)")
            }
        };
        reader.problem(at, what);
    }
    found
}

/// How to write what may be a program with arguments.
fn as_list(reader: &Reader<'_>, name: &str) -> Option<String> {
    let words: Vec<String> = name.split_whitespace().map(quoted).collect();
    if words.len() > 1 && reader.is_command_line() {
        return Some(format!("leave the quotes out: -- {}", name.trim()));
    }
    (words.len() > 1).then(|| format!("a program and its arguments are a list, [{}]", words.join(", ")))
}

/// Without `.` components, so that paths print as people write them.
fn normal(path: &Path) -> PathBuf {
    path.components().collect()
}

fn restart(s: &mut Section<'_, '_>) -> Policy {
    let policy = Policy {
        mode: s.get("policy", RestartMode::Always),
        delay: s.get("delay", Duration::from_millis(500)),
        max_delay: s.get("max_delay", Duration::from_secs(60)),
        burst: s.get("burst", 5),
        window: s.time("window", Duration::from_secs(60)),
    };
    // A zero delay would let a crash loop spin.
    Policy { delay: policy.delay.max(Duration::from_millis(10)), ..policy }
}

fn stop(s: &mut Section<'_, '_>) -> Stop {
    Stop {
        stdin: s.get("stdin", Duration::from_secs(2)),
        term: s.get("term", Duration::from_secs(5)),
        command: command(s, "command"),
    }
}

/// A command that is run when something has happened; None where there is none.
pub fn command(s: &mut Section<'_, '_>, key: &'static str) -> Option<Command> {
    let node = s.optional(key);
    match (node, node.and_then(|n| Words::read(s.reader, n))) {
        (Some(node), Some(words)) => {
            s.show_given(key, node, words.show());
            let Words(mut words) = words;
            let program = program(s.reader, node, &words.remove(0), None)?;
            Some(Command { program, args: words })
        }
        (Some(_), None) => None,
        (None, _) => {
            s.show(key, "None".to_owned(), Origin::Default);
            None
        }
    }
}

/// `"program"` or `["program", "argument", ...]`.
pub struct Words(pub Vec<String>);

impl Setting for Words {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        let words = match node.0.starts_with('[') {
            true => Vec::<String>::read(reader, node)?,
            false => vec![reader.string(node, "[\"program\", \"argument\", ...]")?],
        };
        if words.first().is_none_or(String::is_empty) {
            reader.problem(node, "'command' is empty: which program is the server?");
            return None;
        }
        Some(Words(words))
    }
    fn show(&self) -> String {
        self.0.show()
    }
}

impl Setting for RestartMode {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        match node.0 {
            "Always" => Some(RestartMode::Always),
            "OnFailure" => Some(RestartMode::OnFailure),
            "Never" => Some(RestartMode::Never),
            other => {
                reader.unknown(node, "restart policy", other, &["Always", "OnFailure", "Never"]);
                None
            }
        }
    }
    fn show(&self) -> String {
        format!("{self:?}")
    }
}

/// Whether a text can stand before names on the bridge: 1 to 32 letters, digits, `-` and `_`.
pub(crate) fn is_alias(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=32).contains(&text.len()) && text.chars().all(fine)
}
