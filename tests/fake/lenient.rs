//! A server that reads its input as leniently as a program can: keys and methods in any case, with `_` or up to a NUL, the
//! other spelling before the right one, and a name out of a list. What passes the daemon unseen acts here.
//!
//! Tools: `safe`, `danger`, and `slow`, which is never answered.

use std::io::{BufRead, Write};

use serde_json::{Map, Value, json};

fn fold(name: &str) -> String {
    let kept = name.chars().take_while(|c| *c != '\0').filter(|c| c.is_alphanumeric());
    let folded = kept.map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        c => c.to_lowercase().next().unwrap_or(c),
    });
    folded.collect()
}

/// A member by its folded name; one that is spelled in another way counts before the right one.
fn get<'v>(object: &'v Value, name: &str) -> &'v Value {
    let Some(members) = object.as_object() else {
        return match object {
            // Some programs take parameters by their position.
            Value::Array(all) => all.first().unwrap_or(&Value::Null),
            _ => &Value::Null,
        };
    };
    let wanted = fold(name);
    let other = |members: &'v Map<String, Value>| members.iter().find(|(k, _)| *k != name && fold(k) == wanted);
    other(members).map(|(_, v)| v).or_else(|| members.get(name)).unwrap_or(&Value::Null)
}

fn text(value: &Value) -> String {
    match value {
        Value::Array(all) => all.first().map(text).unwrap_or_default(),
        Value::String(text) => text.clone(),
        _ => String::new(),
    }
}

fn main() {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        // A half of a surrogate pair is left out.
        let line = line.replace("\\ud800", "");
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let (id, params) = (get(&message, "id"), get(&message, "params"));
        let say = |text: &str| json!({"content": [{"type": "text", "text": text}]});
        let result = match fold(&text(get(&message, "method"))).as_str() {
            "initialize" => json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "lenient", "version": "1"}
            }),
            "toolslist" => {
                let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
                json!({"tools": [tool("safe"), tool("danger"), tool("slow")]})
            }
            "toolscall" => match fold(&text(get(params, "name"))).as_str() {
                "danger" => say("DANGER"),
                "slow" => continue,
                _ => say("safe"),
            },
            "notificationscancelled" => {
                let request = get(params, "requestId").clone();
                let _ = writeln!(out, "{}", json!({"jsonrpc": "2.0", "id": request, "result": say("CANCELLED")}));
                continue;
            }
            _ => json!({}),
        };
        if !id.is_null() {
            let _ = writeln!(out, "{}", json!({"jsonrpc": "2.0", "id": id, "result": result}));
            let _ = out.flush();
        }
    }
}
