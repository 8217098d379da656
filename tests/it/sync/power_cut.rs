//! Power losses: the filesystem is shut down under the processes, so that data outside its journal
//! and disk are lost.
//!
//! Sender, hub and receiver each have their own disk, and any of them is cut off at random; for a
//! synced directory, the disk of the machine that sends and receives at that moment. Needs root,
//! loop devices, mkfs.ext4 and xfs_io; otherwise skipped with a message.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::files::Hub;
use crate::support::tree::{Synced, records, settled};
use crate::support::world::{Random, World, wait_for};

/// An ext4 in a file, mounted.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

fn quiet(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Disk {
    fn make(image: &Path, at: &Path) -> Option<Disk> {
        Disk::sized(image, at, 64 << 20)
    }

    fn sized(image: &Path, at: &Path, size: u64) -> Option<Disk> {
        let disk = Disk {
            image: image.into(),
            at: at.into(),
        };
        std::fs::create_dir_all(at).unwrap();
        std::fs::File::create(image).unwrap().set_len(size).unwrap();
        let made = quiet("mkfs.ext4", &["-q", "-F", text(image)])
            && disk.mount()
            && quiet("chmod", &["700", text(at)])
            && quiet("xfs_io", &["-V"]);
        if !made {
            assert!(
                std::env::var_os("CI").is_none(),
                "cannot make a disk to cut: mkfs.ext4, loop devices and xfs_io (xfsprogs) are needed"
            );
            println!(
                "SKIPPED: root, mkfs.ext4, loop devices and xfs_io are needed to cut the power of a disk"
            );
        }
        made.then_some(disk)
    }

    fn mount(&self) -> bool {
        quiet("mount", &["-o", "loop", text(&self.image), text(&self.at)])
    }

    /// From here on nothing reaches the disk, and every sync fails. The machine with that disk
    /// stops first, as in a power loss: a sync that is running during the cut may return success
    /// although the data are not on the disk, and no process may see that.
    fn cut(&self, machine: u32) {
        stop(machine);
        self.shut_down();
    }

    fn shut_down(&self) {
        assert!(quiet("xfs_io", &["-x", "-c", "shutdown", text(&self.at)]));
    }

    /// What survived is there again. All processes that used it must have ended.
    fn back(&self, world: &World) {
        wait_for("the disk is free", world, || {
            quiet("umount", &[text(&self.at)])
        });
        // also in the namespaces of processes that have just ended
        let used = || {
            Command::new("losetup")
                .arg("-j")
                .arg(&self.image)
                .output()
                .map_or(0, |out| out.stdout.len())
        };
        wait_for("nobody has it mounted", world, || used() == 0);
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
    let runs = |stat: String| {
        !matches!(
            stat.rsplit_once(") ").map(|(_, state)| state.as_bytes()[0]),
            Some(b'T' | b'D')
        )
    };
    let threads = || {
        std::fs::read_dir(format!("/proc/{process}/task"))
            .unwrap()
            .flatten()
    };
    while threads()
        .any(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(runs))
    {
        std::thread::yield_now();
    }
}

#[test]
fn acknowledged_messages_survive_a_power_cut_and_arrive_once() {
    const CUTS: usize = 15;
    let mut random = Random::seeded("acknowledged_messages_survive_a_power_cut_and_arrive_once");
    let mut world = World::new();
    let (mut alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    let image = |name: &str| world.dir.path().join(format!("{name}.img"));
    let Some(senders) = Disk::make(&image("alpha"), &alpha.base) else {
        return;
    };
    let Some(receivers) = Disk::make(&image("beta"), &beta.base) else {
        return;
    };
    let Some(hubs) = Disk::make(&image("hub"), &world.hub_dir()) else {
        return;
    };
    for machine in [&mut alpha, &mut beta] {
        machine
            .env
            .push(("MESYNC_POLL_INTERVAL".into(), "1".into()));
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
    wait_for("everything has left the outbox", &world, || {
        alpha.names("outbox").is_empty()
    });
    wait_for("everything is in the inbox", &world, || {
        beta.names("inbox").len() >= acknowledged.len()
    });
    let mut times = BTreeMap::new();
    for message in beta.messages("inbox") {
        *times
            .entry(message["payload"].as_u64().unwrap())
            .or_insert(0) += 1;
    }
    assert!(alpha.names("failed").is_empty());
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(_, n)| !times.contains_key(n))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}\n{}", world.logs());
    println!(
        "{CUTS} power cuts, {} messages acknowledged, {} sent",
        acknowledged.len(),
        times.len()
    );
    alpha.kill();
    beta.kill();
    world.kill_hub();
}

/// A machine whose directory and base directory are on a disk to cut.
fn synced_on(disk: &Disk, world: &World, name: &str) -> Synced {
    let mut machine = world.machine(name);
    machine.base = disk.at.join("base");
    let dir = disk.at.join("files");
    std::fs::create_dir(&dir).unwrap();
    Synced {
        machine,
        dir,
        flags: Vec::new(),
    }
}

/// What a person writes: which name, which version of it, and so many bytes, so that half of it is known as such.
fn version(name: &str, n: u64, length: u64) -> Vec<u8> {
    let mut bytes = format!("{name} {n} {length}\n").into_bytes();
    bytes.resize(bytes.len() + length as usize, b'x');
    bytes
}

/// The number of the version that this is, whole.
fn which(name: &str, bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (first, _) = text.split_once('\n')?;
    let numbers: Vec<u64> = first
        .strip_prefix(name)?
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    (version(name, numbers[0], numbers[1]) == bytes).then_some(numbers[0])
}

/// As an editor saves that takes care, or one that does not sync. `true`: it is on the disk.
fn save(path: &Path, bytes: &[u8], synced: bool) -> bool {
    let beside = path.with_extension("part~");
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        if synced { file.sync_all() } else { Ok(()) }
    });
    let renamed = written.and_then(|()| std::fs::rename(&beside, path));
    synced
        && renamed
            .and_then(|()| std::fs::File::open(path.parent().unwrap())?.sync_all())
            .is_ok()
}

