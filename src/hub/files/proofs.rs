//! Which chunks a key that may read a part of the files has proven to have: it sent them, or a file that it may read has them.
//!
//! A hash alone proves nothing: its commit would hand out content that the key may not read. What was sent is
//! remembered in memory; a chunk that is forgotten, after a restart or many others, counts as missing and is sent again.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use super::Files;
use crate::error::Result;
use crate::hub::http::{Reply, Request};
use crate::wire::files::{Hash, MOST_CHUNKS, Name};

/// Chunks that keys have sent and that are remembered, those of the longest upload: 8 MB of memory.
const MAX_PROOFS: usize = MOST_CHUNKS;

/// See the module.
#[derive(Default)]
pub struct Proofs {
    /// Keyed at random, so that no pair can be made to look like another.
    hasher: RandomState,
    sent: Mutex<Sent>,
}

/// Fingerprints of holder and hash.
#[derive(Default)]
struct Sent {
    all: HashSet<u64>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl Proofs {
    /// The holder has sent this chunk.
    pub fn note(&self, holder: &str, hash: Hash) {
        let proof = self.hasher.hash_one((holder, hash));
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if !sent.all.insert(proof) {
            return;
        }
        sent.order.push_back(proof);
        if sent.order.len() > MAX_PROOFS
            && let Some(oldest) = sent.order.pop_front()
        {
            sent.all.remove(&oldest);
        }
    }

    fn has(&self, holder: &str, hash: Hash) -> bool {
        let proof = self.hasher.hash_one((holder, hash));
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.all.contains(&proof)
    }
}

impl Files {
    /// Which of these chunks are to the caller as if they were not here. The files of `held_by` are looked at first: the
    /// caller may read them.
    pub(super) fn unproven(
        &self,
        hashes: &[Hash],
        held_by: &[Name],
        request: &Request,
    ) -> Result<BTreeSet<Hash>> {
        let reader = request.caller.limited_reader().zip(request.caller.host());
        let Some((rights, holder)) = reader else {
            return Ok(BTreeSet::new());
        };
        let is_sent = |hash: &&Hash| self.proofs.has(holder, **hash);
        let mut left: BTreeSet<Hash> = hashes.iter().filter(|h| !is_sent(h)).copied().collect();
        for name in held_by {
            for chunk in self.store.chunks_named(name)? {
                left.remove(&chunk.sha256);
            }
        }
        if !left.is_empty() {
            let held = self
                .store
                .held_below(&left, &rights.directories().unwrap_or_default())?;
            left.retain(|hash| !held.contains(hash));
        }
        Ok(left)
    }

    /// A chunk is read as a part of a file: a caller that may read some of the files only names one, as `?file=ID&rev=REV`.
    pub(super) fn check_chunk(
        &self,
        hash: Hash,
        request: &Request,
    ) -> std::result::Result<(), Reply> {
        if request.caller.limited_reader().is_none() {
            return Ok(());
        }
        let none = super::answer::no_chunk;
        let parse = |text: &str| uuid::Uuid::try_parse(text).ok();
        let id = request.parsed("file", "a UUID", parse)?.ok_or_else(none)?;
        let rev = super::head::revision(request)?;
        if let Err(reply) = self.check_id(id, request) {
            return Err(if reply.status == 404 { none() } else { reply });
        }
        match self.store.chunks_of(id, rev) {
            Ok(Some((_, chunks))) if chunks.iter().any(|chunk| chunk.sha256 == hash) => Ok(()),
            Ok(_) => Err(none()),
            Err(e) => Err(Reply::failed(&e)),
        }
    }
}
