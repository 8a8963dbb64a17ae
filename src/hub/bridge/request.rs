//! Requests of a session of the bridge: answered here, or passed to the server that has what they name.

use std::collections::HashSet;
use std::sync::Arc;

use futures_lite::future::yield_now;

use super::known::Owner;
use super::session::BridgeSession;
use crate::hub::client::call::{Call, Translation};
use crate::hub::client::endpoint::{Client, Endpoint, Later};
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::server::admit::{self, NO_TASKS, is_task};
use crate::hub::server::server::{Server, add_subscription};
use crate::model::bridge::List;
use crate::model::envelope::{self, Envelope, Span, decode, quote, spliced};
use crate::model::mcp::{LATEST, ServerInfo};
use crate::model::modern::{self, Era, Filter};
use crate::model::text::printable;
use crate::model::{jsonrpc, method};
use crate::rt::task;

/// A resource that no server has (up to 2025-11-25 server/resources; in 2026-07-28 it is an invalid parameter).
const NOT_FOUND: i32 = -32002;

/// What a request names, and by that the server that it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Tool,
    Prompt,
    Resource,
    /// A prompt, an argument of which is to be completed.
    PromptReference,
    /// A template of resources, an argument of which is to be completed.
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
        let (place, name) = match self {
            What::Tool | What::Prompt => (e.name.clone(), "name"),
            What::Resource => (e.uri.clone(), "uri"),
            What::PromptReference => (e.reference.name.clone(), "ref.name"),
            What::ResourceReference => (e.reference.uri.clone(), "ref.uri"),
        };
        place.filter(|span| e.text()[span.clone()].starts_with('"')).ok_or(name)
    }
}

