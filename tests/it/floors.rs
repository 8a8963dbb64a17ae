//! The floors of the source: a file uses only what stands below it, and no two files need each other, however many stand
//! between them. Drawn from the `use` lines and the paths of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floors, from the ground up: what stands in one line may use what stands before it. Within a line, files may use
/// each other as long as no circle comes of it. A name without an end stands for a folder with all that is in it.
const FLOORS: &[&[&str]] = &[
    // Pure: no input, no output, no clock.
    &["model"],
    // POSIX, synchronous.
    &["sys"],
    // Tools of the runtime.
    &["rt"],
    // How servers elsewhere are reached.
    &["remote/stream.rs"],
    &["remote/tls.rs", "remote/no_tls.rs"],
    &["remote"],
    // The hub: between clients and servers.
    &[
        "hub/counters.rs",
        "hub/error.rs",
        "hub/load.rs",
        "hub/memory.rs",
        "hub/audit.rs",
        "hub/leaving.rs",
        "hub/starts.rs",
        "hub/context.rs",
        "hub/command.rs",
        "hub/on_event.rs",
    ],
    &["hub/client"],
    &["hub/child"],
    &["hub/server"],
    // The kinds of server: side by side, none knows another.
    &["hub/shared"],
    &["hub/private"],
    &["hub/http"],
    &["hub/exec"],
    &["hub/bridge"],
    &["hub/route"],
    &["hub/kinds.rs"],
    &["hub"],
    // Listeners and protocols.
    &["net"],
    // What both programs need, and what goes with the daemon.
    &["cli.rs", "logging", "logging.rs", "source.rs", "importing.rs", "hints.rs"],
    &["instance", "instance.rs"],
    // mcpctl.
    &["ctl"],
    // The program for clients that know standard input and output alone.
    &["connect"],
    &["exporting.rs"],
    &["many.rs"],
    &["daemon", "daemon.rs"],
    &["bin", "lib.rs"],
];

/// The kinds of server, which stand side by side.
const SIDE_BY_SIDE: &[&str] = &["hub/shared", "hub/private", "hub/http", "hub/exec", "hub/bridge"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A module: its file, relative to `src`, and what it passes on under another path.
#[derive(Default)]
struct Module {
    file: String,
    text: String,
    /// Names that it re-exports, each with the path that it stands for.
    exports: BTreeMap<String, Vec<String>>,
}

/// All modules by their paths.
type Modules = BTreeMap<Vec<String>, Module>;

/// Every source file but those of unit tests.
fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.to_string_lossy().ends_with("tests.rs") {
            into.push(path);
        }
    }
}

/// The source without comments, texts and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut out = String::new();
    for line in text.lines().map(|l| l.split("//").next().unwrap_or_default()) {
        let mut inside = false;
        for c in line.chars() {
            inside ^= c == '"';
            out.push(if inside { ' ' } else { c });
        }
        out.push('\n');
    }
    out
}

fn module_path(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').filter(|part| !part.is_empty() && *part != "lib").map(str::to_owned).collect()
}

/// The paths that a tree of a `use` names, each with the name that it gets.
fn expand(tree: &str, before: &[String], into: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut path = before.to_vec();
        path.extend(tree[..open].split("::").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned));
        let (mut depth, mut from) = (0, open + 1);
        for (at, c) in tree.char_indices().skip(open) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (c == ',' && depth == 1) || (c == '}' && depth == 0) {
                expand(&tree[from..at], &path, into);
                from = at + 1;
            }
        }
        return;
    }
    if tree.is_empty() {
        return;
    }
    let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut all = before.to_vec();
    all.extend(path.split("::").map(|s| s.trim().to_owned()).filter(|s| s != "self"));
    let name = if name.is_empty() { all.last().cloned().unwrap_or_default() } else { name.trim().to_owned() };
    into.push((all, name));
}

/// The trees of the `use` items of a source, and whether each is passed on.
fn uses(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        let before = rest[..at].rsplit('\n').next().unwrap_or_default().trim();
        let begins = before.is_empty() || before.starts_with("pub");
        let Some(end) = rest[at..].find(';') else { break };
        if begins {
            found.push((before.starts_with("pub"), rest[at + 4..at + end].replace('\n', " ")));
        }
        rest = &rest[at + 4..];
    }
    found
}

/// Paths in the source outside of `use` items: those that begin with `crate` or `super`, and those that begin with a
/// module `inside` of the file's own.
fn paths(text: &str, inside: &[&str]) -> Vec<Vec<String>> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for start in ["crate", "super"].iter().chain(inside) {
        for (at, _) in text.match_indices(&format!("{start}::")) {
            let path: String = text[at..].chars().take_while(|c| part(*c)).collect();
            // A tree of a `use` goes on with a brace; a path may have begun before.
            if !text[..at].ends_with(part) && !path.ends_with(':') {
                found.push(path.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect());
            }
        }
    }
    found
}

/// A path from the root of the crate, as seen from a module.
fn absolute(modules: &Modules, from: &[String], path: &[String]) -> Option<Vec<String>> {
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "super" => {
            let up = path.iter().take_while(|s| *s == "super").count();
            let mut all = from[..from.len().checked_sub(up)?].to_vec();
            all.extend_from_slice(&path[up..]);
            Some(all)
        }
        first => {
            let mut all = from.to_vec();
            all.push(first.to_owned());
            modules.contains_key(&all).then(|| [from, path].concat())
        }
    }
}

/// The module that defines what a path names.
fn resolve(modules: &Modules, path: &[String], depth: usize) -> Option<Vec<String>> {
    let known = (0..=path.len()).rev().find(|n| modules.contains_key(&path[..*n]))?;
    let (module, rest) = path.split_at(known);
    if let Some(target) = rest.first().and_then(|name| modules[module].exports.get(name)).filter(|_| depth < 9) {
        let mut further = target.clone();
        further.extend_from_slice(&rest[1..]);
        return resolve(modules, &further, depth + 1);
    }
    Some(module.to_vec())
}

