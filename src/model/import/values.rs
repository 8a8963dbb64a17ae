//! The values of a client's file: what a client replaces in them becomes what the instance file has for it, and
//! everything else is kept from being expanded.

use std::collections::{BTreeMap, HashSet};

use crate::model::config::read::escaped;
use crate::model::jsonc::{Document, Node, Wrong};
use crate::model::text::printable;

/// How a client writes what it replaces, beside what editors have in common (`${env:NAME}`, `${input:NAME}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Editor,
    /// `${NAME}`, and with a default behind these characters: Claude Code (`:-`), MCP Foxxy Bridge (`:`).
    Braces(&'static str),
    /// `$NAME` as well: Gemini CLI.
    Shell,
    /// `{env:NAME}` and `{file:PATH}`: opencode.
    Opencode,
}

/// Something that VS Code asks its user for.
struct Input {
    variable: String,
    what: String,
    default: Option<String>,
}

/// What values are read with.
pub(super) struct Values<'a> {
    document: &'a Document,
    pub(super) dialect: Dialect,
    inputs: BTreeMap<String, Input>,
}

/// What stands for something that a client replaces.
enum Meaning {
    Ours(String),
    Plain(String),
    /// The text is what it is.
    Itself,
}

impl<'a> Values<'a> {
    pub(super) fn new(document: &'a Document, dialect: Dialect) -> Values<'a> {
        Values { document, dialect, inputs: BTreeMap::new() }
    }

    /// Takes down an element of `inputs`.
    pub(super) fn input(&mut self, node: Node<'_>) -> Result<(), Wrong> {
        let (mut id, mut what, mut default) = (None, None, None);
        for (key, value) in self.document.object(node, "an element of 'inputs'")? {
            match key.as_str() {
                "id" => id = Some(self.document.string(value, "'id'")?),
                "description" => what = self.document.string(value, "'description'").ok(),
                "default" => default = self.document.word(value, "'default'").ok(),
                _ => {}
            }
        }
        let Some(id) = id else { return Err(self.document.wrong(node, "an element of 'inputs' has no 'id'")) };
        let taken: HashSet<&str> = self.inputs.values().map(|i| i.variable.as_str()).collect();
        let variable = unique(&variable(&id), "_", usize::MAX, |name| !taken.contains(name));
        let default = default.filter(|d| fits_as_default(d) && !d.is_empty());
        self.inputs.insert(id, Input { variable, what: what.unwrap_or_default(), default });
        Ok(())
    }

    /// A value as the instance file has it; `notes` gets what is to be said of it.
    pub(super) fn text(&self, node: Node<'_>, text: &str, notes: &mut Vec<String>) -> Result<String, Wrong> {
        if text.contains('\0') {
            return Err(self.document.wrong(node, "a NUL character cannot be part of this"));
        }
        let mut note = |text: String| {
            if !notes.contains(&text) {
                notes.push(text);
            }
        };
        let (mut out, mut plain, mut rest) = (String::new(), String::new(), text);
        while let Some((from, to)) = self.next(rest) {
            let whole = &rest[from..to];
            plain.push_str(&rest[..from]);
            rest = &rest[to..];
            match self.meaning(whole, &mut note) {
                Meaning::Ours(ours) => {
                    keep(&mut out, &plain);
                    out.push_str(&ours);
                    plain.clear();
                }
                Meaning::Plain(text) => plain.push_str(&text),
                Meaning::Itself => plain.push_str(whole),
            }
        }
        plain.push_str(rest);
        keep(&mut out, &plain);
        Ok(out)
    }

    /// Where the next text stands that a client may replace.
    fn next(&self, text: &str) -> Option<(usize, usize)> {
        let bracket = |start: &str| {
            let from = text.find(start)?;
            Some((from, from + text[from..].find('}')? + 1))
        };
        let bare = || {
            text.match_indices('$').find_map(|(from, _)| {
                let name = text[from + 1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
                is_variable(&text[from + 1..from + 1 + name]).then_some((from, from + 1 + name))
            })
        };
        let more = match self.dialect {
            Dialect::Editor | Dialect::Braces(_) => None,
            Dialect::Shell => bare(),
            Dialect::Opencode => bracket("{env:").into_iter().chain(bracket("{file:")).min(),
        };
        bracket("${").into_iter().chain(more).min()
    }

    fn meaning(&self, whole: &str, note: &mut impl FnMut(String)) -> Meaning {
        let Some(name) = whole.strip_prefix("${").and_then(|name| name.strip_suffix('}')) else {
            let name = whole.trim_matches(['{', '}', '$']);
            return match name.split_once(':') {
                None => Meaning::Ours(format!("${{{name}}}")),
                Some(("env", of)) if is_variable(of) => Meaning::Ours(format!("${{{of}}}")),
                Some(("file", of)) if of.starts_with('/') => Meaning::Ours(format!("${{file:{of}}}")),
                Some(("file", of)) => {
                    note(format!("The path in {} is the client's: write the whole path.", shown(whole)));
                    Meaning::Ours(format!("${{file:{of}}}"))
                }
                Some(_) => Meaning::Itself,
            };
        };
        let (kind, of) = name.split_once(':').unwrap_or((name, ""));
        match kind {
            "env" if is_variable(of) => return Meaning::Ours(format!("${{{of}}}")),
            "input" if !of.is_empty() => {
                let (value, text) = self.asked(of);
                note(text);
                return Meaning::Ours(value);
            }
            "workspaceFolder" | "workspaceRoot" => {
                note(format!("{} is WORKSPACE_FOLDER here: set it, or write the path.", shown(whole)));
                return Meaning::Ours("${WORKSPACE_FOLDER}".to_owned());
            }
            _ if name == "userHome" => return Meaning::Ours("${HOME}".to_owned()),
            _ if name == "pathSeparator" || name == "/" => return Meaning::Plain("/".to_owned()),
            _ => {}
        }
        let default = match self.dialect {
            Dialect::Braces(mark) => name.split_once(mark),
            Dialect::Shell => name.split_once(":-"),
            Dialect::Editor | Dialect::Opencode => None,
        };
        let expands = matches!(self.dialect, Dialect::Braces(_) | Dialect::Shell);
        match default {
            Some((name, default)) if is_variable(name) && fits_as_default(default) => {
                return Meaning::Ours(format!("${{{name}:-{default}}}"));
            }
            _ if expands && is_variable(name) => return Meaning::Ours(whole.to_owned()),
            _ => {}
        }
        let hint = match is_variable(kind) {
            true => "; if a variable of the daemon is meant, take one $ away",
            false => "",
        };
        note(format!("{} arrives as it is written{hint}.", shown(whole)));
        Meaning::Itself
    }

    /// What stands for an input, and what to say of it.
    fn asked(&self, id: &str) -> (String, String) {
        let Some(input) = self.inputs.get(id) else {
            let name = variable(id);
            let text = format!("{} was asked for by the client: set {name} for the daemon.", shown(id));
            return (format!("${{{name}}}"), text);
        };
        let what = if input.what.is_empty() { String::new() } else { format!(" ({})", printable(&input.what, 200)) };
        let name = &input.variable;
        let text = format!("{}{what} was asked for by the client: set {name} for the daemon.", shown(id));
        match &input.default {
            Some(default) => (format!("${{{name}:-{default}}}"), text),
            None => (format!("${{{name}}}"), text),
        }
    }
}

/// Adds what is to arrive as it is. A `~` can mean something at the beginning alone.
fn keep(out: &mut String, plain: &str) {
    let kept = if out.is_empty() { escaped(plain) } else { plain.replace('$', "$$") };
    out.push_str(&kept);
}

/// A foreign word in a comment or a message.
pub(super) fn shown(text: &str) -> String {
    format!("\"{}\"", printable(text, 200))
}

pub(super) fn is_variable(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
}

/// The variable for an input or a header: `api-key` is API_KEY.
pub(super) fn variable(id: &str) -> String {
    let name: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    if is_variable(&name) { name } else { format!("INPUT_{name}") }
}

/// The name itself, or the first one with a number behind it that is free.
pub(super) fn unique(name: &str, join: &str, longest: usize, free: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|n| {
        let end = format!("{join}{n}");
        let head: String = name.chars().take(longest.saturating_sub(end.len())).collect();
        head + &end
    });
    std::iter::once(name.to_owned()).chain(numbered).find(|name| free(name)).unwrap_or_default()
}

/// What stands behind ':-' ends at the first bracket, and is expanded again at its beginning.
fn fits_as_default(default: &str) -> bool {
    !default.contains(['}', '$']) && !default.starts_with('~')
}
