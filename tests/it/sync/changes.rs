//! What is done in one synced directory is done in the others: by daemons and by single passes, with a real hub between.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use crate::support::files::{Hub, noise};
use crate::support::tree::{Synced, Tree, difference, records, rev, settled};
use crate::support::world::wait_for;

/// Two machines, and the path of a change from one to the other.
pub(super) struct Pair {
    pub(super) hub: Hub,
    pub(super) alpha: Synced,
    pub(super) beta: Synced,
    pub(super) daemons: bool,
}

impl Pair {
    pub(super) fn new(daemons: bool) -> Pair {
        let hub = Hub::start();
        let (alpha, beta) = (
            Synced::new(&hub.world, "alpha"),
            Synced::new(&hub.world, "beta"),
        );
        let mut pair = Pair {
            hub,
            alpha,
            beta,
            daemons,
        };
        if daemons {
            pair.start();
        }
        pair
    }

    pub(super) fn start(&mut self) {
        self.alpha.start();
        self.beta.start();
        self.settle();
    }

    pub(super) fn stop(&mut self) {
        self.alpha.stop();
        self.beta.stop();
    }

    /// Both are in sync with the hub, and equal.
    #[track_caller]
    pub(super) fn settle(&self) -> Tree {
        if self.daemons {
            return settled(&self.hub.world, &[&self.alpha, &self.beta]);
        }
        for machine in [&self.alpha, &self.beta, &self.alpha] {
            machine.pass();
        }
        let (a, b) = (self.alpha.tree().unwrap(), self.beta.tree().unwrap());
        assert_eq!(difference(&a, &b), "");
        a
    }
}

/// Does one thing after the other on a machine, alpha and beta in turns, and looks at the other.
pub(super) fn both_ways(check: impl Fn(&Pair)) {
    for daemons in [true, false] {
        println!("{}", if daemons { "daemons" } else { "passes" });
        check(&Pair::new(daemons));
    }
}

