//! The tables of files: their definitions, their counters and a copy of all of them.
//!
//! It changes none of them: `tables` does.

use redb::{ReadTransaction, TableDefinition, WriteTransaction};

use super::chunk_row::ChunkValue;
use super::commits::COMMITS;
use super::packs::{PACKS, PACKS_DEAD};
use super::rows::{Row, kind_number, list_from_bytes};
use crate::database::DbResult;
use crate::database::lsm::{LsmDefinition, LsmReader};
use crate::database::table::ReadableTable;
use crate::hub::store::meta::{copy_table, copy_table_if_there};
use crate::wire::files::Chunk;

/// id -> [`Row`]: the current revision of a name, or its tombstone.
pub const FILES: TableDefinition<u128, &[u8]> = TableDefinition::new("files");
/// (path, name) -> id, state: the id is kept until the tombstone is removed. See [`state`].
pub const NAMES: TableDefinition<(&str, &str), (u128, u8)> = TableDefinition::new("file_names");
/// rev -> id: one row for each name, under its latest revision.
pub const CHANGES: TableDefinition<u64, u128> = TableDefinition::new("file_changes");
/// (id, rev) -> [`Row`]: revisions that were replaced or deleted.
pub const VERSIONS: TableDefinition<(u128, u64), &[u8]> = TableDefinition::new("file_versions");
/// (replaced, id, rev): versions in order of age.
pub const VERSION_AGES: TableDefinition<(u64, u128, u64), ()> =
    TableDefinition::new("file_version_ages");
/// (deleted, id): tombstones in order of age.
pub const TOMBSTONES: TableDefinition<(u64, u128), ()> = TableDefinition::new("file_tombstones");
/// (id, rev) -> the chunks, if there is more than one.
pub const LISTS: TableDefinition<(u128, u64), &[u8]> = TableDefinition::new("file_chunks");
/// SHA-256 -> [`super::chunk_row::ChunkRow`].
pub const CHUNKS: LsmDefinition<&[u8; 32], ChunkValue> =
    LsmDefinition::new("chunks", ["chunks_new", "chunks_recent"]);
/// SHA-256 -> the bytes of a short chunk that an earlier version has stored, or a view of a bucket. Others are in packs.
pub const INLINE: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("chunk_bytes");
/// (since, SHA-256): chunks that nothing refers to, in order of age.
pub const LOOSE: TableDefinition<(u64, &[u8; 32]), ()> = TableDefinition::new("chunks_loose");
/// rev -> wall clock, action and kind (see `event`), id, the overwritten revision or 0.
pub const EVENTS: TableDefinition<u64, (u64, u8, u128, u64)> = TableDefinition::new("file_events");
/// (host, idempotency key) -> [`super::rows::KeyOutcome`].
pub const KEYS: TableDefinition<(&str, u128), &[u8]> = TableDefinition::new("file_keys");
/// number -> hub time, host, key: the keys in order of age.
pub const KEY_AGES: TableDefinition<u64, (u64, &str, u128)> = TableDefinition::new("file_key_ages");

/// SHA-256 -> time (wall clock, ms) at which the chunk was found to be lost. See `wanted`.
pub const WANTED: TableDefinition<&[u8; 32], u64> = TableDefinition::new("chunks_wanted");

/// Copies all tables, for a backup.
pub fn copy(from: &ReadTransaction, to: &WriteTransaction) -> DbResult<()> {
    copy_table(from, to, FILES)?;
    copy_table(from, to, NAMES)?;
    copy_table(from, to, CHANGES)?;
    copy_table(from, to, VERSIONS)?;
    copy_table(from, to, VERSION_AGES)?;
    copy_table(from, to, TOMBSTONES)?;
    copy_table(from, to, LISTS)?;
    copy_table(from, to, CHUNKS.table)?;
    for level in CHUNKS.levels {
        copy_table_if_there(from, to, level)?;
    }
    copy_table(from, to, INLINE)?;
    copy_table_if_there(from, to, PACKS)?;
    copy_table_if_there(from, to, PACKS_DEAD)?;
    copy_table(from, to, LOOSE)?;
    copy_table(from, to, EVENTS)?;
    copy_table(from, to, KEYS)?;
    copy_table(from, to, KEY_AGES)?;
    copy_table(from, to, WANTED)?;
    copy_table(from, to, COMMITS)
}

/// The rows of the chunks.
pub fn chunk_rows(tx: &ReadTransaction) -> DbResult<LsmReader<&'static [u8; 32], ChunkValue>> {
    LsmReader::open(tx, &CHUNKS)
}

