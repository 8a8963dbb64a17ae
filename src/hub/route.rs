//! What becomes of a client's message: answered here, passed to the server, or refused.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use futures_lite::FutureExt;

use super::counters::Dropped;
use super::exclusive::Exclusive;
use super::exec::Executor;
use super::link::Link;
use super::outbox::{Out, Outbox};
use super::server::Engine;
use super::session::{Call, Session, Transport};
use crate::model::envelope::{self, Envelope, Fault, Kind};
use crate::model::text::printable;
use crate::model::{ids, jsonrpc, modern};

/// The one revision that has batches.
pub const BATCHES: &str = "2025-03-26";

/// What requests that wait for a child of one server may take of our memory, in bytes.
pub(super) const HELD: usize = 32 << 20;

/// Work that has to wait for a child; run it as a task.
pub type Later = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The error that answers a text that is no message.
pub fn fault_text(fault: &Fault<'_>) -> String {
    match fault {
        Fault::Json(at, what) => jsonrpc::error(None, jsonrpc::PARSE_ERROR, &format!("not JSON at byte {at}: {what}")),
        Fault::Batch => {
            let why = format!("batches are for sessions of revision {BATCHES} alone: send one message at a time");
            jsonrpc::error(None, jsonrpc::INVALID_REQUEST, &why)
        }
        Fault::Message(id, what) => jsonrpc::error(*id, jsonrpc::INVALID_REQUEST, what),
    }
}

/// Takes the messages of a batch. The outbox is for their answers; None if there will be none. An error is the answer to
/// the batch as a whole.
pub fn batch(session: &Arc<Session>, text: &str, limit: usize) -> Result<Option<Arc<Outbox>>, String> {
    let invalid = |why: &str| Err(jsonrpc::error(None, jsonrpc::INVALID_REQUEST, why));
    let Some(messages) = envelope::batch(text) else { return invalid("a batch is an array of messages") };
    let most = session.hub.config().limits.in_flight as usize;
    if messages.is_empty() || messages.len() > most {
        return invalid(&format!("a batch holds 1 to {most} messages (limits.in_flight)"));
    }
    let scanned: Vec<_> = messages.iter().map(|text| envelope::scan(text)).collect();
    let due = scanned.iter().filter(|s| s.as_ref().map_or(true, |e| e.kind == Kind::Request)).count();
    let outbox = Arc::new(Outbox::batch(limit, due));
    for one in scanned {
        let later = match one {
            Ok(e) if e.method == "initialize" && e.kind == Kind::Request => {
                let text =
                    jsonrpc::error(e.get(&e.id), jsonrpc::INVALID_REQUEST, "'initialize' must not be in a batch");
                outbox.push(Out { text, answer: true, failed: true });
                None
            }
            Ok(e) if modern::claimed(&e) && e.kind == Kind::Request => {
                let why = format!("revision {} has no batches", modern::VERSION);
                let text = jsonrpc::error(e.get(&e.id), jsonrpc::INVALID_REQUEST, &why);
                outbox.push(Out { text, answer: true, failed: true });
                None
            }
            Ok(e) => message(session, &e, &outbox),
            Err(fault) => {
                outbox.push(Out { text: fault_text(&fault), answer: true, failed: true });
                None
            }
        };
        if let Some(later) = later {
            async_std::task::spawn(later);
        }
    }
    Ok((due > 0).then_some(outbox))
}

/// The answers of a batch as one array, None if there are none; what is no answer goes to `aside`. Answers beyond
/// `limit` bytes in all become errors.
pub async fn collect(answers: &Outbox, limit: usize, aside: impl Fn(Out)) -> Option<String> {
    let mut all = String::new();
    while let Some(out) = answers.next().await {
        if !out.answer {
            aside(out);
            continue;
        }
        all.push(if all.is_empty() { '[' } else { ',' });
        if all.len() + out.text.len() <= limit {
            all.push_str(&out.text);
        } else {
            let id = envelope::member(&out.text, "id");
            let why = "the answers of this batch are longer than limits.reply";
            all.push_str(&jsonrpc::error(id, jsonrpc::REFUSED, why));
        }
    }
    (!all.is_empty()).then(|| all + "]")
}

