//! The rights of keys on a real hub: every route with every right, and what a key limited to one directory learns of another.

mod applied;

use mesync::internals::wire::files::Hash;
use serde_json::{Value, json};

use crate::support::files::{Answer, Hub, Listener, commit, form, noise};
use crate::support::routes::routes;

const NAMED: &str = "the-secret-name";
const SECRET: &str = "the secret content";

/// The header of a new key with these rights.
fn key(hub: &Hub, name: &str, flags: &[&str]) -> String {
    let key = hub.world.hub_ok(&[&["key", "add", name], flags].concat());
    format!("X-API-Key: {key}\r\n")
}

/// The header of the hub's own key.
fn admin(hub: &Hub) -> String {
    let key = std::fs::read_to_string(hub.world.hub_dir().join("local.key")).unwrap();
    format!("X-API-Key: {}\r\n", key.trim())
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// What a route needs, as mesync-protocol(7) says.
fn need(method: &str, path: &str) -> &'static str {
    match (method, path) {
        (_, "/" | "/api/health" | "/api/auth/login" | "/metrics" | "/api/events") => "nothing",
        (_, "/api/join") => "nothing",
        (_, "/api/join/requests" | "/api/join/accept") => "admin",
        ("GET", "/api/hosts" | "/api/hosts/*") => "nothing",
        (_, path) if path.starts_with("/api/hosts/") || path.starts_with("/api/hub/") => "admin",
        ("POST", "/api/messages") => "send",
        ("GET", "/api/messages") => "receive",
        ("POST", "/api/files/approvals") => "admin",
        ("GET", _) | ("POST", "/api/files/fetch" | "/api/files/common" | "/api/files/approved") => {
            "read"
        }
        ("POST", "/api/files/*/pieces" | "/api/files/*/parts") => "read",
        (
            _,
            "/api/files/upload"
            | "/api/files/commit"
            | "/api/files/batch"
            | "/api/files/*"
            | "/api/files/*/restore"
            | "/api/chunks/missing"
            | "/api/chunks/*"
            | "/api/upcoming",
        ) => "write",
        _ => panic!("{method} {path} is new: which right does it need?"),
    }
}

