//! When a child that ended is started again.
//!
//! Back-off doubles from `delay` to `max_delay` with full jitter, and starts over once the child has been ready for
//! [`STABLE`]. More than `burst` ends within its window lead to slow retries every [`SLOW`]: never to "given up".
//! Exit statuses 78 (EX_CONFIG, sysexits(3)) and 125 (the finish convention of s6-supervise) mean that trying again
//! is of no use before the configuration changes. Time and chance come in as arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Ready this long, a child counts as well again.
pub const STABLE: Duration = Duration::from_secs(10);
/// The pace of retries once the burst limit is reached.
pub const SLOW: Duration = Duration::from_secs(300);

/// Which ends are followed by a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Always,
    /// After any end but exit status 0.
    OnFailure,
    Never,
}

/// The `restart:` section of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub mode: Mode,
    pub delay: Duration,
    pub max_delay: Duration,
    /// This many ends ...
    pub burst: u32,
    /// ... within this time lead to slow retries.
    pub window: Duration,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signaled(i32),
    /// It was never started, or it did not answer its handshake.
    NotReady,
    /// The server is elsewhere, and could not be reached any more.
    Lost,
    /// The server is elsewhere, and its session was closed from here.
    Closed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start after this time.
    After(Duration),
    /// Start after this time; the burst limit is reached, the server counts as failed meanwhile.
    Slow(Duration),
    /// Not before the configuration changes, and why.
    Never(&'static str),
}

/// The memory of one server's ends.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Ends since the child was last stable.
    row: u32,
    recent: VecDeque<Instant>,
    ready: Option<Instant>,
    /// The burst limit was reached, and no child has been stable since.
    slow: bool,
}

impl History {
    /// The child answered its handshake.
    pub fn ready(&mut self, now: Instant) {
        self.ready = Some(now);
    }

    /// The child ended. `chance` is uniform in 0..1.
    pub fn ended(&mut self, policy: &Policy, how: Ended, now: Instant, chance: f64) -> Next {
        let stable = self.ready.take().is_some_and(|since| now.saturating_duration_since(since) >= STABLE);
        if stable {
            self.row = 0;
            self.recent.clear();
            self.slow = false;
        }
        match (how, policy.mode) {
            (Ended::Exited(78), _) => return Next::Never("exit status 78: its configuration is wrong"),
            (Ended::Exited(125), _) => return Next::Never("exit status 125: it asks not to be started again"),
            (_, Mode::Never) => return Next::Never("restart policy Never"),
            (Ended::Exited(0), Mode::OnFailure) => return Next::Never("restart policy OnFailure, and exit status 0"),
            _ => {}
        }
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|t| now.saturating_duration_since(*t) > policy.window) {
            self.recent.pop_front();
        }
        self.slow |= self.recent.len() > policy.burst as usize;
        if self.slow {
            return Next::Slow(SLOW.max(policy.max_delay));
        }
        let ceiling = policy.delay.saturating_mul(1 << self.row.min(20)).min(policy.max_delay);
        self.row += 1;
        // Half is kept so that a jitter near zero cannot make a crash loop spin.
        Next::After(ceiling / 2 + ceiling.mul_f64(chance.clamp(0.0, 1.0)) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: Mode) -> Policy {
        Policy {
            mode,
            delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(60),
            burst: 5,
            window: Duration::from_secs(60),
        }
    }

    #[test]
    fn which_end_is_followed_by_a_start() {
        use Ended::*;
        let now = Instant::now();
        for (mode, how, starts) in [
            (Mode::Always, Exited(0), true),
            (Mode::Always, Exited(1), true),
            (Mode::Always, Signaled(9), true),
            (Mode::Always, Exited(78), false),
            (Mode::Always, Exited(125), false),
            (Mode::OnFailure, Exited(0), false),
            (Mode::OnFailure, Exited(1), true),
            (Mode::OnFailure, Signaled(15), true),
            (Mode::OnFailure, NotReady, true),
            (Mode::Never, Exited(1), false),
            (Mode::Never, NotReady, false),
        ] {
            let next = History::default().ended(&policy(mode), how, now, 0.5);
            assert_eq!(matches!(next, Next::After(_)), starts, "{mode:?} {how:?}: {next:?}");
        }
    }

    #[test]
    fn the_delay_doubles_to_its_maximum_and_starts_over_when_stable() {
        let mut policy = policy(Mode::Always);
        policy.burst = 100;
        let (mut h, mut now) = (History::default(), Instant::now());
        let mut seen = Vec::new();
        for _ in 0..9 {
            match h.ended(&policy, Ended::Exited(1), now, 1.0) {
                Next::After(d) => seen.push(d.as_millis()),
                other => panic!("{other:?}"),
            }
            now += Duration::from_secs(1);
        }
        assert_eq!(seen, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        h.ready(now);
        now += STABLE - Duration::from_millis(1);
        assert_eq!(h.ended(&policy, Ended::Exited(1), now, 1.0), Next::After(Duration::from_secs(60)));
        h.ready(now);
        now += STABLE;
        assert_eq!(h.ended(&policy, Ended::Exited(1), now, 1.0), Next::After(Duration::from_millis(500)));
        assert_eq!(
            History::default().ended(&policy, Ended::Exited(1), now, 0.0),
            Next::After(Duration::from_millis(250))
        );
    }

    #[test]
    fn a_burst_leads_to_slow_retries_until_a_child_is_stable() {
        let policy = policy(Mode::Always);
        let (mut h, start) = (History::default(), Instant::now());
        for i in 0..5 {
            assert!(matches!(h.ended(&policy, Ended::Exited(1), start + Duration::from_secs(i), 0.0), Next::After(_)));
        }
        let sixth = start + Duration::from_secs(6);
        assert_eq!(h.ended(&policy, Ended::Exited(1), sixth, 0.0), Next::Slow(SLOW));
        assert_eq!(h.ended(&policy, Ended::Exited(1), sixth + SLOW, 0.0), Next::Slow(SLOW));
        h.ready(sixth + SLOW);
        assert!(matches!(h.ended(&policy, Ended::Exited(1), sixth + SLOW + STABLE, 0.0), Next::After(_)));
    }
}
