//! Finds out what became of a change of the tree: right after the change, and in the same way after
//! a crash or an error.

use crate::files::conflict::copy_name;
use crate::files::plan::{BaseRow, Entry, LocalEntry, Stamp, parent};

use super::base_rows::{closing, seen_with, with_mode};
use super::step::IntentOutcome;
use super::traits::{CompletedChange, Intent, Presence, RenameOutcome, StagedFile, Write};
use super::{Engine, Interrupted, PathResult, PathState};

impl Engine {
    /// Resumes an intent after a crash or an error.
    pub(super) fn recover(&self, path: &str, known: &PathState, intent: &Intent) -> PathResult {
        // a rename whose sync failed is visible, but a power loss could undo it after the base has
        // been written
        self.env.tree.sync(path)?;
        if let Intent::Leave { to: other, .. } | Intent::Rename { from: other, .. } = intent {
            self.env.tree.sync(other)?;
        }
        let done = self.finish(path, known, intent)?;
        // conflict copies made just before the error have not been offered
        self.queue().overflowed();
        Ok(done)
    }

    /// Determines whether an intent was carried out, and writes the result.
    pub(super) fn finish(&self, path: &str, known: &PathState, intent: &Intent) -> PathResult {
        let finish = self.resolve(path, known, intent)?;
        if !finish.writes.is_empty() {
            // without it, the intent is resumed
            self.commit_soon(known.generation, &finish.writes)?;
        }
        self.clean_up(&finish)?;
        Ok(true)
    }

    /// Determines whether an intent was carried out.
    pub(super) fn resolve(
        &self,
        path: &str,
        known: &PathState,
        intent: &Intent,
    ) -> Result<IntentOutcome, Interrupted> {
        let closing = |generation, base| closing(path, known.generation, generation, base);
        Ok(match intent {
            Intent::Place {
                generation,
                row,
                mode,
                over,
                staged,
            } => {
                if !self.was_placed(path, row.entry.as_ref(), over.as_ref(), staged)? {
                    return self
                        .clear_away(path, known, &staged.temp)
                        .map(|_| IntentOutcome::default());
                }
                let seen = self
                    .env
                    .tree
                    .stamp(path)?
                    .filter(|now| now.same_but_for_ctime(&staged.stamp));
                // written to since: a stamp that equals nothing, so that the file is examined again
                let seen = seen.unwrap_or(Stamp {
                    ctime: 0,
                    ..staged.stamp
                });
                let seen = Some(seen_with(*mode, row.entry.as_ref(), seen));
                let base = BaseRow {
                    rev: row.rev,
                    lost: false,
                    entry: row.entry,
                    seen,
                };
                IntentOutcome {
                    writes: closing(*generation, Some(base)),
                    discard: Some(staged.temp.clone()),
                }
            }
            Intent::Clear { temp } => {
                self.clear_away(path, known, temp)?;
                IntentOutcome::default()
            }
            Intent::Rename { from, to } if path == to => {
                self.renamed(known, from, to)?;
                IntentOutcome::default()
            }
            Intent::Rename { to, .. } => return Err(Interrupted::WaitFor(to.clone())),
            Intent::Metadata {
                generation,
                was,
                mode,
                mtime,
                then,
            } => {
                // a filesystem that cannot keep the value gets it once more, then the base records
                // it
                let retimed = *mtime != was.mtime;
                let changed =
                    |now: &Stamp| now.mode != was.mode || retimed && now.mtime != was.mtime;
                let now = self.env.tree.stamp(path)?.filter(changed);
                let untouched = |now: &Stamp| {
                    !retimed
                        && now.same_but_for_ctime(&Stamp {
                            mode: *mode,
                            ..*was
                        })
                };
                let seen = now.map(|now| {
                    if untouched(&now) {
                        now
                    } else {
                        Stamp {
                            ctime: 0,
                            mtime: *mtime,
                            ..*was
                        }
                    }
                });
                let base = seen.map(|seen| with_mode(then, seen, *mode, *mode));
                IntentOutcome::of(closing(*generation, base))
            }
            Intent::Leave {
                generation,
                then,
                what,
                to,
                trash,
            } => {
                let left = self.has_left(path, what, to, *trash)?;
                // the directories first: a crash in between must not leave them behind
                if left && *trash {
                    self.prune(path, known.generation)?;
                }
                IntentOutcome::of(closing(*generation, left.then(|| then.clone())))
            }
        })
    }

    /// Whether the staged file took its name; if so, keeps the replaced file if it is not the
    /// expected one.
    fn was_placed(
        &self,
        path: &str,
        entry: Option<&Entry>,
        over: Option<&LocalEntry>,
        staged: &StagedFile,
    ) -> Result<bool, Interrupted> {
        let Some(held) = self.env.tree.stamp(&staged.temp)? else {
            let now = self.env.tree.stamp(path)?;
            // a file with every sign of the old one is the old one
            if over.is_some_and(|l| now == Some(l.stamp)) {
                return Ok(false);
            }
            let is_it =
                |now: Stamp| now.inode == staged.stamp.inode || now.is_copy_of(&staged.stamp);
            if !now.is_some_and(is_it) {
                self.look_for(path, &staged.temp)?;
            }
            // the temporary name is gone, so the rename happened
            return Ok(true);
        };
        // nothing was replaced where nothing was; another stamp is that of a copy of the directory. In
        // such a copy another file may have the inode
        let is_copy = over.is_none();
        if held.same_but_for_ctime(&staged.stamp) || is_copy {
            return Ok(false);
        }
        let expected = over.is_some_and(|l| held.same_but_for_ctime(&l.stamp));
        let held = match self.env.tree.examine(&staged.temp, None)? {
            Presence::Here(held) => held,
            Presence::Unknown(why) if !expected => return Err(Interrupted::Unknown(why)),
            Presence::Absent | Presence::Unknown(_) => return Ok(true),
        };
        let is = |other: &Entry| other.same_body(&held.entry);
        if entry.is_some_and(is) && !over.is_some_and(|l| is(&l.entry)) {
            // these bytes did not come out, they were to be placed: this too is a copy
            return Ok(false);
        }
        self.keep_what_came_out(path, over, staged, &held)?;
        Ok(true)
    }

