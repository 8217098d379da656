//! The world of the simulation: clients with their trees, users who work in them, and one hub; and what was meant by whom.
//!
//! It knows nothing of how the engine works: it keeps what users did, so that the invariants can be told from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::files::engine::Engine;
use crate::files::engine::env::{Change, Feed, Rows, Token};
use crate::files::plan::{Action, Entry, Local, MODE, Stamp, is_below, parent, plan};
use crate::relpath;
use crate::wire::files::{Hash, Kind};

use super::hub::Hub;
use super::{Broken, Config, copy_of, stem};

/// A name in a tree. Content 0: nothing (directories).
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub kind: Kind,
    pub content: u64,
    pub mode: u32,
    pub mtime: i64,
    pub ino: u64,
    pub ctime: u64,
}

impl Node {
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// The number of the content stands at its beginning and, so that names of copies differ, there only.
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
        Stamp { inode: self.ino, size: 1, mtime: self.mtime, ctime: self.ctime as i64, mode: self.entry().mode }
    }

    pub fn entry(&self) -> Entry {
        Entry::new(self.kind, self.hash(), 1, self.mode, self.mtime)
    }

    pub fn local(&self) -> Local {
        Local { entry: self.entry(), stamp: self.stamp() }
    }
}

#[derive(Default)]
pub struct Client {
    pub legacy: bool,
    /// All names, temporary ones and the trash included.
    pub fs: BTreeMap<String, Node>,
    pub rows: BTreeMap<String, Rows>,
    pub feed: Feed,
    pub listed: BTreeSet<String>,
    pub deletes: BTreeMap<u64, u32>,
    pub approved: BTreeSet<Token>,
    pub ignored: BTreeSet<String>,
    pub crashed: bool,
    pub serial: u64,
    /// All that was ever approved.
    pub listed_tokens: BTreeSet<Token>,
    undo: Option<(String, Node)>,
    /// Of a legacy client: names with news, and the hub's rev that it has heard.
    queue: Vec<String>,
    heard: u64,
}

impl Client {
    pub fn visible(path: &str) -> bool {
        !path.split('/').any(relpath::is_own)
    }

    /// Names below a directory, our own left out.
    pub fn under(&self, dir: &str) -> Vec<String> {
        let below = self.fs.range(format!("{dir}/")..).map(|(p, _)| p).take_while(|p| is_below(p, dir));
        below.filter(|p| Client::visible(p)).cloned().collect()
    }

    pub fn tree(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.fs.iter().filter(|(p, _)| Client::visible(p))
    }

    pub fn paths(&self) -> Vec<String> {
        let all: BTreeSet<String> = self.tree().map(|(p, _)| p).chain(self.rows.keys()).cloned().collect();
        all.into_iter().collect()
    }

    fn local(&self, path: &str) -> Option<Local> {
        let node = self.fs.get(path)?;
        let counts = !node.is_dir() || self.rows(path).base.entry.is_some_and(|b| b.is_dir()) || self.under(path).is_empty();
        counts.then(|| node.local())
    }

    /// Deletes that the guard counts.
    pub fn pending(&self) -> Vec<String> {
        let pending = |p: &String| {
            let rows = self.rows(p);
            let deletes = matches!(plan(&rows.base, self.local(p).as_ref(), &rows.remote).action, Action::Delete | Action::Trash);
            !self.ignored.contains(p) && deletes && self.is_counted(&rows)
        };
        self.paths().into_iter().filter(pending).collect()
    }

    fn is_counted(&self, rows: &Rows) -> bool {
        let Some(was) = rows.base.entry.filter(|e| !e.is_dir()) else { return false };
        let to = rows.remote.renamed_to.as_ref().map(|to| self.rows(to).remote);
        !to.is_some_and(|to| to.entry.is_some_and(|e| e.same_body(&was)))
    }

