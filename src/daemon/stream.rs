//! Thread `sse`: keeps an event stream of a hub open and reports waiting messages and changed
//! files.
//!
//! Its events are hints; missed ones are found when the stream is opened again, and by polls.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::machine_state::SharedWatches;
use crate::backoff::Backoff;
use crate::client::HubClient;
use crate::clock;
use crate::error::{Kind, Result};
use crate::logger::is_same_event;
use crate::messages::exchange::REFUSED;
use crate::sse;
use crate::wire::scope::Scope;

/// The longest pause before the event stream is opened again.
const STREAM_RETRY_PAUSE: Duration = Duration::from_secs(15);

/// An event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// The stream is open; events from before are lost.
    Opened,
    /// A message waits on the hub.
    Queued,
    /// A file has changed.
    Files,
    Closed,
    /// The hub refuses the stream, with the reason.
    Refused(String),
}

/// The events to listen to.
pub struct StreamListener {
    pub hub: Arc<HubClient>,
    /// Messages for this host.
    pub host: Option<String>,
    /// The directories whose changes on the hub are reported; `None`: no changes of files.
    pub watched: Option<SharedWatches>,
}

impl StreamListener {
    /// Listens until stopped, or until `tell` returns `false`.
    pub fn listen(&self, stopped: &Receiver<()>, tell: &dyn Fn(StreamEvent) -> bool) -> Result<()> {
        let mut backoff = Backoff::new(STREAM_RETRY_PAUSE);
        let mut said: Option<String> = None;
        loop {
            let mut refused = false;
            let scope = self.scope();
            match self.hub.events(self.host.as_deref(), scope.as_ref()) {
                Ok(stream) => {
                    let (opened, hub) = (clock::monotonic(), self.hub.url());
                    let wanted = || self.scope() == scope && self.hub.url() == hub;
                    said = None;
                    log::debug!("opened the event stream");
                    // a keep-alive ends the stream of other directories than those of now, and of a hub that other calls have left
                    if !tell(StreamEvent::Opened)
                        || !follow(stream, tell, &wanted)
                        || !tell(StreamEvent::Closed)
                    {
                        return Ok(());
                    }
                    if !wanted() {
                        log::debug!(
                            "reopening the event stream for other directories or at another hub"
                        );
                        continue;
                    }
                    log::debug!("event stream ended");
                    // a stream that ends as it begins is no success
                    if opened.elapsed() >= STREAM_RETRY_PAUSE {
                        backoff.reset();
                    }
                }
                Err(failure) => {
                    refused = failure.error.kind == Kind::Refused;
                    let words = format!("cannot open the event stream: {}", failure.error);
                    if refused
                        && said
                            .as_ref()
                            .is_none_or(|said| !is_same_event(said, &words))
                    {
                        log::warn!("{words}; retrying")
                    } else {
                        log::debug!("{words}")
                    }
                    if refused && !tell(StreamEvent::Refused(words.clone())) {
                        return Ok(());
                    }
                    said = Some(words).filter(|_| refused).or(said);
                }
            }
            let pause = if refused {
                REFUSED
            } else {
                backoff.next(uuid::Uuid::new_v4().as_u64_pair().0)
            };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return Ok(()),
            }
        }
    }
}

impl StreamListener {
    fn scope(&self) -> Option<Scope> {
        let watched = self.watched.as_ref()?;
        let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        let dirs = watched.iter().map(|watch| watch.remote.as_str());
        Some(Scope::below(dirs).unwrap_or_default())
    }
}

/// Reads a stream to its end, or while `wanted`; `false`: the receiver has ended.
fn follow(
    stream: impl Read,
    tell: &dyn Fn(StreamEvent) -> bool,
    wanted: &dyn Fn() -> bool,
) -> bool {
    let mut lines = BufReader::with_capacity(4096, stream);
    let mut parser = sse::SseParser::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines)
            .take(sse::MAX_EVENT as u64)
            .read_until(b'\n', &mut line)
        {
            Ok(n) if n > 0 && line.ends_with(b"\n") && wanted() => {}
            _ => return true,
        }
        let text = String::from_utf8_lossy(&line);
        let Some(event) = parser.line(text.trim_end_matches('\n')) else {
            continue;
        };
        let heard = serde_json::from_str::<serde_json::Value>(&event.data)
            .ok()
            .and_then(|v| heard(v["type"].as_str()?));
        if heard.is_some_and(|heard| !tell(heard)) {
            return false;
        }
    }
}

fn heard(kind: &str) -> Option<StreamEvent> {
    match kind {
        "message_queued" => Some(StreamEvent::Queued),
        file if file.starts_with("file_") => Some(StreamEvent::Files),
        _ => None,
    }
}
