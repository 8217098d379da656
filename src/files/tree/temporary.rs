//! Temporary names beside the final ones, in directories that stay open until the name is placed.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::opened::KeepOpen;
use super::root::split;

/// Staged names whose directories are kept open; the next start removes files left behind beyond that.
const MAX_STAGED: usize = 64;

/// A temporary name in the open directory of its final name.
pub struct TemporaryName {
    pub parent: OwnedFd,
    /// The whole name, relative to the root.
    pub temp: String,
    pub _open: Option<KeepOpen>,
}

impl TemporaryName {
    pub fn name(&self) -> &str {
        split(&self.temp).1
    }
}

/// The open directories of staged names: a directory that was moved meanwhile has another name, or none below the
/// root.
#[derive(Debug, Default, Clone)]
pub struct TemporaryDirs(Arc<Mutex<HashMap<String, OwnedFd>>>);

impl TemporaryDirs {
    pub fn put(&self, temp: &str, parent: &OwnedFd) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (true, Ok(parent)) = (all.len() < MAX_STAGED, parent.try_clone()) {
            all.insert(temp.to_string(), parent);
        }
    }

    pub fn get(&self, temp: &str) -> Option<OwnedFd> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(temp)?.try_clone().ok()
    }

    pub fn take(&self, temp: &str) -> Option<OwnedFd> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(temp)
    }
}
