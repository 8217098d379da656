//! Files on the hub, route by route and status by status: the real binary, over HTTP.

use crate::support::http;

use crate::support::files::{Hub, Listener, commit, noise};
use crate::support::world::{self};
use serde_json::json;

pub(super) const UPLOAD: &str = "/api/files/upload";
pub(super) const TEXT: &[u8] = b"hello, world";

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
    // for another caller it is another key
    hub.ask(
        "GET",
        &format!("/api/idempotency/{}", key(1)),
        "X-Mesync-Host: web-1\r\n",
        "",
    )
    .is(200, "\"done\":false");
    hub.get(&format!("/api/idempotency/{}", key(3)))
        .is(200, "\"done\":false");
    hub.upload("", "b", "1", &line(3))
        .is(409, "idempotency key is void");
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
fn a_full_disk_takes_nothing_and_gives_everything() {
    let mut hub = Hub::start();
    let new = hub.upload("", "a", TEXT, "").is(201, "");
    hub.world.stop_hub();
    hub.world
        .hub_env
        .push(("MESYNC_RESERVE".into(), "1TB".into()));
    hub.world.start_hub();
    hub.upload("", "b", TEXT, "").is(507, "free some space");
    hub.upload("", "b", noise(1, 300_000), "")
        .is(507, "free some space");
    hub.put_chunk(TEXT).is(507, "free some space");
    hub.put_json("PUT", "/api/files/commit", "", &commit("", "b", &[TEXT]))
        .is(507, "free some space");
    hub.ask("POST", "/api/files/batch", "", "")
        .is(507, "free some space");
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
        .is(410, "have expired");

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
fn a_caller_with_the_key_of_a_host_writes_as_that_host() {
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
