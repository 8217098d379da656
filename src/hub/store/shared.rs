//! The store as one hub's view of a log that several hubs share: it applies entries in order and remembers its place.
//!
//! It knows no bucket: the entries are written and read elsewhere. The view is a cache that may be lost at any time, so
//! a commit needs no sync of its own; but tables and place change in one transaction, so that the two always agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use redb::{Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use uuid::Uuid;

use super::apply::StoreTables;
use super::chunk_name::ChunkName;
use super::files::objects::{self, ObjectTables};
use super::files::{self, ChunkRow, ChunkSource, FileTotals};
use super::messages::tables::{self, Totals};
use super::meta::{CLUSTER, META, SCHEMA, UNPACKED};
use super::ops::files::{Bytes, FileOp};
use super::ops::shared::{LogEntry, Position, TableCounters};
use super::ops::{Op, Outcome};
use super::{Store, open};
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable};
use crate::error::{Error, Result};
use crate::wire::files::Hash;

/// Names in [`META`].
pub(super) const POSITION: &str = "log_position";
pub(super) const NONCE: &str = "log_nonce";

/// Why an entry was not applied.
#[derive(Debug)]
pub enum NotApplied {
    /// The tables before it are not those of its writer: this hub has applied an earlier entry otherwise.
    Diverged {
        ours: TableCounters,
        theirs: TableCounters,
    },
    Failed(Error),
}

impl Store {
    /// The bucket whose log this store is a view of; `None`: it is a hub of its own.
    pub fn cluster(&self) -> Result<Option<Uuid>> {
        self.read(|tx| {
            Ok(tx
                .table(META)?
                .get(CLUSTER)?
                .map(|id| Uuid::from_u128(id.value())))
        })
    }

    /// The last applied entry.
    pub fn position(&self) -> Result<Position> {
        self.read(position)
    }

    /// Hub time of the last applied entry.
    pub fn age(&self) -> Result<u64> {
        self.read(|tx| Ok(tx.table(META)?.get("age")?.map_or(0, |v| v.value() as u64)))
    }

    /// The counters that the next entry must name.
    pub fn counters(&self) -> Result<TableCounters> {
        self.read(|tx| counters(&tx.table(META)?))
    }

    /// Chunks that are not here are fetched from there.
    pub fn set_chunk_source(&self, source: Arc<dyn ChunkSource>) {
        self.chunks.set_source(source);
    }

