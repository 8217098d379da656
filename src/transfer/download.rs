//! Files from the hub: they get their final names only when they are complete, verified and synced.
//!
//! Until then the bytes are in a hidden file beside the final one, with a name derived from the
//! content, so that a later download of it resumes. Then they are verified chunk by chunk, because
//! a power loss can leave anything in a file that was not synced. Bytes from the hub are hashed once, as a whole; only if that
//! is wrong, chunk by chunk, and those from the first wrong one on are fetched again. A long file reuses chunks of the file
//! that it replaces.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::early::BegunFile;
use super::partial::{OldFile, Partial, damaged, is_list_of};
use super::parts::FetchedParts;
use super::source_file::SourceFile;
use super::{COPY_BUFFER_BYTES, RetryBudget, Transfer, TransferStep};
use crate::chunking::{self, zero_chunk};
use crate::client::{Download, HubResult};
use crate::error::{Error, Kind};
use crate::wire::brief;
use crate::wire::files::{self, Chunk, DIR_MODE, DIR_READABLE, Hash, Record, SINGLE};
use crate::{disk, relpath};

/// Maximum length of the target of a symbolic link (symlink(7)).
const MAX_LINK_BYTES: u64 = 4096;
/// How often a file may be replaced on the hub while it is downloaded.
const MAX_RACES: u32 = 4;

/// Creates a directory with its mode; an existing one keeps its own.
fn make_dir(record: &Record, to: &Path) -> crate::error::Result<()> {
    if to.is_dir() {
        return Ok(());
    }
    disk::create_dir(to)?;
    let mode = record.mode.unwrap_or(DIR_MODE) & 0o777 | DIR_READABLE;
    let moded = std::fs::set_permissions(to, Permissions::from_mode(mode))
        .and_then(|()| disk::sync_dir(to));
    moded.map_err(|e| {
        Error::io(
            format!("set the mode of {}", disk::show(to.as_os_str())),
            &e,
        )
    })
}

