//! How much stands in a queue: names and sizes, without reading a message; and whether more could be put there.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Queue, parse_file_name, spool};
use crate::error::Result;

/// How much stands in a queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub count: usize,
    pub bytes: u64,
    pub oldest: Option<SystemTime>,
}

/// Counts a queue. The oldest by the time in the name, else by the last write.
pub fn survey(base: &Path, queue: Queue) -> Result<Survey> {
    let mut survey = Survey::default();
    for name in spool::names(base, queue)? {
        let Ok(meta) = std::fs::symlink_metadata(queue.dir(base).join(&name)) else { continue };
        let time = name.to_str().and_then(parse_file_name).map(|(time, _)| time).or(meta.modified().ok());
        survey = Survey { count: survey.count + 1, bytes: survey.bytes + meta.len(), oldest: survey.oldest.into_iter().chain(time).min() };
    }
    Ok(survey)
}

/// The first directory of the spool that takes no files, asked without making one: on a read-only filesystem no client can
/// write down what is wrong.
pub fn unwritable(base: &Path) -> Option<(PathBuf, io::Error)> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let dirs = Queue::ALL.iter().map(|q| q.dir(base)).chain(["state", "state/hooks"].map(|dir| base.join(dir)));
    let refused = |dir: PathBuf| rustix::fs::access(&dir, access).err().map(|e| (dir, e.into()));
    dirs.filter(|dir| dir.exists()).find_map(refused)
}
