//! The built-in executor: an MCP server with one tool, `execute`, that runs allowed commands.
//!
//! Without `shell` no shell is ever involved: the program is looked up in the allow-list as a whole word and its
//! arguments are handed over as they are, so `;`, `$()`, line feeds and path tricks have no meaning.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_io::Async;
use event_listener::Event;
use futures_lite::FutureExt;
use log::{debug, info, warn};
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::outbox::{Out, Outbox};
use super::session::Call;
use super::supervisor::environment;
use super::wait::{Flag, until, within};
use crate::model::config::server::{Allow, Exec};
use crate::model::envelope::{Envelope, quote};
use crate::model::jsonrpc;
use crate::model::mcp::{LATEST, Learnt};
use crate::model::restart::Ended;
use crate::model::text::{duration, printable};
use crate::sys::spawn::{Spec, signal_group};
use crate::sys::{process, reap};

/// The most of the output that one progress notification carries, in bytes.
const PROGRESS_CHUNK: usize = 64 << 10;
const PIPE_GRACE: Duration = Duration::from_millis(300);

/// The executor of one server.
pub struct Executor {
    name: String,
    config: Mutex<Arc<Exec>>,
    running: Mutex<HashMap<u64, Running>>,
    numbers: AtomicU64,
    finished: Event,
}

/// One command on its way.
struct Running {
    pid: Option<i32>,
    /// Taken by whoever answers it.
    call: Option<Call>,
    end: Arc<Flag>,
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

/// How a command came to its end.
enum Outcome {
    Ended(Ended),
    TimedOut(Duration),
    /// Nobody wants the answer.
    Cancelled,
}

impl Executor {
    pub fn new(name: &str, config: Exec) -> Arc<Executor> {
        match (&config.allow, &config.shell) {
            (Allow::All, Some(shell)) => {
                warn!("server '{name}' runs everything that a client asks for, by the shell {}", shell.display());
            }
            (Allow::All, None) => warn!("server '{name}' runs every program that a client asks for (allow: [\"*\"])"),
            _ => {}
        }
        Arc::new(Executor {
            name: name.to_owned(),
            config: Mutex::new(Arc::new(config)),
            running: Mutex::default(),
            numbers: AtomicU64::new(0),
            finished: Event::new(),
        })
    }

    /// Takes over new settings; they count from the next command on.
    pub fn adjust(&self, config: Exec) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    fn config(&self) -> Arc<Exec> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn tools(&self) -> String {
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
        let limit = match arguments.timeout.map(Duration::try_from_secs_f64) {
            None => config.timeout,
            Some(Ok(d)) if !d.is_zero() => d.min(config.timeout),
            Some(_) => return bad(call, "'timeout' is a number of seconds above 0".to_owned()),
        };
        match resolve(&config, &arguments) {
            Ok((program, args)) => self.start(call, config, program, args, limit),
            // What is not allowed is a result that the model can read and act on, not a protocol error.
            Err(why) => call.result(&refusal(&why)),
        }
    }

    fn start(self: &Arc<Self>, call: Call, config: Arc<Exec>, program: PathBuf, args: Vec<String>, limit: Duration) {
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let end = Arc::new(Flag::default());
        let progress =
            call.token.clone().map(|token| Progress { token, reply: call.reply.clone(), bytes: Arc::default() });
        let hub = call.session.hub.clone();
        self.running().insert(number, Running { pid: None, call: Some(call), end: end.clone() });
        let me = self.clone();
        async_std::task::spawn(async move {
            let mark = hub.next_mark();
            let started = Instant::now();
            let spec = Spec {
                program: program.clone(),
                args,
                env: environment(&config.pass_env, config.env.iter(), &mark),
                cwd: config.cwd.clone(),
                stdin: false,
                umask: hub.config().umask.0,
                nofile: hub.boot.nofile,
            };
            info!("server '{}': runs {}", me.name, program.display());
            let result = match hub.boot.spawner.spawn(spec).await {
                Err(e) => {
                    Ok(refusal(&format!("cannot start {}: {}", program.display(), crate::model::exit::plain(&e))))
                }
                Ok(process) => {
                    let pid = process.pid;
                    if let Some(running) = me.running().get_mut(&number) {
                        running.pid = Some(pid.as_raw());
                    }
                    let kept = config.max_line.bytes();
                    let out = Stream::new(process.stdout, kept, progress.clone());
                    let err = Stream::new(process.stderr, kept, progress);
                    let outcome = match (out, err, Async::new(process.handle)) {
                        (Ok(out), Ok(err), Ok(handle)) => {
                            attend(&config, pid, handle, &out, &err, limit, &end).await.map(|how| (how, out, err))
                        }
                        _ => Err("cannot read its output: no descriptors are left".to_owned()),
                    };
                    reap::forget(pid);
                    let sweep =
                        move || process::end_marked(|m| m == mark, Duration::from_secs(1), Duration::from_secs(5));
                    let (strays, _) = async_std::task::spawn_blocking(sweep).await;
                    if strays > 0 {
                        debug!("server '{}': ended {strays} processes that a command left behind", me.name);
                    }
                    reap::sweep();
                    outcome.map(|(how, out, err)| report(how, &out, &err, started.elapsed()))
                }
            };
            let call = me.running().remove(&number).and_then(|r| r.call);
            me.finished.notify(usize::MAX);
            match (call, result) {
                (Some(call), Ok(text)) => call.result(&text),
                (Some(call), Err(why)) => call.error(jsonrpc::INTERNAL_ERROR, &why),
                // Cancelled: the call was taken by whoever cancelled it.
                (None, _) => {}
            }
        });
    }

