//! Each call of the hub that can fail is made to fail, one after another: changes that were
//! confirmed with 2xx exist after a restart, the directory is intact, and the same requests succeed
//! when repeated. The hub continues, or ends with the status of an I/O error.
//!
//! strace counts the calls of each thread by itself, so several may fail in one round. FAULTS=all leaves no number out.

use crate::support::world;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::support::files::{Answer, Hub, Line, commit, form, noise};
use crate::support::http::Conn;
use crate::support::inject::{self, Fault};
use mesync::internals::wire::files::Hash;
use serde_json::{Value, json};

/// Calls, the error of each, and the highest number that is tried; there may be fewer of them.
const FAULTS: &[(&str, &str, u32)] = &[
    ("fsync", "EIO", 30),
    ("fsync", "ENOSPC", 30),
    ("fdatasync", "EIO", 20),
    ("fdatasync", "ENOSPC", 20),
    ("syncfs", "EIO", 5),
    ("rename", "EIO", 20),
    ("rename", "EACCES", 20),
    ("renameat2", "EIO", 20),
    ("mkdir", "ENOSPC", 20),
    ("linkat", "EIO", 20),
    ("linkat", "ENOSPC", 20),
    ("unlink", "EIO", 20),
    ("openat", "EMFILE", 60),
    ("openat", "EACCES", 60),
    ("pwrite64", "ENOSPC", 60),
    ("pwrite64", "EIO", 60),
    ("pwrite64", "ENOMEM", 60),
    ("pread64", "ENOMEM", 60),
    ("write", "ENOSPC", 60),
    ("ftruncate", "ENOSPC", 10),
    ("statx", "EIO", 60),
    ("statx", "ENOMEM", 60),
    ("getdents64", "EIO", 20),
    ("clone3", "EAGAIN", 5),
];

/// Those that ONLY names.
fn faults() -> impl Iterator<Item = &'static (&'static str, &'static str, u32)> {
    let only = std::env::var("ONLY").unwrap_or_default();
    FAULTS
        .iter()
        .filter(move |(call, error, _)| format!("{call} {error}").contains(&only))
}

/// Of many numbers the first ones, and then fewer and fewer; of few all.
fn numbers(most: u32) -> Vec<u32> {
    let all = std::env::var_os("FAULTS").is_some();
    let mut numbers = vec![1];
    while let Some(last) = numbers.last().copied().filter(|n| *n < most) {
        numbers.push(if all { last + 1 } else { 2 * last + 1 });
    }
    numbers
}

/// What a client sends, with what it needs to know of it afterwards.
struct Work {
    bodies: BTreeMap<&'static str, Vec<u8>>,
    messages: Vec<Value>,
}

impl Work {
    fn new() -> Work {
        let bodies = BTreeMap::from([
            ("short", noise(1, 100)),
            ("medium", noise(2, 30_000)),
            ("gone", noise(3, 40_000)),
            ("staged", noise(5, 500_000)),
            ("long", noise(4, 9_000_000)),
        ]);
        let id = |n: u128| uuid::Uuid::from_u128(0x0193_59a0_0000_7000_8000_0000_0000_0000 + n);
        let messages = (0..2)
            .map(|n| json!({"id": id(n), "type": "x", "source": "a", "target": "b", "payload": n}))
            .collect();
        Work { bodies, messages }
    }

    /// The hub has other things that were acknowledged before.
    fn prepare(&self, hub: &Hub) {
        hub.upload("", "gone", &self.bodies["gone"], "").is(201, "");
        hub.upload("", "before", noise(9, 50_000), "").is(201, "");
    }

