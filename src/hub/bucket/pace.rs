//! When a hub writes to a shared log, and when it looks at it: hubs that write as fast as they can starve each other, because the
//! winner sends its next entry while the others still read this one.
//!
//! Pure.

/// Milliseconds between two looks at the end of the log just after something has happened.
pub const SHORTEST_LOOK_MILLIS: u64 = 250;
/// Milliseconds for which it does so, at most: one slow request must not silence a hub.
const LONGEST_GIVE_WAY_MILLIS: u64 = 2_000;
/// Milliseconds since an entry of another hub for which this hub gives way after its own.
const RIVAL_MILLIS: u64 = 1_000;

/// How hubs make room for each other. Times are of `ObjectStore::monotonic`.
#[derive(Default)]
pub struct CommitPace {
    /// Milliseconds between two entries of this hub, at least.
    pub window: u64,
    /// Of the last `PUT` and the last `GET`: milliseconds.
    pub put: u64,
    pub get: u64,
    pub rival_at: Option<u64>,
    pub hold_until: u64,
}

/// When to look for entries of other hubs. Times are of `ObjectStore::monotonic`, in milliseconds.
pub struct LookTimes {
    pub last: u64,
    /// Doubles while nothing happens.
    pub interval: u64,
    pub longest: u64,
}

impl CommitPace {
    /// An entry of this hub was written.
    pub fn won(&mut self, now: u64) {
        let has_rival = self
            .rival_at
            .is_some_and(|at| now.saturating_sub(at) < RIVAL_MILLIS);
        let give_way = if has_rival {
            (2 * (self.put + self.get)).min(LONGEST_GIVE_WAY_MILLIS)
        } else {
            0
        };
        self.hold_until = now + self.window.max(give_way);
    }
}
