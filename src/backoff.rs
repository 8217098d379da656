//! How long to wait before the next attempt: doubling, with jitter, up to a limit.
//!
//! Pure: randomness is an argument.

use std::time::Duration;

/// The pauses after consecutive failures; [`Backoff::reset`] after a success.
#[derive(Debug, Clone)]
pub struct Backoff {
    failures: u32,
    most: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);

    /// Pauses of 1 s, 2 s, 4 s… up to `most`.
    pub fn new(most: Duration) -> Backoff {
        Backoff { failures: 0, most }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt: between half and all of the doubled time, so that
    /// machines that failed together do not retry together. `random` is any number that differs
    /// between machines.
    pub fn next(&mut self, random: u64) -> Duration {
        let full = Backoff::FIRST
            .saturating_mul(1 << self.failures.min(20))
            .min(self.most);
        self.failures += 1;
        full / 2 + full.mul_f64((random % 1024) as f64 / 2048.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_limit_and_starts_again() {
        let mut b = Backoff::new(Duration::from_secs(60));
        let waits: Vec<u64> = (0..8)
            .map(|_| b.next(1023).as_millis() as u64 / 100)
            .collect();
        assert_eq!(waits, [9, 19, 39, 79, 159, 319, 599, 599]);
        b.reset();
        assert_eq!(b.next(0), Duration::from_millis(500));
        assert!((0..200).all(|_| b.next(1023) <= Duration::from_secs(60)));
    }
}
