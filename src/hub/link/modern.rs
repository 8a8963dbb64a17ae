//! What is peculiar to a child of the modern era (2026-07-28): it is asked what it is, keeps subscriptions of its own, and
//! says which arguments of its tools are repeated in headers.

use std::sync::Arc;

use log::debug;

use super::hear::one_line;
use super::{HEADERS, Link, Waiting, append};
use crate::hub::bridge::TOLD;
use crate::hub::counters::Dropped;
use crate::hub::listen::{Change, Listen};
use crate::hub::outbox::NotQueued;
use crate::hub::server::Server;
use crate::model::envelope::{self, Envelope, spliced};
use crate::model::modern::ParamHeaders;
use crate::model::out::Out;
use crate::model::{ids, jsonrpc, modern};
use crate::rt::wait::within;

/// What is known of its tools' headers, and how often they have changed.
#[derive(Default)]
pub(super) struct Headers {
    known: Option<Arc<ParamHeaders>>,
    turn: u64,
}

impl Link {
    /// Opens a subscription of a client at a child of the modern era, with an id of ours; once, however often it is asked.
    pub fn listen(&self, listen: &Arc<Listen>) {
        let Some(request) = &listen.request else { return };
        let Ok(e) = envelope::scan(request) else { return };
        let mut pending = self.pending();
        let ours = |w: &Waiting| matches!(w, Waiting::Listen(l) if Arc::ptr_eq(l, listen));
        if pending.waiting.iter().any(|(_, w)| ours(w)) {
            return;
        }
        let number = pending.waiting.number();
        let digits = number.to_string();
        let changes = ids::outgoing(&e, &digits, false);
        match self.stdin.push(|buffer| append(buffer, &e, &changes)) {
            Ok(()) => pending.waiting.enter(number, Waiting::Listen(listen.clone())),
            // The next child will hear of it.
            Err(NotQueued::Closed) => {}
            Err(NotQueued::Full) => {
                drop(pending);
                listen.fail(jsonrpc::REFUSED, &format!("server '{}' does not read its input", self.name));
            }
        }
    }

    /// Whether a subscription is open here.
    pub fn has(&self, listen: &Arc<Listen>) -> bool {
        let ours = |w: &Waiting| matches!(w, Waiting::Listen(l) if Arc::ptr_eq(l, listen));
        self.pending().waiting.iter().any(|(_, w)| ours(w))
    }

    /// Ends a subscription at the child.
    pub fn unlisten(&self, listen: &Arc<Listen>) {
        let ours = |w: &Waiting| matches!(w, Waiting::Listen(l) if Arc::ptr_eq(l, listen));
        let taken = self.pending().waiting.take_where(ours);
        for (number, _) in taken {
            self.say_cancelled(number, "its client has left");
        }
    }

    /// It speaks the modern era.
    pub fn is_modern(&self) -> bool {
        self.learnt.get().is_some_and(|l| l.revision == modern::VERSION)
    }

    /// The opening of the modern era (2026-07-28 server/discover). False if the child does not speak it.
    pub async fn discover(&self) -> Result<bool, String> {
        let params = modern::own_meta(env!("CARGO_PKG_VERSION"));
        let Ok(result) = self.ask("server/discover", Some(&params)).await else { return Ok(false) };
        let Some(learnt) = modern::discovered(&result) else { return Ok(false) };
        debug!("server '{}': speaks {}, is {}", self.name, learnt.revision, learnt.name());
        let tells = |list: &&str| {
            let capability = learnt.capabilities.get(*list);
            capability.and_then(|c| envelope::member(c, "listChanged")) == Some("true")
        };
        let watched: Vec<String> =
            TOLD.into_iter().filter(tells).map(|list| format!("\"{list}ListChanged\":true")).collect();
        let _ = self.learnt.set(learnt);
        if !watched.is_empty() {
            let meta = params.trim_start_matches('{');
            let params = format!("{{\"notifications\":{{{}}},{meta}", watched.join(","));
            let mut pending = self.pending();
            let number = pending.waiting.number();
            pending.waiting.enter(number, Waiting::Watch);
            self.say(&jsonrpc::request(number, "subscriptions/listen", Some(&params)));
        }
        Ok(true)
    }

