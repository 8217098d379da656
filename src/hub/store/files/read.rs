//! Reads the tables of files: records, changes, events, versions. Listings are in `list`.
//!
//! It writes nothing, and has only the requested page in memory.

use std::io;
use std::ops::Bound;

use redb::ReadTransaction;
use uuid::Uuid;

use super::super::Store;
use super::Counts;
use super::chunk_row::ChunkRow;
use super::commits::{self, Known};
use super::reader::ContentReader;
use super::rows::{Row, damaged, kind_of, rfc3339};
use super::schema::{self, ACTIONS, FileTotals};
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadOnlyTable, ReadableTable};
use crate::error::Result;
use crate::hub::store::meta::META;
use crate::hub::store::staged::StagedChunk;
use crate::wire::files::{ChangesPage, Chunk, FileEvent, Hash, Name, PAGE, Record, Version};
use crate::wire::revision::{Revision, Tag};

/// The answer to a request for changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangesSince {
    Page(ChangesPage),
    /// 410: tombstones after the revision were removed.
    Gone,
    /// 409: `newest` is of a history that this hub does not have, because its disk was restored.
    OtherHistory,
}

#[cfg(test)]
impl ChangesSince {
    pub fn page(self) -> Option<ChangesPage> {
        if let ChangesSince::Page(page) = self {
            Some(page)
        } else {
            None
        }
    }
}

impl Store {
    /// The chunks of this list that are neither in the store nor staged, each once. Files are checked for existence and length
    /// only.
    pub fn missing_chunks(&self, chunks: &[Hash]) -> Result<Vec<Hash>> {
        let mut missing = chunks.to_vec();
        missing.sort_unstable();
        missing.dedup();
        self.read(|tx| {
            let table = schema::chunk_rows(tx)?;
            let mut error = None;
            missing.retain(|hash| match table.get(&hash.0) {
                Ok(row) => {
                    let row = row.map(|row| ChunkRow::from_value(row.value()));
                    let is_kept = row
                        .is_some_and(|row| !row.is_file() || self.chunks.is_there(*hash, row.size));
                    // a lost chunk must be sent even if it is staged: only an operation moves it to its place
                    self.chunks.wanted.has(*hash) || !is_kept && !self.chunks.is_staged(*hash)
                }
                Err(e) => {
                    error = Some(e);
                    true
                }
            });
            error.map_or(Ok(()), Err)
        })?;
        Ok(missing)
    }

    pub fn chunk(&self, hash: Hash) -> Result<Option<ContentReader>> {
        let size = self.read(|tx| {
            Ok(schema::chunk_rows(tx)?
                .get(&hash.0)?
                .map(|row| ChunkRow::from_value(row.value()).size))
        })?;
        Ok(size.map(|size| {
            ContentReader::new(&self.db, &self.chunks, vec![Chunk { sha256: hash, size }])
        }))
    }

    /// A chunk that is staged for a later commit.
    pub fn staged_chunk(&self, chunk: Chunk) -> io::Result<Option<StagedChunk>> {
        self.chunks.staged(chunk.sha256, chunk.size)
    }

    /// A file by its id; a deleted one has `deleted_at`.
    pub fn file(&self, id: Uuid) -> Result<Option<Record>> {
        self.read(|tx| {
            let Some(row) = current(tx, id.as_u128())? else {
                return Ok(None);
            };
            let mut record = row.record();
            self.mark_wanted(
                tx,
                std::slice::from_ref(&row),
                std::slice::from_mut(&mut record),
            )?;
            Ok(Some(record))
        })
    }

    #[cfg(test)]
    pub fn file_named(&self, name: &crate::wire::files::Name) -> Result<Option<Record>> {
        self.read(|tx| {
            let id = tx
                .table(schema::NAMES)?
                .get((name.path.as_str(), name.name.as_str()))?
                .map(|row| row.value().0);
            Ok(id
                .map(|id| current(tx, id))
                .transpose()?
                .flatten()
                .map(|row| row.record()))
        })
    }

    /// The chunks of the file with this name; empty if there is none.
    pub fn chunks_named(&self, name: &Name) -> Result<Vec<Chunk>> {
        let id = self.read(|tx| {
            Ok(tx
                .table(schema::NAMES)?
                .get((name.path.as_str(), name.name.as_str()))?
                .map(|row| Uuid::from_u128(row.value().0)))
        })?;
        let found = id.map(|id| self.chunks_of(id, None)).transpose()?;
        Ok(found.flatten().map_or(Vec::new(), |(_, chunks)| chunks))
    }

