//! Files from the hub: under their final name only when they are whole, verified and synced.
//!
//! Until then the bytes stand beside it in a hidden file whose name depends on what is fetched, so the same download later
//! goes on with it. What is in it is looked at chunk by chunk, for a power cut can leave anything in a file that was not
//! synced. A long file takes what it can from the one that it replaces.

use std::collections::HashMap;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::local::Local;
use super::{BUFFER, Patience, Step, Transfer};
use crate::client::{Called, Download};
use crate::error::{Error, Kind, Result};
use crate::wire::brief;
use crate::wire::files::{self, Chunk, Hash, Record, SINGLE};
use crate::{clock, disk, relpath};

/// Bytes of the target of a symbolic link, at most (symlink(7)).
const LINK: u64 = 4096;
/// Mode of a file of which the hub knows none.
const MODE: u32 = 0o644;
/// How often a file may turn out to be another one while it is fetched.
const RACES: u32 = 4;

impl Transfer<'_> {
    /// Fetches what `record` names, as it is now, to `to`; gives the record that it has become.
    pub fn download(&self, record: Record, to: &Path) -> Called<Record> {
        let mut record = record;
        for race in 0.. {
            match self.download_revision(&record, to)? {
                Fetched::Done => return Ok(record),
                Fetched::Other if race < RACES => record = self.hub.info(record.id)?,
                Fetched::Other => break,
            }
        }
        let what = format!("cannot download {}: it is changed again and again on the hub", brief(&record.full_name()));
        Err(Error::new(Kind::Busy, what).hint("do it again when nobody writes to it").into())
    }

    fn download_revision(&self, record: &Record, to: &Path) -> Called<Fetched> {
        match record.kind {
            files::Kind::File => self.download_file(record, to),
            files::Kind::Dir => Ok(disk::create_dir(to).map(|()| Fetched::Done)?),
            files::Kind::Symlink => self.download_link(record, to),
        }
    }

    /// Writes the content to somebody who takes it in order. An error of theirs ends it.
    pub fn download_to(&self, record: &Record, to: &mut dyn Write) -> Called<io::Result<()>> {
        (self.watch)(Step::Expect(record.size));
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
            Fetched::Done if record.checksum_sha256.is_none_or(|sum| sum == Hash(whole.finalize().into())) => Ok(to.flush()),
            Fetched::Done => Err(damaged(record).into()),
            Fetched::Other => {
                Err(Error::new(Kind::Busy, "the file was changed on the hub while it was fetched").hint("do it again").into())
            }
        }
    }

    /// Fetches the bytes `at..to` of a file; takes up where the line broke, and gives up when it does so without progress.
    fn fetch(&self, record: &Record, at: &mut u64, to: u64, take: &mut dyn FnMut(&[u8]) -> Called<()>) -> Called<Fetched> {
        let (mut patience, mut buffer) = (Patience::new(self.attempts), vec![0; BUFFER]);
        while *at < to {
            let before = *at;
            let once = self.hub.download(record.id, self.ours.then_some(record.revision()), *at, Some(to).filter(|to| *to < record.size));
            let broken = match once.and_then(|mut answer| match self.ours && answer.rev.is_some_and(|rev| !rev.is(record.revision())) {
                true => Ok(Some(Fetched::Other)),
                false => self.take_answer(&mut answer, at, to, &mut buffer, take).map(|()| None),
            }) {
                Ok(Some(other)) => return Ok(other),
                Ok(None) => continue,
                // it has become shorter, or that revision is not kept any more
                Err(failure) if failure.status == 416 || failure.status == 404 && self.ours => return Ok(Fetched::Other),
                Err(failure) => failure,
            };
            if *at > before {
                patience.reset();
            }
            patience.wait(broken, self.watch)?;
        }
        Ok(Fetched::Done)
    }

    fn take_answer(
        &self,
        answer: &mut Download<'_>,
        at: &mut u64,
        to: u64,
        buffer: &mut [u8],
        take: &mut dyn FnMut(&[u8]) -> Called<()>,
    ) -> Called<()> {
        let mut skip = at.saturating_sub(answer.at);
        while *at < to {
            let n = answer.read(buffer)?;
            if n == 0 {
                let what = format!("the answer of hub {} has ended too early", self.hub.url());
                return Err(Error::new(Kind::Unreachable, what).into());
            }
            // a server without ranges begins at the beginning
            let bytes = &buffer[(skip.min(n as u64)) as usize..n];
            skip -= skip.min(n as u64);
            let bytes = &bytes[..bytes.len().min((to - *at) as usize)];
            if !bytes.is_empty() {
                take(bytes)?;
                *at += bytes.len() as u64;
                (self.watch)(Step::Passed(bytes.len() as u64));
            }
        }
        // an answer that was read to its end leaves the connection for the next one; what is there is there, whatever this says
        let _ = answer.read(buffer);
        Ok(())
    }

    /// Fills an open file with the content of this revision, going on with what is right of what is in it already, and taking
    /// from `old` what is in that. Verified, but not synced, and no more than its bytes. `false`: the hub has that revision no
    /// more.
    pub fn fill_file(&self, record: &Record, file: File, old: Option<Local>) -> Called<bool> {
        let chunks = self.chunks_of(record)?;
        let mut partial = Partial::of(file, PathBuf::from(record.full_name()), chunks, record.checksum_sha256.is_none());
        let old = std::cell::Cell::new(old);
        partial.resume(self)?;
        match self.fill(record, &mut partial, &|| Old::of(old.take()?))? {
            Fetched::Other => Ok(false),
            Fetched::Done if record.checksum_sha256.is_some_and(|sum| sum != Hash(partial.whole.finalize().into())) => {
                Err(damaged(record).into())
            }
            Fetched::Done => Ok(true),
        }
    }

    /// What the content of a file consists of, one piece if that is not known.
    fn chunks_of(&self, record: &Record) -> Called<Vec<Chunk>> {
        let chunks = match self.ours && record.size > SINGLE {
            true => self.persist(|_| self.hub.chunks_of(record.id, record.revision()))?,
            false => vec![Chunk { sha256: record.checksum_sha256.unwrap_or(Hash([0; 32])), size: record.size }],
        };
        // one of nothing would never be passed
        let some = record.size == 0 || chunks.iter().all(|c| c.size > 0);
        match some && chunks.iter().try_fold(0u64, |sum, c| sum.checked_add(c.size)) == Some(record.size) {
            true => Ok(chunks),
            false => Err(damaged(record).into()),
        }
    }

    fn download_link(&self, record: &Record, to: &Path) -> Called<Fetched> {
        let mut target = Vec::new();
        if record.size > LINK {
            return Err(damaged(record).into());
        }
        self.download_to(record, &mut target)?.map_err(|e| Error::io("write", &e))?;
        let target = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&target);
        let temporary = to.with_file_name(relpath::temporary(uuid::Uuid::new_v4().as_u64_pair().0));
        let made = std::os::unix::fs::symlink(target, &temporary).and_then(|()| disk::rename(&temporary, to));
        made.and_then(|()| disk::sync_dir(disk::parent(to))).map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            Error::io(format!("make the link {}", disk::show(to.as_os_str())), &e)
        })?;
        Ok(Fetched::Done)
    }

    fn download_file(&self, record: &Record, to: &Path) -> Called<Fetched> {
        let chunks = self.chunks_of(record)?;
        (self.watch)(Step::Expect(record.size));
        let mut partial = Partial::open(record, to, chunks)?;
        let room = partial.check_room(record.size).map_err(Into::into);
        let old = || Old::of(Local::open(to, false).ok()?);
        let fetched = room.and_then(|()| partial.resume(self)).and_then(|()| self.fill(record, &mut partial, &old));
        match fetched {
            Ok(Fetched::Done) => partial.conclude(record, to).map(|()| Fetched::Done),
            // of another revision nothing is of use, and on a full disk the space is needed more
            Ok(Fetched::Other) => {
                (self.watch)(Step::Lost(0));
                partial.remove();
                Ok(Fetched::Other)
            }
            Err(failure) => {
                if partial.at == 0 || matches!(failure.error.kind, Kind::Damaged | Kind::Busy) && failure.status == 0 {
                    partial.remove();
                }
                Err(failure)
            }
        }
    }

    /// Whatever is still to come: from the file that stands there, or from the hub, as many chunks at once as follow another.
    fn fill(&self, record: &Record, partial: &mut Partial, old: &dyn Fn() -> Option<Old>) -> Called<Fetched> {
        let old = if partial.chunks.len() > 1 && partial.at < record.size { old() } else { None };
        while partial.at < record.size {
            if let Some(old) = &old
                && partial.is_between_chunks()
                && partial.copy(old)?
            {
                (self.watch)(Step::Spared(partial.chunks[partial.next - 1].size));
                continue;
            }
            let end = partial.run_end(old.as_ref());
            let mut at = partial.at;
            if let Fetched::Other = self.fetch(record, &mut at, end, &mut |bytes| partial.write(bytes))? {
                return Ok(Fetched::Other);
            }
        }
        Ok(Fetched::Done)
    }
}

