//! Other programs interfere while a tree is used: planted links, files that keep changing, odd
//! names, full disks.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::Ordering::Relaxed;

use super::*;

#[test]
fn links_are_staged_as_links_and_never_followed() {
    let w = world();
    fs::create_dir(w.outside()).unwrap();
    fs::write(w.outside().join("secret"), "secret").unwrap();
    let target = w.outside().to_str().unwrap().to_string();
    let link = Entry::new(
        EntryKind::Symlink,
        Hash::of(target.as_bytes()),
        target.len() as u64,
        0,
        TIME,
    );
    let staged = w
        .tree
        .stage_link("l", target.as_bytes(), &link)
        .unwrap()
        .unwrap();
    assert_eq!(w.tree.place("l", &staged, None), Ok(RenameOutcome::Done));
    assert_eq!(w.local("l").entry, link);
    assert_eq!(w.tree.stage_link("l", b"elsewhere", &link), Ok(None));
    for openat2 in [true, false] {
        if !openat2 {
            w.tree.root().without_openat2();
        }
        assert_eq!(w.tree.examine("l/secret", None), Ok(Presence::Absent));
        assert!(matches!(w.tree.temporary("l/new", 1), Ok(None)));
        assert_eq!(
            w.tree.stage_dir("l/deep/er", &Entry::dir(0o755, 0)),
            Ok(None)
        );
        assert_eq!(
            w.tree.shift("l/secret", "stolen", None),
            Ok(RenameOutcome::Changed)
        );
        assert_eq!(w.tree.shift("l", "l/x", None), Ok(RenameOutcome::Taken));
        assert_eq!(w.tree.remove_dir("l"), Ok(false));
        assert_eq!(w.tree.is_empty("l"), Ok(true));
        assert!(w.tree.read("l", None).map(|r| r.is_none()).unwrap());
        assert_eq!(w.names(), ["l"]);
        // neither relative nor absolute names lead outside
        for path in ["../outside/secret", "/etc/passwd", "d/../../outside/secret"] {
            assert!(
                !matches!(w.tree.examine(path, None), Ok(Presence::Here(_))),
                "{path}"
            );
            assert!(!matches!(w.tree.temporary(path, 1), Ok(Some(_))), "{path}");
        }
    }
    assert_eq!(fs::read_dir(w.outside()).unwrap().count(), 1);
}

/// A bind mount of the same filesystem has the same device.
#[test]
fn nothing_is_entered_that_is_mounted_below() {
    let w = world();
    fs::create_dir(w.outside()).unwrap();
    fs::write(w.outside().join("a"), "secret").unwrap();
    w.write("d/a", "mine");
    let run = |command: &str, args: &[&std::path::Path]| {
        let done = std::process::Command::new(command)
            .args(args)
            .stderr(std::process::Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    };
    if !run("mount", &["--bind".as_ref(), &w.outside(), &w.at("d")]) {
        assert!(std::env::var_os("CI").is_none(), "cannot mount");
        println!("SKIPPED: only root can mount something");
        return;
    }
    let looks = [true, false].map(|openat2| {
        if !openat2 {
            w.tree.root().without_openat2();
        }
        ["d", "d/a"].map(|path| w.tree.examine(path, None))
    });
    assert!(run("umount", &["-l".as_ref(), &w.at("d")]));
    for look in looks.into_iter().flatten() {
        assert!(matches!(look, Ok(Presence::Unknown(why)) if why.what == root::MOUNTED));
    }
    assert!(matches!(w.tree.examine("d/a", None), Ok(Presence::Here(_))));
}

/// Another program replaces the directory with a link while it is used.
#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    for openat2 in [true, false] {
        let w = world();
        if !openat2 {
            w.tree.root().without_openat2();
        }
        fs::create_dir(w.outside()).unwrap();
        let staged = w.staged("d/a", "bytes");
        disk::rename(&w.at("d"), &w.at("moved")).unwrap();
        symlink(w.outside(), w.at("d")).unwrap();
        assert_eq!(w.tree.place("d/a", &staged, None), Ok(RenameOutcome::Taken));
        assert_eq!(w.tree.discard(&staged.temp), Ok(()));
        w.write("here", "mine");
        assert_eq!(
            w.tree.shift("here", "d/here", None),
            Ok(RenameOutcome::Taken)
        );
        assert_eq!(fs::read_dir(w.outside()).unwrap().count(), 0);
        // nothing is left of it in the directory's new place
        assert_eq!(fs::read_dir(w.at("moved")).unwrap().count(), 0);
    }
}

