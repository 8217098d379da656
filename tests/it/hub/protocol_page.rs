//! `man/mesync-protocol.7` against a real hub: its routes, how long a body each takes, and its examples, sent in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::support::files::{Answer, Hub, head};
use crate::support::http::PATIENCE;
use crate::support::routes::routes;

const MASTER_KEY: &str = "an-example-of-a-master-key";
/// Bytes of a file on the hub that is asked about bodies.
const MAX_UPLOAD: u64 = 1_000_000;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/mesync-protocol.7");
    std::fs::read_to_string(path).unwrap()
}

/// The rows of the table of routes: method, path, longest body.
fn rows(page: &str) -> Vec<(String, String, u64)> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix(".It Li ")?.split(" Ta ");
        let (method, path) = cells.next()?.split_once(' ')?;
        let number = |text: &str| match text {
            "max_upload" => MAX_UPLOAD,
            digits => digits.parse().unwrap(),
        };
        let body = cells.next()?.split(" + ").map(number).sum();
        Some((method.to_string(), path.to_string(), body))
    };
    page.lines().filter_map(row).collect()
}

/// A path with what its variable parts stand for.
fn with_parts(path: &str, parts: [&str; 4]) -> String {
    let names = ["{host}", "{id}", "{sha256}", "{key}"];
    names
        .iter()
        .zip(parts)
        .fold(path.to_string(), |path, (name, part)| {
            path.replace(name, part)
        })
}

#[test]
fn the_page_has_every_route_and_a_section_about_it() {
    let page = page();
    let told: BTreeSet<_> = rows(&page)
        .into_iter()
        .map(|(method, path, _)| (method, with_parts(&path, ["*"; 4])))
        .collect();
    assert_eq!(told, routes().into_iter().collect());
    for (method, path, _) in rows(&page) {
        assert!(
            page.contains(&format!("\n.Ss {method} {path}\n")),
            "no section \"{method} {path}\""
        );
    }
}

#[test]
fn each_route_takes_a_body_as_long_as_the_page_says() {
    let upload = MAX_UPLOAD.to_string();
    let hub = Hub::with(&[("MESYNC_MAX_UPLOAD", upload.as_str())]);
    let id = "00000000-0000-0000-0000-000000000009";
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for (method, path, most) in rows(&page()) {
        // in the clear it is refused by its head
        if path == "/api/join" {
            continue;
        }
        let path = with_parts(&path, ["web-1", id, sum, id]);
        let status = |length: u64| {
            let mut line = hub.connect();
            let head = head(&method, &path, "Expect: 100-continue\r\n", length as usize);
            line.0.send(head).unwrap();
            line.0.head(Instant::now() + PATIENCE).unwrap().status
        };
        assert_eq!(status(most + 1), 413, "{method} {path}");
        assert_ne!(status(most), 413, "{method} {path}");
    }
}

/// A request or an answer: its first line, headers and body.
#[derive(Debug)]
struct Part {
    first: String,
    headers: Vec<(String, String)>,
    body: Vec<String>,
}

fn part(block: &[String]) -> Part {
    let blank = block
        .iter()
        .position(String::is_empty)
        .unwrap_or(block.len());
    let header = |line: &String| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        (name.to_string(), value.to_string())
    };
    Part {
        first: block[0].clone(),
        headers: block[1..blank].iter().map(header).collect(),
        body: block[block.len().min(blank + 1)..].to_vec(),
    }
}

/// The literal blocks that are requests, each with the one after it.
fn examples(page: &str) -> Vec<(Part, Part)> {
    let mut blocks: Vec<Vec<String>> = Vec::new();
    let mut is_literal = false;
    for line in page.lines() {
        match line {
            ".Bd -literal" => {
                is_literal = true;
                blocks.push(Vec::new());
            }
            ".Ed" => is_literal = false,
            _ if is_literal => {
                let line = line.replace("\\&", "").replace("\\e", "\\");
                blocks.last_mut().unwrap().push(line);
            }
            _ => {}
        }
    }
    assert!(blocks.len().is_multiple_of(2));
    let pair = |pair: &[Vec<String>]| (part(&pair[0]), part(&pair[1]));
    blocks.chunks(2).map(pair).collect()
}

/// What three dots in an object of the page are read as.
const FURTHER_FIELDS: &str = "...";

/// JSON of the page or of the hub.
fn json(text: &str) -> Option<Value> {
    let text = text.strip_prefix("data: ").unwrap_or(text);
    serde_json::from_str(&text.replace(",...}", ",\"...\":null}")).ok()
}

/// What of a text differs from hub to hub.
#[derive(Debug, PartialEq, Eq)]
enum Varies {
    Uuid,
    Tag,
    /// Of this revision.
    Etag(String),
    Time,
    Token,
    Version,
}

fn varies(text: &str) -> Option<Varies> {
    let hex = |text: &str| text.bytes().all(|b| b"0123456789abcdef".contains(&b));
    if let Some((rev, tag)) = text.trim_matches('"').split_once('-')
        && text.starts_with('"')
        && tag.len() == 16
        && hex(tag)
    {
        Some(Varies::Etag(rev.to_string()))
    } else if uuid::Uuid::try_parse(text).is_ok() {
        Some(Varies::Uuid)
    } else if text.len() == 16 && hex(text) {
        Some(Varies::Tag)
    } else if text.ends_with('Z') && humantime::parse_rfc3339(text).is_ok() {
        Some(Varies::Time)
    } else if text.starts_with("eyJ") {
        Some(Varies::Token)
    } else if text.split('.').count() == 3 && text.bytes().all(|b| b == b'.' || b.is_ascii_digit())
    {
        Some(Varies::Version)
    } else {
        None
    }
}

