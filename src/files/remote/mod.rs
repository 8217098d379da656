//! The hub as the engine sees it: its changes as rows, local changes as requests, and the transfer
//! of contents.
//!
//! It decides nothing about files and keeps no state of its own: ids and revisions come from the
//! rows of the state. [`link`] decides what a failed call means for other paths.

pub mod link;
pub mod rows;
pub mod s3em;
pub mod traffic;

mod download;
mod early;
mod upload;
mod wanted;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::client::{self, ChangeHeaders, ErrorDetail, Failure, HubClient, UploadResponse};
use crate::error::{Error, Kind};
use crate::transfer::{ReplacedRevision, RequestSlots};
use crate::wire::files::{self, Chunk, Commit, ExtraMetadata, Hash, Name, PAGE, Record, SINGLE};
use crate::wire::revision::{Condition, Revision};

use super::engine::traits::*;
use super::plan::{Entry, RemoteRow};
use super::state::DiskState;
use super::tree::DiskTree;
pub use early::EarlyWork;
use early::LongDownloads;
use link::Link;
use rows::RemoteNames;
use traffic::Traffic;

/// The client of a mesync hub for one synced directory. See the module documentation.
pub struct Remote {
    hub: Arc<HubClient>,
    state: Arc<DiskState>,
    tree: Arc<DiskTree>,
    names: RemoteNames,
    link: Arc<Link>,
    traffic: Arc<Traffic>,
    /// The requests of uploads.
    slots: RequestSlots,
    long_downloads: Mutex<LongDownloads>,
    /// Names whose content the hub asks for, because it has lost a part of it.
    wanted: Mutex<Vec<Name>>,
    /// Paths whose content the hub cannot send, each with a lost chunk.
    lacking: Mutex<BTreeMap<String, Hash>>,
}

impl Remote {
    pub fn new(
        hub: Arc<HubClient>,
        names: RemoteNames,
        state: Arc<DiskState>,
        tree: Arc<DiskTree>,
        link: Arc<Link>,
        traffic: Arc<Traffic>,
        slots: RequestSlots,
    ) -> Remote {
        Remote {
            hub,
            state,
            tree,
            names,
            link,
            traffic,
            slots,
            long_downloads: Mutex::default(),
            wanted: Mutex::default(),
            lacking: Mutex::default(),
        }
    }

    fn name(&self, path: &str) -> CallResult<Name> {
        self.names.name(path).map_err(|why| {
            Fault::Refused(Error::new(
                Kind::Failed,
                format!("cannot send {path}: {why}"),
            ))
        })
    }

    /// Returns the result of a call, and informs the workers that wait for the hub.
    fn called<T>(&self, called: client::HubResult<T>) -> CallResult<T> {
        match called {
            Ok(done) => {
                self.link.reached();
                Ok(done)
            }
            Err(failure) => Err(self.link.failed(failure)),
        }
    }

    /// Returns the result of a change: the new row, or why it was not made.
    fn answer(
        &self,
        change: &HubChange,
        called: client::HubResult<UploadResponse>,
    ) -> CallResult<ChangeOutcome> {
        let stored = match called {
            Err(failure) => return self.unmet(failure),
            Ok(stored) => stored,
        };
        let Some(record) = stored.record else {
            self.link.reached();
            let known = self.state.rows(&change.path)?.remote;
            // nothing was to be changed: the row is known already, or the feed reports it
            return Ok(if stored.rev == Some(known.rev) {
                ChangeOutcome::Made(vec![(change.path.clone(), known)])
            } else {
                ChangeOutcome::NotDone
            });
        };
        self.made(change, record, stored.renamed_from)
    }

    fn made(
        &self,
        change: &HubChange,
        record: Record,
        renamed_from: Option<Record>,
    ) -> CallResult<ChangeOutcome> {
        let rows: Vec<(String, RemoteRow)> = [Some(record), renamed_from]
            .iter()
            .flatten()
            .filter_map(|r| self.names.row(r))
            .collect();
        match rows.first() {
            Some((path, _)) if *path == change.path => {
                self.link.reached();
                Ok(ChangeOutcome::Made(rows))
            }
            _ => {
                let what = format!(
                    "hub {} answers with another file than that which it was sent",
                    self.hub.url()
                );
                Err(self.link.failed(Error::new(Kind::Unreachable, what).into()))
            }
        }
    }

    fn unmet(&self, failure: Failure) -> CallResult<ChangeOutcome> {
        match (failure.status, failure.told) {
            (412, ErrorDetail::Current(record)) => {
                self.link.reached();
                Ok(ChangeOutcome::Differs(
                    record.and_then(|record| self.names.row(&record)),
                ))
            }
            (409, ErrorDetail::Missing(_)) => {
                // the hub knows that now, and is asked again at the next attempt
                self.link.reached();
                Err(Fault::Later(Error::new(
                    Kind::Busy,
                    "the hub has lost a part of what was sent: it is sent again",
                )))
            }
            // for a delete: the file does not exist
            (410, _) => {
                self.link.reached();
                Err(set_back())
            }
            (404 | 409, _) if failure.error.kind != Kind::Unreachable => Ok(ChangeOutcome::NotDone),
            (_, told) => Err(self.link.failed(Failure { told, ..failure })),
        }
    }

