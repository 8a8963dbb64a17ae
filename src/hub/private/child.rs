//! The child of one session, through all its lives, and what it answers.
//!
//! A child that dies is replaced, and brought to the state that its session expects: the client's own handshake, log
//! level and subscriptions are repeated.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event;
use futures_lite::FutureExt;
use log::debug;
use nix::unistd::Pid;

use super::spares::{Living, Spares};
use crate::hub::child::child::Child;
use crate::hub::child::slot::{Owner, Slot};
use crate::hub::child::start::StartFailure;
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Answer, Endpoint, Later, ListAnswer, ToolCall};
use crate::hub::client::outbox::Outbox;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::hub::leaving::{Leaving, Pending};
use crate::model::bridge::List;
use crate::model::config::server::Mcp;
use crate::model::config::{self, Kind, Mode, Tools};
use crate::model::envelope::{self, Envelope, LONGEST_ID};
use crate::model::modern::{self, Era, Refusal};
use crate::model::{handover, ids, jsonrpc, mcp, method};
use crate::rt::live::Live;
use crate::rt::wait::{timeout, until};
use crate::sys::lock::{Guard, Lock};

/// A session's own child, through all its lives.
pub(crate) struct PrivateChild {
    pub(super) me: Weak<PrivateChild>,
    /// Who answers what is not for a child of its own.
    server: Arc<dyn Endpoint>,
    pub(super) session: Weak<Session>,
    number: u64,
    pub(super) spares: Arc<Spares>,
    config: Arc<Live<Mcp>>,
    umask: Mode,
    pub(super) slot: Arc<Slot>,
    state: Lock<State>,
    pub(super) changed: Event,
    /// Dropped once nothing of the last child is left.
    pub(super) living: Lock<Option<Living>>,
}

/// So many requests of a child to its client are open at a time.
const ASKED: usize = 1000;

/// What its session has told it, and it has asked.
#[derive(Default)]
pub(crate) struct State {
    /// Why there is no child, and will be none.
    pub failed: Option<Error>,
    /// The params of the client's `initialize`.
    pub initialize_params: Option<String>,
    /// Its client has shaken hands before, here or with the bridge: a new child hears of it.
    pub again: bool,
    /// It begins without its client having had a child here before.
    pub begins: bool,
    pub initialized: bool,
    /// The params of its last `logging/setLevel`.
    pub level: Option<String>,
    /// Requests of the child that its client has not answered, by canonical id.
    pub asked: HashSet<String>,
}

impl State {
    /// Of a part of a session of the bridge: the handshake of its client is repeated.
    pub(crate) fn after(params: Option<&str>) -> State {
        let params = params.map_or_else(|| mcp::initialize_params(env!("CARGO_PKG_VERSION")), str::to_owned);
        State { initialize_params: Some(params), begins: true, initialized: true, again: true, ..State::default() }
    }

    /// Of a session of the program before.
    pub(crate) fn restore(saved: &handover::Own, with_child: bool) -> State {
        State {
            failed: None,
            again: saved.initialize_params.is_some(),
            begins: false,
            initialize_params: saved.initialize_params.clone(),
            initialized: saved.initialized,
            level: saved.level.clone(),
            asked: if with_child { saved.asked.iter().cloned().collect() } else { HashSet::default() },
        }
    }
}

impl PrivateChild {
    /// The place of a session's child; run by a supervisor from then on.
    pub(crate) fn new(
        session: &Arc<Session>,
        server: Arc<dyn Endpoint>,
        spares: &Arc<Spares>,
        state: State,
    ) -> Arc<PrivateChild> {
        let config = Live::new(spares.config.get());
        Arc::new_cyclic(|me: &Weak<PrivateChild>| {
            let owner: Weak<dyn Owner> = me.clone();
            PrivateChild {
                me: me.clone(),
                server,
                session: Arc::downgrade(session),
                number: session.number,
                slot: Slot::new(format!("server '{}'", spares.core.name), config.clone(), owner),
                config,
                umask: spares.core.ctx.config().umask,
                state: Lock::new(state),
                changed: Event::new(),
                living: Lock::new(Some(spares.live())),
                spares: spares.clone(),
            }
        })
    }

    pub(crate) fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    fn child(&self) -> Option<Arc<Child>> {
        self.slot.child()
    }

    /// The child once it is there, or why it will not be.
    async fn ready(&self) -> Result<Arc<Child>, Error> {
        let check = || self.child().map(Ok).or_else(|| self.state().failed.clone().map(Err));
        let found = timeout(self.config.get().start_timeout, until(&self.changed, check)).await;
        found.unwrap_or_else(|| Err(Error::PrivateChildLate))
    }

