//! The client's methods against a real hub: each route is called as the hub understands it, and answered as the client reads.

use std::cell::RefCell;
use std::io::Read;

use mesync::internals::client::{ByteSource, ChangeHeaders, ErrorDetail, HubClient, UploadOutcome};
use mesync::internals::config::Settings;
use mesync::internals::credentials::Access;
use mesync::internals::wire::files::{
    BatchItem, Chunk, Commit, EntryKind, ExtraMetadata, FetchItem, Hash, Metadata, OldName, Record,
    Restore,
};
use mesync::internals::wire::revision::Condition;
use mesync::internals::wire::scope::Scope;
use uuid::Uuid;

use crate::support::world::World;

fn hub(world: &World) -> HubClient {
    let (base, url) = (world.dir.path().join("client"), world.url());
    let set = |name: &str| match name {
        "MESYNC_BASE_DIR" => Some(base.clone().into()),
        "MESYNC_SERVER_URL" => Some(url.clone().into()),
        "MESYNC_HOST_ID" => Some("machine-2".into()),
        _ => None,
    };
    let settings = Settings::load(set).unwrap();
    HubClient::new(
        &settings,
        Box::new(move || Ok(Access::to(url.clone(), None))),
    )
    .unwrap()
}

fn item(name: &str, bytes: &[u8], if_match: Option<u64>) -> BatchItem {
    BatchItem {
        path: "d".into(),
        name: name.into(),
        kind: EntryKind::File,
        mode: Some(0o100_644),
        mtime: Some("2026-11-21T10:30:00.000000001Z".into()),
        size: bytes.len() as u64,
        checksum_sha256: Some(Hash::of(bytes)),
        if_match,
        if_none_match: if_match.is_none(),
        key: Some(Uuid::now_v7()),
        ..BatchItem::default()
    }
}

fn commit(name: &str, bytes: &[u8]) -> Commit {
    let item = item(name, bytes, None);
    let (sha256, size) = (Hash::of(bytes), item.size);
    let BatchItem {
        path,
        name,
        kind,
        mode,
        mtime,
        ..
    } = item;
    let chunks = vec![Chunk { sha256, size }];
    Commit {
        path,
        name,
        kind,
        mode,
        mtime,
        extra: ExtraMetadata::default(),
        content_type: None,
        size,
        checksum_sha256: sha256,
        chunks,
        from: None,
    }
}

fn when(condition: Condition) -> ChangeHeaders {
    ChangeHeaders {
        condition,
        key: Some(Uuid::now_v7()),
        ..ChangeHeaders::default()
    }
}

fn nobody(_: u64) {}

/// The current record, after a 412.
fn current(failure: mesync::internals::client::Failure) -> Option<u64> {
    match (failure.status, failure.told) {
        (412, ErrorDetail::Current(record)) => record.map(|r| r.rev),
        other => panic!("no 412: {other:?}"),
    }
}

