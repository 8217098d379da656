//! Writes at random, and what they do to plain maps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use crate::files::engine::rows::{hear, hear_of_none, set_back};
use crate::files::engine::traits::{Intent, OpenKey, StagedFile};
use crate::files::plan::{BaseRow, Entry, LocalEntry, RemoteRow, Stamp, is_below};
use crate::wire::files::EntryKind;

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

fn local() -> impl Strategy<Value = LocalEntry> {
    (entry(), stamp()).prop_map(|(entry, stamp)| LocalEntry { entry, stamp })
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
        (path(), path()).prop_map(|(from, to)| Intent::Rename { from, to }),
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

pub fn write() -> impl Strategy<Value = Write> {
    let token = || {
        (path(), 0..3u64, 0..3u64).prop_map(|(path, base, remote)| DeleteToken {
            path,
            base,
            remote,
        })
    };
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
pub struct Model {
    rows: BTreeMap<String, Rows>,
    listed: BTreeSet<String>,
    feed: Feed,
    deletes: BTreeMap<u64, u32>,
    approved: BTreeSet<DeleteToken>,
    points: BTreeMap<u64, Revision>,
}

impl Model {
    fn at(&mut self, path: &str) -> &mut Rows {
        self.rows.entry(path.into()).or_default()
    }

    pub fn apply(&mut self, write: &Write) {
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

    pub fn compare(&self, state: &DiskState) {
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
            let token = DeleteToken {
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
