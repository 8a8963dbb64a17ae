//! `auth`: who may connect.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::listen::Listen;
use super::read::Origin;
use super::read::{Node, Reader, Section};

/// Who may connect.
#[derive(Clone, Debug, PartialEq)]
pub enum Auth {
    /// Clients that know a token.
    Bearer { file: PathBuf, tokens: Vec<Token> },
    /// Processes of these users and groups, on Unix sockets.
    Peer { uids: Vec<u32>, gids: Vec<u32> },
}

/// A token, as far as we know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
}

/// Who was admitted, and by what: asked again at each reload, because a token can be replaced under the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The principal.
    pub name: Arc<str>,
    pub by: Credential,
}

/// What a client was admitted by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credential {
    /// The SHA-256 of a token.
    Token([u8; 32]),
    /// A process of the host.
    Peer { uid: u32, groups: Vec<u32> },
}

impl Auth {
    /// How clients are known, as the configuration calls it.
    pub fn method(&self) -> &'static str {
        match self {
            Auth::Bearer { .. } => "Bearer",
            Auth::Peer { .. } => "Peer",
        }
    }

    /// Whose token this is. Takes as long whichever of those it is, and if it is none.
    ///
    /// A line that was made by `echo TOKEN | sha256sum` holds the hash of the token and a line feed: the line is understood,
    /// because only who knows the token can make that hash.
    pub fn owner(&self, token: &[u8]) -> Option<Admitted> {
        let Auth::Bearer { tokens, .. } = self else { return None };
        let known = |digest: [u8; 32]| {
            let mut found = None;
            for one in tokens {
                let differs = one.digest.iter().zip(&digest).fold(0, |all, (a, b)| all | (a ^ b));
                if std::hint::black_box(differs) == 0 {
                    found = Some(one.name.as_str());
                }
            }
            found.map(|name| Admitted { name: name.into(), by: Credential::Token(digest) })
        };
        known(Sha256::digest(token).into()).or_else(|| known(with_line_feed(token)))
    }

    /// Whether the line of a token is the hash of the token and a line feed.
    pub fn is_of_line(token: &[u8], who: &Admitted) -> bool {
        who.by == Credential::Token(with_line_feed(token))
    }

    /// Whether a process with this user and these groups may connect.
    pub fn admits(&self, uid: u32, groups: &[u32]) -> bool {
        match self {
            Auth::Peer { uids, gids } => uids.contains(&uid) || groups.iter().any(|g| gids.contains(g)),
            Auth::Bearer { .. } => false,
        }
    }

    /// Whether this one, who was admitted before, still would be, by the same token or as the same process.
    pub fn still_admits(&self, who: &Admitted) -> bool {
        match (self, &who.by) {
            (Auth::Bearer { tokens, .. }, Credential::Token(digest)) => {
                tokens.iter().any(|t| *t.name == *who.name && t.digest == *digest)
            }
            (Auth::Peer { .. }, Credential::Peer { uid, groups }) => self.admits(*uid, groups),
            _ => false,
        }
    }

    /// Whether this principal, who was admitted before, could come again by any token.
    pub fn knows(&self, principal: &str) -> bool {
        match self {
            Auth::Bearer { tokens, .. } => tokens.iter().any(|t| t.name == principal),
            // Of a session it is not known which groups its client had.
            Auth::Peer { uids, gids } => {
                let uid = principal.strip_prefix("uid ").and_then(|uid| uid.parse().ok());
                uid.is_some_and(|uid| uids.contains(&uid) || !gids.is_empty())
            }
        }
    }
}

fn with_line_feed(token: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(token).chain_update(b"\n").finalize().into()
}

/// A line of the file of tokens.
pub fn line(name: &str, token: &[u8]) -> String {
    format!("{name} {}", data_encoding::HEXLOWER.encode(&Sha256::digest(token)))
}

/// Whether a name can stand in a line of the file of tokens.
pub fn check_token_name(name: &str) -> Result<(), String> {
    match !name.is_empty()
        && name.len() <= 64
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
    {
        true => Ok(()),
        false => Err(format!("'{name}' cannot be the name of a token: 1 to 64 bytes without blanks and '#'")),
    }
}

