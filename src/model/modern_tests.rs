use super::*;

#[test]
fn a_legacy_request_is_put_in_modern_words() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#" {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        r#"{"id":1,"method":"tools/call","params": {"name":"x","n":9007199254740993},"jsonrpc":"2.0"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":7},"name":"x"}}"#,
    ] {
        let before = crate::model::envelope::scan(text).unwrap();
        let after = with_meta(&before, "1.2");
        let e = crate::model::envelope::scan(&after).unwrap_or_else(|f| panic!("{after}: {f:?}"));
        assert!(claimed(&e) && check_meta(&e).is_ok() && check_version(&e).is_ok(), "{after}");
        assert_eq!(e.get(&e.progress_token), before.get(&before.progress_token), "{after}");
        assert_eq!(e.get(&e.name), before.get(&before.name), "{after}");
        assert!(after.contains("9007199254740993") == text.contains("9007199254740993"));
    }
}
use crate::model::envelope::scan;

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn request(method: &str, more: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{META}{more}}}}}"#)
}

#[test]
fn a_request_is_complete_or_refused() {
    let good = request("tools/list", "");
    let e = scan(&good).unwrap();
    assert!(check_meta(&e).is_ok() && check_version(&e).is_ok() && check_method(&e).is_ok());
    for (text, code) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{}}"#.to_owned(), INVALID_PARAMS),
        (good.replace("protocolVersion", "x"), INVALID_PARAMS),
        (good.replace("clientCapabilities\":{}", "clientCapabilities\":7"), INVALID_PARAMS),
        (good.replace("2026-07-28", "v999.0.0"), UNSUPPORTED_VERSION),
        (request("ping", ""), METHOD_NOT_FOUND),
    ] {
        let e = scan(&text).unwrap();
        let refused = check_meta(&e).and_then(|()| check_version(&e)).and_then(|()| check_method(&e)).unwrap_err();
        assert_eq!(refused.code, code, "{text}");
    }
    let e = scan(&good).unwrap();
    assert!(claimed(&e) && !claimed(&scan(r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#).unwrap()));
    assert!(is_modern("2027-01-01") && !is_modern("2025-11-25") && !is_modern("v999.0.0"));
    let text = good.replace("2026-07-28", "v9");
    let refused = check_version(&scan(&text).unwrap()).unwrap_err().text(Some("1"));
    assert!(refused.contains(r#""data":{"supported":["2026-07-28"],"requested":"v9"}"#), "{refused}");
}

#[test]
fn headers_repeat_the_body() {
    let text = request("tools/call", r#","name":"Hello","arguments":{"a":{"b":"wörld"},"n":42}"#);
    let e = scan(&text).unwrap();
    let check = |name: &'static [u8]| {
        check_headers(&e, &|field| match field {
            "MCP-Protocol-Version" => Field::Once(VERSION.as_bytes()),
            "Mcp-Method" => Field::Once(b"tools/call"),
            _ if name.is_empty() => Field::Missing,
            _ if name == b"twice" => Field::Several,
            _ => Field::Once(name),
        })
    };
    for (name, passes) in [
        (&b"Hello"[..], true),
        (b"=?base64?SGVsbG8=?=", true),
        (b"=?base64?SGVsbG8?=", false),
        (b"=?base64?SGVs!!!bG8=?=", false),
        (b"=?base64?SGVsbG8=", false),
        (b"hello", false),
        (b"twice", false),
        (b"", false),
    ] {
        assert_eq!(check(name).is_ok(), passes, "{}", String::from_utf8_lossy(name));
    }
    let mut known = ParamHeaders::new();
    param_headers(
        r#"{"tools":[{"name":"Hello","inputSchema":{"type":"object","properties":{
            "a":{"type":"object","properties":{"b":{"type":"string","x-mcp-header":"B"}}},
            "n":{"type":"integer","x-mcp-h\u0065ader":"N"},"none":{"x-mcp-header":"None"}}}}]}"#,
        &mut known,
    );
    let params = |b: &'static [u8], n: &'static [u8], none: &'static [u8]| {
        check_params(&e, &decode(e.get(&e.name).unwrap()), &known, &|field| {
            let value = match field {
                "Mcp-Param-B" => b,
                "Mcp-Param-N" => n,
                _ => none,
            };
            if value.is_empty() { Field::Missing } else { Field::Once(value) }
        })
    };
    assert!(params("wörld".as_bytes(), b"42", b"").is_ok());
    assert!(params(b"=?base64?d8O2cmxk?=", b"42.0", b"").is_ok());
    assert!(params(b"world", b"42", b"").is_err());
    assert!(params("wörld".as_bytes(), b"", b"").is_err());
    assert!(params("wörld".as_bytes(), b"42", b"there").is_err());
}

#[test]
fn a_legacy_answer_becomes_a_modern_one_and_nothing_else_changes() {
    for (method, text, wanted) in [
        (
            "tools/list",
            r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[],"n":1.0}}"#,
            r#"{"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{}},"tools":[],"n":1.0}}"#,
        ),
        (
            "tools/call",
            r#"{"result":{ "_meta":{"x":1}},"id":7,"jsonrpc":"2.0"}"#,
            r#"{"result":{"resultType":"complete", "_meta":{"io.modelcontextprotocol/serverInfo":{},"x":1}},"id":"a","jsonrpc":"2.0"}"#,
        ),
        (
            "tools/call",
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{}}}}"#,
        ),
        (
            "resources/read",
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32002,"message":"m","data":{"uri":"x"}}}"#,
            r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32602,"message":"m","data":{"uri":"x"}}}"#,
        ),
    ] {
        let made = answer(&scan(text).unwrap(), "\"a\"", method, "{}", Fresh::default());
        assert_eq!(made, wanted);
        assert!(serde_json::from_str::<serde_json::Value>(&made).is_ok());
    }
    let meta = r#"{"a":1.0,"io.modelcontextprotocol/clientInfo":{},"progressToken":"p"}"#;
    assert_eq!(legacy_meta(meta, Some("9")), r#"{"a":1.0,"progressToken":9}"#);
    assert_eq!(legacy_meta(r#"{"io.modelcontextprotocol/x":1}"#, None), "{}");
}

#[test]
fn notifications_are_tagged_wherever_they_have_room() {
    for (text, wanted) in [
        (r#"{"jsonrpc":"2.0","method":"m"}"#, r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{TAG}}}"#),
        (r#"{"method":"m","params":{}}"#, r#"{"method":"m","params":{"_meta":{TAG}}}"#),
        (r#"{"method":"m","params":{"a":1}}"#, r#"{"method":"m","params":{"_meta":{TAG},"a":1}}"#),
        (r#"{"method":"m","params":null}"#, r#"{"method":"m","params":{"_meta":{TAG}}}"#),
        (r#"{"params":{"_meta":{"b":2}},"method":"m"}"#, r#"{"params":{"_meta":{TAG,"b":2}},"method":"m"}"#),
    ] {
        let wanted = wanted.replace("TAG", "\"io.modelcontextprotocol/subscriptionId\":\"s\"");
        assert_eq!(tagged(text, "\"s\""), wanted);
    }
    let filter = Filter::read(r#"{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a"]}}"#).unwrap();
    assert!(filter.wants_list("tools") && !filter.wants_list("prompts") && filter.uris == ["a"]);
    assert!(Filter::read("{}").is_err());
    assert!(serde_json::from_str::<serde_json::Value>(&filter.acknowledged("1")).is_ok());
}
