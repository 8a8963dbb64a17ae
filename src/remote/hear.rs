//! What the server says, in answers and in streams: passed on once, each response to the request that it names.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};

use super::client::Answer;
use super::state::{Failure, Session, WORDS, key};
use crate::model::envelope::{Fault, Kind, batch, member, members, scan, spliced};
use crate::model::event_stream::Decoder;
use crate::model::method;
use crate::model::text::printable;
use crate::rt::blocking::{LONG, busy};

/// The pause before a stream is opened again, where the server names none; it doubles up to the second.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The shortest one that a server may ask for.
const SHORTEST: Duration = Duration::from_millis(50);

/// How a stream has ended.
pub(super) enum Ended {
    Answered(Option<String>),
    /// Before the answer: the last event, whether any came, and when to ask again, if the server has said so.
    Early {
        last_event: Option<String>,
        was_heard: bool,
        pause: Option<Duration>,
    },
}

/// One message of a text.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Of this id.
    Response(String, String),
    Other(String),
    /// No message.
    Noise(String),
}

impl Session {
    /// Passes on what the server says. Whether it is the response to the request `wanted`, and its text, if that is wanted.
    pub(super) async fn deliver(&self, bytes: Vec<u8>, wanted: Option<&str>, keeps: bool) -> (bool, Option<String>) {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        };
        let (id, is_long) = (wanted.map(str::to_owned), text.len() > LONG);
        let sort = move || sort(&text, id.as_deref());
        // To read a long message takes its time, which is not taken from others.
        let sorted = if is_long { busy(sort).await } else { sort() };
        let (wanted, mut answer) = (wanted.map(key), None);
        for one in sorted {
            self.inbox.has_room().await;
            match one {
                Heard::Response(id, text) => {
                    // Once: whoever waits for it is answered by the first.
                    let open = self.state().open.remove(&id);
                    let Some(open) = open else {
                        debug!("{}: a response that nobody waits for: {}", self.client.name(), printable(&text, 200));
                        continue;
                    };
                    if wanted.as_ref() == Some(&id) {
                        answer = Some(keeps.then(|| text.clone()));
                    } else {
                        open.answered.set();
                    }
                    self.inbox.push(line(text.into_bytes()));
                }
                Heard::Other(text) => {
                    if text.len() < WORDS && text.contains(method::TOOLS_CHANGED) {
                        self.state().params = None;
                    }
                    self.inbox.push(line(text.into_bytes()));
                }
                Heard::Noise(text) => debug!("{}: no message: {}", self.client.name(), printable(&text, 200)),
            }
        }
        (answer.is_some(), answer.flatten())
    }

    /// Reads a stream, up to the response to the request `wanted` or to its end. `note` gets the id of each event.
    pub(super) async fn read(
        &self,
        answer: &mut Answer,
        last_event: Option<String>,
        wanted: Option<&str>,
        keeps: bool,
        note: &(dyn Fn(Option<&str>) + Sync),
    ) -> Result<Ended, Failure> {
        let mut decoder = Decoder::new(self.client.longest(), last_event);
        let (mut held, mut was_heard) = (self.client.hold(), false);
        loop {
            let chunk = match self.client.unless_silent(answer.chunk()).await? {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // A connection that is cut is the end of the stream.
                Err(why) => {
                    debug!("{}: a stream is cut: {why}", self.client.name());
                    break;
                }
            };
            for event in decoder.push(&chunk) {
                was_heard = true;
                let is_message = event.name == "message";
                match event.data.filter(|_| is_message) {
                    Some(data) => {
                        if let (true, text) = self.deliver(data, wanted, keeps).await {
                            return Ok(Ended::Answered(text));
                        }
                    }
                    None if is_message && wanted.is_some() => return Err(self.too_long().into()),
                    None if is_message => {
                        warn!("{}: a message of it is left out: it {}", self.client.name(), self.too_long())
                    }
                    None => {}
                }
                note(event.id.as_deref());
            }
            note(decoder.last_id());
            if !held.set(decoder.held()) {
                return Err(self.too_long().into());
            }
        }
        let pause = decoder.retry().map(|millis| Duration::from_millis(millis).clamp(SHORTEST, PAUSES.1));
        Ok(Ended::Early { last_event: decoder.last_id().map(str::to_owned), was_heard, pause })
    }

    pub(super) fn too_long(&self) -> String {
        format!("answered with more than limits.reply ({} bytes) or limits.memory allows", self.client.longest())
    }

    /// The result of a request of our own, which is for nobody else, in the body of its answer.
    pub(super) async fn own_result(&self, answer: &mut Answer, id: &str) -> Result<String, String> {
        let response = if answer.content_type() == super::state::EVENTS {
            self.find(answer, id).await?
        } else {
            let (body, _) = answer.whole(self.client.longest()).await?;
            String::from_utf8_lossy(&body).trim().to_owned()
        };
        match member(&response, "result") {
            Some(result) => Ok(result.to_owned()),
            None => Err(format!("it answered {}", printable(member(&response, "error").unwrap_or(&response), 200))),
        }
    }

    /// The response to a request of our own in a stream. The rest of it is passed on.
    async fn find(&self, answer: &mut Answer, wanted: &str) -> Result<String, String> {
        let mut decoder = Decoder::new(self.client.longest(), None);
        while let Some(chunk) = answer.chunk().await? {
            for data in decoder.push(&chunk).into_iter().filter_map(|event| event.data) {
                let text = String::from_utf8_lossy(&data).into_owned();
                if scan(&text).is_ok_and(|e| e.kind == Kind::Response && e.get(&e.id) == Some(wanted)) {
                    return Ok(text);
                }
                self.deliver(data, None, false).await;
            }
        }
        Err("its stream ended before the answer".to_owned())
    }
}

