//! Remembers the chunks that limited keys may use: those that they have sent, and those of files that they may read.
//!
//! A hash alone proves nothing: a commit with it would reveal content that the key may not read. The sent chunks are in
//! memory only; a forgotten one, after a restart or many others, counts as missing and is sent again.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use super::Files;
use crate::error::Result;
use crate::hub::http::{Reply, Request};
use crate::wire::files::{Hash, MOST_CHUNKS, Name};

/// Sent chunks that are remembered, enough for the longest upload: 8 MB of memory.
const MAX_PROOFS: usize = MOST_CHUNKS;

/// The remembered chunks of all keys.
#[derive(Default)]
pub struct Proofs {
    /// Randomly keyed, so that no caller can construct a collision.
    hasher: RandomState,
    sent: Mutex<SentProofs>,
}

/// Fingerprints of holder and hash.
#[derive(Default)]
struct SentProofs {
    all: HashSet<u64>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl Proofs {
    /// Records that the holder has sent this chunk.
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

    pub(super) fn has(&self, holder: &str, hash: Hash) -> bool {
        let proof = self.hasher.hash_one((holder, hash));
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.all.contains(&proof)
    }
}

impl Files {
    /// Those of these chunks that the caller must not use. The files of `held_by`, which the caller may read, are searched
    /// first.
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

    /// Checks that the caller may read a chunk: a limited caller names a file that has it, as `?file=ID&rev=REV`.
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
