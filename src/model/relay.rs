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
        let mut steps = Vec::new();
        if let Some(error) = e.get(&e.error) {
            let why = member(error, "message").and_then(plain_text).unwrap_or_default();
            return vec![Step::Leave(format!("the handshake was refused: {why}"))];
        }
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
mod tests {
    use super::*;

    fn sent(steps: &[Step]) -> Vec<&str> {
        steps.iter().filter_map(|s| if let Step::Send(text) = s { Some(text.as_str()) } else { None }).collect()
    }

    fn said(steps: &[Step]) -> Vec<&str> {
        steps.iter().filter_map(|s| if let Step::Say(text) = s { Some(text.as_str()) } else { None }).collect()
    }

    fn now() -> Instant {
        Instant::now()
    }

    const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    const HELLO_BACK: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"capabilities":{"tools":{"listChanged":true}}}}"#;
    const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

    /// A conversation that has shaken hands.
    fn begun() -> Relay {
        let mut relay = Relay::default();
        assert_eq!(relay.from_client(HELLO, now()), [], "it waits for a connection");
        assert_eq!(sent(&relay.connected()), [HELLO]);
        assert_eq!(said(&relay.from_server(HELLO_BACK)), [HELLO_BACK]);
        assert_eq!(sent(&relay.from_client(READY, now())), [READY]);
        relay
    }

    #[test]
    fn messages_pass_as_they_are() {
        let mut relay = begun();
        for text in [
            r#"{"id":1,"method":"tools/call","jsonrpc":"2.0","params":{"name":"x","arguments":{"a":[1, 2]}}}"#,
            r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#,
            "no JSON",
        ] {
            assert_eq!(relay.from_client(text, now()), [Step::Send(text.to_owned())]);
        }
        assert!(!relay.is_settled());
        for text in [
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#,
            r#"{"jsonrpc":"2.0","result":{}, "id":1}"#,
            r#"[{"jsonrpc":"2.0","id":7,"result":{}}]"#,
        ] {
            assert_eq!(relay.from_server(text), [Step::Say(text.to_owned())]);
        }
        assert!(relay.is_settled());
    }

    #[test]
    fn a_new_connection_gets_the_handshake_the_level_and_the_subscriptions() {
        let mut relay = begun();
        let level = r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug"}}"#;
        let one = r#"{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:1"}}"#;
        let two = r#"{"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"a:2"}}"#;
        let none = r#"{"jsonrpc":"2.0","id":4,"method":"resources/unsubscribe","params":{"uri":"a:2"}}"#;
        let bad = r#"{"jsonrpc":"2.0","id":5,"method":"resources/subscribe","params":{"uri":"a:3"}}"#;
        for (id, text) in [(1, level), (2, one), (3, two), (4, none)] {
            relay.from_client(text, now());
            relay.from_server(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
        }
        relay.from_client(bad, now());
        relay.from_server(r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"no"}}"#);
        let call = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"x"}}"#;
        relay.from_client(call, now());
        relay.from_server(r#"{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage"}"#);
        let lost = relay.lost("it was lost");
        assert_eq!(
            said(&lost),
            [
                r#"{"jsonrpc":"2.0","id":"c","error":{"code":-32000,"message":"it was lost"}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9,"reason":"the connection was lost"}}"#
            ]
        );
        assert_eq!(relay.from_client(call, now()), [], "it waits");
        // The client answers what nobody waits for any more.
        assert_eq!(relay.from_client(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#, now()), []);
        let again = relay.connected();
        let own = HELLO.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\"");
        assert_eq!(again, [Step::Send(own)]);
        let steps = relay.from_server(&HELLO_BACK.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\""));
        let with =
            |text: &str, at: u32, id: u32| text.replace(&format!("\"id\":{at}"), &format!("\"id\":\"{OWN}{id}\""));
        assert_eq!(sent(&steps), [READY, &with(level, 1, 2), &with(one, 2, 3), call]);
        assert_eq!(said(&steps), [r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#]);
        assert_eq!(relay.from_server(r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-2","result":{}}"#), []);
        let answer = r#"{"jsonrpc":"2.0","id":"c","result":{}}"#;
        assert_eq!(said(&relay.from_server(answer)), [answer]);
        assert!(relay.is_settled());
    }

    #[test]
    fn a_handshake_that_was_not_answered_is_made_once_more() {
        let mut relay = Relay::default();
        relay.from_client(HELLO, now());
        relay.connected();
        assert_eq!(relay.lost("lost"), [], "nobody has done anything yet");
        assert!(relay.waits_since().is_some());
        assert_eq!(sent(&relay.connected()), [HELLO]);
        assert_eq!(said(&relay.from_server(HELLO_BACK)), [HELLO_BACK]);
        // Given up, it is answered by an error, and a later one is the first.
        let mut relay = Relay::default();
        relay.from_client(HELLO, now());
        relay.connected();
        relay.lost("lost");
        let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"not there"}}"#;
        assert_eq!(said(&relay.give_up("not there", now())), [error]);
        assert!(relay.is_settled() && relay.connected().is_empty());
    }

    #[test]
    fn subscriptions_of_the_modern_era_are_made_anew_and_acknowledged_once() {
        let mut relay = Relay::default();
        relay.connected();
        let listen = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"_meta":{}}}"#;
        assert_eq!(sent(&relay.from_client(listen, now())), [listen]);
        let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#;
        assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged]);
        assert_eq!(relay.lost("lost"), []);
        assert_eq!(sent(&relay.connected()), [listen]);
        assert_eq!(relay.from_server(acknowledged), []);
        assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged], "it is another one");
        // Cancelled, it is not made anew.
        relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"l"}}"#, now());
        relay.lost("lost");
        assert_eq!(relay.connected(), []);
    }

    #[test]
    fn a_connection_whose_handshake_is_refused_is_left() {
        let mut relay = begun();
        relay.lost("lost");
        relay.connected();
        relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, now());
        let refused =
            r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-1","error":{"code":-32603,"message":"it \"is\" down"}}"#;
        assert_eq!(relay.from_server(refused), [Step::Leave("the handshake was refused: it \"is\" down".to_owned())]);
        assert_eq!(relay.lost("left"), [], "what waits goes on waiting");
        assert!(relay.waits_since().is_some());
    }

    #[test]
    fn what_is_asked_without_a_connection_is_answered_once_it_is_given_up() {
        let mut relay = begun();
        relay.lost("lost");
        relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, now());
        relay.from_client(r#"[{"jsonrpc":"2.0","id":2,"method":"ping"}]"#, now());
        relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#, now());
        assert!(relay.waits_since().is_some() && relay.held() > 100);
        let steps = relay.give_up("not there", now());
        assert_eq!(said(&steps).len(), 2);
        assert!(relay.waits_since().is_none() && relay.is_settled());
    }

    #[test]
    fn messages_that_are_not_exact_are_remembered_as_well() {
        let mut relay = Relay::default();
        let hello = format!("\u{feff}{HELLO}");
        relay.from_client(&hello, now());
        assert_eq!(sent(&relay.connected()), [&hello]);
        relay.from_server(HELLO_BACK);
        relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":null}"#, now());
        relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}"#, now());
        assert!(!relay.is_settled());
        assert_eq!(said(&relay.lost("lost")).len(), 1);
        relay.from_client(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":null}"#, now());
        assert_eq!(said(&relay.give_up("no", now())).len(), 1);
        assert_eq!(sent(&relay.connected()).len(), 1, "the handshake");
        let steps = relay.from_server(&HELLO_BACK.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\""));
        assert_eq!(sent(&steps), [READY]);
    }

    #[test]
    fn what_is_refused_as_a_whole_is_not_waited_for() {
        let mut relay = begun();
        relay.from_client(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, now());
        let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(2000));
        relay.from_client(&long, now());
        relay.from_server(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}"#);
        assert!(relay.is_settled() && relay.lost("lost").is_empty());
    }

    #[test]
    fn an_answer_to_a_server_of_before_is_not_one_to_a_request_of_now() {
        let mut relay = begun();
        let ask = r#"{"jsonrpc":"2.0","id":"q1","method":"elicitation/create"}"#;
        assert_eq!(said(&relay.from_server(ask)), [ask]);
        relay.lost("lost");
        assert!(relay.waits_since().is_none());
        let stale = r#"{"jsonrpc":"2.0","id":"q1","result":{"action":"accept"}}"#;
        assert_eq!(relay.from_client(stale, now()), [], "and nothing is started for it");
        assert_eq!(relay.held(), 0);
        relay.connected();
        relay.from_server(&HELLO_BACK.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\""));
        let asked = r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-2","method":"elicitation/create"}"#;
        assert_eq!(said(&relay.from_server(ask)), [asked]);
        assert_eq!(relay.from_client(stale, now()), []);
        let answer = r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-2","result":{"action":"decline"}}"#;
        let mapped = answer.replace("mcpdaemon-connect-2", "q1");
        assert_eq!(sent(&relay.from_client(answer, now())), [mapped]);
        // What the server takes back is taken back under the name that the client knows.
        relay.from_server(ask);
        let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q1"}}"#;
        assert_eq!(said(&relay.from_server(cancelled)), [cancelled.replace("q1", "mcpdaemon-connect-3")]);
        assert_eq!(said(&relay.lost("lost")).len(), 0);
    }

    #[test]
    fn a_subscription_is_acknowledged_once_and_not_made_anew_when_it_was_given_up() {
        let listen = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true}}}"#;
        let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#;
        let mut relay = Relay::default();
        relay.connected();
        relay.from_client(listen, now());
        relay.lost("lost before it was acknowledged");
        assert_eq!(sent(&relay.connected()), [listen]);
        assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged]);
        relay.lost("lost");
        relay.connected();
        let told = relay.from_server(acknowledged);
        let [told] = said(&told)[..] else { panic!("{told:?}") };
        assert!(told.contains("tools/list_changed") && told.contains("subscriptionId\":\"l\""), "{told}");
        relay.lost("lost");
        relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"l"}}"#, now());
        relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, now());
        relay.give_up("not there", now());
        assert_eq!(relay.connected(), []);
    }

    #[test]
    fn each_request_has_its_own_time() {
        use std::time::Duration;
        let mut relay = begun();
        relay.lost("lost");
        let (begin, later) = (now(), now() + Duration::from_secs(20));
        relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#, begin);
        assert_eq!(relay.waits_since(), None, "a notification waits for nothing");
        relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, begin);
        relay.from_client(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#, later);
        assert_eq!(said(&relay.give_up("no", begin)).len(), 1);
        assert_eq!(relay.waits_since(), Some(later));
    }
}
