//! Applies changes to the tree; each has an intent that is durable before the change is made.

use crate::clock;
use crate::files::conflict::{copy_name, trash_name};
use crate::files::plan::{BaseRow, DIR_MODE, Entry, Local};

use super::path::in_sync;
use super::recover::with_mode;
use super::send::CANDIDATES;
use super::traits::{CompletedChange, ContentSource, Fault, Intent, Look, Moved, Write};
use super::{
    Engine, Interrupted, LOCAL_CHANGED, NO_FREE_NAME, PLAN_CHANGED, PathResult, PathState,
};

impl Engine {
    // -- placing the hub's version ---------------------------------------------------------------

    /// Puts the hub's version under its name: complete under a temporary name first, then by one rename.
    pub(super) fn place(
        &self,
        path: &str,
        known: &PathState,
        over: Option<Local>,
        mode: u32,
    ) -> PathResult {
        let Some(theirs) = known.remote().entry else {
            return Err(Interrupted::Again(PLAN_CHANGED));
        };
        if let Some(node) = known.node.filter(|n| theirs.is_dir() && n.entry.is_dir()) {
            // a directory with a mode of its own was given that mode on this machine, not merely by
            // its content
            let mode = if theirs.mode == DIR_MODE && self.has_own_mode(node.entry.mode) {
                node.entry.mode
            } else {
                mode
            };
            return self.adopt(path, known, &node, mode);
        }
        if known.node.is_none()
            && let Some(twin) = self.env.tree.twin(path)?
        {
            return self.respell(known, &twin);
        }
        let above = self.missing_above(path)?;
        let entry = Entry { mode, ..theirs };
        let sources = self.sources(path, &theirs)?;
        // the hub no longer has it; the feed will report that
        let Some(staged) =
            self.env
                .transfer
                .stage(path, known.remote(), &entry, &sources, &above)?
        else {
            return Err(Interrupted::Again(
                "the hub no longer has its content, and has not reported its new state",
            ));
        };
        let intent = Intent::Place {
            generation: known.generation,
            row: known.remote().clone(),
            mode,
            over,
            staged: staged.clone(),
        };
        let written = self.commit(
            known.generation,
            &[Write::Intent(path.to_string(), Some(intent.clone()))],
        );
        if let Err(stop) = written {
            // the intent may be on the disk although its write failed; a missing temporary name
            // would then say that the rename happened. After a fatal error only the next start can
            // tell, and cleans up
            let may_be_there = match stop {
                Interrupted::Fault(Fault::Fatal(_)) => true,
                _ => self.env.state.rows(path)?.intent.is_some(),
            };
            if !may_be_there {
                self.env.tree.discard(&staged.temp)?;
            }
            return Err(stop);
        }
        let placed = self.env.tree.place(path, &staged, over.as_ref());
        if let Err(refused @ Fault::Refused(_)) = placed {
            // the path is not retried for a while, so nothing of this attempt may be left behind
            self.finish(path, known, &intent)?;
            return Err(refused.into());
        }
        match placed? {
            Moved::Done => {
                let done = self.finish(path, known, &intent);
                self.env.ambient.done(CompletedChange::Placed { path });
                done
            }
            Moved::Taken | Moved::Changed => {
                self.clear_away(path, known, &staged.temp)?;
                Err(Interrupted::Again(LOCAL_CHANGED))
            }
        }
    }

    /// A rename travels without bytes, so look for the content on this machine first.
    fn sources(&self, path: &str, theirs: &Entry) -> Result<Vec<ContentSource>, Interrupted> {
        if theirs.is_dir() {
            return Ok(Vec::new());
        }
        let here = self
            .env
            .state
            .with_hash(&theirs.hash, CANDIDATES)?
            .into_iter()
            .filter(|p| p != path)
            .map(ContentSource::Tree);
        Ok(here
            .chain([ContentSource::Trash, ContentSource::Hub])
            .collect())
    }

    // -- removing the local version --------------------------------------------------------------

    /// Renames the local file to its conflict name. The intent keeps its absence from looking like
    /// a delete by the user.
    pub(super) fn aside(
        &self,
        path: &str,
        known: &PathState,
        local: &Local,
        then: BaseRow,
    ) -> PathResult {
        for nth in 1.. {
            let copy = copy_name(path, &local.entry, nth);
            let taken = match self.env.tree.look(&copy, None)? {
                Look::Absent if self.env.tree.twin(&copy)?.is_some() => None,
                Look::Absent => return self.leave(path, known, local, then, copy, false),
                Look::Here(there) => Some(there),
                Look::Unknown(_) => None,
            };
            if taken.is_some_and(|there| there.entry.same_body(&local.entry)) {
                // the copy exists already, with the same bytes
                return self.leave(
                    path,
                    known,
                    local,
                    then,
                    self.trash_slot(path, local)?,
                    true,
                );
            }
        }
        Err(Interrupted::Again(NO_FREE_NAME))
    }

