//! A hostile hub, and a hostile program of this machine: nothing is written outside of the directory, nothing is deleted
//! beyond the guard, and the client stays alive and small.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::support::files::{Hub, noise};
use crate::support::tree::Synced;
use crate::support::world::{World, wait_for};
use mesync::internals::wire::files::Hash;
use serde_json::{Value, json};

/// What the hub says of one name.
#[derive(Clone)]
struct Row {
    record: Value,
    /// What it sends for it, and how long it says that is.
    bytes: Vec<u8>,
    length: u64,
    /// What it says that it consists of.
    chunks: Value,
}

#[derive(Default)]
struct Evil {
    rows: Mutex<Vec<Row>>,
    /// Every page is followed by another one, with something new in it.
    endless: AtomicBool,
    polls: AtomicU64,
}

fn row(path: &str, name: &str, rev: u64, bytes: &[u8]) -> Row {
    let record = json!({
        "id": uuid::Uuid::from_u128(u128::from(rev)), "path": path, "name": name, "kind": "file", "size": bytes.len(), "rev": rev,
        "checksum_sha256": Hash::of(bytes).to_string(), "mode": 0o100_644, "mtime": "2026-11-21T10:30:00Z",
        "created_at": "2026-11-21T10:30:00Z", "updated_at": "2026-11-21T10:30:00Z",
    });
    let chunks = json!([{"sha256": Hash::of(bytes).to_string(), "size": bytes.len()}]);
    Row {
        record,
        bytes: bytes.to_vec(),
        length: bytes.len() as u64,
        chunks,
    }
}

