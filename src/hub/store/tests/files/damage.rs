//! Chunks that are lost, damaged, or cannot be moved to their place.

use super::*;
use crate::database::table::OpenTable;

#[test]
fn uploads_that_cannot_be_placed_fail_alone_and_work_when_they_can() {
    let hub = TestStore::new();
    let bytes = noise(1, 20_000);
    let upload = || Op::File(FileOp::put([put(&hub, "big", &bytes, 1)]));
    // a file has the name of that chunk's directory
    let dir = hub
        .dir
        .path()
        .join("chunks")
        .join(&Hash::of(&bytes).to_string()[..2]);
    std::fs::write(&dir, "").unwrap();
    let outcomes = hub
        .store
        .apply(&at(hub.now, vec![upload(), post(&["1 a *"]), upload()]))
        .unwrap();
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(e) if e.kind == Kind::Busy && e.to_string().contains("chunks"));
    assert!(failed(&outcomes[0]) && failed(&outcomes[2]), "{outcomes:?}");
    assert!(
        matches!(outcomes[1], Outcome::Posted { .. }),
        "{outcomes:?}"
    );
    assert!(hub.store.file_named(&name("big")).unwrap().is_none());
    std::fs::remove_file(&dir).unwrap();
    let record = hub.put_bytes("big", &bytes, 1);
    assert!(hub.read_file(record.id, None).unwrap() == bytes);
    assert_eq!(hub.store.examine().damage, Vec::<String>::new());
}

#[test]
fn a_staged_chunk_whose_sync_failed_is_not_trusted() {
    let hub = TestStore::new();
    let bytes = noise(1, 20_000);
    let chunk = Chunk {
        sha256: Hash::of(&bytes),
        size: bytes.len() as u64,
    };
    assert!(
        hub.store
            .stage_chunk(chunk.sha256, &mut bytes.as_slice(), chunk.size)
            .unwrap()
    );
    hub.store.break_syncs();
    assert!(hub.store.staged(&[chunk]).is_err());
    let hub = hub.reopen();
    assert_eq!(
        hub.store.missing_chunks(&[chunk.sha256]).unwrap(),
        [chunk.sha256]
    );
}

type Harm = fn(&Path);

/// Kinds of damage to the file of a chunk.
const HARMS: [(&str, Harm); 4] = [
    ("a bit is flipped", |path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }),
    ("it is removed", |path| std::fs::remove_file(path).unwrap()),
    ("it is emptied", |path| std::fs::write(path, "").unwrap()),
    ("it is longer", |path| {
        std::fs::write(path, [std::fs::read(path).unwrap(), vec![0]].concat()).unwrap()
    }),
];

impl TestStore {
    fn file_of(&self, bytes: &[u8]) -> std::path::PathBuf {
        self.store.chunks.place_of(Hash::of(bytes))
    }

    /// Reads a file to its end or to the first failure.
    fn reads(&self, full: &str, bytes: &[u8]) -> bool {
        let (_, mut reader) = self.store.open_file(id_of(full), None).unwrap().unwrap();
        let mut got = Vec::new();
        reader.read_to_end(&mut got).is_ok() && got == bytes
    }

    /// A commit that names chunks without sending them.
    fn commit(&self, full: &str, bytes: &[u8], at: u64) -> Changed {
        let chunk = Chunk {
            sha256: Hash::of(bytes),
            size: bytes.len() as u64,
        };
        let staged = self.store.staged(&[chunk]).unwrap();
        let chunks = vec![(chunk, staged[0].clone())];
        self.put(Put {
            chunks,
            size: chunk.size,
            sha256: chunk.sha256,
            ..put(self, full, b"", at)
        })
    }

    pub(super) fn is_whole(&self) {
        assert_eq!(self.store.examine().damage, Vec::<String>::new());
        assert_eq!(
            (self.store.lost_count(), self.store.has_found_losses()),
            (0, false)
        );
    }
}

#[test]
fn nothing_is_acknowledged_that_relies_on_a_lost_chunk() {
    for (how, harm) in HARMS {
        let hub = TestStore::new();
        let bytes = noise(1, 30_000);
        hub.put_bytes("big", &bytes, 1);
        harm(&hub.file_of(&bytes));
        // not read since: upload the same content again, under another name, and with another time
        for (full, at) in [("big", 1), ("copy", 1), ("big", 2)] {
            assert_eq!(
                word(&hub.commit(full, &bytes, at)),
                "missing 1",
                "{how}: {full} {at}"
            );
        }
        assert!(
            hub.store.file_named(&name("copy")).unwrap().is_none(),
            "{how}"
        );
        assert_eq!(
            hub.store.missing_chunks(&[Hash::of(&bytes)]).unwrap(),
            [Hash::of(&bytes)],
            "{how}"
        );
        assert!(
            hub.store.file(id_of("big")).unwrap().unwrap().wanted,
            "{how}"
        );
    }
}

