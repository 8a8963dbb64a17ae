//! One output stream of a command: kept for the result of a tool call, or passed on line by line.

use std::borrow::Cow;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_lite::future::yield_now;

use crate::hub::client::call::Call;
use crate::hub::client::outbox::Outbox;
use crate::hub::memory::{self, Memory};
use crate::model::budget::Holder;
use crate::model::envelope::quote;
use crate::model::handover::{self, Bytes};
use crate::model::ids::Id;
use crate::model::out::Out;
use crate::model::{jsonrpc, method};
use crate::rt::async_fd::AsyncFd;
use crate::rt::pipe;
use crate::sys::lock::{Guard, Lock};
use crate::sys::{fds, passed};

/// The most of the output that one progress notification carries, in bytes.
const PROGRESS_CHUNK: usize = 64 << 10;
/// The most of a line that one `process.output` carries, in characters (the executor's own protocol has this number).
const LINE_CHUNK: usize = 64 << 10;
/// What a client may be behind with reading before a command's output waits in its pipe, in bytes.
const BEHIND: usize = 1 << 20;
/// After so long, the others have their turn.
const SLICE: Duration = Duration::from_micros(500);
/// The clock is read after so much output was passed on, in bytes.
const SOME: usize = 16 << 10;
/// What each line counts for beside its bytes, in bytes.
const LINE: usize = 1 << 10;

/// Where output is reported while the command runs.
#[derive(Clone)]
pub(crate) struct Progress {
    pub token: Box<Id>,
    pub reply: Arc<Outbox>,
    /// Of both streams: progress must increase with each notification (2025-11-25 basic/utilities/progress).
    pub bytes: Arc<AtomicU64>,
}

impl Progress {
    /// The way for a request that asked for it; so many bytes were reported already.
    pub(crate) fn of(call: &Call, bytes: u64) -> Option<Progress> {
        let bytes = Arc::new(AtomicU64::new(bytes));
        call.token.clone().map(|token| Progress { token, reply: call.reply.clone(), bytes })
    }
}

/// What becomes of the output.
#[derive(Clone)]
pub(crate) enum Sink {
    /// It is kept for the result; meanwhile it is told as progress to a client that asked for that.
    Kept(Option<Progress>),
    /// Each line is a notification to this client.
    Lines(Arc<Outbox>),
}

/// How much of a command's output is kept, and for whom.
pub(crate) struct Keep<'m> {
    pub memory: &'m Arc<Memory>,
    pub holder: Holder,
    /// The most of each stream, or its longest line, in bytes.
    pub most: usize,
}

/// One output stream of a command.
pub(crate) struct Output {
    /// `stdout` or `stderr`.
    name: &'static str,
    pipe: AsyncFd<File>,
    /// The most that is kept, or the longest line.
    limit: usize,
    sink: Sink,
    kept: Lock<Kept>,
    /// What it has of the memory for clients.
    memory: Lock<memory::Kept>,
    /// Its client is behind, and it waits for that.
    waits: AtomicBool,
    /// How much was read, in bytes.
    read: AtomicU64,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// How much was thrown away: of all, or of the line that is coming.
    cut: u64,
    /// Up to here it was sent.
    sent: usize,
    at_end: bool,
    /// Lines: where the last one, whose end has not come, begins; and which of how many pieces of the first is next.
    last: usize,
    piece: usize,
    pieces: usize,
    /// Where that first one ends, while it has pieces left.
    end: usize,
}

impl Output {
    pub(crate) fn new(
        name: &'static str,
        fd: std::os::fd::OwnedFd,
        keep: &Keep<'_>,
        sink: Sink,
    ) -> std::io::Result<Output> {
        Ok(Output::with(name, AsyncFd::new(File::from(fd))?, keep, sink, Kept::default()))
    }

