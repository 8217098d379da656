//! Files in the store: records, revisions, versions, events and chunks.
//!
//! It knows no HTTP and starts no thread. Only [`super::Store::apply`] changes tables; meanwhile any thread may call the
//! functions here, which receive bodies and read.

mod apply;
mod cache;
mod check;
mod check_packs;
mod chunk_row;
mod chunk_source;
mod chunks;
mod commits;
mod intake;
mod list;
mod log_ops;
pub(super) mod objects;
mod packs;
mod parts;
mod read;
mod reader;
mod rows;
mod schema;
mod short;
mod sweep;
mod tables;
mod wanted;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use super::Store;
use super::ops::files::{Bytes, FileOp};
use super::ops::{Group, Op, Outcome};
use crate::database::DbResult;
use crate::error::{Error, Result};
use crate::wire::files::{Chunk, Hash, SINGLE};

pub(super) use check::check;
#[cfg(test)]
pub(super) use chunk_row::ChunkPlace;
pub(super) use chunk_row::ChunkRow;
pub use chunk_source::ChunkSource;
pub(super) use chunks::{ChunkDir, Placed, root as chunk_root};
pub(super) use commits::COMMITS;
pub use intake::{Intake, ReceivedBody};
pub(super) use list::Landmarks;
pub use list::Listing;
pub use parts::FromParts;
pub use read::ChangesSince;
pub use reader::ContentReader;
#[cfg(test)]
pub(super) use schema::CHUNKS;
pub(super) use schema::{FileTotals, WANTED, chunk_rows, copy};
pub(super) use short::unpack;
pub(super) use sweep::is_wanted;
pub(super) use tables::FileTables;
pub(super) use wanted::{each_that_needs, since as wanted_since};

/// Bytes of known chunks that are verified before a commit is acknowledged, at most: one long chunk.
const VERIFIED_BYTES: u64 = SINGLE;

/// Counts of everything about files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files that are not deleted, including directories and links, and their bytes.
    pub files: u64,
    pub bytes: u64,
    pub rev: u64,
    pub versions: u64,
    pub chunks: u64,
    pub tombstones: u64,
    pub events: u64,
}

impl Store {
    /// Begins to receive a body.
    pub fn intake(&self) -> Result<Intake> {
        Ok(Intake::new(Arc::clone(&self.chunks), true))
    }

    /// The same for one of many bodies, which [`Store::sync`] must make durable together before one is put.
    pub fn intake_unsynced(&self) -> Result<Intake> {
        Ok(Intake::new(Arc::clone(&self.chunks), false))
    }

    /// Makes received bodies durable.
    pub fn sync<'a>(&self, bytes: impl IntoIterator<Item = &'a Bytes>) -> io::Result<()> {
        let staged = bytes.into_iter().filter_map(|bytes| {
            if let Bytes::Staged(staged) = bytes {
                Some(staged.clone())
            } else {
                None
            }
        });
        self.chunks.sync_staged(&staged.collect::<Vec<_>>())
    }

    /// Receives one chunk for a later commit: it is staged, not durable. `false`: the bytes have another hash.
    pub fn stage_chunk(&self, hash: Hash, body: &mut dyn Read, length: u64) -> io::Result<bool> {
        intake::stage_chunk(&self.chunks, hash, body, length)
    }

    /// Makes the staged ones of these chunks durable for a commit, and checks the others, which must be in the tables. Of a long
    /// list only the existence of the files is checked: reading all of them would take longer than sending them.
    pub fn staged(&self, chunks: &[Chunk]) -> io::Result<Vec<Bytes>> {
        let unread = |e: Error| io::Error::other(e.to_string());
        let look = |chunk: &Chunk| {
            Ok(self
                .chunks
                .staged(chunk.sha256, chunk.size)?
                .map_or(Bytes::Known, Bytes::Staged))
        };
        let mut bytes = chunks.iter().map(look).collect::<io::Result<Vec<_>>>()?;
        self.sync(&bytes)?;
        let known: Vec<Chunk> = chunks
            .iter()
            .zip(&bytes)
            .filter(|(_, bytes)| **bytes == Bytes::Known)
            .map(|(chunk, _)| *chunk)
            .collect();
        if known.iter().map(|chunk| chunk.size).sum::<u64>() <= VERIFIED_BYTES {
            known
                .iter()
                .try_for_each(|chunk| self.verify(chunk.sha256))
                .map_err(unread)?;
        }
        let known: Vec<Hash> = known.iter().map(|chunk| chunk.sha256).collect();
        let missing: BTreeSet<Hash> = self
            .missing_chunks(&known)
            .map_err(unread)?
            .into_iter()
            .collect();
        for (chunk, bytes) in chunks.iter().zip(&mut bytes) {
            if *bytes == Bytes::Known && missing.contains(&chunk.sha256) {
                *bytes = Bytes::Lost;
            }
        }
        Ok(bytes)
    }

    /// Reads a whole chunk, which records it as lost if it is.
    fn verify(&self, hash: Hash) -> Result<()> {
        let Some(mut reader) = self.chunk(hash)? else {
            return Ok(());
        };
        let _ = io::copy(&mut reader, &mut io::sink());
        Ok(())
    }

    /// The operation that stores a lost chunk which has been staged; its bytes are durable. `None`: it is no longer staged.
    pub fn mend_op(&self, hash: Hash, size: u64) -> io::Result<Option<FileOp>> {
        let Some(staged) = self.chunks.staged(hash, size)? else {
            return Ok(None);
        };
        self.chunks.sync_staged(std::slice::from_ref(&staged))?;
        Ok(Some(FileOp::Mend(vec![(
            Chunk { sha256: hash, size },
            Bytes::Staged(staged),
        )])))
    }

    /// Bytes that uploads leave free on the disk.
    pub fn keep_free(&self, bytes: u64) {
        self.chunks.keep_free(bytes);
    }
}

#[cfg(test)]
pub(super) use packs::{PACKS, PACKS_DEAD, items};
#[cfg(test)]
pub(super) use schema::{INLINE, dump, fill_for_test};
#[cfg(test)]
pub(super) use sweep::{EVENTS_KEPT, KEYS_KEPT};

/// Whether the group needs the tables of files.
pub(super) fn concerns(group: &Group) -> bool {
    group
        .ops
        .iter()
        .any(|op| matches!(op, Op::File(_) | Op::Sweep | Op::Log(_)))
}

/// Whether the group may remove something.
pub(super) fn sweeps(group: &Group) -> bool {
    group.ops.iter().any(|op| matches!(op, Op::Sweep))
}

/// Whether the operation has bytes in files of the staging directory.
pub fn brings_files(op: &Op) -> bool {
    op.chunks()
        .any(|(_, bytes)| matches!(bytes, Bytes::Staged(_)))
}

/// The chunks that a group names: no sweep in it removes them.
pub(super) fn named(group: &Group) -> BTreeSet<Hash> {
    if !sweeps(group) {
        return BTreeSet::new();
    }
    group
        .ops
        .iter()
        .flat_map(Op::chunks)
        .map(|(chunk, _)| chunk.sha256)
        .collect()
}

pub(super) fn apply(t: &mut FileTables<'_>, group: &Group, op: &FileOp) -> DbResult<Outcome> {
    apply::apply(t, group, op)
}

pub(super) fn sweep(t: &mut FileTables<'_>, group: &Group) -> DbResult<bool> {
    sweep::sweep(t, group)
}
