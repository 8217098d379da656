//! The routes for files and chunks: from a request to an operation of the store, and from its outcome to a reply.
//!
//! No long file is ever in memory as a whole, and no worker waits long for the disk: requests with long bodies or much to read
//! run on the thread of the client's connection. The store decides what a change does.
//!
//! Reading order: `head`, `multipart`, `lines` and `answer` (pure), `read`, `upload`, `commit`, `batch`, `upcoming`, `wanted`, `backup`.

pub mod answer;
pub mod head;
pub mod lines;
pub mod multipart;
mod parts;

mod backup;
mod batch;
mod commit;
mod proofs;
mod read;
mod upcoming;
mod upload;
mod wanted;

use proofs::Proofs;
pub use read::all_kinds;
use wanted::WantedNames;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_channel::bounded;
use uuid::Uuid;

use super::commit::{Committer, Permit};
use super::http::{Caller, Job, Reply, Request};
use super::memory::{Room, SpaceClaim};
use super::messages::SendReply;
use super::routes::Route;
use super::server::{Lease, Quota};
use super::store::Store;
use super::store::ops::files::{Author, FileOp};
use super::store::ops::{Op, Outcome};
use super::subscribers::Subscribers;
use crate::config::limits;
use crate::wire;
use crate::wire::files::Name;

/// Copies of a list of hashes in memory: parsed, while the list grows, and in the answer.
const LIST_SIZES: u64 = 6;
/// Copies of a batch in memory: as it is read, and queued for the disk.
const BATCH_SIZES: u64 = 2;

/// The routes and their state.
#[derive(Clone)]
pub struct Files {
    store: Arc<Store>,
    committer: Arc<Committer>,
    events: Arc<Subscribers>,
    max_upload: Arc<AtomicU64>,
    /// Memory for bodies that must be read as a whole: lists of chunks, batches.
    memory: Arc<Quota>,
    room: Room,
    /// Held while a backup is made.
    backup: Arc<Quota>,
    wanted: Arc<WantedNames>,
    proofs: Arc<Proofs>,
}

/// The memory of a body that is read as a whole.
struct LongBodyMemory {
    _quota: Lease,
    _space: SpaceClaim,
}

/// The memory of an operation, held until that is on the disk.
enum HeldMemory {
    Nothing,
    Short(Permit),
    Long(LongBodyMemory),
}

impl Files {
    pub fn new(
        store: Arc<Store>,
        committer: Arc<Committer>,
        events: Arc<Subscribers>,
        max_upload: Arc<AtomicU64>,
        room: Room,
    ) -> Files {
        // a single lease of any length is granted
        let memory = Quota::new(room.part(16, 0, limits::FILE_MEMORY_BYTES));
        Files {
            store,
            committer,
            events,
            max_upload,
            memory,
            room,
            backup: Quota::new(1),
            wanted: Arc::default(),
            proofs: Arc::default(),
        }
    }

    /// Answers the request, at once or when it is on the disk; returns it if its route is not about files.
    pub fn handle(
        &self,
        route: Route,
        request: Request,
        answer: SendReply,
    ) -> Option<(Request, SendReply)> {
        if request.caller == Caller::Nobody {
            return Some((request, answer));
        }
        match route {
            Route::ListFiles => self.read_later(request, answer, Files::list),
            Route::Changes => self.read_later(request, answer, Files::changes),
            Route::Common => self.read_whole(request, answer, |this, _, body, answer| {
                answer(this.common(body))
            }),
            Route::History => self.read_later(request, answer, Files::history),
            Route::GetFile => answer(self.with_id(&request, |id| self.get(id, &request))),
            Route::Download => answer(self.with_id(&request, |id| self.download(id, &request))),
            Route::FileChunks => answer(self.with_id(&request, |id| self.chunks_of(id, &request))),
            Route::Versions => answer(self.with_id(&request, |id| self.versions(id))),
            Route::GetChunk => answer(self.chunk(&request)),
            Route::UploadFile => self.upload(request, answer),
            Route::CommitFile => self.commit(request, answer),
            Route::MissingChunks => self.missing(request, answer),
            Route::PutChunk => self.put_chunk(request, answer),
            Route::FilePieces => self.pieces(request, answer),
            Route::FileParts => self.parts(request, answer),
            Route::AnnounceFile => self.announce(request, answer),
            Route::UpcomingChunks => answer(self.upcoming_chunks(&request)),
            Route::UpcomingContent => answer(self.upcoming_content(&request)),
            Route::BatchFiles => self.batch(request, answer),
            Route::FetchFiles => self.fetch(request, answer),
            Route::DeleteFile => self.delete(&request, answer),
            Route::RestoreFile => self.restore(&request, answer),
            Route::AskKey => self.ask_key(&request, answer),
            Route::Backup => self.backup(&request, answer),
            _ => return Some((request, answer)),
        }
        None
    }

