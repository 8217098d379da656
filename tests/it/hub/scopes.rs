//! `path=`: a client lists and hears its own directories only, and knows how far it has heard.

use serde_json::{Value, json};

use crate::support::files::{Hub, Listener, commit};
use crate::support::proxy::Proxy;
use crate::support::tree::Synced;
use crate::support::world::wait_for;

/// Makes a file, or renames one.
fn put(hub: &Hub, path: &str, name: &str, from: Option<Value>) -> u64 {
    let mut body = commit(path, name, &[]);
    if let Some(from) = from {
        body["from"] = from;
    }
    let made = hub.put_json("PUT", "/api/files/commit", "", &body);
    assert!([200, 201].contains(&made.status), "{made}");
    made.rev()
}

fn names(rows: &Value, of: impl Fn(&Value) -> &Value) -> Vec<String> {
    let name = |row: &Value| {
        let row = of(row);
        let gone = if row["deleted_at"].is_null() { "" } else { "-" };
        format!(
            "{gone}{}/{}",
            row["path"].as_str().unwrap(),
            row["name"].as_str().unwrap()
        )
    };
    rows.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn a_stream_of_hints_has_one_for_all_changes_of_a_moment() {
    let hub = Hub::start();
    put(&hub, "docs", "a", None);
    put(&hub, "docs", "b", None);
    let first = put(&hub, "other", "c", None);
    let query = "?kinds=all&hints=true&path=docs&after=0";
    let mut stream = Listener::open(&hub, query, "").unwrap();
    let hint = |stream: &mut Listener| {
        let (id, event) = stream.event().unwrap();
        assert_eq!(event, json!({ "type": "file_changed" }));
        id
    };
    assert_eq!(hint(&mut stream), Some(first));
    put(&hub, "other", "d", None);
    let second = put(&hub, "docs", "e", None);
    assert_eq!(hint(&mut stream), Some(second));
}

#[test]
fn only_the_named_directories_are_listed_and_heard() {
    let hub = Hub::start();
    let open = |query: &str| Listener::open(&hub, query, "").unwrap();
    let (mut docs, mut both) = (
        open("?kinds=all&path=docs"),
        open("?kinds=all&path=/docs/&path=b%20c%2Fd"),
    );
    put(&hub, "docs-old", "beside", None);
    put(&hub, "", "docs2", None);
    put(&hub, "docs", "a", None);
    put(&hub, "b c/d", "b", None);
    put(&hub, "other", "c", None);
    let inside = put(&hub, "docs/deep/er", "d", None);
    let last = put(&hub, "other", "e", None);
    let page = |query: &str| hub.get(&format!("/api/files/changes?after=0{query}"));
    let rows = |query: &str| names(&page(query).is(200, "").json()["changes"], |row| row);
    assert_eq!(rows("&path=docs"), ["docs/a", "docs/deep/er/d"]);
    assert_eq!(rows("&path=docs/deep"), ["docs/deep/er/d"]);
    assert_eq!(
        rows("&path=docs/&path=b+c/d"),
        ["docs/a", "b c/d/b", "docs/deep/er/d"]
    );
    assert_eq!(rows("&path=").len(), 7);
    assert!(rows("&path=nothing").is_empty());
    let history = hub.get("/api/events/history?path=docs").is(200, "").json();
    let heard = names(&history, |row| &row["payload"]);
    assert_eq!(heard, ["docs/a", "docs/deep/er/d"]);
    // how far the page has heard, whatever was left out
    let first = page("&path=docs&limit=1").json();
    assert_eq!(
        (&first["more"], &first["through"]),
        (&json!(true), &json!(inside - 1))
    );
    let after = format!("/api/files/changes?path=docs&after={inside}");
    let later = hub.get(&after).is(200, "").json();
    assert_eq!(
        (&later["changes"], &later["through"]),
        (&json!([]), &json!(last))
    );
    for (stream, wants) in [
        (&mut docs, &["a", "d"][..]),
        (&mut both, &["a", "b", "d"][..]),
    ] {
        for want in wants {
            let (_, event) = stream.event().unwrap();
            assert_eq!(event["payload"]["name"], **want);
        }
    }
}

#[test]
fn a_rename_over_the_edge_is_heard_on_both_sides() {
    let hub = Hub::start();
    let made = put(&hub, "in", "a", None);
    let open = |query: &str| Listener::open(&hub, query, "").unwrap();
    let (mut inside, mut outside) = (open("?path=in"), open("?path=out"));
    let from = |path: &str, name: &str, rev| json!({"path": path, "name": name, "if_match": rev});
    let moved = put(&hub, "out", "b", Some(from("in", "a", made)));
    put(&hub, "in", "c", Some(from("out", "b", moved)));
    let heard = |stream: &mut Listener| {
        let event = stream.event().unwrap().1;
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["payload"]["name"]
        )
    };
    assert_eq!(heard(&mut inside), "file_deleted \"a\"");
    assert_eq!(heard(&mut inside), "file_created \"c\"");
    assert_eq!(heard(&mut outside), "file_created \"b\"");
    assert_eq!(heard(&mut outside), "file_deleted \"b\"");
    for (path, wants) in [("in", ["-in/a", "in/c"].as_slice()), ("out", &["-out/b"])] {
        let changes = hub.get(&format!("/api/files/changes?after=0&path={path}"));
        let mut got = names(&changes.json()["changes"], |row| row);
        got.sort();
        assert_eq!(got, wants);
    }
}

