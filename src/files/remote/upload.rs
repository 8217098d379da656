//! Sends the local version to the hub: without bytes if the hub has them, short files several in
//! one request, long files chunk by chunk.

use std::fs::File;
use std::io::{self, Read};

use crate::client::{ByteSource, Failure, Told};
use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, Local};
use crate::files::tree::root::fault;
use crate::logger::one_line;
use crate::transfer::source_file;
use crate::wire::files::{self, BATCH_FILE, BatchItem, BatchResult, Chunk, Hash, SINGLE};
use crate::wire::revision::Tag;

use super::{Remote, moving, request, rows, set_back};

/// Short files in one request, at most; their bytes are in memory meanwhile.
pub const TOGETHER: usize = 64;

/// A short file with its bytes, to be sent in a request with others.
pub struct SmallUpload {
    change: HubChange,
    item: BatchItem,
    bytes: Vec<u8>,
}

impl Remote {
    pub(super) fn send(&self, change: &HubChange, local: &Local) -> Called<ChangeOutcome> {
        let Some(entry) = &change.entry else {
            return Ok(ChangeOutcome::NotDone);
        };
        if entry.is_dir() {
            let _lane = self.up.enter();
            return self
                .commit(change, entry, Vec::new())
                .and_then(|called| self.answer(change, called));
        }
        if let Some(chunks) = self.known_chunks(change, entry)? {
            let _lane = self.up.enter();
            if self.tree.stamp(&change.path)? != Some(local.stamp) {
                return Ok(ChangeOutcome::Moved);
            }
            match self.commit(change, entry, chunks)? {
                // the hub may have forgotten a chunk since
                Err(failure)
                    if failure.status == 409 && matches!(failure.told, Told::Missing(_)) => {}
                called => return self.answer(change, called),
            }
        }
        if entry.kind == files::EntryKind::Symlink {
            return match self.tree.read_link(&change.path) {
                Ok(target) if std::str::from_utf8(&target).is_err() => {
                    let shown = crate::disk::show(std::os::unix::ffi::OsStrExt::from_bytes(
                        target.as_slice(),
                    ));
                    let error = Error::new(
                        Kind::Refused,
                        format!(
                            "cannot send the link {}: its target {shown} is not UTF-8",
                            change.path
                        ),
                    );
                    Err(Fault::Refused(
                        error.hint("let it lead to a name in UTF-8, or ignore it"),
                    ))
                }
                Ok(target) => self.send_small(change, entry, target),
                Err(_) => Ok(ChangeOutcome::Moved),
            };
        }
        let failed = |e: io::Error| fault("read", &change.path, &e);
        let Some(reading) = self
            .tree
            .read(&change.path, Some(&local.stamp))
            .map_err(failed)?
        else {
            return Ok(ChangeOutcome::Moved);
        };
        if entry.size > BATCH_FILE || change.from.is_some() {
            let _lane = self.up.enter();
            return self.send_alone(change, entry, reading.file);
        }
        let mut bytes = Vec::with_capacity(entry.size as usize);
        (&reading.file)
            .take(entry.size + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if reading.unchanged().map_err(failed)? {
            self.send_small(change, entry, bytes)
        } else {
            Ok(ChangeOutcome::Moved)
        }
    }

    fn send_small(
        &self,
        change: &HubChange,
        entry: &Entry,
        bytes: Vec<u8>,
    ) -> Called<ChangeOutcome> {
        if bytes.len() as u64 != entry.size || Hash::of(&bytes) != entry.hash {
            return Ok(ChangeOutcome::Moved);
        }
        let name = self.name(&change.path)?;
        let item = BatchItem {
            path: name.path,
            name: name.name,
            kind: entry.kind,
            mode: Some(rows::st_mode(entry)),
            mtime: Some(rows::mtime(entry)),
            size: entry.size,
            checksum_sha256: entry.hash,
            if_match: if let ExpectedRow::Rev(at) = change.condition {
                Some(at.rev)
            } else {
                None
            },
            tag: if let ExpectedRow::Rev(at) = change.condition {
                at.tag
            } else {
                Tag::default()
            },
            if_none_match: change.condition == ExpectedRow::Nothing,
            key: Some(change.key),
        };
        self.sends.join(
            SmallUpload {
                change: change.clone(),
                item,
                bytes,
            },
            &|all| self.send_together(&all),
        )
    }

    fn send_together(&self, all: &[SmallUpload]) -> Vec<Called<ChangeOutcome>> {
        let files: Vec<(BatchItem, &[u8])> = all
            .iter()
            .map(|small| (small.item.clone(), small.bytes.as_slice()))
            .collect();
        let passed = |bytes| {
            self.traffic
                .up(crate::transfer::TransferStep::Passed(bytes))
        };
        let newest = all
            .iter()
            .map(|small| small.change.newest)
            .max()
            .unwrap_or_default();
        match self.called(self.hub.batch(&files, newest, &passed)) {
            Err(fault) => vec![Err(fault); all.len()],
            Ok(results) => all
                .iter()
                .zip(results)
                .map(|(small, result)| self.result(&small.change, result))
                .collect(),
        }
    }

    fn result(&self, change: &HubChange, result: BatchResult) -> Called<ChangeOutcome> {
        match (result.status, result.record) {
            (200 | 201 | 204, Some(record)) => self.made(change, record, None),
            (412, record) => Ok(ChangeOutcome::Differs(
                record.and_then(|record| self.names.row(&record)),
            )),
            (409, _) => Ok(ChangeOutcome::NotDone),
            (410, _) => Err(set_back()),
            (status, _) => {
                let words = result
                    .error
                    .map_or(format!("status {status}"), |words| one_line(&words));
                let kind = if status >= 500 {
                    Kind::Busy
                } else {
                    Kind::Refused
                };
                let error = Error::new(
                    kind,
                    format!("hub {} refuses {}: {words}", self.hub.url(), change.path),
                );
                let told = match status {
                    403 => Told::LacksRight("directory".into()),
                    _ => Told::Nothing,
                };
                Err(self.link.failed(Failure {
                    status,
                    told,
                    ..error.into()
                }))
            }
        }
    }

    /// Sends one file in requests of its own.
    fn send_alone(&self, change: &HubChange, entry: &Entry, file: File) -> Called<ChangeOutcome> {
        let step = |step: crate::transfer::TransferStep<'_>| self.traffic.up(step);
        if entry.size > SINGLE {
            let local =
                source_file::SourceFile::of(file, change.path.clone()).map_err(Fault::Later)?;
            let content = match moving(&self.hub, &step, |mover| mover.send_chunks(&local)) {
                Err(failure) if failure.status == 0 && failure.error.kind == Kind::Busy => {
                    return Ok(ChangeOutcome::Moved);
                }
                other => self.called(other)?,
            };
            return if (content.size, content.sha256) == (entry.size, entry.hash) {
                self.commit(change, entry, content.chunks)
                    .and_then(|called| self.answer(change, called))
            } else {
                Ok(ChangeOutcome::Moved)
            };
        }
        let chunk = Chunk {
            sha256: entry.hash,
            size: entry.size,
        };
        if self.called(self.hub.missing(&[entry.hash]))?.is_empty() {
            match self.commit(change, entry, vec![chunk])? {
                // the hub has checked the bytes, and they do not match the hash
                Err(failure) if matches!(failure.told, Told::Missing(_)) => {}
                called => return self.answer(change, called),
            }
        }
        let passed = |bytes| step(crate::transfer::TransferStep::Passed(bytes));
        let source = ByteSource::Part {
            file: &file,
            at: 0,
            length: entry.size,
            sha256: entry.hash,
        };
        let sent = match &change.from {
            // only a commit can name an old name
            Some(_) => self
                .hub
                .put_chunk(entry.hash, source, &passed)
                .map(|()| None),
            None => {
                let name = self.name(&change.path)?;
                let metadata = rows::metadata(entry, name.path);
                self.hub
                    .upload(&name.name, &metadata, source, request(change), &passed)
                    .map(Some)
            }
        };
        match sent {
            // the bytes are not those that were hashed
            Err(failure) if failure.status == 0 && failure.error.kind == Kind::Busy => {
                Ok(ChangeOutcome::Moved)
            }
            Err(failure) => self.unmet(failure),
            Ok(Some(stored)) => self.answer(change, Ok(stored)),
            Ok(None) => self
                .commit(change, entry, vec![chunk])
                .and_then(|called| self.answer(change, called)),
        }
    }
}
