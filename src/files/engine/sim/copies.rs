//! Copied machines: the disk of a client, or an older copy of it, takes the place of another one's, or of its own of now.
//! An image keeps the numbers of inodes. A copy by files gives them to other files, which is the worst that can happen.

use std::collections::BTreeSet;

use crate::files::engine::traits::Intent;

use super::stem;
use super::world::{Client, Node, World};

/// The users of disks that are gone.
const FORMER: usize = usize::MAX;

/// What a copy of a machine has.
#[derive(Clone)]
pub struct Copy {
    client: Client,
    /// What its user has overwritten or removed, with the names that it had.
    gone: Vec<((String, u64), String)>,
}

impl World {
    /// Keeps a copy of a client's disk, or puts one in the place of client `i`'s, which starts from it.
    pub fn copy_machine(&mut self, i: usize) {
        let of = self.random(self.clients.len());
        if self.chance() < 0.4 {
            return self.keep_copy(of);
        }
        let older = self.copy.clone().filter(|_| self.chance() < 0.6);
        self.say(|| match &older {
            Some(_) => format!("c{i} starts from the copy"),
            None => format!("c{i} starts from a copy of c{of}"),
        });
        let mut copy = older.unwrap_or_else(|| self.copy_of(of));
        if self.chance() < 0.5 {
            self.say(|| "and its files have other inodes".into());
            self.renumber(&mut copy.client);
        }
        self.leave_disk(i);
        for (key, path) in copy.gone {
            self.gone.entry(key).or_default().insert((i, path));
        }
        // the other machine may send it under the name of a conflict copy, also if it is one already
        for (path, content) in copy.client.unsent() {
            self.again.insert((stem(&path), content));
            self.again.insert((path, content));
        }
        // two machines send the same change, and what one of them changes before that meets it
        for (path, node) in copy.client.tree() {
            if copy.client.rows(path).base.entry != Some(node.entry()) {
                self.messy.insert(path.clone());
            }
        }
        self.clients[i] = Client {
            crashed: true,
            undo: None,
            ..copy.client
        };
    }

    /// Of a machine that may be at work.
    pub fn keep_copy(&mut self, of: usize) {
        self.say(|| format!("c{of} is copied"));
        self.copy = Some(self.copy_of(of));
    }

    fn copy_of(&self, of: usize) -> Copy {
        let gone = self.gone.iter().flat_map(|(key, paths)| {
            let by_user = paths.iter().filter(|(who, _)| *who == of);
            by_user.map(|(_, path)| (key.clone(), path.clone()))
        });
        Copy {
            client: self.clients[of].clone(),
            gone: gone.collect(),
        }
    }

    /// Each file gets the inode of the next one.
    pub fn renumber(&mut self, disk: &mut Client) {
        let mut inodes: Vec<u64> = disk.fs.values().map(|node| node.ino).collect();
        let next = inodes.len().min(1);
        inodes.rotate_left(next);
        for (node, ino) in disk.fs.values_mut().zip(inodes) {
            (node.ino, node.ctime) = (ino, self.fresh());
        }
    }

    /// What client `i` alone had is gone, and so is what its user overwrote or removed and the hub still has; what it had sent may
    /// still arrive.
    fn leave_disk(&mut self, i: usize) {
        let others = self.clients.iter().enumerate().filter(|(n, _)| *n != i);
        let is_sent = |c: &Client, path: &str| {
            c.rows(path)
                .key
                .is_some_and(|key| self.hub.has_made(key.key))
        };
        let elsewhere: BTreeSet<(String, u64)> = others
            .flat_map(|(_, c)| c.unsent().filter(move |(path, _)| !is_sent(c, path)))
            .chain(self.hub.live())
            .map(|(path, content)| (self.meant(&path), content))
            .collect();
        let old = self.clients[i].fs.clone();
        for (path, node) in old.iter().filter(|(_, node)| !node.is_dir()) {
            if self.hub.row(path).entry != Some(node.entry()) {
                self.messy.insert(path.clone());
            }
        }
        let lost: BTreeSet<u64> = old.values().map(|node| node.content).collect();
        let puts = self.puts.iter().filter(|put| lost.contains(&put.1));
        for (path, content) in puts.cloned().collect::<Vec<_>>() {
            let meant = (self.meant(&path), content);
            if !elsewhere.contains(&meant) {
                self.gone.entry(meant).or_default().insert((i, path));
            }
        }
        // what its user does later takes back nothing of what was sent before
        for paths in self.gone.values_mut() {
            let of_user =
                |(who, path): &(usize, String)| (*who == i).then(|| (FORMER, path.clone()));
            let before: Vec<_> = paths.iter().filter_map(of_user).collect();
            paths.extend(before);
        }
        self.again.extend(self.hub.live());
        let host = format!("c{i}");
        for (change, from, _) in &self.flight {
            if *from != host {
                continue;
            }
            if let Some(entry) = change.entry {
                let late = (change.path.clone(), Node::content_of(&entry.hash));
                self.again.insert(late);
            }
            // what its user put back after it was sent is gone with the disk
            if let Some(before) = self.hub.row(&change.path).entry {
                let replaced = (self.meant(&change.path), Node::content_of(&before.hash));
                let former = (FORMER, change.path.clone());
                self.gone.entry(replaced).or_default().insert(former);
            }
        }
    }
}

impl Client {
    /// Files here that are not those of the base, nor were placed before a crash that undid the
    /// record of it; and what may have come out of an exchange, with the path of it.
    fn unsent(&self) -> impl Iterator<Item = (String, u64)> {
        let is_unsent = |path: &str, node: &Node| {
            let rows = self.rows(path);
            let placed = match rows.intent {
                Some(Intent::Place { row, .. }) => row.entry,
                _ => None,
            };
            let mut from_hub = rows.base.entry.into_iter().chain(placed);
            !from_hub.any(|entry| entry.same_body(&node.entry()))
        };
        let came_out = self.rows.iter().filter_map(|(path, rows)| {
            let Some(Intent::Place { staged, .. }) = &rows.intent else {
                return None;
            };
            let node = self.fs.get(&staged.temp)?;
            Some((path.clone(), node.content))
        });
        self.tree()
            .filter(move |(path, node)| is_unsent(path, node))
            .map(|(path, node)| (path.clone(), node.content))
            .chain(came_out)
    }
}
