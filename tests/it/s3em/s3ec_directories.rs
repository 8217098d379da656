//! mesync's daemon beside that of the published `s3ec` 0.2.3, each with a directory, on a mesync
//! hub.
//!
//! Limits of `s3ec` apply here too: it receives no edit of a file that it has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime};

use crate::support::s3ec::{self, Theirs, latest, listing, streams, world};
use crate::support::world::{Machine, World, wait_for};

/// A mesync client with a directory.
struct Ours {
    machine: Machine,
    dir: PathBuf,
    daemon: Option<Child>,
}

impl Ours {
    fn new(world: &World) -> Ours {
        let mut machine = world.machine("ours");
        let key = world
            .hub_command()
            .args(["key", "add", "ours"])
            .output()
            .unwrap();
        machine.env.push((
            "MESYNC_API_KEY".into(),
            String::from_utf8(key.stdout).unwrap().trim().to_string(),
        ));
        let dir = world.dir.path().join("ours-dir");
        fs::create_dir(&dir).unwrap();
        Ours {
            machine,
            dir,
            daemon: None,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        self.machine
            .command(&[args, &["-w", self.dir.to_str().unwrap()]].concat())
    }

    #[track_caller]
    fn sync(&self) {
        let out = self.command(&["sync"]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    }

    fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.machine.base.with_extension("log"))
            .unwrap();
        self.daemon = Some(
            self.command(&["daemon", "-v", "--debounce", "20"])
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        visible(&self.dir)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
}

fn visible(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    s3ec::tree(dir)
        .into_iter()
        .filter(|(name, _)| !name.starts_with('.') && !name.contains("/."))
        .collect()
}

/// Creates a file atomically: s3ec would send half of a file that is still being written.
fn put(home: &Path, work: &Path, name: &str, content: &str) {
    let beside = home.join("beside");
    fs::write(&beside, content).unwrap();
    fs::rename(&beside, work.join(name)).unwrap();
}

fn of(wants: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    wants
        .iter()
        .map(|(name, content)| (name.to_string(), content.as_bytes().to_vec()))
        .collect()
}

/// The hub's revision has not moved for a while.
fn wait_for_rest(world: &World) {
    let (mut before, mut since) = (latest(world), Instant::now());
    wait_for("it comes to rest", world, || {
        let now = latest(world);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    });
}

#[test]
fn our_daemon_and_theirs_follow_each_other() {
    let world = world();
    let Some(mut theirs) = Theirs::new(&world, "theirs") else {
        return;
    };
    let mut ours = Ours::new(&world);
    let (home, work) = (theirs.home.clone(), theirs.work());
    fs::create_dir(work.join("sub")).unwrap();
    fs::write(work.join("sub/before"), "was there before").unwrap();
    theirs.start();
    wait_for("theirs listens", &world, || {
        streams(&world) == 1 && listing(&world).contains_key("sub/before")
    });
    ours.start();
    wait_for("both listen", &world, || streams(&world) == 2);
    let same = |what: &str, ours: &Ours, wants: &[(&str, &str)]| {
        wait_for(what, &world, || {
            ours.tree() == of(wants) && visible(&work) == of(wants)
        });
    };
    same(
        "what was there before",
        &ours,
        &[("sub/before", "was there before")],
    );
    fs::create_dir(ours.dir.join("d")).unwrap();
    fs::write(ours.dir.join("d/a"), "by ours").unwrap();
    same(
        "a file of ours",
        &ours,
        &[("d/a", "by ours"), ("sub/before", "was there before")],
    );
    put(&home, &work, "b", "by theirs");
    same(
        "a file of theirs",
        &ours,
        &[
            ("b", "by theirs"),
            ("d/a", "by ours"),
            ("sub/before", "was there before"),
        ],
    );
    wait_for_rest(&world);

    put(&home, &work, "b", "by theirs, edited");
    same(
        "their edit",
        &ours,
        &[
            ("b", "by theirs, edited"),
            ("d/a", "by ours"),
            ("sub/before", "was there before"),
        ],
    );
    put(&home, &work, "d/a", "by ours, edited by theirs");
    let edited = [
        ("b", "by theirs, edited"),
        ("d/a", "by ours, edited by theirs"),
        ("sub/before", "was there before"),
    ];
    same("their edit of ours", &ours, &edited);

    fs::remove_file(ours.dir.join("d/a")).unwrap();
    same(
        "our delete",
        &ours,
        &[
            ("b", "by theirs, edited"),
            ("sub/before", "was there before"),
        ],
    );
    fs::remove_file(work.join("sub/before")).unwrap();
    same("their delete", &ours, &[("b", "by theirs, edited")]);
    fs::rename(ours.dir.join("b"), ours.dir.join("c")).unwrap();
    same("our rename", &ours, &[("c", "by theirs, edited")]);
    // deleted and made again with the same bytes; the guard would not let the last file go
    fs::write(ours.dir.join("other"), "other").unwrap();
    same(
        "another one",
        &ours,
        &[("c", "by theirs, edited"), ("other", "other")],
    );
    wait_for_rest(&world);
    fs::remove_file(ours.dir.join("c")).unwrap();
    same("our delete of it", &ours, &[("other", "other")]);
    // it passes on every delete, those that it was told of too, and would take away what has come since
    wait_for("their echo", &world, || {
        fs::read_to_string(home.with_extension("log"))
            .unwrap()
            .contains("No remote file found for deleted local file: c")
    });
    fs::write(ours.dir.join("c"), "by theirs, edited").unwrap();
    let wants = [("c", "by theirs, edited"), ("other", "other")];
    same("it is there again", &ours, &wants);
    wait_for_rest(&world);
    assert_eq!((ours.tree(), visible(&work)), (of(&wants), of(&wants)));
}

/// It takes no edit of a file that it has, so its copy is stale, and it sends that again whenever it starts.
#[test]
fn a_stale_copy_of_theirs_does_not_undo_our_edit() {
    let world = world();
    let Some(mut theirs) = Theirs::new(&world, "theirs") else {
        return;
    };
    let mut ours = Ours::new(&world);
    for name in ["f", "g"] {
        let path = ours.dir.join(name);
        fs::write(&path, "first").unwrap();
        // theirs keeps whole seconds
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789))
            .unwrap();
    }
    ours.sync();
    theirs.ok(&["sync", "-w", "."]);
    assert_eq!(
        visible(&theirs.work()),
        of(&[("f", "first"), ("g", "first")])
    );
    fs::write(ours.dir.join("f"), "ours, and longer").unwrap();
    ours.sync();
    theirs.ok(&["sync", "-w", "."]);
    ours.sync();
    let wants = of(&[("f", "ours, and longer"), ("g", "first")]);
    assert_eq!(ours.tree(), wants);

