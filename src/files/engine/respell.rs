//! Handles a name of the hub that the disk treats as equal to another one: `a` and `A` on exFAT.
//!
//! Nothing is replaced or deleted under a name that the directory does not list. If the hub has
//! both names, one stays unsynced and is reported. If the old name is gone from the hub, the local
//! file was renamed there and takes the new name.

use crate::error::{Error, Kind};
use crate::files::plan::{Action, BaseRow, Stamp, parent, plan};

use super::pages::each_below;
use super::traits::{Fault, Intent, NameCollision, RenameOutcome, Rows, Write};
use super::{Engine, Interrupted, PathResult, PathState};

/// What is known at and below a name.
#[derive(Default)]
struct EntriesAtOrBelow {
    /// The hub has an entry there.
    live: bool,
    /// An entry there was in sync.
    in_base: bool,
}

impl Engine {
    /// Renames the entry that blocks a path to the spelling on the hub, or returns why that is
    /// impossible.
    pub(super) fn respell(
        &self,
        path: &str,
        known: &PathState,
        twin: &NameCollision,
    ) -> PathResult {
        let Some(there) = &twin.there else {
            // a name that was just removed may still resolve for a moment
            return Err(Interrupted::Again(
                "the disk treats its name as another one",
            ));
        };
        let found = self.found(there)?;
        if found.live && !self.is_drained() {
            // its delete may not have arrived yet
            return Err(Interrupted::Again(
                "its old name may still be deleted on the hub",
            ));
        }
        if found.live || !found.in_base {
            return Err(refused(twin, there));
        }
        self.wait_for_deletes(&twin.wanted)?;
        // what was decided about other paths below the new name would replace what they get from the old one
        let mut queue = self.queue();
        let is_free = queue.claim_around(&twin.wanted, path);
        if !is_free || !queue.claim(there) {
            if is_free {
                queue.release_around(&twin.wanted, path);
            }
            return Err(Interrupted::Busy(
                "another change of its old name, or below its new one, is under way",
            ));
        }
        drop(queue);
        let done = self.respell_claimed(known, there, &twin.wanted);
        let mut queue = self.queue();
        queue.release_around(&twin.wanted, path);
        queue.release(there);
        queue.offer(there);
        done
    }

    fn respell_claimed(&self, known: &PathState, there: &str, wanted: &str) -> PathResult {
        let rows = self.env.state.rows(wanted)?;
        if rows.is_begun() {
            return Err(Interrupted::WaitFor(wanted.to_string()));
        }
        let (from, to) = (there.to_string(), wanted.to_string());
        let intent = Intent::Rename {
            from: from.clone(),
            to: to.clone(),
        };
        let both = [
            Write::Intent(from, Some(intent.clone())),
            Write::Intent(to, Some(intent)),
        ];
        self.commit(known.generation, &both)?;
        let moved = self.env.tree.respell(there, wanted)?;
        self.renamed(known, there, wanted)?;
        if moved == RenameOutcome::Done {
            Ok(true)
        } else {
            Err(Interrupted::Again("its old name has changed"))
        }
    }

    /// Moves the bases along with the rename, so that a later removal is a delete of the new name.
    /// Also used after a crash.
    pub(super) fn renamed(&self, known: &PathState, from: &str, to: &str) -> PathResult {
        let (mut writes, mut paths) = (Vec::new(), Vec::new());
        let is_free = self.env.tree.stamp(from)?.is_none();
        self.at_and_below(from, &mut |old, rows| {
            let new = format!("{to}{}", &old[from.len()..]);
            let base = rows.base.clone();
            let has_moved = is_free || base.entry.is_some() && self.has_moved(old, &new, &base)?;
            if has_moved && base.entry.is_some() {
                // its content is read again
                let seen = base.seen.map(|seen| Stamp { ctime: 0, ..seen });
                writes.push(Write::Base(old.to_string(), BaseRow::default()));
                writes.push(Write::Base(new.clone(), BaseRow { seen, ..base }));
            }
            // a disk that keeps the old name refuses the new one: to offer it again would not end
            if has_moved {
                paths.extend([old.to_string(), new]);
            }
            Ok::<bool, Interrupted>(true)
        })?;
        if is_free && parent(from) != parent(to) {
            self.prune(from, known.generation)?;
        }
        writes.extend([from, to].map(|name| Write::Intent(name.to_string(), None)));
        self.commit(known.generation, &writes)?;
        for path in &paths {
            self.offer(path);
        }
        self.offer(from);
        Ok(true)
    }

    /// Whether an entry is under the new name, although something else has its old directory's name by now.
    fn has_moved(&self, old: &str, new: &str, base: &BaseRow) -> Result<bool, Interrupted> {
        let (old, new) = (self.env.tree.stamp(old)?, self.env.tree.stamp(new)?);
        let is_it = |now: Option<Stamp>| {
            let seen = base.seen.map(|seen| seen.inode);
            now.is_some_and(|now| Some(now.inode) == seen)
        };
        Ok(is_it(new) && !is_it(old) || new.is_some() && old.is_none())
    }

    fn found(&self, there: &str) -> Result<EntriesAtOrBelow, Interrupted> {
        let mut found = EntriesAtOrBelow::default();
        self.at_and_below(there, &mut |path, rows| {
            if rows.is_begun() {
                return Err(Interrupted::WaitFor(path.to_string()));
            }
            found.live |= rows.remote.entry.is_some();
            found.in_base |= rows.base.entry.is_some();
            // one is enough: there may be many, and each refused path repeats this check
            Ok(!found.live)
        })?;
        Ok(found)
    }

    /// Waits for deletes under the wanted name that the hub does not have yet: they would apply to
    /// the entry that takes that name now.
    fn wait_for_deletes(&self, wanted: &str) -> Result<(), Interrupted> {
        self.at_and_below(
            wanted,
            &mut |path, rows| match plan(&rows.base, None, &rows.remote).action {
                Action::Delete => Err(Interrupted::WaitFor(path.to_string())),
                _ => Ok(true),
            },
        )
    }

    /// Calls `visit` with everything known at and below a path, until it returns `false`.
    pub(super) fn at_and_below<E: From<Fault>>(
        &self,
        path: &str,
        visit: &mut dyn FnMut(&str, &Rows) -> Result<bool, E>,
    ) -> Result<(), E> {
        if visit(path, &self.env.state.rows(path)?)? {
            each_below(&*self.env.state, path, visit)
        } else {
            Ok(())
        }
    }
}

fn refused(twin: &NameCollision, other: &str) -> Interrupted {
    let what = format!(
        "this disk treats the name {:?} as {other:?}, which exists",
        twin.wanted
    );
    Interrupted::Fault(Fault::Refused(
        Error::new(Kind::Failed, what).hint("rename one of them"),
    ))
}
