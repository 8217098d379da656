//! A tree on a real disk, used as the engine uses it, and as hostile users and filesystems do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::files::conflict::TRASH;
use crate::files::engine::env::Source;
use crate::files::plan::Local;
use crate::files::tree::stage::Sync;
use crate::relpath;
use crate::wire::files::{Hash, Kind as What_};

struct World {
    dir: tempfile::TempDir,
    tree: DiskTree,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    let Opened::Ready(tree) = DiskTree::open(&dir.path().join("root"), None, Uuid::new_v4(), &[], &[]).unwrap() else { panic!("held") };
    World { dir, tree }
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

    fn local(&self, path: &str) -> Local {
        match self.tree.look(path, None) {
            Ok(Look::Here(local)) => local,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn staged(&self, path: &str, bytes: &str) -> Staged {
        let mut temporary = self.tree.temporary(path, bytes.len() as u64).unwrap().unwrap();
        temporary.write_all(bytes.as_bytes()).unwrap();
        temporary.finish(&entry(bytes), Sync::Now).unwrap().unwrap()
    }

    fn place(&self, path: &str, bytes: &str, over: Option<&Stamp>) -> Moved {
        self.tree.place(path, &self.staged(path, bytes), over).unwrap()
    }

    /// Names that the tree tells, sorted.
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
        let mut visit = |f: Found<'_>| {
            if let Found::Temporary(path) = f {
                found.push(path.to_string());
            }
            Ok(true)
        };
        scan::scan(&self.tree, "", &mut visit).unwrap();
        found
    }
}

const TIME: i64 = 1_700_000_000_123_456_789;

fn entry(bytes: &str) -> Entry {
    Entry::new(What_::File, Hash::of(bytes.as_bytes()), bytes.len() as u64, 0o640, TIME)
}

#[test]
fn what_is_placed_has_bytes_mode_and_time_and_nothing_is_left_beside_it() {
    let w = world();
    assert_eq!(w.place("d/e/a", "new", None), Moved::Done);
    let local = w.local("d/e/a");
    assert_eq!(local.entry, entry("new"));
    assert_eq!(w.place("d/e/a", "other", None), Moved::Taken);
    assert_eq!(w.place("d/e/a", "newer", Some(&local.stamp)), Moved::Done);
    assert_eq!(w.text("d/e/a"), "newer");
    // the replaced one, and the one that was refused, stand under their temporary names
    let texts: Vec<String> = w.temporaries().iter().map(|t| w.text(t)).collect();
    assert!(texts.len() == 2 && ["new", "other"].iter().all(|t| texts.contains(&t.to_string())), "{texts:?}");
    for temp in w.temporaries() {
        w.tree.discard(&temp).unwrap();
    }
    assert_eq!((w.temporaries().len(), w.names()), (0, vec!["d".into(), "d/e".into(), "d/e/a".into()]));
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
        assert_eq!(w.tree.place("a", &staged, Some(&old.stamp)), Ok(Moved::Changed));
        assert_eq!(w.text("a"), "edited");
        // same size and time, but another file
        let now = w.local("a");
        fs::remove_file(w.at("a")).unwrap();
        w.write("a", "Edited");
        fs::File::open(w.at("a"))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(now.stamp.mtime as u64))
            .unwrap();
        assert_eq!(w.tree.place("a", &staged, Some(&now.stamp)), Ok(Moved::Changed));
        assert_eq!(w.tree.shift("a", "b", Some(&now.stamp)), Ok(Moved::Changed));
        assert_eq!(w.tree.set_mode("a", &now.stamp, 0o600), Ok(None));
        assert_eq!(w.text("a"), "Edited");
        // what is unknown equals nothing
        let unknown = Stamp { ctime: 0, ..w.local("a").stamp };
        assert_eq!(w.tree.place("a", &staged, Some(&unknown)), Ok(Moved::Changed));
    }
}

