//! Examines names and reads contents, so that the bytes read are those of the stamp before and
//! after.
//!
//! It changes nothing in the tree.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::DiskTree;
use super::root::{self, InodeType, NamedEntry, fault, same, show_open, split};
use crate::chunking::{Content, Splitter};
use crate::clock;
use crate::config::limits;
use crate::error::{Error, Kind};
use crate::files::engine::traits::{CallResult, Fault, Presence};
use crate::files::plan::{Entry, LocalEntry, Stamp};
use crate::wire::files::{EntryKind, Hash, SINGLE};

/// Attempts to read a file that is being written to, before it has to wait.
const MAX_READ_ATTEMPTS: usize = 2;
const READ_BUFFER_BYTES: usize = 128 * 1024;
/// How often a long file is checked for changes while it is read.
const BYTES_BETWEEN_CHECKS: u64 = 16 * 1024 * 1024;

/// What is remembered for a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachedHash {
    Nothing,
    Hash(Hash),
    /// The bytes read did not match the stored hash: no hash is believed until the file has been
    /// read again.
    Contradicted,
}

/// Hashes of recently read files: a path is examined several times until it is in sync.
#[derive(Debug, Default)]
pub struct HashCache {
    hashes: Mutex<HashMap<u64, (Stamp, Option<Hash>)>>,
    /// The chunks of long files that were read last, the oldest first.
    contents: Mutex<VecDeque<(Stamp, Content)>>,
}

/// Long files whose chunks are remembered until they are sent.
const MAX_REMEMBERED_CONTENTS: usize = 4;
/// Chunks of a file that are remembered, at most.
const MAX_REMEMBERED_CHUNKS: usize = 20_000;
/// A file that was written before its last change by more than this was renamed or restored, and is probably known to the
/// hub: its chunks are not needed.
const MAX_AGE_OF_NEW_CONTENT_NS: i64 = 2_000_000_000;

/// What is made of a content that is read.
enum ContentDigest {
    Hash(Sha256),
    /// And its chunks, so that they are not read again to be sent.
    Chunks(Splitter),
}

impl ContentDigest {
    fn of(stamp: &Stamp) -> ContentDigest {
        let is_new = stamp.ctime.saturating_sub(stamp.mtime) < MAX_AGE_OF_NEW_CONTENT_NS;
        if stamp.size > SINGLE && is_new {
            ContentDigest::Chunks(Splitter::default())
        } else {
            ContentDigest::Hash(Sha256::new())
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            ContentDigest::Hash(hash) => hash.update(bytes),
            ContentDigest::Chunks(splitter) => splitter.feed(bytes),
        }
    }
}

impl HashCache {
    fn get(&self, stamp: &Stamp) -> CachedHash {
        let known = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&stamp.inode).filter(|(of, _)| same(of, stamp)) {
            None => CachedHash::Nothing,
            Some((_, Some(hash))) => CachedHash::Hash(*hash),
            Some((_, None)) => CachedHash::Contradicted,
        }
    }

    fn put(&self, stamp: Stamp, hash: Option<Hash>) {
        let mut known = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= limits::REMEMBERED_HASHES {
            known.clear();
        }
        known.insert(stamp.inode, (stamp, hash));
    }

    fn put_content(&self, stamp: Stamp, content: Content) {
        if content.chunks.len() > MAX_REMEMBERED_CHUNKS {
            return;
        }
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if contents.len() >= MAX_REMEMBERED_CONTENTS {
            contents.pop_front();
        }
        contents.push_back((stamp, content));
    }

    fn take_content(&self, stamp: &Stamp) -> Option<Content> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let at = contents.iter().position(|(of, _)| same(of, stamp))?;
        contents.remove(at).map(|(_, content)| content)
    }
}

/// Which contents are in the trash, by eight bytes of their hashes: the trash may be long, and is
/// checked for each file that is downloaded.
#[derive(Debug, Default)]
pub struct TrashedHashes(Mutex<Option<HashSet<[u8; 8]>>>);

impl TrashedHashes {
    /// Whether the content may be in the trash. `list` is called once.
    pub fn has(
        &self,
        hash: &Hash,
        list: impl FnOnce() -> CallResult<Vec<Hash>>,
    ) -> CallResult<bool> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = Some(list()?.iter().map(prefix).collect());
        }
        Ok(known
            .as_ref()
            .is_some_and(|known| known.contains(&prefix(hash))))
    }

    pub fn put(&self, hash: &Hash) {
        if let Some(known) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            known.insert(prefix(hash));
        }
    }

    /// Records that something was removed from the trash.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn prefix(hash: &Hash) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.0[..8]);
    first
}

