//! Mounts within a synced directory, and links to it: what is hidden by a mount is not gone, what is mounted does not travel, and
//! another directory behind the same link is not taken for the one that was synced.

#![allow(clippy::disallowed_methods)] // the test is a user: it renames as users do

#[path = "support/files.rs"]
mod files;
#[path = "support/http.rs"]
mod http;
#[path = "support/space.rs"]
mod space;
#[path = "support/tree.rs"]
mod tree;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use files::Hub;
use space::left_out;
use tree::{Synced, records, settled};
use world::{World, wait_for};

const FILES: usize = 30;

/// Something mounted; unmounted with the test.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with a word: this user may not.
    fn new(args: &[&str], what: &Path, at: &Path) -> Option<Mount> {
        let mounted = Command::new("mount").args(args).args([what, at]).stderr(Stdio::null()).status();
        if !mounted.is_ok_and(|s| s.success()) {
            left_out("only root can mount something");
            return None;
        }
        Some(Mount(at.to_path_buf()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

fn pair() -> (Hub, Synced, Synced) {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (Synced::new(&hub.world, "alpha"), Synced::new(&hub.world, "beta"));
    for n in 0..FILES {
        alpha.put(format!("sub/f{n:02}"), format!("content {n}"));
    }
    alpha.put("file", "mine");
    alpha.start();
    beta.start();
    settled(&hub.world, &[&alpha, &beta]);
    (hub, alpha, beta)
}

/// A directory with other files, of the same filesystem.
fn other(world: &World, name: &str) -> PathBuf {
    let dir = world.dir.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("stranger"), "x").unwrap();
    fs::write(dir.join("f00"), "another one").unwrap();
    dir
}

fn mounted_over(args: &[&str]) {
    let (hub, mut alpha, beta) = pair();
    let stranger = other(&hub.world, "stranger");
    for restarted in [false, true] {
        let Some(mount) = Mount::new(args, &stranger, &alpha.at("sub")) else { return };
        if restarted {
            alpha.stop();
            alpha.start();
        }
        wait_for("it is named", &hub.world, || alpha.problems().contains("sub: another filesystem or directory is mounted there"));
        alpha.put("sub/new", "in the mount");
        beta.put("sub/f01", format!("edited {restarted}"));
        wait_for("what waits for it is named", &hub.world, || alpha.problems().contains("sub/f01"));
        alpha.put("file", format!("goes on {restarted}"));
        wait_for("the rest is synced", &hub.world, || beta.text("file") == format!("goes on {restarted}"));
        let names = records(&hub);
        assert_eq!(names.keys().filter(|path| path.starts_with("sub/")).count(), FILES, "{names:?}");
        assert!(alpha.status()["held_deletes"] == 0 && !alpha.problems().contains("sub/new"), "{}", alpha.status());
        drop(mount);
        settled(&hub.world, &[&alpha, &beta]);
        assert_eq!((alpha.text("sub/f01"), alpha.text("sub/f00")), (format!("edited {restarted}"), "content 0".into()));
    }
}

#[test]
fn a_bind_mount_of_the_same_filesystem_hides_and_deletes_nothing() {
    mounted_over(&["--bind"]);
}

#[test]
fn another_filesystem_hides_and_deletes_nothing() {
    mounted_over(&["-t", "tmpfs"]);
}

#[test]
fn a_file_that_is_mounted_over_another_one_does_not_travel() {
    let (hub, alpha, beta) = pair();
    let stranger = hub.world.dir.path().join("stranger");
    fs::write(&stranger, "a file of elsewhere").unwrap();
    let Some(mount) = Mount::new(&["--bind"], &stranger, &alpha.at("file")) else { return };
    wait_for("it is named", &hub.world, || alpha.problems().contains("mounted there"));
    fs::write(&stranger, "and changed there").unwrap();
    beta.put("file", "edited");
    alpha.put("other", "x");
    wait_for("the rest is synced", &hub.world, || beta.text("other") == "x");
    assert_eq!((fs::read_to_string(&stranger).unwrap().as_str(), beta.text("file").as_str()), ("and changed there", "edited"));
    drop(mount);
    settled(&hub.world, &[&alpha, &beta]);
    assert_eq!(alpha.text("file"), "edited");
}
