//! A long file that is being downloaded: its valid part, its missing part, and its holes.
//!
//! It downloads nothing: it hashes the bytes that it is given.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::source_file::{PlaceReader, SourceFile};
use super::{COPY_BUFFER_BYTES, Transfer, TransferStep};
use crate::chunking::{self, zero_chunk};
use crate::client::HubResult;
use crate::error::{Error, Kind, Result};
use crate::wire::files::{Chunk, Hash, Record, SINGLE};
use crate::{clock, disk, relpath};

/// The mode of a file for which the hub has none.
const MODE: u32 = 0o644;
/// Zeros become a hole in blocks of this size.
const HOLE_BLOCK_BYTES: u64 = 4096;

/// The file to be replaced, and the offset of each chunk in it.
pub(super) struct OldFile {
    local: SourceFile,
    places: HashMap<Hash, u64>,
    /// The same in order.
    chunks: BTreeMap<u64, Chunk>,
}

/// A state of a [`Partial`] between two chunks.
pub(super) struct PartialPosition {
    next: usize,
    at: u64,
    whole: Sha256,
}

impl OldFile {
    pub(super) fn of(local: SourceFile) -> Option<OldFile> {
        if local.size <= SINGLE {
            return None;
        }
        let (mut places, mut chunks) = (HashMap::new(), BTreeMap::new());
        let content = local.split(|chunk, at| {
            places.insert(chunk.sha256, at);
            chunks.insert(at, chunk);
            Ok(())
        });
        let last = content.ok()?.chunks.last().copied()?;
        places.insert(last.sha256, local.size - last.size);
        chunks.insert(local.size - last.size, last);
        Some(OldFile {
            local,
            places,
            chunks,
        })
    }

    /// Chunks that those that are to be written next probably replace: those after the last one that both files have.
    pub(super) fn replaced(&self, partial: &Partial, most: usize) -> Vec<Hash> {
        let same = (partial.chunks[..partial.next].iter().rev())
            .find_map(|chunk| Some(self.places.get(&chunk.sha256)? + chunk.size));
        let after = self.chunks.range(same.unwrap_or(0)..);
        after.take(most).map(|(_, chunk)| chunk.sha256).collect()
    }

    /// The bytes of one of its chunks from `at` on. The caller verifies them.
    pub(super) fn reader(&self, chunk: Hash, at: u64) -> Result<impl Read> {
        let place = self
            .places
            .get(&chunk)
            .ok_or_else(|| Error::new(Kind::Damaged, format!("there is no chunk {chunk} in it")))?;
        Ok(PlaceReader {
            file: &self.local.file,
            at: place + at,
        })
    }
}

/// An incomplete file: its bytes up to `at` are valid, unless the whole turns out not to be.
pub(super) struct Partial {
    path: PathBuf,
    pub(super) file: File,
    pub(super) chunks: Vec<Chunk>,
    /// The chunk that is being written, and its hash so far.
    pub(super) next: usize,
    begun: u64,
    chunk: Sha256,
    pub(super) at: u64,
    whole: Sha256,
    /// The hub does not know the hash of the content.
    unknown: bool,
    /// Each chunk is verified as well as the whole.
    pub(super) verifies_chunks: bool,
}

