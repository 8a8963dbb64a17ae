//! Messages that are spread over several lines, as pretty-printers write them.
//!
//! A line on standard output is a message (basic/transports, stdio). What begins with a brace alone on a line is none, and
//! whoever waits for it should hear so at once. Pure: knows lines, and nobody who waits.

use super::ids;

/// What is known of a message that has begun on a line of its own.
#[derive(Debug, Default)]
pub struct Torn(Option<usize>);

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// No part of such a message.
    None,
    /// A part of one, which says nothing of whose it is.
    Some,
    /// The part with the id of one of our requests.
    Id(u64),
}

impl Torn {
    /// Looks at a line that is no message.
    pub fn line(&mut self, line: &str) -> Part {
        let (text, indent) = (line.trim(), line.len() - line.trim_start().len());
        match (self.0, text) {
            (_, "{") if indent == 0 => self.0 = Some(0),
            (None, _) => return Part::None,
            (Some(_), "}") if indent == 0 => self.0 = None,
            (Some(_), _) if indent == 0 => {
                self.0 = None;
                return Part::None;
            }
            (Some(first), _) => {
                let own = if first == 0 { indent } else { first };
                self.0 = Some(own);
                let id = text.strip_prefix("\"id\"").and_then(|rest| rest.trim_start().strip_prefix(':'));
                let id = id.and_then(|id| ids::number(id.trim().trim_end_matches(',')));
                if let Some(id) = id.filter(|_| indent == own) {
                    return Part::Id(id);
                }
            }
        }
        Part::Some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<Part> {
        let mut torn = Torn::default();
        text.lines().map(|line| torn.line(line)).collect()
    }

    #[test]
    fn the_id_of_a_message_on_many_lines_is_found_at_its_own_level() {
        use Part::{Id, None, Some};
        let text = "{\n  \"jsonrpc\": \"2.0\",\n  \"result\": {\n    \"id\": 3\n  },\n  \"id\": 7\n}\nhello";
        assert_eq!(parts(text), [Some, Some, Some, Some, Some, Id(7), Some, None]);
        assert_eq!(parts("{\n\t\"id\": \"7\",\n}"), [Some, Id(7), Some]);
        assert_eq!(parts("{ not json\n  \"id\": 1"), [None, None]);
        assert_eq!(parts("{\nlog line\n  \"id\": 1"), [Some, None, None]);
    }
}
