//! Renames within the tree; each is checked again just before it is made, and durable when it
//! returns.
//!
//! After an exchange the caller examines the replaced file; only a directory that turns out not to
//! be empty is moved back.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::DiskTree;
use super::names::show_of;
use super::opened::KeepOpen;
use super::root::{self, InodeType, NamedEntry, Root, fault, same, show, split};
use super::sync_set::SyncSet;
use crate::disk::{self, Renamed};
use crate::files::conflict::{self, TRASH};
use crate::files::engine::traits::{CallResult, RenameOutcome, StagedFile};
use crate::files::plan::{LocalEntry, Stamp};
use crate::relpath;

/// A name in an open directory.
pub(super) struct OpenName<'a> {
    /// Keeps the directory writable for its owner.
    _open: Option<KeepOpen>,
    root: &'a Root,
    pub(super) parent: OwnedFd,
    dir: &'a str,
    pub(super) name: &'a str,
}

impl OpenName<'_> {
    /// Whether another name exists in the same directory.
    fn has(&self, name: &str) -> bool {
        matches!(show(&self.parent, name), Ok(Some(_)))
    }

    pub(super) fn shown(&self) -> io::Result<Option<NamedEntry>> {
        show_of(self.root, self.dir, &self.parent, self.name, true)
    }
}

impl DiskTree {
    /// `synced`: gets the directory that is to be synced.
    pub(super) fn put(
        &self,
        path: &str,
        staged: &StagedFile,
        over: Option<&LocalEntry>,
        synced: &mut SyncSet,
    ) -> CallResult<RenameOutcome> {
        let failed = |e: io::Error| fault("put in place", path, &e);
        let Some(at) = self.place_of(path)? else {
            return Ok(RenameOutcome::Taken);
        };
        let alone = self.root.names().alone();
        let moved = match self.put_unsynced(&at, path, staged, over) {
            // everything else exists, so the name is the cause
            Err(e)
                if root::is(&e, &[Errno::NOENT])
                    && over.is_none()
                    && at.has(split(&staged.temp).1) =>
            {
                return Err(self.refuse(path));
            }
            other => other.map_err(failed)?,
        };
        self.root.names().changed();
        if moved == RenameOutcome::Done
            && over.is_none()
            && !self.root.lists(at.dir, at.name, true).map_err(failed)?
        {
            // the disk gave it another name; nothing was there before
            disk::rename_at(&at.parent, at.name, split(&staged.temp).1).map_err(failed)?;
            return Err(self.refuse(path));
        }
        drop(alone);
        if moved == RenameOutcome::Done {
            synced.add_directory(&at.parent).map_err(failed)?;
        }
        Ok(moved)
    }

    fn put_unsynced(
        &self,
        to: &OpenName<'_>,
        path: &str,
        staged: &StagedFile,
        over: Option<&LocalEntry>,
    ) -> io::Result<RenameOutcome> {
        let (dir, temp) = split(&staged.temp);
        if dir != split(path).0 || !relpath::is_own(temp) {
            return Ok(RenameOutcome::Changed);
        }
        match show(&to.parent, temp)? {
            Some(shown) if shown.stamp.same_but_for_ctime(&staged.stamp) => {}
            _ => return Ok(RenameOutcome::Changed),
        }
        match over {
            None => self.no_replace(&to.parent, temp, &to.parent, to.name),
            Some(over) => self.replace(to, path, temp, over),
        }
    }

    pub(super) fn rename(
        &self,
        from: &str,
        to: &str,
        expected: Option<&Stamp>,
    ) -> CallResult<RenameOutcome> {
        self.rename_all(&[(from, to, expected)]).remove(0)
    }

    /// Renames names, and syncs the directories of the new names first: after a power loss both names may exist, but
    /// never neither.
    pub(super) fn rename_all(
        &self,
        all: &[(&str, &str, Option<&Stamp>)],
    ) -> Vec<CallResult<RenameOutcome>> {
        let (mut targets, mut sources) = (SyncSet::default(), SyncSet::default());
        let done = all
            .iter()
            .map(|(from, to, expected)| {
                self.rename_unsynced(from, to, *expected, &mut targets, &mut sources)
            })
            .collect();
        let done = self.synced(done, targets);
        self.synced(done, sources)
    }

    fn rename_unsynced(
        &self,
        from: &str,
        to: &str,
        expected: Option<&Stamp>,
        targets: &mut SyncSet,
        sources: &mut SyncSet,
    ) -> CallResult<RenameOutcome> {
        let failed = |e: io::Error| fault("move", from, &e);
        let Some(source) = self.place_of(from)? else {
            return Ok(RenameOutcome::Changed);
        };
        if to.starts_with(TRASH) && self.directory(TRASH)?.is_none() {
            return Ok(RenameOutcome::Taken);
        }
        let Some(target) = self.place_of(to)? else {
            return Ok(RenameOutcome::Taken);
        };
        match source.shown().map_err(failed)? {
            Some(shown) if expected.is_none_or(|e| same(e, &shown.stamp)) => {}
            _ => return Ok(RenameOutcome::Changed),
        }
        self.root.names().changed();
        let alone = self.root.names().alone();
        let moved = match self.no_replace(&source.parent, source.name, &target.parent, target.name)
        {
            Err(e) if root::is(&e, &[Errno::NOENT]) => RenameOutcome::Changed,
            other => other.map_err(failed)?,
        };
        drop(alone);
        if let (RenameOutcome::Done, true, Some(hash)) =
            (moved, to.starts_with(TRASH), conflict::trashed_hash(to))
        {
            self.trashed.put(&hash);
        }
        if moved == RenameOutcome::Done {
            targets.add_directory(&target.parent).map_err(failed)?;
            if split(to).0 != split(from).0 {
                sources.add_directory(&source.parent).map_err(failed)?;
            }
        }
        Ok(moved)
    }

