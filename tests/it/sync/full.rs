//! Disks that are unmounted or full under a synced directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::files::{Hub, noise};
use crate::support::space::left_out;
use crate::support::tree::{Synced, records, settled};
use crate::support::world::wait_for;

/// A small filesystem of its own, unmounted with the test. `None`: this user may not.
pub struct Mount(PathBuf);

impl Mount {
    pub fn new(at: &Path, size: &str) -> Option<Mount> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .status();
        if !mounted.is_ok_and(|s| s.success()) {
            left_out("only root can mount a disk");
            return None;
        }
        Some(Mount(at.to_path_buf()))
    }

    fn unmount(&self) {
        assert!(
            Command::new("umount")
                .arg("-l")
                .arg(&self.0)
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(std::process::Stdio::null())
            .status();
    }
}

#[test]
fn an_unmounted_disk_deletes_nothing_and_is_synced_when_it_is_back() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    let disk = hub.world.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(mount) = Mount::new(&disk, "20m") else {
        return;
    };
    fs::create_dir(disk.join("share")).unwrap();
    // a bind mount: the same files again after the unmount
    let bind = |dir: &Path| {
        let bound = Command::new("mount")
            .arg("--bind")
            .arg(disk.join("share"))
            .arg(dir)
            .status()
            .unwrap();
        assert!(bound.success());
        Mount(dir.to_path_buf())
    };
    let share = bind(&alpha.dir);
    for n in 0..12 {
        alpha.put(format!("f{n}"), format!("{n}"));
    }
    alpha.start();
    beta.start();
    wait_for("all arrive", &hub.world, || beta.files() == 12);
    settled(&hub.world, &[&alpha, &beta]);
    for off in [false, true] {
        if off {
            alpha.stop();
        }
        share.unmount();
        if off {
            alpha.start();
            wait_for("it is held", &hub.world, || alpha.condition() == "held");
        }
        beta.put("probe", format!("{off}"));
        wait_for("beta goes on", &hub.world, || {
            records(&hub).contains_key("probe")
        });
        assert!(
            beta.files() == 13 && records(&hub).len() == 13,
            "{:?}",
            beta.names()
        );
        assert_eq!(
            fs::read_dir(&alpha.dir).unwrap().count(),
            0,
            "nothing is written below the mount point"
        );
        std::mem::forget(bind(&alpha.dir));
        wait_for("it goes on when it is back", &hub.world, || {
            alpha.text("probe") == format!("{off}")
        });
        settled(&hub.world, &[&alpha, &beta]);
    }
    drop(share);
    drop(mount);
}

#[test]
fn a_full_disk_pauses_downloads_only_and_heals() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    let Some(mount) = Mount::new(&alpha.dir, "40m") else {
        return;
    };
    alpha.put("old", noise(1, 20 << 20));
    alpha.put("mine", "before");
    alpha.start();
    beta.start();
    wait_for("all arrive", &hub.world, || {
        beta.has("old") && beta.has("mine")
    });
    settled(&hub.world, &[&alpha, &beta]);
    beta.put("large", noise(2, 19 << 20));
    wait_for("it is named", &hub.world, || {
        alpha.problems().contains("free")
    });
    alpha.put("mine", "what is here travels all the same");
    wait_for("uploads go on", &hub.world, || {
        beta.text("mine").contains("travels")
    });
    assert!(!alpha.has("large") && beta.has("large") && beta.has("old") && alpha.has("old"));
    alpha.remove("old");
    wait_for("the delete travels", &hub.world, || !beta.has("old"));
    wait_for("it comes when there is room", &hub.world, || {
        alpha.read("large") == beta.read("large")
    });
    settled(&hub.world, &[&alpha, &beta]);
    alpha.stop();
    drop(mount);
}
