//! Recognizes files that a user has renamed: content that is new at its name, and missing at
//! another.
//!
//! The new name and the delete of the old one are sent as one change, with the revisions of both as
//! its condition. It changes nothing itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::files::plan::{self, LocalEntry, Stamp, is_below};
use crate::wire::files::Hash;
use crate::wire::revision::Revision;

use super::traits::{CallResult, Fault, OldPath};
use super::{Engine, Interrupted, PathState};

/// Files that are examined as the source of a rename, or as a copy of the same bytes.
pub(super) const CANDIDATES: usize = 16;

/// Files with the same bytes that are asked whether one of them was moved.
pub(super) const MAX_EQUAL_FILES: usize = 1000;

/// For each content of a group, the names that may have lost it. They are looked for once, because of
/// many equal files most still exist.
#[derive(Default)]
pub(super) struct OldNames(BTreeMap<Hash, Candidates>);

#[derive(Default)]
struct Candidates {
    /// Not tried yet, the next one at the end.
    names: Vec<String>,
    /// Whether one of them was being worked on elsewhere.
    is_busy: bool,
    /// The files that were in sync under these names and are missing, by their inodes; read when it
    /// is needed.
    files: Option<BTreeMap<u64, FormerFile>>,
}

struct FormerFile {
    /// The revision at which it was in sync.
    rev: u64,
    seen: Stamp,
}

impl Engine {
    /// Finds and claims the former name of this content, if it was renamed here, perhaps onto an
    /// existing name.
    pub(super) fn claim_old_name(
        &self,
        path: &str,
        known: &PathState,
        local: &LocalEntry,
        old_names: &mut OldNames,
    ) -> Result<Option<OldPath>, Interrupted> {
        let Some(hash) = brings(known, local) else {
            return Ok(None);
        };
        let candidates = self.candidates(hash, old_names)?;
        // ancestors of this name are directories by now, and descendants cannot have existed
        let apart = |old: &String| old != path && !is_below(path, old) && !is_below(old, path);
        while let Some(at) = candidates.names.iter().rposition(apart) {
            let old = candidates.names.remove(at);
            if !self.queue().claim(&old) {
                candidates.is_busy = true;
                continue;
            }
            match self.was_renamed(&old, local) {
                Ok(Some(rev)) => return Ok(Some(OldPath { path: old, rev })),
                Ok(None) => self.queue().release(&old),
                Err(stop) => {
                    self.queue().release(&old);
                    return Err(stop);
                }
            }
        }
        if candidates.is_busy {
            Err(Interrupted::Busy("its former name is being synced"))
        } else {
            Ok(None)
        }
    }

