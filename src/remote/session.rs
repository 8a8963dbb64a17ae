//! The assembly of a session: it begins, goes on in another process, and ends.
//!
//! Both eras pass (2025-11-25 and 2026-07-28 basic/transports/streamable-http). A server that has forgotten its session gets a
//! new one, and nobody notices. What a request fails of is its answer; where the server is not reached, the session is over.
//! What the requests are for, and whose, is not known here.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};

use super::client::{Client, Message, Settings, Trouble};
use super::exchange::may_repeat;
use super::hear::line;
use super::state::{BOTH, Open, Session, State, WORDS};
use crate::model::envelope::{decode, member, scan};
use crate::model::text::printable;
use crate::model::upstream::Said;
use crate::model::{jsonrpc, method};
use crate::rt::task;
use crate::rt::wait::{timeout, until};

/// The id of a request whose answer is for nobody.
const OWN: &str = "mcpdaemon-0";
/// How long a server may take to show that it is there.
const REACHING: Duration = Duration::from_secs(10);

/// What another process needs to go on with a session.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    id: Option<String>,
    version: Option<String>,
    said: Said,
    last_event: Option<String>,
    is_listening: bool,
    /// Requests that are not answered, each with the last event of its stream.
    open: Vec<(String, Option<String>)>,
    /// What was not sent yet, or perhaps not: messages without an answer first.
    down: Vec<String>,
    /// What was written and is no whole line yet.
    begun: String,
    /// What was said and not read.
    rest: String,
}

/// Why a server cannot be used.
pub(crate) enum Unreached {
    /// There is no connection to it.
    Connection(String),
    /// It does not answer as a server does.
    Answer(String),
    /// It does not let its client in.
    Barred(String),
    /// It is not at this URL.
    Absent(String),
}

impl Session {
    /// A session in which nothing was said, or one of another process.
    pub(crate) fn new(settings: Settings, saved: Option<Saved>) -> Arc<Session> {
        let saved = saved.unwrap_or_default();
        let state = State {
            id: saved.id,
            version: saved.version,
            said: saved.said,
            last_event: saved.last_event,
            begun: saved.begun.into_bytes(),
            down: saved.down.into(),
            ..State::default()
        };
        let session = Session::with(Client::new(settings), state);
        if !saved.rest.is_empty() {
            session.inbox.push(saved.rest.into_bytes());
        }
        if saved.is_listening {
            session.listen();
        }
        for (text, last_event) in saved.open {
            session.go_on(text, last_event);
        }
        task::spawn(session.clone().work());
        session
    }

    /// Goes on with a request that another process has sent.
    fn go_on(self: &Arc<Self>, text: String, last_event: Option<String>) {
        let Ok(e) = scan(&text) else { return };
        let Some(id) = e.get(&e.id).map(str::to_owned) else { return };
        if last_event.is_some() || may_repeat(&e) {
            self.begin(id, text, last_event);
            return;
        }
        let why = format!(
            "{}: the connection ended when the daemon was upgraded, before the answer; this request may have run",
            self.client.name()
        );
        self.inbox.push(line(jsonrpc::error(Some(&id), jsonrpc::INTERNAL_ERROR, &why).into_bytes()));
    }

    /// Whether the server can be reached, and lets its client in; it is asked for nothing that matters.
    pub(crate) async fn reach(&self) -> Result<(), Unreached> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":"{OWN}","method":"{}"}}"#, method::PING);
        let message =
            Message { method: Method::POST, accept: BOTH, fields: Vec::new(), body: text.into(), may_repeat: true };
        let reaching = async {
            let mut answer = self.client.send(&message).await.map_err(|trouble| match trouble {
                Trouble::Unreachable(why) => Unreached::Connection(why),
                Trouble::Broken(why) | Trouble::Unsendable(why) => Unreached::Answer(why),
            })?;
            let status = answer.status;
            if !matches!(status.as_u16(), 401 | 403 | 404 | 405) {
                return Ok(());
            }
            let (body, _) = answer.whole(WORDS).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&body);
            let said = member(text.trim(), "error").and_then(|e| member(e, "message")).map(decode);
            let said = said.map_or_else(|| status.to_string(), |said| printable(&said, 300));
            let is_barred = matches!(status.as_u16(), 401 | 403);
            Err(if is_barred { Unreached::Barred(said) } else { Unreached::Absent(said) })
        };
        let late = || Err(Unreached::Answer(format!("no answer within {} s", REACHING.as_secs())));
        timeout(REACHING, reaching).await.unwrap_or_else(late)
    }

    /// How much is under way: requests that are not answered, and what was not sent yet.
    pub(crate) fn under_way(&self) -> usize {
        let state = self.state();
        state.open.len() + state.down.len() + state.telling.len() + state.notes.len()
    }

    /// Waits until nothing is.
    pub(crate) async fn rested(&self) {
        until(&self.moved, || (self.under_way() == 0 || self.over.is_set()).then_some(())).await;
    }

    /// What another process needs to go on with it.
    pub(crate) fn save(&self) -> Saved {
        let rest = String::from_utf8_lossy(&self.inbox.rest()).into_owned();
        let state = self.state();
        let open = |open: &Arc<Open>| (open.text.clone(), open.last_event.lock().clone());
        let down = state.telling.values().chain(&state.notes).chain(&state.down).cloned();
        Saved {
            id: state.id.clone(),
            version: state.version.clone(),
            said: state.said.clone(),
            last_event: state.last_event.clone(),
            is_listening: state.listening.is_some(),
            open: state.open.values().map(open).collect(),
            down: down.collect(),
            begun: String::from_utf8_lossy(&state.begun).into_owned(),
            rest,
        }
    }
}