    /// Memory for `times` copies of a body that must be read as a whole.
    fn lease(&self, body_bytes: u64, times: u64) -> Result<LongBodyMemory, Reply> {
        let quota = self.memory.take(body_bytes).ok_or_else(Reply::busy)?;
        match self.room.claim(body_bytes.saturating_mul(times)) {
            Some(space) => Ok(LongBodyMemory {
                _quota: quota,
                _space: space,
            }),
            None => {
                Err(Reply::error(503, "the hub's memory is short; retry")
                    .header("Retry-After", "1"))
            }
        }
    }

    /// Runs `read` on the thread of the connection, not on a worker, because it reads much.
    fn read_later(&self, request: Request, answer: SendReply, read: fn(&Files, &Request) -> Reply) {
        let this = self.clone();
        answer(Reply::job(
            "application/json",
            Job::Upload(Box::new(move |_| read(&this, &request))),
        ));
    }

    /// Calls `then` with the id in the path `/api/files/{id}/…`.
    fn with_id(&self, request: &Request, then: impl FnOnce(Uuid) -> Reply) -> Reply {
        self.id_in(request).map_or_else(|reply| reply, then)
    }

    /// The id in the path. A file that the caller may not read is answered like one that does not exist; a file's name never
    /// changes, so the check stays valid.
    fn id_in(&self, request: &Request) -> Result<Uuid, Reply> {
        let part = request.path.split('/').nth(3).unwrap_or_default();
        let id = Uuid::try_parse(part).map_err(|_| answer::no_file())?;
        self.check_id(id, request)
    }

    fn check_id(&self, id: Uuid, request: &Request) -> Result<Uuid, Reply> {
        let Some(rights) = request.caller.limited_reader() else {
            return Ok(id);
        };
        match self.store.file(id) {
            Ok(Some(record)) if rights.reads(&record.path) => Ok(id),
            Ok(_) => Err(answer::no_file()),
            Err(e) => Err(Reply::failed(&e)),
        }
    }

    fn delete(&self, request: &Request, answer: SendReply) {
        let read = || {
            Ok((
                self.id_in(request)?,
                head::condition(request)?,
                head::author(request)?,
            ))
        };
        match read() {
            Ok((id, condition, author)) => self.change(
                FileOp::delete(id, condition, author),
                HeldMemory::Nothing,
                request,
                answer,
                answer::deleted,
            ),
            Err(reply) => answer(reply),
        }
    }

    fn restore(&self, request: &Request, answer: SendReply) {
        let body = if request.body.is_empty() {
            Ok(wire::files::Restore::default())
        } else {
            serde_json::from_slice(&request.body)
        };
        let wrong = |_| Reply::error(400, "the body must be {\"rev\": number}");
        let read = || {
            Ok((
                self.id_in(request)?,
                body.map_err(wrong)?.rev,
                head::condition(request)?,
                head::author(request)?,
            ))
        };
        match read() {
            Ok((id, rev, condition, author)) => {
                if let Err(e) = self.store.look_at_version(id, rev) {
                    return answer(Reply::failed(&e));
                }
                self.change(
                    FileOp::Restore {
                        id,
                        rev,
                        condition,
                        author,
                    },
                    HeldMemory::Nothing,
                    request,
                    answer,
                    answer::restored,
                );
            }
            Err(reply) => answer(reply),
        }
    }

