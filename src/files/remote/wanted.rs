//! Handles contents of which the hub has lost a part: the hub names the files, and a machine that
//! has one sends the lost part. Paths that wait for such a content are offered again once the hub
//! has it.
//!
//! Only content that the hub had before is sent: that of a file that was in sync and is unchanged.

use std::sync::PoisonError;

use crate::client::{ByteSource, ErrorDetail, Failure};
use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::tree::root::fault;
use crate::logger::one_line;
use crate::relpath;
use crate::transfer::{Transfer, TransferStep, source_file};
use crate::wire::files::{self, Hash, Name, SINGLE};

use super::Remote;

/// Paths that are remembered as waiting, at most; a rescan offers the others.
const MAX_LACKING_FILES: usize = 1000;

impl Remote {
    /// Handles a failed download. A content that the hub has lost in part does not make the hub
    /// count as failing.
    pub(super) fn not_sent(&self, path: &str, failure: Failure) -> Fault {
        let ErrorDetail::Missing(lost) = &failure.told else {
            return self.link.failed(failure);
        };
        self.link.reached();
        let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = lost
            .first()
            .filter(|_| lacking.len() < MAX_LACKING_FILES || lacking.contains_key(path))
        {
            lacking.insert(path.to_string(), *first);
        }
        drop(lacking);
        let what = format!(
            "cannot receive {path}: hub {} has lost a part of its content",
            self.hub.url()
        );
        Fault::Refused(
            Error::new(Kind::Busy, what)
                .hint("it waits for a machine that has the file; on the hub: \"mesync hub check\""),
        )
    }

    /// Sends what the hub has lost and this directory has; returns the paths whose content the hub
    /// has again. Called after the feed has been read.
    pub fn mend(&self) -> Vec<String> {
        let wanted =
            std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        for name in &wanted {
            match self.give(name) {
                Ok(()) => {}
                Err(fault) => {
                    let e = Error::from(fault);
                    log::debug!(
                        "cannot send {} to the hub, which has lost it: {e}",
                        one_line(&name.full())
                    );
                }
            }
            if !self.link.pause().is_zero() {
                break;
            }
        }
        self.take_mended().unwrap_or_default()
    }

    fn give(&self, name: &Name) -> CallResult<()> {
        let full = name.full();
        let Some(path) = self
            .names
            .path(&full)
            .filter(|path| relpath::check(path).is_ok())
        else {
            return Ok(());
        };
        let Some(entry) = self
            .state
            .rows(path)?
            .base
            .entry
            .filter(|entry| !entry.is_dir() && entry.size > 0)
        else {
            return Ok(());
        };
        if self.tree.ignored(path) {
            return Ok(());
        }
        if entry.kind == files::EntryKind::Symlink {
            let Ok(target) = self.tree.read_link(path) else {
                return Ok(());
            };
            return if Hash::of(&target) == entry.hash {
                self.give_chunk(path, entry.hash, ByteSource::Bytes(&target))
            } else {
                Ok(())
            };
        }
        let Some(reading) = self
            .tree
            .read(path, None)
            .map_err(|e| fault("read", path, &e))?
        else {
            return Ok(());
        };
        let local =
            source_file::SourceFile::of(reading.file, path.to_string()).map_err(Fault::Later)?;
        let content = local
            .split(|_, _| Ok(()))
            .map_err(|failure| Fault::Later(failure.error))?;
        if (content.size, content.sha256) != (entry.size, entry.hash) {
            return Ok(());
        }
        if entry.size <= SINGLE {
            let source = ByteSource::Part {
                file: &local.file,
                at: 0,
                length: entry.size,
                sha256: Some(entry.hash),
            };
            return self.give_chunk(path, entry.hash, source);
        }
        let step = |step: TransferStep<'_>| self.traffic.up(step);
        let transfer = Transfer::once(&self.hub, true, &step);
        self.called(transfer.send_chunks(&local, None))?;
        log::info!("sent {path:?} to the hub, which had lost a part of it");
        Ok(())
    }

    fn give_chunk(&self, path: &str, hash: Hash, source: ByteSource<'_>) -> CallResult<()> {
        if self.called(self.hub.missing(&[hash]))?.is_empty() {
            return Ok(());
        }
        let passed = |bytes| self.traffic.up(TransferStep::Passed(bytes));
        self.called(self.hub.put_chunk(hash, source, &passed))?;
        log::info!("sent {path:?} to the hub, which had lost it");
        Ok(())
    }

    /// Paths whose content the hub has again.
    fn take_mended(&self) -> CallResult<Vec<String>> {
        let lacking = self
            .lacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if lacking.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<Hash> = lacking.values().copied().collect();
        let missing = self.called(self.hub.missing(&asked))?;
        let mended = lacking
            .into_iter()
            .filter(|(_, lost)| !missing.contains(lost));
        let mended: Vec<String> = mended.map(|(path, _)| path).collect();
        let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        lacking.retain(|path, _| !mended.contains(path));
        Ok(mended)
    }
}
