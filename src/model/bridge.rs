//! Many servers as one: the names that their tools and prompts have on the bridge, who owns a resource, and pages of
//! what is listed.
//!
//! Pure. Items of lists are never rebuilt: their name is replaced in the text, everything else stays as the server wrote
//! it. Every name is one that the interfaces of language models accept: 1 to 64 letters, digits, `_` and `-`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::envelope::{Envelope, Span, batch, decode, is_id, member, members, plain_text, quote, spliced};
use super::method;
use super::spelling::same_letters;

/// The longest name on the bridge.
pub const LONGEST: usize = 64;
/// Between the server's name and the tool's.
const BETWEEN: &str = "__";
/// The most items of one page, and about its most bytes.
const PAGE_ITEMS: usize = 1000;
const PAGE_BYTES: usize = 4 << 20;

/// How the bridge names tools and prompts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Naming {
    /// `server__tool`, and no longer than this: clients put more before it.
    Prefix { longest: usize },
    /// As the server calls it; of two with the same name the first server's, in the order of their names.
    First,
    /// Bare names; of servers with the same one, the first in this order has it. Servers that are not named come behind.
    Priority(Vec<String>),
    /// As the server calls it; what two servers have belongs to neither.
    Error,
}

impl Default for Naming {
    fn default() -> Self {
        Naming::Prefix { longest: LONGEST }
    }
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum List {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl List {
    pub const ALL: [List; 4] = [List::Tools, List::Prompts, List::Resources, List::Templates];

    /// The method that asks for it.
    pub fn method(self) -> &'static str {
        match self {
            List::Tools => method::TOOLS_LIST,
            List::Prompts => method::PROMPTS_LIST,
            List::Resources => method::RESOURCES_LIST,
            List::Templates => method::TEMPLATES_LIST,
        }
    }

    /// The list that a method asks for.
    pub fn of(method: &str) -> Option<List> {
        List::ALL.into_iter().find(|l| l.method() == method)
    }

    /// The member of the result that holds it.
    pub fn member(self) -> &'static str {
        match self {
            List::Tools => "tools",
            List::Prompts => "prompts",
            List::Resources => "resources",
            List::Templates => "resourceTemplates",
        }
    }

    /// The capability that a server has if it can be asked.
    pub fn capability(self) -> &'static str {
        match self {
            List::Templates => "resources",
            other => other.member(),
        }
    }

    /// The member of an item that names it.
    fn key(self) -> &'static str {
        match self {
            List::Tools | List::Prompts => "name",
            List::Resources => "uri",
            List::Templates => "uriTemplate",
        }
    }
}

/// The items of one page of a server's list, as it wrote them, with the name or URI of each; and the cursor behind it.
pub fn read_page(list: List, result: &str) -> Option<(Vec<Item>, Option<String>)> {
    let items = batch(member(result, list.member())?)?;
    let named = items.into_iter().filter_map(|text| {
        // One that is named twice would be two things to two readers.
        let all = members(text);
        let mut named = all.iter().filter(|(key, _)| key == list.key());
        let name = named.next().map(|(_, span)| &text[span.clone()]).filter(|n| n.starts_with('"'))?;
        named.next().is_none().then(|| Item { name: decode(name).into_owned(), text: text.to_owned() })
    });
    let cursor = member(result, "nextCursor").filter(|c| *c != "null").map(str::to_owned);
    Some((named.collect(), cursor))
}

/// One tool, prompt, resource or template of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub text: String,
}

/// One of them on the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What clients call it.
    pub name: String,
    pub server: String,
    /// What its server calls it.
    pub own: String,
    pub text: String,
}

/// All that is listed, in order, and what is not because two servers have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    pub listed: Vec<Listed>,
    /// Each such name with its servers.
    pub conflicts: BTreeMap<String, Vec<String>>,
    /// Where each stands in the list, by its name.
    places: HashMap<String, usize>,
}

impl Merged {
    /// What has this name.
    pub fn get(&self, name: &str) -> Option<&Listed> {
        self.places.get(name).and_then(|at| self.listed.get(*at))
    }
}

/// The names of a set of servers.
#[derive(Clone, Debug)]
pub struct Names {
    naming: Naming,
    /// In the order in which they are listed.
    servers: Vec<String>,
    /// What stands before the names of some of them, in place of their own.
    aliases: HashMap<String, String>,
    /// Whose names begin with what: there may be many servers, and each call asks.
    prefixes: HashMap<String, String>,
}

