//! `GET /api/events`: writes an event stream, first the missed events, then new ones.
//!
//! The store is the buffer: when woken, a stream reads the events after the last one that it has written. So a slow reader
//! misses no event, and memory holds none for it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter};

use super::files::all_kinds;
use super::http::{Caller, Job, Pieces, Reply, Request};
use super::rights::Rights;
use super::store::Store;
use super::subscribers::{Subscribers, Subscription};
use crate::clock;
use crate::config::limits::EVENT_PAGE;
use crate::wire::KEEP_ALIVE;
use crate::wire::files::{EntryKind, FileEvent};
use crate::wire::revision::{Revision, Tag};
use crate::wire::scope::Scope;

/// Bytes of one write, approximately.
const PIECE_BYTES: usize = 16 * 1024;

/// The events that a client subscribes to.
struct StreamFeed {
    subscription: Subscription,
    host: Option<String>,
    /// The revision of the last written event, and the store; `None`: no events of files.
    files: Option<(u64, Arc<Store>)>,
    all_kinds: bool,
    scope: Scope,
    /// The last revision that the reader was told as an `id`.
    told: u64,
    /// When a keep-alive is to be written.
    silent_until: Instant,
    /// The rights of a caller that may not read all files.
    rights: Option<Arc<Rights>>,
    /// The store's count of lost and replaced chunks at the last notice.
    wanted: u64,
}

/// Answers with a stream: wake-ups for `?host=`, and events of files after `Last-Event-ID` or `?after=`, by default new ones.
pub fn listen(store: &Arc<Store>, events: &Arc<Subscribers>, request: &Request) -> Reply {
    if request.caller == Caller::Nobody {
        return Reply::error(401, "a key is required");
    }
    feed(store, events, request).map_or_else(
        |reply| reply,
        |mut feed| {
            Reply::job(
                "text/event-stream",
                Job::Stream(Box::new(move |out| feed.run(out))),
            )
        },
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
    let busy = || {
        Reply::error(503, "too many event streams are open; retry later").header("Retry-After", "5")
    };
    let subscription = events.subscribe(host.clone(), files).ok_or_else(busy)?;
    // after subscribing, so that a later commit is either read or wakes this stream
    let files = if files {
        Some((begin(store, after, tag)?, Arc::clone(store)))
    } else {
        None
    };
    Ok(StreamFeed {
        subscription,
        host,
        all_kinds: all_kinds(request),
        scope,
        told: files.as_ref().map_or(0, |(last, _)| *last),
        files,
        silent_until: silent_until(),
        rights: request.caller.limited_reader().cloned(),
        wanted: store.wanted_changes(),
    })
}

fn silent_until() -> Instant {
    clock::monotonic() + Duration::from_secs(KEEP_ALIVE)
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

impl StreamFeed {
    /// Runs until the reader disconnects or is too far behind, or the hub stops.
    fn run(&mut self, out: &mut dyn Pieces) -> io::Result<()> {
        out.send(b"retry: 2000\n: mesync\n\n")?;
        // apply narrowed rights to every event that follows
        while !out.stopping() && self.write_files(out)? {
            let goes_on = crossbeam_channel::select! {
                recv(self.subscription.queued) -> woken => {
                    if woken.is_ok() {
                        self.write_queued(out)?;
                    }
                    woken.is_ok()
                }
                recv(self.subscription.changed) -> woken => woken.is_ok(),
                default(self.silent_until.saturating_duration_since(clock::monotonic())) => {
                    self.keep_alive(out)?;
                    true
                }
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// A line that is no event. It has the revision up to which there was none for this reader, so that it resumes after
    /// that one, and not after its last event, which the hub may have forgotten by then.
    fn keep_alive(&mut self, out: &mut dyn Pieces) -> io::Result<()> {
        let passed = self.files.as_ref().map_or(0, |(last, _)| *last);
        let id = if self.scope.is_all() || passed <= self.told {
            String::new()
        } else {
            format!("id: {passed}\n")
        };
        self.told = self.told.max(passed);
        self.send(out, format!("{id}: keep-alive\n\n").as_bytes())
    }

    fn send(&mut self, out: &mut dyn Pieces, piece: &[u8]) -> io::Result<()> {
        self.silent_until = silent_until();
        out.send(piece)
    }

    fn write_queued(&mut self, out: &mut dyn Pieces) -> io::Result<()> {
        // a host name needs no escaping in JSON
        let host = self.host.as_deref().unwrap_or("");
        let event = format!("data: {{\"type\":\"message_queued\",\"host\":\"{host}\"}}\n\n");
        self.send(out, event.as_bytes())
    }

    /// Writes all available events. `false`: some have expired, which the reader learns when it reconnects.
    fn write_files(&mut self, out: &mut dyn Pieces) -> io::Result<bool> {
        let Some((mut last, store)) = self.files.clone() else {
            return Ok(true);
        };
        let wanted = std::mem::replace(&mut self.wanted, store.wanted_changes());
        if self.all_kinds && wanted != self.wanted && self.rights.is_none() {
            // the list of changes names the lost content; a limited reader polls, because it may not see the file
            self.send(out, b"data: {\"type\":\"file_wanted\"}\n\n")?;
        }
        loop {
            let page = match store.events_after(last, EVENT_PAGE) {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(false),
                Err(e) => return Err(io::Error::other(e.to_string())),
            };
            let mut piece = Vec::new();
            let whole = page.len() == EVENT_PAGE;
            for (rev, event) in page {
                last = rev;
                let is_kind = self.all_kinds || event.payload.kind == EntryKind::File;
                let is_wanted = is_kind && self.scope.has(&event.payload.path);
                let shown = match &self.rights {
                    Some(rights) => rights.shown_event(event),
                    None => Some(event),
                };
                if let Some(event) = shown.filter(|_| is_wanted) {
                    write_event(&mut piece, rev, &event)?;
                    self.told = rev;
                }
                // keep pieces short: each has a time limit, and the reader may be slow
                if piece.len() > PIECE_BYTES {
                    self.send(out, &piece)?;
                    piece.clear();
                }
            }
            if !piece.is_empty() {
                self.send(out, &piece)?;
            }
            self.files = Some((last, Arc::clone(&store)));
            if !whole || out.stopping() {
                return Ok(true);
            }
            // announce a waiting message even between many events
            if self.subscription.queued.try_recv().is_ok() {
                self.write_queued(out)?;
            }
        }
    }
}

/// Lines end in LF, and JSON is one line of ASCII: some programs parse no other framing, and end at a character that is
/// split between two reads.
fn write_event(into: &mut Vec<u8>, rev: u64, event: &FileEvent) -> io::Result<()> {
    write!(into, "id: {rev}\ndata: ")?;
    event.serialize(&mut serde_json::Serializer::with_formatter(
        &mut *into, Ascii,
    ))?;
    into.extend_from_slice(b"\n\n");
    Ok(())
}

/// JSON with every character beyond ASCII escaped.
struct Ascii;

impl Formatter for Ascii {
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
