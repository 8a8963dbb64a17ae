//! Reads RON field by field, so that every problem of a file is found in one go and each has an exact position.
//!
//! The `ron` crate parses every value; what this module adds is that a section is taken apart into raw fields first
//! and each field is read on its own. A problem in one costs nothing but that one. The reader also notes each value
//! and where it came from (file, environment, flag, default), which is what `mcpdaemon -T` prints. It must not know
//! which keys there are: those are in the sections that call it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ron::extensions::Extensions;
use ron::value::RawValue;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::account::Account;
use super::syntax::mistake;
use crate::model::text::{printable, suggest};

/// One thing that is wrong in one place; prints as `prod.ron:12:5: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// Line and column, both from 1; None where no place can be named.
    pub place: Option<(usize, usize)>,
    pub what: String,
}

/// The longest line of a problem, in bytes.
const LINE: usize = 2000;

impl fmt::Display for Problem {
    /// What it quotes of the file may be anything, and goes to a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.what.split('\n').map(|line| printable(line, LINE)).collect();
        let what = lines.join("\n");
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {what}", self.file),
            None => write!(f, "{}: {what}", self.file),
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Line(usize),
    Environment(&'static str),
    Flag(&'static str),
}

/// One effective value, for `-T`.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// `key: (` or `"name": Stdio(`; the text is what stands before the bracket.
    Open(String),
    Close(char),
    Value {
        key: String,
        text: String,
        origin: Origin,
    },
}

/// Finds an account by user and group.
pub type FindAccount = dyn Fn(Option<&str>, Option<&str>) -> Result<Account, String>;

/// What reading may look at outside the file. Pure: it is handed in.
pub struct Surroundings<'e> {
    /// The environment, for `${VAR}` and `~`.
    pub var: &'e dyn Fn(&str) -> Option<String>,
    /// Finds a program as execvp(3) would, with the given PATH (or the daemon's own).
    pub find_program: &'e dyn Fn(&str, Option<&str>) -> Option<PathBuf>,
    pub is_dir: &'e dyn Fn(&Path) -> bool,
    /// Looks up a user and a group, by name or number; without a user, the daemon's own with another group.
    pub account: &'e FindAccount,
    /// Looks up a group by name.
    pub group: &'e dyn Fn(&str) -> Result<u32, String>,
    /// Reads a file that the configuration names.
    pub read: &'e dyn Fn(&Path) -> Result<String, String>,
    /// The effective user and group ID of the daemon.
    pub uid: u32,
    pub gid: u32,
    /// The memory that there is for this program, in bytes.
    pub memory: u64,
}

/// One file being read.
pub struct Reader<'a> {
    name: String,
    dir: PathBuf,
    text: &'a str,
    around: &'a Surroundings<'a>,
    expands: bool,
    problems: RefCell<Vec<Problem>>,
    shown: RefCell<Vec<Shown>>,
    /// Something secret stands in the file itself.
    secret: Cell<bool>,
    /// Other files that hold something secret.
    secret_files: RefCell<Vec<PathBuf>>,
}

/// A value as it stands in the file: a slice of its text.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a>(pub &'a str);

fn options() -> ron::Options {
    ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME)
}

impl<'a> Reader<'a> {
    /// `name` is what problems call the file; `dir` is where relative paths start. Without `expands`, `~` and `${VAR}`
    /// are plain text (a command line has been through a shell already).
    pub fn new(name: String, dir: PathBuf, text: &'a str, around: &'a Surroundings<'a>, expands: bool) -> Self {
        Reader {
            name,
            dir,
            text,
            around,
            expands,
            problems: RefCell::default(),
            shown: RefCell::default(),
            secret: Cell::new(false),
            secret_files: RefCell::default(),
        }
    }