/// What runs a program so that it believes in another boot at each call: that is a number in a file that the kernel shows.
/// Empty, with a word: this user may not.
fn another_boot(world: &World) -> Vec<String> {
    let number = world.dir.path().join("boot");
    std::fs::write(&number, format!("{}\n", uuid::Uuid::new_v4())).unwrap();
    // the copies of others' disks there would keep them from being unmounted
    let others = format!(
        "grep ^/dev/loop /proc/self/mounts | cut -d' ' -f2 | grep -v ^{}/ | xargs -r umount -l",
        text(world.dir.path())
    );
    let script = format!(
        "{others}; mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"",
        text(&number)
    );
    let wrap = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(String::from);
    let words: Vec<&str> = wrap[1..]
        .iter()
        .map(String::as_str)
        .chain(["true"])
        .collect();
    if quiet(&wrap[0], &words) {
        return wrap.to_vec();
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "cannot make a mount namespace"
    );
    println!("SKIPPED: only root can change the number of the boot");
    Vec::new()
}

#[test]
fn a_synced_directory_survives_the_power_cut_whole() {
    const CUTS: usize = 6;
    const NAMES: u64 = 12;
    let mut random = Random::seeded("a_synced_directory_survives_the_power_cut_whole");
    let hub = Hub::start();
    let world = &hub.world;
    // a download leaves room on the disk
    let Some(disk) = Disk::sized(
        &world.dir.path().join("alpha.img"),
        &world.dir.path().join("alpha-disk"),
        512 << 20,
    ) else {
        return;
    };
    let (mut alpha, mut beta) = (synced_on(&disk, world, "alpha"), Synced::new(world, "beta"));
    alpha.start();
    beta.start();
    // by name: the last version that was written, and the last that is on a disk
    let mut all: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for _ in 0..CUTS {
        let (acts, mut is_cut) = (60 + random.below(60), false);
        for at in 0..acts {
            if at == acts * 3 / 4 {
                disk.cut(alpha.machine.pid());
                is_cut = true;
            }
            // one writer for each name: of a and u alpha, and it syncs no u
            let kind = ["a", "b", "u"][random.below(3) as usize];
            if is_cut && kind != "b" {
                continue;
            }
            let name = format!("{kind}{}", random.below(NAMES));
            let (last, safe) = all.entry(name.clone()).or_default();
            *last += 1;
            let length = [10, 5_000, 200_000][random.below(3) as usize];
            let dir = if kind == "b" { &beta.dir } else { &alpha.dir };
            if save(
                &dir.join(&name),
                &version(&name, *last, length),
                kind != "u",
            ) {
                *safe = *last;
            }
        }
        alpha.machine.kill();
        disk.back(world);
        // what the disk has kept; before anything is done about it
        let empty = alpha
            .names()
            .iter()
            .filter(|name| alpha.read(name).is_some_and(|bytes| bytes.is_empty()))
            .count();
        println!(
            "cut after {acts} acts, {} names are left, {empty} of them empty",
            alpha.names().len()
        );
        for name in alpha
            .names()
            .iter()
            .filter(|name| name.starts_with(['a', 'b']) && !name.ends_with('~'))
        {
            assert!(
                which(name, &alpha.read(name).unwrap()).is_some(),
                "{name} is not whole: {:?}",
                alpha.text(name)
            );
        }
        let had_bytes: BTreeSet<String> = records(&hub)
            .into_iter()
            .filter(|(_, row)| row["size"] != 0)
            .map(|(name, _)| name)
            .collect();
        alpha.machine.wrap = another_boot(world);
        alpha.start();
        settled(world, &[&alpha, &beta]);
        // a file that was not synced may be an older version, or missing, but if the hub had one it
        // is complete
        for name in had_bytes
            .iter()
            .filter(|name| !name.contains('.') && beta.has(name))
        {
            assert!(
                which(name, &beta.read(name).unwrap()).is_some(),
                "{name} is not whole: {:?}",
                beta.text(name)
            );
        }
    }
    alpha.put("last", "x");
    beta.put("least", "x");
    wait_for("both go on", world, || {
        beta.has("last") && alpha.has("least")
    });
    let tree = settled(world, &[&alpha, &beta]);
    for (name, (last, safe)) in all.iter().filter(|(name, _)| !name.starts_with('u')) {
        let found = beta.read(name).and_then(|bytes| which(name, &bytes));
        assert!(
            found.is_some_and(|n| (*safe..=*last).contains(&n)),
            "{name}: {found:?} of {safe} to {last}\n{}",
            world.logs()
        );
    }
    println!(
        "{CUTS} power cuts, {} names, {} conflict copies",
        tree.len(),
        beta.contents(".sync-conflict-").len()
    );
    alpha.machine.kill();
}

