//! The hub's store: messages, hosts and their cursors, files and their chunks, in one redb file and a directory of chunks,
//! changed by groups of operations.
//!
//! It knows no HTTP, reads no clock, starts no thread and does not wait: the caller decides when and in which order.
//!
//! A message is stored once, in `messages` under its seq; `broadcasts` and `targeted` have its targets. A broadcast costs the
//! same for any number of hosts: it is for all hosts that were registered before it, and each has one cursor, the last seq
//! that it has acknowledged. When [`Store::apply`] returns, its effects are on the disk; reads see nothing else.

pub mod backup;
pub mod check;
pub mod files;
pub mod messages;
pub mod ops;

mod apply;
pub mod chunk_name;
pub mod findings;
mod meta;
mod open;
pub mod recovery;
pub mod shared;
mod staged;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, ReadableDatabase};
use uuid::Uuid;

use crate::database::DbResult;
use crate::database::file::{self, Happened};
use crate::database::table::{OpenTable, ReadableTable};
use crate::error::{Error, Kind, Result};
use crate::wire::files::Hash;
use apply::StoreTables;
use files::{ChunkDir, ChunkRow, Landmarks, Placed};
use messages::apply::{floor, forgettable};
use messages::live::Live;
use messages::tables;
use ops::files::FileLimits;
use ops::{Group, Op, Outcome};

/// Milliseconds between two scans of the staging directory.
const STAGING_LOOK_INTERVAL_MILLIS: u64 = 3_600_000;

/// Why a group was not applied.
enum GroupFault {
    /// Its chunks could not be moved to their place. Nothing has changed.
    Unplaced(io::Error),
    /// The file of the tables was moved, removed or truncated.
    Gone,
    Tables(redb::Error),
}

impl From<redb::Error> for GroupFault {
    fn from(e: redb::Error) -> GroupFault {
        GroupFault::Tables(e)
    }
}

impl From<GroupFault> for redb::Error {
    fn from(fault: GroupFault) -> redb::Error {
        match fault {
            GroupFault::Unplaced(e) => redb::Error::Io(e),
            GroupFault::Gone => redb::Error::PreviousIo,
            GroupFault::Tables(e) => e,
        }
    }
}

/// The open store: see the module.
pub struct Store {
    path: PathBuf,
    /// Device and inode number of the file.
    inode: (u64, u64),
    cache: usize,
    epoch: Uuid,
    /// The latest revision when the store was opened.
    opened: u64,
    /// Hub time when the store was opened, see [`ops::resume`].
    resumed_at: u64,
    /// `None` only while the file cannot be opened again after a failed write.
    db: Arc<RwLock<Option<Database>>>,
    happened: Arc<Happened>,
    live: Mutex<Live>,
    chunks: Arc<ChunkDir>,
    /// Chunks that a failed transaction has placed, until the tables are opened again.
    undecided: Mutex<BTreeSet<Hash>>,
    /// Positions in the listing of all files, for clients that page through it.
    landmarks: Mutex<Landmarks>,
    /// Hub time of the last scan of the staging directory.
    tidied: AtomicU64,
}

impl Store {
    /// The file of the tables, in the data directory.
    pub const FILE: &'static str = "hub.redb";

    /// Drawn for a new data directory: cursors of another epoch mean nothing here.
    pub fn epoch(&self) -> Uuid {
        self.epoch
    }

    /// The latest revision when the store was opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Hub time in milliseconds when the store was opened; it continues with the monotonic clock.
    pub fn resumed_at(&self) -> u64 {
        self.resumed_at
    }

