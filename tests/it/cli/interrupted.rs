//! Transfers that are killed, that lose their hub, or whose file changes meanwhile; and how much memory they take.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::time::Duration;

use super::transfer::{MIB, Place, noise, text};
use crate::support::world::{Random, binary, wait_for};

#[test]
fn an_upload_that_was_killed_resumes() {
    let place = Place::new();
    let mut random = Random::seeded("an_upload_that_was_killed_resumes");
    let bytes = noise(9, 30 * MIB);
    place.put("file", &bytes);
    let begin = place.proxy.up();
    for _ in 0..3 {
        place.proxy.hold_up(Some(random.below(8 * MIB) + 1));
        place.kill_at(&["upload", "file"]);
        place.fails(&["info", "file"], 1, "there is no file");
    }
    place.ok(&["upload", "file"]);
    // each time, at most the chunk that was on its way
    let sent = place.proxy.up() - begin;
    assert!(sent < 30 * MIB + 3 * 8 * MIB, "{sent} bytes");
    place.ok(&["download", "file", "-o", "copy"]);
    assert!(std::fs::read(place.at("copy")).unwrap() == bytes);
    println!("30 MiB, killed three times: {sent} bytes sent");
}

#[test]
fn a_download_that_was_killed_resumes() {
    let place = Place::new();
    let mut random = Random::seeded("a_download_that_was_killed_resumes");
    let bytes = noise(10, 30 * MIB);
    place.put("file", &bytes);
    place.ok(&["upload", "file"]);
    place.put("file", b"the old one");
    let begin = place.proxy.down();
    for round in 0..3 {
        place.proxy.hold_down(Some(random.below(8 * MIB) + 100_000));
        place.kill_at(&["download", "file"]);
        assert_eq!(std::fs::read(place.at("file")).unwrap(), b"the old one");
        assert_eq!(place.hidden().len(), 1);
        if round == 1 {
            // as a power cut may leave it: the end of what was there is zeros
            let partial = File::options()
                .write(true)
                .open(place.at(&place.hidden()[0]))
                .unwrap();
            let length = partial.metadata().unwrap().len();
            partial
                .write_all_at(&vec![0; (length / 4) as usize], length - length / 4)
                .unwrap();
        }
    }
    place.ok(&["download", "file"]);
    let got = place.proxy.down() - begin;
    assert!(got < 30 * MIB + 4 * 8 * MIB, "{got} bytes");
    assert!(std::fs::read(place.at("file")).unwrap() == bytes);
    assert_eq!(place.hidden().len(), 0);
    println!("30 MiB, killed three times: {got} bytes fetched");
}

#[test]
fn bytes_that_are_damaged_on_the_way_are_fetched_again() {
    let place = Place::new();
    let bytes = noise(12, 30 * MIB);
    place.put("file", &bytes);
    place.ok(&["upload", "file"]);
    for (at, most) in [(25 * MIB, 30 + 14), (2 * MIB, 62)] {
        let begin = place.proxy.down();
        place.proxy.damage_down(at);
        place.ok(&["download", "file", "-o", "copy"]);
        assert!(std::fs::read(place.at("copy")).unwrap() == bytes);
        let got = place.proxy.down() - begin;
        assert!((30 * MIB..most * MIB).contains(&got), "{got} bytes");
        std::fs::remove_file(place.at("copy")).unwrap();
    }
    assert_eq!(place.hidden().len(), 0);
}