    /// Notes what a new child would have to hear again.
    fn note(&self, e: &Envelope<'_>) {
        let params = e.get(&e.params).map(str::to_owned);
        match e.method.as_ref() {
            method::INITIALIZE => self.state().initialize_params = params,
            method::INITIALIZED => self.state().initialized = true,
            method::SET_LEVEL => self.state().level = params,
            _ => {}
        }
    }

    /// Tells the child that the handshake is complete, where its client has not, or in a way that was not understood.
    fn complete_handshake(&self, session: &Session) {
        let mut state = self.state();
        if session.revision().is_none() || state.initialized {
            return;
        }
        state.initialized = true;
        drop(state);
        if let Some(child) = self.child() {
            child.notify(method::INITIALIZED, None);
        }
    }

    /// The child asks its client something. False where it has asked too much already, or under an id that is too long to be
    /// kept.
    pub(crate) fn note_asked(&self, id: &str) -> bool {
        let mut state = self.state();
        let room = state.asked.len() < ASKED && id.len() <= LONGEST_ID;
        if room {
            state.asked.insert(ids::canonical(id));
        }
        room
    }

    /// Whether the child has asked this, and has had no answer.
    pub(crate) fn take_asked(&self, id: &str) -> bool {
        self.state().asked.remove(&ids::canonical(id))
    }

    /// Passes a request to the child; waits for it where it is not there.
    fn pass(&self, mut call: Call, e: &Envelope<'_>) -> Option<Later> {
        let session = &call.session;
        match (e.method.as_ref(), e.get(&e.uri).map(envelope::decode)) {
            (method::RESOURCES_SUBSCRIBE, Some(uri)) if session.may_watch(&uri) => {
                call.subscribes = Some(Box::new(uri.into()))
            }
            (method::RESOURCES_UNSUBSCRIBE, Some(uri)) => drop(session.unwatch(&uri)),
            _ => {}
        }
        let call = match self.child() {
            Some(child) => child.request(call, e)?,
            None => call,
        };
        Some(self.wait(call, e.text()))
    }

    /// Keeps a request until the child is there.
    fn wait(&self, call: Call, text: &str) -> Later {
        let me = self.me.clone();
        let ready = move |_| {
            let me = me.clone();
            async move {
                match me.upgrade() {
                    Some(own) => own.ready().await,
                    None => Err(Error::SessionEnded),
                }
            }
        };
        self.spares.core.waiting.wait(call, text, ready, |call, e, child: Arc<Child>| child.request(call, e))
    }

    /// A child, brought to where the session's last one was.
    pub(crate) async fn raise(&self) -> Result<Arc<Child>, StartFailure> {
        // A spare was started for the command that the spares have.
        let child = match self.spares.take(&self.config.get()) {
            Some(spare) => spare,
            None => self.spares.starter(self.config.clone()).spawn(self.umask).await?,
        };
        child.give_to(self.me.clone());
        let (params, initialized, level) = {
            let state = self.state();
            let params = state.initialize_params.clone().filter(|_| state.again);
            (params, state.initialized, state.level.clone())
        };
        let Some(params) = params else { return Ok(child) };
        debug!("server '{}': the handshake of a session is repeated", self.spares.core.name);
        let uris = self.session.upgrade().map(|s| s.watched()).unwrap_or_default();
        let repeat = async {
            child.ask(method::INITIALIZE, Some(&params)).await?;
            if initialized {
                child.notify(method::INITIALIZED, None);
            }
            if let Some(level) = level {
                child.send_request(method::SET_LEVEL, &level);
            }
            for uri in uris {
                child.send_request(method::RESOURCES_SUBSCRIBE, &mcp::uri_params(&uri));
            }
            Ok::<(), Error>(())
        };
        let over = async {
            self.slot.retired.wait().await;
            Err(Error::SessionEnded)
        };
        match timeout(self.config.get().start_timeout, repeat.or(over)).await {
            Some(Ok(())) => Ok(child),
            outcome => {
                let why = match outcome {
                    Some(Err(why)) => why.to_string(),
                    _ => "it did not answer".to_owned(),
                };
                child.stop(self.config.get().stop()).await;
                let text = format!("its handshake failed: {why}");
                Err(StartFailure { refused: true, ..StartFailure::not_ready(text) })
            }
        }
    }
}

impl Leaving for PrivateChild {
    fn is_done(&self) -> bool {
        self.slot.done.is_set()
    }

    fn end(&self) {
        self.slot.retire();
    }

    fn done(&self) -> Pending<'_> {
        Box::pin(self.slot.done.wait())
    }

    fn fail_open(&self, why: &str) {
        if let Some(child) = self.slot.any_child() {
            child.fail_all(jsonrpc::REFUSED, why);
        }
    }

    fn is_kept_over_upgrade(&self) -> bool {
        true
    }
}