#[test]
fn a_file_that_another_boot_left_empty_or_zero_is_no_edit() {
    let hub = Hub::start();
    let mut alpha = Synced::new(&hub.world, "alpha");
    let mut beta = Synced::new(&hub.world, "beta");
    let wrap = another_boot(&hub.world);
    if wrap.is_empty() {
        return;
    }
    alpha.put("f", "bytes");
    alpha.put("g", "bytes");
    alpha.put("h", "bytes");
    alpha.start();
    beta.start();
    wait_for("all arrive", &hub.world, || {
        ["f", "g", "h"].iter().all(|name| beta.has(name))
    });
    settled(&hub.world, &[&alpha, &beta]);
    // within one boot it is an edit like any other
    alpha.machine.kill();
    alpha.put("g", "");
    alpha.start();
    wait_for("it is an edit", &hub.world, || beta.text("g").is_empty());
    settled(&hub.world, &[&alpha, &beta]);
    // in another one, both are kept
    alpha.machine.kill();
    alpha.put("f", "");
    alpha.put("h", "\0\0\0\0\0\0");
    alpha.machine.wrap = wrap;
    alpha.start();
    wait_for("both are kept", &hub.world, || {
        beta.contents("f.sync-conflict-") == [""]
            && beta.contents("h.sync-conflict-") == ["\0\0\0\0\0\0"]
            && alpha.text("f") == "bytes"
            && alpha.text("h") == "bytes"
    });
    settled(&hub.world, &[&alpha, &beta]);
    assert_eq!(
        (
            beta.text("f"),
            beta.text("h"),
            alpha.text("g"),
            beta.text("g")
        ),
        ("bytes".into(), "bytes".into(), String::new(), String::new())
    );
    // after a clean stop, an empty file was emptied by a user, in whichever boot it is found
    alpha.stop();
    alpha.put("f", "");
    alpha.machine.wrap.clear();
    alpha.start();
    wait_for("it is an edit", &hub.world, || beta.text("f").is_empty());
    assert_eq!(settled(&hub.world, &[&alpha, &beta]).len(), 5);
}
