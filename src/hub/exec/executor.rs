//! The built-in executor: runs allowed commands, each from its start to its end.
//!
//! Without `shell` no shell is ever involved: the program is looked up in the allow-list as a whole word and its
//! arguments are handed over as they are, so `;`, `$()`, line feeds and path tricks have no meaning.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event;
use futures_lite::FutureExt;
use log::{debug, info, warn};
use serde::Deserialize;

use super::allowed::{Arguments, Refused, resolve, time_limit, too_long};
use super::command::{Outcome, Work, report};
use super::output::{Keep, Progress, Sink};
use super::owner::{Owner, Running, notify_client};
use crate::hub::client::call::Call;
use crate::hub::client::outbox::Outbox;
use crate::hub::context::{Context, Quiesce};
use crate::hub::counters::Dropped;
use crate::hub::server::core::Core;
use crate::model::budget::Holder;
use crate::model::config::server::{Allow, Exec};
use crate::model::envelope::{Envelope, quote};
use crate::model::mcp::{LATEST, ServerInfo};
use crate::model::restart::Ended;
use crate::model::text::{duration, printable};
use crate::model::{jsonrpc, method};
use crate::rt::blocking::busy;
use crate::rt::live::Live;
use crate::rt::process::{environment, exit_text, sweep_and_reap};
use crate::rt::task;
use crate::rt::wait::{Flag, sleep, timeout, until};
use crate::sys::lock::{Guard, Lock};
use crate::sys::spawn::{Spec, end_unwatched};

/// Beyond its own grace time, how long an executor may take to end its commands.
const GRACE: Duration = Duration::from_secs(10);

/// The executor of one server.
pub(crate) struct Executor {
    /// The name of the server.
    pub(super) name: Arc<str>,
    pub(super) ctx: Arc<Context>,
    pub(super) me: Weak<Executor>,
    config: Live<Exec>,
    running: Lock<HashMap<u64, Running>>,
    numbers: AtomicU64,
    pub(super) finished: Event,
    /// No more commands: another has taken its place, or the server is removed.
    pub(super) retired: Flag,
    /// All commands were ended.
    stopped: Flag,
    /// It was said in the log that it runs everything.
    pub(super) warned: Flag,
}

/// A command that is to be run.
pub(crate) struct Order {
    pub owner: Owner,
    pub sink: Sink,
    pub config: Arc<Exec>,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub limit: Duration,
}

#[derive(Deserialize)]
struct CallParams {
    name: String,
    #[serde(default)]
    arguments: serde_json::Value,
}

impl Executor {
    pub(crate) fn new(core: &Core, config: Exec) -> Arc<Executor> {
        let executor = Arc::new_cyclic(|me: &Weak<Executor>| Executor {
            name: core.name.clone(),
            ctx: core.ctx.clone(),
            me: me.clone(),
            config: Live::of(Arc::new(config)),
            running: Lock::default(),
            numbers: AtomicU64::new(0),
            finished: Event::new(),
            retired: Flag::default(),
            stopped: Flag::default(),
            warned: Flag::default(),
        });
        let one: Arc<dyn Quiesce> = executor.clone();
        core.ctx.note_quiescing(Arc::downgrade(&one));
        executor
    }

    /// Says so where it does what anybody asks.
    pub(crate) fn warn(&self) {
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
    pub(crate) fn set_config(&self, config: Exec) {
        self.config.set(Arc::new(config));
    }

    pub(crate) fn config(&self) -> Arc<Exec> {
        self.config.get()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, SeqCst) + 1
    }

