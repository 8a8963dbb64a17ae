//! What the Model Context Protocol fixes: revisions, and the handshake of the legacy era.
//!
//! Rules cite the specification by revision, e.g. 2025-11-25 basic/lifecycle.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::model::envelope::{decode, member};
use crate::model::text::printable;

/// Legacy revisions, oldest first.
pub const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// A draft of the first revision, which the SDKs take for it still; it differs in nothing that passes here.
const DRAFT: &str = "2024-10-07";
/// The newest revision with a handshake: what the daemon asks its children for.
pub const LATEST: &str = "2025-11-25";

/// What a child said of itself in its `initialize` result; values are JSON text as it sent them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerInfo {
    pub revision: String,
    pub capabilities: BTreeMap<String, String>,
    pub server_info: String,
    pub instructions: Option<String>,
}

/// What the daemon says that its clients can: to show pages of apps (SEP-1865), which asks nothing of anybody. A child that
/// hears nothing of that has no tools with pages.
pub const CAPABILITIES: &str =
    r#"{"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}}}"#;

/// The `initialize` request of the daemon to a shared child: it declares nothing that would let the child ask a client for
/// something, because a shared child's requests could not be told apart by client.
pub fn initialize_params(version: &str) -> String {
    format!(
        r#"{{"protocolVersion":"{LATEST}","capabilities":{CAPABILITIES},"clientInfo":{{"name":"mcpdaemon","version":"{version}"}}}}"#
    )
}

/// The revision that a client asks for in the params of its `initialize`, if it is one that exists.
pub fn asked_revision(params: &str) -> Option<&'static str> {
    let asked = decode(member(params, "protocolVersion")?);
    REVISIONS.into_iter().find(|known| *known == asked)
}

/// What a client says it is, in a few words: `clientInfo` as it stands in a message, its name and version. Empty where it
/// has no name.
pub fn client_name(info: &str) -> String {
    let word = |key| serde_json::from_str::<String>(member(info, key)?).ok();
    let name = word("name").unwrap_or_default();
    match word("version").filter(|version| !name.is_empty() && !version.is_empty()) {
        Some(version) => printable(&format!("{name} {version}"), CLIENT),
        None => printable(&name, CLIENT),
    }
}

/// A client's name is no longer here, in bytes.
const CLIENT: usize = 80;

/// A server says no more of itself, in bytes: each client is told all of it.
const LONGEST: usize = 1 << 20;

/// Reads the result of `initialize`.
pub fn server_info(result: &str) -> Result<ServerInfo, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        protocol_version: String,
        #[serde(borrow)]
        capabilities: Option<&'a RawValue>,
        #[serde(borrow)]
        server_info: Option<&'a RawValue>,
        #[serde(borrow)]
        instructions: Option<&'a RawValue>,
    }
    if result.len() > LONGEST {
        return Err(format!("its answer to the handshake is longer than {} KiB", LONGEST >> 10));
    }
    let wire: Wire<'_> =
        serde_json::from_str(result).map_err(|e| format!("its answer to 'initialize' is not valid: {e}"))?;
    let revision = match wire.protocol_version.as_str() {
        DRAFT => REVISIONS[0].to_owned(),
        known if REVISIONS.contains(&known) => wire.protocol_version,
        other => return Err(format!("it speaks revision '{other}', which is not supported")),
    };
    // An empty object is written as null or as a list in some languages.
    let given = wire.capabilities.map(RawValue::get).filter(|text| text.starts_with('{')).unwrap_or("{}");
    let capabilities = serde_json::from_str::<BTreeMap<String, &RawValue>>(given)
        .map_err(|e| format!("its answer to 'initialize' is not valid: {e}"))?
        .into_iter()
        .filter(|(_, value)| value.get() != "null")
        .map(|(key, value)| (key, value.get().to_owned()))
        .collect();
    Ok(ServerInfo {
        revision,
        capabilities,
        server_info: wire.server_info.map_or("{\"name\":\"\",\"version\":\"\"}".to_owned(), |v| v.get().to_owned()),
        instructions: wire.instructions.map(|v| v.get().to_owned()).filter(|t| t != "null"),
    })
}

