//! Moves a stopped hub into a bucket, and the hub of a bucket onto a disk. Clients notice neither: epoch, revisions and numbers
//! stay.
//!
//! Into a bucket the description is written last: broken off before that, nothing has happened. Onto a disk an entry closes the
//! log first, at the same place for all hubs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::bounded;
use uuid::Uuid;

use super::chunks::ChunkObjects;
use super::clock::StoreClock;
use super::objects::{ObjectFault, ObjectStore};
use super::shared_files::{BucketLink, SharedFiles};
use super::start::{self, OpenedView};
use super::{DESCRIPTION, probe};
use crate::config::{HubSettings, limits};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::hub::commit_log::Log;
use crate::hub::store::Store;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::ops::shared::LogOp;
use crate::hub::store::ops::{Group, Limits, Op};
use crate::wire::files::{Hash, SINGLE};

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MovedHub {
    pub files: u64,
    /// Objects of chunks, and their bytes.
    pub chunks: u64,
    pub bytes: u64,
    /// Chunks that the bucket has lost.
    pub lost: u64,
}

/// Moves the hub in `data_dir`, which the caller has locked, into an empty bucket. The directory becomes a view of it.
pub fn to_bucket(link: &BucketLink, data_dir: &Path, cache: usize, wall: u64) -> Result<MovedHub> {
    let objects: Arc<dyn ObjectStore> = Arc::new(link.open()?);
    probe::check(objects.as_ref())?;
    if start::describe(objects.as_ref())?.is_some() {
        let what = format!(
            "cannot move into the bucket {}: it has a hub already",
            link.url
        );
        return Err(Error::new(Kind::Settings, what).hint("name another bucket or prefix"));
    }
    let store = Store::open(data_dir, cache, wall, Uuid::new_v4())?;
    if store.cluster()?.is_some() {
        let what = format!(
            "cannot move {}: it is a view of a bucket",
            data_dir.display()
        );
        return Err(Error::new(Kind::Settings, what).hint("the bucket has its data already"));
    }
    let clock = Arc::new(StoreClock::new(Arc::clone(&objects)));
    // the names of chunks have the store's time
    clock.note_date(objects.get(DESCRIPTION).map_err(ObjectFault::error)?.date);
    let chunks = ChunkObjects::new(Arc::clone(&objects), clock);
    let hashes = store.chunk_files()?;
    let names = put_all(hashes.iter().map(|(hash, _)| *hash), &|hash| {
        put_one(&chunks, &store, hash).map(Some)
    })?;
    let (cluster, file) = (Uuid::new_v4(), disk::temporary(&data_dir.join(Store::FILE)));
    let _ = std::fs::remove_file(&file);
    store.copy_as_view(&file, cluster, &names)?;
    let moved = MovedHub {
        files: store.counters()?.files,
        chunks: names.len() as u64,
        bytes: hashes.iter().map(|(_, size)| size).sum(),
        lost: 0,
    };
    let epoch = store.epoch();
    drop(store);
    SharedFiles::new(Arc::clone(&objects), data_dir).refresh_all(&mut BTreeMap::new())?;
    start::create(objects.as_ref(), &file, cluster, epoch)?;
    // from here on the bucket has the hub, and this directory must not be one of its own
    disk::rename(&file, &data_dir.join(Store::FILE))
        .and_then(|()| disk::sync_dir(data_dir))
        .map_err(|e| Error::io(format!("replace the tables in {}", data_dir.display()), &e))?;
    BucketLink::record(Some(link), data_dir)?;
    Ok(moved)
}

/// Calls `put` for each chunk, in several threads, until one fails. Returns the names that it has returned.
pub fn put_all(
    hashes: impl Iterator<Item = Hash>,
    put: &(dyn Fn(Hash) -> Result<Option<ChunkName>> + Sync),
) -> Result<BTreeMap<Hash, ChunkName>> {
    let names = Mutex::new(BTreeMap::new());
    let failed = Mutex::new(None);
    let (sender, work) = bounded::<Hash>(limits::UPLOADERS);
    std::thread::scope(|scope| {
        for _ in 0..limits::UPLOADERS {
            let work = work.clone();
            scope.spawn(|| {
                for hash in work {
                    match put(hash) {
                        Ok(name) => names
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend(name.map(|name| (hash, name))),
                        Err(e) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e),
                    }
                }
            });
        }
        for hash in hashes {
            let stop = failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some();
            if stop || sender.send(hash).is_err() {
                break;
            }
        }
        drop(sender);
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(names.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn put_one(chunks: &ChunkObjects, store: &Store, hash: Hash) -> Result<ChunkName> {
    let path = store.chunk_path(hash);
    let bytes = disk::read_at_most(&path, SINGLE as usize)
        .map_err(|e| Error::io(format!("read {}", path.display()), &e))?;
    if Hash::of(&bytes) != hash {
        let what = format!(
            "cannot move {}: its bytes have another checksum",
            path.display()
        );
        return Err(Error::new(Kind::Damaged, what)
            .hint("\"mesync hub check --repair\" first, and let clients send it again"));
    }
    chunks.put(hash, &bytes)
}

/// Makes a hub of its own in the empty directory `settings.data_dir`, which the caller has locked, and closes the bucket.
pub fn to_disk(link: &BucketLink, settings: &HubSettings, wall: u64) -> Result<MovedHub> {
    let objects: Arc<dyn ObjectStore> = Arc::new(link.open()?);
    let data_dir = &settings.data_dir;
    let Some(description) = start::describe(objects.as_ref())? else {
        return Err(Error::new(
            Kind::Settings,
            format!("cannot move the hub of {}: there is none", link.url),
        ));
    };
    let bucket = start::OpenBucket {
        objects: Arc::clone(&objects),
        description,
    };
    let OpenedView { store, mut log, .. } = bucket.begin(settings, wall)?;
    if !store.is_closed()? {
        let group = Group::for_shared_log(Limits::of(settings), vec![Op::Log(LogOp::Close)]);
        // the entry ends every hub, this one too
        let _ = log.commit(group);
        if !store.is_closed()? {
            let what = format!(
                "cannot close the log in {}: the bucket does not respond",
                link.url
            );
            return Err(Error::new(Kind::Busy, what).hint("try again: nothing was moved"));
        }
    }
    let mut moved = MovedHub {
        files: store.counters()?.files,
        ..MovedHub::default()
    };
    for (hash, size) in store.chunk_files()? {
        if store.fetch_chunk(hash)? {
            moved.chunks += 1;
            moved.bytes += size;
        } else {
            moved.lost += 1;
        }
    }
    SharedFiles::new(Arc::clone(&objects), data_dir).refresh_all(&mut BTreeMap::new())?;
    disk::sync_filesystem(data_dir)
        .map_err(|e| Error::io(format!("sync {}", data_dir.display()), &e))?;
    store.leave_bucket()?;
    BucketLink::record(None, data_dir)?;
    Ok(moved)
}
