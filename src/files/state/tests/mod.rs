//! Tests the state against a plain map, across reopening, full disks and damage.

mod model;

use proptest::prelude::*;

use super::*;
use crate::database::lsm::LsmTable;
use crate::files::plan::{BaseRow, Entry, RemoteRow, Stamp};
use crate::wire::files::EntryKind;
use model::{Model, write};

fn opened() -> (tempfile::TempDir, DiskState) {
    let dir = tempfile::tempdir().unwrap();
    let state = DiskState::open(&dir.path().join("state/watch/x.redb")).unwrap();
    (dir, state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn it_behaves_like_plain_maps(commits in proptest::collection::vec(proptest::collection::vec(write(), 1..12), 1..6)) {
        let (dir, mut state) = opened();
        let mut model = Model::default();
        for writes in commits {
            writes.iter().for_each(|w| model.apply(w));
            state.commit(&writes).unwrap();
            model.compare(&state);
        }
        drop(state);
        state = DiskState::open(&dir.path().join("state/watch/x.redb")).unwrap();
        model.compare(&state);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>, at: usize, write in write()) {
        let _ = (StateRecord::decode(&bytes), codec::decode_feed(&bytes));
        let mut rows = Rows::default();
        match write {
            Write::Base(_, base) => rows.base = base,
            Write::Remote { row, .. } => rows.remote = row,
            Write::Intent(_, intent) => rows.intent = intent,
            Write::OpenKey(key) => rows.key = Some(key),
            _ => {}
        }
        let record = StateRecord { rows, listed: 7 };
        bytes = record.encode();
        prop_assert_eq!(StateRecord::decode(&bytes), Ok(record));
        prop_assert_eq!(StateRecord::decode(&bytes[..at % bytes.len()]), Err(Damaged));
        bytes.push(0);
        prop_assert_eq!(StateRecord::decode(&bytes), Err(Damaged));
    }
}

fn row(i: u64) -> Rows {
    let entry = Entry {
        kind: EntryKind::File,
        hash: Hash::of(&i.to_le_bytes()),
        size: 4000 + i,
        mode: 0o644,
        mtime: 1_700_000_000_000_000_000,
    };
    let seen = Stamp {
        inode: 1_000_000 + i,
        size: entry.size,
        mtime: entry.mtime,
        ctime: entry.mtime + 5_000_000_000,
        mode: entry.mode,
    };
    let base = BaseRow {
        rev: i,
        lost: false,
        entry: Some(entry),
        seen: Some(seen),
    };
    let remote = RemoteRow {
        rev: i,
        tag: Tag(u64::MAX - i),
        entry: Some(entry),
        id: Uuid::from_u128(u128::from(i)),
        host: Some("machine-1".into()),
        renamed_to: None,
    };
    Rows {
        base,
        remote,
        ..Rows::default()
    }
}

#[test]
fn a_file_in_sync_takes_little_more_than_its_hash_and_id() {
    let bytes = StateRecord {
        rows: row(70_000),
        listed: 3,
    }
    .encode()
    .len();
    assert!(bytes <= 118, "{bytes} bytes");
}

#[test]
fn concurrent_commits_share_a_sync() {
    let (_dir, state) = opened();
    let before = state.written()[0];
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for t in 0..8u64 {
            let (state, barrier) = (&state, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for i in 0..50 {
                    let path = format!("{t}/{i}");
                    state
                        .commit(&[Write::Base(path.clone(), row(t * 100 + i).base)])
                        .unwrap();
                    assert_eq!(state.rows(&path).unwrap().base.rev, t * 100 + i);
                }
            });
        }
    });
    let syncs = state.written()[0] - before;
    assert_eq!(state.files().unwrap(), 400);
    assert!(syncs < 300, "{syncs} syncs for 400 commits");
}

#[test]
fn one_process_has_it_and_damage_begins_anew() {
    let (dir, state) = opened();
    let path = dir.path().join("state/watch/x.redb");
    assert_eq!(
        DiskState::open_or_renew(&path).err().map(|e| e.kind),
        Some(Kind::Busy)
    );
    state
        .commit(&[Write::Base("a".into(), row(1).base)])
        .unwrap();
    state
        .set_note("marker", &Uuid::from_u128(5).to_string())
        .unwrap();
    assert_eq!(
        (state.marker(), state.note("other")),
        (Ok(Some(Uuid::from_u128(5))), Ok(None))
    );
    drop(state);
    let length = std::fs::metadata(&path).unwrap().len();
    for damaged in [vec![0x55; length as usize], b"no tables".to_vec()] {
        std::fs::write(&path, &damaged).unwrap();
        let refused = DiskState::open(&path).err().unwrap();
        assert_eq!(refused.kind, Kind::Damaged, "{refused}");
        assert!(refused.to_string().contains("compared anew"), "{refused}");
        let state = DiskState::open_or_renew(&path).unwrap();
        assert_eq!((state.files(), state.marker()), (Ok(0), Ok(None)));
        assert!(std::fs::read(path.with_extension("redb.damaged")).unwrap() == damaged);
    }
}

