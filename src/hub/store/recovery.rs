//! The tables with which a bucket begins anew, made from a view of what it was; see [`crate::hub::bucket::recovery`].
//!
//! It knows no bucket: which objects are there is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use uuid::Uuid;

use super::chunk_name::ChunkName;
use super::files::objects::{self, ObjectTables};
use super::files::{ChunkRow, WANTED, chunk_rows, each_that_needs};
use super::meta::{CLUSTER, META};
use super::shared::{NONCE, POSITION};
use super::{Store, open};
use crate::database::table::{OpenTable, ReadableTable};
use crate::error::Result;
use crate::wire::files::Hash;

/// How the new tables differ from those of the view.
pub struct Successor {
    pub cluster: Uuid,
    pub epoch: Uuid,
    /// The entry after which they are.
    pub first: u64,
    /// Chunks that have another object now.
    pub names: BTreeMap<Hash, ChunkName>,
    /// Chunks whose bytes are nowhere: clients are asked for them.
    pub lost: BTreeSet<Hash>,
    /// Milliseconds since 1970.
    pub wall: u64,
}

/// A chunk with its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedChunk {
    pub name: ChunkName,
    pub size: u64,
}

impl Store {
    /// All chunks that have objects.
    pub fn named_chunks(&self) -> Result<Vec<NamedChunk>> {
        self.read(|tx| {
            let mut found = Vec::new();
            let chunks = chunk_rows(tx)?;
            for row in tx.table(objects::OBJECTS)?.iter()? {
                let (hash, name) = row?;
                let row = chunks.get(hash.value())?;
                let size = row.map(|row| ChunkRow::from_value(row.value()).size);
                if let (Some(size), Ok(name)) = (size, name.value().parse()) {
                    found.push(NamedChunk { name, size });
                }
            }
            Ok(found)
        })
    }

    /// Whether an entry might name this object.
    pub fn admits_object(&self, name: &ChunkName) -> Result<bool> {
        self.read(|tx| objects::admits(tx, name))
    }

    /// The files and versions, as `NAME, revision N`, that need one of these chunks; at most `most`, and their number.
    pub fn files_that_need(
        &self,
        lost: &BTreeSet<Hash>,
        most: usize,
    ) -> Result<(Vec<String>, u64)> {
        let (mut names, mut count) = (Vec::new(), 0);
        if !lost.is_empty() {
            self.read(|tx| {
                each_that_needs(tx, lost, &mut |row, _, _| {
                    count += 1;
                    if names.len() < most {
                        names.push(format!("{}, revision {}", row.name.full(), row.rev));
                    }
                })
            })?;
        }
        Ok((names, count))
    }

    /// Copies the tables as those of the successor: in a new epoch, as those of a restored backup.
    pub fn copy_as_successor(&self, path: &Path, successor: &Successor) -> Result<()> {
        self.copy_into(path, |from, tx| {
            objects::copy(from, tx)?;
            {
                let mut meta = tx.table(META)?;
                meta.insert(CLUSTER, successor.cluster.as_u128())?;
                meta.insert(POSITION, u128::from(successor.first))?;
                meta.remove(NONCE)?;
                let mut tables = ObjectTables::open(tx, &meta)?;
                for (hash, name) in &successor.names {
                    tables.forget(*hash)?;
                    tables.objects.insert(&hash.0, name.to_string().as_str())?;
                }
                let mut wanted = tx.table(WANTED)?;
                for hash in &successor.lost {
                    if wanted.get(&hash.0)?.is_none() {
                        wanted.insert(&hash.0, successor.wall)?;
                    }
                }
            }
            open::begin_epoch_in(tx, successor.epoch)
        })
    }
}