impl Partial {
    /// Opens the file for this revision and name, and locks it against other downloads.
    pub(super) fn open(record: &Record, to: &Path, chunks: Vec<Chunk>) -> Result<Partial> {
        let mut key = Sha256::new();
        key.update(std::os::unix::ffi::OsStrExt::as_bytes(
            to.file_name().unwrap_or_default(),
        ));
        key.update(record.checksum_sha256.map_or([0; 32], |sum| sum.0));
        key.update(record.id.as_bytes());
        let key = Hash(key.finalize().into()).0;
        let path = to.with_file_name(relpath::temporary(u64::from_be_bytes([
            key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
        ])));
        let failed = |e: io::Error| {
            let error = Error::io(format!("write {}", disk::show(to.as_os_str())), &e);
            if e.kind() == io::ErrorKind::NotFound {
                Error {
                    kind: Kind::CannotCreate,
                    ..error
                }
            } else {
                error
            }
        };
        let flags = (rustix::fs::OFlags::NOFOLLOW
            | rustix::fs::OFlags::NONBLOCK
            | rustix::fs::OFlags::CLOEXEC)
            .bits() as i32;
        loop {
            let open = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(flags)
                .open(&path);
            let file = open.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    let what = format!(
                        "cannot write {}: another download of it is running",
                        disk::show(to.as_os_str())
                    );
                    return Err(Error::new(Kind::Busy, what).hint("wait until it has ended"));
                }
                Err(std::fs::TryLockError::Error(e)) => return Err(failed(e)),
            }
            // the download that had the lock before may have given the file its final name
            let (mine, there) = (
                file.metadata().map_err(failed)?,
                std::fs::symlink_metadata(&path).ok(),
            );
            if there.is_some_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
                return Ok(Partial::of(
                    file,
                    path,
                    chunks,
                    record.checksum_sha256.is_none(),
                ));
            }
        }
    }

    pub(super) fn of(file: File, path: PathBuf, chunks: Vec<Chunk>, unknown: bool) -> Partial {
        let (chunk, whole) = (Sha256::new(), Sha256::new());
        Partial {
            path,
            file,
            chunks,
            next: 0,
            begun: 0,
            chunk,
            at: 0,
            whole,
            unknown,
            verifies_chunks: false,
        }
    }

    /// Whether all bytes so far are the content of the record.
    pub(super) fn is_whole(&self, record: &Record) -> bool {
        let whole = Hash(self.whole.clone().finalize().into());
        record.checksum_sha256.is_none_or(|sum| sum == whole)
    }

    /// Goes back to the first chunk that is not valid. From now on each one is verified.
    pub(super) fn verify_chunks(&mut self, transfer: &Transfer<'_>) -> HubResult<()> {
        self.reset(PartialPosition {
            next: 0,
            at: 0,
            whole: Sha256::new(),
        });
        self.verifies_chunks = true;
        self.resume(transfer)
    }

    pub(super) fn check_room(&self) -> Result<()> {
        let size = chunking::filled(&self.chunks);
        let have = self
            .file
            .metadata()
            .map_or(0, |m| m.blocks().saturating_mul(512));
        let (free, _, _) = disk::free_space(disk::parent(&self.path))
            .map_err(|e| Error::io("ask for free space", &e))?;
        if size.saturating_sub(have) > free {
            Err(Error::new(
                Kind::Busy,
                format!("{size} bytes do not fit on the disk, {free} are free"),
            )
            .hint("free space on that disk"))
        } else {
            Ok(())
        }
    }

    /// Keeps the valid bytes that an earlier attempt left, and truncates the rest.
    pub(super) fn resume(&mut self, transfer: &Transfer<'_>) -> HubResult<()> {
        let have = self.file.metadata().map_err(|e| self.failed(&e))?.len();
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        // without a hash nothing can be verified
        while !self.unknown && self.next < self.chunks.len() {
            let chunk = self.chunks[self.next];
            // if one chunk is the whole file, its beginning is trusted: the hash at the end decides
            let alone = self.chunks.len() == 1 && chunk.size > SINGLE && have < chunk.size;
            let end = if alone { have } else { self.at + chunk.size };
            if end > have {
                break;
            }
            let (mut at, mut hash, mut whole) = (self.at, Sha256::new(), self.whole.clone());
            while at < end {
                let most = (end - at).min(buffer.len() as u64) as usize;
                let n = self
                    .file
                    .read_at(&mut buffer[..most], at)
                    .map_err(|e| self.failed(&e))?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                whole.update(&buffer[..n]);
                at += n as u64;
            }
            if !alone && Hash(hash.clone().finalize().into()) != chunk.sha256 {
                break;
            }
            (transfer.watch)(TransferStep::Spared(at - self.at));
            (self.at, self.whole) = (at, whole);
            if alone {
                (self.begun, self.chunk) = (at, hash);
                break;
            }
            self.next += 1;
        }
        self.cut_off()
    }

    /// Truncates invalid bytes: only a hole may follow the valid ones.
    pub(super) fn cut_off(&self) -> HubResult<()> {
        self.file
            .set_len(self.at)
            .map_err(|e| self.failed(&e).into())
    }

    /// Writes bytes after the valid ones; blocks of zeros become a hole.
    fn put(&self, mut bytes: &[u8], mut at: u64) -> HubResult<()> {
        let to_boundary = |at: u64| (HOLE_BLOCK_BYTES - at % HOLE_BLOCK_BYTES) as usize;
        while !bytes.is_empty() {
            let mut end = 0;
            let first = is_zero(&bytes[..bytes.len().min(to_boundary(at))]);
            // as many consecutive blocks of one kind as there are
            while end < bytes.len() {
                let block = &bytes[end..bytes.len().min(end + to_boundary(at + end as u64))];
                if is_zero(block) != first {
                    break;
                }
                end += block.len();
            }
            if !first {
                self.file
                    .write_all_at(&bytes[..end], at)
                    .map_err(|e| self.failed(&e))?;
            }
            (bytes, at) = (&bytes[end..], at + end as u64);
        }
        Ok(())
    }

    pub(super) fn is_between_chunks(&self) -> bool {
        self.begun == 0
    }

    /// Copies the next chunk from the old file, if it has it. The bytes are verified like those
    /// from the hub, but a mismatch only means that another program writes to that file.
    pub(super) fn copy(&mut self, old: &OldFile) -> HubResult<bool> {
        let chunk = self.chunks[self.next];
        let Some(place) = old.places.get(&chunk.sha256) else {
            return Ok(false);
        };
        let (mut hash, mut whole, mut done, mut buffer) = (
            Sha256::new(),
            self.whole.clone(),
            0,
            vec![0; COPY_BUFFER_BYTES],
        );
        while done < chunk.size {
            let most = (chunk.size - done).min(buffer.len() as u64) as usize;
            match old.local.file.read_at(&mut buffer[..most], place + done) {
                Ok(n) if n > 0 => {
                    hash.update(&buffer[..n]);
                    whole.update(&buffer[..n]);
                    self.put(&buffer[..n], self.at + done)?;
                    done += n as u64;
                }
                _ => return self.cut_off().map(|()| false),
            }
        }
        if Hash(hash.finalize().into()) != chunk.sha256 {
            return self.cut_off().map(|()| false);
        }
        (self.at, self.next, self.whole) = (self.at + chunk.size, self.next + 1, whole);
        Ok(true)
    }

    /// Skips the next chunk if it consists of zeros only.
    pub(super) fn leave_hole(&mut self) -> HubResult<bool> {
        let chunk = self.chunks[self.next];
        if chunk != zero_chunk() {
            return Ok(false);
        }
        let zeros = [0; 4096];
        let (mut left, mut whole) = (chunk.size as usize, self.whole.clone());
        while left > 0 {
            let n = left.min(zeros.len());
            whole.update(&zeros[..n]);
            left -= n;
        }
        (self.at, self.next, self.whole) = (self.at + chunk.size, self.next + 1, whole);
        self.cut_off().map(|()| true)
    }

    /// Where the next bytes from the hub end: before the next chunk that is zeros, or that the old
    /// file has.
    pub(super) fn run_end(&self, old: Option<&OldFile>) -> u64 {
        let mut end = self.at - self.begun;
        for (i, chunk) in self.chunks.iter().enumerate().skip(self.next) {
            let is_here = *chunk == zero_chunk()
                || old.is_some_and(|old| old.places.contains_key(&chunk.sha256));
            if i > self.next && is_here {
                break;
            }
            end += chunk.size;
        }
        end
    }

    /// Where the last chunk ends that is among the next `bytes`.
    pub(super) fn chunks_up_to(&self, bytes: u64) -> u64 {
        let mut end = self.at;
        for chunk in &self.chunks[self.next..] {
            if end + chunk.size > self.at + bytes {
                break;
            }
            end += chunk.size;
        }
        end
    }

    /// The state between two chunks.
    pub(super) fn mark(&self) -> PartialPosition {
        PartialPosition {
            next: self.next,
            at: self.at,
            whole: self.whole.clone(),
        }
    }

    /// Returns to an earlier state; the caller cuts off what was written since.
    pub(super) fn reset(&mut self, mark: PartialPosition) {
        (self.next, self.at, self.whole) = (mark.next, mark.at, mark.whole);
        (self.begun, self.chunk) = (0, Sha256::new());
    }

    /// Writes the next bytes.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> HubResult<()> {
        while !bytes.is_empty() {
            let Some(chunk) = self.chunks.get(self.next).copied() else {
                break;
            };
            let missing = chunk.size - self.begun;
            let (piece, rest) = bytes.split_at(missing.min(bytes.len() as u64) as usize);
            self.put(piece, self.at)?;
            if self.verifies_chunks {
                self.chunk.update(piece);
            }
            self.whole.update(piece);
            self.at += piece.len() as u64;
            self.begun += piece.len() as u64;
            bytes = rest;
            if self.begun == chunk.size {
                let sha256 = Hash(self.chunk.finalize_reset().into());
                if self.verifies_chunks && !self.unknown && sha256 != chunk.sha256 {
                    let what = format!(
                        "the bytes received for {} differ from the announced content",
                        disk::show(self.path.as_os_str())
                    );
                    return Err(Error::new(Kind::Damaged, what).hint("do it again").into());
                }
                (self.next, self.begun) = (self.next + 1, 0);
                self.cut_off()?;
            }
        }
        Ok(())
    }

    /// Sets mode and time, syncs, and then gives the file its final name.
    pub(super) fn conclude(self, record: &Record, to: &Path) -> HubResult<()> {
        if !self.is_whole(record) {
            self.remove();
            return Err(damaged(&record.full_name()).into());
        }
        // set-user-id, set-group-id and sticky bits are for the owner of the file to set
        let mode = record.mode.map_or(MODE, |mode| mode & 0o777);
        let mtime = record.mtime.as_deref().and_then(clock::parse_rfc3339);
        let times = mtime.map_or(Ok(()), |at| {
            self.file.set_times(FileTimes::new().set_modified(at))
        });
        let done = times
            .and_then(|()| self.file.set_permissions(Permissions::from_mode(mode)))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| disk::rename(&self.path, to))
            .and_then(|()| disk::sync_dir(disk::parent(to)));
        done.map_err(|e| Error::io(format!("write {}", disk::show(to.as_os_str())), &e).into())
    }

    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    pub(super) fn failed(&self, e: &io::Error) -> Error {
        Error::io(format!("write {}", disk::show(self.path.as_os_str())), e)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Whether chunks can be a content of this size. An empty chunk would never be passed.
pub(super) fn is_list_of(chunks: &[Chunk], size: u64) -> bool {
    let sum = chunks
        .iter()
        .try_fold(0u64, |sum, chunk| sum.checked_add(chunk.size));
    sum == Some(size) && (size == 0 || chunks.iter().all(|chunk| chunk.size > 0))
}

pub(super) fn damaged(name: &str) -> Error {
    let what = format!(
        "the content of {} differs from its record",
        crate::error::brief(name)
    );
    Error::new(Kind::Damaged, what)
        .hint("repeat it; if that fails too, the hub's data are damaged (mesync hub check)")
}
