//! Where a hub without a disk of its own has the bytes of chunks.

use std::io;

use crate::hub::store::chunk_name::ChunkName;

/// Where chunks are that have no file here: the directory is then only a cache of them.
pub trait ChunkSource: Send + Sync {
    /// The bytes of an object. `NotFound`: it is gone.
    fn fetch(&self, name: &ChunkName) -> io::Result<Vec<u8>>;
}
