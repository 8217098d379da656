//! The operations of the store on files, and their outcomes, as plain data.
//!
//! Pure, like all operations: they contain every input, so the same groups give the same tables.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::hub::store::staged::StagedChunk;
use crate::wire::files::{Chunk, EntryKind, ExtraMetadata, Hash, Name, OldName, Record};
use crate::wire::revision::{Condition, Revision};

/// Bytes of a chunk that is kept in the tables; longer ones are files.
pub const MAX_INLINE_BYTES: u64 = 16 * 1024;

/// Settings of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileLimits {
    /// Milliseconds for which replaced revisions are kept.
    pub version_ttl: u64,
}

/// The caller of a change and its idempotency key: a repetition with the same key changes nothing and gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Author {
    /// The host that the caller acts for; `admin` if it names none.
    pub host: String,
    pub key: Option<Uuid>,
    /// The latest revision that the caller knows, if it says: a hub without that history refuses the change.
    pub knows: Revision,
}

/// Where a chunk's bytes are before the operation: on the disk and synced, or in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    /// A short chunk, to be stored in the tables.
    Inline(Vec<u8>),
    /// A synced file of the staging directory, to be moved to its place when the operation is applied.
    Staged(StagedChunk),
    /// The store should have it already.
    Known,
    /// The store has never had it, or has lost it.
    Lost,
}

/// In an entry of the shared log: the length of short bytes, which follow the operations; null or false without bytes.
impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Bytes::Inline(bytes) => s.serialize_u64(bytes.len() as u64),
            // a staged file is an object of the store by then, which the entry names
            Bytes::Staged(_) | Bytes::Known => s.serialize_none(),
            Bytes::Lost => s.serialize_bool(false),
        }
    }
}

/// Short bytes are zeros at first.
impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum BytesRow {
            Inline(u64),
            Lost(bool),
            Known(()),
        }
        match BytesRow::deserialize(d)? {
            BytesRow::Inline(length @ ..=MAX_INLINE_BYTES) => {
                Ok(Bytes::Inline(vec![0; length as usize]))
            }
            BytesRow::Lost(false) => Ok(Bytes::Lost),
            BytesRow::Known(()) => Ok(Bytes::Known),
            _ => Err(serde::de::Error::custom("these are no bytes of a chunk")),
        }
    }
}

/// The new content of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    pub name: Name,
    pub kind: EntryKind,
    pub size: u64,
    pub sha256: Hash,
    /// In order; `size` bytes in total.
    pub chunks: Vec<(Chunk, Bytes)>,
    pub mode: Option<u32>,
    /// RFC 3339, checked.
    pub mtime: Option<String>,
    pub content_type: Option<String>,
    pub extra: ExtraMetadata,
    pub condition: Condition,
    pub from: Option<OldName>,
    pub author: Author,
    /// The id of the file if the name is new.
    pub fresh: Uuid,
}

/// One change of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FileChange {
    Put(Box<Put>),
    Delete {
        id: Uuid,
        condition: Condition,
        author: Author,
    },
}

impl FileChange {
    /// The chunks of the new content, with their bytes.
    pub fn chunks(&self) -> &[(Chunk, Bytes)] {
        match self {
            FileChange::Put(put) => &put.chunks,
            FileChange::Delete { .. } => &[],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FileOp {
    /// The changes of one request, in order; each succeeds or fails alone.
    Change(Vec<FileChange>),
    /// Makes a replaced revision current again, as a new one. `None`: the one that was replaced last.
    Restore {
        id: Uuid,
        rev: Option<u64>,
        condition: Condition,
        author: Author,
    },
    /// Asks what this key of this host did. A key that did nothing yet becomes void.
    Ask {
        host: String,
        key: Uuid,
        knows: Revision,
    },
    /// Records that these chunks are lost.
    Want(Vec<Hash>),
    /// Supplies bytes for lost chunks.
    Mend(Vec<(Chunk, Bytes)>),
}

impl FileOp {
    /// The chunks that the operation names, with their bytes.
    pub fn chunks(&self) -> impl Iterator<Item = &(Chunk, Bytes)> {
        let (changes, mended): (&[FileChange], &[_]) = match self {
            FileOp::Change(changes) => (changes, &[]),
            FileOp::Mend(chunks) => (&[], chunks),
            _ => (&[], &[]),
        };
        changes.iter().flat_map(FileChange::chunks).chain(mended)
    }

    pub fn chunks_mut(&mut self) -> impl Iterator<Item = &mut (Chunk, Bytes)> {
        let (changes, mended): (&mut [FileChange], &mut [_]) = match self {
            FileOp::Change(changes) => (changes, &mut []),
            FileOp::Mend(chunks) => (&mut [], chunks),
            _ => (&mut [], &mut []),
        };
        changes
            .iter_mut()
            .flat_map(|change| match change {
                FileChange::Put(put) => put.chunks.iter_mut(),
                FileChange::Delete { .. } => [].iter_mut(),
            })
            .chain(mended)
    }

    pub fn put(all: impl IntoIterator<Item = Put>) -> FileOp {
        FileOp::Change(
            all.into_iter()
                .map(|put| FileChange::Put(Box::new(put)))
                .collect(),
        )
    }

    pub fn delete(id: Uuid, condition: Condition, author: Author) -> FileOp {
        FileOp::Change(vec![FileChange::Delete {
            id,
            condition,
            author,
        }])
    }
}

/// The outcome for one file.
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
    /// 204 for an upload: the current record equals the requested one.
    Unchanged(Box<Record>),
    /// The tombstone.
    Deleted(Box<Record>),
    /// 412, with the current record.
    Precondition(Option<Box<Record>>),
    /// 409: these chunks are missing.
    Missing(Vec<Hash>),
    /// 404.
    NoSuchFile,
    /// 404: no such revision is kept.
    NoSuchVersion,
    /// 409: a client asked about the key before it was used, which made it void.
    Burnt,
    /// 410: the hub does not have the history that the caller knows.
    OtherHistory,
    /// 507.
    DiskFull,
}

impl Changed {
    /// The operation has changed something.
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            Changed::Created { .. } | Changed::Updated { .. } | Changed::Deleted(_)
        )
    }
}

/// The answer to [`FileOp::Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLookup {
    pub done: bool,
    pub made: Vec<Record>,
    pub current: Vec<Record>,
}
