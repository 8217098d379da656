//! Expired rows are removed, leftovers of a crash too, and all other rows stay.

use super::*;

const HOUR: u64 = 3_600_000;

fn chunks(hub: &TestStore) -> u64 {
    hub.store.file_counts().unwrap().chunks
}

#[test]
fn chunks_are_removed_a_day_after_the_last_revision_that_refers_to_them() {
    let mut hub = TestStore::new();
    let large = noise(1, 20_000);
    let id = hub.put_bytes("f", &large, 1).id;
    hub.put_bytes("g", &large, 1);
    hub.put_bytes("f", b"small", 2);
    hub.delete(id_of("g"), Condition::None);
    let (_, mut reader) = hub.store.open_file(id, Some(1.into())).unwrap().unwrap();
    hub.sweep_files();
    assert_eq!((chunks(&hub), hub.on_disk().0), (2, 1));
    hub.now += 30 * DAY;
    hub.sweep_files();
    assert!(hub.read_file(id, Some(1)).is_none() && hub.store.versions(id).unwrap().is_empty());
    assert_eq!((chunks(&hub), hub.on_disk().0), (2, 1), "a day of grace");
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == large, "who reads it comes to the end");
    hub.now += DAY;
    hub.sweep_files();
    assert_eq!((chunks(&hub), hub.on_disk().0), (1, 0));
    assert_eq!(hub.read_file(id, None).unwrap(), b"small");
    hub.delete(id, Condition::None);
    hub.now += 32 * DAY;
    hub.sweep_files();
    hub.now += DAY;
    hub.sweep_files();
    assert_eq!(chunks(&hub), 0, "the short one too");
}

#[test]
fn a_group_that_sweeps_keeps_its_own_chunks() {
    let mut hub = TestStore::new();
    let large = noise(1, 20_000);
    hub.put_bytes("f", &large, 1);
    hub.delete(id_of("f"), Condition::None);
    hub.now += 30 * DAY;
    hub.sweep_files();
    hub.now += DAY;
    let again = put(&hub, "g", &large, 1);
    let known = Put {
        chunks: again
            .chunks
            .iter()
            .map(|(c, _)| (*c, Bytes::Known))
            .collect(),
        ..put(&hub, "h", &large, 1)
    };
    let ops = vec![Op::Sweep, Op::File(FileOp::put([again, known])), Op::Sweep];
    let outcomes = hub.store.apply(&at(hub.now, ops)).unwrap();
    let Outcome::Changed(changed) = &outcomes[1] else {
        panic!()
    };
    assert!(changed.iter().all(|c| c.is_change()), "{changed:?}");
    assert!(hub.read_file(id_of("g"), None).unwrap() == large);
    assert_eq!(hub.on_disk(), (1, 0));
}

#[test]
fn versions_are_bounded_by_number() {
    let hub = TestStore::new();
    let puts = (0..105).map(|n| put(&hub, "f", format!("{n}").as_bytes(), n));
    hub.file_op(FileOp::put(puts));
    let versions = hub.store.versions(id_of("f")).unwrap();
    assert_eq!(
        (versions.len(), versions[0].rev, versions[99].rev),
        (100, 104, 5)
    );
}

