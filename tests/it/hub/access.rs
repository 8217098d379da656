//! Who may do what: every route with every kind of credential, against a hub that is a process of its own. Directly, from
//! another machine, and through nginx on the hub's.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::support::http::{Conn, Got, PATIENCE, message};
use crate::support::routes::routes;
use crate::support::space::{Net, left_out};
use crate::support::world::{World, wait_for};
use hmac::{Hmac, KeyInit, Mac};
use mesync::hub::{keys, token};

const MASTER: &str = "a-master-key";

/// Who somebody is to the hub: the columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Keys are there, and this was none of them.
    Stranger,
    /// The host `web-1`.
    Host,
    /// Where the hub was opened to everybody.
    Anonymous,
    /// The master key or the hub's own; in protected mode who is on this machine.
    Admin,
    /// In protected mode who is not, or may not be.
    Outsider,
}

/// What stands for these in the table: an id that no file has, and the SHA-256 of "abc".
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
    ("GET",    "/api/files/{id}",          "",                           [401, 404, 404, 404, 403]),
    ("DELETE", "/api/files/{id}",          "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/files/{id}/download", "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/files/{id}/chunks",   "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/files/{id}/versions", "",                           [401, 404, 404, 404, 403]),
    ("POST",   "/api/files/{id}/restore",  "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/files/../files",      "",                           [401, 404, 404, 404, 403]),
    ("POST",   "/api/chunks/missing",      r#"{"chunks":[]}"#,           [401, 200, 200, 200, 403]),
    ("PUT",    "/api/chunks/{abc}",        "abc",                        [401, 204, 204, 204, 403]),
    ("PUT",    "/api/chunks/{abc}",        "abd",                        [401, 400, 400, 400, 403]),
    ("GET",    "/api/chunks/{abc}",        "",                           [401, 404, 404, 404, 403]),
    ("GET",    "/api/idempotency/{id}",    "",                           [401, 200, 200, 200, 403]),
    ("POST",   "/api/hub/backup",          r#"{"dir":"here"}"#,          [401, 403, 403, 400, 403]),
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
                ok(&world, &["key", "add", "web-1"]),
                ok(&world, &["key", "add", "web-5"]),
            );
            ok(&world, &["key", "add", "web-2"]);
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
        let answer: Option<mesync::wire::LoginAnswer> = serde_json::from_str(&got.body).ok();
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

fn ok(world: &World, args: &[&str]) -> String {
    let out = world.hub_command().args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap().trim().to_string()
}

fn api_key(key: &str) -> String {
    format!("X-API-Key: {key}\r\n")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// base64url without padding.
fn encode(bytes: &[u8]) -> String {
    let letter = |n: u32| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[n as usize & 63] as char
    };
    let group = |three: &[u8]| {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        (0..=three.len())
            .map(|i| letter(n >> (18 - 6 * i)))
            .collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// A token with another header than the hub's, signed by `sign`.
fn with_header(good: &str, header: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let claims = good.split('.').nth(1).unwrap();
    let signed = format!("{}.{claims}", encode(header.as_bytes()));
    let code = encode(&sign(signed.as_bytes()));
    format!("{signed}.{code}")
}

fn hs256(secret: &str, text: &[u8]) -> Vec<u8> {
    Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes())
        .unwrap()
        .chain_update(text)
        .finalize()
        .into_bytes()
        .to_vec()
}

fn hs512(secret: &str, text: &[u8]) -> Vec<u8> {
    Hmac::<sha2::Sha512>::new_from_slice(secret.as_bytes())
        .unwrap()
        .chain_update(text)
        .finalize()
        .into_bytes()
        .to_vec()
}

/// What is no credential, though some of it comes close: (what, headers).
fn false_ones(rig: &Rig) -> Vec<(&'static str, String)> {
    let (secret, now) = (
        rig.secret(),
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    );
    let kid = format!(
        "web-1:{}",
        token::fingerprint(secret.as_bytes(), &keys::hash(&rig.key))
    );
    let made = |secret: &str, kid: &str, at: u64| {
        token::issue(secret.as_bytes(), "web-1", kid.to_string(), at)
    };
    let good = made(&secret, &kid, now);
    // what makes it good is what the others lack
    rig.check(
        "a token that the test has made",
        Who::Host,
        "hub",
        &bearer(&good),
    );
    let ours = with_header(&good, r#"{"alg":"HS256","typ":"JWT"}"#, |text| {
        hs256(&secret, text)
    });
    assert_eq!(ours, good);
    let removed = rig.login(&rig.removed).unwrap();
    ok(&rig.world, &["key", "remove", "web-5"]);
    let half = &rig.key[..rig.key.len() / 2];
    vec![
        ("no key", String::new()),
        ("an empty key", api_key("")),
        ("a wrong key", api_key("wrong-key-wrong-key")),
        ("a wrong key as bearer", bearer("wrong-key-wrong-key")),
        ("half a key", api_key(half)),
        ("a key in capitals", api_key(&rig.key.to_ascii_uppercase())),
        (
            "a hash of a key",
            api_key(&keys::hash(&rig.key).map(|b| format!("{b:02x}")).concat()),
        ),
        (
            "a key as basic",
            format!(
                "Authorization: Basic {}\r\n",
                encode(format!("web-1:{}", rig.key).as_bytes())
            ),
        ),
        ("a removed key", api_key(&rig.removed)),
        ("a token of a removed key", bearer(&removed)),
        (
            "an expired token",
            bearer(&made(&secret, &kid, now - token::LIFETIME - 1)),
        ),
        (
            "a token from the far future",
            bearer(&made(&secret, &kid, now + 86_400)),
        ),
        (
            "a token of another hub",
            bearer(&made("another hub's secret: 32 characters", &kid, now)),
        ),
        (
            "a token of another key",
            bearer(&made(&secret, "web-1:AAAAAAAAAAAA", now)),
        ),
        (
            "a token of a host without a key",
            bearer(&made(&secret, &kid.replace("web-1", "web-7"), now)),
        ),
        (
            "a token for the master key without it",
            bearer(&made(&secret, &kid.replace("web-1", "*master"), now)),
        ),
        (
            "a token of protected mode",
            bearer(&made(&secret, "*protected", now)),
        ),
        (
            "a token of an open hub",
            bearer(&made(&secret, "*anonymous", now)),
        ),
        ("a token as key", api_key(&made("another", &kid, now))),
        (
            "no algorithm",
            bearer(&with_header(&good, r#"{"alg":"none","typ":"JWT"}"#, |_| {
                Vec::new()
            })),
        ),
        (
            "no algorithm, signed",
            bearer(&with_header(
                &good,
                r#"{"alg":"none","typ":"JWT"}"#,
                |text| hs256(&secret, text),
            )),
        ),
        (
            "HS512",
            bearer(&with_header(
                &good,
                r#"{"alg":"HS512","typ":"JWT"}"#,
                |text| hs512(&secret, text),
            )),
        ),
        (
            "RS256",
            bearer(&with_header(
                &good,
                r#"{"alg":"RS256","typ":"JWT"}"#,
                |text| hs256(&secret, text),
            )),
        ),
        (
            "a header with more in it",
            bearer(&with_header(
                &good,
                r#"{"alg":"HS256","typ":"JWT","kid":"x"}"#,
                |text| hs256(&secret, text),
            )),
        ),
        ("no signature", bearer(good.rsplit_once('.').unwrap().0)),
        ("half a signature", bearer(&good[..good.len() - 20])),
        (
            "a wrong key before the right token",
            api_key("wrong-key-wrong-key") + &bearer(&good),
        ),
        (
            "a wrong key and a foreign page",
            api_key("wrong-key-wrong-key") + "Origin: http://hub\r\n",
        ),
        ("a key in a cookie", format!("Cookie: key={}\r\n", rig.key)),
    ]
}

