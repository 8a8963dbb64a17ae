//! What is wrong with a file that is no RON, in the words of somebody who writes one: the parser says what it expected, and
//! that is seldom where the mistake is.

/// Line and column of the mistake, and what it is; None where it is not one of the usual ones. `stumbled` is the line where
/// the parser gave up.
pub(super) fn mistake(text: &str, stumbled: usize) -> Option<((usize, usize), String)> {
    let mut open: Vec<(char, (usize, usize))> = Vec::new();
    let mut at = Walker { rest: text.chars().peekable(), line: 1, column: 0 };
    while let Some(c) = at.next() {
        let here = (at.line, at.column);
        match c {
            '#' if here != (1, 1) => return Some((here, "a comment begins with //".to_owned())),
            '#' if at.rest.peek() != Some(&'!') => return Some((here, "a comment begins with //".to_owned())),
            '/' if at.rest.peek() == Some(&'/') => while at.next_if(|c| c != '\n') {},
            '/' if at.rest.peek() == Some(&'*') => at.skip_comment(),
            'r' if matches!(at.rest.peek(), Some('"' | '#')) && !at.skip_raw() => {
                return Some((here, "this string has no end".to_owned()));
            }
            '"' => match at.skip_string() {
                Ends::Well => {}
                // That is allowed, and right behind such a string is where the parser gives up if it was not meant.
                Ends::OnAnotherLine if at.line != stumbled => {}
                Ends::OnAnotherLine => {
                    return Some((here, "this string does not end on its line: a \" is missing".to_owned()));
                }
                Ends::Never => return Some((here, "this string has no end: a \" is missing".to_owned())),
            },
            '=' => return Some((here, "a key and its value are divided by ':'".to_owned())),
            '(' | '[' | '{' => open.push((c, here)),
            ')' | ']' | '}' => match open.pop() {
                Some((begin, _)) if partner(begin) == c => {}
                Some((begin, (line, column))) => {
                    let what = format!(
                        "this '{c}' closes nothing: the '{begin}' of line {line}, column {column} is still open"
                    );
                    return Some((here, what));
                }
                None => return Some((here, format!("this '{c}' closes nothing"))),
            },
            _ => {}
        }
    }
    let (begin, place) = open.pop()?;
    Some((place, format!("this '{begin}' is not closed: a '{}' is missing", partner(begin))))
}

fn partner(begin: char) -> char {
    match begin {
        '(' => ')',
        '[' => ']',
        _ => '}',
    }
}

struct Walker<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
    /// Of the last character.
    column: usize,
}

enum Ends {
    Well,
    OnAnotherLine,
    Never,
}

impl Walker<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        self.column += 1;
        // The character after a line break is the first of its line.
        if c == '\n' {
            self.line += 1;
            self.column = 0;
        }
        Some(c)
    }

    fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> bool {
        self.rest.peek().is_some_and(|c| wanted(*c)) && self.next().is_some()
    }

    /// A string whose first quote was taken.
    fn skip_string(&mut self) -> Ends {
        let line = self.line;
        while let Some(c) = self.next() {
            match c {
                '\\' => drop(self.next()),
                '"' if self.line == line => return Ends::Well,
                '"' => return Ends::OnAnotherLine,
                _ => {}
            }
        }
        Ends::Never
    }

    /// `r"..."` or `r#"..."#`, whose first letter was taken; false if it has no end.
    fn skip_raw(&mut self) -> bool {
        let mut hashes = 0;
        while self.next_if(|c| c == '#') {
            hashes += 1;
        }
        if !self.next_if(|c| c == '"') {
            // An identifier.
            return true;
        }
        while let Some(c) = self.next() {
            if c == '"' {
                let mut closing = 0;
                while closing < hashes && self.next_if(|c| c == '#') {
                    closing += 1;
                }
                if closing == hashes {
                    return true;
                }
            }
        }
        false
    }

    /// A comment whose first stroke was taken; they can stand in each other.
    fn skip_comment(&mut self) {
        let mut depth = 0;
        self.next();
        let mut last = ' ';
        depth += 1;
        while depth > 0 {
            let Some(c) = self.next() else { return };
            match (last, c) {
                ('*', '/') => {
                    depth -= 1;
                    last = ' ';
                }
                ('/', '*') => {
                    depth += 1;
                    last = ' ';
                }
                _ => last = c,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_mistakes_are_named_where_they_are() {
        for (text, place, what) in [
            ("(\n# my server\nservers: {})", (2, 1), "a comment begins with //"),
            ("# mine\n(servers: {})", (1, 1), "a comment begins with //"),
            ("(servers = {})", (1, 10), "a key and its value are divided by ':'"),
            ("(\n  a: [\"x\", \"y\",\n)", (3, 1), "this ')' closes nothing: the '[' of line 2, column 6 is still open"),
            ("(a: Bearer(\"t\",\n b: 1)", (1, 1), "this '(' is not closed: a ')' is missing"),
            ("(a: 1))", (1, 7), "this ')' closes nothing"),
            ("(a: \"x,\n b: \"y\")", (1, 5), "this string does not end on its line: a \" is missing"),
            ("(a: \"x)", (1, 5), "this string has no end: a \" is missing"),
            ("(a: r#\"x\")", (1, 5), "this string has no end"),
        ] {
            assert_eq!(mistake(text, 2), Some((place, what.to_owned())), "{text}");
        }
        for fine in [
            "#![enable(implicit_some)]\n(a: r#\"\"=#\"#, r: \"=#\\\"(\", /* ) /* = */ # */ b: 1) // = # (",
            "(raw: 1, /* // */ r: r\"\\\")",
            "(a: 1,\n b: 2,\n c: \"two\nlines\",\n b: 1 c: 2)",
        ] {
            assert_eq!(mistake(fine, 2), None, "{fine}");
        }
    }
}
