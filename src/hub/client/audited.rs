//! What of a request stands in the audit record, once it is answered.

use std::time::Duration;

use super::session::Session;
use crate::hub::audit::Audit;
use crate::model::audit::{Line, Request};
use crate::model::envelope::{Envelope, decode, member};
use crate::model::text::printable;
use crate::model::{method, modern};

/// What is noted of a request as it comes, and of its answer.
pub(crate) struct Audited {
    request: Request,
    /// Its code where it is an error, and its length.
    answer: Option<(Option<i32>, usize)>,
    /// Why it was not let in.
    refused: Option<Box<str>>,
}

impl Audited {
    /// What is noted of a request; None where there is no record.
    pub(crate) fn of(session: &Session, e: &Envelope<'_>) -> Option<Box<Audited>> {
        let audit = &session.ctx.audit;
        if !audit.is_on() {
            return None;
        }
        let name = match e.method.as_ref() {
            method::TOOLS_CALL | method::PROMPTS_GET => &e.name,
            method::RESOURCES_READ | method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE => &e.uri,
            _ => &e.task_id,
        };
        let trace = e.get(&e.meta).and_then(|meta| member(meta, "traceparent")).map(decode);
        let arguments = e.get(&e.arguments).filter(|_| audit.has_arguments());
        Some(Audited::restore(Request {
            method: printable(&e.method, 100).into(),
            name: e.get(name).map(decode).map(|name| printable(&name, 1000).into()),
            bytes_in: e.text().len(),
            trace: trace.map(|t| printable(&t, 100).into()),
            // On one line: breaks between tokens are none of a value's own.
            arguments: arguments.map(|a| a.replace(['\n', '\r'], " ").into()),
        }))
    }

    /// What was noted of a request that is not answered yet.
    pub(crate) fn restore(request: Request) -> Box<Audited> {
        Box::new(Audited { request, answer: None, refused: None })
    }

    /// What was noted as it came.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// It has this answer.
    pub(crate) fn answered(&mut self, text: &str, failed: bool) {
        let code = if failed { modern::error_code(text) } else { None };
        self.answer = Some((code.or(failed.then_some(0)), text.len()));
    }

    /// It is not let in, for this reason.
    pub(crate) fn refused(&mut self, why: &str) {
        self.refused = Some(why.into());
    }

    /// Writes it down.
    pub(crate) fn write(&self, session: &Session, id: &str, took: Duration) {
        let (outcome, code) = match self.answer {
            Some((None, _)) => ("ok", None),
            Some((code, _)) => ("error", code),
            None if self.refused.is_some() => ("refused", None),
            None => ("cancelled", None),
        };
        let event = if self.refused.is_some() { "refused" } else { "call" };
        let line = whose(Audit::line(event), session)
            .text("method", Some(&self.request.method))
            .text("name", self.request.name.as_deref())
            .json("id", Some(id).filter(|id| id.len() < 1000))
            .text("outcome", Some(outcome))
            .json("code", code)
            .text("reason", self.refused.as_deref())
            .json("ms", Some((took.as_secs_f64() * 1e6).round() / 1e3))
            .json("bytes_in", Some(self.request.bytes_in))
            .json("bytes_out", self.answer.map(|(_, length)| length))
            .text("trace", self.request.trace.as_deref())
            .json("arguments", self.request.arguments.as_deref());
        session.ctx.audit.write(line);
    }
}

/// A session begins or ends, of which each request of the modern era is none, nor is a part of another one.
pub(crate) fn record_session(session: &Session, event: &str, why: Option<&str>) {
    let audit = &session.ctx.audit;
    if audit.is_on() && session.kind.is_lasting() {
        audit.write(whose(Audit::line(event), session).text("reason", why));
    }
}

/// Whose session it is, and at what.
pub(crate) fn whose(line: Line, session: &Session) -> Line {
    let whole = session.whole();
    let own = whole.as_deref().unwrap_or(session);
    let transport = own.kind.transport().map(|t| format!("{t:?}").to_lowercase());
    line.text("principal", own.owner.as_deref())
        .text("address", own.address().map(|ip| ip.to_string()).as_deref())
        .text("client", own.client())
        .json("session", Some(own.number))
        .text("transport", transport.as_deref())
        .text("server", Some(&session.server))
}
