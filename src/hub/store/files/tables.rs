//! The few operations that keep the tables of files consistent: a revision becomes current, becomes a version, is removed;
//! chunks gain and lose references.
//!
//! `apply` decides which changes are accepted, `sweep` when rows are removed.

use std::collections::BTreeSet;

use redb::WriteTransaction;
use uuid::Uuid;

use super::super::ops::Group;
use super::chunk_row::{ChunkPlace, ChunkRow, ChunkValue};
use super::commits::{self, COMMITS, Known};
use super::objects::ObjectTables;
use super::packs::{Filled, PackTables, items};
use super::rows::{Row, damaged, kind_number, list_to_bytes};
use super::schema::{
    CHANGES, CHUNKS, EVENTS, FILES, FileTotals, INLINE, KEY_AGES, KEYS, LISTS, LOOSE, NAMES,
    TOMBSTONES, VERSION_AGES, VERSIONS, WANTED, chunks_of, implied, state,
};
use crate::database::DbResult;
use crate::database::lsm::LsmTable;
use crate::database::table::{OpenTable, ReadableTable, Table};
use crate::wire::files::{Chunk, Hash, Name};
use crate::wire::revision::{Revision, Tag};

/// All tables of files, open for one transaction.
pub struct FileTables<'t> {
    pub files: Table<'t, u128, &'static [u8]>,
    pub names: Table<'t, (&'static str, &'static str), (u128, u8)>,
    pub changes: Table<'t, u64, u128>,
    pub versions: Table<'t, (u128, u64), &'static [u8]>,
    pub version_ages: Table<'t, (u64, u128, u64), ()>,
    pub tombstones: Table<'t, (u64, u128), ()>,
    lists: Table<'t, (u128, u64), &'static [u8]>,
    pub chunks: LsmTable<'t, &'static [u8; 32], ChunkValue>,
    inline: Table<'t, &'static [u8; 32], &'static [u8]>,
    packs: PackTables<'t>,
    pub loose: Table<'t, (u64, &'static [u8; 32]), ()>,
    pub events: Table<'t, u64, (u64, u8, u128, u64)>,
    pub keys: Table<'t, (&'static str, u128), &'static [u8]>,
    pub key_ages: Table<'t, u64, (u64, &'static str, u128)>,
    pub wanted: Table<'t, &'static [u8; 32], u64>,
    pub commits: Table<'t, u64, (u64, u64, Option<u64>)>,
    /// `None`: the chunks are files of this hub.
    pub objects: Option<ObjectTables<'t>>,
    pub totals: FileTotals,
    /// The tag of the group.
    pub tag: Tag,
    /// The latest revision before the transaction.
    began: u64,
    /// Chunks that the group's operations name, which the same transaction must not remove.
    pub named: BTreeSet<Hash>,
    /// Chunk files that no row names after this transaction.
    pub forgotten: BTreeSet<Hash>,
    /// Chunks that are no longer lost after this transaction.
    pub mended: BTreeSet<Hash>,
    /// Bytes that were moved out of packs of which little is left.
    pub moved_bytes: u64,
    pub changed: bool,
}

