//! The tree of one client in the simulation.

use crate::files::engine::traits::*;
use crate::files::plan::{Entry, LocalEntry, Stamp, is_below, parent};
use crate::relpath;
use crate::wire::files;

use super::side::{Point, Side, refused};
use super::world::{Node, World};
use super::{copy_of, stem};

impl Tree for Side {
    fn examine(&self, path: &str, known: Option<(&Stamp, &Entry)>) -> CallResult<Presence> {
        let mut w = self.enter(Point::Read)?;
        let c = &mut w.clients[self.i];
        let blind = c.blind;
        let at = c.at(path);
        let Some(node) = c.fs.get_mut(at.as_ref()) else {
            return Ok(Presence::Absent);
        };
        let (stamp, mut entry) = (node.stamp(), node.entry());
        match known.filter(|(s, k)| **s == stamp && k.kind == entry.kind && !blind) {
            Some((_, known)) => entry.hash = known.hash,
            None => node.dirty &= blind,
        }
        Ok(Presence::Here(LocalEntry { entry, stamp }))
    }

    fn holds(&self, path: &str, what: &LocalEntry) -> CallResult<bool> {
        let w = self.enter(Point::Read)?;
        let c = &w.clients[self.i];
        Ok(!c.blind
            || c.fs
                .get(c.at(path).as_ref())
                .is_some_and(|n| n.hash() == what.entry.hash))
    }

    fn stamp(&self, path: &str) -> CallResult<Option<Stamp>> {
        Ok(self.enter(Point::Read)?.clients[self.i].stamp(path))
    }

    fn is_empty(&self, dir: &str) -> CallResult<bool> {
        let w = self.enter(Point::Read)?;
        let c = &w.clients[self.i];
        Ok(c.under(&c.at(dir)).is_empty())
    }

    fn below(&self, dir: &str, visit: &mut dyn FnMut(&str) -> CallResult<bool>) -> CallResult<()> {
        let names = self.enter(Point::Read)?.clients[self.i].under(dir);
        for name in names {
            if !visit(&name)? {
                break;
            }
        }
        Ok(())
    }

    fn place(
        &self,
        path: &str,
        staged: &StagedFile,
        over: Option<&LocalEntry>,
    ) -> CallResult<RenameOutcome> {
        let over = over.map(|local| &local.stamp);
        if self.enter(Point::Read)?.clients[self.i]
            .stamp(path)
            .as_ref()
            != over
        {
            return Ok(RenameOutcome::Changed);
        }
        let mut w = self.enter(Point::Window)?;
        w.maps_meanwhile(self.i, path);
        let (tick, i) = (w.fresh(), self.i);
        let c = &mut w.clients[i];
        if c.refuses(path) {
            return Err(refused());
        }
        // the kernel does not use the listing
        let wanted = path;
        let path = &*c.real(path);
        if !c.make_parents(path)
            || c.fs
                .get(path)
                .is_some_and(|n| n.is_dir() && !c.under(path).is_empty())
        {
            return Ok(RenameOutcome::Taken);
        }
        // an empty directory is removed before the rename; none is left over
        if over.is_some() && c.fs.get(path).is_some_and(Node::is_dir) {
            c.fs.remove(path);
        } else if c.fs.contains_key(path) != over.is_some() {
            return Ok(RenameOutcome::Taken);
        }
        let Some(mut new) = c.fs.remove(&staged.temp) else {
            return Ok(RenameOutcome::Changed);
        };
        new.ctime = tick;
        let out = c.fs.insert(path.to_string(), new.clone());
        if let Some(mut out) = out.filter(|_| over.is_some()) {
            out.ctime = tick;
            c.fs.insert(staged.temp.clone(), out);
        }
        w.say(|| format!("c{i} places {path} = {}", new.content));
        if path != wanted {
            // a user here has respelled the name meanwhile, perhaps to one whose file others have replaced
            w.again.insert((path.to_string(), new.content));
        }
        w.touched(i, path);
        self.leave(w, RenameOutcome::Done)
    }

