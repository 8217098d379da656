//! Creates files, links and directories complete, verified and synced, under a temporary name beside
//! their final one.
//!
//! It gives nothing its final name. A temporary file that is dropped unfinished removes itself.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::DiskTree;
use super::root::{self, fault, show, split};
use super::sync_set::SyncSet;
use super::temporary::{TemporaryDirs, TemporaryName};
use crate::error::{Error, Kind};
use crate::files::conflict::{self, TRASH};
use crate::files::engine::traits::{CallResult, ContentSource, Fault, StagedFile};
use crate::files::plan::{DIR_READABLE, Entry, Stamp};
use crate::relpath;
use crate::wire::files::{EntryKind, Hash};

/// Free space that downloads leave: a hundredth of the disk, and at least this much.
const FREE_SPACE_RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// This many consecutive zero bytes become a hole: a disk image stays as small as it was.
const HOLE_BLOCK_BYTES: usize = 64 * 1024;
const COPY_BUFFER_BYTES: usize = 128 * 1024;

/// A file that is being written for the tree.
pub struct TemporaryFile {
    spot: TemporaryName,
    beside: TemporaryDirs,
    file: File,
    hash: Sha256,
    size: u64,
    /// The file ends in a hole, which has no length of its own.
    hollow: bool,
    finished: bool,
}

impl DiskTree {
    /// Creates a file of `size` bytes beside `path`. `None`: an ancestor is not a directory.
    pub fn temporary(&self, path: &str, size: u64) -> CallResult<Option<TemporaryFile>> {
        self.room_for(size)?;
        let Some(spot) = self.beside(path)? else {
            return Ok(None);
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&spot.parent, spot.name(), flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(|e| fault("create a file beside", path, &e.into()))?);
        let (hash, size, hollow, finished) = (Sha256::new(), 0, false, false);
        Ok(Some(TemporaryFile {
            spot,
            beside: self.beside.clone(),
            file,
            hash,
            size,
            hollow,
            finished,
        }))
    }

    /// Stages a link with this target.
    pub fn stage_link(
        &self,
        path: &str,
        target: &[u8],
        entry: &Entry,
    ) -> CallResult<Option<StagedFile>> {
        if Hash::of(target) != entry.hash || target.is_empty() || target.contains(&0) {
            return Ok(None);
        }
        let Some(spot) = self.beside(path)? else {
            return Ok(None);
        };
        let failed = |e: io::Error| fault("create a link beside", path, &e);
        let (parent, name) = (&spot.parent, spot.name());
        match rustix::fs::symlinkat(target, parent, name) {
            // FUSE reports this for a disk without links, which will not get them later
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => {
                let what = format!(
                    "create the link {}: this disk has no links",
                    crate::disk::show(path.as_ref())
                );
                return Err(Fault::Refused(Error::new(Kind::Failed, what)));
            }
            made => made.map_err(|e| failed(e.into()))?,
        }
        let timed = tolerate(rustix::fs::utimensat(
            parent,
            name,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        ));
        self.made(timed, &spot, AtFlags::empty()).map_err(failed)
    }

    /// Stages an empty directory.
    pub fn stage_dir(&self, path: &str, entry: &Entry) -> CallResult<Option<StagedFile>> {
        let Some(spot) = self.beside(path)? else {
            return Ok(None);
        };
        let failed = |e: io::Error| fault("create a directory beside", path, &e);
        let (parent, name) = (&spot.parent, spot.name());
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(|e| failed(e.into()))?;
        let moded = tolerate(rustix::fs::chmodat(
            parent,
            name,
            Mode::from_raw_mode(entry.mode | DIR_READABLE),
            AtFlags::empty(),
        ));
        let timed = || {
            tolerate(rustix::fs::utimensat(
                parent,
                name,
                &times(entry.mtime),
                AtFlags::SYMLINK_NOFOLLOW,
            ))
        };
        self.made(moded.and_then(|()| timed()), &spot, AtFlags::REMOVEDIR)
            .map_err(failed)
    }

    /// Makes a new temporary name durable if `complete` succeeded; on an error it is removed, by `unlinkat` with these flags.
    fn made(
        &self,
        complete: io::Result<()>,
        spot: &TemporaryName,
        remove: AtFlags,
    ) -> io::Result<Option<StagedFile>> {
        let (parent, name) = (&spot.parent, spot.name());
        let stamp = complete
            .and_then(|()| self.sync_open(parent))
            .and_then(|()| show(parent, name));
        if stamp.is_err() {
            let _ = rustix::fs::unlinkat(parent, name, remove);
        }
        let stamp = stamp?;
        Ok(stamp.map(|shown| self.staged(spot, shown.stamp)))
    }

