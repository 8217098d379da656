//! Copies of the store, hubs that start from them, and the check of both.

use std::os::unix::fs::MetadataExt;

use super::disk::SmallDisk;
use super::*;
use crate::database::lsm::LsmTable;
use crate::database::table::OpenTable;
use crate::hub::store::check::check;
use crate::hub::store::files::CHUNKS;
use crate::hub::store::findings::Findings;

/// Messages and files of all sorts.
fn hub() -> TestStore {
    let hub = TestStore::new();
    hub.pull("b", None);
    hub.post(&["1 a *", "2 a b"]);
    hub.put_bytes("short", b"1", 1);
    hub.put_bytes("short", b"2", 2);
    hub.put_bytes("d/large", &noise(1, 20_000), 1);
    hub.put_bytes("d/large", &noise(2, 30_000), 2);
    hub.put_bytes("gone", &noise(3, 40_000), 1);
    hub.delete(id_of("gone"), Condition::None);
    hub.put(Put {
        author: by("a", Some(1)),
        ..put(&hub, "keyed", b"", 1)
    });
    hub
}

fn chunk_file(dir: &Path, bytes: &[u8]) -> std::path::PathBuf {
    let name = Hash::of(bytes).to_string();
    dir.join("chunks").join(&name[..2]).join(name)
}

fn without_epoch(rows: Vec<String>) -> Vec<String> {
    rows.into_iter()
        .filter(|row| !row.starts_with("meta \"epoch\""))
        .collect()
}

