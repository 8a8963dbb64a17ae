//! Documents that another process has written: the status as mcpctl reads it, the handover as the next program does, lines of
//! a log. A document that is read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpdaemon::model::changes::{Seen, changes};
use mcpdaemon::model::handover::Handover;
use mcpdaemon::model::logline;
use mcpdaemon::model::status::Status;

fuzz_target!(|data: &[u8]| {
    if let Ok(status) = serde_json::from_slice::<Status>(data) {
        let again: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        let _ = format!("{again:?}");
        let _ = changes(Some(&Seen::Running(Box::new(status))), &Seen::Running(Box::new(again)));
    }
    if let Ok(handover) = serde_json::from_slice::<Handover>(data) {
        let text = serde_json::to_string(&handover).unwrap();
        let again: Handover = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
    let text = String::from_utf8_lossy(data);
    let _ = logline::last_words(text.lines(), "time");
    for line in text.lines() {
        let _ = logline::mentions(line, "time");
    }
});
