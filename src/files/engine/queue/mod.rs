//! Which paths are pending, which are being worked on, and which is next.
//!
//! Pure: the workers report their results to it. It is bounded; a path that does not fit is found again by the next rescan.
//! Two paths are never worked on at the same time if they are equal or one is an ancestor of the other.
//!
//! A path is first *examined* (inspected and planned), then *carried out*. Deletes wait until everything that was pending
//! with them has been examined: only then is it known how many there are, and which are half of a rename.

mod claims;
mod contents;
mod item;
mod ready;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::files::plan::{is_below, parent};
use crate::wire::files::Hash;

use super::traits::DeleteToken;
use claims::is_blocked;
use item::{QueueState, QueuedPath};
use ready::{ReadyPaths, is_long};

pub use item::{Direction, Examined, GroupSize, Precedence, Task, WorkEnd};

/// Bytes of the contents of a group, at most; a file that does not travel with others is a group of its own.
const GROUP_BYTES: u64 = crate::config::limits::GROUP_BYTES;

/// Paths that are due at one time, at most.
pub const MAX_DUE_PATHS: usize = crate::config::limits::PATHS_OUT_OF_SYNC;

/// Consecutive steps for one path, after which it waits like a failed one. Regular work needs fewer
/// than ten.
const MAX_TURNS: u32 = 50;

#[derive(Debug, Default)]
pub struct WorkQueue {
    due: BTreeMap<Arc<str>, QueuedPath>,
    unexamined: BTreeMap<u64, Arc<str>>,
    /// Without those that are being carried out.
    ready: BTreeMap<(Precedence, Direction), ReadyPaths>,
    /// Paths that are being worked on.
    busy: BTreeSet<String>,
    /// Deletes, with the revisions of base and hub and the hash of the content.
    deletes: BTreeMap<Arc<str>, (u64, u64, Hash)>,
    deleted: BTreeSet<(Hash, Arc<str>)>,
    fresh: BTreeSet<(Hash, Direction, Arc<str>)>,
    next_seq: u64,
    held: usize,
    passing: BTreeSet<String>,
    /// Cached number of deletes that cannot be half of a rename.
    single: Cell<Option<u64>>,
    overflow: bool,
}

impl WorkQueue {
    /// Makes a path pending. `false`: the queue is full; a rescan finds the path.
    pub fn offer(&mut self, path: &str) -> bool {
        if let Some(due) = self.due.get_mut(path) {
            if self.busy.contains(path) {
                due.offered_again = true;
            } else if due.stage != QueueState::New {
                self.restart(path);
            }
            return true;
        }
        if self.due.len() >= MAX_DUE_PATHS {
            self.overflow = true;
            return false;
        }
        self.begin(path, 0);
        true
    }

