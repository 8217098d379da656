//! Removes objects from the bucket that are no longer needed, and makes snapshots so that the log can be cut. Any hub does it; two at
//! once do no harm.
//!
//! The order of each removal is the rule: first the floor is raised, then entries are removed; first an entry draws the
//! horizon and is applied, then objects before it are listed and removed. A removed object is remembered, because a late entry
//! may name it.

use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::clock::StoreClock;
use super::objects::{ListedObject, ObjectStore, sure};
use super::shared_files::LOOK_INTERVAL;
use super::shared_log::LOG_KEPT;
use super::snapshot::{self, Snapshot};
use super::{LOG, entry_number, raise_floor};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::hub::store::Store;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::ops::shared::LogOp;
use crate::hub::store::ops::{Op, Outcome};

/// Entries after a snapshot until the next one.
pub const SNAPSHOT_ENTRIES: u64 = 10_000;
/// Milliseconds after which a chunk that no entry has named, and the rest of a broken snapshot, is removed.
const ORPHAN_AFTER: u64 = 7 * 86_400_000;
/// Milliseconds between two rounds, and between two removals of chunks.
const ROUND: u64 = 60_000;
const COLLECT_INTERVAL: u64 = 3_600_000;
/// Milliseconds between two draws of the horizon, by hub time.
const ORPHANS_INTERVAL: u64 = 7 * 86_400_000;
/// Objects that one round removes at most.
const MAX_REMOVED_OBJECTS: usize = 1000;
/// Snapshots that are kept.
const SNAPSHOTS_KEPT: usize = 2;

/// Puts an operation into the log, and waits for its outcome; `None`: it is not known.
pub type Submit<'a> = &'a dyn Fn(Op) -> Option<Outcome>;

/// One hub's janitor.
pub struct Janitor {
    pub objects: Arc<dyn ObjectStore>,
    pub clock: Arc<StoreClock>,
    pub store: Arc<Store>,
    pub data_dir: PathBuf,
    /// The newest snapshot that this hub knows.
    pub snapshot_at: u64,
    /// Smaller in tests.
    pub snapshot_entries: u64,
    pub times: JanitorTimes,
}

/// When the last round and the last removal of chunks began, by [`ObjectStore::monotonic`].
#[derive(Default)]
pub struct JanitorTimes {
    round: u64,
    collection: u64,
}

