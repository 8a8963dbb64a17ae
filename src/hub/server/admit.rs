//! Whether a request may pass: not in a drain, not with a tool that is hidden, not beyond the limit of open requests.

use std::sync::Arc;
use std::time::Duration;

use crate::hub::client::audited::Audited;
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::Endpoint;
use crate::hub::client::outbox::Outbox;
use crate::hub::client::session::Session;
use crate::hub::counters::Dropped;
use crate::model::envelope::{self, Envelope};
use crate::model::jsonrpc;
use crate::model::method::{self, Method};
use crate::model::out::Out;
use crate::model::text::printable;

/// Why nothing new is taken during a drain.
pub(crate) const SHUTTING_DOWN: &str = "the daemon is shutting down";
/// Why nothing is taken that could not be recorded.
const NOT_RECORDED: &str =
    "the audit record cannot be written, and it is required: nothing is asked of servers until it can";
/// Why a request about a task is refused.
pub(crate) const NO_TASKS: &str = "tasks are not possible here: this child is shared by several clients";

/// Counts a request as open; None if it was refused.
pub(crate) fn admit(
    endpoint: &dyn Endpoint,
    session: &Arc<Session>,
    e: &Envelope<'_>,
    reply: &Arc<Outbox>,
) -> Option<Call> {
    if !session.ctx.draining.is_set()
        && e.method == method::TOOLS_CALL
        && let name = e.get(&e.name).and_then(envelope::plain_text)
        && !endpoint.admits(name.as_deref())
    {
        let why = match name {
            Some(name) => format!("the tool '{}' may not be used here", printable(&name, 100)),
            None => "params.name must be the name of a tool that may be used here".to_owned(),
        };
        note_refusal(session, e, &why);
        refuse(e, reply, jsonrpc::INVALID_PARAMS, &why);
        return None;
    }
    let mut call = open(session, e, reply)?;
    if call.method == Method::ToolsList {
        call.shown = endpoint.shown();
    }
    Some(call)
}

/// Counts a request as open, whatever it names; None if it was refused.
pub(crate) fn open(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Call> {
    if session.ctx.draining.is_set() {
        refuse(e, reply, jsonrpc::REFUSED, SHUTTING_DOWN);
        return None;
    }
    let id = e.get(&e.id).unwrap_or("null");
    if session.ctx.audit.forbids() {
        refuse(e, reply, jsonrpc::REFUSED, NOT_RECORDED);
        return None;
    }
    match Call::open(session, Method::of(&e.method), id, e.get(&e.progress_token), reply) {
        Ok(mut call) => {
            call.audited = Audited::of(session, e);
            Some(call)
        }
        Err(why) => {
            session.ctx.counters.count(Dropped::InFlight);
            note_refusal(session, e, &why.to_string());
            refuse(e, reply, jsonrpc::REFUSED, &why.to_string());
            None
        }
    }
}

/// A request that is refused stands in the audit record.
fn note_refusal(session: &Session, e: &Envelope<'_>, why: &str) {
    if let Some(mut audited) = Audited::of(session, e) {
        audited.refused(why);
        audited.write(session, e.get(&e.id).unwrap_or("null"), Duration::ZERO);
    }
}

/// Answers a request, which is not counted, with an error.
pub(crate) fn refuse(e: &Envelope<'_>, reply: &Outbox, code: i32, why: &str) {
    reply.push(Out::error(jsonrpc::error(Some(e.get(&e.id).unwrap_or("null")), code, why)));
}

/// Whether a request is about a task, or is to become one.
pub(crate) fn is_task(e: &Envelope<'_>) -> bool {
    method::is_of_tasks(&e.method) || e.task.is_some()
}

/// Answers a request with the method of a notification. A child that tells messages apart by their names alone would act
/// on it, with ids that are not its sender's.
pub(crate) fn refuse_notification(call: Call, method: &str) {
    call.error(jsonrpc::INVALID_REQUEST, &format!("'{}' is a notification: it has no id", printable(method, 100)));
}
