//! Snapshots of all tables after one entry, in parts, with an index that is written last: a new hub begins with the newest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::objects::{ListedObject, ObjectStore, PutIf, sure};
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
pub struct SnapshotIndex {
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

/// A snapshot in the bucket.
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
    let index = SnapshotIndex { cluster, n, parts };
    let (index_name, index) = (format!("{name}{INDEX}"), to_json(&index));
    sure(objects, || objects.put(&index_name, &index, PutIf::Always))?;
    Ok(Snapshot { name, n })
}

/// The snapshots that have an index, oldest first.
pub fn list(objects: &dyn ObjectStore) -> Result<Vec<Snapshot>> {
    let rows = sure(objects, || objects.list(PREFIX, ""))?;
    Ok(rows.iter().filter_map(complete).collect())
}

/// The snapshot whose index this is.
fn complete(row: &ListedObject) -> Option<Snapshot> {
    let name = row.name.strip_suffix(INDEX)?;
    let (n, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some(Snapshot {
        name: name.to_string(),
        n: n.parse().ok()?,
    })
}

/// The whole snapshots of this bucket, oldest first: one whose parts were removed before its index was written, because its hub
/// slept meanwhile, is not whole, and one that lost the race to make the bucket is not of it.
pub fn list_whole(objects: &dyn ObjectStore, cluster: Uuid) -> Result<Vec<Snapshot>> {
    let rows = sure(objects, || objects.list(PREFIX, ""))?;
    let sizes: BTreeMap<&str, u64> = rows
        .iter()
        .map(|row| (row.name.as_str(), row.size))
        .collect();
    let mut whole = Vec::new();
    for snapshot in rows.iter().filter_map(complete) {
        let Some(index) = index_of(objects, &snapshot)? else {
            continue;
        };
        let is_there = |(number, part): (usize, &SnapshotPart)| {
            let name = part_name(&snapshot.name, number);
            sizes.get(name.as_str()) == Some(&part.size)
        };
        if index.cluster == cluster && index.parts.iter().enumerate().all(is_there) {
            whole.push(snapshot);
        }
    }
    Ok(whole)
}

/// Removes what was put more than `age` milliseconds before `now`, by the store's clock, and is no whole snapshot of this bucket: the
/// parts of one that was broken off, and those of a bucket that lost the race or was replaced. Returns the number of objects.
pub fn remove_leftovers(
    objects: &dyn ObjectStore,
    cluster: Uuid,
    now: u64,
    age: u64,
) -> Result<u64> {
    let rows = sure(objects, || objects.list(PREFIX, ""))?;
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for row in &rows {
        if let Some((snapshot, _)) = row.name.rsplit_once('/') {
            let at = newest.entry(snapshot).or_default();
            *at = row.modified.max(*at);
        }
    }
    newest.retain(|_, at| now.saturating_sub(*at) > age);
    if newest.is_empty() {
        return Ok(0);
    }
    for snapshot in list_whole(objects, cluster)? {
        newest.remove(snapshot.name.as_str());
    }
    let mut removed = 0;
    // sorted, so that an index is removed before the parts that it names
    for row in &rows {
        let snapshot = row.name.rsplit_once('/').map_or("", |(name, _)| name);
        if newest.contains_key(snapshot) {
            sure(objects, || objects.delete(&row.name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn index_of(objects: &dyn ObjectStore, snapshot: &Snapshot) -> Result<Option<SnapshotIndex>> {
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
