//! Random histories of uploads, renames, deletes, restores, questions, crashes, sweeps and passing time, against a plain map.
//!
//! The model predicts the outcome of each operation. At the end the tables agree with each other and with the disk, and the
//! same groups give the same tables. A failure prints its seed.

mod end;

use std::collections::BTreeMap;

use super::super::model::Random;
use super::*;

const NAMES: [&str; 5] = ["a", "b", "d/a", "d/b", "d/e/f"];
const HOSTS: [&str; 2] = ["x", "y"];
const SIZES: [usize; 6] = [0, 1, 300, 16_385, 20_000, 40_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    bytes: usize,
    mtime: u64,
    mode: u32,
}

#[derive(Debug, Clone)]
struct State {
    rev: u64,
    host: usize,
    live: Option<Content>,
    deleted: u64,
    /// rev -> content, replaced.
    versions: BTreeMap<u64, (Content, u64)>,
}

/// The outcome of a key: the word of the answer, and the names that it changed. `None`: void.
type ModelKey = (Option<(String, Vec<usize>)>, u64);

struct World {
    random: Random,
    hub: TestStore,
    names: BTreeMap<usize, State>,
    keys: BTreeMap<(usize, u128), ModelKey>,
    rev: u64,
    groups: Vec<Group>,
    changes: usize,
}

fn scratch() -> TestStore {
    let dir = TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap();
    TestStore {
        store: open(dir.path()),
        dir,
        now: 1000,
    }
}

fn bytes(content: usize) -> Vec<u8> {
    noise(content as u64 + 1, SIZES[content])
}

/// An operation in the model's terms.
#[derive(Debug, Clone)]
struct Wish {
    name: usize,
    host: usize,
    content: Content,
    condition: Condition,
    from: Option<(usize, u64)>,
    key: Option<u128>,
}

impl World {
    fn new(seed: u64) -> World {
        let (names, keys, groups) = Default::default();
        World {
            random: Random::new(seed),
            hub: scratch(),
            names,
            keys,
            rev: 0,
            groups,
            changes: 0,
        }
    }

    fn apply(&mut self, op: FileOp) -> Outcome {
        self.apply_op(Op::File(op))
    }

    fn apply_op(&mut self, op: Op) -> Outcome {
        let group = at(self.hub.now, vec![op]);
        self.groups.push(group.clone());
        self.hub.store.apply(&group).unwrap().remove(0)
    }

    fn below(&mut self, n: u64) -> usize {
        self.random.below(n) as usize
    }

    fn rev_of(&self, name: usize) -> u64 {
        self.names.get(&name).map_or(0, |state| state.rev)
    }

    fn wish(&mut self) -> Wish {
        let name = self.below(NAMES.len() as u64);
        let condition = match self.below(10) {
            0..5 => Condition::None,
            5 | 6 => Condition::Absent,
            7 | 8 => Condition::Match(self.rev_of(name).into()),
            _ => Condition::Match(self.random.below(self.rev + 2).into()),
        };
        let from = (self.below(6) == 0).then(|| {
            let from = self.below(NAMES.len() as u64);
            (
                from,
                if self.below(8) == 0 {
                    1
                } else {
                    self.rev_of(from)
                },
            )
        });
        let content = Content {
            bytes: self.below(6),
            mtime: self.random.below(3),
            mode: [0o100644, 0o100755][self.below(2)],
        };
        let key = (self.below(3) == 0).then(|| u128::from(self.random.below(40)));
        Wish {
            name,
            host: self.below(2),
            content,
            condition,
            from,
            key,
        }
    }

    fn holds(&self, name: usize, condition: Condition) -> bool {
        let state = self.names.get(&name);
        match condition {
            Condition::None => true,
            Condition::Match(at) => state.is_some_and(|state| state.rev == at.rev),
            Condition::Absent => state.is_none_or(|state| state.live.is_none()),
        }
    }

    /// A name gets new content, or none.
    fn write(&mut self, name: usize, host: usize, live: Option<Content>) -> bool {
        self.rev += 1;
        let (rev, now) = (self.rev, self.hub.now);
        let state = self.names.entry(name).or_insert(State {
            rev,
            host,
            live: None,
            deleted: 0,
            versions: BTreeMap::new(),
        });
        let replaced = state.live.take();
        if let Some(replaced) = replaced {
            state.versions.insert(state.rev, (replaced, now));
        }
        (state.rev, state.host, state.live, state.deleted) = (rev, host, live, now);
        self.changes += 1;
        replaced.is_some()
    }

