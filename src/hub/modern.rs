//! Requests of the modern era: found a child that speaks it, or translated for one that does not.
//!
//! There are no sessions. Over HTTP each request brings a [`Session`] of its own that ends with it, so that whatever it
//! holds is given up when its client leaves; over a WebSocket it is the connection's.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, info};

use super::Hub;
use super::counters::Dropped;
use super::exec::Executor;
use super::link::Link;
use super::outbox::{Out, Outbox};
use super::route::{self, Later};
use super::server::{Children, Engine, Verdict};
use super::session::{Call, Listen, Session, Transport};
use super::slot::{Slot, Wish};
use super::supervisor::{self, Supervisor};
use crate::model::config::Kind as ServerKind;
use crate::model::envelope::{self, Envelope, Kind, member};
use crate::model::modern::{self, Filter, Refusal};
use crate::model::{jsonrpc, mcp};

/// After this time a server that did not speak the modern era is asked again: it may have been updated meanwhile.
const VERDICT: Duration = Duration::from_secs(3600);

/// Who answers a request.
pub enum Target {
    /// A child of the modern era: nothing is changed but ids.
    Modern(Arc<Link>),
    /// A child of the legacy era.
    Legacy(Arc<Link>),
    Exec(Arc<Executor>),
}

impl Hub {
    /// What a request of the modern era is served by in place of a session.
    pub fn stateless(self: &Arc<Self>, server: &Arc<super::server::Server>) -> Arc<Session> {
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let session = Session::new(number, String::new(), Transport::Stateless, server.clone(), self.clone());
        session.note_modern();
        Arc::new(session)
    }
}

/// Takes a message whose envelope has been checked. Its answer goes to `reply`.
pub fn message(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    session.note_modern();
    session.touch();
    match e.kind {
        Kind::Request => request(session, e, reply),
        Kind::Notification if e.method == "notifications/cancelled" => {
            if let Some(id) = e.get(&e.request_id) {
                cancel(session, id);
            }
            None
        }
        // Nothing else goes from a client to a server in this era.
        Kind::Notification => {
            session.hub.counters.count(Dropped::UnownedNotifications);
            None
        }
        Kind::Response => {
            session.hub.counters.count(Dropped::UnownedReplies);
            None
        }
    }
}

/// Whether a request may pass, apart from its headers.
pub fn check(e: &Envelope<'_>) -> Result<(), Refusal> {
    modern::check_meta(e)?;
    modern::check_version(e)?;
    modern::check_method(e)
}

fn cancel(session: &Arc<Session>, id: &str) {
    if let Some(listen) = session.take_listen(id) {
        unlisten(session, &listen);
    }
    route::cancel(session, |call| &*call.id == id, "the client cancelled it");
}

/// Ends a subscription at the children that have it.
fn unlisten(session: &Session, listen: &Arc<Listen>) {
    if let Some(children) = session.server.children() {
        children.links().iter().for_each(|link| link.unlisten(listen));
    }
}

fn request(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    if e.method == "subscriptions/listen" {
        return listen(session, e, reply);
    }
    let mut call = route::opened(session, e, reply)?;
    call.logs = e.modern.log_level.is_some();
    match target_now(session) {
        Some(target) => forward(call, e, target).map(|call| wait(call, e.text())),
        None => Some(wait(call, e.text())),
    }
}

/// Sends a request on; given back if its child is gone meanwhile.
fn forward(mut call: Call, e: &Envelope<'_>, target: Target) -> Option<Call> {
    match target {
        Target::Modern(link) => link.request(call, e),
        Target::Legacy(link) => {
            call.translated = Some(e.method.as_ref().into());
            match (e.method.as_ref(), link.learnt()) {
                ("server/discover", Some(learnt)) => {
                    let text = jsonrpc::result(&call.id, &modern::discover_result(learnt));
                    call.answer(text, false);
                    None
                }
                _ => link.request(call, e),
            }
        }
        Target::Exec(exec) => {
            call.translated = Some(e.method.as_ref().into());
            match e.method.as_ref() {
                "server/discover" => {
                    let text = jsonrpc::result(&call.id, &modern::discover_result(&exec.learnt()));
                    call.answer(text, false);
                }
                _ => exec.request(call, e),
            }
            None
        }
    }
}

/// Waits for a child, in reach of a cancellation, then sends the request on.
fn wait(call: Call, text: &str) -> Later {
    let text = text.to_owned();
    route::held(
        call,
        text.len(),
        move |session| async move { target(&session).await },
        move |call, target| match envelope::scan(&text) {
            Ok(e) => forward(call, &e, target),
            Err(_) => None,
        },
    )
}

// --- subscriptions ---------------------------------------------------------------------------------------------------

fn listen(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    // What is open counts as open only while it is checked: a subscription holds up no drain.
    drop(route::opened(session, e, reply)?);
    let id = e.get(&e.id).unwrap_or("null").to_owned();
    let filter = match Filter::read(e.get(&e.params).unwrap_or("{}")) {
        Ok(filter) => filter,
        Err(refusal) => {
            reply.push(Out { text: refusal.text(Some(&id)), answer: true, failed: true });
            return None;
        }
    };
    if let Some(target) = target_now(session) {
        open(session, &id, filter, e.text(), reply, target);
        return None;
    }
    let (session, reply, text) = (session.clone(), reply.clone(), e.text().to_owned());
    Some(Box::pin(async move {
        match target(&session).await {
            Ok(target) => open(&session, &id, filter, &text, &reply, target),
            Err(why) => {
                let text = jsonrpc::error(Some(&id), jsonrpc::INTERNAL_ERROR, &why);
                reply.push(Out { text, answer: true, failed: true });
            }
        }
    }))
}