#[test]
fn without_exchange_files_are_replaced_and_directories_make_way() {
    for (exchange, noreplace) in [(true, true), (false, true), (false, false)] {
        let w = world();
        w.tree.exchange.store(exchange, Relaxed);
        w.tree.noreplace.store(noreplace, Relaxed);
        w.write("a", "old");
        assert_eq!(w.place("a", "new", Some(&w.local("a").stamp)), Moved::Done);
        assert_eq!((w.text("a").as_str(), w.place("a", "third", None)), ("new", Moved::Taken));
        // a file over an empty directory, and over one that is not
        fs::create_dir(w.at("d")).unwrap();
        assert_eq!(w.place("d", "file", Some(&w.local("d").stamp)), Moved::Done);
        assert_eq!(w.text("d"), "file");
        w.write("full/x", "mine");
        assert_eq!(w.place("full", "file", Some(&w.local("full").stamp)), Moved::Taken);
        assert_eq!(w.text("full/x"), "mine");
        // a directory over a file: what came out can be looked at
        w.write("f", "text");
        let old = w.local("f");
        let staged = w.tree.stage_dir("f", &Entry::dir(0o750, TIME)).unwrap().unwrap();
        assert_eq!(w.tree.place("f", &staged, Some(&old.stamp)), Ok(Moved::Done));
        assert_eq!((w.local("f").entry.kind, w.local("f").entry.mode), (What_::Dir, 0o750));
        assert_eq!(w.text(&staged.temp), "text");
        assert_eq!(w.tree.shift("f", "g", None), Ok(Moved::Done), "{exchange} {noreplace}");
    }
}

#[test]
fn links_are_staged_as_links_and_never_followed() {
    let w = world();
    fs::create_dir(w.outside()).unwrap();
    fs::write(w.outside().join("secret"), "secret").unwrap();
    let target = w.outside().to_str().unwrap().to_string();
    let link = Entry::new(What_::Symlink, Hash::of(target.as_bytes()), target.len() as u64, 0, TIME);
    let staged = w.tree.stage_link("l", target.as_bytes(), &link).unwrap().unwrap();
    assert_eq!(w.tree.place("l", &staged, None), Ok(Moved::Done));
    assert_eq!(w.local("l").entry, link);
    assert_eq!(w.tree.stage_link("l", b"elsewhere", &link), Ok(None));
    for openat2 in [true, false] {
        if !openat2 {
            w.tree.root().without_openat2();
        }
        assert_eq!(w.tree.look("l/secret", None), Ok(Look::Absent));
        assert!(matches!(w.tree.temporary("l/new", 1), Ok(None)));
        assert_eq!(w.tree.stage_dir("l/deep/er", &Entry::dir(0o755, 0)), Ok(None));
        assert_eq!(w.tree.shift("l/secret", "stolen", None), Ok(Moved::Changed));
        assert_eq!(w.tree.shift("l", "l/x", None), Ok(Moved::Taken));
        assert_eq!(w.tree.remove_dir("l"), Ok(false));
        assert_eq!(w.tree.is_empty("l"), Ok(true));
        assert_eq!(w.tree.read("l", None).map(|r| r.is_none()).unwrap(), true);
        assert_eq!(w.names(), ["l"]);
        // neither upwards nor from the top, whatever the name says
        for path in ["../outside/secret", "/etc/passwd", "d/../../outside/secret"] {
            assert!(!matches!(w.tree.look(path, None), Ok(Look::Here(_))), "{path}");
            assert!(!matches!(w.tree.temporary(path, 1), Ok(Some(_))), "{path}");
        }
    }
    assert_eq!(fs::read_dir(w.outside()).unwrap().count(), 1);
}

/// Somebody turns the directory into a link while we work in it.
#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    for openat2 in [true, false] {
        let w = world();
        if !openat2 {
            w.tree.root().without_openat2();
        }
        fs::create_dir(w.outside()).unwrap();
        let staged = w.staged("d/a", "bytes");
        fs::rename(w.at("d"), w.at("moved")).unwrap();
        symlink(w.outside(), w.at("d")).unwrap();
        assert_eq!(w.tree.place("d/a", &staged, None), Ok(Moved::Taken));
        assert_eq!(w.tree.discard(&staged.temp), Ok(()));
        w.write("here", "mine");
        assert_eq!(w.tree.shift("here", "d/here", None), Ok(Moved::Taken));
        assert_eq!(fs::read_dir(w.outside()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(w.at("moved")).unwrap().count(), 1);
    }
}

