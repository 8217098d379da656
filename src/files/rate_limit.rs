//! Keeps the transfers of a directory below a rate, all of them together.
//!
//! The bucket is pure: it is given the time and returns how long to wait. A transfer waits before
//! it moves more bytes, so its peer is slowed down by its own flow control.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// The burst that may pass after a pause, in parts of one second's bytes.
const BURSTS_PER_SECOND: u32 = 4;

/// Tokens are bytes. The bucket may go into debt, which the next wait pays off, so no piece is too
/// large for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// All passed bytes are paid for by this time, counted from an arbitrary start.
    paid: Duration,
}

impl Bucket {
    /// `rate`: bytes a second, at least 1.
    pub fn new(rate: u64) -> Bucket {
        Bucket {
            rate: rate.max(1),
            paid: Duration::ZERO,
        }
    }

    /// Lets `bytes` pass; returns how long to wait, before or after.
    pub fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        let burst = Duration::from_secs(1) / BURSTS_PER_SECOND;
        let cost = Duration::from_nanos(
            (u128::from(bytes) * 1_000_000_000 / u128::from(self.rate))
                .try_into()
                .unwrap_or(u64::MAX),
        );
        self.paid = self
            .paid
            .max(now.saturating_sub(burst))
            .saturating_add(cost);
        self.paid.saturating_sub(now)
    }
}

/// One limit for all transfers of a directory in one direction.
#[derive(Debug)]
pub struct Limiter {
    bucket: Mutex<Bucket>,
    began: Instant,
}

impl Limiter {
    pub fn new(rate: u64) -> Arc<Limiter> {
        Arc::new(Limiter {
            bucket: Mutex::new(Bucket::new(rate)),
            began: clock::monotonic(),
        })
    }

    /// Returns when so many bytes may have passed.
    pub fn pass(&self, bytes: u64) {
        let wait = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(bytes, self.began.elapsed());
        if !wait.is_zero() {
            let _ = crossbeam_channel::after(wait).recv();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_second_lets_a_seconds_bytes_pass() {
        let mut bucket = Bucket::new(1000);
        let at = Duration::from_secs(100);
        assert_eq!(bucket.take(250, at), Duration::ZERO);
        assert_eq!(bucket.take(1000, at), Duration::from_secs(1));
        assert_eq!(
            bucket.take(500, at + Duration::from_secs(1)),
            Duration::from_millis(500)
        );
        // a long pause saves no more than the burst
        assert_eq!(
            bucket.take(1250, Duration::from_secs(10_000)),
            Duration::from_secs(1)
        );
        assert_eq!(Bucket::new(0).rate, 1);
        assert_eq!(
            Bucket::new(1).take(u64::MAX, Duration::ZERO).as_secs(),
            u64::MAX / 1_000_000_000
        );
    }

    proptest! {
        /// A caller that waits as told never exceeds the rate by more than one burst, and never
        /// waits longer than needed.
        #[test]
        fn the_rate_is_kept_and_used(rate in 1..1_000_000u64, steps in proptest::collection::vec((1..100_000u64, 0..2_000_000u64), 1..50)) {
            let mut bucket = Bucket::new(rate);
            let begin = Duration::from_secs(1000);
            let (mut now, mut bytes) = (begin, 0);
            for (n, pause) in steps {
                now += Duration::from_micros(pause);
                let wait = bucket.take(n, now);
                bytes += n;
                now += wait;
                let most = (now - begin).as_secs_f64() * rate as f64 + rate as f64 / f64::from(BURSTS_PER_SECOND);
                prop_assert!(bytes as f64 <= most + 1.0, "{bytes} > {most}");
                prop_assert!(wait.as_secs_f64() <= (n as f64) / rate as f64 + 1e-6);
            }
        }
    }
}
