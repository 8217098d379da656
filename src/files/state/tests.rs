//! Tests the state against a plain map, across reopening, full disks and damage.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::files::engine::rows::{hear, hear_of_none, set_back};
use crate::files::engine::traits::{Intent, OpenKey, StagedFile};
use crate::files::plan::{BaseRow, Entry, Local, RemoteRow, Stamp, is_below};
use crate::wire::files::EntryKind;

fn opened() -> (tempfile::TempDir, DiskState) {
    let dir = tempfile::tempdir().unwrap();
    let state = DiskState::open(&dir.path().join("state/watch/x.redb")).unwrap();
    (dir, state)
}

const PATHS: [&str; 8] = ["a", "a-b", "a/x", "a/x/y", "a0", "b", "d/ä", "d/\n"];

fn path() -> impl Strategy<Value = String> {
    proptest::sample::select(&PATHS[..]).prop_map(String::from)
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = proptest::sample::select(vec![EntryKind::File, EntryKind::Dir, EntryKind::Symlink]);
    (kind, 0..4u8, any::<u64>(), 0..0o1000u32, any::<i64>()).prop_map(
        |(kind, n, size, mode, mtime)| Entry {
            kind,
            hash: Hash::of(&[n]),
            size,
            mode,
            mtime,
        },
    )
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (
        any::<u64>(),
        any::<u64>(),
        any::<i64>(),
        any::<i64>(),
        0..0o1000u32,
    )
        .prop_map(|(inode, size, mtime, ctime, mode)| Stamp {
            inode,
            size,
            mtime,
            ctime,
            mode,
        })
}

/// Few values, so that the two rows of a path often have the same tag.
fn tag() -> impl Strategy<Value = Tag> {
    (0..3u64).prop_map(Tag)
}

fn base() -> impl Strategy<Value = BaseRow> {
    (
        0..9u64,
        any::<bool>(),
        proptest::option::of(entry()),
        proptest::option::of(stamp()),
        any::<bool>(),
    )
        .prop_map(|(rev, lost, entry, seen, alike)| {
            let like = |s: Stamp| match entry {
                Some(e) if alike => Stamp {
                    size: e.size,
                    mtime: e.mtime,
                    mode: e.mode,
                    ..s
                },
                _ => s,
            };
            BaseRow {
                rev,
                lost,
                entry,
                seen: seen.map(like),
            }
        })
}

fn remote() -> impl Strategy<Value = RemoteRow> {
    let text = || proptest::option::of("[a-zé/]{0,9}");
    (
        0..9u64,
        tag(),
        proptest::option::of(entry()),
        any::<u128>(),
        text(),
        text(),
    )
        .prop_map(|(rev, tag, entry, id, host, renamed_to)| RemoteRow {
            rev,
            tag,
            entry,
            id: Uuid::from_u128(id),
            host,
            renamed_to,
        })
}

fn local() -> impl Strategy<Value = Local> {
    (entry(), stamp()).prop_map(|(entry, stamp)| Local { entry, stamp })
}

fn intent() -> impl Strategy<Value = Intent> {
    prop_oneof![
        (
            any::<u64>(),
            remote(),
            0..0o1000u32,
            proptest::option::of(local()),
            stamp()
        )
            .prop_map(|(generation, row, mode, over, stamp)| {
                Intent::Place {
                    generation,
                    row,
                    mode,
                    over,
                    staged: StagedFile {
                        temp: "d/.mesync-1.tmp".into(),
                        stamp,
                    },
                }
            }),
        (any::<u64>(), base(), local(), path(), any::<bool>()).prop_map(
            |(generation, then, what, to, trash)| Intent::Leave {
                generation,
                then,
                what,
                to,
                trash
            }
        ),
        path().prop_map(|temp| Intent::Clear { temp }),
        (path(), path()).prop_map(|(there, wanted)| Intent::Respell { there, wanted }),
        (any::<u64>(), stamp(), 0..0o1000u32, any::<i64>(), base()).prop_map(
            |(generation, was, mode, mtime, then)| Intent::Metadata {
                generation,
                was,
                mode,
                mtime,
                then
            }
        ),
    ]
}

fn key() -> impl Strategy<Value = OpenKey> {
    (
        0..3u128,
        proptest::collection::vec(path(), 1..3),
        any::<bool>(),
        proptest::option::of(stamp()),
    )
        .prop_map(|(key, names, ours, seen)| OpenKey {
            key: Uuid::from_u128(key),
            names,
            ours,
            seen,
        })
}

fn write() -> impl Strategy<Value = Write> {
    let token =
        || (path(), 0..3u64, 0..3u64).prop_map(|(path, base, remote)| Token { path, base, remote });
    let feed = (
        any::<u128>(),
        any::<u64>(),
        any::<u64>(),
        any::<bool>(),
        any::<Option<u64>>(),
    )
        .prop_map(|(epoch, generation, cursor, listing, began)| Feed {
            epoch: Uuid::from_u128(epoch),
            generation,
            cursor,
            listing,
            began,
        });
    prop_oneof![
        6 => (path(), base()).prop_map(|(p, b)| Write::Base(p, b)),
        6 => (path(), remote(), any::<bool>()).prop_map(|(path, row, listed)| Write::Remote { path, row, listed }),
        2 => (path(), 0..9u64).prop_map(|(path, through)| Write::Unlisted { path, through }),
        2 => (path(), proptest::option::of(intent())).prop_map(|(p, i)| Write::Intent(p, i)),
        2 => key().prop_map(Write::OpenKey),
        2 => key().prop_map(Write::CloseKey),
        1 => feed.prop_map(Write::Feed),
        1 => Just(Write::NothingListed),
        1 => Just(Write::ForgetAll),
        1 => (1..9u64).prop_map(|through| Write::SetBack { through }),
        1 => proptest::collection::vec((1..9u64, 1..4u64).prop_map(|(rev, tag)| Revision { rev, tag: Tag(tag) }), 0..3).prop_map(Write::Points),
        1 => (0..5u64).prop_map(|minute| Write::Deleted { minute }),
        1 => (0..5u64).prop_map(|before| Write::ForgetDeletes { before }),
        1 => proptest::collection::vec(token(), 0..3).prop_map(Write::Approve),
    ]
}

