//! A problem of one directory does not affect the others: emptied by mistake, unreadable, replaced,
//! unmounted, full. Nothing is deleted elsewhere beyond the guard, and `status` names the problem.

use std::fs;
use std::path::Path;

use crate::support::files::Hub;
use crate::support::tree::{Synced, records, settled};
use crate::support::world::wait_for;

pub(super) const FILES: usize = 40;
/// What the guard lets through of so many.
const LET_THROUGH: usize = 10;

/// Two machines in sync over some files.
struct Pair {
    hub: Hub,
    alpha: Synced,
    beta: Synced,
}

impl Pair {
    fn new(files: usize) -> Pair {
        let hub = Hub::start();
        let (alpha, beta) = (
            Synced::new(&hub.world, "alpha"),
            Synced::new(&hub.world, "beta"),
        );
        for n in 0..files {
            alpha.put(format!("d{}/f{n:02}", n % 4), format!("content {n}"));
        }
        let mut pair = Pair { hub, alpha, beta };
        pair.alpha.start();
        pair.beta.start();
        pair.wait("all have arrived", |p| p.beta.files() == files);
        settled(&pair.hub.world, &[&pair.alpha, &pair.beta]);
        pair
    }

    #[track_caller]
    fn wait(&self, what: &str, is_true: impl Fn(&Pair) -> bool) {
        wait_for(what, &self.hub.world, || is_true(self));
    }

    /// A change of beta arrives on the hub; until then alpha has done nothing about its missing
    /// files.
    #[track_caller]
    fn nothing_is_deleted(&self, files: usize) {
        let probe = format!("probe{}", self.beta.names().len());
        self.beta.put(&probe, "x");
        self.wait("beta goes on", |p| records(&p.hub).contains_key(&probe));
        let live = records(&self.hub)
            .values()
            .filter(|r| r["kind"] == "file")
            .count();
        assert!(live > files, "{live} files are left on the hub");
        assert!(
            self.beta.files() > files,
            "{:?}\n{}",
            self.beta.names(),
            self.hub.world.logs()
        );
    }
}

impl Synced {
    pub(super) fn files(&self) -> usize {
        let tree = std::iter::repeat_with(|| self.tree())
            .flatten()
            .next()
            .unwrap();
        tree.values().filter(|v| v.starts_with("file")).count()
    }

    fn held(&self) -> u64 {
        self.status()["held_deletes"].as_u64().unwrap_or(0)
    }

    fn approve(&self) -> String {
        self.machine.ok(&["approve", self.dir.to_str().unwrap()])
    }
}

/// Deletes the content of a directory, except mesync's own files.
fn empty(dir: &Path) {
    for entry in fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(|e| e.file_name() != ".mesync")
    {
        let removed = if entry.path().is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        removed.unwrap();
    }
}

#[test]
fn a_directory_emptied_by_mistake_empties_no_other() {
    let pair = Pair::new(FILES);
    empty(&pair.alpha.dir);
    pair.wait("the deletes are held, all of them", |p| {
        p.alpha.held() == FILES as u64
    });
    pair.nothing_is_deleted(FILES);
    assert!(
        pair.alpha.problems().contains("approve") && pair.alpha.condition() == "stuck",
        "{}",
        pair.alpha.status()
    );
    // the hub has them still: they come back by being asked for
    let listed = pair
        .alpha
        .machine
        .ok(&["approve", "--dry-run", pair.alpha.dir.to_str().unwrap()]);
    assert_eq!(listed.lines().count(), FILES, "{listed}");
    assert!(pair.alpha.held() > 0);
    // it was meant
    pair.wait("the hub has them no more", |p| {
        if p.alpha.held() > 0 {
            p.alpha.approve();
        }
        records(&p.hub)
            .values()
            .filter(|r| r["kind"] == "file")
            .count()
            <= 1
    });
    // the other machine has a guard of its own
    pair.wait("beta holds them, all of them", |p| {
        p.beta.held() == FILES as u64
    });
    assert!(pair.beta.files() > FILES);
    // exactly those that were listed: more may come
    pair.wait("they are gone on beta", |p| {
        if p.beta.held() > 0 {
            p.beta.approve();
        }
        p.beta.files() <= 1
    });
    let kept = pair.beta.trash().len();
    assert!(kept >= FILES, "{kept} of them are in the trash");
}