    fn with(name: &'static str, pipe: AsyncFd<File>, keep: &Keep<'_>, sink: Sink, kept: Kept) -> Output {
        let (waits, read) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut memory = keep.memory.begin(keep.holder.clone());
        memory.reach(kept.bytes.len());
        Output { name, pipe, limit: keep.most, sink, kept: Lock::new(kept), memory: Lock::new(memory), waits, read }
    }

    fn kept(&self) -> Guard<'_, Kept> {
        self.kept.lock()
    }

    /// Everything of it, for the next program.
    pub(crate) fn save(&self) -> handover::Output {
        let kept = self.kept();
        handover::Output {
            fd: self.pipe.as_fd().as_raw_fd(),
            kept: Bytes(kept.bytes.clone()),
            cut: kept.cut,
            sent: kept.sent,
            at_end: kept.at_end,
            last: kept.last,
            piece: kept.piece,
            pieces: kept.pieces,
        }
    }

    /// Goes on with it; None if its descriptor is not there.
    pub(crate) fn restore(name: &'static str, saved: handover::Output, keep: &Keep<'_>, sink: Sink) -> Option<Output> {
        let pipe = AsyncFd::new(File::from(passed::own_fd(saved.fd)?)).ok()?;
        let handover::Output { kept: Bytes(bytes), cut, sent, at_end, last, piece, pieces, .. } = saved;
        let kept = Kept { bytes, cut, sent, at_end, last, ..Kept::default() }.at_piece(piece, pieces);
        Some(Output::with(name, pipe, keep, sink, kept))
    }

    /// How much of it and of others was reported as progress.
    pub(crate) fn reported(&self) -> u64 {
        match &self.sink {
            Sink::Kept(Some(progress)) => progress.bytes.load(SeqCst),
            _ => 0,
        }
    }

    /// It waits for its client to read what has come.
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(SeqCst)
    }

    /// How much has been written of it, in bytes: what was read, and what lies in its pipe.
    pub(crate) fn written(&self) -> u64 {
        self.read.load(SeqCst) + fds::unread(self.pipe.as_fd()).unwrap_or(0)
    }

    /// Whether so many bytes of it were read, or all that will ever come.
    pub(crate) fn is_read_to(&self, bytes: u64) -> bool {
        self.read.load(SeqCst) >= bytes || self.kept().at_end
    }

    /// Reads to the end, and passes on what is to be passed on.
    pub(crate) async fn read(&self) {
        let mut buffer = vec![0; 64 << 10];
        let mut slice = Instant::now();
        loop {
            self.pass().await;
            if self.kept().at_end {
                return;
            }
            match pipe::read(&self.pipe, &mut buffer).await {
                Ok((n, waited)) => {
                    self.read.fetch_add(n as u64, SeqCst);
                    self.take_in(&buffer[..n]);
                    if !waited && slice.elapsed() > SLICE {
                        yield_now().await;
                    }
                    if waited || slice.elapsed() > SLICE {
                        slice = Instant::now();
                    }
                }
                Err(_) => self.take_in(&[]),
            }
        }
    }

    /// No more will be read; what is there is passed on.
    pub(crate) async fn finish(&self) {
        if !self.kept().at_end {
            self.take_in(&[]);
        }
        self.pass().await;
    }

    fn take_in(&self, bytes: &[u8]) {
        let (mut kept, mut memory) = (self.kept(), self.memory.lock());
        let room = &mut |length: usize| memory.reach(length);
        match &self.sink {
            Sink::Kept(progress) => {
                kept.keep(bytes, self.limit, room);
                if let Some(progress) = progress {
                    kept.report(progress);
                }
            }
            Sink::Lines(_) => kept.take_lines(bytes, self.limit, room),
        }
    }

    /// Sends what is ready, as fast as its client reads. Nothing is lost if this is given up on the way.
    async fn pass(&self) {
        let reply = match &self.sink {
            Sink::Lines(reply) => reply,
            Sink::Kept(Some(progress)) => return self.wait_for(&progress.reply).await,
            Sink::Kept(None) => return,
        };
        // It may have been given up while it waited.
        self.waits.store(false, SeqCst);
        let (mut slice, mut work) = (Instant::now(), 0);
        loop {
            if !self.kept().has_line() {
                return;
            }
            self.wait_for(reply).await;
            if work > SOME {
                work = 0;
                if slice.elapsed() > SLICE {
                    // The others have their turn.
                    yield_now().await;
                    slice = Instant::now();
                }
            }
            let mut kept = self.kept();
            let Some((data, piece, pieces)) = kept.next_piece() else { return };
            work += LINE + data.len();
            let data = quote(&data);
            let place = match pieces {
                1 => Cow::Borrowed(r#","truncated":false,"chunk_index":0,"total_chunks":1}"#),
                _ => {
                    let more = piece + 1 < pieces;
                    Cow::Owned(format!(r#","truncated":{more},"chunk_index":{piece},"total_chunks":{pieces}}}"#))
                }
            };
            let params = [r#"{"type":""#, self.name, r#"","data":"#, &data, &place].concat();
            let text = jsonrpc::notification("process.output", Some(&params));
            reply.push(Out::notice(text));
        }
    }

    /// Waits until its client is not far behind with reading.
    async fn wait_for(&self, reply: &Outbox) {
        let behind = BEHIND.min(reply.capacity() / 2);
        if reply.bytes() > behind {
            self.waits.store(true, SeqCst);
            reply.room(behind).await;
        }
        self.waits.store(false, SeqCst);
    }

    /// What was kept, as a JSON string of at most `limit` bytes: control characters can make it six times as long. It is
    /// not kept here any more.
    pub(crate) fn quoted(&self, limit: usize) -> (String, String) {
        let mut kept = self.kept();
        let bytes = std::mem::take(&mut kept.bytes);
        let mut text = String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        // What is beyond it is never quoted: it could be six times as long.
        let fits = quotable(&text, limit);
        let cut = kept.cut + (text.len() - fits) as u64;
        text.truncate(fits);
        if cut > 0 {
            text.push_str(&format!(
                "\n[{cut} more bytes were cut: max_line, limits.reply or limits.memory is reached]"
            ));
        }
        let quoted = quote(&text);
        (text, quoted)
    }
}

impl Kept {
    /// Keeps up to `limit` bytes in all, as far as there is `room` for so many.
    fn keep(&mut self, bytes: &[u8], limit: usize, room: &mut dyn FnMut(usize) -> bool) {
        self.at_end = bytes.is_empty();
        let wanted = limit.saturating_sub(self.bytes.len()).min(bytes.len());
        let room = if room(self.bytes.len() + wanted) { wanted } else { 0 };
        self.bytes.extend_from_slice(&bytes[..room]);
        self.cut += (bytes.len() - room) as u64;
    }

    /// Tells what is new: whole lines, unless one is longer than a notification or the stream has ended.
    fn report(&mut self, progress: &Progress) {
        let unsent = &self.bytes[self.sent..];
        let ready = match memchr::memrchr(b'\n', unsent) {
            Some(at) => at + 1,
            None if self.at_end => unsent.len(),
            None if unsent.len() >= PROGRESS_CHUNK => {
                whole_characters(&self.bytes, self.sent, self.bytes.len()) - self.sent
            }
            None => 0,
        };
        let mut from = self.sent;
        let to = self.sent + ready;
        while from < to {
            let until = match from + PROGRESS_CHUNK < to {
                true => whole_characters(&self.bytes, from, from + PROGRESS_CHUNK),
                false => to,
            };
            let text = quote(&String::from_utf8_lossy(&self.bytes[from..until]));
            let total = progress.bytes.fetch_add((until - from) as u64, SeqCst) + (until - from) as u64;
            let token = &progress.token;
            let params = format!(r#"{{"progressToken":{token},"progress":{total},"message":{text}}}"#);
            let text = jsonrpc::notification(method::PROGRESS, Some(&params));
            progress.reply.push(Out::notice(text));
            from = until;
        }
        self.sent = to;
    }

    /// Takes what was read, each line up to `limit` bytes, as far as there is `room`; what is cut of one is said behind it.
    fn take_lines(&mut self, bytes: &[u8], limit: usize, room: &mut dyn FnMut(usize) -> bool) {
        self.at_end = bytes.is_empty();
        if self.sent > 0 {
            // What was sent makes room; of the line that is coming nothing was.
            self.bytes.drain(..self.sent);
            self.last -= self.sent;
            self.end = self.end.saturating_sub(self.sent);
            self.sent = 0;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest);
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            let wanted = limit.saturating_sub(self.bytes.len() - self.last).min(line.len());
            let room = if room(self.bytes.len() + wanted) { wanted } else { 0 };
            self.bytes.extend_from_slice(&line[..room]);
            self.cut += (line.len() - room) as u64;
            rest = after;
            if end.is_some() {
                self.end_line();
                rest = &rest[1..];
            }
        }
        if self.at_end && self.cut > 0 {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        self.bytes.push(b'\n');
        if self.cut > 0 {
            let said = format!("[{} more bytes of this line were cut: max_line is reached]\n", self.cut);
            self.bytes.extend_from_slice(said.as_bytes());
            self.cut = 0;
        }
        self.last = self.bytes.len();
    }

    /// Whether a whole line is there, or the last of all.
    fn has_line(&self) -> bool {
        self.sent < self.last || (self.at_end && self.sent < self.bytes.len())
    }

    /// Where the next line ends.
    fn line_end(&self) -> usize {
        memchr::memchr(b'\n', &self.bytes[self.sent..]).map_or(self.bytes.len(), |at| self.sent + at + 1)
    }

    /// In the middle of a long line, as another program has left it.
    fn at_piece(mut self, piece: usize, pieces: usize) -> Kept {
        (self.piece, self.pieces, self.end) = (piece, pieces, self.line_end());
        self
    }

    /// The next line, or the next piece of a long one, with its place among the pieces and their number.
    fn next_piece(&mut self) -> Option<(String, usize, usize)> {
        if !self.has_line() {
            return None;
        }
        if self.pieces == 0 {
            self.end = self.line_end();
            self.pieces = match self.end - self.sent <= LINE_CHUNK {
                true => 1,
                false => count(&self.bytes[self.sent..self.end]).div_ceil(LINE_CHUNK),
            };
        }
        let line = &self.bytes[self.sent..self.end];
        let (piece, pieces) = (self.piece, self.pieces);
        let length = match piece + 1 < pieces {
            // No character is longer than four bytes: the rest of a long line is not looked at each time.
            true => characters(&line[..line.len().min(4 * LINE_CHUNK)]).take(LINE_CHUNK).sum(),
            false => line.len(),
        };
        let data = String::from_utf8_lossy(&line[..length]).into_owned();
        self.sent += length;
        (self.piece, self.pieces) = if piece + 1 < pieces { (piece + 1, pieces) } else { (0, 0) };
        Some((data, piece, pieces))
    }
}

/// How many bytes of a text make a JSON string of `limit` bytes at most.
fn quotable(text: &str, limit: usize) -> usize {
    let mut length = 2;
    for (at, c) in text.char_indices() {
        length += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if c < ' ' => 6,
            c => c.len_utf8(),
        };
        if length > limit {
            return at;
        }
    }
    text.len()
}

/// The number of characters.
fn count(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.chars().count(),
        Err(_) => characters(bytes).count(),
    }
}

/// The length of each character in bytes; what is no UTF-8 counts as the one that stands for it.
fn characters(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let invalid = Some(chunk.invalid().len()).filter(|n| *n > 0);
        chunk.valid().chars().map(char::len_utf8).chain(invalid)
    })
}

