//! Chunks on the disk: `chunks/ab/<sha256>`, and `staging/` for those that will be moved there.
//!
//! Any thread may stage. Only the committer moves a staged file to its place or removes a file from there. So between two
//! groups, every file under `chunks/` that no table names was left by a crash, and no chunk is removed while a group stores
//! the same bytes. It does not decide which chunks are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::chunk_source::ChunkSource;
use super::wanted::Wanted;
use crate::config::limits;
use crate::database::file::Happened;
use crate::disk;
use crate::hub::store::ops::Op;
use crate::hub::store::ops::files::Bytes;
use crate::hub::store::staged::StagedChunk;
use crate::wire::files::Hash;

/// How long staged chunks are kept without a commit, by the times of their files.
const STAGED_FOR: Duration = Duration::from_secs(86_400);
/// Prefix of the names of incoming bodies in the staging directory.
const BODY: &str = "body-";

/// The chunks that were moved to their place.
#[derive(Default)]
pub struct Placed {
    /// Chunks that no table has, with their sizes.
    pub new: BTreeMap<Hash, u64>,
    /// Chunks that the tables have.
    pub again: BTreeSet<Hash>,
}

/// The two directories.
pub struct ChunkDir {
    chunks: PathBuf,
    /// Verified chunks of this run, and incoming bodies.
    staging: PathBuf,
    /// Chunks that an earlier run has staged: they are verified before use.
    earlier: PathBuf,
    /// There were some at the start.
    has_earlier: AtomicBool,
    next: AtomicU64,
    staged: AtomicU64,
    keep_free: AtomicU64,
    happened: Arc<Happened>,
    pub wanted: Wanted,
    pub(super) source: OnceLock<Arc<dyn ChunkSource>>,
    /// A directory may have been made under `chunks/` since its last sync, possibly by an earlier run.
    root_unsynced: AtomicBool,
    /// The number of running backups, during which no chunk is removed.
    paused: AtomicUsize,
    /// Directories under `chunks/` that are still to be searched for files that no table names.
    unseen: Mutex<Vec<PathBuf>>,
}

impl ChunkDir {
    /// Makes the directories, and removes everything in `staging/` except the chunks of earlier runs.
    pub fn open(data_dir: &Path, happened: Arc<Happened>) -> crate::error::Result<ChunkDir> {
        let (chunks, staging) = (root(data_dir), data_dir.join("staging"));
        let earlier = staging.join("earlier");
        [&chunks, &staging, &earlier]
            .into_iter()
            .try_for_each(|dir| disk::create_dir(dir))?;
        let dir = ChunkDir {
            chunks,
            staging,
            earlier,
            next: AtomicU64::new(0),
            staged: AtomicU64::new(0),
            has_earlier: AtomicBool::new(false),
            keep_free: AtomicU64::new(0),
            happened,
            wanted: Wanted::default(),
            source: OnceLock::new(),
            root_unsynced: AtomicBool::new(true),
            paused: AtomicUsize::new(0),
            unseen: Mutex::new(Vec::new()),
        };
        dir.tidy()
            .map_err(|e| crate::error::Error::io(format!("tidy {}", dir.staging.display()), &e))?;
        dir.look_again()
            .map_err(|e| crate::error::Error::io(format!("read {}", dir.chunks.display()), &e))?;
        Ok(dir)
    }

