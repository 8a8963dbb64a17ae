//! Streamable HTTP in both eras (basic/transports of revisions 2025-03-26 to 2026-07-28).

use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use super::answer::{Answer, Answering, empty, error, not_allowed, plain, unavailable};
use super::body::{Events, Reply};
use super::connection::Connection;
use super::front::Front;
use super::head::Fields;
use super::request::{Asking, RequestBody, VERSION, accepts, body_of, check_version, wants_events, whole_body_of};
use super::respond::{SESSION, answer, events_of, name_session, stream};
use crate::hub::{Client, Dropped, Headers, Kept, Outbox, Server, Session, route};
use crate::model::asked::Accepts;
use crate::model::envelope::{Envelope, Fault, Kind, scan_client, spliced};
use crate::model::modern::{Era, Field};
use crate::model::transport::{SessionKind, Transport};
use crate::model::{jsonrpc, method, modern, trace};
use crate::rt::blocking::{LONG, busy, steps_aside};
use crate::rt::task;

const LAST_EVENT: &str = "last-event-id";

/// Serves a request of the endpoint `.../mcp`.
pub(super) fn serve(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    request: Asking,
) -> Answering {
    if request.head.method != Method::POST && server.core.is_modern_only() {
        // There are no sessions to open a stream of, or to delete (2026-07-28 basic/transports/streamable-http).
        return not_allowed("POST, OPTIONS", "POST").into();
    }
    match request.head.method {
        Method::POST => post(server, connection, request),
        Method::GET => get(front, server, connection, &request.head.fields).into(),
        Method::DELETE => delete(front, server, connection, &request.head.fields).into(),
        _ => not_allowed("POST, GET, DELETE, OPTIONS", "POST, GET or DELETE").into(),
    }
}

/// Whether a request is of a session of this transport, as it says itself.
pub(super) fn names_session(fields: &Fields) -> bool {
    fields.has(SESSION)
}

/// The session that a request names, if it is there and its sender's.
fn named(front: &Front, server: &Arc<Server>, connection: &Connection, fields: &Fields) -> Option<Client> {
    let found = fields.text(SESSION).and_then(|n| front.hub.session(n));
    let found = found.filter(|c| Arc::ptr_eq(&c.session.server, &server.core.name));
    // A session of another principal is not there, however its id became known.
    let own = |s: &Session| s.kind == SessionKind::Lasting(Transport::Http) && s.owner == connection.who();
    found.filter(|c| own(&c.session))
}

/// The session that a request names and that this process does not know, if its id says enough of it.
fn reopened(
    front: &Front,
    server: &Arc<Server>,
    connection: &Connection,
    fields: &Fields,
) -> Option<Result<Client, String>> {
    let id = fields.text(SESSION)?;
    // One that is here is not its sender's.
    if front.hub.session(id).is_some() {
        return None;
    }
    Some(front.hub.reopen_session(id, server, connection.holder())?.map_err(|why| why.to_string()))
}

/// The session that a request has to name.
fn session(
    front: &Front,
    server: &Arc<Server>,
    connection: &Connection,
    fields: &Fields,
    id: Option<&str>,
) -> Result<Client, Box<Answer>> {
    let refuse = |status, why: &str| Box::new(error(status, id, jsonrpc::INVALID_REQUEST, why));
    if !names_session(fields) {
        return Err(refuse(StatusCode::BAD_REQUEST, "no Mcp-Session-Id: begin with 'initialize'"));
    }
    let known = named(front, server, connection, fields).map(Ok);
    let client = match known.or_else(|| reopened(front, server, connection, fields)) {
        Some(Ok(client)) => client,
        Some(Err(why)) => return Err(Box::new(unavailable(id, &why))),
        None => return Err(refuse(StatusCode::NOT_FOUND, "this session has ended: begin again with 'initialize'")),
    };
    if let Err(why) = check_version(fields) {
        return Err(refuse(StatusCode::BAD_REQUEST, &why));
    }
    Ok(client)
}