/// The same rules, in plain maps.
#[derive(Default)]
struct Model {
    rows: BTreeMap<String, Rows>,
    listed: BTreeSet<String>,
    feed: Feed,
    deletes: BTreeMap<u64, u32>,
    approved: BTreeSet<Token>,
    points: BTreeMap<u64, Revision>,
}

impl Model {
    fn at(&mut self, path: &str) -> &mut Rows {
        self.rows.entry(path.into()).or_default()
    }

    fn apply(&mut self, write: &Write) {
        match write.clone() {
            Write::Base(path, row) => self.at(&path).base = row,
            Write::Remote { path, row, listed } => {
                hear(self.at(&path), &row);
                if listed {
                    self.listed.insert(path);
                }
            }
            Write::Unlisted { path, through } => {
                hear_of_none(self.at(&path), through);
            }
            Write::Intent(path, intent) => self.at(&path).intent = intent,
            Write::OpenKey(key) => key
                .names
                .iter()
                .for_each(|p| self.at(p).key = Some(key.clone())),
            Write::CloseKey(key) => key.names.iter().for_each(|p| {
                self.at(p).key.take_if(|k| k.key == key.key);
            }),
            Write::Feed(feed) => self.feed = feed,
            Write::NothingListed => self.listed.clear(),
            Write::ForgetAll => {
                self.rows
                    .values_mut()
                    .for_each(|r| (r.base, r.remote) = Default::default());
                self.listed.clear();
                self.approved.clear();
                self.points.clear();
            }
            Write::SetBack { through } => {
                self.rows.values_mut().for_each(|r| set_back(r, through));
                self.listed.clear();
                self.approved.clear();
                self.points.retain(|rev, _| *rev <= through);
            }
            Write::Points(points) => self.points.extend(points.iter().map(|at| (at.rev, *at))),
            Write::Deleted { minute } => *self.deletes.entry(minute).or_default() += 1,
            Write::ForgetDeletes { before } => self.deletes.retain(|m, _| *m >= before),
            Write::Approve(tokens) => self.approved = tokens.into_iter().collect(),
        }
        self.rows.retain(|_, rows| *rows != Rows::default());
        // paths without a row are not reported
        self.listed.retain(|p| self.rows.contains_key(p));
    }

    fn compare(&self, state: &DiskState) {
        for path in PATHS {
            assert_eq!(
                state.rows(path).unwrap(),
                self.rows.get(path).cloned().unwrap_or_default(),
                "{path}"
            );
            for after in ["", path, "a/x/yy", "zz"] {
                for dir in ["", "a", "a/x", "d", "nothing"] {
                    let below =
                        |p: &&String| (dir.is_empty() || is_below(p, dir)) && p.as_str() > after;
                    let wants: Vec<&String> = self.rows.keys().filter(below).take(3).collect();
                    let got = state.below(dir, after, 3).unwrap();
                    assert_eq!(
                        got.iter().map(|(p, _)| p).collect::<Vec<_>>(),
                        wants,
                        "below {dir:?} after {after:?}"
                    );
                    assert!(got.iter().all(|(p, rows)| self.rows.get(p) == Some(rows)));
                }
                let known = |(p, r): &(&String, &Rows)| {
                    (r.base.rev > 0 || r.remote.rev > 0)
                        && !self.listed.contains(*p)
                        && p.as_str() > after
                };
                let wants: Vec<&String> = self
                    .rows
                    .iter()
                    .filter(known)
                    .map(|(p, _)| p)
                    .take(2)
                    .collect();
                assert_eq!(
                    state
                        .not_listed(after, 2)
                        .unwrap()
                        .iter()
                        .collect::<Vec<_>>(),
                    wants
                );
            }
        }
        for n in 0..4 {
            let has = |r: &Rows| {
                r.base
                    .entry
                    .is_some_and(|e| !e.is_dir() && e.hash == Hash::of(&[n]))
            };
            let wants: Vec<&String> = self
                .rows
                .iter()
                .filter(|(_, r)| has(r))
                .map(|(p, _)| p)
                .take(2)
                .collect();
            assert_eq!(
                state
                    .with_hash(&Hash::of(&[n]), 2)
                    .unwrap()
                    .iter()
                    .collect::<Vec<_>>(),
                wants
            );
        }
        let files = self
            .rows
            .values()
            .filter(|r| r.base.entry.is_some_and(|e| !e.is_dir()))
            .count() as u64;
        assert_eq!(
            (
                state.files().unwrap(),
                state.feed().unwrap(),
                state.deletes().unwrap()
            ),
            (files, self.feed, self.deletes.clone())
        );
        assert_eq!(
            state.points().unwrap(),
            self.points.values().copied().collect::<Vec<_>>()
        );
        for (path, base, remote) in PATHS
            .iter()
            .flat_map(|p| (0..3).flat_map(move |b| (0..3).map(move |r| (*p, b, r))))
        {
            let token = Token {
                path: path.into(),
                base,
                remote,
            };
            assert_eq!(
                state.approved(&token).unwrap(),
                self.approved.contains(&token)
            );
        }
    }
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
