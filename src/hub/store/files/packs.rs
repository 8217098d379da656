//! Packs: the bytes of short chunks, many in one value of the tables. A value of its own would take whole pages: one of 4 KiB
//! takes two.
//!
//! A pack is written once, by the transaction that brings its chunks, and never changed; the row of a chunk says where its
//! bytes are. Once half of a pack belongs to no chunk, the rest is to move to another one: the caller does so.

use redb::{TableDefinition, WriteTransaction};

use super::chunk_row::PackPlace;
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable, Table};
use crate::hub::store::ops::files::MAX_INLINE_BYTES;
use crate::wire::files::Hash;

/// number -> items, one after the other: SHA-256, length (2 bytes, the lowest first), and the bytes of the chunk.
pub const PACKS: TableDefinition<u64, &[u8]> = TableDefinition::new("chunk_packs");
/// number -> bytes of the items that belong to no chunk any more, bytes of all. A pack without such items has no row.
pub const PACKS_DEAD: TableDefinition<u64, (u64, u64)> = TableDefinition::new("chunk_packs_dead");

/// Bytes of a pack at most. With key and lengths, which take 16, it fills 16 pages.
const MAX_PACK_BYTES: usize = 64 * 1024 - 16;
/// Bytes before those of the chunk: hash and length.
const ITEM_HEAD_BYTES: usize = 34;

const _: () = assert!(MAX_INLINE_BYTES as usize + ITEM_HEAD_BYTES <= MAX_PACK_BYTES);

/// The tables of packs, open for one transaction, and the pack that it fills.
pub struct PackTables<'t> {
    packs: Table<'t, u64, &'static [u8]>,
    dead: Table<'t, u64, (u64, u64)>,
    /// The number of `filling`; 0: none was begun yet.
    number: u64,
    filling: Vec<u8>,
}

/// One chunk of a pack.
#[derive(Debug, PartialEq, Eq)]
pub struct PackItem<'p> {
    pub hash: Hash,
    pub place: PackPlace,
    pub bytes: &'p [u8],
}

/// What is left of a pack.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// More than half.
    Mostly,
    /// The rest should move.
    Thinly,
}

impl<'t> PackTables<'t> {
    pub fn open(tx: &'t WriteTransaction) -> DbResult<PackTables<'t>> {
        Ok(PackTables {
            packs: tx.table(PACKS)?,
            dead: tx.table(PACKS_DEAD)?,
            number: 0,
            filling: Vec::new(),
        })
    }

    /// Adds a chunk. It is stored by [`PackTables::finish`] at the latest.
    pub fn add(&mut self, hash: Hash, bytes: &[u8]) -> DbResult<PackPlace> {
        let length = u16::try_from(bytes.len())
            .map_err(|_| redb::Error::Corrupted("a chunk is too long for a pack".into()))?;
        if self.filling.len() + ITEM_HEAD_BYTES + bytes.len() > MAX_PACK_BYTES {
            self.finish()?;
        }
        if self.filling.is_empty() {
            let last = self.packs.last()?.map_or(0, |(number, _)| number.value());
            self.number = self.number.max(last) + 1;
        }
        self.filling.extend_from_slice(&hash.0);
        self.filling.extend_from_slice(&length.to_le_bytes());
        let place = PackPlace {
            pack: self.number,
            offset: self.filling.len() as u16,
        };
        self.filling.extend_from_slice(bytes);
        Ok(place)
    }

    /// Stores the pack that is being filled.
    pub fn finish(&mut self) -> DbResult<()> {
        if !self.filling.is_empty() {
            self.packs.insert(self.number, self.filling.as_slice())?;
            self.filling.clear();
        }
        Ok(())
    }

    /// Whether a chunk's bytes are these.
    pub fn has(&self, place: PackPlace, bytes: &[u8]) -> DbResult<bool> {
        if place.pack == self.number && !self.filling.is_empty() {
            return Ok(within(&self.filling, place, bytes.len() as u64) == Some(bytes));
        }
        let pack = self.packs.get(place.pack)?;
        Ok(pack.is_some_and(|pack| within(pack.value(), place, bytes.len() as u64) == Some(bytes)))
    }

    /// The item at this place belongs to no chunk any more.
    pub fn let_go(&mut self, place: PackPlace, size: u64) -> DbResult<Filled> {
        if place.pack == self.number {
            self.finish()?;
        }
        let known = self.dead.get(place.pack)?.map(|row| row.value());
        let all = match known {
            Some((_, all)) => Some(all),
            None => (self.packs.get(place.pack)?).map(|pack| pack.value().len() as u64),
        };
        // a pack that is missing has nothing to move
        let Some(all) = all else {
            return Ok(Filled::Mostly);
        };
        let dead = known.map_or(0, |(dead, _)| dead) + ITEM_HEAD_BYTES as u64 + size;
        if dead >= all {
            self.remove(place.pack)?;
            return Ok(Filled::Mostly);
        }
        self.dead.insert(place.pack, (dead, all))?;
        Ok(if dead * 2 >= all {
            Filled::Thinly
        } else {
            Filled::Mostly
        })
    }

    /// A stored pack, whose items can then be moved.
    pub fn read(&self, number: u64) -> DbResult<Option<Vec<u8>>> {
        Ok(self.packs.get(number)?.map(|pack| pack.value().to_vec()))
    }

    pub fn remove(&mut self, number: u64) -> DbResult<()> {
        self.packs.remove(number)?;
        self.dead.remove(number)?;
        Ok(())
    }
}

/// The bytes of a chunk in its pack; `None`: they are not there.
pub fn within(pack: &[u8], place: PackPlace, size: u64) -> Option<&[u8]> {
    let length = pack.get(usize::from(place.offset).checked_sub(2)?..usize::from(place.offset))?;
    let length = u16::from_le_bytes(length.try_into().ok()?);
    let end = usize::from(place.offset) + usize::from(length);
    pack.get(usize::from(place.offset)..end)
        .filter(|bytes| bytes.len() as u64 == size)
}

/// All items; `None`: the pack is damaged.
pub fn items(number: u64, pack: &[u8]) -> Option<Vec<PackItem<'_>>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < pack.len() {
        let head = pack.get(at..at + ITEM_HEAD_BYTES)?;
        let (hash, length) = head.split_at(32);
        let length = usize::from(u16::from_le_bytes(length.try_into().ok()?));
        at += ITEM_HEAD_BYTES;
        found.push(PackItem {
            hash: Hash(hash.try_into().ok()?),
            place: PackPlace {
                pack: number,
                offset: u16::try_from(at).ok()?,
            },
            bytes: pack.get(at..at + length)?,
        });
        at += length;
    }
    Some(found)
}

