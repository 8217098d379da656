//! Who may do what: every route with every kind of credential, against a hub that is a process of its own. Directly, from
//! another machine, and through nginx on the hub's.

mod credentials;
mod nginx;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::support::http::{Conn, Got, PATIENCE, message};
use crate::support::routes::routes;
use crate::support::space::Net;
use crate::support::world::World;
use credentials::{api_key, bearer, false_ones, true_ones};

const MASTER: &str = "a-master-key";

/// The role of a caller: the columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Keys are there, and this was none of them.
    Stranger,
    /// The host `web-1`.
    Host,
    /// A hub that is open to everyone.
    Anonymous,
    /// The master key or the hub's own; in protected mode, a caller on this machine.
    Admin,
    /// In protected mode, a caller that is not on this machine, or may not be.
    Outsider,
}

/// The placeholders in the table: an id that no file has, and the SHA-256 of "abc".
const ID: (&str, &str) = ("{id}", "00000000-0000-0000-0000-000000000009");
const ABC: (&str, &str) = (
    "{abc}",
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
);

const COLUMNS: [Who; 5] = [
    Who::Stranger,
    Who::Host,
    Who::Anonymous,
    Who::Admin,
    Who::Outsider,
];

#[rustfmt::skip]
const TABLE: &[(&str, &str, &str, [u16; 5])] = &[
    //                                                              Stranger Host Anon Admin Outsider
    ("GET",    "/",                        "",                           [200, 200, 200, 200, 200]),
    ("POST",   "/",                        "",                           [405, 405, 405, 405, 405]),
    ("GET",    "/api/health",              "",                           [200, 200, 200, 200, 200]),
    ("HEAD",   "/api/health",              "",                           [200, 200, 200, 200, 200]),
    ("POST",   "/api/health",              "",                           [405, 405, 405, 405, 405]),
    ("POST",   "/api/auth/login",          "{}",                         [400, 400, 400, 400, 403]),
    ("GET",    "/api/auth/login",          "",                           [405, 405, 405, 405, 405]),
    ("GET",    "/metrics",                 "",                           [401, 200, 200, 200, 403]),
    ("POST",   "/api/messages",            "from web-1",                 [401, 200, 200, 200, 403]),
    ("POST",   "/api/messages",            "from web-2",                 [401, 200, 200, 200, 403]),
    ("GET",    "/api/messages?host=web-1", "",                           [401, 200, 200, 200, 403]),
    ("GET",    "/api/messages?host=web-2", "",                           [401, 403, 200, 200, 403]),
    ("GET",    "/api/messages?host=WEB-2", "",                           [401, 403, 200, 200, 403]),
    ("GET",    "/api/messages?host=web-1&host=web-2", "",                [401, 200, 200, 200, 403]),
    ("GET",    "/api/messages",            "",                           [401, 400, 400, 400, 403]),
    ("DELETE", "/api/messages",            "",                           [401, 405, 405, 405, 403]),
    ("GET",    "/api/hosts",               "",                           [401, 200, 200, 200, 403]),
    ("GET",    "/api/hosts/web-1",         "",                           [401, 200, 200, 200, 403]),
    ("GET",    "/api/hosts/web-2",         "",                           [401, 403, 200, 200, 403]),
    ("PUT",    "/api/hosts/web-1",         "",                           [401, 403, 403, 200, 403]),
    ("PUT",    "/api/hosts/web-2",         "",                           [401, 403, 403, 200, 403]),
    ("POST",   "/api/hosts/web-1/rebind",  r#"{"instance":null}"#,       [401, 403, 403, 200, 403]),
    ("POST",   "/api/hosts/web-2/rebind",  r#"{"instance":null}"#,       [401, 403, 403, 200, 403]),
    ("DELETE", "/api/hosts/web-9",         "",                           [401, 403, 403, 404, 403]),
    ("GET",    "/api/events",              "",                           [401, 200, 200, 200, 403]),
    ("GET",    "/api/events?host=web-1",   "",                           [401, 200, 200, 200, 403]),
    ("GET",    "/api/events?host=web-2",   "",                           [401, 403, 200, 200, 403]),
    ("GET",    "/api/events?files=false",  "",                           [401, 200, 200, 200, 403]),
    ("GET",    "/api/events?after=1000",   "",                           [401, 410, 410, 410, 403]),
    ("GET",    "/api/events/history",      "",                           [401, 200, 200, 200, 403]),
    ("GET",    "/api/files",               "",                           [401, 200, 200, 200, 403]),
    ("HEAD",   "/api/files",               "",                           [401, 200, 200, 200, 403]),
    ("PUT",    "/api/files/upload",        "",                           [401, 415, 415, 415, 403]),
    ("PUT",    "/api/files/commit",        "{}",                         [401, 400, 400, 400, 403]),
    ("GET",    "/api/files/changes",       "",                           [401, 200, 200, 200, 403]),
    ("POST",   "/api/files/common",        "{}",                         [401, 400, 400, 400, 403]),
    ("POST",   "/api/files/batch",         "",                           [401, 200, 200, 200, 403]),
    ("POST",   "/api/files/fetch",         r#"{"items":[]}"#,            [401, 200, 200, 200, 403]),
    ("POST",   "/api/files/approvals",     r#"{"deletes":[]}"#,          [401, 403, 403, 200, 403]),
    ("POST",   "/api/files/approved",      r#"{"deletes":[]}"#,          [401, 200, 200, 200, 403]),
    ("GET",    "/api/files/{id}",          "",                           [401, 404, 404, 404, 403]),
    ("DELETE", "/api/files/{id}",          "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/files/{id}/download", "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/files/{id}/chunks",   "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/files/{id}/versions", "",                           [401, 404, 404, 404, 403]),
    ("POST",   "/api/files/{id}/restore",  "",                           [401, 404, 404, 404, 403]),
    ("POST",   "/api/files/{id}/pieces",   "{}",                         [401, 400, 400, 400, 403]),
    ("POST",   "/api/files/{id}/parts",    "{}",                         [401, 400, 400, 400, 403]),
    ("GET",    "/api/files/../files",      "",                           [401, 404, 404, 404, 403]),
    ("POST",   "/api/chunks/missing",      r#"{"chunks":[]}"#,           [401, 200, 200, 200, 403]),
    ("PUT",    "/api/chunks/{abc}",        "abc",                        [401, 204, 204, 204, 403]),
    ("PUT",    "/api/chunks/{abc}",        "abd",                        [401, 400, 400, 400, 403]),
    ("GET",    "/api/chunks/{abc}",        "",                           [401, 404, 404, 404, 403]),
    ("POST",   "/api/upcoming",            "{}",                         [401, 400, 400, 400, 403]),
    ("GET",    "/api/upcoming/{id}/chunks", "",                          [401, 404, 404, 404, 403]),
    ("GET",    "/api/upcoming/{id}/content", "",                         [401, 404, 404, 404, 403]),
    ("GET",    "/api/idempotency/{id}",    "",                           [401, 200, 200, 200, 403]),
    ("POST",   "/api/hub/backup",          r#"{"dir":"here"}"#,          [401, 403, 403, 400, 403]),
    ("POST",   "/api/join",                "",                           [403, 403, 403, 403, 403]),
    ("GET",    "/api/join/requests",       "",                           [401, 403, 403, 200, 403]),
    ("POST",   "/api/join/accept",         "",                           [401, 403, 403, 400, 403]),
    ("GET",    "/api/hub/keys",            "",                           [401, 403, 403, 200, 403]),
    ("POST",   "/api/hub/page",            "{}",                         [401, 403, 403, 200, 403]),
    ("POST",   "/api/hub/peer",            "{}",                         [401, 403, 403, 200, 403]),
    ("GET",    "/api/nothing",             "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/nothing",                 "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/health/",             "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/%68ealth",            "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/health/../hosts",     "",                           [401, 404, 404, 404, 403]),
];

#[test]
fn every_route_of_the_hub_is_in_the_table() {
    let routes: BTreeSet<_> = routes().into_iter().collect();
    let plain = |path: &str| {
        path.split('?')
            .next()
            .unwrap()
            .replace("web-1", "*")
            .replace("web-9", "*")
            .replace(ID.0, "*")
            .replace(ABC.0, "*")
    };
    let tried: BTreeSet<_> = TABLE
        .iter()
        .map(|(method, path, ..)| (method.to_string(), plain(path)))
        .collect();
    assert!(routes.is_subset(&tried), "{:?}", routes.difference(&tried));
}

struct Rig {
    world: World,
    /// Of `web-1`, and one that was removed.
    key: String,
    removed: String,
}

impl Rig {
    /// `keys`: with keys of hosts and a master key.
    fn start(keys: bool, args: &[&str], listen: &'static str) -> Rig {
        let mut world = World::new();
        world.listen = listen;
        world.serve = args.iter().map(ToString::to_string).collect();
        if keys {
            world
                .hub_env
                .push(("MESYNC_MASTER_KEY".into(), MASTER.into()));
        }
        world.start_hub();
        let (mut key, mut removed) = Default::default();
        if keys {
            (key, removed) = (
                world.hub_ok(&["key", "add", "web-1"]),
                world.hub_ok(&["key", "add", "web-5"]),
            );
            world.hub_ok(&["key", "add", "web-2"]);
        }
        let rig = Rig {
            world,
            key,
            removed,
        };
        if keys {
            // tokens are given out, and then their key is removed
            assert_eq!(
                rig.login(&rig.removed).map(|token| rig
                    .ask("GET", "/metrics", "localhost", &bearer(&token), "")
                    .status),
                Some(200)
            );
        }
        rig
    }

    fn secret(&self) -> String {
        std::fs::read_to_string(self.world.hub_dir().join("token.secret"))
            .unwrap()
            .trim()
            .to_string()
    }

    fn local(&self) -> String {
        std::fs::read_to_string(self.world.hub_dir().join("local.key"))
            .unwrap()
            .trim()
            .to_string()
    }

    fn login(&self, key: &str) -> Option<String> {
        let got = self.ask(
            "POST",
            "/api/auth/login",
            "localhost",
            "",
            &format!(r#"{{"api_key":"{key}"}}"#),
        );
        let answer: Option<mesync::internals::wire::LoginAnswer> =
            serde_json::from_str(&got.body).ok();
        assert_eq!(answer.is_some(), got.status == 200, "{got:?}");
        answer.map(|a| a.token)
    }

    fn ask(&self, method: &str, path: &str, host: &str, lines: &str, body: &str) -> Got {
        ask(connect(self.world.port), method, path, host, lines, body)
    }

    /// Every route with these headers.
    #[track_caller]
    fn check(&self, what: &str, who: Who, host: &str, lines: &str) {
        check(&|| connect(self.world.port), what, who, host, lines);
    }
}

/// From an address of its own each time: wrong keys are counted by address.
fn connect(port: u16) -> TcpStream {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let source = SocketAddr::from(([127, 1, (n / 200) as u8, 2 + (n % 200) as u8], 0));
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &source).unwrap();
    rustix::net::connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    TcpStream::from(socket)
}

/// Of an event stream the head only.
fn ask(stream: TcpStream, method: &str, path: &str, host: &str, lines: &str, body: &str) -> Got {
    let mut conn = Conn::new(stream);
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    conn.send(text).unwrap();
    let until = Instant::now() + PATIENCE;
    if path.contains("/events") || method == "HEAD" {
        conn.head(until).unwrap()
    } else {
        conn.answer(PATIENCE).unwrap()
    }
}

#[track_caller]
fn check(connect: &dyn Fn() -> TcpStream, what: &str, who: Who, host: &str, lines: &str) {
    let column = COLUMNS.iter().position(|c| *c == who).unwrap();
    for (method, path, body, statuses) in TABLE {
        let path = &path.replace(ID.0, ID.1).replace(ABC.0, ABC.1);
        let body = match body.strip_prefix("from ") {
            Some(source) => message(source, "web-1", ""),
            None => body.to_string(),
        };
        let got = ask(connect(), method, path, host, lines, &body);
        assert_eq!(
            got.status, statuses[column],
            "{what}: {method} {path}: {got:?}"
        );
        assert!(
            got.status < 400 || got.body.is_empty() || got.body.starts_with("{\"error\":\""),
            "{what}: {method} {path}: {got:?}"
        );
        if *method == "POST" && path == "/api/messages" && got.status == 200 {
            let forged = who == Who::Host && body.contains("web-2");
            assert_eq!(got.body.contains("queued"), !forged, "{what}: {got:?}");
            assert_eq!(
                got.body.contains("this key belongs to"),
                forged,
                "{what}: {got:?}"
            );
        }
    }
}

#[test]
fn with_keys() {
    let rig = Rig::start(true, &[], "127.0.0.1");
    for (what, who, host, lines) in true_ones(&rig) {
        rig.check(what, who, host, &lines);
    }
    // callers with the master key; the target of a backup is only for callers on the hub's machine
    let proxied = api_key(MASTER) + "X-Forwarded-For: 127.0.0.1\r\n";
    assert_eq!(
        rig.ask(
            "POST",
            "/api/hub/backup",
            "hub",
            &proxied,
            r#"{"dir":"here"}"#
        )
        .status,
        403
    );
    for (what, lines) in false_ones(&rig) {
        rig.check(what, Who::Stranger, "localhost", &lines);
    }
    assert_eq!(rig.login("wrong-key-wrong-key"), None);
}

#[test]
fn with_keys_where_every_caller_is_allowed() {
    let rig = Rig::start(true, &["--allow-anonymous"], "127.0.0.1");
    for (what, who, host, lines) in true_ones(&rig) {
        rig.check(what, who, host, &lines);
    }
    for (what, lines) in false_ones(&rig) {
        // a header that is not meant as a credential is none
        let none = [
            "no key",
            "an empty key",
            "a key as basic",
            "a key in a cookie",
        ]
        .contains(&what);
        rig.check(
            what,
            if none { Who::Anonymous } else { Who::Stranger },
            "hub",
            &lines,
        );
    }
}

#[test]
fn without_keys_where_every_caller_is_allowed() {
    let rig = Rig::start(false, &["--allow-anonymous"], "127.0.0.1");
    for (what, lines) in [
        ("no key", String::new()),
        ("any key", api_key("any-key-at-all")),
        ("any token", bearer("x")),
    ] {
        rig.check(what, Who::Anonymous, "hub", &lines);
    }
    rig.check(
        "a page",
        Who::Anonymous,
        "evil.example",
        "Origin: http://evil.example\r\nX-Forwarded-For: 192.0.2.1\r\n",
    );
    rig.check(
        "the hub's own key",
        Who::Admin,
        "hub",
        &api_key(&rig.local()),
    );
    rig.check(
        "a token",
        Who::Anonymous,
        "hub",
        &bearer(&rig.login("any-key-at-all").unwrap()),
    );
}

#[test]
fn without_keys_only_this_machine_is_allowed() {
    let net = Net::lay(&["away"]);
    let port = World::new().port;
    if let Some(net) = &net {
        net.inside(port).enter();
    }
    let rig = Rig::start(
        false,
        &[],
        if net.is_some() {
            "0.0.0.0"
        } else {
            "127.0.0.1"
        },
    );
    let own = format!("localhost:{}", rig.world.port);
    let credentials = [
        String::new(),
        api_key("any-key-at-all"),
        bearer("x"),
        api_key(&rig.local()),
        bearer(&rig.login("any-key-at-all").unwrap()),
    ];
    for lines in &credentials {
        rig.check("here", Who::Admin, &own, lines);
        rig.check("here", Who::Admin, "[::1]", lines);
        rig.check("another name", Who::Outsider, "hub.example", lines);
        for line in [
            "Forwarded: for=127.0.0.1",
            "X-Forwarded-For: 127.0.0.1",
            "X-Real-IP: 127.0.0.1",
            "Via: 1.1 proxy",
        ] {
            rig.check(line, Who::Outsider, &own, &format!("{lines}{line}\r\n"));
        }
        for line in [
            "Origin: null",
            "Origin: http://evil.example",
            "Origin: http://localhost:1",
            "Sec-Fetch-Site: cross-site",
        ] {
            rig.check(line, Who::Outsider, &own, &format!("{lines}{line}\r\n"));
        }
        rig.check(
            "a page of its own",
            Who::Admin,
            &own,
            &format!("{lines}Origin: http://{own}\r\nSec-Fetch-Site: same-origin\r\n"),
        );
    }
    let Some(net) = &net else { return };
    let away = net.place("away", rig.world.port);
    std::thread::scope(|scope| {
        let elsewhere = std::thread::Builder::new().spawn_scoped(scope, || {
            away.enter();
            for lines in &credentials {
                for host in [own.as_str(), "10.88.0.1"] {
                    check(
                        &|| away.connect(0).unwrap(),
                        "from another machine",
                        Who::Outsider,
                        host,
                        lines,
                    );
                }
            }
        });
        elsewhere.unwrap().join().unwrap();
    });
}
