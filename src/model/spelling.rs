//! Names that another program may take for the same, though they are not spelled so.
//!
//! Many parsers are lenient with names: Go's encoding/json and cJSON fold the case of keys, Java's `equalsIgnoreCase` folds
//! a dotless i as well, pydantic takes `request_id` for `requestId`, and what is written in C ends at a NUL. What the
//! daemon routes by must mean the same to all of them. Knows texts alone.

/// No name that is looked for is longer, in characters that count.
const LONGEST: usize = 64;

/// What is left of a name for the most lenient of readers: letters and digits alone, in one case. None where these are
/// longer than so many bytes.
fn fold(name: &str, most: usize) -> Option<String> {
    let mut folded = String::new();
    for c in name.chars().filter(|c| c.is_alphanumeric()) {
        if folded.len() > most {
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

/// What a reader may take a name to be: one drops a NUL, another ends there.
fn readings(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.bytes().position(|b| b == 0).map(|at| &name[..at]);
    [Some(name), ends].into_iter().flatten()
}

/// A name that is looked for, and what [`fold`] leaves of it.
pub type Known = (&'static str, &'static str);

/// The name of these that a reader may take this one for, though it is spelled in another way. Allocates nothing: a
/// message may have millions of names.
pub fn respelled(name: &str, known: &[Known]) -> Option<&'static str> {
    readings(name).find_map(|read| {
        let (letters, length) = letters(read)?;
        let found = known.iter().find(|(_, folded)| folded.as_bytes() == &letters[..length]);
        found.map(|(right, _)| *right).filter(|right| *right != name)
    })
}

/// As [`fold`], for a name whose letters are those of a name that is looked for: all of these are ASCII.
fn letters(name: &str) -> Option<([u8; LONGEST], usize)> {
    let (mut letters, mut length) = ([0; LONGEST], 0);
    for c in name.chars() {
        let letter = match c {
            '\u{17f}' => b's',
            '\u{212a}' => b'k',
            '\u{130}' | '\u{131}' => b'i',
            c if c.is_ascii_alphanumeric() => c.to_ascii_lowercase() as u8,
            c if c.is_ascii() || !c.is_alphanumeric() => continue,
            _ => return None,
        };
        *letters.get_mut(length)? = letter;
        length += 1;
    }
    Some((letters, length))
}

/// Whether a reader may take a name for another one, which is clean.
pub fn same_letters(name: &str, clean: &str) -> bool {
    let Some(letters) = fold(clean, usize::MAX) else { return name == clean };
    name == clean || readings(name).any(|read| fold(read, letters.len()).as_ref() == Some(&letters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_another_spelling_is_told_and_another_name_is_not() {
        let known = [
            ("requestId", "requestid"),
            ("name", "name"),
            ("_meta", "meta"),
            ("task", "task"),
            ("io.modelcontextprotocol/logLevel", "iomodelcontextprotocolloglevel"),
        ];
        for (name, of) in [
            ("Name", Some("name")),
            ("NAME", Some("name")),
            ("name\0x", Some("name")),
            ("na\0me", Some("name")),
            ("\0name", Some("name")),
            ("na\u{ad}me", Some("name")),
            ("n\u{e4}me", None),
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
