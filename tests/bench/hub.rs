//! How fast the hub answers, beside bare tiny_http in the same run: `cargo test --release --test bench hub:: -- --ignored --nocapture`.
//!
//! Not a test of anything: it prints figures. Everything is in one process, built the same way, and measured in turns, so
//! that other work on the machine hits all alike.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::http::{Conn, PATIENCE, request};
use mesync::internals::config::Settings;
use mesync::internals::hub::http::{Caller, Job, Reply, Request};
use mesync::internals::hub::memory::Room;
use mesync::internals::hub::server::{Admission, Config, Gate, Head, Responder, Server, Wire};
use mesync::internals::hub::{self, Hub};

const CLIENTS: usize = 8;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(1500);
/// Of a long body.
const LONG: usize = 256 << 20;
/// Of one answer: the most that messages take.
const ANSWER: usize = 4 << 20;

fn on_thread<'a, T: Send + 'a>(
    scope: &'a std::thread::Scope<'a, '_>,
    run: impl FnOnce() -> T + Send + 'a,
) -> std::thread::ScopedJoinHandle<'a, T> {
    std::thread::Builder::new()
        .spawn_scoped(scope, run)
        .unwrap()
}

/// tiny_http as it is, on as many threads as the hub has workers, with what was said of TCP_NODELAY.
fn bare() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // accepted sockets inherit it
    rustix::net::sockopt::set_tcp_nodelay(&listener, true).unwrap();
    let server = Arc::new(tiny_http::Server::from_listener(listener, None).unwrap());
    for _ in 0..8 {
        let server = Arc::clone(&server);
        let answer = move || {
            while let Ok(mut request) = server.recv() {
                if request.url() == "/up" {
                    std::io::copy(request.as_reader(), &mut std::io::sink()).unwrap();
                }
                let body = if request.url() == "/down" {
                    vec![b'x'; ANSWER]
                } else {
                    HEALTH.as_bytes().to_vec()
                };
                let length = body.len();
                let response = tiny_http::Response::new(
                    200.into(),
                    Vec::new(),
                    std::io::Cursor::new(body),
                    Some(length),
                    None,
                );
                let _ = request.respond(response.with_chunked_threshold(usize::MAX));
            }
        };
        std::thread::Builder::new().spawn(answer).unwrap();
    }
    address
}

const HEALTH: &str = r#"{"status":"ok","version":"0.1.0","features":["messages"]}"#;

struct Open;

impl Gate for Open {
    fn admit(&self, _: &Head, _: IpAddr, _: Wire) -> Admission {
        Admission::Admit {
            caller: Caller::Admin,
            body_limit: u64::MAX,
            streamed: false,
        }
    }
}

/// The guard and its workers with nothing behind them: what the hub's routes would give for long bodies.
fn guard(dir: &std::path::Path) -> Server {
    let serve = |request: Request, responder: Responder| {
        let job = match request.path.as_str() {
            "/up" => Some(Job::Upload(Box::new(|body| {
                // as a route would: into a buffer, not into nowhere
                let mut buffer = vec![0; 256 << 10];
                while body.read(&mut buffer).is_ok_and(|n| n > 0) {}
                Reply::text(200, "application/json", HEALTH.into())
            }))),
            "/down" => Some(Job::Bytes(vec![b'x'; ANSWER])),
            _ => None,
        };
        responder.send(Reply {
            job,
            ..Reply::text(200, "application/json", HEALTH.into())
        });
    };
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        listen,
        socket_dir: dir.join("socket"),
        connections: 512,
        streams: 256,
        per_address: 64,
        workers: 8,
        room: Room::UNLIMITED,
        tls: None,
    };
    Server::start(config, Arc::new(Open), Arc::new(serve)).unwrap()
}

