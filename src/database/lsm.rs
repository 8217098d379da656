//! A table whose keys are spread evenly, as hashes are: a log-structured merge-tree of three levels
//! (O'Neil, Cheng, Gawlick and O'Neil 1996).
//!
//! In a large table, each row that a transaction adds is in another page, and every page that it
//! changes is written. So new rows first go to a small table, from there, when that is full, to a
//! larger one, and from there to the table itself: then a page takes several rows at a time. A row of
//! a smaller level replaces those of the larger ones. While the two are empty, a transaction with few
//! rows changes the table itself.
//!
//! It does not know what the rows mean. The order of the keys must be that of their bytes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::marker::PhantomData;
use std::ops::Bound;

use redb::{Key, ReadTransaction, TableDefinition, TableError, Value, WriteTransaction};

use super::DbResult;
use super::layout::LayoutOf;
use super::raw::HeldBytes;
use super::table::{
    Encoded, OpenTable, OwnedValue, ReadOnlyTable, ReadableTable, Table, TableRows,
};

/// A transaction with fewer rows changes the table itself if the levels before it are empty.
const MIN_NEW_ROWS: usize = 64;
/// Rows of each level, at which they move to the next one.
const MAX_NEW_ROWS: u64 = 1024;
const MAX_RECENT_ROWS: u64 = 8192;

/// The names of the three tables in the file. `None` as a value: the row was removed.
pub struct LsmDefinition<K: Key + 'static, V: Value + 'static> {
    pub table: TableDefinition<'static, K, V>,
    /// The smallest level first.
    pub levels: [TableDefinition<'static, K, Option<V>>; 2],
}

impl<K: Key + 'static, V: Value + 'static> LsmDefinition<K, V> {
    pub const fn new(table: &'static str, levels: [&'static str; 2]) -> LsmDefinition<K, V> {
        LsmDefinition {
            table: TableDefinition::new(table),
            levels: [
                TableDefinition::new(levels[0]),
                TableDefinition::new(levels[1]),
            ],
        }
    }
}

/// Looks for a key in the levels, the smallest first, and then in the table.
fn find<'t, K: Key + 'static, V: Value + 'static>(
    levels: impl IntoIterator<Item = &'t (impl ReadableTable<K, Option<V>> + 't)>,
    table: &impl ReadableTable<K, V>,
    key: &[u8],
) -> DbResult<Option<OwnedValue<V>>> {
    for level in levels {
        if let Some(found) = level.get(K::from_bytes(key))? {
            let owned = |value| Encoded::new(V::as_bytes(&value).as_ref().to_vec());
            return Ok(found.value().map(owned));
        }
    }
    let found = table.get(K::from_bytes(key))?;
    Ok(found.map(|value| value.to_owned()))
}

/// All levels, open for a transaction that reads.
pub struct LsmReader<K, V: Value> {
    table: ReadOnlyTable<K, V>,
    /// The smallest first.
    levels: Vec<ReadOnlyTable<K, Option<V>>>,
}

impl<K: Key + 'static, V: Value + 'static> LsmReader<K, V> {
    pub fn open(tx: &ReadTransaction, tables: &LsmDefinition<K, V>) -> DbResult<LsmReader<K, V>> {
        let mut levels = Vec::new();
        for level in tables.levels {
            match tx.table(level) {
                // the file is of an older program
                Err(TableError::TableDoesNotExist(_)) => {}
                table => levels.push(table?),
            }
        }
        Ok(LsmReader {
            table: tx.table(tables.table)?,
            levels,
        })
    }

