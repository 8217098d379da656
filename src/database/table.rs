//! Tables with types, over calls of redb that know none: see [`super::layout`].
//!
//! The names are those of redb.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use redb::{
    Key, ReadTransaction, Result, TableDefinition, TableError, TableHandle, Value, WriteTransaction,
};

use super::layout::LayoutOf;
use super::raw::{
    self, Bounds, HeldBytes, RawKey, RawRange, RawRead, RawReadOnlyTable, RawRow, RawTable,
    RawValue,
};

/// A key or value as it is stored: the bytes of a `T`.
pub struct Encoded<T, B> {
    pub(super) held: B,
    of: PhantomData<T>,
}

impl<T: Value + 'static, B: HeldBytes> Encoded<T, B> {
    pub(super) fn new(held: B) -> Self {
        Encoded {
            held,
            of: PhantomData,
        }
    }

    pub(super) fn to_owned(&self) -> OwnedValue<T> {
        Encoded::new(self.held.bytes().to_vec())
    }

    pub fn value(&self) -> T::SelfType<'_> {
        T::from_bytes(self.held.bytes())
    }
}

pub type StoredKey<'a, K> = Encoded<K, RawKey<'a>>;
pub type StoredValue<'a, V> = Encoded<V, RawValue<'a>>;
/// A copy, such as of what was removed.
pub type OwnedValue<T> = Encoded<T, Vec<u8>>;

fn row<K: Key + 'static, V: Value + 'static>(
    (key, value): RawRow<'_>,
) -> (StoredKey<'_, K>, StoredValue<'_, V>) {
    (Encoded::new(key), Encoded::new(value))
}

fn encode<'a, K: Key + 'static, Q: Borrow<K::SelfType<'a>>>(
    range: &impl RangeBounds<Q>,
) -> Bounds<Vec<u8>> {
    let bytes = |key: &Q| K::as_bytes(key.borrow()).as_ref().to_vec();
    (range.start_bound().map(bytes), range.end_bound().map(bytes))
}

/// A table that can be read: [`Table`] or [`ReadOnlyTable`].
pub trait ReadableTable<K: Key + 'static, V: Value + 'static> {
    fn raw(&self) -> &dyn RawRead;

    fn get<'a>(&self, key: impl Borrow<K::SelfType<'a>>) -> Result<Option<StoredValue<'_, V>>> {
        let key = K::as_bytes(key.borrow());
        let found = self.raw().raw_get(LayoutOf::<K, V>::LAYOUT, key.as_ref())?;
        Ok(found.map(Encoded::new))
    }

    fn range<'a, Q: Borrow<K::SelfType<'a>> + 'a>(
        &self,
        range: impl RangeBounds<Q> + 'a,
    ) -> Result<TableRows<'_, K, V>> {
        let layout = LayoutOf::<K, V>::LAYOUT;
        let found = self.raw().raw_range(layout, &encode::<K, Q>(&range))?;
        Ok(TableRows::new(found))
    }

    fn iter(&self) -> Result<TableRows<'_, K, V>> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let found = self.raw().raw_range(LayoutOf::<K, V>::LAYOUT, &all)?;
        Ok(TableRows::new(found))
    }

    fn first(&self) -> Result<Option<(StoredKey<'_, K>, StoredValue<'_, V>)>> {
        let found = self.raw().raw_first(LayoutOf::<K, V>::LAYOUT)?;
        Ok(found.map(row))
    }

    fn last(&self) -> Result<Option<(StoredKey<'_, K>, StoredValue<'_, V>)>> {
        let found = self.raw().raw_last(LayoutOf::<K, V>::LAYOUT)?;
        Ok(found.map(row))
    }

    fn len(&self) -> Result<u64> {
        self.raw().raw_len(LayoutOf::<K, V>::LAYOUT)
    }

    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Rows in the order of their keys.
pub struct TableRows<'t, K, V> {
    raw: RawRange<'t>,
    of: PhantomData<(K, V)>,
}

impl<'t, K, V> TableRows<'t, K, V> {
    pub(super) fn new(raw: RawRange<'t>) -> Self {
        TableRows {
            raw,
            of: PhantomData,
        }
    }
}

impl<'t, K: Key + 'static, V: Value + 'static> Iterator for TableRows<'t, K, V> {
    type Item = Result<(StoredKey<'t, K>, StoredValue<'t, V>)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(raw::next(&mut self.raw, LayoutOf::<K, V>::LAYOUT)?.map(row))
    }
}

impl<K: Key + 'static, V: Value + 'static> DoubleEndedIterator for TableRows<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        Some(raw::next_back(&mut self.raw, LayoutOf::<K, V>::LAYOUT)?.map(row))
    }
}

/// A table of a transaction that only reads. What it finds outlives it.
pub struct ReadOnlyTable<K, V> {
    raw: RawReadOnlyTable,
    of: PhantomData<(K, V)>,
}