    /// Stages a copy of a local file that has the bytes: the first source that does, except the hub. `None`: no source
    /// has them. `synced`: gets the copy, which is not synced yet.
    pub fn stage_copy(
        &self,
        path: &str,
        entry: &Entry,
        sources: &[ContentSource],
        synced: &mut SyncSet,
    ) -> CallResult<Option<StagedFile>> {
        for source in sources {
            let from = match source {
                ContentSource::Tree(from) => Some(from.clone()),
                ContentSource::Trash => self.in_trash(&entry.hash)?,
                ContentSource::Hub => None,
            };
            let Some(from) = from else { continue };
            if let Some(staged) = self.copy_from(path, entry, &from, synced)? {
                return Ok(Some(staged));
            }
        }
        Ok(None)
    }

    /// Syncs staged names that are not synced yet. If that fails, they have failed, and are removed.
    pub fn sync_staged(
        &self,
        mut staged: Vec<CallResult<Option<StagedFile>>>,
        synced: SyncSet,
    ) -> Vec<CallResult<Option<StagedFile>>> {
        let Err(e) = synced.finish(&self.root) else {
            return staged;
        };
        for result in &mut staged {
            if let Ok(Some(StagedFile { temp, .. })) = result {
                // left for the next start if it fails
                let _ = self.throw_away(temp);
                *result = Err(fault("write", temp, &e));
            }
        }
        staged
    }

    fn copy_from(
        &self,
        path: &str,
        entry: &Entry,
        from: &str,
        synced: &mut SyncSet,
    ) -> CallResult<Option<StagedFile>> {
        // if this source fails for any reason, the next one is tried
        let Ok(Some(mut source)) = self.read(from, None) else {
            return Ok(None);
        };
        if source.shown.stamp.size != entry.size {
            return Ok(None);
        }
        // a hole stays a hole
        let filled = source.file.metadata().map_or(entry.size, |meta| {
            meta.blocks().saturating_mul(512).min(entry.size)
        });
        let Some(mut temporary) = self.temporary(path, filled)? else {
            return Ok(None);
        };
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        while temporary.size < entry.size {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => temporary
                    .write_all(&buffer[..n])
                    .map_err(|e| fault("copy to", path, &e))?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
        }
        let stamp = source.shown.stamp;
        let staged = temporary.finish_with(entry, synced)?;
        if staged.is_none() {
            self.contradicted(&stamp);
        }
        Ok(staged)
    }

    /// The name of a file in the trash that has this hash in its name.
    fn in_trash(&self, hash: &Hash) -> CallResult<Option<String>> {
        if !self.trashed.has(hash, || self.trashed_hashes())? {
            return Ok(None);
        }
        let (wanted, mut found) = (hash.to_string(), None);
        let done = self.entries(TRASH, &mut |name, _| {
            if name.to_str().is_ok_and(|n| n.contains(&wanted)) {
                found = name.to_str().ok().map(|n| format!("{TRASH}/{n}"));
            }
            Ok(found.is_none())
        });
        match done {
            Err(e) if !root::absent(&e) => Err(fault("list", TRASH, &e)),
            _ => Ok(found),
        }
    }

    /// The hashes in the names of files in the trash.
    fn trashed_hashes(&self) -> CallResult<Vec<Hash>> {
        let mut all = Vec::new();
        let listed = self.entries(TRASH, &mut |name, _| {
            all.extend(name.to_str().ok().and_then(conflict::trashed_hash));
            Ok(true)
        });
        match listed {
            Err(e) if !root::absent(&e) => Err(fault("list", TRASH, &e)),
            _ => Ok(all),
        }
    }

    pub(super) fn staged(&self, spot: &TemporaryName, stamp: Stamp) -> StagedFile {
        self.beside.put(&spot.temp, &spot.parent);
        StagedFile {
            temp: spot.temp.clone(),
            stamp,
        }
    }

    /// A temporary name beside `path`. Missing directories are created.
    pub(super) fn beside(&self, path: &str) -> CallResult<Option<TemporaryName>> {
        let dir = split(path).0;
        let temporary = relpath::temporary(uuid::Uuid::new_v4().as_u64_pair().0);
        let temporary = if dir.is_empty() {
            temporary
        } else {
            format!("{dir}/{temporary}")
        };
        let Some(parent) = self.directory(dir)? else {
            return Ok(None);
        };
        let open = self
            .open_to_owner(dir, &parent)
            .map_err(|e| fault("open the directory of", path, &e))?;
        Ok(Some(TemporaryName {
            parent,
            temp: temporary,
            _open: open,
        }))
    }

