//! A crash at each step of a work item, and the result.

use crate::files::engine::traits::{ExpectedRow, Intent, StagedFile};
use crate::files::plan::{DIR_MODE, LocalEntry};

use super::directories::{renamed_on_hub, two_files};
use super::scenes::Scene;

/// Runs a scene repeatedly, with a crash at the first, second, … step while client 0 works that
/// keeps none, one or all of the commits without a sync, and another event before it starts again;
/// `true`: the result was right each time.
pub(super) fn with_each_crash(
    before: impl Fn(&mut Scene),
    meanwhile: impl Fn(&mut Scene),
    after: impl Fn(&Scene) -> bool,
) -> bool {
    let mut kept = [0, 1, usize::MAX].into_iter();
    kept.all(|kept| with_crashes_that_keep(kept, &before, &meanwhile, &after))
}

fn with_crashes_that_keep(
    kept: usize,
    before: &impl Fn(&mut Scene),
    meanwhile: &impl Fn(&mut Scene),
    after: &impl Fn(&Scene) -> bool,
) -> bool {
    for step in 1..200 {
        let mut s = Scene::new();
        before(&mut s);
        s.poll_all(0);
        s.world().crash_in = Some(step);
        s.world().crash_keeps = Some(kept);
        s.work(0);
        let crashed = s.world().crash_in.take().is_none();
        meanwhile(&mut s);
        s.sync(0);
        s.sync(1);
        s.sync(0);
        let wrongs: Vec<String> = s
            .world()
            .check()
            .into_iter()
            .filter(|w| w.starts_with("I1 c0") || w.starts_with("I1 c1"))
            .collect();
        if !wrongs.is_empty() || !after(&s) {
            println!("crashed at step {step}, {kept} commits are kept: {wrongs:?}");
            return false;
        }
        if !crashed {
            return step > 1;
        }
    }
    panic!("the scene has no end");
}

#[test]
fn a_crash_at_any_step_changes_nothing() {
    let copied = |s: &mut Scene| {
        let mut w = s.world();
        let mut client = w.clients[0].clone();
        w.renumber(&mut client);
        w.clients[0] = client;
    };
    let check = |name: &str, before: &dyn Fn(&mut Scene), after: &dyn Fn(&Scene) -> bool| {
        assert!(with_each_crash(before, |_| (), after), "{name}");
        assert!(
            with_each_crash(before, copied, after),
            "{name}, and then the files are copied"
        );
    };
    let two = |s: &mut Scene| {
        s.write(0, "d/x", 1);
        s.write(0, "y", 2);
        s.sync(0);
        s.sync(1);
    };
    let rev = |s: &Scene, path: &str| s.world().hub.row(path).rev;
    check("upload", &|s| s.write(0, "d/x", 1), &|s| {
        s.here(1, "d/x") == 1
    });
    check(
        "download",
        &|s| s.other("d/x", 1, ExpectedRow::Nothing, None),
        &|s| s.here(0, "d/x") == 1,
    );
    let replaced = |s: &mut Scene| {
        two(s);
        s.other("d/x", 3, ExpectedRow::Rev(rev(s, "d/x").into()), None);
    };
    check("replace", &replaced, &|s| {
        s.here(0, "d/x") == 3 && !s.has(0, 1)
    });
    let conflict = |s: &mut Scene| {
        replaced(s);
        s.write(0, "d/x", 4);
    };
    check("conflict", &conflict, &|s| {
        s.here(0, "d/x") == 3 && s.has(1, 4)
    });
    let directory = |s: &mut Scene| {
        two_files(s);
        renamed_on_hub(s, "x", 1, "e");
        renamed_on_hub(s, "y", 2, "e");
    };
    check("move a directory", &directory, &|s| {
        (0..2).all(|i| s.here(i, "e/x") == 1 && s.here(i, "e/y") == 2 && s.here(i, "d/x") == 0)
            && s.world().clients.iter().all(|c| !c.fs.contains_key("d"))
    });
    let renamed = |s: &mut Scene| {
        two(s);
        let mut w = s.world();
        let node = w.clients[0].fs.remove("y").expect("it is there");
        w.clients[0].fs.insert("z".into(), node);
    };
    check("rename", &renamed, &|s| {
        s.hub("z") == 2 && s.hub("y") == 0 && s.here(1, "y") == 0
    });
    let removed = |s: &mut Scene| {
        two(s);
        s.world().clients[0].fs.remove("y");
    };
    check("delete", &removed, &|s| {
        s.hub("y") == 0 && s.here(1, "y") == 0
    });
    let edited_and_removed = |s: &mut Scene| {
        two(s);
        s.other("y", 0, ExpectedRow::Rev(rev(s, "y").into()), None);
        s.write(0, "y", 7);
    };
    check("the edit wins", &edited_and_removed, &|s| {
        s.hub("y") == 7 && s.here(1, "y") == 7
    });
    let clash = |s: &mut Scene| {
        s.write(0, "d", 5);
        s.other("d/x", 6, ExpectedRow::Nothing, None);
    };
    check("a file in the way", &clash, &|s| {
        s.here(0, "d/x") == 6 && s.has(1, 5)
    });
    let modes = |s: &mut Scene| {
        two(s);
        s.chmod(1, "y", 5);
        s.sync(1);
        s.write(0, "y", 8);
    };
    check("edit and mode", &modes, &|s| {
        s.here(1, "y") == 8 && s.world().clients[1].fs["y"].mode == 5
    });
}

