//! Files of another program, of another process, of a newer version; and full disks.

use super::*;
use crate::database::table::OpenTable;

#[test]
fn the_store_and_its_epoch_survive_a_reopening() {
    let hub = TestStore::new();
    hub.pull("b", None);
    hub.post(&["1 a *", "2 a b"]);
    let TestStore { store, dir, now } = hub;
    drop(store);
    let store = Store::open(dir.path(), 1 << 20, now + 5000, Uuid::from_u128(99)).unwrap();
    assert_eq!((store.epoch(), store.resumed_at()), (EPOCH, now + 5000));
    let hub = TestStore {
        store,
        dir,
        now: now + 5000,
    };
    assert_eq!(hub.pull("b", None), "1:1 2:2");
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let check = |prepare: &dyn Fn(&Path), kind: Kind, wants: &str| {
        let dir = TempDir::new().unwrap();
        prepare(&dir.path().join("hub.redb"));
        let e = Store::open(dir.path(), 1 << 20, 0, EPOCH)
            .map(|_| ())
            .unwrap_err();
        assert!(e.kind == kind && e.to_string().contains(wants), "{e:?}");
    };
    check(
        &|file| std::fs::write(file, "not a database").unwrap(),
        Kind::Damaged,
        "move the file away",
    );
    check(
        &|file| std::fs::write(file, vec![7; 100_000]).unwrap(),
        Kind::Damaged,
        "restore a backup",
    );
    check(
        &|file| std::fs::write(file, "").unwrap(),
        Kind::Damaged,
        "cannot use",
    );
    check(
        &|file| std::fs::create_dir(file).unwrap(),
        Kind::Io,
        "is a directory",
    );
    check(
        &|file| {
            drop(open(file.parent().unwrap()));
            let length = std::fs::metadata(file).unwrap().len();
            std::fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(length / 2)
                .unwrap();
        },
        Kind::Damaged,
        "cannot use",
    );
    check(
        &|file| {
            drop(open(file.parent().unwrap()));
            let db = redb::Database::open(file).unwrap();
            let tx = db.begin_write().unwrap();
            tx.table(crate::hub::store::meta::META)
                .unwrap()
                .insert("schema", crate::hub::store::meta::SCHEMA + 1)
                .unwrap();
            tx.commit().unwrap();
            drop(db);
            // a backup would lose the changes since, and nothing is damaged
            let refused = crate::hub::store::check::check(file.parent().unwrap(), 1 << 20)
                .err()
                .unwrap();
            assert!(refused.to_string().contains("install the newer mesync"));
        },
        Kind::Damaged,
        "install the newer mesync",
    );
    let held = std::cell::RefCell::new(None);
    check(
        &|file| *held.borrow_mut() = Some(open(file.parent().unwrap())),
        Kind::Busy,
        "another process has it open",
    );
}

#[test]
fn a_file_half_made_is_made_again() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(".hub.redb.tmp"), "half").unwrap();
    assert_eq!(open(dir.path()).epoch(), EPOCH);
    assert!(!dir.path().join(".hub.redb.tmp").exists());
}

/// A small file system, unmounted when dropped. `None`: this test does not run as root.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    pub fn new(size: &str) -> Option<SmallDisk> {
        let dir = TempDir::new().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(dir.path())
            .status();
        mount
            .is_ok_and(|status| status.success())
            .then_some(SmallDisk(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_disk_refuses_posts_and_lets_acks_make_room() {
    let Some(disk) = SmallDisk::new("24m") else {
        eprintln!("SKIPPED: mounting a small disk takes root");
        return;
    };
    let store = open(disk.0.path());
    let limits = Limits {
        queue_messages: 1_000_000,
        queue_bytes: 1 << 40,
        hosts: 10_000,
        space: 1 << 40,
        ..LIMITS
    };
    let apply = |op: Op| {
        store
            .apply(&Group {
                limits,
                ..at(1000, [store.due(), vec![op]].concat())
            })
            .unwrap()
            .pop()
            .unwrap()
    };
    let ask = |after| PullRequest {
        host: "b".into(),
        instance: None,
        epoch: Some(EPOCH),
        after,
        id: None,
        limit: 1000,
        now: 1000,
        again: false,
    };
    let pull = |after: Option<u64>| match store.pull(&ask(after)).unwrap() {
        Pulled::Now(page) => page,
        Pulled::Once(op, page) => {
            assert_eq!(apply(op), Outcome::Pulled);
            page
        }
        other => panic!("{other:?}"),
    };
    pull(None);
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let mut queued = Vec::new();
    let filled =
        (1..1000).any(
            |n| match apply(Op::Post(vec![message(&format!("{n} a b"), &payload)])) {
                Outcome::Posted { .. } => {
                    queued.push(n);
                    false
                }
                other => {
                    assert_eq!(other, Outcome::DiskFull);
                    true
                }
            },
        );
    assert!(
        filled && queued.len() > 50,
        "{} messages fitted",
        queued.len()
    );
    // fill the disk from outside
    let mut rest = std::fs::File::create(disk.0.path().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    assert_eq!(
        apply(Op::Post(vec![message("5000 a b", &payload)])),
        Outcome::DiskFull
    );
    let (mut after, mut got) = (None, Vec::new());
    loop {
        let page = pull(after);
        got.extend(page.messages.iter().map(|(_, json)| {
            Message::parse(json.as_bytes())
                .unwrap()
                .id
                .unwrap()
                .as_u128()
        }));
        match page.messages.last() {
            Some((seq, _)) => after = Some(*seq),
            None => break,
        }
    }
    assert_eq!(got, queued, "all that was queued, and nothing else");
    apply(Op::Sweep);
    assert_eq!(store.totals().unwrap().messages, 0);
    assert!(
        matches!(
            apply(Op::Post(vec![message("5001 a b", &payload)])),
            Outcome::Posted { .. }
        ),
        "there is room in the file again"
    );
}
