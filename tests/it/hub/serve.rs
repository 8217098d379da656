//! The hub over real HTTP: access, responses, start and stop. Other tests check the delivery of
//! messages.

use std::io::Read;
use std::time::Duration;

use mesync::internals::config::Settings;
use mesync::internals::error::Kind;
use mesync::internals::hub::{self, Hub};
use mesync::internals::{credentials, wire};

use crate::support::world::free_port;

struct Bench {
    dir: tempfile::TempDir,
    settings: Settings,
    hub: Option<Hub>,
    agent: ureq::Agent,
}

impl Bench {
    fn new(allow_anonymous: bool) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().as_os_str().to_owned();
        let mut settings =
            Settings::load(|name| (name == "MESYNC_BASE_DIR").then(|| base.clone())).unwrap();
        settings.hub.listen = format!("127.0.0.1:{}", free_port());
        let hub = Hub::start(&settings, allow_anonymous).unwrap();
        settings.server_url = format!("http://{}", hub.address());
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        Bench {
            dir,
            settings,
            hub: Some(hub),
            agent,
        }
    }

    /// The status, and the part of the body that arrives at once.
    fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.settings.server_url));
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let answer = self
            .agent
            .run(request.body(body.to_string()).unwrap())
            .unwrap();
        let allow = answer
            .headers()
            .get("allow")
            .map_or("", |v| v.to_str().unwrap())
            .to_string();
        (
            answer.status().as_u16(),
            allow + &answer.into_body().read_to_string().unwrap(),
        )
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.call("GET", path, headers, "").0
    }

    fn bearer(&self, key: &str) -> Option<String> {
        let (status, body) = self.call(
            "POST",
            "/api/auth/login",
            &[],
            &format!(r#"{{"api_key":"{key}"}}"#),
        );
        let answer: Option<wire::LoginAnswer> = serde_json::from_str(&body).ok();
        assert_eq!(answer.is_some(), status == 200, "{status} {body}");
        answer.map(|a| format!("Bearer {}", a.token))
    }

    fn local_key(&self) -> Option<String> {
        credentials::local_key(&self.settings.hub.data_dir, &self.settings.server_url)
    }

    fn stop(&mut self) {
        self.hub.take().unwrap().stop(Duration::from_secs(10));
    }
}

#[test]
fn keys_are_in_force_from_when_they_are_made_until_they_are_removed() {
    let b = Bench::new(false);
    let data = &b.settings.hub.data_dir;
    let hosts = |headers: &[(&str, &str)]| b.get("/api/hosts", headers);
    assert_eq!(
        (
            hosts(&[]),
            hosts(&[("X-Forwarded-For", "192.0.2.1")]),
            hosts(&[("Host", "hub.example")])
        ),
        (200, 403, 403)
    );
    let open = b.bearer("any-key-at-all").unwrap();
    assert_eq!(hosts(&[("Authorization", &open)]), 200);

    let key = hub::add_key(data, "web-1").unwrap();
    hub::add_key(data, "web-2").unwrap();
    assert_eq!(
        (
            hosts(&[]),
            hosts(&[("Authorization", &open)]),
            hosts(&[("X-API-Key", "wrong-key")])
        ),
        (401, 401, 401)
    );
    assert_eq!(
        hosts(&[("X-API-Key", &key), ("X-Forwarded-For", "192.0.2.1")]),
        200
    );
    assert_eq!(hosts(&[("X-API-Key", &b.local_key().unwrap())]), 200);
    assert_eq!(b.bearer("any-key-at-all"), None);
    let token = b.bearer(&key).unwrap();
    assert_eq!(
        (
            hosts(&[("Authorization", &token)]),
            b.get("/metrics", &[("Authorization", &token)]),
            b.get("/metrics", &[])
        ),
        (200, 200, 401)
    );

    hub::remove_key(data, "web-1").unwrap();
    assert_eq!(
        (
            hosts(&[("Authorization", &token)]),
            hosts(&[("X-API-Key", &key)])
        ),
        (401, 401)
    );
}

#[test]
fn a_host_acts_for_itself_only() {
    let b = Bench::new(false);
    let key = hub::add_key(&b.settings.hub.data_dir, "web-1").unwrap();
    let post = |source: &str| {
        let message = format!(
            r#"{{"type":"x","source":"{source}","id":"019359a0-0000-7000-8000-000000000001"}}"#
        );
        b.call("POST", "/api/messages", &[("X-API-Key", &key)], &message)
            .1
    };
    assert!(post("web-2").contains("this key belongs to"));
    assert!(post("web-1").contains("queued"));
    for (method, path) in [
        ("GET", "/api/messages?host=web-2"),
        ("DELETE", "/api/hosts/web-1"),
        ("PUT", "/api/hosts/web-2"),
    ] {
        assert_eq!(
            b.call(method, path, &[("X-API-Key", &key)], "").0,
            403,
            "{method} {path}"
        );
    }
}

