//! The actions of users in the simulation, the client without a base, and the record of what users
//! meant.

use crate::files::plan::{DIR_MODE, DIR_READABLE, MODE, is_below, parent};
use crate::wire::files::EntryKind;

use super::Config;
use super::names::{MOVED_TO, WRITTEN};
use super::world::{Client, Node, World};

impl World {
    fn kill(&mut self, i: usize, path: &str, writes: bool) -> Option<Node> {
        let node = self.clients[i].fs.remove(path)?;
        if self.clients[i].legacy && self.written_again.remove(&node.content) {
            self.hub.overwrote.insert(node.hash());
        }
        self.killed
            .entry((path.into(), node.content, node.kind))
            .or_default()
            .insert(i);
        if !writes {
            self.messy.insert(path.into());
        }
        self.gone
            .entry((self.meant(path), node.content))
            .or_default()
            .insert((i, path.to_string()));
        Some(node)
    }

    fn put(&mut self, i: usize, path: &str, node: Node, again: bool) {
        let (content, kind) = (node.content, node.kind);
        self.clients[i].fs.insert(path.into(), node);
        let here = (path.to_string(), content);
        self.puts.insert(here.clone());
        let killed = self.killed.entry((path.to_string(), content, kind));
        killed.or_default().remove(&i);
        self.gone
            .entry((self.meant(path), content))
            .or_default()
            .retain(|(who, _)| *who != i);
        if self.clients[i].legacy && self.hub.overwrote.remove(&Node::hash_of(content)) {
            self.written_again.insert(content);
        }
        if again {
            self.again.insert(here);
            self.messy.insert(path.into());
        }
    }

    /// Takes back one removal. A conflict copy with the same content that the user has removed as
    /// well stays removed; it may be the only copy on the hub.
    fn put_back(&mut self, i: usize, path: &str, node: Node) {
        let key = (self.meant(path), node.content);
        let others = self.removed_elsewhere(i, path, &key);
        self.put(i, path, node, true);
        self.gone.entry(key).or_default().extend(others);
    }

    /// The other names of a content that this user has removed.
    pub fn removed_elsewhere(
        &self,
        i: usize,
        path: &str,
        key: &(String, u64),
    ) -> Vec<(usize, String)> {
        let elsewhere = |(who, name): &&(usize, String)| *who == i && name != path;
        let gone = self.gone.get(key).into_iter().flatten();
        gone.filter(elsewhere).cloned().collect()
    }

    fn node(&mut self, kind: EntryKind, content: u64, mode: u32, mtime: Option<i64>) -> Node {
        let mtime = mtime.unwrap_or_else(|| self.fresh() as i64 * 1_000_000_000);
        Node {
            kind,
            content,
            mode,
            mtime,
            ino: self.fresh(),
            ctime: self.fresh(),
            dirty: false,
        }
    }

    pub fn user(&mut self, i: usize) {
        if self.config == Config::Single && i != 1 {
            return;
        }
        let legacy = self.clients[i].legacy;
        let files: Vec<String> = self.clients[i]
            .tree()
            .filter(|(_, n)| !n.is_dir())
            .map(|(p, _)| p.clone())
            .collect();
        let files: Vec<String> = files
            .into_iter()
            .filter(|p| !legacy || p == "a" || p == "b")
            .collect();
        let x = self.chance();
        let had = self.pick(&files);
        match (x, had) {
            (..0.16, Some(had)) => {
                let node = self.kill(i, &had, false).expect("it was listed");
                self.say(|| format!("c{i} rm {had} {}", node.content));
                self.clients[i].queue.push(had.clone());
                self.clients[i].undo = Some((had, node));
            }
            (0.16..0.36, Some(had)) if self.config == Config::Mapped => self.user_maps(i, &had),
            (0.16..0.23, _) if self.config == Config::Folding => self.user_respells(i),
            (0.16..0.20, _) if self.config == Config::Moving => self.user_moves_directory(i),
            (0.16..0.18, Some(_)) if self.config == Config::Guard => {
                self.user_removes_all(i, &files)
            }
            (0.16..0.23, _) if self.config == Config::Dirs => self.user_chmods_directory(i),
            (0.16..0.23, Some(had)) if !legacy => self.user_chmod(i, &had),
            (0.23..0.26, Some(had)) if !legacy => self.user_touches(i, &had),
            (0.26..0.36, Some(had)) if !legacy => self.user_moves(i, &had),
            (0.36..0.41, _) if !legacy => self.user_changes_directory(i),
            _ => self.user_writes(i, x, legacy, &files),
        }
    }

