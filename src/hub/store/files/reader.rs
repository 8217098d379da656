//! Reading content: chunk after chunk, each opened when it is its turn.
//!
//! Nothing is locked: chunks stay a day after the last revision that refers to them has gone, so who reads one that goes
//! meanwhile comes to its end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use redb::{Database, ReadableDatabase};

use super::chunks::ChunkDir;
use super::tables::{CHUNKS, INLINE};
use crate::disk;
use crate::wire::files::Chunk;

/// The content of a revision, or a chunk; read in order from any place. It stays readable when the revision goes meanwhile.
pub struct Reader {
    // who still reads does not keep a closed store open
    db: Weak<RwLock<Option<Database>>>,
    dir: Arc<ChunkDir>,
    chunks: Vec<Chunk>,
    /// Where each chunk ends.
    ends: Vec<u64>,
    at: u64,
    /// The chunk at hand, and its number.
    open: Option<(usize, Open)>,
}

enum Open {
    File(File),
    Inline(Vec<u8>),
}

impl Reader {
    pub(super) fn new(db: &Arc<RwLock<Option<Database>>>, dir: &Arc<ChunkDir>, chunks: Vec<Chunk>) -> Reader {
        let ends = chunks.iter().scan(0, |end, chunk| {
            *end += chunk.size;
            Some(*end)
        });
        Reader { db: Arc::downgrade(db), dir: Arc::clone(dir), ends: ends.collect(), chunks, at: 0, open: None }
    }

    pub fn size(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The next byte read is this one.
    pub fn seek(&mut self, to: u64) {
        self.at = to;
        self.open = None;
    }

    fn open(&self, chunk: &Chunk, skip: u64) -> io::Result<Open> {
        let place = self.dir.place_of(chunk.sha256);
        match disk::open_regular(&place) {
            Ok(mut file) if file.metadata()?.len() == chunk.size => {
                file.seek(SeekFrom::Start(skip))?;
                Ok(Open::File(file))
            }
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the chunk {} has another size", chunk.sha256))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => match self.inline(chunk)? {
                Some(bytes) if bytes.len() as u64 == chunk.size => Ok(Open::Inline(bytes)),
                _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("the chunk {} is gone", chunk.sha256))),
            },
            Err(e) => Err(e),
        }
    }

    fn inline(&self, chunk: &Chunk) -> io::Result<Option<Vec<u8>>> {
        let closed = || io::Error::other("the store is closed");
        let db = self.db.upgrade().ok_or_else(closed)?;
        let db = db.read().unwrap_or_else(PoisonError::into_inner);
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let tx = db.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?;
            match tx.open_table(CHUNKS)?.get(&chunk.sha256.0)?.is_some() {
                true => Ok(tx.open_table(INLINE)?.get(&chunk.sha256.0)?.map(|bytes| bytes.value().to_vec())),
                false => Ok(None),
            }
        };
        read().map_err(|e| io::Error::other(e.to_string()))
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // the chunk in which the next byte is
        let number = self.ends.partition_point(|end| *end <= self.at);
        let (Some(chunk), false) = (self.chunks.get(number), into.is_empty()) else { return Ok(0) };
        let skip = self.at + chunk.size - self.ends[number];
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, self.open(chunk, skip)?));
        }
        let n = match &mut self.open {
            Some((_, Open::File(file))) => file.read(into)?,
            Some((_, Open::Inline(bytes))) => {
                let rest = bytes.get(skip as usize..).unwrap_or(&[]);
                let n = rest.len().min(into.len());
                into[..n].copy_from_slice(&rest[..n]);
                n
            }
            None => 0,
        };
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the chunk {} is too short", chunk.sha256)));
        }
        self.at += n as u64;
        Ok(n)
    }
}
