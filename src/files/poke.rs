//! Wakes those who work for a directory, and knows when all of them have nothing to do.
//!
//! A poke is a number that grows: who looked for work before it looks again, so none is lost. It starts no thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub struct Poke {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pokes: u64,
    stopped: bool,
    /// Workers that wait with nothing to do.
    idle: usize,
}

impl Poke {
    /// To be asked before looking for work.
    pub fn seen(&self) -> u64 {
        self.lock().pokes
    }

    /// There may be something to do.
    pub fn poke(&self) {
        self.lock().pokes += 1;
        self.changed.notify_all();
    }

    /// Nobody shall wait any more.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// A worker waits for a poke after `seen`, for so long at most. `false`: stop.
    pub fn wait(&self, seen: u64, time: Duration) -> bool {
        let mut state = self.lock();
        if state.pokes == seen && !state.stopped {
            state.idle += 1;
            self.changed.notify_all();
            state = self.wait_on(state, time, |s| s.pokes == seen && !s.stopped);
            state.idle -= 1;
        }
        !state.stopped
    }

    /// Waits until so many workers have nothing to do and nobody has poked them, or stopped them; for so long at most. Whether
    /// it is so.
    pub fn all_idle(&self, workers: usize, time: Duration) -> bool {
        let state = self.wait_on(self.lock(), time, |s| s.idle < workers && !s.stopped);
        state.idle >= workers || state.stopped
    }

    fn wait_on<'a>(&'a self, state: MutexGuard<'a, State>, time: Duration, go_on: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        self.changed.wait_timeout_while(state, time, |s| go_on(s)).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // threads of a test
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn no_poke_is_lost_and_idle_means_that_all_have_looked() {
        let (poke, work, done) = (Poke::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let take = || work.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let seen = poke.seen();
                        match take() {
                            true => drop(done.fetch_add(1, SeqCst)),
                            false if !poke.wait(seen, LONG) => return,
                            false => {}
                        }
                    }
                });
            }
            for round in 1..=100 {
                work.fetch_add(7, SeqCst);
                poke.poke();
                while done.load(SeqCst) < round * 7 {
                    std::thread::yield_now();
                }
            }
            assert!(poke.all_idle(4, LONG) && !poke.all_idle(5, Duration::ZERO));
            poke.stop();
        });
        assert!(poke.is_stopped() && poke.all_idle(5, LONG));
    }
}