impl Evil {
    /// Where it listens.
    fn start() -> (Arc<Evil>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (evil, url) = (
            Arc::new(Evil::default()),
            format!("http://{}", listener.local_addr().unwrap()),
        );
        let shared = evil.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(&stream));
            }
        });
        (evil, url)
    }

    fn says(&self, rows: Vec<Row>) {
        *self.rows.lock().unwrap() = rows;
    }

    /// From now on this name is deleted and has another name, according to this hub.
    fn renames(&self, name: &str, to: (&str, &str), rev: u64) {
        self.deletes(name, rev);
        let mut rows = self.rows.lock().unwrap();
        let old = rows
            .iter_mut()
            .find(|r| r.record["name"] == name && r.record["path"] == "")
            .unwrap();
        old.record["renamed_to"] = json!({"path": to.0, "name": to.1});
        let mut new = row(to.0, to.1, rev + 100_000, &old.bytes);
        (new.bytes, new.length) = (b"lost".to_vec(), 4);
        rows.push(new);
    }

    /// From now on this name is deleted.
    fn deletes(&self, name: &str, rev: u64) {
        let mut rows = self.rows.lock().unwrap();
        let mut row = rows
            .iter()
            .find(|r| r.record["name"] == name)
            .unwrap()
            .clone();
        rows.retain(|r| r.record["name"] != name);
        (row.record["rev"], row.record["deleted_at"]) = (rev.into(), "2026-11-21T10:30:00Z".into());
        rows.push(row);
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let target = line.split(' ').nth(1)?.to_string();
            let (mut length, mut header) = (0, String::new());
            while reader.read_line(&mut header).ok()? > 2 {
                if let Some(n) = header.to_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().ok()?;
                }
                header.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            self.answer(stream, &target, &body)?;
        }
    }

    fn answer(&self, mut stream: &TcpStream, target: &str, body: &[u8]) -> Option<()> {
        // it looks like a hub in all that does not lie
        let mut send_with = |lines: &str, status: u16, length: u64, bytes: &[u8]| {
            let head =
                format!("HTTP/1.1 {status} X\r\n{lines}\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).ok()?;
            stream.write_all(bytes).ok()?;
            // what was promised and does not come ends with the connection
            (length == bytes.len() as u64).then_some(())
        };
        let content = "Content-Type: application/octet-stream";
        let mut send = |status: u16, length: u64, bytes: &[u8]| {
            send_with("Content-Type: application/json", status, length, bytes)
        };
        let path = target.split('?').next()?;
        let id = path
            .split('/')
            .nth(3)
            .and_then(|id| uuid::Uuid::parse_str(id).ok());
        let find = |id: uuid::Uuid| {
            self.rows
                .lock()
                .unwrap()
                .iter()
                .find(|r| r.record["id"] == id.to_string())
                .cloned()
        };
        match path {
            "/api/health" => {
                let health = json!({"status": "ok", "version": "9.9.9", "features": ["files", "messages"], "uptime_seconds": 1});
                send(
                    200,
                    health.to_string().len() as u64,
                    health.to_string().as_bytes(),
                )
            }
            "/api/files/changes" => {
                let page = self.page(target).to_string();
                send(200, page.len() as u64, page.as_bytes())
            }
            "/api/files/fetch" => {
                let asked: Value = serde_json::from_slice(body).ok()?;
                let mut all = Vec::new();
                for item in asked["items"].as_array()? {
                    let row = find(uuid::Uuid::parse_str(item["id"].as_str()?).ok()?)?;
                    let head = json!({"id": item["id"], "rev": item["rev"], "status": 200, "size": row.length});
                    all.extend(format!("{head}\n").into_bytes());
                    all.extend(&row.bytes);
                }
                send_with(content, 200, all.len() as u64, &all)
            }
            _ if path.ends_with("/chunks") => {
                let chunks = find(id?)?.chunks.to_string();
                send(200, chunks.len() as u64, chunks.as_bytes())
            }
            _ if path.ends_with("/download") => {
                let row = find(id?)?;
                send_with(
                    &format!("{content}\r\nETag: \"{}\"", row.record["rev"]),
                    200,
                    row.length,
                    &row.bytes,
                )
            }
            _ => send(404, 14, br#"{"error":"no"}"#),
        }
    }

    fn page(&self, target: &str) -> Value {
        self.polls.fetch_add(1, SeqCst);
        let after: u64 = target
            .split("after=")
            .nth(1)
            .and_then(|n| n.split('&').next()?.parse().ok())
            .unwrap_or(0);
        let mut rows: Vec<Value> = self
            .rows
            .lock()
            .unwrap()
            .iter()
            .map(|r| r.record.clone())
            .collect();
        let endless = self.endless.load(SeqCst);
        if endless {
            rows = vec![row("endless", &format!("f{}", after % 50), after + 1, b"x").record];
        }
        rows.retain(|r| r["rev"].as_u64().unwrap() > after);
        rows.sort_by_key(|r| r["rev"].as_u64());
        let more = endless || rows.len() > 500;
        rows.truncate(500);
        json!({"rev": 1_000_000_000u64, "epoch": uuid::Uuid::from_u128(7), "more": more, "began": 1_000_000_000u64, "changes": rows})
    }
}

/// A machine that trusts the wrong hub, and all that is beside its directory.
fn victim(world: &World, url: &str) -> Synced {
    let mut machine = Synced::new(world, "victim");
    machine.machine.env = vec![
        ("MESYNC_SERVER_URL".into(), url.into()),
        ("MESYNC_POLL_INTERVAL".into(), "1".into()),
    ];
    fs::create_dir(world.dir.path().join("outside")).unwrap();
    machine
}

/// Every name below a directory.
fn all_below(dir: &Path) -> Vec<String> {
    let out = std::process::Command::new("find")
        .arg(dir)
        .output()
        .unwrap();
    let mut all: Vec<String> = String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(String::from)
        .collect();
    all.sort();
    all
}

#[test]
fn names_that_lead_elsewhere_and_bytes_that_lie_change_nothing() {
    let (world, (evil, url)) = (World::new(), Evil::start());
    let victim = victim(&world, &url);
    victim.put("mine", "mine");
    let long = "x".repeat(5000);
    let bad = [
        ("..", "up"),
        ("../outside", "up"),
        ("a/../../outside", "up"),
        ("", ".."),
        ("/etc", "absolute"),
        ("", "/tmp/absolute"),
        ("a", "nul\0nul"),
        ("", long.as_str()),
        (".mesync", "id"),
        (".mesync/trash", "x"),
        ("", ".mesync-0123456789abcdef.tmp"),
        ("a//b", "x"),
        ("./a", "x"),
        ("", ""),
    ];
    let mut rows: Vec<Row> = bad
        .iter()
        .enumerate()
        .map(|(n, (path, name))| row(path, name, n as u64 + 1, b"evil"))
        .collect();
    let lie = |name: &str, rev: u64, said: &[u8], sent: Vec<u8>, length: u64| Row {
        bytes: sent,
        length,
        ..row("", name, rev, said)
    };
    rows.push(lie("other-bytes", 101, b"four", b"FOUR".to_vec(), 4));
    rows.push(lie("too-short", 102, b"four", b"fo".to_vec(), 2));
    rows.push(lie("too-long", 103, b"four", noise(1, 100_000), 100_000));
    rows.push(lie(
        "medium-lie",
        105,
        &noise(3, 200_000),
        noise(4, 200_000),
        200_000,
    ));
    rows.push(lie(
        "medium-more",
        106,
        &noise(3, 200_000),
        noise(3, 900_000),
        900_000,
    ));
    rows.push(row("fine", "fine", 200, b"fine"));
    evil.says(rows.clone());
    let before = all_below(&world.dir.path().join("outside"));
    let id = victim.try_pass(&[]);
    assert_ne!(id.0, 0, "{id:?}");
    assert_eq!(
        (victim.text("fine/fine"), victim.text("mine")),
        ("fine".into(), "mine".into()),
        "{id:?}"
    );
    let marker = fs::read_to_string(victim.at(".mesync/id")).unwrap();
    assert!(uuid::Uuid::parse_str(marker.trim()).is_ok(), "{marker}");
    assert_eq!(victim.names(), ["fine", "fine/fine", "mine"], "{id:?}");
    assert_eq!(all_below(&world.dir.path().join("outside")), before);
    assert!(!Path::new("/tmp/absolute").exists() && !world.dir.path().join("up").exists());
    let said = id.1["unsyncable"].to_string();
    for name in ["other-bytes", "too-long", "medium-lie"] {
        assert!(said.contains(name), "{name} is not named in {said}");
    }
    // a download that breaks off looks like a broken connection, one that is too large for the disk like a full disk, and
    // both pause all downloads for a moment: there is no other effect
    rows.push(lie(
        "cut-off",
        304,
        &noise(2, 200_000),
        noise(2, 200_000)[..5000].to_vec(),
        200_000,
    ));
    let mut gigabytes = row("", "gigabytes", 305, b"x");
    gigabytes.record["size"] = (1u64 << 62).into();
    rows.push(gigabytes);
    evil.says(rows);
    let (status, said) = victim.try_pass(&[]);
    assert!(
        status != 0 && victim.names() == ["fine", "fine/fine", "mine"],
        "{said}"
    );
}

#[test]
fn deletes_are_held_at_once_or_one_a_poll() {
    let (world, (evil, url)) = (World::new(), Evil::start());
    let victim = victim(&world, &url);
    let rows: Vec<Row> = (1..=300)
        .map(|n| row("", &format!("f{n}"), n, format!("{n}").as_bytes()))
        .collect();
    evil.says(rows);
    victim.pass();
    assert_eq!(victim.names().len(), 300);
    // one by one, up to a quarter
    for n in 1..=90 {
        evil.deletes(&format!("f{n}"), 1000 + n);
        if n % 10 == 0 {
            victim.try_pass(&[]);
        }
    }
    let left = victim.names().len();
    assert!(left >= 225, "{left} of 300 are left");
    // and the rest at once
    (91..=300).for_each(|n| evil.deletes(&format!("f{n}"), 2000 + n));
    let (status, said) = victim.try_pass(&[]);
    assert!(
        status != 0 && said["held_deletes"].as_u64().unwrap() > 200,
        "{said}"
    );
    assert_eq!(victim.names().len(), left);
}

#[test]
fn deletes_that_are_called_renames_are_deletes() {
    for to in ["hidden", "in/the/way"] {
        let (world, (evil, url)) = (World::new(), Evil::start());
        let victim = victim(&world, &url);
        victim.put(".mesyncignore", "hidden/\n");
        evil.says(
            (1..=40)
                .map(|n| row("", &format!("f{n}"), n, format!("{n}").as_bytes()))
                .collect(),
        );
        victim.try_pass(&[]);
        assert_eq!(
            victim.names().iter().filter(|n| n.starts_with('f')).count(),
            40
        );
        // nothing can stand there
        fs::create_dir_all(victim.at("in")).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(victim.at("in/the"))
                .status()
                .unwrap()
                .success()
        );
        (1..=40).for_each(|n| evil.renames(&format!("f{n}"), (to, &format!("f{n}")), 1000 + n));
        for _ in 0..3 {
            victim.try_pass(&[]);
        }
        let left = victim.names().iter().filter(|n| n.starts_with('f')).count();
        assert!(
            left >= 30,
            "{to}: {left} of 40 are left: {:?}",
            victim.names()
        );
        let (_, said) = victim.try_pass(&[]);
        assert!(said["held_deletes"].as_u64().unwrap() >= 25, "{said}");
    }
}