#[test]
fn bytes_received_under_any_name_restore_a_lost_chunk() {
    for (how, harm) in HARMS {
        for (what, full, at) in [
            ("the same again", "big", 1),
            ("another name", "copy", 1),
            ("another time", "big", 2),
        ] {
            let hub = TestStore::new();
            let bytes = noise(1, 30_000);
            hub.put_bytes("big", &bytes, 1);
            harm(&hub.file_of(&bytes));
            assert!(
                !hub.reads("big", &bytes) && hub.store.is_wanted(Hash::of(&bytes)),
                "{how}"
            );
            let changed = hub.put(put(&hub, full, &bytes, at));
            assert!(
                !matches!(changed, Changed::Missing(_)),
                "{how}, {what}: {changed:?}"
            );
            assert!(hub.reads("big", &bytes), "{how}, {what}");
            hub.is_whole();
        }
        // a single chunk, as a client sends it that was asked
        let hub = TestStore::new();
        let bytes = noise(1, 30_000);
        hub.put_bytes("big", &bytes, 1);
        harm(&hub.file_of(&bytes));
        assert!(!hub.reads("big", &bytes));
        assert!(
            hub.store
                .stage_chunk(Hash::of(&bytes), &mut bytes.as_slice(), 30_000)
                .unwrap()
        );
        // staged by a request that failed afterwards: the next client that asks sends it
        assert_eq!(
            hub.store.missing_chunks(&[Hash::of(&bytes)]).unwrap(),
            [Hash::of(&bytes)],
            "{how}"
        );
        let op = hub
            .store
            .mend_op(Hash::of(&bytes), 30_000)
            .unwrap()
            .unwrap();
        assert_eq!(hub.apply(Op::File(op)), Outcome::Done);
        assert!(hub.reads("big", &bytes), "{how}");
        hub.is_whole();
    }
}

#[test]
fn lost_chunks_are_known_after_a_restart_and_named_until_restored_or_unneeded() {
    let mut hub = TestStore::new();
    let (first, second) = (noise(1, 30_000), noise(2, 30_000));
    hub.put_bytes("d/first", &first, 1);
    hub.put_bytes("second", &second, 1);
    for bytes in [&first, &second] {
        std::fs::write(hub.file_of(bytes), "").unwrap();
    }
    assert!(!hub.reads("d/first", &first) && !hub.reads("second", &second));
    // an older revision needs one of them too
    hub.put_bytes("second", b"short", 2);
    // each group begins with the found losses
    let due = hub.store.due();
    hub.store.apply(&at(hub.now, due)).unwrap();
    assert_eq!(word(&hub.restore(id_of("second"), Some(2))), "missing 1");
    let mut hub = {
        hub.now += 1;
        hub.reopen()
    };
    assert_eq!(hub.store.lost_count(), 2);
    assert_eq!(
        hub.store.wanted_names(0, 10).unwrap(),
        (vec![name("d/first")], 1),
        "versions are for nobody to send"
    );
    assert_eq!(hub.store.wanted_names(1, 10).unwrap(), (vec![], 1));
    assert_eq!(word(&hub.restore(id_of("second"), Some(2))), "missing 1");
    let lost = hub.store.examine().lost;
    let words: Vec<(&str, u64, bool)> = lost
        .iter()
        .map(|l| (l.name.as_str(), l.rev, l.is_current))
        .collect();
    assert_eq!(words, [("d/first", 1, true), ("second", 2, false)]);
    assert!(
        lost.iter().all(|lost| lost.wanted_since.is_some()),
        "{lost:?}"
    );
    hub.put_bytes("elsewhere", &first, 1);
    assert!(hub.reads("d/first", &first));
    assert_eq!(hub.store.lost_count(), 1);
    // the version is removed, and a day later its chunk
    hub.now += 40 * DAY;
    hub.sweep_files();
    hub.now += 2 * DAY;
    hub.sweep_files();
    hub.is_whole();
}

