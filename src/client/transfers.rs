//! The routes that transfer file contents, which are never in memory as a whole: uploads, chunks,
//! batches, downloads.

use std::io::{self, BufRead, BufReader, Read};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::http::{self, Method};
use uuid::Uuid;

use super::body::{Body, ByteSource, BytesPassed, Piece};
use super::files::{ChangeHeaders, SYNC_PATIENCE, UploadResponse, etag, knows, tag};
use super::header::media_type;
use super::{Call, ErrorDetail, Failure, HubClient, HubResult, Purpose};
use crate::error::{Error, Kind};
use crate::logger::one_line;
use crate::wire::files::{
    BatchAnswer, BatchItem, BatchResult, FetchHead, FetchItem, FetchRequest, Hash, Metadata,
};
use crate::wire::revision::Revision;

/// Characters that are not allowed in a quoted file name of a form (WHATWG HTML, "multipart/form-data encoding algorithm").
const FILE_NAME: &AsciiSet = &CONTROLS.add(b'"').add(b'\\').add(b'%');
/// Maximum bytes of a line between bodies.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// Maximum bytes of the response to a batch: 1000 results with their records.
const BATCH_ANSWER: u64 = 16 * 1024 * 1024;

/// Content that is being downloaded.
pub struct Download<'a> {
    hub: &'a HubClient,
    /// The offset at which it begins: not the requested one if the server has no ranges.
    pub at: u64,
    /// Its revision, if the server has revisions.
    pub rev: Option<Revision>,
    reader: Box<dyn Read + Send>,
}

impl Download<'_> {
    /// The body of a response that begins at `at`.
    pub(super) fn of(hub: &HubClient, answer: http::Response<ureq::Body>, at: u64) -> Download<'_> {
        Download {
            hub,
            at,
            rev: None,
            reader: Box::new(answer.into_body().into_reader()),
        }
    }

    /// Like [`Read::read`]; a response that ends early is a failure.
    pub fn read(&mut self, buffer: &mut [u8]) -> HubResult<usize> {
        self.reader
            .read(buffer)
            .map_err(|e| self.hub.interrupted(&e))
    }
}

impl HubClient {
    /// `PUT /api/files/upload`: a whole file in one request; the hub guesses its content type.
    pub fn upload(
        &self,
        name: &str,
        metadata: &Metadata,
        content: ByteSource<'_>,
        change: ChangeHeaders,
        passed: BytesPassed<'_>,
    ) -> HubResult<UploadResponse> {
        let boundary = format!("mesync-{}", Uuid::new_v4().simple());
        let shown = utf8_percent_encode(name, FILE_NAME);
        let metadata = serde_json::to_string(metadata).expect("plain data is JSON");
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{shown}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let tail = format!(
            "\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"file_name\"\r\n\r\n{name}\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"metadata\"\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n\
             --{boundary}--\r\n"
        );
        let pieces = vec![
            Piece::Text(head.into_bytes()),
            Piece::Content(content),
            Piece::Text(tail.into_bytes()),
        ];
        let call = Call {
            method: Method::PUT,
            headers: change.headers(),
            body: Body::Pieces {
                content_type: format!("multipart/form-data; boundary={boundary}"),
                pieces,
                passed,
            },
            patience: Some(SYNC_PATIENCE),
            ..Call::get("/api/files/upload")
        };
        self.stored(&call)
    }

    /// `PUT /api/chunks/{sha256}`
    pub fn put_chunk(
        &self,
        sha256: Hash,
        content: ByteSource<'_>,
        passed: BytesPassed<'_>,
    ) -> HubResult<()> {
        let pieces = vec![Piece::Content(content)];
        self.send_chunk(sha256, "application/octet-stream", pieces, passed)
    }

    /// `PUT /api/chunks/{sha256}` in any of its forms.
    pub(super) fn send_chunk(
        &self,
        sha256: Hash,
        content_type: &str,
        pieces: Vec<Piece<'_>>,
        passed: BytesPassed<'_>,
    ) -> HubResult<()> {
        let body = Body::Pieces {
            content_type: content_type.into(),
            pieces,
            passed,
        };
        let call = Call {
            method: Method::PUT,
            body,
            ..Call::get(&format!("/api/chunks/{sha256}"))
        };
        self.done(&call)
    }

