//! A page of changes in few bytes, for a client that asks for it with `Accept`: a row is a fifth of its JSON.
//!
//! Pure. It has what a synced directory needs; a row that has more than that is JSON within it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::{ChangesPage, EntryKind, Hash, PAGE, Record};
use crate::clock;
use crate::wire::revision::{Revision, Tag};

/// The media type.
pub const COMPACT_ROWS: &str = "application/vnd.mesync.rows";

/// The bits of the first byte of a row; the lowest two are its kind.
const KIND: u8 = 3;
const SAME_TAG: u8 = 4;
const SAME_PATH: u8 = 8;
const SAME_HOST: u8 = 16;
const DELETED: u8 = 32;
/// The row is the length of a record in JSON, and the record.
const JSON: u8 = 64;

const KINDS: [EntryKind; 3] = [EntryKind::File, EntryKind::Dir, EntryKind::Symlink];

/// What a row has in common with the one before it.
#[derive(Default)]
struct PreviousRow {
    rev: u64,
    tag: Tag,
    path: String,
    host: String,
}

impl ChangesPage {
    /// A line of JSON, the page without its rows, and then the rows.
    pub fn to_compact(&self) -> Vec<u8> {
        let head = ChangesPage {
            changes: Vec::new(),
            wanted: self.wanted.clone(),
            upcoming: self.upcoming.clone(),
            ..*self
        };
        let mut out = serde_json::to_vec(&head).unwrap_or_default();
        out.push(b'\n');
        let mut before = PreviousRow::default();
        for record in &self.changes {
            if write_row(&mut out, record, &mut before).is_none() {
                out.push(JSON);
                write_bytes(&mut out, &serde_json::to_vec(record).unwrap_or_default());
            }
        }
        out
    }

    /// `None`: it is no such page.
    pub fn from_compact(bytes: &[u8]) -> Option<ChangesPage> {
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let mut page: ChangesPage = serde_json::from_slice(&bytes[..end]).ok()?;
        let (mut rest, mut before) = (UnreadBytes(&bytes[end + 1..]), PreviousRow::default());
        while !rest.0.is_empty() {
            if page.changes.len() == PAGE {
                return None;
            }
            page.changes.push(read_row(&mut rest, &mut before)?);
        }
        Some(page)
    }
}

/// `None`: the record has more than a row can have, and nothing was written.
fn write_row(out: &mut Vec<u8>, record: &Record, before: &mut PreviousRow) -> Option<()> {
    let (host, mode) = (record.host.as_deref()?, record.mode?);
    let mtime = nanos(clock::parse_rfc3339(record.mtime.as_deref()?)?)?;
    let deleted = match &record.deleted_at {
        Some(at) => Some(clock::millis(clock::parse_rfc3339(at)?)),
        None => None,
    };
    let has_hash = deleted.is_none() && record.kind != EntryKind::Dir;
    let hash = if has_hash {
        Some(record.checksum_sha256?)
    } else {
        None
    };
    let delta = record.rev.checked_sub(before.rev)?;
    if record.renamed_to.is_some() || record.wanted {
        return None;
    }
    let Revision { rev, tag } = record.revision();
    let kind = KINDS.iter().position(|kind| *kind == record.kind)? as u8;
    let bit = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
    let same_path = record.path == before.path;
    let (same_tag, same_host) = (tag == before.tag, host == before.host);
    out.push(
        kind | bit(SAME_TAG, same_tag)
            | bit(SAME_PATH, same_path)
            | bit(SAME_HOST, same_host)
            | bit(DELETED, deleted.is_some()),
    );
    write_number(out, delta);
    out.extend_from_slice(record.id.as_bytes());
    if !same_tag {
        out.extend_from_slice(&tag.0.to_le_bytes());
    }
    if !same_path {
        write_bytes(out, record.path.as_bytes());
    }
    if !same_host {
        write_bytes(out, host.as_bytes());
    }
    write_bytes(out, record.name.as_bytes());
    write_number(out, record.size);
    write_number(out, mode.into());
    out.extend_from_slice(&mtime.to_le_bytes());
    if let Some(hash) = hash {
        out.extend_from_slice(&hash.0);
    }
    if let Some(at) = deleted {
        write_number(out, at);
    }
    *before = PreviousRow {
        rev,
        tag,
        path: record.path.clone(),
        host: host.to_string(),
    };
    Some(())
}

