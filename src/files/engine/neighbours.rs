//! Moves between directories of one process: whether a content that is gone from one has come into another.
//!
//! Each of the two engines sees half of a move, deletes or new files. A delete is not counted by the guard if a file with the same
//! bytes has come into another directory lately and is in sync there, so that the hub has it. Each such file is the move of one
//! deleted file only. It changes nothing in the other directory.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, Weak};

use super::send::MAX_EQUAL_FILES;
use super::traits::Called;
use super::{Engine, lock};
use crate::clock;
use crate::config::limits;
use crate::files::delete_guard::WINDOW_MINUTES;
use crate::files::plan::Stamp;
use crate::wire::files::Hash;

pub(super) const MOVED_PERHAPS: &str =
    "it may have been moved to another synced directory, which is synced first";

/// Engines that know of each other. Names of directories tell them apart, also after they were opened again.
#[derive(Default)]
pub struct Neighbours(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    engines: BTreeMap<String, Weak<Engine>>,
    moves: Moves,
}

/// Which file is the move of which: directory and path of what came, and of what is gone.
#[derive(Default)]
struct Moves {
    gone: BTreeMap<(String, String), (String, String)>,
    minute: u64,
}

impl Moves {
    /// Takes a file that came for one that is gone, unless it is taken for another one already.
    fn take(&mut self, came: (String, String), gone: (&str, &str), minute: u64) -> bool {
        // older ones count no more, and a few too many do no harm
        if minute >= self.minute + WINDOW_MINUTES {
            (self.gone, self.minute) = (BTreeMap::new(), minute);
        }
        if self.gone.len() >= limits::DUE {
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

/// The last component.
fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Where an engine is among its neighbours.
pub(super) struct Place {
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
    /// Tells the engines of other directories of this one; once.
    pub fn join(self: &Arc<Engine>, neighbours: &Arc<Neighbours>, dir: &str) {
        lock(&neighbours.0)
            .engines
            .insert(dir.to_string(), Arc::downgrade(self));
        let _ = self.neighbours.set(Place {
            of: neighbours.clone(),
            dir: dir.to_string(),
        });
    }

    /// Whether what is gone from here has come into another directory, and is in sync there.
    pub(super) fn came_elsewhere(&self, path: &str, hash: &Hash) -> bool {
        let Some(Place { of, dir }) = self.neighbours.get() else {
            return false;
        };
        for (other, engine) in of.others(dir) {
            // what is wrong there is said there
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
                if !is_free || !engine.has_come(&came.1, hash).unwrap_or(false) {
                    continue;
                }
                if lock(&of.0).moves.take(came, (dir, path), self.minute()) {
                    return true;
                }
            }
        }
        false
    }

    /// Whether that is still to be seen: another directory is being looked at, or has a file with these bytes to sync.
    pub(super) fn may_come_elsewhere(&self, hash: &Hash) -> bool {
        let Some(Place { of, dir }) = self.neighbours.get() else {
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

    /// Whether deletes wait that may be moves.
    pub fn deletes_wait(&self) -> bool {
        self.neighbours
            .get()
            .is_some_and(|place| !place.of.others(&place.dir).is_empty())
            && self.queue().counted_deletes() > 0
    }

    /// How many new contents other directories have synced so far: deletes that are held may be moves by now.
    pub fn arrivals_elsewhere(&self) -> u64 {
        let Some(Place { of, dir }) = self.neighbours.get() else {
            return 0;
        };
        of.others(dir)
            .iter()
            .map(|(_, engine)| engine.arrivals.load(SeqCst))
            .sum()
    }

    /// Whether this file is in sync with these bytes, and came lately: a rename, a copy and a download set its ctime.
    fn has_come(&self, path: &str, hash: &Hash) -> Called<bool> {
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
