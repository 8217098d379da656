//! A tree on a real disk, used as the engine uses it; `hostile` tests interference by users and filesystems.

mod bench;
mod contents;
mod hostile;
mod mapped;
mod rules;

use crate::files::tree::sync_set::SyncSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::disk;
use crate::files::conflict::TRASH;
use crate::files::engine::traits::ContentSource;
use crate::files::plan::LocalEntry;
use crate::relpath;
use crate::wire::files::{EntryKind, Hash};

struct World {
    dir: tempfile::TempDir,
    tree: DiskTree,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    let OpenedTree::Ready(tree) =
        DiskTree::open(&dir.path().join("root"), None, Uuid::new_v4(), &[], &[]).unwrap()
    else {
        panic!("held")
    };
    World { dir, tree: *tree }
}

impl World {
    fn at(&self, path: &str) -> PathBuf {
        self.tree.root().path().join(path)
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn write(&self, path: &str, bytes: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), bytes).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| format!("({e})"))
    }

    fn local(&self, path: &str) -> LocalEntry {
        match self.tree.examine(path, None) {
            Ok(Presence::Here(local)) => local,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn staged(&self, path: &str, bytes: &str) -> StagedFile {
        let mut temporary = self
            .tree
            .temporary(path, bytes.len() as u64)
            .unwrap()
            .unwrap();
        temporary.write_all(bytes.as_bytes()).unwrap();
        temporary.finish(&entry(bytes)).unwrap().unwrap()
    }

    fn place(&self, path: &str, bytes: &str, over: Option<&LocalEntry>) -> RenameOutcome {
        self.tree
            .place(path, &self.staged(path, bytes), over)
            .unwrap()
    }

    /// Names that the tree reports, sorted.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.tree
            .below("", &mut |name| {
                names.push(name.to_string());
                Ok(true)
            })
            .unwrap();
        names.sort();
        names
    }

    fn temporaries(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut visit = |f: ScanItem<'_>| {
            if let ScanItem::Temporary(path) = f {
                found.push(path.to_string());
            }
            Ok(true)
        };
        scan::scan(&self.tree, "", scan::Depth::All, &mut visit).unwrap();
        found
    }
}

const TIME: i64 = 1_700_000_000_123_456_789;

fn entry(bytes: &str) -> Entry {
    Entry::new(
        EntryKind::File,
        Hash::of(bytes.as_bytes()),
        bytes.len() as u64,
        0o640,
        TIME,
    )
}

#[test]
fn a_scan_passes_names_in_their_order_and_one_directory_after_the_other() {
    let w = world();
    let mut wanted: Vec<String> = ["a", "b", "b-c"].map(String::from).into();
    for dir in ["a", "b", "b-c"] {
        wanted.extend((100..400).map(|n| format!("{dir}/{n}")));
    }
    (wanted.iter().rev().filter(|path| path.contains('/'))).for_each(|path| w.write(path, "x"));
    let mut met = Vec::new();
    let mut visit = |name: &str| {
        met.push(name.to_string());
        Ok(true)
    };
    w.tree.below("", &mut visit).unwrap();
    assert_eq!(met, wanted);
}

#[test]
fn a_placed_file_has_bytes_mode_and_time_and_nothing_is_left_beside_it() {
    let w = world();
    assert_eq!(w.place("d/e/a", "new", None), RenameOutcome::Done);
    let local = w.local("d/e/a");
    assert_eq!(local.entry, entry("new"));
    assert_eq!(w.place("d/e/a", "other", None), RenameOutcome::Taken);
    assert_eq!(w.place("d/e/a", "newer", Some(&local)), RenameOutcome::Done);
    assert_eq!(w.text("d/e/a"), "newer");
    // the replaced file and the refused one have their temporary names
    let texts: Vec<String> = w.temporaries().iter().map(|t| w.text(t)).collect();
    assert!(
        texts.len() == 2
            && ["new", "other"]
                .iter()
                .all(|t| texts.contains(&t.to_string())),
        "{texts:?}"
    );
    for temp in w.temporaries() {
        w.tree.discard(&temp).unwrap();
    }
    assert_eq!(
        (w.temporaries().len(), w.names()),
        (0, vec!["d".into(), "d/e".into(), "d/e/a".into()])
    );
    assert!(w.tree.discard("d/e/a").is_err());
}