    /// Makes a change whose bytes the hub has; an error response names the chunks that it lacks.
    fn commit(
        &self,
        change: &HubChange,
        entry: &Entry,
        chunks: Vec<Chunk>,
    ) -> CallResult<client::HubResult<UploadResponse>> {
        let commit = self.commit_of(change, entry, chunks)?;
        Ok(self.hub.commit(&commit, request(change)))
    }

    fn commit_of(
        &self,
        change: &HubChange,
        entry: &Entry,
        chunks: Vec<Chunk>,
    ) -> CallResult<Commit> {
        let name = self.name(&change.path)?;
        Ok(Commit {
            path: name.path,
            name: name.name,
            kind: entry.kind,
            mode: Some(rows::st_mode(entry)),
            mtime: Some(rows::mtime(entry)),
            extra: ExtraMetadata::default(),
            content_type: None,
            size: entry.size,
            checksum_sha256: entry.hash,
            chunks,
            from: self.old_name(change)?,
        })
    }

    fn old_name(&self, change: &HubChange) -> CallResult<Option<files::OldName>> {
        let from = change.from.as_ref().map(|from| {
            let Revision { rev, tag } = from.rev;
            self.name(&from.path).map(|name| files::OldName {
                path: name.path,
                name: name.name,
                if_match: rev,
                tag,
            })
        });
        from.transpose()
    }

    /// The long file that a change replaces on the hub.
    fn replaced(&self, change: &HubChange) -> CallResult<Option<ReplacedRevision>> {
        let at = change.from.as_ref().map_or(&change.path, |from| &from.path);
        let row = self.state.rows(at)?.remote;
        let is_long = (row.entry.as_ref())
            .is_some_and(|there| there.kind == files::EntryKind::File && there.size > SINGLE);
        Ok(is_long.then(|| ReplacedRevision {
            id: row.id,
            at: row.at(),
        }))
    }

    /// The chunks of a content that the hub has under a known name; `None`: there is no such name.
    fn known_chunks(&self, change: &HubChange, entry: &Entry) -> CallResult<Option<Vec<Chunk>>> {
        if entry.is_dir() || entry.size == 0 {
            return Ok(Some(Vec::new()));
        }
        let at = change.from.as_ref().map_or(&change.path, |from| &from.path);
        let row = self.state.rows(at)?.remote;
        if !row.entry.is_some_and(|there| there.same_body(entry)) {
            return Ok(None);
        }
        if entry.size <= SINGLE {
            return Ok(Some(vec![Chunk {
                sha256: entry.hash,
                size: entry.size,
            }]));
        }
        match self.hub.chunks_of(row.id, row.at()) {
            Err(failure) if failure.status == 404 && failure.error.kind != Kind::Unreachable => {
                Ok(None)
            }
            other => self.called(other).map(Some),
        }
    }
}

fn request(change: &HubChange) -> ChangeHeaders {
    let condition = match change.condition {
        ExpectedRow::Rev(at) => Condition::Match(at),
        ExpectedRow::Nothing => Condition::Absent,
    };
    ChangeHeaders {
        condition,
        key: Some(change.key),
        knows: change.newest,
    }
}

/// Nothing was changed: the next poll tells what the hub has now.
fn set_back() -> Fault {
    Fault::Later(Error::new(
        Kind::Busy,
        "the hub was set back since it was last asked for changes",
    ))
}

impl HubCalls for Remote {
    fn changes(
        &self,
        after: u64,
        newest: Revision,
        began: Option<u64>,
    ) -> CallResult<ChangesResult> {
        let page = match self
            .hub
            .changes(after, newest, began, PAGE, self.names.scope())
        {
            Err(failure) if failure.status == 410 => {
                self.link.reached();
                return Ok(ChangesResult::Gone);
            }
            Err(failure) if failure.status == 409 => {
                self.link.reached();
                return Ok(ChangesResult::OtherHistory);
            }
            other => self.called(other)?,
        };
        if !page.more {
            *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = page.wanted.clone();
            self.announced(&page.upcoming);
        }
        Ok(ChangesResult::Page(self.names.page(&page, after)))
    }

    fn common(&self, epoch: Uuid, points: &[Revision]) -> CallResult<u64> {
        match self.hub.common(epoch, points) {
            // an older hub
            Err(failure) if matches!(failure.status, 404 | 405) => Ok(0),
            other => self.called(other),
        }
    }

    fn ask(&self, key: Uuid, newest: Revision) -> CallResult<KeyRows> {
        let answer = match self.hub.ask_key(key, newest) {
            Err(failure) if failure.status == 410 => {
                self.link.reached();
                return Err(set_back());
            }
            other => self.called(other)?,
        };
        let rows = |records: &[Record]| {
            records
                .iter()
                .filter_map(|record| self.names.row(record))
                .collect::<Vec<_>>()
        };
        Ok(KeyRows {
            made: answer.done.then(|| rows(&answer.made)),
            current: rows(&answer.current),
        })
    }
}

impl ContentTransfer for Remote {
    fn send(&self, all: &[SendItem<'_>]) -> Vec<CallResult<ChangeOutcome>> {
        let sent = self.send_all(all);
        for (shipment, answer) in all.iter().zip(&sent) {
            if let (Ok(ChangeOutcome::FileChanged), Some(local)) = (answer, shipment.local) {
                self.tree.contradicted(&local.stamp);
            }
        }
        sent
    }

    fn stage(&self, all: &[StageItem<'_>]) -> Vec<CallResult<Option<StagedFile>>> {
        self.fetch_all(all)
    }
}
