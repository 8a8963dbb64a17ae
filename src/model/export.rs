//! What is put into a client's configuration so that it uses a running instance: by URL where the client can, else by
//! `mcpdaemon --connect`. Each form is that of its client's own manual, as of 2026.
//!
//! A token is never written down: it is named by a variable where the client knows such, else by a word to replace.

use serde_json::{Value, json};

/// The variable that holds the token.
pub const VARIABLE: &str = "MCP_TOKEN";

/// A client whose configuration is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    ClaudeCode,
    ClaudeDesktop,
    Cursor,
    VsCode,
    Codex,
    Gemini,
    OpenCode,
    Zed,
}

/// How a client gets there.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'r> {
    /// Over Streamable HTTP; with a token or without.
    Url { url: &'r str, token: bool },
    /// By this command with these arguments.
    Command(&'r [String]),
}

impl Client {
    /// All of them, by the names that a command line has.
    pub const ALL: [(&'static str, Client); 8] = [
        ("claude-code", Client::ClaudeCode),
        ("claude-desktop", Client::ClaudeDesktop),
        ("cursor", Client::Cursor),
        ("vscode", Client::VsCode),
        ("codex", Client::Codex),
        ("gemini", Client::Gemini),
        ("opencode", Client::OpenCode),
        ("zed", Client::Zed),
    ];

    /// The client of this name.
    pub fn named(name: &str) -> Option<Client> {
        Client::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, client)| client)
    }

    /// Whether it speaks to a URL. The others know commands alone.
    pub fn knows_urls(self) -> bool {
        self != Client::ClaudeDesktop
    }

    /// Where it goes.
    pub fn place(self) -> &'static str {
        match self {
            Client::ClaudeCode => ".mcp.json of a project, or ~/.claude.json",
            Client::ClaudeDesktop => "claude_desktop_config.json",
            Client::Cursor => "~/.cursor/mcp.json, or .cursor/mcp.json of a project",
            Client::VsCode => ".vscode/mcp.json",
            Client::Codex => "~/.codex/config.toml",
            Client::Gemini => "~/.gemini/settings.json",
            Client::OpenCode => "opencode.json",
            Client::Zed => "its settings.json",
        }
    }

    /// The value of the header that shows the token.
    fn bearer(self) -> &'static str {
        match self {
            Client::ClaudeCode => "Bearer ${MCP_TOKEN}",
            Client::Cursor => "Bearer ${env:MCP_TOKEN}",
            Client::VsCode => "Bearer ${input:mcp-token}",
            Client::Gemini => "Bearer $MCP_TOKEN",
            Client::OpenCode => "Bearer {env:MCP_TOKEN}",
            Client::Zed | Client::Codex | Client::ClaudeDesktop => "Bearer THE-TOKEN",
        }
    }

    /// What is put into its configuration for a server that is called `name` there.
    pub fn entry(self, name: &str, reach: Reach<'_>) -> String {
        if self == Client::Codex {
            return codex(name, reach);
        }
        let mut server = match (reach, self) {
            (Reach::Url { url, .. }, Client::ClaudeCode | Client::VsCode) => json!({"type": "http", "url": url}),
            (Reach::Url { url, .. }, Client::Gemini) => json!({"httpUrl": url}),
            (Reach::Url { url, .. }, Client::OpenCode) => json!({"type": "remote", "url": url}),
            (Reach::Url { url, .. }, _) => json!({"url": url}),
            (Reach::Command(words), Client::OpenCode) => json!({"type": "local", "command": words}),
            (Reach::Command(words), Client::VsCode) => with_type("stdio", words),
            (Reach::Command(words), _) => command(words),
        };
        let token = matches!(reach, Reach::Url { token: true, .. });
        if token {
            server["headers"] = json!({"Authorization": self.bearer()});
        }
        let key = match self {
            Client::VsCode => "servers",
            Client::OpenCode => "mcp",
            Client::Zed => "context_servers",
            _ => "mcpServers",
        };
        let mut whole = json!({ key: { name: server } });
        if token && self == Client::VsCode {
            whole["inputs"] = json!([
                {"type": "promptString", "id": "mcp-token", "description": "Token of mcpdaemon", "password": true}
            ]);
        }
        serde_json::to_string_pretty(&whole).unwrap_or_default()
    }
}

fn command(words: &[String]) -> Value {
    let (program, args) = words.split_first().map_or(("", &[][..]), |(program, args)| (program.as_str(), args));
    json!({"command": program, "args": args})
}

fn with_type(kind: &str, words: &[String]) -> Value {
    let mut server = command(words);
    server["type"] = kind.into();
    server
}

fn codex(name: &str, reach: Reach<'_>) -> String {
    // A text of JSON is one of TOML.
    let quoted = |text: &str| Value::from(text).to_string();
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if bare { name.to_owned() } else { quoted(name) };
    let rest = match reach {
        Reach::Url { url, token } => {
            let token = if token { format!("\nbearer_token_env_var = \"{VARIABLE}\"") } else { String::new() };
            format!("url = {}{token}", quoted(url))
        }
        Reach::Command(words) => {
            let args: Vec<String> = words.iter().skip(1).map(|word| quoted(word)).collect();
            format!("command = {}\nargs = [{}]", quoted(words.first().map_or("", |w| w)), args.join(", "))
        }
    };
    format!("[mcp_servers.{key}]\n{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::import::import;

    const URL: &str = "http://127.0.0.1:8003/servers/time/mcp";

    #[test]
    fn what_is_exported_is_imported_again() {
        let words: Vec<String> =
            ["/usr/bin/mcpdaemon", "--connect", "dev/time", "--token-file", "/a \"b\\"].map(str::to_owned).to_vec();
        for (name, client) in Client::ALL {
            let file = if client == Client::Codex { "config.toml" } else { "x.json" };
            let text = client.entry("a.time", Reach::Command(&words));
            let imported = import(file, &text).unwrap_or_else(|p| panic!("{name}: {p}\n{text}")).text;
            let command = r#"["/usr/bin/mcpdaemon", "--connect", "dev/time", "--token-file", "/a \"b\\"]"#;
            assert!(imported.contains(command) && imported.contains("\"a.time\""), "{name}: {imported}");
            if client.knows_urls() {
                for token in [false, true] {
                    let text = client.entry("time", Reach::Url { url: URL, token });
                    let imported = import(file, &text).unwrap_or_else(|p| panic!("{name}: {p}\n{text}")).text;
                    assert!(imported.contains(URL), "{name}: {imported}");
                    assert_eq!(
                        text.contains("MCP_TOKEN") || text.contains("THE-TOKEN") || text.contains("input:"),
                        token
                    );
                }
            }
        }
    }
}
