//! What readers share until the next commit: one transaction, and the tables that are read for each path. To begin a
//! transaction and to open a table costs more than to read a row.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::{HASHES, ROWS};
use crate::database::DbResult;
use crate::database::lsm::LsmReader;
use crate::database::table::{OpenTable, ReadOnlyTable};

/// The tables as of one commit.
pub struct StateSnapshot {
    pub tx: ReadTransaction,
    pub rows: ReadOnlyTable<&'static str, &'static [u8]>,
    pub hashes: LsmReader<&'static [u8], ()>,
}

/// The snapshot of the latest commit, if it has been read since.
#[derive(Default)]
pub struct LatestSnapshot(Mutex<Commits>);

#[derive(Default)]
struct Commits {
    count: u64,
    snapshot: Option<Arc<StateSnapshot>>,
}

impl LatestSnapshot {
    /// A snapshot with all commits that [`LatestSnapshot::committed`] has counted before this call.
    pub fn of(&self, db: &Database) -> DbResult<Arc<StateSnapshot>> {
        let count = {
            let commits = self.lock();
            if let Some(snapshot) = &commits.snapshot {
                return Ok(snapshot.clone());
            }
            commits.count
        };
        let tx = db.begin_read()?;
        let snapshot = Arc::new(StateSnapshot {
            rows: tx.table(ROWS)?,
            hashes: LsmReader::open(&tx, &HASHES)?,
            tx,
        });
        let mut commits = self.lock();
        // a commit in between may not be in it
        if commits.count == count {
            commits.snapshot = Some(snapshot.clone());
        }
        Ok(snapshot)
    }

    /// Called after each commit, and before the database is closed.
    pub fn committed(&self) {
        let mut commits = self.lock();
        commits.count += 1;
        commits.snapshot = None;
    }

    fn lock(&self) -> MutexGuard<'_, Commits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use crate::files::engine::traits::{Feed, State, Write};
    use crate::files::state::DiskState;

    #[test]
    fn a_read_sees_each_commit_that_ended_before_it() {
        const COMMITS: u64 = 2000;
        let dir = tempfile::tempdir().unwrap();
        let state = DiskState::open(&dir.path().join("x.redb")).unwrap();
        let committed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while committed.load(SeqCst) < COMMITS {
                        let before = committed.load(SeqCst);
                        let seen = state.feed().unwrap().cursor;
                        assert!(seen >= before, "{seen} after {before}");
                    }
                });
            }
            for cursor in 1..=COMMITS {
                let feed = Feed {
                    cursor,
                    ..Feed::default()
                };
                state.commit_soon(&[Write::Feed(feed)]).unwrap();
                committed.store(cursor, SeqCst);
            }
        });
    }
}
