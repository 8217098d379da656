//! A file in the staging directory with a count of its users. It writes and syncs nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::chunk_name::ChunkName;

/// A synced file in the staging directory. Dropping the last reference removes it unless it was moved to its place.
#[derive(Clone)]
pub struct StagedChunk(Arc<StagedPath>);

struct StagedPath {
    path: PathBuf,
    /// The file is a chunk for a later commit, which may use it even if this one does not.
    stays: bool,
    moved: AtomicBool,
    /// The object with the same bytes, once it was put.
    object: OnceLock<ChunkName>,
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if !self.stays && !*self.moved.get_mut() {
            // a remaining file is removed at the next start
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl StagedChunk {
    pub fn new(path: PathBuf, stays: bool) -> StagedChunk {
        StagedChunk(Arc::new(StagedPath {
            path,
            stays,
            moved: AtomicBool::new(false),
            object: OnceLock::new(),
        }))
    }

    /// The file is a chunk for a later commit.
    pub fn stays(&self) -> bool {
        self.0.stays
    }

    pub fn has_moved(&self) -> bool {
        self.0.moved.load(Relaxed)
    }

    /// The file has left the staging directory.
    pub fn set_moved(&self) {
        self.0.moved.store(true, Relaxed);
    }

    /// The object with the same bytes; `None`: it was not put yet, or there are none.
    pub fn object(&self) -> Option<&ChunkName> {
        self.0.object.get()
    }

    /// The bytes are an object now.
    pub fn set_object(&self, name: ChunkName) {
        let _ = self.0.object.set(name);
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl std::fmt::Debug for StagedChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staged({})", self.0.path.display())
    }
}

impl PartialEq for StagedChunk {
    fn eq(&self, other: &StagedChunk) -> bool {
        self.0.path == other.0.path
    }
}

impl Eq for StagedChunk {}
