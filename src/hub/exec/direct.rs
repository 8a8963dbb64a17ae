//! The executor's own protocol, beside MCP on a WebSocket: `execute` starts a command whose output comes line by line,
//! `control` pauses, resumes and cancels it.
//!
//! This is the protocol of cc_executor, whose clients know nothing of MCP: they connect, perhaps wait for `connected`,
//! send `execute`, and read notifications until `process.completed`. mcpdaemon(7) lists what is the same and what is not.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use log::info;
use serde::Deserialize;

use super::command::Outcome;
use super::stream::Sink;
use super::{Arguments, Executor, Owner, Refused, Running, resolve, time_limit};
use crate::hub::call::Call;
use crate::hub::outbox::Outbox;
use crate::hub::route;
use crate::hub::session::Session;
use crate::model::config::server::Exec;
use crate::model::envelope::{Envelope, Kind, quote};
use crate::model::method::Method;
use crate::model::out::Out;
use crate::model::restart::Ended;
use crate::model::text::{duration, printable};
use crate::model::transport::{SessionKind, Transport};
use crate::model::{jsonrpc, words};
use crate::rt::process::exit_text;
use crate::sys::spawn::pause_group;

/// The command is not on the allow-list. These three numbers are cc_executor's.
const NOT_ALLOWED: i32 = -32001;
/// There is no command to control.
const NO_PROCESS: i32 = -32002;
/// Too many sessions.
pub const TOO_MANY: i32 = -32003;

/// The methods of this protocol.
const METHODS: [&str; 2] = ["execute", "control"];

/// A command of a session, for as long as it runs.
pub struct Direct {
    pub(super) session: Arc<Session>,
    pub(super) reply: Arc<Outbox>,
    /// The request that started it, until it has.
    pub(super) opening: Option<Call>,
    /// What its client wants of it, before it has started.
    queued: Vec<(Call, String)>,
    /// Its client has cancelled it.
    pub(super) cancelled: bool,
    pub(super) since: Instant,
}

impl Direct {
    pub(super) fn new(session: &Arc<Session>, reply: &Arc<Outbox>) -> Direct {
        // It is not idle, and a drain waits for it.
        session.in_flight.fetch_add(1, SeqCst);
        session.hub.in_flight.fetch_add(1, SeqCst);
        Direct {
            session: session.clone(),
            reply: reply.clone(),
            opening: None,
            queued: Vec::new(),
            cancelled: false,
            since: Instant::now(),
        }
    }

    fn tell(&self, what: &str, params: &str) {
        let text = jsonrpc::notification(&format!("process.{what}"), Some(params));
        self.reply.push(Out::notice(text));
    }

    /// The last that is heard of it.
    fn complete(&self, pid: Option<i32>, code: Option<i32>, trouble: Option<&str>, took: Duration) {
        let number = |n: Option<i32>| n.map_or("null".to_owned(), |n| n.to_string());
        let params = format!(
            concat!(
                r#"{{"status":"{}","pid":{pid},"pgid":{pid},"exit_code":{},"error":{},"execution_time":{:.3},"#,
                r#""early_completion_detected":false,"early_completion_time":null,"time_saved":null,"#,
                r#""completion_marker":null}}"#
            ),
            if code == Some(0) { "completed" } else { "failed" },
            number(code),
            trouble.map_or("null".to_owned(), quote),
            took.as_secs_f64(),
            pid = number(pid),
        );
        self.tell("completed", &params);
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        for (call, _) in self.queued.drain(..) {
            call.error(NO_PROCESS, "No process is running");
        }
        self.session.in_flight.fetch_sub(1, SeqCst);
        self.session.hub.in_flight.fetch_sub(1, SeqCst);
    }
}

#[derive(Deserialize)]
struct Execute {
    command: String,
    /// Where they are given, the command is the program alone.
    args: Option<Vec<String>>,
    /// Seconds.
    timeout: Option<f64>,
}

#[derive(Deserialize)]
struct Control {
    r#type: String,
}

