//! A login page of the network answers instead of the hub: nothing is taken for sent, received or in sync by its answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::support::world::{Machine, World, wait_for};
use serde_json::Value;

const HTML: &str =
    "<html><head><title>Welcome to Hotel WiFi</title></head><body>Please log in</body></html>";

/// Status, type and body of every answer.
const ANSWERS: &[(u16, &str, &str)] = &[
    (200, "text/html", HTML),
    (200, "text/html", "{}"),
    (200, "application/json", HTML),
    (200, "application/json", "{}"),
    (200, "application/json", "[]"),
    (200, "application/json", "null"),
    (200, "application/json", ""),
    (
        200,
        "application/json",
        r#"{"results":[],"messages":[],"status":"ok","more":false,"missing":[],"deleted":true}"#,
    ),
    (
        200,
        "text/event-stream",
        "data: {\"type\":\"message_queued\"}\n\n",
    ),
    (201, "application/json", "{}"),
    (204, "", ""),
    (302, "text/html", ""),
    (400, "text/html", HTML),
    (401, "text/html", HTML),
    (403, "text/html", HTML),
    (404, "text/html", HTML),
    (409, "text/html", HTML),
    (410, "text/html", HTML),
    (412, "text/html", HTML),
    (422, "text/html", HTML),
    (511, "text/html", HTML),
];

/// Answers everything at a port with one answer, until it is dropped.
struct Portal {
    port: u16,
    end: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Portal {
    fn open(port: u16, answer: (u16, &'static str, &'static str)) -> Portal {
        let (end, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        // connections of the hub that was there may linger
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => break listener,
                Err(e) => assert!(std::time::Instant::now() < until, "port {port}: {e}"),
            }
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        };
        let (ended, count) = (end.clone(), asked.clone());
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Relaxed) {
                    return;
                }
                count.fetch_add(1, Relaxed);
                std::thread::spawn(move || serve(&stream, answer));
            }
        };
        Portal {
            port,
            end,
            asked,
            thread: Some(std::thread::spawn(accept)),
        }
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn serve(mut stream: &TcpStream, (status, kind, body): (u16, &str, &str)) -> Option<()> {
    let mut lines = BufReader::with_capacity(1, stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(n) = line.strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
    }
    std::io::copy(&mut lines.take(length), &mut std::io::sink()).ok()?;
    let kind = if kind.is_empty() {
        String::new()
    } else {
        format!("Content-Type: {kind}\r\n")
    };
    let length = if status == 204 {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{kind}{length}Connection: close\r\n\r\n{body}"
    )
    .ok()
}

fn status(machine: &Machine) -> Value {
    serde_json::from_slice(&machine.run(&["--json", "status"]).stdout).unwrap_or_default()
}

fn configure(machine: &Machine, dir: &Path) {
    std::fs::create_dir_all(&machine.base).unwrap();
    std::fs::create_dir(dir).unwrap();
    let text = format!(
        "poll_interval = 1\n[[watch]]\npath = '{}'\nremote = 'share'\ndebounce_ms = 50\n",
        dir.display()
    );
    std::fs::write(machine.base.join("config.toml"), text).unwrap();
}

