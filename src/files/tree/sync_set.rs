//! Makes the changes of a group durable together: one by one while they are few, with the whole filesystem if they are
//! many.
//!
//! A failed sync is a failure of the whole group: it does not say which change it was about.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::DiskTree;
use super::root::{Root, fault, show_open};
use crate::config::limits::SYNCFS_FROM;
use crate::disk;
use crate::files::engine::traits::CallResult;

/// Files and directories below a root that have changed; they are on one filesystem.
#[derive(Debug, Default)]
pub struct SyncSet {
    /// By inode.
    open: BTreeMap<u64, OwnedFd>,
    /// The whole filesystem is synced.
    whole: bool,
}

impl SyncSet {
    /// Adds a file or directory that is open for reading or writing. A kernel whose syncfs(2) hides errors gets the syncs
    /// of a large group early.
    pub fn add(&mut self, file: OwnedFd) -> io::Result<()> {
        if self.whole {
            return Ok(());
        }
        self.open.insert(show_open(&file)?.stamp.inode, file);
        if self.open.len() < SYNCFS_FROM {
            return Ok(());
        }
        let open = std::mem::take(&mut self.open);
        self.whole = disk::syncfs_reports_errors();
        if self.whole { Ok(()) } else { sync_each(open) }
    }

    /// Adds an open directory whose entries have changed, whatever its own name is now.
    pub(super) fn add_directory(&mut self, dir: &OwnedFd) -> io::Result<()> {
        if self.whole || self.open.contains_key(&show_open(dir)?.stamp.inode) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, ".", flags, Mode::empty()) {
            Ok(dir) => self.add(dir),
            // the directory may be searched and written to, but not read, and fsync needs a descriptor
            // opened for reading
            Err(Errno::ACCESS) => {
                self.add_all();
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Adds everything: for a change of something that cannot be opened for a sync.
    pub(super) fn add_all(&mut self) {
        self.whole = true;
    }

    /// Syncs everything that was added.
    pub fn finish(self, root: &Root) -> io::Result<()> {
        if self.whole {
            rustix::fs::syncfs(root.fd())?;
        }
        sync_each(self.open)
    }
}

impl DiskTree {
    /// Changes several paths, and makes the changes durable together.
    pub(super) fn together<I, T: Clone>(
        &self,
        all: &[I],
        change: impl Fn(&I, &mut SyncSet) -> CallResult<T>,
    ) -> Vec<CallResult<T>> {
        let mut synced = SyncSet::default();
        let done = all.iter().map(|one| change(one, &mut synced)).collect();
        self.synced(done, synced)
    }

    /// The results of changes once they are synced; if that fails, all of those that were made have failed.
    pub(super) fn synced<T>(&self, done: Vec<CallResult<T>>, set: SyncSet) -> Vec<CallResult<T>> {
        match set.finish(&self.root) {
            Ok(()) => done,
            Err(e) => done
                .into_iter()
                .map(|done| done.and(Err(fault("sync", "the directory", &e))))
                .collect(),
        }
    }
}

fn sync_each(open: BTreeMap<u64, OwnedFd>) -> io::Result<()> {
    open.values()
        .try_for_each(|file| Ok(rustix::fs::fsync(file)?))
}
