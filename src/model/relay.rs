//! What `mcpdaemon --connect` has to remember of a conversation, so that its client notices nothing when the connection to the
//! instance is made anew.
//!
//! It replays what a session consists of: the handshake, the log level, subscriptions. What was in flight is answered by an
//! error, because it may have run. Messages pass as they are. Pure: texts go in, and what is to be done comes out.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::envelope::{Envelope, Fault, Kind, batch, member, members, plain_text, scan, spliced};
use super::{jsonrpc, method};

/// The beginning of the ids of our own requests.
const OWN: &str = "mcpdaemon-connect-";
/// The lists of which a client is told that they may have changed.
const LISTS: [&str; 3] = ["tools", "prompts", "resources"];

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
    Initialize,
    /// The text is replayed if it succeeds.
    Level(String),
    Subscribe(String, String),
    Unsubscribe(String),
    /// A subscription of the modern era, which is open as long as it lasts.
    Listen(String),
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

/// What is remembered of one conversation.
pub struct Relay {
    at: At,
    /// The request that has begun the session, once it has succeeded, and whether its client has said that it is ready.
    handshake: Option<(String, bool)>,
    /// The lists of which the server tells changes.
    lists: Vec<&'static str>,
    /// The id of our own handshake.
    greeting: Option<String>,
    level: Option<String>,
    watched: BTreeMap<String, String>,
    /// Requests of the client by their ids, as they are written.
    open: HashMap<String, Open>,
    /// Requests of the server, by their ids, that the client has not answered.
    asked: HashSet<String>,
    /// Subscriptions that were made anew, and whose acknowledgement the client knows.
    acknowledged: HashSet<String>,
    /// What the client says while there is no connection.
    held: Vec<String>,
    number: u64,
}

impl Default for Relay {
    fn default() -> Relay {
        Relay {
            at: At::Lost,
            handshake: None,
            lists: Vec::new(),
            greeting: None,
            level: None,
            watched: BTreeMap::new(),
            open: HashMap::new(),
            asked: HashSet::new(),
            acknowledged: HashSet::new(),
            held: Vec::new(),
            number: 0,
        }
    }
}

impl Relay {
    /// A message of the client.
    pub fn from_client(&mut self, text: &str) -> Vec<Step> {
        if self.at != At::Open {
            self.held.push(text.to_owned());
            return Vec::new();
        }
        self.pass(text)
    }

    /// A message of the client, with a connection.
    fn pass(&mut self, text: &str) -> Vec<Step> {
        match scan(text) {
            Ok(e) if e.kind == Kind::Response && !e.get(&e.id).is_some_and(|id| self.asked.remove(id)) => {
                // What the server has asked on a connection of before.
                return Vec::new();
            }
            Ok(e) => self.note(&e),
            Err(Fault::Batch) => {
                for one in batch(text).unwrap_or_default() {
                    if let Ok(e) = scan(one) {
                        self.note(&e);
                    }
                }
            }
            // The instance says what is wrong with it.
            Err(_) => {}
        }
        vec![Step::Send(text.to_owned())]
    }