impl Transfer<'_> {
    /// Downloads the current content of `record` to `to`; returns the current record.
    pub fn download(&self, record: Record, to: &Path) -> HubResult<Record> {
        let mut record = record;
        for race in 0.. {
            match self.download_revision(&record, to)? {
                RefillResult::Done => return Ok(record),
                RefillResult::Other if race < MAX_RACES => record = self.hub.info(record.id)?,
                RefillResult::Other => break,
            }
        }
        let what = format!(
            "cannot download {}: it keeps changing on the hub",
            brief(&record.full_name())
        );
        Err(Error::new(Kind::Busy, what)
            .hint("repeat it when no program writes to it")
            .into())
    }

    fn download_revision(&self, record: &Record, to: &Path) -> HubResult<RefillResult> {
        match record.kind {
            files::EntryKind::File => self.download_file(record, to),
            files::EntryKind::Dir => Ok(make_dir(record, to).map(|()| RefillResult::Done)?),
            files::EntryKind::Symlink => self.download_link(record, to),
        }
    }

    /// Writes the content to a consumer in order. An error of the consumer ends the download.
    pub fn download_to(&self, record: &Record, to: &mut dyn Write) -> HubResult<io::Result<()>> {
        (self.watch)(TransferStep::Expect(record.size));
        let (mut at, mut whole, mut written) = (0, Sha256::new(), Ok(()));
        let fetched = self.fetch(record, &mut at, record.size, &mut |bytes| {
            whole.update(bytes);
            written = to.write_all(bytes);
            match &written {
                Ok(()) => Ok(()),
                Err(e) => Err(Error::io("write", e).into()),
            }
        });
        if written.is_err() {
            return Ok(written);
        }
        match fetched? {
            RefillResult::Done
                if record
                    .checksum_sha256
                    .is_none_or(|sum| sum == Hash(whole.finalize().into())) =>
            {
                Ok(to.flush())
            }
            RefillResult::Done => Err(damaged(&record.full_name()).into()),
            RefillResult::Other => Err(Error::new(
                Kind::Busy,
                "the file changed on the hub during the download",
            )
            .hint("do it again")
            .into()),
        }
    }

    /// Downloads the bytes `at..to` of a file; resumes where the connection broke, and gives up
    /// after breaks without progress.
    fn fetch(
        &self,
        record: &Record,
        at: &mut u64,
        to: u64,
        take: &mut dyn FnMut(&[u8]) -> HubResult<()>,
    ) -> HubResult<RefillResult> {
        let (mut patience, mut buffer) =
            (RetryBudget::new(self.attempts), vec![0; COPY_BUFFER_BYTES]);
        while *at < to {
            let before = *at;
            let once = self.hub.download(
                record.id,
                self.ours.then_some(record.revision()),
                *at,
                Some(to).filter(|to| *to < record.size),
            );
            let broken = match once.and_then(|mut answer| {
                if self.ours && answer.rev.is_some_and(|rev| !rev.is(record.revision())) {
                    Ok(Some(RefillResult::Other))
                } else {
                    self.take_answer(&mut answer, at, to, &mut buffer, take)
                        .map(|()| None)
                }
            }) {
                Ok(Some(other)) => return Ok(other),
                Ok(None) => continue,
                // it has become shorter, or that revision is no longer kept
                Err(failure) if failure.status == 416 || failure.status == 404 && self.ours => {
                    return Ok(RefillResult::Other);
                }
                Err(failure) => failure,
            };
            if *at > before {
                patience.reset();
            }
            patience.wait(broken, self.watch)?;
        }
        Ok(RefillResult::Done)
    }

    fn take_answer(
        &self,
        answer: &mut Download<'_>,
        at: &mut u64,
        to: u64,
        buffer: &mut [u8],
        take: &mut dyn FnMut(&[u8]) -> HubResult<()>,
    ) -> HubResult<()> {
        let mut skip = at.saturating_sub(answer.at);
        while *at < to {
            let n = answer.read(buffer)?;
            if n == 0 {
                let what = format!("the response of hub {} ended early", self.hub.url());
                return Err(Error::new(Kind::Unreachable, what).into());
            }
            // a server without ranges starts at the beginning
            let bytes = &buffer[(skip.min(n as u64)) as usize..n];
            skip -= skip.min(n as u64);
            let bytes = &bytes[..(to - *at).min(bytes.len() as u64) as usize];
            if !bytes.is_empty() {
                take(bytes)?;
                *at += bytes.len() as u64;
                (self.watch)(TransferStep::Passed(bytes.len() as u64));
            }
        }
        // a response that was read to its end frees the connection for the next request; the bytes
        // are complete, whatever this read returns
        let _ = answer.read(buffer);
        Ok(())
    }

    /// Fills an open file with the content of this revision, keeping valid bytes that it has, and
    /// copying others from `old`. `begun`: the file as an early download has left it. Verified, but not synced, and without
    /// mode and time. `false`: the hub no longer has that revision.
    pub fn fill_file(
        &self,
        record: &Record,
        file: File,
        begun: Option<BegunFile>,
        old: Option<SourceFile>,
    ) -> HubResult<bool> {
        let chunks = self.chunks_of(record)?;
        let mut partial = match begun {
            Some(BegunFile(begun)) if begun.chunks == chunks => begun,
            _ => {
                let unknown = record.checksum_sha256.is_none();
                let name = PathBuf::from(record.full_name());
                let mut partial = Partial::of(file, name, chunks, unknown);
                partial.resume(self)?;
                partial
            }
        };
        let old = std::cell::Cell::new(old);
        match self.fill(record, &mut partial, &|| OldFile::of(old.take()?))? {
            RefillResult::Other => Ok(false),
            RefillResult::Done if partial.is_whole(record) => Ok(true),
            RefillResult::Done => Err(damaged(&record.full_name()).into()),
        }
    }

    /// Maximum disk space of the content of this revision, see [`chunking::filled`].
    pub fn filled(&self, record: &Record) -> HubResult<u64> {
        Ok(chunking::filled(&self.chunks_of(record)?))
    }

    /// The chunks of a file's content, or one piece if they are not known.
    fn chunks_of(&self, record: &Record) -> HubResult<Vec<Chunk>> {
        let chunks = if self.ours && record.size > SINGLE {
            self.persist(|_| self.hub.chunks_of(record.id, record.revision()))?
        } else {
            vec![Chunk {
                sha256: record.checksum_sha256.unwrap_or(Hash([0; 32])),
                size: record.size,
            }]
        };
        if is_list_of(&chunks, record.size) {
            Ok(chunks)
        } else {
            Err(damaged(&record.full_name()).into())
        }
    }

    fn download_link(&self, record: &Record, to: &Path) -> HubResult<RefillResult> {
        let mut target = Vec::new();
        if record.size > MAX_LINK_BYTES {
            return Err(damaged(&record.full_name()).into());
        }
        self.download_to(record, &mut target)?
            .map_err(|e| Error::io("write", &e))?;
        let target = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&target);
        let temporary = to.with_file_name(relpath::temporary(uuid::Uuid::new_v4().as_u64_pair().0));
        let made = std::os::unix::fs::symlink(target, &temporary)
            .and_then(|()| disk::rename(&temporary, to));
        made.and_then(|()| disk::sync_dir(disk::parent(to)))
            .map_err(|e| {
                let _ = std::fs::remove_file(&temporary);
                Error::io(format!("make the link {}", disk::show(to.as_os_str())), &e)
            })?;
        Ok(RefillResult::Done)
    }

    fn download_file(&self, record: &Record, to: &Path) -> HubResult<RefillResult> {
        let chunks = self.chunks_of(record)?;
        (self.watch)(TransferStep::Expect(record.size));
        let mut partial = Partial::open(record, to, chunks)?;
        let room = partial.check_room().map_err(Into::into);
        let old = || OldFile::of(SourceFile::open(to, false).ok()?);
        let fetched = room
            .and_then(|()| partial.resume(self))
            .and_then(|()| self.fill(record, &mut partial, &old));
        match fetched {
            Ok(RefillResult::Done) => partial.conclude(record, to).map(|()| RefillResult::Done),
            // nothing of another revision can be reused, and a full disk needs the space
            Ok(RefillResult::Other) => {
                (self.watch)(TransferStep::Lost(0));
                partial.remove();
                Ok(RefillResult::Other)
            }
            Err(failure) => {
                if partial.at == 0
                    || matches!(failure.error.kind, Kind::Damaged | Kind::Busy)
                        && failure.status == 0
                {
                    partial.remove();
                }
                Err(failure)
            }
        }
    }

    /// Writes the remaining bytes, and those again that differ from the announced ones.
    fn fill(
        &self,
        record: &Record,
        partial: &mut Partial,
        old: &dyn Fn() -> Option<OldFile>,
    ) -> HubResult<RefillResult> {
        let filled = self.fill_once(record, partial, old)?;
        if matches!(filled, RefillResult::Other) || partial.is_whole(record) {
            return Ok(filled);
        }
        log::debug!(
            "{:?} has wrong bytes: verifying its chunks",
            record.full_name()
        );
        (self.watch)(TransferStep::Lost(partial.at));
        partial.verify_chunks(self)?;
        self.fill_once(record, partial, old)
    }

    /// Writes the remaining bytes: from the old file, or from the hub, as many consecutive chunks
    /// at once as possible.
    fn fill_once(
        &self,
        record: &Record,
        partial: &mut Partial,
        old: &dyn Fn() -> Option<OldFile>,
    ) -> HubResult<RefillResult> {
        let old = if partial.chunks.len() > 1 && partial.at < record.size {
            old()
        } else {
            None
        };
        let mut takes_parts = true;
        while partial.at < record.size {
            if let Some(old) = &old
                && partial.is_between_chunks()
                && partial.copy(old)?
            {
                (self.watch)(TransferStep::Spared(partial.chunks[partial.next - 1].size));
                continue;
            }
            if partial.is_between_chunks() && partial.leave_hole()? {
                (self.watch)(TransferStep::Spared(zero_chunk().size));
                continue;
            }
            let end = partial.run_end(old.as_ref());
            if let Some(old) = old.as_ref().filter(|_| takes_parts)
                && partial.is_between_chunks()
            {
                match self.fetch_parts(record, partial, old, end) {
                    FetchedParts::Written => continue,
                    FetchedParts::Unsuitable => {}
                    FetchedParts::Failed => {
                        takes_parts = false;
                        partial.cut_off()?;
                    }
                }
            }
            let mut at = partial.at;
            if let RefillResult::Other =
                self.fetch(record, &mut at, end, &mut |bytes| partial.write(bytes))?
            {
                return Ok(RefillResult::Other);
            }
        }
        // a hole at the end has no length of its own
        partial
            .file
            .set_len(record.size)
            .map_err(|e| partial.failed(&e))?;
        Ok(RefillResult::Done)
    }
}

enum RefillResult {
    Done,
    /// Another revision is current now.
    Other,
}