    /// Which arguments of which tools are repeated in headers; asked of the child, once at a time, and again after its
    /// tools changed. None where it does not say.
    pub async fn param_headers(&self) -> Option<Arc<ParamHeaders>> {
        let known = || self.headers.lock().known.clone();
        if let Some(known) = known() {
            return Some(known);
        }
        let _one = self.asking.lock().await;
        if let Some(known) = known() {
            return Some(known);
        }
        let turn = self.headers.lock().turn;
        let limit = self.config().request_timeout.min(HEADERS);
        let found = Arc::new(within(limit, self.ask_headers()).await.flatten()?);
        let mut headers = self.headers.lock();
        // What was asked before a change is good for this request and no other.
        if headers.turn == turn {
            headers.known = Some(found.clone());
        }
        Some(found)
    }

    async fn ask_headers(&self) -> Option<ParamHeaders> {
        let mut all = ParamHeaders::new();
        let mut cursor = None::<String>;
        let meta = modern::own_meta(env!("CARGO_PKG_VERSION"));
        for _ in 0..100 {
            let params = match &cursor {
                Some(cursor) => format!("{{\"cursor\":{cursor},{}", meta.trim_start_matches('{')),
                None => meta.clone(),
            };
            let result = self.ask("tools/list", Some(&params)).await.ok()?;
            modern::param_headers(&result, &mut all);
            cursor = envelope::member(&result, "nextCursor").filter(|c| *c != "null").map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Some(all)
    }

    /// The child's tools are others.
    fn forget_headers(&self) {
        let mut headers = self.headers.lock();
        headers.turn += 1;
        headers.known = None;
    }

    /// What a child of the modern era says belongs to a request or to a subscription.
    pub(super) fn modern_notification(&self, server: &Server, e: &Envelope<'_>) {
        match (e.method.as_ref(), e.modern.subscription.clone()) {
            ("notifications/progress", _) => self.progress(e),
            ("notifications/message", _) => self.log_message(server, e),
            (method, Some(span)) => {
                let number = ids::number(&e.text()[span.clone()]);
                if method == "notifications/tools/list_changed" {
                    self.forget_headers();
                }
                let pending = self.pending();
                match number.and_then(|n| pending.waiting.get(n)) {
                    Some(Waiting::Listen(listen)) => {
                        let listen = listen.clone();
                        drop(pending);
                        if method != "notifications/subscriptions/acknowledged" || listen.acknowledge() {
                            listen.push(one_line(e, spliced(e.text(), &[(span, &listen.id)])));
                        }
                    }
                    Some(Waiting::Watch) => {
                        drop(pending);
                        // Its subscribers hear of it from the child; those of the bridge have nobody else.
                        let list = method.split('/').nth(1).unwrap_or_default();
                        for part in server.sessions_of(self).iter().filter(|s| s.whole().is_some()) {
                            part.tell(&Change::List { list, text: e.text() });
                        }
                    }
                    _ => server.hub.counters.count(Dropped::UnownedNotifications),
                }
            }
            _ => server.hub.counters.count(Dropped::UnownedNotifications),
        }
    }

    /// A late reply: the child is done with that request.
    pub(super) fn lay_ghost(&self, e: &Envelope<'_>) {
        let number = e.get(&e.id).and_then(ids::number);
        self.pending().ghosts.retain(|(n, _)| Some(*n) != number);
    }

    /// Nothing in a log message says whose it is; with a single request that asked for any, there is no doubt.
    fn log_message(&self, server: &Server, e: &Envelope<'_>) {
        let mut pending = self.pending();
        let haunted = pending.is_haunted();
        let mut owners = pending.waiting.iter().filter_map(|(_, w)| match w {
            Waiting::Client { call, .. } if call.logs => Some(call.reply.clone()),
            _ => None,
        });
        match (owners.next(), owners.next()) {
            (Some(owner), None) if !haunted => {
                drop(owners);
                drop(pending);
                owner.push(Out { text: one_line(e, e.text().to_owned()), answer: false, failed: false });
            }
            _ => server.hub.counters.count(Dropped::UnownedNotifications),
        }
    }
}
