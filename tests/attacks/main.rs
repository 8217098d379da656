//! Attacks on a hub that runs as a separate process. During each attack a client with a key gets
//! its responses within a second; afterwards the hub uses no more memory, threads and descriptors
//! than before. All of it is repeated with 64 MB of memory.
//!
//! `make attacks` runs this against the static release binary. Attackers on loopback are exempt
//! from the limit of connections by address, so every attack also runs from outside, where root can
//! create network namespaces.

// the test is a user: it has its own clock and threads
#![allow(clippy::disallowed_methods)]

mod group;
#[cfg(feature = "tls")]
mod handshakes;
mod siege;
#[allow(dead_code)] // the attacks use a part
#[path = "../it/support/mod.rs"]
mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::group::Group;
use crate::support::http::{Conn, PATIENCE, Wire, request};
use crate::support::space::{Place, left_out};
use siege::{Arena, SECOND, Stage, alone, pause};

type Attack = fn(&Arena, &Place, &Stage);

#[rustfmt::skip]
const TABLE: &[(&str, Attack)] = &[
    ("60 GB announced and not sent",               unsent_body),
    ("300 MB of header",                           endless_header),
    ("1,000 connections with a byte a second",     slow_senders),
    ("24,000 connections that are reset",          resets),
    ("what is not HTTP/1.1 beyond doubt",          malformed),
    ("requests without waiting for answers",       pipelined),
    ("uploads that break off",                     broken_uploads),
    ("answers that nobody reads",                  unread_answers),
    ("200 event streams",                          streams),
    ("100 wrong keys a second",                    wrong_keys),
];

/// The places that attack, and at last the first one with TLS.
fn places(arena: &Arena) -> Vec<Place> {
    let mut places = arena.sides();
    places.truncate(if is_thorough() { 2 } else { 1 });
    if cfg!(feature = "tls") && is_thorough() {
        places.push(places[0].clone().encrypted(true));
    }
    places
}

/// The binary that is delivered gets all of it; a debug build, of which `make test` wants to know soon, a part.
fn is_thorough() -> bool {
    std::env::var_os("MESYNC_TEST_BINARY").is_some()
}

/// `ONLY`: a part of the name of the attacks to run.
fn run_table(arena: &Arena) {
    let only = std::env::var("ONLY").unwrap_or_default();
    arena.fill_queue(15);
    for (name, attack) in TABLE.iter().filter(|(name, _)| name.contains(&only)) {
        for place in places(arena) {
            arena.attack(name, &place, |place, stage| attack(arena, place, stage));
        }
    }
    #[cfg(feature = "tls")]
    for (name, attack) in handshakes::TABLE
        .iter()
        .filter(|(name, _)| name.contains(&only))
    {
        let place = &arena.sides()[0];
        arena.attack(name, place, |place, stage| attack(arena, place, stage));
    }
}

#[test]
fn attacks_change_nothing_for_a_client_with_a_key() {
    let _alone = alone();
    let arena = Arena::open(Vec::new(), None);
    run_table(&arena);
    arena.end();
}

#[test]
fn nor_do_they_with_64_megabytes_of_memory() {
    let _alone = alone();
    if !is_thorough() {
        return println!("left out for a debug build: \"make attacks\" runs it");
    }
    let group = Group::make("memory");
    let wrap = match &group {
        Some(group) => {
            group.limit("memory", 64 << 20);
            group.wrap()
        }
        None => {
            println!("no control group for memory can be made: 64 MB of address space instead");
            ["prlimit", "--as=67108864"].map(String::from).to_vec()
        }
    };
    let arena = Arena::open(wrap, group);
    run_table(&arena);
    arena.end();
}

