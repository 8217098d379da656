//! Moves a directory as a whole that was renamed on the hub: one rename here, in place of one for each file.
//!
//! Only if everything below the old name was in sync here and has gone to the new one there; otherwise each file is renamed
//! by itself. Changes that a user makes meanwhile move along, and are found under the new name. It decides nothing about
//! single paths.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::limits::FULL_GROUP_PATHS;
use crate::config::watch::SyncMode;
use crate::files::plan::{Action, BaseRow, Entry, RemoteRow, Stamp, is_below};

use super::gather::GATHER_MAX;
use super::traits::{CompletedChange, Fault, Intent, Presence, RenameOutcome, Write};
use super::{Engine, Interrupted, QuietTimes, WorkOutcome, WorkReport, lock};

/// Directories that are expected to move at one time, at most.
const MAX_EXPECTED_MOVES: usize = 64;
/// Paths of a directory that is moved as a whole, at most: all are in memory.
const MAX_MOVED_PATHS: usize = 20_000;

/// The rest of a directory is awaited for so long, once so many of its files have arrived that there may be further requests.
const MORE_REQUESTS_WAIT: Duration = Duration::from_secs(2);

/// The old and the new name of a directory.
pub type DirectoryNames = (String, String);

/// Directories from which files were renamed on the hub into one that is missing here.
#[derive(Debug, Default)]
pub(super) struct ExpectedMoves(BTreeMap<DirectoryNames, ExpectedMove>);

/// Times count from an arbitrary start.
#[derive(Debug, Clone, Copy)]
struct ExpectedMove {
    /// When the first and the last of its files arrived.
    times: (Duration, Duration),
    files: usize,
    /// The hub was polled since it was tried.
    is_untried: bool,
}

/// A path below the old name.
struct MovedPath {
    old: String,
    new: String,
    seen: Option<Stamp>,
    /// The resulting bases of the old and the new path.
    then: (BaseRow, BaseRow),
}

/// Why a directory is not moved as a whole.
enum NotMoved {
    /// More of its files may still arrive under the new name.
    NotYet,
    Never,
}

/// Each path meets the error by itself.
impl From<Interrupted> for NotMoved {
    fn from(_: Interrupted) -> NotMoved {
        NotMoved::Never
    }
}

impl From<Fault> for NotMoved {
    fn from(_: Fault) -> NotMoved {
        NotMoved::Never
    }
}

impl Engine {
    /// Takes note of the renames on a page of the hub's changes.
    pub(super) fn expect_moves(&self, rows: &[(String, RemoteRow)]) {
        if self.options.mode == SyncMode::SendOnly {
            return;
        }
        let now = self.env.ambient.elapsed();
        let mut expected = lock(&self.expected_moves);
        let renamed = rows.iter().filter(|(_, row)| row.entry.is_none());
        for (old, new) in renamed.filter_map(|(old, row)| Some((old, row.renamed_to.as_ref()?))) {
            let known = expected.0.iter_mut().find(|((from, to), _)| {
                is_below(old, from) && is_below(new, to) && old[from.len()..] == new[to.len()..]
            });
            if let Some((_, found)) = known {
                found.times.1 = now;
                found.files += 1;
            } else if expected.0.len() < MAX_EXPECTED_MOVES
                && let Some(names) = self.renamed_directory(old, new)
            {
                let found = ExpectedMove {
                    times: (now, now),
                    files: 1,
                    is_untried: true,
                };
                expected.0.insert(names, found);
            }
        }
        expected
            .0
            .values_mut()
            .for_each(|found| found.is_untried = true);
    }

    /// The highest directories of two paths, of which the old one is here and the new one is missing, that have the rest
    /// of the paths in common.
    fn renamed_directory(&self, old: &str, new: &str) -> Option<DirectoryNames> {
        let common = old
            .rsplit('/')
            .zip(new.rsplit('/'))
            .take_while(|(one, other)| one == other)
            .count();
        // from the right
        let up = |path: &str, count: usize| {
            let dir = path.rsplitn(count + 1, '/').nth(count);
            dir.map(str::to_string)
        };
        (1..=common).rev().find_map(|count| {
            let (from, to) = (up(old, count)?, up(new, count)?);
            let is_apart = !is_below(&from, &to) && !is_below(&to, &from);
            let here = |path: &str| self.env.tree.stamp(path).map(|stamp| stamp.is_some());
            (is_apart && here(&to) == Ok(false) && here(&from) == Ok(true)).then_some((from, to))
        })
    }

    /// Whether a path is below a directory that is still expected to move to this place.
    pub(super) fn may_move_along(&self, path: &str) -> bool {
        let now = self.env.ambient.elapsed();
        let expected = lock(&self.expected_moves);
        let awaited = (expected.0.iter()).filter(|(_, found)| now < found.end(self.options.quiet));
        let mut places = awaited.map(|((_, to), _)| to);
        places.any(|to| path == to || is_below(path, to))
    }

