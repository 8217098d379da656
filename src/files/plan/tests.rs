//! The merge of one path, case by case.

use super::*;

/// `-`: nothing; `x`: a file with content x and mode 0; `x5`: with mode 5; `d`: a directory; `l5`: a link.
fn entry(text: &str) -> Option<Entry> {
    let mode = text[1..].parse().unwrap_or(0);
    match &text[..1] {
        "-" => None,
        "d" => Some(Entry::dir(mode, 0)),
        "l" => Some(Entry::new(EntryKind::Symlink, Hash::of(b"l"), 1, mode, 0)),
        content => Some(Entry::new(
            EntryKind::File,
            Hash::of(content.as_bytes()),
            1,
            mode,
            0,
        )),
    }
}

fn stamp(entry: &Entry) -> Stamp {
    Stamp {
        inode: 1,
        size: 1,
        mtime: entry.mtime,
        ctime: 1,
        mode: entry.mode,
    }
}

/// The remote side `=`: the same as the base.
fn check(base: &str, local: &str, remote: &str, action: Action, mode: u32) {
    let b = BaseRow {
        rev: u64::from(base != "-"),
        entry: entry(base),
        seen: entry(base).as_ref().map(stamp),
        ..BaseRow::default()
    };
    let l = entry(local).map(|entry| LocalEntry {
        entry,
        stamp: stamp(&entry),
    });
    let r = match remote {
        "=" => RemoteRow {
            rev: b.rev,
            entry: b.entry,
            ..RemoteRow::default()
        },
        other => RemoteRow {
            rev: 9,
            entry: entry(other),
            ..RemoteRow::default()
        },
    };
    let got = plan(&b, l.as_ref(), &r);
    let wanted = if matches!(
        action,
        Action::Nothing | Action::Forget | Action::Delete | Action::Trash
    ) {
        got.mode
    } else {
        mode
    };
    assert_eq!(
        (got.action, got.mode),
        (action, wanted),
        "{base} {local} {remote}: {}",
        got.why
    );
}

#[test]
fn each_pair_of_changes_has_its_action() {
    use Action::*;
    // local: unchanged, created, modified, deleted; remote: unchanged, created, modified, deleted
    check("x", "x", "=", Nothing, 0);
    check("-", "-", "x", Download, 0);
    check("x", "x", "y", Download, 0);
    check("x", "x", "-", Trash, 0);
    check("-", "x", "=", Upload, 0);
    check("-", "x", "x", Adopt, 0);
    check("-", "x", "y", Conflict, 0);
    check("-", "x", "-", Upload, 0);
    check("x", "y", "=", Upload, 0);
    check("x", "y", "z", Conflict, 0);
    check("x", "y", "y", Adopt, 0);
    check("x", "y", "-", Upload, 0);
    check("x", "-", "=", Delete, 0);
    check("-", "-", "=", Nothing, 0);
    check("x", "-", "y", Download, 0);
    check("x", "-", "-", Forget, 0);
}

#[test]
fn modes_are_merged_apart_from_contents() {
    use Action::*;
    check("x1", "x2", "=", Upload, 2);
    check("x1", "x1", "x3", Adopt, 3);
    check("x1", "x2", "x3", Adopt, 3);
    check("x1", "x2", "y1", Download, 2);
    check("x1", "x2", "y3", Download, 3);
    check("x1", "y1", "x3", Upload, 3);
    check("x1", "y2", "x1", Upload, 2);
    check("x1", "y2", "z1", Conflict, 1);
    // a mode alone does not win over a delete
    check("x1", "-", "x2", Delete, 0);
    check("x1", "x2", "-", Trash, 0);
}

#[test]
fn a_change_of_kind_is_an_edit_and_takes_its_own_mode() {
    use Action::*;
    check("x1", "l", "=", Upload, MODE);
    check("x1", "l", "x2", Upload, MODE);
    check("x1", "x2", "l", Download, MODE);
    check("l", "x3", "=", Upload, 3);
    check("x1", "d", "=", Upload, 0);
    check("x1", "d", "y1", Conflict, 1);
    check("d", "x1", "-", Upload, 1);
    check("d", "d", "-", Trash, 0);
}

#[test]
fn one_way_leaves_the_other_side_alone() {
    use Action::*;
    let check =
        |base: &str, local: &str, remote: &str, sends: (Action, u32), receives: (Action, u32)| {
            let b = BaseRow {
                rev: u64::from(base != "-"),
                entry: entry(base),
                seen: entry(base).as_ref().map(stamp),
                ..BaseRow::default()
            };
            let l = entry(local).map(|entry| LocalEntry {
                entry,
                stamp: stamp(&entry),
            });
            let r = RemoteRow {
                rev: if remote == base { b.rev } else { 9 },
                entry: entry(remote),
                ..RemoteRow::default()
            };
            let decided = plan(&b, l.as_ref(), &r);
            let way = |mode| one_way(decided, mode, &b, l.as_ref(), &r);
            let got = |mode| (way(mode).action, way(mode).mode);
            assert_eq!(
                (got(SyncMode::SendOnly), got(SyncMode::ReceiveOnly)),
                (sends, receives),
                "{base} {local} {remote}"
            );
            assert_eq!(way(SyncMode::TwoWay), decided);
        };
    check("-", "-", "x1", (Nothing, 0), (Download, 1));
    check("x1", "x1", "-", (Nothing, 0), (Trash, 1));
    check("x1", "y2", "z3", (Upload, 2), (Conflict, 3));
    check("x1", "x2", "x3", (Adopt, 2), (Adopt, 3));
    check("x1", "y1", "x1", (Upload, 1), (Nothing, 0));
    check("x1", "-", "x1", (Delete, 0), (Nothing, 0));
    check("x1", "y1", "-", (Upload, 1), (Nothing, 0));
}

#[test]
fn a_mode_that_the_filesystem_cannot_keep_is_no_change() {
    let theirs = Entry {
        mtime: 1_999_999_999,
        ..entry("x3").unwrap()
    };
    let found = Entry {
        mode: 0o755,
        mtime: 1_000_000_000,
        ..theirs
    };
    let base = BaseRow {
        rev: 1,
        entry: Some(theirs),
        seen: Some(stamp(&found)),
        ..BaseRow::default()
    };
    let local = LocalEntry {
        entry: found,
        stamp: stamp(&found),
    };
    let remote = RemoteRow {
        rev: 1,
        entry: Some(theirs),
        ..RemoteRow::default()
    };
    assert_eq!(plan(&base, Some(&local), &remote).action, Action::Nothing);
    assert_eq!(
        (local_mode(&base, &local), local_mtime(&base, &local)),
        (3, 1_999_999_999)
    );
    // an edit does not send back a mode that the filesystem made up
    let edited = LocalEntry {
        entry: Entry {
            hash: Hash::of(b"y"),
            ..found
        },
        ..local
    };
    assert_eq!(
        (
            plan(&base, Some(&edited), &remote).action,
            plan(&base, Some(&edited), &remote).mode
        ),
        (Action::Upload, 3)
    );
}
