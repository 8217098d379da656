//! Requests of one transfer that are made at the same time: while the hub writes one chunk, the next ones are on the way. One
//! after another, they would leave a link idle for a round trip each.
//!
//! It knows neither chunks nor the hub. The number of requests is shared by all transfers with the same [`RequestSlots`].

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// Requests of one transfer that are made at the same time, at most.
pub const MAX_REQUESTS: usize = 4;
/// For an HTTP request, with TLS.
const STACK_BYTES: usize = 256 * 1024;

/// How many requests may be made at the same time, and how many are.
#[derive(Debug)]
pub struct RequestSlots {
    most: usize,
    used: AtomicUsize,
}

/// A slot in use, until it is dropped.
#[derive(Debug)]
pub struct RequestSlot<'a>(&'a RequestSlots);

impl Drop for RequestSlot<'_> {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, SeqCst);
    }
}

impl RequestSlots {
    pub fn new(most: usize) -> RequestSlots {
        RequestSlots {
            most,
            used: AtomicUsize::new(0),
        }
    }

    /// For a caller that makes requests in any case.
    pub fn enter(&self) -> RequestSlot<'_> {
        self.used.fetch_add(1, SeqCst);
        RequestSlot(self)
    }

    /// `None`: all are in use.
    fn spare(&self) -> Option<RequestSlot<'_>> {
        let taken = |used: usize| (used < self.most).then_some(used + 1);
        let is_spare = self.used.fetch_update(SeqCst, SeqCst, taken).is_ok();
        is_spare.then(|| RequestSlot(self))
    }

    /// Others have entered since: a spare slot is to be given back.
    fn is_over(&self) -> bool {
        self.used.load(SeqCst) > self.most
    }
}

/// Calls `act` with each item, in this thread and in as many others as there are spare slots. After an error no further item
/// begins, and the first one is returned.
pub fn for_each<T: Sync, E: Send>(
    items: &[T],
    slots: Option<&RequestSlots>,
    act: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let failure = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let work = |is_needed: &dyn Fn() -> bool| {
        while failure().is_none() && is_needed() {
            let Some(item) = items.get(next.fetch_add(1, SeqCst)) else {
                break;
            };
            if let Err(error) = act(item) {
                failure().get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for n in 2..=items.len().min(MAX_REQUESTS) {
            let Some((slots, slot)) = slots.and_then(|slots| Some((slots, slots.spare()?))) else {
                break;
            };
            let help = move || {
                work(&|| !slots.is_over());
                drop(slot);
            };
            let thread = std::thread::Builder::new()
                .name(format!("request-{n}"))
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, help);
            // where no thread can be started, those that run do its work
            if thread.is_err() {
                break;
            }
        }
        work(&|| true);
    });
    let failed = failed.into_inner();
    failed
        .unwrap_or_else(PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    /// The items that were done, and how many at most at the same time.
    fn run(count: usize, slots: Option<&RequestSlots>) -> (Vec<usize>, usize) {
        let items: Vec<usize> = (0..count).collect();
        let (done, now, most) = (
            Mutex::new(Vec::new()),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let act = |item: &usize| {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::yield_now();
            done.lock().unwrap().push(*item);
            now.fetch_sub(1, SeqCst);
            Ok::<(), ()>(())
        };
        assert_eq!(for_each(&items, slots, act), Ok(()));
        let mut done = done.into_inner().unwrap();
        done.sort_unstable();
        (done, most.into_inner())
    }

    #[test]
    fn each_item_is_done_once_and_no_more_at_a_time_than_slots() {
        for most in 1..=6 {
            let slots = RequestSlots::new(most);
            let _mine = slots.enter();
            let (done, at_once) = run(200, Some(&slots));
            assert_eq!(done, (0..200).collect::<Vec<_>>());
            assert!(at_once <= most.min(MAX_REQUESTS), "{at_once} of {most}");
            assert_eq!(slots.used.load(SeqCst), 1);
        }
        assert_eq!(run(5, None), ((0..5).collect(), 1));
        assert_eq!(run(0, None), (vec![], 0));
    }

    #[test]
    fn as_many_are_made_at_the_same_time_as_there_are_slots() {
        let slots = RequestSlots::new(MAX_REQUESTS);
        let _mine = slots.enter();
        let all_are_here = Barrier::new(MAX_REQUESTS);
        let act = |_: &()| {
            all_are_here.wait();
            Ok::<(), ()>(())
        };
        assert_eq!(for_each(&[(); MAX_REQUESTS], Some(&slots), act), Ok(()));
    }

    #[test]
    fn others_that_enter_get_their_slots_back() {
        let slots = RequestSlots::new(2);
        let mine = slots.enter();
        let (spare, other) = (slots.spare().unwrap(), slots.enter());
        assert!(slots.is_over() && slots.spare().is_none());
        drop((spare, other));
        assert!(!slots.is_over() && slots.spare().is_some());
        drop(mine);
        assert_eq!(slots.used.load(SeqCst), 0);
    }

    #[test]
    fn after_an_error_nothing_begins() {
        let (slots, begun) = (RequestSlots::new(MAX_REQUESTS), AtomicUsize::new(0));
        let _mine = slots.enter();
        let act = |item: &usize| {
            begun.fetch_add(1, SeqCst);
            if *item == 3 { Err("no space") } else { Ok(()) }
        };
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(for_each(&items, None, act), Err("no space"));
        assert_eq!(begun.swap(0, SeqCst), 4);
        assert_eq!(for_each(&items, Some(&slots), act), Err("no space"));
        assert!(begun.load(SeqCst) >= 4);
    }
}
