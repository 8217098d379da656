//! The watcher on real directories; each test waits for an expected hint.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, bounded};
use rustix::event::{EventfdFlags, eventfd};
use uuid::Uuid;

use super::debouncer::Debouncer;
use super::*;
use crate::config::limits;
use crate::files::tree::OpenedTree;

struct World {
    dir: tempfile::TempDir,
    hints: Receiver<Hint>,
    counters: Arc<WatchCounters>,
    wake: Arc<std::os::fd::OwnedFd>,
    stopping: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

#[allow(clippy::disallowed_methods)] // the program starts this thread in another module
fn world(prepare: impl FnOnce(&Path)) -> World {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let (sender, hints) = bounded(limits::CLIENT_EVENTS);
    let (batches, read) = bounded(limits::EVENT_BATCHES);
    let counters = Arc::new(WatchCounters::default());
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
    let stopping = Arc::new(AtomicBool::new(false));
    let (path, seen, stop) = (dir.path().to_path_buf(), counters.clone(), wake.clone());
    let asked = stopping.clone();
    let thread = std::thread::spawn(move || {
        let ignore = ["ignored/".to_string()];
        let OpenedTree::Ready(tree) = DiskTree::open(&path, None, Uuid::new_v4(), &ignore, &[])?
        else {
            panic!("held")
        };
        let rescan = Duration::from_secs(3600);
        let debouncer = Debouncer {
            quiet: Duration::from_millis(50),
            rescan,
            hinted: &|hint| read_rules(&tree, hint, stop.as_fd()),
        };
        std::thread::scope(|scope| {
            let debouncer = &debouncer;
            scope.spawn(move || debouncer.run(&read, &sender));
            Watch {
                tree: &tree,
                rescan,
                counters: &seen,
                removed: &|| (),
                stopped: &|| asked.load(Relaxed),
            }
            .run(stop.as_fd(), &{ batches })
        })
    });
    let w = World {
        dir,
        hints,
        counters,
        wake,
        stopping,
        thread: Some(thread),
    };
    w.wait(&Hint::Tree(String::new()));
    w
}

impl World {
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The hints before this one.
    fn wait(&self, wanted: &Hint) -> Vec<Hint> {
        let mut before = Vec::new();
        loop {
            match self.hints.recv_timeout(Duration::from_secs(20)) {
                Ok(hint) if hint == *wanted => return before,
                Ok(hint) => before.push(hint),
                Err(e) => panic!("no {wanted:?}: {e}; but {before:?}"),
            }
        }
    }

    fn path(&self, path: &str) -> Vec<Hint> {
        self.wait(&Hint::Path(path.into()))
    }

    fn tree(&self, path: &str) -> Vec<Hint> {
        self.wait(&Hint::Tree(path.into()))
    }

