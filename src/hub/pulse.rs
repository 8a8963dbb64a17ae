//! Whether a child still answers, and whether anybody still uses it.
//!
//! It is asked in its own session, because a question on another line says nothing of this one.

use std::time::Duration;

use super::link::Link;
use crate::model::config::server::Health;
use crate::model::modern;
use crate::rt::wait::{sleep, within};
use crate::sys::process;

/// What a look at a child has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It said something: an answer, even an error, or anything else.
    Heard,
    /// It left the question unanswered.
    Missed,
}

/// Waits for the next look, and looks; for ever where nobody is to be asked. Whoever has spoken lately is left alone,
/// unless its health is `doubted`.
pub async fn beat(link: &Link, health: Option<&Health>, doubted: bool) -> Beat {
    let Some(health) = health else { return std::future::pending().await };
    loop {
        let since = if doubted { Duration::ZERO } else { link.silent_for() };
        sleep(health.interval.saturating_sub(since)).await;
        if !doubted && link.silent_for() < health.interval {
            continue;
        }
        if ask(link, health.timeout).await {
            return Beat::Heard;
        }
        if !is_busy(link) {
            return Beat::Missed;
        }
        sleep(health.interval).await;
    }
}

/// Whether it answers in time, or says anything else meanwhile.
async fn ask(link: &Link, timeout: Duration) -> bool {
    let question = async {
        let _ = match link.is_modern() {
            // There is no ping any more (2026-07-28 changelog).
            true => link.ask("server/discover", Some(&modern::own_meta(env!("CARGO_PKG_VERSION")))).await,
            false => link.ask("ping", None).await,
        };
    };
    let answered = within(timeout, question).await.is_some();
    // While everything is at rest, nobody reads what it says.
    answered || link.silent_for() < timeout || link.is_frozen()
}

/// A child that works on a request and does nothing beside it is busy, not hung, for as long as the request itself may
/// take. One that was stopped (SIGSTOP) works on nothing.
fn is_busy(link: &Link) -> bool {
    link.waiting() > 0 && link.silent_for() < link.request_timeout() && !process::is_stopped(link.pid)
}

/// Waits until a child has left more questions in a row unanswered than it may.
pub async fn hung(link: &Link, health: Option<&Health>) {
    let mut missed = 0;
    while health.is_none_or(|h| missed < h.failures) {
        match beat(link, health, missed > 0).await {
            Beat::Heard => missed = 0,
            Beat::Missed => missed += 1,
        }
    }
}

/// Waits until nobody has used a child for `idle`, and nothing of it is `needed`; for ever where it may be idle.
pub async fn unused(link: &Link, idle: Option<Duration>, needed: impl Fn() -> bool) {
    let Some(idle) = idle else { return std::future::pending().await };
    loop {
        let rest = idle.saturating_sub(link.unused_for());
        if rest.is_zero() && !needed() {
            return;
        }
        // What holds it without a request is looked at again.
        sleep(rest.max(idle / 10).max(Duration::from_millis(10))).await;
    }
}