#[test]
fn only_deletes_of_the_list_are_approved() {
    let mut pair = Pair::new(FILES);
    let dir = pair.alpha.dir.to_str().unwrap().to_string();
    // while it is stopped, so that the deletes are one burst
    let remove = |alpha: &mut Synced, paths: &[String]| {
        alpha.stop();
        alpha.configure("max_deletes = 0\nmax_delete_share = 0");
        paths.iter().for_each(|path| alpha.remove(path));
        alpha.start();
    };
    let names = |range: std::ops::Range<usize>| -> Vec<String> {
        range.map(|n| format!("d{}/f{n:02}", n % 4)).collect()
    };
    let list = |p: &Pair| {
        p.alpha
            .machine
            .ok(&["approve", &dir, "--dry-run", "--json"])
    };
    remove(&mut pair.alpha, &names(0..20));
    pair.wait("the deletes are held", |p| p.alpha.held() == 20);
    let first = list(&pair);
    // a file of the list is put back, edited, and deleted again: that is another delete
    let (again, kept) = (&names(0..1)[0], &names(1..2)[0]);
    pair.alpha.put(again, "edited");
    pair.wait("the edit has arrived", |p| p.beta.text(again) == "edited");
    let later = [names(20..25), vec![again.clone()]].concat();
    remove(&mut pair.alpha, &later);
    pair.wait("the later ones are held too", |p| p.alpha.held() == 25);
    // a line is removed from the list
    let lines: Vec<&str> = first.lines().filter(|l| !l.contains(kept)).collect();
    assert_eq!(lines.len(), 19, "{first}");
    let file = pair.hub.world.dir.path().join("list");
    let file = file.to_str().unwrap();
    fs::write(file, lines.join("\n")).unwrap();
    let said = pair.alpha.machine.ok(&["approve", &dir, "--listed", file]);
    assert_eq!(said.trim(), "18 deletes approved");
    pair.wait("they are deleted", |p| {
        let left = records(&p.hub);
        p.alpha.held() == 7 && !names(2..20).iter().any(|path| left.contains_key(path))
    });
    for path in later.iter().chain([kept]) {
        assert!(records(&pair.hub).contains_key(path), "{path}");
    }
    fs::write(file, kept).unwrap();
    let out = pair.alpha.machine.run(&["approve", &dir, "--listed", file]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
}

#[test]
fn a_directory_has_limits_for_deletes_of_its_own() {
    let mut pair = Pair::new(FILES);
    let remove = |p: &Pair, names: std::ops::Range<usize>| {
        names.for_each(|n| p.alpha.remove(format!("d{}/f{n:02}", n % 4)));
    };
    let on_hub = |p: &Pair| {
        records(&p.hub)
            .values()
            .filter(|r| r["kind"] == "file")
            .count()
    };
    let start = |machine: &mut Synced, lines: &str| {
        machine.stop();
        machine.configure(lines);
        machine.start();
    };
    start(&mut pair.alpha, "max_deletes = 2\nmax_delete_share = 0");
    settled(&pair.hub.world, &[&pair.alpha, &pair.beta]);
    remove(&pair, 0..2);
    pair.wait("two are gone", |p| p.beta.files() == FILES - 2);
    remove(&pair, 2..3);
    pair.wait("the third is held", |p| p.alpha.held() == 1);
    assert_eq!(on_hub(&pair), FILES - 2);
    // without a guard, also the last file may be deleted
    let (status, said) = {
        pair.alpha.stop();
        pair.alpha.configure("max_delete_share = 100");
        remove(&pair, 3..FILES);
        pair.alpha.try_pass(&[])
    };
    assert!(status == 0 && said["held_deletes"] == 0, "{said}");
    assert_eq!(on_hub(&pair), 0);
    // the other machine has its own limits
    pair.wait("beta holds them", |p| p.beta.held() > LET_THROUGH as u64);
    start(&mut pair.beta, "max_delete_share = 100");
    pair.wait("they are gone on beta", |p| p.beta.files() == 0);
}

#[test]
fn deletes_one_by_one_are_counted_together() {
    let pair = Pair::new(FILES);
    let mut gone = 0;
    for n in 0..FILES {
        let path = format!("d{}/f{n:02}", n % 4);
        pair.alpha.remove(&path);
        pair.wait("it is gone on the hub, or held", |p| {
            p.alpha.held() > 0 || !records(&p.hub).contains_key(&path)
        });
        if pair.alpha.held() > 0 {
            break;
        }
        gone += 1;
    }
    assert_eq!(gone, LET_THROUGH, "{}", pair.alpha.status());
    pair.nothing_is_deleted(FILES - LET_THROUGH);
}

#[test]
fn many_deletes_while_off_are_held_by_a_pass_too() {
    let mut pair = Pair::new(FILES);
    pair.alpha.stop();
    for n in 0..LET_THROUGH + 5 {
        pair.alpha.remove(format!("d{}/f{n:02}", n % 4));
    }
    let (status, said) = pair.alpha.try_pass(&[]);
    assert!(
        status != 0 && said["held_deletes"] == 15 && said["deleted"] == 0,
        "{status} {said}"
    );
    assert!(
        pair.alpha.told(&["--dry-run"]).contains("held"),
        "{}",
        pair.alpha.told(&["--dry-run"])
    );
    assert!(
        pair.alpha.told(&[]).contains("15 deletes held"),
        "{}",
        pair.alpha.told(&[])
    );
    pair.nothing_is_deleted(FILES);
    // the listed deletes are approved, later ones are not
    pair.alpha.approve();
    for n in 15..FILES {
        pair.alpha.remove(format!("d{}/f{n:02}", n % 4));
    }
    let (_, said) = pair.alpha.try_pass(&[]);
    assert!(
        said["deleted"] == 15 && said["held_deletes"] == 25,
        "{said}"
    );
    let (status, said) = pair.alpha.try_pass(&["--allow-deletes"]);
    assert!(status == 0 && said["deleted"] == 25, "{status} {said}");
}

#[test]
fn a_few_files_may_be_deleted_but_not_all() {
    let pair = Pair::new(3);
    pair.alpha.remove("d0/f00");
    pair.wait("one goes", |p| p.beta.files() == 2);
    empty(&pair.alpha.dir);
    pair.wait("the rest is held", |p| p.alpha.held() > 0);
    assert_eq!(pair.beta.files(), 2);
}

#[test]
fn an_unreadable_directory_is_not_gone() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    if !alpha.run_as_nobody(&hub.world) {
        return;
    }
    beta.start();
    for n in 0..8 {
        beta.put(format!("closed/deep/f{n}"), format!("{n}"));
    }
    beta.put("open", "x");
    alpha.start();
    wait_for("all arrive", &hub.world, || {
        alpha.has("closed/deep/f7") && alpha.has("open")
    });
    settled(&hub.world, &[&alpha, &beta]);
    alpha.chmod("closed/deep", 0);
    for round in 0..2 {
        // a change that is told, and a whole look at the start
        fs::write(alpha.at("open"), format!("{round}")).unwrap();
        wait_for("the rest goes on", &hub.world, || {
            beta.text("open") == format!("{round}")
        });
        wait_for("it is named", &hub.world, || {
            alpha.status().to_string().contains("closed/deep")
        });
        assert_eq!((beta.files(), beta.text("closed/deep/f7")), (9, "7".into()));
        alpha.machine.stop();
        alpha.start();
    }
    alpha.machine.kill();
    let said = alpha.try_pass(&[]);
    assert!(
        said.0 != 0 && said.1.to_string().contains("closed/deep"),
        "{said:?}"
    );
    // a file below it that others change waits, and is applied when the directory can be read again
    beta.put("closed/deep/f0", "changed");
    alpha.start();
    fs::write(alpha.at("open"), "again").unwrap();
    wait_for("the rest goes on", &hub.world, || {
        beta.text("open") == "again"
    });
    alpha.chmod("closed/deep", 0o755);
    wait_for("what was changed arrives", &hub.world, || {
        alpha.text("closed/deep/f0") == "changed"
    });
    settled(&hub.world, &[&alpha, &beta]);
}