    fn no_replace(
        &self,
        from_dir: &OwnedFd,
        from: &str,
        to_dir: &OwnedFd,
        to: &str,
    ) -> io::Result<RenameOutcome> {
        if self.noreplace.load(Relaxed) {
            match disk::rename_noreplace_at(from_dir, from, to_dir, to)? {
                Renamed::Done => return Ok(RenameOutcome::Done),
                Renamed::Refused => return Ok(RenameOutcome::Taken),
                Renamed::Unsupported => self.noreplace.store(false, Relaxed),
            }
        }
        // link(2) also refuses an existing name; but it cannot link directories, and some
        // filesystems have no links
        match rustix::fs::linkat(from_dir, from, to_dir, to, AtFlags::empty()) {
            Ok(()) => {
                return rustix::fs::unlinkat(from_dir, from, AtFlags::empty())
                    .map(|()| RenameOutcome::Done)
                    .map_err(Into::into);
            }
            Err(Errno::EXIST) => return Ok(RenameOutcome::Taken),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
            Err(e) => return Err(e.into()),
        }
        // the last resort leaves a window that such a system cannot close
        match show(to_dir, to)? {
            Some(_) => Ok(RenameOutcome::Taken),
            None => rustix::fs::renameat(from_dir, from, to_dir, to)
                .map(|()| RenameOutcome::Done)
                .map_err(Into::into),
        }
    }

    fn replace(
        &self,
        at: &OpenName<'_>,
        path: &str,
        temp: &str,
        over: &LocalEntry,
    ) -> io::Result<RenameOutcome> {
        let old = match at.shown()? {
            Some(old) if same(&over.stamp, &old.stamp) => old,
            _ => return Ok(RenameOutcome::Changed),
        };
        if old.what == InodeType::Dir && !is_bare(&at.parent, at.name)? {
            return Ok(RenameOutcome::Taken);
        }
        if self.exchange.load(Relaxed) {
            match disk::exchange_at(&at.parent, temp, at.name)? {
                Renamed::Refused => return Ok(RenameOutcome::Changed),
                Renamed::Unsupported => self.exchange.store(false, Relaxed),
                Renamed::Done => return self.check_exchanged(at, temp),
            }
        }
        // nothing is replaced that would have to be examined
        if old.what == InodeType::File
            && self
                .hash(path)?
                .is_none_or(|(_, hash)| hash != over.entry.hash)
        {
            return Ok(RenameOutcome::Changed);
        }
        self.replace_without_exchange(at, temp, &old)
    }

    /// Moves back a directory that was filled between the check and the exchange.
    fn check_exchanged(&self, at: &OpenName<'_>, temp: &str) -> io::Result<RenameOutcome> {
        let out = show(&at.parent, temp)?;
        if out.is_some_and(|o| o.what == InodeType::Dir) && !is_bare(&at.parent, temp)? {
            disk::exchange_at(&at.parent, temp, at.name)?;
            return Ok(RenameOutcome::Taken);
        }
        Ok(RenameOutcome::Done)
    }

    /// The file was checked just before. A write between that check and the rename is lost; this is
    /// the only place where that can happen.
    fn replace_without_exchange(
        &self,
        at: &OpenName<'_>,
        temp: &str,
        old: &NamedEntry,
    ) -> io::Result<RenameOutcome> {
        let new_is_dir = show(&at.parent, temp)?.is_some_and(|n| n.what == InodeType::Dir);
        match (old.what == InodeType::Dir, new_is_dir) {
            (false, false) => disk::rename_at(&at.parent, temp, at.name)?,
            // rmdir refuses a directory that is not empty
            (true, _) => match rustix::fs::unlinkat(&at.parent, at.name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(RenameOutcome::Taken),
                Err(Errno::NOTDIR) => return Ok(RenameOutcome::Changed),
                done => {
                    done?;
                    return self.no_replace(&at.parent, temp, &at.parent, at.name);
                }
            },
            // a directory never replaces a file: the file is renamed so that it can be examined
            (false, true) => {
                let way = relpath::temporary(uuid::Uuid::new_v4().as_u64_pair().0);
                self.no_replace(&at.parent, at.name, &at.parent, &way)?;
                let moved = self.no_replace(&at.parent, temp, &at.parent, at.name)?;
                let back = if moved == RenameOutcome::Done {
                    temp
                } else {
                    at.name
                };
                self.no_replace(&at.parent, &way, &at.parent, back)?;
                return Ok(moved);
            }
        }
        Ok(RenameOutcome::Done)
    }