fn read_row(rest: &mut UnreadBytes<'_>, before: &mut PreviousRow) -> Option<Record> {
    let flags = rest.array::<1>()?[0];
    if flags == JSON {
        let json = rest.bytes()?;
        return serde_json::from_slice(json).ok();
    }
    if flags & !(KIND | SAME_TAG | SAME_PATH | SAME_HOST | DELETED) != 0 {
        return None;
    }
    let kind = *KINDS.get(usize::from(flags & KIND))?;
    before.rev = before.rev.checked_add(rest.number()?)?;
    let id = Uuid::from_bytes(rest.array()?);
    if flags & SAME_TAG == 0 {
        before.tag = Tag(u64::from_le_bytes(rest.array()?));
    }
    if flags & SAME_PATH == 0 {
        before.path = rest.text()?;
    }
    if flags & SAME_HOST == 0 {
        before.host = rest.text()?;
    }
    let (name, size) = (rest.text()?, rest.number()?);
    let mode = u32::try_from(rest.number()?).ok()?;
    let mtime = time(i64::from_le_bytes(rest.array()?))?;
    let is_deleted = flags & DELETED != 0;
    let hash = if is_deleted || kind == EntryKind::Dir {
        None
    } else {
        Some(Hash(rest.array()?))
    };
    let deleted_at = if is_deleted {
        // beyond the last time that has a text
        let at = rest.number()?.min(253_402_300_799_000);
        Some(clock::rfc3339(clock::from_millis(at)))
    } else {
        None
    };
    let at = Revision {
        rev: before.rev,
        tag: before.tag,
    };
    Some(Record {
        id,
        name,
        path: before.path.clone(),
        kind,
        size,
        etag: at.etag(),
        checksum_sha256: hash,
        mode: Some(mode),
        mtime: Some(clock::rfc3339_nanos(mtime)),
        deleted_at,
        rev: at.rev,
        host: Some(before.host.clone()),
        ..Record::default()
    })
}

/// Nanoseconds since 1970; `None`: out of range.
fn nanos(at: SystemTime) -> Option<i64> {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).ok(),
        Err(before) => i64::try_from(before.duration().as_nanos()).ok().map(|n| -n),
    }
}

