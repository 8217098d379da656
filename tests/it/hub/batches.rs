//! Many short files in one request, both ways. The real binary, over HTTP.

use super::chunks::with;
use crate::support::files::{Hub, noise};
use mesync::internals::wire::files::{BatchAnswer, FetchHead, Hash};
use serde_json::{Value, json};

fn file(line: Value, bytes: &[u8]) -> Vec<u8> {
    let line = with(
        json!({"size": bytes.len(), "checksum_sha256": Hash::of(bytes).to_string()}),
        line,
    );
    let mut out = format!("{line}\n").into_bytes();
    out.extend_from_slice(bytes);
    out
}

#[test]
fn a_batch_is_many_answers_to_one_request() {
    let hub = Hub::start();
    let (old, key) = (
        hub.upload("", "old", "0", "").is(201, ""),
        "00000000-0000-4000-8000-000000000001",
    );
    let body = [
        file(
            json!({"name": "a", "path": "d", "mode": 0o100600, "mtime": "2026-11-21T10:30:00Z"}),
            b"one\n{two",
        ),
        file(json!({"name": "..", "path": ""}), b"bad name"),
        file(json!({"name": "old", "if_none_match": true}), b"x"),
        file(
            json!({"name": "old", "if_match": old.rev(), "key": key}),
            &noise(1, 40_000),
        ),
        file(json!({"name": "none", "if_match": 999}), b"x"),
        file(json!({"name": "dir", "kind": "dir"}), b""),
        file(json!({"name": "link", "kind": "symlink"}), b"a"),
        file(
            json!({"name": "wrong", "checksum_sha256": Hash::of(b"other").to_string()}),
            b"x",
        ),
        file(json!({"name": "badlink", "kind": "symlink"}), b"a\0"),
        file(json!({"name": "time", "mtime": "soon"}), b"x"),
        file(json!({"name": "empty"}), b""),
    ]
    .concat();
    let send = || {
        serde_json::from_slice::<BatchAnswer>(
            &hub.ask("POST", "/api/files/batch", "", &body)
                .is(200, "")
                .body,
        )
        .unwrap()
        .results
    };
    let results = send();
    let statuses: Vec<u16> = results.iter().map(|r| r.status).collect();
    assert_eq!(
        statuses,
        [201, 422, 412, 200, 412, 201, 201, 400, 400, 400, 201]
    );
    for result in &results {
        assert_eq!(result.error.is_some(), result.status >= 400, "{result:?}");
    }
    assert_eq!(results[2].record.as_ref().map(|r| r.rev), Some(old.rev()));
    assert_eq!(
        (
            results[4].record.as_ref(),
            results[0].record.as_ref().unwrap().path.as_str()
        ),
        (None, "d")
    );
    let again: Vec<u16> = send().iter().map(|r| r.status).collect();
    assert_eq!(
        again,
        [204, 422, 412, 200, 412, 204, 204, 400, 400, 400, 204],
        "the same, and the one with the key as at first"
    );

    let (ids, large) = (
        |i: usize| {
            results[i]
                .record
                .as_ref()
                .map(|r| json!({"id": r.id, "rev": r.rev}))
                .unwrap()
        },
        noise(2, 70_000),
    );
    let large = hub.upload("", "large", large, "").is(201, "").json();
    let none = json!({"id": old.id(), "rev": 999});
    let items = json!({"items": [ids(0), ids(3), none, ids(6), ids(10), {"id": large["id"], "rev": large["rev"]}]});
    let got = hub
        .put_json("POST", "/api/files/fetch", "", &items)
        .is(200, "");
    let (mut rest, mut found) = (got.body.as_slice(), Vec::new());
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let head: FetchHead = serde_json::from_slice(&rest[..end]).unwrap();
        let (bytes, more) = rest[end + 1..].split_at(head.size as usize);
        found.push((head.status, bytes.to_vec()));
        rest = more;
    }
    assert!(rest.is_empty());
    let wants = [
        (200, b"one\n{two".to_vec()),
        (200, noise(1, 40_000)),
        (404, vec![]),
        (200, b"a".to_vec()),
        (200, vec![]),
        (413, vec![]),
    ];
    assert!(
        found == wants,
        "{:?}",
        found.iter().map(|(s, b)| (s, b.len())).collect::<Vec<_>>()
    );
}

