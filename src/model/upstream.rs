//! What has to be known of a conversation with a server elsewhere: what its session consists of, so that it can be begun anew
//! where the server has forgotten it, and what a request of the modern era says in headers.
//!
//! Pure: messages go in, and texts come out.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::envelope::{Envelope, decode, members, spliced, unescaped};
use super::modern::ParamHeaders;
use super::{method, modern};

/// The beginning of the ids of our own requests.
const OWN: &str = "mcpdaemon-again-";

/// What a session of the legacy era consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The request that has begun it.
    initialize: Option<String>,
    initialized: bool,
    level: Option<String>,
    /// Requests that subscribe, by the URIs.
    watched: BTreeMap<String, String>,
}

/// The most arguments of a tool that are repeated in headers.
const PARAMS: usize = 64;
/// The most subscriptions that are remembered.
const WATCHED: usize = 10_000;

impl Said {
    /// Notes a message on its way to the server.
    pub fn note(&mut self, e: &Envelope<'_>) {
        let text = || Some(e.text().to_owned());
        match e.method.as_ref() {
            method::INITIALIZE => *self = Said { initialize: text(), ..Said::default() },
            method::INITIALIZED => self.initialized = true,
            method::SET_LEVEL => self.level = text(),
            method::RESOURCES_SUBSCRIBE if self.watched.len() < WATCHED => {
                if let Some(uri) = e.get(&e.uri) {
                    self.watched.insert(decode(uri).into_owned(), e.text().to_owned());
                }
            }
            method::RESOURCES_UNSUBSCRIBE => {
                if let Some(uri) = e.get(&e.uri) {
                    self.watched.remove(decode(uri).as_ref());
                }
            }
            _ => {}
        }
    }

    /// The request that begins the session anew; None where none was begun.
    pub fn greeting(&self) -> Option<String> {
        self.initialize.as_deref().map(|text| renumbered(text, 0))
    }

    /// Whether the server was told that the handshake is complete.
    pub fn is_complete(&self) -> bool {
        self.initialized
    }

    /// The requests by which a session that was begun anew gets to where the one before was.
    pub fn settings(&self) -> Vec<String> {
        let all = self.level.iter().chain(self.watched.values());
        all.zip(1..).map(|(text, n)| renumbered(text, n)).collect()
    }
}

/// A request with an id of our own: its answer is for nobody else.
fn renumbered(text: &str, n: usize) -> String {
    let id = format!("\"{OWN}{n}\"");
    let place = super::envelope::scan(text).ok().and_then(|e| e.id.clone());
    place.map_or_else(|| text.to_owned(), |place| spliced(text, &[(place, &id)]))
}

/// The header fields of a message of the modern era (2026-07-28 basic/transports/streamable-http). `known` says which arguments
/// of which tools are repeated there.
pub fn headers(e: &Envelope<'_>, known: Option<&ParamHeaders>) -> Vec<(String, String)> {
    let version = e.get(&e.modern.version).map_or(modern::VERSION.into(), decode);
    let mut all =
        vec![("mcp-protocol-version".to_owned(), field(&version)), ("mcp-method".to_owned(), field(&e.method))];
    let name = match e.method.as_ref() {
        method::TOOLS_CALL | method::PROMPTS_GET => &e.name,
        method::RESOURCES_READ => &e.uri,
        method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL => &e.task_id,
        _ => return all,
    };
    let Some(name) = e.get(name).and_then(unescaped) else { return all };
    all.push(("mcp-name".to_owned(), field(&name)));
    let params = known.filter(|_| e.method == method::TOOLS_CALL).and_then(|known| known.get(name.as_ref()));
    let valid =
        |suffix: &str| !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    // Each object is read once, for it may have as many members as a message has room for.
    let mut objects = HashMap::<&[String], Vec<_>>::new();
    for (suffix, path) in params.into_iter().flatten().filter(|(suffix, _)| valid(suffix)).take(PARAMS) {
        let mut argument = e.get(&e.arguments).unwrap_or("null");
        for (depth, key) in path.iter().enumerate() {
            let members = objects.entry(&path[..depth]).or_insert_with(|| members(argument));
            argument = members.iter().find(|(name, _)| name == key).map_or("null", |(_, span)| &argument[span.clone()]);
        }
        if argument != "null" {
            let text = if argument.starts_with('"') { decode(argument) } else { argument.into() };
            all.push((format!("mcp-param-{suffix}"), field(&text)));
        }
    }
    all
}

