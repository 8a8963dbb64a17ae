//! What becomes of a client's message: answered here, passed to the server, or refused.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use futures_lite::FutureExt;

use super::counters::Dropped;
use super::exec::Executor;
use super::outbox::{Out, Outbox};
use super::server::Engine;
use super::session::{Call, Session};
use crate::model::envelope::{self, Envelope, Fault, Kind};
use crate::model::jsonrpc;
use crate::model::text::printable;

/// What requests that wait for a child of one server may take of our memory, in bytes.
pub(super) const HELD: usize = 32 << 20;

/// Work that has to wait for a child; run it as a task.
pub type Later = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The error that answers a text that is no message.
pub fn fault_text(fault: &Fault<'_>) -> String {
    match fault {
        Fault::Json(at, what) => jsonrpc::error(None, jsonrpc::PARSE_ERROR, &format!("not JSON at byte {at}: {what}")),
        Fault::Batch => {
            jsonrpc::error(None, jsonrpc::INVALID_REQUEST, "batches are not supported: send one message at a time")
        }
        Fault::Message(id, what) => jsonrpc::error(*id, jsonrpc::INVALID_REQUEST, what),
    }
}

/// Takes any text from a client.
pub fn receive(session: &Arc<Session>, text: &str, reply: &Arc<Outbox>) -> Option<Later> {
    match envelope::scan(text) {
        Ok(e) => message(session, &e, reply),
        Err(fault) => {
            reply.push(Out { text: fault_text(&fault), answer: true, failed: true });
            None
        }
    }
}

/// Takes a message from a client. Its answer, if it is a request, goes to `reply`.
pub fn message(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    session.touch();
    if e.method != "initialize" {
        session.note_use();
    }
    match e.kind {
        Kind::Request => request(session, e, reply),
        Kind::Notification => {
            notification(session, e);
            None
        }
        // Shared children ask clients nothing, so no client can have anything to answer.
        Kind::Response => {
            session.hub.counters.count(Dropped::UnownedReplies);
            None
        }
    }
}

fn request(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    let id = e.get(&e.id).unwrap_or("null");
    let refuse = |code, why: &str| {
        reply.push(Out { text: jsonrpc::error(Some(id), code, why), answer: true, failed: true });
    };
    if session.hub.draining.is_set() {
        refuse(jsonrpc::REFUSED, "the daemon is shutting down");
        return None;
    }
    let call = match session.open(id, e.get(&e.progress_token), reply) {
        Ok(call) => call,
        Err(why) => {
            session.hub.counters.count(Dropped::InFlight);
            refuse(jsonrpc::REFUSED, &why);
            return None;
        }
    };
    match e.method.as_ref() {
        "initialize" => initialize(call, e),
        "ping" => {
            call.result("{}");
            None
        }
        "logging/setLevel" => {
            let text = "log messages of a shared server belong to nobody in particular, so it sends none";
            call.error(jsonrpc::METHOD_NOT_FOUND, text);
            None
        }
        // Tasks outlive their request and are listed by whoever asks: on a shared child, one client could read what
        // another started.
        method if method.starts_with("tasks/") || e.task.is_some() => {
            call.error(
                jsonrpc::METHOD_NOT_FOUND,
                "tasks are not possible here: this server is shared by several clients",
            );
            None
        }
        "resources/subscribe" | "resources/unsubscribe" if e.uri.is_some() => subscription(call, e),
        // A child that tells messages apart by their names alone would act on it, with ids that are not its sender's.
        method if method.starts_with("notifications/") => {
            call.error(
                jsonrpc::INVALID_REQUEST,
                &format!("'{}' is a notification: it has no id", printable(method, 100)),
            );
            None
        }
        _ => forward(call, e),
    }
}

/// Passes a request to the server, waiting for its child where there is none at the moment.
fn forward(call: Call, e: &Envelope<'_>) -> Option<Later> {
    let call = match call.session.server.engine() {
        Engine::Child { link: Some(link), .. } => link.request(call, e)?,
        Engine::Exec(exec) => {
            exec.request(call, e);
            return None;
        }
        Engine::Child { link: None, .. } | Engine::None => call,
    };
    let text = e.text().to_owned();
    let session = call.session.clone();
    let mut held = match session.hold(call, text.len()) {
        Ok(held) => held,
        Err(call) => {
            session.hub.counters.count(Dropped::Waiting);
            let (name, limit) = (&session.server.name, HELD >> 20);
            let why = format!("server '{name}' has no child at the moment, and {limit} MiB wait for the next already");
            call.error(jsonrpc::REFUSED, &why);
            return None;
        }
    };
    Some(Box::pin(async move {
        loop {
            let withdrawn = async {
                held.withdrawn.wait().await;
                Err(String::new())
            };
            let link = session.server.ready_link().or(withdrawn).await;
            let Some(call) = session.release(&held) else { return };
            match (link, envelope::scan(&text)) {
                (Ok(link), Ok(e)) => match link.request(call, &e) {
                    None => return,
                    Some(back) => match session.hold(back, text.len()) {
                        Ok(again) => held = again,
                        Err(call) => return call.error(jsonrpc::REFUSED, "its child ended again"),
                    },
                },
                (Err(why), _) => return call.error(jsonrpc::INTERNAL_ERROR, &why),
                (Ok(_), Err(_)) => return,
            }
        }
    }))
}

