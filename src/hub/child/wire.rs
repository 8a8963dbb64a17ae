//! Messages as lines, the form that a child reads and writes (basic/transports, stdio).

use crate::model::envelope::{self, Envelope, Span};

/// One message as one line.
pub(crate) fn append(buffer: &mut Vec<u8>, e: &Envelope<'_>, changes: &[(Span, &str)]) {
    let start = buffer.len();
    envelope::splice(buffer, e.text(), changes);
    if e.multiline {
        envelope::on_one_line(&mut buffer[start..]);
    }
    buffer.push(b'\n');
}

/// The text of a message, without line ends between its tokens: a carriage return would end a line of an event stream.
pub(crate) fn one_line(e: &Envelope<'_>, text: String) -> String {
    if !e.multiline {
        return text;
    }
    text.replace(['\r', '\n'], " ")
}