    /// Applies the next entry: all of it or, on an error, nothing. `durable`: the commit, and all before it, are synced.
    pub fn apply_entry(
        &self,
        entry: &LogEntry,
        durable: bool,
    ) -> std::result::Result<Vec<Outcome>, NotApplied> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let failed = |e: redb::Error| NotApplied::Failed(self.error("write", &e));
        let db = db.as_ref().ok_or(failed(redb::Error::DatabaseClosed))?;
        let apply = || -> DbResult<std::result::Result<_, (TableCounters, TableCounters)>> {
            let mut tx = db.begin_write()?;
            tx.set_durability(if durable {
                Durability::Immediate
            } else {
                Durability::None
            })?;
            tx.set_quick_repair(open::QUICK_REPAIR);
            let mut tables = StoreTables::open(&tx, true)?;
            let ours = counters(&tables.messages.meta)?;
            if ours != entry.before {
                return Ok(Err((ours, entry.before)));
            }
            let age = tables
                .messages
                .meta
                .get("age")?
                .map_or(0, |v| v.value() as u64);
            let group = entry.group(age);
            if let Some(files) = &mut tables.files {
                files.named = files::named(&group);
                files.tag = group.tag;
                files.objects = Some(ObjectTables::open(&tx, &tables.messages.meta)?);
                for object in &entry.placed {
                    files.place_object(object, group.now)?;
                }
            }
            let outcomes = group
                .ops
                .iter()
                .map(|op| tables.apply(&group, op))
                .collect::<DbResult<Vec<_>>>()?;
            tables.messages.meta.insert(POSITION, u128::from(entry.n))?;
            tables.messages.meta.insert(NONCE, entry.nonce.as_u128())?;
            tables.messages.changed = true;
            let (mut forgotten, mut mended) = (BTreeSet::new(), BTreeSet::new());
            if let Some(files) = &mut tables.files {
                forgotten = std::mem::take(&mut files.forgotten);
                mended = std::mem::take(&mut files.mended);
                if let Some(objects) = files.objects.take() {
                    objects::write_horizon(&mut tables.messages.meta, objects.horizon)?;
                    if objects.closed {
                        objects::write_closed(&mut tables.messages.meta)?;
                    }
                }
            }
            tables.finish(&group)?;
            tx.commit()?;
            Ok(Ok((outcomes, forgotten, mended)))
        };
        let applied = apply().map_err(failed)?;
        let (outcomes, forgotten, mended) =
            applied.map_err(|(ours, theirs)| NotApplied::Diverged { ours, theirs })?;
        self.live().settle(&entry.ops);
        self.chunks.wanted.forget(&mended);
        for op in &entry.ops {
            if let Op::File(FileOp::Want(hashes)) = op {
                self.chunks
                    .wanted
                    .load(hashes.iter().copied().filter(|hash| !mended.contains(hash)));
                self.chunks.wanted.saved(hashes);
            }
        }
        self.chunks.remove(&forgotten);
        Ok(outcomes)
    }

    /// Keeps the bytes that this hub has received for an entry, so that it need not fetch them.
    pub fn cache_staged(&self, ops: &[Op]) {
        for (chunk, bytes) in ops.iter().flat_map(Op::chunks) {
            if let Bytes::Staged(staged) = bytes
                && let Err(e) = self.chunks.cache(staged, chunk.sha256)
            {
                // it is fetched when it is read
                log::debug!("cannot keep a chunk: {e} chunk={}", chunk.sha256);
            }
        }
    }

    /// Removes chunks that no table names from the cache, a few at a time. To be called regularly; it does nothing for a hub of
    /// its own.
    pub fn tidy_view(&self, now: u64) {
        if self.chunks.source().is_none() {
            return;
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = db.as_ref() {
            self.tidy(db, now, crate::clock::millis(crate::clock::now()));
        }
        match self.chunks.make_room() {
            Ok(0) => {}
            Ok(bytes) => log::info!(
                "removed chunks from the cache, because the disk is almost full bytes={bytes}"
            ),
            Err(e) => log::warn!("cannot remove chunks from the cache: {e}"),
        }
    }

    /// Renames the file of the tables, so that the next start makes it again, and a person can look at this one.
    pub fn set_aside(&self) {
        let to = self.path.with_extension("redb.diverged");
        if let Err(e) = crate::disk::rename(&self.path, &to) {
            log::error!("cannot rename {}: {e}", self.path.display());
        }
    }

    /// Objects that no chunk has any more and that were not removed yet, at most `most`.
    pub fn dropped_objects(&self, most: usize) -> Result<Vec<ChunkName>> {
        self.read(|tx| objects::dropped(tx, most))
    }

    /// Whether the tables name this object, as that of a chunk or as one to be removed.
    pub fn knows_object(&self, name: &ChunkName) -> Result<bool> {
        self.read(|tx| objects::is_known(tx, name))
    }

    /// No entry may name an object that was made before this time.
    pub fn horizon(&self) -> Result<u64> {
        self.read(objects::read_horizon)
    }

    /// The objects of all chunks.
    #[cfg(test)]
    pub fn chunk_objects(&self) -> Result<Vec<ChunkName>> {
        self.read(objects::all)
    }

    /// The hub was moved out of the bucket.
    pub fn is_closed(&self) -> Result<bool> {
        self.read(|tx| objects::is_closed(&tx.table(META)?))
    }

    /// The chunks that are files, with their sizes.
    pub fn chunk_files(&self) -> Result<Vec<(Hash, u64)>> {
        self.read(|tx| {
            let mut found = Vec::new();
            for row in files::chunk_rows(tx)?.iter()? {
                let (hash, row) = row?;
                let row = ChunkRow::from_value(row.value());
                found.extend(row.is_file().then(|| (Hash(*hash.value()), row.size)));
            }
            Ok(found)
        })
    }

    pub fn chunk_path(&self, hash: Hash) -> PathBuf {
        self.chunks.place_of(hash)
    }

    /// Fetches a chunk that is not here. `false`: the bucket has lost it.
    pub fn fetch_chunk(&self, hash: Hash) -> Result<bool> {
        let unread = |e: std::io::Error| Error::io(format!("fetch the chunk {hash}"), &e);
        let mut reader = self
            .chunk(hash)?
            .ok_or_else(|| unread(std::io::ErrorKind::NotFound.into()))?;
        match std::io::copy(&mut reader, &mut std::io::sink()) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(unread(e)),
        }
    }

    /// Copies the tables of a hub of its own as the view of a bucket before its first entry. `names`: the objects of its chunks.
    pub fn copy_as_view(
        &self,
        path: &Path,
        cluster: Uuid,
        names: &BTreeMap<Hash, ChunkName>,
    ) -> Result<()> {
        self.copy_into(path, |from, tx| {
            files::unpack(from, tx)?;
            let mut meta = tx.table(META)?;
            meta.insert("schema", UNPACKED)?;
            meta.insert("epoch", self.epoch.as_u128())?;
            meta.insert(CLUSTER, cluster.as_u128())?;
            let mut objects = ObjectTables::open(tx, &meta)?;
            for (hash, name) in names {
                objects.objects.insert(&hash.0, name.to_string().as_str())?;
            }
            Ok(())
        })
    }

    /// Makes the view of a closed bucket a hub of its own, durably: all chunks are here.
    pub fn leave_bucket(&self) -> Result<()> {
        let leave = || -> DbResult<()> {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let tx = db
                .as_ref()
                .ok_or(redb::Error::DatabaseClosed)?
                .begin_write()?;
            objects::leave(&tx)?;
            {
                let mut meta = tx.table(META)?;
                for name in [CLUSTER, POSITION, NONCE] {
                    meta.remove(name)?;
                }
                meta.insert("schema", SCHEMA)?;
            }
            Ok(tx.commit()?)
        };
        leave().map_err(|e| self.error("write", &e))
    }

    /// Copies all tables into a new file, and returns the position of the copy.
    pub fn copy_view(&self, path: &Path) -> Result<Position> {
        self.copy_into(path, |from, tx| {
            objects::copy(from, tx)?;
            // a backup has no epoch, but this is the same hub
            let epoch = from.table(META)?.get("epoch")?.map(|v| v.value());
            if let Some(epoch) = epoch {
                tx.table(META)?.insert("epoch", epoch)?;
            }
            position(from)
        })
    }

    pub(super) fn copy_into<T>(
        &self,
        path: &Path,
        more: impl FnOnce(&ReadTransaction, &WriteTransaction) -> DbResult<T>,
    ) -> Result<T> {
        let to = open::database(path, self.cache, &Arc::default())?;
        let copy = || -> DbResult<T> {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let from = (db.as_ref())
                .ok_or(redb::Error::DatabaseClosed)?
                .begin_read()?;
            let tx = to.begin_write()?;
            tables::copy(&from, &tx)?;
            files::copy(&from, &tx)?;
            let copied = more(&from, &tx)?;
            tx.commit()?;
            Ok(copied)
        };
        let copied = copy().map_err(|e| open::error("copy into", path, &e))?;
        to.close()
            .map_err(|e| open::error("write", path, &e.into()))?;
        Ok(copied)
    }
}

fn position(tx: &ReadTransaction) -> DbResult<Position> {
    let meta = tx.table(META)?;
    let get = |name| DbResult::Ok(meta.get(name)?.map_or(0, |v| v.value()));
    Ok(Position {
        n: get(POSITION)? as u64,
        nonce: Uuid::from_u128(get(NONCE)?),
    })
}

fn counters(meta: &impl ReadableTable<&'static str, u128>) -> DbResult<TableCounters> {
    let (messages, files) = (Totals::read(meta)?, FileTotals::read(meta)?);
    Ok(TableCounters {
        seq: messages.seq,
        messages: messages.messages,
        message_bytes: messages.bytes,
        rev: files.rev,
        files: files.files,
        file_bytes: files.bytes,
    })
}
