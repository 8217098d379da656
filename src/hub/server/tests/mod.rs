//! Tests the server from outside, over real sockets, with a small gate and a few routes.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Admission, Config, Counters, Gate, Head, Reason, Responder, Server, Wire};
use crate::clock;
use crate::hub::http::{Caller, Job, Reply, Request};
use crate::hub::memory::Room;

mod downloads;
mod ends;
mod port;
mod streams;

const PATIENCE: Duration = Duration::from_secs(30);

struct Doorman;

impl Gate for Doorman {
    fn admit(&self, head: &Head, _: IpAddr, _: Wire) -> Admission {
        let body_limit = match head.path.as_str() {
            "/denied" => return Admission::Refuse(Reply::error(401, "no key")),
            "/endless" => u64::MAX,
            "/upload" | "/early" => 10 << 20,
            _ => 64 << 10,
        };
        Admission::Admit {
            caller: Caller::Host("web-1".into(), Arc::default()),
            body_limit,
            streamed: head.query == "streamed",
        }
    }
}

/// The channels by which routes report to the test and wait for it.
struct Ends {
    seen: Sender<String>,
    held: Sender<Responder>,
}

fn routes(ends: &Ends, request: Request, responder: Responder) {
    let text = |body: &str| Reply::text(200, "text/plain", body.to_string());
    let job = |job: Job| Reply {
        job: Some(job),
        ..Reply::text(200, "text/event-stream", String::new())
    };
    let seen = ends.seen.clone();
    let tell = move |what: String| drop(seen.try_send(what));
    let reply = match request.path.as_str() {
        "/echo" => text(&format!(
            "{:?} {} {}",
            request.caller.host(),
            request.query,
            String::from_utf8_lossy(&request.body)
        )),
        "/headers" => text(&format!("{:?}", request.headers)),
        "/empty" => Reply::empty(204),
        "/inject" => text("x")
            .header("X-Own", "a\r\nX-Foreign: b")
            .header("ETag", "\"7\""),
        "/panic" => panic!("as the test wants"),
        "/silent" => return drop(responder),
        "/held" => return ends.held.send(responder).unwrap(),
        "/send" => downloads::answer(&request.query),
        "/big" => job(Job::Bytes(vec![b'x'; 3 << 20])),
        "/upload" | "/endless" if request.length > 64 << 10 => {
            job(Job::Upload(Box::new(move |reader| {
                let read = std::io::copy(reader, &mut std::io::sink());
                tell(format!("{:?}", read.as_ref().map_err(|e| e.kind())));
                Reply::text(201, "text/plain", format!("{read:?}"))
            })))
        }
        "/stream" => job(Job::Stream(Box::new(streams::Writer {
            tell: Box::new(tell),
            mode: request.query,
            pieces: 0,
        }))),
        _ => text("hello"),
    };
    responder.send(reply);
}

struct Rig {
    server: Option<Server>,
    address: SocketAddr,
    seen: Receiver<String>,
    held: Receiver<Responder>,
    _dir: tempfile::TempDir,
}

fn config(listen: SocketAddr, socket_dir: std::path::PathBuf, connections: usize) -> Config {
    Config {
        listen,
        socket_dir,
        connections,
        streams: 8,
        per_address: 4,
        workers: 8,
        room: Room::UNLIMITED,
        tls: None,
    }
}

fn rig(connections: usize) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    // longer than the name of a Unix socket may be
    let socket_dir = dir.path().join("d".repeat(100)).join("run");
    let (seen_tx, seen) = bounded(1000);
    let (held_tx, held) = bounded(1000);
    let ends = Ends {
        seen: seen_tx,
        held: held_tx,
    };
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(
        config(listen, socket_dir, connections),
        Arc::new(Doorman),
        Arc::new(move |request, responder| routes(&ends, request, responder)),
    )
    .unwrap();
    Rig {
        address: server.address(),
        server: Some(server),
        seen,
        held,
        _dir: dir,
    }
}

impl Rig {
    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn counters(&self) -> &Counters {
        self.server().counters()
    }

    fn connect(&self) -> Conn {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Conn(stream, Vec::new())
    }

    /// One request on a connection of its own.
    fn ask(&self, request: &str) -> Got {
        self.connect().ask(request)
    }

    fn works(&self) {
        assert_eq!(self.ask(&get("/")).body, "hello");
    }
}

