//! The hub of the simulation: compare-and-swap, the change feed, keys, forgotten tombstones,
//! backups.
//!
//! No HTTP and no bytes: a content is a number, and its hash is made from it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::files::engine::traits::{
    ChangeOutcome, ChangesResult, ExpectedRow, HubChange, KeyRows, RowPage,
};
use crate::files::plan::{Entry, RemoteRow};
use crate::wire::files::Hash;
use crate::wire::revision::{Revision, Tag};

use super::world::Node;

/// Rows on one page: few, so that a listing has several pages.
const PAGE: usize = 2;

#[derive(Debug, Clone, Default)]
pub struct SimHub {
    pub rows: BTreeMap<String, RemoteRow>,
    /// Versions that were replaced.
    pub old: BTreeMap<String, Vec<Entry>>,
    /// The result of each key; `None`: void.
    keys: BTreeMap<Uuid, Option<Vec<(String, RemoteRow)>>>,
    pub blobs: BTreeSet<Hash>,
    pub rev: u64,
    pub epoch: u64,
    /// The number of this history: each of its tags differs from all earlier ones.
    history: u64,
    /// The tags of all revisions, one for each commit.
    commits: BTreeMap<u64, Tag>,
    /// Revisions at which the hub was started.
    starts: BTreeSet<u64>,
    floor: u64,
    /// A current hub, which distinguishes its histories.
    tagged: bool,
    /// Contents overwritten without a precondition by a client that had not seen them, or by a
    /// change whose key had been void before this hub was set back.
    pub overwrote: BTreeSet<Hash>,
    /// Keys that were void in an earlier history.
    was_void: BTreeSet<Uuid>,
}

impl SimHub {
    pub fn new(tagged: bool) -> SimHub {
        SimHub {
            tagged,
            ..SimHub::default()
        }
    }

    pub fn row(&self, path: &str) -> RemoteRow {
        self.rows.get(path).cloned().unwrap_or_default()
    }

    /// Its files, with their contents.
    pub fn live(&self) -> impl Iterator<Item = (String, u64)> {
        let content = |row: &RemoteRow| Some(Node::content_of(&row.entry?.hash));
        self.rows
            .iter()
            .filter_map(move |(path, row)| Some((path.clone(), content(row)?)))
    }

    pub fn has_history(&self, at: Revision) -> bool {
        at.tag.is_unknown() || self.tag(at.rev) == at.tag
    }

    /// A change with its preconditions. `bytes`: the request included the content.
    pub fn change(&mut self, c: &HubChange, host: &str, bytes: bool) -> ChangeOutcome {
        if !self.has_history(c.newest) {
            // the caller knows that it must ask for the outcome
            return ChangeOutcome::NotDone;
        }
        match self.keys.get(&c.key) {
            Some(Some(made)) => return ChangeOutcome::Made(made.clone()),
            Some(None) => return ChangeOutcome::NotDone,
            None => {}
        }
        let now = self.row(&c.path);
        let met = match c.condition {
            ExpectedRow::Nothing => now.entry.is_none(),
            ExpectedRow::Rev(at) => now.at().is(at),
        };
        if !met {
            return ChangeOutcome::Differs(Some((c.path.clone(), now)));
        }
        if let Some(from) = &c.from
            && !self.row(&from.path).at().is(from.rev)
        {
            return ChangeOutcome::Differs(Some((from.path.clone(), self.row(&from.path))));
        }
        // its client relies on the answer that it will never be made, and the hub is as it was before
        // it gave that answer: neither can know better. What is replaced is in a trash or a version
        if self.was_void.contains(&c.key) {
            let from = c.from.as_ref().map(|from| &from.path);
            let names = std::iter::once(&c.path).chain(from);
            let replaced = names.filter_map(|path| Some(self.row(path).entry?.hash));
            let replaced: Vec<Hash> = replaced.collect();
            self.overwrote.extend(replaced);
        }
        let made = self.carry_out(c, host, bytes);
        self.keys.insert(c.key, Some(made.clone()));
        ChangeOutcome::Made(made)
    }

    fn carry_out(&mut self, c: &HubChange, host: &str, bytes: bool) -> Vec<(String, RemoteRow)> {
        if let Some(e) = c.entry.filter(|e| !e.is_dir() && bytes) {
            self.blobs.insert(e.hash);
        }
        let mut made = vec![(c.path.clone(), self.write(&c.path, c.entry, None, host))];
        if let Some(from) = &c.from {
            made.push((
                from.path.clone(),
                self.write(&from.path, None, Some(c.path.clone()), host),
            ));
        }
        made
    }

    /// A change by a client without preconditions: the last one wins, except for changes that are
    /// known to be outdated.
    pub fn unconditional(&mut self, path: &str, entry: Option<Entry>, host: &str) {
        let now = self.row(path);
        let Some(new) = entry else {
            if let Some(was) = now.entry {
                self.overwrote.insert(was.hash);
                self.write(path, None, None, host);
            }
            return;
        };
        if now
            .entry
            .is_some_and(|e| e.same_body(&new) && e.mtime == new.mtime)
        {
            return;
        }
        let other = now.host.as_deref() != Some(host);
        let olds = self.old.get(path).cloned().unwrap_or_default();
        let stale = olds
            .iter()
            .any(|o| o.hash == new.hash && o.mtime == new.mtime);
        if stale && other {
            self.overwrote.insert(new.hash);
            return;
        }
        if let Some(was) = now.entry {
            self.overwrote.insert(was.hash);
        }
        self.blobs.insert(new.hash);
        self.write(path, Some(new), None, host);
    }

