//! Sends files to a server without revisions and receives them, always as a whole.

use std::io::Write as _;

use uuid::Uuid;

use super::{RemoteVersion, S3em};
use crate::client::{self, ByteSource, Failure, UploadResponse};
use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, LocalEntry, RemoteRow};
use crate::files::remote::rows;
use crate::files::tree::root::fault;
use crate::files::tree::sync_set::SyncSet;
use crate::transfer::TransferStep;
use crate::wire::files::{self, Hash, SINGLE};

/// Bytes that are read at a time.
const COPY_BUFFER_BYTES: usize = 64 * 1024;

impl S3em {
    /// Sends a file, and removes its old name.
    fn put(
        &self,
        change: &HubChange,
        entry: &Entry,
        bytes: ByteSource<'_>,
    ) -> CallResult<ChangeOutcome> {
        if let RemoteVersion::Otherwise(row) = self.stands(&change.path, change.condition)? {
            return Ok(ChangeOutcome::Differs(row));
        }
        let name = self.name(&change.path)?;
        let metadata = rows::metadata(entry, name.path);
        let passed = |bytes| self.traffic.up(TransferStep::Passed(bytes));
        let stored = match self.hub.upload(
            &name.name,
            &metadata,
            bytes,
            client::ChangeHeaders::default(),
            &passed,
        ) {
            // the bytes are not those that were hashed
            Err(failure) if failure.status == 0 && failure.error.kind == Kind::Busy => {
                return Ok(ChangeOutcome::FileChanged);
            }
            Err(failure) => return Err(self.link.failed(self.plainly(failure, entry))),
            Ok(stored) => stored,
        };
        self.link.reached();
        let Some(row) = self.stored(change, entry, stored)? else {
            self.ledger.want();
            return Ok(ChangeOutcome::NotDone);
        };
        let mut made = vec![(change.path.clone(), row)];
        if let Some(from) = &change.from
            && let RemoteVersion::Met(records) =
                self.stands(&from.path, ExpectedRow::Rev(from.rev))?
        {
            let gone = self.remove(&records)?;
            made.push((
                from.path.clone(),
                RemoteRow {
                    renamed_to: Some(change.path.clone()),
                    ..gone
                },
            ));
        }
        Ok(ChangeOutcome::Made(made))
    }

    /// The row of the version that was sent; `None`: the server has another one already.
    fn stored(
        &self,
        change: &HubChange,
        entry: &Entry,
        stored: UploadResponse,
    ) -> CallResult<Option<RemoteRow>> {
        let record = match stored.record {
            Some(record) => Some(record),
            None => self.at(&change.path)?.into_iter().next(),
        };
        let Some((path, row)) = record.and_then(|record| self.names.row(&record)) else {
            return Ok(None);
        };
        if path != change.path {
            let what = format!(
                "server {} keeps {} under another name",
                self.hub.url(),
                change.path
            );
            return Err(Fault::Refused(Error::new(Kind::Refused, what)));
        }
        let ours = row.entry.is_some_and(|there| there.same_body(entry));
        Ok(ours.then(|| RemoteRow {
            rev: self.ledger.next(),
            ..row
        }))
    }

    /// Words an error for the file, because such a server says little.
    fn plainly(&self, failure: Failure, entry: &Entry) -> Failure {
        let what = match failure.status {
            413 => format!(
                "server {} does not take a file of {} bytes",
                self.hub.url(),
                entry.size
            ),
            400 | 422 if entry.size == 0 => {
                format!("server {} does not take empty files", self.hub.url())
            }
            _ => return failure,
        };
        Failure {
            error: Error::new(Kind::Refused, what),
            ..failure
        }
    }

    /// Passes the bytes of the current version to `take`, up to the announced size.
    fn stream(
        &self,
        id: Uuid,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> CallResult<()>,
    ) -> CallResult<bool> {
        let mut answer = match self.hub.download(id, None, 0, None) {
            Err(failure) if failure.status == 404 => return Ok(false),
            other => self.called(other)?,
        };
        let (mut left, mut buffer) = (size, vec![0; COPY_BUFFER_BYTES]);
        loop {
            let n = self.called(answer.read(&mut buffer))?;
            let bytes = &buffer[..n.min(usize::try_from(left).unwrap_or(n))];
            take(bytes)?;
            left -= bytes.len() as u64;
            self.traffic.down(TransferStep::Passed(bytes.len() as u64));
            // one more byte than announced is too many: the file was replaced
            if n == 0 || bytes.len() < n {
                return Ok(n == 0);
            }
        }
    }

