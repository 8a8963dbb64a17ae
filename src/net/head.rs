//! The head of a request: what it asks for, and its fields.
//!
//! In one piece of memory, because each request has one: a field is found by looking at each, of which there are a dozen. It must
//! not know what the fields mean.

use hyper::{Method, Request, Version};

/// The head of a request.
pub struct Head {
    pub method: Method,
    /// The client reads chunks, and keeps its connection if it does not say otherwise (HTTP/1.1).
    pub is_11: bool,
    /// The host in the target, where there is one (RFC 9112 section 3.2.2).
    pub authority: Option<String>,
    pub path: String,
    pub query: Option<String>,
    pub fields: Fields,
}

impl<B> From<&Request<B>> for Head {
    fn from(request: &Request<B>) -> Head {
        let (uri, mut fields) = (request.uri(), Fields::default());
        for (name, value) in request.headers() {
            fields.add(name.as_str(), value.as_bytes());
        }
        Head {
            method: request.method().clone(),
            is_11: request.version() >= Version::HTTP_11,
            authority: uri.authority().map(|a| a.as_str().to_owned()),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            fields,
        }
    }
}

/// The fields of a head, in their order. Their names are the same in small and capital letters.
#[derive(Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    all: Vec<Field>,
}

/// Where a name stands, and its value behind it.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: usize,
    value: usize,
    end: usize,
}

impl Fields {
    /// Room for so many fields, whose names and values have so many bytes.
    pub fn with_capacity(fields: usize, bytes: usize) -> Fields {
        Fields { text: Vec::with_capacity(bytes), all: Vec::with_capacity(fields) }
    }

    pub fn add(&mut self, name: &str, value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        let middle = self.text.len();
        self.text.extend_from_slice(value);
        self.all.push(Field { name: start, value: middle, end: self.text.len() });
    }

    /// All values of a field.
    pub fn all<'f>(&'f self, name: &str) -> impl Iterator<Item = &'f [u8]> {
        // Most names that are as long begin otherwise.
        let like = |a: &[u8], b: &[u8]| a.len() == b.len() && a.first().map(|a| a | 32) == b.first().map(|b| b | 32);
        let is = move |f: &&Field| {
            let own = &self.text[f.name..f.value];
            like(own, name.as_bytes()) && own.eq_ignore_ascii_case(name.as_bytes())
        };
        self.all.iter().filter(is).map(|f| &self.text[f.value..f.end])
    }

    /// All fields.
    #[cfg(test)]
    pub fn each(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let name = |f: &Field| std::str::from_utf8(&self.text[f.name..f.value]).unwrap_or_default();
        self.all.iter().map(move |f| (name(f), &self.text[f.value..f.end]))
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The first value of a field, if it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(text)
    }

    /// Those values of a field that are text.
    pub fn texts<'f>(&'f self, name: &str) -> impl Iterator<Item = &'f str> {
        self.all(name).filter_map(text)
    }
}

/// A value that is text: ASCII without control characters (RFC 9110 section 5.5).
pub fn text(value: &[u8]) -> Option<&str> {
    let plain = value.iter().all(|b| matches!(b, b' '..=b'~' | b'\t'));
    std::str::from_utf8(value).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names_in_order() {
        let mut fields = Fields::default();
        for (name, value) in [("Accept", "a"), ("X-Y", ""), ("accept", "b"), ("Accepts", "c"), ("é", "é")] {
            fields.add(name, value.as_bytes());
        }
        assert_eq!(fields.texts("ACCEPT").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((fields.text("accept"), fields.text("x-y"), fields.get("x")), (Some("a"), Some(""), None));
        assert_eq!((fields.get("é"), fields.text("é")), (Some("é".as_bytes()), None), "that is no text");
        assert!(fields.has("Accepts") && !fields.has(""));
        assert_eq!((text(b"a\tb"), text(b"a\x7f"), text(b"a\nb")), (Some("a\tb"), None, None));
    }

    #[test]
    fn the_head_of_a_request_of_the_library_is_as_it_was() {
        let request =
            Request::builder().uri("http://h:1/a/b?c=d&e").header("X", "y").header("x", "z").body(()).unwrap();
        let head = Head::from(&request);
        assert_eq!((head.path.as_str(), head.query.as_deref()), ("/a/b", Some("c=d&e")));
        assert_eq!((head.authority.as_deref(), head.is_11), (Some("h:1"), true));
        assert_eq!(head.fields.texts("X").collect::<Vec<_>>(), ["y", "z"]);
        let old = Request::builder().uri("*").version(Version::HTTP_10).body(()).unwrap();
        let head = Head::from(&old);
        assert_eq!((head.path.as_str(), head.query, head.authority, head.is_11), ("*", None, None, false));
    }
}
