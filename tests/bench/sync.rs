//! How fast directories are kept in sync: `cargo test --release --test bench sync:: -- --ignored --nocapture`.
//!
//! Not a test: it prints figures. Durable operations wait for the disk, so each is printed beside
//! the cost of a sync there.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::files::{Hub, noise};
use crate::support::tree::{Synced, settled};

const CHANGES: usize = 30;
const SMALL: usize = 5000;
const RENAMED: usize = 1000;
/// Longer than a debounce: the next change counts as isolated.
const PAUSE: Duration = Duration::from_millis(300);

fn pause(time: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(time);
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

/// What a small write with a sync costs.
fn sync_cost(dir: &Path) -> Duration {
    let mut file = std::fs::File::create(dir.join("synced")).unwrap();
    let once = |_| {
        let began = Instant::now();
        file.write_all(&[b'x'; 4096])
            .and_then(|()| file.sync_all())
            .unwrap();
        began.elapsed()
    };
    median((0..100).map(once).collect())
}

fn took(mut is_true: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_true() {
        assert!(began.elapsed() < Duration::from_secs(600), "it never comes");
        pause(Duration::from_micros(500));
    }
    began.elapsed()
}

/// Prints one figure. `n`: how many of it there were.
fn print(hub: &Hub, what: &str, took: Duration, n: usize) {
    let (each, sync) = (took / n as u32, sync_cost(hub.world.dir.path()));
    println!("  {what:<52} {took:>10.2?}  {each:>10.2?} each   a sync: {sync:.2?}");
}

#[test]
#[ignore = "prints figures"]
fn changes_and_whole_directories() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    println!("hub and both machines on one disk:");
    for n in 0..SMALL {
        alpha.put(
            format!("d{:02}/f{n:04}", n % 50),
            noise(n as u64, 200 + n % 2000),
        );
    }
    let pass = |s: &Synced| {
        let began = Instant::now();
        s.pass();
        began.elapsed()
    };
    print(
        &hub,
        "first pass, 5,000 small files, up",
        pass(&alpha),
        SMALL,
    );
    print(
        &hub,
        "first pass, 5,000 small files, down",
        pass(&beta),
        SMALL,
    );
    print(
        &hub,
        "a pass with nothing to do, 5,000 files",
        pass(&alpha),
        SMALL,
    );

    for n in 0..RENAMED {
        alpha.put(format!("before/f{n:04}"), format!("{n}"));
    }
    alpha.start();
    beta.start();
    settled(&hub.world, &[&alpha, &beta]);
    let isolated = |n: usize| {
        pause(PAUSE);
        let text = format!("change {n}");
        alpha.put("isolated", &text);
        took(|| beta.text("isolated") == text)
    };
    print(
        &hub,
        "a change by itself, to the other directory (median)",
        median((0..CHANGES).map(isolated).collect()),
        1,
    );
    settled(&hub.world, &[&alpha, &beta]);
    pause(PAUSE);
    alpha.rename("before", "after");
    let names =
        |dir: &str| std::fs::read_dir(beta.at(dir)).map_or(0, |entries| entries.flatten().count());
    print(
        &hub,
        "rename of a directory with 1,000 files",
        took(|| !beta.has("before") && names("after") == RENAMED),
        RENAMED,
    );
    settled(&hub.world, &[&alpha, &beta]);
}
