//! The section `bridge` of a file of MCP Foxxy Bridge: what of it is a setting of the instance here.

use crate::model::config::setting::quoted;
use crate::model::import::entry::{quoted_list, was};
use crate::model::jsonc::{Document, Node, Wrong};

/// The settings of the instance, and what is to be said of them.
#[derive(Default)]
pub(super) struct Instance {
    pub settings: Vec<(&'static str, String)>,
    pub notes: Vec<String>,
}

/// Reads the section; `order` has the servers by their priority.
pub(super) fn instance(document: &Document, node: Node<'_>, order: &[String]) -> Result<Instance, Wrong> {
    let mut out = Instance::default();
    let (mut host, mut port) = (None, None);
    let mut dropped = Vec::new();
    for (key, value) in document.object(node, "'bridge'")? {
        let text = document.string(value, "").ok();
        match (key.as_str(), text.as_deref()) {
            ("host", Some(_)) => host = text,
            ("port", _) if document.number(value).is_some_and(|n| (0.0..65536.0).contains(&n)) => {
                port = Some(value.written().to_owned());
            }
            ("conflictResolution" | "conflict_resolution", Some(way)) => match way {
                "namespace" => out.settings.push(("bridge", "Prefix".to_owned())),
                "first" => out.settings.push(("bridge", "First".to_owned())),
                "error" => out.settings.push(("bridge", "Error".to_owned())),
                "priority" => out.settings.push(("bridge", format!("Priority({})", quoted_list(order)))),
                _ => dropped.push(was(&key, value)),
            },
            ("mcp_log_level" | "mcpLogLevel" | "log_level", Some(level)) => {
                let level = match level.to_lowercase().as_str() {
                    "debug" => "Debug",
                    "info" => "Info",
                    "warning" | "warn" => "Warn",
                    "error" | "critical" => "Error",
                    _ => {
                        dropped.push(was(&key, value));
                        continue;
                    }
                };
                out.settings.push(("log", format!("(level: {level})")));
            }
            ("configReload" | "config_reload", _) => {
                let members = document.object(value, "'bridge', 'configReload'")?;
                if members.iter().any(|(key, value)| key == "enabled" && value.is("true")) {
                    let note = "It was reloaded when its file changed: here, 'systemctl enable --now \
                                mcpdaemon@NAME.path' does that, and 'mcpctl reload NAME' by hand.";
                    out.notes.push(note.to_owned());
                }
            }
            ("daemon", _) => {
                for (key, value) in document.object(value, "'bridge', 'daemon'")? {
                    match (key.as_str(), document.string(value, "").ok()) {
                        ("user", Some(user)) => out.settings.push(("user", quoted(&user))),
                        ("group", Some(group)) => out.settings.push(("group", quoted(&group))),
                        ("log_file" | "logFile", Some(file)) => {
                            out.notes.push(format!("Its log was {file:?}: `log: (file: ...)` says where it is here."));
                        }
                        ("pid_file" | "pidFile", Some(file)) => {
                            out.notes
                                .push(format!("Its PID file was {file:?}: here it is NAME.pid in the run directory."));
                        }
                        _ => dropped.push(was(&format!("daemon.{key}"), value)),
                    }
                }
            }
            _ => dropped.push(was(&key, value)),
        }
    }
    if host.is_some() || port.is_some() {
        let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let address = format!("{host}:{}", port.unwrap_or_else(|| "8080".to_owned()));
        out.settings.push(("listen", format!("[{}]", quoted(&address))));
    }
    if !dropped.is_empty() {
        out.notes.push(format!("Of its bridge, without an equivalent here: {}.", dropped.join(", ")));
    }
    Ok(out)
}
