//! Counts the recent wrong keys of each address.
//!
//! Pure: it takes the time as a value. It knows no keys, and callers decide the consequence of too many failures.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::config::limits::{WRONG_KEYS, WRONG_KEYS_ADDRESSES, WRONG_KEYS_WINDOW};

/// Counts in windows of a minute that begin with an address's first failure.
#[derive(Default)]
pub struct Failures {
    counted: HashMap<IpAddr, (Instant, u32)>,
}

impl Failures {
    /// How long keys of this address will not be compared; `None`: they are compared now.
    pub fn wait(&self, now: Instant, peer: IpAddr) -> Option<Duration> {
        let (since, count) = self.counted.get(&network(peer))?;
        let left = WRONG_KEYS_WINDOW.saturating_sub(now.saturating_duration_since(*since));
        (*count >= WRONG_KEYS && !left.is_zero()).then_some(left)
    }

    /// Counts one more failure, and returns the count.
    pub fn count(&mut self, now: Instant, peer: IpAddr) -> u32 {
        let over = |since: Instant| now.saturating_duration_since(since) >= WRONG_KEYS_WINDOW;
        let network = network(peer);
        if !self.counted.contains_key(&network) && self.counted.len() >= WRONG_KEYS_ADDRESSES {
            self.counted.retain(|_, (since, _)| !over(*since));
            // a caller with this many addresses gets ten more tries for each, but no more of the hub's memory
            if self.counted.len() >= WRONG_KEYS_ADDRESSES
                && let Some(oldest) = self
                    .counted
                    .iter()
                    .min_by_key(|(_, (since, _))| *since)
                    .map(|(a, _)| *a)
            {
                self.counted.remove(&oldest);
            }
        }
        let (since, count) = self.counted.entry(network).or_insert((now, 0));
        if over(*since) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count
    }
}

/// An IPv4 address, or the /64 of an IPv6 one, because the owner of one address has all of its /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_minute_for_an_address_or_its_64() {
        let start = crate::clock::monotonic();
        let at = |s: u64| start + Duration::from_secs(s);
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut failures = Failures::default();
        for i in 0..10 {
            assert_eq!(failures.wait(at(i), peer("2001:db8::1")), None);
            assert_eq!(failures.count(at(i), peer("2001:db8::1")), i as u32 + 1);
        }
        assert_eq!(
            failures.wait(at(20), peer("2001:db8::ffff:2")),
            Some(Duration::from_secs(40))
        );
        assert_eq!(failures.wait(at(20), peer("2001:db8:0:1::1")), None);
        assert_eq!(failures.wait(at(60), peer("2001:db8::1")), None);
        failures.count(at(60), peer("2001:db8::1"));
        assert_eq!(failures.wait(at(61), peer("2001:db8::1")), None);
        assert_eq!(
            (0..10)
                .map(|_| failures.count(at(0), peer("::ffff:192.0.2.1")))
                .last(),
            Some(10)
        );
        assert!(failures.wait(at(1), peer("192.0.2.1")).is_some());
    }

    #[test]
    fn many_addresses_cost_no_more_memory() {
        let now = crate::clock::monotonic();
        let mut failures = Failures::default();
        for i in 0..5000u32 {
            failures.count(
                now + Duration::from_millis(i.into()),
                IpAddr::from(i.to_be_bytes()),
            );
        }
        assert_eq!(failures.counted.len(), WRONG_KEYS_ADDRESSES);
        assert!(
            failures
                .counted
                .contains_key(&IpAddr::from(4999u32.to_be_bytes()))
        );
    }
}
