//! The layout of a file's revision in the tables: its fields in sequence, numbers as LEB128, texts with their length before
//! them.
//!
//! It knows no table. Bytes that cannot be parsed are damage: only this file writes them.

use std::time::{Duration, UNIX_EPOCH};

use uuid::Uuid;

use crate::clock;
use crate::database::DbResult;
use crate::wire::files::{Chunk, EntryKind, ExtraMetadata, Hash, Name, Record, Version};
use crate::wire::revision::{Revision, Tag};

/// Raised when the layout changes, so that rows of older programs can be recognised.
const LAYOUT: u8 = 2;
/// The same without tags.
const UNTAGGED: u8 = 1;
/// The default content type.
const BYTES: &str = "application/octet-stream";

/// One revision: the current one, the tombstone of a deleted file, or a replaced version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: Uuid,
    pub name: Name,
    pub rev: u64,
    /// The tag of the transaction that made this revision.
    pub tag: Tag,
    pub kind: EntryKind,
    pub size: u64,
    pub sha256: Hash,
    pub mode: Option<u32>,
    pub mtime: Option<String>,
    pub content_type: String,
    pub extra: ExtraMetadata,
    /// Milliseconds of the wall clock, as in the next three.
    pub created: u64,
    pub updated: u64,
    pub deleted: Option<u64>,
    pub replaced: Option<u64>,
    pub host: String,
    pub renamed_to: Option<Name>,
    /// Hub time when it was made, deleted or replaced, from which its age is counted.
    pub aged: u64,
}

impl Row {
    pub fn is_live(&self) -> bool {
        self.deleted.is_none()
    }

    pub fn revision(&self) -> Revision {
        Revision {
            rev: self.rev,
            tag: self.tag,
        }
    }

    pub fn record(&self) -> Record {
        Record {
            id: self.id,
            name: self.name.name.clone(),
            path: self.name.path.clone(),
            kind: self.kind,
            size: self.size,
            content_type: if self.content_type.is_empty() {
                BYTES.to_string()
            } else {
                self.content_type.clone()
            },
            etag: self.revision().etag(),
            checksum_sha256: Some(self.sha256),
            mode: self.mode,
            mtime: self.mtime.clone(),
            extra: self.extra.clone(),
            created_at: rfc3339(self.created),
            updated_at: rfc3339(self.updated),
            deleted_at: self.deleted.map(rfc3339),
            rev: self.rev,
            host: Some(self.host.clone()),
            renamed_to: self.renamed_to.clone(),
            wanted: false,
        }
    }

    pub fn version(&self) -> Version {
        Version {
            rev: self.rev,
            kind: self.kind,
            size: self.size,
            checksum_sha256: self.sha256,
            mode: self.mode,
            mtime: self.mtime.clone(),
            host: Some(self.host.clone()),
            updated_at: rfc3339(self.updated),
            replaced_at: rfc3339(self.replaced.unwrap_or(self.updated)),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Out(Vec::with_capacity(192));
        out.row(self);
        out.0
    }

    pub fn from_bytes(bytes: &[u8]) -> DbResult<Row> {
        let mut rest = In(bytes);
        rest.row()
            .filter(|_| rest.0.is_empty())
            .ok_or_else(|| damaged("a file"))
    }
}

/// The outcome of a request with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOutcome {
    /// The key is void: it did nothing and never will.
    Burnt,
    Created(Vec<Row>),
    Updated(Vec<Row>),
    Unchanged(Vec<Row>),
    Deleted(Vec<Row>),
}

