//! The routes that transfer changes in long files as parts of known chunks. A hub of an earlier version answers them with 404.

use std::io::{BufRead, BufReader, Read};

use ureq::http::Method;
use uuid::Uuid;

use super::body::{ByteSource, BytesPassed, Piece};
use super::files::to_json;
use super::{Call, HubClient, HubResult, Purpose};
use crate::wire::files::{
    AskedParts, AskedPieces, ChunkPieces, FoundPieces, Hash, MAX_LIST_BYTES, PARTS_TYPE, PartList,
};

/// Maximum bytes of a list of pieces: of 16 MiB, each of 4 KiB.
const PIECES_BYTES: u64 = 1024 * 1024;

/// Parts that are being received.
pub struct ReceivedParts<'a> {
    hub: &'a HubClient,
    pub list: PartList,
    reader: BufReader<Box<dyn Read + Send>>,
}

impl ReceivedParts<'_> {
    /// Reads new bytes until the buffer is full; a response that ends early is a failure.
    pub fn read(&mut self, buffer: &mut [u8]) -> HubResult<()> {
        self.reader
            .read_exact(buffer)
            .map_err(|e| self.hub.interrupted(&e))
    }

    /// Reads the end of the response, so that the connection is free for the next request.
    pub fn end(mut self) {
        let _ = self.reader.read(&mut [0]);
    }
}

impl HubClient {
    /// `POST /api/files/{id}/pieces`
    pub fn pieces(&self, id: Uuid, asked: &AskedPieces) -> HubResult<Vec<ChunkPieces>> {
        let found: FoundPieces = self.json(&Call {
            method: Method::POST,
            body: to_json(asked),
            most: PIECES_BYTES,
            ..Call::get(&format!("/api/files/{id}/pieces"))
        })?;
        Ok(found.chunks)
    }

    /// `PUT /api/chunks/{sha256}` with the parts of the chunk. `new`: its new bytes.
    pub fn put_parts(
        &self,
        sha256: Hash,
        list: &PartList,
        new: &[ByteSource<'_>],
        passed: BytesPassed<'_>,
    ) -> HubResult<()> {
        let line = std::iter::once(Piece::Text(list.line()));
        let pieces = line.chain(new.iter().copied().map(Piece::Content));
        self.send_chunk(sha256, PARTS_TYPE, pieces.collect(), passed)
    }

    /// `POST /api/files/{id}/parts`
    pub fn parts(&self, id: Uuid, asked: &AskedParts) -> HubResult<ReceivedParts<'_>> {
        let call = Call {
            method: Method::POST,
            body: to_json(asked),
            ..Call::get(&format!("/api/files/{id}/parts"))
        };
        let answer = self.typed(
            self.authorized(Purpose::Request, &call)?,
            PARTS_TYPE,
            &call.path,
        )?;
        let body: Box<dyn Read + Send> = Box::new(answer.into_body().into_reader());
        let mut reader = BufReader::with_capacity(64 * 1024, body);
        let mut line = Vec::new();
        (&mut reader)
            .take(MAX_LIST_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(|e| self.interrupted(&e))?;
        let list: Option<PartList> = serde_json::from_slice(&line).ok();
        let size = asked.to - asked.from;
        let is_known = |list: &PartList| list.bases.iter().all(|base| asked.bases.contains(base));
        match list.filter(|list| list.size() == Some(size) && is_known(list)) {
            Some(list) => Ok(ReceivedParts {
                hub: self,
                list,
                reader,
            }),
            None => Err(self.not_a_hub("a list of parts that is none").into()),
        }
    }
}
