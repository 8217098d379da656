//! Sends changes to the hub: several in one request where the hub has the content or it is short, long files chunk by
//! chunk.

use std::io::{self, Read};

use crate::chunking;
use crate::client::{ByteSource, ErrorDetail};
use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, LocalEntry};
use crate::files::tree::hash::FileReading;
use crate::files::tree::root::fault;
use crate::transfer::{Transfer, TransferStep, source_file};
use crate::wire::files::{
    self, BATCH_BYTES, BATCH_FILE, BATCH_FILES, BatchItem, BatchResult, Chunk, Hash, SINGLE,
};
use crate::wire::revision::Tag;

use super::{Remote, request, rows, set_back};

/// Bytes of content in one request, at most; the rest of what the hub takes is for lines.
const MAX_BATCH_CONTENT: u64 = BATCH_BYTES / 2;
/// Chunks of a line, at most: the hub takes lines of 16 KiB.
const MAX_LINE_CHUNKS: usize = 64;

/// How one change is sent.
enum Sending {
    /// As a line of a batch, with the bytes of its content.
    Line(Box<BatchItem>, Vec<u8>),
    /// In requests of its own.
    Alone,
    /// Not at all.
    Ended(CallResult<ChangeOutcome>),
}

impl Remote {
    pub(super) fn send_all(&self, all: &[SendItem<'_>]) -> Vec<CallResult<ChangeOutcome>> {
        let _slot = self.slots.enter();
        let batches = match self.hub.batches_changes() {
            Ok(batches) => batches,
            Err(failure) => {
                let fault = self.link.failed(failure);
                return vec![Err(fault); all.len()];
            }
        };
        let (mut answers, mut lines) = (Vec::with_capacity(all.len()), Vec::new());
        for (at, shipment) in all.iter().enumerate() {
            let prepared = match self.prepare(shipment, batches) {
                Ok(prepared) => prepared,
                Err(fault) => Sending::Ended(Err(fault)),
            };
            answers.push(match prepared {
                Sending::Ended(answer) => answer,
                Sending::Alone => self.send_one(shipment),
                Sending::Line(item, bytes) => {
                    lines.push((at, *item, bytes));
                    Ok(ChangeOutcome::NotDone)
                }
            });
        }
        for (at, answer) in self.send_lines(all, &lines) {
            answers[at] = answer;
        }
        answers
    }

    /// Decides how a change is sent, and reads a short content. `batches`: whether batches take changes without bytes.
    fn prepare(&self, shipment: &SendItem<'_>, batches: bool) -> CallResult<Sending> {
        let SendItem { change, local } = *shipment;
        let line = |item: BatchItem, bytes| Ok(Sending::Line(Box::new(item), bytes));
        let name = self.name(&change.path)?;
        let (if_match, tag) = match change.condition {
            ExpectedRow::Rev(at) => (Some(at.rev), at.tag),
            ExpectedRow::Nothing => (None, Tag::default()),
        };
        let item = BatchItem {
            path: name.path,
            name: name.name,
            if_match,
            tag,
            if_none_match: change.condition == ExpectedRow::Nothing,
            key: Some(change.key),
            ..BatchItem::default()
        };
        let Some(entry) = &change.entry else {
            let delete = Some(self.state.rows(&change.path)?.remote.id);
            return if batches {
                line(BatchItem { delete, ..item }, Vec::new())
            } else {
                Ok(Sending::Alone)
            };
        };
        let item = BatchItem {
            kind: entry.kind,
            mode: Some(rows::st_mode(entry)),
            mtime: Some(rows::mtime(entry)),
            size: entry.size,
            checksum_sha256: Some(entry.hash),
            ..item
        };
        match self.known_chunks(change, entry)? {
            Some(_) if !batches => return Ok(Sending::Alone),
            Some(chunks) if chunks.len() > MAX_LINE_CHUNKS => return Ok(Sending::Alone),
            Some(chunks) => {
                if self.has_moved(change, entry, local)? {
                    return Ok(Sending::Ended(Ok(ChangeOutcome::FileChanged)));
                }
                let item = BatchItem {
                    chunks: Some(chunks),
                    from: self.old_name(change)?,
                    ..item
                };
                return line(item, Vec::new());
            }
            None if local.is_none() => return Ok(Sending::Ended(Ok(ChangeOutcome::NotDone))),
            None if entry.size > BATCH_FILE || change.from.is_some() => return Ok(Sending::Alone),
            None => {}
        }
        match self.short_content(change, entry, local)? {
            Some(bytes) => line(item, bytes),
            None => Ok(Sending::Ended(Ok(ChangeOutcome::FileChanged))),
        }
    }

    /// Whether a file whose content the hub has is no longer what was to be sent.
    fn has_moved(
        &self,
        change: &HubChange,
        entry: &Entry,
        local: Option<&LocalEntry>,
    ) -> CallResult<bool> {
        Ok(match local {
            Some(local) if !entry.is_dir() => self.tree.stamp(&change.path)? != Some(local.stamp),
            _ => false,
        })
    }

    /// The content of a link or a short file; `None`: it is no longer what it was.
    fn short_content(
        &self,
        change: &HubChange,
        entry: &Entry,
        local: Option<&LocalEntry>,
    ) -> CallResult<Option<Vec<u8>>> {
        let is_whole =
            |bytes: &Vec<u8>| bytes.len() as u64 == entry.size && Hash::of(bytes) == entry.hash;
        if entry.kind == files::EntryKind::Symlink {
            let target = self.tree.read_link(&change.path).ok().filter(is_whole);
            return match target {
                Some(target) if std::str::from_utf8(&target).is_err() => {
                    Err(not_utf8(&change.path, &target))
                }
                target => Ok(target),
            };
        }
        let failed = |e: io::Error| fault("read", &change.path, &e);
        let stamp = local.map(|local| &local.stamp);
        let Some(reading) = self.tree.read(&change.path, stamp).map_err(failed)? else {
            return Ok(None);
        };
        let mut bytes = Vec::with_capacity(entry.size as usize);
        (&reading.file)
            .take(entry.size + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let unchanged = reading.unchanged().map_err(failed)?;
        Ok(Some(bytes).filter(|bytes| unchanged && is_whole(bytes)))
    }

    /// Sends lines, in batches that the hub takes.
    fn send_lines(
        &self,
        all: &[SendItem<'_>],
        lines: &[(usize, BatchItem, Vec<u8>)],
    ) -> Vec<(usize, CallResult<ChangeOutcome>)> {
        let (mut answers, mut rest) = (Vec::with_capacity(lines.len()), lines);
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(BATCH_FILES).take_while(|(.., content)| {
                bytes += content.len() as u64;
                bytes <= MAX_BATCH_CONTENT
            });
            let (some, others) = rest.split_at(fits.count().max(1));
            answers.extend(self.send_batch(all, some));
            rest = others;
        }
        answers
    }

    fn send_batch(
        &self,
        all: &[SendItem<'_>],
        lines: &[(usize, BatchItem, Vec<u8>)],
    ) -> Vec<(usize, CallResult<ChangeOutcome>)> {
        let passed = |bytes| self.traffic.up(TransferStep::Passed(bytes));
        let newest = lines.iter().map(|(at, ..)| all[*at].change.newest).max();
        let items: Vec<(&BatchItem, &[u8])> = lines
            .iter()
            .map(|(_, item, bytes)| (item, bytes.as_slice()))
            .collect();
        let sent = self.hub.batch(&items, newest.unwrap_or_default(), &passed);
        let each = lines.iter().map(|(at, ..)| *at);
        match sent {
            Ok(results) => {
                self.link.reached();
                each.zip(results)
                    .map(|(at, result)| (at, self.result(&all[at], result)))
                    .collect()
            }
            Err(failure) => {
                if failure.status == 400 {
                    self.hub.forget_features();
                }
                let fault = match self.link.failed(failure) {
                    // the batch is refused, which says nothing about one of its changes
                    Fault::Refused(error) if lines.len() > 1 => Fault::Later(error),
                    fault => fault,
                };
                each.map(|at| (at, Err(fault.clone()))).collect()
            }
        }
    }

    fn result(&self, shipment: &SendItem<'_>, result: BatchResult) -> CallResult<ChangeOutcome> {
        let change = shipment.change;
        match (result.status, result.record) {
            (200 | 201 | 204, Some(record)) => self.made(change, record, result.renamed_from),
            (412, record) => Ok(ChangeOutcome::Differs(
                record.and_then(|record| self.names.row(&record)),
            )),
            // the hub has forgotten a chunk since
            (409, _) if !result.missing.is_empty() => self.send_one(shipment),
            (404 | 409, _) => Ok(ChangeOutcome::NotDone),
            (410, _) => Err(set_back()),
            (status, _) => {
                let error = result.error.as_deref();
                let failure = self.hub.refused_change(status, error, &change.path);
                Err(self.link.failed(failure))
            }
        }
    }

    /// Sends one change in requests of its own.
    fn send_one(&self, shipment: &SendItem<'_>) -> CallResult<ChangeOutcome> {
        let SendItem { change, local } = *shipment;
        let Some(entry) = &change.entry else {
            let id = self.state.rows(&change.path)?.remote.id;
            return match self.hub.remove(id, request(change)) {
                Ok(Some(record)) => self.made(change, record, None),
                // the change was made; the feed reports the rest
                Ok(None) => Ok(ChangeOutcome::NotDone),
                Err(failure) => self.unmet(failure),
            };
        };
        if let Some(chunks) = self.known_chunks(change, entry)? {
            if self.has_moved(change, entry, local)? {
                return Ok(ChangeOutcome::FileChanged);
            }
            match self.commit(change, entry, chunks)? {
                // the hub may have forgotten a chunk since
                Err(failure)
                    if local.is_some()
                        && failure.status == 409
                        && matches!(failure.told, ErrorDetail::Missing(_)) => {}
                called => return self.answer(change, called),
            }
        }
        let Some(local) = local else {
            return Ok(ChangeOutcome::NotDone);
        };
        if entry.kind == files::EntryKind::Symlink {
            let Some(target) = self.short_content(change, entry, Some(local))? else {
                return Ok(ChangeOutcome::FileChanged);
            };
            let put = self
                .hub
                .put_chunk(entry.hash, ByteSource::Bytes(&target), &|_| {});
            self.called(put)?;
            let chunk = Chunk {
                sha256: entry.hash,
                size: entry.size,
            };
            return self
                .commit(change, entry, vec![chunk])
                .and_then(|called| self.answer(change, called));
        }
        let failed = |e: io::Error| fault("read", &change.path, &e);
        let reading = self.tree.read(&change.path, Some(&local.stamp));
        match reading.map_err(failed)? {
            Some(reading) => self.send_alone(change, entry, reading),
            None => Ok(ChangeOutcome::FileChanged),
        }
    }

    /// Tells others which file is about to be sent. They can do without: the commit tells them too.
    fn announce(
        &self,
        change: &HubChange,
        entry: &Entry,
        content: &chunking::Content,
    ) -> CallResult<()> {
        let commit = self.commit_of(change, entry, content.chunks.clone())?;
        if let Err(failure) = self.hub.announce(&commit) {
            log::debug!("cannot announce {:?}: {}", change.path, failure.error);
        }
        Ok(())
    }

    /// Sends one file in requests of its own.
    fn send_alone(
        &self,
        change: &HubChange,
        entry: &Entry,
        reading: FileReading,
    ) -> CallResult<ChangeOutcome> {
        let FileReading { file, shown } = reading;
        let step = |step: TransferStep<'_>| self.traffic.up(step);
        if entry.size > SINGLE {
            let local =
                source_file::SourceFile::of(file, change.path.clone()).map_err(Fault::Later)?;
            let known = self.tree.take_content(&shown.stamp);
            let replaced = self.replaced(change)?;
            let transfer = Transfer::once(&self.hub, true, &step).with_slots(&self.slots);
            let sent = match known {
                Some(content) => {
                    if replaced.is_none() {
                        self.announce(change, entry, &content)?;
                    }
                    transfer
                        .send_known_chunks(&content, &local, replaced)
                        .map(|()| content)
                }
                None => transfer.send_chunks(&local, replaced),
            };
            let content = match sent {
                Err(failure) if failure.status == 0 && failure.error.kind == Kind::Busy => {
                    return Ok(ChangeOutcome::FileChanged);
                }
                other => self.called(other)?,
            };
            return if (content.size, content.sha256) == (entry.size, entry.hash) {
                self.commit(change, entry, content.chunks)
                    .and_then(|called| self.answer(change, called))
            } else {
                Ok(ChangeOutcome::FileChanged)
            };
        }
        let chunk = Chunk {
            sha256: entry.hash,
            size: entry.size,
        };
        if self.called(self.hub.missing(&[entry.hash]))?.is_empty() {
            match self.commit(change, entry, vec![chunk])? {
                // the hub has checked the bytes, and they do not match the hash
                Err(failure) if matches!(failure.told, ErrorDetail::Missing(_)) => {}
                called => return self.answer(change, called),
            }
        }
        let passed = |bytes| step(TransferStep::Passed(bytes));
        let source = ByteSource::Part {
            file: &file,
            at: 0,
            length: entry.size,
            sha256: Some(entry.hash),
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
                Ok(ChangeOutcome::FileChanged)
            }
            Err(failure) => self.unmet(failure),
            Ok(Some(stored)) => self.answer(change, Ok(stored)),
            Ok(None) => self
                .commit(change, entry, vec![chunk])
                .and_then(|called| self.answer(change, called)),
        }
    }
}

fn not_utf8(path: &str, target: &[u8]) -> Fault {
    let shown = crate::disk::show(std::os::unix::ffi::OsStrExt::from_bytes(target));
    let what = format!("cannot send the link {path}: its target {shown} is not UTF-8");
    let error = Error::new(Kind::Refused, what);
    Fault::Refused(error.hint("let it lead to a name in UTF-8, or ignore it"))
}