#[test]
fn short_contents_in_the_tables_are_mended_too() {
    let hub = TestStore::new();
    hub.put_bytes("short", b"some text", 1);
    let harm = |bytes: Option<&[u8]>| {
        let db = hub.store.db.read().unwrap();
        let tx = db.as_ref().unwrap().begin_write().unwrap();
        {
            let mut packs = tx.table(crate::hub::store::files::PACKS).unwrap();
            let number = packs.last().unwrap().unwrap().0.value();
            match bytes {
                Some(bytes) => {
                    let head = [&Hash::of(b"some text").0[..], &[9, 0]].concat();
                    let pack = [&head, bytes].concat();
                    drop(packs.insert(number, pack.as_slice()).unwrap());
                }
                None => drop(packs.remove(number).unwrap()),
            }
        }
        tx.commit().unwrap();
    };
    for bytes in [Some(&b"some test"[..]), Some(b""), None] {
        harm(bytes);
        assert!(!hub.reads("short", b"some text"), "{bytes:?}");
        assert_eq!(word(&hub.commit("copy", b"some text", 1)), "missing 1");
        assert_eq!(
            word(&hub.put(put(&hub, "short", b"some text", 1))),
            "unchanged 1"
        );
        assert!(hub.reads("short", b"some text"), "{bytes:?}");
        hub.is_whole();
        // a chunk that was uploaded alone becomes a file
        harm(bytes);
        assert!(!hub.reads("short", b"some text"));
        assert!(
            hub.store
                .stage_chunk(Hash::of(b"some text"), &mut &b"some text"[..], 9)
                .unwrap()
        );
        hub.apply(Op::File(
            hub.store
                .mend_op(Hash::of(b"some text"), 9)
                .unwrap()
                .unwrap(),
        ));
        assert!(hub.reads("short", b"some text"), "{bytes:?}");
        hub.is_whole();
        // and becomes inline again
        std::fs::remove_file(hub.file_of(b"some text")).unwrap();
        assert!(!hub.reads("short", b"some text"));
        hub.put(put(&hub, "short", b"some text", 1));
        assert!(hub.reads("short", b"some text") && !hub.file_of(b"some text").exists());
        hub.is_whole();
    }
}

#[test]
fn a_read_for_which_there_are_no_descriptors_says_nothing_about_the_chunk() {
    let hub = TestStore::new();
    let wanted = &hub.store.chunks.wanted;
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
        wanted.note_error(Hash::of(b"x"), &std::io::Error::from_raw_os_error(code));
    }
    assert_eq!(hub.store.lost_count(), 0);
    wanted.note_error(
        Hash::of(b"x"),
        &std::io::Error::from_raw_os_error(libc::EIO),
    );
    assert_eq!(hub.store.lost_count(), 1);
    // a chunk that no table has is not wanted
    hub.store.apply(&at(hub.now, hub.store.due())).unwrap();
    hub.is_whole();
}

#[test]
fn a_backup_contains_the_remaining_chunks() {
    let hub = TestStore::new();
    let (lost, kept) = (noise(1, 30_000), noise(2, 30_000));
    hub.put_bytes("lost", &lost, 1);
    hub.put_bytes("kept", &kept, 1);
    std::fs::remove_file(hub.file_of(&lost)).unwrap();
    let target = TempDir::new().unwrap();
    let backup = hub.store.backup(target.path()).unwrap();
    assert_eq!((backup.chunks, backup.lost), (1, 1));
    let found = crate::hub::store::check::check(target.path(), 1 << 20).unwrap();
    assert_eq!(
        found
            .lost
            .iter()
            .map(|l| l.name.as_str())
            .collect::<Vec<_>>(),
        ["lost"]
    );
    assert!(hub.store.is_wanted(Hash::of(&lost)));
    // the restored hub asks for it from the start
    crate::hub::store::check::ask_for_lost(target.path(), 1 << 20, &found.lost_chunks, 5).unwrap();
    let restored = Store::open(target.path(), 1 << 20, hub.now, Uuid::from_u128(7)).unwrap();
    assert_eq!(restored.lost_count(), 1);
    drop(restored);
    // and no longer when it is whole again
    crate::hub::store::check::ask_for_lost(target.path(), 1 << 20, &Default::default(), 5).unwrap();
    assert_eq!(
        Store::open(target.path(), 1 << 20, hub.now, Uuid::from_u128(7))
            .unwrap()
            .lost_count(),
        0
    );
}

#[test]
fn nothing_is_acknowledged_into_a_file_that_the_next_start_will_not_find() {
    type Act = fn(&Path);
    let acts: [(&str, Act); 3] = [
        ("removed", |file| std::fs::remove_file(file).unwrap()),
        ("replaced", |file| {
            std::fs::copy(file, file.with_extension("copy")).unwrap();
            crate::disk::rename(&file.with_extension("copy"), file).unwrap();
        }),
        ("cut", |file| {
            std::fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(8192)
                .unwrap()
        }),
    ];
    for (how, act) in acts {
        let hub = TestStore::new();
        hub.put_bytes("f", b"text", 1);
        act(&hub.dir.path().join(Store::FILE));
        assert!(!hub.store.is_in_place(), "{how}");
        let e = hub
            .store
            .apply(&at(hub.now, vec![post(&["1 a *"])]))
            .unwrap_err();
        assert!(
            e.kind == Kind::Damaged && e.to_string().contains("while the hub ran"),
            "{how}: {e}"
        );
    }
}

#[test]
fn directories_that_were_removed_are_made_again() {
    let hub = TestStore::new();
    for dir in ["chunks", "staging"] {
        std::fs::remove_dir_all(hub.dir.path().join(dir)).unwrap();
        let bytes = noise(1, 100_000);
        let record = hub.put_bytes(dir, &bytes, 1);
        assert!(hub.read_file(record.id, None).unwrap() == bytes);
    }
    hub.is_whole();
}
