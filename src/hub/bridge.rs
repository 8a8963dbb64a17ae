//! The bridge: all servers of the instance as one.
//!
//! A session of the bridge has a part at each server that it uses (parts.rs), an ordinary session there that leads to
//! the same client. So whatever belongs to one request (ids, progress, cancellation, subscriptions, a child of its own)
//! works as it does at the server's own endpoint, and the answer goes straight to the client. Here is only what is
//! peculiar to many: whose something is ([`crate::model::bridge`]), and what is gathered from all (lists.rs).

mod lists;
mod parts;

pub(super) use parts::{Whole, outward_id};

use std::sync::Arc;

use super::Hub;
use super::call::Call;
use super::counters::Dropped;
use super::listen::Listen;
use super::outbox::Outbox;
use super::route::{self, Later, NO_TASKS};
use super::server::{Engine, Server};
use super::session::Session;
use crate::model::bridge::{List, Naming, inward_id};
use crate::model::config;
use crate::model::envelope::{self, Envelope, Span, decode, member, quote, spliced};
use crate::model::mcp::{LATEST, Learnt};
use crate::model::text::printable;
use crate::model::{jsonrpc, modern};
pub use lists::Bridge;
use lists::Owner;

/// A resource that nobody has (up to 2025-11-25 server/resources; in 2026-07-28 it is an invalid parameter).
const NOT_FOUND: i32 = -32002;
/// The lists whose changes are told.
pub(super) const TOLD: [&str; 3] = ["tools", "prompts", "resources"];

impl Hub {
    /// Makes the server that stands for all.
    pub(super) fn make_bridge(self: &Arc<Self>, naming: &Naming) -> Arc<Server> {
        let config = config::Server { kind: config::Kind::Bridge(naming.clone()), required: false };
        let server = Server::new("bridge", config.clone(), self.clone());
        server.set_engine(Engine::Bridge(Bridge::new(naming, [])), config);
        server
    }

    /// The bridge, if the configuration wants one.
    pub fn bridge(&self) -> Option<Arc<Server>> {
        self.config().bridge.is_some().then(|| self.bridge.get().cloned()).flatten()
    }

    /// Gives the bridge the names that the configuration has.
    pub(super) fn name_bridge(&self) {
        if let Some(Engine::Bridge(bridge)) = self.bridge.get().map(|s| s.engine())
            && let Some(naming) = &self.config().bridge
        {
            bridge.renew(naming, self.servers().iter().map(|s| s.name.clone()).collect());
        }
    }

    /// The servers, or the bridge, are others: sessions of the bridge hear of it.
    pub(super) fn renew_bridge(&self) {
        self.name_bridge();
        let Some(server) = self.bridge.get() else { return };
        for session in server.sessions() {
            if self.config().bridge.is_none() {
                self.end_session(&session, "the bridge was taken out of the configuration");
                continue;
            }
            session.attach_all();
            TOLD.into_iter().for_each(|list| session.note_change(list));
        }
    }

    /// A server can be asked now: whoever missed it hears of it.
    pub(super) fn bridge_hears_of(&self, name: &str) {
        let Some(server) = self.bridge.get() else { return };
        if let Engine::Bridge(bridge) = server.engine()
            && bridge.forgive(name)
        {
            self.bridge_has_changed();
        }
    }

    /// What some server has is another than was told.
    fn bridge_has_changed(&self) {
        for session in self.bridge.get().into_iter().flat_map(|s| s.sessions()) {
            TOLD.into_iter().for_each(|list| session.note_change(list));
        }
    }
}

