//! Makes the bucket a working one again after it was set back, emptied or damaged: from the view of a stopped hub, or without
//! one from what the bucket still has.
//!
//! The tables become those of a new bucket in a new epoch, as those of a restored backup do on a disk, so that clients compare
//! what they have. Their log begins far behind all numbers that were ever used: what a hub of the old bucket still writes is
//! never read. The new description is put last: broken off before that, nothing has happened, and objects that are left are
//! removed by the janitor.
//!
//! Hubs must be stopped. One that runs is found by a question that it sees when it looks at the shared files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::chunks::ChunkObjects;
use super::clock::StoreClock;
use super::moving::put_all;
use super::objects::{ObjectFault, ObjectStore, PutIf, PutOutcome, sure};
use super::shared_files::{BucketLink, LOOK_INTERVAL, SharedFiles, latest_version, version_name};
use super::start::{self, OpenBucket, RECOVERED};
use super::{
    DESCRIPTION, Description, LOG, RecoveredBucket, entry_number, probe, raise_floor, read_floor,
    snapshot, to_json,
};
use crate::config::HubSettings;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::hub::store::Store;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::ops::shared::FORMAT;
use crate::hub::store::recovery::{NamedChunk, Successor};
use crate::wire::files::{Hash, SINGLE};

/// Entries that are skipped: no hub of the old bucket can have written so many since its view was read.
const ENTRIES_SKIPPED_BY_RECOVERY: u64 = 1 << 20;
/// Milliseconds between the snapshot and the description, at most.
const LONGEST_RECOVERY: u64 = 86_400_000;
/// Files that are named at most.
const MAX_NAMED_FILES: usize = 1000;
/// The question whether a hub runs, as the name of a shared file whose versions are empty, and the prefix of responses.
pub const QUESTION: &str = "recovering";
const RESPONSES: &str = "running/";
const RESPONSE_PAUSE: Duration = Duration::from_secs(1);

/// The source of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverFrom {
    /// The view in the data directory.
    OpenedView,
    /// What the bucket has.
    Bucket,
}

/// The outcome of a recovery.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecoveredHub {
    /// The bucket was recovered before, after this view was read: nothing was done.
    pub already: bool,
    pub files: u64,
    /// Chunks that the bucket lacked and that were put again, and their bytes.
    pub chunks: u64,
    pub bytes: u64,
    /// Chunks that neither the bucket nor this machine has.
    pub lost_chunks: u64,
    /// Files and versions that need them, and the first of these.
    pub lost_files: u64,
    pub lost: Vec<String>,
    /// Entries of the bucket's log that the view does not have: they do not count any more.
    pub dropped_entries: u64,
}

/// Recovers the bucket of the link; the caller has locked the data directory.
pub fn recover(
    link: &BucketLink,
    settings: &HubSettings,
    from: RecoverFrom,
    wall: u64,
) -> Result<RecoveredHub> {
    let objects: Arc<dyn ObjectStore> = Arc::new(link.open()?);
    probe::check(objects.as_ref())?;
    let recovered = recover_in(&objects, settings, from, wall)?;
    BucketLink::record(Some(link), &settings.data_dir)?;
    Ok(recovered)
}

/// The same in a store that was tested.
pub fn recover_in(
    objects: &Arc<dyn ObjectStore>,
    settings: &HubSettings,
    from: RecoverFrom,
    wall: u64,
) -> Result<RecoveredHub> {
    let described = start::describe(objects.as_ref())?;
    let last = start::last_recovery(objects.as_ref())?;
    let source = match from {
        RecoverFrom::OpenedView => {
            let before = last.as_ref().map(|(_, bucket)| bucket);
            of_view(objects, described.as_ref(), before, settings, wall)?
        }
        RecoverFrom::Bucket => of_bucket(objects, described.as_ref(), settings, wall)?,
    };
    let recovered = of_source(objects, last, source, settings, from);
    if from == RecoverFrom::Bucket {
        let _ = std::fs::remove_dir_all(fetched(settings));
    }
    recovered
}

