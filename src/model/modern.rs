//! The modern era: revision 2026-07-28, without sessions, every request complete in itself.
//!
//! Pure: what a request must carry (basic/index, basic/transports/streamable-http), and how messages of the two eras are
//! turned into each other where a child speaks the other one (mcpdaemon(7), "Which era a child speaks").

use std::borrow::Cow;
use std::collections::HashMap;

use super::envelope::{Envelope, Span, add_meta, batch, decode, member, members, quote, spliced, unescaped};
use super::jsonrpc::{INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND};
use super::mcp;
use super::method;
use super::spelling::same_letters;

/// The one revision of this era.
/// The member of `_meta` in which a client says what it is.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
pub const VERSION: &str = "2026-07-28";
/// A header and the body differ, or a header is missing.
pub const HEADER_MISMATCH: i32 = -32020;
/// The request needs a capability that its client does not declare.
pub const MISSING_CAPABILITY: i32 = -32021;
/// The version that the request names is not spoken here.
pub const UNSUPPORTED_VERSION: i32 = -32022;
/// What results that may be cached say when it is not known how long.
const UNCACHED: &str = r#""ttlMs":0,"cacheScope":"private","#;

/// The most resources of one subscription.
const URIS: usize = 1000;

/// The two eras of the protocol (2026-07-28 basic/versioning): with a handshake and sessions, up to 2025-11-25, and
/// stateless, from 2026-07-28 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Legacy,
    Modern,
}

/// Why a request is not passed on. It says so with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i32,
    pub message: String,
    /// JSON text.
    pub data: Option<String>,
}

impl Refusal {
    fn new(code: i32, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), data: None }
    }

    /// As an answer to the request with this id.
    pub fn text(&self, id: Option<&str>) -> String {
        let data = self.data.as_ref().map_or(String::new(), |d| format!(",\"data\":{d}"));
        format!(
            r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{},"message":{}{data}}}}}"#,
            id.unwrap_or("null"),
            self.code,
            quote(&self.message)
        )
    }
}

/// The HTTP status of an error (basic/transports/streamable-http); 200 for what is an affair of the application.
pub fn http_status(code: i32) -> u16 {
    match code {
        METHOD_NOT_FOUND => 404,
        HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION => 400,
        _ => 200,
    }
}

/// The code of a message that is an error.
pub fn error_code(text: &str) -> Option<i32> {
    member(member(text, "error")?, "code")?.parse().ok()
}

/// Whether a message claims to be of this era, well formed or not (basic/versioning).
pub fn claimed(e: &Envelope<'_>) -> bool {
    e.modern.version.is_some()
}

/// Whether a version is of this era or a later one.
pub fn is_modern(version: &str) -> bool {
    let dated = version.len() == 10 && version.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    dated && version >= VERSION
}

/// What every request must carry.
pub fn check_meta(e: &Envelope<'_>) -> Result<(), Refusal> {
    let needed = [("protocolVersion", &e.modern.version, '"'), ("clientCapabilities", &e.modern.capabilities, '{')];
    for (name, span, first) in needed {
        match e.get(span) {
            Some(value) if value.starts_with(first) => {}
            Some(_) => {
                let text = format!("params._meta[\"io.modelcontextprotocol/{name}\"] is of the wrong type");
                return Err(Refusal::new(INVALID_PARAMS, text));
            }
            None => {
                let text = format!("params._meta[\"io.modelcontextprotocol/{name}\"] is missing");
                return Err(Refusal::new(INVALID_PARAMS, text));
            }
        }
    }
    Ok(())
}

