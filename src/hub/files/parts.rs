//! Changes in long files as parts: the pieces of stored chunks, a chunk as parts of others, and bytes of a file as parts of
//! chunks that the caller has.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::Range;

use uuid::Uuid;

use super::answer::unwritten;
use super::upload::{WatchedBody, unread};
use super::{Files, LongBodyMemory, answer, commit};
use crate::chunking;
use crate::hub::http::{Job, Reply, Request};
use crate::hub::messages::SendReply;
use crate::hub::store::files::{ContentReader, FromParts};
use crate::wire::files::{
    AskedParts, AskedPieces, Chunk, FoundPieces, Hash, MAX_BASES, MAX_LIST_BYTES, MAX_PARTS_BYTES,
    PARTS_TYPE, PartList,
};
use crate::wire::revision::{Revision, Tag};

/// Bytes of chunks that one request has cut into pieces, at most.
const MAX_CUT_BYTES: u64 = 2 * MAX_PARTS_BYTES;
/// Memory for the pieces of that many bytes, as a list and as text.
const PIECES_MEMORY_BYTES: u64 = 1024 * 1024;

impl Files {
    /// `POST /api/files/{id}/pieces`
    pub(super) fn pieces(&self, request: Request, answer: SendReply) {
        self.read_whole(request, answer, |this, request, body, answer| {
            answer(
                this.find_pieces(request, body)
                    .unwrap_or_else(|reply| reply),
            );
        });
    }

    fn find_pieces(&self, request: &Request, body: &mut dyn Read) -> Result<Reply, Reply> {
        let id = self.id_in(request)?;
        let words = "{\"rev\", \"tag\", \"after\", \"at\", \"count\"}";
        let asked: AskedPieces = read_json(body, words)?;
        let _lease = self.lease(PIECES_MEMORY_BYTES, 1)?;
        let of = self.chunks_at(id, asked.rev, asked.tag)?;
        let mut found = FoundPieces { chunks: Vec::new() };
        let mut bytes = 0;
        for chunk in following(&of, asked.after, asked.at)
            .iter()
            .take(asked.count.min(MAX_BASES))
        {
            bytes += chunk.size;
            if bytes > MAX_CUT_BYTES {
                break;
            }
            let pieces = self.store.pieces_of(chunk.sha256);
            found.chunks.extend(pieces.map_err(|e| Reply::failed(&e))?);
        }
        Ok(Reply::json(200, &found))
    }

    fn chunks_at(&self, id: Uuid, rev: u64, tag: Tag) -> Result<Vec<Chunk>, Reply> {
        match self.store.chunks_of(id, Some(Revision { rev, tag })) {
            Ok(Some((_, chunks))) => Ok(chunks),
            Ok(None) => Err(answer::no_version()),
            Err(e) => Err(Reply::failed(&e)),
        }
    }

    /// `POST /api/files/{id}/parts`
    pub(super) fn parts(&self, request: Request, answer: SendReply) {
        self.read_whole(request, answer, |this, request, body, answer| {
            answer(this.make_parts(request, body).unwrap_or_else(|reply| reply));
        });
    }

    fn make_parts(&self, request: &Request, body: &mut dyn Read) -> Result<Reply, Reply> {
        let id = self.id_in(request)?;
        let words = "{\"rev\", \"tag\", \"from\", \"to\", \"bases\"}";
        let asked: AskedParts = read_json(body, words)?;
        if asked.bases.len() > MAX_BASES {
            return Err(Reply::error(
                413,
                format!("parts are of at most {MAX_BASES} chunks"),
            ));
        }
        let lease = self.lease(PIECES_MEMORY_BYTES, 1)?;
        let failed = |e| Reply::failed(&e);
        let at = Revision {
            rev: asked.rev,
            tag: asked.tag,
        };
        let (record, mut reader) =
            (self.store.open_file(id, Some(at)).map_err(failed)?).ok_or_else(answer::no_version)?;
        let range = asked.from..asked.to;
        if range.is_empty() || range.end > record.size || range.end - range.start > MAX_PARTS_BYTES
        {
            let what = format!(
                "parts are of 1 to {MAX_PARTS_BYTES} bytes of the {} of the file",
                record.size
            );
            return Err(Reply::error(416, what));
        }
        let lost = reader.lost(&range);
        if !lost.is_empty() {
            return Err(answer::lost(&lost));
        }
        let unproven = self.unproven(&asked.bases, &[], request).map_err(failed)?;
        let (mut bases, mut bytes) = (Vec::new(), 0);
        for base in asked.bases.iter().filter(|base| !unproven.contains(base)) {
            bytes += self
                .store
                .chunk(*base)
                .map_err(failed)?
                .map_or(0, |c| c.size());
            if bytes > MAX_CUT_BYTES {
                break;
            }
            bases.extend(self.store.pieces_of(*base).map_err(failed)?);
        }
        reader.seek(range.start);
        let pieces = chunking::pieces(Read::by_ref(&mut reader).take(range.end - range.start));
        let pieces = pieces.map_err(|e| unwritten(&e))?;
        let list = PartList::of(&pieces, &bases);
        let body = PartsBody::new(&list, reader, range.start, lease);
        Ok(Reply::job(
            PARTS_TYPE,
            Job::Send {
                length: body.length,
                reader: Box::new(body),
            },
        )
        .header("ETag", record.revision().etag()))
    }

