//! Every system call of a pass over a directory fails once: the pass tells it, and the next one leaves both machines equal.
//!
//! Kills at every call are in `messages/crash.rs` and `storm.rs`; an error differs from a kill because the program continues.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use crate::support::files::{Hub, noise};
use crate::support::inject::{self, Fault};
use crate::support::tree::{Synced, difference};

/// Bytes of the file that travels in chunks.
const LONG: usize = 700_000;

/// Two machines, and the number of the round.
struct Pair {
    hub: Hub,
    alpha: Synced,
    beta: Synced,
    round: usize,
    /// Files that are changed in each way besides: from 16 on, one sync of the filesystem serves all.
    many: usize,
}

impl Pair {
    fn new(many: usize) -> Pair {
        let hub = Hub::start();
        let (alpha, beta) = (
            Synced::new(&hub.world, "alpha"),
            Synced::new(&hub.world, "beta"),
        );
        let pair = Pair {
            hub,
            alpha: alpha.with(&["--allow-deletes"]),
            beta: beta.with(&["--allow-deletes"]),
            round: 0,
            many,
        };
        for name in ["edited", "both", "mode", "dir/kept"] {
            pair.alpha.put(name, "first");
        }
        pair.alpha.put("long", noise(0, LONG));
        pair.alpha.pass();
        pair.beta.pass();
        pair
    }

    /// One change of each kind that alpha makes and the hub has, and some of beta that are not sent yet.
    fn change(&mut self) {
        self.round += 1;
        let n = self.round;
        let (alpha, beta) = (&self.alpha, &self.beta);
        alpha.put("edited", format!("alpha {n}"));
        alpha.put(format!("deep{}/new{n}", n % 2), format!("new {n}"));
        alpha.put("long", noise(n as u64, LONG));
        alpha.chmod("mode", [0o600, 0o640][n % 2]);
        if n > 1 {
            alpha.rename(&format!("here{}", n - 1), &format!("here{n}"));
            alpha.remove(format!("link{}", n - 1));
            alpha.remove(format!("deep{}/new{}", (n - 1) % 2, n - 1));
            fs::remove_dir(alpha.at(format!("empty{}", n - 1))).unwrap();
        } else {
            alpha.put("here1", "renamed in each round");
        }
        for i in 0..self.many {
            alpha.put(format!("many/edited{i}"), format!("alpha {n} {i}"));
            alpha.put(format!("many/mode{i}"), "the same");
            alpha.chmod(format!("many/mode{i}"), [0o600, 0o640][n % 2]);
            alpha.put(format!("many/{n}-{i}"), format!("moved {i}"));
            if n > 1 {
                alpha.remove(format!("many/{}-{i}", n - 1));
            }
        }
        symlink(format!("target{n}"), alpha.at(format!("link{n}"))).unwrap();
        fs::create_dir(alpha.at(format!("empty{n}"))).unwrap();
        alpha.put("both", format!("both, alpha {n}"));
        alpha.pass();
        beta.put("both", format!("both, beta {n}"));
        beta.put("of-beta", format!("beta {n}"));
        if beta.has("beta-old") {
            beta.remove("beta-old");
        } else {
            beta.put("beta-old", "x");
        }
    }

