//! Many clients at once, and listeners that come and go: no change is lost, and none is made twice.
//!
//! Short with the build of the tests; with MESYNC_TEST_BINARY, a release, as long as promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::support::files::{Hub, Listener};
use crate::support::world::Random;
use mesync::internals::wire::files::Hash;
use serde_json::{Value, json};

fn is_thorough() -> bool {
    std::env::var_os("MESYNC_TEST_BINARY").is_some()
}

/// A change that was made: its path, the revision that it depended on (0: none), its own, and what was written.
type Win = (String, u64, u64, String);

/// Writes to random paths, each time on condition that the version it knows is current.
fn compete(hub: &Hub, paths: u64, writes: usize, client: usize, mut random: Random) -> Vec<Win> {
    let (mut known, mut wins, mut line) =
        (BTreeMap::<String, u64>::new(), Vec::new(), hub.connect());
    for n in 0..writes {
        let (path, text) = (format!("f{}", random.below(paths)), format!("{client} {n}"));
        let base = known.get(&path).copied().unwrap_or(0);
        let condition = if base == 0 {
            "If-None-Match: *\r\n".to_string()
        } else {
            format!("If-Match: \"{base}\"\r\n")
        };
        let got = line.upload("", &path, text.as_bytes(), &condition).unwrap();
        assert!(matches!(got.status, 200 | 201 | 412), "{got}");
        assert_eq!(got.status == 201, got.status != 412 && base == 0);
        if got.status != 412 {
            wins.push((path.clone(), base, got.rev(), text));
        }
        known.insert(path, got.rev());
    }
    wins
}

#[test]
fn of_many_writers_of_one_revision_one_wins() {
    let (hub, mut random) = (Hub::start(), Random::seeded("of_many_who_know"));
    let (clients, paths, writes) = if is_thorough() {
        (20, 100, 500)
    } else {
        (20, 20, 60)
    };
    let wins: Vec<Win> = std::thread::scope(|scope| {
        let hub = &hub;
        let seeds: Vec<u64> = (0..clients).map(|_| random.below(u64::MAX)).collect();
        let spawn = |(n, seed): (usize, &u64)| {
            let random = Random(*seed);
            scope.spawn(move || compete(hub, paths, writes, n, random))
        };
        let threads: Vec<_> = seeds.iter().enumerate().map(spawn).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    let revs: BTreeSet<u64> = wins.iter().map(|w| w.2).collect();
    assert!(
        revs.len() == wins.len() && revs.iter().copied().eq(1..=wins.len() as u64),
        "{} revisions for {} wins",
        revs.len(),
        wins.len()
    );
    // each revision was replaced by at most one other, and each chain leads to the current version
    let mut next: BTreeMap<(String, u64), (u64, String)> = BTreeMap::new();
    for (path, base, rev, text) in wins.iter().cloned() {
        assert!(rev > base);
        if let Some(other) = next.insert((path.clone(), base), (rev, text)) {
            panic!("two won over {base} of {path}: {rev} and {}", other.0);
        }
    }
    let rows = hub.changes(7);
    let mut followed = 0;
    for row in &rows {
        let (path, mut at, mut text) =
            (row["name"].as_str().unwrap().to_string(), 0, String::new());
        while let Some((rev, wrote)) = next.get(&(path.clone(), at)) {
            (at, text, followed) = (*rev, wrote.clone(), followed + 1);
        }
        assert_eq!(
            (row["rev"].as_u64().unwrap(), &row["checksum_sha256"]),
            (at, &json!(Hash::of(text.as_bytes()).to_string())),
            "{path}"
        );
    }
    assert_eq!(followed, wins.len(), "revisions that lead nowhere");
    assert_eq!(
        rows.len(),
        wins.iter().map(|w| &w.0).collect::<BTreeSet<_>>().len()
    );
    let mut listener = Listener::open(&hub, "?after=0", "").unwrap();
    for rev in 1..=wins.len() as u64 {
        assert_eq!(listener.event().unwrap().0, Some(rev));
    }
}

/// Changes `files` files by batches of 50, over and over.
fn write(hub: &Hub, writer: usize, batches: usize, written: &Mutex<u64>) {
    let mut line = hub.connect();
    for n in 0..batches {
        let mut body = Vec::new();
        for file in 0..50 {
            let text = format!("{writer} {n} {file}");
            let head = json!({"name": format!("{writer}-{file}"), "size": text.len(), "checksum_sha256": Hash::of(text.as_bytes()).to_string()});
            body.extend_from_slice(format!("{head}\n{text}").as_bytes());
        }
        let got = line
            .ask("POST", "/api/files/batch", "", &body)
            .unwrap()
            .is(200, "")
            .json();
        assert!(
            got["results"]
                .as_array()
                .unwrap()
                .iter()
                .all(|r| matches!(r["status"].as_u64(), Some(200 | 201)))
        );
        *written.lock().unwrap() += 50;
    }
}

/// Listens until event `last`, and hangs up so often on the way.
fn hear(hub: &Hub, last: u64, mut hang_ups: u64, mut random: Random) {
    let (mut at, mut names) = (0, BTreeMap::<String, Value>::new());
    let every = last / (hang_ups + 1);
    while at < last {
        let mut listener = match at {
            0 => Listener::open(hub, "?after=0", "").unwrap(),
            _ => Listener::open(hub, "", &format!("Last-Event-ID: {at}\r\n")).unwrap(),
        };
        let until = if hang_ups == 0 {
            last
        } else {
            (at + 1 + random.below(2 * every)).min(last)
        };
        hang_ups = hang_ups.saturating_sub(1);
        while at < until {
            let (id, event) = listener.event().unwrap();
            assert_eq!(id, Some(at + 1), "an event is missing, or comes twice");
            at += 1;
            assert_eq!(event["payload"]["rev"], at);
            names.insert(
                event["payload"]["name"].as_str().unwrap().to_string(),
                event["payload"].clone(),
            );
        }
    }
    // a client that has received all events knows all files
    let rows: BTreeMap<String, Value> = hub
        .changes(1000)
        .into_iter()
        .map(|r| (r["name"].as_str().unwrap().to_string(), r))
        .collect();
    assert!(names == rows);
}

#[test]
fn a_client_that_reconnects_misses_nothing() {
    let (hub, mut random) = (Hub::start(), Random::seeded("who_hangs_up"));
    let (batches, hang_ups) = if is_thorough() { (100, 100) } else { (10, 20) };
    let (writers, written) = (4, Mutex::new(0));
    let last = (writers * batches * 50) as u64;
    std::thread::scope(|scope| {
        for n in 0..writers {
            let (hub, written) = (&hub, &written);
            scope.spawn(move || write(hub, n, batches, written));
        }
        for _ in 0..3 {
            let (hub, random) = (&hub, Random(random.below(u64::MAX)));
            scope.spawn(move || hear(hub, last, hang_ups, random));
        }
    });
    assert_eq!(written.into_inner().unwrap(), last);
}
