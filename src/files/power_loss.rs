//! After a power loss: a file that was written without a sync may be empty, or have zero bytes where
//! its content did not reach the disk, and that is not an edit.
//!
//! The state has a note of the current boot while the directory is open. A note of another boot
//! means that the machine lost power meanwhile. A file that had bytes before and is empty now, or
//! ends in zero bytes that the hub does not know, is compared anew, so that the hub's version keeps
//! the name and nothing is lost. Zero bytes elsewhere are not looked for: filesystems that delay
//! the allocation (ext4, XFS, btrfs) lose a file's last write, which has its end.

use super::engine::pages::{each_below, pages_below};
use super::engine::traits::{CallResult, Fault, OpenKey, Presence, Rows, State, Tree};
use super::plan::{BaseRow, Stamp};
use super::state::DiskState;
use super::tree::DiskTree;
use crate::wire::files::EntryKind;

const BOOT_ID_FILE: &str = "boot";
/// What was changed so long before the last change had reached the disk. Linux writes after 30
/// seconds, and 5 more for the journal (`vm.dirty_expire_centisecs`, `commit=` of ext4).
const UNSYNCED_NANOS: i64 = 600_000_000_000;

/// Called before anything is examined or sent.
pub fn opened(state: &DiskState, tree: &DiskTree, boot: &str) -> CallResult<()> {
    let before = state.note(BOOT_ID_FILE)?.unwrap_or_default();
    if before == boot {
        return Ok(());
    }
    if !before.is_empty() {
        forget_damaged(state, tree)?;
    }
    state.set_note(BOOT_ID_FILE, boot)
}

/// Called at a clean end.
pub fn closed(state: &DiskState) -> CallResult<()> {
    state.set_note(BOOT_ID_FILE, "")
}

fn forget_damaged(state: &DiskState, tree: &DiskTree) -> CallResult<()> {
    let mut newest = i64::MIN;
    each_below(state, "", |_, rows| {
        newest = newest.max(rows.base.seen.map_or(i64::MIN, |seen| seen.ctime));
        Ok::<_, Fault>(true)
    })?;
    let unsynced_since = newest.saturating_sub(UNSYNCED_NANOS);
    pages_below(state, "", |page| {
        let mut writes = Vec::new();
        for (path, rows) in page {
            if had_bytes(path, rows) && is_damaged(tree, path, &rows.base, unsynced_since)? {
                log::warn!("a power loss has damaged {path:?}; keeping the hub's version as well");
                writes.extend(rows.without_base(path));
            }
        }
        state.commit(&writes)?;
        Ok(true)
    })
}

/// Whether a file with bytes was in sync, or was sent.
fn had_bytes(path: &str, rows: &Rows) -> bool {
    let in_sync = rows
        .base
        .entry
        .is_some_and(|e| e.kind == EntryKind::File && e.size > 0);
    let sent = |key: &OpenKey| {
        key.names.first().is_some_and(|name| name == path)
            && key.seen.is_some_and(|seen| seen.size > 0)
    };
    in_sync || rows.key.as_ref().is_some_and(sent)
}

/// Whether a file is empty, or ends in zero bytes and is not the one in sync. A file whose stamp is
/// the one in sync is read only if it was changed after `unsynced_since` (nanoseconds, as `ctime`).
fn is_damaged(
    tree: &DiskTree,
    path: &str,
    base: &BaseRow,
    unsynced_since: i64,
) -> CallResult<bool> {
    let damaged = match tree.stamp(path) {
        Ok(Some(stamp)) if !tree.ignored(path) => {
            let old = base.seen == Some(stamp) && stamp.ctime < unsynced_since;
            !old && ends_in_zeros(tree, path, &stamp) && !is_in_sync(tree, path, base)?
        }
        Ok(_) => false,
        // a file that cannot be examined is not sent either
        Err(Fault::Later(_) | Fault::Refused(_)) => false,
        Err(fault) => return Err(fault),
    };
    Ok(damaged)
}

/// `false` for a file that cannot be read: it is not sent either.
fn ends_in_zeros(tree: &DiskTree, path: &str, stamp: &Stamp) -> bool {
    let reading = tree.read(path, Some(stamp)).ok().flatten();
    reading.is_some_and(|reading| reading.ends_in_zeros().unwrap_or(false))
}

