//! The debounce by itself: events and times in, hints out.

use super::*;
use proptest::prelude::*;

const QUIET: u64 = 500;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Each step: a time in ms, the event ("-" for none), and the resulting hints.
fn check(steps: &[(u64, &str, &[&str])]) {
    let mut debounce = Debounce::new(ms(QUIET));
    for (at, event, wants) in steps {
        let (what, path) = event.split_once(' ').unwrap_or((event, ""));
        let what = match what {
            "close" => Some(ChangeKind::Complete),
            "write" => Some(ChangeKind::Touched),
            "found" => Some(ChangeKind::Found),
            "tree" => Some(ChangeKind::Tree),
            "chmod" => Some(ChangeKind::Mode),
            "rm" => Some(ChangeKind::Removed),
            "away" => Some(ChangeKind::MovedAway),
            "mvdir" => Some(ChangeKind::CompleteTree),
            "awaydir" => Some(ChangeKind::MovedAwayTree),
            "rmdir" => Some(ChangeKind::RemovedTree),
            _ => None,
        };
        let mut got: Vec<Hint> = std::iter::from_fn(|| debounce.due(ms(*at))).collect();
        got.extend(what.and_then(|what| debounce.happened(path, what, ms(*at))));
        let got: Vec<String> = got.into_iter().map(show).collect();
        assert_eq!(got, *wants, "at {at}: {event}");
    }
}

fn show(hint: Hint) -> String {
    match hint {
        Hint::Path(path) => path,
        Hint::Entries(path) => format!("{path}/*"),
        Hint::Tree(path) => format!("{path}/**"),
    }
}

#[test]
fn a_file_of_a_new_directory_waits_for_a_moment_or_until_it_is_closed() {
    check(&[
        (0, "found new/a", &[]),
        (0, "tree new", &[]),
        (99, "-", &[]),
        (100, "-", &["new/a"]),
        (500, "-", &["new/**"]),
    ]);
    check(&[
        (0, "found new/a", &[]),
        (10, "write new/a", &[]),
        (400, "write new/a", &[]),
        (450, "close new/a", &["new/a"]),
    ]);
    check(&[
        (0, "write new/a", &[]),
        (1, "found new/a", &[]),
        (400, "-", &[]),
        (501, "-", &["new/a"]),
    ]);
}

#[test]
fn an_isolated_change_is_reported_at_once_and_a_storm_is_coalesced() {
    check(&[
        (0, "write a", &[]),
        (1, "write a", &[]),
        (2, "close a", &["a"]),
        (600, "-", &[]),
    ]);
    check(&[
        (0, "close a", &["a"]),
        (100, "close a", &[]),
        (200, "close a", &[]),
        (699, "-", &[]),
        (700, "-", &["a"]),
    ]);
    check(&[
        (0, "close a", &["a"]),
        (501, "close a", &["a"]),
        (502, "close b", &["b"]),
    ]);
    // after a storm the path must become quiet again
    check(&[
        (0, "close a", &["a"]),
        (400, "close a", &[]),
        (900, "close a", &["a"]),
        (1300, "-", &[]),
        (1400, "-", &["a"]),
    ]);
    // a long write is one change
    check(&[
        (0, "write a", &[]),
        (400, "write a", &[]),
        (800, "write a", &[]),
        (1000, "close a", &["a"]),
        (9000, "-", &[]),
    ]);
}

#[test]
fn a_path_that_is_never_quiet_is_reported_after_ten_quiet_times() {
    let mut debounce = Debounce::new(ms(QUIET));
    let mut told = Vec::new();
    for at in (0..20_000).step_by(100) {
        told.extend(std::iter::from_fn(|| debounce.due(ms(at))).map(|_| at));
        told.extend(
            debounce
                .happened("log", ChangeKind::Touched, ms(at))
                .map(|_| at),
        );
    }
    assert_eq!(told, [5000, 10_000, 15_000]);
}