impl BridgeSession {
    /// What the bridge says of itself. Lists may be empty, and servers come and go: so it has all that a server can have.
    fn info(&self) -> ServerInfo {
        let text = |server: &Arc<Server>| {
            let own = server.core.info()?.instructions?;
            Some(format!("Server '{}': {}", server.name(), decode(&own)))
        };
        let all: Vec<String> = self.bridge.servers.all().iter().filter_map(text).collect();
        let capabilities = [
            ("completions", "{}"),
            ("extensions", r#"{"io.modelcontextprotocol/ui":{}}"#),
            ("prompts", r#"{"listChanged":true}"#),
            ("resources", r#"{"listChanged":true,"subscribe":true}"#),
            ("tools", r#"{"listChanged":true}"#),
        ];
        ServerInfo {
            revision: LATEST.to_owned(),
            capabilities: capabilities.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            server_info: self.bridge.server_info.to_string(),
            instructions: (!all.is_empty()).then(|| quote(&all.join("\n\n"))),
        }
    }

    /// Answers a request, or passes it to the server that it is for.
    pub(crate) fn serve(&self, mut call: Call, e: &Envelope<'_>) -> Option<Later> {
        let method = e.method.as_ref();
        if call.session.is_modern() && method != method::DISCOVER {
            // Answers from here are phrased in the client's era.
            let server = Some(self.bridge.server_info.clone());
            call.translated = Some(Box::new(Translation { method: method.into(), server }));
        }
        if is_task(e) {
            call.error(jsonrpc::METHOD_NOT_FOUND, NO_TASKS);
            return None;
        }
        if let Some(list) = List::of(method) {
            return self.answer_list(call, e, list);
        }
        match method {
            method::INITIALIZE => {
                call.session.note_era(Era::Legacy);
                self.note_params(e.get(&e.params).unwrap_or("{}"));
                let asked = e.get(&e.protocol_version).map(decode);
                let (revision, result) = self.info().answer_shared(asked.as_deref());
                call.session.agree(revision);
                self.attach_all();
                call.result(&result);
            }
            method::DISCOVER => {
                let text = jsonrpc::result(&call.id, &modern::discover_result(&self.info()));
                call.answer(text, false);
            }
            method::PING => call.result("{}"),
            method::TOOLS_CALL => return self.find(call, e, What::Tool),
            method::PROMPTS_GET => return self.find(call, e, What::Prompt),
            method::RESOURCES_READ | method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE => {
                return self.find(call, e, What::Resource);
            }
            method::COMPLETE => {
                let kind = e.get(&e.reference.kind).map(decode);
                match kind.as_deref() {
                    Some("ref/prompt") => return self.find(call, e, What::PromptReference),
                    Some("ref/resource") => return self.find(call, e, What::ResourceReference),
                    _ => {
                        let why = "'ref' is of the type \"ref/prompt\" or \"ref/resource\"";
                        call.error(jsonrpc::INVALID_PARAMS, why);
                    }
                }
            }
            method::SET_LEVEL => {
                let why = "log messages of many servers belong to nobody in particular: use the server's own endpoint";
                call.error(jsonrpc::METHOD_NOT_FOUND, why);
            }
            method if method::is_notification(method) => admit::refuse_notification(call, method),
            method => {
                let why = format!(
                    "the bridge has no method '{}': a server's own may be at its endpoint, /servers/NAME/mcp",
                    printable(method, 100)
                );
                call.error(jsonrpc::METHOD_NOT_FOUND, &why);
            }
        }
        None
    }

    /// Which server has what is named, as far as it is known.
    fn owner(&self, what: What, name: &str) -> Owner {
        let catalogue = &self.bridge.catalogue;
        match what {
            What::Tool => catalogue.find(&self.lists, List::Tools, name),
            What::Prompt | What::PromptReference => catalogue.find(&self.lists, List::Prompts, name),
            What::Resource | What::ResourceReference => catalogue.find_resource(&self.lists, name),
        }
    }

    /// Passes a request to the server that has what it names; where that is not known, all are asked first.
    fn find(&self, call: Call, e: &Envelope<'_>, what: What) -> Option<Later> {
        let span = match what.place(e) {
            Ok(span) => span,
            Err(member) => {
                call.error(jsonrpc::INVALID_PARAMS, &format!("'{member}' is missing, or no string"));
                return None;
            }
        };
        let name = decode(&e.text()[span]).into_owned();
        match self.owner(what, &name) {
            Owner::Nobody | Owner::Unsure(..) => {}
            found => return self.settle(call, e, what, &name, found),
        }
        // It may have come since the servers were last asked. A resource that is in no list can be had all the same: its
        // owner is the first that gives it.
        let reads = e.method == method::RESOURCES_READ;
        let me = self.me.upgrade()?;
        let (asked, wanted) = (me.clone(), name.clone());
        let ask = move |_| {
            let (me, name) = (asked.clone(), wanted.clone());
            async move {
                for list in what.lists() {
                    me.gather(*list).await;
                }
                let unknown = reads && matches!(me.owner(what, &name), Owner::Nobody);
                Ok(if unknown { me.read_anywhere(&name).await } else { None })
            }
        };
        Some(self.bridge.core.waiting.wait(call, e.text(), ask, move |call, e, read: Option<String>| {
            match read {
                Some(result) => call.result(&result),
                None => {
                    let found = me.owner(what, &name);
                    me.settle(call, e, what, &name, found).map(task::spawn);
                }
            }
            None
        }))
    }

    /// It is known which server has it, as far as it will be.
    fn settle(&self, call: Call, e: &Envelope<'_>, what: What, name: &str, owner: Owner) -> Option<Later> {
        let list = what.lists()[0];
        match owner {
            // A server that would come first has not said what it has; it is not waited for any longer.
            Owner::Server(server, own) | Owner::Unsure(server, own) => {
                return self.pass(call, e, what, name, &server, &own);
            }
            Owner::Several(servers) => {
                let why = format!(
                    "'{}' is in the {} of several servers ({}), and this bridge names none of them: use a server's own \
                     endpoint",
                    printable(name, 100),
                    list.member(),
                    servers.join(", ")
                );
                call.error(jsonrpc::INVALID_PARAMS, &why);
            }
            Owner::Nobody => {
                let legacy = what == What::Resource && !call.session.is_modern();
                let code = if legacy { NOT_FOUND } else { jsonrpc::INVALID_PARAMS };
                let thing = list.member().trim_end_matches('s');
                call.error(code, &format!("no server has the {thing} '{}'", printable(name, 200)));
            }
        }
        None
    }

    /// Hands a request over to the part that the session has at a server, in that server's words.
    fn pass(&self, call: Call, e: &Envelope<'_>, what: What, name: &str, server: &str, own: &str) -> Option<Later> {
        let Some(server) = self.bridge.servers.get(server) else {
            call.error(jsonrpc::INVALID_PARAMS, &format!("server '{}' was removed", printable(server, 64)));
            return None;
        };
        if what == What::Tool && !server.admits(Some(own)) {
            let why = format!("the tool '{}' of server '{}' may not be used here", printable(own, 100), server.name());
            call.error(jsonrpc::INVALID_PARAMS, &why);
            return None;
        }
        if matches!(what, What::PromptReference | What::ResourceReference) && !server.core.has_list("completions") {
            call.result(r#"{"completion":{"values":[]}}"#);
            return None;
        }
        let part = match self.part(&server) {
            Ok(part) => part,
            Err(why) => {
                call.error(jsonrpc::REFUSED, &why.to_string());
                return None;
            }
        };
        if e.method == method::RESOURCES_SUBSCRIBE {
            self.note_alias(server.name(), own, name);
        }
        let is_modern = call.session.is_modern();
        let call = call.move_to(&part.session);
        let text = what.place(e).map(|span| spliced(e.text(), &[(span, &quote(own))])).unwrap_or_default();
        // A task would be asked for here, where it is not known whose it is.
        let text = match is_modern.then(|| envelope::scan(&text).ok().and_then(|e| modern::without_tasks(&e))).flatten()
        {
            Some(without) => without,
            None => text,
        };
        match envelope::scan(&text) {
            Ok(e) if is_modern => part.endpoint.modern_request(call, &e),
            Ok(e) if server.core.is_modern_only() => pass_to_modern(&part, call, &e),
            Ok(e) => part.endpoint.request(call, &e),
            Err(_) => {
                call.error(jsonrpc::INTERNAL_ERROR, "the request could not be put in the server's words");
                None
            }
        }
    }

    /// The part that a call of this tool is for, and what that server calls it; None where that is not known.
    pub(crate) fn tool_part(&self, name: &str) -> Option<(Client, String)> {
        let Owner::Server(server, own) = self.owner(What::Tool, name) else { return None };
        let server = self.bridge.servers.get(&server)?;
        Some((self.part(&server).ok()?, own))
    }

    /// Opens a subscription of the modern era to changes at any server. It waits until the servers were asked which
    /// resources they have.
    pub(crate) fn listen(&self, session: &Arc<Session>, wanted: Wanted) -> Option<Later> {
        // Known from now on, so that it can be cancelled.
        let waiting = Subscription::forwarded(session.number, &wanted);
        if !add_subscription(session, &waiting) {
            return None;
        }
        let (me, session) = (self.me.upgrade()?, session.clone());
        Some(Box::pin(async move {
            me.attach_all();
            if !wanted.filter.uris.is_empty() {
                for list in What::Resource.lists() {
                    me.gather(*list).await;
                }
            }
            if !session.take_subscription(&waiting.id).is_some_and(|s| Arc::ptr_eq(&s, &waiting)) {
                return;
            }
            let mut honoured = Filter { uris: Vec::new(), ..wanted.filter.clone() };
            for (n, uri) in wanted.filter.uris.iter().enumerate() {
                if n % 16 == 15 {
                    // The others have their turn.
                    yield_now().await;
                }
                if let Owner::Server(server, own) | Owner::Unsure(server, own) = me.owner(What::Resource, uri)
                    && let Some(server) = me.bridge.servers.get(&server)
                    && let Ok(part) = me.part(&server)
                    && part.endpoint.watch(&part.session, &own)
                {
                    me.note_alias(server.name(), &own, uri);
                    honoured.uris.push(uri.clone());
                }
            }
            let subscription = Subscription::kept(session.number, &wanted, honoured);
            if session.is_ended() || !add_subscription(&session, &subscription) {
                return;
            }
            me.bridge.core.members.join(&Client { session, endpoint: me.clone() });
            subscription.confirm();
        }))
    }

    /// The session does not watch these resources any more, which are as the client calls them.
    pub(crate) fn forget(&self, uris: &HashSet<&str>) {
        for Client { session, endpoint } in self.all_parts() {
            for own in session.watched() {
                let public = self.public_uri(&session.server, &own);
                if uris.contains(public.as_str()) && session.unwatch(&own) {
                    endpoint.unwatch(&session, &own);
                }
            }
        }
    }
}

/// Passes a request of the legacy era to a server that speaks the modern one alone.
fn pass_to_modern(part: &Client, call: Call, e: &Envelope<'_>) -> Option<Later> {
    if matches!(e.method.as_ref(), method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE) {
        let server = &part.session.server;
        let why = format!("server '{server}' has subscriptions for clients of {} alone", modern::VERSION);
        call.error(jsonrpc::METHOD_NOT_FOUND, &why);
        return None;
    }
    let text = modern::with_meta(e, env!("CARGO_PKG_VERSION"));
    envelope::scan(&text).ok().and_then(|e| part.endpoint.modern_request(call, &e))
}
