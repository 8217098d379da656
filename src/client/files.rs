//! The file routes with JSON bodies: listings, records, missing chunks, versions, commits. One method for each route.
//!
//! Bodies of files are in `transfers`, the event stream in `events`. A server without mesync's own routes (`s3em`)
//! responds with 404 or 405 to them; [`HubClient::is_ours`] tells in advance.

use std::path::Path;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{self, Method};
use uuid::Uuid;

use super::header::media_type;
use super::{Body, Call, HubClient, HubResult, Purpose};
use crate::wire::KeyUse;
use crate::wire::files::{
    AskedChunks, Backup, COMPACT_ROWS, ChangedRecord, ChangesPage, Chunk, Commit, FileEvent,
    HISTORY_HEADER, Hash, KeyAnswer, MissingChunks, Record, Restore, Version,
};
use crate::wire::revision::{CommonAnswer, CommonQuery, Condition, Revision};
use crate::wire::scope::Scope;

/// Maximum bytes of a page of records: 1000 with names of 1 KiB each, escaped.
const PAGE_BYTES: u64 = 16 * 1024 * 1024;
/// Maximum bytes of a list of chunks: 64 GB of the smallest.
pub(super) const CHUNKS_BYTES: u64 = 40 * 1024 * 1024;
/// A commit syncs all chunks of a file, which is slow on flash.
pub(super) const SYNC_PATIENCE: Duration = Duration::from_secs(300);
/// A copy of the whole hub may take hours.
const COPY_PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// The condition, key and history of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeHeaders {
    pub condition: Condition,
    /// A request with the same key gets the same response again.
    pub key: Option<Uuid>,
    /// The newest known revision: a hub that was set back to before it changes nothing.
    pub knows: Revision,
}

impl ChangeHeaders {
    pub(super) fn headers(self) -> Vec<(&'static str, String)> {
        let condition = match self.condition {
            Condition::None => None,
            Condition::Match(at) => Some(("if-match", at.etag())),
            Condition::Absent => Some(("if-none-match", "*".to_string())),
        };
        condition
            .into_iter()
            .chain(self.key.map(|key| ("idempotency-key", key.to_string())))
            .chain(knows(self.knows))
            .collect()
    }
}

/// The result of sending a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadOutcome {
    Created,
    Updated,
    /// The hub had it already.
    Unchanged,
}

/// The response to an upload, a commit or a restore.
#[derive(Debug, Clone)]
pub struct UploadResponse {
    pub outcome: UploadOutcome,
    /// The current revision, if the server has revisions.
    pub rev: Option<u64>,
    /// Missing if nothing was changed: such a response has no body.
    pub record: Option<Record>,
    /// For a rename: the tombstone of the old name.
    pub renamed_from: Option<Record>,
}

/// Which records to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListingQuery<'a> {
    /// A prefix of the path, as a directory.
    pub path: Option<&'a str>,
    /// A substring of the name.
    pub search: Option<&'a str>,
    /// Include directories and symbolic links.
    pub all_kinds: bool,
}

/// One page of a listing.
#[derive(Debug)]
pub struct ListingPage {
    pub records: Vec<Record>,
    /// The total number of rows, if the server reports it.
    pub total: Option<u64>,
}

