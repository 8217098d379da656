//! `PUT /api/files/upload`, a form with a file that is read while it arrives; and the upload of single chunks.

use std::io::{self, Read};
use std::sync::atomic::Ordering::Relaxed;

use uuid::Uuid;

use super::answer::unwritten;
use super::head::trimmed;
use super::multipart::{self, FormPart, Malformed, Parser, Sink};
use super::{Files, HeldMemory, answer, head, last_part};
use crate::clock;
use crate::hub::http::{Reply, Request};
use crate::hub::messages::SendReply;
use crate::hub::store::Store;
use crate::hub::store::files::{Intake, ReceivedBody};
use crate::hub::store::ops::files::{Author, FileOp, Put};
use crate::wire::files::{Chunk, EntryKind, Hash, Metadata, Name, PARTS_TYPE, SINGLE};
use crate::wire::revision::Condition;

/// Bytes of one read.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of a field other than the file at most.
const MAX_FIELD_BYTES: usize = 32 * 1024;

/// The parts of the form that have arrived.
struct UploadForm<'a> {
    store: &'a Store,
    request: &'a Request,
    /// Bytes of the file at most.
    most: u64,
    size: u64,
    part: FormPartName,
    file_name: Option<Vec<u8>>,
    metadata: Option<Vec<u8>>,
    filename: Option<String>,
    content_type: Option<String>,
    intake: Option<Intake>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FormPartName {
    File,
    FileName,
    Metadata,
    Other,
}

/// Why the upload is refused.
struct UploadFault(Reply);

impl From<Malformed> for UploadFault {
    fn from(malformed: Malformed) -> UploadFault {
        UploadFault(Reply::error(400, malformed.0))
    }
}

impl Files {
    pub(super) fn upload(&self, request: Request, answer: SendReply) {
        let Some(permit) = self.committer.room(request.body.len()) else {
            return answer(Reply::busy());
        };
        self.with_body(
            request,
            answer,
            move |this, request, body, answer| match this.take_form(request, body) {
                Ok(put) => this.change(
                    FileOp::put([put]),
                    HeldMemory::Short(permit),
                    request,
                    answer,
                    answer::put,
                ),
                Err(UploadFault(reply)) => answer(reply),
            },
        );
    }

    fn take_form(&self, request: &Request, body: &mut dyn Read) -> Result<Put, UploadFault> {
        let wrong = || {
            Reply::error(
                415,
                "an upload is multipart/form-data, with its boundary in Content-Type",
            )
        };
        let boundary = request
            .header("content-type")
            .and_then(multipart::boundary)
            .ok_or_else(wrong)
            .map_err(UploadFault)?;
        let (condition, author) = (
            head::condition(request).map_err(UploadFault)?,
            head::author(request).map_err(UploadFault)?,
        );
        if self.committer.disk_is_full() {
            return Err(UploadFault(Reply::disk_full()));
        }
        let mut form = UploadForm::new(&self.store, self.max_upload.load(Relaxed), request);
        let (mut parser, mut buffer) = (
            Parser::new(&boundary),
            vec![0; request.length.clamp(1, READ_BUFFER_BYTES as u64) as usize],
        );
        loop {
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => parser.feed(&buffer[..n], &mut form)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(UploadFault(unread(&e))),
            }
        }
        parser.finish()?;
        form.put(condition, author)
    }

    pub(super) fn put_chunk(&self, request: Request, answer: SendReply) {
        let hash: Hash = match last_part(&request).parse() {
            Ok(hash) => hash,
            Err(why) => return answer(Reply::error(400, why)),
        };
        self.with_body(request, answer, move |this, request, body, answer| {
            let (reply, size) = if is_parts(request) {
                this.take_parts(hash, request, body)
            } else {
                (this.take_chunk(hash, request, body), request.length)
            };
            if let Some(holder) = request.caller.limited_reader().and(request.caller.host())
                && reply.status == 204
            {
                this.proofs.note(holder, hash);
            }
            if reply.status == 204
                && let Ok(author) = head::author(request)
            {
                let upcoming = &this.events.upcoming;
                upcoming.arrived(&author.host, hash, clock::monotonic());
            }
            if reply.status == 204 && this.store.is_wanted(hash) {
                this.mend(hash, size, request, reply, answer)
            } else {
                answer(reply)
            }
        });
    }

    /// Moves a staged chunk to the place of a lost one before it is acknowledged.
    fn mend(&self, hash: Hash, size: u64, request: &Request, reply: Reply, answer: SendReply) {
        match self.store.mend_op(hash, size) {
            Ok(Some(op)) => self.change(op, HeldMemory::Nothing, request, answer, |outcome| {
                answer::mended(outcome, reply)
            }),
            Ok(None) => answer(reply),
            Err(e) => answer(unwritten(&e)),
        }
    }

    fn take_chunk(&self, hash: Hash, request: &Request, body: &mut dyn Read) -> Reply {
        if request.length == 0 || request.length > SINGLE {
            return Reply::error(
                if request.length == 0 { 400 } else { 413 },
                format!("a chunk has 1 to {SINGLE} bytes"),
            );
        }
        if self.committer.disk_is_full() {
            return Reply::disk_full();
        }
        // tells whether the connection or the disk failed
        let mut body = WatchedBody::new(body);
        match self.store.stage_chunk(hash, &mut body, request.length) {
            Ok(true) => Reply::empty(204),
            Ok(false) => Reply::error(
                400,
                "the SHA-256 of these bytes differs from the chunk's name",
            ),
            Err(e) => body.failed.unwrap_or_else(|| unwritten(&e)),
        }
    }
}

/// Whether the body is a chunk as parts.
fn is_parts(request: &Request) -> bool {
    request
        .header("content-type")
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case(PARTS_TYPE))
}