/// One thread swaps a directory with a link to the outside all the time, the other writes into it.
#[test]
fn a_race_with_links_never_leads_outside() {
    for openat2 in [true, false] {
        let w = world();
        if !openat2 {
            w.tree.root().without_openat2();
        }
        fs::create_dir(w.outside()).unwrap();
        fs::create_dir(w.at("d")).unwrap();
        symlink(w.outside(), w.at("other")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let root = fs::File::open(w.at("")).unwrap();
            let done = &done;
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    std::thread::yield_now();
                    crate::disk::exchange_at(&root, "d", "other").unwrap();
                }
            });
            let mut made = 0;
            for i in 0..2000 {
                let path = format!("d/{i}");
                if let Ok(Some(mut temporary)) = w.tree.temporary(&path, 1) {
                    let _ = temporary.write_all(b"x");
                    if let Ok(Some(staged)) = temporary.finish(&entry("x"), Sync::Later) {
                        made += usize::from(w.tree.place_all(&[(&path, &staged, None)]).unwrap()[0] == Ok(Moved::Done));
                    }
                }
                if made > 4 {
                    break;
                }
            }
            done.store(true, Relaxed);
            assert!(made > 0);
        });
        assert_eq!(fs::read_dir(w.outside()).unwrap().count(), 0);
    }
}

#[test]
fn bytes_that_are_not_what_was_announced_are_not_kept() {
    let w = world();
    for (bytes, announced) in [("abc", entry("abd")), ("ab", entry("abc")), ("abc", Entry::dir(0, 0))] {
        let mut temporary = w.tree.temporary("a", 3).unwrap().unwrap();
        temporary.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(temporary.finish(&announced, Sync::Now), Ok(None));
    }
    assert_eq!(w.temporaries(), [""; 0]);
}

#[test]
fn things_go_to_the_trash_and_back_and_are_found_there() {
    let w = world();
    w.write("d/a", "text");
    let local = w.local("d/a");
    let trash = crate::files::conflict::trash_name("d/a", &local.entry, TIME, 1);
    assert_eq!(w.tree.shift("d/a", &trash, Some(&local.stamp)), Ok(Moved::Done));
    assert_eq!((w.text(&trash).as_str(), w.names()), ("text", vec!["d".to_string()]));
    assert_eq!(fs::metadata(w.at(".mesync")).unwrap().mode() & 0o777, 0o700);
    let inside = w.local(&trash);
    assert!(inside.stamp.same_but_for_ctime(&local.stamp));
    let staged = w.tree.stage_copy("copy", &entry("text"), &[Source::Tree("d/a".into()), Source::Trash, Source::Hub]).unwrap().unwrap();
    assert_eq!(w.text(&staged.temp), "text");
    assert_eq!(w.tree.stage_copy("copy", &entry("else"), &[Source::Tree("d".into()), Source::Trash]), Ok(None));
    assert_eq!(w.tree.shift(&trash, "d/a", Some(&inside.stamp)), Ok(Moved::Done));
    // the only directory that is made on the way is the trash
    assert_eq!(w.tree.shift("d/a", "e/a", None), Ok(Moved::Taken));
    assert_eq!(w.tree.shift("gone", &format!("{TRASH}/x"), None), Ok(Moved::Changed));
    assert_eq!(w.text("d/a"), "text");
}

