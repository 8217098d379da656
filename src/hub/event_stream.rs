//! `GET /api/events`: writes an event stream, first the missed events, then new ones.
//!
//! The store is the buffer: when woken, a stream reads the events after the last one that it has written. So a slow reader
//! misses no event, and memory holds none for it. Streams that have heard the same read the same page: it is read once.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter};

use super::files::all_kinds;
use super::http::{AfterPiece, Caller, Job, Pieces, Reply, Request};
use super::rights::Rights;
use super::store::Store;
use super::subscribers::{EventRow, StreamWakeup, Subscribers, Subscription};
use crate::config::limits::EVENT_PAGE;
use crate::wire::files::{EntryKind, FileEvent};
use crate::wire::revision::{Revision, Tag};
use crate::wire::scope::Scope;

/// Bytes of one write, approximately.
const PIECE_BYTES: usize = 16 * 1024;

/// Reads the events of files.
struct StoredEvents {
    store: Arc<Store>,
    subscribers: Arc<Subscribers>,
}

/// The events that a client subscribes to.
struct StreamFeed {
    subscription: Subscription,
    host: Option<String>,
    /// The revision of the last written event, and the store's events; `None`: no events of files.
    files: Option<(u64, StoredEvents)>,
    all_kinds: bool,
    /// One line says that files have changed, whichever they are.
    hints: bool,
    scope: Scope,
    /// The last revision that the reader was told as an `id`.
    told: u64,
    /// There may be events after the last written one, whether or not it was woken.
    is_behind: bool,
    has_begun: bool,
    /// The rights of a caller that may not read all files.
    rights: Option<Arc<Rights>>,
    /// The store's count of lost and replaced chunks at the last notice.
    wanted: u64,
    /// The last announcement of a long file that the reader was told of.
    upcoming: u64,
}

impl StoredEvents {
    /// At most [`EVENT_PAGE`] events after a revision; `None`: some of them have expired.
    fn after(&self, after: u64) -> io::Result<Option<Arc<Vec<EventRow>>>> {
        self.subscribers.page(after, || {
            let read = self.store.events_after(after, EVENT_PAGE);
            let events = read.map_err(|e| io::Error::other(e.to_string()))?;
            let row = |(rev, event): (u64, FileEvent)| EventRow {
                rev,
                event,
                text: OnceLock::new(),
            };
            Ok(events.map(|events| events.into_iter().map(row).collect()))
        })
    }
}

/// Answers with a stream: wake-ups for `?host=`, and events of files after `Last-Event-ID` or `?after=`, by default new ones.
pub fn listen(store: &Arc<Store>, events: &Arc<Subscribers>, request: &Request) -> Reply {
    if request.caller == Caller::Nobody {
        return Reply::error(401, "a key is required");
    }
    feed(store, events, request).map_or_else(
        |reply| reply,
        |feed| Reply::job("text/event-stream", Job::Stream(Box::new(feed))),
    )
}

fn feed(
    store: &Arc<Store>,
    events: &Arc<Subscribers>,
    request: &Request,
) -> Result<StreamFeed, Reply> {
    let host = request
        .parameter("host")
        .map(|host| request.caller.act_for(&host))
        .transpose()?
        .filter(|_| request.caller.receives());
    let files = request
        .parameter("files")
        .is_none_or(|wanted| wanted != "false");
    let after = match request.header("last-event-id").filter(|id| !id.is_empty()) {
        Some(id) => Some(
            id.parse()
                .map_err(|_| Reply::error(400, "Last-Event-ID must be a revision"))?,
        ),
        None => request.number("after")?,
    };
    let scope = request.scope()?;
    let tag = request
        .parsed("tag", "16 hexadecimal digits", |text| text.parse().ok())?
        .unwrap_or_default();
    let stopping =
        || Reply::error(503, "the hub is stopping; retry later").header("Retry-After", "5");
    let subscription = events.subscribe(host.clone(), files).ok_or_else(stopping)?;
    // after subscribing, so that a later commit is either read or wakes this stream
    let files = if files {
        let reader = StoredEvents {
            store: Arc::clone(store),
            subscribers: Arc::clone(events),
        };
        Some((begin(store, after, tag)?, reader))
    } else {
        None
    };
    Ok(StreamFeed {
        subscription,
        host,
        all_kinds: all_kinds(request),
        hints: request
            .parameter("hints")
            .is_some_and(|wanted| wanted == "true"),
        scope,
        told: files.as_ref().map_or(0, |(last, _)| *last),
        is_behind: files.is_some(),
        files,
        has_begun: false,
        rights: request.caller.limited_reader().cloned(),
        wanted: store.wanted_changes(),
        // those from before are in the list of changes
        upcoming: events.upcoming.news(u64::MAX, &|_| false).1,
    })
}

