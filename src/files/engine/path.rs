//! Examines one path, and carries out one step for it.

use crate::files::plan::{
    Action, BaseRow, Entry, Local, RemoteRow, Stamp, is_retimed, local_mode, parent, time_from,
};

use super::queue::{Direction, Examined, Precedence, WorkEnd};
use super::send::brings;
use super::traits::{Intent, Token, Write};
use super::{
    DeleteEffect, Engine, Interrupted, LOCAL_CHANGED, PLAN_CHANGED, PathResult, PathState, is_file,
};

impl Engine {
    /// Examines a path and returns the kind of work it needs. Changes nothing.
    pub(super) fn examine(&self, path: &str) -> Result<WorkEnd, Interrupted> {
        let examined = |rank, way| Examined {
            rank,
            way,
            fresh: None,
            counted: None,
        };
        if self.is_ignored(path) {
            return Ok(WorkEnd::Examined(examined(
                Precedence::Change,
                Direction::Down,
            )));
        }
        let known = self.know(path)?;
        if known.rows.intent.is_some() || known.rows.key.is_some() {
            let way = if known.rows.intent.is_some() {
                Direction::Down
            } else {
                Direction::Up
            };
            return Ok(WorkEnd::Examined(examined(Precedence::Begun, way)));
        }
        if known.base().lost {
            return Ok(WorkEnd::Examined(examined(
                Precedence::Change,
                Direction::Down,
            )));
        }
        let action = self.plan(&known).action;
        let way = if matches!(action, Action::Upload | Action::Delete) {
            Direction::Up
        } else {
            Direction::Down
        };
        let found = match action {
            Action::Delete | Action::Trash => {
                let token = token(path, &known);
                let hash = match self.going(path, &known)? {
                    DeleteEffect::Free => None,
                    // the new name is about to be placed, or was tried without success
                    DeleteEffect::Renamed(_, to) if self.queue().is_due(&to) => None,
                    DeleteEffect::Renamed(hash, _) | DeleteEffect::Counts(hash) => Some(hash),
                };
                let approved = hash.is_some() && self.is_approved(&token)?;
                let counted = hash.filter(|_| !approved).map(|hash| (token, hash));
                Examined {
                    counted,
                    ..examined(Precedence::Delete, way)
                }
            }
            Action::Upload => {
                let fresh = known.local.and_then(|local| brings(&known, &local));
                Examined {
                    fresh: fresh.map(|hash| (hash, Direction::Up)),
                    ..examined(Precedence::Change, way)
                }
            }
            Action::Download => {
                let comes = known.remote().entry.filter(|new| {
                    !new.is_dir() && known.base().entry.is_none_or(|was| !was.same_body(new))
                });
                Examined {
                    fresh: comes.map(|new| (new.hash, Direction::Down)),
                    ..examined(Precedence::Change, way)
                }
            }
            _ => examined(Precedence::Change, way),
        };
        Ok(WorkEnd::Examined(found))
    }

    fn is_ignored(&self, path: &str) -> bool {
        self.env.tree.ignored(path)
    }

    /// Carries out one step for a path.
    pub(super) fn turn(&self, path: &str) -> PathResult {
        let known = self.know(path)?;
        if let Some(intent) = &known.rows.intent {
            return self.recover(path, &known, intent);
        }
        if let Some(key) = &known.rows.key {
            return self.settle(path, &known, key);
        }
        if self.is_ignored(path) {
            return self.leave_alone(path, &known);
        }
        if known.base().lost {
            return Err(Interrupted::Again(
                "the hub was set back, and has not reported its file yet",
            ));
        }
        if self.clash(path, &known)? {
            Ok(true)
        } else {
            self.step(path, known)
        }
    }

    /// Removes a newly ignored path from the base, so that its absence is not a delete. The hub's
    /// row is kept.
    fn leave_alone(&self, path: &str, known: &PathState) -> PathResult {
        if *known.base() == BaseRow::default() {
            return Ok(false);
        }
        self.commit(
            known.generation,
            &[Write::Base(path.to_string(), BaseRow::default())],
        )?;
        Ok(true)
    }

