//! What a named server answers the sessions that share it: itself what it can, and through its backend the rest.
//!
//! Must not know which kind of backend that is.

use std::sync::Arc;

use super::admit::{self, NO_TASKS, is_task};
use super::server::{Server, add_subscription};
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Answer, Endpoint, Later, ListAnswer, ToolCall};
use crate::hub::client::outbox::Outbox;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::model::bridge::List;
use crate::model::config::Tools;
use crate::model::envelope::Envelope;
use crate::model::modern::{self, Era, Refusal};
use crate::model::{jsonrpc, method};

impl Endpoint for Server {
    fn admits(&self, tool: Option<&str>) -> bool {
        self.config.lock().kind.tools().is_none_or(|tools| tools.admits(tool))
    }

    fn shown(&self) -> Option<Arc<Tools>> {
        Some(self.tools()).filter(|tools| !tools.is_open()).map(Arc::new)
    }

    fn request(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        match e.method.as_ref() {
            method::INITIALIZE => {
                call.session.note_era(Era::Legacy);
                return self.initialize(call, e);
            }
            method::PING => call.result("{}"),
            method::SET_LEVEL => {
                let text = "log messages of a shared server belong to nobody in particular, so it sends none";
                call.error(jsonrpc::METHOD_NOT_FOUND, text);
            }
            // Tasks outlive their request and are listed for each client that asks: on a shared child, one client could read what
            // another started.
            _ if is_task(e) => call.error(jsonrpc::METHOD_NOT_FOUND, NO_TASKS),
            method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE if e.uri.is_some() => {
                return self.subscription(call, e);
            }
            method if method::is_notification(method) => admit::refuse_notification(call, method),
            _ => return self.forward(call, e, Era::Legacy),
        }
        None
    }

    fn modern_request(&self, mut call: Call, e: &Envelope<'_>) -> Option<Later> {
        call.translated = None;
        self.forward(call, e, Era::Modern)
    }

    fn resume(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        match e.method.as_ref() {
            _ if modern::claimed(e) => Some(self.wait(call, e.text(), Era::Modern)),
            method::INITIALIZE => self.initialize(call, e),
            _ => self.forward(call, e, Era::Legacy),
        }
    }

    fn notification(&self, session: &Arc<Session>, e: &Envelope<'_>) {
        match e.method.as_ref() {
            // The daemon has had its own handshake with the child.
            method::INITIALIZED | method::ROOTS_CHANGED => {}
            // Progress of a client on a request of the server: a shared server has none.
            method::PROGRESS => self.ctx().counters.count(Dropped::UnownedNotifications),
            _ => match self.backend() {
                Some(backend) => backend.notification(session, e),
                None => self.ctx().counters.count(Dropped::UnownedNotifications),
            },
        }
    }

    fn response(&self, _session: &Arc<Session>, _e: &Envelope<'_>) {
        // Shared children ask clients nothing, so no client can have anything to answer.
        self.ctx().counters.count(Dropped::UnownedReplies);
    }

    fn check_headers<'a>(&'a self, call: ToolCall<'a>) -> Answer<'a, Result<(), Refusal>> {
        Box::pin(async move {
            match self.backend() {
                Some(backend) => backend.check_headers(call).await,
                None => Ok(()),
            }
        })
    }

    fn subscribe(&self, session: &Arc<Session>, wanted: Wanted) -> Option<Later> {
        if self.open_subscription(session, &wanted) {
            return None;
        }
        // Known from now on, so that it can be cancelled.
        let waiting = Subscription::forwarded(session.number, &wanted);
        if !add_subscription(session, &waiting) {
            return None;
        }
        let (me, session) = (self.me.clone(), session.clone());
        Some(Box::pin(async move {
            loop {
                let Some(server) = me.upgrade() else { return };
                let found = server.ready(&session, Era::Modern).await;
                let taken = session.take_subscription(&waiting.id);
                if !taken.is_some_and(|s| Arc::ptr_eq(&s, &waiting)) {
                    return;
                }
                match found {
                    Err(why) => return waiting.fail(jsonrpc::INTERNAL_ERROR, &why.to_string()),
                    Ok(()) if server.open_subscription(&session, &wanted) => return,
                    Ok(()) if add_subscription(&session, &waiting) => {}
                    Ok(()) => return,
                }
            }
        }))
    }

    fn unsubscribe(&self, session: &Arc<Session>, subscription: &Arc<Subscription>) {
        self.backends().iter().for_each(|b| b.unsubscribe(subscription));
        // The resources of it that the session watches for nothing else are given up at a legacy child as well.
        if subscription.request.is_some() {
            return;
        }
        for uri in session.given_up(&subscription.filter.uris) {
            if session.unwatch(uri) {
                self.unwatch(session, uri);
            }
        }
    }

    fn keeps(&self, subscription: &Arc<Subscription>) -> bool {
        self.backends().iter().any(|b| b.keeps(subscription))
    }

    fn watch(&self, session: &Arc<Session>, uri: &str) -> bool {
        if !self.backend().is_some_and(|b| b.can_watch(session)) || !session.may_watch(uri) {
            return false;
        }
        self.begin_watch(session, uri);
        true
    }

    fn unwatch(&self, session: &Session, uri: &str) {
        if self.watching(uri, session) == 0
            && let Some(backend) = self.backend()
        {
            backend.send_watch(session, method::RESOURCES_UNSUBSCRIBE, uri);
        }
    }

    fn cancel(&self, session: &Session, wanted: &dyn Fn(&Call) -> bool, why: &str) -> Vec<Call> {
        let own = |call: &Call| call.session.number == session.number && wanted(call);
        let mut taken = self.core.waiting.cancel(session, own);
        for backend in self.backends() {
            taken.extend(backend.cancel(&own, why));
        }
        taken
    }

    fn abandon(&self, reply: &Arc<Outbox>) {
        self.backends().iter().for_each(|b| b.abandon(reply));
    }

    fn leave(&self, session: &Arc<Session>, _why: &str) {
        let backends = self.backends();
        backends.iter().for_each(|b| b.leave(session));
        for subscription in session.subscriptions() {
            backends.iter().for_each(|b| b.unsubscribe(&subscription));
        }
        for uri in session.take_watched() {
            self.unwatch(session, &uri);
        }
    }

    fn list<'a>(&'a self, session: &'a Arc<Session>, list: List, patient: bool) -> ListAnswer<'a> {
        Box::pin(async move {
            match self.backend() {
                Some(backend) => backend.list(session, list, patient).await,
                None => Err(Error::NoChild { server: self.core.name.clone() }),
            }
        })
    }

    fn read<'a>(&'a self, session: &'a Arc<Session>, uri: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(async move { self.backend()?.read(session, uri).await })
    }

    fn greeting(&self) -> Option<String> {
        self.backend()?.greeting()
    }

    fn runs_for(&self, session: &Session) -> bool {
        self.backends().iter().any(|b| b.runs_for(session))
    }

    fn beside(&self, session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> bool {
        self.serve_beside(session, e, reply, &|| Ok(()))
    }

    fn answers_to(&self, reply: &Arc<Outbox>) -> bool {
        self.backends().iter().any(|b| b.answers_to(reply))
    }
}
