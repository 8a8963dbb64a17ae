//! A request as nearly all are: a POST in HTTP/1.1 whose head and body have come whole, and that can be read in one way only.
//!
//! Such a request needs no machine that keeps a state between two reads. Whatever is unusual, unclear, wrong or incomplete is
//! for the HTTP library to judge (see [`super::serve`]); what is taken here, it would read in the same way. Pure: bytes in, a
//! request out.

use std::mem::MaybeUninit;

use hyper::Method;

use super::head::{Fields, Head};
use super::request::{Asking, RequestBody};

/// More fields are left to the library.
const FIELDS: usize = 32;
/// The digits of a length that is not too long for a number.
const DIGITS: usize = 15;

/// The request at the beginning of `bytes` and how long it is, if it is a plain one whose head is not longer than `most`
/// bytes.
pub fn request(bytes: &[u8], most: usize) -> Option<(Asking, usize)> {
    if !bytes.starts_with(b"POST /") {
        return None;
    }
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let outcome = parsed.parse_with_uninit_headers(bytes, &mut fields);
    let Ok(httparse::Status::Complete(end)) = outcome else { return None };
    let (Some(1), Some(target)) = (parsed.version, parsed.path) else { return None };
    if end > most {
        return None;
    }
    let length = body_length(parsed.headers)?;
    let whole = end.checked_add(length).filter(|whole| *whole <= bytes.len())?;
    if !target.bytes().all(is_plain) {
        return None;
    }
    let mut fields = Fields::with_capacity(parsed.headers.len(), end);
    parsed.headers.iter().for_each(|field| fields.add(field.name, field.value));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let head = Head { method: Method::POST, is_11: true, authority: None, path: path.to_owned(), query, fields };
    Some((Asking { head, body: RequestBody::Whole(bytes[end..whole].to_vec()) }, whole))
}

/// Whether a byte of a target stands for itself (RFC 3986 section 2), or begins an escape.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'%'..=b';' | b'!' | b'$' | b'=' | b'?' | b'@' | b'_' | b'~')
}

/// How long the body is; None if it is not said in one way only, or if a field is there by which more than an answer is due.
fn body_length(fields: &[httparse::Header<'_>]) -> Option<usize> {
    let mut length = None;
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            // Twice is not once.
            14 if is("content-length") && length.replace(number(field.value)?).is_some() => return None,
            17 if is("transfer-encoding") => return None,
            10 if is("connection") && !field.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            7 if is("upgrade") => return None,
            6 if is("expect") => return None,
            _ => {}
        }
    }
    length
}