#[test]
fn empty_chunks_keep_no_client_busy() {
    let (world, (evil, url)) = (World::new(), Evil::start());
    let mut victim = victim(&world, &url);
    let old = noise(1, 9 << 20);
    evil.says(vec![row("", "big", 1, &old)]);
    victim.pass();
    let (mut splitter, mut rest) = (
        mesync::internals::chunking::Splitter::default(),
        old.as_slice(),
    );
    let (_, first) = splitter.take(&mut rest);
    let first = first.expect("9 MB are more than one chunk");
    let mut new = row("", "big", 2, &[old.as_slice(), b"x"].concat());
    let more = (9 << 20) + 1 - first.size;
    new.chunks = json!([{"sha256": Hash::of(b"x").to_string(), "size": 0}, {"sha256": first.sha256.to_string(), "size": first.size},
        {"sha256": Hash::of(b"y").to_string(), "size": more}]);
    evil.says(vec![new]);
    victim.start();
    wait_for("it is refused", &world, || {
        victim.machine.log().contains("cannot sync \"big\"")
    });
    assert!(victim.read("big") == Some(old));
}

#[test]
fn a_listing_without_an_end_takes_no_memory() {
    let (world, (evil, url)) = (World::new(), Evil::start());
    let mut victim = victim(&world, &url);
    evil.endless.store(true, SeqCst);
    victim.start();
    let pid = victim.machine.pid();
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|l| l.starts_with("VmRSS"))
            .unwrap()
            .to_string();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    wait_for("it asks", &world, || evil.polls.load(SeqCst) > 100);
    let early = memory();
    wait_for("it asks again and again", &world, || {
        evil.polls.load(SeqCst) > 1000
    });
    let late = memory();
    assert!(
        late < early + 30_000 && late < 150_000,
        "{early} kB, then {late} kB"
    );
    assert!(victim.machine.is_running());
    victim.machine.terminate();
    wait_for("it can be stopped", &world, || !victim.machine.is_running());
}

#[test]
fn links_planted_during_downloads_lead_nowhere() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    let outside = hub.world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f0"), "not yours").unwrap();
    alpha.start();
    beta.start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // turns a directory into a link out of it and back, as fast as it can
            let (dir, away) = (beta.dir.join("d"), beta.dir.join("away"));
            while !over.load(SeqCst) {
                let _ = fs::rename(&dir, &away);
                let _ = symlink(&outside, &dir);
                let _ = fs::remove_file(&dir);
                let _ = fs::rename(&away, &dir);
            }
        });
        for n in 0..60 {
            alpha.put(format!("d/f{n}"), format!("content {n}"));
            alpha.put(format!("d/e/f{n}"), noise(n, 100_000));
        }
        let hub = &hub.world;
        wait_for("much has happened", hub, || {
            beta.machine.log().matches("received").count() > 60
        });
        over.store(true, SeqCst);
    });
    assert_eq!(all_below(&outside).len(), 2, "{:?}", all_below(&outside));
    assert_eq!(fs::read_to_string(outside.join("f0")).unwrap(), "not yours");
    assert!(alpha.machine.is_running() && beta.machine.is_running());
}
