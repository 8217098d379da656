//! One client's environment in the simulation: tree, state and hub in memory, with everything that
//! can go wrong.
//!
//! Before and after each effect the client may crash, a user may act, and another thread of the
//! same client may carry out a work item: no lock is held then.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::plan::{DIR_MODE, LocalEntry, Stamp, parent};
use crate::relpath;
use crate::wire::files;
use crate::wire::revision::Revision;

use super::Config;
use super::world::{Client, Node, Shared, World};

/// Seconds of one tick.
pub const TICK: u64 = 120;

#[derive(Clone)]
pub struct Side {
    pub world: Arc<Shared>,
    pub i: usize,
}

pub fn fatal(what: &str) -> Fault {
    Fault::Fatal(Error::new(Kind::Failed, what))
}

pub fn no_space() -> Fault {
    Fault::NoSpace(Error::new(Kind::Busy, "a sync failed"))
}

pub fn refused() -> Fault {
    Fault::Refused(Error::new(Kind::Failed, "this disk has no such names"))
}

fn later(what: &str) -> Fault {
    Fault::Later(Error::new(Kind::Unreachable, what))
}

/// The point of a call at which something may happen.
#[derive(Clone, Copy, PartialEq)]
pub enum Point {
    /// Before a read: only a crash that has happened already.
    Read,
    /// Just before an effect in the tree: the last window of a race.
    Window,
    Effect,
}

impl Side {
    pub fn enter(&self, point: Point) -> CallResult<MutexGuard<'_, World>> {
        let mut w = self.world.lock();
        if w.clients[self.i].crashed {
            return Err(fatal("crashed before"));
        }
        if point == Point::Read {
            w.reads += 1;
            return Ok(w);
        }
        if w.crashes(0.012) {
            return Err(self.crash(w));
        }
        if w.fails() {
            return Err(no_space());
        }
        if point == Point::Window && w.fault(0.2) {
            w.user(self.i);
        }
        if point == Point::Window
            && let Some(act) = w.meanwhile.take()
        {
            act(&mut w);
        }
        if w.config == Config::Copies && w.fault(0.02) {
            w.keep_copy(self.i);
        }
        if w.depth < 2 && w.fault(0.06) {
            w = self.other_thread(w)?;
        }
        Ok(w)
    }

    pub fn crash(&self, mut w: MutexGuard<'_, World>) -> Fault {
        let i = self.i;
        w.say(|| format!("c{i} crashes"));
        w.clients[i].crashed = true;
        let unsynced = w.clients[i].unsynced.len();
        let kept = match w.crash_keeps {
            Some(most) => most.min(unsynced),
            None => w.random(unsynced + 1),
        };
        w.clients[i].lose_unsynced(kept);
        if w.config == Config::Moving && w.fault(0.5) {
            w.forget_unrecorded(i);
            w.user_moves_directory(i);
        }
        fatal("crashes here")
    }

    /// Runs another worker of the same client.
    fn other_thread<'a>(
        &'a self,
        mut w: MutexGuard<'a, World>,
    ) -> CallResult<MutexGuard<'a, World>> {
        let Some(engine) = w.engines[self.i].clone() else {
            return Ok(w);
        };
        w.depth += 1;
        let (poll, most) = (w.random(3) == 0, w.group());
        drop(w);
        if poll {
            drop(engine.poll())
        } else {
            drop(engine.work(most))
        }
        let mut w = self.world.lock();
        w.depth -= 1;
        if w.clients[self.i].crashed {
            Err(fatal("crashed meanwhile"))
        } else {
            Ok(w)
        }
    }

    /// After an effect.
    pub fn leave<T>(&self, mut w: MutexGuard<'_, World>, done: T) -> CallResult<T> {
        if w.crashes(0.03) {
            return Err(self.crash(w));
        }
        // a sync that fails after the change was made
        if w.fails() { Err(no_space()) } else { Ok(done) }
    }

    fn request(&self, change: &HubChange, local: Option<&LocalEntry>) -> CallResult<ChangeOutcome> {
        let mut w = self.enter(if local.is_some() {
            Point::Window
        } else {
            Point::Effect
        })?;
        if let Some(local) = local {
            let node = w.clients[self.i].fs.get(&change.path);
            // bytes that are sent are read and must have the hash; content that the hub has is not
            // sent
            let known = w.clients[self.i]
                .rows(&change.path)
                .remote
                .entry
                .is_some_and(|there| there.same_body(&local.entry));
            let read = node.is_some_and(|n| {
                n.is_dir() || known || change.from.is_some() || n.hash() == local.entry.hash
            });
            if node.map(Node::stamp) != Some(local.stamp) || !read {
                return Ok(ChangeOutcome::FileChanged);
            }
        }
        let counted = w.guard.len();
        w.watch_delete(self.i, change);
        let bytes = local.is_some() && change.from.is_none();
        let host = format!("c{}", self.i);
        let lot = match (w.lose_requests, w.lose_answers) {
            (true, _) => 0,
            (_, true) => 20,
            _ if w.on => w.random(100),
            _ => 99,
        };
        if lot < 5 {
            return Err(later("it never left"));
        }
        if !w.hub.has_history(change.newest) {
            return Err(later("the hub was set back"));
        }
        if lot < 15 {
            w.say(|| {
                format!(
                    "{host} sent, in flight: {} {:?} if {:?} from {:?}",
                    change.path,
                    change.entry.map(|e| e.hash),
                    change.condition,
                    change.from
                )
            });
            w.flight.push((change.clone(), host, bytes));
            return Err(later("no answer yet"));
        }
        let answer = w.hub.change(change, &host, bytes);
        if !matches!(answer, ChangeOutcome::Made(_) | ChangeOutcome::Noted(_)) {
            // nothing was deleted
            w.guard.truncate(counted);
        }
        w.say(|| {
            format!(
                "{host} sent: {} {:?} if {:?} from {:?}: {}",
                change.path,
                change.entry.map(|e| e.hash),
                change.condition,
                change.from,
                super::brief(&answer)
            )
        });
        if lot < 25 {
            return Err(later("the answer was lost"));
        }
        self.leave(w, answer)
    }
}

