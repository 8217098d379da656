//! Bursts of deletes, step by step.

use std::time::Duration;

use super::scenes::Scene;
use super::*;
use crate::files::engine::QuietTimes;

const QUIET: QuietTimes = QuietTimes {
    after_one: Duration::from_secs(1),
    after_more: Duration::from_secs(10),
    after_one_of_hub: Duration::from_secs(1),
    after_more_of_hub: Duration::from_secs(2),
};

/// Two clients in sync, with `a0` to `a5`.
fn pair() -> Scene {
    let s = Scene::new();
    s.world().config = Config::Guard;
    s.world().quiet = QUIET;
    for n in 0..6 {
        s.write(0, &format!("a{n}"), 10 + n);
    }
    s.sync(0);
    s.sync(1);
    s
}

impl Scene {
    fn remove(&self, i: usize, path: &str) {
        self.world().clients[i].fs.remove(path);
    }

    fn passes(&self, time: Duration) {
        self.world().elapsed += time;
    }

    fn left(&self) -> usize {
        (0..6).filter(|n| self.hub(&format!("a{n}")) != 0).count()
    }
}

/// Deletes one by one, with time to carry out each.
fn slow_burst() -> (usize, usize) {
    let s = pair();
    for n in 0..5 {
        s.remove(0, &format!("a{n}"));
        s.sync(0);
        s.passes(Duration::from_millis(if n == 0 { 500 } else { 5000 }));
    }
    s.passes(Duration::from_secs(20));
    s.sync(0);
    (s.left(), s.run.engine(0).deletes().len())
}

#[test]
fn a_burst_is_held_whole() {
    assert_eq!(slow_burst(), (6, 5));
}

#[test]
fn a_single_delete_passes_after_a_moment_and_a_few_together() {
    let s = pair();
    s.remove(0, "a0");
    s.sync(0);
    assert_eq!(s.left(), 6);
    s.passes(Duration::from_secs(1));
    s.sync(0);
    assert_eq!(s.left(), 5);
    s.remove(0, "a1");
    s.sync(0);
    s.passes(QUIET.after_more);
    s.sync(0);
    assert_eq!((s.left(), s.run.engine(0).deletes().len()), (4, 0));
}

/// A program deletes slowly: the first is gone before the second is known, and no more.
#[test]
fn deletes_that_follow_a_single_one_wait_for_the_end() {
    let s = pair();
    for n in 0..5 {
        s.remove(0, &format!("a{n}"));
        s.sync(0);
        s.passes(Duration::from_secs(1));
        s.sync(0);
    }
    s.passes(Duration::from_secs(20));
    s.sync(0);
    assert_eq!((s.left(), s.run.engine(0).deletes().len()), (5, 4));
}

/// Only the first of many deletes is known, because the events of the others are late.
#[test]
fn a_single_delete_looks_at_the_files_beside_it() {
    let s = pair();
    (0..5).for_each(|n| s.remove(0, &format!("a{n}")));
    s.run.work(0, &["a3".into()], 500, true);
    s.passes(QUIET.after_one);
    for _ in 0..20 {
        s.run.engine(0).wake(false);
        s.run.work(0, &[], 500, true);
        s.passes(Duration::from_secs(1));
    }
    s.passes(QUIET.after_more);
    s.sync(0);
    assert_eq!((s.left(), s.run.engine(0).deletes().len()), (6, 5));
}

/// The other client receives a burst from the hub in pieces.
#[test]
fn a_burst_that_arrives_in_pieces_is_held_whole() {
    let s = pair();
    (0..5).for_each(|n| s.remove(0, &format!("a{n}")));
    s.sync(0);
    s.passes(QUIET.after_more);
    s.sync(0);
    let listed = s.run.engine(0).deletes();
    assert_eq!((s.left(), listed.len()), (6, 5));
    for token in listed {
        s.world().clients[0].listed_tokens.insert(token.clone());
        s.run
            .engine(0)
            .approve(vec![token])
            .expect("nothing fails here");
        s.sync(0);
        s.sync(1);
        s.passes(Duration::from_millis(900));
    }
    s.passes(QUIET.after_more);
    s.sync(1);
    assert_eq!((s.left(), s.run.engine(1).deletes().len()), (1, 5));
    assert!((0..6).all(|n| s.here(1, &format!("a{n}")) != 0));
}