    /// How long the files of directories that are expected to move wait for others.
    pub(super) fn moves_wait(&self) -> Duration {
        let now = self.env.ambient.elapsed();
        let expected = lock(&self.expected_moves);
        let left = |found: &ExpectedMove| found.end(self.options.quiet).saturating_sub(now);
        expected.0.values().map(left).max().unwrap_or_default()
    }

    /// Forgets those whose time has passed. `true`: their files can be carried out now.
    pub(super) fn forget_late_moves(&self) -> bool {
        let now = self.env.ambient.elapsed();
        let mut expected = lock(&self.expected_moves);
        let before = expected.0.len();
        expected
            .0
            .retain(|_, found| now < found.end(self.options.quiet));
        expected.0.len() < before
    }

    /// Whether a directory may be moved now.
    pub(super) fn has_move(&self) -> bool {
        let expected = lock(&self.expected_moves);
        let is_any = expected.0.values().any(|found| found.is_untried);
        is_any && *lock(&self.drained)
    }

    /// Takes the move of a directory, with both names claimed.
    pub(super) fn take_move(&self) -> Option<DirectoryNames> {
        if !self.has_move() {
            return None;
        }
        let mut expected = lock(&self.expected_moves);
        let mut queue = self.queue();
        let mut untried = expected.0.iter_mut().filter(|(_, found)| found.is_untried);
        untried.find_map(|((from, to), found)| {
            if !queue.claim(from) {
                return None;
            }
            if !queue.claim(to) {
                queue.release(from);
                return None;
            }
            found.is_untried = false;
            Some((from.clone(), to.clone()))
        })
    }

    /// Moves a directory that was taken, if all of it has gone to the new name. -> a report for each path.
    pub(super) fn carry_out_move(&self, names: DirectoryNames) -> Vec<WorkReport> {
        let (from, to) = (names.0.as_str(), names.1.as_str());
        // no row may change meanwhile; after a poll it is tried again
        let moved = match self.polling.try_lock() {
            Ok(_no_poll) => self.move_directory(from, to),
            Err(_) => Err(NotMoved::NotYet),
        };
        let mut queue = self.queue();
        queue.release(from);
        queue.release(to);
        drop(queue);
        if !matches!(moved, Err(NotMoved::NotYet)) {
            lock(&self.expected_moves).0.remove(&names);
        }
        let report = |path, outcome| WorkReport { path, outcome };
        let Ok(moved) = moved else {
            return vec![report(names.0, WorkOutcome::Looked)];
        };
        let paths = moved.into_iter().flat_map(|path| [path.old, path.new]);
        paths
            .map(|path| report(path, WorkOutcome::Settled))
            .collect()
    }

    fn move_directory(&self, from: &str, to: &str) -> Result<Vec<MovedPath>, NotMoved> {
        let generation = self.generation();
        let moved = self.moved_paths(from, to)?;
        self.wait_for_those_above(to, Action::Download)?;
        // paths that are offered from now on stay in the queue
        let paths = moved.iter().flat_map(|path| [&path.old, &path.new]);
        let withdrawn = self.queue().withdraw(paths);
        let done = self.move_whole(generation, (from, to), &moved);
        let mut queue = self.queue();
        if done.is_err() {
            for path in withdrawn {
                queue.offer(path);
            }
        }
        queue.offer(from);
        queue.offer(to);
        drop(queue);
        done.map(|()| moved)
    }

    /// Everything below the old name. Errors: not all of it has gone to the new name, or something was not in sync.
    fn moved_paths(&self, from: &str, to: &str) -> Result<Vec<MovedPath>, NotMoved> {
        let mut moved = Vec::new();
        self.at_and_below(to, &mut |_, rows| {
            let is_free = rows.base == BaseRow::default() && rows.intent.is_none();
            if is_free && rows.key.is_none() {
                Ok(true)
            } else {
                Err(NotMoved::Never)
            }
        })?;
        self.at_and_below(from, &mut |old, rows| {
            if rows.is_begun() || rows.base.lost {
                return Err(NotMoved::Never);
            }
            if rows.remote.entry.is_some() {
                return Err(NotMoved::NotYet);
            }
            let Some(was) = rows.base.entry else {
                return Ok(true);
            };
            let new = format!("{to}{}", &old[from.len()..]);
            if self.env.tree.ignored(old) || self.env.tree.ignored(&new) {
                return Err(NotMoved::Never);
            }
            let theirs = self.env.state.rows(&new)?.remote;
            let is_same = |new: &Entry| {
                let time = new.is_dir() || new.mtime == was.mtime;
                new.same_body(&was) && new.mode == was.mode && time
            };
            match &theirs.entry {
                Some(new) if is_same(new) => {}
                Some(_) => return Err(NotMoved::Never),
                None => return Err(NotMoved::NotYet),
            }
            let base = |rev, entry, seen| BaseRow {
                rev,
                lost: false,
                entry,
                seen,
            };
            if moved.len() >= MAX_MOVED_PATHS {
                return Err(NotMoved::Never);
            }
            moved.push(MovedPath {
                old: old.to_string(),
                new,
                seen: rows.base.seen,
                then: (
                    base(rows.remote.rev, None, None),
                    base(theirs.rev, theirs.entry, rows.base.seen),
                ),
            });
            Ok(true)
        })?;
        if moved.is_empty() {
            Err(NotMoved::Never)
        } else {
            Ok(moved)
        }
    }

