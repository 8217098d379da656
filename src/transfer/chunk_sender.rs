//! Sends the chunks of a file that the hub does not have, and asks for many of them at a time.

use std::collections::HashSet;

use super::concurrent;
use super::parts::{PartSender, ReplacedRevision};
use super::source_file::SourceFile;
use super::{Transfer, TransferStep};
use crate::chunking::Content;
use crate::client::{ByteSource, HubResult};
use crate::wire::files::{Chunk, Hash};

/// Chunks in one query to the hub: few enough that the first bytes are sent soon.
const ASKED_CHUNKS: usize = 16;
/// How often chunks are sent again that the hub has lost.
const MAX_LOSSES: u32 = 8;

impl Transfer<'_> {
    /// Sends the chunks of a long file that the hub does not have; returns the list of all, for a commit.
    pub fn send_chunks(
        &self,
        local: &SourceFile,
        replaced: Option<ReplacedRevision>,
    ) -> HubResult<Content> {
        let mut sender = ChunkSender::new(self, replaced);
        let content = local.split(|chunk, at| sender.add(chunk, at, local))?;
        sender.rest(&content, local)?;
        Ok(content)
    }

    /// [`Transfer::send_chunks`] of a file whose chunks are known: it reads those that are sent, and checks them.
    pub fn send_known_chunks(
        &self,
        content: &Content,
        local: &SourceFile,
        replaced: Option<ReplacedRevision>,
    ) -> HubResult<()> {
        ChunkSender::new(self, replaced).rest(content, local)
    }
}

/// Sends the chunks of one file that the hub does not have.
pub struct ChunkSender<'t, 'a> {
    transfer: &'t Transfer<'a>,
    parts: PartSender<'t, 'a>,
    /// Chunks not queried yet, with their offsets.
    waiting: Vec<(Chunk, u64)>,
    /// All chunks up to this offset were queried.
    asked: u64,
    there: HashSet<Hash>,
    /// How often the hub has lost chunks so far.
    rounds: u32,
}

impl<'t, 'a> ChunkSender<'t, 'a> {
    /// `replaced`: the revision that the file replaces on the hub, if any.
    pub fn new(
        transfer: &'t Transfer<'a>,
        replaced: Option<ReplacedRevision>,
    ) -> ChunkSender<'t, 'a> {
        ChunkSender {
            transfer,
            parts: PartSender::new(transfer, replaced),
            waiting: Vec::new(),
            asked: 0,
            there: HashSet::new(),
            rounds: 0,
        }
    }

    pub fn add(&mut self, chunk: Chunk, at: u64, local: &SourceFile) -> HubResult<()> {
        self.waiting.push((chunk, at));
        if self.waiting.len() < ASKED_CHUNKS {
            Ok(())
        } else {
            self.flush(local)
        }
    }

    pub fn flush(&mut self, local: &SourceFile) -> HubResult<()> {
        let group = std::mem::take(&mut self.waiting);
        let mut unknown: Vec<Hash> = group
            .iter()
            .map(|(c, _)| c.sha256)
            .filter(|hash| !self.there.contains(hash))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        let missing: HashSet<Hash> = if unknown.is_empty() {
            HashSet::new()
        } else {
            self.transfer
                .persist(|_| self.transfer.hub.missing(&unknown))?
                .into_iter()
                .collect()
        };
        let mut whole = Vec::new();
        for (number, (chunk, at)) in group.iter().copied().enumerate() {
            if missing.contains(&chunk.sha256) && self.there.insert(chunk.sha256) {
                let run = (group[number..].iter())
                    .take_while(|(chunk, _)| missing.contains(&chunk.sha256))
                    .count();
                self.asked = self.asked.max(at + chunk.size);
                if !self.parts.send(chunk, at, run, local)? {
                    whole.push((chunk, at));
                }
            } else {
                self.there.insert(chunk.sha256);
                self.parts.pass(chunk, at);
                (self.transfer.watch)(TransferStep::Spared(chunk.size));
            }
            self.asked = self.asked.max(at + chunk.size);
        }
        self.send_whole(&whole, local)
    }

    fn send_whole(&self, chunks: &[(Chunk, u64)], local: &SourceFile) -> HubResult<()> {
        let transfer = self.transfer;
        concurrent::for_each(chunks, transfer.slots, |(chunk, at)| {
            let source = ByteSource::Part {
                file: &local.file,
                at: *at,
                length: chunk.size,
                // the hub compares it with the name
                sha256: None,
            };
            transfer
                .persist(|passed| transfer.hub.put_chunk(chunk.sha256, source, passed))
                .map_err(|failure| match failure.status {
                    400 => local
                        .check_chunk(*chunk, *at)
                        .err()
                        .map_or(failure, Into::into),
                    _ => failure,
                })
        })
    }

    /// Queries and sends the rest, and chunks that must be sent again.
    pub fn rest(&mut self, content: &Content, local: &SourceFile) -> HubResult<()> {
        let (mut at, asked) = (
            0,
            self.asked + self.waiting.iter().map(|(c, _)| c.size).sum::<u64>(),
        );
        for chunk in &content.chunks {
            if at >= asked || !self.there.contains(&chunk.sha256) && at < self.asked {
                self.add(*chunk, at, local)?;
            }
            at += chunk.size;
        }
        self.flush(local)?;
        Ok(local.check(content.size)?)
    }

    /// Queues chunks that the hub does not have; `false`: it has lost some too often.
    pub fn again(&mut self, missing: &[Hash]) -> bool {
        missing.iter().for_each(|hash| {
            self.there.remove(hash);
        });
        self.rounds += 1;
        self.rounds <= MAX_LOSSES && !missing.is_empty()
    }

    /// Sends one chunk from memory.
    pub fn send(&mut self, chunk: Chunk, source: ByteSource<'_>) -> HubResult<()> {
        if !self.there.contains(&chunk.sha256) {
            let missing = self
                .transfer
                .persist(|_| self.transfer.hub.missing(&[chunk.sha256]))?;
            self.there.insert(chunk.sha256);
            if !missing.is_empty() {
                return self
                    .transfer
                    .persist(|passed| self.transfer.hub.put_chunk(chunk.sha256, source, passed));
            }
        }
        (self.transfer.watch)(TransferStep::Spared(chunk.size));
        Ok(())
    }
}
