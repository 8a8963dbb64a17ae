//! The official conformance suites against a server behind the daemon: tests/peers/conformance tells which.

use std::path::PathBuf;
use std::process::Output;

use crate::harness::*;

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Our fixture, a child for each session of the legacy era and one for the modern one.
fn fixture(scratch: &Scratch) -> Daemon<'_> {
    let deps = root("target/test-deps/conformance");
    assert!(deps.join("node_modules").exists(), "{} is missing: run tests/install", deps.display());
    let script = root("tests/peers/conformance/fixture.mjs");
    let servers = format!(
        "\"fixture\": Stdio(command: [\"node\", {script:?}], env: {{\"CONFORMANCE_DEPS\": {deps:?}}}, \
         sharing: PerSession(max: 200, spare: 2))"
    );
    scratch.start(&scratch.instance("t", &servers))
}

fn run(daemon: &Daemon<'_>, out: &str, suites: &[&str]) -> Output {
    let scratch = daemon.scratch;
    let url = format!("{}/servers/fixture/mcp", daemon.url);
    let script = root("tests/peers/conformance/run").display().to_string();
    let out = scratch.path(out).display().to_string();
    scratch.run(&script, &[&[url.as_str(), out.as_str()], suites].concat())
}

#[test]
fn conformance_suites_pass() {
    let scratch = Scratch::new();
    let daemon = fixture(&scratch);
    let out = run(&daemon, "out", &["2026-07-28", "2025-11-25", "unscored", "old"]);
    println!("{}", stdout(&out));
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
}

#[test]
fn five_conformance_suites_at_once_pass_on_one_instance() {
    let scratch = Scratch::new();
    let daemon = fixture(&scratch);
    let suites = ["2026-07-28", "2026-07-28", "2026-07-28", "2026-07-28", "2025-11-25"];
    std::thread::scope(|scope| {
        let runs = suites.iter().enumerate();
        let runs: Vec<_> = runs
            .map(|(n, suite)| {
                (
                    suite,
                    scope.spawn({
                        let daemon = &daemon;
                        move || run(daemon, &format!("out{n}"), &[suite])
                    }),
                )
            })
            .collect();
        for (suite, run) in runs {
            let out = run.join().unwrap();
            assert!(out.status.success(), "{suite}: {}{}", stdout(&out), stderr(&out));
        }
    });
}
