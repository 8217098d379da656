//! The layout of a chunk's row in the tables. It knows no table.

/// The row as redb has it: size, references, time since which there are none, whether the bytes are a file. For a chunk in a
/// pack the highest bit of the first number is set; below it are the pack (32 bits), the offset in it (16) and the size (15).
pub type ChunkValue = (u64, u64, u64, bool);

const IN_PACK: u64 = 1 << 63;
const PACK_SHIFT: u32 = 31;
const OFFSET_SHIFT: u32 = 15;
const SHORT_SIZE_MASK: u64 = (1 << OFFSET_SHIFT) - 1;

/// Where a chunk's bytes are within its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackPlace {
    /// Less than 2^32.
    pub pack: u64,
    pub offset: u16,
}

/// Where the bytes of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPlace {
    /// A file in the directory of chunks.
    File,
    /// A value of its own in the tables.
    Value,
    Pack(PackPlace),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRow {
    pub size: u64,
    pub references: u64,
    /// Hub time since which there are no references, if there are none.
    pub since: u64,
    pub place: ChunkPlace,
}

impl ChunkRow {
    pub fn from_value((first, references, since, is_file): ChunkValue) -> ChunkRow {
        let (size, place) = match first {
            size if is_file => (size, ChunkPlace::File),
            packed if packed & IN_PACK != 0 => {
                let place = PackPlace {
                    pack: (packed & !IN_PACK) >> PACK_SHIFT,
                    offset: (packed >> OFFSET_SHIFT) as u16,
                };
                (packed & SHORT_SIZE_MASK, ChunkPlace::Pack(place))
            }
            size => (size, ChunkPlace::Value),
        };
        ChunkRow {
            size,
            references,
            since,
            place,
        }
    }

    pub fn value(&self) -> ChunkValue {
        let first = match self.place {
            ChunkPlace::File | ChunkPlace::Value => self.size,
            ChunkPlace::Pack(PackPlace { pack, offset }) => {
                IN_PACK | pack << PACK_SHIFT | u64::from(offset) << OFFSET_SHIFT | self.size
            }
        };
        (first, self.references, self.since, self.is_file())
    }

    pub fn is_file(&self) -> bool {
        self.place == ChunkPlace::File
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::store::ops::files::MAX_INLINE_BYTES;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let pack = |pack, offset| ChunkPlace::Pack(PackPlace { pack, offset });
        for (size, place) in [
            (8 << 20, ChunkPlace::File),
            (0, ChunkPlace::Value),
            (MAX_INLINE_BYTES, ChunkPlace::Value),
            (MAX_INLINE_BYTES, pack(1, 34)),
            (0, pack(u64::from(u32::MAX), u16::MAX)),
            (4096, pack(77, 4164)),
        ] {
            let row = ChunkRow {
                size,
                references: 3,
                since: 1 << 40,
                place,
            };
            assert_eq!(ChunkRow::from_value(row.value()), row);
        }
        // as before there were packs
        let row = ChunkRow::from_value((4096, 1, 0, false));
        assert_eq!((row.size, row.place), (4096, ChunkPlace::Value));
    }
}
