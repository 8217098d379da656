//! Thread `debounce`: turns what `inotify` has seen into hints, once the path is quiet.
//!
//! It receives while the channel of hints is full: `inotify` never waits, and a busy directory
//! becomes one hint. When a path is quiet is decided in [`crate::files::debounce`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender};

use crate::clock;
use crate::config::limits;
use crate::files::debounce::{ChangeKind, Debounce, Hint};

/// The events of one read of `inotify`.
#[derive(Debug)]
pub struct WatchEvents {
    /// The time of the read: both halves of a rename have the same time.
    pub at: Instant,
    pub seen: Vec<WatchEvent>,
}

/// One event that `inotify` has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    Path(String, ChangeKind),
    /// A rescan that does not wait: events were lost, or not all is watched.
    Rescan(Hint),
}

/// See the module documentation.
pub struct Debouncer<'a> {
    /// The quiet time.
    pub quiet: Duration,
    /// The interval between two full rescans.
    pub rescan: Duration,
    /// Called before a hint is sent.
    pub hinted: &'a (dyn Fn(&Hint) + Sync),
}

/// Hints that wait for room in the channel. More than [`limits::BUSY_PATHS`] become one rescan.
#[derive(Default)]
struct ReadyHints(VecDeque<Hint>);

impl ReadyHints {
    fn push(&mut self, hint: Hint) {
        let all = Hint::Tree(String::new());
        if self.0.len() >= limits::BUSY_PATHS {
            self.0.clear();
            self.0.push_back(all);
        } else if self.0.back() != Some(&hint) && self.0.front() != Some(&all) {
            self.0.push_back(hint);
        }
    }
}

impl Debouncer<'_> {
    /// Runs until one of the channels is closed.
    pub fn run(&self, batches: &Receiver<WatchEvents>, hints: &Sender<Hint>) {
        let began = clock::monotonic();
        let since = |at: Instant| at.saturating_duration_since(began);
        let (mut debounce, mut ready) = (Debounce::new(self.quiet), ReadyHints::default());
        let mut next_rescan = self.rescan;
        loop {
            let now = since(clock::monotonic());
            // while hints wait, the debounce collects: a busy directory becomes one hint
            if ready.0.is_empty()
                && let Some(hint) = debounce.due(now)
            {
                ready.push(hint);
            }
            if now >= next_rescan {
                next_rescan = now + self.rescan;
                ready.push(Hint::Tree(String::new()));
            }
            let mut next = next_rescan;
            let mut select = Select::new();
            let from_inotify = select.recv(batches);
            if ready.0.is_empty() {
                next = next.min(debounce.next().unwrap_or(Duration::MAX));
            } else {
                select.send(hints);
            }
            let Ok(operation) = select.select_timeout(next.saturating_sub(now)) else {
                continue;
            };
            if operation.index() != from_inotify {
                let Some(hint) = ready.0.pop_front() else {
                    continue;
                };
                (self.hinted)(&hint);
                if operation.send(hints, hint).is_err() {
                    return;
                }
                continue;
            }
            let Ok(WatchEvents { at, seen }) = operation.recv(batches) else {
                return;
            };
            for seen in seen {
                match seen {
                    WatchEvent::Path(path, what) => {
                        if let Some(hint) = debounce.happened(&path, what, since(at)) {
                            ready.push(hint);
                        }
                    }
                    WatchEvent::Rescan(hint) => ready.push(hint),
                }
            }
        }
    }
}
