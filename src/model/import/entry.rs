//! One server of a client's file: what each of its keys is here.
//!
//! Clients have different words for the same thing, and none says by itself which client wrote it; so the words of all
//! are known together. What has no equivalent is said in a comment with its value, unless that may be secret.

use std::time::Duration;

use crate::model::config::http::may_be_set;
use crate::model::config::server::is_alias;
use crate::model::config::setting::quoted;
use crate::model::import::values::{Dialect, Values, is_variable, shown, variable};
use crate::model::jsonc::{Document, Node, Wrong};
use crate::model::text::{duration, printable, suggest};

/// A number of seconds that a `timeout` without a unit can be. What is more is milliseconds: clients have both.
const SECONDS: f64 = 3600.0;

/// The settings of a server, as the instance file has them.
#[derive(Default)]
pub(super) struct Settings {
    /// Of an `Http`.
    pub url: Option<String>,
    pub headers: Vec<(String, String)>,
    /// Of a `Stdio`.
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    pub others: Vec<(&'static str, String)>,
}

/// Whether a server can run here.
pub(super) enum Here {
    Runs,
    /// It is a comment, for this reason.
    Left(String),
}

/// A server as it was found.
pub(super) struct Entry {
    pub here: Here,
    pub settings: Option<Settings>,
    /// Where it stands among servers that offer the same; the lowest number is the first.
    pub priority: Option<f64>,
    pub notes: Vec<String>,
}

/// The lists of tools, as the keys for them add up.
#[derive(Default)]
struct Tools {
    allow: Option<Vec<String>>,
    deny: Vec<String>,
}

/// A remote server.
#[derive(Default)]
struct Remote {
    url: Option<String>,
    /// Names and values, which may be secret.
    headers: Vec<(String, String)>,
    /// The kind that the client named, in small letters.
    kind: String,
    wants_oauth: bool,
}

/// What reads one server.
struct Reading<'a, 'd> {
    document: &'d Document,
    values: &'a Values<'d>,
    /// How messages call it.
    what: String,
    settings: Settings,
    args: Vec<String>,
    remote: Remote,
    tools: Tools,
    /// The settings of the sections `health` and `restart`.
    health: Vec<(&'static str, String)>,
    restart: Vec<(&'static str, String)>,
    /// It has no health check.
    unchecked: bool,
    /// A rule for tools that cannot be kept: without it more could be called than was allowed.
    open: Option<String>,
    off: bool,
    priority: Option<f64>,
    notes: Vec<String>,
    /// Keys without an equivalent, and their values.
    dropped: Vec<String>,
    /// Their names.
    unknown: Vec<String>,
}

/// Reads the server `was`. `folder` is where the client would start it, if that matters.
pub(super) fn entry<'d>(
    document: &'d Document,
    values: &Values<'d>,
    was: &str,
    node: Node<'d>,
    folder: Option<&str>,
) -> Result<Entry, Wrong> {
    let mut reading = Reading {
        document,
        values,
        what: format!("server {}", shown(was)),
        settings: Settings::default(),
        args: Vec::new(),
        remote: Remote::default(),
        tools: Tools::default(),
        health: Vec::new(),
        restart: Vec::new(),
        unchecked: false,
        open: None,
        off: false,
        priority: None,
        notes: Vec::new(),
        dropped: Vec::new(),
        unknown: Vec::new(),
    };
    // What is null is not there.
    for (key, value) in document.object(node, &reading.what)?.into_iter().filter(|(_, value)| !value.is("null")) {
        if !reading.known(&key, value)? && !reading.list(&key, value)? && !reading.number(&key, value) {
            reading.drop(&key, value);
            reading.unknown.push(key);
        }
    }
    if let (Some(folder), false) = (folder, reading.has("cwd")) {
        let folder = reading.text(node, folder)?;
        reading.set("cwd", quoted(&folder));
    }
    reading.end(node)
}

impl<'d> Reading<'_, 'd> {
    fn text(&mut self, node: Node<'_>, text: &str) -> Result<String, Wrong> {
        self.values.text(node, text, &mut self.notes)
    }

    fn set(&mut self, key: &'static str, value: String) {
        let shown = format!("Its {key} is said in two ways; the other is {value}.");
        if !put(&mut self.settings.others, key, value) {
            self.notes.push(shown);
        }
    }

    fn has(&self, key: &str) -> bool {
        self.settings.others.iter().any(|(k, _)| *k == key)
    }

