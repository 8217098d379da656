//! Compares tables with those that redb makes for the types themselves: the same calls give the same answers and the same file.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use redb::{Database, Key, ReadableDatabase, TableDefinition, Value};

use super::table::{OpenTable, ReadableTable};

mod lsm;

/// A call with encoded keys and values.
#[derive(Debug, Clone)]
enum Call {
    Insert(Vec<u8>, Vec<u8>),
    Get(Vec<u8>),
    Remove(Vec<u8>),
    PopFirst,
    /// Removes the rows within whose values have an even sum.
    Thin(Vec<u8>, Vec<u8>),
    /// Opens the file again.
    Commit,
}

/// Of a second table, whose layout is another one and which is used in between.
const OTHER: TableDefinition<&str, (u64, Option<u64>)> = TableDefinition::new("other");

fn encoded<T: Value>(value: &T::SelfType<'_>) -> Vec<u8> {
    T::as_bytes(value).as_ref().to_vec()
}

fn some_calls(
    key: impl Strategy<Value = Vec<u8>> + Clone,
    value: impl Strategy<Value = Vec<u8>> + Clone,
) -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        60 => (key.clone(), value).prop_map(|(k, v)| Call::Insert(k, v)),
        10 => key.clone().prop_map(Call::Get),
        15 => key.clone().prop_map(Call::Remove),
        4 => Just(Call::PopFirst),
        3 => (key.clone(), key).prop_map(|(a, b)| Call::Thin(a, b)),
        2 => Just(Call::Commit),
    ];
    vec(call, 1..300)
}

/// One of the two ways: answers as text, and the bytes of the file.
macro_rules! way {
    ($name:ident, $open:ident, [$($import:path),*]) => {
        #[allow(clippy::disallowed_methods)]
        fn $name<K: Key + 'static, V: Value + 'static>(path: &Path, calls: &[Call]) -> Vec<String> {
            $(use $import;)*
            let rows: TableDefinition<K, V> = TableDefinition::new("rows");
            let (mut answers, mut db) = (Vec::new(), Database::create(path).unwrap());
            for calls in calls.split_inclusive(|call| matches!(call, Call::Commit)) {
                let tx = db.begin_write().unwrap();
                let (mut table, mut other) = (tx.$open(rows).unwrap(), tx.$open(OTHER).unwrap());
                for (n, call) in calls.iter().enumerate() {
                    let name = format!("{n}é");
                    other.insert(name.as_str(), (n as u64, (n % 2 == 0).then_some(7))).unwrap();
                    let answer = match call {
                        Call::Insert(k, v) => {
                            let former = table.insert(K::from_bytes(k), V::from_bytes(v)).unwrap();
                            former.map(|v| format!("{:?}", v.value()))
                        }
                        Call::Get(k) => {
                            let found = table.get(K::from_bytes(k)).unwrap();
                            found.map(|v| format!("{:?}", v.value()))
                        }
                        Call::Remove(k) => {
                            let removed = table.remove(K::from_bytes(k)).unwrap();
                            // another table is read while the row is not yet removed
                            let also = other.get("0é").unwrap().map(|v| v.value());
                            removed.map(|v| format!("{:?} {also:?}", v.value()))
                        }
                        Call::PopFirst => {
                            let popped = table.pop_first().unwrap();
                            popped.map(|(k, v)| format!("{:?} {:?}", k.value(), v.value()))
                        }
                        Call::Thin(a, b) if K::compare(a, b).is_le() => {
                            let (mut seen, range) = (0, K::from_bytes(a)..=K::from_bytes(b));
                            table.retain_in(range, |_, v| {
                                seen += other.len().unwrap() - other.len().unwrap()
                                    + u64::from(other.get("0é").unwrap().is_some());
                                !V::as_bytes(&v).as_ref().iter().map(|b| *b as u64).sum::<u64>().is_multiple_of(2)
                            }).unwrap();
                            Some(format!("{seen} seen"))
                        }
                        Call::Thin(..) | Call::Commit => None,
                    };
                    answers.push(format!("{answer:?}"));
                }
                let [first, last] = [table.first(), table.last()]
                    .map(|row| row.unwrap().map(|(k, v)| format!("{:?} {:?}", k.value(), v.value())));
                answers.push(format!("{first:?} {last:?} {}", table.len().unwrap()));
                drop((table, other));
                tx.commit().unwrap();
                drop(db);
                db = Database::open(path).unwrap();
                let tx = db.begin_read().unwrap();
                let (table, other) = (tx.$open(rows).unwrap(), tx.$open(OTHER).unwrap());
                let mut again = other.iter().unwrap();
                for row in table.iter().unwrap() {
                    let (k, v) = row.unwrap();
                    answers.push(format!("{:?} {:?}", k.value(), v.value()));
                    again.next();
                }
                if let Some(Call::Insert(k, _)) = calls.first() {
                    let from = table.range(K::from_bytes(k)..).unwrap();
                    answers.extend(from.rev().map(|row| format!("{:?}", row.unwrap().0.value())));
                }
                answers.extend(again.rev().map(|row| format!("{:?}", row.unwrap().1.value())));
            }
            answers
        }
    };
}