#[test]
fn missing_routes_are_reported_in_json() {
    let b = Bench::new(true);
    let check = |method: &str, path: &str, status: u16, words: &str| {
        let got = b.call(method, path, &[], "");
        assert!(
            got.0 == status && got.1.contains(words),
            "{method} {path}: {got:?}"
        );
    };
    check("GET", "/api/health", 200, r#"{"status":"ok","version":""#);
    check("GET", "/", 200, "<!doctype html>");
    check("POST", "/", 405, "GET{");
    check(
        "GET",
        "/api/nothing",
        404,
        r#"{"error":"there is nothing at /api/nothing"}"#,
    );
    check(
        "DELETE",
        "/api/messages",
        405,
        r#"POST, GET{"error":"/api/messages takes POST, GET only"}"#,
    );
    check("GET", "/api/auth/login", 405, "POST{");
    check("HEAD", "/api/health", 200, "");
    check("POST", "/api/auth/login", 400, r#"{"error":"#);
    let long = " ".repeat(5000);
    assert_eq!(b.call("POST", "/api/auth/login", &[], &long).0, 413);
    let (status, metrics) = b.call("GET", "/metrics", &[], "");
    assert_eq!(status, 200);
    for line in [
        "mesync_requests_total{route=\"login\",status=\"400\"} 1",
        "mesync_refused_total{reason=\"body_size\"} 1",
        "mesync_commits_total ",
    ] {
        assert!(
            metrics.lines().any(|l| l.starts_with(line)),
            "{line} is not in {metrics}"
        );
    }
}

#[test]
fn a_data_directory_has_one_hub_and_a_port_too() {
    let mut b = Bench::new(false);
    let address = b.hub.as_ref().unwrap().address().to_string();
    let second = Hub::start(&b.settings, false).map(drop).unwrap_err();
    assert!(
        second.kind == Kind::Busy
            && second
                .what
                .ends_with(&format!("which listens on {address}")),
        "{second}"
    );
    let mut other = b.settings.clone();
    other.hub.data_dir = b.dir.path().join("other");
    other.hub.listen = address;
    let busy = Hub::start(&other, false).map(drop).unwrap_err();
    assert!(busy.to_string().contains("--listen"), "{busy}");

    assert!(b.local_key().is_some());
    b.stop();
    // another program may listen there now
    until_released(|| b.local_key().is_none().then_some(()));
    drop(until_released(|| Hub::start(&other, false).ok()));
    drop(until_released(|| Hub::start(&b.settings, false).ok()));
}

/// Tries until there is a result. A process that another test is starting has the locks and sockets of this one, also those that
/// were closed since, until it runs its program.
#[track_caller]
fn until_released<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = mesync::internals::clock::monotonic() + Duration::from_secs(120);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(
            mesync::internals::clock::monotonic() < end,
            "it is held for two minutes"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_stop_ends_the_streams_without_waiting() {
    let mut b = Bench::new(false);
    let answer = b
        .agent
        .get(format!("{}/api/events?host=web-1", b.settings.server_url))
        .call()
        .unwrap();
    let mut stream = answer.into_body().into_reader();
    let mut first = [0; 5];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"retry");
    let hub = b.hub.as_mut().unwrap();
    // both hearts beat once a second
    let beats = || {
        crossbeam_channel::after(Duration::from_secs(2))
            .recv()
            .is_ok_and(|_| hub.alive())
    };
    assert!((0..5).any(|_| beats()) && hub.fatal().is_none());
    hub.reload(None);
    let (began, grace) = (
        mesync::internals::clock::monotonic(),
        Duration::from_secs(600),
    );
    b.hub.take().unwrap().stop(grace);
    assert!(began.elapsed() < grace, "it waited for the stream");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

#[test]
fn a_stream_ends_when_keys_come_or_go() {
    let b = Bench::new(false);
    let key = hub::add_key(&b.settings.hub.data_dir, "web-1").unwrap();
    let request = b
        .agent
        .get(format!("{}/api/events?host=web-1", b.settings.server_url))
        .header("X-API-Key", &key);
    let mut stream = request.call().unwrap().into_body().into_reader();
    let mut first = [0; 5];
    stream.read_exact(&mut first).unwrap();
    let post = |id: u8| {
        let message = format!(
            r#"{{"type":"x","source":"web-1","target":"web-1","id":"019359a0-0000-7000-8000-0000000000{id:02}"}}"#
        );
        assert_eq!(
            b.call("POST", "/api/messages", &[("X-API-Key", &key)], &message)
                .0,
            200
        );
    };
    let mut event = Vec::new();
    post(1);
    while !event.ends_with(b"\"web-1\"}\n\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        event.extend(byte);
    }
    hub::add_key(&b.settings.hub.data_dir, "web-2").unwrap();
    post(2);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    // its client opens another one, and pulls
    assert_eq!(rest, "");
}
