//! The objects of a shared store in which chunks are kept when several hubs share one log: their names, and those that no
//! chunk has any more.
//!
//! Which object an entry may name is decided here; it is put, fetched and removed elsewhere. Without a shared log these tables
//! do not exist.

use redb::{ReadTransaction, TableDefinition, WriteTransaction};

use super::rows::damaged;
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable, Table};
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::meta::{META, copy_table};
use crate::wire::files::Hash;

/// SHA-256 -> the name of the chunk's object.
pub const OBJECTS: TableDefinition<&[u8; 32], &str> = TableDefinition::new("chunk_objects");
/// Name -> whether the object was removed: objects that no chunk has. A removed one is remembered until the horizon has passed
/// it, because a late entry may still name it.
pub const DROPPED_OBJECTS: TableDefinition<&str, bool> = TableDefinition::new("dropped_objects");
/// The name in [`META`] of the horizon: no entry may name an object that was made before it.
const HORIZON: &str = "log_horizon";

/// The two tables, open for one transaction.
pub struct ObjectTables<'t> {
    pub objects: Table<'t, &'static [u8; 32], &'static str>,
    pub dropped: Table<'t, &'static str, bool>,
    pub horizon: u64,
    pub closed: bool,
}

impl<'t> ObjectTables<'t> {
    pub fn open(
        tx: &'t WriteTransaction,
        meta: &impl ReadableTable<&'static str, u128>,
    ) -> DbResult<Self> {
        Ok(ObjectTables {
            objects: tx.table(OBJECTS)?,
            dropped: tx.table(DROPPED_OBJECTS)?,
            horizon: horizon(meta)?,
            closed: is_closed(meta)?,
        })
    }

    /// Whether an entry may name this object: it was not removed, and cannot have been.
    pub fn admits(&self, name: &ChunkName) -> DbResult<bool> {
        Ok(name.made >= self.horizon && self.dropped.get(name.to_string().as_str())?.is_none())
    }

    pub fn drop_name(&mut self, name: &str) -> DbResult<()> {
        self.dropped.insert(name, false)?;
        Ok(())
    }

    /// A chunk has no object any more.
    pub fn forget(&mut self, hash: Hash) -> DbResult<()> {
        let name = self
            .objects
            .remove(&hash.0)?
            .map(|name| name.value().to_string());
        name.map_or(Ok(()), |name| self.drop_name(&name))
    }
}

/// The name in [`META`] of the mark of a log that was closed.
const CLOSED: &str = "log_closed";

pub fn is_closed(meta: &impl ReadableTable<&'static str, u128>) -> DbResult<bool> {
    Ok(meta.get(CLOSED)?.is_some())
}

pub fn write_closed(meta: &mut Table<'_, &'static str, u128>) -> DbResult<()> {
    meta.insert(CLOSED, 1)?;
    Ok(())
}

/// Removes all that makes the tables a view of a bucket.
pub fn leave(tx: &WriteTransaction) -> DbResult<()> {
    let mut meta = tx.table(META)?;
    for name in [HORIZON, CLOSED] {
        meta.remove(name)?;
    }
    tx.delete_table(OBJECTS)?;
    tx.delete_table(DROPPED_OBJECTS)?;
    Ok(())
}

pub fn write_horizon(meta: &mut Table<'_, &'static str, u128>, horizon: u64) -> DbResult<()> {
    meta.insert(HORIZON, u128::from(horizon))?;
    Ok(())
}

fn horizon(meta: &impl ReadableTable<&'static str, u128>) -> DbResult<u64> {
    Ok(meta.get(HORIZON)?.map_or(0, |at| at.value() as u64))
}

/// The object with a chunk's bytes; `None`: the chunk is in the tables, or there is no such chunk.
pub fn name_of(tx: &ReadTransaction, hash: Hash) -> DbResult<Option<ChunkName>> {
    let row = tx.table(OBJECTS)?.get(&hash.0)?;
    row.map(|name| {
        name.value()
            .parse()
            .map_err(|_| damaged("a chunk's object"))
    })
    .transpose()
}

/// Copies both tables, for a snapshot.
pub fn copy(from: &ReadTransaction, to: &WriteTransaction) -> DbResult<()> {
    copy_table(from, to, OBJECTS)?;
    copy_table(from, to, DROPPED_OBJECTS)
}

/// The objects that the janitor may remove now.
pub fn dropped(tx: &ReadTransaction, most: usize) -> DbResult<Vec<ChunkName>> {
    let mut names = Vec::new();
    for row in tx.table(DROPPED_OBJECTS)?.iter()? {
        let (name, removed) = row?;
        if names.len() < most && !removed.value() {
            names.extend(name.value().parse::<ChunkName>());
        }
    }
    Ok(names)
}

/// The objects of all chunks.
#[cfg(test)]
pub fn all(tx: &ReadTransaction) -> DbResult<Vec<ChunkName>> {
    let mut names = Vec::new();
    for row in tx.table(OBJECTS)?.iter()? {
        names.extend(row?.1.value().parse::<ChunkName>());
    }
    Ok(names)
}

/// Whether some chunk has this object, or had it.
pub fn is_known(tx: &ReadTransaction, name: &ChunkName) -> DbResult<bool> {
    let text = name.to_string();
    let named = tx
        .table(OBJECTS)?
        .get(&name.hash.0)?
        .is_some_and(|there| there.value() == text);
    Ok(named || tx.table(DROPPED_OBJECTS)?.get(text.as_str())?.is_some())
}

/// See [`ObjectTables::admits`].
pub fn admits(tx: &ReadTransaction, name: &ChunkName) -> DbResult<bool> {
    let dropped = tx.table(DROPPED_OBJECTS)?;
    Ok(name.made >= read_horizon(tx)? && dropped.get(name.to_string().as_str())?.is_none())
}

pub fn read_horizon(tx: &ReadTransaction) -> DbResult<u64> {
    horizon(&tx.table(META)?)
}
