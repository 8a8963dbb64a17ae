//! One named server: what of it does not depend on its kind.
//!
//! What it answers its sessions is in [`super::endpoint`]; a [`Backend`] that a reload has replaced finishes what it has.

use std::borrow::Cow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log::info;

use super::backend::{Backend, Opened, TakePlace};
use super::core::Core;
use super::shown::ShownTools;
use crate::hub::client::call::{Call, Translation};
use crate::hub::client::endpoint::{Client, Endpoint, Later};
use crate::hub::client::outbox::Outbox;
use crate::hub::client::restored::Restored;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::{Beginning, Session};
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::context::Context;
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::hub::load::Load;
use crate::model::bridge::List;
use crate::model::budget::Holder;
use crate::model::config::{self, Tools};
use crate::model::envelope::{self, Envelope};
use crate::model::mcp::ServerInfo;
use crate::model::meter::RECENT;
use crate::model::modern::{self, Era};
use crate::model::out::Out;
use crate::model::status::{self, ServerState};
use crate::model::transport::SessionKind;
use crate::model::{handover, jsonrpc, method};
use crate::sys::lock::Lock;
use crate::sys::process;

/// A server of the instance. It lives as long as its name is in the configuration, whatever its children do.
pub(crate) struct Server {
    pub core: Arc<Core>,
    pub(super) me: Weak<Server>,
    pub(super) config: Lock<config::Server>,
    backend: Lock<Option<Arc<dyn Backend>>>,
    /// Backends that a reload has replaced, and that still have something to finish.
    leaving: Lock<Vec<Arc<dyn Backend>>>,
    /// The state of a server whose backend has none of its own.
    phase: Lock<ServerState>,
    shown: Arc<ShownTools>,
}

