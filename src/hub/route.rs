//! What becomes of a client's message: answered here, passed to the server, or refused.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_lite::FutureExt;

use super::batch::{self, BATCHES};
use super::bridge;
use super::call::Call;
use super::counters::Dropped;
use super::exclusive::Exclusive;
use super::exec::{Executor, direct};
use super::link::Link;
use super::outbox::Outbox;
use super::server::Engine;
use super::session::Session;
use crate::model::envelope::{self, Envelope, Fault, Kind};
use crate::model::mcp::Learnt;
use crate::model::method::Method;
use crate::model::out::Out;
use crate::model::text::printable;
use crate::model::transport::SessionKind;
use crate::model::{ids, jsonrpc, mcp, modern};

/// What requests that wait for a child of one server may take of our memory, in bytes.
pub(super) const HELD: usize = 32 << 20;

/// Why nothing new is taken during a drain.
pub const SHUTTING_DOWN: &str = "the daemon is shutting down";

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

/// Takes any text from a client.
pub fn receive(session: &Arc<Session>, text: &str, reply: &Arc<Outbox>) -> Option<Later> {
    match envelope::scan(text) {
        Ok(e) if modern::claimed(&e) => {
            if e.kind == Kind::Request
                && let Err(refusal) = super::modern::check(&e)
            {
                reply.push(Out::error(refusal.text(e.get(&e.id))));
                return None;
            }
            super::modern::message(session, &e, reply)
        }
        Ok(e) if direct::is_of_it(session, &e) => {
            direct::request(session, &e, reply);
            None
        }
        Ok(e) => message(session, &e, reply),
        Err(Fault::Batch) if session.revision() == Some(BATCHES) => {
            batch::batch_on(session, text, reply);
            None
        }
        Err(fault) => {
            reply.push(Out::error(fault_text(&fault)));
            None
        }
    }
}

/// A request that is to be answered there has a command running, which ends with its client.
pub fn runs_command(session: &Session, reply: &Arc<Outbox>) -> bool {
    executors(session).iter().any(|exec| exec.answers_to(reply))
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
    if let Some(all) = session.bridge() {
        match e.kind {
            Kind::Request => return opened(session, e, reply).and_then(|call| bridge::request(&all, call, e)),
            Kind::Notification => bridge::notification(session, e),
            Kind::Response => bridge::response(session, e),
        }
        return None;
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
    // Anything else without an id is a request that nobody could answer, limit or count.
    if e.kind == Kind::Notification && !e.method.starts_with("notifications/") {
        session.hub.counters.count(Dropped::UnownedNotifications);
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
    pass_exclusive(call, own, e)
}

/// Passes a request to the child that its session has for itself.
fn pass_exclusive(mut call: Call, own: &Arc<Exclusive>, e: &Envelope<'_>) -> Option<Later> {
    let session = &call.session;
    match (e.method.as_ref(), e.get(&e.uri).map(envelope::decode)) {
        ("resources/subscribe", Some(uri)) if session.may_subscribe(&uri) => call.subscribes = Some(uri.into()),
        ("resources/unsubscribe", Some(uri)) => drop(session.unsubscribe(&uri)),
        _ => {}
    }
    let call = match own.link() {
        Some(link) => link.request(call, e)?,
        None => call,
    };
    Some(hold_exclusive(call, own, e.text()))
}

/// Passes a request of the legacy era, which is opened, to the server that its session is at.
pub(super) fn pass(call: Call, e: &Envelope<'_>) -> Option<Later> {
    match call.session.exclusive().cloned() {
        Some(own) => pass_exclusive(call, &own, e),
        None if e.method.starts_with("resources/") && e.method.ends_with("subscribe") => subscription(call, e),
        None => forward(call, e),
    }
}

/// Keeps a request until the child of its session is there.
fn hold_exclusive(call: Call, own: &Arc<Exclusive>, text: &str) -> Later {
    let own = own.clone();
    let ready = move |_| {
        let own = own.clone();
        async move { own.ready().await }
    };
    held(call, text, ready, |call, e, link: Arc<Link>| link.request(call, e))
}

/// Counts a request as open; None if it was refused.
pub(super) fn opened(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Call> {
    let id = e.get(&e.id).unwrap_or("null");
    let refuse = |code, why: &str| {
        reply.push(Out::error(jsonrpc::error(Some(id), code, why)));
    };
    if session.hub.draining.is_set() {
        refuse(jsonrpc::REFUSED, SHUTTING_DOWN);
        return None;
    }
    if e.method == "tools/call"
        && let Some(name) = e.get(&e.name).map(envelope::decode)
        && !session.server.admits(&name)
    {
        let why = format!("the tool '{}' may not be used here", printable(&name, 100));
        refuse(jsonrpc::INVALID_PARAMS, &why);
        return None;
    }
    match session.open(Method::of(&e.method), id, e.get(&e.progress_token), reply) {
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
            Some(link) => send(call, e, &link)?,
            None => call,
        },
        Engine::Exec(exec) => {
            exec.request(call, e);
            return None;
        }
        Engine::Bridge(_) | Engine::None => call,
    };
    let ready = |session: Arc<Session>| async move { session.server.ready_link(&session).await };
    Some(held(call, e.text(), ready, |call, e, link: Arc<Link>| send(call, e, &link)))
}

/// Takes up a request that waited for a child in the program before.
pub(super) fn again(call: Call, text: &str) -> Option<Later> {
    let e = envelope::scan(text).ok()?;
    match call.session.exclusive().cloned() {
        Some(own) => Some(hold_exclusive(call, &own, text)),
        None if call.session.bridge().is_some() => bridge::request(&call.session.bridge()?, call, &e),
        None if modern::claimed(&e) => Some(super::modern::wait(call, text)),
        None if e.method == "initialize" => initialize(call, &e),
        None => forward(call, &e),
    }
}

/// Opens the subscriptions of the modern era that waited for a child in the program before.
pub(super) fn listen_again(session: &Arc<Session>) {
    for listen in session.listens().iter().filter(|l| !l.is_acknowledged()) {
        let at_a_child = session.server.children().is_some_and(|c| c.links().iter().any(|link| link.has(listen)));
        let Some(text) = listen.request.as_ref().filter(|_| !at_a_child) else { continue };
        session.take_listen(&listen.id);
        if let Ok(e) = envelope::scan(text) {
            super::modern::message(session, &e, &listen.reply).map(async_std::task::spawn);
        }
    }
}

/// Sends a request of the legacy era to a shared child, if that speaks it. Given back if the child is gone meanwhile.
fn send(call: Call, e: &Envelope<'_>, link: &Arc<Link>) -> Option<Call> {
    if !link.is_modern() {
        return link.request(call, e);
    }
    let text = modern::only(e.get(&e.protocol_version)).text(Some(&call.id));
    call.answer(text, true);
    None
}

/// Keeps a request with its text until what it needs is `ready`, in reach of a cancellation; then it is sent on, again if
/// need be.
pub(super) fn held<T, F>(
    call: Call,
    text: &str,
    ready: impl Fn(Arc<Session>) -> F + Send + 'static,
    send: impl Fn(Call, &Envelope<'_>, T) -> Option<Call> + Send + 'static,
) -> Later
where
    F: Future<Output = Result<T, String>> + Send,
    T: Send,
{
    let (session, text) = (call.session.clone(), Arc::<str>::from(text));
    // Now, and not when the task first runs: whoever cancels it must find it.
    let mut held = session.hold(call, &text);
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
                Ok(found) => match envelope::scan(&text).ok().and_then(|e| send(call, &e, found)) {
                    None => return,
                    Some(back) => held = session.hold(back, &text),
                },
                Err(why) => return call.error(jsonrpc::INTERNAL_ERROR, &why),
            }
        }
    })
}

