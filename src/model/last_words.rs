//! What a child says beside its messages: the last lines, and the first one that looks like the cause of its end.

use std::collections::VecDeque;
use std::fmt;

/// Words by which a line looks as if it named the cause of a child's end.
const CAUSES: [&str; 9] =
    ["error", "fatal", "panic", "exception", "cannot", "not found", "no such file", "denied", "failed"];

/// The last lines, and the first one that looks like the cause of an end.
#[derive(Default)]
pub struct Tail {
    last: VecDeque<String>,
    /// With its number among all lines.
    cause: Option<(u64, String)>,
    count: u64,
}

impl Tail {
    const LINES: usize = 10;
    /// A line that so many others have followed is not what it ends of.
    const FAR: u64 = 100;

    pub fn push(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let line: String = line.chars().take(500).collect();
        self.count += 1;
        if self.cause.as_ref().is_none_or(|(number, _)| self.count - number > Self::FAR) {
            let lower = line.to_lowercase();
            self.cause = CAUSES.iter().any(|word| lower.contains(word)).then(|| (self.count, line.clone()));
        }
        if self.last.len() == Self::LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// `: last line`, or nothing.
    pub fn last(&self) -> String {
        self.last.back().map_or(String::new(), |line| format!(": {line}"))
    }

    pub fn words(&self) -> LastWords {
        let cause = self.cause.iter().map(|(_, line)| line).filter(|cause| !self.last.contains(cause));
        LastWords(cause.chain(&self.last).cloned().collect())
    }
}

/// What a child has said last, after what looks like the cause of its end; a line each.
///
/// It is for the log, and for who starts the child. Clients and the status document are told how a child has ended: what it
/// says may come from the request of another client, or be a secret.
#[derive(Clone, Debug, Default)]
pub struct LastWords(Vec<String>);

impl LastWords {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// With this line before all others.
    pub fn behind(mut self, line: String) -> LastWords {
        self.0.insert(0, line);
        self
    }

    /// All of them in one line.
    pub fn in_a_line(&self) -> String {
        self.0.join(" | ")
    }
}

/// `; its last words:` and the lines, or nothing.
impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { Ok(()) } else { write!(f, "; its last words:\n    {}", self.0.join("\n    ")) }
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
        assert_eq!(tail.words().0, ["starting", "ERROR: no database", "another error"]);
        (0..Tail::LINES).for_each(|n| tail.push(&format!("at line {n}")));
        let words = tail.words().0;
        assert_eq!((words.len(), words[0].as_str(), words[1].as_str()), (11, "ERROR: no database", "at line 0"));
        assert_eq!(tail.last(), ": at line 9");
        (0..Tail::FAR).for_each(|n| tail.push(&format!("in order {n}")));
        assert_eq!(tail.words().0.len(), Tail::LINES, "that was long ago");
    }
}
