//! When hooks run: one at a time for each type, some at the same time in all, again after a pause if that may help.
//!
//! It neither runs them nor reads messages: names of records are all it needs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::run::Ran;
use super::{Record, records, records_dir};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Result};
use crate::messages::announce::is_own;
use crate::messages::plan::{self, HookNext};

/// The hooks that are to run.
pub struct Schedule {
    base: PathBuf,
    jobs: usize,
    /// By type, in the order of their messages.
    ready: BTreeMap<String, VecDeque<Record>>,
    /// Type -> record.
    running: HashMap<String, Record>,
    /// To be tried again.
    later: Vec<(Instant, Record)>,
    /// Not all records found room: look again when one is through.
    more: bool,
    /// The type that was served last: the next one in line goes first.
    last: String,
}

impl Schedule {
    pub fn new(base: &Path, jobs: usize) -> Schedule {
        let base = base.to_path_buf();
        Schedule { base, jobs, ready: BTreeMap::new(), running: HashMap::new(), later: Vec::new(), more: false, last: String::new() }
    }

    /// Reads the records anew.
    pub fn scan(&mut self, now: SystemTime, clock: Instant) -> Result<()> {
        let dir = records_dir(&self.base);
        let found = records(&self.base).map_err(|e| Error::io(format!("read {}", dir.display()), &e))?;
        self.ready.clear();
        self.later.retain(|(_, record)| found.binary_search(record).is_ok());
        self.more = false;
        for record in found {
            let Some(attempts) = record.attempts else { continue };
            if self.later.iter().any(|(_, r)| *r == record) || self.running.get(&record.kind).is_some_and(|r| r.message == record.message) {
                continue;
            }
            match wait_left(&dir, &record, attempts, now) {
                Some(wait) if self.later.len() < limits::HOOKS => self.later.push((clock + wait, record)),
                None if self.ready.get(&record.kind).is_none_or(|queue| queue.len() < limits::HOOKS) => {
                    self.ready.entry(record.kind.clone()).or_default().push_back(record);
                }
                _ => self.more = true,
            }
        }
        Ok(())
    }

    /// The next record to run, if one may run now.
    pub fn next(&mut self, clock: Instant) -> Option<Record> {
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= clock);
        self.later = later;
        for (_, record) in due {
            self.ready.entry(record.kind.clone()).or_default().push_front(record);
        }
        if self.running.len() >= self.jobs {
            return None;
        }
        let after = (std::ops::Bound::Excluded(self.last.clone()), std::ops::Bound::Unbounded);
        let mut kinds = self.ready.range(after).chain(self.ready.range(..=self.last.clone())).map(|(kind, _)| kind);
        let kind = kinds.find(|kind| !self.running.contains_key(*kind))?.clone();
        let queue = self.ready.get_mut(&kind)?;
        let record = queue.pop_front()?;
        if queue.is_empty() {
            self.ready.remove(&kind);
        }
        self.running.insert(kind.clone(), record.clone());
        self.last = kind;
        Some(record)
    }

    /// Takes note of a run's end, and files its record away. `true`: look at the records again.
    pub fn ended(&mut self, kind: &str, ran: Ran, clock: Instant) -> Result<bool> {
        let asked = self.running.remove(kind);
        let dir = records_dir(&self.base);
        match ran {
            Ran::Gone => {}
            Ran::StillRunning => self.later.extend(asked.map(|record| (clock + Duration::from_secs(5), record))),
            Ran::Ended(record, end) => {
                let path = dir.join(record.file_name());
                let filed = match plan::after_hook(record.attempts.unwrap_or(0), end) {
                    HookNext::Done => std::fs::remove_file(&path),
                    HookNext::Again(pause) => {
                        log::info!("hook runs again in {} hook={} id={}", clock::age(pause), record.kind, record.id());
                        self.later.push((clock + pause, record));
                        Ok(())
                    }
                    // nobody could find it again: it is in no queue
                    HookNext::Failed if is_own(&record) => std::fs::remove_file(&path),
                    HookNext::Failed => {
                        log::warn!("hook has failed; \"mesync retry --hooks\" runs it again hook={} id={}", record.kind, record.id());
                        disk::rename(&path, &dir.join(Record { attempts: None, ..record }.file_name()))
                    }
                };
                filed.map_err(|e| Error::io(format!("file away {}", path.display()), &e))?;
            }
        }
        Ok(self.more && !self.ready.contains_key(kind))
    }

    /// When something becomes due by itself.
    pub fn next_due(&self) -> Option<Instant> {
        self.later.iter().map(|(at, _)| *at).min()
    }

    /// Nothing runs and nothing can run now.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.ready.is_empty()
    }
}