    /// Moves to the trash what the hub has deleted.
    pub(super) fn remove(&self, path: &str, known: &PathState, local: &Local) -> PathResult {
        let then = in_sync(known, None);
        if local.entry.is_dir() {
            self.env.tree.remove_dir(path)?;
            self.prune(path, known)?;
            self.commit(known.generation, &[Write::Base(path.to_string(), then)])?;
            return Ok(true);
        }
        self.new_name_first(path, known)?;
        self.pass_guard(path, known)?;
        let slot = self.trash_slot(path, local)?;
        let left = self.leave(path, known, local, then, slot.clone(), true)?;
        // renamed on the hub, and by now here as well; the trash is only for content that would be
        // gone otherwise
        if self.goes_on_here(known, local)?
            && self
                .env
                .tree
                .stamp(&slot)?
                .is_some_and(|s| s.same_but_for_ctime(&local.stamp))
        {
            self.env.tree.discard(&slot)?;
        }
        Ok(left)
    }

    /// Whether the content of a path that the hub deleted is in sync here under the path's new
    /// name.
    fn goes_on_here(&self, known: &PathState, local: &Local) -> Result<bool, Interrupted> {
        let Some(to) = &known.remote().renamed_to else {
            return Ok(false);
        };
        let rows = self.env.state.rows(to)?;
        let same =
            rows.base.entry.is_some_and(|e| e.same_body(&local.entry)) && rows.intent.is_none();
        Ok(same && rows.base.seen.is_some() && self.env.tree.stamp(to)? == rows.base.seen)
    }

    fn leave(
        &self,
        path: &str,
        known: &PathState,
        what: &Local,
        then: BaseRow,
        to: String,
        trash: bool,
    ) -> PathResult {
        let intent = Intent::Leave {
            generation: known.generation,
            then,
            what: *what,
            to: to.clone(),
            trash,
        };
        self.commit(
            known.generation,
            &[Write::Intent(path.to_string(), Some(intent.clone()))],
        )?;
        match self.env.tree.shift(path, &to, Some(&what.stamp))? {
            Moved::Done => {
                let done = self.finish(path, known, &intent);
                if trash {
                    self.env.ambient.done(CompletedChange::Removed { path });
                } else {
                    self.offer(&to);
                    self.env
                        .ambient
                        .done(CompletedChange::SetAside { path, copy: &to });
                }
                done
            }
            Moved::Taken | Moved::Changed => {
                self.commit(known.generation, &[Write::Intent(path.to_string(), None)])?;
                Err(Interrupted::Again(LOCAL_CHANGED))
            }
        }
    }

    /// Returns a free name in the trash.
    fn trash_slot(&self, path: &str, what: &Local) -> Result<String, Interrupted> {
        let now = clock::millis(self.env.ambient.now()) as i64 * 1_000_000;
        for nth in 1.. {
            let slot = trash_name(path, &what.entry, now, nth);
            if self.env.tree.stamp(&slot)?.is_none() {
                return Ok(slot);
            }
        }
        Err(Interrupted::Again(NO_FREE_NAME))
    }

    /// Sets the mode and time of the local file, then the base. The intent tells a later change by
    /// a user from the values that were there before.
    pub(super) fn change_metadata(
        &self,
        path: &str,
        known: &PathState,
        local: &Local,
        (mode, mtime): (u32, i64),
        then: BaseRow,
    ) -> PathResult {
        let intent = Intent::Metadata {
            generation: known.generation,
            was: local.stamp,
            mode,
            mtime,
            then: then.clone(),
        };
        self.commit(
            known.generation,
            &[Write::Intent(path.to_string(), Some(intent))],
        )?;
        let stamp = self
            .env
            .tree
            .set_metadata(path, &local.stamp, mode, Some(mtime))?;
        let base = stamp.map(|stamp| with_mode(&then, stamp, stamp.mode, mode));
        self.finished(path, known, known.generation, base)?;
        if stamp.is_some() {
            Ok(true)
        } else {
            Err(Interrupted::Again(LOCAL_CHANGED))
        }
    }
}
