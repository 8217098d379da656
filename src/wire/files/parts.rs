//! A chunk, or bytes of a file, as parts of known chunks and new bytes: so that a change in a long file costs the changed bytes
//! and not a chunk.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Chunk, Hash, SINGLE};
use crate::wire::revision::Tag;

/// The content type of a body of parts: a line of JSON ([`PartList`]), and then the new bytes.
pub const PARTS_TYPE: &str = "application/x-mesync-parts";
/// Maximum number of bases of one list, and of chunks whose pieces are asked for at once.
pub const MAX_BASES: usize = 16;
/// Maximum bytes that one list describes.
pub const MAX_PARTS_BYTES: u64 = SINGLE;
/// Maximum bytes of the line: more than a list of the shortest pieces has.
pub const MAX_LIST_BYTES: u64 = 128 * 1024;

/// Asks for the pieces of chunks of a revision: of `count` chunks from the one after `after` on. Of several chunks with that
/// hash, the one that ends nearest to `at` counts; without `after`, the first chunk of the file is the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedPieces {
    pub rev: u64,
    #[serde(default)]
    pub tag: Tag,
    pub after: Option<Hash>,
    pub at: u64,
    pub count: usize,
}

/// The pieces of a chunk ([`crate::chunking::PieceSplitter`]), in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkPieces {
    pub sha256: Hash,
    pub pieces: Vec<Chunk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPieces {
    pub chunks: Vec<ChunkPieces>,
}

/// Asks for the bytes `from..to` of a revision as parts of chunks that the caller has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedParts {
    pub rev: u64,
    #[serde(default)]
    pub tag: Tag,
    pub from: u64,
    pub to: u64,
    pub bases: Vec<Hash>,
}

/// In JSON `[length, base, offset]`, or the length alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ChunkPart {
    /// Bytes of a base.
    Copy(u64, usize, u64),
    /// This many of the bytes that follow the list.
    New(u64),
}

impl ChunkPart {
    /// The number of its bytes.
    pub fn length(self) -> u64 {
        let (ChunkPart::New(length) | ChunkPart::Copy(length, ..)) = self;
        length
    }
}

/// What bytes consist of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartList {
    pub bases: Vec<Hash>,
    pub parts: Vec<ChunkPart>,
}

impl PartList {
    /// Describes bytes by their pieces: those that a base has are copied.
    pub fn of(pieces: &[Chunk], bases: &[ChunkPieces]) -> PartList {
        let mut places = HashMap::new();
        for (number, base) in bases.iter().enumerate() {
            let mut at = 0;
            for piece in &base.pieces {
                places.entry(*piece).or_insert((number, at));
                at += piece.size;
            }
        }
        let mut list = PartList {
            bases: bases.iter().map(|base| base.sha256).collect(),
            parts: Vec::new(),
        };
        for piece in pieces {
            list.add(piece.size, places.get(piece).copied());
        }
        list
    }

    /// Adds a part, or lengthens the last one.
    fn add(&mut self, size: u64, place: Option<(usize, u64)>) {
        match (self.parts.last_mut(), place) {
            (Some(ChunkPart::New(length)), None) => *length += size,
            (Some(ChunkPart::Copy(length, base, at)), Some(next))
                if (*base, *at + *length) == next =>
            {
                *length += size
            }
            (_, None) => self.parts.push(ChunkPart::New(size)),
            (_, Some((base, at))) => self.parts.push(ChunkPart::Copy(size, base, at)),
        }
    }

    /// Which of the described bytes are new.
    pub fn new_ranges(&self) -> Vec<Range<u64>> {
        let (mut at, mut new) = (0, Vec::new());
        for part in &self.parts {
            let length = part.length();
            if let ChunkPart::New(_) = part {
                new.push(at..at + length);
            }
            at += length;
        }
        new
    }

    /// The number of bytes that the list describes; `None`: the list is wrong.
    pub fn size(&self) -> Option<u64> {
        let mut size: u64 = 0;
        for part in &self.parts {
            let length = part.length();
            if let ChunkPart::Copy(_, base, at) = *part
                && (base >= self.bases.len() || at.checked_add(length)? > SINGLE)
            {
                return None;
            }
            size = size.checked_add(length).filter(|_| length > 0)?;
        }
        let is_bounded = self.bases.len() <= MAX_BASES && size <= MAX_PARTS_BYTES;
        is_bounded.then_some(size)
    }

    /// The list as the first line of a body.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("plain data is JSON");
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(n: u8, size: u64) -> Chunk {
        Chunk {
            sha256: Hash([n; 32]),
            size,
        }
    }

    fn base(n: u8, pieces: &[Chunk]) -> ChunkPieces {
        ChunkPieces {
            sha256: Hash([n; 32]),
            pieces: pieces.to_vec(),
        }
    }

    #[test]
    fn pieces_that_a_base_has_are_copied_and_neighbours_are_one_part() {
        let (a, b, c, d) = (piece(1, 10), piece(2, 20), piece(3, 30), piece(4, 40));
        let bases = [base(100, &[a, b, c]), base(101, &[d, a])];
        let list = |pieces: &[Chunk]| {
            let list = PartList::of(pieces, &bases);
            let text = String::from_utf8(list.line()).unwrap();
            assert_eq!(serde_json::from_str::<PartList>(&text).unwrap(), list);
            let size = pieces.iter().map(|piece| piece.size).sum::<u64>();
            assert_eq!(list.size(), Some(size));
            let (_, parts) = text.split_once("\"parts\":").unwrap();
            format!("{} {:?}", parts.trim_end_matches("}\n"), list.new_ranges())
        };
        let x = piece(9, 7);
        for (pieces, wants) in [
            (&[a, b, c][..], "[[60,0,0]] []"),
            (&[x, b, c, d], "[7,[50,0,10],[40,1,0]] [0..7]"),
            (&[a, x, x, c], "[[10,0,0],14,[30,0,30]] [10..24]"),
            (&[c, b], "[[30,0,30],[20,0,10]] []"),
            // the same hash with another size is another piece
            (&[piece(1, 11)], "[11] [0..11]"),
            (&[], "[] []"),
        ] {
            assert_eq!(list(pieces), wants);
        }
    }

    #[test]
    fn lists_that_name_what_is_not_there_are_wrong() {
        let wrong = |parts: &[ChunkPart]| {
            let list = PartList {
                bases: vec![Hash([1; 32])],
                parts: parts.to_vec(),
            };
            list.size().is_none()
        };
        assert!(!wrong(&[ChunkPart::Copy(SINGLE, 0, 0)]));
        for parts in [
            &[ChunkPart::Copy(1, 1, 0)][..],
            &[ChunkPart::Copy(0, 0, 0)],
            &[ChunkPart::New(0)],
            &[ChunkPart::Copy(1, 0, SINGLE)],
            &[ChunkPart::Copy(u64::MAX, 0, 1)],
            &[ChunkPart::Copy(2, 0, u64::MAX)],
            &[ChunkPart::New(SINGLE), ChunkPart::New(1)],
            &[ChunkPart::New(u64::MAX), ChunkPart::New(u64::MAX)],
        ] {
            assert!(wrong(parts), "{parts:?}");
        }
    }
}
