//! Renames and new modes by users that meet changes on the hub, step by step.

use crate::files::engine::group::WorkGroup;
use crate::files::engine::queue::Task;
use crate::files::engine::traits::ExpectedRow;
use crate::files::plan::DIR_MODE;

use super::scenes::{Scene, check};
use super::world::Node;
use super::*;

/// A user of client 1 renames a file.
fn rename(s: &mut Scene, from: &str, to: &str) {
    rename_on(s, 1, from, to);
}

fn rename_on(s: &mut Scene, i: usize, from: &str, to: &str) {
    let mut w = s.world();
    let ctime = w.fresh();
    let node = w.clients[i].fs.remove(from).expect("it is there");
    w.clients[i].fs.insert(to.into(), Node { ctime, ..node });
}

#[test]
fn a_file_that_a_user_renames_to_a_name_deleted_on_the_hub_stays() {
    for is_rename in [true, false] {
        check(|s| {
            s.write(0, "a", 1);
            s.sync(0);
            s.sync(1);
            // not noticed yet when the hub's file is there under another name
            s.world().clients[1].fs.remove("a");
            let rev = s.world().hub.row("a").rev;
            if is_rename {
                s.other("b", 1, ExpectedRow::Nothing, Some(("a", rev)));
            } else {
                let at = s.world().hub.row("a").at();
                s.other("a", 0, ExpectedRow::Rev(at), None);
                s.other("b", 1, ExpectedRow::Nothing, None);
            }
            s.poll_all(1);
            s.run.work(1, &["b".to_string()], 500, true);
            rename(s, "b", "a");
            s.sync(1);
            s.sync(0);
            s.hub("a") == 1 && (0..2).all(|i| s.here(i, "a") == 1 && s.here(i, "b") == 0)
        });
    }
}

#[test]
fn a_file_that_a_user_renames_to_a_name_edited_on_the_hub_is_kept_beside_it() {
    check(|s| {
        s.write(0, "a", 1);
        s.write(0, "b", 1);
        s.sync(0);
        s.sync(1);
        let at = s.world().hub.row("a").at();
        s.other("a", 2, ExpectedRow::Rev(at), None);
        rename(s, "b", "a");
        s.sync(1);
        s.sync(0);
        (0..2).all(|i| s.here(i, "a") == 2 && s.has(i, 1) && s.here(i, "b") == 0)
    });
}

#[test]
fn two_equal_files_that_are_renamed_to_each_others_names_leave_one() {
    for touched in [&[][..], &["a", "b"]] {
        for is_in_sync in [true, false] {
            check(|s| {
                s.write(0, "a", 1);
                s.sync(0);
                s.sync(1);
                s.write(1, "b", 1);
                s.sync(1);
                if is_in_sync {
                    s.sync(0);
                    rename_on(s, 0, "a", "b");
                } else {
                    // it has heard of the other file only
                    rename_on(s, 0, "a", "b");
                    s.poll_all(0);
                }
                rename(s, "b", "a");
                for path in touched {
                    let at = s.world().hub.row(path).at();
                    s.other(path, 1, ExpectedRow::Rev(at), None);
                    (0..2).for_each(|i| s.poll_all(i));
                }
                // neither hears of the other one's change before its own is sent
                (0..2).for_each(|i| s.work(i));
                (0..3).for_each(|_| (0..2).for_each(|i| s.sync(i)));
                let hub = ["a", "b"].map(|path| s.hub(path));
                hub.contains(&1) && (0..2).all(|i| ["a", "b"].map(|path| s.here(i, path)) == hub)
            });
        }
    }
}

#[test]
fn a_file_that_is_renamed_to_a_name_deleted_elsewhere_keeps_one_of_its_names() {
    for is_known in [true, false] {
        check(|s| {
            s.write(0, "a", 1);
            s.write(0, "b", 1);
            s.sync(0);
            s.sync(1);
            s.world().clients[0].fs.remove("b");
            rename(s, "a", "b");
            s.work(1);
            if is_known {
                s.poll_all(0);
            }
            s.work(0);
            (0..3).for_each(|_| (0..2).for_each(|i| s.sync(i)));
            s.hub("b") == 1 && (0..2).all(|i| s.here(i, "b") == 1 && s.here(i, "a") == 0)
        });
    }
}

