//! Chunks that are lost, damaged, or cannot be brought to their place.

use super::*;

#[test]
fn uploads_that_cannot_be_placed_fail_alone_and_work_when_they_can() {
    let hub = Hub::new();
    let bytes = noise(1, 20_000);
    let upload = || Op::File(FileOp::Put(vec![put(&hub, "big", &bytes, 1)]));
    // a file is in the way of the directory of that chunk
    let dir = hub.dir.path().join("chunks").join(&Hash::of(&bytes).to_string()[..2]);
    std::fs::write(&dir, "").unwrap();
    let outcomes = hub.store.apply(&at(hub.now, vec![upload(), post(&["1 a *"]), upload()])).unwrap();
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(e) if e.kind == Kind::Busy && e.to_string().contains("chunks"));
    assert!(failed(&outcomes[0]) && failed(&outcomes[2]), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Posted { .. }), "{outcomes:?}");
    assert!(hub.store.file_named(&name("big")).unwrap().is_none());
    std::fs::remove_file(&dir).unwrap();
    let record = hub.put_bytes("big", &bytes, 1);
    assert!(hub.read_file(record.id, None).unwrap() == bytes);
    assert_eq!(hub.store.examine().damage, Vec::<String>::new());
}

#[test]
fn a_staged_chunk_whose_sync_failed_is_not_trusted() {
    let hub = Hub::new();
    let bytes = noise(1, 20_000);
    let chunk = Chunk { sha256: Hash::of(&bytes), size: bytes.len() as u64 };
    assert!(hub.store.stage_chunk(chunk.sha256, &mut bytes.as_slice(), chunk.size).unwrap());
    hub.store.break_syncs();
    assert!(hub.store.staged(&[chunk]).is_err());
    let hub = hub.reopen();
    assert_eq!(hub.store.missing_chunks(&[chunk.sha256]).unwrap(), [chunk.sha256]);
}
