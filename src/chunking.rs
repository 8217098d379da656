//! Cuts a long file into chunks at places that depend on its content, so that an insertion moves
//! only the cuts beside it. Client and hub use the same parameters, so equal bytes give equal
//! chunks everywhere.
//!
//! Pure: it sees bytes once, keeps none of them, and knows neither files nor the hub. The algorithm
//! is FastCDC with normalized chunking (Xia et al., "FastCDC: a Fast and Efficient Content-Defined
//! Chunking Approach for Data Deduplication", USENIX ATC 2016), fed piece by piece: the published
//! crates need a whole chunk in memory, 8 MiB for each transfer.

use std::io::{self, Read};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::wire::files::{Chunk, Hash, SINGLE};

/// The size of a chunk: minimum (except for the last one), average, maximum.
pub const MIN_CHUNK_BYTES: u64 = 256 * 1024;
pub const AVERAGE_CHUNK_BYTES: u64 = 1024 * 1024;
pub const MAX_CHUNK_BYTES: u64 = 8 * 1024 * 1024;

/// One random number for each byte value. A change here would cut every file elsewhere.
static GEAR: [u64; 256] = gear();

/// The first 256 numbers of splitmix64 from 0 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const fn gear() -> [u64; 256] {
    let (mut table, mut state, mut i) = ([0; 256], 0u64, 0);
    while i < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[i] = z ^ (z >> 31);
        i += 1;
    }
    table
}

/// The size of a piece of a chunk, likewise. Two machines that cut pieces otherwise find no equal ones, and send whole chunks.
pub const MIN_PIECE_BYTES: u64 = 4 * 1024;
pub const AVERAGE_PIECE_BYTES: u64 = 16 * 1024;
pub const MAX_PIECE_BYTES: u64 = 64 * 1024;
/// Bytes of one read.
const READ_BUFFER_BYTES: usize = 64 * 1024;

type ChunkCutter = Cutter<MIN_CHUNK_BYTES, AVERAGE_CHUNK_BYTES, MAX_CHUNK_BYTES>;
type PieceCutter = Cutter<MIN_PIECE_BYTES, AVERAGE_PIECE_BYTES, MAX_PIECE_BYTES>;

/// Finds the end of one chunk, or piece, after another.
#[derive(Debug, Default)]
struct Cutter<const MIN_BYTES: u64, const AVERAGE_BYTES: u64, const MAX_BYTES: u64> {
    /// The length so far of the current chunk.
    length: u64,
    hash: u64,
}

impl<const MIN_BYTES: u64, const AVERAGE_BYTES: u64, const MAX_BYTES: u64>
    Cutter<MIN_BYTES, AVERAGE_BYTES, MAX_BYTES>
{
    /// A cut is where this many of the upper bits are zero: before the average more are required, after
    /// it fewer (section 3.3, level 2).
    const HARD: u32 = AVERAGE_BYTES.ilog2() + 2;
    const EASY: u32 = AVERAGE_BYTES.ilog2() - 2;

    /// How many of these bytes belong to the current chunk, if it ends among them; `None`: all, and
    /// it continues.
    fn cut(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = self.room(MIN_BYTES, bytes);
        self.length += at as u64;
        while at < bytes.len() {
            let (end, bits) = if self.length + 1 < AVERAGE_BYTES {
                (AVERAGE_BYTES - 1, Self::HARD)
            } else {
                (MAX_BYTES, Self::EASY)
            };
            let stretch = &bytes[at..][..self.room(end, &bytes[at..])];
            let cut = self.find_cut(stretch, bits);
            let taken = cut.unwrap_or(stretch.len());
            at += taken;
            self.length += taken as u64;
            if cut.is_some() || self.length == MAX_BYTES {
                *self = Cutter::default();
                return Some(at);
            }
        }
        None
    }

    /// How many of these bytes the chunk takes until it is so long.
    fn room(&self, length: u64, bytes: &[u8]) -> usize {
        length.saturating_sub(self.length).min(bytes.len() as u64) as usize
    }

    /// The end of the first byte after which this many upper bits are zero. All bytes of a long file pass through this loop.
    fn find_cut(&mut self, bytes: &[u8], bits: u32) -> Option<usize> {
        let (mut hash, below) = (self.hash, 1 << (u64::BITS - bits));
        for (i, byte) in bytes.iter().enumerate() {
            hash = (hash << 1).wrapping_add(GEAR[*byte as usize]);
            if hash < below {
                return Some(i + 1);
            }
        }
        self.hash = hash;
        None
    }
}

/// The chunks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    pub sha256: Hash,
    /// None for an empty file, one for up to [`SINGLE`] bytes.
    pub chunks: Vec<Chunk>,
}

