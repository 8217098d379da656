//! Handles a name of the hub that the disk treats as equal to another one: `a` and `A` on exFAT.
//!
//! Nothing is replaced or deleted under a name that the directory does not list. If the hub has
//! both names, one stays unsynced and is reported. If the old name is gone from the hub, the local
//! file was renamed there and takes the new name.

use crate::error::{Error, Kind};
use crate::files::plan::{Action, BaseRow, Stamp, plan};

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
    pub(super) fn respell(&self, known: &PathState, twin: &NameCollision) -> PathResult {
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
        if !self.queue().claim(there) {
            return Err(Interrupted::Busy(
                "another change of its old name is under way",
            ));
        }
        let done = self.respell_claimed(known, there, &twin.wanted);
        let mut queue = self.queue();
        queue.release(there);
        queue.offer(there);
        done
    }

    fn respell_claimed(&self, known: &PathState, there: &str, wanted: &str) -> PathResult {
        let rows = self.env.state.rows(wanted)?;
        if rows.intent.is_some() || rows.key.is_some() {
            return Err(Interrupted::WaitFor(wanted.to_string()));
        }
        let (from, to) = (there.to_string(), wanted.to_string());
        let intent = Intent::Respell {
            there: from.clone(),
            wanted: to.clone(),
        };
        let both = [
            Write::Intent(from, Some(intent.clone())),
            Write::Intent(to, Some(intent)),
        ];
        self.commit(known.generation, &both)?;
        let moved = self.env.tree.respell(there, wanted)?;
        self.respelled(known, there, wanted)?;
        if moved == RenameOutcome::Done {
            Ok(true)
        } else {
            Err(Interrupted::Again("its old name has changed"))
        }
    }

    /// Moves the base along with the rename, so that a later removal is a delete of the new name.
    /// Also used after a crash.
    pub(super) fn respelled(&self, known: &PathState, there: &str, wanted: &str) -> PathResult {
        if self.env.tree.stamp(there)?.is_none() {
            self.at_and_below(there, &mut |path, rows| {
                self.move_base(
                    known,
                    path,
                    &format!("{wanted}{}", &path[there.len()..]),
                    rows.clone(),
                )
                .map(|()| true)
            })?;
        }
        let closed = [there, wanted].map(|name| Write::Intent(name.to_string(), None));
        self.commit(known.generation, &closed)?;
        self.offer(there);
        Ok(true)
    }

    fn move_base(
        &self,
        known: &PathState,
        from: &str,
        to: &str,
        rows: Rows,
    ) -> Result<(), Interrupted> {
        if rows.base.entry.is_some() {
            // its content is read again
            let seen = rows.base.seen.map(|seen| Stamp { ctime: 0, ..seen });
            let moved = BaseRow { seen, ..rows.base };
            self.commit(
                known.generation,
                &[
                    Write::Base(from.into(), BaseRow::default()),
                    Write::Base(to.into(), moved),
                ],
            )?;
        }
        self.offer(from);
        self.offer(to);
        Ok(())
    }

    fn found(&self, there: &str) -> Result<EntriesAtOrBelow, Interrupted> {
        let mut found = EntriesAtOrBelow::default();
        self.at_and_below(there, &mut |path, rows| {
            if rows.intent.is_some() || rows.key.is_some() {
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
    fn at_and_below(
        &self,
        path: &str,
        visit: &mut dyn FnMut(&str, &Rows) -> Result<bool, Interrupted>,
    ) -> Result<(), Interrupted> {
        if visit(path, &self.env.state.rows(path)?)? {
            self.each_below(path, visit)
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
