//! The store's file half, case by case; `model` drives it through random histories, `room` fills disks.

mod backup;
mod bench;
mod damage;
mod model;
mod room;
mod sweeps;

use std::io::Read;

use super::*;
use crate::chunking::tests::noise;
use crate::hub::store::files::{Intake, Listing};
use crate::hub::store::ops::files::{Asked, Author, Bytes, Changed, Condition, FileOp, Put};
use crate::wire::files::{Chunk, Event, Extra, From, Hash, Kind as What, Name, Record};

fn name(full: &str) -> Name {
    Name::parse(full).unwrap()
}

/// The n-th second of a day, as an mtime.
fn mtime(n: u64) -> Option<String> {
    Some(format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60))
}

fn feed(mut intake: Intake, bytes: &[u8]) -> crate::hub::store::files::Body {
    bytes
        .chunks(50_000)
        .for_each(|piece| intake.write(piece).unwrap());
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
        fresh: id_of(full),
    }
}

/// An id that follows from the name.
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
        self.file_op(FileOp::Delete {
            id,
            condition,
            author: by("a", None),
        })
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
            all_kinds: false,
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

    fn reopen(self) -> Hub {
        let Hub { store, dir, now } = self;
        drop(store);
        Hub {
            store: Store::open(dir.path(), 1 << 20, now, EPOCH).unwrap(),
            dir,
            now,
        }
    }
}

