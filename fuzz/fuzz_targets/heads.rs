//! Any fields in the head of a request, any event id: a verdict.
#![no_main]

use hyper::Method;
use libfuzzer_sys::fuzz_target;
use mcpdaemon::hub::{Outbox, ResumableStreams};
use mcpdaemon::model::envelope::scan;
use mcpdaemon::model::modern::{self, Field, ParamHeaders};
use mcpdaemon::net::head::{Fields, Head};
use mcpdaemon::net::{origin, plain, request};

fuzz_target!(|data: &[u8]| {
    // Head and body, as they stand in a request.
    let split = data.windows(2).position(|w| w == b"\n\n").unwrap_or(data.len());
    let (head, body) = data.split_at(split);
    let mut fields = Fields::default();
    for line in head.split(|b| *b == b'\n') {
        let mut parts = line.splitn(2, |b| *b == b':');
        if let (Some(name), Some(value)) = (parts.next(), parts.next())
            && let Ok(name) = std::str::from_utf8(name)
        {
            fields.add(name, value);
        }
    }
    let head = Head { method: Method::POST, is_11: true, authority: None, path: "/".to_owned(), query: None, fields };
    // As it stands, and as what is behind a line that a plain request begins with.
    for text in [data, &[b"POST /mcp HTTP/1.1\r\n", data].concat()] {
        if let Some((_, length)) = plain::request(text, 1 << 14) {
            assert!(length <= text.len());
        }
    }
    let own = ["localhost".to_owned(), "[::1]:80".to_owned()];
    let local = Some(std::net::Ipv4Addr::LOCALHOST.into());
    if let Ok((host, origin)) = request::named(&head) {
        let verdict = origin::refuse(host, origin, local, &own, &own);
        assert!(verdict.is_some() || host.is_some());
    }
    let _ = request::accepts(&head.fields);
    let _ = request::check_version(&head.fields);
    let field = |name: &str| {
        let mut all = head.fields.all(name);
        match (all.next(), all.next()) {
            (None, _) => Field::Missing,
            (Some(value), None) => Field::Once(value),
            _ => Field::Several,
        }
    };
    let mut known = ParamHeaders::new();
    known.insert("t".to_owned(), vec![("A".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
    if let Ok(body) = std::str::from_utf8(body.get(2..).unwrap_or(b"")) {
        modern::param_headers(body, &mut known);
        if let Ok(e) = scan(body) {
            let _ = modern::check_headers(&e, &field);
            let _ = modern::check_params(&e, "t", &known, &field);
        }
        let mut streams = ResumableStreams::default();
        let id = streams.open(std::sync::Arc::new(Outbox::new(9))).note(body);
        assert!(streams.find(&id).is_some_and(|(stream, n)| n == 1 && stream.after(0).len() == 1));
        let _ = streams.find(body);
    }
});
