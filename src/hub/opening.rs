//! Opens a hub's tables and log: on its own disk, or as a view of a bucket.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::bucket;
use super::bucket::clock::StoreClock;
use super::bucket::shared_files::{BucketLink, SharedFiles};
use super::bucket::start::OpenBucket;
use super::commit_log::{DiskLog, Log};
use super::peers::{self, PeerWaits};
use super::store::Store;
use crate::clock;
use crate::config::HubSettings;
use crate::error::{Error, Kind, Result};

/// The tables and their log; with a bucket, that too.
pub struct OpenedStore {
    pub store: Arc<Store>,
    pub log: Box<dyn Log>,
    pub bucket: Option<OpenedBucket>,
}

/// What a hub of a bucket has besides.
pub struct OpenedBucket {
    pub bucket: OpenBucket,
    pub clock: Arc<StoreClock>,
    pub peers: PeerWaits,
}

pub fn open_store(hub: &HubSettings, credentials: Option<&Path>) -> Result<OpenedStore> {
    let (cache, wall) = (hub.cache as usize, clock::millis(clock::now()));
    let link = bucket::start::link_of(hub, credentials)?;
    let Some(link) = link else {
        let store = Arc::new(Store::open(&hub.data_dir, cache, wall, Uuid::new_v4())?);
        if store.cluster()?.is_some() {
            let what = format!(
                "will not use {}: it is a view of a bucket, not a hub of its own",
                hub.data_dir.display()
            );
            return Err(Error::new(Kind::Settings, what)
                .hint("set [hub] bucket, or name another directory with --data"));
        }
        BucketLink::record(None, &hub.data_dir)?;
        let log = Box::new(DiskLog::new(Arc::clone(&store)));
        return Ok(OpenedStore {
            store,
            log,
            bucket: None,
        });
    };
    let bucket = bucket::start::open(Arc::new(link.open()?), &hub.data_dir, cache)?;
    let mut view = bucket.begin(hub, wall)?;
    if view.store.is_closed()? {
        return Err(bucket::closed());
    }
    BucketLink::record(Some(&link), &hub.data_dir)?;
    SharedFiles::new(Arc::clone(&bucket.objects), &hub.data_dir)
        .refresh_all(&mut BTreeMap::new())?;
    let (wakers, peers) = peers::channels(hub);
    view.log.on_written = Box::new(move || wakers.written());
    Ok(OpenedStore {
        store: view.store,
        log: Box::new(view.log),
        bucket: Some(OpenedBucket {
            bucket,
            clock: view.clock,
            peers,
        }),
    })
}