/// A body that remembers why it could not be read.
pub(super) struct WatchedBody<'a> {
    body: &'a mut dyn Read,
    pub(super) failed: Option<Reply>,
}

impl WatchedBody<'_> {
    pub(super) fn new(body: &mut dyn Read) -> WatchedBody<'_> {
        WatchedBody { body, failed: None }
    }
}

impl Read for WatchedBody<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.body
            .read(into)
            .inspect_err(|e| self.failed = Some(unread(e)))
    }
}

/// The answer to a body that did not arrive as announced.
pub fn unread(e: &io::Error) -> Reply {
    match e.kind() {
        io::ErrorKind::TimedOut => Reply::error(408, "the body came too slowly"),
        _ => Reply::error(400, "the body ended before its announced length"),
    }
}

impl<'a> UploadForm<'a> {
    fn new(store: &'a Store, most: u64, request: &'a Request) -> UploadForm<'a> {
        UploadForm {
            store,
            request,
            most,
            size: 0,
            part: FormPartName::Other,
            file_name: None,
            metadata: None,
            filename: None,
            content_type: None,
            intake: None,
        }
    }

    /// The operation, after all parts have arrived.
    fn put(mut self, condition: Condition, author: Author) -> Result<Put, UploadFault> {
        let missing =
            |part: &str| UploadFault(Reply::error(400, format!("the part \"{part}\" is missing")));
        let intake = self.intake.take().ok_or_else(|| missing("file"))?;
        let metadata = self.metadata()?.ok_or_else(|| missing("metadata"))?;
        let name = self.name(&metadata)?.ok_or_else(|| missing("file_name"))?;
        let ReceivedBody { content, bytes } =
            intake.finish().map_err(|e| UploadFault(unwritten(&e)))?;
        Ok(Put {
            name,
            kind: EntryKind::File,
            size: content.size,
            sha256: content.sha256,
            chunks: content
                .chunks
                .into_iter()
                .zip(bytes)
                .collect::<Vec<(Chunk, _)>>(),
            mode: metadata.mode,
            mtime: metadata.mtime,
            content_type: self.content_type.as_deref().and_then(head::content_type),
            extra: metadata.extra,
            condition,
            from: None,
            author,
            fresh: Uuid::now_v7(),
        })
    }

    fn metadata(&self) -> Result<Option<Metadata>, UploadFault> {
        let Some(bytes) = &self.metadata else {
            return Ok(None);
        };
        let wrong =
            |why: String| UploadFault(Reply::error(400, format!("bad part \"metadata\": {why}")));
        let metadata: Metadata = super::commit::shallow(bytes).map_err(wrong)?;
        super::commit::check_times(metadata.mtime.as_deref(), &metadata.extra).map_err(wrong)?;
        Ok(Some(metadata))
    }

    /// The name of the new file, if it is known yet.
    fn name(&self, metadata: &Metadata) -> Result<Option<Name>, UploadFault> {
        let bad = |why: String| UploadFault(Reply::error(422, why));
        let name = match (&self.file_name, &self.filename) {
            (Some(bytes), _) => {
                String::from_utf8(bytes.clone()).map_err(|_| bad("the name is not UTF-8".into()))?
            }
            (None, Some(name)) => name.clone(),
            (None, None) => return Ok(None),
        };
        let name = Name::new(trimmed(&metadata.path), &name).map_err(bad)?;
        super::check_name(self.request, &name).map_err(UploadFault)?;
        Ok(Some(name))
    }

    fn field(&mut self) -> Option<&mut Vec<u8>> {
        match self.part {
            FormPartName::FileName => self.file_name.as_mut(),
            FormPartName::Metadata => self.metadata.as_mut(),
            FormPartName::File | FormPartName::Other => None,
        }
    }
}

impl Sink for UploadForm<'_> {
    type Error = UploadFault;

    fn begin(&mut self, part: FormPart) -> Result<(), UploadFault> {
        self.part = match part.name.as_str() {
            "file" => FormPartName::File,
            "file_name" => FormPartName::FileName,
            "metadata" => FormPartName::Metadata,
            _ => FormPartName::Other,
        };
        let twice = match self.part {
            FormPartName::File => self.intake.is_some(),
            FormPartName::FileName => self.file_name.replace(Vec::new()).is_some(),
            FormPartName::Metadata => self.metadata.replace(Vec::new()).is_some(),
            FormPartName::Other => false,
        };
        if twice {
            return Err(UploadFault(Reply::error(
                400,
                format!("there are two parts \"{}\"", part.name),
            )));
        }
        if self.part == FormPartName::File {
            (self.filename, self.content_type) = (part.filename, part.content_type);
            // refuse a bad name before the file is received
            if let Some(metadata) = self.metadata()? {
                self.name(&metadata)?;
            }
            self.intake = Some(
                self.store
                    .intake()
                    .map_err(|e| UploadFault(Reply::failed(&e)))?,
            );
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UploadFault> {
        if let (FormPartName::File, Some(intake)) = (self.part, &mut self.intake) {
            self.size += bytes.len() as u64;
            if self.size > self.most {
                return Err(UploadFault(Reply::error(
                    413,
                    format!("the file is too long: {} bytes are the most", self.most),
                )));
            }
            return intake.write(bytes).map_err(|e| UploadFault(unwritten(&e)));
        }
        let Some(field) = self.field() else {
            return Ok(());
        };
        field.extend_from_slice(bytes);
        if field.len() > MAX_FIELD_BYTES {
            Err(UploadFault(Reply::error(
                413,
                format!("a field has more than {MAX_FIELD_BYTES} bytes"),
            )))
        } else {
            Ok(())
        }
    }

    fn end(&mut self) -> Result<(), UploadFault> {
        self.part = FormPartName::Other;
        Ok(())
    }
}
