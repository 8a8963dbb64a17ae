//! What the environment of a child is made of: values that are set, files of them, and variables of ours that are passed on.
//!
//! Pure: what a file holds is handed in. Values may be secret and are never shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read::{Node, Piece, Reader, Section, Setting};
use super::setting::quoted;

/// What every child gets of ours, where it is set: what the SDKs pass, and what programs need to reach the network.
const PASSED: [&str; 20] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "LOGNAME",
    "USER",
    "SHELL",
    "TERM",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
];

/// What is for the daemon alone: a child that had it could speak for the daemon (sd_notify(3), sd_listen_fds(3)).
const OWN: [&str; 6] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What the environment of a child is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    /// Names and values, as they were read last.
    pub set: BTreeMap<String, String>,
    /// How those of them are made that come from files, which are read again for each child.
    pub files: BTreeMap<String, Vec<Piece>>,
    /// Names of ours that are passed on, or patterns of them with `*`.
    pub pass: Vec<String>,
}

impl Environment {
    /// Whether a variable of ours is passed on.
    pub fn passes(&self, name: &str) -> bool {
        let named = |pattern: &String| pattern == name || (pattern.contains('*') && matches(pattern, name));
        PASSED.contains(&name) || (self.pass.iter().any(named) && !OWN.contains(&name))
    }

    /// The values that are set, with the files that they come from read again. Where one cannot be read the last value
    /// stands; with what is wrong with those files.
    pub fn again(&self, read: &dyn Fn(&Path) -> Result<String, String>) -> (BTreeMap<String, String>, Vec<String>) {
        let (mut set, mut wrong) = (self.set.clone(), Vec::new());
        for (name, pieces) in &self.files {
            match Piece::join(pieces, read) {
                Ok(value) if !value.contains('\0') => drop(set.insert(name.clone(), value)),
                Ok(_) => wrong.push(format!("{name}: there is a NUL character in it")),
                Err(why) => wrong.push(format!("{name}: {why}")),
            }
        }
        (set, wrong)
    }

    pub(super) fn add(&mut self, name: String, value: String, pieces: Vec<Piece>) {
        match pieces.iter().any(Piece::is_file) {
            true => drop(self.files.insert(name.clone(), pieces)),
            false => drop(self.files.remove(&name)),
        }
        self.set.insert(name, value);
    }
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
    ends.into_iter().any(|at| matches(rest, &name[at..]))
}

/// Reads `env_file`, `env` and `pass_env` of an instance or of a server, on top of what there is `above` it.
pub fn environment(s: &mut Section<'_, '_>, above: &Environment) -> Environment {
    let mut all = above.clone();
    let at = s.node("env_file");
    let files: Vec<PathBuf> = s.get("env_file", Vec::new());
    for path in files {
        let Some(at) = at else { continue };
        let read = (s.reader.around().read)(&path).and_then(|text| variables(&text));
        match read {
            Ok(found) => found.into_iter().for_each(|(name, value)| all.add(name, value, Vec::new())),
            Err(why) => s.reader.problem(at, format!("env_file {}: {why}", path.display())),
        }
        s.reader.note_secret_file(path);
    }
    let Secrets(set) = s.get("env", Secrets::default());
    set.into_iter().for_each(|(name, value, pieces)| all.add(name, value, pieces));
    all.pass.extend(s.get("pass_env", Vec::<String>::new()));
    all
}

/// The variables of a file: `NAME=value` a line, perhaps with `export` before it and with quotes around the value; `#`
/// begins a comment line. Nothing is expanded.
fn variables(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for (n, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let plain = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let pair = plain.split_once('=').map(|(name, value)| (name.trim_end(), value.trim_start()));
        let Some((name, value)) = pair.filter(|(name, _)| is_name(name)) else {
            return Err(format!("line {}: expected NAME=value", n + 1));
        };
        if value.contains('\0') {
            return Err(format!("line {}: there is a NUL character in it", n + 1));
        }
        let unquoted = |q: char| value.strip_prefix(q).and_then(|v| v.strip_suffix(q));
        found.push((name.to_owned(), unquoted('"').or(unquoted('\'')).unwrap_or(value).to_owned()));
    }
    Ok(found)
}

