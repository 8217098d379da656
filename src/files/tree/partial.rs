//! Long files that are being downloaded, in `.mesync/partial/` under the hash of their content, so
//! that an interrupted download of the same content resumes, whatever its name is by then.
//!
//! The content of a partial file is not trusted: it is verified after it is filled. A file that no
//! download resumes is removed after a while.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::DiskTree;
use super::root::{fault, show, split};
use super::stage::complete;
use crate::disk::{self, Renamed};
use crate::files::engine::traits::{CallResult, StagedFile};
use crate::files::plan::Entry;
use crate::relpath;
use crate::wire::files::Hash;

pub const DIR: &str = ".mesync/partial";

/// A long file that is being filled.
pub struct PartialFile {
    dir: OwnedFd,
    name: String,
    file: File,
}

impl DiskTree {
    /// Opens or creates the file for a content.
    pub fn partial(&self, content: Hash) -> CallResult<PartialFile> {
        let failed = |e: io::Error| fault("write in", DIR, &e);
        let dir = self
            .directory(DIR)?
            .ok_or_else(|| failed(io::ErrorKind::NotADirectory.into()))?;
        let name = content.to_string();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(
            rustix::fs::openat(&dir, &name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|e| failed(e.into()))?,
        );
        Ok(PartialFile { dir, name, file })
    }
}

impl PartialFile {
    /// Checks that the disk has room for the rest of a file of `size` bytes, none of them a hole.
    /// Otherwise: `NoSpace`.
    pub fn check_room(&self, tree: &DiskTree, size: u64) -> CallResult<()> {
        let have = self
            .file
            .metadata()
            .map_err(|e| fault("look at", DIR, &e))?;
        tree.room_for(size.saturating_sub(have.blocks().saturating_mul(512)))
    }

    /// The file to fill; it may have content.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives a complete, verified file its mode and time, and a temporary name beside `path`.
    pub fn finish(
        self,
        tree: &DiskTree,
        path: &str,
        entry: &Entry,
    ) -> CallResult<Option<StagedFile>> {
        let failed = |e: io::Error| fault("write beside", path, &e);
        // the bytes before the name; the mode only after it, since a file that is left here must
        // stay writable
        self.file.sync_all().map_err(failed)?;
        let Some(spot) = tree.beside(path)? else {
            return Ok(None);
        };
        let (parent, name) = (&spot.parent, split(&spot.temp).1);
        match disk::rename_noreplace_at(&self.dir, &self.name, parent, name).map_err(failed)? {
            Renamed::Done => {}
            Renamed::Refused | Renamed::Unsupported => {
                rustix::fs::renameat(&self.dir, &self.name, parent, name)
                    .map_err(|e| failed(e.into()))?;
            }
        }
        debug_assert!(relpath::is_own(name));
        let moded = complete(&self.file, entry).and_then(|()| tree.sync_open(parent));
        if moded.is_err() {
            let _ = rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
        let stamp = moded.and_then(|()| show(parent, name)).map_err(failed)?;
        Ok(stamp.map(|shown| tree.staged(&spot, shown.stamp)))
    }

    /// Makes it the file for another content, which may begin with the same bytes, or removes it if that has one.
    pub fn rename(self, content: Hash) {
        let to = content.to_string();
        match disk::rename_noreplace_at(&self.dir, &self.name, &self.dir, &to) {
            Ok(Renamed::Done) => {}
            _ => self.remove(),
        }
    }

    /// Removes a file that is of no use.
    pub fn remove(self) {
        let _ = rustix::fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
    }
}