/// Whether the file has the content that was in sync, read anew.
fn is_in_sync(tree: &DiskTree, path: &str, base: &BaseRow) -> CallResult<bool> {
    match tree.examine(path, None) {
        Ok(Presence::Here(local)) => Ok(base.entry.is_some_and(|was| was.same_body(&local.entry))),
        Ok(_) | Err(Fault::Later(_) | Fault::Refused(_)) => Ok(true),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::traits::Write;
    use super::super::plan::{Entry, RemoteRow};
    use super::super::tree::OpenedTree;
    use super::*;
    use crate::wire::files::Hash;
    use uuid::Uuid;

    #[test]
    fn a_file_that_another_boot_damaged_is_compared_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (files, state) = (
            dir.path().join("files"),
            DiskState::open(&dir.path().join("x.redb")).unwrap(),
        );
        std::fs::create_dir(&files).unwrap();
        let OpenedTree::Ready(tree) =
            DiskTree::open(&files, None, Uuid::new_v4(), &["*.o".into()], &[]).unwrap()
        else {
            panic!()
        };
        let entry = |text: &str| {
            Entry::new(
                EntryKind::File,
                Hash::of(text.as_bytes()),
                text.len() as u64,
                0o644,
                0,
            )
        };
        let base = |text: &str| BaseRow {
            rev: 3,
            entry: Some(entry(text)),
            ..BaseRow::default()
        };
        let row = |text: &str| RemoteRow {
            rev: 3,
            entry: Some(entry(text)),
            ..RemoteRow::default()
        };
        let tail = "x".repeat(8192) + &"\0".repeat(100);
        // the last three have the stamp that was in sync
        for (path, was, is) in [
            ("emptied", "x", Some("")),
            ("edited", "x", Some("yy")),
            ("empty", "", Some("")),
            ("gone", "x", None),
            ("a.o", "x", Some("")),
            ("longer", "x", Some("\0\0")),
            ("tail", "x", Some(&tail)),
            ("zero inside", "x", Some("x\0\0x")),
            ("touched zeros", "\0\0", Some("\0\0")),
            ("in sync", "xx", Some("xx")),
            ("in sync zeros", "\0", Some("\0")),
            ("in sync, then lost", "x", Some("\0")),
        ] {
            is.into_iter()
                .for_each(|text| std::fs::write(files.join(path), text).unwrap());
            let seen = path
                .starts_with("in sync")
                .then(|| tree.stamp(path).unwrap().unwrap());
            state
                .commit(&[Write::Base(path.into(), BaseRow { seen, ..base(was) })])
                .unwrap();
            state
                .commit(&[Write::Remote {
                    path: path.into(),
                    row: row(was),
                    listed: false,
                }])
                .unwrap();
        }
        let seen = Some(Stamp {
            inode: 1,
            size: 9,
            mtime: 0,
            ctime: 1,
            mode: 0o644,
        });
        let key = OpenKey {
            key: Uuid::new_v4(),
            names: vec!["new".into()],
            ours: true,
            seen,
        };
        state.commit(&[Write::OpenKey(key)]).unwrap();
        std::fs::write(files.join("new"), "").unwrap();
        let forgotten = || {
            let rows = state.below("", "", 99).unwrap();
            let all: Vec<String> = rows
                .iter()
                .filter(|(_, r)| r.base == BaseRow::default())
                .map(|(path, _)| path.clone())
                .collect();
            (
                all.join("; "),
                rows.iter()
                    .any(|(_, r)| r.key.as_ref().is_some_and(|k| !k.ours)),
            )
        };
        // a clean end before, and a crash within one boot
        for boot in ["one", "one"] {
            opened(&state, &tree, boot).unwrap();
            assert_eq!(forgotten(), ("new".to_string(), false));
        }
        closed(&state).unwrap();
        opened(&state, &tree, "two").unwrap();
        assert_eq!(forgotten(), ("new".to_string(), false));
        opened(&state, &tree, "three").unwrap();
        assert_eq!(
            forgotten(),
            (
                "emptied; in sync, then lost; longer; new; tail".to_string(),
                true
            )
        );
        assert_eq!(state.rows("emptied").unwrap().remote, row("x"));
        assert_eq!(state.note(BOOT_ID_FILE).unwrap().as_deref(), Some("three"));
        assert_eq!(crate::clock::boot_id().unwrap().len(), 36);
    }
}