#[test]
fn a_hub_that_is_started_again_is_waited_for() {
    let mut place = Place::new();
    // more than the buffers of the connections hold
    let bytes = noise(11, 64 * MIB);
    place.put("file", &bytes);
    for (args, way) in [(["upload", "file"], "up"), (["download", "file"], "down")] {
        match way {
            "up" => place.proxy.hold_up(Some(9 * MIB)),
            _ => {
                // it would be put together from this one
                std::fs::remove_file(place.at("file")).unwrap();
                place.proxy.hold_down(Some(9 * MIB));
            }
        }
        let mut child = place.command(&args).spawn().unwrap();
        wait_for("half of it has passed", &place.world, || {
            place.proxy.is_held()
        });
        place.world.kill_hub();
        place.proxy.hold_up(None);
        place.proxy.hold_down(None);
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = said.next().map(Result::unwrap).unwrap_or_default();
        assert!(
            first.contains("; retrying"),
            "{args:?} says {first:?}, and ends with {:?}\n{}",
            child.wait(),
            place.world.logs()
        );
        place.world.start_hub();
        let ended = child.wait().unwrap();
        assert!(
            ended.success(),
            "{args:?} {:?}\n{}",
            said.next(),
            place.world.logs()
        );
    }
    assert!(std::fs::read(place.at("file")).unwrap() == bytes);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_uploaded() {
    let place = Place::new();
    for (size, hold) in [(20 * MIB, 9 * MIB), (8 * MIB, MIB)] {
        let path = place.put("file", &noise(12, size));
        place.proxy.hold_up(Some(hold));
        let child = place.command(&["upload", "file"]).spawn().unwrap();
        wait_for("half of it has passed", &place.world, || {
            place.proxy.is_held()
        });
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"changed", size - 7).unwrap();
        place.proxy.hold_up(None);
        let output = child.wait_with_output().unwrap();
        let err = text(&output.stderr);
        assert!(
            output.status.code() == Some(75) && err.contains("changed while it was read"),
            "{size}: {err}"
        );
        place.fails(&["download", "file", "-o", "copy"], 1, "there is no file");
        place.ok(&["upload", "file"]);
        place.ok(&["rm", "file"]);
    }
}

#[test]
fn two_downloads_of_one_file_do_not_disturb_each_other() {
    let place = Place::new();
    place.put("file", &noise(13, 12 * MIB));
    place.ok(&["upload", "file"]);
    std::fs::remove_file(place.at("file")).unwrap();
    place.proxy.hold_down(Some(6 * MIB));
    let first = place.command(&["download", "file"]).spawn().unwrap();
    wait_for("half of it has passed", &place.world, || {
        place.proxy.is_held()
    });
    let direct = || {
        place
            .command(&["download", "file"])
            .env("MESYNC_SERVER_URL", place.world.url())
            .output()
            .unwrap()
    };
    let second = direct();
    assert!(
        second.status.code() == Some(75)
            && text(&second.stderr).contains("another download of it is running"),
        "{second:?}"
    );
    place.proxy.hold_down(None);
    assert!(first.wait_with_output().unwrap().status.success());
    assert!(direct().status.success() && place.hidden().is_empty());
}

/// The peak of a process's memory in KiB, as long as it runs.
fn peak(child: &mut Child) -> u64 {
    let (mut most, path) = (0, format!("/proc/{}/status", child.id()));
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        most = most.max(
            line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
                .unwrap_or(0),
        );
        std::thread::park_timeout(Duration::from_millis(2));
    }
    most
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let place = Place::new();
    let given = std::env::var_os("MESYNC_TEST_BINARY").is_some();
    let room = rustix::fs::statvfs(place.at("")).map_or(0, |s| s.f_bavail * s.f_frsize);
    // four times the size: the file, the hub's chunks, the copy, and air
    let size = if given && room > 16 << 30 {
        4 << 30
    } else {
        100 * MIB
    };
    // pages of a debug build's own code count too
    let most = if given { 20 * 1024 } else { 40 * 1024 };
    let block = noise(14, MIB);
    let file = File::create(place.at("file")).unwrap();
    for n in 0..size / MIB {
        file.write_all_at(&n.to_le_bytes(), n * MIB).unwrap();
        file.write_all_at(&block[8..], n * MIB + 8).unwrap();
    }
    let measure = |args: &[&str]| {
        let began = std::time::Instant::now();
        let mut child = place
            .command(args)
            .env("MESYNC_SERVER_URL", place.world.url())
            .spawn()
            .unwrap();
        let peak = peak(&mut child);
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}\n{}",
            text(&output.stderr),
            place.world.logs()
        );
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{args:?}: {} MiB in {seconds:.1} s ({:.0} MiB/s), at most {peak} KiB of memory",
            size / MIB,
            (size / MIB) as f64 / seconds
        );
        assert!(peak < most, "{args:?} took {peak} KiB");
    };
    measure(&["upload", "file"]);
    measure(&["upload", "file"]);
    measure(&["download", "file", "-o", "copy"]);
    measure(&["download", "file", "-o", "copy"]);
    let same = Command::new("cmp")
        .arg(place.at("file"))
        .arg(place.at("copy"))
        .status();
    assert!(same.is_ok_and(|s| s.success()));
    assert!(binary().exists());
}