#[test]
fn a_batch_takes_deletes_renames_and_known_contents() {
    let hub = Hub::start();
    let put = |name: &str, content: &str| hub.upload("", name, content, "").is(201, "").json();
    let (gone, old, same) = (put("gone", "1"), put("old", "22"), put("same", "333"));
    let line = |line: Value| format!("{line}\n").into_bytes();
    let known = |name: &str, content: &[u8], more: Value| {
        let hash = Hash::of(content).to_string();
        let chunks = json!([{"sha256": hash, "size": content.len()}]);
        let fields =
            json!({"name": name, "size": content.len(), "checksum_sha256": hash, "chunks": chunks});
        line(with(fields, more))
    };
    let body = [
        line(json!({"delete": gone["id"], "if_match": gone["rev"]})),
        known(
            "new",
            b"22",
            json!({"from": {"name": "old", "if_match": old["rev"]}, "if_none_match": true}),
        ),
        known(
            "same",
            b"333",
            json!({"mode": 0o100600, "if_match": same["rev"]}),
        ),
        // a refused line does not prevent the others
        line(json!({"delete": same["id"], "if_match": 999})),
        line(json!({"delete": "5b1d3a62-0cf4-4d3e-9a0f-2f6a4c1b8e77"})),
        known("lost", b"never sent", json!({})),
        known(
            "moved",
            b"333",
            json!({"from": {"name": "..", "if_match": 1}}),
        ),
        line(json!({"name": "what"})),
        file(
            json!({"name": "both", "from": {"name": "same", "if_match": 1}}),
            b"x",
        ),
        file(json!({"name": "last"}), b"text"),
    ]
    .concat();
    let answer = hub.ask("POST", "/api/files/batch", "", &body).is(200, "");
    let results = serde_json::from_slice::<BatchAnswer>(&answer.body)
        .unwrap()
        .results;
    let statuses: Vec<u16> = results.iter().map(|r| r.status).collect();
    assert_eq!(statuses, [200, 201, 200, 412, 404, 409, 422, 400, 400, 201]);
    let record = |i: usize| results[i].record.as_ref().unwrap();
    assert!(record(0).deleted_at.is_some());
    let renamed = results[1].renamed_from.as_ref().unwrap();
    assert_eq!(
        (
            record(1).name.as_str(),
            renamed.name.as_str(),
            renamed.deleted_at.is_some()
        ),
        ("new", "old", true)
    );
    assert_eq!(record(2).mode, Some(0o100600));
    assert_eq!(results[5].missing, [Hash::of(b"never sent")]);
    // one transaction
    let revs: Vec<u64> = [0, 1, 2, 9].map(|i| record(i).rev).into();
    assert!(revs.windows(2).all(|pair| pair[0] < pair[1]), "{revs:?}");
}

#[test]
fn batches_that_are_none_are_refused_whole() {
    let hub = Hub::start();
    let good = file(json!({"name": "a"}), b"text");
    let check = |body: &[u8], status: u16, wants: &str| {
        hub.ask("POST", "/api/files/batch", "", body)
            .is(status, "{\"error\":\"")
            .is(status, wants);
    };
    check(&good[..good.len() - 1], 400, "ends in the bytes of file 1");
    check(
        &[good.as_slice(), b"{"].concat(),
        400,
        "ends in the line of file 2",
    );
    check(&[good.as_slice(), b"x\n"].concat(), 400, "line of file 2");
    check(
        &file(json!({"name": "a", "size": 65_537}), b""),
        413,
        "at most 65536",
    );
    check(
        &file(json!({"name": "a"}), b"").repeat(1001),
        413,
        "at most 1000 files",
    );
    check(&vec![b'x'; (8 << 20) + 1], 413, "the limit here is 8388608");
    hub.ask("POST", "/api/files/batch", "If-None-Match: *\r\n", &good)
        .is(400, "in its line");
    hub.ask("POST", "/api/files/fetch", "", "{}")
        .is(400, "items");
    let item = json!({"id": "00000000-0000-0000-0000-000000000001", "rev": 1});
    hub.put_json(
        "POST",
        "/api/files/fetch",
        "",
        &json!({"items": vec![item; 1001]}),
    )
    .is(413, "1000");
    assert_eq!(hub.get("/api/files").json(), json!([]));
    // as many as there may be
    let many: Vec<u8> = (0..1000)
        .flat_map(|n| file(json!({"name": n.to_string()}), &noise(n, 8000)))
        .collect();
    let got = hub
        .ask("POST", "/api/files/batch", "", &many)
        .is(200, "")
        .json();
    assert!(
        got["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["status"] == 201)
    );
}
