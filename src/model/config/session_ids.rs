//! What session ids are made of: the prefix by which a balancer knows the instance, and the keys that seal them.

use super::read::{Origin, Reader, Section};
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

/// Reads `session_key`, the name of a file with one or two keys.
pub(super) fn session_key(s: &mut Section<'_, '_>) -> Option<Keys> {
    let Some(node) = s.optional("session_key") else {
        s.show("session_key", "None".to_owned(), Origin::Default);
        return None;
    };
    let reader: &Reader<'_> = s.reader;
    let file = reader.path(node)?;
    let name = file.display();
    s.show_given("session_key", node, quoted(&name.to_string()));
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
