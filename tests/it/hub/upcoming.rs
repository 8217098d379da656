//! Long files that are being sent, as requests: which of them a key may announce, see and read, and when they end.

use serde_json::{Value, json};

use crate::support::files::{Hub, Listener, commit, noise};

const UPCOMING: &str = "/api/upcoming";

struct Film {
    chunks: [Vec<u8>; 2],
}

impl Film {
    fn new(seed: u64) -> Film {
        Film {
            chunks: [noise(seed, 5_000_000), noise(seed + 1, 6_000_000)],
        }
    }

    fn commit(&self, path: &str) -> Value {
        commit(path, "film", &[&self.chunks[0], &self.chunks[1]])
    }
}

fn key(hub: &Hub, name: &str, flags: &[&str]) -> String {
    let key = hub.world.hub_ok(&[&["key", "add", name], flags].concat());
    format!("X-API-Key: {key}\r\n")
}

fn put_chunk(hub: &Hub, bytes: &[u8], lines: &str) {
    let hash = mesync::internals::wire::files::Hash::of(bytes);
    let target = format!("/api/chunks/{hash}");
    hub.ask("PUT", &target, lines, bytes).is(204, "");
}

fn named(hub: &Hub, lines: &str) -> Vec<String> {
    let page = hub.ask("GET", "/api/files/changes?after=0", lines, "");
    let page = page.is(200, "").json();
    let files = page["upcoming"].as_array().cloned().unwrap_or_default();
    let id = |file: &Value| file["id"].as_str().unwrap().to_string();
    files.iter().map(id).collect()
}

fn announce(hub: &Hub, body: &Value, lines: &str) -> String {
    let answer = hub.put_json("POST", UPCOMING, lines, body).is(200, "");
    answer.json()["id"].as_str().unwrap().to_string()
}

#[test]
fn an_announced_file_is_named_and_read_as_far_as_it_has_arrived_until_its_commit() {
    let hub = Hub::start();
    let film = Film::new(1);
    let body = film.commit("d");
    let mut stream = Listener::open(&hub, "?kinds=all", "").unwrap();
    let mut others = Listener::open(&hub, "", "").unwrap();
    let id = announce(&hub, &body, "");
    assert_eq!(stream.event().unwrap().1, json!({"type": "file_upcoming"}));
    assert_eq!(named(&hub, ""), std::slice::from_ref(&id));
    assert_eq!(announce(&hub, &body, ""), id, "the same file");
    let list = hub
        .get(&format!("{UPCOMING}/{id}/chunks"))
        .is(200, "")
        .json();
    assert_eq!(list, body["chunks"]);
    let content = |at: usize| hub.get(&format!("{UPCOMING}/{id}/content?at={at}"));
    assert_eq!(content(0).status, 204);
    // not the first one: it leaves a gap
    put_chunk(&hub, &film.chunks[1], "");
    assert_eq!(content(0).status, 204);
    assert!(content(5_000_007).is(200, "").body == film.chunks[1][7..]);
    put_chunk(&hub, &film.chunks[0], "");
    let whole = film.chunks.concat();
    for at in [0, 1, 4_999_999, 5_000_000, 10_999_999] {
        assert!(content(at).is(200, "").body == whole[at..], "from {at}");
    }
    content(11_000_000).is(416, "11000000 bytes");
    hub.put_json("PUT", "/api/files/commit", "", &body)
        .is(201, "");
    content(0).is(404, "committed");
    assert_eq!(named(&hub, ""), [""; 0]);
    // a program that knows only files hears of the file alone
    assert_eq!(others.event().unwrap().1["type"], "file_created");
}

#[test]
fn only_long_files_with_a_name_and_chunks_that_agree_are_announced() {
    let hub = Hub::start();
    let film = Film::new(3).commit("d");
    let check = |change: Value, status: u16, words: &str| {
        let mut body = film.clone();
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        hub.put_json("POST", UPCOMING, "", &body).is(status, words);
    };
    check(json!({"size": 7}), 400, "the chunks have 11000000 bytes");
    check(json!({"name": ".."}), 422, "");
    check(json!({"kind": "dir"}), 400, "");
    check(json!({"chunks": []}), 400, "");
    let short = commit("d", "film", &[b"short"]);
    hub.put_json("POST", UPCOMING, "", &short)
        .is(400, "more than 8388608 bytes");
    hub.ask("POST", UPCOMING, "", "{").is(400, "commit");
    let chunk = json!({"sha256": film["chunks"][0]["sha256"], "size": 1000});
    check(
        json!({"chunks": vec![chunk; 65_537], "size": 65_537_000}),
        413,
        "too long to be announced",
    );
    for path in ["x/chunks", "x/content"] {
        hub.get(&format!("{UPCOMING}/{path}"))
            .is(404, "no such file");
    }
    assert_eq!(named(&hub, ""), [""; 0]);
}

#[test]
fn a_limited_key_announces_sees_and_reads_only_what_it_may() {
    let hub = Hub::start();
    let [a, b] = ["a", "b"].map(|dir| key(&hub, dir, &["--files", dir]));
    let all = key(&hub, "all", &[]);
    let film = Film::new(5);
    // the whole hub knows these bytes, a does not
    put_chunk(&hub, &film.chunks[0], &all);
    hub.put_json("POST", UPCOMING, &a, &film.commit("b"))
        .is(403, "");
    let mut stream = Listener::open(&hub, "?kinds=all", &b).unwrap();
    let id = announce(&hub, &film.commit("a"), &a);
    assert_eq!(
        (named(&hub, &a), named(&hub, &b)),
        (vec![id.clone()], vec![])
    );
    let content = |lines: &str| hub.ask("GET", &format!("{UPCOMING}/{id}/content"), lines, "");
    for part in ["chunks", "content"] {
        let target = format!("{UPCOMING}/{id}/{part}");
        hub.ask("GET", &target, &b, "").is(404, "no such file");
    }
    // a hash proves nothing: a machine that announces it has to send the bytes
    for lines in [&a, &all] {
        assert_eq!(content(lines).status, 204);
    }
    put_chunk(&hub, &film.chunks[0], &a);
    for lines in [&a, &all] {
        assert!(content(lines).is(200, "").body == film.chunks[0]);
    }
    // the first event that b hears of is its own
    let own = announce(&hub, &Film::new(7).commit("b"), &b);
    assert_eq!(stream.event().unwrap().1, json!({"type": "file_upcoming"}));
    assert_eq!(named(&hub, &b), [own]);
}
