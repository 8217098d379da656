//! Reads content chunk by chunk, and opens each chunk when it is needed.
//!
//! There are no locks: chunks are kept for a day after the last revision that refers to them was removed, so the reader of a
//! removed revision can finish.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use redb::{Database, ReadTransaction, ReadableDatabase};
use sha2::{Digest, Sha256};

use super::chunks::ChunkDir;
use super::objects;
use super::short;
use crate::database::DbResult;
use crate::disk;
use crate::hub::store::ops::files::MAX_INLINE_BYTES;
use crate::wire::files::{Chunk, Hash};

/// The content of a revision, or a chunk, read from any position on. It stays readable if the revision is removed meanwhile.
pub struct ContentReader {
    // weak, so that a reader does not keep a closed store open
    db: Weak<RwLock<Option<Database>>>,
    dir: Arc<ChunkDir>,
    chunks: Vec<Chunk>,
    /// Where each chunk ends.
    ends: Vec<u64>,
    at: u64,
    /// The open chunk and its number.
    open: Option<(usize, Open)>,
}

enum Open {
    /// With the hash of the bytes read, if they were read from the beginning.
    File(File, Option<Sha256>),
    Inline(Vec<u8>),
}

impl ContentReader {
    pub(super) fn new(
        db: &Arc<RwLock<Option<Database>>>,
        dir: &Arc<ChunkDir>,
        chunks: Vec<Chunk>,
    ) -> ContentReader {
        let ends = chunks.iter().scan(0, |end, chunk| {
            *end += chunk.size;
            Some(*end)
        });
        ContentReader {
            db: Arc::downgrade(db),
            dir: Arc::clone(dir),
            ends: ends.collect(),
            chunks,
            at: 0,
            open: None,
        }
    }

    pub fn size(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Lost chunks in this range. Files are checked for existence and length only.
    pub fn lost(&self, bytes: &Range<u64>) -> Vec<Hash> {
        let begins_before = |(chunk, end): &(&Chunk, &u64)| **end - chunk.size < bytes.end;
        let ends_after = |(_, end): &(&Chunk, &u64)| **end > bytes.start;
        let chunks = self
            .chunks
            .iter()
            .zip(&self.ends)
            .filter(|at| begins_before(at) && ends_after(at));
        chunks
            .map(|(chunk, _)| *chunk)
            .filter(|chunk| self.is_lost(chunk))
            .map(|chunk| chunk.sha256)
            .collect()
    }

    fn is_lost(&self, chunk: &Chunk) -> bool {
        // a chunk without a file may be in the tables: those are read whole anyway
        let is_inline =
            || chunk.size <= MAX_INLINE_BYTES && !self.dir.place_of(chunk.sha256).exists();
        self.dir.wanted.has(chunk.sha256)
            || !is_inline() && !self.dir.is_there(chunk.sha256, chunk.size)
    }

    /// Continues with the byte at `to`.
    pub fn seek(&mut self, to: u64) {
        self.at = to;
        self.open = None;
    }

    /// Opens a chunk; one that is damaged or missing is recorded as lost.
    fn open(&self, chunk: &Chunk, skip: u64) -> io::Result<Open> {
        self.open_chunk(chunk, skip)
            .inspect_err(|e| self.dir.wanted.note_error(chunk.sha256, e))
    }

    fn open_chunk(&self, chunk: &Chunk, skip: u64) -> io::Result<Open> {
        if chunk.size <= MAX_INLINE_BYTES
            && let Some(bytes) = self.inline(chunk)?
        {
            return if Hash::of(&bytes) == chunk.sha256 {
                Ok(Open::Inline(bytes))
            } else {
                Err(other_bytes(chunk))
            };
        }
        let place = self.dir.place_of(chunk.sha256);
        let is_here = |at: &Path| at.metadata().is_ok_and(|meta| meta.len() == chunk.size);
        if let Some(source) = self.dir.source()
            && !is_here(&place)
            && let Some(name) = self.read(|tx| objects::name_of(tx, chunk.sha256))?
        {
            self.dir.fetch(source.as_ref(), &name)?;
        }
        match disk::open_regular(&place) {
            Ok(mut file) if file.metadata()?.len() == chunk.size => {
                file.seek(SeekFrom::Start(skip))?;
                Ok(Open::File(file, (skip == 0).then(Sha256::new)))
            }
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the chunk {} has another size", chunk.sha256),
            )),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the chunk {} is gone", chunk.sha256),
            )),
            Err(e) => Err(e),
        }
    }

    fn inline(&self, chunk: &Chunk) -> io::Result<Option<Vec<u8>>> {
        self.read(|tx| short::bytes_of(tx, chunk.sha256))
    }

    fn read<T>(&self, what: impl FnOnce(&ReadTransaction) -> DbResult<T>) -> io::Result<T> {
        let closed = || io::Error::other("the store is closed");
        let db = self.db.upgrade().ok_or_else(closed)?;
        let db = db.read().unwrap_or_else(PoisonError::into_inner);
        let read = || {
            what(
                &db.as_ref()
                    .ok_or(redb::Error::DatabaseClosed)?
                    .begin_read()?,
            )
        };
        read().map_err(|e| io::Error::other(e.to_string()))
    }
}

fn other_bytes(chunk: &Chunk) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the bytes of the chunk {} have another checksum",
            chunk.sha256
        ),
    )
}

impl Read for ContentReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // the chunk with the next byte
        let number = self.ends.partition_point(|end| *end <= self.at);
        let (Some(chunk), false) = (self.chunks.get(number), into.is_empty()) else {
            return Ok(0);
        };
        let skip = self.at + chunk.size - self.ends[number];
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, self.open(chunk, skip)?));
        }
        let n = match &mut self.open {
            Some((_, Open::File(file, hash))) => {
                let most = (chunk.size - skip).min(into.len() as u64) as usize;
                let n = file
                    .read(&mut into[..most])
                    .inspect_err(|e| self.dir.wanted.note_error(chunk.sha256, e))?;
                if let Some(hash) = hash {
                    hash.update(&into[..n]);
                }
                // withhold the last bytes if the checksum differs
                let ends = skip + n as u64 == chunk.size;
                if let Some(hash) = hash.take_if(|_| ends)
                    && Hash(hash.finalize().into()) != chunk.sha256
                {
                    self.dir
                        .damaged(chunk.sha256, "its bytes have another checksum");
                    return Err(other_bytes(chunk));
                }
                n
            }
            Some((_, Open::Inline(bytes))) => {
                let rest = bytes.get(skip as usize..).unwrap_or(&[]);
                let n = rest.len().min(into.len());
                into[..n].copy_from_slice(&rest[..n]);
                n
            }
            None => 0,
        };
        if n == 0 {
            self.dir.wanted.note(chunk.sha256, "it is too short");
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the chunk {} is too short", chunk.sha256),
            ));
        }
        self.at += n as u64;
        Ok(n)
    }
}