/// Each way in which a root is not what it was.
#[test]
fn a_replaced_root_is_held_until_it_is_adopted() {
    let moved = |dir: &Path| fs::rename(dir, dir.with_extension("moved")).unwrap();
    type Spoil<'a> = &'a dyn Fn(&Path);
    let replaced_by_a_file: Spoil = &|dir| (moved(dir), fs::write(dir, "a file").unwrap()).1;
    let replaced_by_another: Spoil = &|dir| (moved(dir), fs::create_dir(dir).unwrap()).1;
    let gone: Spoil = &moved;
    let emptied_with_marker: Spoil = &|dir| {
        (
            fs::remove_dir_all(dir).unwrap(),
            fs::create_dir(dir).unwrap(),
        )
            .1
    };
    let only_marker: Spoil = &|dir| fs::remove_dir_all(dir.join(".mesync")).unwrap();
    let ways = [
        ("a file", replaced_by_a_file),
        ("another directory", replaced_by_another),
        ("gone", gone),
        ("removed and made again", emptied_with_marker),
        ("no marker", only_marker),
    ];
    let mut pair = Pair::new(12);
    for (n, (way, spoil)) in ways.into_iter().enumerate() {
        println!("{way}");
        let off = n % 2 == 1;
        if off {
            pair.alpha.stop();
        }
        spoil(&pair.alpha.dir);
        if off {
            pair.alpha.start();
        }
        let said = |p: &Pair| {
            ["held", "failed"].contains(&p.alpha.condition().as_str())
                && p.alpha.problems().len() > 10
        };
        // as a file it is no directory to name in the settings: the daemon refuses to start with it
        pair.wait("it is held", |p| said(p));
        let before = pair.beta.files() - 1;
        pair.nothing_is_deleted(before);
        assert!(pair.alpha.is_alive(), "{way}: {}", pair.alpha.machine.log());
        let dir = &pair.alpha.dir;
        if !dir.is_dir() {
            let _ = fs::remove_file(dir);
            fs::create_dir(dir).unwrap();
        }
        pair.alpha.machine.ok(&["adopt", dir.to_str().unwrap()]);
        let files = pair.beta.files();
        pair.wait("all of it comes back", |p| {
            p.alpha.files() == files && p.alpha.condition() == "in-sync"
        });
        settled(&pair.hub.world, &[&pair.alpha, &pair.beta]);
        let _ = fs::remove_dir_all(pair.alpha.dir.with_extension("moved"));
    }
}