/// Answers the handshake from what the child said in its own.
fn initialize(call: Call, e: &Envelope<'_>) -> Option<Later> {
    if let Some(learnt) = call.session.server.learnt_now() {
        greet(call, e, &learnt);
        return None;
    }
    let ready = |session: Arc<Session>| async move { session.server.learnt(&session).await };
    Some(held(call, e.text(), ready, |call, e, learnt| {
        greet(call, e, &learnt);
        None
    }))
}

fn greet(call: Call, e: &Envelope<'_>, learnt: &Learnt) {
    let asked = e.get(&e.protocol_version);
    if learnt.revision == modern::VERSION {
        let asked = asked.map(|v| envelope::quote(&envelope::decode(v)));
        let text = modern::only(asked.as_deref()).text(Some(&call.id));
        return call.answer(text, true);
    }
    let (revision, result) = learnt.answer_shared(asked.map(envelope::decode).as_deref());
    call.session.agree(revision);
    call.result(&result);
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
fn take_calls(session: &Arc<Session>, wanted: &dyn Fn(&Call) -> bool, why: &str) -> Vec<Call> {
    let own = |call: &Call| call.session.number == session.number && wanted(call);
    let mut taken = session.withdraw_held(own);
    for part in session.parts() {
        taken.extend(take_calls(&part, wanted, why));
    }
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
    take_calls(session, &wanted, "the client cancelled it").into_iter().for_each(Call::withdraw);
}

/// The executor of a session's server, and those that a reload has replaced and still have commands to finish.
pub(super) fn executors(session: &Session) -> Vec<Arc<Executor>> {
    let mut all = session.hub.retiring_executors();
    match session.server.engine() {
        Engine::Exec(exec) => all.push(exec),
        Engine::Bridge(_) => all.extend(session.hub.servers().iter().filter_map(|s| s.executor())),
        _ => {}
    }
    all
}

/// The connection that a request came on is gone. In the legacy era that does not cancel it (2025-11-25
/// basic/transports), but a command of the executor ends with the only one who could hear of it.
pub fn abandoned(session: &Arc<Session>, reply: &Arc<Outbox>) {
    if session.kind == SessionKind::Request {
        // In the modern era it does, and there was nothing else (2026-07-28 basic/transports/streamable-http).
        return session.hub.end_session(session, "its client has left");
    }
    for exec in executors(session) {
        exec.cancel(|call| Arc::ptr_eq(&call.reply, reply)).into_iter().for_each(Call::withdraw);
    }
}

/// Gives up what a session that ended still has. Whoever waits on another connection is told.
pub(super) fn session_ended(session: &Arc<Session>, why: &str) {
    for call in take_calls(session, &|_| true, why) {
        call.error(jsonrpc::REFUSED, &format!("the session has ended: {why}"));
    }
    for part in session.take_parts() {
        session.hub.end_session(&part, why);
    }
    for exec in executors(session) {
        exec.leave(session);
    }
    for listen in session.listens() {
        super::modern::unlisten(session, &listen);
    }
    let uris: Vec<String> = session.subscriptions.lock().drain().collect();
    for uri in uris {
        forget_resource(session, &uri);
    }
}

/// Nobody of this session subscribes to a resource any more: its child hears of it if nobody else does.
pub(super) fn forget_resource(session: &Session, uri: &str) {
    if session.server.subscribers(uri, session) == 0
        && let Some(link) = session.server.link(session)
    {
        link.tell("resources/unsubscribe", &mcp::uri_params(uri));
    }
}
