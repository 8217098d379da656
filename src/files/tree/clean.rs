//! Makes writes through a mapping visible: a dirty page takes further writes without a new time
//! until it is written back.
//!
//! After the write-back of a file, its next mapped write sets mtime and ctime. So a hash belongs to
//! a stamp only if the pages were clean between the two. This module reads no contents and keeps no
//! list of files.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::clock;

/// After this many syncs of single files, the whole filesystem is synced once, which covers all
/// changes before it.
const SINGLE_SYNCS: u32 = 8;
/// If the clocks have diverged by more than this since the last sync, the wall clock was set.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug, Default)]
pub struct WriteBack(Mutex<WriteBackState>);

#[derive(Debug, Default)]
struct WriteBackState {
    /// Files synced since the last sync of the filesystem.
    single: u32,
    /// When that sync began, by both clocks.
    all: Option<(SystemTime, Instant)>,
}

impl WriteBack {
    /// Writes the dirty pages of a file back, unless that was done after its last change. `tick`:
    /// two changes within it may have the same time.
    pub fn clean(
        &self,
        file: &File,
        filesystem: BorrowedFd<'_>,
        ctime: i64,
        tick: Duration,
    ) -> io::Result<()> {
        let mut cleaned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (clock::now(), clock::monotonic());
        if cleaned.all.is_some_and(|all| covers(all, now, ctime, tick)) {
            return Ok(());
        }
        if cleaned.single >= SINGLE_SYNCS && rustix::fs::syncfs(filesystem).is_ok() {
            *cleaned = WriteBackState {
                single: 0,
                all: Some(now),
            };
            if covers(now, now, ctime, tick) {
                return Ok(());
            }
        }
        cleaned.single += 1;
        drop(cleaned);
        match rustix::fs::fdatasync(file) {
            // no page of it is ever written back
            Err(Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Whether a sync of the filesystem that began at `all` covers a change at `ctime`: not if the
/// clock was set since.
fn covers(
    all: (SystemTime, Instant),
    now: (SystemTime, Instant),
    ctime: i64,
    tick: Duration,
) -> bool {
    let passed = now.1.saturating_duration_since(all.1);
    let wall = now
        .0
        .duration_since(all.0)
        .unwrap_or_else(|back| back.duration() + passed + CLOCK_SLACK * 2);
    let changed = if ctime < 0 {
        UNIX_EPOCH
    } else {
        UNIX_EPOCH + Duration::from_nanos(ctime as u64)
    };
    wall.abs_diff(passed) <= CLOCK_SLACK && changed + tick < all.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_earlier_changes_unless_the_clock_was_set() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        let (wall, mono) = (UNIX_EPOCH + s(1000), clock::monotonic());
        let check = |now: (SystemTime, Instant), ctime: i64, wants: bool| {
            assert_eq!(
                covers((wall, mono), now, ctime * 1_000_000, ms(20)),
                wants,
                "{now:?} {ctime}"
            );
        };
        check((wall, mono), 999_900, true);
        check((wall + s(5), mono + s(5)), 999_900, true);
        check((wall + s(5), mono + s(5)), 999_990, false);
        check((wall + s(5), mono + s(5)), 1_000_001, false);
        // set back or forward since; a change may only seem to be older
        check((wall - s(100), mono + s(5)), 900_000, false);
        check((wall + s(100), mono + s(5)), 999_900, false);
        check((wall, mono), -5, true);
    }
}
