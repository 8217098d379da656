//! Snapshots of all tables after one entry, in parts, with an index that is written last: a new hub begins with the newest.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::objects::{ObjectStore, PutIf, sure};
use super::{read_json, to_json};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::wire::files::Hash;

const PREFIX: &str = "snapshots/";
const INDEX: &str = "/index";
/// Bytes of one part: on a slow line it must be sent before the time of a request is over.
const PART_BYTES: u64 = 8 * 1024 * 1024;

/// The parts of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub cluster: Uuid,
    /// The entry after which it was made.
    pub n: u64,
    pub parts: Vec<SnapshotPart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotPart {
    pub size: u64,
    pub sha256: Hash,
}

/// A complete snapshot in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Without the slash at its end.
    pub name: String,
    pub n: u64,
}

/// Puts the tables in `file`, which are those after entry `n`. A snapshot has a name of its own, so that two hubs may make one
/// of the same entry.
pub fn put(objects: &dyn ObjectStore, cluster: Uuid, n: u64, file: &Path) -> Result<Snapshot> {
    let unread = |e: std::io::Error| Error::io(format!("read {}", file.display()), &e);
    let name = format!("{PREFIX}{n:020}-{:016x}", objects.random());
    let mut input = disk::open_regular(file).map_err(unread)?;
    let mut parts = Vec::new();
    loop {
        let mut bytes = Vec::new();
        Read::by_ref(&mut input)
            .take(PART_BYTES)
            .read_to_end(&mut bytes)
            .map_err(unread)?;
        if bytes.is_empty() {
            break;
        }
        let part = part_name(&name, parts.len());
        sure(objects, || objects.put(&part, &bytes, PutIf::Always))?;
        parts.push(SnapshotPart {
            size: bytes.len() as u64,
            sha256: Hash::of(&bytes),
        });
    }
    let index = Index { cluster, n, parts };
    let (index_name, index) = (format!("{name}{INDEX}"), to_json(&index));
    sure(objects, || objects.put(&index_name, &index, PutIf::Always))?;
    Ok(Snapshot { name, n })
}

/// The complete snapshots, oldest first.
pub fn list(objects: &dyn ObjectStore) -> Result<Vec<Snapshot>> {
    let rows = sure(objects, || objects.list(PREFIX, ""))?;
    let complete = rows.iter().filter_map(|row| {
        let name = row.name.strip_suffix(INDEX)?;
        let (n, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Some(Snapshot {
            name: name.to_string(),
            n: n.parse().ok()?,
        })
    });
    Ok(complete.collect())
}

/// The bucket for which a snapshot was made; `None`: it is being removed.
pub fn cluster_of(objects: &dyn ObjectStore, snapshot: &Snapshot) -> Result<Option<Uuid>> {
    Ok(index_of(objects, snapshot)?.map(|index| index.cluster))
}

fn index_of(objects: &dyn ObjectStore, snapshot: &Snapshot) -> Result<Option<Index>> {
    let name = format!("{}{INDEX}", snapshot.name);
    let object = sure(objects, || objects.get(&name))?;
    object
        .map(|object| read_json(&name, &object.bytes))
        .transpose()
}

/// Fetches a snapshot of this bucket into a file, verified; `None`: it was made for another bucket, or is being removed.
pub fn fetch(
    objects: &dyn ObjectStore,
    cluster: Uuid,
    snapshot: &Snapshot,
    file: &Path,
) -> Result<Option<u64>> {
    let Some(index) = index_of(objects, snapshot)?.filter(|index| index.cluster == cluster) else {
        return Ok(None);
    };
    let unwritten = |e: std::io::Error| Error::io(format!("write {}", file.display()), &e);
    let mut output: File = disk::write_temporary(file, b"", 0o600).map_err(unwritten)?;
    for (number, part) in index.parts.iter().enumerate() {
        let name = part_name(&snapshot.name, number);
        let Some(object) = sure(objects, || objects.get(&name))? else {
            return Ok(None);
        };
        if object.bytes.len() as u64 != part.size || Hash::of(&object.bytes) != part.sha256 {
            let what =
                format!("cannot use {name} in the bucket: its bytes are not those of its index");
            return Err(Error::new(Kind::Damaged, what));
        }
        output.write_all(&object.bytes).map_err(unwritten)?;
    }
    output.sync_all().map_err(unwritten)?;
    Ok(Some(index.n))
}

/// Removes a snapshot: the index first, because a snapshot without one is not complete.
pub fn remove(objects: &dyn ObjectStore, snapshot: &Snapshot) -> Result<()> {
    sure(objects, || {
        objects.delete(&format!("{}{INDEX}", snapshot.name))
    })?;
    for row in sure(objects, || objects.list(&format!("{}/", snapshot.name), ""))? {
        sure(objects, || objects.delete(&row.name))?;
    }
    Ok(())
}

fn part_name(snapshot: &str, number: usize) -> String {
    format!("{snapshot}/part-{number:06}")
}