#[test]
fn forty_clients_where_64_descriptors_are_all() {
    let _alone = alone();
    let arena = Arena::open(["prlimit", "--nofile=64"].map(String::from).to_vec(), None);
    for place in arena.sides() {
        arena.attack("40 clients that stay", &place, |place, stage| {
            let conns: Vec<TcpStream> = (0..40).map(|n| place.connect(n).unwrap()).collect();
            stage.hold();
            drop(conns);
        });
        arena.attack("40 event streams", &place, |place, stage| {
            // each asks at once: the hub closes connections that wait while others come
            let open = |mut conn: Conn| {
                let asked = conn.send(request("GET", "/api/events?host=greedy", &arena.greedy, ""));
                asked
                    .and_then(|()| conn.head(Instant::now() + PATIENCE))
                    .is_ok_and(|got| got.status == 200)
                    .then_some(conn)
            };
            let opened: Vec<Conn> = (0..40).filter_map(|n| open(place.conn(n))).collect();
            assert!(
                (8..=16).contains(&opened.len()),
                "{} event streams",
                opened.len()
            );
            stage.hold();
        });
        arena.attack("40 clients that are slow", &place, |place, stage| {
            trickle(place, stage, 40, &[b"GET /api/health HT"])
        });
    }
    arena.end();
}

#[test]
fn no_more_threads_can_be_started() {
    let _alone = alone();
    let Some(group) = Group::make("pids") else {
        return left_out("no control group can be made that limits threads");
    };
    let limit = |value: &str| group.limit("pids", value);
    let wrap = group.wrap();
    limit("max");
    let arena = Arena::open(wrap, None);
    let room = arena.usage().threads + 12;
    limit(&room.to_string());
    for place in arena.sides() {
        arena.attack("40 clients, and threads for 12", &place, |place, stage| {
            trickle(place, stage, 40, &[b"GET /api/health HT"])
        });
    }
    arena.end();
    drop(group);
}

/// Many connections at once, then a byte a second on each until the attack is over.
fn trickle(place: &Place, stage: &Stage, count: usize, beginnings: &[&[u8]]) {
    let mut conns: Vec<Wire> = Vec::new();
    for n in 0..count {
        let Ok(stream) = place.connect(n) else {
            continue;
        };
        let mut conn = place.wire(stream);
        if conn.write_all(beginnings[n % beginnings.len()]).is_ok() {
            conn.tcp().set_nonblocking(true).unwrap();
            conns.push(conn);
        }
    }
    let mut next = Instant::now();
    for seconds in 0.. {
        conns.retain_mut(|conn| conn.write_all(b"x").is_ok());
        next += SECOND;
        while Instant::now() < next && !stage.is_over() {
            pause(10);
        }
        if seconds == 3 {
            stage.stands();
        }
        if stage.is_over() {
            return;
        }
    }
}

fn slow_senders(_: &Arena, place: &Place, stage: &Stage) {
    let login = b"POST /api/auth/login HTTP/1.1\r\nHost: hub\r\nContent-Length: 4000\r\n\r\n{";
    trickle(
        place,
        stage,
        1000,
        &[b"", b"GET /api/health HTTP/1.1\r\nHost: h", login],
    );
}

fn unsent_body(arena: &Arena, place: &Place, stage: &Stage) {
    let mut conns = Vec::new();
    for (lines, path, status) in [
        ("", "/api/messages", 401),
        (arena.greedy.as_str(), "/api/messages", 413),
        ("", "/api/auth/login", 413),
        ("", "/api/nothing", 401),
        ("Expect: 100-continue\r\n", "/api/messages", 401),
    ] {
        for n in 0..8 {
            let mut conn = place.conn(n);
            conn.send(format!(
                "POST {path} HTTP/1.1\r\nHost: hub\r\n{lines}Content-Length: 60000000000\r\n\r\n"
            ))
            .unwrap();
            // what does not wait for the answer
            let _ = conn.send(vec![b'x'; 64 * 1024]);
            if n == 0 {
                assert_eq!(conn.answer(PATIENCE).unwrap().status, status, "{path}");
            }
            conns.push(conn);
        }
    }
    stage.hold();
}

fn endless_header(_: &Arena, place: &Place, stage: &Stage) {
    let line = format!("X-Line: {}\r\n", "x".repeat(64 * 1024));
    let (mut sent, mut conns) = (0, 0);
    while sent < 300_000_000 {
        let mut conn = place.conn(conns);
        conns += 1;
        conn.send("GET /api/health HTTP/1.1\r\nHost: hub\r\n")
            .unwrap();
        while sent < 300_000_000 && conn.send(&line).is_ok() {
            sent += line.len();
        }
    }
    let mut conn = place.conn(0);
    conn.send(format!("GET / HTTP/1.1\r\n{}", &line[..20_000]))
        .unwrap();
    assert_eq!(conn.answer(PATIENCE).unwrap().status, 431);
    println!("    300 MB went over {conns} connections");
    stage.hold();
}