impl Synced {
    fn is_alive(&self) -> bool {
        Path::new(&format!("/proc/{}", self.machine.pid())).exists()
    }
}

/// What waits for something that is held waits for a person: a pass says so and ends.
#[test]
fn a_pass_ends_though_something_waits_for_a_held_delete() {
    let hub = Hub::start();
    let alpha = Synced::new(&hub.world, "alpha");
    (0..20).for_each(|n| alpha.put(format!("f{n:02}"), format!("content {n}")));
    alpha.put("d", "a file");
    alpha.pass();
    (0..14).for_each(|n| alpha.remove(format!("f{n:02}")));
    alpha.remove("d");
    alpha.put("d/x", "a file stood here");
    let (status, said) = alpha.try_pass(&[]);
    assert_eq!(
        (status, &said["held_deletes"], &said["remaining"]),
        (1, &15.into(), &16.into()),
        "{said}"
    );
    alpha.approve();
    alpha.pass();
    let live: Vec<String> = records(&hub)
        .into_iter()
        .filter(|(_, r)| r["kind"] == "file")
        .map(|(path, _)| path)
        .collect();
    assert_eq!(live.len(), 7, "{live:?}");
    assert!(
        live.contains(&"d/x".to_string()) && !live.contains(&"d".to_string()),
        "{live:?}"
    );
}

#[test]
fn an_ignore_rule_for_everything_is_taken_back_from_any_machine() {
    let pair = Pair::new(2);
    let text =
        |side: &Synced| fs::read_to_string(side.dir.join(".mesyncignore")).unwrap_or_default();
    pair.alpha.put(".mesyncignore", "*\n");
    pair.wait("beta has the rule", |p| text(&p.beta) == "*\n");
    pair.beta.put("new", "left out");
    pair.beta.put(".mesyncignore", "# nothing\n");
    pair.wait("alpha has the correction", |p| {
        text(&p.alpha) == "# nothing\n"
    });
    pair.wait("all travels again", |p| {
        p.alpha.dir.join("new").exists() && p.alpha.files() == 4
    });
    // what cannot be read is said, and the correction of it arrives
    fs::remove_file(pair.alpha.dir.join(".mesyncignore")).unwrap();
    std::os::unix::fs::symlink("d0", pair.alpha.dir.join(".mesyncignore")).unwrap();
    pair.wait("beta names it", |p| {
        p.beta
            .problems()
            .contains(".mesyncignore: it is not a regular file")
    });
    assert_ne!(pair.beta.condition(), "in-sync");
    pair.beta.save(".mesyncignore", "*.o\n");
    pair.wait("alpha has the correction again", |p| {
        text(&p.alpha) == "*.o\n" && p.alpha.condition() == "in-sync"
    });
}

#[test]
fn files_renamed_onto_others_are_no_deletes() {
    let pair = Pair::new(FILES);
    for n in 0..FILES / 2 {
        let name = |n: usize| pair.alpha.at(format!("d{}/f{n:02}", n % 4));
        fs::rename(name(n), name(n + FILES / 2)).unwrap();
    }
    pair.wait("beta has the renamed ones alone", |p| {
        p.beta.files() == FILES / 2 && p.beta.tree() == p.alpha.tree()
    });
    assert_eq!((pair.alpha.held(), pair.beta.held()), (0, 0));
}
