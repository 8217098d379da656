//! Tables of three levels: against a map, and what they write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use redb::{Database, ReadableDatabase};

use crate::database::file::Happened;
use crate::database::lsm::{LsmDefinition, LsmReader, LsmTable};
use crate::database::table::{OpenTable, ReadableTable};
use crate::database::{Hints, open};
use crate::wire::files::Hash;

const ROWS: LsmDefinition<&[u8], u64> = LsmDefinition::new("rows", ["rows_new", "rows_recent"]);
const HINTS: Hints = Hints {
    busy: "",
    damaged: "",
};

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Evenly spread, of several lengths; some begin with others.
fn key(n: usize) -> Vec<u8> {
    Hash::of(&(n / 2).to_le_bytes()).0[..8 + 3 * (n % 2)].to_vec()
}

fn rows(db: &Database) -> LsmReader<&'static [u8], u64> {
    LsmReader::open(&db.begin_read().unwrap(), &ROWS).unwrap()
}

/// Rows of the smaller levels.
fn lengths(db: &Database) -> [u64; 2] {
    let tx = db.begin_read().unwrap();
    ROWS.levels
        .map(|level| tx.table(level).unwrap().len().unwrap())
}

fn compare(db: &Database, model: &BTreeMap<Vec<u8>, u64>, draws: &mut Draws, keys: usize) {
    let rows = rows(db);
    assert_eq!(rows.len().unwrap(), model.len() as u64);
    let all = |prefix: &[u8]| -> Vec<(Vec<u8>, u64)> {
        let found = rows.starting_with(prefix).unwrap().map(|row| row.unwrap());
        found
            .map(|(key, value)| (key.value().to_vec(), value.value()))
            .collect()
    };
    assert!(all(&[]).into_iter().eq(model.clone()));
    for _ in 0..50 {
        let key = key(draws.below(keys));
        let found = rows.get(key.as_slice()).unwrap().map(|value| value.value());
        assert_eq!(found.as_ref(), model.get(&key));
        let prefix = &key[..1 + draws.below(8)];
        let wanted = model.range(prefix.to_vec()..);
        let wanted = wanted.take_while(|(key, _)| key.starts_with(prefix));
        assert!(
            all(prefix)
                .into_iter()
                .eq(wanted.map(|(key, value)| (key.clone(), *value)))
        );
    }
}

#[test]
fn the_levels_are_one_table() {
    const KEYS: usize = 40_000;
    let mut seen = BTreeSet::new();
    for seed in 0..4 {
        let mut draws = Draws(seed);
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("x"), 1 << 20, &Arc::default(), &HINTS).unwrap();
        let mut model = BTreeMap::new();
        for group in 0..60 {
            let tx = db.begin_write().unwrap();
            let mut after = model.clone();
            {
                let mut table = LsmTable::open(&tx, &ROWS, group != 40).unwrap();
                let changes = [1, 10, 300, 300, 1000, 12_000][draws.below(6)];
                for value in 0..changes {
                    let key = key(draws.below(KEYS));
                    let found = table
                        .get(key.as_slice())
                        .unwrap()
                        .map(|value| value.value());
                    assert_eq!(found.as_ref(), after.get(&key), "seed {seed} group {group}");
                    if found.is_some() && draws.below(3) == 0 {
                        table.remove(key.as_slice()).unwrap();
                        after.remove(&key);
                    } else {
                        table.insert(key.as_slice(), value).unwrap();
                        after.insert(key, value);
                    }
                }
                table.finish().unwrap();
            }
            // a group that fails changes nothing
            let fails = group != 40 && draws.below(5) == 0;
            if fails {
                tx.abort().unwrap();
            } else {
                tx.commit().unwrap();
                model = after;
            }
            let [new, recent] = lengths(&db);
            assert!(new < 1024 && recent < 8192, "{new} {recent}");
            assert!(fails || group != 40 || new + recent == 0);
            seen.extend([(new > 0, recent > 0)]);
            compare(&db, &model, &mut draws, KEYS);
        }
    }
    // with and without rows in each, and in both
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// Adds rows in groups of 256; -> the bytes that the file was written.
fn bytes_written(path: &Path, groups: usize, uses_levels: bool) -> u64 {
    let happened = Arc::new(Happened::default());
    let db = open(path, 1 << 20, &happened, &HINTS).unwrap();
    let before = happened.bytes.load(Relaxed);
    for group in 0..groups {
        let tx = db.begin_write().unwrap();
        let mut table = LsmTable::open(&tx, &ROWS, uses_levels).unwrap();
        for n in group * 256..(group + 1) * 256 {
            table.insert(&Hash::of(&n.to_le_bytes()).0[..], 7).unwrap();
        }
        table.finish().unwrap();
        drop(table);
        tx.commit().unwrap();
    }
    happened.bytes.load(Relaxed) - before
}

#[test]
fn groups_of_rows_write_a_fraction_of_a_large_table() {
    let dir = tempfile::tempdir().unwrap();
    let [flat, with_levels] = [false, true].map(|uses_levels| {
        bytes_written(&dir.path().join(uses_levels.to_string()), 160, uses_levels)
    });
    assert!(
        with_levels * 3 < flat,
        "{with_levels} bytes, {flat} without levels"
    );
}
