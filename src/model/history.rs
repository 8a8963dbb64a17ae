//! The last hour, a point a minute, for the plots of the page.
//!
//! The ring has a fixed size, and is told the time. It must not know where the numbers come from.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// How many minutes are kept.
pub const MINUTES: usize = 60;

/// One minute of one server, or of the instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub requests: u64,
    pub errors: u64,
    /// Microseconds.
    pub p50: u64,
    pub p95: u64,
    /// At the end of the minute: resident bytes of the processes, and open sessions.
    pub memory: u64,
    pub sessions: u64,
}

/// One minute of everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Counted from the start of the instance.
    pub number: u64,
    pub all: Point,
    pub servers: BTreeMap<String, Point>,
}

/// The ring.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History(VecDeque<Minute>);

impl History {
    /// Adds a minute that is over.
    pub fn push(&mut self, minute: Minute) {
        if self.0.back().is_some_and(|last| last.number >= minute.number) {
            return;
        }
        self.0.push_back(minute);
        while self.0.len() > MINUTES {
            self.0.pop_front();
        }
    }

    /// The hour up to the minute `running`, which may not be over: a place for each minute, the oldest first, and None
    /// where the instance was not looked at. `read` picks whose point it is.
    pub fn hour(&self, running: &Minute, read: impl Fn(&Minute) -> Option<Point>) -> Vec<Option<Point>> {
        let mut places = vec![None; MINUTES];
        for minute in self.0.iter().chain([running]) {
            let ago = running.number.checked_sub(minute.number).and_then(|ago| usize::try_from(ago).ok());
            if let Some(ago) = ago.filter(|ago| *ago < MINUTES) {
                places[MINUTES - 1 - ago] = read(minute);
            }
        }
        places
    }

    /// The number of the last minute that is kept.
    pub fn last(&self) -> Option<u64> {
        self.0.back().map(|minute| minute.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(number: u64) -> Minute {
        Minute { number, all: Point { requests: number, ..Point::default() }, ..Minute::default() }
    }

    #[test]
    fn an_hour_is_kept_and_gaps_are_gaps() {
        let mut history = History::default();
        for number in [1, 2, 2, 1, 5] {
            history.push(minute(number));
        }
        let requests = |history: &History, running| {
            let all = history.hour(&minute(running), |m| Some(m.all));
            all.into_iter().map(|p| p.map(|p| p.requests)).collect::<Vec<_>>()
        };
        let hour = requests(&history, 6);
        assert_eq!(hour.len(), MINUTES);
        assert_eq!(hour[54..], [Some(1), Some(2), None, None, Some(5), Some(6)]);
        assert!(hour[..54].iter().all(Option::is_none));
        // The running one is not told twice.
        assert_eq!(requests(&history, 5)[57..], [None, None, Some(5)]);
        for number in 6..200 {
            history.push(minute(number));
        }
        assert_eq!((history.0.len(), history.last()), (MINUTES, Some(199)));
        assert!(requests(&history, 200).iter().all(Option::is_some));
        assert!(requests(&history, 400)[..59].iter().all(Option::is_none));
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }
}
