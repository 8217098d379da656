//! The threads that sync directories: `sync-N` opens a directory and supervises the other threads
//! that work for it.
//!
//! It decides nothing about files. A problem of one directory does not affect the others: that
//! directory is reopened.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::Scope;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use rustix::event::{EventfdFlags, eventfd};

use super::control::Control;
use super::report::Reporter;
use super::threads::{Shared, crashed, scoped};
use crate::backoff::Backoff;
use crate::client::HubClient;
use crate::clock;
use crate::config::watch::WatchSettings;
use crate::config::{Settings, limits};
use crate::error::{Error, Kind, Result};
use crate::files::debounce::Hint;
use crate::files::directory::{Directory, DirectoryContext, OpenedDirectory, ProcessWide};
use crate::files::engine::Direction;
use crate::files::engine::traits::CallResult;
use crate::files::events::Event;
use crate::files::repointed;
use crate::files::stats::Notification;
use crate::files::status::{DirectoryCondition, StatusFiles};
use crate::files::trash;
use crate::files::tree::marker;
use crate::files::watch::debouncer::Debouncer;
use crate::files::watch::{self, Watch, WatchCounters};

/// The longest pause before a directory that cannot be used is opened again.
const MAX_REOPEN_PAUSE: Duration = Duration::from_secs(30);
/// How often the hub is polled while its event stream is open.
const POLL_INTERVAL_WITH_STREAM: Duration = Duration::from_secs(600);
/// Between two polls for changes that the hub has announced.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// After a poll that failed, at least.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long changes are collected before they are reported together.
const CHANGES_WAIT: Duration = Duration::from_millis(100);
/// Minimum interval between two unscheduled full rescans.
const MIN_RESCAN_INTERVAL: Duration = Duration::from_secs(5);
/// How long a second hint is awaited: the old and the new place of a renamed file are reported one
/// after the other.
const FOLLOW_UP_WAIT: Duration = Duration::from_millis(20);
const FOLLOWS_MOST: Duration = Duration::from_secs(1);
/// Hints after which the workers are woken, although more follow: for each path, they would examine one at a time.
const HINTS_BETWEEN_WAKEUPS: usize = 32;
/// How often it is checked where a link leads that names a directory.
const LINK_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the trash is cleaned.
const TRASH_SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Receives the events of a directory.
pub type NotificationHandler = Arc<dyn Fn(&Notification, &WatchSettings) + Send + Sync>;

/// The supervisor of one directory, before its thread runs.
pub struct Supervisor {
    pub control: Arc<Control>,
    settings: WatchSettings,
    base_dir: PathBuf,
    private: Vec<PathBuf>,
    process: Arc<ProcessWide>,
    hub: Arc<HubClient>,
    poll_interval: Duration,
    heard: Receiver<()>,
    shared: Arc<Shared>,
    news: NotificationHandler,
}

impl Supervisor {
    pub fn new(
        settings: &Settings,
        watch: &WatchSettings,
        hub: Arc<HubClient>,
        (shared, process): (Arc<Shared>, Arc<ProcessWide>),
        news: NotificationHandler,
    ) -> Supervisor {
        let (control, heard) = Control::new();
        Supervisor {
            control: Arc::new(control),
            settings: watch.clone(),
            base_dir: settings.base_dir.clone(),
            private: private(settings),
            process,
            hub,
            poll_interval: settings.poll_interval,
            heard,
            shared,
            news,
        }
    }

