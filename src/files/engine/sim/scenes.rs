//! Histories that are too rare to wait for, step by step.
//!
//! Client 0 or 1 is driven by hand; other clients are changes made directly on the hub. No faults
//! except those in the scene.

use uuid::Uuid;

use crate::files::engine::traits::{ExpectedRow, Intent, OldPath};
use crate::files::plan::{BaseRow, LocalEntry};
use crate::wire::files::EntryKind;
use crate::wire::revision::Revision;

use super::hub::SimHub;
use super::*;

pub(super) struct Scene {
    pub run: SimRun,
    key: u128,
}

impl Scene {
    pub fn new() -> Scene {
        let mut world = World::new(0, Config::Plain, false);
        world.on = false;
        Scene {
            run: SimRun {
                shared: Shared::new(world),
            },
            key: 1 << 64,
        }
    }

    pub fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.run.shared.lock()
    }

    /// A user writes a file.
    pub fn write(&self, i: usize, path: &str, content: u64) {
        let mut w = self.world();
        let (ino, ctime) = (w.fresh(), w.fresh());
        let node = Node {
            kind: EntryKind::File,
            content,
            mode: 0,
            mtime: content as i64 * 1_000_000_000,
            ino,
            ctime,
            dirty: false,
        };
        w.clients[i].make_parents(path);
        w.clients[i].fs.insert(path.into(), node);
    }

    pub fn chmod(&self, i: usize, path: &str, mode: u32) {
        self.world().chmod(i, path, mode);
    }

    /// Another client changes the hub: content 0 deletes.
    pub fn other(
        &mut self,
        path: &str,
        content: u64,
        condition: ExpectedRow,
        from: Option<(&str, u64)>,
    ) {
        self.key += 1;
        let node = Node {
            kind: EntryKind::File,
            content,
            mode: 0,
            mtime: content as i64 * 1_000_000_000,
            ino: 0,
            ctime: 0,
            dirty: false,
        };
        let change = HubChange {
            path: path.into(),
            key: Uuid::from_u128(self.key),
            condition,
            entry: (content > 0).then(|| node.entry()),
            newest: Revision::default(),
            from: from.map(|(path, rev)| OldPath {
                path: path.into(),
                rev: rev.into(),
            }),
        };
        let answer = self.world().hub.change(&change, "other", true);
        assert!(
            matches!(answer, ChangeOutcome::Made(_)),
            "{path}: {answer:?}"
        );
    }

    /// Polls one page of the feed, or all pages.
    fn poll(&self, i: usize) {
        self.run.poll(i);
    }

    pub fn poll_all(&self, i: usize) {
        (0..50).take_while(|_| self.run.poll(i)).for_each(drop);
    }

    /// Does all work that can be done now.
    pub fn work(&self, i: usize) {
        self.run.rescan(i);
        self.run.work(i, &[], 500, true);
    }

    pub fn sync(&self, i: usize) {
        for _ in 0..3 {
            self.poll_all(i);
            self.work(i);
        }
    }

    /// The content of a file on the hub, 0 if there is none.
    pub fn hub(&self, path: &str) -> u64 {
        self.world()
            .hub
            .row(path)
            .entry
            .map_or(0, |e| Node::content_of(&e.hash))
    }

    pub fn here(&self, i: usize, path: &str) -> u64 {
        self.world().clients[i]
            .fs
            .get(path)
            .map_or(0, |n| n.content)
    }

    /// Whether a client has a content under a visible name.
    pub fn has(&self, i: usize, content: u64) -> bool {
        self.world().clients[i]
            .tree()
            .any(|(_, n)| n.content == content)
    }
}

impl World {
    pub(super) fn chmod(&mut self, i: usize, path: &str, mode: u32) {
        let ctime = self.fresh();
        let node = self.clients[i].fs.get_mut(path).expect("it is there");
        (node.mode, node.ctime) = (mode, ctime);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.world().engines.clear();
    }
}

pub(super) fn check(scene: impl Fn(&mut Scene) -> bool) {
    assert!(scene(&mut Scene::new()));
}