fn of_source(
    objects: &Arc<dyn ObjectStore>,
    last: Option<(u64, RecoveredBucket)>,
    source: RecoverySource,
    settings: &HubSettings,
    from: RecoverFrom,
) -> Result<RecoveredHub> {
    let store = match source {
        RecoverySource::Recovered { first } => {
            raise_floor(objects.as_ref(), first)?;
            return Ok(RecoveredHub {
                already: true,
                ..RecoveredHub::default()
            });
        }
        RecoverySource::Tables(store) => store,
    };
    if store.is_closed()? {
        return Err(super::closed());
    }
    ask_for_hubs(objects.as_ref())?;
    if from == RecoverFrom::OpenedView {
        SharedFiles::new(Arc::clone(objects), &settings.data_dir).publish_all()?;
    }
    start_bucket_again(objects, last, &store, &settings.data_dir)
}

enum RecoverySource {
    /// The tables from which the bucket begins anew.
    Tables(Arc<Store>),
    /// It has done so already, after this number.
    Recovered { first: u64 },
}

/// The view in the data directory, if the bucket does not continue it.
fn of_view(
    objects: &Arc<dyn ObjectStore>,
    described: Option<&Description>,
    before: Option<&RecoveredBucket>,
    settings: &HubSettings,
    wall: u64,
) -> Result<RecoverySource> {
    let dir = &settings.data_dir;
    if !dir.join(Store::FILE).exists() {
        let what = format!(
            "cannot recover the bucket: there is no view of it in {}",
            dir.display()
        );
        return Err(Error::new(Kind::Settings, what).hint(
            "run this on the machine whose hub ran last; if no machine has a view, --without-view continues with what the bucket has",
        ));
    }
    let store = Store::open(dir, settings.cache as usize, wall, Uuid::new_v4())?;
    let Some(cluster) = store.cluster()? else {
        return Err(start::no_view(dir));
    };
    let Some(description) = described else {
        return Ok(RecoverySource::Tables(Arc::new(store)));
    };
    if let Some(before) = before.filter(|before| before.replaced.contains(&cluster)) {
        let first = before.first;
        return Ok(RecoverySource::Recovered { first });
    }
    let first = before.map_or(0, |before| before.first);
    if description.cluster != cluster {
        let what = format!(
            "will not recover the bucket from {}: the bucket has another hub by now",
            dir.display()
        );
        return Err(Error::new(Kind::Settings, what)
            .hint("name an empty bucket or prefix in [hub] bucket to recover into that"));
    }
    match start::can_continue(objects.as_ref(), first, &store) {
        Err(e) if e.kind == Kind::Damaged => return Ok(RecoverySource::Tables(Arc::new(store))),
        Err(e) => return Err(e),
        Ok(true) if has_gap(objects.as_ref(), store.position()?.n)? => {
            // entries before the gap belong to the tables
            drop(store);
            let bucket = OpenBucket {
                objects: Arc::clone(objects),
                description: description.clone(),
            };
            return Ok(RecoverySource::Tables(bucket.begin(settings, wall)?.store));
        }
        Ok(false) if !has_snapshot(objects.as_ref(), description)? => {
            return Ok(RecoverySource::Tables(Arc::new(store)));
        }
        Ok(_) => {}
    }
    let what = format!(
        "will not recover the bucket: it has all that the view in {} needs",
        dir.display()
    );
    Err(Error::new(Kind::Settings, what).hint("start the hub"))
}

/// A view that is made of what the bucket has.
fn of_bucket(
    objects: &Arc<dyn ObjectStore>,
    described: Option<&Description>,
    settings: &HubSettings,
    wall: u64,
) -> Result<RecoverySource> {
    let dir = &settings.data_dir;
    if dir.join(Store::FILE).exists() {
        let what = format!(
            "will not recover the bucket without the view in {}",
            dir.display()
        );
        return Err(Error::new(Kind::Settings, what)
            .hint("leave --without-view out to use it, or name an empty directory with --data"));
    }
    let Some(description) = described else {
        let what = "cannot recover the bucket without a view: it has no hub";
        return Err(Error::new(Kind::Settings, what).hint(
            "run this without --without-view on the machine whose hub ran last, or start a new hub",
        ));
    };
    let bucket = OpenBucket {
        objects: Arc::clone(objects),
        description: description.clone(),
    };
    // not in the data directory itself, so that this command can be run again
    let settings = HubSettings {
        data_dir: fetched(settings),
        ..settings.clone()
    };
    match std::fs::remove_dir_all(&settings.data_dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("remove {}", settings.data_dir.display());
            return Err(Error::io(what, &e));
        }
        _ => {}
    }
    disk::create_dir(&settings.data_dir)?;
    Ok(RecoverySource::Tables(bucket.begin(&settings, wall)?.store))
}