    fn begin(&mut self, path: &str, turns: u32) {
        let (seq, path) = (self.seq(), Arc::<str>::from(path));
        self.due.insert(
            path.clone(),
            QueuedPath {
                seq,
                stage: QueueState::New,
                offered_again: false,
                fresh: None,
                bytes: 0,
                turns,
            },
        );
        self.unexamined.insert(seq, path);
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// Resets a path to unexamined. Until it has been examined again, it counts as what it was.
    fn restart(&mut self, path: &str) {
        let token = self.deletes.get(path).copied();
        let turns = self.due.get(path).map_or(0, |d| d.turns);
        self.forget(path);
        if token.is_some() {
            self.count_delete(path, token);
        }
        self.begin(path, turns);
    }

    fn forget(&mut self, path: &str) {
        let Some(due) = self.due.remove(path) else {
            return;
        };
        self.unexamined.remove(&due.seq);
        self.held -= usize::from(due.stage == QueueState::Held);
        if let QueueState::Ready(rank, way) = due.stage {
            self.ready.entry((rank, way)).or_default().remove(path);
        }
        if let Some((hash, way)) = due.fresh {
            self.fresh.remove(&(hash, way, path.into()));
            self.single.set(None);
        }
        self.count_delete(path, None);
    }

    fn count_delete(&mut self, path: &str, delete: Option<(u64, u64, Hash)>) {
        match delete {
            Some(delete) => {
                self.uncount(path);
                self.deleted.insert((delete.2, path.into()));
                self.deletes.insert(path.into(), delete);
            }
            None if !self.uncount(path) => return,
            None => {}
        }
        self.single.set(None);
    }

    fn uncount(&mut self, path: &str) -> bool {
        let was = self.deletes.remove(path);
        was.is_some_and(|(.., hash)| self.deleted.remove(&(hash, path.into())))
    }

    /// Returns the next work, the same for so many paths. `last`: nothing of a later precedence is carried out now. `way`:
    /// only work in this direction, and examinations.
    pub fn next(
        &mut self,
        last: Precedence,
        way: Option<Direction>,
        size: GroupSize,
    ) -> Option<(Vec<String>, Task)> {
        let most = size.most;
        // those that others examine are among them, and are many
        let unexamined = self.unexamined.values();
        let free = unexamined.filter(|p| !self.busy.contains(p.as_ref()));
        let examine: Vec<String> = free.take(most).map(|p| p.to_string()).collect();
        if !examine.is_empty() {
            self.busy.extend(examine.iter().cloned());
            return Some((examine, Task::Examine));
        }
        // a path that is being examined is still in this list
        let first = self.unexamined.keys().next().copied().unwrap_or(u64::MAX);
        // one that has been renamed meanwhile would count as a delete until it is examined
        let (unexamined, deletes) = (&self.unexamined, &self.deletes);
        let is_in_doubt = || unexamined.values().any(|p| deletes.contains_key(p));
        for ((rank, _), ready) in self
            .ready
            .iter_mut()
            .filter(|((_, to), paths)| way.is_none_or(|way| way == *to) && paths.len() > 0)
        {
            if *rank > last
                || !ready.are_worth_a_group(size.least)
                || *rank == Precedence::Delete && is_in_doubt()
            {
                // nothing of a later precedence overtakes them
                return None;
            }
            let (mut group, mut bytes) = (Vec::new(), 0);
            for (path, size) in ready.iter() {
                let before = self.due.get(path).is_some_and(|d| d.seq < first);
                if *rank == Precedence::Delete && !before
                    || !group.is_empty() && (bytes + size > GROUP_BYTES || is_long(size))
                    || is_blocked(&self.busy, path)
                {
                    continue;
                }
                self.busy.insert(path.to_string());
                group.push(path.to_string());
                bytes += size;
                if bytes > GROUP_BYTES || is_long(size) || group.len() == most {
                    break;
                }
            }
            group.iter().for_each(|path| ready.remove(path));
            if !group.is_empty() {
                return Some((group, Task::CarryOut));
            }
        }
        None
    }

    /// Whether the content of this path travels alone.
    pub fn is_long(&self, path: &str) -> bool {
        self.due.get(path).is_some_and(|d| is_long(d.bytes))
    }

    /// Removes pending paths that nothing works on. -> those that were pending.
    pub fn withdraw<'a>(&mut self, paths: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
        let is_free = |path: &&String| self.is_due(path) && !self.busy.contains(*path);
        let withdrawn: Vec<&String> = paths.filter(is_free).collect();
        withdrawn.iter().for_each(|path| self.forget(path));
        withdrawn
    }