/// A text as the value of a header field: as it is where that can be, else in Base64.
fn field(text: &str) -> String {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        && text.trim() == text
        && !text.starts_with("=?base64?");
    if plain { text.to_owned() } else { format!("=?base64?{}?=", data_encoding::BASE64.encode(text.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::envelope::scan;

    #[test]
    fn a_session_is_begun_anew_as_it_was() {
        let mut said = Said::default();
        assert_eq!((said.greeting(), said.settings()), (None, Vec::new()));
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"a":1}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"info"}}"#,
            r#"{"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"a:b"}}"#,
            r#"{"jsonrpc":"2.0","id":4,"method":"resources/subscribe","params":{"uri":"a:c"}}"#,
            r#"{"jsonrpc":"2.0","id":5,"method":"resources/unsubscribe","params":{"uri":"a:\u0062"}}"#,
            r#"{"jsonrpc":"2.0","id":6,"method":"tools/list"}"#,
        ] {
            said.note(&scan(text).unwrap());
        }
        let greeting = r#"{"jsonrpc":"2.0","id":"mcpdaemon-again-0","method":"initialize","params":{"a":1}}"#;
        assert_eq!(said.greeting().unwrap(), greeting);
        assert!(said.is_complete());
        let settings = said.settings();
        assert_eq!(settings.len(), 2);
        assert!(settings[0].contains(r#""id":"mcpdaemon-again-1","method":"logging/setLevel""#), "{settings:?}");
        assert!(settings[1].contains(r#""uri":"a:c""#), "{settings:?}");
    }

    #[test]
    fn what_a_server_marks_without_end_or_without_sense_is_left_out() {
        let all = (0..30_000).map(|n| (format!("P{n}"), vec![format!("p{n}")]));
        let mut known = ParamHeaders::new();
        known.insert("t".to_owned(), [("Reg ion".to_owned(), vec!["p1".to_owned()])].into_iter().chain(all).collect());
        let arguments: Vec<String> = (0..30_000).map(|n| format!("\"p{n}\":{n}")).collect();
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{{}}}}}}}"#,
            arguments.join(",")
        );
        let found = headers(&scan(&text).unwrap(), Some(&known));
        assert_eq!(found.len(), 3 + PARAMS);
        assert!(found.iter().all(|(name, _)| !name.contains(' ')));
    }

    #[test]
    fn a_modern_request_says_in_headers_what_it_is() {
        let mut known = ParamHeaders::new();
        known.insert("t".to_owned(), vec![("Region".to_owned(), vec!["a".to_owned(), "r".to_owned()])]);
        let call = |name: &str, arguments: &str| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{name},"arguments":{arguments},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
            );
            let all = headers(&scan(&text).unwrap(), Some(&known));
            all.iter().skip(2).map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        assert_eq!(call(r#""t""#, r#"{"a":{"r":"eu"}}"#), ["mcp-name: t", "mcp-param-Region: eu"]);
        assert_eq!(call(r#""t""#, r#"{"a":{"r":42}}"#), ["mcp-name: t", "mcp-param-Region: 42"]);
        assert_eq!(call(r#""t""#, r#"{"a":{"r":null}}"#), ["mcp-name: t"]);
        assert_eq!(call(r#""t""#, r#"{"a":1}"#), ["mcp-name: t"]);
        assert_eq!(call(r#""\u00e9""#, "{}"), ["mcp-name: =?base64?w6k=?="]);
        assert_eq!(call(r#"" x""#, "{}"), ["mcp-name: =?base64?IHg=?="]);
    }
}
