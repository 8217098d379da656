//! Reaches every name of a synced directory from one open descriptor, and never leaves the
//! directory: no link is followed and no other filesystem entered.
//!
//! It only reads; the modules beside it make changes. Names were checked before
//! ([`crate::relpath`]), but nothing depends on that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags,
    StatxTimestamp,
};
use rustix::io::Errno;
use uuid::Uuid;

use super::listings::{NameFolding, Names, is_ordinary};
use crate::error::{Error, Kind, Result, plain};
use crate::files::engine::traits::Fault;
use crate::files::plan::{MODE, Stamp};

/// Flags for directories on the way, which need search permission but not read permission.
const THROUGH: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
pub(super) const READ: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// Btrfs (statfs(2)): of the ordinary filesystems, the only one on which a directory may be on another device without a mount.
const BTRFS: u64 = 0x9123_683e;
/// Why entries below a mount point are left alone.
pub const MOUNTED: &str = "another filesystem or directory is mounted there";
/// Attempts to resolve a path whose directories are being renamed (openat2(2), EAGAIN).
const MAX_OPEN_ATTEMPTS: usize = 16;

/// An open root.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
    device: u64,
    /// A directory may be on another device without a mount.
    has_subvolumes: bool,
    /// Cleared by the first refusal: a kernel before 5.6, or a filter of system calls.
    openat2: AtomicBool,
    names: OnceLock<Names>,
    /// The name that the user gave, which may contain links.
    named: OnceLock<PathBuf>,
    /// The stamp of the file with the marker when its id was read last.
    pub(super) marked: Mutex<Option<(Uuid, Stamp)>>,
}

/// The entry of a name, as `stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedEntry {
    pub what: InodeType,
    pub stamp: Stamp,
    pub device: u64,
    /// All mode bits except the type.
    pub permissions: u32,
    /// Something is mounted over the name, as far as the system reports it.
    pub is_mounted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InodeType {
    File,
    Dir,
    Link,
    /// Sockets, pipes, devices: they have no content to sync.
    Special,
}

impl NamedEntry {
    pub fn with_permissions(self, permissions: u32) -> NamedEntry {
        NamedEntry {
            permissions,
            stamp: Stamp {
                mode: permissions & MODE,
                ..self.stamp
            },
            ..self
        }
    }
}