/// A file that is being read, and its stamp when that began.
pub struct FileReading {
    pub file: File,
    pub shown: NamedEntry,
}

impl FileReading {
    /// Whether the file is unchanged since it was opened.
    pub fn unchanged(&self) -> io::Result<bool> {
        Ok(same(&show_open(&self.file)?.stamp, &self.shown.stamp))
    }

    /// Whether the last block is all zero; also for an empty file.
    pub fn ends_in_zeros(&self) -> io::Result<bool> {
        const BLOCK_BYTES: u64 = 4096;
        let size = self.shown.stamp.size;
        let from = size.saturating_sub(1) / BLOCK_BYTES * BLOCK_BYTES;
        let mut block = vec![0; (size - from) as usize];
        self.file.read_exact_at(&mut block, from)?;
        Ok(block.iter().all(|byte| *byte == 0))
    }
}

impl Read for FileReading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl DiskTree {
    /// What `stat` shows for a name. `Err(Presence)`: nothing more can be known.
    pub(super) fn shown(&self, path: &str) -> CallResult<Result<NamedEntry, Presence>> {
        match self.root.show(path) {
            // an overlay reports other devices for files than for directories
            Ok(Some(shown))
                if shown.is_mounted
                    || shown.what == InodeType::Dir && shown.device != self.root.device() =>
            {
                Ok(Err(mounted()))
            }
            Ok(Some(shown)) => Ok(Ok(self.opened.as_closed(shown))),
            Ok(None) => self.absent().map(Err),
            Err(e) if root::absent(&e) => self.absent().map(Err),
            Err(e) => unknown(path, &e).map(Err),
        }
    }

    pub(super) fn examine_entry(
        &self,
        path: &str,
        known: Option<(&Stamp, &Entry)>,
    ) -> CallResult<Presence> {
        let shown = match self.shown(path)? {
            Ok(shown) => shown,
            Err(look) => return Ok(look),
        };
        let Stamp {
            size, mtime, mode, ..
        } = shown.stamp;
        let here = |entry, stamp| Ok(Presence::Here(LocalEntry { entry, stamp }));
        let kind = match shown.what {
            InodeType::Special => {
                return Ok(Presence::Unknown(Error::new(
                    Kind::Failed,
                    "a socket, pipe or device",
                )));
            }
            InodeType::Dir => return here(Entry::dir(mode, mtime), shown.stamp),
            InodeType::Link => EntryKind::Symlink,
            InodeType::File => EntryKind::File,
        };
        let known = known
            .filter(|(stamp, entry)| same(stamp, &shown.stamp) && entry.kind == kind)
            .map(|(_, entry)| entry.hash);
        let believed = match self.memory.get(&shown.stamp) {
            _ if self.blind && kind == EntryKind::File => None,
            CachedHash::Hash(hash) => Some(hash),
            CachedHash::Nothing => known,
            CachedHash::Contradicted => None,
        };
        if let Some(hash) = believed {
            return here(Entry::new(kind, hash, size, mode, mtime), shown.stamp);
        }
        if kind == EntryKind::Symlink {
            return match self.read_link(path) {
                Ok(target) => here(
                    Entry::new(kind, Hash::of(&target), target.len() as u64, mode, mtime),
                    shown.stamp,
                ),
                Err(e) => unknown(path, &e),
            };
        }
        match self.hash(path) {
            Ok(Some((stamp, hash))) => here(
                Entry::new(kind, hash, stamp.size, stamp.mode, stamp.mtime),
                stamp,
            ),
            Ok(None) => Err(Fault::Later(Error::new(
                Kind::Busy,
                format!("cannot read {path}: it is being written to"),
            ))),
            Err(e) => unknown(path, &e),
        }
    }

    /// The chunks of a long file that was read when it had this stamp; they are given once.
    pub fn take_content(&self, stamp: &Stamp) -> Option<Content> {
        self.memory.take_content(stamp).filter(|_| !self.blind)
    }

    /// Records that the bytes read did not match the hash of this stamp.
    pub fn contradicted(&self, stamp: &Stamp) {
        self.memory.put(*stamp, None);
    }

    /// Whether an entry with this stamp must be read, whatever is remembered of it.
    pub fn doubts(&self, stamp: &Stamp) -> bool {
        self.blind || self.memory.get(stamp) == CachedHash::Contradicted
    }

    pub(super) fn still_holds(&self, path: &str, what: &LocalEntry) -> CallResult<bool> {
        if !self.blind || what.entry.kind != EntryKind::File {
            return Ok(true);
        }
        let read = self.hash(path).map_err(|e| fault("read", path, &e))?;
        Ok(read.is_some_and(|(_, hash)| hash == what.entry.hash))
    }

