//! The findings of a check of the store. It checks nothing itself.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::wire::files::Hash;

/// Findings that are listed at most; the others are counted.
const MAX_FINDINGS: usize = 1000;

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub files: u64,
    pub versions: u64,
    pub chunks: u64,
    /// Of all chunks.
    pub bytes: u64,
    /// In words; the first [`MAX_FINDINGS`].
    pub damage: Vec<String>,
    /// The number of further ones.
    pub more: u64,
    /// Files and versions whose content is lost or damaged; the first [`MAX_FINDINGS`].
    pub lost: Vec<Lost>,
    #[serde(skip)]
    pub lost_chunks: BTreeSet<Hash>,
    /// Chunk files without a reference: no damage, the hub removes them.
    pub orphans: Vec<String>,
}

/// A file or version whose content the hub has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    pub name: String,
    pub rev: u64,
    /// False for a version that was replaced or deleted.
    pub is_current: bool,
    /// Its first lost chunk, and why that is lost.
    pub chunk: Hash,
    pub why: String,
    /// Since when the hub has asked its clients for it; `None`: it does not ask yet.
    pub wanted_since: Option<String>,
}

impl Findings {
    pub fn lost(&mut self, lost: Lost) {
        if self.lost.len() < MAX_FINDINGS {
            self.lost.push(lost);
        }
    }

    pub fn damaged(&mut self, what: impl Into<String>) {
        if self.damage.len() < MAX_FINDINGS {
            self.damage.push(what.into())
        } else {
            self.more += 1
        }
    }

    pub fn orphan(&mut self, path: &Path) {
        if self.orphans.len() < MAX_FINDINGS {
            self.orphans.push(path.display().to_string());
        }
    }
}
