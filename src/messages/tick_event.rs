//! The events that other threads send to thread `tick`. Each is a hint: `tick` would find the same by itself.

use std::ffi::OsString;

/// The events that wake the tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TickEvent {
    /// A file was renamed into the outbox, so it is complete.
    Arrived(OsString),
    /// A file was written in the outbox.
    Written(OsString),
    /// Events may have been lost: scan everything.
    Overflow,
    /// The hub has messages for this machine.
    Queued,
    /// The event stream has begun, and reports the messages from now on.
    StreamOpened,
    StreamClosed,
    /// The hub refuses the event stream, with the reason.
    StreamRefused(String),
    /// The daemon is stopping.
    Stop,
}