#[test]
fn an_edit_between_look_and_rename_is_never_overwritten() {
    for exchange in [true, false] {
        let w = world();
        w.tree.exchange.store(exchange, Relaxed);
        w.write("a", "old");
        let old = w.local("a");
        let staged = w.staged("a", "hub's");
        w.write("a", "edited");
        assert_eq!(
            w.tree.place("a", &staged, Some(&old)),
            Ok(RenameOutcome::Changed)
        );
        assert_eq!(w.text("a"), "edited");
        // same size and time, but another file
        let now = w.local("a");
        fs::remove_file(w.at("a")).unwrap();
        w.write("a", "Edited");
        fs::File::open(w.at("a"))
            .unwrap()
            .set_modified(
                std::time::UNIX_EPOCH + std::time::Duration::from_nanos(now.stamp.mtime as u64),
            )
            .unwrap();
        assert_eq!(
            w.tree.place("a", &staged, Some(&now)),
            Ok(RenameOutcome::Changed)
        );
        assert_eq!(
            w.tree.shift("a", "b", Some(&now.stamp)),
            Ok(RenameOutcome::Changed)
        );
        assert_eq!(w.tree.set_metadata("a", &now.stamp, 0o600, None), Ok(None));
        assert_eq!(w.text("a"), "Edited");
        // an unknown value equals nothing
        let here = w.local("a");
        let unknown = LocalEntry {
            stamp: Stamp {
                ctime: 0,
                ..here.stamp
            },
            ..here
        };
        assert_eq!(
            w.tree.place("a", &staged, Some(&unknown)),
            Ok(RenameOutcome::Changed)
        );
    }
}

#[test]
fn without_exchange_files_are_replaced_and_directories_make_way() {
    for (exchange, noreplace) in [(true, true), (false, true), (false, false)] {
        let w = world();
        w.tree.exchange.store(exchange, Relaxed);
        w.tree.noreplace.store(noreplace, Relaxed);
        w.write("a", "old");
        assert_eq!(
            w.place("a", "new", Some(&w.local("a"))),
            RenameOutcome::Done
        );
        assert_eq!(
            (w.text("a").as_str(), w.place("a", "third", None)),
            ("new", RenameOutcome::Taken)
        );
        // a file over an empty directory, and over one that is not empty
        fs::create_dir(w.at("d")).unwrap();
        assert_eq!(
            w.place("d", "file", Some(&w.local("d"))),
            RenameOutcome::Done
        );
        assert_eq!(w.text("d"), "file");
        w.write("full/x", "mine");
        assert_eq!(
            w.place("full", "file", Some(&w.local("full"))),
            RenameOutcome::Taken
        );
        assert_eq!(w.text("full/x"), "mine");
        // a directory over a file: the replaced file can be examined
        w.write("f", "text");
        let old = w.local("f");
        let staged = w
            .tree
            .stage_dir("f", &Entry::dir(0o750, TIME))
            .unwrap()
            .unwrap();
        assert_eq!(
            w.tree.place("f", &staged, Some(&old)),
            Ok(RenameOutcome::Done)
        );
        assert_eq!(
            (w.local("f").entry.kind, w.local("f").entry.mode),
            (EntryKind::Dir, 0o750)
        );
        assert_eq!(w.text(&staged.temp), "text");
        assert_eq!(
            w.tree.shift("f", "g", None),
            Ok(RenameOutcome::Done),
            "{exchange} {noreplace}"
        );
    }
}

#[test]
fn bytes_other_than_announced_are_not_kept() {
    let w = world();
    for (bytes, announced) in [
        ("abc", entry("abd")),
        ("ab", entry("abc")),
        ("abc", Entry::dir(0, 0)),
    ] {
        let mut temporary = w.tree.temporary("a", 3).unwrap().unwrap();
        temporary.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(temporary.finish(&announced), Ok(None));
    }
    assert_eq!(w.temporaries(), [""; 0]);
}

