//! Small files, links and empty directories: many in one request, in memory as long as that takes.
//!
//! What the hub has the bytes of is committed one by one, without bytes, unless it is tiny.

use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;

use uuid::Uuid;

use super::source_file::Local;
use super::upload::{About, Done, GROUP_FILES, Upload, Uploaded, special};
use super::walk::Entry;
use super::{Step, Transfer};
use crate::chunking::{Content, Splitter};
use crate::client::{Called, Condition, Failure, Outcome, Source, Told};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::logger::one_line;
use crate::wire::files::{self, BatchItem, BatchResult, Hash};
use crate::wire::revision::{Revision, Tag};

/// So short a file travels even if the hub has the bytes: a commit of its own would be as long, and cost a sync of its own.
const MAX_TINY_FILE_BYTES: u64 = 4096;

/// One of them, read.
pub struct Small {
    pub entry: Entry,
    pub bytes: Vec<u8>,
    mode: u32,
    mtime: String,
    kind: files::Kind,
}

impl Small {
    pub fn of_file(entry: &Entry, local: &Local) -> Called<Small> {
        let mut bytes = Vec::with_capacity(local.size as usize);
        let read = std::io::Read::read_to_end(
            &mut std::io::Read::take(&local.file, local.size + 1),
            &mut bytes,
        );
        let shown = disk::show(entry.local.as_os_str());
        let n = read.map_err(|e| Error {
            kind: Kind::Io,
            ..Error::io(format!("read {shown}"), &e)
        })?;
        local.check(n as u64)?;
        Ok(Small {
            bytes,
            mode: local.mode,
            mtime: local.mtime.clone(),
            ..Small::empty(entry, files::Kind::File)
        })
    }

    /// A link, whose content is its target, or a directory, which has none.
    pub fn of_special(entry: &Entry, kind: files::Kind) -> Result<Small> {
        let (mode, mtime) = special(entry)?;
        let bytes = match kind {
            files::Kind::Symlink => {
                let target = std::fs::read_link(&entry.local);
                let shown = disk::show(entry.local.as_os_str());
                target
                    .map_err(|e| Error::io(format!("read the link {shown}"), &e))?
                    .into_os_string()
                    .into_vec()
            }
            _ => Vec::new(),
        };
        Ok(Small {
            bytes,
            mode,
            mtime,
            ..Small::empty(entry, kind)
        })
    }

    fn empty(entry: &Entry, kind: files::Kind) -> Small {
        Small {
            entry: entry.clone(),
            bytes: Vec::new(),
            mode: 0,
            mtime: String::new(),
            kind,
        }
    }

    fn about(&self) -> About<'_> {
        About {
            name: &self.entry.name,
            mode: self.mode,
            mtime: &self.mtime,
        }
    }

    fn content(&self) -> Content {
        let mut splitter = Splitter::default();
        splitter.feed(&self.bytes);
        splitter.finish()
    }

    fn item(&self, content: &Content, condition: Condition) -> BatchItem {
        BatchItem {
            path: self.entry.name.path.clone(),
            name: self.entry.name.name.clone(),
            kind: self.kind,
            mode: Some(self.mode),
            mtime: Some(self.mtime.clone()),
            size: content.size,
            checksum_sha256: content.sha256,
            if_match: if let Condition::Match(at) = condition {
                Some(at.rev)
            } else {
                None
            },
            tag: if let Condition::Match(at) = condition {
                at.tag
            } else {
                Tag::default()
            },
            if_none_match: condition == Condition::Absent,
            key: Some(Uuid::now_v7()),
        }
    }
}

impl Upload<'_, '_> {
    /// Sends a group: unchanged files not at all, those with bytes that the hub has without them, the rest in one request.
    pub(super) fn send_group(&self, group: Vec<Small>, done: Done<'_>) {
        debug_assert!(group.len() <= GROUP_FILES);
        let mut to_send = Vec::new();
        for small in group {
            let content = small.content();
            (self.transfer().watch)(Step::Expect(content.size));
            match self.same(&content, &small.about()) {
                Some(same) if small.kind == files::Kind::File => {
                    (self.transfer().watch)(Step::Spared(content.size));
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
                self.single(content, Source::Bytes(&small.bytes), &small.about()),
            );
        }
        self.send_batch(&batch, done);
    }

    fn missing(&self, files: &[(Small, Content)]) -> Called<HashSet<Hash>> {
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

    fn send_batch(&self, batch: &[(Small, Content)], done: Done<'_>) {
        if batch.is_empty() {
            return;
        }
        let items: Vec<(BatchItem, &[u8])> = batch
            .iter()
            .map(|(small, content)| {
                (
                    small.item(content, self.condition(&small.entry.name)),
                    small.bytes.as_slice(),
                )
            })
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
                        // another client was quicker: alone, and on the current revision
                        412 if small.kind == files::Kind::File => {
                            self.single(content, Source::Bytes(&small.bytes), &small.about())
                        }
                        _ => settle(self.transfer(), result, content.size),
                    };
                    done(&small.entry, settled);
                }
            }
        }
    }
}

/// Whether it saves anything if the hub has the bytes.
fn is_worth_asking(small: &Small, content: &Content) -> bool {
    small.kind == files::Kind::File && content.size > MAX_TINY_FILE_BYTES
}

fn settle(transfer: &Transfer<'_>, result: BatchResult, size: u64) -> Called<Uploaded> {
    let outcome = match result.status {
        201 => Outcome::Created,
        200 => Outcome::Updated,
        204 => Outcome::Unchanged,
        status => {
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
                format!("hub {} refuses it: {words}", transfer.hub.url()),
            );
            return Err(Failure {
                status,
                ..error.into()
            });
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

fn fail_all(files: &[(Small, Content)], failure: Failure, done: Done<'_>) {
    for (small, _) in files {
        let again = Failure {
            error: failure.error.clone(),
            status: failure.status,
            retry_after: None,
            told: Told::Nothing,
        };
        done(&small.entry, Err(again));
    }
}