    /// The outcome that an upload must have.
    fn expect(&mut self, wish: &Wish) -> (String, Vec<usize>) {
        let refused = |rev| (format!("precondition {rev}"), vec![]);
        if !self.holds(wish.name, wish.condition) {
            return refused(self.rev_of(wish.name));
        }
        let from = wish.from.filter(|(from, _)| *from != wish.name);
        if let Some((from, rev)) = from
            && !self
                .names
                .get(&from)
                .is_some_and(|state| state.live.is_some() && state.rev == rev)
        {
            return refused(self.rev_of(from));
        }
        if let Some(state) = self.names.get(&wish.name).filter(|_| from.is_none()) {
            let stale =
                |old: &Content| old.bytes == wish.content.bytes && old.mtime == wish.content.mtime;
            let old = wish.condition == Condition::None
                && state.host != wish.host
                && state.versions.values().any(|(old, _)| stale(old));
            if state.live == Some(wish.content) || old {
                return (format!("unchanged {}", state.rev), vec![wish.name]);
            }
        }
        let replaced = self.write(wish.name, wish.host, Some(wish.content));
        let word = format!(
            "{} {}",
            if replaced { "updated" } else { "created" },
            self.rev
        );
        let mut touched = vec![wish.name];
        if let Some((from, _)) = from {
            self.write(from, wish.host, None);
            touched.push(from);
        }
        (word, touched)
    }

    /// The word for a repeated key: that of the first time.
    fn once(
        &mut self,
        host: usize,
        key: Option<u128>,
        act: impl FnOnce(&mut World) -> (String, Vec<usize>),
    ) -> String {
        if let Some((done, _)) = key.and_then(|key| self.keys.get(&(host, key))) {
            return done
                .as_ref()
                .map_or("Burnt".into(), |(word, _)| word.clone());
        }
        let (word, touched) = act(self);
        if let Some(key) = key.filter(|_| !touched.is_empty()) {
            self.keys
                .insert((host, key), (Some((word.clone(), touched)), self.hub.now));
        }
        word
    }

    fn put(&mut self) {
        let wishes: Vec<Wish> = (0..1 + self.below(3)).map(|_| self.wish()).collect();
        let put = |wish: &Wish| Put {
            mode: Some(wish.content.mode),
            condition: wish.condition,
            author: by(HOSTS[wish.host], wish.key),
            from: wish.from.map(|(from, if_match)| {
                let Name { path, name } = name(NAMES[from]);
                OldName {
                    path,
                    name,
                    if_match,
                    tag: Tag::default(),
                }
            }),
            ..put(
                &self.hub,
                NAMES[wish.name],
                &bytes(wish.content.bytes),
                wish.content.mtime,
            )
        };
        let puts = wishes.iter().map(put);
        let Outcome::Changed(changed) = self.apply(FileOp::put(puts)) else {
            panic!()
        };
        for (wish, got) in wishes.iter().zip(changed) {
            let wants = self.once(wish.host, wish.key, |world| world.expect(wish));
            assert_eq!(word(&got), wants, "{wish:?}");
        }
    }

    fn delete(&mut self) {
        let Wish {
            name,
            host,
            condition,
            key,
            ..
        } = self.wish();
        let op = FileOp::delete(id_of(NAMES[name]), condition, by(HOSTS[host], key));
        let Outcome::Changed(changed) = self.apply(op) else {
            panic!()
        };
        let wants = self.once(host, key, |world| {
            if world
                .names
                .get(&name)
                .is_none_or(|state| state.live.is_none())
            {
                return ("NoSuchFile".into(), vec![]);
            }
            if !world.holds(name, condition) {
                return (format!("precondition {}", world.rev_of(name)), vec![]);
            }
            world.write(name, host, None);
            (format!("deleted {}", world.rev), vec![name])
        });
        assert_eq!(word(&changed[0]), wants);
    }

