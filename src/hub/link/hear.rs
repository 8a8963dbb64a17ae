//! What a child says, on both of its outputs, and to whom it goes.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use async_io::Async;
use log::{debug, info, warn};

use super::{Link, Waiting};
use crate::hub::Hub;
use crate::hub::bridge::outward_id;
use crate::hub::counters::Dropped;
use crate::hub::handover::unless_frozen;
use crate::hub::listen::Change;
use crate::hub::outbox::Outbox;
use crate::hub::server::Server;
use crate::hub::session::Session;
use crate::hub::stderr;
use crate::model::envelope::{self, Envelope, Kind, scan, spliced};
use crate::model::lost_reply::id_in_pieces;
use crate::model::out::Out;
use crate::model::text::printable;
use crate::model::{ids, jsonrpc};
use crate::rt::lines::{self, Line, Lines};
use crate::rt::wait::millis;

impl Link {
    /// Reads standard output to its end.
    pub(super) async fn read(self: Arc<Self>, pipe: Async<File>, mut input: Lines, hub: Arc<Hub>) {
        let mut last = false;
        loop {
            let Some(server) = self.server.upgrade() else { break };
            while let Some(line) = if last { input.rest() } else { input.take() } {
                match line {
                    Line::Whole(bytes) => self.line(&server, bytes),
                    Line::Cut { head, tail, length } => self.long_line(&server, &head, &tail, length),
                }
            }
            drop(server);
            if last {
                break;
            }
            let Some(read) = unless_frozen(&hub, input.fill(&pipe)).await else {
                return self.hand_in(|parked| parked.stdout = Some((pipe, input)));
            };
            last = !matches!(read, Ok(n) if n > 0);
            self.heard_at.store(millis(), Relaxed);
        }
        self.silent.set();
    }

    /// Standard error is always read, or the child would block on it; what is logged of it is bounded.
    pub(super) async fn overhear(self: Arc<Self>, pipe: Async<File>, mut input: Lines, hub: Arc<Hub>) {
        let mut budget = stderr::Budget::default();
        let mut last = false;
        loop {
            while let Some(line) = if last { input.rest() } else { input.take() } {
                let text = match line {
                    Line::Whole(bytes) => printable(&String::from_utf8_lossy(bytes), lines::LOGGED),
                    Line::Cut { head, length, .. } => {
                        format!(
                            "{} [a line of {length} bytes]",
                            printable(&String::from_utf8_lossy(&head), lines::LOGGED)
                        )
                    }
                };
                self.stderr.lock().push(&text);
                match budget.take(Instant::now()) {
                    stderr::Take::Log { skipped } => {
                        if skipped > 0 {
                            warn!("[{}] ... {skipped} lines of standard error were not logged", self.name);
                        }
                        info!("[{}] {text}", self.name);
                    }
                    stderr::Take::Skip => {
                        if let Some(server) = self.server.upgrade() {
                            server.hub.counters.count(Dropped::StderrLines);
                        }
                    }
                }
            }
            if last {
                self.heard.set();
                return;
            }
            let Some(read) = unless_frozen(&hub, input.fill(&pipe)).await else {
                return self.hand_in(|parked| parked.stderr = Some((pipe, input)));
            };
            last = !matches!(read, Ok(n) if n > 0);
        }
    }

    fn line(&self, server: &Arc<Server>, bytes: &[u8]) {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let message = std::str::from_utf8(bytes).ok().and_then(|text| scan(text).ok());
        let Some(e) = message else {
            server.hub.counters.count(Dropped::Garbage);
            let text = printable(&String::from_utf8_lossy(&bytes[..bytes.len().min(200)]), 200);
            debug!("[{}] not a message on its standard output: {text}", self.name);
            // A reply for all that: who waits for it is told now and not at the timeout.
            if let Some(number) = id_in_pieces(bytes, bytes) {
                self.unusable(number, &format!("the reply of server '{}' is not valid: {text}", self.name));
            }
            return;
        };
        if let Some(owner) = self.owner.get()
            && e.kind != Kind::Response
        {
            return self.to_owner(server, owner.upgrade(), &e);
        }
        match e.kind {
            Kind::Response => self.reply(server, &e),
            Kind::Notification => self.notification(server, &e),
            Kind::Request => self.server_request(server, &e),
        }
    }

