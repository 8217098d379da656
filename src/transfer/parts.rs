//! Changes in long files as parts of chunks that the other side has. Whatever fails here is sent or fetched as whole chunks.

use std::io::{self, Read};

use uuid::Uuid;

use super::partial::{OldFile, Partial};
use super::source_file::SourceFile;
use super::{COPY_BUFFER_BYTES, Transfer, TransferStep};
use crate::chunking;
use crate::client::{ByteSource, HubResult};
use crate::wire::files::{
    AskedParts, AskedPieces, Chunk, ChunkPart, ChunkPieces, Hash, MAX_BASES, MAX_PARTS_BYTES,
    PartList, Record,
};
use crate::wire::revision::Revision;

/// Consecutive chunks that are sent as parts at most: where more have changed, little of them is known.
const MAX_RUN_CHUNKS: usize = 8;
/// Bytes between two known chunks that are fetched as parts at most.
const MAX_RUN_BYTES: u64 = 2 * MAX_PARTS_BYTES;

/// The revision of a file that the hub has and a change replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacedRevision {
    pub id: Uuid,
    pub at: Revision,
}

/// Sends chunks as parts of those that they replace.
pub struct PartSender<'t, 'a> {
    transfer: &'t Transfer<'a>,
    /// `None`: there is no such revision, or the hub knows no parts.
    replaced: Option<ReplacedRevision>,
    /// The last chunk that was passed, and where it ends.
    before: Option<(Hash, u64)>,
    /// The chunks that the current run of changed ones replaces.
    bases: Vec<ChunkPieces>,
}

impl<'t, 'a> PartSender<'t, 'a> {
    pub fn new(
        transfer: &'t Transfer<'a>,
        replaced: Option<ReplacedRevision>,
    ) -> PartSender<'t, 'a> {
        PartSender {
            transfer,
            replaced,
            before: None,
            bases: Vec::new(),
        }
    }

    /// The hub has this chunk.
    pub fn pass(&mut self, chunk: Chunk, at: u64) {
        self.bases.clear();
        self.before = Some((chunk.sha256, at + chunk.size));
    }

    /// Sends a chunk that the hub does not have, the first of `run` consecutive ones. `false`: it is to be sent whole.
    pub fn send(
        &mut self,
        chunk: Chunk,
        at: u64,
        run: usize,
        local: &SourceFile,
    ) -> HubResult<bool> {
        if let Some(replaced) = self.replaced
            && self.bases.is_empty()
            && run <= MAX_RUN_CHUNKS
        {
            self.find_bases(replaced, at, run);
        }
        self.send_as_parts(chunk, at, local)
    }

    /// Asks for the pieces of the chunks that these ones replace.
    fn find_bases(&mut self, replaced: ReplacedRevision, at: u64, run: usize) {
        let after = match self.before {
            Some((hash, end)) if end == at => Some(hash),
            None if at == 0 => None,
            _ => return,
        };
        let asked = AskedPieces {
            rev: replaced.at.rev,
            tag: replaced.at.tag,
            after,
            at,
            count: run + 2,
        };
        match self.transfer.hub.pieces(replaced.id, &asked) {
            Ok(bases) => self.bases = bases,
            Err(failure) => {
                log::debug!("sending whole chunks: {}", failure.error);
                self.replaced = None;
            }
        }
    }

    fn send_as_parts(&mut self, chunk: Chunk, at: u64, local: &SourceFile) -> HubResult<bool> {
        if self.bases.is_empty() || chunk.size > MAX_PARTS_BYTES {
            return Ok(false);
        }
        // an error is found again when the whole chunk is read
        let Ok(pieces) = pieces_of(local, at, chunk.size) else {
            return Ok(false);
        };
        let list = PartList::of(&pieces, &self.bases);
        let ranges = list.new_ranges();
        let new: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        if new > chunk.size / 4 * 3 {
            return Ok(false);
        }
        let mut begin = at;
        let sources = pieces.iter().filter_map(|piece| {
            let source = ByteSource::Part {
                file: &local.file,
                at: begin,
                length: piece.size,
                sha256: Some(piece.sha256),
            };
            let within = begin - at;
            begin += piece.size;
            let is_new = ranges.iter().any(|range| range.contains(&within));
            is_new.then_some(source)
        });
        let sources: Vec<ByteSource<'_>> = sources.collect();
        let sent = self.transfer.persist(|passed| {
            let hub = self.transfer.hub;
            hub.put_parts(chunk.sha256, &list, &sources, passed)
        });
        match sent {
            Ok(()) => {
                (self.transfer.watch)(TransferStep::Spared(chunk.size - new));
                Ok(true)
            }
            // a base is gone, or the file has changed
            Err(failure) if (400..500).contains(&failure.status) => {
                self.bases.clear();
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The pieces of a part of a file.
fn pieces_of(local: &SourceFile, at: u64, size: u64) -> io::Result<Vec<Chunk>> {
    let pieces = chunking::pieces(local.part(at, size))?;
    if pieces.iter().map(|piece| piece.size).sum::<u64>() < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(pieces)
}

/// What became of chunks that were to be fetched as parts.
pub(super) enum FetchedParts {
    Written,
    /// Too much has changed here: these chunks are to be fetched whole.
    Unsuitable,
    /// Nothing was written, and no more parts are to be asked for.
    Failed,
}

impl Transfer<'_> {
    /// Fetches the next chunks, up to `end` at most, as parts of the chunks of the old file that they replace.
    pub(super) fn fetch_parts(
        &self,
        record: &Record,
        partial: &mut Partial,
        old: &OldFile,
        end: u64,
    ) -> FetchedParts {
        let (from, to) = (partial.at, partial.chunks_up_to(MAX_PARTS_BYTES).min(end));
        let bases = old.replaced(partial, MAX_BASES);
        if end - from > MAX_RUN_BYTES || to <= from || bases.is_empty() {
            return FetchedParts::Unsuitable;
        }
        let asked = AskedParts {
            rev: record.revision().rev,
            tag: record.revision().tag,
            from,
            to,
            bases,
        };
        let before = partial.mark();
        // a program may write to the old file
        let verifies_chunks = std::mem::replace(&mut partial.verifies_chunks, true);
        let written = self.write_parts(record, partial, old, &asked);
        partial.verifies_chunks = verifies_chunks;
        let Err(failure) = written else {
            return FetchedParts::Written;
        };
        log::debug!("fetching whole chunks: {}", failure.error);
        (self.watch)(TransferStep::Lost(partial.at - from));
        partial.reset(before);
        FetchedParts::Failed
    }

    fn write_parts(
        &self,
        record: &Record,
        partial: &mut Partial,
        old: &OldFile,
        asked: &AskedParts,
    ) -> HubResult<()> {
        let mut received = self.hub.parts(record.id, asked)?;
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        for part in received.list.parts.clone() {
            let mut left = part.length();
            let mut from_old = match part {
                ChunkPart::Copy(_, base, at) => Some(old.reader(received.list.bases[base], at)?),
                ChunkPart::New(_) => None,
            };
            while left > 0 {
                let n = left.min(buffer.len() as u64) as usize;
                match &mut from_old {
                    Some(reader) => reader
                        .read_exact(&mut buffer[..n])
                        .map_err(|e| crate::error::Error::io("read the old file", &e))?,
                    None => received.read(&mut buffer[..n])?,
                }
                partial.write(&buffer[..n])?;
                left -= n as u64;
                (self.watch)(match &from_old {
                    Some(_) => TransferStep::Spared(n as u64),
                    None => TransferStep::Passed(n as u64),
                });
            }
        }
        received.end();
        Ok(())
    }
}