    fn restore(&mut self) {
        let Wish {
            name,
            host,
            condition,
            key,
            ..
        } = self.wish();
        let rev = (self.below(2) == 0).then(|| self.random.below(self.rev + 1));
        let op = FileOp::Restore {
            id: id_of(NAMES[name]),
            rev,
            condition,
            author: by(HOSTS[host], key),
        };
        let Outcome::Changed(changed) = self.apply(op) else {
            panic!()
        };
        let wants = self.once(host, key, |world| {
            let Some(state) = world.names.get(&name).cloned() else {
                return ("NoSuchFile".into(), vec![]);
            };
            if !world.holds(name, condition) {
                return (format!("precondition {}", state.rev), vec![]);
            }
            let unchanged = || (format!("unchanged {}", state.rev), vec![name]);
            if state.live.is_some() && rev == Some(state.rev) {
                return unchanged();
            }
            let version = rev
                .or(state.versions.keys().last().copied())
                .and_then(|rev| state.versions.get(&rev));
            match version {
                None => ("NoSuchVersion".into(), vec![]),
                Some((content, _)) if state.live == Some(*content) => unchanged(),
                Some((content, _)) => {
                    let replaced = world.write(name, host, Some(*content));
                    (
                        format!(
                            "{} {}",
                            if replaced { "updated" } else { "created" },
                            world.rev
                        ),
                        vec![name],
                    )
                }
            }
        });
        assert_eq!(word(&changed[0]), wants);
    }

    fn ask(&mut self) {
        let (host, key) = (self.below(2), u128::from(self.random.below(60)));
        let Outcome::Asked(asked) = self.apply(FileOp::Ask {
            host: HOSTS[host].into(),
            key: Uuid::from_u128(key),
            knows: 0.into(),
        }) else {
            panic!()
        };
        let now = self.hub.now;
        let (done, _) = self.keys.entry((host, key)).or_insert((None, now));
        let touched = done.as_ref().map_or(vec![], |(_, touched)| touched.clone());
        assert_eq!(
            (asked.done, asked.made.len()),
            (done.is_some(), touched.len())
        );
        let current: Vec<(String, u64)> = asked
            .current
            .iter()
            .map(|r| (r.full_name(), r.rev))
            .collect();
        let known = touched
            .into_iter()
            .filter_map(|name| Some((NAMES[name].to_string(), self.names.get(&name)?.rev)));
        assert_eq!(current, known.collect::<Vec<_>>());
    }

    fn sweep(&mut self) {
        while self.apply_op(Op::Sweep) == (Outcome::Swept { more: true }) {}
        let now = self.hub.now;
        let young = |at: u64, days: u64| at + days * DAY > now;
        self.names
            .retain(|_, state| state.live.is_some() || young(state.deleted, 90));
        self.names
            .values_mut()
            .for_each(|state| state.versions.retain(|_, (_, at)| young(*at, 30)));
        self.keys.retain(|_, (_, at)| young(*at, 7));
    }

    fn crash(&mut self) {
        let spare = scratch();
        drop(std::mem::replace(&mut self.hub.store, spare.store));
        self.hub.store = Store::open(self.hub.dir.path(), 1 << 20, self.hub.now, EPOCH).unwrap();
    }

    fn step(&mut self) {
        match self.below(100) {
            0..50 => self.put(),
            50..65 => self.delete(),
            65..78 => self.restore(),
            78..84 => self.ask(),
            84..90 => self.sweep(),
            90..93 => self.crash(),
            _ => self.hub.now += [1, 60_000, DAY, 8 * DAY, 31 * DAY][self.below(5)],
        }
    }
}

#[test]
fn random_histories_of_files_agree_with_a_plain_map_and_can_be_replayed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let (start, count) = (number("SEED").unwrap_or(1), number("SEEDS").unwrap_or(4));
    let mut changes = 0;
    for seed in start..start + count {
        let ran = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..150).for_each(|_| world.step());
            world.end();
            assert_eq!(
                dump(&world.replay().store),
                dump(&world.hub.store),
                "the same groups gave other tables"
            );
            world.changes
        });
        changes += ran.unwrap_or_else(|_| panic!("failed with SEED={seed} SEEDS=1"));
    }
    assert!(
        changes as u64 > 30 * count,
        "the histories change almost nothing: {changes}"
    );
}