    fn reply(&self, server: &Server, e: &Envelope<'_>) {
        let waiting = e.get(&e.id).and_then(ids::number).and_then(|n| self.pending().waiting.take(n));
        match waiting {
            Some(Waiting::Client { call, .. }) => {
                self.used_at.store(self.heard_at.load(Relaxed), Relaxed);
                if call.opening
                    && let Some(revision) = e.get(&e.result).and_then(|r| envelope::member(r, "protocolVersion"))
                {
                    call.session.agree(envelope::decode(revision).into_owned());
                }
                let text = one_line(e, call.phrase(e, self.learnt()));
                call.answer(text, e.error.is_some());
            }
            Some(Waiting::Daemon(sender)) => {
                let answer = match (e.get(&e.result), e.get(&e.error)) {
                    (Some(result), _) => Ok(one_line(e, result.to_owned())),
                    (None, error) => Err(printable(error.unwrap_or(""), 500)),
                };
                let _ = sender.try_send(answer);
            }
            Some(Waiting::Nobody | Waiting::Watch) => {}
            Some(Waiting::Listen(listen)) => {
                if e.error.is_some() {
                    listen.end(one_line(e, ids::restored(e, &listen.id)), true);
                } else {
                    listen.finish();
                }
            }
            None => {
                self.lay_ghost(e);
                server.hub.counters.count(Dropped::UnownedReplies);
                debug!("[{}] a reply that nobody waits for: {}", self.name, printable(e.text(), 200));
            }
        }
    }

    fn notification(&self, server: &Server, e: &Envelope<'_>) {
        if self.is_modern() {
            return self.modern_notification(server, e);
        }
        match e.method.as_ref() {
            "notifications/progress" => self.progress(e),
            method @ ("notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed") => {
                let list = method.split('/').nth(1).unwrap_or_default();
                server.broadcast(self, &Change::List { list, text: &one_line(e, e.text().to_owned()) });
            }
            "notifications/resources/updated" => match e.get(&e.uri) {
                Some(uri) => {
                    let (uri, text) = (envelope::decode(uri), one_line(e, e.text().to_owned()));
                    server.broadcast(self, &Change::Resource { uri: &uri, text: &text });
                }
                None => server.hub.counters.count(Dropped::UnownedNotifications),
            },
            method => {
                server.hub.counters.count(Dropped::UnownedNotifications);
                debug!("[{}] '{}' has no owner on a shared child", self.name, printable(method, 100));
            }
        }
    }

    /// What a child says to the one session that it serves.
    fn to_owner(&self, server: &Server, owner: Option<Arc<Session>>, e: &Envelope<'_>) {
        let Some(session) = owner.filter(|s| !s.is_ended()) else { return };
        // Children of several servers may ask the same client, each with ids of its own.
        let asked = match e.method.as_ref() {
            "notifications/cancelled" => &e.request_id,
            _ if e.kind == Kind::Request => &e.id,
            _ => &None,
        };
        let outward = e.get(asked).and_then(|id| outward_id(&session, id));
        let text = match (asked, &outward) {
            (Some(span), Some(id)) => spliced(e.text(), &[(span.clone(), id)]),
            _ => e.text().to_owned(),
        };
        let text = one_line(e, text);
        if let (Kind::Request, Some(id), Some(own)) = (e.kind, e.get(&e.id), session.exclusive()) {
            // Whether the daemon is there, and not who is asked.
            if e.method == "ping" {
                self.say(&jsonrpc::result(id, "{}"));
                return;
            }
            own.ask(id);
            if !session.deliver(&text, true) {
                own.answered(id);
                server.hub.counters.count(Dropped::RefusedServerRequests);
                let why = "the client has no stream open that could carry a request to it";
                self.say(&jsonrpc::error(Some(id), jsonrpc::INTERNAL_ERROR, why));
            }
            return;
        }
        if e.method == "notifications/resources/updated"
            && let (Some(whole), Some(uri)) = (session.whole(), e.get(&e.uri))
        {
            // The client may know it by another name.
            return whole.told(&session, &Change::Resource { uri: &envelope::decode(uri), text: &text });
        }
        let related = match e.method.as_ref() {
            "notifications/cancelled" => {
                if let (Some(id), Some(own)) = (e.get(&e.request_id), session.exclusive()) {
                    own.answered(id);
                }
                true
            }
            "notifications/progress" => {
                if let Some(token) = e.get(&e.progress_token)
                    && let Some(reply) = self.progress_owner(token)
                {
                    reply.push(Out::notice(text));
                    return;
                }
                true
            }
            method => !method.ends_with("list_changed") && method != "notifications/resources/updated",
        };
        if !session.deliver(&text, related) {
            server.hub.counters.count(Dropped::UnownedNotifications);
        }
    }

