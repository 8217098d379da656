//! The moves and syncs of a commit, idempotency keys, and failed syncs.

use super::*;

#[test]
fn replaced_and_deleted_files_are_restored() {
    let hub = TestStore::new();
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
fn a_commit_moves_no_bytes_that_are_there() {
    let hub = TestStore::new();
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
    let commit = |full: &str, hub: &TestStore| {
        let bytes = hub.store.staged(&chunks).unwrap();
        let whole = put(hub, full, b"", 1);
        hub.put(Put {
            size: 3 << 20,
            sha256: Hash::of(&parts.concat()),
            chunks: chunks.iter().copied().zip(bytes).collect(),
            ..whole
        })
    };
    let stage = |hub: &TestStore, n: usize| {
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
fn a_small_file_takes_one_sync_and_a_large_one_three() {
    let hub = TestStore::new();
    let syncs = |bytes: &[u8], full: &str| {
        let put = put(&hub, full, bytes, 1);
        let before = hub.store.written()[0];
        hub.put(put);
        hub.store.written()[0] - before
    };
    syncs(&noise(1, 20_000), "first");
    assert_eq!(syncs(b"small", "small"), 1);
    // its directory, the tables, and `chunks/` with the new directory; the reader has synced the file itself
    assert_eq!(syncs(&noise(2, 20_000), "large"), 3);
    // received bytes replace the stored ones, which may be damaged
    assert_eq!(syncs(&noise(2, 20_000), "the same bytes"), 2);
    // the bodies of one request share their syncs
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
    assert!(hub.file_op(FileOp::put(puts)).iter().all(|c| c.is_change()));
    let took = hub.store.written()[0] - before;
    assert!(
        took <= 3 || !crate::disk::syncfs_reports_errors(),
        "{took} syncs for 40 files"
    );
}

#[test]
fn a_failed_sync_is_final_for_chunks_too() {
    let hub = TestStore::new();
    let first = put(&hub, "f", &noise(1, 20_000), 1);
    hub.store.break_syncs();
    let mut intake = hub.store.intake().unwrap();
    intake.write(&noise(2, 20_000)).unwrap();
    assert_eq!(intake.finish().unwrap_err().raw_os_error(), Some(5));
    let e = hub
        .store
        .apply(&at(hub.now, vec![Op::File(FileOp::put([first]))]))
        .unwrap_err();
    assert_eq!(e.kind, Kind::Io);
    let hub = hub.reopen();
    assert!(hub.store.file_named(&name("f")).unwrap().is_none());
}

#[test]
fn a_key_does_its_work_once_and_a_burnt_one_never() {
    let hub = TestStore::new();
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
    let nothing = KeyLookup {
        done: false,
        made: vec![],
        current: vec![],
    };
    assert_eq!(ask("b", 1), nothing, "a key is its host's");
    assert_eq!(ask("a", 2), nothing);
    assert_eq!(keyed("g", "1", 2), Changed::Burnt);
    assert_eq!(ask("a", 2), nothing);
    // a refused request may be repeated with the same key
    let refused = Put {
        condition: Condition::Match(9.into()),
        author: by("a", Some(3)),
        ..put(&hub, "g", b"1", 1)
    };
    assert_eq!(word(&hub.put(refused)), "precondition 0");
    assert_eq!(word(&keyed("g", "1", 3)), "created 3");
    let delete = || {
        hub.file_op(FileOp::delete(
            id_of("g"),
            Condition::None,
            by("a", Some(4)),
        ))
    };
    assert_eq!(
        (word(&delete()[0]), word(&delete()[0])),
        ("deleted 4".into(), "deleted 4".into())
    );
    assert_eq!(
        ask("a", 4).current[0].deleted_at.is_some(),
        ask("a", 4).done
    );
    // within one request, and after a restart
    let twice: Vec<Put> = (0..2)
        .map(|n| Put {
            author: by("a", Some(5)),
            ..put(&hub, &format!("h{n}"), b"1", 1)
        })
        .collect();
    let changed = hub.file_op(FileOp::put(twice));
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