fn post(server: &Arc<Server>, connection: &Arc<Connection>, request: Asking) -> Answering {
    let Asking { head, body } = request;
    let accepts = accepts(&head.fields);
    if accepts == Accepts::default() {
        let why = "the client must accept application/json and text/event-stream";
        return error(StatusCode::NOT_ACCEPTABLE, None, jsonrpc::INVALID_REQUEST, why).into();
    }
    let post = Post { server: server.clone(), connection: connection.clone(), fields: head.fields, accepts };
    match body {
        RequestBody::Whole(body) => match whole_body_of(&connection.front, connection, &post.fields, body) {
            Ok((text, kept)) => post.take(text, kept),
            Err(refused) => (*refused).into(),
        },
        RequestBody::Coming(request) => Answering::later(async move {
            let body = request.into_body();
            let (text, kept) = match body_of(&post.connection.front, &post.connection, &post.fields, body).await {
                Ok(whole) => whole,
                Err(refused) => return *refused,
            };
            let long = text.len() > LONG;
            let taken = if long { busy(move || post.take(text, kept)).await } else { post.take(text, kept) };
            match taken {
                Answering::Now(answer) => answer,
                Answering::Later(work) if long => steps_aside(work).await,
                Answering::Later(work) => work.await,
            }
        }),
    }
}

/// A POST, but for its body.
struct Post {
    server: Arc<Server>,
    connection: Arc<Connection>,
    fields: Fields,
    accepts: Accepts,
}

impl Post {
    /// Takes its body, which counts as long as it is needed.
    fn take(self, body: String, kept: Kept) -> Answering {
        let (server, connection, fields, accepts) = (&self.server, &self.connection, &self.fields, self.accepts);
        let front = &connection.front;
        let refuse = |fault| plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault)).into();
        let e = match scan_client(&body) {
            Ok(e) => e,
            Err(Fault::Inexact(changes)) => {
                let exact = spliced(&body, &changes);
                return self.take(exact, kept);
            }
            Err(Fault::Batch) => return batch(front, server, connection, fields, &body, accepts),
            Err(fault) => return refuse(fault),
        };
        let traced = trace::from_headers(&e, &|name| fields.text(name));
        let e = match &traced {
            None => e,
            Some(traced) => match scan_client(traced) {
                Ok(e) => e,
                Err(fault) => return refuse(fault),
            },
        };
        let modern_header = fields.text(VERSION).is_some_and(|v| modern::is_modern(v.trim()));
        // A handshake is of the legacy era, whatever its header says.
        let begins = e.kind == Kind::Request && e.method == method::INITIALIZE;
        if modern::claimed(&e) || (modern_header && !begins) {
            return match stateless(server, connection, fields, &e, accepts) {
                Some(answering) => answering,
                None => {
                    let text = traced.unwrap_or(body);
                    Answering::later(async move {
                        let _kept = kept;
                        self.checked(&text).await
                    })
                }
            };
        }
        // Some clients keep the id of a session that has ended, and begin anew with it.
        if begins && named(front, server, connection, fields).is_none() {
            let text = traced.unwrap_or(body);
            return Answering::later(async move {
                let _kept = kept;
                self.initialize(&text).await
            });
        }
        if e.kind == Kind::Notification && !fields.has(SESSION) {
            // Some clients leave out the id behind their handshake; nothing of theirs depends on what cannot be attributed.
            front.hub.ctx.counters.count(Dropped::UnownedNotifications);
            return empty(StatusCode::ACCEPTED).into();
        }
        match session(front, server, connection, fields, e.get(&e.id)) {
            Ok(client) => {
                let later = front.hub.renewed(&client, fields.text(SESSION));
                named_anew(message(client, connection, &e, accepts), later)
            }
            Err(refused) => (*refused).into(),
        }
    }

    /// `initialize` opens a session, whose id comes with the answer. The text was scanned before.
    async fn initialize(self, text: &str) -> Answer {
        let (front, connection) = (&self.connection.front, &self.connection);
        let opened = front.hub.open_session_soon(&self.server, Transport::Http, connection.holder()).await;
        let e = match scan_client(text) {
            Ok(e) => e,
            Err(fault) => return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault)),
        };
        let client = match opened {
            Ok(client) => client,
            Err(why) => return unavailable(e.get(&e.id), &why.to_string()),
        };
        connection.opens_session();
        let mut unconfirmed = UnconfirmedSession(Some(client.clone()), connection.clone());
        let mut response = match message(client.clone(), connection, &e, self.accepts) {
            Answering::Now(answer) => answer,
            Answering::Later(work) => work.await,
        };
        if name_session(&mut response, &front.hub, &client, e.get(&e.params)) {
            unconfirmed.0 = None;
        }
        response
    }

    /// A call of the modern era, once its headers are found to repeat its arguments. The text was scanned before.
    async fn checked(self, text: &str) -> Answer {
        let connection = &self.connection;
        let e = match scan_client(text) {
            Ok(e) => e,
            Err(fault) => return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&fault)),
        };
        let client = self.server.open_request(connection.holder());
        let mut reply = Reply::to(client.clone(), connection.outbox(Outbox::single), connection);
        if let Err(refusal) = route::check_headers(&client, &e, &self.fields).await {
            reply.answered = true;
            return refused(&e, 400, &refusal);
        }
        ask_modern(&reply, &e);
        answer(reply, self.accepts).await
    }
}

