//! `.mesync/` in the root: the marker that identifies the directory, the lock, and the place of the
//! trash.
//!
//! A directory without its marker is held: an unmounted disk looks empty, and must not look
//! deleted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::PoisonError;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::partial;
use super::root::{self, InodeType, Root};
use crate::clock;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::files::conflict::TRASH;
use crate::files::plan::Stamp;
use crate::relpath::OWN_DIR;

const ID: &str = "id";
const ID_PATH: &str = ".mesync/id";
/// More than a tick of any disk, see [`Root::tick`].
const MIN_MARKER_AGE_MS: u64 = 2500;
const LOCK: &str = "lock";
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
const FLAGS: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// The beginning of an error about a held directory.
const HELD: &str = "will not touch";

/// The error for a held directory: the reason, and the remedy.
pub fn held(dir: &Path, why: &str) -> Error {
    let dir = dir.display();
    let error = Error::new(Kind::Failed, format!("{HELD} {dir}: {why}"));
    error.hint(format!(
        "mount or restore it; or \"mesync adopt {dir}\" to begin with it as it is"
    ))
}

pub fn is_held(e: &Error) -> bool {
    e.what.starts_with(HELD)
}

/// Checks the root's marker, or returns why the directory is held.
pub fn check(root: &Root, id: Uuid) -> std::result::Result<(), String> {
    if !root.is_in_place() {
        return Err("it was replaced, removed or unmounted".into());
    }
    if let Some(why) = root.repointed() {
        return Err(why);
    }
    if is_unchanged(root, id) {
        return Ok(());
    }
    let before = stamp_of(root);
    match read(root) {
        Ok(Some(found)) if found == id => {
            remember(root, id, before);
            Ok(())
        }
        Ok(Some(_)) => Err("it has the marker of another directory".into()),
        Ok(None) => Err(format!("its marker {OWN_DIR}/{ID} is gone")),
        Err(e) => Err(format!(
            "its marker {OWN_DIR}/{ID} cannot be read: {}",
            crate::error::plain(&e)
        )),
    }
}

/// Whether the file with the marker is the one that was read last. It is asked for each name that is missing, and its
/// content cannot change without its stamp.
fn is_unchanged(root: &Root, id: Uuid) -> bool {
    let known = *root.marked.lock().unwrap_or_else(PoisonError::into_inner);
    known.is_some_and(|(of, stamp)| of == id && stamp_of(root) == Some(stamp))
}

/// Remembers the stamp of a marker from before it was read. A young one says nothing: within a tick of the disk's clock,
/// another write would leave it as it is.
fn remember(root: &Root, id: Uuid, before: Option<Stamp>) {
    let now = clock::millis(clock::now());
    let is_old = |stamp: &Stamp| {
        let changed = u64::try_from(stamp.ctime / 1_000_000).unwrap_or(u64::MAX);
        changed.saturating_add(MIN_MARKER_AGE_MS) < now
    };
    let stamp = before.filter(|stamp| is_old(stamp) && stamp_of(root) == Some(*stamp));
    *root.marked.lock().unwrap_or_else(PoisonError::into_inner) = stamp.map(|stamp| (id, stamp));
}

fn stamp_of(root: &Root) -> Option<Stamp> {
    let shown = root::show(root.fd(), ID_PATH).ok()??;
    (shown.what == InodeType::File && !shown.is_mounted).then_some(shown.stamp)
}