    /// Records the result of work on a path. `true`: too many consecutive steps; the path waits.
    pub fn ended(&mut self, path: &str, end: WorkEnd) -> bool {
        self.busy.remove(path);
        self.passing.remove(path);
        let progress = end == WorkEnd::Progress;
        let mut parked = false;
        let offered_again = self.due.get(path).is_some_and(|d| d.offered_again);
        let turns = self.due.get_mut(path).map_or(0, |d| {
            d.turns = match end {
                WorkEnd::Progress => d.turns + 1,
                WorkEnd::Examined(_) => d.turns,
                _ => 0,
            };
            d.turns
        });
        match end {
            // a hub that confirms changes without making them would keep the workers busy forever
            WorkEnd::Progress if turns >= MAX_TURNS => {
                parked = true;
                self.set_stage(path, QueueState::Waiting);
            }
            _ if offered_again || progress => self.restart(path),
            WorkEnd::Progress | WorkEnd::Settled | WorkEnd::Dropped => self.forget(path),
            WorkEnd::Examined(found) => self.examined(path, found),
            WorkEnd::Wait(ref other) => {
                if let Some(other) = other {
                    self.offer(other);
                }
                self.set_stage(path, QueueState::Waiting);
            }
            WorkEnd::Postponed => {
                let stage = match self.due.get(path).map(|d| d.stage) {
                    Some(QueueState::Ready(Precedence::Change, way)) => {
                        QueueState::Ready(Precedence::Postponed, way)
                    }
                    _ => QueueState::Waiting,
                };
                self.set_stage(path, stage);
            }
            WorkEnd::Held => self.set_stage(path, QueueState::Held),
        }
        if progress {
            self.wake_around(path);
        }
        parked
    }

    fn examined(&mut self, path: &str, found: Examined) {
        match found.counted {
            Some((token, hash)) => self.count_delete(path, Some((token.base, token.remote, hash))),
            None => self.count_delete(path, None),
        }
        if let Some((hash, way)) = found.fresh {
            self.fresh.insert((hash, way, path.into()));
            self.single.set(None);
        }
        if let Some(due) = self.due.get_mut(path) {
            (due.fresh, due.bytes) = (found.fresh, found.bytes);
        }
        self.set_stage(path, QueueState::Ready(found.rank, found.way));
        // everything offered until now is handled before this delete
        let seq = self.seq();
        if let Some(due) = self.due.get_mut(path) {
            due.seq = seq;
        }
    }

    fn set_stage(&mut self, path: &str, stage: QueueState) {
        let Some(due) = self.due.get_mut(path) else {
            return;
        };
        if let QueueState::Ready(rank, way) = due.stage {
            self.ready.entry((rank, way)).or_default().remove(path);
        }
        self.unexamined.remove(&due.seq);
        self.held = self.held + usize::from(stage == QueueState::Held)
            - usize::from(due.stage == QueueState::Held);
        due.stage = stage;
        if let QueueState::Ready(rank, way) = stage {
            let bytes = due.bytes;
            if let Some((path, _)) = self.due.get_key_value(path) {
                let ready = self.ready.entry((rank, way)).or_default();
                ready.insert(path.clone(), bytes);
            }
        }
    }

    /// Wakes the paths above and below a path that made progress.
    fn wake_around(&mut self, path: &str) {
        let above = std::iter::successors(parent(path), |p| parent(p)).map(str::to_string);
        let from = format!("{path}/");
        let from = (Bound::Included(from.as_str()), Bound::Unbounded);
        let below = self
            .due
            .range::<str, _>(from)
            .map(|(p, _)| p)
            .take_while(|p| is_below(p, path))
            .map(|p| p.to_string());
        let waits = |p: &String| {
            self.due
                .get(p.as_str())
                .is_some_and(|d| d.stage == QueueState::Waiting)
        };
        let around: Vec<String> = above.chain(below).filter(waits).collect();
        around.iter().for_each(|p| self.restart(p));
    }

    /// Makes all waiting paths pending; with `held` also the held ones, because the guard's limit
    /// may have changed.
    pub fn wake(&mut self, held: bool) {
        let waits =
            |d: &QueuedPath| d.stage == QueueState::Waiting || held && d.stage == QueueState::Held;
        let paths: Vec<Arc<str>> = self
            .due
            .iter()
            .filter(|(p, d)| waits(d) && !self.busy.contains(p.as_ref()))
            .map(|(p, _)| p.clone())
            .collect();
        paths.iter().for_each(|p| self.restart(p));
    }

    /// Discards all results of examinations.
    pub fn forget_examined(&mut self) {
        let paths: Vec<Arc<str>> = self
            .due
            .keys()
            .filter(|p| !self.busy.contains(p.as_ref()))
            .cloned()
            .collect();
        paths.iter().for_each(|p| self.restart(p));
        self.busy.iter().for_each(|p| {
            if let Some(due) = self.due.get_mut(p.as_str()) {
                due.offered_again = true;
            }
        });
    }

