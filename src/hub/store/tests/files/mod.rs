//! Files in the store, case by case; `model` runs random histories, `room` fills disks.

mod backup;
mod bench;
mod damage;
mod durability;
mod listings;
mod model;
mod packs;
mod room;
mod sweeps;

use std::io::Read;

use super::*;
use crate::chunking::tests::noise;
use crate::hub::store::files::{Intake, Listing};
use crate::hub::store::ops::files::{Author, Bytes, Changed, FileChange, FileOp, KeyLookup, Put};
use crate::wire::files::{Chunk, EntryKind, ExtraMetadata, FileEvent, Hash, Name, OldName, Record};
use crate::wire::revision::Condition;

fn name(full: &str) -> Name {
    Name::parse(full).unwrap()
}

/// The n-th second of a day, as an mtime.
fn mtime(n: u64) -> Option<String> {
    Some(format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60))
}

fn feed(mut intake: Intake, bytes: &[u8]) -> crate::hub::store::files::ReceivedBody {
    bytes
        .chunks(50_000)
        .for_each(|piece| intake.write(piece).unwrap());
    intake.finish().unwrap()
}

/// An unconditional upload by host `a`.
fn put(hub: &TestStore, full: &str, bytes: &[u8], at: u64) -> Put {
    let body = feed(hub.store.intake().unwrap(), bytes);
    Put {
        name: name(full),
        kind: EntryKind::File,
        size: body.content.size,
        sha256: body.content.sha256,
        chunks: body.content.chunks.into_iter().zip(body.bytes).collect(),
        mode: Some(0o100644),
        mtime: mtime(at),
        content_type: None,
        extra: ExtraMetadata::default(),
        condition: Condition::None,
        from: None,
        author: by("a", None),
        fresh: id_of(full),
    }
}

/// An id derived from the name.
fn id_of(full: &str) -> Uuid {
    Uuid::from_slice(&Hash::of(full.as_bytes()).0[..16]).unwrap()
}

fn by(host: &str, key: Option<u128>) -> Author {
    Author {
        host: host.into(),
        key: key.map(Uuid::from_u128),
        knows: 0.into(),
    }
}

impl TestStore {
    fn file_op(&self, op: FileOp) -> Vec<Changed> {
        match self.apply(Op::File(op)) {
            Outcome::Changed(changed) => changed,
            other => panic!("{other:?}"),
        }
    }

    fn put(&self, put: Put) -> Changed {
        self.file_op(FileOp::put([put])).remove(0)
    }

    fn put_bytes(&self, full: &str, bytes: &[u8], at: u64) -> Record {
        made(self.put(put(self, full, bytes, at)))
    }

    fn delete(&self, id: Uuid, condition: Condition) -> Changed {
        self.file_op(FileOp::delete(id, condition, by("a", None)))
            .remove(0)
    }

    fn restore(&self, id: Uuid, rev: Option<u64>) -> Changed {
        self.file_op(FileOp::Restore {
            id,
            rev,
            condition: Condition::None,
            author: by("b", None),
        })
        .remove(0)
    }

    fn read_file(&self, id: Uuid, rev: Option<u64>) -> Option<Vec<u8>> {
        let (record, mut reader) = self.store.open_file(id, rev.map(Into::into)).unwrap()?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(
            (record.size, reader.size()),
            (bytes.len() as u64, bytes.len() as u64)
        );
        Some(bytes)
    }

    fn names(&self, path: &str, search: &str, offset: usize, limit: usize) -> (Vec<String>, u64) {
        let listing = Listing {
            path: path.into(),
            search: search.into(),
            offset,
            limit,
            ..Listing::default()
        };
        let (records, total) = self.store.list(&listing).unwrap();
        (records.iter().map(Record::full_name).collect(), total)
    }

    /// Sweeps until nothing is left to sweep.
    fn sweep_files(&self) {
        while self.apply(Op::Sweep) == (Outcome::Swept { more: true }) {}
        assert!(
            !self
                .store
                .wants_sweep(self.now, false, FILE_LIMITS)
                .unwrap()
        );
    }

    /// Files under `chunks/` and in the staging directory.
    fn on_disk(&self) -> (usize, usize) {
        fn count(dir: &Path) -> usize {
            let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
            entries
                .map(|path| if path.is_dir() { count(&path) } else { 1 })
                .sum()
        }
        (
            count(&self.dir.path().join("chunks")),
            count(&self.dir.path().join("staging")),
        )
    }

    fn reopen(self) -> TestStore {
        let TestStore { store, dir, now } = self;
        drop(store);
        TestStore {
            store: Store::open(dir.path(), 1 << 20, now, EPOCH).unwrap(),
            dir,
            now,
        }
    }
}

