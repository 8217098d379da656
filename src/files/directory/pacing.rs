//! Decides when a small group of paths begins: at once, or after a moment, in which it grows.
//!
//! A single change waits for nothing. While a group is carried out, and during a burst of changes, a group that is not large
//! waits a little: otherwise idle workers would take each path at its arrival, and pay commits, requests and syncs for it alone.
//! Pure: the workers report to it. What a group has in it is the queue's business.

use std::time::{Duration, Instant};

use crate::config::limits;

/// A small group waits for so long at most for the end of another one.
const BESIDE_ANOTHER: Duration = Duration::from_millis(250);
/// In a burst, a small group waits for so long for more paths.
const IN_BURST: Duration = Duration::from_millis(50);
/// So many paths in this time are a burst, which lasts for this time from then on.
const BURST_PATHS: usize = 16;
const BURST_TIME: Duration = Duration::from_millis(500);

/// For the groups of one direction.
#[derive(Debug, Default)]
pub struct Pacing {
    /// When a small group may begin; `None`: not decided since the last group ended.
    small_from: Option<Instant>,
    counted_since: Option<Instant>,
    paths: usize,
    burst_until: Option<Instant>,
}

impl Pacing {
    /// How many paths a group must have to begin now. `has_work`: whether there is one, perhaps a small one.
    pub fn least(&mut self, now: Instant, has_work: bool) -> usize {
        let is_burst = self.burst_until.is_some_and(|until| now < until);
        if self.small_from.is_none() && is_burst && has_work {
            self.small_from = Some(now + IN_BURST);
        }
        if self.left(now).is_zero() {
            1
        } else {
            limits::SECOND_GROUP_PATHS
        }
    }

    /// How long only large groups begin.
    pub fn left(&self, now: Instant) -> Duration {
        self.small_from
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    pub fn group_begins(&mut self, now: Instant) {
        self.small_from = Some(now + BESIDE_ANOTHER);
    }

    pub fn group_ended(&mut self, now: Instant, paths: usize) {
        self.small_from = None;
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

    const MANY: usize = limits::SECOND_GROUP_PATHS;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn single_changes_begin_at_once() {
        let (mut pacing, start) = (Pacing::default(), clock::monotonic());
        for n in 0..100 {
            let now = start + ms(n * 200);
            assert_eq!(pacing.least(now, true), 1, "{n}");
            pacing.group_begins(now);
            pacing.group_ended(now + ms(20), 1);
        }
    }

    #[test]
    fn a_small_group_waits_for_the_end_of_another_but_not_for_long() {
        let (mut pacing, now) = (Pacing::default(), clock::monotonic());
        pacing.group_begins(now);
        assert_eq!(pacing.least(now, true), MANY);
        assert_eq!(pacing.left(now + ms(100)), ms(150));
        assert_eq!(pacing.least(now + ms(250), true), 1);
        pacing.group_begins(now + ms(300));
        pacing.group_ended(now + ms(310), 1);
        assert_eq!(pacing.least(now + ms(310), true), 1);
    }

    #[test]
    fn in_a_burst_a_small_group_waits_for_more_paths_from_its_first_one_on() {
        let (mut pacing, now) = (Pacing::default(), clock::monotonic());
        pacing.group_begins(now);
        pacing.group_ended(now, BURST_PATHS);
        assert_eq!(pacing.least(now + ms(100), false), 1);
        assert_eq!(pacing.least(now + ms(200), true), MANY);
        assert_eq!(pacing.least(now + ms(249), true), MANY);
        assert_eq!(pacing.least(now + ms(250), true), 1);
        pacing.group_begins(now + ms(250));
        pacing.group_ended(now + ms(260), 1);
        // the burst is over
        assert_eq!(pacing.least(now + ms(760), true), 1);
    }
}
