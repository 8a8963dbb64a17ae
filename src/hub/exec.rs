//! The built-in executor: an MCP server with one tool, `execute`, that runs allowed commands. On a WebSocket it also
//! speaks a protocol of its own, see [`direct`].
//!
//! Without `shell` no shell is ever involved: the program is looked up in the allow-list as a whole word and its
//! arguments are handed over as they are, so `;`, `$()`, line feeds and path tricks have no meaning.

mod command;
pub mod direct;
mod rest;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use event_listener::Event;
use log::{debug, info, warn};
use serde::Deserialize;

use super::Hub;
use super::call::Call;
use super::handover::unless_frozen;
use super::outbox::Outbox;
use super::session::Session;
use crate::model::config::server::{Allow, Exec};
use crate::model::envelope::{Envelope, quote};
use crate::model::jsonrpc;
use crate::model::mcp::{LATEST, Learnt};
use crate::model::text::{duration, printable};
use crate::rt::blocking::blocking;
use crate::rt::process::{environment, sweep_and_reap};
use crate::rt::wait::{Flag, until};
use crate::sys::lock::{Guard, Lock};
use crate::sys::spawn::{Spec, end_unwatched};
use command::{Work, attend, report};
use direct::Direct;
use stream::{Progress, Sink};

/// The executor of one server.
pub struct Executor {
    name: String,
    config: Lock<Arc<Exec>>,
    running: Lock<HashMap<u64, Running>>,
    numbers: AtomicU64,
    finished: Event,
}

/// One command on its way.
struct Running {
    pid: Option<i32>,
    owner: Owner,
    end: Arc<Flag>,
    /// What is seen to by nobody while everything is at rest.
    resting: Option<Work>,
}

/// Whose command it is.
enum Owner {
    /// Whoever it was hears no more of it.
    Nobody,
    /// A call of the tool; taken by whoever answers it.
    Call(Call),
    /// A session that has it for itself.
    Direct(Direct),
}

impl Owner {
    fn is_direct_of(&self, session: &Session) -> bool {
        matches!(self, Owner::Direct(direct) if direct.session.number == session.number)
    }

