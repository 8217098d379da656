//! The subscribers to events, which are woken after commits.
//!
//! A wake-up is a hint: messages are pulled and events of files are read from the store. So a subscriber has one flag for each,
//! and nothing is kept for a client without a stream. `event_stream` writes the streams.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use uuid::Uuid;

use super::store::ops::Wake;
use super::upcoming::{UpcomingContent, UpcomingFiles};
use crate::wire::files::FileEvent;

/// Says that there may be something new for a stream; cheap, and safe to call at any time.
pub type StreamWakeup = Arc<dyn Fn() + Send + Sync>;

/// All open streams; the server limits their number.
#[derive(Default)]
pub struct Subscribers {
    streams: Mutex<Streams>,
    /// How often files have changed since the start.
    changes: AtomicU64,
    pub upcoming: UpcomingFiles,
    /// The page of events that was read last: most streams want the same one.
    page: Mutex<Option<EventPage>>,
}

/// Events of files after a revision, for all streams.
struct EventPage {
    after: u64,
    /// [`Subscribers::changes`] before it was read.
    changes: u64,
    rows: Arc<Vec<EventRow>>,
}

pub struct EventRow {
    pub rev: u64,
    pub event: FileEvent,
    /// As it is sent to a caller that may read all files, once one has asked for it.
    pub text: OnceLock<Vec<u8>>,
}

#[derive(Default)]
struct Streams {
    last: u64,
    stopped: bool,
    open: BTreeMap<u64, Arc<Subscriber>>,
}

/// One open stream.
pub struct Subscriber {
    host: Option<String>,
    files: bool,
    queued: AtomicBool,
    changed: AtomicBool,
    stopped: AtomicBool,
    wakeup: OnceLock<StreamWakeup>,
}

/// One open stream, closed when dropped.
pub struct Subscription {
    events: Arc<Subscribers>,
    number: u64,
    subscriber: Arc<Subscriber>,
}

impl Subscriber {
    fn raise(&self, flag: &AtomicBool) {
        if !flag.swap(true, SeqCst)
            && let Some(wakeup) = self.wakeup.get()
        {
            wakeup();
        }
    }
}

impl Subscription {
    /// Called whenever one of the flags is raised from now on.
    pub fn on_wake(&self, wakeup: StreamWakeup) {
        let _ = self.subscriber.wakeup.set(wakeup);
    }

    /// A message was queued for the host since the last call.
    pub fn take_queued(&self) -> bool {
        self.subscriber.queued.swap(false, SeqCst)
    }

    /// Files have changed since the last call.
    pub fn take_changed(&self) -> bool {
        self.subscriber.changed.swap(false, SeqCst)
    }

    /// The hub is stopping.
    pub fn is_stopped(&self) -> bool {
        self.subscriber.stopped.load(SeqCst)
    }

    /// One of the flags is raised.
    pub fn is_woken(&self) -> bool {
        let Subscriber {
            queued,
            changed,
            stopped,
            ..
        } = &*self.subscriber;
        [queued, changed, stopped]
            .iter()
            .any(|flag| flag.load(SeqCst))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.events.lock().open.remove(&self.number);
    }
}

impl Subscribers {
    /// Opens a stream for messages of `host`, and for changes of files. `None`: the hub is stopping.
    pub fn subscribe(
        self: &Arc<Subscribers>,
        host: Option<String>,
        files: bool,
    ) -> Option<Subscription> {
        let mut streams = self.lock();
        if streams.stopped {
            return None;
        }
        streams.last += 1;
        let number = streams.last;
        let subscriber = Arc::new(Subscriber {
            host,
            files,
            queued: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wakeup: OnceLock::new(),
        });
        streams.open.insert(number, Arc::clone(&subscriber));
        Some(Subscription {
            events: Arc::clone(self),
            number,
            subscriber,
        })
    }