struct Conn(TcpStream, Vec<u8>);

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Conn {
    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn ask(&mut self, request: &str) -> Got {
        self.send(request);
        self.answer()
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let n = self.0.read(&mut piece).unwrap();
        self.1.extend_from_slice(&piece[..n]);
        n > 0
    }

    fn head(&mut self) -> Got {
        loop {
            if let Some(end) = self.1.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(self.1.drain(..end + 4).collect()).unwrap();
                return Got {
                    status: head[9..12].parse().unwrap(),
                    head,
                    body: String::new(),
                };
            }
            assert!(
                self.more(),
                "closed within a head: {:?}",
                String::from_utf8_lossy(&self.1)
            );
        }
    }

    fn answer(&mut self) -> Got {
        let got = self.head();
        let length = got
            .head
            .lines()
            .find_map(|l| l.strip_prefix("Content-Length: "))
            .map_or(0, |n| n.parse().unwrap());
        while self.1.len() < length {
            assert!(self.more(), "closed within a body");
        }
        Got {
            body: String::from_utf8(self.1.drain(..length).collect()).unwrap(),
            ..got
        }
    }

    fn closed(&mut self) -> bool {
        self.1.is_empty() && !self.more()
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: hub\r\n\r\n")
}

/// The head of a request with a body.
fn put(target: &str, length: u64) -> String {
    format!("PUT {target} HTTP/1.1\r\nHost: hub\r\nContent-Length: {length}\r\n\r\n")
}

fn pause() {
    let _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(2));
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = clock::monotonic() + PATIENCE;
    while !condition() {
        assert!(clock::monotonic() < until, "waited in vain: {what}");
        pause();
    }
}

/// Runs `client` on `clients` threads at once.
fn at_once(clients: usize, client: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for n in 0..clients {
            std::thread::Builder::new()
                .spawn_scoped(scope, {
                    let client = &client;
                    move || client(n)
                })
                .unwrap();
        }
    });
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    let rig = rig(64);
    let mut conn = rig.connect();
    let head = get("/echo").replace("GET", "HEAD");
    conn.send(&format!(
        "{}{}{}{}",
        get("/echo?a=b"),
        put("/echo", 4) + "body",
        put("/echo", 3000) + &"y".repeat(3000),
        head
    ));
    assert_eq!(conn.answer().body, "Some(\"web-1\") a=b ");
    assert_eq!(conn.answer().body, "Some(\"web-1\")  body");
    assert!(conn.answer().body.ends_with(&"y".repeat(3000)));
    let got = conn.head();
    assert!(
        got.head
            .contains("Content-Length: 15\r\nConnection: keep-alive\r\n"),
        "{got:?}"
    );
    assert_eq!(conn.ask(&get("/empty")).status, 204);
    let whole = "z".repeat(64 << 10);
    assert_eq!(
        conn.ask(&(put("/echo", 64 << 10) + &whole)).body.len(),
        (64 << 10) + 15
    );
    assert_eq!(
        conn.ask(&get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
            .body,
        "hello"
    );
    assert!(conn.closed());
}

#[test]
fn answers_are_labelled_and_routes_cannot_break_them() {
    let rig = rig(64);
    let got = rig.ask(&get("/inject"));
    assert!(
        got.head.contains(
            "Content-Type: text/plain\r\nETag: \"7\"\r\nX-Content-Type-Options: nosniff\r\n"
        ),
        "{got:?}"
    );
    assert!(
        !got.head.contains("X-") || !got.head.contains("Foreign"),
        "{got:?}"
    );
    assert!(
        !got.head.contains("Server") && !got.head.contains("Ticket"),
        "{got:?}"
    );
    for path in ["/panic", "/silent", "/panic"] {
        let got = rig.ask(&get(path));
        assert_eq!(
            (got.status, got.body.contains("\"error\"")),
            (500, true),
            "{path}"
        );
    }
    let got = rig.ask("GET /headers HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nX-Mesync-Ticket: 1\r\nRange: bytes=1-\r\n\r\n");
    assert_eq!(got.body, r#"[("range", "bytes=1-")]"#);
    let got = rig.ask(&get("/empty"));
    assert!(
        got.status == 204 && !got.head.contains("Content-Length"),
        "{got:?}"
    );
}

#[test]
fn refusals_are_answered_before_the_connection_ends() {
    let rig = rig(64);
    let mut conn = rig.connect();
    assert_eq!(conn.ask(&get("/denied")).status, 401);
    assert_eq!(conn.ask(&get("/")).status, 200);
    // the server drains the body, so that no reset overtakes the answer
    let refused = |request: String, status: u16, reason: Reason| {
        let before = rig.counters().refused(reason);
        let mut conn = rig.connect();
        conn.send(&(request + &"x".repeat(100_000)));
        let got = conn.answer();
        assert_eq!(got.status, status, "{got:?}");
        assert!(
            got.head.contains("Connection: close") && conn.closed(),
            "{got:?}"
        );
        assert_eq!(rig.counters().refused(reason), before + 1);
    };
    refused(put("/denied", 100_000), 401, Reason::Gate);
    refused(put("/echo", 100_000), 413, Reason::BodySize);
    refused(
        "GET / HTTP/2.0\r\nHost: h\r\n\r\n".into(),
        505,
        Reason::Head,
    );
    refused(
        "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        411,
        Reason::Head,
    );
    refused(
        format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(20_000)),
        431,
        Reason::HeadSize,
    );
    let mut slow = rig.connect();
    assert_eq!(slow.ask("GET / HTTP/1.1\r\nHost:").status, 408);
    assert!(slow.closed());
}