#[test]
fn a_clash_waits_for_the_end_of_the_feed() {
    check(|s| {
        s.write(0, "d/x", 1);
        s.sync(0);
        // a directory became a file, and a client that did not know still touched its last entry
        s.other("z", 2, ExpectedRow::Nothing, None);
        s.other("d", 3, ExpectedRow::Nothing, None);
        s.other("d/x", 0, ExpectedRow::Rev(1.into()), None);
        s.poll(0);
        s.work(0);
        s.sync(0);
        s.hub("d") == 3 && s.here(0, "d") == 3
    });
}

#[test]
fn a_change_that_the_hub_has_forgotten_since_is_gone() {
    check(|s| {
        s.write(0, "a", 1);
        s.write(0, "b", 2);
        s.poll_all(0);
        s.world().lose_answers = true;
        s.work(0);
        s.world().lose_answers = false;
        let rev = s.world().hub.row("a").rev;
        s.other("a", 0, ExpectedRow::Rev(rev.into()), None);
        s.world().hub.drop_tombstones();
        s.other("z", 9, ExpectedRow::Nothing, None);
        // the feed passes the change before its key is asked about
        s.poll_all(0);
        s.sync(0);
        s.hub("a") == 0 && s.here(0, "a") == 0 && s.here(0, "b") == 2 && s.hub("b") == 2
    });
}

#[test]
fn a_file_that_was_renamed_on_the_hub_stays_until_its_new_name_is_there() {
    check(|s| {
        s.poll_all(0);
        s.write(0, "a", 1);
        s.world().lose_answers = true;
        s.work(0);
        s.world().lose_answers = false;
        let rev = s.world().hub.row("a").rev;
        s.other("b", 1, ExpectedRow::Nothing, Some(("a", rev)));
        // the answer about the key is ahead of the feed, and the hub loses everything before a poll
        s.work(0);
        s.world().hub = SimHub::new(true);
        s.sync(0);
        s.has(0, 1)
    });
}

#[test]
fn a_content_that_was_renamed_on_the_hub_is_not_replaced_before_its_new_name_is_there() {
    check(|s| {
        s.write(0, "a", 1);
        s.sync(0);
        let rev = s.world().hub.row("a").rev;
        s.other("b", 1, ExpectedRow::Nothing, Some(("a", rev)));
        s.other("a", 2, ExpectedRow::Nothing, None);
        s.poll_all(0);
        // both are examined, and one is carried out before the hub loses everything
        (0..3).for_each(|_| drop(s.run.engine(0).work(1)));
        s.world().hub = SimHub::new(true);
        s.sync(0);
        s.has(0, 1)
    });
}

#[test]
fn a_refusal_by_a_restored_hub_costs_no_edit() {
    check(|s| {
        // a hub that knows no tags
        s.world().hub = SimHub::new(false);
        s.write(0, "a", 1);
        s.sync(0);
        let backup = s.world().hub.clone();
        s.write(0, "a", 2);
        s.sync(0);
        s.world().hub.restore(&backup);
        s.other("a", 3, ExpectedRow::Rev(1.into()), None);
        // the client does not know of the restored hub yet
        s.chmod(0, "a", 7);
        s.work(0);
        s.work(0);
        s.sync(0);
        s.hub("a") == 3 && s.has(0, 2)
    });
}

#[test]
fn a_mode_set_after_the_hubs_was_taken_over_is_an_answer_to_it() {
    check(|s| {
        s.write(0, "a", 1);
        s.sync(0);
        s.sync(1);
        s.chmod(1, "a", 5);
        s.sync(1);
        s.write(0, "a", 2);
        s.poll_all(0);
        s.world().lose_requests = true;
        s.work(0);
        s.work(0);
        s.world().lose_requests = false;
        assert_eq!(
            s.world().clients[0].fs["a"].mode,
            5,
            "taken over with the edit"
        );
        s.chmod(0, "a", 6);
        s.sync(0);
        s.sync(1);
        let on_hub = s.world().hub.row("a").entry.map(|e| e.mode);
        s.hub("a") == 2
            && s.here(1, "a") == 2
            && on_hub == Some(6)
            && s.world().clients[1].fs["a"].mode == 6
    });
}

