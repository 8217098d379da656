//! Carries out the steps of several paths together.
//!
//! All steps of one kind in a group share their records, their call of the environment and their results: one commit, one
//! call, one commit. What is decided about a path does not depend on the group: a group of one follows the same rules.
//! `send` has the changes that are sent to the hub, `apply` those of the tree.

use super::deletes::GuardedDelete;
use super::directory_moves::DirectoryNames;
use super::queue::{Direction, GroupSize, Task, WorkEnd};
use super::renames::OldNames;
use super::report::outcome;
use super::step::{
    IntentOutcome, MetadataChange, MoveAway, NextStep, OutgoingChange, PathWork, Placement, Results,
};
use super::traits::{CallResult, Write};
use super::{Engine, Interrupted, PARKED, PathResult, SET_BACK, WorkOutcome, WorkReport};
use crate::files::plan::BaseRow;
use std::sync::atomic::Ordering::SeqCst;

/// Work that was taken.
#[derive(Debug)]
pub enum WorkGroup {
    /// From the queue: the same task for each path.
    Paths {
        paths: Vec<String>,
        task: Task,
        is_long: bool,
    },
    /// A directory is to be moved as a whole: the old and the new name.
    DirectoryMove(DirectoryNames),
}

impl WorkGroup {
    /// Whether it changes something, and no file of it is long.
    pub fn is_short_change(&self) -> bool {
        matches!(
            self,
            WorkGroup::Paths {
                task: Task::CarryOut,
                is_long: false,
                ..
            }
        )
    }

    pub fn len(&self) -> usize {
        match self {
            WorkGroup::Paths { paths, .. } => paths.len(),
            WorkGroup::DirectoryMove(_) => 1,
        }
    }
}

#[derive(Default)]
struct Steps {
    records: Vec<PathWork<BaseRow>>,
    refreshes: Vec<PathWork<BaseRow>>,
    sends: Vec<PathWork<OutgoingChange>>,
    places: Vec<PathWork<Placement>>,
    leaves: Vec<PathWork<MoveAway>>,
    metadata: Vec<PathWork<MetadataChange>>,
}

impl Engine {
    /// Takes the next work in the given direction, or in any, for so many paths; the caller must carry it out.
    /// `None`: there is no work now, or nothing was polled yet, because which hub this is must be known before its rows
    /// are used.
    pub fn take(&self, way: Option<Direction>, size: GroupSize) -> Option<WorkGroup> {
        if self.generation() == 0 {
            return None;
        }
        if way != Some(Direction::Up)
            && let Some(names) = self.take_move()
        {
            return Some(WorkGroup::DirectoryMove(names));
        }
        let last = self.last_precedence();
        let mut queue = self.queue();
        let (paths, task) = queue.next(last, way, size)?;
        let is_long = queue.is_long(&paths[0]);
        Some(WorkGroup::Paths {
            paths,
            task,
            is_long,
        })
    }

    /// Carries out work; a report for each path.
    pub fn carry_out(&self, group: WorkGroup) -> Vec<WorkReport> {
        let (paths, task) = match group {
            WorkGroup::Paths { paths, task, .. } => (paths, task),
            WorkGroup::DirectoryMove(names) => return self.carry_out_move(names),
        };
        match task {
            Task::Examine => {
                let mut old_names = OldNames::default();
                paths
                    .into_iter()
                    .map(|path| (self.examine(&path, &mut old_names), path))
                    .map(|(done, path)| self.ended(path, done))
                    .collect()
            }
            Task::CarryOut => self.carry_out_changes(paths),
        }
    }

    fn carry_out_changes(&self, paths: Vec<String>) -> Vec<WorkReport> {
        let end = |progress| {
            if progress {
                WorkEnd::Progress
            } else {
                WorkEnd::Settled
            }
        };
        let (mut reports, mut group) = (Vec::with_capacity(paths.len()), paths);
        loop {
            let (count, mut blocked) = (group.len(), Vec::new());
            let results = self.step_all(&group);
            for (path, result) in group.into_iter().zip(results) {
                match result {
                    Err(stop @ Interrupted::Busy(_)) => blocked.push((path, stop)),
                    result => reports.push(self.ended(path, result.map(end))),
                }
            }
            if blocked.len() == count {
                // perhaps by each other: retry the first one alone
                let others = blocked.split_off(usize::from(count > 1)).into_iter();
                reports.extend(others.map(|(path, stop)| self.ended(path, Err(stop))));
            }
            if blocked.is_empty() {
                return reports;
            }
            // perhaps by other paths of the group, which are done now
            group = blocked.into_iter().map(|(path, _)| path).collect();
        }
    }

    fn ended(&self, path: String, done: Result<WorkEnd, Interrupted>) -> WorkReport {
        let (end, outcome) = outcome(done);
        if let WorkEnd::Examined(found) = &end
            && found.counted.is_some()
            && !self.queue().is_counted(&path)
        {
            // deletes are recorded before they may be taken
            self.burst_grows(found.way);
        }
        if end == WorkEnd::Progress && self.queue().is_fresh(&path) {
            self.arrivals.fetch_add(1, SeqCst);
        }
        let parked = self.queue().ended(&path, end);
        let outcome = if parked {
            WorkOutcome::Waits(PARKED.into())
        } else {
            outcome
        };
        WorkReport { path, outcome }
    }

