//! A session of the bridge as the endpoint of its client.

use std::sync::Arc;

use super::session::BridgeSession;
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Answer, Client, Endpoint, Later, ListAnswer, ToolCall};
use crate::hub::client::outbox::Outbox;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::hub::server::server::Server;
use crate::model::bridge::{List, child_id};
use crate::model::envelope::{self, Envelope, spliced};
use crate::model::method;
use crate::model::modern::Refusal;

impl BridgeSession {
    /// The server that speaks a protocol beside MCP: of several the first, by name.
    fn executing(&self) -> Option<Arc<Server>> {
        self.bridge.servers.all().into_iter().find(|s| s.greeting().is_some())
    }
}

impl Endpoint for BridgeSession {
    /// Which tools may be used is asked at each server.
    fn admits(&self, _tool: Option<&str>) -> bool {
        true
    }

    fn request(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        self.serve(call, e)
    }

    fn modern_request(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        self.serve(call, e)
    }

    fn resume(&self, call: Call, e: &Envelope<'_>) -> Option<Later> {
        self.serve(call, e)
    }

    fn notification(&self, session: &Arc<Session>, e: &Envelope<'_>) {
        match e.method.as_ref() {
            method::INITIALIZED => {}
            method::ROOTS_CHANGED => {
                for part in self.all_parts().iter().filter(|p| p.endpoint.is_private()) {
                    part.endpoint.notification(&part.session, e);
                }
            }
            _ => session.ctx.counters.count(Dropped::UnownedNotifications),
        }
    }

    /// An answer to what a child of its own has asked.
    fn response(&self, session: &Arc<Session>, e: &Envelope<'_>) {
        let found = e.get(&e.id).and_then(child_id).and_then(|(server, id)| {
            let part = self.all_parts().into_iter().find(|p| *p.session.server == *server)?;
            Some((part, id))
        });
        let Some((part, id)) = found else { return session.ctx.counters.count(Dropped::UnownedReplies) };
        let text = spliced(e.text(), &[(e.id.clone().unwrap_or_default(), &id)]);
        if let Ok(e) = envelope::scan(&text) {
            part.endpoint.response(&part.session, &e);
        }
    }

    fn check_headers<'a>(&'a self, call: ToolCall<'a>) -> Answer<'a, Result<(), Refusal>> {
        Box::pin(async move {
            // A call that cannot be passed to a server has no headers that could be wrong.
            let Some((part, own)) = self.tool_part(call.tool) else { return Ok(()) };
            part.endpoint.check_headers(ToolCall { session: &part.session, tool: &own, ..call }).await
        })
    }

    fn subscribe(&self, session: &Arc<Session>, wanted: Wanted) -> Option<Later> {
        self.listen(session, wanted)
    }

    fn unsubscribe(&self, session: &Arc<Session>, subscription: &Arc<Subscription>) {
        if subscription.request.is_some() {
            return;
        }
        self.forget(&session.given_up(&subscription.filter.uris).into_iter().collect());
    }

    /// Resources are watched by its parts.
    fn watch(&self, _session: &Arc<Session>, _uri: &str) -> bool {
        false
    }

    fn unwatch(&self, _session: &Session, _uri: &str) {}

    fn cancel(&self, session: &Session, wanted: &dyn Fn(&Call) -> bool, why: &str) -> Vec<Call> {
        let mut taken = self.bridge.core.waiting.cancel(session, wanted);
        for part in self.all_parts() {
            taken.extend(part.endpoint.cancel(&part.session, wanted, why));
        }
        taken
    }

    fn abandon(&self, reply: &Arc<Outbox>) {
        self.all_parts().iter().for_each(|part| part.endpoint.abandon(reply));
    }

    fn leave(&self, session: &Arc<Session>, why: &str) {
        for part in self.take_parts() {
            part.end(why);
        }
        self.bridge.servers.all().iter().for_each(|s| s.end_commands(session));
    }

    fn save_own(&self, saver: &mut Saver) {
        if let Some(session) = self.session.upgrade() {
            saver.bridged(session.number, self.params(), self.aliases());
        }
    }

    fn parts(&self) -> Vec<Client> {
        self.all_parts()
    }

    fn belong(&self, part: &Session) {
        BridgeSession::belong(self, part);
    }

    fn adopt(&self, part: Client) {
        self.note_part(part);
    }

    /// The bridge is not asked by itself.
    fn list<'a>(&'a self, _session: &'a Arc<Session>, _list: List, _patient: bool) -> ListAnswer<'a> {
        Box::pin(async { Ok(Arc::default()) })
    }

    fn greeting(&self) -> Option<String> {
        self.executing()?.greeting()
    }

    fn take_place(&self, _session: &Arc<Session>) -> Result<(), Error> {
        match self.executing() {
            Some(server) => self.part(&server).map(drop),
            None => Ok(()),
        }
    }

    fn runs_for(&self, session: &Session) -> bool {
        self.all_parts().iter().any(|part| part.endpoint.runs_for(session))
    }

    fn beside(&self, session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>) -> bool {
        if let Some(part) = self.all_parts().into_iter().find(|part| part.endpoint.runs_for(session)) {
            return part.endpoint.beside(session, e, reply);
        }
        let Some(server) = self.executing() else { return false };
        server.serve_beside(session, e, reply, &|| self.part(&server).map(drop))
    }

    fn answers_to(&self, reply: &Arc<Outbox>) -> bool {
        self.all_parts().iter().any(|part| part.endpoint.answers_to(reply))
    }
}
