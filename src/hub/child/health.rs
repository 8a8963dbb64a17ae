//! Whether a child still answers, and whether it is still used.
//!
//! It is asked in its own session, because a question on another line says nothing of this one.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::child::Child;
use crate::model::config::server::Health;
use crate::model::{method, modern};
use crate::rt::wait::{millis, paused, sleep, timeout_awake};
use crate::sys::process;

/// What a look at a child has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pong {
    /// It said something: an answer, even an error, or anything else.
    Heard,
    /// It left the question unanswered.
    Missed,
}

/// Waits for the next look, and looks; for ever where it is not to be asked. A child that has spoken lately is left
/// alone, unless its health is `doubted`.
pub(crate) async fn ping(child: &Child, health: Option<&Health>, doubted: bool) -> Pong {
    let Some(health) = health else { return std::future::pending().await };
    loop {
        let since = if doubted { Duration::ZERO } else { child.silent_for() };
        sleep(health.interval.saturating_sub(since)).await;
        if !doubted && child.silent_for() < health.interval {
            continue;
        }
        if answers(child, health.timeout).await {
            return Pong::Heard;
        }
        if !is_busy(child) {
            return Pong::Missed;
        }
        sleep(health.interval).await;
    }
}

/// Whether it answers in time, or says anything else meanwhile, or at least reads what it was sent before.
async fn answers(child: &Child, limit: Duration) -> bool {
    let question = async {
        let _ = match child.is_modern() {
            // There is no ping any more (2026-07-28 changelog).
            true => child.ask(method::DISCOVER, Some(&modern::own_meta(env!("CARGO_PKG_VERSION")))).await,
            false => child.ask(method::PING, None).await,
        };
    };
    let (before, begin) = (child.written.load(Relaxed), Instant::now());
    let answered = timeout_awake(limit, question).await.is_some();
    // It reads, and has not come to the question yet: clients may have sent much before it.
    let reads = child.stdin.is_behind() && child.written.load(Relaxed) > before;
    // While everything is at rest, what it says is not read.
    answered || reads || child.silent_for() < begin.elapsed() || child.is_frozen()
}

/// A child that works on a request and does nothing beside it is busy, not hung, for as long as the request itself may
/// take. One that was stopped (SIGSTOP) works on nothing.
fn is_busy(child: &Child) -> bool {
    !child.load.is_quiet()
        && child.silent_for() < child.config().request_timeout
        && !child.pid().is_some_and(process::is_stopped)
}

/// Waits until a child was not used for `idle`, and nothing of it is `needed`; for ever where it may be idle.
pub(crate) async fn unused(child: &Child, idle: Option<Duration>, needed: impl Fn() -> bool) {
    let Some(idle) = idle else { return std::future::pending().await };
    loop {
        let rest = idle.saturating_sub(child.unused_for());
        if rest.is_zero() && !needed() {
            return;
        }
        // What holds it without a request is looked at again.
        let (begin, wait) = (Instant::now(), rest.max(idle / 10).max(Duration::from_millis(10)));
        sleep(wait).await;
        if let Some(late) = paused(begin, wait) {
            // The daemon slept: no client could use the child meanwhile.
            let used_at = child.used_at.load(Relaxed).saturating_add(late.as_millis() as u64);
            child.used_at.store(used_at.min(millis()), Relaxed);
        }
    }
}
