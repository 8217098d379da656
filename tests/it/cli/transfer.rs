//! Files to a real hub and back: names, modes and times, interruptions, how much travels, how much memory it takes.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::support::proxy::Proxy;
use crate::support::world::{Machine, Random, World, wait_for};

pub(super) const MIB: u64 = 1024 * 1024;

/// A hub, a machine that reaches it over a proxy, and a directory in which its commands run.
pub(super) struct Place {
    pub(super) world: World,
    pub(super) machine: Machine,
    pub(super) proxy: Proxy,
}

impl Place {
    pub(super) fn new() -> Place {
        let mut world = World::new();
        world.start_hub();
        let (machine, proxy) = (world.machine("machine-1"), Proxy::to(world.port));
        let place = Place {
            world,
            machine,
            proxy,
        };
        std::fs::create_dir(place.at("")).unwrap();
        place
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.world.dir.path().join("work").join(name)
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), bytes).unwrap();
        self.at(name)
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(args);
        command
            .env("MESYNC_SERVER_URL", self.proxy.url())
            .current_dir(self.at(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(super) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    pub(super) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}\n{}",
            text(&output.stderr),
            self.world.logs()
        );
        text(&output.stdout).trim_end().to_string()
    }

    #[track_caller]
    pub(super) fn json(&self, args: &[&str]) -> Vec<Value> {
        self.ok(args)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[track_caller]
    pub(super) fn fails(&self, args: &[&str], status: i32, wants: &str) {
        let output = self.run(args);
        let err = text(&output.stderr);
        assert!(
            output.status.code() == Some(status) && err.contains(wants),
            "{args:?}: {} {err}\n{}",
            output.status,
            self.world.logs()
        );
    }

    /// Starts a command and ends it with SIGKILL once the proxy has let so much through.
    pub(super) fn kill_at(&self, args: &[&str]) {
        let mut child = self.command(args).spawn().unwrap();
        wait_for("as much has passed as may", &self.world, || {
            self.proxy.is_held()
        });
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        self.proxy.hold_up(None);
        self.proxy.hold_down(None);
    }

    /// Names in the working directory that are hidden.
    pub(super) fn hidden(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.at(""))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|n| n.starts_with(".mesync")).collect()
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that look random.
pub(super) fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut out = Vec::with_capacity(length as usize + 8);
    while (out.len() as u64) < length {
        out.extend_from_slice(&random.below(u64::MAX).to_le_bytes());
    }
    out.truncate(length as usize);
    out
}

pub(super) fn stat(path: &Path) -> (u32, i64, i64, u64) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    (
        meta.mode() & 0o7777,
        meta.mtime(),
        meta.mtime_nsec(),
        meta.size(),
    )
}

#[test]
fn a_file_is_downloaded_unchanged() {
    let place = Place::new();
    let cases: &[(&str, u64, u32)] = &[
        ("empty", 0, 0o600),
        ("one", 1, 0o755),
        ("quo\"te's \\ back.txt", 65_536, 0o644),
        ("é\u{1f600}\nline", 65_537, 0o400),
        ("-rf", 262_144, 0o777),
        ("%2e%2e", 8 * MIB - 1, 0o640),
        ("8 MiB", 8 * MIB, 0o601),
        ("more", 8 * MIB + 1, 0o644),
        ("long", 20 * MIB, 0o644),
    ];
    for (i, (name, size, mode)) in cases.iter().enumerate() {
        let bytes = noise(i as u64, *size);
        let path = place.put(name, &bytes);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::new(1_000_000_000 + i as u64, 123_456_789))
            .unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
        let before = stat(&path);
        let sent = place.json(&["upload", "--json", "--path", "a/b", "--", name]);
        assert_eq!(
            (&sent[0]["outcome"], &sent[0]["size"]),
            (&"created".into(), &(*size).into()),
            "{name}"
        );
        std::fs::remove_file(&path).unwrap();
        let got = place.json(&["download", "--json", &format!("a/b/{name}")]);
        assert_eq!(
            (&got[0]["id"], &got[0]["rev"], &got[0]["file"]),
            (&sent[0]["id"], &sent[0]["rev"], &Value::from(*name))
        );
        assert_eq!(
            (stat(&path), std::fs::read(&path).unwrap() == bytes),
            (before, true),
            "{name}"
        );
        let piped = place.run(&["download", sent[0]["id"].as_str().unwrap(), "-o", "-"]);
        assert!(piped.status.success() && piped.stdout == bytes, "{name}");
    }
    assert_eq!(
        (place.json(&["ls", "--json"]).len(), place.hidden().len()),
        (cases.len(), 0)
    );
}