/// The ways to show a key that count, and what does not matter beside it.
fn true_ones(rig: &Rig) -> Vec<(&'static str, Who, &'static str, String)> {
    let (host, admin) = (&rig.key, MASTER);
    let token = |key: &str| bearer(&rig.login(key).unwrap());
    vec![
        ("a host's key", Who::Host, "hub", api_key(host)),
        ("a host's key as bearer", Who::Host, "hub", bearer(host)),
        ("a host's token", Who::Host, "hub", token(host)),
        (
            "a host's key and a wrong token",
            Who::Host,
            "hub",
            api_key(host) + &bearer("wrong-key-wrong-key"),
        ),
        (
            "a host's key on a page",
            Who::Host,
            "hub",
            api_key(host) + "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        (
            "a host's key under another name",
            Who::Host,
            "evil.example",
            api_key(host),
        ),
        (
            "a host's key through a proxy",
            Who::Host,
            "hub",
            api_key(host) + "X-Forwarded-For: 127.0.0.1\r\n",
        ),
        ("the master key", Who::Admin, "hub", api_key(admin)),
        ("a token of the master key", Who::Admin, "hub", token(admin)),
        (
            "the hub's own key",
            Who::Admin,
            "hub",
            api_key(&rig.local()),
        ),
        (
            "a token of the hub's own key",
            Who::Admin,
            "hub",
            token(&rig.local()),
        ),
    ]
}

