//! After a power loss: a file that an editor renamed without a sync may be empty, and that is not an edit.
//!
//! The state has a note of the current boot while the directory is open. A note of another boot
//! means that the machine lost power meanwhile: a file that is empty now and had bytes before is
//! compared anew, so that the hub's version keeps the name and nothing is lost.

use super::engine::pages::pages_below;
use super::engine::traits::{Called, Fault, Look, OpenKey, Rows, State, Tree, Write};
use super::plan::BaseRow;
use super::state::DiskState;
use crate::wire::files::Kind;

const BOOT_ID_FILE: &str = "boot";

/// Called before anything is examined or sent.
pub fn opened(state: &DiskState, tree: &dyn Tree, boot: &str) -> Called<()> {
    let before = state.note(BOOT_ID_FILE)?.unwrap_or_default();
    if before == boot {
        return Ok(());
    }
    if !before.is_empty() {
        forget_emptied(state, tree)?;
    }
    state.set_note(BOOT_ID_FILE, boot)
}

/// Called at a clean end.
pub fn closed(state: &DiskState) -> Called<()> {
    state.set_note(BOOT_ID_FILE, "")
}

fn forget_emptied(state: &DiskState, tree: &dyn Tree) -> Called<()> {
    pages_below(state, "", |page| {
        let mut writes = Vec::new();
        for (path, rows) in page {
            if had_bytes(path, rows) && is_empty_file(tree, path)? {
                log::warn!(
                    "{path:?} was empty after a power loss; keeping the hub's version as well"
                );
                writes.push(Write::Base(path.clone(), BaseRow::default()));
                // an interrupted operation says nothing about the local file
                writes.extend(
                    rows.key
                        .clone()
                        .map(|key| Write::OpenKey(OpenKey { ours: false, ..key })),
                );
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
        .is_some_and(|e| e.kind == Kind::File && e.size > 0);
    let sent = |key: &OpenKey| {
        key.names.first().is_some_and(|name| name == path)
            && key.seen.is_some_and(|seen| seen.size > 0)
    };
    in_sync || rows.key.as_ref().is_some_and(sent)
}

fn is_empty_file(tree: &dyn Tree, path: &str) -> Called<bool> {
    let looked = match tree.stamp(path) {
        Ok(Some(stamp)) if stamp.size == 0 && !tree.ignored(path) => tree.look(path, None),
        Ok(_) => return Ok(false),
        Err(fault) => Err(fault),
    };
    match looked {
        Ok(Look::Here(local)) => Ok(local.entry.kind == Kind::File && local.entry.size == 0),
        // a file that cannot be examined is not sent either
        Ok(_) | Err(Fault::Later(_) | Fault::Refused(_)) => Ok(false),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Entry, RemoteRow, Stamp};
    use super::super::tree::{DiskTree, OpenedTree};
    use super::*;
    use crate::wire::files::Hash;
    use uuid::Uuid;

    #[test]
    fn a_file_that_is_empty_after_another_boot_and_had_bytes_is_compared_anew() {
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
                Kind::File,
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
        for (path, was, is) in [
            ("emptied", "x", Some("")),
            ("edited", "x", Some("yy")),
            ("empty", "", Some("")),
            ("gone", "x", None),
            ("a.o", "x", Some("")),
        ] {
            state
                .commit(&[Write::Base(path.into(), base(was))])
                .unwrap();
            state
                .commit(&[Write::Remote {
                    path: path.into(),
                    row: row(was),
                    listed: false,
                }])
                .unwrap();
            is.into_iter()
                .for_each(|text| std::fs::write(files.join(path), text).unwrap());
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
                all.join(" "),
                rows.iter()
                    .any(|(_, r)| r.key.as_ref().is_some_and(|k| !k.ours)),
            )
        };
        // a clean end before, and a crash within one boot
        for boot in ["one", "one"] {
            opened(&state, &*tree, boot).unwrap();
            assert_eq!(forgotten(), ("new".to_string(), false));
        }
        closed(&state).unwrap();
        opened(&state, &*tree, "two").unwrap();
        assert_eq!(forgotten(), ("new".to_string(), false));
        opened(&state, &*tree, "three").unwrap();
        assert_eq!(forgotten(), ("emptied new".to_string(), true));
        assert_eq!(state.rows("emptied").unwrap().remote, row("x"));
        assert_eq!(state.note(BOOT_ID_FILE).unwrap().as_deref(), Some("three"));
        assert_eq!(crate::clock::boot_id().unwrap().len(), 36);
    }
}