    /// Remembers what a message of the client asks for.
    fn note(&mut self, e: &Envelope<'_>) {
        let text = || e.text().to_owned();
        match (e.kind, &*e.method) {
            (Kind::Request, name) => {
                let Some(id) = e.get(&e.id) else { return };
                let uri = || e.get(&e.uri).unwrap_or_default().to_owned();
                let open = match name {
                    method::INITIALIZE => {
                        self.handshake = Some((text(), false));
                        Open::Initialize
                    }
                    method::SET_LEVEL => Open::Level(text()),
                    method::RESOURCES_SUBSCRIBE => Open::Subscribe(uri(), text()),
                    method::RESOURCES_UNSUBSCRIBE => Open::Unsubscribe(uri()),
                    method::LISTEN => Open::Listen(text()),
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
        let Ok(e) = scan(text) else {
            // The answers to a batch.
            for one in batch(text).unwrap_or_default() {
                if let Ok(e) = scan(one)
                    && let Some(id) = e.get(&e.id)
                {
                    self.open.remove(id);
                }
            }
            return vec![Step::Say(text.to_owned())];
        };
        let id = e.get(&e.id);
        match e.kind {
            Kind::Response => {
                if let Some(id) = id {
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
            }
            Kind::Request => {
                if let Some(id) = id {
                    self.asked.insert(id.to_owned());
                }
            }
            Kind::Notification if &*e.method == method::ACKNOWLEDGED => {
                // The client has heard that at first.
                if e.get(&e.modern.subscription).is_some_and(|id| self.acknowledged.remove(id)) {
                    return Vec::new();
                }
            }
            Kind::Notification => {}
        }
        vec![Step::Say(text.to_owned())]
    }

    /// A request of the client is answered: what of it is to be replayed is known now.
    fn answered(&mut self, open: Open, e: &Envelope<'_>) {
        let Some(result) = e.get(&e.result) else {
            if matches!(open, Open::Initialize) {
                self.handshake = None;
            }
            return;
        };
        match open {
            Open::Initialize => {
                let capabilities = members(member(result, "capabilities").unwrap_or_default());
                let of = |list: &&str| capabilities.iter().any(|(name, _)| name == list);
                self.lists = LISTS.into_iter().filter(of).collect();
            }
            Open::Level(text) => self.level = Some(text),
            Open::Subscribe(uri, text) => drop(self.watched.insert(uri, text)),
            Open::Unsubscribe(uri) => drop(self.watched.remove(&uri)),
            Open::Plain | Open::Listen(_) => {}
        }
    }

    /// There is a connection. What is to be sent at first.
    pub fn connected(&mut self) -> Vec<Step> {
        let handshake = self.handshake.as_ref().map(|(text, _)| text.clone());
        let is_open = self.open.values().any(|open| matches!(open, Open::Initialize));
        match handshake {
            // Its client waits for the answer: it is asked once more as it was.
            Some(text) if is_open => {
                self.at = At::Open;
                [vec![Step::Send(text)], self.release()].concat()
            }
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
            if let Open::Listen(text) = open {
                self.acknowledged.insert(id.clone());
                steps.push(Step::Send(text.clone()));
            }
        }
        steps
    }

    /// What the client has said meanwhile.
    fn release(&mut self) -> Vec<Step> {
        let held = std::mem::take(&mut self.held);
        held.iter().flat_map(|text| self.pass(text)).collect()
    }

    /// A request of the client with an id of our own, and that id.
    fn renumbered(&mut self, text: &str) -> (String, String) {
        self.number += 1;
        let id = format!("\"{OWN}{}\"", self.number);
        let place = scan(text).ok().and_then(|e| e.id.clone());
        let text = place.map_or_else(|| text.to_owned(), |place| spliced(text, &[(place, &id)]));
        (id, text)
    }

    /// The connection is gone: what was in flight is answered by an error for this reason.
    pub fn lost(&mut self, why: &str) -> Vec<Step> {
        self.at = At::Lost;
        self.greeting = None;
        self.acknowledged.clear();
        let gone = |(_, open): &(&String, &mut Open)| !matches!(open, Open::Listen(_) | Open::Initialize);
        let mut ids: Vec<String> = self.open.iter_mut().filter(gone).map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        let mut steps = Vec::new();
        for id in ids {
            self.open.remove(&id);
            steps.push(Step::Say(jsonrpc::error(Some(&id), jsonrpc::REFUSED, why)));
        }
        // Nobody waits for the client's answers any more.
        let mut asked: Vec<String> = self.asked.drain().collect();
        asked.sort_unstable();
        for id in asked {
            let params = format!(r#"{{"requestId":{id},"reason":"the connection was lost"}}"#);
            steps.push(Step::Say(jsonrpc::notification(method::CANCELLED, Some(&params))));
        }
        steps
    }

    /// There will be no connection soon: what the client has said meanwhile, and waits for, is answered by an error for this
    /// reason.
    pub fn give_up(&mut self, why: &str) -> Vec<Step> {
        let held = std::mem::take(&mut self.held);
        let mut ids: Vec<String> = Vec::new();
        for text in &held {
            let all = if text.trim_start().starts_with('[') { batch(text).unwrap_or_default() } else { vec![&**text] };
            let requests = all.into_iter().filter_map(|one| scan(one).ok()).filter(|e| e.kind == Kind::Request);
            ids.extend(requests.filter_map(|e| e.get(&e.id).map(str::to_owned)));
        }
        let is_first = |(id, open): (&String, &Open)| matches!(open, Open::Initialize).then(|| id.clone());
        if let Some(id) = self.open.iter().find_map(is_first) {
            self.open.remove(&id);
            self.handshake = None;
            ids.push(id);
        }
        ids.iter().map(|id| Step::Say(jsonrpc::error(Some(id), jsonrpc::REFUSED, why))).collect()
    }

    /// Whether the client waits for something that it has asked while there was no connection.
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty() || self.open.values().any(|open| matches!(open, Open::Initialize))
    }

    /// How much of the client's is held, in bytes.
    pub fn held(&self) -> usize {
        self.held.iter().map(String::len).sum()
    }

    /// Whether messages pass.
    pub fn is_open(&self) -> bool {
        self.at == At::Open
    }

    /// Whether nothing is owed to the client. A subscription lasts until it is cancelled: it is not waited for.
    pub fn is_settled(&self) -> bool {
        self.held.is_empty() && self.open.values().all(|open| matches!(open, Open::Listen(_)))
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

    const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    const HELLO_BACK: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"capabilities":{"tools":{"listChanged":true}}}}"#;
    const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

    /// A conversation that has shaken hands.
    fn begun() -> Relay {
        let mut relay = Relay::default();
        assert_eq!(relay.from_client(HELLO), [], "it waits for a connection");
        assert_eq!(sent(&relay.connected()), [HELLO]);
        assert_eq!(said(&relay.from_server(HELLO_BACK)), [HELLO_BACK]);
        assert_eq!(sent(&relay.from_client(READY)), [READY]);
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
            assert_eq!(relay.from_client(text), [Step::Send(text.to_owned())]);
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
            relay.from_client(text);
            relay.from_server(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
        }
        relay.from_client(bad);
        relay.from_server(r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"no"}}"#);
        let call = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"x"}}"#;
        relay.from_client(call);
        relay.from_server(r#"{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage"}"#);
        let lost = relay.lost("it was lost");
        assert_eq!(
            said(&lost),
            [
                r#"{"jsonrpc":"2.0","id":"c","error":{"code":-32000,"message":"it was lost"}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9,"reason":"the connection was lost"}}"#
            ]
        );
        assert_eq!(relay.from_client(call), [], "it waits");
        // The client answers what nobody waits for any more.
        assert_eq!(relay.from_client(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#), []);
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
        relay.from_client(HELLO);
        relay.connected();
        assert_eq!(relay.lost("lost"), [], "nobody has done anything yet");
        assert!(relay.is_waiting());
        assert_eq!(sent(&relay.connected()), [HELLO]);
        assert_eq!(said(&relay.from_server(HELLO_BACK)), [HELLO_BACK]);
        // Given up, it is answered by an error, and a later one is the first.
        let mut relay = Relay::default();
        relay.from_client(HELLO);
        relay.connected();
        relay.lost("lost");
        let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"not there"}}"#;
        assert_eq!(said(&relay.give_up("not there")), [error]);
        assert!(relay.is_settled() && relay.connected().is_empty());
    }

    #[test]
    fn subscriptions_of_the_modern_era_are_made_anew_and_acknowledged_once() {
        let mut relay = Relay::default();
        relay.connected();
        let listen = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"_meta":{}}}"#;
        assert_eq!(sent(&relay.from_client(listen)), [listen]);
        let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#;
        assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged]);
        assert_eq!(relay.lost("lost"), []);
        assert_eq!(sent(&relay.connected()), [listen]);
        assert_eq!(relay.from_server(acknowledged), []);
        assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged], "it is another one");
        // Cancelled, it is not made anew.
        relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"l"}}"#);
        relay.lost("lost");
        assert_eq!(relay.connected(), []);
    }

    #[test]
    fn a_connection_whose_handshake_is_refused_is_left() {
        let mut relay = begun();
        relay.lost("lost");
        relay.connected();
        relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        let refused =
            r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-1","error":{"code":-32603,"message":"it \"is\" down"}}"#;
        assert_eq!(relay.from_server(refused), [Step::Leave("the handshake was refused: it \"is\" down".to_owned())]);
        assert_eq!(relay.lost("left"), [], "what waits goes on waiting");
        assert!(relay.is_waiting());
    }

    #[test]
    fn what_is_asked_without_a_connection_is_answered_once_it_is_given_up() {
        let mut relay = begun();
        relay.lost("lost");
        relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        relay.from_client(r#"[{"jsonrpc":"2.0","id":2,"method":"ping"}]"#);
        relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#);
        assert!(relay.is_waiting() && relay.held() > 100);
        let steps = relay.give_up("not there");
        assert_eq!(said(&steps).len(), 2);
        assert!(!relay.is_waiting() && relay.is_settled());
    }
}