#[test]
fn a_directory_travels_with_all_that_can_and_is_sent_once() {
    let place = Place::new();
    let mut total = 0;
    for n in 0..300u64 {
        let bytes = noise(n, n * 300);
        total += bytes.len() as u64;
        place.put(&format!("tree/{}/f{n}", n % 7), &bytes);
    }
    place.put("tree/mid", &noise(1000, 300_000));
    place.put("tree/long", &noise(1001, 9 * MIB));
    std::fs::create_dir(place.at("tree/hollow")).unwrap();
    std::os::unix::fs::symlink("../outside\\", place.at("tree/link")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.at("tree/socket")).unwrap());
    let first = place.run(&["upload", "-r", "tree", "--path", "to"]);
    assert!(first.status.success(), "{first:?}\n{}", place.world.logs());
    assert!(
        text(&first.stdout).ends_with("304 files uploaded, 0 unchanged, 1 skipped\n"),
        "{}",
        text(&first.stdout)
    );
    assert!(
        text(&first.stderr).contains("skipped tree/socket: "),
        "{}",
        text(&first.stderr)
    );
    assert!(place.proxy.up() > total, "{}", place.proxy.up());

    let before = place.proxy.up();
    let again = place.ok(&["upload", "-r", "tree", "--path", "to"]);
    assert!(
        again.ends_with("0 files uploaded, 304 unchanged, 1 skipped"),
        "{again}"
    );
    assert!(
        place.proxy.up() - before < 20_000,
        "{} bytes for nothing",
        place.proxy.up() - before
    );

    place.ok(&["download", "to/tree/link"]);
    assert_eq!(
        std::fs::read_link(place.at("link")).unwrap(),
        Path::new("../outside\\")
    );
    assert!(place.ok(&["ls", "--all"]).contains("to/tree/hollow/"));
    let listed = place.json(&["ls", "--json", "--all", "--path", "to/tree/3"]);
    assert_eq!(listed.len(), 43);
    assert_eq!(place.json(&["rm", "-r", "--json", "to/tree/3"]).len(), 43);
    place.fails(
        &["rm", "to/tree"],
        1,
        "to/tree is a directory on the hub (rm -r",
    );

    // the same bytes under other names travel as names
    let before = place.proxy.up();
    assert!(
        place
            .ok(&["upload", "-r", "tree", "--path", "copy"])
            .contains("304 files uploaded")
    );
    let moved = place.proxy.up() - before;
    assert!(moved < 1_000_000, "{moved} bytes for copies");

    std::fs::write(
        place
            .at("tree")
            .join(std::ffi::OsString::from_vec(b"\xff".to_vec())),
        "x",
    )
    .unwrap();
    place.fails(
        &["upload", "-r", "tree", "--path", "to"],
        1,
        ": its name is not UTF-8",
    );
}

#[test]
fn chunks_of_a_long_file_are_sent_at_the_same_time() {
    let place = Place::new();
    place.put("file", &noise(12, 64 * MIB));
    let before = place.proxy.connections();
    place.ok(&["upload", "file"]);
    let connections = place.proxy.connections() - before;
    assert!((2..=4).contains(&connections), "{connections} connections");
    place.ok(&["download", "file", "-o", "copy"]);
    assert!(std::fs::read(place.at("copy")).unwrap() == std::fs::read(place.at("file")).unwrap());
}