/// One request of the modern era: it is served by itself, and cancelled when its client leaves. None if its headers have to be
/// checked first, and it is not known how.
fn stateless(
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    fields: &Fields,
    e: &Envelope<'_>,
    accepts: Accepts,
) -> Option<Answering> {
    if e.kind != Kind::Request {
        return Some(empty(StatusCode::ACCEPTED).into());
    }
    if let Err(refusal) = modern::check_meta(e) {
        return Some(refused(e, 400, &refusal).into());
    }
    let checked = modern::check_headers(e, &|name| fields.field(name)).and_then(|()| modern::check_version(e));
    if let Err(refusal) = checked.and_then(|()| modern::check_method(e)) {
        return Some(refused(e, modern::http_status(refusal.code), &refusal).into());
    }
    if e.method == method::LISTEN && !accepts.events {
        let why = "a subscription is an event stream: the client must accept text/event-stream";
        return Some(error(StatusCode::NOT_ACCEPTABLE, e.get(&e.id), jsonrpc::INVALID_REQUEST, why).into());
    }
    if e.method == method::TOOLS_CALL && server.checks_headers() {
        return None;
    }
    let reply = Reply::to(server.open_request(connection.holder()), connection.outbox(Outbox::single), connection);
    ask_modern(&reply, e);
    Some(Answering::later(answer(reply, accepts)))
}

/// Sends a request of the modern era on its way.
fn ask_modern(reply: &Reply, e: &Envelope<'_>) {
    if let Some(later) = route::modern_message(&reply.client, e, &reply.outbox) {
        task::spawn(later);
    }
}

/// The answer to a request of the modern era that is not as it has to be.
fn refused(e: &Envelope<'_>, status: u16, refusal: &modern::Refusal) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    plain(status, "application/json", refusal.text(e.get(&e.id)))
}

impl Headers for Fields {
    fn field(&self, name: &str) -> Field<'_> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (None, _) => Field::Missing,
            (Some(value), None) => Field::Once(value.trim_ascii()),
            (Some(_), Some(_)) => Field::Several,
        }
    }
}

/// A session whose client has not got its id: it ends with the attempt, also when the client leaves meanwhile.
struct UnconfirmedSession(Option<Client>, Arc<Connection>);

impl Drop for UnconfirmedSession {
    fn drop(&mut self) {
        if let Some(client) = self.0.as_ref().filter(|_| !self.1.is_parking()) {
            self.1.front.hub.end_session(client, "its handshake failed");
        }
    }
}