fn time(nanos: i64) -> Option<SystemTime> {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

fn write_number(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes that are not read yet.
struct UnreadBytes<'a>(&'a [u8]);

impl<'a> UnreadBytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return (n >> shift == bits).then_some(n);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Name, UpcomingFile};
    use super::*;

    fn record(n: u64) -> Record {
        let at = Revision {
            rev: 1000 + n,
            tag: Tag(0x9f3a_c04b_e1d2_a377 + n / 100),
        };
        let mtime = time(1_700_000_000_123_456_789 + n as i64 * 7919);
        Record {
            id: Uuid::from_u128(
                u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            ),
            name: format!("photo-{n:06}.jpg"),
            path: format!("photos/2026/{:03}", n / 50),
            size: 3_000_000 + n,
            content_type: "image/jpeg".into(),
            etag: at.etag(),
            checksum_sha256: Some(Hash::of(&n.to_le_bytes())),
            mode: Some(0o100_644),
            mtime: mtime.map(clock::rfc3339_nanos),
            created_at: "2026-11-28T10:31:00.703Z".into(),
            updated_at: "2026-11-28T10:31:00.703Z".into(),
            rev: at.rev,
            host: Some("alpha".into()),
            ..Record::default()
        }
    }

    fn page(changes: Vec<Record>) -> ChangesPage {
        ChangesPage {
            rev: 90_000,
            epoch: Uuid::from_u128(7),
            more: true,
            began: Some(90_000),
            through: Some(2000),
            tag: Tag(9),
            changes,
            wanted: vec![Name::parse("a/b").unwrap()],
            upcoming: vec![UpcomingFile {
                id: Uuid::nil(),
                name: Name::parse("a/long").unwrap(),
                size: 1 << 40,
                checksum_sha256: Hash::of(b"long"),
            }],
        }
    }

    /// What a compact row leaves out.
    fn without_details(record: &Record) -> Record {
        let bare = record.deleted_at.is_some() || record.kind == EntryKind::Dir;
        Record {
            content_type: String::new(),
            created_at: String::new(),
            updated_at: String::new(),
            checksum_sha256: record.checksum_sha256.filter(|_| !bare),
            ..record.clone()
        }
    }

    #[test]
    fn a_page_is_read_as_it_was_written_in_a_quarter_of_the_bytes() {
        let mut rows: Vec<Record> = (0..1000).map(record).collect();
        rows[1].kind = EntryKind::Dir;
        rows[2].kind = EntryKind::Symlink;
        rows[3].deleted_at = Some("2026-11-28T10:31:00.703Z".into());
        rows[4].mtime = Some("1965-03-01T00:00:00.000000001Z".into());
        rows[5].host = Some("b".into());
        rows[6].path = "é/\u{1f600}".into();
        let whole = page(rows.clone());
        let (json, compact) = (serde_json::to_vec(&whole).unwrap(), whole.to_compact());
        assert!(
            compact.len() * 4 < json.len(),
            "{} bytes, {} in JSON",
            compact.len(),
            json.len()
        );
        let got = ChangesPage::from_compact(&compact).unwrap();
        let wants = page(rows.iter().map(without_details).collect());
        assert_eq!(got, wants);
    }

    #[test]
    fn a_row_with_more_than_usual_loses_nothing() {
        let odd: Vec<Record> = [
            |r: &mut Record| r.renamed_to = Some(Name::parse("to/here").unwrap()),
            |r: &mut Record| r.wanted = true,
            |r: &mut Record| r.mtime = None,
            |r: &mut Record| r.mtime = Some("yesterday".into()),
            |r: &mut Record| r.mtime = Some("2400-01-01T00:00:00Z".into()),
            |r: &mut Record| r.mode = None,
            |r: &mut Record| r.host = None,
            |r: &mut Record| r.checksum_sha256 = None,
            |r: &mut Record| r.rev = 1,
        ]
        .iter()
        .enumerate()
        .map(|(n, change)| {
            let mut row = record(n as u64);
            change(&mut row);
            row
        })
        .collect();
        let mut rows = vec![record(0)];
        rows.extend(odd);
        rows.push(record(20));
        let got = ChangesPage::from_compact(&page(rows.clone()).to_compact()).unwrap();
        assert_eq!(got.changes[1..10], rows[1..10]);
        assert_eq!(got.changes[10], without_details(&rows[10]));
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let compact = page((0..3).map(record).collect()).to_compact();
        for end in 0..compact.len() {
            // a page ends between two rows, too
            let cut = ChangesPage::from_compact(&compact[..end]);
            assert!(cut.is_none_or(|page| page.changes.len() < 3), "{end}");
        }
        let many = page((0..=PAGE as u64).map(record).collect());
        assert_eq!(ChangesPage::from_compact(&many.to_compact()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(rows in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..400, byte: u8) {
            let mut noise = page(Vec::new()).to_compact();
            noise.extend(rows);
            let _ = ChangesPage::from_compact(&noise);
            let mut spoiled = page((0..3).map(record).collect()).to_compact();
            let at = at % spoiled.len();
            spoiled[at] = byte;
            let _ = ChangesPage::from_compact(&spoiled);
        }
    }
}
