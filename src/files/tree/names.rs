//! Which names a directory lists: a disk that folds names answers `stat` for other spellings too,
//! but those do not exist.
//!
//! exFAT, FAT, NTFS and CIFS fold `A` into `a`, some disks fold Unicode forms, ext4 folds in
//! directories with the flag `casefold`. An ordinary disk pays nothing for this: whether a disk
//! folds is tested once, with a file in `.mesync/`.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatFs};
use rustix::io::Errno;

use super::DiskTree;
use super::listings::{MAX_LISTED_NAMES, NameFolding};
use super::root::{self, Root, fault, show, split};
use crate::disk::{self, Renamed};
use crate::error::{Error, Kind};
use crate::files::conflict::TRASH;
use crate::files::engine::pages::pages_below;
use crate::files::engine::traits::{CallResult, Fault, NameCollision, RenameOutcome, State, Tree};
use crate::files::state::DiskState;
use crate::relpath;

/// Directories for which it is remembered whether they fold names.
const MAX_KNOWN_DIRECTORIES: usize = 50_000;
/// `FS_CASEFOLD_FL` of <linux/fs.h>.
const CASEFOLD: u32 = 0x4000_0000;
/// A name with letters in both cases and with two Unicode forms.
const PROBE: &str = "probe-\u{e9}";
const PROBE_ALIASES: [&str; 3] = ["PROBE-\u{e9}", "PROBE-\u{c9}", "probe-e\u{301}"];
/// Names that only some disks accept. Windows accepts no name that begins with one of these words.
const RESERVED: [&str; 4] = ["con", "prn", "aux", "nul"];

impl Root {
    /// Whether a directory ("" is the root) folds names.
    fn folds(&self, dir: &str) -> io::Result<bool> {
        match self.names().folds {
            NameFolding::Nowhere => return Ok(false),
            NameFolding::Everywhere => return Ok(true),
            NameFolding::Some => {}
        }
        if let Some(known) = self.names().known().folding.get(dir) {
            return Ok(*known);
        }
        let flags = match self.resolve(dir, root::READ) {
            Err(e) if root::is(&e, &[Errno::ACCESS]) => return Ok(false),
            other => rustix::fs::ioctl_getflags(other?),
        };
        let folds = flags.is_ok_and(|flags| flags.bits() & CASEFOLD != 0);
        let mut known = self.names().known();
        if known.folding.len() >= MAX_KNOWN_DIRECTORIES {
            known.folding.clear();
        }
        known.folding.insert(dir.to_string(), folds);
        Ok(folds)
    }

    /// Whether a name for which `stat` succeeds is listed by its directory. `fresh`: the name is
    /// about to be changed.
    pub fn lists(&self, dir: &str, name: &str, fresh: bool) -> io::Result<bool> {
        // only this program creates its own names, and no received name equals one in any case of
        // letters
        if is_ours(dir)
            || relpath::is_own(name)
            || !self.folds(dir)?
            || !fresh && self.names().listed(dir, name)
        {
            return Ok(true);
        }
        let mut names = HashSet::new();
        super::list(&self.resolve(dir, root::READ)?, &mut |name, _| {
            names.insert(name.to_bytes().into())
        })?;
        let listed = names.contains(name.as_bytes());
        self.names().keep(dir, names);
        Ok(listed)
    }

    /// Refuses a directory that is not listed under exactly this name.
    pub fn lists_all(&self, dir: &str) -> io::Result<()> {
        if self.names().folds == NameFolding::Nowhere || dir.is_empty() || is_ours(dir) {
            return Ok(());
        }
        for (at, _) in dir.match_indices('/').chain([(dir.len(), "")]) {
            let (above, name) = split(&dir[..at]);
            if !self.lists(above, name, false)? {
                return Err(Errno::NOENT.into());
            }
        }
        Ok(())
    }