    /// Ends the commands that fit; they are not answered.
    pub fn cancel(&self, wanted: impl Fn(&Call) -> bool) {
        let mut taken = Vec::new();
        for running in self.running().values_mut() {
            if running.call.as_ref().is_some_and(&wanted) {
                running.end.set();
                taken.extend(running.call.take());
            }
        }
        for call in taken {
            if call.session.transport == super::session::Transport::Http {
                call.reply.end();
            }
        }
    }

    /// Ends all commands; those that wait are told.
    pub fn stop_all(&self) {
        let mut taken = Vec::new();
        for running in self.running().values_mut() {
            running.end.set();
            taken.extend(running.call.take());
        }
        for call in taken {
            call.error(jsonrpc::INTERNAL_ERROR, &format!("the command was ended: server '{}' stops", self.name));
        }
    }

    /// Waits until no command runs.
    pub async fn idle(&self) {
        until(&self.finished, || self.running().is_empty().then_some(())).await;
    }
}

/// The program and the arguments that a request stands for, if it is allowed.
fn resolve(config: &Exec, asked: &Arguments) -> Result<(PathBuf, Vec<String>), String> {
    let command = asked.command.as_str();
    if command.trim().is_empty() {
        return Err("'command' is empty".to_owned());
    }
    if command.contains('\0') || asked.args.iter().any(|a| a.contains('\0')) {
        return Err("a NUL character cannot be part of a command".to_owned());
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
            format!("'{}' is not allowed{hint}; allowed: {}", printable(command, 100), names.join(", "))
        })?,
        Allow::All => {
            let path = config.env.get("PATH").map(String::as_str);
            crate::sys::spawn::find_program(command, path)
                .filter(|p| p.is_absolute())
                .ok_or_else(|| format!("'{}' was not found", printable(command, 100)))?
        }
    };
    Ok((program, asked.args.clone()))
}

/// Waits for a command's end, its time limit, or somebody who no longer wants it; then nothing of its group is left.
async fn attend(
    config: &Exec,
    pid: nix::unistd::Pid,
    handle: Async<crate::sys::pidfd::PidFd>,
    out: &Stream,
    err: &Stream,
    limit: Duration,
    end: &Flag,
) -> Result<Outcome, String> {
    let finished = async {
        let reading = async {
            futures_lite::future::zip(out.read(), err.read()).await;
        };
        let exit = async {
            let _ = handle.readable().await;
            // A grandchild that holds a pipe open does not hold us.
            super::wait::sleep(PIPE_GRACE).await;
        };
        reading.or(exit).await;
        let _ = handle.readable().await;
        let ended = handle.get_ref().reap().ok().flatten();
        Outcome::Ended(ended.unwrap_or(Ended::NotReady))
    };
    let late = async {
        super::wait::sleep(limit).await;
        Outcome::TimedOut(limit)
    };
    let unwanted = async {
        end.wait().await;
        Outcome::Cancelled
    };
    let outcome = finished.or(unwanted).or(late).await;
    if !matches!(outcome, Outcome::Ended(_)) {
        signal_group(pid, Signal::SIGTERM);
        let down = async {
            let _ = handle.readable().await;
        };
        if within(config.stop_after, down).await.is_none() {
            signal_group(pid, Signal::SIGKILL);
            let _ = handle.readable().await;
        }
        let _ = handle.get_ref().reap();
        within(PIPE_GRACE, async {
            out.read().await;
            err.read().await;
        })
        .await;
    }
    Ok(outcome)
}