    /// The whole file as a node, or the one problem that makes it unreadable.
    pub fn root(&self) -> Option<Node<'a>> {
        match options().from_str::<&'a RawValue>(self.text) {
            // JSON can be read as RON, and is not what is meant.
            Ok(raw) if node(raw).0.starts_with('{') => {
                let what = not_ron(self.text).unwrap_or_default();
                self.problems.borrow_mut().push(Problem { file: self.name.clone(), place: Some((1, 1)), what });
                None
            }
            Ok(raw) => Some(node(raw)),
            Err(e) => {
                let (line, column) = (e.span.end.line.max(1), e.span.end.col.max(1));
                if let Some(what) = not_ron(self.text) {
                    self.problems.borrow_mut().push(Problem { file: self.name.clone(), place: Some((1, 1)), what });
                    return None;
                }
                let (place, what) = mistake(self.text, line)
                    .unwrap_or_else(|| ((line, column), e.code.to_string().trim_end_matches('.').to_owned()));
                self.problems.borrow_mut().push(Problem { file: self.name.clone(), place: Some(place), what });
                None
            }
        }
    }

    /// Line and column of a slice of the file.
    pub fn place(&self, slice: &str) -> (usize, usize) {
        let at = (slice.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize).min(self.text.len());
        let before = &self.text[..at];
        let line = 1 + before.bytes().filter(|b| *b == b'\n').count();
        let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
        (line, column)
    }

    pub fn problem(&self, at: Node<'_>, what: impl Into<String>) {
        // Nobody has seen the text that is made of a command line.
        let place = Some(self.place(at.0)).filter(|_| !self.is_command_line());
        self.problems.borrow_mut().push(Problem { file: self.name.clone(), place, what: what.into() });
    }

    /// A problem that is not of the file, but of a flag or a variable.
    pub fn problem_of(&self, whose: &str, what: String) {
        self.problems.borrow_mut().push(Problem { file: whose.to_owned(), place: None, what });
    }

    pub fn show(&self, shown: Shown) {
        self.shown.borrow_mut().push(shown);
    }

    /// Notes that something secret stands in the file itself.
    pub fn note_secret(&self) {
        self.secret.set(true);
    }

    pub fn has_secret(&self) -> bool {
        self.secret.get()
    }

    /// Notes another file that may hold something secret.
    pub fn note_secret_file(&self, path: PathBuf) {
        let mut all = self.secret_files.borrow_mut();
        if !all.contains(&path) {
            all.push(path);
        }
    }

    /// The other files that hold something secret.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        self.secret_files.borrow().clone()
    }

    /// Whether it is a command line, where not everything can be said that a file can say.
    pub fn is_command_line(&self) -> bool {
        !self.expands
    }

    pub fn around(&self) -> &'a Surroundings<'a> {
        self.around
    }

    /// Everything that was found, problems in the order of the file.
    pub fn finish(self) -> (Vec<Problem>, Vec<Shown>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|p| p.place);
        (problems, self.shown.into_inner())
    }

    /// A RON value of a plain Rust type; the problem names what was expected.
    pub fn plain<T: Deserialize<'a>>(&self, node: Node<'a>, expected: &str) -> Option<T> {
        match options().from_str(node.0) {
            Ok(value) => Some(value),
            Err(_) => {
                self.problem(node, format!("expected {expected}, found {}", found(node)));
                None
            }
        }
    }

    /// A string, with `~`, `${VAR}`, `${file:PATH}` and `${cred:NAME}` expanded.
    pub fn string(&self, node: Node<'a>, expected: &str) -> Option<String> {
        self.pieces(node, expected).map(|(text, _)| text)
    }

    /// A string, and what it is made of.
    pub fn pieces(&self, node: Node<'a>, expected: &str) -> Option<(String, Vec<Piece>)> {
        let raw: String = self.plain(node, expected)?;
        let made = match self.expands {
            true => pieces(&raw, &self.dir, self.around.var),
            false => Ok(vec![Piece::Text(raw)]),
        };
        let joined = made.and_then(|pieces| Ok((Piece::join(&pieces, self.around.read)?, pieces)));
        match joined {
            Ok((text, _)) if text.contains('\0') => {
                self.problem(node, "a NUL character cannot be part of this");
                None
            }
            Ok((text, pieces)) => {
                for piece in &pieces {
                    if let Piece::File(path, _) = piece {
                        self.note_secret_file(path.clone());
                    }
                }
                Some((text, pieces))
            }
            Err(what) => {
                self.problem(node, what);
                None
            }
        }
    }

    /// A path, absolute: relative ones start at the file's folder.
    pub fn path(&self, node: Node<'a>) -> Option<PathBuf> {
        let text = self.string(node, "a path in quotes")?;
        if text.is_empty() {
            self.problem(node, "an empty path");
            return None;
        }
        Some(self.dir.join(text))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The elements of a list.
    pub fn list(&self, node: Node<'a>, expected: &str) -> Option<Vec<Node<'a>>> {
        let raws: Vec<&'a RawValue> = self.plain(node, expected)?;
        Some(raws.into_iter().map(self::node).collect())
    }

    /// The entries of a map `{"key": value}`.
    pub fn map(&self, node: Node<'a>, expected: &str) -> Option<Vec<(Node<'a>, Node<'a>)>> {
        let Pairs(raws) = self.plain(node, expected)?;
        Some(raws.into_iter().map(|(k, v)| (self::node(k), self::node(v))).collect())
    }

    /// `Name`, `Name(...)`: the name and what stands in the brackets, brackets included.
    pub fn variant(&self, node: Node<'a>) -> Option<(&'a str, Option<Node<'a>>)> {
        let end = node.0.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(node.0.len());
        let (name, rest) = node.0.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let rest = rest.trim_start();
        Some((name, (!rest.is_empty()).then_some(Node(rest))))
    }

    /// The one value in `(...)` behind a variant's name.
    pub fn only(&self, node: Node<'a>, expected: &str) -> Option<Node<'a>> {
        let (raw,): (&'a RawValue,) = self.plain(node, expected)?;
        Some(self::node(raw))
    }

    /// The fields of `(key: value, ...)`.
    pub fn section<'r>(&'r self, node: Node<'a>) -> Option<Section<'r, 'a>> {
        let Fields(fields) = match options().from_str(node.0) {
            Ok(fields) => fields,
            Err(_) => {
                self.problem(node, format!("expected (key: value, ...), found {}", found(node)));
                return None;
            }
        };
        let mut entries: Vec<Entry<'a>> = Vec::with_capacity(fields.len());
        for (key, raw) in fields {
            if entries.iter().any(|e| e.key == key) {
                self.problem(Node(key), format!("'{key}' is given twice"));
                continue;
            }
            entries.push(Entry { key, node: self::node(raw), used: false });
        }
        Some(Section { reader: self, entries, known: Vec::new() })
    }

    /// A section with nothing in it: all defaults.
    pub fn empty<'r>(&'r self) -> Section<'r, 'a> {
        Section { reader: self, entries: Vec::new(), known: Vec::new() }
    }

    /// Says that `word` is not one of `known`, with the nearest one.
    pub fn unknown(&self, at: Node<'_>, noun: &str, word: &str, known: &[&str]) {
        let hint = match suggest(word, known.iter().copied()) {
            Some(near) => format!(", did you mean '{near}'?"),
            None => format!(" (known: {})", known.join(", ")),
        };
        self.problem(at, format!("unknown {noun} '{word}'{hint}"));
    }
}

/// What a file is that is no instance file at all, where that shows; and what to do then.
fn not_ron(text: &str) -> Option<String> {
    let comment = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with("//");
    let first = text.lines().find(|line| !comment(line)).map(str::trim);
    let Some(first) = first else {
        return Some("there is nothing in this file: an instance file is (servers: {\"NAME\": Stdio(...)})".to_owned());
    };
    if text.contains("\"mcpServers\"") || text.contains("\"context_servers\"") || text.contains("[mcp_servers") {
        return Some(
            "this is the configuration of an MCP client: 'mcpdaemon --import FILE' makes an instance file of it"
                .to_owned(),
        );
    }
    if first.starts_with('{') {
        return Some(
            "this is JSON, or begins as such: an instance file is RON, (key: value, ...) in parentheses".to_owned(),
        );
    }
    let key = first.split(':').next().unwrap_or("").trim();
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain && first.contains(':') {
        return Some("the whole file stands in parentheses: (key: value, ...)".to_owned());
    }
    None
}

fn node(raw: &RawValue) -> Node<'_> {
    Node(raw.trim().get_ron())
}

