//! What a check of the store has found. It checks nothing itself.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::wire::files::Hash;

/// Findings that are told one by one, at most; the others are counted.
const MAX_FINDINGS: usize = 1000;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub files: u64,
    pub versions: u64,
    pub chunks: u64,
    /// Of all chunks.
    pub bytes: u64,
    /// In words; the first so many.
    pub damage: Vec<String>,
    /// Beyond those.
    pub more: u64,
    /// Files and versions whose content is lost or damaged; the first so many.
    pub lost: Vec<Lost>,
    #[serde(skip)]
    pub lost_chunks: BTreeSet<Hash>,
    /// Files among the chunks that nothing refers to: no damage, the hub removes them.
    pub orphans: Vec<String>,
}

/// A file or version whose content the hub does not have any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    pub name: String,
    pub rev: u64,
    /// Not a version that was replaced or deleted.
    pub is_current: bool,
    /// The first chunk of it that is lost, and why.
    pub chunk: Hash,
    pub why: String,
    /// Since when the hub asks its clients for it, and none has sent it; nothing if it does not ask yet.
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
