//! A feed of changes for a server that has none: lists everything and compares it with the rows of
//! the state.
//!
//! The numbers of the rows are local. A listing takes time, and its pages shift while others write:
//! paths that this client is changing meanwhile are left out, and a path that the listing did not
//! name is gone only if the server confirms that.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{S3em, is_dir};
use crate::client::ListingQuery;
use crate::clock;
use crate::error::{Error, Kind};
use crate::files::engine::pages::each_below;
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, RemoteRow};
use crate::files::remote::rows;
use crate::relpath;
use crate::wire::files::{Hash, PAGE, Record};
use crate::wire::revision::Tag;

/// The pause after a listing, as a multiple of its duration.
const REST_PER_LISTING_TIME: u32 = 10;
/// Records in one listing, at most; a server with more of them is taken to be endless.
const MAX_LISTED_FILES: u64 = 20_000_000;

/// The numbers of the rows, and the paths that are being changed.
pub struct Ledger(Mutex<LedgerState>);

struct LedgerState {
    /// The last number that was given out.
    rev: u64,
    /// Names that are being changed.
    changing: BTreeSet<String>,
    /// Those names, and all that were changed since the listing began.
    touched: BTreeSet<String>,
    /// A listing is needed soon: the server differs from the rows.
    wanted: bool,
    not_before: Instant,
}

impl Ledger {
    /// Creates a ledger whose numbers begin above all numbers in the state.
    pub fn new(state: &dyn State) -> CallResult<Ledger> {
        let mut rev = state.feed()?.cursor;
        each_below(state, "", |_, rows| {
            rev = rev.max(rows.base.rev).max(rows.remote.rev);
            Ok(true)
        })?;
        let (changing, touched) = (BTreeSet::new(), BTreeSet::new());
        Ok(Ledger(Mutex::new(LedgerState {
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

    /// No listing reports these names until the returned value is dropped, nor does a listing that
    /// is running then.
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

    fn lock(&self) -> MutexGuard<'_, LedgerState> {
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

/// The differences from the state.
#[derive(Default)]
struct ListedState {
    /// Hashes of all names in the listing.
    names: HashSet<u64>,
    hasher: RandomState,
    /// Changed rows, without numbers.
    changed: BTreeMap<String, RemoteRow>,
    /// Names that had no file, by their current content.
    new: HashMap<Hash, String>,
    gone: Vec<(String, RemoteRow)>,
    /// Unchanged rows.
    same: Vec<(String, RemoteRow)>,
}

impl ListedState {
    fn take(&mut self, path: String, row: RemoteRow, known: &RemoteRow) {
        if (row.entry, row.id) == (known.entry, known.id) {
            return;
        }
        if let (Some(entry), None) = (&row.entry, &known.entry) {
            self.new.insert(entry.hash, path.clone());
        }
        self.changed.insert(path, row);
    }

    /// `false`: the name was added before.
    fn name(&mut self, path: &str) -> bool {
        self.names.insert(self.hasher.hash_one(path))
    }

    fn has(&self, path: &str) -> bool {
        self.names.contains(&self.hasher.hash_one(path))
    }
}

impl S3em {
    /// Lists everything and returns what differs from the state; `all`: also what does not.
    pub(super) fn compare(&self, all: bool) -> CallResult<RowPage> {
        let (began, before) = (clock::monotonic(), self.ledger.begin());
        let mut found = ListedState::default();
        self.list(&mut found)?;
        self.missing(&mut found, all)?;
        self.ledger.lock().not_before =
            clock::monotonic() + began.elapsed() * REST_PER_LISTING_TIME;
        Ok(self.number(found, if all { Some(before) } else { None }))
    }

    fn list(&self, found: &mut ListedState) -> CallResult<()> {
        let dir = self.names.directory();
        let query = ListingQuery {
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
            // the same page again: the server ignores the offset, and has sent everything
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

    fn listed(&self, found: &mut ListedState, record: &Record) -> CallResult<()> {
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
        // of several records of one name, the first one is the newest
        if !found.name(path) {
            return Ok(());
        }
        let known = self.state.rows(path)?.remote;
        if let Some((path, row)) = self.names.row(record) {
            found.take(path, row, &known);
        }
        Ok(())
    }

    /// Finds what the state has and the listing has not. A page may have missed a name while others
    /// made the list longer or shorter.
    fn missing(&self, found: &mut ListedState, all: bool) -> CallResult<()> {
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

    /// The live record with an id.
    fn by_id(&self, id: Uuid) -> CallResult<Option<Record>> {
        match self.hub.info(id) {
            Err(failure) if failure.status == 404 => Ok(None),
            other => Ok(Some(self.called(other)?).filter(|record| record.deleted_at.is_none())),
        }
    }

    /// `listing`: the last number before a full listing began. A row made since then is not gone
    /// just because it was not listed.
    fn number(&self, found: ListedState, listing: Option<u64>) -> RowPage {
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
        // the number 0 would begin a full listing again
        inner.rev = inner.rev.max(1);
        rows.sort_by_key(|(_, row)| row.rev);
        let last = rows
            .last()
            .map(|(_, row)| row.rev)
            .or(listing.map(|_| inner.rev));
        RowPage {
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
