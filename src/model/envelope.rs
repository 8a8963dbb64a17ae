//! The JSON-RPC envelope: finds the few members that routing needs, and splices new values in their place.
//!
//! A message is never parsed into a tree. One pass checks that the text is one JSON value (RFC 8259) and notes where
//! the members of the envelope stand; everything else stays the bytes that were sent, so numbers beyond 2^53, key
//! order, escapes and unknown members arrive unchanged. The scanner must not know who sends a message, nor who gets it.
//!
//! A member named twice in a place that routing looks at is refused: two parsers could otherwise see two messages.

use std::borrow::Cow;
use std::ops::Range;

use super::method;
use super::spelling::{Known, respelled};

/// Arrays and objects may nest this deep; deeper text is refused before any stack could overflow.
pub const MAX_DEPTH: usize = 512;

/// The longest id or progress token of a client, in bytes as written: ids are kept and compared.
pub const LONGEST_ID: usize = 1024;

/// What the names of `_meta` members that the specification defines begin with.
const MODERN: &str = "io.modelcontextprotocol/";

/// The members that every message is routed by, each with its letters ([`respelled`]).
const WHOLE: [Known; 5] =
    [("id", "id"), ("method", "method"), ("params", "params"), ("result", "result"), ("error", "error")];
/// Those of `params` that some messages are routed by (see [`routes`]).
const PARAMS: [Known; 10] = [
    ("_meta", "meta"),
    ("task", "task"),
    ("name", "name"),
    ("arguments", "arguments"),
    ("uri", "uri"),
    ("ref", "ref"),
    ("taskId", "taskid"),
    ("requestId", "requestid"),
    ("progressToken", "progresstoken"),
    ("protocolVersion", "protocolversion"),
];
/// Those of `params._meta`.
const META: [Known; 5] = [
    ("progressToken", "progresstoken"),
    ("io.modelcontextprotocol/protocolVersion", "iomodelcontextprotocolprotocolversion"),
    ("io.modelcontextprotocol/clientCapabilities", "iomodelcontextprotocolclientcapabilities"),
    ("io.modelcontextprotocol/logLevel", "iomodelcontextprotocolloglevel"),
    ("io.modelcontextprotocol/subscriptionId", "iomodelcontextprotocolsubscriptionid"),
];
/// Those of `params.ref`.
const REFERENCE: [Known; 3] = [("type", "type"), ("name", "name"), ("uri", "uri")];

/// Whether a message with this method is routed by this member of its `params`.
fn routes(method: &str, key: &str) -> bool {
    match key {
        "_meta" | "task" => true,
        "name" => matches!(method, method::TOOLS_CALL | method::PROMPTS_GET),
        "arguments" => method == method::TOOLS_CALL,
        "uri" => matches!(method, method::RESOURCES_READ | method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE),
        "ref" => method == method::COMPLETE,
        "taskId" => method::is_of_tasks(method),
        "requestId" => method == method::CANCELLED,
        "progressToken" => method == method::PROGRESS,
        "protocolVersion" => method == method::INITIALIZE,
        _ => false,
    }
}

/// A place in the scanned text, in bytes.
pub type Span = Range<usize>;

/// What a message is, by the members that it has (JSON-RPC 2.0 sections 4 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Notification,
    /// A response with `result` or `error`.
    Response,
}

/// Where the members of one message stand. A span covers the value's bytes, quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    text: &'a str,
    pub kind: Kind,
    /// The id as written: a string or a number. None also stands for `null` in a response.
    pub id: Option<Span>,
    /// Decoded method name; empty for a response.
    pub method: Cow<'a, str>,
    /// The whole `params` value.
    pub params: Option<Span>,
    /// The whole `result` value.
    pub result: Option<Span>,
    /// The whole `error` value.
    pub error: Option<Span>,
    /// `params._meta.progressToken` of a request, `params.progressToken` of a progress notification.
    pub progress_token: Option<Span>,
    /// `params.requestId` of a cancellation.
    pub request_id: Option<Span>,
    /// `params.uri`.
    pub uri: Option<Span>,
    /// `params.protocolVersion`, as `initialize` has it.
    pub protocol_version: Option<Span>,
    /// `params.name`, as `tools/call` and `prompts/get` have it.
    pub name: Option<Span>,
    /// `params.arguments`.
    pub arguments: Option<Span>,
    /// What `params.ref` of a completion names.
    pub reference: Reference,
    /// `params.taskId`.
    pub task_id: Option<Span>,
    /// `params._meta`, an object.
    pub meta: Option<Span>,
    /// `params._meta` of the modern era (2026-07-28 basic/index).
    pub modern: ModernMeta,
    /// `params.task`: the request asks to be run as a task (2025-11-25 basic/utilities/tasks).
    pub task: Option<Span>,
    /// There is a line break between tokens: the text must be put on one line before it goes down a pipe.
    pub multiline: bool,
    /// A member that this message is routed by stands there in another spelling, as well or instead: the right one.
    respelled: Option<&'static str>,
    /// There is half of a surrogate pair in the method, which some programs drop and some replace.
    unclear_method: bool,
    /// There is half of a surrogate pair in the name of a member, in a place whose members a message is routed by.
    unclear_name: bool,
}

