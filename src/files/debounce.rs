//! Decides when a changed path is rescanned: at once if it had been quiet, later while it keeps changing, and after a maximum
//! time in any case.
//!
//! Pure: it takes events and their times. Its output is only a hint where to look; the tree decides.
//!
//! An isolated change that was written and closed is reported at once. Every change within the quiet time after it waits
//! until the path has been quiet for that time, but at most ten times as long. Many changes in one directory become one
//! hint.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::config::limits;

/// A path that is never quiet is reported after so many quiet times.
pub const AT_MOST: u32 = 10;
/// If a directory has more busy paths than this, the whole directory is reported.
pub const IN_A_DIRECTORY: usize = 128;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Complete: closed after writing, or renamed to this name.
    Complete,
    /// Being written, created, removed, or its mode changed.
    Touched,
    /// A directory with everything below it appeared or disappeared.
    Tree,
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    Path(String),
    /// The names in a directory, without their content.
    Entries(String),
    /// A directory and everything below it; "" is the whole tree.
    Tree(String),
}

/// See the module documentation. Times count from an arbitrary start.
#[derive(Debug)]
pub struct Debounce {
    quiet: Duration,
    /// By directory, then by name; a directory that was collapsed to one hint has the name "".
    busy: BTreeMap<String, BTreeMap<String, BusyPath>>,
    paths: usize,
    /// The latest time to rescan each busy path, one entry for each. Postponed entries are detected when they are due.
    times: BinaryHeap<Reverse<(Duration, String, String)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BusyPath {
    /// The first and the last unreported change; `None`: all are reported, and the next one is not isolated.
    untold: Option<(Duration, Duration)>,
    /// A change before this time is not isolated.
    until: Duration,
    form: HintScope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HintScope {
    Path,
    Entries,
    Tree,
}

impl Debounce {
    pub fn new(quiet: Duration) -> Debounce {
        Debounce {
            quiet,
            busy: BTreeMap::new(),
            paths: 0,
            times: BinaryHeap::new(),
        }
    }

    /// Records an event; returns the hint if the path is to be rescanned right now.
    pub fn happened(&mut self, path: &str, what: ChangeKind, now: Duration) -> Option<Hint> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let paths = self.busy.get(dir);
        let (dir, name) = if paths.is_some_and(|p| p.contains_key("")) {
            (dir, "")
        } else if paths.is_some_and(|p| p.len() >= IN_A_DIRECTORY && !p.contains_key(name)) {
            (self.collapse(dir, what, now), "")
        } else if self.paths >= limits::BUSY_PATHS && !paths.is_some_and(|p| p.contains_key(name)) {
            // too many everywhere: rescan the whole tree
            (self.collapse_all(now), "")
        } else {
            (dir, name)
        };
        let known = self.busy.get_mut(dir).and_then(|paths| paths.get_mut(name));
        let whole = if what == ChangeKind::Tree {
            HintScope::Tree
        } else {
            HintScope::Path
        };
        match known {
            // it was being written for the first time, and is complete now
            Some(busy)
                if what == ChangeKind::Complete
                    && busy.until.is_zero()
                    && busy.form == HintScope::Path =>
            {
                *busy = BusyPath {
                    untold: None,
                    until: now + self.quiet,
                    form: HintScope::Path,
                };
                Some(Hint::Path(path.to_string()))
            }
            Some(busy) => {
                busy.untold = Some((busy.untold.map_or(now, |(first, _)| first), now));
                if whole == HintScope::Tree {
                    busy.form = HintScope::Tree;
                }
                None
            }
            None if what == ChangeKind::Complete => {
                self.insert(
                    dir,
                    name,
                    BusyPath {
                        untold: None,
                        until: now + self.quiet,
                        form: HintScope::Path,
                    },
                );
                Some(Hint::Path(path.to_string()))
            }
            None => {
                self.insert(
                    dir,
                    name,
                    BusyPath {
                        untold: Some((now, now)),
                        until: Duration::ZERO,
                        form: whole,
                    },
                );
                None
            }
        }
    }

    /// The time of the next call of [`Debounce::due`] if nothing happens before.
    pub fn next(&self) -> Option<Duration> {
        self.times.peek().map(|Reverse((at, ..))| *at)
    }

    /// Returns one due hint; called until it returns `None`.
    pub fn due(&mut self, now: Duration) -> Option<Hint> {
        while let Some(Reverse((_, dir, name))) = self.pop(now) {
            let Some(busy) = self
                .busy
                .get_mut(&dir)
                .and_then(|paths| paths.get_mut(&name))
            else {
                continue;
            };
            let at = time(busy, self.quiet);
            if at > now {
                self.times.push(Reverse((at, dir, name)));
                continue;
            }
            if busy.untold.take().is_none() {
                self.remove(&dir, &name);
                continue;
            }
            let form = std::mem::replace(
                &mut busy.form,
                if name.is_empty() {
                    HintScope::Entries
                } else {
                    HintScope::Path
                },
            );
            busy.until = now + self.quiet;
            self.times
                .push(Reverse((busy.until, dir.clone(), name.clone())));
            let path = if dir.is_empty() || name.is_empty() {
                format!("{dir}{name}")
            } else {
                format!("{dir}/{name}")
            };
            return Some(match form {
                HintScope::Path => Hint::Path(path),
                HintScope::Entries => Hint::Entries(path),
                HintScope::Tree => Hint::Tree(path),
            });
        }
        None
    }

    fn pop(&mut self, now: Duration) -> Option<Reverse<(Duration, String, String)>> {
        self.times
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= now)
            .then(|| self.times.pop())
            .flatten()
    }

