//! Whose a command is, and how its owner hears of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::Work;
use crate::hub::client::call::Call;
use crate::hub::client::outbox::Outbox;
use crate::hub::client::session::Session;
use crate::hub::load::InFlight;
use crate::model::budget::Holder;
use crate::model::envelope::quote;
use crate::model::jsonrpc;
use crate::model::out::Out;
use crate::rt::wait::Flag;

/// There is no command to control (the number is cc_executor's).
pub(crate) const NO_PROCESS: i32 = -32002;

/// One command on its way.
pub(crate) struct Running {
    pub pid: Option<i32>,
    pub owner: Owner,
    pub end: Arc<Flag>,
    /// The command itself, while everything is at rest and no task sees to it.
    pub quiesced: Option<Work>,
}

/// Whose command it is.
pub(crate) enum Owner {
    /// It is not to be told any more.
    Nobody,
    /// A call of the tool; taken by the one who answers it.
    Call(Call),
    /// A session that has it for itself.
    Direct(Direct),
}

impl Owner {
    fn whose(&self) -> Option<&Arc<Session>> {
        match self {
            Owner::Nobody => None,
            Owner::Call(call) => Some(&call.session),
            Owner::Direct(direct) => Some(&direct.session),
        }
    }

    /// The number of the session that it is of.
    pub(crate) fn session(&self) -> Option<u64> {
        self.whose().map(|session| session.number)
    }

    /// For whom its output is kept.
    pub(crate) fn holder(&self) -> Holder {
        match self.whose() {
            Some(session) => session.holder.clone(),
            None => Holder::Session(0),
        }
    }

    /// The command is not begun.
    pub(crate) fn refuse(self, why: &str) {
        match self {
            Owner::Nobody => {}
            Owner::Call(call) => call.error(jsonrpc::REFUSED, why),
            Owner::Direct(mut direct) => {
                if let Some(call) = direct.opening.take() {
                    call.error(jsonrpc::REFUSED, why);
                }
            }
        }
    }

    pub(crate) fn is_direct_of(&self, session: &Session) -> bool {
        matches!(self, Owner::Direct(direct) if direct.session.number == session.number)
    }

    pub(crate) fn take_call(&mut self, wanted: impl Fn(&Call) -> bool) -> Option<Call> {
        match std::mem::replace(self, Owner::Nobody) {
            Owner::Call(call) if wanted(&call) => Some(call),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// A command of a session, for as long as it runs.
pub(crate) struct Direct {
    pub session: Arc<Session>,
    pub reply: Arc<Outbox>,
    /// The request that started it, until it has.
    pub opening: Option<Call>,
    /// What its client wants of it, before it has started.
    pub queued: Vec<(Call, String)>,
    /// Its client has cancelled it.
    pub cancelled: bool,
    pub since: Instant,
    /// It is not idle, and a drain waits for it.
    _open: [InFlight; 2],
}

impl Direct {
    pub(crate) fn new(session: &Arc<Session>, reply: &Arc<Outbox>) -> Direct {
        Direct {
            session: session.clone(),
            reply: reply.clone(),
            opening: None,
            queued: Vec::new(),
            cancelled: false,
            since: Instant::now(),
            _open: [session.load.enter_alone(), session.ctx.load.enter_alone()],
        }
    }

    /// The last that is heard of it.
    pub(crate) fn complete(&self, pid: Option<i32>, code: Option<i32>, trouble: Option<&str>, took: Duration) {
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
        notify_client(&self.reply, "completed", &params);
    }
}

/// Sends a client a notification of the executor's own protocol.
pub(crate) fn notify_client(reply: &Outbox, what: &str, params: &str) {
    let text = jsonrpc::notification(&format!("process.{what}"), Some(params));
    reply.push(Out::notice(text));
}

impl Drop for Direct {
    fn drop(&mut self) {
        for (call, _) in self.queued.drain(..) {
            call.error(NO_PROCESS, "No process is running");
        }
    }
}

impl Running {
    /// Takes a command away from the session that has it for itself; what that hears is [`Direct::fail`].
    pub(crate) fn take_direct(&mut self) -> Option<(Direct, Option<i32>)> {
        match std::mem::replace(&mut self.owner, Owner::Nobody) {
            Owner::Direct(direct) => Some((direct, self.pid)),
            other => {
                self.owner = other;
                None
            }
        }
    }
}

impl Direct {
    /// The server stops: the session is told that its command is over, which it is about to be.
    pub(crate) fn fail(mut self, pid: Option<i32>, why: &str) {
        match self.opening.take() {
            Some(call) => call.error(jsonrpc::INTERNAL_ERROR, why),
            None => self.complete(pid, None, Some(why), self.since.elapsed()),
        }
    }
}
