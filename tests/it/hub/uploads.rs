//! Uploads as forms, good and bad ones, status by status: the real binary, over HTTP.

use super::files::{TEXT, UPLOAD};
use crate::support::http;
use std::collections::BTreeSet;

use crate::support::files::{Answer, Hub, form, head, kind, metadata, noise, part, parts};
use crate::support::world::wait_for;
use mesync::internals::wire::files::Hash;
use serde_json::{Value, json};

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
fn invalid_uploads_are_refused_with_a_reason() {
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
        .is(413, "the limit here is 1065536");
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
fn odd_names_are_returned_unchanged() {
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
fn hostile_forms_are_harmless() {
    let mut hub = Hub::start();
    let (line, body) = form("", "a", &noise(1, 2_000_000));
    for cut in [0, 10, 200, 70_000, 1_999_999, body.len() - 1] {
        let mut conn = hub.connect();
        conn.0.send(head("PUT", UPLOAD, &line, body.len())).unwrap();
        conn.0.send(&body[..cut]).unwrap();
        conn.0
            .stream
            .tcp()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
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
