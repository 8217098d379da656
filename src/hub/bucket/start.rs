//! A hub's start with a bucket: the bucket is made or recognised, and the data directory becomes a view of it.

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::chunks::ChunkObjects;
use super::clock::StoreClock;
use super::objects::{ObjectStore, PutIf, PutOutcome, sure};
use super::shared_files::{BucketLink, latest_version, version_name};
use super::shared_log::SharedLog;
use super::{
    DESCRIPTION, Description, LOG, RecoveredBucket, entry_name, read_floor, read_json, snapshot,
    to_json,
};
use crate::config::HubSettings;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::hub::commit_log::LogFault;
use crate::hub::store::Store;
use crate::hub::store::files::ChunkSource;
use crate::hub::store::ops::shared::{FORMAT, LogEntry};

/// The description that a recovery has put, as the name of a shared file: the latest version counts.
pub const RECOVERED: &str = "recovered";

/// The outcome of the last recovery, with its number; `None`: the bucket was never recovered.
pub fn last_recovery(objects: &dyn ObjectStore) -> Result<Option<(u64, RecoveredBucket)>> {
    let number = latest_version(objects, RECOVERED)?;
    if number == 0 {
        return Ok(None);
    }
    let name = version_name(RECOVERED, number);
    let object = sure(objects, || objects.get(&name))?;
    object
        .map(|object| Ok((number, read_json(&name, &object.bytes)?)))
        .transpose()
}

/// What the bucket says that it is; `None`: it is empty.
pub fn describe(objects: &dyn ObjectStore) -> Result<Option<Description>> {
    let description: Description = match last_recovery(objects)? {
        Some((_, recovered)) => recovered.description,
        None => match sure(objects, || objects.get(DESCRIPTION))? {
            Some(object) => read_json(DESCRIPTION, &object.bytes)?,
            None => return Ok(None),
        },
    };
    if description.format > FORMAT {
        return Err(Error::new(
            Kind::Damaged,
            "cannot use the bucket: a newer mesync made it",
        )
        .hint("update this hub"));
    }
    Ok(Some(description))
}

/// Makes the bucket that of a hub with these tables, which are of no entry. If several do that at once, one wins, and its
/// description is returned to all.
pub fn create(
    objects: &dyn ObjectStore,
    tables: &Path,
    cluster: Uuid,
    epoch: Uuid,
) -> Result<Description> {
    snapshot::put(objects, cluster, 0, tables)?;
    let description = Description {
        format: FORMAT,
        cluster,
        epoch,
    };
    let put = sure(objects, || {
        objects.put(DESCRIPTION, &to_json(&description), PutIf::Absent)
    })?;
    match put {
        PutOutcome::Done => Ok(description),
        // another hub's, or our own by an attempt whose response was lost
        PutOutcome::Failed => describe(objects)?.ok_or_else(|| {
            Error::new(
                Kind::Unreachable,
                format!("cannot read {DESCRIPTION}, which exists"),
            )
        }),
    }
}

/// Makes the bucket that of a new, empty hub.
pub fn create_empty(
    objects: &dyn ObjectStore,
    data_dir: &Path,
    cache: usize,
    cluster: Uuid,
    epoch: Uuid,
) -> Result<Description> {
    let file = disk::temporary(&data_dir.join(Store::FILE));
    Store::create_view(&file, cache, cluster, epoch)?;
    let created = create(objects, &file, cluster, epoch);
    let _ = std::fs::remove_file(&file);
    created
}

/// Listings of the snapshots until one of them can be fetched.
const SNAPSHOT_ATTEMPTS: usize = 10;

