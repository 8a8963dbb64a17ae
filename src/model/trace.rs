//! Trace context: who has called, from one program to the next (W3C Trace Context).
//!
//! HTTP has headers for it and MCP has members of `_meta` with the same names; what came in a header alone goes on in
//! `_meta`. Pure: knows texts, and no connection.

use super::envelope::{Envelope, Kind, add_meta, member, quote};

/// The members of `_meta`, and the headers, with their longest values in bytes. The first is the one that counts.
const NAMES: [(&str, usize); 3] = [("traceparent", 55), ("tracestate", 512), ("baggage", 8192)];

/// A request with the trace context of its headers in `_meta`; None where there is none, or it has one already.
pub fn from_headers<'h>(e: &Envelope<'_>, header: &dyn Fn(&'static str) -> Option<&'h str>) -> Option<String> {
    let parent = header(NAMES[0].0).map(str::trim).filter(|parent| is_parent(parent))?;
    let has = |name| e.get(&e.meta).is_some_and(|meta| member(meta, name).is_some());
    if e.kind != Kind::Request || has(NAMES[0].0) {
        return None;
    }
    let plain = |value: &str| value.bytes().all(|b| (b' '..=b'~').contains(&b));
    let more = NAMES[1..].iter().filter(|(name, _)| !has(name)).filter_map(|(name, longest)| {
        let value = header(name).filter(|value| !value.is_empty() && value.len() <= *longest && plain(value))?;
        Some(format!(",\"{name}\":{}", quote(value)))
    });
    add_meta(e, &format!("\"{}\":{}{}", NAMES[0].0, quote(parent), more.collect::<String>()))
}

/// Whether a value is a `traceparent` (W3C Trace Context section 3.2.2): version, trace, parent and flags.
fn is_parent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let [version, trace, parent, flags] = parts[..] else { return false };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    let fine = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    fine && version != "ff" && some(trace) && some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::envelope::scan;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_goes_on_in_meta_where_that_says_nothing_else() {
        let with = |text: &str, state: Option<&'static str>| {
            let header = |name: &'static str| match name {
                "traceparent" => Some(PARENT),
                "tracestate" => state,
                _ => None,
            };
            from_headers(&scan(text).unwrap(), &header)
        };
        for (text, has) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#,
                r#"{"params":{"_meta":{TRACE}},"jsonrpc":"2.0","id":1,"method":"m"}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{}}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{TRACE}}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":null}}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{TRACE}}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1,"_meta":{"b":2}}}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1,"_meta":{TRACE,"b":2}}}"#,
            ),
        ] {
            let trace = format!(r#""traceparent":"{PARENT}","tracestate":"a=1""#);
            assert_eq!(with(text, Some("a=1")).unwrap(), has.replace("TRACE", &trace));
        }
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"traceparent":"own"}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":7}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/x"}"#,
        ] {
            assert_eq!(with(text, None), None, "{text}");
        }
    }

    #[test]
    fn only_what_is_a_parent_is_passed_on() {
        assert!(is_parent(PARENT));
        for wrong in [
            "",
            "00-0-b-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!is_parent(wrong), "{wrong}");
        }
    }
}
