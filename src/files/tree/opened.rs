//! Makes directories that their owner may not write to writable for a change, and restores their
//! modes afterwards.
//!
//! An opened directory is recorded in `.mesync/opened` before its mode changes, so the next start
//! closes what a crash left open. Meanwhile all calls of this tree report its original mode. If
//! another program changes the mode meanwhile, that mode remains.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use super::DiskTree;
use super::root::{InodeType, NamedEntry, READ, Root, show_open};
use crate::disk;
use crate::relpath::OWN_DIR;

const NOTE_FILE: &str = "opened";
const OWNER_WRITES: u32 = 0o200;
/// Directories that stay open without being used; each keeps a descriptor.
const MAX_IDLE: usize = 32;

#[derive(Debug, Default)]
pub struct Opened(Mutex<HashMap<u64, OpenDirectory>>);

#[derive(Debug)]
struct OpenDirectory {
    path: String,
    dir: OwnedFd,
    /// All bits except the type, as they were and will be again.
    mode: u32,
    users: usize,
}

/// One line of the record.
#[derive(Serialize, Deserialize)]
struct OpenedLine {
    path: String,
    inode: u64,
    mode: u32,
}

/// Keeps the directory open while this value lives.
#[derive(Debug)]
pub struct KeepOpen {
    of: Arc<Opened>,
    inode: u64,
}

impl Drop for KeepOpen {
    fn drop(&mut self) {
        if let Some(held) = self.of.lock().get_mut(&self.inode) {
            held.users -= 1;
        }
    }
}

impl Opened {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, OpenDirectory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `stat` would show for a directory if it were not open.
    pub fn as_closed(&self, shown: NamedEntry) -> NamedEntry {
        if shown.what != InodeType::Dir {
            return shown;
        }
        match self
            .lock()
            .get(&shown.stamp.inode)
            .filter(|held| shown.permissions == held.mode | OWNER_WRITES)
        {
            Some(held) => shown.with_permissions(held.mode),
            None => shown,
        }
    }
}

impl DiskTree {
    /// Makes a directory writable for its owner until the returned value is dropped, and a while
    /// longer. `None`: it is writable already, or this process is not the owner.
    #[allow(clippy::unnecessary_cast)] // the fields have other widths on other machines
    pub(super) fn open_to_owner(&self, path: &str, dir: &OwnedFd) -> io::Result<Option<KeepOpen>> {
        let me = rustix::process::geteuid();
        if me.is_root() {
            return Ok(None);
        }
        // checked with the lock held, so that no directory is opened or closed meanwhile
        let mut all = self.opened.lock();
        let stat = rustix::fs::fstat(dir)?;
        let (inode, mode) = (stat.st_ino as u64, stat.st_mode as u32 & 0o7777);
        let open = || {
            Some(KeepOpen {
                of: self.opened.clone(),
                inode,
            })
        };
        if let Some(held) = all.get_mut(&inode) {
            held.users += 1;
            return Ok(open());
        }
        if mode & OWNER_WRITES != 0 || stat.st_uid != me.as_raw() {
            return Ok(None);
        }
        if all.len() >= MAX_IDLE {
            close(&self.root, &mut all)?;
        }
        let dir = rustix::fs::openat(dir, ".", READ, Mode::empty())?;
        all.insert(
            inode,
            OpenDirectory {
                path: path.to_string(),
                dir,
                mode,
                users: 1,
            },
        );
        let opened =
            note(&self.root, &all).and_then(|()| set_mode(&all[&inode].dir, mode | OWNER_WRITES));
        if let Err(e) = opened {
            all.remove(&inode);
            return Err(e);
        }
        Ok(open())
    }

    /// Closes the directories that are not in use.
    pub fn close_directories(&self) {
        if let Err(e) = close(&self.root, &mut self.opened.lock()) {
            log::warn!(
                "cannot note which directories are open: {e} dir={}",
                self.root.path().display()
            );
        }
    }

    /// Closes a directory that gets another mode.
    pub(super) fn close_directory(&self, inode: u64) -> io::Result<()> {
        let mut all = self.opened.lock();
        let Some(held) = all.get(&inode) else {
            return Ok(());
        };
        put_back(&held.dir, held.mode)?;
        all.remove(&inode);
        note(&self.root, &all)
    }

    /// Closes the directories that an earlier process left open.
    pub(super) fn close_left_open(&self) -> io::Result<()> {
        let lines: Vec<OpenedLine> = match std::fs::read(note_path(&self.root)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for OpenedLine { path, inode, mode } in lines {
            let Ok(dir) = self.root.readable(&path) else {
                continue;
            };
            if show_open(&dir)?.stamp.inode == inode {
                put_back(&dir, mode)?;
            }
        }
        std::fs::remove_file(note_path(&self.root))
    }
}

fn close(root: &Root, all: &mut HashMap<u64, OpenDirectory>) -> io::Result<()> {
    let before = all.len();
    all.retain(|_, held| {
        let closed = held.users == 0
            && put_back(&held.dir, held.mode)
                .inspect_err(|e| log::warn!("cannot close {:?}: {e}", held.path))
                .is_ok();
        !closed
    });
    if all.len() == before {
        Ok(())
    } else {
        note(root, all)
    }
}

/// Restores the mode durably, unless it was changed since.
fn put_back(dir: &OwnedFd, mode: u32) -> io::Result<()> {
    if show_open(dir)?.permissions == mode | OWNER_WRITES {
        set_mode(dir, mode)?;
        rustix::fs::fsync(dir)?;
    }
    Ok(())
}

fn set_mode(dir: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(
        format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()),
        Mode::from_raw_mode(mode),
    )?)
}

fn note(root: &Root, all: &HashMap<u64, OpenDirectory>) -> io::Result<()> {
    let path = note_path(root);
    if all.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
    }
    let lines: Vec<OpenedLine> = all
        .iter()
        .map(|(inode, held)| OpenedLine {
            path: held.path.clone(),
            inode: *inode,
            mode: held.mode,
        })
        .collect();
    disk::write_durably(&path, &serde_json::to_vec(&lines)?, 0o600).map_err(io::Error::other)
}

fn note_path(root: &Root) -> PathBuf {
    root.path().join(OWN_DIR).join(NOTE_FILE)
}
