//! Applies changes to the tree; each has an intent that is durable before the change is made.

use std::collections::BTreeSet;

use crate::clock;
use crate::files::conflict::{copy_name, trash_name};
use crate::files::plan::{BaseRow, DIR_MODE, Entry, LocalEntry, Stamp, is_below};

use super::base_rows::{closing, in_sync, with_mode};
use super::renames::CANDIDATES;
use super::step::{
    IntentOutcome, MetadataChange, MoveAway, MoveTarget, NextStep, PathWork, Placement, Results,
};
use super::traits::{
    CompletedChange, ContentSource, Fault, Intent, Presence, RenameOutcome, StageItem, StagedFile,
    Write,
};
use super::{Engine, Interrupted, LOCAL_CHANGED, NO_FREE_NAME, PLAN_CHANGED, PathState};

impl Engine {
    // -- placing the hub's version ---------------------------------------------------------------

    /// Decides how the hub's version gets its name.
    pub(super) fn place(
        &self,
        path: &str,
        known: &PathState,
        over: Option<LocalEntry>,
        mode: u32,
    ) -> Result<NextStep, Interrupted> {
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
            && let Some(twin) = self.env.tree.name_collision(path)?
        {
            return self.respell(path, known, &twin).map(NextStep::Ended);
        }
        if let Some(over) = &over
            && self.moves_on(path, over)?
        {
            return Err(Interrupted::Postponed);
        }
        let above = self.missing_above(path)?.into_iter();
        Ok(NextStep::Place(Placement {
            over,
            entry: Entry { mode, ..theirs },
            sources: self.sources(path, &theirs)?,
            above: above.map(|(dir, mode)| (dir.to_string(), mode)).collect(),
        }))
    }