#[test]
fn a_login_page_is_no_hub_whatever_its_response() {
    let mut world = World::new();
    world.start_hub();
    let (mut here, mut there) = (world.machine("here"), world.machine("there"));
    let (dir, other) = (
        world.dir.path().join("here-files"),
        world.dir.path().join("there-files"),
    );
    configure(&here, &dir);
    configure(&there, &other);
    std::fs::write(dir.join("old"), "old").unwrap();
    std::fs::write(dir.join("gone"), "gone").unwrap();
    here.env.push(("MESYNC_LOG".into(), "info".into()));
    here.start_with(&["start"]);
    there.start();
    wait_for("both have the files", &world, || {
        other.join("gone").exists() && other.join("old").exists()
    });

    let mut sent = 0;
    for (n, answer) in ANSWERS.iter().enumerate() {
        println!("{answer:?}");
        world.stop_hub();
        let (portal, lines) = (
            Portal::open(world.port, *answer),
            here.log().lines().count(),
        );
        let id = here.ok(&["send", "x", "--target", "there"]);
        sent += 1;
        std::fs::write(dir.join(format!("new-{n}")), format!("new {n}")).unwrap();
        std::fs::write(dir.join("old"), format!("changed {n}")).unwrap();
        if n == 0 {
            std::fs::remove_file(dir.join("gone")).unwrap();
        }
        if n % 2 == 1 {
            // what the client does not know yet of the server it learns from the login page
            assert_eq!(here.stop(), Some(0));
            here.start_with(&["start"]);
        }
        let asked = portal.asked.load(Relaxed);
        wait_for("the client has tried several times", &world, || {
            here.log().lines().count() > lines && asked + 5 <= portal.asked.load(Relaxed)
        });
        assert!(
            here.names("outbox").iter().any(|name| name.contains(&id)),
            "{answer:?}: {:?}",
            here.names("sent")
        );
        assert_eq!(
            here.names("failed"),
            Vec::<String>::new(),
            "{answer:?}\n{}",
            world.logs()
        );
        let seen = status(&here);
        assert!(
            seen["healthy"] == false && seen["directories"][0]["condition"] != "in-sync",
            "{answer:?}: {seen}"
        );
        // a command does not take it for a hub either
        std::fs::write(world.dir.path().join("up"), "up").unwrap();
        for args in [
            &["upload", "up", "/up"][..],
            &["ls"],
            &["rm", "share/old"],
            &["download", "share/old", "got"],
            &["hosts"],
        ] {
            let mut command = here.command(args);
            let out = command.current_dir(world.dir.path()).output().unwrap();
            let empty_list = answer.2 == "[]" && matches!(args[0], "ls" | "hosts");
            assert!(
                !out.status.success() || empty_list,
                "{answer:?} {args:?}: {}",
                String::from_utf8_lossy(&out.stdout)
            );
        }
        assert!(!world.dir.path().join("got").exists(), "{answer:?}");
        let said: Vec<String> = here.log().lines().skip(lines).map(str::to_string).collect();
        assert!(
            said.len() <= 12 && !said.iter().any(|line| line.contains("reachable again")),
            "{answer:?}: {said:#?}"
        );
        drop(portal);
        world.start_hub();
        wait_for(
            "all of it arrives once the hub is there again",
            &world,
            || {
                let read =
                    |name: &str| std::fs::read_to_string(other.join(name)).unwrap_or_default();
                let arrived = read(&format!("new-{n}")) == format!("new {n}")
                    && read("old") == format!("changed {n}");
                arrived
                    && !other.join("gone").exists()
                    && there.names("inbox").len() == sent
                    && here.names("outbox").is_empty()
            },
        );
        assert_eq!(there.names("inbox").len(), sent, "{answer:?}");
        assert!(
            !here.log().contains("is no mesync hub"),
            "{answer:?}\n{}",
            world.logs()
        );
        assert!(
            here.is_running() && there.is_running(),
            "{answer:?}\n{}",
            world.logs()
        );
    }
}

#[test]
fn a_hub_or_proxy_without_room_is_busy_and_no_other_server() {
    let world = World::new();
    let here = world.machine("here");
    let file = world.dir.path().join("report");
    std::fs::write(&file, "report").unwrap();
    let file = file.to_str().unwrap();
    let no_room = r#"{"error":"no memory for another connection"}"#;
    let busy = [
        (503, "application/json", no_room),
        (503, "text/html", HTML),
        (502, "text/html", HTML),
        (429, "application/json", no_room),
    ];
    for answer in busy {
        let portal = Portal::open(world.port, answer);
        let commands: [&[&str]; 5] = [
            &["upload", file],
            &["download", "report"],
            &["ls"],
            &["hosts"],
            &["status"],
        ];
        for command in commands {
            let output = here.run(command);
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            println!("{answer:?} {command:?} {:?}\n{text}", output.status);
            assert!(text.contains("cannot do it now"), "{text}");
            assert!(!text.contains("does not answer as a mesync hub"), "{text}");
            let want = if command == ["status"] { 1 } else { 75 };
            assert_eq!(output.status.code(), Some(want), "{text}");
        }
        drop(portal);
    }
}