    /// Applies a group in one transaction with one sync: all of it or, on an error, nothing. Returns one outcome per operation.
    ///
    /// If the disk becomes full, the group is applied again as for a full disk: posts and uploads are refused, all else
    /// continues. Uploads whose chunks cannot be moved to their place fail alone. Errors: `Kind::Busy` if there is no space even
    /// for that, or not enough memory: the group may be tried again later. Every other error is final, above all a failed sync
    /// (`Kind::Io`): the state of the disk is unknown, and nothing may be written any more.
    pub fn apply(&self, group: &Group) -> Result<Vec<Outcome>> {
        let error = match self.try_apply(group) {
            Ok(outcomes) => return Ok(outcomes),
            Err(GroupFault::Unplaced(e)) => return self.without_uploads(group, &e),
            Err(GroupFault::Gone) => {
                self.happened.sync_failed.store(true, Relaxed);
                let what = format!(
                    "cannot continue with {}: it was removed, replaced or cut while the hub ran",
                    self.path.display()
                );
                return Err(Error::new(Kind::Damaged, what)
                    .hint("restore a backup, or restart with the data that is left"));
            }
            Err(GroupFault::Tables(e)) => self.recover(e)?,
        };
        log::warn!("{error}; refusing new data");
        let group = Group {
            full: true,
            ..group.clone()
        };
        if let Ok(outcomes) = self
            .try_apply(&group)
            .or_else(|e| Err(self.recover(e.into())?))
        {
            return Ok(outcomes);
        }
        self.release_reserve();
        self.try_apply(&group)
            .or_else(|e| Err(self.recover(e.into())?))
    }

    /// Applies the group with its uploads refused, after an error that wrote nothing and was not a failed sync: later uploads
    /// may succeed, and other operations need not wait for them.
    fn without_uploads(&self, group: &Group, e: &io::Error) -> Result<Vec<Outcome>> {
        let error = Error {
            kind: Kind::Busy,
            ..Error::io(
                format!(
                    "place chunks in {}",
                    files::chunk_root(self.dir()).display()
                ),
                e,
            )
        };
        log::warn!("{error}; uploads fail until it is repaired");
        let rest = group
            .ops
            .iter()
            .filter(|op| !files::brings_files(op))
            .cloned()
            .collect();
        let mut outcomes = self
            .apply(&Group {
                ops: rest,
                ..group.clone()
            })?
            .into_iter();
        let outcome = |op| {
            if files::brings_files(op) {
                Some(Outcome::Failed(error.clone()))
            } else {
                outcomes.next()
            }
        };
        Ok(group.ops.iter().filter_map(outcome).collect())
    }