/// The values that replace the placeholders of the page.
#[derive(Default)]
struct Learned(BTreeMap<String, String>);

impl Learned {
    fn apply(&self, text: &str) -> String {
        self.0.iter().fold(text.to_string(), |text, (page, here)| {
            text.replace(page, here)
        })
    }

    fn learn(&mut self, page: &str, here: &str) -> bool {
        let (page, here) = (page.to_string(), here.to_string());
        *self.0.entry(page).or_insert_with(|| here.clone()) == here
    }

    /// Whether a text is that of the page, but for what varies.
    fn is(&mut self, page: &str, here: &str) -> bool {
        match varies(page) {
            _ if page == here => true,
            Some(kind) if varies(here).as_ref() != Some(&kind) => false,
            Some(Varies::Etag(rev)) => {
                let tag = |text: &str| text.trim_matches('"')[rev.len() + 1..].to_string();
                self.learn(&tag(page), &tag(here))
            }
            Some(Varies::Uuid | Varies::Tag) => self.learn(page, here),
            Some(Varies::Time | Varies::Token | Varies::Version) => true,
            None => false,
        }
    }

    fn is_json(&mut self, page: &Value, here: &Value) -> bool {
        match (page, here) {
            (Value::Object(page), Value::Object(here)) => {
                let is_open = page.contains_key(FURTHER_FIELDS);
                let mut told = page.iter().filter(|(key, _)| *key != FURTHER_FIELDS);
                (is_open || here.keys().all(|key| page.contains_key(key)))
                    && told.all(|(key, told)| {
                        here.get(key).is_some_and(|here| self.is_json(told, here))
                    })
            }
            (Value::Array(page), Value::Array(here)) => {
                page.len() == here.len()
                    && page
                        .iter()
                        .zip(here)
                        .all(|(page, here)| self.is_json(page, here))
            }
            (Value::String(page), Value::String(here)) => self.is(page, here),
            _ => page == here,
        }
    }

    /// Line by line: a batch and an event stream have JSON in some of them.
    fn are_lines(&mut self, page: &[String], here: &[String]) -> bool {
        page.len() == here.len()
            && page
                .iter()
                .zip(here)
                .all(|(page, here)| match (json(page), json(here)) {
                    (Some(Value::Object(a)), Some(Value::Object(b))) => {
                        self.is_json(&Value::Object(a), &Value::Object(b))
                    }
                    _ => page == here,
                })
    }
}

/// Lines of an event stream; the page breaks long ones.
fn unbroken(lines: &[String]) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    for line in lines {
        let begins = ["retry:", ":", "id:", "data:"];
        if line.is_empty() || begins.iter().any(|field| line.starts_with(field)) {
            whole.push(line.clone());
        } else {
            whole.last_mut().unwrap().push_str(line);
        }
    }
    whole
}

fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    text.lines().map(str::to_string).collect()
}

/// Sends a request of the page. Of an event stream so many lines are read as the page has.
fn send(hub: &Hub, learned: &Learned, request: &Part, stream_lines: usize) -> Answer {
    let first = learned.apply(&request.first);
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(words.next(), Some("HTTP/1.1"), "{first}");
    let mut headers: String = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", learned.apply(value)))
        .collect();
    if !target.starts_with("/api/health") && !target.starts_with("/api/auth/") {
        headers += &format!("X-API-Key: {MASTER_KEY}\r\n");
    }
    let body = if headers.contains("multipart/form-data") {
        request.body.join("\r\n") + "\r\n"
    } else {
        request.body.join("\n")
    };
    let mut line = hub.connect();
    if stream_lines == 0 {
        let body = learned.apply(&body);
        return line.ask(method, target, &headers, body.as_bytes()).unwrap();
    }
    line.0.send(head(method, target, &headers, 0)).unwrap();
    let until = Instant::now() + PATIENCE;
    let got = line.0.head(until).unwrap();
    let read: Vec<String> = (0..stream_lines)
        .map(|_| line.0.line(until).unwrap())
        .collect();
    Answer {
        status: got.status,
        head: got.head,
        body: read.join("\n").into_bytes(),
    }
}

#[test]
fn the_hub_answers_the_examples_of_the_page_as_it_says() {
    let hub = Hub::with(&[("MESYNC_MASTER_KEY", MASTER_KEY)]);
    let backup = hub.world.dir.path().join("backup");
    let mut learned = Learned::default();
    learned.learn("/var/backups/mesync", backup.to_str().unwrap());
    let mut wrong = Vec::new();
    for (request, answer) in examples(&page()) {
        let is_stream = answer.headers.iter().any(|(_, v)| v == "text/event-stream");
        let told = if is_stream {
            unbroken(&answer.body)
        } else {
            answer.body.clone()
        };
        let stream_lines = if is_stream { told.len() } else { 0 };
        let got = send(&hub, &learned, &request, stream_lines);
        let has_header = |(name, value): &(String, String)| {
            got.header(name).is_some_and(|here| learned.is(value, here))
        };
        let is_head = got.head.starts_with(&answer.first) && answer.headers.iter().all(has_header);
        let is_body = match (
            json(&told.join("\n")),
            json(&String::from_utf8_lossy(&got.body)),
        ) {
            (Some(page), Some(here)) => learned.is_json(&page, &here),
            _ => learned.are_lines(&told, &lines(&got.body)),
        };
        if !is_head || !is_body {
            wrong.push(format!("{}\n{got}", request.first));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