impl<'t> FileTables<'t> {
    /// `is_view`: of a bucket. Hubs of earlier versions read its snapshots, so its tables are as these know them.
    pub fn open(
        tx: &'t WriteTransaction,
        totals: FileTotals,
        is_view: bool,
    ) -> DbResult<FileTables<'t>> {
        Ok(FileTables {
            files: tx.table(FILES)?,
            names: tx.table(NAMES)?,
            changes: tx.table(CHANGES)?,
            versions: tx.table(VERSIONS)?,
            version_ages: tx.table(VERSION_AGES)?,
            tombstones: tx.table(TOMBSTONES)?,
            lists: tx.table(LISTS)?,
            chunks: LsmTable::open(tx, &CHUNKS, !is_view)?,
            inline: tx.table(INLINE)?,
            packs: PackTables::open(tx)?,
            loose: tx.table(LOOSE)?,
            events: tx.table(EVENTS)?,
            keys: tx.table(KEYS)?,
            key_ages: tx.table(KEY_AGES)?,
            wanted: tx.table(WANTED)?,
            commits: tx.table(COMMITS)?,
            objects: None,
            totals,
            tag: Tag::default(),
            began: totals.rev,
            named: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            mended: BTreeSet::new(),
            moved_bytes: 0,
            changed: false,
        })
    }

    pub fn by_id(&self, id: Uuid) -> DbResult<Option<Row>> {
        self.files
            .get(id.as_u128())?
            .map(|row| Row::from_bytes(row.value()))
            .transpose()
    }

    pub fn by_name(&self, name: &Name) -> DbResult<Option<Row>> {
        match self
            .names
            .get((name.path.as_str(), name.name.as_str()))?
            .map(|row| row.value().0)
        {
            Some(id) => self
                .by_id(Uuid::from_u128(id))?
                .map_or_else(|| Err(damaged("a name")), |row| Ok(Some(row))),
            None => Ok(None),
        }
    }

    pub fn next_rev(&mut self) -> u64 {
        self.totals.rev += 1;
        self.totals.rev
    }

    /// Whether a caller's revision may be in this hub's history.
    pub fn has_history(&self, at: Revision) -> DbResult<bool> {
        Ok(commits::knows(&self.commits, at)? != Known::No)
    }

    /// Records that this transaction made the revisions since [`FileTables::began`], if there are any.
    pub fn record_commit(&mut self, group: &Group) -> DbResult<()> {
        if self.totals.rev > self.began {
            let first = (self.began == group.opened).then_some(group.opened);
            self.commits
                .insert(self.totals.rev, (group.tag.0, group.now, first))?;
        }
        Ok(())
    }

    /// Makes `row` current with the given chunks, which are in the tables. The former revision was retired before.
    pub fn stand(&mut self, row: &Row, chunks: &[Chunk]) -> DbResult<()> {
        self.write_current(row)?;
        if row.is_live() {
            self.totals.files += 1;
            self.totals.bytes += row.size;
            self.refer(chunks)?;
            if chunks != implied(row) {
                self.lists.insert(
                    (row.id.as_u128(), row.rev),
                    list_to_bytes(chunks).as_slice(),
                )?;
            }
        } else {
            self.tombstones.insert((row.aged, row.id.as_u128()), ())?;
        }
        Ok(())
    }

    fn write_current(&mut self, row: &Row) -> DbResult<()> {
        self.changed = true;
        let id = row.id.as_u128();
        self.files.insert(id, row.to_bytes().as_slice())?;
        self.names.insert(
            (row.name.path.as_str(), row.name.name.as_str()),
            (id, state(row)),
        )?;
        self.changes.insert(row.rev, id)?;
        Ok(())
    }

    /// Retires the current revision before a later one: a file becomes a version, a tombstone is removed.
    pub fn retire(&mut self, row: &Row, now: u64, wall: u64) -> DbResult<()> {
        self.changed = true;
        let id = row.id.as_u128();
        self.changes.remove(row.rev)?;
        if !row.is_live() {
            self.tombstones.remove((row.aged, id))?;
            return Ok(());
        }
        self.totals.files -= 1;
        self.totals.bytes -= row.size;
        let version = Row {
            replaced: Some(wall),
            aged: now,
            ..row.clone()
        };
        self.versions
            .insert((id, row.rev), version.to_bytes().as_slice())?;
        self.version_ages.insert((now, id, row.rev), ())?;
        Ok(())
    }

    /// Removes a version.
    pub fn drop_version(&mut self, id: u128, rev: u64, now: u64) -> DbResult<()> {
        self.changed = true;
        let removed = self
            .versions
            .remove((id, rev))?
            .map(|row| Row::from_bytes(row.value()))
            .transpose()?;
        let Some(row) = removed else { return Ok(()) };
        self.version_ages.remove((row.aged, id, rev))?;
        let chunks = self.chunks_of(&row)?;
        self.lists.remove((id, rev))?;
        self.let_go(&chunks, now)
    }

    /// Removes a tombstone, and the versions of its file.
    pub fn drop_tombstone(&mut self, deleted: u64, id: u128, now: u64) -> DbResult<()> {
        self.changed = true;
        self.tombstones.remove((deleted, id))?;
        let Some(row) = self
            .by_id(Uuid::from_u128(id))?
            .filter(|row| !row.is_live())
        else {
            return Ok(());
        };
        for rev in self.version_revs(id)? {
            self.drop_version(id, rev, now)?;
        }
        self.files.remove(id)?;
        self.names
            .remove((row.name.path.as_str(), row.name.name.as_str()))?;
        self.changes.remove(row.rev)?;
        self.totals.dropped = self.totals.dropped.max(row.rev);
        Ok(())
    }

    pub fn version(&self, id: Uuid, rev: u64) -> DbResult<Option<Row>> {
        self.versions
            .get((id.as_u128(), rev))?
            .map(|row| Row::from_bytes(row.value()))
            .transpose()
    }

    /// The revisions of the versions, oldest first.
    pub fn version_revs(&self, id: u128) -> DbResult<Vec<u64>> {
        self.versions
            .range((id, 0)..=(id, u64::MAX))?
            .map(|row| Ok(row?.0.value().1))
            .collect()
    }

    pub fn chunks_of(&self, row: &Row) -> DbResult<Vec<Chunk>> {
        chunks_of(&self.lists, row)
    }

    fn chunk_row(&self, hash: Hash) -> DbResult<Option<ChunkRow>> {
        let row = self.chunks.get(&hash.0)?;
        Ok(row.map(|row| ChunkRow::from_value(row.value())))
    }

    fn set_chunk_row(&mut self, hash: Hash, row: ChunkRow) -> DbResult<()> {
        self.changed = true;
        self.chunks.insert(&hash.0, row.value())
    }

    /// Whether the chunk is in the tables with this size.
    pub fn has_chunk(&self, chunk: &Chunk) -> DbResult<bool> {
        Ok(self
            .chunk_row(chunk.sha256)?
            .is_some_and(|row| row.size == chunk.size))
    }

    /// Adds a chunk without references. `bytes`: those of a short chunk, which are stored here; otherwise its file is in place.
    pub fn add_chunk(
        &mut self,
        hash: Hash,
        size: u64,
        bytes: Option<&[u8]>,
        now: u64,
    ) -> DbResult<()> {
        self.forgotten.remove(&hash);
        let place = self.store(hash, bytes)?;
        let row = ChunkRow {
            size,
            references: 0,
            since: now,
            place,
        };
        self.set_chunk_row(hash, row)?;
        self.loose.insert((now, &hash.0), ())?;
        Ok(())
    }

    /// Stores the bytes of a short chunk. A view of a bucket has no packs: hubs of earlier versions read its snapshots.
    fn store(&mut self, hash: Hash, bytes: Option<&[u8]>) -> DbResult<ChunkPlace> {
        match bytes {
            None => Ok(ChunkPlace::File),
            Some(bytes) if self.objects.is_some() => {
                self.inline.insert(&hash.0, bytes)?;
                Ok(ChunkPlace::Value)
            }
            Some(bytes) => self.packs.add(hash, bytes).map(ChunkPlace::Pack),
        }
    }

    /// Whether a chunk's bytes are stored here, and are these.
    fn has_bytes(&self, hash: Hash, place: ChunkPlace, bytes: &[u8]) -> DbResult<bool> {
        match place {
            ChunkPlace::File => Ok(false),
            ChunkPlace::Value => {
                let there = self.inline.get(&hash.0)?;
                Ok(there.is_some_and(|there| there.value() == bytes))
            }
            ChunkPlace::Pack(place) => self.packs.has(place, bytes),
        }
    }

    /// No row names the bytes of this chunk any more at this place.
    fn release(&mut self, hash: Hash, row: ChunkRow) -> DbResult<()> {
        self.changed = true;
        match row.place {
            ChunkPlace::File => {
                self.forgotten.insert(hash);
                if let Some(objects) = &mut self.objects {
                    objects.forget(hash)?;
                }
            }
            ChunkPlace::Value => drop(self.inline.remove(&hash.0)?),
            ChunkPlace::Pack(place) => {
                if self.packs.let_go(place, row.size)? == Filled::Thinly {
                    self.move_out(place.pack)?;
                }
            }
        }
        Ok(())
    }

    /// Moves the chunks of a pack to another one. A damaged pack stays until it has none.
    fn move_out(&mut self, number: u64) -> DbResult<()> {
        let pack = self.packs.read(number)?.unwrap_or_default();
        let Some(items) = items(number, &pack) else {
            return Ok(());
        };
        for item in items {
            let Some(row) = self.chunk_row(item.hash)? else {
                continue;
            };
            if row.place == ChunkPlace::Pack(item.place) {
                let place = ChunkPlace::Pack(self.packs.add(item.hash, item.bytes)?);
                self.set_chunk_row(item.hash, ChunkRow { place, ..row })?;
                self.moved_bytes += item.taken();
            }
        }
        self.packs.remove(number)
    }

    /// Stores the chunks that were changed.
    pub fn store_chunks(&mut self) -> DbResult<()> {
        self.packs.finish()?;
        self.chunks.finish()
    }

    /// Records that the hub has lost this chunk.
    pub fn want(&mut self, hash: Hash, wall: u64) -> DbResult<()> {
        if self.chunks.get(&hash.0)?.is_none() {
            self.mended.insert(hash);
        } else if self.wanted.get(&hash.0)?.is_none() {
            self.changed = true;
            self.wanted.insert(&hash.0, wall)?;
        }
        Ok(())
    }

    pub fn is_wanted(&self, hash: Hash) -> DbResult<bool> {
        Ok(self.wanted.get(&hash.0)?.is_some())
    }

    /// Replaces the bytes of a known chunk. `bytes`: they are stored here; otherwise its file is in place.
    pub fn mend(&mut self, hash: Hash, bytes: Option<&[u8]>) -> DbResult<()> {
        let Some(row) = self.chunk_row(hash)? else {
            return Ok(());
        };
        let stands = match bytes {
            Some(bytes) => self.has_bytes(hash, row.place, bytes)?,
            None => row.is_file(),
        };
        if !stands {
            let place = self.store(hash, bytes)?;
            self.set_chunk_row(hash, ChunkRow { place, ..row })?;
            // a value is replaced where it is
            if place != row.place {
                self.release(hash, row)?;
            }
        }
        self.not_wanted(hash)
    }

    fn not_wanted(&mut self, hash: Hash) -> DbResult<()> {
        self.changed |= self.wanted.remove(&hash.0)?.is_some();
        self.mended.insert(hash);
        Ok(())
    }

    fn refer(&mut self, chunks: &[Chunk]) -> DbResult<()> {
        for Chunk { sha256, .. } in chunks {
            let Some(row) = self.chunk_row(*sha256)? else {
                return Err(damaged("a chunk"));
            };
            if row.references == 0 {
                self.loose.remove((row.since, &sha256.0))?;
            }
            let row = ChunkRow {
                references: row.references + 1,
                since: 0,
                ..row
            };
            self.set_chunk_row(*sha256, row)?;
        }
        Ok(())
    }

    fn let_go(&mut self, chunks: &[Chunk], now: u64) -> DbResult<()> {
        for Chunk { sha256, .. } in chunks {
            let Some(row) = self.chunk_row(*sha256)?.filter(|row| row.references > 0) else {
                return Err(damaged("a chunk"));
            };
            let is_loose = row.references == 1;
            if is_loose {
                self.loose.insert((now, &sha256.0), ())?;
            }
            let row = ChunkRow {
                references: row.references - 1,
                since: if is_loose { now } else { 0 },
                ..row
            };
            self.set_chunk_row(*sha256, row)?;
        }
        Ok(())
    }

    /// Removes a chunk without references; its file is removed after the commit.
    pub fn drop_chunk(&mut self, since: u64, hash: Hash) -> DbResult<()> {
        self.changed = true;
        self.loose.remove((since, &hash.0))?;
        let Some(row) = self.chunk_row(hash)?.filter(|row| row.references == 0) else {
            return Ok(());
        };
        self.chunks.remove(&hash.0)?;
        self.release(hash, row)?;
        self.not_wanted(hash)
    }

    /// Adds an event. `action`: an index of [`ACTIONS`](super::schema::ACTIONS).
    pub fn event(
        &mut self,
        action: u8,
        row: &Row,
        wall: u64,
        overwrote: Option<u64>,
    ) -> DbResult<()> {
        let what = action * 4 + kind_number(row.kind);
        self.events.insert(
            row.rev,
            (wall, what, row.id.as_u128(), overwrote.unwrap_or(0)),
        )?;
        Ok(())
    }
}