#[test]
fn a_file_is_not_compared_with_each_equal_one() {
    const GROUP: usize = 64;
    let reads = |count: usize| {
        let mut s = Scene::new();
        let names = |first: &str| {
            (0..count)
                .map(|n| format!("{first}{n}"))
                .collect::<Vec<_>>()
        };
        let take_all = |s: &Scene, paths: &[String]| {
            let before = s.world().reads;
            let engine = s.run.engine(1);
            offer(&engine, paths);
            while engine.work(GROUP).is_some() {}
            s.world().reads - before
        };
        s.sync(1);
        for path in names("a") {
            s.write(1, &path, 7);
        }
        let new = take_all(&s, &names("a"));
        for path in names("a") {
            s.write(1, &path, 7);
        }
        let replaced = take_all(&s, &names("a"));
        for (from, to) in names("a").iter().zip(&names("b")) {
            rename(&mut s, from, to);
        }
        let renamed = take_all(&s, &[names("b"), names("a")].concat());
        let hub = |first: &str| names(first).iter().filter(|path| s.hub(path) == 7).count();
        assert_eq!((hub("a"), hub("b")), (0, count));
        [new, replaced, renamed]
    };
    let [few, many] = [2, 4].map(|groups| reads(groups * GROUP));
    for (few, many) in few.iter().zip(many) {
        assert!(many < few * 3, "{few} and {many}");
    }
}

#[test]
fn renames_whose_old_names_are_examined_meanwhile_stay_a_group() {
    for examined in [0, 3] {
        let mut s = Scene::new();
        let names = |first: &str| (0..8).map(|n| format!("{first}{n}")).collect::<Vec<_>>();
        let (old, new) = (names("a"), names("b"));
        for (n, path) in old.iter().enumerate() {
            s.write(1, path, 10 + n as u64);
        }
        s.sync(1);
        for (from, to) in old.iter().zip(&new) {
            rename(&mut s, from, to);
        }
        let engine = s.run.engine(1);
        let work = || engine.take(None, GroupSize::up_to(100)).expect("there is");
        let progress = |reports: Vec<WorkReport>| {
            let is_done = |r: &&WorkReport| r.outcome == WorkOutcome::Progress;
            reports.iter().filter(is_done).count()
        };
        offer(&engine, &new);
        engine.carry_out(work());
        // another worker has these
        offer(&engine, &old[examined..]);
        let examination = work();
        let renames = work();
        assert_eq!(renames.len(), 8);
        assert_eq!(progress(engine.carry_out(renames)), examined);
        engine.carry_out(examination);
        let rest = loop {
            match work() {
                group @ WorkGroup::Paths {
                    task: Task::Examine,
                    ..
                } => drop(engine.carry_out(group)),
                group => break group,
            }
        };
        assert_eq!(rest.len(), 8 - examined, "without a wake-up, and together");
        assert_eq!(progress(engine.carry_out(rest)), 8 - examined);
        s.sync(1);
        s.sync(0);
        assert!((0..8).all(|n| s.here(0, &new[n]) == 10 + n as u64 && s.here(0, &old[n]) == 0));
    }
}

#[test]
fn the_new_mode_of_a_file_is_not_given_to_the_directory_that_replaces_it() {
    for is_replaced_by_dir in [true, false] {
        let mut s = Scene::new();
        s.write(0, "d", 1);
        s.sync(0);
        s.sync(1);
        if is_replaced_by_dir {
            let mut w = s.world();
            w.clients[0].fs.remove("d");
            w.clients[0].make_parents("d/x");
            drop(w);
            s.sync(0);
        } else {
            let at = s.world().hub.row("d").at();
            s.other("d", 2, ExpectedRow::Rev(at), None);
        }
        s.world().meanwhile = Some(|w| w.chmod(1, "d", 7));
        s.sync(1);
        s.sync(0);
        assert!(s.world().meanwhile.is_none());
        let modes = [0, 1].map(|i| s.world().clients[i].fs["d"].mode);
        let wanted = if is_replaced_by_dir { DIR_MODE } else { 7 };
        assert_eq!(modes, [wanted; 2]);
    }
}

#[test]
fn a_file_that_gets_the_name_of_an_equal_one_deleted_on_the_hub_and_a_new_mode_stays() {
    check(|s| {
        s.write(1, "a", 1);
        s.write(1, "b", 1);
        s.sync(1);
        s.sync(0);
        s.sync(1);
        let at = s.world().hub.row("a").at();
        s.other("a", 0, ExpectedRow::Rev(at), None);
        s.world().clients[1].fs.remove("a");
        rename(s, "b", "a");
        s.chmod(1, "a", 5);
        s.sync(1);
        s.sync(0);
        s.hub("a") == 1 && (0..2).all(|i| s.here(i, "a") == 1)
    });
}
