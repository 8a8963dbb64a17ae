//! Session ids that carry what the daemon has to know of a session, so that it outlives the process.
//!
//! An id is sealed under a key (XChaCha20-Poly1305, draft-irtf-cfrg-xchacha): who does not have the key can neither make an id
//! nor change one. The id is bound to the name of the instance, the server and the principal, which do not stand in it: for any
//! others it opens nothing. Pure: random numbers and the time are arguments.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use super::envelope::{decode, member, members, quote};
use super::mcp::client_name;

/// An id opens its session for so long after it was made, in seconds.
pub const LIFE: u64 = 7 * 24 * 60 * 60;
/// The clock of another instance may be ahead by so much, in seconds.
const AHEAD: u64 = 5 * 60;
/// The random bytes at the beginning of an id.
pub const NONCE: usize = 24;
/// They are so many characters.
const RANDOM: usize = NONCE * 4 / 3;
/// The form of an id, to which it is bound as well: a later version may have another.
const FORM: u8 = 1;
/// The most that is sealed, in bytes: with it, an id stays below 512 characters, also behind a prefix of 32.
const MOST: usize = 300;
/// No id is longer, without its prefix, in characters.
const LONGEST: usize = 4 * (NONCE + MOST + 16).div_ceil(3);
/// More keys than a new one and the one before are of no use.
const KEYS: usize = 2;

/// The keys of an instance: the first seals, all open.
#[derive(Clone)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// One key.
    pub fn new(key: [u8; 32]) -> Keys {
        Keys(vec![key])
    }

    /// As [`Keys::parse`] reads it.
    pub fn write(&self) -> String {
        self.0.iter().map(|key| HEXLOWER.encode(key) + "\n").collect()
    }
}

impl PartialEq for Keys {
    /// For a reload, which wants to know whether anything is different. Not for anything that a client says.
    fn eq(&self, other: &Keys) -> bool {
        self.0 == other.0
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// What an id is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'b> {
    pub instance: &'b str,
    /// None for the bridge.
    pub server: Option<&'b str>,
    /// None where there is no `auth`.
    pub principal: Option<&'b str>,
}

impl Bound<'_> {
    fn text(&self) -> Vec<u8> {
        let mut text = vec![FORM];
        for part in [Some(self.instance), self.server, self.principal] {
            // Each with its length, so that two names cannot be taken for one.
            let part = part.map_or(&b""[..], str::as_bytes);
            text.extend_from_slice(&(part.len() as u32).to_be_bytes());
            text.extend_from_slice(part);
        }
        text
    }
}

/// What is known of a session after its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaken {
    /// The revision agreed on.
    pub revision: String,
    /// The client's capabilities, as JSON.
    capabilities: String,
    /// What the client calls itself and its version, perhaps cut, as JSON.
    client: (String, String),
}

impl Shaken {
    /// Of the params of a client's `initialize`, where they are known.
    pub fn of(revision: &str, params: Option<&str>) -> Shaken {
        let part = |key| params.and_then(|params| member(params, key));
        let capabilities = part("capabilities").filter(|c| c.starts_with('{')).unwrap_or("{}");
        let of_client = |key| part("clientInfo").and_then(|info| member(info, key)).filter(|v| v.starts_with('"'));
        let cut = |text: Option<&str>, most: usize| {
            let text = text.map(decode).unwrap_or_default();
            let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            quote(&text[..end])
        };
        let with = |capabilities: String, most| Shaken {
            revision: revision.to_owned(),
            capabilities,
            client: (cut(of_client("name"), most), cut(of_client("version"), most)),
        };
        // With room for a later id.
        let fits = |shaken: &Shaken| shaken.write(0, None).len() + 1 + RANDOM <= MOST;
        // What is left out first is what nothing depends on.
        let few = || {
            let known = ["sampling", "elicitation", "roots", "tasks"];
            let named = members(capabilities).into_iter().filter(|(key, _)| known.contains(&key.as_ref()));
            format!("{{{}}}", named.map(|(key, _)| format!("\"{key}\":{{}}")).collect::<Vec<_>>().join(","))
        };
        let whole = with(capabilities.to_owned(), 64);
        let ways = [whole, with(capabilities.to_owned(), 16), with(few(), 16)];
        ways.into_iter().find(fits).unwrap_or_else(|| with("{}".to_owned(), 0))
    }

    /// What the client says it is: name and version.
    pub fn client_name(&self) -> String {
        let (name, version) = &self.client;
        client_name(&format!("{{\"name\":{name},\"version\":{version}}}"))
    }

    /// The params of an `initialize` that says the same.
    pub fn params(&self) -> String {
        let (name, version) = &self.client;
        let (revision, capabilities) = (quote(&self.revision), &self.capabilities);
        format!(
            r#"{{"protocolVersion":{revision},"capabilities":{capabilities},"clientInfo":{{"name":{name},"version":{version}}}}}"#
        )
    }