/// Reads `Bearer("file")` or `Peer(uids: [...], gids: [...])`.
pub(super) fn read(s: &mut Section<'_, '_>, listen: &[Listen]) -> Option<Auth> {
    let Some(node) = s.optional("auth") else {
        s.show("auth", "None".to_owned(), Origin::Default);
        return None;
    };
    let reader = s.reader;
    let auth = match reader.variant(node) {
        Some(("Bearer", Some(body))) => {
            // As other sections have keys, some write one here.
            let named = body.0.trim_start_matches('(').trim_start().starts_with("file");
            let at = match named {
                true => {
                    let mut inner = reader.section(body)?;
                    let at = inner.node("file");
                    inner.finish();
                    at?
                }
                false => reader.only(body, "Bearer(\"file with tokens\")")?,
            };
            let file = reader.path(at)?;
            s.show_given("auth", node, format!("Bearer({:?})", file.display().to_string()));
            let tokens = match (reader.around().read)(&file) {
                Ok(text) => tokens(reader, node, &file.display().to_string(), &text),
                Err(why) => {
                    reader.problem(node, format!("{}: cannot read the tokens: {why}", file.display()));
                    Vec::new()
                }
            };
            Auth::Bearer { file, tokens }
        }
        Some(("Peer", Some(body))) => {
            let mut inner = reader.section(body)?;
            let uids = ids(&mut inner, "uids", |name| (reader.around().account)(Some(name), None).map(|a| a.uid));
            let gids = ids(&mut inner, "gids", |name| (reader.around().group)(name));
            inner.finish();
            s.show_given("auth", node, format!("Peer(uids: {uids:?}, gids: {gids:?})"));
            if uids.is_empty() && gids.is_empty() {
                reader.problem(node, "'Peer' names nobody: nobody could connect");
            }
            if let Some(tcp) = listen.iter().find(|l| matches!(l, Listen::Tcp { .. })) {
                reader.problem(node, format!("'Peer' is for Unix sockets: '{tcp}' would refuse everybody"));
            }
            Auth::Peer { uids, gids }
        }
        Some((kind, _)) if !["Bearer", "Peer"].contains(&kind) => {
            reader.unknown(node, "way of authentication", kind, &["Bearer", "Peer"]);
            return None;
        }
        _ => {
            reader.problem(node, "expected Bearer(\"file\") or Peer(uids: [...], gids: [...])");
            return None;
        }
    };
    Some(auth)
}

/// Names or numbers of users or groups.
fn ids(s: &mut Section<'_, '_>, key: &'static str, find: impl Fn(&str) -> Result<u32, String>) -> Vec<u32> {
    let Some(list) = s.node(key) else { return Vec::new() };
    let nodes = s.reader.list(list, "a list of names or numbers").unwrap_or_default();
    let one = |node: Node<'_>| {
        if let Ok(number) = node.0.parse() {
            return Some(number);
        }
        let name = node.0.trim_matches('"');
        find(name).map_err(|why| s.reader.problem(node, why)).ok()
    };
    nodes.into_iter().filter_map(one).collect()
}

/// A token a line: a name, and the SHA-256 of the token in hexadecimal digits.
fn tokens<'a>(reader: &Reader<'a>, at: Node<'a>, file: &str, text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let wrong = |what: &str| reader.problem(at, format!("{file}:{}: {what}", number + 1));
        let Some((name, digest)) = line.split_once(char::is_whitespace) else {
            wrong("expected a name, and the SHA-256 of its token in hexadecimal digits");
            continue;
        };
        // Behind it stands the name of a file, where the line is sha256sum's own.
        let digest = digest.split_whitespace().next().unwrap_or("");
        let digest = data_encoding::HEXLOWER_PERMISSIVE.decode(digest.as_bytes()).ok();
        let Some(digest) = digest.and_then(|d| <[u8; 32]>::try_from(d).ok()) else {
            wrong(
                "the SHA-256 of a token has 64 hexadecimal digits: 'mcpdaemon --new-token NAME' prints such a line with its \
                 token",
            );
            continue;
        };
        if tokens.iter().any(|t| t.digest == digest) {
            wrong("this token is listed twice");
        }
        tokens.push(Token { name: name.to_owned(), digest });
    }
    if tokens.is_empty() {
        reader.problem(at, format!("{file}: there is no token in it: nobody could connect"));
    }
    tokens
}