    fn tidy(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.staging)? {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_str().map(str::parse::<Hash>) {
                _ if entry.file_type()?.is_dir() => {}
                Some(Ok(_)) => disk::rename(&entry.path(), &self.earlier.join(&name))?,
                _ => std::fs::remove_file(entry.path())?,
            }
        }
        let left = std::fs::read_dir(&self.earlier)?.count() as u64;
        self.staged.store(left, Relaxed);
        self.has_earlier.store(left > 0, Relaxed);
        Ok(())
    }

    /// Bytes that uploads leave free on the disk.
    pub fn keep_free(&self, bytes: u64) {
        self.keep_free.store(bytes, Relaxed);
    }

    pub(super) fn wanted_free(&self) -> u64 {
        self.keep_free.load(Relaxed).max(limits::LEAST_FREE_BYTES)
    }

    pub(super) fn root(&self) -> &Path {
        &self.chunks
    }

    /// Fails with `StorageFull` if the disk has less free space than uploads must leave.
    pub fn check_room(&self) -> io::Result<()> {
        let wanted = self.wanted_free();
        // an unknown amount counts as enough: a write will fail if it is not
        let (free, _, inodes) = disk::free_space(&self.staging).unwrap_or((u64::MAX, 0, u64::MAX));
        if free < wanted
            || inodes < limits::LEAST_INODES
            || self.staged.load(Relaxed) >= limits::STAGED_FILES
        {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    /// Makes a file for an incoming body; it is removed unless it is moved.
    pub fn create(&self) -> io::Result<(File, StagedChunk)> {
        self.check_room()?;
        let path = self
            .staging
            .join(format!("{BODY}{}", self.next.fetch_add(1, Relaxed)));
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits() as i32;
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(flags)
                .open(&path)
        };
        let file = open().or_else(|e| match e.kind() {
            io::ErrorKind::NotFound => DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.earlier)
                .and_then(|()| open()),
            _ => Err(e),
        })?;
        Ok((file, StagedChunk::new(path, false)))
    }

    /// Makes a file durable. A failure other than a lack of space is final: see [`Happened::sync_failed`].
    pub fn sync(&self, file: &File) -> io::Result<()> {
        self.happened.syncs.fetch_add(1, Relaxed);
        self.happened.tests_break()?;
        file.sync_all().inspect_err(|e| self.happened.note_sync(e))
    }

    /// Renames a complete body to its hash, for a later commit.
    pub fn keep(&self, staged: &StagedChunk, hash: Hash) -> io::Result<()> {
        let path = self.staging.join(hash.to_string());
        let is_new = !path.exists();
        disk::rename(staged.path(), &path)?;
        staged.set_moved();
        self.staged.fetch_add(u64::from(is_new), Relaxed);
        Ok(())
    }

    pub fn is_staged(&self, hash: Hash) -> bool {
        [&self.staging, &self.earlier]
            .iter()
            .any(|dir| dir.join(hash.to_string()).exists())
    }

    /// The staged file of a chunk, verified and not synced.
    pub fn staged(&self, hash: Hash, size: u64) -> io::Result<Option<StagedChunk>> {
        let name = hash.to_string();
        let (path, earlier) = (self.staging.join(&name), self.earlier.join(&name));
        if self.has_earlier.load(Relaxed) && !path.exists() && earlier.exists() {
            if hash_on_disk(&earlier)? == hash {
                disk::rename(&earlier, &path)?
            } else {
                std::fs::remove_file(&earlier)?;
                self.staged.fetch_sub(1, Relaxed);
            }
        }
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() == size => {
                Ok(Some(StagedChunk::new(path, true)))
            }
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes staged chunks durable. A chunk whose sync failed is removed: a second sync would succeed, and readers would see
    /// pages that are not on the disk.
    pub fn sync_staged(&self, staged: &[StagedChunk]) -> io::Result<()> {
        if staged.len() >= limits::SYNCFS_FROM && disk::syncfs_reports_errors() {
            let dir = File::open(&self.staging)?;
            return self
                .sync_filesystem(&dir)
                .inspect_err(|_| staged.iter().for_each(|staged| self.discard(staged)));
        }
        for staged in staged {
            match disk::open_regular(staged.path()) {
                Ok(file) => self.sync(&file).inspect_err(|_| self.discard(staged))?,
                // another commit has moved the same chunk
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sync_filesystem(&self, dir: &File) -> io::Result<()> {
        self.happened.syncs.fetch_add(1, Relaxed);
        self.happened.tests_break()?;
        disk::sync_filesystem_of(dir).inspect_err(|e| self.happened.note_sync(e))
    }

    /// The path of a chunk's file.
    pub fn place_of(&self, hash: Hash) -> PathBuf {
        within(&self.chunks, hash)
    }

    /// Whether the file of a chunk exists with the right length. If not, the chunk is recorded as lost.
    pub fn is_there(&self, hash: Hash, size: u64) -> bool {
        // the tables decide whether a cache can have it
        if self.source.get().is_some() {
            return true;
        }
        match std::fs::symlink_metadata(self.place_of(hash)) {
            Ok(meta) if meta.is_file() && meta.len() == size => return true,
            Ok(meta) => self.wanted.note(
                hash,
                &format!("its file has {} bytes, not {size}", meta.len()),
            ),
            Err(e) => self.wanted.note_error(hash, &e),
        }
        false
    }

    /// Moves the staged chunks of these operations to their place, durably. A chunk that the tables have already replaces the
    /// file there, which may be damaged: the received bytes are verified.
    pub fn place(&self, ops: &[Op], known: impl Fn(Hash) -> bool) -> io::Result<Placed> {
        let mut staged_chunks: BTreeMap<Hash, (u64, &StagedChunk)> = BTreeMap::new();
        for (chunk, bytes) in ops.iter().flat_map(Op::chunks) {
            if let Bytes::Staged(staged) = bytes {
                staged_chunks
                    .entry(chunk.sha256)
                    .or_insert((chunk.size, staged));
            }
        }
        let mut placed = Placed::default();
        let moved = self.move_all(staged_chunks, known, &mut placed);
        if moved.is_err() && !self.happened.sync_failed.load(Relaxed) {
            self.remove(placed.new.keys());
        }
        moved.map(|()| placed)
    }

    fn move_all(
        &self,
        wanted: BTreeMap<Hash, (u64, &StagedChunk)>,
        known: impl Fn(Hash) -> bool,
        placed: &mut Placed,
    ) -> io::Result<()> {
        let mut dirs = BTreeSet::new();
        for (hash, (size, staged)) in wanted {
            let (to, dir) = (self.place_of(hash), self.place_of(hash).with_file_name(""));
            if !dir.exists() {
                // also make parent directories that were removed
                if !self.chunks.exists() {
                    dirs.insert(disk::parent(&self.chunks).to_path_buf());
                }
                DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
                self.root_unsynced.store(true, Relaxed);
            }
            match disk::rename(staged.path(), &to) {
                Ok(()) => {
                    self.left(staged);
                    if known(hash) {
                        placed.again.insert(hash);
                    } else {
                        placed.new.insert(hash, size);
                    }
                    dirs.insert(dir);
                }
                // expired, or removed by hand: it counts as missing
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if !dirs.is_empty() && self.root_unsynced.load(Relaxed) {
            dirs.insert(self.chunks.clone());
        }
        // an error of open(2) is not one of a sync: the state is known, and the moved files are removed again
        if dirs.len() >= limits::SYNCFS_FROM && disk::syncfs_reports_errors() {
            self.sync_filesystem(&File::open(&self.chunks)?)?
        } else {
            dirs.iter()
                .try_for_each(|dir| self.sync(&File::open(dir)?))?
        }
        if !dirs.is_empty() {
            self.root_unsynced.store(false, Relaxed);
        }
        Ok(())
    }

    fn discard(&self, staged: &StagedChunk) {
        if !staged.has_moved() && std::fs::remove_file(staged.path()).is_ok() {
            self.left(staged);
        }
    }

    /// A file has left the staging directory.
    pub(super) fn left(&self, staged: &StagedChunk) {
        staged.set_moved();
        if staged.stays() {
            let _ = self
                .staged
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
    }

    /// Removes chunks that no table names any more. Called by the committer only. Those that cannot be removed are left to a
    /// later sweep.
    pub fn remove<'a>(&self, hashes: impl IntoIterator<Item = &'a Hash>) {
        if self.paused.load(Relaxed) > 0 {
            return;
        }
        for hash in hashes {
            let path = self.place_of(*hash);
            if let Err(e) = std::fs::remove_file(&path)
                && e.kind() != io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {e}", path.display());
            }
        }
    }

    /// Schedules a search of all directories of chunks.
    pub fn look_again(&self) -> io::Result<()> {
        let dirs = std::fs::read_dir(&self.chunks)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        *self.unseen.lock().unwrap_or_else(PoisonError::into_inner) = dirs;
        Ok(())
    }

    /// Some directories are still to be searched.
    pub fn has_unseen(&self) -> bool {
        self.paused.load(Relaxed) == 0
            && !self
                .unseen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
    }

    /// Searches one more directory and removes files that no table names, which a crash between move and commit or between
    /// commit and removal has left. Called by the committer only.
    pub fn remove_unknown(&self, known: impl Fn(Hash) -> Option<bool>) -> io::Result<usize> {
        if !self.has_unseen() {
            return Ok(0);
        }
        let Some(dir) = self
            .unseen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
        else {
            return Ok(0);
        };
        let mut removed = 0;
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let hash = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse::<Hash>().ok());
            // a file whose name is no hash is not the hub's
            if hash.and_then(&known) == Some(false) {
                std::fs::remove_file(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes staged chunks that were not committed within a day.
    pub fn expire_staged(&self, now: SystemTime) -> io::Result<()> {
        let mut left = 0;
        for dir in [&self.staging, &self.earlier] {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let is_chunk = entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| name.parse::<Hash>().is_ok());
                if !is_chunk {
                    continue;
                }
                let age = entry
                    .metadata()
                    .and_then(|meta| meta.modified())
                    .ok()
                    .and_then(|at| now.duration_since(at).ok());
                if !(age.is_some_and(|age| age > STAGED_FOR)
                    && std::fs::remove_file(entry.path()).is_ok())
                {
                    left += 1
                }
            }
        }
        self.staged.store(left, Relaxed);
        Ok(())
    }

    /// No chunk is removed until the guard is dropped.
    pub fn pause(&self) -> Paused<'_> {
        self.paused.fetch_add(1, Relaxed);
        Paused(self)
    }
}

/// The guard of [`ChunkDir::pause`].
pub struct Paused<'a>(&'a ChunkDir);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // find the files that would have been removed meanwhile
        let _ = self.0.look_again();
        self.0.paused.fetch_sub(1, Relaxed);
    }
}

/// The directory of chunks of a data directory.
pub fn root(data_dir: &Path) -> PathBuf {
    data_dir.join("chunks")
}

/// The path of a chunk's file.
pub fn place(data_dir: &Path, hash: Hash) -> PathBuf {
    within(&root(data_dir), hash)
}

fn within(root: &Path, hash: Hash) -> PathBuf {
    let name = hash.to_string();
    root.join(&name[..2]).join(name)
}

/// The hash of a file as it is on the disk: pages that a failed sync has left in memory are dropped first.
fn hash_on_disk(path: &Path) -> io::Result<Hash> {
    let file = disk::open_regular(path)?;
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    hash_of_file(file)
}

/// The hash of a file's bytes.
pub fn hash_of(path: &Path) -> io::Result<Hash> {
    hash_of_file(disk::open_regular(path)?)
}

fn hash_of_file(file: File) -> io::Result<Hash> {
    let mut hash = Sha256::new();
    feed(file, |piece| hash.update(piece))?;
    Ok(Hash(hash.finalize().into()))
}

/// The bytes of a file, piece by piece.
pub fn feed(mut file: File, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            n => take(&piece[..n]),
        }
    }
}
