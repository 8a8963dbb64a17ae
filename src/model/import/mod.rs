//! An instance file from the file of a client.
//!
//! What a client replaces in a value becomes what the instance file has for it; everything else arrives at the server
//! as it was written. Each setting with an equivalent is carried over. What has none is said in a comment, beside what
//! has.
//!
//! - `clients`: where the servers stand in the file.
//! - `entry`: the keys of one server; `values`: what is replaced in their values.
//! - `bridge`: settings of the instance.
//! - `written`: the instance file.

mod bridge;
mod clients;
mod entry;
mod values;
mod written;

use std::collections::HashSet;

use crate::model::config::{Problem, check_name};
use crate::model::import::bridge::Instance;
use crate::model::import::clients::Found;
use crate::model::import::entry::{Entry, Here};
use crate::model::import::values::{shown, unique};
use crate::model::jsonc::{Document, Wrong};
use crate::model::text::count;

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
    if is_toml(file, text) {
        let json = json_of(text).map_err(problem)?;
        // What is wrong in it is found in another text, where a place says nothing.
        let placeless = |wrong: Wrong| Problem { file: file.to_owned(), place: None, what: wrong.what };
        let document = Document::new(&json).map_err(placeless)?;
        return read(file, &document).map_err(placeless);
    }
    let document = Document::new(text).map_err(problem)?;
    read(file, &document).map_err(problem)
}

fn read(file: &str, document: &Document) -> Result<Imported, Wrong> {
    let found = clients::find(file, document)?;
    let entries = entries(document, &found)?;
    let mut order: Vec<&(String, String, Entry)> =
        entries.iter().filter(|(.., e)| matches!(e.here, Here::Runs)).collect();
    // The lower, the sooner; 100 is what a server has that does not say.
    order.sort_by(|a, b| a.2.priority.unwrap_or(100.0).total_cmp(&b.2.priority.unwrap_or(100.0)));
    let order: Vec<String> = order.into_iter().map(|(_, name, _)| name.clone()).collect();
    let instance = match found.bridge {
        Some(node) => bridge::instance(document, node, &order)?,
        None => Instance::default(),
    };
    let servers = entries.iter().filter(|(.., e)| matches!(e.here, Here::Runs)).count();
    Ok(Imported {
        servers,
        left_out: entries.len() - servers,
        text: written::written(file, &instance, &found.rest, &entries),
    })
}

/// The servers: the client's name, ours, and what it is.
fn entries(document: &Document, found: &Found<'_>) -> Result<Vec<(String, String, Entry)>, Wrong> {
    let (mut entries, mut taken) = (Vec::<(String, String, Entry)>::new(), HashSet::new());
    for server in &found.servers {
        let was = &server.name;
        let name = unique(&fit(was), "-", 64, |name| !taken.contains(name));
        taken.insert(name.clone());
        let mut entry = entry::entry(document, &found.values, was, server.node, server.project.as_deref())?;
        if let Some(project) = &server.project {
            entry.notes.insert(0, format!("It is a server of the project {}.", shown(project)));
        }
        if name != *was && matches!(entry.here, Here::Runs) {
            let why = if check_name(was).is_ok() { "which another one has" } else { "which cannot be one here" };
            entry.notes.insert(0, format!("Its name was {}, {why}.", shown(was)));
        }
        if server.excluded && matches!(entry.here, Here::Runs) {
            entry.here = Here::Left("it is switched off there".to_owned());
        }
        entries.push((was.clone(), name, entry));
    }
    // A file that offers nothing at all is no help.
    if let Some((was, _, first)) = entries.first()
        && let Here::Left(why) = &first.here
        && entries.iter().all(|(.., e)| e.settings.is_none())
    {
        return Err(document.wrong(found.place, format!("none of its servers can be run here; {}: {why}", shown(was))));
    }
    if entries.is_empty() {
        return Err(document.wrong(found.place, "there is no server in it"));
    }
    Ok(entries)
}

/// Whether a text is TOML, by its name, or else by its first line that says something.
fn is_toml(file: &str, text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let section = first.starts_with('[') && first[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '[');
    let pair = first.starts_with(|c: char| c.is_ascii_alphabetic()) && first.contains('=');
    !first.starts_with('{') && (file.ends_with(".toml") || section || pair)
}

/// TOML as JSON, with which everything else goes on.
fn json_of(text: &str) -> Result<String, Wrong> {
    let value: serde_json::Value = toml::from_str(text)
        .map_err(|e| Wrong { at: e.span().map_or(0, |span| span.start), what: e.message().replace('\n', ", ") })?;
    Ok(value.to_string())
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
mod tests;