#[test]
fn a_file_that_gives_way_to_a_directory_never_joins_an_equal_copy() {
    let mut s = Scene::new();
    s.write(1, "d/x", 9);
    // the same bytes are set aside for the same directory twice
    for _ in 0..2 {
        s.other("d", 1, ExpectedRow::Nothing, None);
        s.sync(1);
    }
    let live: Vec<String> = s
        .world()
        .hub
        .rows
        .iter()
        .filter(|(_, r)| r.entry.is_some_and(|e| !e.is_dir()))
        .map(|(p, _)| p.clone())
        .collect();
    let copies = live
        .iter()
        .filter(|p| p.starts_with("d.sync-conflict-"))
        .count();
    assert_eq!((copies, s.hub("d/x"), s.hub("d")), (2, 9, 0), "{live:?}");
}

#[test]
fn an_edit_that_went_to_the_trash_comes_back_although_its_directory_is_gone() {
    let s = Scene::new();
    s.write(0, "d/x", 1);
    s.sync(0);
    let trash = ".mesync/trash/1-x";
    {
        let mut w = s.world();
        let c = &mut w.clients[0];
        let what = LocalEntry {
            entry: c.fs["d/x"].entry(),
            stamp: c.stamp("d/x").expect("it is there"),
        };
        // the user edited the file just before it was moved to the trash, and then the client crashed
        let mut edited = c.fs.remove("d/x").expect("it is there");
        (edited.content, edited.mtime, edited.ctime) = (2, 2_000_000_000, edited.ctime + 1);
        c.fs.insert(trash.into(), edited);
        c.fs.remove("d");
        c.rows.get_mut("d/x").expect("it is known").intent = Some(Intent::Leave {
            generation: 0,
            then: BaseRow::default(),
            what,
            to: trash.into(),
            trash: true,
        });
    }
    s.write(0, "d", 3);
    s.sync(0);
    assert_eq!((s.here(0, "x"), s.here(0, "d")), (2, 3));
    s.sync(0);
    assert_eq!((s.hub("x"), s.hub("d")), (2, 3));
}

#[test]
fn a_newly_ignored_file_is_not_deleted() {
    check(|s| {
        s.write(0, "a", 1);
        s.sync(0);
        s.sync(1);
        s.world().clients[0].ignored.insert("a".into());
        s.sync(0);
        s.sync(1);
        let kept = s.hub("a") == 1 && s.here(0, "a") == 1 && s.here(1, "a") == 1;
        // no longer ignored and equal again, so nothing happens; if it had been removed meanwhile,
        // it would be restored
        s.world().clients[0].ignored.clear();
        s.sync(0);
        kept && s.hub("a") == 1 && s.world().hub.rev == 1
    });
}

#[test]
fn a_response_while_a_path_is_ignored_leaves_no_old_base() {
    let s = Scene::new();
    s.write(0, "a", 1);
    s.sync(0);
    s.write(0, "a", 2);
    s.world().lose_answers = true;
    s.work(0);
    s.world().lose_answers = false;
    // restored, and ignored just while the key is asked about
    s.write(0, "a", 1);
    s.poll_all(0);
    s.world().clients[0].ignored.insert("a".into());
    let engine = s.run.engine(0);
    offer(&engine, &["a".to_string()]);
    engine.wake(false);
    while s.world().clients[0].rows("a").key.is_some() {
        assert!(engine.work(1).is_some());
    }
    s.world().clients[0].ignored.clear();
    s.sync(0);
    assert!(s.has(0, 1) && s.has(0, 2));
}

