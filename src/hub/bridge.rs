//! The bridge: all servers of the instance as one.
//!
//! A session of the bridge has a part at each server that it uses (parts.rs), an ordinary session there that leads to
//! the same client. So whatever belongs to one request (ids, progress, cancellation, subscriptions, a child of its own)
//! works as it does at the server's own endpoint, and the answer goes straight to the client. Here is only what is
//! peculiar to many: whose something is ([`crate::model::bridge`]), and what is gathered from all (lists.rs).

mod lists;
mod parts;

pub(super) use parts::outward_id;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::warn;

use super::Hub;
use super::call::Call;
use super::counters::Dropped;
use super::outbox::Outbox;
use super::route::{self, Later, NO_TASKS};
use super::server::{Engine, Server};
use super::session::Session;
use crate::model::bridge::{self, Item, List, Merged, Names, Naming, inward_id};
use crate::model::config;
use crate::model::envelope::{self, Envelope, decode, member, quote, spliced};
use crate::model::mcp::{LATEST, Learnt};
use crate::model::text::printable;
use crate::model::{jsonrpc, modern};

/// A resource that nobody has (up to 2025-11-25 server/resources; in 2026-07-28 it is an invalid parameter).
const NOT_FOUND: i32 = -32002;

/// What is known of all servers together.
pub struct Bridge {
    names: Mutex<Arc<Names>>,
    /// What each server had when it was last asked.
    known: Mutex<HashMap<List, HashMap<String, Vec<Item>>>>,
    /// The same as one, made when it is needed.
    merged: Mutex<HashMap<List, Arc<Merged>>>,
    /// Servers that could not be asked when somebody wanted to know.
    missing: Mutex<HashSet<String>>,
    /// Names that two servers have, as far as they were spoken of in the log.
    warned: Mutex<BTreeSet<String>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose something is.
enum Owner {
    /// A server, and what that calls it.
    Server(String, String),
    /// Several servers have it, and the configuration wants that to be an error.
    Several(Vec<String>),
    Nobody,
}

impl Bridge {
    pub fn new(naming: &Naming, servers: impl IntoIterator<Item = String>) -> Arc<Bridge> {
        Arc::new(Bridge {
            names: Mutex::new(Arc::new(Names::new(naming, servers))),
            known: Mutex::default(),
            merged: Mutex::default(),
            missing: Mutex::default(),
            warned: Mutex::default(),
        })
    }

    fn names(&self) -> Arc<Names> {
        lock(&self.names).clone()
    }

    /// The servers or their names are others.
    fn renew(&self, naming: &Naming, servers: Vec<String>) {
        lock(&self.known).values_mut().for_each(|of| of.retain(|name, _| servers.contains(name)));
        lock(&self.missing).retain(|name| servers.contains(name));
        *lock(&self.names) = Arc::new(Names::new(naming, servers));
        lock(&self.merged).clear();
    }

    /// A server has said what it has.
    fn learn(&self, list: List, server: &str, items: Vec<Item>) {
        let mut known = lock(&self.known);
        let of = known.entry(list).or_default();
        if of.get(server) != Some(&items) {
            of.insert(server.to_owned(), items);
            lock(&self.merged).remove(&list);
        }
        drop(known);
        lock(&self.missing).remove(server);
    }

    fn knows(&self, list: List, server: &str) -> bool {
        lock(&self.known).get(&list).is_some_and(|of| of.contains_key(server))
    }

    /// All that is known as one list.
    fn merged(&self, list: List) -> Arc<Merged> {
        if let Some(merged) = lock(&self.merged).get(&list) {
            return merged.clone();
        }
        let merged = {
            let known = lock(&self.known);
            Arc::new(known.get(&list).map(|of| self.names().merge(list, of)).unwrap_or_default())
        };
        for (name, servers) in &merged.conflicts {
            if lock(&self.warned).insert(name.clone()) {
                let (what, servers) = (list.member(), servers.join(", "));
                warn!("bridge: '{name}' is in the {what} of several servers, and left out: {servers} (bridge: Error)");
            }
        }
        lock(&self.merged).insert(list, merged.clone());
        merged
    }