#[test]
fn changes_that_another_may_follow_wait_for_it() {
    check(&[
        (0, "write a", &[]),
        (499, "-", &[]),
        (500, "-", &["a"]),
        (501, "write a", &[]),
        (1000, "-", &[]),
        (1001, "-", &["a"]),
    ]);
    // an editor that moves the old file away and writes a new one: one rescan
    check(&[
        (0, "write a", &[]),
        (1, "write a", &[]),
        (3, "close a", &["a"]),
        (2000, "-", &[]),
    ]);
    check(&[
        (0, "tree d", &[]),
        (500, "-", &["d/**"]),
        (600, "write d", &[]),
        (1100, "-", &["d"]),
    ]);
    check(&[
        (0, "write d", &[]),
        (100, "tree d", &[]),
        (600, "-", &["d/**"]),
    ]);
}

#[test]
fn isolated_removals_and_modes_are_reported_at_once() {
    check(&[
        (0, "rm a", &["a"]),
        (1, "chmod b", &["b"]),
        (2, "rmdir d", &["d/**"]),
        (900, "-", &[]),
    ]);
    // the new name first
    check(&[
        (0, "away a", &[]),
        (0, "close b", &["b"]),
        (0, "awaydir d", &[]),
        (0, "mvdir e", &["e/**"]),
        (99, "-", &[]),
        (100, "-", &["a", "d/**"]),
    ]);
    // a file gets its mode while it is written
    check(&[
        (0, "write a", &[]),
        (1, "chmod a", &[]),
        (2, "close a", &["a"]),
    ]);
    // a temporary file
    check(&[(0, "write a", &[]), (1, "rm a", &["a"]), (999, "-", &[])]);
    // after another change a removal waits for a moment, and a mode for the quiet time
    check(&[
        (0, "close a", &["a"]),
        (50, "rm a", &[]),
        (149, "-", &[]),
        (150, "-", &["a"]),
    ]);
    check(&[
        (0, "close a", &["a"]),
        (50, "chmod a", &[]),
        (549, "-", &[]),
        (550, "-", &["a"]),
    ]);
}

#[test]
fn a_removed_directory_is_reported_with_everything_below_it() {
    let mut debounce = Debounce::new(ms(QUIET));
    for i in 0..1000 {
        debounce.happened(&format!("d/{i}"), ChangeKind::Removed, ms(i / 10));
    }
    debounce.happened("dd", ChangeKind::Touched, ms(100));
    let hint = debounce.happened("d", ChangeKind::RemovedTree, ms(100));
    assert_eq!(hint, Some(Hint::Tree("d".into())));
    let rest: Vec<Hint> = std::iter::from_fn(|| debounce.due(ms(9000))).collect();
    assert_eq!(rest, [Hint::Path("dd".into())]);
    assert_eq!(debounce.paths, 1);
    assert_eq!((debounce.due(ms(99_000)), debounce.paths), (None, 0));
    // not yet removed: its files are reported together, soon
    for i in 0..1000 {
        debounce.happened(&format!("d/{i}"), ChangeKind::Removed, ms(100_000));
    }
    assert_eq!(debounce.due(ms(100_099)), None);
    assert_eq!(debounce.due(ms(100_100)), Some(Hint::Entries("d".into())));
}

#[test]
fn a_directory_that_keeps_changing_is_listed_now_and_then() {
    let mut debounce = Debounce::new(ms(QUIET));
    let mut listed = Vec::new();
    for at in 0..12_000 {
        listed.extend(debounce.due(ms(at)).map(|hint| (at, show(hint))));
        debounce.happened(&format!("d/{at}"), ChangeKind::Complete, ms(at));
    }
    let times: Vec<u64> = listed.iter().map(|(at, _)| *at).collect();
    assert!(listed.iter().all(|(_, hint)| hint == "d/*"));
    assert_eq!(times, [5128, 10_128]);
}