way!(
    with_redb,
    open_table,
    [redb::ReadableTable, redb::ReadableTableMetadata]
);
way!(with_ours, table, [super::table::ReadableTable]);

fn check<K: Key + 'static, V: Value + 'static>(calls: &[Call]) {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    let answers = with_redb::<K, V>(&theirs, calls);
    assert_eq!(with_ours::<K, V>(&ours, calls), answers);
    let [theirs, ours] = [theirs, ours].map(|path| std::fs::read(path).unwrap());
    assert!(theirs == ours, "the files differ");
}

fn number() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![3 => 0..300u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn long_number() -> impl Strategy<Value = u128> + Clone {
    prop_oneof![3 => 0..300u128, 1 => any::<u128>(), 1 => Just(u128::MAX)]
}

fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![3 => "[ab/\u{0}é]{0,5}", 1 => "\\PC{0,9}", 1 => "[a-c]{200,400}"]
}

fn hash() -> impl Strategy<Value = [u8; 32]> + Clone {
    prop_oneof![(0..90u8).prop_map(|n| [n; 32]), any::<[u8; 32]>()]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 900..6000)]
}

/// A test of a pair of types: a pattern and strategy for each, and the value that the pattern makes.
macro_rules! pairs {
    ($($name:ident: $key:ty => $value:ty, $k:pat in $keys:expr => $kv:expr, $v:pat in $values:expr => $vv:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 5, ..ProptestConfig::default() })]
            $(#[test]
            fn $name(calls in some_calls(
                $keys.prop_map(|$k| encoded::<$key>(&$kv)),
                $values.prop_map(|$v| encoded::<$value>(&$vv)),
            )) {
                check::<$key, $value>(&calls);
            })*
        }
    };
}