#[test]
fn known_content_is_not_sent_and_of_an_edit_only_the_changed_chunks() {
    let place = Place::new();
    let mut bytes = noise(7, 40 * MIB);
    place.put("file", &bytes);
    place.ok(&["upload", "file"]);
    place.ok(&["download", "file", "-o", "copy"]);
    let (up, down) = (place.proxy.up(), place.proxy.down());
    assert_eq!(
        place.json(&["upload", "file", "--json"])[0]["outcome"],
        "unchanged"
    );
    place.ok(&["download", "file", "-o", "copy"]);
    assert!(
        place.proxy.up() - up < 20_000 && place.proxy.down() - down < 200_000,
        "{} {}",
        place.proxy.up() - up,
        place.proxy.down() - down
    );

    bytes[20_000_000..20_000_000 + MIB as usize].copy_from_slice(&noise(8, MIB));
    bytes.splice(30_000_000..30_000_000, [1, 2, 3]);
    place.put("file", &bytes);
    let (up, down) = (place.proxy.up(), place.proxy.down());
    assert_eq!(
        place.json(&["upload", "file", "--json"])[0]["outcome"],
        "updated"
    );
    let sent = place.proxy.up() - up;
    assert!((MIB..12 * MIB).contains(&sent), "{sent} bytes sent");
    place.ok(&["download", "file", "-o", "copy"]);
    let got = place.proxy.down() - down;
    assert!((MIB..12 * MIB).contains(&got), "{got} bytes fetched");
    assert!(std::fs::read(place.at("copy")).unwrap() == bytes);
    println!("a change of 1 MiB and 3 bytes in 40 MiB: {sent} bytes sent, {got} bytes fetched");
}

#[test]
fn standard_input_of_any_length_is_a_file() {
    let place = Place::new();
    for (i, size) in [0, 5, 8 * MIB, 8 * MIB + 1, 25 * MIB]
        .into_iter()
        .enumerate()
    {
        let bytes = noise(20 + i as u64, size);
        for _ in 0..2 {
            let mut child = place
                .command(&["upload", "-", "--name", "in"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(&bytes).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{size}: {}\n{}",
                text(&output.stderr),
                place.world.logs()
            );
        }
        place.ok(&["download", "in"]);
        assert!(std::fs::read(place.at("in")).unwrap() == bytes, "{size}");
    }
}

#[test]
fn versions_are_listed_and_restored() {
    let place = Place::new();
    let version = |content: &str| {
        place.put("file", content.as_bytes());
        place.json(&["upload", "file", "--path", "d", "--json"])[0]["rev"]
            .as_u64()
            .unwrap()
    };
    let (one, two) = (version("one"), version("two"));
    assert!(two > one);
    assert_eq!(
        place.json(&["info", "d/file", "--json"])[0]["host"],
        "machine-1"
    );
    place.ok(&["rm", "d/file"]);
    place.fails(&["download", "d/file"], 1, "there is no file \"d/file\"");
    assert!(!place.json(&["info", "d/file", "--json"])[0]["deleted_at"].is_null());
    let revs: Vec<u64> = place
        .json(&["versions", "d/file", "--json"])
        .iter()
        .map(|v| v["rev"].as_u64().unwrap())
        .collect();
    assert_eq!(revs, [two, one]);
    assert!(
        place
            .ok(&["restore", "d/file"])
            .starts_with("d/file is restored, 3 B from 20")
    );
    let content = || place.ok(&["download", "d/file", "-o", "-"]);
    assert_eq!(content(), "two");
    place.ok(&["restore", "d/file", "--rev", &one.to_string()]);
    assert_eq!(content(), "one");
    place.fails(
        &["restore", "d/file", "--rev", "4711"],
        1,
        "there is no such version",
    );
    // an older version is uploaded again because a user wants it
    version("two");
    version("one");
    assert_eq!(content(), "one");
    let id = place.json(&["info", "d/file", "--json"])[0]["id"]
        .as_str()
        .unwrap()
        .to_string();
    place.ok(&["rm", &id]);
    place.ok(&["restore", &id]);
    assert_eq!(content(), "one");
}

#[test]
fn events_resume_after_the_hub_was_down() {
    let mut place = Place::new();
    place.put("first", b"1");
    place.ok(&["upload", "first"]);
    let mut child = Ended(
        place
            .command(&["events", "--follow", "--since", "1h", "--json"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut next = || {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["payload"]["name"].as_str().unwrap()
        )
    };
    assert_eq!(next(), "file_created first");
    place.put("second", b"2");
    place.ok(&["upload", "second"]);
    assert_eq!(next(), "file_created second");
    place.world.kill_hub();
    place.world.start_hub();
    place.put("third", b"3");
    place.ok(&["upload", "third"]);
    place.ok(&["rm", "first"]);
    assert_eq!(
        (next(), next()),
        ("file_created third".into(), "file_deleted first".into())
    );
}

/// Ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
