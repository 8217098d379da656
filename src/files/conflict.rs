//! Names of conflict copies and of files in the trash.
//!
//! Pure. Every part of a conflict copy's name is derived from the version that loses its name, so
//! two machines that resolve the same conflict choose the same name. It does not know which names
//! are taken.

use std::time::{Duration, UNIX_EPOCH};

use crate::clock;
use crate::relpath;
use crate::wire::files::Hash;

use super::plan::Entry;

/// The directory of removed and replaced files, relative to the root.
pub const TRASH: &str = ".mesync/trash";

/// `<stem>.sync-conflict-<mtime>-<8 hex of the hash>.<ext>` in the same directory; mtime is UTC, `YYYYMMDD-HHMMSS`.
///
/// `nth`, from 1: the next name to try if another file has the previous one. The stem is cut at a
/// character boundary so that the name fits.
pub fn copy_name(path: &str, loser: &Entry, nth: u32) -> String {
    let (dir, name) = path
        .rsplit_once('/')
        .map_or(("", path), |(dir, name)| (dir, name));
    let again = if nth > 1 {
        format!("-{nth}")
    } else {
        String::new()
    };
    let mark = format!(
        ".sync-conflict-{}-{}{again}",
        time(loser.mtime),
        &loser.hash.to_string()[..8]
    );
    let whole = if dir.is_empty() {
        relpath::MAX_PATH_BYTES
    } else {
        relpath::MAX_PATH_BYTES.saturating_sub(dir.len() + 1)
    };
    let room = whole
        .min(relpath::MAX_COMPONENT_BYTES)
        .saturating_sub(mark.len());
    let (stem, ext) = split(name);
    // an extension that leaves no room for a stem is treated as none
    let (stem, ext) = if ext.len() < room {
        (stem, ext)
    } else {
        (name, "")
    };
    let stem = cut(stem, room - ext.len().min(room));
    let name = format!("{stem}{mark}{ext}");
    if dir.is_empty() {
        name
    } else {
        format!("{dir}/{name}")
    }
}

/// Whether a path has the name of a conflict copy.
pub fn is_copy(path: &str) -> bool {
    path.rsplit('/')
        .next()
        .is_some_and(|name| name.contains(".sync-conflict-"))
}

/// A name in the trash: the time, the whole hash (so that the bytes can be found again), and the old path with `%2F` for `/`
/// and `%25` for `%`, or only its last component, cut, if that does not fit. `nth` as above.
pub fn trash_name(path: &str, what: &Entry, now: i64, nth: u32) -> String {
    let mark = format!("{}-{}-{nth}-", time(now), what.hash);
    let room = relpath::MAX_COMPONENT_BYTES - mark.len();
    let escape = |text: &str| text.replace('%', "%25").replace('/', "%2F");
    let whole = escape(path);
    if whole.len() <= room {
        return format!("{TRASH}/{mark}{whole}");
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    // escaped after the cut, so that no escape is cut
    let fits = (0..=room)
        .rev()
        .map(|most| escape(cut(name, most)))
        .find(|name| name.len() <= room);
    format!("{TRASH}/{mark}{}", fits.unwrap_or_default())
}

/// The hash in such a name, given with or without the directory.
pub fn trashed_hash(name: &str) -> Option<Hash> {
    let name = name.rsplit('/').next()?;
    name.split('-').nth(2)?.parse().ok()
}

/// The old path in such a name, given without the directory; it may be a last component only, and that may have been cut.
pub fn trashed_path(name: &str) -> Option<String> {
    trashed_hash(name)?;
    let old = name.splitn(5, '-').nth(4).filter(|old| !old.is_empty())?;
    Some(old.replace("%2F", "/").replace("%25", "%"))
}

/// `YYYYMMDD-HHMMSS` in UTC of nanoseconds since 1970.
fn time(ns: i64) -> String {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let at = if ns < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    };
    clock::compact(at).replace('T', "-")
}