impl HubClient {
    /// `GET /api/files`: one page. `s3em` returns at most 200 rows, whatever the limit: an empty page is the end.
    pub fn list(
        &self,
        query: &ListingQuery<'_>,
        limit: usize,
        offset: u64,
    ) -> HubResult<ListingPage> {
        let mut path = format!("/api/files?limit={limit}&offset={offset}");
        let mut add = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                path += &format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
            }
        };
        add("path", query.path);
        add("search", query.search);
        add("kinds", query.all_kinds.then_some("all"));
        let call = Call {
            most: PAGE_BYTES,
            ..Call::get(&path)
        };
        let answer = self.authorized(Purpose::Request, &call)?;
        let total = header(&answer, "x-total-count");
        Ok(ListingPage {
            records: self.body(answer, call.most, &call.path)?,
            total,
        })
    }

    /// `GET /api/files/{id}`
    pub fn info(&self, id: Uuid) -> HubResult<Record> {
        self.json(&Call::get(&format!("/api/files/{id}")))
    }

    /// `DELETE /api/files/{id}`; the tombstone, if the server returns it.
    pub fn remove(&self, id: Uuid, change: ChangeHeaders) -> HubResult<Option<Record>> {
        let call = Call {
            method: Method::DELETE,
            headers: change.headers(),
            ..Call::get(&format!("/api/files/{id}"))
        };
        let RemoveResponse { deleted, record } = self.json(&call)?;
        // s3em returns no tombstone
        match record {
            Some(left) if left.id == id && left.deleted_at.is_some() => Ok(Some(left)),
            None if deleted && !self.is_ours()? => Ok(None),
            _ => Err(self
                .not_a_hub("an answer to a delete that does not name it")
                .into()),
        }
    }

    /// `GET /api/files/changes`. `newest`: the newest known revision. `began`: from the first page of a full listing, which `after` = 0 begins. A failure with status 409:
    /// the hub does not have `newest`. An older hub ignores the scope, and sends all rows.
    pub fn changes(
        &self,
        after: u64,
        newest: Revision,
        began: Option<u64>,
        limit: usize,
        scope: &Scope,
    ) -> HubResult<ChangesPage> {
        let began = began.map_or(String::new(), |rev| format!("&began={rev}"));
        let scope = scope.query();
        let path =
            format!("/api/files/changes?after={after}&limit={limit}&kinds=all{began}{scope}");
        let accepted = [("accept", format!("{COMPACT_ROWS}, application/json"))];
        let headers = knows(newest).into_iter().chain(self.state());
        let call = Call {
            most: PAGE_BYTES,
            headers: headers.chain(accepted).collect(),
            ..Call::get(&path)
        };
        let answer = self.authorized(Purpose::Request, &call)?;
        // an older hub sends JSON
        if media_type(&answer) != COMPACT_ROWS {
            return self.body(answer, call.most, &call.path);
        }
        let bytes = self.bytes(answer, call.most)?;
        ChangesPage::from_compact(&bytes)
            .ok_or_else(|| self.not_a_hub("not its rows of changes").into())
    }

    /// `POST /api/files/common`: up to which revision the hub has the history of these points, at most
    /// [`crate::wire::revision::POINTS`]. An older hub lacks this route.
    pub fn common(&self, epoch: Uuid, points: &[Revision]) -> HubResult<u64> {
        let body = to_json(&CommonQuery {
            epoch,
            points: points.iter().map(|at| (at.rev, at.tag)).collect(),
        });
        let answer: CommonAnswer = self.json(&Call {
            method: Method::POST,
            body,
            ..Call::get("/api/files/common")
        })?;
        Ok(answer.common)
    }

    /// `POST /api/chunks/missing`: the chunks among these that the hub does not have.
    pub fn missing(&self, chunks: &[Hash]) -> HubResult<Vec<Hash>> {
        let body = to_json(&AskedChunks {
            chunks: chunks.to_vec(),
        });
        let answer: MissingChunks = self.json(&Call {
            method: Method::POST,
            body,
            most: CHUNKS_BYTES,
            ..Call::get("/api/chunks/missing")
        })?;
        Ok(answer.missing)
    }

    /// `GET /api/files/{id}/chunks`: the chunks of a revision.
    pub fn chunks_of(&self, id: Uuid, at: Revision) -> HubResult<Vec<Chunk>> {
        self.json(&Call {
            most: CHUNKS_BYTES,
            ..Call::get(&format!("/api/files/{id}/chunks?rev={}{}", at.rev, tag(at)))
        })
    }

    /// `PUT /api/files/commit`: a file whose chunks the hub has. If some are missing, a failure with status 409 names
    /// them.
    pub fn commit(&self, commit: &Commit, change: ChangeHeaders) -> HubResult<UploadResponse> {
        let call = Call {
            method: Method::PUT,
            headers: change.headers(),
            body: to_json(commit),
            patience: Some(SYNC_PATIENCE),
            ..Call::get("/api/files/commit")
        };
        self.stored(&call)
    }

    /// `POST /api/hub/backup`: the hub copies itself to a directory of its machine, and responds when that is done.
    pub fn backup(&self, dir: &Path) -> HubResult<Backup> {
        let body = to_json(&serde_json::json!({ "dir": dir }));
        self.json(&Call {
            method: Method::POST,
            body,
            patience: Some(COPY_PATIENCE),
            ..Call::get("/api/hub/backup")
        })
    }

    /// `GET /api/hub/keys`: which keys have been used since the hub was started.
    pub fn key_uses(&self) -> HubResult<Vec<KeyUse>> {
        self.json(&Call {
            most: PAGE_BYTES,
            ..Call::get("/api/hub/keys")
        })
    }

    /// `GET /api/files/{id}/versions`: newest first.
    pub fn versions(&self, id: Uuid) -> HubResult<Vec<Version>> {
        self.json(&Call {
            most: PAGE_BYTES,
            ..Call::get(&format!("/api/files/{id}/versions"))
        })
    }

    /// `POST /api/files/{id}/restore`
    pub fn restore(
        &self,
        id: Uuid,
        restore: Restore,
        change: ChangeHeaders,
    ) -> HubResult<UploadResponse> {
        let path = format!("/api/files/{id}/restore");
        self.stored(&Call {
            method: Method::POST,
            headers: change.headers(),
            body: to_json(&restore),
            ..Call::get(&path)
        })
    }

    /// `GET /api/idempotency/{key}`: the result of the change with this key. If there is none, the key is void
    /// from now on.
    pub fn ask_key(&self, key: Uuid, newest: Revision) -> HubResult<KeyAnswer> {
        self.json(&Call {
            most: PAGE_BYTES,
            headers: knows(newest),
            ..Call::get(&format!("/api/idempotency/{key}"))
        })
    }

    /// `GET /api/events/history`; `since` is RFC 3339. Rows that are not file events are left out.
    pub fn history(
        &self,
        since: Option<&str>,
        limit: usize,
        offset: u64,
    ) -> HubResult<(Vec<FileEvent>, usize)> {
        let since = since.map_or(String::new(), |at| {
            format!("&since={}", utf8_percent_encode(at, NON_ALPHANUMERIC))
        });
        let path = format!("/api/events/history?kinds=all&limit={limit}&offset={offset}{since}");
        let rows: Vec<HistoryRow> = self.json(&Call {
            most: PAGE_BYTES,
            ..Call::get(&path)
        })?;
        let count = rows.len();
        Ok((
            rows.into_iter().filter_map(HistoryRow::event).collect(),
            count,
        ))
    }

    /// A change whose response has no body (204). The next conditional request names the new revision
    /// again.
    pub(super) fn done(&self, call: &Call) -> HubResult<()> {
        let answer = self.authorized(Purpose::Request, call)?;
        match answer.status().as_u16() {
            204 => Ok(()),
            status => Err(self.foreign(status, &media_type(&answer), &call.path)),
        }
    }

    /// A change whose response is a record, or only a revision if nothing was changed.
    pub(super) fn stored(&self, call: &Call) -> HubResult<UploadResponse> {
        let answer = self.authorized(Purpose::Request, call)?;
        let outcome = match answer.status().as_u16() {
            201 => UploadOutcome::Created,
            204 => {
                let rev = etag(&answer).map(|at| at.rev);
                if rev.is_none() && self.may_be_ours() {
                    return Err(self.foreign(204, &media_type(&answer), &call.path));
                }
                return Ok(UploadResponse {
                    outcome: UploadOutcome::Unchanged,
                    rev,
                    record: None,
                    renamed_from: None,
                });
            }
            _ => UploadOutcome::Updated,
        };
        let ChangedRecord {
            record,
            renamed_from,
        } = self.body(answer, call.most, &call.path)?;
        Ok(UploadResponse {
            outcome,
            rev: Some(record.rev),
            record: Some(record),
            renamed_from,
        })
    }
}