    /// Pending deletes of these bytes, and then names that are missing without being pending yet.
    fn candidates<'a>(
        &self,
        hash: Hash,
        old_names: &'a mut OldNames,
    ) -> CallResult<&'a mut Candidates> {
        let new = match old_names.0.entry(hash) {
            Entry::Occupied(found) => return Ok(found.into_mut()),
            Entry::Vacant(new) => new,
        };
        let mut names = self.queue().deleted(&hash, MAX_EQUAL_FILES);
        let equal = self
            .env
            .state
            .with_hash(&hash, MAX_EQUAL_FILES)?
            .into_iter();
        // its own work item reports any error
        let is_missing = |old: &String| matches!(self.env.tree.stamp(old), Ok(None));
        let missing: Vec<String> = equal
            .filter(|old| names.binary_search(old).is_err() && is_missing(old))
            .collect();
        names.extend(missing);
        names.reverse();
        Ok(new.insert(Candidates {
            names,
            ..Candidates::default()
        }))
    }

    fn files_of(&self, names: &[String]) -> CallResult<BTreeMap<u64, FormerFile>> {
        let mut files = BTreeMap::new();
        for old in names {
            let rows = self.env.state.rows(old)?;
            // a pending delete may be one of the hub's
            let is_missing = || matches!(self.env.tree.stamp(old), Ok(None));
            if let Some(seen) = rows
                .base
                .seen
                .filter(|_| rows.intent.is_none() && is_missing())
            {
                let rev = rows.base.rev;
                files.insert(seen.inode, FormerFile { rev, seen });
            }
        }
        Ok(files)
    }

    /// The revision of `old` if it was in sync with these bytes and is only missing here.
    fn was_renamed(&self, old: &str, local: &LocalEntry) -> Result<Option<Revision>, Interrupted> {
        let rows = self.env.state.rows(old)?;
        let is_same = |entry: Option<plan::Entry>| entry.is_some_and(|e| e.same_body(&local.entry));
        // that its mode was changed on the hub does not keep it from being deleted there
        let same = is_same(rows.base.entry) && is_same(rows.remote.entry) && !rows.base.lost;
        let quiet = rows.key.is_none() && rows.intent.is_none() && !self.env.tree.ignored(old);
        // a name that cannot be examined is not gone
        let gone = || match self.env.tree.stamp(old) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(false),
            shown => shown.map(|stamp| stamp.is_none()),
        };
        let gone = same && quiet && gone()?;
        Ok(gone.then_some(rows.remote.at()))
    }

    /// Whether a user has renamed another file to this name, whose content is that of the former one:
    /// only the inode tells, which was in sync under a name that is missing now. The hub has changed
    /// the former one, not this one. It may also be the former one, which was there
    /// since, and has come back.
    pub(super) fn is_another_file(
        &self,
        known: &PathState,
        old_names: &mut OldNames,
    ) -> Result<bool, Interrupted> {
        let base = known.base();
        let Some(local) = known.local.filter(|local| !local.entry.is_dir()) else {
            return Ok(false);
        };
        let is_alike = base.entry.is_some_and(|e| e.same_body(&local.entry));
        let is_same = base.seen.is_some_and(|s| s.inode == local.stamp.inode);
        let is_unchanged = base.is_at(known.remote());
        if known.rows.is_begun() || !is_alike || is_same && is_unchanged {
            return Ok(false);
        }
        // the hub's change would replace this file, which may have been renamed a moment ago
        let mut of_now = OldNames::default();
        let old_names = if is_same || is_unchanged {
            old_names
        } else {
            &mut of_now
        };
        let candidates = self.candidates(local.entry.hash, old_names)?;
        let files = match &mut candidates.files {
            Some(files) => files,
            none => none.insert(self.files_of(&candidates.names)?),
        };
        let former = files.get(&local.stamp.inode);
        Ok(former.is_some_and(|former| {
            // its mode may be new
            let mode = former.seen.mode;
            let is_it = former.seen.same_but_for_ctime(&Stamp {
                mode,
                ..local.stamp
            });
            is_it && (!is_same || former.rev > base.rev)
        }))
    }

    /// Whether the hub has renamed a file of this machine to a name that was deleted here, after that
    /// name was in sync: another file was deleted, and to delete this one would delete both.
    pub(super) fn is_renamed_to(&self, path: &str, known: &PathState) -> Result<bool, Interrupted> {
        let (base, remote) = (known.base(), known.remote());
        let Some(theirs) = remote.entry.filter(|e| !e.is_dir()) else {
            return Ok(false);
        };
        let is_alike = base.entry.is_some_and(|e| e.same_body(&theirs));
        if known.node.is_some() || known.rows.is_begun() || !is_alike || base.is_at(remote) {
            return Ok(false);
        }
        for old in self.env.state.with_hash(&theirs.hash, MAX_EQUAL_FILES)? {
            let gone = self.env.state.rows(&old)?.remote;
            // the hub gives the new name the revision before that of the old one
            let is_since = gone.rev > base.rev + 1;
            // its own work item reports any error
            if is_since
                && gone.renamed_to.is_some_and(|to| to == path)
                && matches!(self.env.tree.stamp(&old), Ok(Some(_)))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The hash of content that is new at its name.
pub(super) fn brings(known: &PathState, local: &LocalEntry) -> Option<Hash> {
    let same = known
        .base()
        .entry
        .is_some_and(|base| base.same_body(&local.entry));
    (!local.entry.is_dir() && !same).then_some(local.entry.hash)
}
