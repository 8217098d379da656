//! A log that was recorded once: every release must write it with the same bytes and apply it to the same tables, or raise
//! `FORMAT` or `BEHAVIOUR`. Otherwise hubs of two releases would part.

use uuid::Uuid;

use super::{CLUSTER, DAY, EPOCH, LIMITS, scratch};
use crate::hub::store::Store;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::ops::files::{Author, Bytes, FileOp, Put};
use crate::hub::store::ops::shared::{BEHAVIOUR, ChunkObject, FORMAT, LogEntry, LogOp};
use crate::hub::store::ops::{Incoming, Op, digest};
use crate::wire::files::{Chunk, EntryKind, ExtraMetadata, Hash, Name, OldName};
use crate::wire::revision::{Condition, Tag};

const BEGIN: u64 = 1_700_000_000_000;

fn author(n: u128) -> Author {
    Author {
        host: "web".into(),
        key: Some(Uuid::from_u128(n)),
        knows: 0.into(),
    }
}

pub fn put(n: u128, name: &str, bytes: &[u8], there: Bytes, from: Option<OldName>) -> Op {
    let sha256 = Hash::of(bytes);
    let size = bytes.len() as u64;
    Op::File(FileOp::put([Put {
        name: Name {
            path: "docs".into(),
            name: name.into(),
        },
        kind: EntryKind::File,
        size,
        sha256,
        chunks: vec![(Chunk { sha256, size }, there)],
        mode: Some(0o100_644),
        mtime: Some("2023-11-14T22:13:20Z".into()),
        content_type: None,
        extra: ExtraMetadata::default(),
        condition: Condition::None,
        from,
        author: author(n),
        fresh: Uuid::from_u128(1000 + n),
    }]))
}