#[test]
fn a_failed_sync_is_final() {
    let (_dir, state) = opened();
    state.happened.break_syncs.store(true, Relaxed);
    let writes = [Write::Base("a".into(), row(1).base)];
    assert!(
        matches!(state.commit(&writes), Err(Fault::Fatal(e)) if e.to_string().contains("sync failed"))
    );
    state.happened.break_syncs.store(false, Relaxed);
    assert!(matches!(state.commit(&writes), Err(Fault::Fatal(_))));
}

#[test]
fn each_pair_of_directories_has_a_file_of_its_own() {
    let file = |dir: &str, server, remote| file(Path::new("/base"), Path::new(dir), server, remote);
    let one = file("/a", "http://h", "");
    assert_eq!(
        (one.parent(), one.clone()),
        (
            Some(Path::new("/base/state/watch")),
            file("/a", "http://h", "")
        )
    );
    for other in [
        file("/b", "http://h", ""),
        file("/a", "http://g", ""),
        file("/a", "http://h", "x"),
    ] {
        assert_ne!(one, other);
    }
}

/// Needs root, because it mounts a filesystem; otherwise skipped with a message.
#[test]
fn a_full_disk_refuses_until_it_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "none"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        return eprintln!("cannot mount here: not tested");
    }
    let checked = std::panic::catch_unwind(|| {
        let state = DiskState::open(&dir.path().join("x.redb")).unwrap();
        state
            .commit(&[Write::Base("first".into(), row(1).base)])
            .unwrap();
        std::fs::write(dir.path().join("ballast"), vec![1; 5 << 20]).unwrap_or(());
        let many: Vec<Write> = (0..20_000)
            .map(|i| Write::Base(format!("directory/{i}"), row(i).base))
            .collect();
        let full = state.commit(&many);
        assert!(matches!(full, Err(Fault::NoSpace(_))), "{full:?}");
        assert_eq!(
            (state.files(), state.rows("first").unwrap().base.rev),
            (Ok(1), 1)
        );
        std::fs::remove_file(dir.path().join("ballast")).unwrap();
        state.commit(&many[..1000]).unwrap();
        assert_eq!(state.files(), Ok(1001));
    });
    assert!(
        std::process::Command::new("umount")
            .arg(dir.path())
            .status()
            .unwrap()
            .success()
    );
    checked.unwrap_or_else(|e| std::panic::resume_unwind(e));
}

/// Makes the tables as an earlier version has them: all hashes are in one.
fn in_one_table(path: &Path) {
    let db = database::open(path, CACHE_BYTES, &Arc::default(), &HINTS).unwrap();
    let tx = db.begin_write().unwrap();
    {
        let mut hashes = LsmTable::open(&tx, &HASHES, false).unwrap();
        hashes.merge().unwrap();
        let mut meta = tx.table(META).unwrap();
        let earlier = EARLIER[1].to_le_bytes();
        meta.insert("schema", earlier.as_slice()).unwrap();
    }
    for level in HASHES.levels {
        assert!(tx.delete_table(level).unwrap());
    }
    tx.commit().unwrap();
}

#[test]
fn contents_are_found_whatever_table_has_their_hashes() {
    let (dir, state) = opened();
    let path = dir.path().join("state/watch/x.redb");
    let named = |i: u64, to: u64| Write::Base(format!("f{i}"), row(to).base);
    let commit = |state: &DiskState, writes: &mut dyn Iterator<Item = Write>| {
        state.commit(&writes.collect::<Vec<_>>()).unwrap();
    };
    let check = |state: &DiskState| {
        for i in 0..2000 {
            let paths = |to| {
                state
                    .with_hash(&row(to).base.entry.unwrap().hash, 9)
                    .unwrap()
            };
            let (was, is) = if i < 100 {
                (i, 10_000 + i)
            } else {
                (20_000, i)
            };
            assert_eq!(
                (paths(was), paths(is)),
                (vec![], vec![format!("f{i}")]),
                "{i}"
            );
        }
    };
    let stored = |state: &DiskState| {
        let rows = |snapshot: &StateSnapshot| {
            let lengths = HASHES
                .levels
                .map(|level| snapshot.tx.table(level).unwrap().len());
            Ok(lengths.map(|length| length.unwrap()))
        };
        state.read(rows).unwrap()
    };
    commit(&state, &mut (0..1900).map(|i| named(i, i)));
    assert_eq!(stored(&state), [0, 1900]);
    commit(&state, &mut (1900..2000).map(|i| named(i, i)));
    commit(&state, &mut (0..100).map(|i| named(i, 10_000 + i)));
    // the old hashes are removed rows
    assert_eq!(stored(&state), [300, 1900]);
    check(&state);
    drop(state);
    in_one_table(&path);
    let state = DiskState::open(&path).unwrap();
    assert_eq!(stored(&state), [0, 0]);
    check(&state);
    // a few rows go to the table, many do not
    commit(&state, &mut (0..3).map(|i| named(i, 30_000 + i)));
    assert_eq!(stored(&state), [0, 0]);
    commit(&state, &mut (0..100).map(|i| named(i, 40_000 + i)));
    assert_eq!(stored(&state), [200, 0]);
    commit(&state, &mut (0..100).map(|i| named(i, 10_000 + i)));
    check(&state);
}
