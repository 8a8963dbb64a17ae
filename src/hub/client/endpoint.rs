//! Who answers a session.
//!
//! A session knows its client; its endpoint knows what stands behind: a server, a child of the session's own, or all
//! servers as one. The one who opens a session holds both, as a [`Client`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log::debug;

use super::audited::record_session;
use super::call::Call;
use super::outbox::Outbox;
use super::saved::Saver;
use super::session::Session;
use super::subscription::{Subscription, Wanted};
use crate::hub::error::Error;
use crate::model::bridge::{Item, List};
use crate::model::config::{self, Tools};
use crate::model::envelope::Envelope;
use crate::model::ids::Id;
use crate::model::jsonrpc;
use crate::model::modern::{Field, Refusal};
use crate::model::transport::SessionKind;

/// Work that has to wait, for a child or for an answer; run it as a task.
pub(crate) type Later = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A question whose answer has to be waited for.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A list of a server, or why it cannot be had.
pub(crate) type ListAnswer<'a> = Answer<'a, Result<Arc<Vec<Item>>, Error>>;

/// The headers of a request.
pub(crate) trait Headers: Sync {
    /// What it says in a header, without white space around it.
    fn field(&self, name: &str) -> Field<'_>;
}

/// A call of a tool whose arguments are repeated in headers.
#[derive(Clone, Copy)]
pub(crate) struct ToolCall<'a> {
    pub session: &'a Arc<Session>,
    pub e: &'a Envelope<'a>,
    /// The name of the tool, as the endpoint knows it.
    pub tool: &'a str,
    pub headers: &'a dyn Headers,
}

/// Who answers a session.
pub(crate) trait Endpoint: Send + Sync {
    // --- messages of the client --------------------------------------------------------------------------------------

    /// Whether its client may use a tool.
    fn admits(&self, tool: Option<&str>) -> bool;

    /// Which tools may be shown; None where all may, or where the endpoint leaves out the others itself.
    fn shown(&self) -> Option<Arc<Tools>> {
        None
    }

