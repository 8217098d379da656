//! The invariants: what must be true once the world is quiet, derived from what users did.
//!
//! * I1 every tree equals the hub, except for held and ignored paths, and nothing is open;
//! * I2 content that a user wrote, and no user has overwritten or deleted since, is live; otherwise
//!   it is *aside* (only in a trash or a version; allowed where a client without preconditions
//!   overwrote it) or *lost*;
//! * I3 content that a user overwrote or deleted is not live again, unless a user restored it;
//! * I4 every live record has its bytes;
//! * I5 a mode or a time that one user set and no other changed stays, and is the same everywhere;
//! * I6 equal files do not conflict; I7 deletes that no user approved stay within the limit in
//!   every window; I8 where only one machine has a user, nothing there is touched: these are
//!   checked while the simulation runs;
//! * I9 entries that a disk cannot have beside the others are reported there, and everything else
//!   is as on the hub.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::plan::{DIR_MODE, Entry, parent};
use crate::wire::files::EntryKind;

use super::world::{Client, Node, World};
use super::{Config, LIMIT, WINDOW, stem};

type Shown = BTreeMap<String, (EntryKind, u64, u32)>;

fn show(entry: &Entry) -> (EntryKind, u64, u32) {
    (entry.kind, Node::content_of(&entry.hash), entry.mode)
}

/// All directories that exist, by themselves or above an entry, with their modes.
fn dirs<'a>(tree: impl Iterator<Item = (&'a String, Entry)>) -> BTreeMap<String, u32> {
    let all: Vec<(&String, Entry)> = tree.collect();
    let above = all
        .iter()
        .filter_map(|(p, _)| Some((parent(p)?.to_string(), DIR_MODE)));
    above
        .chain(
            all.iter()
                .filter(|(_, e)| e.is_dir())
                .map(|(p, e)| (p.to_string(), e.mode)),
        )
        .collect()
}

impl World {
    /// Paths that are out of sync on purpose.
    fn waits(&self, c: &Client) -> BTreeSet<String> {
        let held = if self.config == Config::Guard {
            c.pending()
        } else {
            Vec::new()
        };
        let ignored = c.ignored.iter().filter(|p| c.fs.contains_key(*p));
        let above = held
            .iter()
            .chain(ignored)
            .filter_map(|p| parent(p))
            .map(str::to_string);
        let mut out: BTreeSet<String> = c
            .ignored
            .iter()
            .chain(&held)
            .cloned()
            .chain(above)
            .collect();
        let names = c.tree().map(|(p, _)| p).chain(self.hub.rows.keys());
        let below: Vec<String> = names
            .filter(|p| parent(p).is_some_and(|up| out.contains(up)))
            .cloned()
            .collect();
        out.extend(below);
        // a file stays under its old name until it can have the new one
        let renamed = c.rows.iter().filter(|(_, r)| {
            let to = r.remote.renamed_to.as_ref();
            r.remote.entry.is_none() && to.is_some_and(|to| out.contains(to))
        });
        let renamed: Vec<String> = renamed.map(|(path, _)| path.clone()).collect();
        out.extend(renamed);
        out
    }

    pub fn check(&self) -> Vec<String> {
        let mut wrongs = self.wrongs.clone();
        let live: BTreeMap<&String, Entry> = self
            .hub
            .rows
            .iter()
            .filter_map(|(p, r)| Some((p, r.entry?)))
            .collect();
        let waits: Vec<BTreeSet<String>> = self.clients.iter().map(|c| self.waits(c)).collect();
        for (i, c) in self.clients.iter().enumerate() {
            let cannot = c.cannot(&live);
            let could: BTreeMap<&String, Entry> = live
                .iter()
                .filter(|(p, _)| !cannot.contains(**p))
                .map(|(p, e)| (*p, *e))
                .collect();
            self.in_sync(i, c, &waits[i], &could, &mut wrongs);
            wrongs.extend(
                cannot
                    .difference(&c.refused)
                    .map(|path| format!("I9 c{i} {path} cannot be here, and is not named")),
            );
        }
        self.nothing_lost(&live, &waits, &mut wrongs);
        for (path, entry) in &live {
            self.not_back(path, entry, &waits, &mut wrongs);
            self.mode_stays(path, entry, &waits, &mut wrongs);
        }
        for i in 0..self.clients.len() {
            let times: Vec<u64> = self
                .guard
                .iter()
                .filter(|(_, who)| *who == i)
                .map(|(t, _)| *t)
                .collect();
            let over = times.windows(LIMIT + 1).any(|w| w[LIMIT] - w[0] < WINDOW);
            if self.config == Config::Guard && over {
                wrongs.push(format!("I7 c{i} deletes at {times:?}"));
            }
        }
        wrongs
    }

