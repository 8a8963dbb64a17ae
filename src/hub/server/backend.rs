//! What a server is made of.
//!
//! A kind of server implements this. All that does not depend on the kind is in [`super::server`].

use std::sync::Arc;
use std::time::Duration;

use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Answer, Endpoint, ListAnswer, ToolCall};
use crate::hub::client::outbox::Outbox;
use crate::hub::client::restored::Restored;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::hub::leaving::Leaving;
use crate::model::bridge::List;
use crate::model::config::{self, Mode};
use crate::model::envelope::Envelope;
use crate::model::handover;
use crate::model::last_words::LastWords;
use crate::model::mcp::ServerInfo;
use crate::model::modern::{Era, Filter, Refusal};
use crate::model::status::{self, ServerState};

/// A session that is to be given what is its own.
pub(crate) struct Opened<'o> {
    pub session: &'o Arc<Session>,
    /// Who answers it otherwise.
    pub server: Arc<dyn Endpoint>,
    /// Its client has shaken hands before, with these params, if they are known: with the bridge, of whose session it is a
    /// part, or with another process.
    pub shaken: Option<Option<&'o str>>,
}

/// Takes a place for a session; the error says that there is none.
pub(crate) type TakePlace<'p> = dyn Fn() -> Result<(), Error> + 'p;

/// What a server is made of.
pub(crate) trait Backend: Leaving {
    // --- its life ----------------------------------------------------------------------------------------------------

