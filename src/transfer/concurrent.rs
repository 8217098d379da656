//! Requests of one transfer that are made at the same time: while the hub writes one chunk, the next ones are on the way. One
//! after another, they would leave a link idle for a round trip each.
//!
//! On a slow link a round trip is short beside a request, and a link that drops loses all requests under way: there, one is
//! made after another. It knows neither chunks nor the hub. The number of requests is shared by all transfers over the same
//! [`RequestCount`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock;

/// Requests of one transfer that are made at the same time, at most.
pub const MAX_REQUESTS: usize = 4;
/// A request that takes longer spends its time on its bytes.
const MAX_QUICK_TIME: Duration = Duration::from_millis(500);
/// For an HTTP request, with TLS.
const STACK_BYTES: usize = 256 * 1024;

/// How many requests may be made at the same time.
#[derive(Debug)]
pub struct RequestSlots {
    most: usize,
    made: Arc<RequestCount>,
}

/// How many requests are made at the same time; all [`RequestSlots`] over it count together.
#[derive(Debug)]
pub struct RequestCount {
    used: AtomicUsize,
    max_quick_time: Duration,
    /// The last request was quick.
    is_quick: AtomicBool,
}

impl Default for RequestCount {
    fn default() -> RequestCount {
        RequestCount {
            used: AtomicUsize::new(0),
            max_quick_time: MAX_QUICK_TIME,
            is_quick: AtomicBool::new(false),
        }
    }
}

/// A slot in use, until it is dropped.
#[derive(Debug)]
pub struct RequestSlot<'a>(&'a RequestCount);

impl Drop for RequestSlot<'_> {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, SeqCst);
    }
}

impl RequestSlots {
    pub fn new(most: usize, made: Arc<RequestCount>) -> RequestSlots {
        RequestSlots { most, made }
    }

    /// For a caller that makes requests in any case.
    pub fn enter(&self) -> RequestSlot<'_> {
        self.made.used.fetch_add(1, SeqCst);
        RequestSlot(&self.made)
    }

    /// `None`: all are in use, or would make nothing quicker.
    fn spare(&self) -> Option<RequestSlot<'_>> {
        let taken = |used: usize| (used < self.most).then_some(used + 1);
        let is_spare = self.made.is_quick.load(SeqCst)
            && self.made.used.fetch_update(SeqCst, SeqCst, taken).is_ok();
        is_spare.then(|| RequestSlot(&self.made))
    }

    /// Whether a spare slot may be kept: it still makes the transfer quicker, and no other caller needs it.
    fn is_kept(&self) -> bool {
        self.made.is_quick.load(SeqCst) && self.made.used.load(SeqCst) <= self.most
    }

    fn ended(&self, time: Duration, is_done: bool) {
        let is_quick = is_done && time <= self.made.max_quick_time;
        self.made.is_quick.store(is_quick, SeqCst);
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
    // `false`: nothing is left to begin
    let do_one = || {
        if failure().is_some() {
            return false;
        }
        let Some(item) = items.get(next.fetch_add(1, SeqCst)) else {
            return false;
        };
        let begin = clock::monotonic();
        let result = act(item);
        if let Some(slots) = slots {
            slots.ended(clock::monotonic() - begin, result.is_ok());
        }
        if let Err(error) = result {
            failure().get_or_insert(error);
        }
        true
    };
    std::thread::scope(|scope| {
        let mut threads = 1;
        while do_one() {
            let left = items.len().saturating_sub(next.load(SeqCst));
            while let Some(slots) = slots
                && threads < MAX_REQUESTS.min(1 + left)
                && let Some(slot) = slots.spare()
            {
                threads += 1;
                let help = || {
                    while slots.is_kept() && do_one() {}
                    drop(slot);
                };
                let thread = std::thread::Builder::new()
                    .name(format!("request-{threads}"))
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, help);
                // where no thread can be started, those that run do its work
                if thread.is_err() {
                    break;
                }
            }
        }
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

    fn slots_of(most: usize) -> RequestSlots {
        RequestSlots::new(most, Arc::default())
    }

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
            let slots = slots_of(most);
            let _mine = slots.enter();
            let (done, at_once) = run(200, Some(&slots));
            assert_eq!(done, (0..200).collect::<Vec<_>>());
            assert!(at_once <= most.min(MAX_REQUESTS), "{at_once} of {most}");
            assert_eq!(slots.made.used.load(SeqCst), 1);
        }
        assert_eq!(run(5, None), ((0..5).collect(), 1));
        assert_eq!(run(0, None), (vec![], 0));
    }

    #[test]
    fn as_many_are_made_at_the_same_time_as_there_are_slots() {
        let patient = RequestCount {
            max_quick_time: Duration::MAX,
            ..RequestCount::default()
        };
        let slots = RequestSlots::new(MAX_REQUESTS, Arc::new(patient));
        let _mine = slots.enter();
        let all_are_here = Barrier::new(MAX_REQUESTS);
        // the first one is alone: nothing is known of the link
        let act = |item: &usize| {
            if *item > 0 {
                all_are_here.wait();
            }
            Ok::<(), ()>(())
        };
        let items: Vec<usize> = (0..=2 * MAX_REQUESTS).collect();
        assert_eq!(for_each(&items, Some(&slots), act), Ok(()));
    }

    #[test]
    fn after_a_slow_request_or_an_error_there_is_one_at_a_time() {
        let slots = slots_of(MAX_REQUESTS);
        assert!(slots.spare().is_none(), "nothing is known of the link");
        for (time, is_done, is_quick) in [
            (Duration::ZERO, true, true),
            (MAX_QUICK_TIME, true, true),
            (MAX_QUICK_TIME + Duration::from_nanos(1), true, false),
            (Duration::ZERO, false, false),
        ] {
            slots.ended(Duration::ZERO, true);
            let spare = slots.spare();
            slots.ended(time, is_done);
            assert_eq!(slots.spare().is_some(), is_quick, "{time:?}");
            assert_eq!(slots.is_kept(), is_quick, "{time:?}");
            drop(spare);
        }
    }

    #[test]
    fn others_that_enter_get_their_slots_back() {
        let slots = slots_of(2);
        slots.ended(Duration::ZERO, true);
        let mine = slots.enter();
        let (spare, other) = (slots.spare().unwrap(), slots.enter());
        assert!(!slots.is_kept() && slots.spare().is_none());
        drop((spare, other));
        assert!(slots.is_kept() && slots.spare().is_some());
        drop(mine);
        assert_eq!(slots.made.used.load(SeqCst), 0);
    }

    #[test]
    fn those_over_one_count_share_their_slots() {
        let made = Arc::<RequestCount>::default();
        let [one, other] = [2, 3].map(|most| RequestSlots::new(most, made.clone()));
        one.ended(Duration::ZERO, true);
        let (_mine, _spare) = (one.enter(), other.spare().unwrap());
        assert!(one.spare().is_none());
        assert!(other.spare().is_some());
    }

    #[test]
    fn after_an_error_nothing_begins() {
        let (slots, begun) = (slots_of(MAX_REQUESTS), AtomicUsize::new(0));
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