    fn shift(&self, from: &str, to: &str, expected: Option<&Stamp>) -> CallResult<RenameOutcome> {
        let w = self.enter(Point::Read)?;
        let checked = expected.is_none_or(|e| w.clients[self.i].stamp(from).as_ref() == Some(e));
        if !checked {
            return Ok(RenameOutcome::Changed);
        }
        let is_dir = |w: &World| w.clients[self.i].fs.get(from).map(Node::is_dir);
        let was_dir = is_dir(&w);
        drop(w);
        let mut w = self.enter(Point::Window)?;
        w.maps_meanwhile(self.i, from);
        let (tick, i) = (w.fresh(), self.i);
        let above_is_dir = parent(to).is_none_or(|up| {
            to.starts_with(".mesync/") || w.clients[i].fs.get(up).is_some_and(Node::is_dir)
        });
        if w.clients[i].fs.contains_key(w.clients[i].real(to).as_ref()) || !above_is_dir {
            return Ok(RenameOutcome::Taken);
        }
        let from = &*w.clients[i].at(from);
        match w.clients[i].fs.get(from) {
            Some(node) if Some(node.is_dir()) != was_dir => return Ok(RenameOutcome::Changed),
            None => return Ok(RenameOutcome::Changed),
            Some(node) if node.is_dir() => {
                w.clients[i].rename_all(from, to);
                w.moved_along(i, from, to);
                w.say(|| format!("c{i} moves the directory {from} -> {to}"));
                return self.leave(w, RenameOutcome::Done);
            }
            Some(_) => {}
        }
        w.watch_move(i, from, to);
        let c = &mut w.clients[i];
        let mut node = c.fs.remove(from).expect("it was there");
        node.ctime = tick;
        let content = node.content;
        c.fs.insert(to.to_string(), node);
        if copy_of(to) {
            let of = if relpath::is_own(from.rsplit('/').next().unwrap_or(from)) {
                stem(to)
            } else {
                from.to_string()
            };
            w.messy.extend([of, to.to_string()]);
        }
        w.say(|| format!("c{i} moves {from} -> {to} ({content})"));
        w.touched(i, from);
        self.leave(w, RenameOutcome::Done)
    }

    fn keeps_modes(&self) -> bool {
        true
    }

    fn name_collision(&self, path: &str) -> CallResult<Option<NameCollision>> {
        let w = self.enter(Point::Read)?;
        let c = &w.clients[self.i];
        if c.refuses(path) {
            Err(refused())
        } else {
            Ok(c.name_collision(path))
        }
    }

    fn respell(&self, there: &str, wanted: &str) -> CallResult<RenameOutcome> {
        let mut w = self.enter(Point::Window)?;
        let i = self.i;
        let moved = w.clients[i].respell(there, wanted);
        if moved == RenameOutcome::Done {
            w.moved_along(i, there, wanted);
        }
        w.say(|| format!("c{i} respells {there} as {wanted}: {moved:?}"));
        self.leave(w, moved)
    }

    fn set_metadata(
        &self,
        path: &str,
        expected: &Stamp,
        mode: u32,
        mtime: Option<i64>,
    ) -> CallResult<Option<Stamp>> {
        let mut w = self.enter(Point::Window)?;
        let (tick, i) = (w.fresh(), self.i);
        let path = &*w.clients[i].at(path);
        let Some(node) = w.clients[i]
            .fs
            .get_mut(path)
            .filter(|n| n.stamp() == *expected || n.is_dir() && n.stamp().same_dir(expected))
        else {
            return Ok(None);
        };
        (node.mode, node.ctime) = (mode, tick);
        node.mtime = mtime
            .filter(|_| node.kind == files::EntryKind::File)
            .unwrap_or(node.mtime);
        let stamp = node.stamp();
        w.say(|| format!("c{i} sets the mode of {path} to {mode}"));
        self.leave(w, Some(stamp))
    }

    fn sync(&self, _: &str) -> CallResult<()> {
        self.enter(Point::Read).map(drop)
    }

    fn discard(&self, temp: &str) -> CallResult<()> {
        let mut w = self.enter(Point::Effect)?;
        w.clients[self.i].fs.remove(temp);
        self.leave(w, ())
    }

    fn remove_dir(&self, path: &str) -> CallResult<bool> {
        let mut w = self.enter(Point::Effect)?;
        let c = &mut w.clients[self.i];
        let path = &*c.at(path);
        let inside =
            c.fs.range(format!("{path}/")..)
                .next()
                .is_some_and(|(p, _)| is_below(p, path));
        let gone = c.fs.get(path).is_some_and(Node::is_dir) && !inside;
        if gone {
            c.fs.remove(path);
            let i = self.i;
            w.say(|| format!("c{i} removes the directory {path}"));
        }
        self.leave(w, gone)
    }

    fn ignored(&self, path: &str) -> bool {
        self.world.lock().clients[self.i].ignored.contains(path)
    }
}