#[test]
fn a_directory_that_was_left_empty_is_not_restored() {
    let before = |s: &mut Scene| {
        s.write(0, "d/x", 1);
        s.sync(0);
        let rev = s.world().hub.row("d/x").rev;
        s.other("d/x", 0, ExpectedRow::Rev(rev.into()), None);
    };
    let gone = |s: &Scene| {
        !s.world().clients[0].fs.contains_key("d") && s.world().hub.row("d").entry.is_none()
    };
    assert!(with_each_crash(before, |_| (), gone));
}

#[test]
fn a_file_in_the_trash_was_not_deleted_by_its_user() {
    let before = |s: &mut Scene| {
        s.write(0, "y", 2);
        s.sync(0);
        s.other("y", 0, ExpectedRow::Rev(1.into()), None);
    };
    // the same bytes are restored before the client finds out how far the move to the trash got
    let again = |s: &mut Scene| s.other("y", 2, ExpectedRow::Nothing, None);
    let here = |s: &Scene| s.hub("y") == 2 && s.here(0, "y") == 2;
    assert!(with_each_crash(before, again, here));
}

#[test]
fn an_edit_that_came_out_is_kept_if_a_copy_gave_it_the_inode_of_what_was_placed() {
    let mut s = Scene::new();
    s.write(0, "a", 1);
    s.sync(0);
    let rev = s.world().hub.row("a").rev;
    s.other("a", 2, ExpectedRow::Rev(rev.into()), None);
    s.poll_all(0);
    {
        let mut w = s.world();
        let row = w.hub.row("a");
        let c = &mut w.clients[0];
        let old = c.fs["a"].clone();
        let over = Some(LocalEntry {
            entry: old.entry(),
            stamp: old.stamp(),
        });
        // the user edited the file just before it was replaced; then the client crashed, and its
        // files were copied
        let (mut placed, mut edited) = (old.clone(), old);
        (placed.content, placed.mtime) = (2, 2_000_000_000);
        (placed.ino, placed.ctime) = (900, 900);
        let temp = ".mesync-0000000000000001.tmp".to_string();
        let stamp = placed.stamp();
        (edited.content, edited.mtime) = (3, 3_000_000_000);
        (edited.ino, placed.ino) = (placed.ino, edited.ino);
        c.fs.insert("a".into(), placed);
        c.fs.insert(temp.clone(), edited);
        c.rows.get_mut("a").expect("it is known").intent = Some(Intent::Place {
            generation: c.feed.generation,
            row,
            mode: 0,
            over,
            staged: StagedFile { temp, stamp },
        });
        c.crashed = true;
    }
    s.sync(0);
    assert!(s.here(0, "a") == 2 && s.has(0, 3));
}

#[test]
fn the_new_mode_of_a_replaced_file_is_not_given_to_what_a_user_puts_there() {
    let before = |s: &mut Scene| {
        s.write(0, "d", 1);
        s.sync(0);
        let at = s.world().hub.row("d").at();
        s.other("d", 2, ExpectedRow::Rev(at), None);
        // in the last moment before it is replaced
        s.world().meanwhile = Some(|w| w.chmod(0, "d", 7));
    };
    let is_as_made = |s: &Scene| {
        let w = s.world();
        let there = &w.clients[0].fs["d"];
        there.mode == if there.is_dir() { DIR_MODE } else { 0 }
    };
    for is_dir in [true, false] {
        let replaced = |s: &mut Scene| {
            let is_early = s.world().meanwhile.take().is_some();
            if is_early || s.world().clients[0].fs["d"].mode == 7 {
                // not replaced yet, or the new mode is already that of the new file
                return;
            }
            s.world().clients[0].fs.remove("d");
            s.write(0, if is_dir { "d/x" } else { "d" }, 3);
        };
        let is_right = |s: &Scene| s.has(0, 3) && is_as_made(s) || s.here(0, "d") == 2;
        assert!(with_each_crash(before, replaced, is_right), "{is_dir}");
    }
}

#[test]
fn a_file_that_left_its_old_name_before_a_crash_was_not_deleted_by_its_user() {
    let rename = |s: &mut Scene, from: &str, to: &str| {
        let rev = s.world().hub.row(from).rev;
        s.other(to, 1, ExpectedRow::Nothing, Some((from, rev)));
    };
    let renamed = |s: &mut Scene| {
        s.write(0, "a", 1);
        s.sync(0);
        s.sync(1);
        rename(s, "a", "b");
    };
    let renamed_back = |s: &mut Scene| rename(s, "b", "a");
    let is_there = |s: &Scene| s.hub("a") == 1 && (0..2).all(|i| s.here(i, "a") == 1);
    assert!(with_each_crash(renamed, renamed_back, is_there));
    // nor is another file at that name its edit
    let written = |s: &mut Scene| {
        renamed_back(s);
        if s.here(0, "a") == 0 {
            s.write(0, "a", 7);
        }
    };
    let is_kept = |s: &Scene| (0..2).all(|i| s.has(i, 1));
    assert!(with_each_crash(renamed, written, is_kept));
}