    pub(super) fn running(&self) -> Guard<'_, HashMap<u64, Running>> {
        self.running.lock()
    }

    pub(crate) fn command_pids(&self) -> Vec<i32> {
        self.running().values().filter_map(|r| r.pid).collect()
    }

    /// What a child would say of itself in its handshake.
    pub(crate) fn server_info(&self) -> ServerInfo {
        let config = self.config();
        let what = match (&config.allow, &config.shell) {
            (_, Some(_)) => "command is a line for the shell".to_owned(),
            (Allow::All, None) => "command is the name or the full path of a program; there is no shell".to_owned(),
            (Allow::These(all), None) => {
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                format!("command is one of: {}; there is no shell", names.join(", "))
            }
        };
        ServerInfo {
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
    pub(crate) fn tools(&self) -> String {
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
    pub(crate) fn answer(&self, call: Call, e: &Envelope<'_>) {
        match e.method.as_ref() {
            method::TOOLS_LIST => call.result(&self.tools()),
            method::TOOLS_CALL => self.call(call, e.get(&e.params).unwrap_or("{}")),
            method => {
                let text = format!("the executor has no method '{}'", printable(method, 100));
                call.error(jsonrpc::METHOD_NOT_FOUND, &text);
            }
        }
    }

    fn call(&self, call: Call, params: &str) {
        let bad = |call: Call, text: String| call.error(jsonrpc::INVALID_PARAMS, &text);
        if let Some(why) = too_long(params) {
            return bad(call, why);
        }
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
                let sink = Sink::Kept(Progress::of(&call, 0));
                self.start(Order { owner: Owner::Call(call), sink, config, program, args, limit });
            }
            // What is not allowed is a result that the model can read and act on, not a protocol error.
            Err(Refused::NotAllowed(why) | Refused::Invalid(why)) => call.result(&refusal(&why)),
        }
    }

    /// Why there is no place for one command more; None if there is one.
    fn no_place(&self, order: &Order) -> Option<String> {
        let running = self.running();
        let (all, own) = (order.config.commands as usize, order.config.session_commands as usize);
        let session = order.owner.session();
        let of_session = || running.values().filter(|r| session.is_some() && r.owner.session() == session).count();
        match running.len() {
            n if n >= all => {
                Some(format!("{n} commands run at the moment, and no more may (commands): try again later"))
            }
            _ if of_session() >= own => Some(format!(
                "{own} commands of this session run at the moment, and no more may (session_commands): try again later"
            )),
            _ => None,
        }
    }

    /// What is kept of a command's output. A result has room for no more than `limits.reply`.
    pub(super) fn keep(&self, holder: Holder, sink: &Sink) -> Keep<'_> {
        let most = self.config().max_line.bytes();
        let most = match sink {
            Sink::Kept(_) => most.min(self.ctx.config().limits.reply.bytes() / 2),
            Sink::Lines(_) => most,
        };
        Keep { memory: &self.ctx.memory, holder, most }
    }

    /// Begins to run a command.
    pub(crate) fn start(&self, order: Order) {
        let Some(me) = self.me.upgrade() else { return };
        if let Some(why) = self.no_place(&order) {
            self.ctx.counters.count(Dropped::Commands);
            return order.owner.refuse(&why);
        }
        let number = self.next_number();
        let end = Arc::new(Flag::default());
        let holder = order.owner.holder();
        let running = Running { pid: None, owner: order.owner, end: end.clone(), quiesced: None };
        self.running().insert(number, running);
        let Order { sink, config, program, args, limit, .. } = Order { owner: Owner::Nobody, ..order };
        task::spawn(async move {
            let ctx = &me.ctx;
            let mark = ctx.next_mark();
            let env = environment(&config.environment, config.confine.account.as_ref(), &mark).await;
            let spec = Spec {
                program: program.clone(),
                args,
                env,
                cwd: config.cwd.clone(),
                stdin: false,
                umask: ctx.config().umask.0,
                nofile: ctx.boot.nofile,
                confine: config.confine.clone(),
            };
            info!("server '{}': runs {}", me.name, program.display());
            let process = match ctx.boot.spawner.spawn(spec).await {
                Ok(process) => process,
                Err(e) => {
                    let why = format!("cannot start {}: {}", program.display(), crate::model::exit::plain(&e));
                    return me.unstarted(number, why);
                }
            };
            let pid = process.pid;
            match Work::new(process, mark, &me.keep(holder, &sink), sink, limit) {
                Ok(work) => {
                    me.begun(number, pid.as_raw());
                    me.see_to(number, work, end).await;
                }
                Err(_) => {
                    end_unwatched(pid);
                    me.over(number, Err("cannot read its output: no descriptors are left".to_owned()));
                }
            }
        });
    }

    /// Sees to a command until its end, or until everything comes to rest.
    pub(super) async fn see_to(self: Arc<Self>, number: u64, work: Work, end: Arc<Flag>) {
        let attended = async {
            let how = work.run(self.grace(), &end, &self.ctx.kill_now).await;
            // Everything that it has said comes before its end is told, as fast as its client reads.
            futures_lite::future::zip(work.out.finish(), work.err.finish()).await;
            how
        };
        let Some(how) = self.ctx.unless_quiescing(attended).await else {
            if let Some(running) = self.running().get_mut(&number) {
                running.quiesced = Some(work);
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
        // A long output takes its time and memory to be quoted: others must not wait for it, and few do it at a time.
        let (took, most) = (work.started.elapsed(), self.ctx.config().limits.reply.bytes());
        let me = self.clone();
        let tell = move || me.over(number, Ok(report(how, &work.out, &work.err, took, most)));
        busy(tell).await;
    }

    /// Takes a command off the list.
    pub(super) fn remove(&self, number: u64) -> Option<Running> {
        let running = self.running().remove(&number);
        self.finished.notify(usize::MAX);
        running
    }

    /// A command could not be started. In a tool call that is a result, which the model can read and act on.
    fn unstarted(&self, number: u64, why: String) {
        let direct = self.running().get(&number).is_some_and(|r| matches!(r.owner, Owner::Direct(_)));
        self.over(number, if direct { Err(why) } else { Ok(refusal(&why)) });
    }

    /// A command has ended: a client that waits is told.
    pub(super) fn over(&self, number: u64, result: Result<String, String>) {
        let owner = self.remove(number).map(|r| r.owner);
        let call = match owner {
            Some(Owner::Call(call)) => call,
            Some(Owner::Direct(mut direct)) => match direct.opening.take() {
                Some(call) => call,
                None => return,
            },
            // Cancelled: the call was taken before.
            Some(Owner::Nobody) | None => return,
        };
        match result {
            Ok(text) => call.result(&text),
            Err(why) => call.error(jsonrpc::INTERNAL_ERROR, &why),
        }
    }

    /// A command has started: its client is told its number.
    pub(super) fn begun(&self, number: u64, pid: i32) {
        let (opening, reply, queued) = {
            let mut all = self.running();
            let Some(running) = all.get_mut(&number) else { return };
            running.pid = Some(pid);
            let Owner::Direct(direct) = &mut running.owner else { return };
            (direct.opening.take(), direct.reply.clone(), std::mem::take(&mut direct.queued))
        };
        if let Some(call) = opening {
            info!("server '{}': a session's command is process {pid}", self.name);
            call.result(&format!(r#"{{"status":"started","pid":{pid},"pgid":{pid}}}"#));
        }
        let params = format!(r#"{{"status":"started","pid":{pid},"pgid":{pid},"exit_code":null,"error":null}}"#);
        notify_client(&reply, "started", &params);
        queued.into_iter().for_each(|(call, wanted)| self.control(call, &wanted));
    }

    /// A command of a session has ended.
    pub(super) fn completed(&self, number: u64, how: Outcome, took: Duration) {
        let Some(running) = self.remove(number) else { return };
        let Owner::Direct(direct) = &running.owner else { return };
        let (code, trouble) = match how {
            Outcome::Ended(Ended::Exited(code)) => (Some(code), None),
            Outcome::Ended(ended @ Ended::Signaled(signal)) => (Some(-signal), Some(exit_text(ended))),
            Outcome::Ended(ended) => (None, Some(exit_text(ended))),
            Outcome::TimedOut(limit) => (None, Some(format!("timed out: it was ended after {}", duration(limit)))),
            Outcome::Cancelled => (None, direct.cancelled.then(|| "canceled".to_owned())),
        };
        direct.complete(running.pid, code, trouble.as_deref(), took);
    }

    /// Ends the commands that fit; what their clients hear is the caller's affair.
    pub(crate) fn cancel_where(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
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
    pub(crate) fn stop_all(&self) {
        self.stopped.set();
        let why = format!("the command was ended: server '{}' stops", self.name);
        let (mut calls, mut own) = (Vec::new(), Vec::new());
        for running in self.running().values_mut() {
            running.end.set();
            calls.extend(running.owner.take_call(|_| true));
            own.extend(running.take_direct());
        }
        for call in calls {
            call.error(jsonrpc::INTERNAL_ERROR, &why);
        }
        for (direct, pid) in own {
            direct.fail(pid, &why);
        }
    }

    /// Whether a call that is to be answered there has a command running.
    pub(crate) fn answers_to(&self, reply: &Arc<Outbox>) -> bool {
        self.running().values().any(|r| matches!(&r.owner, Owner::Call(call) if Arc::ptr_eq(&call.reply, reply)))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running().is_empty()
    }

    /// How long a command may take to end after SIGTERM.
    pub(crate) fn grace(&self) -> Duration {
        self.config().stop_after
    }

    /// Waits until no command runs; once all were ended, for a limited time.
    pub(crate) async fn idle(&self) {
        let idle = until(&self.finished, || self.is_idle().then_some(()));
        let late = async {
            self.stopped.wait().await;
            sleep(self.grace() + GRACE).await;
        };
        idle.or(late).await;
    }

    /// Lets its commands finish within the drain time, then ends them.
    pub(crate) fn finish(&self) {
        self.retired.set();
        let Some(me) = self.me.upgrade() else { return };
        let limit = self.ctx.config().drain_timeout;
        task::spawn(async move {
            if timeout(limit, me.idle()).await.is_none() {
                me.stop_all();
            }
        });
    }
}

/// The result of a tool call that did not run.
fn refusal(why: &str) -> String {
    serde_json::json!({"content": [{"type": "text", "text": why}], "isError": true}).to_string()
}