/// The record in the outcome of a change.
fn made(changed: Changed) -> Record {
    match changed {
        Changed::Created { record, .. }
        | Changed::Updated { record, .. }
        | Changed::Deleted(record) => *record,
        other => panic!("{other:?}"),
    }
}

/// One word for the outcome, with the current revision.
fn word(changed: &Changed) -> String {
    match changed {
        Changed::Created { record, .. } => format!("created {}", record.rev),
        Changed::Updated { record, .. } => format!("updated {}", record.rev),
        Changed::Unchanged(record) => format!("unchanged {}", record.rev),
        Changed::Deleted(record) => format!("deleted {}", record.rev),
        Changed::Precondition(record) => {
            format!("precondition {}", record.as_ref().map_or(0, |r| r.rev))
        }
        Changed::Missing(hashes) => format!("missing {}", hashes.len()),
        other => format!("{other:?}"),
    }
}

#[test]
fn bodies_of_all_sizes_are_returned_unchanged() {
    let hub = TestStore::new();
    for (i, size) in [
        0,
        1,
        16_384,
        16_385,
        65_536,
        300_000,
        8 << 20,
        (8 << 20) + 16_000,
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = noise(i as u64, size);
        let record = hub.put_bytes(&format!("d/f{i}"), &bytes, 1);
        assert_eq!(
            (record.rev, record.size, record.checksum_sha256),
            (i as u64 + 1, size as u64, Some(Hash::of(&bytes)))
        );
        assert!(hub.read_file(record.id, None).unwrap() == bytes, "{size}");
        let (_, chunks) = hub
            .store
            .chunks_of(record.id, Some(record.revision()))
            .unwrap()
            .unwrap();
        assert!(match size {
            0 => chunks.is_empty(),
            1..=0x80_0000 =>
                chunks
                    == [Chunk {
                        sha256: Hash::of(&bytes),
                        size: size as u64
                    }],
            _ => chunks.len() > 4 && chunks.iter().map(|c| c.size).sum::<u64>() == size as u64,
        });
        if let Some((_, mut reader)) = hub
            .store
            .open_file(record.id, None)
            .unwrap()
            .filter(|_| size > 100)
        {
            reader.seek(size as u64 - 50);
            let mut end = Vec::new();
            reader.read_to_end(&mut end).unwrap();
            assert!(end == bytes[size - 50..]);
        }
        // a cut chunk has the bytes of its hash
        for chunk in chunks.iter().skip(1).take(2) {
            let mut one = Vec::new();
            hub.store
                .chunk(chunk.sha256)
                .unwrap()
                .unwrap()
                .read_to_end(&mut one)
                .unwrap();
            assert!(Hash::of(&one) == chunk.sha256);
        }
    }
    assert_eq!(
        hub.on_disk().1,
        0,
        "nothing is left in the staging directory"
    );
    let counts = hub.store.file_counts().unwrap();
    assert_eq!((counts.files, counts.rev, counts.versions), (8, 8, 0));
    let hub = hub.reopen();
    assert_eq!(hub.read_file(id_of("d/f5"), None).unwrap().len(), 300_000);
}

#[test]
fn conditions_decide_between_writers() {
    let hub = TestStore::new();
    let check = |bytes: &str, at: u64, condition: Condition, wants: &str| {
        let got = hub.put(Put {
            condition,
            ..put(&hub, "f", bytes.as_bytes(), at)
        });
        assert_eq!(word(&got), wants, "{bytes} {at} {condition:?}");
    };
    check("1", 1, Condition::Match(1.into()), "precondition 0");
    check("1", 1, Condition::Absent, "created 1");
    check("1", 1, Condition::Absent, "precondition 1");
    check("1", 1, Condition::None, "unchanged 1");
    check("1", 1, Condition::Match(1.into()), "unchanged 1");
    check("2", 1, Condition::Match(1.into()), "updated 2");
    check("3", 1, Condition::Match(1.into()), "precondition 2");
    check("2", 2, Condition::Match(2.into()), "updated 3");
    check("3", 2, Condition::None, "updated 4");
    let id = hub.store.file_named(&name("f")).unwrap().unwrap().id;
    assert_eq!(
        word(&hub.delete(id, Condition::Match(3.into()))),
        "precondition 4"
    );
    assert_eq!(
        word(&hub.delete(id, Condition::Match(4.into()))),
        "deleted 5"
    );
    assert_eq!(word(&hub.delete(id, Condition::None)), "NoSuchFile");
    assert_eq!(
        word(&hub.delete(Uuid::nil(), Condition::None)),
        "NoSuchFile"
    );
    check("3", 2, Condition::Match(4.into()), "precondition 5");
    check("3", 2, Condition::Absent, "created 6");
    assert_eq!(
        hub.store.file_named(&name("f")).unwrap().unwrap().id,
        id,
        "the id stays over delete and re-creation"
    );
    let events = hub.store.events_after(0, 100).unwrap().unwrap();
    let told = |(rev, e): &(u64, FileEvent)| {
        format!(
            "{rev} {} {}",
            e.event_type.clone().unwrap(),
            e.overwrote.unwrap_or(0)
        )
    };
    let told: Vec<String> = events.iter().map(told).collect();
    assert_eq!(
        told,
        [
            "1 created 0",
            "2 updated 0",
            "3 updated 0",
            "4 updated 3",
            "5 deleted 0",
            "6 created 0"
        ]
    );
    assert!(
        events
            .iter()
            .all(|(rev, e)| e.payload.rev == *rev && e.payload.full_name() == "f")
    );
    assert_eq!(
        events[4].1.payload.deleted_at, events[4].1.created_at,
        "the tombstone is told though it is gone"
    );
    assert_eq!(
        hub.store.history(0, Some("updated"), 1, 1).unwrap()[0]
            .payload
            .rev,
        3
    );
    assert_eq!(hub.store.history(0, None, 0, 100).unwrap().len(), 6);
    assert_eq!(hub.store.history(hub.now + 1, None, 0, 100).unwrap(), []);
}

