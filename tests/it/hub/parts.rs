//! Changes in long files as parts of chunks that the other side has. The real binary, over HTTP.

use crate::support::files::{Answer, Hub, commit, noise};
use crate::support::world::Random;
use mesync::internals::chunking::Splitter;
use mesync::internals::wire::files::{Chunk, Hash};
use serde_json::{Value, json};

const PARTS: &str = "Content-Type: application/x-mesync-parts\r\n";

/// A file of 12 MB on a hub, and its chunks.
struct Long {
    hub: Hub,
    content: Vec<u8>,
    chunks: Vec<Chunk>,
    id: String,
    rev: u64,
}

fn chunks_of(content: &[u8]) -> Vec<Chunk> {
    let mut splitter = Splitter::default();
    splitter.feed(content);
    splitter.finish().chunks
}

fn long(path: &str) -> Long {
    let (hub, content) = (Hub::start(), noise(3, 12_000_000));
    let put = hub.upload(path, "long", &content, "").is(201, "");
    Long {
        chunks: chunks_of(&content),
        id: put.id(),
        rev: put.rev(),
        hub,
        content,
    }
}

impl Long {
    fn pieces(&self, after: Option<Hash>, at: u64, count: usize) -> Vec<Value> {
        let after = after.map(|hash| hash.to_string());
        let asked = json!({"rev": self.rev, "after": after, "at": at, "count": count});
        let target = format!("/api/files/{}/pieces", self.id);
        let got = self.hub.put_json("POST", &target, "", &asked).is(200, "");
        got.json()["chunks"].as_array().unwrap().clone()
    }

    fn parts(&self, lines: &str, (from, to): (u64, u64), bases: &[Hash]) -> Answer {
        let bases: Vec<String> = bases.iter().map(Hash::to_string).collect();
        let asked = json!({"rev": self.rev, "from": from, "to": to, "bases": bases});
        let target = format!("/api/files/{}/parts", self.id);
        self.hub.put_json("POST", &target, lines, &asked)
    }

    fn send(&self, lines: &str, bytes: &[u8], list: &Value, new: &[u8]) -> Answer {
        let target = format!("/api/chunks/{}", Hash::of(bytes));
        let body = [list.to_string().as_bytes(), b"\n", new].concat();
        (self.hub).ask("PUT", &target, &format!("{lines}{PARTS}"), body)
    }
}

/// The list and the new bytes.
fn split(body: &[u8]) -> (Value, &[u8]) {
    let end = body.iter().position(|b| *b == b'\n').unwrap();
    (
        serde_json::from_slice(&body[..end]).unwrap(),
        &body[end + 1..],
    )
}

/// The described bytes. `base`: the bytes of each base.
fn join(list: &Value, mut new: &[u8], base: &dyn Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in list["parts"].as_array().unwrap() {
        match part {
            Value::Array(copy) => {
                let [length, number, at] = [0, 1, 2].map(|n| copy[n].as_u64().unwrap() as usize);
                let base = base(list["bases"][number].as_str().unwrap());
                bytes.extend_from_slice(&base[at..at + length]);
            }
            length => {
                let (these, rest) = new.split_at(length.as_u64().unwrap() as usize);
                bytes.extend_from_slice(these);
                new = rest;
            }
        }
    }
    assert!(new.is_empty());
    bytes
}

#[test]
fn a_changed_chunk_is_sent_and_fetched_as_parts() {
    let mut long = long("");
    let (first, second) = (long.chunks[0], long.chunks[1]);
    let begin = first.size as usize;
    let old = long.content[begin..begin + second.size as usize].to_vec();
    let found = long.pieces(Some(first.sha256), first.size, 1);
    assert_eq!(found[0]["sha256"], second.sha256.to_string());
    let sizes = found[0]["pieces"].as_array().unwrap().iter();
    let sizes: Vec<usize> = sizes
        .map(|p| p["size"].as_u64().unwrap() as usize)
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), old.len());
    assert!(sizes.len() > 4, "{sizes:?}");
    // the second piece is another one
    let (at, length) = (sizes[0], sizes[1]);
    let new = noise(9, length - 7);
    let chunk = [&old[..at], &new[..], &old[at + length..]].concat();
    let rest = old.len() - at - length;
    let base = second.sha256.to_string();
    let list = json!({"bases": [base], "parts": [[at, 0, 0], new.len(), [rest, 0, at + length]]});
    long.send("", &chunk, &list, &new).is(204, "");
    let mut content = long.content.clone();
    content.splice(begin..begin + old.len(), chunk.iter().copied());
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut left = content.as_slice();
    for (number, size) in long.chunks.iter().map(|c| c.size as usize).enumerate() {
        let size = if number == 1 { chunk.len() } else { size };
        let (part, rest) = left.split_at(size);
        parts.push(part);
        left = rest;
    }
    let put = (long.hub).put_json("PUT", "/api/files/commit", "", &commit("", "long", &parts));
    long.rev = put.is(200, "").rev();
    let got = long.hub.get(&format!("/api/files/{}/download", long.id));
    assert!(got.body == content);
    // a client with the old chunk fetches the same bytes, and few of them
    let range = (first.size, first.size + chunk.len() as u64);
    let got = long.parts("", range, &[Hash::of(b"unknown"), second.sha256]);
    let got = got.is(200, "");
    let (list, fetched) = split(&got.body);
    assert!(
        fetched.len() < 3 * 65_536,
        "{} of {}",
        fetched.len(),
        chunk.len()
    );
    assert!(join(&list, fetched, &|_| old.clone()) == chunk);
    // one without a chunk gets them whole
    let got = long.parts("", range, &[]).is(200, "");
    let (list, fetched) = split(&got.body);
    assert!(fetched == chunk && list["bases"] == json!([]), "{list}");
}

