//! The order in which work is taken.

use super::*;
use crate::wire::files::BATCH_FILE;

fn examined(rank: Precedence, fresh: Option<Hash>, path: Option<&str>) -> WorkEnd {
    let counted = path.map(|path| {
        (
            DeleteToken {
                path: path.into(),
                base: 1,
                remote: 1,
            },
            Hash::of(path.as_bytes()),
        )
    });
    WorkEnd::Examined(Examined {
        rank,
        way: Direction::Up,
        fresh: fresh.map(|hash| (hash, Direction::Up)),
        bytes: 0,
        counted,
    })
}

/// The next item, as `e path` (examine) or `c path` (carry out).
fn next(queue: &mut WorkQueue) -> String {
    match next_group(queue, 1) {
        Some((paths, Task::Examine)) => format!("e {}", paths.join(" ")),
        Some((paths, Task::CarryOut)) => format!("c {}", paths.join(" ")),
        None => "-".into(),
    }
}

fn next_group(queue: &mut WorkQueue, most: usize) -> Option<(Vec<String>, Task)> {
    queue.next(Precedence::Delete, None, GroupSize::up_to(most))
}

fn queue(paths: &[(&str, Precedence)]) -> WorkQueue {
    let mut queue = WorkQueue::default();
    for (path, rank) in paths {
        assert!(queue.offer(path));
        assert_eq!(next(&mut queue), format!("e {path}"));
        queue.ended(path, examined(*rank, None, None));
    }
    queue
}

#[test]
fn a_name_and_one_above_it_are_never_worked_on_together() {
    let mut d = queue(&[
        ("d", Precedence::Change),
        ("d/x", Precedence::Change),
        ("d/y", Precedence::Change),
        ("d2", Precedence::Change),
    ]);
    assert_eq!(
        (next(&mut d), next(&mut d), next(&mut d)),
        ("c d".into(), "c d2".into(), "-".into())
    );
    d.ended("d", WorkEnd::Settled);
    assert_eq!(
        (next(&mut d), next(&mut d)),
        ("c d/x".into(), "c d/y".into())
    );
    d.offer("d");
    assert_eq!(next(&mut d), "e d");
    d.ended("d", examined(Precedence::Change, None, None));
    assert_eq!(next(&mut d), "-");
    assert!(!d.claim("d/x") && !d.claim("d") && !d.claim("d/x/z") && d.claim("d/z"));
}

#[test]
fn a_path_around_one_is_claimed_if_nothing_else_below_it_is_worked_on() {
    let mut d = WorkQueue::default();
    assert!(d.claim("d/x") && d.claim("d/y"));
    assert!(!d.claim_around("d", "d/x"));
    assert!(!d.claim("d/x"), "it is still worked on");
    d.release("d/y");
    assert!(d.claim_around("d", "d/x"));
    assert!(!d.claim("d/y"));
    d.release_around("d", "d/x");
    assert!(d.claim("d/y") && !d.claim("d/x"));
    // a path is around itself
    assert!(d.claim("e") && d.claim_around("e", "e"));
    d.release_around("e", "e");
    assert!(!d.claim("e"));
}

#[test]
fn deletes_wait_until_all_that_was_offered_before_is_examined() {
    let mut d = WorkQueue::default();
    for path in ["a", "b", "c"] {
        d.offer(path);
    }
    assert_eq!(next(&mut d), "e a");
    d.ended("a", examined(Precedence::Delete, None, Some("a")));
    assert_eq!((next(&mut d), next(&mut d)), ("e b".into(), "e c".into()));
    d.ended(
        "c",
        examined(Precedence::Change, Some(Hash::of(b"c")), None),
    );
    assert_eq!(
        (next(&mut d), d.has_twin("a", &Hash::of(b"c"))),
        ("c c".into(), true)
    );
    d.ended("c", WorkEnd::Settled);
    assert_eq!(
        (next(&mut d), d.has_twin("a", &Hash::of(b"c"))),
        ("-".into(), false)
    );
    d.ended("b", examined(Precedence::Delete, None, Some("b")));
    // later offers do not hold the deletes back forever
    d.offer("z");
    assert_eq!((next(&mut d), next(&mut d)), ("e z".into(), "c a".into()));
    assert_eq!(
        (
            d.next(Precedence::Postponed, None, GroupSize::up_to(9)),
            d.next(
                Precedence::Delete,
                Some(Direction::Down),
                GroupSize::up_to(9)
            )
        ),
        (None, None)
    );
    assert_eq!((d.deletes().count(), d.other_deletes("a", 0)), (2, 1));
    // the other half of a rename may have arrived
    d.offer("y");
    next(&mut d);
    d.ended(
        "y",
        examined(Precedence::Change, Some(Hash::of(b"b")), None),
    );
    assert_eq!((d.other_deletes("a", 0), d.other_deletes("a", 1)), (0, 1));
}

#[test]
fn deletes_wait_while_a_name_that_counted_as_one_is_examined_again() {
    let mut d = WorkQueue::default();
    for path in ["a", "b"] {
        d.offer(path);
        next(&mut d);
        d.ended(path, examined(Precedence::Delete, None, Some(path)));
    }
    // b was the former name of a file that has just been sent
    d.offer("b");
    assert_eq!((next(&mut d), next(&mut d)), ("e b".into(), "-".into()));
    d.ended("b", WorkEnd::Settled);
    assert_eq!((d.deletes().count(), next(&mut d)), (1, "c a".into()));
}