    fn take_call(&mut self, wanted: impl Fn(&Call) -> bool) -> Option<Call> {
        match std::mem::replace(self, Owner::Nobody) {
            Owner::Call(call) if wanted(&call) => Some(call),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Why a command is not run.
enum Refused {
    NotAllowed(String),
    Invalid(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    /// Seconds.
    timeout: Option<f64>,
}

#[derive(Deserialize)]
struct CallParams {
    name: String,
    #[serde(default)]
    arguments: serde_json::Value,
}

impl Executor {
    pub fn new(name: &str, config: Exec) -> Arc<Executor> {
        Arc::new(Executor {
            name: name.to_owned(),
            config: Lock::new(Arc::new(config)),
            running: Lock::default(),
            numbers: AtomicU64::new(0),
            finished: Event::new(),
        })
    }

    /// Says so where it does what anybody asks.
    pub fn warn(&self) {
        let (name, config) = (&self.name, self.config());
        match (&config.allow, &config.shell) {
            (Allow::All, Some(shell)) => {
                warn!("server '{name}' runs everything that a client asks for, by the shell {}", shell.display());
            }
            (Allow::All, None) => warn!("server '{name}' runs every program that a client asks for (allow: [\"*\"])"),
            _ => {}
        }
    }

    /// Takes over new settings; they count from the next command on.
    pub fn adjust(&self, config: Exec) {
        *self.config.lock() = Arc::new(config);
    }

    fn config(&self) -> Arc<Exec> {
        self.config.lock().clone()
    }

    fn running(&self) -> Guard<'_, HashMap<u64, Running>> {
        self.running.lock()
    }

    pub fn pids(&self) -> Vec<i32> {
        self.running().values().filter_map(|r| r.pid).collect()
    }

    /// What a child would say of itself in its handshake.
    pub fn learnt(&self) -> Learnt {
        let config = self.config();
        let what = match (&config.allow, &config.shell) {
            (_, Some(_)) => "command is a line for the shell".to_owned(),
            (Allow::All, None) => "command is the name or the full path of a program; there is no shell".to_owned(),
            (Allow::These(all), None) => {
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                format!("command is one of: {}; there is no shell", names.join(", "))
            }
        };
        Learnt {
            revision: LATEST.to_owned(),
            capabilities: [("tools".to_owned(), "{}".to_owned())].into(),
            server_info: format!(
                r#"{{"name":"mcpdaemon-exec","title":"Command executor","version":"{}"}}"#,
                env!("CARGO_PKG_VERSION")
            ),
            instructions: Some(quote(&format!("Runs commands on the server's host: {what}."))),
        }
    }

    /// Its tools, as the result of `tools/list`.
    pub(super) fn tools(&self) -> String {
        let config = self.config();
        let (mut command, limit) = (serde_json::json!({"type": "string"}), duration(config.timeout));
        let about = match (&config.allow, &config.shell) {
            (_, Some(shell)) => format!("A command line for {}", shell.display()),
            (Allow::All, None) => "The name or the full path of a program".to_owned(),
            (Allow::These(all), None) => {
                command["enum"] = all.keys().cloned().collect();
                "The program to run".to_owned()
            }
        };
        command["description"] = about.into();
        let nullable = serde_json::json!({"type": ["integer", "null"]});
        let text = serde_json::json!({"type": "string"});
        serde_json::json!({"tools": [{
            "name": "execute",
            "title": "Run a command",
            "description": format!(
                "Runs a command and returns its output and exit status. Its output also comes as progress while it \
                 runs. It is ended after {limit}, or after the timeout that is asked for."
            ),
            "inputSchema": {
                "type": "object",
                "properties": {
                    "command": command,
                    "args": {"type": "array", "items": {"type": "string"}, "description": "Its arguments, as they are"},
                    "timeout": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds"},
                },
                "required": ["command"],
                "additionalProperties": false,
            },
            "outputSchema": {
                "type": "object",
                "properties": {
                    "stdout": text, "stderr": text, "exit_code": nullable, "signal": nullable,
                    "timed_out": {"type": "boolean"}, "duration_ms": {"type": "integer"},
                },
                "required": ["stdout", "stderr", "exit_code", "signal", "timed_out", "duration_ms"],
            },
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "openWorldHint": true},
        }]})
        .to_string()
    }

    /// Answers a request of a client.
    pub fn request(self: &Arc<Self>, call: Call, e: &Envelope<'_>) {
        match e.method.as_ref() {
            "tools/list" => call.result(&self.tools()),
            "tools/call" => self.call(call, e.get(&e.params).unwrap_or("{}")),
            method => {
                let text = format!("the executor has no method '{}'", printable(method, 100));
                call.error(jsonrpc::METHOD_NOT_FOUND, &text);
            }
        }
    }

    fn call(self: &Arc<Self>, call: Call, params: &str) {
        let bad = |call: Call, text: String| call.error(jsonrpc::INVALID_PARAMS, &text);
        let params: CallParams = match serde_json::from_str(params) {
            Ok(params) => params,
            Err(e) => return bad(call, format!("params of tools/call: {e}")),
        };
        if params.name != "execute" {
            return bad(call, format!("unknown tool '{}': there is only 'execute'", printable(&params.name, 100)));
        }
        let arguments: Arguments = match serde_json::from_value(params.arguments) {
            Ok(arguments) => arguments,
            Err(e) => return bad(call, format!("arguments of 'execute': {e}")),
        };
        let config = self.config();
        let limit = match time_limit(&config, arguments.timeout) {
            Ok(limit) => limit,
            Err(why) => return bad(call, why),
        };
        match resolve(&config, &arguments) {
            Ok((program, args)) => {
                let (hub, sink) = (call.session.hub.clone(), Sink::Kept(Progress::of(&call, 0)));
                self.start(hub, Owner::Call(call), sink, config, program, args, limit);
            }
            // What is not allowed is a result that the model can read and act on, not a protocol error.
            Err(Refused::NotAllowed(why) | Refused::Invalid(why)) => call.result(&refusal(&why)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that makes a command")]
    fn start(
        self: &Arc<Self>,
        hub: Arc<Hub>,
        owner: Owner,
        sink: Sink,
        config: Arc<Exec>,
        program: PathBuf,
        args: Vec<String>,
        limit: Duration,
    ) {
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let end = Arc::new(Flag::default());
        self.running().insert(number, Running { pid: None, owner, end: end.clone(), resting: None });
        let me = self.clone();
        async_std::task::spawn(async move {
            let mark = hub.next_mark();
            // Its output goes into a pipe, where Python would keep it until there is much of it.
            let env = BTreeMap::from([("PYTHONUNBUFFERED".to_owned(), "1".to_owned())]);
            let spec = Spec {
                program: program.clone(),
                args,
                env: environment(
                    &config.pass_env,
                    env.iter().chain(&config.env),
                    config.confine.account.as_ref(),
                    &mark,
                ),
                cwd: config.cwd.clone(),
                stdin: false,
                umask: hub.config().umask.0,
                nofile: hub.boot.nofile,
                confine: config.confine.clone(),
            };
            info!("server '{}': runs {}", me.name, program.display());
            let process = match hub.boot.spawner.spawn(spec).await {
                Ok(process) => process,
                Err(e) => {
                    let why = format!("cannot start {}: {}", program.display(), crate::model::exit::plain(&e));
                    return me.unstarted(number, why);
                }
            };
            let pid = process.pid;
            match Work::new(process, mark, config.max_line.bytes(), sink, limit) {
                Ok(work) => {
                    me.begun(number, pid.as_raw());
                    me.see_to(number, work, end, hub).await;
                }
                Err(_) => {
                    end_unwatched(pid);
                    me.over(number, Err("cannot read its output: no descriptors are left".to_owned()));
                }
            }
        });
    }

    /// Sees to a command until its end, or until everything comes to rest.
    async fn see_to(self: Arc<Self>, number: u64, work: Work, end: Arc<Flag>, hub: Arc<Hub>) {
        let config = self.config();
        let left = work.until.saturating_duration_since(Instant::now());
        let streams = (&work.out, &work.err);
        let attended = async {
            let how = attend(&config, work.pid, &work.handle, streams, (left, work.limit), (&end, &hub.cut)).await;
            // Everything that it has said comes before its end is told, as fast as its client reads.
            futures_lite::future::zip(work.out.finish(), work.err.finish()).await;
            how
        };
        let Some(how) = unless_frozen(&hub, attended).await else {
            if let Some(running) = self.running().get_mut(&number) {
                running.resting = Some(work);
            }
            self.finished.notify(usize::MAX);
            return;
        };
        let strays = sweep_and_reap(work.pid, &work.handle, &work.mark).await;
        if strays.ended > 0 {
            debug!("server '{}': ended {} processes that a command left behind", self.name, strays.ended);
        }
        if self.running().get(&number).is_some_and(|r| matches!(r.owner, Owner::Direct(_))) {
            return self.completed(number, how, work.started.elapsed());
        }
        // A long output takes its time to be quoted: others must not wait for it.
        let (took, most) = (work.started.elapsed(), hub.config().limits.reply.bytes());
        let text = blocking(move || report(how, &work.out, &work.err, took, most)).await;
        self.over(number, Ok(text));
    }

    /// Takes a command off the list.
    fn remove(&self, number: u64) -> Option<Running> {
        let running = self.running().remove(&number);
        self.finished.notify(usize::MAX);
        running
    }

    /// A command could not be started. In a tool call that is a result, which the model can read and act on.
    fn unstarted(&self, number: u64, why: String) {
        let direct = self.running().get(&number).is_some_and(|r| matches!(r.owner, Owner::Direct(_)));
        self.over(number, if direct { Err(why) } else { Ok(refusal(&why)) });
    }

    /// A command has ended: whoever waits is told.
    fn over(&self, number: u64, result: Result<String, String>) {
        let owner = self.remove(number).map(|r| r.owner);
        let call = match owner {
            Some(Owner::Call(call)) => call,
            Some(Owner::Direct(mut direct)) => match direct.opening.take() {
                Some(call) => call,
                None => return,
            },
            // Cancelled: the call was taken by whoever cancelled it.
            Some(Owner::Nobody) | None => return,
        };
        match result {
            Ok(text) => call.result(&text),
            Err(why) => call.error(jsonrpc::INTERNAL_ERROR, &why),
        }
    }

    /// Ends the commands that fit; what their clients hear is the caller's affair.
    pub fn cancel(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        let mut taken = Vec::new();
        for running in self.running().values_mut() {
            if let Some(call) = running.owner.take_call(&wanted) {
                running.end.set();
                taken.push(call);
            }
        }
        taken
    }

    /// Ends all commands; those that wait are told.
    pub fn stop_all(&self) {
        let why = format!("the command was ended: server '{}' stops", self.name);
        let mut taken = Vec::new();
        for running in self.running().values_mut() {
            running.end.set();
            taken.extend(running.owner.take_call(|_| true));
            running.give_up(&why);
        }
        for call in taken {
            call.error(jsonrpc::INTERNAL_ERROR, &why);
        }
    }

    /// Whether a call that is to be answered there has a command running.
    pub(super) fn answers_to(&self, reply: &Arc<Outbox>) -> bool {
        self.running().values().any(|r| matches!(&r.owner, Owner::Call(call) if Arc::ptr_eq(&call.reply, reply)))
    }

    pub fn is_idle(&self) -> bool {
        self.running().is_empty()
    }

    /// How long a command may take to end after SIGTERM.
    pub fn grace(&self) -> Duration {
        self.config().stop_after
    }

    /// Waits until no command runs.
    pub async fn idle(&self) {
        until(&self.finished, || self.is_idle().then_some(())).await;
    }
}

/// How long a command may run, where a client asks for so many seconds.
fn time_limit(config: &Exec, asked: Option<f64>) -> Result<Duration, String> {
    match asked {
        None => Ok(config.timeout),
        Some(seconds) if seconds > 0.0 => {
            let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            Ok(limit.clamp(Duration::from_millis(1), config.timeout))
        }
        Some(_) => Err("'timeout' is a number of seconds above 0".to_owned()),
    }
}

/// The program and the arguments that a request stands for, if it is allowed.
fn resolve(config: &Exec, asked: &Arguments) -> Result<(PathBuf, Vec<String>), Refused> {
    let command = asked.command.as_str();
    if command.trim().is_empty() {
        return Err(Refused::NotAllowed("'command' is empty".to_owned()));
    }
    if command.contains('\0') || asked.args.iter().any(|a| a.contains('\0')) {
        return Err(Refused::NotAllowed("a NUL character cannot be part of a command".to_owned()));
    }
    if let Some(shell) = &config.shell {
        // The arguments become $1, $2, ... of the command line; $0 is the shell's own name for messages.
        let line = ["-c".to_owned(), command.to_owned(), "sh".to_owned()];
        return Ok((shell.clone(), line.into_iter().chain(asked.args.iter().cloned()).collect()));
    }
    let program = match &config.allow {
        Allow::These(all) => all.get(command).cloned().ok_or_else(|| {
            let names: Vec<&str> = all.keys().map(String::as_str).collect();
            let hint = match command.contains(char::is_whitespace) {
                true => " (arguments go into 'args')",
                false => "",
            };
            let command = printable(command, 100);
            Refused::NotAllowed(format!("Command '{command}' is not allowed{hint}; allowed: {}", names.join(", ")))
        })?,
        Allow::All => {
            let path = config.env.get("PATH").map(String::as_str);
            crate::sys::spawn::find_program(command, path).filter(|p| p.is_absolute()).ok_or_else(|| {
                let command = printable(command, 100);
                Refused::Invalid(match command.contains('/') && !command.starts_with('/') {
                    true => format!("'{command}' is no absolute path"),
                    false => format!("'{command}' was not found"),
                })
            })?
        }
    };
    Ok((program, asked.args.clone()))
}

/// The result of a tool call that did not run.
fn refusal(why: &str) -> String {
    serde_json::json!({"content": [{"type": "text", "text": why}], "isError": true}).to_string()
}