    /// Opens the directory, works, and reopens it after a failure, until the client ends.
    pub fn run(self) -> Result<()> {
        let server = self.hub.server_url().to_string();
        let context = DirectoryContext {
            base_dir: &self.base_dir,
            server: &server,
            private: &self.private,
            process: &self.process,
            events: &self.control.events,
        };
        let files = StatusFiles::beside(context.state_file(&self.settings));
        let mut reporter = Reporter::new(files.clone(), &self.settings, &server);
        reporter.starts();
        let mut backoff = Backoff::new(MAX_REOPEN_PAUSE);
        while !self.shared.is_stopping() {
            let opened = adopt(&files, &self.base_dir, &self.settings)
                .and_then(|()| Directory::open(&context, &self.settings, self.hub.clone(), false));
            let began = clock::monotonic();
            let kept = match opened {
                Ok(OpenedDirectory::Ready(directory)) => self.keep(&directory, &mut reporter),
                Ok(OpenedDirectory::Held(why)) => Err(marker::held(&self.settings.path, &why)),
                Err(e) => Err(e),
            };
            if began.elapsed() > MAX_REOPEN_PAUSE {
                backoff.reset();
            }
            let Some(e) = kept.err().filter(|_| !self.shared.is_stopping()) else {
                continue;
            };
            let condition = match e.kind {
                _ if marker::is_held(&e) => DirectoryCondition::Held,
                // the kind of the server is not known yet
                Kind::Unreachable => DirectoryCondition::Stuck,
                _ => DirectoryCondition::Failed,
            };
            if reporter.trouble(condition, &e) {
                log::warn!("{e}");
            }
            self.await_reopening(backoff.next(uuid::Uuid::new_v4().as_u64_pair().0));
        }
        Ok(())
    }

    /// Waits until a directory that cannot be used is opened again: after a pause, on a request (a
    /// user may have adopted it), or when the server's event stream opens or is refused.
    fn await_reopening(&self, pause: Duration) {
        let end = clock::monotonic() + pause;
        while !self.shared.is_stopping() {
            let now = clock::monotonic();
            let left = end.saturating_duration_since(now);
            match self.control.events.next(left, now) {
                Event::Approve | Event::Adopt | Event::Remote | Event::Clock => return,
                // of the work that has ended
                Event::Local | Event::Rescan | Event::Stop => {}
            }
        }
    }

