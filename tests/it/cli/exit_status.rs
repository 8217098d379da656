//! How a pass ends that cannot do all of its work: with the exit status of what was wrong, for files and for messages.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::inject::{self, Fault};
use crate::support::space::left_out;
use crate::support::world::{Machine, World};

struct Pass {
    world: World,
    machine: Machine,
    dir: PathBuf,
}

impl Pass {
    /// A hub, and a machine that has made a pass over a directory with one file.
    fn begun() -> Pass {
        let pass = Pass::new();
        fs::write(pass.dir.join("first"), "1").unwrap();
        pass.ends(0, "");
        pass
    }

    /// A hub, and a machine with an empty directory that has made no pass.
    fn new() -> Pass {
        let mut world = World::new();
        world.start_hub();
        let (machine, dir) = (world.machine("alpha"), world.dir.path().join("share"));
        fs::create_dir_all(&machine.base).unwrap();
        fs::create_dir(&dir).unwrap();
        Pass {
            world,
            machine,
            dir,
        }
    }

    fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    fn sync(&self) -> Command {
        self.machine
            .command(&["sync", "-w", self.dir(), "--remote", "share"])
    }

    /// `sync` ends with this status, and so does the pass of cron over files and messages.
    #[track_caller]
    fn ends(&self, status: i32, says: &str) {
        check(&self.sync().output().unwrap(), status, says);
        let settings = format!("[[watch]]\npath = \"{}\"\nremote = \"share\"\n", self.dir());
        fs::write(self.machine.base.join("config.toml"), settings).unwrap();
        let out = self.machine.run(&["start", "--once"]);
        assert_eq!(out.status.code(), Some(status), "{out:?}");
    }

    /// Another machine sends a file.
    fn another_sends(&self, name: &str, bytes: usize) {
        let (other, dir) = (
            self.world.machine("beta"),
            self.world.dir.path().join("other"),
        );
        fs::create_dir_all(&dir).unwrap();
        other.ok(&["sync", "-w", dir.to_str().unwrap(), "--remote", "share"]);
        fs::write(dir.join(name), vec![b'x'; bytes]).unwrap();
        other.ok(&["sync", "-w", dir.to_str().unwrap(), "--remote", "share"]);
    }
}

#[track_caller]
fn check(out: &Output, status: i32, says: &str) {
    let said =
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.code() == Some(status) && said.contains(says),
        "wanted {status} and {says:?}: {out:?}"
    );
}

/// A small disk, unmounted with the test. `None`: this user may not mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Option<Disk> {
        if mount(at, "size=8m") {
            return Some(Disk(at.to_path_buf()));
        }
        left_out("only root can mount a disk");
        None
    }

    /// Writes until nothing fits.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        for piece in [65536, 4096, 512, 1] {
            while file.write_all(&vec![7; piece]).is_ok() {}
        }
    }
}

fn mount(at: &Path, options: &str) -> bool {
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(at)
        .status();
    done.is_ok_and(|s| s.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_hub_that_is_away_is_69() {
    let mut pass = Pass::begun();
    pass.world.kill_hub();
    pass.machine.ok(&["send", "a.message"]);
    pass.ends(69, "cannot reach hub");
}

#[test]
fn a_key_that_is_refused_is_77() {
    let mut pass = Pass::begun();
    let mut hub = pass.world.hub_command();
    assert!(
        hub.args(["key", "add", "beta"])
            .output()
            .unwrap()
            .status
            .success()
    );
    pass.machine
        .env
        .push(("MESYNC_API_KEY".into(), "a-key-of-nobody".into()));
    pass.ends(77, "refuses this machine");
}

#[test]
fn an_unreadable_file_is_74() {
    if !inject::is_available() {
        return;
    }
    let pass = Pass::begun();
    let name = pass.dir.join("broken");
    fs::write(&name, "bytes").unwrap();
    let fault = |only: &Path, call| Fault {
        for_ever: true,
        only: vec![only.into()],
        ..Fault::new(call, 1, "EIO", &pass.world.dir.path().join("trace"))
    };
    let out = inject::wrap(&pass.sync(), &fault(&name, "read"))
        .output()
        .unwrap();
    check(&out, 74, "cannot");
    pass.ends(0, "");

    let message = pass.machine.dir("outbox").join("broken.json");
    fs::write(&message, "{\"type\": \"a\", \"payload\": 1}").unwrap();
    let once = pass.machine.command(&["start", "--once"]);
    let out = inject::wrap(&once, &fault(&message, "read,openat"))
        .output()
        .unwrap();
    check(&out, 74, "broken.json");
    pass.ends(0, "");
}

#[test]
fn a_file_that_finds_no_room_is_75() {
    let pass = Pass::new();
    let Some(_disk) = Disk::mount(&pass.dir) else {
        return;
    };
    pass.ends(0, "");
    pass.another_sends("large", 16 << 20);
    pass.ends(75, "free space on that disk");
}

#[test]
fn a_base_directory_on_a_full_disk_is_75() {
    let pass = Pass::new();
    let Some(disk) = Disk::mount(&pass.machine.base) else {
        return;
    };
    pass.ends(0, "");
    pass.machine.ok(&["send", "a.message"]);
    disk.fill();
    fs::write(pass.dir.join("second"), "2").unwrap();
    check(&pass.sync().output().unwrap(), 75, "no space left");
    check(&pass.machine.run(&["start", "--once"]), 75, "no space left");
}

#[test]
fn a_disk_that_may_not_be_written_to_is_73() {
    let pass = Pass::new();
    let Some(disk) = Disk::mount(&pass.machine.base) else {
        return;
    };
    pass.ends(0, "");
    assert!(mount(&disk.0, "remount,ro"));
    fs::write(pass.dir.join("second"), "2").unwrap();
    check(&pass.sync().output().unwrap(), 73, "read-only");
    check(&pass.machine.run(&["start", "--once"]), 73, "read-only");
}
