//! Chunks, batches and lists of changes: the requests that only mesync's own programs send. The
//! real binary, over HTTP.

use crate::support::files::{Hub, commit, noise};
use crate::support::world::Random;
use mesync::internals::chunking::Splitter;
use mesync::internals::wire::files::{Hash, Record};
use serde_json::{Value, json};

pub(super) const COMMIT: &str = "/api/files/commit";

pub(super) fn with(mut value: Value, changes: Value) -> Value {
    for (name, change) in changes.as_object().unwrap() {
        value[name] = change.clone();
    }
    value
}

#[test]
fn a_long_file_has_the_same_chunks_by_every_route() {
    let hub = Hub::start();
    let content = noise(1, 12_000_000);
    let mut splitter = Splitter::default();
    splitter.feed(&content);
    let wants = splitter.finish();
    let (mut pieces, mut rest) = (Vec::new(), content.as_slice());
    for chunk in &wants.chunks {
        let (piece, more) = rest.split_at(chunk.size as usize);
        pieces.push(piece);
        rest = more;
    }
    let hashes: Vec<String> = wants.chunks.iter().map(|c| c.sha256.to_string()).collect();
    let missing = |wants: usize| {
        let got = hub
            .put_json(
                "POST",
                "/api/chunks/missing",
                "",
                &json!({"chunks": hashes}),
            )
            .is(200, "")
            .json();
        assert_eq!(got["missing"].as_array().unwrap().len(), wants);
    };
    missing(pieces.len());
    let lacking = hub
        .put_json("PUT", COMMIT, "", &commit("", "a", &pieces))
        .is(409, "send them first")
        .json();
    assert_eq!(lacking["missing"].as_array().unwrap().len(), pieces.len());
    for piece in &pieces {
        assert_eq!(hub.put_chunk(piece).status, 204);
    }
    missing(0);
    let new = hub
        .put_json(
            "PUT",
            COMMIT,
            "If-None-Match: *\r\n",
            &commit("", "a", &pieces),
        )
        .is(201, "");
    assert_eq!(
        hub.put_json("PUT", COMMIT, "", &commit("", "a", &pieces))
            .is(204, "")
            .rev(),
        new.rev()
    );
    assert!(hub.get(&format!("/api/files/{}/download", new.id())).body == content);
    let whole = hub.upload("", "b", &content, "").is(201, "");
    let lists: Vec<Value> = [&new, &whole]
        .iter()
        .map(|a| {
            hub.get(&format!("/api/files/{}/chunks?rev={}", a.id(), a.rev()))
                .is(200, "")
                .json()
        })
        .collect();
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0].as_array().unwrap().len(), wants.chunks.len());
    let chunk = hub.get(&format!("/api/chunks/{}", hashes[1])).is(200, "");
    assert!(chunk.body == pieces[1]);
    // a part across a cut
    let cut = pieces[0].len();
    let range = format!("Range: bytes={}-{}\r\n", cut - 5, cut + 4);
    assert!(
        hub.ask(
            "GET",
            &format!("/api/files/{}/download", new.id()),
            &range,
            ""
        )
        .is(206, "")
        .body
            == content[cut - 5..cut + 5]
    );
}

#[test]
fn a_rename_is_one_change_of_two_names() {
    let hub = Hub::start();
    let old = hub.upload("d", "old", "text", "").is(201, "");
    let from = |rev: u64| json!({"from": {"path": "d", "name": "old", "if_match": rev}});
    let wants = with(commit("d", "new", &[b"text"]), from(old.rev() + 7));
    hub.put_json("PUT", COMMIT, "If-None-Match: *\r\n", &wants)
        .is(412, "\"old\"");
    let new = hub
        .put_json(
            "PUT",
            COMMIT,
            "If-None-Match: *\r\n",
            &with(wants, from(old.rev())),
        )
        .is(201, "");
    hub.get(&format!("/api/files/{}", old.id())).is(404, "");
    let rows: Vec<Record> = hub
        .changes(1)
        .into_iter()
        .map(|row| serde_json::from_value(row).unwrap())
        .collect();
    let gone = rows.iter().find(|r| r.name == "old").unwrap();
    assert_eq!(
        gone.renamed_to.as_ref().map(|name| name.full()),
        Some("d/new".to_string())
    );
    assert!(rows.len() == 2 && new.json()["checksum_sha256"] == Hash::of(b"text").to_string());
}

