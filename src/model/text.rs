//! Words for people: suggestions for misspelt names, lists, durations, bounded and escaped foreign text.

use std::fmt::Write as _;
use std::time::Duration;

/// The known word nearest to `word`, if it is near enough to be a slip of the finger.
pub fn suggest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let folded = word.to_lowercase();
    known
        .into_iter()
        .map(|k| (distance(&folded, &k.to_lowercase()), k))
        .min_by_key(|(d, _)| *d)
        .filter(|(d, k)| *d <= (k.chars().count().max(3)) / 3)
        .map(|(_, k)| k)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// `1 server`, `3 servers`.
pub fn count(n: usize, noun: &str) -> String {
    let ending = match n {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{n} {noun}{ending}")
}

/// A time in milliseconds, for a person: `0.04 ms`, `12.3 ms`, `2.0 s`; `-` where nothing was measured.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms.is_nan() || ms <= 0.0 => "-".to_owned(),
        ms if ms < 0.01 => "< 0.01 ms".to_owned(),
        ms if ms < 0.995 => format!("{ms:.2} ms"),
        ms if ms < 999.95 => format!("{ms:.1} ms"),
        ms if ms < 59_950.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.1} min", ms / 6e4),
    }
}

/// A duration as the configuration writes it: `500ms`, `30s`, `5m`.
pub fn duration(d: Duration) -> String {
    humantime::format_duration(d).to_string().replace(' ', "")
}

/// Foreign text on one line: control characters escaped, cut at `limit` bytes (and said to be).
///
/// Everything that a child, a client or the system says goes through here before it reaches a log, a terminal or an
/// error message, so that it can neither forge a line nor move a cursor.
pub fn printable(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for (at, c) in text.char_indices() {
        if out.len() >= limit {
            let _ = write!(out, "... [{} more bytes]", text.len() - at);
            break;
        }
        match c {
            '\t' => out.push(' '),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || turns(c) => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether a character ends a line or turns the direction of what stands behind it, and is no control character itself
/// (Unicode Standard Annex 9).
pub fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of a text: whole characters, `limit` bytes at most.
pub fn head(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_none() {
        let keys = ["command", "args", "env", "cwd", "restart", "start_timeout"];
        for (typed, meant) in [
            ("comand", Some("command")),
            ("commnad", Some("command")),
            ("Command", Some("command")),
            ("arg", Some("args")),
            ("starttimeout", Some("start_timeout")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(suggest(typed, keys), meant, "{typed}");
        }
    }

    #[test]
    fn foreign_text_cannot_break_a_line() {
        assert_eq!(printable("a\nb\u{1b}[31m\u{7f}", 100), "a\\nb\\u{1b}[31m\\u{7f}");
        assert_eq!(printable("aaaaaaaaaa", 4), "aaaa... [6 more bytes]");
        assert_eq!(printable("ééé", 3), "éé... [2 more bytes]");
    }
}
