//! Changes of the tree: each with an intent that is durable before the act, and finished the same way after a crash.

use crate::clock;
use crate::files::conflict::{copy_name, trash_name};
use crate::files::delete_guard::{self, Standing};
use crate::files::plan::{BaseRow, DIR_MODE, Entry, Local, Stamp, parent};

use super::neighbours::MOVED_PERHAPS;
use super::path::{in_sync, seen_with, token};
use super::send::CANDIDATES;
use super::traits::{Done, Fault, Intent, Look, Moved, Source, Staged, Token, Write};
use super::{
    DeleteEffect, Engine, Interrupted, LOCAL_CHANGED, NO_FREE_NAME, PLAN_CHANGED, PathResult,
    PathState,
};

impl Engine {
    // -- the hub's version comes ----------------------------------------------------------------------------------------------

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
            // with one of its own it was made private here, say, and not only by what is in it
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
        // the hub has it no more: the feed will say so
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
            // the intent may be on the disk although its write failed: then a temporary name that is gone would say that
            // the rename happened. After a fatal error only the next start knows, and clears up
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
            // not tried again for a while: nothing of it must be left meanwhile
            self.finish(path, known, &intent)?;
            return Err(refused.into());
        }
        match placed? {
            Moved::Done => {
                let done = self.finish(path, known, &intent);
                self.env.ambient.done(Done::Placed { path });
                done
            }
            Moved::Taken | Moved::Changed => {
                self.clear_away(path, known, &staged.temp)?;
                Err(Interrupted::Again(LOCAL_CHANGED))
            }
        }
    }

    /// A rename travels without bytes: they are looked for here first.
    fn sources(&self, path: &str, theirs: &Entry) -> Result<Vec<Source>, Interrupted> {
        if theirs.is_dir() {
            return Ok(Vec::new());
        }
        let here = self
            .env
            .state
            .with_hash(&theirs.hash, CANDIDATES)?
            .into_iter()
            .filter(|p| p != path)
            .map(Source::Tree);
        Ok(here.chain([Source::Trash, Source::Hub]).collect())
    }

    // -- what is here leaves --------------------------------------------------------------------------------------------------

    /// The local file takes its conflict name. The intent keeps its absence from looking like somebody's delete.
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
                // the same bytes are there already
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
        self.pass_guard(path, known)?;
        let slot = self.trash_slot(path, local)?;
        let left = self.leave(path, known, local, then, slot.clone(), true)?;
        // renamed there, and here by now: the trash is for what would be gone otherwise
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

    /// Whether what was deleted on the hub stands here in sync under the name that it has there now.
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
                    self.env.ambient.done(Done::Removed { path });
                } else {
                    self.offer(&to);
                    self.env.ambient.done(Done::SetAside { path, copy: &to });
                }
                done
            }
            Moved::Taken | Moved::Changed => {
                self.commit(known.generation, &[Write::Intent(path.to_string(), None)])?;
                Err(Interrupted::Again(LOCAL_CHANGED))
            }
        }
    }

    /// A name in the trash that is free.
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

    /// Sets mode and time of what is here, and then the base. The intent keeps what a person sets after that from looking like
    /// what was there before it.
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

    // -- what became of it ----------------------------------------------------------------------------------------------------

    /// Takes up an intent after a crash or an error.
    pub(super) fn recover(&self, path: &str, known: &PathState, intent: &Intent) -> PathResult {
        // a rename whose sync failed can be seen, and is undone by a power cut after the base has been written
        self.env.tree.sync(path)?;
        if let Intent::Leave { to, .. } = intent {
            self.env.tree.sync(to)?;
        }
        // conflict copies that were made just before the error have not been offered
        self.queue().overflowed();
        self.finish(path, known, intent)
    }

    /// Finds out whether an intent was carried out, and writes its result.
    fn finish(&self, path: &str, known: &PathState, intent: &Intent) -> PathResult {
        match intent {
            Intent::Place {
                generation,
                row,
                mode,
                over,
                staged,
            } => {
                if !self.was_placed(path, over.as_ref(), staged)? {
                    return self.clear_away(path, known, &staged.temp);
                }
                let seen = self
                    .env
                    .tree
                    .stamp(path)?
                    .filter(|now| now.same_but_for_ctime(&staged.stamp));
                // written to since: equal to nothing, so that it is looked at
                let seen = seen.unwrap_or(Stamp {
                    ctime: 0,
                    ..staged.stamp
                });
                let seen = Some(seen_with(*mode, row.entry.as_ref(), seen));
                self.finished(
                    path,
                    known,
                    *generation,
                    Some(BaseRow {
                        rev: row.rev,
                        lost: false,
                        entry: row.entry,
                        seen,
                    }),
                )?;
                self.env.tree.discard(&staged.temp)?;
            }
            Intent::Clear { temp } => return self.clear_away(path, known, temp),
            Intent::Respell { there, wanted } => {
                return if path == wanted {
                    self.respelled(known, there, wanted)
                } else {
                    Err(Interrupted::WaitFor(wanted.clone()))
                };
            }
            Intent::Metadata {
                generation,
                was,
                mode,
                mtime,
                then,
            } => {
                // a filesystem that cannot keep it gets it once more, and then the base
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
                self.finished(
                    path,
                    known,
                    *generation,
                    seen.map(|seen| with_mode(then, seen, *mode, *mode)),
                )?;
            }
            Intent::Leave {
                generation,
                then,
                what,
                to,
                trash,
            } => {
                let left = self.has_left(path, what, to, *trash)?;
                // the directories first: a crash between must not leave them behind
                if left && *trash {
                    self.prune(path, known)?;
                }
                self.finished(path, known, *generation, left.then(|| then.clone()))?;
            }
        }
        Ok(true)
    }

    /// Removes a temporary name that nothing came of, and the directories that were made for it.
    fn clear_away(&self, path: &str, known: &PathState, temp: &str) -> PathResult {
        // said first: an intent to place whose temporary name is gone says that it happened
        self.commit(
            known.generation,
            &[Write::Intent(
                path.to_string(),
                Some(Intent::Clear {
                    temp: temp.to_string(),
                }),
            )],
        )?;
        self.env.tree.discard(temp)?;
        self.prune(path, known)?;
        self.commit(known.generation, &[Write::Intent(path.to_string(), None)])?;
        Ok(true)
    }

    /// Closes an intent, with the base if it was carried out.
    fn finished(
        &self,
        path: &str,
        known: &PathState,
        generation: u64,
        base: Option<BaseRow>,
    ) -> Result<(), Interrupted> {
        // what was decided before all was forgotten says nothing about the revisions of now
        let of_now = |base: &BaseRow| generation == known.generation || *base == BaseRow::default();
        let base = base
            .filter(of_now)
            .map(|base| Write::Base(path.to_string(), base));
        let writes: Vec<Write> = base
            .into_iter()
            .chain([Write::Intent(path.to_string(), None)])
            .collect();
        self.commit(known.generation, &writes)
    }

    /// Whether what was staged took its name; then keeps what came out of there, if that is not what was planned on.
    fn was_placed(
        &self,
        path: &str,
        over: Option<&Local>,
        staged: &Staged,
    ) -> Result<bool, Interrupted> {
        let Some(held) = self.env.tree.stamp(&staged.temp)? else {
            // gone: the rename happened. But what shows every sign of the old file is the old file
            let now = self.env.tree.stamp(path)?;
            return Ok(over.is_none_or(|l| now != Some(l.stamp)));
        };
        // nothing comes out where nothing was: another inode is that of a copy of the directory
        let is_copy = over.is_none();
        if held.inode == staged.stamp.inode || is_copy {
            return Ok(false);
        }
        let expected = over.is_some_and(|l| held.same_but_for_ctime(&l.stamp));
        self.keep_what_came_out(path, over, &staged.temp, expected)?;
        Ok(true)
    }

    /// `expected`: by its stamp it is what was planned on. The bytes tell: a write through a mapping may leave no stamp.
    fn keep_what_came_out(
        &self,
        path: &str,
        over: Option<&Local>,
        temp: &str,
        expected: bool,
    ) -> Result<(), Interrupted> {
        let held = match self.env.tree.look(temp, None)? {
            Look::Here(held) => held,
            Look::Unknown(why) if !expected => return Err(Interrupted::Unknown(why)),
            Look::Absent | Look::Unknown(_) => return Ok(()),
        };
        if held.entry.is_dir() {
            return Ok(());
        }
        if let Some(over) = over.filter(|l| l.entry.same_body(&held.entry)) {
            // only its mode was changed: that is a change of what stands there now
            if let Some(now) = self
                .env
                .tree
                .stamp(path)?
                .filter(|_| over.entry.mode != held.entry.mode)
            {
                self.env
                    .tree
                    .set_metadata(path, &now, held.entry.mode, None)?;
            }
            return Ok(());
        }
        // the directory may have another name by now
        let beside = renamed_beside(temp, path);
        for nth in 1.. {
            let copy = copy_name(&beside, &held.entry, nth);
            if let Look::Here(there) = self.env.tree.look(&copy, None)?
                && there.entry.same_body(&held.entry)
            {
                return Ok(());
            }
            match self.env.tree.shift(temp, &copy, None)? {
                Moved::Done => {
                    self.offer(&copy);
                    self.env.ambient.done(Done::SetAside { path, copy: &copy });
                    return Ok(());
                }
                Moved::Taken => {}
                // a person has removed it
                Moved::Changed => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether a path was moved to `to`. What is in the trash and was not meant goes back.
    fn has_left(
        &self,
        path: &str,
        what: &Local,
        to: &str,
        trash: bool,
    ) -> Result<bool, Interrupted> {
        let Some(there) = self.env.tree.stamp(to)? else {
            return Ok(false);
        };
        let meant = there.same_but_for_ctime(&what.stamp) && self.env.tree.holds(to, what)?;
        if !trash || meant {
            return Ok(true);
        }
        if self.env.tree.shift(to, path, None)? == Moved::Done {
            return Ok(false);
        }
        // somebody has put something else there meanwhile: both stay
        let Look::Here(found) = self.env.tree.look(to, None)? else {
            return Ok(false);
        };
        for nth in 1.. {
            let copy = copy_name(path, &found.entry, nth);
            match self.env.tree.shift(to, &copy, None)? {
                Moved::Done => drop(self.offer(&copy)),
                Moved::Taken => continue,
                Moved::Changed => {}
            }
            break;
        }
        Ok(false)
    }

    /// See [`Engine::clear`].
    pub(super) fn clear_all(&self, temps: &[String]) -> Result<(), Interrupted> {
        let mut placing = Vec::new();
        self.each_below("", &mut |path, rows| {
            if let Some(Intent::Place { staged, .. }) = &rows.intent {
                placing.push((path.to_string(), staged.temp.clone()));
            }
            Ok(true)
        })?;
        for temp in temps {
            let intent = placing
                .iter()
                .find(|(_, staged)| last_name(staged) == last_name(temp));
            let done = match intent {
                Some((_, staged)) if staged == temp => Ok(true),
                Some((path, staged)) if self.env.tree.stamp(staged)?.is_none() => {
                    self.follow(path, temp)
                }
                _ => self.clear_away(temp, &self.know(temp)?, temp),
            };
            if let Err(fault @ Interrupted::Fault(_)) = done {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// A person has moved the directory of what was staged: that its name is gone there does not say that it was placed.
    fn follow(&self, path: &str, temp: &str) -> PathResult {
        let known = self.know(path)?;
        let Some(mut intent) = known.rows.intent.clone() else {
            return Ok(false);
        };
        if let Intent::Place { staged, .. } = &mut intent {
            staged.temp = temp.to_string();
        }
        let moved = Write::Intent(path.to_string(), Some(intent));
        self.commit(known.generation, &[moved])?;
        Ok(true)
    }

    /// Removes the directories above that its last entry has left empty, unless they count by themselves.
    pub(super) fn prune(&self, path: &str, known: &PathState) -> Result<(), Interrupted> {
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
                self.commit(known.generation, &[Write::Base(up.to_string(), base)])?;
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

    // -- the guard ------------------------------------------------------------------------------------------------------------

    /// What the guard has to know of the delete that is planned.
    pub(super) fn going(&self, path: &str, known: &PathState) -> Result<DeleteEffect, Interrupted> {
        match self.going_from_here(known)? {
            DeleteEffect::Counts(hash) if self.came_elsewhere(path, &hash) => {
                Ok(DeleteEffect::Free)
            }
            going => Ok(going),
        }
    }

    fn going_from_here(&self, known: &PathState) -> Result<DeleteEffect, Interrupted> {
        let Some(was) = known.base().entry.filter(|e| !e.is_dir()) else {
            return Ok(DeleteEffect::Free);
        };
        let Some(to) = &known.remote().renamed_to else {
            return Ok(DeleteEffect::Counts(was.hash));
        };
        let rows = self.env.state.rows(to)?;
        let same = |entry: Option<Entry>| entry.is_some_and(|e| e.same_body(&was));
        Ok(if !same(rows.remote.entry) || self.env.tree.ignored(to) {
            DeleteEffect::Counts(was.hash)
        } else if same(rows.base.entry) && rows.intent.is_none() {
            // a hub that says so may never give it
            DeleteEffect::Free
        } else {
            DeleteEffect::Renamed(was.hash, to.clone())
        })
    }

    /// Lets a delete through and counts it, durably, before it happens.
    pub(super) fn pass_guard(&self, path: &str, known: &PathState) -> Result<(), Interrupted> {
        if self.options.allow_deletes {
            return Ok(());
        }
        let hash = match self.going(path, known)? {
            DeleteEffect::Free => return Ok(()),
            DeleteEffect::Counts(hash) => hash,
            // the other half goes first, unless it waits itself
            DeleteEffect::Renamed(_, to) if self.queue().is_under_way(&to) => {
                return Err(Interrupted::Again(
                    "it was renamed on the hub; the new name is synced first",
                ));
            }
            DeleteEffect::Renamed(hash, _) => hash,
        };
        let token = token(path, known);
        let _one_by_one = super::lock(&self.weighing);
        if self.is_approved(&token)? {
            return Ok(());
        }
        self.queue().counts(path, &token, hash);
        let minute = self.minute();
        let Standing { files, counted, .. } = self.standing()?;
        let room =
            delete_guard::limit(self.options.limits, files + counted).saturating_sub(counted + 1);
        let pending = self.queue().other_deletes(path, room) + 1;
        if !delete_guard::passes(
            self.options.limits,
            Standing {
                files,
                counted,
                pending,
            },
        ) {
            return Err(if self.may_come_elsewhere(&hash) {
                Interrupted::Again(MOVED_PERHAPS)
            } else {
                Interrupted::Held
            });
        }
        let forget = Write::ForgetDeletes {
            before: delete_guard::forgotten_before(minute),
        };
        self.commit(known.generation, &[Write::Deleted { minute }, forget])?;
        self.queue().let_through(path);
        Ok(())
    }

    pub(super) fn is_approved(&self, token: &Token) -> Result<bool, Interrupted> {
        Ok(self.env.state.approved(token)?)
    }
}

/// The base after a change of metadata: `seen`, where it is still to be told, is `stamp` with the mode that became of `meant`.
fn with_mode(then: &BaseRow, stamp: Stamp, mode: u32, meant: u32) -> BaseRow {
    let seen = Stamp {
        mode,
        ..then.seen.unwrap_or(stamp)
    };
    BaseRow {
        seen: Some(seen_with(meant, then.entry.as_ref(), seen)),
        ..then.clone()
    }
}

fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The last name of `path` in the directory of `temp`.
fn renamed_beside(temp: &str, path: &str) -> String {
    let name = last_name(path);
    parent(temp).map_or(name.to_string(), |dir| format!("{dir}/{name}"))
}