impl KeyOutcome {
    pub fn rows(&self) -> &[Row] {
        match self {
            KeyOutcome::Burnt => &[],
            KeyOutcome::Created(rows)
            | KeyOutcome::Updated(rows)
            | KeyOutcome::Unchanged(rows)
            | KeyOutcome::Deleted(rows) => rows,
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let tag = match self {
            KeyOutcome::Burnt => 0,
            KeyOutcome::Created(_) => 1,
            KeyOutcome::Updated(_) => 2,
            KeyOutcome::Unchanged(_) => 3,
            KeyOutcome::Deleted(_) => 4,
        };
        let mut out = Out(vec![tag]);
        self.rows().iter().for_each(|row| out.row(row));
        out.0
    }

    pub fn from_bytes(bytes: &[u8]) -> DbResult<KeyOutcome> {
        let read = || {
            let (tag, rest) = bytes.split_first()?;
            let (mut rest, mut rows) = (In(rest), Vec::new());
            while !rest.0.is_empty() {
                rows.push(rest.row()?);
            }
            match (tag, rows.is_empty()) {
                (0, true) => Some(KeyOutcome::Burnt),
                (1, false) => Some(KeyOutcome::Created(rows)),
                (2, false) => Some(KeyOutcome::Updated(rows)),
                (3, false) => Some(KeyOutcome::Unchanged(rows)),
                (4, false) => Some(KeyOutcome::Deleted(rows)),
                _ => None,
            }
        };
        read().ok_or_else(|| damaged("an idempotency key"))
    }
}

/// The chunks of a file that has more than one.
pub fn list_to_bytes(chunks: &[Chunk]) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(chunks.len() * 36));
    for chunk in chunks {
        out.0.extend_from_slice(&chunk.sha256.0);
        out.number(chunk.size);
    }
    out.0
}

pub fn list_from_bytes(bytes: &[u8]) -> DbResult<Vec<Chunk>> {
    let (mut rest, mut chunks) = (In(bytes), Vec::with_capacity(bytes.len() / 35));
    while !rest.0.is_empty() {
        let mut chunk = || {
            Some(Chunk {
                sha256: rest.hash()?,
                size: rest.number()?,
            })
        };
        chunks.push(chunk().ok_or_else(|| damaged("a list of chunks"))?);
    }
    Ok(chunks)
}

pub fn damaged(what: &str) -> redb::Error {
    redb::Error::Corrupted(format!("the row of {what} cannot be read"))
}

/// Milliseconds since 1970 as text; later times become the latest one that has a text.
pub fn rfc3339(ms: u64) -> String {
    clock::rfc3339(UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_000)))
}

struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, mut n: u64) {
        while n > 0x7f {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Out, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn row(&mut self, row: &Row) {
        self.0.push(LAYOUT);
        self.0.extend_from_slice(row.id.as_bytes());
        self.text(&row.name.path);
        self.text(&row.name.name);
        self.number(row.rev);
        self.0.extend_from_slice(&row.tag.0.to_le_bytes());
        self.0.push(kind_number(row.kind));
        self.number(row.size);
        self.0.extend_from_slice(&row.sha256.0);
        self.option(row.mode.map(u64::from), Out::number);
        self.option(row.mtime.as_deref(), Out::text);
        self.text(&row.content_type);
        self.extra(&row.extra);
        self.number(row.created);
        self.number(row.updated);
        self.option(row.deleted, Out::number);
        self.option(row.replaced, Out::number);
        self.text(&row.host);
        self.option(row.renamed_to.as_ref(), |out, name| {
            out.text(&name.path);
            out.text(&name.name);
        });
        self.number(row.aged);
    }

    fn extra(&mut self, extra: &ExtraMetadata) {
        let known = (*extra != ExtraMetadata::default()).then_some(extra);
        self.option(known, |out, e| {
            [e.uid, e.gid, e.device, e.inode, e.nlink]
                .into_iter()
                .for_each(|n| out.option(n, Out::number));
            [&e.username, &e.groupname, &e.ctime, &e.atime]
                .into_iter()
                .for_each(|t| out.option(t.as_deref(), Out::text));
        });
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        String::from_utf8(self.bytes(length)?.to_vec()).ok()
    }

    fn hash(&mut self) -> Option<Hash> {
        self.bytes(32)?.try_into().ok().map(Hash)
    }

    fn name(&mut self) -> Option<Name> {
        Some(Name {
            path: self.text()?,
            name: self.text()?,
        })
    }

    /// Reads an optional value. The outer `None` is damage.
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn row(&mut self) -> Option<Row> {
        let layout = self
            .byte()
            .filter(|layout| [UNTAGGED, LAYOUT].contains(layout))?;
        Some(Row {
            id: Uuid::from_bytes(self.bytes(16)?.try_into().ok()?),
            name: self.name()?,
            rev: self.number()?,
            tag: if layout == LAYOUT {
                Tag(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
            } else {
                Tag::default()
            },
            kind: kind_of(self.byte()?)?,
            size: self.number()?,
            sha256: self.hash()?,
            mode: self.option(|r| u32::try_from(r.number()?).ok())?,
            mtime: self.option(In::text)?,
            content_type: self.text()?,
            extra: self.option(In::extra)?.unwrap_or_default(),
            created: self.number()?,
            updated: self.number()?,
            deleted: self.option(In::number)?,
            replaced: self.option(In::number)?,
            host: self.text()?,
            renamed_to: self.option(In::name)?,
            aged: self.number()?,
        })
    }

    fn extra(&mut self) -> Option<ExtraMetadata> {
        let mut number = || self.option(In::number);
        let (uid, gid, device, inode, nlink) =
            (number()?, number()?, number()?, number()?, number()?);
        let mut text = || self.option(In::text);
        let (username, groupname, ctime, atime) = (text()?, text()?, text()?, text()?);
        Some(ExtraMetadata {
            uid,
            gid,
            username,
            groupname,
            ctime,
            atime,
            device,
            inode,
            nlink,
        })
    }
}

pub fn kind_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => 0,
        EntryKind::Dir => 1,
        EntryKind::Symlink => 2,
    }
}

