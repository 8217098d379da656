//! Shared by messages and files: the table of single numbers, the version of all tables, and the copy of a table.

use crate::database::DbResult;
use redb::{Key, ReadTransaction, TableDefinition, Value, WriteTransaction};

use crate::database::table::OpenTable;

/// Raised when an older program could no longer read the tables.
pub const SCHEMA: u128 = 4;
/// The version whose chunks are in one table; see [`crate::database::lsm`].
pub const ONE_LEVEL: u128 = 3;
/// The version without packs, in which views of a bucket stay, since hubs of both versions may share one.
pub const UNPACKED: u128 = 2;
/// An older version that is still read: its rows of files have no tags.
pub const UNTAGGED: u128 = 1;

/// `schema`, `epoch`, `seq` (the last one given), `messages`, `bytes` (of all JSON), `age` and `wall` (of the last commit).
pub const META: TableDefinition<&str, u128> = TableDefinition::new("meta");

/// The name in [`META`] of the bucket whose log the store is a view of.
pub const CLUSTER: &str = "log_cluster";

/// [`copy_table`] of one that an older program has not made.
pub fn copy_table_if_there<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<K, V>,
) -> DbResult<()> {
    match from.table(table) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(()),
        _ => copy_table(from, to, table),
    }
}

pub fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<K, V>,
) -> DbResult<()> {
    Ok(to.table(table)?.copy_from(&from.table(table)?)?)
}
