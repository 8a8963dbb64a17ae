//! Raw HTTP, as no client library would send it: where a request ends, which host it is for, and which page it is from.
//!
//! Each answer has its row. What may not be read in two ways ends the connection, so that nobody's next request begins in the
//! middle of it (request smuggling); `Host` and `Origin` keep away what a page of a stranger can send (DNS rebinding).

use crate::harness::*;

/// The body of a message; the status is 400 where it arrives, because there is no session.
const MESSAGE: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"xxxxxxxx"}"#;

/// Lines of a request, and the statuses of the answers; a healthy request follows on the same connection.
const LINES: &[(&[u8], &[u16])] = &[
    (b"GET /metrics HTTP/1.1", &[200, 200]),
    (b"GET /metrics HTTP/1.0", &[200]),
    (b"get /metrics HTTP/1.1", &[405, 200]),
    (b"GET  /metrics HTTP/1.1", &[400]),
    (b"GET /metrics  HTTP/1.1", &[400]),
    (b" GET /metrics HTTP/1.1", &[400]),
    (b"GET /metrics HTTP/1.1 ", &[400]),
    (b"GET /metrics HTTP/2.0", &[400]),
    (b"GET /metrics HTTP/1.2", &[400]),
    (b"GET /metrics HTTP/9.9", &[400]),
    (b"GET /metrics HTTP/1.", &[400]),
    (b"GET /metrics http/1.1", &[400]),
    (b"GET /metrics", &[400]),
    (b"GET\t/metrics\tHTTP/1.1", &[400]),
    (b"GET /health\x00z HTTP/1.1", &[400]),
    (b"GET /health\x7fz HTTP/1.1", &[400]),
    (b"GET /metrics#x HTTP/1.1", &[200, 200]),
    (b"GET /metrics?x HTTP/1.1", &[200, 200]),
    (b"GET //metrics HTTP/1.1", &[200, 200]),
    (b"GET /%68ealthz HTTP/1.1", &[200, 200]),
    (b"GET /x/../metrics HTTP/1.1", &[200, 200]),
    (b"GET http://localhost/metrics HTTP/1.1", &[200, 200]),
    (b"GET http://evil.example/metrics HTTP/1.1", &[403, 200]),
    (b"GET healthz HTTP/1.1", &[403, 200]),
    (b"OPTIONS * HTTP/1.1", &[405, 200]),
    (b"CONNECT localhost:80 HTTP/1.1", &[405, 200]),
    (b"TRACE /metrics HTTP/1.1", &[405, 200]),
    (b"PRI * HTTP/2.0", &[400]),
    (b"G\xc9T /metrics HTTP/1.1", &[400]),
    (b"GET /h\xc3\xa9althz HTTP/1.1", &[404, 200]),
    (b"(GET) /metrics HTTP/1.1", &[400]),
    (b"XXXXXXXXXXXXXXXXXXXX /metrics HTTP/1.1", &[405, 200]),
];

/// Fields beside `Host: localhost`.
const FIELDS: &[(&[u8], &[u16])] = &[
    (b"X: y\r\n", &[200, 200]),
    (b"X:y\r\n", &[200, 200]),
    (b"X :y\r\n", &[400]),
    (b" X: y\r\n", &[400]),
    (b"X: y\r\n z\r\n", &[400]),
    (b"X\r\n", &[400]),
    (b": y\r\n", &[400]),
    (b"X: \x00\r\n", &[400]),
    (b"X: \x01\r\n", &[400]),
    (b"X: \xff\r\n", &[200, 200]),
    (b"X: a\rb\r\n", &[400]),
    (b"X: a\nb: c\r\n", &[200, 200]),
    (b"X\x00: y\r\n", &[400]),
    (b"X(: y\r\n", &[400]),
    (b"\xc3\xa9: y\r\n", &[400]),
    (b"Host: localhost\r\n", &[400, 200]),
    (b"Host: evil.example\r\n", &[400, 200]),
    (b"Connection: close, x\r\n", &[200]),
    (b"Expect: 100-continue\r\n", &[200, 200]),
    (b"Expect: nonsense\r\n", &[200, 200]),
    (b"Upgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: x\r\n", &[200, 200]),
    (b"Upgrade: websocket\r\nConnection: Upgrade\r\n", &[200, 200]),
];