#[test]
fn modes_are_set_without_reading_and_links_have_none() {
    let w = world();
    w.write("a", "text");
    fs::set_permissions(w.at("a"), fs::Permissions::from_mode(0o4711)).unwrap();
    let stamp = w.tree.set_mode("a", &w.local("a").stamp, 0o600).unwrap().unwrap();
    assert_eq!((stamp.mode, w.local("a").stamp), (0o600, stamp));
    assert_eq!(fs::metadata(w.at("a")).unwrap().mode() & 0o7777, 0o600);
    fs::create_dir(w.at("d")).unwrap();
    fs::set_permissions(w.at("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    w.tree.set_mode("d", &w.local("d").stamp, 0o700).unwrap().unwrap();
    assert_eq!(fs::metadata(w.at("d")).unwrap().mode() & 0o7777, 0o2700);
    symlink("a", w.at("l")).unwrap();
    let link = w.local("l").stamp;
    assert_eq!(w.tree.set_mode("l", &link, 0o644), Ok(Some(link)));
    assert_eq!(w.local("a").stamp.mode, 0o600);
    assert_eq!(w.tree.set_mode("gone", &link, 0o644), Ok(None));
}

#[test]
fn a_hash_is_remembered_only_for_exactly_what_stat_shows() {
    let w = world();
    w.write("a", "one");
    let one = w.local("a");
    let lie = Entry { hash: Hash::of(b"lie"), ..one.entry };
    let look = |stamp: &Stamp| match w.tree.look("a", Some((stamp, &lie))) {
        Ok(Look::Here(local)) => local.entry.hash,
        other => panic!("{other:?}"),
    };
    assert_eq!(look(&one.stamp), Hash::of(b"lie"));
    assert_eq!(look(&Stamp { ctime: 0, ..one.stamp }), Hash::of(b"one"));
    assert_eq!(look(&Stamp { ctime: one.stamp.ctime + 1, ..one.stamp }), Hash::of(b"one"));
    // one change after the other, as quick as can be: each is seen
    for i in 0..30 {
        let text = format!("{i:03}");
        w.write("a", &text);
        assert_eq!(w.local("a").entry.hash, Hash::of(text.as_bytes()), "{i}");
    }
}

#[test]
fn a_file_that_does_not_hold_still_waits() {
    let w = world();
    w.write("a", &"x".repeat(1_000_000));
    let reading = w.tree.read("a", None).unwrap().unwrap();
    assert!(reading.unchanged().unwrap());
    let mut file = fs::OpenOptions::new().append(true).open(w.at("a")).unwrap();
    file.write_all(b"y").unwrap();
    assert!(!reading.unchanged().unwrap());
    assert!(w.tree.read("a", Some(&reading.shown.stamp)).unwrap().is_none());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            while !done.load(Relaxed) {
                file.write_all(b"z").unwrap();
            }
        });
        let looked = w.tree.look("a", None);
        done.store(true, Relaxed);
        assert!(matches!(looked, Err(Fault::Later(_))), "{looked:?}");
    });
}

#[test]
fn long_runs_of_zeros_become_holes() {
    let w = world();
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20] = 1;
    let entry = Entry::new(What_::File, Hash::of(&bytes), bytes.len() as u64, 0o600, TIME);
    let mut temporary = w.tree.temporary("image", entry.size).unwrap().unwrap();
    temporary.write_all(&bytes).unwrap();
    let staged = temporary.finish(&entry, Sync::Now).unwrap().unwrap();
    assert_eq!(w.tree.place("image", &staged, None), Ok(Moved::Done));
    assert!(fs::read(w.at("image")).unwrap() == bytes);
    assert!(fs::metadata(w.at("image")).unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(w.local("image").entry, entry);
}

#[test]
fn hard_links_are_files_of_their_own() {
    let w = world();
    w.write("a", "text");
    fs::hard_link(w.at("a"), w.at("b")).unwrap();
    let (a, b) = (w.local("a"), w.local("b"));
    assert_eq!((a.entry, a.stamp), (b.entry, b.stamp));
    assert_eq!(w.place("a", "new", Some(&a.stamp)), Moved::Done);
    assert_eq!((w.text("a").as_str(), w.text("b").as_str()), ("new", "text"));
}

#[test]
fn a_root_without_its_marker_is_held_and_says_nothing_about_absence() {
    let w = world();
    w.write("a", "text");
    assert_eq!(w.tree.look("gone", None), Ok(Look::Absent));
    fs::remove_file(w.at(".mesync/id")).unwrap();
    assert!(matches!(w.tree.look("gone", None), Err(Fault::Fatal(e)) if e.to_string().contains("mesync adopt")));
    assert!(matches!(w.tree.below("", &mut |_| Ok(true)), Err(Fault::Fatal(_))));
    let (path, id) = (w.at(""), w.tree.id());
    let open = |known| match DiskTree::open(&path, known, Uuid::new_v4(), &[], &[]) {
        Ok(Opened::Ready(tree)) => tree.id().to_string(),
        Ok(Opened::Held(why)) => why,
        Err(e) => e.to_string(),
    };
    assert!(open(Some(id)).contains("is gone"));
    assert!(open(None).contains("in step: process"), "{}", open(None));
    drop(w.tree);
    let fresh = open(None);
    assert!(fresh != id.to_string() && fresh.len() == 36 && open(None) == fresh, "{fresh}");
    assert!(open(Some(id)).contains("another directory"));
    // another directory in its place
    let w = world();
    fs::rename(w.at(""), w.dir.path().join("away")).unwrap();
    fs::create_dir(w.at("")).unwrap();
    assert!(matches!(w.tree.look("gone", None), Err(Fault::Fatal(e)) if e.to_string().contains("replaced")));
}

