//! Decides when a directory is an entry of its own, and what must precede and follow its
//! content.
//!
//! It changes nothing.

use crate::files::plan::{BaseRow, DIR_MODE, Entry, LocalEntry, local_mode, parent};

use super::traits::{CallResult, Presence, Rows};
use super::{Action, Engine, Interrupted, lock, pages};

/// See [`Engine::live_below`].
#[derive(Default)]
pub(super) struct ChangesBelow {
    /// Something below it is to be deleted on the hub.
    pub going: bool,
    /// Something below it is to be placed here.
    pub comes: bool,
}

impl Engine {
    /// Whether a directory is an entry of its own: it is in the base; or it has its own mode and
    /// contains something that travels; or it is empty here and the hub has nothing below it. Every
    /// other directory is implied by its content. (A crash may have left it empty before its first
    /// file was placed.)
    pub(super) fn explicit_entry(
        &self,
        path: &str,
        base: &BaseRow,
        node: Option<LocalEntry>,
    ) -> Result<Option<LocalEntry>, Interrupted> {
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

    /// Whether the mode of a directory that is not in the base must be sent.
    pub fn has_own_mode(&self, mode: u32) -> bool {
        self.modes_differ(mode, DIR_MODE)
    }

    /// Whether the two modes of a directory differ, on a disk that keeps modes.
    pub(super) fn modes_differ(&self, here: u32, there: u32) -> bool {
        here != there && self.env.tree.keeps_modes()
    }

    /// Whether the tree has an entry below `dir` that travels and satisfies `also`.
    pub(super) fn has_below(
        &self,
        dir: &str,
        also: &dyn Fn(&str) -> CallResult<bool>,
    ) -> Result<bool, Interrupted> {
        let mut found = false;
        self.env.tree.below(dir, &mut |below| {
            let counts = match self.env.tree.examine(below, None)? {
                Presence::Here(l) if l.entry.is_dir() => self.env.tree.is_empty(below)?,
                Presence::Here(_) => true,
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

    /// Calls `visit` with each known path below a name, until it returns `false`.
    pub(super) fn each_below(
        &self,
        dir: &str,
        visit: &mut dyn FnMut(&str, &Rows) -> Result<bool, Interrupted>,
    ) -> Result<(), Interrupted> {
        pages::each_below(&*self.env.state, dir, visit)
    }

    /// Whether the mode of a directory, on either side, must be settled before its content is
    /// placed.
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
            // a path that the disk folds into another is never placed; everything below it is
            // refused separately
            return Ok(theirs && self.env.tree.name_collision(up)?.is_none());
        }
        let Some(local) = self
            .examine_entry(up, base)?
            .filter(|local| local.entry.is_dir())
        else {
            return Ok(false);
        };
        Ok(match base.entry {
            Some(was) => was.is_dir() && base.is_at(remote) && local_mode(base, &local) != was.mode,
            None => self.has_own_mode(local.entry.mode),
        })
    }

    /// The missing ancestors of a path, each with its mode.
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

    /// Returns which rows the hub has below a directory that is gone here.
    pub(super) fn live_below(&self, dir: &str) -> Result<ChangesBelow, Interrupted> {
        let mut found = ChangesBelow::default();
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