    fn try_apply(&self, group: &Group) -> std::result::Result<Vec<Outcome>, GroupFault> {
        if self.sync_failed() {
            return Err(redb::Error::PreviousIo.into());
        }
        if !self.is_in_place() {
            return Err(GroupFault::Gone);
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let placed = self.place(db, group)?;
        let changed = self.change(db, group, &placed);
        let (mut outcomes, forgotten, mended) = match changed {
            Ok(changed) => changed,
            Err(e) => {
                self.undecided
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(placed.new.into_keys());
                return Err(e.into());
            }
        };
        if !self.is_in_place() {
            return Err(GroupFault::Gone);
        }
        self.live().settle(&group.ops);
        self.chunks.wanted.forget(&mended);
        for op in &group.ops {
            if let Op::File(ops::files::FileOp::Want(hashes)) = op {
                self.chunks.wanted.saved(hashes);
            }
        }
        self.chunks.remove(&forgotten);
        let unseen = self.tidy_chunks(db, group);
        outcomes.iter_mut().for_each(|o| {
            if let Outcome::Swept { more } = o {
                *more |= unseen
            }
        });
        Ok(outcomes)
    }

    /// Moves the staged chunks of the group to their place, before the transaction that names them.
    fn place(&self, db: &Database, group: &Group) -> std::result::Result<Placed, GroupFault> {
        if group.full || !files::concerns(group) {
            return Ok(Placed::default());
        }
        let known = || -> DbResult<_> { files::chunk_rows(&db.begin_read()?) };
        let known = known()?;
        let placed = self.chunks.place(&group.ops, |hash| {
            known.get(&hash.0).is_ok_and(|row| row.is_some())
        });
        placed.map_err(|e| {
            if self.sync_failed() {
                redb::Error::Io(e).into()
            } else if file::is_full(&e) {
                self.happened.full.store(true, Relaxed);
                redb::Error::Io(e).into()
            } else {
                GroupFault::Unplaced(e)
            }
        })
    }

    /// The next start will find the committed data: the file was not removed, replaced or truncated.
    pub fn is_in_place(&self) -> bool {
        let is_ours = |meta: std::fs::Metadata| {
            (meta.dev(), meta.ino()) == self.inode
                && meta.len() >= self.happened.length.load(Relaxed)
        };
        match std::fs::metadata(&self.path) {
            Ok(meta) => is_ours(meta),
            // an error of another kind does not show that the file is lost
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }

    /// A sync of some file has failed: nothing may be written any more.
    pub fn sync_failed(&self) -> bool {
        self.happened.sync_failed.load(Relaxed)
    }

    /// Runs the transaction; returns its outcomes, the chunks that no table names any more, and those that are no longer lost.
    fn change(
        &self,
        db: &Database,
        group: &Group,
        placed: &Placed,
    ) -> DbResult<(Vec<Outcome>, BTreeSet<Hash>, BTreeSet<Hash>)> {
        let mut tx = db.begin_write()?;
        tx.set_quick_repair(open::QUICK_REPAIR);
        let mut tables = StoreTables::open(&tx, files::concerns(group))?;
        if let Some(files) = &mut tables.files {
            files.named = files::named(group);
            files.tag = group.tag;
            placed
                .new
                .iter()
                .try_for_each(|(hash, size)| files.add_chunk(*hash, *size, None, group.now))?;
            placed
                .again
                .iter()
                .try_for_each(|hash| files.mend(*hash, None))?;
        }
        let outcomes = group
            .ops
            .iter()
            .map(|op| tables.apply(group, op))
            .collect::<DbResult<_>>()?;
        let taken = tables.files.as_mut().map(|files| {
            (
                std::mem::take(&mut files.forgotten),
                std::mem::take(&mut files.mended),
            )
        });
        let (forgotten, mended) = taken.unwrap_or_default();
        if tables.finish(group)? {
            tx.commit()?
        } else {
            // only duplicates or repeated acks, which are on the disk already
            tx.abort()?
        }
        Ok((outcomes, forgotten, mended))
    }

    /// If the group has a sweep: searches one directory of chunks for files that no table names, and sometimes the staging
    /// directory. True: there are more. A failure is retried at a later sweep.
    fn tidy_chunks(&self, db: &Database, group: &Group) -> bool {
        files::sweeps(group) && self.tidy(db, group.now, group.wall)
    }

    fn tidy(&self, db: &Database, now: u64, wall: u64) -> bool {
        let removed = || -> DbResult<usize> {
            let table = files::chunk_rows(&db.begin_read()?)?;
            Ok(self.chunks.remove_unknown(|hash| {
                table
                    .get(&hash.0)
                    .ok()
                    .map(|row| row.is_some_and(|row| ChunkRow::from_value(row.value()).is_file()))
            })?)
        };
        match removed() {
            Ok(0) => {}
            Ok(n) => log::info!("removed chunks that a crash left count={n}"),
            Err(e) => log::warn!("cannot list the chunks: {e}"),
        }
        if now.saturating_sub(self.tidied.load(Relaxed)) >= STAGING_LOOK_INTERVAL_MILLIS {
            self.tidied.store(now, Relaxed);
            if let Err(e) = self.chunks.expire_staged(crate::clock::from_millis(wall)) {
                log::warn!("cannot list the staged chunks: {e}");
            }
        }
        self.chunks.has_unseen()
    }

    /// After a failed transaction: opens the file again if there was no space, because redb refuses everything until then, and
    /// returns the error to log. A lack of memory is handled likewise, but returned as an error (`Kind::Busy`). Any other failure
    /// is final, and returned as an error.
    fn recover(&self, e: redb::Error) -> Result<Error> {
        let error = self.error("write", &e);
        if self.sync_failed() {
            let error = Error {
                kind: Kind::Io,
                ..error
            };
            return Err(error
                .hint("a sync failed, so the disk may be failing; all acknowledged data is safe"));
        }
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let (full, short) = (
            self.happened.full.swap(false, Relaxed),
            self.happened.short.swap(false, Relaxed),
        );
        if !full && !short && db.is_some() {
            return Err(error);
        }
        drop(db.take());
        let opened = open::database(&self.path, self.cache, &self.happened)?;
        if let Err(e) = self.decide_chunks(&opened) {
            log::warn!(
                "cannot look for chunks of a failed transaction: {e}; the next start removes them"
            );
        }
        *db = Some(opened);
        let error = Error {
            kind: Kind::Busy,
            ..error
        };
        if full { Ok(error) } else { Err(error) }
    }

    /// Removes the chunks of a failed transaction. It may have been committed although it ended with an error (redb truncates
    /// its file afterwards), so the current tables decide.
    fn decide_chunks(&self, db: &Database) -> DbResult<()> {
        let table = files::chunk_rows(&db.begin_read()?)?;
        let undecided = std::mem::take(
            &mut *self
                .undecided
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let unknown = undecided
            .into_iter()
            .filter(|hash| table.get(&hash.0).is_ok_and(|row| row.is_none()));
        self.chunks.remove(&unknown.collect::<BTreeSet<Hash>>());
        Ok(())
    }

    /// Opens the file again if a read ran out of memory: the next write may be far off. To be called regularly.
    pub fn reopen(&self) {
        if self.happened.short.load(Relaxed)
            && let Err(e) = self.recover(redb::Error::PreviousIo)
        {
            log::warn!("{e}");
        }
    }

    /// Acks and lost chunks that are only in memory, as operations with which the next group begins.
    pub fn due(&self) -> Vec<Op> {
        let mut due = self.live().due();
        let lost = self.chunks.wanted.unsaved();
        due.extend((!lost.is_empty()).then_some(Op::File(ops::files::FileOp::Want(lost))));
        due
    }

    /// Chunks were found to be lost, and the tables do not have them yet.
    pub fn has_found_losses(&self) -> bool {
        !self.chunks.wanted.unsaved().is_empty()
    }

    /// Hub time since which the oldest operation of [`Store::due`] has waited; `acks`: the oldest ack.
    pub fn waits_since(&self, acks: bool) -> Option<u64> {
        self.live().waits_since(acks)
    }

    /// A sweep would find something; `full` and `limits` are those of the next group.
    pub fn wants_sweep(&self, now: u64, full: bool, limits: FileLimits) -> Result<bool> {
        // a cache is tidied without the log
        let is_cache = self.chunks.source().is_some();
        let is_due = now.saturating_sub(self.tidied.load(Relaxed)) >= STAGING_LOOK_INTERVAL_MILLIS;
        if !is_cache && (self.chunks.has_unseen() || is_due) {
            return Ok(true);
        }
        self.read(|tx| {
            let seq = tables::Totals::read(&tx.table(meta::META)?)?.seq;
            let floor = floor(&tx.table(tables::HOSTS)?, seq, now)?;
            let done = tx
                .table(tables::BROADCASTS)?
                .first()?
                .is_some_and(|(seq, _)| seq.value() <= floor);
            let over = tx
                .table(tables::EXPIRIES)?
                .first()?
                .is_some_and(|(key, _)| key.value().0 <= now);
            let ids = forgettable(&tx.table(tables::ID_AGES)?, now)?;
            Ok(done || over || ids || files::is_wanted(tx, now, full, limits)?)
        })
    }

    /// Syncs, writes and bytes written since the store was opened.
    pub fn written(&self) -> [u64; 3] {
        [
            &self.happened.syncs,
            &self.happened.writes,
            &self.happened.bytes,
        ]
        .map(|n| n.load(Relaxed))
    }

    fn read<T>(&self, what: impl FnOnce(&redb::ReadTransaction) -> DbResult<T>) -> Result<T> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let read = || {
            what(
                &db.as_ref()
                    .ok_or(redb::Error::DatabaseClosed)?
                    .begin_read()?,
            )
        };
        read().map_err(|e| self.error("read", &e))
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, doing: &str, e: &redb::Error) -> Error {
        open::error(doing, &self.path, e)
    }

    fn release_reserve(&self) {
        let _ = std::fs::remove_file(open::reserve(&self.path));
    }

    /// Reserves some space that acks and deletes can use when the disk is full; to be called regularly.
    pub fn hold_reserve(&self) {
        open::hold_reserve(&self.path);
    }

    pub fn dir(&self) -> &Path {
        crate::disk::parent(&self.path)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::model::Random;
