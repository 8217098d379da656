//! Several hubs on one bucket of an S3-compatible store: any of them takes any request, and losing all of them loses nothing.
//!
//! The bucket has the truth: a log of groups of operations ([`shared_log`]), the chunks of files ([`chunks`]), and now and then a
//! snapshot of all tables ([`snapshot`]). A hub's data directory is a view of it that may be lost at any time. What is no
//! longer needed is removed by [`janitor`]. The store must keep conditional writes, which [`probe`] checks; it knows nothing
//! else of mesync.
//!
//! It knows no HTTP of the hub, and decides nothing about messages or files: the store does, entry by entry.
//!
//! | object | content | written |
//! |---|---|---|
//! | `mesync.json` | [`Description`] | once, as the last object of a new bucket |
//! | `files/recovered/<20 digits>` | [`RecoveredBucket`]: its description counts | once each: [`recovery`] |
//! | `log/<20 digits>` | one entry: [`crate::hub::store::ops::shared`] | once, `If-None-Match: *` |
//! | `snapshots/<n>-<random>/…` | all tables after entry n, in parts; `index` is written last | by any hub |
//! | `floor/<20 digits>` | nothing; see [`read_floor`] | before entries are removed |
//! | `chunks/<ab>/<sha256>.<ms>-<random>` | a chunk; the name is never used twice | before the entry that names it |
//! | `files/<name>/<20 digits>` | keys, certificate and their like: [`shared_files`] | once, `If-None-Match: *` |
//! | `probe/…` | nothing | at the start of a hub |

pub mod chunks;
pub mod clock;
pub mod janitor;
pub mod moving;
pub mod objects;
pub mod pace;
pub mod probe;
pub mod recovery;
pub mod s3;
pub mod shared_files;
pub mod shared_log;
pub mod snapshot;
pub mod start;
pub mod watch;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use objects::{ObjectResult, ObjectStore, PutIf, Response, sure};

/// The name of the [`Description`].
pub const DESCRIPTION: &str = "mesync.json";

/// The name of an entry.
pub fn entry_name(n: u64) -> String {
    format!("{LOG}{n:020}")
}

/// The prefix of entries.
const LOG: &str = "log/";

/// The number of an entry with this name.
pub fn entry_number(name: &str) -> Option<u64> {
    name.strip_prefix(LOG)?.parse().ok()
}

/// What the bucket is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub format: u64,
    /// Drawn for the bucket: views of another one are not used.
    pub cluster: Uuid,
    pub epoch: Uuid,
}

/// What a recovery has made of the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveredBucket {
    pub description: Description,
    /// The log begins after this number.
    pub first: u64,
    /// The buckets that it was before: views of them are out of date.
    pub replaced: Vec<Uuid>,
}

/// The prefix of the objects that tell how far the log may have been removed: the highest number in their names. So it only
/// rises, in whichever order hubs write it, and needs no condition.
const FLOORS: &str = "floor/";

/// Entries up to here may have been removed, since two snapshots have them.
pub fn read_floor(objects: &dyn ObjectStore) -> ObjectResult<u64> {
    let response = objects.list(FLOORS, "")?;
    let numbers = response.value.iter().filter_map(|row| floor_of(&row.name));
    Ok(Response {
        value: numbers.max().unwrap_or(0),
        date: response.date,
    })
}

/// Raises the floor, durably, and removes lower ones.
pub fn raise_floor(objects: &dyn ObjectStore, at: u64) -> Result<()> {
    let name = format!("{FLOORS}{at:020}");
    sure(objects, || objects.put(&name, b"", PutIf::Always))?;
    for row in sure(objects, || objects.list(FLOORS, ""))? {
        if floor_of(&row.name).is_some_and(|lower| lower < at) {
            sure(objects, || objects.delete(&row.name))?;
        }
    }
    Ok(())
}

fn floor_of(name: &str) -> Option<u64> {
    name.strip_prefix(FLOORS)?.parse().ok()
}

/// Reads an object of JSON.
pub fn read_json<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        let what = format!("cannot read {name} in the bucket: {e}");
        Error::new(Kind::Damaged, what).hint("was it changed by hand, or by a newer mesync?")
    })
}

/// One line of JSON.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    // all of it can be written as JSON: no map, no float, no foreign type
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The error of a hub whose bucket was left.
pub fn closed() -> Error {
    let what = "cannot use the bucket: its hub was moved to a disk";
    Error::new(Kind::Settings, what).hint("start the hub there, or name another bucket")
}

#[cfg(test)]
mod sim;
