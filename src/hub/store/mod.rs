//! The hub's store: messages, hosts and their cursors in one redb file, changed by groups of operations.
//!
//! It knows no HTTP, asks no clock and starts no thread. It does not wait: who calls owns the order and the pace.
//!
//! A message is in `messages` once, under its seq; `broadcasts` and `targeted` say for whom. A broadcast costs the same
//! whatever the number of hosts: it is for all that were registered before it, and each has one number, its cursor, through
//! which it is done. What [`Store::apply`] has returned is on the disk; reads see only what is.

pub mod files;
pub mod ops;
pub mod read;

mod apply;
mod live;
mod medium;
mod open;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, ReadableDatabase};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use live::Live;
use medium::Happened;
use ops::{Group, Op, Outcome};
use tables::{Tables, Tried};

/// Milliseconds after which a host that has not pulled holds no broadcast back.
pub const STALE: u64 = 30 * 86_400_000;
/// Hosts, those included that are only named as targets.
pub const HOSTS: u64 = crate::config::limits::HOSTS;
/// Ids remembered, at most.
pub const IDS: u64 = crate::config::limits::IDS;

/// See the module.
pub struct Store {
    path: PathBuf,
    cache: usize,
    epoch: Uuid,
    /// Hub time at open, see [`ops::resume`].
    resumed_at: u64,
    /// `None` only when the file could not be opened again after a failed write.
    db: RwLock<Option<Database>>,
    happened: Arc<Happened>,
    live: Mutex<Live>,
}

impl Store {
    /// Drawn when the data directory was new: cursors of another epoch mean nothing here.
    pub fn epoch(&self) -> Uuid {
        self.epoch
    }

    /// Hub time in milliseconds when the store was opened; it goes on with the monotonic clock.
    pub fn resumed_at(&self) -> u64 {
        self.resumed_at
    }

    /// Applies a group in one transaction with one sync; all of it or, on an error, nothing. One outcome an operation.
    ///
    /// Where the disk turns out to be full in the middle, the group is applied again as one of a full disk: posts are refused,
    /// the rest goes on. Errors: `Kind::Busy` when not even that has room: the same again may work later. Anything else is
    /// final, above all a failed sync (`Kind::Io`): nobody knows what the disk holds, and nothing may be written any more.
    pub fn apply(&self, group: &Group) -> Result<Vec<Outcome>> {
        let error = match self.try_apply(group) {
            Ok(outcomes) => return Ok(outcomes),
            Err(e) => self.recover(e)?,
        };
        log::warn!("{error}: going on without taking new messages");
        let group = Group { full: true, ..group.clone() };
        if let Ok(outcomes) = self.try_apply(&group).or_else(|e| Err(self.recover(e)?)) {
            return Ok(outcomes);
        }
        self.release_reserve();
        self.try_apply(&group).or_else(|e| Err(self.recover(e)?))
    }

    fn try_apply(&self, group: &Group) -> Tried<Vec<Outcome>> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let mut tx = db.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_write()?;
        tx.set_quick_repair(open::QUICK_REPAIR);
        let mut tables = Tables::open(&tx)?;
        let outcomes = group.ops.iter().map(|op| apply::apply(&mut tables, group, op)).collect::<Tried<_>>()?;
        match tables.finish(group.now, group.wall)? {
            true => tx.commit()?,
            // nothing but duplicates or repeated acks: what they say is on the disk already
            false => tx.abort()?,
        }
        self.live().settle(&group.ops);
        Ok(outcomes)
    }

    /// After a failed transaction: opens the file again if there was no space, since redb refuses everything until then, and
    /// returns the words for it. Any other failure is final and the error.
    fn recover(&self, e: redb::Error) -> Result<Error> {
        let error = self.error("write", &e);
        if self.happened.sync_failed.load(Relaxed) {
            let error = Error { kind: Kind::Io, ..error };
            return Err(error.hint("a sync failed, so the disk may be failing; what was acknowledged before is safe"));
        }
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if !self.happened.full.swap(false, Relaxed) && db.is_some() {
            return Err(error);
        }
        drop(db.take());
        *db = Some(open::database(&self.path, self.cache, &self.happened)?);
        Ok(Error { kind: Kind::Busy, ..error })
    }

    /// What is known from pulls and not on the disk yet, as operations for the next group to begin with.
    pub fn due(&self) -> Vec<Op> {
        self.live().due()
    }

    /// Hub time since which the oldest of [`Store::due`] waits.
    pub fn waits_since(&self) -> Option<u64> {
        self.live().waits_since()
    }

    /// A sweep would find something.
    pub fn wants_sweep(&self, now: u64) -> Result<bool> {
        self.read(|tx| {
            use redb::ReadableTable;
            let seq = tables::Totals::read(&tx.open_table(tables::META)?)?.seq;
            let floor = apply::floor(&tx.open_table(tables::HOSTS)?, seq, now)?;
            let done = tx.open_table(tables::BROADCASTS)?.first()?.is_some_and(|(seq, _)| seq.value() <= floor);
            let over = tx.open_table(tables::EXPIRIES)?.first()?.is_some_and(|(key, _)| key.value().0 <= now);
            Ok(done || over || apply::forgettable(&tx.open_table(tables::ID_AGES)?, now)?)
        })
    }

    /// Syncs, writes and bytes written since the store was opened.
    pub fn written(&self) -> [u64; 3] {
        [&self.happened.syncs, &self.happened.writes, &self.happened.bytes].map(|n| n.load(Relaxed))
    }

    fn read<T>(&self, what: impl FnOnce(&redb::ReadTransaction) -> Tried<T>) -> Result<T> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let read = || what(&db.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?);
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

    /// Makes sure of some space that acks and deletes can use when the disk is full; call now and then.
    pub fn hold_reserve(&self) {
        open::hold_reserve(&self.path);
    }

    pub fn dir(&self) -> &Path {
        crate::disk::parent(&self.path)
    }
}

#[cfg(test)]
impl Store {
    pub fn break_syncs(&self) {
        self.happened.break_syncs.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests;