    /// What is sealed at this time; `session` where the id is not the first one.
    fn write(&self, now: u64, session: Option<&str>) -> Vec<u8> {
        let parts = [&self.revision, &self.capabilities, &self.client.0, &self.client.1].map(String::as_str);
        let texts: Vec<&str> = parts.into_iter().chain(session).collect();
        [&now.to_be_bytes(), texts.join("\0").as_bytes()].concat()
    }
}

/// What a sealed id says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// When it was made, in seconds since 1970.
    issued: u64,
    pub shaken: Shaken,
    /// What all ids of the session have in common: the random part of the first one.
    pub session: String,
}

impl Sealed {
    fn read(sealed: &[u8], random: &str) -> Option<Sealed> {
        let (time, rest) = sealed.split_first_chunk::<8>()?;
        let mut parts = std::str::from_utf8(rest).ok()?.split('\0').map(str::to_owned);
        let mut next = || parts.next();
        let (revision, capabilities, name, version) = (next()?, next()?, next()?, next()?);
        let session = next().unwrap_or_else(|| random.to_owned());
        let shaken = Shaken { revision, capabilities, client: (name, version) };
        Some(Sealed { issued: u64::from_be_bytes(*time), shaken, session })
    }

    /// How old it is at this time, in seconds since 1970.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.issued)
    }

    /// Whether it may open its session at this time, in seconds since 1970.
    pub fn is_good(&self, now: u64) -> bool {
        self.issued <= now + AHEAD && self.age(now) <= LIFE
    }
}

