//! What can be asked of the store about files, as plain data, and what becomes of it.
//!
//! Pure, like all operations: every input is in them, so the same groups give the same tables.

use uuid::Uuid;

use crate::hub::store::staged::Staged;
use crate::wire::files::{Chunk, Extra, From, Hash, Kind, Name, Record};
use crate::wire::revision::Revision;

/// A chunk that is not longer is kept in the tables.
pub const MAX_INLINE_BYTES: u64 = 16 * 1024;

/// Settings of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Milliseconds for which replaced revisions are kept.
    pub version_ttl: u64,
}

/// The condition on the current revision; if it is not met, nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The last writer wins; what it replaces becomes a version.
    None,
    /// `If-Match: "<rev>-<tag>"`, or `"<rev>"`: then a row with any tag will do.
    Match(Revision),
    /// `If-None-Match: *`: nothing, or something deleted.
    Absent,
}

/// Who changes something, and under which idempotency key: the same key of the same caller again does nothing and gets the
/// same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The host as which the caller acts; `admin` if it does not say.
    pub host: String,
    pub key: Option<Uuid>,
    /// The latest revision that the caller has heard of, if it says: the change is for a hub that has this history.
    pub knows: Revision,
}

/// Where a chunk's bytes are before the operation: all of it is on the disk, synced, or in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    /// Short: kept in the tables.
    Inline(Vec<u8>),
    /// In a file of the staging directory that is synced; moved to its place when the operation is applied.
    Staged(Staged),
    /// The store is to have it already.
    Known,
    /// The store does not have it, or has lost it.
    Lost,
}

/// The new content of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub name: Name,
    pub kind: Kind,
    pub size: u64,
    pub sha256: Hash,
    /// In order; together `size` bytes.
    pub chunks: Vec<(Chunk, Bytes)>,
    pub mode: Option<u32>,
    /// RFC 3339, checked.
    pub mtime: Option<String>,
    pub content_type: Option<String>,
    pub extra: Extra,
    pub condition: Condition,
    pub from: Option<From>,
    pub author: Author,
    /// The id of the file, should the name be new.
    pub fresh: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOp {
    /// The files of one request, in order; each succeeds or fails alone.
    Put(Vec<Put>),
    Delete {
        id: Uuid,
        condition: Condition,
        author: Author,
    },
    /// A replaced revision becomes current again, as a new one. `None`: the one that was replaced last.
    Restore {
        id: Uuid,
        rev: Option<u64>,
        condition: Condition,
        author: Author,
    },
    /// What did this key of this host do? One that did nothing yet is burnt.
    Ask {
        host: String,
        key: Uuid,
        knows: Revision,
    },
    /// These chunks were found to be lost.
    Want(Vec<Hash>),
    /// Bytes for chunks that were lost.
    Mend(Vec<(Chunk, Bytes)>),
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// 201; `renamed`: the tombstone of the old name.
    Created {
        record: Box<Record>,
        renamed: Option<Box<Record>>,
    },
    /// 200.
    Updated {
        record: Box<Record>,
        renamed: Option<Box<Record>>,
    },
    /// 204 for an upload: the current record is already as requested.
    Unchanged(Box<Record>),
    /// The tombstone.
    Deleted(Box<Record>),
    /// 412: the current record.
    Precondition(Option<Box<Record>>),
    /// 409: these chunks are not there.
    Missing(Vec<Hash>),
    /// 404.
    NoSuchFile,
    /// 404: no such revision is kept.
    NoSuchVersion,
    /// 409: the key was asked about before it came, and was told that it will do nothing.
    Burnt,
    /// 410: the hub does not have the history that the caller has heard of.
    OtherHistory,
    /// 507.
    DiskFull,
}

impl Changed {
    /// Something is other than it was before.
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            Changed::Created { .. } | Changed::Updated { .. } | Changed::Deleted(_)
        )
    }
}

/// The answer to [`FileOp::Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub done: bool,
    pub made: Vec<Record>,
    pub current: Vec<Record>,
}
