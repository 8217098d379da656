//! What `stat` does not tell, and what waits: changes that leave no time behind, and paths that cannot be synced now are named.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::files::Hub;
use crate::support::inject;
use crate::support::tree::{Synced, settled};
use crate::support::world::wait_for;

/// A program that has a page of a file mapped: xfs_io of xfsprogs.
struct Mapped {
    program: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Mapped {
    /// `None`, with a word, where there is no such program.
    fn of(path: &Path) -> Option<Mapped> {
        let spawned = Command::new("stdbuf")
            .args(["-oL", "xfs_io"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut program = spawned.ok()?;
        let (input, output) = (program.stdin.take(), BufReader::new(program.stdout.take()?));
        let mut mapped = Mapped {
            program,
            input,
            output,
        };
        let maps = mapped.run("mmap -rw 0 4096");
        if !maps {
            println!("SKIPPED: xfs_io (xfsprogs) is needed to write through a mapping");
        }
        maps.then_some(mapped)
    }

    fn run(&mut self, command: &str) -> bool {
        let mut line = String::new();
        let written = writeln!(self.input.as_mut().unwrap(), "{command}\nprint");
        while written.is_ok() && !line.contains("(0 : 4096)") {
            line.clear();
            if self.output.read_line(&mut line).unwrap_or(0) == 0 {
                return false;
            }
        }
        written.is_ok()
    }

    fn write(&mut self, byte: u8) {
        assert!(
            self.run(&format!("mwrite -S {byte} 0 4096")),
            "xfs_io ended"
        );
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.program.wait();
    }
}

#[test]
fn a_write_through_a_mapping_arrives_with_the_next_pass() {
    let hub = Hub::start();
    let (a, b) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    a.put("db", [0; 4096]);
    let Some(mut mapped) = Mapped::of(&a.at("db")) else {
        return;
    };
    for byte in 1..4 {
        mapped.write(byte);
        a.pass();
        b.pass();
        assert_eq!(b.read("db").unwrap(), [byte; 4096]);
        // the page was read just now: does this write show?
        mapped.write(byte + 100);
        a.pass();
        b.pass();
        assert_eq!(b.read("db").unwrap(), [byte + 100; 4096]);
    }
}

#[test]
fn an_edit_from_elsewhere_keeps_a_write_through_a_mapping() {
    let hub = Hub::start();
    let (mut a, b) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    a.put("db", [0; 4096]);
    let Some(mut mapped) = Mapped::of(&a.at("db")) else {
        return;
    };
    mapped.write(1);
    a.start();
    settled(&hub.world, &[&a]);
    b.pass();
    // no event tells of this
    mapped.write(2);
    b.put("db", "edited on beta");
    b.pass();
    wait_for("the edit arrives", &hub.world, || {
        a.text("db") == "edited on beta"
    });
    drop(mapped);
    wait_for("the copy is there", &hub.world, || {
        a.contents("sync-conflict").len() == 1
    });
    let copy = a
        .names()
        .into_iter()
        .find(|name| name.contains("sync-conflict"))
        .unwrap();
    assert_eq!(a.read(copy).unwrap(), [2; 4096]);
}

/// Whether files can be made immutable here.
fn chattr(flag: &str, path: &Path) -> bool {
    Command::new("chattr")
        .arg(flag)
        .arg(path)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[test]
fn a_path_that_this_machine_refused_is_retried_without_an_event() {
    let hub = Hub::start();
    let (a, mut b) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    a.put("edited", "one");
    a.put("deleted", "one");
    a.pass();
    b.start();
    settled(&hub.world, &[&b]);
    if !chattr("+i", &b.at("edited")) || !chattr("+i", &b.at("deleted")) {
        println!(
            "SKIPPED: root and a filesystem with attributes are needed to make a file immutable"
        );
        return;
    }
    a.put("edited", "two");
    a.remove("deleted");
    a.pass();
    wait_for("both are named", &hub.world, || {
        ["edited", "deleted"]
            .iter()
            .all(|name| b.problems().contains(name))
    });
    assert!(
        b.problems().contains("not permitted") && b.condition() == "stuck",
        "{}",
        b.status()
    );
    assert!(chattr("-i", &b.at("edited")) && chattr("-i", &b.at("deleted")));
    wait_for("both are done", &hub.world, || {
        b.text("edited") == "two" && !b.has("deleted")
    });
    wait_for("nothing is named", &hub.world, || {
        b.condition() == "in-sync"
    });
}

#[test]
fn a_pass_names_a_file_that_keeps_changing_and_the_reason() {
    if !inject::is_available() {
        return;
    }
    let hub = Hub::start();
    let mut a = Synced::new(&hub.world, "alpha");
    // the writer has its turn during each read, however busy the machine is
    a.machine.wrap = inject::slow("read,pread64", &a.at("hot"), 100);
    let script = format!("while n=$((n + 1)); do echo $n 1<>{:?}; done", a.at("hot"));
    let mut writer = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    wait_for("it is written", &hub.world, || a.has("hot"));
    let (status, said) = a.try_pass(&[]);
    let told = a.told(&[]);
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(
        (status, said["waiting"][0]["path"].as_str()),
        (75, Some("hot")),
        "{said}"
    );
    assert!(
        said["waiting"][0]["why"]
            .as_str()
            .unwrap()
            .contains("being written to"),
        "{said}"
    );
    assert!(told.contains("hot waits: "), "{told}");
    a.machine.wrap.clear();
    assert_eq!(a.pass()["waiting"], serde_json::json!([]));
}

fn set_time(synced: &Synced, path: &str, seconds: u64) {
    let at = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, 123_456_789);
    std::fs::File::options()
        .append(true)
        .open(synced.at(path))
        .unwrap()
        .set_modified(at)
        .unwrap();
}

fn time(synced: &Synced, path: &str) -> u64 {
    let at = synced
        .at(path)
        .metadata()
        .unwrap()
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(at.subsec_nanos(), 123_456_789);
    at.as_secs()
}

#[test]
fn a_time_that_is_set_after_the_file_was_closed_arrives_without_its_bytes() {
    let hub = Hub::start();
    let (a, b) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    a.put("f", "x".repeat(1000));
    a.pass();
    b.pass();
    set_time(&a, "f", 1_000_000_000);
    a.chmod("f", 0o640);
    assert_eq!(a.pass()["bytes_sent"], 0);
    assert_eq!(b.pass()["bytes_received"], 0);
    assert_eq!((time(&b, "f"), b.mode("f")), (1_000_000_000, 0o640));
    // nothing is sent back
    for synced in [&a, &b, &a] {
        assert_eq!(synced.pass()["sent"], 0);
    }
    // the time from there, the mode from here: both stay
    set_time(&b, "f", 1_100_000_000);
    b.pass();
    a.chmod("f", 0o600);
    for synced in [&a, &b, &a] {
        synced.pass();
    }
    for synced in [&a, &b] {
        assert_eq!(
            (time(synced, "f"), synced.mode("f")),
            (1_100_000_000, 0o600),
            "{}",
            synced.machine.name
        );
    }
}

#[test]
fn times_before_1970_travel_and_those_after_2262_become_the_last_that_can() {
    let hub = Hub::start();
    let (a, b) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    let seconds = |synced: &Synced, path: &str| {
        let meta = std::fs::metadata(synced.at(path)).unwrap();
        (
            std::os::unix::fs::MetadataExt::mtime(&meta),
            std::os::unix::fs::MetadataExt::mtime_nsec(&meta),
        )
    };
    let times = [
        "1955-06-01",
        "1969-12-31 23:59:59.5",
        "1970-01-01",
        "1901-12-14",
        "2262-04-01",
        "2300-01-01",
        "2400-01-01",
    ];
    for time in times {
        a.put(time, time);
        assert!(
            Command::new("touch")
                .args(["-d", &format!("{time} UTC")])
                .arg(a.at(time))
                .status()
                .unwrap()
                .success()
        );
    }
    let own: Vec<_> = times.iter().map(|time| seconds(&a, time)).collect();
    assert_eq!(
        own[1],
        (-1, 500_000_000),
        "the filesystem keeps times before 1970"
    );
    a.pass();
    b.pass();
    for (time, own) in times.iter().zip(&own) {
        let last = (i64::MAX / 1_000_000_000, i64::MAX % 1_000_000_000);
        assert_eq!(seconds(&b, time), (*own).min(last), "{time}");
    }
    // nothing is sent back, whatever can be read: the time of another file is no reason to set this
    // one
    for synced in [&a, &b, &a, &b] {
        let pass = synced.pass();
        assert_eq!(
            (&pass["sent"], &pass["received"]),
            (&0.into(), &0.into()),
            "{pass}"
        );
    }
    assert_eq!(
        times
            .iter()
            .map(|time| seconds(&a, time))
            .collect::<Vec<_>>(),
        own
    );
    // a file with such a time is like any other: edits and times travel from there on
    let last = times[times.len() - 1];
    b.put(last, "edited");
    b.pass();
    a.pass();
    assert_eq!(
        (a.read(last), seconds(&a, last)),
        (b.read(last), seconds(&b, last))
    );
}