#[test]
fn uploads_run_on_the_clients_socket() {
    let rig = rig(64);
    let mut conn = rig.connect();
    conn.send(&put("/upload", 1 << 20).replace("Host", "Expect: 100-continue\r\nHost"));
    assert_eq!(conn.head().status, 100);
    let got = conn.ask(&"u".repeat(1 << 20));
    assert_eq!((got.status, got.body.as_str()), (201, "Ok(1048576)"));
    // longer than the memory for bodies, and followed at once by the next request
    let got = conn.ask(&(put("/upload", 5 << 20) + &"u".repeat(5 << 20) + &get("/")));
    assert_eq!((got.status, got.body.as_str()), (201, "Ok(5242880)"));
    assert_eq!(conn.answer().body, "hello");
    // a route that answers without reading
    let got = conn.ask(&(put("/early", 5 << 20) + &"u".repeat(100_000)));
    assert!(
        got.status == 200 && got.head.contains("Connection: close"),
        "{got:?}"
    );
    assert!(conn.closed());
}

#[test]
fn long_bodies_are_few_and_fit_into_memory() {
    let rig = rig(512);
    let shared = &rig.server().shared;
    let begin = |count: usize, length: u64| -> Vec<Conn> {
        let begin = |_| {
            let mut conn = rig.connect();
            conn.send(&put("/upload", length));
            conn
        };
        (0..count).map(begin).collect()
    };
    let mut large = begin(4, 4 << 20);
    wait_for("4 uploads of 4 MiB", || shared.memory.used() == 16 << 20);
    assert_eq!(rig.ask(&(put("/echo", 3) + "abc")).status, 200);
    let got = rig.ask(&put("/echo", 10_000));
    assert!(
        got.status == 503 && got.head.contains("Retry-After"),
        "{got:?}"
    );
    rig.works();
    large.clear();
    wait_for("free memory", || shared.memory.used() == 0);
    let many = begin(64, 100_000);
    wait_for("64 uploads", || shared.transfers.used() == 64);
    assert_eq!(rig.ask(&put("/upload", 100_000)).status, 503);
    assert_eq!(rig.ask(&get("/big")).status, 503);
    assert_eq!(
        (
            rig.counters().refused(Reason::Memory),
            rig.counters().refused(Reason::Transfers)
        ),
        (1, 2)
    );
    drop(many);
    wait_for("nobody left", || {
        shared.transfers.used() == 0 && shared.memory.used() == 0
    });
}

#[test]
fn more_clients_than_workers_and_connections_are_all_answered() {
    let rig = rig(512);
    std::thread::scope(|scope| {
        // like the committer, answers in groups and never on a worker's thread
        let held = rig.held.clone();
        let committer = std::thread::Builder::new().spawn_scoped(scope, move || {
            for _ in 0..200 * 5 {
                held.recv_timeout(PATIENCE).unwrap().send(Reply::text(
                    200,
                    "text/plain",
                    "done".into(),
                ));
            }
        });
        at_once(200, |n| {
            let mut conn = rig.connect();
            for _ in 0..5 {
                let got = if n % 2 == 0 {
                    conn.ask(&get("/held"))
                } else {
                    rig.ask(&get("/held"))
                };
                assert_eq!((got.status, got.body.as_str()), (200, "done"));
            }
        });
        committer.unwrap().join().unwrap();
    });
    let (open, most) = rig.server().shared.pool.size();
    assert!(
        open <= most && rig.counters().replaced.load(Relaxed) == 0,
        "{open} of {most}"
    );
}

#[test]
fn requests_that_kill_bare_tiny_http_are_harmless() {
    let rig = rig(512);
    rig.works();
    at_once(50, |n| {
        for round in 0..10 {
            let mut conn = rig.connect();
            match (n + round) % 4 {
                0 => conn.send(&put("/endless", 60_000_000_000)),
                1 => conn.send("GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
                2 => conn.send(&get("/big")),
                _ => assert_eq!(conn.ask(&get("/")).status, 200),
            }
            // a reset instead of a close
            rustix::net::sockopt::set_socket_linger(&conn.0, Some(Duration::ZERO)).unwrap();
        }
    });
    wait_for("nobody left", || rig.counters().open.load(Relaxed) == 0);
    assert_eq!(rig.counters().restarts.load(Relaxed), 0);
    at_once(100, |_| rig.works());
}
