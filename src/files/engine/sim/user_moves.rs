//! Directories that users rename at any moment, with everything that the program has in them: the
//! actions, and scenes step by step.

use crate::files::engine::traits::ExpectedRow;
use crate::files::plan::is_below;

use super::crashes::with_each_crash;
use super::directories::{renamed_on_hub, two_files};
use super::scenes::{Scene, check};
use super::world::{Client, Node, World};

impl World {
    /// Names that the client has given to files, but not recorded: if the user takes such a name away, the client gives it
    /// again.
    pub fn forget_unrecorded(&mut self, i: usize) {
        let client = &self.clients[i];
        let files = client.tree().filter(|(_, node)| !node.is_dir());
        let unrecorded = files.filter(|(path, _)| client.rows(path).base.entry.is_none());
        let again: Vec<_> = unrecorded.map(|(p, n)| (p.clone(), n.content)).collect();
        self.again.extend(again);
    }

    /// A user moves a directory with its content, including the program's own files.
    pub fn user_moves_directory(&mut self, i: usize) {
        let (from, to) = if self.chance() < 0.7 {
            ("d", "f")
        } else {
            ("f", "d")
        };
        self.move_directory(i, from, to);
    }

    fn move_directory(&mut self, i: usize, from: &str, to: &str) {
        let fs = &self.clients[i].fs;
        if !fs.get(from).is_some_and(Node::is_dir) || fs.contains_key(to) {
            return;
        }
        let inside = |p: &&String| *p == from || is_below(p, from);
        let names: Vec<String> = fs.keys().filter(inside).cloned().collect();
        self.say(|| format!("c{i} mv {from} {to}"));
        for old in names {
            let new = format!("{to}{}", &old[from.len()..]);
            if Client::visible(&old) && !self.clients[i].fs[&old].is_dir() {
                let key = (self.meant(&old), self.clients[i].fs[&old].content);
                let others = self.removed_elsewhere(i, &new, &key);
                self.renamed(i, &old, &new);
                self.gone.entry(key).or_default().extend(others);
            } else if let Some(node) = self.clients[i].fs.remove(&old) {
                self.clients[i].fs.insert(new, node);
            }
        }
        self.messy.extend(["d/".into(), "f/".into()]);
    }
}

/// Moves `d` on client 0 after it has started again, before it does anything.
fn moves_after_start(s: &mut Scene) {
    s.run.engine(0);
    s.world().move_directory(0, "d", "f");
}

#[test]
fn a_file_that_had_not_arrived_when_its_directory_was_renamed_is_not_deleted() {
    let new_on_hub = |s: &mut Scene| {
        two_files(s);
        s.other("d/z", 3, ExpectedRow::Nothing, None);
    };
    let replaced_on_hub = |s: &mut Scene| {
        two_files(s);
        let rev = s.world().hub.row("d/x").rev;
        s.other("d/x", 3, ExpectedRow::Rev(rev.into()), None);
    };
    let is_there = |s: &Scene| (0..2).all(|i| s.has(i, 3) && s.has(i, 2));
    assert!(with_each_crash(new_on_hub, moves_after_start, is_there));
    assert!(with_each_crash(
        replaced_on_hub,
        moves_after_start,
        is_there
    ));
}

#[test]
fn an_edit_that_came_out_is_kept_if_its_directory_is_renamed() {
    let edited_at_last = |s: &mut Scene| {
        two_files(s);
        let rev = s.world().hub.row("d/x").rev;
        s.other("d/x", 3, ExpectedRow::Rev(rev.into()), None);
        s.world().meanwhile = Some(|w| {
            let ctime = w.fresh();
            let node = w.clients[0].fs.get_mut("d/x").expect("it is there");
            (node.content, node.ctime) = (9, ctime);
        });
    };
    let is_kept = |s: &Scene| (0..2).all(|i| s.has(i, 9));
    let moves = |s: &mut Scene| {
        let is_early = s.world().meanwhile.take().is_some();
        if is_early {
            // not edited yet
            s.write(0, "d/x", 9);
        }
        moves_after_start(s);
    };
    assert!(with_each_crash(edited_at_last, moves, is_kept));
    // also without a crash
    check(|s| {
        edited_at_last(s);
        s.poll_all(0);
        s.work(0);
        s.world().move_directory(0, "d", "f");
        s.sync(0);
        s.has(0, 9)
    });
}

#[test]
fn a_directory_that_was_moved_before_a_crash_leaves_no_old_names_to_a_new_one() {
    let renamed = |s: &mut Scene| {
        two_files(s);
        renamed_on_hub(s, "x", 1, "e");
        renamed_on_hub(s, "y", 2, "e");
    };
    let goes_on = |s: &mut Scene| {
        s.world().clients[0].make_parents("d/new");
        let rev = s.world().hub.row("e/x").rev;
        s.other("g", 1, ExpectedRow::Nothing, Some(("e/x", rev)));
    };
    let is_once = |s: &Scene| s.hub("g") == 1 && s.hub("e/x") == 0 && s.hub("e/y") == 2;
    assert!(with_each_crash(renamed, goes_on, is_once));
}

#[test]
fn a_file_that_was_at_the_hubs_name_meanwhile_is_not_the_one_that_the_hub_replaces() {
    check(|s| {
        two_files(s);
        renamed_on_hub(s, "x", 1, "c");
        s.world().move_directory(0, "d", "c");
        s.poll_all(0);
        s.run.rescan(0);
        let engine = s.run.engine(0);
        let is_known = || s.world().clients[0].rows("c/x").base.entry.is_some();
        while !is_known() {
            engine.work(1);
        }
        // before the old name is looked at
        assert!(s.world().clients[0].rows("d/x").base.entry.is_some());
        s.world().move_directory(0, "c", "d");
        s.other("d/x", 7, ExpectedRow::Nothing, None);
        s.sync(0);
        s.sync(1);
        (0..2).all(|i| s.has(i, 1) && s.here(i, "d/x") == 7)
    });
}
