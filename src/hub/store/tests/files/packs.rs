//! Short chunks in packs: those of many files in one value, collected when little is left, and what came before packs.

use std::collections::BTreeMap;

use redb::ReadableDatabase;

use super::*;
use crate::database::lsm::LsmTable;
use crate::database::table::{OpenTable, ReadableTable};
use crate::hub::store::files::{CHUNKS, ChunkPlace, ChunkRow, INLINE, PACKS, PACKS_DEAD, items};
use crate::hub::store::meta::{META, UNPACKED};

const DAY: u64 = 86_400_000;

/// The number of packs, their bytes, and the bytes that no chunk needs.
fn packs(store: &Store) -> (u64, u64, u64) {
    let db = store.db.read().unwrap();
    let tx = db.as_ref().unwrap().begin_read().unwrap();
    let (mut count, mut bytes, mut unused) = (0, 0, 0);
    if tx.table(PACKS).is_err() {
        return (0, 0, 0);
    }
    for row in tx.table(PACKS).unwrap().iter().unwrap() {
        count += 1;
        bytes += row.unwrap().1.value().len() as u64;
    }
    for row in tx.table(PACKS_DEAD).unwrap().iter().unwrap() {
        unused += row.unwrap().1.value().0;
    }
    (count, bytes, unused)
}

fn values(store: &Store) -> usize {
    let rows = dump(store);
    rows.iter().filter(|row| row.starts_with("inline ")).count()
}

fn content(n: u64) -> Vec<u8> {
    noise(n, 4096)
}

/// A hub with these files of 4 KiB, which arrived in one group.
fn hub_with(files: std::ops::Range<u64>) -> TestStore {
    let hub = TestStore::new();
    let all = files.map(|n| put(&hub, &format!("f{n}"), &content(n), n));
    hub.file_op(FileOp::put(all.collect::<Vec<_>>()));
    hub
}

impl TestStore {
    fn has(&self, n: u64) -> bool {
        let id = id_of(&format!("f{n}"));
        self.read_file(id, None).as_deref() == Some(&content(n)[..])
    }

    fn forget(&mut self, files: impl Iterator<Item = u64>) {
        for n in files {
            self.delete(id_of(&format!("f{n}")), Condition::None);
        }
        self.now += 40 * DAY;
        self.sweep_files();
        self.now += 2 * DAY;
        self.sweep_files();
    }
}

#[test]
fn a_group_fills_packs() {
    let hub = hub_with(0..32);
    let item = 4096 + 34;
    assert_eq!(packs(&hub.store), (3, 32 * item, 0));
    assert_eq!(values(&hub.store), 0);
    assert!((0..32).all(|n| hub.has(n)));
    hub.is_whole();
    let hub = hub.reopen();
    assert!((0..32).all(|n| hub.has(n)));
}

#[test]
fn a_pack_moves_when_half_of_it_is_unused_and_is_removed_with_its_last_chunk() {
    let mut hub = hub_with(0..30);
    let item = 4096 + 34;
    assert_eq!(packs(&hub.store), (2, 30 * item, 0));
    hub.forget(0..7);
    assert_eq!(packs(&hub.store), (2, 30 * item, 7 * item));
    hub.is_whole();
    // the eighth of fifteen
    hub.forget(7..8);
    assert_eq!(packs(&hub.store), (2, 22 * item, 0));
    assert!((8..30).all(|n| hub.has(n)));
    hub.is_whole();
    hub.forget(15..30);
    assert_eq!(packs(&hub.store), (1, 7 * item, 0));
    assert!((8..15).all(|n| hub.has(n)));
    hub.is_whole();
    hub.forget(8..15);
    assert_eq!(packs(&hub.store), (0, 0, 0));
    hub.is_whole();
}

#[test]
fn what_is_left_of_many_packs_moves_in_many_sweeps_and_shares_new_ones() {
    let mut hub = hub_with(0..1500);
    hub.forget((0..1500).filter(|n| n % 5 != 0));
    assert!((0..1500).step_by(5).all(|n| hub.has(n)));
    let (count, bytes, unused) = packs(&hub.store);
    let needed = 300 * (4096 + 34);
    assert!(
        bytes == needed + unused && unused <= needed,
        "{bytes}, {unused}"
    );
    assert!(count <= 45, "300 chunks in {count} packs");
    hub.is_whole();
}

#[test]
fn a_chunk_that_comes_again_is_stored_once() {
    let hub = hub_with(0..4);
    let before = packs(&hub.store);
    for n in 0..4 {
        hub.put_bytes(&format!("copy{n}"), &content(n), n);
    }
    assert_eq!(packs(&hub.store), before);
    hub.is_whole();
}

