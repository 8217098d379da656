//! Translates names and records of the hub to names and rows of one synced directory, and back.
//!
//! Pure. It believes no name that [`crate::relpath::check`] refuses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::clock;
use crate::files::engine::traits::RowPage;
use crate::files::plan::{Entry, RemoteRow};
use crate::relpath;
use crate::wire::files::{ChangesPage, EntryKind, ExtraMetadata, Hash, Metadata, Name, Record};
use crate::wire::scope::Scope;

/// The directory on the hub that a local directory is synced with; "" is the whole hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteNames {
    directory: String,
    scope: Scope,
}

impl RemoteNames {
    pub fn below(remote: &str) -> RemoteNames {
        let directory = remote.trim_matches('/').to_string();
        RemoteNames {
            // of a name that the hub would refuse, all files are heard, and none is taken
            scope: Scope::below([directory.as_str()]).unwrap_or_default(),
            directory,
        }
    }

    /// The part of the hub to ask for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The full name on the hub. Errors: it is longer than the hub allows.
    pub fn name(&self, path: &str) -> Result<Name, String> {
        Name::parse(&if self.directory.is_empty() {
            path.to_string()
        } else {
            format!("{}/{path}", self.directory)
        })
    }

    /// The name within the directory; `None`: the name is outside it.
    pub fn path<'a>(&self, full: &'a str) -> Option<&'a str> {
        let path = match self.directory.as_str() {
            "" => Some(full),
            above => full.strip_prefix(above)?.strip_prefix('/'),
        };
        path.filter(|path| !path.is_empty())
    }

    /// The name of the directory itself.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The rows of a page that was asked for with `after`.
    pub fn page(&self, page: &ChangesPage, after: u64) -> RowPage {
        // a hub names no row outside the scope, so the cursor follows what the page has passed; an older hub names all
        let last = page
            .through
            .or_else(|| page.changes.last().map(|record| record.rev));
        RowPage {
            rev: page.rev,
            epoch: page.epoch,
            // a hub that counts backwards would be polled forever
            more: page.more && last.is_some_and(|last| last > after),
            began: page.began,
            last,
            tag: page.tag,
            rows: page.changes.iter().filter_map(|r| self.row(r)).collect(),
        }
    }

    /// The row of a record; `None`: the record is outside the directory, its name is invalid, or
    /// its content is unknown.
    pub fn row(&self, record: &Record) -> Option<(String, RemoteRow)> {
        let full = record.full_name();
        let path = self.path(&full).filter(|_| relpath::check(&full).is_ok())?;
        let entry = match record.deleted_at {
            Some(_) => None,
            None => Some(entry(record)?),
        };
        let renamed_to = record
            .renamed_to
            .as_ref()
            .map(Name::full)
            .and_then(|to| self.path(&to).map(str::to_string));
        let row = RemoteRow {
            rev: record.rev,
            tag: record.revision().tag,
            entry,
            id: record.id,
            host: record.host.clone(),
            renamed_to,
        };
        Some((path.to_string(), row))
    }
}

/// The entry of a record that is not deleted.
fn entry(record: &Record) -> Option<Entry> {
    let hash = match record.kind {
        EntryKind::Dir => Hash::of(b""),
        _ => record.checksum_sha256?,
    };
    let mode = record.mode.unwrap_or(if record.kind == EntryKind::Dir {
        0o755
    } else {
        0o644
    });
    let time = |text: &str| clock::parse_rfc3339(text).map(nanos);
    let mtime = record
        .mtime
        .as_deref()
        .and_then(time)
        .or_else(|| time(&record.updated_at))
        .unwrap_or(0);
    let size = if record.kind == EntryKind::Dir {
        0
    } else {
        record.size
    };
    Some(Entry::new(record.kind, hash, size, mode, mtime))
}

/// Nanoseconds since 1970, clamped to the range.
fn nanos(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// The whole `st_mode`, as it is sent.
pub fn st_mode(entry: &Entry) -> u32 {
    let kind = match entry.kind {
        EntryKind::File => 0o100_000,
        EntryKind::Dir => 0o040_000,
        EntryKind::Symlink => 0o120_000,
    };
    kind | entry.mode
}

/// The mode and time as they are sent beside the content of a whole file. `path`: the directory on the hub.
pub fn metadata(entry: &Entry, path: String) -> Metadata {
    Metadata {
        path,
        mode: Some(st_mode(entry)),
        mtime: Some(mtime(entry)),
        extra: ExtraMetadata::default(),
    }
}

/// The time as it is sent: RFC 3339 with nine decimals.
pub fn mtime(entry: &Entry) -> String {
    let distance = Duration::from_nanos(entry.mtime.unsigned_abs());
    clock::rfc3339_nanos(if entry.mtime < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    })
}

/// A record with just the fields that a download needs.
pub fn fetched(name: &Name, row: &RemoteRow) -> Record {
    let entry = row.entry.as_ref();
    Record {
        id: row.id,
        name: name.name.clone(),
        path: name.path.clone(),
        kind: entry.map_or(EntryKind::File, |e| e.kind),
        size: entry.map_or(0, |e| e.size),
        checksum_sha256: entry.map(|e| e.hash),
        rev: row.rev,
        etag: row.at().etag(),
        ..Record::default()
    }
}