impl crate::files::engine::traits::HubCalls for Side {
    fn changes(
        &self,
        after: u64,
        newest: Revision,
        began: Option<u64>,
    ) -> CallResult<ChangesResult> {
        let mut w = self.enter(Point::Effect)?;
        if w.lose_commits {
            // a commit of another thread fails, and the state is as the disk has it
            w.clients[self.i].lose_unsynced(0);
        }
        let page = w.hub.changes(after, newest, began);
        let i = self.i;
        if !matches!(&page, ChangesResult::Page(p) if p.rows.is_empty()) {
            w.say(|| format!("c{i} page after {after}: {}", super::brief_page(&page)));
        }
        self.leave(w, page)
    }

    fn common(&self, epoch: Uuid, points: &[Revision]) -> CallResult<u64> {
        let mut w = self.enter(Point::Effect)?;
        if w.fault(0.1) {
            return Err(later("no answer"));
        }
        let (common, i) = (w.hub.common(epoch, points), self.i);
        w.say(|| format!("c{i} has a common history through {common}"));
        self.leave(w, common)
    }

    fn ask(&self, key: Uuid, newest: Revision) -> CallResult<KeyRows> {
        let mut w = self.enter(Point::Effect)?;
        if w.fault(0.1) || !w.hub.has_history(newest) {
            return Err(later("no answer"));
        }
        let asked = w.hub.ask(key);
        let i = self.i;
        w.say(|| {
            format!(
                "c{i} asks: made {:?}",
                asked.made.as_ref().map(|m| m
                    .iter()
                    .map(|(p, r)| (p.clone(), r.rev))
                    .collect::<Vec<_>>())
            )
        });
        self.leave(w, asked)
    }
}