    pub fn get<'a>(&self, key: impl Borrow<K::SelfType<'a>>) -> DbResult<Option<OwnedValue<V>>> {
        let key = K::as_bytes(key.borrow());
        find(&self.levels, &self.table, key.as_ref())
    }

    /// The number of rows. It looks up all rows of the smaller levels in the table.
    pub fn len(&self) -> DbResult<u64> {
        let mut len = self.table.len()?;
        let mut changed = Merged {
            levels: self.rows_of_levels(&Bound::Unbounded)?,
        };
        while let Some((key, value)) = changed.next()? {
            let was = self.table.get(K::from_bytes(&key))?.is_some();
            len = (len + u64::from(value.is_some())).saturating_sub(was.into());
        }
        Ok(len)
    }

    fn rows_of_levels(&self, from: &Bound<Vec<u8>>) -> DbResult<Vec<Peekable<LevelRows<'_>>>> {
        let rows_of = |level| rows_from::<K, Option<V>>(level, from);
        self.levels
            .iter()
            .map(|level| {
                let rows = rows_of(level)?.map(|row| {
                    let (key, value) = row?;
                    let value = value
                        .value()
                        .map(|value| V::as_bytes(&value).as_ref().to_vec());
                    Ok((key.held.bytes().to_vec(), value))
                });
                Ok((Box::new(rows) as LevelRows<'_>).peekable())
            })
            .collect()
    }

    /// All rows, in the order of their keys.
    pub fn iter(&self) -> DbResult<LsmRows<'_, K, V>> {
        self.starting_with(&[])
    }

    /// The rows whose keys begin with these bytes.
    pub fn starting_with(&self, prefix: &[u8]) -> DbResult<LsmRows<'_, K, V>> {
        let from = match prefix {
            [] => Bound::Unbounded,
            _ => Bound::Included(prefix.to_vec()),
        };
        let mut levels = self.rows_of_levels(&from)?;
        let rows = rows_from::<K, V>(&self.table, &from)?.map(|row| {
            let (key, value) = row?;
            Ok((key.held.bytes().to_vec(), Some(value.held.bytes().to_vec())))
        });
        levels.push((Box::new(rows) as LevelRows<'_>).peekable());
        Ok(LsmRows {
            prefix: prefix.to_vec(),
            merged: Merged { levels },
            of: PhantomData,
        })
    }
}

fn rows_from<'t, K: Key + 'static, V: Value + 'static>(
    table: &'t impl ReadableTable<K, V>,
    from: &Bound<Vec<u8>>,
) -> DbResult<TableRows<'t, K, V>> {
    let range = (from.clone(), Bound::Unbounded);
    let rows = table.raw().raw_range(LayoutOf::<K, V>::LAYOUT, &range)?;
    Ok(TableRows::new(rows))
}

/// Key and value; `None`: the row was removed.
type LevelRow = (Vec<u8>, Option<Vec<u8>>);
type LevelRows<'t> = Box<dyn Iterator<Item = DbResult<LevelRow>> + 't>;

/// The rows of several levels in the order of their keys, the smallest level first.
struct Merged<'t> {
    levels: Vec<Peekable<LevelRows<'t>>>,
}

impl Merged<'_> {
    fn next(&mut self) -> DbResult<Option<LevelRow>> {
        let mut first: Option<Vec<u8>> = None;
        for level in &mut self.levels {
            match level.peek() {
                Some(Ok((key, _))) if first.as_ref().is_none_or(|first| key < first) => {
                    first = Some(key.clone());
                }
                Some(Err(_)) => return level.next().transpose(),
                _ => {}
            }
        }
        let mut found = None;
        for level in &mut self.levels {
            let is_it = |row: &DbResult<LevelRow>| {
                row.as_ref()
                    .is_ok_and(|(key, _)| Some(key) == first.as_ref())
            };
            let row = level.next_if(is_it).transpose()?;
            found = found.or(row);
        }
        Ok(found)
    }
}

/// Rows of all levels, in the order of their keys.
pub struct LsmRows<'t, K, V> {
    prefix: Vec<u8>,
    merged: Merged<'t>,
    of: PhantomData<(K, V)>,
}