/// The chunk that a long run of zero bytes consists of.
pub fn zero_chunk() -> Chunk {
    static ZERO: OnceLock<Chunk> = OnceLock::new();
    *ZERO.get_or_init(|| {
        // not on the stack: threads that transfer files have little
        let (mut splitter, zeros) = (Splitter::default(), vec![0; 64 * 1024]);
        loop {
            if let (_, Some(chunk)) = splitter.take(&mut &zeros[..]) {
                return chunk;
            }
        }
    })
}

/// The disk space that chunks need if long runs of zeros become holes.
pub fn filled(chunks: &[Chunk]) -> u64 {
    chunks
        .iter()
        .filter(|chunk| **chunk != zero_chunk())
        .map(|chunk| chunk.size)
        .sum()
}

/// Takes the bytes of a file in order, reports where chunks end, and hashes each chunk and the
/// whole file.
#[derive(Debug, Default)]
pub struct Splitter {
    cutter: ChunkCutter,
    chunk: Sha256,
    length: u64,
    whole: Sha256,
    size: u64,
    chunks: Vec<Chunk>,
}

impl Splitter {
    /// Takes bytes from the front of `bytes` up to the end of the chunk, or all of them: returns
    /// them, and the chunk if it has ended. At the end, a file of up to [`SINGLE`] bytes is one
    /// chunk, whatever was returned here.
    pub fn take<'a>(&mut self, bytes: &mut &'a [u8]) -> (&'a [u8], Option<Chunk>) {
        let end = self.cutter.cut(bytes);
        let (piece, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        *bytes = rest;
        self.whole.update(piece);
        self.chunk.update(piece);
        self.length += piece.len() as u64;
        self.size += piece.len() as u64;
        (piece, end.and_then(|_| self.close()))
    }

    /// For readers without a lock.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.take(&mut bytes);
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn finish(mut self) -> Content {
        self.close();
        let (size, sha256) = (self.size, Hash(self.whole.finalize().into()));
        let chunks = match size {
            0 => Vec::new(),
            1..=SINGLE => vec![Chunk { sha256, size }],
            _ => self.chunks,
        };
        Content {
            size,
            sha256,
            chunks,
        }
    }

    fn close(&mut self) -> Option<Chunk> {
        let size = std::mem::take(&mut self.length);
        let chunk = Chunk {
            sha256: Hash(self.chunk.finalize_reset().into()),
            size,
        };
        (size > 0).then(|| self.chunks.push(chunk)).map(|()| chunk)
    }
}

/// The pieces of all that a reader gives.
pub fn pieces(mut reader: impl Read) -> io::Result<Vec<Chunk>> {
    let (mut splitter, mut pieces) = (PieceSplitter::default(), Vec::new());
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            n => splitter.feed(&buffer[..n], &mut pieces),
        }
    }
    pieces.extend(splitter.finish());
    Ok(pieces)
}

/// Cuts a chunk, or a part of a file, into pieces, and hashes each.
#[derive(Debug, Default)]
pub struct PieceSplitter {
    cutter: PieceCutter,
    hash: Sha256,
    length: u64,
}

