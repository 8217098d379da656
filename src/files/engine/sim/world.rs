//! The world of the simulation: clients with their trees, their users, and one hub; and what each
//! user meant.
//!
//! It knows nothing of how the engine works: it records the actions of users, so that the
//! invariants are checked independently.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::files::engine::traits::{DeleteToken, Feed, HubChange, Rows};
use crate::files::engine::{Engine, QuietTimes};
use crate::files::plan::{Action, DIR_MODE, Entry, LocalEntry, Stamp, is_below, plan};
use crate::relpath;
use crate::wire::files::{EntryKind, Hash};
use crate::wire::revision::Tag;

use super::copies::Copy;
use super::hub::SimHub;
use super::{Config, copy_of};

/// A name in a tree. Content 0: none (directories).
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub kind: EntryKind,
    pub content: u64,
    pub mode: u32,
    pub mtime: i64,
    pub ino: u64,
    pub ctime: u64,
    /// Has dirty pages that a program has mapped: its next write leaves no stamp.
    pub dirty: bool,
}

impl Node {
    pub fn is_dir(&self) -> bool {
        self.kind == EntryKind::Dir
    }

    /// The number of the content is at the beginning and, so that names of copies differ, only
    /// there.
    pub fn hash(&self) -> Hash {
        Node::hash_of(self.content)
    }