impl Names {
    pub fn new(naming: &Naming, servers: impl IntoIterator<Item = String>) -> Names {
        let mut servers: Vec<String> = servers.into_iter().collect();
        servers.sort_unstable();
        if let Naming::Priority(order) = naming {
            servers.sort_by_key(|s| order.iter().position(|o| o == s).unwrap_or(order.len()));
        }
        let (aliases, prefixes) = Default::default();
        Names { naming: naming.clone(), servers, aliases, prefixes }.aliased(HashMap::new())
    }

    /// With what stands before the names of some servers, in place of their own.
    pub fn aliased(self, aliases: HashMap<String, String>) -> Names {
        let mut names = Names { aliases, ..self };
        let prefix = |server: &String| (names.prefix(server).to_owned(), server.clone());
        names.prefixes = names.servers.iter().map(prefix).collect();
        names
    }

    /// What stands before a server's names.
    fn prefix<'n>(&'n self, server: &'n str) -> &'n str {
        self.aliases.get(server).map_or(server, String::as_str)
    }

    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// What a server's tool or prompt is called, whatever the others have.
    ///
    /// It depends on the configuration alone, so that a server that is down for a while changes no name of another. A name
    /// that cannot be taken as it is, or could be taken for another server's, ends with a piece of a hash.
    pub fn published(&self, server: &str, own: &str) -> String {
        let plain = match self.naming {
            Naming::Prefix { .. } => format!("{}{BETWEEN}{own}", self.prefix(server)),
            _ => own.to_owned(),
        };
        let longest = if let Naming::Prefix { longest } = self.naming { longest } else { LONGEST };
        let fits = !plain.is_empty() && plain.len() <= longest && plain.bytes().all(is_fine);
        if fits && (!self.has_prefixes() || self.longest_prefix(&plain) == Some(server)) {
            return plain;
        }
        let mut name: String = plain.chars().map(|c| if c.is_ascii() && is_fine(c as u8) { c } else { '_' }).collect();
        name.truncate(longest - 9);
        let hash = Sha256::digest(format!("{server}\0{own}"));
        name.push('_');
        name.extend(hash.iter().take(4).map(|b| format!("{b:02x}")));
        name
    }

    fn has_prefixes(&self) -> bool {
        matches!(self.naming, Naming::Prefix { .. })
    }

    /// The server that a name with a prefix would be taken for.
    fn longest_prefix(&self, name: &str) -> Option<&str> {
        let ends = (0..name.len()).rev().filter(|end| name.as_bytes()[*end..].starts_with(BETWEEN.as_bytes()));
        ends.filter_map(|end| self.prefixes.get(&name[..end])).map(String::as_str).next()
    }

    /// Whose tool it is and what that calls it, where the name says so by itself.
    pub fn owner<'n>(&self, name: &'n str) -> Option<(&str, &'n str)> {
        if !self.has_prefixes() || has_hash(name) {
            return None;
        }
        let server = self.longest_prefix(name)?;
        let own = &name[self.prefix(server).len() + BETWEEN.len()..];
        (!own.is_empty() && self.published(server, own) == name).then_some((server, own))
    }

    /// Whose page of an app it is, and what that calls it.
    pub fn page_owner(&self, uri: &str) -> Option<(&str, String)> {
        let rest = uri.strip_prefix(UI)?;
        let server = self.servers.iter().filter(|s| rest.strip_prefix(s.as_str()).is_some_and(|r| r.starts_with('/')));
        let server = server.max_by_key(|s| s.len())?;
        Some((server, format!("{UI}{}", &rest[server.len() + 1..])))
    }

    /// The servers that could have the same name, and a better right to it.
    pub fn rivals<'s>(&'s self, server: &'s str) -> impl Iterator<Item = &'s str> {
        let (all, first) = (matches!(self.naming, Naming::Error), !self.has_prefixes());
        let before = self.servers.iter().take_while(move |s| all || *s != server);
        before.filter(move |s| first && *s != server).map(String::as_str)
    }

    /// The lists of the servers as one.
    pub fn merge(&self, list: List, of: &HashMap<String, Arc<Vec<Item>>>) -> Merged {
        let all = self.servers.iter().filter_map(|s| Some((s, of.get(s)?)));
        let all = all.flat_map(|(server, items)| items.iter().map(move |item| (server, item)));
        let mut merged = Merged::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut taken = HashSet::new();
        for (server, item) in all {
            let mut name = match list {
                List::Tools | List::Prompts => self.published(server, &item.name),
                List::Resources | List::Templates => ui_alias(server, &item.name).unwrap_or_else(|| item.name.clone()),
            };
            if let Some(first) = places.get(&name).map(|at| &merged.listed[*at].server) {
                if first == server {
                    // Twice by the same server: a mistake there, and no second thing.
                    continue;
                }
                match (&self.naming, list) {
                    (Naming::Error, _) => {
                        merged.conflicts.entry(name).or_insert_with(|| vec![first.clone()]).push(server.clone());
                        continue;
                    }
                    (Naming::Prefix { .. }, List::Resources) => name = alias(server, &item.name),
                    _ => continue,
                }
            }
            if !taken.insert(name.clone()) {
                continue;
            }
            places.insert(name.clone(), merged.listed.len());
            let mut text = if name == item.name { item.text.clone() } else { renamed(list, &item.text, &name) };
            if list == List::Tools {
                text = with_page_of(server, text);
            }
            merged.listed.push(Listed { name, server: server.clone(), own: item.name.clone(), text });
        }
        let conflicts = &merged.conflicts;
        merged.listed.retain(|l| !conflicts.contains_key(&l.name));
        merged.places = merged.listed.iter().enumerate().map(|(at, l)| (l.name.clone(), at)).collect();
        merged
    }
}