    /// Where the request with this token waits, whose time begins anew.
    fn progress_owner(&self, token: &str) -> Option<Arc<Outbox>> {
        let limit = self.config().request_timeout;
        let mut pending = self.pending();
        pending.waiting.values_mut().find_map(|w| match w {
            Waiting::Client { call, deadline, .. } if call.token.as_deref().is_some_and(|t| ids::same(t, token)) => {
                *deadline = Instant::now() + limit;
                Some(call.reply.clone())
            }
            _ => None,
        })
    }

    pub(super) fn progress(&self, e: &Envelope<'_>) {
        let (Some(span), Some(token)) = (e.progress_token.clone(), e.get(&e.progress_token)) else { return };
        let mut pending = self.pending();
        let waiting = ids::number(token).and_then(|n| pending.waiting.get_mut(n));
        if let Some(Waiting::Client { call, deadline, .. }) = waiting
            && let Some(own) = &call.token
        {
            *deadline = Instant::now() + self.config().request_timeout;
            let text = one_line(e, spliced(e.text(), &[(span, own)]));
            let reply = call.reply.clone();
            drop(pending);
            reply.push(Out::notice(text));
        }
    }

    /// A shared child cannot say which client it means, so nobody but us may answer.
    fn server_request(&self, server: &Server, e: &Envelope<'_>) {
        let Some(id) = e.get(&e.id) else { return };
        if e.method == "ping" {
            self.say(&jsonrpc::result(id, "{}"));
            return;
        }
        server.hub.counters.count(Dropped::RefusedServerRequests);
        debug!("[{}] its request '{}' is refused: the child is shared", self.name, printable(&e.method, 100));
        let text = format!("'{}' is not possible here: this child is shared by several clients", e.method);
        self.say(&jsonrpc::error(Some(id), jsonrpc::METHOD_NOT_FOUND, &text));
    }

    /// A line beyond the limit was thrown away. If its beginning or its end shows which request it answered, that
    /// request fails now and not at its timeout.
    fn long_line(&self, server: &Server, head: &[u8], tail: &[u8], length: usize) {
        server.hub.counters.count(Dropped::LongLines);
        warn!("[{}] a line of {length} bytes on its standard output is over limits.reply and was dropped", self.name);
        let Some(number) = id_in_pieces(head, tail) else { return };
        let text = format!("the reply of server '{}' has {length} bytes, more than limits.reply allows", self.name);
        self.unusable(number, &text);
    }

    /// A request whose answer cannot be passed on.
    fn unusable(&self, number: u64, text: &str) {
        let waiting = self.pending().waiting.take(number);
        match waiting {
            Some(Waiting::Client { call, .. }) => call.error(jsonrpc::INTERNAL_ERROR, text),
            Some(Waiting::Daemon(sender)) => drop(sender.try_send(Err(text.to_owned()))),
            _ => {}
        }
    }
}

/// A carriage return between tokens would end a line of an event stream.
pub(super) fn one_line(e: &Envelope<'_>, text: String) -> String {
    if !e.multiline {
        return text;
    }
    text.replace(['\r', '\n'], " ")
}
