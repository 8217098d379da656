//! The stream of file events, read one event at a time.
//!
//! It does not reopen a broken stream: its reader knows the revision after which to continue.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use uuid::Uuid;

use super::files::tag;
use super::{Call, HubClient, HubResult, Purpose};
use crate::sse;
use crate::wire::files::FileEvent;
use crate::wire::revision::Revision;
use crate::wire::scope::Scope;

/// `s3em` sends nothing while nothing happens, so a dead connection shows only at the next request.
const STREAM_SILENCE_TIMEOUT: Duration = Duration::from_secs(600);

const EVENT_STREAM: &str = "text/event-stream";

/// An open stream.
pub struct FileEvents<'a> {
    hub: &'a HubClient,
    lines: BufReader<Box<dyn Read + Send>>,
    parser: sse::SseParser,
}

impl HubClient {
    /// `GET /api/events`: a stream of queued messages for `host`, and of changes of files in a scope, that stays open;
    /// a read fails after three missed keep-alives. An older hub ignores the scope, and sends all changes, each by itself.
    pub fn events(
        &self,
        host: Option<&str>,
        files: Option<&Scope>,
    ) -> HubResult<impl Read + use<>> {
        let host = host.map_or(String::new(), |host| format!("&host={host}"));
        let files = match files {
            Some(scope) => format!("files=true&kinds=all&hints=true{}", scope.query()),
            None => "files=false".to_string(),
        };
        let mut call = Call::get(&format!("/api/events?{files}{host}"));
        if files.starts_with("files=true") && !self.is_ours()? {
            call.silence = Some(STREAM_SILENCE_TIMEOUT);
        }
        let answer = self.authorized(Purpose::Stream, &call)?;
        Ok(self
            .typed(answer, EVENT_STREAM, &call.path)?
            .into_body()
            .into_reader())
    }

    /// `GET /api/events` with directories and symbolic links: from after this revision, or from now
    /// on.
    pub fn file_events(&self, after: Option<Revision>) -> HubResult<FileEvents<'_>> {
        let mut call = Call::get("/api/events?kinds=all");
        if let Some(at) = after {
            call.path += &format!("&after={}{}", at.rev, tag(at));
            call.headers.push(("last-event-id", at.rev.to_string()));
        }
        if !self.is_ours()? {
            call.silence = Some(STREAM_SILENCE_TIMEOUT);
        }
        let answer = self.typed(
            self.authorized(Purpose::Stream, &call)?,
            EVENT_STREAM,
            &call.path,
        )?;
        let lines = BufReader::with_capacity(
            4096,
            Box::new(answer.into_body().into_reader()) as Box<dyn Read + Send>,
        );
        Ok(FileEvents {
            hub: self,
            lines,
            parser: sse::SseParser::default(),
        })
    }
}

impl FileEvents<'_> {
    /// Waits for the next event. `None`: the hub has closed the stream. Other events are skipped.
    pub fn next_event(&mut self) -> HubResult<Option<FileEvent>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut self.lines)
                .take(sse::MAX_EVENT as u64)
                .read_until(b'\n', &mut line)
            {
                Ok(_) if line.ends_with(b"\n") => {}
                Ok(0) => return Ok(None),
                Ok(_) if line.len() < sse::MAX_EVENT => return Ok(None),
                Ok(_) => return Err(self.hub.not_a_hub("an event without end").into()),
                Err(e) => return Err(self.hub.interrupted(&e)),
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(event) = self
                .parser
                .line(text.trim_end_matches('\n'))
                .and_then(|e| file_event(&e))
            {
                return Ok(Some(event));
            }
        }
    }
}

fn file_event(event: &sse::SseEvent) -> Option<FileEvent> {
    let mut value: serde_json::Value = serde_json::from_str(&event.data).ok()?;
    if !value["type"].as_str()?.starts_with("file_") {
        return None;
    }
    // for a deleted file only path and name are certain to be present
    let id = value["resource_id"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .unwrap_or(Uuid::nil());
    let payload = value["payload"].as_object_mut()?;
    payload.entry("id").or_insert_with(|| id.to_string().into());
    if let Some(rev) = event.id.as_deref().and_then(|id| id.parse::<u64>().ok()) {
        payload.entry("rev").or_insert_with(|| rev.into());
    }
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_files_are_told_from_others() {
        let read = |id: Option<&str>, data: &str| {
            file_event(&sse::SseEvent {
                id: id.map(str::to_string),
                kind: None,
                data: data.to_string(),
            })
            .map(|e| (e.kind, e.payload.rev, e.payload.full_name()))
        };
        assert_eq!(read(None, r#"{"type":"message_queued","host":"h"}"#), None);
        assert_eq!(read(None, "x"), None);
        assert_eq!(
            read(
                None,
                r#"{"type":"file_deleted","payload":{"path":"a","name":"b"}}"#
            ),
            Some(("file_deleted".into(), 0, "a/b".into()))
        );
        let created = r#"{"type":"file_created","payload":{"path":"","name":"b"}}"#;
        assert_eq!(
            read(Some("7"), created),
            Some(("file_created".into(), 7, "b".into()))
        );
    }
}