    /// Keeps an open directory in sync until it fails or the client ends.
    fn keep(&self, d: &Directory, reporter: &mut Reporter) -> Result<()> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::io("make an eventfd", &e.into()))?;
        let (hints, hinted) = bounded(limits::CLIENT_EVENTS);
        let (batches, batches_read) = bounded(limits::EVENT_BATCHES);
        let counters = WatchCounters::default();
        log::info!(
            "syncing dir={} hub={}/{}",
            self.settings.path.display(),
            self.hub.url(),
            self.settings.remote
        );
        reporter.works();
        // pending deletes wait for those that are not reported yet
        let removed = || d.engine.deleted_nearby();
        let stopped = || d.wakeup.is_stopped();
        let rules = |hint: &Hint| watch::read_rules(&d.tree, hint, wake.as_fd());
        let ended = std::thread::scope(|scope| {
            let (quiet, rescan) = (self.settings.debounce, self.settings.rescan);
            let watch = Watch {
                tree: &d.tree,
                rescan,
                counters: &counters,
                removed: &removed,
                stopped: &stopped,
            };
            let debouncer = Debouncer {
                quiet,
                rescan,
                hinted: &rules,
            };
            // whatever happens in here, all threads are told to end
            let started = (|| {
                let (wake, hints) = (&wake, hints.clone());
                let failed = |e| d.fail(e);
                scoped(scope, "inotify", failed, move || {
                    if let Err(e) = watch.run(wake.as_fd(), &batches) {
                        d.fail(e);
                    }
                })?;
                scoped(scope, "debounce", failed, move || {
                    debouncer.run(&batches_read, &hints)
                })?;
                scoped(scope, "rescan", failed, move || rescan_hinted(d, &hinted))?;
                scoped(scope, "feed", failed, move || self.follow(scope, d))?;
                start_workers(scope, d)
            })();
            let oversee = AssertUnwindSafe(|| self.oversee(d, &counters, reporter, &hints));
            if started.is_ok() && catch_unwind(oversee).is_err() {
                d.fail(crashed("sync"));
            }
            drop(hints);
            d.wakeup.stop();
            // each thread ends after those that send to it
            let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
            started
        });
        for news in reporter.stopped(d) {
            (self.news)(&news, &self.settings);
        }
        ended?;
        d.fatal().map_or(Ok(()), Err)
    }

    /// The loop of a directory: handles whatever happens to it, makes waiting paths pending, and
    /// writes the status whenever it changes. Other threads scan, poll and transfer.
    fn oversee(
        &self,
        d: &Directory,
        counters: &WatchCounters,
        reporter: &mut Reporter,
        hints: &Sender<Hint>,
    ) {
        let events = &self.control.events;
        // requests from before
        self.control.asked();
        let mut next_scan = clock::monotonic();
        let (mut next, mut gather) = (Duration::ZERO, next_scan);
        loop {
            match events.next(next, gather) {
                Event::Stop if d.wakeup.is_stopped() || self.shared.is_stopping() => return,
                Event::Approve => reporter.approve(d),
                Event::Adopt if reporter.files().adoption() => {
                    let dir = self.settings.path.display();
                    let what = format!("adopting the directory dir={dir}");
                    // it is opened again at once
                    self.control.asked();
                    return d.fail(Error::new(Kind::Failed, what));
                }
                Event::Local | Event::Remote | Event::Rescan | Event::Clock => {}
                // the one was of an earlier opening, the other is answered already
                Event::Stop | Event::Adopt => {}
            }
            for news in reporter.report(d, counters, self.control.refused()) {
                (self.news)(&news, &self.settings);
            }
            if d.take_feed_wanted() {
                self.control.poll();
            }
            next = d.wake();
            if d.tree.root().has_another_name() {
                // no event reports that a link leads elsewhere
                if let Err(fault) = d.tree.check() {
                    return d.rescan_failed(fault);
                }
                next = next.min(LINK_CHECK_INTERVAL);
            }
            let now = clock::monotonic();
            if d.wants_rescan() {
                if now >= next_scan && hints.try_send(Hint::Tree(String::new())).is_ok() {
                    d.take_rescan_wanted();
                    next_scan = now + MIN_RESCAN_INTERVAL;
                }
                next = next.min(MIN_RESCAN_INTERVAL);
            }
            gather = now + CHANGES_WAIT;
        }
    }

    /// Thread `feed`: fetches new changes from the hub.
    fn follow<'scope>(&self, scope: &'scope Scope<'scope, '_>, d: &'scope Directory) {
        let mut next = clock::monotonic();
        let mut last = None;
        loop {
            if self.control.take_opened() {
                d.link.try_soon();
                d.wake_now();
                next = clock::monotonic();
            }
            if clock::monotonic() >= next && d.link.pause().is_zero() && d.feed_pause().is_zero() {
                last = Some(clock::monotonic());
                let usual = if d.feed().is_err() {
                    // later if the link pauses; the stream does not say when the hub can answer again
                    RETRY_INTERVAL
                } else if self.control.is_listening() {
                    POLL_INTERVAL_WITH_STREAM
                } else {
                    self.poll_interval
                };
                next = clock::monotonic() + d.feed_interval(usual);
                start_early_download(scope, d);
            }
            let pause = next
                .saturating_duration_since(clock::monotonic())
                .max(d.link.pause())
                .max(d.feed_pause());
            select! {
                // at once after a pause, and then once for all changes of a moment
                recv(self.heard) -> _ => next = last.map_or(next, |last| last + MIN_POLL_INTERVAL),
                recv(d.wakeup.stopped()) -> _ => return,
                default(pause) => {}
            }
        }
    }
}

/// Threads `upload-1` and `download-1`, which start more while there is work for them.
pub fn start_workers<'scope>(scope: &'scope Scope<'scope, '_>, d: &'scope Directory) -> Result<()> {
    start_worker(scope, d, Direction::Up)?;
    start_worker(scope, d, Direction::Down)
}

