//! A hub with little address space: whatever strangers and clients do, an allocation that fails costs them, and never the hub.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::http::{Conn, PATIENCE, message, request};
use crate::support::world::{World, wait_for};

const MB: usize = 1 << 20;

/// A hub that may have so many bytes of addresses. `None`: there is no prlimit.
fn hub(space: usize) -> Option<(World, String)> {
    let mut world = World::new();
    world.wrap = vec!["prlimit".into(), format!("--as={space}")];
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("left out: there is no prlimit");
        return None;
    }
    world.start_hub();
    let out = world
        .hub_command()
        .args(["key", "add", "a"])
        .output()
        .unwrap();
    let key = format!(
        "X-API-Key: {}\r\n",
        String::from_utf8(out.stdout).unwrap().trim()
    );
    Some((world, key))
}

/// Sends a head and what there is of a body; the connection stays. `None`: it was refused at once.
fn open(world: &World, head: &str, body: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).ok()?;
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    Some(stream)
}

/// One request with a whole body, whatever the result.
fn whole(world: &World, head: &str, body: &[u8]) {
    if let Some(mut stream) = open(world, head, body) {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let _ = stream.read(&mut [0; 1024]);
    }
}

fn post(key: &str, length: usize) -> String {
    format!(
        "POST /api/messages HTTP/1.1\r\nHost: localhost\r\n{key}Content-Type: application/json\r\nContent-Length: {length}\r\n"
    )
}

/// A list of hashes in JSON, filled up with spaces.
fn list_of_hashes(bytes: usize) -> String {
    let hashes = vec![format!("\"{}\"", "0".repeat(64)); bytes / 67 - 1];
    let list = format!("{{\"chunks\":[{}]}}", hashes.join(","));
    let spaces = " ".repeat(bytes - list.len());
    list + &spaces
}

/// The hub has not ended, and answers when it is left alone.
#[track_caller]
fn serves(world: &World, key: &str) {
    let body = format!("[{}]", message("a", "b", "x"));
    let lines = format!("{key}Content-Type: application/json\r\n");
    wait_for("a client has its answer", world, || {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", world.port)) else {
            return false;
        };
        let mut conn = Conn::new(stream);
        let post = request("POST", "/api/messages", &lines, &body);
        conn.ask(&post, PATIENCE).is_ok_and(|got| got.status == 200)
    });
}

#[test]
fn strangers_and_clients_cannot_end_a_hub_with_little_memory() {
    for space in [128 * MB, 256 * MB] {
        println!("{} MB", space / MB);
        let Some((mut world, key)) = hub(space) else {
            return;
        };
        for key_of_this in ["", key.as_str()] {
            println!("bodies that are begun, key: {}", !key_of_this.is_empty());
            let begun = [b"[".to_vec(), vec![b' '; 100_000]].concat();
            let open: Vec<_> = (0..300)
                .map(|_| open(&world, &post(key_of_this, 4_000_000), &begun))
                .collect();
            drop(open);
            serves(&world, &key);
        }
        println!("whole bodies");
        let long = [b"[".to_vec(), vec![b' '; 4_000_000 - 2], b"]".to_vec()].concat();
        let rows: Vec<String> = (0..8)
            .map(|_| message("a", "b", &"x".repeat(100_000)))
            .collect();
        let messages = format!("[{}]", rows.join(","));
        let file = vec![7u8; 6 * MB];
        let upload = format!(
            "PUT /api/files/upload HTTP/1.1\r\nHost: localhost\r\n{key}Content-Type: multipart/form-data; boundary=b\r\n"
        );
        let batch = format!(
            "POST /api/files/batch HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {}\r\n",
            file.len()
        );
        let missing = format!(
            "POST /api/chunks/missing HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {}\r\n",
            file.len()
        );
        let hashes = list_of_hashes(file.len());
        std::thread::scope(|scope| {
            for i in 0..40 {
                let (world, key) = (&world, &key);
                let (long, messages, file, upload, batch, missing, hashes) =
                    (&long, &messages, &file, &upload, &batch, &missing, &hashes);
                scope.spawn(move || match i % 5 {
                    0 => whole(world, &post(key, long.len()), long),
                    1 => whole(world, &post(key, messages.len()), messages.as_bytes()),
                    2 => {
                        let head = "--b\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{\"path\":\"\"}\r\n--b\r\n";
                        let head = format!("{head}Content-Disposition: form-data; name=\"file\"; filename=\"f{i}\"\r\n\r\n");
                        let body = [head.as_bytes(), file, b"\r\n--b--\r\n"].concat();
                        whole(world, &format!("{upload}Content-Length: {}\r\n", body.len()), &body);
                    }
                    3 => whole(world, batch, file),
                    _ => whole(world, missing, hashes.as_bytes()),
                });
            }
        });
        serves(&world, &key);
        println!("listeners");
        let listen = format!("GET /api/events?kinds=all HTTP/1.1\r\nHost: localhost\r\n{key}");
        let open: Vec<_> = (0..200).map(|_| open(&world, &listen, b"")).collect();
        serves(&world, &key);
        drop(open);
        serves(&world, &key);
        assert_eq!(world.stop_hub(), Some(0), "{}", world.logs());
    }
}

/// The lists of the longest files: each takes many times its size to answer.
#[test]
fn long_lists_of_chunks_cannot_end_a_hub_with_little_memory() {
    for space in [64 * MB, 96 * MB, 128 * MB] {
        println!("{} MB", space / MB);
        let Some((mut world, key)) = hub(space) else {
            return;
        };
        let list = list_of_hashes(16 * MB);
        let head = |method: &str, path: &str| {
            format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {}\r\n",
                list.len()
            )
        };
        let missing = head("POST", "/api/chunks/missing");
        let commit = head("PUT", "/api/files/commit");
        whole(&world, &missing, list.as_bytes());
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (world, list) = (&world, &list);
                let head = if i % 2 == 0 { &missing } else { &commit };
                scope.spawn(move || whole(world, head, list.as_bytes()));
            }
        });
        serves(&world, &key);
        assert_eq!(world.stop_hub(), Some(0), "{}", world.logs());
    }
}

#[test]
fn a_hub_without_memory_for_any_client_says_so_and_ends() {
    let world = World::new();
    let plain = world.hub_command();
    let mut refused = 0;
    // the program itself needs more in some builds than in others
    for space in (16..256).step_by(4).map(|mb| mb * MB) {
        let limited = format!(
            "ulimit -v {} && exec \"$0\" serve --listen 127.0.0.1:0",
            space / 1024
        );
        let mut hub = Command::new("sh")
            .args(["-c", &limited])
            .arg(plain.get_program())
            .envs(
                plain
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(hub.stderr.take().unwrap()).lines();
        let mut text = String::new();
        let started = lines.by_ref().map_while(Result::ok).any(|line| {
            text += &format!("{line}\n");
            line.contains("hub started")
        });
        if started {
            hub.kill().unwrap();
        }
        let status = hub.wait().unwrap();
        println!("{} MB: {status:?} {text}", space / MB);
        if started {
            break;
        }
        // with less than that the program is not loaded, or cannot tell
        if text.contains("free address space") || refused > 0 {
            assert_eq!(status.code(), Some(1), "{text}");
            assert!(text.contains("24 MiB are needed (allow 128 MB"), "{text}");
            assert!(!text.contains("panicked"), "{text}");
            refused += 1;
        }
    }
    assert!(refused > 3, "{refused}");
}
