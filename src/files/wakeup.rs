//! Wakes the workers of a directory.
//!
//! A wake-up is a counter: a worker reads it before it looks for work, so no wake-up is lost. One
//! worker in each direction is woken at a time, and wakes the next one if there is more work than
//! it can take; otherwise all of them would run for each work item. It starts no thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine::Direction;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Wakeup {
    state: Mutex<WakeupState>,
    up: Condvar,
    down: Condvar,
    /// Threads that are not workers.
    others: Condvar,
}

#[derive(Debug, Default)]
struct WakeupState {
    wakeups: u64,
    stopped: bool,
}

impl Wakeup {
    /// The counter; read before looking for work.
    pub fn seen(&self) -> u64 {
        self.lock().wakeups
    }

    /// Wakes one worker in each direction: there may be work.
    pub fn wake(&self) {
        self.lock().wakeups += 1;
        [&self.up, &self.down]
            .iter()
            .for_each(|kind| kind.notify_one());
        self.others.notify_all();
    }

    /// Wakes one more worker in this direction: there is more work.
    pub fn more(&self, way: Direction) {
        self.lock().wakeups += 1;
        self.of(way).notify_one();
    }

    /// Reports that work was done, to watching threads.
    pub fn done(&self) {
        self.lock().wakeups += 1;
        self.others.notify_all();
    }

    /// Ends all waits.
    pub fn stop(&self) {
        self.lock().stopped = true;
        [&self.up, &self.down, &self.others]
            .iter()
            .for_each(|kind| kind.notify_all());
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// A worker waits for a wake-up after `seen`, up to `time`. `false`: stop.
    pub fn wait(&self, way: Direction, seen: u64, time: Duration) -> bool {
        !wait(self.of(way), self.lock(), time, |s| {
            s.wakeups == seen && !s.stopped
        })
        .stopped
    }

    /// A thread that is not a worker waits for a wake-up after `seen`.
    pub fn watch(&self, seen: u64, time: Duration) -> bool {
        !wait(&self.others, self.lock(), time, |s| {
            s.wakeups == seen && !s.stopped
        })
        .stopped
    }

    /// Waits for some time, unless stopped. `false`: stop.
    pub fn pause(&self, time: Duration) -> bool {
        !wait(&self.others, self.lock(), time, |s| !s.stopped).stopped
    }

    fn of(&self, way: Direction) -> &Condvar {
        if way == Direction::Up {
            &self.up
        } else {
            &self.down
        }
    }

    fn lock(&self) -> MutexGuard<'_, WakeupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a>(
    on: &Condvar,
    state: MutexGuard<'a, WakeupState>,
    time: Duration,
    go_on: impl Fn(&WakeupState) -> bool,
) -> MutexGuard<'a, WakeupState> {
    on.wait_timeout_while(state, time, |s| go_on(s))
        .unwrap_or_else(PoisonError::into_inner)
        .0
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // threads of a test
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn no_poke_is_lost() {
        let (wakeup, work, done) = (Wakeup::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let take = || {
            work.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
                .is_ok()
        };
        std::thread::scope(|scope| {
            for way in [
                Direction::Up,
                Direction::Down,
                Direction::Up,
                Direction::Down,
            ] {
                let (wakeup, done, take) = (&wakeup, &done, &take);
                scope.spawn(move || {
                    loop {
                        let seen = wakeup.seen();
                        match take() {
                            true => drop(done.fetch_add(1, SeqCst)),
                            false if !wakeup.wait(way, seen, LONG) => return,
                            false => {}
                        }
                    }
                });
            }
            for round in 1..=100 {
                work.fetch_add(7, SeqCst);
                if round % 2 == 0 {
                    wakeup.wake()
                } else {
                    wakeup.more(Direction::Down)
                }
                while done.load(SeqCst) < round * 7 {
                    std::thread::yield_now();
                }
            }
            assert!(wakeup.pause(Duration::ZERO) && wakeup.watch(0, LONG));
            wakeup.stop();
        });
        assert!(wakeup.is_stopped() && !wakeup.pause(LONG));
    }
}