impl<K: Key + 'static, V: Value + 'static> ReadableTable<K, V> for ReadOnlyTable<K, V> {
    fn raw(&self) -> &dyn RawRead {
        &self.raw
    }
}

impl<K: Key + 'static, V: Value + 'static> ReadOnlyTable<K, V> {
    pub fn get<'a>(
        &self,
        key: impl Borrow<K::SelfType<'a>>,
    ) -> Result<Option<StoredValue<'static, V>>> {
        let key = K::as_bytes(key.borrow());
        let found = raw::get_static(&self.raw, LayoutOf::<K, V>::LAYOUT, key.as_ref())?;
        Ok(found.map(Encoded::new))
    }

    pub fn range<'a, Q: Borrow<K::SelfType<'a>> + 'a>(
        &self,
        range: impl RangeBounds<Q> + 'a,
    ) -> Result<TableRows<'static, K, V>> {
        let layout = LayoutOf::<K, V>::LAYOUT;
        let found = raw::range_static(&self.raw, layout, &encode::<K, Q>(&range))?;
        Ok(TableRows::new(found))
    }
}

/// A table of a transaction that writes.
pub struct Table<'t, K, V> {
    raw: RawTable<'t>,
    of: PhantomData<(K, V)>,
}

impl<K: Key + 'static, V: Value + 'static> ReadableTable<K, V> for Table<'_, K, V> {
    fn raw(&self) -> &dyn RawRead {
        &self.raw
    }
}

impl<K: Key + 'static, V: Value + 'static> Table<'_, K, V> {
    /// Returns the former value.
    pub fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<Option<StoredValue<'_, V>>> {
        let (key, value) = (K::as_bytes(key.borrow()), V::as_bytes(value.borrow()));
        let layout = LayoutOf::<K, V>::LAYOUT;
        let former = raw::insert(&mut self.raw, layout, key.as_ref(), value.as_ref())?;
        Ok(former.map(Encoded::new))
    }

    pub fn remove<'a>(
        &mut self,
        key: impl Borrow<K::SelfType<'a>>,
    ) -> Result<Option<OwnedValue<V>>> {
        let key = K::as_bytes(key.borrow());
        let removed = raw::remove(&mut self.raw, LayoutOf::<K, V>::LAYOUT, key.as_ref())?;
        Ok(removed.map(Encoded::new))
    }

    pub fn pop_first(&mut self) -> Result<Option<(OwnedValue<K>, OwnedValue<V>)>> {
        let removed = raw::pop_first(&mut self.raw, LayoutOf::<K, V>::LAYOUT)?;
        Ok(removed.map(|(key, value)| (Encoded::new(key), Encoded::new(value))))
    }

    /// Removes the rows that `keep` does not want.
    pub fn retain(
        &mut self,
        keep: impl for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    ) -> Result<()> {
        self.retain_in::<K::SelfType<'_>>(.., keep)
    }

    pub fn retain_in<'a, Q: Borrow<K::SelfType<'a>> + 'a>(
        &mut self,
        range: impl RangeBounds<Q> + 'a,
        mut keep: impl for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    ) -> Result<()> {
        let (layout, range) = (LayoutOf::<K, V>::LAYOUT, encode::<K, Q>(&range));
        raw::retain(&mut self.raw, layout, &range, &mut |key, value| {
            keep(K::from_bytes(key), V::from_bytes(value))
        })
    }

    /// Inserts all rows of another table.
    pub fn copy_from(&mut self, from: &impl ReadableTable<K, V>) -> Result<()> {
        raw::copy(&mut self.raw, LayoutOf::<K, V>::LAYOUT, from.raw())
    }
}

/// A transaction, whose tables are to be opened with this: `open_table` would compile redb for their types.
pub trait OpenTable {
    type Table<'t, K: Key + 'static, V: Value + 'static>
    where
        Self: 't;

    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
    ) -> std::result::Result<Self::Table<'_, K, V>, TableError>;
}

impl OpenTable for ReadTransaction {
    type Table<'t, K: Key + 'static, V: Value + 'static> = ReadOnlyTable<K, V>;

    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
    ) -> std::result::Result<ReadOnlyTable<K, V>, TableError> {
        Ok(ReadOnlyTable {
            raw: raw::open_to_read(self, LayoutOf::<K, V>::LAYOUT, table.name())?,
            of: PhantomData,
        })
    }
}

impl OpenTable for WriteTransaction {
    type Table<'t, K: Key + 'static, V: Value + 'static> = Table<'t, K, V>;

    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
    ) -> std::result::Result<Table<'_, K, V>, TableError> {
        Ok(Table {
            raw: raw::open_to_write(self, LayoutOf::<K, V>::LAYOUT, table.name())?,
            of: PhantomData,
        })
    }
}
