//! Event streams that can be taken up again where a connection broke (2025-11-25 basic/transports, resumability).
//!
//! Each stream of a legacy session has a number, each of its events one more; together they are the event's id, so an id
//! says which stream it is of, and nothing is ever replayed on another. What was sent is kept within a bound; what a
//! request still produces after its connection broke waits in the stream's outbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use super::outbox::{Bounded, Outbox};
use crate::hub::memory::Kept;
use crate::model::handover;
use crate::sys::lock::{Guard, Lock};

/// What a session keeps of what it sent, in bytes, over all its streams.
const KEPT: usize = 1 << 20;
/// The most streams that a session remembers.
const STREAMS: usize = 64;

/// One event stream of a session.
pub struct Stream {
    pub number: u64,
    pub outbox: Arc<Outbox>,
    sent: Lock<Sent>,
    /// Counts its connections: the newest one has it.
    connection: AtomicU64,
}

#[derive(Default)]
struct Sent {
    next: u64,
    events: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
}

impl Stream {
    fn sent(&self) -> Guard<'_, Sent> {
        self.sent.lock()
    }

    /// The id of the next event, which is kept.
    pub fn note(&self, text: &str) -> String {
        let mut sent = self.sent();
        sent.next += 1;
        let number = sent.next;
        sent.bytes += text.len();
        sent.events.push_back((number, text.into()));
        // The last one is kept however long it is: it may be the answer.
        while sent.bytes > KEPT && sent.events.len() > 1 {
            let Some((_, old)) = sent.events.pop_front() else { break };
            sent.bytes -= old.len();
        }
        self.id(number)
    }

    /// An event's id; that of the 0th is for an event before the first.
    pub fn id(&self, event: u64) -> String {
        format!("{}-{event}", self.number)
    }

    /// What was sent after an event, with ids.
    pub fn after(&self, event: u64) -> Vec<(String, Arc<str>)> {
        let sent = self.sent();
        sent.events.iter().filter(|(n, _)| *n > event).map(|(n, text)| (self.id(*n), text.clone())).collect()
    }

    /// What it holds, sent or still to be sent.
    fn bytes(&self) -> usize {
        self.sent().bytes + self.outbox.bytes()
    }

    fn save(&self, outbox: &mut dyn FnMut(&Arc<Outbox>) -> usize) -> handover::Stream {
        let sent = self.sent();
        handover::Stream {
            number: self.number,
            outbox: outbox(&self.outbox),
            next: sent.next,
            events: sent.events.iter().map(|(n, text)| (*n, text.to_string())).collect(),
        }
    }

    /// A connection takes the stream, from the one before if that has not noticed its end yet.
    pub fn take(&self) -> u64 {
        let number = self.connection.fetch_add(1, SeqCst) + 1;
        self.outbox.wake();
        number
    }

    pub fn is_taken_from(&self, connection: u64) -> bool {
        self.connection.load(SeqCst) != connection
    }
}

/// The streams of a session.
#[derive(Default)]
pub struct ResumableStreams {
    next: u64,
    all: VecDeque<Arc<Stream>>,
    /// Where what was sent is counted; what is still to be sent is by the outboxes.
    kept: Option<Kept>,
}

impl Bounded for Lock<ResumableStreams> {
    fn trim(&self) {
        self.lock().trim();
    }
}

impl ResumableStreams {
    pub(crate) fn counted(kept: Kept) -> ResumableStreams {
        ResumableStreams { kept: Some(kept), ..ResumableStreams::default() }
    }

    /// A new stream for what comes out of an outbox.
    pub fn open(&mut self, outbox: Arc<Outbox>) -> Arc<Stream> {
        self.next += 1;
        let stream =
            Arc::new(Stream { number: self.next, outbox, sent: Lock::default(), connection: AtomicU64::new(0) });
        self.all.push_back(stream.clone());
        self.trim();
        stream
    }

    /// Keeps within the bounds: streams that have ended are forgotten, the oldest first, but for the newest.
    pub fn trim(&mut self) {
        let mut held: usize = self.all.iter().map(|s| s.bytes()).sum();
        while self.all.len() > STREAMS || held > KEPT {
            let older = self.all.len().saturating_sub(1);
            let Some(at) = self.all.iter().take(older).position(|s| s.outbox.is_ended()) else { break };
            let Some(old) = self.all.remove(at) else { break };
            held = held.saturating_sub(old.bytes());
        }
        // A single answer may be longer than a session's part, where there is room for more of that kind.
        let scarce = held > KEPT && self.kept.as_ref().is_some_and(Kept::is_scarce);
        if !self.count() || scarce {
            // There is no memory for it.
            self.give_up();
        }
    }