/// A row without an entry.
pub fn gone(rev: u64, id: Uuid) -> RemoteRow {
    RemoteRow {
        rev,
        id,
        ..RemoteRow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &str, name: &str) -> Record {
        let mtime = Some("2026-11-21T10:30:00.123456789Z".into());
        let (mode, sum) = (Some(0o104_755), Some(Hash::of(b"x")));
        Record {
            path: path.into(),
            name: name.into(),
            size: 1,
            rev: 7,
            mode,
            mtime,
            checksum_sha256: sum,
            ..Record::default()
        }
    }

    #[test]
    fn the_cursor_follows_what_a_page_has_passed() {
        let page = |through, rows: &[u64], more| ChangesPage {
            rev: 90,
            epoch: Uuid::nil(),
            more,
            began: None,
            through,
            tag: Default::default(),
            changes: rows
                .iter()
                .map(|rev| Record {
                    rev: *rev,
                    ..record("docs", "f")
                })
                .collect(),
            wanted: Vec::new(),
            upcoming: Vec::new(),
        };
        let names = RemoteNames::below("docs");
        for (page, last, more) in [
            // an older hub
            (page(None, &[7, 9], true), Some(9), true),
            (page(None, &[], true), None, false),
            // nothing was in the scope
            (page(Some(50), &[], true), Some(50), true),
            (page(Some(90), &[], false), Some(90), false),
            (page(Some(90), &[7], false), Some(90), false),
            // it would be polled forever
            (page(Some(5), &[], true), Some(5), false),
        ] {
            let rows = names.page(&page, 5);
            assert_eq!((rows.last, rows.more), (last, more), "{page:?}");
        }
    }

    #[test]
    fn every_time_of_a_file_is_sent_unchanged_or_clamped() {
        for time in [
            0,
            -1,
            1,
            -460_000_000_000_000_000,
            4_000_000_000_000_000_000,
            i64::MIN,
            i64::MIN + 1,
            i64::MAX,
        ] {
            let local = Entry::new(EntryKind::File, Hash::of(b"x"), 1, 0o644, time);
            let travelled = Record {
                mtime: Some(mtime(&local)),
                ..record("", "f")
            };
            assert_eq!(entry(&travelled).unwrap().mtime, time);
        }
        let beyond = Record {
            mtime: Some("2300-01-01T00:00:00Z".into()),
            ..record("", "f")
        };
        assert_eq!(entry(&beyond).unwrap().mtime, i64::MAX);
    }

    #[test]
    fn names_are_those_below_the_directory_on_the_hub() {
        let check = |remote: &str, full: &str, wants: Option<&str>| {
            let names = RemoteNames::below(remote);
            assert_eq!(names.path(full), wants, "{remote} {full}");
            if let Some(path) = wants {
                assert_eq!(names.name(path).map(|n| n.full()).as_deref(), Ok(full));
            }
        };
        check("", "a/b", Some("a/b"));
        check("a", "a/b", Some("b"));
        check("/a/", "a/b/c", Some("b/c"));
        check("a", "ab/c", None);
        check("a", "a", None);
        check("a/b", "a/c", None);
        assert!(
            RemoteNames::below(&"d/".repeat(500))
                .name(&"x".repeat(200))
                .is_err()
        );
    }

    #[test]
    fn rows_equal_records_in_both_directions() {
        let names = RemoteNames::below("share");
        let (path, row) = names.row(&record("share/d", "a")).unwrap();
        let entry = row.entry.unwrap();
        assert_eq!(
            (path.as_str(), row.rev, entry.mode, entry.size),
            ("d/a", 7, 0o755, 1)
        );
        assert_eq!(
            (mtime(&entry).as_str(), st_mode(&entry)),
            ("2026-11-21T10:30:00.123456789Z", 0o100_755)
        );
        assert_eq!(names.row(&record("other", "a")), None);
        for hostile in ["..", "a/b", "", "a\0", ".mesync", &"x".repeat(5000)] {
            assert_eq!(
                names
                    .row(&record("share", hostile))
                    .filter(|(p, _)| p != "a/b"),
                None,
                "{hostile:?}"
            );
        }
        assert_eq!(names.row(&record("share/../..", "a")), None);
        let renamed_to = Some(Name {
            path: "share".into(),
            name: "b".into(),
        });
        let deleted = Record {
            deleted_at: Some("x".into()),
            renamed_to,
            ..record("share", "a")
        };
        let (_, row) = names.row(&deleted).unwrap();
        assert_eq!((row.entry, row.renamed_to.as_deref()), (None, Some("b")));
        let elsewhere = Record {
            renamed_to: Some(Name {
                path: "x".into(),
                name: "b".into(),
            }),
            ..deleted
        };
        assert_eq!(names.row(&elsewhere).unwrap().1.renamed_to, None);
    }
}
