//! Figures, by hand: `cargo test --release --lib bench -- --ignored --nocapture`.
//!
//! They depend on the disk of the scratch directory (TMPDIR), so its sync is printed beside them.

use std::time::{Duration, Instant};

use super::*;

fn timed<T>(what: impl FnOnce() -> T) -> (Duration, T) {
    let began: Instant = crate::clock::monotonic();
    let result = what();
    (began.elapsed(), result)
}

fn sync_p50(dir: &Path) -> Duration {
    let mut file = std::fs::File::create(dir.join("sync")).unwrap();
    let mut once = || {
        std::io::Write::write_all(&mut file, &[7; 4096]).unwrap();
        timed(|| file.sync_data().unwrap()).0
    };
    let mut times: Vec<Duration> = (0..101).map(|_| once()).collect();
    times.sort();
    times[50]
}

fn group(from: u64, requests: u64, each: u64, payload: &str) -> Group {
    let limits = Limits {
        space: 1 << 40,
        queue_messages: 1 << 40,
        queue_bytes: 1 << 40,
        hosts: 10_000,
        ttl: 7 * DAY,
        files: FILE_LIMITS,
    };
    let request = |r: u64| {
        Op::Post(
            (0..each)
                .map(|n| message(&format!("{} a *", from + r * each + n), payload))
                .collect(),
        )
    };
    Group {
        limits,
        ..at(from, (0..requests).map(request).collect())
    }
}

#[test]
#[ignore = "a bench"]
fn bench_groups() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 4_000_000, 0, EPOCH).unwrap();
    store
        .apply(&at(0, vec![Op::PutHost { host: "b".into() }]))
        .unwrap();
    println!("sync of 4 KiB: p50 {:?}", sync_p50(dir.path()));
    let (payload, mut next) = (format!("\"{}\"", "x".repeat(200)), 1);
    for requests in [1, 16, 256] {
        let groups: Vec<Group> = (0..300)
            .map(|i| group(next + i * requests, requests, 1, &payload))
            .collect();
        next += 300 * requests;
        let before = store.written();
        let mut times: Vec<Duration> = groups
            .iter()
            .map(|g| timed(|| store.apply(g).unwrap()).0)
            .collect();
        let after = store.written();
        let total: Duration = times.iter().sum();
        times.sort();
        println!(
            "groups of {requests}: {:.0} messages/s, p50 {:?}, p99 {:?}; a group: {:.1} syncs, {} KiB written",
            300.0 * requests as f64 / total.as_secs_f64(),
            times[150],
            times[297],
            (after[0] - before[0]) as f64 / 300.0,
            (after[2] - before[2]) / 300 / 1024
        );
    }
}

#[test]
#[ignore = "a bench"]
fn bench_a_million() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 4_000_000, 0, EPOCH).unwrap();
    store
        .apply(&at(0, vec![Op::PutHost { host: "b".into() }]))
        .unwrap();
    let payload = format!("\"{}\"", "x".repeat(200));
    let groups = (0..200).map(|i| group(1 + i * 5000, 5, 1000, &payload));
    let fill: Duration = groups.map(|g| timed(|| store.apply(&g).unwrap()).0).sum();
    let file = dir.path().join("hub.redb");
    println!(
        "1M messages in {fill:?}, file {} MB",
        std::fs::metadata(&file).unwrap().len() / 1_000_000
    );
    let hub = TestStore {
        store,
        dir,
        now: 10_000_000,
    };
    let (first, _) = timed(|| hub.pull_as("b", instance(1), None, 1000));
    let (page, text) = timed(|| hub.pull_as("b", instance(1), None, 1000));
    println!(
        "a page of {} of them: {page:?}, the first {first:?}",
        text.split(' ').count()
    );
    println!(
        "all hosts counted: {:?}",
        timed(|| hub.store.hosts(None, hub.now).unwrap()).0
    );
    // copied while open, as a kill would leave it
    let killed = TempDir::new().unwrap();
    std::fs::copy(&file, killed.path().join("hub.redb")).unwrap();
    println!(
        "open after a kill: {:?}",
        timed(|| Store::open(killed.path(), 4_000_000, 0, EPOCH).unwrap()).0
    );
    let TestStore { store, dir, .. } = hub;
    println!("close: {:?}", timed(|| drop(store)).0);
    let (open, store) = timed(|| Store::open(dir.path(), 4_000_000, 0, EPOCH).unwrap());
    println!("open after a close: {open:?}");
    let hub = TestStore {
        store,
        dir,
        now: 10_000_000,
    };
    hub.pull_as("b", instance(1), None, 1000);
    hub.pull_as("b", instance(1), Some(1_000_000), 1000);
    println!("all swept: {:?}", timed(|| hub.sweep()).0);
}