/// Who uses what, file by file.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let mut modules = Modules::new();
    for path in all {
        let file = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let text = code(&std::fs::read_to_string(&path).unwrap());
        modules.insert(module_path(&file), Module { file, text, exports: BTreeMap::new() });
    }
    let mut used: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for (from, module) in &modules {
        for (_, tree) in uses(&module.text) {
            let mut named = Vec::new();
            expand(&tree, &[], &mut named);
            used.extend(
                named.into_iter().filter_map(|(path, _)| Some((from.clone(), absolute(&modules, from, &path)?))),
            );
        }
        let inside: Vec<&str> = modules
            .keys()
            .filter(|k| k.len() == from.len() + 1 && k.starts_with(from))
            .map(|k| k[from.len()].as_str())
            .collect();
        used.extend(
            paths(&module.text, &inside).iter().filter_map(|p| Some((from.clone(), absolute(&modules, from, p)?))),
        );
    }
    let mut exports = Vec::new();
    for (from, module) in &modules {
        for (_, tree) in uses(&module.text).into_iter().filter(|(passed_on, _)| *passed_on) {
            let mut named = Vec::new();
            expand(&tree, &[], &mut named);
            for (path, name) in named {
                exports.extend(absolute(&modules, from, &path).map(|path| (from.clone(), name, path)));
            }
        }
    }
    for (from, name, path) in exports {
        modules.get_mut(&from).unwrap().exports.insert(name, path);
    }
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, path) in used {
        let Some(to) = resolve(&modules, &path, 0) else { continue };
        let (from, to) = (modules[&from].file.clone(), modules[&to].file.clone());
        if from != to && to != "lib.rs" {
            arrows.entry(from).or_default().insert(to);
        }
    }
    arrows
}

/// The floor that a file stands on: that of the longest name that is its beginning.
fn floor(file: &str) -> usize {
    let fits = |place: &str| file == place || file.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
    let all = FLOORS.iter().enumerate().flat_map(|(n, places)| places.iter().map(move |p| (n, *p)));
    let best = all.filter(|(_, place)| fits(place)).max_by_key(|(_, place)| place.len());
    best.unwrap_or_else(|| panic!("src/{file} stands on no floor: name it in FLOORS")).0
}

#[test]
fn every_file_uses_only_what_stands_below_it() {
    let arrows = arrows();
    assert!(arrows.len() > 100, "the source was not read: {}", arrows.len());
    let mut wrong = Vec::new();
    for (from, to) in arrows.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        if floor(to) > floor(from) {
            wrong.push(format!("src/{from} uses src/{to}, which stands above it"));
        }
        let kind = |file: &str| SIDE_BY_SIDE.iter().position(|k| file.starts_with(&format!("{k}/")));
        if let (Some(a), Some(b)) = (kind(from), kind(to))
            && a != b
        {
            wrong.push(format!("src/{from} uses src/{to}: kinds of server do not know each other"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Everything that a file uses, and what that uses in turn.
fn below<'a>(arrows: &'a BTreeMap<String, BTreeSet<String>>, file: &str) -> BTreeSet<&'a str> {
    let (mut found, mut next) = (BTreeSet::new(), vec![file.to_owned()]);
    while let Some(one) = next.pop() {
        for to in arrows.get(&one).into_iter().flatten() {
            if found.insert(to.as_str()) {
                next.push(to.clone());
            }
        }
    }
    found
}

#[test]
fn no_files_need_each_other_in_a_circle() {
    let arrows = arrows();
    let below: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|f| (f.as_str(), below(&arrows, f))).collect();
    let in_circle =
        |a: &str, b: &str| below.get(a).is_some_and(|x| x.contains(b)) && below.get(b).is_some_and(|x| x.contains(a));
    let all = arrows.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to)));
    let wrong: Vec<String> = all
        .filter(|(a, b)| in_circle(a, b))
        .map(|(a, b)| format!("src/{a} uses src/{b}, and is needed by it"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_readme_lists_the_source_as_it_stands() {
    let readme = std::fs::read_to_string(root().join("../README.md")).unwrap();
    let listed: Vec<&str> =
        readme.lines().filter_map(|l| l.strip_prefix("    src/")).filter_map(|l| l.split_whitespace().next()).collect();
    let places: Vec<usize> = listed.iter().map(|place| floor(place.trim_end_matches('/'))).collect();
    assert!(places.len() >= 8, "{listed:?}");
    assert!(places.is_sorted_by(|above, below| above > below), "README lists src from the top down: {listed:?}");
    // Each folder of the source is in the list, or within one that is.
    let tops: BTreeSet<&str> = FLOORS.iter().flat_map(|f| f.iter()).map(|p| p.split('/').next().unwrap()).collect();
    let named = |top: &str| {
        let top = top.trim_end_matches(".rs");
        readme.contains(&format!("src/{top}")) || readme.contains(&format!("`{top}`"))
    };
    let missing: Vec<_> = tops.into_iter().filter(|t| *t != "lib.rs" && !named(t)).collect();
    assert!(missing.is_empty(), "not in the README's list of the source: {missing:?}");
}

/// What began elsewhere would not be measured.
#[test]
fn every_task_begins_where_its_steps_are_measured() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let elsewhere = |path: &&PathBuf| {
        let text = code(&std::fs::read_to_string(path).unwrap());
        text.contains("async_std::task") && !path.ends_with("rt/task.rs")
    };
    let found: Vec<_> = all.iter().filter(elsewhere).collect();
    assert!(found.is_empty(), "{found:?}");
}