    fn in_sync(
        &self,
        i: usize,
        c: &Client,
        skip: &BTreeSet<String>,
        live: &BTreeMap<&String, Entry>,
        wrongs: &mut Vec<String>,
    ) {
        let shown = |all: &mut dyn Iterator<Item = (&String, Entry)>| -> Shown {
            all.filter(|(p, e)| !e.is_dir() && !skip.contains(*p))
                .map(|(p, e)| (p.clone(), show(&e)))
                .collect()
        };
        let mine = shown(&mut c.tree().map(|(p, n)| (p, n.entry())));
        let hubs = shown(&mut live.iter().map(|(p, e)| (*p, *e)));
        let my_dirs = dirs(c.tree().map(|(p, n)| (p, n.entry())));
        let hub_dirs = dirs(live.iter().map(|(p, e)| (*p, *e)));
        if !c.legacy && (mine != hubs || skip.is_empty() && my_dirs != hub_dirs) {
            wrongs.push(format!(
                "I1 c{i} {mine:?} {my_dirs:?} hub {hubs:?} {hub_dirs:?}"
            ));
        }
        let open: Vec<&String> = c
            .rows
            .iter()
            .filter(|(p, r)| r.key.is_some() && !skip.contains(*p) || r.intent.is_some())
            .map(|(p, _)| p)
            .collect();
        if !open.is_empty() {
            wrongs.push(format!("I1 c{i} open: {open:?}"));
        }
    }

    fn nothing_lost(
        &self,
        live: &BTreeMap<&String, Entry>,
        waits: &[BTreeSet<String>],
        wrongs: &mut Vec<String>,
    ) {
        let held = self.clients.iter().zip(waits).flat_map(|(c, w)| {
            c.tree()
                .filter(|(p, _)| w.contains(*p))
                .map(|(_, n)| n.content)
        });
        let alive: BTreeSet<u64> = live
            .values()
            .map(|e| Node::content_of(&e.hash))
            .chain(held)
            .collect();
        let trash = self.clients.iter().flat_map(|c| {
            c.fs.iter()
                .filter(|(p, _)| p.starts_with(".mesync/"))
                .map(|(_, n)| n.content)
        });
        let versions: BTreeSet<u64> = self
            .hub
            .old
            .values()
            .flatten()
            .map(|e| Node::content_of(&e.hash))
            .collect();
        let spare: BTreeSet<u64> = trash.chain(versions.iter().copied()).collect();
        for (path, content) in &self.puts {
            let wanted_gone = self
                .gone
                .get(&(self.meant(path), *content))
                .is_some_and(|who| !who.is_empty());
            let overwritten =
                self.hub.overwrote.contains(&Node::hash_of(*content)) && spare.contains(content);
            // deleted, and restored when the hub no longer knew of the delete: this cannot be told
            // from a file that was never deleted, so the file after the delete replaces it, as it
            // did before
            let here = (path.clone(), *content);
            let again = self.forgotten.contains(&here)
                && self.again.contains(&here)
                && versions.contains(content);
            if !alive.contains(content) && !wanted_gone && !overwritten && !again {
                let how = if spare.contains(content) {
                    "aside"
                } else {
                    "lost"
                };
                wrongs.push(format!("I2 {how} {path} {content}"));
            }
        }
    }

    fn not_back(
        &self,
        path: &str,
        entry: &Entry,
        waits: &[BTreeSet<String>],
        wrongs: &mut Vec<String>,
    ) {
        let content = Node::content_of(&entry.hash);
        if entry.is_dir() {
            return;
        }
        if !self.hub.blobs.contains(&entry.hash) {
            wrongs.push(format!("I4 {path} {content} has no bytes"));
        }
        let by = self
            .killed
            .get(&(path.to_string(), content, entry.kind))
            .into_iter()
            .flatten()
            .any(|i| !self.clients[*i].legacy);
        let again = [path.to_string(), stem(path)]
            .into_iter()
            .any(|p| self.again.contains(&(p, content)));
        let held = waits.iter().any(|w| w.contains(path));
        if by && !again && !held && !self.config.restores() && self.config != Config::Ignore {
            wrongs.push(format!("I3 {path} {content} is back"));
        }
    }

    fn mode_stays(
        &self,
        path: &str,
        entry: &Entry,
        waits: &[BTreeSet<String>],
        wrongs: &mut Vec<String>,
    ) {
        if self.messy.contains(path)
            || self.config.restores()
            || matches!(self.config, Config::Legacy | Config::Ignore)
            || entry.kind == EntryKind::Symlink
            // it was removed and created again
            || entry.is_dir() && self.messy.contains(&format!("{path}/"))
        {
            return;
        }
        let modes = if entry.is_dir() {
            &self.dir_modes
        } else {
            &self.modes
        };
        for (mtime, (of, before)) in self.times.iter().filter(|(_, (of, _))| of == path) {
            // a directory whose content is held is still where the hub has a file
            let others = self
                .clients
                .iter()
                .zip(waits)
                .filter(|(_, waits)| !waits.contains(of))
                .filter_map(|(c, _)| c.fs.get(of))
                .any(|node| node.mtime != entry.mtime);
            if *before == entry.mtime || others {
                wrongs.push(format!(
                    "I5 {path}: time {mtime} was not kept: {} {before}",
                    entry.mtime
                ));
                return;
            }
        }
        for (mode, (of, before)) in modes {
            let mut before = *before;
            while of == path && before != entry.mode && modes.contains_key(&before) {
                before = modes[&before].1;
            }
            if of == path && before == entry.mode {
                wrongs.push(format!("I5 {path}: mode {mode} fell back to {before}"));
                return;
            }
        }
    }
}