/// A number of nothing but digits (RFC 9110 section 8.6).
fn number(digits: &[u8]) -> Option<usize> {
    let good = (1..=DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    good.then(|| digits.iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::Future;
    use std::io;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use hyper::Request;
    use hyper::body::Incoming;
    use hyper::rt::ReadBufCursor;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;

    use super::*;
    use crate::net::body::Body;
    use crate::sys::lock::Lock;

    const HEAD: usize = 64 << 10;

    /// A request as it was read.
    #[derive(Debug, PartialEq)]
    struct Seen {
        target: String,
        fields: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    }

    impl Seen {
        fn of(head: &Head, body: Vec<u8>) -> Seen {
            let query = head.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
            let fields = head.fields.each().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
            Seen { target: format!("{}{query}", head.path), fields: fields.collect(), body }
        }
    }

    /// A connection whose other end has sent everything and reads nothing.
    struct Sent<'b>(&'b [u8]);

    impl hyper::rt::Read for Sent<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut buf: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Pending;
            }
            let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
            buf.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    impl hyper::rt::Write for Sent<'_> {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What the HTTP library reads.
    fn by_the_library(bytes: &[u8]) -> Vec<Seen> {
        let seen = Arc::new(Lock::new(Vec::new()));
        let into = seen.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let into = into.clone();
            async move {
                let (head, mut body, mut whole) = (Head::from(&request), request.into_body(), Vec::new());
                while let Some(Ok(frame)) =
                    std::future::poll_fn(|cx| hyper::body::Body::poll_frame(Pin::new(&mut body), cx)).await
                {
                    whole.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                into.lock().push(Seen::of(&head, whole));
                Ok::<_, Infallible>(hyper::Response::new(Body::empty()))
            }
        });
        let mut builder = http1::Builder::new();
        let mut connection = builder.header_read_timeout(None).serve_connection(Sent(bytes), service);
        // It waits for nothing but more bytes.
        for _ in 0..5 {
            let _ = Pin::new(&mut connection).poll(&mut Context::from_waker(Waker::noop()));
        }
        drop(connection);
        std::mem::take(&mut *seen.lock())
    }

    /// What is read here, and how long it is.
    fn here(bytes: &[u8]) -> Option<(Seen, usize)> {
        let (Asking { head, body }, length) = request(bytes, HEAD)?;
        let RequestBody::Whole(body) = body else { return None };
        assert_eq!((&head.method, head.is_11, &head.authority), (&Method::POST, true, &None));
        Some((Seen::of(&head, body), length))
    }

    const PLAIN: &str = "POST /servers/a/mcp?x=%20y HTTP/1.1\r\nHost: localhost:1\r\nContent-Type: application/json\r\n\
                         Accept: application/json, text/event-stream\r\nMcp-Session-Id: 0123\r\nX-Empty:\r\n\
                         Connection: keep-alive\r\nContent-Length: 7\r\n\r\n{\"a\":1}";

    #[test]
    fn a_plain_request_is_read_and_what_comes_behind_it_is_not_touched() {
        let next = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        for behind in ["", next, "x"] {
            let (seen, length) = here(format!("{PLAIN}{behind}").as_bytes()).unwrap();
            assert_eq!((length, seen.target.as_str()), (PLAIN.len(), "/servers/a/mcp?x=%20y"));
            assert_eq!((seen.fields.len(), seen.body.as_slice()), (7, &b"{\"a\":1}"[..]));
            assert_eq!(by_the_library(format!("{PLAIN}{behind}").as_bytes())[0], seen);
        }
        assert!(request(PLAIN.as_bytes(), 100).is_none(), "a long head");
        for end in 0..PLAIN.len() {
            assert!(here(&PLAIN.as_bytes()[..end]).is_none(), "{end} bytes of it");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_left_to_the_library() {
        let with = |field: &str| PLAIN.replace("X-Empty:\r\n", &format!("{field}\r\n"));
        for field in [
            "Content-Length: 7",
            "Content-Length: 8",
            "content-length:7",
            "Transfer-Encoding: chunked",
            "transfer-encoding: identity",
            "Connection: close",
            "Connection: Upgrade",
            "Connection: keep-alive, upgrade",
            "Upgrade: h2c",
            "Expect: 100-continue",
            "Content-Length : 7",
            " folded: 1",
            "X: a\r\n folded",
            "X: a\rb",
            "X Y: 1",
            "X: \0",
        ] {
            assert!(here(with(field).as_bytes()).is_none(), "{field:?}");
        }
        for length in ["+7", "-0", "7 7", "7, 7", "0x7", "", "99999999999999999999", "７", "8"] {
            let text = PLAIN.replace("Content-Length: 7", &format!("Content-Length: {length}"));
            assert!(here(text.as_bytes()).is_none(), "Content-Length: {length}");
        }
        for line in ["GET /", "PUT /", "post /", "POST http://x/", "POST *", "POST  /", " POST /", "\r\nPOST /"] {
            assert!(here(PLAIN.replacen("POST /", line, 1).as_bytes()).is_none(), "{line:?}");
        }
        for version in ["HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1"] {
            assert!(here(PLAIN.replacen("HTTP/1.1", version, 1).as_bytes()).is_none(), "{version}");
        }
        let many: String = (0..FIELDS).map(|n| format!("x{n}: 1\r\n")).collect();
        assert!(here(with(&many).as_bytes()).is_none(), "many fields");
    }

    /// A request is mutilated in many ways: what is taken here is what the library reads, as it reads it.
    #[test]
    fn no_request_is_read_otherwise_than_by_the_library() {
        const PARTS: [&str; 24] = [
            "\r\n",
            "\n",
            "\r",
            " ",
            "\t",
            ":",
            ",",
            ";",
            "0",
            "7",
            "+",
            "\0",
            "\u{e9}",
            "POST /",
            "HTTP/1.1",
            "chunked",
            "Content-Length: 7\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: chunked\r\n",
            "X: y\r\n",
            "Connection: ",
            "\r\n\r\n",
            "/",
            "%",
        ];
        let (mut state, mut taken) = (1u64, 0);
        let mut roll = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let mut bytes = PLAIN.as_bytes().to_vec();
            for _ in 0..=roll(3) {
                let at = roll(bytes.len());
                match roll(3) {
                    0 => bytes[at] = roll(256) as u8,
                    1 => drop(bytes.drain(at..bytes.len().min(at + 1 + roll(12)))),
                    _ => drop(bytes.splice(at..at, PARTS[roll(PARTS.len())].bytes())),
                }
            }
            let Some((seen, length)) = here(&bytes) else { continue };
            taken += 1;
            let library = by_the_library(&bytes[..length]);
            assert_eq!(library, [seen], "{:?}", String::from_utf8_lossy(&bytes));
        }
        assert!(taken > 1000, "only {taken} of them were plain");
    }
}
