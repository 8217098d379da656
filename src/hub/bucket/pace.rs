//! When a hub writes to a shared log, and when it polls it: hubs that write as fast as they can starve each other, because the
//! winner sends its next entry while the others still read this one.
//!
//! Pure.

use uuid::Uuid;

/// Milliseconds between two polls of the end of the log just after something has happened.
pub const SHORTEST_POLL_MILLIS: u64 = 250;
/// Milliseconds for which it does so, at most: one slow request must not silence a hub.
const LONGEST_GIVE_WAY_MILLIS: u64 = 2_000;
/// Milliseconds for which a hub that has written counts as one that wants to write again.
const RIVAL_MILLIS: u64 = 2_000;

/// How hubs make room for each other. Times are of `ObjectStore::monotonic`.
#[derive(Default)]
pub struct CommitPace {
    /// Milliseconds between two entries of this hub, at least.
    pub window: u64,
    /// Of the last `PUT` and the last `GET`: milliseconds.
    pub put: u64,
    pub get: u64,
    /// Other hubs, and when an entry of each was last seen.
    pub rivals: Vec<(Uuid, u64)>,
    pub hold_until: u64,
}

/// When to poll for entries of other hubs. Times are of `ObjectStore::monotonic`, in milliseconds.
pub struct PollSchedule {
    pub last: u64,
    /// Doubles while nothing happens.
    pub interval: u64,
    pub longest: u64,
}

impl CommitPace {
    /// An entry of another hub was seen.
    pub fn saw(&mut self, hub: Uuid, now: u64) {
        self.rivals.retain(|(other, _)| *other != hub);
        self.rivals.push((hub, now));
    }

    /// How many others write too.
    fn rivals(&mut self, now: u64) -> u64 {
        let is_active = |(_, at): &(Uuid, u64)| now.saturating_sub(*at) < RIVAL_MILLIS;
        self.rivals.retain(is_active);
        self.rivals.len() as u64
    }

    /// The longest pause after a race that another hub has won; a random part of it spreads those that lost. With a third of a turn
    /// for each, half of the requests win; without a pause, one of ten hubs' ten. `sim::fleet` measures it.
    pub fn lost(&mut self, now: u64) -> u64 {
        let turns = self.rivals(now) * (self.put + self.get);
        (turns / 3).min(LONGEST_GIVE_WAY_MILLIS)
    }

    /// An entry of this hub was written: the others have a turn each, of a `PUT` and a `GET`.
    pub fn won(&mut self, now: u64) {
        let give_way = match self.rivals(now) {
            0 => 0,
            rivals => (1 + rivals) * (self.put + self.get),
        };
        self.hold_until = now + self.window.max(give_way.min(LONGEST_GIVE_WAY_MILLIS));
    }
}