impl PackItem<'_> {
    /// Bytes that the item takes in its pack.
    pub fn taken(&self) -> u64 {
        (ITEM_HEAD_BYTES + self.bytes.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_that_was_cut_anywhere_names_no_item_that_it_does_not_have() {
        let db = redb::Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .unwrap();
        let tx = db.begin_write().unwrap();
        let mut tables = PackTables::open(&tx).unwrap();
        let contents: [&[u8]; 4] = [b"first", b"", b"third and longer", &[7; 300]];
        let places: Vec<PackPlace> = contents
            .iter()
            .map(|bytes| tables.add(Hash::of(bytes), bytes).unwrap())
            .collect();
        // the one that is being filled, and the same once it is stored
        for _ in 0..2 {
            for (place, bytes) in places.iter().zip(contents) {
                assert!(tables.has(*place, bytes).unwrap());
                assert!(!tables.has(*place, b"other").unwrap());
            }
            tables.finish().unwrap();
        }
        let pack = tables.read(1).unwrap().unwrap();
        let found = items(1, &pack).unwrap();
        assert_eq!(found.len(), 4);
        for ((item, place), bytes) in found.iter().zip(&places).zip(contents) {
            assert_eq!(
                (item.hash, item.place, item.bytes),
                (Hash::of(bytes), *place, bytes)
            );
        }
        assert_eq!(
            found.iter().map(PackItem::taken).sum::<u64>(),
            pack.len() as u64
        );
        let ends: Vec<usize> = found
            .iter()
            .map(|item| usize::from(item.place.offset) + item.bytes.len())
            .collect();
        for cut in 1..pack.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            match items(1, &pack[..cut]) {
                Some(left) => assert_eq!((left.len(), ends.contains(&cut)), (whole, true)),
                None => assert!(!ends.contains(&cut)),
            }
            for (n, (place, bytes)) in places.iter().zip(contents).enumerate() {
                let left = within(&pack[..cut], *place, bytes.len() as u64);
                assert_eq!(left, (n < whole).then_some(bytes), "{n} of {cut} bytes");
            }
        }
    }

    #[test]
    fn packs_are_full_pages_and_numbers_are_not_used_again() {
        let db = redb::Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .unwrap();
        let tx = db.begin_write().unwrap();
        let mut tables = PackTables::open(&tx).unwrap();
        let content = [1; 4096];
        let places: Vec<PackPlace> = (0..40)
            .map(|_| tables.add(Hash::of(&content), &content).unwrap())
            .collect();
        assert_eq!(
            places.iter().map(|at| at.pack).collect::<Vec<_>>(),
            (0..40).map(|n| n / 15 + 1).collect::<Vec<u64>>()
        );
        // seven of fifteen are not half, eight are
        let filled: Vec<Filled> = (places[15..23].iter())
            .map(|at| tables.let_go(*at, 4096).unwrap())
            .collect();
        assert!(filled[..7].iter().all(|is| *is == Filled::Mostly));
        assert_eq!(filled[7], Filled::Thinly);
        tables.finish().unwrap();
        for number in 1..=3 {
            tables.remove(number).unwrap();
        }
        assert_eq!(tables.add(Hash::of(b"x"), b"x").unwrap().pack, 4);
        let longest = vec![2; MAX_INLINE_BYTES as usize];
        let place = tables.add(Hash::of(&longest), &longest).unwrap();
        assert!(tables.has(place, &longest).unwrap());
    }
}