    pub fn room_for(&self, size: u64) -> CallResult<()> {
        let space = rustix::fs::fstatvfs(self.root.fd())
            .map_err(|e| fault("ask for the free space of", "the directory", &e.into()))?;
        let (free, all) = (
            space.f_bavail.saturating_mul(space.f_frsize),
            space.f_blocks.saturating_mul(space.f_frsize),
        );
        // a small disk has no 64 MB to spare
        let reserve = (all / 100).max(FREE_SPACE_RESERVE_BYTES.min(all / 4));
        if free >= size.saturating_add(reserve) {
            return Ok(());
        }
        let what = format!(
            "cannot take {size} bytes into {}: {free} are free, {reserve} of them to be left",
            self.root.path().display()
        );
        Err(Fault::TooLarge(
            Error::new(Kind::Busy, what).hint("free space on that disk"),
        ))
    }

    /// Makes the names in an open directory durable, whatever its own name is now.
    pub(super) fn sync_open(&self, dir: &OwnedFd) -> io::Result<()> {
        match rustix::fs::openat(
            dir,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(dir) => Ok(rustix::fs::fsync(dir)?),
            // the directory may be searched and written to, but not read, and fsync needs a descriptor
            // opened for reading
            Err(Errno::ACCESS) => Ok(rustix::fs::syncfs(self.root.fd())?),
            Err(e) => Err(e.into()),
        }
    }
}

impl TemporaryFile {
    /// Verifies what was written, sets mode and time from `entry`, and syncs it. `None`: the bytes differ, and were removed.
    pub fn finish(self, entry: &Entry) -> CallResult<Option<StagedFile>> {
        self.finish_by(entry, |file| file.sync_all())
    }

    /// [`TemporaryFile::finish`], except that the file is added to those that are still to be synced.
    pub fn finish_with(
        self,
        entry: &Entry,
        synced: &mut SyncSet,
    ) -> CallResult<Option<StagedFile>> {
        self.finish_by(entry, |file| synced.add(file.try_clone()?.into()))
    }

    fn finish_by(
        mut self,
        entry: &Entry,
        sync: impl FnOnce(&File) -> io::Result<()>,
    ) -> CallResult<Option<StagedFile>> {
        let hash = Hash(self.hash.clone().finalize().into());
        if entry.kind != EntryKind::File || self.size != entry.size || hash != entry.hash {
            return Ok(None);
        }
        let grown = if self.hollow {
            self.file.set_len(self.size)
        } else {
            Ok(())
        };
        let stamp = grown
            .and_then(|()| set_metadata(&self.file, entry))
            .and_then(|()| sync(&self.file))
            .and_then(|()| root::show_open(&self.file))
            .map_err(|e| fault("write", &self.spot.temp, &e))?
            .stamp;
        self.finished = true;
        self.beside.put(&self.spot.temp, &self.spot.parent);
        Ok(Some(StagedFile {
            temp: self.spot.temp.clone(),
            stamp,
        }))
    }
}

/// Sets mode and time of a complete file.
fn set_metadata(file: &File, entry: &Entry) -> io::Result<()> {
    tolerate(rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)))?;
    tolerate(rustix::fs::futimens(file, &times(entry.mtime)))
}

/// Sets mode and time of a complete file and syncs it.
pub(super) fn complete(file: &File, entry: &Entry) -> io::Result<()> {
    set_metadata(file, entry)?;
    file.sync_all()
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let to_boundary = HOLE_BLOCK_BYTES - (self.size % HOLE_BLOCK_BYTES as u64) as usize;
        let piece = &bytes[..bytes.len().min(to_boundary)];
        let hole = piece.len() == HOLE_BLOCK_BYTES && piece.iter().all(|b| *b == 0);
        let n = if hole {
            self.file
                .seek(SeekFrom::Current(HOLE_BLOCK_BYTES as i64))
                .map(|_| HOLE_BLOCK_BYTES)?
        } else {
            self.file.write(piece)?
        };
        self.hollow = hole || self.hollow && n == 0;
        self.hash.update(&piece[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = rustix::fs::unlinkat(&self.spot.parent, self.spot.name(), AtFlags::empty());
        }
    }
}

/// Ignores the error of a filesystem without modes, which can still have the file: the stamp afterwards is
/// what counts.
pub(super) fn tolerate(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}

/// Sets the modification time, in nanoseconds since 1970, and leaves the access time.
pub(super) fn times(mtime: i64) -> Timestamps {
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT as _,
    };
    let last = Timespec {
        tv_sec: mtime.div_euclid(1_000_000_000) as _,
        tv_nsec: mtime.rem_euclid(1_000_000_000) as _,
    };
    Timestamps {
        last_access: omit,
        last_modification: last,
    }
}
