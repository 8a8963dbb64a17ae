//! The scanner against a table of messages, against serde_json, and against random text.

use super::*;
use proptest::prelude::*;

fn ids(text: &str) -> (Kind, Option<&str>, String) {
    let e = scan(text).unwrap();
    (e.kind, e.get(&e.id), e.method.to_string())
}

#[test]
fn messages_are_told_apart_by_their_members() {
    use Kind::*;
    for (text, kind, id, method) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Request, Some("1"), "ping"),
        (r#"{"method":"a\/b","id":"1","jsonrpc":"2.0","params":{}}"#, Request, Some("\"1\""), "a/b"),
        (r#"{"jsonrpc":"2.0","id":-1.5e3,"method":"x","params":[1]}"#, Request, Some("-1.5e3"), "x"),
        (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Notification, None, "notifications/initialized"),
        (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, Response, Some("7"), ""),
        (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#, Response, None, ""),
        (r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#, Response, None, ""),
        (r#"{"jsonrpc":"2.0","\u0069d":3,"m\u0065thod":"ping"}"#, Request, Some("3"), "ping"),
    ] {
        assert_eq!(ids(text), (kind, id, method.to_owned()), "{text}");
    }
}

#[test]
fn what_is_inexact_and_can_mean_one_thing_only_is_mended() {
    for (text, exact) in [
        ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}", r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{}}"#,
        ),
        (r#"{"jsonrpc":"2.0","params":[ ],"method":"m"}"#, r#"{"jsonrpc":"2.0","params":{},"method":"m"}"#),
        (r#"{"id":1,"result":{}}"#, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        (r#"{ "id":1,"error":{"code":1}}"#, r#"{"jsonrpc":"2.0", "id":1,"error":{"code":1}}"#),
    ] {
        let Err(Fault::Inexact(changes)) = scan(text) else { panic!("{text}: {:?}", scan(text)) };
        let mended = spliced(text, &changes);
        assert_eq!(mended, exact);
        assert!(scan(&mended).is_ok(), "once is enough: {mended}");
    }
    // Of a client's message the version is the one thing that tells it from all other JSON; a log has lines like these.
    assert!(matches!(scan_client(r#"{"id":1,"result":{}}"#), Err(Fault::Message(..))));
    for text in
        [r#"{"id":1,"error":"no"}"#, r#"{"id":1,"error":{"text":"no"}}"#, r#"{"result":{}}"#, r#"{"id":1,"result":3}"#]
    {
        assert!(matches!(scan(text), Err(Fault::Message(..))), "{text}");
    }
}

#[test]
fn what_routing_needs_is_found_and_nothing_else() {
    let text = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":
        {"uri":"no","_meta":{"progressToken":"no"}},"_meta":{"x":{"progressToken":0},"progressToken":"p"}}}"#;
    let e = scan(text).unwrap();
    assert_eq!(e.get(&e.progress_token), Some("\"p\""));
    assert_eq!((e.get(&e.uri), e.multiline), (None, true));
    let text = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"9","reason":"x"}}"#;
    assert_eq!(scan(text).unwrap().request_id.map(|s| &text[s]), Some("\"9\""));
    let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":4,"progress":1}}"#;
    assert_eq!(scan(text).unwrap().progress_token.map(|s| &text[s]), Some("4"));
}

#[test]
fn what_is_no_message_is_refused_with_its_id_when_it_has_one() {
    for (text, id) in [
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, Some("1")),
        (r#"{"id":1,"method":"ping"}"#, Some("1")),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, None),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, None),
        (r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, None),
        (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":1}"#, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1}"#, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":2}"#, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#, Some("2")),
        (r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"a"}"#, Some("2")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{},"_meta":{}}}"#, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{},"params":{}}"#, Some("1")),
        ("7", None),
        ("\"x\"", None),
    ] {
        match scan(text) {
            Err(Fault::Message(found, _)) => assert_eq!(found, id, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(scan(r#" [{"jsonrpc":"2.0"}] "#), Err(Fault::Batch));
    assert!(matches!(scan(""), Err(Fault::Json(0, _))));
}

#[test]
fn depth_is_bounded() {
    let deep = |n: usize| format!(r#"{{"jsonrpc":"2.0","method":"a","params":{}1{}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(scan(&deep(500)).is_ok());
    assert!(matches!(scan(&deep(MAX_DEPTH)), Err(Fault::Json(_, "nested too deeply"))));
    assert!(matches!(scan(&"[".repeat(1_000_000)), Err(Fault::Json(..))));
}

#[test]
fn splicing_changes_the_named_bytes_alone() {
    let text =
        r#"{"id" : "1","jsonrpc":"2.0","method":"m","params":{"n":12345678901234567890,"_meta":{"progressToken":3}}}"#;
    let e = scan(text).unwrap();
    let out = spliced(text, &[(e.id.clone().unwrap(), "42"), (e.progress_token.clone().unwrap(), "\"t\"")]);
    assert_eq!(
        out,
        r#"{"id" : 42,"jsonrpc":"2.0","method":"m","params":{"n":12345678901234567890,"_meta":{"progressToken":"t"}}}"#
    );
    let mut bytes = Vec::new();
    splice(&mut bytes, text, &[]);
    assert_eq!(bytes, text.as_bytes());
}

/// Any JSON value, as text with random white space.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| serde_json::Value::from(f).to_string()),
        any::<String>().prop_map(|s| quote(&s)),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|v| format!("[{}]", v.join(" ,\n"))),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|v| {
                let members: Vec<_> = v.iter().map(|(k, v)| format!("{} :\t{v}", quote(k))).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_json_value_is_taken(value in json()) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{value}}}"#);
        let e = scan(&text).unwrap();
        prop_assert_eq!(e.get(&e.result), Some(value.as_str()));
    }

    #[test]
    fn it_agrees_with_serde_json_on_broken_text(value in json(), cut in any::<prop::sample::Index>(), with in "[\\PC\"\\\\{}\\[\\],:0-9a-z \u{1}]{0,3}") {
        let mut at = cut.index(value.len() + 1);
        while !value.is_char_boundary(at) { at -= 1; }
        let text = format!("{}{with}{}", &value[..at], &value[at..].chars().skip(1).collect::<String>());
        let ours = !matches!(scan(&text), Err(Fault::Json(..)));
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(ours, theirs, "{}", text);
    }

    #[test]
    fn ids_come_back_as_they_were(id in prop_oneof![any::<i64>().prop_map(|n| n.to_string()), any::<String>().prop_map(|s| quote(&s))], number in any::<u32>()) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
        let e = scan(&text).unwrap();
        let there = spliced(&text, &[(e.id.clone().unwrap(), &number.to_string())]);
        let e = scan(&there).unwrap();
        let wanted = number.to_string();
        prop_assert_eq!(e.get(&e.id), Some(wanted.as_str()));
        prop_assert_eq!(spliced(&there, &[(e.id.clone().unwrap(), &id)]), text);
    }

    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        let _ = scan(&text);
    }
}

#[test]
fn a_string_ends_where_it_ends_wherever_that_is_in_a_block() {
    for length in 0..(3 * BLOCK + 9) {
        for stop in [b'"', b'\\', 0, b'\n', 0x1f] {
            for at in 0..=length {
                // Bytes that are near those looked for, and of all kinds.
                let mut bytes: Vec<u8> =
                    (0..length).map(|n| [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff][n % 8]).collect();
                bytes.insert(at, stop);
                assert_eq!(plain_run(&bytes), at, "{stop} at {at} of {length}");
            }
        }
    }
    assert_eq!(plain_run(&[b'a'; 3 * BLOCK + 9]), 3 * BLOCK + 9);
}
