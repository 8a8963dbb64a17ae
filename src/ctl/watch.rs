//! `mcpctl status --watch`: looks at instances again and again, until none of them runs.
//!
//! On a terminal it is one picture that is drawn anew; elsewhere, and with `--json`, a line for each change. The daemon
//! is not asked for more than its status file.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::place::{ANSWER, Age, Asked, Found, Place, say};
use super::report::{describe, document, exit, whole};
use crate::cli;
use crate::model::changes::{Seen, changes};
use crate::model::exit::{Exit, Failure, plain};
use crate::model::text::printable;
use crate::sys::clock;
use crate::sys::pidfile::Probe;
use crate::sys::watch::{Watch, Woken, die_of, terminal_size};

/// Numbers on a screen shall move, and not every folder tells of its changes.
const EVERY: Duration = Duration::from_secs(1);
/// Where changes alone are shown, it is asked this often whether an instance still answers.
const NOW_AND_THEN: Duration = Duration::from_secs(5);
/// What would leave a terminal as it is.
const SIGNALS: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGWINCH];

pub(super) fn run(place: &Place, args: &cli::Status) -> Result<Exit, Failure> {
    let able = std::env::var("TERM").is_ok_and(|term| !term.is_empty() && term != "dumb");
    let outcome = match io::stdout().is_terminal() && able && !args.json {
        true => picture(place, args),
        false => lines(place, args),
    };
    outcome.unwrap_or_else(|e| Err(Failure::new(Exit::Failed, format!("mcpctl status: cannot watch: {}", plain(&e)))))
}

/// All instances at one moment; those that were seen before are kept in sight.
struct Look(BTreeMap<String, Result<Found, Failure>>);

impl Look {
    fn take<'n>(
        place: &Place,
        args: &cli::Status,
        before: impl IntoIterator<Item = &'n String>,
    ) -> Result<Look, Failure> {
        let mut names = if args.names.is_empty() { place.names()? } else { args.names.clone() };
        names.extend(before.into_iter().cloned());
        let mut all = BTreeMap::new();
        for name in names {
            let found = steady(place, &name);
            if let Err(failure) = &found
                && failure.exit == Exit::CtlUsage
            {
                return Err(failure.clone());
            }
            all.insert(name, found);
        }
        Ok(Look(all))
    }

    /// The worst status, once none of them runs.
    fn over(&self) -> Option<Exit> {
        let exits = self.0.values().map(exit);
        let worst = exits.clone().max_by_key(|exit| exit.code());
        let runs = |found: &Found| matches!(found.probe, Probe::Running(..) | Probe::Elsewhere(_) | Probe::Starting);
        worst.filter(|_| !self.0.values().flatten().any(runs))
    }

    fn text(&self) -> String {
        let one = |found: &Result<Found, Failure>| match found {
            Ok(found) => describe(found),
            Err(failure) => failure.text.clone(),
        };
        self.0.values().map(one).map(|text| text.trim_end().to_owned()).collect::<Vec<_>>().join("\n\n")
    }

    fn json(&self) -> String {
        let all: Vec<_> = self.0.iter().map(|(name, found)| document(name, found)).collect();
        whole(&all).to_string()
    }

    /// Says of those who do not answer that they do not.
    fn judge(&mut self, questions: &Questions) {
        for (name, found) in &mut self.0 {
            let (Some((at, asked)), Ok(found)) = (questions.0.get(name), found) else { continue };
            let silent = at.elapsed() >= ANSWER && !asked.is_answered_by(found.status.as_ref());
            if silent && matches!(found.probe, Probe::Running(..)) {
                found.age = Age::Silent;
            }
        }
    }
}

/// The questions that were asked last, each of a time.
#[derive(Default)]
struct Questions(BTreeMap<String, (Instant, Asked)>);

impl Questions {
    /// Asks for fresh numbers, which come with a change of the file; who has not answered yet is not asked again.
    fn ask(&mut self, look: &mut Look) {
        for (name, found) in &mut look.0 {
            let Ok(found) = found else { continue };
            let open = self.0.get(name).is_some_and(|(_, asked)| !asked.is_answered_by(found.status.as_ref()));
            if !open && let Some(asked) = found.ask() {
                self.0.insert(name.clone(), (Instant::now(), asked));
            }
        }
        self.0.retain(|name, _| look.0.get(name).is_some_and(Result::is_ok));
    }
}

/// An instance, not in the moment when it has its lock and no status file: at its start, and at its end.
fn steady(place: &Place, name: &str) -> Result<Found, Failure> {
    let mut found = place.find(name)?;
    for _ in 0..20 {
        match (&found.probe, &found.status) {
            (Probe::Running(..) | Probe::Elsewhere(_), None) => std::thread::sleep(Duration::from_millis(10)),
            _ => break,
        }
        found = place.find(name)?;
    }
    Ok(found)
}

