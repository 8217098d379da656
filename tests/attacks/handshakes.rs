//! Attacks by TLS itself: handshakes that never end or mean nothing, and floods of requests to join, which only TLS carries.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::Attack;
use crate::siege::{Arena, Stage};
use crate::support::http::{Conn, PATIENCE, request};
use crate::support::space::Place;
use crate::support::tls::{client, encrypted};

#[rustfmt::skip]
pub const TABLE: &[(&str, Attack)] = &[
    ("1,000 handshakes with a byte a second",      slow_handshakes),
    ("24,000 hellos whose senders are gone",       hellos_and_resets),
    ("4,000 handshakes and nothing else",          idle_handshakes),
    ("what is not TLS after its first byte",       nonsense),
    ("records without content",                    barren_records),
    ("3,000 requests to join",                     joins),
];

/// The first record of a client.
fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    client().write_tls(&mut bytes).unwrap();
    bytes
}

fn slow_handshakes(_: &Arena, place: &Place, stage: &Stage) {
    let hello = hello();
    crate::trickle(
        place,
        stage,
        1000,
        &[&hello[..1], &hello[..6], &hello[..hello.len() - 90]],
    );
}

/// The most work for the hub and the least for its foe: the same hello each time, and no look at the answer. One in four is
/// reset, so that the hub may not even see the hello.
fn hellos_and_resets(_: &Arena, place: &Place, stage: &Stage) {
    let (hello, begun) = (hello(), Instant::now());
    for n in 0..24_000 {
        let mut conn = Conn::new(place.connect(n).unwrap());
        let _ = conn.send(&hello);
        if n % 4 == 0 {
            conn.reset();
        }
    }
    println!("    in {:?}", begun.elapsed());
    stage.hold();
}

fn idle_handshakes(_: &Arena, place: &Place, stage: &Stage) {
    let begun = Instant::now();
    let shake = |n: usize| {
        let mut stream = encrypted(place.connect(n).ok()?);
        let timeout = Some(Duration::from_secs(10));
        stream.sock.set_read_timeout(timeout).unwrap();
        stream.conn.complete_io(&mut stream.sock).ok()?;
        Some(stream)
    };
    let mut done = 0;
    let mut kept = Vec::new();
    for n in 0..4000 {
        if let Some(stream) = shake(n) {
            done += 1;
            // as many as one may have
            if n % 8 == 0 {
                kept.push(stream);
            }
        }
    }
    println!("    {done} of 4,000 in {:?}", begun.elapsed());
    assert!(done > 0);
    stage.hold();
}

fn is_ended(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn nonsense(_: &Arena, place: &Place, stage: &Stage) {
    let long = [vec![0x16, 3, 1, 0xff, 0xff], vec![1; 70_000]].concat();
    // fragments of one message that is as long as one can be
    let mut fragments = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    fragments.resize(5 + 0x4000, 0);
    let cases = [
        vec![0x16; 4096],
        long,
        fragments.repeat(20),
        [hello(), vec![0x17, 3, 3, 0, 1, 0]].concat(),
        [&hello()[..], b"GET / HTTP/1.1\r\n\r\n"].concat(),
        hello().repeat(50),
    ];
    for n in 0..40 {
        for (which, bytes) in cases.iter().enumerate() {
            let mut stream = place.connect(n).unwrap();
            // the hub may close before it has read all
            let _ = stream.write_all(bytes);
            assert!(is_ended(stream), "case {which}");
        }
    }
    stage.hold();
}

/// New keys again and again: each costs the hub a derivation, and carries nothing.
fn barren_records(_: &Arena, place: &Place, stage: &Stage) {
    for n in 0..40 {
        let mut stream = encrypted(place.connect(n).unwrap());
        stream.conn.complete_io(&mut stream.sock).unwrap();
        let mut sent = 0;
        while sent < 1_000_000 {
            stream.conn.refresh_traffic_keys().unwrap();
            match stream.conn.write_tls(&mut stream.sock) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        assert!(sent < 1_000_000, "the hub takes records without end");
    }
    stage.hold();
}

fn joins(arena: &Arena, place: &Place, stage: &Stage) {
    let place = place.clone().encrypted(true);
    let files = || std::fs::read_dir(arena.world.hub_dir()).unwrap().count();
    let (before, mut begun, mut refused) = (files(), 0, 0);
    for n in 0..3000 {
        let sum = format!("{n:0>64}");
        let invitation = match n % 3 {
            0 => format!(r#","invitation":"guess-{n}""#),
            _ => String::new(),
        };
        // names that are free, and one that has a key
        let name = if n % 3 == 1 {
            "friend".into()
        } else {
            format!("m{n}")
        };
        let body = format!(r#"{{"name":"{name}","key":"{sum}","commitment":"{sum}"{invitation}}}"#);
        let asked = place
            .conn(n)
            .ask(&request("POST", "/api/join", "", &body), PATIENCE);
        match asked.unwrap().status {
            200 => begun += 1,
            403 | 409 | 429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    println!("    {begun} begun, {refused} refused");
    assert!((1..=64).contains(&begun), "{begun}");
    assert_eq!(files(), before, "requests leave nothing on the disk");
    let logs = arena.world.logs();
    assert!(logs.contains("request to join refused"), "{logs}");
    stage.hold();
}
