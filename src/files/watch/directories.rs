//! The directories that are watched, and those that cannot be: adds, moves and removes watches.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use inotify::{WatchDescriptor, WatchMask};

use super::ActiveWatch;
use crate::config::limits;
use crate::error::{Error, plain};
use crate::files::debounce;
use crate::files::engine::traits::{CallResult, Fault};
use crate::files::plan;
use crate::files::tree::scan::{self, ScanItem};

/// Directory of the limits.
const LIMITS: &str = "/proc/sys/fs/inotify";

impl ActiveWatch<'_> {
    /// Watches one directory; if that fails, it is added to the unwatched ones.
    pub(super) fn add(&mut self, dir: &str) -> std::io::Result<()> {
        let mask = WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::ATTRIB;
        let mask = mask
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        if !dir.is_empty() && self.watch.tree.root().is_mounted(dir) {
            return Ok(());
        }
        // the path of the root may contain links
        let mask = if dir.is_empty() {
            mask
        } else {
            mask | WatchMask::DONT_FOLLOW
        };
        match self.inotify.watches().add(self.absolute(dir), mask) {
            Ok(wd) => {
                // a directory that was moved here keeps its watch under another name
                if let Some(old) = self
                    .dirs
                    .insert(wd.clone(), dir.to_string())
                    .filter(|old| old != dir)
                {
                    self.watches.remove(&old);
                }
                self.watches.insert(dir.to_string(), wd);
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => self.too_many(dir),
            // removed again, or something else now
            Err(e)
                if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP]
                    .contains(&e.raw_os_error().unwrap_or(0)) => {}
            Err(e) if dir.is_empty() => return Err(e),
            Err(e) => {
                let what = format!(
                    "cannot watch {}: {}",
                    crate::disk::show(self.absolute(dir).as_os_str()),
                    plain(&e)
                );
                if self.said.insert(dir.to_string()) {
                    log::warn!("{what}");
                }
                // only a limit is something that a user can change
                if self.unwatched.is_empty() {
                    *self.watch.counters.lock() = what;
                }
                self.unwatch(dir);
            }
        }
        self.count();
        Ok(())
    }

    /// Watches each directory before listing it, so that no new entry is missed. Returns some of the files, which were there
    /// before: a rescan finds all of them.
    pub(super) fn add_below(&mut self, dir: &str) -> Vec<String> {
        let mut files = Vec::new();
        if self.unwatched.contains(dir) {
            return files;
        }
        let watch = self.watch;
        let mut visit = |found: ScanItem<'_>| -> CallResult<bool> {
            if let ScanItem::Name {
                path,
                is_dir: false,
            } = found
                && files.len() < debounce::IN_A_DIRECTORY
                && !watch.tree.ignores(path, false)
            {
                files.push(path.to_string());
            }
            if let ScanItem::Name { path, is_dir: true } = found
                && !watch.tree.ignores(path, true)
                && !self.covered(path)
            {
                self.add(path)
                    .map_err(|e| Fault::Later(Error::io(format!("watch {path}"), &e)))?;
            }
            Ok(true)
        };
        // the rescan reports directories that are missing or were replaced
        if let Err(fault) = scan::scan(watch.tree, dir, scan::Depth::All, &mut visit) {
            log::debug!("cannot watch what is below {dir}: {fault:?}");
            self.unwatch(dir);
        }
        files
    }

    /// Whether the path is below an unwatched directory.
    pub(super) fn covered(&self, path: &str) -> bool {
        path.match_indices('/')
            .any(|(at, _)| self.unwatched.contains(&path[..at]))
            || self.unwatched.contains("")
    }

    fn unwatch(&mut self, dir: &str) {
        // beyond a certain number, the whole tree counts as unwatched
        let dir = if self.unwatched.len() < limits::UNWATCHED_DIRECTORIES {
            dir
        } else {
            ""
        };
        if dir.is_empty() {
            self.unwatched.clear();
        }
        self.unwatched.insert(dir.to_string());
        self.count();
    }

    fn too_many(&mut self, dir: &str) {
        self.unwatch(dir);
        let why = format!(
            "too many inotify watches; {}",
            raise("max_user_watches", 8192, 65_536)
        );
        if self.said.insert("watches".into()) {
            let (path, pause) = (
                self.watch.tree.root().path().display(),
                self.watch.unwatched_pause().as_secs(),
            );
            log::warn!("cannot watch all of {path}: {why}; rescanning the rest every {pause} s");
        }
        *self.watch.counters.lock() = why;
    }

    /// A directory was moved or removed: forgets everything below its name.
    pub(super) fn forget_below(&mut self, dir: &str) {
        let gone = |path: &str| path == dir || plan::is_below(path, dir);
        let below: Vec<WatchDescriptor> = self
            .watches
            .range(dir.to_string()..)
            .take_while(|(p, _)| p.starts_with(dir))
            .filter(|(p, _)| gone(p))
            .map(|(_, wd)| wd.clone())
            .collect();
        for wd in below {
            // the watch may be gone already
            let _ = self.inotify.watches().remove(wd.clone());
            self.forget(&wd);
        }
        self.unwatched.retain(|path| !gone(path));
        self.count();
    }

    pub(super) fn forget(&mut self, wd: &WatchDescriptor) {
        if let Some(dir) = self.dirs.remove(wd)
            && self.watches.get(&dir) == Some(wd)
        {
            self.watches.remove(&dir);
        }
        self.count();
    }

    pub(super) fn count(&self) {
        self.watch
            .counters
            .watched
            .store(self.watches.len() as u64, Relaxed);
        self.watch
            .counters
            .unwatched
            .store(self.unwatched.len() as u64, Relaxed);
    }

    fn absolute(&self, dir: &str) -> PathBuf {
        let root: &Path = self.watch.tree.root().path();
        if dir.is_empty() {
            root.to_path_buf()
        } else {
            root.join(dir)
        }
    }
}

pub(super) fn reason(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EMFILE) => format!(
            "too many inotify instances; {}",
            raise("max_user_instances", 128, 1024)
        ),
        _ => plain(e),
    }
}

/// The remedy for a reached limit. `usual`: the default if the limit cannot be read.
fn raise(limit: &str, usual: u64, least: u64) -> String {
    let now = std::fs::read_to_string(format!("{LIMITS}/{limit}"))
        .ok()
        .and_then(|n| n.trim().parse::<u64>().ok())
        .unwrap_or(usual);
    let enough = now.saturating_mul(4).max(least);
    format!("raise it with \"sysctl fs.inotify.{limit}={enough}\" (now {now})")
}
