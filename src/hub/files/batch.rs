//! `POST /api/files/batch` and `POST /api/files/fetch`: many changes, or many short contents, in one request.

use std::io::{Cursor, Read};

use uuid::Uuid;

use super::answer::unwritten;
use super::head::trimmed;
use super::lines::{InvalidLine, Lines};
use super::upload::unread;
use super::{BATCH_SIZES, Files, HeldMemory, answer, check_name, commit, head};
use crate::hub::http::{Job, Reply, Request};
use crate::hub::messages::SendReply;
use crate::hub::server::Lease;
use crate::hub::store::ops::Outcome;
use crate::hub::store::ops::files::{Author, FileChange, FileOp, Put};
use crate::wire::files::{
    BATCH_BYTES, BATCH_FILE, BATCH_FILES, BatchItem, BatchResult, Chunk, Commit, EntryKind,
    ExtraMetadata, FetchHead, FetchItem, FetchRequest, Hash, Name,
};
use crate::wire::revision::{Condition, Revision};

/// The bytes of a fetch with the lease of their memory, which ends when they are sent.
struct LeasedBytes {
    bytes: Cursor<Vec<u8>>,
    _leases: Vec<Lease>,
}

impl Read for LeasedBytes {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.bytes.read(into)
    }
}

/// The changes of a batch that have been read so far.
#[derive(Default)]
struct FileBatch {
    /// One for each change; `None`: the store decides.
    results: Vec<Option<BatchResult>>,
    changes: Vec<FileChange>,
}

impl Files {
    pub(super) fn batch(&self, request: Request, answer: SendReply) {
        let lease = match self.lease(request.length, BATCH_SIZES) {
            Ok(lease) => lease,
            Err(reply) => return answer(reply),
        };
        self.with_body(
            request,
            answer,
            move |this, request, body, answer| match this.take_batch(request, body) {
                Ok(FileBatch { results, changes }) if changes.is_empty() => {
                    answer(answer::batch(results, Outcome::Changed(Vec::new())))
                }
                Ok(FileBatch { results, changes }) => {
                    this.change(
                        FileOp::Change(changes),
                        HeldMemory::Long(lease),
                        request,
                        answer,
                        |outcome| answer::batch(results, outcome),
                    );
                }
                Err(reply) => answer(reply),
            },
        );
    }

    fn take_batch(&self, request: &Request, body: &mut dyn Read) -> Result<FileBatch, Reply> {
        let author = head::author(request)?;
        if author.key.is_some() || head::condition(request)? != Condition::None {
            return Err(Reply::error(
                400,
                "each file of a batch has its own key and condition, in its line",
            ));
        }
        if self.committer.disk_is_full() {
            return Err(Reply::disk_full());
        }
        let (mut lines, mut batch) = (Lines::new(body), FileBatch::default());
        loop {
            match lines.next_file() {
                Ok(Some((item, bytes))) => {
                    match self.take_item(item, &bytes, &author, request) {
                        Ok(change) => {
                            batch.changes.push(change);
                            batch.results.push(None);
                        }
                        // not because of this change
                        Err(reply) if reply.status >= 500 => return Err(reply),
                        Err(reply) => batch.results.push(Some(answer::refused_line(&reply))),
                    }
                }
                Ok(None) => break,
                Err(InvalidLine::Malformed(why)) => return Err(Reply::error(400, why)),
                Err(InvalidLine::TooMuch(why)) => return Err(Reply::error(413, why)),
                Err(InvalidLine::Unread(e)) => return Err(unread(&e)),
            }
        }
        let bytes = batch.changes.iter().flat_map(FileChange::chunks);
        self.store
            .sync(bytes.map(|(_, bytes)| bytes))
            .map_err(|e| unwritten(&e))?;
        Ok(batch)
    }

    /// Receives one change. A content is not yet durable.
    fn take_item(
        &self,
        item: BatchItem,
        bytes: &[u8],
        author: &Author,
        request: &Request,
    ) -> Result<FileChange, Reply> {
        let author = Author {
            key: item.key,
            ..author.clone()
        };
        let condition = match (item.if_match, item.if_none_match) {
            (Some(_), true) => {
                let why = "\"if_match\" and \"if_none_match\" together are never met";
                return Err(Reply::error(400, why));
            }
            (Some(rev), false) => Condition::Match(Revision { rev, tag: item.tag }),
            (None, true) => Condition::Absent,
            (None, false) => Condition::None,
        };
        if let Some(id) = item.delete {
            return Ok(FileChange::Delete {
                id: self.check_id(id, request)?,
                condition,
                author,
            });
        }
        let Some(checksum_sha256) = item.checksum_sha256 else {
            let why = "the line needs \"checksum_sha256\", or \"delete\"";
            return Err(Reply::error(400, why));
        };
        if let Some(chunks) = item.chunks {
            let commit = Commit {
                path: item.path,
                name: item.name,
                kind: item.kind,
                mode: item.mode,
                mtime: item.mtime,
                extra: ExtraMetadata::default(),
                content_type: None,
                size: item.size,
                checksum_sha256,
                chunks,
                from: item.from,
            };
            let put = self.checked(commit, condition, author, request)?;
            return Ok(FileChange::Put(Box::new(put)));
        }
        if item.from.is_some() {
            let why = "a change with \"from\" needs \"chunks\": send the content first";
            return Err(Reply::error(400, why));
        }
        let name = check(&item, checksum_sha256, bytes)?;
        check_name(request, &name)?;
        let mut intake = self
            .store
            .intake_unsynced()
            .map_err(|e| Reply::failed(&e))?;
        let body = intake
            .write(bytes)
            .and_then(|()| intake.finish())
            .map_err(|e| unwritten(&e))?;
        Ok(FileChange::Put(Box::new(Put {
            name,
            kind: item.kind,
            size: item.size,
            sha256: checksum_sha256,
            chunks: body
                .content
                .chunks
                .into_iter()
                .zip(body.bytes)
                .collect::<Vec<(Chunk, _)>>(),
            mode: item.mode,
            mtime: item.mtime,
            content_type: None,
            extra: ExtraMetadata::default(),
            condition,
            from: None,
            author,
            fresh: Uuid::now_v7(),
        })))
    }