    /// A burst of deletes.
    fn user_removes_all(&mut self, i: usize, files: &[String]) {
        self.say(|| format!("c{i} rm {files:?}"));
        for path in files {
            self.kill(i, path, false);
        }
    }

    fn user_chmod(&mut self, i: usize, path: &str) {
        let ctime = self.fresh();
        self.next_mode = self.next_mode % (MODE - 1) + 1;
        let mode = self.next_mode;
        let node = self.clients[i].fs.get_mut(path).expect("it was listed");
        if node.kind == EntryKind::File {
            let before = node.mode;
            (node.mode, node.ctime) = (mode, ctime);
            self.modes.insert(mode, (path.into(), before));
            self.say(|| format!("c{i} chmod {path} {mode}"));
        }
    }

    fn user_chmods_directory(&mut self, i: usize) {
        // each mode is used once, and each lets its owner read the directory
        self.next_mode = (self.next_mode + 1) % 0o200;
        let mode = DIR_READABLE | self.next_mode & 0o77 | (self.next_mode & 0o100) << 1;
        let ctime = self.fresh();
        if let Some(dir) = self.clients[i]
            .fs
            .get_mut("d")
            .filter(|n| n.is_dir() && mode != DIR_MODE)
        {
            let before = dir.mode;
            (dir.mode, dir.ctime) = (mode, ctime);
            self.dir_modes.insert(mode, ("d".into(), before));
            self.say(|| format!("c{i} chmod d {mode:o}"));
        }
    }

    /// The time is set after the file was closed.
    fn user_touches(&mut self, i: usize, path: &str) {
        let (mtime, ctime) = (self.fresh() as i64 * 1_000_000_000, self.fresh());
        let node = self.clients[i].fs.get_mut(path).expect("it was listed");
        if node.kind == EntryKind::File {
            let before = node.mtime;
            (node.mtime, node.ctime) = (mtime, ctime);
            self.times.insert(mtime, (path.into(), before));
            self.say(|| format!("c{i} touches {path} {mtime}"));
        }
    }

    /// A program writes to a file that it has mapped: only the first write to a clean page changes
    /// the times.
    fn user_maps(&mut self, i: usize, path: &str) {
        if self.clients[i]
            .fs
            .get(path)
            .is_none_or(|n| n.kind != EntryKind::File)
        {
            return;
        }
        let mut node = self.kill(i, path, true).expect("it was listed");
        node.content = self.fresh();
        if !node.dirty {
            (node.mtime, node.ctime) = (self.fresh() as i64 * 1_000_000_000, self.fresh());
            node.dirty = true;
        }
        let (content, stamp) = (node.content, node.stamp());
        self.put(i, path, node, false);
        self.say(|| format!("c{i} maps {path} {content} {stamp:?}"));
    }

    /// The program that has mapped a file writes in the last window of a race, also while the world
    /// is quiet.
    pub fn maps_meanwhile(&mut self, i: usize, path: &str) {
        if Client::visible(path)
            && self.clients[i].fs.get(path).is_some_and(|n| n.dirty)
            && self.chance() < 0.5
        {
            self.user_maps(i, path);
        }
    }

    /// The kernel writes dirty pages back.
    pub fn write_back(&mut self) {
        for c in self.clients.iter_mut().filter(|c| !c.blind) {
            c.fs.values_mut().for_each(|node| node.dirty = false);
        }
    }

    /// Whether an ancestor of the path is not a directory.
    fn is_blocked(&self, i: usize, path: &str) -> bool {
        let c = &self.clients[i];
        parent(path).is_some_and(|up| c.fs.get(c.real(up).as_ref()).is_some_and(|n| !n.is_dir()))
    }

