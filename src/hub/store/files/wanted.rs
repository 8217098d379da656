//! Lost chunks: those found damaged or missing by a read, by a check, or when a client asks for the hub's chunks. The hub asks
//! its clients for them until good bytes are in their place.
//!
//! A loss is known here at once, and in the tables after the next group. Which bytes are good is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::ReadTransaction;

use super::super::Store;
use super::rows::Row;
use super::schema::{self, FILES, LISTS, VERSIONS, WANTED};
use crate::config::limits;
use crate::database::DbResult;
use crate::database::table::OpenTable;
use crate::error::{Result, plain};
use crate::hub::store::ops::files::MAX_INLINE_BYTES;
use crate::wire::files::{Chunk, Hash, Name, Record};

/// Records of an answer whose chunk files are checked at most: those of a whole listing would take too long.
const LOOKED_AT: usize = 20;

/// The known lost chunks.
#[derive(Debug, Default)]
pub struct Wanted {
    found: Mutex<LostChunks>,
    /// Advances whenever a chunk is lost or mended.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct LostChunks {
    hashes: BTreeSet<Hash>,
    /// Lost chunks that the tables do not have yet.
    unsaved: BTreeSet<Hash>,
}

impl Wanted {
    /// Adds the lost chunks of the tables at the start.
    pub fn load(&self, hashes: impl IntoIterator<Item = Hash>) {
        self.lock().hashes.extend(hashes);
    }

    /// Records a lost chunk. Beyond the bound it is ignored, and found again later.
    pub fn note(&self, hash: Hash, why: &str) {
        let mut found = self.lock();
        if found.hashes.len() >= limits::LOST_CHUNKS || !found.hashes.insert(hash) {
            return;
        }
        found.unsaved.insert(hash);
        self.changes.fetch_add(1, Relaxed);
        log::error!("lost a chunk: {why}; asking clients for it chunk={hash}");
    }

    /// The same for a failed read, if the error is about the chunk, and not about the tables, permissions or resources.
    pub fn note_error(&self, hash: Hash, e: &io::Error) {
        let is_evidence = matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData
        );
        if is_evidence || e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
            self.note(hash, &plain(e));
        }
    }

    pub fn has(&self, hash: Hash) -> bool {
        self.lock().hashes.contains(&hash)
    }

    pub fn all(&self) -> BTreeSet<Hash> {
        self.lock().hashes.clone()
    }

    /// The chunks with which the next group begins.
    pub fn unsaved(&self) -> Vec<Hash> {
        self.lock().unsaved.iter().copied().collect()
    }

    /// Records that the tables have these.
    pub fn saved(&self, hashes: &[Hash]) {
        let mut found = self.lock();
        found.unsaved.retain(|hash| !hashes.contains(hash));
    }

    /// Removes chunks that are whole again, or have no reference any more.
    pub fn forget(&self, hashes: &BTreeSet<Hash>) {
        let mut found = self.lock();
        for hash in hashes {
            found.unsaved.remove(hash);
            if found.hashes.remove(hash) {
                self.changes.fetch_add(1, Relaxed);
                log::info!("chunk is whole again, or no longer needed chunk={hash}");
            }
        }
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, LostChunks> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Advances whenever a chunk is lost or mended.
    pub fn wanted_changes(&self) -> u64 {
        self.chunks.wanted.changes()
    }

    /// Whether the hub asks for this chunk.
    pub fn is_wanted(&self, hash: Hash) -> bool {
        self.chunks.wanted.has(hash)
    }

    /// The number of chunks that the hub asks for.
    pub fn lost_count(&self) -> usize {
        self.chunks.wanted.lock().hashes.len()
    }

    /// Files whose content the hub asks for, at most `most` from the `skip`th on; and their total number.
    pub fn wanted_names(&self, skip: usize, most: usize) -> Result<(Vec<Name>, usize)> {
        let wanted = self.chunks.wanted.all();
        if wanted.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let (mut names, mut count) = (Vec::new(), 0);
        self.read(|tx| {
            each_that_needs(tx, &wanted, &mut |row, is_current, _| {
                if is_current {
                    count += 1;
                    names.extend((count > skip && names.len() < most).then(|| row.name.clone()));
                }
            })
        })?;
        Ok((names, count))
    }

    /// Marks the records whose content the hub asks for. The chunk files of at most [`LOOKED_AT`] records are checked too; in
    /// longer answers none is.
    pub(super) fn mark_wanted(
        &self,
        tx: &ReadTransaction,
        rows: &[Row],
        records: &mut [Record],
    ) -> DbResult<()> {
        let (wanted, looks) = (self.chunks.wanted.all(), rows.len() <= LOOKED_AT);
        if wanted.is_empty() && !looks {
            return Ok(());
        }
        let is_lost = |chunk: &Chunk| {
            wanted.contains(&chunk.sha256)
                || looks
                    && chunk.size > MAX_INLINE_BYTES
                    && !self.chunks.is_there(chunk.sha256, chunk.size)
        };
        let lists = tx.table(LISTS)?;
        for (row, record) in rows.iter().zip(records) {
            record.wanted = row.is_live() && schema::chunks_of(&lists, row)?.iter().any(is_lost);
        }
        Ok(())
    }
}

/// Calls `tell` for each file and version that needs one of these chunks: its row, whether it is current, and the chunk.
pub fn each_that_needs(
    tx: &ReadTransaction,
    lost: &BTreeSet<Hash>,
    tell: &mut dyn FnMut(&Row, bool, Hash),
) -> DbResult<()> {
    let lists = tx.table(LISTS)?;
    let mut look = |bytes: &[u8], is_current: bool| -> DbResult<()> {
        // the check of the tables reports rows that cannot be parsed
        let Ok(row) = Row::from_bytes(bytes) else {
            return Ok(());
        };
        if is_current && !row.is_live() {
            return Ok(());
        }
        let chunks = schema::chunks_of(&lists, &row)?;
        if let Some(chunk) = chunks.iter().find(|chunk| lost.contains(&chunk.sha256)) {
            tell(&row, is_current, chunk.sha256);
        }
        Ok(())
    };
    for row in tx.table(FILES)?.range(0u128..)? {
        look(row?.1.value(), true)?;
    }
    for row in tx.table(VERSIONS)?.range((0u128, 0u64)..)? {
        look(row?.1.value(), false)?;
    }
    Ok(())
}

/// The lost chunks of the tables, with the time (wall clock, ms) of their loss.
pub fn since(tx: &ReadTransaction) -> DbResult<BTreeMap<Hash, u64>> {
    let table = match tx.table(WANTED) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        table => table?,
    };
    table
        .range::<&[u8; 32]>(..)?
        .map(|row| {
            let (hash, since) = row?;
            Ok((Hash(*hash.value()), since.value()))
        })
        .collect()
}