    fn move_whole(
        &self,
        generation: u64,
        (from, to): (&str, &str),
        moved: &[MovedPath],
    ) -> Result<(), NotMoved> {
        let tree = &self.env.tree;
        let Presence::Here(dir) = tree.examine(from, None)? else {
            return Err(NotMoved::Never);
        };
        if !dir.entry.is_dir()
            || !self.is_as_seen(from, moved)?
            || tree.stamp(to)?.is_some()
            || tree.name_collision(to)?.is_some()
        {
            return Err(NotMoved::Never);
        }
        let intent = |intent: Option<Intent>| {
            let of = |path: &str| Write::Intent(path.to_string(), intent.clone());
            [of(from), of(to)]
        };
        let begun = Intent::Rename {
            from: from.to_string(),
            to: to.to_string(),
        };
        self.commit(generation, &intent(Some(begun)))?;
        if tree.shift(from, to, Some(&dir.stamp))? != RenameOutcome::Done {
            self.commit(generation, &intent(None))?;
            return Err(NotMoved::Never);
        }
        self.prune(from, generation)?;
        let bases = moved.iter().flat_map(|path| {
            [
                Write::Base(path.old.clone(), path.then.0.clone()),
                Write::Base(path.new.clone(), path.then.1.clone()),
            ]
        });
        // without it, the intent is resumed
        let all: Vec<Write> = bases.chain(intent(None)).collect();
        self.commit_soon(generation, &all)?;
        for MovedPath { old, new, .. } in moved {
            self.env.ambient.done(CompletedChange::Placed { path: new });
            self.env
                .ambient
                .done(CompletedChange::Removed { path: old });
        }
        Ok(())
    }

    /// Whether the directory has exactly these paths, each as it was when it was in sync.
    fn is_as_seen(&self, from: &str, moved: &[MovedPath]) -> Result<bool, NotMoved> {
        let mut names = BTreeSet::new();
        self.env.tree.below(from, &mut |name| {
            names.insert(name.to_string());
            Ok(true)
        })?;
        for MovedPath {
            old, seen, then, ..
        } in moved
        {
            let is_dir = then.1.entry.is_some_and(|entry| entry.is_dir());
            let same = |now: Stamp| {
                let is_it = |seen: Stamp| seen == now || is_dir && seen.same_dir(&now);
                seen.is_some_and(is_it)
            };
            if !self.env.tree.stamp(old)?.is_some_and(same) {
                return Ok(false);
            }
            names.remove(old);
        }
        // only directories of these paths may be left; an empty one is an entry of its own
        let olds: BTreeSet<&str> = moved.iter().map(|path| path.old.as_str()).collect();
        let is_above = |name: &String| {
            let inside = format!("{name}/");
            let next = olds.range(inside.as_str()..).next();
            next.is_some_and(|path| is_below(path, name))
        };
        Ok(names.iter().all(is_above))
    }
}

impl ExpectedMove {
    /// When no more of it is awaited.
    fn end(&self, quiet: QuietTimes) -> Duration {
        let (first, last) = self.times;
        let wait = if self.files < FULL_GROUP_PATHS {
            // the first file of many may come alone
            quiet.after_more_of_hub
        } else {
            quiet.after_more_of_hub.max(MORE_REQUESTS_WAIT)
        };
        (last + wait).min(first + GATHER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_large_directory_is_awaited_for_longer() {
        let seconds = Duration::from_secs;
        let quiet = QuietTimes {
            after_more_of_hub: seconds(1),
            ..QuietTimes::default()
        };
        let end = |files| {
            let found = ExpectedMove {
                times: (seconds(10), seconds(20)),
                files,
                is_untried: false,
            };
            found.end(quiet)
        };
        assert_eq!(end(1), seconds(21));
        assert_eq!(end(FULL_GROUP_PATHS - 1), seconds(21));
        assert_eq!(end(FULL_GROUP_PATHS), seconds(22));
    }
}
