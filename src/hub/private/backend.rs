//! A child for each session as what a server is made of.
//!
//! What sessions share all the same (the modern era, what the server says of itself) is the backend `shared`; whatever is
//! not said here is passed to it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_lite::FutureExt;
use nix::unistd::Pid;

use super::child::{PrivateChild, State, own_settings};
use super::spares::{Limits, Spares};
use crate::hub::child::child::Child;
use crate::hub::child::far::Dial;
use crate::hub::child::supervisor;
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Answer, Endpoint, ListAnswer, ToolCall};
use crate::hub::client::restored::Restored;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::error::Error;
use crate::hub::leaving::{Leaving, Pending};
use crate::hub::server::backend::{Backend, Opened};
use crate::hub::server::core::Core;
use crate::model::bridge::List;
use crate::model::config::server::Mcp;
use crate::model::config::{self, Kind, Mode};
use crate::model::envelope::Envelope;
use crate::model::handover;
use crate::model::last_words::LastWords;
use crate::model::modern::{Era, Refusal};
use crate::model::status::{self, ServerState};
use crate::model::transport::SessionKind;
use crate::rt::wait::timeout;

/// A server with a child for each session.
pub(crate) struct PerSession {
    core: Arc<Core>,
    shared: Arc<dyn Backend>,
    spares: Arc<Spares>,
}

impl PerSession {
    pub(crate) fn new(
        core: &Arc<Core>,
        mcp: &Mcp,
        limits: Limits,
        shared: Arc<dyn Backend>,
        dial: Option<Arc<dyn Dial>>,
    ) -> Arc<PerSession> {
        let spares = Spares::new(core, own_settings(mcp), limits, dial);
        Arc::new(PerSession { core: core.clone(), shared, spares })
    }

    /// Begins to run the child of a session.
    fn run_own(&self, own: &Arc<PrivateChild>, first: Option<Arc<Child>>) {
        self.core.ctx.leaving.note(own.clone());
        // One that is there already is no news for its client.
        let again = first.is_none() && own.state().again;
        supervisor::run(&own.slot, first, again, &self.core.ctx.clock);
    }
}

impl Leaving for PerSession {
    fn is_done(&self) -> bool {
        self.shared.is_done() && self.spares.is_done()
    }

    fn end(&self) {
        self.shared.end();
        self.spares.end();
    }

    fn done(&self) -> Pending<'_> {
        Box::pin(async {
            self.shared.done().await;
            self.spares.done().await;
        })
    }

    fn fail_open(&self, why: &str) {
        self.shared.fail_open(why);
    }
}

