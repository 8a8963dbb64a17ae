//! Documentation and program agree: keys, flags, verbs, exit codes, shipped configurations, and what was wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::harness::*;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A man page as a reader sees it.
fn page(name: &str) -> String {
    let mut mandoc = std::process::Command::new("mandoc");
    mandoc.args(["-T", "ascii", "-O", "width=200"]).arg(root(&format!("man/{name}")));
    let out = mandoc.output().expect("mandoc (tests/install brings it)");
    assert!(out.status.success(), "{out:?}");
    // Bold and underline are overstrikes: the character before each backspace goes.
    let mut text = String::new();
    for c in stdout(&out).chars() {
        if c == '\u{8}' {
            text.pop();
        } else {
            text.push(c);
        }
    }
    text
}

/// Every key that exists: `-T` shows them all, those of all kinds of server included.
fn keys() -> BTreeSet<String> {
    let scratch = Scratch::new();
    let file = scratch.write(
        "k.ron",
        "(audit: (), servers: {\"a\": Stdio(command: \"cat\"), \"b\": Exec(allow: [\"cat\"]), \"c\": Http(url: \"http://h\")})",
    );
    let out = scratch.run(mcpdaemon(), &["-T", "-c", &file.display().to_string()]);
    let word = |line: &str| {
        let (key, _) = line.trim_start().split_once(':')?;
        key.chars().all(|c| c.is_ascii_lowercase() || c == '_').then(|| key.to_owned())
    };
    stdout(&out).lines().filter_map(word).collect()
}

#[test]
fn every_key_is_in_the_manual_and_in_the_shipped_example_and_no_other() {
    let keys = keys();
    assert!(keys.len() > 30, "{keys:?}");
    let manual = read("man/mcpdaemon.ron.5");
    let items = manual.lines().filter_map(|l| l.strip_prefix(".It Ic ")).filter_map(|l| l.split_whitespace().next());
    let described: BTreeSet<String> = items.map(str::to_owned).collect();
    let missing: Vec<_> = keys.difference(&described).collect();
    assert!(missing.is_empty(), "not in mcpdaemon.ron.5: {missing:?}");
    let strange: Vec<_> =
        described.difference(&keys).filter(|k| k.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect();
    assert!(strange.is_empty(), "in mcpdaemon.ron.5, but no key: {strange:?}");
    let example = read("config/prod.ron");
    let missing: Vec<_> = keys.iter().filter(|k| !example.contains(&format!("{k}:"))).collect();
    assert!(missing.is_empty(), "not in config/prod.ron: {missing:?}");
}

#[test]
fn shipped_configurations_are_valid() {
    let scratch = Scratch::new();
    let files = std::fs::read_dir(root("config")).unwrap().map(|e| e.unwrap().path());
    for path in files.filter(|p| p.extension().is_some_and(|e| e == "ron")) {
        let path = path.display().to_string();
        let out = scratch.run(mcpdaemon(), &["-t", "-c", &path]);
        assert_eq!(code(&out), 0, "{path}: {}", stderr(&out));
    }
}

#[test]
fn every_flag_and_verb_is_in_its_manual() {
    let scratch = Scratch::new();
    let flags = |program: &str, args: &[&str]| {
        let help = stdout(&scratch.run(program, args));
        let words = help.split_whitespace().filter(|w| w.starts_with("--") && w.len() > 2);
        words.map(|w| w.trim_matches(|c: char| !c.is_alphanumeric() && c != '-').to_owned()).collect::<BTreeSet<_>>()
    };
    let manual = page("mcpdaemon.8");
    let all = flags(mcpdaemon(), &["--help"]);
    assert!(all.contains("--config") && all.len() >= 9, "{all:?}");
    for flag in all {
        assert!(manual.contains(&flag), "{flag} is not in mcpdaemon.8");
    }
    let manual = page("mcpctl.8");
    for verb in ["list", "status", "stop", "reload", "restart", "logs"] {
        assert!(manual.contains(&format!("mcpctl {verb}")), "{verb} is not in mcpctl.8");
        for flag in flags(mcpctl(), &[verb, "--help"]) {
            assert!(manual.contains(&flag), "{verb} {flag} is not in mcpctl.8");
        }
    }
    for code in ["64", "65", "69", "70", "71", "73", "75", "77", "78"] {
        assert!(page("mcpdaemon.8").contains(code), "exit status {code} is not in mcpdaemon.8");
    }
}

#[test]
fn every_member_of_the_status_document_is_in_the_manual() {
    fn members(value: &serde_json::Value, into: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    into.insert(key.clone());
                    members(value, into);
                }
            }
            serde_json::Value::Array(all) => all.iter().for_each(|v| members(v, into)),
            _ => {}
        }
    }
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    let mut all = BTreeSet::new();
    members(&daemon.status(), &mut all);
    let manual = page("mcpctl.8");
    for member in all {
        assert!(manual.contains(&member), "{member} is not in mcpctl.8");
    }
}

/// The ids in tests/requirements.md, in order.
fn requirements() -> Vec<String> {
    let ranges = [("S1.", 47), ("S1.W", 36), ("S2.", 70), ("S3.", 94), ("S4.", 43), ("T", 25)];
    ranges.iter().flat_map(|(prefix, last)| (1..=*last).map(move |n| format!("{prefix}{n}"))).collect()
}

/// Whether a source file has a test of this name.
fn has_test(file: &str, name: &str) -> bool {
    let text = std::fs::read_to_string(root(file)).unwrap_or_default();
    let mut marked = false;
    text.lines().map(str::trim_start).any(|line| {
        let found = marked && line.strip_prefix("fn ").is_some_and(|l| l.split('(').next() == Some(name));
        // Other attributes may stand in between; but a test that is ignored shows nothing.
        marked = line == "#[test]" || marked && line.starts_with("#[") && !line.starts_with("#[ignore");
        found
    })
}

