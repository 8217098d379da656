//! When a directory counts by itself, and what comes before and after its content.
//!
//! It changes nothing.

use crate::files::plan::{BaseRow, DIR_MODE, Entry, Local, local_mode, parent};

use super::traits::{Called, Look, Rows};
use super::{Action, Engine, Interrupted, lock, pages};

/// See [`Engine::live_below`].
#[derive(Default)]
pub(super) struct LiveBelow {
    /// It is to be deleted there.
    pub going: bool,
    /// It is to be placed here.
    pub comes: bool,
}

impl Engine {
    /// A directory counts by itself if it is in the base, if it has a mode of its own and something in it travels, or while it is
    /// empty here and has nothing on the hub: else what is in it makes it be. (A crash may have left it empty before the first of
    /// its files came.)
    pub(super) fn counts(
        &self,
        path: &str,
        base: &BaseRow,
        node: Option<Local>,
    ) -> Result<Option<Local>, Interrupted> {
        let Some(local) = node else { return Ok(None) };
        let in_base = base.entry.is_some_and(|b| b.is_dir());
        let counts = || {
            if self.env.tree.is_empty(path)? {
                Ok::<bool, Interrupted>(!self.has_live_below(path)?)
            } else {
                Ok(self.has_own_mode(local.entry.mode) && self.has_below(path, &|_| Ok(true))?)
            }
        };
        Ok((!local.entry.is_dir() || in_base || counts()?).then_some(local))
    }

    /// Whether a directory that is not in the base has to tell its mode.
    pub fn has_own_mode(&self, mode: u32) -> bool {
        self.modes_differ(mode, DIR_MODE)
    }

    /// Whether two modes of a directory differ, on a disk that keeps modes.
    pub(super) fn modes_differ(&self, here: u32, there: u32) -> bool {
        here != there && self.env.tree.keeps_modes()
    }

    /// Whether there is something in the tree below that travels, and that `also` is true of.
    pub(super) fn has_below(
        &self,
        dir: &str,
        also: &dyn Fn(&str) -> Called<bool>,
    ) -> Result<bool, Interrupted> {
        let mut found = false;
        self.env.tree.below(dir, &mut |below| {
            let counts = match self.env.tree.look(below, None)? {
                Look::Here(l) if l.entry.is_dir() => self.env.tree.is_empty(below)?,
                Look::Here(_) => true,
                _ => false,
            };
            found = counts && !self.env.tree.ignored(below) && also(below)?;
            Ok(!found)
        })?;
        Ok(found)
    }

    fn has_live_below(&self, dir: &str) -> Result<bool, Interrupted> {
        let mut live = false;
        self.each_below(dir, &mut |_, rows| {
            live = rows.remote.entry.is_some();
            Ok(!live)
        })?;
        Ok(live)
    }

    /// Calls `visit` with all that is known of the paths below a name, until it says `false`.
    pub(super) fn each_below(
        &self,
        dir: &str,
        visit: &mut dyn FnMut(&str, &Rows) -> Result<bool, Interrupted>,
    ) -> Result<(), Interrupted> {
        pages::each_below(&*self.env.state, dir, visit)
    }

    /// Whether a directory has a mode that is to be known, here or there, before something comes into it.
    pub(super) fn mode_comes_first(
        &self,
        up: &str,
        Rows { base, remote, .. }: &Rows,
        action: Action,
    ) -> Result<bool, Interrupted> {
        if self.env.tree.ignored(up) {
            return Ok(false);
        }
        let theirs = remote.entry.is_some_and(|r| r.is_dir()) && !base.is_at(remote);
        if theirs || action != Action::Upload {
            // what the disk takes for another one never comes: what is below it is refused by itself
            return Ok(theirs && self.env.tree.twin(up)?.is_none());
        }
        let Some(local) = self.look(up, base)?.filter(|local| local.entry.is_dir()) else {
            return Ok(false);
        };
        Ok(match base.entry {
            Some(was) => was.is_dir() && base.is_at(remote) && local_mode(base, &local) != was.mode,
            None => self.has_own_mode(local.entry.mode),
        })
    }

    /// The directories above that are missing, each with its mode.
    pub(super) fn missing_above<'a>(
        &self,
        path: &'a str,
    ) -> Result<Vec<(&'a str, u32)>, Interrupted> {
        let mut missing = Vec::new();
        for up in std::iter::successors(parent(path), |p| parent(p)) {
            if self.env.tree.stamp(up)?.is_some() {
                break;
            }
            let theirs = self.env.state.rows(up)?.remote.entry.filter(Entry::is_dir);
            missing.push((up, theirs.map_or(DIR_MODE, |theirs| theirs.mode)));
        }
        if !missing.is_empty() && !*lock(&self.drained) {
            return Err(Interrupted::Again(
                "its directory is new, and the hub has not reported all changes yet",
            ));
        }
        missing.reverse();
        Ok(missing)
    }

    /// What the hub has below a directory that is gone here.
    pub(super) fn live_below(&self, dir: &str) -> Result<LiveBelow, Interrupted> {
        let mut found = LiveBelow::default();
        self.each_below(dir, &mut |path, Rows { base, remote, .. }| {
            if let Some(theirs) = remote.entry.filter(|_| !self.env.tree.ignored(path)) {
                let deleted = base
                    .entry
                    .is_some_and(|was| base.is_at(remote) || was.same_body(&theirs));
                found.going |= deleted;
                found.comes |= !deleted;
            }
            Ok(true)
        })?;
        Ok(found)
    }
}