/// The members of `params.ref` (server/utilities/completion).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    pub kind: Option<Span>,
    pub name: Option<Span>,
    pub uri: Option<Span>,
}

/// The members of `params._meta` that the modern era defines, each below `io.modelcontextprotocol/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModernMeta {
    pub version: Option<Span>,
    pub capabilities: Option<Span>,
    pub log_level: Option<Span>,
    pub subscription: Option<Span>,
}

/// Why a text is not a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// Not JSON: the byte where it stopped being so, and what was wrong.
    Json(usize, &'static str),
    /// A JSON array: a batch.
    Batch,
    /// JSON, but not a message; with the id, if there is one that can be answered.
    Message(Option<&'a str>, &'static str),
    /// Programs could read two messages in it: the member whose name is spelled in another way; with the id.
    Respelled(Option<&'a str>, &'static str),
    /// It is not as a message has to be, but can mean one thing only: what to write in place of what ([`spliced`]), in
    /// order. The text with these changes is to be scanned in its place.
    Inexact(Vec<(Span, &'static str)>),
}

impl<'a> Envelope<'a> {
    /// The text under a span.
    pub fn get(&self, span: &Option<Span>) -> Option<&'a str> {
        span.clone().map(|s| &self.text[s])
    }

    /// The text that was scanned.
    pub fn text(&self) -> &'a str {
        self.text
    }
}

