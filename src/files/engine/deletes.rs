//! Decides which deletes the guard counts, and lets a delete through.

use std::collections::BTreeSet;

use crate::files::delete_guard::{self, GuardInput};
use crate::files::plan::{Entry, parent};
use crate::wire::files::Hash;

use super::neighbours::MOVED_PERHAPS;
use super::path::token;
use super::traits::{DeleteToken, Write};
use super::{Engine, Interrupted, PathState, SET_BACK, is_file};

/// Files that are looked at on each side of a single delete.
const FILES_BESIDE: usize = 8;

/// A delete as the guard sees it.
pub(super) enum DeleteEffect {
    /// Not counted: a directory, or a file that is here under its new name.
    Free,
    /// Counted: a file or link with these bytes.
    Counts(Hash),
    /// Counted for now: the hub announces a new name that it does not have yet.
    Renamed(Hash, String),
}

/// A planned delete for the guard; `None`: no delete, which passes.
pub(super) type GuardedDelete<'a> = Option<(&'a str, &'a PathState)>;

/// The deletes of a group that the guard has let through.
#[derive(Default)]
struct DeleteCount {
    /// What the guard knew before the first of them.
    before: Option<GuardInput>,
    passed: BTreeSet<String>,
}

impl Engine {
    /// Returns how the guard sees the planned delete.
    pub(super) fn delete_effect(
        &self,
        path: &str,
        known: &PathState,
    ) -> Result<DeleteEffect, Interrupted> {
        match self.local_delete_effect(known)? {
            DeleteEffect::Counts(hash) if self.arrived_elsewhere(path, &hash) => {
                Ok(DeleteEffect::Free)
            }
            going => Ok(going),
        }
    }

    fn local_delete_effect(&self, known: &PathState) -> Result<DeleteEffect, Interrupted> {
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
        } else if same(rows.base.entry) && rows.base.is_at(&rows.remote) && rows.intent.is_none() {
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
        match self.delete_effect(path, known)? {
            DeleteEffect::Renamed(_, to) if self.queue().is_under_way(&to) => Err(
                Interrupted::Again("it was renamed on the hub; the new name is synced first"),
            ),
            _ => Ok(()),
        }
    }

    /// Lets deletes through, one after the other. Those that pass are counted in one commit, before they are carried out.
    pub(super) fn pass_guard(&self, all: &[GuardedDelete<'_>]) -> Vec<Result<(), Interrupted>> {
        if self.options.allow_deletes || all.iter().all(Option::is_none) {
            return all.iter().map(|_| Ok(())).collect();
        }
        let _one_by_one = super::lock(&self.weighing);
        let generation = self.generation();
        let (mut count, mut results) = (DeleteCount::default(), Vec::with_capacity(all.len()));
        for delete in all {
            results.push(match delete {
                None => Ok(()),
                Some((_, known)) if known.generation != generation => {
                    Err(Interrupted::Again(SET_BACK))
                }
                Some((path, known)) => self.weigh(path, known, &mut count),
            });
        }
        if count.passed.is_empty() {
            return results;
        }
        let minute = self.minute();
        let forget = Write::ForgetDeletes {
            before: delete_guard::forgotten_before(minute),
        };
        let deleted = count.passed.iter().map(|_| Write::Deleted { minute });
        let writes: Vec<Write> = deleted.chain([forget]).collect();
        // the key or the intent of the delete makes it durable, before the delete happens
        if let Err(stop) = self.commit_soon(generation, &writes) {
            for (delete, result) in all.iter().zip(&mut results) {
                if delete.is_some_and(|(path, _)| count.passed.contains(path)) {
                    *result = Err(stop.clone());
                }
            }
        }
        results
    }

    fn weigh(
        &self,
        path: &str,
        known: &PathState,
        count: &mut DeleteCount,
    ) -> Result<(), Interrupted> {
        let hash = match self.delete_effect(path, known)? {
            DeleteEffect::Free => return Ok(()),
            DeleteEffect::Counts(hash) | DeleteEffect::Renamed(hash, _) => hash,
        };
        let token = token(path, known);
        if self.is_approved(&token)? {
            return Ok(());
        }
        self.queue().counts(path, &token, hash);
        let before = match count.before {
            Some(before) => before,
            None => *count.before.insert(self.standing()?),
        };
        // those that passed with this group are not committed yet
        let passed = count.passed.len() as u64;
        let standing = GuardInput {
            files: before.files.saturating_sub(passed),
            counted: before.counted + passed,
        };
        let most = delete_guard::most_pending(self.options.limits, standing);
        let pending = self.queue().other_deletes(path, most.saturating_sub(1)) + 1;
        if pending == 1 && known.node.is_none() && self.is_lone_delete() {
            self.check_beside(path)?;
        }
        if pending > most {
            return Err(if self.may_arrive_elsewhere(&hash) {
                Interrupted::Again(MOVED_PERHAPS)
            } else {
                Interrupted::Held
            });
        }
        self.queue().let_through(path);
        count.passed.insert(path.to_string());
        Ok(())
    }

    /// Before a delete passes that has waited for a moment only: whether the files beside it are still here. If one is not,
    /// this is the first of many, and the events of the others are late.
    fn check_beside(&self, path: &str) -> Result<(), Interrupted> {
        let dir = parent(path).unwrap_or("");
        let mut are_missing = false;
        for after in [path, ""] {
            for (beside, rows) in self.env.state.below(dir, after, FILES_BESIDE)? {
                if beside == path || !is_file(rows.base.entry.as_ref()) || rows.is_pending() {
                    continue;
                }
                // its own work item reports any error
                if matches!(self.env.tree.stamp(&beside), Ok(None)) {
                    are_missing |= self.offer(&beside);
                }
            }
        }
        if are_missing {
            self.expect_more();
            return Err(Interrupted::Again("others beside it are missing too"));
        }
        Ok(())
    }

    pub(super) fn is_approved(&self, token: &DeleteToken) -> Result<bool, Interrupted> {
        Ok(self.env.state.approved(token)?)
    }
}