    /// The bytes received do not match their row: either the file was replaced since, or the server's data
    /// are damaged.
    fn other_bytes(&self, path: &str, entry: &Entry) -> CallResult<Option<StagedFile>> {
        let now = self
            .at(path)?
            .first()
            .and_then(|record| self.names.row(record))
            .and_then(|(_, row)| row.entry);
        self.ledger.want();
        if now.is_none_or(|now| !now.same_body(entry)) {
            return Ok(None);
        }
        let what = format!(
            "will not take {path}: what server {} sends is not what it has announced",
            self.hub.url()
        );
        Err(Fault::Refused(Error::new(Kind::Damaged, what)))
    }

    /// Gives a file that only the server has another name there.
    pub(super) fn copy(&self, change: &HubChange, entry: &Entry) -> CallResult<ChangeOutcome> {
        let row = self
            .state
            .rows(change.from.as_ref().map_or(&change.path, |from| &from.path))?
            .remote;
        if entry.size > SINGLE {
            let what = format!(
                "cannot rename {} on server {}: it is too long",
                change.path,
                self.hub.url()
            );
            return Err(Fault::Refused(Error::new(Kind::Failed, what)));
        }
        let mut bytes = Vec::new();
        let take = &mut |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        if !self.stream(row.id, entry.size, take)? || Hash::of(&bytes) != entry.hash {
            self.ledger.want();
            return Ok(ChangeOutcome::NotDone);
        }
        self.put(change, entry, ByteSource::Bytes(&bytes))
    }

    /// Handles entries that are not regular files; `None`: it is a regular file.
    pub(super) fn special(&self, path: &str, entry: &Entry) -> CallResult<Option<ChangeOutcome>> {
        match entry.kind {
            files::EntryKind::File => Ok(None),
            // reporting every emptied directory as out of sync would help no user
            files::EntryKind::Dir => {
                let row = RemoteRow {
                    rev: self.ledger.next(),
                    entry: Some(*entry),
                    ..RemoteRow::default()
                };
                Ok(Some(ChangeOutcome::Noted(vec![(path.to_string(), row)])))
            }
            files::EntryKind::Symlink => {
                let what = format!(
                    "a symbolic link is not kept: server {} has regular files only",
                    self.hub.url()
                );
                Err(Fault::Refused(Error::new(Kind::Failed, what)))
            }
        }
    }
}

/// Such a server takes one file a request.
impl ContentTransfer for S3em {
    fn send(&self, all: &[SendItem<'_>]) -> Vec<CallResult<ChangeOutcome>> {
        let one = |shipment: &SendItem<'_>| match shipment.local {
            Some(local) => self.upload(shipment.change, local),
            None => self.change(shipment.change),
        };
        all.iter().map(one).collect()
    }

    fn stage(&self, all: &[StageItem<'_>]) -> Vec<CallResult<Option<StagedFile>>> {
        all.iter().map(|delivery| self.fetch(delivery)).collect()
    }
}

impl S3em {
    fn upload(&self, change: &HubChange, local: &LocalEntry) -> CallResult<ChangeOutcome> {
        let Some(entry) = &change.entry else {
            return Ok(ChangeOutcome::NotDone);
        };
        if let Some(answer) = self.special(&change.path, entry)? {
            return Ok(answer);
        }
        let failed = |e: std::io::Error| fault("read", &change.path, &e);
        let _changing = self.ledger.changing(S3em::names_of(change));
        let Some(reading) = self
            .tree
            .read(&change.path, Some(&local.stamp))
            .map_err(failed)?
        else {
            return Ok(ChangeOutcome::FileChanged);
        };
        let sent = self.put(
            change,
            entry,
            ByteSource::Part {
                file: &reading.file,
                at: 0,
                length: entry.size,
                sha256: Some(entry.hash),
            },
        );
        if sent == Ok(ChangeOutcome::FileChanged) {
            self.tree.contradicted(&local.stamp);
        }
        sent
    }

    fn fetch(&self, delivery: &StageItem<'_>) -> CallResult<Option<StagedFile>> {
        let StageItem {
            path,
            row,
            entry,
            sources,
            above,
        } = *delivery;
        self.tree.make_directories(above)?;
        match entry.kind {
            files::EntryKind::Dir => return self.tree.stage_dir(path, entry),
            files::EntryKind::Symlink => return Ok(None),
            files::EntryKind::File => {}
        }
        let mut synced = SyncSet::default();
        if let Some(staged) = self.tree.stage_copy(path, entry, sources, &mut synced)? {
            return self
                .tree
                .sync_staged(vec![Ok(Some(staged))], synced)
                .remove(0);
        }
        if !sources.contains(&ContentSource::Hub) {
            return Ok(None);
        }
        let Some(mut temporary) = self.tree.temporary(path, entry.size)? else {
            return Ok(None);
        };
        let whole = self.stream(row.id, entry.size, &mut |bytes| {
            temporary
                .write_all(bytes)
                .map_err(|e| fault("write beside", path, &e))
        })?;
        if whole && let Some(staged) = temporary.finish(entry)? {
            return Ok(Some(staged));
        }
        self.other_bytes(path, entry)
    }
}
