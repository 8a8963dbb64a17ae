//! One owner for each request: ids of ours in place of the clients', and the way back.
//!
//! Clients choose their ids without knowing of each other, so two of them use the same one, and one may use a number and
//! a string that look alike. Towards a child each request has a number that is never used twice; its entry here says
//! whose it is. A reply that finds no entry is late, or was never asked for.

use std::collections::HashMap;

use super::envelope::{Envelope, Span, decode, quote, spliced};

/// The requests that wait for an answer of one child, by our numbers.
#[derive(Debug)]
pub struct Table<T> {
    last: u64,
    waiting: HashMap<u64, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { last: 0, waiting: HashMap::new() }
    }
}

impl<T> Table<T> {
    /// The last number that was given.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// A table that goes on behind a number.
    pub fn behind(last: u64) -> Table<T> {
        Table { last, waiting: HashMap::new() }
    }

    /// The next number. It is spent, also if nothing is entered under it.
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub fn enter(&mut self, number: u64, entry: T) {
        self.waiting.insert(number, entry);
    }

    pub fn get(&self, number: u64) -> Option<&T> {
        self.waiting.get(&number)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.waiting.get_mut(&number)
    }

    /// The entry that a reply is for. It is answered once.
    pub fn take(&mut self, number: u64) -> Option<T> {
        self.waiting.remove(&number)
    }

    /// Takes the entries that fit.
    pub fn take_where(&mut self, mut fits: impl FnMut(&T) -> bool) -> Vec<(u64, T)> {
        let numbers: Vec<u64> = self.waiting.iter().filter(|(_, entry)| fits(entry)).map(|(n, _)| *n).collect();
        numbers.into_iter().filter_map(|n| self.waiting.remove(&n).map(|entry| (n, entry))).collect()
    }

    pub fn take_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&u64, &T)> {
        self.waiting.iter()
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.waiting.values_mut()
    }
}

/// The number that a child's id or token stands for: as we wrote it, or as what some servers make of it, a string or a
/// number with a fraction of zero. No other id of ours could be meant.
pub fn number(id: &str) -> Option<u64> {
    let digits = id.strip_prefix('"').and_then(|id| id.strip_suffix('"')).unwrap_or(id);
    let digits = digits.strip_suffix(".0").unwrap_or(digits);
    digits.parse().ok().filter(|n: &u64| n.to_string() == digits)
}

/// One way of writing an id, for comparison: a string without its quotes and escapes, behind a mark.
pub fn canonical(id: &str) -> String {
    if id.starts_with('"') { format!("\"{}", decode(id)) } else { id.to_owned() }
}

/// The id of a request, or a progress token, as its client has written it. Two are equal if they are the same value: a
/// string may be written in several ways.
#[derive(Clone, Debug)]
pub struct Id {
    written: Box<str>,
    /// The one way of writing it, where it is written in another one.
    canonical: Option<Box<Box<str>>>,
}

impl Id {
    fn canonical(&self) -> &str {
        self.canonical.as_ref().map_or(&self.written, |text| text)
    }
}

impl From<&str> for Id {
    fn from(written: &str) -> Id {
        let canonical = written.contains('\\').then(|| Box::new(quote(&decode(written)).into()));
        Id { written: written.into(), canonical }
    }
}

impl std::ops::Deref for Id {
    type Target = str;

    fn deref(&self) -> &str {
        &self.written
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.written)
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.canonical() == other.canonical()
    }
}

/// What is written in place of a request's id and progress token on its way to a child. The token of a request is its
/// id there, also: unique among active requests, as it must be.
pub fn outgoing<'n>(e: &Envelope<'_>, digits: &'n str, token: bool) -> Vec<(Span, &'n str)> {
    let token = e.progress_token.clone().filter(|_| token);
    let mut changes: Vec<(Span, &str)> = e.id.clone().into_iter().chain(token).map(|span| (span, digits)).collect();
    changes.sort_by_key(|(span, _)| span.start);
    changes
}