fn fetched(settings: &HubSettings) -> PathBuf {
    settings.data_dir.join("recovering")
}

/// Whether there are entries after `n`, but not all of them.
fn has_gap(objects: &dyn ObjectStore, n: u64) -> Result<bool> {
    let after = super::entry_name(n);
    let rows = sure(objects, || objects.list(LOG, &after))?;
    Ok(rows
        .iter()
        .filter_map(|row| entry_number(&row.name))
        .zip(n + 1..)
        .any(|(there, expected)| there != expected))
}

fn has_snapshot(objects: &dyn ObjectStore, description: &Description) -> Result<bool> {
    let floor = sure(objects, || read_floor(objects))?;
    let snapshots = snapshot::list_whole(objects, description.cluster)?;
    Ok(snapshots.iter().any(|snapshot| snapshot.n >= floor))
}

/// The error if another hub of the bucket runs: it would not know of the recovery at once.
fn ask_for_hubs(objects: &dyn ObjectStore) -> Result<()> {
    let number = latest_version(objects, QUESTION)? + 1;
    let question = version_name(QUESTION, number);
    sure(objects, || objects.put(&question, b"", PutIf::Absent))?;
    let earlier = version_name(QUESTION, number - 1);
    sure(objects, || objects.delete(&earlier))?;
    let response = response_name(number);
    let until = objects.monotonic() + 2 * LOOK_INTERVAL.as_millis() as u64;
    while objects.monotonic() < until {
        objects.wait(RESPONSE_PAUSE);
        if let Some(object) = sure(objects, || objects.get(&response))? {
            sure(objects, || objects.delete(&response))?;
            let what = format!(
                "will not recover the bucket: a hub of it runs on {}",
                String::from_utf8_lossy(&object.bytes)
            );
            return Err(
                Error::new(Kind::Busy, what).hint("stop all hubs of the bucket, then try again")
            );
        }
    }
    Ok(())
}

fn response_name(number: u64) -> String {
    format!("{RESPONSES}{number:020}")
}

/// Says that a hub runs on the machine `host`, which has seen this question.
pub fn respond(objects: &dyn ObjectStore, question: u64, host: &str) -> Result<()> {
    let name = response_name(question);
    sure(objects, || {
        objects.put(&name, host.as_bytes(), PutIf::Always)
    })?;
    Ok(())
}

fn start_bucket_again(
    objects: &Arc<dyn ObjectStore>,
    last: Option<(u64, RecoveredBucket)>,
    store: &Store,
    data_dir: &Path,
) -> Result<RecoveredHub> {
    let clock = Arc::new(StoreClock::new(Arc::clone(objects)));
    let chunks = ChunkObjects::new(Arc::clone(objects), Arc::clone(&clock));
    let objects = objects.as_ref();
    // the names of chunks have the store's time
    clock.note_date(objects.get(DESCRIPTION).map_err(ObjectFault::error)?.date);
    let lacking = lacking_chunks(objects, store)?;
    let names = put_again(objects, &chunks, store, &lacking)?;
    let is_lost = |chunk: &&NamedChunk| !names.contains_key(&chunk.name.hash);
    let lost: BTreeSet<Hash> = (lacking.iter().filter(is_lost))
        .map(|chunk| chunk.name.hash)
        .collect();
    let (lost_names, lost_files) = store.files_that_need(&lost, MAX_NAMED_FILES)?;
    let (recovery, before) = last.map_or((0, None), |(number, bucket)| (number, Some(bucket)));
    let (highest, dropped_entries) = highest_number(objects, before.as_ref(), store)?;
    let recovered = RecoveredHub {
        already: false,
        files: store.counters()?.files,
        chunks: names.len() as u64,
        bytes: (lacking.iter().filter(|chunk| !is_lost(chunk)))
            .map(|chunk| chunk.size)
            .sum(),
        lost_chunks: lost.len() as u64,
        lost_files,
        lost: lost_names,
        dropped_entries,
    };
    let mut replaced = before.map_or_else(Vec::new, |before| before.replaced);
    replaced.extend(store.cluster()?);
    let description = Description {
        format: FORMAT,
        cluster: Uuid::new_v4(),
        epoch: Uuid::new_v4(),
    };
    let first = highest + ENTRIES_SKIPPED_BY_RECOVERY;
    let file = disk::temporary(&data_dir.join("recovered"));
    let _ = std::fs::remove_file(&file);
    let successor = Successor {
        cluster: description.cluster,
        epoch: description.epoch,
        first,
        names,
        lost,
        wall: clock.store_time().unwrap_or(0),
    };
    let put = (store.copy_as_successor(&file, &successor))
        .and_then(|()| snapshot::put(objects, description.cluster, first, &file));
    let _ = std::fs::remove_file(&file);
    put?;
    // a janitor removes this snapshot in the end
    let now = objects.get(DESCRIPTION).map_err(ObjectFault::error)?.date;
    if now.saturating_sub(successor.wall) > LONGEST_RECOVERY {
        let what = "cannot recover the bucket: this machine has slept meanwhile";
        return Err(Error::new(Kind::Busy, what).hint("run this again"));
    }
    let bucket = RecoveredBucket {
        description,
        first,
        replaced,
    };
    describe_anew(objects, recovery + 1, &bucket)?;
    raise_floor(objects, first)?;
    Ok(recovered)
}