enum Fetched {
    Done,
    /// Another revision stands there by now.
    Other,
}

/// The file that is to be replaced, and where in it which chunk is.
struct Old {
    local: Local,
    places: HashMap<Hash, u64>,
}

impl Old {
    fn of(local: Local) -> Option<Old> {
        if local.size <= SINGLE {
            return None;
        }
        let mut places = HashMap::new();
        let content = local.split(|chunk, at| {
            places.insert(chunk.sha256, at);
            Ok(())
        });
        let last = content.ok()?.chunks.last().copied()?;
        places.insert(last.sha256, local.size - last.size);
        Some(Old { local, places })
    }
}

/// A file that is not whole yet: what is in it up to `at` is right.
struct Partial {
    path: PathBuf,
    file: File,
    chunks: Vec<Chunk>,
    /// The chunk that is being written, and what there is of it.
    next: usize,
    begun: u64,
    chunk: Sha256,
    at: u64,
    whole: Sha256,
    /// Nobody knows the hash.
    unknown: bool,
}

impl Partial {
    /// Opens the file for this revision and this name, and sees to it that nobody else fills it.
    fn open(record: &Record, to: &Path, chunks: Vec<Chunk>) -> Result<Partial> {
        let mut key = Sha256::new();
        key.update(std::os::unix::ffi::OsStrExt::as_bytes(to.file_name().unwrap_or_default()));
        key.update(record.checksum_sha256.map_or([0; 32], |sum| sum.0));
        key.update(record.id.as_bytes());
        let key = Hash(key.finalize().into()).0;
        let path =
            to.with_file_name(relpath::temporary(u64::from_be_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]])));
        let failed = |e: io::Error| {
            let error = Error::io(format!("write {}", disk::show(to.as_os_str())), &e);
            if e.kind() == io::ErrorKind::NotFound { Error { kind: Kind::CannotCreate, ..error } } else { error }
        };
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC).bits() as i32;
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&path);
            let file = open.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    let what = format!("cannot write {}: another download of it is running", disk::show(to.as_os_str()));
                    return Err(Error::new(Kind::Busy, what).hint("wait for that one"));
                }
                Err(std::fs::TryLockError::Error(e)) => return Err(failed(e)),
            }
            // whoever had the lock before may have given the file its final name
            let (mine, there) = (file.metadata().map_err(failed)?, std::fs::symlink_metadata(&path).ok());
            if there.is_some_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
                return Ok(Partial::of(file, path, chunks, record.checksum_sha256.is_none()));
            }
        }
    }

    fn of(file: File, path: PathBuf, chunks: Vec<Chunk>, unknown: bool) -> Partial {
        let (chunk, whole) = (Sha256::new(), Sha256::new());
        Partial { path, file, chunks, next: 0, begun: 0, chunk, at: 0, whole, unknown }
    }

    fn check_room(&self, size: u64) -> Result<()> {
        let have = self.file.metadata().map_or(0, |m| m.len());
        let (free, _, _) = disk::free_space(disk::parent(&self.path)).map_err(|e| Error::io("ask for free space", &e))?;
        match size.saturating_sub(have) > free {
            true => Err(Error::new(Kind::Busy, format!("{size} bytes do not fit on the disk, {free} are free")).hint("make room")),
            false => Ok(()),
        }
    }

    /// Keeps what an earlier attempt has left as far as it is right, and cuts off the rest.
    fn resume(&mut self, transfer: &Transfer<'_>) -> Called<()> {
        let have = self.file.metadata().map_err(|e| self.failed(&e))?.len();
        let mut buffer = vec![0; BUFFER];
        // without a hash nothing can be known about it
        while !self.unknown && self.next < self.chunks.len() {
            let chunk = self.chunks[self.next];
            // of one that is the whole file the beginning is believed: the end will show it
            let alone = self.chunks.len() == 1 && chunk.size > SINGLE && have < chunk.size;
            let end = if alone { have } else { self.at + chunk.size };
            if end > have {
                break;
            }
            let (mut at, mut hash, mut whole) = (self.at, Sha256::new(), self.whole.clone());
            while at < end {
                let most = buffer.len().min((end - at) as usize);
                let n = self.file.read_at(&mut buffer[..most], at).map_err(|e| self.failed(&e))?;
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
            (transfer.watch)(Step::Spared(at - self.at));
            (self.at, self.whole) = (at, whole);
            if alone {
                (self.begun, self.chunk) = (at, hash);
                break;
            }
            self.next += 1;
        }
        self.file.set_len(self.at).map_err(|e| self.failed(&e).into())
    }

    fn is_between_chunks(&self) -> bool {
        self.begun == 0
    }

    /// Takes the next chunk from the old file, if it is there. What is read is verified like what comes from the hub, but
    /// a difference only means that somebody writes to that file.
    fn copy(&mut self, old: &Old) -> Called<bool> {
        let chunk = self.chunks[self.next];
        let Some(place) = old.places.get(&chunk.sha256) else { return Ok(false) };
        let (mut hash, mut whole, mut done, mut buffer) = (Sha256::new(), self.whole.clone(), 0, vec![0; BUFFER]);
        while done < chunk.size {
            let most = buffer.len().min((chunk.size - done) as usize);
            match old.local.file.read_at(&mut buffer[..most], place + done) {
                Ok(n) if n > 0 => {
                    hash.update(&buffer[..n]);
                    whole.update(&buffer[..n]);
                    self.file.write_all_at(&buffer[..n], self.at + done).map_err(|e| self.failed(&e))?;
                    done += n as u64;
                }
                _ => return Ok(false),
            }
        }
        if Hash(hash.finalize().into()) != chunk.sha256 {
            return Ok(false);
        }
        (self.at, self.next, self.whole) = (self.at + chunk.size, self.next + 1, whole);
        Ok(true)
    }

    /// Where the next bytes from the hub end: before the next chunk that the old file has.
    fn run_end(&self, old: Option<&Old>) -> u64 {
        let mut end = self.at - self.begun;
        for (i, chunk) in self.chunks.iter().enumerate().skip(self.next) {
            if i > self.next && old.is_some_and(|old| old.places.contains_key(&chunk.sha256)) {
                break;
            }
            end += chunk.size;
        }
        end
    }

    /// The next bytes. Those of a chunk that turns out wrong are not kept.
    fn write(&mut self, mut bytes: &[u8]) -> Called<()> {
        while !bytes.is_empty() {
            let Some(chunk) = self.chunks.get(self.next).copied() else { break };
            let (piece, rest) = bytes.split_at(bytes.len().min((chunk.size - self.begun) as usize));
            self.file.write_all_at(piece, self.at).map_err(|e| self.failed(&e))?;
            self.chunk.update(piece);
            self.whole.update(piece);
            self.at += piece.len() as u64;
            self.begun += piece.len() as u64;
            bytes = rest;
            if self.begun == chunk.size {
                let sha256 = Hash(self.chunk.finalize_reset().into());
                if sha256 != chunk.sha256 && !self.unknown {
                    let what = format!("what came for {} is not what the hub has announced", disk::show(self.path.as_os_str()));
                    return Err(Error::new(Kind::Damaged, what).hint("do it again").into());
                }
                (self.next, self.begun) = (self.next + 1, 0);
            }
        }
        Ok(())
    }

    /// Gives it mode, time and, when all of that is on the disk, its name.
    fn conclude(self, record: &Record, to: &Path) -> Called<()> {
        let whole = Hash(self.whole.clone().finalize().into());
        if record.checksum_sha256.is_some_and(|sum| sum != whole) {
            self.remove();
            return Err(damaged(record).into());
        }
        // set-user-id and its like are for who has the file to decide
        let mode = record.mode.map_or(MODE, |mode| mode & 0o777);
        let mtime = record.mtime.as_deref().and_then(clock::parse_rfc3339);
        let times = mtime.map_or(Ok(()), |at| self.file.set_times(FileTimes::new().set_modified(at)));
        let done = times
            .and_then(|()| self.file.set_permissions(Permissions::from_mode(mode)))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| disk::rename(&self.path, to))
            .and_then(|()| disk::sync_dir(disk::parent(to)));
        done.map_err(|e| Error::io(format!("write {}", disk::show(to.as_os_str())), &e).into())
    }

    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    fn failed(&self, e: &io::Error) -> Error {
        Error::io(format!("write {}", disk::show(self.path.as_os_str())), e)
    }
}

fn damaged(record: &Record) -> Error {
    let what = format!("the content of {} is not what its record says", brief(&record.full_name()));
    Error::new(Kind::Damaged, what).hint("do it again; if it stays so, the hub's data are damaged")
}
