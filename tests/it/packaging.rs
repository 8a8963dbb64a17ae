//! What is shipped around the programs: completions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::harness::*;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn set<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

/// The words of one section of `--help`: flags with one and with two dashes, or verbs.
fn help(scratch: &Scratch, program: &str, args: &[&str], section: &str) -> BTreeSet<String> {
    let out = scratch.run(program, &[args, &["--help"]].concat());
    assert_eq!(code(&out), 0, "{args:?}: {}", stderr(&out));
    let text = stdout(&out);
    let lines = text.lines().skip_while(|l| *l != section).skip(1).take_while(|l| l.starts_with("  "));
    let words = lines.flat_map(|l| l.trim_start().split("  ").next().unwrap().split(", "));
    // argh also takes the word `help`, which is no verb of ours.
    set(words.filter(|w| *w != "help" && (section != "Options:" || w.starts_with('-'))))
}

/// What a shell offers for the last word of a command line.
fn offered(scratch: &Scratch, shell: &str, line: &str) -> BTreeSet<String> {
    let program = line.split(' ').next().unwrap();
    let completion = |ending: &str| root(&format!("config/completions/{program}.{ending}")).display().to_string();
    let mut command;
    match shell {
        "bash" => {
            command = scratch.command("bash");
            let script = "source \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \"_$1\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
            command.args(["-c", script, &completion("bash")]).args(line.split(' '));
        }
        "fish" => {
            command = scratch.command("fish");
            command.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]", &completion("fish"), line]);
        }
        _ => {
            command = scratch.command(root("tests/completions/zsh").to_str().unwrap());
            command.arg(scratch.dir.path()).arg(line);
        }
    }
    let out = command.output().unwrap_or_else(|e| panic!("{shell} (tests/install brings it): {e}"));
    assert!(out.status.success(), "{shell}: {line}: {}", stderr(&out));
    // fish explains each word, behind a tab.
    set(stdout(&out).lines().map(|l| l.split('\t').next().unwrap()).filter(|w| !w.is_empty()))
}

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

#[test]
fn completions_offer_every_flag_and_verb_and_nothing_else() {
    let scratch = Scratch::new();
    let verbs = help(&scratch, mcpctl(), &[], "Commands:");
    assert!(verbs.contains("list") && verbs.len() >= 5, "{verbs:?}");
    for shell in SHELLS {
        assert_eq!(offered(&scratch, shell, "mcpctl "), verbs, "{shell}: verbs of mcpctl");
        assert_eq!(
            offered(&scratch, shell, "mcpdaemon -"),
            help(&scratch, mcpdaemon(), &[], "Options:"),
            "{shell}: flags of mcpdaemon"
        );
        assert_eq!(
            offered(&scratch, shell, "mcpctl -"),
            help(&scratch, mcpctl(), &[], "Options:"),
            "{shell}: flags of mcpctl"
        );
        for verb in &verbs {
            assert_eq!(
                offered(&scratch, shell, &format!("mcpctl {verb} -")),
                help(&scratch, mcpctl(), &[verb], "Options:"),
                "{shell}: flags of mcpctl {verb}"
            );
        }
    }
}

#[test]
fn completions_know_instances_and_files() {
    let scratch = Scratch::new();
    for name in ["run/prod.pid", "run/dev.pid", "run/prod.status", "other/far.pid", "a.ron", "b.json"] {
        scratch.write(name, "");
    }
    let far = format!("mcpctl --run-dir {} status ", scratch.path("other").display());
    for shell in SHELLS {
        for verb in ["status", "stop", "reload", "logs"] {
            assert_eq!(offered(&scratch, shell, &format!("mcpctl {verb} ")), set(["dev", "prod"]), "{shell} {verb}");
        }
        assert!(offered(&scratch, shell, "mcpctl list ").is_disjoint(&set(["dev", "prod"])), "{shell}");
        assert_eq!(offered(&scratch, shell, &far), set(["far"]), "{shell}");
        assert_eq!(offered(&scratch, shell, "mcpdaemon -c a"), set(["a.ron"]), "{shell}");
        assert_eq!(
            offered(&scratch, shell, "mcpdaemon --log-level "),
            set(["off", "error", "warn", "info", "debug", "trace"]),
            "{shell}"
        );
        assert!(offered(&scratch, shell, "mcpdaemon -f -- tru").contains("true"), "{shell}");
    }
}
