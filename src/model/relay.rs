//! What `mcpdaemon --connect` has to remember of a conversation, so that its client notices nothing when the connection to the
//! instance is made anew.
//!
//! It replays what a session consists of: the handshake, the log level, subscriptions. What was in flight is answered by an
//! error, because it may have run. Messages pass as they are. Pure: texts and times go in, and what is to be done comes out.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::envelope::{Envelope, Fault, Kind, batch, member, members, plain_text, scan, scan_client, spliced};
use super::{jsonrpc, method, modern};

/// The beginning of the ids of our own requests, and of those of a server that are not the first of their name.
const OWN: &str = "mcpdaemon-connect-";
/// The lists of which a client is told that they may have changed, and what a subscription calls them.
const LISTS: [(&str, &str); 3] =
    [("tools", "toolsListChanged"), ("prompts", "promptsListChanged"), ("resources", "resourcesListChanged")];
/// The one revision that has batches; elsewhere they are refused as a whole.
const BATCHES: &str = "2025-03-26";

/// What is to be done with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The instance gets it.
    Send(String),
    /// The client gets it.
    Say(String),
    /// The connection is of no use, for this reason: another one is to be opened later.
    Leave(String),
}

/// A request of the client that is not answered yet.
#[derive(Clone, Debug)]
enum Open {
    Plain,
    /// The text, and when it came.
    Initialize(String, Instant),
    /// The text is replayed if it succeeds.
    Level(String),
    Subscribe(String, String),
    Unsubscribe(String),
    /// A subscription of the modern era, which is open as long as it lasts, and whether its client knows that it is.
    Listen(String, bool),
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// There is none.
    Lost,
    /// The handshake is replayed; what the client says waits.
    Greeting,
    /// Messages pass.
    Open,
}

/// What the client has said while there was no connection.
struct Held {
    text: String,
    came: Instant,
    /// Something in it is to be answered.
    asks: bool,
}

/// What is remembered of one conversation.
pub struct Relay {
    at: At,
    /// The request that has begun the session, and whether its client has said that it is ready.
    handshake: Option<(String, bool)>,
    /// The revision agreed on has batches.
    batches: bool,
    /// The lists of which the server tells changes.
    lists: Vec<&'static str>,
    /// The id of our own handshake.
    greeting: Option<String>,
    level: Option<String>,
    watched: BTreeMap<String, String>,
    /// Requests of the client by their ids, as they are written.
    open: HashMap<String, Open>,
    /// Requests of the server that the client has not answered: the id that it knows, and the server's.
    asked: HashMap<String, String>,
    /// This is not the first connection: ids of the server may be those of requests of before.
    again: bool,
    /// Subscriptions that were made anew, and whose acknowledgement the client knows.
    acknowledged: HashSet<String>,
    held: VecDeque<Held>,
    number: u64,
}

impl Default for Relay {
    fn default() -> Relay {
        Relay {
            at: At::Lost,
            handshake: None,
            batches: false,
            lists: Vec::new(),
            greeting: None,
            level: None,
            watched: BTreeMap::new(),
            open: HashMap::new(),
            asked: HashMap::new(),
            again: false,
            acknowledged: HashSet::new(),
            held: VecDeque::new(),
            number: 0,
        }
    }
}

