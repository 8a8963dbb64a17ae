//! What session ids are made of: the prefix by which a balancer knows the instance, and the keys that seal them.

use super::read::{Node, Origin, Reader, Section};
use super::setting::quoted;
use crate::model::sealed::Keys;

/// The longest `session_prefix`, in characters.
const PREFIX: usize = 32;

/// Reads `session_prefix`: empty, or a few letters, digits, '-' and '_', which are the same in a header and in a URL.
pub(super) fn session_prefix(s: &mut Section<'_, '_>) -> String {
    let prefix: String = s.get("session_prefix", String::new());
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if let Some(node) = s.node("session_prefix")
        && (prefix.len() > PREFIX || !prefix.chars().all(fine))
    {
        let what = "cannot stand before session ids: up to 32 letters, digits, '-' and '_'";
        s.reader.problem(node, format!("{} {what}", quoted(&prefix)));
    }
    prefix
}

/// What session ids are sealed with.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SessionKey {
    /// The key that the instance has of its own.
    #[default]
    Own,
    /// None: a session ends with the process, and when it is idle.
    Off,
    /// One or two keys from a file.
    File(Keys),
}

/// Reads `session_key`: the name of a file with one or two keys, `Own` or `None`.
pub(super) fn session_key(s: &mut Section<'_, '_>) -> SessionKey {
    let Some(node) = s.node("session_key") else {
        s.show("session_key", "Own".to_owned(), Origin::Default);
        return SessionKey::Own;
    };
    match s.reader.variant(node) {
        Some(("Own", None)) => {
            s.show_given("session_key", node, "Own".to_owned());
            SessionKey::Own
        }
        Some(("None", None)) => {
            s.show_given("session_key", node, "None".to_owned());
            SessionKey::Off
        }
        _ => match s.optional("session_key") {
            // A problem has been noted.
            None => SessionKey::Off,
            Some(file) => from_file(s, file).map_or(SessionKey::Off, SessionKey::File),
        },
    }
}

fn from_file(s: &mut Section<'_, '_>, node: Node<'_>) -> Option<Keys> {
    let reader: &Reader<'_> = s.reader;
    let file = reader.path(node)?;
    let name = file.display();
    s.show_given("session_key", node, quoted(&name.to_string()));
    reader.note_secret_file(file.clone());
    let text = match (reader.around().read)(&file) {
        Ok(text) => text,
        Err(why) => {
            reader.problem(node, format!("{name}: cannot read the keys of sessions: {why}"));
            return None;
        }
    };
    match Keys::parse(&text) {
        Ok(keys) => Some(keys),
        Err((line, what)) => {
            let at = line.map(|line| format!(":{line}")).unwrap_or_default();
            reader.problem(node, format!("{name}{at}: {what}"));
            None
        }
    }
}
