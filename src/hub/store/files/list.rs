//! Listings: files in the order of their names, page by page, by directory and by a part of the name.
//!
//! A page is counted in the table of names alone; rows are read only for files on the page. Clients that list everything ask
//! for many pages of one state, so the name of every [`LANDMARK_STRIDE_ROWS`]th file of it is kept: each page begins near it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::PoisonError;

use redb::ReadTransaction;

use super::super::Store;
use super::rows::{Row, damaged, kind_number};
use super::schema::{self, DELETED, FileTotals};
use crate::database::DbResult;
use crate::database::table::OpenTable;
use crate::error::Result;
use crate::hub::store::meta::META;
use crate::wire::files::{EntryKind, Hash, PAGE, Record};

/// Files between two landmarks.
const LANDMARK_STRIDE_ROWS: u64 = 1000;

/// Which files to list: sorted by path, then name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// A prefix of the directory; if it ends with a slash, that directory and everything below it.
    pub path: String,
    /// A part of the name.
    pub search: String,
    pub offset: usize,
    pub limit: usize,
    /// Includes directories and symbolic links.
    pub all_kinds: bool,
    /// Only files below these directories, none of which is below another.
    pub below: Option<Vec<String>>,
}

/// The position of every [`LANDMARK_STRIDE_ROWS`]th file in the listing of all files at a revision.
#[derive(Debug, Clone, Default)]
pub struct Landmarks {
    rev: u64,
    all_kinds: bool,
    names: Vec<(String, String)>,
    total: u64,
}

/// The number of files before it, its path and its name.
type Landmark = (u64, String, String);

impl Store {
    /// A page of the files that are not deleted, and their total number.
    pub fn list(&self, listing: &Listing) -> Result<(Vec<Record>, u64)> {
        let whole = listing.path.is_empty() && listing.search.is_empty() && listing.below.is_none();
        self.read(|tx| {
            let (ids, total) = if whole {
                self.page_of_all(tx, listing)?
            } else {
                walk(tx, listing, None)?
            };
            let files = tx.table(schema::FILES)?;
            let row = |id: &u128| {
                Row::from_bytes(files.get(id)?.ok_or_else(|| damaged("a name"))?.value())
            };
            let rows = ids.iter().map(row).collect::<DbResult<Vec<Row>>>()?;
            let mut records: Vec<Record> = rows.iter().map(Row::record).collect();
            self.mark_wanted(tx, &rows, &mut records)?;
            Ok((records, total))
        })
    }

    /// Those of `wanted` that files below these directories have.
    pub fn held_below(&self, wanted: &BTreeSet<Hash>, dirs: &[String]) -> Result<BTreeSet<Hash>> {
        self.read(|tx| {
            let (names, files) = (tx.table(schema::NAMES)?, tx.table(schema::FILES)?);
            let (lists, mut held) = (tx.table(schema::LISTS)?, BTreeSet::new());
            for span in below(dirs) {
                for row in names.range::<(&str, &str)>((&*span.from, "")..)? {
                    let (key, value) = row?;
                    if !span.covers(key.value().0) || held.len() == wanted.len() {
                        break;
                    }
                    let file = files
                        .get(value.value().0)?
                        .ok_or_else(|| damaged("a name"))?;
                    let row = Row::from_bytes(file.value())?;
                    if row.is_live() {
                        let chunks = schema::chunks_of(&lists, &row)?.into_iter();
                        held.extend(
                            chunks
                                .map(|chunk| chunk.sha256)
                                .filter(|h| wanted.contains(h)),
                        );
                    }
                }
            }
            Ok(held)
        })
    }

    fn page_of_all(&self, tx: &ReadTransaction, listing: &Listing) -> DbResult<(Vec<u128>, u64)> {
        let rev = FileTotals::read(&tx.table(META)?)?.rev;
        if let Some((nearest, total)) = self.nearest(rev, listing) {
            let ids = nearest.map_or(Ok(Vec::new()), |(at, path, name)| {
                page_from(tx, listing, at, (&path, &name))
            })?;
            return Ok((ids, total));
        }
        let mut landmarks = Landmarks {
            rev,
            all_kinds: listing.all_kinds,
            ..Landmarks::default()
        };
        let (ids, total) = walk(tx, listing, Some(&mut landmarks.names))?;
        landmarks.total = total;
        *self
            .landmarks
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = landmarks;
        Ok((ids, total))
    }