/// The version must be one that is spoken here.
pub fn check_version(e: &Envelope<'_>) -> Result<(), Refusal> {
    let version = e.get(&e.modern.version).map(decode).unwrap_or_default();
    if version == VERSION {
        return Ok(());
    }
    let mut refusal = Refusal::new(UNSUPPORTED_VERSION, format!("unsupported protocol version; supported: {VERSION}"));
    refusal.data = Some(format!(r#"{{"supported":["{VERSION}"],"requested":{}}}"#, quote(&version)));
    Err(refusal)
}

/// The answer of a server that speaks this era alone to a client of the legacy one.
pub fn only(asked: Option<&str>) -> Refusal {
    let text = format!("this server speaks revision {VERSION} alone, which has no 'initialize' and no sessions");
    let mut refusal = Refusal::new(UNSUPPORTED_VERSION, text);
    refusal.data = Some(format!(r#"{{"supported":["{VERSION}"],"requested":{}}}"#, asked.unwrap_or("null")));
    refusal
}

/// Methods of the legacy era that this one has removed are answered here, whatever a child thinks of them.
pub fn check_method(e: &Envelope<'_>) -> Result<(), Refusal> {
    const REMOVED: [&str; 7] = [
        method::INITIALIZE,
        method::PING,
        method::SET_LEVEL,
        method::RESOURCES_SUBSCRIBE,
        method::RESOURCES_UNSUBSCRIBE,
        method::TASKS_LIST,
        method::TASKS_RESULT,
    ];
    // A request named like a notification: a child that tells messages apart by their names would act on it.
    match REMOVED.contains(&e.method.as_ref()) || method::is_notification(&e.method) {
        true => Err(Refusal::new(METHOD_NOT_FOUND, format!("there is no '{}' in revision {VERSION}", e.method))),
        false => Ok(()),
    }
}

/// The headers that repeat parts of the body must agree with it. `header` gives the values of a header field, without
/// surrounding blanks.
pub fn check_headers<'h>(e: &Envelope<'_>, header: &dyn Fn(&str) -> Field<'h>) -> Result<(), Refusal> {
    let version = e.get(&e.modern.version).map(decode).unwrap_or_default();
    same("MCP-Protocol-Version", header, &version)?;
    same("Mcp-Method", header, &e.method)?;
    let name = match e.method.as_ref() {
        method::TOOLS_CALL | method::PROMPTS_GET => &e.name,
        method::RESOURCES_READ => &e.uri,
        method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL => &e.task_id,
        _ => return Ok(()),
    };
    // What is no text may be one to the server.
    match e.get(name).and_then(unescaped) {
        Some(name) => same("Mcp-Name", header, &name),
        None => Err(Refusal::new(HEADER_MISMATCH, "Mcp-Name: the body has no such text".to_owned())),
    }
}

/// What a request says in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'h> {
    Missing,
    Once(&'h [u8]),
    Several,
}

fn same<'h>(name: &str, header: &dyn Fn(&str) -> Field<'h>, body: &str) -> Result<(), Refusal> {
    let differs = |what: &str| Err(Refusal::new(HEADER_MISMATCH, format!("{name}: {what}")));
    match header(name) {
        Field::Missing => differs("the header is missing"),
        Field::Once(value) => match header_value(value) {
            Some(value) if value == body => Ok(()),
            Some(_) => differs("the header and the body differ"),
            None => differs("the header's value is not valid"),
        },
        Field::Several => differs("the header is given more than once"),
    }
}

/// A header's value as text: `=?base64?...?=` is decoded, strictly.
fn header_value(value: &[u8]) -> Option<Cow<'_, str>> {
    match value.strip_prefix(b"=?base64?").and_then(|v| v.strip_suffix(b"?=")) {
        Some(encoded) => String::from_utf8(data_encoding::BASE64.decode(encoded).ok()?).ok().map(Cow::Owned),
        None => std::str::from_utf8(value).ok().map(Cow::Borrowed),
    }
}

/// For each tool, which of its arguments are repeated in which `Mcp-Param-` header: the header's name behind the prefix
/// and the path of the argument.
pub type ParamHeaders = HashMap<String, Vec<(String, Vec<String>)>>;

/// No tool is described in more bytes than this, if it is described at all.
const TOOL: usize = 4 << 20;

/// Adds what a `tools/list` result says of them.
pub fn param_headers(result: &str, into: &mut ParamHeaders) {
    // A list may be as long as `limits.reply`; as a tree it would take ten times as much, so there is one for each tool that
    // has to be looked into.
    for text in member(result, "tools").and_then(batch).into_iter().flatten() {
        let marked = text.contains("x-mcp-header") || text.contains("\\u");
        if !marked || text.len() > TOOL {
            continue;
        }
        let Ok(tool) = serde_json::from_str::<serde_json::Value>(text) else { continue };
        let Some(name) = tool["name"].as_str() else { continue };
        let mut found = Vec::new();
        walk(&tool["inputSchema"], &mut Vec::new(), &mut found);
        if !found.is_empty() {
            into.insert(name.to_owned(), found);
        }
    }
}

fn walk(schema: &serde_json::Value, path: &mut Vec<String>, found: &mut Vec<(String, Vec<String>)>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        if let Some(header) = property["x-mcp-header"].as_str() {
            found.push((header.to_owned(), path.clone()));
        }
        if path.len() < 16 {
            walk(property, path, found);
        }
        path.pop();
    }
}