    /// All of it once; the status of each, 0 where the connection broke.
    fn run(&self, hub: &Hub, copy: &str) -> BTreeMap<String, u16> {
        let mut statuses = BTreeMap::new();
        let mut note = |what: &str, answer: Option<Answer>| {
            statuses.insert(what.to_string(), answer.map_or(0, |answer| answer.status));
        };
        for name in ["short", "medium", "long"] {
            let (type_line, body) = form("", name, &self.bodies[name]);
            let lines = format!("{type_line}If-None-Match: *\r\n");
            note(
                name,
                ask(hub, "PUT", "/api/files/upload", &lines, &body).map(met),
            );
        }
        let piece = &self.bodies["staged"];
        note(
            "piece",
            ask(
                hub,
                "PUT",
                &format!("/api/chunks/{}", Hash::of(piece)),
                "",
                piece,
            ),
        );
        let body = serde_json::to_vec(&commit("", "staged", &[piece.as_slice()])).unwrap();
        note("staged", ask(hub, "PUT", "/api/files/commit", "", &body));
        note(
            "messages",
            ask(
                hub,
                "POST",
                "/api/messages",
                "",
                &serde_json::to_vec(&self.messages).unwrap(),
            ),
        );
        let pulled = ask(hub, "GET", PULL, "", b"");
        note("pull", pulled.clone());
        if let Some(pulled) = pulled
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.json())
        {
            let last = pulled["messages"]
                .as_array()
                .and_then(|all| all.first())
                .map(|first| first["seq"].to_string());
            let epoch = pulled["epoch"].as_str().unwrap_or_default().to_string();
            if let Some(last) = last {
                note(
                    "ack",
                    ask(
                        hub,
                        "GET",
                        &format!("{PULL}&epoch={epoch}&after={last}"),
                        "",
                        b"",
                    ),
                );
            }
        }
        let gone = ask(hub, "GET", "/api/files?search=gone", "", b"")
            .filter(|answer| answer.status == 200);
        if let Some(id) = gone.and_then(|answer| answer.json()[0]["id"].as_str().map(String::from))
        {
            note(
                "delete",
                ask(hub, "DELETE", &format!("/api/files/{id}"), "", b""),
            );
        }
        let dir = json!({ "dir": hub.world.dir.path().join(copy) });
        note(
            "backup",
            ask(
                hub,
                "POST",
                "/api/hub/backup",
                "",
                &serde_json::to_vec(&dir).unwrap(),
            ),
        );
        statuses
    }

    /// What was acknowledged is there.
    fn check(&self, hub: &Hub, statuses: &BTreeMap<String, u16>, what: &str) {
        let acknowledged = |name: &str| {
            statuses
                .get(name)
                .is_some_and(|status| (200..300).contains(status))
        };
        for (name, bytes) in &self.bodies {
            if acknowledged(name) || *name == "gone" && !statuses.contains_key("delete") {
                assert!(
                    content(hub, name).as_ref() == Some(bytes),
                    "{what}: {name} was acknowledged"
                );
            }
        }
        assert!(
            content(hub, "before") == Some(noise(9, 50_000)),
            "{what}: what was there before"
        );
        assert!(
            !acknowledged("delete") || content(hub, "gone").is_none(),
            "{what}: deleted"
        );
        if acknowledged("messages") && !statuses.contains_key("ack") {
            let waits = hub.get(PULL).json()["messages"]
                .as_array()
                .map_or(0, Vec::len);
            assert_eq!(waits, 2, "{what}: messages were acknowledged");
        }
    }
}

const PULL: &str = "/api/messages?host=b&instance=00000000-0000-0000-0000-000000000001";

/// The condition is that of an upload made by an attempt before: it was done.
fn met(answer: Answer) -> Answer {
    if answer.status == 412 {
        Answer {
            status: 200,
            ..answer
        }
    } else {
        answer
    }
}

