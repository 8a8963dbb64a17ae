//! How late a refused token is answered: later with each one that comes from the same place, for who guesses tokens has to
//! guess many.
//!
//! Pure: addresses and times come in as arguments. Who waits, and that a good token never does, is not known here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The second refusal waits so long, each further one twice as long as the one before.
const FIRST: Duration = Duration::from_millis(50);
/// None waits longer.
const LONGEST: Duration = Duration::from_secs(2);
/// Refusals are forgotten once there was none for so long.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Refusals of so many places are remembered.
const PLACES: usize = 1024;

/// The tokens that were refused lately, by where they came from.
#[derive(Default)]
pub struct Refusals(HashMap<Option<IpAddr>, Refused>);

struct Refused {
    times: u32,
    last: Instant,
}

impl Refusals {
    /// Counts one more refusal, and gives how long its answer waits. `from` is None for this host.
    pub fn delay(&mut self, from: Option<IpAddr>, now: Instant) -> Duration {
        let is_recent = |one: &Refused| now.saturating_duration_since(one.last) < FORGOTTEN;
        let place = from.map(network);
        if !self.0.contains_key(&place) && self.0.len() >= PLACES {
            self.0.retain(|_, one| is_recent(one));
            let oldest = self.0.iter().min_by_key(|(_, one)| one.last).map(|(place, _)| *place);
            if let Some(oldest) = oldest.filter(|_| self.0.len() >= PLACES) {
                self.0.remove(&oldest);
            }
        }
        let one = self.0.entry(place).or_insert(Refused { times: 0, last: now });
        one.times = if is_recent(one) { one.times.saturating_add(1) } else { 1 };
        one.last = now;
        match one.times {
            1 => Duration::ZERO,
            times => FIRST.saturating_mul(1 << (times - 2).min(16)).min(LONGEST),
        }
    }
}

/// The place of an address: in IPv6 everybody has a network of 64 bits to choose from (RFC 4291, section 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_waits_longer_up_to_a_bound_and_is_forgotten_after_a_minute() {
        let (mut refusals, begin) = (Refusals::default(), Instant::now());
        let waits: Vec<u128> = (0..9).map(|_| refusals.delay(None, begin).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert!((0..100).all(|_| refusals.delay(None, begin) == LONGEST));
        assert_eq!(refusals.delay(None, begin + FORGOTTEN / 2), LONGEST);
        assert_eq!(refusals.delay(None, begin + FORGOTTEN * 2), Duration::ZERO);
    }

    #[test]
    fn places_are_counted_each_for_itself_and_a_network_of_ipv6_is_one() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let mut is_late = |ip: &str| !refusals.delay(Some(ip.parse().unwrap()), now).is_zero();
        assert!(!is_late("192.0.2.1") && !is_late("192.0.2.2") && is_late("::ffff:192.0.2.1"));
        assert!(!is_late("2001:db8::1") && is_late("2001:db8::ffff:1") && !is_late("2001:db8:0:1::1"));
        assert!(refusals.delay(None, now).is_zero());
    }

    #[test]
    fn many_places_take_no_more_memory_than_some() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for n in 0..10_000_u32 {
            let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            refusals.delay(Some(ip), now + Duration::from_millis(n.into()));
        }
        assert_eq!(refusals.0.len(), PLACES);
        let last = IpAddr::from((0x0a00_0000_u32 + 9_999).to_be_bytes());
        assert!(!refusals.delay(Some(last), now + Duration::from_secs(10)).is_zero());
    }
}
