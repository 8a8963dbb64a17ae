//! What a line of the log says of itself: its server, its form as JSON, its priority for the journal.
//!
//! The daemon writes by these rules, and `mcpctl logs` reads by them. A message that begins with `[NAME] ` is what a
//! child of that server said, or what was seen of it; other messages name a server as `server 'NAME'`.

use log::Level;
use serde::{Deserialize, Serialize};

/// The target of records with a child's own words. They stand in the log, and are not among the lines that the page shows.
pub const SAID: &str = "mcpdaemon::said";

/// What a record begins with, behind the tag of its server, that says what a child said last before its end.
pub const LAST_WORDS: &str = "its last words: ";

/// A line of the log, for the page that shows the last ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// RFC 3339, UTC.
    pub at: String,
    pub level: String,
    pub text: String,
}

/// The server whose matter a message is, with the message itself: without the tag, if it has one.
pub fn server(message: &str) -> (Option<&str>, &str) {
    if let Some((name, rest)) = tag(message) {
        return (Some(name), rest);
    }
    // Only in what comes before any detail: behind a colon others may have a word.
    let head = message.split(':').next().unwrap_or_default();
    let name = head.split_once("server '").and_then(|(_, rest)| rest.split_once('\'')).map(|(name, _)| name);
    (name, message)
}

fn tag(message: &str) -> Option<(&str, &str)> {
    message.strip_prefix('[')?.split_once("] ").filter(|(name, _)| !name.contains(['[', ' ']))
}

/// A line in the format `Json`; no more is read of one.
#[derive(Serialize, Deserialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    time: Option<&'a str>,
    level: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    server: Option<&'a str>,
    target: &'a str,
    message: std::borrow::Cow<'a, str>,
}

/// One JSON object on one line, without its end. `time` is RFC 3339; None where another program notes the time.
pub fn json(time: Option<&str>, level: Level, target: &str, message: &str) -> String {
    let (server, message) = server(message);
    let level = level.as_str().to_ascii_lowercase();
    let line = Json { time, level: &level, server, target, message: message.into() };
    // Strings alone, which cannot fail.
    serde_json::to_string(&line).unwrap_or_default()
}

/// The number of sd-daemon(3), which stands as `<N>` before a line that goes to the journal.
pub fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether a line of a log, in either format, is one of this server or speaks of it.
pub fn mentions(line: &str, name: &str) -> bool {
    let (of, message) = match serde_json::from_str::<Json<'_>>(line) {
        Ok(json) => (json.server.map(str::to_owned), json.message.into_owned()),
        Err(_) => {
            let message = line.split_once("] ").map_or(line, |(_, message)| message);
            (tag(message).map(|(name, _)| name.to_owned()), message.to_owned())
        }
    };
    match of {
        Some(of) => of == name,
        None => message.contains(&format!("server '{name}'")),
    }
}

/// The message of a line of the log, in either format, with the server whose matter it is.
fn parts(line: &str) -> (Option<String>, String) {
    match serde_json::from_str::<Json<'_>>(line) {
        Ok(json) => (json.server.map(str::to_owned), json.message.into_owned()),
        Err(_) => {
            let message = line.split_once("] ").map_or(line, |(_, message)| message);
            let (server, message) = server(message);
            (server.map(str::to_owned), message.to_owned())
        }
    }
}

/// What the child of a server said last before it came into the state that it is in, as far as these lines of the log say it.
pub fn last_words<'l>(lines: impl Iterator<Item = &'l str>, name: &str) -> Option<String> {
    let mut found = None;
    for (server, message) in lines.map(parts) {
        if server.as_deref() != Some(name) {
            continue;
        }
        if let Some(words) = message.strip_prefix(LAST_WORDS) {
            found = Some(words.to_owned());
        } else if message.strip_prefix(&format!("server '{name}' is ")).is_some_and(|state| state.starts_with("ready"))
        {
            found = None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_belongs_to_the_server_that_it_begins_with() {
        for (message, name, rest) in [
            ("[time] hello: server 'b' is ready", Some("time"), "hello: server 'b' is ready"),
            ("[time] ", Some("time"), ""),
            ("server 'time' is ready", Some("time"), "server 'time' is ready"),
            ("server 'time', era: next start in 1s", Some("time"), "server 'time', era: next start in 1s"),
            ("a session of server 'time' ended: idle", Some("time"), "a session of server 'time' ended: idle"),
            ("reload refused: x.ron:1:2: unknown kind of server 'Stdoi'", None, "..."),
            ("the drain is over", None, "..."),
            ("[no tag", None, "..."),
            ("[two words] x", None, "..."),
            ("server 'open", None, "..."),
            ("", None, ""),
        ] {
            let rest = if rest == "..." { message } else { rest };
            assert_eq!(server(message), (name, rest), "{message}");
        }
    }

    #[test]
    fn json_is_json_whatever_is_said() {
        let time = "2026-11-20T10:00:00.000Z";
        assert_eq!(
            json(Some(time), Level::Info, "mcpdaemon::hub", "[a] \"x\" \\ \u{1b}\n"),
            r#"{"time":"2026-11-20T10:00:00.000Z","level":"info","server":"a","target":"mcpdaemon::hub","message":"\"x\" \\ \u001b\n"}"#
        );
        assert_eq!(json(None, Level::Warn, "m", "x"), r#"{"level":"warn","target":"m","message":"x"}"#);
    }

    #[test]
    fn last_words_are_those_since_the_server_was_ready() {
        let log = |messages: &[&str], name: &str| {
            let text = messages.iter().map(|m| format!("2026-11-20T10:00:00.000Z [INFO] {m}"));
            let json = messages.iter().map(|m| json(Some("2026-11-20T10:00:00.000Z"), Level::Warn, "m", m));
            let (text, json): (Vec<_>, Vec<_>) = (text.collect(), json.collect());
            let found = last_words(text.iter().map(String::as_str), name);
            assert_eq!(last_words(json.iter().map(String::as_str), name), found);
            found
        };
        let messages = [
            "[a] its last words: one",
            "[b] its last words: of b",
            "server 'a' is failed: x",
            "[a] its last words: two | 2",
        ];
        assert_eq!(log(&messages, "a").as_deref(), Some("two | 2"));
        assert_eq!(log(&messages, "b").as_deref(), Some("of b"));
        assert_eq!(log(&messages, "c"), None);
        assert_eq!(log(&["[a] its last words: one", "server 'a' is ready"], "a"), None);
    }

    #[test]
    fn a_line_is_found_by_its_server_in_both_formats() {
        for (message, a, b) in [
            ("[a] server 'b' is what I am", true, false),
            ("[b] [a] I am not", false, true),
            ("server 'a' is ready", true, false),
            ("reload refused: server 'a': no; server 'b': no", true, true),
            ("nobody's", false, false),
        ] {
            for line in [
                format!("2026-11-20T10:00:00.000Z [INFO] {message}"),
                json(Some("2026-11-20T10:00:00.000Z"), Level::Info, "m", message),
            ] {
                assert_eq!((mentions(&line, "a"), mentions(&line, "b")), (a, b), "{line}");
            }
        }
        // What is no line of ours has no server.
        assert!(!mentions("{\"level\":", "a") && !mentions("", "a") && mentions("x] server 'a'", "a"));
    }
}
