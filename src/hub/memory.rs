//! Tells how much memory the hub may still use, by RLIMIT_AS and by its control groups. Work for clients is admitted against
//! that, because a failed allocation ends the process.
//!
//! It limits nothing itself.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit};

use crate::error::{Error, Kind, Result};

/// Bytes of address space that work for clients must leave free, if it is limited.
const SPARE_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of free address space without which the hub refuses connections and bodies that it has to accept.
const LEAST_SPACE_BYTES: u64 = 24 * 1024 * 1024;

/// Bytes of address space that was granted and may not be in use yet.
static CLAIMED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Address space for a piece of work; free for others when dropped.
#[derive(Debug)]
pub struct SpaceClaim {
    bytes: u64,
}

impl Drop for SpaceClaim {
    fn drop(&mut self) {
        CLAIMED_BYTES.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The free memory after the hub has opened its store and before its first connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of address space; `u64::MAX`: no limit.
    pub space: u64,
    /// Bytes that may be resident; at most `space`.
    pub memory: u64,
}

impl Room {
    pub const UNLIMITED: Room = Room {
        space: u64::MAX,
        memory: u64::MAX,
    };

    pub fn of_process() -> Room {
        let (_, resident) = in_use().unwrap_or((0, 0));
        let space = free_space();
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limits = limit_files(&groups).into_iter().filter_map(|file| {
            std::fs::read_to_string(file)
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        });
        // cgroup version 1 writes "no limit" as a huge number
        let group = limits
            .min()
            .map_or(u64::MAX, |limit| limit.saturating_sub(resident));
        Room {
            space,
            memory: group.min(space),
        }
    }

    /// Fails where no client could be served, which a user would take for a fault of the network.
    pub fn require_least(&self) -> Result<()> {
        if self.space >= LEAST_SPACE_BYTES {
            return Ok(());
        }
        let mib = |bytes: u64| bytes / (1024 * 1024);
        let (free, least) = (mib(self.space), mib(LEAST_SPACE_BYTES));
        let what =
            format!("cannot serve with {free} MiB of free address space: {least} MiB are needed");
        Err(Error::new(Kind::Failed, what)
            .hint("allow 128 MB, with LimitAS= of a systemd unit or with \"ulimit -v\""))
    }

    /// Claims so many bytes for work that begins now. `None`: with all other claims they are not available, and the work is
    /// refused. What a claim has allocated counts twice until it is dropped: rather too little is granted than too much.
    pub fn claim(&self, bytes: u64) -> Option<SpaceClaim> {
        if self.space == u64::MAX {
            return Some(SpaceClaim { bytes: 0 });
        }
        if bytes > self.space {
            return None;
        }
        let others = CLAIMED_BYTES.fetch_add(bytes, Ordering::AcqRel);
        let claim = SpaceClaim { bytes };
        can_have(others.saturating_add(bytes).saturating_add(SPARE_BYTES)).then_some(claim)
    }

    /// Claims the stack of a thread, for which free memory within malloc's heap is of no use.
    pub fn claim_stack(&self, bytes: u64) -> Option<SpaceClaim> {
        let claim = self.claim(bytes)?;
        let is_free = self.space == u64::MAX || free_space() >= bytes.saturating_add(SPARE_BYTES);
        is_free.then_some(claim)
    }

    /// The `of`-th part of the memory, at most `most`, and at least `least`, which one request may need.
    pub fn part(&self, of: u64, least: u64, most: u64) -> u64 {
        (self.memory / of).clamp(least, most)
    }
}

/// Bytes of address space that are not mapped; `u64::MAX`: there is no limit.
fn free_space() -> u64 {
    let size = in_use().map_or(0, |(size, _)| size);
    getrlimit(Resource::As)
        .current
        .map_or(u64::MAX, |limit| limit.saturating_sub(size))
}

/// Address space and resident memory of this process, in bytes.
fn in_use() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').map_while(|n| n.parse::<u64>().ok());
    let page = rustix::param::page_size() as u64;
    Some((pages.next()? * page, pages.next()? * page))
}

/// The files with the limits of the groups in `/proc/self/cgroup` and of their parents. In a container the path may be that
/// of the host, so the root is included.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            some if some.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(
            path.ancestors()
                .map(|path| Path::new(root).join(path).join(name)),
        );
    }
    files
}

/// Whether so many more bytes can be allocated at this moment.
fn can_have(bytes: u64) -> bool {
    let Ok(bytes) = usize::try_from(bytes) else {
        return false;
    };
    let mut room = Vec::<u8>::new();
    // keeps the compiler from removing the unused allocation
    black_box(&mut room)
        .try_reserve_exact(black_box(bytes))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_all_groups_above_count() {
        let check = |text: &str, wants: &[&str]| {
            assert_eq!(
                limit_files(text),
                wants.iter().map(PathBuf::from).collect::<Vec<_>>()
            )
        };
        check(
            "0::/a/b\n",
            &[
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max",
            ],
        );
        check("0::/\n", &["/sys/fs/cgroup/memory.max"]);
        let first = "/sys/fs/cgroup/memory";
        check(
            "5:cpu,cpuacct:/x\n4:hugetlb,memory:/x\n1:name=systemd:/y\nnonsense\n",
            &[
                &format!("{first}/x/memory.limit_in_bytes"),
                &format!("{first}/memory.limit_in_bytes"),
            ],
        );
        let room = Room {
            space: 100 << 20,
            memory: 80 << 20,
        };
        assert_eq!(
            (
                room.part(8, 1 << 20, 16 << 20),
                room.part(8, 1 << 20, 2 << 20),
                room.part(100, 1 << 20, 2 << 20)
            ),
            (10 << 20, 2 << 20, 1 << 20)
        );
        assert_eq!(Room::UNLIMITED.part(8, 1, 16), 16);
    }

    #[test]
    fn memory_that_is_unavailable_is_no_abort() {
        assert!(can_have(1 << 20) && !can_have(isize::MAX as u64) && !can_have(u64::MAX));
    }

    #[test]
    fn what_was_granted_is_not_granted_twice() {
        assert!(Room::UNLIMITED.claim(u64::MAX).is_some());
        let room = Room {
            space: u64::MAX - 1,
            memory: u64::MAX,
        };
        let bits = (20..63).rev().map(|bit| 1 << bit);
        let most = bits.fold(
            0,
            |sum, bit| if can_have(sum + bit) { sum + bit } else { sum },
        );
        let half = room.claim(most / 2).expect("half of it is available");
        drop(half);
        let first = room.claim(most / 4 * 3).expect("it is available");
        assert!(room.claim(most / 2).is_none(), "{most} bytes, {first:?}");
        drop(first);
        assert_eq!(CLAIMED_BYTES.load(Ordering::Acquire), 0);
    }
}
