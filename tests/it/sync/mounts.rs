//! Mounts within a synced directory, and links to it: files hidden by a mount are not gone, mounted
//! files are not synced, and another directory behind the same link is not taken for the one that
//! was synced. And changes on a nearly full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::files::{self, Hub};
use crate::support::space::left_out;
use crate::support::tree::{Synced, records, settled};
use crate::support::world::{World, wait_for};

const FILES: usize = 30;

/// Something mounted; unmounted with the test.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with a word: this user may not.
    fn new(args: &[&str], what: &Path, at: &Path) -> Option<Mount> {
        let mounted = Command::new("mount")
            .args(args)
            .args([what, at])
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|s| s.success()) {
            left_out("only root can mount something");
            return None;
        }
        Some(Mount(at.to_path_buf()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
    }
}

fn pair() -> (Hub, Synced, Synced) {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
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
        let Some(mount) = Mount::new(args, &stranger, &alpha.at("sub")) else {
            return;
        };
        if restarted {
            alpha.stop();
            alpha.start();
        }
        wait_for("it is named", &hub.world, || {
            alpha
                .problems()
                .contains("sub: another filesystem or directory is mounted there")
        });
        alpha.put("sub/new", "in the mount");
        beta.put("sub/f01", format!("edited {restarted}"));
        wait_for("what waits for it is named", &hub.world, || {
            alpha.problems().contains("sub/f01")
        });
        alpha.put("file", format!("goes on {restarted}"));
        wait_for("the rest is synced", &hub.world, || {
            beta.text("file") == format!("goes on {restarted}")
        });
        let names = records(&hub);
        assert_eq!(
            names.keys().filter(|path| path.starts_with("sub/")).count(),
            FILES,
            "{names:?}"
        );
        assert!(
            alpha.status()["held_deletes"] == 0 && !alpha.problems().contains("sub/new"),
            "{}",
            alpha.status()
        );
        drop(mount);
        settled(&hub.world, &[&alpha, &beta]);
        assert_eq!(
            (alpha.text("sub/f01"), alpha.text("sub/f00")),
            (format!("edited {restarted}"), "content 0".into())
        );
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
    let Some(mount) = Mount::new(&["--bind"], &stranger, &alpha.at("file")) else {
        return;
    };
    wait_for("it is named", &hub.world, || {
        alpha.problems().contains("mounted there")
    });
    fs::write(&stranger, "and changed there").unwrap();
    beta.put("file", "edited");
    alpha.put("other", "x");
    wait_for("the rest is synced", &hub.world, || {
        beta.text("other") == "x"
    });
    assert_eq!(
        (
            fs::read_to_string(&stranger).unwrap().as_str(),
            beta.text("file").as_str()
        ),
        ("and changed there", "edited")
    );
    drop(mount);
    settled(&hub.world, &[&alpha, &beta]);
    assert_eq!(alpha.text("file"), "edited");
}

/// A directory that is named by a link.
fn linked(hub: &Hub) -> (Synced, PathBuf, PathBuf) {
    let mut alpha = Synced::new(&hub.world, "alpha");
    let (real, stranger) = (
        alpha.dir.with_extension("real"),
        other(&hub.world, "stranger"),
    );
    fs::rename(&alpha.dir, &real).unwrap();
    lead(&alpha.dir, &real);
    for n in 0..FILES {
        alpha.put(format!("f{n:02}"), format!("content {n}"));
    }
    alpha.flags = vec!["-vv".into()];
    (alpha, real, stranger)
}

fn lead(link: &Path, to: &Path) {
    let new = link.with_extension("new");
    std::os::unix::fs::symlink(to, &new).unwrap();
    fs::rename(new, link).unwrap();
}

fn says(alpha: &Synced, what: &str) -> bool {
    String::from_utf8_lossy(&alpha.machine.run(&["status"]).stdout).contains(what)
}

#[test]
fn a_link_that_leads_to_another_directory_holds_it() {
    let hub = Hub::start();
    let (mut alpha, real, stranger) = linked(&hub);
    let mut beta = Synced::new(&hub.world, "beta");
    alpha.start();
    beta.start();
    let all = || {
        records(&hub)
            .keys()
            .filter(|path| path.starts_with('f'))
            .count()
    };
    wait_for("all arrive", &hub.world, || beta.names().len() == FILES);
    lead(&alpha.dir, &stranger);
    wait_for("it is held", &hub.world, || {
        says(&alpha, "does not lead to it any more")
    });
    beta.put("f05", "edited");
    wait_for("beta goes on", &hub.world, || {
        records(&hub)["f05"]["size"] == 6
    });
    assert_eq!(
        (all(), fs::read_dir(&stranger).unwrap().count()),
        (FILES, 2)
    );
    lead(&alpha.dir, &real);
    wait_for("it goes on", &hub.world, || alpha.text("f05") == "edited");
    // the same over a restart: the other directory is asked about
    alpha.stop();
    lead(&alpha.dir, &stranger);
    alpha.start();
    wait_for("it is held", &hub.world, || {
        says(&alpha, "leads to this directory now")
    });
    beta.put("f06", "edited");
    wait_for("beta goes on", &hub.world, || {
        records(&hub)["f06"]["size"] == 6
    });
    assert_eq!(
        (
            all(),
            fs::read_dir(&stranger).unwrap().count(),
            beta.names().len()
        ),
        (FILES, 2, FILES)
    );
    let (status, said) = (
        alpha
            .machine
            .run(&["sync", "-w", alpha.dir.to_str().unwrap()])
            .status
            .code(),
        alpha.told(&["--dry-run"]),
    );
    assert!(
        status != Some(0) && said.contains("leads to this directory now"),
        "{said}"
    );
    alpha.machine.ok(&["adopt", alpha.dir.to_str().unwrap()]);
    wait_for("both are merged", &hub.world, || {
        alpha.text("f06") == "edited" && beta.has("stranger")
    });
    assert_eq!(fs::read_dir(&real).unwrap().count(), FILES + 1);
}

