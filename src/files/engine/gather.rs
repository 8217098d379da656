//! Decides when deletes are weighed: after the burst has ended, so that the whole burst passes or
//! none of it.
//!
//! A burst ends when no further delete has arrived for a while: a moment after a single delete that none preceded for long, a
//! longer time after two or more. Deletes that were made on the hub arrive together, so a burst of these alone ends
//! sooner. A burst that does not end is weighed after [`GATHER_MAX`].

use std::time::Duration;

use super::{Direction, Engine, Precedence, lock};

/// How long no further delete may arrive before the pending deletes are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuietTimes {
    pub after_one: Duration,
    pub after_more: Duration,
    /// If it was made on the hub.
    pub after_one_of_hub: Duration,
    /// If all of them were made on the hub.
    pub after_more_of_hub: Duration,
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
    /// It is a single delete, and none preceded it for as long as several wait.
    is_lone: bool,
    /// [`Burst::take_end`] has reported its end.
    is_over: bool,
}

impl Burst {
    /// Records a delete that is sent or, with [`Direction::Down`], was made on the hub. `due`: pending deletes, including
    /// this one.
    pub fn add(&mut self, now: Duration, due: usize, way: Direction, quiet: QuietTimes) {
        self.is_local = way == Direction::Up || self.is_local && due > 1;
        self.extend(now, due, quiet);
    }

    fn extend(&mut self, now: Duration, due: usize, quiet: QuietTimes) {
        let first = self
            .times
            .map(|(first, _)| first)
            .filter(|_| now < self.end(due, quiet) + WEIGHING);
        self.is_lone = self
            .times
            .is_none_or(|(_, last)| first.is_none() && now >= last + self.after_more(quiet));
        self.times = Some((first.unwrap_or(now), now));
        self.is_over = false;
    }

    /// Whether the burst has ended since the last call.
    pub fn take_end(&mut self, now: Duration, due: usize, quiet: QuietTimes) -> bool {
        let is_over = self.times.is_some() && self.left(now, due, quiet).is_zero();
        is_over && !std::mem::replace(&mut self.is_over, true)
    }

    fn after_more(&self, quiet: QuietTimes) -> Duration {
        if self.is_local {
            quiet.after_more
        } else {
            quiet.after_more_of_hub
        }
    }

    /// Records a removal for which no delete is known yet: it prolongs a burst that has not ended.
    /// A burst that has ended does not restart, because its own deletes remove files too.
    pub fn prolong(&mut self, now: Duration, due: usize, quiet: QuietTimes) {
        if !self.left(now, due, quiet).is_zero() {
            self.extend(now, due, quiet);
        }
    }

    /// Records that more deletes were made than are known.
    fn expect_more(&mut self, now: Duration, due: usize, quiet: QuietTimes) {
        self.extend(now, due, quiet);
        self.is_lone = false;
    }

    /// How long to wait before so many deletes are weighed.
    pub fn left(&self, now: Duration, due: usize, quiet: QuietTimes) -> Duration {
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

    fn end(&self, due: usize, quiet: QuietTimes) -> Duration {
        let quiet = if due > 1 || !self.is_lone {
            self.after_more(quiet)
        } else if self.is_local {
            quiet.after_one
        } else {
            quiet.after_one_of_hub
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

    /// How long changes wait for others that belong to them; 0: none does.
    pub fn gather_wait(&self) -> Duration {
        let waits = [self.burst_wait(), self.moves_wait()];
        let waits = waits.into_iter().filter(|wait| !wait.is_zero());
        waits.min().unwrap_or_default()
    }

    /// Whether such a wait has ended since the last call: what has waited can be carried out now.
    pub fn take_gather_end(&self) -> bool {
        let is_burst_over = self.take_burst_end();
        self.forget_late_moves() || is_burst_over
    }

    /// How long deletes wait for the end of their burst.
    fn burst_wait(&self) -> Duration {
        if self.options.allow_deletes {
            return Duration::ZERO;
        }
        let due = self.queue().counted_deletes();
        lock(&self.burst).left(self.env.ambient.elapsed(), due, self.options.quiet)
    }

    /// Whether a burst has ended since the last call.
    fn take_burst_end(&self) -> bool {
        let due = self.queue().counted_deletes();
        lock(&self.burst).take_end(self.env.ambient.elapsed(), due, self.options.quiet)
    }

    /// Whether the pending delete is a single one, so that it has waited for a moment only.
    pub(super) fn is_lone_delete(&self) -> bool {
        lock(&self.burst).is_lone
    }

    /// Makes the pending deletes wait as several do, because others are missing here for which no delete is pending yet.
    pub(super) fn expect_more(&self) {
        let due = self.queue().counted_deletes();
        lock(&self.burst).expect_more(self.env.ambient.elapsed(), due, self.options.quiet);
    }

    pub(super) fn is_burst_young(&self) -> bool {
        lock(&self.burst).is_young(self.env.ambient.elapsed())
    }

    /// The last work that may be carried out now.
    pub(super) fn last_precedence(&self) -> Precedence {
        if !self.moves_wait().is_zero() {
            Precedence::Postponed
        } else if self.is_drained() && self.burst_wait().is_zero() {
            Precedence::Delete
        } else {
            Precedence::Moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: QuietTimes = QuietTimes {
        after_one: Duration::from_millis(300),
        after_more: Duration::from_secs(2),
        after_one_of_hub: Duration::from_millis(20),
        after_more_of_hub: Duration::from_millis(100),
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
        assert_eq!(burst.left(ms(9000), 1, QUIET), ms(20));
        // right after that one
        burst.add(ms(9050), 1, Direction::Down, QUIET);
        assert_eq!(burst.left(ms(9050), 1, QUIET), ms(100));
    }

    #[test]
    fn a_delete_soon_after_another_waits_for_more() {
        let mut burst = Burst::default();
        burst.add(ms(1000), 1, Direction::Up, QUIET);
        assert_eq!(burst.left(ms(1300), 1, QUIET), ms(0));
        // the first was carried out
        burst.add(ms(2900), 1, Direction::Up, QUIET);
        assert_eq!(burst.left(ms(2900), 1, QUIET), ms(2000));
        // and so was this one, long ago
        burst.add(ms(7000), 1, Direction::Up, QUIET);
        assert_eq!(burst.left(ms(7000), 1, QUIET), ms(300));
        // something else is removed meanwhile
        burst.prolong(ms(7100), 1, QUIET);
        assert_eq!(burst.left(ms(7100), 1, QUIET), ms(2000));
    }

    #[test]
    fn the_end_of_each_burst_is_reported_once_however_short_it_was() {
        let mut burst = Burst::default();
        assert!(!burst.take_end(ms(0), 0, QUIET));
        for at in [1000, 9000] {
            burst.add(ms(at), 1, Direction::Up, QUIET);
            assert!(!burst.take_end(ms(at + 299), 1, QUIET));
            assert!(burst.take_end(ms(at + 5000), 1, QUIET));
            assert!(!burst.take_end(ms(at + 5001), 1, QUIET));
        }
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
