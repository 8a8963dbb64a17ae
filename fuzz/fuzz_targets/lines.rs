//! Any bytes from a child, in any pieces: the lines are those that a split at line feeds gives, and memory is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpdaemon::model::lost_reply::id_in_pieces;
use mcpdaemon::rt::lines::{Line, Lines};

fuzz_target!(|data: &[u8]| {
    let Some((settings, bytes)) = data.split_first_chunk::<2>() else { return };
    let (limit, step) = (usize::from(settings[0]) * 8, usize::from(settings[1]) + 1);
    let mut lines = Lines::new(limit);
    let mut found: Vec<(usize, Option<Vec<u8>>)> = Vec::new();
    let mut note = |line: Line<'_>| match line {
        Line::Whole(line) => found.push((line.len(), Some(line.to_vec()))),
        Line::Cut { head, tail, length } => {
            let _ = id_in_pieces(&head, &tail);
            assert!(length > limit && head.len() <= 256 && tail.len() <= 256);
            found.push((length, None));
        }
    };
    for piece in bytes.chunks(step) {
        lines.push(piece);
        while let Some(line) = lines.take() {
            note(line);
        }
    }
    while let Some(line) = lines.last() {
        note(line);
    }
    let mut expected: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    if expected.last().is_some_and(|l| l.is_empty()) {
        expected.pop();
    }
    assert_eq!(found.len(), expected.len());
    for ((length, line), expected) in found.iter().zip(expected) {
        assert_eq!(*length, expected.len());
        assert!(line.as_ref().is_none_or(|l| l == expected));
    }
});