    /// The filesystem's number in statfs(2).
    pub fn filesystem(&self) -> u64 {
        rustix::fs::fstatfs(self.fd()).map_or(0, |s: StatFs| s.f_type as u64 & 0xffff_ffff)
    }

    /// Tests how the disk handles names, with a file in this program's own directory.
    pub fn probe_names(&self) -> NameFolding {
        let there = |dir: BorrowedFd<'_>, name: &str| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        };
        let Ok(own) = self.through(relpath::OWN_DIR) else {
            return NameFolding::Nowhere;
        };
        // left behind, or made by another process at the same time: either gives the same result
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if rustix::fs::openat(&own, PROBE, flags, Mode::RUSR | Mode::WUSR).is_ok() {
            let folds = PROBE_ALIASES.iter().any(|alias| there(own.as_fd(), alias));
            let _ = rustix::fs::unlinkat(&own, PROBE, AtFlags::empty());
            if folds {
                return NameFolding::Everywhere;
            }
        }
        self.seen_names()
    }

    /// How the disk handles names, without leaving a trace: looks up an existing name in the other
    /// case.
    pub fn seen_names(&self) -> NameFolding {
        let mut names = HashSet::new();
        let listed = self.resolve("", root::READ).and_then(|dir| {
            super::list(&dir, &mut |name, _| {
                names.extend(name.to_str().ok().map(String::from));
                names.len() < MAX_LISTED_NAMES
            })
        });
        let alias = names
            .iter()
            .map(|name| other_case(name))
            .find(|alias| !names.contains(alias));
        if listed.is_ok()
            && names.len() < MAX_LISTED_NAMES
            && alias.is_some_and(|alias| {
                rustix::fs::statat(self.fd(), alias, AtFlags::SYMLINK_NOFOLLOW).is_ok()
            })
        {
            return NameFolding::Everywhere;
        }
        match self.filesystem() {
            0xef53 if kernel_folds("ext4") => NameFolding::Some,
            0xf2f5_2010 if kernel_folds("f2fs") => NameFolding::Some,
            0x0102_1994 if kernel_folds("tmpfs") => NameFolding::Some,
            0xca45_1a4e => NameFolding::Some,
            _ => NameFolding::Nowhere,
        }
    }
}

fn other_case(name: &str) -> String {
    let other = |c: char| {
        if c.is_ascii_lowercase() {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        }
    };
    name.chars().map(other).collect()
}

/// Whether this kernel supports directories of this filesystem that fold names.
fn kernel_folds(filesystem: &str) -> bool {
    std::path::Path::new(&format!("/sys/fs/{filesystem}/features/casefold")).exists()
}