#[test]
fn every_route_is_allowed_or_refused_by_the_rights_of_the_key() {
    let hub = Hub::start();
    let keys = [
        ("all", &[][..], &["admin"][..]),
        ("admin", &["--admin"], &[]),
        ("reader", &["--read-only"], &["admin", "write"]),
        ("mute", &["--no-files"], &["admin", "write", "read"]),
        ("below", &["--files", "a"], &["admin"]),
        ("quiet", &["--send", "none"], &["admin", "send"]),
        ("few", &["--send", "x,y"], &["admin"]),
        ("deaf", &["--no-messages"], &["admin", "receive"]),
    ];
    for (name, flags, lacks) in keys {
        let line = key(&hub, name, flags);
        for (method, path) in routes() {
            if path == "/api/hub/peer" {
                // no key has the right of hubs, also not that of an administrator
                let got = hub.ask(&method, &path, &line, "{}");
                got.is(403, r#""lacks":"hub""#);
                continue;
            }
            let need = need(&method, &path);
            let part = match path.as_str() {
                path if path.starts_with("/api/hosts/") => "some-host".into(),
                path if path.starts_with("/api/chunks/") => Hash::of(b"none").to_string(),
                _ => uuid::Uuid::new_v4().to_string(),
            };
            let target = match path.as_str() {
                "/api/messages" => format!("/api/messages?host={name}"),
                "/api/hosts/*" if method == "GET" => format!("/api/hosts/{name}"),
                // a stream that is to end at once: its head is enough, but the support wants a length
                "/api/events" => "/api/events?after=x".into(),
                path => path.replace('*', &part),
            };
            let got = hub.ask(&method, &target, &line, "{}");
            let words = text(&got);
            let refused = got.status == 403 && words.contains("may not");
            assert_eq!(
                refused,
                lacks.contains(&need),
                "{name}: {method} {target}: {got}"
            );
            assert_ne!(got.status, 401, "{name}: {method} {target}: {got}");
            if refused {
                // the words name the key and what to do
                assert!(
                    words.contains(&format!("mesync key set {name} --")),
                    "{words}"
                );
            }
        }
    }
}

/// A hub with a file below `b/` in several revisions, one that was renamed from `a/` to `b/`, and one in `a/`.
struct Secrets {
    hub: Hub,
    admin: String,
    long: Vec<u8>,
    id: String,
    moved: String,
    rev: u64,
    open: String,
}

fn secrets() -> Secrets {
    let hub = Hub::start();
    // the first key closes the hub
    let other = key(&hub, "other", &[]);
    let (admin, long) = (admin(&hub), noise(7, 200_000));
    let put = |path: &str, name: &str, content: &[u8]| {
        let (kind, body) = form(path, name, content);
        hub.ask("PUT", "/api/files/upload", &format!("{kind}{other}"), body)
    };
    put("b", NAMED, b"an earlier secret").is(201, "");
    let secret = put("b", NAMED, SECRET.as_bytes()).is(200, "");
    put("b", &format!("{NAMED}-long"), &long).is(201, "");
    put("B", NAMED, b"in another case").is(201, "");
    put("ab", NAMED, b"beside it").is(201, "");
    put("", NAMED, b"at the top").is(201, "");
    let open = put("a", "open", b"the open content").is(201, "").id();
    let moved = put("a", "moved", b"moved away").is(201, "");
    let mut to = commit("b", &format!("{NAMED}-moved"), &[b"moved away"]);
    to["from"] = json!({"path": "a", "name": "moved", "if_match": moved.rev()});
    hub.put_json("PUT", "/api/files/commit", &other, &to)
        .is(201, NAMED);
    Secrets {
        id: secret.id(),
        moved: moved.id(),
        rev: secret.rev(),
        hub,
        admin,
        long,
        open,
    }
}

#[test]
fn a_key_that_reads_one_directory_learns_nothing_of_another() {
    let s = secrets();
    let line = key(&s.hub, "limited", &["--read-only", "--files", "a"]);
    let long = Hash::of(&s.long).to_string();
    let short = Hash::of(SECRET.as_bytes()).to_string();
    let secrets = [
        NAMED,
        SECRET,
        &s.id,
        &long,
        &short,
        "earlier",
        "beside",
        "another case",
    ];
    // what the question names itself is no news
    let tells = |asked: &str, answer: &Answer| {
        let words = text(answer);
        let told = |secret: &&&str| words.contains(**secret) && !asked.contains(**secret);
        secrets.iter().find(told).map(|secret| secret.to_string())
    };
    let check = |method: &str, target: &str, lines: &str, body: &str| {
        let got = s.hub.ask(method, target, &format!("{line}{lines}"), body);
        assert_eq!(
            tells(&format!("{target} {body}"), &got),
            None,
            "{method} {target} {lines}: {got}"
        );
        got
    };
    // an attack on an existing file gets the same response as one on a missing file
    let nothing = uuid::Uuid::new_v4().to_string();
    let no_hash = Hash::of(b"nothing has this").to_string();
    let alike = |method: &str, target: &str, lines: &str, body: &str| {
        let on = |secret: &str, hash: &str| {
            let fill = |t: &str| t.replace("ID", secret).replace("HASH", hash);
            let got = check(method, &fill(target), &fill(lines), &fill(body));
            let head = got.head.lines().filter(|l| !l.starts_with("Date:"));
            let head: Vec<String> = head.map(str::to_string).collect();
            (head, text(&got).replace(secret, "ID").replace(hash, "HASH"))
        };
        let (hit, miss) = (on(&s.id, &short), on(&nothing, &no_hash));
        assert_eq!(hit, miss, "{method} {target} {lines}");
        assert_eq!(on(&s.id, &long), hit, "{method} {target} {lines}");
    };
    let rev = s.rev;
    for target in [
        "/api/files/ID".to_string(),
        "/api/files/ID/download".into(),
        format!("/api/files/ID/download?rev={rev}"),
        format!("/api/files/ID/download?rev={}", rev - 1),
        "/api/files/ID/chunks".into(),
        format!("/api/files/ID/chunks?rev={rev}"),
        "/api/files/ID/versions".into(),
        "/api/chunks/HASH".into(),
        "/api/chunks/HASH?file=ID".into(),
        format!("/api/chunks/HASH?file=ID&rev={rev}"),
        format!("/api/chunks/HASH?file={}", s.open),
        "/api/idempotency/ID".into(),
    ] {
        alike("GET", &target, "", "");
        alike("GET", &target, "Range: bytes=0-3\r\n", "");
        alike("HEAD", &target, "", "");
    }
    for lines in [
        "",
        "If-None-Match: *\r\n",
        &format!("If-Match: \"{rev}\"\r\n"),
    ] {
        alike("DELETE", "/api/files/ID", lines, "");
        alike("POST", "/api/files/ID/restore", lines, "{}");
        alike(
            "POST",
            "/api/files/ID/restore",
            lines,
            &format!("{{\"rev\":{}}}", rev - 1),
        );
    }
    alike(
        "POST",
        "/api/files/fetch",
        "",
        &format!(r#"{{"items":[{{"id":"ID","rev":{rev}}}]}}"#),
    );
    for target in [
        "/api/files",
        "/api/files?path=b",
        "/api/files?path=b/",
        "/api/files?path=/b/",
        "/api/files?path=B",
        "/api/files?path=a/../b",
        "/api/files?path=a//b",
        "/api/files?path=%62%2F",
        "/api/files?path=a%2F..%2Fb",
        "/api/files?path=a%00b",
        "/api/files?path=ab",
        "/api/files?search=secret",
        "/api/files?search=&offset=1&limit=1000",
        "/api/files?kinds=all&offset=0",
        "/api/files/changes",
        "/api/files/changes?after=0&limit=1",
        "/api/files/changes?after=1&limit=1000",
        "/api/files/changes?after=3&began=1",
        "/api/events/history",
        "/api/events/history?kinds=all&event_type=deleted",
        "/api/events/history?offset=1&limit=1",
        "/api/files/a%2F..%2Fb",
        "/api/files/b/the-secret-name",
        "/api//files",
        "/api/hosts",
        "/api/hosts/other",
        "/metrics",
        "/",
    ] {
        check("GET", target, "", "");
    }
    // a delete that an administrator approved, and one that was not approved
    let delete = |name: &str| format!(r#"{{"deletes":[{{"name":"{name}","rev":{rev}}}]}}"#);
    let (there, none) = (delete(&format!("b/{NAMED}")), delete("b/none"));
    let approve = |lines: &str| {
        let target = "/api/files/approvals";
        s.hub.ask("POST", target, lines, &there)
    };
    approve(&line).is(403, "--admin");
    approve(&s.admin).is(200, NAMED);
    for body in [&there, &none] {
        check("POST", "/api/files/approved", "", body).is(200, r#"{"deletes":[]}"#);
    }
    let seen = s.hub.ask("POST", "/api/files/approved", &s.admin, &there);
    seen.is(200, NAMED);
    assert!(!text(&check("GET", "/api/hosts", "", "")).contains("other"));
    assert!(!text(&check("GET", "/metrics", "", "")).contains("mesync_files"));
    // what it may see is whole: totals, pages, cursor
    let list = check("GET", "/api/files", "", "");
    assert_eq!(
        (
            list.json().as_array().unwrap().len(),
            list.header("x-total-count")
        ),
        (1, Some("1"))
    );
    let all = s.hub.ask("GET", "/api/files", &s.admin, "");
    assert_eq!(all.header("x-total-count"), Some("7"));
    let page = check("GET", "/api/files/changes?limit=1", "", "").json();
    assert_eq!(
        (page["more"].as_bool(), page["changes"][0]["name"].as_str()),
        (Some(true), Some("open"))
    );
    let after = page["changes"][0]["rev"].as_u64().unwrap();
    let next = check(
        "GET",
        &format!("/api/files/changes?limit=1&after={after}"),
        "",
        "",
    )
    .json();
    // the file that was renamed out of sight is deleted, and does not say where it went
    assert_eq!(
        (next["more"].as_bool(), next["changes"][0]["id"].as_str()),
        (Some(false), Some(s.moved.as_str()))
    );
    assert!(
        next["changes"][0]["deleted_at"].is_string() && next["changes"][0]["renamed_to"].is_null()
    );
    assert_eq!(
        next["rev"],
        s.hub.ask("GET", "/api/files/changes", &s.admin, "").json()["rev"]
    );
    // a stream that begins at the first revision
    let mut stream = Listener::open(&s.hub, "?after=0&kinds=all", &line).unwrap();
    for wants in ["open", "moved", "moved"] {
        let (_, event) = stream.event().unwrap();
        assert_eq!(event["payload"]["name"], wants);
        assert!(!event.to_string().contains(NAMED), "{event}");
    }
}

#[test]
fn a_key_that_writes_one_directory_changes_and_copies_nothing_of_another() {
    let s = secrets();
    let line = key(&s.hub, "writer", &["--files", "a"]);
    let ask = |method: &str, target: &str, lines: &str, body: &[u8]| {
        s.hub.ask(method, target, &format!("{line}{lines}"), body)
    };
    let upload = |path: &str, name: &str| {
        let (kind, body) = form(path, name, b"mine");
        ask("PUT", "/api/files/upload", &kind, &body)
    };
    let put = |body: &Value| ask("PUT", "/api/files/commit", "", body.to_string().as_bytes());
    let missing = |chunks: &[&[u8]]| {
        let hashes: Vec<String> = chunks.iter().map(|c| Hash::of(c).to_string()).collect();
        let body = json!({ "chunks": hashes }).to_string();
        let got = ask("POST", "/api/chunks/missing", "", body.as_bytes())
            .is(200, "")
            .json();
        got["missing"].as_array().unwrap().len()
    };
    upload("a", "mine").is(201, "");
    upload("a/deep/er", "mine").is(201, "");
    for path in ["b", "", "A", "ab", "a-b"] {
        upload(path, "x").is(403, "below \\\"a\\\" only");
        put(&commit(path, "x", &[b"the open content"])).is(403, "mesync key set writer --files");
    }
    for path in ["a/../b", "a//b", "a/./b", ".."] {
        upload(path, "x").is(422, "");
    }
    let mut from = commit("a", "stolen", &[SECRET.as_bytes()]);
    from["from"] = json!({"path": "b", "name": NAMED, "if_match": s.rev});
    put(&from).is(403, "below");
    // a hash is no proof of its bytes, whether or not the hub has them; sent, they are
    let other = noise(8, 200_000);
    assert_eq!(
        missing(&[&s.long, SECRET.as_bytes(), &other, b"the open content"]),
        3
    );
    for bytes in [&s.long, &other] {
        put(&commit("a", "copy", &[bytes])).is(409, "missing");
        ask(
            "PUT",
            &format!("/api/chunks/{}", Hash::of(bytes)),
            "",
            bytes,
        )
        .is(204, "");
        assert_eq!(missing(&[bytes]), 0);
        put(&commit("a", "copy", &[bytes])).is(if *bytes == s.long { 201 } else { 200 }, "copy");
    }
    // what another key has sent is no proof either
    let staged = noise(9, 100_000);
    let target = format!("/api/chunks/{}", Hash::of(&staged));
    s.hub.ask("PUT", &target, &s.admin, &staged).is(204, "");
    assert_eq!(missing(&[&staged]), 1);
    put(&commit("a", "staged", &[&staged])).is(409, "missing");
    // what a file that it reads has is there
    put(&commit("a", "again", &[b"the open content"])).is(201, "again");
    let open = ask("GET", &format!("/api/files/{}", s.open), "", b"")
        .is(200, "open")
        .rev();
    let mut renamed = commit("a/deep", "renamed", &[b"the open content"]);
    renamed["from"] = json!({"path": "a", "name": "open", "if_match": open});
    put(&renamed).is(201, "renamed");
    let chunk = format!("/api/chunks/{}", Hash::of(b"the open content"));
    let again = put(&commit("a", "again", &[b"the open content"])).is(204, "");
    assert!(again.rev() > 0);
    ask("GET", &chunk, "", b"").is(404, "there is no such chunk");
    let list = ask("GET", "/api/files?path=a&search=again", "", b"").json();
    let id = list[0]["id"].as_str().unwrap().to_string();
    ask("GET", &format!("{chunk}?file={id}"), "", b"").is(200, "the open content");
    // a batch: each line by itself
    let item = |path: &str| {
        let bytes = b"of a batch";
        let item = json!({"path": path, "name": "batched", "kind": "file", "size": bytes.len(),
            "checksum_sha256": Hash::of(bytes).to_string()});
        [item.to_string().as_bytes(), b"\n", bytes].concat()
    };
    let mut stolen = commit("a", "stolen", &[SECRET.as_bytes()]);
    let known = format!("{stolen}\n").into_bytes();
    stolen["from"] = json!({"path": "b", "name": NAMED, "if_match": s.rev});
    let from = format!("{stolen}\n").into_bytes();
    let delete = format!("{}\n", json!({"delete": s.id, "if_match": s.rev})).into_bytes();
    let lines = [item("b"), item("a"), known, from, delete];
    let got = ask("POST", "/api/files/batch", "", &lines.concat())
        .is(200, "")
        .json();
    let statuses: Vec<u64> = got["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [403, 201, 409, 403, 404], "{got}");
    // nothing of the other directory has changed
    let secret = s.hub.ask(
        "GET",
        &format!("/api/files/{}/download", s.id),
        &s.admin,
        "",
    );
    assert_eq!(text(&secret), SECRET);
}
