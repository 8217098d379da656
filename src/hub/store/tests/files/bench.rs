//! Figures, by hand: `cargo test --release --lib files::bench -- --ignored --nocapture`.
//!
//! They depend on the disk of the scratch directory (TMPDIR).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::*;

fn timed<T>(what: impl FnOnce() -> T) -> (std::time::Duration, T) {
    let began: Instant = crate::clock::monotonic();
    let result = what();
    (began.elapsed(), result)
}

/// Resident memory of this process in KiB: the current and the highest.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or("?")
            .trim()
            .to_string()
    };
    format!("{} now, {} at most", line("VmRSS:"), line("VmHWM:"))
}

#[test]
#[ignore = "a bench"]
fn bench_a_hundred_thousand_files() {
    let dir = TempDir::new().unwrap();
    let hub = TestStore {
        store: Store::open(dir.path(), 4_000_000, 0, EPOCH).unwrap(),
        dir,
        now: 1000,
    };
    let template = put(&hub, "x", b"", 1);
    let file = |n: u64| {
        let bytes = format!("content {n}").into_bytes();
        let chunk = Chunk {
            sha256: Hash::of(&bytes),
            size: bytes.len() as u64,
        };
        let full = format!("dir{}/sub{}/file-{n}.txt", n % 50, n % 7);
        let chunks = vec![(chunk, Bytes::Inline(bytes))];
        Put {
            name: name(&full),
            fresh: id_of(&full),
            size: chunk.size,
            sha256: chunk.sha256,
            chunks,
            ..template.clone()
        }
    };
    let groups = (0..100u64).map(|g| {
        at(
            1000 + g,
            vec![Op::File(FileOp::put((g * 1000..(g + 1) * 1000).map(file)))],
        )
    });
    let groups: Vec<Group> = groups.collect();
    println!("memory before: {}", memory());
    let (fill, ()) = timed(|| {
        groups
            .into_iter()
            .for_each(|g| drop(hub.store.apply(&g).unwrap()))
    });
    let size = std::fs::metadata(hub.dir.path().join("hub.redb"))
        .unwrap()
        .len();
    println!(
        "100,000 files of 14 bytes in {fill:?}, tables {} MB",
        size / 1_000_000
    );
    println!("memory after: {}", memory());
    for (path, search, offset, limit) in [
        ("", "", 0, 1000),
        ("", "", 50_000, 1000),
        ("", "", 99_000, 1000),
        ("", "", 99_000, 50),
        ("dir7/", "", 0, 1000),
        ("dir4", "", 20_000, 1000),
        ("", "99", 3000, 1000),
        ("dir7/", "99", 0, 50),
    ] {
        let listing = Listing {
            path: path.into(),
            search: search.into(),
            offset,
            limit,
            ..Listing::default()
        };
        let mut times: Vec<_> = (0..5)
            .map(|_| timed(|| hub.store.list(&listing).unwrap()))
            .collect();
        times.sort_by_key(|(took, _)| *took);
        let (took, (page, total)) = &times[2];
        let (first, best) = (times[4].0, times[0].0);
        println!(
            "list {path:?} {search:?} offset {offset} limit {limit}: {took:?} ({best:?} to {first:?}), {} of {total}",
            page.len()
        );
    }
    for after in [0, 50_000, 99_000] {
        let (took, page) = timed(|| {
            hub.store
                .changes(after, 0.into(), None, 1000, (&|_| true, usize::MAX))
                .unwrap()
                .page()
                .unwrap()
        });
        println!(
            "changes after {after}: {took:?}, {} rows",
            page.changes.len()
        );
    }
    let cpu = |what: &dyn Fn()| {
        let spent = || {
            std::fs::read_to_string("/proc/thread-self/schedstat")
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let before = spent();
        what();
        (spent() - before) / 1000
    };
    let search = Listing {
        search: "99".into(),
        limit: 1000,
        ..Listing::default()
    };
    println!(
        "a search through all names takes {} us of a processor",
        cpu(&|| drop(hub.store.list(&search).unwrap()))
    );
    println!(
        "events after 99,000: {:?}",
        timed(|| hub.store.events_after(99_000, 1000).unwrap()).0
    );
    println!(
        "history, the last 1000: {:?}",
        timed(|| hub.store.history(0, None, 99_000, 1000).unwrap()).0
    );
    let one: Vec<_> = (0..200)
        .map(|n| timed(|| hub.put_bytes(&format!("one/{n}"), b"1", n)).0)
        .collect();
    println!(
        "one upload of one byte: {:?} on average",
        one.iter().sum::<std::time::Duration>() / 200
    );
    let target = TempDir::new_in(hub.dir.path().parent().unwrap()).unwrap();
    println!(
        "backup: {:?}",
        timed(|| hub.store.backup(&target.path().join("b")).unwrap()).0
    );
    println!("memory at the end: {}", memory());
    let TestStore { store, dir, .. } = hub;
    drop(store);
    println!(
        "check: {:?}",
        timed(|| crate::hub::store::check::check(dir.path(), 4_000_000)
            .unwrap()
            .damage
            .len())
    );
}

/// Bytes that this process has sent to the disk.
fn bytes_written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.unwrap().parse().unwrap()
}