/// Whether it can be the name of an environment variable in a file of them.
fn is_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !name.is_empty() && name.chars().all(fine) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// What people call variables that hold a secret.
fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTHORIZATION", "COOKIE"].iter().any(|word| name.contains(word))
}

/// Environment variables for a child, or header fields for a server elsewhere: name, value, and what it is made of. What they
/// hold may be secret and is never shown.
#[derive(Default)]
pub(super) struct Secrets(pub Vec<(String, String, Vec<Piece>)>);

impl Setting for Secrets {
    const MASKED: bool = true;

    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        let mut env = Vec::new();
        for (key, value) in reader.map(node, "{\"NAME\": \"value\", ...}")? {
            let name = reader.plain::<String>(key, "a name in quotes");
            let written = value.0;
            let value = reader.pieces(value, "a value in quotes");
            if name.as_deref().is_some_and(sounds_secret) && !written.contains("${") && written.len() > 2 {
                reader.note_secret();
            }
            if let Some(name) = &name
                && (name.is_empty() || name.contains(['=', '\0']))
            {
                reader.problem(key, "not a name for an environment variable");
            }
            env.extend(name.zip(value).map(|(name, (value, pieces))| (name, value, pieces)));
        }
        Some(Secrets(env))
    }
    fn show(&self) -> String {
        let all: Vec<String> = self.0.iter().map(|(name, ..)| format!("{}: \"***\"", quoted(name))).collect();
        format!("{{{}}}", all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_pass_and_what_is_the_daemons_own_does_not() {
        let env =
            |pass: &[&str]| Environment { pass: pass.iter().map(|p| (*p).to_owned()).collect(), ..Default::default() };
        for (pass, name, passes) in [
            (&[][..], "PATH", true),
            (&[], "https_proxy", true),
            (&[], "SECRET", false),
            (&["SECRET"], "SECRET", true),
            (&["AWS_*"], "AWS_REGION", true),
            (&["AWS_*"], "XAWS_REGION", false),
            (&["*_KEY"], "MY_KEY", true),
            (&["A*B*C"], "AxxBC", true),
            (&["A*B*C"], "AxxC", false),
            (&["*"], "ANYTHING", true),
            (&["*"], "NOTIFY_SOCKET", false),
        ] {
            assert_eq!(env(pass).passes(name), passes, "{pass:?} {name}");
        }
    }

    #[test]
    fn a_file_of_variables_is_read_as_people_write_it() {
        let text = "\u{feff}# comment\r\nA=1\r\n\nexport B = \"two words\"\nC='x=y'\nD=\nE=\"open\nF=a # b";
        let found = variables(text).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(found, [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", ""), ("E", "\"open"), ("F", "a # b")]);
        assert_eq!(variables("A=1\nno sense").unwrap_err(), "line 2: expected NAME=value");
    }

    #[test]
    fn a_value_from_a_file_is_read_again_and_stands_where_it_cannot_be() {
        let mut env = Environment::default();
        let pieces = vec![Piece::Text("Bearer ".to_owned()), Piece::File("/k".into(), None)];
        env.add("T".to_owned(), "Bearer old".to_owned(), pieces);
        assert_eq!(env.again(&|_| Ok("new\n".to_owned())).0["T"], "Bearer new");
        let (set, wrong) = env.again(&|_| Err("it is gone".to_owned()));
        assert_eq!((set["T"].as_str(), wrong), ("Bearer old", vec!["T: /k: it is gone".to_owned()]));
        env.add("T".to_owned(), "plain".to_owned(), Vec::new());
        assert!(env.files.is_empty(), "set anew");
    }
}
