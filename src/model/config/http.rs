//! What is peculiar to `Http(...)`: a server elsewhere, by its URL.
//!
//! Header values may be secret and are never shown. A query in the URL may be as well.

use std::path::PathBuf;

use super::environment::{Environment, Secrets};
use super::read::{Node, Section};
use crate::model::url::Url;

/// A server elsewhere that speaks Streamable HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    pub url: Url,
    /// Header fields of each request by their names; those from files are read again for each session.
    pub headers: Environment,
    /// The file of certificates (PEM) that its own one is checked by, in place of the system's.
    pub ca: Option<PathBuf>,
    /// So many requests at a time; more wait.
    pub connections: u32,
}

/// What the protocol or the connection says by itself (RFC 9110, section 7.6.1; MCP basic/transports).
const OWN: [&str; 16] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "accept",
    "accept-encoding",
    "expect",
    "last-event-id",
    "mcp-session-id",
    "mcp-protocol-version",
];

/// Reads `url`, `headers`, `ca` and `connections`.
pub(super) fn http<'a>(s: &mut Section<'_, 'a>, whole: Node<'a>) -> Option<Http> {
    let at = s.node("url");
    let url = match at {
        Some(at) => url(s, at),
        None => {
            s.reader.problem(whole, "'url' is missing: where is the server? (url: \"https://example.org/mcp\")");
            None
        }
    };
    let headers_at = s.node("headers");
    let Secrets(values) = s.get("headers", Secrets::default());
    let mut headers = Environment::default();
    for (name, value, pieces) in values {
        let lower = name.to_ascii_lowercase();
        let wrong = match () {
            () if !is_field_name(&name) => "this is no name of a header field".to_owned(),
            () if is_own(&name) => format!("'{name}' is for the protocol, and not for the configuration"),
            () if !is_field_value(&value) => "a value has visible characters and blanks alone, on one line".to_owned(),
            () if headers.set.contains_key(&lower) => format!("'{name}' stands here twice"),
            () => String::new(),
        };
        match headers_at.filter(|_| !wrong.is_empty()) {
            Some(at) => s.reader.problem(at, format!("headers: {wrong}")),
            None => headers.add(lower, value, pieces),
        }
    }
    let ca_at = s.node("ca");
    let ca: Option<PathBuf> = s.opt("ca");
    if let (Some(ca), Some(at)) = (&ca, ca_at) {
        let read = (s.reader.around().read)(ca);
        let wrong = match read {
            Err(why) => Some(why),
            Ok(text) if !text.contains("-----BEGIN CERTIFICATE-----") => {
                Some("there is no certificate in it (PEM)".to_owned())
            }
            Ok(_) if url.as_ref().is_some_and(|url| !url.is_tls) => Some("it is for https URLs alone".to_owned()),
            Ok(_) => None,
        };
        if let Some(why) = wrong {
            s.reader.problem(at, format!("ca {}: {why}", ca.display()));
        }
    }
    let connections = s.get("connections", 64u32);
    if connections == 0
        && let Some(at) = s.node("connections")
    {
        s.reader.problem(at, "'connections' must be more than 0");
    }
    Some(Http { url: url?, headers, ca, connections: connections.max(1) })
}

fn url<'a>(s: &mut Section<'_, 'a>, at: Node<'a>) -> Option<Url> {
    let text = s.reader.string(at, "a URL in quotes")?;
    match Url::parse(&text) {
        Ok(url) if url.is_tls && cfg!(not(feature = "remote")) => {
            s.reader.problem(at, "this mcpdaemon was built without TLS (cargo feature 'remote')");
            None
        }
        Ok(url) => {
            if url.path.contains('?') {
                s.reader.note_secret();
            }
            s.show_given("url", at, format!("\"{url}\""));
            Some(url)
        }
        Err(why) => {
            s.reader.problem(at, format!("url: {why}"));
            None
        }
    }
}

/// Whether a header field is not for the configuration to set.
fn is_own(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    OWN.contains(&lower.as_str()) || lower.starts_with("mcp-param-")
}

/// Whether a header field can be set, by its name.
pub fn may_be_set(name: &str) -> bool {
    is_field_name(name) && !is_own(name)
}

/// RFC 9110, section 5.1.
fn is_field_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(fine)
}

/// RFC 9110, section 5.5, without what is obsolete there.
pub fn is_field_value(value: &str) -> bool {
    value.len() <= 16 << 10 && value.bytes().all(|b| b.is_ascii_graphic() || matches!(b, b' ' | b'\t'))
}
