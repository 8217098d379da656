//! `/api/upcoming`: long files that are being sent. Others fetch the chunks that have arrived, before the commit.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use uuid::Uuid;

use super::{Files, check_name, commit, head};
use crate::clock;
use crate::hub::http::{Job, Reply, Request};
use crate::hub::messages::SendReply;
use crate::hub::store::Store;
use crate::hub::upcoming::{MAX_UPCOMING_CHUNKS, UpcomingContent};
use crate::wire::files::{Announced, Chunk, EntryKind, Hash, Name, SINGLE, UpcomingFile};

/// Chunks in one response, at most.
const MAX_RUN_CHUNKS: usize = 16;

impl Files {
    /// `POST /api/upcoming`
    pub(super) fn announce(&self, request: Request, answer: SendReply) {
        self.read_list(request, answer, |this, request, body, answer, lease| {
            let announced = this.take_announcement(request, body);
            answer(announced.unwrap_or_else(|reply| reply));
            drop(lease);
        });
    }

    fn take_announcement(&self, request: &Request, body: &mut dyn Read) -> Result<Reply, Reply> {
        let author = head::author(request)?;
        let commit = commit::read(body)?;
        let name = Name::new(head::trimmed(&commit.path), &commit.name)
            .map_err(|why| Reply::error(422, why))?;
        check_name(request, &name)?;
        commit::check(&commit).map_err(|why| Reply::error(400, why))?;
        if commit.kind != EntryKind::File || commit.size <= SINGLE {
            let what = format!("only files of more than {SINGLE} bytes are announced");
            return Err(Reply::error(400, what));
        }
        if commit.size > self.max_upload.load(Relaxed) || commit.chunks.len() > MAX_UPCOMING_CHUNKS
        {
            return Err(Reply::error(413, "the file is too long to be announced"));
        }
        let hashes: Vec<Hash> = commit.chunks.iter().map(|chunk| chunk.sha256).collect();
        let unproven = self
            .unproven(&hashes, &[], request)
            .map_err(|e| Reply::failed(&e))?;
        let content = UpcomingContent {
            file: UpcomingFile {
                id: Uuid::new_v4(),
                name,
                size: commit.size,
                checksum_sha256: commit.checksum_sha256,
            },
            chunks: commit.chunks,
            host: author.host,
            unproven,
        };
        let id = self.events.announce(content, clock::monotonic());
        Ok(Reply::json(200, &Announced { id }))
    }

    /// `GET /api/upcoming/{id}/chunks`
    pub(super) fn upcoming_chunks(&self, request: &Request) -> Reply {
        self.upcoming(request)
            .map_or_else(|reply| reply, |found| Reply::json(200, &found.chunks))
    }

    /// `GET /api/upcoming/{id}/content`
    pub(super) fn upcoming_content(&self, request: &Request) -> Reply {
        let read = || {
            let found = self.upcoming(request)?;
            let at = request.number("at")?.unwrap_or(0);
            if at >= found.file.size {
                let what = format!("the file has {} bytes", found.file.size);
                return Err(Reply::error(416, what));
            }
            let (run, skipped) = self.arrived_run(&found, at)?;
            let length = run.iter().map(|chunk| chunk.size).sum::<u64>();
            if length <= skipped {
                return Ok(Reply::empty(204));
            }
            let reader = ArrivedChunks {
                store: Arc::clone(&self.store),
                left: run.into_iter(),
                skipped,
                open: None,
            };
            let job = Job::Send {
                length: length - skipped,
                reader: Box::new(reader.take(length - skipped)),
            };
            Ok(Reply::job("application/octet-stream", job))
        };
        read().unwrap_or_else(|reply| reply)
    }

    /// The announcement in the path. One that the caller may not read is answered like one that does not exist.
    fn upcoming(&self, request: &Request) -> Result<Arc<UpcomingContent>, Reply> {
        let none = || {
            Reply::error(
                404,
                "no such file is being sent: it is committed, or was given up",
            )
        };
        let part = request.path.split('/').nth(3).unwrap_or_default();
        let id = Uuid::try_parse(part).map_err(|_| none())?;
        let found = self.events.upcoming.find(id, clock::monotonic());
        let rights = request.caller.limited_reader();
        let reads = |path: &str| rights.is_none_or(|rights| rights.reads(path));
        found
            .filter(|found| reads(&found.file.name.path))
            .ok_or_else(none)
    }

    /// The chunks from the one at `at` on that have arrived, and how many bytes of the first one are before `at`.
    fn arrived_run(&self, of: &UpcomingContent, at: u64) -> Result<(Vec<Chunk>, u64), Reply> {
        let (mut first, mut begin) = (0, 0);
        while begin + of.chunks[first].size <= at {
            begin += of.chunks[first].size;
            first += 1;
        }
        let may_be_read =
            |hash: Hash| !of.unproven.contains(&hash) || self.proofs.has(&of.host, hash);
        let run: Vec<Chunk> = (of.chunks[first..].iter().copied())
            .take(MAX_RUN_CHUNKS)
            .take_while(|chunk| may_be_read(chunk.sha256))
            .collect();
        let hashes: Vec<Hash> = run.iter().map(|chunk| chunk.sha256).collect();
        let missing = self
            .store
            .missing_chunks(&hashes)
            .map_err(|e| Reply::failed(&e))?;
        let arrived = run
            .into_iter()
            .take_while(|chunk| !missing.contains(&chunk.sha256));
        Ok((arrived.collect(), at - begin))
    }
}

/// Chunks that are stored or staged, each opened when it is needed: one may be stored meanwhile.
struct ArrivedChunks {
    store: Arc<Store>,
    left: std::vec::IntoIter<Chunk>,
    /// Bytes of the first one that are left out.
    skipped: u64,
    open: Option<io::Take<Box<dyn Read + Send>>>,
}

impl Read for ArrivedChunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(open) = &mut self.open {
                let n = open.read(into)?;
                if n > 0 || into.is_empty() {
                    return Ok(n);
                }
            }
            let Some(chunk) = self.left.next() else {
                return Ok(0);
            };
            let mut open = open(&self.store, chunk)?.take(chunk.size);
            let skipped = std::mem::take(&mut self.skipped);
            io::copy(&mut Read::by_ref(&mut open).take(skipped), &mut io::sink())?;
            self.open = Some(open);
        }
    }
}

fn open(store: &Store, chunk: Chunk) -> io::Result<Box<dyn Read + Send>> {
    let staged = store.staged_chunk(chunk)?;
    if let Some(staged) = staged.and_then(|staged| File::open(staged.path()).ok()) {
        return Ok(Box::new(staged));
    }
    let stored = store.chunk(chunk.sha256);
    match stored.map_err(|e| io::Error::other(e.to_string()))? {
        Some(reader) => Ok(Box::new(reader)),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}