impl Backend for PerSession {
    fn prepare(&self, umask: Mode) -> Answer<'_, Result<(), Error>> {
        self.shared.prepare(umask)
    }

    fn discard(&self) -> Answer<'_, ()> {
        self.shared.discard()
    }

    fn run(&self, again: bool) {
        self.spares.run();
        self.shared.run(again);
    }

    fn replaced(&self) {
        self.shared.replaced();
        self.spares.end();
    }

    fn retire(&self) {
        self.shared.retire();
        self.spares.end();
    }

    /// Children of sessions finish what they have, as the shared ones do.
    fn retired(&self) -> Answer<'_, ()> {
        Box::pin(async {
            let quiet = async {
                for client in self.core.members.clients().iter().filter(|c| c.endpoint.is_private()) {
                    client.session.load.quiet().await;
                }
            };
            let limit = self.core.ctx.config().drain_timeout;
            let _ = timeout(limit, quiet.or(self.core.ctx.end_drain.wait())).await;
            self.shared.retired().await;
        })
    }

    fn adjust(&self, config: &config::Server) {
        self.shared.adjust(config);
        if let Kind::Mcp(mcp) = &config.kind {
            self.spares.config.set(Arc::new(own_settings(mcp)));
        }
    }

    fn retry(&self) {
        self.shared.retry();
    }

    fn condition(&self) -> Option<(ServerState, Option<String>)> {
        self.shared.condition()
    }

    fn words(&self) -> LastWords {
        self.shared.words()
    }

    fn children(&self) -> status::Children {
        self.shared.children()
    }

    fn pids(&self) -> Vec<i32> {
        let spares = self.spares.children();
        self.shared.pids().into_iter().chain(spares.iter().filter_map(|c| c.pid()).map(Pid::as_raw)).collect()
    }

    fn session_limit(&self) -> Option<u32> {
        Some(self.spares.limits.max)
    }

    fn full(&self, sessions: usize, private: bool) -> Option<u32> {
        let full = private && self.spares.is_full(sessions);
        full.then_some(self.spares.limits.max)
    }

    fn is_private(&self) -> bool {
        true
    }

    fn idle_limit(&self) -> Option<Duration> {
        Some(self.spares.limits.idle)
    }

    fn place(&self) -> usize {
        self.shared.place()
    }

    fn places(&self) -> usize {
        self.shared.places()
    }

    fn open(&self, opened: Opened<'_>) -> Option<Arc<dyn Endpoint>> {
        if opened.session.kind == SessionKind::Request {
            return None;
        }
        let state = opened.shaken.map_or_else(State::default, State::after);
        let own = PrivateChild::new(opened.session, opened.server, &self.spares, state);
        self.run_own(&own, None);
        Some(own)
    }

    fn reopen(&self, opened: Opened<'_>, saved: handover::Own, restored: &Restored) -> Option<Arc<dyn Endpoint>> {
        let state = State::restore(&saved, saved.child.is_some());
        let own = PrivateChild::new(opened.session, opened.server, &self.spares, state);
        let starter = self.spares.starter(self.spares.config.clone());
        let child = saved.child.and_then(|child| starter.restore(child, restored));
        match &child {
            Some(child) => {
                let observer: Weak<PrivateChild> = Arc::downgrade(&own);
                child.give_to(observer);
                // Now, and not when its supervisor first runs: it is set to work with all the others.
                own.slot.place(Some(child));
            }
            None => own.state().asked.clear(),
        }
        self.run_own(&own, child);
        Some(own)
    }

    fn request(&self, call: Call, e: &Envelope<'_>, era: Era) -> Option<Call> {
        self.shared.request(call, e, era)
    }

    fn ready<'a>(&'a self, session: &'a Arc<Session>, era: Era) -> Answer<'a, Result<(), Error>> {
        self.shared.ready(session, era)
    }

    fn notification(&self, session: &Session, e: &Envelope<'_>) {
        self.shared.notification(session, e);
    }

    fn checks_headers(&self) -> bool {
        self.shared.checks_headers()
    }

    fn check_headers<'a>(&'a self, call: ToolCall<'a>) -> Answer<'a, Result<(), Refusal>> {
        self.shared.check_headers(call)
    }

    fn honour(&self, session: &Session, wanted: &Wanted) -> Option<Arc<Subscription>> {
        self.shared.honour(session, wanted)
    }

    fn subscribe(&self, session: &Session, subscription: &Arc<Subscription>) {
        self.shared.subscribe(session, subscription);
    }

    fn unsubscribe(&self, subscription: &Arc<Subscription>) {
        self.shared.unsubscribe(subscription);
    }

    fn keeps(&self, subscription: &Arc<Subscription>) -> bool {
        self.shared.keeps(subscription)
    }

    fn can_watch(&self, session: &Session) -> bool {
        self.shared.can_watch(session)
    }

    fn send_watch(&self, session: &Session, method: &str, uri: &str) {
        self.shared.send_watch(session, method, uri);
    }

    fn cancel(&self, wanted: &dyn Fn(&Call) -> bool, why: &str) -> Vec<Call> {
        self.shared.cancel(wanted, why)
    }

    fn list<'a>(&'a self, session: &'a Arc<Session>, list: List, patient: bool) -> ListAnswer<'a> {
        Box::pin(async move {
            match (self.shared.list(session, list, patient).await, self.spares.children().first()) {
                // One that waits for its session says it as well as any.
                (Err(Error::Absent), Some(spare)) => spare.list(list, session.ctx.config().limits.reply.bytes()).await,
                (said, _) => said,
            }
        })
    }

    fn read<'a>(&'a self, session: &'a Arc<Session>, uri: &'a str) -> Answer<'a, Option<String>> {
        self.shared.read(session, uri)
    }

    fn save(&self, saver: &mut Saver, into: &mut handover::Server) {
        self.shared.save(saver, into);
        into.spares = self.spares.children().iter().filter_map(|c| c.save(saver)).collect();
    }

    fn restore(&self, mut saved: handover::Server, restored: &Restored) {
        let starter = self.spares.starter(self.spares.config.clone());
        let spares = std::mem::take(&mut saved.spares);
        self.spares.adopt(spares.into_iter().filter_map(|child| starter.restore(child, restored)).collect());
        self.shared.restore(saved, restored);
    }
}