/// The bit of a deleted name in its state. The other bits are the kind; both are beside the id, so that a listing reads one
/// table only.
pub const DELETED: u8 = 0x80;

pub fn state(row: &Row) -> u8 {
    kind_number(row.kind) | if row.is_live() { 0 } else { DELETED }
}

/// The actions of events; stored as the index times four plus the kind of file.
pub const ACTIONS: [&str; 3] = ["created", "updated", "deleted"];

/// Counters that most groups change, in the same table as those of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileTotals {
    /// The last used revision.
    pub rev: u64,
    /// Files that are not deleted, including directories and links, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// The highest revision of a removed tombstone.
    pub dropped: u64,
    /// The highest revision of a removed event.
    pub forgotten: u64,
}

impl FileTotals {
    pub const NAMES: [&str; 5] = [
        "rev",
        "files",
        "file_bytes",
        "tombstones_dropped",
        "events_dropped",
    ];

    pub fn read(meta: &impl ReadableTable<&'static str, u128>) -> DbResult<FileTotals> {
        let mut numbers = [0; 5];
        for (number, name) in numbers.iter_mut().zip(FileTotals::NAMES) {
            *number = meta.get(name)?.map_or(0, |v| v.value() as u64);
        }
        let [rev, files, bytes, dropped, forgotten] = numbers;
        Ok(FileTotals {
            rev,
            files,
            bytes,
            dropped,
            forgotten,
        })
    }

    pub fn numbers(&self) -> [u64; 5] {
        [
            self.rev,
            self.files,
            self.bytes,
            self.dropped,
            self.forgotten,
        ]
    }
}

/// The chunks of a revision: a single chunk needs no list.
pub fn chunks_of(
    lists: &impl ReadableTable<(u128, u64), &'static [u8]>,
    row: &Row,
) -> DbResult<Vec<Chunk>> {
    match lists.get((row.id.as_u128(), row.rev))? {
        Some(list) => list_from_bytes(list.value()),
        None => Ok(implied(row)),
    }
}

pub fn implied(row: &Row) -> Vec<Chunk> {
    if row.size == 0 {
        Vec::new()
    } else {
        vec![Chunk {
            sha256: row.sha256,
            size: row.size,
        }]
    }
}

#[cfg(test)]
pub fn dump(tx: &ReadTransaction) -> Vec<String> {
    use crate::database::table::OpenTable;
    let mut rows = Vec::new();
    macro_rules! rows {
        ($name:literal, $table:expr) => {
            for row in tx.table($table).unwrap().iter().unwrap() {
                let (key, value) = row.unwrap();
                rows.push(format!("{} {:?} {:?}", $name, key.value(), value.value()));
            }
        };
    }
    rows!("file", FILES);
    rows!("name", NAMES);
    rows!("change", CHANGES);
    rows!("version", VERSIONS);
    rows!("version-age", VERSION_AGES);
    rows!("tombstone", TOMBSTONES);
    rows!("list", LISTS);
    for row in chunk_rows(tx).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        rows.push(format!("chunk {:?} {:?}", key.value(), value.value()));
    }
    rows!("inline", INLINE);
    if tx.table(PACKS).is_ok() {
        rows!("pack", PACKS);
        rows!("dead", PACKS_DEAD);
    }
    rows!("loose", LOOSE);
    rows!("event", EVENTS);
    rows!("key", KEYS);
    rows!("key-age", KEY_AGES);
    rows!("wanted", WANTED);
    rows!("commit", COMMITS);
    if tx.table(super::objects::OBJECTS).is_ok() {
        rows!("object", super::objects::OBJECTS);
        rows!("dropped-object", super::objects::DROPPED_OBJECTS);
    }
    rows
}

/// Adds this many events, and void keys of the host `a`, numbered from 1.
#[cfg(test)]
pub fn fill_for_test(db: &std::sync::RwLock<Option<redb::Database>>, events: u64, keys: u64) {
    use crate::database::table::OpenTable;
    let db = db.read().unwrap();
    let tx = db.as_ref().unwrap().begin_write().unwrap();
    let mut table = tx.table(EVENTS).unwrap();
    (1..=events).for_each(|rev| drop(table.insert(rev, (0, 0, 0, 0)).unwrap()));
    drop(table);
    let (mut table, mut ages) = (tx.table(KEYS).unwrap(), tx.table(KEY_AGES).unwrap());
    let burnt = super::rows::KeyOutcome::Burnt.to_bytes();
    for key in 1..=keys {
        table
            .insert(("a", u128::from(key)), burnt.as_slice())
            .unwrap();
        ages.insert(key, (0, "a", u128::from(key))).unwrap();
    }
    drop((table, ages));
    tx.commit().unwrap();
}