/// Where output is reported while the command runs.
#[derive(Clone)]
struct Progress {
    token: Box<str>,
    reply: Arc<Outbox>,
    /// Of both streams: progress must increase with each notification (2025-11-25 basic/utilities/progress).
    bytes: Arc<AtomicU64>,
}

/// One output stream of a command.
struct Stream {
    pipe: Async<File>,
    limit: usize,
    progress: Option<Progress>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    cut: u64,
    /// Up to here it was sent as progress.
    sent: usize,
    at_end: bool,
}

impl Stream {
    fn new(fd: std::os::fd::OwnedFd, limit: usize, progress: Option<Progress>) -> std::io::Result<Stream> {
        Ok(Stream { pipe: Async::new(File::from(fd))?, limit, progress, kept: Mutex::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads to the end.
    async fn read(&self) {
        let mut buffer = vec![0; 64 << 10];
        let mut slice = Instant::now();
        while !self.kept().at_end {
            match self.pipe.get_ref().read(&mut buffer) {
                Ok(n) => {
                    self.keep(&buffer[..n]);
                    if slice.elapsed() > Duration::from_micros(500) {
                        let _ = within(Duration::from_millis(1), self.pipe.readable()).await;
                        slice = Instant::now();
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if self.pipe.readable().await.is_err() {
                        return;
                    }
                    slice = Instant::now();
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.kept();
        kept.at_end = bytes.is_empty();
        let room = self.limit.saturating_sub(kept.bytes.len()).min(bytes.len());
        kept.bytes.extend_from_slice(&bytes[..room]);
        kept.cut += (bytes.len() - room) as u64;
        let Some(progress) = &self.progress else { return };
        // Whole lines, unless one is longer than a chunk or the stream has ended.
        let unsent = &kept.bytes[kept.sent..];
        let ready = match memchr::memrchr(b'\n', unsent) {
            Some(at) => at + 1,
            None if kept.at_end || unsent.len() >= PROGRESS_CHUNK => unsent.len(),
            None => 0,
        };
        let mut from = kept.sent;
        let to = kept.sent + ready;
        while from < to {
            let until = (from + PROGRESS_CHUNK).min(to);
            let text = quote(&String::from_utf8_lossy(&kept.bytes[from..until]));
            let total = progress.bytes.fetch_add((until - from) as u64, SeqCst) + (until - from) as u64;
            let token = &progress.token;
            let params = format!(r#"{{"progressToken":{token},"progress":{total},"message":{text}}}"#);
            let text = jsonrpc::notification("notifications/progress", Some(&params));
            progress.reply.push(Out { text, answer: false, failed: false });
            from = until;
        }
        kept.sent = to;
    }

    fn text(&self) -> String {
        let kept = self.kept();
        let mut text = String::from_utf8_lossy(&kept.bytes).into_owned();
        if kept.cut > 0 {
            text.push_str(&format!("\n[{} more bytes were cut: max_line is {} bytes]", kept.cut, self.limit));
        }
        text
    }
}

/// The result of a tool call that ran.
fn report(outcome: Outcome, out: &Stream, err: &Stream, took: Duration) -> String {
    let (stdout, stderr) = (out.text(), err.text());
    let (code, signal) = match outcome {
        Outcome::Ended(Ended::Exited(code)) => (Some(code), None),
        Outcome::Ended(Ended::Signaled(signal)) => (None, Some(signal)),
        _ => (None, None),
    };
    let mut content = Vec::new();
    let mut say = |text: &str| {
        if !text.is_empty() {
            content.push(serde_json::json!({"type": "text", "text": text}));
        }
    };
    say(&stdout);
    say(&stderr);
    match outcome {
        Outcome::Ended(Ended::Exited(0)) => {}
        Outcome::Ended(ended) => say(&super::link::exit_text(ended)),
        Outcome::TimedOut(limit) => say(&format!("ended after {}: the time limit", duration(limit))),
        Outcome::Cancelled => say("cancelled"),
    }
    serde_json::json!({
        "content": content,
        "structuredContent": {
            "stdout": stdout, "stderr": stderr, "exit_code": code, "signal": signal,
            "timed_out": matches!(outcome, Outcome::TimedOut(_)), "duration_ms": took.as_millis() as u64,
        },
        "isError": code != Some(0),
    })
    .to_string()
}

/// The result of a tool call that did not run.
fn refusal(why: &str) -> String {
    serde_json::json!({"content": [{"type": "text", "text": why}], "isError": true}).to_string()
}