    pub fn hash_of(content: u64) -> Hash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(content << 32 | content).to_be_bytes());
        Hash(hash)
    }

    pub fn content_of(hash: &Hash) -> u64 {
        hash.0[4..8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    pub fn stamp(&self) -> Stamp {
        Stamp {
            inode: self.ino,
            size: 1,
            mtime: self.mtime,
            ctime: self.ctime as i64,
            mode: self.entry().mode,
        }
    }

    pub fn entry(&self) -> Entry {
        Entry::new(self.kind, self.hash(), 1, self.mode, self.mtime)
    }

    pub fn local(&self) -> LocalEntry {
        LocalEntry {
            entry: self.entry(),
            stamp: self.stamp(),
        }
    }
}

#[derive(Clone, Default)]
pub struct Client {
    pub legacy: bool,
    /// The filesystem never shows writes through a mapping.
    pub blind: bool,
    /// The filesystem folds names, see [`super::names`].
    pub folds: bool,
    /// Paths that `status` would name as refused.
    pub refused: BTreeSet<String>,
    /// All names, including temporary ones and the trash.
    pub fs: BTreeMap<String, Node>,
    pub rows: BTreeMap<String, Rows>,
    pub feed: Feed,
    pub listed: BTreeSet<String>,
    pub points: BTreeMap<u64, Tag>,
    pub deletes: BTreeMap<u64, u32>,
    pub approved: BTreeSet<DeleteToken>,
    /// The state before each commit since the last one with a sync.
    pub unsynced: VecDeque<super::state::Snapshot>,
    pub ignored: BTreeSet<String>,
    pub crashed: bool,
    pub serial: u64,
    /// All deletes that were ever approved.
    pub listed_tokens: BTreeSet<DeleteToken>,
    pub undo: Option<(String, Node)>,
    /// For a client without a base: names with news, and the last known rev of the hub.
    pub queue: Vec<String>,
    pub heard: u64,
}

impl Client {
    pub fn visible(path: &str) -> bool {
        !path.split('/').any(relpath::is_own)
    }

    /// Names below a directory, without the program's own.
    pub fn under(&self, dir: &str) -> Vec<String> {
        let below = self
            .fs
            .range(format!("{dir}/")..)
            .map(|(p, _)| p)
            .take_while(|p| is_below(p, dir));
        below.filter(|p| Client::visible(p)).cloned().collect()
    }

    pub fn tree(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.fs.iter().filter(|(p, _)| Client::visible(p))
    }

    /// Temporary names, except for those in the directory of mesync itself.
    pub fn temps(&self) -> Vec<String> {
        let all = self.fs.keys();
        all.filter(|p| !Client::visible(p) && !p.starts_with(".mesync/"))
            .cloned()
            .collect()
    }

    pub fn paths(&self) -> Vec<String> {
        let all: BTreeSet<String> = self
            .tree()
            .map(|(p, _)| p)
            .chain(self.rows.keys())
            .cloned()
            .collect();
        all.into_iter().collect()
    }

    fn local(&self, path: &str) -> Option<LocalEntry> {
        let node = self.fs.get(path)?;
        let in_base = self.rows(path).base.entry.is_some_and(|b| b.is_dir());
        let counts =
            !node.is_dir() || in_base || node.mode != DIR_MODE || self.under(path).is_empty();
        counts.then(|| node.local())
    }

    /// Deletes that the guard counts.
    pub fn pending(&self) -> Vec<String> {
        let pending = |p: &String| {
            let rows = self.rows(p);
            let deletes = matches!(
                plan(&rows.base, self.local(p).as_ref(), &rows.remote).action,
                Action::Delete | Action::Trash
            );
            !self.ignored.contains(p) && deletes && self.is_counted(&rows)
        };
        self.paths().into_iter().filter(pending).collect()
    }

    fn is_counted(&self, rows: &Rows) -> bool {
        let Some(was) = rows.base.entry.filter(|e| !e.is_dir()) else {
            return false;
        };
        let to = rows
            .remote
            .renamed_to
            .as_ref()
            .map(|to| self.rows(to).remote);
        !to.is_some_and(|to| to.entry.is_some_and(|e| e.same_body(&was)))
    }

    pub fn token(&self, path: &str) -> DeleteToken {
        let rows = self.rows(path);
        DeleteToken {
            path: path.into(),
            base: rows.base.rev,
            remote: rows.remote.rev,
        }
    }
}

pub struct Shared(Mutex<World>);

impl Shared {
    pub fn new(world: World) -> Arc<Shared> {
        Arc::new(Shared(Mutex::new(world)))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct World {
    random: u64,
    pub config: Config,
    /// Whether faults and other disturbances happen.
    pub on: bool,
    pub hub: SimHub,
    pub backup: Option<SimHub>,
    pub copy: Option<Copy>,
    /// Requests arrive but their responses are lost; or not even the requests arrive.
    pub lose_answers: bool,
    pub lose_requests: bool,
    /// Commits without a sync are lost whenever a page is fetched.
    pub lose_commits: bool,
    /// Effects until the next crash.
    pub crash_in: Option<u32>,
    /// Commits without a sync that a crash keeps; `None`: a random number.
    pub crash_keeps: Option<usize>,
    /// How often a tree was read.
    pub reads: usize,
    pub clients: Vec<Client>,
    pub engines: Vec<Option<Arc<Engine>>>,
    /// The depth of nested runs of other threads.
    pub depth: u32,
    /// What a user does next between a check of the tree and the change that follows it.
    pub meanwhile: Option<fn(&mut World)>,
    pub tick: u64,
    /// The time of the clock by which bursts end.
    pub elapsed: Duration,
    pub quiet: QuietTimes,
    ids: u64,
    pub next_mode: u32,
    /// Delayed requests: the change, its client, and whether it included the bytes.
    pub flight: Vec<(HubChange, String, bool)>,
    log: Option<Vec<String>>,
    // what users did, see `check`
    pub puts: BTreeSet<(String, u64)>,
    /// A link and a file of one content are different.
    pub killed: BTreeMap<(String, u64, EntryKind), BTreeSet<usize>>,
    /// Overwritten content that the user of an old client has written again, and has kept.
    pub written_again: BTreeSet<u64>,
    /// For each content, the clients whose users have overwritten or removed it, with the name that
    /// it had.
    pub gone: BTreeMap<(String, u64), BTreeSet<(usize, String)>>,
    /// What the hub had when it was set back, and had changed, deleted or restored before that.
    pub forgotten: BTreeSet<(String, u64)>,
    pub again: BTreeSet<(String, u64)>,
    pub modes: BTreeMap<u32, (String, u32)>,
    pub dir_modes: BTreeMap<u32, (String, u32)>,
    pub times: BTreeMap<i64, (String, i64)>,
    pub messy: BTreeSet<String>,
    /// Deletes that were let through: tick and client.
    pub guard: Vec<(u64, usize)>,
    pub wrongs: Vec<String>,
}

impl World {
    pub fn new(seed: u64, config: Config, verbose: bool) -> World {
        let mut clients: Vec<Client> = (0..3).map(|_| Client::default()).collect();
        clients[0].legacy = config == Config::Legacy;
        clients[2].blind = config == Config::Mapped;
        clients[2].folds = config == Config::Folding;
        clients[1].folds = config == Config::Folding && seed.is_multiple_of(3);
        World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            config,
            on: true,
            hub: SimHub::new(config != Config::Restore),
            backup: None,
            copy: None,
            lose_answers: false,
            lose_requests: false,
            lose_commits: false,
            crash_in: None,
            crash_keeps: None,
            reads: 0,
            clients,
            engines: vec![None, None, None],
            depth: 0,
            meanwhile: None,
            tick: 0,
            elapsed: Duration::ZERO,
            quiet: QuietTimes::default(),
            ids: 0,
            next_mode: 0,
            flight: Vec::new(),
            log: verbose.then(Vec::new),
            puts: BTreeSet::new(),
            killed: BTreeMap::new(),
            written_again: BTreeSet::new(),
            gone: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            again: BTreeSet::new(),
            modes: BTreeMap::new(),
            dir_modes: BTreeMap::new(),
            times: BTreeMap::new(),
            messy: BTreeSet::new(),
            guard: Vec::new(),
            wrongs: Vec::new(),
        }
    }

    /// splitmix64 (Steele, Lea and Flood, 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn random(&mut self, below: usize) -> usize {
        (self.next() % below.max(1) as u64) as usize
    }

    /// How many paths a worker takes at a time.
    pub fn group(&mut self) -> usize {
        [1, 1, 2, 3, 20][self.random(5)]
    }

    /// A number from 0 to 1.
    pub fn chance(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn fault(&mut self, p: f64) -> bool {
        self.on && self.chance() < p
    }

    /// Whether a call fails here.
    pub fn fails(&mut self) -> bool {
        self.config == Config::Failing && self.fault(0.03)
    }

    /// Whether the client crashes here, by chance or by plan.
    pub fn crashes(&mut self, p: f64) -> bool {
        self.crash_in = self.crash_in.map(|n| n.saturating_sub(1));
        let planned = self.crash_in == Some(0);
        if planned {
            self.crash_in = None;
        }
        planned || self.fault(p)
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            None
        } else {
            Some(of[self.random(of.len())].clone())
        }
    }

    pub fn fresh(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(what());
        }
    }

    pub fn log(&self) -> String {
        self.log.as_deref().unwrap_or_default().join("\n  ")
    }

    // -- checked while the engine works ----------------------------------------------------------

    pub fn watch_delete(&mut self, i: usize, change: &HubChange) {
        if let Some(from) = &change.from {
            let copies: Vec<String> = [&from.path, &change.path]
                .into_iter()
                .filter(|_| copy_of(&change.path))
                .cloned()
                .collect();
            self.messy.extend(copies);
        }
        if change.entry.is_none() {
            self.watch_guard(i, &change.path);
        }
    }

    pub fn watch_move(&mut self, i: usize, from: &str, to: &str) {
        let rows = self.clients[i].rows(from);
        if to.starts_with(".mesync/") && rows.remote.entry.is_none() {
            self.watch_guard(i, from);
        }
        if copy_of(to) && Client::visible(from) {
            let local = self.clients[i].fs.get(from).map(Node::local);
            let equal = local
                .zip(rows.remote.entry)
                .is_some_and(|(l, r)| l.entry.same_body(&r));
            let planned = plan(&rows.base, local.as_ref(), &rows.remote).action;
            if equal && planned == Action::Conflict {
                self.wrongs
                    .push(format!("I6 c{i} {from} conflicts with its equal"));
            }
        }
    }

    fn watch_guard(&mut self, i: usize, path: &str) {
        let c = &self.clients[i];
        if c.is_counted(&c.rows(path)) && !c.listed_tokens.contains(&c.token(path)) {
            self.guard.push((self.tick, i));
        }
    }

    pub fn touched(&mut self, i: usize, path: &str) {
        if self.config == Config::Single && i == 1 {
            self.wrongs
                .push(format!("I8 {path} was touched where only its user works"));
        }
    }
}