/// Whether a name ends as one that could not be taken as it was.
fn has_hash(name: &str) -> bool {
    let tail = name.len().checked_sub(9).and_then(|at| name.as_bytes().get(at..));
    tail.is_some_and(|t| t[0] == b'_' && t[1..].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_fine(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')
}

/// The URI of a resource that another server has as well: its scheme (RFC 3986 section 3.1) gets the server's name.
fn alias(server: &str, uri: &str) -> String {
    let scheme: String = server.chars().map(|c| if c == '_' { '-' } else { c }).collect();
    let letter = if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "s" };
    format!("{letter}{scheme}+{uri}")
}

/// The scheme of the pages of MCP Apps (SEP-1865).
const UI: &str = "ui://";

/// The URI of a page of an app on the bridge: servers call theirs alike, and hosts know them by the scheme. None for what
/// is no such page.
fn ui_alias(server: &str, uri: &str) -> Option<String> {
    uri.strip_prefix(UI).map(|rest| format!("{UI}{server}/{rest}"))
}

/// The answer of a server with the links to its pages as they are called on the bridge; None where it has none.
pub fn with_pages_of(server: &str, e: &Envelope<'_>) -> Option<String> {
    const BEGIN: &str = "\"ui://";
    let span = e.result.clone()?;
    let (text, result) = (e.text(), &e.text()[span.clone()]);
    let mut changes: Vec<(Span, String)> = Vec::new();
    for (at, _) in result.match_indices(BEGIN) {
        // The quotes of a text in a text are escaped, so this is the value of a member, if one that holds a URI is before it.
        let before = result[..at].trim_end().strip_suffix(':').map(str::trim_end);
        let is_link = |key: &str| before.is_some_and(|before| before.ends_with(key));
        if !["\"uri\"", "\"resourceUri\"", "\"ui/resourceUri\""].into_iter().any(is_link) {
            continue;
        }
        let Some(length) = result[at + 1..].find(['"', '\\']) else { continue };
        let uri = &result[at + 1..at + 1 + length];
        if let Some(alias) = ui_alias(server, uri) {
            changes.push((span.start + at + 1..span.start + at + 1 + length, alias));
        }
    }
    let changes: Vec<(Span, &str)> = changes.iter().map(|(span, uri)| (span.clone(), uri.as_str())).collect();
    (!changes.is_empty()).then(|| spliced(text, &changes))
}

/// A tool whose page is the one of its own server.
fn with_page_of(server: &str, text: String) -> String {
    // In a section of its own, and as it was before that.
    let place = || {
        let (_, meta) = members(&text).into_iter().find(|(key, _)| key == "_meta")?;
        let inside = |outer: &Span, key: &str| {
            let (_, span) = members(&text[outer.clone()]).into_iter().find(|(k, _)| k == key)?;
            Some(outer.start + span.start..outer.start + span.end)
        };
        let new = inside(&meta, "ui").and_then(|ui| inside(&ui, "resourceUri"));
        Some([new, inside(&meta, "ui/resourceUri")])
    };
    let mut found: Vec<Span> = place().into_iter().flatten().flatten().collect();
    found.sort_by_key(|span| span.start);
    let renamed = |span: &Span| Some((span.clone(), quote(&ui_alias(server, &decode(&text[span.clone()]))?)));
    let changes: Vec<(Span, String)> = found.iter().filter_map(renamed).collect();
    if changes.is_empty() {
        return text;
    }
    let changes: Vec<(Span, &str)> = changes.iter().map(|(span, uri)| (span.clone(), uri.as_str())).collect();
    spliced(&text, &changes)
}

/// An item under another name.
fn renamed(list: List, text: &str, name: &str) -> String {
    let span = members(text).into_iter().find(|(key, _)| key == list.key()).map(|(_, span)| span);
    let name = quote(name);
    span.map_or_else(|| text.to_owned(), |span| spliced(text, &[(span, &name)]))
}

/// The page behind a cursor. An error is a cursor that was never given, or belongs to what is no longer listed.
pub fn page(list: List, all: &[Listed], cursor: Option<&str>) -> Result<String, &'static str> {
    let from = match cursor {
        None => 0,
        Some(cursor) => {
            let decoded = data_encoding::BASE64URL_NOPAD.decode(cursor.as_bytes()).ok();
            let after = decoded.and_then(|b| String::from_utf8(b).ok()).ok_or("this cursor was not given here")?;
            let place = all.iter().position(|l| l.name == after);
            place.ok_or("what this cursor points at is no longer listed: begin again without one")? + 1
        }
    };
    let (mut text, mut count) = (format!(r#"{{"{}":["#, list.member()), 0);
    for item in &all[from..] {
        if count == PAGE_ITEMS || (count > 0 && text.len() + item.text.len() > PAGE_BYTES) {
            break;
        }
        if count > 0 {
            text.push(',');
        }
        text.push_str(&item.text);
        count += 1;
    }
    text.push(']');
    if let Some(last) = all[from..].get(count.wrapping_sub(1)).filter(|_| from + count < all.len()) {
        let cursor = data_encoding::BASE64URL_NOPAD.encode(last.name.as_bytes());
        text.push_str(&format!(r#","nextCursor":"{cursor}""#));
    }
    text.push('}');
    Ok(text)
}

/// Whether a URI can be what a template (RFC 6570) gives: the text around its expressions is there, in order.
pub fn fits_template(template: &str, uri: &str) -> bool {
    let mut pieces = template.split('{').map(|p| p.split_once('}').map_or(p, |(_, text)| text));
    let Some(mut rest) = uri.strip_prefix(pieces.next().unwrap_or("")) else { return false };
    let mut last = None;
    for piece in pieces {
        last = Some(piece);
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    // What stands behind the last expression is the end.
    match last {
        None => rest.is_empty(),
        Some("") => true,
        Some(end) => uri.ends_with(end),
    }
}

/// The answer to `tools/list` with only those tools in it that are admitted; None where that changes nothing.
pub fn filtered(e: &Envelope<'_>, admits: &dyn Fn(&str) -> bool) -> Option<String> {
    let tools = member(e.get(&e.result)?, "tools")?;
    let all = batch(tools)?;
    let named = |text: &&str| member(text, "name").and_then(plain_text).is_some_and(|n| admits(&n));
    let kept: Vec<&str> = all.iter().copied().filter(named).collect();
    if kept.len() == all.len() {
        return None;
    }
    let at = tools.as_ptr() as usize - e.text().as_ptr() as usize;
    Some(spliced(e.text(), &[(at..at + tools.len(), &format!("[{}]", kept.join(",")))]))
}

/// How much of a URI a template fixes: of several that fit, the one that says most is meant.
pub fn template_weight(template: &str) -> usize {
    template.split('{').map(|p| p.split_once('}').map_or(p, |(_, text)| text).len()).sum()
}

/// Whether a name is wanted: `*` in a pattern stands for any text. Without patterns to allow, everything is.
pub fn admits(allow: Option<&[String]>, deny: &[String], name: &str) -> bool {
    let allowed = |patterns: &[String]| patterns.iter().any(|p| matches(p, name));
    // A server may find its tools without regard to case or signs: what is denied by its name is so in any spelling, and
    // what is by a pattern in any case.
    let denied = || {
        let lower = name.to_lowercase();
        deny.iter().any(|p| matches(&p.to_lowercase(), &lower) || (!p.contains('*') && same_letters(name, p)))
    };
    allow.is_none_or(allowed) && (deny.is_empty() || !denied())
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A client-side id for what a child of one session asks: ids of several children could be the same.
pub fn client_id(server: &str, id: &str) -> String {
    quote(&format!("{server}/{id}"))
}

/// The server and the id that such an id stands for.
pub fn child_id(id: &str) -> Option<(String, String)> {
    let text = decode(Some(id).filter(|id| id.starts_with('"'))?).into_owned();
    let (server, own) = text.split_once('/')?;
    // It is put where the id of a message stands, and must not be more than one.
    is_id(own).then(|| (server.to_owned(), own.to_owned()))
}

#[cfg(test)]
#[path = "bridge_tests.rs"]
mod tests;