/// How a body is framed, and the body, in which `@` stands for [`MESSAGE`].
const BODIES: &[(&[u8], &[u8], &[u16])] = &[
    (b"Content-Length: 44\r\n", b"@", &[400, 200]),
    (b"Content-Length: +44\r\n", b"@", &[400]),
    (b"Content-Length: -1\r\n", b"@", &[400]),
    (b"Content-Length: 0x2c\r\n", b"@", &[400]),
    (b"Content-Length: 44, 44\r\n", b"@", &[400]),
    (b"Content-Length: 44\r\nContent-Length: 44\r\n", b"@", &[400, 200]),
    (b"Content-Length: 44\r\nContent-Length: 0\r\n", b"@", &[400]),
    (b"Content-Length: 99999999999999999999\r\n", b"@", &[400]),
    (b"Content-Length: \r\n", b"@", &[400]),
    (b"Content-Length: 4 4\r\n", b"@", &[400]),
    (b"Transfer-Encoding: chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400, 200]),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\n{\"jso\r\n27\r\nnrpc\":\"2.0\",\"id\":1,\"method\":\"xxxxxxxx\"}\r\n0\r\n\r\n",
        &[400, 200],
    ),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 44\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: Chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: identity\r\n", b"@", &[400]),
    (b"Transfer-Encoding: gzip, chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: chunked, gzip\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: chunked, chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: xchunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding:\x0bchunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: \"chunked\"\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer_Encoding: chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400, 400]),
    (b"Transfer-Encoding : chunked\r\n", b"2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: chunked\r\n", b"2c;x=y\r\n@\r\n0\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: chunked\r\n", b"2C\r\n@\r\n0\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: chunked\r\n", b"0x2c\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: chunked\r\n", b"-1\r\n@\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: chunked\r\n", b"fffffffffffffffff\r\n@", &[400]),
    (b"Transfer-Encoding: chunked\r\n", b"2c\n@\n0\n\n", &[400]),
    (b"Transfer-Encoding: chunked\r\n", b"2c\r\n@XX0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: chunked\r\n", b"2c \r\n@\r\n0\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: chunked\r\n", b"2c\r\n@\r\n0\r\nTrailer: x\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: chunked\r\n", b"2c\r\n@\r\n0\r\nContent-Length: 9\r\n\r\n", &[400, 200]),
    (b"Transfer-Encoding: chunked\r\n", b"\r\n@", &[400]),
];

/// `Host`, and the status.
const HOSTS: &[(&str, u16)] = &[
    ("localhost", 200),
    ("LOCALHOST", 200),
    ("LocalHost", 200),
    ("localhost:1", 200),
    ("localhost:65535", 200),
    ("localhost:99999", 200),
    ("localhost:", 403),
    ("localhost:x", 403),
    ("localhost:80:80", 403),
    ("localhost.", 403),
    ("localhost.localdomain", 403),
    ("localhost.evil.example", 403),
    ("evil-localhost", 403),
    ("notlocalhost", 403),
    ("local", 403),
    ("127.0.0.1", 200),
    ("127.0.0.1:80", 200),
    ("127.0.0.1.", 403),
    ("127.0.0.1.evil.example", 403),
    ("127.0.0.2", 403),
    ("127.1", 403),
    ("127.0.1", 403),
    ("2130706433", 403),
    ("0x7f000001", 403),
    ("0177.0.0.1", 403),
    ("0.0.0.0", 403),
    ("[::1]", 200),
    ("[::1]:80", 200),
    ("::1", 403),
    ("[::ffff:127.0.0.1]", 200),
    ("[::]", 403),
    ("[fe80::1]", 403),
    ("10.0.0.1", 403),
    ("169.254.169.254", 403),
    ("evil.example", 403),
    ("evil@localhost", 403),
    ("localhost@evil", 403),
    ("localhost#evil", 403),
    ("localhost/evil", 403),
    ("localhost?evil", 403),
    ("localhost\\evil", 403),
    ("localhost, evil.example", 403),
    ("localhost evil.example", 403),
    ("http://localhost", 403),
    ("%6cocalhost", 403),
    ("localhost%00", 403),
    ("", 403),
    ("*", 403),
    ("[::1", 403),
    ("\tlocalhost", 200),
    ("localhost ", 200),
];

/// `Origin`, and the status.
const ORIGINS: &[(&str, u16)] = &[
    ("http://localhost", 200),
    ("https://localhost", 200),
    ("HTTP://LOCALHOST", 200),
    ("http://localhost:1", 200),
    ("http://localhost:99999", 200),
    ("http://127.0.0.1", 200),
    ("http://127.0.0.1:6274", 200),
    ("http://[::1]", 200),
    ("http://[::1]:80", 200),
    ("ws://localhost", 200),
    ("chrome-extension://localhost", 200),
    ("null", 403),
    ("NULL", 403),
    ("", 403),
    ("*", 403),
    ("localhost", 403),
    ("localhost:80", 403),
    ("//localhost", 403),
    ("http:/localhost", 403),
    ("http:localhost", 403),
    ("http://", 403),
    ("http://evil.example", 403),
    ("https://evil.example:443", 403),
    ("http://localhost.evil.example", 403),
    ("http://evil.example/localhost", 403),
    ("http://localhost@evil.example", 403),
    ("http://evil.example@localhost", 403),
    ("http://localhost/", 403),
    ("http://localhost/x", 403),
    ("http://localhost#x", 403),
    ("http://localhost?x", 403),
    ("http://localhost, http://evil.example", 403),
    ("http://localhost http://evil.example", 403),
    ("http://127.0.0.2", 403),
    ("http://127.1", 403),
    ("http://0.0.0.0", 403),
    ("http://[::ffff:127.0.0.1]", 403),
    ("file://", 403),
    ("file:///etc/passwd", 403),
    ("data:text/html,x", 403),
    ("about:blank", 403),
    ("http://xn--localhost-abc", 403),
];

/// The statuses that a connection brings for some bytes and a healthy request behind them, up to its end.
fn statuses(address: &str, bytes: &[u8]) -> Vec<u16> {
    let mut raw = Raw::open(address);
    raw.send(bytes);
    raw.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let all = raw.rest();
    let status = |(at, _): (usize, &str)| all[at + 9..at + 12].parse().unwrap();
    all.match_indices("HTTP/1.").map(status).collect()
}

#[test]
fn raw_requests_end_where_they_end_and_nowhere_else() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let check = |what: &[u8], bytes: &[u8], wanted: &[u16]| {
        let found = statuses(daemon.address(), bytes);
        assert_eq!(found, wanted, "{}", String::from_utf8_lossy(what));
    };
    for (line, wanted) in LINES {
        check(line, &[line, &b"\r\nHost: localhost\r\n\r\n"[..]].concat(), wanted);
    }
    for (fields, wanted) in FIELDS {
        let head = [&b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"[..], fields, b"\r\n"].concat();
        check(fields, &head, wanted);
    }
    for (fields, body, wanted) in BODIES {
        let head = format!("POST /servers/fake/mcp HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}");
        let body: Vec<u8> = body.iter().flat_map(|b| if *b == b'@' { MESSAGE.to_vec() } else { vec![*b] }).collect();
        check(&[*fields, body.as_slice()].concat(), &[head.as_bytes(), fields, b"\r\n", &body].concat(), wanted);
    }
    assert!(LINES.len() + FIELDS.len() + BODIES.len() >= 87);
    assert_eq!(daemon.status()["sessions"], 0);
}

#[test]
fn hosts_and_origins_of_strangers_are_refused_in_every_spelling() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let ask = |fields: String| {
        let mut raw = Raw::open(daemon.address());
        raw.send(format!("GET /metrics HTTP/1.1\r\n{fields}Connection: close\r\n\r\n").as_bytes());
        raw.response().status
    };
    for (host, wanted) in HOSTS {
        assert_eq!(ask(format!("Host: {host}\r\n")), *wanted, "Host: {host:?}");
    }
    for (origin, wanted) in ORIGINS {
        assert_eq!(ask(format!("Host: localhost\r\nOrigin: {origin}\r\n")), *wanted, "Origin: {origin:?}");
    }
}