    /// Takes a key that says what to run, where and with what.
    fn known(&mut self, key: &str, value: Node<'d>) -> Result<bool, Wrong> {
        let what = format!("{}, '{key}'", self.what);
        match key {
            "command" | "cmd" => self.command(value, &what)?,
            "args" => {
                let args = self.words(value, &what)?;
                self.args.extend(args);
            }
            "env" | "environment" => self.env(value, &what)?,
            "cwd" | "working_directory" | "workingDirectory" => {
                let text = self.document.string(value, &what)?;
                if !text.is_empty() {
                    let text = self.text(value, &text)?;
                    self.note_relative(&text);
                    self.set("cwd", quoted(&text));
                }
            }
            "envFile" | "env_file" => {
                let text = self.document.string(value, &what)?;
                let text = self.text(value, &text)?;
                self.note_relative(&text);
                self.set("env_file", format!("[{}]", quoted(&text)));
            }
            "url" | "serverUrl" | "httpUrl" => {
                let text = self.document.string(value, &what)?;
                self.remote.url = Some(self.text(value, &text)?).filter(|url| !url.is_empty());
            }
            "headers" | "http_headers" => {
                for (name, value) in self.document.object(value, &what)? {
                    let text = self.document.word(value, &what)?;
                    let text = self.text(value, &text)?;
                    self.remote.headers.push((name, text));
                }
            }
            "env_http_headers" => {
                for (name, value) in self.document.object(value, &what)? {
                    let variable = self.variable(value, &what)?;
                    self.remote.headers.push((name, variable));
                }
            }
            "bearer_token_env_var" => {
                let variable = self.variable(value, &what)?;
                self.remote.headers.push(("Authorization".to_owned(), format!("Bearer {variable}")));
            }
            "type" | "transport" => self.remote.kind = self.document.string(value, &what)?.to_lowercase(),
            "oauth" => {
                self.remote.wants_oauth = !value.is("false");
                return Ok(false);
            }
            "source" if ["\"custom\"", "\"extension\""].iter().any(|s| value.is(s)) => {}
            "disabled" => self.off |= value.is("true"),
            "enabled" => self.off |= value.is("false"),
            "required" if value.is("true") || value.is("false") => self.set("required", value.written().to_owned()),
            "toolNamespace" | "alias" => match self.document.string(value, &what) {
                Ok(alias) if is_alias(&alias) => {
                    self.set("alias", quoted(&alias));
                }
                _ => return Ok(false),
            },
            "healthCheck" | "health_check" => self.health(value)?,
            "security" | "tool_security" | "toolSecurity" => {
                for (inner, value) in self.document.object(value, &what)? {
                    let key = format!("{key}.{inner}");
                    if matches!(inner.as_str(), "tool_security" | "toolSecurity") {
                        for (inner, value) in self.document.object(value, &what)? {
                            if !self.list(&inner, value)? {
                                self.drop(&format!("{key}.{inner}"), value);
                            }
                        }
                    } else if !self.list(&inner, value)? {
                        self.drop(&key, value);
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The name of a variable, as the instance file has its value.
    fn variable(&self, value: Node<'_>, what: &str) -> Result<String, Wrong> {
        let name = self.document.string(value, what)?;
        match is_variable(&name) {
            true => Ok(format!("${{{name}}}")),
            false => Err(self.document.wrong(value, format!("{what}: {} is no name of a variable", shown(&name)))),
        }
    }

    /// A program, or an object with it and what belongs to it (Zed).
    fn command(&mut self, value: Node<'d>, what: &str) -> Result<(), Wrong> {
        if !value.written().starts_with('{') {
            return self.program(value, what);
        }
        for (key, value) in self.document.object(value, what)? {
            match key.as_str() {
                // Not deeper: a file of objects in objects would go on for as long as it is.
                "path" | "command" | "cmd" => self.program(value, what)?,
                _ if self.known(&key, value)? => {}
                _ => self.drop(&format!("command.{key}"), value),
            }
        }
        Ok(())
    }

    /// A string with `args` beside it, or a list of all words (opencode).
    fn program(&mut self, value: Node<'d>, what: &str) -> Result<(), Wrong> {
        if value.written().starts_with('[') {
            self.settings.command = self.words(value, what)?;
        } else {
            let text = self.document.string(value, what)?;
            self.settings.command = vec![self.text(value, &text)?];
        }
        let program = self.settings.command.first().filter(|program| !program.is_empty()).cloned();
        let Some(program) = program else { return Err(self.document.wrong(value, format!("{what} is empty"))) };
        if program.contains('/') {
            self.note_relative(&program);
        }
        Ok(())
    }

    fn words(&mut self, value: Node<'d>, what: &str) -> Result<Vec<String>, Wrong> {
        let mut words = Vec::new();
        for node in self.document.list(value, what)? {
            let text = self.document.word(node, what)?;
            words.push(self.text(node, &text)?);
        }
        Ok(words)
    }

    fn env(&mut self, node: Node<'d>, what: &str) -> Result<(), Wrong> {
        for (key, value) in self.document.object(node, what)? {
            if key.is_empty() || key.contains(['=', '\0']) {
                self.notes.push(format!("{} in `env` is left out: no variable has such a name.", shown(&key)));
            } else if value.is("null") {
                self.notes.push(format!("{} in `env` is left out: it is null.", shown(&key)));
            } else {
                let text = self.document.word(value, what)?;
                let text = self.text(value, &text)?;
                self.settings.env.push((key, text));
            }
        }
        Ok(())
    }

    /// Says where a path begins, unless it is absolute or a variable says it.
    fn note_relative(&mut self, path: &str) {
        let note = "A relative path starts at the folder of this file.";
        if !path.starts_with(['/', '$']) && !self.notes.iter().any(|n| n == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Takes a key that is a list of names.
    fn list(&mut self, key: &str, value: Node<'d>) -> Result<bool, Wrong> {
        let names = || -> Option<Vec<String>> {
            let list = self.document.list(value, "").ok()?;
            let all = list.into_iter().map(|node| match node.written().starts_with('{') {
                // Codex: an object with a name.
                true => {
                    let members = self.document.object(node, "").ok()?;
                    self.document.string(members.iter().find(|(name, _)| name == "name")?.1, "").ok()
                }
                false => self.document.string(node, "").ok(),
            });
            all.collect()
        };
        let plain =
            |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.*/:".contains(c));
        match key {
            "enabledTools" | "enabled_tools" | "includeTools" | "include_tools" | "allowedTools" | "allowed_tools"
            | "allow_tools" | "allowTools" | "allow_patterns" | "allowPatterns" | "tools" => {
                let Some(names) = names().filter(|names| names.iter().all(plain)) else {
                    self.open = Some(key.to_owned());
                    return Ok(false);
                };
                self.tools.allow.get_or_insert_default().extend(names);
            }
            "disabledTools" | "disabled_tools" | "excludeTools" | "exclude_tools" | "block_tools" | "blockTools"
            | "blockedTools" | "blocked_tools" | "deny_tools" | "block_patterns" | "blockPatterns" => {
                let Some(names) = names().filter(|names| names.iter().all(plain)) else {
                    self.open = Some(key.to_owned());
                    return Ok(false);
                };
                self.tools.deny.extend(names);
            }
            "env_vars" | "pass_env" | "passEnv" => {
                let Some(names) = names().filter(|names| names.iter().all(plain)) else { return Ok(false) };
                self.set("pass_env", quoted_list(&names));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes a key that is a number.
    fn number(&mut self, key: &str, value: Node<'_>) -> bool {
        let Some(number) = self.document.number(value).filter(|n| *n >= 0.0 && n.is_finite()) else { return false };
        let (setting, unit) = match key {
            "priority" => {
                self.priority = Some(number);
                return true;
            }
            "timeout" if self.values.dialect == Dialect::Opencode => ("start_timeout", 0.001),
            "timeout" if number > SECONDS || self.values.dialect == Dialect::Shell => ("request_timeout", 0.001),
            "timeout" | "tool_timeout_sec" | "toolTimeoutSec" | "request_timeout" => ("request_timeout", 1.0),
            "tool_timeout_ms" | "toolTimeout" | "requestTimeout" => ("request_timeout", 0.001),
            "startup_timeout_sec" | "startupTimeoutSec" | "start_timeout" => ("start_timeout", 1.0),
            "startup_timeout_ms" | "startupTimeout" | "initTimeout" => ("start_timeout", 0.001),
            "retryDelay" | "retry_delay" | "restartDelay" => {
                let Some(delay) = span(number, 0.001).filter(|d| *d >= Duration::from_millis(10)) else { return false };
                return put(&mut self.restart, "delay", quoted(&duration(delay)));
            }
            _ => return false,
        };
        // Nothing waits for no time at all, and a client that says 0 means the one it has by itself.
        let Some(time) = span(number, unit).filter(|time| !time.is_zero() && !self.has(setting)) else { return false };
        if key == "timeout" && setting == "request_timeout" {
            let unit = if unit < 1.0 { "milliseconds" } else { "seconds" };
            self.notes.push(format!("Its timeout of {} is taken as {unit}.", value.written()));
        }
        self.set(setting, quoted(&duration(time)));
        true
    }

    /// The health check of MCP Foxxy Bridge; its times are milliseconds.
    fn health(&mut self, value: Node<'d>) -> Result<(), Wrong> {
        for (key, value) in self.document.object(value, &format!("{}, 'healthCheck'", self.what))? {
            let number = self.document.number(value).filter(|n| *n > 0.0);
            let time = number.and_then(|n| span(n, 0.001)).filter(|d| !d.is_zero()).map(|d| quoted(&duration(d)));
            let taken = match (key.as_str(), time, number) {
                ("enabled", ..) => {
                    self.unchecked |= value.is("false");
                    true
                }
                ("interval", Some(time), _) => put(&mut self.health, "interval", time),
                ("timeout", Some(time), _) => put(&mut self.health, "timeout", time),
                ("maxConsecutiveFailures", _, Some(n)) if n.fract() == 0.0 && n < 1000.0 => {
                    put(&mut self.health, "failures", n.to_string())
                }
                ("restartDelay", ..) => self.number(&key, value),
                ("autoRestart", ..) if value.is("false") => put(&mut self.restart, "policy", "Never".to_owned()),
                ("autoRestart", ..) => value.is("true"),
                ("operation", ..) => ["\"ping\"", "\"list_tools\""].iter().any(|o| value.is(o)),
                _ => false,
            };
            if !taken {
                self.drop(&format!("healthCheck.{key}"), value);
            }
        }
        Ok(())
    }

    /// Says what a key without an equivalent was.
    fn drop(&mut self, key: &str, value: Node<'_>) {
        self.dropped.push(was(key, value));
    }

    fn end(mut self, node: Node<'d>) -> Result<Entry, Wrong> {
        let far = self.remote.kind.contains("http")
            || matches!(self.remote.kind.as_str(), "sse" | "ws" | "websocket" | "remote");
        let has_command = !self.settings.command.is_empty();
        if has_command {
            self.settings.command.append(&mut self.args);
        }
        let lost = self.open.as_ref().map(|rule| {
            let rule = shown(rule);
            format!("{rule} cannot be kept, and without it more tools could be called than were meant: write `tools` by hand")
        });
        let here = match (has_command && !far, &self.remote.url) {
            (true, _) if self.off => Here::Left("it is switched off there".to_owned()),
            (true, _) => lost.map_or(Here::Runs, Here::Left),
            (false, Some(url)) => match self.not_by_http(url) {
                Some(why) => {
                    // Behind the question mark there may be a key.
                    let address = printable(url.split(['?', '#']).next().unwrap_or_default(), 200);
                    let off = if self.off { ", switched off there" } else { "" };
                    Here::Left(format!("it is a remote server ({address}) {why}{off}"))
                }
                None if self.off => Here::Left("it is switched off there".to_owned()),
                None => lost.map_or(Here::Runs, Here::Left),
            },
            (false, None) if far => Here::Left("it is a remote server without a URL".to_owned()),
            (false, None) if self.what_else() => {
                Here::Left("it has no command: an extension of the client runs it".to_owned())
            }
            (false, None) => {
                let near = |key: &String| suggest(key, ["command", "url"]).map(|meant| (meant, shown(key)));
                let meant = self.unknown.iter().find_map(near);
                let meant = meant.map(|(meant, key)| format!("; did you mean '{meant}' by {key}?")).unwrap_or_default();
                let text = format!("{}: there is neither 'command' nor 'url'{meant}", self.what);
                return Err(self.document.wrong(node, text));
            }
        };
        if let Some(url) = self.remote.url.take_if(|_| !has_command || far) {
            match self.not_by_http(&url) {
                Some(_) => self.bridge_to_remote(url),
                None => self.reach_remote(url),
            }
        }
        let Tools { allow, deny } = &self.tools;
        let allow = allow
            .as_ref()
            .filter(|all| !all.iter().any(|name| name == "*"))
            .map(|names| format!("allow: {}", quoted_list(names)));
        let deny = Some(deny).filter(|names| !names.is_empty()).map(|names| format!("deny: {}", quoted_list(names)));
        let tools: Vec<String> = allow.into_iter().chain(deny).collect();
        if !tools.is_empty() {
            self.set("tools", format!("({})", tools.join(", ")));
        }
        if self.unchecked {
            self.set("health", "None".to_owned());
        } else if let Some(health) = section(&self.health) {
            self.set("health", health);
        }
        if let Some(restart) = section(&self.restart) {
            self.set("restart", restart);
        }
        if !self.dropped.is_empty() {
            self.notes.push(format!("Without an equivalent here: {}.", self.dropped.join(", ")));
        }
        let is_known = |settings: &Settings| !settings.command.is_empty() || settings.url.is_some();
        let settings = Some(self.settings).filter(is_known);
        Ok(Entry { here, settings, priority: self.priority, notes: self.notes })
    }

    /// A server that says where it comes from, though not what to run.
    fn what_else(&self) -> bool {
        self.settings.others.is_empty() && self.dropped.iter().any(|d| d.starts_with("\"settings\""))
    }

    /// Why a remote server cannot be an `Http` here.
    fn not_by_http(&self, url: &str) -> Option<&'static str> {
        let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        match self.remote.kind.as_str() {
            "sse" => Some("over HTTP+SSE, which the daemon does not speak to others"),
            "ws" | "websocket" => Some("over WebSocket, which the daemon does not speak to others"),
            _ if self.remote.wants_oauth => Some("with OAuth, which the daemon does not do"),
            _ if cfg!(not(feature = "remote")) && url.starts_with("https://") => {
                Some("over TLS, without which this mcpdaemon was built")
            }
            "" | "remote" if path.ends_with("/sse") => Some("whose URL looks like one of HTTP+SSE"),
            _ => None,
        }
    }

    /// An `Http`. What is said of a process is of no use to it.
    fn reach_remote(&mut self, url: String) {
        const OF_A_PROCESS: [&str; 3] = ["cwd", "env_file", "pass_env"];
        self.settings.others.retain(|(key, _)| !OF_A_PROCESS.contains(key));
        self.settings.env.clear();
        for (name, value) in std::mem::take(&mut self.remote.headers) {
            let same = |(known, _): &(String, String)| known.eq_ignore_ascii_case(&name);
            if self.settings.headers.iter().any(same) || !may_be_set(&name) || value.contains(['\r', '\n']) {
                self.notes.push(format!("The header {} is left out.", shown(&name)));
            } else {
                self.settings.headers.push((name, value));
            }
        }
        if self.settings.headers.is_empty() && url.starts_with("https://") {
            self.notes.push(
                "Should it want OAuth, mcp-remote can do that: mcpdaemon.ron(5), KEYS OF AN HTTP SERVER.".to_owned(),
            );
        }
        self.settings.url = Some(url);
    }

    /// Offers mcp-remote, which speaks to a remote server as a command. The values of headers go to it by its
    /// environment: everybody on the host can read a command line.
    fn bridge_to_remote(&mut self, url: String) {
        let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', ':', '?']).next());
        let near = host.is_some_and(|host| matches!(host, "localhost" | "127.0.0.1"));
        let insecure = (host.is_some() && !near).then(|| "--allow-http".to_owned());
        let words = ["npx", "-y", "mcp-remote"].map(str::to_owned).into_iter().chain([url]);
        let mut command: Vec<String> = words.chain(insecure).collect();
        if self.remote.kind == "sse" {
            command.extend(["--transport".to_owned(), "sse-only".to_owned()]);
        }
        let mut env = Vec::new();
        for (name, value) in std::mem::take(&mut self.remote.headers) {
            let variable = variable(&name);
            command.extend(["--header".to_owned(), format!("{name}:$${{{variable}}}")]);
            env.push((variable, value));
        }
        self.settings.command = command;
        self.settings.env = env;
        self.notes.push("Where npx(1) is installed, mcp-remote speaks to it: take the // away.".to_owned());
    }
}

/// A key and what it was, for a comment.
pub(super) fn was(key: &str, value: Node<'_>) -> String {
    let compact = serde_json::from_str::<serde_json::Value>(value.written())
        .map_or_else(|_| value.written().to_owned(), |v| v.to_string());
    let words = format!("{key} {compact}").to_lowercase();
    let secret = ["auth", "secret", "token", "passw", "key", "header", "cookie", "credential"];
    match secret.iter().any(|word| words.contains(word)) {
        true => format!("{} (may be secret: not repeated here)", shown(key)),
        false => format!("{}: {}", shown(key), printable(&compact, 200)),
    }
}

pub(super) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}

/// Adds a setting, unless it is there: a file may say the same in two words. False if it was.
fn put(settings: &mut Vec<(&'static str, String)>, key: &'static str, value: String) -> bool {
    let new = !settings.iter().any(|(k, _)| *k == key);
    if new {
        settings.push((key, value));
    }
    new
}

/// Settings as a section; None without any.
fn section(settings: &[(&'static str, String)]) -> Option<String> {
    let all: Vec<String> = settings.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    (!all.is_empty()).then(|| format!("({})", all.join(", ")))
}

/// A time, to the millisecond; None beyond what the configuration takes.
fn span(number: f64, unit: f64) -> Option<Duration> {
    let millis = (number * unit * 1000.0).round();
    (0.0..=366.0 * 86_400_000.0).contains(&millis).then(|| Duration::from_millis(millis as u64))
}
