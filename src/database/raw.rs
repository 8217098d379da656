//! The calls of redb for tables of any types: each is compiled once, and enters the layout of its table.
//!
//! It neither encodes nor decodes: [`super::table`] does.

use std::ops::Bound;

use redb::{
    AccessGuard, ReadTransaction, Result, TableDefinition, TableError, Value, WriteTransaction,
};

use super::layout::{KeyBytes, Layout, ValueBytes};

pub type RawKey<'a> = AccessGuard<'a, KeyBytes>;
pub type RawValue<'a> = AccessGuard<'a, ValueBytes>;
pub type RawRange<'a> = redb::Range<'a, KeyBytes, ValueBytes>;
pub type RawRow<'a> = (RawKey<'a>, RawValue<'a>);
pub type RawTable<'t> = redb::Table<'t, KeyBytes, ValueBytes>;
pub type RawReadOnlyTable = redb::ReadOnlyTable<KeyBytes, ValueBytes>;
pub type Bounds<T> = (Bound<T>, Bound<T>);

/// Holds the bytes of a key or value.
pub trait HeldBytes {
    fn bytes(&self) -> &[u8];
}

impl<T: for<'b> Value<SelfType<'b> = &'b [u8]>> HeldBytes for AccessGuard<'_, T> {
    fn bytes(&self) -> &[u8] {
        self.value()
    }
}

impl HeldBytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

fn as_slices(range: &Bounds<Vec<u8>>) -> Bounds<&[u8]> {
    (
        range.0.as_ref().map(Vec::as_slice),
        range.1.as_ref().map(Vec::as_slice),
    )
}

/// The calls of redb that only read, in a layout.
pub trait RawRead {
    fn raw_get(&self, layout: &'static Layout, key: &[u8]) -> Result<Option<RawValue<'_>>>;
    fn raw_range(&self, layout: &'static Layout, range: &Bounds<Vec<u8>>) -> Result<RawRange<'_>>;
    fn raw_first(&self, layout: &'static Layout) -> Result<Option<RawRow<'_>>>;
    fn raw_last(&self, layout: &'static Layout) -> Result<Option<RawRow<'_>>>;
    fn raw_len(&self, layout: &'static Layout) -> Result<u64>;
}

impl<T: redb::ReadableTable<KeyBytes, ValueBytes>> RawRead for T {
    fn raw_get(&self, layout: &'static Layout, key: &[u8]) -> Result<Option<RawValue<'_>>> {
        layout.enter(|| self.get(key))
    }

    fn raw_range(&self, layout: &'static Layout, range: &Bounds<Vec<u8>>) -> Result<RawRange<'_>> {
        layout.enter(|| self.range::<&[u8]>(as_slices(range)))
    }

    fn raw_first(&self, layout: &'static Layout) -> Result<Option<RawRow<'_>>> {
        layout.enter(|| self.first())
    }

    fn raw_last(&self, layout: &'static Layout) -> Result<Option<RawRow<'_>>> {
        layout.enter(|| self.last())
    }

    fn raw_len(&self, layout: &'static Layout) -> Result<u64> {
        layout.enter(|| self.len())
    }
}

#[inline(never)]
pub fn open_to_read(
    tx: &ReadTransaction,
    layout: &'static Layout,
    name: &str,
) -> std::result::Result<RawReadOnlyTable, TableError> {
    #[allow(clippy::disallowed_methods)] // its home
    layout.enter(|| tx.open_table(TableDefinition::new(name)))
}

#[inline(never)]
pub fn open_to_write<'t>(
    tx: &'t WriteTransaction,
    layout: &'static Layout,
    name: &str,
) -> std::result::Result<RawTable<'t>, TableError> {
    #[allow(clippy::disallowed_methods)] // its home
    layout.enter(|| tx.open_table(TableDefinition::new(name)))
}

#[inline(never)]
pub fn next<'t>(raw: &mut RawRange<'t>, layout: &'static Layout) -> Option<Result<RawRow<'t>>> {
    layout.enter(|| raw.next())
}

#[inline(never)]
pub fn next_back<'t>(
    raw: &mut RawRange<'t>,
    layout: &'static Layout,
) -> Option<Result<RawRow<'t>>> {
    layout.enter(|| raw.next_back())
}

#[inline(never)]
pub fn get_static(
    raw: &RawReadOnlyTable,
    layout: &'static Layout,
    key: &[u8],
) -> Result<Option<RawValue<'static>>> {
    layout.enter(|| raw.get(key))
}

#[inline(never)]
pub fn range_static(
    raw: &RawReadOnlyTable,
    layout: &'static Layout,
    range: &Bounds<Vec<u8>>,
) -> Result<RawRange<'static>> {
    layout.enter(|| raw.range::<&[u8]>(as_slices(range)))
}

#[inline(never)]
pub fn insert<'r>(
    raw: &'r mut RawTable<'_>,
    layout: &'static Layout,
    key: &[u8],
    value: &[u8],
) -> Result<Option<RawValue<'r>>> {
    layout.enter(|| raw.insert(key, value))
}

/// The value is copied, because redb removes some rows only when the guard of the value is dropped.
#[inline(never)]
pub fn remove(
    raw: &mut RawTable<'_>,
    layout: &'static Layout,
    key: &[u8],
) -> Result<Option<Vec<u8>>> {
    layout.enter(|| Ok(raw.remove(key)?.map(|value| value.bytes().to_vec())))
}

#[inline(never)]
pub fn pop_first(
    raw: &mut RawTable<'_>,
    layout: &'static Layout,
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let owned = |(key, value): RawRow<'_>| (key.bytes().to_vec(), value.bytes().to_vec());
    layout.enter(|| Ok(raw.pop_first()?.map(owned)))
}

#[inline(never)]
pub fn retain(
    raw: &mut RawTable<'_>,
    layout: &'static Layout,
    range: &Bounds<Vec<u8>>,
    keep: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<()> {
    layout.enter(|| raw.retain_in::<&[u8], _>(as_slices(range), |key, value| keep(key, value)))
}

#[inline(never)]
pub fn copy(raw: &mut RawTable<'_>, layout: &'static Layout, from: &dyn RawRead) -> Result<()> {
    let all = (Bound::Unbounded, Bound::Unbounded);
    let mut rows = from.raw_range(layout, &all)?;
    while let Some(row) = next(&mut rows, layout) {
        let (key, value) = row?;
        insert(raw, layout, key.bytes(), value.bytes())?;
    }
    Ok(())
}
