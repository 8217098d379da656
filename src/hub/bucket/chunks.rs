//! The chunks of files as objects: put by the thread that has received them, before the operation that names them is submitted,
//! and fetched when they are read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::clock::StoreClock;
use super::objects::{ObjectFault, ObjectStore, PutIf};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::hub::commit_log::Uploader;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::files::ChunkSource;
use crate::hub::store::ops::Op;
use crate::hub::store::ops::files::Bytes;
use crate::wire::files::{Hash, SINGLE};

/// Attempts for one chunk, and the pause after the first.
const PUT_ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Puts and fetches chunks; shared by threads.
pub struct ChunkObjects {
    objects: Arc<dyn ObjectStore>,
    clock: Arc<StoreClock>,
}

impl ChunkObjects {
    pub fn new(objects: Arc<dyn ObjectStore>, clock: Arc<StoreClock>) -> ChunkObjects {
        ChunkObjects { objects, clock }
    }

    /// Puts a chunk under a name of its own, which is never used again: not even by an attempt whose outcome is unknown.
    pub fn put(&self, hash: Hash, bytes: &[u8]) -> Result<ChunkName> {
        let unknown = || {
            Error::new(
                Kind::Busy,
                "cannot put a chunk: the bucket has not responded yet",
            )
        };
        self.retry(|| {
            let made = self
                .clock
                .store_time()
                .ok_or_else(|| ObjectFault::Unknown(unknown()))?;
            let name = ChunkName {
                hash,
                made,
                random: self.objects.random(),
            };
            let put = self.objects.put(&name.to_string(), bytes, PutIf::Always)?;
            self.clock.note_date(put.date);
            Ok(name)
        })
    }

    fn retry<T>(
        &self,
        mut attempt: impl FnMut() -> std::result::Result<T, ObjectFault>,
    ) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..PUT_ATTEMPTS {
            match attempt() {
                Err(ObjectFault::Unknown(e)) => log::debug!("{e}; trying again"),
                other => return other.map_err(busy),
            }
            self.objects.wait(pause);
            pause *= 2;
        }
        attempt().map_err(busy)
    }
}

fn busy(fault: ObjectFault) -> Error {
    Error {
        kind: Kind::Busy,
        ..fault.error()
    }
}

impl Uploader for ChunkObjects {
    fn upload(&self, op: &Op) -> Result<()> {
        for (chunk, bytes) in op.chunks() {
            let Bytes::Staged(staged) = bytes else {
                continue;
            };
            if staged.object().is_some() {
                continue;
            }
            let read = disk::read_at_most(staged.path(), SINGLE as usize);
            let bytes =
                read.map_err(|e| Error::io(format!("read {}", staged.path().display()), &e))?;
            staged.set_object(self.put(chunk.sha256, &bytes)?);
        }
        Ok(())
    }
}

impl ChunkSource for ChunkObjects {
    fn fetch(&self, name: &ChunkName) -> io::Result<Vec<u8>> {
        let get = || {
            let response = self.objects.get(&name.to_string())?;
            self.clock.note_date(response.date);
            Ok(response.value)
        };
        match self.retry(get) {
            Ok(Some(object)) => Ok(object.bytes),
            Ok(None) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the object {name} is gone"),
            )),
            Err(e) => Err(io::Error::other(e.to_string())),
        }
    }
}