    pub fn token(&self, path: &str) -> Token {
        let rows = self.rows(path);
        Token { path: path.into(), base: rows.base.rev, remote: rows.remote.rev }
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
    pub broken: Option<Broken>,
    /// Faults and other disturbances happen.
    pub on: bool,
    pub hub: Hub,
    pub backup: Option<Hub>,
    /// All requests arrive, no answer does; or not even the requests.
    pub lose_answers: bool,
    pub lose_requests: bool,
    /// Effects until the next crash.
    pub crash_in: Option<u32>,
    pub clients: Vec<Client>,
    pub engines: Vec<Option<Arc<Engine>>>,
    /// Other threads that run inside of one another.
    pub depth: u32,
    pub tick: u64,
    ids: u64,
    next_mode: u32,
    /// Requests that arrive late: the change, from whom, with its bytes.
    pub flight: Vec<(Change, String, bool)>,
    log: Option<Vec<String>>,
    // what users did, see `check`
    pub puts: BTreeSet<(String, u64)>,
    pub killed: BTreeMap<(String, u64), BTreeSet<usize>>,
    pub gone: BTreeMap<(String, u64), BTreeSet<usize>>,
    pub again: BTreeSet<(String, u64)>,
    pub modes: BTreeMap<u32, (String, u32)>,
    pub messy: BTreeSet<String>,
    /// Deletes let through: tick and client.
    pub guard: Vec<(u64, usize)>,
    pub wrongs: Vec<String>,
}

impl World {
    pub fn new(seed: u64, config: Config, broken: Option<Broken>, verbose: bool) -> World {
        let mut clients: Vec<Client> = (0..3).map(|_| Client::default()).collect();
        clients[0].legacy = config == Config::Legacy;
        World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            config,
            broken,
            on: true,
            hub: Hub::new(broken),
            backup: None,
            lose_answers: false,
            lose_requests: false,
            crash_in: None,
            clients,
            engines: vec![None, None, None],
            depth: 0,
            tick: 0,
            ids: 0,
            next_mode: 0,
            flight: Vec::new(),
            log: verbose.then(Vec::new),
            puts: BTreeSet::new(),
            killed: BTreeMap::new(),
            gone: BTreeMap::new(),
            again: BTreeSet::new(),
            modes: BTreeMap::new(),
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

    /// From 0 to 1.
    pub fn chance(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn fault(&mut self, p: f64) -> bool {
        self.on && self.chance() < p
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
        if of.is_empty() { None } else { Some(of[self.random(of.len())].clone()) }
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

    // -- what is watched while the engine works -------------------------------------------------------------------------------

    pub fn watch_delete(&mut self, i: usize, change: &Change) {
        if let Some(from) = &change.from {
            let copies: Vec<String> = [&from.path, &change.path].into_iter().filter(|_| copy_of(&change.path)).cloned().collect();
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
            let equal = local.zip(rows.remote.entry).is_some_and(|(l, r)| l.entry.same_body(&r));
            let planned = plan(&rows.base, local.as_ref(), &rows.remote).action;
            if equal && planned == Action::Conflict {
                self.wrongs.push(format!("I6 c{i} {from} conflicts with its equal"));
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
            self.wrongs.push(format!("I8 {path} was touched where only its user works"));
        }
    }

    // -- what people do -------------------------------------------------------------------------------------------------------

    fn kill(&mut self, i: usize, path: &str, writes: bool) -> Option<Node> {
        let node = self.clients[i].fs.remove(path)?;
        self.killed.entry((path.into(), node.content)).or_default().insert(i);
        if !writes {
            self.messy.insert(path.into());
        }
        self.gone.entry((stem(path), node.content)).or_default().insert(i);
        Some(node)
    }

    fn put(&mut self, i: usize, path: &str, node: Node, again: bool) {
        let content = node.content;
        self.clients[i].fs.insert(path.into(), node);
        let here = (path.to_string(), content);
        self.puts.insert(here.clone());
        self.killed.entry(here.clone()).or_default().remove(&i);
        self.gone.entry((stem(path), content)).or_default().remove(&i);
        if self.clients[i].legacy {
            self.hub.overwrote.remove(&Node::hash_of(content));
        }
        if again {
            self.again.insert(here);
            self.messy.insert(path.into());
        }
    }

    fn node(&mut self, kind: Kind, content: u64, mode: u32, mtime: Option<i64>) -> Node {
        let mtime = mtime.unwrap_or_else(|| self.fresh() as i64 * 1_000_000_000);
        Node { kind, content, mode, mtime, ino: self.fresh(), ctime: self.fresh() }
    }

    pub fn user(&mut self, i: usize) {
        if self.config == Config::Single && i != 1 {
            return;
        }
        let legacy = self.clients[i].legacy;
        let files: Vec<String> = self.clients[i].tree().filter(|(_, n)| !n.is_dir()).map(|(p, _)| p.clone()).collect();
        let files: Vec<String> = files.into_iter().filter(|p| !legacy || p == "a" || p == "b").collect();
        let x = self.chance();
        let had = self.pick(&files);
        match (x, had) {
            (..0.16, Some(had)) => {
                let node = self.kill(i, &had, false).expect("it was listed");
                self.say(|| format!("c{i} rm {had} {}", node.content));
                self.clients[i].queue.push(had.clone());
                self.clients[i].undo = Some((had, node));
            }
            (0.16..0.26, Some(had)) if !legacy => self.user_chmod(i, &had),
            (0.26..0.36, Some(had)) if !legacy => self.user_moves(i, &had),
            (0.36..0.41, _) if !legacy => self.user_changes_directory(i),
            _ => self.user_writes(i, x, legacy, &files),
        }
    }

    fn user_chmod(&mut self, i: usize, path: &str) {
        let ctime = self.fresh();
        self.next_mode = self.next_mode % (MODE - 1) + 1;
        let mode = self.next_mode;
        let node = self.clients[i].fs.get_mut(path).expect("it was listed");
        if node.kind == Kind::File {
            let before = node.mode;
            (node.mode, node.ctime) = (mode, ctime);
            self.modes.insert(mode, (path.into(), before));
            self.say(|| format!("c{i} chmod {path} {mode}"));
        }
    }

    /// `d` is something else than a directory here.
    fn d_is_file(&self, i: usize) -> bool {
        self.clients[i].fs.get("d").is_some_and(|n| !n.is_dir())
    }

    fn user_moves(&mut self, i: usize, from: &str) {
        let to = self.pick(&["a", "b", "e", "d/x", "d/z"]).expect("there are five");
        if self.clients[i].fs.contains_key(to) || parent(to).is_some() && self.d_is_file(i) {
            return;
        }
        let mut node = self.kill(i, from, false).expect("it was listed");
        self.make_parent(i, to);
        node.ctime = self.fresh();
        let (content, again) = (node.content, self.puts.contains(&(to.to_string(), node.content)));
        self.put(i, to, node, again);
        self.messy.insert(to.into());
        self.say(|| format!("c{i} mv {from} {to} {content}"));
    }

    fn user_changes_directory(&mut self, i: usize) {
        let dir = self.node(Kind::Dir, 0, 0, None);
        if self.clients[i].fs.contains_key("d") {
            let was_file = self.d_is_file(i);
            for below in self.clients[i].under("d") {
                self.kill(i, &below, false);
            }
            // what is ours goes with the directory
            let inside: Vec<String> = self.clients[i].fs.keys().filter(|p| is_below(p, "d")).cloned().collect();
            if was_file {
                self.say(|| format!("c{i} d: file to directory"));
                self.kill(i, "d", false);
                self.clients[i].fs.insert("d".into(), dir);
                return;
            }
            if !inside.is_empty() {
                return;
            }
            self.clients[i].fs.remove("d");
            self.say(|| format!("c{i} rm -r d"));
            if self.chance() < 0.6 {
                let content = self.fresh();
                let node = self.node(Kind::File, content, 0, None);
                self.put(i, "d", node, false);
                self.say(|| format!("c{i} writes d {content}"));
            }
            return;
        }
        self.clients[i].fs.insert("d".into(), dir);
        self.say(|| format!("c{i} mkdir d"));
    }

    fn user_writes(&mut self, i: usize, x: f64, legacy: bool, files: &[String]) {
        let names: Vec<String> = ["a", "b", "d/x", "d/y"].iter().take(if legacy { 2 } else { 4 }).map(|n| n.to_string()).collect();
        let path = self.pick(&[&names[..], files].concat()).expect("there are some");
        let undo = self.clients[i].undo.clone().filter(|(p, _)| !self.clients[i].fs.contains_key(p));
        if let Some((path, mut node)) = undo.filter(|(p, _)| x < 0.47 && !(parent(p).is_some() && self.d_is_file(i))) {
            self.make_parent(i, &path);
            (node.ino, node.ctime) = (self.fresh(), self.fresh());
            let content = node.content;
            self.put(i, &path, node, true);
            self.clients[i].queue.push(path.clone());
            self.say(|| format!("c{i} puts {path} {content} back"));
            return;
        }
        if parent(&path).is_some() && self.d_is_file(i) || self.clients[i].fs.get(&path).is_some_and(Node::is_dir) {
            return;
        }
        let (mut content, mut mtime, mut again) = (self.fresh(), None, false);
        if x < 0.54 {
            // bytes that were there before, or that somebody else writes too
            let known: Vec<u64> = self.puts.iter().filter(|(p, _)| *p == path).map(|(_, k)| *k).collect();
            if let Some(k) = self.pick(&known) {
                (content, again) = (k, true);
                let old = self.hub.old.get(&path).and_then(|o| o.iter().find(|o| o.hash == Node::hash_of(k)).map(|o| o.mtime));
                mtime = old.filter(|_| self.chance() < 0.5);
            }
        }
        let old = if self.clients[i].fs.contains_key(&path) { self.kill(i, &path, true) } else { None };
        if let Some(old) = old.as_ref().filter(|o| o.content == content) {
            mtime = Some(old.mtime);
        }
        let kind = if !legacy && self.chance() < 0.08 { Kind::Symlink } else { Kind::File };
        if old.as_ref().is_some_and(|o| o.kind != kind) {
            // its mode goes with the old one
            self.messy.insert(path.clone());
        }
        self.make_parent(i, &path);
        let mode = old.as_ref().filter(|o| o.kind == Kind::File).map_or(0, |o| o.mode);
        let mut node = self.node(kind, content, mode, mtime);
        if let Some(old) = old.filter(|_| self.chance() < 0.5) {
            // written in place
            node.ino = old.ino;
        }
        self.put(i, &path, node, again);
        self.clients[i].queue.push(path.clone());
        self.say(|| format!("c{i} writes {path} {content} {kind:?}"));
    }

    fn make_parent(&mut self, i: usize, path: &str) {
        self.clients[i].make_parents(path);
    }

    // -- a client that keeps no base and knows no preconditions ---------------------------------------------------------------

    pub fn old_client(&mut self, i: usize) {
        let host = format!("c{i}");
        for path in std::mem::take(&mut self.clients[i].queue) {
            let entry = self.clients[i].fs.get(&path).map(Node::entry);
            self.say(|| format!("{host} legacy: {path} {:?}", entry.map(|e| Node::content_of(&e.hash))));
            self.hub.unconditional(&path, entry, &host);
        }
        let heard = self.clients[i].heard;
        for path in ["a", "b"] {
            let row = self.hub.row(path);
            // else: it was down and missed the event
            if row.rev > heard && row.entry.is_none() && !self.fault(0.3) {
                self.clients[i].fs.remove(path);
            }
        }
        self.clients[i].heard = self.hub.rev;
        if self.chance() < 0.5 {
            return;
        }
        // its start: fetch what is missing, send all that it has
        for path in ["a", "b"] {
            match (self.hub.row(path).entry.filter(|e| !e.is_dir()), self.clients[i].fs.get(path).map(Node::entry)) {
                (Some(theirs), None) => {
                    let node = self.node(theirs.kind, Node::content_of(&theirs.hash), theirs.mode, Some(theirs.mtime));
                    self.clients[i].fs.insert(path.into(), node);
                }
                (_, Some(mine)) => self.hub.unconditional(path, Some(mine), &host),
                (None, None) => {}
            }
        }
    }
}
