//! Names that another program may take for the same, though they are not spelled so.
//!
//! Many parsers are lenient with names: Go's encoding/json and cJSON fold the case of keys, Java's `equalsIgnoreCase` folds
//! a dotless i as well, pydantic takes `request_id` for `requestId`, and what is written in C ends at a NUL. What the
//! daemon routes by must mean the same to all of them. Knows texts alone.

/// No name that is looked for is longer, in characters that count.
const LONGEST: usize = 64;

/// What is left of a name for the most lenient of readers: up to a NUL, letters and digits alone, in one case. None where
/// it is longer than any name that is looked for.
fn fold(name: &str) -> Option<String> {
    let mut folded = String::new();
    let counts = |c: &char| c.is_alphanumeric();
    for c in name.chars().take_while(|c| *c != '\0').filter(counts) {
        if folded.len() >= LONGEST {
            return None;
        }
        match c {
            // Simple case folding of Unicode (CaseFolding.txt), and what Java's toUpperCase adds to it.
            '\u{17f}' => folded.push('s'),
            '\u{212a}' => folded.push('k'),
            '\u{130}' | '\u{131}' => folded.push('i'),
            c => folded.extend(c.to_lowercase()),
        }
    }
    Some(folded)
}

/// The name of these that a reader may take this one for, though it is spelled in another way.
pub fn respelled<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    if known.is_empty() || known.contains(&name) {
        return None;
    }
    let folded = fold(name)?;
    known.iter().copied().find(|k| fold(k).is_some_and(|k| k == folded))
}

/// Whether a name differs from another in nothing but case.
pub fn same_letters(a: &str, b: &str) -> bool {
    a == b || fold(a).is_some_and(|folded| fold(b).as_ref() == Some(&folded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_another_spelling_is_told_and_another_name_is_not() {
        let known = ["requestId", "name", "_meta", "task", "io.modelcontextprotocol/logLevel"];
        for (name, of) in [
            ("Name", Some("name")),
            ("NAME", Some("name")),
            ("name\0x", Some("name")),
            ("tas\u{212a}", Some("task")),
            ("ta\u{17f}k", Some("task")),
            ("request\u{131}d", Some("requestId")),
            ("request\u{130}d", Some("requestId")),
            ("request_id", Some("requestId")),
            ("request-id", Some("requestId")),
            ("meta", Some("_meta")),
            ("io.modelcontextprotocol/LOGLEVEL", Some("io.modelcontextprotocol/logLevel")),
            ("name", None),
            ("_meta", None),
            ("names", None),
            ("title", None),
            ("", None),
        ] {
            assert_eq!(respelled(name, &known), of, "{name:?}");
        }
        assert_eq!(respelled(&"Name".repeat(1 << 20), &known), None);
    }
}