    /// Forgets what may never be asked for: streams that have ended.
    pub(crate) fn give_up(&mut self) {
        self.all.retain(|s| !s.outbox.is_ended());
        self.count();
    }

    fn count(&mut self) -> bool {
        let sent = self.all.iter().map(|s| s.sent().bytes).sum();
        self.kept.as_mut().is_none_or(|kept| kept.set(sent))
    }

    /// All streams with the number of the last one, for another program.
    pub fn save(&self, outbox: &mut dyn FnMut(&Arc<Outbox>) -> usize) -> (u64, Vec<handover::Stream>) {
        (self.next, self.all.iter().map(|s| s.save(outbox)).collect())
    }

    /// The streams of the program before. Their outboxes count against the bounds of the session, which is `own`.
    pub(crate) fn restore(
        next: u64,
        saved: Vec<handover::Stream>,
        outbox: &dyn Fn(usize) -> Arc<Outbox>,
        own: &Weak<dyn Bounded>,
        kept: Option<Kept>,
    ) -> ResumableStreams {
        let mut streams = ResumableStreams { next, all: VecDeque::new(), kept };
        for one in saved {
            let bytes = one.events.iter().map(|(_, text)| text.len()).sum();
            let events = one.events.into_iter().map(|(n, text)| (n, text.into())).collect();
            let sent = Lock::new(Sent { next: one.next, events, bytes });
            let outbox = outbox(one.outbox);
            outbox.belong_to(own.clone());
            streams.all.push_back(Arc::new(Stream { number: one.number, outbox, sent, connection: AtomicU64::new(0) }));
        }
        streams.trim();
        streams
    }

    /// The stream with a number.
    pub fn stream(&self, number: u64) -> Option<Arc<Stream>> {
        self.all.iter().find(|s| s.number == number).cloned()
    }

    /// The stream that an event's id is of, and the event's number.
    pub fn find(&self, id: &str) -> Option<(Arc<Stream>, u64)> {
        let (stream, event) = id.split_once('-')?;
        let (stream, event) = (stream.parse::<u64>().ok()?, event.parse().ok()?);
        self.all.iter().find(|s| s.number == stream).map(|s| (s.clone(), event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::memory::Memory;
    use crate::model::budget::Holder;
    use crate::model::out::Out;

    #[test]
    fn what_was_sent_is_found_by_id_and_bounded() {
        let mut streams = ResumableStreams::default();
        let stream = streams.open(Arc::new(Outbox::single(100)));
        assert_eq!((stream.note("a"), stream.note("b")), ("1-1".to_owned(), "1-2".to_owned()));
        let (found, event) = streams.find("1-1").unwrap();
        let after: Vec<_> = found.after(event).into_iter().map(|(id, text)| format!("{id} {text}")).collect();
        assert_eq!(after, ["1-2 b"]);
        assert!(streams.find("2-1").is_none() && streams.find("x").is_none());
        let long = "x".repeat(KEPT / 2);
        (0..9).for_each(|_| drop(stream.note(&long)));
        assert_eq!(stream.after(0).len(), 2);
        // One that is longer than the bound is kept alone.
        stream.note(&"y".repeat(2 * KEPT));
        assert_eq!(stream.after(0).len(), 1);
        // What waits for a client that left counts as well.
        for _ in 0..4 {
            let left = streams.open(Arc::new(Outbox::single(1)));
            left.outbox.push(Out::answer(long.clone()));
        }
        streams.trim();
        assert!(streams.all.iter().map(|s| s.bytes()).sum::<usize>() <= 2 * KEPT + long.len());
        // Long answers of many sessions have a bound of their own.
        let answer = "z".repeat(16 << 20);
        let memory = Memory::new(256 << 20, Arc::default());
        let kept = |n| memory.begin(Holder::Session(n));
        let mut sessions: Vec<ResumableStreams> = (0..20).map(|n| ResumableStreams::counted(kept(n))).collect();
        for (session, n) in sessions.iter_mut().zip(0..) {
            let left = session.open(Arc::new(Outbox::single(1).counted(kept(n))));
            left.outbox.push(Out::answer(answer.clone()));
            session.trim();
        }
        let kept = sessions.iter().filter(|s| !s.all.is_empty()).count();
        assert!((6..=8).contains(&kept), "{kept}");
        drop(sessions);
        // Finished streams make room, those that are waited for do not.
        stream.outbox.close();
        for _ in 0..STREAMS {
            streams.open(Arc::new(Outbox::single(1)));
        }
        assert!(streams.find("1-1").is_none() && streams.find("6-0").is_some());
    }
}
