//! Resolves a file and a directory with the same name: the directory keeps the name, the file takes
//! its conflict name, on the hub too.
//!
//! A link counts as a file. Decided only after the feed has reported all changes, because deletes
//! of the content may still be coming.

use crate::config::watch::SyncMode;
use crate::error::{Error, Kind};
use crate::files::conflict::copy_name;
use crate::files::plan::{Action, BaseRow, Entry};

use super::renames::OldNames;
use super::step::{NextStep, OutgoingChange};
use super::traits::{ExpectedRow, OldPath};
use super::{Engine, Interrupted, NO_FREE_NAME, PathState, is_file, lock, takes_away};

/// What is known below a name.
#[derive(Default)]
struct EntriesBelow {
    /// An entry will be there once everything is in sync.
    wanted: bool,
    /// An entry that was in sync is about to be removed here.
    going: bool,
    /// The hub has an entry there.
    live: bool,
}

impl Engine {
    /// `None`: there is no conflict. An error: the path waits.
    pub(super) fn type_conflict(
        &self,
        path: &str,
        known: &PathState,
    ) -> Result<Option<NextStep>, Interrupted> {
        let here = is_file(known.node.map(|n| n.entry).as_ref());
        let there = is_file(known.remote().entry.as_ref());
        let dir = known.local.filter(|l| l.entry.is_dir());
        if !here && !there && dir.is_none() {
            return Ok(None);
        }
        let plan = self.plan(known);
        let action = plan.action;
        // many directories have rows, so those below one are read only where it matters
        if !here && !there && action != Action::Trash && !self.env.tree.is_empty(path)? {
            return Ok(None);
        }
        let below = self.below(path, known)?;
        let goes_last =
            || Ok::<bool, Interrupted>(action == Action::Trash || self.env.tree.is_empty(path)?);
        if dir.is_some() && below.going && goes_last()? {
            // this client emptied the directory, or will: it is removed with its last entry
            return Err(Interrupted::Again(
                "the directory is removed with the last file in it",
            ));
        }
        if takes_away(action) || !(here || there) {
            return Ok(None);
        }
        if !(below.wanted || action == Action::Conflict && dir.is_some()) {
            return if action == Action::Upload && here && below.live {
                Err(Interrupted::Again(
                    "its content on the hub is deleted first",
                ))
            } else {
                Ok(None)
            };
        }
        if !*lock(&self.drained) {
            return Err(Interrupted::Again(
                "a file and a directory have this name, and the hub has not reported all changes yet",
            ));
        }
        if self.options.mode != SyncMode::TwoWay {
            let what = "a file and a directory have this name, and changes go one way only";
            return Err(Interrupted::Unknown(
                Error::new(Kind::Failed, what).hint("rename one of them"),
            ));
        }
        let edited = known
            .local
            .filter(|l| !known.base().entry.is_some_and(|b| l.entry.same_body(&b)));
        match (edited, known.remote().entry) {
            (Some(local), _) if here && matches!(action, Action::Upload | Action::Conflict) => {
                // for an upload: the hub's row is what was edited, and is deleted there
                let then = if action == Action::Upload {
                    known.base().clone()
                } else {
                    BaseRow::default()
                };
                self.set_aside(path, &local, then).map(Some)
            }
            (_, Some(theirs)) if there => {
                let mode = known
                    .local
                    .filter(|_| here)
                    .map_or(theirs.mode, |_| plan.mode);
                self.rename_on_hub(path, known, Entry { mode, ..theirs })
                    .map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Renames the hub's file to a name that is free on both sides. Never to the name of an equal
    /// file: a user may be editing that one, and the edit would replace the bytes.
    fn rename_on_hub(
        &self,
        path: &str,
        known: &PathState,
        entry: Entry,
    ) -> Result<NextStep, Interrupted> {
        for nth in 1.. {
            let copy = copy_name(path, &entry, nth);
            let rows = self.env.state.rows(&copy)?;
            if rows.key.is_some() || rows.intent.is_some() {
                return Err(Interrupted::WaitFor(copy));
            }
            if rows.remote.entry.is_some()
                || rows.base.entry.is_some()
                || self.env.tree.stamp(&copy)?.is_some()
            {
                continue;
            }
            if !self.queue().claim(&copy) {
                return Err(Interrupted::Busy(
                    "another change of the same name is under way",
                ));
            }
            let from = Some(OldPath {
                path: path.to_string(),
                rev: known.remote().at(),
            });
            return Ok(NextStep::Send(OutgoingChange {
                path: copy.clone(),
                entry: Some(entry),
                condition: ExpectedRow::Nothing,
                from,
                local: None,
                ours: false,
                claimed: Some(copy),
            }));
        }
        Err(Interrupted::Again(NO_FREE_NAME))
    }

    /// Collects the known paths below a name. Open keys and intents there must be settled first.
    fn below(&self, path: &str, known: &PathState) -> Result<EntriesBelow, Interrupted> {
        let (mut found, mut old_names) = (EntriesBelow::default(), OldNames::default());
        let generation = known.generation;
        self.each_below(path, &mut |below, rows| {
            if rows.intent.is_some() || rows.key.is_some() && known.node.is_some() {
                return Err(Interrupted::WaitFor(below.to_string()));
            }
            found.live |= rows.remote.entry.is_some();
            if self.env.tree.ignored(below) {
                found.wanted |= rows.remote.entry.is_some();
                return Ok(true);
            }
            if rows.base.lost {
                found.wanted = true;
                return Ok(true);
            }
            let below = self.examine_rows(below, generation, rows.clone(), &mut old_names)?;
            let (action, was) = (below.plan().action, below.base().entry.is_some());
            found.wanted |= was && action == Action::Nothing
                || action != Action::Nothing && !takes_away(action);
            found.going |= was && matches!(action, Action::Trash | Action::Forget);
            Ok(true)
        })?;
        if !found.wanted && known.node.is_some_and(|n| n.entry.is_dir()) {
            found.wanted = self.has_below(path, &|below| {
                let rows = self.env.state.rows(below)?;
                Ok(rows.base.entry.is_none() && rows.remote.entry.is_none())
            })?;
        }
        Ok(found)
    }
}