/// One thread keeps swapping a directory with a link to the outside, the other writes into it.
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
        let (done, mut placed) = (AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            let (root, done) = (fs::File::open(w.at("")).unwrap(), &done);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    disk::exchange_at(&root, "d", "other").unwrap();
                }
            });
            // no panic before the other thread is told to end
            for path in (0..1_000_000).map(|i| format!("d/{i}")) {
                let Ok(Some(mut temporary)) = w.tree.temporary(&path, 1) else {
                    continue;
                };
                let _ = temporary.write_all(b"x");
                if let Ok(Some(staged)) = temporary.finish(&entry("x")) {
                    placed +=
                        usize::from(w.tree.place(&path, &staged, None) == Ok(RenameOutcome::Done));
                }
                if placed == 5 {
                    break;
                }
            }
            done.store(true, Relaxed);
        });
        assert_eq!(placed, 5);
        assert_eq!(fs::read_dir(w.outside()).unwrap().count(), 0);
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
    assert!(
        w.tree
            .read("a", Some(&reading.shown.stamp))
            .unwrap()
            .is_none()
    );
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            while !done.load(Relaxed) {
                file.write_all(b"z").unwrap();
            }
        });
        // on a busy machine the writer may pause for several reads
        let end = crate::clock::monotonic() + std::time::Duration::from_secs(120);
        let looked = std::iter::repeat_with(|| w.tree.examine("a", None))
            .take_while(|_| crate::clock::monotonic() < end)
            .find(|looked| looked.is_err());
        done.store(true, Relaxed);
        assert!(matches!(looked, Some(Err(Fault::Later(_)))), "{looked:?}");
    });
}

#[test]
fn a_root_without_its_marker_is_held_and_says_nothing_about_absence() {
    let w = world();
    w.write("a", "text");
    assert_eq!(w.tree.examine("gone", None), Ok(Presence::Absent));
    fs::remove_file(w.at(".mesync/id")).unwrap();
    assert!(
        matches!(w.tree.examine("gone", None), Err(Fault::Fatal(e)) if e.to_string().contains("mesync adopt"))
    );
    assert!(matches!(
        w.tree.below("", &mut |_| Ok(true)),
        Err(Fault::Fatal(_))
    ));
    let (path, id) = (w.at(""), w.tree.id().unwrap());
    let open = |known| match DiskTree::open(&path, known, Uuid::new_v4(), &[], &[]) {
        Ok(OpenedTree::Ready(tree)) => tree.id().unwrap().to_string(),
        Ok(OpenedTree::Held(why)) => why,
        Err(e) => e.to_string(),
    };
    assert!(open(Some(id)).contains("is gone"));
    assert!(open(None).contains("in sync: process"), "{}", open(None));
    drop(w.tree);
    let fresh = open(None);
    assert!(
        fresh != id.to_string() && fresh.len() == 36 && open(None) == fresh,
        "{fresh}"
    );
    assert!(open(Some(id)).contains("another directory"));
    // another directory in its place
    let w = world();
    disk::rename(&w.at(""), &w.dir.path().join("away")).unwrap();
    fs::create_dir(w.at("")).unwrap();
    assert!(
        matches!(w.tree.examine("gone", None), Err(Fault::Fatal(e)) if e.to_string().contains("replaced"))
    );
}