#[test]
fn a_directory_that_was_moved_and_linked_is_the_same_one() {
    let hub = Hub::start();
    let (alpha, real, _) = linked(&hub);
    alpha.pass();
    let moved = real.with_extension("moved");
    fs::rename(&real, &moved).unwrap();
    lead(&alpha.dir, &moved);
    let said = alpha.pass();
    assert_eq!(
        (&said["sent"], &said["received"], &said["conflicts"]),
        (&0.into(), &0.into(), &0.into()),
        "{said}"
    );
    assert_eq!(records(&hub).len(), FILES);
}

#[test]
fn a_link_whose_target_is_not_utf_8_is_named_and_stops_nothing() {
    use std::os::unix::ffi::OsStrExt;
    let (hub, mut alpha, beta) = pair();
    let target = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    std::os::unix::fs::symlink(target, alpha.at("link")).unwrap();
    // in place of a file that is synced, too
    fs::remove_file(alpha.at("sub/f03")).unwrap();
    std::os::unix::fs::symlink(target, alpha.at("sub/f03")).unwrap();
    wait_for("both are named", &hub.world, || {
        alpha.problems().matches("is not UTF-8").count() == 2
    });
    alpha.stop();
    alpha.start();
    alpha.put("file", "goes on");
    wait_for("the rest is synced", &hub.world, || {
        beta.text("file") == "goes on"
    });
    wait_for("both are named again", &hub.world, || {
        alpha.problems().matches("is not UTF-8").count() == 2
    });
    assert!(
        !beta.has("link") && beta.text("sub/f03") == "content 3" && alpha.condition() == "stuck"
    );
    alpha.stop();
    let said = alpha.told(&[]);
    assert!(
        said.contains("cannot sync link") && said.contains("caf"),
        "{said}"
    );
    alpha.start();
    for path in ["link", "sub/f03"] {
        fs::remove_file(alpha.at(path)).unwrap();
        std::os::unix::fs::symlink("café", alpha.at(path)).unwrap();
    }
    wait_for("both travel", &hub.world, || {
        beta.has("link") && beta.at("sub/f03").is_symlink()
    });
    settled(&hub.world, &[&alpha, &beta]);
}

/// A disk image of which little is filled, where only that has room.
#[test]
fn a_sparse_file_needs_room_for_its_data_only() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    const LENGTH: u64 = 90 << 20;
    let hub = Hub::start();
    let (alpha, beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    let Some(_disk) = Mount::new(
        &["-t", "tmpfs", "-o", "size=48m"],
        Path::new("none"),
        &beta.dir,
    ) else {
        return;
    };
    let image = fs::File::create(alpha.at("vm.img")).unwrap();
    image.set_len(LENGTH).unwrap();
    let boot = files::noise(7, 300_000);
    image.write_all_at(&boot, 50 << 20).unwrap();
    fs::write(alpha.at("full"), files::noise(8, 60 << 20)).unwrap();
    alpha.pass();
    let check = |path: &Path| {
        let file = fs::File::open(path).unwrap();
        let (meta, mut filled) = (file.metadata().unwrap(), vec![0; boot.len()]);
        file.read_exact_at(&mut filled, 50 << 20).unwrap();
        assert_eq!((meta.len(), filled == boot), (LENGTH, true));
        assert!(meta.blocks() * 512 < 20 << 20, "{} blocks", meta.blocks());
        // all else is zeros: the hash was compared
        meta.blocks()
    };
    let (status, said) = beta.try_pass(&[]);
    assert!(
        status != 0
            && said["unsyncable"].as_array().unwrap().len() == 1
            && said["unsyncable"][0]["path"] == "full",
        "{said}"
    );
    check(&beta.at("vm.img"));
    // renamed on one side: copied here, with its hole
    alpha.rename("vm.img", "renamed.img");
    alpha.remove("full");
    alpha.pass();
    beta.pass();
    check(&beta.at("renamed.img"));
    // edited: the rest is taken from the old one
    image.write_all_at(b"edited", 20 << 20).unwrap();
    alpha.pass();
    let said = beta.pass();
    assert!(
        said["bytes_received"].as_u64().unwrap() < 20 << 20,
        "{said}"
    );
    check(&beta.at("renamed.img"));
    // a file on command
    let to = beta.at("fetched");
    beta.machine
        .ok(&["download", "renamed.img", "-o", to.to_str().unwrap()]);
    check(&to);
}