/// Makes the tables as a program without packs has them.
fn unpack_in_place(dir: &Path) {
    let db = redb::Database::open(dir.join(Store::FILE)).unwrap();
    let tx = db.begin_write().unwrap();
    {
        let packs = tx.table(PACKS).unwrap();
        let mut chunks = LsmTable::open(&tx, &CHUNKS, false).unwrap();
        let mut values = tx.table(INLINE).unwrap();
        for pack in packs.iter().unwrap() {
            let (number, pack) = pack.unwrap();
            for item in items(number.value(), pack.value()).unwrap() {
                let row = chunks.get(&item.hash.0).unwrap().unwrap().value();
                let row = ChunkRow {
                    place: ChunkPlace::Value,
                    ..ChunkRow::from_value(row)
                };
                chunks.insert(&item.hash.0, row.value()).unwrap();
                values.insert(&item.hash.0, item.bytes).unwrap();
            }
        }
        chunks.finish().unwrap();
    }
    for level in CHUNKS.levels {
        tx.delete_table(level).unwrap();
    }
    tx.delete_table(PACKS).unwrap();
    tx.delete_table(PACKS_DEAD).unwrap();
    let mut meta = tx.table(META).unwrap();
    meta.insert("schema", UNPACKED).unwrap();
    drop(meta);
    tx.commit().unwrap();
}

#[test]
fn chunks_from_before_packs_are_read_and_removed() {
    let TestStore { store, dir, now } = hub_with(0..10);
    drop(store);
    unpack_in_place(dir.path());
    let found = crate::hub::store::check::check(dir.path(), 1 << 20).unwrap();
    assert_eq!((found.damage, found.chunks), (vec![], 10));
    let store = open(dir.path());
    let mut hub = TestStore { store, dir, now };
    assert!((0..10).all(|n| hub.has(n)));
    assert_eq!(values(&hub.store), 10);
    hub.put_bytes("f10", &content(10), 10);
    assert!(dump(&hub.store).contains(&"meta \"schema\" 4".to_string()));
    hub.is_whole();
    // and are in a backup
    let copy = TempDir::new().unwrap();
    hub.store.backup(copy.path()).unwrap();
    let found = crate::hub::store::check::check(copy.path(), 1 << 20).unwrap();
    assert_eq!((found.damage, found.chunks), (vec![], 11));
    hub.forget(0..5);
    assert_eq!((values(&hub.store), packs(&hub.store).0), (5, 1));
    assert!((5..11).all(|n| hub.has(n)));
    hub.is_whole();
}

#[test]
fn a_view_of_a_bucket_has_values() {
    let hub = hub_with(0..20);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(Store::FILE);
    let cluster = Uuid::from_u128(5);
    hub.store
        .copy_as_view(&path, cluster, &BTreeMap::new())
        .unwrap();
    let view = TestStore {
        store: open(dir.path()),
        dir,
        now: hub.now,
    };
    assert!((0..20).all(|n| view.has(n)));
    assert_eq!((values(&view.store), packs(&view.store).0), (20, 0));
    assert!(dump(&view.store).contains(&"meta \"schema\" 2".to_string()));
    // and a hub that leaves it reads them
    view.store.leave_bucket().unwrap();
    view.put_bytes("f20", &content(20), 20);
    assert!((0..21).all(|n| view.has(n)));
    assert_eq!((values(&view.store), packs(&view.store).0), (20, 1));
    view.is_whole();
}

#[test]
fn damage_to_packs_is_found() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 3] = [
        ("does not have its bytes", |pack| pack[40] ^= 1),
        ("is damaged", |pack| pack.truncate(5000)),
        ("does not have its bytes", |pack| pack.clear()),
    ];
    for (words, harm) in harms {
        let TestStore { store, dir, .. } = hub_with(0..3);
        drop(store);
        let db = redb::Database::open(dir.path().join(Store::FILE)).unwrap();
        let tx = db.begin_write().unwrap();
        {
            let mut packs = tx.table(PACKS).unwrap();
            let mut pack = packs.get(1).unwrap().unwrap().value().to_vec();
            harm(&mut pack);
            packs.insert(1, pack.as_slice()).unwrap();
        }
        tx.commit().unwrap();
        drop(db);
        let found = crate::hub::store::check::check(dir.path(), 1 << 20).unwrap();
        assert!(found.damage.iter().any(|d| d.contains(words)), "{found:?}");
        assert!(found.lost.iter().any(|lost| lost.name == "f0") || words == "is damaged");
    }
}
