//! Requests of the modern era: found a child that speaks it, or translated for one that does not.
//!
//! There are no sessions. Over HTTP each request brings a [`Session`] of its own that ends with it, so that whatever it
//! holds is given up when its client leaves; over a WebSocket it is the connection's.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::Hub;
use super::bridge;
use super::call::Call;
use super::counters::Dropped;
use super::exec::Executor;
use super::link::Link;
use super::listen::Listen;
use super::outbox::Outbox;
use super::route::{self, Later};
use super::server::{Children, Engine, Server, Verdict};
use super::session::Session;
use super::slot::{Slot, Wish};
use super::starting;
use super::supervisor::Supervisor;
use crate::model::config::{Kind as ServerKind, Stdio};
use crate::model::envelope::{Envelope, Kind, decode, member};
use crate::model::modern::{self, Filter, Refusal};
use crate::model::out::Out;
use crate::model::status::ServerState;
use crate::model::transport::SessionKind;
use crate::model::{jsonrpc, mcp};
use crate::rt::wait::Flag;

/// After this time a server that did not speak the modern era is asked again: it may have been updated meanwhile.
const VERDICT: Duration = Duration::from_secs(3600);

/// Who answers a request.
enum Target {
    /// A child of the modern era: nothing is changed but ids.
    Modern(Arc<Link>),
    /// A child of the legacy era.
    Legacy(Arc<Link>),
    Exec(Arc<Executor>),
}

impl Hub {
    /// What a request of the modern era is served by in place of a session.
    pub fn stateless(self: &Arc<Self>, server: &Arc<Server>, owner: Option<Arc<str>>) -> Arc<Session> {
        let number = self.numbers.fetch_add(1, SeqCst) + 1;
        let session = Session::new(number, String::new(), SessionKind::Request, owner, server.clone(), self.clone());
        session.note_era(true);
        Arc::new(session)
    }
}

