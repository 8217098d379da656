//! The subscribers to events, which are woken after commits.
//!
//! A wake-up is a hint: messages are pulled and events of files are read from the store. So one pending wake-up is enough,
//! and none is kept for a client without a stream. `event_stream` writes the streams.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::store::ops::Wake;
use crate::config::limits;

/// All open streams.
#[derive(Default)]
pub struct Subscribers {
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    last: u64,
    stopped: bool,
    open: Vec<Stream>,
}

struct Stream {
    number: u64,
    host: Option<String>,
    files: bool,
    queued: Sender<()>,
    changed: Sender<()>,
}

/// One open stream, closed when dropped. Both channels are disconnected when the hub stops.
pub struct Subscription {
    events: Arc<Subscribers>,
    number: u64,
    /// A message was queued for the host.
    pub queued: Receiver<()>,
    /// Files have changed.
    pub changed: Receiver<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.events
            .lock()
            .open
            .retain(|stream| stream.number != self.number);
    }
}

impl Subscribers {
    /// Opens a stream for messages of `host`, and for changes of files. `None`: too many are open, or the hub is stopping.
    pub fn subscribe(
        self: &Arc<Subscribers>,
        host: Option<String>,
        files: bool,
    ) -> Option<Subscription> {
        let mut streams = self.lock();
        if streams.stopped || streams.open.len() >= limits::STREAMS {
            return None;
        }
        let ((queue, queued), (change, changed)) =
            (bounded(limits::WAKEUPS), bounded(limits::WAKEUPS));
        streams.last += 1;
        let number = streams.last;
        streams.open.push(Stream {
            number,
            host,
            files,
            queued: queue,
            changed: change,
        });
        Some(Subscription {
            events: Arc::clone(self),
            number,
            queued,
            changed,
        })
    }

    /// Wakes every stream that one of these concerns.
    pub fn wake(&self, wakes: &BTreeSet<Wake>) {
        if wakes.is_empty() {
            return;
        }
        let files = wakes.contains(&Wake::Files);
        for stream in &self.lock().open {
            // a full channel has a wake-up already
            if files && stream.files {
                let _ = stream.changed.try_send(());
            }
            let Some(host) = &stream.host else { continue };
            // broadcasts are sorted last, and of two with different sources one is for this host
            let broadcasts = || {
                wakes
                    .range(Wake::AllBut(String::new())..)
                    .any(|wake| *wake != Wake::AllBut(host.clone()))
            };
            if wakes.contains(&Wake::Host(host.clone())) || broadcasts() {
                let _ = stream.queued.try_send(());
            }
        }
    }

    /// Ends all streams; no more can be opened.
    pub fn stop(&self) {
        let mut streams = self.lock();
        streams.stopped = true;
        streams.open.clear();
    }

    /// The number of open streams.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::TryRecvError;

    use super::*;

    #[test]
    fn concerned_subscribers_wake_once_and_all_end_at_the_stop() {
        let events = Arc::new(Subscribers::default());
        let (a, b) = (
            events.subscribe(Some("a".into()), false).unwrap(),
            events.subscribe(Some("b".into()), true).unwrap(),
        );
        let c = events.subscribe(None, true).unwrap();
        let check = |wakes: &[Wake], wants: [bool; 5]| {
            let wakes = wakes.iter().cloned().collect();
            events.wake(&wakes);
            events.wake(&wakes);
            let got = [&a.queued, &b.queued, &c.queued, &a.changed, &b.changed]
                .map(|woken| woken.try_recv().is_ok());
            assert_eq!(
                (got, c.changed.try_recv().is_ok()),
                (wants, wants[4]),
                "{wakes:?}"
            );
            assert!(
                [&a.queued, &b.queued, &b.changed]
                    .iter()
                    .all(|woken| woken.is_empty()),
                "once is enough"
            );
        };
        check(
            &[Wake::AllBut("a".into())],
            [false, true, false, false, false],
        );
        check(
            &[Wake::Host("a".into()), Wake::AllBut("b".into())],
            [true, false, false, false, false],
        );
        check(
            &[Wake::AllBut("a".into()), Wake::AllBut("b".into())],
            [true, true, false, false, false],
        );
        check(&[Wake::Files], [false, false, false, false, true]);
        check(
            &[Wake::Files, Wake::Host("b".into())],
            [false, true, false, false, true],
        );
        drop(c);
        assert_eq!(events.open(), 2);
        events.stop();
        assert_eq!(a.queued.try_recv(), Err(TryRecvError::Disconnected));
        assert!(events.open() == 0 && events.subscribe(None, true).is_none());
    }
}
