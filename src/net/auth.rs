//! Who is it? A token in the head of a request (RFC 6750), or the process at the other end of a Unix socket.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::answer::{Answer, error};
use super::head::Fields;
use crate::model::config::{Admitted, Auth, Credential};
use crate::model::jsonrpc;
use crate::sys::listen::Peer;

/// The principal who asks; None where there is no `auth`. The error says what is missing.
pub(super) fn principal(
    auth: Option<&Auth>,
    fields: &Fields,
    peer: Option<&Peer>,
) -> Result<Option<Arc<Admitted>>, &'static str> {
    let Some(auth) = auth else { return Ok(None) };
    match auth {
        Auth::Bearer { .. } => {
            let mut all = fields.all("authorization");
            let (Some(value), None) = (all.next(), all.next()) else {
                return Err("this instance wants one header 'Authorization: Bearer TOKEN'");
            };
            let owner = token(value).and_then(|token| auth.owner(token));
            owner.map(|who| Some(Arc::new(who))).ok_or("this token is not known here")
        }
        Auth::Peer { .. } => match peer {
            Some(peer) if auth.admits(peer.uid, &peer.groups) => {
                let by = Credential::Peer { uid: peer.uid, groups: peer.groups.clone() };
                Ok(Some(Arc::new(Admitted { name: format!("uid {}", peer.uid).into(), by })))
            }
            Some(_) => Err("this user may not connect to this instance"),
            None => Err("this instance is for processes of this machine, on a Unix socket"),
        },
    }
}

/// The token in a header.
fn token(value: &[u8]) -> Option<&[u8]> {
    let token = value.split_at_checked(7).filter(|(how, _)| how.eq_ignore_ascii_case(b"bearer "));
    token.map(|(_, token)| token.trim_ascii())
}

/// Whose token was hashed with a line feed, if it is the one of this request.
pub(super) fn hashed_with_line_feed<'w>(who: Option<&'w Admitted>, fields: &Fields) -> Option<&'w str> {
    let who = who.filter(|who| matches!(who.by, Credential::Token(_)))?;
    let token = fields.get("authorization").and_then(token)?;
    Auth::is_of_line(token, who).then_some(&who.name)
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
    use crate::model::config::Token;

    #[test]
    fn a_token_is_known_by_its_hash_and_in_no_other_place() {
        let token = |name: &str, text: &str| Token { name: name.into(), digest: Sha256::digest(text).into() };
        let auth = Auth::Bearer { file: "t".into(), tokens: vec![token("ann", "s3cret"), token("bob", "other")] };
        let asks = |headers: &[&str]| {
            let mut map = Fields::default();
            headers.iter().for_each(|one| map.add("Authorization", one.as_bytes()));
            principal(Some(&auth), &map, None).map(|p| p.unwrap().name.to_string())
        };
        assert_eq!(asks(&["Bearer s3cret"]).unwrap(), "ann");
        assert_eq!(asks(&["bearer  other "]).unwrap(), "bob");
        for wrong in [&[][..], &["Bearer"], &["Bearer "], &["Basic s3cret"], &["s3cret"], &["Bearer s3cre"]] {
            assert!(asks(wrong).is_err(), "{wrong:?}");
        }
        assert!(asks(&["Bearer s3cret", "Bearer s3cret"]).is_err(), "one of them may be what a proxy has checked");
        assert_eq!(principal(None, &Fields::default(), None), Ok(None));
    }
}