fn seen(found: &Result<Found, Failure>) -> Seen {
    let found = match found {
        Ok(found) => found,
        Err(failure) => return Seen::Unknown(failure.text.clone()),
    };
    match (&found.probe, &found.status) {
        (Probe::Absent, _) => Seen::NotRunning,
        (Probe::Stale, _) => Seen::Dead,
        (Probe::Starting, _) => Seen::Starting,
        (Probe::Running(pid, _) | Probe::Elsewhere(pid), None) => Seen::Silent(pid.as_raw()),
        (Probe::Running(pid, _), _) if found.age == Age::Silent => Seen::Hangs(pid.as_raw()),
        (_, Some(status)) => Seen::Running(Box::new(status.clone())),
    }
}

/// A line for each change, or a document.
fn lines(place: &Place, args: &cli::Status) -> io::Result<Result<Exit, Failure>> {
    let watch = Watch::new(&place.folders(), &[])?;
    let mut before: BTreeMap<String, Seen> = BTreeMap::new();
    let (mut questions, mut asked) = (Questions::default(), Instant::now());
    loop {
        let mut look = match Look::take(place, args, before.keys()) {
            Ok(look) => look,
            Err(failure) => return Ok(Err(failure)),
        };
        look.judge(&questions);
        if asked.elapsed() >= NOW_AND_THEN {
            questions.ask(&mut look);
            asked = Instant::now();
        }
        let now = clock::now();
        let mut lines = Vec::new();
        for (name, found) in &look.0 {
            let new = seen(found);
            let changed = changes(before.get(name), &new);
            lines.extend(changed.iter().map(|line| format!("{now} {name}: {}", printable(line, usize::MAX))));
            before.insert(name.clone(), new);
        }
        if args.json && !lines.is_empty() {
            lines = vec![look.json()];
        }
        if !lines.iter().all(|line| say(line)) {
            return Ok(Ok(Exit::Ok));
        }
        if let Some(exit) = look.over() {
            return Ok(Ok(exit));
        }
        if watch.wait(EVERY)? == Woken::Unread {
            return Ok(Ok(Exit::Ok));
        }
    }
}

/// One picture on a terminal.
fn picture(place: &Place, args: &cli::Status) -> io::Result<Result<Exit, Failure>> {
    let watch = Watch::new(&place.folders(), &SIGNALS)?;
    let mut screen = Screen::enter()?;
    let mut look = Look(BTreeMap::new());
    let mut asked: Option<Instant> = None;
    let mut questions = Questions::default();
    loop {
        look = match Look::take(place, args, look.0.keys()) {
            Ok(look) => look,
            Err(failure) => return Ok(Err(failure)),
        };
        if let Some(exit) = look.over() {
            drop(screen);
            say(&look.text());
            return Ok(Ok(exit));
        }
        look.judge(&questions);
        draw(&look.text())?;
        if asked.is_none_or(|at| at.elapsed() >= EVERY) {
            questions.ask(&mut look);
            asked = Some(Instant::now());
        }
        match watch.wait(EVERY)? {
            Woken::Look | Woken::Signal(Signal::SIGWINCH) => {}
            Woken::Unread => return Ok(Ok(Exit::Ok)),
            Woken::Signal(signal) => {
                drop(screen);
                // It ends here, unless it was stopped, or the signal is ignored.
                die_of(signal)?;
                screen = Screen::enter()?;
            }
        }
    }
}

/// The terminal's second screen, without a cursor and without line breaks of its own; given back when this is dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Screen> {
        put("\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(Screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = put("\x1b[?7h\x1b[?25h\x1b[?1049l");
    }
}

fn draw(text: &str) -> io::Result<()> {
    let (rows, _) = terminal_size().unwrap_or((24, 80));
    put(&frame(text, rows.into()))
}

/// A picture of so many lines at most, over the one before. The terminal cuts what is too wide.
fn frame(text: &str, rows: usize) -> String {
    let mut lines: Vec<String> = text.lines().map(|line| printable(line, usize::MAX)).collect();
    if lines.len() > rows {
        let more = lines.len() + 1 - rows;
        lines.truncate(rows - 1);
        lines.push(format!("... {more} more lines"));
    }
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_terminal_gets_what_fits() {
        assert_eq!(frame("a\nb", 2), "\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J");
        assert_eq!(frame("a\nb\nc", 2), "\x1b[Ha\x1b[K\r\n... 2 more lines\x1b[K\x1b[J");
        assert_eq!(frame("a\nb", 1), "\x1b[H... 2 more lines\x1b[K\x1b[J");
        assert_eq!(frame("evil \x1b[2J", 5), "\x1b[Hevil \\u{1b}[2J\x1b[K\x1b[J");
    }
}
