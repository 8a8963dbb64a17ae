//! Who is it? A token in the head of a request (RFC 6750), or the process at the other end of a Unix socket.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::answer::{Answer, error};
use super::head::Fields;
use crate::model::config::{Admitted, Auth, Credential, peer_principal};
use crate::model::jsonrpc;
use crate::sys::accounts::name_of;
use crate::sys::listen::Peer;

/// The principal who asks; None where there is no `auth`. The error says what is missing.
pub(super) fn principal(
    auth: Option<&Auth>,
    fields: &Fields,
    peer: Option<&Peer>,
) -> Result<Option<Arc<Admitted>>, &'static str> {
    let Some(auth) = auth else { return Ok(None) };
    let mut all = fields.all("authorization");
    let (first, second) = (all.next(), all.next());
    // A process that is known shows its token for nothing: where both ways are open, a token counts.
    if auth.takes_tokens() && first.is_some() {
        let shown =
            first.filter(|_| second.is_none()).ok_or("one header 'Authorization' is wanted, and not several")?;
        let owner = token(shown).and_then(|token| auth.owner(token));
        return owner.map(|who| Some(Arc::new(who))).ok_or("this token is not known here");
    }
    match peer.filter(|_| auth.takes_peers()) {
        Some(peer) if auth.admits(peer.uid, &peer.groups) => {
            let by = Credential::Peer { uid: peer.uid, groups: peer.groups.clone() };
            Ok(Some(Arc::new(Admitted { name: peer_principal(&name_of(peer.uid)), by })))
        }
        _ if auth.takes_tokens() => Err("this instance wants one header 'Authorization: Bearer TOKEN'"),
        Some(_) => Err("this user may not connect to this instance"),
        None => Err("this instance is for processes of this machine, on a Unix socket"),
    }
}

/// The token in a header.
fn token(value: &[u8]) -> Option<&[u8]> {
    let token = value.split_at_checked(7).filter(|(how, _)| how.eq_ignore_ascii_case(b"bearer "));
    token.map(|(_, token)| token.trim_ascii())
}

/// The name of the token of this request, if its line is the hash of the token and a line feed.
pub(super) fn hashed_with_line_feed<'w>(who: Option<&'w Admitted>, fields: &Fields) -> Option<&'w str> {
    let who = who.filter(|who| matches!(who.by, Credential::Token(_)))?;
    let token = fields.get("authorization").and_then(token)?;
    Auth::is_of_line(token, who)
}

/// The answer to a client that is not known.
pub(super) fn unauthorized(why: &str) -> Answer {
    let mut response = error(StatusCode::UNAUTHORIZED, None, jsonrpc::INVALID_REQUEST, why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mcpdaemon\""));
    response
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::model::config::{Method, Token};

    #[test]
    fn a_token_is_known_by_its_hash_and_in_no_other_place() {
        let token = |name: &str, text: &str| Token { name: name.into(), digest: Sha256::digest(text).into() };
        let tokens = vec![token("ann", "s3cret"), token("bob", "other")];
        let auth = Auth::of(vec![Method::Bearer { file: "t".into(), tokens }]);
        let asks = |headers: &[&str]| {
            let mut map = Fields::default();
            headers.iter().for_each(|one| map.add("Authorization", one.as_bytes()));
            principal(Some(&auth), &map, None).map(|p| p.unwrap().name.to_string())
        };
        assert_eq!(asks(&["Bearer s3cret"]).unwrap(), "token:ann");
        assert_eq!(asks(&["bearer  other "]).unwrap(), "token:bob");
        for wrong in [&[][..], &["Bearer"], &["Bearer "], &["Basic s3cret"], &["s3cret"], &["Bearer s3cre"]] {
            assert!(asks(wrong).is_err(), "{wrong:?}");
        }
        assert!(asks(&["Bearer s3cret", "Bearer s3cret"]).is_err(), "one of them may be what a proxy has checked");
        assert_eq!(principal(None, &Fields::default(), None), Ok(None));
    }

    #[test]
    fn of_several_ways_a_token_that_is_shown_counts_and_else_the_process() {
        let token = Token { name: "ann".into(), digest: Sha256::digest("s3cret").into() };
        let bearer = Method::Bearer { file: "t".into(), tokens: vec![token] };
        let auth = Auth::of(vec![Method::Peer { uids: vec![4_000_000_000], gids: vec![] }, bearer]);
        let peer = |uid: u32| Some(Peer { uid, groups: Vec::new() });
        let asks = |header: Option<&str>, peer: Option<Peer>| {
            let mut map = Fields::default();
            header.iter().for_each(|one| map.add("Authorization", one.as_bytes()));
            principal(Some(&auth), &map, peer.as_ref()).map(|p| p.unwrap().name.to_string())
        };
        let known = 4_000_000_000;
        assert_eq!(asks(None, peer(known)).unwrap(), "peer:4000000000");
        assert_eq!(asks(Some("Bearer s3cret"), peer(known)).unwrap(), "token:ann");
        assert_eq!(asks(Some("Bearer s3cret"), peer(7)).unwrap(), "token:ann");
        assert_eq!(asks(Some("Bearer s3cret"), None).unwrap(), "token:ann");
        assert!(asks(Some("Bearer wrong"), peer(known)).is_err(), "who shows a token wants to be its owner");
        assert!(asks(None, peer(7)).is_err() && asks(None, None).is_err());
    }
}
