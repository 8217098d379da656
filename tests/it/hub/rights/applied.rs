//! Limits on messages, rights that are narrowed, and keys that are listed and rotated.

use serde_json::{Value, json};

use super::{NAMED, admin, key, secrets};
use crate::support::files::{Hub, Listener, form};
use crate::support::http::message;
use crate::support::routes::routes;
use crate::support::world::wait_for;

#[test]
fn a_key_sends_to_its_targets_and_a_silent_host_gets_and_holds_nothing() {
    let hub = Hub::start();
    let few = key(&hub, "few", &["--send", "db"]);
    let all = key(&hub, "all", &[]);
    let deaf = key(&hub, "deaf", &[]);
    let local = admin(&hub);
    let post = |line: &str, body: String| {
        let got = hub
            .ask("POST", "/api/messages", line, body)
            .is(200, "")
            .json();
        got["results"][0].clone()
    };
    let broadcast = |source: &str| message(source, "x", "all").replace("\"target\":\"x\",", "");
    assert_eq!(post(&few, message("few", "db", "1"))["status"], "queued");
    for (body, wants) in [
        (message("few", "all", "1"), "may send to db only, not to"),
        (broadcast("few"), "a broadcast is for all hosts"),
    ] {
        let result = post(&few, body);
        assert_eq!(result["status"], "rejected");
        assert!(
            result["error"].as_str().unwrap().contains(wants),
            "{result}"
        );
    }
    hub.ask("GET", "/api/messages?host=deaf", &deaf, "")
        .is(200, "");
    let queued = || hub.ask("GET", "/api/hosts", &local, "").json();
    let waits = || {
        let hosts = queued();
        let host = hosts
            .as_array()
            .unwrap()
            .iter()
            .find(|h| h["name"] == "deaf")
            .cloned();
        host.map_or(0, |h| h["queued"].as_u64().unwrap())
    };
    post(&all, broadcast("all"));
    assert_eq!(waits(), 1);
    hub.world.hub_ok(&["key", "set", "deaf", "--no-messages"]);
    post(&all, broadcast("all"));
    assert_eq!(waits(), 0, "{}", queued());
    let result = post(&all, message("all", "deaf", "1"));
    assert!(
        result["error"]
            .as_str()
            .unwrap()
            .contains("does not receive"),
        "{result}"
    );
    hub.ask("GET", "/api/messages?host=deaf", &deaf, "")
        .is(403, "may not receive messages");
    // its event stream tells of files only
    let mut stream = Listener::open(&hub, "?host=deaf", &deaf).unwrap();
    post(&all, broadcast("all"));
    let (kind, body) = form("a", "seen", b"x");
    hub.ask("PUT", "/api/files/upload", &format!("{kind}{all}"), body)
        .is(201, "");
    assert_eq!(stream.event().unwrap().1["payload"]["name"], "seen");
}

