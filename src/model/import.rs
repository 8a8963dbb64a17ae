//! An instance file from the `mcpServers` of a client.
//!
//! Known are the files of Claude Desktop and Cursor (`mcpServers`), and of VS Code (`servers` with `inputs`, also as a
//! part of its settings). What a client replaces in a value becomes what the instance file has for it; everything else
//! arrives at the server as it was written. What cannot be carried over is said in a comment, beside what can.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use crate::model::config::read::escaped;
use crate::model::config::{Problem, check_name, setting::quoted};
use crate::model::jsonc::{Document, Node, Wrong};
use crate::model::text::{count, printable};

/// What came of an import.
#[derive(Debug)]
pub struct Imported {
    /// The instance file.
    pub text: String,
    pub servers: usize,
    /// Servers that are comments alone.
    pub left_out: usize,
}

/// Reads what a client has; `file` is how problems call it.
pub fn import(file: &str, text: &str) -> Result<Imported, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let problem = |wrong: Wrong| {
        let mut at = wrong.at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = 1 + before.bytes().filter(|b| *b == b'\n').count();
        let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
        Problem { file: file.to_owned(), place: Some((line, column)), what: wrong.what }
    };
    let document = Document::new(text).map_err(problem)?;
    let entries = Source::new(&document).and_then(|source| source.entries()).map_err(problem)?;
    Ok(Imported {
        servers: entries.iter().filter(|e| e.here.is_ok()).count(),
        left_out: entries.iter().filter(|e| e.here.is_err()).count(),
        text: written(file, &entries),
    })
}

/// A server as it was found.
struct Entry {
    /// The client's name for it, and ours.
    was: String,
    name: String,
    /// Its settings, or why it cannot be carried over.
    here: Result<Command, String>,
    /// A server that is switched off has both.
    off: Option<Command>,
    notes: Vec<String>,
}

/// What to run; all texts as the instance file has them.
#[derive(Default)]
struct Command {
    words: Vec<String>,
    env: Vec<(String, String)>,
    cwd: Option<String>,
}

struct Source<'a> {
    document: &'a Document,
    servers: Node<'a>,
    inputs: BTreeMap<String, Input>,
}

/// Something that VS Code asks its user for.
struct Input {
    variable: String,
    what: String,
    default: Option<String>,
}

