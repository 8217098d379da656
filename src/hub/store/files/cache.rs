//! The directory of chunks as a cache of the objects of a bucket: what it lacks is fetched.
//!
//! It does not know where the objects are, and decides nothing about them.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use super::chunk_source::ChunkSource;
use super::chunks::ChunkDir;
use crate::disk;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::staged::StagedChunk;
use crate::wire::files::Hash;

impl ChunkDir {
    /// From now on the directory is a cache: what it lacks is fetched from there.
    pub fn set_source(&self, source: Arc<dyn ChunkSource>) {
        let _ = self.source.set(source);
    }

    pub fn source(&self) -> Option<&Arc<dyn ChunkSource>> {
        self.source.get()
    }

    /// Fetches a chunk, verifies it and keeps it. Not synced: what a crash damages is fetched again.
    pub fn fetch(&self, source: &dyn ChunkSource, name: &ChunkName) -> io::Result<()> {
        let bytes = source.fetch(name)?;
        if Hash::of(&bytes) != name.hash {
            let what = format!("the object {name} has other bytes than its name says");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let (mut file, staged) = self.create()?;
        file.write_all(&bytes)?;
        self.cache(&staged, name.hash)
    }

    /// Moves a file to its place in the cache.
    pub fn cache(&self, staged: &StagedChunk, hash: Hash) -> io::Result<()> {
        let to = self.place_of(hash);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(disk::parent(&to))?;
        disk::rename(staged.path(), &to)?;
        self.left(staged);
        Ok(())
    }

    /// A reader has found that the file of a chunk is damaged: in a cache it is removed, otherwise the chunk is recorded as lost.
    pub fn damaged(&self, hash: Hash, why: &str) {
        if self.source.get().is_some() {
            self.remove([&hash]);
        } else {
            self.wanted.note(hash, why);
        }
    }
}