    pub(super) fn fetch(&self, request: Request, answer: SendReply) {
        self.read_whole(request, answer, |this, request, body, answer| {
            let mut bytes = Vec::new();
            if let Err(e) = body.read_to_end(&mut bytes) {
                return answer(unread(&e));
            }
            answer(match commit::shallow::<FetchRequest>(&bytes) {
                Ok(fetch) if fetch.items.len() > BATCH_FILES => {
                    Reply::error(413, format!("a batch has at most {BATCH_FILES} files"))
                }
                Ok(fetch) => this.send(&fetch.items, request),
                Err(why) => Reply::error(
                    400,
                    format!("the body must be {{\"items\": [{{\"id\", \"rev\"}}, …]}}: {why}"),
                ),
            });
        });
    }

    fn send(&self, items: &[FetchItem], request: &Request) -> Reply {
        let (mut out, mut leases) = (Vec::new(), Vec::new());
        for item in items {
            let (status, bytes) = match self.content(
                item,
                request,
                BATCH_BYTES.saturating_sub(out.len() as u64),
                &mut leases,
            ) {
                Ok(found) => found,
                Err(reply) => return reply,
            };
            let head = FetchHead {
                id: item.id,
                rev: item.rev,
                status,
                size: bytes.len() as u64,
            };
            out.extend(serde_json::to_vec(&head).unwrap_or_default());
            out.push(b'\n');
            out.extend(bytes);
        }
        let held = LeasedBytes {
            bytes: Cursor::new(out),
            _leases: leases,
        };
        Reply::job(
            "application/octet-stream",
            Job::Send {
                length: held.bytes.get_ref().len() as u64,
                reader: Box::new(held),
            },
        )
    }

    /// The status and bytes of one file.
    fn content(
        &self,
        item: &FetchItem,
        request: &Request,
        room: u64,
        leases: &mut Vec<Lease>,
    ) -> Result<(u16, Vec<u8>), Reply> {
        match self.check_id(item.id, request) {
            Err(reply) if reply.status == 404 => return Ok((404, Vec::new())),
            checked => checked?,
        };
        let opened = self
            .store
            .open_file(
                item.id,
                Some(Revision {
                    rev: item.rev,
                    tag: item.tag,
                }),
            )
            .map_err(|e| Reply::failed(&e))?;
        let Some((_, reader)) = opened.filter(|(record, _)| record.deleted_at.is_none()) else {
            return Ok((404, Vec::new()));
        };
        if !reader.lost(&(0..reader.size())).is_empty() {
            // the answer to a single request says why
            return Ok((409, Vec::new()));
        }
        if reader.size() > BATCH_FILE.min(room) {
            return Ok((413, Vec::new()));
        }
        let Some(lease) = self.memory.take(reader.size()) else {
            return Ok((413, Vec::new()));
        };
        leases.push(lease);
        let (size, mut bytes) = (reader.size(), Vec::new());
        match reader.take(size).read_to_end(&mut bytes) {
            Ok(read) if read as u64 == size => Ok((200, bytes)),
            Ok(_) => Ok((404, Vec::new())),
            // a damaged file must not prevent the others
            Err(e) if !crate::error::is_shortage(&e) => {
                log::warn!("cannot read the content of a file: {e}");
                Ok((409, Vec::new()))
            }
            Err(e) => Err(Reply::failed(&crate::error::Error::io("read a file", &e))),
        }
    }
}

/// Checks a content against its line; returns its name.
fn check(item: &BatchItem, wanted: Hash, bytes: &[u8]) -> Result<Name, Reply> {
    let name = Name::new(trimmed(&item.path), &item.name).map_err(|why| Reply::error(422, why))?;
    let bad = |why: String| Reply::error(400, why);
    commit::check_times(item.mtime.as_deref(), &ExtraMetadata::default()).map_err(bad)?;
    match item.kind {
        EntryKind::Dir if !bytes.is_empty() => {
            return Err(bad("a directory has no content".into()));
        }
        EntryKind::Symlink => commit::is_target(bytes).map_err(bad)?,
        _ => {}
    }
    match Hash::of(bytes) {
        hash if hash == wanted => Ok(name),
        hash => Err(bad(format!("\"checksum_sha256\" must be {hash}"))),
    }
}