/// The first characters of what stands there, for a message.
fn found(node: Node<'_>) -> String {
    let first = node.0.lines().next().unwrap_or("").trim_end();
    match first.char_indices().nth(40) {
        Some((at, _)) => format!("{}...", &first[..at]),
        None if node.0.lines().count() > 1 => format!("{first} ..."),
        None => first.to_owned(),
    }
}

struct Entry<'a> {
    key: &'a str,
    node: Node<'a>,
    used: bool,
}

/// One `(key: value, ...)`. Ask for each key that exists, then call [`Section::finish`].
pub struct Section<'r, 'a> {
    pub reader: &'r Reader<'a>,
    entries: Vec<Entry<'a>>,
    known: Vec<&'static str>,
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// Never shown as written.
    const MASKED: bool = false;
    /// Reads it; a problem has been reported where this is None.
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self>;
    /// Writes it as RON.
    fn show(&self) -> String;
}

impl<'a> Section<'_, 'a> {
    /// The raw value of a key.
    pub fn node(&mut self, key: &'static str) -> Option<Node<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let entry = self.entries.iter_mut().find(|e| e.key == key)?;
        entry.used = true;
        Some(entry.node)
    }

    /// Where a node stands, as an origin.
    pub fn line(&self, node: Node<'a>) -> Origin {
        Origin::Line(self.reader.place(node.0).0)
    }

    pub fn show(&self, key: &str, text: String, origin: Origin) {
        self.reader.show(Shown::Value { key: key.to_owned(), text, origin });
    }

    /// The raw value of a key that may be absent: `None` is absent, `Some(x)` is x.
    pub fn optional(&mut self, key: &'static str) -> Option<Node<'a>> {
        let node = self.node(key)?;
        match self.reader.variant(node) {
            Some(("None", None)) => None,
            Some(("Some", Some(inner))) => self.reader.only(inner, "Some(value)"),
            _ => Some(node),
        }
    }

    /// A setting that may be absent.
    pub fn opt<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let node = self.optional(key);
        let value = node.and_then(|n| T::read(self.reader, n));
        match node {
            Some(node) => self.show_given(key, node, value.as_ref().map_or(String::new(), T::show)),
            None => self.show(key, "None".to_owned(), Origin::Default),
        }
        value
    }

    /// Shows a value of the file. What comes from the environment is shown as it was written, because it may be secret.
    pub fn show_given(&self, key: &str, node: Node<'a>, text: String) {
        let text = if node.0.contains('$') { node.0.to_owned() } else { text };
        self.show(key, text, self.line(node));
    }

    /// A setting with a default, of something that is shown as a whole.
    pub fn quiet<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.node(key).and_then(|n| T::read(self.reader, n)).unwrap_or(default)
    }

    /// A setting with a default.
    pub fn get<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.get_or(key, None, default)
    }

    /// A setting that a flag or the environment may override: flag > environment > file > default.
    pub fn get_or<T: Setting>(&mut self, key: &'static str, over: Option<(T, Origin)>, default: T) -> T {
        let node = self.node(key);
        let given = node.and_then(|n| T::read(self.reader, n));
        match (over, given, node) {
            (Some((value, origin)), ..) => {
                self.show(key, value.show(), origin);
                value
            }
            (None, Some(value), Some(node)) => {
                match T::MASKED {
                    true => self.show(key, value.show(), self.line(node)),
                    false => self.show_given(key, node, value.show()),
                }
                value
            }
            _ => {
                self.show(key, default.show(), Origin::Default);
                default
            }
        }
    }

    /// A time that must not be zero.
    pub fn time(&mut self, key: &'static str, default: Duration) -> Duration {
        self.time_or(key, None, default)
    }

    /// [`Section::time`] that the environment may override.
    pub fn time_or(&mut self, key: &'static str, over: Option<(Duration, Origin)>, default: Duration) -> Duration {
        let value = self.get_or(key, over, default);
        if value.is_zero()
            && let Some(entry) = self.entries.iter().find(|e| e.key == key)
        {
            self.reader.problem(entry.node, format!("'{key}' must be more than 0"));
        }
        value
    }

    /// A nested section; all defaults where it is absent.
    pub fn nested<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 'a>) -> T) -> T {
        let reader = self.reader;
        let inner = |n| match reader.variant(n) {
            Some(("Some", Some(inner))) => reader.only(inner, "Some((key: value, ...))"),
            _ => Some(n),
        };
        let section = self.node(key).and_then(inner).and_then(|n| reader.section(n));
        reader.show(Shown::Open(format!("{key}: (")));
        let mut section = section.unwrap_or_else(|| reader.empty());
        let value = read(&mut section);
        section.finish();
        reader.show(Shown::Close(')'));
        value
    }

    /// A nested section that can be switched off by `None`; all defaults where it is absent.
    pub fn nested_or_none<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 'a>) -> T) -> Option<T> {
        if let Some(node) = self.node(key)
            && let Some(("None", None)) = self.reader.variant(node)
        {
            self.show_given(key, node, "None".to_owned());
            return None;
        }
        Some(self.nested(key, read))
    }

    /// Whether a key that nobody has asked for looks like this one.
    pub fn is_respelled(&self, key: &str) -> bool {
        self.entries.iter().any(|e| !e.used && suggest(e.key, [key]).is_some())
    }

    /// Reports the keys that are not known.
    pub fn finish(self) {
        self.finish_beside("", &[]);
    }

    /// As [`Section::finish`]; `others` are keys that belong to some other `place`.
    pub fn finish_beside(self, place: &str, others: &[&str]) {
        for entry in self.entries.iter().filter(|e| !e.used) {
            let at = Node(entry.key);
            match others.contains(&entry.key) {
                true => {
                    let place = place.replace("KEY", entry.key);
                    self.reader.problem(at, format!("'{}' does not go here, but into {place}", entry.key));
                }
                false => self.reader.unknown(at, "key", entry.key, &self.known),
            }
        }
    }
}

