//! Wakes the workers of a directory, and ends them.
//!
//! A wake-up is an entry in a channel with room for one: it waits there until a worker looks for
//! work, so none is lost. One worker in each direction is woken at a time, and wakes the next one if
//! there is more work than it can take; otherwise all of them would run for each work item. It
//! starts no thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};

use super::engine::Direction;
use super::events::{Event, EventQueue};
use crate::clock;
use crate::config::limits;

/// See the module documentation.
#[derive(Debug)]
pub struct Wakeup {
    up: (Sender<()>, Receiver<()>),
    down: (Sender<()>, Receiver<()>),
    events: Arc<EventQueue>,
    /// Dropped to end all waits.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
}

impl Wakeup {
    /// `events`: those of the loop that supervises the directory.
    pub fn new(events: Arc<EventQueue>) -> Wakeup {
        let (stop, stopped) = bounded(0);
        Wakeup {
            up: bounded(limits::WAKEUPS),
            down: bounded(limits::WAKEUPS),
            events,
            stop: Mutex::new(Some(stop)),
            stopped,
        }
    }

    /// Wakes one worker in each direction: there may be work.
    pub fn wake(&self) {
        self.more(Direction::Up);
        self.more(Direction::Down);
        self.done();
    }

    /// Wakes one more worker in this direction: there is more work.
    pub fn more(&self, way: Direction) {
        // a worker that was woken before has not looked for work yet
        let _ = self.of(way).0.try_send(());
    }

    /// Reports that work was done.
    pub fn done(&self) {
        self.events.send(Event::Local);
    }

    /// Ends all waits.
    pub fn stop(&self) {
        self.stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.events.send(Event::Stop);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Closed when the work ends.
    pub fn stopped(&self) -> &Receiver<()> {
        &self.stopped
    }

    /// A worker waits for a wake-up, up to `time`, or for the end. Returns whether it was woken.
    pub fn wait(&self, way: Direction, time: Duration) -> bool {
        select! {
            recv(self.of(way).1) -> woken => woken.is_ok(),
            recv(self.stopped) -> _ => true,
            default(time) => false,
        }
    }

    /// Without a loop that supervises the directory: waits until work was done, up to `time`. `false`: stop.
    pub fn wait_until_done(&self, time: Duration) -> bool {
        self.events.next(time, clock::monotonic());
        !self.is_stopped()
    }

    /// Waits for some time, unless stopped. `false`: stop.
    pub fn pause(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }

    fn of(&self, way: Direction) -> &(Sender<()>, Receiver<()>) {
        match way {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // threads of a test
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn no_wake_up_is_lost() {
        let (work, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let wakeup = Wakeup::new(Arc::default());
        let take = || {
            work.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
                .is_ok()
        };
        std::thread::scope(|scope| {
            for way in [
                Direction::Up,
                Direction::Down,
                Direction::Up,
                Direction::Down,
            ] {
                let (wakeup, done, take) = (&wakeup, &done, &take);
                scope.spawn(move || {
                    while !wakeup.is_stopped() {
                        if take() {
                            done.fetch_add(1, SeqCst);
                        } else {
                            assert!(wakeup.wait(way, LONG), "a wake-up was lost");
                        }
                    }
                });
            }
            for round in 1..=100 {
                work.fetch_add(7, SeqCst);
                if round % 2 == 0 {
                    wakeup.wake()
                } else {
                    wakeup.more(Direction::Down)
                }
                while done.load(SeqCst) < round * 7 {
                    std::thread::yield_now();
                }
            }
            assert!(wakeup.pause(Duration::ZERO));
            wakeup.stop();
        });
        assert!(wakeup.is_stopped() && !wakeup.pause(LONG));
    }
}
