//! Full disks.

use super::disk::SmallDisk;
use super::*;

#[test]
fn below_its_reserve_the_hub_takes_no_files_and_deletes_make_room() {
    let mut hub = TestStore::new();
    let id = hub.put_bytes("f", &noise(1, 20_000), 1).id;
    hub.put_bytes("f", b"2", 2);
    let full = |hub: &TestStore, op: Op| {
        let group = Group {
            full: true,
            ..at(hub.now, vec![op])
        };
        hub.store.apply(&group).unwrap().remove(0)
    };
    let put_op = FileOp::put(vec![
        put(&hub, "g", &noise(2, 20_000), 1),
        put(&hub, "f", b"2", 2),
    ]);
    let Outcome::Changed(changed) = full(&hub, Op::File(put_op)) else {
        panic!()
    };
    assert_eq!(
        changed.iter().map(word).collect::<Vec<_>>(),
        ["DiskFull", "unchanged 2"]
    );
    assert_eq!(hub.on_disk(), (1, 0), "what was staged for it is gone");
    let restore = FileOp::Restore {
        id,
        rev: Some(1),
        condition: Condition::None,
        author: by("a", None),
    };
    assert_eq!(
        full(&hub, Op::File(restore)),
        Outcome::Changed(vec![Changed::DiskFull])
    );
    assert!(matches!(
        full(
            &hub,
            Op::File(FileOp::Ask {
                host: "a".into(),
                key: Uuid::from_u128(1),
                knows: 0.into()
            })
        ),
        Outcome::Asked(_)
    ));
    assert!(hub.store.wants_sweep(hub.now, true, FILE_LIMITS).unwrap());
    full(&hub, Op::Sweep);
    assert_eq!(
        hub.store.versions(id).unwrap().len(),
        0,
        "versions give way before their time"
    );
    assert_eq!(hub.on_disk().0, 1);
    hub.now += 60_000;
    full(&hub, Op::Sweep);
    assert_eq!(hub.on_disk().0, 0, "and their chunks soon");
    let delete = FileOp::delete(id, Condition::None, by("a", None));
    assert!(matches!(full(&hub, Op::File(delete)), Outcome::Changed(c) if c[0].is_change()));
}

#[test]
fn a_disk_that_fills_up_refuses_bodies_and_loses_nothing() {
    let Some(disk) = SmallDisk::new("24m") else {
        eprintln!("SKIPPED: mounting a small disk takes root");
        return;
    };
    let hub = TestStore {
        store: open(disk.path()),
        dir: TempDir::new().unwrap(),
        now: 1000,
    };
    let mut kept = Vec::new();
    let refused = (0..1000).find_map(|n| {
        let mut intake = hub.store.intake().unwrap();
        let bytes = noise(n, 200_000);
        if let Err(e) = intake.write(&bytes) {
            return Some(e);
        }
        let body = match intake.finish() {
            Ok(body) => body,
            Err(e) => return Some(e),
        };
        let template = put(&hub, "x", b"", 1);
        let chunks = body.content.chunks.into_iter().zip(body.bytes).collect();
        let full = format!("f{n}");
        let put = Put {
            name: name(&full),
            fresh: id_of(&full),
            size: 200_000,
            sha256: body.content.sha256,
            chunks,
            ..template
        };
        kept.push((made(hub.put(put)).id, n));
        None
    });
    assert_eq!(
        refused.map(|e| e.kind()),
        Some(std::io::ErrorKind::StorageFull)
    );
    assert!(kept.len() > 30, "{} files fitted", kept.len());
    // fill the disk from outside, so that even the tables have no space
    let held = put(&hub, "held", &noise(5000, 12_000), 1);
    let mut rest = std::fs::File::create(disk.path().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    let many = (0..200).map(|n| Put {
        name: name(&format!("h{n}")),
        fresh: id_of(&format!("h{n}")),
        ..unique(&held, n)
    });
    assert!(
        hub.file_op(FileOp::put(many))
            .iter()
            .all(|c| *c == Changed::DiskFull)
    );
    for (id, n) in &kept {
        assert!(hub.read_file(*id, None).unwrap() == noise(*n, 200_000));
    }
    for (id, _) in &kept {
        assert!(hub.delete(*id, Condition::None).is_change());
    }
}

/// The same with other bytes, which are part of the operation.
fn unique(put: &Put, n: u64) -> Put {
    let bytes = noise(6000 + n, 12_000);
    let chunk = Chunk {
        sha256: Hash::of(&bytes),
        size: 12_000,
    };
    Put {
        sha256: chunk.sha256,
        chunks: vec![(chunk, Bytes::Inline(bytes))],
        ..put.clone()
    }
}
