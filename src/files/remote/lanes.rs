//! How many requests of a directory are under way at the same time, those aside that many short files share.

use std::sync::{Condvar, Mutex, PoisonError};

/// One direction.
#[derive(Debug)]
pub struct Lanes {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One request; ends when it is dropped.
pub struct Lane<'a>(&'a Lanes);

impl Lanes {
    pub fn new(count: usize) -> Lanes {
        Lanes {
            free: Mutex::new(count.max(1)),
            freed: Condvar::new(),
        }
    }

    /// Waits until a request may begin.
    pub fn enter(&self) -> Lane<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Lane(self)
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // threads of a test
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn no_more_requests_are_under_way_than_there_are_lanes() {
        let (lanes, under_way, all) = (Lanes::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _lane = lanes.enter();
                        assert!(under_way.fetch_add(1, SeqCst) < 3);
                        std::thread::yield_now();
                        under_way.fetch_sub(1, SeqCst);
                        all.fetch_add(1, SeqCst);
                    }
                });
            }
        });
        assert_eq!(all.load(SeqCst), 800);
    }
}
