//! The size of a queue: counts and sizes without reading a message; and whether files can be added.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Queue, names, parse_file_name};
use crate::clock;
use crate::error::Result;

/// The size of a queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub count: usize,
    pub bytes: u64,
    pub oldest: Option<SystemTime>,
}

/// A message that waits for longer is a reason to look.
pub const BEHIND_TIME: Duration = Duration::from_secs(60);

/// Whether a message that came at this time has waited for long.
pub fn is_behind(at: Option<SystemTime>) -> bool {
    at.and_then(clock::since)
        .is_some_and(|age| age > BEHIND_TIME)
}

/// Counts a queue without a look at its messages.
pub fn count(base: &Path, queue: Queue) -> Result<u64> {
    names(base, queue).map(|names| names.len() as u64)
}

/// Counts a queue. The oldest message in the outbox is determined by the time in its name, in all
/// other queues by the time of its arrival, because names have the time of the sender's clock.
/// Implausible times are ignored.
pub fn survey(base: &Path, queue: Queue) -> Result<Survey> {
    let mut survey = Survey::default();
    for name in names(base, queue)? {
        let Ok(meta) = std::fs::symlink_metadata(queue.dir(base).join(&name)) else {
            continue;
        };
        let named = name
            .to_str()
            .and_then(parse_file_name)
            .map(|(time, _)| time)
            .filter(|_| queue == Queue::Outbox);
        // the rename into the queue set ctime
        let came = clock::from_millis((meta.ctime().max(0) as u64).saturating_mul(1000));
        let time = named
            .or(Some(came))
            .filter(|time| clock::is_plausible(*time));
        survey = Survey {
            count: survey.count + 1,
            bytes: survey.bytes + meta.len(),
            oldest: survey.oldest.into_iter().chain(time).min(),
        };
    }
    Ok(survey)
}

/// The first directory of the spool that accepts no files, tested without creating one: on a
/// read-only filesystem no client can write down its problem.
pub fn unwritable(base: &Path) -> Option<(PathBuf, io::Error)> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let dirs = Queue::ALL
        .iter()
        .map(|q| q.dir(base))
        .chain(["state", "state/hooks"].map(|dir| base.join(dir)));
    let refused = |dir: PathBuf| {
        rustix::fs::access(&dir, access)
            .err()
            .map(|e| (dir, e.into()))
    };
    dirs.filter(|dir| dir.exists()).find_map(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_one_whose_age_is_known() {
        let dir = tempfile::tempdir().unwrap();
        super::super::create(dir.path()).unwrap();
        let put = |queue: Queue, name: &str| {
            std::fs::write(queue.dir(dir.path()).join(name), "{}").unwrap()
        };
        let oldest = |queue: Queue| survey(dir.path(), queue).unwrap().oldest;
        let (unset, old) = (
            "19700101T000010_019359a0-0000-7000-8000-000000000001.json",
            "20260101T000000_019359a0-0000-7000-8000-000000000002.json",
        );
        for queue in [Queue::Outbox, Queue::Inbox] {
            put(queue, unset);
        }
        assert_eq!(oldest(Queue::Outbox), None);
        put(Queue::Outbox, old);
        assert_eq!(
            oldest(Queue::Outbox),
            clock::parse_compact("20260101T000000")
        );
        // by the clock of this machine, whatever that of the sender said
        assert!(
            clock::now()
                .duration_since(oldest(Queue::Inbox).unwrap())
                .is_ok_and(|age| age.as_secs() < 600)
        );
    }
}
