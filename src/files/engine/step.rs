//! Carries out the steps of several paths together.
//!
//! A [`Step`] is decided and not begun. It has a record that is durable before it begins (an open key or an intent), a call
//! of the environment, and a result to be stored. All steps of one kind in a group share the three: one commit, one call,
//! one commit. What is decided about a path does not depend on the group: a group of one follows the same rules.
//!
//! * `send`: changes that go to the hub; `apply`: changes of the tree

use super::deletes::Weighed;
use super::recover::Finish;
use super::send::OutgoingChange;
use super::traits::{Called, Write};
use super::{Engine, Interrupted, PathResult, PathState, SET_BACK};
use crate::files::engine::apply::{Departure, MetadataChange, Placement};
use crate::files::plan::BaseRow;

/// What is to be done for a path.
pub(super) enum Step {
    /// Nothing more; whether something was done.
    Ended(bool),
    /// Only the state changes.
    Record(BaseRow),
    /// Like `Record`, if the loss of the record does no harm and the path was in sync before.
    Refresh(BaseRow),
    Send(OutgoingChange),
    Place(Placement),
    Leave(Departure),
    SetMetadata(MetadataChange),
}

/// A step of a path of a group.
pub(super) struct PathWork<W> {
    /// The position in the group.
    pub at: usize,
    pub path: String,
    pub known: PathState,
    pub what: W,
}

impl<W> PathWork<W> {
    fn split(self) -> (PathWork<()>, W) {
        let PathWork {
            at,
            path,
            known,
            what,
        } = self;
        (
            PathWork {
                at,
                path,
                known,
                what: (),
            },
            what,
        )
    }

    pub(super) fn with<V>(self, what: impl FnOnce(W) -> V) -> PathWork<V> {
        let (rest, old) = self.split();
        PathWork {
            at: rest.at,
            path: rest.path,
            known: rest.known,
            what: what(old),
        }
    }
}

/// The results of a group so far.
pub(super) struct Results(Vec<Option<PathResult>>);

impl Results {
    pub(super) fn set<W>(&mut self, work: &PathWork<W>, result: PathResult) {
        self.0[work.at] = Some(result);
    }

    /// Keeps the works that go on; records why the others ended.
    pub(super) fn keep<W, T>(
        &mut self,
        all: Vec<PathWork<W>>,
        results: Vec<Result<T, Interrupted>>,
    ) -> Vec<(PathWork<W>, T)> {
        let mut kept = Vec::with_capacity(all.len());
        for (work, result) in all.into_iter().zip(results) {
            match result {
                Ok(value) => kept.push((work, value)),
                Err(stop) => self.set(&work, Err(stop)),
            }
        }
        kept
    }
}

#[derive(Default)]
struct Steps {
    records: Vec<PathWork<BaseRow>>,
    refreshes: Vec<PathWork<BaseRow>>,
    sends: Vec<PathWork<OutgoingChange>>,
    places: Vec<PathWork<Placement>>,
    leaves: Vec<PathWork<Departure>>,
    metadata: Vec<PathWork<MetadataChange>>,
}

impl Engine {
    /// Carries out one step for each of these paths, of which none is above another.
    pub(super) fn turn_all(&self, paths: &[String]) -> Vec<PathResult> {
        let mut results = Results(paths.iter().map(|_| None).collect());
        let mut steps = Steps::default();
        for (at, path) in paths.iter().enumerate() {
            let (known, step) = match self.decide(path) {
                Ok(decided) => decided,
                Err(stop) => {
                    results.0[at] = Some(Err(stop));
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
                Step::Ended(progress) => results.set(&work, Ok(progress)),
                Step::Record(base) => steps.records.push(work.with(|()| base)),
                Step::Refresh(base) => steps.refreshes.push(work.with(|()| base)),
                Step::Send(change) => steps.sends.push(work.with(|()| change)),
                Step::Place(placement) => steps.places.push(work.with(|()| placement)),
                Step::Leave(departure) => steps.leaves.push(work.with(|()| departure)),
                Step::SetMetadata(change) => steps.metadata.push(work.with(|()| change)),
            }
        }
        self.record_all(steps.records, &mut results);
        self.refresh_all(steps.refreshes, &mut results);
        self.set_metadata_all(steps.metadata, &mut results);
        self.place_all(steps.places, &mut results);
        self.leave_all(steps.leaves, &mut results);
        self.send_all(steps.sends, &mut results);
        let ended = results.0.into_iter();
        ended
            .map(|result| result.expect("each step ends with a result"))
            .collect()
    }

    fn record_all(&self, all: Vec<PathWork<BaseRow>>, results: &mut Results) {
        let commits = self.commit_each(&all, base_write, Engine::commit);
        for (work, ()) in results.keep(all, commits) {
            results.set(&work, Ok(true));
        }
    }

    fn refresh_all(&self, all: Vec<PathWork<BaseRow>>, results: &mut Results) {
        let commits = self.commit_each(&all, base_write, Engine::commit_soon);
        for (work, ()) in results.keep(all, commits) {
            results.set(&work, Ok(false));
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
        all: Vec<(PathWork<W>, Finish)>,
    ) -> Vec<(PathWork<W>, PathResult)> {
        let (works, finishes): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let works: Vec<PathWork<(W, Finish)>> = works
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
                let (rest, (what, finish)) = work.split();
                let result = committed.and_then(|()| self.clean_up(&finish).map_err(Into::into));
                (rest.with(|()| what), result.map(|()| true))
            })
            .collect()
    }

    pub(super) fn clean_up(&self, finish: &Finish) -> Called<()> {
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
        let weighed: Vec<Weighed<'_>> = all
            .iter()
            .map(|work| is_delete(&work.what).then_some((work.path.as_str(), &work.known)))
            .collect();
        let passed = self.pass_guard(&weighed);
        let kept = results.keep(all, passed);
        kept.into_iter().map(|(work, ())| work).collect()
    }
}

fn base_write(work: &PathWork<BaseRow>) -> Vec<Write> {
    vec![Write::Base(work.path.clone(), work.what.clone())]
}