pub fn kind_of(number: u8) -> Option<EntryKind> {
    [EntryKind::File, EntryKind::Dir, EntryKind::Symlink]
        .get(usize::from(number))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            id: Uuid::from_u128(7),
            name: Name::parse("a/é b").unwrap(),
            rev: u64::MAX,
            tag: Tag(7),
            kind: EntryKind::Symlink,
            size: 300,
            sha256: Hash::of(b"x"),
            mode: Some(0o100644),
            mtime: Some("2026-01-01T00:00:00.123456789Z".into()),
            content_type: String::new(),
            extra: ExtraMetadata {
                uid: Some(0),
                atime: Some("x".into()),
                ..ExtraMetadata::default()
            },
            created: 1,
            updated: 2,
            deleted: Some(3),
            replaced: None,
            host: "h".into(),
            renamed_to: Some(Name::parse("c").unwrap()),
            aged: 128,
        }
    }

    #[test]
    fn written_rows_are_read_back_and_other_bytes_refused() {
        let plain = Row {
            extra: ExtraMetadata::default(),
            mode: None,
            mtime: None,
            deleted: None,
            renamed_to: None,
            replaced: Some(9),
            ..row()
        };
        for row in [row(), plain] {
            let bytes = row.to_bytes();
            assert_eq!(Row::from_bytes(&bytes).unwrap(), row);
            (0..bytes.len())
                .for_each(|n| assert!(Row::from_bytes(&bytes[..n]).is_err(), "{n} bytes of it"));
            assert!(Row::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        }
        let rows = || vec![row(), row()];
        for done in [
            KeyOutcome::Burnt,
            KeyOutcome::Created(rows()),
            KeyOutcome::Updated(rows()),
            KeyOutcome::Unchanged(rows()),
            KeyOutcome::Deleted(rows()),
        ] {
            assert_eq!(KeyOutcome::from_bytes(&done.to_bytes()).unwrap(), done);
        }
        assert!(
            KeyOutcome::from_bytes(&[]).is_err()
                && KeyOutcome::from_bytes(&[1]).is_err()
                && KeyOutcome::from_bytes(&[9]).is_err()
        );
        let list = [
            Chunk {
                sha256: Hash::of(b"a"),
                size: 1 << 23,
            },
            Chunk {
                sha256: Hash::of(b"b"),
                size: 1,
            },
        ];
        assert_eq!(list_from_bytes(&list_to_bytes(&list)).unwrap(), list);
        assert!(list_from_bytes(&list_to_bytes(&list)[..40]).is_err());
    }

    #[test]
    fn rows_from_before_tags_are_read_without() {
        let row = Row {
            tag: Tag(0x0123_4567_89ab_cdef),
            ..row()
        };
        let mut bytes = row.to_bytes();
        let at = bytes
            .windows(8)
            .position(|w| w == row.tag.0.to_le_bytes())
            .unwrap();
        bytes.drain(at..at + 8);
        bytes[0] = UNTAGGED;
        assert_eq!(
            Row::from_bytes(&bytes).unwrap(),
            Row {
                tag: Tag::default(),
                ..row
            }
        );
    }

    #[test]
    fn times_that_cannot_be_written_are_no_panic() {
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