    fn user_moves(&mut self, i: usize, from: &str) {
        let names: &[&str] = if self.config == Config::Folding {
            &MOVED_TO
        } else {
            &["a", "b", "e", "d/x", "d/z"]
        };
        let to = self.pick(names).expect("there are some");
        let to = &*self.clients[i].real(to);
        let over = self.clients[i]
            .fs
            .get(to)
            .map(|n| self.config == Config::Guard && !n.is_dir() && to != from);
        if over == Some(false) || self.is_blocked(i, to) {
            return;
        }
        if over.is_some() {
            self.kill(i, to, true);
        }
        let content = self.renamed(i, from, to);
        self.say(|| format!("c{i} mv {from} {to} {content}"));
    }

    /// Records under the new name what was recorded under the old one.
    pub fn renamed(&mut self, i: usize, from: &str, to: &str) -> u64 {
        let key = (self.meant(from), self.clients[i].fs[from].content);
        let mut removed = self.removed_elsewhere(i, to, &key);
        removed.retain(|(_, name)| super::copy_of(name));
        let mut node = self.kill(i, from, false).expect("it was listed");
        self.make_parent(i, to);
        node.ctime = self.fresh();
        let content = node.content;
        // perhaps another user has renamed it from there, or it is a conflict copy that loses the name once more
        let killed = (to.to_string(), content, node.kind);
        let again = self.puts.contains(&(to.to_string(), content))
            || self.killed.contains_key(&killed)
            || super::copy_of(from) && self.meant(from) == self.meant(to);
        self.put(i, to, node, again);
        self.gone.entry(key).or_default().extend(removed);
        self.messy.insert(to.into());
        content
    }

    fn user_changes_directory(&mut self, i: usize) {
        let dir = self.node(EntryKind::Dir, 0, DIR_MODE, None);
        self.messy.insert("d/".into());
        let d = if self.config == Config::Folding && self.chance() < 0.5 {
            "D"
        } else {
            "d"
        };
        let d = &*self.clients[i].real(d);
        if let Some(node) = self.clients[i].fs.get(d) {
            let was_file = !node.is_dir();
            for below in self.clients[i].under(d) {
                self.kill(i, &below, false);
            }
            // the program's own files move with the directory
            let inside: Vec<String> = self.clients[i]
                .fs
                .keys()
                .filter(|p| is_below(p, d))
                .cloned()
                .collect();
            if was_file {
                self.say(|| format!("c{i} {d}: file to directory"));
                self.kill(i, d, false);
                self.clients[i].fs.insert(d.into(), dir);
                return;
            }
            if !inside.is_empty() {
                return;
            }
            self.clients[i].fs.remove(d);
            self.say(|| format!("c{i} rm -r {d}"));
            if self.chance() < 0.6 {
                let content = self.fresh();
                let node = self.node(EntryKind::File, content, 0, None);
                self.put(i, d, node, false);
                self.say(|| format!("c{i} writes {d} {content}"));
            }
            return;
        }
        self.clients[i].fs.insert(d.into(), dir);
        self.say(|| format!("c{i} mkdir {d}"));
    }

    /// The program has renamed a file or a directory: what a user put back there is at or below the new name now, and
    /// what the user here had renamed away from the new name is there again.
    pub fn moved_along(&mut self, i: usize, from: &str, to: &str) {
        for (path, node) in &self.clients[i].fs {
            let there = (path.clone(), node.content, node.kind);
            if (path == to || is_below(path, to))
                && let Some(who) = self.killed.get_mut(&there)
                && who.remove(&i)
            {
                self.again.insert((path.clone(), node.content));
            }
        }
        let is_moved = |path: &str| path == from || is_below(path, from);
        let again = self.again.iter().filter(|(path, _)| is_moved(path));
        let again = again.map(|(path, k)| (format!("{to}{}", &path[from.len()..]), *k));
        let again: Vec<_> = again.collect();
        self.again.extend(again);
    }