/// The one member of an object with this name. An error where programs could take two for it.
fn single_member<'j>(json: &'j str, key: &str) -> Result<Option<&'j str>, ()> {
    if !json.starts_with('{') {
        return if json == "null" { Ok(None) } else { Err(()) };
    }
    let mut found = members(json).into_iter().filter(|(k, _)| same_letters(k, key));
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some((name, span)), None) if name == key => Ok(Some(&json[span])),
        _ => Err(()),
    }
}

/// The `Mcp-Param-` headers of a call of this tool must agree with its arguments.
pub fn check_params<'h>(
    e: &Envelope<'_>,
    tool: &str,
    known: &ParamHeaders,
    header: &dyn Fn(&str) -> Field<'h>,
) -> Result<(), Refusal> {
    let Some(expected) = known.get(tool) else { return Ok(()) };
    for (suffix, path) in expected {
        let field = format!("Mcp-Param-{suffix}");
        let mut argument = e.get(&e.arguments);
        for key in path {
            let Some(at) = argument else { break };
            argument = single_member(at, key).map_err(|()| {
                let text = format!(
                    "{field}: the argument '{key}' stands in the body twice, in another spelling, or not in an object"
                );
                Refusal::new(HEADER_MISMATCH, text)
            })?;
        }
        match argument.filter(|a| *a != "null") {
            None if header(&field) == Field::Missing => {}
            None => return Err(Refusal::new(HEADER_MISMATCH, format!("{field}: the body has no such argument"))),
            Some(text) if text.starts_with('"') => same(&field, header, &decode(text))?,
            Some(number) => {
                // 42 and 42.0 are the same integer.
                let equal = match header(&field) {
                    Field::Once(value) => header_value(value).is_some_and(|v| {
                        v == number || matches!((v.parse::<f64>(), number.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
                    }),
                    _ => false,
                };
                if !equal {
                    return Err(Refusal::new(HEADER_MISMATCH, format!("{field}: the header and the body differ")));
                }
            }
        }
    }
    Ok(())
}

/// The `_meta` of the daemon's own requests.
pub fn own_meta(version: &str) -> String {
    format!(
        concat!(
            r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{}","#,
            r#""io.modelcontextprotocol/clientCapabilities":{},"#,
            r#""io.modelcontextprotocol/clientInfo":{{"name":"mcpdaemon","version":"{}"}}}}}}"#
        ),
        VERSION,
        mcp::CAPABILITIES,
        version
    )
}

/// A request of the legacy era as one of this era, from a client without any capabilities.
pub fn with_meta(e: &Envelope<'_>, version: &str) -> String {
    let own = own_meta(version);
    let own = member(&own, "_meta").unwrap_or("{}");
    add_meta(e, &own[1..own.len() - 1]).unwrap_or_else(|| e.text().to_owned())
}

/// The extension of tasks (SEP-2663).
const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Whether the client of a request takes a task for an answer.
pub fn takes_tasks(e: &Envelope<'_>) -> bool {
    e.get(&e.modern.capabilities).is_some_and(|capabilities| capabilities.contains(TASKS))
}

/// The id of the task that a result is.
pub fn task_begun(result: Option<&str>) -> Option<String> {
    let result = result?;
    if member(result, "resultType")? != "\"task\"" {
        return None;
    }
    let id = member(result, "taskId").or_else(|| member(member(result, "task")?, "taskId"))?;
    unescaped(id).map(std::borrow::Cow::into_owned)
}

/// A request whose client takes no task for an answer, as far as the server hears; None where it takes none anyway.
pub fn without_tasks(e: &Envelope<'_>) -> Option<String> {
    let span = e.modern.capabilities.clone().filter(|_| takes_tasks(e))?;
    let capabilities = &e.text()[span.clone()];
    let (_, outer) = members(capabilities).into_iter().find(|(key, _)| key == "extensions")?;
    let extensions = &capabilities[outer.clone()];
    let kept = members(extensions).into_iter().filter(|(key, _)| key != TASKS);
    let kept: Vec<String> = kept.map(|(key, span)| format!("{}:{}", quote(&key), &extensions[span])).collect();
    let place = span.start + outer.start..span.start + outer.end;
    Some(spliced(e.text(), &[(place, &format!("{{{}}}", kept.join(",")))]))
}

/// What a child said of itself in its answer to `server/discover`; None unless it names this revision: that it
/// answered at all proves nothing.
pub fn discovered(result: &str) -> Option<mcp::ServerInfo> {
    let versions: Vec<String> = serde_json::from_str(member(result, "supportedVersions")?).ok()?;
    if !versions.iter().any(|v| v == VERSION) {
        return None;
    }
    let capabilities = member(result, "capabilities").unwrap_or("{}");
    let info = member(result, "_meta").and_then(|m| member(m, "io.modelcontextprotocol/serverInfo"));
    Some(mcp::ServerInfo {
        revision: VERSION.to_owned(),
        capabilities: members(capabilities)
            .into_iter()
            .map(|(k, v)| (k.into_owned(), capabilities[v].to_owned()))
            .collect(),
        server_info: info.unwrap_or(r#"{"name":"","version":""}"#).to_owned(),
        instructions: member(result, "instructions").map(str::to_owned),
    })
}

/// `server/discover` in the words of a legacy child: what it said in its handshake. Log messages and tasks have no owner
/// on a shared child.
pub fn discover_result(info: &mcp::ServerInfo) -> String {
    let capabilities: Vec<String> = info
        .capabilities
        .iter()
        .filter(|(k, _)| !matches!(k.as_str(), "logging" | "tasks"))
        .map(|(k, v)| format!("{}:{v}", quote(k)))
        .collect();
    let instructions = info.instructions.as_ref().map_or(String::new(), |t| format!(",\"instructions\":{t}"));
    format!(
        r#"{{"resultType":"complete",{UNCACHED}"supportedVersions":["{VERSION}"],"capabilities":{{{}}}{instructions},"_meta":{{"io.modelcontextprotocol/serverInfo":{}}}}}"#,
        capabilities.join(","),
        info.server_info
    )
}

/// The request's `_meta` for a legacy child: without what only this era knows, and with the daemon's progress token.
pub fn legacy_meta(meta: &str, token: Option<&str>) -> String {
    let mut kept = String::from("{");
    for (key, span) in members(meta) {
        if key.starts_with("io.modelcontextprotocol/") {
            continue;
        }
        if kept.len() > 1 {
            kept.push(',');
        }
        kept.push_str(&quote(&key));
        kept.push(':');
        kept.push_str(token.filter(|_| key == "progressToken").unwrap_or(&meta[span]));
    }
    kept.push('}');
    kept
}

/// For how long, and for whom, an answer may be kept (utilities/caching).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    pub millis: u64,
    /// All clients would get the same.
    pub public: bool,
}

impl Fresh {
    /// A list that its server tells of when it changes, and one that it does not tell of.
    const TOLD: u64 = 5 * 60 * 1000;
    const UNTOLD: u64 = 10 * 1000;

    /// How long the answer of a shared child may be kept, and by whom. `alone` says that all clients see the same.
    pub fn of(method: &str, info: Option<&mcp::ServerInfo>, alone: bool) -> Fresh {
        let capability = match method {
            method::TOOLS_LIST => "tools",
            method::PROMPTS_LIST => "prompts",
            method::RESOURCES_LIST | method::TEMPLATES_LIST => "resources",
            // What a resource holds is not known.
            _ => return Fresh::default(),
        };
        let tells = info.and_then(|info| info.capabilities.get(capability)).and_then(|c| member(c, "listChanged"));
        Fresh { millis: if tells == Some("true") { Fresh::TOLD } else { Fresh::UNTOLD }, public: alone }
    }
}

/// A legacy child's answer to `method` as one of this era; `id` is the client's.
pub fn answer(e: &Envelope<'_>, id: &str, method: &str, server_info: &str, fresh: Fresh) -> String {
    let Some(own) = e.id.clone() else { return String::new() };
    let mut changes: Vec<(Span, String)> = vec![(own, id.to_owned())];
    if let Some(result) = e.result.clone().filter(|r| e.text()[r.clone()].starts_with('{')) {
        let cached = matches!(
            method,
            method::TOOLS_LIST
                | method::PROMPTS_LIST
                | method::RESOURCES_LIST
                | method::TEMPLATES_LIST
                | method::RESOURCES_READ
        );
        let text = &e.text()[result.clone()];
        let all = members(text);
        let info = ["\"io.modelcontextprotocol/serverInfo\":", server_info].concat();
        let mut begin = String::with_capacity(64 + info.len());
        begin.push('{');
        let mut add = |key: &str, value: &str| {
            if !all.iter().any(|(k, _)| k == key) {
                ["\"", key, "\":", value, ","].iter().for_each(|part| begin.push_str(part));
            }
        };
        add("resultType", "\"complete\"");
        if cached {
            add("ttlMs", &fresh.millis.to_string());
            add("cacheScope", if fresh.public { "\"public\"" } else { "\"private\"" });
        }
        let meta = all.iter().find(|(key, span)| key == "_meta" && text[span.clone()].starts_with('{'));
        match meta {
            Some((_, span)) => {
                let (at, known) = (result.start + span.start, members(&text[span.clone()]));
                if !known.iter().any(|(key, _)| key == "io.modelcontextprotocol/serverInfo") {
                    changes.push((at..at + 1, format!("{{{info}{}", if known.is_empty() { "" } else { "," })));
                }
            }
            None => ["\"_meta\":{", &info, "},"].iter().for_each(|part| begin.push_str(part)),
        }
        if all.is_empty() && begin.ends_with(',') {
            begin.pop();
        }
        changes.push((result.start..result.start + 1, begin));
    } else if let Some(error) = e.error.clone() {
        let text = &e.text()[error.clone()];
        if let Some((_, span)) = members(text).into_iter().find(|(key, _)| key == "code") {
            // Codes that this revision has taken back (changelog): not found is a matter of the parameters.
            let code = match &text[span.clone()] {
                "-32002" => Some(INVALID_PARAMS),
                "-32042" => Some(INTERNAL_ERROR),
                other => other.parse::<i32>().ok().filter(|c| (-32099..=-32020).contains(c)).map(|_| INTERNAL_ERROR),
            };
            if let Some(code) = code {
                changes.push((error.start + span.start..error.start + span.end, code.to_string()));
            }
        }
    }
    changes.sort_by_key(|(span, _)| span.start);
    let borrowed: Vec<(Span, &str)> = changes.iter().map(|(span, text)| (span.clone(), text.as_str())).collect();
    spliced(e.text(), &borrowed)
}

/// A notification, tagged with the subscription that it belongs to (patterns/subscriptions). `text` is a whole message.
pub fn tagged(text: &str, subscription: &str) -> String {
    let tag = format!("\"io.modelcontextprotocol/subscriptionId\":{subscription}");
    let all = members(text);
    let params = all.iter().find(|(key, _)| key == "params");
    if let Some((_, params)) = params.filter(|(_, span)| !text[span.clone()].starts_with('{')) {
        // There is room for nothing in a list or in null.
        return spliced(text, &[(params.clone(), &format!("{{\"_meta\":{{{tag}}}}}"))]);
    }
    let Some((_, params)) = params else {
        // Before the closing brace.
        let end = text.rfind('}').unwrap_or(text.len());
        return format!("{},\"params\":{{\"_meta\":{{{tag}}}}}}}", text[..end].trim_end());
    };
    let inner = members(&text[params.clone()]);
    let meta = inner.iter().find(|(key, span)| key == "_meta" && text[params.start + span.start..].starts_with('{'));
    let (at, added, empty) = match meta {
        Some((_, span)) => {
            let meta = params.start + span.start..params.start + span.end;
            (meta.start, tag, members(&text[meta]).is_empty())
        }
        None => (params.start, format!("\"_meta\":{{{tag}}}"), inner.is_empty()),
    };
    spliced(text, &[(at..at + 1, &format!("{{{added}{}", if empty { "" } else { "," }))])
}

/// What a subscription asks for.
#[derive(serde::Serialize, serde::Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
    /// In order, none twice.
    pub uris: Vec<String>,
}

impl Filter {
    /// Reads the params of `subscriptions/listen`.
    pub fn read(params: &str) -> Result<Filter, Refusal> {
        #[derive(serde::Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Wire {
            tools_list_changed: bool,
            prompts_list_changed: bool,
            resources_list_changed: bool,
            resource_subscriptions: Vec<String>,
        }
        let wrong = || Refusal::new(INVALID_PARAMS, "params.notifications says what to listen for");
        let asked = member(params, "notifications").ok_or_else(wrong)?;
        let wire: Wire = serde_json::from_str(asked).map_err(|_| wrong())?;
        if wire.resource_subscriptions.len() > URIS || wire.resource_subscriptions.iter().any(|u| u.len() > 8 << 10) {
            let text = format!("a subscription is for {URIS} resources at most, with URIs of a usual length");
            return Err(Refusal::new(INVALID_PARAMS, text));
        }
        let mut uris = wire.resource_subscriptions;
        uris.sort_unstable();
        uris.dedup();
        Ok(Filter {
            tools: wire.tools_list_changed,
            prompts: wire.prompts_list_changed,
            resources: wire.resources_list_changed,
            uris,
        })
    }

    /// The acknowledgement: what of it is honoured.
    pub fn acknowledged(&self, subscription: &str) -> String {
        let mut honoured = Vec::new();
        for (wanted, name) in [
            (self.tools, "toolsListChanged"),
            (self.prompts, "promptsListChanged"),
            (self.resources, "resourcesListChanged"),
        ] {
            if wanted {
                honoured.push(format!("\"{name}\":true"));
            }
        }
        if !self.uris.is_empty() {
            let uris: Vec<String> = self.uris.iter().map(|u| quote(u)).collect();
            honoured.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        let text = format!(
            r#"{{"jsonrpc":"2.0","method":"{}","params":{{"notifications":{{{}}}}}}}"#,
            method::ACKNOWLEDGED,
            honoured.join(",")
        );
        tagged(&text, subscription)
    }

    /// Whether it asks for changes of this resource.
    pub fn has(&self, uri: &str) -> bool {
        self.uris.binary_search_by(|u| u.as_str().cmp(uri)).is_ok()
    }

    /// Whether it asks for changes of this list.
    pub fn wants_list(&self, list: &str) -> bool {
        match list {
            "tools" => self.tools,
            "prompts" => self.prompts,
            "resources" => self.resources,
            _ => false,
        }
    }
}

/// The members of the last message of a subscription, its result.
pub fn listen_result(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
    )
}

#[cfg(test)]
#[path = "modern_tests.rs"]
mod tests;