/// What the bridge says of itself. Lists may be empty, and servers come and go: so it has all that a server can have.
pub(super) fn learnt(hub: &Hub) -> Learnt {
    let text = |server: &Arc<Server>| {
        let own = server.learnt_now()?.instructions?;
        Some(format!("Server '{}': {}", server.name, decode(&own)))
    };
    let all: Vec<String> = hub.servers().iter().filter_map(text).collect();
    let capabilities = [
        ("completions", "{}"),
        ("prompts", r#"{"listChanged":true}"#),
        ("resources", r#"{"listChanged":true,"subscribe":true}"#),
        ("tools", r#"{"listChanged":true}"#),
    ];
    Learnt {
        revision: LATEST.to_owned(),
        capabilities: capabilities.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        server_info: format!(
            r#"{{"name":"mcpdaemon","title":{},"version":"{}"}}"#,
            quote(&format!("All servers of {}", hub.config().name)),
            env!("CARGO_PKG_VERSION")
        ),
        instructions: (!all.is_empty()).then(|| quote(&all.join("\n\n"))),
    }
}

/// Answers a request of a session of the bridge, or passes it to the server that it is for.
pub(super) fn request(bridge: &Arc<Bridge>, mut call: Call, e: &Envelope<'_>) -> Option<Later> {
    let hub = call.session.hub.clone();
    let method = e.method.as_ref();
    if call.session.is_modern() && method != "server/discover" {
        // Answers from here are phrased in the client's era.
        call.translated = Some(method.into());
    }
    if route::is_task(e) {
        call.error(jsonrpc::METHOD_NOT_FOUND, NO_TASKS);
        return None;
    }
    if let Some(list) = List::of(method) {
        return Some(lists::list(bridge, call, e, list));
    }
    match method {
        "initialize" => {
            call.session.note_era(false);
            call.session.bridged().note_hello(e.get(&e.params).unwrap_or("{}"));
            let asked = e.get(&e.protocol_version).map(decode);
            let (revision, result) = learnt(&hub).answer_shared(asked.as_deref());
            call.session.agree(revision);
            call.session.attach_all();
            call.result(&result);
            None
        }
        "server/discover" => {
            let text = jsonrpc::result(&call.id, &modern::discover_result(&learnt(&hub)));
            call.answer(text, false);
            None
        }
        "ping" => {
            call.result("{}");
            None
        }
        "tools/call" => find(bridge, call, e, What::Tool),
        "prompts/get" => find(bridge, call, e, What::Prompt),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => find(bridge, call, e, What::Resource),
        "completion/complete" => {
            let kind = e.get(&e.params).and_then(|p| member(p, "ref")).and_then(|r| member(r, "type")).map(decode);
            match kind.as_deref() {
                Some("ref/prompt") => find(bridge, call, e, What::PromptReference),
                Some("ref/resource") => find(bridge, call, e, What::ResourceReference),
                _ => {
                    let why = "'ref' is of the type \"ref/prompt\" or \"ref/resource\"";
                    call.error(jsonrpc::INVALID_PARAMS, why);
                    None
                }
            }
        }
        "logging/setLevel" => {
            let why = "log messages of many servers belong to nobody in particular: use the server's own endpoint";
            call.error(jsonrpc::METHOD_NOT_FOUND, why);
            None
        }
        method if method.starts_with("notifications/") => {
            call.error(
                jsonrpc::INVALID_REQUEST,
                &format!("'{}' is a notification: it has no id", printable(method, 100)),
            );
            None
        }
        method => {
            let why = format!(
                "the bridge has no method '{}': a server's own may be at its endpoint, /servers/NAME/mcp",
                printable(method, 100)
            );
            call.error(jsonrpc::METHOD_NOT_FOUND, &why);
            None
        }
    }
}

/// What a request names, and by that the server that it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Tool,
    Prompt,
    Resource,
    /// What an argument of a prompt or of a template could be.
    PromptReference,
    ResourceReference,
}

impl What {
    /// What has to be known to find it.
    fn lists(self) -> &'static [List] {
        match self {
            What::Tool => &[List::Tools],
            What::Prompt | What::PromptReference => &[List::Prompts],
            What::Resource | What::ResourceReference => &[List::Resources, List::Templates],
        }
    }

    /// Where its name stands in a request, and how the member is called.
    fn place(self, e: &Envelope<'_>) -> Result<Span, &'static str> {
        let referred = |key: &str| {
            let reference = e.get(&e.params).and_then(|p| member(p, "ref"))?;
            let value = member(reference, key)?;
            let at = value.as_ptr() as usize - e.text().as_ptr() as usize;
            Some(at..at + value.len())
        };
        let (place, name) = match self {
            What::Tool | What::Prompt => (e.name.clone(), "name"),
            What::Resource => (e.uri.clone(), "uri"),
            What::PromptReference => (referred("name"), "ref.name"),
            What::ResourceReference => (referred("uri"), "ref.uri"),
        };
        place.filter(|span| e.text()[span.clone()].starts_with('"')).ok_or(name)
    }

    fn find(self, bridge: &Bridge, session: &Session, name: &str) -> Owner {
        match self {
            What::Tool => bridge.find(session, List::Tools, name),
            What::Prompt | What::PromptReference => bridge.find(session, List::Prompts, name),
            What::Resource | What::ResourceReference => bridge.find_resource(session, name),
        }
    }
}

/// Passes a request to the server that has what it names; where that is not known, all are asked first.
fn find(bridge: &Arc<Bridge>, call: Call, e: &Envelope<'_>, what: What) -> Option<Later> {
    let span = match what.place(e) {
        Ok(span) => span,
        Err(member) => {
            call.error(jsonrpc::INVALID_PARAMS, &format!("'{member}' is missing, or no string"));
            return None;
        }
    };
    let name = decode(&e.text()[span]).into_owned();
    match what.find(bridge, &call.session, &name) {
        Owner::Nobody | Owner::Unsure(..) => {}
        found => return settle(call, e, what, &name, found),
    }
    // It may have come since the servers were last asked. A resource that is in no list can be had all the same: its
    // owner is whoever gives it.
    let reads = e.method == "resources/read";
    let (asked, wanted, known) = (bridge.clone(), name.clone(), bridge.clone());
    let ask = move |session: Arc<Session>| {
        let (bridge, name) = (asked.clone(), wanted.clone());
        async move {
            for list in what.lists() {
                lists::gather(&bridge, &session, *list).await;
            }
            let unknown = reads && matches!(what.find(&bridge, &session, &name), Owner::Nobody);
            Ok(if unknown { lists::read_anywhere(&bridge, &session, &name).await } else { None })
        }
    };
    Some(route::held(call, e.text(), ask, move |call, e, read: Option<String>| {
        match read {
            Some(result) => call.result(&result),
            None => {
                let found = what.find(&known, &call.session, &name);
                settle(call, e, what, &name, found).map(async_std::task::spawn);
            }
        }
        None
    }))
}

/// It is known whose it is, as far as it will be.
fn settle(call: Call, e: &Envelope<'_>, what: What, name: &str, owner: Owner) -> Option<Later> {
    let list = what.lists()[0];
    match owner {
        // A server that would come first has not said what it has; it is not waited for any longer.
        Owner::Server(server, own) | Owner::Unsure(server, own) => pass(call, e, what, name, &server, &own),
        Owner::Several(servers) => {
            let why = format!(
                "'{}' is in the {} of several servers ({}), and this bridge names none of them: use a server's own \
                 endpoint",
                printable(name, 100),
                list.member(),
                servers.join(", ")
            );
            call.error(jsonrpc::INVALID_PARAMS, &why);
            None
        }
        Owner::Nobody => {
            let legacy = what == What::Resource && !call.session.is_modern();
            let code = if legacy { NOT_FOUND } else { jsonrpc::INVALID_PARAMS };
            let thing = list.member().trim_end_matches('s');
            call.error(code, &format!("no server has the {thing} '{}'", printable(name, 200)));
            None
        }
    }
}

/// Hands a request over to the part that its session has at a server, in that server's words.
fn pass(call: Call, e: &Envelope<'_>, what: What, name: &str, server: &str, own: &str) -> Option<Later> {
    let Some(server) = call.session.hub.server(server) else {
        call.error(jsonrpc::INVALID_PARAMS, &format!("server '{}' was removed", printable(server, 64)));
        return None;
    };
    if what == What::Tool && !server.admits(own) {
        let why = format!("the tool '{}' of server '{}' may not be used here", printable(own, 100), server.name);
        call.error(jsonrpc::INVALID_PARAMS, &why);
        return None;
    }
    let completes = || server.learnt_now().is_some_and(|l| l.has("completions"));
    if matches!(what, What::PromptReference | What::ResourceReference) && !completes() {
        call.result(r#"{"completion":{"values":[]}}"#);
        return None;
    }
    let part = match call.session.part(&server) {
        Ok(part) => part,
        Err(why) => {
            call.error(jsonrpc::REFUSED, &why);
            return None;
        }
    };
    if e.method == "resources/subscribe" {
        call.session.bridged().note_alias(&server.name, own, name);
    }
    let is_modern = call.session.is_modern();
    let call = call.move_to(&part);
    let text = what.place(e).map(|span| spliced(e.text(), &[(span, &quote(own))])).unwrap_or_default();
    match envelope::scan(&text) {
        Ok(e) if is_modern => super::modern::pass(call, &e),
        Ok(e) if server.is_modern_only() => match e.method.as_ref() {
            "resources/subscribe" | "resources/unsubscribe" => {
                let why =
                    format!("server '{}' has subscriptions for clients of {} alone", server.name, modern::VERSION);
                call.error(jsonrpc::METHOD_NOT_FOUND, &why);
                None
            }
            _ => {
                let text = modern::with_meta(&e, env!("CARGO_PKG_VERSION"));
                envelope::scan(&text).ok().and_then(|e| super::modern::pass(call, &e))
            }
        },
        Ok(e) => route::pass(call, &e),
        Err(_) => {
            call.error(jsonrpc::INTERNAL_ERROR, "the request could not be put in the server's words");
            None
        }
    }
}

/// The part of a session that a call of this tool is for, and what that server calls it; None where that is not known.
pub(super) fn tool_part(bridge: &Bridge, session: &Arc<Session>, name: &str) -> Option<(Arc<Session>, String)> {
    let Owner::Server(server, own) = bridge.find(session, List::Tools, name) else { return None };
    let server = session.hub.server(&server)?;
    Some((session.part(&server).ok()?, own))
}

/// A notification of a client to all.
pub(super) fn notification(session: &Arc<Session>, e: &Envelope<'_>) {
    match e.method.as_ref() {
        "notifications/initialized" => {}
        "notifications/cancelled" => {
            if let Some(id) = e.get(&e.request_id) {
                route::cancelled(session, id);
            }
        }
        "notifications/roots/list_changed" => {
            for part in session.parts() {
                if let Some(link) = part.exclusive().and_then(|own| own.link()) {
                    link.notify(e);
                }
            }
        }
        _ => session.hub.counters.count(Dropped::UnownedNotifications),
    }
}

/// A client's answer to what a child of its own has asked.
pub(super) fn response(session: &Arc<Session>, e: &Envelope<'_>) {
    let found = e.get(&e.id).and_then(inward_id).and_then(|(server, id)| {
        let part = session.parts().into_iter().find(|p| p.server.name == server)?;
        let own = part.exclusive()?.clone();
        own.answered(&id).then_some(())?;
        Some((own.link()?, id))
    });
    let Some((link, id)) = found else { return session.hub.counters.count(Dropped::UnownedReplies) };
    let text = spliced(e.text(), &[(e.id.clone().unwrap_or_default(), &id)]);
    if let Ok(e) = envelope::scan(&text) {
        link.notify(&e);
    }
}

/// Opens a subscription of the modern era to changes at any server. It is `waiting` until the servers were asked whose
/// resources they are.
pub(super) fn listen(
    bridge: &Arc<Bridge>,
    session: &Arc<Session>,
    waiting: Arc<Listen>,
    filter: modern::Filter,
    reply: &Arc<Outbox>,
) -> Later {
    let (bridge, session, reply) = (bridge.clone(), session.clone(), reply.clone());
    Box::pin(async move {
        session.attach_all();
        if !filter.uris.is_empty() {
            for list in What::Resource.lists() {
                lists::gather(&bridge, &session, *list).await;
            }
        }
        if !session.take_listen(&waiting.id).is_some_and(|l| Arc::ptr_eq(&l, &waiting)) {
            return;
        }
        let mut honoured = modern::Filter { uris: Vec::new(), ..filter.clone() };
        for uri in filter.uris {
            if let Owner::Server(server, own) | Owner::Unsure(server, own) = bridge.find_resource(&session, &uri)
                && let Some(server) = session.hub.server(&server)
                && let Ok(part) = session.part(&server)
                && super::modern::watch_resource(&part, &own)
            {
                session.bridged().note_alias(&server.name, &own, &uri);
                honoured.uris.push(uri);
            }
        }
        super::modern::open_here(&session, &waiting.id, honoured, &reply);
    })
}

/// Nobody listens to these resources any more, which are as the client calls them.
pub(super) fn unlisten(session: &Arc<Session>, uris: &[String]) {
    for part in session.parts() {
        for own in part.all_subscriptions() {
            let public = session.bridged().public_uri(&part.server.name, &own);
            if uris.contains(&public) && part.unsubscribe(&own) {
                route::forget_resource(&part, &own);
            }
        }
    }
}
