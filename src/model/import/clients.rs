//! Where a client keeps its servers in its file.
//!
//! Known are Claude Desktop, Claude Code (also `.claude.json` with its `projects`), Cursor, Windsurf, Cline and others
//! with `mcpServers`; VS Code (`servers` with `inputs`, also as a part of its settings); Zed (`context_servers`); Codex
//! (`mcp_servers`); Gemini CLI; opencode and Crush (`mcp`); Amp (`amp.mcpServers`); and MCP Foxxy Bridge.

use crate::model::import::values::{Dialect, Values};
use crate::model::jsonc::{Document, Node, Wrong};

/// What a file holds.
pub(super) struct Found<'a> {
    pub values: Values<'a>,
    pub servers: Vec<Server<'a>>,
    /// The section `bridge` of MCP Foxxy Bridge.
    pub bridge: Option<Node<'a>>,
    /// Keys of the file that are not about servers.
    pub rest: Vec<String>,
    /// Where the servers stand, for a message about all of them.
    pub place: Node<'a>,
}

/// A server as the file has it.
pub(super) struct Server<'a> {
    pub name: String,
    pub node: Node<'a>,
    /// The folder of the project it belongs to.
    pub project: Option<String>,
    /// The client was told elsewhere in the file not to use it.
    pub excluded: bool,
}

type Members<'a> = Vec<(String, Node<'a>)>;

fn get<'a>(all: &Members<'a>, name: &str) -> Option<Node<'a>> {
    all.iter().find(|(n, _)| n == name).map(|(_, node)| *node)
}

/// Finds the servers; `file` is the name of the file, which tells some clients from others.
pub(super) fn find<'a>(file: &str, document: &'a Document) -> Result<Found<'a>, Wrong> {
    let root = document.root()?;
    let members = document.object(root, "the file")?;
    let name = file.rsplit('/').next().unwrap_or(file);
    let mcp = get(&members, "mcp").and_then(|node| document.object(node, "'mcp'").ok());
    let is_server = |node: Node<'a>| {
        let inside = document.object(node, "").unwrap_or_default();
        ["command", "url", "httpUrl"].iter().any(|key| get(&inside, key).is_some())
    };
    let mut maps: Vec<(Node<'a>, Option<String>)> = Vec::new();
    let mut used = vec!["mcpServers", "servers", "inputs", "context_servers", "mcp_servers", "amp.mcpServers"];
    for key in ["mcpServers", "servers", "context_servers", "mcp_servers", "amp.mcpServers"] {
        maps.extend(get(&members, key).map(|node| (node, None)));
    }
    let mut inputs = get(&members, "inputs");
    let mut dialect = Dialect::Editor;
    if let Some(mcp) = &mcp {
        if let Some(node) = get(mcp, "servers").or(get(mcp, "mcpServers")) {
            maps.push((node, None));
            inputs = inputs.or(get(mcp, "inputs"));
            used.push("mcp");
        } else if mcp.iter().any(|(_, node)| is_server(*node)) {
            maps.extend(get(&members, "mcp").map(|node| (node, None)));
            dialect = Dialect::Opencode;
            used.push("mcp");
        }
    }
    let projects = get(&members, "projects").and_then(|node| document.object(node, "'projects'").ok());
    for (folder, project) in projects.iter().flatten() {
        let project = document.object(*project, "a project").unwrap_or_default();
        maps.extend(get(&project, "mcpServers").map(|node| (node, Some(folder.clone()))));
    }
    let bridge = get(&members, "bridge").filter(|node| node.written().starts_with('{'));
    if projects.is_some() || matches!(name, ".mcp.json" | ".claude.json") {
        dialect = Dialect::Braces(":-");
        used.push("projects");
    } else if bridge.is_some() {
        dialect = Dialect::Braces(":");
        used.push("bridge");
    } else if file.contains(".gemini/") || members.iter().any(|(key, _)| key == "selectedAuthType") {
        dialect = Dialect::Shell;
    }
    if maps.is_empty() && !members.is_empty() && members.iter().all(|(_, node)| is_server(*node)) {
        // The servers alone, as instructions of servers have them.
        maps.push((root, None));
        used.extend(members.iter().map(|(key, _)| key.as_str()));
    }
    let Some((place, _)) = maps.first().cloned() else {
        let what = "no servers are found in it: 'mcpServers' (Claude, Cursor, Gemini and others), 'servers' (VS Code), \
                    'context_servers' (Zed), 'mcp_servers' (Codex) and 'mcp' (opencode) are known";
        return Err(document.wrong(root, what));
    };
    let mut values = Values::new(document, dialect);
    if let Some(inputs) = inputs {
        for node in document.list(inputs, "'inputs'")? {
            values.input(node)?;
        }
    }
    // Gemini CLI says beside the servers which of them it uses.
    let names = |key: &str| -> Option<Vec<String>> {
        let list = document.list(get(mcp.as_ref()?, key)?, "").ok()?;
        Some(list.into_iter().filter_map(|node| document.string(node, "").ok()).collect())
    };
    let (allowed, excluded) = (names("allowed"), names("excluded").unwrap_or_default());
    let mut servers = Vec::new();
    for (map, project) in maps {
        for (name, node) in document.object(map, "the servers")? {
            let excluded = excluded.contains(&name) || allowed.as_ref().is_some_and(|all| !all.contains(&name));
            servers.push(Server { name, node, project: project.clone(), excluded });
        }
    }
    let rest = members.iter().map(|(key, _)| key).filter(|key| !used.contains(&key.as_str()) && !key.starts_with('$'));
    Ok(Found { values, servers, bridge, rest: rest.cloned().collect(), place })
}
