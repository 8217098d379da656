//! Hubs that are set back, step by step.

use crate::files::engine::traits::ExpectedRow;

use super::copy_of;
use super::hub::SimHub;
use super::scenes::{Scene, check};

/// Clients 0 and 1 agree on an edit, a delete, a rename, a mode and a new file; the hub forgets all
/// of it.
fn agreed_and_set_back(s: &mut Scene, put_back: fn(&mut SimHub, &SimHub)) {
    for (n, path) in ["edited", "deleted", "old", "mode", "kept"]
        .into_iter()
        .enumerate()
    {
        s.write(0, path, 1 + n as u64);
    }
    s.sync(0);
    s.sync(1);
    let copy = s.world().hub.clone();
    s.write(0, "edited", 20);
    s.write(1, "new", 21);
    s.chmod(1, "mode", 7);
    {
        let mut w = s.world();
        w.clients[0].fs.remove("deleted");
        let node = w.clients[0].fs.remove("old").expect("it is there");
        w.clients[0].fs.insert("renamed".into(), node);
    }
    for _ in 0..2 {
        s.sync(0);
        s.sync(1);
    }
    assert_eq!(
        (
            s.hub("edited"),
            s.hub("deleted"),
            s.here(1, "renamed"),
            s.here(0, "new")
        ),
        (20, 0, 3, 21)
    );
    put_back(&mut s.world().hub, &copy);
}

/// Whether both have all of it, and nothing else.
fn as_agreed(s: &Scene) -> bool {
    let wants = [
        ("edited", 20),
        ("renamed", 3),
        ("mode", 4),
        ("kept", 5),
        ("new", 21),
    ];
    let whole = |i: usize| {
        let w = s.world();
        w.clients[i].tree().count() == wants.len()
            && w.clients[i]
                .fs
                .get("mode")
                .is_some_and(|node| node.mode == 7)
    };
    (0..2).all(|i| {
        whole(i)
            && wants
                .iter()
                .all(|(path, n)| s.here(i, path) == *n && s.hub(path) == *n)
    })
}

/// Changes that two clients agreed on are not undone when the hub loses them.
fn check_nothing_is_undone(put_back: fn(&mut SimHub, &SimHub)) {
    check(|s| {
        agreed_and_set_back(s, put_back);
        for _ in 0..3 {
            s.sync(0);
            s.sync(1);
        }
        as_agreed(s)
    });
}

#[test]
fn a_hub_that_was_set_back_and_knows_it_undoes_nothing() {
    check_nothing_is_undone(|hub, copy| hub.set_back(copy, true));
}

#[test]
fn a_hub_that_was_set_back_unnoticed_undoes_nothing() {
    check_nothing_is_undone(|hub, copy| hub.set_back(copy, false));
}

#[test]
fn a_hub_that_was_restored_from_a_backup_undoes_nothing() {
    check_nothing_is_undone(SimHub::restore_known);
}

#[test]
fn a_copy_that_was_overtaken_before_a_client_looked_is_noticed() {
    check(|s| {
        agreed_and_set_back(s, |hub, copy| hub.set_back(copy, true));
        // a third client makes as many changes as were lost, and edits the files that the others
        // edited
        let rev = s.world().hub.row("edited").rev;
        s.other("edited", 30, ExpectedRow::Rev(rev.into()), None);
        (0..12).for_each(|n| s.other(&format!("q{n}"), 40 + n, ExpectedRow::Nothing, None));
        for _ in 0..3 {
            s.sync(0);
            s.sync(1);
        }
        let both = |n: u64| s.has(0, n) && s.has(1, n);
        (0..12).all(|n| both(40 + n))
            && both(20)
            && both(30)
            && s.hub("edited") == 30
            && s.hub("deleted") == 0
            && s.hub("new") == 21
    });
}

#[test]
fn a_delete_that_a_restored_hub_does_not_know_to_be_void_leaves_the_file_in_the_trash() {
    check(|s| {
        s.write(0, "a", 1);
        s.sync(0);
        s.sync(1);
        let copy = s.world().hub.clone();
        let removed = s.world().clients[0].fs.remove("a").expect("it is there");
        s.world().lose_requests = true;
        s.work(0);
        s.world().lose_requests = false;
        // the user puts the file back, and the hub promises that it will not make the delete
        s.world().clients[0].fs.insert("a".into(), removed);
        s.sync(0);
        assert!(s.world().clients[0].rows("a").key.is_none());
        s.world().hub.set_back(&copy, false);
        let rev = s.world().hub.row("a").at();
        s.other("a", 0, ExpectedRow::Rev(rev), None);
        s.sync(0);
        s.sync(1);
        let is_in_trash = |i: usize| {
            let w = s.world();
            let mut names = w.clients[i].fs.iter();
            names.any(|(path, node)| path.starts_with(".mesync/trash/") && node.content == 1)
        };
        (0..2).all(|i| is_in_trash(i) && s.here(i, "a") == 0)
    });
}

#[test]
fn a_commit_that_fails_while_a_page_is_fetched_loses_no_rows_before_it() {
    check(|s| {
        let names: Vec<String> = (0..6).map(|n| format!("f{n}")).collect();
        for path in &names {
            s.other(path, 1, ExpectedRow::Nothing, None);
        }
        s.world().lose_commits = true;
        s.poll_all(0);
        s.world().lose_commits = false;
        s.sync(0);
        names.iter().all(|path| s.here(0, path) == 1)
    });
}

#[test]
fn half_a_rename_is_not_sent_again_to_a_hub_that_was_set_back() {
    check(|s| {
        s.other("d", 1, ExpectedRow::Nothing, None);
        let copy = s.world().hub.clone();
        s.write(0, "d/x", 2);
        s.poll_all(0);
        // the hub's file has its conflict name there, and not yet here
        s.run.work(0, &["d".to_string()], 1, true);
        while s.hub("d") == 1 {
            s.run.work(0, &[], 1, false);
        }
        // a restart, after which only the old name is examined
        s.world().engines[0] = None;
        s.run.work(0, &["d".to_string()], 10, true);
        assert!(s.world().clients[0].rows("d").base.rev > 0);
        assert!(!s.has(0, 1));
        s.world().hub.set_back(&copy, false);
        s.sync(0);
        s.sync(0);
        s.has(0, 1) && s.here(0, "d/x") == 2
    });
}

#[test]
fn a_file_that_made_way_for_a_directory_is_not_deleted_after_the_hub_was_set_back() {
    check(|s| {
        s.other("d", 28, ExpectedRow::Nothing, None);
        let copy = s.world().hub.clone();
        s.world().clients[1].make_parents("d/x");
        s.sync(1);
        // the file has not arrived under its new name
        let is_new_name = |path: &&String| copy_of(path);
        let new_name = s.world().hub.rows.keys().find(is_new_name).cloned();
        s.world().clients[0].ignored.extend(new_name);
        s.sync(0);
        s.world().clients[0].fs.remove("d");
        s.world().hub.set_back(&copy, true);
        s.sync(0);
        s.hub("d") == 28
    });
}