/// Takes a message whose envelope has been checked. Its answer goes to `reply`.
pub fn message(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    session.touch();
    match e.kind {
        Kind::Request => {
            session.note_era(true);
            request(session, e, reply)
        }
        Kind::Notification if e.method == "notifications/cancelled" => {
            if let Some(id) = e.get(&e.request_id) {
                route::cancelled(session, id);
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

/// The client gives up a subscription.
pub(super) fn end_listen(session: &Arc<Session>, id: &str) {
    let Some(listen) = session.take_listen(id) else { return };
    unlisten(session, &listen);
    // What of it nobody else here listens to is given up at a legacy child as well.
    let kept: Vec<String> = session.listens().iter().flat_map(|l| l.filter.uris.clone()).collect();
    let given_up = listen.filter.uris.iter().filter(|uri| listen.request.is_none() && !kept.contains(uri));
    let given_up: Vec<String> = given_up.cloned().collect();
    bridge::unlisten(session, &given_up);
    for uri in &given_up {
        if session.unsubscribe(uri) {
            route::forget_resource(session, uri);
        }
    }
}

/// Ends a subscription at the children that have it.
pub(super) fn unlisten(session: &Session, listen: &Arc<Listen>) {
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
    match session.bridge() {
        Some(all) => bridge::request(&all, call, e),
        None => pass(call, e),
    }
}

/// Passes a request, which is opened, to the server that its session is at.
pub(super) fn pass(mut call: Call, e: &Envelope<'_>) -> Option<Later> {
    call.translated = None;
    match target_now(&call.session) {
        Some(target) => forward(call, e, target).map(|call| wait(call, e.text())),
        None => Some(wait(call, e.text())),
    }
}

/// Sends a request on; given back if its child is gone meanwhile.
fn forward(mut call: Call, e: &Envelope<'_>, target: Target) -> Option<Call> {
    // What one has started is not for another to see, where there is more than one.
    let one = call.session.owner.is_none();
    if !(one && matches!(target, Target::Modern(_))) && route::is_task(e) {
        call.error(jsonrpc::METHOD_NOT_FOUND, route::NO_TASKS);
        return None;
    }
    let learnt = match &target {
        Target::Modern(link) => return link.request(call, e),
        Target::Legacy(link) => link.learnt().cloned(),
        Target::Exec(exec) => Some(exec.learnt()),
    };
    if e.method == "server/discover"
        && let Some(learnt) = learnt
    {
        let text = jsonrpc::result(&call.id, &modern::discover_result(&learnt));
        call.answer(text, false);
        return None;
    }
    call.translated = Some(e.method.as_ref().into());
    match target {
        Target::Modern(link) | Target::Legacy(link) => link.request(call, e),
        Target::Exec(exec) => {
            exec.request(call, e);
            None
        }
    }
}

/// Waits for a child, in reach of a cancellation, then sends the request on.
pub(super) fn wait(call: Call, text: &str) -> Later {
    route::held(call, text, |session| async move { target(&session).await }, forward)
}

// --- subscriptions ---------------------------------------------------------------------------------------------------

fn listen(session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> Option<Later> {
    if session.hub.draining.is_set() {
        let text = jsonrpc::error(e.get(&e.id), jsonrpc::REFUSED, route::SHUTTING_DOWN);
        reply.push(Out::error(text));
        return None;
    }
    let id = e.get(&e.id).unwrap_or("null").to_owned();
    let filter = match Filter::read(e.get(&e.params).unwrap_or("{}")) {
        Ok(filter) => filter,
        Err(refusal) => {
            reply.push(Out::error(refusal.text(Some(&id))));
            return None;
        }
    };
    let all = session.bridge();
    if let Some(target) = target_now(session).filter(|_| all.is_none()) {
        open(session, &id, filter, e.text(), reply, target);
        return None;
    }
    // Known from now on, so that it can be cancelled.
    let waiting = Listen::new(session, &id, reply, filter.clone(), Some(e.text()));
    if !add(session, &waiting) {
        return None;
    }
    if let Some(all) = all {
        return Some(bridge::listen(&all, session, waiting, filter, reply));
    }
    let (session, reply, text) = (session.clone(), reply.clone(), e.text().to_owned());
    Some(Box::pin(async move {
        let found = target(&session).await;
        let wanted = session.take_listen(&id).is_some_and(|l| Arc::ptr_eq(&l, &waiting));
        match found {
            _ if !wanted => {}
            Ok(target) => open(&session, &id, filter, &text, &reply, target),
            Err(why) => waiting.fail(jsonrpc::INTERNAL_ERROR, &why),
        }
    }))
}

/// Notes a subscription of a session; false where it was refused.
fn add(session: &Session, listen: &Arc<Listen>) -> bool {
    let added = session.add_listen(listen.clone());
    if !added {
        let why = "too many subscriptions, or one with this id is open already";
        let text = jsonrpc::error(Some(&listen.id), jsonrpc::REFUSED, why);
        listen.reply.push(Out::error(text));
    }
    added
}

fn open(session: &Arc<Session>, id: &str, asked: Filter, text: &str, reply: &Arc<Outbox>, target: Target) {
    if session.is_ended() {
        return;
    }
    let listen = match &target {
        Target::Modern(_) => Listen::new(session, id, reply, asked, Some(text)),
        Target::Legacy(link) => Listen::new(session, id, reply, honoured(asked, link.learnt()), None),
        Target::Exec(exec) => Listen::new(session, id, reply, honoured(asked, Some(&exec.learnt())), None),
    };
    if !add(session, &listen) {
        return;
    }
    session.server.join(session);
    match target {
        Target::Modern(link) => link.listen(&listen),
        Target::Legacy(link) => {
            listen.acknowledge();
            listen.push(listen.filter.acknowledged(id));
            for uri in &listen.filter.uris {
                if !session.may_subscribe(uri) {
                    break;
                }
                if session.server.subscribers(uri, session) == 0 {
                    link.tell("resources/subscribe", &mcp::uri_params(uri));
                }
                session.subscribe(uri);
            }
        }
        Target::Exec(_) => {
            listen.acknowledge();
            listen.push(listen.filter.acknowledged(id));
        }
    }
}

/// Opens a subscription that is kept here, for changes that parts of the session hear of.
pub(super) fn open_here(session: &Arc<Session>, id: &str, filter: Filter, reply: &Arc<Outbox>) {
    let listen = Listen::new(session, id, reply, filter, None);
    if session.is_ended() || !add(session, &listen) {
        return;
    }
    session.server.join(session);
    listen.acknowledge();
    listen.push(listen.filter.acknowledged(id));
}

/// Watches a resource for a session at a server of the legacy era; false where that cannot be.
pub(super) fn watch_resource(session: &Arc<Session>, uri: &str) -> bool {
    let Some(link) = session.server.link(session).filter(|l| !l.is_modern()) else { return false };
    let subscribes = link.learnt().and_then(|l| l.capabilities.get("resources")).and_then(|r| member(r, "subscribe"));
    if subscribes != Some("true") || !session.may_subscribe(uri) {
        return false;
    }
    if session.server.subscribers(uri, session) == 0 {
        link.tell("resources/subscribe", &mcp::uri_params(uri));
    }
    session.subscribe(uri);
    true
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
fn target_now(session: &Session) -> Option<Target> {
    let children = match session.server.engine() {
        Engine::Exec(exec) => return Some(Target::Exec(exec)),
        Engine::Children(children) => children,
        Engine::Bridge(_) | Engine::None => return None,
    };
    if let Some(link) = children.slot(session.slot).link().filter(|l| l.is_modern()) {
        return Some(Target::Modern(link));
    }
    if let Some(link) = children.slots.iter().filter_map(|s| s.link()).find(|l| l.is_modern()) {
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
    let mut modern = children.modern.lock();
    if let Verdict::Modern(slot) = &*modern
        && slot.phase().0 == ServerState::Failed
    {
        // It spoke it once; what it speaks now is asked again.
        slot.supervisor.retire();
        *modern = Verdict::Unknown;
    }
    match &*modern {
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
async fn target(session: &Arc<Session>) -> Result<Target, String> {
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
                probe(&session.server, &children).wait().await;
                let same = session.server.children().is_some_and(|c| Arc::ptr_eq(&c, &children));
                if same && verdict(&children).is_none() && target_now(session).is_none() {
                    let name = &session.server.name;
                    return Err(format!("server '{name}' could not be asked which era it speaks; try again"));
                }
            }
        }
    }
}

/// Asks a server in a process of its own whether it speaks the modern era: some end, some fall silent, some speak no
/// other afterwards (mcpdaemon(7), "Which era a child speaks"). If it does, the process becomes the child for it.
///
/// One question at a time, and it is put to its end whoever has left meanwhile; the flag says when.
fn probe(server: &Arc<Server>, children: &Arc<Children>) -> Arc<Flag> {
    let mut probing = children.probing.lock();
    if let Some(under_way) = &*probing {
        return under_way.clone();
    }
    let done = Arc::new(Flag::default());
    *probing = Some(done.clone());
    drop(probing);
    server.hub.note_task(&done);
    let (server, children, over) = (server.clone(), children.clone(), done.clone());
    async_std::task::spawn(async move {
        if let Some(found) = put_question(&server, &children).await {
            *children.modern.lock() = found;
        }
        children.probing.lock().take();
        over.set();
        server.announce();
    });
    done
}

/// None where the question could not be put.
async fn put_question(server: &Arc<Server>, children: &Arc<Children>) -> Option<Verdict> {
    let there = || server.hub.server(&server.name).is_some_and(|s| Arc::ptr_eq(&s, server));
    let same = || server.children().is_some_and(|c| Arc::ptr_eq(&c, children));
    let current = || there() && same() && !server.hub.draining.is_set();
    let first = || children.slots.first().and_then(|s| s.link());
    if !current() || first().is_some_and(|l| l.is_modern()) {
        return None;
    }
    let ServerKind::Stdio(config) = server.config().kind else { return None };
    let config = Arc::new(*config);
    let link = match starting::spawn(server, &config, server.hub.config().umask).await {
        Ok(link) => link,
        Err(failure) => {
            // That says nothing of what it speaks.
            warn!("server '{}' cannot be asked which era it speaks: {}", server.name, failure.text);
            return None;
        }
    };
    match starting::open(server, link, &config, Wish::Modern, Some(&server.hub.draining)).await {
        Ok(link) if current() => {
            info!("server '{}' speaks the modern era as well: a second child serves it", server.name);
            Some(Verdict::Modern(slot(server, &config, &link)))
        }
        Ok(link) => {
            link.stop(&config.stop).await;
            None
        }
        Err(_) if server.hub.draining.is_set() => None,
        Err(failure) => {
            debug!("server '{}' does not speak the modern era: {}", server.name, failure.text);
            let info = first().and_then(|l| l.learnt().map(|l| l.server_info.clone()));
            Some(Verdict::Legacy(Instant::now(), info))
        }
    }
}

/// The place of a child that speaks the modern era.
pub(super) fn slot(server: &Arc<Server>, config: &Stdio, link: &Arc<Link>) -> Arc<Slot> {
    let slot = Slot::new(server, Supervisor::new(config.clone()), Wish::Modern, " (modern era)");
    slot.set_link(Some(link.clone()));
    slot.supervisor.run(server, &slot, Some(link.clone()), false);
    slot
}

/// What the child of the modern era says of the headers that a call needs. Where it cannot be asked, the call itself
/// will show why.
pub async fn check_params<'h>(
    session: &Arc<Session>,
    e: &Envelope<'_>,
    header: &(dyn Fn(&str) -> Vec<&'h [u8]> + Sync),
) -> Result<(), Refusal> {
    let named = e.get(&e.name).map(decode).unwrap_or_default().into_owned();
    let (session, tool) = match session.bridge() {
        None => (session.clone(), named),
        // Whom it cannot be passed to has no headers that could be wrong.
        Some(all) => match bridge::tool_part(&all, session, &named) {
            Some(found) => found,
            None => return Ok(()),
        },
    };
    let found = match target_now(&session) {
        Some(target) => Some(target),
        None => {
            // While it waits it counts like all that do; where they are too many already, it will be refused.
            let Some(_waiting) = session.server.wait_with(e.text().len()) else { return Ok(()) };
            target(&session).await.ok()
        }
    };
    let Some(Target::Modern(link)) = found else { return Ok(()) };
    match link.param_headers().await {
        Some(known) => modern::check_params(e, &tool, &known, header),
        None => Ok(()),
    }
}