impl DiskTree {
    /// The first component of a path that is not listed, although `stat` succeeds.
    pub(super) fn twin_of(&self, path: &str) -> CallResult<Option<NameCollision>> {
        if self.root.names().folds == NameFolding::Nowhere {
            return self.takes_name(path).map(|()| None);
        }
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let wanted = &path[..at];
            let found = self.twin_here(wanted);
            match found {
                Ok(None) => {}
                Ok(Some(twin)) => return Ok(Some(twin)),
                // a name that cannot exist has no other spelling
                Err(e)
                    if root::absent(&e)
                        || root::is(&e, &[Errno::INVAL, Errno::ILSEQ, Errno::NAMETOOLONG]) =>
                {
                    break;
                }
                Err(e) => return Err(fault("look at", wanted, &e)),
            }
        }
        self.takes_name(path).map(|()| None)
    }

    fn twin_here(&self, wanted: &str) -> io::Result<Option<NameCollision>> {
        let (dir, name) = split(wanted);
        let parent = self.root.through(dir)?;
        let Some(shown) = show(&parent, name)? else {
            return Err(Errno::NOENT.into());
        };
        if self.root.lists(dir, name, true)? {
            return Ok(None);
        }
        let (folded, mut by_name, mut by_inode) = (fold(name), None, None);
        super::list(&self.root.readable(dir)?, &mut |entry, _| {
            let Ok(entry) = entry.to_str() else {
                return true;
            };
            if fold(entry) == folded {
                by_name = Some(entry.to_string());
            } else if show(&parent, entry)
                .is_ok_and(|s| s.is_some_and(|s| s.stamp.inode == shown.stamp.inode))
            {
                by_inode = Some(entry.to_string());
            }
            by_name.is_none()
        })?;
        let there = by_name.or(by_inode).map(|name| {
            if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            }
        });
        Ok(Some(NameCollision {
            wanted: wanted.to_string(),
            there,
        }))
    }

    /// Renames the listed name `there` to another spelling that the disk folds into it.
    pub(super) fn spell(&self, there: &str, wanted: &str) -> CallResult<RenameOutcome> {
        let failed = |e: io::Error| fault("rename", there, &e);
        let _alone = self.root.names().alone();
        let (dir, old) = split(there);
        let new = split(wanted).1;
        let parent = self.root.through(dir).map_err(failed)?;
        if split(wanted).0 != dir
            || !self.root.lists(dir, old, true).map_err(failed)?
            || self.root.lists(dir, new, true).map_err(failed)?
        {
            return Ok(RenameOutcome::Changed);
        }
        self.root.names().changed();
        let renamed = disk::rename_at(&parent, old, new);
        if renamed.is_err() || !self.root.lists(dir, new, true).map_err(failed)? {
            // such a disk takes the rename for a no-op, so it is made in two steps; after a crash
            // the file is in the trash
            let Some(trash) = self.directory(TRASH)? else {
                return Ok(RenameOutcome::Taken);
            };
            let way = relpath::temporary(uuid::Uuid::new_v4().as_u64_pair().0);
            if disk::rename_noreplace_at(&parent, old, &trash, &way).map_err(failed)?
                != Renamed::Done
            {
                rustix::fs::renameat(&parent, old, &trash, way.as_str())
                    .map_err(|e| failed(e.into()))?;
            }
            let back = |name: &str| rustix::fs::renameat(&trash, way.as_str(), &parent, name);
            if let Err(e) = back(new) {
                back(old).map_err(|e| failed(e.into()))?;
                return Err(failed(e.into()));
            }
            self.sync_open(&trash).map_err(failed)?;
        }
        self.root.names().changed();
        self.sync_open(&parent).map_err(failed)?;
        Ok(if self.root.lists(dir, new, true).map_err(failed)? {
            RenameOutcome::Done
        } else {
            RenameOutcome::Taken
        })
    }

    /// Refuses a name that this disk cannot have, before its bytes are downloaded; tested in this
    /// program's own directory, where no user sees it.
    fn takes_name(&self, path: &str) -> CallResult<()> {
        if self.root.names().ordinary {
            return Ok(());
        }
        for component in path.split('/').filter(|component| is_unusual(component)) {
            let own = self
                .root
                .through(relpath::OWN_DIR)
                .map_err(|e| fault("reach", relpath::OWN_DIR, &e))?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&own, component, flags, Mode::RUSR | Mode::WUSR) {
                Ok(_) => {
                    let kept = self.root.lists_own(component);
                    let _ = rustix::fs::unlinkat(&own, component, AtFlags::empty());
                    if !kept.map_err(|e| fault("list", relpath::OWN_DIR, &e))? {
                        return Err(refused_name(
                            component,
                            "it would keep it under another one",
                        ));
                    }
                }
                Err(Errno::EXIST) => {}
                Err(
                    e @ (Errno::NOENT
                    | Errno::INVAL
                    | Errno::ILSEQ
                    | Errno::NAMETOOLONG
                    | Errno::ACCESS
                    | Errno::PERM
                    | Errno::IO),
                ) => {
                    return Err(refused_name(component, &crate::error::plain(&e.into())));
                }
                Err(e) => return Err(fault("try the name of", path, &e.into())),
            }
        }
        Ok(())
    }

    pub(super) fn refuse(&self, path: &str) -> Fault {
        refused_name(split(path).1, "it does not keep it as it is")
    }

    /// Runs once for a disk. A path with a base for which `stat` succeeds, but which is not listed,
    /// is a second spelling of another entry. Its absence is not a delete: a version that believed
    /// `stat` took it for a file, or the directory was on another disk.
    pub fn forget_twins(&self, state: &DiskState) -> CallResult<()> {
        const NOTE: &str = "names";
        let folds = format!("{:?}", self.folds());
        let before = state.note(NOTE)?;
        if before.as_deref() == Some(&folds)
            || before.is_none() && self.folds() == NameFolding::Nowhere
        {
            return Ok(());
        }
        pages_below(state, "", |page| {
            if self.folds() == NameFolding::Nowhere {
                return Ok(false);
            }
            let mut writes = Vec::new();
            for (path, rows) in page.iter().filter(|(_, rows)| rows.base.entry.is_some()) {
                // a refused name does not exist either
                if !matches!(self.stamp(path), Ok(None))
                    || !matches!(self.twin_of(path), Ok(Some(_)))
                {
                    continue;
                }
                writes.extend(rows.without_base(path));
            }
            state.commit(&writes)?;
            Ok(true)
        })?;
        state.set_note(NOTE, &folds)
    }

    /// Forgets the listings, and which directories fold names.
    pub fn forget_names(&self) {
        self.root.names().forget();
    }

    /// Which directories fold names, for a caller that keeps the result.
    pub fn folds(&self) -> NameFolding {
        self.root.names().folds
    }
}