impl PieceSplitter {
    /// Takes the next bytes; adds the pieces that end among them.
    pub fn feed(&mut self, mut bytes: &[u8], pieces: &mut Vec<Chunk>) {
        while !bytes.is_empty() {
            let end = self.cutter.cut(bytes);
            let (piece, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            bytes = rest;
            self.hash.update(piece);
            self.length += piece.len() as u64;
            if end.is_some() {
                pieces.extend(self.close());
            }
        }
    }

    /// The last piece.
    pub fn finish(mut self) -> Option<Chunk> {
        self.close()
    }

    fn close(&mut self) -> Option<Chunk> {
        let size = std::mem::take(&mut self.length);
        let sha256 = Hash(self.hash.finalize_reset().into());
        (size > 0).then_some(Chunk { sha256, size })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes that look random and are the same everywhere.
    pub(crate) fn noise(mut seed: u64, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            out.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
        }
        out.truncate(length);
        out
    }

    fn split(bytes: &[u8], piece: usize) -> Content {
        let mut splitter = Splitter::default();
        bytes.chunks(piece).for_each(|p| splitter.feed(p));
        splitter.finish()
    }

    #[test]
    fn a_hole_is_cut_into_chunks_that_take_no_room() {
        let mut splitter = Splitter::default();
        let (mut chunks, hole) = (Vec::new(), vec![0; 1 << 20]);
        let data: Vec<u8> = (0..3_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for piece in std::iter::repeat_n(&hole[..], 100)
            .chain([&data[..]])
            .chain(std::iter::repeat_n(&hole[..], 100))
        {
            let mut rest = piece;
            while !rest.is_empty() {
                chunks.extend(splitter.take(&mut rest).1);
            }
        }
        let content = splitter.finish();
        assert_eq!(content.size, (200 << 20) + 3_000_000);
        let filled = filled(&content.chunks);
        assert!(
            (3_000_000..=3_000_000 + 3 * MAX_CHUNK_BYTES).contains(&filled),
            "{filled}"
        );
    }

    #[test]
    fn short_files_are_one_chunk_and_empty_ones_none() {
        assert_eq!(
            split(b"", 1),
            Content {
                size: 0,
                sha256: Hash::of(b""),
                chunks: vec![]
            }
        );
        for length in [1, 300_000, SINGLE as usize] {
            let bytes = noise(1, length);
            let chunk = Chunk {
                sha256: Hash::of(&bytes),
                size: length as u64,
            };
            assert_eq!(split(&bytes, 65_536).chunks, [chunk], "{length}");
        }
    }

    #[test]
    fn cuts_depend_on_the_bytes_only() {
        let bytes = noise(2, 12 << 20);
        let content = split(&bytes, 65_536);
        assert_eq!(content, split(&bytes, 1_000_003));
        let mut at = 0;
        for (i, chunk) in content.chunks.iter().enumerate() {
            let end = at + chunk.size as usize;
            assert_eq!(chunk.sha256, Hash::of(&bytes[at..end]));
            assert!(
                chunk.size <= MAX_CHUNK_BYTES
                    && (chunk.size > MIN_CHUNK_BYTES || i + 1 == content.chunks.len()),
                "{chunk:?}"
            );
            at = end;
        }
        assert_eq!((at, content.sha256), (bytes.len(), Hash::of(&bytes)));
        assert!(
            (6..30).contains(&content.chunks.len()),
            "{} chunks",
            content.chunks.len()
        );
        // written out, because both ends of a connection and all versions must agree
        assert_eq!(
            content
                .chunks
                .iter()
                .map(|c| c.size)
                .take(3)
                .collect::<Vec<_>>(),
            [975_174, 1_101_702, 1_060_307]
        );
    }

    fn pieces(bytes: &[u8], fed: usize) -> Vec<Chunk> {
        let (mut splitter, mut pieces) = (PieceSplitter::default(), Vec::new());
        bytes
            .chunks(fed)
            .for_each(|bytes| splitter.feed(bytes, &mut pieces));
        pieces.extend(splitter.finish());
        pieces
    }

    #[test]
    fn pieces_are_cut_like_chunks_and_a_change_costs_few_of_them() {
        let bytes = noise(2, 1 << 20);
        let all = pieces(&bytes, 65_536);
        assert_eq!(all, pieces(&bytes, 4097));
        assert!(pieces(b"", 1).is_empty());
        let mut at = 0;
        for (i, piece) in all.iter().enumerate() {
            let end = at + piece.size as usize;
            assert_eq!(piece.sha256, Hash::of(&bytes[at..end]));
            assert!(piece.size <= MAX_PIECE_BYTES, "{piece:?}");
            assert!(piece.size > MIN_PIECE_BYTES || i + 1 == all.len());
            at = end;
        }
        assert_eq!(at, bytes.len());
        // written out, because both ends of a connection and all versions should agree
        let sizes: Vec<u64> = all.iter().map(|piece| piece.size).take(3).collect();
        assert_eq!(sizes, [17_180, 5_165, 22_913]);
        let mut changed = bytes.clone();
        changed.splice(500_000..500_001, noise(3, 100));
        let new = pieces(&changed, 65_536);
        let new = new.iter().filter(|piece| !all.contains(piece)).count();
        assert!((1..=3).contains(&new), "{new} new pieces");
    }

    #[test]
    fn monotonous_files_are_cut_at_the_most() {
        let sizes: Vec<u64> = split(&vec![0; 12 << 20], 65_536)
            .chunks
            .iter()
            .map(|c| c.size)
            .collect();
        assert_eq!(sizes, [MAX_CHUNK_BYTES, 4 << 20]);
    }

    #[test]
    fn an_insertion_moves_the_cuts_beside_it_only() {
        let before = noise(3, 16 << 20);
        let mut after = before.clone();
        after.splice(10_000_000..10_000_000, noise(4, 1000));
        let (before, after) = (split(&before, 65_536).chunks, split(&after, 65_536).chunks);
        let new = after.iter().filter(|c| !before.contains(c)).count();
        assert!(
            (1..=3).contains(&new),
            "{new} of {} chunks are new",
            after.len()
        );
    }
}
