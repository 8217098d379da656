//! Cuts stored chunks into pieces, and makes a chunk of parts of others.
//!
//! It decides nothing about the rights of callers.

use std::io::{self, Read};

use super::super::Store;
use super::reader::ContentReader;
use crate::chunking::pieces;
use crate::error::Result;
use crate::wire::files::{ChunkPart, ChunkPieces, Hash, PartList};

/// What became of a chunk that was sent as parts.
#[derive(Debug, PartialEq, Eq)]
pub enum FromParts {
    Staged,
    /// The parts have another hash or length.
    OtherBytes,
    /// A base is missing or damaged: the chunk is to be sent whole.
    NoBase,
}

impl Store {
    /// The pieces of a chunk; `None`: it is not here, or damaged.
    pub fn pieces_of(&self, hash: Hash) -> Result<Option<ChunkPieces>> {
        let Some(reader) = self.chunk(hash)? else {
            return Ok(None);
        };
        let pieces = pieces(reader).ok();
        Ok(pieces.map(|pieces| ChunkPieces {
            sha256: hash,
            pieces,
        }))
    }

    /// [`Store::stage_chunk`] of a chunk whose new bytes are those of `body`.
    pub fn stage_parts(
        &self,
        hash: Hash,
        list: &PartList,
        body: &mut dyn Read,
    ) -> io::Result<FromParts> {
        let Some(size) = list.size() else {
            return Ok(FromParts::OtherBytes);
        };
        let mut bases = Vec::new();
        for base in &list.bases {
            match self.chunk(*base) {
                Ok(Some(reader)) => bases.push(reader),
                Ok(None) => return Ok(FromParts::NoBase),
                Err(e) => return Err(io::Error::other(e.to_string())),
            }
        }
        let mut parts = PartReader {
            parts: list.parts.iter(),
            part: None,
            bases,
            body,
            base_failed: false,
        };
        let staged = self.stage_chunk(hash, &mut parts, size);
        if parts.base_failed {
            return Ok(FromParts::NoBase);
        }
        staged.map(|staged| {
            if staged {
                FromParts::Staged
            } else {
                FromParts::OtherBytes
            }
        })
    }
}

/// The bytes that a list describes.
struct PartReader<'a> {
    parts: std::slice::Iter<'a, ChunkPart>,
    /// The rest of the current part.
    part: Option<ChunkPart>,
    bases: Vec<ContentReader>,
    body: &'a mut dyn Read,
    base_failed: bool,
}

impl PartReader<'_> {
    fn read_base(&mut self, base: usize, into: &mut [u8]) -> io::Result<usize> {
        let read = match self.bases.get_mut(base) {
            Some(base) => base.read(into),
            None => Ok(0),
        };
        // a part beyond the end of its base
        let read = read.and_then(|n| match n {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        });
        read.inspect_err(|_| self.base_failed = true)
    }
}

impl Read for PartReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.part.is_none() {
            self.part = self.parts.next().copied();
            if let Some(ChunkPart::Copy(_, base, at)) = self.part
                && let Some(base) = self.bases.get_mut(base)
            {
                base.seek(at);
            }
        }
        let Some(part) = self.part else {
            return Ok(0);
        };
        let length = part.length();
        let most = into
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX));
        let n = match part {
            ChunkPart::New(_) => self.body.read(&mut into[..most])?,
            ChunkPart::Copy(_, base, _) => self.read_base(base, &mut into[..most])?,
        };
        let left = length - n as u64;
        self.part = (left > 0).then_some(match part {
            ChunkPart::New(_) => ChunkPart::New(left),
            ChunkPart::Copy(_, base, at) => ChunkPart::Copy(left, base, at),
        });
        Ok(n)
    }
}