impl<'a> Source<'a> {
    /// Finds the servers in the document.
    fn new(document: &'a Document) -> Result<Source<'a>, Wrong> {
        let root = document.root()?;
        let get = |all: &[(String, Node<'a>)], name: &str| all.iter().find(|(n, _)| n == name).map(|(_, node)| *node);
        let mut members = document.object(root, "the file")?;
        if get(&members, "mcpServers").is_none()
            && get(&members, "servers").is_none()
            && let Some(mcp) = get(&members, "mcp")
        {
            members = document.object(mcp, "'mcp'")?;
        }
        let Some(servers) = get(&members, "mcpServers").or(get(&members, "servers")) else {
            let what = "there is neither 'mcpServers' (Claude Desktop, Cursor) nor 'servers' (VS Code) in it";
            return Err(document.wrong(root, what));
        };
        let mut source = Source { document, servers, inputs: BTreeMap::new() };
        if let Some(inputs) = get(&members, "inputs") {
            for node in document.list(inputs, "'inputs'")? {
                source.input(node)?;
            }
        }
        Ok(source)
    }

    fn input(&mut self, node: Node<'a>) -> Result<(), Wrong> {
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
        // What stands behind ':-' ends at the first bracket, and is expanded again at its beginning.
        let default = default.filter(|d| !d.contains('}') && !d.starts_with('~') && !d.is_empty());
        self.inputs.insert(id, Input { variable, what: what.unwrap_or_default(), default });
        Ok(())
    }

    fn entries(&self) -> Result<Vec<Entry>, Wrong> {
        let (mut entries, mut taken) = (Vec::<Entry>::new(), HashSet::new());
        for (was, node) in self.document.object(self.servers, "the servers")? {
            let name = unique(&fit(&was), "-", 64, |name| !taken.contains(name));
            taken.insert(name.clone());
            entries.push(self.entry(was, name, node)?);
        }
        if let Some(first) = entries.first()
            && entries.iter().all(|e| e.here.is_err())
        {
            let why = first.here.as_ref().err().map_or("", String::as_str);
            let what = format!("none of its servers can be run here; {}: {why}", shown(&first.was));
            return Err(self.document.wrong(self.servers, what));
        }
        if entries.is_empty() {
            return Err(self.document.wrong(self.servers, "there is no server in it"));
        }
        Ok(entries)
    }

    fn entry(&self, was: String, name: String, node: Node<'a>) -> Result<Entry, Wrong> {
        let what = |key: &str| format!("server {}, '{key}'", shown(&was));
        let mut notes = Vec::new();
        let (mut program, mut args, mut env, mut cwd) = (None, Vec::new(), Vec::new(), None);
        let (mut url, mut far, mut off, mut other) = (None, false, false, Vec::new());
        for (key, value) in self.document.object(node, &format!("server {}", shown(&was)))? {
            match key.as_str() {
                "command" => {
                    let text = self.document.string(value, &what(&key))?;
                    if text.is_empty() {
                        return Err(self.document.wrong(value, format!("{} is empty", what(&key))));
                    }
                    program = Some(self.text(value, &text, &mut notes)?);
                }
                "args" => {
                    for node in self.document.list(value, &what(&key))? {
                        let text = self.document.word(node, &what(&key))?;
                        args.push(self.text(node, &text, &mut notes)?);
                    }
                }
                "env" => env = self.env(value, &what(&key), &mut notes)?,
                "cwd" => {
                    cwd = Some(self.document.string(value, &what(&key))?).filter(|c| !c.is_empty()).map(|c| (value, c))
                }
                "envFile" => notes.push(format!(
                    "{} is not read: put its variables into `env`, or into the environment of the daemon with their \
                     names in `pass_env`.",
                    shown(&self.document.string(value, &what(&key))?)
                )),
                "url" | "serverUrl" | "httpUrl" => url = Some(self.document.string(value, &what(&key))?),
                "type" | "transport" => {
                    let kind = self.document.string(value, &what(&key))?.to_lowercase();
                    far |= kind.contains("http") || matches!(kind.as_str(), "sse" | "ws" | "websocket");
                }
                "disabled" => off |= value.is("true"),
                "enabled" => off |= value.is("false"),
                _ => other.push(key),
            }
        }
        if name != was {
            notes.insert(0, format!("Its name was {}, which cannot be one here.", shown(&was)));
        }
        if !other.is_empty() {
            let all: Vec<String> = other.iter().map(|key| shown(key)).collect();
            notes.push(format!("What the client has for itself is not carried over: {}.", all.join(", ")));
        }
        let cwd = match cwd {
            Some((node, text)) => Some(self.text(node, &text, &mut notes)?),
            None => None,
        };
        let relative = |text: &String| text.contains('/') && !text.starts_with(['/', '$']);
        if program.as_ref().is_some_and(relative) || cwd.as_ref().is_some_and(|cwd| !cwd.starts_with(['/', '$'])) {
            notes.push("A relative path starts at the folder of this file.".to_owned());
        }
        let command = program.map(|program| Command { words: [vec![program], args].concat(), env, cwd });
        let (here, off) = match command.filter(|_| !far) {
            Some(command) if off => (Err("it is switched off there".to_owned()), Some(command)),
            Some(command) => (Ok(command), None),
            None if far || url.is_some() => {
                notes.clear();
                // Behind the question mark there may be a key.
                let url = url.as_deref().and_then(|u| u.split(['?', '#']).next()).filter(|u| !u.is_empty());
                let url = url.map_or(String::new(), |u| format!(" ({})", printable(u, 200)));
                (Err(format!("it is a remote server{url}, and what runs here is commands")), None)
            }
            None => {
                let text = format!("server {}: there is neither 'command' nor 'url'", shown(&was));
                return Err(self.document.wrong(node, text));
            }
        };
        Ok(Entry { was, name, here, off, notes })
    }

    fn env(&self, node: Node<'a>, what: &str, notes: &mut Vec<String>) -> Result<Vec<(String, String)>, Wrong> {
        let mut env = Vec::new();
        for (key, value) in self.document.object(node, what)? {
            if key.is_empty() || key.contains(['=', '\0']) {
                notes.push(format!("{} in `env` is left out: no variable has such a name.", shown(&key)));
            } else if value.is("null") {
                notes.push(format!("{} in `env` is left out: it is null.", shown(&key)));
            } else {
                let text = self.document.word(value, what)?;
                env.push((key, self.text(value, &text, notes)?));
            }
        }
        Ok(env)
    }

    /// A value as the instance file has it: what a client replaces is replaced by ours, the rest is kept from being
    /// expanded.
    fn text(&self, node: Node<'_>, text: &str, notes: &mut Vec<String>) -> Result<String, Wrong> {
        if text.contains('\0') {
            return Err(self.document.wrong(node, "a NUL character cannot be part of this"));
        }
        let mut note = |text: String| {
            if !notes.contains(&text) {
                notes.push(text);
            }
        };
        let (mut out, mut plain, mut rest) = (String::new(), String::new(), text);
        while let Some(at) = rest.find("${") {
            let Some(end) = rest[at..].find('}') else { break };
            let (whole, name) = (&rest[at..=at + end], &rest[at + 2..at + end]);
            plain.push_str(&rest[..at]);
            rest = &rest[at + end + 1..];
            let (kind, of) = name.split_once(':').unwrap_or((name, ""));
            let ours = match kind {
                "env" if is_variable(of) => Some(format!("${{{of}}}")),
                "input" if !of.is_empty() => {
                    let (value, text) = self.asked(of);
                    note(text);
                    Some(value)
                }
                _ if name == "userHome" => Some("${HOME}".to_owned()),
                "workspaceFolder" | "workspaceRoot" => {
                    note(format!("{} is WORKSPACE_FOLDER here: set it, or write the path.", shown(whole)));
                    Some("${WORKSPACE_FOLDER}".to_owned())
                }
                _ if name == "pathSeparator" || name == "/" => {
                    plain.push('/');
                    continue;
                }
                _ => None,
            };
            match ours {
                Some(ours) => {
                    keep(&mut out, &plain);
                    out.push_str(&ours);
                    plain.clear();
                }
                None => {
                    let hint = match is_variable(kind) {
                        true => "; if a variable of the daemon is meant, take one $ away",
                        false => "",
                    };
                    note(format!("{} arrives as it is written{hint}.", shown(whole)));
                    plain.push_str(whole);
                }
            }
        }
        plain.push_str(rest);
        keep(&mut out, &plain);
        Ok(out)
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
fn shown(text: &str) -> String {
    format!("\"{}\"", printable(text, 200))
}

fn is_variable(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
}

/// The variable for an input: `api-key` is API_KEY.
fn variable(id: &str) -> String {
    let name: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    if is_variable(&name) { name } else { format!("INPUT_{name}") }
}

/// A name that an instance can have, and that is like the client's.
fn fit(was: &str) -> String {
    if check_name(was).is_ok() {
        return was.to_owned();
    }
    let fine = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = was.trim().chars().map(fine).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    let name = words.join("-");
    let name: String = name.trim_start_matches(['-', '.']).chars().take(64).collect();
    if name.is_empty() { "server".to_owned() } else { name }
}

/// The name itself, or the first one with a number behind it that is free.
fn unique(name: &str, join: &str, longest: usize, free: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|n| {
        let end = format!("{join}{n}");
        let head: String = name.chars().take(longest.saturating_sub(end.len())).collect();
        head + &end
    });
    std::iter::once(name.to_owned()).chain(numbered).find(|name| free(name)).unwrap_or_default()
}

/// The instance file.
fn written(file: &str, entries: &[Entry]) -> String {
    let mut out =
        format!("// An instance of mcpdaemon, made from {} by mcpdaemon --import.\n//\n", printable(file, 200));
    let all = || entries.iter().flat_map(|e| e.here.as_ref().ok().into_iter().chain(&e.off));
    if all().any(|c| !c.env.is_empty()) {
        out.push_str(
            "// The values of `env` are as they were, and may be secret: keep this file from others (chmod 600), or write\n\
             // \"${NAME}\" and set NAME in the environment of the daemon.\n//\n",
        );
    }
    out.push_str(
        "// A child has PATH, HOME, LANG and TZ of the daemon and what `env` sets; `pass_env: [\"NAME\"]` passes more on. It\n\
         // starts in / unless `cwd` says where. If it downloads itself at its first start, it may need `start_timeout: \"2m\"`.\n\
         // All keys are in mcpdaemon.ron(5); mcpdaemon -t -c FILE checks it.\n(\n    servers: {\n",
    );
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if let Err(why) = &entry.here {
            comment(&mut out, &format!("{} is not carried over: {why}.", shown(&entry.was)));
        }
        for note in &entry.notes {
            comment(&mut out, note);
        }
        match (&entry.here, &entry.off) {
            (Ok(command), _) => server(&mut out, "        ", &entry.name, command),
            (_, Some(command)) => server(&mut out, "        // ", &entry.name, command),
            _ => {}
        }
    }
    out.push_str("    },\n)\n");
    out
}

/// A comment, broken where a line would be too long.
fn comment(out: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + word.chars().count() > 110 {
            let _ = writeln!(out, "        //{line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "        //{line}");
}

fn server(out: &mut String, margin: &str, name: &str, command: &Command) {
    let words: Vec<String> = command.words.iter().map(|w| quoted(w)).collect();
    let _ = writeln!(out, "{margin}{}: Stdio(", quoted(name));
    let _ = writeln!(out, "{margin}    command: [{}],", words.join(", "));
    if !command.env.is_empty() {
        let _ = writeln!(out, "{margin}    env: {{");
        for (key, value) in &command.env {
            let _ = writeln!(out, "{margin}        {}: {},", quoted(key), quoted(value));
        }
        let _ = writeln!(out, "{margin}    }},");
    }
    if let Some(cwd) = &command.cwd {
        let _ = writeln!(out, "{margin}    cwd: {},", quoted(cwd));
    }
    let _ = writeln!(out, "{margin}),");
}

impl Imported {
    /// What to tell the user who asked for it.
    pub fn summary(&self) -> String {
        let more = match self.left_out {
            0 => String::new(),
            n => format!("; {n} not carried over, the comments say why"),
        };
        format!("{} imported{more}", count(self.servers, "server"))
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
