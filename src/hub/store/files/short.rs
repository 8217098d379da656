//! Reads the bytes of short chunks wherever the tables have them.

use redb::{ReadTransaction, WriteTransaction};

use super::chunk_row::{ChunkPlace, ChunkRow};
use super::packs::{PACKS, PACKS_DEAD, items, within};
use super::schema::{CHUNKS, INLINE, chunk_rows};
use crate::database::DbResult;
use crate::database::lsm::LsmTable;
use crate::database::table::{OpenTable, ReadableTable};
use crate::wire::files::Hash;

/// The bytes of a chunk; `None`: it is not in the tables, or its bytes are not.
pub fn bytes_of(tx: &ReadTransaction, hash: Hash) -> DbResult<Option<Vec<u8>>> {
    let row = chunk_rows(tx)?.get(&hash.0)?;
    let Some(row) = row.map(|row| ChunkRow::from_value(row.value())) else {
        return Ok(None);
    };
    match row.place {
        // a reader that began before the chunk became a file
        ChunkPlace::File | ChunkPlace::Value => {
            let bytes = tx.table(INLINE)?.get(&hash.0)?;
            Ok(bytes.map(|bytes| bytes.value().to_vec()))
        }
        ChunkPlace::Pack(place) => {
            let pack = tx.table(PACKS)?.get(place.pack)?;
            Ok(pack.and_then(|pack| within(pack.value(), place, row.size).map(<[u8]>::to_vec)))
        }
    }
}

/// Stores each chunk of a pack of `from` as a value of its own in a copy of the tables, all in tables that earlier versions know.
pub fn unpack(from: &ReadTransaction, to: &WriteTransaction) -> DbResult<()> {
    let mut chunks = LsmTable::open(to, &CHUNKS, false)?;
    chunks.merge()?;
    let packs = match from.table(PACKS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        packs => packs?,
    };
    to.delete_table(PACKS)?;
    to.delete_table(PACKS_DEAD)?;
    let mut values = to.table(INLINE)?;
    for pack in packs.iter()? {
        let (number, pack) = pack?;
        for item in items(number.value(), pack.value()).unwrap_or_default() {
            let row = chunks.get(&item.hash.0)?;
            let row = row.map(|row| ChunkRow::from_value(row.value()));
            if let Some(row) = row.filter(|row| row.place == ChunkPlace::Pack(item.place)) {
                let place = ChunkPlace::Value;
                chunks.insert(&item.hash.0, ChunkRow { place, ..row }.value())?;
                values.insert(&item.hash.0, item.bytes)?;
            }
        }
    }
    chunks.finish()
}
