//! Documentation and program agree: keys, flags, verbs, exit codes, shipped configurations.

use std::collections::BTreeSet;
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

/// Every key that exists: `-T` shows them all, those of both kinds of server included.
fn keys() -> BTreeSet<String> {
    let scratch = Scratch::new();
    let file = scratch.write("k.ron", "(servers: {\"a\": Stdio(command: \"cat\"), \"b\": Exec(allow: [\"cat\"])})");
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
