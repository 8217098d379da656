//! A feed of changes where the server has none: everything is listed and compared with the rows of the state.
//!
//! The numbers of rows are our own. A listing takes its time, and pages shift while others write: what we were changing
//! meanwhile is left out of it, and what it has not named is gone only if the server, asked about that one, says so.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{S3em, is_dir};
use crate::client::Query;
use crate::clock;
use crate::error::{Error, Kind};
use crate::files::engine::pages::each_below;
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, RemoteRow};
use crate::files::remote::rows;
use crate::relpath;
use crate::wire::files::{Hash, PAGE, Record};
use crate::wire::revision::Tag;

/// After a listing the server is left alone for so many times as long as it took.
const REST_PER_LISTING_TIME: u32 = 10;
/// Records in one listing; a server that has more has no end.
const MAX_LISTED_FILES: u64 = 20_000_000;

/// The numbers of rows, and which paths are being changed.
pub struct Ledger(Mutex<Inner>);

struct Inner {
    /// The last one that was given.
    rev: u64,
    /// Names under way.
    changing: BTreeSet<String>,
    /// Those, and all that were since the listing began.
    touched: BTreeSet<String>,
    /// A listing is due soon: the server differs from the rows.
    wanted: bool,
    not_before: Instant,
}

impl Ledger {
    /// Numbers begin above all that the state has.
    pub fn new(state: &dyn State) -> Called<Ledger> {
        let mut rev = state.feed()?.cursor;
        each_below(state, "", |_, rows| {
            rev = rev.max(rows.base.rev).max(rows.remote.rev);
            Ok(true)
        })?;
        let (changing, touched) = (BTreeSet::new(), BTreeSet::new());
        Ok(Ledger(Mutex::new(Inner {
            rev,
            changing,
            touched,
            wanted: false,
            not_before: clock::monotonic(),
        })))
    }

    pub fn next(&self) -> u64 {
        let mut inner = self.lock();
        inner.rev += 1;
        inner.rev
    }

