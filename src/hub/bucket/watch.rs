//! What a running hub finds out about its bucket beside the log: that it was set back or recovered, and that a recovery asks
//! whether a hub runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::objects::ObjectStore;
use super::recovery::{QUESTION, respond};
use super::start::{RECOVERED, can_continue, last_recovery};
use crate::error::{Error, Kind, Result};
use crate::hub::commit_log::LogFault;
use crate::hub::store::Store;

/// Milliseconds between two looks at the entry that the view has applied last.
const ENTRY_LOOK_INTERVAL: u64 = 60_000;

pub struct BucketWatch {
    objects: Arc<dyn ObjectStore>,
    /// The number of the last recovery, and the number after which the log begins.
    recovery: u64,
    first: u64,
    store: Arc<Store>,
    /// The name of this machine, for a person.
    machine: String,
    /// The last question that was answered.
    responded: u64,
    /// The last look at the entry, by [`ObjectStore::monotonic`].
    checked: u64,
}

impl BucketWatch {
    /// The store is a view of the bucket as it is now.
    pub fn new(objects: Arc<dyn ObjectStore>, store: Arc<Store>) -> Result<BucketWatch> {
        let machine = rustix::system::uname();
        let recovered = last_recovery(objects.as_ref())?;
        // if it has just been recovered, the first look finds that
        let cluster = store.cluster()?;
        let (recovery, first) = recovered
            .filter(|(_, bucket)| Some(bucket.description.cluster) == cluster)
            .map_or((0, 0), |(number, bucket)| (number, bucket.first));
        Ok(BucketWatch {
            checked: objects.monotonic(),
            objects,
            recovery,
            first,
            store,
            machine: machine.nodename().to_string_lossy().into_owned(),
            responded: 0,
        })
    }

    /// To be called every few seconds with the latest versions of all shared files. The error ends the hub.
    pub fn check(&mut self, versions: &BTreeMap<String, u64>) -> std::result::Result<(), LogFault> {
        let version = |name| versions.get(name).copied().unwrap_or(0);
        if version(RECOVERED) > self.recovery {
            let what = "cannot continue with this view: the bucket was recovered from another one";
            return Err(LogFault::StartAgain(Error::new(Kind::Failed, what)));
        }
        let question = version(QUESTION);
        if question > self.responded {
            match respond(self.objects.as_ref(), question, &self.machine) {
                Ok(()) => self.responded = question,
                Err(e) => log::warn!("cannot say that this hub runs: {e}"),
            }
        }
        let now = self.objects.monotonic();
        if now.saturating_sub(self.checked) < ENTRY_LOOK_INTERVAL {
            return Ok(());
        }
        self.checked = now;
        match can_continue(self.objects.as_ref(), self.first, &self.store) {
            Err(e) if e.kind == Kind::Damaged => Err(LogFault::Final(e)),
            _ => Ok(()),
        }
    }
}
