//! What a child says beside its messages: the last lines, and the one that looks most like the cause of its end.

use std::collections::VecDeque;
use std::fmt;

/// Words by which a line looks as if it had to do with the cause of a child's end.
const HINTS: [&str; 11] = [
    "error",
    "fatal",
    "panic",
    "exception",
    "cannot",
    "could not",
    "not found",
    "not set",
    "no such file",
    "denied",
    "failed",
];

/// The weight of what has led to others, of which the last one is the root.
const ROOT: u8 = 3;

/// The longest line that is kept, in characters.
const LONGEST: usize = 500;

/// A place in a program, of which a trace of Java or Node has many.
fn is_frame(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("at ") || (line.starts_with("... ") && line.trim_end().ends_with(" more"))
}

/// Rust says what happened in the line behind this one.
fn is_panic(line: &str) -> bool {
    line.contains("' panicked at ") || line.contains(") panicked at ")
}

/// How much a line looks like the cause of an end: 3 if it is what has led to others, 2 if it names one as programming
/// languages do, 1 if it has words of that kind, else 0.
fn weight(line: &str) -> u8 {
    let line = line.trim();
    if line.starts_with("Caused by: ") {
        return ROOT;
    }
    let lower = line.to_lowercase();
    // `TypeError [ERR_X]: ...`, `java.lang.RuntimeException: ...`, `Error: ...`.
    let kind = line.split(':').next().unwrap_or("");
    let kind = kind.split(" [").next().unwrap_or("");
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '$');
    let named =
        line.contains(':') && kind.chars().all(plain) && (kind.ends_with("Error") || kind.ends_with("Exception"));
    let begins = ["error:", "fatal:", "fatal error:", "panic:", "uncaught ", "exception in thread "]
        .iter()
        .any(|word| lower.starts_with(word));
    if named || begins || is_panic(line) {
        return 2;
    }
    HINTS.iter().any(|word| lower.contains(word)).into()
}

/// The last lines, and the one that looks most like the cause of an end: of several, the first.
#[derive(Default)]
pub struct Tail {
    last: VecDeque<String>,
    /// With its weight, and its number among all lines.
    cause: Option<(u8, u64, String)>,
    /// The first of all: in a language that is not known here, it may be the cause.
    first: Option<String>,
    count: u64,
    /// Lines that are no places in a program.
    told: u64,
}

impl Tail {
    const LINES: usize = 10;
    /// A line that so many others have followed is not what it ends of; ten times as many, where it names a cause.
    const FAR: u64 = 100;

    pub fn push(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let line: String = line.chars().take(LONGEST).collect();
        self.count += 1;
        self.told += u64::from(!is_frame(&line));
        if self.first.is_none() {
            self.first = Some(line.clone());
        }
        let far = |weight: u8| if weight >= 2 { 10 * Self::FAR } else { Self::FAR };
        let known = self.cause.as_ref().filter(|(weight, number, _)| self.told - number <= far(*weight));
        let known = known.map_or(0, |(weight, ..)| *weight);
        let weight = if is_frame(&line) { 0 } else { weight(&line) };
        if let (Some((2, _, cause)), Some(before)) = (&mut self.cause, self.last.back())
            && cause == before
            && is_panic(cause)
        {
            *cause = format!("{cause} {}", line.trim());
        } else if weight > known || weight == ROOT {
            self.cause = Some((weight, self.told, line.clone()));
        } else if known == 0 {
            self.cause = None;
        }
        if self.last.len() == Self::LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// How many lines there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn words(&self) -> LastWords {
        let cause = self.cause.as_ref().map(|(.., line)| line.clone());
        let first = self.first.clone().filter(|_| cause.is_none() && self.count <= Self::FAR);
        LastWords { cause, first, last: self.last.iter().cloned().collect() }
    }
}

/// What a child has said last, and what looks like the cause of its end.
///
/// It is for the log, and for who starts the child. Clients and the status document are told how a child has ended: what it
/// says may come from the request of another client, or be a secret.
#[derive(Clone, Debug, Default)]
pub struct LastWords {
    cause: Option<String>,
    /// The first of all, where no other looks like a cause and there are not many.
    first: Option<String>,
    last: Vec<String>,
}

impl LastWords {
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// The lines, in order: the cause, where it is none of the last ones, before these.
    pub fn lines(&self) -> Vec<&str> {
        let cause = self.cause.iter().chain(&self.first).filter(|line| !self.last.contains(line));
        cause.chain(&self.last).map(String::as_str).collect()
    }

    /// The one line that says best what is wrong.
    pub fn headline(&self) -> Option<&str> {
        self.cause.as_ref().or(self.last.last()).map(String::as_str)
    }