    /// The target of a link.
    pub fn read_link(&self, path: &str) -> io::Result<Vec<u8>> {
        let (dir, name) = split(path);
        let target =
            rustix::fs::readlinkat(self.root.through(dir)?, name, Vec::new())?.into_bytes();
        if self.root.lists(dir, name, false)? {
            Ok(target)
        } else {
            Err(rustix::io::Errno::NOENT.into())
        }
    }

    /// Opens a regular file for reading. `None`: it is something else, or does not show this stamp.
    pub fn read(&self, path: &str, expected: Option<&Stamp>) -> io::Result<Option<FileReading>> {
        let (dir, name) = split(path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.root.through(dir)?, name, flags, Mode::empty()) {
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Ok(None),
            other => File::from(other?),
        };
        if !self.root.lists(dir, name, false)? {
            return Err(rustix::io::Errno::NOENT.into());
        }
        let shown = show_open(&file)?;
        let fine = shown.what == InodeType::File && expected.is_none_or(|e| same(e, &shown.stamp));
        Ok(fine.then_some(FileReading { file, shown }))
    }

    /// The stamp and hash of a file that did not change while it was read; `None`: it did.
    pub(super) fn hash(&self, path: &str) -> io::Result<Option<(Stamp, Hash)>> {
        for _ in 0..MAX_READ_ATTEMPTS {
            let Some(mut reading) = self.read(path, None)? else {
                return Ok(None);
            };
            self.wait_for_tick(&reading.shown.stamp);
            self.cleaner.clean(
                &reading.file,
                self.root.fd(),
                reading.shown.stamp.ctime,
                Duration::from_millis(self.tick),
            )?;
            let mut digest = ContentDigest::of(&reading.shown.stamp);
            // a file that grows as fast as it is read would have no end
            let mut left = reading.shown.stamp.size;
            let mut buffer = vec![0; left.min(READ_BUFFER_BYTES as u64) as usize];
            let mut check_at = left.saturating_sub(BYTES_BETWEEN_CHECKS);
            while left > 0 {
                // a file that is being written is not read to its end
                if left < check_at {
                    if !reading.unchanged()? {
                        break;
                    }
                    check_at = left.saturating_sub(BYTES_BETWEEN_CHECKS);
                }
                match reading.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => {
                        digest.update(&buffer[..n]);
                        left = left.saturating_sub(n as u64);
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if reading.unchanged()? {
                let stamp = reading.shown.stamp;
                let hash = match digest {
                    ContentDigest::Hash(hash) => Hash(hash.finalize().into()),
                    ContentDigest::Chunks(splitter) => {
                        let content = splitter.finish();
                        let hash = content.sha256;
                        self.memory.put_content(stamp, content);
                        hash
                    }
                };
                self.memory.put(stamp, Some(hash));
                return Ok(Some((stamp, hash)));
            }
        }
        Ok(None)
    }

    /// Waits until the last change is at least one tick old: another change within the same tick
    /// would leave the same stamp, and would never be noticed if the bytes were read in between.
    fn wait_for_tick(&self, stamp: &Stamp) {
        let tick = self.tick as i64;
        let age = clock::millis(clock::now()) as i64 - stamp.ctime / 1_000_000;
        // a time far in the future is from the clock of another machine
        if (-tick..tick).contains(&age) {
            let _ = crossbeam_channel::after(Duration::from_millis((tick - age).min(tick) as u64))
                .recv();
        }
    }

    /// Reports that a name is absent if that can be believed: without the marker, another directory
    /// may be mounted there.
    fn absent(&self) -> CallResult<Presence> {
        self.check()?;
        Ok(Presence::Absent)
    }
}

fn mounted() -> Presence {
    Presence::Unknown(Error::new(Kind::Failed, root::MOUNTED))
}

fn unknown(path: &str, e: &io::Error) -> CallResult<Presence> {
    use rustix::io::Errno;
    if root::is(e, &[Errno::XDEV]) {
        Ok(mounted())
    } else if root::is(e, &[Errno::ACCESS, Errno::PERM, Errno::IO]) {
        let what = crate::error::plain(e);
        Ok(Presence::Unknown(Error {
            what,
            ..Error::io("read", e)
        }))
    } else if root::is(e, &[Errno::NAMETOOLONG, Errno::ILSEQ, Errno::INVAL]) {
        // the filesystem cannot have such a name
        Ok(Presence::Absent)
    } else {
        Err(fault("look at", path, e))
    }
}