/// `None`: there is no marker.
pub fn read(root: &Root) -> io::Result<Option<Uuid>> {
    let open = || -> io::Result<File> {
        Ok(rustix::fs::openat(
            root.through(OWN_DIR)?,
            ID,
            OFlags::RDONLY | FLAGS,
            Mode::empty(),
        )?
        .into())
    };
    let file = match open() {
        Err(e) if root::absent(&e) => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    file.take(100).read_to_string(&mut text)?;
    Uuid::parse_str(text.trim())
        .map(Some)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no UUID"))
}

/// Creates the marker durably, with its directory if necessary.
pub fn create(root: &Root, id: Uuid) -> Result<()> {
    let write = || -> io::Result<()> {
        let own = own_dir(root)?;
        let temporary = crate::relpath::temporary(id.as_u64_pair().0);
        let mut file: File = rustix::fs::openat(
            &own,
            temporary.as_str(),
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | FLAGS,
            PRIVATE,
        )?
        .into();
        writeln!(file, "{id}")?;
        file.sync_all()?;
        disk::rename_at(&own, &temporary, ID)?;
        Ok(rustix::fs::fsync(root.readable(OWN_DIR)?)?)
    };
    write().map_err(|e| {
        Error::io(
            format!("make the marker {}/{OWN_DIR}/{ID}", root.path().display()),
            &e,
        )
    })
}

/// Removes the marker of a directory that is no longer synced, and `.mesync/` unless files are left in its trash; whether it
/// is gone. A missing marker is no error.
pub fn remove(dir: &Path) -> Result<bool> {
    let own = dir.join(OWN_DIR);
    for name in [ID, LOCK] {
        match std::fs::remove_file(own.join(name)) {
            Err(e) if !root::absent(&e) => {
                return Err(Error::io(
                    format!("remove {}", own.join(name).display()),
                    &e,
                ));
            }
            _ => {}
        }
    }
    for path in [dir.join(TRASH), dir.join(partial::DIR), own.clone()] {
        // one with files in it stays
        let _ = std::fs::remove_dir(path);
    }
    Ok(!own.exists())
}

/// Locks the directory, so that only one process keeps it in sync, whichever user runs it.
pub fn lock(root: &Root) -> Result<File> {
    let path = root.path().join(OWN_DIR).join(LOCK);
    let open = || -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | FLAGS;
        Ok(rustix::fs::openat(own_dir(root)?, LOCK, flags, PRIVATE)?.into())
    };
    let failed = |e: io::Error| Error::io(format!("lock {}", path.display()), &e);
    match disk::lock_open(open().map_err(failed)?, &std::process::id().to_string())
        .map_err(failed)?
    {
        Some(lock) => Ok(lock),
        None => Err(busy(
            root.path(),
            &disk::lock_holder(&path).unwrap_or_default(),
        )),
    }
}

/// Whether the filesystem keeps modes as they are set; tested on the lock file.
pub fn keeps_modes(lock: &File) -> bool {
    let set = |mode: Mode| {
        rustix::fs::fchmod(lock, mode).is_ok()
            && rustix::fs::fstat(lock).is_ok_and(|s| s.st_mode & 0o777 == mode.bits())
    };
    let other = PRIVATE | Mode::XUSR | Mode::RGRP;
    let keeps = set(other);
    set(PRIVATE) && keeps
}

/// The id of the process that keeps a directory in sync now.
pub fn holder(dir: &Path) -> Option<String> {
    disk::lock_holder(&dir.join(OWN_DIR).join(LOCK)).map(|holder| holder.trim().to_string())
}

pub fn busy(dir: &Path, holder: &str) -> Error {
    Error::new(
        Kind::Busy,
        format!(
            "cannot keep {} in sync: process {} does so already",
            dir.display(),
            holder.trim()
        ),
    )
}

fn own_dir(root: &Root) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(root.fd(), OWN_DIR, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(root.fd())?,
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    root.through(OWN_DIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_marker_is_read_again_when_its_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        create(&root, id).unwrap();
        // as if it were old
        let remembered = || *root.marked.lock().unwrap() = Some((id, stamp_of(&root).unwrap()));
        assert_eq!(check(&root, id), Ok(()));
        remembered();
        assert_eq!(check(&root, id), Ok(()));
        assert!(check(&root, other).is_err());
        remembered();
        std::fs::write(dir.path().join(ID_PATH), format!("{other}\n\n")).unwrap();
        assert!(check(&root, id).is_err());
        create(&root, id).unwrap();
        remembered();
        std::fs::remove_file(dir.path().join(ID_PATH)).unwrap();
        assert!(check(&root, id).is_err());
    }
}