fn renames_over() -> (usize, usize, u64) {
    let s = pair();
    for n in 0..3 {
        let mut w = s.world();
        let ctime = w.fresh();
        let mut node = w.clients[0]
            .fs
            .remove(&format!("a{n}"))
            .expect("it is there");
        node.ctime = ctime;
        w.clients[0].fs.insert(format!("a{}", n + 3), node);
    }
    for _ in 0..2 {
        s.passes(QUIET.after_more);
        s.sync(0);
        s.sync(1);
    }
    (
        s.run.engine(0).deletes().len(),
        s.run.engine(1).deletes().len(),
        s.here(1, "a3"),
    )
}

#[test]
fn a_rename_onto_an_existing_name_is_no_delete() {
    assert_eq!(renames_over(), (0, 0, 10));
}

/// Five files are moved from one directory of a machine to another; all with the same bytes, if
/// `equal`. `come` of them arrive there. Returns how many deletes are held, and how many files
/// remain.
fn moves_between(equal: bool, come: u64) -> (usize, usize) {
    let s = pair();
    let content = |n: u64| if equal { 10 } else { 10 + n };
    (0..5).for_each(|n| s.write(0, &format!("a{n}"), content(n)));
    s.sync(0);
    s.sync(1);
    let neighbours = Arc::default();
    (0..2).for_each(|i| s.run.engine(i).join(&neighbours, &format!("directory {i}")));
    for n in 0..5 {
        s.remove(0, &format!("a{n}"));
        if n < come {
            s.write(1, &format!("b{n}"), content(n));
            let now = s.run.engine(1).env.ambient.now();
            let age = Duration::from_secs(3500);
            let ctime = crate::clock::millis(now - age) * 1_000_000 + n;
            s.world().clients[1]
                .fs
                .get_mut(&format!("b{n}"))
                .expect("it was written")
                .ctime = ctime;
        }
    }
    // the deletes are noticed first
    s.sync(0);
    s.passes(QUIET.after_more);
    s.sync(0);
    s.sync(1);
    s.run.engine(0).wake(true);
    s.passes(QUIET.after_more);
    s.sync(0);
    assert!((0..come).all(|n| s.hub(&format!("b{n}")) == content(n)));
    (s.run.engine(0).held(), s.left())
}

#[test]
fn a_move_to_another_directory_is_no_delete() {
    assert_eq!(moves_between(false, 5), (0, 1));
    assert_eq!(moves_between(true, 5), (0, 1));
}

#[test]
fn each_new_file_is_the_move_of_one_deleted_file() {
    assert_eq!(moves_between(true, 1), (4, 5));
}

/// For example empty files: once some have been renamed, their new names have the same bytes too.
#[test]
fn many_equal_files_may_be_renamed() {
    let s = pair();
    (0..60).for_each(|n| s.write(0, &format!("e{n}"), 99));
    s.sync(0);
    s.sync(1);
    for n in 0..60 {
        s.remove(0, &format!("e{n}"));
        s.write(0, &format!("b{n}"), 99);
    }
    for _ in 0..3 {
        s.sync(0);
        s.passes(QUIET.after_more);
        s.sync(1);
    }
    assert_eq!((s.run.engine(0).held(), s.run.engine(1).held()), (0, 0));
    assert!((0..60).all(|n| s.hub(&format!("e{n}")) == 0
        && s.hub(&format!("b{n}")) == 99
        && s.here(1, &format!("b{n}")) == 99));
}