    fn step(&self, path: &str, known: PathState) -> PathResult {
        let plan = self.plan(&known);
        if plan.action == Action::Nothing && known.plan().action != Action::Nothing {
            // differing versions stay different; the base must not record them as seen
            return Ok(false);
        }
        self.wait_for_those_above(path, plan.action)?;
        match (plan.action, known.local) {
            (Action::Nothing, local) => self.refresh(path, &known, local),
            (Action::Forget, _) => {
                if known.base().entry.is_some() {
                    self.prune(path, &known)?;
                }
                self.commit(
                    known.generation,
                    &[Write::Base(path.to_string(), in_sync(&known, None))],
                )?;
                Ok(true)
            }
            (Action::Upload, Some(local)) => self.upload(path, &known, &local, plan.mode),
            (Action::Delete, _) => self.delete(path, &known),
            (Action::Trash, Some(local)) => self.remove(path, &known, &local),
            (Action::Adopt, Some(local)) => self.adopt(path, &known, &local, plan.mode),
            // the hub's version is then an ordinary download
            (Action::Conflict, Some(local)) => self.aside(path, &known, &local, BaseRow::default()),
            (Action::Download, local) => self.place(path, &known, local, plan.mode),
            // these actions are only planned for a path that exists here
            (Action::Upload | Action::Trash | Action::Adopt | Action::Conflict, None) => {
                Err(Interrupted::Again(PLAN_CHANGED))
            }
        }
    }

    /// Waits for ancestors that must be replaced by a directory first.
    fn wait_for_those_above(&self, path: &str, action: Action) -> Result<(), Interrupted> {
        for up in std::iter::successors(parent(path), |p| parent(p)) {
            let rows = self.env.state.rows(up)?;
            let open = rows.key.is_some() || rows.intent.is_some();
            let comes = matches!(action, Action::Upload | Action::Download | Action::Conflict);
            let there = is_file(rows.remote.entry.as_ref()) && !self.is_ignored(up);
            let here = || {
                Ok::<bool, Interrupted>(is_file(
                    self.look(up, &rows.base)?.map(|l| l.entry).as_ref(),
                ))
            };
            let respelled = matches!(rows.intent, Some(Intent::Respell { .. }));
            let open = open && action == Action::Upload || respelled;
            if open
                || comes && there
                || action == Action::Download && here()?
                || comes && self.mode_comes_first(up, &rows, action)?
            {
                return Err(Interrupted::WaitFor(up.to_string()));
            }
        }
        Ok(())
    }

    /// Records what `stat` shows for a path that is in sync: it may have changed without an edit
    /// (touched, copied back).
    fn refresh(&self, path: &str, known: &PathState, local: Option<Local>) -> PathResult {
        if let (Some(local), Some(_)) = (local, known.base().entry)
            && known.base().seen != Some(local.stamp)
        {
            let base = BaseRow {
                seen: Some(local.stamp),
                ..known.base().clone()
            };
            self.commit_soon(known.generation, &[Write::Base(path.to_string(), base)])?;
        }
        Ok(false)
    }

    /// Adopts equal bytes on both sides: only the mode and the time may still have to be set.
    pub(super) fn adopt(
        &self,
        path: &str,
        known: &PathState,
        local: &Local,
        mode: u32,
    ) -> PathResult {
        let ours = is_retimed(known.base(), local);
        let time = time_from(known.base(), local, known.remote(), self.options.mode);
        let mtime = time.unwrap_or(local.entry.mtime);
        if ours && time.is_none() && self.merge_mode(path, known, local, mode)? {
            // the new time is still to be sent
            return Ok(true);
        }
        if mode != local_mode(known.base(), local) || mtime != local.entry.mtime {
            return self.change_metadata(path, known, local, (mode, mtime), in_sync(known, None));
        }
        let same =
            |now: &Stamp| *now == local.stamp || local.entry.is_dir() && now.same_dir(&local.stamp);
        if !self.env.tree.stamp(path)?.is_some_and(|now| same(&now)) {
            return Err(Interrupted::Again(LOCAL_CHANGED));
        }
        let mut seen = seen_with(mode, known.remote().entry.as_ref(), local.stamp);
        if let (true, None, Some(theirs)) = (ours, time, known.remote().entry) {
            seen.mtime = theirs.mtime;
        }
        let base = in_sync(known, Some(seen));
        self.commit(known.generation, &[Write::Base(path.to_string(), base)])?;
        Ok(true)
    }
}

/// The base of a path after the hub's row was applied here.
pub(super) fn in_sync(known: &PathState, seen: Option<Stamp>) -> BaseRow {
    let RemoteRow { rev, entry, .. } = *known.remote();
    BaseRow {
        rev,
        lost: false,
        entry,
        seen,
    }
}

/// The stamp for later comparisons. A mode that differs from the hub's on purpose must still show
/// as a local change.
pub(super) fn seen_with(mode: u32, theirs: Option<&Entry>, stamp: Stamp) -> Stamp {
    match theirs {
        Some(theirs) if theirs.mode != mode => Stamp {
            mode: theirs.mode,
            ..stamp
        },
        _ => stamp,
    }
}

pub(super) fn token(path: &str, known: &PathState) -> Token {
    Token {
        path: path.to_string(),
        base: known.base().rev,
        remote: known.remote().rev,
    }
}