/// Appends `text` to `out` with each span replaced; the spans must be in ascending order and apart.
pub fn splice(out: &mut Vec<u8>, text: &str, changes: &[(Span, &str)]) {
    let mut from = 0;
    for (span, with) in changes {
        out.extend_from_slice(&text.as_bytes()[from..span.start]);
        out.extend_from_slice(with.as_bytes());
        from = span.end;
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
}

/// [`splice`] into a new string.
pub fn spliced(text: &str, changes: &[(Span, &str)]) -> String {
    let grown: usize = changes.iter().map(|(s, with)| with.len().saturating_sub(s.len())).sum();
    let mut out = String::with_capacity(text.len() + grown);
    let mut from = 0;
    for (span, with) in changes {
        out.push_str(&text[from..span.start]);
        out.push_str(with);
        from = span.end;
    }
    out.push_str(&text[from..]);
    out
}

/// A request with these members, as they are written in JSON, in its `params._meta` before all others. None where there
/// is something else than an object in the way.
pub fn add_meta(e: &Envelope<'_>, inner: &str) -> Option<String> {
    let comma = |span: &Span| if members(&e.text()[span.clone()]).is_empty() { "" } else { "," };
    let (at, added) = match (&e.meta, &e.params) {
        (Some(meta), _) => (meta.start + 1, format!("{inner}{}", comma(meta))),
        (None, Some(params)) => {
            let text = &e.text()[params.clone()];
            if !text.starts_with('{') {
                return None;
            }
            match members(text).into_iter().find(|(key, _)| key == "_meta") {
                // As good as none.
                Some((_, span)) if &text[span.clone()] == "null" => {
                    let span = params.start + span.start..params.start + span.end;
                    return Some(spliced(e.text(), &[(span, &format!("{{{inner}}}"))]));
                }
                Some(_) => return None,
                None => (params.start + 1, format!("\"_meta\":{{{inner}}}{}", comma(params))),
            }
        }
        (None, None) => {
            let start = e.text().find('{').map_or(0, |at| at + 1);
            (start, format!("\"params\":{{\"_meta\":{{{inner}}}}},"))
        }
    };
    Some(spliced(e.text(), &[(at..at, &added)]))
}

/// Puts valid JSON on one line: a raw line break can only stand between tokens, where a space does as well.
pub fn on_one_line(json: &mut [u8]) {
    for byte in json {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

/// Scans one message of a client: one that all programs which may read it take for the same.
pub fn scan_client(text: &str) -> Result<Envelope<'_>, Fault<'_>> {
    let e = read(text, true)?;
    let long = |span: &Option<Span>| span.as_ref().is_some_and(|s| s.len() > LONGEST_ID);
    if long(&e.id) {
        return Err(Fault::Message(None, "the id is longer than 1 KiB"));
    }
    let id = e.get(&e.id);
    if long(&e.progress_token) {
        return Err(Fault::Message(id, "the progress token is longer than 1 KiB"));
    }
    if long(&e.request_id) {
        return Err(Fault::Message(id, "params.requestId is longer than 1 KiB"));
    }
    if let Some(key) = e.respelled {
        return Err(Fault::Respelled(id, key));
    }
    if e.unclear_name {
        return Err(Fault::Message(id, "there is half of a surrogate pair in the name of a member"));
    }
    if e.unclear_method || method::is_respelled(&e.method) {
        return Err(Fault::Message(id, "\"method\" is not spelled as a method is: mind its case"));
    }
    Ok(e)
}

/// Scans one message, of a server or of the daemon itself.
pub fn scan(text: &str) -> Result<Envelope<'_>, Fault<'_>> {
    read(text, false)
}

/// What some programs for Windows write before a text (Unicode 16.0 section 23.8).
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A text without a byte order mark before it.
pub fn unmarked(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Scans one message; where it is `strict`, members in another spelling are looked for.
fn read(text: &str, strict: bool) -> Result<Envelope<'_>, Fault<'_>> {
    // One mark, not as many as there are: each is a turn for who mends it.
    if text.starts_with(BYTE_ORDER_MARK) && !unmarked(text).starts_with(BYTE_ORDER_MARK) {
        return Err(Fault::Inexact(vec![(0..BYTE_ORDER_MARK.len_utf8(), "")]));
    }
    let mut s = Scanner { strict, ..Scanner::new(text) };
    s.space();
    match s.peek() {
        Some(b'{') => {}
        Some(b'[') => {
            s.value()?;
            s.end()?;
            return Err(Fault::Batch);
        }
        _ => {
            s.value()?;
            s.end()?;
            return Err(Fault::Message(None, "a message is a JSON object"));
        }
    }
    let mut found = Found::default();
    s.object(|s, key| match key.as_ref() {
        "jsonrpc" => s.note(&mut found.jsonrpc),
        "id" => s.note(&mut found.id),
        "method" => s.note(&mut found.method),
        "result" => s.note(&mut found.result),
        "error" => s.note(&mut found.error),
        "params" => {
            let start = s.at;
            if found.params.is_some() {
                s.doubled = true;
            }
            if s.peek() == Some(b'{') {
                s.params(&mut found)?
            } else {
                s.value()?
            }
            found.params = Some(start..s.at);
            Ok(())
        }
        _ => s.other(key, Place::Whole),
    })?;
    s.end()?;
    found.judge(&s)
}

#[derive(Default)]
struct Found {
    jsonrpc: Option<Span>,
    id: Option<Span>,
    method: Option<Span>,
    params: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
    meta_token: Option<Span>,
    token: Option<Span>,
    request_id: Option<Span>,
    uri: Option<Span>,
    task: Option<Span>,
    name: Option<Span>,
    arguments: Option<Span>,
    /// `params.ref` stands there.
    referred: bool,
    reference: Reference,
    task_id: Option<Span>,
    modern: ModernMeta,
    protocol_version: Option<Span>,
    meta: Option<Span>,
}

impl Found {
    /// It can be nothing but an answer: the members of other messages and of lines in a log are not these.
    fn is_answer(&self, text: &str) -> bool {
        let error = |span: &Span| member(&text[span.clone()], "code").is_some();
        let object = |span: &Span| text[span.clone()].starts_with('{');
        self.method.is_none() && (self.error.as_ref().is_some_and(error) || self.result.as_ref().is_some_and(object))
    }

    fn judge<'t>(self, s: &Scanner<'t>) -> Result<Envelope<'t>, Fault<'t>> {
        let text = s.text;
        let get = |span: &Option<Span>| span.clone().map(|s| &text[s]);
        let id = get(&self.id);
        let usable = id.filter(|id| id.starts_with(['"', '-']) || id.starts_with(|c: char| c.is_ascii_digit()));
        if s.doubled {
            return Err(Fault::Message(usable, "a member of the envelope stands twice"));
        }
        let unversioned = self.jsonrpc.is_none() && !s.strict && self.is_answer(text) && usable.is_some();
        if get(&self.jsonrpc) != Some("\"2.0\"") && !unversioned {
            return Err(Fault::Message(usable, "\"jsonrpc\" must be \"2.0\""));
        }
        // Some servers write the member that does not apply as null.
        let null = |span: &Option<Span>| get(span) == Some("null");
        let said = |span: Option<Span>| span.filter(|span| &text[span.clone()] != "null");
        let named = said(self.method.clone());
        let (result, error) = match (self.result, self.error) {
            (result, error) if named.is_some() => (said(result), said(error)),
            (Some(result), error) if null(&error) => (Some(result), None),
            (result, error @ Some(_)) if null(&result) => (None, error),
            both => both,
        };
        let answer = result.is_some() || error.is_some();
        // A notification has no id, and some write that down.
        let notifies = || named.clone().is_some_and(|m| method::is_notification(&decode(&text[m])));
        let id = id.filter(|id| *id != "null" || !notifies());
        let kind = match (&named, answer) {
            (Some(_), true) => return Err(Fault::Message(usable, "a message has either a method or a result")),
            (Some(_), false) if id.is_some() && usable.is_none() => {
                return Err(Fault::Message(None, "an id is a string or a number"));
            }
            (Some(_), false) if id.is_some() => Kind::Request,
            (Some(_), false) => Kind::Notification,
            (None, true) if result.is_some() && error.is_some() => {
                return Err(Fault::Message(usable, "a response has either a result or an error"));
            }
            (None, true) => Kind::Response,
            (None, false) => return Err(Fault::Message(usable, "there is no method")),
        };
        let method = match get(&named) {
            Some(m) if m.starts_with('"') => decode(m),
            Some(_) => return Err(Fault::Message(usable, "\"method\" must be a string")),
            None => Cow::Borrowed(""),
        };
        // In some languages an empty object is written as an empty list, or as null.
        let empty = |p: &str| p == "null" || (p.starts_with('[') && p[1..].trim_start().starts_with(']'));
        let no_params = self.params.clone().filter(|p| kind != Kind::Response && empty(&text[p.clone()]));
        if no_params.is_none()
            && kind != Kind::Response
            && get(&self.params).is_some_and(|p| !p.starts_with(['{', '[']))
        {
            return Err(Fault::Message(usable, "\"params\" must be an object"));
        }
        if no_params.is_some() || unversioned {
            let version = text.find('{').filter(|_| unversioned).map(|at| (at + 1..at + 1, r#""jsonrpc":"2.0","#));
            return Err(Fault::Inexact(version.into_iter().chain(no_params.map(|span| (span, "{}"))).collect()));
        }
        // Only a string or a number can be a token; anything else is left where it is, for the server to judge.
        let plain = |span: Option<Span>| span.filter(|s| !text[s.clone()].starts_with(['{', '[', 't', 'f', 'n']));
        let token = if kind == Kind::Request { self.meta_token } else { self.token };
        let matters = |place: Place, key: &str| match place {
            Place::Whole | Place::Meta => true,
            Place::Params => routes(&method, key),
            Place::Reference => routes(&method, "ref"),
        };
        let mut respelled = Place::ALL.into_iter().flat_map(|place| s.respelled_in(place).map(move |key| (place, key)));
        let respelled = respelled.find(|(place, key)| matters(*place, key)).map(|(_, key)| key);
        let unclear_method = get(&self.method).is_some_and(|raw| unescaped(raw).is_none());
        Ok(Envelope {
            text,
            kind,
            id: usable.and(self.id),
            method,
            params: self.params,
            result,
            error,
            progress_token: plain(token),
            request_id: plain(self.request_id),
            uri: plain(self.uri),
            name: plain(self.name),
            arguments: self.arguments,
            reference: self.reference,
            task_id: plain(self.task_id),
            meta: self.meta.filter(|s| text[s.clone()].starts_with('{')),
            modern: self.modern,
            task: said(self.task),
            protocol_version: plain(self.protocol_version),
            multiline: s.multiline,
            respelled,
            unclear_method,
            unclear_name: s.unclear_name,
        })
    }
}

/// The members of a JSON object, in order: key and the place of each value in `json`. Empty for anything else.
pub fn members(json: &str) -> Vec<(Cow<'_, str>, Span)> {
    let mut s = Scanner::new(json);
    let mut found = Vec::new();
    s.space();
    if s.peek() == Some(b'{') {
        let whole = s.object(|s, key| {
            let start = s.at;
            s.value()?;
            found.push((key.clone(), start..s.at));
            Ok(())
        });
        if whole.is_err() {
            return Vec::new();
        }
    }
    found
}

/// One member of a JSON object, as JSON text.
pub fn member<'j>(json: &'j str, key: &str) -> Option<&'j str> {
    members(json).into_iter().find(|(k, _)| k == key).map(|(_, span)| &json[span])
}

/// The messages of a batch (JSON-RPC 2.0 section 6), as JSON texts.
pub fn batch(json: &str) -> Option<Vec<&str>> {
    let mut s = Scanner::new(json);
    let mut found = Vec::new();
    s.space();
    if s.peek() != Some(b'[') {
        return None;
    }
    s.at += 1;
    s.space();
    if s.peek() == Some(b']') {
        return Some(found);
    }
    loop {
        let start = s.at;
        s.value().ok()?;
        found.push(&json[start..s.at]);
        s.space();
        match s.peek()? {
            b',' => {
                s.at += 1;
                s.space();
            }
            b']' => return Some(found),
            _ => return None,
        }
    }
}

/// A JSON string literal as text. `raw` must have been scanned; lone surrogates become U+FFFD.
pub fn decode(raw: &str) -> Cow<'_, str> {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or("");
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    match serde_json::from_str::<String>(raw) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Owned(serde_json::from_str(&without_halves(raw)).unwrap_or_default()),
    }
}

/// A JSON string literal with U+FFFD for each half of a surrogate pair.
fn without_halves(raw: &str) -> String {
    let unit = |at: usize| raw.get(at..at + 6)?.strip_prefix("\\u").and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let (mut out, mut at) = (String::with_capacity(raw.len()), 0);
    while let Some(escape) = memchr::memchr(b'\\', &raw.as_bytes()[at..]).map(|n| at + n) {
        out.push_str(&raw[at..escape]);
        let length = match (unit(escape), unit(escape + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                out.push('\u{fffd}');
                at = escape + 6;
                continue;
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
        out.push_str(&raw[escape..escape + length]);
        at = escape + length;
    }
    out.push_str(&raw[at..]);
    out
}

/// Whether a text is one id as written: a string or a number, and nothing else.
pub fn is_id(text: &str) -> bool {
    let mut s = Scanner::new(text);
    matches!(s.peek(), Some(b'"' | b'-' | b'0'..=b'9')) && s.value().is_ok() && s.at == text.len()
}

/// A JSON string literal as text, if all programs read the same in it: there is no half of a surrogate pair, which some
/// drop and some replace, and no control character, at which some end. `raw` must have been scanned.
pub fn plain_text(raw: &str) -> Option<Cow<'_, str>> {
    unescaped(raw).filter(|t| !t.chars().any(char::is_control))
}

/// A JSON string literal as text; None if there is half of a surrogate pair.
pub fn unescaped(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    Some(match inner.contains('\\') {
        true => Cow::Owned(serde_json::from_str::<String>(raw).ok()?),
        false => Cow::Borrowed(inner),
    })
}

/// A text as a JSON string literal.
pub fn quote(text: &str) -> String {
    match plain_run(text.as_bytes()) == text.len() {
        true => ["\"", text, "\""].concat(),
        false => serde_json::Value::from(text).to_string(),
    }
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    multiline: bool,
    doubled: bool,
    /// Members in another spelling are looked for.
    strict: bool,
    /// Those of each place that were found, a bit for each.
    respelled: [u16; Place::ALL.len()],
    /// There is half of a surrogate pair in the name of a member.
    unclear_name: bool,
}

/// Where a member stands.
#[derive(Clone, Copy)]
enum Place {
    Whole,
    Params,
    Meta,
    Reference,
}

impl Place {
    const ALL: [Place; 4] = [Place::Whole, Place::Params, Place::Meta, Place::Reference];

    fn known(self) -> &'static [Known] {
        match self {
            Place::Whole => &WHOLE,
            Place::Params => &PARAMS,
            Place::Meta => &META,
            Place::Reference => &REFERENCE,
        }
    }
}

type Scan<'a> = Result<(), Fault<'a>>;

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Scanner<'a> {
        Scanner {
            text,
            bytes: text.as_bytes(),
            at: 0,
            multiline: false,
            doubled: false,
            strict: false,
            respelled: [0; Place::ALL.len()],
            unclear_name: false,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b) = self.peek() {
            match b {
                b' ' | b'\t' => {}
                b'\n' | b'\r' => self.multiline = true,
                _ => return,
            }
            self.at += 1;
        }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Fault<'a>> {
        Err(Fault::Json(self.at, if self.at >= self.bytes.len() { "the text ends too early" } else { what }))
    }

    fn end(&mut self) -> Scan<'a> {
        self.space();
        if self.at < self.bytes.len() { self.fail("there is more after the value") } else { Ok(()) }
    }

    /// Scans the value here and notes where it stands.
    fn note(&mut self, place: &mut Option<Span>) -> Scan<'a> {
        let start = self.at;
        self.value()?;
        self.doubled |= place.is_some();
        *place = Some(start..self.at);
        Ok(())
    }

    /// Passes over a member that nothing is routed by, unless it is one of those in another spelling.
    fn other(&mut self, key: &str, place: Place) -> Scan<'a> {
        if self.strict
            && let Some(right) = respelled(key, place.known())
        {
            let at = place.known().iter().position(|(name, _)| *name == right);
            self.respelled[place as usize] |= 1 << at.unwrap_or(0);
        }
        self.value()
    }

    /// The members of a place that were found in another spelling.
    fn respelled_in(&self, place: Place) -> impl Iterator<Item = &'static str> {
        let found = self.respelled[place as usize];
        let all = place.known().iter().enumerate();
        all.filter(move |(at, _)| found & (1 << at) != 0).map(|(_, (name, _))| *name)
    }

    fn params(&mut self, found: &mut Found) -> Scan<'a> {
        self.object(|s, key| match key.as_ref() {
            "requestId" => s.note(&mut found.request_id),
            "progressToken" => s.note(&mut found.token),
            "uri" => s.note(&mut found.uri),
            "task" => s.note(&mut found.task),
            "protocolVersion" => s.note(&mut found.protocol_version),
            "name" => s.note(&mut found.name),
            "arguments" => s.note(&mut found.arguments),
            "taskId" => s.note(&mut found.task_id),
            "_meta" => {
                let start = s.at;
                s.doubled |= found.meta.is_some();
                if s.peek() == Some(b'{') {
                    s.object(|s, key| match key.strip_prefix(MODERN) {
                        None if key == "progressToken" => s.note(&mut found.meta_token),
                        Some("protocolVersion") => s.note(&mut found.modern.version),
                        Some("clientCapabilities") => s.note(&mut found.modern.capabilities),
                        Some("logLevel") => s.note(&mut found.modern.log_level),
                        Some("subscriptionId") => s.note(&mut found.modern.subscription),
                        // Each request has it, and it is like none of these.
                        Some("clientInfo") => s.value(),
                        _ => s.other(key, Place::Meta),
                    })?;
                } else {
                    s.value()?;
                }
                found.meta = Some(start..s.at);
                Ok(())
            }
            "ref" => {
                s.doubled |= std::mem::replace(&mut found.referred, true);
                if s.peek() != Some(b'{') {
                    return s.value();
                }
                s.object(|s, key| match key.as_ref() {
                    "type" => s.note(&mut found.reference.kind),
                    "name" => s.note(&mut found.reference.name),
                    "uri" => s.note(&mut found.reference.uri),
                    _ => s.other(key, Place::Reference),
                })
            }
            _ => s.other(key, Place::Params),
        })
    }

    /// Walks the members of the object here; `member` must consume the value.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &Cow<'a, str>) -> Scan<'a>) -> Scan<'a> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let start = self.at;
            let escaped = self.string()?;
            let raw = &self.text[start..self.at];
            self.unclear_name |= escaped && unescaped(raw).is_none();
            let key = if escaped { decode(raw) } else { Cow::Borrowed(&raw[1..raw.len() - 1]) };
            self.colon()?;
            member(self, &key)?;
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail("expected ',' or '}'"),
            }
        }
    }

    fn colon(&mut self) -> Scan<'a> {
        self.space();
        if self.peek() != Some(b':') {
            return self.fail("expected ':'");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// Any value, without recursion: one bit for each level says whether it is an object.
    fn value(&mut self) -> Scan<'a> {
        let mut objects = [0u64; MAX_DEPTH / 64];
        let mut depth = 0;
        loop {
            // A value begins here.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    // Three levels of the envelope itself may stand around this value.
                    if depth >= MAX_DEPTH - 3 {
                        return self.fail("nested too deeply");
                    }
                    let object = open == b'{';
                    let (word, bit) = (depth / 64, 1u64 << (depth % 64));
                    if object {
                        objects[word] |= bit
                    } else {
                        objects[word] &= !bit
                    }
                    self.at += 1;
                    self.space();
                    if self.peek() == Some(if object { b'}' } else { b']' }) {
                        self.at += 1;
                    } else {
                        depth += 1;
                        if object {
                            self.string()?;
                            self.colon()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => drop(self.string()?),
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return self.fail("expected a value"),
            }
            // A value ended here: close what closes, go on where there is a comma.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let object = objects[(depth - 1) / 64] & (1 << ((depth - 1) % 64)) != 0;
                self.space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.space();
                        if object {
                            self.string()?;
                            self.colon()?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ => return self.fail("expected ',' or a closing bracket"),
                }
                self.at += 1;
                depth -= 1;
            }
        }
    }

    fn word(&mut self, word: &'static str) -> Scan<'a> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Scan<'a> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.fail("expected a digit"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Scan<'a> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.fail("expected a digit") } else { Ok(()) }
    }

    /// A string; true if there is an escape in it.
    fn string(&mut self) -> Result<bool, Fault<'a>> {
        if self.peek() != Some(b'"') {
            return self.fail("expected a string");
        }
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_run(&self.bytes[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    self.at += 1;
                    escaped = true;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            let hex = self.bytes.get(self.at + 1..self.at + 5).unwrap_or(&[]);
                            if hex.len() < 4 || !hex.iter().all(u8::is_ascii_hexdigit) {
                                return self.fail("expected four hexadecimal digits");
                            }
                            self.at += 5;
                        }
                        _ => return self.fail("unknown escape"),
                    }
                }
                _ => return self.fail("a control character stands in a string"),
            }
        }
    }
}

