//! Which paths are due, which are being worked on, and what goes next.
//!
//! Pure: it decides only; who works on a path tells it the result. It is bounded, since whatever does not fit is found again
//! by the next sweep. Two names are never worked on at the same time if one is the other or above it.
//!
//! A path is *examined* first (looked at and planned) and *carried out* after. Deletes wait until all that was due with them
//! has been examined: only then is it known how many there are, and which of them are one half of a rename.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::plan::{is_below, parent};
use crate::wire::files::Hash;

use super::env::Token;

/// Paths that are due at one time, at most.
pub const MOST: usize = crate::config::limits::DUE;

/// Steps of one path in a row, after which it waits like one that failed. None of ours takes ten.
const MOST_TURNS: u32 = 50;

/// What goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// What was begun: intents and open keys.
    Begun,
    Change,
    Delete,
}

/// Which way the work goes, so that a line that is full one way does not hold up the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// To the hub.
    Up,
    /// To the tree.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Ready(Rank, Way),
    /// For a neighbour, the hub's feed, or the next attempt.
    Waiting,
    /// By the guard.
    Held,
}

#[derive(Debug, Clone)]
struct Due {
    /// Order of offering, then of the end of its examination.
    seq: u64,
    stage: Stage,
    /// Offered again while it was worked on.
    again: bool,
    /// Of what is new here, the possible other half of a rename.
    fresh: Option<Hash>,
    /// How often in a row something was done about it.
    turns: u32,
}

/// What to do with a path that [`Desk::next`] gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Examine,
    CarryOut,
}

/// What was found out about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    pub rank: Rank,
    pub way: Way,
    pub fresh: Option<Hash>,
    /// It is a delete that the guard counts.
    pub counted: Option<(Token, Hash)>,
}

/// How work on a path ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Examined(Examined),
    /// In step.
    Settled,
    /// Something was done: look again.
    Progress,
    /// Not now; after the next wake-up. The path named goes first.
    Wait(Option<String>),
    Held,
    /// Leave it until it is offered again.
    Dropped,
}

#[derive(Debug, Default)]
pub struct Desk {
    due: BTreeMap<String, Due>,
    unexamined: BTreeMap<u64, String>,
    ready: BTreeMap<(Rank, Way), BTreeSet<String>>,
    /// Names worked on.
    busy: BTreeSet<String>,
    deletes: BTreeMap<String, (Token, Hash)>,
    fresh: BTreeSet<(Hash, String)>,
    next_seq: u64,
    held: usize,
    overflow: bool,
}

impl Desk {
    /// Makes a path due; `false`: there is no room, a sweep will find it.
    pub fn offer(&mut self, path: &str) -> bool {
        if let Some(due) = self.due.get_mut(path) {
            if self.busy.contains(path) {
                due.again = true;
            } else if due.stage != Stage::New {
                self.restart(path);
            }
            return true;
        }
        if self.due.len() >= MOST {
            self.overflow = true;
            return false;
        }
        self.begin(path, 0);
        true
    }

