//! When a directory is looked after next: what waits, what was refused, and the end of a burst of deletes.

use std::time::{Duration, Instant};

use super::{AGAIN, AGAIN_MOST, Directory, GUARD, GUARD_OF_MOVES, NAMED_IN_LOG, lock};
use crate::clock;

impl Directory {
    /// Makes due what waits or was refused, if it is time to, and names what waits for long. When to ask again.
    pub fn wake(&self) -> Duration {
        let now = clock::monotonic();
        let retries = self.stats.take_retries(now);
        for path in &retries {
            self.engine.offer(path);
        }
        if !retries.is_empty() {
            self.wakeup.wake();
        }
        for (path, why) in self.stats.long_waits(now).iter().take(NAMED_IN_LOG) {
            log::warn!("{path:?} waits to be synced: {why} dir={}", self.settings.path.display());
        }
        let gathers = self.end_of_burst();
        let next = self.wake_waiting(now);
        let next = if gathers.is_zero() { next } else { next.min(gathers) };
        self.stats.next().map_or(next, |at| next.min(at.saturating_duration_since(now)).max(Duration::from_millis(10)))
    }

    /// How long deletes wait for the end of their burst; when it has ended, those are called that carry them out.
    pub fn end_of_burst(&self) -> Duration {
        let left = self.engine.gathers();
        let was = std::mem::replace(&mut lock(&self.again).gathers, !left.is_zero());
        if was && left.is_zero() {
            self.wakeup.wake();
        }
        left
    }

    fn wake_waiting(&self, now: Instant) -> Duration {
        let mut again = lock(&self.again);
        // moves are known when the other directory has them
        let arrivals = if self.engine.deletes_wait() { self.engine.arrivals_elsewhere() } else { again.arrivals };
        if arrivals != again.arrivals {
            (again.arrivals, again.pause) = (arrivals, AGAIN);
            again.guard = again.guard.min(now + GUARD_OF_MOVES);
        }
        if now >= again.guard {
            again.guard = now + GUARD;
            self.engine.wake(true);
            self.wakeup.wake();
        }
        if self.engine.active() == 0 {
            (again.at, again.pause) = (now + AGAIN, AGAIN);
            let next = again.guard - now;
            return if self.engine.deletes_wait() { next.min(GUARD_OF_MOVES) } else { next };
        }
        if now >= again.at && self.link.pause().is_zero() {
            let worked = self.worked();
            again.pause = if worked > again.worked { AGAIN } else { (again.pause * 2).min(AGAIN_MOST) };
            (again.worked, again.at) = (worked, now + again.pause);
            let again_at = again.pause;
            drop(again);
            self.engine.wake(false);
            self.wakeup.wake();
            return again_at;
        }
        again.at.saturating_duration_since(now).max(self.link.pause()).max(Duration::from_millis(10))
    }
}
