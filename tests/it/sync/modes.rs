//! Modes of directories: they are synced like those of files, a private directory is private at every moment, and one that
//! its owner may not write to receives changes.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;

use crate::support::files::Hub;
use crate::support::inject;
use crate::support::tree::{self, Synced, records, settled};
use crate::support::world::wait_for;

fn pair(hub: &Hub) -> (Synced, Synced) {
    (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    )
}

fn mkdir(at: &Synced, path: &str, mode: u32) {
    fs::DirBuilder::new().create(at.at(path)).unwrap();
    at.chmod(path, mode);
}

/// The mode of a directory's row on the hub; 0: it has none.
fn row(hub: &Hub, path: &str) -> u64 {
    records(hub)
        .get(path)
        .map_or(0, |row| row["mode"].as_u64().unwrap() & 0o777)
}

/// Both in sync by passes.
#[track_caller]
fn passes(alpha: &Synced, beta: &Synced) {
    alpha.pass();
    beta.pass();
    alpha.pass();
    assert_eq!(
        tree::difference(&alpha.tree().unwrap(), &beta.tree().unwrap()),
        ""
    );
}

#[test]
fn the_mode_of_a_directory_travels_with_its_content_and_later() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = pair(&hub);
    alpha.start();
    beta.start();
    fs::DirBuilder::new()
        .mode(0o700)
        .create(alpha.at("private"))
        .unwrap();
    alpha.put("private/key", "k");
    alpha.put("plain/deep/file", "f");
    wait_for("a private directory arrives", &hub.world, || {
        beta.has("private/key") && beta.has("plain/deep/file")
    });
    assert_eq!(
        (
            beta.mode("private"),
            beta.mode("plain"),
            beta.mode("plain/deep")
        ),
        (0o700, 0o755, 0o755)
    );
    settled(&hub.world, &[&alpha, &beta]);
    assert_eq!(
        (row(&hub, "plain"), row(&hub, "plain/deep")),
        (0, 0),
        "an ordinary directory needs no row"
    );
    // changed later, on either side; back to what an ordinary directory has
    for (mode, at, other) in [
        (0o750, &alpha, &beta),
        (0o711, &beta, &alpha),
        (0o755, &alpha, &beta),
        (0o500, &beta, &alpha),
        (0o700, &alpha, &beta),
    ] {
        for dir in ["private", "plain/deep"] {
            at.chmod(dir, mode);
        }
        wait_for("the mode arrives", &hub.world, || {
            other.mode("private") == mode && other.mode("plain/deep") == mode
        });
        settled(&hub.world, &[&alpha, &beta]);
    }
    alpha.rename("plain", "moved");
    wait_for("the directory is renamed", &hub.world, || {
        beta.has("moved/deep/file") && !beta.has("plain")
    });
    settled(&hub.world, &[&alpha, &beta]);
    assert_eq!(
        (beta.mode("moved"), beta.mode("moved/deep")),
        (0o755, 0o700)
    );
    // bits beside the mode are those of each machine
    beta.chmod("private", 0o2700);
    alpha.chmod("private", 0o770);
    wait_for("the mode arrives", &hub.world, || {
        beta.mode("private") == 0o770
    });
    assert_eq!(
        fs::metadata(beta.at("private"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o2770
    );
    for dir in ["private", "moved"] {
        fs::remove_dir_all(beta.at(dir)).unwrap();
    }
    wait_for("what is removed is gone", &hub.world, || {
        !alpha.has("private") && !alpha.has("moved")
    });
    settled(&hub.world, &[&alpha, &beta]);
    assert!(records(&hub).is_empty(), "{:?}", records(&hub));
}

#[test]
fn two_trees_that_meet_keep_the_mode_that_was_set() {
    let hub = Hub::start();
    let (alpha, beta) = pair(&hub);
    for (at, dirs) in [
        (&alpha, [("a", 0o700), ("b", 0o755), ("c", 0o750)]),
        (&beta, [("a", 0o755), ("b", 0o711), ("c", 0o701)]),
    ] {
        for (dir, mode) in dirs {
            at.put(format!("{dir}/same"), "same");
            // equal files keep the times that they have
            let file = fs::File::options()
                .write(true)
                .open(at.at(format!("{dir}/same")))
                .unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            at.chmod(dir, mode);
        }
    }
    alpha.pass();
    beta.pass();
    alpha.pass();
    beta.pass();
    for at in [&alpha, &beta] {
        // both have set one: that of the hub, as with files
        assert_eq!(
            [at.mode("a"), at.mode("b"), at.mode("c")],
            [0o700, 0o711, 0o750]
        );
    }
    // an empty private one against an ordinary one: what was set wins over what was not
    mkdir(&alpha, "d", 0o755);
    alpha.pass();
    beta.put("d/x", "x");
    beta.chmod("d", 0o700);
    beta.pass();
    passes(&alpha, &beta);
    assert_eq!((alpha.mode("d"), beta.mode("d")), (0o700, 0o700));
    // both changed at once: the hub's
    alpha.chmod("d", 0o710);
    beta.chmod("d", 0o701);
    alpha.pass();
    passes(&beta, &alpha);
    assert_eq!((alpha.mode("d"), beta.mode("d")), (0o710, 0o710));
}

#[test]
fn the_umask_of_a_receiver_is_no_mode_that_was_set() {
    let hub = Hub::start();
    for umask in ["077", "002", "000"] {
        let (alpha, mut beta) = (
            Synced::new(&hub.world, &format!("a{umask}")),
            Synced::new(&hub.world, &format!("b{umask}")),
        );
        beta.machine.wrap = ["sh", "-c", &format!("umask {umask}; exec \"$@\""), "sh"]
            .map(String::from)
            .to_vec();
        let open = format!("o{umask}");
        alpha.put(format!("u{umask}/deep/file"), "x");
        mkdir(&alpha, &open, 0o777);
        alpha.put(format!("{open}/x"), "x");
        alpha.pass();
        passes(&beta, &alpha);
        assert_eq!(
            (
                beta.mode(&format!("u{umask}")),
                beta.mode(&format!("u{umask}/deep")),
                beta.mode(&open)
            ),
            (0o755, 0o755, 0o777)
        );
        assert_eq!(row(&hub, &format!("u{umask}")), 0);
    }
}

/// A new machine that lists the whole hub hears of a directory after the files in it, if its mode was changed last.
#[test]
fn a_private_directory_is_private_at_every_moment() {
    let hub = Hub::start();
    let (alpha, mut beta) = pair(&hub);
    for n in 0..300 {
        alpha.put(format!("private/deep/f{n}"), format!("{n}"));
    }
    alpha.chmod("private/deep", 0o750);
    alpha.chmod("private", 0o710);
    alpha.pass();
    // now its row is the last one
    alpha.chmod("private", 0o700);
    alpha.pass();
    let done = AtomicBool::new(false);
    let mut seen = 0;
    std::thread::scope(|s| {
        let watch = s.spawn(|| {
            let mut seen = 0;
            while !done.load(SeqCst) {
                for (dir, others) in [("private", 0o077), ("private/deep", 0o027)] {
                    if let Ok(found) = beta.at(dir).symlink_metadata() {
                        assert_eq!(
                            found.permissions().mode() & others,
                            0,
                            "others may look into {dir}"
                        );
                        seen += 1;
                    }
                }
            }
            seen
        });
        beta.pass();
        done.store(true, SeqCst);
        seen = watch.join().unwrap();
    });
    assert!(seen > 0);
    passes(&alpha, &beta);
    assert_eq!(
        (beta.mode("private"), beta.mode("private/deep")),
        (0o700, 0o750)
    );
    // as is one that is made again, since something new is in it
    fs::remove_dir_all(beta.at("private")).unwrap();
    alpha.put("private/deep/new", "new");
    alpha.pass();
    beta.start();
    wait_for("what is new comes back", &hub.world, || {
        beta.text("private/deep/new") == "new"
    });
    assert_eq!(
        (beta.mode("private"), beta.mode("private/deep")),
        (0o700, 0o750)
    );
}

#[test]
fn a_deleted_directory_is_not_restored_by_its_mode() {
    let hub = Hub::start();
    let (alpha, beta) = pair(&hub);
    beta.put(".mesyncignore", "*.o\n");
    for n in 0..20 {
        alpha.put(format!("d/f{n}"), format!("{n}"));
    }
    alpha.put("keep", "x");
    alpha.chmod("d", 0o775);
    alpha.pass();
    passes(&beta, &alpha);
    // what does not travel keeps the directory here, and here only
    beta.put("d/made.o", "o");
    beta.put("only/made.o", "o");
    beta.chmod("only", 0o700);
    beta.pass();
    assert_eq!(row(&hub, "only"), 0, "nothing in it travels");
    fs::remove_dir_all(alpha.at("d")).unwrap();
    let (status, said) = alpha.try_pass(&[]);
    assert_ne!(status, 0, "many deletes are held: {said}");
    assert_eq!(
        row(&hub, "d"),
        0o775,
        "the directory is there as long as what is in it"
    );
    let (status, said) = alpha.try_pass(&["--allow-deletes"]);
    assert_eq!(status, 0, "{said}");
    let (status, said) = beta.try_pass(&["--allow-deletes"]);
    assert_eq!(status, 0, "{said}");
    for _ in 0..2 {
        alpha.pass();
        beta.pass();
    }
    assert_eq!(
        beta.names(),
        [
            ".mesyncignore",
            "d",
            "d/made.o",
            "keep",
            "only",
            "only/made.o"
        ]
    );
    assert_eq!(alpha.names(), [".mesyncignore", "keep"]);
}

/// Commands of files send and set modes too.
#[test]
fn upload_and_download_know_the_mode_of_a_directory() {
    let hub = Hub::start();
    let (alpha, beta) = pair(&hub);
    alpha.put("tree/private/key", "k");
    alpha.put("tree/plain/file", "f");
    mkdir(&alpha, "tree/empty", 0o711);
    alpha.chmod("tree/private", 0o700);
    alpha
        .machine
        .ok(&["upload", "-r", alpha.at("tree").to_str().unwrap()]);
    assert_eq!(
        [
            row(&hub, "tree/private"),
            row(&hub, "tree/plain"),
            row(&hub, "tree/empty")
        ],
        [0o700, 0, 0o711]
    );
    let id = records(&hub)["tree/private"]["id"]
        .as_str()
        .unwrap()
        .to_string();
    let to = beta.at("fetched");
    beta.machine
        .ok(&["download", &id, "-o", to.to_str().unwrap()]);
    assert_eq!(beta.mode("fetched"), 0o700);
    fs::remove_dir(to).unwrap();
    beta.pass();
    assert_eq!(
        [
            beta.mode("tree/private"),
            beta.mode("tree/plain"),
            beta.mode("tree/empty")
        ],
        [0o700, 0o755, 0o711]
    );
}

// -- directories that their owner may not write to ---------------------------------------------------------------------------

#[test]
fn a_directory_that_is_not_writable_receives_changes() {
    let hub = Hub::start();
    let (alpha, mut beta) = pair(&hub);
    if !beta.run_as_nobody(&hub.world) {
        return;
    }
    mkdir(&alpha, "empty", 0o555);
    alpha.put("module/deep/source", "1");
    alpha.chmod("module/deep", 0o555);
    alpha.chmod("module", 0o555);
    passes(&alpha, &beta);
    beta.start();
    let opened = beta.at(".mesync/opened");
    // new, changed, renamed, another directory, gone
    alpha.put("empty/new", "n");
    alpha.put("module/deep/source", "2");
    alpha.put("module/other/x", "x");
    alpha.pass();
    wait_for("all of it arrives", &hub.world, || {
        beta.text("module/deep/source") == "2"
            && beta.has("module/other/x")
            && beta.has("empty/new")
    });
    alpha.rename("module/deep/source", "module/deep/renamed");
    alpha.remove("empty/new");
    fs::remove_dir_all(alpha.at("module/other")).unwrap();
    alpha.pass();
    wait_for("all of it is gone", &hub.world, || {
        !beta.has("module/deep/source") && !beta.has("module/other") && !beta.has("empty/new")
    });
    wait_for("all is closed again", &hub.world, || {
        !opened.exists() && beta.mode("module") == 0o555 && beta.mode("empty") == 0o555
    });
    beta.stop();
    passes(&alpha, &beta);
    assert_eq!(
        [
            row(&hub, "empty"),
            row(&hub, "module"),
            row(&hub, "module/deep")
        ],
        [0o555; 3]
    );
}

#[test]
fn a_kill_while_a_directory_is_open_changes_no_mode() {
    let hub = Hub::start();
    let (alpha, mut beta) = pair(&hub);
    if !beta.run_as_nobody(&hub.world) || !inject::is_available() {
        return;
    }
    alpha.put("closed/f", "0");
    alpha.chmod("closed", 0o555);
    passes(&alpha, &beta);
    let trace = hub.world.dir.path().join("trace");
    let (mut changes, mut left_open) = (0, 0);
    for call in [
        "chmod",
        "fchmodat",
        "rename",
        "renameat2",
        "unlink",
        "unlinkat",
        "fsync",
    ] {
        for nth in 1.. {
            changes += 1;
            alpha.put("closed/f", format!("{changes}"));
            alpha.put(format!("closed/new{changes}"), "new");
            alpha.pass();
            let plain = beta
                .machine
                .command(&["sync", "-w", beta.dir.to_str().unwrap()]);
            let out = inject::kill_at(&plain, call, nth, &trace).output().unwrap();
            left_open += u32::from(beta.mode("closed") == 0o755);
            passes(&beta, &alpha);
            assert_eq!(
                (beta.mode("closed"), row(&hub, "closed")),
                (0o555, 0o555),
                "killed at {call} {nth}"
            );
            assert_eq!(
                beta.text("closed/f"),
                format!("{changes}"),
                "killed at {call} {nth}"
            );
            assert!(!beta.at(".mesync/opened").exists());
            if out.status.signal() != Some(9) {
                break;
            }
        }
    }
    println!("{changes} passes, {left_open} left the directory open");
    assert!(left_open > 0, "no kill came while the directory was open");
}
