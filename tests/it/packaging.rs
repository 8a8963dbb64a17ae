//! What is shipped around the programs: completions and the install script.

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

/// All files and folders below a folder, with what files hold.
fn tree(dir: &Path) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        let text = std::fs::read(&path).unwrap_or_default();
        found.insert((path, text));
    }
    found
}

#[test]
fn what_is_installed_is_removed_again_and_nothing_else() {
    let scratch = Scratch::new();
    let dest = scratch.path("dest");
    let built = Path::new(mcpdaemon()).parent().unwrap();
    let install = |prefix: &str, args: &[&str]| {
        let mut command = scratch.command(root("config/install").to_str().unwrap());
        command.args(args).env("PREFIX", prefix).env("DESTDIR", &dest).env("BUILT", built);
        command.output().unwrap()
    };
    // Somebody else's files, one of them in a folder that both use.
    scratch.write("dest/opt/mcp/bin/other", "other");
    scratch.write("dest/etc/passwd", "root");
    let before = tree(&dest);
    for _ in 0..2 {
        let out = install("/opt/mcp", &[]);
        assert!(out.status.success(), "{}", stderr(&out));
    }
    for file in [
        "bin/mcpdaemon",
        "bin/mcpctl",
        "share/man/man5/mcpdaemon.ron.5",
        "share/man/man7/mcpdaemon.7",
        "share/man/man8/mcpdaemon.8",
        "share/man/man8/mcpctl.8",
        "share/bash-completion/completions/mcpctl",
        "share/zsh/site-functions/_mcpdaemon",
        "share/fish/vendor_completions.d/mcpctl.fish",
        "lib/systemd/system/mcpdaemon@.socket",
        "lib/systemd/system/mcpdaemon@.path",
        "lib/systemd/system/mcpdaemon-drop-ins@.path",
        "lib/systemd/user/mcpdaemon@.service",
        "share/doc/mcpdaemon/examples/service/mcpdaemon.nginx",
        "share/doc/mcpdaemon/examples/prod.ron",
        "share/doc/mcpdaemon/examples/service/s6/run",
    ] {
        assert!(dest.join("opt/mcp").join(file).is_file(), "{file} is missing");
    }
    let out = scratch.run(dest.join("opt/mcp/bin/mcpctl").to_str().unwrap(), &["--version"]);
    assert!(stdout(&out).starts_with("mcpctl "), "{out:?}");
    let unit = scratch.file("dest/opt/mcp/lib/systemd/system/mcpdaemon@.service");
    assert!(unit.contains("\nExecStart=/opt/mcp/bin/mcpdaemon -f "), "{unit}");
    for (path, text) in tree(&dest) {
        let fits = path.ends_with("README.md") || !String::from_utf8_lossy(&text).contains("/usr/bin/mcp");
        assert!(fits || path.starts_with(dest.join("opt/mcp/bin")), "{}: a path that is not there", path.display());
    }
    let out = install("/opt/mcp", &["--uninstall"]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(tree(&dest), before);
    for (prefix, args, wanted) in [
        ("/opt/mcp", &["--uninstall"][..], "nothing is installed here"),
        ("opt", &[], "no absolute path"),
        ("/a b", &[], "may consist of letters"),
        ("/opt/mcp", &["--help"], "usage: "),
    ] {
        let out = install(prefix, args);
        assert!(!out.status.success() && stderr(&out).contains(wanted), "{prefix} {args:?}: {}", stderr(&out));
    }
    assert_eq!(tree(&dest), before);
}
