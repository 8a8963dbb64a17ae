//! Small plots of the last hour, as SVG that needs no script.
//!
//! Each minute is a column of ten units in a picture of 600 by 100; colours are the style sheet's. A minute in
//! which it was not looked at is a gap. What a plot shows is also said in words: in its label, and for each minute as its title.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::words::{bytes, number, time};
use crate::model::history::{MINUTES, Point};

/// The hour of a server or of the instance; a place for each minute, the running one last.
pub(super) type Hour = [Option<Point>];

const COLUMN: usize = 10;
const HEIGHT: f64 = 100.0;
/// How high the highest value stands: a line has a width, too.
const TOP: f64 = 97.0;

/// The three plots of something; each minute has a title where it is to have `words`, which take their room.
pub(super) fn plots(of: &str, hour: &Hour, words: bool) -> Markup {
    let now = hour.last().copied().flatten().unwrap_or_default();
    let most = |read: fn(&Point) -> u64| hour.iter().flatten().map(read).max().unwrap_or(0);
    let (requests, errors) = (most(|p| p.requests), hour.iter().flatten().map(|p| p.errors).sum::<u64>());
    let (slowest, memory) = (most(|p| p.p95), most(|p| p.memory));
    let said = format!("this minute {}, most {}, {} failed in the hour", now.requests, requests, errors);
    let answered = |p: &Point| p.requests.saturating_sub(p.errors);
    let bars = html! {
        path.ok d=(bars(hour, |p| (0.0, share(answered(p), requests)))) {}
        path.failed d=(bars(hour, |p| (share(answered(p), requests), share(p.requests, requests)))) {}
    };
    let title = |p: &Point| format!("{} requests, {} failed", number(p.requests), number(p.errors));
    let key = html! { i.ok {} " answered " i.failed {} " failed" };
    let first = figure(
        (of, "Requests a minute"),
        key,
        &number(requests),
        &said,
        html! { (bars) @if words { (titles(hour, title)) } },
    );
    let said = format!("this minute p50 {}, p95 {}; worst {}", time(now.p50), time(now.p95), time(slowest));
    let lines = html! {
        path.p95 d=(steps(hour, |p| (p.requests > 0).then(|| share(p.p95, slowest)), false)) {}
        path.p50 d=(steps(hour, |p| (p.requests > 0).then(|| share(p.p50, slowest)), false)) {}
    };
    let title = |p: &Point| format!("p50 {}, p95 {}", time(p.p50), time(p.p95));
    let key = html! { i.p50 {} " p50 " i.p95 {} " p95" };
    let second = figure(
        (of, "Time to the answer"),
        key,
        &time(slowest),
        &said,
        html! { (lines) @if words { (titles(hour, title)) } },
    );
    let said = format!("now {}, most {}", bytes(now.memory), bytes(memory));
    let area = html! { path.memory d=(steps(hour, |p| Some(share(p.memory, memory)), true)) {} };
    let title = |p: &Point| bytes(p.memory);
    let third =
        figure((of, "Memory"), html! {}, &bytes(memory), &said, html! { (area) @if words { (titles(hour, title)) } });
    html! { div.plots { (first) (second) (third) } }
}

/// How high a value is.
fn share(value: u64, most: u64) -> f64 {
    if most == 0 { 0.0 } else { value as f64 / most as f64 * TOP }
}

/// From the top, as SVG counts.
fn down(height: f64) -> f64 {
    ((HEIGHT - height) * 10.0).round() / 10.0
}

fn figure((of, what): (&str, &str), key: Markup, top: &str, said: &str, inside: Markup) -> Markup {
    html! {
        figure {
            figcaption { b { (what) } span.key aria-hidden="true" { (key) } span.said { (said) } }
            div.plot {
                svg viewBox=(format!("0 0 {} {HEIGHT}", MINUTES * COLUMN)) preserveAspectRatio="none" role="img"
                    aria-label=(format!("{what} of {of} over the last hour: {said}")) { (inside) }
                span.top aria-hidden="true" { (top) }
            }
            div.axis aria-hidden="true" { span.from { "60 min ago" } span { "now" } }
        }
    }
}

