//! Decides when hooks run: one at a time for each type, in the order of arrival, several types at
//! once; again after a pause if that may help, while the later ones of that type wait.
//!
//! It neither runs hooks nor reads messages: it only needs the names of records.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::own::is_own;
use super::run::RunResult;
use super::{HookRecord, RecordState, failed_news, list};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Result};
use crate::messages::plan::{self, HookEnd, HookNext};

/// The hooks that are to run.
pub struct Schedule {
    base: PathBuf,
    jobs: usize,
    /// Records by type, in the order of arrival.
    ready: BTreeMap<String, VecDeque<HookRecord>>,
    /// The running record of each type.
    running: HashMap<String, HookRecord>,
    /// When a record may run again.
    paused: HashMap<HookRecord, Instant>,
    /// Some records found no room: scan again when one has ended.
    more: bool,
    /// The type that was served last: the next type in order is served first.
    last: String,
}

impl Schedule {
    pub fn new(base: &Path, jobs: usize) -> Schedule {
        let base = base.to_path_buf();
        Schedule {
            base,
            jobs,
            ready: BTreeMap::new(),
            running: HashMap::new(),
            paused: HashMap::new(),
            more: false,
            last: String::new(),
        }
    }

    /// Reads the records again.
    pub fn scan(&mut self, now: SystemTime, clock: Instant) -> Result<()> {
        let found = list(&self.base)?;
        self.ready.clear();
        self.more = false;
        for record in found.into_iter().filter(|r| !r.is_failed()) {
            if self
                .running
                .get(&record.kind)
                .is_some_and(|r| r.message == record.message)
            {
                continue;
            }
            let queue = self.ready.entry(record.kind.clone()).or_default();
            if queue.len() < limits::HOOK_RECORDS {
                queue.push_back(record)
            } else {
                self.more = true
            }
        }
        let mut paused = HashMap::new();
        for record in self.ready.values().flatten() {
            let known = self.paused.get(record).copied();
            let until = known.or_else(|| Some(clock + wait_left(&self.base, record, now)?));
            paused.extend(until.map(|at| (record.clone(), at)));
        }
        self.paused = paused;
        Ok(())
    }

    /// The next record to run, if one may run now.
    pub fn next(&mut self, clock: Instant) -> Option<HookRecord> {
        if self.running.len() >= self.jobs {
            return None;
        }
        let kind = self.next_kind(clock)?.clone();
        let queue = self.ready.get_mut(&kind)?;
        let record = queue.pop_front()?;
        if queue.is_empty() {
            self.ready.remove(&kind);
        }
        self.paused.remove(&record);
        self.running.insert(kind.clone(), record.clone());
        self.last = kind;
        Some(record)
    }

    fn next_kind(&self, clock: Instant) -> Option<&String> {
        let after = (
            std::ops::Bound::Excluded(self.last.clone()),
            std::ops::Bound::Unbounded,
        );
        let mut kinds = self
            .ready
            .range(after)
            .chain(self.ready.range(..=self.last.clone()))
            .map(|(kind, _)| kind);
        kinds.find(|kind| {
            !self.running.contains_key(*kind) && self.pause_of(kind).is_none_or(|at| at <= clock)
        })
    }

    /// When the first record of a type may run, if it must wait.
    fn pause_of(&self, kind: &str) -> Option<Instant> {
        self.paused.get(self.ready.get(kind)?.front()?).copied()
    }

    /// Handles the end of a run, and renames or removes its record. `true`: scan the records again.
    pub fn ended(&mut self, kind: &str, ran: RunResult, clock: Instant) -> Result<bool> {
        let asked = self.running.remove(kind);
        match (ran, asked) {
            (RunResult::Gone, _) | (RunResult::Later(_), None) => {}
            // counted before its sync failed, or removed by a user: the records are read again
            (RunResult::Later(_), Some(record)) if is_missing(&record.path(&self.base)) => {
                return Ok(true);
            }
            (RunResult::Later(pause), Some(record)) => self.pause(record, clock + pause),
            (RunResult::Ended(record, end), _) => {
                match plan::after_hook(record.runs().unwrap_or(0), end) {
                    HookNext::Again(pause) => {
                        log::info!(
                            "hook runs again in {} hook={} id={}",
                            clock::age(pause),
                            record.kind,
                            record.id()
                        );
                        self.pause(record, clock + pause);
                    }
                    HookNext::Done => self.file_away(&record, None)?,
                    HookNext::Failed => self.file_away(&record, Some(end))?,
                }
            }
        }
        Ok(self.more && !self.ready.contains_key(kind))
    }

    /// Pauses a record, which remains the first of its type: the later ones wait.
    fn pause(&mut self, record: HookRecord, until: Instant) {
        self.paused.insert(record.clone(), until);
        self.ready
            .entry(record.kind.clone())
            .or_default()
            .push_front(record);
    }