    fn ask_key(&self, request: &Request, answer: SendReply) {
        let read = || Ok((head::key(last_part(request))?, head::author(request)?));
        let (key, Author { host, knows, .. }) = match read() {
            Ok(asked) => asked,
            Err(reply) => return answer(reply),
        };
        let rights = request.caller.limited_reader().cloned();
        let committed =
            move |outcome| answer(answer::asked(answer::shown(outcome, rights.as_deref())));
        self.committer.submit(
            Op::File(FileOp::Ask { host, key, knows }),
            None,
            Box::new(committed),
        );
    }

    /// Submits a change to the committer; `reply` turns its outcome into the answer.
    fn change(
        &self,
        op: FileOp,
        hold: HeldMemory,
        request: &Request,
        answer: SendReply,
        reply: impl FnOnce(Outcome) -> Reply + Send + 'static,
    ) {
        let (permit, lease) = match hold {
            HeldMemory::Nothing => (None, None),
            HeldMemory::Short(permit) => (Some(permit), None),
            HeldMemory::Long(lease) => (None, Some(lease)),
        };
        let rights = request.caller.limited_reader().cloned();
        let committed = move |outcome| {
            answer(reply(answer::shown(outcome, rights.as_deref())));
            drop(lease);
        };
        self.committer
            .submit(Op::File(op), permit, Box::new(committed));
    }

    /// Calls `take` with the body: at once if it has been read, else on the thread that reads it.
    fn with_body(
        &self,
        mut request: Request,
        answer: SendReply,
        take: impl FnOnce(&Files, &Request, &mut dyn Read, SendReply) + Send + 'static,
    ) {
        if request.body.len() as u64 >= request.length {
            let body = std::mem::take(&mut request.body);
            return take(self, &request, &mut body.as_slice(), answer);
        }
        let this = self.clone();
        answer(later(move |body, answer| {
            take(&this, &request, body, answer)
        }));
    }

    /// Calls `take` on the thread of the connection even for a short body, because it may open or sync many files.
    fn read_whole(
        &self,
        mut request: Request,
        answer: SendReply,
        take: impl FnOnce(&Files, &Request, &mut dyn Read, SendReply) + Send + 'static,
    ) {
        let (this, begun) = (self.clone(), std::mem::take(&mut request.body));
        answer(later(move |rest, answer| {
            take(&this, &request, &mut begun.as_slice().chain(rest), answer)
        }));
    }

    /// [`Files::read_whole`] for a body with a list of chunks, with the memory that the list needs.
    fn read_list(
        &self,
        request: Request,
        answer: SendReply,
        take: impl FnOnce(&Files, &Request, &mut dyn Read, SendReply, LongBodyMemory) + Send + 'static,
    ) {
        match self.lease(request.length, LIST_SIZES) {
            Ok(lease) => self.read_whole(request, answer, |this, request, body, answer| {
                take(this, request, body, answer, lease);
            }),
            Err(reply) => answer(reply),
        }
    }
}

/// Runs `work` on the thread of the client's connection, which may wait for the disk.
fn later(work: impl FnOnce(&mut dyn Read, SendReply) + Send + 'static) -> Reply {
    let job = move |body: &mut dyn Read| {
        let (answer, answered) = bounded(1);
        work(body, Box::new(move |reply| drop(answer.send(reply))));
        answered.recv().unwrap_or_else(|_| Reply::busy())
    };
    Reply::job("application/json", Job::Upload(Box::new(job)))
}

/// Whether the caller may write a file of this name.
fn check_name(request: &Request, name: &Name) -> Result<(), Reply> {
    match request.caller.limits() {
        Some((rights, holder)) => rights
            .check_name(name, holder)
            .map_err(|why| Reply::lacks("directory", why)),
        None => Ok(()),
    }
}

fn last_part(request: &Request) -> &str {
    request.path.rsplit('/').next().unwrap_or_default()
}