    /// Until what it returns is dropped, and to the end of a listing that is under way then, no listing speaks of these.
    pub fn changing(&self, names: Vec<String>) -> Changing<'_> {
        let mut inner = self.lock();
        inner.changing.extend(names.iter().cloned());
        inner.touched.extend(names.iter().cloned());
        Changing {
            ledger: self,
            names,
        }
    }

    pub fn want(&self) {
        self.lock().wanted = true;
    }

    pub fn take_wanted(&self) -> bool {
        std::mem::take(&mut self.lock().wanted)
    }

    /// How long to wait before the next listing.
    pub fn pause(&self) -> Duration {
        self.lock()
            .not_before
            .saturating_duration_since(clock::monotonic())
    }

    fn begin(&self) -> u64 {
        let mut inner = self.lock();
        (inner.touched, inner.wanted) = (inner.changing.clone(), false);
        inner.rev
    }

    fn is_touched(&self, path: &str) -> bool {
        self.lock().touched.contains(path)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Ledger::changing`].
pub struct Changing<'a> {
    ledger: &'a Ledger,
    names: Vec<String>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut inner = self.ledger.lock();
        self.names.iter().for_each(|name| {
            inner.changing.remove(name);
        });
    }
}

/// What differs from the state.
#[derive(Default)]
struct Found {
    /// Of all names in it.
    names: HashSet<u64>,
    hasher: RandomState,
    /// Without numbers.
    changed: BTreeMap<String, RemoteRow>,
    /// Names that had no file, by what they have now.
    new: HashMap<Hash, String>,
    gone: Vec<(String, RemoteRow)>,
    /// As the state has them.
    same: Vec<(String, RemoteRow)>,
}

impl Found {
    fn take(&mut self, path: String, row: RemoteRow, known: &RemoteRow) {
        if (row.entry, row.id) == (known.entry, known.id) {
            return;
        }
        if let (Some(entry), None) = (&row.entry, &known.entry) {
            self.new.insert(entry.hash, path.clone());
        }
        self.changed.insert(path, row);
    }

    /// `false`: it was there already.
    fn name(&mut self, path: &str) -> bool {
        self.names.insert(self.hasher.hash_one(path))
    }

    fn has(&self, path: &str) -> bool {
        self.names.contains(&self.hasher.hash_one(path))
    }
}

impl S3em {
    /// Lists everything and says what differs from the state; `all`: and what does not.
    pub(super) fn compare(&self, all: bool) -> Called<Page> {
        let (began, before) = (clock::monotonic(), self.ledger.begin());
        let mut found = Found::default();
        self.list(&mut found)?;
        self.missing(&mut found, all)?;
        self.ledger.lock().not_before =
            clock::monotonic() + began.elapsed() * REST_PER_LISTING_TIME;
        Ok(self.number(found, if all { Some(before) } else { None }))
    }

    fn list(&self, found: &mut Found) -> Called<()> {
        let dir = self.names.directory();
        let query = Query {
            path: Some(dir).filter(|dir| !dir.is_empty()),
            search: None,
            all_kinds: false,
        };
        let (mut offset, mut last_page) = (0, None);
        loop {
            let page = self.called(self.hub.list(&query, PAGE, offset))?;
            offset += page.records.len() as u64;
            let ends = page
                .records
                .first()
                .map(|r| r.id)
                .zip(page.records.last().map(|r| r.id));
            // the same again: it knows no offset, and has given all
            if ends.is_none() || ends == last_page {
                return Ok(());
            }
            last_page = ends;
            for record in &page.records {
                self.listed(found, record)?;
            }
            if page.total.is_some_and(|total| offset >= total) {
                return Ok(());
            }
            if offset > MAX_LISTED_FILES {
                let what = format!("server {} lists files without end", self.hub.url());
                return Err(self.link.failed(Error::new(Kind::Unreachable, what).into()));
            }
        }
    }

    fn listed(&self, found: &mut Found, record: &Record) -> Called<()> {
        let full = record.full_name();
        let Some(path) = self
            .names
            .path(&full)
            .filter(|_| record.deleted_at.is_none())
        else {
            return Ok(());
        };
        if let Err(why) = relpath::check(&full) {
            log::debug!("ignored a file of the server: {why}");
            return Ok(());
        }
        // the first one is the newest, should there be several
        if !found.name(path) {
            return Ok(());
        }
        let known = self.state.rows(path)?.remote;
        if let Some((path, row)) = self.names.row(record) {
            found.take(path, row, &known);
        }
        Ok(())
    }

    /// What the state has and the listing has not. A page may have missed it when others made the list longer or shorter.
    fn missing(&self, found: &mut Found, all: bool) -> Called<()> {
        each_below(&*self.state, "", |path, rows| {
            let known = &rows.remote;
            if known.entry.is_none() {
                return Ok(true);
            }
            if !found.has(path) && !is_dir(known) && !self.ledger.is_touched(path) {
                match self
                    .by_id(known.id)?
                    .filter(|r| self.names.path(&r.full_name()) == Some(path))
                {
                    None => {
                        found.gone.push((path.to_string(), known.clone()));
                        return Ok(true);
                    }
                    Some(record) => {
                        if let Some((path, row)) = self.names.row(&record) {
                            found.take(path, row, known);
                        }
                    }
                }
            }
            if all {
                found.same.push((path.to_string(), known.clone()));
            }
            Ok(true)
        })
    }

    /// The live record of an id.
    fn by_id(&self, id: Uuid) -> Called<Option<Record>> {
        match self.hub.info(id) {
            Err(failure) if failure.status == 404 => Ok(None),
            other => Ok(Some(self.called(other)?).filter(|record| record.deleted_at.is_none())),
        }
    }

    /// `listing`: the last number before it began, if it is a full one. What was made since is not gone for not being named.
    fn number(&self, found: Found, listing: Option<u64>) -> Page {
        let mut inner = self.ledger.lock();
        let mut rows: Vec<(String, RemoteRow)> = found
            .same
            .into_iter()
            .filter(|(path, _)| !found.changed.contains_key(path))
            .collect();
        let body = |entry: &Option<Entry>| entry.and_then(|e| found.new.get(&e.hash).cloned());
        let gone: Vec<(String, RemoteRow)> = found
            .gone
            .iter()
            .map(|(path, known)| {
                (
                    path.clone(),
                    RemoteRow {
                        renamed_to: body(&known.entry),
                        ..rows::gone(0, known.id)
                    },
                )
            })
            .collect();
        for (path, row) in found.changed.into_iter().chain(gone) {
            if inner.touched.contains(&path) {
                inner.wanted = true;
                continue;
            }
            inner.rev += 1;
            rows.push((
                path,
                RemoteRow {
                    rev: inner.rev,
                    ..row
                },
            ));
        }
        // a number that is 0 would begin a full listing again
        inner.rev = inner.rev.max(1);
        rows.sort_by_key(|(_, row)| row.rev);
        let last = rows
            .last()
            .map(|(_, row)| row.rev)
            .or(listing.map(|_| inner.rev));
        Page {
            rev: listing.unwrap_or(inner.rev),
            epoch: self.epoch,
            more: false,
            began: None,
            last,
            tag: Tag::default(),
            rows,
        }
    }
}
