//! The id of a reply that could not be read whole.
//!
//! Pure. What becomes of the request that it answered is decided where replies are read.

/// The id of a reply of which only the ends are known. It counts if it is the first member but for `jsonrpc`, or the
/// very last one: nothing inside `result` can stand there.
pub fn id_in_pieces(head: &[u8], tail: &[u8]) -> Option<u64> {
    let squeeze = |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect() };
    let (head, tail) = (squeeze(head), squeeze(tail));
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    let front = head.strip_prefix(b"{").unwrap_or(b"");
    // Whatever version it names.
    let version = front.strip_prefix(b"\"jsonrpc\":").and_then(|rest| {
        let end = rest.iter().take(16).position(|b| *b == b',')?;
        Some(&rest[end + 1..])
    });
    let front = version.unwrap_or(front);
    if let Some(rest) = front.strip_prefix(b"\"id\":")
        && let Some(comma) = rest.iter().position(|b| *b == b',')
        && let Some(n) = number(&rest[..comma])
    {
        return Some(n);
    }
    let back = tail.strip_suffix(b"}")?;
    let digits = back.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (before, digits) = back.split_at(back.len() - digits);
    before.ends_with(b",\"id\":").then(|| number(digits))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_lost_reply_is_read_where_it_cannot_be_payload() {
        for (head, tail, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"#, "", Some(7)),
            (r#"{ "id" : 7, "jsonrpc""#, "", Some(7)),
            (r#"{"jsonrpc":"1.0","id":7,"result":{"#, "", Some(7)),
            (r#"{"jsonrpc":2,"id":7,"result":{"#, "", Some(7)),
            (r#"{"result":{"id":1,"#, r#"x"},"jsonrpc":"2.0","id":7}"#, Some(7)),
            (r#"{"result":{"id":1,"#, r#""id":7}}"#, None),
            (r#"{"result":{"id":1,"#, r#"{"id":7}"#, None),
            (r#"{"jsonrpc":"2.0","id":"7","result":{"#, "", None),
        ] {
            assert_eq!(id_in_pieces(head.as_bytes(), tail.as_bytes()), id, "{head} {tail}");
        }
    }
}