/// Whether a page of the manual has a section of this name.
fn has_section(page: &str, name: &str) -> bool {
    let text = std::fs::read_to_string(root(&format!("man/{page}"))).unwrap_or_default();
    let mut headings = text.lines().filter_map(|l| l.strip_prefix(".Sh ").or_else(|| l.strip_prefix(".Ss ")));
    headings.any(|heading| heading.trim_start_matches("\\&") == name)
}

/// Whether a requirement is answered: by tests and sections that are there, by a decision, or by both.
fn answered(cell: &str) -> Result<(), String> {
    let (shown, decision) = match cell.split_once("decision:") {
        Some((shown, decision)) => (shown, Some(decision.trim())),
        None => (cell, None),
    };
    for (n, part) in shown.split('`').enumerate() {
        let (kind, name) = part.split_once(' ').unwrap_or((part, ""));
        let there = match (n % 2, kind) {
            // Between those in backquotes.
            (0, _) => ["", ", ", "; "].contains(&part),
            (_, "test") => name.split_once("::").is_some_and(|(f, test)| has_test(&format!("tests/it/{f}.rs"), test)),
            (_, "unit") => name.split_once("::").is_some_and(|(file, test)| has_test(file, test)),
            (_, "man") => name.split_once(", ").is_some_and(|(page, section)| has_section(page, section)),
            _ => false,
        };
        if !there {
            return Err(format!("there is no test or section '{part}'"));
        }
    }
    match decision {
        None if shown.is_empty() => Err("nothing shows it".to_owned()),
        Some(text) if !text.contains(' ') => Err("the decision says nothing".to_owned()),
        _ => Ok(()),
    }
}

#[test]
fn every_promise_of_the_threat_model_names_its_tests() {
    let page = read("man/mcpdaemon.7");
    let (_, section) = page.split_once(".Sh THREAT MODEL\n").unwrap();
    let (promised, _) = section.split_once(".Ss What is not promised\n").unwrap();
    let items: Vec<&str> = promised.split(".It\n").skip(1).collect();
    assert!(items.len() > 10, "{}", items.len());
    for item in items {
        let named: Vec<&str> = item.lines().filter(|l| l.starts_with(".Pq Li ")).flat_map(|l| l.split(' ')).collect();
        let mut tests = named.iter().filter_map(|word| word.split_once("::")).peekable();
        assert!(tests.peek().is_some(), "no test is named for: {item}");
        for (file, test) in tests {
            assert!(has_test(&format!("tests/it/{file}.rs"), test), "there is no test {file}::{test}");
        }
    }
}

#[test]
fn every_requirement_is_answered() {
    let (ids, mut rows, mut wrong) = (requirements(), BTreeMap::new(), Vec::new());
    for (n, line) in (1..).zip(read("tests/requirements.md").lines()) {
        let Some(row) = line.strip_prefix('|') else { continue };
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        if ["id", "---"].contains(&cells[0]) {
            continue;
        }
        let mut say = |what: &str| wrong.push(format!("tests/requirements.md:{n}: {}: {what}", cells[0]));
        let &[id, wanted, shown] = cells.as_slice() else {
            say("expected three cells: id, wanted, shown by");
            continue;
        };
        if !ids.iter().any(|known| known == id) {
            say("there is no such id");
        }
        if let Some(before) = rows.insert(id.to_owned(), n) {
            say(&format!("it stands in line {before} already"));
        }
        if wanted.is_empty() {
            say("what is wanted?");
        }
        answered(shown).unwrap_or_else(|why| say(&why));
    }
    let missing: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !rows.contains_key(*id)).collect();
    if !missing.is_empty() {
        wrong.push(format!("tests/requirements.md: no row for {}", missing.join(", ")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What the manual shows for clients is understood by the import, and so by what it knows of these clients.
#[test]
fn the_configurations_of_clients_in_the_manual_are_understood() {
    let manual = read("man/mcpdaemon.7");
    let (_, part) = manual.split_once("\n.Sh CLIENTS\n").unwrap();
    let (part, _) = part.split_once("\n.Sh ").unwrap();
    let shown: Vec<&str> =
        part.split(".Bd -literal -compact\n").skip(1).map(|b| b.split_once(".Ed\n").unwrap().0).collect();
    let (commands, files): (Vec<&str>, Vec<&str>) = shown.into_iter().partition(|text| text.starts_with("claude "));
    assert_eq!((commands.len(), files.len()), (1, 9));
    let scratch = Scratch::new();
    for text in files {
        let out = scratch.run(mcpdaemon(), &["--import", scratch.write("file", text).to_str().unwrap()]);
        let made = stdout(&out);
        assert_eq!(code(&out), 0, "{text}\n{}", stderr(&out));
        if text.contains("--connect") {
            assert!(made.contains("\"mcpdaemon\", \"--connect\", \"dev/time\", \"--token-file\""), "{text}\n{made}");
            continue;
        }
        let url = if text.contains("https://") { "https://host" } else { "http://127.0.0.1:8003" };
        let (wanted, header) = match text.contains("mcp-remote") {
            true => (
                format!(
                    "\"npx\", \"-y\", \"mcp-remote\", \"{url}/servers/time/mcp\", \"--header\", \
                     \"Authorization:$${{AUTHORIZATION}}\""
                ),
                "\"AUTHORIZATION\": \"Bearer ",
            ),
            false => (format!("Http(\n            url: \"{url}/servers/time/mcp\","), "\"Authorization\": \"Bearer "),
        };
        assert!(made.contains(&wanted) && made.contains(header), "{text}\n{made}");
    }
}
