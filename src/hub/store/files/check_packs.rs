//! Checks the packs of short chunks against the rows of the chunks.

use std::collections::HashMap;

use redb::ReadTransaction;

use super::super::findings::Findings;
use super::chunk_row::{ChunkPlace, ChunkRow, PackPlace};
use super::packs::{PACKS, PACKS_DEAD, PackItem, items};
use super::schema::chunk_rows;
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable};
use crate::wire::files::Hash;

/// The whole chunks of all packs, with their places and sizes.
pub fn packs(
    tx: &ReadTransaction,
    findings: &mut Findings,
) -> DbResult<HashMap<Hash, (PackPlace, u64)>> {
    let mut whole = HashMap::new();
    let (packs, dead) = match (tx.table(PACKS), tx.table(PACKS_DEAD)) {
        // tables of an earlier version
        (Err(redb::TableError::TableDoesNotExist(_)), _) => return Ok(whole),
        (packs, dead) => (packs?, dead?),
    };
    let chunks = chunk_rows(tx)?;
    for pack in packs.iter()? {
        let (number, pack) = pack?;
        let (number, pack) = (number.value(), pack.value());
        let Some(items) = items(number, pack) else {
            findings.damaged(format!("the pack {number} is damaged"));
            continue;
        };
        let mut unused = 0;
        for item in items {
            let row = chunks.get(&item.hash.0)?;
            let row = row.map(|row| ChunkRow::from_value(row.value()));
            if row.is_none_or(|row| row.place != ChunkPlace::Pack(item.place)) {
                unused += item.taken();
            } else if Hash::of(item.bytes) == item.hash {
                let PackItem { hash, place, bytes } = item;
                whole.insert(hash, (place, bytes.len() as u64));
            }
        }
        let counted = dead.get(number)?.map(|row| row.value());
        if counted != (unused > 0).then_some((unused, pack.len() as u64)) {
            findings.damaged(format!(
                "the pack {number} of {} bytes has {unused} that no chunk needs, but {counted:?} are counted",
                pack.len()
            ));
        }
    }
    for row in dead.iter()? {
        let number = row?.0.value();
        if packs.get(number)?.is_none() {
            findings.damaged(format!(
                "bytes of the pack {number} are counted, which is missing"
            ));
        }
    }
    Ok(whole)
}