    fn file_away(&self, record: &HookRecord, failed: Option<HookEnd>) -> Result<()> {
        let path = record.path(&self.base);
        let filed = match failed {
            Some(end) if self.has_room(record)? => {
                log::warn!(
                    "hook failed; \"mesync retry --hooks\" runs it again hook={} id={}",
                    record.kind,
                    record.id()
                );
                let failed = HookRecord {
                    state: RecordState::Failed(Some(end)),
                    ..record.clone()
                };
                disk::rename(&path, &failed.path(&self.base))
            }
            _ => std::fs::remove_file(&path),
        };
        match filed {
            // removed by the hook, or by a user
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| Error::io(format!("file away {}", path.display()), &e)),
        }
    }

    /// Limits records of directory events: messages are limited by their senders, but these are
    /// generated here, and each of them may fail.
    fn has_room(&self, record: &HookRecord) -> Result<bool> {
        if !is_own(record) {
            return Ok(true);
        }
        let failed =
            failed_news(&self.base).map_err(|e| Error::io("read the records of hooks", &e))?;
        let room = failed < limits::FAILED_NEWS_HOOKS;
        if !room {
            log::warn!(
                "hook failed; discarding it, since {failed} failed hooks are kept already hook={} id={}",
                record.kind,
                record.id()
            );
        }
        Ok(room)
    }

    /// When the next pause ends.
    pub fn next_due(&self) -> Option<Instant> {
        self.ready
            .keys()
            .filter(|kind| !self.running.contains_key(*kind))
            .filter_map(|kind| self.pause_of(kind))
            .min()
    }

    /// Whether no hook runs and none can run now.
    pub fn is_idle(&self, clock: Instant) -> bool {
        self.running.is_empty() && self.next_kind(clock).is_none()
    }
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata()
        .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// The rest of the pause before the next run. The last run began when the record was renamed, which
