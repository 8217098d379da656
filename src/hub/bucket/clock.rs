//! The store's clock, as far as this hub knows it: no hub's own clock decides anything, since a router boots in 1970.

use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

use super::objects::ObjectStore;

/// Shared by the threads of one hub.
pub struct StoreClock {
    objects: Arc<dyn ObjectStore>,
    known: Mutex<StoreTime>,
}

#[derive(Default)]
struct StoreTime {
    /// The time of the latest response, and when it was heard by [`ObjectStore::monotonic`].
    heard: Option<(u64, u64)>,
    /// Hub time is never before this.
    least: u64,
    /// When the end of the log was last seen, by [`ObjectStore::monotonic`].
    end_at: Option<u64>,
}

impl StoreClock {
    pub fn new(objects: Arc<dyn ObjectStore>) -> StoreClock {
        StoreClock {
            objects,
            known: Mutex::default(),
        }
    }

    /// Records the time of a response.
    pub fn note_date(&self, date: u64) {
        let now = self.objects.monotonic();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let guess = known.guess(now).unwrap_or(0);
        known.heard = Some((date.max(guess), now));
    }

    /// Hub time continues after this.
    pub fn at_least(&self, age: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.least = known.least.max(age);
    }

    /// Hub time: never ahead of the store's clock, except that it never decreases.
    pub fn now(&self) -> u64 {
        let now = self.objects.monotonic();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.guess(now).unwrap_or(0).max(known.least)
    }

    /// The store's clock; `None`: it has not responded yet.
    pub fn store_time(&self) -> Option<u64> {
        let now = self.objects.monotonic();
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .guess(now)
    }

    pub fn reached_end(&self) {
        let now = self.objects.monotonic();
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end_at = Some(now);
    }

    /// Milliseconds since the view was that of the end of the log; `None`: never.
    pub fn view_age(&self) -> Option<u64> {
        let now = self.objects.monotonic();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Some(now.saturating_sub(known.end_at?))
    }
}

impl StoreTime {
    fn guess(&self, now: u64) -> Option<u64> {
        self.heard.map(|(date, at)| date + now.saturating_sub(at))
    }
}
