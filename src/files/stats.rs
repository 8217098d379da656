//! The current numbers and problems of one directory, for the status, the log and the hooks.
//!
//! No decision depends on them, and none of them is stored.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::conflict::is_copy;
use super::engine::traits::CompletedChange;
use super::plan::is_below;
use super::tree::scan::SkippedEntries;
use crate::clock;
use crate::error::{Error, Kind};

/// Paths that are named one by one, at most; further ones are only counted.
pub const NAMED: usize = 100;
/// Unsyncable paths that are remembered, at most; further ones are only counted.
const MAX_REFUSED_PATHS: usize = 10_000;
/// Waiting paths that are remembered, at most; further ones count as pending.
const MAX_WAITING: usize = 1000;
/// A path that has waited for this long is named.
pub const LONG_WAIT: Duration = Duration::from_secs(60);
/// A path that this machine refused is retried after this time, doubled each time up to the
/// maximum.
const RETRY_PAUSE: Duration = Duration::from_secs(15);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(900);
/// Refused paths that are retried at once, at most.
const MAX_RETRIES_AT_ONCE: usize = 256;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Facts>);

/// Counters since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DoneCounts {
    pub sent: u64,
    pub deleted: u64,
    pub placed: u64,
    pub removed: u64,
    pub set_aside: u64,
}

impl DoneCounts {
    pub fn add(&mut self, more: &DoneCounts) {
        self.sent += more.sent;
        self.deleted += more.deleted;
        self.placed += more.placed;
        self.removed += more.removed;
        self.set_aside += more.set_aside;
    }

    pub fn all(&self) -> u64 {
        self.sent + self.deleted + self.placed + self.removed + self.set_aside
    }
}

/// A snapshot of everything.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    pub counts: DoneCounts,
    /// Unsyncable paths with their reasons.
    pub refused: BTreeMap<String, Error>,
    /// Further unsyncable paths since the last full rescan began.
    more_refused: u64,
    /// When each path that this machine refused is retried, and the pause after that.
    retries: BTreeMap<String, (Instant, Duration)>,
    /// Paths that wait and were not settled since.
    waiting: BTreeMap<String, WaitingPath>,
    /// From the last full rescan.
    pub skipped: SkippedEntries,
    pub copies: u64,
    pub looked: bool,
    /// The current problem of the disk.
    pub no_space: Option<Error>,
    /// Why the ignore rules cannot be read.
    pub rules: Option<Error>,
    /// Why the last rescan failed.
    pub rescan: Option<Error>,
    /// Paths that others changed, since they were last reported.
    changed: VecDeque<String>,
    changed_count: u64,
    /// Paths with their conflict copies.
    set_aside: Vec<(String, String)>,
    in_sync_since: Option<SystemTime>,
}

/// A waiting path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WaitingPath {
    since: Instant,
    why: Error,
    logged: bool,
}

/// News for the hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// Changes by others were applied here: their number, and some of the paths.
    Changed {
        count: u64,
        paths: Vec<String>,
    },
    Conflict {
        path: String,
        copy: String,
    },
    /// The guard holds this many deletes.
    Held {
        count: u64,
        paths: Vec<String>,
    },
}

impl Stats {
    pub fn done(&self, what: CompletedChange<'_>) {
        let mut facts = self.lock();
        match what {
            CompletedChange::Sent { .. } => facts.counts.sent += 1,
            CompletedChange::Deleted { path } => {
                facts.counts.deleted += 1;
                facts.copies = facts.copies.saturating_sub(copy(path));
            }
            CompletedChange::Placed { path } => {
                facts.counts.placed += 1;
                facts.copies += copy(path);
                facts.changed(path);
            }
            CompletedChange::Removed { path } => {
                facts.counts.removed += 1;
                facts.copies = facts.copies.saturating_sub(copy(path));
                facts.changed(path);
            }
            CompletedChange::SetAside { path, copy } => {
                facts.counts.set_aside += 1;
                facts.copies += 1;
                if facts.set_aside.len() < NAMED {
                    facts.set_aside.push((path.into(), copy.into()));
                }
            }
        }
    }

    /// Records an unsyncable path; returns whether that is new. A path that this machine refused is retried nevertheless,
    /// because no event reports that a mount or an attribute is gone.
    pub fn refused(&self, path: &str, error: &Error, now: Instant) -> bool {
        let mut facts = self.lock();
        facts.waiting.remove(path);
        if error.kind != Kind::Refused
            && (facts.retries.len() < MAX_REFUSED_PATHS || facts.retries.contains_key(path))
        {
            let pause = facts
                .retries
                .get(path)
                .map_or(RETRY_PAUSE, |(_, pause)| *pause);
            facts.retries.insert(
                path.to_string(),
                (now + pause, (pause * 2).min(RETRY_PAUSE_MAX)),
            );
        }
        if facts.refused.len() >= MAX_REFUSED_PATHS && !facts.refused.contains_key(path) {
            facts.more_refused += 1;
            return false;
        }
        facts
            .refused
            .insert(path.to_string(), error.clone())
            .as_ref()
            != Some(error)
    }