    /// Carries out one step for each of these paths, of which none is above another.
    pub(super) fn step_all(&self, paths: &[String]) -> Vec<PathResult> {
        let mut results = Results::of(paths.len());
        let (mut steps, mut old_names) = (Steps::default(), OldNames::default());
        for (at, path) in paths.iter().enumerate() {
            let (known, step) = match self.decide(path, &mut old_names) {
                Ok(decided) => decided,
                Err(stop) => {
                    results.set_at(at, Err(stop));
                    continue;
                }
            };
            let work = PathWork {
                at,
                path: path.clone(),
                known,
                what: (),
            };
            match step {
                NextStep::Ended(progress) => results.set(&work, Ok(progress)),
                NextStep::Record(base) => steps.records.push(work.with(|()| base)),
                NextStep::Refresh(base) => steps.refreshes.push(work.with(|()| base)),
                NextStep::Send(change) => steps.sends.push(work.with(|()| change)),
                NextStep::Place(placement) => steps.places.push(work.with(|()| placement)),
                NextStep::Leave(departure) => steps.leaves.push(work.with(|()| departure)),
                NextStep::SetMetadata(change) => steps.metadata.push(work.with(|()| change)),
            }
        }
        self.record_all(steps.records, true, Engine::commit, &mut results);
        self.record_all(steps.refreshes, false, Engine::commit_soon, &mut results);
        self.set_metadata_all(steps.metadata, &mut results);
        self.place_all(steps.places, &mut results);
        self.leave_all(steps.leaves, &mut results);
        self.send_all(steps.sends, &mut results);
        results.all().collect()
    }

    /// Records bases. `progress`: each of them is a change.
    fn record_all(
        &self,
        all: Vec<PathWork<BaseRow>>,
        progress: bool,
        commit: impl Fn(&Engine, u64, &[Write]) -> Result<(), Interrupted>,
        results: &mut Results,
    ) {
        let base =
            |work: &PathWork<BaseRow>| vec![Write::Base(work.path.clone(), work.what.clone())];
        let commits = self.commit_each(&all, base, commit);
        for (work, ()) in results.keep(all, commits) {
            results.set(&work, Ok(progress));
        }
    }

    /// Commits writes for each work together: by [`Engine::commit`] or [`Engine::commit_soon`].
    pub(super) fn commit_each<W>(
        &self,
        all: &[PathWork<W>],
        writes: impl Fn(&PathWork<W>) -> Vec<Write>,
        commit: impl Fn(&Engine, u64, &[Write]) -> Result<(), Interrupted>,
    ) -> Vec<Result<(), Interrupted>> {
        let now = self.generation();
        let of_now = |work: &&PathWork<W>| work.known.generation == now;
        let together: Vec<Write> = all.iter().filter(of_now).flat_map(writes).collect();
        let done = if together.is_empty() {
            Ok(())
        } else {
            commit(self, now, &together)
        };
        let each = |work: &PathWork<W>| {
            if of_now(&work) {
                done.clone()
            } else {
                Err(Interrupted::Again(SET_BACK))
            }
        };
        all.iter().map(each).collect()
    }

    /// Stores what became of intents.
    pub(super) fn conclude<W>(
        &self,
        all: Vec<(PathWork<W>, IntentOutcome)>,
    ) -> Vec<(PathWork<W>, PathResult)> {
        let (works, finishes): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let works: Vec<PathWork<(W, IntentOutcome)>> = works
            .into_iter()
            .zip(finishes)
            .map(|(work, finish)| work.with(|what| (what, finish)))
            .collect();
        let commits = self.commit_each(
            &works,
            |work| work.what.1.writes.clone(),
            Engine::commit_soon,
        );
        let ended = works.into_iter().zip(commits);
        ended
            .map(|(work, committed)| {
                let cleaned = committed.and_then(|()| Ok(self.clean_up(&work.what.1)?));
                (work.with(|(what, _)| what), cleaned.map(|()| true))
            })
            .collect()
    }

    pub(super) fn clean_up(&self, finish: &IntentOutcome) -> CallResult<()> {
        match &finish.discard {
            Some(temp) => self.env.tree.discard(temp),
            None => Ok(()),
        }
    }

    /// Keeps the works whose deletes the guard lets through.
    pub(super) fn pass_guard_all<W>(
        &self,
        all: Vec<PathWork<W>>,
        is_delete: impl Fn(&W) -> bool,
        results: &mut Results,
    ) -> Vec<PathWork<W>> {
        let weighed: Vec<GuardedDelete<'_>> = all
            .iter()
            .map(|work| is_delete(&work.what).then_some((work.path.as_str(), &work.known)))
            .collect();
        let passed = self.pass_guard(&weighed);
        let kept = results.keep(all, passed);
        kept.into_iter().map(|(work, ())| work).collect()
    }
}
