//! A file in the staging directory, counted by its users. It writes and syncs nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A file in the staging directory, synced; dropping the last of these removes it unless it was moved to its place.
#[derive(Clone)]
pub struct Staged(Arc<StagedPath>);

struct StagedPath {
    path: PathBuf,
    /// It was uploaded as a chunk for a later commit, which may use it when this one does not.
    stays: bool,
    moved: AtomicBool,
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if !self.stays && !*self.moved.get_mut() {
            // one that stays behind is removed at the next start
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Staged {
    pub fn new(path: PathBuf, stays: bool) -> Staged {
        Staged(Arc::new(StagedPath {
            path,
            stays,
            moved: AtomicBool::new(false),
        }))
    }

    /// It was uploaded as a chunk for a later commit.
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

    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staged({})", self.0.path.display())
    }
}

impl PartialEq for Staged {
    fn eq(&self, other: &Staged) -> bool {
        self.0.path == other.0.path
    }
}

impl Eq for Staged {}