fn resets(_: &Arena, place: &Place, stage: &Stage) {
    let begun = Instant::now();
    for n in 0..24_000 {
        let mut conn = place.conn(n);
        let _ = match n % 4 {
            0 => conn.send(
                "POST /api/messages HTTP/1.1\r\nHost: hub\r\nContent-Length: 60000000000\r\n\r\n",
            ),
            1 => conn.send("GET /api/health HTTP/1.1\r\nHost: hub\r\n\r\n"),
            2 => conn.send("GET /"),
            _ => Ok(()),
        };
        conn.reset();
    }
    println!("    in {:?}", begun.elapsed());
    stage.hold();
}

fn malformed(arena: &Arena, place: &Place, stage: &Stage) {
    let head = |line: &str| {
        format!(
            "POST /api/messages HTTP/1.1\r\nHost: hub\r\n{}{line}\r\n\r\n",
            arena.greedy
        )
    };
    let cases = [
        (400, "\0".into()),
        (
            400,
            "GET /api/health HTTP/1.1\r\nHost: h\0ub\r\n\r\n".into(),
        ),
        (
            400,
            "GET /api/health HTTP/1.1\r\nHost: hub\rX: y\r\n\r\n".into(),
        ),
        (400, "GET /api/health HTTP/1.1\nHost: hub\n\n".into()),
        (505, "GET /api/health HTTP/2.0\r\nHost: hub\r\n\r\n".into()),
        (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (
            400,
            "GET http://hub/api/health HTTP/1.1\r\nHost: hub\r\n\r\n".into(),
        ),
        (
            400,
            "GET //hub/api/health HTTP/1.1\r\nHost: hub\r\n\r\n".into(),
        ),
        (400, "GET /api/health HTTP/1.1\r\n\r\n".into()),
        (
            501,
            "CONNECT /api/health HTTP/1.1\r\nHost: hub\r\n\r\n".into(),
        ),
        (
            400,
            head("Content-Length: 5\r\nTransfer-Encoding: chunked") + "0\r\n\r\n",
        ),
        (
            400,
            head("Transfer-Encoding: chunked\r\nContent-Length: 5") + "0\r\n\r\n",
        ),
        (411, head("Transfer-Encoding: chunked") + "0\r\n\r\n"),
        (400, head("Content-Length: 5\r\nContent-Length: 6") + "[]"),
        (400, head("Content-Length: 5\r\nContent-Length: 5") + "[]"),
        (400, head("Content-Length: -1")),
        (400, head("Content-Length: 18446744073709551615")),
        (400, head("Content-Length: 18446744073709551616")),
        (400, head("Content-Length: 99999999999999999999999999")),
        (413, head("Content-Length: 999999999999999999")),
        (400, head("Content-Length: 1 1")),
        (400, head("Content-Length : 2") + "[]"),
        (400, head("Content_Length: 2") + "[]"),
        (400, head("X-A: b\r\n folded: c")),
        (400, head("Upgrade: websocket\r\nConnection: upgrade")),
        (431, head(&"X-A: b\r\n".repeat(100))),
        (
            414,
            format!("GET /{} HTTP/1.1\r\nHost: hub\r\n\r\n", "a".repeat(10_000)),
        ),
    ];
    for n in 0..20 {
        for (status, text) in &cases {
            let mut conn = place.conn(n);
            // a second request hides behind the doubtful one
            conn.send(format!(
                "{text}GET /api/health HTTP/1.1\r\nHost: hub\r\n\r\n"
            ))
            .unwrap();
            let got = conn
                .answer(PATIENCE)
                .unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert_eq!(
                (got.status, got.header("connection")),
                (*status, Some("close")),
                "{text:?}: {got:?}"
            );
            assert!(siege::is_closed(&mut conn), "{text:?}");
        }
    }
    stage.hold();
}

fn pipelined(_: &Arena, place: &Place, stage: &Stage) {
    let mut conns: Vec<Conn> = (0..20).map(|n| place.conn(n)).collect();
    for conn in &mut conns {
        conn.send(request("GET", "/api/health", "", "").repeat(100))
            .unwrap();
    }
    stage.hold();
    for conn in &mut conns {
        assert!((0..100).all(|_| conn.answer(PATIENCE).unwrap().status == 200));
    }
}

fn broken_uploads(arena: &Arena, place: &Place, stage: &Stage) {
    for n in 0..400 {
        let length = if n % 2 == 0 { 4_000_000 } else { 60_000 };
        let mut conn = place.conn(n);
        let head = format!(
            "POST /api/messages HTTP/1.1\r\nHost: hub\r\n{}Content-Length: {length}\r\n\r\n",
            arena.greedy
        );
        let sent = conn.send(head + "[\"" + &"x".repeat(length / 2));
        if n % 4 < 2 && sent.is_ok() {
            conn.reset();
        }
    }
    stage.hold();
}

fn unread_answers(arena: &Arena, place: &Place, stage: &Stage) {
    let page = request("GET", "/api/messages?host=greedy", &arena.greedy, "");
    let health = request("GET", "/api/health", "", "");
    let mut conns = Vec::new();
    for n in 0..60 {
        let stream = place.connect_small(n, Some(2048)).unwrap();
        let mut conn = Conn::new(place.wire(stream));
        // of TLS the handshake, whose answers are read
        let _ = conn.send(&health);
        conn.stream.tcp().set_nonblocking(true).unwrap();
        // as many as are taken
        let text = if n % 3 > 0 {
            page.repeat(20)
        } else {
            health.repeat(20_000)
        };
        let _ = conn.send(text);
        conns.push(conn);
    }
    stage.hold();
}

fn streams(arena: &Arena, place: &Place, stage: &Stage) {
    let open = |place: &Place, n: usize| {
        let mut conn = Conn::new(place.wire(place.connect_small(n, Some(2048)).unwrap()));
        conn.send(request("GET", "/api/events?host=greedy", &arena.greedy, ""))
            .unwrap();
        // the first is never read
        if n > 0 {
            let got = conn.head(Instant::now() + PATIENCE).unwrap();
            assert_eq!(got.status, 200, "{got:?}");
        }
        conn
    };
    let conns: Vec<Conn> = (0..199).map(|n| open(place, n)).collect();
    let Some(net) = &arena.net else {
        left_out("a reader that is gone without a word needs a network of its own");
        return stage.hold();
    };
    let gone = arena.place("gone");
    gone.enter();
    net.mend("gone");
    let last = open(&gone, 1);
    net.cut("gone");
    stage.hold();
    // neither end hears of the other any more
    drop(last);
    drop(conns);
}

fn wrong_keys(arena: &Arena, place: &Place, stage: &Stage) {
    let mut statuses = Vec::new();
    let mut next = Instant::now();
    for n in 0..400u32 {
        let body = format!(r#"{{"api_key":"a-wrong-key-{n}"}}"#);
        let (method, path, line, body) = match n % 2 {
            0 => ("POST", "/api/auth/login", String::new(), body.as_str()),
            _ => (
                "GET",
                "/api/hosts",
                format!("X-API-Key: a-wrong-key-{n}\r\n"),
                "",
            ),
        };
        let mut conn = place.conn(0);
        statuses.push(
            conn.ask(&request(method, path, &line, body), PATIENCE)
                .unwrap()
                .status,
        );
        next += Duration::from_millis(10);
        while Instant::now() < next {
            pause(1);
        }
    }
    assert!(
        statuses[..10].iter().all(|s| *s == 401 || *s == 429),
        "{statuses:?}"
    );
    assert!(statuses[10..].iter().all(|s| *s == 429), "{statuses:?}");
    // a caller with a key is accepted from there nevertheless
    let mut conn = place.conn(0);
    assert_eq!(
        conn.ask(&request("GET", "/api/hosts", &arena.greedy, ""), PATIENCE)
            .unwrap()
            .status,
        200
    );
    stage.hold();
}
