//! Commits of the state: in batches, with a sync where a caller needs one, and a while later where none does.
//!
//! It does not know the tables: see [`super::apply`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redb::Durability;

use super::{CACHE_BYTES, DiskState, HINTS, apply};
use crate::clock;
use crate::database::{self, DbResult};
use crate::error::{Error, Kind};
use crate::files::engine::traits::{CallResult, Fault, Write};

/// Writes without a sync; one more, and the next commit has one.
const MAX_UNSYNCED_WRITES: usize = 4000;
/// How long a write is without a sync if no other commit has one.
const MAX_UNSYNCED_TIME: Duration = Duration::from_secs(1);

/// The writes since the last sync.
#[derive(Debug, Default)]
pub struct Unsynced {
    since: Option<Instant>,
    writes: usize,
}

impl DiskState {
    /// Several callers share one transaction, which has a sync if one of them needs it.
    pub(super) fn write(&self, writes: &[Write], durability: Durability) -> CallResult<()> {
        self.group.join((writes.to_vec(), durability), &|groups| {
            let count: usize = groups.iter().map(|(writes, _)| writes.len()).sum();
            let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
            let syncs = unsynced.writes + count > MAX_UNSYNCED_WRITES
                || groups
                    .iter()
                    .any(|(_, needs)| matches!(needs, Durability::Immediate));
            let durability = if syncs {
                Durability::Immediate
            } else {
                Durability::None
            };
            // redb may panic on a damaged file
            let together = || {
                let writes = groups.iter().flat_map(|(writes, _)| writes);
                self.transaction(durability, &|tx| apply::apply(tx, writes.clone()))
            };
            let damaged = || {
                Fault::Fatal(Error::new(
                    Kind::Damaged,
                    "cannot write the state: its file is damaged",
                ))
            };
            let done = catch_unwind(AssertUnwindSafe(together)).unwrap_or_else(|_| Err(damaged()));
            *unsynced = match (syncs, &done) {
                (false, Ok(())) => Unsynced {
                    since: unsynced.since.or_else(|| Some(clock::monotonic())),
                    writes: unsynced.writes + count,
                },
                _ => Unsynced::default(),
            };
            vec![done; groups.len()]
        })
    }

    /// Syncs the writes without a sync if the first of them is old enough. -> when to call it again; `None`: all is synced.
    pub fn sync_old(&self) -> CallResult<Option<Duration>> {
        let since = self
            .unsynced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .since;
        let left = since.map(|since| MAX_UNSYNCED_TIME.saturating_sub(since.elapsed()));
        if left != Some(Duration::ZERO) {
            return Ok(left);
        }
        self.write(&[], Durability::Immediate).map(|()| None)
    }

    pub(super) fn transaction(
        &self,
        durability: Durability,
        what: &dyn Fn(&redb::WriteTransaction) -> DbResult<()>,
    ) -> CallResult<()> {
        let write = || {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let mut tx = db
                .as_ref()
                .ok_or(redb::Error::DatabaseClosed)?
                .begin_write()?;
            tx.set_durability(durability)?;
            what(&tx)?;
            // the commit reuses no page that a reader may still need
            self.latest.committed();
            Ok(tx.commit()?)
        };
        let written = write();
        self.latest.committed();
        written.map_err(|e| self.recover(&e))
    }

    /// Handles a failed transaction. If there was no space, the file is reopened, because redb refuses everything until
    /// then. Any other failure is final; in particular, after a failed sync the content of the disk is unknown.
    fn recover(&self, e: &redb::Error) -> Fault {
        let error = self.error("write", e);
        if self.happened.sync_failed.load(Relaxed) {
            return Fault::Fatal(error.hint("a sync failed, so the disk may be failing"));
        }
        if self.path.as_os_str().is_empty() {
            // a copy has no file to reopen
            return Fault::Fatal(error);
        }
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if !self.happened.full.swap(false, Relaxed) && db.is_some() {
            return Fault::Fatal(error);
        }
        // a read may have opened one since the failed transaction
        self.latest.committed();
        drop(db.take());
        match database::open(&self.path, CACHE_BYTES, &self.happened, &HINTS) {
            Ok(again) => {
                *db = Some(again);
                Fault::NoSpace(error)
            }
            Err(e) => Fault::Fatal(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::engine::traits::{Feed, State};

    #[test]
    fn what_needs_no_sync_is_on_the_disk_with_the_next_commit_or_a_little_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.redb");
        let state = DiskState::open(&path).unwrap();
        let feed = |cursor| {
            Write::Feed(Feed {
                cursor,
                ..Feed::default()
            })
        };
        // as a process finds it that starts after a crash
        let stored = || DiskState::copy_of(&path).unwrap().feed().unwrap().cursor;
        let syncs = || state.written()[0];
        let before = syncs();
        for cursor in 1..=20 {
            state.commit_soon(&[feed(cursor)]).unwrap();
            assert_eq!(state.feed().unwrap().cursor, cursor);
        }
        assert_eq!((syncs() - before, stored()), (0, 0));
        state.commit(&[Write::NothingListed]).unwrap();
        assert_eq!(stored(), 20);
        assert_eq!(state.sync_old(), Ok(None));
        state.commit_soon(&[feed(21)]).unwrap();
        while let Some(left) = state.sync_old().unwrap() {
            assert!(left <= MAX_UNSYNCED_TIME);
            std::thread::park_timeout(left);
        }
        assert_eq!(stored(), 21);
        let many: Vec<Write> = (0..=MAX_UNSYNCED_WRITES as u64).map(feed).collect();
        state.commit_soon(&many).unwrap();
        assert_eq!(stored(), MAX_UNSYNCED_WRITES as u64);
    }
}
