//! The durable state of a client in the simulation: maps that survive its crashes, changed by whole transactions.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::engine::rows::{hear, hear_of_none, set_back};
use crate::files::engine::traits::*;
use crate::files::plan::is_below;
use crate::wire::files::Hash;
use crate::wire::revision::{Revision, Tag};

use super::side::{Point, Side, fatal, no_space};
use super::world::Client;

/// Commits that a crash may undo, at most.
const MAX_UNSYNCED_COMMITS: usize = 4;

impl State for Side {
    fn rows(&self, path: &str) -> CallResult<Rows> {
        Ok(self.enter(Point::Read)?.clients[self.i].rows(path))
    }

    fn below(&self, dir: &str, after: &str, most: usize) -> CallResult<Vec<(String, Rows)>> {
        let w = self.enter(Point::Read)?;
        let rows = w.clients[self.i]
            .rows
            .iter()
            .filter(|(p, _)| (dir.is_empty() || is_below(p, dir)) && p.as_str() > after);
        Ok(rows
            .take(most)
            .map(|(p, r)| (p.clone(), r.clone()))
            .collect())
    }

    fn with_hash(&self, hash: &Hash, most: usize) -> CallResult<Vec<String>> {
        let w = self.enter(Point::Read)?;
        let has = |r: &Rows| r.base.entry.is_some_and(|e| !e.is_dir() && e.hash == *hash);
        Ok(w.clients[self.i]
            .rows
            .iter()
            .filter(|(_, r)| has(r))
            .take(most)
            .map(|(p, _)| p.clone())
            .collect())
    }

    fn not_listed(&self, after: &str, most: usize) -> CallResult<Vec<String>> {
        let w = self.enter(Point::Read)?;
        let c = &w.clients[self.i];
        let known = |r: &Rows| r.base.rev > 0 || r.remote.rev > 0;
        let names = c
            .rows
            .iter()
            .filter(|(p, r)| known(r) && p.as_str() > after && !c.listed.contains(*p));
        Ok(names.take(most).map(|(p, _)| p.clone()).collect())
    }

    fn feed(&self) -> CallResult<Feed> {
        Ok(self.enter(Point::Read)?.clients[self.i].feed)
    }

    fn points(&self) -> CallResult<Vec<Revision>> {
        let w = self.enter(Point::Read)?;
        Ok(w.clients[self.i]
            .points
            .iter()
            .map(|(rev, tag)| Revision {
                rev: *rev,
                tag: *tag,
            })
            .collect())
    }

    fn files(&self) -> CallResult<u64> {
        let w = self.enter(Point::Read)?;
        Ok(w.clients[self.i]
            .rows
            .values()
            .filter(|r| r.base.entry.is_some_and(|e| !e.is_dir()))
            .count() as u64)
    }

    fn deletes(&self) -> CallResult<BTreeMap<u64, u32>> {
        Ok(self.enter(Point::Read)?.clients[self.i].deletes.clone())
    }

    fn approved(&self, token: &DeleteToken) -> CallResult<bool> {
        let w = self.enter(Point::Read)?;
        let c = &w.clients[self.i];
        Ok(c.approved.contains(token))
    }

    fn commit(&self, writes: &[Write]) -> CallResult<()> {
        self.write(writes, true)
    }

    fn commit_soon(&self, writes: &[Write]) -> CallResult<()> {
        self.write(writes, false)
    }
}

impl Side {
    fn write(&self, writes: &[Write], syncs: bool) -> CallResult<()> {
        let mut w = self.world.lock();
        if w.clients[self.i].crashed {
            return Err(fatal("crashed before"));
        }
        if w.crashes(0.008) {
            return Err(self.crash(w));
        }
        if w.fails() {
            // the file is opened again, as the disk has it
            w.clients[self.i].lose_unsynced(0);
            return Err(no_space());
        }
        let i = self.i;
        if let Some(forget) = writes
            .iter()
            .find(|w| matches!(w, Write::ForgetAll | Write::SetBack { .. }))
        {
            w.say(|| format!("c{i} {forget:?}"));
        }
        w.clients[i].write(writes, syncs);
        if w.crashes(0.008) {
            return Err(self.crash(w));
        }
        if w.fails() { Err(no_space()) } else { Ok(()) }
    }
}