    /// With this line as the cause.
    pub fn because(mut self, line: String) -> LastWords {
        self.last.insert(0, line.clone());
        self.cause = Some(line);
        self
    }

    /// All of them in one line, the one that says best what is wrong first.
    pub fn in_a_line(&self) -> String {
        let first = self.headline();
        let rest = self.last.iter().map(String::as_str).filter(|line| Some(*line) != first);
        first.into_iter().chain(rest).collect::<Vec<_>>().join(SEPARATOR)
    }
}

/// Stands between the lines that are written as one.
const SEPARATOR: &str = " | ";

/// The first of several lines that were written as one.
pub fn first_of(line: &str) -> &str {
    line.split(SEPARATOR).next().unwrap_or(line)
}

/// `; its last words:` and the lines, or nothing.
impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { Ok(()) } else { write!(f, "; its last words:\n    {}", self.lines().join("\n    ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_looks_like_the_cause_is_kept_before_the_last_ones() {
        let mut tail = Tail::default();
        assert_eq!(tail.words().to_string(), "");
        tail.push("starting");
        tail.push("ERROR: no database");
        tail.push("another error");
        assert_eq!(tail.words().lines(), ["starting", "ERROR: no database", "another error"]);
        (0..Tail::LINES).for_each(|n| tail.push(&format!("at line {n}")));
        let words = tail.words();
        assert_eq!(words.lines()[..2], ["ERROR: no database", "at line 0"]);
        assert_eq!((words.lines().len(), words.headline()), (11, Some("ERROR: no database")));
        assert!(words.in_a_line().starts_with("ERROR: no database | at line 0 | "));
        assert_eq!(first_of(&words.in_a_line()), "ERROR: no database");
        (0..200).for_each(|n| tail.push(&format!("    at a.b.C{n}(C.java:{n})")));
        (0..200).for_each(|n| tail.push(&format!("in order {n}")));
        assert_eq!(tail.words().headline(), Some("ERROR: no database"), "it names a cause");
        (0..10 * Tail::FAR).for_each(|n| tail.push(&format!("in order {n}")));
        assert_eq!(tail.words().lines().len(), Tail::LINES, "that was long ago");
        assert_eq!(tail.words().headline(), Some("in order 999"));
        let mut tail = Tail::default();
        tail.push("Schlüssel fehlt");
        (0..20).for_each(|n| tail.push(&format!("Zeile {n}")));
        assert_eq!(tail.words().lines()[..2], ["Schlüssel fehlt", "Zeile 10"]);
    }

    #[test]
    fn the_line_that_names_the_cause_is_found_in_what_languages_write() {
        for (said, cause) in [
            (
                "/srv/a.js:1\nthrow new Error('no key')\n^\n\nError: no key\n    at Object.<anonymous> (/srv/a.js:1:7)\n\nNode.js v20.20.2",
                "Error: no key",
            ),
            (
                "node:internal/modules/cjs/loader:1210\n  throw err;\n  ^\n\nError: Cannot find module 'nosuchmodule'\nRequire stack:\n- /srv/a.js\n  code: 'MODULE_NOT_FOUND',\n}\n\nNode.js v20.20.2",
                "Error: Cannot find module 'nosuchmodule'",
            ),
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    import nosuch  # error here\nModuleNotFoundError: No module named 'nosuch'",
                "ModuleNotFoundError: No module named 'nosuch'",
            ),
            ("TypeError [ERR_INVALID]: x\n    at a", "TypeError [ERR_INVALID]: x"),
            (
                "thread 'main' panicked at src/main.rs:2:5:\nboom\nnote: run with",
                "thread 'main' panicked at src/main.rs:2:5: boom",
            ),
            (
                "Exception in thread \"main\" java.lang.IllegalStateException: no start\n\tat a.b.C(C.java:1)\n\tat a.b.D(D.java:2)\nCaused by: java.io.IOException: no file\n\tat x.y(Z.java:1)\nCaused by: java.io.FileNotFoundException: KEYFILE missing\n\tat x.z(Z.java:9)\n\t... 12 more",
                "Caused by: java.io.FileNotFoundException: KEYFILE missing",
            ),
            (
                "Exception in thread \"main\" java.lang.NullPointerException\n\tat a.b.C(C.java:1)",
                "Exception in thread \"main\" java.lang.NullPointerException",
            ),
            ("hello\nsh: 1: nosuch: not found\nbye", "sh: 1: nosuch: not found"),
            ("Error: API_KEY is not set", "Error: API_KEY is not set"),
            ("one\ntwo", "two"),
        ] {
            let mut tail = Tail::default();
            said.lines().for_each(|line| tail.push(line));
            assert_eq!(tail.words().headline(), Some(cause), "{said}");
        }
    }
}