pairs! {
    text_to_bytes: &str => &[u8], k in text() => k.as_str(), v in bytes() => v.as_slice();
    text_to_long_number: &str => u128, k in text() => k.as_str(), v in long_number() => v;
    text_to_bool: &str => bool, k in text() => k.as_str(), v in any::<bool>() => v;
    text_to_host: &str => (Option<u64>, Option<u128>, u64), k in text() => k.as_str(),
        v in (prop::option::of(number()), prop::option::of(long_number()), number()) => v;
    two_texts_to_state: (&str, &str) => (u128, u8), (a, b) in (text(), text()) => (a.as_str(), b.as_str()),
        v in (long_number(), any::<u8>()) => v;
    text_and_number_to_nothing: (&str, u64) => (), (a, n) in (text(), number()) => (a.as_str(), n), _ in Just(()) => ();
    text_and_long_number_to_bytes: (&str, u128) => &[u8], (a, n) in (text(), long_number()) => (a.as_str(), n),
        v in bytes() => v.as_slice();
    text_and_two_numbers_to_nothing: (&str, u64, u64) => (), (a, n, m) in (text(), number(), number()) => (a.as_str(), n, m),
        _ in Just(()) => ();
    bytes_to_nothing: &[u8] => (), k in bytes() => k.as_slice(), _ in Just(()) => ();
    number_to_bytes: u64 => &[u8], k in number() => k, v in bytes() => v.as_slice();
    number_to_text: u64 => &str, k in number() => k, v in text() => v.as_str();
    number_to_short_number: u64 => u32, k in number() => k, v in any::<u32>() => v;
    number_to_commit: u64 => (u64, u64, Option<u64>), k in number() => k,
        v in (number(), number(), prop::option::of(number())) => v;
    number_to_event: u64 => (u64, u8, u128, u64), k in number() => k, v in (number(), any::<u8>(), long_number(), number()) => v;
    number_to_key_age: u64 => (u64, &str, u128), k in number() => k,
        (n, a, m) in (number(), text(), long_number()) => (n, a.as_str(), m);
    number_to_message: u64 => (u128, u64, u64, &str, &str, &str), k in number() => k,
        (n, a, b, c) in (long_number(), text(), text(), text()) => (n, 1, 2, a.as_str(), b.as_str(), c.as_str());
    long_number_to_bytes: u128 => &[u8], k in long_number() => k, v in bytes() => v.as_slice();
    long_number_to_digest: u128 => (u64, [u8; 32]), k in long_number() => k, v in (number(), hash()) => v;
    two_numbers_to_nothing: (u64, u64) => (), k in (number(), number()) => k, _ in Just(()) => ();
    long_and_number_to_bytes: (u128, u64) => &[u8], k in (long_number(), number()) => k, v in bytes() => v.as_slice();
    three_numbers_to_nothing: (u64, u128, u64) => (), k in (number(), long_number(), number()) => k, _ in Just(()) => ();
    hash_to_chunk: &[u8; 32] => (u64, u64, u64, bool), k in hash() => &k, v in (number(), number(), number(), any::<bool>()) => v;
    hash_to_text: &[u8; 32] => &str, k in hash() => &k, v in text() => v.as_str();
    number_and_hash_to_nothing: (u64, &[u8; 32]) => (), (n, k) in (number(), hash()) => (n, &k), _ in Just(()) => ();
}

#[test]
#[allow(clippy::disallowed_methods)]
fn a_table_of_other_types_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::create(dir.path().join("x")).unwrap();
    let (made, asked) = (
        TableDefinition::<u64, &str>::new("t"),
        TableDefinition::<u64, &[u8]>::new("t"),
    );
    let tx = db.begin_write().unwrap();
    tx.table(made).unwrap().insert(1, "a").unwrap();
    assert!(tx.table(asked).is_err());
    tx.commit().unwrap();
    let tx = db.begin_read().unwrap();
    let mismatch = |e: Option<redb::TableError>| matches!(e, Some(redb::TableError::TableTypeMismatch { table, .. }) if table == "t");
    assert!(mismatch(tx.table(asked).err()));
    assert!(mismatch(tx.open_table(asked).err()));
    assert_eq!(
        tx.table(made).unwrap().get(1).unwrap().unwrap().value(),
        "a"
    );
}

#[test]
fn a_copy_has_all_rows() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| Database::create(dir.path().join(name)).unwrap());
    let names: Vec<String> = (0..3000).map(|n| format!("{n}")).collect();
    let tx = from.begin_write().unwrap();
    let mut table = tx.table(OTHER).unwrap();
    for (n, name) in names.iter().enumerate() {
        table.insert(name.as_str(), (n as u64, None)).unwrap();
    }
    drop(table);
    tx.commit().unwrap();
    let (read, write) = (from.begin_read().unwrap(), to.begin_write().unwrap());
    let mut copy = write.table(OTHER).unwrap();
    copy.copy_from(&read.table(OTHER).unwrap()).unwrap();
    assert_eq!(copy.len().unwrap(), 3000);
    for (n, name) in names.iter().enumerate() {
        let row = copy.get(name.as_str()).unwrap().map(|v| v.value());
        assert_eq!(row, Some((n as u64, None)));
    }
}