/// From here on the bucket is the new one.
fn describe_anew(objects: &dyn ObjectStore, recovery: u64, bucket: &RecoveredBucket) -> Result<()> {
    let (name, bytes) = (version_name(RECOVERED, recovery), to_json(bucket));
    if sure(objects, || objects.put(&name, &bytes, PutIf::Absent))? == PutOutcome::Done {
        return Ok(());
    }
    // our own, by an attempt whose response was lost?
    let there = sure(objects, || objects.get(&name))?;
    if there.is_some_and(|there| there.bytes == bytes) {
        return Ok(());
    }
    let what = "cannot recover the bucket: another machine has recovered it at the same moment";
    Err(Error::new(Kind::Busy, what).hint("start the hubs"))
}

/// The chunks whose objects the bucket does not have.
fn lacking_chunks(objects: &dyn ObjectStore, store: &Store) -> Result<Vec<NamedChunk>> {
    let there: BTreeMap<String, u64> = sure(objects, || objects.list(ChunkName::PREFIX, ""))?
        .into_iter()
        .map(|row| (row.name, row.size))
        .collect();
    let mut chunks = store.named_chunks()?;
    chunks.retain(|chunk| there.get(&chunk.name.to_string()) != Some(&chunk.size));
    Ok(chunks)
}

/// Puts the files of the directory of chunks under new names. An object that a recovery has put before it was broken off is used.
fn put_again(
    objects: &dyn ObjectStore,
    chunks: &ChunkObjects,
    store: &Store,
    lacking: &[NamedChunk],
) -> Result<BTreeMap<Hash, ChunkName>> {
    let sizes: BTreeMap<Hash, u64> = (lacking.iter())
        .map(|chunk| (chunk.name.hash, chunk.size))
        .collect();
    let mut names = BTreeMap::new();
    if !lacking.is_empty() {
        for row in sure(objects, || objects.list(ChunkName::PREFIX, ""))? {
            let Ok(name) = row.name.parse::<ChunkName>() else {
                continue;
            };
            if sizes.get(&name.hash) == Some(&row.size) && store.admits_object(&name)? {
                names.insert(name.hash, name);
            }
        }
    }
    let rest = sizes.keys().filter(|hash| !names.contains_key(hash));
    let put = |hash| {
        let bytes = disk::read_at_most(&store.chunk_path(hash), SINGLE as usize);
        match bytes {
            Ok(bytes) if Hash::of(&bytes) == hash => chunks.put(hash, &bytes).map(Some),
            // damaged or not there
            _ => Ok(None),
        }
    };
    let put = put_all(rest.copied(), &put)?;
    names.extend(put);
    Ok(names)
}

/// The highest number of an entry that the old bucket may know, and how many entries the view does not have.
fn highest_number(
    objects: &dyn ObjectStore,
    before: Option<&RecoveredBucket>,
    store: &Store,
) -> Result<(u64, u64)> {
    let position = store.position()?;
    let entries = sure(objects, || objects.list(LOG, ""))?;
    let numbers = || entries.iter().filter_map(|row| entry_number(&row.name));
    let snapshots = snapshot::list(objects)?;
    let last = [
        position.n,
        numbers().max().unwrap_or(0),
        snapshots.last().map_or(0, |snapshot| snapshot.n),
        sure(objects, || read_floor(objects))?,
        before.map_or(0, |before| before.first),
    ];
    let foreign = numbers().filter(|n| *n > position.n).count() as u64;
    Ok((last.into_iter().max().unwrap_or(0), foreign))
}