/// A bar for each minute, from one height to another; none where these are the same.
fn bars(hour: &Hour, between: impl Fn(&Point) -> (f64, f64)) -> String {
    let mut out = String::new();
    for (n, point) in hour.iter().enumerate() {
        if let Some((from, to)) = point.as_ref().map(&between).filter(|(from, to)| from < to) {
            let (left, right) = (n * COLUMN + 1, (n + 1) * COLUMN - 1);
            let _ = write!(out, "M{left} {}V{}H{right}V{}Z", down(from), down(to), down(from));
        }
    }
    out
}

/// An invisible column for each minute, which says what it is about when one points at it.
fn titles(hour: &Hour, say: impl Fn(&Point) -> String) -> Markup {
    html! {
        @for (n, point) in hour.iter().enumerate() {
            @if let Some(point) = point {
                rect.minute x=(n * COLUMN) width=(COLUMN) height=(HEIGHT) {
                    title { (ago(hour.len() - 1 - n)) ": " (say(point)) }
                }
            }
        }
    }
}

fn ago(minutes: usize) -> String {
    match minutes {
        0 => "this minute".to_owned(),
        n => format!("{n} min ago"),
    }
}

/// A line with a level step for each minute, broken where there is none; down to the ground where it is `closed`.
fn steps(hour: &Hour, height: impl Fn(&Point) -> Option<f64>, closed: bool) -> String {
    let mut out = String::new();
    let mut open = false;
    for (n, point) in hour.iter().chain([&None]).enumerate() {
        let x = n * COLUMN;
        match point.as_ref().and_then(&height).map(down) {
            Some(y) => {
                let _ = match (open, closed) {
                    (true, _) => write!(out, "V{y}H{}", x + COLUMN),
                    (false, true) => write!(out, "M{x} {HEIGHT}V{y}H{}", x + COLUMN),
                    (false, false) => write!(out, "M{x} {y}H{}", x + COLUMN),
                };
                open = true;
            }
            None => {
                if open && closed {
                    let _ = write!(out, "V{HEIGHT}Z");
                }
                open = false;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(requests: u64, errors: u64, p95: u64, memory: u64) -> Option<Point> {
        Some(Point { requests, errors, p50: p95 / 2, p95, memory, sessions: 0 })
    }

    #[test]
    fn a_line_is_broken_where_nobody_looked_and_a_single_minute_is_to_be_seen() {
        let hour = [point(1, 0, 10, 5), None, point(1, 0, 5, 10), point(1, 0, 10, 10)];
        assert_eq!(steps(&hour, |p| Some(share(p.p95, 10)), false), "M0 3H10M20 51.5H30V3H40");
        assert_eq!(steps(&hour, |p| Some(share(p.memory, 10)), true), "M0 100V51.5H10V100ZM20 100V3H30V3H40V100Z");
        assert_eq!(steps(&[None], |_| Some(1.0), true), "");
    }

    #[test]
    fn a_plot_says_in_words_what_it_shows() {
        let mut hour = vec![None; 60];
        hour[58] = point(10, 2, 1500, 1 << 20);
        hour[59] = point(5, 5, 2_000_000, 3 << 20);
        let text = plots("prod", &hour, true).into_string();
        for wanted in [
            "aria-label=\"Requests a minute of prod over the last hour: this minute 5, most 10, 7 failed in the hour\"",
            "<title>1 min ago: 10 requests, 2 failed</title>",
            "this minute p50 1.0 s, p95 2.0 s; worst 2.0 s",
            "now 3.0 MiB, most 3.0 MiB",
            "<path class=\"ok\" d=\"M581 100V22.4H589V100Z\">",
            "<path class=\"failed\" d=\"M581 22.4V3H589V22.4ZM591 100V51.5H599V100Z\">",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in {text}");
        }
        // Nothing at all is no reason to fail.
        assert!(plots("x", &[], false).into_string().contains("<svg"));
    }
}