    /// The last landmark before the page, if the page is within the listing, and the total number of files. `None`: the
    /// landmarks are of another state.
    fn nearest(&self, rev: u64, listing: &Listing) -> Option<(Option<Landmark>, u64)> {
        let known = self
            .landmarks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if (known.rev, known.all_kinds) != (rev, listing.all_kinds) || known.names.is_empty() {
            return None;
        }
        let number = listing.offset as u64 / LANDMARK_STRIDE_ROWS;
        let nearest = known
            .names
            .get(number as usize)
            .map(|(path, name)| (number * LANDMARK_STRIDE_ROWS, path.clone(), name.clone()));
        Some((nearest, known.total))
    }
}

fn shown(listing: &Listing) -> Range<u64> {
    listing.offset as u64..listing.offset.saturating_add(listing.limit.min(PAGE)) as u64
}

fn is_listed(state: u8, all_kinds: bool) -> bool {
    state & DELETED == 0 && (all_kinds || state == kind_number(EntryKind::File))
}

/// The ids of a page, found by walking from the file with the number `at` and this name.
fn page_from(
    tx: &ReadTransaction,
    listing: &Listing,
    mut at: u64,
    name: (&str, &str),
) -> DbResult<Vec<u128>> {
    let (shown, mut page) = (shown(listing), Vec::new());
    for row in tx.table(schema::NAMES)?.range(name..)? {
        let (id, state) = row?.1.value();
        if at >= shown.end {
            break;
        }
        if is_listed(state, listing.all_kinds) {
            page.extend(shown.contains(&at).then_some(id));
            at += 1;
        }
    }
    Ok(page)
}

/// Walks all names of the listing; returns the ids of the page, and the total number.
fn walk(
    tx: &ReadTransaction,
    listing: &Listing,
    mut landmarks: Option<&mut Vec<(String, String)>>,
) -> DbResult<(Vec<u128>, u64)> {
    let (names, shown) = (tx.table(schema::NAMES)?, shown(listing));
    let (mut total, mut page) = (0u64, Vec::new());
    let asked = spans(&listing.path);
    let walked = listing.below.as_deref().map(below);
    let is_asked = |path: &str| walked.is_none() || asked.iter().any(|span| span.covers(path));
    for span in walked.as_ref().unwrap_or(&asked) {
        for row in names.range::<(&str, &str)>((&*span.from, "")..)? {
            let (key, value) = row?;
            let ((path, name), (id, state)) = (key.value(), value.value());
            if !span.covers(path) {
                break;
            }
            let is_shown = is_listed(state, listing.all_kinds) && is_asked(path);
            if !is_shown || !name.contains(&listing.search) {
                continue;
            }
            if let Some(landmarks) = landmarks
                .as_mut()
                .filter(|_| total % LANDMARK_STRIDE_ROWS == 0)
            {
                landmarks.push((path.to_string(), name.to_string()));
            }
            page.extend(shown.contains(&total).then_some(id));
            total += 1;
        }
    }
    Ok((page, total))
}

/// A range of the table of names: the directory `from`, or all directories that begin with it.
struct NameRange {
    from: String,
    exact: bool,
}

impl NameRange {
    fn covers(&self, path: &str) -> bool {
        if self.exact {
            path == self.from
        } else {
            path.starts_with(&self.from)
        }
    }
}

/// A prefix is one span, a directory with its content two: `docs-old` may be between `docs` and `docs/a`.
fn spans(path: &str) -> Vec<NameRange> {
    let span = |from: &str, exact| NameRange {
        from: from.to_string(),
        exact,
    };
    match path.strip_suffix('/') {
        Some(dir) => vec![span(dir, true), span(path, false)],
        None => vec![span(path, false)],
    }
}

/// These directories and their content, in the order of the table.
fn below(dirs: &[String]) -> Vec<NameRange> {
    let mut all: Vec<NameRange> = dirs
        .iter()
        .flat_map(|dir| spans(&format!("{dir}/")))
        .collect();
    all.sort_by(|a, b| a.from.cmp(&b.from));
    all
}
