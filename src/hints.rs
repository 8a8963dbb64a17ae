//! Commands to paste after a start, for those who see the program for the first time.

use std::path::Path;

use crate::model::config::server::Allow;
use crate::model::config::{Config, Kind};
use crate::model::status::reachable;
use crate::sys::paths;

/// Commands to paste after a start with `hints: true`.
pub(crate) fn hints(config: &Config, urls: &[String], run_dir: &Path) -> String {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("mcpctl")));
    let mut ctl = beside.filter(|p| p.exists()).map_or("mcpctl".to_owned(), |p| p.display().to_string());
    if paths::run_dir().canonicalize().ok().as_deref() != Some(run_dir) {
        ctl.push_str(&format!(" --run-dir {}", run_dir.display()));
    }
    let name = &config.name;
    let mut out = String::new();
    let url = reachable(urls, &config.base_path);
    let url = url.as_ref();
    if let Some(url) = url {
        out.push_str("\nThe servers, as MCP clients reach them:\n");
        for server in config.servers.keys() {
            out.push_str(&format!("  {url}/servers/{server}/mcp   (Streamable HTTP)\n"));
            out.push_str(&format!("  {}/servers/{server}/ws      (WebSocket)\n", url.replacen("http", "ws", 1)));
        }
        if config.bridge.is_some() {
            out.push_str(&format!("  {url}/mcp   (all as one)\n"));
        }
    }
    if let Some(url) = url.filter(|_| config.auth.is_none()) {
        out.push_str(&format!("\nHow it goes, in a browser:\n  {url}/\n"));
    }
    out.push_str(&format!("\nTry:\n  {ctl} status {name}\n  {ctl} logs {name}\n"));
    if let Some(url) = url {
        out.push_str(&format!("  curl {url}/readyz\n"));
        out.push_str(&config.servers.iter().find_map(|(n, s)| run_hint(url, n, s)).unwrap_or_default());
    }
    out.push_str(&format!("\nEnd it:\n  {ctl} stop {name}\n"));
    out
}

/// How to run a command of an executor by curl(1).
fn run_hint(url: &str, server: &str, config: &crate::model::config::Server) -> Option<String> {
    let Kind::Exec(exec) = &config.kind else { return None };
    let command = match &exec.allow {
        Allow::These(all) if !all.contains_key("echo") => return None,
        _ => "echo",
    };
    let head = "-H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream'";
    let at = format!("{url}/servers/{server}/mcp");
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}"#;
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"execute","arguments":{{"command":"{command}","args":["hello"]}}}}}}"#
    );
    Some(format!(
        "\nRun a command through MCP, in two steps:\n  \
         SESSION=$(curl -s -D - -o /dev/null {head} {at} -d '{hello}' | sed -n 's/^mcp-session-id: //p' | tr -d '\\r')\n  \
         curl -s {head} -H \"Mcp-Session-Id: $SESSION\" {at} -d '{call}'\n"
    ))
}