#[test]
fn odd_names_are_told_or_skipped_and_counted() {
    use std::os::unix::ffi::OsStrExt;
    let w = world();
    let long = "n".repeat(255);
    for name in [
        "new\nline",
        " ",
        "-rf",
        "😀",
        "a\\b",
        long.as_str(),
        ".hidden",
        "dir/.mesync-x",
    ] {
        w.write(name, "x");
        assert_eq!(w.local(name).entry.size, 1, "{name:?}");
    }
    fs::write(w.at("").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, w.at("fifo"), rustix::fs::Mode::RWXU).unwrap();
    std::os::unix::net::UnixListener::bind(w.at("socket")).unwrap();
    let deep = (0..5)
        .map(|_| "d".repeat(250))
        .collect::<Vec<_>>()
        .join("/");
    // longer than names may be, though the system accepts them
    fs::create_dir_all(w.at(&deep)).unwrap();
    w.write(&format!("dir/{}", relpath::temporary(7)), "left");
    let mut names = Vec::new();
    let skipped = scan::scan(&w.tree, "", scan::Depth::All, &mut |f| {
        if let ScanItem::Name { path, .. } = f {
            names.push(path.to_string());
        }
        Ok(true)
    });
    let skipped = skipped.unwrap();
    assert_eq!(names.len(), 9 + 4, "{names:?}");
    assert_eq!(
        (
            skipped.special.count,
            skipped.names.count,
            skipped.unknown.count
        ),
        (2, 2, 0),
        "{skipped:?}"
    );
    assert_eq!(w.temporaries(), [format!("dir/{}", relpath::temporary(7))]);
    assert!(matches!(
        w.tree.examine("fifo", None),
        Ok(Presence::Unknown(_))
    ));
    assert!(w.tree.read("fifo", None).map(|r| r.is_none()).unwrap());
    assert!(w.tree.stamp("socket").unwrap().is_some());
    assert_eq!(w.tree.examine(&"x".repeat(256), None), Ok(Presence::Absent));
}

#[test]
fn a_scan_stops_when_told_and_skips_removed_directories() {
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
    // each directory is removed before the scan enters it
    let mut names = 0;
    w.tree
        .below("", &mut |name| {
            names += 1;
            let _ = fs::remove_dir_all(w.at(name));
            Ok(true)
        })
        .unwrap();
    assert_eq!(names, 7);
    w.tree
        .below("d0", &mut |_| panic!("nothing is there"))
        .unwrap();
}

#[test]
fn a_directory_in_use_is_kept_when_its_temporary_name_is_thrown_away() {
    let w = world();
    let staged = w
        .tree
        .stage_dir("d", &Entry::dir(0o755, TIME))
        .unwrap()
        .unwrap();
    w.write(&format!("{}/mine", staged.temp), "text");
    w.tree.discard(&staged.temp).unwrap();
    assert_eq!(w.text(&format!("{TRASH}/{}/mine", staged.temp)), "text");
    assert_eq!(w.temporaries(), [""; 0]);
}

/// Needs root, because it mounts a filesystem; otherwise skipped with a message.
#[test]
fn full_disks_and_mounts_below_are_told_apart() {
    let w = world();
    fs::create_dir(w.at("mnt")).unwrap();
    w.write("mnt/below", "x");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(w.at("mnt"))
        .output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        return eprintln!("cannot mount here: not tested");
    }
    let unmount = || {
        assert!(
            std::process::Command::new("umount")
                .arg(w.at("mnt"))
                .status()
                .unwrap()
                .success()
        )
    };
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for openat2 in [true, false] {
            if !openat2 {
                w.tree.root().without_openat2();
            }
            assert!(matches!(
                w.tree.examine("mnt", None),
                Ok(Presence::Unknown(_))
            ));
            assert!(matches!(
                w.tree.examine("mnt/below", None),
                Ok(Presence::Unknown(_))
            ));
            assert!(matches!(
                w.tree.temporary("mnt/a", 1),
                Err(Fault::Refused(_))
            ));
            let skipped = scan::scan(&w.tree, "", scan::Depth::All, &mut |_| Ok(true)).unwrap();
            assert_eq!(skipped.unknown.count, 1);
        }
        let OpenedTree::Ready(small) =
            DiskTree::open(&w.at("mnt"), None, Uuid::new_v4(), &[], &[]).unwrap()
        else {
            panic!("held")
        };
        assert!(matches!(
            small.temporary("a", 250_000),
            Err(Fault::TooLarge(_))
        ));
        let mut temporary = small.temporary("a", 1000).unwrap().unwrap();
        let full = temporary
            .write_all(&[1; 300_000])
            .map_err(|e| root::fault("write", "a", &e));
        assert!(matches!(full, Err(Fault::NoSpace(_))), "{full:?}");
        drop(temporary);
        assert_eq!(
            fs::read_dir(w.at("mnt")).unwrap().count(),
            1,
            "only our own directory"
        );
    }));
    unmount();
    checked.unwrap_or_else(|e| std::panic::resume_unwind(e));
}