    fn write(
        &mut self,
        path: &str,
        entry: Option<Entry>,
        renamed_to: Option<String>,
        host: &str,
    ) -> RemoteRow {
        if let Some(was) = self.row(path).entry {
            self.old.entry(path.into()).or_default().push(was);
        }
        self.rev += 1;
        let tag = if self.tagged {
            Tag((self.history + 1) << 32 | self.rev)
        } else {
            Tag::default()
        };
        self.commits.insert(self.rev, tag);
        let row = RemoteRow {
            rev: self.rev,
            tag,
            entry,
            id: Uuid::nil(),
            host: Some(host.into()),
            renamed_to,
        };
        self.rows.insert(path.into(), row.clone());
        row
    }

    pub fn has_made(&self, key: Uuid) -> bool {
        self.keys.get(&key).is_some_and(Option::is_some)
    }

    pub fn ask(&mut self, key: Uuid) -> KeyRows {
        let made = self.keys.get(&key).cloned().flatten();
        self.keys.entry(key).or_insert(None);
        let current = made
            .iter()
            .flatten()
            .filter_map(|(path, _)| self.rows.get(path).map(|row| (path.clone(), row.clone())));
        KeyRows {
            current: current.collect(),
            made,
        }
    }

    fn tag(&self, rev: u64) -> Tag {
        self.commits.get(&rev).copied().unwrap_or_default()
    }

    pub fn changes(&self, after: u64, newest: Revision, began: Option<u64>) -> ChangesResult {
        if !self.has_history(newest) {
            return ChangesResult::OtherHistory;
        }
        if after > 0 && after.max(began.unwrap_or(0)) < self.floor {
            return ChangesResult::Gone;
        }
        let mut rows: Vec<(String, RemoteRow)> = self
            .rows
            .iter()
            .filter(|(_, r)| r.rev > after)
            .map(|(p, r)| (p.clone(), r.clone()))
            .collect();
        rows.sort_by_key(|(_, r)| r.rev);
        let more = rows.len() > PAGE;
        rows.truncate(PAGE);
        let epoch = Uuid::from_u128(u128::from(self.epoch) + 1);
        ChangesResult::Page(RowPage {
            rev: self.rev,
            epoch,
            more,
            began: (after == 0).then_some(self.rev),
            last: rows.last().map(|(_, r)| r.rev),
            tag: self.tag(self.rev),
            rows,
        })
    }

    /// Forgets the older tombstones, and contents without a reference.
    pub fn drop_tombstones(&mut self) {
        let mut dead: Vec<(u64, String)> = self
            .rows
            .iter()
            .filter(|(_, r)| r.entry.is_none())
            .map(|(p, r)| (r.rev, p.clone()))
            .collect();
        dead.sort();
        for (rev, path) in &dead[..dead.len().div_ceil(2)] {
            self.rows.remove(path);
            self.old.remove(path);
            self.floor = self.floor.max(*rev);
        }
        let live = self.rows.values().filter_map(|r| r.entry.map(|e| e.hash));
        let kept: BTreeSet<Hash> = live
            .chain(self.old.values().flatten().map(|e| e.hash))
            .collect();
        self.blobs.retain(|hash| kept.contains(hash));
    }

    /// Like the hub's store.
    pub fn common(&self, epoch: Uuid, points: &[Revision]) -> u64 {
        let known = points
            .iter()
            .filter(|at| self.tag(at.rev) == at.tag)
            .map(|at| at.rev)
            .max()
            .unwrap_or(0);
        let unknown = points
            .iter()
            .map(|at| at.rev)
            .filter(|rev| *rev > known)
            .min()
            .unwrap_or(u64::MAX);
        let start = self.starts.range(known..unknown).next().copied();
        let same = epoch == Uuid::from_u128(u128::from(self.epoch) + 1);
        if known == 0 && !same {
            0
        } else {
            start.unwrap_or(known)
        }
    }

    /// Its disk is set back: it gives the same numbers again. `started`: it knows that it was
    /// restarted since.
    pub fn set_back(&mut self, copy: &SimHub, started: bool) {
        let void = self.keys.iter().filter(|(_, made)| made.is_none());
        let was_void = self.was_void.iter().chain(void.map(|(key, _)| key));
        *self = SimHub {
            history: self.history + 1,
            overwrote: self.overwrote.clone(),
            was_void: was_void.copied().collect(),
            ..copy.clone()
        };
        if started {
            self.starts.insert(self.rev);
        }
    }

    /// A backup is restored: another epoch, with a gap in the numbers, and a known history.
    pub fn restore_known(&mut self, copy: &SimHub) {
        let epoch = self.epoch + 1;
        self.set_back(copy, true);
        (self.epoch, self.rev) = (epoch, self.rev + 1000);
        self.commits
            .insert(self.rev, Tag((self.history + 1) << 32 | self.rev));
    }

    /// An older hub is set back to a backup.
    pub fn restore(&mut self, backup: &SimHub) {
        let lost = self.blobs.difference(&backup.blobs).copied();
        let overwrote = self.overwrote.iter().copied().chain(lost).collect();
        *self = SimHub {
            epoch: self.epoch + 1,
            rev: self.rev + 1000,
            overwrote,
            ..backup.clone()
        };
    }
}