impl Root {
    fn lists_own(&self, name: &str) -> io::Result<bool> {
        let mut found = false;
        super::list(
            &self.resolve(relpath::OWN_DIR, root::READ)?,
            &mut |entry, _| {
                found = entry.to_bytes() == name.as_bytes();
                !found
            },
        )?;
        Ok(found)
    }
}

/// Whether a directory is this program's own, where no name was chosen elsewhere.
fn is_ours(dir: &str) -> bool {
    dir.split('/').next().is_some_and(relpath::is_own)
}

/// Whether some disks may refuse or change a name; every other name is accepted everywhere.
fn is_unusual(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    let reserved = RESERVED.contains(&stem.as_str())
        || stem.len() == 4 && (stem.starts_with("com") || stem.starts_with("lpt"));
    reserved
        || name.len() > 64
        || name.ends_with(['.', ' '])
        || name
            .chars()
            .any(|c| !c.is_ascii() || c.is_ascii_control() || ":?*|<>\"\\".contains(c))
}

fn refused_name(name: &str, why: &str) -> Fault {
    let shown = crate::disk::show(name.as_ref());
    Fault::Refused(
        Error::new(
            Kind::Failed,
            format!("this disk cannot have the name \"{shown}\": {why}"),
        )
        .hint("rename it elsewhere"),
    )
}

/// Folds a name roughly as disks do; entries that a disk folds beyond that are found by their
/// inode.
fn fold(name: &str) -> String {
    name.trim_end_matches(['.', ' ']).to_lowercase()
}

impl Root {
    /// What `stat` shows for a path, which may itself be a link. `None`: it does not exist, or under another spelling only.
    pub(super) fn show(&self, path: &str) -> io::Result<Option<root::NamedEntry>> {
        let (dir, name) = split(path);
        if dir.is_empty() {
            return show_of(self, dir, self.fd(), name, false);
        }
        show_of(self, dir, self.through(dir)?, name, false)
    }
}

pub(super) fn show_of(
    root: &Root,
    dir: &str,
    parent: impl AsFd,
    name: &str,
    fresh: bool,
) -> io::Result<Option<root::NamedEntry>> {
    let shown = show(parent, name)?;
    Ok(if shown.is_some() && !root.lists(dir, name, fresh)? {
        None
    } else {
        shown
    })
}