    /// Whose something is, as far as it is known.
    fn find(&self, list: List, name: &str) -> Owner {
        let named = matches!(list, List::Tools | List::Prompts);
        if let Some((server, own)) = self.names().owner(name).filter(|_| named) {
            return Owner::Server(server.to_owned(), own.to_owned());
        }
        let merged = self.merged(list);
        if let Some(servers) = merged.conflicts.get(name) {
            return Owner::Several(servers.clone());
        }
        merged.get(name).map_or(Owner::Nobody, |l| Owner::Server(l.server.clone(), l.own.clone()))
    }

    /// The same for a resource, which may be one that a template gives.
    fn find_resource(&self, uri: &str) -> Owner {
        match self.find(List::Resources, uri) {
            Owner::Nobody => {}
            found => return found,
        }
        let templates = self.merged(List::Templates);
        let fits = templates.listed.iter().find(|l| l.own == uri || bridge::fits_template(&l.own, uri));
        fits.map_or(Owner::Nobody, |l| Owner::Server(l.server.clone(), uri.to_owned()))
    }

    /// What clients call a server's resource.
    fn public_uri(&self, server: &str, own: &str) -> Option<String> {
        let all = self.merged(List::Resources);
        all.listed.iter().find(|l| l.server == server && l.own == own).map(|l| l.name.clone())
    }
}

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
            ["tools", "prompts", "resources"].into_iter().for_each(|list| session.note_change(list));
        }
    }

    /// A server can be asked now: whoever missed it hears of it.
    pub(super) fn bridge_hears_of(&self, name: &str) {
        let Some(server) = self.bridge.get() else { return };
        let Engine::Bridge(bridge) = server.engine() else { return };
        if lock(&bridge.missing).remove(name) {
            for session in server.sessions() {
                ["tools", "prompts", "resources"].into_iter().for_each(|list| session.note_change(list));
            }
        }
    }
}