impl ServerInfo {
    /// The answer to a client that shares the child with others.
    ///
    /// The revision is the one asked for if the child is at least that new (each revision only adds to the last),
    /// otherwise the child's own. `logging` and `tasks` are left out: a log message has no owner on a shared child, and
    /// tasks of one client could be listed by another.
    pub fn answer_shared(&self, asked: Option<&str>) -> (String, String) {
        let place = |r: &str| REVISIONS.iter().position(|k| *k == r);
        let own = place(&self.revision).unwrap_or(0);
        let revision = REVISIONS[asked.and_then(place).map_or(own, |a| a.min(own))];
        let capabilities: Vec<String> = self
            .capabilities
            .iter()
            .filter(|(k, _)| !matches!(k.as_str(), "logging" | "tasks"))
            .map(|(k, v)| match k.as_str() {
                "tools" | "prompts" | "resources" => format!("\"{k}\":{}", with_list_changed(v)),
                _ => format!("{}:{v}", crate::model::envelope::quote(k)),
            })
            .collect();
        let instructions = self.instructions.as_ref().map_or(String::new(), |t| format!(",\"instructions\":{t}"));
        let result = format!(
            r#"{{"protocolVersion":"{revision}","capabilities":{{{}}},"serverInfo":{}{instructions}}}"#,
            capabilities.join(","),
            self.server_info
        );
        (revision.to_owned(), result)
    }

    /// Whether the server has this capability.
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.contains_key(capability)
    }

    /// `name version`, for people.
    pub fn name(&self) -> String {
        #[derive(Deserialize, Default)]
        struct Info {
            #[serde(default)]
            name: String,
            #[serde(default)]
            version: String,
        }
        let info: Info = serde_json::from_str(&self.server_info).unwrap_or_default();
        crate::model::text::printable(&format!("{} {}", info.name, info.version), 200).trim().to_owned()
    }
}

/// A capability that says that its list may change: through the daemon it may, because a reload can replace the child.
fn with_list_changed(capability: &str) -> String {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(capability).unwrap_or_default();
    members.remove("listChanged");
    let others = members.iter().map(|(k, v)| format!(",{}:{v}", crate::model::envelope::quote(k)));
    format!("{{\"listChanged\":true{}}}", others.collect::<String>())
}

/// The params of `resources/subscribe` and `resources/unsubscribe`.
pub fn uri_params(uri: &str) -> String {
    format!(r#"{{"uri":{}}}"#, super::envelope::quote(uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draft_counts_as_the_first_revision() {
        let info = server_info(r#"{"protocolVersion":"2024-10-07","capabilities":{}}"#).unwrap();
        assert_eq!(info.revision, "2024-11-05");
    }

    const RESULT: &str = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":false,"n":1.0},"prompts":{},"logging":{},"x":9007199254740993},
        "serverInfo":{"name":"s","version":"1","title":"T"},"instructions":"do"}"#;

    #[test]
    fn the_revision_is_the_lower_of_both() {
        let info = server_info(RESULT).unwrap();
        for (asked, got) in [
            (Some("2024-11-05"), "2024-11-05"),
            (Some("2025-06-18"), "2025-06-18"),
            (Some("2025-11-25"), "2025-06-18"),
            (Some("1999-01-01"), "2025-06-18"),
            (None, "2025-06-18"),
        ] {
            assert_eq!(info.answer_shared(asked).0, got, "{asked:?}");
        }
    }

    #[test]
    fn a_shared_child_is_passed_on_without_what_has_no_owner() {
        let (_, answer) = server_info(RESULT).unwrap().answer_shared(None);
        assert_eq!(
            answer,
            r#"{"protocolVersion":"2025-06-18","capabilities":{"prompts":{"listChanged":true},"tools":{"listChanged":true,"n":1.0},"x":9007199254740993},"serverInfo":{"name":"s","version":"1","title":"T"},"instructions":"do"}"#
        );
        assert_eq!(server_info(RESULT).unwrap().name(), "s 1");
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        assert!(server_info("{}").is_err());
        assert!(
            server_info(r#"{"protocolVersion":"2026-07-28","capabilities":{}}"#).unwrap_err().contains("2026-07-28")
        );
        assert!(server_info(r#"{"protocolVersion":"2024-11-05","capabilities":{}}"#).is_ok());
    }
}
