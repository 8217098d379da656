//! The synced directory on a disk: what the engine asks of a tree, with the file system's calls.
//!
//! It decides nothing. Every name is reached through [`root::Root`], which leads nowhere else; renames and syncs are those of
//! [`crate::disk`]. What one method has changed is durable when it returns, but for [`Tree::discard`]: what comes back after a
//! power cut is removed as left over.

pub mod look;
pub mod marker;
pub mod root;
pub mod stage;

mod moves;

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FileType, RawDir};
use uuid::Uuid;

use super::engine::env::{Called, Fault, Look, Moved, Staged, Tree};
use super::plan::{Entry, Stamp};
use super::scan::{self, Found};
use crate::error::{Error, Kind, Result};
use root::{Root, What, fault};

/// See the module.
#[derive(Debug)]
pub struct DiskTree {
    root: Root,
    id: Uuid,
    memory: look::Memory,
    /// Milliseconds, see [`Root::tick`].
    tick: u64,
    /// Cleared when the filesystem turns out not to know RENAME_EXCHANGE, or RENAME_NOREPLACE.
    exchange: AtomicBool,
    noreplace: AtomicBool,
    _lock: File,
}

/// How opening ended.
#[derive(Debug)]
pub enum Opened {
    Ready(DiskTree),
    /// It is not what it was: nothing may be done there until somebody says so. Why.
    Held(String),
}

impl DiskTree {
    /// Opens a directory to be kept in step. `known`: the marker that it had before; `None`: there is no state of it, so it
    /// keeps the marker that it has, or gets `fresh`. Errors: `Settings` for a directory that is not there, `Busy` for one that
    /// another process keeps in step.
    pub fn open(path: &Path, known: Option<Uuid>, fresh: Uuid) -> Result<Opened> {
        let root = Root::open(path)?;
        let failed = |e: io::Error| Error::io(format!("read the marker of {}", path.display()), &e);
        let id = match known {
            Some(id) => match marker::check(&root, id) {
                Ok(()) => id,
                Err(why) => return Ok(Opened::Held(why)),
            },
            None => marker::read(&root).map_err(failed)?.unwrap_or(fresh),
        };
        let lock = marker::lock(&root)?;
        if known.is_none() && marker::read(&root).map_err(failed)?.is_none() {
            marker::create(&root, id)?;
        }
        let tick = root.tick();
        let (exchange, noreplace) = (AtomicBool::new(true), AtomicBool::new(true));
        Ok(Opened::Ready(DiskTree { root, id, memory: look::Memory::default(), tick, exchange, noreplace, _lock: lock }))
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What tells this directory from others.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether this is still the directory that it was: asked before and after everything that concludes something from what
    /// is *not* there.
    pub fn check(&self) -> Called<()> {
        marker::check(&self.root, self.id).map_err(|why| {
            let path = self.root.path().display();
            let error = Error::new(Kind::Failed, format!("will not touch {path}: {why}"));
            Fault::Fatal(error.hint(format!("mount or restore it; or \"mesync adopt {path}\" to begin with it as it is")))
        })
    }

    /// What is below this directory does not travel.
    pub fn skips(&self, dir: &str) -> bool {
        self.ignored(dir)
    }

    /// Every name in a directory with its type, as the directory has them, until `visit` says `false`.
    pub(super) fn entries(&self, dir: &str, visit: &mut dyn FnMut(&CStr, FileType) -> io::Result<bool>) -> io::Result<()> {
        let mut stopped = None;
        list(&self.root.readable(dir)?, &mut |name, kind| match visit(name, kind) {
            Ok(go_on) => go_on,
            Err(e) => {
                stopped = Some(e);
                false
            }
        })?;
        stopped.map_or(Ok(()), Err)
    }
}

/// Every name in an open directory but "." and "..".
fn list(dir: &OwnedFd, visit: &mut dyn FnMut(&CStr, FileType) -> bool) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(dir.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) && !visit(entry.file_name(), entry.file_type()) {
            break;
        }
    }
    Ok(())
}

impl Tree for DiskTree {
    fn look(&self, path: &str, known: Option<(&Stamp, &Entry)>) -> Called<Look> {
        self.look_at(path, known)
    }

    fn stamp(&self, path: &str) -> Called<Option<Stamp>> {
        Ok(match self.shown(path)? {
            Ok(shown) if shown.what != What::Special => Some(shown.stamp),
            Ok(_) => Some(Stamp { inode: 0, size: 0, mtime: 0, ctime: 0, mode: 0 }),
            Err(Look::Absent) => None,
            Err(_) => return Err(Fault::Later(Error::new(Kind::Busy, format!("cannot look at {path}")))),
        })
    }

    fn is_empty(&self, dir: &str) -> Called<bool> {
        self.is_bare(dir).map_err(|e| fault("list", dir, &e))
    }

    fn below(&self, dir: &str, visit: &mut dyn FnMut(&str) -> Called<bool>) -> Called<()> {
        scan::scan(self, dir, &mut |found| match found {
            Found::Name { path, .. } => visit(path),
            _ => Ok(true),
        })
        .map(|_| ())
    }

    fn place(&self, path: &str, staged: &Staged, over: Option<&Stamp>) -> Called<Moved> {
        self.put(path, staged, over)
    }

    fn shift(&self, from: &str, to: &str, expected: Option<&Stamp>) -> Called<Moved> {
        self.rename(from, to, expected)
    }

    fn set_mode(&self, path: &str, expected: &Stamp, mode: u32) -> Called<Option<Stamp>> {
        self.change_mode(path, expected, mode)
    }

    fn discard(&self, temp: &str) -> Called<()> {
        self.throw_away(temp)
    }

    fn remove_dir(&self, path: &str) -> Called<bool> {
        self.rmdir(path)
    }

    fn ignored(&self, path: &str) -> bool {
        let _ = path;
        false
    }
}

#[cfg(test)]
mod tests;