/// The part of a session that a call of this tool is for, and what that server calls it; None where that is not known.
pub(super) fn tool_part(bridge: &Bridge, session: &Arc<Session>, name: &str) -> Option<(Arc<Session>, String)> {
    let Owner::Server(server, own) = bridge.find(List::Tools, name) else { return None };
    let server = session.hub.server(&server)?;
    Some((session.part(&server).ok()?, own))
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
            call.session.note_hello(e.get(&e.params).unwrap_or("{}"));
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
        "tools/call" => named(bridge, call, e, List::Tools),
        "prompts/get" => named(bridge, call, e, List::Prompts),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => resource(bridge, call, e),
        "completion/complete" => completion(bridge, call, e),
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

/// A request that names a tool or a prompt.
fn named(bridge: &Arc<Bridge>, call: Call, e: &Envelope<'_>, list: List) -> Option<Later> {
    let Some(span) = e.name.clone().filter(|s| e.text()[s.clone()].starts_with('"')) else {
        call.error(jsonrpc::INVALID_PARAMS, "'name' is missing, or no string");
        return None;
    };
    let name = decode(&e.text()[span.clone()]).into_owned();
    match bridge.find(list, &name) {
        Owner::Server(server, own) => {
            return pass(call, &server, &spliced(e.text(), &[(span, &quote(&own))]), Some((list, &own)));
        }
        Owner::Several(servers) => {
            call.error(jsonrpc::INVALID_PARAMS, &several(list, &name, &servers));
            return None;
        }
        Owner::Nobody => {}
    }
    // It may have come since the servers were last asked.
    let (asked, known) = (bridge.clone(), bridge.clone());
    let ask = move |session| {
        let bridge = asked.clone();
        async move { Ok(lists::gather(&bridge, &session, list).await) }
    };
    Some(route::held(call, e.text(), ask, move |call, e, _| {
        match known.find(list, &name) {
            Owner::Server(server, own) => {
                let span = e.name.clone().unwrap_or_default();
                let later = pass(call, &server, &spliced(e.text(), &[(span, &quote(&own))]), Some((list, &own)));
                later.map(async_std::task::spawn);
            }
            Owner::Several(servers) => call.error(jsonrpc::INVALID_PARAMS, &several(list, &name, &servers)),
            Owner::Nobody => {
                let what = list.method().trim_end_matches("s/list");
                call.error(jsonrpc::INVALID_PARAMS, &format!("no server has a {what} '{}'", printable(&name, 100)));
            }
        }
        None
    }))
}

fn several(list: List, name: &str, servers: &[String]) -> String {
    format!(
        "'{}' is in the {} of several servers ({}), and this bridge names none of them: use a server's own endpoint",
        printable(name, 100),
        list.member(),
        servers.join(", ")
    )
}

/// A request that names a resource.
fn resource(bridge: &Arc<Bridge>, call: Call, e: &Envelope<'_>) -> Option<Later> {
    let Some(span) = e.uri.clone().filter(|s| e.text()[s.clone()].starts_with('"')) else {
        call.error(jsonrpc::INVALID_PARAMS, "'uri' is missing, or no string");
        return None;
    };
    let uri = decode(&e.text()[span.clone()]).into_owned();
    match bridge.find_resource(&uri) {
        Owner::Server(server, own) => {
            return pass(call, &server, &spliced(e.text(), &[(span, &quote(&own))]), None);
        }
        Owner::Several(servers) => {
            call.error(jsonrpc::INVALID_PARAMS, &several(List::Resources, &uri, &servers));
            return None;
        }
        Owner::Nobody => {}
    }
    // One that is in no list can be had all the same: its owner is whoever gives it.
    let (reads, known) = (e.method == "resources/read", bridge.clone());
    let (asked, wanted) = (bridge.clone(), uri.clone());
    let ask = move |session: Arc<Session>| {
        let (bridge, uri) = (asked.clone(), wanted.clone());
        async move {
            lists::gather(&bridge, &session, List::Resources).await;
            lists::gather(&bridge, &session, List::Templates).await;
            let unknown = reads && matches!(bridge.find_resource(&uri), Owner::Nobody);
            Ok(if unknown { lists::read_anywhere(&bridge, &session, &uri).await } else { None })
        }
    };
    Some(route::held(call, e.text(), ask, move |call, e, read: Option<String>| {
        match (read, known.find_resource(&uri)) {
            (Some(result), _) => call.result(&result),
            (None, Owner::Server(server, own)) => {
                let span = e.uri.clone().unwrap_or_default();
                let later = pass(call, &server, &spliced(e.text(), &[(span, &quote(&own))]), None);
                later.map(async_std::task::spawn);
            }
            (None, Owner::Several(servers)) => {
                call.error(jsonrpc::INVALID_PARAMS, &several(List::Resources, &uri, &servers));
            }
            (None, Owner::Nobody) => {
                let code = if call.session.is_modern() { jsonrpc::INVALID_PARAMS } else { NOT_FOUND };
                call.error(code, &format!("no server has the resource '{}'", printable(&uri, 200)));
            }
        }
        None
    }))
}

/// What could stand for an argument of a prompt, or of a template.
fn completion(bridge: &Arc<Bridge>, call: Call, e: &Envelope<'_>) -> Option<Later> {
    let reference = e.get(&e.params).and_then(|p| member(p, "ref")).unwrap_or("{}");
    let (list, key) = match member(reference, "type").map(decode).as_deref() {
        Some("ref/prompt") => (List::Prompts, "name"),
        Some("ref/resource") => (List::Templates, "uri"),
        _ => {
            call.error(jsonrpc::INVALID_PARAMS, "'ref' is of the type \"ref/prompt\" or \"ref/resource\"");
            return None;
        }
    };
    let Some(value) = member(reference, key).filter(|v| v.starts_with('"')) else {
        call.error(jsonrpc::INVALID_PARAMS, &format!("'ref.{key}' is missing, or no string"));
        return None;
    };
    let name = decode(value).into_owned();
    let lookup = move |bridge: &Bridge| match list {
        List::Prompts => bridge.find(list, &name),
        _ => bridge.find_resource(&name),
    };
    let send = |call: Call, e: &Envelope<'_>, owner: Owner| {
        let Owner::Server(server, own) = owner else {
            call.error(jsonrpc::INVALID_PARAMS, "no server has what 'ref' names");
            return None;
        };
        let completes = call.session.hub.server(&server).and_then(|s| s.learnt_now());
        if !completes.is_some_and(|l| l.has("completions")) {
            call.result(r#"{"completion":{"values":[]}}"#);
            return None;
        }
        let reference = e.get(&e.params).and_then(|p| member(p, "ref")).unwrap_or("{}");
        let value = member(reference, "name").or(member(reference, "uri")).unwrap_or("");
        let at = value.as_ptr() as usize - e.text().as_ptr() as usize;
        let text = spliced(e.text(), &[(at..at + value.len(), &quote(&own))]);
        pass(call, &server, &text, None)
    };
    match lookup(bridge) {
        Owner::Nobody => {}
        found => return send(call, e, found),
    }
    let (asked, known) = (bridge.clone(), bridge.clone());
    let ask = move |session| {
        let bridge = asked.clone();
        async move { Ok(lists::gather(&bridge, &session, list).await) }
    };
    Some(route::held(call, e.text(), ask, move |call, e, _| {
        send(call, e, lookup(&known)).map(async_std::task::spawn);
        None
    }))
}

/// Hands a request over to the part that its session has at a server; `text` is the request in that server's words.
fn pass(call: Call, server: &str, text: &str, named: Option<(List, &str)>) -> Option<Later> {
    let Some(server) = call.session.hub.server(server) else {
        call.error(jsonrpc::INVALID_PARAMS, &format!("server '{}' was removed", printable(server, 64)));
        return None;
    };
    if let Some((List::Tools, own)) = named
        && !server.admits(own)
    {
        let why = format!("the tool '{}' of server '{}' may not be used here", printable(own, 100), server.name);
        call.error(jsonrpc::INVALID_PARAMS, &why);
        return None;
    }
    let part = match call.session.part(&server) {
        Ok(part) => part,
        Err(why) => {
            call.error(jsonrpc::REFUSED, &why);
            return None;
        }
    };
    let is_modern = call.session.is_modern();
    let call = call.move_to(&part);
    match envelope::scan(text) {
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

/// Opens a subscription of the modern era to changes at any server.
pub(super) fn listen(
    bridge: &Arc<Bridge>,
    session: &Arc<Session>,
    id: &str,
    filter: modern::Filter,
    reply: &Arc<Outbox>,
) -> Later {
    let (bridge, session, id, reply) = (bridge.clone(), session.clone(), id.to_owned(), reply.clone());
    Box::pin(async move {
        session.attach_all();
        if !filter.uris.is_empty() {
            lists::gather(&bridge, &session, List::Resources).await;
            lists::gather(&bridge, &session, List::Templates).await;
        }
        let mut honoured = modern::Filter { uris: Vec::new(), ..filter.clone() };
        for uri in filter.uris {
            if let Owner::Server(server, own) = bridge.find_resource(&uri)
                && let Some(server) = session.hub.server(&server)
                && let Ok(part) = session.part(&server)
                && super::modern::watch_resource(&part, &own)
            {
                honoured.uris.push(uri);
            }
        }
        super::modern::open_here(&session, &id, honoured, &reply);
    })
}