#[test]
fn random_changes_are_described_exactly() {
    let mut random = Random::seeded("random_changes_are_described_exactly");
    let mut long = long("");
    let mut content = long.content.clone();
    for _ in 0..8 {
        let at = random.below(content.len() as u64) as usize;
        let end = content.len().min(at + random.below(300_000) as usize);
        let new = noise(random.below(u64::MAX), random.below(200_000) as usize);
        content.splice(at..end, new);
    }
    long.rev = long.hub.upload("", "long", &content, "").is(200, "").rev();
    let before = std::mem::replace(&mut long.content, content);
    let old = std::mem::take(&mut long.chunks);
    let base = |hash: &str| {
        let mut at = 0;
        for chunk in &old {
            if chunk.sha256.to_string() == hash {
                return before[at..at + chunk.size as usize].to_vec();
            }
            at += chunk.size as usize;
        }
        panic!("no chunk {hash}")
    };
    let bases: Vec<Hash> = old.iter().map(|chunk| chunk.sha256).take(16).collect();
    let size = long.content.len() as u64;
    for _ in 0..10 {
        let from = random.below(size);
        let to = (from + 1 + random.below(8_000_000)).min(size);
        let got = long.parts("", (from, to), &bases).is(200, "");
        let (list, new) = split(&got.body);
        assert!(
            join(&list, new, &base) == long.content[from as usize..to as usize],
            "{from}..{to}"
        );
    }
}

#[test]
fn parts_that_are_none_are_refused_and_stage_nothing() {
    let long = long("");
    let base = long.chunks[0].sha256.to_string();
    let bytes = &long.content[..1000];
    let list = |parts: Value| json!({"bases": [base], "parts": parts});
    let size = long.chunks[0].size;
    for (list, new, status, words) in [
        (
            json!({"parts": [3]}),
            &b"abc"[..],
            400,
            "must begin with a line",
        ),
        (json!([]), b"", 400, "must begin with a line"),
        (list(json!([])), b"", 400, "do not agree"),
        (list(json!([[3, 1, 0]])), b"", 400, "do not agree"),
        (list(json!([[0, 0, 0]])), b"", 400, "do not agree"),
        (list(json!([8_388_608, 1])), b"", 400, "do not agree"),
        (list(json!([[1000, 0, 1]])), b"", 400, "differs"),
        (list(json!([1000])), &bytes[..999], 400, "differs"),
        // beyond the end of the base
        (list(json!([[1000, 0, size - 1]])), b"", 409, "whole chunk"),
        (
            json!({"bases": [Hash::of(b"none").to_string()], "parts": [[1000, 0, 0]]}),
            b"",
            409,
            "whole chunk",
        ),
    ] {
        long.send("", bytes, &list, new).is(status, words);
    }
    let chunks = json!({"chunks": [Hash::of(bytes).to_string()]});
    let missing = long
        .hub
        .put_json("POST", "/api/chunks/missing", "", &chunks);
    assert_eq!(missing.json()["missing"].as_array().unwrap().len(), 1);
    long.send("", bytes, &list(json!([[1000, 0, 0]])), b"")
        .is(204, "");
    let missing = long
        .hub
        .put_json("POST", "/api/chunks/missing", "", &chunks);
    assert_eq!(missing.json()["missing"], json!([]));
    for (range, bases, status) in [
        ((0, 0), 0, 416),
        ((5, 4), 0, 416),
        ((0, 12_000_001), 0, 416),
        ((0, 8_388_609), 0, 416),
        ((0, 10), 17, 413),
        ((0, 10), 16, 200),
    ] {
        let bases: Vec<Hash> = (0..bases).map(|n: u8| Hash::of(&[n])).collect();
        long.parts("", range, &bases).is(status, "");
    }
}

#[test]
fn a_limited_key_uses_no_chunk_that_it_may_not_read() {
    let long = long("b");
    let key = long
        .hub
        .world
        .hub_ok(&["key", "add", "limited", "--files", "a"]);
    let line = format!("X-API-Key: {key}\r\n");
    let secret = long.chunks[0];
    let bytes = &long.content[..1000];
    let list = json!({"bases": [secret.sha256.to_string()], "parts": [[1000, 0, 0]]});
    long.send(&line, bytes, &list, b"").is(409, "missing");
    long.parts(&line, (0, 1000), &[]).is(404, "");
    let asked = json!({"rev": long.rev, "after": null, "at": 0, "count": 1});
    let target = format!("/api/files/{}/pieces", long.id);
    (long.hub.put_json("POST", &target, &line, &asked)).is(404, "");
    // nor learns from a file of its own what it has
    let mine = long.hub.upload("a", "mine", bytes, &line).is(201, "");
    let asked = json!({"rev": mine.rev(), "from": 0, "to": 1000,
        "bases": [secret.sha256.to_string()]});
    let target = format!("/api/files/{}/parts", mine.id());
    let got = (long.hub.put_json("POST", &target, &line, &asked)).is(200, "");
    let (list, new) = split(&got.body);
    assert_eq!((&list["bases"], new.len()), (&json!([]), 1000));
}
