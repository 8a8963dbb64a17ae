//! `auth`: who may connect.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::listen::Listen;
use super::read::Origin;
use super::read::{Node, Reader, Section};

/// Who may connect: whom one of these admits, asked in their order. There is at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth(Vec<Method>);

/// How clients are known.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
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
    /// The principal, in the one way of writing it: `token:ann`, `peer:ann`.
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

/// What stands before the name of a token in that of its principal.
const TOKEN: &str = "token:";
/// What stands before the name of a user of the host in that of its principal.
const PEER: &str = "peer:";

/// The principal that a user of the host is; by its number, where it has no name.
pub fn peer_principal(name: &str) -> Arc<str> {
    format!("{PEER}{name}").into()
}

/// A principal as a session id is bound to it. Those of tokens are as they were before there were other kinds.
pub fn bound_principal(principal: &str) -> &str {
    principal.strip_prefix(TOKEN).filter(|name| !name.contains(':')).unwrap_or(principal)
}

/// A principal as another version has written it. `user` is what a user of the host is called.
pub fn known_principal(written: &str, user: impl Fn(u32) -> String) -> String {
    match written.strip_prefix("uid ").and_then(|uid| uid.parse().ok()) {
        Some(uid) => format!("{PEER}{}", user(uid)),
        None if written.contains(':') => written.to_owned(),
        None => format!("{TOKEN}{written}"),
    }
}

impl Method {
    /// What the configuration calls it.
    fn name(&self) -> &'static str {
        match self {
            Method::Bearer { .. } => "Bearer",
            Method::Peer { .. } => "Peer",
        }
    }

    /// Whether a process with this user and these groups may connect.
    fn admits(&self, uid: u32, groups: &[u32]) -> bool {
        match self {
            Method::Peer { uids, gids } => uids.contains(&uid) || groups.iter().any(|g| gids.contains(g)),
            Method::Bearer { .. } => false,
        }
    }
}

impl Auth {
    #[cfg(test)]
    pub fn of(all: Vec<Method>) -> Auth {
        Auth(all)
    }

    /// How clients are known, as the configuration calls it.
    pub fn methods(&self) -> Vec<String> {
        self.0.iter().map(|method| method.name().to_owned()).collect()
    }

    /// Whether a token is one of the ways.
    pub fn takes_tokens(&self) -> bool {
        self.token_file().is_some()
    }

    /// Whether it matters which process is at the other end of a Unix socket.
    pub fn takes_peers(&self) -> bool {
        self.0.iter().any(|method| matches!(method, Method::Peer { .. }))
    }

    /// The file of tokens.
    pub fn token_file(&self) -> Option<&PathBuf> {
        self.0.iter().find_map(|method| match method {
            Method::Bearer { file, .. } => Some(file),
            Method::Peer { .. } => None,
        })
    }

    fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.0.iter().flat_map(|method| match method {
            Method::Bearer { tokens, .. } => tokens.as_slice(),
            Method::Peer { .. } => &[],
        })
    }

    /// Whose token this is. Takes as long whichever of those it is, and if it is none.
    ///
    /// A line that was made by `echo TOKEN | sha256sum` holds the hash of the token and a line feed: the line is understood,
    /// because only who knows the token can make that hash.
    pub fn owner(&self, token: &[u8]) -> Option<Admitted> {
        let known = |digest: [u8; 32]| {
            let mut found = None;
            for one in self.tokens() {
                let differs = one.digest.iter().zip(&digest).fold(0, |all, (a, b)| all | (a ^ b));
                if std::hint::black_box(differs) == 0 {
                    found = Some(one.name.as_str());
                }
            }
            found.map(|name| Admitted { name: format!("{TOKEN}{name}").into(), by: Credential::Token(digest) })
        };
        known(Sha256::digest(token).into()).or_else(|| known(with_line_feed(token)))
    }

    /// The name of the token of this principal, if its line is the hash of the token and a line feed.
    pub fn is_of_line<'w>(token: &[u8], who: &'w Admitted) -> Option<&'w str> {
        who.name.strip_prefix(TOKEN).filter(|_| who.by == Credential::Token(with_line_feed(token)))
    }

    /// Whether a process with this user and these groups may connect.
    pub fn admits(&self, uid: u32, groups: &[u32]) -> bool {
        self.0.iter().any(|method| method.admits(uid, groups))
    }

    /// Whether this one, who was admitted before, still would be, by the same token or as the same process.
    pub fn still_admits(&self, who: &Admitted) -> bool {
        match &who.by {
            Credential::Token(digest) => {
                let name = who.name.strip_prefix(TOKEN).unwrap_or(&who.name);
                self.tokens().any(|t| t.name == name && t.digest == *digest)
            }
            Credential::Peer { uid, groups } => self.admits(*uid, groups),
        }
    }

    /// Whether this principal, who was admitted before, could come again in any way. `user` is what a user of the host is
    /// called.
    pub fn knows(&self, principal: &str, user: impl Fn(u32) -> String) -> bool {
        if let Some(name) = principal.strip_prefix(TOKEN) {
            return self.tokens().any(|t| t.name == name);
        }
        let Some(name) = principal.strip_prefix(PEER) else { return false };
        self.0.iter().any(|method| match method {
            // Of a session it is not known which groups its client had.
            Method::Peer { uids, gids } => !gids.is_empty() || uids.iter().any(|uid| user(*uid) == name),
            Method::Bearer { .. } => false,
        })
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

/// Reads `Bearer("file")`, `Peer(uids: [...], gids: [...])`, or a list of them.
pub(super) fn read(s: &mut Section<'_, '_>, listen: &[Listen]) -> Option<Auth> {
    let Some(node) = s.optional("auth") else {
        s.show("auth", "None".to_owned(), Origin::Default);
        return None;
    };
    let is_list = node.0.starts_with('[');
    let nodes = if is_list { s.reader.list(node, "a list of ways of authentication")? } else { vec![node] };
    let (mut all, mut shown) = (Vec::<Method>::new(), Vec::new());
    for one in nodes {
        let Some((method, text)) = method(s.reader, one) else { continue };
        if all.iter().any(|m| m.name() == method.name()) {
            s.reader.problem(one, format!("'{}' stands here twice", method.name()));
        }
        all.push(method);
        shown.push(text);
    }
    let text = if is_list { format!("[{}]", shown.join(", ")) } else { shown.join("") };
    s.show_given("auth", node, text);
    if all.is_empty() {
        if is_list {
            s.reader.problem(node, "an empty list admits nobody: leave 'auth' out, or name a way");
        }
        return None;
    }
    if !all.iter().any(|m| matches!(m, Method::Bearer { .. }))
        && let Some(tcp) = listen.iter().find(|l| matches!(l, Listen::Tcp { .. }))
    {
        s.reader.problem(node, format!("'Peer' is for Unix sockets: '{tcp}' would refuse everybody"));
    }
    Some(Auth(all))
}

/// One way, and how it is shown.
fn method<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<(Method, String)> {
    Some(match reader.variant(node) {
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
            let shown = format!("Bearer({:?})", file.display().to_string());
            let tokens = match (reader.around().read)(&file) {
                Ok(text) => tokens(reader, node, &file.display().to_string(), &text),
                Err(why) => {
                    reader.problem(node, format!("{}: cannot read the tokens: {why}", file.display()));
                    Vec::new()
                }
            };
            (Method::Bearer { file, tokens }, shown)
        }
        Some(("Peer", Some(body))) => {
            let mut inner = reader.section(body)?;
            let uids = ids(&mut inner, "uids", |name| (reader.around().account)(Some(name), None).map(|a| a.uid));
            let gids = ids(&mut inner, "gids", |name| (reader.around().group)(name));
            inner.finish();
            if uids.is_empty() && gids.is_empty() {
                reader.problem(node, "'Peer' names nobody: nobody could connect");
            }
            let shown = format!("Peer(uids: {uids:?}, gids: {gids:?})");
            (Method::Peer { uids, gids }, shown)
        }
        Some((kind, _)) if !["Bearer", "Peer"].contains(&kind) => {
            reader.unknown(node, "way of authentication", kind, &["Bearer", "Peer"]);
            return None;
        }
        _ => {
            reader.problem(node, "expected Bearer(\"file\") or Peer(uids: [...], gids: [...]), or a list of them");
            return None;
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Auth {
        let token = |name: &str| Token { name: name.to_owned(), digest: Sha256::digest(name).into() };
        let bearer = Method::Bearer { file: "t".into(), tokens: vec![token("ann"), token("peer:bob")] };
        Auth(vec![Method::Peer { uids: vec![1000], gids: vec![] }, bearer])
    }

    #[test]
    fn nobody_passes_for_a_principal_of_another_kind() {
        let user = |uid: u32| if uid == 1000 { "bob".to_owned() } else { uid.to_string() };
        let auth = auth();
        assert_eq!(&*auth.owner(b"peer:bob").unwrap().name, "token:peer:bob");
        assert_eq!(&*peer_principal("bob"), "peer:bob");
        for (principal, known) in [
            ("token:ann", true),
            ("peer:bob", true),
            ("token:peer:bob", true),
            ("token:bob", false),
            ("peer:ann", false),
            ("ann", false),
            ("jwt:ann", false),
        ] {
            assert_eq!(auth.knows(principal, user), known, "{principal}");
        }
        assert!(auth.still_admits(&auth.owner(b"ann").unwrap()));
        let stranger = Admitted { name: "token:ann".into(), by: Credential::Token([0; 32]) };
        assert!(!auth.still_admits(&stranger));
        // What a session id of an earlier version is bound to is that of the same principal alone.
        assert_eq!(bound_principal("token:ann"), "ann");
        assert_eq!(bound_principal("token:peer:bob"), "token:peer:bob");
        assert_eq!(bound_principal("peer:bob"), "peer:bob");
        for (written, now) in [("ann", "token:ann"), ("uid 1000", "peer:bob"), ("peer:bob", "peer:bob")] {
            assert_eq!(known_principal(written, user), now);
        }
    }
}
