//! The data about files that are sent: records, changes, events, and the requests that change them.
//!
//! Pure, like all of [`crate::wire`]. Clients must read the responses of `s3em`, the server of the published `s3ec`,
//! which has fewer fields: each missing field has a default here, such as 0 for `rev`.

mod batch;
mod compact;
mod parts;
mod upcoming;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::revision::{Revision, Tag};
use crate::relpath;

pub use batch::{BatchAnswer, BatchItem, BatchResult};
pub use compact::COMPACT_ROWS;
pub use parts::{
    AskedParts, AskedPieces, ChunkPart, ChunkPieces, FoundPieces, MAX_BASES, MAX_LIST_BYTES,
    MAX_PARTS_BYTES, PARTS_TYPE, PartList,
};
pub use upcoming::{Announced, MAX_UPCOMING_FILES, UpcomingFile};

/// A body up to this long is one chunk, and may be sent in one request; longer ones are cut
/// ([`crate::chunking`]).
pub const SINGLE: u64 = 8 * 1024 * 1024;
/// Maximum number of files in one batch.
pub const BATCH_FILES: usize = 1000;
/// Maximum bytes of one file in a batch.
pub const BATCH_FILE: u64 = 64 * 1024;
/// Maximum bytes of one batch, including its lines of JSON.
pub const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// Maximum number of chunks named in one request: 64 GB of the smallest.
pub const MOST_CHUNKS: usize = 262_144;
/// Maximum number of rows on one page of a listing.
pub const PAGE: usize = 1000;
/// Rows of a listing that names no limit.
pub const PAGE_DEFAULT: usize = 50;
/// The header with the name of the host that a caller without a key of its own acts as.
pub const HOST_HEADER: &str = "x-mesync-host";
/// The header of a change with the newest revision that its sender knows, as an entity tag: a hub that does not have it was
/// set back, and refuses the change with 410.
pub const HISTORY_HEADER: &str = "x-mesync-history";

/// SHA-256; its text is 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    pub fn of(bytes: &[u8]) -> Hash {
        use sha2::Digest;
        Hash(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Hash, String> {
        let wrong = || {
            format!(
                "a SHA-256 is 64 hexadecimal digits, not \"{}\"",
                super::brief(text)
            )
        };
        let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
        let bytes = text.as_bytes();
        let mut out = [0; 32];
        if bytes.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *byte = digit(pair[0])
                .zip(digit(pair[1]))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(wrong)?;
        }
        Ok(Hash(out))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Hash, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The mode of a directory that has no record of its own.
pub const DIR_MODE: u32 = 0o755;
/// Without these bits the owner cannot read a directory: such a mode is neither sent nor set.
pub const DIR_READABLE: u32 = 0o500;

/// The kind of an entry.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    #[default]
    File,
    /// A directory that contains no synced entry.
    Dir,
    /// Its content is the text of its target.
    Symlink,
}

/// A checked name: directory ("" for the root) and last component, neither with a slash at its ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    pub path: String,
    pub name: String,
}

impl Name {
    /// Checks both parts; the error is for the user.
    pub fn new(path: &str, name: &str) -> Result<Name, String> {
        let name = Name {
            path: path.to_string(),
            name: name.to_string(),
        };
        if name.name.contains('/') {
            return Err(format!(
                "a file name cannot contain a slash: \"{}\"",
                super::brief(&name.name)
            ));
        }
        relpath::check(&name.full()).map(|()| name)
    }

    /// `docs/a.txt`.
    pub fn parse(full: &str) -> Result<Name, String> {
        relpath::check(full)?;
        let (path, name) = full.rsplit_once('/').unwrap_or(("", full));
        Ok(Name {
            path: path.to_string(),
            name: name.to_string(),
        })
    }

    /// `docs/a.txt`.
    pub fn full(&self) -> String {
        if self.path.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.path, self.name)
        }
    }
}

/// Further fields of `stat`, which are kept and returned for `s3ec`; no decision depends on them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraMetadata {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groupname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctime: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atime: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nlink: Option<u64>,
}

/// A file on the hub, or its tombstone, in which `deleted_at` is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Belongs to path and name, and survives deletes and new files of the same name.
    pub id: Uuid,
    pub name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub path: String,
    #[serde(default)]
    pub kind: EntryKind,
    #[serde(default)]
    pub size: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub content_type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub etag: String,
    #[serde(default)]
    pub checksum_sha256: Option<Hash>,
    /// The whole st_mode.
    #[serde(default)]
    pub mode: Option<u32>,
    /// RFC 3339 with up to nine decimals.
    #[serde(default)]
    pub mtime: Option<String>,
    #[serde(flatten)]
    pub extra: ExtraMetadata,
    #[serde(default, deserialize_with = "null_is_default")]
    pub created_at: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub updated_at: String,
    #[serde(default)]
    pub deleted_at: Option<String>,
    /// The number of the change that wrote this; 0 from a server without revisions.
    #[serde(default)]
    pub rev: u64,
    /// The host that made that change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// For a deleted file that was renamed: its new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed_to: Option<Name>,
    /// The hub has lost a part of the content, and asks for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wanted: bool,
}

