//! Any text as a message: what the scanner finds must be what a JSON parser finds, and what is made of it must be JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpdaemon::model::bridge::{self, List, Names, Naming};
use mcpdaemon::model::envelope::{Fault, Kind, batch, decode, member, scan, scan_client, spliced};
use mcpdaemon::model::{modern, words};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = words::split(text);
    let _ = scan_client(text);
    // The parser nests less deeply, and takes no lone surrogates, which are no text.
    let parsed = serde_json::from_str::<Value>(text);
    match scan(text) {
        Ok(e) => {
            let Ok(value) = &parsed else {
                assert!(deep(text) || text.contains("\\u") || text.contains(['e', 'E']), "taken, but no JSON: {text}");
                return;
            };
            if let Some(id) = e.get(&e.id) {
                assert_eq!(serde_json::from_str::<Value>(id).ok().as_ref(), value.get("id"));
            }
            if e.kind != Kind::Response {
                assert_eq!(value["method"].as_str(), Some(e.method.as_ref()));
            }
            if let Some(params) = e.get(&e.params) {
                assert_eq!(serde_json::from_str::<Value>(params).ok().as_ref(), value.get("params"));
            }
            for span in [&e.uri, &e.name, &e.task_id, &e.progress_token, &e.request_id, &e.modern.version] {
                if let Some(text) = e.get(span) {
                    let _ = decode(text);
                }
            }
            let json =
                |text: &str| assert!(serde_json::from_str::<Value>(text).is_ok(), "made of {}: {text}", e.text());
            if let Some(id) = e.id.clone() {
                json(&spliced(text, &[(id, "\"new\"")]));
            }
            match e.kind {
                Kind::Response if e.id.is_some() => {
                    json(&modern::answer(&e, "1", "tools/list", "{}", modern::Fresh::default()))
                }
                Kind::Notification => json(&modern::tagged(text, "\"s\"")),
                _ => {}
            }
            if let Some(meta) = e.get(&e.meta) {
                json(&modern::legacy_meta(meta, Some("7")));
            }
            if e.kind == Kind::Request {
                json(&modern::with_meta(&e, "1"));
            }
            if let Some(text) = bridge::filtered(&e, &|name| name.len() > 3) {
                json(&text);
            }
            if let Some(result) = e.get(&e.result) {
                pages(result);
            }
            let _ = modern::check_meta(&e).and_then(|()| modern::check_version(&e));
            let _ = modern::Filter::read(e.get(&e.params).unwrap_or("{}"));
            let _ = member(text, "error").and_then(|e| member(e, "code"));
        }
        Err(Fault::Json(at, _)) => {
            assert!(at <= text.len());
            assert!(parsed.is_err() || deep(text), "refused, but JSON: {text}");
        }
        Err(Fault::Batch) => {
            let all = batch(text).expect("an array");
            if let Ok(Value::Array(values)) = &parsed {
                assert_eq!(all.len(), values.len());
            }
            for one in all {
                let _ = scan(one);
            }
        }
        Err(Fault::Inexact(changes)) => {
            // Once for the mark before it, once for the rest.
            let again = spliced(text, &changes);
            if let Err(Fault::Inexact(changes)) = scan(&again) {
                assert!(
                    !matches!(scan(&spliced(&again, &changes)), Err(Fault::Inexact(_))),
                    "inexact for ever: {text}"
                );
            }
        }
        Err(Fault::Message(id, _) | Fault::Respelled(id, _)) => assert!(id.is_none_or(|id| text.contains(id))),
    }
});

/// Nested beyond what the parser takes.
fn deep(text: &str) -> bool {
    text.bytes().filter(|b| matches!(b, b'[' | b'{')).count() > 100
}

/// Whatever a server lists, the bridge lists as JSON, once each, under names that models accept.
fn pages(result: &str) {
    for list in List::ALL {
        let Some((items, _)) = bridge::read_page(list, result) else { continue };
        for naming in [Naming::default(), Naming::First, Naming::Error] {
            let names = Names::new(&naming, ["a".to_owned(), "b__c".to_owned()]);
            let items = std::sync::Arc::new(items.clone());
            let of = [("a".to_owned(), items.clone()), ("b__c".to_owned(), items)].into();
            let merged = names.merge(list, &of);
            let page = bridge::page(list, &merged.listed, None).expect("a first page");
            assert!(serde_json::from_str::<Value>(&page).is_ok(), "{page}");
            for listed in &merged.listed {
                let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                if matches!(list, List::Tools | List::Prompts) {
                    assert!((1..=64).contains(&listed.name.len()) && listed.name.bytes().all(fine), "{}", listed.name);
                }
                assert_eq!(merged.get(&listed.name), Some(listed));
            }
        }
    }
}