/// What the server says first to a client of this protocol.
pub fn connected() -> String {
    let params = format!(
        r#"{{"session_id":"{}","version":"{}","capabilities":["execute","control","stream"]}}"#,
        crate::rt::random::uuid(),
        env!("CARGO_PKG_VERSION")
    );
    jsonrpc::notification("connected", Some(&params))
}

/// Whether a message is of this protocol, which is spoken on a WebSocket to an executor, beside MCP.
pub(in crate::hub) fn is_of_it(session: &Session, e: &Envelope<'_>) -> bool {
    let own = e.kind == Kind::Request && METHODS.contains(&e.method.as_ref());
    own && session.kind == SessionKind::Lasting(Transport::WebSocket)
        && (session.executing().is_some() || running(session).is_some())
}

/// The executor that runs a command for a session; a reload may have replaced it meanwhile.
fn running(session: &Session) -> Option<Arc<Executor>> {
    route::executors(session).into_iter().find(|exec| exec.of_session(session))
}

/// Answers a request of this protocol.
pub(in crate::hub) fn request(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) {
    session.touch();
    session.note_use();
    let (method, id) = (Method::of(&e.method), e.get(&e.id).unwrap_or("null"));
    let (running, params) = (running(session), e.get(&e.params).unwrap_or("{}"));
    if method == Method::Control || running.is_some() {
        // Also in a drain, and where the command itself is all that the session may have open.
        let call = session.reopen(method, id, e.get(&e.progress_token), reply);
        return match method {
            Method::Control => control(running.as_deref(), call, params),
            _ => call.error(jsonrpc::INVALID_PARAMS, "A process is already running"),
        };
    }
    let Some(call) = route::opened(session, e, reply) else { return };
    match (takes_place(session), session.executing().and_then(|s| s.executor())) {
        (Ok(()), Some(exec)) => exec.execute(call, params),
        (Err(why), _) => call.error(TOO_MANY, &format!("Session limit exceeded: {why}")),
        (Ok(()), None) => call.error(jsonrpc::METHOD_NOT_FOUND, "there is no executor here any more"),
    }
}

/// A session of the bridge takes one of the places of the executor that it uses; the error says that there is none.
pub fn takes_place(session: &Arc<Session>) -> Result<(), String> {
    match session.executing() {
        Some(server) if session.bridge().is_some() => session.part(&server).map(drop),
        _ => Ok(()),
    }
}

