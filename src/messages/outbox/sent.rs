//! Removes files from `sent/` after their retention time, some at a time.
//!
//! Messages are exchanged between two calls: a `sent/` of 100,000 files must not delay them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::clock;
use crate::error::{Error, Result};
use crate::messages::Queue;
use crate::steady;

/// Files that one call examines.
const FILES_PER_TURN: usize = 256;

/// What cleans `sent/`.
pub struct SentCleaner {
    dir: PathBuf,
    ttl: Duration,
    /// See [`steady`].
    clock: PathBuf,
    /// The rest of the current run, and when it began.
    left: Option<(std::fs::ReadDir, SystemTime)>,
}

impl SentCleaner {
    pub fn new(base: &Path, ttl: Duration) -> SentCleaner {
        SentCleaner {
            dir: Queue::Sent.dir(base),
            ttl,
            clock: base.join("state/clock"),
            left: None,
        }
    }

    /// Examines some files; returns whether the run is complete. A call after a complete run begins
    /// the next.
    pub fn turn(&mut self, now: SystemTime) -> Result<bool> {
        let failed = |e: io::Error| Error::io(format!("clean {}", self.dir.display()), &e);
        let (mut entries, now) = match self.left.take() {
            Some(begun) => begun,
            None if !steady::is_believed(&self.clock, self.ttl) => return Ok(true),
            None => (std::fs::read_dir(&self.dir).map_err(failed)?, now),
        };
        for _ in 0..FILES_PER_TURN {
            let Some(entry) = entries.next() else {
                return Ok(true);
            };
            self.clean(&entry.map_err(failed)?, now);
        }
        self.left = Some((entries, now));
        Ok(false)
    }

    /// Whether a run has begun and is not complete.
    pub fn is_in_a_round(&self) -> bool {
        self.left.is_some()
    }

    fn clean(&self, entry: &std::fs::DirEntry, now: SystemTime) {
        let Some(meta) = entry.metadata().ok().filter(|meta| meta.is_file()) else {
            return;
        };
        // the rename into sent/ set ctime
        let archived = clock::from_millis((meta.ctime().max(0) as u64).saturating_mul(1000));
        if !clock::is_plausible(archived) && clock::is_plausible(now) {
            // of unknown age, because the clock was set later: it ages from now on
            let _ = std::fs::set_permissions(entry.path(), meta.permissions());
        } else if now.duration_since(archived).is_ok_and(|age| age > self.ttl) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_many_files_has_many_turns_and_removes_them_all() {
        let dir = tempfile::tempdir().unwrap();
        let sent = Queue::Sent.dir(dir.path());
        std::fs::create_dir(&sent).unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let files = FILES_PER_TURN * 2 + 1;
        for n in 0..files {
            std::fs::write(sent.join(n.to_string()), "").unwrap();
        }
        let left = || std::fs::read_dir(&sent).unwrap().count();
        let mut cleaner = SentCleaner::new(dir.path(), Duration::from_secs(3600));
        let mut round = |now| {
            let mut turns = 1;
            while !cleaner.turn(now).unwrap() {
                turns += 1;
                assert!(cleaner.is_in_a_round());
            }
            assert!(!cleaner.is_in_a_round());
            turns
        };
        assert_eq!((round(clock::now()), left()), (3, files));
        assert_eq!(
            (round(clock::now() + Duration::from_secs(7200)), left()),
            (3, 0)
        );
    }
}
