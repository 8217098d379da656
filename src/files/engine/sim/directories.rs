//! Directories that are renamed on the hub, and are moved as a whole here, step by step.

use crate::files::engine::traits::ExpectedRow;

use super::scenes::{Scene, check};
use super::*;

/// Both clients have `d/x` and `d/y`, and are in sync.
pub(super) fn two_files(s: &mut Scene) {
    s.write(0, "d/x", 1);
    s.write(0, "d/y", 2);
    for i in [0, 1, 0] {
        s.sync(i);
    }
}

/// Another machine renames one of them.
pub(super) fn renamed_on_hub(s: &mut Scene, name: &str, content: u64, to: &str) {
    let old = format!("d/{name}");
    let rev = s.world().hub.row(&old).rev;
    s.other(
        &format!("{to}/{name}"),
        content,
        ExpectedRow::Nothing,
        Some((&old, rev)),
    );
}

fn both_renamed(s: &mut Scene) {
    renamed_on_hub(s, "x", 1, "e");
    renamed_on_hub(s, "y", 2, "e");
}

fn inode(s: &Scene, path: &str) -> u64 {
    s.world().clients[1].fs.get(path).map_or(0, |n| n.ino)
}

/// Whether both clients have exactly these files and contents.
fn both_have(s: &Scene, wanted: &[(&str, u64)]) -> bool {
    (0..2).all(|i| {
        let w = s.world();
        let files = w.clients[i].tree().filter(|(_, n)| !n.is_dir());
        let files: Vec<(&str, u64)> = files.map(|(p, n)| (p.as_str(), n.content)).collect();
        files == wanted
    })
}

fn settle(s: &Scene) {
    for i in [1, 0, 1] {
        s.sync(i);
    }
}

#[test]
fn a_directory_that_was_renamed_on_the_hub_is_moved_as_a_whole() {
    check(|s| {
        two_files(s);
        let before = (inode(s, "d"), inode(s, "d/x"), inode(s, "d/y"));
        both_renamed(s);
        settle(s);
        // copies would be other files
        before == (inode(s, "e"), inode(s, "e/x"), inode(s, "e/y"))
            && both_have(s, &[("e/x", 1), ("e/y", 2)])
            && !s.world().clients[1].fs.contains_key("d")
    });
}

#[test]
fn a_directory_of_which_a_part_was_renamed_stays() {
    check(|s| {
        two_files(s);
        let before = inode(s, "d/y");
        renamed_on_hub(s, "x", 1, "e");
        settle(s);
        before == inode(s, "d/y") && both_have(s, &[("d/y", 2), ("e/x", 1)])
    });
}

#[test]
fn a_directory_with_a_file_of_this_machine_stays() {
    for ignored in [false, true] {
        check(|s| {
            two_files(s);
            s.write(1, "d/z", 3);
            if ignored {
                s.world().clients[1].ignored.insert("d/z".into());
            }
            both_renamed(s);
            settle(s);
            s.here(1, "d/z") == 3
                && s.here(1, "e/z") == 0
                && (s.hub("d/z") == 3) != ignored
                && s.here(1, "e/x") == 1
        });
    }
}

#[test]
fn what_a_user_does_in_the_directory_meanwhile_moves_along() {
    check(|s| {
        two_files(s);
        both_renamed(s);
        s.world().meanwhile = Some(|w| {
            // after the last look: an edit, a delete and a new file
            let ctime = w.fresh();
            let fs = &mut w.clients[1].fs;
            let mut edited = fs["d/x"].clone();
            (edited.content, edited.ctime, edited.mtime) = (5, ctime, 5_000_000_000);
            let new = Node {
                ino: ctime + 1000,
                content: 6,
                ..edited.clone()
            };
            fs.insert("d/x".into(), edited);
            fs.insert("d/z".into(), new);
            fs.remove("d/y");
        });
        settle(s);
        s.world().meanwhile.is_none()
            && both_have(s, &[("e/x", 5), ("e/z", 6)])
            && s.hub("e/y") == 0
    });
}

#[test]
fn a_directory_whose_new_name_a_user_takes_stays() {
    check(|s| {
        two_files(s);
        both_renamed(s);
        s.world().meanwhile = Some(|w| {
            w.clients[1].make_parents("e/own");
            let own = Node {
                ino: w.fresh() + 1000,
                content: 7,
                ..w.clients[1].fs["d/x"].clone()
            };
            w.clients[1].fs.insert("e/own".into(), own);
        });
        settle(s);
        both_have(s, &[("e/own", 7), ("e/x", 1), ("e/y", 2)])
    });
}

#[test]
fn a_file_that_was_edited_before_its_directory_was_renamed_is_no_conflict() {
    check(|s| {
        two_files(s);
        s.write(1, "d/x", 5);
        both_renamed(s);
        settle(s);
        s.has(0, 5) && s.has(1, 5) && !s.world().clients[1].fs.keys().any(|p| copy_of(p))
    });
}
