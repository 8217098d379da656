//! What other threads of the client send to those of one directory: events of the server's stream,
//! requests of users, and the end.
//!
//! It outlives the opened directory, so nothing is lost while that is reopened. Nothing here waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::stream::StreamEvent;
use crate::config::limits;
use crate::files::events::{Event, EventQueue};

/// See the module documentation.
pub struct Control {
    pub events: Arc<EventQueue>,
    stream: Mutex<StreamState>,
    /// Wakes thread `feed`: others have changed something.
    heard: Sender<()>,
}

/// The server's event stream.
#[derive(Default)]
struct StreamState {
    is_open: bool,
    /// It was opened, and `feed` does not know yet.
    opened: bool,
    /// Why the server refuses it.
    refused: Option<String>,
}

impl Control {
    /// The receiver is for thread `feed`.
    pub fn new() -> (Control, Receiver<()>) {
        let (heard, receiver) = bounded(limits::WAKEUPS);
        let control = Control {
            events: Arc::default(),
            stream: Mutex::default(),
            heard,
        };
        (control, receiver)
    }

    /// Called for each event from the stream of the server.
    pub fn heard(&self, heard: &StreamEvent) {
        let refused = if let StreamEvent::Refused(why) = heard {
            Some(why.clone())
        } else {
            None
        };
        let is_refused = refused.is_some();
        let is_news = {
            let mut stream = self.stream();
            stream.is_open = !is_refused && *heard != StreamEvent::Closed;
            stream.opened |= *heard == StreamEvent::Opened;
            let before = std::mem::replace(&mut stream.refused, refused);
            *heard == StreamEvent::Opened || before != stream.refused
        };
        if is_news {
            self.events.send(Event::Remote);
        }
        if !is_refused {
            self.poll();
        }
    }

    /// Makes thread `feed` ask the server for changes.
    pub fn poll(&self) {
        let _ = self.heard.try_send(());
    }

    /// Called when a user may have made a request, see
    /// [`StatusFiles`](crate::files::status::StatusFiles).
    pub fn asked(&self) {
        self.events.send(Event::Approve);
        self.events.send(Event::Adopt);
    }

    /// Called after `stopping` was set.
    pub fn stop(&self) {
        self.events.send(Event::Stop);
    }

    /// Whether the stream reports changes.
    pub fn is_listening(&self) -> bool {
        self.stream().is_open
    }

    /// Whether the stream was opened since the last call.
    pub fn take_opened(&self) -> bool {
        std::mem::take(&mut self.stream().opened)
    }

    /// Why the server refuses the stream.
    pub fn refused(&self) -> Option<String> {
        self.stream().refused.clone()
    }

    fn stream(&self) -> MutexGuard<'_, StreamState> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