#[test]
fn directories_and_links_are_listed_on_request_only() {
    let hub = Hub::start();
    let dir = json!({"path": "", "name": "d", "kind": "dir", "mode": 0o40755, "size": 0, "checksum_sha256": Hash::of(b"").to_string()});
    hub.put_json("PUT", COMMIT, "", &dir).is(201, "\"dir\"");
    for target in ["d", "../elsewhere", "/etc/passwd"] {
        assert_eq!(hub.put_chunk(target.as_bytes()).status, 204);
        let link = with(
            commit("", &format!("to {}", target.len()), &[target.as_bytes()]),
            json!({"kind": "symlink"}),
        );
        let made = hub
            .put_json("PUT", COMMIT, "", &link)
            .is(201, "\"symlink\"");
        hub.get(&format!("/api/files/{}/download", made.id()))
            .is(200, target);
    }
    for bad in [&b"a\0b"[..], b"\xff\xfe", &[b'x'; 4096]] {
        assert_eq!(hub.put_chunk(bad).status, 204);
        hub.put_json(
            "PUT",
            COMMIT,
            "",
            &with(commit("", "bad", &[bad]), json!({"kind": "symlink"})),
        )
        .is(400, "target");
        // the same when the chunk is in the store already
        hub.put_json("PUT", COMMIT, "", &commit("", "as a file", &[bad]));
        hub.put_json(
            "PUT",
            COMMIT,
            "",
            &with(commit("", "bad", &[bad]), json!({"kind": "symlink"})),
        )
        .is(400, "target");
    }
    let count = |query: &str| {
        hub.get(&format!("/api/files{query}"))
            .is(200, "")
            .header("x-total-count")
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    assert_eq!((count(""), count("?kinds=all")), (1, 5));
}

#[test]
fn a_commit_that_cannot_be_is_refused() {
    let hub = Hub::with(&[("MESYNC_MAX_UPLOAD", "1GB")]);
    let good = commit("", "a", &[b"text"]);
    let sha = Hash::of(b"text").to_string();
    let check = |change: Value, status: u16, wants: &str| {
        hub.put_json("PUT", COMMIT, "", &with(good.clone(), change))
            .is(status, "{\"error\":\"")
            .is(status, wants);
    };
    check(json!({"size": 5}), 400, "but the chunks have 4 bytes");
    check(
        json!({"checksum_sha256": Hash::of(b"").to_string()}),
        400,
        "checksum_sha256",
    );
    check(
        json!({"checksum_sha256": "x"}),
        400,
        "64 hexadecimal digits",
    );
    check(json!({"chunks": []}), 400, "0 bytes");
    check(json!({"chunks": [], "size": 0}), 400, "checksum_sha256");
    check(
        json!({"chunks": [{"sha256": sha, "size": 2}, {"sha256": sha, "size": 2}]}),
        400,
        "is one chunk",
    );
    check(
        json!({"chunks": [{"sha256": sha, "size": 0}]}),
        400,
        "a chunk has 1 to",
    );
    check(
        json!({"chunks": [{"sha256": sha, "size": 9_000_000}], "size": 9_000_000}),
        400,
        "a chunk has 1 to",
    );
    check(
        json!({"chunks": vec![json!({"sha256": sha, "size": 8_388_608}); 120], "size": 8_388_608u64 * 120}),
        413,
        "1000000000 bytes",
    );
    check(json!({"kind": "dir"}), 400, "no content");
    check(json!({"kind": "socket"}), 400, "not a commit");
    check(
        json!({"kind": "symlink", "size": 0, "chunks": []}),
        400,
        "target",
    );
    check(json!({"mtime": "soon"}), 400, "must be a time");
    check(json!({"username": "x".repeat(300)}), 400, "255 bytes");
    check(json!({"from": {"name": "b"}}), 400, "if_match");
    check(
        json!({"from": {"path": "..", "name": "b", "if_match": 1}}),
        422,
        "from",
    );
    check(json!({"name": "../a"}), 422, "slash");
    check(json!({"other": "x".repeat(40_000)}), 400, "too long");
    let nested = good.to_string().replacen(
        '{',
        &format!("{{\"other\":{}{},", "[".repeat(10_000), "]".repeat(10_000)),
        1,
    );
    hub.ask("PUT", COMMIT, "", nested).is(400, "nested");
    for text in ["", "{", "[]", "7", "{}", "{\"chunks\":7}"] {
        hub.ask("PUT", COMMIT, "", text).is(400, "not a commit");
    }
    hub.ask("PUT", COMMIT, "", format!("{good} x"))
        .is(400, "not a commit");
    // the chunk is here, but has another length
    assert_eq!(hub.put_chunk(b"text").status, 204);
    check(
        json!({"chunks": [{"sha256": sha, "size": 3}], "size": 3}),
        409,
        "missing",
    );
    hub.put_json("PUT", COMMIT, "", &good).is(201, "");
    check(
        json!({"chunks": [{"sha256": sha, "size": 3}], "size": 3}),
        409,
        "missing",
    );
    hub.ask("PUT", &format!("/api/chunks/{sha}"), "", "other")
        .is(400, "differs from the chunk's name");
    hub.ask("PUT", &format!("/api/chunks/{}", Hash::of(b"")), "", "")
        .is(400, "1 to");
    hub.ask("POST", "/api/chunks/missing", "", "{\"chunks\":[\"x\"]}")
        .is(400, "SHA-256");
    // an invalid value is not quoted to its end
    for (method, target) in [
        ("POST", "/api/chunks/missing"),
        ("PUT", COMMIT),
        ("POST", "/api/files/fetch"),
    ] {
        let got = hub
            .ask(
                method,
                target,
                "",
                format!(
                    "{{\"chunks\":\"{0}\",\"items\":\"{0}\"}}",
                    "x".repeat(60_000)
                ),
            )
            .is(400, "invalid type");
        assert!(got.body.len() < 500, "{got}");
    }
}

#[test]
fn a_list_of_very_many_chunks_is_taken() {
    let hub = Hub::with(&[("MESYNC_MAX_UPLOAD", "64GB")]);
    let piece = noise(5, 8_388_608);
    assert_eq!(hub.put_chunk(&piece).status, 204);
    let chunk = json!({"sha256": Hash::of(&piece).to_string(), "size": piece.len()});
    let n = 7_000;
    let body = json!({"name": "long", "size": piece.len() * n, "checksum_sha256": Hash::of(b"?").to_string(), "chunks": vec![chunk; n]});
    let new = hub.put_json("PUT", COMMIT, "", &body).is(201, "");
    assert_eq!(
        hub.get(&format!("/api/files/{}/chunks", new.id()))
            .is(200, "")
            .json()
            .as_array()
            .unwrap()
            .len(),
        n
    );
    let tail = format!("Range: bytes={}-\r\n", piece.len() as u64 * n as u64 - 10);
    assert!(
        hub.ask(
            "GET",
            &format!("/api/files/{}/download", new.id()),
            &tail,
            ""
        )
        .is(206, "")
        .body
            == piece[piece.len() - 10..]
    );
}

#[test]
fn pages_of_changes_have_each_name_once_at_its_latest() {
    let (hub, mut random) = (Hub::start(), Random::seeded("pages_of_changes"));
    let mut ids = std::collections::BTreeMap::new();
    for n in 0..60 {
        let name = format!("f{}", random.below(15));
        if random.below(4) == 0 {
            if let Some(id) = ids.get(&name) {
                hub.ask("DELETE", &format!("/api/files/{id}"), "", "");
            }
            continue;
        }
        let made = hub.upload("", &name, format!("{n}"), "");
        ids.insert(name, made.id());
    }
    let listed: Vec<Value> = hub
        .get("/api/files?limit=1000")
        .json()
        .as_array()
        .unwrap()
        .clone();
    for limit in [1, 2, 7, 1000] {
        let rows = hub.changes(limit);
        let revs: Vec<u64> = rows.iter().map(|r| r["rev"].as_u64().unwrap()).collect();
        assert!(revs.is_sorted_by(|a, b| a < b), "{revs:?}");
        assert_eq!(rows.len(), ids.len());
        let mut alive: Vec<Value> = rows
            .into_iter()
            .filter(|r| r["deleted_at"].is_null())
            .collect();
        alive.sort_by_key(|r| r["name"].as_str().unwrap().to_string());
        assert_eq!(alive, listed);
    }
}