fn start_worker<'scope>(
    scope: &'scope Scope<'scope, '_>,
    d: &'scope Directory,
    way: Direction,
) -> Result<()> {
    let Some(n) = d.add_worker(way) else {
        return Ok(());
    };
    let name = match way {
        Direction::Up => "upload",
        Direction::Down => "download",
    };
    let work = move || d.work(way, &|way| start_worker(scope, d, way));
    let failed = move |e| {
        d.worker_ended(way);
        d.fail(e)
    };
    scoped(scope, &format!("{name}-{n}"), failed, work)
        .map(drop)
        .inspect_err(|_| d.worker_ended(way))
}

/// Thread `early`: downloads files that other machines are still sending. Without it they are downloaded later.
fn start_early_download<'scope>(scope: &'scope Scope<'scope, '_>, d: &'scope Directory) {
    let Some(work) = d.early_work() else {
        return;
    };
    let failed = |e| d.fail(e);
    if let Err(e) = scoped(scope, "early", failed, move || work.run(d.wakeup.stopped())) {
        log::debug!("{e}");
    }
}

/// Thread `rescan`: rescans the places that the hints name.
fn rescan_hinted(d: &Directory, hinted: &Receiver<Hint>) {
    let mut first = d.clear_left_over();
    let mut next_trash = clock::monotonic();
    loop {
        if clock::monotonic() >= next_trash {
            next_trash = clock::monotonic() + TRASH_SWEEP_INTERVAL;
            first = first.and_then(|()| trash::expire(&d.tree, &d.state));
        }
        match first {
            Ok(()) => {}
            Err(fault) => d.rescan_failed(fault),
        }
        if d.wakeup.is_stopped() {
            return;
        }
        first = match hinted.recv_timeout(next_trash.saturating_duration_since(clock::monotonic()))
        {
            Ok(hint) => rescan_hints(d, hint, hinted),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
    }
}

/// Rescans the place of a hint, and those of the hints right after it. Deletes wait until all are
/// done, because half a rename looks like a delete.
fn rescan_hints(d: &Directory, hint: Hint, hinted: &Receiver<Hint>) -> CallResult<()> {
    let (rescan, end) = (d.engine.begin_rescan(), clock::monotonic() + FOLLOWS_MOST);
    let mut next = Some(hint);
    let (mut rescanned, mut hints) = (Ok(()), 0);
    while let Some(hint) = next.filter(|_| rescanned.is_ok()) {
        rescanned = d.rescan(&hint);
        hints += 1;
        if hints % HINTS_BETWEEN_WAKEUPS == 0 {
            d.wakeup.wake();
        }
        let pause = if matches!(hint, Hint::Path(_)) {
            Duration::ZERO
        } else {
            FOLLOW_UP_WAIT
        };
        next = if clock::monotonic() < end {
            hinted.recv_timeout(pause).ok()
        } else {
            None
        };
    }
    drop(rescan);
    d.wakeup.wake();
    rescanned
}

/// Forgets the last versions in sync, if a user has requested that; not of a directory that another
/// process has open, which does so itself.
pub fn adopt(files: &StatusFiles, base_dir: &Path, watch: &WatchSettings) -> Result<()> {
    if files.adoption() && marker::holder(&watch.path).is_none() {
        repointed::adopt(base_dir, watch);
        files.forget_state()?;
        files.answered("adopt");
    }
    Ok(())
}

/// Paths that are never synced: the data of this client and of a hub, and the login file.
pub fn private(settings: &Settings) -> Vec<PathBuf> {
    let login = crate::login::file();
    [
        Some(settings.base_dir.clone()),
        Some(settings.hub.data_dir.clone()),
        login,
    ]
    .into_iter()
    .flatten()
    .collect()
}