    /// The chunks of a revision, the current one or a version; `None`: it does not exist, or is no longer kept.
    pub fn chunks_of(
        &self,
        id: Uuid,
        at: Option<Revision>,
    ) -> Result<Option<(Record, Vec<Chunk>)>> {
        self.read(|tx| {
            let row = current(tx, id.as_u128())?
                .filter(|row| row.is_live() && at.is_none_or(|at| at.rev == row.rev));
            let row = match (row, at) {
                (None, Some(at)) => version(tx, id.as_u128(), at.rev)?,
                (row, _) => row,
            };
            let Some(row) = row.filter(|row| at.is_none_or(|at| at.is(row.revision()))) else {
                return Ok(None);
            };
            let chunks = schema::chunks_of(&tx.table(schema::LISTS)?, &row)?;
            Ok(Some((row.record(), chunks)))
        })
    }

    /// The content of a revision; `None`: it does not exist, or is no longer kept.
    pub fn open_file(
        &self,
        id: Uuid,
        at: Option<Revision>,
    ) -> Result<Option<(Record, ContentReader)>> {
        let found = self.chunks_of(id, at)?;
        Ok(found
            .map(|(record, chunks)| (record, ContentReader::new(&self.db, &self.chunks, chunks))))
    }

    /// Checks the content of a version, by default of the last replaced one, which records its lost chunks.
    pub fn look_at_version(&self, id: Uuid, rev: Option<u64>) -> Result<()> {
        let rev = match rev {
            Some(rev) => Some(rev),
            None => self.versions(id)?.first().map(|version| version.rev),
        };
        if let Some((_, reader)) = rev
            .map(|rev| self.open_file(id, Some(rev.into())))
            .transpose()?
            .flatten()
        {
            reader.lost(&(0..reader.size()));
        }
        Ok(())
    }

    /// The changes after a revision. `newest`: the latest one that the caller knows; without its tag, its history is unknown.
    /// Rows of directories that `reads` does not admit are left out; a page ends after `most_skipped` of them.
    pub fn changes(
        &self,
        after: u64,
        newest: Revision,
        began: Option<u64>,
        limit: usize,
        (reads, most_skipped): (&dyn Fn(&str) -> bool, usize),
    ) -> Result<ChangesSince> {
        self.read(|tx| {
            let totals = FileTotals::read(&tx.table(META)?)?;
            let chain = tx.table(super::commits::COMMITS)?;
            let known = commits::knows(&chain, newest)?;
            if known == Known::No {
                return Ok(ChangesSince::OtherHistory);
            }
            if known == Known::Forgotten
                || after > 0 && after.max(began.unwrap_or(0)) < totals.dropped
            {
                return Ok(ChangesSince::Gone);
            }
            let (changes, files) = (tx.table(schema::CHANGES)?, tx.table(schema::FILES)?);
            let (limit, mut page, mut skipped) = (limit.clamp(1, PAGE), Vec::new(), 0);
            let (mut more, mut passed) = (false, after);
            for row in changes.range((Bound::Excluded(after), Bound::Unbounded))? {
                let row = files
                    .get(row?.1.value())?
                    .ok_or_else(|| damaged("a change"))?;
                let row = Row::from_bytes(row.value())?;
                let is_read = reads(&row.name.path);
                if is_read && page.len() == limit || !is_read && skipped == most_skipped {
                    more = true;
                    break;
                }
                passed = row.rev;
                if is_read {
                    page.push(row.record());
                } else {
                    skipped += 1;
                }
            }
            let began = if after == 0 { Some(totals.rev) } else { began };
            let tag = commits::tag_of(&chain, totals.rev)?;
            Ok(ChangesSince::Page(ChangesPage {
                rev: totals.rev,
                epoch: self.epoch,
                more,
                began,
                through: Some(if more { passed } else { totals.rev }),
                tag,
                changes: page,
                wanted: Vec::new(),
                upcoming: Vec::new(),
            }))
        })
    }

    /// Events after a revision, in order, at most `limit`; `None`: some of them are no longer kept.
    pub fn events_after(&self, after: u64, limit: usize) -> Result<Option<Vec<(u64, FileEvent)>>> {
        self.read(|tx| {
            if after < FileTotals::read(&tx.table(META)?)?.forgotten {
                return Ok(None);
            }
            let (events, of) = (tx.table(schema::EVENTS)?, EventRecords::open(tx)?);
            let mut found = Vec::new();
            for row in events.range((Bound::Excluded(after), Bound::Unbounded))? {
                let (rev, row) = row?;
                if found.len() == limit {
                    break;
                }
                let event = of.event(rev.value(), row.value())?;
                found.extend(event.map(|event| (rev.value(), event)));
            }
            Ok(Some(found))
        })
    }

