//! A bucket that loses responses, delays requests and reports conflicts, and whose observer follows the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::schedule::{MachineId, Schedule, ThreadId};
use super::witness::Witness;
use crate::error::{Error, Kind};
use crate::hub::bucket::objects::{
    ListedObject, Object, ObjectFault, ObjectResult, ObjectStore, PutIf, PutOutcome, Response,
};

#[derive(Clone)]
struct Stored {
    bytes: Vec<u8>,
    at: u64,
}

/// A request that takes effect later.
enum Late {
    Put(String, Vec<u8>, PutIf),
    Delete(String),
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, Stored>,
    late: Vec<Late>,
}

/// The bucket, shared by all machines.
pub struct SimBucket {
    pub schedule: Arc<Schedule>,
    contents: Mutex<Contents>,
    pub witness: Mutex<Witness>,
    faults: Mutex<bool>,
}

impl SimBucket {
    pub fn new(schedule: Arc<Schedule>, witness: Witness) -> SimBucket {
        SimBucket {
            schedule,
            contents: Mutex::default(),
            witness: Mutex::new(witness),
            faults: Mutex::new(false),
        }
    }

    pub fn set_faults(&self, faults: bool) {
        *self.faults.lock().unwrap() = faults;
        if !faults {
            self.contents.lock().unwrap().late.clear();
        }
    }

    /// All objects, as a copy that can be put back.
    pub fn copy(&self) -> BTreeMap<String, Vec<u8>> {
        let contents = self.contents.lock().unwrap();
        (contents.objects.iter())
            .map(|(name, stored)| (name.clone(), stored.bytes.clone()))
            .collect()
    }

    /// What a person does with another tool.
    pub fn set_back(&self, to: &BTreeMap<String, Vec<u8>>) {
        let at = self.schedule.now();
        let stored = |(name, bytes): (&String, &Vec<u8>)| {
            let bytes = bytes.clone();
            (name.clone(), Stored { bytes, at })
        };
        self.contents.lock().unwrap().objects = to.iter().map(stored).collect();
    }

    /// Some requests that were delayed take effect.
    pub fn let_late_ones_in(&self) {
        let late = {
            let mut contents = self.contents.lock().unwrap();
            let n = contents.late.len() as u64;
            if n == 0 || !self.schedule.one_in(10) {
                return;
            }
            let chosen = self.schedule.below(n) as usize;
            contents.late.swap_remove(chosen)
        };
        match late {
            Late::Put(name, bytes, only_if) => drop(self.put(&name, &bytes, only_if)),
            Late::Delete(name) => self.delete(&name),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], only_if: PutIf) -> PutOutcome {
        let at = self.schedule.now();
        {
            let mut contents = self.contents.lock().unwrap();
            if only_if == PutIf::Absent && contents.objects.contains_key(name) {
                return PutOutcome::Failed;
            }
            contents.objects.insert(
                name.to_string(),
                Stored {
                    bytes: bytes.to_vec(),
                    at,
                },
            );
        }
        let is_there = |name: &str| self.contents.lock().unwrap().objects.contains_key(name);
        self.witness.lock().unwrap().put(name, bytes, &is_there);
        PutOutcome::Done
    }

    fn delete(&self, name: &str) {
        self.contents.lock().unwrap().objects.remove(name);
        self.witness.lock().unwrap().deleted(name);
    }
}

/// The bucket as one thread of one machine reaches it.
pub struct Link {
    pub bucket: Arc<SimBucket>,
    pub machine: MachineId,
    pub thread: ThreadId,
}

impl Link {
    fn request<T>(
        &self,
        late: Option<Late>,
        is_conditional: bool,
        act: impl FnOnce(&SimBucket) -> T,
    ) -> ObjectResult<T> {
        let (bucket, schedule) = (&self.bucket, &self.bucket.schedule);
        let unknown = || {
            Err(ObjectFault::Unknown(Error::new(
                Kind::Unreachable,
                "no response",
            )))
        };
        let x = if *bucket.faults.lock().unwrap() {
            schedule.below(100)
        } else {
            100
        };
        let pass = || schedule.pass(self.thread, schedule.below(30));
        bucket.let_late_ones_in();
        pass();
        match x {
            0..5 => return unknown(),
            5..10 => {
                bucket.contents.lock().unwrap().late.extend(late);
                return unknown();
            }
            10..14 if is_conditional => return unknown(),
            _ => {}
        }
        if schedule.one_in(2) {
            pass();
        }
        let value = act(bucket);
        // whole seconds, as in an HTTP header
        let date = schedule.now() / 1000 * 1000;
        if schedule.one_in(2) {
            pass();
        }
        if (14..22).contains(&x) {
            return unknown();
        }
        Ok(Response { value, date })
    }
}

impl ObjectStore for Link {
    fn put(&self, name: &str, bytes: &[u8], only_if: PutIf) -> ObjectResult<PutOutcome> {
        let late = Late::Put(name.into(), bytes.to_vec(), only_if);
        self.request(Some(late), only_if == PutIf::Absent, |bucket| {
            bucket.put(name, bytes, only_if)
        })
    }

    fn get(&self, name: &str) -> ObjectResult<Option<Object>> {
        self.request(None, false, |bucket| {
            let contents = bucket.contents.lock().unwrap();
            contents.objects.get(name).map(|stored| Object {
                bytes: stored.bytes.clone(),
                modified: stored.at / 1000 * 1000,
            })
        })
    }

    fn delete(&self, name: &str) -> ObjectResult<()> {
        self.request(Some(Late::Delete(name.into())), false, |bucket| {
            bucket.delete(name)
        })
    }

    fn list(&self, prefix: &str, after: &str) -> ObjectResult<Vec<ListedObject>> {
        self.request(None, false, |bucket| {
            let contents = bucket.contents.lock().unwrap();
            (contents.objects.iter())
                .filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after)
                .map(|(name, stored)| ListedObject {
                    name: name.clone(),
                    size: stored.bytes.len() as u64,
                    modified: stored.at / 1000 * 1000,
                })
                .collect()
        })
    }

    fn monotonic(&self) -> u64 {
        self.bucket.schedule.monotonic(self.machine)
    }

    fn wait(&self, time: Duration) {
        self.bucket
            .schedule
            .pass(self.thread, time.as_millis() as u64);
    }

    fn random(&self) -> u64 {
        self.bucket.schedule.below(u64::MAX)
    }
}
