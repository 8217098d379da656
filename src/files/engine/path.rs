//! Examines one path, and decides on its next step.

use crate::config::watch::SyncMode;
use crate::files::plan::{
    Action, BaseRow, LocalEntry, Stamp, is_retimed, local_mode, parent, time_from,
};

use super::base_rows::{in_sync, seen_with};
use super::queue::{Direction, Examined, Precedence, WorkEnd};
use super::renames::{OldNames, brings};
use super::send::outgoing;
use super::step::{MetadataChange, NextStep};
use super::traits::{DeleteToken, Intent};
use super::{DeleteEffect, Engine, Interrupted, LOCAL_CHANGED, PLAN_CHANGED, PathState, is_file};

impl Engine {
    /// Examines a path and returns the kind of work it needs. Changes nothing.
    pub(super) fn examine(
        &self,
        path: &str,
        old_names: &mut OldNames,
    ) -> Result<WorkEnd, Interrupted> {
        let examined = |rank, way| Examined {
            rank,
            way,
            fresh: None,
            bytes: 0,
            counted: None,
        };
        if self.is_ignored(path) {
            return Ok(WorkEnd::Examined(examined(
                Precedence::Change,
                Direction::Down,
            )));
        }
        let known = self.know(path, old_names)?;
        if known.rows.is_begun() {
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
        if action == Action::Nothing && self.is_settled(path, &known)? {
            return Ok(WorkEnd::Settled);
        }
        let way = if matches!(action, Action::Upload | Action::Delete) {
            Direction::Up
        } else {
            Direction::Down
        };
        let found = match action {
            Action::Delete | Action::Trash => {
                let token = token(path, &known);
                let hash = match self.delete_effect(path, &known)? {
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
            Action::Upload | Action::Adopt => {
                let fresh = known
                    .local
                    .filter(|local| brings(&known, local).is_some())
                    .map(|local| local.entry);
                let travels = fresh.filter(|_| action == Action::Upload);
                Examined {
                    bytes: travels.map_or(0, |new| new.size),
                    fresh: fresh.map(|new| (new.hash, Direction::Up)),
                    ..examined(Precedence::Change, way)
                }
            }
            Action::Download => {
                let comes = known.remote().entry.filter(|new| {
                    !new.is_dir() && known.base().entry.is_none_or(|was| !was.same_body(new))
                });
                let rank = if self.may_move_along(path) {
                    Precedence::Moved
                } else {
                    Precedence::Change
                };
                Examined {
                    bytes: comes.map_or(0, |new| new.size),
                    fresh: comes.map(|new| (new.hash, Direction::Down)),
                    ..examined(rank, way)
                }
            }
            _ => examined(Precedence::Change, way),
        };
        Ok(WorkEnd::Examined(found))
    }

    /// Whether the path is in sync in every respect that [`Engine::decide`] would examine again.
    fn is_settled(&self, path: &str, known: &PathState) -> Result<bool, Interrupted> {
        let node = known.node.map(|node| node.entry);
        // the content of a directory matters too
        let is_plain = node.is_none_or(|node| !node.is_dir())
            && known.plan().action == Action::Nothing
            && (node.is_some() || known.remote().entry.is_none());
        let is_fresh = || matches!(refresh(known, known.local), NextStep::Ended(false));
        Ok(is_plain
            && is_fresh()
            && (node.is_none() || self.env.state.below(path, "", 1)?.is_empty())
            && self.wait_for_those_above(path, Action::Nothing).is_ok())
    }

    fn is_ignored(&self, path: &str) -> bool {
        self.env.tree.ignored(path)
    }

    /// Decides on the next step for a path, and resumes what was begun before.
    pub(super) fn decide(
        &self,
        path: &str,
        old_names: &mut OldNames,
    ) -> Result<(PathState, NextStep), Interrupted> {
        let known = self.know(path, old_names)?;
        let step = self.next_step(path, &known, old_names)?;
        Ok((known, step))
    }

    fn next_step(
        &self,
        path: &str,
        known: &PathState,
        old_names: &mut OldNames,
    ) -> Result<NextStep, Interrupted> {
        if let Some(intent) = &known.rows.intent {
            return self.recover(path, known, intent).map(NextStep::Ended);
        }
        if let Some(key) = &known.rows.key {
            return self.settle(path, known, key).map(NextStep::Ended);
        }
        if self.is_ignored(path) {
            return Ok(leave_alone(known));
        }
        if known.base().lost {
            return Err(Interrupted::Again(
                "the hub was set back, and has not reported its file yet",
            ));
        }
        match self.type_conflict(path, known)? {
            Some(step) => Ok(step),
            None => self.planned_step(path, known, old_names),
        }
    }

    fn planned_step(
        &self,
        path: &str,
        known: &PathState,
        old_names: &mut OldNames,
    ) -> Result<NextStep, Interrupted> {
        let plan = self.plan(known);
        if plan.action == Action::Nothing && known.plan().action != Action::Nothing {
            // differing versions stay different; the base must not record them as seen
            return Ok(NextStep::Ended(false));
        }
        self.wait_for_those_above(path, plan.action)?;
        if plan.action != Action::Nothing {
            self.env.ambient.decided(path, plan.why);
        }
        match (plan.action, known.local) {
            (Action::Nothing, local) => Ok(refresh(known, local)),
            (Action::Forget, _) => {
                if known.base().entry.is_some() {
                    self.prune(path, known.generation)?;
                }
                Ok(NextStep::Record(in_sync(known, None)))
            }
            (Action::Upload, Some(local)) => self.upload(path, known, &local, plan.mode, old_names),
            (Action::Delete, _) => self.delete(path, known),
            (Action::Trash, Some(local)) => self.remove(path, known, &local),
            (Action::Adopt, Some(local)) => {
                let old = match self.options.mode {
                    SyncMode::ReceiveOnly => None,
                    _ => self.claim_old_name(path, known, &local, old_names)?,
                };
                match old {
                    None => self.adopt(path, known, &local, plan.mode),
                    // sent although the hub has it: another user may rename the hub's file to the
                    // old name at the same time, and of two deletes each would remove the file that
                    // the other one keeps
                    old => {
                        let mode = local_mode(known.base(), &local);
                        Ok(outgoing(path, known, &local, mode, old))
                    }
                }
            }
            // the hub's version is then an ordinary download
            (Action::Conflict, Some(local)) => self.set_aside(path, &local, BaseRow::default()),
            (Action::Download, local) => self.place(path, known, local, plan.mode),
            // these actions are only planned for a path that exists here
            (Action::Upload | Action::Trash | Action::Adopt | Action::Conflict, None) => {
                Err(Interrupted::Again(PLAN_CHANGED))
            }
        }
    }

    /// Waits for ancestors that must be replaced by a directory first.
    pub(super) fn wait_for_those_above(
        &self,
        path: &str,
        action: Action,
    ) -> Result<(), Interrupted> {
        for up in std::iter::successors(parent(path), |p| parent(p)) {
            let rows = self.env.state.rows(up)?;
            let open = rows.key.is_some() || rows.intent.is_some();
            let comes = matches!(action, Action::Upload | Action::Download | Action::Conflict);
            let there = is_file(rows.remote.entry.as_ref()) && !self.is_ignored(up);
            let here = || {
                Ok::<bool, Interrupted>(is_file(
                    self.examine_entry(up, &rows.base)?
                        .map(|l| l.entry)
                        .as_ref(),
                ))
            };
            let renamed = matches!(rows.intent, Some(Intent::Rename { .. }));
            let open = open && action == Action::Upload || renamed;
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

    /// Adopts equal bytes on both sides: only the mode and the time may still have to be set.
    pub(super) fn adopt(
        &self,
        path: &str,
        known: &PathState,
        local: &LocalEntry,
        mode: u32,
    ) -> Result<NextStep, Interrupted> {
        let ours = is_retimed(known.base(), local);
        let time = time_from(known.base(), local, known.remote(), self.options.mode);
        let mtime = time.unwrap_or(local.entry.mtime);
        if ours
            && time.is_none()
            && let Some(step) = self.merge_mode(known, local, mode)
        {
            // the new time is still to be sent
            return Ok(step);
        }
        if mode != local_mode(known.base(), local) || mtime != local.entry.mtime {
            return Ok(NextStep::SetMetadata(MetadataChange {
                local: *local,
                mode,
                mtime,
                then: in_sync(known, None),
            }));
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
        Ok(NextStep::Record(in_sync(known, Some(seen))))
    }
}

/// Removes a newly ignored path from the base, so that its absence is not a delete. The hub's row
/// is kept.
fn leave_alone(known: &PathState) -> NextStep {
    if *known.base() == BaseRow::default() {
        NextStep::Ended(false)
    } else {
        NextStep::Record(BaseRow::default())
    }
}

/// Records what `stat` shows for a path that is in sync: it may have changed without an edit
/// (touched, copied back).
fn refresh(known: &PathState, local: Option<LocalEntry>) -> NextStep {
    if let (Some(local), Some(_)) = (local, known.base().entry)
        && known.base().seen != Some(local.stamp)
    {
        NextStep::Refresh(BaseRow {
            seen: Some(local.stamp),
            ..known.base().clone()
        })
    } else {
        NextStep::Ended(false)
    }
}

pub(super) fn token(path: &str, known: &PathState) -> DeleteToken {
    DeleteToken {
        path: path.to_string(),
        base: known.base().rev,
        remote: known.remote().rev,
    }
}