/// Opens the view of the bucket in `data_dir`: the present one if it can be continued, otherwise the newest snapshot.
///
/// `Kind::Settings`: the directory has the data of another hub. `Kind::Damaged`: the bucket was set back, or lacks objects.
pub fn open_view(
    objects: &dyn ObjectStore,
    bucket: &Description,
    data_dir: &Path,
    cache: usize,
    wall: u64,
) -> Result<Store> {
    let path = data_dir.join(Store::FILE);
    if path.exists() {
        let recovered = last_recovery(objects)?.map(|(_, recovered)| recovered);
        let (first, replaced) = recovered.map_or_else(Default::default, |recovered| {
            (recovered.first, recovered.replaced)
        });
        let store = Store::open(data_dir, cache, wall, bucket.epoch)?;
        match store.cluster()? {
            None => return Err(no_view(data_dir)),
            Some(cluster) if replaced.contains(&cluster) => log::info!(
                "the bucket was recovered; starting from its snapshot data={}",
                data_dir.display()
            ),
            Some(cluster) if cluster != bucket.cluster => {
                let what = format!(
                    "will not use {}: it is a view of another bucket",
                    data_dir.display()
                );
                return Err(Error::new(Kind::Settings, what)
                    .hint("name another directory with --data, or remove this one"));
            }
            Some(_) if store.epoch() == bucket.epoch && can_continue(objects, first, &store)? => {
                return Ok(store);
            }
            Some(_) => log::info!(
                "this hub was away for a long time; starting from a snapshot data={}",
                data_dir.display()
            ),
        }
    }
    let file = disk::temporary(&path);
    for _ in 0..SNAPSHOT_ATTEMPTS {
        // other hubs may replace those of the list before they are fetched
        for snapshot in snapshot::list(objects)?.iter().rev() {
            if let Some(n) = snapshot::fetch(objects, bucket.cluster, snapshot, &file)? {
                disk::rename(&file, &path)
                    .and_then(|()| disk::sync_dir(data_dir))
                    .map_err(|e| Error::io(format!("write {}", path.display()), &e))?;
                log::info!("fetched a snapshot of the tables n={n}");
                return Store::open(data_dir, cache, wall, bucket.epoch);
            }
        }
    }
    let what = "cannot begin with this bucket: it has no complete snapshot";
    Err(Error::new(Kind::Damaged, what)
        .hint("was something removed from it by hand, or by a lifecycle rule?"))
}

/// Whether the log, which begins after `first`, still has what follows the view. `Kind::Damaged`: it has something else, or ends
/// before it.
pub fn can_continue(objects: &dyn ObjectStore, first: u64, store: &Store) -> Result<bool> {
    let position = store.position()?;
    let floor = sure(objects, || read_floor(objects))?;
    if position.n < floor {
        return Ok(false);
    }
    // no entry has that number
    if position.n == first {
        return Ok(true);
    }
    let name = entry_name(position.n);
    let there = sure(objects, || objects.get(&name))?;
    let is_same = match &there {
        // at the floor: removed, and all after it is there
        None => position.n == floor || sure(objects, || read_floor(objects))? >= position.n,
        Some(object) => {
            LogEntry::decode(&object.bytes).is_ok_and(|entry| entry.nonce == position.nonce)
        }
    };
    if is_same {
        return Ok(true);
    }
    let why = if there.is_some() {
        "another entry stands there"
    } else {
        "it is not there"
    };
    let what = format!(
        "cannot continue after entry {} of the log: {why}, so the bucket was set back or something was removed",
        position.n
    );
    Err(set_back(what))
}

/// The error of a data directory that has the data of a hub of its own.
pub fn no_view(data_dir: &Path) -> Error {
    let what = format!(
        "will not use {} as a view of the bucket: it has the data of a hub",
        data_dir.display()
    );
    Error::new(Kind::Settings, what).hint(
        "move that hub into the bucket with \"mesync hub move --to-bucket\", or name another directory with --data",
    )
}

/// An empty bucket becomes that of a new hub only if the data directory has no tables: they may be the last copy.
fn refuse_if_used(data_dir: &Path, cache: usize) -> Result<()> {
    if !data_dir.join(Store::FILE).exists() {
        return Ok(());
    }
    if Store::open(data_dir, cache, 0, Uuid::new_v4())?
        .cluster()?
        .is_none()
    {
        return Err(no_view(data_dir));
    }
    let what = format!(
        "will not make a new hub of the bucket: it is empty, and {} is the view of one that was not",
        data_dir.display()
    );
    Err(set_back(what))
}

