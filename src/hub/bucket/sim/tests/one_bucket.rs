//! One bucket without faults, and hubs on it that a test runs step by step.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::bucket::{Link, SimBucket};
use super::hub::content;
use super::replay::put;
use super::schedule::{Pace, Schedule};
use super::witness::Witness;
use super::{BEGIN, CLUSTER, EPOCH, LIMITS, scratch};
use crate::config::HubSettings;
use crate::error::Result;
use crate::hub::bucket::objects::{
    ListedObject, Object, ObjectFault, ObjectResult, ObjectStore, PutIf, PutOutcome,
};
use crate::hub::bucket::start::{OpenBucket, OpenedView, create_empty, describe};
use crate::hub::commit_log::Log;
use crate::hub::store::ops::{Group, Op};
use crate::wire::files::Hash;

/// The requests of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestKind {
    Put,
    Get,
    Delete,
    List,
}

/// A bucket whose requests and waits are told to a test.
pub struct Tapped {
    pub inner: Arc<dyn ObjectStore>,
    /// The error: the request is not made.
    pub on_request: Box<dyn Fn(RequestKind) -> std::result::Result<(), ObjectFault> + Send + Sync>,
    pub on_wait: Box<dyn Fn() + Send + Sync>,
}

impl ObjectStore for Tapped {
    fn put(&self, name: &str, bytes: &[u8], only_if: PutIf) -> ObjectResult<PutOutcome> {
        (self.on_request)(RequestKind::Put)?;
        self.inner.put(name, bytes, only_if)
    }

    fn get(&self, name: &str) -> ObjectResult<Option<Object>> {
        (self.on_request)(RequestKind::Get)?;
        self.inner.get(name)
    }

    fn delete(&self, name: &str) -> ObjectResult<()> {
        (self.on_request)(RequestKind::Delete)?;
        self.inner.delete(name)
    }

    fn list(&self, prefix: &str, after: &str) -> ObjectResult<Vec<ListedObject>> {
        (self.on_request)(RequestKind::List)?;
        self.inner.list(prefix, after)
    }

    fn monotonic(&self) -> u64 {
        self.inner.monotonic()
    }

    fn wait(&self, time: Duration) {
        self.inner.wait(time);
        (self.on_wait)();
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }
}

pub struct Fixture {
    pub bucket: Arc<SimBucket>,
    pub objects: Arc<dyn ObjectStore>,
    pub dirs: TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        let schedule = Arc::new(Schedule::new(1, 1, BEGIN));
        schedule.set_pace(Pace::Unsteady);
        let bucket = Arc::new(SimBucket::new(schedule, Witness::new(CLUSTER, EPOCH)));
        let objects: Arc<dyn ObjectStore> = Arc::new(Link {
            bucket: Arc::clone(&bucket),
            machine: 0,
            thread: 0,
        });
        let dirs = scratch();
        create_empty(objects.as_ref(), dirs.path(), 1 << 20, CLUSTER, EPOCH).unwrap();
        Fixture {
            bucket,
            objects,
            dirs,
        }
    }

    pub fn settings(&self, hub: &str) -> HubSettings {
        let data_dir = self.dirs.path().join(hub);
        std::fs::create_dir_all(&data_dir).unwrap();
        HubSettings {
            data_dir,
            cache: 1 << 20,
            ..HubSettings::default()
        }
    }

    pub fn chunk_path(&self, hub: &str, number: u64) -> std::path::PathBuf {
        let hash = Hash::of(&content(number)).to_string();
        self.dirs
            .path()
            .join(hub)
            .join("chunks")
            .join(&hash[..2])
            .join(&hash)
    }

    pub fn try_begin(&self, hub: &str) -> Result<OpenedView> {
        let bucket = OpenBucket {
            objects: Arc::clone(&self.objects),
            description: describe(self.objects.as_ref())?.expect("the bucket has a hub"),
        };
        bucket.begin(&self.settings(hub), 0)
    }

    pub fn begin(&self, hub: &str) -> OpenedView {
        self.try_begin(hub).map_err(|e| e.to_string()).unwrap()
    }

    /// Writes files with these contents, each in an entry of its own.
    pub fn write(&self, view: &mut OpenedView, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let bytes = content(number);
            let mut intake = view.store.intake().unwrap();
            intake.write(&bytes).unwrap();
            let there = intake.finish().unwrap().bytes.remove(0);
            let op = put(
                u128::from(number),
                &format!("f{number}"),
                &bytes,
                there,
                None,
            );
            view.log.uploader().unwrap().upload(&op).unwrap();
            commit(&mut view.log, op);
        }
    }
}

pub fn commit(log: &mut dyn Log, op: Op) {
    let group = Group::for_shared_log(LIMITS, vec![op]);
    log.commit(group).unwrap();
}