/// Bytes written for 5,000 files of 4 KiB, which arrive in groups of this many.
#[test]
#[ignore = "a bench"]
fn bench_bytes_written_for_short_files() {
    for (files_a_group, ids_cluster, keys_cluster) in [
        (16, false, false),
        (64, false, false),
        (64, true, false),
        (64, true, true),
        (256, false, false),
        (256, true, true),
    ] {
        let dir = TempDir::new().unwrap();
        let hub = TestStore {
            store: Store::open(dir.path(), 4_000_000, 0, EPOCH).unwrap(),
            dir,
            now: 1000,
        };
        let template = put(&hub, "x", b"", 1);
        let file = |n: u64| {
            let bytes = noise(n, 4096);
            let chunk = Chunk {
                sha256: Hash::of(&bytes),
                size: bytes.len() as u64,
            };
            let full = format!("dir/file-{n}.txt");
            let id = |cluster, salt: u128| {
                let random = id_of(&full).as_u128() ^ salt;
                let sorted = u128::from(n) << 80 | random & 0xffff_ffff;
                Uuid::from_u128(if cluster { sorted } else { random })
            };
            Put {
                name: name(&full),
                fresh: id(ids_cluster, 0),
                size: chunk.size,
                sha256: chunk.sha256,
                chunks: vec![(chunk, Bytes::Inline(bytes))],
                author: by("a", Some(id(keys_cluster, 1 << 90).as_u128())),
                ..template.clone()
            }
        };
        let before = [bytes_written(), hub.store.happened.bytes.load(Relaxed)];
        let mut at_time = 1000;
        for group in (0..5000u64).collect::<Vec<_>>().chunks(files_a_group) {
            at_time += 1;
            let op = Op::File(FileOp::put(group.iter().map(|n| file(*n))));
            hub.store.apply(&at(at_time, vec![op])).unwrap();
        }
        let after = [bytes_written(), hub.store.happened.bytes.load(Relaxed)];
        let size = std::fs::metadata(hub.dir.path().join("hub.redb"))
            .unwrap()
            .len();
        println!(
            "groups of {files_a_group}, ids cluster {ids_cluster}, keys {keys_cluster}: {:.1} MB to the disk, {:.1} MB written, tables {:.1} MB",
            (after[0] - before[0]) as f64 / 1e6,
            (after[1] - before[1]) as f64 / 1e6,
            size as f64 / 1e6
        );
    }
}

#[test]
#[ignore = "a bench"]
fn bench_long_bodies() {
    let hub = TestStore::new();
    let piece = noise(1, 1 << 20);
    println!("memory before: {}", memory());
    let (took, body) = timed(|| {
        let mut intake = hub.store.intake().unwrap();
        for n in 0..1024u64 {
            let mut piece = piece.clone();
            piece[..8].copy_from_slice(&n.to_le_bytes());
            piece.chunks(65_536).for_each(|p| intake.write(p).unwrap());
        }
        intake.finish().unwrap()
    });
    println!(
        "1 GiB taken in, synced: {took:?}, {} chunks",
        body.content.chunks.len()
    );
    println!("memory: {}", memory());
    let chunks = body.content.chunks.into_iter().zip(body.bytes).collect();
    let put = Put {
        size: body.content.size,
        sha256: body.content.sha256,
        chunks,
        ..put(&hub, "f", b"", 1)
    };
    let (took, record) = timed(|| made(hub.put(put)));
    println!("committed in {took:?}");
    let (took, n) = timed(|| {
        std::io::copy(
            &mut hub.store.open_file(record.id, None).unwrap().unwrap().1,
            &mut std::io::sink(),
        )
        .unwrap()
    });
    println!("{n} bytes read in {took:?}");
    println!("memory at the end: {}", memory());
}
