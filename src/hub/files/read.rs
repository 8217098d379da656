//! The routes that read: listings, records, content, changes and the history of events.

use std::io::Read;

use uuid::Uuid;

use super::head::ByteRange;
use super::upload::unread;
use super::{Files, answer, commit, head, last_part};
use crate::clock;
use crate::hub::http::{Job, Reply, Request};
use crate::hub::rights::Right;
use crate::hub::store::files::{ChangesSince, Listing};
use crate::wire::files::{COMPACT_ROWS, EntryKind, FileEvent, Hash, PAGE, PAGE_DEFAULT, Record};
use crate::wire::revision::{CommonAnswer, CommonQuery, POINTS, Revision};

/// Rows outside the scope of a request that one page of changes passes over: each page is to be answered soon.
const MAX_SKIPPED_ROWS: usize = 10_000;
/// A content security policy under which a browser that shows a file runs nothing in it.
const NO_CONTENT: &str = "default-src 'none'; sandbox";

impl Files {
    pub(super) fn list(&self, request: &Request) -> Reply {
        let page = || {
            Ok(Listing {
                path: request
                    .parameter("path")
                    .unwrap_or_default()
                    .trim_start_matches('/')
                    .to_string(),
                search: request.parameter("search").unwrap_or_default(),
                offset: request
                    .number("offset")?
                    .unwrap_or(0)
                    .try_into()
                    .unwrap_or(usize::MAX),
                limit: limit(request, PAGE_DEFAULT)?,
                all_kinds: all_kinds(request),
                below: request
                    .caller
                    .limited_reader()
                    .and_then(|rights| rights.directories()),
            })
        };
        let listed = match page() {
            Ok(listing) => self.store.list(&listing),
            Err(reply) => return reply,
        };
        match listed {
            Ok((records, total)) => {
                Reply::json(200, &records).header("X-Total-Count", total.to_string())
            }
            Err(e) => Reply::failed(&e),
        }
    }

    pub(super) fn get(&self, id: Uuid, request: &Request) -> Reply {
        let found = self.store.file(id).map(|record| {
            record.and_then(|record| match request.caller.limits() {
                Some((rights, _)) => rights.shown(record),
                None => Some(record),
            })
        });
        match found {
            Ok(Some(record)) if record.deleted_at.is_none() => answer::record(200, &record),
            Ok(_) => answer::no_file(),
            Err(e) => Reply::failed(&e),
        }
    }

