//! Temporary names of staged files: those that a crash left behind, and those whose directory a user has renamed.
//!
//! A missing temporary name means that the file took its name, unless its directory was renamed. Only a walk through the whole
//! tree can tell, so the path waits for the next one. What the intent of such a path says is resolved in `recover`.

use std::collections::BTreeMap;

use super::recover::last_name;
use super::renames::OldNames;
use super::report::PathResult;
use super::traits::{CallResult, Intent, Write};
use super::{Engine, Interrupted, PathState, lock};

const MOVED_PERHAPS: &str =
    "its directory was renamed while the file arrived; a rescan finds the file";

/// A temporary name that is not where the intent has it.
pub(super) struct MissingName {
    /// The path with that intent.
    path: String,
    /// A whole walk since then has not found it: it is gone.
    walked: bool,
}

/// By the last component, which is unique.
pub(super) type MissingNames = BTreeMap<String, MissingName>;

impl Engine {
    /// Removes temporary names that a crash left behind, and the directories made for them. Names that belong to an intent
    /// stay, also in another directory. Takes only names that a scan found before any work began, because later ones may be
    /// in use.
    pub fn clear(&self, temps: &[String]) -> CallResult<()> {
        match self.clear_all(temps) {
            Err(Interrupted::Fault(fault)) => Err(fault),
            _ => Ok(()),
        }
    }

    fn clear_all(&self, temps: &[String]) -> Result<(), Interrupted> {
        let mut placing = BTreeMap::new();
        self.each_below("", &mut |_, rows| {
            if let Some(Intent::Place { staged, .. }) = &rows.intent {
                placing.insert(last_name(&staged.temp).to_string(), staged.temp.clone());
            }
            Ok(true)
        })?;
        for temp in temps {
            let is_needed = match placing.get(last_name(temp)) {
                Some(staged) => staged == temp || self.env.tree.stamp(staged)?.is_none(),
                None => false,
            };
            if is_needed {
                continue;
            }
            let known = self.know(temp, &mut OldNames::default())?;
            if let Err(fault @ Interrupted::Fault(_)) = self.clear_away(temp, &known, temp) {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Removes a temporary name that was not used, and the directories made for it.
    pub(super) fn clear_away(&self, path: &str, known: &PathState, temp: &str) -> PathResult {
        // recorded first: for an intent to place, a missing temporary name means that it was placed
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
        self.prune(path, known.generation)?;
        self.commit(known.generation, &[Write::Intent(path.to_string(), None)])?;
        Ok(true)
    }

    /// Returns if a walk has shown that this name is gone; otherwise the path waits for a walk.
    pub(super) fn look_for(&self, path: &str, temp: &str) -> Result<(), Interrupted> {
        let mut missing = lock(&self.missing);
        let name = last_name(temp);
        if missing.get(name).is_some_and(|name| name.walked) {
            missing.remove(name);
            return Ok(());
        }
        let not_yet = MissingName {
            path: path.to_string(),
            walked: false,
        };
        if missing.insert(name.to_string(), not_yet).is_none() {
            self.queue().overflowed();
        }
        Err(Interrupted::Again(MOVED_PERHAPS))
    }

    /// Whether a walk is to look for this name, in whichever directory.
    pub fn seeks(&self, temp: &str) -> bool {
        lock(&self.missing).contains_key(last_name(temp))
    }

    /// The last components of the names that a walk through the whole tree is to look for. Ask before it begins.
    pub fn sought(&self) -> Vec<String> {
        let mut missing = lock(&self.missing);
        // a path that waited for the last walk has asked since
        missing.retain(|_, name| !name.walked);
        missing.keys().cloned().collect()
    }

    /// Records where a walk found names of [`Engine::sought`]: the intents follow them. The others are gone, if the walk left
    /// nothing out (`whole`).
    pub fn walked(&self, sought: &[String], found: &[String], whole: bool) {
        for name in sought {
            let Some(path) = lock(&self.missing).get(name).map(|m| m.path.clone()) else {
                continue;
            };
            match found.iter().find(|temp| last_name(temp) == name) {
                Some(temp) => match self.follow(&path, temp) {
                    Ok(true) => drop(lock(&self.missing).remove(name)),
                    _ => self.queue().overflowed(),
                },
                None => {
                    if let Some(missing) = lock(&self.missing).get_mut(name) {
                        missing.walked = whole;
                    }
                }
            }
        }
        if !sought.is_empty() {
            self.wake(false);
        }
    }

    /// The intent of a path follows its temporary name. `false`: the path is being worked on.
    fn follow(&self, path: &str, temp: &str) -> PathResult {
        if !self.queue().claim(path) {
            return Ok(false);
        }
        let done = self.write_new_name(path, temp);
        self.queue().release(path);
        done
    }

    fn write_new_name(&self, path: &str, temp: &str) -> PathResult {
        let generation = self.generation();
        let mut intent = self.env.state.rows(path)?.intent;
        if let Some(Intent::Place { staged, .. }) = &mut intent
            && last_name(&staged.temp) == last_name(temp)
        {
            staged.temp = temp.to_string();
            self.commit(generation, &[Write::Intent(path.to_string(), intent)])?;
        }
        Ok(true)
    }
}