/// What is left of the pause before the next run. The last run began when the record got its name: that set its ctime.
fn wait_left(dir: &Path, record: &Record, attempts: u32, now: SystemTime) -> Option<Duration> {
    use std::os::unix::fs::MetadataExt;
    let pause = plan::hook_pause(attempts)?;
    let meta = dir.join(record.file_name()).symlink_metadata().ok()?;
    let began = clock::from_millis(meta.ctime().max(0) as u64 * 1000);
    // a clock that went back: due
    pause.checked_sub(now.duration_since(began).ok()?).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::plan::HookEnd;

    fn record(n: u32, kind: &str) -> Record {
        let message = format!("20261121T101112_01933b5e-0000-7000-8000-{n:012}.json");
        Record { message, kind: kind.into(), attempts: Some(0) }
    }

    fn schedule(records: &[Record]) -> (tempfile::TempDir, Schedule) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(records_dir(dir.path())).unwrap();
        for r in records {
            std::fs::write(records_dir(dir.path()).join(r.file_name()), "{}").unwrap();
        }
        let mut schedule = Schedule::new(dir.path(), 2);
        schedule.scan(clock::now(), clock::monotonic()).unwrap();
        (dir, schedule)
    }

    #[test]
    fn one_at_a_time_for_each_type_and_no_type_waits_for_another() {
        let (_dir, mut s) = schedule(&[record(1, "a"), record(2, "a"), record(3, "b"), record(4, "c")]);
        let now = clock::monotonic();
        assert_eq!((s.next(now), s.next(now), s.next(now)), (Some(record(1, "a")), Some(record(3, "b")), None));
        s.ended("b", Ran::Gone, now).unwrap();
        assert_eq!((s.next(now), s.next(now)), (Some(record(4, "c")), None));
        s.ended("c", Ran::Gone, now).unwrap();
        assert_eq!(s.next(now), None, "a is still running");
        s.ended("a", Ran::Gone, now).unwrap();
        assert_eq!(s.next(now), Some(record(2, "a")));
    }

    #[test]
    fn a_failure_that_may_pass_is_repeated_after_a_pause_and_the_next_message_does_not_wait() {
        let (dir, mut s) = schedule(&[record(1, "a"), record(2, "a")]);
        let now = clock::monotonic();
        let first = s.next(now).unwrap();
        let ran = Record { attempts: Some(1), ..first.clone() };
        disk::rename(&records_dir(dir.path()).join(first.file_name()), &records_dir(dir.path()).join(ran.file_name())).unwrap();
        s.ended("a", Ran::Ended(ran.clone(), HookEnd::Exit(75)), now).unwrap();
        assert_eq!(s.next(now), Some(record(2, "a")));
        s.ended("a", Ran::Gone, now).unwrap();
        assert_eq!((s.next(now), s.next_due()), (None, Some(now + Duration::from_secs(5))));
        assert_eq!(s.next(now + Duration::from_secs(5)), Some(ran.clone()));
        s.ended("a", Ran::Ended(ran.clone(), HookEnd::Exit(3)), now).unwrap();
        assert_eq!(super::super::failed(dir.path()).unwrap(), [ran.message]);
    }
}
