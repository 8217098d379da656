//! `POST /api/files/batch`: many changes in one request.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Chunk, EntryKind, Hash, OldName, Record};
use crate::wire::revision::Tag;

/// The line of JSON of one change in `POST /api/files/batch`; the `size` bytes of a content follow it, unless the hub has
/// them (`chunks`), or the file is deleted (`delete`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchItem {
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub kind: EntryKind,
    #[serde(default)]
    pub mode: Option<u32>,
    #[serde(default)]
    pub mtime: Option<String>,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub checksum_sha256: Option<Hash>,
    /// As in a [`Commit`](super::Commit): the hub has these chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Vec<Chunk>>,
    /// As in a [`Commit`](super::Commit), with `chunks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<OldName>,
    /// Delete the file with this id; only `if_match`, `tag` and `key` count besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<u64>,
    /// The tag of that revision.
    #[serde(default, skip_serializing_if = "Tag::is_unknown")]
    pub tag: Tag,
    /// Only if there is no file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_none_match: bool,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Uuid>,
}

impl BatchItem {
    /// How many bytes follow the line.
    pub fn body_bytes(&self) -> u64 {
        if self.chunks.is_some() || self.delete.is_some() {
            0
        } else {
            self.size
        }
    }
}

/// The result for one change of a batch: the status that it would have had alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResult {
    pub status: u16,
    /// After 200, 201 and 204 the new record; after 412 the current one, if there is one.
    #[serde(default)]
    pub record: Option<Record>,
    /// The tombstone of the old name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed_from: Option<Record>,
    /// With 409: chunks that the hub does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The response to `POST /api/files/batch`: one result for each file, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    pub results: Vec<BatchResult>,
}
