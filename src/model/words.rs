//! A command line cut into words, without a shell: quotes are understood, and nothing is expanded.
//!
//! The quoting rules are those of POSIX sh (XCU 2.2). Whatever has a meaning beyond them (pipes, lists, substitutions,
//! file name patterns) is refused unless it is quoted, because running something else than what was meant is worse than
//! running nothing.

/// Cuts a line into its words. The error says which character has a meaning that only a shell could give it.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.char_indices().peekable();
    let special = |at: usize, c: char| {
        let shown = if c.is_control() { "a line break".to_owned() } else { format!("'{c}'") };
        Err(format!(
            "{shown} at byte {at} means something to a shell, and there is none here: put it in single quotes to mean \
             the character itself"
        ))
    };
    while let Some((at, c)) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some((_, '\'')) => break,
                        Some((_, c)) => word.push(c),
                        None => return Err(format!("the quote ' at byte {at} is not closed")),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some((_, '"')) => break,
                        Some((at, c @ ('$' | '`'))) => return special(at, c),
                        // Elsewhere between double quotes a backslash is one (XCU 2.2.3).
                        Some((_, '\\')) => match chars.next_if(|(_, c)| matches!(c, '$' | '`' | '"' | '\\' | '\n')) {
                            Some((_, '\n')) => {}
                            Some((_, c)) => word.push(c),
                            None => word.push('\\'),
                        },
                        Some((_, c)) => word.push(c),
                        None => return Err(format!("the quote \" at byte {at} is not closed")),
                    }
                }
            }
            '\\' => match chars.next() {
                Some((_, '\n')) => {}
                Some((_, c)) => word.get_or_insert_default().push(c),
                None => return Err("the line ends with a backslash".to_owned()),
            },
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | '\n' | '\r' => {
                return special(at, c);
            }
            '~' | '#' if word.is_none() => return special(at, c),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_a_shell_would() {
        for (line, words) in [
            ("", &[][..]),
            ("  \t ", &[]),
            ("echo", &["echo"]),
            (" a  b\tc ", &["a", "b", "c"]),
            ("echo 'MCP Local Test'", &["echo", "MCP Local Test"]),
            (r#"python -c "print('hi')""#, &["python", "-c", "print('hi')"]),
            (r#"a'b'"c"d"#, &["abcd"]),
            ("'' \"\"", &["", ""]),
            (r"a\ b \\ \; \'", &["a b", "\\", ";", "'"]),
            (r#""\"\\\$\`\n""#, &[r#""\$`\n"#]),
            ("'$(x) `y` ; | \n *'", &["$(x) `y` ; | \n *"]),
            ("a=b x~ y#z {1,2} !", &["a=b", "x~", "y#z", "{1,2}", "!"]),
            ("\"a\\\nb\" c\\\nd", &["ab", "cd"]),
            ("echo 🚀 ñ", &["echo", "🚀", "ñ"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line:?}");
        }
    }

    #[test]
    fn what_only_a_shell_could_do_is_refused() {
        for (line, at) in [
            ("echo x; cat /etc/hostname", "';' at byte 6"),
            ("echo $(cat f)", "'$' at byte 5"),
            ("echo \"$(cat f)\"", "'$' at byte 6"),
            ("echo \"`cat f`\"", "'`' at byte 6"),
            ("echo `cat f`", "'`' at byte 5"),
            ("echo $HOME", "'$' at byte 5"),
            ("echo a\ncat f", "a line break at byte 6"),
            ("echo a | cat", "'|'"),
            ("echo a && cat", "'&'"),
            ("echo a > f", "'>'"),
            ("cat < f", "'<'"),
            ("(echo)", "'('"),
            ("ls *.rs", "'*'"),
            ("ls ?", "'?'"),
            ("ls [ab]", "'['"),
            ("ls ~", "'~'"),
            ("ls # all", "'#'"),
            ("echo 'a", "the quote ' at byte 5 is not closed"),
            ("echo \"a", "the quote \" at byte 5 is not closed"),
            ("echo \\", "ends with a backslash"),
        ] {
            let why = split(line).unwrap_err();
            assert!(why.contains(at), "{line:?}: {why}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_quoted_comes_back(words in proptest::collection::vec(".{0,12}", 0..5)) {
            let line: Vec<String> = words.iter().map(|w| format!("'{}'", w.replace('\'', r"'\''"))).collect();
            proptest::prop_assert_eq!(split(&line.join(" ")).unwrap(), words);
        }

        #[test]
        fn nothing_panics(line in ".*") {
            let _ = split(&line);
        }
    }
}