/// The response to a delete.
#[derive(Deserialize)]
struct RemoveResponse {
    deleted: bool,
    #[serde(default)]
    record: Option<Record>,
}

/// `s3em`'s rows have no `type`, and the payload may be of any shape.
#[derive(Deserialize)]
struct HistoryRow {
    #[serde(rename = "type")]
    kind: Option<String>,
    event_type: Option<String>,
    resource_id: Option<Uuid>,
    payload: Option<serde_json::Value>,
    overwrote: Option<u64>,
    created_at: Option<String>,
}

impl HistoryRow {
    fn event(self) -> Option<FileEvent> {
        let kind = self.kind.or_else(|| {
            self.event_type
                .as_ref()
                .map(|e| format!("file_{}", e.trim_start_matches("file_")))
        })?;
        let mut payload = self.payload?;
        // for a deleted file even the id may be missing in it
        if let (Some(object), Some(id)) = (payload.as_object_mut(), self.resource_id) {
            object.entry("id").or_insert_with(|| id.to_string().into());
        }
        let payload = serde_json::from_value(payload).ok()?;
        Some(FileEvent {
            kind,
            event_type: self.event_type,
            resource_id: self.resource_id,
            payload,
            overwrote: self.overwrote,
            created_at: self.created_at,
        })
    }
}