    ours.start();
    theirs.start();
    wait_for("both listen", &world, || streams(&world) == 2);
    wait_for_rest(&world);
    assert_eq!(
        (ours.tree(), listing(&world)["f"]["size"].as_u64()),
        (wants, Some(16))
    );
    // an edit that it makes itself counts
    put(
        &theirs.home,
        &theirs.work(),
        "f",
        "theirs, knowing nothing of ours",
    );
    wait_for("their edit", &world, || {
        ours.tree()["f"] == b"theirs, knowing nothing of ours"
    });
}

/// Its login file and its directory are all that a change of the program needs.
#[test]
fn a_login_and_a_directory_of_theirs_are_taken_over_without_sending_again() {
    let world = world();
    let Some(theirs) = Theirs::new(&world, "theirs") else {
        return;
    };
    let (home, work) = (theirs.home.clone(), theirs.work());
    fs::create_dir(work.join("sub")).unwrap();
    let wants = [("a", "first"), ("sub/b", "second"), ("sub/c", "third")];
    for (name, content) in wants {
        fs::write(work.join(name), content).unwrap();
    }
    theirs.ok(&["sync", "-w", "."]);
    assert_eq!(visible(&work), of(&wants));
    let sent = latest(&world);

    let ours = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_mesync"))
            .args(args)
            .current_dir(&work)
            .env_clear()
            .env("HOME", &home)
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    ours(&["sync", "-w", "."]);
    assert_eq!(latest(&world), sent, "something was sent again");
    assert_eq!(visible(&work), of(&wants));
    assert!(ours(&["ls"]).contains("sub/b"));

    // and from then on its edits are sent, once
    fs::write(work.join("a"), "edited").unwrap();
    ours(&["sync", "-w", "."]);
    assert_eq!(latest(&world), sent + 1);
    ours(&["sync", "-w", "."]);
    assert_eq!(latest(&world), sent + 1);
}
