//! One transaction over the tables of both halves: messages with their hosts, and files.

use redb::WriteTransaction;

use super::files::{self, FileTables, FileTotals};
use super::messages::apply;
use super::messages::tables::Tables;
use super::meta::CLUSTER;
use super::ops::{Group, Op, Outcome};
use crate::database::DbResult;
use crate::database::table::ReadableTable;

/// All tables, open for one transaction. Dropped without [`StoreTables::finish`], it changes nothing.
pub struct StoreTables<'t> {
    pub messages: Tables<'t>,
    /// The tables of files, if the group needs them.
    pub files: Option<FileTables<'t>>,
}

impl<'t> StoreTables<'t> {
    pub fn open(tx: &'t WriteTransaction, with_files: bool) -> DbResult<StoreTables<'t>> {
        let messages = Tables::open(tx)?;
        let is_view = messages.meta.get(CLUSTER)?.is_some();
        let files = with_files
            .then(|| FileTables::open(tx, FileTotals::read(&messages.meta)?, is_view))
            .transpose()?;
        Ok(StoreTables { messages, files })
    }

    /// Applies one operation. After an error the tables are half changed: the transaction must be dropped.
    pub fn apply(&mut self, group: &Group, op: &Op) -> DbResult<Outcome> {
        match (op, &mut self.files) {
            (Op::File(op), Some(files)) => files::apply(files, group, op),
            (Op::Log(op), Some(files)) => files.apply_log_op(op).map(|()| Outcome::Done),
            (Op::Sweep, Some(files)) => {
                match apply::apply(&mut self.messages, group, &Op::Sweep)? {
                    Outcome::Swept { more } => Ok(Outcome::Swept {
                        more: files::sweep(files, group)? || more,
                    }),
                    other => Ok(other),
                }
            }
            (op, _) => apply::apply(&mut self.messages, group, op),
        }
    }

    /// Writes the buffered rows. True if anything has changed.
    pub fn finish(mut self, group: &Group) -> DbResult<bool> {
        if let Some(files) = self.files.as_mut().filter(|files| files.changed) {
            files.store_chunks()?;
            files.record_commit(group)?;
            self.messages.changed = true;
            for (name, value) in FileTotals::NAMES.into_iter().zip(files.totals.numbers()) {
                self.messages.meta.insert(name, u128::from(value))?;
            }
        }
        self.messages.finish(group)
    }
}