/// Where a piece of UTF-8 that begins at `from` and may reach up to `until` ends, so that no character is cut. Bytes
/// that are no UTF-8 are cut anywhere.
fn whole_characters(bytes: &[u8], from: usize, until: usize) -> usize {
    let lead = (from + 1..until).rev().take(4).find(|at| bytes[*at] & 0xc0 != 0x80);
    let Some(at) = lead else { return until };
    let length = match bytes[at] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    if at + length > until { at } else { until }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(reads: &[&[u8]], limit: usize) -> Vec<(String, usize, usize)> {
        let mut kept = Kept::default();
        let mut all = Vec::new();
        for bytes in reads.iter().copied().chain([&b""[..]]) {
            kept.take_lines(bytes, limit, &mut |_| true);
            all.extend(std::iter::from_fn(|| kept.next_piece()));
        }
        assert_eq!(kept.sent, kept.bytes.len());
        all
    }

    #[test]
    fn lines_are_passed_on_with_their_ends() {
        let one = |text: &str| (text.to_owned(), 0, 1);
        assert_eq!(pieces(&[b"a\nb", b"c\n\nd"], 100), [one("a\n"), one("bc\n"), one("\n"), one("d")]);
        assert_eq!(pieces(&[b"\xff\xc3", b"\xa9\n"], 100), [one("\u{fffd}é\n")]);
        assert_eq!(pieces(&[], 100), []);
    }

    #[test]
    fn a_text_is_cut_where_its_quotation_would_be_too_long() {
        for text in ["plain", "\u{1}\u{2}\u{3}", "a\"b\\c\n\td", "é€😀", "\u{7f}\u{8}\u{c}"] {
            let whole = quote(text).len();
            assert_eq!(quotable(text, whole), text.len(), "{text:?}");
            for limit in 2..whole {
                let fits = quotable(text, limit);
                assert!(quote(&text[..fits]).len() <= limit && fits < text.len(), "{text:?} {limit}");
            }
        }
    }

    #[test]
    fn a_long_line_comes_in_pieces_of_whole_characters() {
        let line = "é".repeat(200_000);
        let all = pieces(&[&line.as_bytes()[..100_001], &line.as_bytes()[100_001..]], 1 << 20);
        let sizes: Vec<_> = all.iter().map(|(data, piece, of)| (data.chars().count(), *piece, *of)).collect();
        assert_eq!(sizes, [(65536, 0, 4), (65536, 1, 4), (65536, 2, 4), (3392, 3, 4)]);
        assert_eq!(all.iter().map(|(data, ..)| data.as_str()).collect::<String>(), line);
    }

    #[test]
    fn what_is_beyond_the_limit_is_cut_and_said_to_be() {
        let said = |n: usize| (format!("[{n} more bytes of this line were cut: max_line is reached]\n"), 0, 1);
        let one = |text: &str| (text.to_owned(), 0, 1);
        assert_eq!(pieces(&[b"123", b"4567", b"89\nx\n"], 5), [one("12345\n"), said(4), one("x\n")]);
        assert_eq!(pieces(&[b"123456"], 5), [one("12345\n"), said(1)]);
        assert_eq!(pieces(&[b"12345\n"], 5), [one("12345\n")]);
    }

    proptest! {
        #[test]
        fn everything_arrives_whatever_the_reads(text in "[a-cé\n]{0,40}", cuts in proptest::collection::vec(1..9usize, 0..9)) {
            let (mut rest, mut reads) = (text.as_bytes(), Vec::new());
            for cut in cuts {
                let (read, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                if !read.is_empty() {
                    reads.push(read);
                }
            }
            if !rest.is_empty() {
                reads.push(rest);
            }
            let all: Vec<String> = pieces(&reads, 1000).into_iter().map(|(data, ..)| data).collect();
            let expected: Vec<&str> = text.split_inclusive('\n').collect();
            prop_assert_eq!(all, expected);
        }
    }
}
