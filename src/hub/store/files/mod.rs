//! Files in the store: records, revisions, versions, events and chunks.
//!
//! It knows no HTTP and starts no thread. Everything that changes a table goes through [`super::Store::apply`]; here is what
//! may be called from any thread beside it: taking bodies in, and reading.

pub mod ops;

use std::io::{self, Read};

use uuid::Uuid;

use super::Store;
use crate::chunking::Content;
use crate::error::Result;
use crate::wire::files::{Changes, Chunk, Event, Hash, Name, Record, Version};
use ops::Bytes;

/// Settings that decide what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Milliseconds for which replaced revisions are kept.
    pub version_ttl: u64,
}

/// Which files to list: sorted by path, then name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// A prefix of the directory; with a slash at its end that directory and what is below it.
    pub path: String,
    /// A part of the name.
    pub search: String,
    pub offset: usize,
    pub limit: usize,
    /// Directories and symbolic links too.
    pub all_kinds: bool,
}

/// A body on its way in: cut, hashed, and written to the staging directory as it comes, with little memory.
pub struct Intake {
    _private: (),
}

/// A body that is in: its chunks are synced. Dropped without being put: they go.
#[derive(Debug)]
pub struct Body {
    pub content: Content,
    /// One each of `content.chunks`.
    pub bytes: Vec<Bytes>,
}

/// The content of a revision, or a chunk; read in order from any place. It stays readable when the revision goes meanwhile.
pub struct Reader {
    _private: (),
}

impl Intake {
    /// Errors: no space is `io::ErrorKind::StorageFull`.
    pub fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
        todo!()
    }

    pub fn finish(self) -> io::Result<Body> {
        todo!()
    }
}

impl Reader {
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// The next byte read is this one.
    pub fn seek(&mut self, _to: u64) {
        todo!()
    }
}

impl Read for Reader {
    fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        todo!()
    }
}

impl Store {
    pub fn intake(&self) -> Result<Intake> {
        todo!()
    }

    /// Which of these chunks are neither in the store nor staged; each once.
    pub fn missing_chunks(&self, _chunks: &[Hash]) -> Result<Vec<Hash>> {
        todo!()
    }

    /// Takes one chunk in for a later commit: it is staged, not durable. `false`: the bytes have another hash.
    pub fn stage_chunk(&self, _hash: Hash, _body: &mut dyn Read, _length: u64) -> io::Result<bool> {
        todo!()
    }

    /// What is staged of these chunks, for a commit; what is not is to be known.
    pub fn staged(&self, _chunks: &[Chunk]) -> io::Result<Vec<Bytes>> {
        todo!()
    }

    pub fn chunk(&self, _hash: Hash) -> Result<Option<Reader>> {
        todo!()
    }

    /// A file by its id; deleted ones too, with `deleted_at`.
    pub fn file(&self, _id: Uuid) -> Result<Option<Record>> {
        todo!()
    }

    pub fn file_named(&self, _name: &Name) -> Result<Option<Record>> {
        todo!()
    }

    /// The chunks of a revision, the current one or an older that is kept; `None`: it is not there (any more).
    pub fn chunks_of(&self, _id: Uuid, _rev: Option<u64>) -> Result<Option<(Record, Vec<Chunk>)>> {
        todo!()
    }

    /// The content of a revision; `None`: it is not there (any more).
    pub fn open_file(&self, _id: Uuid, _rev: Option<u64>) -> Result<Option<(Record, Reader)>> {
        todo!()
    }

    /// A page of files that are not deleted, and how many there are in all.
    pub fn list(&self, _listing: &Listing) -> Result<(Vec<Record>, u64)> {
        todo!()
    }

    /// `None`: 410, tombstones after `after` have been dropped.
    pub fn changes(&self, _after: u64, _began: Option<u64>, _limit: usize) -> Result<Option<Changes>> {
        todo!()
    }

    /// Events after a revision, in order, at most `limit`; `None`: some of them are not kept any more.
    pub fn events_after(&self, _after: u64, _limit: usize) -> Result<Option<Vec<(u64, Event)>>> {
        todo!()
    }

    /// Events since a time (wall clock, ms) of one kind (`created`, `updated`, `deleted`) or all, newest last.
    pub fn history(&self, _since: u64, _kind: Option<&str>, _offset: usize, _limit: usize) -> Result<Vec<Event>> {
        todo!()
    }

    /// What was replaced under this id, newest first.
    pub fn versions(&self, _id: Uuid) -> Result<Vec<Version>> {
        todo!()
    }

    /// The latest revision.
    pub fn rev(&self) -> Result<u64> {
        todo!()
    }
}