/// The revision after which the stream begins.
fn begin(store: &Store, after: Option<u64>, tag: Tag) -> Result<u64, Reply> {
    let now = store.rev().map_err(|e| Reply::failed(&e))?;
    let Some(after) = after else { return Ok(now) };
    // a number that the hub has not used yet, or used for another change, is of another history
    let ours = after <= now
        && store
            .is_ours(Revision { rev: after, tag })
            .map_err(|e| Reply::failed(&e))?;
    match store.events_after(after, 1) {
        Ok(Some(_)) if ours => Ok(after),
        Ok(_) => Err(Reply::error(
            410,
            "events after that revision have expired: list the changes, then listen again",
        )),
        Err(e) => Err(Reply::failed(&e)),
    }
}

impl Pieces for StreamFeed {
    fn begin(&mut self, wakeup: StreamWakeup) {
        self.subscription.on_wake(wakeup);
    }

    fn is_woken(&self) -> bool {
        self.subscription.is_woken()
    }

    fn write(&mut self, into: &mut Vec<u8>) -> io::Result<AfterPiece> {
        if self.subscription.is_stopped() {
            return Ok(AfterPiece::End);
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            into.extend_from_slice(b"retry: 2000\n: mesync\n\n");
        }
        // announced even between many events
        if self.subscription.take_queued() {
            // a host name needs no escaping in JSON
            let host = self.host.as_deref().unwrap_or("");
            write!(
                into,
                "data: {{\"type\":\"message_queued\",\"host\":\"{host}\"}}\n\n"
            )?;
        }
        if self.subscription.take_changed() || self.is_behind {
            return self.write_files(into);
        }
        Ok(AfterPiece::Idle)
    }

    /// A line that is no event. It has the revision up to which there was none for this reader, so that it resumes after
    /// that one, and not after its last event, which the hub may have forgotten by then.
    fn keep_alive(&mut self, into: &mut Vec<u8>) -> io::Result<AfterPiece> {
        let passed = self.files.as_ref().map_or(0, |(last, _)| *last);
        if !self.scope.is_all() && passed > self.told {
            self.told = passed;
            writeln!(into, "id: {passed}")?;
        }
        into.extend_from_slice(b": keep-alive\n\n");
        Ok(AfterPiece::Idle)
    }
}

/// An event stream that ends when the keys have changed.
pub struct UntilKeysChange<F> {
    pub writer: Box<dyn Pieces>,
    pub unchanged: F,
}

impl<F: Fn() -> bool + Send> Pieces for UntilKeysChange<F> {
    fn begin(&mut self, wakeup: StreamWakeup) {
        self.writer.begin(wakeup);
    }

    fn is_woken(&self) -> bool {
        self.writer.is_woken()
    }

    fn write(&mut self, into: &mut Vec<u8>) -> io::Result<AfterPiece> {
        if (self.unchanged)() {
            self.writer.write(into)
        } else {
            Ok(AfterPiece::End)
        }
    }

    fn keep_alive(&mut self, into: &mut Vec<u8>) -> io::Result<AfterPiece> {
        if (self.unchanged)() {
            self.writer.keep_alive(into)
        } else {
            Ok(AfterPiece::End)
        }
    }
}