impl Keys {
    /// Reads a file of keys: one or two lines of 64 hexadecimal digits; what stands behind a `#` is for people.
    ///
    /// # Errors
    /// The number of the line, or none, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Keys, (Option<usize>, &'static str)> {
        let mut keys = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let key = HEXLOWER_PERMISSIVE.decode(line.as_bytes()).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
            let Some(key) = key else {
                return Err((Some(number), "a key has 64 hexadecimal digits: 'openssl rand -hex 32' makes one"));
            };
            if keys.len() == KEYS {
                return Err((Some(number), "there are two keys already: a new one, and the one before it"));
            }
            keys.push(key);
        }
        match keys.is_empty() {
            true => Err((None, "there is no key in it: 'openssl rand -hex 32' makes one")),
            false => Ok(Keys(keys)),
        }
    }

    /// The id of a session that has shaken hands now, in seconds since 1970. None if it cannot be sealed.
    pub fn seal(&self, bound: &Bound<'_>, shaken: &Shaken, now: u64, nonce: [u8; NONCE]) -> Option<String> {
        self.write_id(bound, &shaken.write(now, None), nonce)
    }

    /// A later id of the session. None if it cannot be sealed.
    pub fn renew(&self, bound: &Bound<'_>, sealed: &Sealed, now: u64, nonce: [u8; NONCE]) -> Option<String> {
        let text = sealed.shaken.write(now, Some(&sealed.session));
        // Of a version that has left no room for the session.
        if text.len() > MOST { None } else { self.write_id(bound, &text, nonce) }
    }

    fn write_id(&self, bound: &Bound<'_>, text: &[u8], nonce: [u8; NONCE]) -> Option<String> {
        let cipher = XChaCha20Poly1305::new(self.0.first()?.into());
        let sealed = cipher.encrypt(&XNonce::from(nonce), Payload { msg: text, aad: &bound.text() }).ok()?;
        Some(BASE64URL_NOPAD.encode(&[&nonce[..], &sealed].concat()))
    }

    /// What an id says, if it is one of ours, for these. Whether it is not too old is for [`Sealed::is_good`] to say.
    pub fn open(&self, id: &str, bound: &Bound<'_>) -> Option<Sealed> {
        // A long one costs no more than another.
        if id.len() > LONGEST {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(id.as_bytes()).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
        let (nonce, aad) = (XNonce::from(*nonce), bound.text());
        let try_key = |key: &[u8; 32]| {
            let payload = Payload { msg: sealed, aad: &aad };
            XChaCha20Poly1305::new(key.into()).decrypt(&nonce, payload).ok()
        };
        self.0.iter().find_map(try_key).and_then(|plain| Sealed::read(&plain, id.get(..RANDOM)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const TWO: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

    fn bound<'b>(instance: &'b str, server: Option<&'b str>, principal: Option<&'b str>) -> Bound<'b> {
        Bound { instance, server, principal }
    }

    fn params(name: &str, capabilities: &str) -> String {
        format!(r#"{{"capabilities":{capabilities},"clientInfo":{{"name":{},"version":"1"}}}}"#, quote(name))
    }

    #[test]
    fn an_id_says_what_was_sealed_to_those_whom_it_is_bound_to_alone() {
        let keys = Keys::parse(ONE).unwrap();
        let shaken = Shaken::of("2025-11-25", Some(&params("é\"x", r#"{"roots":{"listChanged":true}}"#)));
        let own = bound("prod", Some("time"), Some("ann"));
        let id = keys.seal(&own, &shaken, 1000, [7; NONCE]).unwrap();
        assert!(id.len() < 512 && id.bytes().all(|b| b.is_ascii_graphic()));
        let opened = keys.open(&id, &own).unwrap();
        assert_eq!((&opened.shaken, opened.age(2000), opened.session.as_str()), (&shaken, 1000, &id[..RANDOM]));
        let said = shaken.params();
        assert_eq!(member(&said, "capabilities"), Some(r#"{"roots":{"listChanged":true}}"#));
        assert_eq!(member(member(&said, "clientInfo").unwrap(), "name").map(decode).as_deref(), Some("é\"x"));
        assert_eq!(member(&said, "protocolVersion"), Some("\"2025-11-25\""));
        for other in [
            bound("test", Some("time"), Some("ann")),
            bound("prod", Some("git"), Some("ann")),
            bound("prod", None, Some("ann")),
            bound("prod", Some("time"), Some("bob")),
            bound("prod", Some("time"), None),
            bound("prodtime", Some(""), Some("ann")),
            bound("prod", Some("timeann"), None),
        ] {
            assert_eq!(keys.open(&id, &other), None, "{other:?}");
        }
        for at in 0..id.len() {
            let mut forged = id.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(keys.open(std::str::from_utf8(&forged).unwrap(), &own), None, "at {at}");
        }
        for none in ["", "A", &id[1..], &id[..id.len() - 1], "0123456789abcdef0123456789abcdef"] {
            assert_eq!(keys.open(none, &own), None);
        }
    }

    #[test]
    fn an_id_expires_and_a_new_key_opens_what_the_one_before_has_sealed() {
        let (old, both) = (Keys::parse(ONE).unwrap(), Keys::parse(&format!("# new\n{TWO}\n\n{ONE} # old\n")).unwrap());
        let (own, shaken) = (bound("t", None, None), Shaken::of("2025-06-18", None));
        let id = old.seal(&own, &shaken, 10_000, [1; NONCE]).unwrap();
        for (now, opens) in [(10_000, true), (10_000 - AHEAD, true), (9_000, false), (10_000 + LIFE, true)] {
            assert_eq!(old.open(&id, &own).unwrap().is_good(now), opens, "{now}");
        }
        let opened = both.open(&id, &own).unwrap();
        assert!(!opened.is_good(10_001 + LIFE));
        // A later id is of the same session, and good for as long again.
        let later = both.renew(&own, &opened, 10_001 + LIFE, [3; NONCE]).unwrap();
        let again = both.open(&later, &own).unwrap();
        assert!(again.is_good(10_001 + 2 * LIFE) && again.shaken == shaken && again.session == opened.session);
        let third = both.renew(&own, &again, 10_002 + LIFE, [4; NONCE]).unwrap();
        assert!(third.len() < 512 && both.open(&third, &own).unwrap().session == opened.session);
        let newer = both.seal(&own, &shaken, 10_000, [2; NONCE]).unwrap();
        assert!(both.open(&newer, &own).is_some() && old.open(&newer, &own).is_none());
    }

    #[test]
    fn an_id_stays_short_whatever_a_client_says_of_itself() {
        let keys = Keys::parse(ONE).unwrap();
        let long = format!(
            r#"{{"sampling":{{}},"experimental":{{"x":"{}"}},"elicitation":{{"url":{{}}}}}}"#,
            "y".repeat(5000)
        );
        for (name, capabilities) in
            [("é".repeat(3000), "{}".to_owned()), ("n".to_owned(), long.clone()), ("é".repeat(99), long)]
        {
            let shaken = Shaken::of("2025-11-25", Some(&params(&name, &capabilities)));
            let id = keys.seal(&bound("t", None, None), &shaken, 1, [0; NONCE]).unwrap();
            let own = bound("t", None, None);
            let later = keys.renew(&own, &keys.open(&id, &own).unwrap(), 2, [1; NONCE]).unwrap();
            assert!(id.len() < later.len() && later.len() <= 512 - 33, "{}", later.len());
            if capabilities.len() > 2 {
                assert_eq!(shaken.capabilities, r#"{"sampling":{},"elicitation":{}}"#);
            }
        }
    }

    #[test]
    fn a_file_of_keys_says_what_is_wrong_with_it() {
        for (text, at) in [("", None), ("# none\n", None), ("x\n", Some(1)), (&ONE[1..], Some(1))] {
            assert_eq!(Keys::parse(text).map(drop).map_err(|(at, _)| at), Err(at), "{text}");
        }
        let three = [ONE, TWO, ONE].join("\n");
        assert_eq!(Keys::parse(&three).map(drop).map_err(|(at, _)| at), Err(Some(3)));
        assert!(!format!("{:?}", Keys::parse(ONE)).contains("0011"), "a key is not shown");
    }
}
