//! Decides when a changed path is rescanned: at once if it had been quiet, later while it keeps changing, and after a maximum
//! time in any case.
//!
//! Pure: it takes events and their times. Its output is only a hint where to look; the tree decides.
//!
//! An isolated change that is complete is reported at once: a file that was written and closed, a removal, a change of mode.
//! Every change within the quiet time after it waits until the path has been quiet for that time, but at most ten times as
//! long; a removal waits for less, because nothing is being written, and so does a file that was in a new directory before
//! that was watched: it is probably complete, and no event will say so. Many changes in one directory become one hint, soon
//! after the last of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::config::limits;
use crate::files::plan::is_below;

/// A path that is never quiet is reported after so many quiet times.
pub const AT_MOST: u32 = 10;
/// If a directory has more busy paths than this, the whole directory is reported.
pub const IN_A_DIRECTORY: usize = 128;
/// The quiet time after a removal, of a file that was found, and of a directory of which the names are listed, unless the
/// usual one is shorter.
const SHORT_QUIET: Duration = Duration::from_millis(100);

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Complete: closed after writing, or renamed to this name.
    Complete,
    /// Being written, or created.
    Touched,
    /// Was there when its directory began to be watched: complete, or being written.
    Found,
    /// Its mode or another attribute changed. A file that is being written gets its mode before it is closed.
    Mode,
    /// Removed: this is no half of a rename.
    Removed,
    /// Renamed from this name: the other half is examined first.
    MovedAway,
    /// A directory appeared, and is being filled.
    Tree,
    /// A directory was renamed to this name, with everything below it.
    CompleteTree,
    /// A directory was removed, after everything below it.
    RemovedTree,
    /// A directory was renamed from this name, with everything below it.
    MovedAwayTree,
}

impl ChangeKind {
    /// Whether an isolated change of this kind is reported at once.
    fn is_complete(self) -> bool {
        match self {
            ChangeKind::Complete
            | ChangeKind::Mode
            | ChangeKind::Removed
            | ChangeKind::CompleteTree
            | ChangeKind::RemovedTree => true,
            ChangeKind::Touched
            | ChangeKind::Found
            | ChangeKind::MovedAway
            | ChangeKind::Tree
            | ChangeKind::MovedAwayTree => false,
        }
    }

    /// Whether the name is free now.
    fn is_removal(self) -> bool {
        match self {
            ChangeKind::Removed
            | ChangeKind::MovedAway
            | ChangeKind::RemovedTree
            | ChangeKind::MovedAwayTree => true,
            ChangeKind::Complete
            | ChangeKind::Touched
            | ChangeKind::Found
            | ChangeKind::Mode
            | ChangeKind::Tree
            | ChangeKind::CompleteTree => false,
        }
    }

    fn scope(self) -> HintScope {
        match self {
            ChangeKind::Tree
            | ChangeKind::CompleteTree
            | ChangeKind::RemovedTree
            | ChangeKind::MovedAwayTree => HintScope::Tree,
            ChangeKind::Complete
            | ChangeKind::Touched
            | ChangeKind::Found
            | ChangeKind::Mode
            | ChangeKind::Removed
            | ChangeKind::MovedAway => HintScope::Path,
        }
    }
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
    /// One of the unreported changes is a removal.
    is_removed: bool,
    /// It was found, and has not been touched since; or it is a directory of which the names are listed.
    is_brief: bool,
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
        let quiet = self.quiet;
        let known = self.busy.get_mut(dir).and_then(|paths| paths.get_mut(name));
        let scope = what.scope();
        match known {
            // it was being written for the first time, and is complete now
            Some(busy)
                if matches!(what, ChangeKind::Complete | ChangeKind::Removed)
                    && busy.until.is_zero()
                    && busy.form == HintScope::Path =>
            {
                *busy = BusyPath::told(now + quiet);
                Some(Hint::Path(path.to_string()))
            }
            Some(busy) => {
                busy.untold = Some((busy.untold.map_or(now, |(first, _)| first), now));
                busy.is_brief &= name.is_empty();
                if scope == HintScope::Tree {
                    busy.form = HintScope::Tree;
                    busy.is_brief = false;
                }
                if what.is_removal() && !std::mem::replace(&mut busy.is_removed, true) {
                    // earlier than the time that is known
                    let at = time(busy, quiet);
                    self.times
                        .push(Reverse((at, dir.to_string(), name.to_string())));
                }
                None
            }
            None if what.is_complete() => {
                if what == ChangeKind::RemovedTree {
                    // this hint covers what was below
                    self.forget_below(path);
                }
                self.insert(dir, name, BusyPath::told(now + quiet));
                Some(if scope == HintScope::Tree {
                    Hint::Tree(path.to_string())
                } else {
                    Hint::Path(path.to_string())
                })
            }
            None => {
                self.insert(
                    dir,
                    name,
                    BusyPath {
                        untold: Some((now, now)),
                        until: Duration::ZERO,
                        form: scope,
                        is_removed: what.is_removal(),
                        is_brief: what == ChangeKind::Found,
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
            (busy.is_removed, busy.is_brief) = (false, name.is_empty());
            busy.until = now + quiet_of(busy, self.quiet);
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

    fn forget_below(&mut self, dir: &str) {
        let below = |path: &str| path == dir || is_below(path, dir);
        let gone: Vec<String> = self
            .busy
            .range(dir.to_string()..)
            .take_while(|(path, _)| path.starts_with(dir))
            .filter(|(path, _)| below(path))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.paths -= self.busy.remove(&path).map_or(0, |paths| paths.len());
        }
    }

    /// Collapses the paths of a directory into one hint that has waited as long as the oldest of them. Paths that were
    /// reported already need no rescan; paths with entries below them make it a rescan of the whole subtree.
    fn collapse<'a>(&mut self, dir: &'a str, what: ChangeKind, now: Duration) -> &'a str {
        let paths = self.busy.remove(dir).unwrap_or_default();
        self.paths -= paths.len();
        let deep =
            what.scope() == HintScope::Tree || paths.values().any(|b| b.form == HintScope::Tree);
        let first = paths
            .values()
            .filter_map(|b| b.untold)
            .map(|(first, _)| first)
            .min()
            .unwrap_or(now);
        let is_removed = what.is_removal() || paths.values().any(|b| b.is_removed);
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
                is_removed,
                is_brief: form == HintScope::Entries,
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
                is_removed: false,
                is_brief: false,
            },
        );
        ""
    }
}

impl BusyPath {
    /// One whose change was reported.
    fn told(until: Duration) -> BusyPath {
        BusyPath {
            untold: None,
            until,
            form: HintScope::Path,
            is_removed: false,
            is_brief: false,
        }
    }
}

/// When a path is reported, or forgotten.
fn time(busy: &BusyPath, quiet: Duration) -> Duration {
    let short = quiet_of(busy, quiet);
    // a file in a listed directory may still be written
    let longest = if busy.is_removed { short } else { quiet } * AT_MOST;
    match busy.untold {
        Some((first, last)) => (last + short).min(first + longest),
        None => busy.until,
    }
}

fn quiet_of(busy: &BusyPath, quiet: Duration) -> Duration {
    if busy.is_removed || busy.is_brief {
        quiet.min(SHORT_QUIET)
    } else {
        quiet
    }
}

#[cfg(test)]
mod tests;
