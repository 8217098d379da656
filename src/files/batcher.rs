//! Batches concurrent calls of one kind: the first caller executes everything queued so far,
//! the others wait for their part of the result.
//!
//! It has no delay of its own, and does not inspect the calls. One batch at a time; calls that arrive meanwhile form the next.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, PoisonError};

/// See the module documentation.
#[derive(Debug)]
pub struct Batcher<I, O> {
    /// Calls in one batch, at most.
    most: usize,
    queue: Mutex<BatchQueue<I, O>>,
    ended: Condvar,
}

#[derive(Debug)]
struct BatchQueue<I, O> {
    /// Bounded by the number of threads: each caller adds one entry.
    waiting: VecDeque<I>,
    /// How many callers have arrived, and how many of them were part of a batch.
    came: u64,
    done: u64,
    results: BTreeMap<u64, O>,
    leading: bool,
}

impl<I, O> Batcher<I, O> {
    pub fn new(most: usize) -> Batcher<I, O> {
        let queue = BatchQueue {
            waiting: VecDeque::new(),
            came: 0,
            done: 0,
            results: BTreeMap::new(),
            leading: false,
        };
        Batcher {
            most,
            queue: Mutex::new(queue),
            ended: Condvar::new(),
        }
    }

    /// Returns after `all` has processed this item in a batch, in the order of arrival. `all`
    /// returns one result for each item.
    pub fn join(&self, one: I, all: &dyn Fn(Vec<I>) -> Vec<O>) -> O {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = queue.came;
        queue.came += 1;
        queue.waiting.push_back(one);
        while queue.done <= mine {
            if queue.leading {
                queue = self
                    .ended
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.leading = true;
            let count = queue.waiting.len().min(self.most);
            let some: Vec<I> = queue.waiting.drain(..count).collect();
            drop(queue);
            // the other callers must not wait forever, even after a panic
            let results = catch_unwind(AssertUnwindSafe(|| all(some)));
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let from = queue.done;
            (queue.done, queue.leading) = (from + count as u64, false);
            self.ended.notify_all();
            match results {
                Ok(results) => queue.results.extend((from..).zip(results)),
                Err(panic) => {
                    drop(queue);
                    resume_unwind(panic)
                }
            }
        }
        queue
            .results
            .remove(&mine)
            .expect("there is one result a piece, unless the thread that led has crashed")
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // threads of a test
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn each_caller_gets_its_own_result_and_no_batch_is_too_large() {
        let (group, goes) = (Batcher::new(3), AtomicUsize::new(0));
        let all = |some: Vec<usize>| {
            goes.fetch_add(1, SeqCst);
            assert!((1..=3).contains(&some.len()));
            some.into_iter().map(|n| n * 2).collect()
        };
        std::thread::scope(|scope| {
            for t in 0..8 {
                let (group, all) = (&group, &all);
                scope.spawn(move || {
                    (0..200)
                        .for_each(|n| assert_eq!(group.join(t * 1000 + n, all), (t * 1000 + n) * 2))
                });
            }
        });
        assert!((1600 / 3..=1600).contains(&goes.load(SeqCst)));
    }

    #[test]
    fn a_leader_that_crashes_leaves_no_caller_waiting() {
        let group: Batcher<u8, u8> = Batcher::new(8);
        assert!(
            catch_unwind(AssertUnwindSafe(
                || group.join(1, &|_| panic!("as redb does on a damaged file"))
            ))
            .is_err()
        );
        assert_eq!(group.join(2, &|some| some), 2);
    }
}