impl ContentTransfer for Side {
    fn send(&self, all: &[SendItem<'_>]) -> Vec<CallResult<ChangeOutcome>> {
        all.iter()
            .map(|s| self.request(s.change, s.local))
            .collect()
    }

    fn stage(&self, all: &[StageItem<'_>]) -> Vec<CallResult<Option<StagedFile>>> {
        all.iter()
            .map(|delivery| self.stage_one(delivery))
            .collect()
    }
}

impl Side {
    fn stage_one(&self, delivery: &StageItem<'_>) -> CallResult<Option<StagedFile>> {
        let StageItem {
            path,
            entry,
            sources,
            above,
            ..
        } = *delivery;
        let mut w = self.enter(Point::Effect)?;
        let hub = w.hub.blobs.clone();
        let c = &w.clients[self.i];
        let found = sources.iter().find_map(|source| match source {
            ContentSource::Tree(p) => {
                c.fs.get(p)
                    .filter(|n| n.kind == entry.kind && n.hash() == entry.hash)
                    .map(Node::hash)
            }
            ContentSource::Trash => {
                c.fs.iter()
                    .find(|(p, n)| {
                        p.starts_with(".mesync/") && n.kind == entry.kind && n.hash() == entry.hash
                    })
                    .map(|(_, n)| n.hash())
            }
            ContentSource::Hub => hub.contains(&entry.hash).then_some(entry.hash),
        });
        let Some(hash) = found.or(entry.is_dir().then_some(entry.hash)) else {
            return Ok(None);
        };
        if w.clients[self.i].refuses(path) {
            return Err(refused());
        }
        let missing: Vec<(&str, u32)> = above
            .iter()
            .filter(|(dir, _)| !w.clients[self.i].fs.contains_key(*dir))
            .copied()
            .collect();
        if !w.clients[self.i].make_parents(path) {
            return Ok(None);
        }
        for (dir, mode) in missing {
            if let Some(made) = w.clients[self.i].fs.get_mut(dir) {
                made.mode = mode;
            }
        }
        let temp = relpath::temporary(w.fresh());
        let temp = parent(path).map_or(temp.clone(), |dir| format!("{dir}/{temp}"));
        let (ino, ctime) = (w.fresh(), w.fresh());
        let content = Node::content_of(&hash);
        let node = Node {
            kind: entry.kind,
            content,
            mode: entry.mode,
            mtime: entry.mtime,
            ino,
            ctime,
            dirty: false,
        };
        let stamp = node.stamp();
        let i = self.i;
        w.clients[i].put_with_parents(&temp, node);
        self.leave(w, Some(StagedFile { temp, stamp }))
    }
}

impl Ambient for Side {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + self.world.lock().tick * TICK)
    }

    fn elapsed(&self) -> Duration {
        self.world.lock().elapsed
    }

    fn fresh(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.world.lock().fresh()))
    }
}

impl Client {
    pub fn stamp(&self, path: &str) -> Option<Stamp> {
        self.fs.get(self.at(path).as_ref()).map(Node::stamp)
    }

    /// Creates the ancestors; `false`: an entry that is not a directory is in the way.
    pub fn make_parents(&mut self, path: &str) -> bool {
        let Some(up) = parent(path) else { return true };
        // mkdir finds another spelling there
        if self.real(up) != up {
            return false;
        }
        match self.fs.get(self.real(up).as_ref()) {
            Some(node) => node.is_dir(),
            None => {
                let made = self.make_parents(up);
                if made {
                    self.serial += 1;
                    let (ino, ctime) = (1_000_000 + self.serial, self.serial);
                    let node = Node {
                        kind: files::EntryKind::Dir,
                        content: 0,
                        mode: DIR_MODE,
                        mtime: 0,
                        ino,
                        ctime,
                        dirty: false,
                    };
                    self.fs.insert(up.to_string(), node);
                }
                made
            }
        }
    }

    fn put_with_parents(&mut self, path: &str, node: Node) {
        self.make_parents(path);
        self.fs.insert(path.to_string(), node);
    }
}