/// A part of a text that is made of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The content of a file, without one line end behind it; the text in its place where it cannot be read.
    File(PathBuf, Option<String>),
}

impl Piece {
    pub fn is_file(&self) -> bool {
        matches!(self, Piece::File(..))
    }

    /// The whole text. The error names the file that cannot be read.
    pub fn join(pieces: &[Piece], read: &dyn Fn(&Path) -> Result<String, String>) -> Result<String, String> {
        let mut out = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::File(path, otherwise) => match (read(path), otherwise) {
                    (Ok(text), _) => {
                        let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
                        out.push_str(text.strip_prefix('\u{feff}').unwrap_or(text));
                    }
                    (Err(_), Some(otherwise)) => out.push_str(otherwise),
                    (Err(why), None) => return Err(format!("{}: {why}", path.display())),
                },
            }
        }
        Ok(out)
    }
}

/// Takes a text apart: a leading `~/` (of the text, or of a default in it), `${VAR}`, `${VAR:-default}`, `${file:PATH}` and
/// `${cred:NAME}` (systemd.exec(5), CREDENTIALS) stand for something; `$$` stands for `$`, and `$~` for `~`. Relative paths
/// start from `dir`.
pub fn pieces(text: &str, dir: &Path, var: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Piece>, String> {
    let text = home(text, var)?;
    let mut found = Vec::new();
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = tail.strip_prefix('~') {
            out.push('~');
            rest = after;
        } else if let Some(inner) = tail.strip_prefix('{') {
            let end = inner.find('}').ok_or("'${' without '}' (write '$$' for a plain '$')")?;
            let (name, default) = match inner[..end].split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (&inner[..end], None),
            };
            rest = &inner[end + 1..];
            if let Some(path) = named_file(name, dir, var)? {
                found.push(Piece::Text(std::mem::take(&mut out)));
                found.push(Piece::File(path, default.map(|d| home(d, var)).transpose()?));
                continue;
            }
            let value = var(name).filter(|v| !(v.is_empty() && default.is_some()));
            match (value, default) {
                (Some(value), _) => out.push_str(&value),
                (None, Some(default)) => out.push_str(&home(default, var)?),
                (None, None) => {
                    return Err(format!("${{{name}}} is not set in the environment (or write ${{{name}:-default}})"));
                }
            }
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    found.push(Piece::Text(out));
    found.retain(|piece| *piece != Piece::Text(String::new()));
    Ok(found)
}

/// The file that `file:PATH` or `cred:NAME` stands for.
fn named_file(name: &str, dir: &Path, var: &dyn Fn(&str) -> Option<String>) -> Result<Option<PathBuf>, String> {
    if let Some(path) = name.strip_prefix("file:") {
        return match path {
            "" => Err("${file:} needs a path: ${file:/etc/mcp/key}".to_owned()),
            path => Ok(Some(dir.join(home(path, var)?))),
        };
    }
    let Some(name) = name.strip_prefix("cred:") else { return Ok(None) };
    if name.is_empty() || name.contains('/') {
        return Err("${cred:NAME} needs the name of a credential, as LoadCredential= of the unit gives it".to_owned());
    }
    let folder = var("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        format!("${{cred:{name}}} needs LoadCredential={name}:PATH in the unit: CREDENTIALS_DIRECTORY is not set")
    })?;
    Ok(Some(Path::new(&folder).join(name)))
}

/// Writes a text so that [`pieces`] gives it back.
pub fn escaped(text: &str) -> String {
    let text = text.replace('$', "$$");
    match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("$~{rest}"),
        _ => text,
    }
}

/// `~` and `~/...` with the home directory in place.
fn home(text: &str, var: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            Ok(var("HOME").ok_or("'~' needs HOME, which is not set")? + rest)
        }
        _ => Ok(text.to_owned()),
    }
}

struct Ident<'a>(&'a str);

impl<'de> Deserialize<'de> for Ident<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Ident<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Ident<'de>, E> {
                Ok(Ident(key))
            }
        }
        d.deserialize_identifier(V)
    }
}

struct Fields<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("(key: value, ...)")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(Ident(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        d.deserialize_struct("", &[], V)
    }
}

struct Pairs<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{key: value, ...}")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(V)
    }
}