#[test]
fn each_change_of_a_file_arrives() {
    both_ways(|pair| {
        let (a, b) = (&pair.alpha, &pair.beta);
        // enough that no delete below is one of a quarter
        (0..40).for_each(|n| a.put(format!("ballast/{n}"), format!("{n}")));
        let arrives = |what: &str, from: &Synced, act: &dyn Fn(), arrived: &dyn Fn() -> bool| {
            act();
            if pair.daemons {
                wait_for(what, &pair.hub.world, arrived);
            }
            pair.settle();
            assert!(arrived(), "{what}, from {}", from.machine.name);
        };
        arrives("create", a, &|| a.put("f", "one"), &|| b.text("f") == "one");
        arrives("edit", b, &|| b.put("f", "two"), &|| a.text("f") == "two");
        arrives("chmod alone", a, &|| a.chmod("f", 0o750), &|| {
            b.mode("f") == 0o750
        });
        arrives("chmod back", b, &|| b.chmod("f", 0o400), &|| {
            a.mode("f") == 0o400
        });
        arrives("rename", a, &|| a.rename("f", "g"), &|| {
            b.text("g") == "two" && !b.has("f")
        });
        arrives(
            "rename into a new directory",
            b,
            &|| (b.put("d/e/x", "x"), b.rename("g", "d/e/g")).1,
            &|| a.text("d/e/g") == "two",
        );
        arrives("rename of a directory", a, &|| a.rename("d", "c"), &|| {
            b.text("c/e/g") == "two" && !b.has("d")
        });
        arrives("delete", b, &|| b.remove("c/e/g"), &|| !a.has("c/e/g"));
        arrives(
            "directory with its files",
            a,
            &|| fs::remove_dir_all(a.at("c")).unwrap(),
            &|| !b.has("c"),
        );
        arrives("three deep", a, &|| a.put("s/t/u/x", "x"), &|| {
            b.text("s/t/u/x") == "x"
        });
        let two_go = || fs::remove_dir_all(a.at("s/t")).unwrap();
        arrives("what two of three leave empty", a, &two_go, &|| {
            b.at("s").is_dir() && !b.has("s/t")
        });
        arrives("empty file", a, &|| a.put("empty", ""), &|| {
            b.text("empty").is_empty()
        });
        arrives(
            "empty directory",
            a,
            &|| fs::create_dir_all(a.at("e/mpty")).unwrap(),
            &|| b.at("e/mpty").is_dir(),
        );
        arrives("its mode", a, &|| a.chmod("e/mpty", 0o700), &|| {
            b.mode("e/mpty") == 0o700
        });
        arrives(
            "its end",
            b,
            &|| fs::remove_dir(b.at("e/mpty")).unwrap(),
            &|| !a.has("e/mpty"),
        );
        arrives("dot files", a, &|| a.put(".config/.x", "x"), &|| {
            b.text(".config/.x") == "x"
        });
        arrives(
            "deep directories",
            b,
            &|| b.put("1/2/3/4/5/6/7/8/9/f", "deep"),
            &|| a.text("1/2/3/4/5/6/7/8/9/f") == "deep",
        );
        arrives(
            "file emptied",
            a,
            &|| a.put("1/2/3/4/5/6/7/8/9/f", ""),
            &|| b.text("1/2/3/4/5/6/7/8/9/f").is_empty(),
        );
        let link = |s: &Synced, to: &str, name: &str| symlink(to, s.at(name)).unwrap();
        let leads = |s: &Synced, to: &str, name: &str| {
            fs::read_link(s.at(name)).is_ok_and(|t| t == std::path::Path::new(to))
        };
        arrives("dangling link", a, &|| link(a, "no/such", "l"), &|| {
            leads(b, "no/such", "l")
        });
        arrives("link to a directory", b, &|| link(b, "1", "dir"), &|| {
            leads(a, "1", "dir")
        });
        arrives(
            "link out of the directory",
            a,
            &|| link(a, "/etc", "etc"),
            &|| leads(b, "/etc", "etc"),
        );
        let retarget = || (b.remove("l"), link(b, "else/where", "l")).1;
        arrives("link that leads elsewhere", b, &retarget, &|| {
            leads(a, "else/where", "l")
        });
        arrives(
            "link that becomes a file",
            a,
            &|| (a.remove("l"), a.put("l", "file")).1,
            &|| b.text("l") == "file",
        );
        arrives(
            "hard link",
            a,
            &|| fs::hard_link(a.at("l"), a.at("l2")).unwrap(),
            &|| b.text("l2") == "file",
        );
        arrives(
            "one of two hard links deleted",
            b,
            &|| b.remove("l"),
            &|| !a.has("l") && a.text("l2") == "file",
        );
        arrives(
            "file that becomes a directory",
            a,
            &|| (a.remove("l2"), a.put("l2/x", "in it")).1,
            &|| b.text("l2/x") == "in it",
        );
        let back = || {
            (
                fs::remove_dir_all(b.at("l2")).unwrap(),
                b.put("l2", "a file again"),
            )
                .1
        };
        arrives("directory that becomes a file", b, &back, &|| {
            a.text("l2") == "a file again"
        });
        let outside = pair.hub.world.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir_all(outside.join("m/n")).unwrap();
        fs::write(outside.join("m/n/f"), "moved in").unwrap();
        arrives(
            "directory moved in",
            a,
            &|| fs::rename(outside.join("m"), a.at("m")).unwrap(),
            &|| b.text("m/n/f") == "moved in",
        );
        arrives(
            "directory moved out",
            b,
            &|| fs::rename(b.at("m"), outside.join("m")).unwrap(),
            &|| !a.has("m"),
        );
        for name in records(&pair.hub).keys() {
            assert!(
                !name.contains("sync-conflict")
                    && !name.starts_with("dir/")
                    && !name.starts_with("etc/"),
                "{name}"
            );
        }
    });
}