#[test]
fn odd_names_are_told_or_skipped_and_counted() {
    use std::os::unix::ffi::OsStrExt;
    let w = world();
    let long = "n".repeat(255);
    for name in ["new\nline", " ", "-rf", "😀", "a\\b", long.as_str(), ".hidden", "dir/.mesync-x"] {
        w.write(name, "x");
        assert_eq!(w.local(name).entry.size, 1, "{name:?}");
    }
    fs::write(w.at("").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, w.at("fifo"), rustix::fs::Mode::RWXU).unwrap();
    std::os::unix::net::UnixListener::bind(w.at("socket")).unwrap();
    let deep = (0..5).map(|_| "d".repeat(250)).collect::<Vec<_>>().join("/");
    // longer than names may be, though not for the system
    fs::create_dir_all(w.at(&deep)).unwrap();
    w.write(&format!("dir/{}", relpath::temporary(7)), "left");
    let mut names = Vec::new();
    let skipped = scan::scan(&w.tree, "", &mut |f| {
        if let Found::Name { path, .. } = f {
            names.push(path.to_string());
        }
        Ok(true)
    });
    let skipped = skipped.unwrap();
    assert_eq!(names.len(), 9 + 4, "{names:?}");
    assert_eq!((skipped.special.count, skipped.names.count, skipped.unknown.count), (2, 2, 0), "{skipped:?}");
    assert_eq!(w.temporaries(), [format!("dir/{}", relpath::temporary(7))]);
    assert!(matches!(w.tree.look("fifo", None), Ok(Look::Unknown(_))));
    assert_eq!(w.tree.read("fifo", None).map(|r| r.is_none()).unwrap(), true);
    assert!(w.tree.stamp("socket").unwrap().is_some());
    assert_eq!(w.tree.look(&"x".repeat(256), None), Ok(Look::Absent));
}

#[test]
fn a_scan_stops_when_told_and_forgives_what_goes_away() {
    let w = world();
    for i in 0..300 {
        w.write(&format!("d{}/f{i}", i % 7), "x");
    }
    assert_eq!(w.names().len(), 307);
    let mut seen = 0;
    w.tree
        .below("", &mut |_| {
            seen += 1;
            Ok(seen < 10)
        })
        .unwrap();
    assert_eq!(seen, 10);
    // each directory is gone when it is to be entered
    let mut names = 0;
    w.tree
        .below("", &mut |name| {
            names += 1;
            let _ = fs::remove_dir_all(w.at(name));
            Ok(true)
        })
        .unwrap();
    assert_eq!(names, 7);
    w.tree.below("d0", &mut |_| panic!("nothing is there")).unwrap();
}

#[test]
fn a_directory_in_use_is_kept_when_its_temporary_name_is_thrown_away() {
    let w = world();
    let staged = w.tree.stage_dir("d", &Entry::dir(0o755, TIME)).unwrap().unwrap();
    w.write(&format!("{}/mine", staged.temp), "text");
    w.tree.discard(&staged.temp).unwrap();
    assert_eq!(w.text(&format!("{TRASH}/{}/mine", staged.temp)), "text");
    assert_eq!(w.temporaries(), [""; 0]);
}

