//! How much stands in a queue: names and sizes, without reading a message.

use std::path::Path;
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