#[test]
fn an_older_upload_changes_nothing_unless_its_host_wrote_the_current_version() {
    let hub = TestStore::new();
    let check = |host: &str, bytes: &str, at: u64, wants: &str| {
        let got = hub.put(Put {
            author: by(host, None),
            ..put(&hub, "f", bytes.as_bytes(), at)
        });
        assert_eq!(word(&got), wants, "{host} {bytes} {at}");
    };
    check("a", "old", 1, "created 1");
    check("b", "new", 2, "updated 2");
    check("a", "old", 1, "unchanged 2");
    check("a", "old", 3, "updated 3");
    check("b", "new", 2, "unchanged 3");
    let id = id_of("f");
    assert_eq!(
        word(&hub.file_op(FileOp::delete(id, Condition::None, by("b", None)))[0]),
        "deleted 4"
    );
    check("a", "old", 3, "unchanged 4");
    check("b", "old", 3, "created 5");
    check("b", "new", 2, "updated 6");
    let other_form = Put {
        mtime: Some("2026-01-01T00:00:01.000+00:00".into()),
        ..put(&hub, "f", b"old", 0)
    };
    assert_eq!(
        word(&hub.put(other_form)),
        "unchanged 6",
        "the same time, written otherwise"
    );
    let unknown = Put {
        mtime: None,
        ..put(&hub, "f", b"old", 0)
    };
    assert_eq!(word(&hub.put(unknown)), "updated 7", "no time, no evidence");
}

#[test]
fn a_rename_is_one_change_of_two_names() {
    let hub = TestStore::new();
    hub.put_bytes("a/x", b"bytes", 1);
    let from = |rev| {
        Some(OldName {
            path: "a".into(),
            name: "x".into(),
            if_match: rev,
            tag: Tag::default(),
        })
    };
    let rename = |from, condition| {
        hub.put(Put {
            from,
            condition,
            ..put(&hub, "b/y", b"bytes", 1)
        })
    };
    assert_eq!(word(&rename(from(7), Condition::Absent)), "precondition 1");
    hub.put_bytes("b/y", b"in the way", 1);
    assert_eq!(word(&rename(from(1), Condition::Absent)), "precondition 2");
    let Changed::Updated {
        record,
        renamed: Some(tombstone),
    } = rename(from(1), Condition::Match(2.into()))
    else {
        panic!()
    };
    assert_eq!(
        (record.rev, record.full_name().as_str(), tombstone.rev),
        (3, "b/y", 4)
    );
    assert_eq!(
        (tombstone.renamed_to.clone(), tombstone.deleted_at.is_some()),
        (Some(name("b/y")), true)
    );
    assert_eq!(hub.names("", "", 0, 10), (vec!["b/y".to_string()], 1));
    let changes = hub
        .store
        .changes(0, 0.into(), None, 10, (&|_| true, usize::MAX))
        .unwrap()
        .page()
        .unwrap();
    assert_eq!(changes.changes, [*record, *tombstone]);
    // a rename onto itself
    let from = Some(OldName {
        path: "b".into(),
        name: "y".into(),
        if_match: 3,
        tag: Tag::default(),
    });
    assert_eq!(
        word(&hub.put(Put {
            from,
            ..put(&hub, "b/y", b"bytes", 9)
        })),
        "updated 5"
    );
}