#[test]
fn a_touch_moves_no_bytes_and_an_editors_save_is_one_upload() {
    let mut pair = Pair::new(false);
    let (a, b) = (&pair.alpha, &pair.beta);
    a.put("f", "one");
    a.put("g", noise(1, 300_000));
    pair.settle();
    let hour = SystemTime::now() - Duration::from_secs(3600);
    for name in ["f", "g"] {
        fs::File::options()
            .write(true)
            .open(a.at(name))
            .unwrap()
            .set_modified(hour)
            .unwrap();
    }
    let said = a.pass();
    assert_eq!(
        (&said["sent"], &said["bytes_sent"]),
        (&2.into(), &0.into()),
        "{said}"
    );
    assert_eq!(b.pass()["bytes_received"], 0);
    assert_eq!(b.at("g").metadata().unwrap().modified().unwrap(), hour);
    a.chmod("g", 0o640);
    let said = a.pass();
    assert_eq!(
        (&said["sent"], &said["bytes_sent"]),
        (&1.into(), &0.into()),
        "{said}"
    );
    assert_eq!(b.pass()["bytes_received"], 0);
    assert_eq!(b.mode("g"), 0o640);
    pair.daemons = true;
    pair.start();
    let (a, b, hub) = (&pair.alpha, &pair.beta, &pair.hub);
    let revs = |name: &str| {
        hub.get(&format!(
            "/api/files/{}/versions",
            records(hub)[name]["id"].as_str().unwrap()
        ))
        .json()
    };
    let versions = revs("f").as_array().map_or(0, Vec::len);
    a.save("f", "two");
    wait_for("the saved file arrives", &hub.world, || {
        b.text("f") == "two"
    });
    pair.settle();
    assert_eq!(
        revs("f").as_array().map_or(0, Vec::len),
        versions + 1,
        "{}",
        revs("f")
    );
    assert!(
        records(hub).keys().all(|n| !n.contains('~')),
        "{:?}",
        records(hub).keys()
    );
    let at = rev(hub, "f");
    fs::File::options()
        .write(true)
        .open(a.at("f"))
        .unwrap()
        .set_modified(hour)
        .unwrap();
    wait_for("the time arrives", &hub.world, || {
        b.at("f").metadata().unwrap().modified().unwrap() == hour
    });
    pair.settle();
    assert_eq!(
        rev(hub, "f"),
        at + 1,
        "a touch is one change, and nothing comes back"
    );
}

