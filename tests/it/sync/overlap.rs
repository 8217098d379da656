//! Directories that must not be synced: within one another under any name, or wider than meant; and looks that leave no trace.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::world::{Machine, World, wait_for};

fn world() -> (World, Machine, PathBuf) {
    let mut world = World::new();
    world.start_hub();
    let (machine, dir) = (world.machine("alpha"), world.dir.path().join("share"));
    fs::create_dir_all(dir.join("a/b")).unwrap();
    (world, machine, dir)
}

fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

#[track_caller]
fn check(out: &Output, status: i32, wants: &str) {
    let all =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.code() == Some(status) && all.contains(wants),
        "wanted {status} and {wants:?}: {out:?}"
    );
}

/// Every command refuses a directory at once.
#[track_caller]
fn refused(machine: &Machine, dir: &Path, wants: &str) {
    for command in ["sync", "daemon", "start"] {
        check(&machine.run(&[command, "-w", path(dir)]), 78, wants);
    }
    check(
        &machine.run(&["sync", "--dry-run", "-w", path(dir)]),
        78,
        wants,
    );
}

#[test]
fn a_directory_within_a_synced_one_is_refused_whichever_user_syncs_that() {
    let (world, alpha, dir) = world();
    fs::write(dir.join("a/b/f"), "1").unwrap();
    alpha.ok(&["sync", "-w", path(&dir)]);
    let beta = world.machine("beta");
    for machine in [&alpha, &beta] {
        refused(machine, &dir.join("a"), "synced separately");
        refused(machine, &dir.join("a/b"), "synced separately");
        refused(machine, &dir.join("a/../a/b/."), "synced separately");
        symlink(dir.join("a"), world.dir.path().join("link")).unwrap();
        refused(
            machine,
            &world.dir.path().join("link/b"),
            "synced separately",
        );
        refused(machine, world.dir.path(), "");
        fs::remove_file(world.dir.path().join("link")).unwrap();
    }
    assert!(!dir.join("a/.mesync").exists() && !dir.join("a/b/.mesync").exists());
    // the other way round
    let (inner, outer) = (
        world.dir.path().join("outer/x/inner"),
        world.dir.path().join("outer"),
    );
    fs::create_dir_all(&inner).unwrap();
    beta.ok(&["sync", "-w", path(&inner), "--remote", "inner"]);
    refused(&alpha, &outer, &format!("it contains {}", inner.display()));
    assert!(!outer.join(".mesync").exists());
    // it was a copy, or is not synced any more
    fs::remove_dir_all(inner.join(".mesync")).unwrap();
    alpha.ok(&["sync", "-w", path(&outer), "--remote", "outer"]);
}

#[test]
fn a_bind_mount_is_another_name_of_the_same_directory() {
    let (world, alpha, dir) = world();
    alpha.ok(&["sync", "-w", path(&dir)]);
    let bound = world.dir.path().join("bound");
    fs::create_dir(&bound).unwrap();
    let script = "mount --bind \"$1\" \"$2\" || exit 99; shift 2; exec \"$@\"";
    let mut beta = world.machine("beta");
    beta.wrap = [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        "sh",
        path(&dir.join("a")),
        path(&bound),
    ]
    .map(String::from)
    .to_vec();
    let out = beta.run(&["sync", "-w", path(&bound.join("b"))]);
    if out.status.code() == Some(99) || String::from_utf8_lossy(&out.stderr).contains("unshare") {
        return eprintln!("no right to mount here: not tested");
    }
    check(&out, 78, "synced separately");
    assert!(!dir.join("a/b/.mesync").exists());
}

#[test]
fn a_later_marker_excludes_its_directory_and_deletes_nothing() {
    let (world, mut alpha, dir) = world();
    fs::write(dir.join("a/b/inner"), "1").unwrap();
    fs::write(dir.join("g"), "1").unwrap();
    alpha.start_with(&["start", "-w", path(&dir)]);
    let there = |name: &str| alpha.ok(&["ls"]).lines().any(|line| line.ends_with(name));
    wait_for("all is sent", &world, || there("inner") && there("g"));
    // a copy of a synced directory
    fs::create_dir(dir.join("a/.mesync")).unwrap();
    fs::copy(dir.join(".mesync/id"), dir.join("a/.mesync/id")).unwrap();
    let told = || {
        String::from_utf8_lossy(&alpha.run(&["status"]).stdout)
            .contains("a: it is synced separately")
    };
    wait_for("status says so", &world, told);
    fs::remove_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/new"), "x").unwrap();
    fs::write(dir.join("probe"), "x").unwrap();
    wait_for("the rest goes on", &world, || there("probe"));
    assert!(there("inner") && !there("new"));
    // without its marker it is compared again, and nothing counts as deleted
    fs::remove_dir_all(dir.join("a/.mesync")).unwrap();
    wait_for("what is there is sent", &world, || there("new"));
    wait_for("what is missing comes back", &world, || {
        dir.join("a/b/inner").exists()
    });
}