#[test]
fn what_is_no_directory_is_refused_with_a_hint() {
    let hub = Hub::start();
    for route in ["files/changes", "events", "events/history"] {
        for path in ["a/../b", "a//b", "%00", ".mesync"] {
            hub.get(&format!("/api/{route}?path=ok&path={path}"))
                .is(400, "name a directory, as in path=docs/2026");
        }
    }
}

#[test]
fn a_key_hears_what_both_its_rights_and_its_path_have() {
    let hub = Hub::start();
    let key = hub.world.hub_ok(&["key", "add", "alpha", "--files", "b/c"]);
    let local = std::fs::read_to_string(hub.world.hub_dir().join("local.key")).unwrap();
    let admin = format!("X-API-Key: {}\r\n", local.trim());
    let alpha = format!("X-API-Key: {}\r\n", key.trim());
    let mut stream = Listener::open(&hub, "?path=b&path=a/x", &alpha).unwrap();
    for (path, name) in [
        ("a", "1"),
        ("b", "2"),
        ("b/c", "3"),
        ("a/x", "4"),
        ("b/c/e", "5"),
    ] {
        let body = commit(path, name, &[]);
        hub.put_json("PUT", "/api/files/commit", &admin, &body)
            .is(201, "");
    }
    for want in ["3", "5"] {
        assert_eq!(stream.event().unwrap().1["payload"]["name"], want);
    }
    let changes = hub.ask(
        "GET",
        "/api/files/changes?after=0&path=b&path=a/x",
        &alpha,
        "",
    );
    assert_eq!(
        names(&changes.json()["changes"], |row| row),
        ["b/c/3", "b/c/e/5"]
    );
}

#[test]
fn a_machine_hears_no_change_of_another_directory() {
    let hub = Hub::start();
    let wire = Proxy::to(hub.world.port);
    let mut quiet = Synced::new(&hub.world, "quiet").with(&["--remote", "quiet"]);
    let through_wire = ("MESYNC_SERVER_URL".into(), wire.url());
    quiet.machine.env.push(through_wire);
    quiet.start();
    // what arrives for a change of its own, after so many of others
    let costs = |round: usize, others: usize| {
        let before = wire.down();
        for n in 0..others {
            put(&hub, "loud", &format!("{round}-{n}"), None);
        }
        let name = format!("mine-{round}");
        put(&hub, "quiet", &name, None);
        wait_for("its own change", &hub.world, || quiet.has(&name));
        wire.down() - before
    };
    costs(0, 0);
    let log = || quiet.machine.log();
    wait_for("it listens", &hub.world, || {
        log().contains("opened the event stream")
    });
    let alone = costs(1, 0);
    let among_others = costs(2, 300);
    assert!(
        among_others < alone + 10_000,
        "{alone} bytes alone, {among_others} among 300 changes of others"
    );
}

#[test]
fn rows_are_a_quarter_of_their_json_for_a_client_that_accepts_them() {
    let hub = Hub::start();
    for n in 0..200 {
        put(&hub, "docs/2026", &format!("letter-{n}.txt"), None);
    }
    let ask = |accept: &str| {
        let got = hub.ask("GET", "/api/files/changes?after=0", accept, "");
        assert_eq!(got.status, 200);
        got
    };
    let (json, rows) = (
        ask("Accept: */*\r\n"),
        ask("Accept: application/vnd.mesync.rows, application/json\r\n"),
    );
    assert_eq!(json.header("content-type"), Some("application/json"));
    let kind = rows.header("content-type");
    assert_eq!(kind, Some("application/vnd.mesync.rows"));
    // each of these has a commit, and so a tag, of its own
    let (many, few) = (json.body.len(), rows.body.len());
    assert!(few * 4 < many, "{few} bytes, {many} in JSON");
}
