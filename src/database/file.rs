//! The file under redb, seen from outside: counts writes, and remembers which kind of write failed.
//!
//! It changes no byte that is read or written, and decides nothing about failures.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::error::is_shortage;

/// What has happened on the medium since it was opened. redb's own errors say that something failed, not what.
#[derive(Debug, Default)]
pub struct Happened {
    /// A write found no space: the transaction is gone, the file is as it was.
    pub full: AtomicBool,
    /// A call found no memory or descriptor: redb refuses everything until the file is opened again.
    pub short: AtomicBool,
    /// A sync failed: what the disk holds is unknown, and a second sync would lie (fsync(2), NOTES).
    pub sync_failed: AtomicBool,
    /// Bytes that the file is to have at least.
    pub length: AtomicU64,
    pub syncs: AtomicU64,
    pub writes: AtomicU64,
    pub bytes: AtomicU64,
    /// Makes the next syncs fail.
    #[cfg(test)]
    pub break_syncs: AtomicBool,
}

impl Happened {
    /// A sync of another file failed. One that found no space says so, and what it was to write is not there; any other is final.
    pub fn note_sync(&self, e: &io::Error) {
        if !is_full(e) {
            self.sync_failed.store(true, Relaxed);
        }
    }

    /// Fails if a test has broken the syncs.
    pub fn tests_break(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.break_syncs.load(Relaxed) {
            self.sync_failed.store(true, Relaxed);
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::IO.raw_os_error(),
            ));
        }
        Ok(())
    }
}

/// The disk, the user's share of it, or what a process may write is used up.
pub fn is_full(e: &io::Error) -> bool {
    [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::FileTooLarge,
    ]
    .contains(&e.kind())
}

#[derive(Debug)]
pub struct Medium {
    file: FileBackend,
    happened: Arc<Happened>,
}

impl Medium {
    pub fn new(file: File, happened: Arc<Happened>) -> Result<Medium, redb::DatabaseError> {
        // After a failed sync the page cache may hold what the disk does not. Whoever opens the file next, perhaps after
        // that very failure, must see the disk; pages that are still to be written stay.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        happened.length.store(file.metadata()?.len(), Relaxed);
        Ok(Medium {
            file: FileBackend::new(file)?,
            happened,
        })
    }

    fn note<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|e| {
            if is_full(e) {
                self.happened.full.store(true, Relaxed);
            }
            if is_shortage(e) {
                self.happened.short.store(true, Relaxed);
            }
        })
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        self.note(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(self.file.set_len(len))?;
        self.happened.length.store(len, Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.happened.syncs.fetch_add(1, Relaxed);
        self.happened.tests_break()?;
        self.file
            .sync_data()
            .inspect_err(|_| self.happened.sync_failed.store(true, Relaxed))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.happened.writes.fetch_add(1, Relaxed);
        self.happened.bytes.fetch_add(data.len() as u64, Relaxed);
        self.note(self.file.write(offset, data))?;
        self.happened
            .length
            .fetch_max(offset + data.len() as u64, Relaxed);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