    fn user_writes(&mut self, i: usize, x: f64, legacy: bool, files: &[String]) {
        let names: &[&str] = if self.config == Config::Folding {
            &WRITTEN
        } else {
            &["a", "b", "d/x", "d/y"]
        };
        let names: Vec<String> = names
            .iter()
            .take(if legacy { 2 } else { names.len() })
            .map(|n| n.to_string())
            .collect();
        let path = self
            .pick(&[&names[..], files].concat())
            .expect("there are some");
        let path = self.clients[i].real(&path).into_owned();
        if self.clients[i].refuses(&path) {
            return;
        }
        let undo = self.clients[i]
            .undo
            .clone()
            .map(|(p, node)| (self.clients[i].real(&p).into_owned(), node));
        let undo = undo.filter(|(p, _)| !self.clients[i].fs.contains_key(p));
        if let Some((path, mut node)) = undo.filter(|(p, _)| x < 0.47 && !self.is_blocked(i, p)) {
            self.make_parent(i, &path);
            (node.ino, node.ctime) = (self.fresh(), self.fresh());
            let content = node.content;
            self.put_back(i, &path, node);
            self.clients[i].queue.push(path.clone());
            self.say(|| format!("c{i} puts {path} {content} back"));
            return;
        }
        if self.is_blocked(i, &path) || self.clients[i].fs.get(&path).is_some_and(Node::is_dir) {
            return;
        }
        let (mut content, mut mtime, mut again) = (self.fresh(), None, false);
        if x < 0.54 {
            // content that existed before, or that another user writes too
            let known: Vec<u64> = self
                .puts
                .iter()
                .filter(|(p, _)| *p == path)
                .map(|(_, k)| *k)
                .collect();
            if let Some(k) = self.pick(&known) {
                (content, again) = (k, true);
                let old = self.hub.old.get(&path).and_then(|o| {
                    o.iter()
                        .find(|o| o.hash == Node::hash_of(k))
                        .map(|o| o.mtime)
                });
                mtime = old.filter(|_| self.chance() < 0.5);
            }
        }
        let (ino, ctime) = (self.fresh(), self.fresh());
        if let Some(same) = self.clients[i]
            .fs
            .get_mut(&path)
            .filter(|n| n.content == content)
        {
            // saved without a change: no content is meant that was not before
            (same.ino, same.ctime, same.dirty) = (ino, ctime, false);
            self.clients[i].queue.push(path);
            return;
        }
        let old = if self.clients[i].fs.contains_key(&path) {
            self.kill(i, &path, true)
        } else {
            None
        };
        let kind = if !legacy && self.chance() < 0.08 {
            EntryKind::Symlink
        } else {
            EntryKind::File
        };
        if old.as_ref().is_some_and(|o| o.kind != kind) {
            // its mode is replaced with the file
            self.messy.insert(path.clone());
        }
        self.make_parent(i, &path);
        let mode = old
            .as_ref()
            .filter(|o| o.kind == EntryKind::File)
            .map_or(0, |o| o.mode);
        let mut node = self.node(kind, content, mode, mtime);
        if let Some(old) = old.filter(|_| self.chance() < 0.5) {
            // written in place
            node.ino = old.ino;
        }
        let undone = (self.meant(&path), content);
        if again
            && self
                .gone
                .get(&undone)
                .is_some_and(|gone| gone.contains(&(i, path.clone())))
        {
            self.put_back(i, &path, node);
        } else {
            self.put(i, &path, node, again);
        }
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
            self.say(|| {
                format!(
                    "{host} legacy: {path} {:?}",
                    entry.map(|e| Node::content_of(&e.hash))
                )
            });
            self.hub.unconditional(&path, entry, &host);
        }
        let heard = self.clients[i].heard;
        for path in ["a", "b"] {
            let row = self.hub.row(path);
            // otherwise: the client was down and missed the event
            if row.rev > heard && row.entry.is_none() && !self.fault(0.3) {
                self.clients[i].fs.remove(path);
            }
        }
        self.clients[i].heard = self.hub.rev;
        if self.chance() < 0.5 {
            return;
        }
        // at its start it downloads the missing files, and sends everything that it has
        for path in ["a", "b"] {
            match (
                self.hub.row(path).entry.filter(|e| !e.is_dir()),
                self.clients[i].fs.get(path).map(Node::entry),
            ) {
                (Some(theirs), None) => {
                    let node = self.node(
                        theirs.kind,
                        Node::content_of(&theirs.hash),
                        theirs.mode,
                        Some(theirs.mtime),
                    );
                    self.clients[i].fs.insert(path.into(), node);
                }
                (_, Some(mine)) => self.hub.unconditional(path, Some(mine), &host),
                (None, None) => {}
            }
        }
    }
}