impl Server {
    pub(crate) fn new(core: Arc<Core>, config: config::Server) -> Arc<Server> {
        Arc::new_cyclic(|me| Server {
            core,
            me: me.clone(),
            config: Lock::new(config),
            backend: Lock::default(),
            leaving: Lock::default(),
            phase: Lock::new(ServerState::Starting),
            shown: Arc::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.core.name
    }

    pub(super) fn ctx(&self) -> &Arc<Context> {
        &self.core.ctx
    }

    fn endpoint(&self) -> Option<Arc<dyn Endpoint>> {
        let me: Arc<dyn Endpoint> = self.me.upgrade()?;
        Some(me)
    }

    pub(crate) fn config(&self) -> config::Server {
        self.config.get()
    }

    /// It is no process of ours.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.config.lock().kind.http().is_some()
    }

    pub(crate) fn required(&self) -> bool {
        self.config.lock().required
    }

    /// Which of its tools may be used.
    pub(crate) fn tools(&self) -> Tools {
        self.config.lock().kind.tools().cloned().unwrap_or_default()
    }

    /// The names of the tools that may be used, as far as they are known; for those who look at the instance.
    pub(crate) fn tool_names(self: &Arc<Self>) -> Option<Arc<Vec<String>>> {
        let me = self.clone();
        self.shown.look(async move {
            let backend = me.backend().ok_or(Error::Absent)?;
            let client = me.open_request(Holder::Session(0));
            let items = backend.list(&client.session, List::Tools, false).await?;
            let tools = me.tools();
            Ok(items.iter().map(|item| item.name.clone()).filter(|name| tools.admits(Some(name))).collect())
        })
    }

    // --- its backend -------------------------------------------------------------------------------------------------

    pub(crate) fn backend(&self) -> Option<Arc<dyn Backend>> {
        self.backend.get()
    }

    /// Whether there may be arguments of calls that are repeated in headers (2026-07-28 basic/transports/streamable-http).
    pub(crate) fn checks_headers(&self) -> bool {
        self.backend().is_some_and(|backend| backend.checks_headers())
    }

    /// The backend, and those before it that still have something to finish.
    pub(super) fn backends(&self) -> Vec<Arc<dyn Backend>> {
        let mut leaving = self.leaving.lock();
        leaving.retain(|b| !b.is_done());
        self.backend().into_iter().chain(leaving.iter().cloned()).collect()
    }

    /// Puts a backend in place under a configuration; the one before finishes what it has.
    pub(crate) fn install(&self, config: config::Server, backend: Arc<dyn Backend>) {
        if let Some(info) = backend.info() {
            self.core.set_info(info);
        }
        self.config.replace(config.clone());
        let before = self.backend.replace(Some(backend.clone()));
        self.core.wake();
        backend.run(before.is_some());
        if backend.condition().is_none() {
            self.enter(ServerState::Ready);
        }
        for client in self.core.members.clients() {
            client.endpoint.reconfigure(&config, true);
        }
        if let Some(before) = before {
            self.leave_behind(&before);
            before.replaced();
            self.core.wake();
        }
    }

    fn leave_behind(&self, before: &Arc<dyn Backend>) {
        let mut leaving = self.leaving.lock();
        leaving.retain(|b| !b.is_done());
        leaving.push(before.clone());
        self.ctx().leaving.note(before.clone());
    }

    /// Takes over settings that leave the processes as they are.
    pub(crate) fn adjust(&self, config: config::Server) {
        let Some(backend) = self.backend() else { return };
        backend.adjust(&config);
        for client in self.core.members.clients() {
            client.endpoint.reconfigure(&config, false);
        }
        let shown = self.tools();
        self.config.replace(config);
        if let Some(info) = backend.info() {
            self.core.set_info(info);
        }
        self.core.wake();
        if self.tools() != shown || backend.info().is_some() {
            self.lists_changed();
        }
    }

    /// The server is removed: it finishes what it has, and ends its sessions. `end` ends one.
    pub(crate) async fn retire(&self, end: impl Fn(&Client, &str)) {
        self.core.members.end_subscriptions();
        if let Some(backend) = self.backend() {
            self.ctx().leaving.note(backend.clone());
            backend.retire();
            backend.retired().await;
        }
        for client in self.core.members.clients() {
            end(&client, "the server was removed");
        }
        self.enter(ServerState::Stopped);
    }

    // --- its state ---------------------------------------------------------------------------------------------------

    /// Its state and the reason for it.
    pub(crate) fn condition(&self) -> (ServerState, Option<String>) {
        let of_backend = self.backend().and_then(|b| b.condition());
        of_backend.unwrap_or_else(|| (self.phase.get(), None))
    }

    pub(crate) fn phase(&self) -> ServerState {
        self.condition().0
    }

    /// Enters a state, where the backend has none of its own.
    pub(crate) fn enter(&self, phase: ServerState) {
        if self.phase.replace(phase) != phase {
            info!("server '{}' is {phase}", self.name());
            self.core.announce();
        }
    }

    /// Waits until the server is ready, or is not going to be; the error is for who starts it.
    pub(crate) async fn settled(&self) -> Result<(), String> {
        let check = || match self.condition() {
            (ServerState::Ready | ServerState::Unhealthy | ServerState::Idle, _) => Some(Ok(())),
            // Some have much to install at first, and get farther each time.
            (ServerState::Backoff, _) if self.ctx().starts.is_worth_waiting(self.name()) => None,
            (ServerState::Failed | ServerState::Backoff | ServerState::Stopped, why) => {
                let words = self.backend().map(|b| b.words()).unwrap_or_default();
                Some(Err(format!("{}{words}", why.unwrap_or_default())))
            }
            _ => None,
        };
        self.core.until(check).await
    }

    pub(crate) fn status(&self, second: u64) -> status::Server {
        let in_flight = self.core.load.in_flight();
        let ((phase, reason), backend, config) = (self.condition(), self.backend(), self.config());
        let (restarts, known) = (self.core.restarts(), self.core.info());
        let own = self.core.members.clients().into_iter().flat_map(|c| c.endpoint.own_pids());
        let pids: Vec<i32> = match &backend {
            Some(backend) => backend.pids().into_iter().chain(own).collect(),
            None => Vec::new(),
        };
        status::Server {
            name: self.name().to_owned(),
            serial: self.core.serial(),
            kind: config.kind.name().to_owned(),
            url: None,
            state: phase,
            reason,
            health: Default::default(),
            required: config.required,
            children: backend.map(|b| b.children()).unwrap_or_default(),
            restarts: restarts.count,
            recent_restarts: restarts.at.iter().filter(|at| second.saturating_sub(**at) < RECENT * 60).count() as u64,
            last_exit: restarts.last_exit,
            server_info: known.as_ref().map(ServerInfo::name),
            protocol: known.as_ref().map(|i| i.revision.clone()),
            left_out: self.core.left_out(),
            sessions: self.session_count() as u64,
            requests: self.core.meters.sum(second).requests(in_flight),
            methods: self.core.meters.methods(second),
            process: process::usage(&pids, true),
            pids,
        }
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    /// How many sessions take a place here.
    pub(crate) fn session_count(&self) -> usize {
        let parts = self.backend().is_some_and(|b| b.counts_parts());
        let counts = |c: &&Client| match c.session.kind {
            SessionKind::Request => false,
            // One of the bridge that only hears of changes here takes no place.
            SessionKind::Part => parts || c.endpoint.is_private(),
            SessionKind::Lasting(_) => true,
        };
        self.core.members.clients().iter().filter(counts).count()
    }

    /// How many sessions may be here, and whether there is a place for one more at all; None without a limit.
    pub(crate) fn places(&self) -> Option<(u32, bool)> {
        let backend = self.backend()?;
        let full = backend.full(self.session_count(), true);
        full.or(backend.session_limit()).map(|limit| (limit, full.is_none()))
    }

    /// How long a session may be idle, where that is less than for others.
    pub(crate) fn idle_limit(&self) -> Option<Duration> {
        self.backend()?.idle_limit()
    }

    /// To open a session costs something here: each gets a child of its own.
    pub(crate) fn is_private(&self) -> bool {
        self.backend().is_some_and(|b| b.is_private())
    }

    /// What a session here begins with. Its requests count for what is `above` as well.
    pub(crate) fn beginning(&self, kind: SessionKind, id: String, holder: Holder, above: &[Arc<Load>]) -> Beginning {
        let place = self.backend().map_or(0, |b| b.place());
        Beginning {
            kind,
            id,
            holder,
            server: self.core.name.clone(),
            place,
            above: self.loads(above),
            watchers: self.core.watchers.clone(),
        }
    }

    /// What a request of a session here counts for, beside the session and what is `above` it.
    pub(crate) fn loads(&self, above: &[Arc<Load>]) -> Vec<Arc<Load>> {
        above.iter().chain([&self.core.load, &self.ctx().load]).cloned().collect()
    }

    /// A new session that lasts.
    pub(crate) fn open(self: &Arc<Self>, session: Arc<Session>) -> Client {
        self.open_with(session, None)
    }

    /// A session that goes on, whose client has shaken hands with these params.
    pub(crate) fn open_again(self: &Arc<Self>, session: Arc<Session>, params: &str) -> Client {
        self.open_with(session, Some(Some(params)))
    }

    /// What one request of the modern era is served by in place of a session.
    pub(crate) fn open_request(self: &Arc<Self>, holder: Holder) -> Client {
        let beginning = self.beginning(SessionKind::Request, String::new(), holder, &[]);
        let session = Session::new(self.ctx(), self.ctx().next_session(), beginning);
        session.note_era(Era::Modern);
        let session = Arc::new(session);
        Client { endpoint: self.endpoint_of(&session, None), session }
    }

    /// A part of a session of the bridge, whose client has shaken hands with these params. It gets a child of its own only
    /// if it is `private`. The error says which limit is reached.
    pub(crate) fn open_part(
        self: &Arc<Self>,
        whole: &Arc<Session>,
        belong: impl FnOnce(&Session),
        private: bool,
        params: Option<&str>,
    ) -> Result<Client, Error> {
        let full = self.backend().and_then(|b| b.full(self.session_count(), private));
        if let Some(full) = full.filter(|_| private || whole.kind != SessionKind::Request) {
            self.ctx().counters.count(Dropped::Sessions);
            return Err(Error::Full { limit: full, of: format!(" of server '{}'", self.name()) });
        }
        let kind = if whole.kind == SessionKind::Request { whole.kind } else { SessionKind::Part };
        let beginning = self.beginning(kind, String::new(), whole.holder.clone(), std::slice::from_ref(&whole.load));
        let part = Session::new(self.ctx(), self.ctx().next_session(), beginning);
        part.note_era(if whole.is_modern() { Era::Modern } else { Era::Legacy });
        belong(&part);
        if let Some(revision) = whole.revision() {
            part.agree(revision.to_owned());
        }
        let part = Arc::new(part);
        match private {
            true => Ok(self.open_with(part, Some(params))),
            false => {
                let client = Client { session: part, endpoint: self.clone() };
                self.core.members.join(&client);
                Ok(client)
            }
        }
    }

    fn open_with(self: &Arc<Self>, session: Arc<Session>, shaken: Option<Option<&str>>) -> Client {
        let client = Client { endpoint: self.endpoint_of(&session, shaken), session };
        self.core.members.join(&client);
        client
    }

    /// Who answers a new session: the server itself, or what it has for this session alone.
    fn endpoint_of(self: &Arc<Self>, session: &Arc<Session>, shaken: Option<Option<&str>>) -> Arc<dyn Endpoint> {
        let server: Arc<dyn Endpoint> = self.clone();
        let opened = Opened { session, server: server.clone(), shaken };
        self.backend().and_then(|b| b.open(opened)).unwrap_or(server)
    }

    /// A session of the program before, which had a child of its own.
    pub(crate) fn reopen(
        self: &Arc<Self>,
        session: &Arc<Session>,
        own: handover::Own,
        restored: &Restored,
    ) -> Option<Client> {
        let opened = Opened { session, server: self.clone(), shaken: session.is_part().then_some(None) };
        let endpoint = self.backend()?.reopen(opened, own, restored)?;
        Some(Client { session: session.clone(), endpoint })
    }

    /// Tells every client that lists may differ: a child was replaced, or other tools are shown.
    pub(crate) fn lists_changed(&self) {
        for session in self.core.members.sharing() {
            session.lists_changed(Era::Legacy, &|list| self.core.has_list(list));
        }
    }

    // --- requests ----------------------------------------------------------------------------------------------------

    /// Passes a request to the backend, waiting until it is ready for it.
    pub(super) fn forward(&self, call: Call, e: &Envelope<'_>, era: Era) -> Option<Later> {
        let call = match self.backend() {
            Some(backend) => backend.request(call, e, era)?,
            None => call,
        };
        Some(self.wait(call, e.text(), era))
    }

    /// Keeps a request until the backend is ready for it.
    pub(super) fn wait(&self, call: Call, text: &str, era: Era) -> Later {
        let (me, then) = (self.me.clone(), self.me.clone());
        let ready = move |session: Arc<Session>| {
            let me = me.clone();
            async move {
                match me.upgrade() {
                    Some(server) => server.ready(&session, era).await,
                    None => Err(Error::ServerRemoved),
                }
            }
        };
        self.core.waiting.wait(call, text, ready, move |call, e, ()| {
            match then.upgrade().and_then(|server| server.backend()) {
                Some(backend) => backend.request(call, e, era),
                None => Some(call),
            }
        })
    }

    /// Waits until the backend is ready for a request of a session.
    pub(super) async fn ready(&self, session: &Arc<Session>, era: Era) -> Result<(), Error> {
        match self.backend() {
            Some(backend) => backend.ready(session, era).await,
            None => Err(Error::NoChild { server: self.core.name.clone() }),
        }
    }

    /// Answers the handshake from what the child said in its own.
    pub(super) fn initialize(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        if let Some(info) = self.core.info() {
            greet(call, e, &info);
            return None;
        }
        let me = self.me.clone();
        let ready = move |session: Arc<Session>| {
            let me = me.clone();
            async move {
                let server = me.upgrade().ok_or(Error::ServerRemoved)?;
                server.ready(&session, Era::Legacy).await?;
                server.core.info().ok_or(Error::NotIntroduced)
            }
        };
        Some(self.core.waiting.wait(call, e.text(), ready, |call, e, info| {
            greet(call, e, &info);
            None
        }))
    }

    /// Subscriptions to resources are counted: the child hears of the first subscriber and of the last one's leave.
    pub(super) fn subscription(&self, mut call: Call, e: &Envelope<'_>) -> Option<Later> {
        let uri = e.get(&e.uri).map(envelope::decode).unwrap_or(Cow::Borrowed("")).into_owned();
        let session = call.session.clone();
        let wanted = e.method == method::RESOURCES_SUBSCRIBE;
        if wanted && !session.may_watch(&uri) {
            call.error(jsonrpc::REFUSED, "this session has too many subscriptions, or the URI is too long");
            return None;
        }
        if !wanted && !session.unwatch(&uri) || self.watching(&uri, &session) > 0 {
            if wanted {
                session.watch(&uri);
            }
            call.result("{}");
            return None;
        }
        if wanted {
            call.subscribes = Some(Box::new(uri.into()));
        }
        self.forward(call, e, Era::Legacy)
    }

    /// How many sessions watch a resource at the child of this one.
    pub(super) fn watching(&self, uri: &str, session: &Session) -> usize {
        let places = self.backend().map_or(1, |b| b.places());
        self.core.watchers.count(uri, session.place, places)
    }

    /// Watches a resource for a session, and lets the child know of the first that does.
    pub(super) fn begin_watch(&self, session: &Session, uri: &str) {
        if self.watching(uri, session) == 0
            && let Some(backend) = self.backend()
        {
            backend.send_watch(session, method::RESOURCES_SUBSCRIBE, uri);
        }
        session.watch(uri);
    }

    /// Opens a subscription, as far as it can be honoured; false if that is not known yet.
    pub(super) fn open_subscription(&self, session: &Arc<Session>, wanted: &Wanted) -> bool {
        let (Some(backend), Some(endpoint)) = (self.backend(), self.endpoint()) else { return true };
        let Some(subscription) = backend.honour(session, wanted) else { return false };
        if session.is_ended() || !add_subscription(session, &subscription) {
            return true;
        }
        self.core.members.join(&Client { session: session.clone(), endpoint });
        if subscription.request.is_some() {
            backend.subscribe(session, &subscription);
            return true;
        }
        subscription.confirm();
        for uri in &subscription.filter.uris {
            if !session.may_watch(uri) {
                break;
            }
            self.begin_watch(session, uri);
        }
        true
    }

    // --- a protocol beside MCP ---------------------------------------------------------------------------------------

    /// A session is over that has no part here: what runs for it ends.
    pub(crate) fn end_commands(&self, session: &Session) {
        self.backends().iter().for_each(|b| b.leave(session));
    }

    /// A session of the bridge takes a place here with its part.
    pub(crate) fn counts_parts(&self) -> bool {
        self.backend().is_some_and(|b| b.counts_parts())
    }

    /// Answers a request of a protocol beside MCP; false if it is not spoken here. `place` takes a place for the session.
    pub(crate) fn serve_beside(
        &self,
        session: &Arc<Session>,
        e: &Envelope<'_>,
        reply: &Arc<Outbox>,
        place: &TakePlace<'_>,
    ) -> bool {
        let runs = self.backends().into_iter().find(|b| b.runs_for(session));
        match runs.or_else(|| self.backend().filter(|b| b.greeting().is_some())) {
            Some(backend) => backend.beside(session, e, reply, place),
            None => return false,
        }
        true
    }

    // --- the upgrade in place ----------------------------------------------------------------------------------------

    /// Everything of it for the next program; the sessions that it names are noted.
    pub(crate) fn save(&self, saver: &mut Saver) -> handover::Server {
        let mut saved = self.core.save();
        self.core.waiting.save(saver);
        for client in self.core.members.clients() {
            saver.session(&client.session);
            client.endpoint.save_own(saver);
        }
        if let Some(backend) = self.backend() {
            backend.save(saver, &mut saved);
        }
        saved
    }
}

/// Notes a subscription of a session; false where it was refused.
pub(crate) fn add_subscription(session: &Session, subscription: &Arc<Subscription>) -> bool {
    let added = session.add_subscription(subscription.clone());
    if !added {
        let why = "too many subscriptions, or one with this id is open already";
        subscription.reply.push(Out::error(jsonrpc::error(Some(&subscription.id), jsonrpc::REFUSED, why)));
    }
    added
}

/// Answers a handshake of the legacy era.
fn greet(call: Call, e: &Envelope<'_>, info: &ServerInfo) {
    let asked = e.get(&e.protocol_version);
    if info.revision == modern::VERSION {
        let asked = asked.map(|v| envelope::quote(&envelope::decode(v)));
        let text = modern::only(asked.as_deref()).text(Some(&call.id));
        return call.answer(text, true);
    }
    let (revision, result) = info.answer_shared(asked.map(envelope::decode).as_deref());
    call.session.agree(revision);
    call.result(&result);
}

/// Answers what a server of the legacy era is asked in the modern one and has no method for; else the request is given
/// back, to be answered in the client's era. `info` is what the server says of itself, `named` what names it in answers
/// that are no child's.
pub(crate) fn translate(
    mut call: Call,
    e: &Envelope<'_>,
    info: Option<&ServerInfo>,
    named: Option<Arc<str>>,
) -> Option<Call> {
    if e.method == method::DISCOVER
        && let Some(info) = info
    {
        let text = jsonrpc::result(&call.id, &modern::discover_result(info));
        call.answer(text, false);
        return None;
    }
    call.translated = Some(Box::new(Translation { method: e.method.as_ref().into(), server: named }));
    Some(call)
}
