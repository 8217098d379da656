//! A hub with files, asked over plain HTTP as any program would.

use std::io;
use std::net::TcpStream;
use std::time::Instant;

use mesync::internals::wire::files::Hash;
use serde_json::{Value, json};

use super::http::{Conn, PATIENCE};
use super::world::World;

/// A hub in protected mode, which lets this machine do everything.
pub struct Hub {
    pub world: World,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Asserts the status, and that words or JSON contain `wants`.
    #[track_caller]
    pub fn is(self, status: u16, wants: &str) -> Answer {
        assert!(
            self.status == status && String::from_utf8_lossy(&self.body).contains(wants),
            "wanted {status} {wants:?}: {self}"
        );
        self
    }

    /// The revision in `ETag`.
    #[track_caller]
    pub fn rev(&self) -> u64 {
        let tag = self
            .header("etag")
            .unwrap_or_else(|| panic!("no ETag: {self}"));
        tag.trim_matches('"')
            .split('-')
            .next()
            .and_then(|rev| rev.parse().ok())
            .unwrap_or_else(|| panic!("{tag}: {self}"))
    }

    #[track_caller]
    pub fn id(&self) -> String {
        self.json()["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no id: {self}"))
            .to_string()
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n{:.2000}",
            self.head,
            String::from_utf8_lossy(&self.body)
        )
    }
}

impl Hub {
    pub fn start() -> Hub {
        Hub::with(&[])
    }

    /// With settings from the environment.
    pub fn with(env: &[(&str, &str)]) -> Hub {
        let mut world = World::new();
        world.hub_env = env
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        world.start_hub();
        Hub { world }
    }

    pub fn connect(&self) -> Line {
        Line(Conn::new(
            TcpStream::connect(("127.0.0.1", self.world.port)).unwrap(),
        ))
    }

    /// Asks over a connection of its own; `lines` are more headers.
    pub fn ask(&self, method: &str, target: &str, lines: &str, body: impl AsRef<[u8]>) -> Answer {
        self.connect()
            .ask(method, target, lines, body.as_ref())
            .unwrap()
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, "", "")
    }

    pub fn put_json(&self, method: &str, target: &str, lines: &str, body: &Value) -> Answer {
        self.ask(method, target, lines, body.to_string())
    }

    pub fn upload(&self, path: &str, name: &str, content: impl AsRef<[u8]>, lines: &str) -> Answer {
        let (kind, body) = form(path, name, content.as_ref());
        self.ask("PUT", "/api/files/upload", &format!("{kind}{lines}"), body)
    }

    pub fn put_chunk(&self, bytes: &[u8]) -> Answer {
        self.ask(
            "PUT",
            &format!("/api/chunks/{}", Hash::of(bytes)),
            "",
            bytes,
        )
    }

    /// All changes, page by page.
    pub fn changes(&self, limit: usize) -> Vec<Value> {
        let (mut all, mut after, mut began) = (Vec::new(), 0, String::new());
        loop {
            let page = self
                .get(&format!(
                    "/api/files/changes?after={after}&limit={limit}{began}"
                ))
                .is(200, "")
                .json();
            let rows = page["changes"].as_array().unwrap();
            assert!(rows.len() <= limit);
            all.extend(rows.iter().cloned());
            if !page["more"].as_bool().unwrap() {
                return all;
            }
            after = rows.last().unwrap()["rev"].as_u64().unwrap();
            began = format!("&began={}", page["began"]);
        }
    }
}

/// One connection that is used again.
pub struct Line(pub Conn);

impl Line {
    pub fn ask(
        &mut self,
        method: &str,
        target: &str,
        lines: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        self.0.send(head(method, target, lines, body.len()))?;
        // refused before it was read: the response arrives nevertheless
        let _ = self.0.send(body);
        let until = Instant::now() + PATIENCE;
        let got = self.0.head(until)?;
        let body = if method == "HEAD" {
            Vec::new()
        } else {
            self.0.body(&got, until)?
        };
        Ok(Answer {
            status: got.status,
            head: got.head,
            body,
        })
    }

    pub fn upload(
        &mut self,
        path: &str,
        name: &str,
        content: &[u8],
        lines: &str,
    ) -> io::Result<Answer> {
        let (kind, body) = form(path, name, content);
        self.ask("PUT", "/api/files/upload", &format!("{kind}{lines}"), &body)
    }
}

pub fn head(method: &str, target: &str, lines: &str, length: usize) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {length}\r\n\r\n"
    )
}

const BOUNDARY: &str = "----a boundary=1";

/// The header of a form.
pub fn kind() -> String {
    format!("Content-Type: multipart/form-data; boundary=\"{BOUNDARY}\"\r\n")
}

/// A part: `how` is what follows `form-data; `.
pub fn part(how: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {how}\r\n\r\n").into_bytes();
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// A form of these parts.
pub fn parts(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    bytes
}

pub fn metadata(path: &str) -> Vec<u8> {
    let metadata =
        json!({"path": path, "mode": 0o100644, "mtime": "2026-11-21T10:30:00.123456789Z"});
    part(
        "name=\"metadata\"\r\nContent-Type: application/json",
        metadata.to_string().as_bytes(),
    )
}

/// As s3ec sends it: header and body.
pub fn form(path: &str, name: &str, content: &[u8]) -> (String, Vec<u8>) {
    let file = part(
        "name=\"file\"; filename=\"x\"\r\nContent-Type: text/plain",
        content,
    );
    (
        kind(),
        parts(&[
            file,
            part("name=\"file_name\"", name.as_bytes()),
            metadata(path),
        ]),
    )
}

/// A commit of bytes that the hub has as these chunks.
pub fn commit(path: &str, name: &str, chunks: &[&[u8]]) -> Value {
    let list: Vec<Value> = chunks
        .iter()
        .map(|c| json!({"sha256": Hash::of(c).to_string(), "size": c.len()}))
        .collect();
    let whole = chunks.concat();
    json!({"path": path, "name": name, "kind": "file", "mode": 0o100644, "mtime": "2026-11-21T10:30:00Z", "size": whole.len(),
        "checksum_sha256": Hash::of(&whole).to_string(), "chunks": list})
}

/// Bytes that look random and are the same everywhere.
pub fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// An open event stream.
pub struct Listener(Conn);

impl Listener {
    pub fn open(hub: &Hub, query: &str, lines: &str) -> io::Result<Listener> {
        let mut line = hub.connect();
        line.0
            .send(head("GET", &format!("/api/events{query}"), lines, 0))?;
        let got = line.0.head(Instant::now() + PATIENCE)?;
        assert!(
            got.status == 200 && got.header("content-type") == Some("text/event-stream"),
            "{got:?}"
        );
        Ok(Listener(line.0))
    }

    /// The next event: its id and JSON. Comments and settings of the stream are passed over.
    pub fn event(&mut self) -> io::Result<(Option<u64>, Value)> {
        // keep-alives are no event
        let (mut id, until) = (None, Instant::now() + PATIENCE);
        loop {
            let line = self.0.line(until)?;
            assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
            if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.parse().unwrap());
            }
            if let Some(text) = line.strip_prefix("data: ") {
                assert_eq!(self.0.line(until)?, "", "an event has one line of data");
                return Ok((id, serde_json::from_str(text).unwrap()));
            }
        }
    }
}