#[test]
fn changes_have_conditions_keys_and_chunks() {
    let mut world = World::new();
    world.start_hub();
    let hub = hub(&world);
    assert!(hub.is_ours().unwrap());

    let (a, b) = (item("a", b"one", None), item("b", b"", None));
    let files = [(&a, &b"one"[..]), (&b, b"")];
    let made = hub.batch(&files, 0.into(), &nobody).unwrap();
    assert_eq!(
        made.iter().map(|r| r.status).collect::<Vec<_>>(),
        [201, 201]
    );
    // the same keys again are the same requests
    assert_eq!(hub.batch(&files, 0.into(), &nobody).unwrap(), made);
    let a_now = made[0].record.clone().unwrap();
    assert_eq!(
        (a_now.host.as_deref(), a_now.full_name().as_str()),
        (Some("machine-2"), "d/a")
    );
    let late = hub
        .batch(&[(&item("a", b"two", None), b"two")], 0.into(), &nobody)
        .unwrap();
    assert_eq!(
        (late[0].status, late[0].record.as_ref().map(|r| r.rev)),
        (412, Some(a_now.rev))
    );

    let two = commit("a", b"two");
    match hub
        .commit(&two, when(Condition::Match(a_now.revision())))
        .unwrap_err()
    {
        mesync::internals::client::Failure {
            status: 409,
            told: ErrorDetail::Missing(missing),
            ..
        } => assert_eq!(missing, [Hash::of(b"two")]),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        hub.missing(&[Hash::of(b"one"), Hash::of(b"two")]).unwrap(),
        [Hash::of(b"two")]
    );
    assert!(
        hub.put_chunk(Hash::of(b"two"), ByteSource::Bytes(b"owt"), &nobody)
            .is_err()
    );
    hub.put_chunk(Hash::of(b"two"), ByteSource::Bytes(b"two"), &nobody)
        .unwrap();
    assert_eq!(
        current(hub.commit(&two, when(Condition::Absent)).unwrap_err()),
        Some(a_now.rev)
    );
    assert_eq!(
        current(
            hub.commit(&two, when(Condition::Match((a_now.rev + 7).into())))
                .unwrap_err()
        ),
        Some(a_now.rev)
    );
    let change = when(Condition::Match(a_now.revision()));
    let stored = hub.commit(&two, change).unwrap();
    let record = stored.record.unwrap();
    assert_eq!(
        (stored.outcome, record.id),
        (UploadOutcome::Updated, a_now.id)
    );
    assert_eq!(
        hub.commit(&two, change).unwrap().record.unwrap(),
        record,
        "the same key again"
    );
    assert_eq!(
        hub.commit(&two, when(Condition::Match(record.revision())))
            .unwrap()
            .outcome,
        UploadOutcome::Unchanged
    );

    // what a key did, and that one which did nothing never will
    let answer = hub.ask_key(change.key.unwrap(), 0.into()).unwrap();
    assert!(
        answer.done
            && answer.made.iter().any(|r| r.rev == record.rev)
            && answer.current == [record.clone()],
        "{answer:?}"
    );
    let never = when(Condition::None);
    assert!(!hub.ask_key(never.key.unwrap(), 0.into()).unwrap().done);
    assert_eq!(
        hub.commit(&commit("c", b"one"), never).unwrap_err().status,
        409
    );

    // a rename is one change
    let from = Some(OldName {
        path: "d".into(),
        name: "a".into(),
        if_match: record.rev,
        tag: record.revision().tag,
    });
    let moved = hub
        .commit(
            &Commit {
                from,
                ..commit("moved", b"two")
            },
            when(Condition::Absent),
        )
        .unwrap();
    assert_eq!(
        (moved.outcome, hub.info(record.id).unwrap_err().status),
        (UploadOutcome::Created, 404)
    );
    let moved = moved.record.unwrap();
    assert_eq!(
        current(
            hub.remove(moved.id, when(Condition::Match(record.revision())))
                .unwrap_err()
        ),
        Some(moved.rev)
    );
    hub.remove(moved.id, when(Condition::Match(moved.revision())))
        .unwrap();
    assert_eq!(
        hub.remove(moved.id, when(Condition::Match(moved.revision())))
            .unwrap_err()
            .status,
        404
    );

    assert_eq!(
        hub.versions(a_now.id)
            .unwrap()
            .iter()
            .map(|v| v.rev)
            .collect::<Vec<_>>(),
        [record.rev, a_now.rev]
    );
    let back = hub
        .restore(
            a_now.id,
            Restore {
                rev: Some(a_now.rev),
            },
            when(Condition::Absent),
        )
        .unwrap();
    assert_eq!(back.record.unwrap().checksum_sha256, Some(Hash::of(b"one")));
}

