//! Detects moves between directories of one process: content that left one directory and arrived in
//! another.
//!
//! Each of the two engines sees half of a move: a delete, or a new file. The guard does not count a
//! delete if a file with the same bytes arrived in another directory recently and is in sync there,
//! so that the hub has it. Each such file pairs with one deleted file only. This module changes
//! nothing in the other directory.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, Weak};

use super::renames::MAX_EQUAL_FILES;
use super::traits::CallResult;
use super::{Engine, lock};
use crate::clock;
use crate::config::limits;
use crate::files::delete_guard::WINDOW_MINUTES;
use crate::files::plan::Stamp;
use crate::wire::files::Hash;

pub(super) const MOVED_PERHAPS: &str =
    "it may have been moved to another synced directory, which is synced first";

/// Engines that know each other, by the names of their directories, which stay the same when a
/// directory is reopened.
#[derive(Default)]
pub struct Neighbours(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    engines: BTreeMap<String, Weak<Engine>>,
    moves: MovePairs,
}

/// Pairs of moves: directory and path of the new file, and of the deleted one.
#[derive(Default)]
struct MovePairs {
    gone: BTreeMap<(String, String), (String, String)>,
    minute: u64,
}

impl MovePairs {
    /// Pairs a new file with a deleted one, unless it is paired with another already.
    fn take(&mut self, came: (String, String), gone: (&str, &str), minute: u64) -> bool {
        // older pairs no longer count; a few too many do no harm
        if minute >= self.minute + WINDOW_MINUTES {
            (self.gone, self.minute) = (BTreeMap::new(), minute);
        }
        if self.gone.len() >= limits::PATHS_OUT_OF_SYNC {
            return false;
        }
        let (dir, path) = self
            .gone
            .entry(came)
            .or_insert_with(|| (gone.0.to_string(), gone.1.to_string()));
        (dir.as_str(), path.as_str()) == gone
    }

    fn is_free(&self, came: &(String, String), gone: (&str, &str)) -> bool {
        self.gone
            .get(came)
            .is_none_or(|(dir, path)| (dir.as_str(), path.as_str()) == gone)
    }
}

/// The last component of a path.
fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Where an engine is among its neighbours.
pub(super) struct NeighbourPlace {
    of: Arc<Neighbours>,
    dir: String,
}

impl Neighbours {
    fn others(&self, dir: &str) -> Vec<(String, Arc<Engine>)> {
        let shared = lock(&self.0);
        let others = shared.engines.iter().filter(|(name, _)| *name != dir);
        others
            .filter_map(|(name, engine)| Some((name.clone(), engine.upgrade()?)))
            .collect()
    }
}

impl Engine {
    /// Registers this engine with those of the other directories; called once.
    pub fn join(self: &Arc<Engine>, neighbours: &Arc<Neighbours>, dir: &str) {
        lock(&neighbours.0)
            .engines
            .insert(dir.to_string(), Arc::downgrade(self));
        let _ = self.neighbours.set(NeighbourPlace {
            of: neighbours.clone(),
            dir: dir.to_string(),
        });
    }

    /// Whether the content that left this directory has arrived in another one, and is in sync
    /// there.
    pub(super) fn arrived_elsewhere(&self, path: &str, hash: &Hash) -> bool {
        let Some(NeighbourPlace { of, dir }) = self.neighbours.get() else {
            return false;
        };
        for (other, engine) in of.others(dir) {
            // the other directory reports its own errors
            for candidate in engine
                .env
                .state
                .with_hash(hash, MAX_EQUAL_FILES)
                .unwrap_or_default()
            {
                let came = (other.clone(), candidate);
                // empty files are equal by chance
                if *hash == Hash::of(b"") && name(&came.1) != name(path) {
                    continue;
                }
                let is_free = lock(&of.0).moves.is_free(&came, (dir, path));
                if !is_free || !engine.has_arrived(&came.1, hash).unwrap_or(false) {
                    continue;
                }
                if lock(&of.0).moves.take(came, (dir, path), self.minute()) {
                    return true;
                }
            }
        }
        false
    }

    /// Whether the content may still arrive: another directory is being rescanned, or has a pending
    /// file with these bytes.
    pub(super) fn may_arrive_elsewhere(&self, hash: &Hash) -> bool {
        let Some(NeighbourPlace { of, dir }) = self.neighbours.get() else {
            return false;
        };
        let others = of.others(dir);
        let comes = others.iter().any(|(_, engine)| engine.queue().brings(hash));
        comes
            || self.is_burst_young()
                && others
                    .iter()
                    .any(|(_, engine)| !engine.is_drained() || engine.queue().examines())
    }

    /// Whether pending deletes may be moves.
    pub fn deletes_wait(&self) -> bool {
        self.neighbours
            .get()
            .is_some_and(|place| !place.of.others(&place.dir).is_empty())
            && self.queue().counted_deletes() > 0
    }

    /// How many new contents the other directories have synced so far; held deletes may turn out to
    /// be moves when this grows.
    pub fn arrivals_elsewhere(&self) -> u64 {
        let Some(NeighbourPlace { of, dir }) = self.neighbours.get() else {
            return 0;
        };
        of.others(dir)
            .iter()
            .map(|(_, engine)| engine.arrivals.load(SeqCst))
            .sum()
    }

    /// Whether this file is in sync with these bytes and arrived recently: rename, copy and
    /// download all set its ctime.
    fn has_arrived(&self, path: &str, hash: &Hash) -> CallResult<bool> {
        let rows = self.env.state.rows(path)?;
        let same = rows.base.entry.is_some_and(|entry| entry.hash == *hash)
            && rows.base.is_at(&rows.remote);
        let Some(seen) = rows
            .base
            .seen
            .filter(|_| same && rows.intent.is_none() && rows.key.is_none())
        else {
            return Ok(false);
        };
        let age = clock::millis(self.env.ambient.now())
            .abs_diff(u64::try_from(seen.ctime / 1_000_000).unwrap_or(0));
        if age > WINDOW_MINUTES * 60_000 {
            return Ok(false);
        }
        // the filesystem may keep another mode
        let untouched = |now: Stamp| {
            Stamp {
                mode: seen.mode,
                ..now
            } == seen
        };
        Ok(self.env.tree.stamp(path)?.is_some_and(untouched))
    }
}
