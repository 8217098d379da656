//! Decides which deletes the guard counts, and lets a delete through.

use crate::files::delete_guard::{self, Standing};
use crate::files::plan::Entry;
use crate::wire::files::Hash;

use super::neighbours::MOVED_PERHAPS;
use super::path::token;
use super::traits::{Token, Write};
use super::{Engine, Interrupted, PathState};

/// A delete as the guard sees it.
pub(super) enum DeleteEffect {
    /// Not counted: a directory, or a file that is here under its new name.
    Free,
    /// Counted: a file or link with these bytes.
    Counts(Hash),
    /// Counted for now: the hub announces a new name that it does not have yet.
    Renamed(Hash, String),
}

impl Engine {
    /// Returns how the guard sees the planned delete.
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
            // a hub that announces a rename may never send the new name
            DeleteEffect::Free
        } else {
            DeleteEffect::Renamed(was.hash, to.clone())
        })
    }

    /// Waits for the new name of a file that was renamed on the hub: until that name is in sync, the
    /// trash would have the only copy here. Does not wait for a new name that waits itself.
    pub(super) fn new_name_first(&self, path: &str, known: &PathState) -> Result<(), Interrupted> {
        let remote = known.remote();
        if remote.renamed_to.is_none() {
            return Ok(());
        }
        // the response to a request of this client may be ahead of the feed
        if remote.rev > self.env.state.feed()?.cursor {
            return Err(Interrupted::Again(
                "it was renamed on the hub, which has not reported the new name yet",
            ));
        }
        match self.going(path, known)? {
            DeleteEffect::Renamed(_, to) if self.queue().is_under_way(&to) => Err(
                Interrupted::Again("it was renamed on the hub; the new name is synced first"),
            ),
            _ => Ok(()),
        }
    }

    /// Lets a delete through. It is counted durably before it is carried out.
    pub(super) fn pass_guard(&self, path: &str, known: &PathState) -> Result<(), Interrupted> {
        if self.options.allow_deletes {
            return Ok(());
        }
        let hash = match self.going(path, known)? {
            DeleteEffect::Free => return Ok(()),
            DeleteEffect::Counts(hash) | DeleteEffect::Renamed(hash, _) => hash,
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
        // the key or the intent of the delete makes it durable, before the delete happens
        self.commit_soon(known.generation, &[Write::Deleted { minute }, forget])?;
        self.queue().let_through(path);
        Ok(())
    }

    pub(super) fn is_approved(&self, token: &Token) -> Result<bool, Interrupted> {
        Ok(self.env.state.approved(token)?)
    }
}