fn table_names(store: &Store) -> Vec<String> {
    use redb::TableHandle;
    let db = store.db.read().unwrap();
    let tx = db.as_ref().unwrap().begin_read().unwrap();
    let mut names: Vec<String> = tx
        .list_tables()
        .unwrap()
        .map(|table| table.name().to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_is_whole_and_begins_another_epoch() {
    let hub = hub();
    std::fs::write(hub.dir.path().join("keys.toml"), "# keys").unwrap();
    let target = TempDir::new_in(hub.dir.path().parent().unwrap()).unwrap();
    let dir = target.path().join("new/backup");
    let made = hub.store.backup(&dir).unwrap();
    assert_eq!((made.files, made.chunks, made.copied), (3, 3, 0));
    let inode = |dir: &Path| {
        std::fs::metadata(chunk_file(dir, &noise(1, 20_000)))
            .unwrap()
            .ino()
    };
    assert_eq!(
        inode(&dir),
        inode(hub.dir.path()),
        "a further name, not a copy"
    );
    assert_eq!(
        std::fs::read_to_string(dir.join("keys.toml")).unwrap(),
        "# keys"
    );
    assert_eq!(
        hub.store.backup(&dir).unwrap_err().kind,
        Kind::CannotCreate,
        "never into another one"
    );
    let findings = check(&dir, 1 << 20).unwrap();
    assert_eq!(
        Findings {
            bytes: 0,
            ..findings
        },
        Findings {
            files: 3,
            versions: 3,
            chunks: 5,
            ..Findings::default()
        }
    );

    // later changes of the hub are not in the backup
    let before = without_epoch(dump(&hub.store));
    let tables = table_names(&hub.store);
    hub.put_bytes("later", b"1", 1);
    let restored = Store::open(&dir, 1 << 20, hub.now, Uuid::from_u128(7)).unwrap();
    assert_eq!(
        (restored.epoch(), restored.rev().unwrap()),
        (Uuid::from_u128(7), 7 + (1 << 32))
    );
    let instance = format!("Some({})", instance(1).unwrap().as_u128());
    let wanted: Vec<String> = (before.into_iter())
        .map(|row| match row.as_str() {
            "meta \"rev\" 7" => format!("meta \"rev\" {}", 7 + (1u64 << 32)),
            _ if row.starts_with("host \"b\"") => row.replace(&instance, "None"),
            _ => row,
        })
        .chain([format!(
            "commit {} (7, {}, Some(7))",
            7 + (1u64 << 32),
            hub.now
        )])
        .collect();
    assert_eq!(without_epoch(dump(&restored)), wanted);
    assert_eq!(table_names(&restored), tables);
    let restored = TestStore {
        store: restored,
        dir: target,
        now: hub.now,
    };
    assert!(restored.read_file(id_of("d/large"), None).unwrap() == noise(2, 30_000));
    assert!(restored.read_file(id_of("gone"), Some(5)).unwrap() == noise(3, 40_000));
    assert_eq!(restored.put_bytes("new", b"1", 1).rev, 8 + (1 << 32));
    drop(restored.store);
    let again = Store::open(&dir, 1 << 20, 0, Uuid::from_u128(8)).unwrap();
    assert_eq!(
        (again.epoch(), again.rev().unwrap()),
        (Uuid::from_u128(7), 8 + (1 << 32)),
        "once"
    );
}

#[test]
fn no_chunk_is_removed_while_a_backup_is_made() {
    let mut hub = hub();
    hub.now += 40 * DAY;
    hub.sweep_files();
    let paused = hub.store.chunks.pause();
    hub.now += DAY;
    hub.sweep_files();
    assert_eq!(
        (hub.store.file_counts().unwrap().chunks, hub.on_disk().0),
        (2, 3),
        "forgotten, and still there"
    );
    drop(paused);
    hub.sweep_files();
    assert_eq!(hub.on_disk().0, 1);
}

#[test]
fn a_backup_onto_another_disk_is_copied_and_one_without_room_leaves_nothing() {
    let hub = hub();
    let Some(disk) = SmallDisk::new("8m") else {
        eprintln!("SKIPPED: mounting a small disk takes root");
        return;
    };
    let dir = disk.path().join("b");
    assert_eq!(hub.store.backup(&dir).unwrap().copied, 90_000);
    assert_eq!(check(&dir, 1 << 20).unwrap().damage, [""; 0]);
    for n in 0..200 {
        hub.put_bytes(&format!("many/{n}"), &noise(100 + n, 60_000), 1);
    }
    let dir = disk.path().join("c");
    let e = hub.store.backup(&dir).unwrap_err();
    assert!(
        e.kind == Kind::Busy && std::fs::read_dir(&dir).unwrap().next().is_none(),
        "{e:?}"
    );
    assert!(hub.put(put(&hub, "after", b"1", 1)).is_change());
}

#[test]
fn a_check_names_damaged_chunks() {
    let TestStore { store, dir, .. } = hub();
    drop(store);
    let (first, second, third) = (noise(1, 20_000), noise(2, 30_000), noise(3, 40_000));
    let file = |bytes: &[u8]| chunk_file(dir.path(), bytes);
    let found = || check(dir.path(), 1 << 20).unwrap().damage.join("\n");
    assert_eq!(found(), "");
    let mut other = first.clone();
    other[100] ^= 1;
    std::fs::write(file(&first), &other).unwrap();
    std::fs::write(file(&second), &second[1..]).unwrap();
    std::fs::remove_file(file(&third)).unwrap();
    std::fs::write(file(&first).with_file_name("left"), "x").unwrap();
    let words = found();
    for wants in ["another checksum", "29999 bytes, not 30000", "no such file"] {
        assert!(words.contains(wants), "{wants}: {words}");
    }
    assert_eq!(words.lines().count(), 3, "{words}");
    assert!(check(dir.path(), 1 << 20).unwrap().orphans[0].ends_with("/left"));
    [(&first, &first), (&second, &second), (&third, &third)]
        .into_iter()
        .for_each(|(at, bytes)| std::fs::write(file(at), bytes).unwrap());
    assert_eq!(found(), "");
    // the tables against each other
    let db = redb::Database::open(dir.path().join("hub.redb")).unwrap();
    let tx = db.begin_write().unwrap();
    {
        let mut chunks = LsmTable::open(&tx, &CHUNKS, false).unwrap();
        let hash = Hash::of(&first).0;
        let (size, count, since, on_disk) = chunks.get(&hash).unwrap().unwrap().value();
        chunks
            .insert(&hash, (size, count + 1, since, on_disk))
            .unwrap();
        chunks.remove(&Hash::of(&second).0).unwrap();
        chunks.finish().unwrap();
        tx.table(crate::hub::store::meta::META)
            .unwrap()
            .insert("files", 9)
            .unwrap();
    }
    tx.commit().unwrap();
    drop(db);
    let words = found();
    for wants in [
        "has 2 references, not 1",
        "1 chunks that files need are not in the tables",
        "the totals say 9 files",
    ] {
        assert!(words.contains(wants), "{wants}: {words}");
    }
    let e = open(dir.path())
        .backup(&dir.path().join("copy"))
        .map(|_| ())
        .map_err(|e| e.kind);
    assert_eq!(
        e,
        Ok(()),
        "what is missing in the tables is not noticed by a copy"
    );
    std::fs::remove_file(file(&third)).unwrap();
    let copy = dir.path().join("copy2");
    assert_eq!(
        open(dir.path()).backup(&copy).unwrap().lost,
        1,
        "what is left is worth a backup"
    );
    let nothing = TempDir::new().unwrap();
    assert_eq!(
        check(nothing.path(), 1 << 20).unwrap_err().kind,
        Kind::Settings
    );
}

#[test]
fn a_store_that_knew_no_files_gains_them() {
    let TestStore { store, dir, now } = hub();
    let before = table_names(&store);
    drop(store);
    let db = redb::Database::open(dir.path().join("hub.redb")).unwrap();
    let tx = db.begin_write().unwrap();
    let names: Vec<String> = before
        .iter()
        .filter(|name| name.starts_with("file") || name.starts_with("chunk"))
        .cloned()
        .collect();
    for handle in tx.list_tables().unwrap().collect::<Vec<_>>() {
        use redb::TableHandle;
        if names.contains(&handle.name().to_string()) {
            tx.delete_table(handle).unwrap();
        }
    }
    tx.table(crate::hub::store::meta::META)
        .unwrap()
        .insert("schema", crate::hub::store::meta::UNTAGGED)
        .unwrap();
    tx.commit().unwrap();
    drop(db);
    assert_eq!(
        (
            names.len(),
            check(dir.path(), 1 << 20).unwrap().damage.len()
        ),
        (19, 0)
    );
    let hub = TestStore {
        store: open(dir.path()),
        dir,
        now,
    };
    assert_eq!(table_names(&hub.store), before);
    assert!(dump(&hub.store).contains(&"meta \"schema\" 4".to_string()));
    assert_eq!(hub.pull("b", None), "1:1 2:2");
    hub.put_bytes("short", b"1", 1);
}