/// So much of a long string is looked at together.
const BLOCK: usize = 64;

/// How many bytes from here on are neither a quote, a backslash nor a control character.
fn plain_run(bytes: &[u8]) -> usize {
    let near = plain_words(&bytes[..bytes.len().min(BLOCK)]);
    if near < BLOCK {
        return near;
    }
    // Without a way out in its middle, the loop over a block is done by the wide instructions of the processor.
    let ends = |block: &[u8]| block.iter().fold(false, |ends, b| ends | (*b == b'"') | (*b == b'\\') | (*b < 0x20));
    let plain = bytes[BLOCK..].chunks_exact(BLOCK).take_while(|block| !ends(block)).count();
    let at = BLOCK + plain * BLOCK;
    at + plain_words(&bytes[at..])
}

/// As [`plain_run`], eight bytes at a time.
fn plain_words(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_byte = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
    let mut at = 0;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let Ok(eight) = <[u8; 8]>::try_from(chunk) else { break };
        let word = u64::from_le_bytes(eight);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let stop = control | zero_byte(word ^ (ONES * b'"' as u64)) | zero_byte(word ^ (ONES * b'\\' as u64));
        if stop != 0 {
            // A borrow can only flag bytes above the first real one, so the lowest flag is right.
            return at + (stop.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + chunks.remainder().iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..=0x1f)).count()
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
