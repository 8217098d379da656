//! One entry of the log that several hubs share: a group of operations at its place, with all that decides its outcome.
//!
//! Pure. Each hub applies entries 1, 2, 3 … to its own tables, so that all of them have the same tables after the same entry.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::files::Bytes;
use super::{Group, Limits, Op};
use crate::hub::store::chunk_name::ChunkName;
use crate::wire::files::Chunk;
use crate::wire::revision::Tag;

/// The form of entries.
pub const FORMAT: u64 = 1;
/// Raised whenever the same operations would have another outcome than before: a hub that knows less must not apply them.
pub const BEHAVIOUR: u64 = 1;

/// A position in the log: the number of an entry, and the nonce of that entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// 0: before the first entry.
    pub n: u64,
    pub nonce: Uuid,
}

/// A chunk whose bytes are an object of the store, put there before the entry that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkObject {
    pub name: ChunkName,
    pub size: u64,
}

/// Counters of the tables before an entry: a hub whose own differ has applied an entry otherwise than its writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableCounters {
    pub seq: u64,
    pub messages: u64,
    pub message_bytes: u64,
    pub rev: u64,
    pub files: u64,
    pub file_bytes: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    pub format: u64,
    pub behaviour: u64,
    pub n: u64,
    /// Drawn for this entry; the same in each attempt to write it.
    pub nonce: Uuid,
    /// The hub that wrote it.
    pub hub: Uuid,
    /// Hub time in milliseconds, by the store's clock. An older time than that of the entry before counts as that one.
    pub now: u64,
    /// The wall clock of files and messages, by the store's clock too.
    pub wall: u64,
    pub limits: Limits,
    pub before: TableCounters,
    /// The chunks that were put for these operations.
    pub placed: Vec<ChunkObject>,
    pub ops: Vec<Op>,
}

impl LogEntry {
    pub fn position(&self) -> Position {
        Position {
            n: self.n,
            nonce: self.nonce,
        }
    }

    /// As the store applies it. `age`: the hub time of the entry before.
    pub fn group(&self, age: u64) -> Group {
        Group {
            now: self.now.max(age),
            wall: self.wall,
            // how full one hub's disk is must not decide; see `limits`
            full: false,
            tag: Tag::from(self.nonce),
            // a log is not set back unseen, as a disk is
            opened: u64::MAX,
            limits: self.limits,
            ops: self.ops.clone(),
        }
    }

    /// One line of JSON, then the short chunks of the operations, in order.
    pub fn encode(&self) -> Vec<u8> {
        // all of it can be written as JSON: no map, no float, no foreign type
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        for inline in self.ops.iter().flat_map(Op::chunks).filter_map(inline) {
            bytes.extend_from_slice(inline);
        }
        bytes
    }

    /// The error is for a person: the entry is damaged, or of a newer program.
    pub fn decode(bytes: &[u8]) -> Result<LogEntry, String> {
        /// What every version has.
        #[derive(Deserialize)]
        struct EntryVersion {
            format: u64,
            behaviour: u64,
        }
        let end = bytes
            .iter()
            .position(|b| *b == b'\n')
            .ok_or("it has no end of its first line")?;
        let (line, mut rest) = (&bytes[..end], &bytes[end + 1..]);
        let version: EntryVersion = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        if version.format > FORMAT || version.behaviour > BEHAVIOUR {
            return Err("a newer mesync wrote it".into());
        }
        let mut entry: LogEntry = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        for (_, bytes) in entry.ops.iter_mut().flat_map(Op::chunks_mut) {
            let Bytes::Inline(inline) = bytes else {
                continue;
            };
            let (bytes, after) = rest
                .split_at_checked(inline.len())
                .ok_or("it is too short")?;
            inline.copy_from_slice(bytes);
            rest = after;
        }
        if rest.is_empty() {
            Ok(entry)
        } else {
            Err("it is too long".into())
        }
    }
}

/// An operation on the shared log itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum LogOp {
    /// From here on, no entry may name an object that was made before this time: those that no table names are removed.
    Horizon { at: u64 },
    /// The hub was moved out of the bucket: no entry follows.
    Close,
    /// These objects, which no table named any more, were removed.
    Collected { names: Vec<ChunkName> },
}

fn inline((_, bytes): &(Chunk, Bytes)) -> Option<&[u8]> {
    if let Bytes::Inline(bytes) = bytes {
        Some(bytes)
    } else {
        None
    }
}
