//! The workers of a directory: one in each direction stays, and others work as long as there is work for them.
//!
//! A worker carries out a group of paths at a time, which share commits, syncs and requests; a long file is a group of its
//! own. It starts no thread by itself.

use std::time::Duration;

use super::pacing::Pacing;
use super::{Directory, MAX_RETRY_PAUSE, lock};
use crate::clock;
use crate::config::limits;
use crate::error::Result;
use crate::files::engine::{Direction, GroupSize};

/// A worker that finds no work for so long ends, unless it is the only one of its direction.
const MAX_IDLE_TIME: Duration = Duration::from_secs(5);

/// A worker that lets a small group grow looks at it so often.
const GATHERING_PAUSE: Duration = Duration::from_millis(10);

/// The workers of one direction.
#[derive(Debug, Default)]
pub struct Workers {
    running: usize,
    waiting: usize,
    pacing: Pacing,
    is_gathering: bool,
}

impl Directory {
    /// Counts a worker that is about to start. -> its number; `None`: there are enough.
    pub fn add_worker(&self, way: Direction) -> Option<usize> {
        let mut workers = lock(self.workers(way));
        if workers.running >= self.settings.concurrency {
            return None;
        }
        workers.running += 1;
        Some(workers.running)
    }

    /// Reports that a worker has ended, or could not be started.
    pub fn worker_ended(&self, way: Direction) {
        lock(self.workers(way)).running -= 1;
    }

    /// Works in one direction as long as there is work, then waits for more, until it is stopped or not needed. `start` starts
    /// another worker.
    pub fn work(&self, way: Direction, start: &dyn Fn(Direction) -> Result<()>) {
        loop {
            if self.wakeup.is_stopped() {
                break;
            }
            let pause = self.link.pause().max(self.disk_pause(way));
            if !pause.is_zero() {
                self.wakeup.wait(way, pause);
                continue;
            }
            let Some(group) = self.engine.take(Some(way), self.group_size(way)) else {
                if self.gather(way) || self.wait_for_work(way) {
                    continue;
                }
                break;
            };
            let paths = group.is_short_change().then_some(group.len());
            if paths.is_some() {
                lock(self.workers(way)).pacing.group_begins();
            }
            self.call_another(way, start);
            for report in self.engine.carry_out(group) {
                self.report(report);
            }
            if let Some(paths) = paths {
                let now = clock::monotonic();
                lock(self.workers(way)).pacing.group_ended(now, paths);
            }
            self.call_another(
                if way == Direction::Up {
                    Direction::Down
                } else {
                    Direction::Up
                },
                start,
            );
        }
        self.worker_ended(way);
    }

    /// Lets a small group grow for a moment; one worker at a time does. `false`: there is none.
    fn gather(&self, way: Direction) -> bool {
        let left = {
            let mut workers = lock(self.workers(way));
            let left = workers.pacing.left(clock::monotonic());
            if left.is_zero() || std::mem::replace(&mut workers.is_gathering, true) {
                return false;
            }
            left
        };
        // not woken for each path: those that arrive meanwhile are examined together
        self.wakeup.pause(left.min(GATHERING_PAUSE));
        lock(self.workers(way)).is_gathering = false;
        true
    }

    /// `false`: the worker is not needed.
    fn wait_for_work(&self, way: Direction) -> bool {
        self.tree.close_directories();
        let is_only = {
            let mut workers = lock(self.workers(way));
            workers.waiting += 1;
            workers.waiting == workers.running
        };
        let time = if is_only {
            MAX_RETRY_PAUSE
        } else {
            MAX_IDLE_TIME
        };
        // deletes that this worker has examined may be a short burst
        let burst = self.engine.burst_wait();
        let is_woken = if burst.is_zero() {
            self.wakeup.wait(way, time)
        } else {
            self.wakeup.wait(way, time.min(burst));
            self.end_of_burst();
            true
        };
        let mut workers = lock(self.workers(way));
        workers.waiting -= 1;
        // a worker that was woken, or has work, stays; so does the last one
        let is_idle = !is_woken && !self.engine.has_work(way, 1);
        !(is_idle && workers.waiting > 0)
    }

    /// Wakes another worker if there is work for it, or starts one if all are busy.
    fn call_another(&self, way: Direction, start: &dyn Fn(Direction) -> Result<()>) {
        if !self.engine.has_work(way, self.group_size(way).least) {
            return;
        }
        if lock(self.workers(way)).waiting > 0 {
            self.wakeup.more(way);
        } else if let Err(e) = start(way) {
            // those that run do its work
            log::debug!("{e}");
        }
    }

    fn workers(&self, way: Direction) -> &std::sync::Mutex<Workers> {
        match way {
            Direction::Up => &self.workers[0],
            Direction::Down => &self.workers[1],
        }
    }

    /// A server that takes no batches gets one change a request.
    fn group_size(&self, way: Direction) -> GroupSize {
        if self.legacy.is_some() {
            return GroupSize::up_to(1);
        }
        let has_work = self.engine.has_work(way, 1);
        let now = clock::monotonic();
        GroupSize {
            least: lock(self.workers(way)).pacing.least(now, has_work),
            most: limits::GROUP_PATHS,
        }
    }
}
