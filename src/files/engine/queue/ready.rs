//! Paths of one precedence and direction that were examined and wait to be carried out, and how much content they have.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::GROUP_BYTES;
use crate::wire::files::BATCH_FILE;

#[derive(Debug, Default)]
pub(super) struct ReadyPaths {
    /// The bytes of content that travel for each path.
    paths: BTreeMap<Arc<str>, u64>,
    bytes: u64,
    long_files: usize,
}

impl ReadyPaths {
    pub(super) fn insert(&mut self, path: Arc<str>, bytes: u64) {
        self.remove(&path);
        self.bytes += bytes;
        self.long_files += usize::from(is_long(bytes));
        self.paths.insert(path, bytes);
    }

    pub(super) fn remove(&mut self, path: &str) {
        if let Some(bytes) = self.paths.remove(path) {
            self.bytes -= bytes;
            self.long_files -= usize::from(is_long(bytes));
        }
    }

    /// In the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.paths.iter().map(|(path, bytes)| (path, *bytes))
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether they make a group of so many paths, a full one, or one of a long file.
    pub(super) fn are_worth_a_group(&self, least: usize) -> bool {
        self.len() >= least || self.bytes >= GROUP_BYTES || self.long_files > 0
    }
}

/// Whether a content is a group of its own.
pub(super) fn is_long(bytes: u64) -> bool {
    bytes > BATCH_FILE
}
