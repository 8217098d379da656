//! Connections that end early, are evicted, or are ended by a stop of the server.

use super::*;

#[test]
fn a_client_that_leaves_early_leaves_nothing_behind() {
    let rig = rig(64);
    let mut half_body = rig.connect();
    half_body.send(&(put("/echo", 100) + "half"));
    let mut upload = rig.connect();
    upload.send(&(put("/upload", 1 << 20) + &"u".repeat(1 << 18)));
    let mut stream = rig.connect();
    stream.send(&get("/stream"));
    assert_eq!(stream.head().status, 200);
    wait_for("three connections", || {
        rig.counters().open.load(Relaxed) == 3
    });
    drop((half_body, upload, stream));
    let mut ends = [
        rig.seen.recv_timeout(PATIENCE).unwrap(),
        rig.seen.recv_timeout(PATIENCE).unwrap(),
    ];
    ends.sort();
    assert_eq!(ends, ["Err(UnexpectedEof)", "stream ended "]);
    wait_for("no connection", || rig.counters().open.load(Relaxed) == 0);
    rig.works();
}

#[test]
fn a_stop_lets_requests_finish_and_ends_the_rest() {
    let mut rig = rig(64);
    let (mut idle, mut held, mut stream) = (rig.connect(), rig.connect(), rig.connect());
    assert_eq!(idle.ask(&get("/")).status, 200);
    held.send(&get("/held"));
    let responder = rig.held.recv_timeout(PATIENCE).unwrap();
    stream.send(&get("/stream"));
    let head = stream.head().head;
    assert!(
        head.contains("Cache-Control: no-store\r\n")
            && head.contains("Connection: close\r\n")
            && !head.contains("Content-Length")
    );
    // a stream that has not begun yet ends without an event
    while stream.1.is_empty() {
        assert!(stream.more());
    }
    let server = rig.server.take().unwrap();
    std::thread::scope(|scope| {
        let stopping = std::thread::Builder::new()
            .spawn_scoped(scope, move || server.stop(PATIENCE))
            .unwrap();
        assert!(idle.closed());
        while stream.more() {}
        assert_eq!(stream.1, b"data: 1\n\n");
        assert!(!stopping.is_finished());
        responder.send(Reply::text(200, "text/plain", "late".into()));
        let got = held.answer();
        assert!(
            got.body == "late" && got.head.contains("Connection: close"),
            "{got:?}"
        );
        stopping.join().unwrap();
    });
    assert!(TcpStream::connect(rig.address).is_err());
}

#[test]
fn a_stop_without_grace_cuts_off_open_connections() {
    let mut rig = rig(64);
    let mut upload = rig.connect();
    upload.send(&(put("/upload", 1 << 20) + "u"));
    wait_for("the upload", || rig.counters().open.load(Relaxed) == 1);
    rig.server.take().unwrap().stop(Duration::ZERO);
    let mut rest = Vec::new();
    let _ = upload.0.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 201 Created\r\nContent-Length: 11"));
}

#[test]
fn idle_connections_are_evicted_and_active_ones_are_not() {
    let rig = rig(64);
    let mut kept = rig.connect();
    assert_eq!(kept.ask(&get("/")).status, 200);
    let mut idle: Vec<Conn> = Vec::new();
    for n in 0..300 {
        let mut conn = rig.connect();
        if n % 2 == 0 {
            conn.send("GET / HTTP/1.1\r\nHost:");
        }
        idle.push(conn);
        rig.works();
    }
    assert!(
        rig.counters().open.load(Relaxed) <= 64 && rig.counters().refused(Reason::Connections) == 0
    );
    assert!(idle[0].closed() && rig.counters().refused(Reason::GaveWay) >= 200);
    assert_eq!(kept.ask(&get("/")).body, "hello");
    idle.clear();

    let mut held = vec![kept];
    let mut responders = Vec::new();
    for n in 0..64 {
        held[n].send(&get("/held"));
        responders.push(rig.held.recv_timeout(PATIENCE).unwrap());
        held.push(rig.connect());
    }
    let mut late = held.pop().unwrap();
    let got = late.answer();
    assert!(
        got.status == 503 && got.head.contains("Retry-After"),
        "{got:?}"
    );
    assert_eq!(rig.counters().refused(Reason::Connections), 1);
    responders
        .into_iter()
        .for_each(|r| r.send(Reply::text(200, "text/plain", "done".into())));
    assert!(held.iter_mut().all(|conn| conn.answer().body == "done"));
    held.clear();
    wait_for("room again", || rig.counters().open.load(Relaxed) == 0);
    rig.works();
}

#[test]
fn broken_connections_and_a_dead_server_are_replaced() {
    let rig = rig(64);
    rig.works();
    let pool = rig.server().shared.pool.clone();
    let broken = pool.break_idle();
    for _ in 0..broken {
        rig.works();
    }
    wait_for("replacements", || pool.size().0 >= 4);
    // a replacement may be used before the other broken connections are found
    assert!((1..=broken as u64).contains(&rig.counters().replaced.load(Relaxed)));

    // end tiny_http's accept loop as EMFILE would
    let listener = pool.backend().listener.lock().unwrap().take().unwrap();
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    drop(listener);
    pool.break_idle();
    at_once(8, |_| rig.works());
    wait_for("replacements", || pool.size().0 >= 4);
    assert_eq!(rig.counters().restarts.load(Relaxed), 1);
}

#[test]
fn a_long_answer_arrives_whole_and_may_be_left_unread() {
    let rig = rig(64);
    let mut conn = rig.connect();
    assert_eq!(conn.ask(&get("/big")).body.len(), 3 << 20);
    conn.send(&get("/big").replace("GET", "HEAD"));
    assert!(conn.head().head.contains("Content-Length: 3145728\r\n"));
    let mut unread = rig.connect();
    unread.send(&get("/big").repeat(10));
    wait_for("the unread answer", || {
        rig.counters().open.load(Relaxed) == 2
    });
    assert_eq!(conn.ask(&get("/")).body, "hello");
}