impl Endpoint for PrivateChild {
    fn admits(&self, tool: Option<&str>) -> bool {
        self.server.admits(tool)
    }

    fn shown(&self) -> Option<Arc<Tools>> {
        self.server.shown()
    }

    fn request(&self, mut call: Call, e: &Envelope<'_>) -> Option<Later> {
        if !matches!(e.method.as_ref(), method::INITIALIZE | method::PING) {
            self.complete_handshake(&call.session);
        }
        self.note(e);
        call.opening = e.method == method::INITIALIZE;
        if call.opening {
            call.session.note_era(Era::Legacy);
        }
        self.pass(call, e)
    }

    fn modern_request(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        self.server.modern_request(call, e)
    }

    fn resume(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        match modern::claimed(e) {
            true => self.server.resume(call, e),
            false => Some(self.wait(call, e.text())),
        }
    }

    fn notification(&self, session: &Arc<Session>, e: &Envelope<'_>) {
        if e.method == method::INITIALIZED && self.state().initialized {
            return;
        }
        self.note(e);
        // A new child will hear of the handshake; anything else was for the one that died.
        if let Some(child) = self.child() {
            child.pass_on(session, e);
        }
    }

    /// Only what the child has asked passes, and once.
    fn response(&self, session: &Arc<Session>, e: &Envelope<'_>) {
        match (e.get(&e.id).is_some_and(|id| self.take_asked(id)), self.child()) {
            (true, Some(child)) => child.pass_on(session, e),
            _ => session.ctx.counters.count(Dropped::UnownedReplies),
        }
    }

    fn check_headers<'a>(&'a self, call: ToolCall<'a>) -> Answer<'a, Result<(), Refusal>> {
        self.server.check_headers(call)
    }

    fn subscribe(&self, session: &Arc<Session>, wanted: Wanted) -> Option<Later> {
        self.server.subscribe(session, wanted)
    }

    fn unsubscribe(&self, session: &Arc<Session>, subscription: &Arc<Subscription>) {
        self.server.unsubscribe(session, subscription);
    }

    fn keeps(&self, subscription: &Arc<Subscription>) -> bool {
        self.server.keeps(subscription)
    }

    fn watch(&self, session: &Arc<Session>, uri: &str) -> bool {
        self.server.watch(session, uri)
    }

    fn unwatch(&self, session: &Session, uri: &str) {
        self.server.unwatch(session, uri);
    }

    fn cancel(&self, session: &Session, wanted: &dyn Fn(&Call) -> bool, why: &str) -> Vec<Call> {
        let mut taken = self.server.cancel(session, wanted, why);
        if let Some(child) = self.slot.any_child() {
            taken.extend(child.cancel(wanted, why));
        }
        taken
    }

    fn abandon(&self, reply: &Arc<Outbox>) {
        self.server.abandon(reply);
    }

    fn leave(&self, session: &Arc<Session>, why: &str) {
        self.slot.retire();
        self.server.leave(session, why);
    }

    fn is_private(&self) -> bool {
        true
    }

    fn own_pids(&self) -> Vec<i32> {
        self.slot.any_child().and_then(|c| c.pid()).map(Pid::as_raw).into_iter().collect()
    }

    fn idle_limit(&self) -> Option<Duration> {
        Some(self.spares.limits.idle)
    }

    fn reconfigure(&self, config: &config::Server, replaced: bool) {
        let Kind::Mcp(mcp) = &config.kind else { return };
        if replaced {
            self.config.set(Arc::new(own_settings(mcp)));
            self.slot.renew();
        } else {
            self.config.set(self.spares.config.get());
        }
    }

    fn save_own(&self, saver: &mut Saver) {
        let child = self.slot.any_child().and_then(|c| c.save(saver));
        let state = self.state();
        let own = handover::Own {
            child,
            initialize_params: state.initialize_params.clone(),
            initialized: state.initialized,
            level: state.level.clone(),
            asked: state.asked.iter().cloned().collect(),
        };
        saver.own(self.number, own);
    }

    fn list<'a>(&'a self, _session: &'a Arc<Session>, list: List, _patient: bool) -> ListAnswer<'a> {
        Box::pin(async move {
            let limit = self.spares.core.ctx.config().limits.reply.bytes();
            self.ready().await?.list(list, limit).await
        })
    }

    fn read<'a>(&'a self, _session: &'a Arc<Session>, uri: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(async move { self.ready().await.ok()?.read_resource(uri).await })
    }
}

/// The settings of a session's own child: it is there as long as its session.
pub(crate) fn own_settings(mcp: &Mcp) -> Mcp {
    Mcp { on_demand: None, ..mcp.clone() }
}
