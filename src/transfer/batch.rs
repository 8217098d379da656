//! Small files, links and empty directories: many in one request, in memory meanwhile.
//!
//! A file whose bytes the hub has is committed by itself, without bytes, unless it is tiny.

use std::collections::HashSet;

use super::small::SmallEntry;
use super::upload::{GROUP_FILES, OnUploaded, Upload, Uploaded};
use super::{Transfer, TransferStep};
use crate::chunking::Content;
use crate::client::{ByteSource, ErrorDetail, Failure, HubResult, UploadOutcome};
use crate::wire::files::{self, BatchItem, BatchResult, Hash};
use crate::wire::revision::Revision;

/// Files up to this size are sent even if the hub has the bytes: a commit for each would be as
/// long, and cost a sync.
const MAX_TINY_FILE_BYTES: u64 = 4096;

impl Upload<'_, '_> {
    /// Sends a group: skips unchanged files, commits those whose bytes the hub has, sends the rest
    /// in one request.
    pub(super) fn send_group(&self, group: Vec<SmallEntry>, done: OnUploaded<'_>) {
        debug_assert!(group.len() <= GROUP_FILES);
        let mut to_send = Vec::new();
        for small in group {
            let content = small.content();
            (self.transfer().watch)(TransferStep::Expect(content.size));
            match self.same(&content, &small.about()) {
                Some(same) if small.kind == files::EntryKind::File => {
                    (self.transfer().watch)(TransferStep::Spared(content.size));
                    done(&small.entry, Ok(same));
                }
                _ => to_send.push((small, content)),
            }
        }
        let missing = match self.missing(&to_send) {
            Ok(missing) => missing,
            Err(failure) => return fail_all(&to_send, failure, done),
        };
        let (batch, known): (Vec<_>, Vec<_>) = to_send.into_iter().partition(|(small, content)| {
            !is_worth_asking(small, content) || missing.contains(&content.sha256)
        });
        for (small, content) in &known {
            done(
                &small.entry,
                self.single(content, ByteSource::Bytes(&small.bytes), &small.about()),
            );
        }
        self.send_batch(&batch, done);
    }

    fn missing(&self, files: &[(SmallEntry, Content)]) -> HubResult<HashSet<Hash>> {
        let asked: HashSet<Hash> = files
            .iter()
            .filter(|(small, content)| is_worth_asking(small, content))
            .map(|(_, content)| content.sha256)
            .collect();
        let asked: Vec<Hash> = asked.into_iter().collect();
        if asked.is_empty() {
            Ok(HashSet::new())
        } else {
            self.transfer()
                .persist(|_| self.transfer().hub.missing(&asked))
                .map(|m| m.into_iter().collect())
        }
    }

    fn send_batch(&self, batch: &[(SmallEntry, Content)], done: OnUploaded<'_>) {
        if batch.is_empty() {
            return;
        }
        let lines: Vec<BatchItem> = batch
            .iter()
            .map(|(small, content)| small.item(content, self.condition(&small.entry.name)))
            .collect();
        let items: Vec<(&BatchItem, &[u8])> = lines
            .iter()
            .zip(batch)
            .map(|(line, (small, _))| (line, small.bytes.as_slice()))
            .collect();
        match self.transfer().persist(|passed| {
            self.transfer()
                .hub
                .batch(&items, Revision::default(), passed)
        }) {
            Err(failure) => fail_all(batch, failure, done),
            Ok(results) => {
                for ((small, content), result) in batch.iter().zip(results) {
                    let settled = match result.status {
                        // another client was quicker: retry alone, based on the current revision
                        412 if small.kind == files::EntryKind::File => {
                            self.single(content, ByteSource::Bytes(&small.bytes), &small.about())
                        }
                        _ => settle(self.transfer(), result, content.size),
                    };
                    done(&small.entry, settled);
                }
            }
        }
    }
}

/// Whether a commit without bytes would save anything.
fn is_worth_asking(small: &SmallEntry, content: &Content) -> bool {
    small.kind == files::EntryKind::File && content.size > MAX_TINY_FILE_BYTES
}

fn settle(transfer: &Transfer<'_>, result: BatchResult, size: u64) -> HubResult<Uploaded> {
    let outcome = match result.status {
        201 => UploadOutcome::Created,
        200 => UploadOutcome::Updated,
        204 => UploadOutcome::Unchanged,
        _ => {
            return Err(transfer
                .hub
                .refused_change(result.status, result.error.as_deref(), "it"));
        }
    };
    let record = result.record.as_ref();
    Ok(Uploaded {
        outcome,
        id: record.map(|r| r.id),
        rev: record.map(|r| r.rev),
        size,
    })
}

fn fail_all(files: &[(SmallEntry, Content)], failure: Failure, done: OnUploaded<'_>) {
    for (small, _) in files {
        let again = Failure {
            error: failure.error.clone(),
            status: failure.status,
            retry_after: None,
            told: ErrorDetail::Nothing,
        };
        done(&small.entry, Err(again));
    }
}