    pub(super) fn sync_name(&self, path: &str) -> CallResult<()> {
        let failed = |e: io::Error| fault("sync", path, &e);
        let Some(at) = self.seen_at(path)? else {
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&at.parent, at.name, flags, Mode::empty()) {
            Ok(file) => rustix::fs::fsync(&file).map_err(|e| failed(e.into()))?,
            // a link consists of its directory entry only
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {}
            // fsync needs a descriptor opened for reading
            Err(Errno::ACCESS) => {
                rustix::fs::syncfs(self.root.fd()).map_err(|e| failed(e.into()))?
            }
            Err(e) => return Err(failed(e.into())),
        }
        self.sync_open(&at.parent).map_err(failed)
    }

    /// The stamp of a staged file whose directory was renamed since.
    pub(super) fn moved_away(&self, temp: &str) -> CallResult<Option<Stamp>> {
        let Some(dir) = self.beside.get(temp) else {
            return Ok(None);
        };
        let shown = show(&dir, split(temp).1).map_err(|e| fault("look at", temp, &e))?;
        Ok(shown.map(|shown| shown.stamp))
    }

    pub(super) fn throw_away(&self, temp: &str) -> CallResult<()> {
        let failed = |e: io::Error| fault("remove", temp, &e);
        if !relpath::is_own(split(temp).1) && split(temp).0 != TRASH {
            let what = format!("will not remove {temp}: it is not a temporary name");
            return Err(crate::files::engine::traits::Fault::Refused(
                crate::error::Error::new(crate::error::Kind::Failed, what),
            ));
        }
        let name = split(temp).1;
        // the directory in which it was made may have another name by now
        let kept = self.beside.take(temp);
        if let Some(Ok(()) | Err(Errno::NOENT)) = kept.map(|dir| remove_at(&dir, name)) {
            return Ok(());
        }
        let at = self.place_of(temp)?;
        match at.map_or(Err(Errno::NOENT), |at| remove_at(&at.parent, name)) {
            Err(Errno::NOENT) => Ok(()),
            // another program still works in it: its files are its own, and remain where they can
            // be found
            Err(Errno::NOTEMPTY | Errno::EXIST) => self
                .rename(temp, &format!("{TRASH}/{name}"), None)
                .map(|_| ()),
            removed => removed.map_err(|e| failed(e.into())),
        }
    }

    pub(super) fn rmdir(&self, path: &str) -> CallResult<bool> {
        let Some(at) = self.place_of(path)? else {
            return Ok(false);
        };
        if at
            .shown()
            .map_err(|e| fault("look at", path, &e))?
            .is_none()
        {
            return Ok(false);
        }
        self.root.names().changed();
        match rustix::fs::unlinkat(&at.parent, at.name, AtFlags::REMOVEDIR) {
            Ok(()) => self
                .sync_open(&at.parent)
                .map(|()| true)
                .map_err(|e| fault("sync the directory of", path, &e)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {
                Ok(false)
            }
            Err(e) => Err(fault("remove the directory", path, &e.into())),
        }
    }

    /// Like `at`, for calls that change nothing in the directory.
    pub(super) fn seen_at<'a>(&'a self, path: &'a str) -> CallResult<Option<OpenName<'a>>> {
        let (dir, name) = split(path);
        match self.root.through(dir) {
            Ok(parent) => Ok(Some(OpenName {
                _open: None,
                root: &self.root,
                parent,
                dir,
                name,
            })),
            Err(e) if root::absent(&e) => Ok(None),
            Err(e) => Err(fault("reach", path, &e)),
        }
    }

    /// `None`: the name cannot exist, because an ancestor is missing or not a directory.
    fn place_of<'a>(&'a self, path: &'a str) -> CallResult<Option<OpenName<'a>>> {
        let Some(at) = self.seen_at(path)? else {
            return Ok(None);
        };
        let open = self
            .open_to_owner(at.dir, &at.parent)
            .map_err(|e| fault("open the directory of", path, &e))?;
        Ok(Some(OpenName { _open: open, ..at }))
    }

    /// Whether a directory contains only temporary names of this program.
    pub(super) fn is_bare(&self, dir: &str) -> io::Result<bool> {
        match self.root.readable(dir) {
            Ok(dir) => is_bare_open(&dir),
            Err(e) if root::absent(&e) => Ok(true),
            Err(e) => Err(e),
        }
    }
}

/// Removes a temporary file, link or empty directory.
fn remove_at(dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        other => other,
    }
}

fn is_bare(parent: &OwnedFd, name: &str) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    is_bare_open(&rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn is_bare_open(dir: &OwnedFd) -> io::Result<bool> {
    let mut bare = true;
    super::list(dir, &mut |name, _| {
        bare = name.to_str().is_ok_and(relpath::is_own);
        bare
    })?;
    Ok(bare)
}
