//! Decides when a small group of paths begins: at once, or after a moment, in which it grows.
//!
//! A single change waits for nothing. While a group is carried out, and during a burst of changes, a group that is not full
//! waits a little: otherwise idle workers would take each path at its arrival, and pay commits, requests and syncs for it alone.
//! Pure: the workers report to it. What a group has in it is the queue's business.

use std::time::{Duration, Instant};

use crate::config::limits::FULL_GROUP_PATHS;

/// A small group waits for so long at most for the end of a rescan.
const DURING_RESCAN: Duration = Duration::from_millis(100);
/// A small group waits for so long at most for the end of another one.
const BESIDE_ANOTHER: Duration = Duration::from_millis(250);
/// In a burst, a small group waits for so long for more paths.
const IN_BURST: Duration = Duration::from_millis(30);
/// So many paths in this time are a burst, which lasts for this time from then on.
const BURST_PATHS: usize = 16;
const BURST_TIME: Duration = Duration::from_millis(500);

/// Whether there are paths that no group has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Supply {
    #[default]
    None,
    Some,
    /// A rescan may find more.
    Growing,
}

/// For the groups of one direction.
#[derive(Debug, Default)]
pub struct Pacing {
    running: usize,
    supply: Supply,
    /// Since when there is work that no group has taken.
    waits_since: Option<Instant>,
    counted_since: Option<Instant>,
    paths: usize,
    burst_until: Option<Instant>,
}

impl Pacing {
    /// How many paths a group must have to begin now.
    pub fn least(&mut self, now: Instant, supply: Supply) -> usize {
        self.supply = supply;
        self.waits_since = self
            .waits_since
            .or(Some(now))
            .filter(|_| supply != Supply::None);
        if self.left(now).is_zero() {
            1
        } else {
            FULL_GROUP_PATHS
        }
    }

    /// How long only full groups begin.
    pub fn left(&self, now: Instant) -> Duration {
        let wait = if self.running > 0 {
            BESIDE_ANOTHER
        } else if self.supply == Supply::Growing {
            DURING_RESCAN
        } else if self.burst_until.is_some_and(|until| now < until) {
            IN_BURST
        } else {
            Duration::ZERO
        };
        self.waits_since.map_or(Duration::ZERO, |since| {
            (since + wait).saturating_duration_since(now)
        })
    }

    pub fn group_begins(&mut self) {
        self.running += 1;
        self.waits_since = None;
    }

    pub fn group_ended(&mut self, now: Instant, paths: usize) {
        self.running -= 1;
        if self
            .counted_since
            .is_none_or(|since| now > since + BURST_TIME)
        {
            (self.counted_since, self.paths) = (Some(now), 0);
        }
        self.paths += paths;
        if self.paths >= BURST_PATHS {
            self.burst_until = Some(now + BURST_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MANY: usize = FULL_GROUP_PATHS;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn single_changes_begin_at_once() {
        let (mut pacing, start) = (Pacing::default(), clock::monotonic());
        for n in 0..100 {
            let now = start + ms(n * 200);
            assert_eq!(pacing.least(now, Supply::Some), 1, "{n}");
            pacing.group_begins();
            pacing.group_ended(now + ms(20), 1);
        }
    }

    #[test]
    fn a_small_group_waits_for_the_end_of_another_but_not_for_long() {
        let (mut pacing, now) = (Pacing::default(), clock::monotonic());
        pacing.group_begins();
        assert_eq!(pacing.least(now + ms(100), Supply::Some), MANY);
        assert_eq!(pacing.left(now + ms(200)), ms(150));
        assert_eq!(pacing.least(now + ms(349), Supply::Some), MANY);
        assert_eq!(pacing.least(now + ms(350), Supply::Some), 1);
        pacing.group_begins();
        assert_eq!(pacing.least(now + ms(360), Supply::Some), MANY);
        pacing.group_ended(now + ms(370), 1);
        assert_eq!(pacing.least(now + ms(370), Supply::Some), MANY);
        pacing.group_ended(now + ms(380), 1);
        assert_eq!(pacing.least(now + ms(380), Supply::Some), 1);
    }

    #[test]
    fn in_a_burst_a_small_group_waits_for_more_paths_from_its_first_one_on() {
        let (mut pacing, now) = (Pacing::default(), clock::monotonic());
        pacing.group_begins();
        pacing.group_ended(now, BURST_PATHS);
        assert_eq!(pacing.least(now + ms(100), Supply::None), 1);
        assert_eq!(pacing.least(now + ms(200), Supply::Some), MANY);
        assert_eq!(pacing.least(now + ms(229), Supply::Some), MANY);
        assert_eq!(pacing.least(now + ms(230), Supply::Some), 1);
        // the wait for the end of another group counts
        pacing.group_begins();
        assert_eq!(pacing.least(now + ms(240), Supply::Some), MANY);
        pacing.group_ended(now + ms(280), 1);
        assert_eq!(pacing.least(now + ms(280), Supply::Some), 1);
        pacing.group_begins();
        pacing.group_ended(now + ms(290), 1);
        // the burst is over
        assert_eq!(pacing.least(now + ms(790), Supply::Some), 1);
    }

    #[test]
    fn what_a_rescan_finds_waits_for_its_end_but_not_for_long() {
        let (mut pacing, now) = (Pacing::default(), clock::monotonic());
        assert_eq!(pacing.least(now, Supply::Growing), MANY);
        assert_eq!(pacing.left(now + ms(60)), ms(40));
        assert_eq!(pacing.least(now + ms(60), Supply::Some), 1);
        assert_eq!(pacing.least(now + ms(100), Supply::Growing), 1);
    }
}
