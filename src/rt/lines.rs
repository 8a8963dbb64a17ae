//! Lines from a child's pipes: bounded, whatever the child writes.

use std::io;
use std::time::{Duration, Instant};

use futures_lite::future::yield_now;

use super::pipe::{self, Input};

/// The most of one line that is logged, in bytes.
pub const LOGGED: usize = 4096;
/// How much is read at a time; a pipe holds as much (pipe(7)).
const CHUNK: usize = 64 << 10;
/// Who reads without having to wait for this long lets the others have their turn, so that a child that floods us cannot
/// starve them.
const SLICE: Duration = Duration::from_micros(200);
/// What is kept of both ends of a line that is too long.
const ENDS: usize = 256;

/// A line without its line feed.
pub enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than the limit: both its ends.
    Cut {
        head: Vec<u8>,
        tail: Vec<u8>,
        length: usize,
    },
}

/// What a reader has read and not handed out, and the line that is being thrown away: both its ends, and its length.
pub type Unread = (Vec<u8>, Option<(Vec<u8>, Vec<u8>, usize)>);

/// Splits what is read into lines.
pub struct Lines {
    /// All of it is initialised; what was read ends at `end`.
    buffer: Vec<u8>,
    end: usize,
    /// Where the first line that was not handed out begins.
    start: usize,
    /// Up to here there is no line feed.
    searched: usize,
    limit: usize,
    /// There is no memory for more of the line that is coming.
    full: bool,
    /// The line that is being thrown away.
    cut: Option<(Vec<u8>, Vec<u8>, usize)>,
    slice: Option<Instant>,
    /// The pipe was told to hold more.
    wide: bool,
}

impl Lines {
    pub fn new(limit: usize) -> Lines {
        Lines {
            buffer: Vec::new(),
            end: 0,
            start: 0,
            searched: 0,
            limit,
            full: false,
            cut: None,
            slice: None,
            wide: false,
        }
    }

    /// How much memory it holds beyond that of one read, in bytes.
    pub fn held(&self) -> usize {
        self.buffer.len().saturating_sub(CHUNK)
    }

    /// There is no memory for more: a line that has not ended is thrown away.
    pub fn give_up(&mut self) {
        self.full = true;
    }

    /// What was read and not handed out, and the line that is being thrown away.
    pub fn unread(&self) -> Unread {
        (self.buffer[self.start..self.end].to_vec(), self.cut.clone())
    }

    /// Goes on with what another reader had.
    pub fn with_unread(limit: usize, (bytes, cut): Unread) -> Lines {
        let end = bytes.len();
        Lines { buffer: bytes, end, cut, ..Lines::new(limit) }
    }

    /// Reads more; 0 at the end.
    pub(crate) async fn fill(&mut self, pipe: &dyn Input) -> io::Result<usize> {
        self.make_room();
        let (read, waited) = pipe::read(pipe, &mut self.buffer[self.end..]).await?;
        self.end += read;
        if self.end == self.buffer.len() && !std::mem::replace(&mut self.wide, true) {
            pipe.widen();
        }
        match self.slice {
            Some(since) if !waited => {
                if since.elapsed() > SLICE {
                    self.slice = None;
                    yield_now().await;
                }
            }
            _ => self.slice = Some(Instant::now()),
        }
        Ok(read)
    }

    /// Takes bytes that were read elsewhere, at most as many as one read brings.
    #[cfg(any(test, fuzzing))]
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room();
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Makes place for a chunk behind what is kept. Memory is touched only where it grows.
    fn make_room(&mut self) {
        let kept = self.end - self.start;
        if self.start > 0 && (kept == 0 || self.buffer.len() - self.end < CHUNK / 2) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.searched -= self.start;
            self.end = kept;
            self.start = 0;
        }
        if kept == 0 && self.buffer.len() > 16 * CHUNK {
            // A huge line must not hold its memory for ever.
            self.buffer = Vec::new();
        }
        if self.buffer.len() - self.end < CHUNK / 2 {
            self.buffer.resize((self.buffer.len() * 2).max(CHUNK), 0);
        }
    }

    /// A line can be taken.
    pub fn has_line(&mut self) -> bool {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..self.end]);
        self.searched = found.map_or(self.end, |at| self.searched + at);
        found.is_some()
    }

    /// The next whole line.
    pub fn take(&mut self) -> Option<Line<'_>> {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..self.end]).map(|at| self.searched + at);
        let Some(end) = found else {
            self.searched = self.end;
            if self.cut.is_some() || self.end - self.start > self.limit || std::mem::take(&mut self.full) {
                self.throw_away(self.end);
            }
            return None;
        };
        let start = self.start;
        if self.cut.is_some() || end - start > self.limit {
            self.throw_away(end);
            self.start = end + 1;
            self.searched = end + 1;
            let (head, tail, length) = self.cut.take()?;
            return Some(Line::Cut { head, tail, length });
        }
        self.start = end + 1;
        self.searched = end + 1;
        Some(Line::Whole(&self.buffer[start..end]))
    }

    /// What stands behind the last line feed, once there is no more to read.
    pub fn last(&mut self) -> Option<Line<'_>> {
        if memchr::memchr(b'\n', &self.buffer[self.searched..self.end]).is_some() {
            return self.take();
        }
        let (start, end) = (self.start, self.end);
        self.start = end;
        self.searched = end;
        match self.cut.take() {
            Some((head, tail, length)) => Some(Line::Cut { head, tail, length: length + end - start }),
            None if start == end => None,
            None => Some(Line::Whole(&self.buffer[start..end])),
        }
    }

    fn throw_away(&mut self, end: usize) {
        let bytes = &self.buffer[self.start..end];
        let (head, tail, length) = self.cut.get_or_insert_with(|| (Vec::new(), Vec::new(), 0));
        *length += bytes.len();
        head.extend_from_slice(&bytes[..bytes.len().min(ENDS - head.len().min(ENDS))]);
        tail.extend_from_slice(&bytes[bytes.len().saturating_sub(ENDS)..]);
        tail.drain(..tail.len().saturating_sub(ENDS));
        self.start = end;
        self.searched = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(lines: &mut Lines, bytes: &[u8]) -> Vec<String> {
        lines.push(bytes);
        let mut out = Vec::new();
        while let Some(line) = lines.take() {
            out.push(match line {
                Line::Whole(l) => String::from_utf8_lossy(l).into_owned(),
                Line::Cut { length, head, tail } => format!("{length} {}..{}", head.len(), tail.len()),
            });
        }
        out
    }

    #[test]
    fn lines_in_any_pieces_and_none_too_long() {
        let mut lines = Lines::new(1000);
        assert_eq!(feed(&mut lines, b"a\nb"), ["a"]);
        assert_eq!(feed(&mut lines, b"c\n\nd"), ["bc", ""]);
        assert_eq!(feed(&mut lines, &[b'x'; 999]), [""; 0]);
        assert_eq!(feed(&mut lines, b"\n"), [format!("d{}", "x".repeat(999))]);
        for _ in 0..5 {
            assert_eq!(feed(&mut lines, &[b'y'; 900]), [""; 0]);
            assert!(lines.end < 2000);
        }
        assert_eq!(feed(&mut lines, b"z\nok\n"), ["4501 256..256", "ok"]);
        feed(&mut lines, b"end");
        assert!(matches!(lines.last(), Some(Line::Whole(b"end"))));
        assert!(lines.last().is_none());
    }
}
