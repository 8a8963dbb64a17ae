//! Messages of a server that stand in a line together, or between what moves a terminal's cursor.
//!
//! Pure. Only what can mean one thing is taken apart: behind other text there may be a message that the server merely speaks
//! of, as in a log.

use std::borrow::Cow;

use super::envelope::scan;

/// The messages of a line that is nothing but messages and terminal sequences; None where it is not, or is one message as it
/// should be.
pub fn messages(line: &str) -> Option<Vec<String>> {
    let plain = without_sequences(line);
    let mut found = Vec::new();
    let mut from = 0;
    let mut values = serde_json::Deserializer::from_str(&plain).into_iter::<serde::de::IgnoredAny>();
    while let Some(value) = values.next() {
        value.ok()?;
        let one = plain.get(from..values.byte_offset())?.trim();
        scan(one).ok()?;
        found.push(one.to_owned());
        from = values.byte_offset();
    }
    (found.len() > 1 || (found.len() == 1 && matches!(plain, Cow::Owned(_)))).then_some(found)
}

/// A line without the sequences that colour text, move the cursor or set the title (ECMA-48, CSI and OSC).
fn without_sequences(line: &str) -> Cow<'_, str> {
    if !line.contains('\x1b') {
        return Cow::Borrowed(line);
    }
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c != '\x1b' {
            plain.push(c);
            continue;
        }
        match rest.next() {
            // Up to the letter that says what it is for.
            Some('[') => drop(rest.find(|c| ('\x40'..='\x7e').contains(c))),
            Some(']') => {
                while let Some(c) = rest.next() {
                    if c == '\x07' || (c == '\x1b' && rest.next() == Some('\\')) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_are_taken_apart() {
        let (one, two) = (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, r#"{"jsonrpc":"2.0","method":"notifications/x"}"#);
        for line in [
            format!("{one}{two}"),
            format!("{one} {two}\r"),
            format!("\x1b[0m{one}\x1b[31;1m{two}\x1b]0;title\x07"),
            format!("\x1b]0;title\x1b\\{one}\x1b[K{two}"),
        ] {
            assert_eq!(messages(&line), Some(vec![one.to_owned(), two.to_owned()]), "{line:?}");
        }
        assert_eq!(messages(&format!("\x1b[2K{one}\x1b[0m")), Some(vec![one.to_owned()]));
        for line in [
            one.to_owned(),
            format!("sent {one}"),
            format!("{one} done"),
            format!("{one}{{\"level\":30}}"),
            "\x1b[0mloading".to_owned(),
            "\x1b]0;never ended {}".to_owned(),
            "1 2 3".to_owned(),
        ] {
            assert_eq!(messages(&line), None, "{line:?}");
        }
    }
}