#[test]
fn much_in_one_directory_becomes_the_directory() {
    let mut debounce = Debounce::new(ms(QUIET));
    for i in 0..1000 {
        let hint = debounce.happened(&format!("d/{i}"), ChangeKind::Complete, ms(i));
        assert_eq!(hint.is_some(), i < IN_A_DIRECTORY as u64, "{i}");
    }
    assert_eq!(
        debounce.happened("e/x", ChangeKind::Complete, ms(1000)),
        Some(Hint::Path("e/x".into()))
    );
    assert_eq!(debounce.due(ms(1098)), None);
    assert_eq!(debounce.due(ms(1099)), Some(Hint::Entries("d".into())));
    assert_eq!(
        (debounce.due(ms(9000)), debounce.next(), debounce.paths),
        (None, None, 0)
    );
    // the root, with a directory among its other paths
    for i in 0..200 {
        debounce.happened(
            &i.to_string(),
            if i == 50 {
                ChangeKind::Tree
            } else {
                ChangeKind::Touched
            },
            ms(10_000),
        );
    }
    assert_eq!(debounce.due(ms(20_000)), Some(Hint::Tree(String::new())));
}

#[test]
fn much_everywhere_becomes_one_look_at_everything() {
    let mut debounce = Debounce::new(ms(QUIET));
    for i in 0..2 * limits::BUSY_PATHS {
        debounce.happened(&format!("{}/{i}", i / 100), ChangeKind::Touched, ms(1));
    }
    assert!(debounce.paths <= limits::BUSY_PATHS);
    let hints: Vec<Hint> = std::iter::from_fn(|| debounce.due(ms(501))).collect();
    assert!(hints.contains(&Hint::Tree(String::new())));
}

proptest! {
    /// After each change a hint covers it, at once or within ten quiet times, and nothing is kept forever.
    #[test]
    fn every_change_is_told(events in proptest::collection::vec((0..5usize, 0..9u8, 0..400u64), 1..300)) {
        let paths = ["a", "b", "d/a", "d/e/a", "d"];
        let mut debounce = Debounce::new(ms(QUIET));
        let (mut now, mut open) = (0, BTreeMap::<&str, u64>::new());
        let covers = |hint: &Hint, path: &str| match hint {
            Hint::Path(p) | Hint::Entries(p) => p == path,
            Hint::Tree(p) => p == path || path.strip_prefix(p.as_str()).is_some_and(|r| p.is_empty() || r.starts_with('/')),
        };
        for (path, what, pause) in events {
            for at in now..=now + pause {
                for hint in std::iter::from_fn(|| debounce.due(ms(at))) {
                    open.retain(|path, _| !covers(&hint, path));
                }
                prop_assert!(open.values().all(|since| at - since <= QUIET * u64::from(AT_MOST)), "{open:?} at {at}");
                prop_assert!(open.is_empty() || debounce.next().is_some());
            }
            now += pause;
            let what = [ChangeKind::Complete, ChangeKind::Touched, ChangeKind::Found, ChangeKind::Tree, ChangeKind::Mode, ChangeKind::Removed, ChangeKind::RemovedTree,
                    ChangeKind::CompleteTree, ChangeKind::MovedAway, ChangeKind::MovedAwayTree][what as usize];
            open.entry(paths[path]).or_insert(now);
            if let Some(hint) = debounce.happened(paths[path], what, ms(now)) {
                open.retain(|path, _| !covers(&hint, path));
            }
        }
        now += QUIET * u64::from(AT_MOST);
        for _ in 0..3 {
            for hint in std::iter::from_fn(|| debounce.due(ms(now))) {
                open.retain(|path, _| !covers(&hint, path));
            }
            now += QUIET;
        }
        prop_assert!(open.is_empty() && debounce.next().is_none() && debounce.busy.is_empty() && debounce.paths == 0);
    }
}