/// All that commits change.
#[derive(Clone)]
pub struct Snapshot {
    rows: BTreeMap<String, Rows>,
    feed: Feed,
    listed: BTreeSet<String>,
    points: BTreeMap<u64, Tag>,
    deletes: BTreeMap<u64, u32>,
    approved: BTreeSet<DeleteToken>,
}

impl Client {
    fn write(&mut self, writes: &[Write], syncs: bool) {
        if syncs {
            self.unsynced.clear();
        } else {
            self.unsynced.push_back(Snapshot {
                rows: self.rows.clone(),
                feed: self.feed,
                listed: self.listed.clone(),
                points: self.points.clone(),
                deletes: self.deletes.clone(),
                approved: self.approved.clone(),
            });
            // the earliest is old enough to have been synced
            if self.unsynced.len() > MAX_UNSYNCED_COMMITS {
                self.unsynced.pop_front();
            }
        }
        self.commit(writes);
    }

    /// Loses the commits without a sync, except the first `kept` of them.
    pub fn lose_unsynced(&mut self, kept: usize) {
        let Some(was) = self.unsynced.drain(..).nth(kept) else {
            return;
        };
        self.rows = was.rows;
        self.feed = was.feed;
        self.listed = was.listed;
        self.points = was.points;
        self.deletes = was.deletes;
        self.approved = was.approved;
    }

    /// The rules of [`Write`], in memory.
    fn commit(&mut self, writes: &[Write]) {
        for write in writes {
            match write.clone() {
                Write::Base(path, row) => self.rows_mut(&path).base = row,
                Write::Remote { path, row, listed } => {
                    let rows = self.rows_mut(&path);
                    hear(rows, &row);
                    if listed {
                        self.listed.insert(path);
                    }
                }
                Write::Unlisted { path, through } => {
                    hear_of_none(self.rows_mut(&path), through);
                }
                Write::Intent(path, intent) => self.rows_mut(&path).intent = intent,
                Write::OpenKey(key) => key
                    .names
                    .iter()
                    .for_each(|p| self.rows_mut(p).key = Some(key.clone())),
                Write::CloseKey(key) => {
                    for path in &key.names {
                        let rows = self.rows_mut(path);
                        if rows.key.as_ref().is_some_and(|k| k.key == key.key) {
                            rows.key = None;
                        }
                    }
                }
                Write::Feed(feed) => self.feed = feed,
                Write::NothingListed => self.listed.clear(),
                Write::ForgetAll => {
                    for rows in self.rows.values_mut() {
                        *rows = Rows {
                            intent: rows.intent.take(),
                            key: rows.key.take(),
                            ..Rows::default()
                        };
                    }
                    self.listed.clear();
                    self.approved.clear();
                    self.points.clear();
                }
                Write::SetBack { through } => {
                    self.rows
                        .values_mut()
                        .for_each(|rows| set_back(rows, through));
                    self.listed.clear();
                    self.approved.clear();
                    self.points.retain(|rev, _| *rev <= through);
                }
                Write::Points(points) => {
                    self.points.extend(points.iter().map(|at| (at.rev, at.tag)))
                }
                Write::Deleted { minute } => *self.deletes.entry(minute).or_default() += 1,
                Write::ForgetDeletes { before } => {
                    self.deletes.retain(|minute, _| *minute >= before)
                }
                Write::Approve(tokens) => self.approved = tokens.into_iter().collect(),
            }
        }
        self.rows.retain(|_, rows| *rows != Rows::default());
    }

    fn rows_mut(&mut self, path: &str) -> &mut Rows {
        self.rows.entry(path.to_string()).or_default()
    }

    pub fn rows(&self, path: &str) -> Rows {
        self.rows.get(path).cloned().unwrap_or_default()
    }
}