/// The header that requires a hub with this revision; none if its tag is unknown.
pub(super) fn knows(at: Revision) -> Vec<(&'static str, String)> {
    if at.tag.is_unknown() {
        Vec::new()
    } else {
        vec![(HISTORY_HEADER, at.etag())]
    }
}

/// The tag of a revision as a further parameter, if it is known.
pub(super) fn tag(at: Revision) -> String {
    if at.tag.is_unknown() {
        String::new()
    } else {
        format!("&tag={}", at.tag)
    }
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Body<'static> {
    Body::Json(serde_json::to_vec(value).expect("plain data is JSON"))
}

/// The revision in an `ETag`, including one that a proxy has made weak.
pub(super) fn etag(answer: &http::Response<ureq::Body>) -> Option<Revision> {
    Revision::parse(
        answer
            .headers()
            .get("etag")?
            .to_str()
            .ok()?
            .trim_start_matches("W/"),
    )
}

fn header<T: std::str::FromStr>(answer: &http::Response<ureq::Body>, name: &str) -> Option<T> {
    answer
        .headers()
        .get(name)?
        .to_str()
        .ok()?
        .trim_matches('"')
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_headers() {
        let check = |condition, wants: &[(&str, &str)]| {
            let headers = ChangeHeaders {
                condition,
                ..ChangeHeaders::default()
            }
            .headers();
            assert_eq!(
                headers
                    .iter()
                    .map(|(n, v)| (*n, v.as_str()))
                    .collect::<Vec<_>>(),
                wants
            );
        };
        check(Condition::None, &[]);
        check(Condition::Match(7.into()), &[("if-match", "\"7\"")]);
        let at = Revision {
            rev: 7,
            tag: crate::wire::revision::Tag(10),
        };
        check(
            Condition::Match(at),
            &[("if-match", "\"7-000000000000000a\"")],
        );
        check(Condition::Absent, &[("if-none-match", "*")]);
        assert_eq!(
            ChangeHeaders {
                key: Some(Uuid::nil()),
                ..ChangeHeaders::default()
            }
            .headers()[0]
                .0,
            "idempotency-key"
        );
    }

    #[test]
    fn rows_of_either_server_are_events() {
        let read = |text: &str| {
            serde_json::from_str::<HistoryRow>(text)
                .unwrap()
                .event()
                .map(|e| (e.kind, e.payload.id))
        };
        let id = "00000000-0000-0000-0000-000000000001";
        let wants = |kind: &str| Some((kind.to_string(), id.parse().unwrap()));
        let ours = format!(
            r#"{{"type":"file_updated","event_type":"updated","payload":{{"id":"{id}","name":"a"}}}}"#
        );
        assert_eq!(read(&ours), wants("file_updated"));
        let theirs = format!(
            r#"{{"event_type":"deleted","resource_id":"{id}","payload":{{"name":"a","path":""}},"x":1}}"#
        );
        assert_eq!(read(&theirs), wants("file_deleted"));
        assert_eq!(read(r#"{"event_type":"bucket","payload":"text"}"#), None);
    }
}