pub fn post(n: u128, target: Option<&str>) -> Op {
    let json = format!(r#"{{"type":"note","payload":{n}}}"#);
    Op::Post(vec![Incoming {
        id: Uuid::from_u128(2000 + n),
        source: "web".into(),
        target: target.map(Into::into),
        ttl: None,
        digest: digest(&json),
        json,
    }])
}

fn pull(host: &str, through: u64) -> Op {
    Op::Pull {
        host: host.into(),
        instance: Some(Uuid::from_u128(7)),
        through,
    }
}

/// The object of a long chunk.
fn object(bytes: &[u8], made: u64) -> ChunkObject {
    ChunkObject {
        name: ChunkName {
            hash: Hash::of(bytes),
            made,
            random: 5,
        },
        size: bytes.len() as u64,
    }
}

/// Groups of operations of each kind, with the day of each and the chunks that were put for it.
fn groups() -> Vec<(u64, Vec<ChunkObject>, Vec<Op>)> {
    let (short, long) = (b"short".to_vec(), vec![b'x'; 20_000]);
    let here = |bytes: &[u8]| Bytes::Inline(bytes.to_vec());
    let old = OldName {
        path: "docs".into(),
        name: "a".into(),
        if_match: 3,
        tag: Tag::default(),
    };
    vec![
        (
            0,
            vec![],
            vec![
                pull("db", 0),
                Op::PutHost { host: "web".into() },
                post(1, None),
                post(2, Some("db")),
            ],
        ),
        (
            0,
            vec![object(&long, BEGIN)],
            vec![
                put(1, "a", &short, here(&short), None),
                put(2, "b", &long, Bytes::Known, None),
            ],
        ),
        (
            1,
            vec![],
            vec![
                put(3, "a", b"other", here(b"other"), None),
                put(3, "a", b"again", here(b"again"), None),
            ],
        ),
        (
            1,
            vec![],
            vec![
                put(4, "c", b"other", Bytes::Known, Some(old)),
                put(5, "d", b"none", Bytes::Known, None),
            ],
        ),
        (
            2,
            vec![],
            vec![FileOp::delete(
                Uuid::from_u128(1002),
                Condition::None,
                author(6),
            )]
            .into_iter()
            .map(Op::File)
            .collect(),
        ),
        (
            2,
            vec![],
            vec![
                pull("db", 2),
                post(2, Some("db")),
                Op::Mute { host: "web".into() },
                Op::Sweep,
            ],
        ),
        (
            3,
            vec![],
            vec![Op::File(FileOp::Restore {
                id: Uuid::from_u128(1002),
                rev: None,
                condition: Condition::None,
                author: author(7),
            })],
        ),
        (
            3,
            vec![],
            vec![
                Op::File(FileOp::Ask {
                    host: "web".into(),
                    key: Uuid::from_u128(8),
                    knows: 0.into(),
                }),
                Op::File(FileOp::Want(vec![Hash::of(&long)])),
            ],
        ),
        (
            4,
            vec![object(&long, BEGIN + 4 * DAY)],
            vec![Op::File(FileOp::Mend(vec![(
                Chunk {
                    sha256: Hash::of(&long),
                    size: 20_000,
                },
                Bytes::Known,
            )]))],
        ),
        (
            9,
            vec![],
            vec![
                Op::Sweep,
                Op::Log(LogOp::Collected {
                    names: vec![object(&long, BEGIN).name],
                }),
            ],
        ),
        (
            9,
            vec![],
            vec![
                Op::Log(LogOp::Horizon {
                    at: BEGIN + 2 * DAY,
                }),
                Op::DeleteHost { host: "web".into() },
                Op::Rebind {
                    host: "db".into(),
                    instance: None,
                },
            ],
        ),
        (10, vec![], vec![Op::Sweep, Op::Log(LogOp::Close)]),
    ]
}

#[test]
fn a_recorded_log_gives_the_same_bytes_and_tables_in_every_release() {
    let dir = scratch();
    Store::create_view(&dir.path().join(Store::FILE), 1 << 20, CLUSTER, EPOCH).unwrap();
    let store = Store::open(dir.path(), 1 << 20, 0, EPOCH).unwrap();
    let mut log = Vec::new();
    for (i, (day, placed, ops)) in groups().into_iter().enumerate() {
        let entry = LogEntry {
            format: FORMAT,
            behaviour: BEHAVIOUR,
            n: i as u64 + 1,
            nonce: Uuid::from_u128(i as u128 + 1),
            hub: Uuid::from_u128(9),
            now: BEGIN + day * DAY,
            wall: BEGIN + day * DAY,
            limits: LIMITS,
            before: store.counters().unwrap(),
            placed,
            ops,
        };
        let bytes = entry.encode();
        assert_eq!(LogEntry::decode(&bytes).unwrap(), entry, "entry {}", i + 1);
        store.apply_entry(&entry, false).unwrap();
        log.extend(bytes);
    }
    let tables = store.dump().join("\n");
    let seen = [
        Hash::of(&log).to_string(),
        Hash::of(tables.as_bytes()).to_string(),
    ];
    assert_eq!(
        (FORMAT, BEHAVIOUR, seen),
        (1, 1, RECORDED.map(String::from)),
        "{tables}"
    );
}

/// SHA-256 of the log and of the tables as text. If one changes, raise the number of its kind and record it anew.
const RECORDED: [&str; 2] = [
    "4d6fe0f359a450c711f3bac55cde23f572886c9bcdb1da6ddc9146c9ef101076",
    "378c6e98253fee37120db434b8e474aaadef9132c5c4260b60490f698c937c56",
];

#[test]
fn an_entry_of_a_newer_program_is_refused_with_the_reason() {
    let newer = br#"{"format":1,"behaviour":2,"n":1,"colour":"red"}
"#;
    assert_eq!(
        LogEntry::decode(newer).unwrap_err(),
        "a newer mesync wrote it"
    );
    let foreign = LogEntry::decode(b"{\"format\":1,\"behaviour\":1,\"n\":1,\"colour\":\"red\"}\n")
        .unwrap_err();
    assert!(foreign.contains("colour"), "{foreign}");
    assert!(LogEntry::decode(b"").is_err() && LogEntry::decode(b"{}").is_err());
}