    fn begin(&mut self, path: &str, turns: u32) {
        let seq = self.seq();
        self.due.insert(path.to_string(), Due { seq, stage: Stage::New, again: false, fresh: None, turns });
        self.unexamined.insert(seq, path.to_string());
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// Takes a path to its beginning. Until it has been examined again it counts as what it was.
    fn restart(&mut self, path: &str) {
        let token = self.deletes.remove_entry(path);
        let turns = self.due.get(path).map_or(0, |d| d.turns);
        self.forget(path);
        self.deletes.extend(token);
        self.begin(path, turns);
    }

    fn forget(&mut self, path: &str) {
        let Some(due) = self.due.remove(path) else { return };
        self.unexamined.remove(&due.seq);
        self.held -= usize::from(due.stage == Stage::Held);
        if let Stage::Ready(rank, way) = due.stage {
            self.ready.entry((rank, way)).or_default().remove(path);
        }
        if let Some(hash) = due.fresh {
            self.fresh.remove(&(hash, path.to_string()));
        }
        self.deletes.remove(path);
    }

    /// Gives out the next piece of work. `deletes`: whether they may go at all now. `way`: only what goes that way, and looks.
    pub fn next(&mut self, deletes: bool, way: Option<Way>) -> Option<(String, Task)> {
        if let Some(path) = self.unexamined.values().find(|p| !self.busy.contains(*p)).cloned() {
            self.busy.insert(path.clone());
            return Some((path, Task::Examine));
        }
        // what is being examined is still among them
        let first = self.unexamined.keys().next().copied().unwrap_or(u64::MAX);
        for ((rank, _), paths) in self.ready.iter().filter(|((_, to), _)| way.is_none_or(|way| way == *to)) {
            let may = |p: &&String| {
                let before = self.due.get(*p).is_some_and(|d| d.seq < first);
                (*rank != Rank::Delete || before) && !self.is_blocked(p)
            };
            if *rank == Rank::Delete && !deletes {
                return None;
            }
            if let Some(path) = paths.iter().find(may).cloned() {
                self.busy.insert(path.clone());
                return Some((path, Task::CarryOut));
            }
        }
        None
    }

    fn is_blocked(&self, path: &str) -> bool {
        let above = std::iter::successors(Some(path), |p| parent(p)).any(|p| self.busy.contains(p));
        above || self.busy.range(format!("{path}/")..).next().is_some_and(|p| is_below(p, path))
    }

    /// Takes a further name for work that goes on; to be given back with [`Desk::release`].
    pub fn claim(&mut self, path: &str) -> bool {
        let free = !self.is_blocked(path);
        if free {
            self.busy.insert(path.to_string());
        }
        free
    }

    pub fn release(&mut self, path: &str) {
        self.busy.remove(path);
        if self.due.get(path).is_some_and(|d| d.again) {
            self.restart(path);
        }
    }

    /// Takes the result of work on a path.
    pub fn ended(&mut self, path: &str, end: End) {
        self.busy.remove(path);
        let progress = end == End::Progress;
        let again = self.due.get(path).is_some_and(|d| d.again);
        let turns = self.due.get_mut(path).map_or(0, |d| {
            d.turns = match end {
                End::Progress => d.turns + 1,
                End::Examined(_) => d.turns,
                _ => 0,
            };
            d.turns
        });
        match end {
            // a hub that says that it did what it did not would keep us busy for ever
            End::Progress if turns >= MOST_TURNS => self.set_stage(path, Stage::Waiting),
            _ if again || progress => self.restart(path),
            End::Progress | End::Settled | End::Dropped => self.forget(path),
            End::Examined(found) => self.examined(path, found),
            End::Wait(ref other) => {
                if let Some(other) = other {
                    self.offer(other);
                }
                self.set_stage(path, Stage::Waiting);
            }
            End::Held => self.set_stage(path, Stage::Held),
        }
        if progress {
            self.wake_around(path);
        }
    }

    fn examined(&mut self, path: &str, found: Examined) {
        match found.counted {
            Some(delete) => drop(self.deletes.insert(path.to_string(), delete)),
            None => drop(self.deletes.remove(path)),
        }
        if let Some(hash) = found.fresh {
            self.fresh.insert((hash, path.to_string()));
        }
        self.set_stage(path, Stage::Ready(found.rank, found.way));
        // all that was offered until now goes before its delete
        let seq = self.seq();
        if let Some(due) = self.due.get_mut(path) {
            (due.fresh, due.seq) = (found.fresh, seq);
        }
    }

    fn set_stage(&mut self, path: &str, stage: Stage) {
        let Some(due) = self.due.get_mut(path) else { return };
        if let Stage::Ready(rank, way) = due.stage {
            self.ready.entry((rank, way)).or_default().remove(path);
        }
        self.unexamined.remove(&due.seq);
        self.held = self.held + usize::from(stage == Stage::Held) - usize::from(due.stage == Stage::Held);
        due.stage = stage;
        if let Stage::Ready(rank, way) = stage {
            self.ready.entry((rank, way)).or_default().insert(path.to_string());
        }
    }

    /// What waits above and below a path that got on may go on too.
    fn wake_around(&mut self, path: &str) {
        let above = std::iter::successors(parent(path), |p| parent(p)).map(str::to_string);
        let below = self.due.range(format!("{path}/")..).map(|(p, _)| p).take_while(|p| is_below(p, path)).cloned();
        let waits = |p: &String| self.due.get(p).is_some_and(|d| d.stage == Stage::Waiting);
        let around: Vec<String> = above.chain(below).filter(waits).collect();
        around.iter().for_each(|p| self.restart(p));
    }

    /// Everything that waits is due again; `held` too: the guard may have become milder.
    pub fn wake(&mut self, held: bool) {
        let waits = |d: &Due| d.stage == Stage::Waiting || held && d.stage == Stage::Held;
        let paths: Vec<String> = self.due.iter().filter(|(p, d)| waits(d) && !self.busy.contains(*p)).map(|(p, _)| p.clone()).collect();
        paths.iter().for_each(|p| self.restart(p));
    }

    /// All that was examined is out of date.
    pub fn forget_examined(&mut self) {
        let paths: Vec<String> = self.due.keys().filter(|p| !self.busy.contains(*p)).cloned().collect();
        paths.iter().for_each(|p| self.restart(p));
        self.busy.iter().for_each(|p| {
            if let Some(due) = self.due.get_mut(p) {
                due.again = true;
            }
        });
    }

    /// Deletes that are due and that the guard counts, held or not; approved ones are not among them.
    pub fn deletes(&self) -> impl Iterator<Item = &Token> {
        self.deletes.values().map(|(token, _)| token)
    }

    /// How many deletes are due beside that of `path`. If they are more than `enough`, those are left out that may be one half of
    /// a rename.
    pub fn other_deletes(&self, path: &str, enough: u64) -> u64 {
        let all = (self.deletes.len() - usize::from(self.deletes.contains_key(path))) as u64;
        if all <= enough || self.fresh.is_empty() {
            return all;
        }
        self.deletes.iter().filter(|(p, (_, hash))| *p != path && !self.has_twin(p, hash)).count() as u64
    }

    /// A delete was let through: it counts elsewhere from now on.
    pub fn let_through(&mut self, path: &str) {
        self.deletes.remove(path);
    }

    /// Whether something new here has these bytes, so that the delete of `path` may be half of a rename. Not if one is above
    /// the other: then they could not both be worked on.
    pub fn has_twin(&self, path: &str, hash: &Hash) -> bool {
        let same = self.fresh.range((*hash, String::new())..).take_while(|(h, _)| h == hash);
        same.map(|(_, p)| p).any(|p| !is_below(p, path) && !is_below(path, p))
    }

    /// Paths that are due, waiting and held ones included.
    pub fn count(&self) -> usize {
        self.due.len()
    }

    /// Whether there may be something to do that way: not if it is all blocked by what is being done.
    pub fn has_work(&self, deletes: bool, way: Way) -> bool {
        let ready =
            |(key, paths): (&(Rank, Way), &BTreeSet<String>)| key.1 == way && (deletes || key.0 != Rank::Delete) && !paths.is_empty();
        !self.unexamined.is_empty() || self.ready.iter().any(ready)
    }

    /// Nothing is being done.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }

    /// Paths that the guard holds.
    pub fn held(&self) -> usize {
        self.held
    }

    /// As [`Desk::count`], without deletes that are examined and held or not carried out yet.
    pub fn active(&self) -> usize {
        let deletes: usize = [Way::Up, Way::Down].iter().filter_map(|way| self.ready.get(&(Rank::Delete, *way))).map(BTreeSet::len).sum();
        self.due.len() - deletes - self.held
    }

    /// Whether something did not fit since the last call: a sweep is needed.
    pub fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(rank: Rank, fresh: Option<Hash>, path: Option<&str>) -> End {
        let counted = path.map(|path| (Token { path: path.into(), base: 1, remote: 1 }, Hash::of(path.as_bytes())));
        End::Examined(Examined { rank, way: Way::Up, fresh, counted })
    }

    /// The next piece, as `e path` or `c path`.
    fn next(desk: &mut Desk) -> String {
        match desk.next(true, None) {
            Some((path, Task::Examine)) => format!("e {path}"),
            Some((path, Task::CarryOut)) => format!("c {path}"),
            None => "-".into(),
        }
    }

    fn desk(paths: &[(&str, Rank)]) -> Desk {
        let mut desk = Desk::default();
        for (path, rank) in paths {
            assert!(desk.offer(path));
            assert_eq!(next(&mut desk), format!("e {path}"));
            desk.ended(path, examined(*rank, None, None));
        }
        desk
    }

    #[test]
    fn a_name_and_one_above_it_are_never_worked_on_together() {
        let mut d = desk(&[("d", Rank::Change), ("d/x", Rank::Change), ("d/y", Rank::Change), ("d2", Rank::Change)]);
        assert_eq!((next(&mut d), next(&mut d), next(&mut d)), ("c d".into(), "c d2".into(), "-".into()));
        d.ended("d", End::Settled);
        assert_eq!((next(&mut d), next(&mut d)), ("c d/x".into(), "c d/y".into()));
        d.offer("d");
        assert_eq!(next(&mut d), "e d");
        d.ended("d", examined(Rank::Change, None, None));
        assert_eq!(next(&mut d), "-");
        assert!(!d.claim("d/x") && !d.claim("d") && !d.claim("d/x/z") && d.claim("d/z"));
    }

    #[test]
    fn deletes_wait_until_all_that_was_offered_before_is_examined() {
        let mut d = Desk::default();
        for path in ["a", "b", "c"] {
            d.offer(path);
        }
        assert_eq!(next(&mut d), "e a");
        d.ended("a", examined(Rank::Delete, None, Some("a")));
        assert_eq!((next(&mut d), next(&mut d)), ("e b".into(), "e c".into()));
        d.ended("c", examined(Rank::Change, Some(Hash::of(b"c")), None));
        assert_eq!((next(&mut d), d.has_twin("a", &Hash::of(b"c"))), ("c c".into(), true));
        d.ended("c", End::Settled);
        assert_eq!((next(&mut d), d.has_twin("a", &Hash::of(b"c"))), ("-".into(), false));
        d.ended("b", examined(Rank::Delete, None, Some("b")));
        // what comes later does not hold them back for ever
        d.offer("z");
        assert_eq!((next(&mut d), next(&mut d)), ("e z".into(), "c a".into()));
        assert_eq!((d.next(false, None), d.next(true, Some(Way::Down))), (None, None));
        assert_eq!((d.deletes().count(), d.other_deletes("a", 0)), (2, 1));
        // the other half of a rename may have come
        d.offer("y");
        next(&mut d);
        d.ended("y", examined(Rank::Change, Some(Hash::of(b"b")), None));
        assert_eq!((d.other_deletes("a", 0), d.other_deletes("a", 1)), (0, 1));
    }

    #[test]
    fn a_held_delete_counts_while_it_is_looked_at_again() {
        let mut d = Desk::default();
        d.offer("a");
        next(&mut d);
        d.ended("a", examined(Rank::Delete, None, Some("a")));
        assert_eq!(next(&mut d), "c a");
        d.ended("a", End::Held);
        assert_eq!((d.count(), d.active()), (1, 0));
        d.wake(false);
        assert_eq!(next(&mut d), "-");
        d.wake(true);
        assert_eq!((d.deletes().count(), next(&mut d)), (1, "e a".into()));
        assert_eq!((d.count(), d.active()), (1, 1));
        d.ended("a", examined(Rank::Change, None, None));
        assert_eq!(d.deletes().count(), 0);
    }

    #[test]
    fn a_path_that_never_comes_into_step_waits_between_attempts() {
        let mut d = Desk::default();
        d.offer("a");
        let mut turns = 0;
        while let Some((path, task)) = d.next(true, None) {
            turns += u32::from(task == Task::CarryOut);
            d.ended(&path, if task == Task::Examine { examined(Rank::Change, None, None) } else { End::Progress });
        }
        d.wake(false);
        assert_eq!(((MOST_TURNS..=2 * MOST_TURNS).contains(&turns), next(&mut d)), (true, "e a".into()));
    }

    #[test]
    fn what_is_offered_during_work_is_looked_at_after_it() {
        let mut d = desk(&[("d/x", Rank::Change), ("d", Rank::Change)]);
        assert_eq!(next(&mut d), "c d");
        d.offer("d");
        d.ended("d", End::Settled);
        assert_eq!(next(&mut d), "e d");
        d.ended("d", End::Wait(Some("d/x".into())));
        assert_eq!(next(&mut d), "e d/x");
        d.ended("d/x", End::Progress);
        assert_eq!((next(&mut d), next(&mut d), next(&mut d)), ("e d/x".into(), "e d".into(), "-".into()));
    }
}