    fn insert(&mut self, dir: &str, name: &str, busy: BusyPath) {
        self.times.push(Reverse((
            time(&busy, self.quiet),
            dir.to_string(),
            name.to_string(),
        )));
        self.busy
            .entry(dir.to_string())
            .or_default()
            .insert(name.to_string(), busy);
        self.paths += 1;
    }

    fn remove(&mut self, dir: &str, name: &str) {
        if let Some(paths) = self.busy.get_mut(dir) {
            self.paths -= usize::from(paths.remove(name).is_some());
            if paths.is_empty() {
                self.busy.remove(dir);
            }
        }
    }

    /// Collapses the paths of a directory into one hint that has waited as long as the oldest of them. Paths that were
    /// reported already need no rescan; paths with entries below them make it a rescan of the whole subtree.
    fn collapse<'a>(&mut self, dir: &'a str, what: ChangeKind, now: Duration) -> &'a str {
        let paths = self.busy.remove(dir).unwrap_or_default();
        self.paths -= paths.len();
        let deep = what == ChangeKind::Tree || paths.values().any(|b| b.form == HintScope::Tree);
        let first = paths
            .values()
            .filter_map(|b| b.untold)
            .map(|(first, _)| first)
            .min()
            .unwrap_or(now);
        let form = if deep {
            HintScope::Tree
        } else {
            HintScope::Entries
        };
        self.insert(
            dir,
            "",
            BusyPath {
                untold: Some((first, now)),
                until: now,
                form,
            },
        );
        dir
    }

    fn collapse_all(&mut self, now: Duration) -> &'static str {
        let first = self
            .busy
            .values()
            .flat_map(|p| p.values())
            .filter_map(|b| b.untold)
            .map(|(first, _)| first)
            .min();
        (self.busy, self.paths, self.times) = Default::default();
        self.insert(
            "",
            "",
            BusyPath {
                untold: Some((first.unwrap_or(now), now)),
                until: now,
                form: HintScope::Tree,
            },
        );
        ""
    }
}

/// When a path is reported, or forgotten.
fn time(busy: &BusyPath, quiet: Duration) -> Duration {
    match busy.untold {
        Some((first, last)) => (last + quiet).min(first + quiet * AT_MOST),
        None => busy.until,
    }
}

#[cfg(test)]
mod tests {
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
                "tree" => Some(ChangeKind::Tree),
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
    fn removals_and_modes_wait_for_the_next_change() {
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
        assert_eq!(debounce.due(ms(1498)), None);
        assert_eq!(debounce.due(ms(1499)), Some(Hint::Entries("d".into())));
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
        fn every_change_is_told(events in proptest::collection::vec((0..5usize, 0..3u8, 0..400u64), 1..300)) {
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
                let what = [ChangeKind::Complete, ChangeKind::Touched, ChangeKind::Tree][what as usize];
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
}
