//! What is peculiar to a child of the modern era (2026-07-28): it is asked what it is, keeps subscriptions of its own, and
//! says which arguments of its tools are repeated in headers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;

use super::byte_queue::NotQueued;
use super::child::Child;
use super::pending::Waiting;
use super::wire::{append, one_line};
use crate::hub::client::subscription::{LISTS, Subscription};
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::model::envelope::{self, Envelope, spliced};
use crate::model::modern::ParamHeaders;
use crate::model::out::Out;
use crate::model::{ids, jsonrpc, method, modern};
use crate::rt::blocking::{LONG, busy};
use crate::rt::wait::timeout;

/// How long a child may take to list its tools before a call is passed on unchecked.
const HEADERS: Duration = Duration::from_secs(10);

impl Child {
    /// Opens a subscription of a client, with an id of ours; once, however often it is asked.
    pub(crate) fn subscribe(&self, subscription: &Arc<Subscription>) {
        let Some(request) = &subscription.request else { return };
        let Ok(e) = envelope::scan(request) else { return };
        let mut pending = self.pending();
        if pending.waiting.iter().any(|(_, w)| w.is_of(subscription)) {
            return;
        }
        let number = pending.waiting.number();
        let digits = number.to_string();
        let changes = ids::outgoing(&e, &digits, false);
        match self.stdin.push(&self.holder(), request.len(), |buffer| append(buffer, &e, &changes)) {
            Ok(()) => pending.waiting.enter(number, Waiting::Subscription(subscription.clone())),
            // The next child will hear of it.
            Err(NotQueued::Closed) => {}
            Err(NotQueued::Full) => {
                drop(pending);
                subscription.fail(jsonrpc::REFUSED, &format!("server '{}' does not read its input", self.server));
            }
        }
    }

    /// Whether a subscription is open here.
    pub(crate) fn keeps(&self, subscription: &Arc<Subscription>) -> bool {
        self.pending().waiting.iter().any(|(_, w)| w.is_of(subscription))
    }

    /// Ends a subscription at the child.
    pub(crate) fn unsubscribe(&self, subscription: &Arc<Subscription>) {
        let taken = self.pending().waiting.take_where(|w| w.is_of(subscription));
        for (number, _) in taken {
            self.send_cancelled(number, "its client has left");
        }
    }

    /// The opening of the modern era (2026-07-28 server/discover).
    ///
    /// # Errors
    /// [`Error::Answered`] and [`Error::NotModern`] if the child answers otherwise than one that speaks it.
    pub(crate) async fn discover(&self) -> Result<(), Error> {
        let params = modern::own_meta(env!("CARGO_PKG_VERSION"));
        let result = self.ask(method::DISCOVER, Some(&params)).await?;
        let info = modern::discovered(&result).ok_or(Error::NotModern)?;
        debug!("server '{}': speaks {}, is {}", self.server, info.revision, info.name());
        let tells = |list: &&str| {
            let capability = info.capabilities.get(*list);
            capability.and_then(|c| envelope::member(c, "listChanged")) == Some("true")
        };
        let watched: Vec<String> =
            LISTS.into_iter().filter(tells).map(|list| format!("\"{list}ListChanged\":true")).collect();
        let _ = self.info.set(info);
        if !watched.is_empty() {
            let meta = params.trim_start_matches('{');
            let params = format!("{{\"notifications\":{{{}}},{meta}", watched.join(","));
            let mut pending = self.pending();
            let number = pending.waiting.number();
            pending.waiting.enter(number, Waiting::Watch);
            self.send_line(&jsonrpc::request(number, method::LISTEN, Some(&params)));
        }
        Ok(())
    }

    /// Which arguments of which tools are repeated in headers; asked of the child, once at a time, and again after its
    /// tools changed. None where it does not say.
    pub(crate) async fn param_headers(&self) -> Option<Arc<ParamHeaders>> {
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
        let found = Arc::new(timeout(limit, self.ask_headers()).await.flatten()?);
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
            let result = self.ask(method::TOOLS_LIST, Some(&params)).await.ok()?;
            let long = result.len() > LONG;
            let read = move || {
                modern::param_headers(&result, &mut all);
                let cursor = envelope::member(&result, "nextCursor").filter(|c| *c != "null").map(str::to_owned);
                (all, cursor)
            };
            // To read a long list takes its time, which is not taken from others.
            (all, cursor) = if long { busy(read).await } else { read() };
            if cursor.is_none() {
                break;
            }
        }
        Some(all)
    }

    /// The child's tools have changed.
    fn forget_headers(&self) {
        let mut headers = self.headers.lock();
        headers.turn += 1;
        headers.known = None;
    }

    /// What a child of the modern era tells belongs to a request or to a subscription.
    pub(super) fn take_modern_notification(&self, e: &Envelope<'_>) {
        match (e.method.as_ref(), e.modern.subscription.clone()) {
            (method::PROGRESS, _) => self.take_progress(e),
            (method::LOG_MESSAGE, _) => self.take_log_message(e),
            (method, Some(span)) => {
                let number = ids::number(&e.text()[span.clone()]);
                if method == method::TOOLS_CHANGED {
                    self.forget_headers();
                }
                let pending = self.pending();
                match number.and_then(|n| pending.waiting.get(n)) {
                    Some(Waiting::Subscription(subscription)) => {
                        let subscription = subscription.clone();
                        drop(pending);
                        if method != method::ACKNOWLEDGED || subscription.acknowledge() {
                            subscription.push(one_line(e, spliced(e.text(), &[(span, &subscription.id)])));
                        }
                    }
                    Some(Waiting::Watch) => {
                        drop(pending);
                        self.observe_notification(e);
                    }
                    _ => self.ctx.counters.count(Dropped::UnownedNotifications),
                }
            }
            _ => self.ctx.counters.count(Dropped::UnownedNotifications),
        }
    }

    /// A log message does not say whose it is; with a single request that asked for any, there is no doubt.
    fn take_log_message(&self, e: &Envelope<'_>) {
        let mut pending = self.pending();
        let abandoned = pending.may_log_for_abandoned(Instant::now());
        let mut owners = pending.waiting.iter().filter_map(|(_, w)| match w {
            Waiting::Client { call, .. } if call.logs => Some(call.reply.clone()),
            _ => None,
        });
        match (owners.next(), owners.next()) {
            (Some(owner), None) if !abandoned => {
                drop(owners);
                drop(pending);
                owner.push(Out::notice(one_line(e, e.text().to_owned())));
            }
            _ => self.ctx.counters.count(Dropped::UnownedNotifications),
        }
    }
}