#[test]
fn changes_made_while_a_daemon_was_down_are_synced_when_it_starts() {
    let mut pair = Pair::new(true);
    let a = &pair.alpha;
    for n in 0..30 {
        a.put(format!("d{}/f{n}", n % 3), format!("{n}"));
    }
    wait_for("all arrive", &pair.hub.world, || pair.beta.has("d2/f29"));
    pair.settle();
    pair.stop();
    let (a, b) = (&pair.alpha, &pair.beta);
    a.put("d0/f0", "edited on alpha");
    b.put("d0/f3", "edited on beta");
    a.remove("d1/f1");
    b.remove("d1/f4");
    a.put("d2/f2", "alpha's version");
    b.put("d2/f2", "beta's version");
    a.put("new", "alpha's new file");
    b.put("new", "beta's new file");
    for s in [a, b] {
        s.put("same", "equal");
        // a difference of times alone would stay
        fs::File::options()
            .write(true)
            .open(s.at("same"))
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
    }
    // deleted on one, edited on the other: the edit stays
    a.remove("d0/f6");
    b.put("d0/f6", "edited");
    // deleted on both
    a.remove("d0/f9");
    b.remove("d0/f9");
    b.chmod("d2/f5", 0o600);
    a.put("d2/f5", "content and mode");
    fs::set_permissions(a.at("d2/f8"), fs::Permissions::from_mode(0o751)).unwrap();
    pair.start();
    let (a, b) = (&pair.alpha, &pair.beta);
    wait_for("both versions are on both", &pair.hub.world, || {
        [a, b].iter().all(|s| {
            s.contents("f2")
                .iter()
                .filter(|t| t.contains("version"))
                .count()
                == 2
                && s.contents("new").len() == 2
        })
    });
    pair.settle();
    for s in [a, b] {
        let text = |path: &str| s.text(path);
        assert_eq!(
            (text("d0/f0"), text("d0/f3"), text("d0/f6")),
            (
                "edited on alpha".into(),
                "edited on beta".into(),
                "edited".into()
            )
        );
        assert!(
            ["d1/f1", "d1/f4", "d0/f9"].iter().all(|path| !s.has(path)),
            "{:?}",
            s.names()
        );
        assert_eq!(
            (text("d2/f5"), s.mode("d2/f5"), s.mode("d2/f8")),
            ("content and mode".into(), 0o600, 0o751)
        );
        assert_eq!(s.contents("same"), ["equal"]);
        let copies = s
            .names()
            .iter()
            .filter(|n| n.contains(".sync-conflict-"))
            .count();
        assert_eq!(copies, 2, "{:?}", s.names());
    }
    // nothing is sent back
    pair.stop();
    pair.start();
    assert!(
        ["d1/f1", "d1/f4", "d0/f9"]
            .iter()
            .all(|path| !pair.alpha.has(path) && !pair.beta.has(path))
    );
    let conflicts =
        pair.alpha
            .machine
            .ok(&["conflicts", pair.alpha.dir.to_str().unwrap(), "--json"]);
    assert_eq!(conflicts.lines().count(), 2, "{conflicts}");
}

#[test]
fn a_file_against_a_directory_ends_with_both() {
    let mut pair = Pair::new(true);
    pair.stop();
    pair.alpha.put("x", "a file");
    pair.beta.put("x/y", "in a directory");
    pair.start();
    for s in [&pair.alpha, &pair.beta] {
        assert_eq!(
            (s.text("x/y"), s.contents("sync-conflict")),
            ("in a directory".into(), vec!["a file".to_string()])
        );
    }
}

#[test]
fn three_machines_end_equal_whichever_was_down() {
    let hub = Hub::start();
    let names = ["alpha", "beta", "gamma"];
    let mut all: Vec<Synced> = names
        .iter()
        .map(|name| Synced::new(&hub.world, name))
        .collect();
    for (n, machine) in all.iter_mut().enumerate() {
        machine.put(format!("of/{n}"), format!("from {n}"));
        machine.put("shared", format!("version {n}"));
        machine.start();
    }
    wait_for("all three versions are everywhere", &hub.world, || {
        all.iter().all(|s| s.contents("shared").len() == 3)
    });
    settled(&hub.world, &all.iter().collect::<Vec<_>>());
    for off in 0..3 {
        all[off].stop();
        let (on, other) = (&all[(off + 1) % 3], &all[(off + 2) % 3]);
        on.rename(&format!("of/{off}"), &format!("of/{off} moved"));
        on.put("shared", format!("while {off} was off"));
        wait_for("the other has it", &hub.world, || {
            other.text("shared") == format!("while {off} was off")
        });
        // known to no other machine when it is restored
        all[off].put(format!("of/{off}"), "edited meanwhile");
        all[off].start();
        let edited = |s: &Synced| s.contents("of/").contains(&"edited meanwhile".to_string());
        wait_for("the edit is everywhere", &hub.world, || {
            all.iter().all(edited)
        });
        let tree = settled(&hub.world, &all.iter().collect::<Vec<_>>());
        assert_eq!(
            all[off]
                .contents("of/")
                .iter()
                .filter(|text| **text == format!("from {off}"))
                .count(),
            1,
            "{:?}",
            tree.keys()
        );
        all[off].remove(format!("of/{off}"));
        wait_for("it is gone everywhere", &hub.world, || {
            all.iter().all(|s| !s.has(format!("of/{off}")))
        });
    }
}
