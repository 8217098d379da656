//! The workers of a directory: one in each direction stays, and others work as long as there is work for them.
//!
//! A worker carries out a group of paths at a time, which share commits, syncs and requests; a long file is a group of its
//! own. It starts no thread by itself.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::pacing::{Pacing, Supply};
use super::{Directory, MAX_RETRY_PAUSE, lock};
use crate::clock;
use crate::config::limits;
use crate::error::Result;
use crate::files::engine::{Direction, GroupSize};

/// A worker that finds no work for so long ends, unless it is the only one of its direction.
const MAX_IDLE_TIME: Duration = Duration::from_secs(1);

/// A worker that lets a small group grow looks at it so often.
const GATHERING_PAUSE: Duration = Duration::from_millis(10);

/// The processors that this process may use; two where there is one, because a worker also waits for the disk and the hub.
#[derive(Debug)]
pub struct Processors(usize);

impl Default for Processors {
    fn default() -> Processors {
        Processors(std::thread::available_parallelism().map_or(2, |n| n.get().max(2)))
    }
}

/// Counts the workers of all directories of a process, but for the one in each direction that each directory always has.
/// Directories that are busy at the same time have as many workers together as one of them has alone.
#[derive(Debug, Default)]
pub struct ExtraWorkers([AtomicUsize; 2]);

impl ExtraWorkers {
    /// Counts another one. `false`: there are `most` already.
    fn add(&self, way: Direction, most: usize) -> bool {
        let more = |running| (running < most).then_some(running + 1);
        self.0[index(way)]
            .fetch_update(Relaxed, Relaxed, more)
            .is_ok()
    }

    fn ended(&self, way: Direction) {
        self.0[index(way)].fetch_sub(1, Relaxed);
    }
}

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
        let most_extra = self.settings.concurrency - 1;
        if workers.running > most_extra
            || workers.running > 0 && !self.process.extra_workers.add(way, most_extra)
        {
            return None;
        }
        workers.running += 1;
        Some(workers.running)
    }

    /// Reports that a worker has ended, or could not be started.
    pub fn worker_ended(&self, way: Direction) {
        let mut workers = lock(self.workers(way));
        workers.running -= 1;
        if workers.running > 0 {
            self.process.extra_workers.ended(way);
        }
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
            let is_large = group.len() >= limits::FULL_GROUP_PATHS;
            self.call_another(way, is_large, start);
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
                is_large,
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
        let burst = self.engine.gather_wait();
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

    /// Wakes another worker if there is work for it, or starts one if all are busy. `is_large`: the group of this one keeps a
    /// processor busy, so that more workers than processors would only wait for each other.
    fn call_another(
        &self,
        way: Direction,
        is_large: bool,
        start: &dyn Fn(Direction) -> Result<()>,
    ) {
        if !self.engine.has_work(way, self.group_size(way).least) {
            return;
        }
        let (running, waiting) = {
            let workers = lock(self.workers(way));
            (workers.running, workers.waiting)
        };
        if is_large && running - waiting >= self.process.processors.0 {
            return;
        }
        if waiting > 0 {
            self.wakeup.more(way);
        } else if let Err(e) = start(way) {
            // those that run do its work
            log::debug!("{e}");
        }
    }

    fn workers(&self, way: Direction) -> &std::sync::Mutex<Workers> {
        &self.workers[index(way)]
    }

    /// A server that takes no batches gets one change a request.
    fn group_size(&self, way: Direction) -> GroupSize {
        if self.legacy.is_some() {
            return GroupSize::up_to(1);
        }
        let supply = if !self.engine.has_work(way, 1) {
            Supply::None
        } else if self.engine.is_rescanning() {
            Supply::Growing
        } else {
            Supply::Some
        };
        let now = clock::monotonic();
        GroupSize {
            least: lock(self.workers(way)).pacing.least(now, supply),
            most: limits::GROUP_PATHS,
        }
    }
}

/// Where a pair of values, one for each direction, has that of `way`.
fn index(way: Direction) -> usize {
    match way {
        Direction::Up => 0,
        Direction::Down => 1,
    }
}