    pub fn settled(&self, path: &str) {
        let mut facts = self.lock();
        facts.refused.remove(path);
        facts.retries.remove(path);
        facts.waiting.remove(path);
    }

    /// Records a path that waits for another one.
    pub fn waits(&self, path: &str, why: Error, now: Instant) {
        let mut facts = self.lock();
        if let Some(waiting) = facts.waiting.get_mut(path) {
            waiting.why = why;
        } else if facts.waiting.len() < MAX_WAITING {
            facts.waiting.insert(
                path.to_string(),
                WaitingPath {
                    since: now,
                    why,
                    logged: false,
                },
            );
        }
    }

    /// Paths that have waited for long and were not reported yet.
    pub fn long_waits(&self, now: Instant) -> Vec<(String, String)> {
        let mut facts = self.lock();
        let mut long = Vec::new();
        for (path, waiting) in facts
            .waiting
            .iter_mut()
            .filter(|(_, w)| !w.logged && now >= w.since + LONG_WAIT)
        {
            waiting.logged = true;
            long.push((path.clone(), waiting.why.to_string()));
        }
        long
    }

    /// Refused paths whose time to retry has come.
    pub fn take_retries(&self, now: Instant) -> Vec<String> {
        let mut facts = self.lock();
        let due: Vec<String> = facts
            .retries
            .iter()
            .filter(|(_, (at, _))| *at <= now)
            .map(|(p, _)| p.clone())
            .take(MAX_RETRIES_AT_ONCE)
            .collect();
        for path in &due {
            if let Some((at, pause)) = facts.retries.get_mut(path) {
                // until it is refused again
                *at = now + *pause;
            }
        }
        due
    }

    /// When the next retry or report is due.
    pub fn next(&self) -> Option<Instant> {
        let facts = self.lock();
        let long = facts
            .waiting
            .values()
            .filter(|w| !w.logged)
            .map(|w| w.since + LONG_WAIT);
        facts.retries.values().map(|(at, _)| *at).chain(long).min()
    }

    /// Refused paths below a directory; they may be gone with it.
    pub fn refused_below(&self, dir: &str) -> Vec<String> {
        self.lock()
            .refused
            .keys()
            .filter(|path| dir.is_empty() || is_below(path, dir))
            .cloned()
            .collect()
    }

    pub fn is_refused(&self, path: &str) -> bool {
        self.lock().refused.contains_key(path)
    }

    /// Called when a rescan begins, which finds the unsyncable paths again.
    pub fn rescan_begins(&self) {
        self.lock().more_refused = 0;
    }

    pub fn no_space(&self, why: Option<Error>) -> bool {
        std::mem::replace(&mut self.lock().no_space, why.clone()).is_none() && why.is_some()
    }

    /// Records why the ignore rules cannot be read; returns whether that is new.
    pub fn rules(&self, why: Option<Error>) -> bool {
        let new = why.is_some();
        std::mem::replace(&mut self.lock().rules, why.clone()) != why && new
    }

    pub fn rescanned(&self, skipped: SkippedEntries, copies: u64) {
        let mut facts = self.lock();
        (facts.skipped, facts.copies, facts.looked) = (skipped, copies, true);
        facts.rescan = None;
    }

    pub fn rescan_failed(&self, why: Error) {
        self.lock().rescan = Some(why);
    }

    /// Records whether everything is in sync; returns since when.
    pub fn in_sync(&self, yes: bool) -> Option<SystemTime> {
        let mut facts = self.lock();
        facts.in_sync_since = if yes {
            facts.in_sync_since.or_else(|| Some(clock::now()))
        } else {
            None
        };
        facts.in_sync_since
    }

    /// News that was not reported yet. Changes only with `all`, after they have come to an end.
    pub fn news(&self, all: bool) -> Vec<Notification> {
        let mut facts = self.lock();
        let mut news: Vec<Notification> = facts
            .set_aside
            .drain(..)
            .map(|(path, copy)| Notification::Conflict { path, copy })
            .collect();
        if all && facts.changed_count > 0 {
            let count = std::mem::take(&mut facts.changed_count);
            news.push(Notification::Changed {
                count,
                paths: facts.changed.drain(..).collect(),
            });
        }
        news
    }

    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    pub fn counts(&self) -> DoneCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 1 for a conflict copy. Their number is exact after each full rescan, and approximate until the next.
fn copy(path: &str) -> u64 {
    u64::from(is_copy(path))
}

impl Facts {
    /// Paths that have waited for at least this long, with the reason.
    pub fn waiting(
        &self,
        now: Instant,
        least: Duration,
    ) -> impl Iterator<Item = (&String, &Error)> {
        self.waiting
            .iter()
            .filter(move |(_, w)| now >= w.since + least)
            .map(|(path, w)| (path, &w.why))
    }

