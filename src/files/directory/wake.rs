//! Decides when a directory is worked on next: waiting paths, refused paths, and the end of a burst
//! of deletes.

use std::time::{Duration, Instant};

use super::{
    Directory, HELD_RECHECK_AFTER_MOVES, HELD_RECHECK_INTERVAL, MAX_RETRY_PAUSE, NAMED_IN_LOG,
    RETRY_PAUSE, lock,
};
use crate::clock;
use crate::error::Error;
use crate::files::engine::traits::Fault;

impl Directory {
    /// Makes waiting and refused paths pending when their time has come, and reports paths that
    /// wait for long. Returns the time until the next call.
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
            log::warn!(
                "{path:?} waits to be synced: {why} dir={}",
                self.settings.path.display()
            );
        }
        let burst_wait = self.end_of_burst();
        let next = self.wake_waiting(now).min(self.sync_state());
        let next = if burst_wait.is_zero() {
            next
        } else {
            next.min(burst_wait)
        };
        self.stats.next().map_or(next, |at| {
            next.min(at.saturating_duration_since(now))
                .max(Duration::from_millis(10))
        })
    }

    /// Syncs what the engine has committed without a sync. When to ask again.
    fn sync_state(&self) -> Duration {
        match self.state.sync_old() {
            Ok(left) => left.unwrap_or(Duration::MAX),
            Err(Fault::Fatal(e)) => {
                self.fail(e);
                Duration::MAX
            }
            Err(fault) => {
                log::debug!("cannot sync the state: {}", Error::from(fault));
                // it finds the rows whose writes were lost
                self.rescan_later();
                RETRY_PAUSE
            }
        }
    }

    /// How long deletes wait for the end of their burst, and renames for the rest of their directory; once that has come,
    /// wakes the workers that carry them out.
    pub fn end_of_burst(&self) -> Duration {
        if self.engine.take_gather_end() {
            self.wakeup.wake();
        }
        self.engine.gather_wait()
    }

    fn wake_waiting(&self, now: Instant) -> Duration {
        let mut again = lock(&self.again);
        // a move is known once the other directory has the file
        let arrivals = if self.engine.deletes_wait() {
            self.engine.arrivals_elsewhere()
        } else {
            again.arrivals
        };
        if arrivals != again.arrivals {
            (again.arrivals, again.pause) = (arrivals, RETRY_PAUSE);
            again.guard = again.guard.min(now + HELD_RECHECK_AFTER_MOVES);
        }
        if now >= again.guard {
            again.guard = now + HELD_RECHECK_INTERVAL;
            self.engine.wake(true);
            self.wakeup.wake();
        }
        if self.engine.active() == 0 {
            (again.at, again.pause) = (now + RETRY_PAUSE, RETRY_PAUSE);
            let next = again.guard - now;
            return if self.engine.deletes_wait() {
                next.min(HELD_RECHECK_AFTER_MOVES)
            } else {
                next
            };
        }
        if now >= again.at && self.link.pause().is_zero() {
            let worked = self.worked();
            again.pause = if worked > again.worked {
                RETRY_PAUSE
            } else {
                (again.pause * 2).min(MAX_RETRY_PAUSE)
            };
            (again.worked, again.at) = (worked, now + again.pause);
            let again_at = again.pause;
            drop(again);
            self.engine.wake(false);
            self.wakeup.wake();
            return again_at;
        }
        again
            .at
            .saturating_duration_since(now)
            .max(self.link.pause())
            .max(Duration::from_millis(10))
    }
}