    fn watched(&self) -> u64 {
        self.counters.watched.load(Relaxed)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stopping.store(true, Relaxed);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

#[test]
fn changes_anywhere_are_told() {
    let w = world(|root| {
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/e/old"), "x").unwrap();
    });
    assert_eq!(w.watched(), 3);
    fs::write(w.at("a"), "x").unwrap();
    w.path("a");
    fs::write(w.at("d/e/b"), "x").unwrap();
    w.path("d/e/b");
    crate::disk::rename(&w.at("d/e/b"), &w.at("d/c")).unwrap();
    w.path("d/c");
    w.path("d/e/b");
    fs::remove_file(w.at("d/e/old")).unwrap();
    w.path("d/e/old");
    // a second name gives no more than this
    crate::disk::link_or_copy(&w.at("a"), &w.at("link")).unwrap();
    w.path("link");
    rustix::fs::chmod(w.at("d/c"), rustix::fs::Mode::RWXU).unwrap();
    w.path("d/c");
    // the program's own names and ignored ones are not reported
    fs::write(w.at(&relpath::temporary(1)), "x").unwrap();
    fs::create_dir(w.at("ignored")).unwrap();
    fs::write(w.at("ignored/x"), "x").unwrap();
    fs::write(w.at(".mesync/x"), "x").unwrap();
    fs::write(w.at("last"), "x").unwrap();
    assert_eq!(w.path("last"), []);
}

#[test]
fn new_and_moved_directories_are_watched_where_they_are() {
    let w = world(|root| fs::create_dir_all(root.join("out/of")).unwrap());
    fs::create_dir_all(w.at("n/e/w")).unwrap();
    w.tree("n");
    fs::write(w.at("n/e/w/a"), "x").unwrap();
    w.path("n/e/w/a");
    assert_eq!(w.watched(), 6);
    crate::disk::rename(&w.at("n"), &w.at("m")).unwrap();
    // in either order
    if !w.tree("m").contains(&Hint::Tree("n".into())) {
        w.tree("n");
    }
    fs::write(w.at("m/e/w/b"), "x").unwrap();
    w.path("m/e/w/b");
    assert_eq!(w.watched(), 6);
    // moved out of the tree, with another one in its place
    let elsewhere = tempfile::tempdir_in(w.dir.path().parent().unwrap()).unwrap();
    crate::disk::rename(&w.at("m"), &elsewhere.path().join("m")).unwrap();
    w.tree("m");
    assert_eq!(w.watched(), 3);
    fs::write(elsewhere.path().join("m/e/w/c"), "x").unwrap();
    crate::disk::rename(&elsewhere.path().join("m/e"), &w.at("out/e")).unwrap();
    assert!(
        !w.tree("out/e")
            .iter()
            .any(|h| matches!(h, Hint::Path(p) if p.contains("/c")))
    );
    fs::write(w.at("out/e/w/d"), "x").unwrap();
    w.path("out/e/w/d");
    fs::remove_dir_all(w.at("out")).unwrap();
    w.tree("out");
    assert_eq!(w.watched(), 1);
}

#[test]
fn a_directory_that_is_no_longer_ignored_is_watched() {
    let w = world(|root| {
        fs::create_dir_all(root.join("out/of")).unwrap();
        fs::write(root.join(ignore::FILE), "out/\n").unwrap();
    });
    assert_eq!(w.watched(), 1);
    fs::write(w.at(ignore::FILE), "other/\n").unwrap();
    w.tree("");
    fs::write(w.at("out/of/x"), "x").unwrap();
    w.path("out/of/x");
    assert_eq!(w.watched(), 3);
}

#[test]
fn a_lost_root_is_said_and_asked_for_again() {
    let w = world(|_| {});
    fs::remove_dir_all(w.dir.path()).unwrap();
    w.tree("");
    assert_eq!((w.watched(), w.counters.unwatched.load(Relaxed)), (0, 1));
}

#[test]
fn many_changes_become_a_hint_for_the_directory() {
    let w = world(|root| fs::create_dir(root.join("d")).unwrap());
    for i in 0..1000 {
        fs::write(w.at(&format!("d/{i}")), "x").unwrap();
    }
    let paths = w.wait(&Hint::Entries("d".into()));
    assert!(paths.len() < 1000, "{} hints", paths.len());
}

#[test]
fn it_ends_when_the_receiver_is_gone() {
    let mut w = world(|_| {});
    let (_, none) = bounded(0);
    w.hints = none;
    // the first change ends `debounce`, a later one `inotify`
    let thread = w.thread.take().unwrap();
    while !thread.is_finished() {
        fs::write(w.at("a"), "x").unwrap();
        std::thread::yield_now();
    }
    assert!(thread.join().unwrap().is_ok());
    w.thread = Some(std::thread::Builder::new().spawn(|| Ok(())).unwrap());
}

#[test]
fn events_that_find_no_room_become_a_rescan_and_block_no_thread() {
    let (batches, read) = bounded(1);
    let dir = tempfile::tempdir().unwrap();
    let (wake, stopping) = (
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
        AtomicBool::new(false),
    );
    let OpenedTree::Ready(tree) =
        DiskTree::open(dir.path(), None, Uuid::new_v4(), &[], &[]).unwrap()
    else {
        panic!("held")
    };
    let counters = WatchCounters::default();
    let watch = Watch {
        tree: &tree,
        rescan: Duration::from_secs(3600),
        counters: &counters,
        removed: &|| (),
        stopped: &|| stopping.load(Relaxed),
    };
    let all = WatchEvent::Rescan(Hint::Tree(String::new()));
    std::thread::scope(|scope| {
        let inotify = scope.spawn(|| watch.run(wake.as_fd(), &batches));
        // the first rescan fills the channel
        while read.is_empty() {
            std::thread::yield_now();
        }
        // when the second one is watched, the first one has found no room; it is not below the first one, or it might be watched
        // with that
        for (n, name) in ["d", "e"].iter().enumerate() {
            fs::create_dir(dir.path().join(name)).unwrap();
            while counters.watched.load(Relaxed) < n as u64 + 2 {
                std::thread::yield_now();
            }
        }
        let first = read.recv().unwrap().seen;
        let sent = read.recv_timeout(Duration::from_secs(20));
        stopping.store(true, Relaxed);
        rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap();
        inotify.join().unwrap().unwrap();
        assert_eq!(first, std::slice::from_ref(&all));
        let sent = sent.unwrap().seen;
        assert_eq!(sent, [all], "in place of the events that found no room");
    });
}

#[test]
fn a_file_that_was_in_a_new_directory_before_it_was_watched_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let ignore = ["*.o".to_string()];
    let opened = DiskTree::open(dir.path(), None, Uuid::new_v4(), &ignore, &[]).unwrap();
    let OpenedTree::Ready(tree) = opened else {
        panic!("held")
    };
    let watch = Watch {
        tree: &tree,
        rescan: Duration::from_secs(3600),
        counters: &WatchCounters::default(),
        removed: &|| (),
        stopped: &|| false,
    };
    let (batches, _read) = bounded(1);
    let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut said = BTreeSet::new();
    let mut active = ActiveWatch::begin(&watch, wake.as_fd(), &batches, &mut said).unwrap();
    active.add("").unwrap();
    fs::create_dir_all(dir.path().join("new/below")).unwrap();
    for file in ["new/a", "new/below/b", "new/left.o"] {
        fs::write(dir.path().join(file), "x").unwrap();
    }
    let root = active.watches[""].clone();
    let created = EventMask::CREATE | EventMask::ISDIR;
    assert!(
        active
            .event(&root, created, Some("new".as_ref()))
            .unwrap()
            .is_none()
    );
    let mut seen: Vec<String> = active
        .seen
        .iter()
        .map(|event| format!("{event:?}"))
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            r#"Path("new", Tree)"#,
            r#"Path("new/a", Found)"#,
            r#"Path("new/below/b", Found)"#,
        ]
    );
}