#[test]
fn a_file_that_is_moved_into_a_directory_of_its_own_name_is_no_rename() {
    let mut s = Scene::new();
    s.write(0, "d", 1);
    s.sync(0);
    let node = s.world().clients[0].fs.remove("d").expect("it is there");
    s.world().clients[0].make_parents("d/z");
    s.world().clients[0].fs.insert("d/z".into(), node);
    s.sync(0);
    s.sync(1);
    assert_eq!((s.hub("d"), s.hub("d/z"), s.here(1, "d/z")), (0, 1, 1));
    // and back again
    let node = s.world().clients[0].fs.remove("d/z").expect("it is there");
    s.world().clients[0].fs.insert("d".into(), node);
    s.other("q", 2, ExpectedRow::Nothing, None);
    s.sync(0);
    s.sync(1);
    assert_eq!((s.hub("d"), s.hub("d/z"), s.here(1, "d")), (1, 0, 1));
}

#[test]
fn a_directory_that_is_renamed_is_no_mass_deletion_and_one_that_is_removed_is() {
    let mut s = Scene::new();
    s.world().config = Config::Guard;
    let names = |dir: &str| (0..6).map(|n| format!("{dir}/x{n}")).collect::<Vec<_>>();
    for (n, path) in names("d").iter().enumerate() {
        s.write(0, path, 10 + n as u64);
    }
    s.sync(0);
    s.sync(1);
    {
        let mut w = s.world();
        for (from, to) in names("d").iter().zip(names("e")) {
            let node = w.clients[0].fs.remove(from).expect("it is there");
            w.clients[0].fs.insert(to, node);
        }
        let dir = w.clients[0].fs.remove("d").expect("it is there");
        w.clients[0].fs.insert("e".into(), dir);
    }
    let moved = s.world().hub.blobs.len();
    s.sync(0);
    s.sync(1);
    assert_eq!(
        (
            s.here(1, "e/x5"),
            s.has(1, 15),
            s.here(1, "d/x5"),
            s.world().hub.blobs.len()
        ),
        (15, true, 0, moved)
    );
    assert!(s.world().guard.is_empty(), "none of it counted");
    // everything is deleted: held until a user approves
    for path in names("e") {
        s.world().clients[0].fs.remove(&path);
    }
    s.sync(0);
    assert_eq!((s.hub("e/x0"), s.run.engine(0).deletes().len()), (10, 6));
    // exactly the listed deletes are approved
    let listed = s.run.engine(0).deletes();
    s.world().clients[0].listed_tokens.extend(listed.clone());
    s.other("e/x0", 77, ExpectedRow::Rev(listed[0].remote.into()), None);
    s.run.engine(0).approve(listed).expect("nothing fails here");
    s.sync(0);
    let left: Vec<u64> = names("e").iter().map(|p| s.hub(p)).collect();
    assert_eq!((left, s.here(0, "e/x0")), (vec![77, 0, 0, 0, 0, 0], 77));
    // the other side deletes: held there as well
    s.sync(1);
    assert_eq!(
        (s.here(1, "e/x5"), s.run.engine(1).deletes().len()),
        (15, 5)
    );
}

#[test]
fn threads_do_not_get_in_each_others_way() {
    let mut s = Scene::new();
    for n in 0..40 {
        s.write(0, &format!("d{}/x{n}", n % 4), 100 + n);
        s.other(
            &format!("d{}/y{n}", n % 4),
            200 + n,
            ExpectedRow::Nothing,
            None,
        );
        s.other(
            &format!("d{}/x{n}", n % 8),
            300 + n,
            ExpectedRow::Nothing,
            None,
        );
    }
    s.poll_all(0);
    let engine = s.run.engine(0);
    for _ in 0..6 {
        offer(&engine, &s.world().clients[0].paths());
        engine.wake(true);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| while engine.work(1).is_some() {});
            }
            threads.spawn(|| while engine.poll().is_ok_and(|p| p == PollResult::More) {});
        });
    }
    s.sync(0);
    s.sync(1);
    s.sync(0);
    let wrongs: Vec<String> = s
        .world()
        .check()
        .into_iter()
        .filter(|w| w.starts_with("I1 c0") || w.starts_with("I1 c1"))
        .collect();
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
    let lost = (0..40)
        .filter(|n| !s.has(1, 100 + n) || !s.has(1, 200 + n) || !s.has(1, 300 + n))
        .count();
    assert_eq!(lost, 0);
}