#[test]
fn files_are_moved_to_the_trash_and_back_and_found_there() {
    let w = world();
    w.write("d/a", "text");
    let local = w.local("d/a");
    let trash = crate::files::conflict::trash_name("d/a", &local.entry, TIME, 1);
    assert_eq!(
        w.tree.shift("d/a", &trash, Some(&local.stamp)),
        Ok(RenameOutcome::Done)
    );
    assert_eq!(
        (w.text(&trash).as_str(), w.names()),
        ("text", vec!["d".to_string()])
    );
    assert_eq!(fs::metadata(w.at(".mesync")).unwrap().mode() & 0o777, 0o700);
    let inside = w.local(&trash);
    assert!(inside.stamp.same_but_for_ctime(&local.stamp));
    let staged = w
        .tree
        .stage_copy(
            "copy",
            &entry("text"),
            &[
                ContentSource::Tree("d/a".into()),
                ContentSource::Trash,
                ContentSource::Hub,
            ],
            &mut SyncSet::default(),
        )
        .unwrap()
        .unwrap();
    assert_eq!(w.text(&staged.temp), "text");
    assert_eq!(
        w.tree.stage_copy(
            "copy",
            &entry("else"),
            &[ContentSource::Tree("d".into()), ContentSource::Trash],
            &mut SyncSet::default(),
        ),
        Ok(None)
    );
    assert_eq!(
        w.tree.shift(&trash, "d/a", Some(&inside.stamp)),
        Ok(RenameOutcome::Done)
    );
    // the trash is the only directory that a move creates
    assert_eq!(w.tree.shift("d/a", "e/a", None), Ok(RenameOutcome::Taken));
    assert_eq!(
        w.tree.shift("gone", &format!("{TRASH}/x"), None),
        Ok(RenameOutcome::Changed)
    );
    assert_eq!(w.text("d/a"), "text");
}

