//! Renames files here that were renamed on the hub: without a copy of their bytes, and without the trash.
//!
//! Only a file that is in sync under its old name, with the entry that the new name has, is renamed. Every other one is
//! placed as a new file, and its old name is deleted.

use std::collections::BTreeSet;

use crate::files::plan::{Action, Entry, Stamp, parent};

use super::base_rows::{closing, in_sync};
use super::queue::WorkEnd;
use super::send::CANDIDATES;
use super::step::{FileRename, Finish, PathWork, Placement, RenamedFile, Results};
use super::traits::{CompletedChange, Fault, FileMove, Intent, Moved, Write};
use super::{Engine, Interrupted, PathState};

impl Engine {
    /// Finds the file here whose new name on the hub this path is, and claims its old name in the queue.
    pub(super) fn old_name(
        &self,
        path: &str,
        known: &PathState,
        entry: &Entry,
    ) -> Result<Option<RenamedFile>, Interrupted> {
        if entry.is_dir() || known.node.is_some() || !self.env.tree.moves_files() {
            return Ok(None);
        }
        for old in self.env.state.with_hash(&entry.hash, CANDIDATES)? {
            let row = self.env.state.rows(&old)?.remote;
            if old == path || row.renamed_to.as_deref() != Some(path) || !self.queue().claim(&old) {
                continue;
            }
            match self.may_be_renamed(&old, known, entry) {
                Ok(Some(found)) => return Ok(Some(found)),
                // its own work item reports any error
                Ok(None) | Err(_) => self.queue().release(&old),
            }
        }
        Ok(None)
    }

    fn may_be_renamed(
        &self,
        old: &str,
        new: &PathState,
        entry: &Entry,
    ) -> Result<Option<RenamedFile>, Interrupted> {
        let known = self.know(old)?;
        let is_quiet = known.rows.intent.is_none() && known.rows.key.is_none();
        let is_deleted = !known.base().lost
            && known.generation == new.generation
            && self.plan(&known).action == Action::Trash
            && !self.env.tree.ignored(old);
        let Some(local) = known.local.filter(|_| is_quiet && is_deleted) else {
            return Ok(None);
        };
        let in_place = known.base().entry == Some(*entry) && known.base().seen == Some(local.stamp);
        // rows below its name decide about a name that becomes a directory
        let is_alone = self.env.state.below(old, "", 1)?.is_empty();
        Ok((in_place && is_alone).then(|| RenamedFile {
            path: old.to_string(),
            stamp: local.stamp,
            then: in_sync(&known, None),
        }))
    }

    /// Renames files. What cannot be renamed is placed.
    pub(super) fn rename_files(&self, all: Vec<PathWork<FileRename>>, results: &mut Results) {
        if all.is_empty() {
            return;
        }
        let claimed: Vec<String> = all.iter().map(|work| work.what.from.path.clone()).collect();
        let intend = |work: &PathWork<FileRename>| {
            let intent = Intent::Rename {
                generation: work.known.generation,
                row: work.known.remote().clone(),
                from: work.what.from.path.clone(),
                was: work.what.from.stamp,
            };
            vec![Write::Intent(work.path.clone(), Some(intent))]
        };
        let committed = self.commit_each(&all, intend, Engine::commit);
        let all = results.keep(all, committed);
        let asked: Vec<FileMove<'_>> = all
            .iter()
            .map(|(work, ())| FileMove {
                from: &work.what.from.path,
                to: &work.path,
                expected: &work.what.from.stamp,
                above: &work.what.placement.above,
            })
            .collect();
        let moved = self.env.tree.move_files(&asked);
        let (mut renamed, mut others) = (Vec::new(), Vec::new());
        for ((work, ()), moved) in all.into_iter().zip(moved) {
            match moved {
                Ok(Moved::Done) => renamed.push(work),
                Ok(Moved::Taken | Moved::Changed) | Err(Fault::Refused(_)) => others.push(work),
                Err(fault) => results.set(&work, Err(fault.into())),
            }
        }
        let settled = self.end_renames(renamed, results);
        let close = |work: &PathWork<FileRename>| vec![Write::Intent(work.path.clone(), None)];
        let closed = self.commit_each(&others, close, Engine::commit);
        let others = results.keep(others, closed);
        let placements: Vec<PathWork<Placement>> = others
            .into_iter()
            .map(|(work, ())| work.with(|rename| rename.placement))
            .collect();
        let mut queue = self.queue();
        for old in claimed.iter().filter(|old| !settled.contains(*old)) {
            queue.release(old);
            queue.offer(old);
        }
        drop(queue);
        self.place_all(placements, results);
    }

    /// Records what was renamed, under both names. -> the old names of which nothing is left.
    fn end_renames(
        &self,
        all: Vec<PathWork<FileRename>>,
        results: &mut Results,
    ) -> BTreeSet<String> {
        // the directories first: a crash in between must not leave them behind
        let mut pruned = BTreeSet::new();
        let (mut finished, mut settled) = (Vec::new(), BTreeSet::new());
        for work in all {
            let old = &work.what.from.path;
            let is_first = pruned.insert(parent(old).map(str::to_string));
            let ended = if is_first {
                self.prune(old, &work.known)
            } else {
                Ok(())
            };
            let stamp = ended.and_then(|()| Ok(self.env.tree.stamp(&work.path)?));
            match stamp {
                Err(stop) => results.set(&work, Err(stop)),
                Ok(now) => {
                    let was = work.what.from.stamp;
                    // written to since: a stamp that equals nothing, so that the file is examined again
                    let seen = now
                        .filter(|now| now.same_but_for_ctime(&was))
                        .unwrap_or(Stamp { ctime: 0, ..was });
                    let generation = work.known.generation;
                    let base = in_sync(&work.known, Some(seen));
                    let mut writes = closing(&work.path, generation, generation, Some(base));
                    writes.push(Write::Base(old.clone(), work.what.from.then.clone()));
                    finished.push((work, Finish::of(writes)));
                }
            }
        }
        for (work, done) in self.conclude(finished) {
            let (path, old) = (work.path.as_str(), work.what.from.path.as_str());
            if done.is_ok() {
                self.queue().ended(old, WorkEnd::Settled);
                settled.insert(old.to_string());
            }
            self.env.ambient.done(CompletedChange::Placed { path });
            self.env
                .ambient
                .done(CompletedChange::Removed { path: old });
            results.set(&work, done);
        }
        settled
    }
}