    /// The events after a revision, read only if files have changed since they were read last. `None`: some have expired.
    pub fn page(
        &self,
        after: u64,
        read: impl FnOnce() -> io::Result<Option<Vec<EventRow>>>,
    ) -> io::Result<Option<Arc<Vec<EventRow>>>> {
        // before it is read: the page may be newer than this count, never older
        let changes = self.changes.load(SeqCst);
        let mut latest = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = &*latest
            && (page.after, page.changes) == (after, changes)
        {
            return Ok(Some(Arc::clone(&page.rows)));
        }
        let Some(rows) = read()? else {
            return Ok(None);
        };
        let rows = Arc::new(rows);
        *latest = Some(EventPage {
            after,
            changes,
            rows: Arc::clone(&rows),
        });
        Ok(Some(rows))
    }

    /// Wakes every stream that one of these concerns.
    pub fn wake(&self, wakes: &BTreeSet<Wake>) {
        if wakes.is_empty() {
            return;
        }
        let files = wakes.contains(&Wake::Files);
        if files {
            self.changes.fetch_add(1, SeqCst);
        }
        for stream in self.lock().open.values() {
            if files && stream.files {
                stream.raise(&stream.changed);
            }
            let Some(host) = &stream.host else { continue };
            // broadcasts are sorted last, and of two with different sources one is for this host
            let broadcasts = || {
                wakes
                    .range(Wake::AllBut(String::new())..)
                    .any(|wake| *wake != Wake::AllBut(host.clone()))
            };
            if wakes.contains(&Wake::Host(host.clone())) || broadcasts() {
                stream.raise(&stream.queued);
            }
        }
    }

    /// Records a long file that is being sent, and wakes the streams of files. -> its id
    pub fn announce(&self, content: UpcomingContent, now: Instant) -> Uuid {
        let id = self.upcoming.announce(content, now);
        for stream in self.lock().open.values().filter(|stream| stream.files) {
            stream.raise(&stream.changed);
        }
        id
    }

    /// Ends all streams; no more can be opened.
    pub fn stop(&self) {
        let mut streams = self.lock();
        streams.stopped = true;
        for stream in std::mem::take(&mut streams.open).values() {
            stream.raise(&stream.stopped);
        }
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
    use super::*;

    #[test]
    fn concerned_subscribers_wake_once_and_all_end_at_the_stop() {
        let events = Arc::new(Subscribers::default());
        let (a, b) = (
            events.subscribe(Some("a".into()), false).unwrap(),
            events.subscribe(Some("b".into()), true).unwrap(),
        );
        let c = events.subscribe(None, true).unwrap();
        let woken = Arc::new(AtomicU64::new(0));
        for subscription in [&a, &b, &c] {
            let woken = Arc::clone(&woken);
            subscription.on_wake(Arc::new(move || {
                woken.fetch_add(1, SeqCst);
            }));
        }
        let check = |wakes: &[Wake], wants: [bool; 5]| {
            let wakes = wakes.iter().cloned().collect();
            woken.store(0, SeqCst);
            events.wake(&wakes);
            events.wake(&wakes);
            let is_woken = [&a, &b, &c].map(Subscription::is_woken);
            let got = [
                a.take_queued(),
                b.take_queued(),
                a.take_changed(),
                b.take_changed(),
                c.take_changed(),
            ];
            assert_eq!(got, wants, "{wakes:?}");
            let raised = got.iter().filter(|flag| **flag).count() as u64;
            assert_eq!(woken.load(SeqCst), raised, "once is enough: {wakes:?}");
            assert_eq!(is_woken, [got[0] || got[2], got[1] || got[3], got[4]]);
            assert!(![&a, &b, &c].iter().any(|s| s.is_woken() || s.take_queued()));
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
        check(&[Wake::Files], [false, false, false, true, true]);
        check(
            &[Wake::Files, Wake::Host("b".into())],
            [false, true, false, true, true],
        );
        let reads = AtomicU64::new(0);
        let page = |after| {
            let read = || {
                reads.fetch_add(1, SeqCst);
                Ok(Some(Vec::new()))
            };
            events.page(after, read).unwrap().unwrap();
            reads.load(SeqCst)
        };
        assert_eq!([page(7), page(7), page(8), page(8)], [1, 1, 2, 2]);
        events.wake(&BTreeSet::from([Wake::Files]));
        assert_eq!([page(8), page(8)], [3, 3]);
        drop(c);
        assert_eq!(events.open(), 2);
        events.stop();
        assert!(a.is_stopped() && a.is_woken());
        assert!(events.open() == 0 && events.subscribe(None, true).is_none());
    }
}