    /// Keeps the replaced file if it is not the expected one. The bytes decide, because a write
    /// through a mapping may leave no stamp.
    fn keep_what_came_out(
        &self,
        path: &str,
        over: Option<&LocalEntry>,
        staged: &StagedFile,
        held: &LocalEntry,
    ) -> Result<(), Interrupted> {
        let temp = &staged.temp;
        if held.entry.is_dir() {
            return Ok(());
        }
        if let Some(over) = over.filter(|l| l.entry.same_body(&held.entry)) {
            // only its mode was changed: apply that change to the new file, but not to a directory,
            // nor to a file that has replaced the new one since
            if over.entry.mode != held.entry.mode
                && let Presence::Here(now) = self.env.tree.examine(path, None)?
                && now.entry.kind == held.entry.kind
                && now.stamp.inode == staged.stamp.inode
            {
                let mode = held.entry.mode;
                self.env.tree.set_metadata(path, &now.stamp, mode, None)?;
            }
            return Ok(());
        }
        // the directory may have been renamed since
        let beside = renamed_beside(temp, path);
        for nth in 1.. {
            let copy = copy_name(&beside, &held.entry, nth);
            if let Presence::Here(there) = self.env.tree.examine(&copy, None)?
                && there.entry.same_body(&held.entry)
            {
                return Ok(());
            }
            match self.env.tree.shift(temp, &copy, None)? {
                RenameOutcome::Done => {
                    self.offer(&copy);
                    self.env
                        .ambient
                        .done(CompletedChange::SetAside { path, copy: &copy });
                    return Ok(());
                }
                RenameOutcome::Taken => {}
                RenameOutcome::Changed => return self.look_for(path, temp),
            }
        }
        Ok(())
    }

    /// Whether a path was moved to `to`. A file in the trash that was not meant to be there is
    /// moved back.
    fn has_left(
        &self,
        path: &str,
        what: &LocalEntry,
        to: &str,
        trash: bool,
    ) -> Result<bool, Interrupted> {
        let Some(there) = self.env.tree.stamp(to)? else {
            // a file at neither name may have been removed from the trash already: no user has
            // deleted it
            let is_it = |now: Stamp| now.inode == what.stamp.inode || now.is_copy_of(&what.stamp);
            return Ok(trash && !self.env.tree.stamp(path)?.is_some_and(is_it));
        };
        let meant = there.same_but_for_ctime(&what.stamp) && self.env.tree.holds(to, what)?;
        if !trash || meant {
            return Ok(true);
        }
        let back = self.in_a_directory(path)?;
        if self.env.tree.shift(to, &back, None)? == RenameOutcome::Done {
            if back != path {
                self.offer(&back);
            }
            return Ok(false);
        }
        // another file was created at the path meanwhile: keep both
        let Presence::Here(found) = self.env.tree.examine(to, None)? else {
            return Ok(false);
        };
        for nth in 1.. {
            let copy = copy_name(&back, &found.entry, nth);
            match self.env.tree.shift(to, &copy, None)? {
                RenameOutcome::Done => drop(self.offer(&copy)),
                RenameOutcome::Taken => continue,
                RenameOutcome::Changed => {}
            }
            break;
        }
        Ok(false)
    }

    /// The path, or its name in the nearest directory above it that is there: where no directory is,
    /// no name is free.
    fn in_a_directory(&self, path: &str) -> Result<String, Interrupted> {
        let name = last_name(path);
        for up in std::iter::successors(parent(path), |p| parent(p)) {
            if let Presence::Here(dir) = self.env.tree.examine(up, None)?
                && dir.entry.is_dir()
            {
                return Ok(format!("{up}/{name}"));
            }
        }
        Ok(name.to_string())
    }

    /// Removes ancestors left empty by their last entry, unless they are entries of their own.
    pub(super) fn prune(&self, path: &str, generation: u64) -> Result<(), Interrupted> {
        for up in std::iter::successors(parent(path), |p| parent(p)) {
            let Some(stamp) = self.env.tree.stamp(up)? else {
                continue;
            };
            let rows = self.env.state.rows(up)?;
            let theirs = rows.remote.entry.filter(|e| e.is_dir());
            if let Some(theirs) = theirs.filter(|_| rows.base.entry.is_none()) {
                if self.modes_differ(stamp.mode, theirs.mode) {
                    self.offer(up);
                    return Ok(());
                }
                let base = BaseRow {
                    rev: rows.remote.rev,
                    lost: false,
                    entry: Some(theirs),
                    seen: Some(stamp),
                };
                self.commit(generation, &[Write::Base(up.to_string(), base)])?;
            }
            let base = rows.base.entry.filter(|e| e.is_dir());
            if theirs.or(base).is_none() && self.has_own_mode(stamp.mode) {
                // a mode that was set here and that the hub does not have yet
                self.offer(up);
                return Ok(());
            }
            if theirs.or(base).is_some() || !self.env.tree.remove_dir(up)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

pub(super) fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The last component of `path`, in the directory of `temp`.
fn renamed_beside(temp: &str, path: &str) -> String {
    let name = last_name(path);
    parent(temp).map_or(name.to_string(), |dir| format!("{dir}/{name}"))
}