/// A message as a line: line breaks between its tokens would end it.
pub(super) fn line(mut bytes: Vec<u8>) -> Vec<u8> {
    for byte in &mut bytes {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    bytes.push(b'\n');
    bytes
}

/// The messages in a text. An error that names no request is the answer to the one that it stands in the place of an answer
/// to.
fn sort(text: &str, wanted: Option<&str>) -> Vec<Heard> {
    let text = text.trim();
    let all = match text.starts_with('[') {
        true => batch(text).unwrap_or_default(),
        false => vec![text],
    };
    all.into_iter().filter(|text| !text.is_empty()).map(|text| one(text, wanted)).collect()
}

fn one(text: &str, wanted: Option<&str>) -> Heard {
    match scan(text) {
        Ok(e) if e.kind == Kind::Response => match (e.get(&e.id), wanted) {
            (Some(id), _) => Heard::Response(key(id), text.to_owned()),
            (None, Some(wanted)) if e.error.is_some() => {
                let null = members(text).into_iter().find(|(key, _)| key == "id");
                let named = match null {
                    Some((_, place)) => spliced(text, &[(place, wanted)]),
                    None => text.replacen('{', &format!("{{\"id\":{wanted},"), 1),
                };
                Heard::Response(key(wanted), named)
            }
            (None, _) => Heard::Noise(text.to_owned()),
        },
        Ok(_) => Heard::Other(text.to_owned()),
        Err(Fault::Inexact(changes)) => {
            let exact = spliced(text, &changes);
            if scan(&exact).is_ok() { one(&exact, wanted) } else { Heard::Noise(text.to_owned()) }
        }
        Err(_) => Heard::Noise(text.to_owned()),
    }
}

/// Counts an answer that has begun, for as long as this lives.
pub(super) struct Answering(Arc<Session>);

impl Answering {
    pub(super) fn new(session: &Arc<Session>) -> Answering {
        session.answering.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Answering(session.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_found_by_its_id_and_an_error_without_one_is_named() {
        let response = |text: &str| Heard::Response("7".to_owned(), text.to_owned());
        let other = |text: &str| Heard::Other(text.to_owned());
        for (text, wanted) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, vec![response(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#)]),
            (
                r#"{"jsonrpc":"2.0","id":"7","result":{}}"#,
                vec![Heard::Response("\"7".to_owned(), r#"{"jsonrpc":"2.0","id":"7","result":{}}"#.to_owned())],
            ),
            (
                r#" {"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}} "#,
                vec![response(r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}"#)],
            ),
            (
                r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#,
                vec![response(r#"{"id":7,"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#)],
            ),
            (
                r#"[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","id":7,"result":{}}]"#,
                vec![other(r#"{"jsonrpc":"2.0","method":"a"}"#), response(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#)],
            ),
            ("<html>", vec![Heard::Noise("<html>".to_owned())]),
        ] {
            assert_eq!(sort(text, Some("7")), wanted, "{text}");
        }
    }
}