impl Root {
    pub fn open(path: &Path) -> Result<Root> {
        let failed = |e: io::Error| {
            let what = format!(
                "cannot open the directory {}: {}",
                path.display(),
                plain(&e)
            );
            Error::new(Kind::Settings, what).hint("a synced directory must exist")
        };
        // the way to the root may contain links, which are the user's own
        let dir = rustix::fs::open(path, READ.difference(OFlags::NOFOLLOW), Mode::empty())
            .map_err(|e| failed(e.into()))?;
        let device = show_open(&dir).map_err(failed)?.device;
        let mut root = Root {
            path: path.to_path_buf(),
            dir,
            device,
            has_subvolumes: true,
            openat2: AtomicBool::new(true),
            names: OnceLock::new(),
            named: OnceLock::new(),
            marked: Mutex::default(),
        };
        let filesystem = root.filesystem();
        root.has_subvolumes = filesystem == BTRFS || !is_ordinary(filesystem);
        Ok(root)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub fn device(&self) -> u64 {
        self.device
    }

    /// What is known about names. Before [`Root::try_names`], as on an ordinary disk.
    pub fn names(&self) -> &Names {
        static ORDINARY: Names = Names::new(NameFolding::Nowhere, true);
        self.names.get().unwrap_or(&ORDINARY)
    }

    /// Tests which names the disk folds. This program's own directory must exist.
    pub fn try_names(&self) {
        let ordinary = is_ordinary(self.filesystem());
        let _ = self.names.set(Names::new(self.probe_names(), ordinary));
    }

    /// The same without leaving a trace.
    pub fn observe_names(&self) {
        let _ = self.names.set(Names::new(self.seen_names(), true));
    }

    /// Opens a directory below the root ("" is the root itself) for `*at` calls. Errors: those for
    /// which [`absent`] is true mean that nothing can be below it; EXDEV: another filesystem is
    /// mounted there.
    pub fn through(&self, dir: &str) -> io::Result<OwnedFd> {
        let found = self.resolve(dir, THROUGH)?;
        self.lists_all(dir).map(|()| found)
    }

    /// Opens a directory to list or sync it.
    pub fn readable(&self, dir: &str) -> io::Result<OwnedFd> {
        let found = self.resolve(dir, READ)?;
        self.lists_all(dir).map(|()| found)
    }

    /// Whether something is mounted at a directory, or above it.
    pub fn is_mounted(&self, dir: &str) -> bool {
        self.resolve(dir, THROUGH)
            .is_err_and(|e| is(&e, &[Errno::XDEV]))
    }

    /// Resolves a directory by any spelling: see [`super::names`].
    pub(super) fn resolve(&self, dir: &str, flags: OFlags) -> io::Result<OwnedFd> {
        if dir.is_empty() && flags == THROUGH {
            return self.dir.try_clone();
        }
        let place = if dir.is_empty() { "." } else { dir };
        let found = if self.openat2.load(Relaxed) {
            self.beneath(place, flags)?
        } else {
            None
        };
        let Some(found) = found else {
            return self.walk(place, flags);
        };
        if !self.has_subvolumes || show_open(&found)?.device == self.device {
            Ok(found)
        } else {
            Err(Errno::XDEV.into())
        }
    }

    /// `None`: the system has no openat2, or the path keeps changing.
    fn beneath(&self, place: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        for _ in 0..MAX_OPEN_ATTEMPTS {
            match rustix::fs::openat2(&self.dir, place, flags, Mode::empty(), BENEATH) {
                Ok(found) => return Ok(Some(found)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.openat2.store(false, Relaxed);
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }

    /// Resolves component by component: O_NOFOLLOW refuses a link, and no component is "..".
    fn walk(&self, place: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let mut at = rustix::fs::openat(
            &self.dir,
            ".",
            if place == "." { flags } else { THROUGH },
            Mode::empty(),
        )?;
        let mut rest = place.split('/').filter(|c| *c != ".").peekable();
        while let Some(component) = rest.next() {
            if component == ".." || component.is_empty() {
                return Err(Errno::XDEV.into());
            }
            let flags = if rest.peek().is_none() {
                flags
            } else {
                THROUGH
            };
            at = rustix::fs::openat(&at, component, flags, Mode::empty())?;
            let is_mounted =
                statx(&at, "", AtFlags::EMPTY_PATH).is_ok_and(|shown| shown.is_mounted);
            if is_mounted || rustix::fs::fstat(&at)?.st_dev as u64 != self.device {
                return Err(Errno::XDEV.into());
            }
        }
        Ok(at)
    }

    /// Whether the path of the root still leads to this directory: not after the directory was
    /// replaced, removed, or unmounted.
    pub fn is_in_place(&self) -> bool {
        self.is_at(&self.path)
    }

    fn is_at(&self, path: &Path) -> bool {
        let here = rustix::fs::fstat(&self.dir);
        let there = rustix::fs::stat(path);
        here.is_ok_and(|h| {
            h.st_nlink > 0 && there.is_ok_and(|t| (t.st_dev, t.st_ino) == (h.st_dev, h.st_ino))
        })
    }

    /// Also checks this name from now on, if it is another one.
    pub fn is_named(&self, name: &Path) {
        if name != self.path {
            let _ = self.named.set(name.to_path_buf());
        }
    }

    pub fn has_another_name(&self) -> bool {
        self.named.get().is_some()
    }

    /// Why nothing may be done here although the directory exists: its given name leads elsewhere
    /// now.
    pub fn repointed(&self) -> Option<String> {
        let name = self.named.get().filter(|name| !self.is_at(name))?.display();
        Some(format!(
            "{name} does not lead to it any more; let it lead back, or restart the client to sync what it leads to"
        ))
    }

    /// Milliseconds within which two changes may leave the same times.
    pub fn tick(&self) -> u64 {
        // FAT and exFAT count in 2 s, HFS+ and ext3 in 1 s; others use the kernel's clock, which
        // ticks every 1 to 10 ms
        match self.filesystem() {
            0x4d44 | 0x2011_bab0 => 2000,
            0x482b | 0xef53 if self.whole_seconds() => 1000,
            _ => 20,
        }
    }

    /// Whether writes through a mapping never change a time here: these filesystems have no
    /// write-back that would show them.
    pub fn is_blind(&self) -> bool {
        const TMPFS: u64 = 0x0102_1994;
        const RAMFS: u64 = 0x8584_58f6;
        const HUGETLBFS: u64 = 0x9584_58f6;
        rustix::fs::fstatfs(&self.dir).is_ok_and(|s: rustix::fs::StatFs| {
            [TMPFS, RAMFS, HUGETLBFS].contains(&(s.f_type as u64 & 0xffff_ffff))
        })
    }

    fn whole_seconds(&self) -> bool {
        rustix::fs::fstat(&self.dir).is_ok_and(|s| s.st_ctime_nsec == 0 && s.st_mtime_nsec == 0)
    }

    #[cfg(test)]
    pub fn without_openat2(&self) {
        self.openat2.store(false, Relaxed);
    }
}

/// Splits a path into directory ("" for the root) and last component.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// What `stat` shows for a name, which may itself be a link. `None`: it does not exist.
pub fn show(dir: impl AsFd, name: &str) -> io::Result<Option<NamedEntry>> {
    let found = if STATX.load(Relaxed) {
        statx(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
    } else {
        Err(Errno::NOSYS)
    };
    let found = match found {
        Err(Errno::NOSYS | Errno::PERM) => {
            STATX.store(false, Relaxed);
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| shown(&stat))
        }
        other => other,
    };
    match found {
        Ok(shown) => Ok(Some(shown)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Cleared by the first refusal: a kernel before 4.11, or a filter of system calls.
static STATX: AtomicBool = AtomicBool::new(true);

/// Like `stat`, with whether something is mounted there: a bind mount of the same filesystem has
/// the same device.
fn statx(dir: impl AsFd, name: &str, flags: AtFlags) -> rustix::io::Result<NamedEntry> {
    let found = rustix::fs::statx(
        dir,
        name,
        flags | AtFlags::NO_AUTOMOUNT,
        StatxFlags::BASIC_STATS,
    )?;
    let nanos = |at: StatxTimestamp| {
        at.tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(at.tv_nsec))
    };
    let mode = u32::from(found.stx_mode);
    let stamp = Stamp {
        inode: found.stx_ino,
        size: found.stx_size,
        mtime: nanos(found.stx_mtime),
        ctime: nanos(found.stx_ctime),
        mode: mode & MODE,
    };
    Ok(NamedEntry {
        what: what(FileType::from_raw_mode(mode)),
        stamp,
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        permissions: mode & 0o7777,
        is_mounted: found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// The same for an open file.
pub fn show_open(file: impl AsFd) -> io::Result<NamedEntry> {
    Ok(shown(&rustix::fs::fstat(file)?))
}

// the fields have other widths on other machines
#[allow(clippy::unnecessary_cast)]
fn shown(stat: &Stat) -> NamedEntry {
    let nanos = |seconds: i64, part: u64| {
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(part as i64)
    };
    let what = what(FileType::from_raw_mode(stat.st_mode));
    let mode = stat.st_mode as u32;
    let stamp = Stamp {
        inode: stat.st_ino as u64,
        size: stat.st_size as u64,
        mtime: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        ctime: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        mode: mode & MODE,
    };
    NamedEntry {
        what,
        stamp,
        device: stat.st_dev as u64,
        permissions: mode & 0o7777,
        is_mounted: false,
    }
}

fn what(kind: FileType) -> InodeType {
    match kind {
        FileType::RegularFile => InodeType::File,
        FileType::Directory => InodeType::Dir,
        FileType::Symlink => InodeType::Link,
        _ => InodeType::Special,
    }
}

/// Whether both stamps are of the same unchanged entry; an unknown value equals nothing.
pub fn same(one: &Stamp, other: &Stamp) -> bool {
    one == other && one.ctime != 0
}

/// Whether the name does not and cannot exist: an ancestor is missing, a file, or a link.
pub fn absent(e: &io::Error) -> bool {
    is(e, &[Errno::NOENT, Errno::NOTDIR, Errno::LOOP])
}

/// Whether an ancestor exists and is not a directory.
pub fn blocked(e: &io::Error) -> bool {
    is(e, &[Errno::NOTDIR, Errno::LOOP])
}

pub fn is(e: &io::Error, any: &[Errno]) -> bool {
    any.iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

/// Classifies the failure of a call on `path` by what happens next.
pub fn fault(doing: &str, path: &str, e: &io::Error) -> Fault {
    let error = Error::io(format!("{doing} {}", crate::disk::show(path.as_ref())), e);
    if is(e, &[Errno::NOSPC, Errno::DQUOT]) {
        Fault::NoSpace(error)
    } else if is(
        e,
        &[
            Errno::ACCESS,
            Errno::PERM,
            Errno::ROFS,
            Errno::NAMETOOLONG,
            Errno::INVAL,
            Errno::ILSEQ,
            Errno::FBIG,
            Errno::XDEV,
        ],
    ) {
        // INVAL and ILSEQ: names that this filesystem cannot have
        Fault::Refused(error)
    } else {
        Fault::Later(error)
    }
}