/// Answers the handshake from what the child said in its own.
fn initialize(call: Call, e: &Envelope<'_>) -> Option<Later> {
    let asked = e.get(&e.protocol_version).map(|v| envelope::decode(v).into_owned());
    let greet = |call: Call, learnt: &crate::model::mcp::Learnt, asked: Option<&str>| {
        let (revision, result) = learnt.answer_shared(asked);
        call.session.agree(revision);
        call.result(&result);
    };
    if let Some(learnt) = call.session.server.learnt_now() {
        greet(call, &learnt, asked.as_deref());
        return None;
    }
    Some(Box::pin(async move {
        let server = call.session.server.clone();
        match server.learnt().await {
            Ok(learnt) => greet(call, &learnt, asked.as_deref()),
            Err(why) => call.error(jsonrpc::INTERNAL_ERROR, &why),
        }
    }))
}

/// Subscriptions are counted: the child hears of the first subscriber and of the last one's leave.
fn subscription(call: Call, e: &Envelope<'_>) -> Option<Later> {
    let uri = e.get(&e.uri).map(envelope::decode).unwrap_or(Cow::Borrowed("")).into_owned();
    let session = call.session.clone();
    let wanted = e.method == "resources/subscribe";
    if wanted && !session.may_subscribe(&uri) {
        call.error(jsonrpc::REFUSED, "this session has too many subscriptions, or the URI is too long");
        return None;
    }
    let mut call = call;
    if !wanted && !session.unsubscribe(&uri) || session.server.subscribers(&uri) > 0 {
        if wanted {
            session.subscribe(&uri);
        }
        call.result("{}");
        return None;
    }
    if wanted {
        call.subscribes = Some(uri.into());
    }
    forward(call, e)
}

fn notification(session: &Arc<Session>, e: &Envelope<'_>) {
    match e.method.as_ref() {
        // The daemon has had its own handshake with the child.
        "notifications/initialized" | "notifications/roots/list_changed" => {}
        "notifications/cancelled" => {
            if let Some(id) = e.get(&e.request_id) {
                cancel(session, |call| &*call.id == id, "the client cancelled it");
            }
        }
        // Progress of a client on a request of the server: a shared server has none.
        "notifications/progress" => session.hub.counters.count(Dropped::UnownedNotifications),
        // Anything else is a request without an id, which nobody could answer, limit or count.
        method => match session.server.engine() {
            Engine::Child { link: Some(link), .. } if method.starts_with("notifications/") => link.notify(e),
            _ => session.hub.counters.count(Dropped::UnownedNotifications),
        },
    }
}

fn cancel(session: &Arc<Session>, wanted: impl Fn(&Call) -> bool, why: &str) {
    let own = |call: &Call| call.session.number == session.number && wanted(call);
    session.withdraw_held(own).into_iter().for_each(Call::withdraw);
    for link in session.hub.retiring_links() {
        link.cancel(own, why);
    }
    if let Engine::Child { link: Some(link), .. } = session.server.engine() {
        link.cancel(own, why);
    }
    for exec in executors(session) {
        exec.cancel(own);
    }
}

/// The executor of a session's server, and those that a reload has replaced and still have commands to finish.
fn executors(session: &Session) -> Vec<Arc<Executor>> {
    let mut all = session.hub.retiring_executors();
    if let Engine::Exec(exec) = session.server.engine() {
        all.push(exec);
    }
    all
}

/// The connection that a request came on is gone. In the legacy era that does not cancel it (2025-11-25
/// basic/transports), but a command of the executor ends with the only one who could hear of it.
pub fn abandoned(session: &Arc<Session>, reply: &Arc<Outbox>) {
    for exec in executors(session) {
        exec.cancel(|call| Arc::ptr_eq(&call.reply, reply));
    }
}

/// Gives up what a session that ended still has.
pub(super) fn session_ended(session: &Arc<Session>, why: &str) {
    cancel(session, |_| true, why);
    let uris: Vec<String> = session.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
    for uri in uris {
        if session.server.subscribers(&uri) == 0
            && let Some(link) = session.server.link()
        {
            link.tell("resources/unsubscribe", &format!(r#"{{"uri":{}}}"#, envelope::quote(&uri)));
        }
    }
}

impl Session {
    pub fn subscribed(&self, uri: &str) -> bool {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).contains(uri)
    }

    /// What a session may hold of us: a thousand subscriptions of a length that URIs have.
    fn may_subscribe(&self, uri: &str) -> bool {
        let held = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).len();
        uri.len() <= 8 << 10 && held < 1000
    }

    pub(super) fn subscribe(&self, uri: &str) {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).insert(uri.to_owned());
    }

    /// True if it was subscribed.
    fn unsubscribe(&self, uri: &str) -> bool {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).remove(uri)
    }

    pub fn all_subscriptions(&self) -> Vec<String> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