#[test]
fn narrowed_rights_apply_at_once_to_tokens_and_open_streams() {
    let s = secrets();
    let line = key(&s.hub, "web-1", &[]);
    let secret = line.trim().trim_start_matches("X-API-Key: ").to_string();
    let login = json!({ "api_key": secret }).to_string();
    let token = s
        .hub
        .ask("POST", "/api/auth/login", "", login)
        .is(200, "")
        .json();
    let bearer = format!(
        "Authorization: Bearer {}\r\n",
        token["token"].as_str().unwrap()
    );
    let target = format!("/api/files/{}", s.id);
    s.hub.ask("GET", &target, &bearer, "").is(200, NAMED);
    let mut stream = Listener::open(&s.hub, "", &bearer).unwrap();
    s.hub
        .world
        .hub_ok(&["key", "set", "web-1", "--files", "a/"]);
    s.hub
        .ask("GET", &target, &bearer, "")
        .is(404, "no such file");
    s.hub.ask("GET", &target, &line, "").is(404, "no such file");
    let (kind, body) = form("b", "later", b"x");
    s.hub
        .ask(
            "PUT",
            "/api/files/upload",
            &format!("{kind}{}", s.admin),
            body,
        )
        .is(201, "");
    // the stream ends, and the event is not in it
    assert!(stream.event().is_err());
    let two = ["key", "set", "web-1", "--files", "b", "--files", "a/"];
    s.hub.world.hub_ok(&two);
    s.hub.ask("GET", "/api/files", &line, "").is(200, "later");
    s.hub.world.hub_ok(&["key", "set", "web-1", "--files", "/"]);
    s.hub.ask("GET", &target, &bearer, "").is(200, NAMED);
    let wrong = s
        .hub
        .world
        .hub_command()
        .args(["key", "set", "web-1"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn the_list_shows_rights_and_last_use_and_a_rotated_key_has_no_gap() {
    let mut hub = Hub::start();
    let old = key(
        &hub,
        "web-1",
        &["--files", "www", "--read-only", "--send", "none"],
    );
    key(&hub, "idle", &[]);
    hub.ask("GET", "/api/files", &old, "").is(200, "");
    let list = hub.world.hub_ok(&["key", "list"]);
    let row = |name: &str| {
        list.lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .to_string()
    };
    assert!(
        row("web-1").contains("www/ (read-only)") && row("web-1").contains("127.0.0.1"),
        "{list}"
    );
    assert!(row("idle").contains("not since the hub started"), "{list}");
    let listed: Value = hub
        .world
        .hub_ok(&["key", "list", "--json"])
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .find(|k| k["name"] == "web-1")
        .unwrap();
    assert_eq!(
        (&listed["used_from"], &listed["rights"]["files"]),
        (&json!("127.0.0.1"), &json!(["www"]))
    );
    let new = format!(
        "X-API-Key: {}\r\n",
        hub.world.hub_ok(&["key", "rotate", "web-1"])
    );
    // the old one works until the new one is used; the rights are the same
    hub.ask("GET", "/api/files", &old, "").is(200, "");
    hub.ask("PUT", "/api/files/upload", &new, "")
        .is(403, "--read-write");
    hub.ask("GET", "/api/files", &old, "").is(401, "");
    hub.ask("GET", "/api/files", &new, "").is(200, "");
    hub.world.stop_hub();
    assert!(hub.world.hub_ok(&["key", "list"]).contains("unknown"));
}

#[test]
fn a_running_client_changes_to_a_rotated_key() {
    let hub = Hub::start();
    let path = hub.world.dir.path().join("web-1.key");
    std::fs::write(&path, hub.world.hub_ok(&["key", "add", "web-1"])).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut machine = hub.world.machine("web-1");
    machine
        .env
        .push(("MESYNC_API_KEY_FILE".into(), path.to_str().unwrap().into()));
    machine.start();
    let local = admin(&hub);
    let send = |payload: &str| {
        hub.ask(
            "POST",
            "/api/messages",
            &local,
            message("db", "web-1", payload),
        )
        .is(200, "queued");
    };
    let has = |n: usize| {
        wait_for("the message arrives", &hub.world, || {
            machine.messages("inbox").len() == n
        });
    };
    send("1");
    has(1);
    let new = hub.world.hub_ok(&["key", "rotate", "web-1"]);
    send("2");
    has(2);
    std::fs::write(&path, &new).unwrap();
    let keys = hub.world.hub_dir().join("keys.toml");
    wait_for("the new key is used", &hub.world, || {
        !std::fs::read_to_string(&keys)
            .unwrap()
            .contains("old_sha256")
    });
    send("3");
    has(3);
    assert!(
        !machine.log().contains("refuses this machine"),
        "{}",
        machine.log()
    );
}

#[test]
fn the_address_of_the_page_shows_what_the_page_shows_and_opens_nothing_else() {
    let hub = Hub::start();
    let other = key(&hub, "other", &[]);
    let (kind, body) = form("a", "seen", b"the content");
    let id = hub
        .ask("PUT", "/api/files/upload", &format!("{kind}{other}"), body)
        .is(201, "")
        .id();
    hub.ask("GET", "/api/messages?host=other", &other, "")
        .is(200, "");
    let address = hub.world.hub_ok(&["hub", "page"]);
    let (url, token) = address.split_once("/#").unwrap();
    assert!(
        url.starts_with("http://") && url.ends_with(&hub.world.port.to_string()),
        "{address}"
    );
    let line = format!("X-API-Key: {token}\r\n");
    hub.ask("GET", "/api/hosts", &line, "").is(200, "\"other\"");
    let metrics = hub
        .ask("GET", "/metrics", &line, "")
        .is(200, "mesync_files 1");
    assert!(String::from_utf8_lossy(&metrics.body).contains("host=\"other\""));
    let mut stream = Listener::open(&hub, "?after=0&kinds=all", &line).unwrap();
    assert_eq!(stream.event().unwrap().1["payload"]["name"], "seen");
    for (method, path) in routes() {
        let path = path.replace('*', &id);
        let open = [
            "/",
            "/api/health",
            "/api/auth/login",
            "/api/join",
            "/metrics",
            "/api/events",
            "/api/hosts",
        ];
        if !open.contains(&path.as_str()) {
            let got = hub.ask(&method, &path, &line, "{}");
            assert!(got.status == 403, "{method} {path}: {got}");
        }
    }
    hub.ask("GET", "/api/events?host=other", &line, "")
        .is(403, "acts for no host");
    // a key that may not administer gives no such address away
    hub.ask("POST", "/api/hub/page", &other, "")
        .is(403, "--admin");
    hub.ask("POST", "/api/hub/page", &line, "")
        .is(403, "for the page");
}