#[test]
fn tombstones_are_removed_after_ninety_days_and_old_cursors_with_them() {
    let mut hub = TestStore::new();
    hub.put_bytes("f", b"1", 1);
    hub.put_bytes("g", b"1", 1);
    hub.delete(id_of("f"), Condition::None);
    hub.put_bytes("h", b"1", 1);
    hub.now += 90 * DAY - 1;
    hub.sweep_files();
    assert!(
        hub.store
            .changes(2, 0.into(), None, 10, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .is_some()
    );
    hub.now += 1;
    hub.sweep_files();
    assert!(
        hub.store
            .changes(2, 0.into(), None, 10, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .is_none(),
        "410"
    );
    assert!(
        hub.store
            .changes(3, 0.into(), None, 10, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .is_some()
    );
    assert!(
        hub.store
            .changes(2, 0.into(), Some(3), 10, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .is_some(),
        "a listing that began later"
    );
    assert_eq!(
        hub.store
            .changes(0, 0.into(), None, 10, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .unwrap()
            .changes
            .len(),
        2,
        "from the beginning it always works"
    );
    assert!(hub.store.file(id_of("f")).unwrap().is_none());
    let record = made(hub.put(Put {
        fresh: Uuid::from_u128(9),
        ..put(&hub, "f", b"1", 1)
    }));
    assert_eq!(
        (record.id, record.rev),
        (Uuid::from_u128(9), 5),
        "another file under that name"
    );
    // its events remain, without the fields that are no longer known
    let revs: Vec<u64> = hub
        .store
        .events_after(0, 10)
        .unwrap()
        .unwrap()
        .iter()
        .map(|(rev, _)| *rev)
        .collect();
    assert_eq!(revs, [2, 4, 5]);
}

#[test]
fn keys_are_forgotten_after_a_week() {
    let mut hub = TestStore::new();
    let keyed = |hub: &TestStore, bytes: &[u8]| {
        hub.put(Put {
            author: by("a", Some(1)),
            ..put(hub, "f", bytes, 1)
        })
    };
    keyed(&hub, b"1");
    hub.now += 7 * DAY - 1;
    hub.sweep_files();
    assert_eq!(word(&keyed(&hub, b"2")), "created 1");
    hub.now += 1;
    hub.sweep_files();
    assert_eq!(word(&keyed(&hub, b"2")), "updated 2");
}

#[test]
fn files_that_a_crash_leaves_under_chunks_are_removed_and_no_others() {
    let hub = TestStore::new();
    let large = noise(1, 20_000);
    hub.put_bytes("f", &large, 1);
    let chunks = hub.dir.path().join("chunks");
    let kept = Hash::of(&large).to_string();
    let orphan = Hash::of(b"moved, and then the power was cut").to_string();
    let beside = chunks.join(&kept[..2]).join("notes.txt");
    std::fs::create_dir_all(chunks.join(&orphan[..2])).unwrap();
    std::fs::write(chunks.join(&orphan[..2]).join(&orphan), "torn").unwrap();
    std::fs::write(&beside, "not ours").unwrap();
    let body = feed(hub.store.intake().unwrap(), &noise(2, 20_000));
    let hub = hub.reopen();
    drop(body);
    assert!(
        hub.store.wants_sweep(hub.now, false, FILE_LIMITS).unwrap(),
        "after a start it looks"
    );
    hub.sweep_files();
    assert!(!chunks.join(&orphan[..2]).join(&orphan).exists() && beside.exists());
    assert!(hub.read_file(id_of("f"), None).unwrap() == large);
}

#[test]
fn an_orphan_in_the_way_is_replaced_by_the_synced_chunk() {
    let hub = TestStore::new();
    let large = noise(1, 20_000);
    let hash = Hash::of(&large).to_string();
    let place = hub.dir.path().join("chunks").join(&hash[..2]);
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join(&hash), "torn").unwrap();
    hub.put_bytes("f", &large, 1);
    assert!(hub.read_file(id_of("f"), None).unwrap() == large);
}

#[test]
fn staged_chunks_outlive_a_restart_if_they_are_whole() {
    let hub = TestStore::new();
    let (whole, torn) = (noise(1, 20_000), noise(2, 20_000));
    let chunk = |bytes: &[u8]| Chunk {
        sha256: Hash::of(bytes),
        size: 20_000,
    };
    for bytes in [&whole, &torn] {
        hub.store
            .stage_chunk(Hash::of(bytes), &mut &bytes[..], 20_000)
            .unwrap();
    }
    let mut damaged = torn.clone();
    damaged[7] ^= 1;
    std::fs::write(
        hub.dir
            .path()
            .join("staging")
            .join(Hash::of(&torn).to_string()),
        damaged,
    )
    .unwrap();
    let hub = hub.reopen().reopen();
    assert_eq!(hub.on_disk().1, 2);
    let staged = hub.store.staged(&[chunk(&whole), chunk(&torn)]).unwrap();
    assert!(
        matches!(staged[..], [Bytes::Staged(_), Bytes::Lost]),
        "{staged:?}"
    );
    drop(staged);
    assert_eq!(
        hub.on_disk().1,
        1,
        "the damaged one is gone, the other stays for a commit"
    );
    assert_eq!(
        hub.store
            .missing_chunks(&[Hash::of(&torn), Hash::of(&whole)])
            .unwrap(),
        [Hash::of(&torn)]
    );
}

#[test]
fn uncommitted_chunks_leave_the_staging_directory() {
    let mut hub = TestStore::new();
    let bytes = noise(1, 20_000);
    hub.store
        .stage_chunk(Hash::of(&bytes), &mut &bytes[..], 20_000)
        .unwrap();
    let file = hub
        .dir
        .path()
        .join("staging")
        .join(Hash::of(&bytes).to_string());
    // the clock of the groups begins in 1970, so the file is from then too
    let from = |ms: u64| std::fs::FileTimes::new().set_modified(crate::clock::from_millis(ms));
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_times(from(hub.now))
        .unwrap();
    hub.now += 23 * HOUR;
    hub.sweep_files();
    assert!(file.exists());
    hub.now += 2 * HOUR;
    hub.sweep_files();
    assert!(!file.exists());
    let body = feed(hub.store.intake().unwrap(), &bytes);
    assert_eq!(hub.on_disk().1, 1);
    drop(body);
    let mut half = hub.store.intake().unwrap();
    half.write(&noise(3, 100_000)).unwrap();
    assert_eq!(hub.on_disk().1, 1);
    drop(half);
    assert_eq!(hub.on_disk().1, 0, "dropped, they leave nothing");
}

#[test]
fn events_and_keys_are_bounded_by_number() {
    use crate::hub::store::files::{EVENTS_KEPT, KEYS_KEPT, fill_for_test};
    let hub = TestStore::new();
    // written directly: operations would take longer
    fill_for_test(&hub.store.db, EVENTS_KEPT + 700, KEYS_KEPT + 700);
    assert!(hub.store.wants_sweep(hub.now, false, FILE_LIMITS).unwrap());
    assert_eq!(
        hub.apply(Op::Sweep),
        Outcome::Swept { more: true },
        "a bounded piece"
    );
    hub.sweep_files();
    assert_eq!(hub.store.file_counts().unwrap().events, EVENTS_KEPT);
    assert!(
        hub.store.events_after(699, 1).unwrap().is_none()
            && hub.store.events_after(700, 1).unwrap().is_some()
    );
    let burnt = |key: u128| {
        hub.put(Put {
            author: by("a", Some(key)),
            ..put(&hub, &format!("f{key}"), b"", 1)
        }) == Changed::Burnt
    };
    assert!(!burnt(700) && burnt(701), "the oldest are forgotten");
}