#[test]
fn homes_and_directories_with_mesyncs_own_data_need_a_confirmation() {
    let (world, alpha, _) = world();
    for dir in ["/", "/etc", "/home", "/usr/.."] {
        check(&alpha.run(&["sync", "-w", dir]), 78, "--yes");
        check(&alpha.run(&["daemon", "-w", dir]), 78, "--yes");
        check(&alpha.run(&["start", "-w", dir]), 78, "--yes");
    }
    let outside = alpha.base.parent().unwrap().to_path_buf();
    let link = world.dir.path().join("link");
    symlink(&outside, &link).unwrap();
    check(&alpha.run(&["sync", "-w", path(&link)]), 78, "--yes");
    assert!(
        !outside.join(".mesync").exists()
            && !Path::new("/.mesync").exists()
            && !Path::new("/etc/.mesync").exists()
    );
    check(&alpha.run(&["serve", "-w", "/srv"]), 2, "add --start");
}

/// Everything below some directories: kind, size, mode, times of the content and bytes.
fn snapshot(roots: &[&Path]) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut todo: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
    while let Some(at) = todo.pop() {
        let meta = fs::symlink_metadata(&at).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
        }
        let bytes = if meta.is_file() {
            fs::read(&at).unwrap()
        } else {
            Vec::new()
        };
        all.insert(
            at,
            (
                meta.mode(),
                meta.ino(),
                meta.mtime_nsec(),
                meta.ctime_nsec(),
                bytes,
            ),
        );
    }
    all
}

#[test]
fn looks_leave_no_trace() {
    let (world, alpha, dir) = world();
    fs::write(dir.join("f"), "1").unwrap();
    fs::write(dir.join("g"), "1").unwrap();
    let hub = || alpha.ok(&["ls", "--json"]);
    let looks = |status: i32, wants: &str| {
        let (before, there) = (snapshot(&[&dir, &alpha.base]), hub());
        check(
            &alpha.run(&["sync", "-w", path(&dir), "--dry-run"]),
            status,
            wants,
        );
        for look in [
            vec!["status"],
            vec!["conflicts", path(&dir)],
            vec!["ls"],
            vec!["list"],
        ] {
            alpha.run(&look);
        }
        let after = snapshot(&[&dir, &alpha.base]);
        let differs: Vec<_> = before
            .iter()
            .filter(|(p, v)| after.get(*p) != Some(v))
            .map(|(p, _)| p)
            .collect();
        let new: Vec<_> = after.keys().filter(|p| !before.contains_key(*p)).collect();
        assert!(
            differs.is_empty() && new.is_empty() && hub() == there,
            "{differs:?} {new:?}"
        );
    };
    // never synced, not even a base directory
    fs::create_dir_all(&alpha.base).unwrap();
    looks(1, "new here");
    alpha.ok(&["sync", "-w", path(&dir)]);
    looks(0, "");
    fs::write(dir.join("f"), "22").unwrap();
    looks(1, "send");
    // a pending adoption: what would be done with it, and it stays pending
    fs::remove_dir_all(dir.join(".mesync")).unwrap();
    looks(1, "will not touch");
    alpha.ok(&["adopt", path(&dir)]);
    fs::remove_file(dir.join("g")).unwrap();
    looks(1, "receive");
    alpha.run(&["sync", "-w", path(&dir)]);
    wait_for("it was adopted", &world, || dir.join("g").exists());
}

#[test]
fn a_dry_run_is_possible_beside_a_daemon() {
    let (world, mut alpha, dir) = world();
    alpha.start_with(&["start", "-w", path(&dir)]);
    fs::write(dir.join("f"), "1").unwrap();
    wait_for("it is sent", &world, || alpha.ok(&["ls"]).contains('f'));
    wait_for("nothing is left to do", &world, || {
        alpha
            .run(&["sync", "-w", path(&dir), "--dry-run"])
            .status
            .success()
    });
}

#[test]
fn a_synced_directory_that_is_moved_into_another_one_is_left_out() {
    let (world, mut alpha, dir) = world();
    let other = world.dir.path().join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("inner"), "1").unwrap();
    alpha.ok(&["sync", "-w", path(&other), "--remote", "elsewhere"]);
    alpha.start_with(&["daemon", "-w", path(&dir), "--remote", "here"]);
    let there = |name: &str| alpha.ok(&["ls", "--all"]).contains(name);
    fs::write(dir.join("first"), "x").unwrap();
    wait_for("the daemon works", &world, || there("here/first"));
    let mut at = other;
    for (n, to) in ["moved", "a/b/moved"].into_iter().enumerate() {
        fs::rename(&at, dir.join(to)).unwrap();
        at = dir.join(to);
        let told = || {
            String::from_utf8_lossy(&alpha.run(&["status"]).stdout)
                .contains(&format!("{to}: it is synced separately"))
        };
        wait_for("status says so", &world, told);
        fs::write(at.join(format!("later-{n}")), "x").unwrap();
        fs::write(dir.join(format!("probe-{n}")), "x").unwrap();
        wait_for("the rest is sent", &world, || {
            there(&format!("here/probe-{n}"))
        });
        assert!(!there("moved"), "{}", alpha.ok(&["ls", "--all"]));
    }
}
