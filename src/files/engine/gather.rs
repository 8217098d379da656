//! Decides when deletes are weighed: after the burst has ended, so that the whole burst passes or
//! none of it.
//!
//! A burst ends when no further delete has arrived for a while: a short time after a single delete,
//! a longer time after two or more. Deletes that were made on the hub arrive together, so a burst of these alone ends
//! sooner. A burst that does not end is weighed after [`GATHER_MAX`].

use std::time::Duration;

use super::{Direction, Engine, lock};

/// How long no further delete may arrive before the pending deletes are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quiet {
    pub after_one: Duration,
    pub after_more: Duration,
    /// If all of them were made on the hub.
    pub after_page: Duration,
}

/// A burst is weighed after this time even if more deletes arrive.
pub const GATHER_MAX: Duration = Duration::from_secs(60);
/// After an unfinished burst was weighed, its deletes may pass for this time before the next burst
/// begins.
const WEIGHING: Duration = Duration::from_secs(1);

/// One burst. Times count from an arbitrary start.
#[derive(Debug, Default)]
pub struct Burst {
    /// When its first and its last delete arrived; `None`: no delete yet.
    times: Option<(Duration, Duration)>,
    /// At least one of them was made here.
    is_local: bool,
}

impl Burst {
    /// Records a delete that is sent or, with [`Direction::Down`], was made on the hub. `due`: pending deletes, including
    /// this one.
    pub fn add(&mut self, now: Duration, due: usize, way: Direction, quiet: Quiet) {
        self.is_local = way == Direction::Up || self.is_local && due > 1;
        self.extend(now, due, quiet);
    }

    fn extend(&mut self, now: Duration, due: usize, quiet: Quiet) {
        let first = self
            .times
            .map(|(first, _)| first)
            .filter(|_| now < self.end(due, quiet) + WEIGHING);
        self.times = Some((first.unwrap_or(now), now));
    }

    /// Records a removal for which no delete is known yet: it prolongs a burst that has not ended.
    /// A burst that has ended does not restart, because its own deletes remove files too.
    pub fn prolong(&mut self, now: Duration, due: usize, quiet: Quiet) {
        if !self.left(now, due, quiet).is_zero() {
            self.extend(now, due, quiet);
        }
    }

    /// How long to wait before so many deletes are weighed.
    pub fn left(&self, now: Duration, due: usize, quiet: Quiet) -> Duration {
        if due == 0 {
            Duration::ZERO
        } else {
            self.end(due, quiet).saturating_sub(now)
        }
    }

    /// Whether the burst began recently.
    fn is_young(&self, now: Duration) -> bool {
        self.times
            .is_some_and(|(first, _)| now < first + GATHER_MAX)
    }

    fn end(&self, due: usize, quiet: Quiet) -> Duration {
        let quiet = if !self.is_local {
            quiet.after_page
        } else if due > 1 {
            quiet.after_more
        } else {
            quiet.after_one
        };
        self.times.map_or(Duration::ZERO, |(first, last)| {
            (last + quiet).min(first + GATHER_MAX)
        })
    }
}

impl Engine {
    /// A file was removed nearby, so the pending deletes may be part of a larger burst.
    pub fn deleted_nearby(&self) {
        let due = self.queue().counted_deletes();
        lock(&self.burst).prolong(self.env.ambient.elapsed(), due, self.options.quiet);
    }

    /// Records that a delete is about to be counted.
    pub(super) fn burst_grows(&self, way: Direction) {
        let due = self.queue().counted_deletes() + 1;
        lock(&self.burst).add(self.env.ambient.elapsed(), due, way, self.options.quiet);
    }

    /// How long deletes wait for the end of their burst.
    pub fn gathers(&self) -> Duration {
        if self.options.allow_deletes {
            return Duration::ZERO;
        }
        let due = self.queue().counted_deletes();
        lock(&self.burst).left(self.env.ambient.elapsed(), due, self.options.quiet)
    }

    pub(super) fn is_burst_young(&self) -> bool {
        lock(&self.burst).is_young(self.env.ambient.elapsed())
    }

    pub(super) fn may_delete(&self) -> bool {
        self.is_drained() && self.gathers().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Quiet = Quiet {
        after_one: Duration::from_millis(300),
        after_more: Duration::from_secs(2),
        after_page: Duration::from_millis(100),
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn one_delete_waits_for_a_moment_and_several_for_the_end_of_the_burst() {
        let mut burst = Burst::default();
        assert_eq!(burst.left(ms(0), 1, QUIET), ms(0));
        burst.add(ms(1000), 1, Direction::Up, QUIET);
        assert_eq!(burst.left(ms(1000), 1, QUIET), ms(300));
        assert_eq!(burst.left(ms(1300), 1, QUIET), ms(0));
        burst.add(ms(1200), 2, Direction::Down, QUIET);
        assert_eq!(burst.left(ms(1300), 2, QUIET), ms(1900));
        burst.add(ms(3000), 3, Direction::Up, QUIET);
        assert_eq!(
            (
                burst.left(ms(4999), 3, QUIET),
                burst.left(ms(5000), 3, QUIET)
            ),
            (ms(1), ms(0))
        );
        assert_eq!(burst.left(ms(4000), 0, QUIET), ms(0));
        burst.prolong(ms(4999), 3, QUIET);
        assert_eq!(burst.left(ms(5000), 3, QUIET), ms(1999));
        burst.prolong(ms(6999), 3, QUIET);
        burst.prolong(ms(8999), 3, QUIET);
        assert_eq!(burst.left(ms(8999), 3, QUIET), ms(0));
    }

    #[test]
    fn deletes_that_were_made_on_the_hub_wait_for_the_rest_of_their_page_only() {
        let mut burst = Burst::default();
        burst.add(ms(1000), 1, Direction::Down, QUIET);
        burst.add(ms(1010), 2, Direction::Down, QUIET);
        assert_eq!(burst.left(ms(1020), 2, QUIET), ms(90));
        // one of this machine makes it a burst of its user
        burst.add(ms(1020), 3, Direction::Up, QUIET);
        burst.add(ms(1030), 4, Direction::Down, QUIET);
        assert_eq!(burst.left(ms(1030), 4, QUIET), ms(2000));
        // until all are carried out
        burst.add(ms(9000), 1, Direction::Down, QUIET);
        assert_eq!(burst.left(ms(9000), 1, QUIET), ms(100));
    }

    #[test]
    fn a_burst_without_an_end_is_weighed_now_and_then() {
        let mut burst = Burst::default();
        let mut open = 0;
        for n in 0..7000 {
            burst.add(ms(n * 20), n as usize + 1, Direction::Up, QUIET);
            open += u32::from(burst.left(ms(n * 20), n as usize + 1, QUIET).is_zero());
        }
        // the guard opens twice in two minutes, for a second each time
        assert!((50..150).contains(&open), "{open}");
    }
}
