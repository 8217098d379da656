//! Power cuts: the filesystem is shut down under the processes, so that what is not in its journal or on its disk is gone.
//!
//! Sender, hub and receiver each have a disk of their own, and any of them is cut at random. It needs root, loop devices,
//! mkfs.ext4 and xfs_io; elsewhere it says that it was skipped.

#![allow(clippy::disallowed_methods)] // the test is a user

#[path = "support/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use world::{Random, World, wait_for};

/// An ext4 in a file, mounted.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

fn quiet(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Disk {
    fn make(image: &Path, at: &Path) -> Option<Disk> {
        let disk = Disk { image: image.into(), at: at.into() };
        std::fs::create_dir_all(at).unwrap();
        std::fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
        let made = quiet("mkfs.ext4", &["-q", "-F", text(image)])
            && disk.mount()
            && quiet("chmod", &["700", text(at)])
            && quiet("xfs_io", &["-V"]);
        if !made {
            assert!(
                std::env::var_os("CI").is_none(),
                "cannot make a disk to cut: mkfs.ext4, loop devices and xfs_io (xfsprogs) are needed"
            );
            println!("SKIPPED: root, mkfs.ext4, loop devices and xfs_io are needed to cut the power of a disk");
        }
        made.then_some(disk)
    }

    fn mount(&self) -> bool {
        quiet("mount", &["-o", "loop", text(&self.image), text(&self.at)])
    }

    /// From here on nothing reaches the disk, and every sync fails. The machine whose disk it is stops first, as it does when
    /// its power is cut: a sync that is under way during the cut may return success for what is not there, and nobody must
    /// be told so.
    fn cut(&self, machine: u32) {
        stop(machine);
        self.shut_down();
    }

    fn shut_down(&self) {
        assert!(quiet("xfs_io", &["-x", "-c", "shutdown", text(&self.at)]));
    }

    /// What survived is there again. All processes that used it must have ended.
    fn back(&self, world: &World) {
        wait_for("the disk is free", world, || quiet("umount", &[text(&self.at)]));
        assert!(self.mount());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        quiet("umount", &["-l", text(&self.at)]);
    }
}

/// SIGSTOP; returns when no thread runs any more, but for those that are in the kernel and do not come back from there.
fn stop(process: u32) {
    let pid = rustix::process::Pid::from_raw(process as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let runs = |stat: String| !matches!(stat.rsplit_once(") ").map(|(_, state)| state.as_bytes()[0]), Some(b'T' | b'D'));
    let threads = || std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    while threads().any(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(runs)) {
        std::thread::yield_now();
    }
}

#[test]
fn what_was_acknowledged_survives_the_power_cut_and_comes_once() {
    const CUTS: usize = 15;
    let mut random = Random::seeded("what_was_acknowledged_survives_the_power_cut_and_comes_once");
    let mut world = World::new();
    let (mut alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    let image = |name: &str| world.dir.path().join(format!("{name}.img"));
    let Some(senders) = Disk::make(&image("alpha"), &alpha.base) else { return };
    let Some(receivers) = Disk::make(&image("beta"), &beta.base) else { return };
    let Some(hubs) = Disk::make(&image("hub"), &world.hub_dir()) else { return };
    for machine in [&mut alpha, &mut beta] {
        machine.env.push(("MESYNC_POLL_INTERVAL".into(), "1".into()));
    }
    world.start_hub();
    beta.ok(&["start", "--once"]);
    alpha.start();
    beta.start();

    let mut acknowledged = Vec::new();
    let mut n = 0;
    for _ in 0..CUTS {
        let victim = random.below(3);
        let cut_after = 5 + random.below(30);
        // more than a batch that is synced file by file, now and then
        for at in 0..cut_after + random.below(20) {
            if at == cut_after {
                match victim {
                    0 => senders.cut(alpha.pid()),
                    1 => receivers.cut(beta.pid()),
                    _ => hubs.cut(world.hub_pid()),
                }
            }
            n += 1;
            let out = alpha.run(&["send", "power", "--payload", &n.to_string()]);
            if out.status.success() {
                acknowledged.push((String::from_utf8(out.stdout).unwrap().trim().to_string(), n));
            }
        }
        match victim {
            0 => {
                senders.cut(alpha.pid());
                alpha.kill();
                senders.back(&world);
                alpha.start();
            }
            1 => {
                receivers.cut(beta.pid());
                beta.kill();
                receivers.back(&world);
                beta.start();
            }
            _ => {
                hubs.cut(world.hub_pid());
                world.kill_hub();
                hubs.back(&world);
                world.start_hub();
            }
        }
    }
    wait_for("everything has left the outbox", &world, || alpha.names("outbox").is_empty());
    wait_for("everything is in the inbox", &world, || beta.names("inbox").len() >= acknowledged.len());
    let mut times = BTreeMap::new();
    for message in beta.messages("inbox") {
        *times.entry(message["payload"].as_u64().unwrap()).or_insert(0) += 1;
    }
    assert!(alpha.names("failed").is_empty());
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let lost: Vec<_> = acknowledged.iter().filter(|(_, n)| !times.contains_key(n)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}\n{}", world.logs());
    println!("{CUTS} power cuts, {} messages acknowledged, {} sent", acknowledged.len(), times.len());
    alpha.kill();
    beta.kill();
    world.kill_hub();
}