impl StreamFeed {
    /// Writes some of the events that it has not written yet. It ends if some have expired, which the reader learns when it
    /// reconnects.
    fn write_files(&mut self, into: &mut Vec<u8>) -> io::Result<AfterPiece> {
        let Some((last, events)) = &mut self.files else {
            return Ok(AfterPiece::Idle);
        };
        let changes = events.store.wanted_changes();
        let wanted = std::mem::replace(&mut self.wanted, changes);
        if self.all_kinds && wanted != self.wanted && self.rights.is_none() {
            // the list of changes names the lost content; a limited reader polls, because it may not see the file
            into.extend_from_slice(b"data: {\"type\":\"file_wanted\"}\n\n");
        }
        let reads = |path: &str| {
            self.scope.has(path) && (self.rights.as_ref()).is_none_or(|rights| rights.reads(path))
        };
        let (is_new, newest) = events.subscribers.upcoming.news(self.upcoming, &reads);
        self.upcoming = newest;
        if self.all_kinds && is_new {
            into.extend_from_slice(b"data: {\"type\":\"file_upcoming\"}\n\n");
        }
        let Some(page) = events.after(*last)? else {
            return Ok(AfterPiece::End);
        };
        self.is_behind = page.len() == EVENT_PAGE;
        let mut changed = false;
        for row in page.iter() {
            *last = row.rev;
            let payload = &row.event.payload;
            let is_kind = self.all_kinds || payload.kind == EntryKind::File;
            if !is_kind || !self.scope.has(&payload.path) {
                continue;
            }
            if self.hints && changed {
                continue;
            }
            match &self.rights {
                None if self.hints => changed = true,
                None => into.extend_from_slice(row.text()?),
                Some(rights) => {
                    let Some(event) = rights.shown_event(row.event.clone()) else {
                        continue;
                    };
                    if self.hints {
                        changed = true;
                        continue;
                    }
                    write_event(into, row.rev, &event)?;
                }
            }
            if changed {
                continue;
            }
            self.told = row.rev;
            // keep pieces short: each has a time limit, and the reader may be slow
            if into.len() > PIECE_BYTES {
                self.is_behind = true;
                break;
            }
        }
        if changed {
            self.told = *last;
            write!(into, "id: {last}\ndata: {{\"type\":\"file_changed\"}}\n\n")?;
        }
        Ok(if self.is_behind {
            AfterPiece::More
        } else {
            AfterPiece::Idle
        })
    }
}

impl EventRow {
    /// As it is sent to a caller that may read all files.
    fn text(&self) -> io::Result<&[u8]> {
        if let Some(text) = self.text.get() {
            return Ok(text);
        }
        let mut text = Vec::new();
        write_event(&mut text, self.rev, &self.event)?;
        Ok(self.text.get_or_init(|| text))
    }
}

/// Lines end in LF, and JSON is one line of ASCII: some programs parse no other framing, and end at a character that is
/// split between two reads.
fn write_event(into: &mut Vec<u8>, rev: u64, event: &FileEvent) -> io::Result<()> {
    write!(into, "id: {rev}\ndata: ")?;
    event.serialize(&mut serde_json::Serializer::with_formatter(
        &mut *into,
        AsciiFormatter,
    ))?;
    into.extend_from_slice(b"\n\n");
    Ok(())
}

/// JSON with every character beyond ASCII escaped.
struct AsciiFormatter;

impl Formatter for AsciiFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            match c {
                ' '..='~' => out.write_all(&[c as u8])?,
                _ => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .try_for_each(|unit| write!(out, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(out, escape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line_of_ascii() {
        let payload = serde_json::from_str(
            r#"{"id":"00000000-0000-0000-0000-000000000001","name":"a\"\\\n\u0000é😀\u007f"}"#,
        )
        .unwrap();
        let event = FileEvent {
            kind: "file_created".into(),
            event_type: None,
            resource_id: None,
            payload,
            overwrote: None,
            created_at: None,
        };
        let mut text = Vec::new();
        write_event(&mut text, 7, &event).unwrap();
        let text = String::from_utf8(text).unwrap();
        let data = text
            .strip_prefix("id: 7\ndata: ")
            .unwrap()
            .strip_suffix("\n\n")
            .unwrap();
        assert!(data.bytes().all(|b| (b' '..=b'~').contains(&b)), "{data}");
        assert!(
            data.contains(r#""name":"a\"\\\n\u0000\u00e9\ud83d\ude00\u007f""#),
            "{data}"
        );
        assert_eq!(serde_json::from_str::<FileEvent>(data).unwrap(), event);
    }
}