    /// Takes a chunk as parts; returns the answer and the size of the chunk.
    pub(super) fn take_parts(
        &self,
        hash: Hash,
        request: &Request,
        body: &mut dyn Read,
    ) -> (Reply, u64) {
        let taken = || {
            if self.committer.disk_is_full() {
                return Err(Reply::disk_full());
            }
            let _lease = self.lease(MAX_LIST_BYTES, 4)?;
            let mut body = BufReader::new(body);
            let mut line = Vec::new();
            (&mut body)
                .take(MAX_LIST_BYTES)
                .read_until(b'\n', &mut line)
                .map_err(|e| unread(&e))?;
            let wrong = |why: String| {
                let what =
                    format!("the body must begin with a line {{\"bases\", \"parts\"}}: {why}");
                Reply::error(400, what)
            };
            let list: PartList = commit::shallow(&line).map_err(|e| wrong(e.to_string()))?;
            let size = list.size().filter(|size| *size > 0);
            let size = size.ok_or_else(|| wrong("its numbers do not agree".into()))?;
            let unproven = self
                .unproven(&list.bases, &[], request)
                .map_err(|e| Reply::failed(&e))?;
            if !unproven.is_empty() {
                return Err(answer::missing(unproven.into_iter().collect()));
            }
            // tells whether the connection or the disk failed
            let mut body = WatchedBody::new(&mut body);
            match self.store.stage_parts(hash, &list, &mut body) {
                Ok(FromParts::Staged) => Ok((Reply::empty(204), size)),
                Ok(FromParts::OtherBytes) => Err(Reply::error(
                    400,
                    "the SHA-256 of these parts differs from the chunk's name",
                )),
                Ok(FromParts::NoBase) => Err(Reply::error(
                    409,
                    "the hub does not have all bases of these parts: send the whole chunk",
                )),
                Err(e) => Err(body.failed.unwrap_or_else(|| unwritten(&e))),
            }
        };
        taken().unwrap_or_else(|reply| (reply, 0))
    }
}

fn read_json<T: serde::de::DeserializeOwned>(body: &mut dyn Read, words: &str) -> Result<T, Reply> {
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).map_err(|e| unread(&e))?;
    commit::shallow(&bytes)
        .map_err(|why| Reply::error(400, format!("the body must be {words}: {why}")))
}

/// The chunks after the one with this hash that ends nearest to `at`; none if there is no such chunk.
fn following(chunks: &[Chunk], after: Option<Hash>, at: u64) -> &[Chunk] {
    let Some(after) = after else {
        return chunks;
    };
    let mut end = 0;
    let ends = chunks.iter().enumerate().map(|(number, chunk)| {
        end += chunk.size;
        (number, chunk.sha256, end)
    });
    ends.filter(|(_, hash, _)| *hash == after)
        .min_by_key(|(_, _, end)| end.abs_diff(at))
        .map_or(&[], |(number, ..)| &chunks[number + 1..])
}

/// The list, and then the new bytes.
struct PartsBody {
    line: Cursor<Vec<u8>>,
    reader: ContentReader,
    /// The new bytes that are left.
    new: std::vec::IntoIter<Range<u64>>,
    range: Range<u64>,
    length: u64,
    _lease: LongBodyMemory,
}

impl PartsBody {
    fn new(list: &PartList, reader: ContentReader, start: u64, lease: LongBodyMemory) -> PartsBody {
        let new: Vec<Range<u64>> = (list.new_ranges().into_iter())
            .map(|range| start + range.start..start + range.end)
            .collect();
        let line = list.line();
        PartsBody {
            length: line.len() as u64 + new.iter().map(|r| r.end - r.start).sum::<u64>(),
            line: Cursor::new(line),
            reader,
            new: new.into_iter(),
            range: 0..0,
            _lease: lease,
        }
    }
}

impl Read for PartsBody {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.line.read(into)? {
            0 if !into.is_empty() => {}
            n => return Ok(n),
        }
        if self.range.is_empty() {
            let Some(range) = self.new.next() else {
                return Ok(0);
            };
            self.reader.seek(range.start);
            self.range = range;
        }
        let left = self.range.end - self.range.start;
        let most = left.min(into.len() as u64) as usize;
        let n = self.reader.read(&mut into[..most])?;
        self.range.start += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_found_after_the_nearest_one_of_that_hash() {
        let chunk = |n: u8| Chunk {
            sha256: Hash([n; 32]),
            size: 10,
        };
        let all = [1, 2, 1, 3, 1, 4].map(chunk);
        let first = |after: Option<u8>, at| {
            let found = following(&all, after.map(|n| chunk(n).sha256), at);
            (found.first().map(|chunk| chunk.sha256.0[0]), found.len())
        };
        for (after, at, wants) in [
            (None, 0, (Some(1), 6)),
            (Some(1), 0, (Some(2), 5)),
            (Some(1), 28, (Some(3), 3)),
            (Some(1), u64::MAX, (Some(4), 1)),
            (Some(4), 0, (None, 0)),
            (Some(9), 0, (None, 0)),
        ] {
            assert_eq!(first(after, at), wants, "{after:?} {at}");
        }
    }
}