#[test]
fn content_is_read_by_file_by_range_by_chunk_and_in_batches() {
    let mut world = World::new();
    world.start_hub();
    let hub = hub(&world);
    let long: Vec<u8> = (0..9_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 15) as u8)
        .collect();
    let about = Metadata {
        path: "d".into(),
        mode: Some(0o100_600),
        mtime: None,
        extra: ExtraMetadata::default(),
    };
    let put = |name: &str, bytes: &[u8]| -> Record {
        let stored = hub
            .upload(
                name,
                &about,
                ByteSource::Bytes(bytes),
                when(Condition::Absent),
                &nobody,
            )
            .unwrap();
        assert_eq!(stored.outcome, UploadOutcome::Created);
        stored.record.unwrap()
    };
    let (short, long_one) = (put("a \"short\" one\\", b"hello"), put("long", &long));
    assert_eq!(short.name, "a \"short\" one\\");
    let read = |mut download: mesync::internals::client::Download<'_>| {
        let (mut out, mut buffer) = (Vec::new(), vec![0; 65_536]);
        loop {
            match download.read(&mut buffer).unwrap() {
                0 => return (download.at, download.rev, out),
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
    };
    assert_eq!(
        read(hub.download(short.id, None, 1, Some(4)).unwrap()),
        (1, Some(short.revision()), b"ell".to_vec())
    );
    assert_eq!(
        read(
            hub.download(short.id, Some(short.revision()), 2, None)
                .unwrap()
        ),
        (2, Some(short.revision()), b"llo".to_vec())
    );
    assert_eq!(
        hub.download(short.id, None, 9, None)
            .err()
            .map(|f| f.status),
        Some(416)
    );
    assert!(read(hub.download(long_one.id, None, 0, None).unwrap()).2 == long);
    let chunks = hub.chunks_of(long_one.id, long_one.revision()).unwrap();
    assert!(
        chunks.len() >= 2 && chunks.iter().map(|c| c.size).sum::<u64>() == 9_000_000,
        "{chunks:?}"
    );

    let items: Vec<FetchItem> = [&short, &long_one, &short]
        .iter()
        .map(|r| FetchItem {
            id: r.id,
            rev: r.rev,
            tag: r.revision().tag,
        })
        .collect();
    let got = RefCell::new(Vec::new());
    let take = |head: mesync::internals::wire::files::FetchHead, content: &mut dyn Read| {
        let mut text = String::new();
        // what one leaves unread does not disturb the next
        let n = content.take(3).read_to_string(&mut text).unwrap();
        got.borrow_mut().push((head.status, n, text));
        Ok(())
    };
    hub.fetch(&items, take).unwrap();
    assert_eq!(
        got.into_inner(),
        [
            (200, 3, "hel".into()),
            (413, 0, String::new()),
            (200, 3, "hel".into())
        ]
    );
}

#[test]
fn changes_and_events_are_read_in_order_and_to_the_end() {
    let mut world = World::new();
    world.start_hub();
    let hub = hub(&world);
    let names = ["a", "b", "c", "d", "e"];
    let made: Vec<Record> = names
        .iter()
        .map(|n| {
            hub.commit(&commit_empty(n), when(Condition::Absent))
                .unwrap()
                .record
                .unwrap()
        })
        .collect();
    hub.remove(made[1].id, when(Condition::None)).unwrap();
    let (mut after, mut began, mut live) = (0, None, Vec::new());
    loop {
        let page = hub
            .changes(after, 0.into(), began, 2, &Scope::default())
            .unwrap();
        assert!(page.rev >= made[4].rev && page.changes.len() <= 2);
        live.extend(
            page.changes
                .iter()
                .filter(|r| r.deleted_at.is_none())
                .map(|r| r.name.clone()),
        );
        (after, began) = (
            page.changes.last().map_or(after, |r| r.rev),
            began.or(page.began),
        );
        if !page.more {
            break;
        }
    }
    assert_eq!(live, ["a", "c", "d", "e"]);
    let told =
        |e: mesync::internals::wire::files::FileEvent| format!("{} {}", e.kind, e.payload.name);
    let wants = [
        "file_created a",
        "file_created b",
        "file_created c",
        "file_created d",
        "file_created e",
        "file_deleted b",
    ];
    let (history, rows) = hub
        .history(Some("2026-01-01T00:00:00+00:00"), 1000, 0)
        .unwrap();
    assert_eq!(
        (rows, history.into_iter().map(told).collect::<Vec<_>>()),
        (6, wants.map(String::from).to_vec())
    );
    let mut events = hub.file_events(Some(made[2].revision())).unwrap();
    for wants in &wants[3..] {
        assert_eq!(told(events.next_event().unwrap().unwrap()), *wants);
    }
    let next = hub
        .commit(&commit_empty("f"), when(Condition::Absent))
        .unwrap()
        .record
        .unwrap();
    let event = events.next_event().unwrap().unwrap();
    assert_eq!(
        (event.payload.rev, event.payload.name.as_str()),
        (next.rev, "f")
    );
}

fn commit_empty(name: &str) -> Commit {
    Commit {
        chunks: vec![],
        ..commit(name, b"")
    }
}