fn open(session: &Arc<Session>, id: &str, asked: Filter, text: &str, reply: &Arc<Outbox>, target: Target) {
    if session.is_ended() {
        return;
    }
    let listen = match &target {
        Target::Modern(_) => Listen::new(id, reply, asked, Some(text)),
        Target::Legacy(link) => Listen::new(id, reply, honoured(asked, link.learnt()), None),
        Target::Exec(exec) => Listen::new(id, reply, honoured(asked, Some(&exec.learnt())), None),
    };
    if !session.add_listen(listen.clone()) {
        let why = "too many subscriptions, or one with this id is open already";
        let text = jsonrpc::error(Some(id), jsonrpc::REFUSED, why);
        reply.push(Out { text, answer: true, failed: true });
        return;
    }
    session.server.join(session);
    match target {
        Target::Modern(link) => link.listen(&listen),
        Target::Legacy(link) => {
            listen.push(listen.filter.acknowledged(id));
            for uri in &listen.filter.uris {
                if session.server.subscribers(uri, session) == 0 {
                    link.tell("resources/subscribe", &format!(r#"{{"uri":{}}}"#, envelope::quote(uri)));
                }
                session.subscribe(uri);
            }
        }
        Target::Exec(_) => listen.push(listen.filter.acknowledged(id)),
    }
}

/// What of a subscription a legacy server can serve.
fn honoured(asked: Filter, learnt: Option<&mcp::Learnt>) -> Filter {
    let has = |list: &str| learnt.is_some_and(|l| l.has(list));
    let resources = learnt.and_then(|l| l.capabilities.get("resources"));
    let subscribes = resources.and_then(|r| member(r, "subscribe")) == Some("true");
    Filter {
        tools: asked.tools && has("tools"),
        prompts: asked.prompts && has("prompts"),
        resources: asked.resources && has("resources"),
        uris: if subscribes { asked.uris } else { Vec::new() },
    }
}

// --- which child -----------------------------------------------------------------------------------------------------

/// Who answers, if that is known and there.
pub fn target_now(session: &Session) -> Option<Target> {
    let children = match session.server.engine() {
        Engine::Exec(exec) => return Some(Target::Exec(exec)),
        Engine::Children(children) => children,
        Engine::None => return None,
    };
    if let Some(link) = children.slot(session.slot).link().filter(|l| l.is_modern()) {
        return Some(Target::Modern(link));
    }
    match verdict(&children) {
        Some(true) => children.modern_slot()?.link().map(Target::Modern),
        Some(false) => children.slot(session.slot).link().map(Target::Legacy),
        None => None,
    }
}

/// Whether the server is known to speak the modern era.
fn verdict(children: &Children) -> Option<bool> {
    match &*children.modern.lock().unwrap_or_else(PoisonError::into_inner) {
        Verdict::Modern(_) => Some(true),
        Verdict::Legacy(at, info) => {
            let now =
                children.slots.first().and_then(|s| s.link()).and_then(|l| l.learnt().map(|l| l.server_info.clone()));
            let holds = at.elapsed() < VERDICT && (now.is_none() || now == *info);
            holds.then_some(false)
        }
        Verdict::Unknown => None,
    }
}

/// Who answers, waiting for a child to be ready and for the server to be asked which era it speaks.
pub async fn target(session: &Arc<Session>) -> Result<Target, String> {
    loop {
        if let Some(target) = target_now(session) {
            return Ok(target);
        }
        let Some(children) = session.server.children() else {
            return Err(format!("server '{}' is not there", session.server.name));
        };
        match verdict(&children) {
            Some(true) => {
                if let Some(slot) = children.modern_slot() {
                    session.server.ready_slot(&slot).await?;
                }
            }
            Some(false) => drop(session.server.ready_link(session).await?),
            None => {
                session.server.ready_link(session).await?;
                probe(session, &children).await;
            }
        }
    }
}

/// Asks a server in a process of its own whether it speaks the modern era: some end, some fall silent, some speak no
/// other afterwards (mcp-protocol.md section 2). If it does, the process becomes the child for it.
async fn probe(session: &Session, children: &Arc<Children>) {
    let _one = children.probing.lock().await;
    let server = &session.server;
    let current = || server.children().is_some_and(|c| Arc::ptr_eq(&c, children));
    let first = || children.slots.first().and_then(|s| s.link());
    if verdict(children).is_some() || !current() || first().is_some_and(|l| l.is_modern()) {
        return;
    }
    let ServerKind::Stdio(config) = server.config().kind else { return };
    let umask = server.hub.config().umask;
    let found = match supervisor::start(server, Arc::new((*config).clone()), umask, Wish::Modern, None).await {
        Ok(link) if current() && !server.hub.draining.is_set() => {
            info!("server '{}' speaks the modern era as well: a second child serves it", server.name);
            let slot = Slot::new(server, Supervisor::new((*config).clone()), Wish::Modern, " (modern era)");
            slot.set_link(Some(link.clone()));
            slot.supervisor.run(server, &slot, Some(link), false);
            Verdict::Modern(slot)
        }
        Ok(link) => {
            link.stop(&config.stop).await;
            return;
        }
        Err(failure) => {
            debug!("server '{}' does not speak the modern era: {}", server.name, failure.text);
            let info = first().and_then(|l| l.learnt().map(|l| l.server_info.clone()));
            Verdict::Legacy(Instant::now(), info)
        }
    };
    *children.modern.lock().unwrap_or_else(PoisonError::into_inner) = found;
}