    /// Whether a content that is about to be replaced has a new name on the hub that is about to be placed here: until it is,
    /// this is the only copy on this machine, and the hub may be set back. A new name that waits itself, or that exists
    /// here, may wait for this one, so it does not count.
    fn moves_on(&self, path: &str, over: &LocalEntry) -> Result<bool, Interrupted> {
        if over.entry.is_dir() {
            return Ok(false);
        }
        let names = self.queue().comes(&over.entry.hash, CANDIDATES);
        for new in names
            .iter()
            .filter(|new| *new != path && !is_below(new, path))
        {
            if self.queue().is_under_way(new) && self.env.tree.stamp(new)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the hub's versions under their names: complete under temporary names first, then by one rename each.
    pub(super) fn place_all(&self, all: Vec<PathWork<Placement>>, results: &mut Results) {
        if all.is_empty() {
            return;
        }
        let staged = self.stage_all(&all);
        let staged = results.keep(all, staged);
        let all: Vec<PathWork<(Placement, StagedFile, Intent)>> = staged
            .into_iter()
            .map(|(work, staged)| {
                let intent = Intent::Place {
                    generation: work.known.generation,
                    row: work.known.remote().clone(),
                    mode: work.what.entry.mode,
                    over: work.what.over,
                    staged: staged.clone(),
                };
                work.with(|placement| (placement, staged, intent))
            })
            .collect();
        let intend = |work: &PathWork<(_, _, Intent)>| {
            vec![Write::Intent(work.path.clone(), Some(work.what.2.clone()))]
        };
        let mut committed = self.commit_each(&all, intend, Engine::commit);
        for (work, result) in all.iter().zip(&mut committed) {
            if let Err(stop) = result
                && let Err(worse) = self.unstage(&work.path, &work.what.1, stop)
            {
                *result = Err(worse);
            }
        }
        let all = results.keep(all, committed);
        let asked: Vec<(&str, &StagedFile, Option<&LocalEntry>)> = all
            .iter()
            .map(|(work, ())| {
                let (placement, staged, _) = &work.what;
                (work.path.as_str(), staged, placement.over.as_ref())
            })
            .collect();
        let placed = self.env.tree.place_all(&asked);
        let mut finished = Vec::new();
        for ((work, ()), placed) in all.into_iter().zip(placed) {
            let (_, staged, intent) = &work.what;
            let done = match placed {
                Ok(RenameOutcome::Done) => self.resolve(&work.path, &work.known, intent),
                Ok(RenameOutcome::Taken | RenameOutcome::Changed) => self
                    .clear_away(&work.path, &work.known, &staged.temp)
                    .and(Err(Interrupted::Again(LOCAL_CHANGED))),
                // the path is not retried for a while, so nothing of this attempt may be left behind
                Err(refused @ Fault::Refused(_)) => self
                    .finish(&work.path, &work.known, intent)
                    .and(Err(refused.into())),
                Err(fault) => Err(fault.into()),
            };
            match done {
                Ok(finish) => finished.push((work, finish)),
                Err(stop) => results.set(&work, Err(stop)),
            }
        }
        for (work, done) in self.conclude(finished) {
            self.env
                .ambient
                .done(CompletedChange::Placed { path: &work.path });
            results.set(&work, done);
        }
    }

    fn stage_all(&self, all: &[PathWork<Placement>]) -> Vec<Result<StagedFile, Interrupted>> {
        let above: Vec<Vec<(&str, u32)>> = all
            .iter()
            .map(|work| {
                let above = work.what.above.iter();
                above.map(|(dir, mode)| (dir.as_str(), *mode)).collect()
            })
            .collect();
        let deliveries: Vec<StageItem<'_>> = all
            .iter()
            .zip(&above)
            .map(|(work, above)| StageItem {
                path: &work.path,
                row: work.known.remote(),
                entry: &work.what.entry,
                sources: &work.what.sources,
                above,
            })
            .collect();
        let staged = self.env.transfer.stage(&deliveries).into_iter();
        // the hub no longer has it; the feed will report that
        let gone = || {
            Interrupted::Again(
                "the hub no longer has its content, and has not reported its new state",
            )
        };
        staged.map(|staged| staged?.ok_or_else(gone)).collect()
    }

    /// Removes a staged file whose intent could not be committed.
    fn unstage(
        &self,
        path: &str,
        staged: &StagedFile,
        stop: &Interrupted,
    ) -> Result<(), Interrupted> {
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
        Ok(())
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

    /// Decides on a conflict name for the local file, which leaves its name. The intent keeps its absence from looking like
    /// a delete by the user.
    pub(super) fn set_aside(
        &self,
        path: &str,
        local: &LocalEntry,
        then: BaseRow,
    ) -> Result<NextStep, Interrupted> {
        let leave = |to| {
            let what = *local;
            Ok(NextStep::Leave(MoveAway { what, then, to }))
        };
        for nth in 1.. {
            let copy = copy_name(path, &local.entry, nth);
            let taken = match self.env.tree.examine(&copy, None)? {
                Presence::Absent if self.env.tree.name_collision(&copy)?.is_some() => None,
                Presence::Absent => return leave(MoveTarget::Copy(copy)),
                Presence::Here(there) => Some(there),
                Presence::Unknown(_) => None,
            };
            if taken.is_some_and(|there| there.entry.same_body(&local.entry)) {
                // the copy exists already, with the same bytes
                return leave(MoveTarget::Trash);
            }
        }
        Err(Interrupted::Again(NO_FREE_NAME))
    }

    /// Decides how something is removed that the hub has deleted.
    pub(super) fn remove(
        &self,
        path: &str,
        known: &PathState,
        local: &LocalEntry,
    ) -> Result<NextStep, Interrupted> {
        let then = in_sync(known, None);
        if local.entry.is_dir() {
            self.env.tree.remove_dir(path)?;
            self.prune(path, known.generation)?;
            return Ok(NextStep::Record(then));
        }
        self.new_name_first(path, known)?;
        let (what, to) = (*local, MoveTarget::Deleted);
        Ok(NextStep::Leave(MoveAway { what, then, to }))
    }

    /// Whether the content of a path that the hub deleted is in sync here under the path's new
    /// name.
    fn goes_on_here(&self, known: &PathState, local: &LocalEntry) -> Result<bool, Interrupted> {
        let Some(to) = &known.remote().renamed_to else {
            return Ok(false);
        };
        let rows = self.env.state.rows(to)?;
        let same =
            rows.base.entry.is_some_and(|e| e.same_body(&local.entry)) && rows.intent.is_none();
        Ok(same && rows.base.seen.is_some() && self.env.tree.stamp(to)? == rows.base.seen)
    }

    /// Moves files away from their names: to the trash, or to names of conflict copies.
    pub(super) fn leave_all(&self, all: Vec<PathWork<MoveAway>>, results: &mut Results) {
        if all.is_empty() {
            return;
        }
        let is_delete = |departure: &MoveAway| departure.to == MoveTarget::Deleted;
        let all = self.pass_guard_all(all, is_delete, results);
        let mut slots = BTreeSet::new();
        let targets: Vec<Result<String, Interrupted>> = all
            .iter()
            .map(|work| match &work.what.to {
                MoveTarget::Copy(copy) => Ok(copy.clone()),
                _ => self.trash_slot(&work.path, &work.what.what, &mut slots),
            })
            .collect();
        let all: Vec<PathWork<(MoveAway, String, Intent)>> = results
            .keep(all, targets)
            .into_iter()
            .map(|(work, to)| {
                let generation = work.known.generation;
                work.with(|departure| {
                    let intent = Intent::Leave {
                        generation,
                        then: departure.then.clone(),
                        what: departure.what,
                        to: to.clone(),
                        trash: !matches!(departure.to, MoveTarget::Copy(_)),
                    };
                    (departure, to, intent)
                })
            })
            .collect();
        let intend = |work: &PathWork<(_, _, Intent)>| {
            vec![Write::Intent(work.path.clone(), Some(work.what.2.clone()))]
        };
        let committed = self.commit_each(&all, intend, Engine::commit);
        let all = results.keep(all, committed);
        let asked: Vec<(&str, &str, &Stamp)> = all
            .iter()
            .map(|(work, ())| {
                let (departure, to, _) = &work.what;
                (work.path.as_str(), to.as_str(), &departure.what.stamp)
            })
            .collect();
        let moved = self.env.tree.shift_all(&asked);
        let (mut finished, mut stayed) = (Vec::new(), Vec::new());
        for ((work, ()), moved) in all.into_iter().zip(moved) {
            match moved {
                Ok(RenameOutcome::Done) => {
                    match self.resolve(&work.path, &work.known, &work.what.2) {
                        Ok(finish) => finished.push((work, finish)),
                        Err(stop) => results.set(&work, Err(stop)),
                    }
                }
                Ok(RenameOutcome::Taken | RenameOutcome::Changed) => stayed.push(work),
                Err(fault) => results.set(&work, Err(fault.into())),
            }
        }
        let close = |work: &PathWork<_>| vec![Write::Intent(work.path.clone(), None)];
        let closed = self.commit_each(&stayed, close, Engine::commit);
        for (work, ()) in results.keep(stayed, closed) {
            results.set(&work, Err(Interrupted::Again(LOCAL_CHANGED)));
        }
        for (work, done) in self.conclude(finished) {
            let (departure, to, _) = &work.what;
            let done = match &departure.to {
                MoveTarget::Copy(copy) => {
                    self.offer(copy);
                    self.env.ambient.done(CompletedChange::SetAside {
                        path: &work.path,
                        copy,
                    });
                    done
                }
                MoveTarget::Trash | MoveTarget::Deleted => {
                    self.env
                        .ambient
                        .done(CompletedChange::Removed { path: &work.path });
                    done.and_then(|done| self.empty_slot(&work.known, departure, to).map(|()| done))
                }
            };
            results.set(&work, done);
        }
    }

    /// Removes from the trash what was renamed on the hub, and by now here as well: the trash is only for content that
    /// would be gone otherwise.
    fn empty_slot(
        &self,
        known: &PathState,
        departure: &MoveAway,
        slot: &str,
    ) -> Result<(), Interrupted> {
        let what = &departure.what;
        if departure.to == MoveTarget::Deleted
            && self.goes_on_here(known, what)?
            && self
                .env
                .tree
                .stamp(slot)?
                .is_some_and(|s| s.same_but_for_ctime(&what.stamp))
        {
            self.env.tree.discard(slot)?;
        }
        Ok(())
    }

    /// Returns a free name in the trash, other than the slots taken so far.
    fn trash_slot(
        &self,
        path: &str,
        what: &LocalEntry,
        taken: &mut BTreeSet<String>,
    ) -> Result<String, Interrupted> {
        let now = clock::millis(self.env.ambient.now()) as i64 * 1_000_000;
        for nth in 1.. {
            let slot = trash_name(path, &what.entry, now, nth);
            if self.env.tree.stamp(&slot)?.is_none() && taken.insert(slot.clone()) {
                return Ok(slot);
            }
        }
        Err(Interrupted::Again(NO_FREE_NAME))
    }

    /// Sets modes and times, then the bases. The intent tells a later change by a user from the values that were there
    /// before.
    pub(super) fn set_metadata_all(
        &self,
        all: Vec<PathWork<MetadataChange>>,
        results: &mut Results,
    ) {
        if all.is_empty() {
            return;
        }
        let intend = |work: &PathWork<MetadataChange>| {
            let change = &work.what;
            let intent = Intent::Metadata {
                generation: work.known.generation,
                was: change.local.stamp,
                mode: change.mode,
                mtime: change.mtime,
                then: change.then.clone(),
            };
            vec![Write::Intent(work.path.clone(), Some(intent))]
        };
        let committed = self.commit_each(&all, intend, Engine::commit);
        let all = results.keep(all, committed);
        let asked: Vec<(&str, &Stamp, u32, i64)> = all
            .iter()
            .map(|(work, ())| {
                let change = &work.what;
                let path = work.path.as_str();
                (path, &change.local.stamp, change.mode, change.mtime)
            })
            .collect();
        let stamps = self.env.tree.set_metadata_all(&asked).into_iter();
        let works = all.into_iter().map(|(work, ())| work).collect();
        let stamps = stamps.map(|stamp| stamp.map_err(Into::into)).collect();
        let mut finished = Vec::new();
        for (work, stamp) in results.keep(works, stamps) {
            let MetadataChange { mode, then, .. } = &work.what;
            let base = stamp.map(|stamp| with_mode(then, stamp, stamp.mode, *mode));
            let generation = work.known.generation;
            let finish = IntentOutcome::of(closing(&work.path, generation, generation, base));
            finished.push((work.with(|_| stamp), finish));
        }
        for (work, done) in self.conclude(finished) {
            let done = match work.what {
                Some(_) => done,
                None => done.and(Err(Interrupted::Again(LOCAL_CHANGED))),
            };
            results.set(&work, done);
        }
    }
}