#[test]
fn what_is_ignored_is_not_entered_and_private_places_never_travel() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("base/state")).unwrap();
    let private = [root.join("base"), root.join("not/there"), root.join("login.toml"), dir.path().join("elsewhere")];
    let opened = DiskTree::open(&root, None, Uuid::new_v4(), &["*.bak".into(), "build/".into()], &private).unwrap();
    let Opened::Ready(tree) = opened else { panic!("held") };
    let w = World { dir, tree };
    ["a.bak", "build", "base/x", "login.toml", "d/build/x", "keep", "base2"].iter().for_each(|name| w.write(name, "x"));
    let ignored = |name: &str| w.tree.ignored(name);
    assert!(["a.bak", "x/a.bak", "d/build", "d/build/x", "base", "base/state/y", "login.toml"].into_iter().all(ignored));
    assert!(!["build", "keep", "base2", "base2/x", "d", ".mesyncignore", "gone/build"].into_iter().any(ignored));
    assert_eq!(w.names(), ["a.bak", "base", "base2", "build", "d", "d/build", "keep", "login.toml"]);
    w.write(".mesyncignore", "!a.bak\nkeep\n");
    assert_eq!((w.tree.read_rules().unwrap(), w.tree.read_rules().unwrap()), (true, false));
    assert!(w.tree.ignored("keep") && !w.tree.ignored("a.bak") && w.tree.ignored("b.bak"));
    fs::remove_file(w.at(".mesyncignore")).unwrap();
    assert!(w.tree.read_rules().unwrap() && !w.tree.ignored("keep"));
}

#[test]
fn many_are_placed_with_few_syncs() {
    let w = world();
    let items: Vec<(String, Staged)> = (0..40)
        .map(|i| {
            let (path, text) = (format!("d{}/{i}", i % 3), i.to_string());
            let mut temporary = w.tree.temporary(&path, 2).unwrap().unwrap();
            temporary.write_all(text.as_bytes()).unwrap();
            let staged = temporary.finish(&entry(&text), Sync::Later).unwrap().unwrap();
            (path, staged)
        })
        .collect();
    w.tree.sync_all().unwrap();
    w.write("d0/3", "mine");
    let all: Vec<_> = items.iter().map(|(path, staged)| (path.as_str(), staged, None)).collect();
    let done = w.tree.place_all(&all).unwrap();
    let wants: Vec<Called<Moved>> = (0..40).map(|i| Ok(if i == 3 { Moved::Taken } else { Moved::Done })).collect();
    assert_eq!(done, wants);
    assert_eq!((w.text("d0/3").as_str(), w.text("d1/1").as_str()), ("mine", "1"));
}

/// Needs root, who alone may mount; says so and does nothing otherwise.
#[test]
fn full_disks_and_mounts_below_are_told_apart() {
    let w = world();
    fs::create_dir(w.at("mnt")).unwrap();
    w.write("mnt/below", "x");
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(w.at("mnt")).output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        return eprintln!("cannot mount here: not tested");
    }
    let unmount = || assert!(std::process::Command::new("umount").arg(w.at("mnt")).status().unwrap().success());
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for openat2 in [true, false] {
            if !openat2 {
                w.tree.root().without_openat2();
            }
            assert!(matches!(w.tree.look("mnt", None), Ok(Look::Unknown(_))));
            assert!(matches!(w.tree.look("mnt/below", None), Ok(Look::Unknown(_))));
            assert!(matches!(w.tree.temporary("mnt/a", 1), Err(Fault::Refused(_))));
            let skipped = scan::scan(&w.tree, "", &mut |_| Ok(true)).unwrap();
            assert_eq!(skipped.unknown.count, 1);
        }
        let Opened::Ready(small) = DiskTree::open(&w.at("mnt"), None, Uuid::new_v4(), &[], &[]).unwrap() else { panic!("held") };
        assert!(matches!(small.temporary("a", 250_000), Err(Fault::NoSpace(_))));
        let mut temporary = small.temporary("a", 1000).unwrap().unwrap();
        let full = temporary.write_all(&[1; 300_000]).map_err(|e| root::fault("write", "a", &e));
        assert!(matches!(full, Err(Fault::NoSpace(_))), "{full:?}");
        drop(temporary);
        assert_eq!(fs::read_dir(w.at("mnt")).unwrap().count(), 1, "only our own directory");
    }));
    unmount();
    checked.unwrap_or_else(|e| std::panic::resume_unwind(e));
}