/// A message of a session: 202 for what needs no answer, else one JSON object, or events if there is more to say.
fn message(client: Client, connection: &Arc<Connection>, e: &Envelope<'_>, accepts: Accepts) -> Answering {
    let outbox = connection.outbox(if accepts.events { Outbox::single } else { Outbox::plain });
    if e.kind != Kind::Request {
        route::message(&client, e, &outbox);
        return empty(StatusCode::ACCEPTED).into();
    }
    let reply = Reply::to(client, outbox, connection);
    if let Some(later) = route::message(&reply.client, e, &reply.outbox) {
        task::spawn(later);
    }
    Answering::later(answer(reply, accepts))
}

/// An answer that tells the client a later id of its session.
fn named_anew(answering: Answering, id: Option<String>) -> Answering {
    let Some(id) = id.and_then(|id| HeaderValue::from_str(&id).ok()) else { return answering };
    let with = |mut answer: Answer| {
        answer.headers_mut().insert(HeaderName::from_static(SESSION), id);
        answer
    };
    match answering {
        Answering::Now(answer) => with(answer).into(),
        Answering::Later(work) => Answering::later(async move { with(work.await) }),
    }
}

/// The stream for messages that answer no request.
fn get(front: &Arc<Front>, server: &Arc<Server>, connection: &Arc<Connection>, fields: &Fields) -> Answer {
    if let Err(response) = wants_events(front, fields) {
        return *response;
    }
    let client = match session(front, server, connection, fields, None) {
        Ok(client) => client,
        Err(response) => return *response,
    };
    if let Some(id) = fields.text(LAST_EVENT) {
        // An id that is not known any more is answered as if there was none: nothing can be replayed.
        let found = client.session.replay().find(id);
        if let Some((lost, event)) = found {
            if lost.outbox.is_finished() && lost.after(event).is_empty() {
                // An empty stream would be taken for one that broke again, for ever.
                let why = "this stream has ended, and nothing that came after this event is kept";
                return error(StatusCode::GONE, None, jsonrpc::INVALID_REQUEST, why);
            }
            return stream(Events::resumed(&client, lost, event, connection));
        }
    }
    let outbox = Arc::new(Outbox::new(front.hub.ctx.config().limits.message.bytes()).counted(connection.keep()));
    client.session.attach(outbox.clone());
    if client.session.take_reopened() {
        client.session.lists_changed(Era::Legacy, &|list| server.core.has_list(list));
    }
    let reply = Reply { client, outbox, answered: true, resumable: true, connection: connection.clone() };
    stream(Events::resumable(reply, None).at_once())
}

/// Several messages at once, which revision 2025-03-26 had.
fn batch(
    front: &Arc<Front>,
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    fields: &Fields,
    body: &str,
    accepts: Accepts,
) -> Answering {
    let client = match session(front, server, connection, fields, None) {
        Ok(client) => client,
        Err(response) => return (*response).into(),
    };
    if client.session.revision() != Some(route::BATCHES) {
        return plain(StatusCode::BAD_REQUEST, "application/json", route::fault_text(&Fault::Batch)).into();
    }
    let outbox = match route::batch(&client, body) {
        Ok(Some(outbox)) => outbox,
        Ok(None) => return empty(StatusCode::ACCEPTED).into(),
        Err(text) => return plain(StatusCode::BAD_REQUEST, "application/json", text).into(),
    };
    if accepts.events {
        return stream(events_of(Reply::to(client, outbox, connection), None)).into();
    }
    let whole = connection.outbox(Outbox::single);
    route::collect(&client, outbox, &whole, false);
    Answering::later(answer(Reply::to(client, whole, connection), accepts))
}

fn delete(front: &Front, server: &Arc<Server>, connection: &Connection, fields: &Fields) -> Answer {
    // It need not be opened for that.
    let sealed = fields.text(SESSION).is_some_and(|id| front.hub.delete_session(id, server, &connection.holder()));
    if sealed && named(front, server, connection, fields).is_none() {
        return empty(StatusCode::NO_CONTENT);
    }
    match session(front, server, connection, fields, None) {
        Ok(client) => {
            front.hub.end_session(&client, "its client deleted it");
            empty(StatusCode::NO_CONTENT)
        }
        Err(response) => *response,
    }
}