/// The record that a change has made.
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
fn bodies_of_all_sizes_come_back_as_they_went() {
    let hub = Hub::new();
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
        // a cut chunk is what its hash says
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
fn who_writes_under_which_condition() {
    let hub = Hub::new();
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
    let told = |(rev, e): &(u64, Event)| {
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
fn an_upload_of_something_older_changes_nothing_unless_its_host_wrote_what_stands() {
    let hub = Hub::new();
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
        word(
            &hub.file_op(FileOp::Delete {
                id,
                condition: Condition::None,
                author: by("b", None)
            })[0]
        ),
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
    let hub = Hub::new();
    hub.put_bytes("a/x", b"bytes", 1);
    let from = |rev| {
        Some(From {
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
        .changes(0, 0.into(), None, 10)
        .unwrap()
        .page()
        .unwrap();
    assert_eq!(changes.changes, [*record, *tombstone]);
    // onto itself is no rename
    let from = Some(From {
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

#[test]
fn what_was_replaced_or_deleted_stands_again() {
    let hub = Hub::new();
    let id = hub.put_bytes("f", &noise(1, 20_000), 1).id;
    hub.put_bytes("f", b"two", 2);
    assert_eq!(word(&hub.restore(id, Some(9))), "NoSuchVersion");
    assert_eq!(word(&hub.restore(id, Some(2))), "unchanged 2");
    assert_eq!(word(&hub.restore(id_of("g"), None)), "NoSuchFile");
    let record = made(hub.restore(id, Some(1)));
    assert_eq!(
        (record.rev, record.mtime, record.host.as_deref()),
        (3, mtime(1), Some("b"))
    );
    assert!(hub.read_file(id, None).unwrap() == noise(1, 20_000));
    assert_eq!(hub.read_file(id, Some(2)).unwrap(), b"two");
    hub.delete(id, Condition::None);
    assert!(
        hub.read_file(id, None).is_none()
            && hub.store.file(id).unwrap().unwrap().deleted_at.is_some()
    );
    assert_eq!(
        hub.store
            .versions(id)
            .unwrap()
            .iter()
            .map(|v| v.rev)
            .collect::<Vec<_>>(),
        [3, 2, 1]
    );
    assert_eq!(word(&hub.restore(id, None)), "created 5");
    assert!(hub.read_file(id, None).unwrap() == noise(1, 20_000));
    assert_eq!(
        hub.on_disk(),
        (1, 0),
        "one chunk, however many revisions have it"
    );
}

#[test]
fn a_key_does_its_work_once_and_a_burnt_one_never() {
    let hub = Hub::new();
    let keyed = |full: &str, bytes: &str, key: u128| {
        hub.put(Put {
            author: by("a", Some(key)),
            ..put(&hub, full, bytes.as_bytes(), 1)
        })
    };
    let ask = |host: &str, key: u128| match hub.apply(Op::File(FileOp::Ask {
        host: host.into(),
        key: Uuid::from_u128(key),
        knows: 0.into(),
    })) {
        Outcome::Asked(asked) => asked,
        other => panic!("{other:?}"),
    };
    let first = keyed("f", "1", 1);
    hub.put_bytes("f", b"2", 2);
    assert_eq!(keyed("f", "1", 1), first, "the answer of then, not of now");
    assert_eq!(hub.store.rev().unwrap(), 2);
    let asked = ask("a", 1);
    assert!(
        asked.done
            && asked.made == [made(first)]
            && asked.current == [hub.store.file(id_of("f")).unwrap().unwrap()]
    );
    let nothing = Asked {
        done: false,
        made: vec![],
        current: vec![],
    };
    assert_eq!(ask("b", 1), nothing, "a key is its host's");
    assert_eq!(ask("a", 2), nothing);
    assert_eq!(keyed("g", "1", 2), Changed::Burnt);
    assert_eq!(ask("a", 2), nothing);
    // what was refused may come again under the same key
    let refused = Put {
        condition: Condition::Match(9.into()),
        author: by("a", Some(3)),
        ..put(&hub, "g", b"1", 1)
    };
    assert_eq!(word(&hub.put(refused)), "precondition 0");
    assert_eq!(word(&keyed("g", "1", 3)), "created 3");
    let delete = || {
        hub.file_op(FileOp::Delete {
            id: id_of("g"),
            condition: Condition::None,
            author: by("a", Some(4)),
        })
    };
    assert_eq!(
        (word(&delete()[0]), word(&delete()[0])),
        ("deleted 4".into(), "deleted 4".into())
    );
    assert_eq!(
        ask("a", 4).current[0].deleted_at.is_some(),
        ask("a", 4).done
    );
    // within one request, and over a restart
    let twice: Vec<Put> = (0..2)
        .map(|n| Put {
            author: by("a", Some(5)),
            ..put(&hub, &format!("h{n}"), b"1", 1)
        })
        .collect();
    let changed = hub.file_op(FileOp::Put(twice));
    assert!(changed[0] == changed[1] && word(&changed[0]) == "created 5");
    let hub = hub.reopen();
    assert_eq!(
        hub.put(Put {
            author: by("a", Some(5)),
            ..put(&hub, "i", b"1", 1)
        }),
        changed[0]
    );
}

#[test]
fn a_commit_moves_no_bytes_that_are_there() {
    let hub = Hub::new();
    let bytes = noise(3, 3 << 20);
    let parts: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
    let chunks: Vec<Chunk> = parts
        .iter()
        .map(|p| Chunk {
            sha256: Hash::of(p),
            size: p.len() as u64,
        })
        .collect();
    let hashes: Vec<Hash> = chunks.iter().map(|c| c.sha256).collect();
    let mut sorted = hashes.clone();
    sorted.sort_unstable();
    assert_eq!(
        hub.store
            .missing_chunks(&[&hashes[..], &hashes[..]].concat())
            .unwrap(),
        sorted
    );
    let commit = |full: &str, hub: &Hub| {
        let bytes = hub.store.staged(&chunks).unwrap();
        let whole = put(hub, full, b"", 1);
        hub.put(Put {
            size: 3 << 20,
            sha256: Hash::of(&parts.concat()),
            chunks: chunks.iter().copied().zip(bytes).collect(),
            ..whole
        })
    };
    let stage = |hub: &Hub, n: usize| {
        hub.store
            .stage_chunk(hashes[n], &mut &*parts[n], 1 << 20)
            .unwrap()
    };
    assert!(stage(&hub, 0) && stage(&hub, 1));
    assert!(
        !hub.store
            .stage_chunk(hashes[2], &mut &*parts[1], 1 << 20)
            .unwrap(),
        "other bytes"
    );
    assert!(
        !hub.store
            .stage_chunk(hashes[2], &mut &parts[2][1..], 1 << 20)
            .unwrap(),
        "too few"
    );
    assert!(
        !hub.store
            .stage_chunk(hashes[2], &mut &*parts[2], 1 << 19)
            .unwrap(),
        "too many"
    );
    assert_eq!(hub.on_disk(), (0, 2), "what was refused is gone");
    assert_eq!(hub.store.missing_chunks(&hashes).unwrap(), [hashes[2]]);
    assert_eq!(commit("f", &hub), Changed::Missing(vec![hashes[2]]));
    assert_eq!(
        hub.store.missing_chunks(&hashes).unwrap(),
        [hashes[2]],
        "the others have arrived"
    );
    stage(&hub, 2);
    let record = made(commit("f", &hub));
    assert!(hub.read_file(record.id, None).unwrap() == bytes);
    assert!(stage(&hub, 1), "again, though it is there");
    let other = made(commit("g", &hub));
    assert!(hub.read_file(other.id, None).unwrap() == bytes);
    assert_eq!(hub.on_disk(), (3, 0));
    let wrong: Vec<Chunk> = chunks
        .iter()
        .map(|c| Chunk {
            size: c.size - 1,
            ..*c
        })
        .collect();
    let lie = Put {
        chunks: wrong.into_iter().map(|c| (c, Bytes::Known)).collect(),
        ..put(&hub, "h", b"", 1)
    };
    assert_eq!(word(&hub.put(lie)), "missing 3", "no chunk has that size");
}

#[test]
fn listings_are_in_order_and_counted() {
    let hub = Hub::new();
    for full in [
        "b",
        "docs/b",
        "docs/a/c",
        "docs-old/x",
        "docs/a/b",
        "docsx",
        "a",
    ] {
        hub.put_bytes(full, full.as_bytes(), 1);
    }
    let dir = put(&hub, "docs/empty", b"", 1);
    hub.put(Put {
        kind: What::Dir,
        ..dir
    });
    hub.put_bytes("gone", b"x", 1);
    hub.delete(id_of("gone"), Condition::None);
    let check = |path: &str, search: &str, offset: usize, limit: usize, wants: &str, total: u64| {
        let (names, count) = hub.names(path, search, offset, limit);
        assert_eq!(
            (names.join(" ").as_str(), count),
            (wants, total),
            "{path:?} {search:?} {offset} {limit}"
        );
    };
    check(
        "",
        "",
        0,
        100,
        "a b docsx docs/b docs-old/x docs/a/b docs/a/c",
        7,
    );
    check("", "", 2, 2, "docsx docs/b", 7);
    check("", "", 9, 2, "", 7);
    check("docs", "", 0, 100, "docs/b docs-old/x docs/a/b docs/a/c", 4);
    check("docs/", "", 0, 100, "docs/b docs/a/b docs/a/c", 3);
    check("docs/", "", 1, 1, "docs/a/b", 3);
    check("docs/a", "", 0, 100, "docs/a/b docs/a/c", 2);
    check("", "b", 0, 100, "b docs/b docs/a/b", 3);
    check("docs/", "b", 1, 100, "docs/a/b", 2);
    check("x", "", 0, 100, "", 0);
    let (all, total) = hub
        .store
        .list(&Listing {
            all_kinds: true,
            limit: 2,
            ..Listing::default()
        })
        .unwrap();
    assert_eq!((all.len(), total), (2, 8));
    let counts = hub.store.file_counts().unwrap();
    assert_eq!(
        (counts.files, counts.tombstones, counts.versions, counts.rev),
        (8, 1, 1, 10)
    );
}

#[test]
fn pages_of_everything_fit_together_while_files_come_and_go() {
    let hub = Hub::new();
    let fill = |from: u64, to: u64| {
        let template = put(&hub, "x", b"", 1);
        let file = |n| Put {
            name: name(&format!("d{}/{n:05}", n % 3)),
            fresh: id_of(&format!("{n}")),
            ..template.clone()
        };
        hub.file_op(FileOp::Put((from..to).map(file).collect()));
    };
    let check = |total: u64| {
        let pages: Vec<String> = (0..=total as usize / 700)
            .flat_map(|page| hub.names("", "", page * 700, 700).0)
            .collect();
        let whole: Vec<String> = ["d0/", "d1/", "d2/"]
            .iter()
            .flat_map(|dir| hub.names(dir, "", 0, 1000).0)
            .collect();
        assert!(
            pages == whole && pages.len() as u64 == total && pages.is_sorted(),
            "{} of {total}",
            pages.len()
        );
        assert_eq!(hub.names("", "", total as usize, 10), (vec![], total));
        assert_eq!(hub.names("", "", usize::MAX, 10), (vec![], total));
    };
    check(0);
    fill(0, 2500);
    check(2500);
    hub.delete(id_of("7"), Condition::None);
    check(2499);
    fill(2500, 2501);
    check(2500);
}

#[test]
fn changes_come_page_by_page_one_row_a_name() {
    let hub = Hub::new();
    (0..5).for_each(|n| drop(hub.put_bytes(&format!("f{n}"), b"1", 1)));
    hub.put_bytes("f1", b"2", 2);
    hub.delete(id_of("f2"), Condition::None);
    let page = |after: u64, began, limit| {
        let page = hub
            .store
            .changes(after, 0.into(), began, limit)
            .unwrap()
            .page()
            .unwrap();
        (
            page.changes.iter().map(|r| r.rev).collect::<Vec<_>>(),
            page.more,
            page.began,
            page.rev,
        )
    };
    assert_eq!(page(0, None, 3), (vec![1, 4, 5], true, Some(7), 7));
    hub.put_bytes("f0", b"3", 3);
    assert_eq!(page(5, Some(7), 3), (vec![6, 7, 8], false, Some(7), 8));
    assert_eq!(page(8, None, 3), (vec![], false, None, 8));
    assert_eq!(
        hub.store
            .changes(7, 0.into(), None, 3)
            .unwrap()
            .page()
            .unwrap()
            .epoch,
        EPOCH
    );
}

#[test]
fn what_is_small_takes_one_sync_and_what_is_not_three() {
    let hub = Hub::new();
    let syncs = |bytes: &[u8], full: &str| {
        let put = put(&hub, full, bytes, 1);
        let before = hub.store.written()[0];
        hub.put(put);
        hub.store.written()[0] - before
    };
    syncs(&noise(1, 20_000), "first");
    assert_eq!(syncs(b"small", "small"), 1);
    // its directory and the tables, once the file itself was synced by its reader; and the new directory in `chunks/`
    assert_eq!(syncs(&noise(2, 20_000), "large"), 3);
    // bytes that came take the place of those that are there, which may be damaged
    assert_eq!(syncs(&noise(2, 20_000), "the same bytes"), 2);
    // many bodies of one request share their syncs
    let before = hub.store.written()[0];
    let take_in = |n: u64| {
        feed(
            hub.store.intake_unsynced().unwrap(),
            &noise(100 + n, 17_000),
        )
    };
    let bodies: Vec<_> = (0..40).map(take_in).collect();
    hub.store
        .sync(bodies.iter().flat_map(|body| &body.bytes))
        .unwrap();
    let template = put(&hub, "x", b"", 1);
    let puts = bodies.into_iter().enumerate().map(|(n, body)| Put {
        name: name(&format!("many/{n}")),
        fresh: id_of(&format!("many/{n}")),
        size: body.content.size,
        sha256: body.content.sha256,
        chunks: body.content.chunks.into_iter().zip(body.bytes).collect(),
        ..template.clone()
    });
    assert!(
        hub.file_op(FileOp::Put(puts.collect()))
            .iter()
            .all(|c| c.is_change())
    );
    let took = hub.store.written()[0] - before;
    assert!(
        took <= 3 || !crate::disk::syncfs_reports_errors(),
        "{took} syncs for 40 files"
    );
}

#[test]
fn a_failed_sync_is_final_for_chunks_too() {
    let hub = Hub::new();
    let first = put(&hub, "f", &noise(1, 20_000), 1);
    hub.store.break_syncs();
    let mut intake = hub.store.intake().unwrap();
    intake.write(&noise(2, 20_000)).unwrap();
    assert_eq!(intake.finish().unwrap_err().raw_os_error(), Some(5));
    let e = hub
        .store
        .apply(&at(hub.now, vec![Op::File(FileOp::Put(vec![first]))]))
        .unwrap_err();
    assert_eq!(e.kind, Kind::Io);
    let hub = hub.reopen();
    assert!(hub.store.file_named(&name("f")).unwrap().is_none());
}