/// A child's reply with the id that its client has written, in its JSON type.
pub fn restored(e: &Envelope<'_>, id: &str) -> String {
    let changes: Vec<(Span, &str)> = e.id.clone().into_iter().map(|span| (span, id)).collect();
    spliced(e.text(), &changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::envelope::scan;
    use proptest::prelude::*;

    /// What may happen, in any order. Numbers choose among what is there.
    #[derive(Clone, Debug)]
    enum Step {
        Ask { client: usize, id: usize, token: Option<usize> },
        Reply(usize),
        Progress(usize),
        Cancel { client: usize, id: usize },
        Leave(usize),
        Stray(String),
    }

    /// Ids that are easily confused.
    const IDS: [&str; 8] = ["1", "\"1\"", "2", "\"2\"", "\"a\"", "9007199254740993", "-1.5e3", "\"\\u0031\""];

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..4usize, 0..IDS.len(), proptest::option::of(0..IDS.len()))
                .prop_map(|(client, id, token)| Step::Ask { client, id, token }),
            5 => any::<usize>().prop_map(Step::Reply),
            3 => any::<usize>().prop_map(Step::Progress),
            2 => (0..4usize, 0..IDS.len()).prop_map(|(client, id)| Step::Cancel { client, id }),
            1 => (0..4usize).prop_map(Step::Leave),
            1 => "[0-9]{1,3}|\"[0-9]\"|[0-9]\\.0|null".prop_map(Step::Stray),
        ]
    }

    #[test]
    fn an_id_is_a_value_and_not_its_spelling() {
        for (a, b, equal) in [
            ("1", "1", true),
            ("1", "\"1\"", false),
            ("\"\\u00e9\"", "\"é\"", true),
            ("\"a\"", "\"b\"", false),
            ("1.0", "1", false),
        ] {
            assert_eq!(Id::from(a) == Id::from(b), equal, "{a} {b}");
        }
    }

    struct Asked {
        client: usize,
        id: &'static str,
        token: Option<&'static str>,
        /// Tells this request from all others, in its text and in its answer.
        serial: usize,
    }

    proptest! {
        #[test]
        fn every_answer_finds_its_owner_whatever_the_order(steps in proptest::collection::vec(step(), 1..200)) {
            let mut table: Table<Asked> = Table::default();
            // What the child has been sent: its id there, its token, and the serial. It answers cancelled ones as well.
            let mut child: Vec<(String, Option<String>, usize)> = Vec::new();
            // What is not to be answered any more.
            let mut over: Vec<usize> = Vec::new();
            for (serial, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Ask { client, id, token } => {
                        let (id, token) = (IDS[id], token.map(|t| IDS[t]));
                        let meta = token.map_or(String::new(), |t| format!(",\"_meta\":{{\"progressToken\":{t}}}"));
                        let text = format!(
                            r#"{{"params":{{"serial":{serial}{meta}}},"jsonrpc":"2.0","id":{id},"method":"m"}}"#
                        );
                        let e = scan(&text).unwrap();
                        let number = table.number();
                        let digits = number.to_string();
                        let sent = spliced(&text, &outgoing(&e, &digits, true));
                        // The child sees our number, and otherwise what was written.
                        let seen = scan(&sent).unwrap();
                        prop_assert_eq!(seen.get(&seen.id), Some(digits.as_str()));
                        prop_assert_eq!(seen.get(&seen.progress_token), token.map(|_| digits.as_str()));
                        prop_assert!(child.iter().all(|(used, ..)| *used != digits));
                        let token_seen = seen.get(&seen.progress_token).map(str::to_owned);
                        child.push((digits, token_seen, serial));
                        table.enter(number, Asked { client, id, token, serial });
                    }
                    Step::Reply(which) if !child.is_empty() => {
                        let (id, _, serial) = child.remove(which % child.len());
                        let text = format!(r#"{{"id":{id},"result":{{"serial":{serial},"id":7}},"jsonrpc":"2.0"}}"#);
                        let e = scan(&text).unwrap();
                        match number(e.get(&e.id).unwrap()).and_then(|n| table.take(n)) {
                            Some(asked) => {
                                prop_assert_eq!(asked.serial, serial, "another's answer");
                                prop_assert!(!over.contains(&serial));
                                let back = restored(&e, asked.id);
                                let wanted = text.replacen(&format!("\"id\":{id}"), &format!("\"id\":{}", asked.id), 1);
                                prop_assert_eq!(back, wanted);
                            }
                            None => prop_assert!(over.contains(&serial), "an answer was lost"),
                        }
                        over.push(serial);
                    }
                    Step::Progress(which) if !child.is_empty() => {
                        let (_, token, serial) = &child[which % child.len()];
                        let found = token.as_deref().and_then(number).and_then(|n| table.get(n));
                        match found {
                            Some(asked) => prop_assert!(asked.serial == *serial && asked.token.is_some()),
                            None => prop_assert!(token.is_none() || over.contains(serial)),
                        }
                    }
                    Step::Cancel { client, id } => {
                        for (_, asked) in table.take_where(|a| a.client == client && a.id == IDS[id]) {
                            prop_assert!(asked.client == client && asked.id == IDS[id]);
                            over.push(asked.serial);
                        }
                    }
                    Step::Leave(client) => {
                        over.extend(table.take_where(|a| a.client == client).into_iter().map(|(_, a)| a.serial));
                    }
                    Step::Stray(id) => {
                        // This was not asked, or it is one of ours, perhaps written in another way.
                        if let Some(n) = number(&id) {
                            let meant = id.trim_matches('"').trim_end_matches(".0");
                            let known = child.iter().any(|(sent, ..)| sent == meant);
                            prop_assert!(known || table.get(n).is_none());
                        }
                    }
                    _ => {}
                }
                let open = child.iter().filter(|(_, _, serial)| !over.contains(serial)).count();
                prop_assert_eq!(table.iter().count(), open, "an entry too many or too few");
            }
            for (id, _, serial) in child {
                let taken = number(&id).and_then(|n| table.take(n));
                prop_assert_eq!(taken.is_none(), over.contains(&serial));
            }
            prop_assert_eq!(table.take_all().len(), 0, "the table is empty afterwards");
        }
    }
}
