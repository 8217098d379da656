//! What each write does to the tables, within one transaction.

use redb::WriteTransaction;

use super::codec::{StateRecord, encode_feed};
use super::{APPROVALS, DELETES, HASHES, META, POINTS, PREFIX, ROWS, decode, meta_number};
use crate::database::DbResult;
use crate::database::lsm::LsmTable;
use crate::database::table::{OpenTable, ReadableTable, Table};
use crate::files::engine::rows::{hear, hear_of_none, set_back};
use crate::files::engine::traits::{OpenKey, Rows, Write};
use crate::files::plan::{BaseRow, RemoteRow};
use crate::wire::revision::{self, Revision};

/// Rows in memory at a time while all rows are changed.
const ROWS_PER_TRANSACTION: usize = 500;

pub struct StateTables<'tx> {
    rows: Table<'tx, &'static str, &'static [u8]>,
    hashes: LsmTable<'tx, &'static [u8], ()>,
    deletes: Table<'tx, u64, u32>,
    approvals: Table<'tx, (&'static str, u64, u64), ()>,
    points: Table<'tx, u64, u64>,
    meta: Table<'tx, &'static str, &'static [u8]>,
    /// Base rows that are files or links.
    files: u64,
    /// The number, from 1, of the listing whose names are remembered.
    listing: u64,
}

pub fn apply<'a>(tx: &WriteTransaction, writes: impl Iterator<Item = &'a Write>) -> DbResult<()> {
    let mut tables = StateTables::open(tx)?;
    let before = (tables.files, tables.listing);
    for write in writes {
        tables.one(write)?;
    }
    tables.hashes.finish()?;
    if (tables.files, tables.listing) != before {
        tables
            .meta
            .insert("files", tables.files.to_le_bytes().as_slice())?;
        tables
            .meta
            .insert("listing", (tables.listing - 1).to_le_bytes().as_slice())?;
    }
    Ok(())
}

impl<'tx> StateTables<'tx> {
    pub fn open(tx: &'tx WriteTransaction) -> DbResult<StateTables<'tx>> {
        let meta = tx.table(META)?;
        let (files, listing) = (
            meta_number(&meta, "files")?,
            meta_number(&meta, "listing")? + 1,
        );
        Ok(StateTables {
            rows: tx.table(ROWS)?,
            hashes: LsmTable::open(tx, &HASHES, true)?,
            deletes: tx.table(DELETES)?,
            approvals: tx.table(APPROVALS)?,
            points: tx.table(POINTS)?,
            meta,
            files,
            listing,
        })
    }

    fn one(&mut self, write: &Write) -> DbResult<()> {
        let listing = self.listing;
        match write {
            Write::Base(path, row) => self.change(path, |record| record.rows.base = row.clone()),
            Write::Remote { path, row, listed } => self.change(path, |record| {
                hear(&mut record.rows, row);
                if *listed {
                    record.listed = listing;
                }
            }),
            Write::Unlisted { path, through } => {
                self.change(path, |record| hear_of_none(&mut record.rows, *through))
            }
            Write::Intent(path, intent) => {
                self.change(path, |record| record.rows.intent = intent.clone())
            }
            Write::OpenKey(key) => key.names.iter().try_for_each(|path| {
                self.change(path, |record| record.rows.key = Some(key.clone()))
            }),
            Write::CloseKey(key) => self.close(key),
            Write::Feed(feed) => self
                .meta
                .insert("feed", encode_feed(feed).as_slice())
                .map(drop)
                .map_err(Into::into),
            Write::NothingListed => {
                self.listing += 1;
                Ok(())
            }
            Write::ForgetAll => self.forget(0, |rows| {
                (rows.base, rows.remote) = (BaseRow::default(), RemoteRow::default())
            }),
            Write::SetBack { through } => self.forget(*through, |rows| set_back(rows, *through)),
            Write::Points(points) => self.remember(points),
            Write::Deleted { minute } => {
                let count = self.deletes.get(minute)?.map_or(0, |n| n.value());
                self.deletes.insert(minute, count.saturating_add(1))?;
                Ok(())
            }
            Write::ForgetDeletes { before } => self
                .deletes
                .retain(|minute, _| minute >= *before)
                .map_err(Into::into),
            Write::Approve(tokens) => {
                self.approvals.retain(|_, _| false)?;
                tokens.iter().try_for_each(|t| {
                    Ok(self
                        .approvals
                        .insert((t.path.as_str(), t.base, t.remote), ())
                        .map(drop)?)
                })
            }
        }
    }

    fn close(&mut self, key: &OpenKey) -> DbResult<()> {
        key.names.iter().try_for_each(|path| {
            self.change(path, |record| {
                record.rows.key.take_if(|k| k.key == key.key);
            })
        })
    }

    /// Changes all rows, and removes approvals, names of a listing, and the points after `through`.
    fn forget(&mut self, through: u64, forget: impl Fn(&mut Rows)) -> DbResult<()> {
        let mut after = String::new();
        loop {
            let page: Vec<String> = self
                .rows
                .range::<&str>(after.as_str()..)?
                .take(ROWS_PER_TRANSACTION)
                .map(|row| Ok(row?.0.value().to_string()))
                .collect::<DbResult<_>>()?;
            for path in &page {
                self.change(path, |record| {
                    forget(&mut record.rows);
                    record.listed = 0;
                })?;
            }
            match page.last() {
                // the smallest name after it
                Some(last) if page.len() == ROWS_PER_TRANSACTION => after = format!("{last}\0"),
                _ => break,
            }
        }
        self.listing += 1;
        self.points.retain_in(through + 1.., |_, _| false)?;
        Ok(self.approvals.retain(|_, _| false)?)
    }

    /// Drops every second point of the older half when there are too many: all recent commits stay
    /// known, and some of the old ones.
    fn remember(&mut self, points: &[Revision]) -> DbResult<()> {
        for at in points {
            self.points.insert(at.rev, at.tag.0)?;
        }
        while self.points.len()? > revision::POINTS as u64 {
            let older = self
                .points
                .iter()?
                .take(revision::POINTS / 2)
                .map(|row| Ok(row?.0.value()))
                .collect::<DbResult<Vec<u64>>>()?;
            for rev in older.iter().skip(1).step_by(2) {
                self.points.remove(rev)?;
            }
        }
        Ok(())
    }

    /// Changes one record, and the index and count that depend on its base.
    fn change(&mut self, path: &str, change: impl FnOnce(&mut StateRecord)) -> DbResult<()> {
        let old = self
            .rows
            .get(path)?
            .map(|row| decode(row.value()))
            .transpose()?
            .unwrap_or_default();
        let mut new = old.clone();
        change(&mut new);
        if new == old {
            return Ok(());
        }
        if new.rows == Rows::default() {
            drop(self.rows.remove(path)?)
        } else {
            drop(self.rows.insert(path, new.encode().as_slice())?)
        }
        let (was, is) = (index_key(path, &old), index_key(path, &new));
        if was != is {
            if let Some(key) = &was {
                self.hashes.remove(key.as_slice())?;
            }
            if let Some(key) = &is {
                self.hashes.insert(key.as_slice(), ())?;
            }
            self.files =
                (self.files + u64::from(is.is_some())).saturating_sub(was.is_some().into());
        }
        Ok(())
    }
}

fn index_key(path: &str, record: &StateRecord) -> Option<Vec<u8>> {
    let entry = record.rows.base.entry.filter(|e| !e.is_dir())?;
    Some([&entry.hash.0[..PREFIX], path.as_bytes()].concat())
}