/// The error of a bucket that no longer has what its hubs have seen.
fn set_back(what: String) -> Error {
    Error::new(Kind::Damaged, what).hint(
        "read \"SEVERAL HUBS\" in mesync(7), then \"mesync hub recover\" on the machine whose hub ran last",
    )
}

/// A bucket that was tested and recognised.
pub struct OpenBucket {
    pub objects: Arc<dyn ObjectStore>,
    pub description: Description,
}

/// The bucket of the settings; `None`: they name none.
pub fn link_of(settings: &HubSettings, credentials: Option<&Path>) -> Result<Option<BucketLink>> {
    let Some(url) = &settings.bucket else {
        return Ok(None);
    };
    let key = match (&settings.bucket_key, &settings.bucket_key_file) {
        (Some(key), _) => Some(key.0.clone()),
        (None, Some(path)) => Some(disk::read_secret(path)?),
        (None, None) => disk::read_credential(credentials, "bucket-key")?,
    };
    let missing = || {
        Error::new(
            Kind::Settings,
            format!("cannot use the bucket {url}: its access key is not set"),
        )
        .hint("name a file with ID:SECRET in bucket_key_file")
    };
    Ok(Some(BucketLink {
        url: url.to_string(),
        region: settings.bucket_region.clone(),
        key: key.ok_or_else(missing)?,
        ca_file: settings.ca_file.clone(),
    }))
}

/// Tests the store, and makes or recognises the bucket.
pub fn open(objects: Arc<dyn ObjectStore>, data_dir: &Path, cache: usize) -> Result<OpenBucket> {
    super::probe::check(objects.as_ref())?;
    let description = match describe(objects.as_ref())? {
        Some(description) => description,
        None => {
            if !sure(objects.as_ref(), || objects.list(LOG, ""))?.is_empty() {
                let what =
                    format!("cannot begin with this bucket: it has a log, but no {DESCRIPTION}");
                return Err(set_back(what));
            }
            refuse_if_used(data_dir, cache)?;
            log::info!("the bucket is empty; making a new hub of it");
            create_empty(
                objects.as_ref(),
                data_dir,
                cache,
                Uuid::new_v4(),
                Uuid::new_v4(),
            )?
        }
    };
    Ok(OpenBucket {
        objects,
        description,
    })
}

/// The view of a running hub, and its end of the log, which has been followed to its end.
pub struct OpenedView {
    pub store: Arc<Store>,
    pub log: SharedLog,
    pub clock: Arc<StoreClock>,
}

impl OpenBucket {
    /// `Kind::Busy`: the bucket does not respond.
    pub fn begin(&self, settings: &HubSettings, wall: u64) -> Result<OpenedView> {
        let (objects, data_dir) = (Arc::clone(&self.objects), &settings.data_dir);
        let store = Arc::new(open_view(
            objects.as_ref(),
            &self.description,
            data_dir,
            settings.cache as usize,
            wall,
        )?);
        let clock = Arc::new(StoreClock::new(Arc::clone(&objects)));
        let chunks = Arc::new(ChunkObjects::new(Arc::clone(&objects), Arc::clone(&clock)));
        store.set_chunk_source(Arc::clone(&chunks) as Arc<dyn ChunkSource>);
        let mut log = SharedLog::new(
            objects,
            Arc::clone(&store),
            Arc::clone(&clock),
            chunks,
            Uuid::new_v4(),
            settings.commit_window,
            settings.bucket_poll,
        )?;
        match log.catch_up() {
            Ok(()) => Ok(OpenedView { store, log, clock }),
            Err(LogFault::Busy(e) | LogFault::StartAgain(e) | LogFault::Final(e)) => Err(e),
        }
    }
}