impl Record {
    pub fn full_name(&self) -> String {
        Name {
            path: self.path.clone(),
            name: self.name.clone(),
        }
        .full()
    }

    /// Its tag is in the `etag`, the only field for it.
    pub fn revision(&self) -> Revision {
        Revision::parse(&self.etag)
            .filter(|named| named.rev == self.rev)
            .unwrap_or(self.rev.into())
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// The response to an upload, a commit or a restore: the record, and for a rename also the tombstone of the old
/// name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRecord {
    #[serde(flatten)]
    pub record: Record,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed_from: Option<Record>,
}

/// One piece of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chunk {
    pub sha256: Hash,
    pub size: u64,
}

/// The `metadata` part of an upload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    #[serde(default)]
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
    #[serde(flatten)]
    pub extra: ExtraMetadata,
}

/// The body of `PUT /api/files/commit`: a file whose chunks the hub has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    #[serde(default)]
    pub path: String,
    pub name: String,
    #[serde(default)]
    pub kind: EntryKind,
    #[serde(default)]
    pub mode: Option<u32>,
    #[serde(default)]
    pub mtime: Option<String>,
    #[serde(flatten)]
    pub extra: ExtraMetadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    pub size: u64,
    pub checksum_sha256: Hash,
    #[serde(default)]
    pub chunks: Vec<Chunk>,
    /// The former name: removed in the same transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<OldName>,
}

/// The old name of a renamed file, and the revision that must be current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldName {
    #[serde(default)]
    pub path: String,
    pub name: String,
    pub if_match: u64,
    /// The tag of that revision.
    #[serde(default, skip_serializing_if = "Tag::is_unknown")]
    pub tag: Tag,
}

/// The body of `POST /api/files/fetch`. The response has, for each item, one line of JSON, a [`FetchHead`], and then its
/// `size` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    pub items: Vec<FetchItem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchItem {
    pub id: Uuid,
    pub rev: u64,
    #[serde(default, skip_serializing_if = "Tag::is_unknown")]
    pub tag: Tag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchHead {
    pub id: Uuid,
    pub rev: u64,
    /// 200, 404 (the revision no longer exists), 413 (too long for a batch, or this batch is full: download
    /// it alone).
    pub status: u16,
    /// The number of bytes after the line; 0 unless the status is 200.
    pub size: u64,
}

/// A page of `GET /api/files/changes`: at most one row for each name, the newest, in the order of
/// `rev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesPage {
    /// The hub's newest revision.
    pub rev: u64,
    pub epoch: Uuid,
    pub more: bool,
    /// The hub's revision at the first page of a full listing (`after=0`); sent with every later page of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    /// The revision after which the next page begins; an older hub does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<u64>,
    /// The tag of `rev`.
    #[serde(default, skip_serializing_if = "Tag::is_unknown")]
    pub tag: Tag,
    pub changes: Vec<Record>,
    /// On the last page: some of the files whose content the hub has lost in part, and asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<Name>,
    /// On the last page: long files that are being sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upcoming: Vec<UpcomingFile>,
}

/// The response to `GET /api/idempotency/{key}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAnswer {
    /// Whether the request was carried out. If not, the key is void: it never will be.
    pub done: bool,
    /// The result: one record for each name.
    #[serde(default)]
    pub made: Vec<Record>,
    /// The current records of these names.
    #[serde(default)]
    pub current: Vec<Record>,
}

/// An event, as in a `data:` line and in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEvent {
    /// `file_created`, `file_updated`, `file_deleted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for readers of `s3em`'s history: `created`, `updated`, `deleted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(default)]
    pub resource_id: Option<Uuid>,
    pub payload: Record,
    /// The revision that an unconditional upload replaced, which is kept as a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrote: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// A row of `GET /api/files/{id}/versions`: what a change replaced, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub rev: u64,
    pub kind: EntryKind,
    pub size: u64,
    pub checksum_sha256: Hash,
    #[serde(default)]
    pub mode: Option<u32>,
    #[serde(default)]
    pub mtime: Option<String>,
    #[serde(default)]
    pub host: Option<String>,
    /// When this revision was created, and when it was replaced.
    pub updated_at: String,
    pub replaced_at: String,
}

/// The body of `POST /api/files/{id}/restore`; without a revision: the version that was replaced last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    #[serde(default)]
    pub rev: Option<u64>,
}

/// The body of `POST /api/chunks/missing`, and its response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedChunks {
    pub chunks: Vec<Hash>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingChunks {
    pub missing: Vec<Hash>,
}

/// The response to `POST /api/hub/backup`: the contents of the copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    #[serde(default)]
    pub files: u64,
    /// Chunks that are stored as separate files.
    #[serde(default)]
    pub chunks: u64,
    /// Bytes of chunks that were copied, because they could not be linked there.
    #[serde(default)]
    pub copied: u64,
    /// Chunks that the hub has lost: they are in no backup.
    #[serde(default)]
    pub lost: u64,
}

#[cfg(test)]
mod tests;