    /// The kinds of everything that keeps the directory from being in sync.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let one = [&self.no_space, &self.rules, &self.rescan];
        one.into_iter()
            .flatten()
            .chain(self.refused.values())
            .chain(self.waiting.values().map(|waiting| &waiting.why))
            .map(|e| e.kind)
            .chain(self.skipped.failure)
    }

    /// How many paths are unsyncable.
    pub fn refused(&self) -> u64 {
        self.refused.len() as u64 + self.more_refused
    }

    fn changed(&mut self, path: &str) {
        self.changed_count += 1;
        if self.changed.len() >= NAMED {
            self.changed.pop_front();
        }
        self.changed.push_back(path.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn unsyncable_paths_are_counted_and_named_up_to_a_number() {
        let (stats, no, now) = (
            Stats::default(),
            Error::new(Kind::Failed, "no"),
            crate::clock::monotonic(),
        );
        (0..MAX_REFUSED_PATHS + 5).for_each(|n| {
            assert_eq!(
                stats.refused(&format!("d/{n:06}"), &no, now),
                n < MAX_REFUSED_PATHS
            )
        });
        assert!(!stats.refused("d/000000", &no, now) && !stats.refused("x", &no, now));
        let facts = stats.facts();
        assert_eq!(
            (facts.refused.len(), facts.refused()),
            (MAX_REFUSED_PATHS, MAX_REFUSED_PATHS as u64 + 6)
        );
        assert_eq!(
            (
                stats.refused_below("d").len(),
                stats.refused_below("e").len()
            ),
            (MAX_REFUSED_PATHS, 0)
        );
        stats
            .refused_below("d")
            .iter()
            .for_each(|path| stats.settled(path));
        assert_eq!(stats.facts().refused(), 6);
        stats.rescan_begins();
        assert_eq!(stats.facts().refused(), 0);
    }

    #[test]
    fn locally_refused_paths_are_retried_with_growing_pauses_and_those_of_the_hub_are_not() {
        let (stats, now) = (Stats::default(), crate::clock::monotonic());
        let after = |seconds| now + Duration::from_secs(seconds);
        let here = Error::new(Kind::CannotCreate, "operation not permitted");
        stats.refused("a", &here, now);
        stats.refused("b", &Error::new(Kind::Refused, "too long"), now);
        assert_eq!(
            (stats.take_retries(after(14)), stats.next()),
            (vec![], Some(after(15)))
        );
        assert_eq!(stats.take_retries(after(15)), ["a"]);
        stats.refused("a", &here, after(15));
        assert_eq!(
            (stats.take_retries(after(44)), stats.take_retries(after(45))),
            (vec![], vec!["a".to_string()])
        );
        let mut at = 45;
        for pause in [60, 120, 240, 480, 900, 900] {
            stats.refused("a", &here, after(at));
            at += pause;
            assert_eq!(
                (
                    stats.take_retries(after(at - 1)),
                    stats.take_retries(after(at))
                ),
                (vec![], vec!["a".to_string()]),
                "{pause}"
            );
        }
        stats.settled("a");
        assert_eq!(
            (
                stats.take_retries(after(99_999)),
                stats.next(),
                stats.facts().refused()
            ),
            (vec![], None, 1)
        );
    }

    #[test]
    fn a_path_that_waits_for_long_is_named_once_with_its_latest_reason() {
        let (stats, now) = (Stats::default(), crate::clock::monotonic());
        let after = |seconds| now + Duration::from_secs(seconds);
        let why = |words: &str| Error::new(Kind::Busy, words);
        stats.waits("a", why("first"), now);
        stats.waits("b", why("soon done"), after(30));
        assert_eq!(
            (stats.long_waits(after(59)), stats.next()),
            (vec![], Some(after(60)))
        );
        stats.waits("a", why("second"), after(59));
        let named = |at| {
            stats
                .facts()
                .waiting(after(at), LONG_WAIT)
                .map(|(p, w)| format!("{p} {w}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (named(59), named(60)),
            (vec![], vec!["a second".to_string()])
        );
        assert_eq!(
            stats.long_waits(after(60)),
            [("a".to_string(), "second".to_string())]
        );
        assert_eq!(
            (stats.long_waits(after(61)), stats.next()),
            (vec![], Some(after(90)))
        );
        stats.settled("b");
        stats.refused("a", &Error::new(Kind::Refused, "no"), after(61));
        assert_eq!((named(500), stats.next()), (vec![], None));
    }
}