    /// After the faulty pass: what it said is true, and the next one heals.
    fn check(&self, faulty: &Output, fault: &str) {
        let said = String::from_utf8_lossy(&faulty.stderr).into_owned()
            + &String::from_utf8_lossy(&faulty.stdout);
        assert!(!said.contains("panicked"), "{fault}: {said}");
        let pass = |who: &Synced| {
            let (status, told) = who.try_pass(&[]);
            assert_eq!(
                status, 0,
                "{fault}: {} does not heal: {told}\nafter {said}",
                who.machine.name
            );
        };
        if faulty.status.success() {
            pass(&self.alpha);
            let differs = difference(&self.alpha.tree().unwrap(), &self.beta.tree().unwrap());
            assert!(
                differs.is_empty(),
                "{fault}: a pass that succeeded has left\n{differs}\n{said}"
            );
        } else {
            assert!(
                !said.trim().is_empty(),
                "{fault}: exit status {:?} without a word",
                faulty.status.code()
            );
        }
        pass(&self.beta);
        pass(&self.alpha);
        let (alpha, beta) = (self.alpha.tree().unwrap(), self.beta.tree().unwrap());
        let differs = difference(&alpha, &beta);
        assert!(
            differs.is_empty(),
            "{fault}: after the next pass\n{differs}\n{said}"
        );
        let n = self.round;
        for content in [format!("both, alpha {n}"), format!("both, beta {n}")] {
            assert!(
                self.alpha.contents("both").contains(&content),
                "{fault}: {content:?} is lost: {:?}\n{said}",
                self.alpha.contents("both")
            );
        }
        assert_eq!(self.beta.text("edited"), format!("alpha {n}"), "{fault}");
        assert_eq!(self.alpha.text("of-beta"), format!("beta {n}"), "{fault}");
        let left = temporaries(&self.beta.dir);
        assert!(left.is_empty(), "{fault}: {left:?} is left\n{said}");
        for copy in self
            .alpha
            .names()
            .iter()
            .filter(|name| name.contains("sync-conflict"))
        {
            self.alpha.remove(copy);
        }
        pass(&self.alpha);
        pass(&self.beta);
    }

    /// One pass of beta with a fault, and the next one without.
    fn attempt(&mut self, fault: &Fault) {
        self.change();
        let pass = self.beta.machine.command(&[
            "sync",
            "-w",
            self.beta.dir.to_str().unwrap(),
            "--allow-deletes",
        ]);
        let faulty = inject::wrap(&pass, fault).output().unwrap();
        self.check(&faulty, &format!("{fault}\n{}", fault.struck()));
    }
}

/// Names of mesync's unfinished files.
fn temporaries(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".mesync-") {
            found.push(entry.path().display().to_string());
        } else if entry.file_type().unwrap().is_dir() && name != ".mesync" {
            found.extend(temporaries(&entry.path()));
        }
    }
    found
}

/// Each of these calls fails in a pass of its own, with every error.
fn sweep(many: usize, calls: &[&'static str], errors: &[&'static str]) {
    if inject::is_available() {
        let mut pair = Pair::new(many);
        let trace = pair.hub.world.dir.path().join("trace");
        inject::every_call(&trace, calls, errors, |fault| pair.attempt(fault));
    }
}

#[test]
fn a_failed_sync_of_a_file_or_directory_loses_nothing() {
    sweep(0, &["fsync", "fdatasync"], &["EIO", "ENOSPC"]);
}

#[test]
fn a_failed_sync_of_many_files_loses_nothing() {
    sweep(20, &["syncfs"], &["EIO", "ENOSPC"]);
}

#[test]
fn a_failed_change_of_a_name_loses_nothing() {
    sweep(
        0,
        &["rename", "renameat2", "unlinkat", "mkdirat", "symlinkat"],
        &["EACCES", "ENOSPC"],
    );
}

#[test]
fn a_failed_change_of_a_file_loses_nothing() {
    sweep(
        0,
        &["fchmod", "fchmodat", "utimensat", "ftruncate"],
        &["EIO", "EROFS"],
    );
    sweep(0, &["pwrite64"], &["ENOSPC"]);
}

/// Every ninth only: there are some hundred, and they leave nothing to recover from.
#[test]
fn a_failed_read_loses_nothing() {
    if !inject::is_available() {
        return;
    }
    let mut pair = Pair::new(0);
    let trace = pair.hub.world.dir.path().join("trace");
    for (call, error) in [
        ("openat2", "EMFILE"),
        ("newfstatat", "EIO"),
        ("statx", "EIO"),
        ("getdents64", "EIO"),
        ("pread64", "EIO"),
        ("read", "EIO"),
    ] {
        inject::sweep(call, |_| error, &trace, 9, &mut |fault: &Fault| {
            pair.attempt(fault)
        });
    }
}
