//! Files on the hub, route by route and status by status: the real binary, over HTTP.

use crate::support::http;
use std::collections::BTreeSet;

use crate::support::files::{
    Answer, Hub, Listener, commit, form, head, kind, metadata, noise, part, parts,
};
use crate::support::world::{self, wait_for};
use mesync::wire::files::Hash;
use serde_json::{Value, json};

const UPLOAD: &str = "/api/files/upload";
const TEXT: &[u8] = b"hello, world";

fn names(answer: &Answer) -> Vec<String> {
    let rows = answer.json();
    let name = |r: &Value| {
        format!(
            "{}/{}",
            r["path"].as_str().unwrap(),
            r["name"].as_str().unwrap()
        )
    };
    rows.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn an_upload_is_new_then_unchanged_then_changed_whatever_the_order_of_its_parts() {
    let hub = Hub::start();
    let file = part(
        "name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain",
        TEXT,
    );
    let put = |body: Vec<u8>| hub.ask("PUT", UPLOAD, &kind(), body);
    let new = put(parts(&[file.clone(), metadata("docs")])).is(201, "");
    let record = new.json();
    for (field, wants) in [
        ("name", json!("a.txt")),
        ("path", json!("docs")),
        ("kind", json!("file")),
        ("size", json!(TEXT.len())),
        ("content_type", json!("text/plain")),
        ("checksum_sha256", json!(Hash::of(TEXT).to_string())),
        ("mode", json!(0o100644)),
        ("mtime", json!("2026-11-21T10:30:00.123456789Z")),
        ("deleted_at", Value::Null),
        ("rev", json!(new.rev())),
        ("host", json!("admin")),
    ] {
        assert_eq!(record[field], wants, "{field}: {record}");
    }
    let again = put(parts(&[metadata("/docs/"), file.clone()])).is(204, "");
    assert!(
        again.body.is_empty()
            && again.rev() == new.rev()
            && again.header("content-length").is_none(),
        "{again}"
    );
    // a field beside the file wins over the file's own name
    let named = put(parts(&[
        part("name=\"file_name\"", b"b.txt"),
        part("name=\"other\"", b"x"),
        metadata("docs"),
        file.clone(),
    ]));
    assert_eq!(named.is(201, "").json()["name"], "b.txt");
    let changed = hub
        .upload("docs", "a.txt", "other", "X-Mesync-Host: Web-1\r\n")
        .is(200, "");
    assert!(
        changed.rev() > new.rev() && changed.id() == new.id() && changed.json()["host"] == "web-1",
        "{changed}"
    );

    let listed = hub
        .get("/api/files?path=docs&search=a.&limit=7&offset=0")
        .is(200, "");
    assert_eq!(
        (names(&listed), listed.header("x-total-count")),
        (vec!["docs/a.txt".to_string()], Some("1"))
    );
    let one = hub.get(&format!("/api/files/{}", new.id())).is(200, "");
    assert_eq!((one.rev(), one.json()), (changed.rev(), changed.json()));
    let head = hub
        .ask(
            "HEAD",
            &format!("/api/files/{}/download", new.id()),
            "Range: bytes=1-2\r\n",
            "",
        )
        .is(200, "");
    assert_eq!(
        (head.header("content-length"), head.rev()),
        (Some("5"), changed.rev())
    );
    hub.upload("docs", "empty", "", "").is(201, "\"size\":0");
    assert_eq!(
        hub.get("/api/files?limit=0")
            .is(200, "[]")
            .header("x-total-count"),
        Some("3")
    );
}

#[test]
fn what_is_not_as_it_should_be_is_refused_with_words() {
    let hub = Hub::with(&[("MESYNC_MAX_UPLOAD", "1MB")]);
    let file = || part("name=\"file\"; filename=\"a\"", TEXT);
    let check = |form: &[Vec<u8>], status: u16, wants: &str| {
        hub.ask("PUT", UPLOAD, &kind(), parts(form))
            .is(status, "{\"error\":\"")
            .is(status, wants);
    };
    check(&[], 400, "\\\"file\\\" is missing");
    check(&[metadata("")], 400, "\\\"file\\\" is missing");
    check(&[file()], 400, "\\\"metadata\\\" is missing");
    check(
        &[part("name=\"file\"", TEXT), metadata("")],
        400,
        "\\\"file_name\\\" is missing",
    );
    check(&[file(), file(), metadata("")], 400, "two parts");
    check(&[file(), metadata(""), metadata("")], 400, "two parts");
    for (wrong, wants) in [
        ("", "metadata"),
        ("[]", "metadata"),
        (r#"{"path":7}"#, "metadata"),
        (r#"{"path":"","mode":"rw"}"#, "metadata"),
        (r#"{"path":"","mode":-1}"#, "metadata"),
        (r#"{"path":"","mtime":"yesterday"}"#, "must be a time"),
        (r#"{"path":"","atime":"2026-11-21"}"#, "must be a time"),
        (
            &format!(r#"{{"path":"","x":{}}}"#, "[".repeat(5000)),
            "nested",
        ),
    ] {
        check(
            &[file(), part("name=\"metadata\"", wrong.as_bytes())],
            400,
            wants,
        );
    }
    check(
        &[part("name=\"metadata\"", &[b' '; 40_000]), file()],
        413,
        "more than",
    );
    for (path, name) in [
        ("", ".."),
        ("../up", "a"),
        ("a//b", "c"),
        ("", ""),
        ("", "a/b"),
        ("", ".mesync"),
        ("", "a\0b"),
        ("//a", "b"),
    ] {
        let (line, body) = form(path, name, TEXT);
        hub.ask("PUT", UPLOAD, &line, body).is(422, "{\"error\":\"");
        check(
            &[
                metadata(path),
                part("name=\"file_name\"", name.as_bytes()),
                file(),
            ],
            422,
            "",
        );
    }
    check(
        &[file(), part("name=\"file_name\"", b"\xff"), metadata("")],
        422,
        "UTF-8",
    );
    hub.upload("", &"x".repeat(256), TEXT, "")
        .is(422, "255 are the most");
    hub.upload("", "big", noise(1, 1_000_000), "").is(201, "");
    hub.upload("", "big", noise(2, 1_000_001), "")
        .is(413, "1000000 bytes are the most");
    hub.ask("PUT", UPLOAD, &kind(), vec![b'x'; 1_100_000])
        .is(413, "at most 1065536");
    for line in [
        "",
        "Content-Type: application/json\r\n",
        "Content-Type: multipart/form-data\r\n",
        "Content-Type: multipart/mixed; boundary=x\r\n",
    ] {
        hub.ask("PUT", UPLOAD, line, parts(&[file(), metadata("")]))
            .is(415, "multipart/form-data");
    }
    for line in [
        "If-Match: 7",
        "If-Match: *",
        "If-Match: W/\"7\"",
        "If-Match: \"-1\"",
        "If-None-Match: \"7\"",
        "Idempotency-Key: 7",
    ] {
        hub.upload("", "a", TEXT, &format!("{line}\r\n"))
            .is(400, "{\"error\":\"");
    }
    hub.upload("", "a", TEXT, "If-Match: \"7\"\r\nIf-None-Match: *\r\n")
        .is(400, "never met");
    for (target, status) in [
        ("/api/files?limit=x", 400),
        ("/api/files?offset=-1", 400),
        ("/api/files/7", 404),
        ("/api/files/00000000-0000-0000-0000-000000000007", 404),
        ("/api/files/changes?after=x", 400),
        ("/api/events/history?since=yesterday", 400),
        ("/api/events/history?event_type=renamed", 400),
        ("/api/events?after=x", 400),
        ("/api/chunks/7", 400),
        ("/api/idempotency/7", 400),
    ] {
        hub.get(target).is(status, "{\"error\":\"");
    }
    assert_eq!(hub.get("/api/files").json().as_array().unwrap().len(), 1);
}

#[test]
fn odd_names_come_back_as_they_went() {
    let hub = Hub::start();
    let odd = [
        "a b",
        "a\"b",
        "a\\b",
        "100%20%",
        "a;b=c",
        "new\nline",
        "né😀",
        "-rf",
        "'",
        "a\tb",
        "%22",
        "{}",
        "a\\\\b",
        "C:\\x",
        "&?#",
    ];
    for name in odd {
        // once as a field, once as programs escape the names of files
        let new = hub.upload("odd dir", name, TEXT, "").is(201, "");
        let escaped = name
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\\n");
        let file = part(
            &format!("name=\"file\"; filename=\"{escaped}\"\r\nContent-Type: text/plain"),
            TEXT,
        );
        let again = hub
            .ask("PUT", UPLOAD, &kind(), parts(&[file, metadata("odd dir")]))
            .is(204, "");
        assert_eq!(again.rev(), new.rev(), "{name:?}");
        let got = hub
            .get(&format!("/api/files/{}/download", new.id()))
            .is(200, "hello, world");
        let disposition = got.header("content-disposition").unwrap();
        assert!(
            disposition.starts_with("attachment; filename=\"")
                && disposition.matches('"').count() == 2,
            "{disposition}"
        );
        if let Some((_, encoded)) = disposition.split_once("filename*=UTF-8''") {
            assert_eq!(
                percent_encoding::percent_decode_str(encoded)
                    .decode_utf8()
                    .unwrap(),
                name
            );
        } else {
            assert_eq!(disposition, format!("attachment; filename=\"{name}\""));
        }
        let search: String =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC)
                .collect();
        let found = hub.get(&format!("/api/files?path=odd%20dir&search={search}"));
        assert!(
            names(&found).contains(&format!("odd dir/{name}")),
            "{name:?}: {found}"
        );
    }
    assert_eq!(
        hub.get("/api/files?limit=1000")
            .json()
            .as_array()
            .unwrap()
            .len(),
        odd.len()
    );
}

#[test]
fn a_change_that_depends_on_another_revision_is_not_made() {
    let hub = Hub::start();
    let absent = "If-None-Match: *\r\n";
    let matching = |rev: u64| format!("If-Match: \"{rev}\"\r\n");
    hub.upload("", "a", "0", &matching(7)).is(412, "null");
    let first = hub.upload("", "a", "1", absent).is(201, "");
    assert_eq!(
        hub.upload("", "a", "2", absent).is(412, "").json(),
        first.json()
    );
    let second = hub.upload("", "a", "2", &matching(first.rev())).is(200, "");
    let stale = hub.upload("", "a", "3", &matching(first.rev())).is(412, "");
    assert_eq!((stale.rev(), stale.json()), (second.rev(), second.json()));
    let target = format!("/api/files/{}", first.id());
    hub.ask("DELETE", &target, &matching(first.rev()), "")
        .is(412, "\"rev\":");
    let deleted = hub
        .ask("DELETE", &target, &matching(second.rev()), "")
        .is(200, "\"deleted\":true");
    assert!(deleted.rev() > second.rev());
    for gone in ["", "/download"] {
        hub.get(&format!("{target}{gone}")).is(404, "no such file");
    }
    hub.upload("", "a", "4", &matching(second.rev()))
        .is(412, "");
    let third = hub.upload("", "a", "4", absent).is(201, "");
    assert_eq!(third.id(), first.id(), "the id stays with the name");
    hub.ask(
        "POST",
        &format!("{target}/restore"),
        &matching(second.rev()),
        json!({"rev": first.rev()}).to_string(),
    )
    .is(412, "");
    let back = hub.ask(
        "POST",
        &format!("{target}/restore"),
        &matching(third.rev()),
        json!({"rev": first.rev()}).to_string(),
    );
    assert!(back.clone().is(200, "").rev() > third.rev());
    hub.get(&format!("{target}/download")).is(200, "1");
    hub.get(&format!("{target}/download?rev={}", second.rev()))
        .is(200, "2");
    hub.get(&format!("{target}/download?rev=999"))
        .is(404, "no such revision");
    let versions = hub.get(&format!("{target}/versions")).is(200, "");
    let revs: Vec<u64> = versions
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["rev"].as_u64().unwrap())
        .collect();
    assert_eq!(
        (revs, versions.rev()),
        (vec![third.rev(), second.rev(), first.rev()], back.rev())
    );
    hub.ask("POST", &format!("{target}/restore"), "", "{\"rev\":\"x\"}")
        .is(400, "rev");
    hub.ask("POST", &format!("{target}/restore"), "", "{\"rev\":999}")
        .is(404, "no such revision");
}

#[test]
fn the_same_key_again_does_nothing_again() {
    let hub = Hub::start();
    let key = |n: u8| format!("00000000-0000-4000-8000-0000000000{n:02}");
    let line = |n: u8| format!("Idempotency-Key: {}\r\n", key(n));
    let first = hub.upload("", "a", "1", &line(1)).is(201, "");
    hub.upload("", "a", "2", &line(2)).is(200, "");
    let again = hub.upload("", "a", "1", &line(1)).is(201, "");
    assert_eq!((again.rev(), again.json()), (first.rev(), first.json()));
    hub.get(&format!("/api/files/{}/download", first.id()))
        .is(200, "2");
    let asked = hub
        .get(&format!("/api/idempotency/{}", key(1)))
        .is(200, "\"done\":true")
        .json();
    assert_eq!(
        (&asked["made"][0]["rev"], &asked["current"][0]["rev"]),
        (&json!(first.rev()), &json!(first.rev() + 1))
    );
    // of somebody else it is another key
    hub.ask(
        "GET",
        &format!("/api/idempotency/{}", key(1)),
        "X-Mesync-Host: web-1\r\n",
        "",
    )
    .is(200, "\"done\":false");
    hub.get(&format!("/api/idempotency/{}", key(3)))
        .is(200, "\"done\":false");
    hub.upload("", "b", "1", &line(3)).is(409, "another key");
    hub.upload(
        "",
        "a",
        "9",
        &format!("{}If-Match: \"{}\"\r\n", line(4), first.rev()),
    )
    .is(412, "");
    hub.upload("", "a", "9", &line(4)).is(200, "");
    let target = format!("/api/files/{}", first.id());
    let deleted = hub.ask("DELETE", &target, &line(5), "").is(200, "");
    assert_eq!(
        hub.ask("DELETE", &target, &line(5), "").is(200, "").rev(),
        deleted.rev()
    );
}

#[test]
fn parts_of_a_file_are_sent_as_they_are_asked_for() {
    let hub = Hub::start();
    let content = noise(3, 300_000);
    let new = hub.upload("", "big", &content, "").is(201, "");
    let get = |range: &str| {
        hub.ask(
            "GET",
            &format!("/api/files/{}/download", new.id()),
            &format!("Range: {range}\r\n"),
            "",
        )
    };
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=7-99999", 7, 100_000),
        ("bytes=299999-", 299_999, 300_000),
        ("bytes=-5", 299_995, 300_000),
        ("bytes=0-", 0, 300_000),
    ] {
        let got = get(range).is(206, "");
        assert!(got.body == content[from..to], "{range}");
        assert_eq!(
            got.header("content-range").unwrap(),
            format!("bytes {from}-{}/300000", to - 1)
        );
        assert_eq!(got.rev(), new.rev());
    }
    for range in ["bytes=300000-", "bytes=-0"] {
        assert_eq!(
            get(range).is(416, "300000 bytes").header("content-range"),
            Some("bytes */300000")
        );
    }
    for range in ["bytes=0-1,4-5", "nonsense"] {
        let got = get(range).is(200, "");
        assert!(
            got.body == content && got.header("accept-ranges") == Some("bytes"),
            "{range}"
        );
    }
    assert_eq!(
        get(&format!("bytes=0-1\r\nIf-Range: \"{}\"", new.rev())).status,
        206
    );
    assert_eq!(
        get("bytes=0-1\r\nIf-Range: \"999\"").is(200, "").body.len(),
        content.len()
    );
    // several on one connection, the lengths right
    let mut line = hub.connect();
    for _ in 0..3 {
        let got = line
            .ask("GET", &format!("/api/files/{}/download", new.id()), "", b"")
            .unwrap();
        assert!(got.body == content);
    }
}

#[test]
fn twenty_uploads_of_one_new_name_make_one_record() {
    let hub = Hub::start();
    let bodies: Vec<Vec<u8>> = (0..20).map(|n| noise(n, 100_000 + n as usize)).collect();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let hub = &hub;
        let threads: Vec<_> = bodies
            .iter()
            .map(|body| scope.spawn(move || hub.upload("d", "new", body, "")))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 19);
    assert_eq!(
        answers
            .iter()
            .map(Answer::rev)
            .collect::<BTreeSet<_>>()
            .len(),
        20
    );
    let listed = hub.get("/api/files").json();
    let record = &listed.as_array().unwrap()[..][0];
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let got = hub
        .get(&format!("/api/files/{}/download", answers[0].id()))
        .is(200, "");
    assert!(bodies.contains(&got.body));
    assert_eq!(record["checksum_sha256"], Hash::of(&got.body).to_string());
}

#[test]
fn hostile_forms_harm_nobody() {
    let mut hub = Hub::start();
    let (line, body) = form("", "a", &noise(1, 2_000_000));
    for cut in [0, 10, 200, 70_000, 1_999_999, body.len() - 1] {
        let mut conn = hub.connect();
        conn.0.send(head("PUT", UPLOAD, &line, body.len())).unwrap();
        conn.0.send(&body[..cut]).unwrap();
        conn.0.stream.shutdown(std::net::Shutdown::Write).unwrap();
        // an answer or none: nothing is taken
        if let Ok(got) = conn.0.answer(http::PATIENCE) {
            assert_eq!(got.status, 400, "{got:?}");
        }
    }
    for n in 0..10 {
        let mut conn = hub.connect();
        conn.0.send(head("PUT", UPLOAD, &line, body.len())).unwrap();
        conn.0.send(&body[..100_000 * n]).unwrap();
        conn.0.reset();
    }
    let check =
        |body: Vec<u8>, wants: &str| drop(hub.ask("PUT", UPLOAD, &kind(), body).is(400, wants));
    check(vec![b'-'; 100_000], "no boundary");
    check(
        parts(&[part(&format!("name=\"{}\"", "x".repeat(20_000)), b"")]),
        "too long",
    );
    check(vec![part("name=\"a\"", b""); 40].concat(), "too many parts");
    check(
        part("name=\"a\"; filename=\"never closed", TEXT),
        "last boundary",
    );
    check(
        parts(&[part("name=\"\u{ff}", b"")])
            .into_iter()
            .map(|b| if b == 0xc3 { 0xff } else { b })
            .collect(),
        "UTF-8",
    );
    check(b"\r\n".repeat(40_000), "no boundary");
    assert_eq!(hub.get("/api/files").json(), json!([]));
    hub.upload("", "a", TEXT, "").is(201, "");
    // nothing half taken in stays
    let staged = hub.world.hub_dir().join("staging");
    let left = || {
        std::fs::read_dir(&staged)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_file())
            .count()
    };
    wait_for("what was half taken in is gone", &hub.world, || left() == 0);
    assert_eq!(hub.world.stop_hub(), Some(0));
}

#[test]
fn a_full_disk_takes_nothing_and_gives_everything() {
    let mut hub = Hub::start();
    let new = hub.upload("", "a", TEXT, "").is(201, "");
    hub.world.stop_hub();
    hub.world
        .hub_env
        .push(("MESYNC_RESERVE".into(), "1TB".into()));
    hub.world.start_hub();
    hub.upload("", "b", TEXT, "").is(507, "make room");
    hub.upload("", "b", noise(1, 300_000), "")
        .is(507, "make room");
    hub.put_chunk(TEXT).is(507, "make room");
    hub.put_json("PUT", "/api/files/commit", "", &commit("", "b", &[TEXT]))
        .is(507, "make room");
    hub.ask("POST", "/api/files/batch", "", "")
        .is(507, "make room");
    hub.get("/api/health").is(503, "full");
    hub.get(&format!("/api/files/{}/download", new.id()))
        .is(200, "hello, world");
    hub.ask("DELETE", &format!("/api/files/{}", new.id()), "", "")
        .is(200, "deleted");
}

#[test]
fn events_are_replayed_and_then_live() {
    let hub = Hub::start();
    let first = hub.upload("é", "a", "1", "").is(201, "");
    let mut live = Listener::open(&hub, "", "").unwrap();
    let second = hub.upload("é", "a", "2", "").is(200, "");
    assert_eq!(hub.put_chunk(b"a").status, 204);
    let mut link = commit("", "l", &[b"a"]);
    link["kind"] = json!("symlink");
    let link = hub
        .put_json("PUT", "/api/files/commit", "", &link)
        .is(201, "symlink");
    let deleted = hub
        .ask("DELETE", &format!("/api/files/{}", first.id()), "", "")
        .is(200, "");
    let (id, event) = live.event().unwrap();
    assert_eq!(
        (id, &event["type"], &event["payload"]),
        (Some(second.rev()), &json!("file_updated"), &second.json())
    );
    assert_eq!(
        (&event["resource_id"], &event["overwrote"]),
        (&json!(first.id()), &json!(first.rev()))
    );
    let (id, event) = live.event().unwrap();
    assert_eq!(
        (id, &event["type"], &event["payload"]["path"]),
        (Some(deleted.rev()), &json!("file_deleted"), &json!("é"))
    );

    let ids = |query: &str, lines: &str, n: usize| {
        let mut listener = Listener::open(&hub, query, lines).unwrap();
        (0..n)
            .map(|_| listener.event().unwrap().0.unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids("?after=0", "", 3),
        [first.rev(), second.rev(), deleted.rev()]
    );
    assert_eq!(
        ids("?after=0&kinds=all", "", 4),
        [first.rev(), second.rev(), link.rev(), deleted.rev()]
    );
    assert_eq!(
        ids(
            "?after=0",
            &format!("Last-Event-ID: {}\r\n", first.rev()),
            2
        ),
        [second.rev(), deleted.rev()]
    );
    hub.get(&format!("/api/events?after={}", deleted.rev() + 1))
        .is(410, "not kept");

    let mut messages = Listener::open(&hub, "?host=web-1&files=false", "").unwrap();
    let mut both = Listener::open(&hub, "?host=web-1", "").unwrap();
    hub.upload("", "b", "1", "").is(201, "");
    assert_eq!(both.event().unwrap().1["payload"]["name"], "b");
    hub.ask(
        "POST",
        "/api/messages",
        "",
        http::message("web-2", "web-1", "x"),
    )
    .is(200, "queued");
    let queued = json!({"type": "message_queued", "host": "web-1"});
    assert_eq!(messages.event().unwrap(), (None, queued.clone()));
    assert_eq!(both.event().unwrap(), (None, queued));
    let rows = hub
        .get("/api/events/history?since=2020-01-01T00:00:00.5+00:00&event_type=updated")
        .is(200, "")
        .json();
    assert_eq!(
        (
            rows.as_array().unwrap().len(),
            &rows[0]["type"],
            &rows[0]["event_type"]
        ),
        (1, &json!("file_updated"), &json!("updated"))
    );
    let count = |query: &str| {
        hub.get(&format!("/api/events/history{query}"))
            .is(200, "")
            .json()
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(
        (
            count(""),
            count("?kinds=all"),
            count("?limit=2"),
            count("?offset=3"),
            count("?since=2126-01-01T00:00:00Z")
        ),
        (4, 5, 2, 1, 0)
    );
    assert_eq!(
        hub.get("/metrics")
            .is(200, "\nmesync_files 2\n")
            .is(200, "\nmesync_chunks 3\n")
            .status,
        200
    );
    hub.get("/api/health").is(200, "\"files\"");
}

#[test]
fn a_backup_is_a_hub_with_the_same_files() {
    let hub = Hub::start();
    let content = noise(4, 9_000_000);
    let new = hub.upload("d", "big", &content, "").is(201, "");
    hub.upload("d", "small", TEXT, "").is(201, "");
    let other = world::World::new();
    let dir = other.hub_dir();
    let ask = |dir: &str| hub.put_json("POST", "/api/hub/backup", "", &json!({"dir": dir}));
    let made = ask(dir.to_str().unwrap()).is(200, "").json();
    assert_eq!(made["files"], 2);
    ask(dir.to_str().unwrap()).is(409, "not empty");
    ask("relative").is(400, "absolute");
    let mut copy = Hub { world: other };
    copy.world.start_hub();
    assert!(
        copy.get(&format!("/api/files/{}/download", new.id()))
            .is(200, "")
            .body
            == content
    );
    assert_eq!(copy.get("/api/files").json(), hub.get("/api/files").json());
    let (here, there) = (
        hub.get("/api/files/changes").json(),
        copy.get("/api/files/changes").json(),
    );
    assert!(
        here["epoch"] != there["epoch"]
            && there["rev"].as_u64().unwrap() > here["rev"].as_u64().unwrap() + (1 << 31),
        "{there}"
    );
}

#[test]
fn who_has_a_key_of_a_host_writes_as_that_host() {
    let hub = Hub::start();
    let out = hub
        .world
        .hub_command()
        .args(["key", "add", "web-1"])
        .output()
        .unwrap();
    let key = format!(
        "X-API-Key: {}\r\n",
        String::from_utf8(out.stdout).unwrap().trim()
    );
    let made = hub
        .upload("", "a", TEXT, &format!("{key}X-Mesync-Host: web-2\r\n"))
        .is(201, "");
    assert_eq!(made.json()["host"], "web-1");
    hub.upload("", "a", TEXT, "").is(401, "");
}