    /// Starts what has to be there before it is put in place of another. The error says what failed.
    fn prepare(&self, _umask: Mode) -> Answer<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    /// Stops what was prepared in vain.
    fn discard(&self) -> Answer<'_, ()> {
        Box::pin(async {})
    }

    /// Begins to work. `again` says that it takes the place of another.
    fn run(&self, _again: bool) {}

    /// Another has taken its place; it finishes what it has.
    fn replaced(&self) {}

    /// The server is removed; it finishes what it has.
    fn retire(&self) {}

    /// Waits until its last requests are answered, or their time is over.
    fn retired(&self) -> Answer<'_, ()> {
        self.done()
    }

    /// Takes over settings that leave the processes as they are.
    fn adjust(&self, _config: &config::Server) {}

    /// Tries again at once what waits for its next start.
    fn retry(&self) {}

    // --- how it is ---------------------------------------------------------------------------------------------------

    /// Its state and the reason for it; None where it has no state of its own.
    fn condition(&self) -> Option<(ServerState, Option<String>)> {
        None
    }

    /// What a child of it that has ended said last.
    fn words(&self) -> LastWords {
        LastWords::default()
    }

    /// What it says of itself, where that is known without a child.
    fn info(&self) -> Option<ServerInfo> {
        None
    }

    /// How many children there should be, and how many are ready.
    fn children(&self) -> status::Children {
        status::Children::default()
    }

    /// The processes that serve all sessions, or none yet.
    fn pids(&self) -> Vec<i32> {
        Vec::new()
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    /// The limit, if this many sessions leave no place for one more. `private` says whether that one would get a child of
    /// its own.
    fn full(&self, _sessions: usize, _private: bool) -> Option<u32> {
        None
    }

    /// How many sessions there may be, where that is less than in the whole instance.
    fn session_limit(&self) -> Option<u32> {
        None
    }

    /// Each session that lasts takes a place here, also a part of one of the bridge.
    fn counts_parts(&self) -> bool {
        false
    }

    /// Each session of the legacy era gets a child of its own: to open one costs something.
    fn is_private(&self) -> bool {
        false
    }

    /// How long a session may be idle, where that is less than for others.
    fn idle_limit(&self) -> Option<Duration> {
        None
    }

    /// The place of a new session among several children.
    fn place(&self) -> usize {
        0
    }

    /// How many children share the sessions.
    fn places(&self) -> usize {
        1
    }

    /// Who answers a new session, where that is not the server itself.
    fn open(&self, _opened: Opened<'_>) -> Option<Arc<dyn Endpoint>> {
        None
    }

    /// Who has answered a session in the program before, where that was not the server itself.
    fn reopen(&self, _opened: Opened<'_>, _own: handover::Own, _restored: &Restored) -> Option<Arc<dyn Endpoint>> {
        None
    }

    // --- messages ----------------------------------------------------------------------------------------------------

    /// Answers a request, or passes it on. Given back if it has to wait until the backend is [`Backend::ready`].
    fn request(&self, call: Call, e: &Envelope<'_>, era: Era) -> Option<Call>;

    /// Waits until a request of a session can be passed on, or another backend has taken this one's place; the error says
    /// what the trouble is.
    fn ready<'a>(&'a self, _session: &'a Arc<Session>, _era: Era) -> Answer<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    /// Passes a notification on.
    fn notification(&self, session: &Session, _e: &Envelope<'_>) {
        session.ctx.counters.count(Dropped::UnownedNotifications);
    }

    /// Whether there may be arguments that are repeated in headers.
    fn checks_headers(&self) -> bool {
        false
    }

    /// Whether the arguments that are repeated in headers are right.
    fn check_headers<'a>(&'a self, _call: ToolCall<'a>) -> Answer<'a, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    /// A subscription of the modern era as it can be honoured; None if that is known only once the backend is ready. What
    /// is not said otherwise here has tools alone, and tells of their changes at a reload.
    fn honour(&self, session: &Session, wanted: &Wanted) -> Option<Arc<Subscription>> {
        let tools = wanted.filter.tools;
        Some(Subscription::kept(session.number, wanted, Filter { tools, ..Filter::default() }))
    }

    /// Opens a subscription at the child that is to keep it.
    fn subscribe(&self, _session: &Session, _subscription: &Arc<Subscription>) {}

    /// Ends a subscription where it is kept.
    fn unsubscribe(&self, _subscription: &Arc<Subscription>) {}

    /// Whether a child keeps a subscription.
    fn keeps(&self, _subscription: &Arc<Subscription>) -> bool {
        false
    }

    /// Whether the first session that watches a resource can be told of its changes.
    fn can_watch(&self, _session: &Session) -> bool {
        false
    }

    /// Tells a child that a resource is watched, or is not any more.
    fn send_watch(&self, _session: &Session, _method: &str, _uri: &str) {}

    /// Takes the requests that fit out of the hands of children and commands.
    fn cancel(&self, _wanted: &dyn Fn(&Call) -> bool, _why: &str) -> Vec<Call> {
        Vec::new()
    }

    /// The connection that a request came on is gone.
    fn abandon(&self, _reply: &Arc<Outbox>) {}

    /// A session has ended.
    fn leave(&self, _session: &Session) {}

    /// A list of the server, for the bridge. A child that is not there is waited for if `patient`.
    fn list<'a>(&'a self, session: &'a Arc<Session>, list: List, patient: bool) -> ListAnswer<'a>;

    /// A resource of the server, for the bridge.
    fn read<'a>(&'a self, _session: &'a Arc<Session>, _uri: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(async { None })
    }

    // --- a protocol beside MCP ---------------------------------------------------------------------------------------

    /// What it says first to a client of a protocol beside MCP.
    fn greeting(&self) -> Option<String> {
        None
    }

    /// Answers a request of such a protocol. `place` takes one of its places for the session; its error says that there
    /// is none.
    fn beside(&self, _session: &Arc<Session>, _e: &Envelope<'_>, _reply: &Arc<Outbox>, _place: &TakePlace<'_>) {}

    /// Whether a session has a command running here.
    fn runs_for(&self, _session: &Session) -> bool {
        false
    }

    /// Whether a command runs whose end answers a request there.
    fn answers_to(&self, _reply: &Arc<Outbox>) -> bool {
        false
    }

    // --- the upgrade in place ----------------------------------------------------------------------------------------

    /// Adds everything of it to the document.
    fn save(&self, _saver: &mut Saver, _into: &mut handover::Server) {}

    /// Goes on with what the program before had, once it runs. What is not there any more is replaced.
    fn restore(&self, _saved: handover::Server, _restored: &Restored) {}
}