fn ask(hub: &Hub, method: &str, target: &str, lines: &str, body: &[u8]) -> Option<Answer> {
    let stream = TcpStream::connect(("127.0.0.1", hub.world.port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    Line(Conn::new(stream))
        .ask(method, target, lines, body)
        .ok()
}

fn content(hub: &Hub, name: &str) -> Option<Vec<u8>> {
    let listed = hub.get(&format!("/api/files?search={name}")).json();
    let id = listed
        .as_array()?
        .iter()
        .find(|record| record["name"] == name)?["id"]
        .as_str()?
        .to_string();
    let got = hub.get(&format!("/api/files/{id}/download"));
    assert_eq!(got.status, 200, "{name}: {got}\n{}", hub.world.logs());
    Some(got.body)
}

fn check_dir(hub: &Hub, dir: &Path) {
    let out = hub
        .world
        .hub_command()
        .args(["hub", "check", "--data"])
        .arg(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}: {}",
        dir.display(),
        String::from_utf8_lossy(&out.stdout)
    );
}

#[test]
fn a_call_that_fails_loses_nothing_that_was_acknowledged() {
    if !inject::is_available() {
        return;
    }
    let work = Work::new();
    for (call, error, most) in faults() {
        let (mut failed, mut ended) = (0, 0);
        for number in numbers(*most) {
            let what = format!("{call} {error} {number}");
            let mut hub = Hub::start();
            work.prepare(&hub);
            let fault = Fault::new(call, number, error, &hub.world.dir.path().join("strace"));
            let attached = inject::attach(hub.world.hub_pid(), &fault);
            let mut statuses = work.run(&hub, "first");
            drop(attached);
            let injected = fault.struck();
            // a sync that failed is told at the next turn
            let status = hub.world.stop_hub();
            assert!(
                status == Some(0) || status == Some(74),
                "{what}: ended with {status:?}\n{injected}\n{}",
                hub.world.logs()
            );
            failed += injected.lines().count();
            ended += usize::from(status == Some(74));
            let first = hub.world.dir.path().join("first");
            if statuses.get("backup") == Some(&200) {
                check_dir(&hub, &first);
            }
            hub.world.start_hub();
            work.check(&hub, &statuses, &what);
            for (name, status) in work.run(&hub, "second") {
                assert!(
                    (200..300).contains(&status),
                    "{what}: {name} again: {status}\n{injected}\n{}",
                    hub.world.logs()
                );
                statuses.insert(name, status);
            }
            work.check(&hub, &statuses, &what);
            assert_eq!(hub.world.stop_hub(), Some(0), "{what}");
            check_dir(&hub, &hub.world.hub_dir());
            check_dir(&hub, &hub.world.dir.path().join("second"));
            if injected.is_empty() {
                break;
            }
        }
        println!("{call} {error}: {failed} calls failed, the hub ended {ended} times");
    }
}

/// The same of a start, and of the keys.
#[test]
fn a_call_that_fails_leaves_a_hub_that_starts_and_keys_that_can_be_made() {
    if !inject::is_available() {
        return;
    }
    for (call, error, most) in faults() {
        let mut failed = 0;
        for number in numbers((*most).min(30)) {
            let what = format!("{call} {error} {number}");
            let mut hub = Hub {
                world: world::World::new(),
            };
            let mut start = hub.world.hub_command();
            start.args(["serve", "--listen", "192.0.2.1:1"]);
            let fault = Fault::new(call, number, error, &hub.world.dir.path().join("strace"));
            let out = inject::wrap(&start, &fault).output().unwrap();
            let starts = fault.struck().lines().count();
            assert!(
                !out.status.success(),
                "{what}: this machine does not have that address"
            );
            hub.world.start_hub();
            let mut add = hub.world.hub_command();
            add.args(["key", "add", "web-1"]);
            let mut out = inject::wrap(&add, &fault).output().unwrap();
            let adds = fault.struck().lines().count();
            if !out.status.success() {
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                out = add.output().unwrap();
                assert!(
                    out.status.success(),
                    "{what}: the key again: {}\nbefore: {said}",
                    String::from_utf8_lossy(&out.stderr)
                );
            }
            let key = String::from_utf8(out.stdout).unwrap();
            let lines = format!("X-API-Key: {}\r\n", key.trim());
            assert_eq!(
                ask(&hub, "GET", "/api/hosts", &lines, b"").map(|a| a.status),
                Some(200),
                "{what}"
            );
            assert_eq!(
                ask(&hub, "GET", "/api/hosts", "", b"").map(|a| a.status),
                Some(401),
                "{what}"
            );
            assert_eq!(hub.world.stop_hub(), Some(0), "{what}");
            hub.world.start_hub();
            assert_eq!(
                ask(&hub, "GET", "/api/hosts", &lines, b"").map(|a| a.status),
                Some(200),
                "{what}"
            );
            hub.world.stop_hub();
            check_dir(&hub, &hub.world.hub_dir());
            failed += starts + adds;
            if starts + adds == 0 {
                break;
            }
        }
        println!("{call} {error}: {failed} calls failed");
    }
}
