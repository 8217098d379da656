//! The store's file half, case by case; `model` drives it through random histories, `room` fills disks.

use std::io::Read;

use super::*;
use crate::hub::store::files::ops::{Asked, Author, Bytes, Changed, Condition, FileOp, Put};
use crate::hub::store::files::{Intake, Listing};
use crate::wire::files::{Chunk, Event, Extra, From, Hash, Kind as What, Name, Record};

/// Bytes that look random and are the same everywhere.
fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    out.truncate(length);
    out
}

fn name(full: &str) -> Name {
    Name::parse(full).unwrap()
}

/// The n-th second of a day, as an mtime.
fn mtime(n: u64) -> Option<String> {
    Some(format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60))
}

fn feed(mut intake: Intake, bytes: &[u8]) -> crate::hub::store::files::Body {
    bytes.chunks(50_000).for_each(|piece| intake.write(piece).unwrap());
    intake.finish().unwrap()
}

/// An unconditional upload by host `a`.
fn put(hub: &Hub, full: &str, bytes: &[u8], at: u64) -> Put {
    let body = feed(hub.store.intake().unwrap(), bytes);
    Put {
        name: name(full),
        kind: What::File,
        size: body.content.size,
        sha256: body.content.sha256,
        chunks: body.content.chunks.into_iter().zip(body.bytes).collect(),
        mode: Some(0o100644),
        mtime: mtime(at),
        content_type: None,
        extra: Extra::default(),
        condition: Condition::None,
        from: None,
        author: by("a", None),
        fresh: Uuid::new_v5(full),
    }
}

trait Named {
    fn new_v5(full: &str) -> Uuid;
}

impl Named for Uuid {
    /// An id that follows from the name.
    fn new_v5(full: &str) -> Uuid {
        Uuid::from_slice(&Hash::of(full.as_bytes()).0[..16]).unwrap()
    }
}

fn by(host: &str, key: Option<u128>) -> Author {
    Author { host: host.into(), key: key.map(Uuid::from_u128) }
}

impl Hub {
    fn file_op(&self, op: FileOp) -> Vec<Changed> {
        match self.apply(Op::File(op)) {
            Outcome::Changed(changed) => changed,
            other => panic!("{other:?}"),
        }
    }

    fn put(&self, put: Put) -> Changed {
        self.file_op(FileOp::Put(vec![put])).remove(0)
    }

    fn put_bytes(&self, full: &str, bytes: &[u8], at: u64) -> Record {
        made(self.put(put(self, full, bytes, at)))
    }

    fn delete(&self, id: Uuid, condition: Condition) -> Changed {
        self.file_op(FileOp::Delete { id, condition, author: by("a", None) }).remove(0)
    }

    fn restore(&self, id: Uuid, rev: Option<u64>) -> Changed {
        self.file_op(FileOp::Restore { id, rev, condition: Condition::None, author: by("b", None) }).remove(0)
    }

    fn read_file(&self, id: Uuid, rev: Option<u64>) -> Option<Vec<u8>> {
        let (record, mut reader) = self.store.open_file(id, rev).unwrap()?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!((record.size, reader.size()), (bytes.len() as u64, bytes.len() as u64));
        Some(bytes)
    }

    fn names(&self, path: &str, search: &str, offset: usize, limit: usize) -> (Vec<String>, u64) {
        let listing = Listing { path: path.into(), search: search.into(), offset, limit, all_kinds: false };
        let (records, total) = self.store.list(&listing).unwrap();
        (records.iter().map(Record::full_name).collect(), total)
    }

    /// Sweeps until nothing is left to sweep.
    fn sweep_files(&self) {
        while self.apply(Op::File(FileOp::Sweep)) == (Outcome::Swept { more: true }) {}
        assert!(!self.store.wants_sweep(self.now, false, FILE_LIMITS).unwrap());
    }

    /// Files under `chunks/` and in the staging directory.
    fn on_disk(&self) -> (usize, usize) {
        fn count(dir: &Path) -> usize {
            let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
            entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        (count(&self.dir.path().join("chunks")), count(&self.dir.path().join("staging")))
    }

    fn reopen(self) -> Hub {
        let Hub { store, dir, now } = self;
        drop(store);
        Hub { store: Store::open(dir.path(), 1 << 20, now, EPOCH).unwrap(), dir, now }
    }
}

/// The record that a change has made.
fn made(changed: Changed) -> Record {
    match changed {
        Changed::Created { record, .. } | Changed::Updated { record, .. } | Changed::Deleted(record) => *record,
        other => panic!("{other:?}"),
    }
}

/// One word for what became of it, with the revision that stands.
fn word(changed: &Changed) -> String {
    match changed {
        Changed::Created { record, .. } => format!("created {}", record.rev),
        Changed::Updated { record, .. } => format!("updated {}", record.rev),
        Changed::Unchanged(record) => format!("unchanged {}", record.rev),
        Changed::Deleted(record) => format!("deleted {}", record.rev),
        Changed::Precondition(record) => format!("precondition {}", record.as_ref().map_or(0, |r| r.rev)),
        Changed::Missing(hashes) => format!("missing {}", hashes.len()),
        other => format!("{other:?}"),
    }
}

#[test]
fn bodies_of_all_sizes_come_back_as_they_went() {
    let hub = Hub::new();
    for (i, size) in [0, 1, 16_384, 16_385, 65_536, 300_000, 8 << 20, (8 << 20) + 1, 11 << 20].into_iter().enumerate() {
        let bytes = noise(i as u64, size);
        let record = hub.put_bytes(&format!("d/f{i}"), &bytes, 1);
        assert_eq!((record.rev, record.size, record.checksum_sha256), (i as u64 + 1, size as u64, Some(Hash::of(&bytes))));
        assert!(hub.read_file(record.id, None).unwrap() == bytes, "{size}");
        let (_, chunks) = hub.store.chunks_of(record.id, Some(record.rev)).unwrap().unwrap();
        let mut splitter = crate::chunking::Splitter::default();
        splitter.feed(&bytes);
        assert_eq!(chunks, splitter.finish().chunks, "{size}");
        if let Some((_, mut reader)) = hub.store.open_file(record.id, None).unwrap().filter(|_| size > 100) {
            reader.seek(size as u64 - 50);
            let mut end = Vec::new();
            reader.read_to_end(&mut end).unwrap();
            assert!(end == bytes[size - 50..]);
        }
        for chunk in chunks {
            let mut one = Vec::new();
            hub.store.chunk(chunk.sha256).unwrap().unwrap().read_to_end(&mut one).unwrap();
            assert!(Hash::of(&one) == chunk.sha256);
        }
    }
    assert_eq!(hub.on_disk().1, 0, "nothing is left in the staging directory");
    let counts = hub.store.file_counts().unwrap();
    assert_eq!((counts.files, counts.rev, counts.versions), (9, 9, 0));
    let hub = hub.reopen();
    assert_eq!(hub.read_file(Uuid::new_v5("d/f5"), None).unwrap().len(), 300_000);
}
