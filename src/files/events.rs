//! What can happen to a synced directory, and the channel that passes it to the one loop that
//! supervises the directory (thread `sync-N`).
//!
//! Events carry no data: they are hints, and the loop reads the state that they are about. So one of
//! a kind is as good as many, the channel has room for one of each, and a sender neither waits nor
//! loses one. Paths that changed here go to `debounce` and `rescan` instead, which scan them.

use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// See the module documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Paths were found that may be out of sync, or work on one has ended.
    Local,
    /// The server's event stream was opened, closed or refused, or changes of others were stored.
    Remote,
    /// A user has approved deletes.
    Approve,
    /// A user accepts the directory as it is.
    Adopt,
    /// The whole directory is to be scanned.
    Rescan,
    /// Work on the directory ends: it failed, or the client is stopping.
    Stop,
    /// Nothing has happened, and waiting paths are due.
    Clock,
}

const KINDS: usize = Event::Clock as usize + 1;

/// See the module documentation.
#[derive(Debug)]
pub struct EventQueue {
    /// The kinds that were sent, and are not handled yet.
    sent: [AtomicBool; KINDS],
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Default for EventQueue {
    fn default() -> EventQueue {
        let (sender, receiver) = bounded(KINDS);
        EventQueue {
            sent: Default::default(),
            sender,
            receiver,
        }
    }
}

impl EventQueue {
    /// Passes an event on, unless one of its kind waits already: what the sender has stored before
    /// is seen by the receiver of that one.
    pub fn send(&self, event: Event) {
        if !self.sent[event as usize].swap(true, AcqRel) {
            // there is room for one of each kind
            let _ = self.sender.try_send(event);
        }
    }

    /// Waits for the next event, up to `time`. Changes here are handled together from `gather` on;
    /// everything else at once.
    pub fn next(&self, time: Duration, gather: Instant) -> Event {
        match self.receiver.recv_timeout(time) {
            Err(_) => Event::Clock,
            Ok(Event::Local) => match self.receiver.recv_deadline(gather) {
                Err(_) => self.take(Event::Local),
                Ok(other) => {
                    // it still counts as sent, so that its place is free
                    let _ = self.sender.try_send(Event::Local);
                    self.take(other)
                }
            },
            Ok(event) => self.take(event),
        }
    }

    fn take(&self, event: Event) -> Event {
        self.sent[event as usize].swap(false, AcqRel);
        event
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // threads of a test
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::clock;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_event_of_each_kind_waits() {
        let events = EventQueue::default();
        let now = clock::monotonic();
        for _ in 0..3 {
            for event in [Event::Remote, Event::Approve, Event::Rescan] {
                events.send(event);
            }
        }
        let received = [0; 4].map(|_| events.next(Duration::ZERO, now));
        assert_eq!(
            received,
            [Event::Remote, Event::Approve, Event::Rescan, Event::Clock]
        );
        events.send(Event::Remote);
        assert_eq!(events.next(LONG, now), Event::Remote);
    }

    #[test]
    fn changes_here_wait_for_others_but_nothing_waits_for_them() {
        let events = EventQueue::default();
        events.send(Event::Local);
        events.send(Event::Stop);
        assert_eq!(events.next(LONG, clock::monotonic() + LONG), Event::Stop);
        // sent while one waits to be handled
        events.send(Event::Local);
        let received = [0; 2].map(|_| events.next(Duration::ZERO, clock::monotonic()));
        assert_eq!(received, [Event::Local, Event::Clock]);
    }

    #[test]
    fn what_was_stored_before_an_event_is_seen_after_it() {
        const ROUNDS: u64 = 20_000;
        let (events, stored) = (EventQueue::default(), [0; 4].map(|_| AtomicU64::new(0)));
        std::thread::scope(|scope| {
            for mine in &stored {
                let events = &events;
                scope.spawn(move || {
                    for n in 1..=ROUNDS {
                        mine.store(n, Relaxed);
                        events.send(Event::Local);
                    }
                });
            }
            while stored.iter().any(|n| n.load(Relaxed) < ROUNDS) {
                let event = events.next(LONG, clock::monotonic());
                assert_eq!(event, Event::Local, "an event was lost");
            }
        });
    }
}