/// Answers in a round, a second.
fn rate(address: SocketAddr, text: &str) -> f64 {
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let answers: usize = std::thread::scope(|scope| {
        let client = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut conn, mut n) = (Conn::new(stream), 0);
            while !over.load(Relaxed) {
                assert_eq!(conn.ask(text, PATIENCE).unwrap().status, 200);
                n += 1;
            }
            n
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| on_thread(scope, client)).collect();
        let _ = crossbeam_channel::never::<()>().recv_timeout(ROUND);
        over.store(true, Relaxed);
        clients.into_iter().map(|c| c.join().unwrap()).sum()
    });
    answers as f64 / begun.elapsed().as_secs_f64()
}

fn upload(address: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(address).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let begun = Instant::now();
    write!(
        stream,
        "PUT /up HTTP/1.1\r\nHost: hub\r\nContent-Length: {LONG}\r\n\r\n"
    )
    .unwrap();
    (0..LONG >> 20).for_each(|_| stream.write_all(&piece).unwrap());
    assert_eq!(Conn::new(stream).answer(PATIENCE).unwrap().status, 200);
    LONG as f64 / begun.elapsed().as_secs_f64() / 1e9
}

/// Many answers over one connection: the first ones pay for the pages of memory that the others use again.
fn download(address: SocketAddr) -> f64 {
    let mut conn = TcpStream::connect(address).unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut once = || {
        conn.write_all(b"GET /down HTTP/1.1\r\nHost: hub\r\n\r\n")
            .unwrap();
        let mut got = 0;
        let head = loop {
            got += conn.read(&mut piece[got..]).unwrap();
            if let Some(end) = piece[..got].windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
        };
        while got < head + ANSWER {
            let n = conn.read(&mut piece).unwrap();
            assert!(n > 0);
            got += n;
        }
    };
    (0..4).for_each(|_| once());
    let begun = Instant::now();
    (0..LONG / ANSWER).for_each(|_| once());
    LONG as f64 / begun.elapsed().as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures all in turns and prints each with its relation to the first.
fn print(what: &str, rows: &[(&str, &dyn Fn() -> f64)]) {
    let mut measured: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        rows.iter()
            .zip(&mut measured)
            .for_each(|((_, measure), values)| values.push(measure()));
    }
    println!("{what}, median of {ROUNDS} rounds in turns:");
    for ((name, _), values) in rows.iter().zip(&measured) {
        let of_first = median(
            values
                .iter()
                .zip(&measured[0])
                .map(|(own, first)| own / first)
                .collect(),
        );
        println!(
            "  {name:<44} {:>10.2}   {of_first:.2} of the first",
            median(values.clone())
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn requests_and_bodies_beside_bare_tiny_http() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().as_os_str().to_owned();
    let mut settings =
        Settings::load(|name| (name == "MESYNC_BASE_DIR").then(|| base.clone())).unwrap();
    settings.hub.listen = "127.0.0.1:0".into();
    let hub = Hub::start(&settings, false).unwrap();
    let key = hub::add_key(&settings.hub.data_dir, "web-1").unwrap();
    let (bare, guard) = (bare(), guard(dir.path()));
    let health = request("GET", "/api/health", "", "");
    let pull = request(
        "GET",
        "/api/messages?host=web-1",
        &format!("X-API-Key: {key}\r\n"),
        "",
    );
    print(
        &format!("answers a second to {CLIENTS} clients that keep their connections"),
        &[
            ("bare tiny_http", &|| rate(bare, &health)),
            ("the guard alone", &|| rate(guard.address(), &health)),
            ("the hub, GET /api/health", &|| rate(hub.address(), &health)),
            ("the hub, GET /api/messages with a key", &|| {
                rate(hub.address(), &pull)
            }),
        ],
    );
    print(
        "GB/s of one body to the server",
        &[
            ("bare tiny_http", &|| upload(bare)),
            ("the guard, an upload job", &|| upload(guard.address())),
        ],
    );
    print(
        "GB/s of answers of 4 MiB from the server",
        &[
            ("bare tiny_http", &|| download(bare)),
            ("the guard, a long answer", &|| download(guard.address())),
        ],
    );
}