/// Answers `control`, for what an executor runs for the session, if any does.
fn control(exec: Option<&Executor>, call: Call, params: &str) {
    match (serde_json::from_str::<Control>(params), exec) {
        (Ok(wanted), Some(exec)) => exec.control(call, &wanted.r#type),
        (Ok(_), None) => call.error(NO_PROCESS, "No process is running"),
        (Err(e), _) => {
            let why = format!("params of control: {e}; \"type\" is \"PAUSE\", \"RESUME\" or \"CANCEL\"");
            call.error(jsonrpc::INVALID_PARAMS, &why);
        }
    }
}

impl Executor {
    /// Answers `execute`.
    fn execute(self: &Arc<Self>, call: Call, params: &str) {
        let asked: Execute = match serde_json::from_str(params) {
            Ok(asked) => asked,
            Err(e) => return call.error(jsonrpc::INVALID_PARAMS, &format!("params of execute: {e}")),
        };
        let config = self.config();
        let limit = match time_limit(&config, asked.timeout) {
            Ok(limit) => limit,
            Err(why) => return call.error(jsonrpc::INVALID_PARAMS, &why),
        };
        let found = words_of(&config, asked).and_then(|asked| resolve(&config, &asked));
        match found {
            Ok((program, args)) => {
                let reply = call.reply.clone();
                let mut direct = Direct::new(&call.session, &reply);
                direct.opening = Some(call);
                let hub = direct.session.hub.clone();
                self.start(hub, Owner::Direct(direct), Sink::Lines(reply), config, program, args, limit);
            }
            Err(Refused::NotAllowed(why)) => call.error(NOT_ALLOWED, &why),
            Err(Refused::Invalid(why)) => call.error(jsonrpc::INVALID_PARAMS, &why),
        }
    }

    /// Whether it runs a command that this session has for itself.
    fn of_session(&self, session: &Session) -> bool {
        self.running().values().any(|r| r.owner.is_direct_of(session))
    }

    fn control(&self, call: Call, wanted: &str) {
        let mut all = self.running();
        let own = all.values_mut().find(|r| r.owner.is_direct_of(&call.session));
        let Some(running) = own else {
            drop(all);
            return call.error(NO_PROCESS, "No process is running");
        };
        let (pid, end) = (running.pid, running.end.clone());
        let Owner::Direct(direct) = &mut running.owner else { return };
        let Some(pid) = pid else { return direct.queued.push((call, wanted.to_owned())) };
        let leader = nix::unistd::Pid::from_raw(pid);
        let done = match wanted {
            "PAUSE" => pause_group(leader, true).map(|()| "paused"),
            "RESUME" => pause_group(leader, false).map(|()| "resumed"),
            "CANCEL" => {
                direct.cancelled = true;
                end.set();
                Ok("canceled")
            }
            other => {
                let why = format!("there is no control '{}': it is PAUSE, RESUME or CANCEL", printable(other, 40));
                drop(all);
                return call.error(jsonrpc::INVALID_PARAMS, &why);
            }
        };
        match done {
            Ok(status) => {
                call.result(&format!(r#"{{"status":"{status}"}}"#));
                direct.tell(status, &format!(r#"{{"status":"{status}","pid":{pid},"pgid":{pid}}}"#));
            }
            // It has ended this moment, and `process.completed` is on its way.
            Err(_) => {
                drop(all);
                call.error(NO_PROCESS, "No process is running");
            }
        }
    }

    /// A session is over: what runs for it ends, and nobody hears of it.
    pub fn leave(&self, session: &Session) {
        for running in self.running().values_mut().filter(|r| r.owner.is_direct_of(session)) {
            running.owner = Owner::Nobody;
            running.end.set();
        }
    }

    /// A command has started: its client is told its number.
    pub(super) fn begun(&self, number: u64, pid: i32) {
        let mut all = self.running();
        let Some(running) = all.get_mut(&number) else { return };
        running.pid = Some(pid);
        let Owner::Direct(direct) = &mut running.owner else { return };
        if let Some(call) = direct.opening.take() {
            info!("server '{}': a session's command is process {pid}", self.name);
            call.result(&format!(r#"{{"status":"started","pid":{pid},"pgid":{pid}}}"#));
        }
        let params = format!(r#"{{"status":"started","pid":{pid},"pgid":{pid},"exit_code":null,"error":null}}"#);
        direct.tell("started", &params);
        let queued = std::mem::take(&mut direct.queued);
        drop(all);
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
}

impl Running {
    /// The server stops: whoever has this command for itself is told that it is over, which it is about to be.
    pub(super) fn give_up(&mut self, why: &str) {
        match std::mem::replace(&mut self.owner, Owner::Nobody) {
            Owner::Direct(mut direct) => match direct.opening.take() {
                Some(call) => call.error(jsonrpc::INTERNAL_ERROR, why),
                None => direct.complete(self.pid, None, Some(why), direct.since.elapsed()),
            },
            other => self.owner = other,
        }
    }
}

/// What is to be run: a line for the shell, a program with its arguments, or a line that is cut into these.
fn words_of(config: &Exec, asked: Execute) -> Result<Arguments, Refused> {
    let Execute { command, args, timeout } = asked;
    if args.is_some() || config.shell.is_some() {
        return Ok(Arguments { command, args: args.unwrap_or_default(), timeout });
    }
    let mut words = words::split(&command).map_err(Refused::Invalid)?.into_iter();
    let command = words.next().unwrap_or_default();
    Ok(Arguments { command, args: words.collect(), timeout })
}