impl<K: Key + 'static, V: Value + 'static> Iterator for LsmRows<'_, K, V> {
    type Item = DbResult<(OwnedValue<K>, OwnedValue<V>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.merged.next() {
                Ok(Some((key, _))) if !key.starts_with(&self.prefix) => return None,
                Ok(Some((key, Some(value)))) => {
                    return Some(Ok((Encoded::new(key), Encoded::new(value))));
                }
                Ok(Some((_, None))) => {}
                Ok(None) => return None,
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// All levels, open for a transaction that writes. Its changes are stored by [`LsmTable::finish`].
pub struct LsmTable<'t, K, V: Value> {
    table: Table<'t, K, V>,
    new: Table<'t, K, Option<V>>,
    recent: Table<'t, K, Option<V>>,
    changed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    uses_levels: bool,
}

impl<'t, K: Key + 'static, V: Value + 'static> LsmTable<'t, K, V> {
    /// `uses_levels`: otherwise all rows are in the table, as programs have it that know no levels.
    pub fn open(
        tx: &'t WriteTransaction,
        tables: &LsmDefinition<K, V>,
        uses_levels: bool,
    ) -> DbResult<LsmTable<'t, K, V>> {
        let [new, recent] = tables.levels;
        Ok(LsmTable {
            table: tx.table(tables.table)?,
            new: tx.table(new)?,
            recent: tx.table(recent)?,
            changed: BTreeMap::new(),
            uses_levels,
        })
    }

    pub fn get<'a>(&self, key: impl Borrow<K::SelfType<'a>>) -> DbResult<Option<OwnedValue<V>>> {
        let key = K::as_bytes(key.borrow());
        if let Some(found) = self.changed.get(key.as_ref()) {
            return Ok(found.clone().map(Encoded::new));
        }
        find([&self.new, &self.recent], &self.table, key.as_ref())
    }

    pub fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> DbResult<()> {
        let value = V::as_bytes(value.borrow()).as_ref().to_vec();
        self.change(K::as_bytes(key.borrow()).as_ref(), Some(value))
    }

    pub fn remove<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>) -> DbResult<()> {
        self.change(K::as_bytes(key.borrow()).as_ref(), None)
    }

    fn change(&mut self, key: &[u8], value: Option<Vec<u8>>) -> DbResult<()> {
        match self.changed.get_mut(key) {
            Some(old) => *old = value,
            None => drop(self.changed.insert(key.to_vec(), value)),
        }
        // a transaction may change all rows
        if self.changed.len() as u64 >= MAX_RECENT_ROWS {
            self.merge()?;
        }
        Ok(())
    }

    /// Stores the changes.
    pub fn finish(&mut self) -> DbResult<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let is_short = self.changed.len() < MIN_NEW_ROWS;
        if !self.uses_levels || is_short && self.new.is_empty()? && self.recent.is_empty()? {
            return self.merge();
        }
        for (key, value) in std::mem::take(&mut self.changed) {
            let value = value.as_deref().map(V::from_bytes);
            self.new.insert(K::from_bytes(&key), value)?;
        }
        if self.new.len()? >= MAX_NEW_ROWS {
            self.recent.copy_from(&self.new)?;
            self.new.retain(|_, _| false)?;
        }
        if self.recent.len()? >= MAX_RECENT_ROWS {
            merge_level(&mut self.table, &mut self.recent)?;
        }
        Ok(())
    }

    /// Moves all rows into the table.
    pub fn merge(&mut self) -> DbResult<()> {
        merge_level(&mut self.table, &mut self.recent)?;
        merge_level(&mut self.table, &mut self.new)?;
        for (key, value) in std::mem::take(&mut self.changed) {
            let value = value.as_deref().map(V::from_bytes);
            set(&mut self.table, K::from_bytes(&key), value)?;
        }
        Ok(())
    }
}

fn merge_level<K: Key + 'static, V: Value + 'static>(
    table: &mut Table<'_, K, V>,
    level: &mut Table<'_, K, Option<V>>,
) -> DbResult<()> {
    if level.is_empty()? {
        return Ok(());
    }
    for row in level.iter()? {
        let (key, value) = row?;
        set(table, key.value(), value.value())?;
    }
    Ok(level.retain(|_, _| false)?)
}

fn set<K: Key + 'static, V: Value + 'static>(
    table: &mut Table<'_, K, V>,
    key: K::SelfType<'_>,
    value: Option<V::SelfType<'_>>,
) -> DbResult<()> {
    match value {
        Some(value) => drop(table.insert(key, value)?),
        None => drop(table.remove(key)?),
    }
    Ok(())
}