impl Janitor {
    /// Runs until the sender of `stop` is dropped. `look` is called every few seconds.
    pub fn run(mut self, stop: Receiver<()>, submit: Submit<'_>, mut look: impl FnMut()) {
        while stop.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            look();
            self.turn(submit);
        }
    }

    /// Does all that is due; to be called every few seconds.
    pub fn turn(&mut self, submit: Submit<'_>) {
        self.store.tidy_view(self.clock.now());
        let now = self.objects.monotonic();
        if now.saturating_sub(self.times.round) < ROUND {
            return;
        }
        self.times.round = now;
        let mut done = self.snapshot_and_cut();
        if done.is_ok() && now.saturating_sub(self.times.collection) >= COLLECT_INTERVAL {
            self.times.collection = now;
            done = self
                .collect(submit)
                .and_then(|()| self.remove_orphans_if_due(submit))
                .and_then(|()| self.remove_leftovers());
        }
        if let Err(e) = done {
            log::warn!("cannot tidy the bucket: {e}; trying again later");
        }
    }

    fn remove_orphans_if_due(&self, submit: Submit<'_>) -> Result<()> {
        let drawn = self.store.horizon()?;
        let is_due = self
            .clock
            .store_time()
            .is_some_and(|now| now.saturating_sub(drawn) >= ORPHAN_AFTER + ORPHANS_INTERVAL);
        if is_due {
            self.remove_orphans(submit)
        } else {
            Ok(())
        }
    }

    /// A snapshot, if there are many entries after the last one; then what it makes superfluous is removed.
    pub fn snapshot_and_cut(&mut self) -> Result<()> {
        let objects = self.objects.as_ref();
        if self.store.position()?.n < self.snapshot_at + self.snapshot_entries {
            return Ok(());
        }
        let mut all = snapshot::list_whole(objects, self.cluster()?)?;
        self.snapshot_at = all.last().map_or(0, |snapshot| snapshot.n);
        if self.store.position()?.n < self.snapshot_at + self.snapshot_entries {
            return Ok(());
        }
        let file = disk::temporary(&self.data_dir.join("snapshot"));
        let _ = std::fs::remove_file(&file);
        let made = self.make(&file);
        let _ = std::fs::remove_file(&file);
        let made = made?;
        self.snapshot_at = made.n;
        all.push(made);
        self.cut(&all)
    }

    fn make(&self, file: &std::path::Path) -> Result<Snapshot> {
        let position = self.store.copy_view(file)?;
        snapshot::put(self.objects.as_ref(), self.cluster()?, position.n, file)
    }

    fn cluster(&self) -> Result<Uuid> {
        (self.store.cluster()?)
            .ok_or_else(|| Error::new(Kind::Failed, "the store is no view of a bucket"))
    }

    /// Removes what snapshots have left that were broken off.
    pub fn remove_leftovers(&self) -> Result<()> {
        let Some(now) = self.clock.store_time() else {
            return Ok(());
        };
        let objects = self.objects.as_ref();
        match snapshot::remove_leftovers(objects, self.cluster()?, now, ORPHAN_AFTER)? {
            0 => {}
            n => log::info!("removed objects that snapshots have left count={n}"),
        }
        Ok(())
    }

    /// Raises the floor to the last entry that two snapshots have and that is old enough, then removes all up to it.
    fn cut(&self, all: &[Snapshot]) -> Result<()> {
        let objects = self.objects.as_ref();
        let [.., covered, _] = all else { return Ok(()) };
        let entries = sure(objects, || objects.list(LOG, ""))?;
        let now = self.clock.store_time().unwrap_or(0);
        let is_old = |row: &ListedObject| now.saturating_sub(row.modified) >= LOG_KEPT;
        let number = |row: &ListedObject| entry_number(&row.name);
        let old = entries
            .iter()
            .take_while(|row| is_old(row))
            .filter_map(number)
            .filter(|n| *n <= covered.n);
        let Some(at) = old.max() else { return Ok(()) };
        raise_floor(objects, at)?;
        log::info!("the log was cut at={at}");
        for row in entries
            .iter()
            .filter(|row| number(row).is_some_and(|n| n <= at))
            .take(MAX_REMOVED_OBJECTS)
        {
            sure(objects, || objects.delete(&row.name))?;
        }
        let superfluous = all.len().saturating_sub(SNAPSHOTS_KEPT);
        all[..superfluous]
            .iter()
            .try_for_each(|snapshot| snapshot::remove(objects, snapshot))
    }

    /// Removes objects that no chunk has any more, and tells the log.
    pub fn collect(&self, submit: Submit<'_>) -> Result<()> {
        let names = self.store.dropped_objects(MAX_REMOVED_OBJECTS)?;
        if names.is_empty() {
            return Ok(());
        }
        let objects = self.objects.as_ref();
        for name in &names {
            sure(objects, || objects.delete(&name.to_string()))?;
        }
        submit(Op::Log(LogOp::Collected { names }));
        Ok(())
    }

    /// Removes objects that no entry has named and that none can name any more.
    pub fn remove_orphans(&self, submit: Submit<'_>) -> Result<()> {
        let Some(at) = self
            .clock
            .store_time()
            .and_then(|now| now.checked_sub(ORPHAN_AFTER))
        else {
            return Ok(());
        };
        match submit(Op::Log(LogOp::Horizon { at })) {
            Some(Outcome::Done) => {}
            _ => return Ok(()),
        }
        // this hub has applied it, so the tables have all objects that were named before
        let objects = self.objects.as_ref();
        for row in sure(objects, || objects.list(ChunkName::PREFIX, ""))? {
            let Ok(name) = row.name.parse::<ChunkName>() else {
                continue;
            };
            if name.made < at && !self.store.knows_object(&name)? {
                sure(objects, || objects.delete(&row.name))?;
            }
        }
        Ok(())
    }
}