/// set its ctime.
fn wait_left(base: &Path, record: &HookRecord, now: SystemTime) -> Option<Duration> {
    use std::os::unix::fs::MetadataExt;
    let pause = plan::hook_pause(record.runs()?)?;
    let meta = record.path(base).symlink_metadata().ok()?;
    let began = clock::from_millis(meta.ctime().max(0) as u64 * 1000);
    // a clock that was set back: run now
    pause
        .checked_sub(now.duration_since(began).ok()?)
        .filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u32, kind: &str) -> HookRecord {
        let message = format!("20261121T101112_01933b5e-0000-7000-8000-{n:012}.json");
        HookRecord {
            order: u64::from(n),
            message,
            kind: kind.into(),
            state: RecordState::Pending(0),
        }
    }

    /// Renames a record like a run.
    fn after_run(base: &Path, record: &HookRecord) -> HookRecord {
        let ran = HookRecord {
            state: RecordState::Pending(record.runs().unwrap() + 1),
            ..record.clone()
        };
        disk::rename(&record.path(base), &ran.path(base)).unwrap();
        ran
    }

    fn schedule(records: &[HookRecord]) -> (tempfile::TempDir, Schedule) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(super::super::records_dir(dir.path())).unwrap();
        for r in records {
            std::fs::write(r.path(dir.path()), "{}").unwrap();
        }
        let mut schedule = Schedule::new(dir.path(), 2);
        schedule.scan(clock::now(), clock::monotonic()).unwrap();
        (dir, schedule)
    }

    #[test]
    fn one_at_a_time_for_each_type_and_no_type_waits_for_another() {
        let (_dir, mut s) = schedule(&[
            record(1, "a"),
            record(2, "a"),
            record(3, "b"),
            record(4, "c"),
        ]);
        let now = clock::monotonic();
        assert_eq!(
            (s.next(now), s.next(now), s.next(now)),
            (Some(record(1, "a")), Some(record(3, "b")), None)
        );
        s.ended("b", RunResult::Gone, now).unwrap();
        assert_eq!((s.next(now), s.next(now)), (Some(record(4, "c")), None));
        s.ended("c", RunResult::Gone, now).unwrap();
        assert_eq!(s.next(now), None, "a is still running");
        s.ended("a", RunResult::Gone, now).unwrap();
        assert_eq!(s.next(now), Some(record(2, "a")));
    }

    #[test]
    fn the_first_of_a_type_is_repeated_after_a_pause_and_the_later_ones_wait_for_it() {
        let (dir, mut s) = schedule(&[record(1, "a"), record(2, "a"), record(3, "b")]);
        let now = clock::monotonic();
        let first = s.next(now).unwrap();
        let ran = after_run(dir.path(), &first);
        s.ended("a", RunResult::Ended(ran.clone(), HookEnd::Exit(75)), now)
            .unwrap();
        assert_eq!(
            (s.next(now), s.next(now), s.is_idle(now)),
            (Some(record(3, "b")), None, false)
        );
        s.ended("b", RunResult::Gone, now).unwrap();
        assert!(s.is_idle(now), "the second one may not overtake the first");
        std::fs::remove_file(record(3, "b").path(dir.path())).unwrap();
        // a scan in between changes nothing
        s.scan(clock::now(), now).unwrap();
        assert_eq!(
            (s.next(now), s.next_due()),
            (None, Some(now + Duration::from_secs(5)))
        );
        let later = now + Duration::from_secs(5);
        assert_eq!(s.next(later), Some(ran.clone()));
        s.ended("a", RunResult::Ended(ran.clone(), HookEnd::Exit(3)), now)
            .unwrap();
        assert_eq!(super::super::failed(dir.path()).unwrap(), [ran.message]);
        assert_eq!(s.next(later), Some(record(2, "a")));
    }

    #[test]
    fn a_record_that_cannot_run_now_keeps_its_place() {
        let (_dir, mut s) = schedule(&[record(1, "a"), record(2, "a")]);
        let now = clock::monotonic();
        s.next(now).unwrap();
        s.ended("a", RunResult::Later(Duration::from_secs(60)), now)
            .unwrap();
        assert_eq!(
            (s.next(now), s.next(now + Duration::from_secs(60))),
            (None, Some(record(1, "a")))
        );
    }

    #[test]
    fn a_record_that_was_removed_or_renamed_is_not_put_back() {
        let (dir, mut s) = schedule(&[record(1, "a"), record(2, "a"), record(3, "b")]);
        let now = clock::monotonic();
        let (first, other) = (s.next(now).unwrap(), s.next(now).unwrap());
        assert_eq!((&first, &other), (&record(1, "a"), &record(3, "b")));
        // a user removes the first; the run of the second was counted, and the sync after that
        // failed
        std::fs::remove_file(first.path(dir.path())).unwrap();
        let counted = after_run(dir.path(), &other);
        let later = || RunResult::Later(Duration::from_secs(60));
        assert!(s.ended("a", later(), now).unwrap() && s.ended("b", later(), now).unwrap());
        s.scan(clock::now(), now).unwrap();
        assert_eq!(
            (s.next(now), s.next(now)),
            (Some(record(2, "a")), None),
            "a newer record waits for one that was removed"
        );
        assert_eq!(s.next(now + Duration::from_secs(6)), Some(counted));
    }

    #[test]
    fn the_order_is_that_of_arrival_and_not_that_of_the_names_and_survives_a_restart() {
        let early = |record: HookRecord, order| HookRecord { order, ..record };
        let (dir, mut s) = schedule(&[
            early(record(9, "a"), 1),
            early(record(1, "a"), 2),
            early(record(5, "a"), 0),
        ]);
        let now = clock::monotonic();
        let order = |s: &mut Schedule| {
            let next = std::iter::from_fn(|| {
                let record = s.next(now)?;
                s.ended("a", RunResult::Gone, now).unwrap();
                Some(record.order)
            });
            next.collect::<Vec<_>>()
        };
        assert_eq!(order(&mut s), [0, 1, 2]);
        let ran = after_run(dir.path(), &early(record(9, "a"), 1));
        let mut s = Schedule::new(dir.path(), 2);
        s.scan(clock::now(), now).unwrap();
        assert_eq!(
            order(&mut s),
            [0],
            "the next one waits for its second run, and so does the last"
        );
        assert_eq!(s.next(now + Duration::from_secs(6)), Some(ran));
    }

    #[test]
    fn a_record_that_the_hook_has_removed_is_no_error_and_failed_news_are_bounded() {
        let (dir, mut s) = schedule(&[record(1, "a")]);
        let now = clock::monotonic();
        let first = s.next(now).unwrap();
        std::fs::remove_dir_all(super::super::records_dir(dir.path())).unwrap();
        s.ended("a", RunResult::Ended(first.clone(), HookEnd::Exit(0)), now)
            .unwrap();
        s.ended("a", RunResult::Ended(first, HookEnd::Exit(1)), now)
            .unwrap();
        s.scan(clock::now(), now).unwrap();

        let news = limits::FAILED_NEWS_HOOKS as u32 + 5;
        let (dir, mut s) = schedule(
            &(1..=news)
                .map(|n| record(n, "mesync.changed"))
                .collect::<Vec<_>>(),
        );
        while let Some(next) = s.next(now) {
            s.ended(
                "mesync.changed",
                RunResult::Ended(next, HookEnd::Exit(1)),
                now,
            )
            .unwrap();
        }
        assert_eq!(
            super::super::failed(dir.path()).unwrap().len(),
            limits::FAILED_NEWS_HOOKS
        );
        assert_eq!(
            super::super::list(dir.path()).unwrap().len(),
            limits::FAILED_NEWS_HOOKS
        );
    }
}