/// Shows a message of a client as the instance will understand it; None if it is none.
fn understood<T>(text: &str, look: &mut dyn FnMut(&Envelope<'_>) -> T) -> Option<T> {
    match scan_client(text) {
        Ok(e) => Some(look(&e)),
        Err(Fault::Inexact(changes)) => understood(&spliced(text, &changes), look),
        Err(_) => None,
    }
}

/// The ids of the requests in a message of a client.
fn requests(text: &str) -> Vec<String> {
    let id = |e: &Envelope<'_>| if e.kind == Kind::Request { e.get(&e.id).map(str::to_owned) } else { None };
    match batch(text) {
        Some(all) => all.into_iter().filter_map(|one| understood(one, &mut { id }).flatten()).collect(),
        None => understood(text, &mut { id }).flatten().into_iter().collect(),
    }
}

impl Relay {
    /// A message of the client that comes now.
    pub fn from_client(&mut self, text: &str, now: Instant) -> Vec<Step> {
        if self.at == At::Open {
            return self.pass(text, now);
        }
        let is_response = understood(text, &mut |e| e.kind == Kind::Response).unwrap_or(false);
        if !is_response {
            self.held.push_back(Held { text: text.to_owned(), came: now, asks: !requests(text).is_empty() });
        }
        // Nobody waits for an answer any more.
        Vec::new()
    }

    /// A message of the client, with a connection.
    fn pass(&mut self, text: &str, came: Instant) -> Vec<Step> {
        let response = understood(text, &mut |e| match (e.kind, e.get(&e.id)) {
            (Kind::Response, id) => Some((id.unwrap_or_default().to_owned(), e.id.clone())),
            _ => None,
        });
        if let Some((id, place)) = response.flatten() {
            return match (self.asked.remove(&id), place) {
                (Some(own), Some(place)) if own != id => vec![Step::Send(spliced(text, &[(place, &own)]))],
                (Some(_), _) => vec![Step::Send(text.to_owned())],
                // What the server has asked on a connection of before.
                (None, _) => Vec::new(),
            };
        }
        match scan_client(text) {
            Err(Fault::Batch) if self.batches => {
                for one in batch(text).unwrap_or_default() {
                    understood(one, &mut |e| self.note(e, came));
                }
            }
            // Refused, each with its id.
            Err(Fault::Message(Some(id), _) | Fault::Respelled(Some(id), _)) => {
                self.open.insert(id.to_owned(), Open::Plain);
            }
            _ => drop(understood(text, &mut |e| self.note(e, came))),
        }
        vec![Step::Send(text.to_owned())]
    }

    /// Remembers what a message of the client asks for.
    fn note(&mut self, e: &Envelope<'_>, came: Instant) {
        let text = || e.text().to_owned();
        match (e.kind, &*e.method) {
            (Kind::Request, name) => {
                let Some(id) = e.get(&e.id) else { return };
                let uri = || e.get(&e.uri).unwrap_or_default().to_owned();
                let open = match name {
                    method::INITIALIZE => Open::Initialize(text(), came),
                    method::SET_LEVEL => Open::Level(text()),
                    method::RESOURCES_SUBSCRIBE => Open::Subscribe(uri(), text()),
                    method::RESOURCES_UNSUBSCRIBE => Open::Unsubscribe(uri()),
                    method::LISTEN => Open::Listen(text(), false),
                    _ => Open::Plain,
                };
                self.open.insert(id.to_owned(), open);
            }
            (Kind::Notification, method::INITIALIZED) => {
                if let Some((_, ready)) = &mut self.handshake {
                    *ready = true;
                }
            }
            (Kind::Notification, method::CANCELLED) => {
                // It needs no answer any more.
                if let Some(id) = e.get(&e.request_id) {
                    self.open.remove(id);
                }
            }
            _ => {}
        }
    }

    /// A message of the instance.
    pub fn from_server(&mut self, text: &str) -> Vec<Step> {
        let say = || vec![Step::Say(text.to_owned())];
        let Ok(e) = scan(text) else {
            // The answers to a batch.
            for one in batch(text).unwrap_or_default() {
                if let Ok(e) = scan(one)
                    && let Some(id) = e.get(&e.id)
                {
                    self.open.remove(id);
                }
            }
            return say();
        };
        let id = e.get(&e.id);
        match (e.kind, id) {
            (Kind::Response, Some(id)) => {
                if self.greeting.as_deref() == Some(id) {
                    return self.greeted(&e);
                }
                if id.trim_matches('"').starts_with(OWN) {
                    return Vec::new();
                }
                if let Some(open) = self.open.remove(id) {
                    self.answered(open, &e);
                }
            }
            (Kind::Request, Some(id)) => {
                if self.again {
                    // The client may still answer one of before that was called the same.
                    let known = self.own_id();
                    self.asked.insert(known.clone(), id.to_owned());
                    return vec![Step::Say(spliced(text, &[(e.id.clone().unwrap_or_default(), &known)]))];
                }
                self.asked.insert(id.to_owned(), id.to_owned());
            }
            (Kind::Notification, _) if &*e.method == method::CANCELLED => {
                let of = e.get(&e.request_id).unwrap_or_default();
                let known = self.asked.iter().find(|(_, own)| *own == of).map(|(known, _)| known.clone());
                if let (Some(known), Some(place)) = (known, e.request_id.clone()) {
                    self.asked.remove(&known);
                    return vec![Step::Say(spliced(text, &[(place, &known)]))];
                }
            }
            (Kind::Notification, _) if &*e.method == method::ACKNOWLEDGED => return self.subscribed(&e),
            _ => {}
        }
        say()
    }

    /// A subscription of the modern era is acknowledged.
    fn subscribed(&mut self, e: &Envelope<'_>) -> Vec<Step> {
        let id = e.get(&e.modern.subscription).unwrap_or_default();
        if let Some(Open::Listen(_, known)) = self.open.get_mut(id) {
            *known = true;
        }
        if !self.acknowledged.remove(id) {
            return vec![Step::Say(e.text().to_owned())];
        }
        // The client has heard that at first. The lists that it wants to hear of may have changed meanwhile.
        let honoured = e.get(&e.params).and_then(|params| member(params, "notifications")).unwrap_or("{}");
        let wanted = LISTS.into_iter().filter(|(_, key)| member(honoured, key) == Some("true"));
        let told = wanted.map(|(list, _)| jsonrpc::notification(method::list_changed(list), None));
        told.map(|text| Step::Say(modern::tagged(&text, id))).collect()
    }

    /// A request of the client is answered: what of it is to be replayed is known now.
    fn answered(&mut self, open: Open, e: &Envelope<'_>) {
        let Some(result) = e.get(&e.result) else { return };
        match open {
            Open::Initialize(text, _) => {
                self.handshake = Some((text, false));
                let agreed = member(result, "protocolVersion").and_then(plain_text);
                self.batches = agreed.as_deref() == Some(BATCHES);
                let capabilities = members(member(result, "capabilities").unwrap_or("{}"));
                let of = |list: &&str| capabilities.iter().any(|(name, _)| name == list);
                self.lists = LISTS.into_iter().map(|(list, _)| list).filter(of).collect();
            }
            Open::Level(text) => self.level = Some(text),
            Open::Subscribe(uri, text) => drop(self.watched.insert(uri, text)),
            Open::Unsubscribe(uri) => drop(self.watched.remove(&uri)),
            Open::Plain | Open::Listen(..) => {}
        }
    }

    /// There is a connection. What is to be sent at first.
    pub fn connected(&mut self) -> Vec<Step> {
        match self.handshake.as_ref().map(|(text, _)| text.clone()) {
            Some(text) => {
                self.at = At::Greeting;
                let (id, text) = self.renumbered(&text);
                self.greeting = Some(id);
                vec![Step::Send(text)]
            }
            None => [self.restore(), self.release()].concat(),
        }
    }

    /// Our own handshake is answered.
    fn greeted(&mut self, e: &Envelope<'_>) -> Vec<Step> {
        self.greeting = None;
        if let Some(error) = e.get(&e.error) {
            let why = member(error, "message").and_then(plain_text).unwrap_or_default();
            return vec![Step::Leave(format!("the handshake was refused: {why}"))];
        }
        let mut steps = Vec::new();
        if self.handshake.as_ref().is_some_and(|(_, ready)| *ready) {
            steps.push(Step::Send(jsonrpc::notification(method::INITIALIZED, None)));
        }
        steps.extend(self.restore());
        // What it was told before may have changed meanwhile.
        let told = |list: &&str| Step::Say(jsonrpc::notification(method::list_changed(list), None));
        steps.extend(self.lists.iter().map(told));
        steps.extend(self.release());
        steps
    }

    /// What was set on the connection before.
    fn restore(&mut self) -> Vec<Step> {
        self.at = At::Open;
        let texts: Vec<String> = self.level.iter().chain(self.watched.values()).cloned().collect();
        let mut steps: Vec<Step> = texts.iter().map(|text| Step::Send(self.renumbered(text).1)).collect();
        for (id, open) in &self.open {
            if let Open::Listen(text, known) = open {
                if *known {
                    self.acknowledged.insert(id.clone());
                }
                steps.push(Step::Send(text.clone()));
            }
        }
        steps
    }

    /// What the client has said meanwhile.
    fn release(&mut self) -> Vec<Step> {
        let held = std::mem::take(&mut self.held);
        held.iter().flat_map(|one| self.pass(&one.text, one.came)).collect()
    }

    /// An id that nobody else has.
    fn own_id(&mut self) -> String {
        self.number += 1;
        format!("\"{OWN}{}\"", self.number)
    }

    /// A request of the client with an id of our own, and that id.
    fn renumbered(&mut self, text: &str) -> (String, String) {
        let id = self.own_id();
        let place = scan(text).ok().and_then(|e| e.id.clone());
        let text = place.map_or_else(|| text.to_owned(), |place| spliced(text, &[(place, &id)]));
        (id, text)
    }

    /// The connection is gone: what was in flight is answered by an error for this reason.
    pub fn lost(&mut self, why: &str) -> Vec<Step> {
        (self.at, self.again, self.greeting) = (At::Lost, true, None);
        self.acknowledged.clear();
        let mut gone: Vec<(String, Open)> = self.open.extract_if(|_, open| !matches!(open, Open::Listen(..))).collect();
        gone.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut steps = Vec::new();
        for (id, open) in gone {
            match open {
                // Nothing was done yet: it is asked once more, before all else.
                Open::Initialize(text, came) => self.held.push_front(Held { text, came, asks: true }),
                _ => steps.push(Step::Say(jsonrpc::error(Some(&id), jsonrpc::REFUSED, why))),
            }
        }
        // Nobody waits for the client's answers any more.
        let mut asked: Vec<String> = self.asked.drain().map(|(known, _)| known).collect();
        asked.sort_unstable();
        for id in asked {
            let params = format!(r#"{{"requestId":{id},"reason":"the connection was lost"}}"#);
            steps.push(Step::Say(jsonrpc::notification(method::CANCELLED, Some(&params))));
        }
        steps
    }

    /// What was asked for before this time, and waits for a connection, is answered by an error for this reason.
    pub fn give_up(&mut self, why: &str, before: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(at) = self.held.iter().position(|one| one.asks && one.came <= before) {
            // What stands before it goes with it, and is remembered: it may cancel a subscription.
            for one in self.held.drain(..=at).collect::<Vec<_>>() {
                let ids = requests(&one.text);
                if ids.is_empty() {
                    understood(&one.text, &mut |e| self.note(e, before));
                }
                steps.extend(ids.iter().map(|id| Step::Say(jsonrpc::error(Some(id), jsonrpc::REFUSED, why))));
            }
        }
        steps
    }

    /// Since when the client waits for an answer to what it has asked without a connection.
    pub fn waits_since(&self) -> Option<Instant> {
        self.held.iter().filter(|one| one.asks).map(|one| one.came).min()
    }

    /// How much of the client's is held, in bytes.
    pub fn held(&self) -> usize {
        self.held.iter().map(|one| one.text.len()).sum()
    }

    /// Whether nothing is owed to the client. A subscription lasts until it is cancelled: it is not waited for.
    pub fn is_settled(&self) -> bool {
        self.waits_since().is_none() && self.open.values().all(|open| matches!(open, Open::Listen(..)))
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