#[test]
fn with_keys() {
    let rig = Rig::start(true, &[], "127.0.0.1");
    for (what, who, host, lines) in true_ones(&rig) {
        rig.check(what, who, host, &lines);
    }
    // whoever has the master key: where a backup goes is for who is on the hub's machine
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
fn with_keys_where_everybody_may_come_in() {
    let rig = Rig::start(true, &["--allow-anonymous"], "127.0.0.1");
    for (what, who, host, lines) in true_ones(&rig) {
        rig.check(what, who, host, &lines);
    }
    for (what, lines) in false_ones(&rig) {
        // what is not even meant as a credential is none
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
fn without_keys_where_everybody_may_come_in() {
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
fn without_keys_only_this_machine_comes_in() {
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

/// nginx with the shipped configuration, its certificate and ports replaced.
struct Nginx(Child);

impl Nginx {
    fn start(world: &World) -> Option<(Nginx, u16)> {
        let there = |dir: &str| std::path::Path::new(dir).join("nginx").exists();
        if !["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
            .iter()
            .any(|dir| there(dir))
        {
            left_out("nginx is not installed: the hub behind it is not tested");
            return None;
        }
        let port = World::new().port;
        let shipped = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/contrib/nginx/mesync.conf"
        ))
        .unwrap();
        let kept = |line: &&str| !line.trim().starts_with("ssl_") && !line.contains("listen [::]");
        let server: Vec<&str> = shipped.lines().filter(kept).collect();
        let server = server
            .join("\n")
            .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"));
        let server = server.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", world.port));
        let dir = world.dir.path().join("nginx");
        std::fs::create_dir(&dir).unwrap();
        let at = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|n| format!("{n}_temp_path {at}/{n};\n"))
            .collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}{server}\n}}\n"
        );
        std::fs::write(dir.join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command
            .env("PATH", "/usr/sbin:/usr/bin:/usr/local/sbin")
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(dir.join("nginx.conf"));
        let log = std::fs::File::create(world.dir.path().join("nginx.log")).unwrap();
        let nginx = Nginx(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
        wait_for("nginx listens", world, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some((nginx, port))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn through_nginx_nobody_comes_in_before_there_is_a_key() {
    let rig = Rig::start(false, &[], "127.0.0.1");
    let Some((_nginx, port)) = Nginx::start(&rig.world) else {
        return;
    };
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let through =
        |what: &str, who: Who, host: &str, lines: &str| check(&connect, what, who, host, lines);
    for host in ["hub.example.org", "localhost", "127.0.0.1"] {
        through("no key", Who::Outsider, host, "");
        through(
            "the hub's own key",
            Who::Outsider,
            host,
            &api_key(&rig.local()),
        );
    }
    let key = ok(&rig.world, &["key", "add", "web-1"]);
    through("no key", Who::Stranger, "localhost", "");
    // to the hub all who come through nginx have one address, and wrong keys from it are counted together
    let foreign = token::issue(
        b"another hub's secret: 32 characters",
        "web-1",
        "web-1:x".into(),
        0,
    );
    through(
        "a token of another hub",
        Who::Stranger,
        "localhost",
        &bearer(&foreign),
    );
    through("a key", Who::Host, "hub.example.org", &api_key(&key));
    let token = ask(
        connect(),
        "POST",
        "/api/auth/login",
        "hub",
        "",
        &format!(r#"{{"api_key":"{key}"}}"#),
    );
    let token: mesync::wire::LoginAnswer = serde_json::from_str(&token.body).unwrap();
    through(
        "a token",
        Who::Host,
        "hub.example.org",
        &bearer(&token.token),
    );
}