    /// `POST /api/files/batch`: one result for each file, in order. `newest`: the newest known
    /// revision, if any.
    pub fn batch(
        &self,
        files: &[(&BatchItem, &[u8])],
        newest: Revision,
        passed: BytesPassed<'_>,
    ) -> HubResult<Vec<BatchResult>> {
        let mut pieces = Vec::with_capacity(files.len() * 2);
        for (item, bytes) in files {
            let mut line = serde_json::to_vec(item).expect("plain data is JSON");
            line.push(b'\n');
            pieces.push(Piece::Text(line));
            pieces.push(Piece::Content(ByteSource::Bytes(bytes)));
        }
        let call = Call {
            method: Method::POST,
            headers: knows(newest),
            body: Body::Pieces {
                content_type: "application/octet-stream".into(),
                pieces,
                passed,
            },
            most: BATCH_ANSWER,
            patience: Some(SYNC_PATIENCE),
            ..Call::get("/api/files/batch")
        };
        let answer: BatchAnswer = self.json(&call)?;
        if answer.results.len() == files.len() {
            Ok(answer.results)
        } else {
            Err(self
                .not_a_hub(&format!(
                    "{} results for {} files",
                    answer.results.len(),
                    files.len()
                ))
                .into())
        }
    }

    /// The failure that status and error of a [`BatchResult`] describe. `what`: the name of the file, for people.
    pub fn refused_change(&self, status: u16, error: Option<&str>, what: &str) -> Failure {
        let words = error.map_or(format!("status {status}"), one_line);
        let kind = if status >= 500 {
            Kind::Busy
        } else {
            Kind::Refused
        };
        let error = Error::new(kind, format!("hub {} refuses {what}: {words}", self.url()));
        let told = match status {
            403 => ErrorDetail::LacksRight("directory".into()),
            _ => ErrorDetail::Nothing,
        };
        Failure {
            status,
            told,
            ..error.into()
        }
    }

    /// `POST /api/files/fetch`: passes the head and content of each item to `take`, in order.
    /// Content that `take` does not read is skipped.
    pub fn fetch(
        &self,
        items: &[FetchItem],
        mut take: impl FnMut(FetchHead, &mut dyn Read) -> Result<(), Error>,
    ) -> HubResult<()> {
        let body = Body::Json(
            serde_json::to_vec(&FetchRequest {
                items: items.to_vec(),
            })
            .expect("plain data is JSON"),
        );
        let call = Call {
            method: Method::POST,
            body,
            ..Call::get("/api/files/fetch")
        };
        let answer = self.typed(
            self.authorized(Purpose::Request, &call)?,
            "application/octet-stream",
            &call.path,
        )?;
        let mut reader = BufReader::with_capacity(64 * 1024, answer.into_body().into_reader());
        for item in items {
            let mut line = Vec::new();
            (&mut reader)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut line)
                .map_err(|e| self.interrupted(&e))?;
            let head = serde_json::from_slice::<FetchHead>(&line)
                .ok()
                .filter(|h| (h.id, h.rev) == (item.id, item.rev));
            let head = head.ok_or_else(|| self.not_a_hub("an answer to a fetch that is none"))?;
            let mut content = (&mut reader).take(head.size);
            take(head, &mut content)?;
            io::copy(&mut content, &mut io::sink()).map_err(|e| self.interrupted(&e))?;
        }
        // a response that was read to its end frees the connection for the next request
        let _ = reader.read(&mut [0]);
        Ok(())
    }

    /// `GET /api/files/{id}/download`: the bytes `from..to` of a revision, or of the current one;
    /// without `to`, to the end.
    pub fn download(
        &self,
        id: Uuid,
        at: Option<Revision>,
        from: u64,
        to: Option<u64>,
    ) -> HubResult<Download<'_>> {
        let wanted = at.map_or(String::new(), |at| format!("?rev={}{}", at.rev, tag(at)));
        let mut call = Call::get(&format!("/api/files/{id}/download{wanted}"));
        if from > 0 || to.is_some() {
            let last = to.map_or(String::new(), |to| to.saturating_sub(1).to_string());
            call.headers.push(("range", format!("bytes={from}-{last}")));
        }
        let answer = self.authorized(Purpose::Request, &call)?;
        let named = etag(&answer);
        // content may have any type, so the response is recognized by its revision
        if self.may_be_ours() && named.is_none_or(|named| at.is_some_and(|at| !at.is(named))) {
            return Err(self.foreign(answer.status().as_u16(), &media_type(&answer), &call.path));
        }
        self.content(answer, from, named)
    }

    fn content(
        &self,
        answer: http::Response<ureq::Body>,
        from: u64,
        rev: Option<Revision>,
    ) -> HubResult<Download<'_>> {
        let at = if answer.status().as_u16() == 206 {
            from
        } else {
            0
        };
        Ok(Download {
            rev,
            ..Download::of(self, answer, at)
        })
    }
}
