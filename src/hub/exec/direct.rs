//! The executor's own protocol, beside MCP on a WebSocket: `execute` starts a command whose output comes line by line,
//! `control` pauses, resumes and cancels it.
//!
//! This is the protocol of cc_executor, whose clients know nothing of MCP: they connect, perhaps wait for `connected`,
//! send `execute`, and read notifications until `process.completed`. mcpdaemon(7) lists what is the same and what is not.

use std::sync::Arc;

use serde::Deserialize;

use super::allowed::{Arguments, Refused, resolve, time_limit, too_long};
use super::executor::{Executor, Order};
use super::output::Sink;
use super::owner::{Direct, NO_PROCESS, Owner, notify_client};
use crate::hub::client::audited::Audited;
use crate::hub::client::call::Call;
use crate::hub::client::outbox::Outbox;
use crate::hub::client::session::Session;
use crate::hub::server::admit;
use crate::hub::server::backend::TakePlace;
use crate::model::config::server::Exec;
use crate::model::envelope::Envelope;
use crate::model::method::Method;
use crate::model::text::printable;
use crate::model::{jsonrpc, words};
use crate::rt::random::uuid;
use crate::sys::spawn::pause_group;

/// The command is not on the allow-list (the number is cc_executor's).
const NOT_ALLOWED: i32 = -32001;

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
pub(crate) fn connected() -> String {
    let params = format!(
        r#"{{"session_id":"{}","version":"{}","capabilities":["execute","control","stream"]}}"#,
        uuid(),
        env!("CARGO_PKG_VERSION")
    );
    jsonrpc::notification("connected", Some(&params))
}

impl Executor {
    /// Answers a request of this protocol. `place` takes one of the server's places for the session.
    pub(crate) fn answer_beside(
        &self,
        session: &Arc<Session>,
        e: &Envelope<'_>,
        reply: &Arc<Outbox>,
        place: &TakePlace<'_>,
    ) {
        session.touch();
        session.note_use();
        let (method, id) = (Method::of(&e.method), e.get(&e.id).unwrap_or("null"));
        let (runs, params) = (self.runs_for(session), e.get(&e.params).unwrap_or("{}"));
        if method == Method::Control || runs {
            // Also in a drain, and where the command itself is all that the session may have open.
            let mut call = Call::new(session, method, id, e.get(&e.progress_token), reply);
            call.audited = Audited::of(session, e);
            return match method {
                Method::Control => self.answer_control(runs, call, params),
                _ => call.error(jsonrpc::INVALID_PARAMS, "A process is already running"),
            };
        }
        let Some(call) = admit::open(session, e, reply) else { return };
        match place() {
            Ok(()) => self.execute(call, params),
            Err(why) => call.error(jsonrpc::TOO_MANY_SESSIONS, &format!("Session limit exceeded: {why}")),
        }
    }

    fn answer_control(&self, runs: bool, call: Call, params: &str) {
        match serde_json::from_str::<Control>(params) {
            Ok(wanted) if runs => self.control(call, &wanted.r#type),
            Ok(_) => call.error(NO_PROCESS, "No process is running"),
            Err(e) => {
                let why = format!("params of control: {e}; \"type\" is \"PAUSE\", \"RESUME\" or \"CANCEL\"");
                call.error(jsonrpc::INVALID_PARAMS, &why);
            }
        }
    }

    /// Answers `execute`.
    fn execute(&self, call: Call, params: &str) {
        if let Some(why) = too_long(params) {
            return call.error(jsonrpc::INVALID_PARAMS, &why);
        }
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
                let (owner, sink) = (Owner::Direct(direct), Sink::Lines(reply));
                self.start(Order { owner, sink, config, program, args, limit });
            }
            Err(Refused::NotAllowed(why)) => call.error(NOT_ALLOWED, &why),
            Err(Refused::Invalid(why)) => call.error(jsonrpc::INVALID_PARAMS, &why),
        }
    }

    /// Whether it runs a command that this session has for itself.
    pub(crate) fn runs_for(&self, session: &Session) -> bool {
        self.running().values().any(|r| r.owner.is_direct_of(session))
    }

    pub(super) fn control(&self, call: Call, wanted: &str) {
        let mut all = self.running();
        let own = all.values_mut().find(|r| r.owner.is_direct_of(&call.session));
        let Some(running) = own else {
            drop(all);
            return call.error(NO_PROCESS, "No process is running");
        };
        let (pid, end) = (running.pid, running.end.clone());
        let Owner::Direct(direct) = &mut running.owner else { return };
        let Some(pid) = pid else { return direct.queued.push((call, wanted.to_owned())) };
        direct.cancelled |= wanted == "CANCEL";
        let reply = direct.reply.clone();
        // It is not for others to wait until this one is answered.
        drop(all);
        let leader = nix::unistd::Pid::from_raw(pid);
        let done = match wanted {
            "PAUSE" => pause_group(leader, true).map(|()| "paused"),
            "RESUME" => pause_group(leader, false).map(|()| "resumed"),
            "CANCEL" => Ok("canceled"),
            other => {
                let why = format!("there is no control '{}': it is PAUSE, RESUME or CANCEL", printable(other, 40));
                return call.error(jsonrpc::INVALID_PARAMS, &why);
            }
        };
        match done {
            Ok(status) => {
                call.result(&format!(r#"{{"status":"{status}"}}"#));
                notify_client(&reply, status, &format!(r#"{{"status":"{status}","pid":{pid},"pgid":{pid}}}"#));
            }
            // It has ended this moment, and `process.completed` is on its way.
            Err(_) => call.error(NO_PROCESS, "No process is running"),
        }
        if wanted == "CANCEL" {
            end.set();
        }
    }

    /// A session is over: what runs for it ends, and it is not told.
    pub(crate) fn end_commands_of(&self, session: &Session) {
        for running in self.running().values_mut().filter(|r| r.owner.is_direct_of(session)) {
            running.owner = Owner::Nobody;
            running.end.set();
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