/// A batch on a connection that carries everything: its answers are one message, the rest passes as it comes.
fn batch_on(session: &Arc<Session>, text: &str, reply: &Arc<Outbox>) -> Option<Later> {
    let answers = match batch(session, text, session.hub.config().limits.reply.bytes().saturating_mul(2)) {
        Ok(answers) => answers?,
        Err(text) => {
            reply.push(Out { text, answer: true, failed: true });
            return None;
        }
    };
    let (reply, limit) = (reply.clone(), session.hub.config().limits.reply.bytes());
    Some(Box::pin(async move {
        let aside = |out| {
            reply.push(out);
        };
        if let Some(text) = collect(&answers, limit, aside).await {
            reply.push(Out { text, answer: true, failed: false });
        }
    }))
}

/// Takes any text from a client.
pub fn receive(session: &Arc<Session>, text: &str, reply: &Arc<Outbox>) -> Option<Later> {
    match envelope::scan(text) {
        Ok(e) if modern::claimed(&e) => {
            if e.kind == Kind::Request
                && let Err(refusal) = super::modern::check(&e)
            {
                reply.push(Out { text: refusal.text(e.get(&e.id)), answer: true, failed: true });
                return None;
            }
            super::modern::message(session, &e, reply)
        }
        Ok(e) => message(session, &e, reply),
        Err(Fault::Batch) if session.revision() == Some(BATCHES) => batch_on(session, text, reply),
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
    if let Some(own) = session.exclusive() {
        return exclusive(session, own, e, reply);
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

/// A session with a child of its own: everything passes, but ids are ours so that each answer finds its request.
fn exclusive(session: &Arc<Session>, own: &Arc<Exclusive>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    if e.kind == Kind::Response {
        // Only what the child has asked, and once.
        match (e.get(&e.id).is_some_and(|id| own.answered(id)), own.link()) {
            (true, Some(link)) => link.notify(e),
            _ => session.hub.counters.count(Dropped::UnownedReplies),
        }
        return None;
    }
    own.note(e);
    if e.kind == Kind::Notification {
        match (e.method.as_ref(), own.link()) {
            ("notifications/cancelled", _) => {
                if let Some(id) = e.get(&e.request_id) {
                    cancelled(session, id);
                }
            }
            (_, Some(link)) => link.notify(e),
            // A new child will hear of the handshake; anything else was for the one that died.
            (_, None) => {}
        }
        return None;
    }
    let mut call = opened(session, e, reply)?;
    call.opening = e.method == "initialize";
    if call.opening {
        session.note_era(false);
    }
    match (e.method.as_ref(), e.get(&e.uri).map(envelope::decode)) {
        ("resources/subscribe", Some(uri)) if session.may_subscribe(&uri) => call.subscribes = Some(uri.into()),
        ("resources/unsubscribe", Some(uri)) => drop(session.unsubscribe(&uri)),
        _ => {}
    }
    let call = match own.link() {
        Some(link) => link.request(call, e)?,
        None => call,
    };
    let text = e.text().to_owned();
    let own = own.clone();
    let ready = move |_| {
        let own = own.clone();
        async move { own.ready().await }
    };
    Some(held(call, text.len(), ready, move |call, link: Arc<Link>| match envelope::scan(&text) {
        Ok(e) => link.request(call, &e),
        Err(_) => None,
    }))
}

/// Counts a request as open; None if it was refused.
pub(super) fn opened(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Call> {
    let id = e.get(&e.id).unwrap_or("null");
    let refuse = |code, why: &str| {
        reply.push(Out { text: jsonrpc::error(Some(id), code, why), answer: true, failed: true });
    };
    if session.hub.draining.is_set() {
        refuse(jsonrpc::REFUSED, "the daemon is shutting down");
        return None;
    }
    match session.open(id, e.get(&e.progress_token), reply) {
        Ok(call) => Some(call),
        Err(why) => {
            session.hub.counters.count(Dropped::InFlight);
            refuse(jsonrpc::REFUSED, &why);
            None
        }
    }
}

fn request(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    let call = opened(session, e, reply)?;
    if session.server.link(session).is_some_and(|l| l.is_modern()) && e.method != "ping" {
        refuse_era(call, e);
        return None;
    }
    match e.method.as_ref() {
        "initialize" => {
            session.note_era(false);
            initialize(call, e)
        }
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
        _ if is_task(e) => {
            call.error(jsonrpc::METHOD_NOT_FOUND, NO_TASKS);
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

/// Whether a request is about a task, or is to become one.
pub(super) fn is_task(e: &Envelope<'_>) -> bool {
    e.method.starts_with("tasks/") || e.task.is_some()
}

pub(super) const NO_TASKS: &str = "tasks are not possible here: this child is shared by several clients";

/// Passes a request to the server, waiting for its child where there is none at the moment.
fn forward(call: Call, e: &Envelope<'_>) -> Option<Later> {
    let call = match call.session.server.engine() {
        Engine::Children(children) => match children.slot(call.session.slot).link() {
            Some(link) => link.request(call, e)?,
            None => call,
        },
        Engine::Exec(exec) => {
            exec.request(call, e);
            return None;
        }
        Engine::None => call,
    };
    let text = e.text().to_owned();
    let ready = |session: Arc<Session>| async move { session.server.ready_link(&session).await };
    Some(held(call, text.len(), ready, move |call, link: Arc<Link>| match envelope::scan(&text) {
        Ok(e) if link.is_modern() => {
            refuse_era(call, &e);
            None
        }
        Ok(e) => link.request(call, &e),
        Err(_) => None,
    }))
}

/// The server speaks the modern era and no other.
fn refuse_era(call: Call, e: &Envelope<'_>) {
    let text = modern::only(e.get(&e.protocol_version)).text(Some(&call.id));
    call.answer(text, true);
}

/// Keeps a request of so many bytes until what it needs is `ready`, in reach of a cancellation; then it is sent on, again
/// if need be.
pub(super) fn held<T, F>(
    call: Call,
    size: usize,
    ready: impl Fn(Arc<Session>) -> F + Send + 'static,
    send: impl Fn(Call, T) -> Option<Call> + Send + 'static,
) -> Later
where
    F: Future<Output = Result<T, String>> + Send,
    T: Send,
{
    let session = call.session.clone();
    // Now, and not when the task first runs: whoever cancels it must find it.
    let mut held = session.hold(call, size);
    Box::pin(async move {
        loop {
            let waiting = match held {
                Ok(waiting) => waiting,
                Err(call) => {
                    session.hub.counters.count(Dropped::Waiting);
                    let (name, limit) = (&session.server.name, HELD >> 20);
                    let why = format!("server '{name}' has no child ready, and {limit} MiB wait for it already");
                    return call.error(jsonrpc::REFUSED, &why);
                }
            };
            let withdrawn = async {
                waiting.withdrawn.wait().await;
                Err(String::new())
            };
            let found = ready(session.clone()).or(withdrawn).await;
            let Some(call) = session.release(&waiting) else { return };
            match found {
                Ok(found) => match send(call, found) {
                    None => return,
                    Some(back) => held = session.hold(back, size),
                },
                Err(why) => return call.error(jsonrpc::INTERNAL_ERROR, &why),
            }
        }
    })
}

/// Answers the handshake from what the child said in its own.
fn initialize(call: Call, e: &Envelope<'_>) -> Option<Later> {
    let asked = e.get(&e.protocol_version).map(|v| envelope::decode(v).into_owned());
    let greet = |call: Call, learnt: &crate::model::mcp::Learnt, asked: Option<&str>| {
        if learnt.revision == modern::VERSION {
            let asked = asked.map(envelope::quote);
            let text = modern::only(asked.as_deref()).text(Some(&call.id));
            return call.answer(text, true);
        }
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
        match server.learnt(&call.session).await {
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
    if !wanted && !session.unsubscribe(&uri) || session.server.subscribers(&uri, &session) > 0 {
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
                cancelled(session, id);
            }
        }
        // Progress of a client on a request of the server: a shared server has none.
        "notifications/progress" => session.hub.counters.count(Dropped::UnownedNotifications),
        // Anything else is a request without an id, which nobody could answer, limit or count.
        method => match session.server.link(session) {
            Some(link) if method.starts_with("notifications/") => link.notify(e),
            _ => session.hub.counters.count(Dropped::UnownedNotifications),
        },
    }
}

/// Gives up the requests of a session that fit.
fn take_calls(session: &Arc<Session>, wanted: impl Fn(&Call) -> bool, why: &str) -> Vec<Call> {
    let own = |call: &Call| call.session.number == session.number && wanted(call);
    let mut taken = session.withdraw_held(own);
    for link in session.hub.retiring_links() {
        taken.extend(link.cancel(own, why));
    }
    for link in session.server.children().iter().flat_map(|c| c.links()) {
        taken.extend(link.cancel(own, why));
    }
    for exec in executors(session) {
        taken.extend(exec.cancel(own));
    }
    taken
}

/// The client has cancelled a request or a subscription, and wants no answer.
pub(super) fn cancelled(session: &Arc<Session>, id: &str) {
    super::modern::end_listen(session, id);
    let wanted = |call: &Call| ids::same(&call.id, id) && !call.opening;
    take_calls(session, wanted, "the client cancelled it").into_iter().for_each(Call::withdraw);
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
    if session.transport == Transport::Stateless {
        // In the modern era it does, and there was nothing else (2026-07-28 basic/transports/streamable-http).
        return session.hub.end_session(session, "its client has left");
    }
    for exec in executors(session) {
        exec.cancel(|call| Arc::ptr_eq(&call.reply, reply)).into_iter().for_each(Call::withdraw);
    }
}

/// Gives up what a session that ended still has. Whoever waits on another connection is told.
pub(super) fn session_ended(session: &Arc<Session>, why: &str) {
    for call in take_calls(session, |_| true, why) {
        call.error(jsonrpc::REFUSED, &format!("the session has ended: {why}"));
    }
    for listen in session.listens() {
        super::modern::unlisten(session, &listen);
    }
    let uris: Vec<String> = session.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
    for uri in uris {
        forget_resource(session, &uri);
    }
}

/// Nobody of this session subscribes to a resource any more: its child hears of it if nobody else does.
pub(super) fn forget_resource(session: &Session, uri: &str) {
    if session.server.subscribers(uri, session) == 0
        && let Some(link) = session.server.link(session)
    {
        link.tell("resources/unsubscribe", &format!(r#"{{"uri":{}}}"#, envelope::quote(uri)));
    }
}

impl Session {
    pub fn subscribed(&self, uri: &str) -> bool {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).contains(uri)
    }

    /// What a session may hold of us: a thousand subscriptions of a length that URIs have.
    pub(super) fn may_subscribe(&self, uri: &str) -> bool {
        let held = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).len();
        uri.len() <= 8 << 10 && held < 1000
    }

    pub(super) fn subscribe(&self, uri: &str) {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).insert(uri.to_owned());
    }

    /// True if it was subscribed.
    pub(super) fn unsubscribe(&self, uri: &str) -> bool {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).remove(uri)
    }

    pub fn all_subscriptions(&self) -> Vec<String> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