    /// Events since a time (wall clock, ms), of one kind (`created`, `updated`, `deleted`) or all, newest last.
    pub fn history(
        &self,
        since: u64,
        kind: Option<&str>,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<FileEvent>> {
        self.read(|tx| {
            let (events, of) = (tx.table(schema::EVENTS)?, EventRecords::open(tx)?);
            let (mut skipped, mut found) = (0, Vec::new());
            // the clock may have jumped, so times may not be in the order of revisions
            for row in events.iter()? {
                let (rev, row) = row?;
                let (wall, what, ..) = row.value();
                let is_kind = kind.is_none_or(|kind| {
                    ACTIONS
                        .get(usize::from(what / 4))
                        .is_some_and(|action| *action == kind)
                });
                if wall < since || !is_kind {
                    continue;
                }
                if found.len() == limit {
                    break;
                }
                if skipped < offset {
                    skipped += 1;
                    continue;
                }
                found.extend(of.event(rev.value(), row.value())?);
            }
            Ok(found)
        })
    }

    /// The versions of a file, newest first.
    pub fn versions(&self, id: Uuid) -> Result<Vec<Version>> {
        self.read(|tx| {
            let id = id.as_u128();
            let rows = tx
                .table(schema::VERSIONS)?
                .range((id, 0)..=(id, u64::MAX))?
                .rev();
            rows.map(|row| Ok(Row::from_bytes(row?.1.value())?.version()))
                .collect()
        })
    }

    /// The latest revision.
    pub fn rev(&self) -> Result<u64> {
        self.read(|tx| Ok(FileTotals::read(&tx.table(META)?)?.rev))
    }

    /// Counts everything about files.
    pub fn file_counts(&self) -> Result<Counts> {
        self.read(|tx| {
            let FileTotals {
                files, bytes, rev, ..
            } = FileTotals::read(&tx.table(META)?)?;
            let (versions, chunks) = (
                tx.table(schema::VERSIONS)?.len()?,
                schema::chunk_rows(tx)?.len()?,
            );
            let (tombstones, events) = (
                tx.table(schema::TOMBSTONES)?.len()?,
                tx.table(schema::EVENTS)?.len()?,
            );
            Ok(Counts {
                files,
                bytes,
                rev,
                versions,
                chunks,
                tombstones,
                events,
            })
        })
    }
}

fn current(tx: &ReadTransaction, id: u128) -> DbResult<Option<Row>> {
    tx.table(schema::FILES)?
        .get(id)?
        .map(|row| Row::from_bytes(row.value()))
        .transpose()
}

fn version(tx: &ReadTransaction, id: u128, rev: u64) -> DbResult<Option<Row>> {
    tx.table(schema::VERSIONS)?
        .get((id, rev))?
        .map(|row| Row::from_bytes(row.value()))
        .transpose()
}

/// The tables with the records of events, opened once for many of them.
struct EventRecords {
    files: ReadOnlyTable<u128, &'static [u8]>,
    versions: ReadOnlyTable<(u128, u64), &'static [u8]>,
}

impl EventRecords {
    fn open(tx: &ReadTransaction) -> DbResult<EventRecords> {
        Ok(EventRecords {
            files: tx.table(schema::FILES)?,
            versions: tx.table(schema::VERSIONS)?,
        })
    }

    /// An event with the record of that revision or, if that is no longer kept, as much of it as is known. `None`: nothing is
    /// known of the file any more.
    fn event(&self, rev: u64, row: (u64, u8, u128, u64)) -> DbResult<Option<FileEvent>> {
        let (wall, what, id, overwrote) = row;
        let Some(now) = self.files.get(id)? else {
            return Ok(None);
        };
        let now = Row::from_bytes(now.value())?;
        let (Some(action), Some(kind)) = (ACTIONS.get(usize::from(what / 4)), kind_of(what % 4))
        else {
            return Err(damaged("an event"));
        };
        let row = if now.rev == rev {
            now
        } else if let Some(then) = self.versions.get((id, rev))? {
            Row::from_bytes(then.value())?
        } else {
            Row {
                kind,
                rev,
                tag: Tag::default(),
                deleted: (*action == "deleted").then_some(wall),
                renamed_to: None,
                ..now
            }
        };
        Ok(Some(FileEvent {
            kind: format!("file_{action}"),
            event_type: Some(action.to_string()),
            resource_id: Some(row.id),
            payload: row.record(),
            overwrote: (overwrote > 0).then_some(overwrote),
            created_at: Some(rfc3339(wall)),
        }))
    }
}