    /// Answers a request of the legacy era, which is counted as open.
    fn request(&self, call: Call, e: &Envelope<'_>) -> Option<Later>;

    /// Answers a request of the modern era, which is counted as open.
    fn modern_request(&self, call: Call, e: &Envelope<'_>) -> Option<Later>;

    /// Takes up a request that waited in the program before.
    fn resume(&self, call: Call, e: &Envelope<'_>) -> Option<Later>;

    /// Takes a notification other than a cancellation.
    fn notification(&self, session: &Arc<Session>, e: &Envelope<'_>);

    /// Takes the answer to a request of a server.
    fn response(&self, session: &Arc<Session>, e: &Envelope<'_>);

    /// Whether the arguments that are repeated in headers are right (2026-07-28 basic/transports/streamable-http).
    fn check_headers<'a>(&'a self, call: ToolCall<'a>) -> Answer<'a, Result<(), Refusal>>;

    // --- what it keeps for the client --------------------------------------------------------------------------------

    /// Opens a subscription of the modern era.
    fn subscribe(&self, session: &Arc<Session>, wanted: Wanted) -> Option<Later>;

    /// The client gives up a subscription, which is not among those of its session any more.
    fn unsubscribe(&self, session: &Arc<Session>, subscription: &Arc<Subscription>);

    /// Whether a child keeps a subscription.
    fn keeps(&self, _subscription: &Arc<Subscription>) -> bool {
        false
    }

    /// Watches a resource for a part whose client speaks the modern era; false where that cannot be.
    fn watch(&self, session: &Arc<Session>, uri: &str) -> bool;

    /// The session does not watch a resource any more.
    fn unwatch(&self, session: &Session, uri: &str);

    // --- the end of things -------------------------------------------------------------------------------------------

    /// Takes the requests that fit out of everybody's hands; what their clients hear is the caller's affair.
    fn cancel(&self, session: &Session, wanted: &dyn Fn(&Call) -> bool, why: &str) -> Vec<Call>;

    /// The connection that a request came on is gone: what can be of no use to anybody else ends.
    fn abandon(&self, reply: &Arc<Outbox>);

    /// Gives up what a session that has ended still has, apart from its requests.
    fn leave(&self, session: &Arc<Session>, why: &str);

    // --- what belongs to one session alone ---------------------------------------------------------------------------

    /// The session has a child of its own.
    fn is_private(&self) -> bool {
        false
    }

    /// The processes that serve this session alone.
    fn own_pids(&self) -> Vec<i32> {
        Vec::new()
    }

    /// How long the session may be idle, where that is less than for others.
    fn idle_limit(&self) -> Option<Duration> {
        None
    }

    /// The configuration has changed: the child of its own is adjusted, or `replaced`.
    fn reconfigure(&self, _config: &config::Server, _replaced: bool) {}

    /// Adds what is the session's own to the handover document.
    fn save_own(&self, _saver: &mut Saver) {}

    /// The parts of a session of the bridge.
    fn parts(&self) -> Vec<Client> {
        Vec::new()
    }

    /// Makes a session of the program before a part of this one of the bridge, before it has who answers it.
    fn belong(&self, _part: &Session) {}

    /// Takes over a part of this session of the bridge from the program before.
    fn adopt(&self, _part: Client) {}

    // --- what the bridge asks ----------------------------------------------------------------------------------------

    /// A list of the server. Where a child is not there, it is waited for if `patient`.
    fn list<'a>(&'a self, session: &'a Arc<Session>, list: List, patient: bool) -> ListAnswer<'a>;

    /// A resource of the server; None where it has none of this URI, or no child to ask at the moment.
    fn read<'a>(&'a self, _session: &'a Arc<Session>, _uri: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(async { None })
    }

    // --- a protocol beside MCP ---------------------------------------------------------------------------------------

    /// What the server says first on a WebSocket to a client that does not offer the subprotocol `mcp`, where it speaks a
    /// protocol beside MCP.
    fn greeting(&self) -> Option<String> {
        None
    }

    /// Takes one of the places that the server of such a protocol has; the error says that there is none.
    fn take_place(&self, _session: &Arc<Session>) -> Result<(), Error> {
        Ok(())
    }

    /// Whether a session has a command running here.
    fn runs_for(&self, _session: &Session) -> bool {
        false
    }

    /// Answers a request of such a protocol; false if it is none.
    fn beside(&self, _session: &Arc<Session>, _e: &Envelope<'_>, _reply: &Arc<Outbox>) -> bool {
        false
    }

    /// Whether a command runs whose end answers a request there: its client cannot come back for the rest.
    fn answers_to(&self, _reply: &Arc<Outbox>) -> bool {
        false
    }
}

/// A session and who answers it.
#[derive(Clone)]
pub(crate) struct Client {
    pub session: Arc<Session>,
    pub endpoint: Arc<dyn Endpoint>,
}

impl Client {
    pub(crate) fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.session), Arc::downgrade(&self.endpoint))
    }

    /// Ends the session: its open requests are answered with an error, and what it has elsewhere is given up. False if it
    /// has ended before.
    pub(crate) fn end(&self, why: &str) -> bool {
        let session = &self.session;
        if !session.end(why) {
            return false;
        }
        debug!("a session of server '{}' ended: {why}", session.server);
        record_session(session, "session_end", Some(why));
        // Its requests may wait on other connections.
        for call in self.endpoint.cancel(session, &|_| true, why) {
            call.error(jsonrpc::REFUSED, &format!("the session has ended: {why}"));
        }
        self.endpoint.leave(session, why);
        session.end_subscriptions();
        true
    }

    /// The connection that a request came on is gone. In the legacy era that does not cancel it (2025-11-25
    /// basic/transports), but a command of the executor ends with the only client that could hear of it.
    pub(crate) fn abandoned(&self, reply: &Arc<Outbox>) {
        match self.session.kind {
            // In the modern era it does, and there was nothing else (2026-07-28 basic/transports/streamable-http).
            SessionKind::Request => drop(self.end("its client has left")),
            _ => self.endpoint.abandon(reply),
        }
    }

    /// The client has cancelled a request or a subscription, and wants no answer.
    pub(crate) fn cancelled(&self, id: &str) {
        let id = Id::from(id);
        if let Some(subscription) = self.session.take_subscription(&id) {
            self.endpoint.unsubscribe(&self.session, &subscription);
        }
        let wanted = |call: &Call| call.id == id && !call.opening;
        let taken = self.endpoint.cancel(&self.session, &wanted, "the client cancelled it");
        taken.into_iter().for_each(Call::withdraw);
    }
}

/// A [`Client`] that is kept by others.
#[derive(Clone)]
pub(crate) struct WeakClient(Weak<Session>, Weak<dyn Endpoint>);

impl WeakClient {
    pub(crate) fn upgrade(&self) -> Option<Client> {
        Some(Client { session: self.0.upgrade()?, endpoint: self.1.upgrade()? })
    }
}