#[test]
fn modes_are_set_without_reading_and_links_have_none() {
    let w = world();
    w.write("a", "text");
    fs::set_permissions(w.at("a"), fs::Permissions::from_mode(0o4711)).unwrap();
    let stamp = w
        .tree
        .set_metadata("a", &w.local("a").stamp, 0o600, None)
        .unwrap()
        .unwrap();
    assert_eq!((stamp.mode, w.local("a").stamp), (0o600, stamp));
    assert_eq!(fs::metadata(w.at("a")).unwrap().mode() & 0o7777, 0o600);
    fs::create_dir(w.at("d")).unwrap();
    fs::set_permissions(w.at("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    w.tree
        .set_metadata("d", &w.local("d").stamp, 0o700, None)
        .unwrap()
        .unwrap();
    assert_eq!(fs::metadata(w.at("d")).unwrap().mode() & 0o7777, 0o2700);
    symlink("a", w.at("l")).unwrap();
    let link = w.local("l").stamp;
    assert_eq!(w.tree.set_metadata("l", &link, 0o644, None), Ok(Some(link)));
    assert_eq!(w.local("a").stamp.mode, 0o600);
    assert_eq!(w.tree.set_metadata("gone", &link, 0o644, None), Ok(None));
}

#[test]
fn a_hash_is_believed_for_exactly_its_stamp_and_until_other_bytes_were_read() {
    let w = world();
    w.write("a", "one");
    let stamp = w.tree.stamp("a").unwrap().unwrap();
    let lie = Entry {
        hash: Hash::of(b"lie"),
        ..entry("one")
    };
    let look = |stamp: &Stamp| match w.tree.examine("a", Some((stamp, &lie))) {
        Ok(Presence::Here(local)) => local.entry.hash,
        other => panic!("{other:?}"),
    };
    if w.tree.blind {
        println!("SKIPPED: no stamp is believed on this filesystem");
        return;
    }
    assert_eq!(
        (look(&stamp), w.tree.doubts(&stamp)),
        (Hash::of(b"lie"), false)
    );
    // an upload has read other bytes
    w.tree.contradicted(&stamp);
    assert!(w.tree.doubts(&stamp));
    // bytes that were read are believed before a remembered hash
    assert_eq!(
        (look(&stamp), look(&stamp), w.tree.doubts(&stamp)),
        (Hash::of(b"one"), Hash::of(b"one"), false)
    );
    assert_eq!(look(&Stamp { ctime: 0, ..stamp }), Hash::of(b"one"));
    assert_eq!(
        look(&Stamp {
            ctime: stamp.ctime + 1,
            ..stamp
        }),
        Hash::of(b"one")
    );
    // changes in quick succession: each is noticed
    for i in 0..30 {
        let text = format!("{i:03}");
        w.write("a", &text);
        assert_eq!(w.local("a").entry.hash, Hash::of(text.as_bytes()), "{i}");
    }
}

#[test]
fn long_runs_of_zeros_become_holes() {
    let w = world();
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20] = 1;
    let entry = Entry::new(
        EntryKind::File,
        Hash::of(&bytes),
        bytes.len() as u64,
        0o600,
        TIME,
    );
    let mut temporary = w.tree.temporary("image", entry.size).unwrap().unwrap();
    temporary.write_all(&bytes).unwrap();
    let staged = temporary.finish(&entry).unwrap().unwrap();
    assert_eq!(
        w.tree.place("image", &staged, None),
        Ok(RenameOutcome::Done)
    );
    assert!(fs::read(w.at("image")).unwrap() == bytes);
    assert!(fs::metadata(w.at("image")).unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(w.local("image").entry, entry);
}

#[test]
fn hard_links_are_files_of_their_own() {
    let w = world();
    w.write("a", "text");
    disk::link_or_copy(&w.at("a"), &w.at("b")).unwrap();
    let (a, b) = (w.local("a"), w.local("b"));
    assert_eq!((a.entry, a.stamp), (b.entry, b.stamp));
    assert_eq!(w.place("a", "new", Some(&a)), RenameOutcome::Done);
    assert_eq!(
        (w.text("a").as_str(), w.text("b").as_str()),
        ("new", "text")
    );
}

#[test]
fn a_mode_set_by_another_program_meanwhile_is_kept() {
    let w = world();
    w.write("a", "x");
    let set = |mode| fs::set_permissions(w.at("a"), fs::Permissions::from_mode(mode)).unwrap();
    std::thread::scope(|scope| {
        let others =
            scope.spawn(|| (0..20_000).for_each(|n| set(if n % 2 == 0 { 0o600 } else { 0o640 })));
        while !others.is_finished() {
            let stamp = w.tree.stamp("a").unwrap().unwrap();
            let now = w.tree.set_metadata("a", &stamp, 0o644, None).unwrap();
            assert!(now.is_none_or(|now| now.mode == 0o644), "{now:?}");
        }
    });
}

#[test]
fn a_long_file_that_was_not_placed_can_be_gone_on_with() {
    let w = world();
    w.write("f", "in the way");
    let entry = Entry::new(EntryKind::File, Hash::of(b"long"), 4, 0o400, 1_000_000_000);
    let partial = w.tree.partial(entry.hash).unwrap();
    partial.file().unwrap().write_all(b"long").unwrap();
    assert_eq!(partial.finish(&w.tree, "f/below", &entry), Ok(None));
    // a file that its owner must not write to could not be reopened
    let left = w.at(partial::DIR).join(entry.hash.to_string());
    assert_eq!(
        fs::metadata(&left).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let staged = w
        .tree
        .partial(entry.hash)
        .unwrap()
        .finish(&w.tree, "g", &entry)
        .unwrap()
        .unwrap();
    assert_eq!(
        (staged.stamp.mode, staged.stamp.mtime),
        (0o400, 1_000_000_000)
    );
    assert_eq!(w.tree.place("g", &staged, None), Ok(RenameOutcome::Done));
    assert_eq!((w.text("g").as_str(), left.exists()), ("long", false));
}