/// Stem and extension, the latter with its dot. A name with only a leading dot has none.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 && at + 1 < name.len() => name.split_at(at),
        _ => (name, ""),
    }
}

/// The longest prefix of at most `most` bytes that ends at a character boundary.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::files::EntryKind;

    #[test]
    fn copies_are_named_after_the_version_that_loses_its_name() {
        let at = 1_764_000_000 * 1_000_000_000; // 2025-11-24 16:00:00 UTC
        let loser = Entry::new(EntryKind::File, Hash::of(b"abc"), 3, 0o644, at);
        let check = |path: &str, nth: u32, wants: &str| {
            assert_eq!(copy_name(path, &loser, nth), wants, "{path}")
        };
        check("a.txt", 1, "a.sync-conflict-20251124-160000-ba7816bf.txt");
        check("a.txt", 2, "a.sync-conflict-20251124-160000-ba7816bf-2.txt");
        check(
            "d/e/a.tar.gz",
            1,
            "d/e/a.tar.sync-conflict-20251124-160000-ba7816bf.gz",
        );
        check(
            "d.x/README",
            1,
            "d.x/README.sync-conflict-20251124-160000-ba7816bf",
        );
        check(
            ".profile",
            1,
            ".profile.sync-conflict-20251124-160000-ba7816bf",
        );
        check(".a.b", 1, ".a.sync-conflict-20251124-160000-ba7816bf.b");
        check("a.", 1, "a..sync-conflict-20251124-160000-ba7816bf");
        let old = Entry { mtime: -1, ..loser };
        assert_eq!(
            copy_name("a", &old, 1),
            "a.sync-conflict-19700101-000000-ba7816bf"
        );
    }

    #[test]
    fn names_of_copies_always_fit_and_end_between_characters() {
        let loser = Entry::new(EntryKind::File, Hash::of(b"abc"), 3, 0o644, 0);
        let dir = "d".repeat(255) + "/" + &"e".repeat(255) + "/" + &"f".repeat(255);
        for name in [
            "é".repeat(127),
            "😀".repeat(60) + ".é",
            "x".repeat(255),
            "y.".to_string() + &"z".repeat(253),
            "a.txt".into(),
        ] {
            for path in [name.clone(), format!("d/{name}"), format!("{dir}/{name}")] {
                for nth in [1, 12] {
                    let copy = copy_name(&path, &loser, nth);
                    assert_eq!(relpath::check(&copy), Ok(()), "{path}");
                    assert!(copy.contains(".sync-conflict-"), "{copy}");
                }
            }
            let trash = trash_name(&name, &loser, 0, 1);
            assert!(
                trash.rsplit('/').next().is_some_and(|n| n.len() <= 255),
                "{trash}"
            );
            assert_eq!(trashed_hash(&trash), Some(loser.hash), "{trash}");
            let old = trash.rsplit('/').next().and_then(trashed_path);
            assert!(old.is_some_and(|old| name.starts_with(&old)), "{trash}");
        }
        for path in ["d/-a-b\n", "a/b/c.txt", "50%/100%25", "%2F", "%"] {
            let trash = trash_name(path, &loser, 0, 1);
            let old = trash.rsplit('/').next().and_then(trashed_path);
            assert_eq!(old.as_deref(), Some(path));
        }
        let long = "d".repeat(150) + "/" + &"%".repeat(100);
        let trash = trash_name(&long, &loser, 0, 1);
        let name = trash.rsplit('/').next().unwrap_or_default();
        assert!(name.len() <= 255 && name.ends_with("%25"), "{name}");
        assert!(trashed_path(name).is_some_and(|old| old.bytes().all(|b| b == b'%')));
        for other in ["", "a", "1-2-3-4-5", ".mesync-0.tmp"] {
            assert_eq!(trashed_path(other), None, "{other}");
        }
    }
}