    /// Pending deletes that the guard counts, held or not; approved ones are excluded.
    pub fn deletes(&self) -> impl Iterator<Item = DeleteToken> {
        self.deletes
            .iter()
            .map(|(path, (base, remote, _))| DeleteToken {
                path: path.to_string(),
                base: *base,
                remote: *remote,
            })
    }

    /// The number of those deletes.
    pub fn counted_deletes(&self) -> usize {
        self.deletes.len()
    }

    pub fn is_counted(&self, path: &str) -> bool {
        self.deletes.contains_key(path)
    }

    /// The number of pending deletes other than that of `path`. If there are more than `enough`, those that may be half of a
    /// rename are excluded.
    pub fn other_deletes(&self, path: &str, enough: u64) -> u64 {
        let all = (self.deletes.len() - usize::from(self.deletes.contains_key(path))) as u64;
        if all <= enough || self.fresh.is_empty() {
            return all;
        }
        // holding this delete does not change the result for the next one
        let single = self.single.get().unwrap_or_else(|| {
            self.deletes
                .iter()
                .filter(|(p, (_, _, hash))| !self.has_twin(p, hash))
                .count() as u64
        });
        self.single.set(Some(single));
        let this = self
            .deletes
            .get(path)
            .is_some_and(|(_, _, hash)| !self.has_twin(path, hash));
        single - u64::from(this)
    }

    /// Counts the delete of a path that is being worked on after all.
    pub fn counts(&mut self, path: &str, token: &DeleteToken, hash: Hash) {
        self.count_delete(path, Some((token.base, token.remote, hash)));
    }

    /// Records that a delete was let through: it is counted elsewhere from now on.
    pub fn let_through(&mut self, path: &str) {
        self.count_delete(path, None);
        self.passing.insert(path.to_string());
    }

    /// Deletes that were let through and are running: the files they remove may still be counted as present.
    pub fn passing(&self) -> usize {
        self.passing.len()
    }

    /// Whether the last examination found these bytes to be new at this path.
    pub fn is_fresh(&self, path: &str) -> bool {
        self.due.get(path).is_some_and(|due| due.fresh.is_some())
    }

    /// Whether a pending path has not been examined yet.
    pub fn examines(&self) -> bool {
        !self.unexamined.is_empty()
    }

    pub fn is_due(&self, path: &str) -> bool {
        self.due.contains_key(path)
    }

    /// Whether a path is being worked on, or may be at once.
    pub fn is_under_way(&self, path: &str) -> bool {
        self.busy.contains(path)
            || self
                .due
                .get(path)
                .is_some_and(|d| matches!(d.stage, QueueState::New | QueueState::Ready(..)))
    }

    /// Pending paths, including waiting and held ones.
    pub fn count(&self) -> usize {
        self.due.len()
    }

    /// Whether there may be work in this direction that is not blocked by running work, for so many paths.
    pub fn has_work(&self, last: Precedence, way: Direction, least: usize) -> bool {
        let ready = |(key, paths): (&(Precedence, Direction), &ReadyPaths)| {
            key.1 == way && key.0 <= last && paths.are_worth_a_group(least)
        };
        !self.unexamined.is_empty() || self.ready.iter().any(ready)
    }

    /// Whether no work is running.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }

    /// The number of paths that the guard holds.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Like [`WorkQueue::count`], without examined deletes that are held or not carried out yet.
    pub fn active(&self) -> usize {
        let deletes: usize = [Direction::Up, Direction::Down]
            .iter()
            .filter_map(|way| self.ready.get(&(Precedence::Delete, *way)))
            .map(ReadyPaths::len)
            .sum();
        self.due.len() - deletes - self.held
    }

    /// Records that a path may have been dropped: a rescan is needed.
    pub fn overflowed(&mut self) {
        self.overflow = true;
    }

    /// Whether a path was dropped since the last call.
    pub fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflow)
    }
}

#[cfg(test)]
mod tests;