    pub(super) fn download(&self, id: Uuid, request: &Request) -> Reply {
        let rev = match head::revision(request) {
            Ok(rev) => rev,
            Err(reply) => return reply,
        };
        let (record, mut reader) = match self.store.open_file(id, rev) {
            Ok(Some((record, _))) if rev.is_none() && record.deleted_at.is_some() => {
                return answer::no_file();
            }
            Ok(Some(opened)) => opened,
            Ok(None) => {
                return if rev.is_some() {
                    answer::no_version()
                } else {
                    answer::no_file()
                };
            }
            Err(e) => return Reply::failed(&e),
        };
        let size = reader.size();
        let (status, bytes) = match head::span(
            request.header("range"),
            request.header("if-range"),
            size,
            record.revision(),
        ) {
            ByteRange::Outside => {
                return Reply::error(416, format!("the file has {size} bytes"))
                    .header("Content-Range", format!("bytes */{size}"))
                    .header("ETag", record.revision().etag());
            }
            ByteRange::Whole => (200, 0..size),
            ByteRange::Part(part) => (206, part),
        };
        let lost = reader.lost(&bytes);
        if !lost.is_empty() {
            return answer::lost(&lost);
        }
        reader.seek(bytes.start);
        let length = bytes.end - bytes.start;
        let job = Job::Send {
            length,
            reader: Box::new(reader.take(length)),
        };
        let mut reply = Reply {
            status,
            ..Reply::job(content_type(&record), job)
        }
        .header("ETag", record.revision().etag())
        .header("Content-Disposition", head::disposition(&record.name))
        .header("Content-Security-Policy", NO_CONTENT)
        .header("Accept-Ranges", "bytes");
        if status == 206 {
            reply = reply.header(
                "Content-Range",
                format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1),
            );
        }
        reply
    }

    pub(super) fn chunks_of(&self, id: Uuid, request: &Request) -> Reply {
        let rev = match head::revision(request) {
            Ok(rev) => rev,
            Err(reply) => return reply,
        };
        match self.store.chunks_of(id, rev) {
            Ok(Some((record, chunks))) => {
                Reply::json(200, &chunks).header("ETag", record.revision().etag())
            }
            Ok(None) if rev.is_some() => answer::no_version(),
            Ok(None) => answer::no_file(),
            Err(e) => Reply::failed(&e),
        }
    }

    pub(super) fn versions(&self, id: Uuid) -> Reply {
        match self
            .store
            .file(id)
            .and_then(|now| Ok((now, self.store.versions(id)?)))
        {
            Ok((Some(now), versions)) => {
                Reply::json(200, &versions).header("ETag", now.revision().etag())
            }
            Ok((None, _)) => answer::no_file(),
            Err(e) => Reply::failed(&e),
        }
    }

    pub(super) fn chunk(&self, request: &Request) -> Reply {
        let hash: Hash = match last_part(request).parse() {
            Ok(hash) => hash,
            Err(why) => return Reply::error(400, why),
        };
        if let Err(reply) = self.check_chunk(hash, request) {
            return reply;
        }
        match self.store.chunk(hash) {
            Ok(Some(reader)) if !reader.lost(&(0..reader.size())).is_empty() => {
                answer::lost(&[hash])
            }
            Ok(Some(reader)) => {
                let job = Job::Send {
                    length: reader.size(),
                    reader: Box::new(reader),
                };
                Reply::job("application/octet-stream", job).header("ETag", format!("\"{hash}\""))
            }
            Ok(None) => answer::no_chunk(),
            Err(e) => Reply::failed(&e),
        }
    }

    pub(super) fn changes(&self, request: &Request) -> Reply {
        let read = || {
            let after = request.number("after")?.unwrap_or(0);
            Ok((
                after,
                head::author(request)?.knows,
                request.number("began")?,
                limit(request, PAGE)?.max(1),
                request.scope()?,
            ))
        };
        let (after, newest, began, limit, scope) = match read() {
            Ok(asked) => asked,
            Err(reply) => return reply,
        };
        let rights = request.caller.limited_reader();
        let reads = |path: &str| scope.has(path) && rights.is_none_or(|rights| rights.reads(path));
        // a caller without a scope may not know that a page without rows can be followed by others
        let most_skipped = if scope.is_all() {
            usize::MAX
        } else {
            MAX_SKIPPED_ROWS
        };
        let rows: (&dyn Fn(&str) -> bool, usize) = (&reads, most_skipped);
        match self.store.changes(after, newest, began, limit, rows) {
            Ok(ChangesSince::Page(mut changes)) => {
                // do not ask a caller that may not send them
                if !changes.more && request.caller.check(Right::WriteFiles).is_ok() {
                    changes.wanted = self.wanted.names(&self.store);
                    changes.wanted.retain(|name| reads(&name.path));
                }
                if !changes.more {
                    changes.upcoming = self.events.upcoming.list(&reads, clock::monotonic());
                }
                if let Some(rights) = rights {
                    let rows = changes.changes.into_iter();
                    changes.changes = rows.filter_map(|row| rights.shown(row)).collect();
                }
                let accepted = request.header("accept");
                if accepted.is_some_and(|types| types.contains(COMPACT_ROWS)) {
                    Reply::bytes(200, COMPACT_ROWS, changes.to_compact())
                } else {
                    Reply::json(200, &changes)
                }
            }
            Ok(ChangesSince::OtherHistory) => Reply::error(
                409,
                "that revision belongs to another history: the hub was set back; restart with after=0",
            ),
            Ok(ChangesSince::Gone) => Reply::error(
                410,
                "changes after that revision have expired: restart with after=0",
            ),
            Err(e) => Reply::failed(&e),
        }
    }

    /// `POST /api/files/common`
    pub(super) fn common(&self, body: &mut dyn Read) -> Reply {
        let mut bytes = Vec::new();
        if let Err(e) = body.read_to_end(&mut bytes) {
            return unread(&e);
        }
        let CommonQuery { epoch, points } = match commit::shallow::<CommonQuery>(&bytes) {
            Ok(asked) if asked.points.len() <= POINTS => asked,
            Ok(_) => {
                return Reply::error(
                    413,
                    format!("at most {POINTS} revisions are compared at once"),
                );
            }
            Err(why) => {
                return Reply::error(
                    400,
                    format!("the body must be {{\"epoch\", \"points\": [[rev, tag], …]}}: {why}"),
                );
            }
        };
        let points: Vec<Revision> = points
            .into_iter()
            .map(|(rev, tag)| Revision { rev, tag })
            .collect();
        match self.store.common(epoch, &points) {
            Ok(common) => Reply::json(200, &CommonAnswer { common }),
            Err(e) => Reply::failed(&e),
        }
    }

    pub(super) fn history(&self, request: &Request) -> Reply {
        let parsed = || {
            let since =
                request.parsed("since", "a time such as 2026-11-21T10:30:00Z", head::time)?;
            let kind = request.parsed("event_type", "created, updated or deleted", event_type)?;
            Ok((
                since.map_or(0, |ms| u64::try_from(ms).unwrap_or(0)),
                kind,
                request.number("offset")?.unwrap_or(0),
                limit(request, PAGE)?,
                request.scope()?,
            ))
        };
        let (since, kind, offset, limit, scope) = match parsed() {
            Ok(asked) => asked,
            Err(reply) => return reply,
        };
        let all = all_kinds(request);
        let rights = request.caller.limited_reader().map(|rights| &**rights);
        // rows that are left out do not count for offset and limit
        let (mut rows, mut skip, mut at): (Vec<FileEvent>, usize, usize) =
            (Vec::new(), offset.try_into().unwrap_or(usize::MAX), 0);
        while rows.len() < limit {
            let page = match self.store.history(since, kind, at, PAGE) {
                Ok(page) => page,
                Err(e) => return Reply::failed(&e),
            };
            at += page.len();
            let last = page.len() < PAGE;
            let shown: Vec<FileEvent> = page
                .into_iter()
                .filter(|event| all || event.payload.kind == EntryKind::File)
                .filter(|event| scope.has(&event.payload.path))
                .filter_map(|event| match rights {
                    Some(rights) => rights.shown_event(event),
                    None => Some(event),
                })
                .collect();
            let skipped = skip.min(shown.len());
            let left = limit - rows.len();
            rows.extend(shown.into_iter().skip(skipped).take(left));
            skip -= skipped;
            if last {
                break;
            }
        }
        Reply::json(200, &rows)
    }
}

fn event_type(text: &str) -> Option<&'static str> {
    let text = text.strip_prefix("file_").unwrap_or(text);
    ["created", "updated", "deleted"]
        .into_iter()
        .find(|kind| *kind == text)
}

pub fn all_kinds(request: &Request) -> bool {
    request
        .parameter("kinds")
        .is_some_and(|kinds| kinds == "all")
}

fn limit(request: &Request, default: usize) -> Result<usize, Reply> {
    Ok(request
        .number("limit")?
        .map_or(default, |n| n.min(PAGE as u64) as usize))
}

fn content_type(record: &Record) -> String {
    head::content_type(&record.content_type).unwrap_or_else(|| "application/octet-stream".into())
}