#[test]
fn a_held_delete_counts_while_it_is_examined_again() {
    let mut d = WorkQueue::default();
    d.offer("a");
    next(&mut d);
    d.ended("a", examined(Precedence::Delete, None, Some("a")));
    assert_eq!(next(&mut d), "c a");
    d.ended("a", WorkEnd::Held);
    assert_eq!((d.count(), d.active()), (1, 0));
    d.wake(false);
    assert_eq!(next(&mut d), "-");
    d.wake(true);
    assert_eq!((d.deletes().count(), next(&mut d)), (1, "e a".into()));
    assert_eq!((d.count(), d.active()), (1, 1));
    d.ended("a", examined(Precedence::Change, None, None));
    assert_eq!(d.deletes().count(), 0);
}

#[test]
fn a_path_that_never_comes_into_sync_waits_between_attempts() {
    let mut d = WorkQueue::default();
    d.offer("a");
    let mut turns = 0;
    while let Some((paths, task)) = next_group(&mut d, 9) {
        turns += u32::from(task == Task::CarryOut);
        d.ended(
            &paths[0],
            if task == Task::Examine {
                examined(Precedence::Change, None, None)
            } else {
                WorkEnd::Progress
            },
        );
    }
    d.wake(false);
    assert_eq!(
        ((MAX_TURNS..=2 * MAX_TURNS).contains(&turns), next(&mut d)),
        (true, "e a".into())
    );
}

#[test]
fn a_path_offered_during_work_is_examined_after_it() {
    let mut d = queue(&[("d/x", Precedence::Change), ("d", Precedence::Change)]);
    assert_eq!(next(&mut d), "c d");
    d.offer("d");
    d.ended("d", WorkEnd::Settled);
    assert_eq!(next(&mut d), "e d");
    d.ended("d", WorkEnd::Wait(Some("d/x".into())));
    assert_eq!(next(&mut d), "e d/x");
    d.ended("d/x", WorkEnd::Progress);
    assert_eq!(
        (next(&mut d), next(&mut d), next(&mut d)),
        ("e d/x".into(), "e d".into(), "-".into())
    );
}

#[test]
fn a_group_has_one_task_and_no_name_above_another() {
    let examined = |bytes, rank| {
        WorkEnd::Examined(Examined {
            rank,
            way: Direction::Up,
            fresh: None,
            bytes,
            counted: None,
        })
    };
    let mut d = WorkQueue::default();
    for path in ["a", "d", "d-", "d/x", "e", "f", "g"] {
        d.offer(path);
    }
    assert_eq!(next_group(&mut d, 2).unwrap().0, ["a", "d"]);
    d.ended("a", examined(0, Precedence::Change));
    // examinations are first, in the order of offers
    assert_eq!(next_group(&mut d, 9).unwrap().0.len(), 5);
    for (path, bytes, rank) in [
        ("d", 1, Precedence::Change),
        ("d-", 65_537, Precedence::Change),
        ("d/x", 1, Precedence::Change),
        ("e", 1, Precedence::Delete),
        ("f", 1, Precedence::Change),
        ("g", 65_537, Precedence::Change),
    ] {
        d.ended(path, examined(bytes, rank));
    }
    let mut groups = Vec::new();
    while let Some((group, Task::CarryOut)) = next_group(&mut d, 9) {
        groups.push(group.join(" "));
    }
    // long files go alone; "d/x" waits for "d"
    assert_eq!(groups, ["a d f", "d-", "g", "e"]);
    d.ended("d", WorkEnd::Settled);
    assert_eq!(next(&mut d), "c d/x");
}

#[test]
fn a_group_fits_into_memory() {
    let mut d = WorkQueue::default();
    for n in 0..50 {
        d.offer(&format!("{n:02}"));
    }
    while let Some((paths, Task::Examine)) = next_group(&mut d, 9) {
        for path in paths {
            let found = Examined {
                rank: Precedence::Change,
                way: Direction::Up,
                fresh: None,
                bytes: BATCH_FILE,
                counted: None,
            };
            d.ended(&path, WorkEnd::Examined(found));
        }
        if !d.examines() {
            break;
        }
    }
    let most = (GROUP_BYTES / BATCH_FILE) as usize;
    assert_eq!(next_group(&mut d, 99).unwrap().0.len(), most);
    assert_eq!(next_group(&mut d, 99).unwrap().0.len(), 50 - most);
}

#[test]
fn a_small_group_waits_beside_another_unless_a_file_is_long() {
    let mut q = queue(&[
        ("a", Precedence::Change),
        ("b", Precedence::Change),
        ("z", Precedence::Delete),
    ]);
    let size = |least| GroupSize { least, most: 9 };
    assert_eq!(
        q.next(Precedence::Delete, None, size(3)),
        None,
        "nothing overtakes it"
    );
    assert!(!q.has_work(Precedence::Delete, Direction::Up, 3));
    assert!(q.has_work(Precedence::Delete, Direction::Up, 2));
    let (group, _) = q.next(Precedence::Delete, None, size(2)).unwrap();
    assert_eq!(group, ["a", "b"]);
    // those that are being worked on do not count
    for path in ["c", "d"] {
        q.offer(path);
        assert_eq!(next(&mut q), format!("e {path}"));
        q.ended(path, examined(Precedence::Change, None, None));
    }
    assert_eq!(q.next(Precedence::Delete, None, size(3)), None);
    q.offer("long");
    assert_eq!(next(&mut q), "e long");
    let mut found = examined(Precedence::Change, None, None);
    if let WorkEnd::Examined(found) = &mut found {
        found.bytes = BATCH_FILE + 1;
    }
    q.ended("long", found);
    let (group, _) = q.next(Precedence::Delete, None, size(9)).unwrap();
    assert_eq!(group, ["c", "d"]);
    let (group, _) = q.next(Precedence::Delete, None, size(9)).unwrap();
    assert_eq!(group, ["long"]);
}
